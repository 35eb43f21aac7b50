/* The paper's figures in HTML and SVG: Fig. 2, 3 and 5-8, learning curves, and where the images
   were cut. */
#ifndef CROSSVAL_FIGURES_H
#define CROSSVAL_FIGURES_H
#include "json.h"
#include "svg.h"

/* One curve of an ROC figure. */
typedef struct roc_line {
    const qnet_model_result *result;
    const char *name;
    int style;
} roc_line;

/* The curve as a path; steps too small to see are left out: a page of 10^4 items stays small. */
static void svg_roc_path(writer *w, const plot *p, const roc_line *line)
{
    double last_x = 0, last_y = 0;
    print(w, "<path class=\"l c%d\" d=\"", line->style);
    for (size_t i = 0; i < line->result->roc_count; i++) {
        const qnet_roc_point *point = &line->result->roc[i];
        const double x = plot_x(p, point->false_positive_rate);
        const double y = plot_y(p, point->true_positive_rate);
        const int end = i == 0 || i + 1 == line->result->roc_count;
        if (!end && fabs(x - last_x) + fabs(y - last_y) < 0.4) continue;
        print(w, "%s%.1f,%.1f", i == 0 ? "M" : "L", x, y);
        last_x = x;
        last_y = y;
    }
    put(w, "\"/>\n");
}

static void svg_roc(writer *w, const roc_line *lines, int count, const char *label)
{
    const plot p = { 44, 8, 290, 290, 0, 1, 0, 1 };
    const double bottom = p.top + p.height;
    svg_open(w, 342, label);
    plot_ticks(w, &p, 0, 0.2, 1);
    plot_ticks(w, &p, 1, 0.2, 1);
    plot_axes(w, &p, "False positive rate", "True positive rate");
    svg_line(w, "d", p.left, bottom, p.left + p.width, p.top);
    for (int i = 0; i < count; i++) svg_roc_path(w, &p, &lines[i]);
    /* The key, from below; curves of poor models run behind it. */
    svg_rect(w, "k", 182, bottom - 30 - 18 * count, 150, 18 * count + 22);
    print(w, "<path class=\"d\" d=\"M188.0,%.1fh26\"/>\n", bottom - 18);
    svg_text(w, "m", "start", 220, bottom - 14, "No skill");
    for (int i = 1; i <= count; i++) {
        const roc_line *line = &lines[count - i];
        const double y = bottom - 14 - 18 * i;
        print(w, "<path class=\"l c%d\" d=\"M188.0,%.1fh26\"/>\n", line->style, y - 4);
        svg_text(w, "", "start", 220, y, "%s %.3f", line->name, line->result->auc_first);
    }
    put(w, "</svg>\n");
}

/* Fig. 5 and Fig. 8: Q-Net of both inputs. */
static void figure_inputs(writer *w, const qnet_experiment *e, int level)
{
    roc_line lines[2];
    int input[2];
    const int inputs = inputs_of(e, input);
    for (int i = 0; i < inputs; i++) {
        lines[i].result = &e->level[input[i]][level].model[QNET_MODEL_QNET];
        lines[i].style = input[i] == QNET_INPUT_FULL ? 4 : 3;
        lines[i].name = input[i] == QNET_INPUT_FULL ? "Full size" : "Cropped";
    }
    put(w, "<figure class=\"side\"><div class=\"panel\">\n");
    svg_roc(w, lines, inputs, "ROC curves of Q-Net for each input");
    print(w, "</div><figcaption><b>Fig. %d.</b> ROC curve%s of Q-Net, %s-level "
             "classification, with AUC. The dashed diagonal is a classifier without skill."
             "</figcaption></figure>\n",
          level == QNET_LEVEL_IMAGE ? 5 : 8, inputs > 1 ? "s" : "",
          qnet_level_name((qnet_level)level));
}

