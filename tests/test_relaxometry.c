/* Room >>relaxometry against numbers of NumPy in float64 (tests/golden/make_maps_relaxometry.py), decays of known rate,
   and everything that it refuses; and the checks of volumes, masks and echo times at the end of >>nifti. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200112L
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "memory.h"
#include "workers.h"
#include "golden/formula.h"
#include "golden/maps_relaxometry.h"

#define N 60
#define MOST 5

static qnet_context *ctx;
static const double equal[MOST] = {.005, .010, .015, .020, .025}, unequal[MOST] = {.004, .0092, .0147, .0211, .030};

static qnet_volume *volume(qnet_context *c)
{
    qnet_volume *v = NULL;
    CHECK_OK(c, qnet_volume_create(c, 5, 4, 3, &v));
    for (int i = 0; i < 3; i++) v->affine[i][i] = v->spacing[i] = 1.5 + i;
    return v;
}

/* scale * formula + fall * (MOST - e), as series() of the script has it. */
static void relaxometry_series(qnet_volume *v[MOST], uint32_t stream, double scale, double fall)
{
    for (int e = 0; e < MOST; e++) {
        v[e] = volume(ctx);
        for (uint32_t i = 0; i < N; i++)
            v[e]->voxels[i] = (float)(scale * formula(stream + (uint32_t)e, i) + fall * (MOST - e));
    }
}

static void destroy(qnet_volume *v[MOST])
{
    for (int e = 0; e < MOST; e++) qnet_volume_destroy(v[e]);
}

static const qnet_volume *const *views(qnet_volume *const *v) { return (const qnet_volume *const *)v; }

/* The largest |a / b - 1|. */
static double worst(const qnet_volume *a, const double *b)
{
    double w = 0;
    for (int i = 0; i < N; i++) w = fmax(w, fabs((double)a->voxels[i] / b[i] - 1));
    return w;
}

/* Results are rounded to float once: 6e-8. Inputs that are differences lose a little more. */
static void test_golden(void)
{
    qnet_volume *s[MOST], *phase[MOST], *r = NULL, *a = NULL, *b = NULL, *low = volume(ctx), *high = volume(ctx);
    qnet_volume *b1 = volume(ctx);
    relaxometry_series(s, 10, 20, 40);
    relaxometry_series(phase, 20, 3, -2);
    CHECK_OK(ctx, qnet_r2star_map(ctx, QNET_R2STAR_AUTO, MOST, views(s), equal, NULL, &r));
    CHECK(worst(r, golden_arlo) < 1e-6);
    CHECK(r->spacing[1] == 2.5 && r->affine[2][2] == 3.5);
    qnet_volume_destroy(r);
    CHECK_OK(ctx, qnet_r2star_map(ctx, QNET_R2STAR_AUTO, MOST, views(s), unequal, NULL, &r));
    CHECK(worst(r, golden_loglinear) < 1e-6);
    qnet_volume_destroy(r);
    CHECK_OK(ctx, qnet_phase_fit(ctx, MOST, views(phase), views(s), unequal, NULL, &a, &b));
    CHECK(worst(a, golden_slope) < 1e-6);
    CHECK(worst(b, golden_offset) < 1e-5);
    qnet_volume_destroy(a), qnet_volume_destroy(b);
    for (uint32_t i = 0; i < N; i++) {
        low->voxels[i] = (float)golden_low[i], high->voxels[i] = (float)golden_high[i];
        b1->voxels[i] = (float)(.8 + .4 * formula(31, i));
    }
    CHECK_OK(ctx, qnet_t1_map(ctx, low, 6, high, 24, .036, b1, NULL, &a, &b));
    CHECK(worst(a, golden_t1) < 1e-6);
    CHECK(worst(b, golden_m0) < 1e-6);
    qnet_volume_destroy(a), qnet_volume_destroy(b);
    for (int i = 0; i < N; i++) CHECK_NEAR(golden_m0[i], 1000, .05); /* the golden numbers themselves: M0 is known */
    CHECK_OK(ctx, qnet_t1_map(ctx, low, 6, high, 24, .036, NULL, NULL, &a, NULL));
    CHECK(worst(a, golden_t1_plain) < 1e-6);
    qnet_volume_destroy(a), qnet_volume_destroy(low), qnet_volume_destroy(high), qnet_volume_destroy(b1);
    destroy(s), destroy(phase);
}

