/* golden.h: how networks.h holds the tensors of PyTorch, and the distance of one of ours to them.

   A tensor's numbers x[0..count) go, each with a random sign, to one of K sums (Charikar, Chen &
   Farach-Colton 2002): sum[b] = the sum of sign_j x[j] over the j whose bucket is b. The sums of a
   difference are the difference of the sums, and |sums| is |x| with a relative standard deviation
   of 1/sqrt(2 K). So a few sums of PyTorch's float64 tensor tell how far all of ours is from it.
   They are kept as multiples of 2^-45 of the tensor's norm; K is 24 for outputs and gradients. */
#ifndef GOLDEN_H
#define GOLDEN_H
#include "formula.h"
#include <string.h>

typedef struct golden_tensor {
    const char *pass;  /* "eval", "train": outputs in that mode; "grad", "stat"; "weights", "swa" */
    const char *name;  /* as plain_resnet.h, plain_scan.h or the parameter table has it */
    size_t count;
    double norm;       /* of the float64 tensor */
    double torch;      /* relative distance of PyTorch's own float32 tensor, over all its numbers */
    const char *sums;  /* eight letters for each sum */
} golden_tensor;

/* 0..63 for 0-9, A-Z, a-z, + and -. */
static int golden_digit(char c)
{
    static const char letters[] =
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-";
    const char *at = strchr(letters, c);
    return c && at ? (int)(at - letters) : -1;
}

/* The number of `length` letters, most significant first. */
static double golden_number(const char *text, int length)
{
    double v = 0;
    while (length-- > 0) v = v * 64 + golden_digit(*text++);
    return v;
}
#endif
