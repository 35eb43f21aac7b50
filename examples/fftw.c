/* fftw: Fourier transforms by another library, through the fft hook. Needs FFTW in single precision
   to build (Debian: libfftw3-dev): `make build/fftw`.

       build/fftw

   Prints the largest difference between FFTW's spectrum and the library's own, and what is left of
   it after the way back, relative to the largest number: some 1e-7, the rounding of floats. */
#define QNET_IMPLEMENTATION
#include "qnet.h"

#include <fftw3.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Plans are made anew at each call, by FFTW's estimate: a program that transforms one size over and
   over would keep them, with user for the place. NULL: FFTW has no plan, so the call fails. */
static int run(fftwf_plan plan)
{
    if (plan == NULL) return 1;
    fftwf_execute(plan);
    fftwf_destroy_plan(plan);
    return 0;
}

static int forward(void *user, int nx, int ny, int nz, const float *x, float *spectrum)
{
    (void)user;
    return run(fftwf_plan_dft_r2c_3d(nz, ny, nx, (float *)x, (fftwf_complex *)spectrum,
                                     FFTW_ESTIMATE | FFTW_PRESERVE_INPUT));
}

/* FFTW does not divide by the number of points. */
static int inverse(void *user, int nx, int ny, int nz, float *spectrum, float *x)
{
    const size_t count = (size_t)nx * (size_t)ny * (size_t)nz;
    (void)user;
    if (run(fftwf_plan_dft_c2r_3d(nz, ny, nx, (fftwf_complex *)spectrum, x, FFTW_ESTIMATE)) != 0)
        return 1;
    for (size_t i = 0; i < count; i++) x[i] /= (float)count;
    return 0;
}

/* The spectrum of x and what comes back from it; the seconds of the fastest of five. */
static double transform(const qnet_hooks *hooks, const int n[3], const float *x, float *spectrum,
                        float *spoiled, size_t numbers, float *back)
{
    qnet_context *ctx;
    double best = 1e9;
    if (qnet_context_create(hooks, &ctx) != QNET_OK) {
        fputs("fftw: no memory\n", stderr);
        exit(1);
    }
    for (int i = 0; i < 5; i++) {
        const clock_t start = clock();
        if (qnet_fft_real(ctx, n[0], n[1], n[2], x, spectrum) != QNET_OK) exit(1);
        memcpy(spoiled, spectrum, numbers * sizeof *spoiled);
        if (qnet_fft_real_inverse(ctx, n[0], n[1], n[2], spoiled, back) != QNET_OK) exit(1);
        best = fmin(best, (double)(clock() - start) / CLOCKS_PER_SEC);
    }
    qnet_context_destroy(ctx);
    return best;
}

int main(void)
{
    static const int n[3] = {128, 144, 64};
    const size_t count = 128 * 144 * 64, numbers = 2 * 65 * 144 * 64;
    float *x = (float *)malloc((2 * count + 3 * numbers) * sizeof *x);
    float *back = x + count, *own = back + count, *fftw = own + numbers, *spoiled = fftw + numbers;
    double own_seconds, fftw_seconds, difference = 0, left = 0, largest = 0;
    qnet_hooks hooks;
    if (x == NULL) return 1;
    for (size_t i = 0; i < count; i++) x[i] = (float)(i * 2654435761u % 2003) / 1001 - 1;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1;
    own_seconds = transform(&hooks, n, x, own, spoiled, numbers, back);
    hooks.fft.forward = forward, hooks.fft.inverse = inverse;
    fftw_seconds = transform(&hooks, n, x, fftw, spoiled, numbers, back);
    for (size_t i = 0; i < numbers; i++) {
        difference = fmax(difference, fabs((double)own[i] - (double)fftw[i]));
        largest = fmax(largest, fabs((double)own[i]));
    }
    for (size_t i = 0; i < count; i++) left = fmax(left, fabs((double)back[i] - (double)x[i]));
    printf("%d x %d x %d there and back: own %.1f ms, FFTW %.1f ms of processor time\n", n[0], n[1],
           n[2], 1e3 * own_seconds, 1e3 * fftw_seconds);
    printf("largest relative difference: %.1e; after the way back %.1e\n", difference / largest,
           left);
    free(x);
    return !(difference <= 1e-6 * largest && left <= 1e-6);
}
