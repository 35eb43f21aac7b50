/* Room >>cohort: slices, frames and orientation of a prepared scan; cohorts; folds;
   participants.tsv; reading folders. Files go to build/test_cohort, which is emptied first. */
#if defined(__unix__) || defined(__APPLE__)
#define _XOPEN_SOURCE 600 /* symlink */
#include <unistd.h>
#define TEST_LINKS 1
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "folder.h"
#include "examples/crossval/cuts.h"

#define ROOT "build/test_cohort"
#define NX 40
#define NY 36
#define NZ 6

static qnet_context *ctx;

/* What was logged since the last look. */
static char logged[8000];
static void keep_log(void *user, qnet_log_level level, const char *text)
{
    const size_t n = strlen(logged);
    (void)user;
    snprintf(logged + n, sizeof logged - n, "%s%s\n", level == QNET_LOG_WARNING ? "! " : "", text);
}
#define CHECK_LOGGED(text)               \
    do {                                 \
        CHECK_CONTAINS(logged, text);    \
        logged[0] = '\0';                \
    } while (0)

/* ---- volumes of which every voxel says where it is ------------------------------------------- */

enum { WORLD_X, WORLD_Y, WORLD_Z, MASK };

/* A volume of n[0]xn[1]xn[2] with this affine; voxel = world coordinate + 1000, to keep
   away from zero, or a mask of |x - 3| <= 10, |y + 5| <= 15, 3 <= z <= 9 (mm). */
static qnet_volume *make_volume(const double (*affine)[4], const int n[3], int what)
{
    qnet_volume *v = NULL;
    int i, j, k, r;
    CHECK_OK(ctx, qnet_volume_create(ctx, n[0], n[1], n[2], &v));
    for (r = 0; r < 3; r++) {
        memcpy(v->affine[r], affine[r], sizeof v->affine[r]);
        v->spacing[r] = sqrt(affine[0][r] * affine[0][r] + affine[1][r] * affine[1][r] +
                             affine[2][r] * affine[2][r]);
    }
    v->affine_source = 2;
    for (k = 0; k < n[2]; k++)
        for (j = 0; j < n[1]; j++)
            for (i = 0; i < n[0]; i++) {
                double w[3];
                for (r = 0; r < 3; r++)
                    w[r] = affine[r][0] * i + affine[r][1] * j + affine[r][2] * k + affine[r][3];
                v->voxels[((size_t)k * (size_t)n[1] + (size_t)j) * (size_t)n[0] + (size_t)i] =
                    what == MASK ? (float)(fabs(w[0] - 3) <= 10 && fabs(w[1] + 5) <= 15 &&
                                           w[2] >= 3 && w[2] <= 9)
                                 : (float)(w[what] + 1000);
            }
    return v;
}

/* 2.5 x 2.5 x 3 mm, RAS; x -48..49.5, y -45..42.5, z 0..15. */
static const double ras[3][4] = {{2.5, 0, 0, -48}, {0, 2.5, 0, -45}, {0, 0, 3, 0}};
static const int ras_n[3] = {NX, NY, NZ};

static qnet_scan_maps make_maps(const double (*affine)[4], const int n[3])
{
    qnet_scan_maps maps;
    memset(&maps, 0, sizeof maps);
    maps.subject = "sub-01";
    maps.label = QNET_HH;
    maps.age = 50;
    maps.sex = QNET_FEMALE;
    maps.qsm = make_volume(affine, n, WORLD_X);
    maps.r2star = make_volume(affine, n, WORLD_Y);
    maps.t1w = make_volume(affine, n, WORLD_Z);
    maps.mask = make_volume(affine, n, MASK);
    return maps;
}

static void free_maps(qnet_scan_maps *maps)
{
    qnet_volume_destroy(maps->qsm);
    qnet_volume_destroy(maps->r2star);
    qnet_volume_destroy(maps->t1w);
    qnet_volume_destroy(maps->mask);
}

static qnet_input_config small_config(qnet_input input)
{
    qnet_input_config config;
    qnet_input_config_init(&config, input);
    config.size = 32;
    config.box_mm = 40;
    config.margin = 0.1;
    config.max_slices = 4;
    config.any_values = 1; /* voxels say where they are, not what they are */
    return config;
}

#define SIDE 38 /* 32 + 2 * 3 */
static float pixels[24 * SIDE * SIDE * 3], pixels2[24 * SIDE * SIDE * 3];
static int slice_z[24], slices;

/* A cohort of this scan alone: its slices, their numbers and pixels, if all is well. */
static qnet_status prepare(const qnet_input_config *config, const qnet_scan_maps *maps)
{
    qnet_cohort *one = NULL;
    qnet_status status = qnet_cohort_create(ctx, config, 1, &one);
    if (status == QNET_OK) status = qnet_cohort_add(one, maps);
    if (status == QNET_OK) {
        const qnet_scan *scan = &one->scans[0];
        const size_t size = (size_t)one->height * (size_t)one->width * 3 * sizeof(float);
        slices = scan->slices;
        memcpy(slice_z, scan->slice_z, (size_t)slices * sizeof *slice_z);
        memcpy(pixels, scan->pixels, (size_t)slices * size);
    }
    qnet_cohort_destroy(one);
    return status;
}

/* ---- configuration --------------------------------------------------------------------------- */

static void test_config(void)
{
    qnet_input_config config;
    qnet_scan_maps maps;
    memset(&maps, 0, sizeof maps);
    maps.subject = "sub-01";
    qnet_input_config_init(&config, QNET_INPUT_CROP);
    CHECK(config.size == 224 && config.box_mm == 96 && config.margin == 0.08 &&
          config.max_slices == 24);
    CHECK(qnet_input_prepared(&config) == 224 + 2 * 18);
    qnet_input_config_init(&config, QNET_INPUT_FULL);
    CHECK(config.size == 256 && qnet_input_prepared(&config) == 256);
    CHECK(strcmp(qnet_input_name(QNET_INPUT_CROP), "crop") == 0);
    CHECK(strcmp(qnet_input_name(QNET_INPUT_FULL), "full") == 0);
#define REFUSED(change, text) \
    do { \
        qnet_input_config bad = config; \
        change; \
        CHECK_FAILS(ctx, prepare(&bad, &maps), \
                    QNET_ERROR_ARGUMENT, text); \
    } while (0)
    REFUSED(bad.size = 31, "size");
    REFUSED(bad.size = 1 << 20, "size");
    REFUSED(bad.box_mm = NAN, "box_mm");
    REFUSED(bad.box_mm = 0, "box_mm");
    REFUSED(bad.margin = -0.1, "margin");
    REFUSED(bad.max_slices = 0, "max_slices");
    REFUSED(bad.slice_first = -1, "slice_first");
    REFUSED(bad.slice_count = 25, "slice_count");
    REFUSED(memset(&bad.input, 3, sizeof bad.input), "neither crop nor full");
    REFUSED((bad.box_explicit = 1, bad.box_center_mm[1] = HUGE_VAL), "box_center_mm");
    REFUSED(bad.size = 64, "QSM map: missing");
#undef REFUSED
    CHECK_FAILS(ctx, prepare(NULL, &maps),
                QNET_ERROR_ARGUMENT, "missing");
}

/* ---- geometry -------------------------------------------------------------------------------- */

/* Each pixel of a crop holds its own place: the mask, a cuboid, is voxels 17..24 along x (-5.5
   to 12 mm, centre 3.25) and 10..22 along y (-20 to 10, centre -5). Bilinear interpolation of a
   linear function is exact but for float rounding around 1000 (6e-5). */
static void check_crop(double tolerance)
{
    const double pixel = 40.0 / 32;
    int t, row, column;
    double worst = 0;
    CHECK(slices == 3);
    for (t = 0; t < slices && t < 3; t++) {
        CHECK(slice_z[t] == t + 1);
        for (row = 0; row < SIDE; row++)
            for (column = 0; column < SIDE; column++) {
                const float *p = pixels + ((t * SIDE + row) * SIDE + column) * 3;
                const double x = 3.25 - (column + 0.5 - SIDE / 2.0) * pixel; /* column 0: right */
                const double y = -5 - (row + 0.5 - SIDE / 2.0) * pixel;      /* row 0: front */
                worst = fmax(worst, fabs(p[0] - 1000 - x));
                worst = fmax(worst, fabs(p[1] - 1000 - y));
                worst = fmax(worst, fabs(p[2] - 1000 - 3.0 * (t + 1)));
            }
    }
    CHECK_NEAR(worst, 0, tolerance);
}

static void test_orientation(void)
{
    /* The same voxels of the world in other orders: LAS, LPS, and axes permuted. */
    static const double affine[5][3][4] = {
        {{2.5, 0, 0, -48}, {0, 2.5, 0, -45}, {0, 0, 3, 0}},
        {{-2.5, 0, 0, 49.5}, {0, 2.5, 0, -45}, {0, 0, 3, 0}},
        {{-2.5, 0, 0, 49.5}, {0, -2.5, 0, 42.5}, {0, 0, 3, 0}},
        {{0, 2.5, 0, -48}, {0, 0, 2.5, -45}, {3, 0, 0, 0}},
        {{0, 0, 2.5, -48}, {-2.5, 0, 0, 42.5}, {0, -3, 0, 15}}};
    static const int n[5][3] = {{NX, NY, NZ}, {NX, NY, NZ}, {NX, NY, NZ}, {NZ, NX, NY}, {NY, NZ,
    NX}};
    const qnet_input_config config = small_config(QNET_INPUT_CROP);
    int i;
    for (i = 0; i < 5; i++) {
        qnet_scan_maps maps = make_maps(affine[i], n[i]);
        memset(pixels, 0, sizeof pixels);
        CHECK_OK(ctx, prepare(&config, &maps));
        check_crop(1.3e-4);
        if (i == 0) memcpy(pixels2, pixels, sizeof pixels);
        CHECK(memcmp(pixels, pixels2, sizeof pixels) == 0);
        free_maps(&maps);
    }
}

/* A head tilted by 5 degrees: slices stay planes of the third axis, the nearest to upwards. */
static void test_oblique(void)
{
    const double c = cos(0.0873), s = sin(0.0873);
    const double tilted[3][4] = {{2.5, 0, 0, -48}, {0, 2.5 * c, -3 * s, -45}, {0, 2.5 * s, 3 * c,
    0}};
    const qnet_input_config config = small_config(QNET_INPUT_FULL);
    qnet_scan_maps maps = make_maps(tilted, ras_n);
    CHECK_OK(ctx, prepare(&config, &maps));
    CHECK(slices >= 3);
    CHECK(pixels[(5 * 32 + 16) * 3 + 1] > pixels[(25 * 32 + 16) * 3 + 1]); /* front above back */
    free_maps(&maps);
}

/* Full input: 40 x 2.5 = 100 mm fill 32 columns; 90 mm of height leave 1.6 rows empty each. */
static void test_full(void)
{
    const qnet_input_config config = small_config(QNET_INPUT_FULL);
    qnet_scan_maps maps = make_maps(ras, ras_n);
    int row, column;
    double worst = 0;
    CHECK_OK(ctx, prepare(&config, &maps));
    CHECK(slices == 3);
    for (row = 0; row < 32; row++)
        for (column = 0; column < 32; column++) {
            const float *p = pixels + (row * 32 + column) * 3;
            const double x = 0.75 - (column + 0.5 - 16) * 100 / 32,
            y = -1.25 - (row + 0.5 - 16) * 100 / 32;
            if (row < 2 || row > 29) CHECK(p[0] == 0 && p[1] == 0 && p[2] == 0);
            else if (y > -45 && y < 42.5 && x > -48 && x < 49.5)
                worst = fmax(worst, fabs(p[0] - 1000 - x) + fabs(p[1] - 1000 - y));
            else CHECK(p[0] > 900); /* the outer half of the border voxels */
        }
    CHECK_NEAR(worst, 0, 2e-4);
    free_maps(&maps);
}

