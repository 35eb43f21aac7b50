/* Room >>locate: the basal ganglia found in QSM and R2* of phantoms, of cohort16 where it is there, of
   no brain at all; scans without a mask, and without channels, in a cohort. */
#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200112L /* memory.h */
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "memory.h"
#include "examples/phantom.h"

#define COHORT16 "../shared/data/cohort16/derivatives/maps"

static qnet_context *ctx;

static char logged[8000];
static void keep_log(void *user, qnet_log_level level, const char *text)
{
    const size_t n = strlen(logged);
    (void)user;
    snprintf(logged + n, sizeof logged - n, "%s%s\n", level == QNET_LOG_WARNING ? "! " : "", text);
}

/* The mask's place. */
typedef struct place {
    double center[2];
    int first, last;
} place;

static place mask_place(const qnet_volume *mask)
{
    place p = {{0, 0}, -1, -1};
    double n = 0;
    for (int z = 0; z < mask->nz; z++)
        for (int y = 0; y < mask->ny; y++)
            for (int x = 0; x < mask->nx; x++) {
                if (mask->voxels[qnet__voxel_at(mask, x, y, z)] < 0.5f) continue;
                p.center[0] += x;
                p.center[1] += y;
                n++;
                p.first = p.first < 0 ? z : p.first;
                p.last = z;
            }
    for (int k = 0; k < 2; k++) p.center[k] /= n;
    return p;
}

/* How far the centre is off, mm; the share of the slices of either that both have. */
static double distance_of(const qnet_location *found, const place *p, const double *mm)
{
    const double x = (found->center[0] - p->center[0]) * mm[0];
    const double y = (found->center[1] - p->center[1]) * mm[1];
    return sqrt(x * x + y * y);
}

static double overlap_of(const qnet_location *found, const place *p)
{
    const int last = found->slice_first + found->slice_count - 1;
    const int low = found->slice_first > p->first ? found->slice_first : p->first;
    const int high = last < p->last ? last : p->last;
    const int both = high >= low ? high - low + 1 : 0;
    return (double)both / (found->slice_count + p->last - p->first + 1 - both);
}

static int is_same(const qnet_location *a, const qnet_location *b)
{
    return a->center[0] == b->center[0] && a->center[1] == b->center[1] &&
           a->center_mm[0] == b->center_mm[0] && a->center_mm[1] == b->center_mm[1] &&
           a->center_mm[2] == b->center_mm[2] && a->slice_first == b->slice_first &&
           a->slice_count == b->slice_count && a->confidence == b->confidence;
}

/* A head of a phantom cohort: small, or fine down to the dentate nuclei. */
static phantom_maps head(uint64_t seed, int subject, int fine)
{
    phantom_config config;
    phantom_subject subjects[4];
    phantom_maps maps;
    phantom_config_init(&config, PHANTOM_SMALL);
    config.hh = config.hc = 2;
    config.seed = seed;
    if (fine) phantom_config_size(&config, 128, 144, 30);
    phantom_draw(&config, subjects);
    memset(&maps, 0, sizeof maps);
    CHECK_OK(ctx, phantom_render(ctx, &config, &subjects[subject], &maps));
    return maps;
}

static size_t voxels_of(const qnet_volume *v)
{
    return (size_t)v->nx * (size_t)v->ny * (size_t)v->nz;
}

/* ---- where they are -------------------------------------------------------------------------- */

/* The mask of a phantom has no thalami, that of cohort16 has: on average one lies 4 mm before the other,
   and what is found in between. So 6 mm is what no mask's definition explains. */
static void test_phantoms(void)
{
    double sum = 0;
    for (int i = 0; i < 6; i++) {
        phantom_maps maps = head((uint64_t)(i + 1), i % 4, i >= 4);
        const place p = mask_place(maps.mask);
        qnet_location found;
        CHECK_OK(ctx, qnet_locate(ctx, maps.qsm, maps.r2star, &found));
        const double distance = distance_of(&found, &p, maps.qsm->spacing);
        const double overlap = overlap_of(&found, &p);
        if (!(distance < 6.5 && overlap >= 0.7 && found.confidence >= QNET_LOCATE_DOUBTFUL))
            printf("    head %d: %.1f mm, overlap %.2f, confidence %.2f\n", i, distance, overlap,
                   found.confidence);
        CHECK(distance < 6.5);
        CHECK(overlap >= 0.7);
        CHECK(found.confidence >= QNET_LOCATE_DOUBTFUL && found.confidence <= 1);
        sum += overlap;
        /* The world's coordinates are those of the voxels, in the middle of the slices. */
        double (*const a)[4] = maps.qsm->affine;
        const double z = found.slice_first + (found.slice_count - 1) / 2.0;
        CHECK_NEAR(found.center_mm[0], a[0][0] * found.center[0] + a[0][3], 1e-9);
        CHECK_NEAR(found.center_mm[2], a[2][2] * z + a[2][3], 1e-9);
        phantom_maps_destroy(&maps);
    }
    CHECK(sum / 6 >= 0.8);
}

