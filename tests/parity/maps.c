/* maps.c: what the steps from echoes to maps make of volumes, for parity_maps_*.py to compare; built
   in float and in double. Reads one command per line from standard input and answers each with one
   line: "ok" and numbers in %.17g, or "error", the status and the sentence. Arrays go through files
   of raw numbers: float for voxels; qnet_real for Fourier transforms. Words are separated by
   blanks; no path may hold one. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static qnet_context *ctx;
static int size[3] = {1, 1, 1}; /* of the volumes to come */
static double affine[3][4];

static const char *word(void)
{
    const char *w = strtok(NULL, " \n");
    return w ? w : "";
}

static int integer(void) { return atoi(word()); }
static double number(void) { return strtod(word(), NULL); }

/* The whole file, or exit: a comparison without its input is no comparison. */
static void *slurp(const char *path, size_t bytes)
{
    qnet_buffer b;
    void *copy = malloc(bytes + 8);
    memset(&b, 0, sizeof b);
    if (qnet_file_read(ctx, path, 0, &b) != QNET_OK || !copy || b.size != bytes) {
        fprintf(stderr, "maps: %s: %lu bytes, expected %lu\n", path, (unsigned long)b.size,
                (unsigned long)bytes);
        exit(1);
    }
    memcpy(copy, b.bytes, b.size);
    qnet_buffer_free(ctx, &b);
    return copy;
}

static void spill(const char *path, const void *bytes, size_t count)
{
    if (qnet_file_replace(ctx, path, bytes, count) != QNET_OK) {
        fprintf(stderr, "maps: %s\n", qnet_last_error(ctx));
        exit(1);
    }
}

static size_t voxels(void) { return (size_t)size[0] * (size_t)size[1] * (size_t)size[2]; }

static qnet_volume *get(void)
{
    const char *path = word();
    float *x = (float *)slurp(path, voxels() * sizeof *x);
    qnet_volume *v = NULL;
    if (qnet_volume_create(ctx, size[0], size[1], size[2], &v) != QNET_OK) exit(1);
    memcpy(v->voxels, x, voxels() * sizeof *x);
    memcpy(v->affine, affine, sizeof affine);
    for (int i = 0; i < 3; i++)
        v->spacing[i] = sqrt(affine[0][i] * affine[0][i] + affine[1][i] * affine[1][i] +
                             affine[2][i] * affine[2][i]);
    free(x);
    return v;
}

/* Answers for a step that made count volumes, whose paths are the next words. */
static void put(qnet_status status, qnet_volume **v, int count)
{
    if (status != QNET_OK) {
        printf("error %s %s\n", qnet_status_name(status), qnet_last_error(ctx));
        return;
    }
    for (int i = 0; i < count; i++) {
        spill(word(), v[i]->voxels, voxels() * sizeof(float));
        qnet_volume_destroy(v[i]);
    }
    printf("ok\n");
}

/* grid nx ny nz affine[12] */
static void grid(void)
{
    for (int i = 0; i < 3; i++) size[i] = integer();
    for (int i = 0; i < 12; i++) affine[i / 4][i % 4] = number();
    printf("ok\n");
}

/* fft INVERSE IN OUT; rfft IN OUT; irfft IN OUT, of the grid's size */
static void fft(int real)
{
    const int inverse = real ? real < 0 : integer();
    const size_t half = 2 * (size_t)(size[0] / 2 + 1) * (size_t)size[1] * (size_t)size[2];
    const size_t count = real ? voxels() : 2 * voxels(), from = inverse && real ? half : count;
    const size_t to = real && !inverse ? half : count;
    qnet_real *x = (qnet_real *)slurp(word(), from * sizeof *x);
    qnet_real *y = (qnet_real *)malloc(to * sizeof *y);
    qnet_status status;
    if (!y) exit(1);
    if (!real) {
        memcpy(y, x, count * sizeof *x);
        status = qnet_fft(ctx, size[0], size[1], size[2], inverse, y);
    } else {
        status = inverse ? qnet_fft_real_inverse(ctx, size[0], size[1], size[2], x, y)
                         : qnet_fft_real(ctx, size[0], size[1], size[2], x, y);
    }
    spill(word(), y, to * sizeof *y);
    put(status, NULL, 0);
    free(x), free(y);
}

/* The fields of the configuration, in its order. */
static qnet_susceptibility_config susceptibility_config(void)
{
    qnet_susceptibility_config c;
    qnet_susceptibility_config_init(&c);
    c.background = (qnet_background)integer();
    c.sharp_threshold = number();
    c.sharp_radius = number();
    c.sharp_unit = (qnet_radius_unit)integer();
    c.tkd_threshold = number();
    c.iteration_threshold = number();
    c.iterations = integer();
    c.mean_zero = integer();
    return c;
}

/* field IN OUT; background CONFIG FIELD MASK LOCAL ERODED; invert CONFIG LOCAL MASK OUT */
static void susceptibility(const char *command)
{
    qnet_susceptibility_config c;
    qnet_volume *a, *b = NULL, *made[2] = {NULL, NULL};
    if (strcmp(command, "field") == 0) {
        a = get();
        put(qnet_dipole_field(ctx, a, made), made, 1);
    } else {
        const int background = strcmp(command, "background") == 0;
        c = susceptibility_config();
        a = get(), b = get();
        put(background ? qnet_background_remove(ctx, &c, a, b, &made[0], &made[1])
                       : qnet_dipole_invert(ctx, &c, a, b, made), made, background ? 2 : 1);
    }
    qnet_volume_destroy(a), qnet_volume_destroy(b);
}

