/* audit_paper: what the paper's printed numbers say of each other. Nothing else goes in: the tables
   below are copied from Zabihi et al. with the place beside them, and all the rest is computed.

       build/audit_paper

   A line begins with "agrees", "DIFFERS" or, where the paper claims nothing, "so". A printed number
   stands for every value that rounds to it; it differs when none of them will do.
   Last line: "34 agree, 15 differ". */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"

#include <math.h>
#include <stdarg.h>

enum { FULL, CROP, RESNET = 0, SWA, QNET };
static const char *const input_name[2] = {"full", "cropped"};
static const char *const model_name[3] = {"ResNet", "ResNetSWA", "Q-Net"};

/* Table 1, image level, per cent: accuracy, sensitivity, specificity, F1, then their four STDs. */
static const double table1[2][3][8] = {
    {{68.19, 67.46, 69.00, 68.21, .24, 1.24, 1.20, .26},
     {70.36, 70.44, 70.26, 70.38, .20, .39, 1.20, .21},
     {75.47, 70.36, 80.91, 75.43, .80, 1.77, 1.54, .79}},
    {{68.46, 69.62, 67.16, 68.47, .26, 1.28, 1.39, .29},
     {71.17, 77.55, 64.06, 71.01, .13, .12, .68, .14},
     {80.37, 82.43, 78.16, 80.35, .70, 1.76, 1.14, .70}}};
/* Table 2: two models, their AUCs, standard error of the difference, z, p, the units of the last
   digits of z and p, and stars. */
typedef struct pair {
    int model1, model2;
    double auc1, auc2, se, z, p, z_unit, p_unit;
    const char *stars;
} pair;
static const pair table2[2][3] = {
    {{SWA, RESNET, .763, .747, .0083, 1.928, .0589, 1e-3, 1e-4, "ns"},
     {QNET, RESNET, .851, .747, .0087, 11.954, 6.2e-33, 1e-3, 1e-34, "****"},
     {QNET, SWA, .851, .763, .0084, 10.476, 1.1e-25, 1e-3, 1e-26, "****"}},
    {{SWA, RESNET, .766, .749, .0086, 1.9767, .0480, 1e-4, 1e-4, "*"},
     {QNET, RESNET, .866, .749, .0094, 12.447, 1.5e-35, 1e-3, 1e-36, "****"},
     {QNET, SWA, .866, .766, .0089, 11.236, 2.7e-29, 1e-3, 1e-30, "****"}}};
/* Table 3, scan level, per cent: accuracy, F1, sensitivity, specificity. */
static const double table3[2][3][4] = {
    {{75.79, 75.78, 77.55, 73.91}, {76.89, 76.84, 80.43, 73.46}, {80.00, 79.99, 81.63, 78.26}},
    {{76.84, 76.83, 77.55, 76.07}, {81.05, 80.77, 81.83, 79.56}, {83.16, 83.14, 85.71, 80.43}}};
/* "Performance Evaluation from 'Modeling' Perspective", "Scan-Level Classification": by how much
   Q-Net's accuracy is above that of ResNet and ResNetSWA; Tables 1 and 3. */
static const double gains[2][2][2] = {{{7.28, 5.17}, {11.91, 9.2}}, {{4.21, 3.11}, {6.23, 2.11}}};
static const double scan_auc[2] = {.860, .875}; /* Fig. 8, Q-Net */

static FILE *out;
static int agree, differ;
static int right_of[2][3]; /* scans that Table 3's models get right */

/* ok 1: the paper agrees, 0: it differs, -1: no claim of the paper's. */
static void say(int ok, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fputs(ok < 0 ? "so       " : ok ? "agrees   " : "DIFFERS  ", out);
    vfprintf(out, format, list);
    fputc('\n', out);
    va_end(list);
    agree += ok == 1;
    differ += ok == 0;
}
static int rounds_to(double value, double printed, double unit)
{
    return fabs(value - printed) <= unit * (.5 + 1e-6);
}

