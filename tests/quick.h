/* quick.h: numbers for tests that need many and are not about how they are drawn. qnet_rng_normal takes 70 ns. */
#ifndef QUICK_H
#define QUICK_H

/* Independent, with mean 0 and variance 1, nearly normal: the sum of four uniform numbers (of splitmix64). */
static inline double quick_normal(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return ((double)(z & 65535) + (double)(z >> 16 & 65535) + (double)(z >> 32 & 65535) + (double)(z >> 48) - 131070) /
           37837.23;
}

/* Weights of a ResNet18 like those of qnet_resnet_init, which draws 11 million normal numbers. */
static inline void quick_weights(qnet_resnet *net)
{
    uint64_t state = 1;
    for (int i = 0; i < net->table->count; i++) {
        const qnet_param *p = &net->table->entries[i];
        qnet_real *w = net->weights + p->offset;
        const double std = p->ndim == 4 ? sqrt(2. / (double)(p->shape[0] * p->shape[1] * p->shape[3])) : .025;
        const int norm = p->ndim < 4 && strncmp(p->name, "fc.", 3) != 0;
        const int one = strstr(p->name, ".weight") || strstr(p->name, "_var");
        for (size_t k = 0; k < p->count; k++) w[k] = (qnet_real)(norm ? one : std * quick_normal(&state));
    }
}
#endif
