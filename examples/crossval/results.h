/* What tables, JSON and page have in common: who took part, what may be shown of a test, the
   verdict in sentences, and where a reader should be careful. Every number is of qnet_experiment. */
#ifndef CROSSVAL_RESULTS_H
#define CROSSVAL_RESULTS_H
#include "pictures.h"
#include "writer.h"

/* What the user calls a group; NULL: as in the paper. */
static const char *group_given(const qnet_experiment *e, int hh)
{
    const qnet_publish *to = &e->config.publish;
    return to->input == pictures_input && to->user ? ((const pictures *)to->user)->group[hh] : NULL;
}

/* The scans that --exclude and --skip-bad left out. */
static const left_out *left_out_of(const qnet_experiment *e, int *count)
{
    const qnet_publish *to = &e->config.publish;
    const pictures *p = to->input == pictures_input ? (const pictures *)to->user : NULL;
    *count = p ? p->outs : 0;
    return p ? p->out : NULL;
}

/* Short, as in tables. */
static const char *group_tag(const qnet_experiment *e, int hh)
{
    const char *given = group_given(e, hh);
    return given ? given : hh ? "HH" : "HC";
}

/* As a sentence goes on: "a scan of hemochromatosis". */
static const char *group_title(const qnet_experiment *e, int hh)
{
    const char *given = group_given(e, hh);
    return given ? given : hh ? "hemochromatosis" : "healthy controls";
}

static int larger(int a, int b)
{
    return a > b ? a : b;
}

static const char *input_title(int input)
{
    return input == QNET_INPUT_FULL ? "Full size image" : "Cropped image";
}

static int has_input(const qnet_experiment *e, int input)
{
    return e->config.use_input[input] && e->level[input][QNET_LEVEL_IMAGE].count > 0 &&
           e->level[input][QNET_LEVEL_SCAN].count > 0;
}

/* Full size first, as in the paper's tables. */
static const int table_input[2] = { QNET_INPUT_FULL, QNET_INPUT_CROP };

/* The inputs that have results, in the order of the paper's tables; returns how many. */
static int inputs_of(const qnet_experiment *e, int input[2])
{
    int count = 0;
    for (int i = 0; i < 2; i++) {
        if (has_input(e, table_input[i])) input[count++] = table_input[i];
    }
    return count;
}

/* The input that the verdict is about: the cropped one where it was run, as in the abstract. */
static int main_input(const qnet_experiment *e)
{
    return has_input(e, QNET_INPUT_CROP) ? QNET_INPUT_CROP : QNET_INPUT_FULL;
}

/* The channels of the images, and which of them were left out (--channels): those of either input. */
static void put_channels(writer *w, const qnet_experiment *e)
{
    static const char *const names[3] = { "QSM", "R2*", "T1-weighted" };
    const int *used = e->config.input[main_input(e)].use_channel, all = !!used[0] + !!used[1] + !!used[2];
    for (int of = 1; of >= 0; of--) { /* those that are used, then the others */
        int left = of ? all : 3 - all;
        if (!of && left) put(w, ", and 0 instead of ");
        for (int c = 0; c < 3; c++) {
            if (!!used[c] != of) continue;
            left--;
            print(w, "%s%s", names[c], left > 1 ? ", " : left ? " and " : "");
        }
    }
}

/* Counts of one class (or, index 2, of both), over subjects but for scans and slices. */
typedef struct group_counts {
    int subjects, men, women, ages, scans, slices;
    double age_mean, age_std, age_low, age_high; /* NaN where no age is known */
} group_counts;

/* 1 when no earlier scan is of the same subject. */
static int is_first_scan(const qnet_experiment *e, int i)
{
    for (int k = 0; k < i; k++) {
        if (strcmp(e->participants[k].subject, e->participants[i].subject) == 0) return 0;
    }
    return 1;
}

static void group_add(group_counts *g, const qnet_participant *p, int first)
{
    g->scans++;
    g->slices += p->slices;
    if (!first) return;
    g->subjects++;
    g->men += p->sex == QNET_MALE;
    g->women += p->sex == QNET_FEMALE;
    if (!isfinite(p->age)) return;
    if (g->ages == 0 || p->age < g->age_low) g->age_low = p->age;
    if (g->ages == 0 || p->age > g->age_high) g->age_high = p->age;
    g->ages++; /* Welford's running mean; age_std holds the sum of squares until the end */
    g->age_std += (p->age - g->age_mean) * (p->age - g->age_mean) * (g->ages - 1) / g->ages;
    g->age_mean += (p->age - g->age_mean) / g->ages;
}