/* A head that was turned and comes back is found where it was; noise and heavy iron, another reference of
   QSM, another field strength, a background of noise move it little. */
static void test_what_does_not_matter(void)
{
    phantom_maps maps = head(1, 0, 0);
    qnet_location before, after;
    const size_t n = voxels_of(maps.qsm);
    const float *q = maps.qsm->voxels;
    CHECK_OK(ctx, qnet_locate(ctx, maps.qsm, maps.r2star, &before));
    for (int k = 0; k < 2; k++) {
        CHECK_OK(ctx, qnet_volume_reorient(maps.qsm, k ? "RAS" : "PSL"));
        CHECK_OK(ctx, qnet_volume_reorient(maps.r2star, k ? "RAS" : "PSL"));
        if (k == 0)
            CHECK_FAILS(ctx, qnet_locate(ctx, maps.qsm, maps.r2star, &after), QNET_ERROR_ARGUMENT,
                        "axes are PSL, expected RAS");
    }
    CHECK_OK(ctx, qnet_locate(ctx, maps.qsm, maps.r2star, &after));
    CHECK(is_same(&before, &after));
    q = maps.qsm->voxels; /* turned, and back */
    for (int what = 0; what < 4; what++) {
        qnet_rng rng = qnet_rng_at(5, QNET_RANDOM_USER, 0, (uint64_t)what);
        phantom_maps other = head(1, 0, 0);
        for (size_t i = 0; i < n; i++) {
            float *const a = &other.qsm->voxels[i], *const b = &other.r2star->voxels[i];
            const double noise[2] = {qnet_rng_normal(&rng), qnet_rng_normal(&rng)};
            const int inside = q[i] != 0, nucleus = other.mask->voxels[i] > 0;
            if (what == 0 && inside) *a += (float)(0.03 * noise[0]), *b += (float)(3 * noise[1]);
            if (what == 1 && nucleus) *a += 0.1f, *b += 15;
            if (what == 2 && inside) *a = 1.5f * *a + 0.1f, *b = 1.7f * *b + 5;
            if (what == 3 && !inside) *a = (float)(0.1 * noise[0]), *b = (float)fabs(50 * noise[1]);
            if (what == 3 && i % 97 == 0) *a = (float)NAN; /* does not count */
        }
        CHECK_OK(ctx, qnet_locate(ctx, other.qsm, other.r2star, &after));
        CHECK_NEAR(after.center_mm[0], before.center_mm[0], 4);
        CHECK_NEAR(after.center_mm[1], before.center_mm[1], 5);
        CHECK_NEAR(after.center_mm[2], before.center_mm[2], 6);
        CHECK(after.confidence >= QNET_LOCATE_DOUBTFUL);
        phantom_maps_destroy(&other);
    }
    phantom_maps_destroy(&maps);
}

/* No brain, a brain without nuclei, one whose QSM has the wrong sign: refused, or doubtful. */
static void test_nothing_to_find(void)
{
    for (int what = 0; what < 5; what++) {
        qnet_rng rng = qnet_rng_at(6, QNET_RANDOM_USER, 0, (uint64_t)what);
        phantom_maps maps = head(2, 1, 0);
        const size_t n = voxels_of(maps.qsm);
        qnet_location found;
        found.confidence = 0;
        for (size_t i = 0; i < n; i++) {
            float *const q = &maps.qsm->voxels[i], *const r = &maps.r2star->voxels[i];
            const double noise[2] = {qnet_rng_normal(&rng), qnet_rng_normal(&rng)};
            if (what == 0) *q = (float)(0.05 * noise[0]), *r = (float)(20 + 4 * noise[1]);
            if (what == 1) *q = (float)(0.05 * noise[0]), *r = (float)fabs(30 * noise[1]);
            if (what == 2 && *q != 0) *q = -*q;
            if (what == 3 && *q != 0) *q = (float)(0.05 * noise[0]), *r = (float)(20 + 4 * noise[1]);
            if (what == 4) *q = *r = 0;
        }
        const qnet_status status = qnet_locate(ctx, maps.qsm, maps.r2star, &found);
        CHECK(status == QNET_OK || status == QNET_ERROR_DATA);
        CHECK(found.confidence < QNET_LOCATE_DOUBTFUL);
        if (found.confidence >= QNET_LOCATE_DOUBTFUL) printf("    %d: %.2f\n", what, found.confidence);
        phantom_maps_destroy(&maps);
    }
}

