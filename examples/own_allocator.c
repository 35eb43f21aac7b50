/* own_allocator: all memory of the library comes from a hook. This one hands out pieces of one
   static block, never gives any back, and counts.

       build/own_allocator

   Prints how often the library asked for memory during 10 training steps of ResNet18:
   0, for a network asks once, when it is made. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"

#include <stdlib.h>

#define SIDE  32
#define BATCH 4

typedef struct pool {
    unsigned char *base;
    size_t size, used;
    long calls;
} pool;

static void *pool_alloc(void *user, size_t size, size_t align)
{
    pool *p = (pool *)user;
    size_t past = (size_t)((uintptr_t)(p->base + p->used) % align);
    size_t start = p->used + (past ? align - past : 0);
    p->calls++;
    if (start > p->size || size > p->size - start) return NULL; /* the library says so, and stops */
    p->used = start + size;
    return p->base + start;
}

static void pool_free(void *user, void *ptr, size_t size)
{
    (void)user; /* all goes at once, with the pool */
    (void)ptr;
    (void)size;
}

int main(int argc, char **argv)
{
    static unsigned char block[512u << 20]; /* touched only as far as it is used */
    static qnet_real x[BATCH * SIDE * SIDE * 3];
    pool p = {block, sizeof block, 0, 0};
    const int label[BATCH] = {0, 1, 0, 1};
    qnet_real logits[BATCH * QNET_CLASSES];
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_resnet_config config;
    qnet_resnet *net;
    qnet_status status;
    double loss = 0;
    long before;
    size_t i;
    const int bad = usage(argc, argv, 0, 0, "own_allocator\n\nTen training steps in one block of memory.");
    if (bad >= 0) return bad;
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &p;
    hooks.allocator.alloc = pool_alloc;
    hooks.allocator.free = pool_free;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return fputs("own_allocator: no memory\n", stderr), 1;
    qnet_resnet_config_init(&config);
    config.height = config.width = SIDE;
    config.batch = BATCH;
    status = qnet_resnet_create(ctx, &config, &net);
    if (status != QNET_OK) {
        fprintf(stderr, "own_allocator: %s\n", qnet_last_error(ctx));
        return 1;
    }
    printf("network: %.1f MB in %ld calls\n", (double)p.used / 1e6, p.calls);
    qnet_resnet_init(net, 1);
    for (i = 0; i < sizeof x / sizeof x[0]; i++) x[i] = (qnet_real)(i % 17) / 17;
    before = p.calls;
    for (i = 0; i < 10 && status == QNET_OK; i++) {
        size_t k;
        status = qnet_resnet_forward(net, x, BATCH, 1, logits, NULL);
        if (status == QNET_OK)
            status = qnet_cross_entropy(ctx, BATCH, QNET_CLASSES, logits, label, &loss, logits);
        if (status == QNET_OK) status = qnet_resnet_backward(net, x, BATCH, logits);
        for (k = 0; k < net->table->trainable; k++) /* plain gradient descent */
            net->weights[k] -= (qnet_real)1e-3 * net->gradients[k];
    }
    if (status != QNET_OK) fprintf(stderr, "own_allocator: %s\n", qnet_last_error(ctx));
    printf("loss after 10 steps: %.4f\n", loss);
    printf("calls during 10 steps: %ld\n", p.calls - before);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