/* group[0]: HC, [1]: HH, [2]: both; of all participants (fold -1), or of one fold's test set. */
static void count_groups(const qnet_experiment *e, int fold, group_counts group[3])
{
    memset(group, 0, 3 * sizeof *group);
    for (int i = 0; i < e->participants_count; i++) {
        const qnet_participant *p = &e->participants[i];
        const int first = is_first_scan(e, i);
        if (fold >= 0 && e->fold[i] != fold) continue;
        group_add(&group[p->label == QNET_HH], p, first);
        group_add(&group[2], p, first);
    }
    for (int k = 0; k < 3; k++) {
        group_counts *g = &group[k];
        if (g->ages == 0) g->age_mean = g->age_low = g->age_high = (double)NAN;
        g->age_std = g->ages > 1 ? sqrt(g->age_std / (g->ages - 1)) : (double)NAN;
    }
}

#define STARS_SUBJECTS 10 /* of either class: of fewer, DeLong's normal approximation is poor */

/* 1 where the subjects, not scans or slices, are enough for a test to count. */
static int is_testable(const qnet_experiment *e)
{
    group_counts group[3];
    count_groups(e, -1, group);
    return group[0].subjects >= STARS_SUBJECTS && group[1].subjects >= STARS_SUBJECTS;
}

/* The stars of a test, or NULL where the subjects are too few or there is no variance to test with:
   then p is not shown either. */
static const char *stars_of(const qnet_experiment *e, const qnet_delong *d)
{
    return d->se > 0 && is_testable(e) ? qnet_stars(d->p) : NULL;
}

/* DeLong's interval has no width where two groups do not overlap (an AUC of 0 or 1) or all scores
   are equal (.5): the method has nothing to say, which is not the same as being sure. */
static int is_interval(qnet_interval r)
{
    return r.low < r.high;
}

/* "0.802-0.948", or in a sentence "95 % interval 0.802 to 0.948"; each end times `scale`. */
static const char *interval_text(const writer *w, char text[TEXT_SIZE],
                                 qnet_interval r, double scale, int decimals, int sentence)
{
    char low[NUMBER_SIZE], high[NUMBER_SIZE];
    if (!is_interval(r)) {
        return !sentence        ? w->missing
               : r.low == 0.5     ? "no interval: all scores are equal"
               : r.low == r.high && (r.low == 0 || r.low == 1)
                   ? "no interval: the groups do not overlap"
                   : "no interval";
    }
    snprintf(text, TEXT_SIZE, "%s%s%s%s", sentence ? "95 % interval " : "",
             fixed_text(low, r.low * scale, decimals),
             sentence ? " to " : w->html ? "&thinsp;&ndash;&thinsp;" : "-",
             fixed_text(high, r.high * scale, decimals));
    return text;
}

/* Text from outside, in a page or on a terminal. */
static void put_plain(writer *w, const char *text)
{
    if (w->html) put_escaped(w, text);
    else put(w, text);
}

/* Whose scan it is: "sub-01", or "sub-01, session 2". */
static inline void put_scan_of(writer *w, const qnet_participant *p)
{
    put_plain(w, p->subject);
    if (p->session[0]) put(w, ", session ");
    put_plain(w, p->session);
}

/* The data set's name, or that it has none. */
static void put_dataset(writer *w, const qnet_experiment *e)
{
    if (!e->dataset[0]) put(w, "data set not named");
    else put_plain(w, e->dataset);
}

