/* page.h: what is known of one predicted scan, as a line, a JSON file and a page in HTML, which is one file and
   loads nothing. */
#ifndef PREDICT_PAGE_H
#define PREDICT_PAGE_H
#include "../crossval/cuts.h"
#include "../crossval/heat.h"
#include "../crossval/page.h"
#include "../crossval/style.h"
#include "echoes.h"

/* A map's voxels within the mask, by halves: those to the left and to the right of the mask's middle. */
typedef struct region { double voxels[2], sum[2], square[2]; } region;

typedef struct scan_page {
    const char *model;     /* the folder, as given */
    char name[64], group[2][48]; /* group: by label, can stand anywhere as it is */
    int named;             /* 1: the study called its groups so */
    qnet_scan_files files;
    made_maps made;
    qnet_predictor *p;
    qnet_cohort *cohort;   /* of the scan */
    qnet_prediction r;
    heat_scan heat;        /* all 0 where the scan is refused */
    cut_pictures cut;
    region qsm, r2star;    /* all 0 without a mask */
    double voxel_ml;
} scan_page;

static inline void page_free(scan_page *page)
{
    free(page->cut.rgb);
    heat_scan_free(&page->heat);
    qnet_cohort_destroy(page->cohort);
    qnet_predictor_destroy(page->p);
}

/* What the study calls its groups; HC and HH, as in the paper, where it does not say. */
static inline void page_groups(scan_page *page)
{
    for (int hh = 0; hh < 2; hh++) {
        const char *name = qnet_safetensors_metadata(page->p->record, hh ? "positive" : "negative");
        char *group = page->group[hh];
        page->named = name != NULL;
        snprintf(group, sizeof page->group[0], "%.40s", name ? name : hh ? "HH" : "HC");
        for (; *group; group++)
            if ((unsigned char)*group < 32 || strchr("<>&\"\\|\177", *group)) *group = '?';
    }
}

/* ---- while the volumes are in memory ------------------------------------------------------------ */

static void region_add(region *r, int right, double value)
{
    r->voxels[right]++;
    r->sum[right] += value;
    r->square[right] += value * value;
}

/* For qnet_viewer: the picture of the cut, and the regions. */
static inline void page_show(void *user, const qnet_scan *scan, const qnet_scan_maps *maps)
{
    scan_page *page = (scan_page *)user;
    const qnet_volume *mask = maps->mask;
    double middle = 0, n = 0;
    cut_show(&page->cut, scan, maps);
    for (int pass = 0; mask && pass < 2; pass++) {
        const size_t count = (size_t)mask->nx * (size_t)mask->ny * (size_t)mask->nz;
        for (size_t i = 0; i < count; i++) {
            const double x = (double)(i % (size_t)mask->nx);
            if (!(mask->voxels[i] > 0)) continue;
            if (pass == 0) {
                middle += x;
                n++;
                continue;
            }
            region_add(&page->qsm, x > middle, (double)maps->qsm->voxels[i]);
            if (maps->r2star) region_add(&page->r2star, x > middle, (double)maps->r2star->voxels[i]);
        }
        if (pass == 0) middle /= n > 0 ? n : 1;
    }
    page->voxel_ml = scan->spacing[0] * scan->spacing[1] * scan->spacing[2] / 1000;
}

/* Mean and standard deviation of a half (0 left, 1 right) or (2) of both. */
static void region_mean(const region *r, int half, double *mean, double *std)
{
    double n = 0, sum = 0, square = 0;
    for (int k = 0; k < 2; k++) {
        if (half < 2 && half != k) continue;
        n += r->voxels[k];
        sum += r->sum[k];
        square += r->square[k];
    }
    *mean = n > 0 ? sum / n : (double)NAN;
    *std = n > 1 ? sqrt(fmax(square - sum * sum / n, 0) / (n - 1)) : (double)NAN;
}

static const char *const half_names[3] = {"left", "right", "both"};

/* ---- what is said -------------------------------------------------------------------------------- */