/* ---- real anatomy ---------------------------------------------------------------------------- */

static void test_cohort16(void)
{
    double overlap = 0;
    int near = 0;
    if (!qnet_file_exists(COHORT16 "/sub-01/anat/sub-01_Chimap.nii.gz")) {
        puts("    " COHORT16 " is not there: skipped");
        return;
    }
    for (int i = 1; i <= 16; i++) {
        static const char *const suffix[3] = {"Chimap", "R2starmap", "desc-basalganglia_mask"};
        qnet_volume *v[3] = {NULL, NULL, NULL};
        qnet_location found;
        char path[300];
        for (int m = 0; m < 3; m++) {
            snprintf(path, sizeof path, COHORT16 "/sub-%02d/anat/sub-%02d_%s.nii.gz", i, i, suffix[m]);
            CHECK_OK(ctx, qnet_nifti_load(ctx, path, &v[m]));
            CHECK_OK(ctx, qnet_volume_reorient(v[m], "RAS"));
        }
        CHECK_OK(ctx, qnet_locate(ctx, v[0], v[1], &found));
        const place p = mask_place(v[2]);
        near += distance_of(&found, &p, v[0]->spacing) <= 6;
        overlap += overlap_of(&found, &p) / 16;
        CHECK(found.confidence >= QNET_LOCATE_DOUBTFUL);
        if (found.confidence < QNET_LOCATE_DOUBTFUL) printf("    sub-%02d: %.2f\n", i, found.confidence);
        for (int m = 0; m < 3; m++) qnet_volume_destroy(v[m]);
    }
    CHECK(near >= 15); /* 95 % of 16 */
    CHECK(overlap >= 0.82);
}

/* ---- in a cohort ----------------------------------------------------------------------------- */

static qnet_input_config small_config(qnet_input input)
{
    qnet_input_config config;
    qnet_input_config_init(&config, input);
    config.size = 32;
    return config;
}

static qnet_status add(const qnet_input_config *config, const phantom_maps *maps, int with_mask,
                       qnet_cohort **cohort)
{
    const qnet_scan_maps scan = {"sub-01", QNET_HH, 50, QNET_MALE, maps->qsm, maps->r2star, maps->t1w,
                                 with_mask ? maps->mask : NULL, NULL};
    *cohort = NULL;
    logged[0] = '\0';
    qnet_status status = qnet_cohort_create(ctx, config, 1, cohort);
    if (status == QNET_OK) status = qnet_cohort_add(*cohort, &scan);
    if (status != QNET_OK) qnet_cohort_destroy(*cohort);
    return status;
}

