/* The report's sections on single subjects and on what the probabilities are worth (assess.h): tables for
   page and terminal, figures for the page, members of results.json. */
#ifndef CROSSVAL_ASSESSMENT_H
#define CROSSVAL_ASSESSMENT_H
#include "assess.h"
#include "figures.h"
#include "tables.h"

static void put_assessment_css(writer *w)
{
    put(w, ".miss{background:var(--warn);box-shadow:inset 0 -2px var(--warnline)}tr.missed>:first-child{"
           "box-shadow:inset 4px 0 var(--warnline)}svg .ring{fill:none;stroke:var(--ink);stroke-width:1.5}"
           "svg .l.watched{stroke-dasharray:5 4;stroke-width:2.5}.matrices{display:flex;flex-wrap:wrap;gap:.6rem 2rem}.confusion th,.confusion td{text-align:center}"
           "@media(max-width:30rem){.confusion th{white-space:normal}}"
           ".open{columns:2;column-gap:2rem;padding-left:1.2rem}.facts td:last-child{white-space:normal}"
           ".facts td.wrap{min-width:24rem}@media(max-width:48rem){.open{columns:1}"
           ".facts td.wrap{min-width:16rem}.facts th{white-space:normal}}@media print{.tight{font-size:7.5pt}.tight th,.tight td{"
           "padding:.15rem .25rem}.facts td.wrap{min-width:10rem}.facts th{white-space:normal}"
           ".sortable{break-inside:auto}}\n");
}

