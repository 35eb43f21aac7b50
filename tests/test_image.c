/* Room >>image: drawing, stretching, geometry and the whole of qnet_augment_apply. What other
   programs make of each transform is in test_oracles.c. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"

#define H 43
#define W 52
#define N (H * W)

static qnet_context *ctx;
static float source[N * 3], work_image[N * 3];
static qnet_real result[N * 3], result2[N * 3];

/* A smooth test image, within 0.05..0.95. */
static void make_source(void)
{
    int y, x, c;
    for (y = 0; y < H; y++)
        for (x = 0; x < W; x++)
            for (c = 0; c < 3; c++)
                source[(y * W + x) * 3 + c] =
                    (float)(0.5 + 0.3 * sin(0.11 * x + 0.5 * c) * cos(0.13 * y) +
                            0.15 * sin(0.07 * (x + 2 * y)));
}

static float values[N]; /* scratch of the limits */

/* The stretch of pixels[count] alone. */
static void stretch(const float *pixels, int count, const float low[3], const float high[3], float *out)
{
    static qnet_real wide[N * 3];
    const qnet_augmentation none = qnet_augment_test(1, count, 1, count);
    qnet_augment_config config;
    int i;
    qnet_augment_config_init(&config);
    CHECK_OK(ctx, qnet_augment_apply_within(ctx, &config, &none, pixels, 1, count, low, high, wide, 1, count,
                                            NULL));
    for (i = 0; i < 3 * count; i++) out[i] = (float)wide[i];
}

/* Where output pixel (out_x, out_y) comes from. */
static void source_of(const qnet_augmentation *record, int in_h, int in_w, int out_x, int out_y, double *x,
                      double *y)
{
    double map_x[64], map_y[64];
    const qnet__warp warp = qnet__warp_plan(record, in_h, in_w, map_x, map_y);
    qnet__warp_point(&warp, out_x, out_y, x, y);
}

/* A stretch that changes nothing: 0..1 to 0..1. */
static qnet_augment_config plain_config(void)
{
    qnet_augment_config config;
    int c;
    qnet_augment_config_init(&config);
    config.stretch = QNET_STRETCH_WINDOW;
    for (c = 0; c < 3; c++) {
        config.window_low[c] = 0;
        config.window_high[c] = 1;
    }
    return config;
}

/* ---- drawing --------------------------------------------------------------------------------- */

static void test_config(void)
{
    qnet_augment_config config;
    qnet_augment_config_init(&config);
    CHECK(config.stretch == QNET_STRETCH_PERCENTILE && config.physics_safe == 0);
    CHECK(config.percentile_low == 1 && config.percentile_high == 99);
    CHECK(config.p_hflip == 0.5 && config.p_vflip == 0.5 && config.p_brightness_contrast == 0.7);
    CHECK(config.p_gamma == 0.3 && config.p_grid == 0.25 && config.p_affine == 0.5);
    CHECK(config.window_low[0] == -0.2 && config.window_high[0] == 0.2 &&
          config.window_high[1] == 60);
    CHECK(config.window_low[2] == config.window_high[2]);
    CHECK(config.mean[1] == 0 && config.std[1] == 1);
    qnet_augment_config_imagenet(&config);
    CHECK(config.mean[0] == 0.485 && config.mean[2] == 0.406 && config.std[1] == 0.224);
}

