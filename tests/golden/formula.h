/* formula.h: numbers that C and Python can both make, so that a test needs no weights file, and
   sketches, so that it need not store a tensor to know how far another one is from it. The same in
   Python: networks.py. */
#ifndef FORMULA_H
#define FORMULA_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* A hash of the tensor's index i and the element's index j. */
static uint32_t formula_bits(uint32_t i, uint32_t j)
{
    uint32_t h = (uint32_t)((uint64_t)(i * 1000003u + j) * 2654435761u & 0xffffffffu);
    h ^= h >> 15;
    h = (uint32_t)((uint64_t)h * 2246822519u & 0xffffffffu);
    h ^= h >> 13;
    return h;
}

/* The hash in [0, 1). */
static double formula(uint32_t i, uint32_t j)
{
    return (double)formula_bits(i, j) / 4294967296.0;
}
#endif