static void test_scan_without_mask(void)
{
    qnet_input_config config = small_config(QNET_INPUT_CROP);
    phantom_maps maps = head(3, 2, 0);
    qnet_location found;
    qnet_cohort *c = NULL;
    CHECK_OK(ctx, qnet_locate(ctx, maps.qsm, maps.r2star, &found));
    for (int forced = 0; forced < 2; forced++) { /* without mask, with it but not used */
        config.locate = forced;
        CHECK_OK(ctx, add(&config, &maps, forced, &c));
        const qnet_scan *scan = &c->scans[0];
        CHECK(scan->cut.located && scan->cut.confidence == found.confidence);
        CHECK(scan->cut.center[0] == found.center[0] && scan->cut.center[1] == found.center[1]);
        CHECK(scan->slices == found.slice_count && scan->slice_z[0] == found.slice_first);
        CHECK(fabs(scan->cut.offset_mm[1]) < 40 && (scan->cut.mask_voxels > 0) == forced);
        CHECK_CONTAINS(logged, "sub-01: basal ganglia found in the maps about");
        qnet_cohort_destroy(c);
    }
    config.locate = 0;
    CHECK_OK(ctx, add(&config, &maps, 1, &c)); /* by its mask */
    CHECK(!c->scans[0].cut.located && isnan(c->scans[0].cut.confidence) && logged[0] == '\0');
    CHECK(c->scans[0].cut.center[1] != found.center[1]);
    qnet_cohort_destroy(c);
    config.slice_first = 4, config.slice_count = 3; /* only the box is to be found */
    CHECK_OK(ctx, add(&config, &maps, 0, &c));
    CHECK(c->scans[0].cut.center[1] == found.center[1] && c->scans[0].slice_z[0] == 4);
    qnet_cohort_destroy(c);
    config.box_explicit = 1; /* nothing is */
    CHECK_OK(ctx, add(&config, &maps, 0, &c));
    CHECK(!c->scans[0].cut.located && isnan(c->scans[0].cut.offset_mm[0]));
    qnet_cohort_destroy(c);
    /* Noise all over: whatever is found is doubtful, which is said, or nothing is. */
    config = small_config(QNET_INPUT_CROP);
    config.any_values = 1;
    qnet_rng rng = qnet_rng_at(7, QNET_RANDOM_USER, 0, 0);
    for (size_t i = 0; i < voxels_of(maps.qsm); i++) {
        maps.qsm->voxels[i] = (float)(0.05 * qnet_rng_normal(&rng));
        maps.r2star->voxels[i] = (float)(20 + 4 * qnet_rng_normal(&rng));
    }
    CHECK_OK(ctx, add(&config, &maps, 0, &c));
    CHECK_CONTAINS(logged, "! sub-01: basal ganglia found in the maps about");
    CHECK_CONTAINS(logged, "look whether they are there, or give a mask");
    qnet_cohort_destroy(c);
    config.any_values = 0;
    CHECK_FAILS(ctx, add(&config, &maps, 0, &c), QNET_ERROR_DATA, "QSM map: no mask, and the basal ganglia are not "
                "found in it and R2*: the likeliest place has a confidence of 0; if it is right, set any_values");
    for (size_t i = 0; i < voxels_of(maps.qsm); i++) maps.qsm->voxels[i] = (float)NAN;
    CHECK_FAILS(ctx, add(&config, &maps, 0, &c), QNET_ERROR_DATA, "QSM map: is 0 nearly everywhere");
    phantom_maps_destroy(&maps);
}

/* Maps that are not what they should be: the sentence says so, not that nothing is found in them. */
static void test_wrong_maps_without_mask(void)
{
    const qnet_input_config config = small_config(QNET_INPUT_CROP);
    static const char *const why[4] = {"QSM map: of the wrong sign, as GE's phase makes it?", "R2* map: looks like "
                                       "susceptibility: are QSM and R2* swapped?", "QSM map: looks like ppb",
                                       "R2* map: looks like T2* in seconds"};
    for (int what = 0; what < 4; what++) {
        phantom_maps maps = head(3, 2, 0);
        qnet_cohort *c = NULL;
        for (size_t i = 0; i < voxels_of(maps.qsm); i++) {
            float *const q = &maps.qsm->voxels[i], *const r = &maps.r2star->voxels[i], old = *q;
            if (what == 0) *q = -old;
            if (what == 1) *q = *r, *r = old;
            if (what == 2) *q = 1000 * old;
            if (what == 3 && *r != 0) *r = 1 / *r;
        }
        CHECK_FAILS(ctx, add(&config, &maps, 0, &c), QNET_ERROR_DATA, why[what]);
        phantom_maps_destroy(&maps);
    }
}

/* ---- channels -------------------------------------------------------------------------------- */

static void test_channels(void)
{
    qnet_input_config config = small_config(QNET_INPUT_CROP);
    phantom_maps maps = head(4, 3, 0), fewer = maps;
    qnet_cohort *all = NULL, *some = NULL;
    double other = 0;
    CHECK_OK(ctx, add(&config, &maps, 1, &all));
    config.use_channel[2] = 0;
    CHECK_OK(ctx, add(&config, &maps, 1, &some));
    const size_t n = (size_t)some->scans[0].slices * (size_t)some->height * (size_t)some->width * 3;
    const uint64_t hash = some->scans[0].hash;
    for (size_t i = 0; i < n; i++) {
        const float *const a = all->scans[0].pixels, *const b = some->scans[0].pixels;
        other += i % 3 == 2 ? fabs((double)b[i]) : fabs((double)b[i] - (double)a[i]);
    }
    CHECK(other == 0);
    qnet_cohort_destroy(some);
    fewer.t1w = NULL; /* its map need not be there */
    CHECK_OK(ctx, add(&config, &fewer, 1, &some));
    CHECK(some->scans[0].hash == hash);
    qnet_cohort_destroy(some);
    config.use_channel[1] = 0;
    fewer.r2star = NULL;
    CHECK_OK(ctx, add(&config, &fewer, 1, &some));
    qnet_cohort_destroy(some);
    CHECK_FAILS(ctx, add(&config, &fewer, 0, &some), QNET_ERROR_ARGUMENT, "R2* map: missing");
    config.use_channel[0] = 0;
    CHECK_FAILS(ctx, add(&config, &maps, 1, &some), QNET_ERROR_ARGUMENT, "one channel at least");
    config.use_channel[1] = 1;
    fewer.qsm = NULL;
    fewer.r2star = maps.r2star;
    CHECK_FAILS(ctx, add(&config, &fewer, 1, &some), QNET_ERROR_ARGUMENT, "QSM map: missing");
    config.use_channel[1] = 2;
    CHECK_FAILS(ctx, add(&config, &maps, 1, &some), QNET_ERROR_ARGUMENT, "use_channel.1");
    qnet_cohort_destroy(all);
    phantom_maps_destroy(&maps);
}