static void fold_range(const scan_page *page, double range[3])
{
    range[0] = 1;
    range[1] = 0;
    range[2] = page->p->folds > 0 ? 0 : (double)NAN;
    for (int k = 0; k < page->p->folds; k++) {
        range[0] = fmin(range[0], page->r.by_fold[k]);
        range[1] = fmax(range[1], page->r.by_fold[k]);
        range[2] += page->r.by_fold[k] / page->p->folds;
    }
    if (range[0] > range[1]) range[0] = range[1] = (double)NAN;
}

/* 1: the networks trained on all subjects say what none of the folds' networks does. */
static int is_outside(const scan_page *page)
{
    double range[3];
    fold_range(page, range);
    return !page->r.refused && (page->r.probability < range[0] || page->r.probability > range[1]);
}

/* Why there is no calibrated probability. */
static const char *not_calibrated(const qnet_predictor *p)
{
    return p->scans == 0 ? "one fold's networks have no scans to be calibrated on"
                         : "fewer than 10 subjects of a class, or out of fold the networks did not tell them apart";
}

static void study_range(const qnet_predictor *p, int measure, double *low, double *high)
{
    *low = *high = (double)NAN;
    for (int i = 0; i < p->scans; i++) {
        const double value = p->measures[i * QNET_MEASURES + measure];
        if (i == 0 || value < *low) *low = value;
        if (i == 0 || value > *high) *high = value;
    }
}

static const char *const measure_names[QNET_MEASURES] = {
    "99th percentile of |QSM|, ppm", "median of R2*, 1/s", "99th percentile of R2*, 1/s",
    "voxel size to the right, mm", "voxel size to the front, mm", "voxel size upwards, mm"};

/* How many of the study's scans of a class have a lower probability than this one, and how many it has. */
static void study_below(const scan_page *page, int label, int *below, int *all)
{
    *below = *all = 0;
    for (int i = 0; i < page->p->scans; i++) {
        if ((int)page->p->label[i] != label) continue;
        ++*all;
        *below += page->p->probability[i] < page->r.probability;
    }
}

/* What is unlike, with `between` between two of them. */
static void put_unlike(writer *w, const scan_page *page, const char *between)
{
    const qnet_prediction *r = &page->r;
    int n = 0;
    for (int m = 0; m < QNET_MEASURES; m++) {
        double low, high;
        if (!(r->unlike >> m & 1)) continue;
        study_range(page->p, m, &low, &high);
        print(w, "%s%s: %.3f, in the study %.3f to %.3f", n++ ? between : "", measure_names[m], r->measure[m],
              low, high);
    }
    if (r->unlike >> QNET_MEASURES & 1)
        print(w, "%sfeatures: distance %.1f, the limit is %.1f", n++ ? between : "", r->distance, page->p->limit);
}

/* The one line on the terminal. */
static inline void page_line(const scan_page *page)
{
    const qnet_prediction *r = &page->r;
    double range[3];
    qnet_buffer line;
    writer own, *w = &own;
    memset(&line, 0, sizeof line);
    own = writer_begin(page->p->ctx, &line, "-", 0);
    print(w, "%s: ", page->name);
    if (r->refused && r->seen)
        put(w, "no probability: these networks were trained on this scan, so that what they say of it is worth "
               "nothing (--anyway, or the fold that tested it: manifest.json)");
    else if (r->refused) {
        put(w, "no probability: the scan is unlike those of the study: ");
        put_unlike(w, page, "; ");
        put(w, " (--anyway)");
    } else {
        fold_range(page, range);
        print(w, "probability of %s %.4f", page->group[1], r->probability);
        if (page->p->calibrated) print(w, ", calibrated %.2f", r->calibrated);
        else put(w, ", not calibrated");
        if (page->p->folds > 0)
            print(w, ", by the folds' networks %.2f to %.2f%s, %.0f %% of the study's scans are less typical", range[0],
                  range[1], is_outside(page) ? " (it lies outside of their spread)" : "", 100 * r->farther);
        put(w, " (research only, not a diagnosis)");
    }
    if (writer_end(w) == QNET_OK) puts((const char *)line.bytes);
    qnet_buffer_free(page->p->ctx, &line);
}

