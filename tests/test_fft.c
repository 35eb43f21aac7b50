/* Room >>fft against numpy.fft (tests/golden/make_maps_fft.py) and, number by number, against the sums that define the
   transform: every length from 1 to 130, primes, planes, volumes; 2e-7 relative for floats, whose last bit is 1.2e-7,
   and 1e-14 for doubles. Bits are the same for any number of workers. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200112L
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "memory.h"
#include "workers.h"
#include "golden/distance.h"
#include "golden/maps_fft.h"

#define TOLERANCE (QNET__REAL_IS_DOUBLE ? 1e-14 : 2e-7)
#define SKETCH 2.0 /* what four sums say of a distance has a standard deviation of a third of it */
#define SHAPES (sizeof golden_fft / sizeof *golden_fft)

static qnet_context *ctx;

static qnet_real *numbers(size_t count)
{
    qnet_real *x = (qnet_real *)calloc(count + 1, sizeof *x);
    if (!x) exit(1);
    return x;
}

static void fill(qnet_real *x, size_t count, uint32_t stream)
{
    for (size_t i = 0; i < count; i++) x[i] = (qnet_real)(float)(formula(stream, (uint32_t)i) - .5);
}

static double apart(const qnet_real *a, const double *b, size_t count)
{
    double square = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        square += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return norm > 0 ? sqrt(square / norm) : sqrt(square);
}

/* The definition, axis by axis, in double: data[nz][ny][nx][2]. */
static void define(const int n[3], double *data, int sign)
{
    const size_t all = (size_t)n[0] * (size_t)n[1] * (size_t)n[2];
    size_t step = 1;
    double *sum = (double *)malloc(2 * all * sizeof *sum);
    if (!sum) exit(1);
    for (int axis = 0; axis < 3; axis++) {
        const size_t m = (size_t)n[axis];
        for (size_t i = 0; i < all; i++) {
            const size_t k = i / step % m, first = i - k * step;
            double re = 0, im = 0;
            for (size_t j = 0; j < m; j++) {
                const double a = 2 * 3.14159265358979323846 * (double)(j * k % m) / (double)m;
                const double *x = data + 2 * (first + j * step);
                re += x[0] * cos(a) - sign * x[1] * sin(a);
                im += x[1] * cos(a) + sign * x[0] * sin(a);
            }
            sum[2 * i] = re, sum[2 * i + 1] = im;
        }
        memcpy(data, sum, 2 * all * sizeof *sum);
        step *= m;
    }
    free(sum);
}

/* Both kinds of transform, and the ways back from the rounded spectra. golden: the index of the shape there, or
   SHAPES. */
static double shape(qnet_context *c, const int n[3], uint32_t stream, size_t golden)
{
    const size_t all = (size_t)n[0] * (size_t)n[1] * (size_t)n[2];
    const size_t rows = (size_t)n[1] * (size_t)n[2], width = (size_t)n[0] / 2 + 1;
    qnet_real *x = numbers(2 * all), *y = numbers(2 * all), *half = numbers(2 * rows * width);
    double *sure = (double *)malloc((2 * all + 2 * rows * width) * sizeof *sure), worst, sums[4];
    double *part = sure + 2 * all;
    if (!sure) exit(1);
    fill(x, 2 * all, stream);
    memcpy(y, x, 2 * all * sizeof *x);
    for (size_t i = 0; i < 2 * all; i++) sure[i] = (double)x[i];
    define(n, sure, -1);
    CHECK_OK(c, qnet_fft(c, n[0], n[1], n[2], 0, y));
    worst = apart(y, sure, 2 * all);
    if (golden < SHAPES) {
        golden_sketch(y, QNET__REAL_IS_DOUBLE, 2 * all, 4, sums);
        worst = fmax(worst, golden_apart(sums, golden_fft[golden].norm, golden_fft[golden].sums, 4) / SKETCH);
    }
    for (size_t i = 0; i < 2 * all; i++) y[i] = (qnet_real)sure[i], sure[i] = (double)x[i];
    CHECK_OK(c, qnet_fft(c, n[0], n[1], n[2], 1, y));
    worst = fmax(worst, apart(y, sure, 2 * all));
    for (size_t i = 0; i < all; i++) sure[2 * i] = (double)x[i], sure[2 * i + 1] = 0;
    define(n, sure, -1);
    for (size_t i = 0; i < rows; i++)
        memcpy(part + 2 * i * width, sure + 2 * i * (size_t)n[0], 2 * width * sizeof *part);
    CHECK_OK(c, qnet_fft_real(c, n[0], n[1], n[2], x, half));
    worst = fmax(worst, apart(half, part, 2 * rows * width));
    if (golden < SHAPES) {
        golden_sketch(half, QNET__REAL_IS_DOUBLE, 2 * rows * width, 4, sums);
        worst = fmax(worst, golden_apart(sums, golden_fft[golden].real_norm, golden_fft[golden].real_sums, 4) / SKETCH);
    }
    for (size_t i = 0; i < 2 * rows * width; i++) half[i] = (qnet_real)part[i];
    CHECK_OK(c, qnet_fft_real_inverse(c, n[0], n[1], n[2], half, y));
    for (size_t i = 0; i < all; i++) sure[i] = (double)x[i];
    worst = fmax(worst, apart(y, sure, all));
    if (!(worst <= TOLERANCE)) printf("    %d x %d x %d: %.3g\n", n[0], n[1], n[2], worst);
    free(x), free(y), free(half), free(sure);
    return worst;
}

