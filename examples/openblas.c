/* openblas: matrix products by another library, through the sgemm hook. Needs OpenBLAS (or any
   CBLAS) to build: `make build/openblas`. Ready-made is the same thing with -DQNET_USE_CBLAS.

       build/openblas

   Prints the largest difference between the products of OpenBLAS and the library's own, relative
   to the largest number: about 1e-6, the rounding of sums of 576 products in another order. */
#define QNET_IMPLEMENTATION
#include "qnet.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static long calls;

static void by_openblas(void *user, int trans_a, int trans_b, int m, int n, int k, float alpha,
                        const float *a, int lda, const float *b, int ldb, float beta, float *c,
                        int ldc)
{
    (void)user;
    calls++;
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/* c[m,n] = a[m,k] b[k,n], three times; the seconds of the fastest. */
static double product(const qnet_hooks *hooks, size_t m, size_t n, size_t k, const qnet_real *a,
                      const qnet_real *b, qnet_real *c)
{
    qnet_context *ctx;
    double best = 1e9;
    int i;
    if (qnet_context_create(hooks, &ctx) != QNET_OK) {
        fputs("openblas: no memory\n", stderr);
        exit(1);
    }
    for (i = 0; i < 3; i++) {
        clock_t start = clock();
        double seconds;
        if (qnet_gemm(ctx, 0, 0, m, n, k, a, k, b, n, 0, c, n, NULL) != QNET_OK) {
            fprintf(stderr, "openblas: %s\n", qnet_last_error(ctx));
            exit(1);
        }
        seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (seconds < best) best = seconds;
    }
    qnet_context_destroy(ctx);
    return best;
}

int main(void)
{
    const size_t m = 3136, n = 64, k = 576; /* a 3 x 3 convolution of ResNet18's first layers */
    qnet_real *a = (qnet_real *)malloc((m * k + k * n + 2 * m * n) * sizeof(qnet_real));
    qnet_real *b = a + m * k, *own = b + k * n, *blas = own + m * n;
    qnet_hooks hooks;
    double own_seconds, blas_seconds, difference = 0, largest = 0;
    size_t i;
    if (!a) return 1;
    for (i = 0; i < m * k; i++) a[i] = (qnet_real)((int)(i * 7919 % 2003) - 1001) / 1001;
    for (i = 0; i < k * n; i++) b[i] = (qnet_real)((int)(i * 104729 % 1999) - 999) / 999;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1;
    own_seconds = product(&hooks, m, n, k, a, b, own);
    hooks.blas.sgemm = by_openblas;
    blas_seconds = product(&hooks, m, n, k, a, b, blas);
    for (i = 0; i < m * n; i++) {
        difference = fmax(difference, fabs((double)own[i] - (double)blas[i]));
        largest = fmax(largest, fabs((double)own[i]));
    }
    printf("own %.1f ms, OpenBLAS %.1f ms of processor time, %ld calls\n", 1e3 * own_seconds,
           1e3 * blas_seconds, calls);
    printf("largest relative difference: %.1e\n", difference / largest);
    free(a);
    return !(difference <= 1e-5 * largest);
}
