/* test_optim.c: Adam, the cosine schedule and the SWA average against PyTorch. */
#define QNET_IMPLEMENTATION
#include "../qnet.h"
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

/* The vector form against its twin, at odd sizes and starts; and every chunk is done once. */
static void test_adam_twins(void)
{
    static const size_t sizes[6] = {1, 3, 4, 7, 1001, 3 * 32768 + 5};
    size_t n = sizes[5], i, j, k;
    qnet_real *t = (qnet_real *)malloc(7 * n * sizeof *t);
    qnet_adam_config config;
    qnet_adam_config_init(&config);
    for (k = 0; k < 6; k++) {
        for (i = 1; i <= 3; i += 2) {
            qnet_context *ctx = context(i);
            qnet__adam_job job;
            double worst = 0;
            for (j = 0; j < n; j++) {
                qnet_real u = (qnet_real)(formula(1, (uint32_t)j) - .5);
                t[j] = t[n + j] = u;                                          /* p */
                t[2 * n + j] = (qnet_real)((formula(2, (uint32_t)j) - .5) * 3); /* g */
                t[3 * n + j] = t[4 * n + j] = u / 3;                          /* m */
                t[5 * n + j] = t[6 * n + j] = u * u;                          /* v */
            }
            qnet_adam_step(ctx, &config, sizes[k], t, t + 2 * n, t + 3 * n, t + 5 * n, .1, 7);
            memset(&job, 0, sizeof job);
            job.count = sizes[k];
            job.p = t + n;
            job.g = t + 2 * n;
            job.m = t + 4 * n;
            job.v = t + 6 * n;
            job.b1 = (qnet_real)config.beta1;
            job.one_b1 = (qnet_real)(1 - config.beta1);
            job.b2 = (qnet_real)config.beta2;
            job.one_b2 = (qnet_real)(1 - config.beta2);
            job.rate = (qnet_real)(.1 / (1 - pow(config.beta1, 7)));
            job.root = (qnet_real)(1 / sqrt(1 - pow(config.beta2, 7)));
            job.eps = (qnet_real)config.eps;
            qnet__adam_ref(&job, 0, sizes[k]);
            for (j = 0; j < n; j++) {
                double e = fabs((double)(t[j] - t[n + j])) + fabs((double)(t[3 * n + j] - t[4 * n + j])) +
                           fabs((double)(t[5 * n + j] - t[6 * n + j]));
                worst = e > worst ? e : worst;
            }
            CHECK_NEAR(worst, 0, 1e-6); /* the same operations; a compiler may fuse some */
            CHECK(t[sizes[k] - 1] != (qnet_real)(formula(1, (uint32_t)(sizes[k] - 1)) - .5));
            qnet_context_destroy(ctx);
        }
    }
    free(t);
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
    RUN(test_adam_twins);
    RUN(test_workers);
    RUN(test_cosine);
    RUN(test_swa);
    return test_end();
}
