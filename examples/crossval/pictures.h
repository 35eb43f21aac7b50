/* pictures.h: the pictures of the report that need images or networks: where each scan was cut (cuts.h),
   Fig. 3 (augmentation), Fig. 9 and 10 (class activation maps). qnet_publish.input draws them while the
   images of one input are in memory. */
#ifndef PICTURES_H
#define PICTURES_H
#include "cuts.h"
#include <string.h>

#ifndef CAM_SCANS
#define CAM_SCANS 3 /* of each class */
#endif
#define SHEET_COLUMNS 6
#define SHEET_GAP 4
#define SHEET_EPOCH 1000000 /* draws that no training sees */

/* A scan that was left out of the cohort, by --exclude or --skip-bad. */
typedef struct left_out {
    char subject[64], session[64]; /* "sub-01", "" */
    const char *why;
} left_out;

typedef struct cam_picture {
    int scan, slice;
    double probability; /* of HH */
} cam_picture;

/* Starts from all zero; [2] is by qnet_input. */
typedef struct pictures {
    const char *group[2]; /* what the groups are called, by label; NULL: as in the paper. Set by the
                             caller, without characters that HTML or JSON would need escaped */
    left_out *out;        /* [outs] */
    int outs;
    cut_pictures cuts;
    int size[2];          /* side of the network's input, and of each picture */
    qnet_buffer sheet[2]; /* [size][sheet_width(size)][3]: the QSM channel; empty: not run */
    int cams[2];
    cam_picture cam[2][2 * CAM_SCANS];
    qnet_buffer cam_rgb[2]; /* [cams][2][size][size][3]: the QSM slice, then the map over it */
} pictures;

static inline int sheet_width(int size)
{
    return SHEET_COLUMNS * size + (SHEET_COLUMNS - 1) * SHEET_GAP;
}

static inline void pictures_free(qnet_context *ctx, pictures *p)
{
    free(p->cuts.rgb);
    free(p->out);
    for (int i = 0; i < 2; i++) {
        qnet_buffer_free(ctx, &p->sheet[i]);
        qnet_buffer_free(ctx, &p->cam_rgb[i]);
    }
}

/* Appends this many bytes, zeroed. */
static qnet_status picture_room(qnet_context *ctx, qnet_buffer *b, size_t bytes)
{
    static const unsigned char zero[4096] = {0};
    const size_t end = b->size + bytes;
    qnet_status status = QNET_OK;
    while (b->size < end && status == QNET_OK)
        status = qnet_buffer_append(ctx, b, zero, end - b->size < 4096 ? end - b->size : 4096);
    return status;
}

/* 0..1 to 0..255, rounded; what lies outside is clipped. */
static uint8_t picture_byte(double v)
{
    return (uint8_t)(v <= 0 ? 0 : v >= 1 ? 255 : (int)(v * 255 + 0.5));
}

/* The middle slice of a scan into out[size][size][3]: as the network sees it, or for the eye, without the
   normalisation, in 0..1. record NULL: without augmentation. */
static qnet_status picture_slice(const qnet_experiment *e, const qnet_cohort *cohort, int scan, int for_eye,
                                 const qnet_augmentation *record, qnet_real *out)
{
    const int size = cohort->config.size, side = cohort->height;
    const qnet_augmentation test = qnet_augment_test(side, side, size, size);
    const float *slice = qnet_scan_slice(cohort, scan, cohort->scans[scan].slices / 2);
    qnet_augment_config config = e->config.stage1.augment;
    for (int c = 0; c < 3 && for_eye; c++) {
        config.mean[c] = 0;
        config.std[c] = 1;
    }
    return qnet_augment_apply(e->ctx, &config, record ? record : &test, slice, side, side, out, size, size,
                              NULL);
}

/* Fig. 3: the middle slice of the first scan of HH without augmentation, then as five draws make it.
   work: [size][size][3]. */
static qnet_status draw_sheet(const qnet_experiment *e, const qnet_cohort *cohort, qnet_buffer *sheet,
                              qnet_real *work)
{
    const int size = cohort->config.size, side = cohort->height, width = sheet_width(size);
    int scan = 0;
    qnet_status status = picture_room(e->ctx, sheet, (size_t)width * (size_t)size * 3);
    if (status == QNET_OK) memset(sheet->bytes, 255, sheet->size);
    while (scan + 1 < cohort->scans_count && e->participants[scan].label != QNET_HH) scan++;
    for (int k = 0; k < SHEET_COLUMNS && status == QNET_OK; k++) {
        qnet_rng rng = qnet_rng_at(e->config.seed, QNET_RANDOM_AUGMENT, SHEET_EPOCH, (uint64_t)k);
        const qnet_augmentation record =
            qnet_augment_draw(&e->config.stage1.augment, &rng, side, side, size, size);
        status = picture_slice(e, cohort, scan, 1, k == 0 ? NULL : &record, work);
        for (int i = 0; i < size * size && status == QNET_OK; i++)
            memset(sheet->bytes + 3 * (i / size * width + i % size + k * (size + SHEET_GAP)),
                   picture_byte((double)work[3 * i]), 3);
    }
    return status;
}

