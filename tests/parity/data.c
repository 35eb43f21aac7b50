/* data.c: what qnet.h makes of volumes, images and scores, for parity_data.py to compare. Reads one
   command per line from standard input and answers each with one line: "ok" and numbers in %.17g,
   or "error", the status and the sentence. Arrays go through files of raw numbers: float for
   voxels and pixels, double for scores and curves. Words are separated by blanks; no path may hold
   one. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "../gzip.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static qnet_context *ctx;

static const char *word(void)
{
    const char *w = strtok(NULL, " \n");
    return w ? w : "";
}

static int integer(void) { return atoi(word()); }
static double number(void) { return strtod(word(), NULL); }

/* The whole file, or exit: a comparison without its input is no comparison. */
static void *slurp(const char *path, size_t *bytes)
{
    qnet_buffer b;
    void *copy;
    memset(&b, 0, sizeof b);
    if (qnet_file_read(ctx, path, 0, &b) != QNET_OK || !(copy = malloc(b.size + 8))) {
        fprintf(stderr, "data: %s\n", qnet_last_error(ctx));
        exit(1);
    }
    memcpy(copy, b.bytes, b.size);
    if (bytes) *bytes = b.size;
    qnet_buffer_free(ctx, &b);
    return copy;
}

static void *room(size_t bytes)
{
    void *p = calloc(1, bytes + 8);
    if (!p) exit(1);
    return p;
}

static void spill(const char *path, const void *bytes, size_t size)
{
    if (qnet_file_replace(ctx, path, bytes, size) != QNET_OK) {
        fprintf(stderr, "data: %s\n", qnet_last_error(ctx));
        exit(1);
    }
}

static int refused(qnet_status status)
{
    if (status == QNET_OK) return 0;
    printf("error %s %s\n", qnet_status_name(status), qnet_last_error(ctx));
    return 1;
}

static void print(const double *v, size_t n)
{
    for (size_t i = 0; i < n; i++) printf(" %.17g", v[i]);
}

/* nifti PATH OUT: size, source of the affine, orientation, spacing, affine; voxels to OUT. */
static void nifti(void)
{
    const char *path = word(), *out = word();
    qnet_volume *v = NULL;
    if (refused(qnet_nifti_load(ctx, path, &v))) return;
    spill(out, v->voxels, (size_t)v->nx * (size_t)v->ny * (size_t)v->nz * sizeof(float));
    printf("ok %d %d %d %d %s", v->nx, v->ny, v->nz, v->affine_source, v->orientation);
    print(v->spacing, 3);
    print(&v->affine[0][0], 12);
    printf("\n");
    qnet_volume_destroy(v);
}

/* save IN nx ny nz affine[12] slope PATH */
static void save(void)
{
    const char *in = word();
    const int nx = integer(), ny = integer(), nz = integer();
    double slope;
    qnet_volume *v = NULL;
    float *voxels = (float *)slurp(in, NULL);
    if (refused(qnet_volume_create(ctx, nx, ny, nz, &v))) exit(1);
    for (int i = 0; i < 12; i++) v->affine[i / 4][i % 4] = number();
    memcpy(v->voxels, voxels, (size_t)nx * (size_t)ny * (size_t)nz * sizeof(float));
    slope = number();
    if (!refused(qnet_nifti_save(ctx, word(), v, slope))) printf("ok\n");
    qnet_volume_destroy(v);
    free(voxels);
}

/* gunzip IN OUT, gzip IN OUT */
static void pack(int compress)
{
    const char *in = word(), *out = word();
    size_t size;
    void *bytes = slurp(in, &size);
    qnet_buffer b;
    memset(&b, 0, sizeof b);
    if (!refused(compress ? gzip_pack(ctx, bytes, size, &b)
                          : gzip_unpack(ctx, bytes, size, (size_t)1 << 28, &b))) {
        spill(out, b.bytes, b.size);
        printf("ok %lu\n", (unsigned long)b.size);
    }
    qnet_buffer_free(ctx, &b);
    free(bytes);
}

/* augment IN h w OUT out_h out_w and the fields of qnet_augmentation in their order. The stretch is
   the window 0..1, which changes nothing. */
