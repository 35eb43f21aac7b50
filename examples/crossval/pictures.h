/* pictures.h: the pictures of the report that need images or networks: where each scan was cut (cuts.h),
   Fig. 3 (augmentation), Fig. 9 and 10 (class activation maps), and what Q-Net's decisions rest on (heat.h).
   qnet_publish.input draws them while the images of one input are in memory. */
#ifndef PICTURES_H
#define PICTURES_H
#include "cuts.h"
#include "heat.h"
#include "regions.h"
#include "subgroups.h"
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

/* A scan with its map: of ResNetSWA for the middle slice, 0..1 by its own range, or of Q-Net for all. */
typedef struct cam_picture {
    int scan, slice;    /* slice: the middle one */
    double probability; /* of HH, by slice or by scan */
    heat_scan heat;
} cam_picture;

/* Starts from all zero; [2] is by qnet_input. */
typedef struct pictures {
    const char *group[2]; /* what the groups are called, by label; NULL: as in the paper. Set by the
                             caller, without characters that HTML or JSON would need escaped */
    left_out *out;        /* [outs] */
    int outs;
    double prevalence;    /* that PPV and NPV are stated at besides the cohort's; 0: none given */
    int permutations;     /* of the permutation test; 0: none */
    subject_columns columns; /* whose values make subgroups. Set, and its text freed, by the caller */
    regions means;
    const char *command; /* to run again, with the date; NULL: not shown. Set by the caller, too */
    char date[12];
    cut_pictures cuts;
    int size[2];          /* side of the network's input, and of the sheet's pictures */
    qnet_buffer sheet[2]; /* [size][sheet_width(size)][3]: of one channel (heat_channel); empty: not run */
    int cams[2];
    cam_picture cam[2][2 * CAM_SCANS];
    int scans[2];         /* Q-Net's, of the input that the verdict is about */
    cam_picture scan[2][2 * CAM_SCANS];
} pictures;

static inline int sheet_width(int size)
{
    return SHEET_COLUMNS * size + (SHEET_COLUMNS - 1) * SHEET_GAP;
}

/* Takes the maps of an input away. */
static inline void pictures_clear(pictures *p, int input)
{
    for (int i = 0; i < 2 * CAM_SCANS; i++) {
        heat_scan_free(&p->cam[input][i].heat);
        heat_scan_free(&p->scan[input][i].heat);
    }
    p->cams[input] = p->scans[input] = 0;
}

/* Takes away what pictures_scan took of each scan: they are read anew. */
static inline void pictures_forget(pictures *p)
{
    free(p->cuts.rgb);
    free(p->means.mean);
    memset(&p->cuts, 0, sizeof p->cuts);
    memset(&p->means, 0, sizeof p->means);
}

static inline void pictures_free(qnet_context *ctx, pictures *p)
{
    pictures_forget(p);
    free(p->out);
    for (int i = 0; i < 2; i++) {
        qnet_buffer_free(ctx, &p->sheet[i]);
        pictures_clear(p, i);
    }
}

