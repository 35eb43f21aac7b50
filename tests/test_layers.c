/* Rooms >>norm >>pool >>dense, called alone. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "reference.h"
#include "pool_reference.h"

/* Tolerances: a float result of a short sum of numbers near 1 is good to a few units of 6e-8. */
#define NEAR (QNET__REAL_IS_DOUBLE ? 1e-11 : 3e-6)
/* Central differences: step^2 cuts off in double, rounding / step limits float to one or two
   digits, which still tells a wrong formula from a right one. */
#define STEP (QNET__REAL_IS_DOUBLE ? 1e-5 : 1e-2)
#define LINEAR_STEP .25 /* of a linear function every step is exact, and a large one rounds less */
#define GRADIENT_ERROR (QNET__REAL_IS_DOUBLE ? 1e-7 : 1e-1)

/* ---- hooks ---- */

static long live_bytes, allocations, fail_at;
static void *counting_alloc(void *user, size_t size, size_t align)
{
    void *block = NULL;
    (void)user;
    if (++allocations == fail_at) return NULL;
    block = qnet__default_alloc(NULL, size, align);
    if (block != NULL) live_bytes += (long)size;
    return block;
}
static void counting_free(void *user, void *ptr, size_t size)
{
    (void)user;
    live_bytes -= (long)size;
    qnet__default_free(NULL, ptr, size);
}

/* Runs the tasks one by one, from the last to the first and odd ones first, as `workers` would. */
static void fake_run(void *user, size_t count, qnet_task task, void *arg)
{
    size_t workers = *(size_t *)user, pass, i;
    for (pass = 0; pass < 2; pass++)
        for (i = count; i-- > 0;)
            if (i % 2 != pass) task(arg, i, i % workers);
}

static qnet_context *make_context(size_t *workers)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.alloc = counting_alloc;
    hooks.allocator.free = counting_free;
    if (workers != NULL) {
        hooks.parallel.user = workers;
        hooks.parallel.run = fake_run;
        hooks.parallel.workers = *workers;
    }
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) exit(2);
    return ctx;
}

/* ---- data ---- */

/* sin(start + 0.7 i): the same in the Python that made the golden numbers. */
static void fill_sin(qnet_real *x, size_t count, double start)
{
    size_t i;
    for (i = 0; i < count; i++) x[i] = (qnet_real)sin(start + 0.7 * (double)i);
}
static void fill_random(qnet_real *x, size_t count, uint64_t seed)
{
    qnet_rng rng = qnet_rng_at(seed, QNET_RANDOM_USER, 0, 0);
    size_t i;
    for (i = 0; i < count; i++) x[i] = (qnet_real)qnet_rng_normal(&rng);
}
static qnet_real *random_block(size_t count, uint64_t seed)
{
    qnet_real *x = (qnet_real *)malloc(count * sizeof *x);
    if (x == NULL) exit(2);
    fill_random(x, count, seed);
    return x;
}
static double largest_difference(const qnet_real *a, const qnet_real *b, size_t count)
{
    double worst = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}
