/* Room >>gemm: the micro-kernel in all its forms against plain loops, and qnet_gemm. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"

/* A sum of k <= 300 products of numbers in -.5 .. .5, against the same in double: k * 1/4 * half a unit
   in the last place (6e-8, 1.1e-16). The one chain of the reference, or of a BLAS, passes through partial sums
   of up to 8. */
#define NEAR (QNET__REAL_IS_DOUBLE ? 1e-13 : QNET__REFERENCE_ONLY || TEST_BLAS ? 1e-5 : 4e-6)
#define GUARD 8 /* bytes behind a block, which must stay as they are */

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

/* A context for these kernels and workers (NULL: default); NULL where the machine lacks them. */
static qnet_context *make_context(qnet_cpu cpu, size_t *workers)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.alloc = counting_alloc;
    hooks.allocator.free = counting_free;
    hooks.cpu = cpu;
    if (workers != NULL) {
        hooks.parallel.user = workers;
        hooks.parallel.run = fake_run;
        hooks.parallel.workers = *workers;
    }
    return qnet_context_create(&hooks, &ctx) == QNET_OK ? ctx : NULL;
}

/* ---- data ---- */

static uint32_t random_state = 1;
static qnet_real random_real(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (qnet_real)((double)(random_state >> 8) / 16777216.0 - .5);
}

/* Exactly n numbers, so that the address sanitizer sees any read beyond them. */
static qnet_real *random_block(size_t n)
{
    qnet_real *p = (qnet_real *)malloc(n * sizeof *p);
    size_t i;
    if (p == NULL) exit(2);
    for (i = 0; i < n; i++) p[i] = random_real();
    return p;
}

static double largest_difference(const qnet_real *a, const qnet_real *b, size_t n)
{
    double worst = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d; /* NaN too */
    }
    return worst;
}

/* ---- tests ---- */

typedef struct product {
    int trans_a, trans_b;
    size_t m, n, k, lda, ldb, ldc;
    qnet_real beta;
    qnet_real *a, *b, *start; /* start: what C holds before */
} product;

static product make_product(int trans_a, int trans_b, size_t m, size_t n, size_t k, size_t gap, int beta)
{
    product p;
    p.trans_a = trans_a, p.trans_b = trans_b, p.m = m, p.n = n, p.k = k, p.beta = (qnet_real)beta;
    p.lda = (trans_a ? m : k) + gap, p.ldb = (trans_b ? k : n) + gap, p.ldc = n + gap;
    p.a = random_block((trans_a ? k : m) * p.lda - gap); /* the last row ends with the matrix */
    p.b = random_block((trans_b ? n : k) * p.ldb - gap);
    p.start = random_block(m * p.ldc);
    return p;
}

static void free_product(product *p)
{
    free(p->a);
    free(p->b);
    free(p->start);
}

static qnet_status run_product(qnet_context *ctx, const product *p, qnet_real *c, void *scratch)
{
    memcpy(c, p->start, p->m * p->ldc * sizeof *c);
    return qnet_gemm(ctx, p->trans_a, p->trans_b, p->m, p->n, p->k, p->a, p->lda, p->b, p->ldb, p->beta,
                     c, p->ldc, scratch);
}

/* The worst difference from the reference's equation with sums in double (the reference adds up in one chain of
   qnet_real, which is less exact than the kernels), in C and in the gaps between its rows. */
static double product_error(qnet_context *ctx, const product *p, void *scratch)
{
    qnet_real *c = random_block(p->m * p->ldc), *expected = random_block(p->m * p->ldc);
    double worst;
    size_t i, j, k;
    memcpy(expected, p->start, p->m * p->ldc * sizeof *c);
    for (i = 0; i < p->m; i++)
        for (j = 0; j < p->n; j++) {
            double sum = p->beta != 0 ? (double)expected[i * p->ldc + j] : 0;
            for (k = 0; k < p->k; k++)
                sum += (double)p->a[p->trans_a ? k * p->lda + i : i * p->lda + k] *
                       (double)p->b[p->trans_b ? j * p->ldb + k : k * p->ldb + j];
            expected[i * p->ldc + j] = (qnet_real)sum;
        }
    CHECK_OK(ctx, run_product(ctx, p, c, scratch));
    worst = largest_difference(c, expected, p->m * p->ldc);
    free(c);
    free(expected);
    return worst;
}

