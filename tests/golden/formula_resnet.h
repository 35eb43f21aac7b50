/* formula_resnet.h: the weights of fill_resnet in networks.py. */
#ifndef FORMULA_RESNET_H
#define FORMULA_RESNET_H
#include "formula.h"

/* The place in a file, [out][in][kh][kw], of element j of a convolution weight that lies in memory
   as [kh][kw][in][out]. */
static size_t formula_file_index(const size_t shape[4], size_t j)
{
    size_t o = j % shape[3], c = j / shape[3] % shape[2];
    size_t x = j / (shape[3] * shape[2]) % shape[1], y = j / (shape[3] * shape[2] * shape[1]);
    return ((o * shape[2] + c) * shape[0] + y) * shape[1] + x;
}

/* Each number is rounded to float, so that both builds of the network hold the same. They are kept for the next
   network of this size, as they take longer than its forward pass. */
static void formula_resnet(qnet_resnet *net)
{
    static qnet_real *kept;
    static size_t kept_count;
    const size_t bytes = net->table->total * sizeof *kept;
    int i;
    if (kept_count == net->table->total) {
        memcpy(net->weights, kept, bytes);
        return;
    }
    for (i = 0; i < net->table->count; i++) {
        const qnet_param *p = &net->table->entries[i];
        double fan_in = p->ndim == 4 ? (double)(p->shape[0] * p->shape[1] * p->shape[2]) : 1;
        size_t j;
        for (j = 0; j < p->count; j++) {
            size_t k = p->ndim == 4 ? formula_file_index(p->shape, j) : j;
            double u = formula((uint32_t)i, (uint32_t)k), v;
            if (p->ndim == 4) v = (u - .5) * 2 * sqrt(6 / fan_in);
            else if (p->ndim == 2) v = (u - .5) * .2;
            else if (strcmp(p->name, "fc.bias") == 0) v = u - .5;
            else if (strstr(p->name, ".weight")) v = .75 + .5 * u;
            else if (strstr(p->name, "running_mean")) v = (u - .5) * .5;
            else if (strstr(p->name, "running_var")) v = .5 + u;
            else if (strstr(p->name, "tracked")) v = 0;
            else v = (u - .5) * .4;
            net->weights[p->offset + j] = (qnet_real)(float)v;
        }
    }
    free(kept);
    kept = (qnet_real *)malloc(bytes);
    kept_count = kept ? net->table->total : 0;
    if (kept) memcpy(kept, net->weights, bytes);
}
#endif
