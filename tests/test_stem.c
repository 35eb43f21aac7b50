/* Room >>stem: convolution, norm, ReLU and max pooling of the first layer in one, against the same
   one after the other; and the gradient of its weights against the sum that defines it, in double. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "quick.h"
#include "pool_reference.h"

/* Of the largest number of a tap's gradients: some thousand products each, a good part of which cancels. */
#define NEAR (QNET__REAL_IS_DOUBLE ? 1e-12 : 1e-5)

typedef struct data {
    qnet_conv2d conv;
    size_t in, out, pooled;
    qnet_real *x, *w, *pre, *pool, *dpool;
    uint8_t *argmax;
    qnet_real gamma[64], beta[64], mean[64], scale[64], shift[64], slope[64], sign[64];
} data;

static qnet_real *normals(uint64_t seed, size_t n, double mean)
{
    qnet_real *p = (qnet_real *)malloc(n * sizeof *p);
    uint64_t state = seed << 32;
    size_t i;
    if (p == NULL) exit(2);
    for (i = 0; i < n; i++) p[i] = (qnet_real)(mean + quick_normal(&state));
    return p;
}

static data make_data(int batch, int height, int width, int channels, double mean)
{
    data d;
    qnet_conv2d conv = {0, 0, 0, 0, 64, 7, 2, 3};
    int c;
    conv.batch = batch, conv.height = height, conv.width = width, conv.in_channels = channels;
    d.conv = conv;
    d.in = (size_t)batch * (size_t)height * (size_t)width * (size_t)channels;
    d.out = (size_t)batch * (size_t)((height + 1) / 2) * (size_t)((width + 1) / 2) * 64;
    d.pooled = (size_t)batch * (size_t)((height + 3) / 4) * (size_t)((width + 3) / 4) * 64;
    d.x = normals(1, d.in, mean);
    d.w = normals(2, (size_t)(49 * channels * 64), 0);
    d.pre = normals(3, d.out, 0);
    d.pool = normals(4, d.pooled, 0);
    d.dpool = normals(5, d.pooled, .1);
    d.argmax = (uint8_t *)malloc(d.pooled);
    for (c = 0; c < 64; c++) {
        d.gamma[c] = (qnet_real)(c == 5 ? 0 : sin(c + 1.));
        d.sign[c] = (qnet_real)((d.gamma[c] > 0) - (d.gamma[c] < 0));
        d.beta[c] = (qnet_real)(.3 * cos(c));
    }
    return d;
}

static void free_data(data *d)
{
    free(d->x), free(d->w), free(d->pre), free(d->pool), free(d->dpool), free(d->argmax);
}

static qnet__epilogue make_sums(size_t chunks)
{
    qnet__epilogue s = qnet__epilogue_plain(NULL);
    s.center = (qnet_real *)calloc(chunks * 64, sizeof(qnet_real));
    s.sum1 = (double *)calloc(chunks * 64, sizeof(double));
    s.sum2 = (double *)calloc(chunks * 64, sizeof(double));
    s.rows = (size_t *)calloc(chunks, sizeof(size_t));
    if (!s.center || !s.sum1 || !s.sum2 || !s.rows) exit(2);
    return s;
}

static void free_sums(qnet__epilogue *s)
{
    free(s->center), free(s->sum1), free(s->sum2), free(s->rows);
}

static qnet_context *make_context(qnet_cpu cpu)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    hooks.cpu = cpu;
    return qnet_context_create(&hooks, &ctx) == QNET_OK ? ctx : NULL;
}

/* The pooled maps have the bits of convolution, norm and pooling one after the other; the moments are
   those of all of pre. */