static void test_reference_by_hand(void)
{
    /* [1 2 3; 4 5 6] * [1 0; 2 1; 0 3] = [5 11; 14 23] */
    static const qnet_real a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, 2, 1, 0, 3};
    static const qnet_real at[6] = {1, 4, 2, 5, 3, 6}, bt[6] = {1, 2, 0, 0, 1, 3};
    static const qnet_real expected[4] = {5, 11, 14, 23};
    int trans_a, trans_b, i;
    for (trans_a = 0; trans_a < 2; trans_a++)
        for (trans_b = 0; trans_b < 2; trans_b++) {
            qnet_real c[4] = {100, 100, 100, 100};
            qnet__gemm_ref(trans_a, trans_b, 2, 2, 3, trans_a ? at : a, trans_a ? 2 : 3,
                           trans_b ? bt : b, trans_b ? 3 : 2, 0, c, 2);
            for (i = 0; i < 4; i++) CHECK(c[i] == expected[i]);
            qnet__gemm_ref(trans_a, trans_b, 2, 2, 3, trans_a ? at : a, trans_a ? 2 : 3,
                           trans_b ? bt : b, trans_b ? 3 : 2, 1, c, 2);
            for (i = 0; i < 4; i++) CHECK(c[i] == 2 * expected[i]);
        }
}

static void test_against_reference(void)
{
    static const size_t rows[] = {1, 2, 3, 4, 6, 7, 8, 13, 14, 15, 29, 70, 450};
    static const size_t columns[] = {1, 2, 7, 8, 9, 16, 31, 32, 33, 100};
    static const size_t depths[] = {1, 2, 17, 300};
    int cpu, trans;
    size_t i, j, l;
    for (cpu = QNET_CPU_SCALAR; cpu <= QNET_CPU_NEON; cpu++) {
        qnet_context *ctx = make_context((qnet_cpu)cpu, NULL);
        if (ctx == NULL) continue;
        for (trans = 0; trans < 4; trans++)
            for (i = 0; i < sizeof rows / sizeof *rows; i++)
                for (j = 0; j < sizeof columns / sizeof *columns; j++)
                    for (l = 0; l < sizeof depths / sizeof *depths; l++) {
                        product p = make_product(trans / 2, trans % 2, rows[i], columns[j], depths[l],
                                                 (i + j + l) % 3, (int)(i + j) % 2);
                        double error = product_error(ctx, &p, NULL);
                        if (!CHECK(error <= NEAR))
                            printf("    error %g: %s, trans %d, m %lu, n %lu, k %lu\n", error,
                                   qnet_cpu_name((qnet_cpu)cpu), trans, (unsigned long)p.m,
                                   (unsigned long)p.n, (unsigned long)p.k);
                        free_product(&p);
                    }
        qnet_context_destroy(ctx);
    }
    CHECK(live_bytes == 0);
}

/* Both SIMD forms fuse and add k in order, so that they agree to the bit, whatever their tiles. */
static void test_simd_forms_agree(void)
{
    qnet_context *avx2 = make_context(QNET_CPU_AVX2, NULL), *avx512 = make_context(QNET_CPU_AVX512, NULL);
    if (avx2 != NULL && avx512 != NULL) {
        product p = make_product(0, 1, 61, 77, 130, 1, 1);
        qnet_real *c1 = random_block(p.m * p.ldc), *c2 = random_block(p.m * p.ldc);
        CHECK_OK(avx2, run_product(avx2, &p, c1, NULL));
        CHECK_OK(avx512, run_product(avx512, &p, c2, NULL));
        CHECK(memcmp(c1, c2, p.m * p.ldc * sizeof *c1) == 0);
        free(c1);
        free(c2);
        free_product(&p);
    }
    qnet_context_destroy(avx2);
    qnet_context_destroy(avx512);
}