/* A decay of known rate: the log-linear fit is exact, ARLO's Simpson rule leaves .1 % at R2* dt = .5. */
static void test_decay(void)
{
    qnet_volume *s[MOST], *r = NULL, *mask = volume(ctx);
    relaxometry_series(s, 10, 0, 0);
    for (int e = 0; e < MOST; e++)
        for (int i = 0; i < N; i++)
            s[e]->voxels[i] = (float)(700 * exp(-2.0 * i * equal[e]));
    for (int i = 0; i < 50; i++) mask->voxels[i] = i % 3 ? -1.f : 0;
    mask->voxels[20] = 0;
    for (int method = QNET_R2STAR_AUTO; method <= QNET_R2STAR_LOGLINEAR; method++) {
        CHECK_OK(ctx, qnet_r2star_map(ctx, (qnet_r2star_method)method, MOST, views(s), equal, mask, &r));
        for (int i = 0; i < N; i++)
            CHECK_NEAR(r->voxels[i], mask->voxels[i] != 0 ? 2.0 * i : 0,
                       method == QNET_R2STAR_LOGLINEAR ? 1e-4 : 1e-4 + .002 * i);
        qnet_volume_destroy(r);
    }
    /* Two echoes are enough for a line, with zeros and negative numbers left out; what grows is 0, what is gone at
       once has the limit 20 / TE1. */
    for (int i = 0; i < N; i++) s[0]->voxels[i] = 8, s[1]->voxels[i] = 4;
    s[1]->voxels[1] = 9, s[1]->voxels[2] = 0, s[1]->voxels[3] = -1, s[0]->voxels[4] = 0;
    s[1]->voxels[5] = (float)exp(-30) * 8;
    CHECK_OK(ctx, qnet_r2star_map(ctx, QNET_R2STAR_AUTO, 2, views(s), equal, NULL, &r));
    CHECK_NEAR(r->voxels[0], log(2) / .005, 1e-4);
    CHECK(r->voxels[1] == 0 && r->voxels[2] == 0 && r->voxels[3] == 0 && r->voxels[4] == 0);
    CHECK_NEAR(r->voxels[5], 20 / .005, 1e-3);
    qnet_volume_destroy(r);
    for (int e = 0; e < 3; e++) memset(s[e]->voxels, 0, N * sizeof(float));
    s[0]->voxels[1] = 1, s[1]->voxels[1] = s[2]->voxels[1] = 1e-9f; /* 3 / dt = 600: within the limit */
    s[0]->voxels[2] = 1, s[1]->voxels[2] = -.45f;                   /* no decay has this: 3 / dt * .1 / -.08 */
    s[2]->voxels[3] = 1;
    CHECK_OK(ctx, qnet_r2star_map(ctx, QNET_R2STAR_ARLO, 3, views(s), equal, NULL, &r));
    CHECK(r->voxels[0] == 0 && r->voxels[2] == 0 && r->voxels[3] == 0);
    CHECK_NEAR(r->voxels[1], 600, 1e-3);
    qnet_volume_destroy(r);
    for (int method = QNET_R2STAR_ARLO; method <= QNET_R2STAR_LOGLINEAR; method++) /* a decay with a hole in any echo */
        for (int hole = 0; hole < 4; hole++) {
            for (int e = 0; e < 4; e++)
                for (int i = 0; i < N; i++)
                    s[e]->voxels[i] = e == hole && i < 2 ? (float)-i : (float)exp(-100 * equal[e]);
            CHECK_OK(ctx, qnet_r2star_map(ctx, (qnet_r2star_method)method, 4, views(s), equal, NULL, &r));
            CHECK(r->voxels[0] == 0 && r->voxels[1] == 0);
            CHECK_NEAR(r->voxels[2], 100, .1);
            qnet_volume_destroy(r);
        }
    qnet_volume_destroy(mask);
    destroy(s);
}