/* brain THRESHOLD ERODE ISLAND IN OUT; unwrap PHASE MASK OUT */
static void brain(void)
{
    qnet_brain_config c;
    qnet_volume *a, *made = NULL;
    qnet_brain_config_init(&c);
    c.threshold = number(), c.erode = integer(), c.island = integer();
    a = get();
    put(qnet_brain_mask(ctx, &c, a, &made), &made, 1);
    qnet_volume_destroy(a);
}

static void unwrap(void)
{
    qnet_volume *a = get(), *b = get(), *made = NULL;
    put(qnet_phase_unwrap(ctx, a, b, &made), &made, 1);
    qnet_volume_destroy(a), qnet_volume_destroy(b);
}

/* Echoes: N TIME[N], then the paths of so many volumes. */
#define MOST 16
static qnet_volume *series[2][MOST];
static double echo_time[MOST];

static int times(void)
{
    const int n = integer();
    if (n < 1 || n > MOST) exit(1);
    for (int e = 0; e < n; e++) echo_time[e] = number();
    return n;
}

static const qnet_volume *const *get_series(int which, int n)
{
    for (int e = 0; e < n; e++) series[which][e] = get();
    return (const qnet_volume *const *)series[which];
}

static void drop_series(void)
{
    for (int e = 0; e < 2 * MOST; e++) {
        qnet_volume_destroy(series[e / MOST][e % MOST]);
        series[e / MOST][e % MOST] = NULL;
    }
}

/* r2star METHOD N TIME[N] MAGNITUDE[N] MASK OUT; fit N TIME[N] PHASE[N] MAGNITUDE[N] MASK SLOPE
   OFFSET; t1 LOW_ANGLE HIGH_ANGLE TR LOW HIGH B1 MASK T1 M0 */
static void relaxometry(const char *command)
{
    qnet_volume *mask, *made[2] = {NULL, NULL};
    if (strcmp(command, "r2star") == 0) {
        const qnet_r2star_method method = (qnet_r2star_method)integer();
        const int n = times();
        const qnet_volume *const *magnitude = get_series(0, n);
        mask = get();
        put(qnet_r2star_map(ctx, method, n, magnitude, echo_time, mask, made), made, 1);
    } else if (strcmp(command, "fit") == 0) {
        const int n = times();
        const qnet_volume *const *phase = get_series(0, n), *const *magnitude = get_series(1, n);
        mask = get();
        put(qnet_phase_fit(ctx, n, phase, magnitude, echo_time, mask, &made[0], &made[1]), made, 2);
    } else {
        const double low = number(), high = number(), tr = number();
        const qnet_volume *const *in = get_series(0, 3);
        mask = get();
        put(qnet_t1_map(ctx, in[0], low, in[1], high, tr, in[2], mask, &made[0], &made[1]), made,
            2);
    }
    qnet_volume_destroy(mask);
    drop_series();
}

/* chain MODE SIGN B0 N TIME[N] MAGNITUDE[N] PHASE[N] MASK QSM ERODED R2STAR */
static void chain(void)
{
    qnet_maps_config c;
    qnet_echoes in;
    qnet_echo echo[MOST];
    qnet_maps *maps = NULL;
    qnet_volume *mask, *made[3] = {NULL, NULL, NULL};
    qnet_maps_config_init(&c);
    memset(&in, 0, sizeof in);
    c.mode = (qnet_maps_mode)integer();
    in.phase_sign = integer(), in.field_strength = number(), in.count = times(), in.echo = echo;
    get_series(0, in.count), get_series(1, in.count);
    for (int e = 0; e < in.count; e++) {
        echo[e].magnitude = series[0][e], echo[e].phase = series[1][e];
        echo[e].echo_time = echo_time[e], echo[e].name = NULL;
    }
    mask = get();
    const qnet_status status = qnet_maps_from_echoes(ctx, &c, &in, NULL, mask, &maps);
    if (status == QNET_OK) {
        made[0] = maps->qsm, made[1] = maps->qsm_mask, made[2] = maps->r2star;
        maps->qsm = maps->qsm_mask = maps->r2star = NULL; /* put() destroys them */
    }
    put(status, made, 3);
    qnet_maps_destroy(maps);
    qnet_volume_destroy(mask);
    drop_series();
}

int main(void)
{
    static char line[8192];
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    while (fgets(line, sizeof line, stdin)) {
        const char *command = strtok(line, " \n");
        if (!command) continue;
        if (strcmp(command, "grid") == 0) grid();
        else if (strcmp(command, "fft") == 0) fft(0);
        else if (strcmp(command, "rfft") == 0) fft(1);
        else if (strcmp(command, "irfft") == 0) fft(-1);
        else if (strcmp(command, "field") == 0 || strcmp(command, "background") == 0 ||
                 strcmp(command, "invert") == 0)
            susceptibility(command);
        else if (strcmp(command, "r2star") == 0 || strcmp(command, "fit") == 0 ||
                 strcmp(command, "t1") == 0)
            relaxometry(command);
        else if (strcmp(command, "chain") == 0) chain();
        else if (strcmp(command, "brain") == 0) brain();
        else if (strcmp(command, "unwrap") == 0) unwrap();
        else printf("error unknown command %s\n", command);
        fflush(stdout);
    }
    qnet_context_destroy(ctx);
    return 0;
}