/* The verdict in plain sentences, about the scan-level Q-Net. */
static void put_verdict(writer *w, const qnet_experiment *e)
{
    const int input = main_input(e);
    const qnet_level_result *level = &e->level[input][QNET_LEVEL_SCAN];
    const qnet_model_result *q = &level->model[QNET_MODEL_QNET];
    const qnet_interval auc = q->auc_ci_clustered;
    const qnet_confusion c = q->first.count;
    const qnet_delong *d = &level->pair[2].by_subject;
    char p[NUMBER_SIZE], text[2][TEXT_SIZE];
    if (!has_input(e, input)) {
        put(w, "There is no result: neither input was run.");
        return;
    }
    put(w, "Data: ");
    put_dataset(w, e);
    put(w, e->simulated ? ". Its subjects are simulated: these numbers say nothing about "
                          "patients. "
                        : ". ");
    if (e->config.shuffle_labels) {
        print(w, "Control run with shuffled labels: there is nothing to learn here, and an "
                 "AUC far above 0.5 would mean a leak. The mean of Q-Net's AUCs within the "
                 "folds is %.3f; one over all of them is expected under 0.5, as a fold with "
                 "more %s leaves fewer to the training that judges it. ",
              q->auc_within_folds, group_tag(e, 1));
    }
    if (e->config.repeats > 1) put(w, "In the first repeat: ");
    print(w, "Of %zu scans that it had never seen in training, %s, %s classified %zu "
             "correctly: accuracy %.1f %% (%s %%). It recognised %zu of %zu scans of "
             "%s (sensitivity %.1f %%) and %zu of %zu of %s "
             "(specificity %.1f %%); its AUC is %.3f (%s). ",
          level->count,
          input == QNET_INPUT_CROP ? "cropped to the basal ganglia" : "in full size",
          w->html ? "<i>Q-Net</i>" : "Q-Net", c.tp + c.tn, 100 * q->first.accuracy,
          interval_text(w, text[0], q->first.accuracy_ci, 100, 1, 1), c.tp, c.tp + c.fn,
          group_title(e, 1), 100 * q->first.sensitivity, c.tn, c.tn + c.fp, group_title(e, 0),
          100 * q->first.specificity,
          q->auc_first, interval_text(w, text[1], auc, 1, 3, 1));
    if (e->config.shuffle_labels) {
        put(w, q->auc_first == 0.5 && !is_interval(auc)
                   ? "A model that says the same of everybody shows neither a leak nor that "
                     "there is none."
               : !is_interval(auc) && q->auc_first > 0.5 ? "Look for a leak."
               : !is_interval(auc) ? "It lies below 0.5: no sign of a leak."
               : auc.low <= 0.5 && auc.high >= 0.5
                   ? "That interval holds 0.5, as it should."
               : auc.high < 0.5
                   ? "That interval lies below 0.5: no sign of a leak."
                   : "That interval lies above 0.5: fewer than one such run in twenty does "
                     "by chance; if it happens again, look for a leak.");
        return;
    }
    if (!(auc.low > 0.5)) {
        print(w, "%s this cohort does not show that the model is better than a coin. ",
              is_interval(auc) ? "That interval holds 0.5 or lies below it:" : "So");
    }
    if (!is_testable(e)) {
        put(w, "There are too few subjects to test it against the other models.");
    } else if (!(d->se > 0)) {
        put(w, "Its difference to ResNetSWA with voting has no variance to test with.");
    } else {
        print(w, "Its AUC %s that of ResNetSWA with voting (%s%s).",
              !(d->p <= 0.05) ? "does not differ significantly from"
              : d->z > 0      ? "is significantly higher than"
                              : "is significantly lower than",
              w->html ? "p&nbsp;=&nbsp;" : "p = ", p_text(p, d->p));
    }
    if (input == QNET_INPUT_CROP && has_input(e, QNET_INPUT_FULL)) {
        q = &e->level[QNET_INPUT_FULL][QNET_LEVEL_SCAN].model[QNET_MODEL_QNET];
        print(w, " With images in full size, Q-Net's AUC is %.3f (%s).", q->auc_first,
              interval_text(w, text[0], q->auc_ci_clustered, 1, 3, 1));
    }
}

/* What the number behind +- is. */
static void put_spread(writer *w, const qnet_experiment *e)
{
    const char *sign = w->html ? "&plusmn;" : "+-";
    if (e->config.repeats > 1) {
        print(w, "%s is the standard deviation over %d repeats of the %d-fold "
                 "cross-validation, each with its own folds and seeds, as in the paper.",
              sign, e->config.repeats, e->config.folds);
    } else {
        print(w, "The value is that of all test items together; %s is the standard deviation "
                 "over the %d folds of one cross-validation, where the paper's is over "
                 "repeats; the two do not compare, and neither is a standard error.",
              sign, e->config.folds);
    }
}

