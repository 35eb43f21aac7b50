/* The report of an experiment: report.html, results.json, the tables for the terminal, and the function that
   crossval gives to the library for writing the files. */
#ifndef CROSSVAL_REPORT_H
#define CROSSVAL_REPORT_H
#include "attribution.h"
#include "checklist.h"
#include "figures.h"
#include "json.h"
#include "page.h"
#include "predictions.h"
#include "style.h"
#include "tables.h"

/* One of the large numbers at the top; unit "": as it is, otherwise in percent. */
static void html_tile(writer *w, const char *name, double value, const char *unit, qnet_interval r)
{
    const int percent = *unit != '\0', decimals = percent ? 1 : 3;
    const double scale = percent ? 100 : 1;
    print(w, "<div class=\"tile\"><b>%.*f%s</b><span>%s</span><span>", decimals,
          value * scale, unit, name);
    if (is_interval(r)) {
        print(w, "95&nbsp;%% CI <i>%.*f&ndash;%.*f</i>", decimals, r.low * scale, decimals,
              r.high * scale);
    }
    put(w, "</span></div>\n");
}

static void html_top(writer *w, const qnet_experiment *e, const group_counts group[3])
{
    const int input = main_input(e);
    const qnet_model_result *q = &e->level[input][QNET_LEVEL_SCAN].model[QNET_MODEL_QNET];
    const qnet_metrics *m = &q->first;
    print(w, "<p class=\"kicker\">Q-Net &middot; report of an experiment%s &middot; ",
          e->config.shuffle_labels ? " &middot; shuffled-label control" : "");
    put_dataset(w, e);
    print(w, "</p>\n<h1>%s or %s? ", group_given(e, 1) ? group_tag(e, 1) : "Hemochromatosis",
          group_given(e, 0) ? group_tag(e, 0) : "healthy");
    print(w, "Brain iron maps of %d %ssubjects</h1>\n<p class=\"verdict\">", group[2].subjects,
          e->simulated ? "simulated " : "");
    put_verdict(w, e);
    put(w, "</p>\n");
    if (has_input(e, input)) {
        const char *percent = "&thinsp;%";
        put(w, "<div class=\"tiles\">\n");
        html_tile(w, "AUC", q->auc_first, "", q->auc_ci_clustered);
        html_tile(w, "Accuracy", m->accuracy, percent, m->accuracy_ci);
        html_tile(w, "Sensitivity", m->sensitivity, percent, m->sensitivity_ci);
        html_tile(w, "Specificity", m->specificity, percent, m->specificity_ci);
        print(w, "</div>\n<p class=\"key\">Q-Net, one decision per scan, %s. The AUC is the "
                 "chance that a scan of %s gets a higher score than one of %s; a coin has "
                 "0.5. CI: confidence interval. Research software: no basis for the diagnosis "
                 "of a patient.</p>\n",
              input == QNET_INPUT_CROP ? "cropped image" : "full size image",
              group_title(e, 1), group_title(e, 0));
    }
    put(w, "<div class=\"care\"><b>Read with care</b><ul>\n");
    put_warnings(w, e, group);
    put(w, "</ul></div>\n");
}

static void html_cohort(writer *w, const qnet_experiment *e, const group_counts group[3])
{
    const char *const names[3] = {
        group_given(e, 0) ? group_tag(e, 0) : "Healthy controls (HC)",
        group_given(e, 1) ? group_tag(e, 1) : "Hemochromatosis (HH)", "All"
    };
    static const int rows[3] = { 1, 0, 2 };
    print(w, "<h2>What was run</h2>\n<p>%d-fold cross-validation over individuals%s: the "
             "subjects are split into %d folds, and each fold is judged by models that were "
             "trained on the others. ",
          e->config.folds, e->config.repeats > 1 ? ", repeated with new folds" : "",
          e->config.folds);
    print(w, "Per fold three models: <b>ResNet</b> (ResNet18 on single slices, %d epochs), "
             "<b>ResNetSWA</b> (the same with stochastic weight averaging), both of which "
             "vote over the slices of a scan, and <b>Q-Net</b> (the frozen ResNetSWA's "
             "features of all slices through a bidirectional LSTM, %d epochs). Each image "
             "holds three channels: ",
          e->config.stage1.epochs, e->config.stage2.epochs);
    put_channels(w, e);
    put(w, ".</p>\n<p class=\"cap\">Who took part.</p>\n<div class=\"scroll\"><table><thead><tr>");
    cells(w, "th", "Group|>Subjects|>Men|>Women|>Age, mean &plusmn; SD|>Age range|>Scans|"
                   ">Slices");
    put(w, "</tr></thead><tbody>\n");
    for (int k = 0; k < 3; k++) {
        const group_counts *g = &group[rows[k]];
        print(w, "<tr%s>", k == 2 ? " class=\"first\"" : "");
        cells(w, "td", "%s|>%d|>%d|>%d|>%.1f &plusmn; %.1f|>%.0f&thinsp;&ndash;&thinsp;%.0f|"
                       ">%d|>%d",
              names[rows[k]], g->subjects, g->men, g->women, g->age_mean, g->age_std,
              g->age_low, g->age_high, g->scans, g->slices);
        row_end(w);
    }
    put(w, "</tbody></table></div>\n<figure><div class=\"panels\">\n");
    svg_ages(w, e);
    svg_sexes(w, e, group);
    print(w, "</div><figcaption><span class=\"sw\" style=\"background:var(--hh)\"></span>%s "
             "&nbsp; <span class=\"sw\" style=\"background:var(--hc)\"></span>%s &nbsp; "
             "<b>Fig. 2.</b> Age and sex of the subjects.</figcaption></figure>\n",
          group_tag(e, 1), group_tag(e, 0));
}