static void test_numpy(void)
{
    double worst = 0;
    for (size_t s = 0; s < SHAPES; s++) worst = fmax(worst, shape(ctx, golden_fft[s].n, 900 + (uint32_t)s, s));
    printf("    largest relative distance of %lu shapes: %.2g\n", (unsigned long)SHAPES, worst);
    CHECK(worst <= TOLERANCE);
}

/* Bundles of lines that are full, and parts of them, with each set of kernels that this machine has. */
static void test_kernels(void)
{
    static const int shapes[][3] = {{1, 31, 2}, {2, 64, 1}, {5, 65, 2}, {16, 16, 16}, {17, 33, 3}, {31, 8, 9},
                                    {34, 5, 4}, {63, 1, 33}, {126, 12, 1}, {13, 11, 19}};
    for (int cpu = QNET_CPU_SCALAR; cpu <= QNET_CPU_NEON; cpu++) {
        qnet_hooks hooks;
        qnet_context *c;
        double worst = 0;
        memset(&hooks, 0, sizeof hooks);
        hooks.cpu = (qnet_cpu)cpu;
        if (qnet_context_create(&hooks, &c) != QNET_OK) continue;
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            worst = fmax(worst, shape(c, shapes[s], 100 + (uint32_t)s, SHAPES));
        printf("    %s: %.2g\n", qnet_cpu_name((qnet_cpu)cpu), worst);
        CHECK(worst <= TOLERANCE);
        qnet_context_destroy(c);
    }
}

/* As numpy.fft.irfftn: what the half of a real array's spectrum can't have is passed over in x. Two rows, as they are
   transformed together. */
static void test_not_hermitian(void)
{
    qnet_real half[16] = {3, 9, 1, 2, -1, 1, 4, 7, 2, 6, 0, 1, 2, -2, 3, -5}, same[16], x[12], y[12];
    memcpy(same, half, sizeof same);
    same[1] = same[7] = same[9] = same[15] = 0;
    CHECK_OK(ctx, qnet_fft_real_inverse(ctx, 6, 2, 1, half, x));
    CHECK_OK(ctx, qnet_fft_real_inverse(ctx, 6, 2, 1, same, y));
    CHECK(memcmp(x, y, sizeof x) == 0);
    CHECK_NEAR(x[0], 16. / 12, 1e-6); /* (3 + 2 (1 - 1) + 4 + 2 + 2 (0 + 2) + 3) / 12 */
}

static void test_workers(void)
{
    static const int n[3] = {35, 26, 30};
    const size_t all = 35 * 26 * 30, halves = 2 * 18 * 26 * 30;
    static size_t workers[] = {1, 2, 3, 8};
    qnet_real *x = numbers(2 * all), *y = numbers(2 * all), *half = numbers(halves), *back = numbers(all);
    uint64_t hash[8];
    for (size_t w = 0; w < 8; w++) { /* of that hook, then of OpenMP where it is */
        qnet_hooks hooks;
        qnet_context *c;
        memset(&hooks, 0, sizeof hooks);
        if (w < 4) {
            workers_hook(&hooks, &workers[w]);
        } else {
            hooks.threads = (int)workers[w - 4];
        }
        CHECK(qnet_context_create(&hooks, &c) == QNET_OK);
        fill(x, 2 * all, 5);
        memcpy(y, x, 2 * all * sizeof *x);
        CHECK_OK(c, qnet_fft(c, n[0], n[1], n[2], 0, y));
        CHECK_OK(c, qnet_fft_real(c, n[0], n[1], n[2], x, half));
        hash[w] = qnet_hash(QNET_HASH_START, y, 2 * all * sizeof *y);
        hash[w] = qnet_hash(hash[w], half, halves * sizeof *half);
        CHECK_OK(c, qnet_fft_real_inverse(c, n[0], n[1], n[2], half, back));
        hash[w] = qnet_hash(hash[w], back, all * sizeof *back);
        CHECK(hash[w] == hash[0]);
        qnet_context_destroy(c);
    }
    free(x), free(y), free(half), free(back);
}

static int hook_calls, hook_fails;

static int hook_forward(void *user, int nx, int ny, int nz, const float *x, float *spectrum)
{
    hook_calls++;
    spectrum[0] = (float)(nx + ny + nz) + x[0] + *(float *)user;
    return hook_fails;
}