/* Where a reader should be careful: the items of a list. */
static void put_warnings(writer *w, const qnet_experiment *e, const group_counts group[3])
{
    const char *item = w->html ? "<li>" : "- ", *end = w->html ? "</li>\n" : "\n";
    const int epochs1 = e->config.stage1.epochs, epochs2 = e->config.stage2.epochs;
    const int least = group[0].subjects < group[1].subjects ? group[0].subjects : group[1].subjects;
    const left_out *out;
    int outs;
    if (e->config.shuffle_labels) {
        print(w, "%sControl run: the labels were shuffled over the subjects before anything "
                 "else. %s and %s below are the shuffled labels. AUCs by scan as means "
                 "within the folds, and over all folds, where they are expected below 0.5:",
              item, group_tag(e, 1), group_tag(e, 0));
        for (int i = 0; i < 2 * QNET_MODELS; i++) {
            const int input = table_input[i / QNET_MODELS], m = i % QNET_MODELS;
            const qnet_model_result *r = &e->level[input][QNET_LEVEL_SCAN].model[m];
            if (!has_input(e, input)) continue;
            print(w, " %s %s %.3f, %.3f;", qnet_input_name((qnet_input)input),
                  qnet_model_name((qnet_model_kind)m), r->auc_within_folds, r->auc_first);
        }
        put(w, " no sign of a leak where both are near 0.5 or below.");
        put(w, end);
    }
    out = left_out_of(e, &outs);
    if (outs > 0) {
        print(w, "%s%d scan%s left out before training:", item, outs, outs > 1 ? "s were" : " was");
        for (int i = 0; i < outs; i++) {
            put(w, i ? "; " : " ");
            put_plain(w, out[i].subject);
            if (out[i].session[0]) put(w, " session ");
            put_plain(w, out[i].session);
            put(w, " (");
            put_plain(w, out[i].why);
            put(w, ")");
        }
        put(w, ".");
        put(w, end);
    }
    if (e->config.inner_validation) {
        print(w, "%sWith --inner-validation: while a fold is tested, the next one is only watched, so the networks "
                 "are trained on fewer subjects than without; the baselines are not.%s", item, end);
    }
    if (group[2].subjects < 50 || least < 20) {
        print(w, "%sSmall cohort: %d subjects, %d in the smaller group. One scan more or "
                 "less moves the scan-level accuracy by %.1f points; read the intervals "
                 "before the values.%s",
              item, group[2].subjects, least, 100.0 / larger(1, group[2].scans), end);
    }
    if (!e->weights[0]) {
        print(w, "%sRandom initial weights. The paper starts from ImageNet weights, which it "
                 "reports to help considerably.%s", item, end);
    } else {
        print(w, "%sInitial weights from a file. If any of these subjects had a part in "
                 "their training, the test folds are not unseen; that is noticed only where "
                 "an experiment of this program trained them, on the same QSM maps.%s",
              item, end);
    }
    if (epochs1 < 100 || epochs2 < 50) {
        print(w, "%sShort training: %d epochs of stage 1 and %d of stage 2; the paper has "
                 "100 and 50.%s", item, epochs1, epochs2, end);
    }
    print(w, "%sSlices of one scan are not independent. Intervals and p-values by image, "
             "which the paper prints, are therefore too sure%s.%s", item,
          least < STARS_SUBJECTS ? "" : "; those by subject are the ones to rely on",
          end);
    if (least < STARS_SUBJECTS) {
        print(w, "%sNo stars and no p-values of DeLong's test: with %d subjects in the smaller group, "
                 "DeLong's normal approximation does not hold, nor do its intervals; %d are "
                 "the least. Many slices do not make up for few subjects.%s",
              item, least, STARS_SUBJECTS, end);
    } else {
        print(w, "%sp-values are not corrected for the number of comparisons, but for those under "
                 "Holm.%s", item, end);
    }
    if (e->config.repeats > 1) {
        print(w, "%sROC curves, intervals, p-values and bootstraps are those of the first "
                 "repeat.%s", item, end);
    }
}

#endif