/* Fig. 6: the three models, a panel per input. */
static void figure_models(writer *w, const qnet_experiment *e)
{
    roc_line lines[QNET_MODELS];
    int input[2];
    const int inputs = inputs_of(e, input);
    put(w, "<figure><div class=\"panels\">");
    for (int i = 0; i < inputs; i++) {
        for (int m = 0; m < QNET_MODELS; m++) {
            lines[m].result = &e->level[input[i]][QNET_LEVEL_IMAGE].model[m];
            lines[m].style = m;
            lines[m].name = qnet_model_name((qnet_model_kind)m);
        }
        print(w, "<div class=\"panel\"><h3>%s</h3>\n", input_title(input[i]));
        svg_roc(w, lines, QNET_MODELS, "ROC curves of the three models");
        put(w, "</div>");
    }
    put(w, "</div><figcaption><b>Fig. 6.</b> ROC curves of the three models by image, with "
           "AUC. The true positive rate is the sensitivity, the false positive rate one less "
           "the specificity.</figcaption></figure>\n");
}

/* One panel of Fig. 7: a box per model over its bootstrapped AUCs. */
static void svg_boxes(writer *w, const qnet_experiment *e,
                      const qnet_level_result *level, int by_subject)
{
    plot p = { 44, 66, 290, 200, 0, 3, 1, 0 };
    const double bottom = p.top + p.height;
    const qnet_boxplot *box[QNET_MODELS];
    double step;
    for (int m = 0; m < QNET_MODELS; m++) {
        const qnet_model_result *r = &level->model[m];
        box[m] = by_subject ? &r->bootstrap_clustered : &r->bootstrap;
        if (box[m]->low < p.y_low) p.y_low = box[m]->low;
        if (box[m]->high > p.y_high) p.y_high = box[m]->high;
    }
    if (!(p.y_high - p.y_low > 0.05)) { /* all alike: a range to draw in */
        p.y_low -= 0.05;
        p.y_high += 0.05;
    }
    step = nice_step(p.y_high - p.y_low, 6);
    p.y_low = floor(p.y_low / step) * step;
    p.y_high = ceil(p.y_high / step) * step;
    svg_open(w, 292, by_subject ? "Box plots of AUC, subjects resampled"
                                : "Box plots of AUC, images resampled");
    plot_ticks(w, &p, 1, step, step < 0.1 ? 2 : 1);
    svg_line(w, "a", p.left, bottom, p.left + p.width, bottom);
    for (int m = 0; m < QNET_MODELS; m++) {
        static const char *const styles[QNET_MODELS] = { "box b0", "box b1", "box b2" };
        const qnet_boxplot *b = box[m];
        const double x = plot_x(&p, m + 0.5), q1 = plot_y(&p, b->q1),
                     q3 = plot_y(&p, b->q3), median = plot_y(&p, b->median),
                     low = plot_y(&p, b->low), high = plot_y(&p, b->high);
        svg_line(w, "a", x, low, x, q1);
        svg_line(w, "a", x, q3, x, high);
        svg_line(w, "a", x - 12, low, x + 12, low);
        svg_line(w, "a", x - 12, high, x + 12, high);
        svg_rect(w, styles[m], x - 26, q3, 52, q1 - q3);
        svg_line(w, "med", x - 26, median, x + 26, median);
        svg_text(w, "", "middle", x, bottom + 18, "%s", qnet_model_name((qnet_model_kind)m));
    }
    for (int k = 0; k < 3; k++) { /* brackets with stars: short ones below, the long one on top */
        const qnet_pair_result *pair = &level->pair[k];
        const double x1 = plot_x(&p, (double)pair->model2 + 0.54), y = k == 1 ? 20 : 46;
        const double x2 = plot_x(&p, (double)pair->model1 + 0.46);
        const qnet_delong *d = by_subject ? &pair->by_subject : &pair->by_item;
        const char *stars = stars_of(e, d);
        if (!stars) continue;
        print(w, "<path class=\"a\" d=\"M%.1f,%.1fv-5H%.1fv5\"/>\n", x1, y + 5, x2);
        svg_text(w, "", "middle", (x1 + x2) / 2, d->p <= 0.05 ? y - 1 : y - 4, "%s",
                 stars);
    }
    put(w, "</svg>\n");
}

