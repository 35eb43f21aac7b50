/* examples/audit_paper.c: what it says, against numbers that SciPy and a search of all counts gave
   (scipy.stats.norm, statsmodels.stats.proportion.proportion_confint). */
#define main audit_main
#include "audit_paper.c"
#undef main
#include "test.h"

static char text[16384];

static void test_the_report(void)
{
    size_t n;
    char *line, *next;
    int agrees = 0, differs = 0, sos = 0;
    static char program[] = "audit_paper";
    char *arguments[] = {program, NULL};
    out = tmpfile();
    CHECK(out != NULL);
    if (out == NULL) return;
    CHECK(audit_main(1, arguments) == 0);
    rewind(out);
    n = fread(text, 1, sizeof text - 1, out);
    text[n] = '\0';
    fclose(out);
    for (line = text; *line; line = next) {
        next = strchr(line, '\n') + 1;
        CHECK(next - line <= 150); /* one sentence */
        agrees += strncmp(line, "agrees   ", 9) == 0;
        differs += strncmp(line, "DIFFERS  ", 9) == 0;
        sos += strncmp(line, "so       ", 9) == 0;
    }
    CHECK(agrees == 34 && agrees == agree && differs == 15 && differs == differ && sos > 10);
    CHECK_CONTAINS(text, "\n34 agree, 15 differ\n");
    /* Table 1 */
    CHECK_CONTAINS(text, "DIFFERS  Share of HH for all ResNets 0.5263-0.5278, Q-Nets 0.5152-0.5166");
    CHECK_CONTAINS(text, "HH's 1, HC's 0, plain mean 0, mean by support 6 times of 6");
    /* Table 2: the one p that is not its z's, and the one whose last digit is not */
    CHECK_CONTAINS(text, "DIFFERS  full, ResNetSWA - ResNet: p of that z = 0.0539, printed 0.0589.");
    CHECK_CONTAINS(text, "DIFFERS  cropped, ResNetSWA - ResNet: p of that z = 0.0481, printed 0.048.");
    CHECK_CONTAINS(text, "agrees   cropped, Q-Net - ResNet: p of that z = 1.45e-35, printed 1.5e-35.");
    CHECK_CONTAINS(text, "full, ResNetSWA - ResNet: stars ns; AUCs and error as rounded allow 0.039 (*) to 0.072 (ns)");
    CHECK_CONTAINS(text, "6 of 6 z are, to the last digit, quotients");
    /* Table 3 */
    CHECK_CONTAINS(text, "counts: 42 of 49 HH, 37 of 46 HC, positive HH: 83.16 83.14 85.71 80.43, "
                         "printed 83.16 83.14 85.71 80.43");
    CHECK_CONTAINS(text, "counts: 40 of 49 HH, 36 of 46 HC");
    CHECK_CONTAINS(text, "counts: 38 of 49 HH, 34 of 46 HC");
    CHECK_CONTAINS(text, "nearest: 36 of 49 HH, 37 of 46 HC, positive HC: 76.84 76.83 80.43 73.47");
    CHECK_CONTAINS(text, "HH's 0, HC's 0, plain mean 0, mean by support 3 times");
    CHECK_CONTAINS(text, "if they are exchanged");
    /* Sentences */
    CHECK_CONTAINS(text, "DIFFERS  Table 1, full: Q-Net - ResNetSWA = 5.11, printed 5.17.");
    CHECK_CONTAINS(text, "DIFFERS  Table 3, cropped: Q-Net - ResNet = 6.32, printed 6.23.");
    CHECK_CONTAINS(text, "83.16, 95 % 74.4-89.4; AUC 0.875, 95 % 0.804-0.946");
    CHECK_CONTAINS(text, "Q-Net gets 2 scans more right than ResNetSWA, p 0.5 at best");
}

/* The helpers that decide, where they should say yes and where no. */
static void test_the_helpers(void)
{
    double f1[4], row[7];
    CHECK(rounds_to(76.835, 76.84, .01) && rounds_to(76.8449, 76.84, .01));
    CHECK(!rounds_to(76.8349, 76.84, .01) && !rounds_to(76.846, 76.84, .01));
    f1_of(49. / 95, 100 * 42. / 49, 100 * 37. / 46, f1);
    row_of(42, 49, 37, 46, QNET_HH, row); /* two ways to the same numbers */
    CHECK_NEAR(f1[3], row[1], 1e-10);
    CHECK_NEAR(f1[0], row[4], 1e-10);
    CHECK_NEAR(f1[1], row[5], 1e-10);
    CHECK_NEAR(f1[2], row[6], 1e-10);
    CHECK_NEAR(row[4], 200 * 42 / (2 * 42 + 16.), 1e-10);
    CHECK_NEAR(row[2], 100 * 42 / 49., 1e-10);
    row_of(42, 49, 37, 46, QNET_HC, row);
    CHECK_NEAR(row[2], 100 * 37 / 46., 1e-10);
    /* At an area of .5 it is the variance of the Mann-Whitney test, (m + n + 1) / 12 m n. */
    CHECK_NEAR(auc_se(.5, 49, 46), sqrt(96 / (12. * 49 * 46)), 1e-12);
    CHECK(auc_se(.875, 49, 46) < auc_se(.860, 49, 46) && auc_se(1, 49, 46) == 0);
    /* scipy.stats.norm.sf(11.954) * 2: the tail, where 1 - cdf would be 0. */
    CHECK_NEAR(2 * qnet_normal_cdf(-11.954) / 6.187388916642693e-33, 1, 1e-9);
}

int main(void)
{
    RUN(test_the_report);
    RUN(test_the_helpers);
    return test_end();
}