static int hook_inverse(void *user, int nx, int ny, int nz, float *spectrum, float *x)
{
    hook_calls++;
    x[0] = (float)(nx * ny * nz) + spectrum[0] + *(float *)user;
    return hook_fails;
}

static void test_hook(void)
{
    qnet_hooks hooks;
    qnet_context *c;
    float user = 100;
    qnet_real x[24] = {1}, spectrum[64] = {2};
    memset(&hooks, 0, sizeof hooks);
    hooks.fft.user = &user;
    hooks.fft.forward = hook_forward;
    CHECK(qnet_context_create(&hooks, &c) == QNET_ERROR_ARGUMENT); /* half a hook */
    hooks.fft.inverse = hook_inverse;
    CHECK(qnet_context_create(&hooks, &c) == QNET_OK);
    CHECK_OK(c, qnet_fft_real(c, 4, 3, 2, x, spectrum));
    if (QNET__REAL_IS_DOUBLE) { /* the hook is of floats */
        CHECK(hook_calls == 0);
        qnet_context_destroy(c);
        return;
    }
    CHECK(hook_calls == 1 && spectrum[0] == 110);
    CHECK_OK(c, qnet_fft_real_inverse(c, 4, 3, 2, spectrum, x));
    CHECK(hook_calls == 2 && x[0] == 234);
    hook_fails = 7;
    CHECK_FAILS(c, qnet_fft_real(c, 4, 3, 2, x, spectrum), QNET_ERROR_DATA, "failed (7) on 4 x 3 x 2");
    CHECK_FAILS(c, qnet_fft_real_inverse(c, 4, 3, 2, spectrum, x), QNET_ERROR_DATA, "hook");
    CHECK_FAILS(c, qnet_fft_real(c, 0, 3, 2, x, spectrum), QNET_ERROR_ARGUMENT, "0 x 3 x 2");
    CHECK(hook_calls == 4);
    qnet_context_destroy(c);
}

static void test_refusals(void)
{
    qnet_real x[8] = {0};
    CHECK_FAILS(ctx, qnet_fft(ctx, 2, 2, 1, 0, NULL), QNET_ERROR_ARGUMENT, "qnet_fft: context or data is NULL");
    CHECK(qnet_fft(NULL, 2, 2, 1, 0, x) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_fft_real(ctx, 2, 2, 1, NULL, x), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_fft_real(ctx, 2, 2, 1, x, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_fft_real_inverse(ctx, 2, 2, 1, x, NULL), QNET_ERROR_ARGUMENT, "qnet_fft_real_inverse");
    CHECK_FAILS(ctx, qnet_fft(ctx, 0, 2, 1, 0, x), QNET_ERROR_ARGUMENT, "0 x 2 x 1");
    CHECK_FAILS(ctx, qnet_fft(ctx, 2, -2, 1, 0, x), QNET_ERROR_ARGUMENT, "2 x -2 x 1");
    CHECK_FAILS(ctx, qnet_fft(ctx, 65536, 65536, 65536, 0, x), QNET_ERROR_LIMIT, "65536");
    CHECK_FAILS(ctx, qnet_fft_real(ctx, INT_MAX, 1, 1, x, x), QNET_ERROR_LIMIT, "points");
}

/* One block for a call, which comes back. */
static void test_memory(void)
{
    memory_watch m;
    qnet_hooks hooks;
    qnet_context *c;
    qnet_real *x = numbers(2 * 60);
    memset(&m, 0, sizeof m);
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &m, hooks.allocator.alloc = memory_alloc, hooks.allocator.free = memory_free;
    CHECK(qnet_context_create(&hooks, &c) == QNET_OK);
    m.calls = 0;
    CHECK_OK(c, qnet_fft(c, 5, 4, 3, 0, x));
    CHECK(m.calls == 1 && m.count == 1 && m.wrong == NULL);
    m.fail_at = 2;
    CHECK_FAILS(c, qnet_fft(c, 5, 4, 3, 0, x), QNET_ERROR_MEMORY, "no memory");
    CHECK(m.count == 1);
    qnet_context_destroy(c);
    CHECK(m.count == 0);
    memory_end(&m);
    free(x);
}

static void test_good_size(void)
{
    static const int pairs[][2] = {{-5, 1}, {0, 1}, {1, 1}, {7, 7}, {11, 12}, {13, 14}, {121, 125}, {127, 128},
                                   {211, 216}, {INT_MAX, INT_MAX}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) CHECK(qnet_fft_good_size(pairs[i][0]) == pairs[i][1]);
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    RUN(test_numpy);
    RUN(test_kernels);
    RUN(test_not_hermitian);
    RUN(test_workers);
    RUN(test_hook);
    RUN(test_refusals);
    RUN(test_memory);
    RUN(test_good_size);
    qnet_context_destroy(ctx);
    return test_end();
}