static void svg_dot(writer *w, const char *style, double x, double y, double radius)
{
    print(w, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>\n", style, x, y, radius);
}

/* ---- Single subjects ------------------------------------------------------------------------------ */

/* Q-Net's probabilities, a column per group. A dot that would lie on others steps aside. */
static void svg_dots(writer *w, const qnet_experiment *e, const assessment *a)
{
    const plot p = {44, 8, 290, 250, 0, 2, 0, 1};
    const assessed_model *q = &a->model[QNET_MODEL_QNET];
    const double wide = 7.4, rows = 36; /* rows: heights at which dots count as side by side */
    svg_open(w, 302, "Q-Net's probability of each subject, by group");
    plot_ticks(w, &p, 1, 0.2, 1);
    plot_axes(w, &p, "", "Probability by Q-Net");
    svg_line(w, "d", p.left, plot_y(&p, 0.5), p.left + p.width, plot_y(&p, 0.5));
    for (int hh = 0; hh < 2; hh++) {
        int most = 0;
        for (int i = 0; i < a->count; i++) {
            int beside = 0;
            for (int k = 0; k < a->count; k++)
                beside += a->label[k] == hh && (int)(q->probability[k] * rows) == (int)(q->probability[i] * rows);
            most = a->label[i] == hh ? larger(most, beside) : most;
        }
        for (int i = 0; i < a->count; i++) {
            const double y = plot_y(&p, q->probability[i]), step = fmin(wide, 136.0 / larger(1, most));
            double x = plot_x(&p, hh + 0.5);
            int before = 0;
            if (a->label[i] != hh) continue;
            for (int k = 0; k < i; k++)
                before += a->label[k] == hh && (int)(q->probability[k] * rows) == (int)(q->probability[i] * rows);
            x += (before % 2 ? 1 : -1) * ((before + 1) / 2) * step;
            put(w, "<g><title>");
            put_escaped(w, e->participants[a->participant[i]].subject);
            print(w, " %.3f</title>", q->probability[i]);
            svg_dot(w, hh ? "hh" : "hc", x, y, 3.4);
            if (q->decision[i] != a->label[i]) svg_dot(w, "ring", x, y, 5.2);
            put(w, "</g>");
        }
        svg_text(w, "", "middle", plot_x(&p, hh + 0.5), p.top + p.height + 18, "%s", group_tag(e, hh));
    }
    put(w, "</svg>\n");
}

static void figure_dots(writer *w, const qnet_experiment *e, const assessments *all)
{
    put(w, "<figure><div class=\"panels two\">");
    for (int i = 0; i < all->count; i++) {
        print(w, "<div class=\"panel\"><h3>%s</h3>\n", input_title(all->of[i].input));
        svg_dots(w, e, &all->of[i]);
        put(w, "</div>");
    }
    print(w, "</div><figcaption>A dot is a subject that Q-Net never saw in training: its probability of %s. "
             "Those in a ring are called wrongly; the dashed line is the threshold of .5.</figcaption></figure>\n",
          group_tag(e, 1));
}

static void html_confusion(writer *w, const qnet_experiment *e, const assessments *all)
{
    put(w, "<h3>Confusion matrices</h3>\n<div class=\"matrices\">\n");
    for (int k = 0; k < all->count * QNET_MODELS; k++) {
        const assessment *a = &all->of[k / QNET_MODELS];
        const assessed_model *m = &a->model[k % QNET_MODELS];
        const size_t cell[2][2] = {{m->metrics.count.tp, m->metrics.count.fn},
                                   {m->metrics.count.fp, m->metrics.count.tn}};
        print(w, "<table class=\"confusion\"><thead><tr><th scope=\"col\">%s, %s</th>", m->name,
              a->input == QNET_INPUT_FULL ? "full size" : "cropped");
        for (int hh = 1; hh >= 0; hh--) print(w, "<th scope=\"col\">called %s</th>", group_tag(e, hh));
        put(w, "</tr></thead><tbody>\n");
        for (int row = 0; row < 2; row++) {
            print(w, "<tr><th scope=\"row\">is %s</th>", group_tag(e, !row));
            for (int c = 0; c < 2; c++)
                print(w, "<td%s>%zu</td>", row != c && cell[row][c] ? " class=\"miss\"" : "", cell[row][c]);
            put(w, "</tr>\n");
        }
        put(w, "</tbody></table>\n");
    }
    put(w, "</div>\n");
}

/* Links to the pictures of a scan: where it was cut, and what Q-Net's decision rests on. */
static void put_links(writer *w, const qnet_experiment *e, const pictures *p, int input, int scan)
{
    const int cuts = p->cuts.rgb && p->cuts.count == e->participants_count;
    put(w, "<td>");
    if (cuts) print(w, "<a href=\"#scan-%d\">cut</a>", scan + 1);
    for (int k = 0; k < p->scans[input]; k++)
        if (p->scan[input][k].scan == scan)
            print(w, "%s<a href=\"#heat-%d-%d\">heat map</a>", cuts ? ", " : "", input, scan + 1);
    put(w, "</td>");
}

/* A row per scan. */
static void html_subjects(writer *w, const qnet_experiment *e, const pictures *p, const assessment *a)
{
    const qnet_level_result *l = &e->level[a->input][QNET_LEVEL_SCAN];
    const int shown = a->input == main_input(e);
    print(w, "<details%s><summary>%s: every scan, its probabilities of %s, and what was wrong</summary>\n"
             "<div class=\"scroll\"><table class=\"wide pin sortable\"><thead><tr>",
          shown ? " open" : "", input_title(a->input), group_tag(e, 1));
    cells(w, "th", "Subject|>Fold|>Age|Sex|Is%s|>ResNet|>ResNetSWA|>Q-Net|Q-Net says",
          e->config.shuffle_labels ? " (shuffled)" : "");
    if (p) cells(w, "th", "Pictures");
    put(w, "</tr></thead><tbody>\n");
    for (size_t i = 0; i < l->count; i++) {
        const qnet_item *item = &l->items[i];
        const qnet_participant *s = &e->participants[item->scan];
        const int says = item->decision[QNET_MODEL_QNET], wrong = says != item->label;
        int scan = 1;
        for (int k = 0; k < item->scan; k++) scan += strcmp(e->participants[k].subject, s->subject) == 0;
        print(w, "<tr%s><th scope=\"row\">", wrong ? " class=\"missed\"" : "");
        put_scan_of(w, s);
        if (scan > 1 && !s->session[0]) print(w, ", scan %d", scan);
        put(w, "</th>");
        cells(w, "td", ">%d|>%.0f|%s|%s", item->fold + 1, s->age,
              s->sex == QNET_MALE ? "M" : s->sex == QNET_FEMALE ? "F" : w->missing,
              group_tag(e, item->label));
        for (int m = 0; m < QNET_MODELS; m++) {
            const int miss = item->decision[m] != item->label;
            print(w, "<td class=\"n%s\">%.3f%s</td>", miss ? " miss" : "", item->probability[m],
                  miss ? "&nbsp;&#10007;" : "");
        }
        print(w, "<td%s>%s%s</td>", wrong ? " class=\"miss\"" : "", group_tag(e, says), wrong ? ", wrong" : "");
        if (p) put_links(w, e, p, a->input, item->scan);
        put(w, "</tr>\n");
    }
    put(w, "</tbody></table></div></details>\n");
}

static void html_single(writer *w, const qnet_experiment *e, const pictures *p, const assessments *all)
{
    put(w, "<h2>Subject by subject</h2>\n<h3>Probabilities by Q-Net</h3>\n");
    figure_dots(w, e, all);
    html_confusion(w, e, all);
    if (all->of[0].several || e->config.repeats > 1)
        print(w, "<p class=\"key\">%s%s</p>\n",
              all->of[0].several ? "Some subjects have several scans: here and in what follows each counts once, by "
                                   "the mean of its scans' probabilities and the majority of their decisions. "
                                 : "",
              e->config.repeats > 1 ? "First repeat." : "");
    put(w, "<h3>Every scan</h3>\n");
    for (int i = 0; i < all->count; i++) html_subjects(w, e, p, &all->of[i]);
    put(w, "<p class=\"key\">&#10007; marks a wrong decision, a bar before the subject one of Q-Net. ResNet and "
           "ResNetSWA decide by the majority of slices; shown is the mean of their probabilities, which can lie "
           "on the other side of .5.</p>\n");
}

/* ---- Tables for page and terminal ------------------------------------------------------------------ */

/* The head of a table of the section; in plain text its title stands above. */
static void table_begin(writer *w, const char *title, const char *caption)
{
    if (w->html) print(w, "<p class=\"cap\">%s%s</p>\n<div class=\"scroll\"><table class=\"wide tight\"><thead><tr>", title,
                       caption);
    else print(w, "\n%s\n\n", title);
}

static void table_body(writer *w)
{
    put(w, w->html ? "</tr></thead><tbody>\n" : "\n");
}

static void table_end(writer *w)
{
    if (w->html) put(w, "</tbody></table></div>\n");
}

/* All models and baselines: discrimination, accuracy, calibration, permutation. */
static void put_assessed(writer *w, const qnet_experiment *e, const assessments *all)
{
    const pictures *given = pictures_of(e);
    const int permuted = given && given->permutations > 0;
    char text[3][TEXT_SIZE], p[NUMBER_SIZE];
    table_begin(w, "Models and baselines under the same folds, by subject.",
                " AUC with its 95&nbsp;% interval (DeLong on the logit scale), and its mean within the folds; accuracy "
                "in percent with Wilson's; Brier score, 0 at best; calibration slope with its standard error, 1 "
                "at best.");
    cells(w, "th", "%-10s|%-14s|>%-7s|>%-13s|>%-8s|>%-7s|>%-12s|>%-7s|>%-14s", "Input", "Model", "AUC", "95 %",
          "Within", "Acc.", "95 %", "Brier", "Slope");
    if (permuted) cells(w, "th", ">%s", "p");
    table_body(w);
    for (int k = 0, row = 0; k < all->count * ASSESSED; k++) {
        const assessment *a = &all->of[k / ASSESSED];
        const assessed_model *m = &a->model[k % ASSESSED];
        qnet_mean_std slope;
        if (k % ASSESSED == 0) row = 0;
        if (!m->has) continue;
        slope.mean = is_testable(e) ? m->fit.slope : (double)NAN;
        slope.std = m->fit.slope_error;
        row_begin(w, a->input, row++);
        cells(w, "td", "%-14s|>%-7.3f|>%-13s|>%-8.3f|>%-7.1f|>%-12s|>%-7.3f|>%-14s", m->name, m->auc,
              interval_text(w, text[0], m->auc_ci, 1, 3, 0), m->auc_within, 100 * m->metrics.accuracy,
              interval_text(w, text[1], m->metrics.accuracy_ci, 100, 1, 0), m->fit.brier,
              mean_text(w, text[2], slope, 1, 1));
        if (permuted) cells(w, "td", "> %s", p_text(p, m->permutation_p));
        row_end(w);
    }
    table_end(w);
}

/* DeLong and McNemar, each also by Holm. */
static void put_compared(writer *w, const assessments *all)
{
    char text[4][NUMBER_SIZE];
    table_begin(w, "Pairs of models by subject: DeLong's test of the AUCs, McNemar's of the decisions.",
                " &ldquo;Only&rdquo;: subjects that only this one of the two has right; McNemar's test of these "
                "is the exact binomial one, which holds for any number of subjects. Holm: corrected for the tests of "
                "the same column and input.");
    cells(w, "th", "%-10s|%-11s|%-14s|>%-7s|>%-7s|>%-10s|>%-9s|>%-7s|>%-7s|>%-9s|>%s", "Input", "1", "2", "AUC 1",
          "AUC 2", "p DeLong", "Holm", "Only 1", "Only 2", "McNemar", "Holm");
    table_body(w);
    for (int k = 0; k < all->count * COMPARISONS; k++) {
        const assessment *a = &all->of[k / COMPARISONS];
        const comparison *c = &a->pair[k % COMPARISONS];
        const assessed_model *m1 = &a->model[c->model[0]], *m2 = &a->model[c->model[1]];
        const char *shown[4];
        if (!m1->has || !m2->has) continue;
        for (int t = 0; t < 4; t++) {
            const double p = t % 2 ? c->holm[t / 2] : c->p[t / 2];
            shown[t] = p == p ? p_text(text[t], p) : w->missing;
        }
        row_begin(w, a->input, k % COMPARISONS);
        cells(w, "td", "%-11s|%-14s|>%-7.3f|>%-7.3f|>%-10s|>%-9s|>%-7d|>%-7d|>%-9s|>%s", m1->name, m2->name, m1->auc,
              m2->auc, shown[0], shown[1], (int)c->only[0], (int)c->only[1], shown[2], shown[3]);
        row_end(w);
    }
    table_end(w);
}

/* "12.3" in percent, small ones in more digits. */
static const char *share_text(char text[NUMBER_SIZE], double share)
{
    return fixed_text(text, 100 * share, share < 0.02 ? 2 : 1);
}

static void put_predictive(writer *w, const qnet_experiment *e, const assessments *all)
{
    char text[3][TEXT_SIZE], share[NUMBER_SIZE];
    double at[2];
    const int count = prevalences(e, 0.5, at);
    table_begin(w, "Predictive values in percent, by subject, with 95 % intervals.",
                " PPV: the share of those called ill who are; NPV: the share of those called well who are. They "
                "follow from sensitivity, specificity and the prevalence (Bayes); intervals are score ones of the ratio "
                "of the two rates in question (Miettinen &amp; Nurminen 1985), and take the prevalence as known.");
    cells(w, "th", "%-10s|%-11s|>%-14s|>%-8s|>%-14s|>%-8s|>%s", "Input", "Model", "Prevalence, %", "PPV", "95 %",
          "NPV", "95 %");
    table_body(w);
    for (int k = 0; k < all->count * QNET_MODELS * count; k++) {
        const assessment *a = &all->of[k / (QNET_MODELS * count)];
        const assessed_model *m = &a->model[k / count % QNET_MODELS];
        double value[2];
        predictive v;
        prevalences(e, a->share, value);
        v = predictive_values(m->metrics.count, value[k % count]);
        row_begin(w, a->input, k % (QNET_MODELS * count));
        cells(w, "td", "%-11s|>%-14s|>%-8.1f|>%-14s|>%-8.1f|>%s", m->name, share_text(share, value[k % count]),
              100 * v.ppv, interval_text(w, text[0], v.ppv_ci, 100, 1, 0), 100 * v.npv,
              interval_text(w, text[1], v.npv_ci, 100, 1, 0));
        row_end(w);
    }
    table_end(w);
}

static void html_subgroups(writer *w, const qnet_experiment *e, const assessments *all)
{
    char text[4][TEXT_SIZE], name[TEXT_SIZE], age[NUMBER_SIZE];
    subgroups list;
    table_begin(w, "Q-Net in subgroups, by subject, with 95 % intervals.",
                " In percent but for the AUC, whose interval needs ten subjects of either group. No test was made "
                "whether subgroups differ: they are too small for one to find anything but large differences.");
    cells(w, "th", "Input|Subjects|>%s|>%s|>%s|>%s|>%s|>%s|>%s|>%s|>%s|>%s",
          group_tag(e, 1), group_tag(e, 0), "Acc.", "95 %", "Sens.", "95 %", "Spec.", "95 %", "AUC", "95 %");
    table_body(w);
    for (int i = 0; i < all->count; i++) {
        if (w->status == QNET_OK) w->status = assess_subgroups(e, &all->of[i], &list);
        if (w->status != QNET_OK) return;
        for (int k = 0; k < list.count; k++) {
            const subgroup *s = &list.of[k];
            const qnet_metrics *m = s->count ? &s->metrics : NULL;
            snprintf(name, sizeof name, "%s %s years", k == 2 ? "Up to" : "Above",
                     fixed_text(age, list.median_age, 0));
            row_begin(w, all->of[i].input, k);
            put(w, "<td>");
            if (s->column) put_escaped(w, s->column);
            if (s->column) put(w, ": ");
            put_escaped(w, s->column ? s->value : k == 0 ? "Men" : k == 1 ? "Women" : name);
            put(w, "</td>");
            cells(w, "td", ">%d|>%d|>%.1f|>%s|>%.1f|>%s|>%.1f|>%s|>%.3f|>%s", s->hh, s->count - s->hh,
                  m ? 100 * m->accuracy : (double)NAN,
                  m ? interval_text(w, text[0], m->accuracy_ci, 100, 1, 0) : w->missing,
                  m ? 100 * m->sensitivity : (double)NAN,
                  m && s->hh ? interval_text(w, text[1], m->sensitivity_ci, 100, 1, 0) : w->missing,
                  m ? 100 * m->specificity : (double)NAN,
                  m && s->hh < s->count ? interval_text(w, text[2], m->specificity_ci, 100, 1, 0) : w->missing,
                  s->auc, interval_text(w, text[3], s->auc_ci, 1, 3, 0));
            row_end(w);
        }
    }
    table_end(w);
}

/* Of several repeats: what varies from fold to fold of the first, and from repeat to repeat. */
static void html_spreads(writer *w, const qnet_experiment *e)
{
    int input[2];
    const int inputs = inputs_of(e, input);
    if (e->config.repeats < 2) return;
    table_begin(w, "Spread over folds and over repeats, by scan.",
                " Accuracy in percent. Folds: mean and standard deviation over the folds of the first repeat. Repeats: "
                "over the repeats, each with all its scans, as in the paper: it says how much folds and seeds matter, "
                "not how much other subjects would. Neither is a standard error.");
    cells(w, "th", "Input|Model|>Accuracy, folds|>Accuracy, repeats|>AUC within folds|>AUC, repeats");
    table_body(w);
    for (int k = 0; k < inputs * QNET_MODELS; k++) {
        const int in = input[k / QNET_MODELS], m = k % QNET_MODELS;
        const qnet_level_result *l = &e->level[in][QNET_LEVEL_SCAN];
        const qnet_model_result *r = &l->model[m];
        double sum = 0, squares = 0;
        int folds = 0;
        char text[3][TEXT_SIZE];
        qnet_mean_std by_fold;
        for (int fold = 0; fold < e->config.folds; fold++) {
            double right = 0, count = 0;
            for (size_t i = 0; i < l->count; i++) {
                if (l->items[i].fold != fold) continue;
                right += l->items[i].decision[m] == l->items[i].label;
                count++;
            }
            if (count <= 0) continue;
            sum += right / count;
            squares += right / count * right / count;
            folds++;
        }
        by_fold.mean = sum / larger(1, folds);
        by_fold.std = sqrt(fmax(0, squares - sum * by_fold.mean) / larger(1, folds - 1));
        row_begin(w, in, m);
        cells(w, "td", "%s|>%s|>%s|>%.3f|>%s", qnet_model_name((qnet_model_kind)m),
              mean_text(w, text[0], by_fold, 100, 1), mean_text(w, text[1], r->accuracy, 100, 1),
              r->auc_within_folds, mean_text(w, text[2], r->auc, 1, 1));
        row_end(w);
    }
    table_end(w);
}

/* ---- Figures --------------------------------------------------------------------------------------- */

static void svg_calibration(writer *w, const qnet_experiment *e, const assessment *a)
{
    const plot p = {44, 8, 290, 250, 0, 1, 0, 1};
    const calibration *c = &a->model[QNET_MODEL_QNET].fit;
    char share[80];
    svg_open(w, 302, "Calibration of Q-Net");
    plot_ticks(w, &p, 0, 0.2, 1);
    plot_ticks(w, &p, 1, 0.2, 1);
    snprintf(share, sizeof share, "Share who are %.60s", group_tag(e, 1));
    plot_axes(w, &p, "Probability by Q-Net", share);
    svg_line(w, "d", p.left, p.top + p.height, p.left + p.width, p.top);
    if (is_testable(e) && isfinite(c->slope)) {
        put(w, "<path class=\"l solid c2\" d=\"");
        for (int i = 1; i < 100; i++)
            print(w, "%s%.1f,%.1f", i == 1 ? "M" : "L", plot_x(&p, i / 100.0),
                  plot_y(&p, 1 / (1 + exp(-c->line - c->slope * logit_of(i / 100.0)))));
        put(w, "\"/>\n");
    }
    for (int bin = 0; bin < c->bins; bin++) {
        const qnet_interval r = qnet_wilson((size_t)c->bin_hh[bin], (size_t)c->bin_count[bin], 0.95);
        const double x = plot_x(&p, c->bin_mean[bin]);
        if (c->bin_count[bin] == 0) continue;
        svg_line(w, "a", x, plot_y(&p, r.low), x, plot_y(&p, r.high));
        svg_dot(w, "b2", x, plot_y(&p, (double)c->bin_hh[bin] / c->bin_count[bin]), 4);
    }
    put(w, "</svg>\n");
}

/* One line of net benefit; threshold from 0 to the end of the axis, below 1. */
static void svg_benefit(writer *w, const plot *p, const assessment *a, const double *probability, double prevalence,
                        const char *style)
{
    int drawing = 0; /* not below the axis */
    print(w, "<path class=\"%s\" d=\"", style);
    for (int i = 0; i <= 100; i++) {
        const double t = fmin(p->x_high * i / 100, 0.995);
        const double all = prevalence - (1 - prevalence) * t / (1 - t);
        const double v = probability ? net_benefit(a->label, probability, (size_t)a->count, prevalence, t) : all;
        if (v >= p->y_low) print(w, "%s%.1f,%.1f", drawing ? "L" : "M", plot_x(p, t), plot_y(p, v));
        drawing = v >= p->y_low;
    }
    put(w, "\"/>\n");
}

static void svg_decisions(writer *w, const assessment *a, double prevalence)
{
    static const char *const styles[QNET_MODELS] = {"l c0", "l c1", "l c2"};
    plot p = {50, 8, 284, 250, 0, prevalence >= 0.2 ? 1 : 5 * prevalence, 0, 0};
    const double step = nice_step(1.25 * prevalence, 6);
    p.y_low = -step;
    p.y_high = ceil(prevalence / step) * step;
    svg_open(w, 302, "Decision curves: net benefit over thresholds");
    plot_ticks(w, &p, 1, step, step < 0.001 ? 4 : step < 0.01 ? 3 : step < 0.1 ? 2 : 1);
    plot_ticks(w, &p, 0, nice_step(p.x_high, 6), p.x_high < 0.06 ? 3 : p.x_high < 0.6 ? 2 : 1);
    plot_axes(w, &p, "Threshold: treat from this probability on", "Net benefit");
    svg_line(w, "a", p.left, plot_y(&p, 0), p.left + p.width, plot_y(&p, 0));
    svg_benefit(w, &p, a, NULL, prevalence, "d");
    for (int m = 0; m < QNET_MODELS; m++) svg_benefit(w, &p, a, a->model[m].probability, prevalence, styles[m]);
    for (int m = 0; m < QNET_MODELS; m++) {
        print(w, "<path class=\"%s\" d=\"M228.0,%dh26\"/>\n", styles[m], 20 + 18 * m);
        svg_text(w, "", "start", 260, 24 + 18 * m, "%s", a->model[m].name);
    }
    put(w, "</svg>\n");
}

static void figure_worth(writer *w, const qnet_experiment *e, const assessments *all)
{
    char text[NUMBER_SIZE];
    const pictures *given = pictures_of(e);
    for (int i = 0; i < all->count; i++) {
        const assessment *a = &all->of[i];
        const calibration *c = &a->model[QNET_MODEL_QNET].fit;
        const double at = given && given->prevalence > 0 ? given->prevalence : a->share;
        print(w, "<figure><div class=\"panels two\"><div class=\"panel\"><h3>Calibration &middot; %s</h3>\n",
              input_title(a->input));
        svg_calibration(w, e, a);
        print(w, "</div><div class=\"panel\"><h3>Decision curves &middot; %s</h3>\n", input_title(a->input));
        svg_decisions(w, a, at);
        put(w, "</div></div><figcaption>");
        if (i == 0) {
            print(w, "Left: of subjects with similar probabilities, what share is %s, with Wilson's 95&nbsp;%% "
                     "intervals; on the dashed diagonal the probabilities mean what they say. The line is logit P = "
                     "a + slope logit(probability), a slope below 1 when they are too sure; the intercept is that of a "
                     "slope of 1 (calibration in the large), above 0 when they are too low (Van Calster et al. 2019). "
                     "Right: net benefit at a prevalence of %s&nbsp;%%, true positives less false ones weighed by the "
                     "threshold's odds, of all (Vickers &amp; Elkin 2006); dashed: treat all; the line at 0: treat "
                     "nobody. A model helps where it is above both.<br>",
                  group_tag(e, 1), share_text(text, at));
        }
        print(w, "Brier score %.3f, where always saying the cohort's share of %.3f would have %.3f; mean probability "
                 "%.3f", c->brier, a->share, a->share * (1 - a->share), c->mean);
        if (is_testable(e)) print(w, "; intercept %.2f, standard error %.2f", c->intercept, c->intercept_error);
        if (is_testable(e) && isfinite(c->slope)) {
            print(w, "; slope %.2f, standard error %.2f.", c->slope, c->slope_error);
        } else {
            put(w, "; no slope: there are too few subjects, or the probabilities separate the groups.");
        }
        put(w, "</figcaption></figure>\n");
    }
}

static void html_assessment(writer *w, const qnet_experiment *e, const assessments *all)
{
    const pictures *given = pictures_of(e);
    put(w, "<h2>Beside simpler models</h2>\n<p>Would less do? Two logistic regressions under the "
           "same folds: age and sex alone; and the means of QSM and R2* within the mask (the box, if a scan has none) in "
           "the slices that are used. Both with a ridge of 1 on predictors standardised on the training folds only; "
           "what is not known of a subject is set to the training folds' mean. A model that has learnt nothing, a "
           "baseline included, gives each fold the share of its training, and so an AUC below 0.5 over all folds: "
           "beating such a baseline says little.</p>\n");
    put_assessed(w, e, all);
    if (given && given->permutations > 0) {
        print(w, "<p class=\"key\">p: of %d permutations of the labels over the subjects, the share with an AUC as "
                 "high, the labels themselves included. It tests that these out-of-fold probabilities have nothing to "
                 "do with the labels. Nothing is trained anew for it: it errs on the safe side, as where there is "
                 "nothing to learn the AUC over all folds is expected below 0.5; the control that trains on permuted labels, and "
                 "so finds leaks, is <code>--shuffle-labels</code>.</p>\n", given->permutations);
    }
    put_compared(w, all);
    html_spreads(w, e);
    html_subgroups(w, e, all);
    put(w, "<h2>What the probabilities are worth</h2>\n<h3>Calibration and net benefit</h3>\n");
    figure_worth(w, e, all);
    put(w, "<h3>Predictive values</h3>\n");
    put_predictive(w, e, all);
    if (!(given && given->prevalence > 0)) {
        put(w, "<p class=\"key\">The cohort's own prevalence is that of its recruiting");
        put(w, group_given(e, 1) ? ". <code>--prevalence</code> states another.</p>\n"
                                : "; 1 in 200 is that of C282Y homozygotes among people of northern European descent "
                                  "(Adams et al. 2005). <code>--prevalence</code> states another.</p>\n");
    }
}

/* The same for the terminal, in short. */
static void text_assessed(writer *w, const qnet_experiment *e)
{
    assessments all;
    if (w->status != QNET_OK) return;
    w->status = assess_all(e, &all);
    if (w->status == QNET_OK && all.count > 0) {
        put_assessed(w, e, &all);
        put_compared(w, &all);
        put_predictive(w, e, &all);
    }
    assess_free(e, &all);
}

/* ---- results.json ---------------------------------------------------------------------------------- */

static void json_assessed_model(writer *w, const qnet_experiment *e, const assessment *a, const assessed_model *m)
{
    const calibration *c = &m->fit;
    const int tested = is_testable(e);
    double at[2];
    const int count = prevalences(e, a->share, at);
    open_object(w, m->name, "{");
    put_members(w, "auc %g; auc_logit95 [%g, %g]; auc_within_folds %g; "
                   "confusion {\"tp\": %zu, \"fn\": %zu, \"tn\": %zu, \"fp\": %zu}; accuracy %g; "
                   "accuracy_wilson95 [%g, %g]; permutation_p %g; brier %g; mean_probability %g",
                m->auc, m->auc_ci.low, m->auc_ci.high, m->auc_within, m->metrics.count.tp, m->metrics.count.fn,
                m->metrics.count.tn, m->metrics.count.fp, m->metrics.accuracy, m->metrics.accuracy_ci.low,
                m->metrics.accuracy_ci.high, m->permutation_p, c->brier, c->mean);
    put_members(w, "calibration_intercept %g; calibration_slope %g; calibration_errors [%g, %g]; calibration_line %g",
                tested ? c->intercept : (double)NAN, tested ? c->slope : (double)NAN,
                tested ? c->intercept_error : (double)NAN, tested ? c->slope_error : (double)NAN,
                tested ? c->line : (double)NAN);
    open_object(w, "predictive", "[");
    for (int k = 0; k < count; k++) {
        const predictive v = predictive_values(m->metrics.count, at[k]);
        put_members(w, " {\"prevalence\": %g, \"ppv\": %g, \"ppv95\": [%g, %g], \"npv\": %g, \"npv95\": [%g, %g]}",
                    at[k], v.ppv, v.ppv_ci.low, v.ppv_ci.high, v.npv, v.npv_ci.low, v.npv_ci.high);
    }
    close_object(w, "]");
    close_object(w, "}");
}

static void json_assessed_input(writer *w, const qnet_experiment *e, const assessment *a)
{
    static const char *const names[SUBGROUPS] = {"men", "women", "up_to_median_age", "above_median_age"};
    subgroups list;
    open_object(w, qnet_input_name((qnet_input)a->input), "{");
    put_members(w, "subjects %d; share_hh %g; baseline_ridge %g", a->count, a->share, BASELINE_RIDGE);
    for (int m = 0; m < ASSESSED; m++)
        if (a->model[m].has) json_assessed_model(w, e, a, &a->model[m]);
    open_object(w, "pairs", "[");
    for (int k = 0; k < COMPARISONS; k++) {
        const comparison *c = &a->pair[k];
        const assessed_model *m1 = &a->model[c->model[0]], *m2 = &a->model[c->model[1]];
        if (!m1->has || !m2->has) continue;
        put_members(w, " {\"first\": %s, \"second\": %s, \"delong_p\": %g, \"delong_holm\": %g, "
                       "\"only1\": %zu, \"only2\": %zu, \"mcnemar_p\": %g, \"mcnemar_holm\": %g}",
                    m1->name, m2->name, c->p[0], c->holm[0], c->only[0], c->only[1], c->p[1], c->holm[1]);
    }
    close_object(w, "]");
    open_object(w, "qnet_subgroups", "{");
    if (w->status == QNET_OK) w->status = assess_subgroups(e, a, &list);
    if (w->status != QNET_OK) return;
    put_members(w, "median_age %g", list.median_age);
    for (int k = 0; k < list.count; k++) {
        const subgroup *s = &list.of[k];
        const double known = s->count ? 0 : (double)NAN;
        if (k == SUBGROUPS) open_object(w, "by_column", "[");
        open_object(w, s->column ? "" : names[k], "{");
        if (s->column) put_members(w, "column %s; value %s", s->column, s->value);
        put_members(w, "hh %d; hc %d; accuracy %g; sensitivity %g; specificity %g; auc %g; auc_logit95 [%g, %g]",
                    s->hh, s->count - s->hh, known + s->metrics.accuracy, known + s->metrics.sensitivity,
                    known + s->metrics.specificity, s->auc, s->auc_ci.low, s->auc_ci.high);
        close_object(w, "}");
    }
    if (list.count > SUBGROUPS) close_object(w, "]");
    close_object(w, "}");
    close_object(w, "}");
}

/* For results.json: "by_subject". */
static void json_assessed(writer *w, const qnet_experiment *e)
{
    const pictures *given = pictures_of(e);
    assessments all;
    if (w->status != QNET_OK) return;
    w->status = assess_all(e, &all);
    if (w->status == QNET_OK) {
        open_object(w, "by_subject", "{");
        put_members(w, "permutations %d", given ? given->permutations : 0);
        for (int i = 0; i < all.count; i++) json_assessed_input(w, e, &all.of[i]);
        close_object(w, "}");
    }
    assess_free(e, &all);
}

#endif