/* The stated scratch is enough, nothing is written behind it, and it changes no bit. */
static void test_scratch(void)
{
    qnet_context *ctx = make_context(QNET_CPU_AUTO, NULL);
    int trans;
    for (trans = 0; trans < 4; trans++) {
        product p = make_product(trans / 2, trans % 2, 100, 45, 33, 2, 0);
        size_t bytes = qnet_gemm_scratch(ctx, p.trans_a, p.trans_b, p.m, p.n, p.k), i;
        unsigned char *scratch = (unsigned char *)qnet__default_alloc(NULL, bytes + GUARD, 64);
        long before = allocations;
        if (scratch == NULL) exit(2);
        memset(scratch, 0xab, bytes + GUARD);
        CHECK(product_error(ctx, &p, scratch) <= NEAR);
        for (i = 0; i < GUARD; i++) CHECK(scratch[bytes + i] == 0xab);
        CHECK(allocations == before);
        qnet__default_free(NULL, scratch, bytes + GUARD);
        free_product(&p);
    }
    qnet_context_destroy(ctx);
}

/* With beta 0, what C held does not matter, not even NaN. */
static void test_overwrites(void)
{
    qnet_context *ctx = make_context(QNET_CPU_AUTO, NULL);
    product p = make_product(0, 0, 20, 40, 5, 0, 0);
    size_t i;
    for (i = 0; i < p.m * p.ldc; i++) p.start[i] = (qnet_real)NAN;
    CHECK(product_error(ctx, &p, NULL) <= NEAR);
    free_product(&p);
    qnet_context_destroy(ctx);
}

static void test_workers(void)
{
    static const size_t counts[] = {1, 2, 3, 8};
    product p = make_product(1, 0, 1000, 300, 70, 0, 1);
    qnet_real *first = random_block(p.m * p.ldc), *c = random_block(p.m * p.ldc);
    size_t i;
    for (i = 0; i < 4; i++) {
        size_t workers = counts[i];
        qnet_context *ctx = make_context(QNET_CPU_AUTO, &workers);
        CHECK_OK(ctx, run_product(ctx, &p, i == 0 ? first : c, NULL));
        if (i != 0) CHECK(memcmp(first, c, p.m * p.ldc * sizeof *c) == 0);
        qnet_context_destroy(ctx);
    }
    free(first);
    free(c);
    free_product(&p);
}

static void test_bad_input(void)
{
    qnet_context *ctx = make_context(QNET_CPU_AUTO, NULL);
    qnet_real a[4] = {0}, b[4] = {0}, c[4] = {7, 7, 7, 7};
    const size_t huge = (size_t)-1;
    CHECK(qnet_gemm(NULL, 0, 0, 2, 2, 2, a, 2, b, 2, 0, c, 2, NULL) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 2, 2, NULL, 2, b, 2, 0, c, 2, NULL), QNET_ERROR_ARGUMENT,
                "NULL");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 2, 2, a, 2, NULL, 2, 0, c, 2, NULL), QNET_ERROR_ARGUMENT,
                "NULL");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 2, 2, a, 2, b, 2, 0, NULL, 2, NULL), QNET_ERROR_ARGUMENT,
                "NULL");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 0, 2, 2, a, 2, b, 2, 0, c, 2, NULL), QNET_ERROR_ARGUMENT, "m 0");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 0, 2, a, 2, b, 2, 0, c, 2, NULL), QNET_ERROR_ARGUMENT, "n 0");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 2, 0, a, 2, b, 2, 0, c, 2, NULL), QNET_ERROR_ARGUMENT, "k 0");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 2, 2, a, 1, b, 2, 0, c, 2, NULL), QNET_ERROR_ARGUMENT,
                "leading dimensions 1, 2, 2");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 1, 0, 3, 2, 2, a, 2, b, 2, 0, c, 2, NULL), QNET_ERROR_ARGUMENT,
                "leading");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 2, 2, a, 2, b, 1, 0, c, 2, NULL), QNET_ERROR_ARGUMENT,
                "leading");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 1, 2, 2, 3, a, 3, b, 2, 0, c, 2, NULL), QNET_ERROR_ARGUMENT,
                "leading");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 2, 2, a, 2, b, 2, 0, c, 1, NULL), QNET_ERROR_ARGUMENT,
                "leading");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 2, 2, a, huge / 2, b, 2, 0, c, 2, NULL), QNET_ERROR_ARGUMENT,
                "too large");
    CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 2, 2, 2, a, 2, b, 2, (qnet_real).5, c, 2, NULL),
                QNET_ERROR_ARGUMENT, "beta 0.5");
    CHECK(c[0] == 7 && c[1] == 7 && c[2] == 7 && c[3] == 7);
    if (!QNET__REFERENCE_ONLY && !TEST_BLAS) {
        CHECK(qnet_gemm_scratch(ctx, 0, 1, 1, huge, 2) == huge); /* and not a small wrapped number */
        CHECK(qnet_gemm_scratch(ctx, 0, 1, 1, 1, huge) == huge);
    }
    qnet_context_destroy(ctx);
}