/* The documented order, drawn here again number by number. */
static void test_draw_order(void)
{
    qnet_augment_config config;
    qnet_augmentation r;
    double u[27];
    uint32_t sample;
    int i;
    qnet_augment_config_init(&config);
    for (sample = 0; sample < 40; sample++) {
        qnet_rng a = qnet_rng_at(7, QNET_RANDOM_AUGMENT, 3, sample), b = a;
        for (i = 0; i < 27; i++) u[i] = qnet_rng_uniform(&a);
        r = qnet_augment_draw(&config, &b, 260, 250, 224, 200);
        CHECK(qnet_rng_u32(&a) == qnet_rng_u32(&b)); /* the same count was drawn */
        CHECK(r.hflip == (u[0] < 0.5) && r.vflip == (u[1] < 0.5));
        CHECK(r.brightness_contrast == (u[2] < 0.7) && r.gamma_on == (u[5] < 0.3));
        CHECK_NEAR(r.alpha, r.brightness_contrast ? 0.8 + 0.4 * u[3] : 1, 1e-12);
        CHECK_NEAR(r.beta, r.brightness_contrast ? -0.2 + 0.4 * u[4] : 0, 1e-12);
        CHECK_NEAR(r.gamma, r.gamma_on ? (80 + floor(41 * u[6])) / 100 : 1, 1e-12);
        CHECK(r.grid == (u[7] < 0.25) && r.affine == (u[20] < 0.5));
        for (i = 0; i < 6; i++) {
            CHECK_NEAR(r.grid_x[i], r.grid ? 0.7 + 0.6 * u[8 + i] : 1, 1e-12);
            CHECK_NEAR(r.grid_y[i], r.grid ? 0.7 + 0.6 * u[14 + i] : 1, 1e-12);
        }
        CHECK_NEAR(r.angle, r.affine ? -45 + 90 * u[21] : 0, 1e-10);
        CHECK_NEAR(r.scale, r.affine ? 0.9 + 0.2 * u[22] : 1, 1e-12);
        CHECK_NEAR(r.dx, r.affine ? -0.0625 + 0.125 * u[23] : 0, 1e-12);
        CHECK_NEAR(r.dy, r.affine ? -0.0625 + 0.125 * u[24] : 0, 1e-12);
        CHECK(r.crop_y == (int)(36 * u[25]) && r.crop_x == (int)(50 * u[26]));
    }
}

static void test_draw_rates(void)
{
    qnet_augment_config config, safe;
    int count[6] = {0, 0, 0, 0, 0, 0}, i;
    const double p[6] = {0.5, 0.5, 0.7, 0.3, 0.25, 0.5};
    qnet_augment_config_init(&config);
    safe = config;
    safe.physics_safe = 1;
    for (i = 0; i < 4000; i++) {
        qnet_rng a = qnet_rng_at(1, QNET_RANDOM_AUGMENT, 0, (uint64_t)i), b = a;
        const qnet_augmentation r = qnet_augment_draw(&config, &a, 260, 260, 224, 224);
        const qnet_augmentation s = qnet_augment_draw(&safe, &b, 260, 260, 224, 224);
        count[0] += r.hflip;
        count[1] += r.vflip;
        count[2] += r.brightness_contrast;
        count[3] += r.gamma_on;
        count[4] += r.grid;
        count[5] += r.affine;
        CHECK(!s.vflip && !s.brightness_contrast && !s.gamma_on);
        CHECK(s.alpha == 1 && s.beta == 0 && s.gamma == 1);
        CHECK(s.hflip == r.hflip && s.grid == r.grid && s.affine == r.affine && s.angle == r.angle);
        CHECK(memcmp(s.grid_x, r.grid_x, sizeof r.grid_x) == 0 && s.crop_x == r.crop_x);
    }
    for (i = 0; i < 6; i++) /* 4 standard deviations of a binomial share */
        CHECK_NEAR(count[i] / 4000.0, p[i], 4 * sqrt(p[i] * (1 - p[i]) / 4000));
}

static void test_test_record(void)
{
    const qnet_augmentation r = qnet_augment_test(260, 251, 224, 224);
    CHECK(r.crop_y == 18 && r.crop_x == 13);
    CHECK(!r.hflip && !r.vflip && !r.brightness_contrast && !r.gamma_on && !r.grid && !r.affine);
    CHECK(r.alpha == 1 && r.beta == 0 && r.gamma == 1 && r.scale == 1 && r.grid_x[5] == 1);
    CHECK(qnet_augment_test(10, 10, 32, 32).crop_y == 0);
}

/* ---- stretching ------------------------------------------------------------------------------ */