/* For a qnet_viewer, whose user is a pictures: what is taken of each scan while its volumes are in memory. */
static inline void pictures_scan(void *user, const qnet_scan *scan, const qnet_scan_maps *maps)
{
    cut_show(&((pictures *)user)->cuts, scan, maps);
    region_add(&((pictures *)user)->means, scan, maps);
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

/* The middle slice of a scan, for the eye: without the normalisation, in 0..1. record NULL: without
   augmentation. out[size][size][3]. */
static qnet_status picture_slice(const qnet_experiment *e, const qnet_cohort *cohort, int scan,
                                 const qnet_augmentation *record, qnet_real *out)
{
    const int size = cohort->config.size, side = cohort->height;
    const qnet_augmentation test = qnet_augment_test(side, side, size, size);
    const float *slice = qnet_scan_slice(cohort, scan, cohort->scans[scan].slices / 2);
    qnet_augment_config config = e->config.stage1.augment;
    for (int c = 0; c < 3; c++) {
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
    const int channel = heat_channel(cohort->config.use_channel);
    int scan = 0;
    qnet_status status = picture_room(e->ctx, sheet, (size_t)width * (size_t)size * 3);
    if (status == QNET_OK) memset(sheet->bytes, 255, sheet->size);
    while (scan + 1 < cohort->scans_count && e->participants[scan].label != QNET_HH) scan++;
    for (int k = 0; k < SHEET_COLUMNS && status == QNET_OK; k++) {
        qnet_rng rng = qnet_rng_at(e->config.seed, QNET_RANDOM_AUGMENT, SHEET_EPOCH, (uint64_t)k);
        const qnet_augmentation record =
            qnet_augment_draw(&e->config.stage1.augment, &rng, side, side, size, size);
        status = picture_slice(e, cohort, scan, k == 0 ? NULL : &record, work);
        for (int i = 0; i < size * size && status == QNET_OK; i++)
            memset(sheet->bytes + 3 * (i / size * width + i % size + k * (size + SHEET_GAP)),
                   picture_byte((double)work[3 * i + channel]), 3);
    }
    return status;
}

/* The middle slice of scan s and its map by the ResNetSWA of the fold that never saw it, in net, for the class
   that the slice is given. x[size][size][3]. */
static qnet_status draw_cam(const qnet_experiment *e, const qnet_cohort *cohort, int s, qnet_resnet *net,
                            qnet_real *x, cam_picture *cam)
{
    const int size = cohort->config.size, side = cohort->height, middle = cohort->scans[s].slices / 2;
    const qnet_augmentation test = qnet_augment_test(side, side, size, size);
    const float *pixels = qnet_scan_slice(cohort, s, middle);
    heat_scan *heat = &cam->heat;
    float low, high;
    qnet_real logits[QNET_CLASSES], probability[QNET_CLASSES];
    qnet_status status = heat_scan_room(heat, 1, size) ? QNET_OK : QNET_ERROR_MEMORY;
    if (status == QNET_OK)
        status = qnet_augment_apply(e->ctx, &e->config.stage1.augment, &test, pixels, side, side, x, size, size,
                                    NULL);
    if (status == QNET_OK) status = qnet_resnet_forward(net, x, 1, 0, logits, NULL);
    if (status != QNET_OK) return status;
    qnet_softmax(1, QNET_CLASSES, logits, probability);
    status = qnet_cam(net, 0, probability[QNET_HH] > (qnet_real)0.5 ? QNET_HH : QNET_HC, NULL, heat->cells);
    if (status != QNET_OK) return status;
    low = high = heat->cells[0];
    for (int i = 1; i < heat->rows * heat->columns; i++) {
        low = fminf(low, heat->cells[i]);
        high = fmaxf(high, heat->cells[i]);
    }
    for (int i = 0; i < heat->rows * heat->columns; i++)
        heat->cells[i] = high > low ? (heat->cells[i] - low) / (high - low) : 0;
    heat->channel = heat_channel(cohort->config.use_channel);
    heat_slice(pixels, side, size, heat->channel, heat->grey, heat->air);
    heat->z_mm[0] = heat_z_mm(&cohort->scans[s], middle);
    cam->slice = middle;
    cam->probability = (double)probability[QNET_HH];
    return QNET_OK;
}

/* All slices of scan s and their maps by the Q-Net of that fold, in net and model. */
static qnet_status draw_scan(const qnet_experiment *e, const qnet_cohort *cohort, int s, qnet_resnet *net,
                             qnet_scan_model *model, cam_picture *cam)
{
    const qnet_item *item = &e->level[cohort->config.input][QNET_LEVEL_SCAN].items[s];
    cam->slice = cohort->scans[s].slices / 2;
    cam->probability = item->probability[QNET_MODEL_QNET];
    return heat_scan_make(cohort, s, &e->config.stage1.augment, net, model, &cam->heat);
}

/* Appends to cam[n] scans of a class that Q-Net's scan head gets right, or those that it does not, the first
   ones, up to cam[most]; how many there are then. */
static int choose_scans(const qnet_experiment *e, int input, int label, int right, cam_picture *cam, int n, int most)
{
    const qnet_item *items = e->level[input][QNET_LEVEL_SCAN].items;
    for (int s = 0; s < e->participants_count && n < most; s++)
        if (items[s].label == label && (items[s].decision[QNET_MODEL_QNET] == label) == right) cam[n++].scan = s;
    return n;
}

/* Fig. 9, 10: CAM_SCANS scans of each class that Q-Net's scan head gets right, or any, where it gets too few
   right. Q-Net's own maps: of the same scans, but of one less where it got one wrong, which is shown, too. */
static void choose_cams(const qnet_experiment *e, pictures *p, int input)
{
    const int whole = input == QNET_INPUT_CROP || !e->config.use_input[QNET_INPUT_CROP];
    for (int label = 1; label >= 0; label--) {
        int *n = &p->cams[input], *m = &p->scans[input], most = *n + CAM_SCANS, wrong;
        *n = choose_scans(e, input, label, 1, p->cam[input], *n, most);
        *n = choose_scans(e, input, label, 0, p->cam[input], *n, most);
        if (!whole) continue;
        most = *m + CAM_SCANS;
        wrong = choose_scans(e, input, label, 0, p->scan[input], *m, *m + 1) - *m;
        *m = choose_scans(e, input, label, 1, p->scan[input], *m, most - wrong);
        *m = choose_scans(e, input, label, 0, p->scan[input], *m, *m + wrong);
    }
}

/* By networks for one image, or scan, without gradients. x[size][size][3]. */
static qnet_status draw_cams(const qnet_experiment *e, const qnet_cohort *cohort, pictures *p, qnet_real *x)
{
    const int input = (int)cohort->config.input;
    qnet_resnet_config config;
    qnet_scan_config scan_config;
    qnet_resnet *net = NULL;
    qnet_scan_model *model = NULL;
    qnet_status status;
    qnet_resnet_config_init(&config);
    config.height = config.width = cohort->config.size;
    config.batch = 1;
    config.training = 0;
    qnet_scan_config_init(&scan_config);
    scan_config.hidden = e->config.stage2.hidden;
    scan_config.steps = cohort->config.max_slices;
    scan_config.batch = 1;
    scan_config.training = 0;
    choose_cams(e, p, input);
    status = qnet_resnet_create(e->ctx, &config, &net);
    if (status == QNET_OK) status = qnet_scan_model_create(e->ctx, &scan_config, &model);
    for (int fold = 0; fold < e->config.folds; fold++)
        for (int i = 0, loaded = 0; i < p->cams[input] + p->scans[input] && status == QNET_OK; i++) {
            const int whole = i >= p->cams[input];
            cam_picture *cam = whole ? &p->scan[input][i - p->cams[input]] : &p->cam[input][i];
            if (e->fold[cam->scan] != fold) continue;
            if (!loaded)
                status = qnet_experiment_weights(e, (qnet_input)input, 0, fold, QNET_MODEL_RESNET_SWA, net->table,
                                                 net->weights);
            if (!loaded && status == QNET_OK) status = qnet_resnet_pack(net);
            if (!loaded && p->scans[input] > 0 && status == QNET_OK)
                status = qnet_experiment_weights(e, (qnet_input)input, 0, fold, QNET_MODEL_QNET, model->table,
                                                 model->weights);
            loaded = 1;
            if (status == QNET_OK)
                status = whole ? draw_scan(e, cohort, cam->scan, net, model, cam)
                               : draw_cam(e, cohort, cam->scan, net, x, cam);
        }
    qnet_scan_model_destroy(model);
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
    pictures_clear(p, input);
    p->sheet[input].size = 0;
    status = picture_room(e->ctx, &work, pixels * 3 * sizeof(qnet_real));
    if (status == QNET_OK)
        status = draw_sheet(e, cohort, &p->sheet[input], (qnet_real *)(void *)work.bytes);
    if (status == QNET_OK) status = draw_cams(e, cohort, p, (qnet_real *)(void *)work.bytes);
    qnet_buffer_free(e->ctx, &work);
    return status;
}
#endif