static void augment(void)
{
    const char *in = word();
    const int h = integer(), w = integer();
    const char *out = word();
    const int out_h = integer(), out_w = integer();
    const size_t count = (size_t)out_h * (size_t)out_w * 3;
    float *pixels = (float *)slurp(in, NULL), *copy = (float *)room(count * sizeof(float));
    qnet_real *made = (qnet_real *)room(count * sizeof(qnet_real));
    qnet_augment_config config;
    qnet_augmentation r;
    memset(&r, 0, sizeof r);
    qnet_augment_config_init(&config);
    config.stretch = QNET_STRETCH_WINDOW;
    for (int c = 0; c < 3; c++) {
        config.window_low[c] = 0;
        config.window_high[c] = 1;
    }
    r.hflip = integer();
    r.vflip = integer();
    r.brightness_contrast = integer();
    r.alpha = number();
    r.beta = number();
    r.gamma_on = integer();
    r.gamma = number();
    r.grid = integer();
    for (int i = 0; i <= QNET_GRID_STEPS; i++) r.grid_x[i] = number();
    for (int i = 0; i <= QNET_GRID_STEPS; i++) r.grid_y[i] = number();
    r.affine = integer();
    r.angle = number();
    r.scale = number();
    r.dx = number();
    r.dy = number();
    r.crop_y = integer();
    r.crop_x = integer();
    if (!refused(qnet_augment_apply(ctx, &config, &r, pixels, h, w, made, out_h, out_w, NULL))) {
        for (size_t i = 0; i < count; i++) copy[i] = (float)made[i];
        spill(out, copy, count * sizeof(float));
        printf("ok\n");
    }
    free(pixels);
    free(copy);
    free(made);
}

/* resize IN h w channels OUT out_h out_w */
static void resize(void)
{
    const char *in = word();
    const int h = integer(), w = integer(), channels = integer();
    const char *out = word();
    const int out_h = integer(), out_w = integer();
    const size_t bytes = (size_t)out_h * (size_t)out_w * (size_t)channels * sizeof(float);
    float *pixels = (float *)slurp(in, NULL), *made = (float *)room(bytes);
    qnet_image_resize(pixels, h, w, channels, made, out_h, out_w);
    spill(out, made, bytes);
    printf("ok\n");
    free(pixels);
    free(made);
}

/* stretch IN percentile_low percentile_high OUT: the limits, low[3] high[3], and the pixels. */
static void stretch(void)
{
    size_t bytes;
    float *pixels = (float *)slurp(word(), &bytes), low[3], high[3];
    const size_t count = bytes / sizeof(float) / 3;
    qnet_augment_config config;
    qnet_augmentation none;
    void *scratch;
    qnet_augment_config_init(&config);
    config.percentile_low = number();
    config.percentile_high = number();
    scratch = malloc(qnet_augment_scratch(1, (int)count));
    none = qnet_augment_test(1, (int)count, 1, (int)count);
    if (!refused(qnet_stretch_limits(ctx, &config, pixels, count, low, high, scratch)) &&
        !refused(qnet_augment_apply_within(ctx, &config, &none, pixels, 1, (int)count, low, high, pixels, 1,
                                           (int)count, scratch))) {
        spill(word(), pixels, count * 3 * sizeof(float));
        printf("ok %.17g %.17g %.17g %.17g %.17g %.17g\n", (double)low[0], (double)low[1],
               (double)low[2], (double)high[0], (double)high[1], (double)high[2]);
    }
    free(scratch);
    free(pixels);
}

/* A table of doubles, row by row: label, score1, score2, cluster, decision. */
typedef struct { int *label, *cluster, *decision; double *score[2]; size_t n; } table;

static table read_table(const char *path)
{
    size_t bytes;
    double *row = (double *)slurp(path, &bytes);
    table t;
    t.n = bytes / sizeof(double) / 5;
    t.label = (int *)room(t.n * sizeof(int));
    t.cluster = (int *)room(t.n * sizeof(int));
    t.decision = (int *)room(t.n * sizeof(int));
    t.score[0] = (double *)room(t.n * sizeof(double));
    t.score[1] = (double *)room(t.n * sizeof(double));
    for (size_t i = 0; i < t.n; i++) {
        t.label[i] = (int)row[5 * i];
        t.score[0][i] = row[5 * i + 1];
        t.score[1][i] = row[5 * i + 2];
        t.cluster[i] = (int)row[5 * i + 3];
        t.decision[i] = (int)row[5 * i + 4];
    }
    free(row);
    return t;
}

static void free_table(table *t)
{
    free(t->label);
    free(t->cluster);
    free(t->decision);
    free(t->score[0]);
    free(t->score[1]);
}

