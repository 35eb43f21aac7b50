/* check.h: reads a cohort scan by scan and keeps all its problems, not the first one only: for
   `crossval --check`, which trains nothing, and at the start of every run, for which this is the reading
   itself (qnet_dataset.read), so that no file is read twice. Of each scan it keeps what a reader wants to
   see of it (check_page.h), and which scans were left out, and why. */
#ifndef CROSSVAL_CHECK_H
#define CROSSVAL_CHECK_H
#include "bids.h"
#include "pictures.h"
#include "program.h"
#include "writer.h"

/* A sentence about a scan, by its place in the list; -1: about the whole. level: QNET_LOG_ERROR for a
   problem, QNET_LOG_WARNING for what is accepted but odd, QNET_LOG_INFO for what was done. */
typedef struct check_note {
    int scan, skipped; /* skipped: --skip-bad leaves out what it is about */
    qnet_log_level level;
    char *text;
} check_note;

/* What the page and the table show of a scan. */
typedef struct check_scan {
    int problems, warnings, out; /* out: it is left out, by --skip-bad */
    int n[BIDS_MAPS][3];         /* as in the file; 0: it could not be read */
    double mm[BIDS_MAPS][3];
    char axes[BIDS_MAPS][4];
    float value[3][3];           /* by map: 1st, 50th and 99th percentile of the voxels that are not 0 */
    int taken, slices, in_mask;  /* in_mask: slices that hold the mask; 0: there is none */
    qnet_cut cut;                /* once it is taken */
    double mask_ml;
    qnet_buffer picture;         /* HTML */
} check_scan;

typedef struct check {
    qnet_context *ctx;
    display *shown;
    const qnet_experiment_config *config;
    bids *found;
    int showing;                 /* 1: --check: facts and pictures are kept, warnings wait for the page */
    int skip_bad;
    const char *(*in_options)(const char *sentence, char text[2000]);
    void (*draw)(struct check *c, check_scan *scan, const qnet_scan *cut, const qnet_scan_maps *maps);
    double box_mm;               /* side of what a cropped image shows; 0: full images */
    qnet_viewer viewer, inner;   /* inner: is shown the same scans, if it has a function */
    qnet_status (*estimate)(struct check *c, const qnet_cohort *cohort); /* of the first cohort; NULL: none */
    const char *folder;          /* of the results, which is there; NULL: none */
    char text[600];              /* of the estimate */
    check_scan *scan;            /* [found->count] */
    check_note *note;
    int notes, room, problems, skipped, warnings, current, begun; /* skipped: of the problems */
    int failed;                  /* 1: its problems are what the run ended by */
    pictures *drawn;             /* gets who is left out */
} check;

static void check_free(check *c)
{
    for (int i = 0; i < c->notes; i++) free(c->note[i].text);
    for (int i = 0; c->scan && i < c->found->count; i++) qnet_buffer_free(c->ctx, &c->scan[i].picture);
    free(c->note);
    free(c->scan);
}

/* ---- sentences -------------------------------------------------------------------------------- */

/* The subject of a note; "": it is about the whole, or the search failed and its list is gone. */
static const char *check_subject(const check *c, const check_note *note)
{
    return note->scan >= 0 && c->found->list ? c->found->list[note->scan].subject : "";
}

/* "sub-01, session 2", or "the cohort". */
static const char *check_name(const check *c, int scan, char text[160])
{
    const bids_scan *s = scan >= 0 && c->found->list ? &c->found->list[scan] : NULL;
    snprintf(text, 160, "%s%s%s", s ? s->subject : "the cohort", s && s->session[0] ? ", session " : "",
             s ? s->session : "");
    return text;
}

/* 1: it is about this scan, or names its subject first, as "sub-04 and sub-08 have the same QSM map", a problem of
   the second one, does: nobody knows whose map it is. */