static const char *metadata(const scan_page *page, const char *key)
{
    const char *value = qnet_safetensors_metadata(page->p->record, key);
    return value ? value : "";
}

/* ---- JSON ---------------------------------------------------------------------------------------- */

static void json_numbers(writer *w, const char *name, const double *value, int count)
{
    print(w, ",\n  \"%s\": [", name);
    for (int i = 0; i < count; i++) print(w, "%s%g", i ? ", " : "", value[i]);
    put(w, "]");
}

static void json_study(writer *w, const scan_page *page)
{
    const qnet_predictor *p = page->p;
    int below[2], all[2];
    for (int k = 0; k < 2; k++) study_below(page, k, &below[k], &all[k]);
    open_object(w, "study", "{");
    put_members(w, "HH %d; HC %d; HH_below %g; HC_below %g", all[1], all[0],
                page->r.refused ? (double)NAN : below[1], page->r.refused ? (double)NAN : below[0]);
    close_object(w, "}");
    open_object(w, "measures", "[");
    for (int m = 0; m < QNET_MEASURES; m++) {
        double low, high;
        study_range(p, m, &low, &high);
        put_members(w, " {\"measure\": %s, \"value\": %g, \"study\": [%g, %g], \"unlike\": %d}", measure_names[m],
                    page->r.measure[m], low, high, page->r.unlike >> m & 1);
    }
    close_object(w, "]");
}

static qnet_status page_json(const scan_page *page, qnet_buffer *json)
{
    const qnet_predictor *p = page->p;
    const qnet_prediction *r = &page->r;
    const qnet_scan *scan = &page->cohort->scans[0];
    writer own = writer_begin(p->ctx, json, "null", 0), *w = &own;
    double mean[2], std[2];
    open_object(w, "", "{");
    put_members(w, "positive %s; negative %s", page->group[1], page->group[0]);
    put_members(w, "use %s; version %s; scan %s; model %s; dataset %s; simulated %d; run %s; input %s",
                "research only, not a diagnosis", QNET_VERSION, page->name, page->model, metadata(page, "dataset"),
                strcmp(metadata(page, "simulated"), "1") == 0, metadata(page, "run"), qnet_input_name(p->input.input));
    put_members(w, "qsm %s; r2star %s; t1w %s; mask %s", page->files.qsm,
                page->files.r2star ? page->files.r2star : "", page->files.t1w ? page->files.t1w : "",
                page->files.mask ? page->files.mask : "");
    if (page->made.how[0])
        put_members(w, "maps_made %s; maps_mode %s; maps_as_study %d", page->made.how, page->made.mode,
                    page->made.as_study);
    put_members(w, "refused %d; seen %d; namesake %d; unlike %d", r->refused, r->seen, r->namesake, r->unlike != 0);
    put_members(w, "probability %g; calibrated %g; calibration %s; intercept %g; slope %g", r->probability,
                r->calibrated, p->calibrated ? "Platt" : "none", p->intercept, p->slope);
    put_members(w, "distance %g; limit %g; few_scans %d; farther %g", r->distance, p->scans ? p->limit : (double)NAN,
                p->few_scans, r->farther);
    json_numbers(w, "by_fold", r->by_fold, p->folds);
    json_study(w, page);
    put_members(w, "located %d; confidence %g", scan->cut.located, scan->cut.confidence);
    open_object(w, "slices", "[");
    for (int t = 0; t < r->slices; t++)
        put_members(w, " {\"z\": %d, \"qnet\": %g, \"resnetswa\": %g, \"contribution\": %g}", scan->slice_z[t],
                    r->by_slice[t], r->by_slice_resnet[t], r->refused ? (double)NAN : page->heat.contribution[t]);
    close_object(w, "]");
    open_object(w, "regions", "[");
    for (int k = 0; k < 3 && page->qsm.voxels[0] + page->qsm.voxels[1] > 0; k++) {
        region_mean(&page->qsm, k, &mean[0], &std[0]);
        region_mean(&page->r2star, k, &mean[1], &std[1]);
        put_members(w, " {\"half\": %s, \"qsm_mean\": %g, \"qsm_std\": %g, \"r2star_mean\": %g, \"r2star_std\": %g}",
                    half_names[k], mean[0], std[0], mean[1], std[1]);
    }
    close_object(w, "]");
    close_object(w, "}");
    return writer_end(w);
}