static double golden_difference(const qnet_real *a, const double *golden, size_t count)
{
    double worst = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        double d = fabs((double)a[i] - golden[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}
static int same_bits(const qnet_real *a, const qnet_real *b, size_t count)
{
    return memcmp(a, b, count * sizeof *a) == 0;
}

/* ---- batch norm ---- */

/* Golden numbers, torch 2.13 in float64: F = lambda s, *n: torch.tensor(np.sin(s + .7 * arange(prod(n)))
   .reshape(n)); x = F(1,5,3); g = F(2,3); b = F(1,3); r = F(4,5,3); dy = F(5,5,3); rm = 0; rv = 1;
   y = relu(batch_norm(x, rm, rv, g, b, True, .1, 1e-5) + r); y.backward(dy); then
   inf = relu(batch_norm(x, rm, rv, g, b, False)). */
static const double bn_y[15] = { 1.02860563947, 0.512125297557, 0, 0.470408729048, 1.09680289007,
    1.92120617783, 0.283229503527, 1.2386697405, 0.375718181471, 1.03041981969, 0.510750294364, 0,
    0.463166804192, 1.10385803762, 1.92804641204 };
static const double bn_rm[3] = { 0.0174961807521, 0.0074043570482, -0.0061698514717 };
static const double bn_rv[3] = { 0.951527314886, 0.970992093503, 0.972290105358 };
static const double bn_dx[15] = { -0.504236815605, 0.0348993149957, -0.109594704267, 0.936553454374,
    0.216959484479, -0.0320956763463, -0.878427220924, -0.505414305185, 0.276615180262,
    -0.486645643206, 0.0419007128855, -0.106980931451, 0.932756225362, 0.211654792826,
    -0.0279438681983 };
static const double bn_dr[15] = { -0.958924274663, -0.550685542598, 0, 0.728969040126,
    0.998543345375, 0.798487112623, 0.2228899141, -0.457535893775, -0.922775421613,
    -0.954019249902, -0.536572918, 0, 0.740375889952, 0.999309388748, 0.788252067375 };
static const double bn_dg[3] = { -2.69119631895, -2.88612430411, -2.36730193032 };
static const double bn_db[3] = { -0.220708680387, 0.453058379749, 0.663963758386 };
static const double bn_inf[15] = { 1.60955191373, 1.41855288816, 0.498814163495, 0.863921708994,
    0.723081764441, 0.927196632672, 0.00163565005461, 0.826297684369, 0.593126540162,
    1.61790937061, 1.41755249788, 0.502052040719, 0.848256445971, 0.717351199098, 0.928079345773 };

static void batchnorm_golden(void)
{
    qnet_context *ctx = make_context(NULL);
    qnet_real x[15], g[3], b[3], r[15], dy[15], y[15], dx[15], dr[15], dg[3], db[3], mean[3], rstd[3];
    qnet_real rm[3] = { 0, 0, 0 }, rv[3] = { 1, 1, 1 };
    fill_sin(x, 15, 1);
    fill_sin(g, 3, 2);
    fill_sin(b, 3, 1);
    fill_sin(r, 15, 4);
    fill_sin(dy, 15, 5);
    CHECK_OK(ctx, qnet_batchnorm_forward(ctx, 5, 3, x, g, b, r, 1, .1, rm, rv, mean, rstd, y, NULL));
    CHECK(golden_difference(y, bn_y, 15) < NEAR);
    CHECK(golden_difference(rm, bn_rm, 3) < NEAR);
    CHECK(golden_difference(rv, bn_rv, 3) < NEAR);
    CHECK_OK(ctx, qnet_batchnorm_backward(ctx, 5, 3, x, g, mean, rstd, y, dy, dx, dr, dg, db, NULL));
    CHECK(golden_difference(dx, bn_dx, 15) < NEAR);
    CHECK(golden_difference(dr, bn_dr, 15) < NEAR);
    CHECK(golden_difference(dg, bn_dg, 3) < NEAR);
    CHECK(golden_difference(db, bn_db, 3) < NEAR);
    CHECK_OK(ctx, qnet_batchnorm_inference(ctx, 5, 3, x, g, b, rm, rv, NULL, 1, y));
    CHECK(golden_difference(y, bn_inf, 15) < NEAR);
    /* dx over dy, y over x */
    memcpy(r, dy, sizeof r);
    CHECK_OK(ctx, qnet_batchnorm_inference(ctx, 5, 3, x, g, b, rm, rv, NULL, 1, x));
    CHECK(same_bits(x, y, 15));
    qnet_context_destroy(ctx);
}

/* Sizes: one row, one channel, channels below, at and above a vector block, several chunks. */
static const struct { size_t rows; int channels; } bn_sizes[] = {
    { 1, 1 }, { 1, 5 }, { 3, 31 }, { 7, 33 }, { 100, 64 }, { 1111, 70 }, { 600, 128 }, { 12000, 3 },
    { 5, 600 }, { 65, 1040 }
};

/* y = act((x - mean) scale + beta + residual), the definition. */
static void batchnorm_apply(size_t rows, size_t n, const qnet_real *x, const qnet_real *mean, const double *scale,
                            const qnet_real *beta, const qnet_real *residual, int relu, qnet_real *y)
{
    size_t i;
    for (i = 0; i < rows * n; i++) {
        double v = ((double)x[i] - (double)mean[i % n]) * scale[i % n] + (double)beta[i % n];
        if (residual != NULL) v += (double)residual[i];
        y[i] = (qnet_real)(relu && v < 0 ? 0 : v);
    }
}

/* Training, backward and inference against the definitions in double, at all sizes, with and without
   residual and ReLU. Sums of up to 12,000 floats around their mean: relative error below 1e-5. */
static void batchnorm_against_definition(void)
{
    qnet_context *ctx = make_context(NULL);
    const double near_sum = QNET__REAL_IS_DOUBLE ? 1e-11 : 1e-5;
    size_t s;
    for (s = 0; s < sizeof bn_sizes / sizeof bn_sizes[0]; s++) {
        size_t rows = bn_sizes[s].rows, n = (size_t)bn_sizes[s].channels, count = rows * n, c, i;
        int channels = bn_sizes[s].channels, mode;
        qnet_real *x = random_block(count, 1), *r = random_block(count, 2), *dy = random_block(count, 3);
        qnet_real *g = random_block(n, 4), *b = random_block(n, 5), *rm = random_block(n, 6);
        qnet_real *rv = random_block(n, 7), *mean = random_block(n, 8), *rstd = random_block(n, 9);
        qnet_real *y = random_block(count, 10), *y2 = random_block(count, 11);
        qnet_real *dx = random_block(count, 12), *dr = random_block(count, 13);
        qnet_real *dg = random_block(n, 14), *db = random_block(n, 15);
        double *scale = (double *)malloc(3 * n * sizeof *scale), *sum1 = scale + n, *sum2 = sum1 + n;
        for (c = 0; c < n; c++) rv[c] = (qnet_real)(.5 + fabs((double)rv[c]));
        for (mode = 0; mode < 4; mode++) {
            const qnet_real *residual = mode & 1 ? r : NULL;
            int relu = mode >> 1;
            double worst_mean = 0, worst_var = 0, worst_dg = 0, worst_db = 0;
            CHECK_OK(ctx, qnet_batchnorm_forward(ctx, rows, channels, x, g, b, residual, relu, .1, NULL,
                                                 NULL, mean, rstd, y, NULL));
            for (c = 0; c < n; c++) {
                double m = 0, square = 0, v;
                for (i = c; i < count; i += n) m += (double)x[i] / (double)rows;
                for (i = c; i < count; i += n) square += ((double)x[i] - m) * ((double)x[i] - m);
                v = 1 / sqrt(square / (double)rows + QNET_BATCHNORM_EPS);
                worst_mean = fmax(worst_mean, fabs((double)mean[c] - m));
                worst_var = fmax(worst_var, fabs((double)rstd[c] - v) / v);
                scale[c] = (double)g[c] * v;
            }
            CHECK(worst_mean < near_sum);
            CHECK(worst_var < near_sum);
            batchnorm_apply(rows, n, x, mean, scale, b, residual, relu, y2);
            /* rstd is 316 where a channel does not vary, and so are the differences */
            CHECK(largest_difference(y, y2, count) < near_sum * (rows > 1 ? 30 : 400));

            CHECK_OK(ctx, qnet_batchnorm_backward(ctx, rows, channels, x, g, mean, rstd, relu ? y : NULL,
                                                  dy, dx, residual != NULL ? dr : NULL, dg, db, NULL));
            for (i = 0; i < count; i++) y2[i] = relu && y[i] <= 0 ? 0 : dy[i];
            if (residual != NULL) CHECK(same_bits(dr, y2, count));
            for (c = 0; c < n; c++) {
                sum1[c] = sum2[c] = 0;
                for (i = c; i < count; i += n) {
                    sum1[c] += (double)y2[i];
                    sum2[c] += (double)y2[i] * ((double)x[i] - (double)mean[c]) * (double)rstd[c];
                }
                worst_db = fmax(worst_db, fabs((double)db[c] - sum1[c]));
                worst_dg = fmax(worst_dg, fabs((double)dg[c] - sum2[c]));
            }
            CHECK(worst_db < near_sum * 20); /* sums grow as sqrt(12,000) = 110 */
            CHECK(worst_dg < near_sum * 20);
            for (i = 0; i < count; i++) {
                double v = (double)rstd[i % n], xhat = ((double)x[i] - (double)mean[i % n]) * v;
                y2[i] = (qnet_real)((double)g[i % n] * v *
                                    ((double)y2[i] - (sum1[i % n] + xhat * sum2[i % n]) / (double)rows));
            }
            CHECK(largest_difference(dx, y2, count) < near_sum * (rows > 1 ? 30 : 400));

            CHECK_OK(ctx, qnet_batchnorm_inference(ctx, rows, channels, x, g, b, rm, rv, residual, relu, y));
            for (c = 0; c < n; c++) scale[c] = (double)g[c] / sqrt((double)rv[c] + QNET_BATCHNORM_EPS);
            batchnorm_apply(rows, n, x, rm, scale, b, residual, relu, y2);
            CHECK(largest_difference(y, y2, count) < NEAR);
            if (residual != NULL) { /* in place over the residual */
                memcpy(y2, r, count * sizeof *r);
                CHECK_OK(ctx, qnet_batchnorm_inference(ctx, rows, channels, x, g, b, rm, rv, y2, relu, y2));
                CHECK(same_bits(y, y2, count));
            }
        }
        free(x); free(r); free(dy); free(g); free(b); free(rm); free(rv); free(mean); free(rstd);
        free(y); free(y2); free(dx); free(dr); free(dg); free(db); free(scale);
    }
    qnet_context_destroy(ctx);
}

static void batchnorm_aliases(void)
{
    qnet_context *ctx = make_context(NULL);
    enum { ROWS = 50, N = 37, COUNT = ROWS * N };
    qnet_real *x = random_block(COUNT, 1), *r = random_block(COUNT, 2), *dy = random_block(COUNT, 3);
    qnet_real *g = random_block(N, 4), *b = random_block(N, 5), *mean = random_block(N, 6);
    qnet_real *rstd = random_block(N, 7), *y = random_block(COUNT, 8), *y2 = random_block(COUNT, 9);
    qnet_real *dx = random_block(COUNT, 10), *dr = random_block(COUNT, 11), *t = random_block(COUNT, 12);
    qnet_real *dg = random_block(N, 13), *db = random_block(N, 14);
    CHECK_OK(ctx, qnet_batchnorm_forward(ctx, ROWS, N, x, g, b, r, 1, .1, NULL, NULL, mean, rstd, y, NULL));
    memcpy(y2, r, COUNT * sizeof *r);
    CHECK_OK(ctx, qnet_batchnorm_forward(ctx, ROWS, N, x, g, b, y2, 1, .1, NULL, NULL, mean, rstd, y2, NULL));
    CHECK(same_bits(y, y2, COUNT));
    CHECK_OK(ctx, qnet_batchnorm_backward(ctx, ROWS, N, x, g, mean, rstd, y, dy, dx, dr, dg, db, NULL));
    memcpy(t, dy, COUNT * sizeof *t); /* dx over dy */
    CHECK_OK(ctx, qnet_batchnorm_backward(ctx, ROWS, N, x, g, mean, rstd, y, t, t, y2, dg, db, NULL));
    CHECK(same_bits(t, dx, COUNT));
    CHECK(same_bits(y2, dr, COUNT));
    memcpy(t, dy, COUNT * sizeof *t); /* dresidual over dy */
    CHECK_OK(ctx, qnet_batchnorm_backward(ctx, ROWS, N, x, g, mean, rstd, y, t, y2, t, dg, db, NULL));
    CHECK(same_bits(y2, dx, COUNT));
    CHECK(same_bits(t, dr, COUNT));
    /* nothing but the sums */
    CHECK_OK(ctx, qnet_batchnorm_backward(ctx, ROWS, N, x, g, mean, rstd, y, dy, NULL, NULL, y2, NULL, NULL));
    CHECK(same_bits(y2, dg, N));
    free(x); free(r); free(dy); free(g); free(b); free(mean); free(rstd); free(y); free(y2); free(dx);
    free(dr); free(t); free(dg); free(db);
    qnet_context_destroy(ctx);
}

static void batchnorm_numerics(void)
{
    qnet_context *ctx = make_context(NULL);
    enum { ROWS = 20000, N = 4 };
    qnet_real *x = random_block((size_t)ROWS * N, 1), *y = random_block((size_t)ROWS * N, 2);
    qnet_real g[N] = { 1, 1, 1, 1 }, b[N] = { 0, 0, 0, 0 }, mean[N], rstd[N], rm[N], rv[N];
    double m = 0, v = 0;
    size_t i;
    int c;
    /* A mean 10,000 standard deviations away: E[x^2] - E[x]^2 in float would be pure noise. */
    for (i = 0; i < (size_t)ROWS * N; i++) x[i] = (qnet_real)(10000 + (double)x[i]);
    for (i = 0; i < ROWS; i++) m += (double)x[i * N] / ROWS;
    for (i = 0; i < ROWS; i++) v += ((double)x[i * N] - m) * ((double)x[i * N] - m) / ROWS;
    for (c = 0; c < N; c++) rm[c] = rv[c] = 7;
    rm[0] = rv[0] = NAN; /* replaced, whatever stood there */
    CHECK_OK(ctx, qnet_batchnorm_forward(ctx, ROWS, N, x, g, b, NULL, 0, 1, rm, rv, mean, rstd, y, NULL));
    CHECK_NEAR(rm[0], m, QNET__REAL_IS_DOUBLE ? 1e-8 : 1e-3); /* a float near 10,000 */
    CHECK_NEAR(rv[0], v * ROWS / (ROWS - 1), QNET__REAL_IS_DOUBLE ? 1e-8 : 1e-5);
    CHECK_NEAR(rstd[0], 1 / sqrt(v + 1e-5), QNET__REAL_IS_DOUBLE ? 1e-8 : 1e-5);
    /* Momentum 0 leaves the running statistics alone. */
    CHECK_OK(ctx, qnet_batchnorm_forward(ctx, 3, N, y, g, b, NULL, 0, 0, rm, rv, mean, rstd, y + 100, NULL));
    CHECK_NEAR(rm[0], m, QNET__REAL_IS_DOUBLE ? 1e-8 : 1e-3);
    y[0] = NAN; /* of this batch, too */
    CHECK_OK(ctx, qnet_batchnorm_forward(ctx, 3, N, y, g, b, NULL, 0, 0, rm, rv, mean, rstd, y + 100, NULL));
    CHECK(mean[0] != mean[0]);
    CHECK_NEAR(rm[0], m, QNET__REAL_IS_DOUBLE ? 1e-8 : 1e-3);
    /* One row: the variance is 0 and stays finite. */
    for (c = 0; c < N; c++) rv[c] = 1;
    CHECK_OK(ctx, qnet_batchnorm_forward(ctx, 1, N, x, g, b, NULL, 0, .5, NULL, rv, mean, rstd, y, NULL));
    CHECK_NEAR(rv[0], .5, 1e-7);
    CHECK_NEAR(y[0], 0, 0);
    CHECK_NEAR(rstd[0], 1 / sqrt(1e-5), 1e-4);
    /* A NaN spoils its own channel, through the ReLU, and no other. */
    fill_random(x, 40, 3);
    x[8] = (qnet_real)NAN;
    CHECK_OK(ctx, qnet_batchnorm_forward(ctx, 10, N, x, g, b, NULL, 1, .1, NULL, NULL, mean, rstd, y, NULL));
    CHECK(y[0] != y[0] && y[1] == y[1] && mean[0] != mean[0] && mean[1] == mean[1]);
    free(x);
    free(y);
    qnet_context_destroy(ctx);
}

/* ---- gradients against central differences: loss = sum of weight[i] * y[i] ---- */

typedef struct layer {
    qnet_context *ctx;
    size_t rows;
    int channels, relu;
    qnet_real *x, *gamma, *beta, *residual, *y, *weight, *mean, *rstd;
    int in, out, batch, height, width;
    uint8_t *argmax;
    int *label;
} layer;

static double weighted_sum(const qnet_real *y, const qnet_real *weight, size_t count)
{
    double sum = 0;
    size_t i;
    for (i = 0; i < count; i++) sum += (double)y[i] * (double)weight[i];
    return sum;
}

static void check_gradient(scalar_function f, layer *l, qnet_real *x, const qnet_real *gradient, size_t count,
                           double step)
{
    const gradient_error worst = worst_gradient(f, l, x, gradient, count, step);
    if (!CHECK(worst.error < GRADIENT_ERROR))
        printf("    error %g at %lu: analytic %g, numeric %g\n", worst.error, (unsigned long)worst.at,
               worst.analytic, worst.numeric);
}

static double batchnorm_loss(void *user)
{
    layer *l = (layer *)user;
    qnet_batchnorm_forward(l->ctx, l->rows, l->channels, l->x, l->gamma, l->beta, l->residual, l->relu, .1,
                           NULL, NULL, l->mean, l->rstd, l->y, NULL);
    return weighted_sum(l->y, l->weight, l->rows * (size_t)l->channels);
}

static void batchnorm_gradients(void)
{
    enum { ROWS = 11, N = 35, COUNT = ROWS * N };
    qnet_real dx[COUNT], dr[COUNT], dg[N], db[N];
    layer l;
    size_t i;
    memset(&l, 0, sizeof l);
    l.ctx = make_context(NULL);
    l.rows = ROWS;
    l.channels = N;
    l.x = random_block(COUNT, 1);
    l.gamma = random_block(N, 2);
    l.beta = random_block(N, 3);
    l.residual = random_block(COUNT, 4);
    l.weight = random_block(COUNT, 5);
    l.y = random_block(COUNT, 6);
    l.mean = random_block(N, 7);
    l.rstd = random_block(N, 8);
    for (l.relu = 0; l.relu < 2; l.relu++) {
        /* A difference quotient across the ReLU's kink says nothing: push outputs away from it. */
        for (i = 0; l.relu && i < COUNT; i++) {
            qnet_real *r = &l.residual[i];
            int tries;
            for (tries = 0; tries < 3; tries++) {
                batchnorm_loss(&l);
                if (l.y[i] < (qnet_real).2) *r += (qnet_real)(l.y[i] > 0 ? .4 : -.4);
            }
        }
        batchnorm_loss(&l);
        CHECK_OK(l.ctx, qnet_batchnorm_backward(l.ctx, ROWS, N, l.x, l.gamma, l.mean, l.rstd,
                                                l.relu ? l.y : NULL, l.weight, dx, dr, dg, db, NULL));
        check_gradient(batchnorm_loss, &l, l.x, dx, COUNT, STEP);
        check_gradient(batchnorm_loss, &l, l.residual, dr, COUNT, STEP);
        check_gradient(batchnorm_loss, &l, l.gamma, dg, N, STEP);
        check_gradient(batchnorm_loss, &l, l.beta, db, N, STEP);
    }
    free(l.x); free(l.gamma); free(l.beta); free(l.residual); free(l.weight); free(l.y); free(l.mean);
    free(l.rstd);
    qnet_context_destroy(l.ctx);
}

/* ---- ReLU and pools ---- */

static void relu(void)
{
    qnet_real x[5] = { -2, 0, 3, 0, (qnet_real)-1e-30 }, y[5], dy[5] = { 1, 2, 4, 8, 16 }, dx[5];
    x[3] = (qnet_real)NAN;
    qnet_relu_forward(5, x, y);
    CHECK(y[0] == 0 && y[1] == 0 && y[2] == 3 && y[3] != y[3] && y[4] == 0);
    qnet_relu_backward(5, y, dy, dx);
    CHECK(dx[0] == 0 && dx[1] == 0 && dx[2] == 4 && dx[4] == 0);
    qnet_relu_forward(5, x, x);
    CHECK(x[0] == 0 && x[2] == 3);
    qnet_relu_backward(5, y, dy, dy);
    CHECK(dy[0] == 0 && dy[2] == 4);
    qnet_relu_forward(5, NULL, y); /* what has no status does nothing */
    qnet_relu_forward(5, x, NULL);
    qnet_relu_backward(5, NULL, dy, dx);
    qnet_relu_backward(5, y, NULL, dx);
    qnet_relu_backward(5, y, dy, NULL);
    CHECK(y[2] == 3 && dx[2] == 4);
}

static void maxpool_by_hand(void)
{
    qnet_context *ctx = make_context(NULL);
    /* 4 x 4, one channel; windows start at rows and columns -1 and 1 */
    qnet_real x[16] = { 1, 5, 2, 0,  3, 5, 7, 7,  -1, -2, -3, -4,  0, 0, 0, 9 };
    qnet_real y[4], dy[4] = { 1, 2, 4, 8 }, dx[16];
    const qnet_real expected[4] = { 5, 7, 5, 9 };
    const uint8_t taps[4] = { 5, 7, 2, 8 }; /* the first of the two 5s, of the two 7s */
    uint8_t argmax[4];
    int i;
    CHECK_OK(ctx, qnet_maxpool_forward(ctx, 1, 4, 4, 1, x, y, argmax));
    CHECK(same_bits(y, expected, 4));
    CHECK(memcmp(argmax, taps, 4) == 0);
    CHECK_OK(ctx, qnet_maxpool_backward(ctx, 1, 4, 4, 1, argmax, dy, dx));
    CHECK(dx[1] == 1 && dx[6] == 2 && dx[5] == 4 && dx[15] == 8 && dx[0] == 0 && dx[7] == 0);
    /* Padding is -infinity, not 0; NaN wins wherever it lies. */
    for (i = 0; i < 16; i++) x[i] = (qnet_real)(-8 - i);
    CHECK_OK(ctx, qnet_maxpool_forward(ctx, 1, 4, 4, 1, x, y, NULL));
    CHECK(y[0] == -8 && y[1] == -9 && y[2] == -12 && y[3] == -13);
    x[5] = (qnet_real)NAN;
    CHECK_OK(ctx, qnet_maxpool_forward(ctx, 1, 4, 4, 1, x, y, argmax));
    CHECK(y[0] != y[0] && y[1] != y[1] && y[2] != y[2] && y[3] != y[3]);
    CHECK(argmax[0] == 8 && argmax[1] == 6 && argmax[2] == 2 && argmax[3] == 0);
    qnet_context_destroy(ctx);
}

static void maxpool_against_reference(void)
{
    static const int sizes[][4] = { { 1, 1, 1, 1 }, { 2, 2, 5, 33 }, { 1, 5, 2, 3 }, { 2, 7, 8, 64 },
                                    { 1, 8, 7, 70 }, { 3, 1, 9, 31 }, { 1, 9, 6, 16 }, { 2, 3, 1, 48 } };
    qnet_context *ctx = make_context(NULL);
    size_t s, i;
    enum { PLAIN, BY_SIGN, NORMALISED };
    int kind;
    for (kind = PLAIN; kind <= NORMALISED; kind++)
    for (s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int batch = sizes[s][0], h = sizes[s][1], w = sizes[s][2], c = sizes[s][3];
        size_t in = (size_t)batch * (size_t)h * (size_t)w * (size_t)c;
        size_t out = (size_t)batch * (size_t)((h - 1) / 2 + 1) * (size_t)((w - 1) / 2 + 1) * (size_t)c;
        qnet_real *x = random_block(in, s), *dy = random_block(out, 50 + s), *y = random_block(out, 1);
        qnet_real *mean = random_block((size_t)c, 5), *beta = random_block((size_t)c, 6);
        qnet_real *y2 = random_block(out, 2), *dx = random_block(in, 3), *dx2 = random_block(in, 4);
        qnet_real *sign = random_block((size_t)c, 7);
        uint8_t *argmax = (uint8_t *)malloc(out), *argmax2 = (uint8_t *)malloc(out);
        qnet__maxpool pool;
        for (i = 0; i < in; i++) if (x[i] < 0) x[i] = 0; /* many equals, as after a ReLU */
        for (i = 0; i < (size_t)c; i++) sign[i] = (qnet_real)(i % 3) - 1;
        CHECK_OK(ctx, qnet__maxpool_plan(ctx, "test", batch, h, w, c, 1, &pool));
        pool.x = qnet__prologue_plain(x);
        if (kind == BY_SIGN) pool.sign = sign;
        if (kind == NORMALISED) { /* norm and ReLU: about half are cut */
            pool.x.kind = QNET__PROLOGUE_NORMALISED;
            pool.x.mean = mean, pool.x.scale = dy, pool.x.beta = beta;
        }
        if (kind != PLAIN) {
            pool.y = y;
            pool.argmax = argmax;
            qnet__maxpool_run(ctx, &pool, (size_t)batch);
        } else {
            CHECK_OK(ctx, qnet_maxpool_forward(ctx, batch, h, w, c, x, y, argmax));
        }
        pool.y = y2;
        pool.argmax = argmax2;
        pool_forward_reference(&pool, (size_t)batch);
        CHECK(same_bits(y, y2, out));
        CHECK(memcmp(argmax, argmax2, out) == 0);
        CHECK_OK(ctx, qnet_maxpool_backward(ctx, batch, h, w, c, argmax, dy, dx));
        pool.winner = argmax;
        pool.dy = dy;
        pool.dx = dx2;
        pool_backward_reference(&pool, (size_t)batch);
        CHECK(largest_difference(dx, dx2, in) < NEAR);
        free(x); free(dy); free(y); free(y2); free(dx); free(dx2); free(argmax); free(argmax2);
        free(mean); free(beta); free(sign);
    }
    qnet_context_destroy(ctx);
}

static double maxpool_loss(void *user)
{
    layer *l = (layer *)user;
    qnet_maxpool_forward(l->ctx, l->batch, l->height, l->width, l->channels, l->x, l->y, l->argmax);
    return weighted_sum(l->y, l->weight, l->rows);
}

static double avgpool_loss(void *user)
{
    layer *l = (layer *)user;
    qnet_avgpool_forward(l->ctx, l->batch, l->rows, l->channels, l->x, l->y);
    return weighted_sum(l->y, l->weight, (size_t)l->batch * (size_t)l->channels);
}

static void pool_gradients(void)
{
    enum { COUNT = 2 * 5 * 6 * 33 };
    qnet_real x[COUNT], y[COUNT], weight[COUNT], dx[COUNT];
    uint8_t argmax[COUNT];
    int order[COUNT], i;
    qnet_rng rng = qnet_rng_at(3, QNET_RANDOM_USER, 0, 0);
    layer l;
    memset(&l, 0, sizeof l);
    l.ctx = make_context(NULL);
    l.batch = 2;
    l.height = 5;
    l.width = 6;
    l.channels = 33;
    l.x = x;
    l.y = y;
    l.weight = weight;
    l.argmax = argmax;
    /* All values apart by more than the two steps, so that no difference quotient sees a change
       of the winner. */
    for (i = 0; i < COUNT; i++) order[i] = i;
    qnet_rng_shuffle(&rng, order, COUNT);
    for (i = 0; i < COUNT; i++) x[i] = (qnet_real)order[i];
    fill_random(weight, COUNT, 4);
    l.rows = 2 * 3 * 3 * 33;
    maxpool_loss(&l);
    CHECK_OK(l.ctx, qnet_maxpool_backward(l.ctx, 2, 5, 6, 33, argmax, weight, dx));
    check_gradient(maxpool_loss, &l, x, dx, COUNT, LINEAR_STEP);
    l.rows = 30;
    CHECK_OK(l.ctx, qnet_avgpool_backward(l.ctx, 2, 30, 33, weight, dx));
    check_gradient(avgpool_loss, &l, x, dx, COUNT, LINEAR_STEP);
    qnet_context_destroy(l.ctx);
}

static void avgpool(void)
{
    qnet_context *ctx = make_context(NULL);
    enum { PIXELS = 49, N = 130 };
    qnet_real *x = random_block((size_t)3 * PIXELS * N, 1), *y = random_block((size_t)3 * N, 2);
    int b, c, p;
    CHECK_OK(ctx, qnet_avgpool_forward(ctx, 3, PIXELS, N, x, y));
    for (b = 0; b < 3; b++) {
        for (c = 0; c < N; c += 43) {
            double sum = 0;
            for (p = 0; p < PIXELS; p++) sum += (double)x[(b * PIXELS + p) * N + c];
            CHECK_NEAR(y[b * N + c], sum / PIXELS, 1e-7);
        }
    }
    free(x);
    free(y);
    qnet_context_destroy(ctx);
}

/* ---- dense, softmax, cross-entropy ---- */

static double dense_loss(void *user)
{
    layer *l = (layer *)user;
    qnet_dense_forward(l->ctx, l->rows, l->in, l->out, l->x, l->gamma, l->beta, l->y, NULL);
    return weighted_sum(l->y, l->weight, l->rows * (size_t)l->out);
}

static void dense(void)
{
    static const int sizes[][3] = { { 1, 1, 1 }, { 3, 7, 2 }, { 17, 33, 19 }, { 5, 512, 2 } };
    size_t s;
    qnet_context *ctx = make_context(NULL);
    for (s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t rows = (size_t)sizes[s][0], in = (size_t)sizes[s][1], out = (size_t)sizes[s][2], r, o, i;
        qnet_real *dx = random_block(rows * in, 1), *dw = random_block(out * in, 2), *db = random_block(out, 3);
        double worst = 0;
        layer l;
        memset(&l, 0, sizeof l);
        l.ctx = ctx;
        l.rows = rows;
        l.in = (int)in;
        l.out = (int)out;
        l.x = random_block(rows * in, 4);
        l.gamma = random_block(out * in, 5);
        l.beta = random_block(out, 6);
        l.weight = random_block(rows * out, 7);
        l.y = random_block(rows * out, 8);
        dense_loss(&l);
        for (r = 0; r < rows; r++) {
            for (o = 0; o < out; o++) {
                double sum = (double)l.beta[o];
                for (i = 0; i < in; i++) sum += (double)l.x[r * in + i] * (double)l.gamma[o * in + i];
                worst = fmax(worst, fabs(sum - (double)l.y[r * out + o]));
            }
        }
        CHECK(worst < NEAR * 10); /* sums of 512 products */
        CHECK_OK(ctx, qnet_dense_backward(ctx, rows, (int)in, (int)out, l.x, l.gamma, l.weight, dx, dw, db, NULL));
        check_gradient(dense_loss, &l, l.x, dx, rows * in, LINEAR_STEP);
        check_gradient(dense_loss, &l, l.gamma, dw, out * in, LINEAR_STEP);
        check_gradient(dense_loss, &l, l.beta, db, out, LINEAR_STEP);
        /* optional parts */
        CHECK_OK(ctx, qnet_dense_backward(ctx, rows, (int)in, (int)out, l.x, l.gamma, l.weight, NULL, l.gamma, NULL, NULL));
        CHECK(same_bits(l.gamma, dw, out * in));
        free(dx); free(dw); free(db); free(l.x); free(l.gamma); free(l.beta); free(l.weight); free(l.y);
    }
    qnet_context_destroy(ctx);
}

static double cross_entropy_loss(void *user)
{
    layer *l = (layer *)user;
    double loss = NAN;
    qnet_cross_entropy(l->ctx, l->rows, l->channels, l->x, l->label, &loss, NULL);
    return loss;
}

static void softmax_and_cross_entropy(void)
{
    /* torch 2.13, float64: l = 3 * F(6,4,3) (F as above), label 2, ignored, 0, 1:
       cross_entropy(l, label, ignore_index=-1), its gradient, softmax(l)[0]. */
    static const double golden_dl[12] = { 0.00774058003173, 0.0602964289593, -0.068037008991, 0, 0, 0,
        -0.174870334628, 0.0652898391959, 0.109580495432, 0.00791086022794, -0.2718704781, 0.263959617872 };
    static const double golden_p[3] = { 0.0232217400952, 0.180889286878, 0.795888973027 };
    qnet_context *ctx = make_context(NULL);
    qnet_real l[12], dl[12], p[12];
    int label[4] = { 2, -1, 0, 1 }, none[4] = { -1, -1, -1, -1 }, i;
    double loss = 0;
    layer lay;
    fill_sin(l, 12, 6);
    for (i = 0; i < 12; i++) l[i] *= 3;
    CHECK_OK(ctx, qnet_cross_entropy(ctx, 4, 3, l, label, &loss, dl));
    CHECK_NEAR(loss, 0.887542477603, NEAR);
    CHECK(golden_difference(dl, golden_dl, 12) < NEAR);
    qnet_softmax(4, 3, l, p);
    CHECK(golden_difference(p, golden_p, 3) < NEAR);
    memset(&lay, 0, sizeof lay);
    lay.ctx = ctx;
    lay.rows = 4;
    lay.channels = 3;
    lay.x = l;
    lay.label = label;
    check_gradient(cross_entropy_loss, &lay, l, dl, 12, STEP);
    memcpy(p, l, sizeof p); /* in place */
    CHECK_OK(ctx, qnet_cross_entropy(ctx, 4, 3, p, label, &loss, p));
    CHECK(same_bits(p, dl, 12));
    /* Logits that overflow exp. */
    l[0] = 10000;
    l[1] = -10000;
    l[2] = 9999;
    qnet_softmax(1, 3, l, l);
    CHECK_NEAR(l[0], 1 / (1 + exp(-1.0)), NEAR);
    CHECK(l[1] == 0);
    memcpy(p, l, sizeof p);
    qnet_softmax(1, 0, l, p); /* without a status: does nothing */
    qnet_softmax(1, -1, l, p);
    qnet_softmax(1, 3, NULL, p);
    qnet_softmax(1, 3, l, NULL);
    CHECK(same_bits(l, p, 12));
    loss = 77;
    CHECK_FAILS(ctx, qnet_cross_entropy(ctx, 4, 3, l, none, &loss, NULL), QNET_ERROR_DATA, "all 4 rows");
    label[3] = 3;
    CHECK_FAILS(ctx, qnet_cross_entropy(ctx, 4, 3, l, label, &loss, dl), QNET_ERROR_ARGUMENT, "row 3: expected -1..2, found 3");
    label[3] = -2;
    CHECK_FAILS(ctx, qnet_cross_entropy(ctx, 4, 3, l, label, &loss, dl), QNET_ERROR_ARGUMENT, "found -2");
    CHECK(loss == 77);
    CHECK(golden_difference(dl, golden_dl, 12) < NEAR);
    qnet_context_destroy(ctx);
}

/* ---- the gradient checker itself ---- */

static double cube_sum(void *user)
{
    const qnet_real *x = (const qnet_real *)user;
    return (double)x[0] * (double)x[0] * (double)x[0] + 5 * (double)x[1];
}
static double not_a_number(void *user)
{
    (void)user;
    return NAN;
}

static void gradcheck(void)
{
    qnet_real x[3] = { 2, 1, 4 }, gradient[3] = { 12, 5, 0 }, kept[3];
    gradient_error worst;
    memcpy(kept, x, sizeof x);
    worst = worst_gradient(cube_sum, x, x, gradient, 3, 1e-3);
    CHECK(worst.error < 1e-5); /* the step's square, 1e-6 of 12, is all that is cut off */
    gradient[1] = -5;
    worst = worst_gradient(cube_sum, x, x, gradient, 3, 1e-3);
    CHECK_NEAR(worst.error, 1, 1e-5); /* 10 / 10 */
    CHECK(worst.at == 1 && worst.analytic < 0);
    CHECK_NEAR(worst.numeric, 5, 1e-5);
    CHECK(worst_gradient(not_a_number, x, x, gradient, 3, 1e-3).error >= HUGE_VAL);
    CHECK(same_bits(x, kept, 3));
}

/* ---- same bits for any number of workers ---- */

/* Runs every layer once; all results, one after the other, go to out. Returns their count. */
static size_t run_all(qnet_context *ctx, qnet_real *out)
{
    enum { ROWS = 1500, N = 70, COUNT = ROWS * N };
    qnet_real *x = random_block(COUNT, 1), *r = random_block(COUNT, 2), *dy = random_block(COUNT, 3);
    qnet_real *g = random_block(N, 4), *b = random_block(N, 5), *v = random_block(N, 6), *at = out;
    uint8_t *argmax = (uint8_t *)malloc(COUNT);
    int c;
    for (c = 0; c < N; c++) v[c] = (qnet_real)(1 + fabs((double)v[c]));
#define TAKE(count) (at += (count), at - (count))
    {
        qnet_real *mean = TAKE(N), *rstd = TAKE(N), *y = TAKE(COUNT), *dx = TAKE(COUNT), *dr = TAKE(COUNT);
        qnet_real *dg = TAKE(N), *db = TAKE(N), *y2 = TAKE(COUNT);
        CHECK_OK(ctx, qnet_batchnorm_forward(ctx, ROWS, N, x, g, b, r, 1, .1, NULL, NULL, mean, rstd, y, NULL));
        CHECK_OK(ctx, qnet_batchnorm_backward(ctx, ROWS, N, x, g, mean, rstd, y, dy, dx, dr, dg, db, NULL));
        CHECK_OK(ctx, qnet_batchnorm_inference(ctx, ROWS, N, x, g, b, b, v, r, 1, y2));
    }
    {
        qnet_real *y = TAKE(2 * 13 * 15 * N), *dx = TAKE(2 * 25 * 30 * N); /* 2 x 25 x 30 = 1500 */
        CHECK_OK(ctx, qnet_maxpool_forward(ctx, 2, 25, 30, N, x, y, argmax));
        CHECK_OK(ctx, qnet_maxpool_backward(ctx, 2, 25, 30, N, argmax, dy, dx));
    }
    {
        qnet_real *y = TAKE(15 * N), *dx = TAKE(COUNT);
        CHECK_OK(ctx, qnet_avgpool_forward(ctx, 15, 100, N, x, y));
        CHECK_OK(ctx, qnet_avgpool_backward(ctx, 15, 100, N, dy, dx));
    }
    {
        qnet_real *y = TAKE(30 * 20), *dx = TAKE(30 * N), *dw = TAKE(20 * N), *db = TAKE(20);
        CHECK_OK(ctx, qnet_dense_forward(ctx, 30, N, 20, x, r, b, y, NULL));
        CHECK_OK(ctx, qnet_dense_backward(ctx, 30, N, 20, x, r, dy, dx, dw, db, NULL));
    }
#undef TAKE
    free(x); free(r); free(dy); free(g); free(b); free(v); free(argmax);
    return (size_t)(at - out);
}

static void same_bits_for_any_workers(void)
{
    static size_t workers[4] = { 1, 2, 3, 8 };
    size_t room = 900000, count[4], i;
    qnet_real *first = (qnet_real *)malloc(room * sizeof *first);
    qnet_real *other = (qnet_real *)malloc(room * sizeof *other);
    if (first == NULL || other == NULL) exit(2);
    for (i = 0; i < 4; i++) {
        qnet_context *ctx = make_context(&workers[i]);
        count[i] = run_all(ctx, i == 0 ? first : other);
        CHECK(count[i] <= room);
        if (i > 0) CHECK(same_bits(first, other, count[i]));
        qnet_context_destroy(ctx);
    }
    free(first);
    free(other);
}

/* ---- bad input and memory ---- */

static void bad_input(void)
{
    qnet_context *ctx = make_context(NULL);
    qnet_real v[8] = { 1, 1, 1, 1, 1, 1, 1, 1 }, y[8] = { 7, 7, 7, 7, 7, 7, 7, 7 };
    uint8_t a[8];
    const qnet_status argument = QNET_ERROR_ARGUMENT;
    CHECK_FAILS(ctx, qnet_batchnorm_forward(ctx, 0, 2, v, v, v, NULL, 0, .1, NULL, NULL, y, y, y, NULL), argument, "found 0 and 2");
    CHECK_FAILS(ctx, qnet_batchnorm_forward(ctx, 2, 0, v, v, v, NULL, 0, .1, NULL, NULL, y, y, y, NULL), argument, "found 2 and 0");
    CHECK_FAILS(ctx, qnet_batchnorm_forward(ctx, 2, -3, v, v, v, NULL, 0, .1, NULL, NULL, y, y, y, NULL), argument, "-3");
    CHECK_FAILS(ctx, qnet_batchnorm_forward(ctx, 2, 2, NULL, v, v, NULL, 0, .1, NULL, NULL, y, y, y, NULL), argument, "NULL");
    CHECK_FAILS(ctx, qnet_batchnorm_forward(ctx, 2, 2, v, v, v, NULL, 0, NAN, NULL, NULL, y, y, y, NULL), argument, "momentum");
    CHECK_FAILS(ctx, qnet_batchnorm_forward(ctx, SIZE_MAX / 2, 64, v, v, v, NULL, 0, .1, NULL, NULL, y, y, y, NULL), QNET_ERROR_LIMIT, "overflow");
    CHECK_FAILS(ctx, qnet_batchnorm_backward(ctx, 2, 2, v, v, v, NULL, v, v, y, NULL, y, y, NULL), argument, "qnet_batchnorm_backward");
    CHECK_FAILS(ctx, qnet_batchnorm_inference(ctx, 2, 2, v, v, v, v, NULL, NULL, 0, y), argument, "qnet_batchnorm_inference");
    CHECK_FAILS(ctx, qnet_maxpool_forward(ctx, 1, 0, 2, 1, v, y, a), argument, "found 1, 0 and 2");
    CHECK_FAILS(ctx, qnet_maxpool_forward(ctx, 1, 2, 2, 0, v, y, a), argument, "channel");
    CHECK_FAILS(ctx, qnet_maxpool_forward(ctx, 1, 2, 2, 1, v, NULL, a), argument, "NULL");
    CHECK_FAILS(ctx, qnet_maxpool_backward(ctx, 1, 2, 2, 1, NULL, v, y), argument, "qnet_maxpool_backward");
    CHECK_FAILS(ctx, qnet_maxpool_backward(ctx, 2147483647, 2147483647, 2147483647, 1, a, v, y), QNET_ERROR_LIMIT, "overflow");
    CHECK_FAILS(ctx, qnet_avgpool_forward(ctx, 0, 2, 2, v, y), argument, "qnet_avgpool_forward");
    CHECK_FAILS(ctx, qnet_avgpool_forward(ctx, 1, 0, 2, v, y), argument, "pixels");
    CHECK_FAILS(ctx, qnet_avgpool_forward(ctx, -1, 5, 2, v, y), argument, "found -1 and 5");
    CHECK_FAILS(ctx, qnet_avgpool_forward(ctx, 1, 5, 0, v, y), argument, "channels");
    CHECK_FAILS(ctx, qnet_avgpool_forward(ctx, 2, SIZE_MAX, 2, v, y), QNET_ERROR_LIMIT, "overflow");
    CHECK_FAILS(ctx, qnet_avgpool_backward(ctx, 1, 2, 2, v, NULL), argument, "NULL");
    CHECK_FAILS(ctx, qnet_dense_forward(ctx, 2, 0, 2, v, v, v, y, NULL), argument, "qnet_dense_forward");
    CHECK_FAILS(ctx, qnet_dense_forward(ctx, 2, 2, -1, v, v, v, y, NULL), argument, "-1");
    CHECK_FAILS(ctx, qnet_dense_backward(ctx, 0, 2, 2, v, v, v, y, y, y, NULL), argument, "qnet_dense_backward");
    CHECK_FAILS(ctx, qnet_cross_entropy(ctx, 2, 0, v, NULL, NULL, y), argument, "qnet_cross_entropy");
    CHECK(qnet_batchnorm_forward(NULL, 1, 1, v, v, v, NULL, 0, .1, NULL, NULL, y, y, y, NULL) == argument);
    CHECK(qnet_batchnorm_scratch(ctx, 0, 1) == 0 && qnet_batchnorm_scratch(ctx, 1, 0) == 0);
    CHECK(qnet_dense_scratch(ctx, 0, 1, 1) == 0 && qnet_dense_scratch(ctx, 1, 1, -1) == 0);
    CHECK(y[0] == 7 && y[7] == 7);
    qnet_context_destroy(ctx);
}

static void memory(void)
{
    qnet_context *ctx = make_context(NULL);
    qnet_real x[12], y[12] = { 7 }, g[3], mean[3] = { 7, 7, 7 }, rstd[3], rm[3] = { 7, 7, 7 };
    size_t bytes = qnet_batchnorm_scratch(ctx, 4, 3);
    void *scratch = qnet__alloc(ctx, bytes);
    long before = live_bytes;
    fill_random(x, 12, 1);
    fill_random(g, 3, 2);
    fail_at = allocations + 1;
    CHECK_FAILS(ctx, qnet_batchnorm_forward(ctx, 4, 3, x, g, g, NULL, 0, .1, rm, NULL, mean, rstd, y, NULL), QNET_ERROR_MEMORY, "batch norm");
    fail_at = allocations + 1;
    CHECK_FAILS(ctx, qnet_batchnorm_backward(ctx, 4, 3, x, g, g, g, NULL, x, y, NULL, mean, rm, NULL), QNET_ERROR_MEMORY, "batch norm");
    CHECK(y[0] == 7 && mean[0] == 7 && rm[0] == 7 && live_bytes == before);
    fail_at = allocations + 1; /* with scratch nothing is asked for */
    CHECK_OK(ctx, qnet_batchnorm_forward(ctx, 4, 3, x, g, g, NULL, 0, .1, rm, NULL, mean, rstd, y, scratch));
    CHECK_OK(ctx, qnet_batchnorm_backward(ctx, 4, 3, x, g, mean, rstd, NULL, x, y, NULL, NULL, NULL, scratch));
    CHECK_FAILS(ctx, qnet_batchnorm_inference(ctx, 4, 3, x, g, g, mean, g, NULL, 0, y + 6), QNET_ERROR_MEMORY, "batch norm");
    if (qnet_dense_scratch(ctx, 4, 3, 3) > 0) { /* one block for all products: all of the gradients or none */
        qnet_real dx[12] = { 7 }, dw[9] = { 7 }, db[3] = { 7 };
        fail_at = allocations + 1;
        CHECK_FAILS(ctx, qnet_dense_backward(ctx, 4, 3, 3, x, x, x, dx, dw, db, NULL), QNET_ERROR_MEMORY, "dense layer");
        CHECK(dx[0] == 7 && dw[0] == 7 && db[0] == 7);
        fail_at = allocations + 2;
        CHECK_OK(ctx, qnet_dense_backward(ctx, 4, 3, 3, x, x, x, dx, dw, db, NULL));
    }
    fail_at = 0;
    CHECK(live_bytes == before);
    qnet__free(ctx, scratch, bytes);
    qnet_context_destroy(ctx);
    CHECK(live_bytes == 0);
}

int main(void)
{
    RUN(batchnorm_golden);
    RUN(batchnorm_against_definition);
    RUN(batchnorm_aliases);
    RUN(batchnorm_numerics);
    RUN(batchnorm_gradients);
    RUN(relu);
    RUN(maxpool_by_hand);
    RUN(maxpool_against_reference);
    RUN(pool_gradients);
    RUN(avgpool);
    RUN(dense);
    RUN(softmax_and_cross_entropy);
    RUN(gradcheck);
    RUN(same_bits_for_any_workers);
    RUN(bad_input);
    RUN(memory);
    return test_end();
}
