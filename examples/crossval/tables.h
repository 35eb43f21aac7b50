/* The paper's tables, as text for a terminal or as HTML. */
#ifndef CROSSVAL_TABLES_H
#define CROSSVAL_TABLES_H
#include "results.h"

/* Begins row k of the rows of an input, which is named in the first of them only. */
static void row_begin(writer *w, int input, int k)
{
    const char *name = input == QNET_INPUT_FULL ? "Full size" : "Cropped";
    if (w->html) print(w, "<tr%s>", k == 0 ? " class=\"first\"" : "");
    cells(w, "td", "%-10s", k > 0 ? "" : w->html ? input_title(input) : name);
}

static void row_end(writer *w)
{
    put(w, w->html ? "</tr>\n" : "\n");
}

/* "68.19 +- 0.24" in percent, or (scale 1) "0.866 +- 0.012"; without std when spread is 0. */
static const char *mean_text(const writer *w, char text[TEXT_SIZE], qnet_mean_std v,
                             double scale, int spread)
{
    char mean[NUMBER_SIZE], std[NUMBER_SIZE];
    const int decimals = scale > 1 ? 2 : 3;
    if (v.mean != v.mean) return w->missing;
    if (!spread || v.std != v.std) return fixed_text(text, v.mean * scale, decimals);
    snprintf(text, TEXT_SIZE, "%s%s%s", fixed_text(mean, v.mean * scale, decimals),
             w->html ? "&thinsp;&plusmn;&thinsp;" : " +- ",
             fixed_text(std, v.std * scale, decimals));
    return text;
}

/* The rates of Tables 1 and 3 in the order of their columns, which is not the same in both. */
static const char *const rate_names[QNET_LEVELS][4] = {
    { "Accuracy", "Sensitivity", "Specificity", "F1-score" },
    { "Accuracy", "F1-score", "Sensitivity", "Specificity" }
};

static void rates_of(const qnet_model_result *r, int level, qnet_mean_std rate[4])
{
    const int image = level == QNET_LEVEL_IMAGE;
    rate[0] = r->accuracy;
    rate[image ? 1 : 2] = r->sensitivity;
    rate[image ? 2 : 3] = r->specificity;
    rate[image ? 3 : 1] = r->f1;
}

/* Tables 1 and 3 as text, one input below the other, where the paper has them side by side. */
static void text_rates(writer *w, const qnet_experiment *e, int level)
{
    const int spread = level == QNET_LEVEL_IMAGE || e->config.repeats > 1;
    const char *const *names = rate_names[level];
    int input[2];
    const int inputs = inputs_of(e, input);
    char text[TEXT_SIZE];
    print(w, "%-10s%-10s%-16s%-16s%-16s%-16s%s\n", "Input", "Model", names[0], names[1],
          names[2], names[3], "AUC");
    for (int i = 0; i < inputs * QNET_MODELS; i++) {
        const int in = input[i / QNET_MODELS], m = i % QNET_MODELS;
        const qnet_model_result *r = &e->level[in][level].model[m];
        qnet_mean_std rate[4];
        rates_of(r, level, rate);
        row_begin(w, in, m);
        print(w, "%-10s", qnet_model_name((qnet_model_kind)m));
        for (int k = 0; k < 4; k++)
            print(w, "%-16s", mean_text(w, text, rate[k], 100, spread));
        put(w, mean_text(w, text, r->auc, 1, spread));
        row_end(w);
    }
}

/* Tables 1 and 3 as in the paper: the inputs side by side. */
static void html_rates(writer *w, const qnet_experiment *e, int level)
{
    const int image = level == QNET_LEVEL_IMAGE, spread = image || e->config.repeats > 1;
    int input[2];
    const int inputs = inputs_of(e, input);
    char text[TEXT_SIZE];
    print(w, "<p class=\"cap\"><b>Table %d.</b> %s-level classifiers, %d-fold "
             "cross-validation over individuals, in percent%s.</p><div class=\"scroll\">"
             "<table class=\"wide pin\"><thead><tr><th>Input</th>",
          image ? 1 : 3, image ? "Image" : "Scan", e->config.folds,
          spread ? ", mean &plusmn; standard deviation" : "");
    for (int i = 0; i < inputs; i++)
        print(w, "<th colspan=\"4\">%s</th>", input_title(input[i]));
    put(w, "</tr><tr><th>Model</th>");
    for (int k = 0; k < 4 * inputs; k++)
        cells(w, "th", ">%s", rate_names[level][k % 4]);
    put(w, "</tr></thead><tbody>\n");
    for (int m = 0; m < QNET_MODELS; m++) {
        print(w, "<tr%s><th>%s</th>", m == QNET_MODEL_QNET ? " class=\"best\"" : "",
              qnet_model_name((qnet_model_kind)m));
        for (int k = 0; k < 4 * inputs; k++) {
            qnet_mean_std rate[4];
            rates_of(&e->level[input[k / 4]][level].model[m], level, rate);
            cells(w, "td", ">%s", mean_text(w, text, rate[k % 4], 100, spread));
        }
        row_end(w);
    }
    put(w, "</tbody></table></div>\n");
}

/* Table 2 for a level (in HTML its rows only): with the test by item (0), by subject (1), or both
   (first 0, last 1: HTML). */
