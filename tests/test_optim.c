/* test_optim.c: Adam, the cosine schedule and the SWA average against PyTorch. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "golden/formula.h"
#include "golden/networks.h"

/* float: one rounding per operation, over 20 steps. */
#define TOL (QNET__REAL_IS_DOUBLE ? 1e-14 : 1e-6)

static size_t workers = 1;
static void backwards_run(void *user, size_t count, qnet_task task, void *arg)
{
    size_t i;
    (void)user;
    for (i = count; i-- > 0;) task(arg, i, i % workers);
}

static qnet_context *context(size_t n)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    workers = n;
    hooks.parallel.run = backwards_run;
    hooks.parallel.workers = n;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    return ctx;
}

/* The case of make_networks.py: 9 numbers, 20 steps, every third gradient small. */
static void test_adam_against_pytorch(void)
{
    qnet_context *ctx = context(1);
    qnet_adam_config config;
    qnet_real p[9], g[9], m[9] = {0}, v[9] = {0};
    int j, k;
    qnet_adam_config_init(&config);
    CHECK(config.beta1 == .9 && config.beta2 == .999 && config.eps == 1e-8);
    for (j = 0; j < 9; j++) p[j] = (qnet_real)((formula(0, (uint32_t)j) - .5) * 2);
    for (k = 0; k < 20; k++) {
        double rate = qnet_cosine_rate(3e-4, 1e-4, k, 20);
        for (j = 0; j < 9; j++) {
            g[j] = (qnet_real)((formula((uint32_t)(1 + k), (uint32_t)j) - .3) * (k % 3 ? 1 : 1e-3));
        }
        CHECK_NEAR(rate, cosine[k], 1e-15);
        qnet_adam_step(ctx, &config, 9, p, g, m, v, rate, (uint64_t)k + 1);
    }
    for (j = 0; j < 9; j++) {
        CHECK_NEAR(p[j], adam_p[j], TOL);
        CHECK_NEAR(m[j], adam_m[j], TOL);
        CHECK_NEAR(v[j], adam_v[j], TOL);
    }
    qnet_adam_step(ctx, &config, 0, NULL, NULL, NULL, NULL, 1, 1); /* nothing to do */
    qnet_context_destroy(ctx);
}

/* The first step moves by the rate against the gradient's sign, whatever its size. */
static void test_adam_first_step(void)
{
    qnet_context *ctx = context(1);
    qnet_adam_config config;
    qnet_real p[3] = {1, 1, 1}, m[3] = {0}, v[3] = {0}, g[3];
    qnet_adam_config_init(&config);
    g[0] = (qnet_real)1e-3;
    g[1] = -1000;
    g[2] = 0;
    qnet_adam_step(ctx, &config, 3, p, g, m, v, .01, 1);
    CHECK_NEAR(p[0], .99, 1e-6);
    CHECK_NEAR(p[1], 1.01, 1e-6);
    CHECK(p[2] == 1);
    qnet_context_destroy(ctx);
}

/* Algorithm 1 of Kingma & Ba written out, at sizes that fill chunks and do not; nothing beyond the end
   is touched. */
static void test_adam_sizes(void)
{
    static const size_t sizes[4] = {1, 7, 32768, 3 * 32768 + 5};
    const size_t n = sizes[3] + 8;
    qnet_real *p = (qnet_real *)malloc(4 * n * sizeof *p), *g = p + n, *m = g + n, *v = m + n;
    qnet_adam_config config;
    size_t j, k;
    qnet_adam_config_init(&config);
    for (k = 0; k < 4; k++) {
        qnet_context *ctx = context(1 + k % 3);
        double worst = 0;
        for (j = 0; j < n; j++) {
            p[j] = (qnet_real)(formula(1, (uint32_t)j) - .5);
            g[j] = (qnet_real)((formula(2, (uint32_t)j) - .5) * 3);
            m[j] = p[j] / 3;
            v[j] = p[j] * p[j];
        }
        qnet_adam_step(ctx, &config, sizes[k], p, g, m, v, .1, 7);
        for (j = 0; j < n; j++) {
            const double before = (double)(qnet_real)(formula(1, (uint32_t)j) - .5), d = (double)g[j];
            const double moved = j < sizes[k];
            const double first = before / 3 + moved * .1 * (d - before / 3);
            const double second = before * before + moved * .001 * (d * d - before * before);
            const double rate = .1 / (1 - pow(.9, 7)), root = sqrt(second) / sqrt(1 - pow(.999, 7));
            const double after = before - moved * rate * first / (root + 1e-8);
            const double e = fabs((double)p[j] - after) + fabs((double)m[j] - first) + fabs((double)v[j] - second);
            worst = e > worst ? e : worst;
        }
        CHECK_NEAR(worst, 0, QNET__REAL_IS_DOUBLE ? 1e-14 : 1e-6);
        qnet_context_destroy(ctx);
    }
    free(p);
}

static void test_workers(void)
{
    const size_t n = 5 * 32768 + 3;
    qnet_real *first = (qnet_real *)malloc(4 * n * sizeof *first), *t = (qnet_real *)malloc(4 * n * sizeof *t);
    size_t w, j;
    qnet_adam_config config;
    qnet_adam_config_init(&config);
    for (w = 1; w <= 8; w++) {
        qnet_context *ctx = context(w);
        for (j = 0; j < 4 * n; j++) t[j] = (qnet_real)formula(3, (uint32_t)j);
        qnet_adam_step(ctx, &config, n, t, t + n, t + 2 * n, t + 3 * n, 1e-3, 2);
        qnet_swa_update(ctx, n, t + n, t, 3);
        if (w == 1) memcpy(first, t, 4 * n * sizeof *t);
        CHECK(memcmp(first, t, 4 * n * sizeof *t) == 0);
        qnet_context_destroy(ctx);
    }
    free(first);
    free(t);
}

static void test_cosine(void)
{
    CHECK(qnet_cosine_rate(3e-4, 1e-4, 0, 100) == 3e-4);
    CHECK_NEAR(qnet_cosine_rate(3e-4, 1e-4, 50, 100), 2e-4, 1e-18);
    CHECK(qnet_cosine_rate(3e-4, 1e-4, 100, 100) == 1e-4);
    CHECK(qnet_cosine_rate(3e-4, 1e-4, 150, 100) == 1e-4);
    CHECK(qnet_cosine_rate(3e-4, 1e-4, 0, 0) == 3e-4);
    CHECK(qnet_cosine_rate(3e-4, 1e-4, -3, 10) == 3e-4);
}

static void test_swa(void)
{
    qnet_context *ctx = context(1);
    qnet_real average[3], p[3];
    int j, k;
    average[0] = average[1] = average[2] = (qnet_real)1e30; /* the first update is a copy */
    for (k = 0; k < 4; k++) {
        for (j = 0; j < 3; j++) p[j] = (qnet_real)formula((uint32_t)(50 + k), (uint32_t)j);
        qnet_swa_update(ctx, 3, average, p, (uint64_t)k);
        if (k == 0) CHECK(memcmp(average, p, sizeof p) == 0);
    }
    for (j = 0; j < 3; j++) CHECK_NEAR(average[j], swa[j], TOL);
    qnet_context_destroy(ctx);
}

int main(void)
{
    RUN(test_adam_against_pytorch);
    RUN(test_adam_first_step);
    RUN(test_adam_sizes);
    RUN(test_workers);
    RUN(test_cosine);
    RUN(test_swa);
    return test_end();
}