/* 8 voxels a pixel: the mean of the 8 x 8 block, so that fine noise is not aliased. */
static void test_averaging(void)
{
    const double fine[3][4] = {{0.25, 0, 0, 0}, {0, 0.25, 0, 0}, {0, 0, 3, 0}};
    const int n[3] = {256, 256, 1};
    qnet_input_config config = small_config(QNET_INPUT_FULL);
    qnet_scan_maps maps = make_maps(fine, n);
    qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_USER, 0, 0);
    double worst = 0;
    int i, row, column, y, x;
    for (i = 0; i < 256 * 256; i++) maps.qsm->voxels[i] = (float)qnet_rng_uniform(&rng);
    config.slice_count = 1;
    CHECK_OK(ctx, prepare(&config, &maps));
    for (row = 0; row < 32; row++)
        for (column = 0; column < 32; column++) {
            double sum = 0;
            for (y = 0; y < 8; y++)
                for (x = 0; x < 8; x++)
                    sum += maps.qsm->voxels[(255 - 8 * row - y) * 256 + 255 - 8 * column - x];
            worst = fmax(worst, fabs(sum / 64 - pixels[(row * 32 + column) * 3]));
        }
    CHECK_NEAR(worst, 0, 1e-6); /* 64 float additions of numbers below 1 */
    free_maps(&maps);
}

static void test_slice_choice(void)
{
    qnet_input_config config = small_config(QNET_INPUT_FULL);
    qnet_scan_maps maps = make_maps(ras, ras_n);
    const size_t plane = NX * NY;
    memset(maps.mask->voxels, 0, 6 * plane * sizeof(float));
    maps.mask->voxels[0 * plane + 5] = 1; /* slices 0, 2, 3, 5 hold some mask */
    maps.mask->voxels[2 * plane + 7] = 0.5f;
    maps.mask->voxels[3 * plane + plane - 1] = 1;
    maps.mask->voxels[4 * plane + 9] = 0.49f;
    maps.mask->voxels[5 * plane] = 1;
    CHECK_OK(ctx, prepare(&config, &maps));
    CHECK(slices == 4 && slice_z[0] == 0 && slice_z[1] == 2 && slice_z[2] == 3 && slice_z[3] == 5);
    config.max_slices = 2; /* the central ones */
    CHECK_OK(ctx, prepare(&config, &maps));
    CHECK(slices == 2 && slice_z[0] == 2 && slice_z[1] == 3);
    CHECK_NEAR(pixels[(16 * 32 + 16) * 3 + 2], 1006, 1e-3); /* slice 2 is at 6 mm */
    config.max_slices = 3;
    CHECK_OK(ctx, prepare(&config, &maps));
    CHECK(slices == 3 && slice_z[0] == 0 && slice_z[2] == 3);
    config.slice_first = 3;
    config.slice_count = 3;
    CHECK_OK(ctx, prepare(&config, &maps));
    CHECK(slices == 3 && slice_z[0] == 3 && slice_z[2] == 5);
    config.slice_first = 4;
    slices = 77;
    CHECK_FAILS(ctx, prepare(&config, &maps),
                QNET_ERROR_DATA, "slices 4..6 asked for, the volume has 0..5");
    CHECK(slices == 77);
    free_maps(&maps);
}

/* An explicit box at the mask's centre gives the same pixels without a mask, in any orientation. */
static void test_explicit_box(void)
{
    static const double lps[3][4] = {{-2.5, 0, 0, 49.5}, {0, -2.5, 0, 42.5}, {0, 0, 3, 0}};
    qnet_input_config config = small_config(QNET_INPUT_CROP);
    int i;
    config.slice_first = 1;
    config.slice_count = 3;
    config.box_explicit = 1;
    config.box_center_mm[0] = 3.25;
    config.box_center_mm[1] = -5;
    for (i = 0; i < 2; i++) {
        qnet_scan_maps maps = make_maps(i ? lps : ras, ras_n);
        qnet_volume *mask = maps.mask;
        maps.mask = NULL;
        CHECK_OK(ctx, prepare(&config, &maps));
        check_crop(1.3e-4);
        maps.mask = mask;
        free_maps(&maps);
    }
}

static void test_bad_maps(void)
{
    qnet_input_config config = small_config(QNET_INPUT_CROP), other;
    qnet_scan_maps maps = make_maps(ras, ras_n);
    const int fewer[3] = {NX, NY, NZ - 1};
    double moved[3][4]; /* as ras, but elsewhere */
    qnet_volume *keep;
    size_t i;
#define FAILS(config_, status, text) \
    CHECK_FAILS(ctx, prepare(config_, &maps), status, text)
    slices = -5;
    maps.r2star->voxels[(2 * NY + 17) * NX + 20] = (float)NAN;
    FAILS(&config, QNET_ERROR_DATA, "R2* map: voxel (20, 17, 2) of the volume turned to RAS is NaN");
    maps.r2star->voxels[(2 * NY + 17) * NX + 20] = (float)-HUGE_VAL;
    FAILS(&config, QNET_ERROR_DATA, "R2* map: voxel (20, 17, 2) of the volume turned to RAS is infin");
    maps.r2star->voxels[(2 * NY + 17) * NX + 20] = 1;

    keep = maps.t1w;
    maps.t1w = make_volume(ras, fewer, WORLD_Z);
    maps.t1w->affine_source = 0;
    FAILS(&config, QNET_ERROR_SHAPE, "T1W image: grid of 40x36x5, expected 40x36x6 as in QSM map: "
          "bring it onto that grid (flirt");
    qnet_volume_destroy(maps.t1w);
    memcpy(moved, ras, sizeof moved);
    moved[1][3] += 0.5;
    maps.t1w = make_volume((const double(*)[4])moved, ras_n, WORLD_Z);
    maps.t1w->affine_source = 0;
    FAILS(&config, QNET_ERROR_SHAPE, "corners lie 0.2 voxels off");
    qnet_volume_destroy(maps.t1w);
    moved[1][3] = 1e4;
    maps.t1w = make_volume((const double(*)[4])moved, ras_n, WORLD_Z);
    FAILS(&config, QNET_ERROR_SHAPE, "T1W image: its grid of 40x36x6 shares no voxel with that of QSM map");
    qnet_volume_destroy(maps.t1w);
    /* Offsets and spacings alike, by what they do at the corners: in voxels of 2.5 mm. */
    logged[0] = '\0';
    for (i = 0; i < 4; i++) {
        static const double offset[4] = {5e-4, 4e-3, 0, 0}, spacing[4] = {0, 0, 9e-4, 9e-3};
        memcpy(moved, ras, sizeof moved);
        moved[1][3] += offset[i];
        moved[0][0] += spacing[i];
        maps.t1w = make_volume((const double(*)[4])moved, ras_n, WORLD_Z);
        maps.t1w->affine_source = i < 3 ? 2 : 1;
        CHECK_OK(ctx, prepare(&config, &maps));
        if (i == 0) CHECK(strstr(logged, "voxels off") == NULL);
        if (i == 1) CHECK_LOGGED("! T1W image: its corners lie 0.0016 voxels off those of QSM map");
        if (i == 2) CHECK_LOGGED("! T1W image: its corners lie 0.014 voxels off those of QSM map");
        if (i == 3) CHECK_LOGGED("T1W image: resampled from 40x36x6 onto the grid of QSM map, 40x36x6");
        if (i < 3) qnet_volume_destroy(maps.t1w);
        slices = -5;
    }
    qnet_volume_destroy(maps.t1w);
    maps.t1w = NULL;
    FAILS(&config, QNET_ERROR_ARGUMENT, "T1W image: missing");
    maps.t1w = keep;

    keep = maps.mask;
    maps.mask = NULL;
    FAILS(&config, QNET_ERROR_DATA, "nothing in the maps is like a brain");
    other = config;
    other.slice_count = 2; /* the box still needs the mask, or to be found */
    FAILS(&other, QNET_ERROR_DATA, "nothing in the maps is like a brain");
    maps.mask = keep;

    other.box_explicit = 1;
    other.box_center_mm[0] = 500;
    FAILS(&other, QNET_ERROR_DATA, "lies outside");

    /* Zero where the image looks, though not everywhere in the slice. */
    for (i = 0; i < NX * NY; i++) maps.qsm->voxels[2 * NX * NY + i] = i == 0 ? 1.0f : 0.0f;
    FAILS(&config, QNET_ERROR_DATA, "QSM map: slice 2 (from 0 at the bottom) is zero");
    other = small_config(QNET_INPUT_FULL);
    CHECK_OK(ctx, prepare(&other, &maps));
    slices = -5;

    memset(maps.mask->voxels, 0, NX * NY * NZ * sizeof(float));
    FAILS(&config, QNET_ERROR_DATA, "the mask is empty");
    config.slice_count = 2; /* slices given, but not the box */
    FAILS(&config, QNET_ERROR_DATA, "the mask is empty");
    CHECK(slices == -5);
#undef FAILS
    free_maps(&maps);
}

/* ---- what no brain has ------------------------------------------------------------------------- */

/* Maps with a brain's values: nuclei in the mask with more iron around which there is tissue of both
   signs, and a little fluid. */
static qnet_scan_maps make_brain(const double (*affine)[4], const int n[3])
{
    qnet_scan_maps maps = make_maps(affine, n);
    const size_t count = (size_t)n[0] * (size_t)n[1] * (size_t)n[2];
    size_t i;
    for (i = 0; i < count; i++) {
        qnet_rng rng = qnet_rng_at(8, QNET_RANDOM_USER, 0, i);
        const int iron = maps.mask->voxels[i] > 0 && i % 3 == 0, fluid = i % 29 == 0;
        maps.qsm->voxels[i] = (float)(iron ? 0.12 : 0.02 * qnet_rng_normal(&rng));
        maps.r2star->voxels[i] = (float)(iron ? 38 : fluid ? 4 : 18 + qnet_rng_normal(&rng));
        maps.t1w->voxels[i] = (float)(500 + 50 * qnet_rng_normal(&rng));
    }
    return maps;
}