/* ---- HTML ---------------------------------------------------------------------------------------- */

/* Moves dots of `count` values on a strip apart: how many of the earlier ones lie within a dot's width. */
static int strip_level(const plot *p, const double *value, const double *label, int i)
{
    int level = 0;
    for (int k = 0; k < i; k++)
        level += label[k] == label[i] && fabs(plot_x(p, value[k]) - plot_x(p, value[i])) < 5;
    return level;
}

/* The study's scans as dots, the negative group below; this one as a line; limit (NaN: none) dashed. */
static void svg_strip(writer *w, const scan_page *page, const double *value, double here, double limit, double high,
                      double step, int decimals, const char *label, const char *axis)
{
    const qnet_predictor *s = page->p;
    const plot p = {44, 22, 284, 110, 0, high, 0, 1};
    svg_open(w, 176, label);
    plot_ticks(w, &p, 0, step, decimals);
    svg_line(w, "a", p.left, p.top + p.height, p.left + p.width, p.top + p.height);
    svg_text(w, "", "middle", p.left + p.width / 2, p.top + p.height + 36, "%s", axis);
    for (int k = 0; k < 2; k++) { /* long names are in the caption alone */
        if (strlen(page->group[k]) <= 4) svg_text(w, "", "end", p.left - 10, k ? 51 : 113, "%s", page->group[k]);
        else if (strlen(page->group[k]) <= 9)
            print(w, "<text text-anchor=\"middle\" transform=\"translate(%.0f %d) rotate(-90)\">%s</text>",
                  p.left - 14, k ? 47 : 109, page->group[k]);
    }
    for (int i = 0; i < s->scans; i++) {
        const int hh = s->label[i] > 0.5, level = strip_level(&p, value, s->label, i) % 13;
        print(w, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\"/>", hh ? "hh" : "hc", plot_x(&p, value[i]),
              (hh ? 47.0 : 109.0) + (level % 2 ? -4.5 : 4.5) * ((level + 1) / 2));
    }
    if (limit <= high) {
        svg_line(w, "d", plot_x(&p, limit), p.top, plot_x(&p, limit), p.top + p.height);
        const int before = here > limit || limit > 0.9 * high; /* where "this scan" is not */
        svg_text(w, "m", before ? "end" : "start", plot_x(&p, limit) + (before ? -4 : 4), 82, "limit");
    }
    if (here <= high) {
        svg_line(w, "here", plot_x(&p, here), p.top, plot_x(&p, here), p.top + p.height);
        svg_text(w, "", here > 0.9 * high ? "end" : here < 0.1 * high ? "start" : "middle", plot_x(&p, here), p.top - 6,
                 "this scan");
    }
    put(w, "</svg>\n");
}

static void tile(writer *w, const char *number, const char *text)
{
    print(w, "<div class=\"tile\"><b>%s</b><span>%s</span></div>\n", number, text);
}