static void figure_boxes(writer *w, const qnet_experiment *e)
{
    int input[2];
    const int inputs = inputs_of(e, input);
    put(w, "<figure><div class=\"panels two\">");
    for (int i = 0; i < 2 * inputs; i++) {
        const int by_subject = i % 2;
        print(w, "<div class=\"panel\"><h3>%s, %s resampled</h3>\n",
              input_title(input[i / 2]), by_subject ? "subjects" : "images");
        svg_boxes(w, e, &e->level[input[i / 2]][QNET_LEVEL_IMAGE], by_subject);
        put(w, "</div>");
    }
    print(w, "</div><figcaption><b>Fig. 7.</b> AUCs by image of %d bootstrap samples: box "
             "from the first to the third quartile, line at the median, whiskers at 2.5 and "
             "97.5 %%. %s Where images are resampled, as in the paper, the slices of a scan "
             "count as independent, in the stars too; where subjects are, they do not, and "
             "these are the ones to read.</figcaption></figure>\n",
          e->config.bootstrap,
          is_testable(e)
              ? "Above: level of the difference by DeLong's test, <i>ns</i> p &gt; .05, * p "
                "&le; .05, ** p &le; .01, *** p &le; .001, **** p &le; .0001."
              : "Without stars: there are too few subjects for a test.");
}

/* Fig. 2 (a): ages in bins of ten years, the groups side by side. */
static void svg_ages(writer *w, const qnet_experiment *e)
{
    plot p = { 44, 10, 290, 180, 0, 1, 0, 1 };
    int count[2][13], first = 12, last = 0, most = 1;
    double step;
    memset(count, 0, sizeof count);
    for (int i = 0; i < e->participants_count; i++) {
        const qnet_participant *s = &e->participants[i];
        int bin;
        if (!(s->age >= 0 && s->age < 130) || !is_first_scan(e, i)) continue;
        bin = (int)(s->age / 10);
        most = larger(most, ++count[s->label == QNET_HH][bin]);
        first = bin < first ? bin : first;
        last = larger(last, bin);
    }
    if (first > last) return;
    p.x_low = 10 * first;
    p.x_high = 10 * (last + 1);
    step = fmax(1, nice_step(most, 5));
    p.y_high = ceil(most / step) * step;
    put(w, "<div class=\"panel\"><h3>Age</h3>\n");
    svg_open(w, 236, "Ages of both groups");
    plot_ticks(w, &p, 1, step, 0);
    plot_ticks(w, &p, 0, 10, 0);
    for (int bin = first; bin <= last; bin++) {
        for (int label = 0; label < 2; label++) {
            const double wide = p.width / (last + 1 - first);
            const double top = plot_y(&p, count[label][bin]);
            svg_rect(w, label ? "hh" : "hc",
                     plot_x(&p, 10.0 * bin) + wide * (label ? 0.08 : 0.5), top,
                     wide * 0.4, p.top + p.height - top);
        }
    }
    plot_axes(w, &p, "Age in years", "Subjects");
    put(w, "</svg></div>\n");
}

/* Fig. 2 (b): men and women of each group, as bars of one length scale. */
static void svg_sexes(writer *w, const qnet_experiment *e, const group_counts group[3])
{
    static const char *const names[3] = { "men", "women", "unknown" };
    const int most = larger(1, larger(group[0].subjects, group[1].subjects));
    const int longest = larger((int)strlen(group_tag(e, 0)), (int)strlen(group_tag(e, 1)));
    const int named = longest <= 22; /* longer ones have no room: the colours tell the groups */
    const double left = larger(82, named ? 7 * (longest + 8) : 0);
    put(w, "<div class=\"panel\"><h3>Sex</h3>\n");
    svg_open(w, 200, "Men and women of both groups");
    for (int label = 1; label >= 0; label--) {
        const group_counts *g = &group[label];
        const int counts[3] = { g->men, g->women, g->subjects - g->men - g->women };
        double y = label ? 10 : 112;
        for (int k = 0; k < (counts[2] ? 3 : 2); k++, y += 27) {
            const double length = (292.0 - left) * counts[k] / most;
            svg_text(w, "m", "end", left, y + 15, "%s %s", named ? group_tag(e, label) : "", names[k]);
            svg_rect(w, k == 2 ? "no" : label ? "hh" : "hc", left + 8, y, length, 20);
            svg_text(w, "", "start", left + 14 + length, y + 15, "%d", counts[k]);
        }
    }
    put(w, "</svg></div>\n");
}