static void html_results(writer *w, const qnet_experiment *e)
{
    int input[2];
    put(w, "<h2>Results by image</h2>\n");
    html_rates(w, e, QNET_LEVEL_IMAGE);
    put(w, "<p class=\"key\">");
    put_spread(w, e);
    print(w, " Sensitivity is the share of %s that is recognised, specificity that of %s. The "
             "F1-score is the mean of both groups', weighted by their size.</p>\n",
          group_title(e, 1), group_title(e, 0));
    if (inputs_of(e, input) == 2) figure_inputs(w, e, QNET_LEVEL_IMAGE);
    figure_models(w, e);
    html_pairs(w, e, QNET_LEVEL_IMAGE);
    print(w, "<p class=\"key\">%s</p>\n",
          is_testable(e)
              ? "<i>ns</i> p &gt; .05, * p &le; .05, ** p &le; .01, *** p &le; .001, "
                "**** p &le; .0001."
              : "z, p and stars are left out: there are too few subjects.");
    figure_boxes(w, e);
    put_intervals(w, e, QNET_LEVEL_IMAGE);
    put(w, "<h2>Results by scan</h2>\n");
    html_rates(w, e, QNET_LEVEL_SCAN);
    print(w, "<p class=\"key\">ResNet and ResNetSWA: majority of their slices, a tie counts as "
             "%s; their ROC curves use the mean probability. Q-Net decides once per scan."
             "</p>\n", group_tag(e, 0));
    figure_inputs(w, e, QNET_LEVEL_SCAN);
    html_pairs(w, e, QNET_LEVEL_SCAN);
    put_intervals(w, e, QNET_LEVEL_SCAN);
}

static void html_training(writer *w, const qnet_experiment *e, const pictures *p)
{
    put(w, "<h2>How it was trained</h2>\n");
    if (p) figure_cuts(w, e, &p->cuts);
    if (p) figure_augmented(w, e, p);
    if (e->curves_count > 0) figure_learning(w, e);
    print(w, "<h3>Folds</h3>\n<p class=\"cap\">Who was tested in which fold%s; no subject is in two.</p>\n<div "
             "class=\"scroll\"><table class=\"sortable\"><thead><tr>",
          e->config.repeats > 1 ? " of the first repeat" : "");
    cells(w, "th", ">Fold|>%s|>%s|>Men|>Women|>Mean age|Subjects", group_tag(e, 1),
          group_tag(e, 0));
    put(w, "</tr></thead><tbody>\n");
    for (int fold = 0; fold < e->config.folds; fold++) {
        group_counts g[3];
        int named = 0;
        count_groups(e, fold, g);
        put(w, "<tr>");
        cells(w, "td", ">%d|>%d|>%d|>%d|>%d|>%.1f", fold + 1, g[1].subjects, g[0].subjects,
              g[2].men, g[2].women, g[2].age_mean);
        put(w, "<td class=\"wrap small\">");
        for (int i = 0; i < e->participants_count; i++) {
            if (e->fold[i] != fold || !is_first_scan(e, i)) continue;
            if (named++) put(w, ", ");
            put_escaped(w, e->participants[i].subject);
        }
        put(w, "</td></tr>\n");
    }
    put(w, "</tbody></table></div>\n");
}