static void cohort(void)
{
    fprintf(out, "Cohort and method (\"Dataset\", \"The Q-Net Framework\", \"Discussion\")\n");
    say(52 + 47 == 99 && 67 + 32 == 99, "52 HH + 47 HC = 67 men + 32 women = 99 individuals.");
    say(10 * 10 == 99, "10 folds of 10 individuals are 100, not 99.");
    say(5 + 5 * 5 == 30, "TE 1 = 5 ms and five steps of 5 ms give TE 6 = 30 ms.");
    say(rounds_to(220. / 512, .43, .01), "220 mm / 512 = %.4f mm, printed 0.43.", 220. / 512);
    say(1 + 8 * 2 + 1 == 18, "One 7x7, 8 ResBlocks of two 3x3, one FC: 18 layers.");
    say(24 + 27 == 52, "Lee et al. are said to have 52 individuals: 24 + 27 = 51.");
}

/* F1 of HH, of HC, their plain mean and their mean by support, in per cent, when a share q of all
   items is HH. */
static void f1_of(double q, double sensitivity, double specificity, double f1[4])
{
    double tp = q * sensitivity, tn = (1 - q) * specificity, wrong = 100 - tp - tn;
    f1[0] = 200 * tp / (2 * tp + wrong);
    f1[1] = 200 * tn / (2 * tn + wrong);
    f1[2] = (f1[0] + f1[1]) / 2;
    f1[3] = q * f1[0] + (1 - q) * f1[1];
}

static void image_level(void)
{
    double share[2][2] = {{0, 1}, {0, 1}}; /* that all ResNets, both Q-Nets allow: low, high */
    int input, model, k, i, fits[4] = {0, 0, 0, 0};
    fprintf(out, "\nTable 1, image level (means over repeats of the same slices)\n");
    for (input = 0; input < 2; input++) {
        for (model = 0; model < 3; model++) {
            const double *t = table1[input][model];
            double low = 1, high = 0, least = 100, f1[2][4], *both = share[model == QNET];
            /* accuracy = q sensitivity + (1 - q) specificity, where each is rounded. */
            for (k = 0; k < 8; k++) {
                double a = t[0] + (k & 1 ? .005 : -.005), s = t[1] + (k & 2 ? .005 : -.005);
                double p = t[2] + (k & 4 ? .005 : -.005), q = (a - p) / (s - p);
                low = fmin(low, q);
                high = fmax(high, q);
            }
            both[0] = fmax(both[0], low);
            both[1] = fmin(both[1], high);
            f1_of(low, t[1], t[2], f1[0]);
            f1_of(high, t[1], t[2], f1[1]);
            for (k = 0; k < 4; k++) /* half a unit of F1, and as much again of the other two */
                fits[k] += t[3] > fmin(f1[0][k], f1[1][k]) - .01 &&
                           t[3] < fmax(f1[0][k], f1[1][k]) + .01;
            /* std(accuracy) >= |q std(sensitivity) - (1 - q) std(specificity)|, Cauchy-Schwarz. */
            for (i = 0; i <= 100; i++) {
                double q = low + (high - low) * i / 100;
                least = fmin(least, fabs(q * t[5] - (1 - q) * t[6]) - .005);
            }
            say(t[4] + .005 >= least, "%s %s: the share of HH is %.3f-%.3f; the STD of accuracy, "
                "%.2f, can't be below %.2f.", input_name[input], model_name[model], low, high, t[4],
                fmax(least, 0));
        }
    }
    say(share[0][0] <= share[1][1] && share[1][0] <= share[0][1], "Share of HH for all ResNets "
        "%.4f-%.4f, Q-Nets %.4f-%.4f: paired tests need the same slices.", share[0][0], share[0][1],
        share[1][0], share[1][1]);
    say(-1, "F1 fits as HH's %d, HC's %d, plain mean %d, mean by support %d times of 6.", fits[0],
        fits[1], fits[2], fits[3]);
}

/* Standard error of an area (Hanley & McNeil 1982). */
static double auc_se(double a, double positives, double negatives)
{
    double q1 = a / (2 - a), q2 = 2 * a * a / (1 + a);
    return sqrt((a * (1 - a) + (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a)) /
                (positives * negatives));
}