static void test_no_memory(void)
{
    qnet_context *ctx = make_context(QNET_CPU_AUTO, NULL);
    product p = make_product(0, 1, 5, 5, 5, 0, 0);
    qnet_real c[25];
    fail_at = allocations + 1;
    if (QNET__REFERENCE_ONLY || TEST_BLAS) {
        CHECK_OK(ctx, run_product(ctx, &p, c, NULL));
    } else {
        CHECK_FAILS(ctx, run_product(ctx, &p, c, NULL), QNET_ERROR_MEMORY, "packed matrix");
        CHECK(memcmp(c, p.start, sizeof c) == 0);
    }
    fail_at = 0;
    free_product(&p);
    qnet_context_destroy(ctx);
    CHECK(live_bytes == 0);
}

#if !QNET__REAL_IS_DOUBLE && !defined(QNET_REFERENCE)
static int blas_calls;
static void fake_sgemm(void *user, int trans_a, int trans_b, int m, int n, int k, float alpha,
                       const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    CHECK(user == &blas_calls && alpha == 1);
    blas_calls++;
    qnet__gemm_ref(trans_a, trans_b, (size_t)m, (size_t)n, (size_t)k, a, (size_t)lda, b, (size_t)ldb, beta,
                   c, (size_t)ldc);
}

static void test_blas_hook(void)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    int trans;
    memset(&hooks, 0, sizeof hooks);
    hooks.blas.user = &blas_calls;
    hooks.blas.sgemm = fake_sgemm;
    CHECK_OK(ctx, qnet_context_create(&hooks, &ctx));
    for (trans = 0; trans < 4; trans++) {
        product p = make_product(trans / 2, trans % 2, 9, 10, 11, 1, trans == 1);
        qnet_real c[9 * 11], expected[9 * 11]; /* rows of ldc = 10 + 1 */
        memcpy(expected, p.start, p.m * p.ldc * sizeof *c);
        qnet__gemm_ref(p.trans_a, p.trans_b, p.m, p.n, p.k, p.a, p.lda, p.b, p.ldb, p.beta, expected,
                       p.ldc);
        CHECK_OK(ctx, run_product(ctx, &p, c, NULL));
        CHECK(memcmp(c, expected, sizeof c) == 0);
        free_product(&p);
    }
    CHECK(blas_calls == 4);
#if SIZE_MAX > 0xffffffffu
    {
        float one = 1; /* one row, so that its huge leading dimension is never used */
        CHECK_FAILS(ctx, qnet_gemm(ctx, 0, 0, 1, 1, 1, &one, (size_t)INT_MAX + 1, &one, 1, 0, &one, 1, NULL),
                    QNET_ERROR_LIMIT, "2147483648");
    }
#endif
    CHECK(blas_calls == 4);
    qnet_context_destroy(ctx);
}
#endif

int main(void)
{
    RUN(test_reference_by_hand);
    RUN(test_against_reference);
    RUN(test_simd_forms_agree);
    RUN(test_scratch);
    RUN(test_overwrites);
    RUN(test_workers);
    RUN(test_bad_input);
    RUN(test_no_memory);
#if !QNET__REAL_IS_DOUBLE && !defined(QNET_REFERENCE)
    RUN(test_blas_hook);
#endif
    return test_end();
}