/* The line at the top, what must be known with it, and the numbers. */
static void html_verdict(writer *w, const scan_page *page)
{
    const qnet_predictor *p = page->p;
    const qnet_prediction *r = &page->r;
    char number[3][NUMBER_SIZE], text[TEXT_SIZE];
    double range[3];
    put(w, "<p class=\"kicker\">Research only. Not a diagnosis, and not checked for clinical use.</p>\n<h1>");
    put_escaped(w, page->name);
    if (r->refused) put(w, ": no probability</h1>\n");
    else print(w, ": probability of %s %.2f%s</h1>\n", page->named ? page->group[1] : "hemochromatosis",
               r->probability, p->calibrated ? "" : ", not calibrated");
    if (!p->calibrated || is_outside(page) || page->made.care[0] || r->refused || r->unlike || r->seen ||
        r->namesake || p->few_scans || strcmp(metadata(page, "simulated"), "1") == 0) {
        put(w, "<div class=\"care\"><ul>\n");
        if (r->seen)
            put(w, "<li>The networks were trained on this scan: what they say of it is worth nothing.</li>\n");
        if (!r->refused && !p->calibrated)
            print(w, "<li>The probability is not calibrated (%s): it orders scans, and is not how many of a hundred "
                     "such scans are of patients.</li>\n", not_calibrated(p));
        if (is_outside(page))
            put(w, "<li>It lies outside of the spread of the folds' networks, which so tells too little of how sure "
                   "it is.</li>\n");
        if (page->made.care[0]) {
            put(w, "<li>");
            put_escaped(w, page->made.care);
            put(w, ".</li>\n");
        }
        if (r->namesake)
            put(w, "<li>The networks were trained on a subject of this name. If this is another session of that person, "
                   "what they say of it is too good to hold for others.</li>\n");
        if (p->few_scans)
            print(w, "<li>The study has %d scans. With less than %d the limit, above which a scan is unlike them, is "
                     "not well known.</li>\n", p->scans, QNET_PREDICTOR_SCANS);
        if (r->unlike) {
            put(w, "<li>The scan is unlike those of the study, so that nothing is known of how the networks judge "
                   "it: ");
            put_unlike(w, page, "; ");
            put(w, ".</li>\n");
        }
        if (strcmp(metadata(page, "simulated"), "1") == 0)
            put(w, "<li>The model was trained on <b>simulated</b> subjects.</li>\n");
        put(w, "</ul></div>\n");
    }
    if (r->refused) return;
    fold_range(page, range);
    put(w, "<div class=\"tiles\">\n");
    snprintf(text, sizeof text, "probability of %s by the networks %s", page->group[1],
             p->folds ? "trained on all subjects" : "of one fold");
    tile(w, fixed_text(number[0], r->probability, 2), text);
    if (p->calibrated)
        tile(w, fixed_text(number[0], r->calibrated, 2), "the same, calibrated on the study (Platt), for its share "
             "of patients");
    if (p->folds > 0) {
        snprintf(text, sizeof text, "%s &ndash; %s", fixed_text(number[1], range[0], 2),
                 fixed_text(number[2], range[1], 2));
        tile(w, text, "by the networks of the folds, each trained on a part of the subjects");
        snprintf(text, sizeof text, "%s %%", fixed_text(number[1], 100 * r->farther, 0));
        tile(w, text, "of the study's scans are less typical than this one");
    }
    put(w, "</div>\n");
}

static void html_study(writer *w, const scan_page *page)
{
    const qnet_predictor *p = page->p;
    const qnet_prediction *r = &page->r;
    int below[2], all[2];
    double high = p->limit;
    char axis[80];
    if (p->scans == 0) return;
    for (int k = 0; k < 2; k++) study_below(page, k, &below[k], &all[k]);
    for (int i = 0; i < p->scans; i++) high = fmax(high, p->distance[i]);
    if (r->distance > high && r->distance < 4 * high) high = r->distance;
    put(w, "<h2>Among the scans of the study</h2>\n<div class=\"panels\">\n<figure class=\"panel\">\n");
    snprintf(axis, sizeof axis, "Probability of %s", page->group[1]);
    svg_strip(w, page, p->probability, r->probability, (double)NAN, 1, 0.2, 1,
              "Probabilities: this scan and those of the study", axis);
    print(w, "<figcaption>Scans of the study: <span class=\"sw\" style=\"background:var(--hh)\"></span>%d %s, "
             "<span class=\"sw\" style=\"background:var(--hc)\"></span>%d %s, each judged by the networks that were "
             "not trained on it. ", all[1], page->group[1], all[0], page->group[0]);
    if (!r->refused)
        print(w, "A lower probability than this scan: %d of %d %s, %d of %d %s.", below[1], all[1], page->group[1],
              below[0], all[0], page->group[0]);
    put(w, "</figcaption></figure>\n<figure class=\"panel\">\n");
    svg_strip(w, page, p->distance, r->distance, p->limit, 1.05 * high, nice_step(1.05 * high, 6), high < 6,
              "Distance of the features: this scan and those of the study", "Distance of the features");
    print(w, "<figcaption>How far a scan's 512 features lie from those of the training scans (Mahalanobis distance): "
             "%.1f for this one. Above %.1f, three interquartile ranges over the third quartile, no probability is "
             "given.</figcaption></figure>\n</div>\n", r->distance, p->limit);
    put(w, "<div class=\"scroll\"><table><thead><tr>");
    cells(w, "th", "The maps, in slices and box|>This scan|>Study, lowest|>Highest|");
    put(w, "</tr></thead><tbody>\n");
    for (int m = 0; m < QNET_MEASURES; m++) {
        double low;
        study_range(p, m, &low, &high);
        put(w, "<tr>");
        cells(w, "td", "%s|>%.3f|>%.3f|>%.3f|%s", measure_names[m], r->measure[m], low, high,
              r->unlike >> m & 1 ? "<strong class=\"wrong\">unlike</strong>" : "");
        put(w, "</tr>\n");
    }
    put(w, "</tbody></table></div>\n<p class=\"key\">Unlike: more than 1.5 times (a voxel's size: 1.25) as high as in any "
           "scan of the study, or as low. T1W has no unit, and is not compared.</p>\n");
}

