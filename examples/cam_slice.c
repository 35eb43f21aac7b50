/* cam_slice: the class activation map of one slice as a PNG (paper, Fig. 9 and 10).

       build/cam_slice QSM R2STAR T1W MASK RESNET.safetensors OUT.png [Z]

   Weights: OUT/weights/...-resnet.safetensors of crossval, which also say how to prepare the image.
   Z: the slice, counted upwards from 0; without it, the one with the highest probability of HH.
   The picture shows the QSM channel and, beside it, the map over it: yellow is evidence for HH.
   Prints "slice Z: probability of HH P, brightest at row R, column C". The map has a value for
   every 32 x 32 pixels, interpolated; for research only, not a diagnosis. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"
#include "viridis.h"

#include <stdlib.h>

typedef struct job {
    qnet_cohort *cohort; /* of one scan */
    qnet_resnet *net;
    qnet_real *x;        /* [size][size][3]: the network's input */
    float *heat, *grey;  /* [size][size] */
    uint8_t *rgb;        /* [size][2 size][3]: image, overlay */
} job;

static qnet_status load(qnet_context *ctx, char **path, const qnet_input_config *input, job *j)
{
    qnet_resnet_config config;
    const qnet_scan_files files = {"scan", QNET_HC, 0, QNET_SEX_UNKNOWN, path[0], path[1], path[2], path[3], NULL};
    qnet_status status;
    size_t pixels = (size_t)input->size * (size_t)input->size;
    status = qnet_cohort_load(ctx, input, &files, 1, &j->cohort);
    qnet_resnet_config_init(&config);
    config.height = config.width = input->size;
    config.batch = 1;
    config.training = 0;
    if (status == QNET_OK) status = qnet_resnet_create(ctx, &config, &j->net);
    if (status == QNET_OK)
        status = qnet_weights_load(ctx, path[4], j->net->table, j->net->weights, 0, NULL);
    if (status != QNET_OK) return status;
    j->x = (qnet_real *)malloc(pixels * 3 * sizeof *j->x);
    j->heat = (float *)malloc(pixels * sizeof *j->heat);
    j->grey = (float *)malloc(pixels * sizeof *j->grey);
    j->rgb = (uint8_t *)malloc(pixels * 6);
    return j->x && j->heat && j->grey && j->rgb ? QNET_OK : QNET_ERROR_MEMORY;
}

/* Slice t through the network; its probability of HH. */
static qnet_status forward(qnet_context *ctx, const qnet_augment_config *augment, job *j, int t,
                           double *probability)
{
    int side = j->cohort->height, size = j->net->config.height;
    qnet_augmentation centre = qnet_augment_test(side, side, size, size);
    qnet_real p[QNET_CLASSES];
    qnet_status status = qnet_augment_apply(ctx, augment, &centre, qnet_scan_slice(j->cohort, 0, t),
                                            side, side, j->x, size, size, NULL);
    if (status == QNET_OK) status = qnet_resnet_forward(j->net, j->x, 1, 0, p, NULL);
    if (status != QNET_OK) return status;
    qnet_softmax(1, QNET_CLASSES, p, p);
    *probability = (double)p[QNET_HH];
    return QNET_OK;
}

static qnet_status run(qnet_context *ctx, char **path, int z, job *j)
{
    qnet_input_config input;
    qnet_augment_config augment;
    double p = 0, best = -1;
    size_t size, pixels, i, peak = 0;
    int t, slice = -1;
    qnet_status status = qnet_preparation_load(ctx, path[4], &input, &augment);
    if (status == QNET_OK) status = load(ctx, path, &input, j);
    for (t = 0; status == QNET_OK && t < j->cohort->scans[0].slices; t++) {
        if (z >= 0 && j->cohort->scans[0].slice_z[t] != z) continue;
        status = forward(ctx, &augment, j, t, &p);
        if (status == QNET_OK && p > best) {
            best = p;
            slice = t;
        }
    }
    if (status == QNET_OK && slice < 0) {
        fprintf(stderr, "cam_slice: slice %d does not hold the basal ganglia\n", z);
        return QNET_ERROR_ARGUMENT;
    }
    if (status == QNET_OK) status = forward(ctx, &augment, j, slice, &p);
    if (status == QNET_OK) status = qnet_cam(j->net, 0, QNET_HH, j->heat, NULL);
    if (status != QNET_OK) return status;

    size = (size_t)input.size;
    pixels = size * size;
    for (i = 0; i < pixels; i++) { /* the QSM channel before normalisation, 0..1 */
        j->grey[i] = (float)((double)j->x[3 * i] * augment.std[0] + augment.mean[0]);
        if (j->heat[i] > j->heat[peak]) peak = i;
    }
    for (i = 0; i < size; i++) { /* row by row: the image on the left, the overlay on the right */
        uint8_t *row = j->rgb + i * size * 6;
        size_t c;
        for (c = 0; c < size * 3; c++) row[c] = (uint8_t)(255 * j->grey[i * size + c / 3]);
        viridis_over(j->heat + i * size, j->grey + i * size, 1, (int)size, row + size * 3);
    }
    status = qnet_png_save(ctx, path[5], 2 * (int)size, (int)size, 3, j->rgb);
    if (status == QNET_OK)
        printf("slice %d: probability of HH %.4f, brightest at row %d, column %d\n",
               j->cohort->scans[0].slice_z[slice], best, (int)(peak / size), (int)(peak % size));
    return status;
}

int main(int argc, char **argv)
{
    qnet_context *ctx;
    qnet_status status;
    job j;
    int z = -1;
    char rest; /* catches what stands behind the number */
    const int most = argc == 8 && (sscanf(argv[7], "%d%c", &z, &rest) != 1 || z < 0) ? 6 : 7;
    const int bad = usage(argc, argv, 6, most, "cam_slice QSM R2STAR T1W MASK RESNET.safetensors OUT.png [Z]");
    if (bad >= 0) return bad;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return fputs("cam_slice: no memory\n", stderr), 1;
    memset(&j, 0, sizeof j);
    status = run(ctx, argv + 1, z, &j);
    if (status != QNET_OK && *qnet_last_error(ctx) != '\0')
        fprintf(stderr, "cam_slice: %s: %s\n", qnet_status_text(status), qnet_last_error(ctx));
    free(j.x);
    free(j.heat);
    free(j.grey);
    free(j.rgb);
    qnet_resnet_destroy(j.net);
    qnet_cohort_destroy(j.cohort);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