static int check_is_of(const check *c, const check_note *note, int scan)
{
    const char *subject = c->found->list[scan].subject;
    const size_t n = strlen(subject);
    return note->scan == scan || (note->scan >= 0 && note->level == QNET_LOG_ERROR &&
                                  strncmp(note->text, subject, n) == 0 && strncmp(note->text + n, " and ", 5) == 0);
}

/* Keeps a sentence, once. Out of memory it is not kept, but counted. */
static void check_note_add(check *c, int scan, qnet_log_level level, const char *sentence)
{
    char text[2000];
    const check_note told = {scan, 0, level, text};
    c->in_options(sentence, text);
    for (int i = 0; i < c->notes; i++)
        if (c->note[i].scan == scan && strcmp(c->note[i].text, text) == 0) return;
    if (c->notes == c->room) {
        const int room = c->room ? 2 * c->room : 32;
        check_note *note = (check_note *)realloc(c->note, (size_t)room * sizeof *note);
        if (note) c->note = note, c->room = room;
    }
    c->problems += level == QNET_LOG_ERROR;
    c->warnings += level == QNET_LOG_WARNING;
    for (int i = 0; c->scan && i < c->found->count; i++) {
        if (!check_is_of(c, &told, i)) continue;
        c->scan[i].problems += level == QNET_LOG_ERROR;
        c->scan[i].warnings += level == QNET_LOG_WARNING;
    }
    if (c->notes < c->room && (c->note[c->notes].text = (char *)malloc(strlen(text) + 1)) != NULL) {
        strcpy(c->note[c->notes].text, text);
        c->note[c->notes].scan = scan;
        c->note[c->notes].skipped = 0;
        c->note[c->notes++].level = level;
    }
}

static PRINTF_LIKE(4, 5) void check_say(check *c, int scan, qnet_log_level level, const char *format, ...)
{
    char text[1600];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    check_note_add(c, scan, level, text);
}

/* For bids.problem. */
static void check_problem(void *user, int scan, const char *sentence)
{
    check_note_add((check *)user, scan, QNET_LOG_ERROR, sentence);
}

/* For qnet_log.message. Problems are kept; the rest, too, where there will be a page. */
static void check_message(void *user, qnet_log_level level, const char *sentence)
{
    check *c = (check *)user;
    char text[2000];
    if (level == QNET_LOG_DEBUG) return;
    if (level == QNET_LOG_WARNING && c->begun && c->current >= 0) return; /* told at the first input's reading */
    /* The search has told already that it found no file. */
    if (level == QNET_LOG_ERROR && c->current >= 0 && strstr(sentence, ": no file of the ")) return;
    if (level == QNET_LOG_ERROR || c->showing) check_note_add(c, c->current, level, sentence);
    else message(c->shown, level, c->in_options(sentence, text));
}

/* How many letters a number has that begins at p, the first of a word of text; 0: none does. */
static size_t check_number(const char *text, const char *p)
{
    if (p == text || !strchr(" (", p[-1]) || !strchr("-.0123456789", *p)) return 0;
    return strspn(p, "-+.e0123456789"); /* 1..9 is one */
}

/* Whether two sentences are the same but for the subject's name and numbers: then one is shown, with the others'
   names. */
static int check_same(const check *c, const check_note *a, const check_note *b)
{
    const char *x = a->text, *y = b->text;
    const char *of_x = check_subject(c, a), *of_y = check_subject(c, b);
    if (a->level != b->level || !*of_x || !*of_y) return a == b;
    const size_t nx = strlen(of_x), ny = strlen(of_y);
    while (*x || *y) {
        const size_t of_number[2] = {check_number(a->text, x), check_number(b->text, y)};
        if (strncmp(x, of_x, nx) == 0 && strncmp(y, of_y, ny) == 0) x += nx, y += ny;
        else if (of_number[0] && of_number[1]) x += of_number[0], y += of_number[1];
        else if (*x++ != *y++) return 0;
    }
    return 1;
}