/* No signal, noise and angles of nothing give 0 or the limit, never NaN. */
static void test_t1_edges(void)
{
    qnet_volume *low = volume(ctx), *high = volume(ctx), *b1 = volume(ctx), *t1 = NULL, *m0 = NULL;
    for (int i = 0; i < N; i++) low->voxels[i] = high->voxels[i] = (float)(i % 8), b1->voxels[i] = (float)(i % 5 - 2);
    low->voxels[59] = 1, high->voxels[59] = 1e6f; /* more than sin(24) / sin(6) times: not even infinite T1 */
    CHECK_OK(ctx, qnet_t1_map(ctx, low, 6, high, 24, .036, b1, NULL, &t1, &m0));
    for (int i = 0; i < N; i++) {
        CHECK(t1->voxels[i] >= 0 && t1->voxels[i] <= 10.001f && qnet__is_finite((double)m0->voxels[i]));
        CHECK((low->voxels[i] > 0 && b1->voxels[i] > 0) || (t1->voxels[i] == 0 && m0->voxels[i] == 0));
    }
    qnet_volume_destroy(t1), qnet_volume_destroy(m0);
    /* A signal at one angle alone, and actual angles of -24, 360 and 144 degrees. */
    for (int i = 0; i < N; i++) {
        low->voxels[i] = i == 0 ? 0.f : i == 1 ? -5.f : 60.f, high->voxels[i] = i == 2 ? 0.f : i == 3 ? -5.f : 120.f;
        b1->voxels[i] = i == 4 ? -1.f : i == 5 ? 15.f : i == 6 ? 16.f : i == 7 ? 6.f : 1.f;
    }
    CHECK_OK(ctx, qnet_t1_map(ctx, low, 6, high, 24, .036, b1, NULL, &t1, &m0));
    for (int i = 0; i < 7; i++) CHECK(t1->voxels[i] == 0 && m0->voxels[i] == 0);
    CHECK(t1->voxels[8] > 0 && m0->voxels[8] > 0);
    qnet_volume_destroy(t1), qnet_volume_destroy(m0);
    /* M0 alone, and the limit: E1 of 1 and above is 10 s. */
    for (int i = 0; i < N; i++) {
        const double e1 = i < 30 ? 1 : exp(-.036 / 1.5), a = 6 * acos(-1.0) / 180, b = 4 * a;
        low->voxels[i] = (float)(sin(a) / (1 - e1 * cos(a))), high->voxels[i] = (float)(sin(b) / (1 - e1 * cos(b)));
    }
    CHECK_OK(ctx, qnet_t1_map(ctx, low, 6, high, 24, .036, NULL, NULL, NULL, &m0));
    CHECK_NEAR(m0->voxels[59], 1 / (1 - exp(-.036 / 1.5)), 1e-4);
    CHECK_OK(ctx, qnet_t1_map(ctx, low, 6, high, 24, .036, NULL, NULL, &t1, NULL));
    CHECK_NEAR(t1->voxels[0], 10, 1e-3);
    CHECK_NEAR(t1->voxels[59], 1.5, 1e-5);
    qnet_volume_destroy(t1), qnet_volume_destroy(m0), qnet_volume_destroy(low), qnet_volume_destroy(high);
    qnet_volume_destroy(b1);
}