static void test_values(void)
{
    static const struct {
        const char *text; /* of the error; NULL: none */
        int map;          /* 0 QSM, 1 R2*, 2 T1W, 3 QSM and R2* swapped, 4 QSM in place of T1W, 5 R2* */
        double factor, reciprocal, add;
    } cases[] = {
        {NULL, 0, 1, 0, 0},
        {NULL, 0, 3, 0, 0.05},  /* heavily loaded with iron, or another reference */
        {NULL, 1, 2.2, 0, 0},   /* at 7 T */
        {NULL, 1, 0.6, 0, 0},   /* at 1.5 T */
        {NULL, 2, 1e-6, 0, 0},  /* T1W has no unit */
        {"QSM map: looks like ppb: divide by 1000", 0, 1000, 0, 0},
        {"QSM map: is too small for ppm", 0, 1e-6, 0, 0},
        {"QSM map: is 0 nearly everywhere", 0, 1, 0, 0},
        {"R2* map: is constant", 1, 0, 0, 20},
        {"T1W image: is constant", 2, 0, 0, 7},
        {"R2* map: looks like T2* in ms", 1, 0, 1000, 0},
        {"R2* map: looks like T2* in seconds", 1, 0, 1, 0},
        {"R2* map: does not look like R2* in 1/s", 1, 60, 0, 0},
        {"R2* map: looks like susceptibility: are QSM and R2* swapped?", 3, 1, 0, 0},
        {"QSM map: is lower in the mask than around it: of the wrong sign", 0, -1, 0, 0},
        {"T1W image: is a copy of another map", 4, 1, 0, 0},
        {"T1W image: is a copy of another map", 5, 1, 0, 0}};
    size_t k, i;
    for (k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        qnet_scan_maps maps = make_brain(ras, ras_n);
        qnet_volume *v = cases[k].map == 0 ? maps.qsm : cases[k].map == 1 ? maps.r2star : maps.t1w;
        qnet_input_config config = small_config(QNET_INPUT_CROP);
        config.any_values = 0;
        for (i = 0; i < NX * NY * NZ; i++) {
            const double old = (double)v->voxels[i];
            if (cases[k].text && strstr(cases[k].text, "nearly") && i % 41) v->voxels[i] = 0;
            else v->voxels[i] = (float)(cases[k].factor * old + cases[k].add +
                                   (cases[k].reciprocal > 0 ? cases[k].reciprocal / old : 0));
        }
        if (cases[k].map == 3) {
            v = maps.qsm;
            maps.qsm = maps.r2star;
            maps.r2star = v;
        }
        if (cases[k].map > 3)
            memcpy(maps.t1w->voxels, (cases[k].map == 4 ? maps.qsm : maps.r2star)->voxels,
                   NX * NY * NZ * sizeof(float));
        logged[0] = '\0';
        if (cases[k].text == NULL) {
            CHECK_OK(ctx, prepare(&config, &maps));
            CHECK(logged[0] == '\0');
        } else {
            slices = -5;
            CHECK_FAILS(ctx, prepare(&config, &maps),
                        QNET_ERROR_DATA, cases[k].text);
            CHECK_CONTAINS(qnet_last_error(ctx), "if it is right, set any_values");
            CHECK(slices == -5);
            config.any_values = 1;
            CHECK_OK(ctx, prepare(&config, &maps));
            CHECK_CONTAINS(logged, cases[k].text);
        }
        free_maps(&maps);
    }
    { /* one brain under two names */
        qnet_scan_maps maps = make_brain(ras, ras_n);
        qnet_input_config config = small_config(QNET_INPUT_CROP);
        qnet_cohort *cohort = NULL;
        config.any_values = 0;
        CHECK_OK(ctx, qnet_cohort_create(ctx, &config, 3, &cohort));
        maps.subject = "sub-01";
        CHECK_OK(ctx, qnet_cohort_add(cohort, &maps));
        CHECK_OK(ctx, qnet_cohort_add(cohort, &maps)); /* another scan of the same subject, for all that is known */
        maps.subject = "sub-02";
        CHECK_FAILS(ctx, qnet_cohort_add(cohort, &maps), QNET_ERROR_DATA, "sub-01 and sub-02 have the same QSM map");
        CHECK(cohort->scans_count == 2);
        qnet_cohort_destroy(cohort);
        free_maps(&maps);
    }
    { /* the nuclei missing from a map, by zeros or by NaN that reaches them from outside */
        qnet_scan_maps maps = make_brain(ras, ras_n);
        qnet_input_config config = small_config(QNET_INPUT_CROP);
        config.any_values = 0;
        for (i = 0; i < NX * NY * NZ; i++)
            if (i / (NX * NY) == 2 && i / NX % NY < 20 && i % NX > 16) maps.t1w->voxels[i] = (float)NAN;
        CHECK_FAILS(ctx, prepare(&config, &maps),
                    QNET_ERROR_DATA, "T1W image: is 0, or was NaN, in more than a tenth of the mask");
        free_maps(&maps);
    }
    { /* without a mask T2* in ms is told as well, where QSM is highest */
        qnet_scan_maps maps = make_brain(ras, ras_n);
        qnet_input_config config = small_config(QNET_INPUT_FULL);
        config.any_values = 0;
        config.slice_first = 1;
        config.slice_count = 3;
        CHECK_OK(ctx, prepare(&config, &maps));
        for (i = 0; i < NX * NY * NZ; i++) maps.r2star->voxels[i] = 1000 / maps.r2star->voxels[i];
        CHECK_FAILS(ctx, prepare(&config, &maps),
                    QNET_ERROR_DATA, "T2* in ms");
        free_maps(&maps);
    }
}

/* Turned about the axis from right to left. */
static void test_tilt(void)
{
    static const double degrees[] = {20, 35, 50, 80, 90};
    int k;
    for (k = 0; k < 5; k++) {
        const double a = degrees[k] * 3.14159265358979323846 / 180, c = cos(a), s = sin(a);
        const double tilted[3][4] = {{2.5, 0, 0, -48}, {0, 2.5 * c, -3 * s, -20},
                                     {0, 2.5 * s, 3 * c, -20}};
        qnet_input_config config = small_config(QNET_INPUT_FULL);
        qnet_scan_maps maps = make_maps(tilted, ras_n);
        config.max_slices = 24;
        logged[0] = '\0';
        if (k == 2) {
            CHECK_FAILS(ctx, prepare(&config, &maps),
                        QNET_ERROR_DATA, "QSM map: its axes are turned by 40 degrees from those of "
                        "the head, its slices were acquired coronal; if it is right, set "
                        "any_orientation");
            free_maps(&maps);
            maps = make_maps(tilted, ras_n);
            config.any_orientation = 1;
        }
        CHECK_OK(ctx, prepare(&config, &maps));
        if (k == 0) CHECK(strstr(logged, "turned") == NULL && strstr(logged, "acquired") == NULL);
        if (k == 1) CHECK_LOGGED("! QSM map: its axes are turned by 35 degrees from those of the head, its "
                                 "slices were acquired axial");
        if (k == 2) CHECK_LOGGED("! QSM map: its axes are turned by 40 degrees");
        if (k >= 3) CHECK_LOGGED("QSM map: slices acquired coronal are cut anew as axial ones");
        free_maps(&maps);
    }
    { /* between all three axes: 54.7 degrees from each */
        static const double cube[3][4] = {{1.6, -1.6, 1.13, 0}, {1.6, 1.6, -1.13, 0},
                                          {-1.13, 1.13, 1.9, 0}};
        qnet_input_config config = small_config(QNET_INPUT_FULL);
        qnet_scan_maps maps = make_maps(cube, ras_n);
        CHECK_FAILS(ctx, prepare(&config, &maps),
                    QNET_ERROR_DATA, "any_orientation");
        free_maps(&maps);
    }
}

/* What is in a mask besides the nuclei moves neither box nor slices. */
static void test_mask(void)
{
    const qnet_input_config config = small_config(QNET_INPUT_CROP);
    const size_t plane = NX * NY, count = plane * NZ;
    int kind;
    for (kind = 0; kind < 6; kind++) {
        qnet_scan_maps maps = make_maps(ras, ras_n);
        float *mask = maps.mask->voxels;
        size_t i;
        logged[0] = '\0';
        if (kind == 1) mask[0] = 1; /* a stray voxel in a corner, in a slice of its own */
        for (i = 0; i < count; i++) {
            if (kind == 2) mask[i] = mask[i] > 0 ? 0.75f : 0.001f; /* tails of an atlas */
            if (kind == 3 && mask[i] > 0) mask[i] = (float)(11 + i % 3); /* labels */
            if (kind == 4 && mask[i] > 0) mask[i] = 255;
            if (kind == 5 && mask[i] == 0 && i % 7 == 0) mask[i] = (float)NAN;
        }
        CHECK_OK(ctx, prepare(&config, &maps));
        check_crop(1.3e-4);
        if (kind == 0 || kind == 4) CHECK(strstr(logged, "mask of the basal ganglia") == NULL);
        if (kind == 1)
            CHECK_LOGGED("! mask of the basal ganglia: 1 voxels in 1 pieces of less than a fiftieth");
        if (kind == 2) CHECK_LOGGED("! mask of the basal ganglia: not of 0 and 1: what is .5 or more");
        if (kind == 3) CHECK_LOGGED("! mask of the basal ganglia: a label image");
        if (kind == 5) CHECK_LOGGED("voxels of NaN or infinity do not count as mask");
        free_maps(&maps);
    }
    { /* Left and right lie apart; what touches by a corner is one piece. */
        qnet_scan_maps maps = make_maps(ras, ras_n);
        float *mask = maps.mask->voxels;
        int i, j;
        memset(mask, 0, count * sizeof *mask);
        for (j = 10; j < 20; j++)
            for (i = 0; i < 10; i++) {
                mask[2 * plane + (size_t)(j * NX + i + 3)] = 1;
                if (i < 6) mask[2 * plane + (size_t)(j * NX + i + 25)] = 1;
            }
        mask[3 * plane + 20 * NX + 31] = 1; /* by a corner of the right one, one slice up */
        mask[4 * plane + 30 * NX + 5] = 1;  /* alone */
        CHECK_OK(ctx, prepare(&config, &maps));
        CHECK(slices == 2 && slice_z[0] == 2 && slice_z[1] == 3);
        CHECK(mask[3 * plane + 20 * NX + 31] == 1 && mask[4 * plane + 30 * NX + 5] == 0);
        free_maps(&maps);
    }
    for (kind = 0; kind < 4; kind++) { /* what is no mask */
        static const char *const text[4] = {"found more than 65 values in 0..", "found 3 values in -1..1",
                                            "found 3 values in 0..7.5", "ml, more than the 200"};
        static const double large[3][4] = {{3, 0, 0, -48}, {0, 3, 0, -45}, {0, 0, 3.5, 0}};
        qnet_scan_maps maps = make_maps(kind == 3 ? large : ras, ras_n);
        qnet_input_config strict = config;
        float *mask = maps.mask->voxels;
        size_t i;
        strict.any_values = 0;
        for (i = 0; i < count; i++)
            mask[i] = kind == 0 ? (float)(i % 900) : kind == 1 ? (float)(i % 3) - 1
                    : kind == 2 ? (float)(i % 3) * 3.75f : 1;
        CHECK_FAILS(ctx, prepare(&strict, &maps),
                    QNET_ERROR_DATA, text[kind]);
        CHECK_CONTAINS(qnet_last_error(ctx), "mask of the basal ganglia");
        free_maps(&maps);
    }
}

/* Outside of the head NaN becomes 0; inside, it is an error where an image looks. */
static void test_background(void)
{
    const qnet_input_config config = small_config(QNET_INPUT_FULL);
    qnet_input_config crop = small_config(QNET_INPUT_CROP);
    qnet_scan_maps maps = make_maps(ras, ras_n);
    const size_t plane = NX * NY;
    int i, j, k, out = 0;
    for (k = 0; k < NZ; k++) /* a rim of NaN and infinity, a slit of it, and a NaN beside a 0 */
        for (j = 0; j < NY; j++)
            for (i = 0; i < NX; i++)
                if ((i - 20) * (i - 20) + (j - 17) * (j - 17) > 225 || (j == 17 && i > 30)) {
                    maps.r2star->voxels[(size_t)k * plane + (size_t)(j * NX + i)] =
                        (float)(i % 2 ? NAN : HUGE_VAL);
                    out++;
                }
    maps.r2star->voxels[3 * plane + 10 * NX + 20] = 0;
    maps.r2star->voxels[3 * plane + 10 * NX + 21] = (float)NAN;
    logged[0] = '\0';
    CHECK_OK(ctx, prepare(&config, &maps));
    {
        char expected[80];
        snprintf(expected, sizeof expected, "! R2* map: %d voxels of NaN or infinity outside of the "
                 "head become 0", out + 1);
        CHECK_LOGGED(expected);
    }
    CHECK(pixels[(2 * 32 + 0) * 3 + 1] == 0 && pixels[(16 * 32 + 16) * 3 + 1] != 0);
    maps.r2star->voxels[2 * plane + 17 * NX + 20] = (float)NAN;
    CHECK_FAILS(ctx, prepare(&config, &maps),
                QNET_ERROR_DATA, "R2* map: voxel (20, 17, 2) of the volume turned to RAS is NaN");
    maps.r2star->voxels[2 * plane + 17 * NX + 20] = 20;
    maps.r2star->voxels[5 * plane + 17 * NX + 20] = (float)NAN; /* in no slice that is used */
    logged[0] = '\0';
    CHECK_OK(ctx, prepare(&crop, &maps));
    CHECK_LOGGED("! R2* map: 1 voxels of NaN or infinity inside of the head, where no image looks");
    for (i = 0; i < 3 * SIDE * SIDE * 3; i++)
        if (!(pixels[i] == pixels[i])) CHECK(0 && "NaN in an image");
    free_maps(&maps);
}