/* Appends the map of the middle slice of scan s by the ResNetSWA of the fold that never saw it, for the
   class that the slice is given. work: [size][size] times three qnet_real, two float. */
static qnet_status draw_cam(const qnet_experiment *e, const qnet_cohort *cohort, pictures *p, int s,
                            qnet_resnet *net, qnet_real *work)
{
    const int input = (int)cohort->config.input, size = cohort->config.size;
    const size_t pixels = (size_t)size * (size_t)size;
    float *map = (float *)(void *)(work + 3 * pixels), *grey = map + pixels;
    cam_picture *cam = &p->cam[input][p->cams[input]];
    qnet_real logits[QNET_CLASSES], probability[QNET_CLASSES];
    uint8_t *rgb;
    qnet_status status = picture_room(e->ctx, &p->cam_rgb[input], 6 * pixels);
    if (status == QNET_OK)
        status = qnet_experiment_weights(e, (qnet_input)input, 0, e->fold[s], QNET_MODEL_RESNET_SWA, net->table,
                                         net->weights);
    if (status == QNET_OK) status = picture_slice(e, cohort, s, 1, NULL, work);
    if (status != QNET_OK) return status;
    rgb = p->cam_rgb[input].bytes + p->cam_rgb[input].size - 6 * pixels;
    for (size_t i = 0; i < pixels; i++) {
        grey[i] = (float)work[3 * i];
        memset(rgb + 3 * i, picture_byte((double)grey[i]), 3);
    }
    status = picture_slice(e, cohort, s, 0, NULL, work);
    if (status == QNET_OK) status = qnet_resnet_forward(net, work, 1, 0, logits, NULL);
    if (status != QNET_OK) return status;
    qnet_softmax(1, QNET_CLASSES, logits, probability);
    status = qnet_cam(net, 0, probability[QNET_HH] > (qnet_real)0.5 ? QNET_HH : QNET_HC, map, NULL);
    if (status != QNET_OK) return status;
    qnet_cam_overlay(map, grey, size, size, rgb + 3 * pixels);
    cam->scan = s;
    cam->slice = cohort->scans[s].slices / 2;
    cam->probability = (double)probability[QNET_HH];
    p->cams[input]++;
    return QNET_OK;
}

/* Fig. 9, 10: the first CAM_SCANS scans of each class that Q-Net's scan head gets right (or any, where it
   gets too few right), by a network for one image without gradients. */
static qnet_status draw_cams(const qnet_experiment *e, const qnet_cohort *cohort, pictures *p, qnet_real *work)
{
    const qnet_item *items = e->level[cohort->config.input][QNET_LEVEL_SCAN].items;
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_status status;
    qnet_resnet_config_init(&config);
    config.height = config.width = cohort->config.size;
    config.batch = 1;
    config.training = 0;
    status = qnet_resnet_create(e->ctx, &config, &net);
    for (int label = 1; label >= 0; label--) {
        int drawn = 0;
        for (int right = 1; right >= 0; right--)
            for (int s = 0; s < cohort->scans_count && drawn < CAM_SCANS && status == QNET_OK; s++) {
                if (items[s].label != label) continue;
                if ((items[s].decision[QNET_MODEL_QNET] == label) != right) continue;
                status = draw_cam(e, cohort, p, s, net, work);
                drawn++;
            }
    }
    qnet_resnet_destroy(net);
    return status;
}

/* For qnet_publish.input, whose user is a pictures. */
static inline qnet_status pictures_input(void *user, const qnet_experiment *e, const qnet_cohort *cohort)
{
    pictures *p = (pictures *)user;
    const int input = (int)cohort->config.input, size = cohort->config.size;
    const size_t pixels = (size_t)size * (size_t)size;
    qnet_buffer work;
    qnet_status status;
    memset(&work, 0, sizeof work);
    p->size[input] = size;
    p->cams[input] = 0;
    p->sheet[input].size = p->cam_rgb[input].size = 0;
    status = picture_room(e->ctx, &work, pixels * (3 * sizeof(qnet_real) + 2 * sizeof(float)));
    if (status == QNET_OK)
        status = draw_sheet(e, cohort, &p->sheet[input], (qnet_real *)(void *)work.bytes);
    if (status == QNET_OK) status = draw_cams(e, cohort, p, (qnet_real *)(void *)work.bytes);
    qnet_buffer_free(e->ctx, &work);
    return status;
}
#endif
