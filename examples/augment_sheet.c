/* augment_sheet: one slice, augmented at random in the two input configurations, as a picture in
   the manner of the paper's Fig. 3: first row full image, second row cropped to the basal ganglia;
   the QSM channel, in the first column as the network sees the slice at test time.

       build/augment_sheet [OUT.png [FOLDER]]

   FOLDER: a cohort, of which the first subject's middle slice is taken; without one, a drawn head.
   For the drawn head it prints "mean grey level 81.01". */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/crossval/bids.h"
#include "examples/usage.h"

#include <math.h>

#define COLUMNS 7
#define SIZE 160
#define GAP 4
#define WIDTH (COLUMNS * (SIZE + GAP) - GAP)
#define HEIGHT (2 * SIZE + GAP)

static bids found;

static int report_failure(qnet_context *ctx)
{
    fprintf(stderr, "augment_sheet: %s\n", found.error[0] ? found.error : qnet_last_error(ctx));
    qnet_context_destroy(ctx);
    return 1;
}

/* The first subject of a folder, cut by this configuration. */
static qnet_status read_first(qnet_context *ctx, const char *folder, const qnet_input_config *config,
                              qnet_cohort **cohort)
{
    qnet_status status;
    memset(&found, 0, sizeof found);
    status = bids_read(&found, ctx, folder);
    if (status == QNET_OK) status = qnet_cohort_load(ctx, config, found.dataset.scans, 1, cohort);
    bids_free(&found);
    return status;
}

/* 1 inside of the ellipse of half axes a, b about (x0, y0). */
static int inside(double x, double y, double x0, double y0, double a, double b)
{
    return (x - x0) * (x - x0) / (a * a) + (y - y0) * (y - y0) / (b * b) < 1;
}

/* A head of 140 x 170 mm with ventricles and three nuclei on each side, 1 mm voxels, one slice. */
static qnet_status draw_head(qnet_context *ctx, qnet_scan_maps *maps)
{
    qnet_volume **volume[4];
    int i, j, m;
    memset(maps, 0, sizeof *maps);
    maps->subject = "drawn";
    volume[0] = &maps->qsm;
    volume[1] = &maps->r2star;
    volume[2] = &maps->t1w;
    volume[3] = &maps->mask;
    for (m = 0; m < 4; m++) {
        qnet_status status = qnet_volume_create(ctx, 180, 200, 1, volume[m]);
        if (status != QNET_OK) return status;
        for (j = 0; j < 200; j++)
            for (i = 0; i < 180; i++) {
                static const float value[5][4] = {{0, 0, 0, 0},               /* outside */
                                                  {-0.02f, 18, 700, 0},       /* brain */
                                                  {0.02f, 2, 250, 0},         /* ventricles */
                                                  {0.05f, 22, 800, 1},        /* caudate, putamen */
                                                  {0.14f, 38, 850, 1}};       /* globus pallidus */
                const double x = fabs(i - 89.5), y = j - 99.5;
                int tissue = inside(x, y, 0, 0, 70, 85);
                if (inside(x, y, 6, 12, 4, 14)) tissue = 2;
                if (inside(x, y, 14, 22, 5, 8) || inside(x, y, 26, 8, 5, 14)) tissue = 3;
                if (inside(x, y, 19, 4, 4, 8)) tissue = 4;
                (*volume[m])->voxels[j * 180 + i] = value[tissue][m];
                if (tissue == 1 && m == 0) /* stripes, to show what a distortion does */
                    maps->qsm->voxels[j * 180 + i] += (float)(0.03 * sin(0.6 * x + 0.002 * y * y));
            }
    }
    return QNET_OK;
}

/* The sheet's row of one input configuration: column 0 without augmentation. */
static qnet_status draw_row(qnet_context *ctx, const qnet_cohort *cohort, uint8_t *row)
{
    const float *slice = qnet_scan_slice(cohort, 0, cohort->scans[0].slices / 2);
    static qnet_real out[SIZE * SIZE * 3];
    qnet_augment_config config;
    int column, y, x;
    qnet_augment_config_init(&config);
    for (column = 0; column < COLUMNS; column++) {
        qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_AUGMENT, 0, (uint64_t)column);
        qnet_augmentation record = qnet_augment_test(cohort->height, cohort->width, SIZE, SIZE);
        qnet_status status;
        if (column > 0)
            record = qnet_augment_draw(&config, &rng, cohort->height, cohort->width, SIZE, SIZE);
        status = qnet_augment_apply(ctx, &config, &record, slice, cohort->height, cohort->width,
                                    out, SIZE, SIZE, NULL);
        if (status != QNET_OK) return status;
        for (y = 0; y < SIZE; y++)
            for (x = 0; x < SIZE; x++)
                row[y * WIDTH + column * (SIZE + GAP) + x] =
                    (uint8_t)(out[(y * SIZE + x) * 3] * 255 + (qnet_real)0.5);
    }
    return QNET_OK;
}

int main(int argc, char **argv)
{
    static uint8_t sheet[HEIGHT * WIDTH];
    const char *path = argc > 1 ? argv[1] : "augment_sheet.png";
    qnet_context *ctx = NULL;
    double sum = 0;
    int row, i;
    const int bad = usage(argc, argv, 0, 2, "augment_sheet [OUT.png [FOLDER]]");
    if (bad >= 0) return bad;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return fputs("augment_sheet: no memory\n", stderr), 1;
    memset(sheet, 255, sizeof sheet);
    for (row = 0; row < 2; row++) {
        qnet_input_config config;
        qnet_cohort *cohort = NULL;
        qnet_status status;
        qnet_input_config_init(&config, row == 0 ? QNET_INPUT_FULL : QNET_INPUT_CROP);
        config.size = SIZE;
        if (argc > 2) {
            status = read_first(ctx, argv[2], &config, &cohort);
        } else {
            qnet_scan_maps maps;
            status = draw_head(ctx, &maps);
            if (status == QNET_OK) status = qnet_cohort_create(ctx, &config, 1, &cohort);
            if (status == QNET_OK) status = qnet_cohort_add(cohort, &maps);
            qnet_volume_destroy(maps.qsm);
            qnet_volume_destroy(maps.r2star);
            qnet_volume_destroy(maps.t1w);
            qnet_volume_destroy(maps.mask);
        }
        if (status == QNET_OK)
            status = draw_row(ctx, cohort, sheet + (size_t)row * (SIZE + GAP) * WIDTH);
        qnet_cohort_destroy(cohort);
        if (status != QNET_OK) return report_failure(ctx);
    }
    if (qnet_png_save(ctx, path, WIDTH, HEIGHT, 1, sheet) != QNET_OK) return report_failure(ctx);
    for (i = 0; i < HEIGHT * WIDTH; i++) sum += sheet[i];
    printf("%s: mean grey level %.2f\n", path, sum / (HEIGHT * WIDTH));
    qnet_context_destroy(ctx);
    return 0;
}