static void delong(void)
{
    double slices[2] = {1e9, 0};
    int input, row, r, quotients = 0;
    fprintf(out, "\nTable 2, DeLong\n");
    for (input = 0; input < 2; input++) {
        for (row = 0; row < 3; row++) {
            const pair *t = &table2[input][row];
            char who[64];
            double d = t->auc1 - t->auc2, z = d / t->se, p = 2 * qnet_normal_cdf(-t->z);
            double low = 2 * qnet_normal_cdf(-(d + .001) / (t->se - .00005));
            double high = 2 * qnet_normal_cdf(-(d - .001) / (t->se + .00005));
            int same = rounds_to(z, t->z, t->z_unit);
            sprintf(who, "%s, %s - %s", input_name[input], model_name[t->model1],
                    model_name[t->model2]);
            quotients += same;
            say(same, "%s: z = %.3f / %.4f = %.4f, printed %g.", who, d, t->se, z, t->z);
            say(rounds_to(p, t->p, t->p_unit), "%s: p of that z = %.3g, printed %.3g.", who, p,
                t->p);
            say(strcmp(qnet_stars(t->p), t->stars) == 0, "%s: stars %s; AUCs and error as rounded "
                "allow %.2g (%s) to %.2g (%s).", who, t->stars, low, qnet_stars(low), high,
                qnet_stars(high));
            if (z > 1.96)
                say(-1, "... p < .05 is lost if a scan's slices count as 1/%.3g each.",
                    pow(z / qnet_normal_quantile(.975), 2));
            /* With correlation r of the two areas, se^2 = 2 (1 - r) se1^2; 49 + 46 scans. */
            for (r = 0; r < 2; r++) {
                double one = auc_se((t->auc1 + t->auc2) / 2, 4900, 4600);
                double n = 100 * (r ? .4 : 2.) * one * one / (t->se * t->se);
                slices[0] = fmin(slices[0], n);
                slices[1] = fmax(slices[1], n);
            }
        }
    }
    say(-1, "%d of 6 z are, to the last digit, quotients of the rounded AUCs and errors.",
        quotients);
    say(-1, "The errors fit %.0f (areas correlated by .8) to %.0f (0) slices a scan.", slices[0],
        slices[1]);
}

/* Table 3's four numbers for counts, F1 by support; and F1 of HH, of HC and their plain mean. */
static void row_of(int hh_right, int hhs, int hc_right, int hcs, int positive, double row[7])
{
    qnet_confusion c;
    qnet_metrics m;
    c.tp = (size_t)hh_right, c.fn = (size_t)(hhs - hh_right);
    c.tn = (size_t)hc_right, c.fp = (size_t)(hcs - hc_right);
    m = qnet_metrics_of(c);
    row[0] = 100 * m.accuracy, row[1] = 100 * m.f1;
    row[2] = 100 * (positive == QNET_HH ? m.sensitivity : m.specificity);
    row[3] = 100 * (positive == QNET_HH ? m.specificity : m.sensitivity);
    row[4] = 100 * m.f1_hh, row[5] = 100 * m.f1_hc, row[6] = 100 * m.f1_macro;
}

static void scan_level(void)
{
    int input, model, hhs, hcs, a, b, k, positive, fits[7] = {0, 0, 0, 0, 0, 0, 0};
    double row[7], nearest_f1[2][3];
    fprintf(out, "\nTable 3, scan level\n");
    for (input = 0; input < 2; input++) {
        for (model = 0; model < 3; model++) {
            const double *t = table3[input][model];
            int found = 0, best[5] = {0, 0, 0, 0, 0};
            double least = 1e9, distance;
            for (hhs = 1; hhs <= 52; hhs++) { /* F1 is not looked at: its definition is open */
                for (hcs = 1; hcs <= 47; hcs++) {
                    a = (int)floor(t[2] * hhs / 100 + .5);
                    b = (int)floor(t[3] * hcs / 100 + .5);
                    row_of(a, hhs, b, hcs, QNET_HH, row);
                    if (!rounds_to(row[0], t[0], .01) || !rounds_to(row[2], t[2], .01) ||
                        !rounds_to(row[3], t[3], .01)) continue;
                    found++;
                    best[0] = a, best[1] = hhs, best[2] = b, best[3] = hcs, best[4] = QNET_HH;
                }
            }
            say(found > 0, "%s %s: %d sets of counts fit.", input_name[input], model_name[model],
                found);
            /* If none: the counts of 49 HH and 46 HC that come nearest, either class positive. */
            for (positive = 0; positive < 2 && !found; positive++)
                for (a = 0; a <= 49; a++)
                    for (b = 0; b <= 46; b++) {
                        row_of(a, 49, b, 46, positive, row);
                        for (k = 0, distance = 0; k < 4; k++) distance += fabs(row[k] - t[k]);
                        if (distance >= least) continue;
                        least = distance;
                        best[0] = a, best[1] = 49, best[2] = b, best[3] = 46, best[4] = positive;
                    }
            row_of(best[0], best[1], best[2], best[3], best[4], row);
            for (k = 0; k < 7 && found; k++) fits[k] += rounds_to(row[k], t[1], .01);
            right_of[input][model] = best[0] + best[2];
            nearest_f1[input][model] = row[1];
            say(-1, "... %s: %d of %d HH, %d of %d HC, positive %s: %.2f %.2f %.2f %.2f, printed "
                "%.2f %.2f %.2f %.2f.", found ? "counts" : "nearest", best[0], best[1], best[2],
                best[3], best[4] == QNET_HH ? "HH" : "HC", row[0], row[1], row[2], row[3], t[0],
                t[1], t[2], t[3]);
        }
    }
    say(-1, "F1 fits as HH's %d, HC's %d, plain mean %d, mean by support %d times of the rows with "
        "counts.", fits[4], fits[5], fits[6], fits[1]);
    if (rounds_to(nearest_f1[CROP][RESNET], table3[FULL][SWA][1], .01) &&
        rounds_to(nearest_f1[FULL][SWA], table3[CROP][RESNET][1], .01))
        say(-1, "F1 of full ResNetSWA and cropped ResNet fit their counts if they are exchanged.");
}