/* The cut is kept with the scan; who lies or counts elsewhere than the others is marked. */
static void test_cuts(void)
{
    enum { SCANS = 12 };
    qnet_input_config config = small_config(QNET_INPUT_CROP);
    qnet_cohort *many = NULL;
    cut_pictures pictures = {0, NULL};
    const qnet_viewer viewer = {&pictures, cut_show, NULL};
    int s, i, orange = 0, blue = 0;
    config.max_slices = NZ;
    config.viewer = &viewer;
    CHECK_OK(ctx, qnet_cohort_create(ctx, &config, SCANS, &many));
    if (!many) return;
    for (s = 0; s < SCANS; s++) {
        qnet_scan_maps maps = make_maps(ras, ras_n);
        const size_t plane = NX * NY;
        char name[16];
        snprintf(name, sizeof name, "sub-%02d", s);
        maps.subject = name;
        if (s == 4) { /* the mask 8 voxels of 2.5 mm further to the front */
            for (i = NX * NY * NZ - 1; i >= 8 * NX; i--)
                maps.mask->voxels[i] = i % (NX * NY) >= 8 * NX ? maps.mask->voxels[i - 8 * NX] : 0;
        }
        if (s == 7) memset(maps.mask->voxels + 2 * plane, 0, 2 * plane * sizeof(float));
        CHECK_OK(ctx, qnet_cohort_add(many, &maps));
        free_maps(&maps);
    }
    CHECK_NEAR(many->scans[0].cut.center[0], 20.5, 1e-9);
    CHECK_NEAR(many->scans[0].cut.center[1], 16, 1e-9);
    CHECK_NEAR(many->scans[0].cut.center_mm[0], 3.25, 1e-9);
    CHECK_NEAR(many->scans[0].cut.center_mm[1], -5, 1e-9);
    CHECK_NEAR(many->scans[0].cut.center_mm[2], 6, 1e-9);
    CHECK_NEAR(many->scans[0].cut.side_mm, 40 * 38 / 32.0, 1e-9);
    CHECK_NEAR(many->scans[0].cut.offset_mm[0], 2.5 * (20.5 - 19.5), 1e-9); /* QSM fills the slices */
    CHECK(many->scans[0].cut.mask_voxels == 8 * 13 * 3 && many->scans[0].cut.mask_left_out == 0);
    CHECK(pictures.count == SCANS && pictures.rgb != NULL);
    if (!pictures.rgb) return;
    for (i = 0; i < CUT_SIDE * 2 * CUT_SIDE; i++) {
        const uint8_t *p = pictures.rgb + 3 * i;
        orange += p[0] == 230 && p[1] == 159;
        blue += p[0] == 86 && p[1] == 180;
    }
    CHECK(orange > 50 && blue > 100);
    logged[0] = '\0';
    CHECK_OK(ctx, qnet_cohort_outliers(many));
    for (s = 0; s < SCANS; s++) CHECK(many->scans[s].cut.outlier == (s == 4 ? 1 : 0));
    CHECK_LOGGED("! sub-04: the basal ganglia lie 16 mm to the front of the head's centre, the cohort's "
                 "median is -4: look at the mask");
    i = many->scans[7].slices;
    many->scans[7].slices = 20; /* far more than the others' 3 */
    CHECK_OK(ctx, qnet_cohort_outliers(many));
    many->scans[7].slices = i;
    CHECK(many->scans[7].cut.outlier == 2);
    CHECK_LOGGED("! sub-07: the basal ganglia lie in 20 slices, the cohort's median is 3");
    many->scans_count = 9; /* too few to say */
    many->scans[4].cut.outlier = 0;
    CHECK_OK(ctx, qnet_cohort_outliers(many));
    many->scans_count = SCANS;
    free(pictures.rgb);
    CHECK(many->scans[4].cut.outlier == 0);
    qnet_cohort_destroy(many);
}

/* ---- cohorts --------------------------------------------------------------------------------- */

static void test_cohort_memory(void)
{
    qnet_input_config config = small_config(QNET_INPUT_CROP);
    qnet_scan_maps maps = make_maps(ras, ras_n);
    qnet_cohort *cohort = NULL;
    uint64_t hash;
    CHECK_FAILS(ctx, qnet_cohort_create(ctx, &config, 0, &cohort), QNET_ERROR_LIMIT, "0 scans");
    CHECK_FAILS(ctx, qnet_cohort_create(ctx, &config, INT_MAX, &cohort), QNET_ERROR_LIMIT, "scans");
    CHECK(cohort == NULL);
    CHECK_OK(ctx, qnet_cohort_create(ctx, &config, 2, &cohort));
    CHECK(cohort->scans_count == 0 && cohort->height == SIDE && cohort->width == SIDE);
    CHECK(qnet_scan_slice(cohort, 0, 0) == NULL);
    maps.subject = "";
    CHECK_FAILS(ctx, qnet_cohort_add(cohort, &maps), QNET_ERROR_ARGUMENT, "name");
    maps.subject = "a-name-that-is-longer-than-the-sixty-three-characters-that-fit-in";
    CHECK_FAILS(ctx, qnet_cohort_add(cohort, &maps), QNET_ERROR_LIMIT, "a-name-that");
    maps.subject = "sub-01";
    memset(&maps.label, 2, sizeof maps.label);
    CHECK_FAILS(ctx, qnet_cohort_add(cohort, &maps), QNET_ERROR_ARGUMENT,
                "expected HC (0) or HH (1)");
    maps.label = QNET_HH;
    CHECK_OK(ctx, qnet_cohort_add(cohort, &maps));
    CHECK(cohort->scans_count == 1 && strcmp(cohort->scans[0].subject, "sub-01") == 0);
    CHECK(cohort->scans[0].label == QNET_HH && cohort->scans[0].age == 50);
    CHECK(cohort->scans[0].sex == QNET_FEMALE && cohort->scans[0].slices == 3);
    CHECK(qnet_scan_slice(cohort, 0, 1) == cohort->scans[0].pixels + SIDE * SIDE * 3);
    CHECK(qnet_scan_slice(cohort, 0, 3) == NULL && qnet_scan_slice(cohort, -1, 0) == NULL);
    hash = cohort->scans[0].hash;
    maps.qsm->voxels[(1 * NY + 16) * NX + 20] += 1;
    CHECK_OK(ctx, qnet_cohort_add(cohort, &maps)); /* a second scan of the same subject */
    CHECK(cohort->scans_count == 2 && cohort->scans[1].hash != hash &&
          cohort->scans[0].hash == hash);
    CHECK_FAILS(ctx, qnet_cohort_add(cohort, &maps), QNET_ERROR_LIMIT, "full with 2");
    qnet_cohort_destroy(cohort);
    qnet_cohort_destroy(NULL);
    free_maps(&maps);
}

/* ---- folds ----------------------------------------------------------------------------------- */

static qnet_scan people[200];
static qnet_cohort crowd;

/* hh + hc subjects, labels mixed, each with `each` scans. */
static void make_crowd(int hh, int hc, int each)
{
    int i;
    memset(people, 0, sizeof people);
    memset(&crowd, 0, sizeof crowd);
    crowd.scans = people;
    crowd.scans_count = (hh + hc) * each;
    for (i = 0; i < crowd.scans_count; i++) {
        const int subject = i % (hh + hc); /* scans of one subject are not neighbours */
        snprintf(people[i].subject, sizeof people[i].subject, "sub-%03d", subject);
        people[i].label = subject * hh / (hh + hc) != (subject + 1) * hh / (hh + hc) ? QNET_HH
                                                                                      : QNET_HC;
    }
}

static void test_folds(void)
{
    static const int sizes[][4] = {{52, 47, 10, 1}, {8, 8, 4, 1}, {5, 9, 5, 1}, {20, 11, 3, 3}, {2,
    2, 2, 2}};
    int fold[200], again[200], s, i;
    for (s = 0; s < 5; s++) {
        const int hh = sizes[s][0], hc = sizes[s][1], folds = sizes[s][2], each = sizes[s][3];
        int count[2][10], low[3] = {999, 999, 999}, high[3] = {0, 0, 0}, f;
        make_crowd(hh, hc, each);
        memset(count, 0, sizeof count);
        CHECK_OK(ctx, qnet_folds_create(ctx, &crowd, folds, 17, fold));
        CHECK_OK(ctx, qnet_folds_check(ctx, &crowd, folds, fold));
        for (i = 0; i < hh + hc; i++) count[people[i].label][fold[i]]++;
        for (i = 0; i < crowd.scans_count; i++) CHECK(fold[i] == fold[i % (hh + hc)]);
        for (f = 0; f < folds; f++) {
            const int n[3] = {count[0][f], count[1][f], count[0][f] + count[1][f]};
            for (i = 0; i < 3; i++) {
                if (n[i] < low[i]) low[i] = n[i];
                if (n[i] > high[i]) high[i] = n[i];
            }
        }
        /* each class, and in all */
        for (i = 0; i < 3; i++) CHECK(low[i] > 0 && high[i] - low[i] <= 1);
        CHECK_OK(ctx, qnet_folds_create(ctx, &crowd, folds, 17, again));
        CHECK(memcmp(fold, again, (size_t)crowd.scans_count * sizeof fold[0]) == 0);
        CHECK_OK(ctx, qnet_folds_create(ctx, &crowd, folds, 18, again));
        if (hh + hc > 8) CHECK(memcmp(fold, again,
                                      (size_t)crowd.scans_count * sizeof fold[0]) != 0);
    }
    make_crowd(3, 6, 2);
    fold[0] = -7;
    CHECK_FAILS(ctx, qnet_folds_create(ctx, &crowd, 4, 1, fold), QNET_ERROR_ARGUMENT,
                "only 3 HH subjects");
    CHECK_FAILS(ctx, qnet_folds_create(ctx, &crowd, 1, 1, fold), QNET_ERROR_ARGUMENT, "2 or more");
    people[9 + 2].label = people[2].label == QNET_HH ? QNET_HC : QNET_HH;
    CHECK_FAILS(ctx, qnet_folds_create(ctx, &crowd, 2, 1, fold), QNET_ERROR_DATA, "sub-002");
    CHECK(fold[0] == -7);
    make_crowd(4, 0, 1);
    CHECK_FAILS(ctx, qnet_folds_create(ctx, &crowd, 2, 1, fold), QNET_ERROR_ARGUMENT, "only 0 HC");
    /* A leak by hand. */
    make_crowd(4, 4, 2);
    CHECK_OK(ctx, qnet_folds_create(ctx, &crowd, 2, 1, fold));
    fold[8 + 5] = 1 - fold[8 + 5];
    CHECK_FAILS(ctx, qnet_folds_check(ctx, &crowd, 2, fold), QNET_ERROR_LEAK, "sub-005");
    fold[0] = 2;
    CHECK_FAILS(ctx, qnet_folds_check(ctx, &crowd, 2, fold), QNET_ERROR_ARGUMENT, "expected 0..1");
}

/* ---- other grids ---- values are their place in the world, which trilinear interpolation keeps ------ */

static void test_resample(void)
{
    /* 1.3 x 1.1 x 1.5 mm, turned by 20 degrees, reaching beyond the QSM map's grid on all sides. */
    static const double fine[3][4] = {{1.2216, -.3762, 0, -60}, {.4446, 1.0337, 0, -75}, {0, 0, 1.5, -4.5}};
    static const double half[3][4] = {{1.25, 0, 0, -48.5}, {0, 1.25, 0, -45.5}, {0, 0, 1.5, 0}};
    static const int many[3] = {160, 150, 16}, twice[3] = {80, 72, 12};
    const double(*grids[2])[4] = {fine, half};
    const qnet_input_config config = small_config(QNET_INPUT_CROP);
    qnet_scan_maps maps = make_maps(ras, ras_n);
    int k, i;
    for (k = 0; k < 3; k++) {
        qnet_volume *v = make_volume(fine, many, k), *grid = make_volume(ras, ras_n, k);
        double covered = 0, worst = 0;
        CHECK_OK(ctx, qnet_volume_resample(v, grid, 0, &covered));
        CHECK(v->nx == NX && v->ny == NY && v->nz == NZ && memcmp(v->affine, ras, sizeof ras) == 0);
        CHECK(covered > 0.7 && covered < 1);
        for (i = 0; i < NX * NY * NZ; i++)
            if (v->voxels[i] != 0) worst = fmax(worst, fabs((double)(v->voxels[i] - grid->voxels[i])));
        CHECK(worst < 1); /* at the edge, half a voxel */
        for (worst = 0, i = 0; i < NX * NY * NZ; i++) { /* inside */
            const int x = i % NX, y = i / NX % NY;
            if (x >= NX / 3 && x < 2 * NX / 3 && y >= NY / 3 && y < 2 * NY / 3)
                worst = fmax(worst, fabs((double)(v->voxels[i] - grid->voxels[i])));
        }
        CHECK_NEAR(worst, 0, 2e-3); /* float32 of values near 1000, affine of four digits */
        qnet_volume_destroy(v);
        qnet_volume_destroy(grid);
    }
    /* To its own grid: as it is. */
    {
        qnet_volume *v = make_volume(ras, ras_n, WORLD_Y), *grid = make_volume(ras, ras_n, WORLD_Y);
        for (k = 0; k < 2; k++) {
            CHECK_OK(ctx, qnet_volume_resample(v, grid, k, NULL));
            CHECK(memcmp(v->voxels, grid->voxels, NX * NY * NZ * sizeof(float)) == 0);
        }
        memset(v->affine, 0, sizeof v->affine);
        CHECK_FAILS(ctx, qnet_volume_resample(v, grid, 0, NULL), QNET_ERROR_DATA, "singular");
        CHECK(v->nx == NX && qnet_volume_resample(NULL, grid, 0, NULL) == QNET_ERROR_ARGUMENT);
        qnet_volume_destroy(v);
        qnet_volume_destroy(grid);
    }
    /* A scan whose T1W and mask are finer than its QSM map: as good as the same pixels. */
    CHECK_OK(ctx, prepare(&config, &maps));
    memcpy(pixels2, pixels, sizeof pixels);
    k = slices;
    for (i = 0; i < 2; i++) {
        qnet_volume_destroy(maps.t1w);
        qnet_volume_destroy(maps.mask);
        maps.t1w = make_volume(grids[i], i ? twice : many, WORLD_Z);
        maps.mask = make_volume(grids[i], i ? twice : many, MASK);
        CHECK_OK(ctx, prepare(&config, &maps));
        CHECK(slices == k);
    }
    free_maps(&maps);
}