/* 1: an earlier note is the same. Otherwise how many later ones are, and their names into list[size]. */
static int check_repeats(const check *c, int i, int *others, char *list, size_t size)
{
    *others = 0;
    list[0] = '\0';
    for (int k = 0; k < i; k++)
        if (check_same(c, &c->note[k], &c->note[i])) return 1;
    for (int k = i + 1; k < c->notes; k++)
        if (check_same(c, &c->note[i], &c->note[k])) {
            ++*others;
            bids_name(list, size, check_subject(c, &c->note[k]));
        }
    return 0;
}

/* What to do about a problem whose sentence does not say it. */
static const char *check_advice(const char *text)
{
    static const char *const advice[][2] = {
        {"swapped?", "exchange the two files, or their columns in the table of --maps FILE"},
        {"wrong sign", "multiply the map by -1"},
        {"same QSM map", "find out whose it is, and leave the other out; else both"},
        {"where there is no mask", "put it there, or a mask, or give --slices FIRST:N and --center X,Y for all"},
        {"no mask, and", "draw one, or give --slices FIRST:N and --center X,Y for all"},
        {"HH or HC", ""}, {"subgroups: ", ""}, {"; if it is right", ""}, {"; choose with", ""}, {"is there twice", ""},
        {"--group-column NAME is", ""},
        {"participants.tsv", "mend that line"},
        {"mask.nii.gz or .nii in", "draw it, or give --slices FIRST:N and --center X,Y for all"},
        {".nii.gz or .nii in", "put it there, or name it: --derivatives, --filter, --t1w or --maps FILE"},
        {"there is no file", "mend the path in that table"},
        {"expected a file", "fill it in"},
        {"is NaN, inside", "set NaN to 0 there (fslmaths MAP -nan MAP), or choose other --slices"},
        {"is infinite, inside", "mend the fit that made it, or choose other --slices"},
        {"zero all over", "choose slices that the map covers: --slices FIRST:N, or a smaller mask"},
        {"is empty", "draw it anew, or give --slices FIRST:N and --center X,Y for all"},
        {"is no mask", "name the mask with --maps FILE (if it is in per cent: divide it by 100), or give --slices FIRST:N and --center X,Y"},
        {"shares no voxel", "register it to the QSM map, or copy the header that it lost"},
        {"folds: ", "choose fewer --folds"},
        {"asked for, the volume has", "choose other --slices"},
        {": the box about voxel", "choose another --center, in mm of the world of the files"},
        {"both as .nii and .nii.gz", "remove one of the two"},
        {"link that leads nowhere", "download it (git annex get, datalad get)"},
        {"", "export or copy the file anew"}};
    size_t i = 0;
    while (!strstr(text, advice[i][0])) i++;
    return advice[i][1];
}

/* The scans with problems as a value of --exclude: subjects, each once. "": none. */
static void check_bad_list(const check *c, char *text, size_t size)
{
    text[0] = '\0';
    for (int i = 0; i < c->found->count; i++) {
        const char *subject = c->found->list[i].subject;
        const size_t n = strlen(text);
        if (!c->scan[i].problems || bids_is_named(text, subject)) continue;
        if (n + strlen(subject) + 8 < size) sprintf(text + n, "%s%s", n ? "," : "", subject);
    }
}

/* Once the list of scans is there: room for what is found of each, and what the search found of them. */
static int check_begin(check *c)
{
    c->scan = (check_scan *)calloc(c->found->count > 0 ? (size_t)c->found->count : 1, sizeof *c->scan);
    for (int i = 0; c->scan && i < c->notes; i++)
        if (c->note[i].scan >= 0) c->scan[c->note[i].scan].problems += c->note[i].level == QNET_LOG_ERROR;
    for (int i = 0; c->scan && i < c->found->count; i++) c->scan[i].problems += c->found->list[i].bad;
    return c->scan != NULL;
}

/* ---- reading ---------------------------------------------------------------------------------- */