/* A voxel without signal, or with signal in one echo alone, has no line. */
static void test_line_edges(void)
{
    const double t[2] = {.005, .01}, y[2] = {3, 4}, none[2] = {0, 0}, one[2] = {0, 5}, both[2] = {1e-20, 1e-20};
    double slope, intercept;
    qnet__line(2, t, y, none, &slope, &intercept);
    CHECK(slope == 0 && intercept == 0);
    qnet__line(2, t, y, one, &slope, &intercept);
    CHECK(slope == 0 && intercept == 0);
    qnet__line(2, t, y, both, &slope, &intercept);
    CHECK_NEAR(slope, 200, 1e-9);
    CHECK_NEAR(intercept, 2, 1e-9);
}

static void test_refused(void)
{
    qnet_volume *s[MOST], *other = NULL, *none = volume(ctx), *untouched = none, *r = none;
    double t[MOST];
    relaxometry_series(s, 10, 20, 40);
    CHECK_OK(ctx, qnet_volume_create(ctx, 5, 4, 2, &other));
#define R2STAR(method, echoes, mask) qnet_r2star_map(ctx, method, echoes, views(s), t, mask, &r)
#define REFUSED(status, part) CHECK_FAILS(ctx, R2STAR(QNET_R2STAR_AUTO, MOST, NULL), status, part)
    memcpy(t, equal, sizeof t);
    CHECK_FAILS(ctx, R2STAR((qnet_r2star_method)3, MOST, NULL), QNET_ERROR_ARGUMENT, "method is 3, expected 0 to 2");
    CHECK_FAILS(ctx, qnet_r2star_map(ctx, QNET_R2STAR_AUTO, 3, views(s), t, NULL, NULL), QNET_ERROR_ARGUMENT, "ctx && r2star");
    CHECK_FAILS(ctx, qnet_r2star_map(ctx, QNET_R2STAR_AUTO, 3, NULL, t, NULL, &r), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_r2star_map(ctx, QNET_R2STAR_AUTO, 3, views(s), NULL, NULL, &r), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, R2STAR(QNET_R2STAR_AUTO, 1, NULL), QNET_ERROR_ARGUMENT, "echoes is 1, expected 2 to 64");
    CHECK_FAILS(ctx, R2STAR(QNET_R2STAR_AUTO, 65, NULL), QNET_ERROR_ARGUMENT, "echoes is 65");
    CHECK_FAILS(ctx, R2STAR(QNET_R2STAR_ARLO, 2, NULL), QNET_ERROR_ARGUMENT, "ARLO needs 3");
    CHECK_FAILS(ctx, qnet_r2star_map(ctx, QNET_R2STAR_ARLO, MOST, views(s), unequal, NULL, &r), QNET_ERROR_ARGUMENT,
                "equal distances");
    t[1] = 0;
    REFUSED(QNET_ERROR_ARGUMENT, "magnitude 2: echo time of 0 s (missing?), expected 0.0001 to 1");
    t[1] = NAN;
    REFUSED(QNET_ERROR_ARGUMENT, "s (missing?), expected 0.0001 to 1");
    t[1] = 10;
    REFUSED(QNET_ERROR_ARGUMENT, "milliseconds");
    t[1] = .004;
    REFUSED(QNET_ERROR_ARGUMENT, "magnitude 2: echo time of 0.004 s, expected more than that of the echo before, 0.005");
    t[1] = .01;
    CHECK_FAILS(ctx, R2STAR(QNET_R2STAR_AUTO, MOST, none), QNET_ERROR_DATA, "mask is empty");
    CHECK_FAILS(ctx, R2STAR(QNET_R2STAR_AUTO, MOST, other), QNET_ERROR_SHAPE, "qnet_r2star_map: mask: grid of 5x4x2");
    s[2]->voxels[33] = INFINITY;
    REFUSED(QNET_ERROR_NUMERIC, "qnet_r2star_map: magnitude 3: voxel (3, 2, 1) is inf");
    s[2]->voxels[33] = 1;
    s[2]->voxels[59] = NAN;
    REFUSED(QNET_ERROR_NUMERIC, "magnitude 3: voxel (4, 3, 2) is");
    s[2]->voxels[59] = 1;
    s[2]->affine[0][3] = 1;
    REFUSED(QNET_ERROR_SHAPE, "magnitude 3: same 5x4x3 shape as qnet_r2star_map: magnitude 1");
    s[2]->affine[0][3] = 0;
    s[2]->affine[0][1] = .1;
    REFUSED(QNET_ERROR_UNSUPPORTED, "magnitude 3: the affine's axes 1 and 2 are at 87.71 degrees");
    s[2]->affine[0][1] = 0;
    s[0]->affine[1][1] = 0;
    REFUSED(QNET_ERROR_DATA, "singular");
    s[0]->affine[1][1] = 1;
    REFUSED(QNET_ERROR_ARGUMENT, "spacing[1] is 2.5 mm, expected 1 as in the affine");
    s[0]->affine[1][1] = 2.5;
    s[4]->nx = 0;
    REFUSED(QNET_ERROR_LIMIT, "magnitude 5: volume of 0 x 4 x 3");
    s[4]->nx = s[4]->ny = s[4]->nz = 1 << 30;
    REFUSED(QNET_ERROR_LIMIT, "magnitude 5: volume of 1073741824 x");
    s[4]->nx = 5, s[4]->ny = 4, s[4]->nz = 3;
    qnet_volume *const kept = s[1];
    s[1] = NULL;
    REFUSED(QNET_ERROR_ARGUMENT, "magnitude 2: the volume is missing");
    s[1] = kept;
    CHECK_FAILS(ctx, qnet_phase_fit(ctx, 2, views(s), views(s), t, NULL, NULL, NULL), QNET_ERROR_ARGUMENT, "NULL, expected ctx && (");
    CHECK_FAILS(ctx, qnet_phase_fit(ctx, 1, views(s), views(s), t, NULL, &r, NULL), QNET_ERROR_ARGUMENT, "echoes is 1");
    CHECK_FAILS(ctx, qnet_phase_fit(ctx, 2, views(s), NULL, t, NULL, &r, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_phase_fit(ctx, 2, views(s), views(s), t, none, &r, NULL), QNET_ERROR_DATA,
                "qnet_phase_fit: mask: the mask is empty");
#define T1(low, a, high, b, tr, b1, mask) qnet_t1_map(ctx, low, a, high, b, tr, b1, mask, &r, NULL)
    CHECK_FAILS(ctx, qnet_t1_map(ctx, s[0], 6, s[1], 24, .036, NULL, NULL, NULL, NULL), QNET_ERROR_ARGUMENT, "NULL, expected ctx && (");
    CHECK_FAILS(ctx, T1(s[0], 24, s[1], 6, .036, NULL, NULL), QNET_ERROR_ARGUMENT, "lower one first");
    CHECK_FAILS(ctx, T1(s[0], 6, s[1], 91, .036, NULL, NULL), QNET_ERROR_ARGUMENT, "flip angles of 6 and 91");
    CHECK_FAILS(ctx, T1(s[0], 6, s[1], 24, 36, NULL, NULL), QNET_ERROR_ARGUMENT, "repetition time in s is 36, expected 0.0001 to 10");
    CHECK_FAILS(ctx, T1(s[0], 6, s[1], 24, 0, NULL, NULL), QNET_ERROR_ARGUMENT, "repetition time in s is 0");
    CHECK_FAILS(ctx, T1(NULL, 6, s[1], 24, .036, NULL, NULL), QNET_ERROR_ARGUMENT, "qnet_t1_map: low");
    CHECK_FAILS(ctx, T1(s[0], 6, other, 24, .036, NULL, NULL), QNET_ERROR_SHAPE, "qnet_t1_map: high");
    CHECK_FAILS(ctx, T1(s[0], 6, s[1], 24, .036, other, NULL), QNET_ERROR_SHAPE, "qnet_t1_map: b1");
    CHECK_FAILS(ctx, T1(s[0], 6, s[1], 24, .036, NULL, none), QNET_ERROR_DATA, "qnet_t1_map: mask: the mask is empty");
    CHECK(r == untouched);
    qnet_volume_destroy(none), qnet_volume_destroy(other);
    destroy(s);
}

/* Every allocation failed in turn: no leak, nothing made; then the same bits as the other context's. */
static void test_memory_and_workers(void)
{
    memory_watch watch;
    size_t three = 3;
    qnet_hooks hooks;
    qnet_context *c = NULL;
    qnet_volume *s[MOST], *a = NULL, *b = NULL, *r = NULL, *r2 = NULL;
    memset(&hooks, 0, sizeof hooks), memset(&watch, 0, sizeof watch);
    hooks.allocator.user = &watch, hooks.allocator.alloc = memory_alloc, hooks.allocator.free = memory_free;
    workers_hook(&hooks, &three);
    CHECK(qnet_context_create(&hooks, &c) == QNET_OK);
    relaxometry_series(s, 10, 20, 40);
    const size_t before = watch.bytes;
    for (size_t n = 1; n <= 5; n++) {
        watch.calls = 0, watch.fail_at = n;
        const qnet_status fit = qnet_phase_fit(c, MOST, views(s), views(s), equal, NULL, &a, &b);
        CHECK(fit == (n <= 4 ? QNET_ERROR_MEMORY : QNET_OK));
        if (n <= 4) CHECK(watch.bytes == before && a == NULL && b == NULL);
        watch.calls = 0;
        const qnet_status t1 = qnet_t1_map(c, s[4], 6, s[0], 24, .036, NULL, NULL, &r, NULL);
        CHECK(t1 == (n <= 2 ? QNET_ERROR_MEMORY : QNET_OK));
        qnet_volume_destroy(r);
        r = NULL;
    }
    watch.fail_at = 0;
    CHECK_OK(c, qnet_r2star_map(c, QNET_R2STAR_AUTO, MOST, views(s), equal, NULL, &r));
    CHECK_OK(ctx, qnet_r2star_map(ctx, QNET_R2STAR_AUTO, MOST, views(s), equal, NULL, &r2));
    CHECK(memcmp(r->voxels, r2->voxels, N * sizeof(float)) == 0);
    qnet_volume_destroy(a), qnet_volume_destroy(b), qnet_volume_destroy(r), qnet_volume_destroy(r2);
    CHECK(watch.bytes == before && watch.wrong == NULL);
    qnet_context_destroy(c);
    CHECK(watch.bytes == 0);
    memory_end(&watch);
    destroy(s);
}

/* More voxels than a task has: where one chunk ends and the next begins. */
static void test_chunks(void)
{
    qnet_volume *s[2] = {NULL, NULL}, *r = NULL;
    double off = 0;
    for (int e = 0; e < 2; e++) {
        CHECK_OK(ctx, qnet_volume_create(ctx, 31, 29, 23, &s[e]));
        for (int i = 0; i < 31 * 29 * 23; i++) s[e]->voxels[i] = (float)exp(-.01 * (i % 1000) * (e + 1));
    }
    CHECK_OK(ctx, qnet_r2star_map(ctx, QNET_R2STAR_AUTO, 2, views(s), equal, NULL, &r));
    for (int i = 0; i < 31 * 29 * 23; i++) off = fmax(off, fabs((double)r->voxels[i] - 2.0 * (i % 1000)));
    CHECK(off < .01);
    qnet_volume_destroy(r), qnet_volume_destroy(s[0]), qnet_volume_destroy(s[1]);
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    RUN(test_golden);
    RUN(test_decay);
    RUN(test_t1_edges);
    RUN(test_line_edges);
    RUN(test_refused);
    RUN(test_memory_and_workers);
    RUN(test_chunks);
    qnet_context_destroy(ctx);
    return test_end();
}