/* rates TABLE: tp fn tn fp, accuracy sensitivity specificity precision f1 f1_hh f1_hc f1_macro,
   the three Wilson intervals. */
static void rates(void)
{
    table t = read_table(word());
    qnet_metrics m;
    if (!refused(qnet_metrics_from(ctx, t.label, t.decision, t.n, &m))) {
        const double v[18] = {(double)m.count.tp, (double)m.count.fn, (double)m.count.tn,
                              (double)m.count.fp, m.accuracy, m.sensitivity, m.specificity,
                              m.precision, m.f1, m.f1_hh, m.f1_hc, m.f1_macro, m.accuracy_ci.low,
                              m.accuracy_ci.high, m.sensitivity_ci.low, m.sensitivity_ci.high,
                              m.specificity_ci.low, m.specificity_ci.high};
        printf("ok");
        print(v, 18);
        printf("\n");
    }
    free_table(&t);
}

/* roc TABLE OUT: the AUC; false positive rate, true positive rate, threshold of each point. */
static void roc(void)
{
    table t = read_table(word());
    qnet_roc_point *p = (qnet_roc_point *)room((t.n + 1) * sizeof *p);
    size_t n = 0;
    double auc;
    if (!refused(qnet_roc(ctx, t.label, t.score[0], t.n, p, &n)) &&
        !refused(qnet_auc(ctx, t.label, t.score[0], t.n, &auc))) {
        spill(word(), p, n * sizeof *p);
        printf("ok %.17g\n", auc);
    }
    free(p);
    free_table(&t);
}

/* delong TABLE clustered: auc[2] variance[2] covariance se z p, both intervals. */
static void delong(void)
{
    table t = read_table(word());
    const int clustered = integer();
    qnet_delong d;
    if (!refused(qnet_delong_test(ctx, t.label, t.score[0], t.score[1],
                                  clustered ? t.cluster : NULL, t.n, &d))) {
        const double v[12] = {d.auc[0], d.auc[1], d.variance[0], d.variance[1], d.covariance, d.se,
                              d.z, d.p, d.ci[0].low, d.ci[0].high, d.ci[1].low, d.ci[1].high};
        printf("ok");
        print(v, 12);
        printf("\n");
    }
    free_table(&t);
}

/* bootstrap TABLE clustered resamples seed OUT: low q1 median q3 high mean std of the AUCs. */
static void bootstrap(void)
{
    table t = read_table(word());
    const int clustered = integer(), resamples = integer();
    const uint64_t seed = (uint64_t)number();
    double *auc = (double *)room((size_t)resamples * sizeof(double));
    qnet_boxplot b;
    if (!refused(qnet_bootstrap_auc(ctx, t.label, t.score[0], clustered ? t.cluster : NULL, t.n,
                                    resamples, seed, auc)) &&
        !refused(qnet_boxplot_of(ctx, auc, (size_t)resamples, &b))) {
        const double v[7] = {b.low, b.q1, b.median, b.q3, b.high, b.mean, b.std};
        spill(word(), auc, (size_t)resamples * sizeof(double));
        printf("ok");
        print(v, 7);
        printf("\n");
    }
    free(auc);
    free_table(&t);
}

int main(void)
{
    static char line[8192];
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    while (fgets(line, sizeof line, stdin)) {
        const char *command = strtok(line, " \n");
        if (!command) continue;
        if (strcmp(command, "nifti") == 0) nifti();
        else if (strcmp(command, "save") == 0) save();
        else if (strcmp(command, "gzip") == 0) pack(1);
        else if (strcmp(command, "gunzip") == 0) pack(0);
        else if (strcmp(command, "augment") == 0) augment();
        else if (strcmp(command, "resize") == 0) resize();
        else if (strcmp(command, "stretch") == 0) stretch();
        else if (strcmp(command, "rates") == 0) rates();
        else if (strcmp(command, "roc") == 0) roc();
        else if (strcmp(command, "delong") == 0) delong();
        else if (strcmp(command, "bootstrap") == 0) bootstrap();
        else if (strcmp(command, "normal") == 0) {
            const double x = number();
            printf("ok %.17g %.17g\n", qnet_normal_cdf(x), qnet_normal_quantile(x));
        } else if (strcmp(command, "build") == 0) {
            char text[256];
            qnet_describe_build(ctx, text, sizeof text);
            printf("ok %s\n", text);
        } else {
            printf("error unknown command %s\n", command);
        }
        fflush(stdout);
    }
    qnet_context_destroy(ctx);
    return 0;
}