static void html_record(writer *w, const qnet_experiment *e, const pictures *p)
{
    static const char *const names[3] = { "Build", "Data", "Results" };
    const int minutes = e->seconds >= 600;
    char build[256];
    qnet_describe_build(e->ctx, build, sizeof build);
    put(w, "<h2>Record</h2>\n<p>Everything that changes a number on this page. The same "
           "configuration, data, build and kind of processor give the same numbers again."
           " Beside this page: <a href=\"predictions.csv\">predictions.csv</a>, a row for each "
           "slice and scan; <a href=\"results.json\">results.json</a>, all numbers; <a "
           "href=\"manifest.json\">manifest.json</a>, this record.</p>\n<div class=\"scroll\">"
           "<table><tbody>\n");
    if (p && p->command) { /* one line: the only one that differs between runs with the same results */
        print(w, "<tr class=\"run\"><td>Command, %s</td><td class=\"wrap\"><code>", p->date);
        put_escaped(w, p->command);
        put(w, "</code></td></tr>\n");
    }
    for (int i = 0; i < 3; i++) {
        print(w, "<tr><td>%s</td><td class=\"wrap\">", names[i]);
        put_escaped(w, i == 0 ? build : i == 1 ? e->data : e->out);
        put(w, "</td></tr>\n");
    }
    put(w, "<tr><td>Data set</td><td class=\"wrap\">");
    put_dataset(w, e);
    put(w, e->dataset_type[0] ? ", DatasetType " : "");
    put_escaped(w, e->dataset_type);
    print(w, "%s</td></tr>\n", e->simulated ? "; simulated subjects" : "");
    for (int input = 0; input < 2; input++) {
        if (!has_input(e, input)) continue;
        print(w, "<tr><td>Hash of the images, %s</td><td><code>%016llx</code></td></tr>\n",
              qnet_input_name((qnet_input)input), (unsigned long long)e->cohort_hash[input]);
    }
    if (e->weights[0]) {
        print(w, "<tr><td>Hash of the initial weights</td><td><code>%016llx</code></td></tr>"
                 "\n", (unsigned long long)e->weights_hash);
    }
    print(w, "<tr><td>Time of training</td><td>%.*f %s</td></tr>\n</tbody></table></div>\n"
             "<h3>Configuration</h3>\n<div class=\"sets\">\n",
          minutes, minutes ? e->seconds / 60 : e->seconds, minutes ? "minutes" : "seconds");
    put_settings(w, e);
    put(w, "</div>\n");
}

/* report.html: one page that needs no other file. p NULL: without these pictures. */
static qnet_status report_html(const qnet_experiment *e, const pictures *p, qnet_buffer *html)
{
    qnet_buffer sections;
    writer own = writer_begin(e->ctx, html, "&ndash;", 1), body, *w = &own;
    group_counts group[3];
    memset(&sections, 0, sizeof sections);
    body = writer_begin(e->ctx, &sections, "&ndash;", 1);
    count_groups(e, -1, group);
    html_cohort(&body, e, group);
    if (has_input(e, main_input(e))) html_results(&body, e);
    html_assessed(&body, e, p, group, 0);
    if (p) html_attribution(&body, e, p);
    html_training(&body, e, p);
    html_assessed(&body, e, p, group, 1);
    html_record(&body, e, p);
    put(w, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta "
           "name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta "
           "name=\"color-scheme\" content=\"light dark\">\n<title>Q-Net report: ");
    put_dataset(w, e);
    print(w, "%s</title>\n<style>\n", e->simulated ? " (simulated subjects)" : "");
    put_css(w);
    put_heat_css(w);
    put_assessment_css(w);
    put(w, "</style>\n</head>\n<body>\n<main>\n");
    html_top(w, e, group);
    if (own.status == QNET_OK) own.status = writer_end(&body);
    if (own.status == QNET_OK) {
        put_contents(w, (const char *)sections.bytes);
        put_body(w, (const char *)sections.bytes);
    }
    qnet_buffer_free(e->ctx, &sections);
    print(w, "<p class=\"small\">Written by qnet.h %s. Method: Zabihi et al., <i>Q-Net: a "
             "quantitative susceptibility mapping-based deep neural network for differential "
             "diagnosis of brain iron deposition in hemochromatosis</i>. Tests: DeLong et "
             "al. 1988, Obuchowski 1997, Wilson 1927.</p>\n</main>\n",
          QNET_VERSION);
    put_script(w);
    put(w, "</body>\n</html>\n");
    return writer_end(w);
}