/* ---- participants.tsv ------------------------------------------------------------------------ */

static bids table_of;
static const char *group_column, *positive, *negative, *subgroups; /* given to it */
static bids_scan *rows;
static int rows_count;

static qnet_status parse(const char *text, size_t size)
{
    qnet_status status;
    bids_free(&table_of);
    memset(&table_of, 0, sizeof table_of);
    table_of.ctx = ctx;
    table_of.log.message = keep_log;
    table_of.group_column = group_column;
    table_of.positive = positive;
    table_of.negative = negative;
    table_of.subgroups = subgroups;
    status = bids_participants(&table_of, "participants.tsv", text, size);
    if (status != QNET_OK) (void)qnet__fail(ctx, status, "%s", table_of.error);
    rows = status == QNET_OK ? table_of.list : NULL;
    rows_count = table_of.count;
    return status;
}
#define PARSE(text) parse(text, sizeof(text) - 1)

/* Any disease: the column and the names of its groups are given; what is neither is left out. */
static void test_groups(void)
{
    static const char text[] = "participant_id;Diagnosis;age\n1;Patient;89+\n2;control;062Y\n3;n/a;5\n"
                                "4;PATIENT;40,5\n5;MSA;6\n6;PSP;7\n7;MSA;8\n8;;9\n";
    group_column = "diagnosis";
    positive = "patient";
    negative = "Control";
    logged[0] = '\0';
    CHECK_OK(ctx, PARSE(text));
    if (!rows) return;
    CHECK(rows_count == 3 && rows[0].label == QNET_HH && rows[1].label == QNET_HC && rows[2].label == QNET_HH);
    CHECK(rows[0].age == 89 && rows[1].age == 62 && rows[2].age == 40.5);
    CHECK_LOGGED("! participants.tsv: 2 participants without a diagnosis (n/a) are left out\n"
                 "! participants.tsv: 3 participants of other groups are left out: MSA, PSP\n");
    positive = "PD";
    CHECK_FAILS(ctx, PARSE(text), QNET_ERROR_DATA, "participants.tsv: column diagnosis: no \"PD\", expected it "
                "in some lines, found Control, Patient, PATIENT, MSA, PSP");
    positive = negative = NULL;
    CHECK_FAILS(ctx, PARSE(text), QNET_ERROR_DATA, "line 2, diagnosis: expected HH or HC (set positive and "
                "negative to name other groups), found \"Patient\"");
    group_column = NULL;
    CHECK_FAILS(ctx, PARSE(text), QNET_ERROR_FORMAT, "expected column names, group among them");
    CHECK_CONTAINS(qnet_last_error(ctx), "set group_column");
}

/* Other columns for subgroups, by subject; only those of participants that stay. */
static void test_subgroups(void)
{
    static const char text[] = "Site;participant_id;;group;\"iron; ug\"\nA<1>;1;;HH; 1,5 \nn/a;2;;hc;\nZ;3;;n/a;x\n";
    subgroups = "SITE, iron; ug,group";
    CHECK_OK(ctx, PARSE(text));
    CHECK(table_of.columns.count == 3 && table_of.columns.text.size == 50);
    CHECK(memcmp(table_of.columns.text.bytes, "\0Site\0iron; ug\0group\0sub-1\0A<1>\0" "1,5\0HH\0sub-2\0\0\0hc",
                 50) == 0);
    subgroups = "site,";
    CHECK_OK(ctx, PARSE(text));
    CHECK(table_of.columns.count == 1);
    subgroups = "group,age";
    CHECK_FAILS(ctx, PARSE(text), QNET_ERROR_ARGUMENT, "subgroups: participants.tsv has no column age; its columns "
                "are Site, participant_id, group, iron; ug");
    subgroups = "x";
    CHECK_OK(ctx, PARSE("participant_id,group,x\n1,HH,a\n2,HC,b\n3,HH,c\n4,HH,d\n5,HH,e\n6,HC,f\n7,HC,g\n8,HC,h\n"
                        "9,HC,h\n10,n/a,i\n"));
    CHECK_FAILS(ctx, PARSE("participant_id,group,x\n1,HH,1\n2,HC,2\n3,HH,3\n4,HH,4\n5,HH,5\n6,HC,6\n7,HC,7\n8,HC,8\n"
                           "9,HC,\"1,250\"\n"), QNET_ERROR_DATA, "subgroups: participants.tsv: column x has 9 "
                "different values, \"1,250\" among them; expected up to 8, or numbers alone");
    logged[0] = '\0';
    CHECK_OK(ctx, PARSE("participant_id,group,x\n1,HH,n/a\n2,HC,\n"));
    CHECK_LOGGED("! subgroups: participants.tsv: column x has no values");
    subgroups = NULL;
}

static void test_participants(void)
{
    CHECK_OK(ctx,
             PARSE("participant_id\tage\tsex\tgroup\nsub-01\t63\tM\tHC\nsub-02\t41.5\tF\tHH\n"));
    if (!rows) return; /* counted as a failure above */
    CHECK(rows_count == 2 && strcmp(rows[0].subject, "sub-01") == 0 && rows[0].label == QNET_HC);
    CHECK(rows[0].age == 63 && rows[0].sex == QNET_MALE);
    CHECK(rows[1].age == 41.5 && rows[1].sex == QNET_FEMALE && rows[1].label == QNET_HH);
    /* Byte-order mark, CR LF, another order, more columns, no prefix, no last line end, blanks. */
    CHECK_OK(ctx,
             PARSE("\xef\xbb\xbfGroup\tsite\tSEX\tparticipant_id \r\nhh\ta b\tfemale\t7a\r\n\r\n"
                        "hc\t\tn/a\tsub-7b\r\n\t\t\t\r\nHh\tx\to\t7c"));
    if (!rows) return;
    CHECK(rows_count == 3 && strcmp(rows[0].subject, "sub-7a") == 0 && rows[0].label == QNET_HH);
    CHECK(rows[0].age != rows[0].age && rows[0].sex == QNET_FEMALE); /* unknown age is NaN */
    CHECK(rows[1].label == QNET_HC && rows[1].sex == QNET_SEX_UNKNOWN);
    CHECK(strcmp(rows[2].subject, "sub-7c") == 0);
    CHECK_OK(ctx, PARSE("participant_id\tgroup\nx\tHC\n")); /* age and sex are optional */
    CHECK(rows && rows_count == 1 && rows[0].sex == QNET_SEX_UNKNOWN);

    CHECK_FAILS(ctx, PARSE(""), QNET_ERROR_FORMAT, "participants.tsv: is empty");
    CHECK_FAILS(ctx, PARSE("\n \r\n"), QNET_ERROR_FORMAT, "is empty");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\n"), QNET_ERROR_DATA, "no participants");
    CHECK_FAILS(ctx, PARSE("participant_id\tage\nsub-01\t3\n"), QNET_ERROR_FORMAT, "group");
    CHECK_FAILS(ctx, PARSE("id\tgroup\nsub-01\tHC\n"), QNET_ERROR_FORMAT, "participant_id");
    CHECK_FAILS(ctx, PARSE("participant,group\nsub-01,HC\n"), QNET_ERROR_FORMAT,
                "expected column names, participant_id among them, found \"participant,group\"");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\tgroup\na\tHC\tHC\n"), QNET_ERROR_FORMAT,
                "two columns");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\nsub-01\tHC\nsub-02\n"), QNET_ERROR_FORMAT,
                "line 3: expected 2 fields as in the first line, found 1");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\nsub-01\tHC\t5\n"), QNET_ERROR_FORMAT, "found 3");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\nsub-01\tPD\n"), QNET_ERROR_DATA,
                "participants.tsv: line 2, group: expected HH or HC (set positive and negative to name "
                "other groups), found \"PD\"");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\nsub-01\t\n"), QNET_ERROR_DATA, "no participants");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\n\nsub-01\tHC\n01\tHH\n"), QNET_ERROR_DATA,
                "line 4, participant_id: sub-01 is there twice");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\n../../etc\tHC\n"), QNET_ERROR_DATA,
                "participant_id");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\nsub-\tHC\n"), QNET_ERROR_DATA, "label");
    CHECK_FAILS(ctx,
                PARSE("participant_id\tgroup\n012345678901234567890123456789"
                      "012345678901234567890123456789\tHC\n"), QNET_ERROR_DATA, "59 characters");
    { /* Fields that only describe are read as people write them, or are unknown. */
        static const struct { const char *text; double age; } ages[] = {
            {"89+", 89}, {"062Y", 62}, {"40y", 40}, {"40,5", 40.5}, {"7.25", 7.25}, {"n/a", -1},
            {"NA", -1}, {"NaN", -1}, {"nan", -1}, {"N/A", -1}, {"", -1},
            {"18-38", -2}, {"-3", -2}, {"151", -2}, {"1.2.3", -2}, {"1234567890123456789", -2},
            {"+", -2}, {"y", -2}, {"old", -2}, {"1e1", -2}, {"0x10", -2}};
        static const struct { const char *text; int sex; } sexes[] = {
            {"M", 1}, {"male", 1}, {"MAN", 1}, {"f", 2}, {"Female", 2}, {"woman", 2}, {"W", 2},
            {"U", 0}, {"o", 0}, {"NA", 0}, {"n/a", 0}, {"", 0}, {"z", -2}, {"1", -2}};
        char text[200];
        size_t k;
        for (k = 0; k < sizeof ages / sizeof ages[0]; k++) {
            logged[0] = '\0';
            snprintf(text, sizeof text, "participant_id\tage\tgroup\na\t%s\tHC\n", ages[k].text);
            CHECK_OK(ctx, parse(text, strlen(text)));
            if (rows == NULL) return;
            CHECK(ages[k].age >= 0 ? rows[0].age == ages[k].age : rows[0].age != rows[0].age);
            snprintf(text, sizeof text, "! participants.tsv: line 2, age: expected years (0..150) or "
                     "n/a, found \"%s\": taken as unknown\n", ages[k].text);
            CHECK(strcmp(logged, ages[k].age == -2 ? text : "") == 0);
        }
        for (k = 0; k < sizeof sexes / sizeof sexes[0]; k++) {
            logged[0] = '\0';
            snprintf(text, sizeof text, "participant_id\tsex\tgroup\na\t%s\tHC\n", sexes[k].text);
            CHECK_OK(ctx, parse(text, strlen(text)));
            if (rows == NULL) return;
            CHECK((int)rows[0].sex == (sexes[k].sex > 0 ? sexes[k].sex : 0));
            CHECK((strstr(logged, "line 2, sex: expected M, F, O or n/a") != NULL) ==
                  (sexes[k].sex == -2));
        }
    }
    /* Other separators and quotes, as a spreadsheet or R writes them. */
    CHECK_OK(ctx, PARSE("\"participant_id\",\"age\",\"group\"\n\"sub-01\",3,\"HC\"\n"));
    CHECK(rows && rows[0].age == 3 && rows[0].label == QNET_HC && strcmp(rows[0].subject, "sub-01") == 0);
    CHECK_OK(ctx, PARSE("participant_id;age;group\r\nsub-01;3,5;HH\r\n"));
    CHECK(rows && rows[0].age == 3.5 && rows[0].label == QNET_HH);
    CHECK_FAILS(ctx, PARSE("\xff\xfep\0a\0"), QNET_ERROR_FORMAT, "UTF-16 has them: save the table as UTF-8");
    CHECK_FAILS(ctx, PARSE("participant_id\tgroup\na\tH\0C\n"), QNET_ERROR_FORMAT, "a zero byte");
    {
        static char many[10001 * 10 + 30]; /* a header and 10,001 lines */
        size_t n = (size_t)sprintf(many, "participant_id\tgroup\n");
        int i;
        for (i = 0; i < 10001; i++) n += (size_t)sprintf(many + n, "a%05d\tHC\n", i);
        CHECK_FAILS(ctx, parse(many, n), QNET_ERROR_LIMIT, "more than 10000");
    }
    /* Cut off anywhere, a good table is parsed or refused, never read past its end. */
    {
        static const char good[] = "participant_id\tage\tsex\tgroup\r\nsub-01\t63\tM\tHC\r\n"
                                   "sub-02\t4\tF\tHH";
        size_t n;
        for (n = 0; n < sizeof good; n++) {
            char *exact = (char *)malloc(n ? n : 1); /* the sanitizer guards its end */
            memcpy(exact, good, n);
            (void)parse(exact, n);
            free(exact);
        }
        CHECK(rows == NULL || rows_count == 2);
        bids_free(&table_of);
        rows = NULL;
    }
}

