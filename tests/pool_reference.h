/* Max pooling by its definition, for what a qnet__maxpool describes. */
#ifndef POOL_REFERENCE_H
#define POOL_REFERENCE_H

/* Every output over its nine taps. The window is clipped to the image, which is what padding with
   -infinity means. A later tap wins only if it is larger, or NaN. */
static void pool_forward_reference(const qnet__maxpool *pool, size_t batch)
{
    const size_t n = pool->channels;
    for (size_t at = 0; at < batch * pool->out_height * pool->out_width * n; at++) {
        const size_t c = at % n, ox = at / n % pool->out_width, row = at / n / pool->out_width;
        const size_t image = row / pool->out_height, oy = row % pool->out_height;
        const qnet__prologue *s = &pool->x;
        qnet_real best = 0;
        int winner = -1;
        for (int tap = 0; tap < 9; tap++) {
            const size_t iy = 2 * oy + (size_t)(tap / 3) - 1, ix = 2 * ox + (size_t)(tap % 3) - 1;
            const size_t from = ((image * pool->height + iy) * pool->width + ix) * n + c;
            qnet_real v;
            if (iy >= pool->height || ix >= pool->width) continue; /* -1 is large */
            v = s->x[from];
            if (pool->sign != NULL) v *= pool->sign[c];
            if (s->kind == QNET__PROLOGUE_NORMALISED) v = (v - s->mean[c]) * s->scale[c] + s->beta[c];
            if (winner < 0 || v > best || v != v) {
                best = v, winner = tap;
                pool->y[at] = pool->sign != NULL ? s->x[from] : v;
            }
        }
        if (s->kind == QNET__PROLOGUE_NORMALISED && best < 0) pool->y[at] = 0;
        if (pool->argmax != NULL) pool->argmax[at] = (uint8_t)winner;
    }
}

/* Forward y[at] = x[the tap that won], so dx[the tap that won] += dy[at]. */
static inline void pool_backward_reference(const qnet__maxpool *pool, size_t batch)
{
    const size_t n = pool->channels, row = pool->out_width * n;
    memset(pool->dx, 0, batch * pool->height * pool->width * n * sizeof *pool->dx);
    for (size_t at = 0; at < batch * pool->out_height * row; at++) {
        const size_t image = at / row / pool->out_height, oy = at / row % pool->out_height;
        const size_t iy = 2 * oy + pool->winner[at] / 3 - 1;
        const size_t ix = 2 * (at / n % pool->out_width) + pool->winner[at] % 3 - 1;
        pool->dx[((image * pool->height + iy) * pool->width + ix) * n + at % n] += pool->dy[at];
    }
}

#endif