static void limits_of(const float *pixels, size_t count, double from, double to, float *low,
                      float *high)
{
    qnet_augment_config config;
    qnet_augment_config_init(&config);
    config.percentile_low = from;
    config.percentile_high = to;
    CHECK_OK(ctx, qnet_stretch_limits(ctx, &config, pixels, count, low, high, values));
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The selection against sorting, over sizes, ties, signs and ranges of magnitude. */
static void test_percentile_sorted(void)
{
    static const double q[] = {0, 0.3, 1, 25, 50, 77.7, 99, 99.99, 100};
    static float sorted[N];
    qnet_rng rng = qnet_rng_at(5, QNET_RANDOM_USER, 0, 0);
    int round, kind;
    for (round = 0; round < 60; round++) {
        const size_t count = round < 12 ? (size_t)round + 1 : 1 + qnet_rng_below(&rng, N - 1);
        float low[3], high[3];
        size_t i, n[3] = {0, 0, 0};
        for (i = 0; i < count; i++)
            for (kind = 0; kind < 3; kind++) {
                double v = qnet_rng_normal(&rng);
                if (kind == 0) v = floor(v * 3);           /* ties, many zeros */
                if (kind == 1) v = exp(15 * v) * (v < 0 ? -1 : 1);
                if (kind == 2) v = 100 + v;                /* one first digit */
                if (round % 7 == 6 && i % 3 == 0) v = 0;
                work_image[3 * i + (size_t)kind] = (float)v;
            }
        for (i = 0; i < sizeof q / sizeof q[0] - 1; i++) {
            limits_of(work_image, count, q[i], q[i + 1], low, high);
            for (kind = 0; kind < 3; kind++) {
                int end;
                size_t k;
                for (n[kind] = 0, k = 0; k < count; k++) {
                    const float v = work_image[3 * k + (size_t)kind];
                    if (v != 0) sorted[n[kind]++] = v;
                }
                if (n[kind] == 0) {
                    CHECK(low[kind] == 0 && high[kind] == 0);
                    continue;
                }
                qsort(sorted, n[kind], sizeof sorted[0], compare_floats);
                for (end = 0; end < 2; end++) {
                    const double at = q[i + (size_t)end] / 100 * (double)(n[kind] - 1);
                    const size_t a = (size_t)at, b = a + 1 < n[kind] ? a + 1 : a;
                    const double v = sorted[a] + (at - (double)a) * ((double)sorted[b] - sorted[a]);
                    CHECK((end ? high : low)[kind] == (float)v);
                }
            }
        }
    }
}

static void test_stretch_edges(void)
{
    const double infinity = HUGE_VAL;
    qnet_augment_config config;
    float low[3], high[3], out[30], pixels[30];
    int i;
    qnet_augment_config_init(&config);
    /* Channel 0: zeros only; 1: one value; 2: 1..8, NaN and infinity, which do not count. */
    for (i = 0; i < 10; i++) {
        pixels[3 * i] = i % 2 ? 0.0f : -0.0f;
        pixels[3 * i + 1] = 7;
        pixels[3 * i + 2] = (float)i;
    }
    pixels[2] = (float)NAN;
    pixels[29] = (float)infinity;
    config.percentile_low = 0;
    config.percentile_high = 100;
    CHECK_OK(ctx, qnet_stretch_limits(ctx, &config, pixels, 10, low, high, values));
    CHECK(low[0] == 0 && high[0] == 0 && low[1] == 7 && high[1] == 7 && low[2] == 1 &&
          high[2] == 8);
    stretch(pixels, 10, low, high, out);
    for (i = 0; i < 10; i++) CHECK(out[3 * i] == 0 && out[3 * i + 1] == 0);
    CHECK(out[2] == 0 && out[29] == 1 && out[3 + 2] == 0 && out[24 + 2] == 1);
    CHECK_NEAR(out[12 + 2], 3 / 7.0, 1e-6);
    /* Limits whose difference overflows or is too small to divide by. */
    low[0] = -3e38f;
    high[0] = 3e38f;
    low[1] = 0;
    high[1] = 1e-44f;
    stretch(pixels, 10, low, high, out);
    for (i = 0; i < 20; i++) CHECK(out[i] >= 0 && out[i] <= 1);
    /* No pixels at all. */
    CHECK_OK(ctx, qnet_stretch_limits(ctx, &config, pixels, 0, low, high, values));
    CHECK(low[0] == 0 && high[0] == 0);
    /* Windows: fixed where given, T1W by percentile; and in place. */
    config.stretch = QNET_STRETCH_WINDOW;
    CHECK_OK(ctx, qnet_stretch_limits(ctx, &config, pixels, 10, low, high, values));
    CHECK(low[0] == -0.2f && high[0] == 0.2f && low[1] == 0 && high[1] == 60 && high[2] == 8);
    stretch(pixels, 10, low, high, pixels);
    CHECK(pixels[0] == 0.5f);
    CHECK_NEAR(pixels[1], 7 / 60.0, 1e-7);
    config.percentile_high = config.percentile_low;
    CHECK_FAILS(ctx, qnet_stretch_limits(ctx, &config, pixels, 10, low, high, values),
                QNET_ERROR_ARGUMENT, "percentiles");
    qnet_augment_config_init(&config);
    config.window_low[1] = 61;
    CHECK_FAILS(ctx, qnet_stretch_limits(ctx, &config, pixels, 10, low, high, values),
                QNET_ERROR_ARGUMENT, "window 61..60 of channel 1 is empty");
    CHECK_FAILS(ctx, qnet_stretch_limits(ctx, NULL, pixels, 10, low, high, values),
                QNET_ERROR_ARGUMENT, "qnet_stretch_limits: a pointer is NULL, expected config && pixels");
}

/* ---- geometry -------------------------------------------------------------------------------- */

/* Reflect-101 one step at a time. */
static void test_reflect(void)
{
    int n, i, at;
    for (n = 2; n < 9; n++) {
        int step = 1;
        for (i = 0, at = 0; i < 60; i++) {
            CHECK(qnet__reflect(i, n) == at && qnet__reflect(-i, n) == at);
            if (at == n - 1) step = -1;
            if (at == 0) step = 1;
            at += step;
        }
        CHECK_NEAR(qnet__reflect(n - 1 + 0.25, n), n - 1 - 0.25, 1e-12);
        CHECK(qnet__reflect(1e300, n) >= 0 && qnet__reflect(1e300, n) <= n - 1);
        CHECK(qnet__reflect(NAN, n) == 0 && qnet__reflect(HUGE_VAL, n) == 0);
    }
    CHECK(qnet__reflect(5, 1) == 0);
}

static void test_map(void)
{
    qnet_augmentation r = qnet_augment_test(H, W, 33, 40);
    double x, y, X, Y;
    int i, size;
    source_of(&r, H, W, 7, 3, &x, &y);
    CHECK(x == 7 + 6 && y == 3 + 5);
    r.hflip = r.vflip = 1;
    source_of(&r, H, W, 7, 3, &x, &y);
    CHECK(x == W - 1 - 13 && y == H - 1 - 8);
    /* M applied to the source of a pixel is that pixel (OpenCV's matrix, written out). */
    r = qnet_augment_test(H, W, H, W);
    r.affine = 1;
    r.angle = -20;
    r.scale = 1.1;
    r.dx = 0.02;
    r.dy = -0.03;
    for (i = 0; i < 8; i++) {
        const double a = 1.1 * cos(-20 * 3.14159265358979323846 / 180);
        const double b = 1.1 * sin(-20 * 3.14159265358979323846 / 180);
        source_of(&r, H, W, 20 + i, 18 + i / 2, &x, &y);
        X = a * x + b * y + (1 - a) * W / 2.0 - b * H / 2.0 + 0.02 * W;
        Y = -b * x + a * y + b * W / 2.0 + (1 - a) * H / 2.0 - 0.03 * H;
        CHECK_NEAR(X, 20 + i, 1e-9);
        CHECK_NEAR(Y, 18 + i / 2, 1e-9);
    }
    /* Whatever the size and the factors, the source lies in the image. */
    for (size = 1; size < 60; size++) {
        qnet_rng rng = qnet_rng_at(9, QNET_RANDOM_USER, 0, (uint64_t)size);
        qnet_augment_config config;
        qnet_augment_config_init(&config);
        config.p_grid = config.p_affine = 1;
        r = qnet_augment_draw(&config, &rng, size, size + 1, size, size);
        r.grid_x[2] = 40; /* far out of any drawn range */
        r.dx = -1234.5;
        for (i = 0; i < size; i++) {
            source_of(&r, size, size + 1, i, size - 1 - i, &x, &y);
            CHECK(x >= 0 && x <= size && y >= 0 && y <= size - 1);
        }
    }
}

/* Grid factors of 1: each piece of 8 pixels runs linearly over 8 source pixels, ends included, so
   pixel 7 fetches 8; the rest of an axis of 43 (40..42) runs from 40 to 43. */
static void test_grid_entries(void)
{
    const double ones[6] = {1, 1, 1, 1, 1, 1};
    int i;
    for (i = 0; i < 40; i++) CHECK_NEAR(qnet__grid_entry(ones, 43, i), i / 8 * 8 + i % 8 * 8 / 7.0,
                                        1e-12);
    for (; i < 43; i++) CHECK_NEAR(qnet__grid_entry(ones, 43, i), 40 + (i - 40) * 1.5, 1e-12);
    CHECK_NEAR(qnet__grid_entry(ones, 40, 39), 40, 1e-12);
    CHECK(qnet__grid_entry(ones, 1, 0) == 0);
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* Every transform at once against the definition: values of the source first, then one bilinear
   sample at the public map's coordinate, in double. */
static void test_composition(void)
{
    qnet_augment_config config;
    uint64_t sample;
    qnet_augment_config_init(&config);
    qnet_augment_config_imagenet(&config);
    for (sample = 0; sample < 12; sample++) {
        qnet_rng rng = qnet_rng_at(2, QNET_RANDOM_AUGMENT, 1, sample);
        const int out_h = 36, out_w = 41;
        qnet_augmentation r;
        float low[3], high[3];
        double worst = 0;
        int X, Y, c, i;
        if (sample < 6) config.p_grid = config.p_affine = config.p_gamma = 1;
        else config.p_grid = config.p_affine = config.p_gamma = 0.5;
        r = qnet_augment_draw(&config, &rng, H, W, out_h, out_w);
        CHECK_OK(ctx, qnet_augment_apply(ctx, &config, &r, source, H, W, result, out_h, out_w,
                                         NULL));
        CHECK_OK(ctx, qnet_stretch_limits(ctx, &config, source, N, low, high, values));
        stretch(source, N, low, high, work_image);
        for (i = 0; i < N * 3; i++) {
            double v = work_image[i];
            if (r.brightness_contrast) v = fmin(fmax(v * r.alpha + r.beta, 0), 1);
            work_image[i] = (float)(r.gamma_on ? pow(v, r.gamma) : v);
        }
        for (Y = 0; Y < out_h; Y++)
            for (X = 0; X < out_w; X++) {
                double x, y;
                int x0, y0, x1, y1;
                source_of(&r, H, W, X, Y, &x, &y);
                x0 = (int)floor(x);
                y0 = (int)floor(y);
                x1 = x0 + (x0 < W - 1);
                y1 = y0 + (y0 < H - 1);
                for (c = 0; c < 3; c++) {
                    const double fx = x - x0, fy = y - y0;
                    const double v = (1 - fy) * ((1 - fx) * work_image[(y0 * W + x0) * 3 + c] +
                                                 fx * work_image[(y0 * W + x1) * 3 + c]) +
                                     fy * ((1 - fx) * work_image[(y1 * W + x0) * 3 + c] +
                                           fx * work_image[(y1 * W + x1) * 3 + c]);
                    worst = fmax(worst, fabs(result[(Y * out_w + X) * 3 + c] -
                                             (v - config.mean[c]) / config.std[c]));
                }
            }
        CHECK_NEAR(worst, 0, 5e-6); /* float values of size 1, weights and 1/std = 4.5 */
    }
}

/* Without an interpolating transform pixels are copied, bit for bit. */
static void test_exact_copy(void)
{
    const qnet_augment_config config = plain_config();
    int flips, Y, X, c;
    for (flips = 0; flips < 4; flips++) {
        qnet_augmentation r = qnet_augment_test(H, W, 30, 20);
        r.crop_y = 13;
        r.crop_x = 1;
        r.hflip = flips & 1;
        r.vflip = flips >> 1;
        CHECK_OK(ctx, qnet_augment_apply(ctx, &config, &r, source, H, W, result, 30, 20, NULL));
        for (Y = 0; Y < 30; Y++)
            for (X = 0; X < 20; X++)
                for (c = 0; c < 3; c++) {
                    const int y = r.vflip ? H - 1 - Y - 13 : Y + 13,
                    x = r.hflip ? W - 1 - X - 1 : X + 1;
                    CHECK(result[(Y * 20 + X) * 3 + c] == (qnet_real)source[(y * W + x) * 3 + c]);
                }
    }
    /* An affine transform that moves nothing goes through the interpolation and changes nothing. */
    {
        qnet_augmentation r = qnet_augment_test(H, W, H, W);
        r.affine = 1;
        CHECK_OK(ctx, qnet_augment_apply(ctx, &config, &r, source, H, W, result, H, W, NULL));
        for (X = 0; X < N * 3; X++) CHECK(result[X] == (qnet_real)source[X]);
    }
}

/* The table against pow: 1.1e-7 from the interpolation, four roundings of 6e-8 in float. */
static void test_power(void)
{
    static const double gamma[] = {0.8, 0.93, 1, 1.2, 0.5, 2.2};
    qnet__power_table table;
    int g, i;
    for (g = 0; g < 6; g++) {
        const double bound = 2.4e-7 + 4.8e-7 * gamma[g] * fabs(gamma[g] - 1);
        double worst = 0;
        qnet__power_plan(&table, gamma[g]);
        CHECK(qnet__power(&table, 0) == 0 && qnet__power(&table, 1) == 1);
        CHECK(qnet__power(&table, 1e-42f) >= 0 && qnet__power(&table, 1e-42f) < 1e-20f);
        for (i = 1; i < 20000; i++) {
            const float v = (float)(i % 2 ? i / 20000.0 : exp(-i / 700.0));
            worst = fmax(worst, fabs(qnet__power(&table, v) / pow(v, gamma[g]) - 1));
        }
        CHECK_NEAR(worst, 0, bound);
    }
}

/* The same bits with the limits given, whatever the image's size leaves of four pixels, and no bit
   of what stands behind the image is read or written. */
static void test_within(void)
{
    qnet_augment_config config;
    uint64_t sample;
    qnet_augment_config_init(&config);
    config.p_gamma = 1;
    for (sample = 0; sample < 40; sample++) {
        qnet_rng rng = qnet_rng_at(24, QNET_RANDOM_AUGMENT, 0, sample);
        const int h = 5 + (int)(sample % 7), w = 6 + (int)(sample % 5);
        const size_t bytes = (size_t)(h * w * 3) * sizeof(float);
        float *exact = (float *)malloc(bytes);
        qnet_augmentation r = qnet_augment_draw(&config, &rng, h, w, 5, 6);
        float low[3], high[3];
        if (exact == NULL) return;
        memcpy(exact, source, bytes);
        CHECK_OK(ctx, qnet_stretch_limits(ctx, &config, exact, (size_t)(h * w), low, high, values));
        memset(result, 0, sizeof result);
        memset(result2, 0, sizeof result2);
        CHECK_OK(ctx, qnet_augment_apply(ctx, &config, &r, exact, h, w, result, 5, 6, NULL));
        CHECK_OK(ctx, qnet_augment_apply_within(ctx, &config, &r, exact, h, w, low, high, result2, 5,
                                                6, NULL));
        CHECK(memcmp(result, result2, sizeof result) == 0 && result2[90] == 0);
        high[0] += 1; /* other limits are not ignored */
        CHECK_OK(ctx, qnet_augment_apply_within(ctx, &config, &r, exact, h, w, low, high, result2, 5,
                                                6, NULL));
        CHECK(memcmp(result, result2, sizeof result) != 0);
        free(exact);
    }
}

static void test_bad_pixels(void)
{
    qnet_augment_config config;
    uint64_t sample;
    int i, bad = 0;
    for (i = 0; i < N * 3; i++) {
        work_image[i] = source[i];
        if (i % 11 == 0) work_image[i] = (float)NAN;
        if (i % 17 == 0) work_image[i] = (float)-HUGE_VAL;
        if (i % 19 == 0) work_image[i] = 3e38f;
    }
    qnet_augment_config_init(&config);
    config.p_grid = config.p_affine = 0.7;
    for (sample = 0; sample < 20; sample++) {
        qnet_rng rng = qnet_rng_at(4, QNET_RANDOM_AUGMENT, 0, sample);
        const qnet_augmentation r = qnet_augment_draw(&config, &rng, H, W, 40, 40);
        CHECK_OK(ctx, qnet_augment_apply(ctx, &config, &r, work_image, H, W, result, 40, 40, NULL));
        for (i = 0; i < 40 * 40 * 3; i++) bad += !(result[i] >= 0 && result[i] <= 1);
    }
    CHECK(bad == 0);
}

static void test_bad_arguments(void)
{
    qnet_augment_config config = plain_config();
    const qnet_augmentation good = qnet_augment_test(H, W, 32, 32);
    qnet_augmentation r = good;
    result[0] = 123;
#define REFUSED(text)                                                                           \
    CHECK_FAILS(ctx, qnet_augment_apply(ctx, &config, &r, source, H, W, result, 32, 32, NULL),     \
                QNET_ERROR_ARGUMENT, text)
    r.crop_x = W - 31;
    REFUSED("crop");
    r.crop_x = -1;
    REFUSED("crop");
    r = good;
    r.angle = NAN;
    REFUSED("finite");
    r = good;
    r.grid_y[5] = HUGE_VAL;
    REFUSED("finite");
    r = good;
    r.affine = 1;
    r.scale = 0;
    REFUSED("scale is 0");
    r = good;
    r.gamma_on = 1;
    r.gamma = -1;
    REFUSED("gamma is -1");
    r = good;
    config.std[2] = 0;
    REFUSED("std.2 is 0, expected");
    config = plain_config();
    config.percentile_high = 101;
    REFUSED("percentile_high is 101, expected 0 to 100");
    config = plain_config();
#undef REFUSED
    CHECK_FAILS(ctx, qnet_augment_apply(ctx, &config, &r, source, H, W, result, H + 1, 32, NULL),
                QNET_ERROR_ARGUMENT, "crop of 44x32 at row 5, column 10 from an image of 43x52");
    CHECK_FAILS(ctx, qnet_augment_apply(ctx, &config, &r, source, 0, W, result, 0, 32, NULL),
                QNET_ERROR_ARGUMENT, "0x52");
    CHECK_FAILS(ctx, qnet_augment_apply(ctx, &config, NULL, source, H, W, result, 32, 32, NULL),
                QNET_ERROR_ARGUMENT, "NULL");
    CHECK(result[0] == 123); /* untouched by any of them */
    CHECK(qnet_augment_scratch(0, 5) == (size_t)-1);
}

static void *no_alloc(void *user, size_t size, size_t align)
{
    (void)size;
    (void)align;
    if (*(int *)user == 0) return NULL;
    --*(int *)user;
    return calloc(1, size);
}
static void plain_free(void *user, void *ptr, size_t size)
{
    (void)user;
    (void)size;
    free(ptr);
}

/* Without memory: a status. With the caller's scratch: no allocation, and the same bits. */
static void test_memory(void)
{
    int left = 1;
    qnet_hooks hooks;
    qnet_context *poor;
    qnet_augment_config config;
    qnet_rng rng = qnet_rng_at(3, QNET_RANDOM_AUGMENT, 0, 0);
    qnet_augmentation r;
    float low[3], high[3];
    unsigned char *block = (unsigned char *)malloc(qnet_augment_scratch(H, W) + 64);
    void *scratch = block + (64 - (size_t)((uintptr_t)block % 64));
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &left;
    hooks.allocator.alloc = no_alloc;
    hooks.allocator.free = plain_free;
    CHECK_OK(ctx, qnet_context_create(&hooks, &poor));
    left = 0;
    qnet_augment_config_init(&config);
    config.p_grid = config.p_affine = 1;
    r = qnet_augment_draw(&config, &rng, H, W, 40, 40);
    CHECK_FAILS(poor, qnet_augment_apply(poor, &config, &r, source, H, W, result, 40, 40, NULL),
                QNET_ERROR_MEMORY, "augmentation");
    CHECK_FAILS(poor, qnet_stretch_limits(poor, &config, source, N, low, high, NULL), QNET_ERROR_ARGUMENT,
                "scratch");
    memset(result, 0, sizeof result);
    memset(result2, 0, sizeof result2);
    CHECK_OK(poor, qnet_augment_apply(poor, &config, &r, source, H, W, result, 40, 40, scratch));
    CHECK_OK(ctx, qnet_augment_apply(ctx, &config, &r, source, H, W, result2, 40, 40, NULL));
    CHECK(memcmp(result, result2, sizeof result) == 0 && result[100] != 0);
    qnet_context_destroy(poor);
    free(block);
}

/* torch.nn.functional.interpolate(mode="bilinear", align_corners=False) of sin(.9x+.4) cos(.7y),
   5x7, to 8x4 and 3x11 (PyTorch 2.13). */
static void test_resize(void)
{
    static const float to_8x4[] = {
        0.6047208f, 0.7126319f, -0.6570046f, -0.6587961f, 0.5425062f, 0.6393152f, -0.5894110f,
        -0.5910181f, 0.4400326f, 0.5185555f, -0.4780776f, -0.4793812f, 0.2151993f, 0.2536012f,
        -0.2338053f, -0.2344429f, -0.0247403f, -0.0291552f, 0.0268794f, 0.0269527f, -0.2797863f,
        -0.3297136f, 0.3039765f, 0.3048054f, -0.4540668f, -0.5350941f, 0.4933252f, 0.4946704f,
        -0.5697814f, -0.6714578f, 0.6190444f, 0.6207324f};
    static const float to_3x11[] = {
        0.3588934f, 0.5994095f, 0.8750372f, 0.7840962f, 0.4881034f, 0.0383213f, -0.4299157f,
        -0.7541968f, -0.8865365f, -0.6451195f, -0.4281839f, 0.0661883f, 0.1105451f, 0.1613773f,
        0.1446057f, 0.0900177f, 0.0070673f, -0.0792865f, -0.1390915f, -0.1634980f, -0.1189751f,
        -0.0789671f, -0.3101445f, -0.5179910f, -0.7561799f, -0.6775916f, -0.4218038f, -0.0331161f,
        0.3715197f, 0.6517534f, 0.7661172f, 0.5574922f, 0.3700232f};
    float in[35], out[64], both[70];
    int i, y, x;
    for (y = 0; y < 5; y++)
        for (x = 0; x < 7; x++) in[y * 7 + x] = (float)(sin(0.9 * x + 0.4) * cos(0.7 * y));
    qnet_image_resize(in, 5, 7, 1, out, 8, 4);
    for (i = 0; i < 32; i++) CHECK_NEAR(out[i], to_8x4[i], 5e-7);
    qnet_image_resize(in, 5, 7, 1, out, 3, 11);
    for (i = 0; i < 33; i++) CHECK_NEAR(out[i], to_3x11[i], 5e-7);
    qnet_image_resize(in, 5, 7, 1, out, 5, 7);
    CHECK(memcmp(in, out, sizeof in) == 0);
    for (i = 0; i < 35; i++) { /* channels do not mix */
        both[2 * i] = in[i];
        both[2 * i + 1] = -in[i];
    }
    qnet_image_resize(both, 5, 7, 2, out, 4, 8);
    for (i = 0; i < 32; i++) CHECK(out[2 * i] == -out[2 * i + 1]);
    out[0] = 5;
    qnet_image_resize(in, 0, 7, 1, out, 8, 4);
    qnet_image_resize(in, 5, 7, 1, out, 8, 0);
    CHECK(out[0] == 5);
    qnet_image_resize(in, 1, 1, 1, out, 2, 2);
    CHECK(out[0] == in[0] && out[3] == in[0]);
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    make_source();
    RUN(test_config);
    RUN(test_draw_order);
    RUN(test_draw_rates);
    RUN(test_test_record);
    RUN(test_percentile_sorted);
    RUN(test_stretch_edges);
    RUN(test_reflect);
    RUN(test_map);
    RUN(test_grid_entries);
    RUN(test_composition);
    RUN(test_exact_copy);
    RUN(test_power);
    RUN(test_within);
    RUN(test_bad_pixels);
    RUN(test_bad_arguments);
    RUN(test_memory);
    RUN(test_resize);
    qnet_context_destroy(ctx);
    return test_end();
}