/* ---- errors, memory -------------------------------------------------------------------------- */

static void test_errors(void)
{
    phantom_maps maps = head(1, 0, 0);
    qnet_location found = {{-5, 0}, {0, 0, 0}, 0, 0, 0};
    qnet_volume *small = NULL;
    CHECK(qnet_locate(NULL, maps.qsm, maps.r2star, &found) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_locate(ctx, NULL, maps.r2star, &found), QNET_ERROR_ARGUMENT, "qsm");
    CHECK_FAILS(ctx, qnet_locate(ctx, maps.qsm, maps.r2star, NULL), QNET_ERROR_ARGUMENT, "location");
    CHECK_OK(ctx, qnet_volume_create(ctx, 20, 20, 4, &small));
    CHECK_FAILS(ctx, qnet_locate(ctx, maps.qsm, small, &found), QNET_ERROR_SHAPE, "R2* map");
    CHECK_FAILS(ctx, qnet_locate(ctx, small, small, &found), QNET_ERROR_DATA, "80 mm or more");
    for (int k = 0; k < 3; k++) small->spacing[k] = k == 2 ? 1e-9 : 5;
    CHECK_FAILS(ctx, qnet_locate(ctx, small, small, &found), QNET_ERROR_DATA, "1e-09 mm along z");
    small->spacing[2] = 1;
    CHECK_FAILS(ctx, qnet_locate(ctx, small, small, &found), QNET_ERROR_DATA, "is like a brain");
    for (size_t i = 0; i < voxels_of(small); i++) small->voxels[i] = 20; /* alike everywhere */
    CHECK_FAILS(ctx, qnet_locate(ctx, small, small, &found), QNET_ERROR_DATA, "is bright in QSM");
    CHECK(found.center[0] == -5);
    qnet_volume_destroy(small);
    phantom_maps_destroy(&maps);
}

/* One block is asked for, and given back; any number of threads finds the same. */
static void test_memory_and_threads(void)
{
    memory_watch watch;
    qnet_hooks hooks;
    qnet_context *own = NULL;
    qnet_location one, many;
    phantom_maps maps = head(1, 0, 0);
    CHECK_OK(ctx, qnet_locate(ctx, maps.qsm, maps.r2star, &one));
    memset(&watch, 0, sizeof watch);
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &watch;
    hooks.allocator.alloc = memory_alloc;
    hooks.allocator.free = memory_free;
    hooks.threads = 3;
    CHECK(qnet_context_create(&hooks, &own) == QNET_OK);
    const size_t held = watch.count;
    CHECK_OK(own, qnet_locate(own, maps.qsm, maps.r2star, &many));
    CHECK(is_same(&one, &many) && watch.count == held);
    watch.fail_at = watch.calls + 1;
    CHECK_FAILS(own, qnet_locate(own, maps.qsm, maps.r2star, &many), QNET_ERROR_MEMORY,
                "finding the basal ganglia");
    qnet_context_destroy(own);
    CHECK(watch.count == 0 && watch.wrong == NULL);
    memory_end(&watch);
    phantom_maps_destroy(&maps);
}

int main(void)
{
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.log.message = keep_log;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return 1;
    RUN(test_phantoms);
    RUN(test_what_does_not_matter);
    RUN(test_nothing_to_find);
    RUN(test_cohort16);
    RUN(test_scan_without_mask);
    RUN(test_wrong_maps_without_mask);
    RUN(test_channels);
    RUN(test_errors);
    RUN(test_memory_and_threads);
    qnet_context_destroy(ctx);
    return test_end();
}