static void forward(qnet_context *ctx, data *d)
{
    const qnet__stem s = qnet__stem_geometry(&d->conv);
    const size_t outputs = d->out / 64;
    qnet__epilogue sums = make_sums(qnet__stem_chunks(&s));
    qnet_real *pool = normals(6, d->pooled, 0);
    uint8_t *argmax = (uint8_t *)malloc(d->pooled);
    void *scratch = qnet__default_alloc(NULL, qnet__stem_scratch(ctx, &d->conv, 0), 64);
    void *other = qnet__default_alloc(NULL, qnet__conv_scratch(ctx, QNET__CONV_DIRECT, &d->conv, 1), 64);
    double mean[64], var[64], m, v;
    qnet__maxpool p;
    size_t i, c;
    if (scratch == NULL || other == NULL || argmax == NULL) exit(2);
    CHECK_OK(ctx, qnet__maxpool_plan(ctx, "test", d->conv.batch, (int)s.out_h, (int)s.out_w, 64, 1, &p));
    CHECK((size_t)(d->conv.batch * s.pool_h * s.pool_w * 64) == d->pooled);

    qnet__conv_sweep(ctx, &d->conv, 0, 0, d->x, d->w, NULL, d->pre, other);
    p.x = qnet__prologue_plain(d->pre);
    p.sign = d->sign;
    p.y = d->pool, p.argmax = d->argmax;
    pool_forward_reference(&p, (size_t)d->conv.batch);
    p.y = pool, p.argmax = argmax;
    sums.kind = QNET__EPILOGUE_MOMENTS;
    qnet__stem_forward(ctx, &d->conv, d->x, d->w, NULL, &sums, &p, scratch);
    CHECK(memcmp(pool, d->pool, d->pooled * sizeof *pool) == 0);
    CHECK(memcmp(argmax, d->argmax, d->pooled) == 0);
    qnet__epilogue_totals(ctx, &sums, 64, mean, var);
    for (c = 0; c < 64; c++) {
        for (m = v = 0, i = 0; i < outputs; i++) m += (double)d->pre[i * 64 + c];
        m /= (double)outputs;
        for (i = 0; i < outputs; i++) v += ((double)d->pre[i * 64 + c] - m) * ((double)d->pre[i * 64 + c] - m);
        v /= (double)outputs;
        CHECK_NEAR(mean[c], m, (QNET__REAL_IS_DOUBLE ? 1e-13 : 1e-6) * sqrt(v));
        CHECK_NEAR(var[c], v, (QNET__REAL_IS_DOUBLE ? 1e-13 : 1e-5) * v);
        d->mean[c] = (qnet_real)m;
        d->scale[c] = (qnet_real)((double)d->gamma[c] / sqrt(v));
    }

    p.sign = NULL;
    p.x.kind = QNET__PROLOGUE_NORMALISED; /* as in inference */
    p.x.mean = d->mean, p.x.scale = d->scale, p.x.beta = d->beta;
    p.x.x = d->pre, p.argmax = NULL;
    qnet__maxpool_run(ctx, &p, (size_t)d->conv.batch);
    /* the maximum after norm and ReLU is that of the pre that has won by sign; nothing else is lost */
    for (m = 0, i = 0; i < d->pooled; i++) {
        c = i % 64;
        v = (double)((d->pool[i] - d->mean[c]) * d->scale[c] + d->beta[c]);
        v = fabs((double)pool[i] - (v < 0 ? 0 : v));
        m = v <= m ? m : v;
    }
    CHECK_NEAR(m, 0, QNET__REAL_IS_DOUBLE ? 1e-14 : 1e-6);
    { /* again in one go, to the same bits */
        qnet_real *y = normals(7, d->pooled, 0);
        p.y = y;
        qnet__stem_forward(ctx, &d->conv, d->x, d->w, NULL, NULL, &p, scratch);
        CHECK(memcmp(pool, y, d->pooled * sizeof *y) == 0);
        free(y);
    }
    free(pool), free(argmax);
    free_sums(&sums);
    qnet__default_free(NULL, scratch, 0);
    qnet__default_free(NULL, other, 0);
}

/* Number `at` of x under tap (ky, kx) of output (b, y, x), channel c; 0 in the padding. */
static double under(const data *d, int b, int y, int x, int k)
{
    const int iy = 2 * y + k / 21 - 3, ix = 2 * x + k / 3 % 7 - 3;
    if (iy < 0 || iy >= d->conv.height || ix < 0 || ix >= d->conv.width) return 0;
    return (double)d->x[((b * d->conv.height + iy) * d->conv.width + ix) * 3 + k % 3];
}