/* Loss of curve c at an epoch, on the training items or those that were only watched; NaN where it has none,
   or is of another input or model. */
static double loss_at(const qnet_experiment *e, int c, int input, int model, int epoch, int watched)
{
    const qnet_curve *curve = &e->curves[c];
    double loss;
    if (curve->input != input || curve->kind != model || epoch >= curve->epochs) return (double)NAN;
    loss = watched ? curve->epoch[epoch].validation : curve->epoch[epoch].loss;
    return isfinite(loss) && !(watched && loss <= 0) ? loss : (double)NAN;
}

/* The mean over the curves of an input and model. */
static void svg_loss_mean(writer *w, const qnet_experiment *e, int input, int model, const plot *p, int epochs,
                          int watched)
{
    print(w, "<polyline class=\"l %s c%d\" points=\"", watched ? "watched" : "solid", model);
    for (int i = 0; i < epochs; i++) {
        double sum = 0;
        int n = 0;
        for (int c = 0; c < e->curves_count; c++) {
            const double loss = loss_at(e, c, input, model, i, watched);
            if (loss != loss) continue;
            sum += loss;
            n++;
        }
        if (n == 0) continue;
        print(w, "%.1f,%.1f ", plot_x(p, i + 1), plot_y(p, sum / n));
    }
    put(w, "\"/>\n");
}

/* One polyline per fold and repeat (thin), and their mean (thick). */
static void svg_loss_lines(writer *w, const qnet_experiment *e, int input, int model,
                           const plot *p, int epochs)
{
    for (int c = 0; c < e->curves_count; c++) {
        if (e->curves[c].input != input || e->curves[c].kind != model) continue;
        print(w, "<polyline class=\"t c%d\" points=\"", model);
        for (int i = 0; i < epochs; i++) {
            const double loss = loss_at(e, c, input, model, i, 0);
            if (loss != loss) continue;
            print(w, "%.1f,%.1f ", plot_x(p, i + 1), plot_y(p, loss));
        }
        put(w, "\"/>\n");
    }
    svg_loss_mean(w, e, input, model, p, epochs, 0);
    if (e->config.inner_validation) svg_loss_mean(w, e, input, model, p, epochs, 1);
}

static void figure_learning(writer *w, const qnet_experiment *e)
{
    put(w, "<figure><div class=\"panels\">");
    for (int k = 0; k < 2 * QNET_MODELS; k++) {
        const int input = table_input[k / QNET_MODELS], model = k % QNET_MODELS;
        plot p = { 44, 8, 284, 170, 1, 2, 0, 1 };
        int epochs = 0;
        double most = 0, step;
        for (int c = 0; c < e->curves_count; c++) {
            for (int i = 0; i < e->curves[c].epochs; i++) {
                most = fmax(most, loss_at(e, c, input, model, i, 0)); /* leaves out NaN */
                if (e->config.inner_validation) most = fmax(most, loss_at(e, c, input, model, i, 1));
            }
            if (e->curves[c].input == input && e->curves[c].kind == model)
                epochs = larger(epochs, e->curves[c].epochs);
        }
        if (!(most > 0)) continue;
        step = nice_step(most, 5);
        p.x_high = larger(2, epochs);
        p.y_high = ceil(most / step - 1e-9) * step;
        print(w, "<div class=\"panel\"><h3>%s &middot; %s</h3>\n",
              qnet_model_name((qnet_model_kind)model), input_title(input));
        svg_open(w, 222, "Training loss over epochs");
        plot_ticks(w, &p, 1, step, step < 0.01 ? 3 : step < 0.1 ? 2 : step < 1 ? 1 : 0);
        plot_ticks(w, &p, 0, fmax(1, nice_step(p.x_high - 1, 6)), 0);
        plot_axes(w, &p, "Epoch", "Loss");
        svg_loss_lines(w, e, input, model, &p, epochs);
        put(w, "</svg></div>\n");
    }
    put(w, "</div><figcaption>Training loss, one thin line per fold, their mean thick. "
           "ResNet and ResNetSWA: cross-entropy by image on augmented slices. Q-Net: sum of "
           "the two heads' cross-entropies, by scan and by image.");
    if (e->config.inner_validation) {
        put(w, " Dashed: the mean loss, not augmented, on subjects of the training side that were not trained on "
               "but watched: while a fold is tested, those of the next one. Nothing was chosen by it.");
    }
    put(w, "</figcaption></figure>\n");
}