/* ---- folders --------------------------------------------------------------------------------- */

static void remove_all(const char *path)
{
    qnet_buffer names = { NULL, 0, 0, NULL };
    const char *name = NULL;
    char inner[1200];
    if (qnet__path_kind(path) == 2 && qnet_list_folder(ctx, path, &names) == QNET_OK)
        while ((name = qnet__list_next(&names, name)) != NULL) {
            snprintf(inner, sizeof inner, "%s/%s", path, name);
            remove_all(inner);
        }
    qnet_buffer_free(ctx, &names);
    remove(path);
}

static void put_text(const char *path, const char *text)
{
    CHECK_OK(ctx, qnet_file_replace(ctx, path, text, strlen(text)));
}

static const char *const suffix[4] = {"Chimap", "R2starmap", "T1w", "desc-basalganglia_mask"};

static const char *map_path(const char *folder, const char *subject, const char *entities,
                            const char *kind, const char *end)
{
    static char path[600];
    snprintf(path, sizeof path, ROOT "/%s/%s/anat/%s%s_%s%s", folder, subject, subject, entities,
             kind, end);
    return path;
}

static void put_map(const char *folder, const char *subject, const char *entities, int what,
                    const char *end, const int n[3])
{
    char path[600];
    qnet_volume *v = make_volume(ras, n, what);
    snprintf(path, sizeof path, ROOT "/%s/%s/anat", folder, subject);
    CHECK_OK(ctx, qnet_make_folder(ctx, path));
    CHECK_OK(ctx, qnet_nifti_save(ctx, map_path(folder, subject, entities, suffix[what], end), v,
                                  0));
    qnet_volume_destroy(v);
}

/* Two subjects, maps and mask in derivatives/maps, T1w in the raw folder. */
static void put_cohort(void)
{
    static const char *const subject[2] = {"sub-01", "sub-02"};
    int s, m;
    remove_all(ROOT);
    for (s = 0; s < 2; s++)
        for (m = 0; m < 4; m++)
            put_map(m == WORLD_Z ? "." : "derivatives/maps", subject[s], "", m, ".nii.gz", ras_n);
    put_text(ROOT "/participants.tsv",
             "participant_id\tage\tsex\tgroup\nsub-01\t63\tM\tHC\nsub-02\tn/a\tF\tHH\n");
}

static qnet_cohort *cohort;
static const char *derivatives; /* given; NULL: found */
static qnet_status read_cohort(const qnet_input_config *config)
{
    const qnet_log log = {NULL, keep_log};
    qnet_status status;
    qnet_cohort_destroy(cohort);
    cohort = NULL;
    status = load_folder(ctx, config, ROOT, derivatives, log, &cohort);
    CHECK((status == QNET_OK) == (cohort != NULL));
    return status;
}

static int reports, stop_at;
static int count_reports(void *user, const qnet_progress_info *info)
{
    (void)user;
    reports++;
    CHECK(strcmp(info->task, "read cohort") == 0 && info->step == (size_t)reports &&
          info->steps == 2);
    CHECK(strcmp(info->where, reports == 1 ? "sub-01" : "sub-02") == 0);
    CHECK_NEAR(info->fraction, reports / 2.0, 1e-12);
    return reports == stop_at;
}

static void test_read(void)
{
    qnet_input_config config = small_config(QNET_INPUT_CROP);
    qnet_scan_maps maps = make_maps(ras, ras_n);
    qnet_progress progress, none;
    memset(&none, 0, sizeof none);
    progress.user = NULL;
    progress.report = count_reports;
    put_cohort();
    qnet_set_progress(ctx, progress);
    reports = stop_at = 0;
    CHECK_OK(ctx, read_cohort(&config));
    CHECK(reports == 2 && cohort->scans_count == 2 && cohort->scans[0].slices == 3);
    CHECK(cohort->scans[0].age == 63 && cohort->scans[1].age != cohort->scans[1].age);
    CHECK(cohort->scans[0].label == QNET_HC && cohort->scans[1].label == QNET_HH);
    CHECK(cohort->scans[0].hash == cohort->scans[1].hash); /* the same voxels */
    CHECK_OK(ctx, prepare(&config, &maps));
    CHECK(memcmp(pixels, cohort->scans[1].pixels, 3 * SIDE * SIDE * 3 * sizeof(float)) == 0);
    reports = 0;
    stop_at = 1;
    CHECK_FAILS(ctx, read_cohort(&config), QNET_STOPPED, "stopped after sub-01");
    qnet_set_progress(ctx, none);
    free_maps(&maps);
}

/* Where the maps may lie and how they may be called. */
static void test_find(void)
{
    qnet_input_config config = small_config(QNET_INPUT_CROP);
    const char *good = map_path("derivatives/maps", "sub-01", "", "Chimap", ".nii.gz");
    char copy[600];
    strcpy(copy, good);
    put_cohort();
    /* More entities, uncompressed; a name that only begins alike does not count. */
    remove(copy);
    put_map("derivatives/maps", "sub-01", "_acq-gre_run-1", WORLD_X, ".nii", ras_n);
    put_text(map_path("derivatives/maps", "sub-01", "0", "Chimap", ".nii"), "not a map");
    put_text(map_path("derivatives/maps", "sub-01", "", "Chimap", ".json"), "{}");
    CHECK_OK(ctx, read_cohort(&config));
    put_map("derivatives/maps", "sub-01", "_acq-gre_run-2", WORLD_X, ".nii.gz", ras_n);
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_DATA, "sub-01_acq-gre_run-1_Chimap.nii");
    put_map("derivatives/maps", "sub-01", "", WORLD_X, ".nii", ras_n); /* the plain name wins */
    CHECK_OK(ctx, read_cohort(&config));
    put_map("derivatives/maps", "sub-01", "", WORLD_X, ".nii.gz", ras_n);
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_DATA, "both as .nii and .nii.gz");
    /* Two tools. */
    put_cohort();
    CHECK_OK(ctx, qnet_make_folder(ctx, ROOT "/derivatives/empty"));
    put_text(ROOT "/derivatives/dataset_description.json", "{}");
    CHECK_OK(ctx, read_cohort(&config));
    put_map("derivatives/other", "sub-01", "", WORLD_X, ".nii.gz", ras_n);
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_DATA, "sub-01: 2 files fit Chimap: "
                "derivatives/maps/sub-01/anat/sub-01_Chimap.nii.gz, derivatives/other/sub-01/anat/"
                "sub-01_Chimap.nii.gz; choose with derivatives=maps");
    derivatives = "maps";
    CHECK_OK(ctx, read_cohort(&config));
    derivatives = "other";
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_NOT_FOUND,
                "sub-01: no sub-01_R2starmap.nii.gz or .nii in " ROOT "/sub-01 or " ROOT
                "/derivatives/other/sub-01; it has sub-01_Chimap.nii.gz, ");
    derivatives = "other,maps"; /* in this order */
    CHECK_OK(ctx, read_cohort(&config));
    derivatives = "nothing";
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_NOT_FOUND, "derivatives/nothing");
    derivatives = NULL;
    /* Everything in the raw folders, no derivatives. */
    {
        int m;
        remove_all(ROOT "/derivatives");
        for (m = 0; m < 4; m++) {
            put_map(".", "sub-01", "", m, ".nii.gz", ras_n);
            put_map(".", "sub-02", "", m, ".nii.gz", ras_n);
        }
        CHECK_OK(ctx, read_cohort(&config));
    }
}

#define CHECK_STR(a, b) CHECK(strcmp(a, b) == 0)

/* ---- layouts ---------------------------------------------------------------------------------
   Of these tests only names count: files are empty. */

static void put_empty(const char *path)
{
    char whole[600], folder[600];
    snprintf(whole, sizeof whole, ROOT "/%s", path);
    strcpy(folder, whole);
    *strrchr(folder, '/') = '\0';
    CHECK_OK(ctx, qnet_make_folder(ctx, folder));
    put_text(whole, "");
}

/* Files a to d, those of one subject, by themselves. */
static void put_layout(const char *a, const char *b, const char *c, const char *d)
{
    remove_all(ROOT);
    put_empty(a);
    put_empty(b);
    put_empty(c);
    put_empty(d);
    put_text(ROOT "/participants.tsv", "participant_id\tgroup\nsub-01\tHC\n");
}

static bids layout;

/* Reads it as it was set up. Scan i is found as `found[0..3]` below ROOT. */
static qnet_status find_layout(void)
{
    qnet_status status;
    bids set = layout;
    bids_free(&layout);
    memset(&layout, 0, sizeof layout);
    layout.derivatives = set.derivatives;
    layout.session = set.session;
    layout.filter = set.filter;
    layout.t1w = set.t1w;
    layout.maps = set.maps;
    layout.write_maps = set.write_maps;
    layout.log.message = keep_log;
    status = bids_read(&layout, ctx, ROOT);
    if (status != QNET_OK) (void)qnet__fail(ctx, status, "%s", layout.error);
    return status;
}

static void check_scan(int i, const char *a, const char *b, const char *c, const char *d)
{
    const char *const wanted[4] = {a, b, c, d};
    int m;
    CHECK(i < layout.count);
    for (m = 0; m < 4 && i < layout.count; m++) {
        const char *path = layout.list[i].path[m];
        const int same = strncmp(path, ROOT "/", sizeof ROOT) == 0 && !strcmp(path + sizeof ROOT, wanted[m]);
        CHECK(same);
        if (!same) printf("    found %s, expected %s\n", path, wanted[m]);
    }
}
#define EACH(a, b, c, d)             \
    put_layout(a, b, c, d);          \
    CHECK_OK(ctx, find_layout());    \
    CHECK(layout.count == 1);        \
    check_scan(0, a, b, c, d)