/* results.json: every number of the tables and of the figures' boxes. */
static qnet_status report_json(const qnet_experiment *e, qnet_buffer *json)
{
    writer own = writer_begin(e->ctx, json, "null", 0), *w = &own;
    open_object(w, "", "{");
    put_settings(w, e);
    put_cohort(w, e);
    put_levels(w, e, put_model);
    put_delong(w, e);
    open_object(w, "bootstrap", "{");
    put_members(w, "resamples %d", e->config.bootstrap);
    put_levels(w, e, put_boxes);
    close_object(w, "}");
    json_assessed(w, e);
    close_object(w, "}");
    return writer_end(w);
}

/* Tables 1, 2 and 3 in the paper's form, intervals and verdict, as text. */
static qnet_status report_tables(const qnet_experiment *e, qnet_buffer *text)
{
    writer own = writer_begin(e->ctx, text, "-", 0), *w = &own;
    group_counts group[3];
    size_t notes;
    count_groups(e, -1, group);
    print(w, "Table 1. Image-level classifiers, %d-fold cross-validation over individuals.\n"
             "MEAN +- STD, in percent; AUC from 0 to 1.\n\n", e->config.folds);
    text_rates(w, e, QNET_LEVEL_IMAGE);
    put(w, "\nTable 2. DeLong tests, image level; H0: AUC 1 = AUC 2.\nAs in the paper, "
           "slices count as independent: two of five cohorts would have a star between two\n"
           "equally good models (99 subjects of 24 slices; of 8 slices, one of five). The test to\n"
           "read is the next, by subject.\n\n");
    put_pairs(w, e, QNET_LEVEL_IMAGE, 0, 0);
    put(w, "\nThe same by subject: its slices are one cluster (Obuchowski 1997).\n\n");
    put_pairs(w, e, QNET_LEVEL_IMAGE, 1, 1);
    put(w, "\nTable 3. Scan-level classifiers, in percent; ResNet and ResNetSWA vote over "
           "the slices of a scan.\n\n");
    text_rates(w, e, QNET_LEVEL_SCAN);
    put(w, "\nDeLong tests, scan level, by subject.\n\n");
    put_pairs(w, e, QNET_LEVEL_SCAN, 1, 1);
    put(w, "\n95 % intervals, image level. AUC: DeLong, by subject on the logit scale; "
           "others: Wilson,\npercent, by image."
           "\n\n");
    put_intervals(w, e, QNET_LEVEL_IMAGE);
    put(w, "\n95 % intervals, scan level. AUC: DeLong, by subject on the logit scale; "
           "others: Wilson,\npercent.\n\n");
    put_intervals(w, e, QNET_LEVEL_SCAN);
    text_assessed(w, e);
    put(w, "\n");
    notes = w->out->size;
    put_spread(w, e);
    print(w, "\nSensitivity: share of %s recognised; specificity: share of %s recognised. "
             "F1-score: mean of both groups' F1, weighted by their size.",
          group_title(e, 1), group_title(e, 0));
    if (is_testable(e)) {
        put(w, " Level: ns p > .05, * p <= .05, ** p <= .01, *** p <= .001, "
               "**** p <= .0001.");
    }
    put(w, "\n\n");
    put_warnings(w, e, group);
    put(w, "\n");
    put_verdict(w, e);
    put(w, "\n");
    wrap_lines(w, notes);
    return writer_end(w);
}

/* For qnet_experiment_config.publish, whose user is a pictures or NULL. */
static qnet_status report_write(void *user, const qnet_experiment *e, const char *folder)
{
    static const char *const names[4] = { "manifest.json", "predictions.csv", "report.html", "results.json" };
    qnet_status status = QNET_OK;
    for (int i = 0; i < 4 && status == QNET_OK; i++) {
        qnet_buffer text;
        char path[700];
        memset(&text, 0, sizeof text);
        snprintf(path, sizeof path, "%.660s/%s", folder, names[i]);
        status = i == 0   ? report_manifest(e, &text)
                 : i == 1 ? report_csv(e, &text)
                 : i == 2 ? report_html(e, (const pictures *)user, &text)
                          : report_json(e, &text);
        if (status == QNET_OK) status = qnet_file_replace(e->ctx, path, text.bytes, text.size);
        qnet_buffer_free(e->ctx, &text);
    }
    return status;
}

#endif