/* Fig. 3. */
static void figure_augmented(writer *w, const qnet_experiment *e, const pictures *p)
{
    const char *name = heat_windows[heat_channel(e->config.input[main_input(e)].use_channel)].name;
    char alt[48];
    int shown = 0;
    snprintf(alt, sizeof alt, "%s of a slice, and five augmented copies", name);
    for (int i = 0; i < 2; i++) {
        const int input = table_input[i];
        if (p->sheet[input].size == 0) continue;
        print(w, "%s<h3>%s</h3>\n<div class=\"scroll sheet\">", shown++ ? "" : "<figure>",
              input_title(input));
        put_image(w, p->sheet[input].bytes, sheet_width(p->size[input]), p->size[input],
                  alt);
        put(w, "</div>\n");
    }
    if (!shown) return;
    print(w, "<figcaption><b>Fig. 3.</b> Left, %s of a slice as the test phase sees it; the "
             "others are draws of the training augmentation from it: flips, brightness and "
             "contrast, gamma, grid distortion, shift-scale-rotate, crop.</figcaption>"
             "</figure>\n", name);
}

/* Mask, box and slices of each scan, for the eye. */
static void figure_cuts(writer *w, const qnet_experiment *e, const cut_pictures *cuts)
{
    const int input = main_input(e), *used = e->config.input[input].use_channel;
    int odd = 0;
    for (int i = 0; i < e->participants_count; i++) odd += e->participants[i].cut[input].outlier != 0;
    if (!cuts->rgb || cuts->count != e->participants_count) return;
    print(w, "<details%s><summary>Where the images were cut: mask, box and slices of each "
             "scan", odd ? " open" : "");
    if (odd) print(w, "; %d unlike the others", odd);
    put(w, "</summary>\n<figure><div class=\"cuts\">\n");
    for (int i = 0; i < e->participants_count; i++) {
        const qnet_participant *p = &e->participants[i];
        const qnet_cut *c = &p->cut[input];
        print(w, "<figure id=\"scan-%d\"%s>", i + 1, c->outlier ? " class=\"odd\"" : "");
        put_image(w, cuts->rgb + (size_t)i * CUT_BYTES, 2 * CUT_SIDE, CUT_SIDE,
                  "where this scan was cut");
        put(w, "<figcaption>");
        put_scan_of(w, p);
        print(w, ", slices %d&ndash;%d", c->slice[0], c->slice[1]);
        if (c->located) print(w, ", found without a mask (confidence %.2f)", c->confidence);
        if (c->outlier) print(w, ", <b>look: %s</b>", outlier_name(c->outlier));
        put(w, "</figcaption></figure>\n");
    }
    print(w, "</div><figcaption>%s of each scan, the patient's right at the left (%s): "
             "left, the middle slice with the mask (orange) and the box (blue); right, a "
             "coronal plane through its centre, the slices between the lines, counted from 0 "
             "at the bottom.</figcaption></figure></details>\n",
          used[2] ? "T1W" : used[1] ? "R2*" : "QSM (R2* where there is no mask)",
          qnet_input_name((qnet_input)input));
}

#endif