static void html_heat(writer *w, const scan_page *page)
{
    const heat_scan *h = &page->heat;
    if (h->slices == 0) return;
    put(w, "<h2>What the decision rests on</h2>\n<figure class=\"cam one\">\n");
    put_heat_scales(w, h->channel, 1, page->group[1], page->group[0]);
    put_heat_scan(w, h, "scan", "This scan", page->group[1], page->group[0]);
    print(w, "<figcaption>Each row: the %s slice; its map of %d &times; %d cells of 32 pixels, which is its "
             "resolution; the map, interpolated, over the slice, without the air. A slice's contribution is gradient "
             "times features, the gradient that of the scan's log odds of %s through the BiLSTM; its map tells the "
             "places that it comes from (Grad-CAM, with both signs). Maps tell where, not why, and not that the "
             "decision is right.</figcaption></figure>\n", heat_windows[h->channel].name, h->rows, h->columns,
          page->group[1]);
}

static void html_scan(writer *w, const scan_page *page)
{
    const qnet_prediction *r = &page->r;
    const qnet_scan *scan = &page->cohort->scans[0];
    put(w, "<h2>The scan</h2>\n");
    if (page->cut.rgb) {
        put(w, "<figure class=\"where\">");
        put_image(w, page->cut.rgb, 2 * CUT_SIDE, CUT_SIDE, "T1W with mask, box and slices");
        put(w, "<figcaption>Where the images were cut: left an axial slice with box (blue) and mask (orange), right a "
               "coronal one with the first and last slice. The patient's right is at the left.");
        if (scan->cut.located)
            print(w, " There is no mask: the basal ganglia were found in QSM and R2*, with a confidence of %.2f.",
                  scan->cut.confidence);
        put(w, "</figcaption></figure>\n");
    }
    if (page->qsm.voxels[0] + page->qsm.voxels[1] > 0) {
        put(w, "<p class=\"cap\">Means within the mask, by its halves.</p>\n<div class=\"scroll\"><table><thead>"
               "<tr>");
        cells(w, "th", "Half|>QSM, ppm, mean|>SD|>R2*, 1/s, mean|>SD|>Volume, ml");
        put(w, "</tr></thead><tbody>\n");
        for (int k = 0; k < 3; k++) {
            const region *q = &page->qsm;
            double mean[2], std[2];
            region_mean(q, k, &mean[0], &std[0]);
            region_mean(&page->r2star, k, &mean[1], &std[1]);
            put(w, "<tr>");
            cells(w, "td", "%s|>%.4f|>%.4f|>%.1f|>%.1f|>%.2f", half_names[k], mean[0], std[0], mean[1], std[1],
                  page->voxel_ml * (k < 2 ? q->voxels[k] : q->voxels[0] + q->voxels[1]));
            put(w, "</tr>\n");
        }
        put(w, "</tbody></table></div>\n");
    }
    if (r->refused) return;
    put(w, "<p class=\"cap\">By slice, from 0 at the bottom of the volume.</p>\n<div class=\"scroll\"><table><thead>"
           "<tr>");
    cells(w, "th", ">Slice|>P(%s), Q-Net|>P(%s), ResNetSWA", page->group[1], page->group[1]);
    put(w, "</tr></thead><tbody>\n");
    for (int t = 0; t < r->slices; t++) {
        put(w, "<tr>");
        cells(w, "td", ">%d|>%.3f|>%.3f", scan->slice_z[t], r->by_slice[t], r->by_slice_resnet[t]);
        put(w, "</tr>\n");
    }
    put(w, "</tbody></table></div>\n");
}