/* Channels of dw that are compared: all, but for a map that would take seconds. */
static size_t compared(const data *d)
{
    return d->out / 64 > 100000 ? 16 : 64;
}

/* dw[147][64] = sum over outputs of x under the tap * scale (g - shift - slope (pre - mean)), all in double:
   pre is made anew, shift and mean are the means of g and pre. */
static double *definition(const data *d)
{
    const int out_h = (d->conv.height + 1) / 2, out_w = (d->conv.width + 1) / 2;
    const int pool_h = (out_h + 1) / 2, pool_w = (out_w + 1) / 2;
    const size_t outputs = d->out / 64, channels = compared(d);
    double *dw = (double *)calloc(147 * 64, sizeof *dw), *g = (double *)calloc(d->out, sizeof *g);
    double *pre = (double *)calloc(d->out, sizeof *pre), shift[64] = { 0 }, mean[64] = { 0 };
    size_t at, o;
    int b, y, x, k;
    if (dw == NULL || g == NULL || pre == NULL) exit(2);
    for (at = 0; at < d->pooled; at++) {
        const int pixel = (int)(at / 64), tap = d->argmax[at];
        b = pixel / (pool_h * pool_w);
        y = 2 * (pixel / pool_w % pool_h) - 1 + tap / 3;
        x = 2 * (pixel % pool_w) - 1 + tap % 3;
        g[(size_t)((b * out_h + y) * out_w + x) * 64 + at % 64] += (double)d->dpool[at];
    }
    for (at = 0; at < outputs; at++)
        for (k = 0; k < 147; k++) {
            const double v = under(d, (int)at / (out_h * out_w), (int)at / out_w % out_h, (int)at % out_w, k);
            for (o = 0; o < channels; o++) pre[at * 64 + o] += v * (double)d->w[k * 64 + (int)o];
        }
    for (at = 0; at < d->out; at++) {
        shift[at % 64] += g[at] / (double)outputs;
        mean[at % 64] += pre[at] / (double)outputs;
    }
    for (at = 0; at < d->out; at++)
        g[at] = (double)d->scale[at % 64] * (g[at] - shift[at % 64] - (double)d->slope[at % 64] * (pre[at] - mean[at % 64]));
    for (at = 0; at < outputs; at++)
        for (k = 0; k < 147; k++) {
            const double v = under(d, (int)at / (out_h * out_w), (int)at / out_w % out_h, (int)at % out_w, k);
            for (o = 0; o < channels; o++) dw[k * 64 + (int)o] += v * g[at * 64 + o];
        }
    free(g), free(pre);
    return dw;
}