static void put_pairs(writer *w, const qnet_experiment *e, int level, int first, int last)
{
    int input[2];
    const int inputs = inputs_of(e, input);
    char p[NUMBER_SIZE];
    if (!w->html) {
        print(w, "%-10s%-12s%-12s%-8s%-8s%-11s%-9s%-10s%s\n", "Input", "Variable 1",
              "Variable 2", "AUC 1", "AUC 2", "Std Error", "z-score", "p-value", "Level");
    }
    for (int i = 0; i < inputs * 3; i++) {
        const qnet_pair_result *pair = &e->level[input[i / 3]][level].pair[i % 3];
        const qnet_delong *d = first ? &pair->by_subject : &pair->by_item;
        row_begin(w, input[i / 3], i % 3);
        cells(w, "td", "%-12s|%-12s|>%-8.3f|>%-8.3f", qnet_model_name(pair->model1),
              qnet_model_name(pair->model2), d->auc[0], d->auc[1]);
        for (int by_subject = first; by_subject <= last; by_subject++) {
            const char *none = w->missing, *stars;
            d = by_subject ? &pair->by_subject : &pair->by_item;
            stars = stars_of(e, d);
            cells(w, "td", ">%-11.4f|>%-9.3f|>%-10s|%s", d->se, stars ? d->z : (double)NAN,
                  stars ? p_text(p, d->p) : none, stars ? stars : none);
        }
        row_end(w);
    }
}

/* Table 2: as in the paper, with the test by subject beside it. */
static void html_pairs(writer *w, const qnet_experiment *e, int level)
{
    const int image = level == QNET_LEVEL_IMAGE;
    print(w, "<p class=\"cap\">%sDeLong tests of all pairs of ROC curves, %s level; "
             "H<sub>0</sub>: AUC<sub>1</sub> = AUC<sub>2</sub>.%s</p>\n<div class=\"scroll\">"
             "<table class=\"wide\"><thead><tr><td></td><th colspan=\"2\">Variables</th>"
             "<th colspan=\"2\">AUCs</th><th colspan=\"4\">By %s</th>%s</tr><tr>",
          image ? "<b>Table 2.</b> " : "", qnet_level_name((qnet_level)level),
          image ? " By image, as in the paper, slices count as independent: between two "
                  "equally good models, two of five cohorts would have a star there (99 "
                  "subjects of 24 slices; of 8 slices, one of five). By subject is the test to "
                  "read: the slices of a subject are one cluster (Obuchowski 1997)."
                : "",
          image ? "image" : "subject", image ? "<th colspan=\"4\">By subject</th>" : "");
    cells(w, "th", "Input|1|2|>1|>2");
    for (int k = 0; k < (image ? 2 : 1); k++) cells(w, "th", ">Std error|>z|>p|Level");
    put(w, "</tr></thead><tbody>\n");
    put_pairs(w, e, level, image ? 0 : 1, 1);
    put(w, "</tbody></table></div>\n");
}

static void put_intervals(writer *w, const qnet_experiment *e, int level)
{
    static const int width[5] = { -13, -14, -12, -13, 0 };
    const char *items = level == QNET_LEVEL_IMAGE ? "image" : "scan";
    int input[2];
    const int inputs = inputs_of(e, input);
    char text[TEXT_SIZE];
    if (w->html) {
        print(w, "<p class=\"cap\">95 %% intervals, %s level. AUC: DeLong, by %s, and "
                 "by subject on the logit scale. Rates: Wilson, percent%s.</p>\n"
                 "<div class=\"scroll\">"
                 "<table class=\"wide\"><thead><tr>",
              items, items,
              level == QNET_LEVEL_IMAGE ? ", slices taken as independent" : "");
    }
    cells(w, "th", "%-10s|%-10s|>%-7s|>by %-10s|>%-14s|>%-12s|>%-13s|>%s", "Input", "Model",
          "AUC", items, "by subject", "Accuracy", "Sensitivity", "Specificity");
    put(w, w->html ? "</tr></thead><tbody>\n" : "\n");
    for (int i = 0; i < inputs * QNET_MODELS; i++) {
        const int in = input[i / QNET_MODELS], m = i % QNET_MODELS;
        const qnet_model_result *r = &e->level[in][level].model[m];
        const qnet_interval ci[5] = { r->auc_ci, r->auc_ci_clustered, r->first.accuracy_ci,
                                      r->first.sensitivity_ci, r->first.specificity_ci };
        row_begin(w, in, m);
        cells(w, "td", "%-10s|>%-7.3f", qnet_model_name((qnet_model_kind)m), r->auc_first);
        for (int k = 0; k < 5; k++) { /* two of AUCs, three of rates in percent */
            cells(w, "td", ">%*s", width[k],
                  interval_text(w, text, ci[k], k < 2 ? 1 : 100, k < 2 ? 3 : 1, 0));
        }
        row_end(w);
    }
    if (w->html) put(w, "</tbody></table></div>\n");
}

/* Breaks what was written from `start` on into lines of at most 98 bytes, at spaces. */
static void wrap_lines(writer *w, size_t start)
{
    size_t line = start, space = start; /* a space of an earlier line is before `line` */
    for (size_t i = start; w->status == QNET_OK && i < w->out->size; i++) {
        if (w->out->bytes[i] == '\n') line = i + 1;
        if (i - line >= 98 && space > line) {
            w->out->bytes[space] = '\n';
            line = space + 1;
        }
        if (w->out->bytes[i] == ' ') space = i;
    }
}

#endif