static void record_row(writer *w, const char *name, const char *value)
{
    if (!value || !*value) return;
    print(w, "<tr><td>%s</td><td class=\"wrap\">", name);
    put_escaped(w, value);
    put(w, "</td></tr>\n");
}

static void html_record(writer *w, const scan_page *page)
{
    const qnet_predictor *p = page->p;
    char build[256];
    qnet_describe_build(p->ctx, build, sizeof build);
    put(w, "<h2>Record</h2>\n<div class=\"scroll\"><table><tbody>\n");
    record_row(w, "QSM", page->files.qsm);
    record_row(w, "R2*", page->files.r2star);
    record_row(w, "T1W", page->files.t1w);
    record_row(w, "Mask", page->files.mask);
    record_row(w, "Maps made", page->made.how);
    record_row(w, "Model", page->model);
    record_row(w, "Trained on", metadata(page, "dataset"));
    record_row(w, "Run", metadata(page, "run"));
    record_row(w, "Input", qnet_input_name(p->input.input));
    if (p->scans > 0)
        record_row(w, "Calibration", p->calibrated ? "Platt: logistic regression of the labels on logit P" : "none");
    record_row(w, "Build", build);
    put(w, "</tbody></table></div>\n");
}

static qnet_status page_html(const scan_page *page, qnet_buffer *html)
{
    qnet_buffer body;
    writer own = writer_begin(page->p->ctx, html, "&ndash;", 1), *w = &own, inner;
    memset(&body, 0, sizeof body);
    inner = writer_begin(page->p->ctx, &body, "&ndash;", 1);
    html_verdict(&inner, page);
    html_study(&inner, page);
    html_heat(&inner, page);
    html_scan(&inner, page);
    html_record(&inner, page);
    w->status = inner.status;
    put(w, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
           "content=\"width=device-width,initial-scale=1\"><title>");
    put_escaped(w, page->name);
    put(w, ": prediction, research only</title>\n<style>\n");
    put_css(w);
    put_heat_css(w);
    put(w, ".where img{width:min(32rem,100%);image-rendering:pixelated}.one{max-width:44rem}.one .slices{"
           "max-width:32rem}svg .here{stroke:var(--ink);stroke-width:2}\n</style></head><body><main>\n");
    if (body.size > 0) put_body(w, (const char *)body.bytes);
    put(w, "</main>");
    put_script(w);
    put(w, "</body></html>\n");
    qnet_buffer_free(page->p->ctx, &body);
    return writer_end(w);
}

/* folder/NAME.html and folder/NAME.json; what a file's name cannot hold is a hyphen there. */
static inline qnet_status page_write(const scan_page *page, const char *folder)
{
    qnet_context *ctx = page->p->ctx;
    qnet_status status = qnet_make_folder(ctx, folder);
    for (int k = 0; k < 2 && status == QNET_OK; k++) {
        char path[1200], name[64];
        qnet_buffer text;
        memset(&text, 0, sizeof text);
        strcpy(name, page->name);
        for (char *c = name; *c; c++)
            if (strchr("/\\:*?\"<>|", *c) || (unsigned char)*c < 32) *c = '-';
        snprintf(path, sizeof path, "%.1000s/%s.%s", folder, name, k == 0 ? "json" : "html");
        status = k == 0 ? page_json(page, &text) : page_html(page, &text);
        if (status == QNET_OK) status = qnet_file_replace(ctx, path, text.bytes, text.size);
        qnet_buffer_free(ctx, &text);
    }
    return status;
}

#endif