static void test_layouts(void)
{
    static const char chi[] = "derivatives/a/sub-01/anat/sub-01_Chimap.nii.gz",
                      r2[] = "derivatives/a/sub-01/anat/sub-01_R2starmap.nii",
                      t1[] = "sub-01/anat/sub-01_T1w.nii.gz",
                      mask[] = "derivatives/a/sub-01/anat/sub-01_desc-basalganglia_mask.nii.gz";
    memset(&layout, 0, sizeof layout);
    EACH(chi, r2, t1, mask);
    EACH("derivatives/SEPIA/sub-01/Sepia_Chimap.nii.gz", "derivatives/SEPIA/sub-01/Sepia_R2starmap.nii.gz", t1,
         "derivatives/roi/sub-01/sub-01_desc-basalganglia_mask.nii.gz");
    EACH("derivatives/qsmxt-v6.4.2/sub-01/ses-1/anat/sub-01_ses-1_run-1_Chimap.nii",
         "derivatives/qsmxt-v6.4.2/sub-01/ses-1/anat/sub-01_ses-1_run-1_R2starmap.nii",
         "sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz",
         "derivatives/masks/sub-01/sub-01_desc-basalganglia_mask.nii.gz");
    CHECK_STR(layout.list[0].session, "1");
    CHECK_STR(layout.tool, "qsmxt-v6.4.2");
    EACH("derivatives/lab/qsm/sub-01_Chimap.nii.gz", "derivatives/lab/r2/sub-01_R2starmap.nii.gz", t1, mask);
    EACH("sub-01/sub-01_Chimap.nii.gz", "sub-01/anat/sub-01_acq-x_R2starmap.nii.gz", t1, mask);
    /* Two sessions are two scans, a session's own T1W before the subject's. */
    put_layout("derivatives/a/sub-01/ses-2/anat/sub-01_ses-2_Chimap.nii",
               "derivatives/a/sub-01/ses-2/anat/sub-01_ses-2_R2starmap.nii", t1, mask);
    put_empty("derivatives/a/sub-01/ses-1/anat/sub-01_ses-1_Chimap.nii");
    put_empty("derivatives/a/sub-01/ses-1/anat/sub-01_ses-1_R2starmap.nii");
    put_empty("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz");
    CHECK_OK(ctx, find_layout());
    CHECK(layout.count == 2 && layout.dataset.count == 2);
    check_scan(0, "derivatives/a/sub-01/ses-1/anat/sub-01_ses-1_Chimap.nii",
               "derivatives/a/sub-01/ses-1/anat/sub-01_ses-1_R2starmap.nii",
               "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", mask);
    check_scan(1, "derivatives/a/sub-01/ses-2/anat/sub-01_ses-2_Chimap.nii",
               "derivatives/a/sub-01/ses-2/anat/sub-01_ses-2_R2starmap.nii", t1, mask);
    CHECK_STR(layout.dataset.scans[0].subject, layout.dataset.scans[1].subject); /* folds keep them together */
    layout.session = "ses-2";
    CHECK_OK(ctx, find_layout());
    CHECK(layout.count == 1);
    CHECK_STR(layout.list[0].session, "2");
    layout.session = "3";
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_NOT_FOUND, "in " ROOT "/sub-01/ses-3 or ");
    layout.session = NULL;
    /* Runs and acquisitions. */
    put_layout("derivatives/a/sub-01/anat/sub-01_run-01_Chimap.nii", r2, t1, mask);
    put_empty("derivatives/a/sub-01/anat/sub-01_run-02_Chimap.nii");
    put_empty("sub-01/anat/sub-01_acq-mprage_run-2_T1w.nii.gz");
    put_empty("sub-01/anat/sub-01_acq-stage_T1w.nii.gz");
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_DATA, "sub-01: 2 files fit Chimap: derivatives/a/sub-01/anat/"
                "sub-01_run-01_Chimap.nii, derivatives/a/sub-01/anat/sub-01_run-02_Chimap.nii; "
                "choose with filter=run=01");
    layout.filter = "run=2";
    CHECK_OK(ctx, find_layout()); /* T1W: of those without a run and with run 2, the latter */
    check_scan(0, "derivatives/a/sub-01/anat/sub-01_run-02_Chimap.nii", r2,
               "sub-01/anat/sub-01_acq-mprage_run-2_T1w.nii.gz", mask);
    layout.filter = "run=1,acq=stage";
    CHECK_OK(ctx, find_layout());
    check_scan(0, "derivatives/a/sub-01/anat/sub-01_run-01_Chimap.nii", r2,
               "sub-01/anat/sub-01_acq-stage_T1w.nii.gz", mask);
    layout.filter = "run=3";
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_NOT_FOUND, ", with filter=run=3; it has sub-01_R2starmap.nii");
    layout.filter = "run-1";
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_ARGUMENT, "filter: expected entity=value");
    layout.filter = "run=1";
    layout.t1w = "*_acq-*_T1w*";
    remove(ROOT "/sub-01/anat/sub-01_T1w.nii.gz");
    put_empty("sub-01/anat/sub-01_acq-se_T1w.nii.gz");
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_DATA, "2 files fit T1w: sub-01/anat/sub-01_acq-se_T1w.nii.gz, "
                "sub-01/anat/sub-01_acq-stage_T1w.nii.gz; choose with t1w=*_acq-se_*");
    layout.t1w = "sub-*/anat/*stage*";
    CHECK_OK(ctx, find_layout());
    CHECK_CONTAINS(layout.list[0].path[2], "acq-stage_T1w");
    layout.t1w = layout.filter = NULL;
    bids_free(&layout);
}

/* The table of maps: what the search finds, edited, read again. */
static void test_table_of_maps(void)
{
    static const char header[] = "subject\tsession\tqsm\tr2star\tt1w\tmask\n";
    char text[2000];
    qnet_buffer bytes;
    memset(&bytes, 0, sizeof bytes);
    memset(&layout, 0, sizeof layout);
    put_layout("derivatives/a/sub-01/anat/sub-01_Chimap.nii", "derivatives/a/sub-01/anat/sub-01_R2starmap.nii",
               "sub-01/anat/sub-01_T1w.nii.gz", "elsewhere/mask.nii");
    layout.write_maps = ROOT "/tables/maps.tsv";
    CHECK_OK(ctx, qnet_make_folder(ctx, ROOT "/tables"));
    CHECK_OK(ctx, find_layout()); /* it has no mask, which may be */
    CHECK_OK(ctx, qnet_file_read(ctx, ROOT "/tables/maps.tsv", 0, &bytes));
    CHECK_OK(ctx, qnet_buffer_append(ctx, &bytes, "", 1));
    snprintf(text, sizeof text, "%ssub-01\tn/a\t../../../" ROOT "/derivatives/a/sub-01/anat/sub-01_Chimap.nii\t"
             "../../../" ROOT "/derivatives/a/sub-01/anat/sub-01_R2starmap.nii\t../../../" ROOT
             "/sub-01/anat/sub-01_T1w.nii.gz\tn/a\n", header);
    CHECK_STR((const char *)bytes.bytes, text);
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_ARGUMENT, "maps.tsv: is there already");
    layout.write_maps = "./build/../maps.tsv";
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_ARGUMENT, "cannot name the files of " ROOT " from there");
    layout.write_maps = "./test_cohort_maps.tsv"; /* in this folder: as they are */
    remove(layout.write_maps);
    CHECK_OK(ctx, find_layout());
    qnet_buffer_free(ctx, &bytes);
    CHECK_OK(ctx, qnet_file_read(ctx, layout.write_maps, 0, &bytes));
    CHECK_OK(ctx, qnet_buffer_append(ctx, &bytes, "", 1));
    CHECK_CONTAINS((const char *)bytes.bytes, "sub-01\tn/a\t" ROOT "/derivatives/a/sub-01/anat/sub-01_Chimap.nii\t");
    remove(layout.write_maps);
    layout.write_maps = NULL;
    layout.maps = ROOT "/tables/maps.tsv";
    CHECK_OK(ctx, find_layout());
    CHECK(layout.count == 1 && layout.dataset.scans[0].mask == NULL);
    CHECK_CONTAINS(layout.list[0].path[2], ROOT "/tables/../../../" ROOT "/sub-01/anat/sub-01_T1w.nii.gz");
    /* Beside the folder, any names, two sessions; a line of nobody; a participant without a line. */
    put_text(ROOT "/participants.tsv", "participant_id\tgroup\nsub-01\tHC\nsub-02\tHH\n");
    layout.maps = ROOT "/maps.csv";
    put_text(layout.maps, "mask,qsm,r2star,t1w,subject,session\n"
                          "elsewhere/mask.nii,derivatives/a/sub-01/anat/sub-01_Chimap.nii,elsewhere/mask.nii,"
                          "sub-01/anat/sub-01_T1w.nii.gz,01,ses-1\n"
                          "elsewhere/mask.nii,elsewhere/mask.nii,elsewhere/mask.nii,elsewhere/mask.nii,sub-01,2\n"
                          "a,b,c,d,sub-09,1\n");
    CHECK_OK(ctx, find_layout());
    CHECK(layout.count == 2);
    check_scan(0, "derivatives/a/sub-01/anat/sub-01_Chimap.nii", "elsewhere/mask.nii",
               "sub-01/anat/sub-01_T1w.nii.gz", "elsewhere/mask.nii");
    CHECK_LOGGED("! " ROOT "/maps.csv: 1 lines of subjects without a line in participants.tsv are left out\n"
                 "! " ROOT "/maps.csv: 1 participants without a line there are left out: sub-02\n");
    put_text(layout.maps, "subject,qsm,r2star,t1w,mask\n1,a,b,c,d\n");
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_DATA, "maps.csv: no line is of a participant of " ROOT);
    put_text(layout.maps, "subject,qsm,r2star,t1w,mask\n01,a.nii,b,c,d\n");
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_NOT_FOUND, "maps.csv: line 2, qsm: there is no file " ROOT "/a.nii");
    put_text(layout.maps, "subject,qsm,t1w,mask\n01,a.nii,b,c\n");
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_FORMAT, "there is no r2star");
    put_text(layout.maps, "subject,qsm,r2star,t1w,mask\n01,maps.csv,maps.csv,maps.csv,maps.csv\n"
                          "01,maps.csv,maps.csv,maps.csv,maps.csv\n");
    CHECK_FAILS(ctx, find_layout(), QNET_ERROR_DATA, "line 3: sub-01 is there twice");
    bids_free(&layout);
    qnet_buffer_free(ctx, &bytes);
}

/* What a folder holds that is not quite right. */
static void test_odd_folders(void)
{
    qnet_input_config config = small_config(QNET_INPUT_CROP);
    char path[600];
    int m;
    /* Maps of a subject that is not in the table: in the derivatives, or in the raw folder. */
    put_cohort();
    logged[0] = '\0';
    CHECK_OK(ctx, read_cohort(&config));
    CHECK(strstr(logged, "left out") == NULL);
    put_map("derivatives/maps", "sub-09", "", WORLD_X, ".nii.gz", ras_n);
    CHECK_OK(ctx, qnet_make_folder(ctx, ROOT "/derivatives/maps/sub-10/anat")); /* without maps */
    CHECK_OK(ctx, read_cohort(&config));
    CHECK_LOGGED("! " ROOT ": maps of 1 subjects without a line in "
                 "participants.tsv are left out: sub-09\n");
    for (m = 0; m < 7; m++) {
        static char name[24];
        snprintf(name, sizeof name, "sub-x%d", m);
        put_map("derivatives/maps", name, "", WORLD_X, ".nii.gz", ras_n);
    }
    CHECK_OK(ctx, read_cohort(&config));
    CHECK_LOGGED("maps of 8 subjects without a line in participants.tsv are left out: sub-09, sub-x0, "
                 "sub-x1, sub-x2, sub-x3, sub-x4, sub-x5, sub-x6\n");
    /* Zeros in front of a number. */
    put_cohort();
    put_text(ROOT "/participants.tsv", "participant_id\tgroup\n1\tHC\nsub-02\tHH\n");
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_NOT_FOUND, "sub-1: no sub-1_Chimap.nii.gz");
    CHECK_CONTAINS(qnet_last_error(ctx), "; there is a folder sub-01");
    /* Units beside a map. */
    put_cohort();
    config.any_values = 0;
    put_text(map_path("derivatives/maps", "sub-01", "", "Chimap", ".json"),
             "{\n  \"Units\" : \"ppb\"}");
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_DATA, "sub-01_Chimap.json: gives \"Units\" as "
                "\"ppb\", expected ppm: divide the map by 1000; if it is right, set any_values");
    put_text(map_path("derivatives/maps", "sub-01", "", "Chimap", ".json"), "{\"Units\":\"ppm\"}");
    put_text(map_path("derivatives/maps", "sub-01", "", "R2starmap", ".json"), "{\"Units\": \"ms\"}");
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_DATA, "\"ms\", expected 1/s");
    config.any_values = 1;
    CHECK_OK(ctx, read_cohort(&config));
    CHECK_LOGGED("! " ROOT "/derivatives/maps/sub-01/anat/sub-01_R2starmap.json: gives \"Units\"");
    put_text(map_path("derivatives/maps", "sub-01", "", "R2starmap", ".json"), "\"Units\": \"");
    CHECK_OK(ctx, read_cohort(&config));
