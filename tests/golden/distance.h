/* distance.h: sketches of our tensors, and how far they are from those of golden files. golden.h
   says why a few sums tell it. */
#ifndef DISTANCE_H
#define DISTANCE_H
#include "formula.h"
#include <string.h>

#define GOLDEN_STREAM 777u

/* sums[k] of x[count], doubles or floats. */
static void golden_sketch(const void *x, int doubles, size_t count, size_t k, double *sums)
{
    const float *f = (const float *)x;
    const double *d = (const double *)x;
    size_t j;
    memset(sums, 0, k * sizeof *sums);
    for (j = 0; j < count; j++) {
        uint32_t bits = formula_bits(GOLDEN_STREAM, (uint32_t)j);
        double v = doubles ? d[j] : (double)f[j];
        sums[(bits >> 16) * k >> 16] += bits & 1 ? -v : v;
    }
}

/* |x - golden| / |golden| from the sums of both; golden's are in units of its norm. */
static double golden_apart(const double *sums, double norm, const double *golden, size_t k)
{
    double square = 0;
    size_t b;
    for (b = 0; b < k; b++) {
        double e = sums[b] / norm - golden[b];
        square += e * e;
    }
    return sqrt(square);
}
#endif