static void backward(qnet_context *ctx, data *d)
{
    const qnet__stem s = qnet__stem_geometry(&d->conv);
    qnet__epilogue sums = make_sums(qnet__stem_chunks(&s));
    const size_t bytes = qnet__stem_scratch(ctx, &d->conv, 1);
    void *scratch = qnet__default_alloc(NULL, bytes, 64);
    qnet__norm norm;
    qnet_real rstd[64], dw[147 * 64], *kept = normals(5, d->pooled, .1);
    double sum[64], sum_pre[64], expected[2], *exact, worst = 0;
    size_t i, c, cut = 0, wrong = 0;
    if (scratch == NULL) exit(2);
    memset(scratch, 255, bytes); /* nothing may be read that was not written: these are NaN */
    memset(&norm, 0, sizeof norm);
    norm.rows = d->out / 64, norm.channels = 64;
    for (c = 0; c < 64; c++)
        rstd[c] = c == 5 ? (qnet_real).1 : d->scale[c] / d->gamma[c]; /* gamma 5 is 0 */
    norm.rstd = rstd, norm.scale = d->scale;
    norm.mean_g = d->shift, norm.slope_g = d->slope;
    norm.total[0] = sum, norm.total[1] = sum_pre;
    sums.kind = QNET__EPILOGUE_GRADIENT;
    sums.y = d->dpool, sums.pre = d->pool;
    sums.mean = d->mean, sums.scale = d->scale, sums.beta = d->beta;
    qnet__stem_backward(ctx, &d->conv, d->x, d->argmax, d->w, dw, &norm, &sums, scratch);
    for (c = 0; c < 64; c++) {
        for (expected[0] = expected[1] = 0, i = c; i < d->pooled; i += 64) {
            const qnet_real y = (d->pool[i] - d->mean[c]) * d->scale[c] + d->beta[c];
            const double g = y <= 0 ? 0 : (double)kept[i];
            wrong += (double)d->dpool[i] - g != 0; /* masked */
            cut += y <= 0;
            expected[0] += g;
            expected[1] += g * ((double)d->pool[i] - (double)d->mean[c]);
        }
        CHECK_NEAR(sum[c], expected[0], (QNET__REAL_IS_DOUBLE ? 1e-12 : 1e-5) * sqrt((double)d->pooled));
        CHECK_NEAR(sum_pre[c], expected[1], (QNET__REAL_IS_DOUBLE ? 1e-10 : 1e-3) * sqrt((double)d->pooled));
    }
    CHECK(wrong == 0);
    CHECK(cut > d->pooled / 64 && cut < d->pooled);
    exact = definition(d);
    for (i = 0; i < 147; i++) { /* per tap: that of a tap which meets no padding is small where inputs are far from 0 */
        double error = 0, size = 0;
        for (c = 0; c < compared(d); c++) {
            const double e = fabs((double)dw[i * 64 + c] - exact[i * 64 + c]);
            error = e <= error ? error : e;
            size = fmax(size, fabs(exact[i * 64 + c]));
        }
        worst = error / size <= worst ? worst : error / size;
    }
    if (!CHECK(worst <= NEAR)) printf("    %.2g\n", worst);
    free(exact), free(kept);
    free_sums(&sums);
    qnet__default_free(NULL, scratch, 0);
}

/* Odd and even sides, one part and many, bands that are left over, maps of one band, wide ones; a part
   that goes over from single precision twice. */
static void test_stem(void)
{
    static const int sizes[][4] = { { 1, 32, 32, 3 }, { 2, 33, 47, 3 }, { 19, 38, 36, 3 }, { 1, 101, 64, 3 },
                                    { 3, 64, 97, 3 }, { 1, 39, 1100, 3 }, { 40, 128, 128, 3 },
                                    { 2, 45, 34, 1 }, { 1, 34, 45, 8 } };
    size_t i;
    int cpu;
    for (cpu = QNET_CPU_SCALAR; cpu <= QNET_CPU_NEON; cpu++) {
        qnet_context *ctx = make_context((qnet_cpu)cpu);
        for (i = 0; ctx != NULL && i < sizeof sizes / sizeof sizes[0]; i++) {
            /* images have dark backgrounds: their numbers are not around 0 */
            data d = make_data(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], -1);
            forward(ctx, &d);
            if (d.conv.in_channels == 3) backward(ctx, &d);
            free_data(&d);
        }
        if (ctx != NULL) qnet_context_destroy(ctx);
    }
}

/* Inputs whose mean is large against their spread: dw loses no digits. In double the definition would. */
static void offsets(void)
{
    static const double mean[] = { 0, 1, 100, -3000 };
    const size_t means = QNET__REAL_IS_DOUBLE ? 2 : 4;
    size_t i;
    int cpu;
    for (cpu = QNET_CPU_SCALAR; cpu <= QNET_CPU_NEON; cpu++) {
        qnet_context *ctx = make_context((qnet_cpu)cpu);
        for (i = 0; ctx != NULL && i < means; i++) {
            data d = make_data(4, 64, 63, 3, mean[i]);
            forward(ctx, &d);
            backward(ctx, &d);
            free_data(&d);
        }
        if (ctx != NULL) qnet_context_destroy(ctx);
    }
}

int main(void)
{
    RUN(test_stem);
    RUN(offsets);
    return test_end();
}
