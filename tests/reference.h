/* reference.h: what the functions of qnet.h are compared with, as plain as their definitions. Include
   qnet.h first. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include <math.h>

/* A gradient against central differences: where it is worst, and by how much. */
typedef double (*scalar_function)(void *user);
typedef struct gradient_error {
    double error; /* |numeric - analytic| / max(1e-3 * largest gradient, |numeric| + |analytic|) */
    size_t at;    /* index into x */
    double analytic, numeric;
} gradient_error;

/* numeric = (f(x + h) - f(x - h)) / ((x + h) - (x - h)), the steps as they were rounded, for each of
   x[count], which is restored. Its error is about h^2 f''' / 6 + eps |f| / h, so h near the cube root
   of eps is best: 1e-5 in double. The floor under the denominator keeps numbers that are all rounding
   from being reported as wrong. Where something is not finite, error is HUGE_VAL. */
static inline gradient_error worst_gradient(scalar_function f, void *user, qnet_real *x,
                                            const qnet_real *gradient, size_t count, double step)
{
    gradient_error worst = {-1, 0, 0, 0};
    double largest = 0;
    size_t i;
    for (i = 0; i < count; i++)
        if (fabs((double)gradient[i]) > largest) largest = fabs((double)gradient[i]);
    for (i = 0; i < count; i++) {
        const qnet_real kept = x[i];
        const qnet_real above = (qnet_real)((double)kept + step), below = (qnet_real)((double)kept - step);
        gradient_error e = {0, 0, 0, 0};
        double up, scale;
        x[i] = above;
        up = f(user);
        x[i] = below;
        e.numeric = (up - f(user)) / ((double)above - (double)below);
        x[i] = kept;
        e.at = i;
        e.analytic = (double)gradient[i];
        scale = fmax(1e-3 * largest, fabs(e.numeric) + fabs(e.analytic));
        e.error = scale > 0 ? fabs(e.numeric - e.analytic) / scale : 0;
        if (!(fabs(e.numeric) < HUGE_VAL) || !(fabs(e.analytic) < HUGE_VAL)) e.error = HUGE_VAL;
        if (e.error > worst.error) worst = e;
    }
    return worst;
}

#endif
