/* formula.h: numbers that C and Python can both make, so that a test needs no weights file.
   formula(i, j) is in [0, 1): a hash of the tensor's index i and the element's index j. */
#ifndef FORMULA_H
#define FORMULA_H
#include <stdint.h>

static double formula(uint32_t i, uint32_t j)
{
    uint32_t h = (uint32_t)((uint64_t)(i * 1000003u + j) * 2654435761u & 0xffffffffu);
    h ^= h >> 15;
    h = (uint32_t)((uint64_t)h * 2246822519u & 0xffffffffu);
    h ^= h >> 13;
    return (double)h / 4294967296.0;
}
#endif