static int check_compare(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Percentiles of the voxels that are not 0: of some from all over the volume, exact enough to be looked at. A
   stride of whole voxels would take columns of it: steps of the golden section hit all rows alike. Returns the
   value that a third of them have, as a background has that is not 0 though it should be; 0: none. */
static float check_values(const qnet_volume *v, float value[3])
{
    enum { MOST = 20000 };
    const double count = (double)v->nx * v->ny * v->nz;
    float *some = (float *)malloc(MOST * sizeof *some);
    size_t n = 0;
    double place = 0;
    float background = 0;
    value[0] = value[1] = value[2] = 0;
    for (int i = 0; some && i < MOST; i++) {
        const float voxel = v->voxels[(size_t)(place * count)];
        if (voxel != 0 && isfinite(voxel)) some[n++] = voxel;
        place += 0.6180339887498949;
        place -= place >= 1;
    }
    if (n > 0) {
        qsort(some, n, sizeof *some, check_compare);
        for (int k = 0; k < 3; k++) value[k] = some[(n - 1) * (size_t)(k == 0 ? 1 : k == 1 ? 50 : 99) / 100];
        for (size_t i = n / 3; i < n; i++)
            if (n > 300 && some[i] == some[i - n / 3]) background = some[i];
    }
    free(some);
    return background;
}

/* For qnet_viewer: the maps of the scan as they are in the files. */
static void check_map(void *user, const qnet_scan_maps *maps)
{
    check *c = (check *)user;
    check_scan *s = &c->scan[c->current];
    qnet_volume *const map[BIDS_MAPS] = {maps->qsm, maps->r2star, maps->t1w, maps->mask};
    static const char *const what[3] = {"QSM", "R2*", "T1W"};
    float background;
    if (!c->showing) return;
    for (int m = 0; m < BIDS_MAPS; m++) {
        if (map[m] == NULL) continue;
        s->n[m][0] = map[m]->nx, s->n[m][1] = map[m]->ny, s->n[m][2] = map[m]->nz;
        memcpy(s->mm[m], map[m]->spacing, sizeof s->mm[m]);
        memcpy(s->axes[m], map[m]->orientation, sizeof s->axes[m]);
        if (m < 3 && (background = check_values(map[m], s->value[m])) != 0)
            check_say(c, c->current, QNET_LOG_WARNING, "%s: a third of its voxels or more are %g: a background that "
                      "is not 0 counts as head; set it to 0", what[m], (double)background);
    }
    if (c->draw) c->draw(c, s, NULL, maps);
}

/* For qnet_viewer: where it was cut. */
static void check_show(void *user, const qnet_scan *scan, const qnet_scan_maps *maps)
{
    check *c = (check *)user;
    check_scan *s = &c->scan[c->current];
    const double *mm = maps->qsm->spacing;
    const size_t plane = (size_t)maps->qsm->nx * (size_t)maps->qsm->ny;
    if (c->inner.show) c->inner.show(c->inner.user, scan, maps);
    s->taken = 1;
    if (!c->showing) return;
    for (int z = 0; maps->mask && z < maps->qsm->nz; z++) {
        size_t i = 0;
        while (i < plane && !(maps->mask->voxels[(size_t)z * plane + i] > 0)) i++;
        s->in_mask += i < plane;
    }
    s->cut = scan->cut;
    s->slices = scan->slices;
    s->mask_ml = scan->cut.mask_voxels * mm[0] * mm[1] * mm[2] / 1000;
    if (c->draw) c->draw(c, s, scan, maps);
}

/* 1: the basal ganglia were found without a mask. */
static int check_located(const qnet_cut *cut, double *confidence)
{
    *confidence = cut->confidence;
    return cut->located;
}

/* The most frequent of the voxel sizes, and how many scans have it. */
static int check_usual(const check *c, double usual[3])
{
    int most = 0;
    for (int i = 0; i < c->found->count; i++) {
        int same = 0;
        for (int j = 0; j < c->found->count; j++) {
            double apart = 0;
            for (int k = 0; k < 3; k++) apart = fmax(apart, fabs(c->scan[i].mm[0][k] - c->scan[j].mm[0][k]));
            same += c->scan[j].n[0][0] > 0 && apart < 0.02;
        }
        if (c->scan[i].n[0][0] == 0 || same <= most) continue;
        most = same;
        memcpy(usual, c->scan[i].mm[0], 3 * sizeof *usual);
    }
    return most;
}

/* The median over the scans of a percentile of a map. */
static float check_median(const check *c, int m, int k)
{
    float *value = (float *)malloc((size_t)c->found->count * sizeof *value), median = 0;
    size_t n = 0;
    for (int i = 0; value && i < c->found->count; i++)
        if (c->scan[i].n[m][0] > 0) value[n++] = c->scan[i].value[m][k];
    if (n > 0) {
        qsort(value, n, sizeof *value, check_compare);
        median = value[n / 2];
    }
    free(value);
    return median;
}

#define CHECK_FEW_SLICES 5

/* What is odd when a scan is seen beside the others, and what is not known of it. */
static void check_compare_scans(check *c)
{
    static const char *const what[2] = {"QSM", "R2*"};
    double usual[3] = {0, 0, 0};
    const int most = check_usual(c, usual), count = c->found->count;
    float median[2];
    for (int m = 0; m < 2; m++) median[m] = check_median(c, m, 2);
    for (int i = 0; i < count; i++) {
        const check_scan *s = &c->scan[i];
        const bids_scan *who = &c->found->list[i];
        double apart = 0;
        for (int k = 0; k < 3; k++) apart = fmax(apart, fabs(s->mm[0][k] - usual[k]));
        if (s->n[0][0] > 0 && apart >= 0.02 && 2 * most > count)
            check_say(c, i, QNET_LOG_WARNING, "voxels of %.2f x %.2f x %.2f mm, where %d of %d scans have %.2f x "
                      "%.2f x %.2f: another protocol? The network sees mm, not voxels, but not their blur",
                      s->mm[0][0], s->mm[0][1], s->mm[0][2], most, count, usual[0], usual[1], usual[2]);
        for (int m = 0; m < 2; m++)
            if (s->n[m][0] > 0 && !s->problems && count >= 4 &&
                (s->value[m][2] > 4 * median[m] || s->value[m][2] < 0.25f * median[m]))
                check_say(c, i, QNET_LOG_WARNING, "%s: 99 %% of its values are below %.3g, in most scans "
                          "%.3g: another field strength, unit or masking?", what[m], (double)s->value[m][2],
                          (double)median[m]);
        if (s->in_mask > 0 && s->in_mask < CHECK_FEW_SLICES)
            check_say(c, i, QNET_LOG_WARNING, "only %d slice%s the mask: is it whole?", s->in_mask,
                      s->in_mask > 1 ? "s hold" : " holds");
        if (who->age != who->age || who->sex == QNET_SEX_UNKNOWN)
            check_say(c, i, QNET_LOG_WARNING, "%s%s%s not known from participants.tsv",
                      who->age != who->age ? "age" : "", who->age != who->age && !who->sex ? " and " : "",
                      who->sex == QNET_SEX_UNKNOWN ? "sex" : "");
    }
}

/* Each fold needs a subject of each group. */
static qnet_status check_folds(check *c)
{
    static const char *const name[2] = {"HC", "HH"};
    const bids *b = c->found;
    int subjects[2] = {0, 0}, too_few = 0;
    for (int i = 0; i < c->notes && !c->skip_bad; i++) /* lines of the table: it would follow from them */
        if (c->note[i].scan < 0 && c->note[i].level == QNET_LOG_ERROR) return QNET_OK;
    for (int i = 0; i < b->count; i++)
        if (!c->scan[i].out && (i == 0 || strcmp(b->list[i - 1].subject, b->list[i].subject)))
            subjects[b->list[i].label == QNET_HH]++;
    for (int k = 0; k < 2; k++) {
        const char *given = k ? b->positive : b->negative;
        if (subjects[k] >= c->config->folds) continue;
        if (too_few++) break; /* one is enough */
        check_say(c, -1, QNET_LOG_ERROR, "folds: %d asked for, but there are only %d %s subjects",
                  c->config->folds, subjects[k], given ? given : name[k]);
    }
    return too_few ? QNET_ERROR_DATA : QNET_OK;
}

/* By scan, those about the whole first; of a scan in the order in which they were found. */
static void check_sort(check *c)
{
    for (int i = 1; i < c->notes; i++) {
        const check_note note = c->note[i];
        int k = i;
        for (; k > 0 && c->note[k - 1].scan > note.scan; k--) c->note[k] = c->note[k - 1];
        c->note[k] = note;
    }
}

/* Remembers who is left out. why must stay. */
static void check_leave_out(check *c, const char *subject, const char *session, const char *why)
{
    pictures *to = c->drawn;
    left_out *list = (left_out *)realloc(to->out, (size_t)(to->outs + 1) * sizeof *list);
    if (list == NULL) return;
    to->out = list;
    snprintf(list[to->outs].subject, sizeof list->subject, "%.63s", subject);
    snprintf(list[to->outs].session, sizeof list->session, "%.63s", session);
    list[to->outs++].why = why;
}

/* The first problem of a scan. */
static const char *check_why(const check *c, int scan)
{
    for (int i = 0; i < c->notes; i++)
        if (check_is_of(c, &c->note[i], scan) && c->note[i].level == QNET_LOG_ERROR) return c->note[i].text;
    return "its line in participants.tsv";
}

/* Scan i into its cohort and, at the first reading, for the trial into that of the other input, whose
   images come from the same maps and are cut only later, maybe after days. */
static qnet_status check_read_one(check *c, int i, qnet_cohort *cohort)
{
    const qnet_input other = cohort->config.input == QNET_INPUT_CROP ? QNET_INPUT_FULL : QNET_INPUT_CROP;
    const int trial = !c->begun && c->config->use_input[other];
    qnet_input_config config = c->config->input[other];
    qnet_cohort *both[2] = {NULL, cohort};
    qnet_status status = QNET_OK;
    config.viewer = NULL;
    c->current = i;
    if (trial) status = qnet_cohort_create(c->ctx, &config, 1, &both[0]);
    if (status == QNET_OK) status = qnet_cohort_read(both + !trial, 1 + trial, &c->found->dataset.scans[i]);
    if (both[0]) qnet_cohort_destroy(both[0]);
    c->current = -1;
    return status;
}

/* All scans that are not left out, into a cohort of their own. The status is not OK where it could not
   go on; problems are counted. */
static qnet_status check_read_all(check *c, qnet_cohort *cohort)
{
    const qnet_hooks *hooks = qnet_context_hooks(c->ctx);
    const int count = c->found->count;
    const double start = hooks->clock.seconds(hooks->clock.user);
    for (int i = 0; i < count; i++) {
        if (c->scan[i].out) continue;
        const qnet_status status = check_read_one(c, i, cohort);
        if (status == QNET_ERROR_MEMORY) return status;
        if (status != QNET_OK && c->scan[i].problems == 0) /* what the search had no reason to tell */
            check_note_add(c, i, QNET_LOG_ERROR, qnet_last_error(c->ctx));
        const double seconds = hooks->clock.seconds(hooks->clock.user) - start, done = i + 1;
        const qnet_progress_info info = {
            "read cohort", c->showing ? "check" : "", 0, 0, (size_t)i + 1, (size_t)count, (double)NAN, 0,
            seconds > 0 ? done / seconds : 0, seconds * (count - done) / done, done / count};
        if (hooks->progress.report && hooks->progress.report(hooks->progress.user, &info)) return QNET_STOPPED;
    }
    return QNET_OK;
}

/* Reads anew where a scan is left out that was read: by then another one had the same map. */
static qnet_status check_read_again(check *c, const qnet_input_config *config, qnet_cohort **cohort)
{
    int again = 0;
    for (int i = 0; i < c->found->count; i++) again |= c->scan[i].out && c->scan[i].taken;
    if (!again) return QNET_OK;
    qnet_cohort_destroy(*cohort);
    *cohort = NULL;
    pictures_forget(c->drawn);
    c->begun = 1; /* its warnings are told */
    const qnet_status status = qnet_cohort_create(c->ctx, config, c->found->count, cohort);
    const qnet_status read = status == QNET_OK ? check_read_all(c, *cohort) : status;
    c->begun = 0;
    return read;
}

/* For qnet_dataset.read, whose user is a check: the cohort of an input. At the first reading all problems
   are found; with --skip-bad their scans are left out of it, and of the second, otherwise it fails. */
static qnet_status check_read(void *user, const qnet_input_config *config, qnet_cohort **out)
{
    check *c = (check *)user;
    qnet_input_config seen = *config;
    qnet_cohort *cohort = NULL;
    qnet_status status;
    char names[400] = "", text[500];
    const int before = c->skip_bad ? c->problems : 0;
    int bad = 0;
    memset(&c->inner, 0, sizeof c->inner);
    if (config->viewer) c->inner = *config->viewer;
    c->viewer.user = c;
    c->viewer.show = check_show;
    c->viewer.read = check_map;
    seen.viewer = &c->viewer;
    status = qnet_cohort_create(c->ctx, &seen, c->found->count, &cohort);
    for (int i = 0; i < c->found->count && !c->begun && c->skip_bad && !c->showing; i++)
        c->scan[i].out = c->scan[i].problems > 0; /* by the search: not even read */
    if (status == QNET_OK) status = check_read_all(c, cohort);
    if (status == QNET_OK && !c->begun) {
        for (int i = 0; i < c->notes && c->skip_bad; i++) {
            if (c->note[i].level != QNET_LOG_ERROR) continue;
            c->note[i].skipped = 1;
            c->skipped++;
            if (c->note[i].scan >= 0 || c->showing) continue; /* a line that names no scan */
            check_leave_out(c, "participants.tsv", "", c->note[i].text);
            message(c->shown, QNET_LOG_WARNING, c->note[i].text);
        }
        for (int i = 0; i < c->found->count; i++) {
            if (!c->skip_bad || c->scan[i].problems == 0) continue;
            c->scan[i].out = 1;
            check_leave_out(c, c->found->list[i].subject, c->found->list[i].session, check_why(c, i));
            bids_name(names, sizeof names, c->found->list[i].subject);
            bad++;
        }
        if (bad > 0) {
            snprintf(text, sizeof text, "%d of %d scans have problems and are left out (--skip-bad): %s", bad,
                     c->found->count, names);
            message(c->shown, QNET_LOG_WARNING, text);
        }
        if (c->showing) check_compare_scans(c);
        status = check_folds(c);
        if (status == QNET_OK && !c->showing) status = check_read_again(c, &seen, &cohort);
    }
    if (status == QNET_OK && c->problems > before && (!c->skip_bad || c->begun)) status = QNET_ERROR_DATA;
    if (status == QNET_OK && cohort->scans_count == 0) status = QNET_ERROR_DATA;
    if (cohort && cohort->scans_count > 0 && (status == QNET_OK || c->showing)) {
        const qnet_status compared = qnet_cohort_outliers(cohort);
        if (status == QNET_OK) status = compared;
        if (c->estimate && !c->begun && status == QNET_OK) status = c->estimate(c, cohort);
    }
    check_sort(c);
    c->begun = 1;
    c->failed = status == QNET_ERROR_DATA;
    if (status == QNET_OK) *out = cohort;
    else if (cohort) qnet_cohort_destroy(cohort);
    return status;
}

#endif
