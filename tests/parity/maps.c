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
        else if (strcmp(command, "brain") == 0) brain();
        else if (strcmp(command, "unwrap") == 0) unwrap();
        else printf("error unknown command %s\n", command);
        fflush(stdout);
    }
    qnet_context_destroy(ctx);
    return 0;
}