#ifdef TEST_LINKS
    put_cohort();
    strcpy(path, map_path("derivatives/maps", "sub-02", "", "Chimap", ".nii.gz"));
    remove(path);
    CHECK(symlink("../../../../.git/annex/objects/none", path) == 0);
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_NOT_FOUND, "sub-02_Chimap.nii.gz: a link that "
                "leads nowhere, as git-annex leaves them: not downloaded");
    remove(path);
#else
    (void)path;
#endif
}

static void test_bad_folders(void)
{
    const int fewer[3] = {NX, NY, NZ - 1};
    qnet_input_config config = small_config(QNET_INPUT_CROP);
    const char *r2 = "derivatives/maps/sub-02/anat/sub-02_R2starmap.nii.gz";
    char path[600];
    qnet_volume *v;
    qnet_buffer bytes;
    memset(&bytes, 0, sizeof bytes);
    remove_all(ROOT);
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_NOT_FOUND, ROOT "/participants.tsv");
    put_cohort();
    put_text(ROOT "/participants.tsv", "");
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_FORMAT, "is empty");
    put_cohort();
    put_text(ROOT "/participants.tsv", "participant_id\tgroup\nsub-01\tHC\nsub-03\tHH\n");
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_NOT_FOUND, "sub-03: no sub-03_Chimap");
    put_cohort();
    remove(map_path("derivatives/maps", "sub-02", "", "desc-basalganglia_mask", ".nii.gz"));
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_DATA, "nothing in the maps is like a brain");
    config.slice_count = 3;
    config.box_explicit = 1;
    CHECK_OK(ctx, read_cohort(&config));
    config = small_config(QNET_INPUT_CROP);
    /* Another grid: both files and both shapes. */
    put_cohort();
    put_map("derivatives/maps", "sub-02", "", WORLD_Y, ".nii.gz", fewer);
    logged[0] = '\0';
    CHECK_OK(ctx, read_cohort(&config)); /* in the two files' own words */
    CHECK_LOGGED("! " ROOT "/derivatives/maps/sub-02/anat/sub-02_R2starmap.nii.gz: resampled from 40x36x5 onto the "
                 "grid of " ROOT "/derivatives/maps/sub-02/anat/sub-02_Chimap.nii.gz, 40x36x6; it covers 83 % of that");
    /* NaN, and a slice of zeros. */
    put_cohort();
    snprintf(path, sizeof path, ROOT "/%s", r2);
    v = make_volume(ras, ras_n, WORLD_Y);
    v->voxels[(1 * NY + 20) * NX + 21] = (float)NAN;
    CHECK_OK(ctx, qnet_nifti_save(ctx, path, v, 0));
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_DATA, "voxel (21, 20, 1) of the volume");
    CHECK_CONTAINS(qnet_last_error(ctx), r2);
    memset(v->voxels + 2 * NX * NY, 0, NX * NY * sizeof(float));
    v->voxels[(1 * NY + 20) * NX + 21] = 5;
    CHECK_OK(ctx, qnet_nifti_save(ctx, path, v, 0));
    CHECK_FAILS(ctx, read_cohort(&config), QNET_ERROR_DATA, "slice 2");
    CHECK_CONTAINS(qnet_last_error(ctx), r2);
    qnet_volume_destroy(v);
    /* Truncated, and no NIfTI at all. */
    put_cohort();
    CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &bytes));
    CHECK_OK(ctx, qnet_file_replace(ctx, path, bytes.bytes, bytes.size / 2));
    qnet_buffer_free(ctx, &bytes);
    CHECK(read_cohort(&config) == QNET_ERROR_FORMAT);
    CHECK_CONTAINS(qnet_last_error(ctx), r2);
    put_text(path, "this is no NIfTI file");
    CHECK(read_cohort(&config) == QNET_ERROR_FORMAT);
    CHECK_CONTAINS(qnet_last_error(ctx), r2);
    /* All problems are told: two files of one scan, one of another. */
    put_text(map_path("derivatives/maps", "sub-02", "", "Chimap", ".nii.gz"), "this is none");
    put_text(map_path("derivatives/maps", "sub-01", "", "Chimap", ".nii.gz"), "this is none");
    logged[0] = '\0';
    CHECK(read_cohort(&config) == QNET_ERROR_FORMAT);
    CHECK_CONTAINS(logged, "sub-01_Chimap");
    CHECK_CONTAINS(logged, "sub-02_Chimap");
    CHECK_LOGGED("sub-02_R2starmap");
    /* Arguments. */
    CHECK_FAILS(ctx, qnet_cohort_load(ctx, &config, NULL, 1, &cohort), QNET_ERROR_ARGUMENT, "files");
    {
        static char deep[1100];
        const qnet_log none = {NULL, NULL};
        qnet_scan_files files;
        memset(&files, 0, sizeof files);
        files.subject = "sub-01";
        CHECK_FAILS(ctx, qnet_cohort_load(ctx, &config, &files, 0, &cohort), QNET_ERROR_LIMIT, "0 scans");
        CHECK_FAILS(ctx, qnet_cohort_load(ctx, &config, &files, 1, &cohort), QNET_ERROR_NOT_FOUND,
                    "sub-01: no file of the T1W image");
        files.qsm = files.r2star = files.t1w = path;
        put_cohort();
        CHECK_FAILS(ctx, qnet_cohort_load(ctx, &config, &files, 1, &cohort), QNET_ERROR_DATA,
                    "nothing in the maps is like a brain"); /* without a mask it is looked for */
        memset(deep, 'a', sizeof deep - 1);
        CHECK_FAILS(ctx, load_folder(ctx, &config, deep, NULL, none, &cohort), QNET_ERROR_LIMIT, "path");
    }
}

/* One reading for both inputs: what is left out of a mask counts for both, and is told once. */
static void test_read_twice(void)
{
    qnet_input_config config[2] = {small_config(QNET_INPUT_FULL), small_config(QNET_INPUT_CROP)};
    qnet_cohort *both[2] = {NULL, NULL};
    char path[4][600];
    qnet_scan_files files;
    qnet_volume *mask = make_volume(ras, ras_n, 3);
    put_cohort();
    memset(&files, 0, sizeof files);
    for (int m = 0; m < 4; m++)
        snprintf(path[m], sizeof path[m], "%s",
                 map_path(m == WORLD_Z ? "." : "derivatives/maps", "sub-01", "", suffix[m], ".nii.gz"));
    mask->voxels[0] = 1; /* a stray voxel */
    CHECK_OK(ctx, qnet_nifti_save(ctx, path[3], mask, 0));
    qnet_volume_destroy(mask);
    files.subject = "sub-01";
    files.qsm = path[0], files.r2star = path[1], files.t1w = path[2], files.mask = path[3];
    for (int k = 0; k < 2; k++) CHECK_OK(ctx, qnet_cohort_create(ctx, &config[k], 1, &both[k]));
    logged[0] = '\0';
    CHECK_OK(ctx, qnet_cohort_read(both, 2, &files));
    for (int k = 0; k < 2; k++) {
        CHECK(both[k]->scans_count == 1 && both[k]->scans[0].cut.mask_left_out == 1);
        CHECK(both[k]->scans[0].cut.mask_voxels == 8 * 13 * 3);
        qnet_cohort_destroy(both[k]);
    }
    CHECK_LOGGED("1 voxels in 1 pieces of less than a fiftieth");
}

/* ---- out of memory --------------------------------------------------------------------------- */

static long allowed, held;
static void *counted_alloc(void *user, size_t size, size_t align)
{
    (void)user;
    (void)align;
    if (allowed-- <= 0) return NULL;
    held++;
    return malloc(size);
}
static void counted_free(void *user, void *ptr, size_t size)
{
    (void)user;
    (void)size;
    if (ptr) held--;
    free(ptr);
}

/* The n-th allocation fails, for every n: a status, nothing held back. */
static void test_no_memory(void)
{
    const qnet_input_config config = small_config(QNET_INPUT_CROP);
    qnet_hooks hooks;
    bids found;
    qnet_context *poor = NULL;
    long n, at_start;
    int fold[2];
    put_cohort();
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.alloc = counted_alloc;
    hooks.allocator.free = counted_free;
    allowed = 1000;
    CHECK_OK(ctx, qnet_context_create(&hooks, &poor));
    memset(&found, 0, sizeof found);
    CHECK(bids_read(&found, ctx, ROOT) == QNET_OK);
    at_start = held;
    for (n = 0; n < 1000; n++) {
        qnet_cohort *got = NULL;
        qnet_status status;
        allowed = n;
        status = qnet_cohort_load(poor, &config, found.dataset.scans, found.dataset.count, &got);
        if (status == QNET_OK) {
            allowed = 0;
            make_crowd(2, 2, 1);
            CHECK_FAILS(poor, qnet_folds_create(poor, &crowd, 2, 1, fold), QNET_ERROR_MEMORY, "folds");
            qnet_cohort_destroy(got);
            break;
        }
        CHECK(status == QNET_ERROR_MEMORY && got == NULL && held == at_start);
        CHECK(qnet_last_error(poor)[0] != '\0');
    }
    CHECK(n > 10 && n < 1000 && held == at_start);
    bids_free(&found);
    qnet_context_destroy(poor);
}

/* ---- the cohort of real anatomy -------------------------------------------------------------- */

static void test_cohort16(void)
{
    static const char folder[] = "../shared/data/cohort16";
    qnet_input_config config;
    const qnet_log none = {NULL, NULL};
    qnet_cohort *real = NULL;
    int i, fold[16], input;
    if (!qnet_file_exists("../shared/data/cohort16/participants.tsv")) {
        printf("test_cohort16: skipped, there is no %s\n", folder);
        return;
    }
    for (input = 0; input < 2; input++) {
        int hh = 0;
        qnet_input_config_init(&config, input ? QNET_INPUT_FULL : QNET_INPUT_CROP);
        config.size = 96; /* for speed */
        CHECK_OK(ctx, load_folder(ctx, &config, folder, NULL, none, &real));
        if (!real) return;
        CHECK(real->scans_count == 16 && real->height == (input ? 96 : 96 + 2 * 8));
        /* Mask of sub-01: slices 2..20, by nibabel. */
        CHECK(real->scans[0].slices == 19 && real->scans[0].slice_z[0] == 2 &&
              real->scans[0].age == 63);
        for (i = 0; i < 16; i++) {
            const float *slice = qnet_scan_slice(real, i, real->scans[i].slices / 2);
            const float *middle = slice + ((size_t)real->height / 2 * (size_t)real->width +
                                           (size_t)real->width / 2) * 3;
            hh += real->scans[i].label == QNET_HH;
            CHECK(middle[1] > 0 && middle[1] < 60 && fabsf(middle[0]) < 0.5f && middle[2] > 0);
        }
        CHECK(hh == 8);
        CHECK_OK(ctx, qnet_folds_create(ctx, real, 4, 1, fold));
        CHECK_OK(ctx, qnet_folds_check(ctx, real, 4, fold));
        qnet_cohort_destroy(real);
    }
}

int main(void)
{
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.log.message = keep_log;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return 1;
    if (qnet_make_folder(ctx, "build") != QNET_OK) return 1;
    RUN(test_config);
    RUN(test_orientation);
    RUN(test_oblique);
    RUN(test_full);
    RUN(test_averaging);
    RUN(test_slice_choice);
    RUN(test_explicit_box);
    RUN(test_bad_maps);
    RUN(test_values);
    RUN(test_tilt);
    RUN(test_mask);
    RUN(test_background);
    RUN(test_cuts);
    RUN(test_read_twice);
    RUN(test_cohort_memory);
    RUN(test_folds);
    RUN(test_resample);
    RUN(test_participants);
    RUN(test_groups);
    RUN(test_subgroups);
    RUN(test_read);
    RUN(test_find);
    RUN(test_layouts);
    RUN(test_table_of_maps);
    RUN(test_odd_folders);
    RUN(test_bad_folders);
    RUN(test_no_memory);
    RUN(test_cohort16);
    qnet_cohort_destroy(cohort);
    remove_all(ROOT);
    qnet_context_destroy(ctx);
    return test_end();
}