static void sentences(void)
{
    static const char *const column[4] = {"accuracy", "sensitivity", "specificity", "F1"};
    int table, input, model, k, n;
    fprintf(out, "\nSentences (\"Results\", \"Discussion\")\n");
    for (table = 0; table < 2; table++)
        for (input = 0; input < 2; input++)
            for (model = 0; model < 2; model++) {
                double qnet = table ? table3[input][QNET][0] : table1[input][QNET][0];
                double other = table ? table3[input][model][0] : table1[input][model][0];
                say(rounds_to(qnet - other, gains[table][input][model], .01),
                    "Table %d, %s: Q-Net - %s = %.2f, printed %.2f.", table ? 3 : 1,
                    input_name[input], model_name[model], qnet - other, gains[table][input][model]);
            }
    for (input = 0; input < 2; input++)
        for (model = SWA; model <= QNET; model++)
            for (k = 0; k < 4; k++)
                if (table1[input][model][k] < table1[input][model - 1][k])
                    say(0, "Table 1, %s: %s is not superior to %s in %s.", input_name[input],
                        model_name[model], model_name[model - 1], column[k]);
    for (k = 0, n = 0; k < 4; k++)
        for (model = 0; model < 3; model++)
            n += (table1[CROP][model][k] > table1[FULL][model][k]) == (k != 2);
    say(n == 12, "Table 1: cropping improves everything but specificity.");
    say(fabs(table1[CROP][SWA][1] - table1[CROP][SWA][2]) < 5, "The \"same performance in both "
        "classes\": ResNetSWA, cropped, %.2f and %.2f.", table1[CROP][SWA][1],
        table1[CROP][SWA][2]);

    fprintf(out, "\nUncertainty of the scan level, 49 HH and 46 HC\n");
    for (input = 0; input < 2; input++) {
        double se = 1.96 * auc_se(scan_auc[input], 49, 46);
        qnet_interval ci = qnet_wilson((size_t)right_of[input][QNET], 95, .95);
        say(-1, "%s: Q-Net's accuracy %.2f, 95 %% %.1f-%.1f; AUC %.3f, 95 %% %.3f-%.3f.",
            input_name[input], table3[input][QNET][0], 100 * ci.low, 100 * ci.high, scan_auc[input],
            scan_auc[input] - se, scan_auc[input] + se);
        for (model = 0; model < 2; model++) {
            /* McNemar's exact p is smallest when none of the others goes the other way. */
            n = right_of[input][QNET] - right_of[input][model];
            say(-1, "%s: Q-Net gets %d scans more right than %s, p %.2g at best (McNemar).",
                input_name[input], n, model_name[model], pow(2, 1 - n));
        }
    }
}

int main(int argc, char **argv)
{
    const int bad = usage(argc, argv, 0, 0, "audit_paper\n\nWhat the paper's printed numbers say of each other.");
    if (bad >= 0) return bad;
    if (out == NULL) out = stdout; /* tests/test_audit.c reads it from a file */
    cohort();
    image_level();
    delong();
    scan_level();
    sentences();
    fprintf(out, "\n%d agree, %d differ\n", agree, differ);
    return 0;
}
