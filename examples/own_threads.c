/* own_threads: the library starts no threads; a hook runs its loops on yours. Here: a small pool of
   POSIX threads that take the next index under a lock.

       build/own_threads [workers]

   Prints how many of ResNet18's 11 million gradients differ in any bit between this pool and one
   plain thread: 0, whatever the number of workers. */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200112L
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"

#include <pthread.h>
#include <stdlib.h>

#define SIDE  64
#define BATCH 8
#define MOST  64

typedef struct pool {
    pthread_t thread[MOST];
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    size_t workers, named, count, next, running;
    qnet_task task;
    void *arg;
    int quit;
} pool;

/* Takes indices until none is left; the lock is held but during the task. */
static void take(pool *p, size_t worker)
{
    while (p->next < p->count) {
        size_t index = p->next++;
        pthread_mutex_unlock(&p->lock);
        p->task(p->arg, index, worker);
        pthread_mutex_lock(&p->lock);
    }
}

static void *thread_main(void *user)
{
    pool *p = (pool *)user;
    size_t worker;
    pthread_mutex_lock(&p->lock);
    worker = ++p->named; /* 0 is the caller's thread */
    while (!p->quit) {
        if (p->next < p->count) {
            p->running++;
            take(p, worker);
            if (--p->running == 0) pthread_cond_signal(&p->done);
        } else {
            pthread_cond_wait(&p->work, &p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* The hook: returns when every index has been done. */
static void run(void *user, size_t count, qnet_task task, void *arg)
{
    pool *p = (pool *)user;
    pthread_mutex_lock(&p->lock);
    p->task = task;
    p->arg = arg;
    p->next = 0;
    p->count = count;
    pthread_cond_broadcast(&p->work);
    take(p, 0);
    while (p->running > 0) pthread_cond_wait(&p->done, &p->lock);
    p->count = 0;
    pthread_mutex_unlock(&p->lock);
}

/* One forward and backward pass; the gradients of all weights, to be freed. NULL on failure. */
static qnet_real *gradients(const qnet_hooks *hooks, size_t *count)
{
    qnet_context *ctx = NULL;
    qnet_resnet *net = NULL;
    qnet_resnet_config config;
    qnet_real *x = (qnet_real *)malloc(BATCH * SIDE * SIDE * 3 * sizeof(qnet_real)), *copy = NULL;
    qnet_real dlogits[BATCH * QNET_CLASSES];
    size_t i;
    qnet_resnet_config_init(&config);
    config.height = config.width = SIDE;
    config.batch = BATCH;
    for (i = 0; x && i < BATCH * SIDE * SIDE * 3; i++) x[i] = (qnet_real)(i * 7919 % 1009) / 1009;
    for (i = 0; i < BATCH * QNET_CLASSES; i++) dlogits[i] = (qnet_real)(i % 3) - 1;
    if (x && qnet_context_create(hooks, &ctx) == QNET_OK &&
        qnet_resnet_create(ctx, &config, &net) == QNET_OK) {
        qnet_resnet_init(net, 1);
        *count = net->table->trainable;
        copy = (qnet_real *)malloc(*count * sizeof(qnet_real));
        if (copy && qnet_resnet_forward(net, x, BATCH, 1, NULL, NULL) == QNET_OK &&
            qnet_resnet_backward(net, x, BATCH, dlogits) == QNET_OK)
            memcpy(copy, net->gradients, *count * sizeof(qnet_real));
    }
    if (!ctx || qnet_last_error(ctx)[0]) fprintf(stderr, "own_threads: %s\n", ctx ? qnet_last_error(ctx) : "no memory");
    qnet_resnet_destroy(net);
    if (ctx) qnet_context_destroy(ctx);
    free(x);
    return copy;
}

int main(int argc, char **argv)
{
    static pool p; /* all zero */
    qnet_hooks hooks;
    qnet_real *alone, *pooled;
    size_t count = 0, differ = 0, i, workers = argc > 1 ? (size_t)atoi(argv[1]) : 4;
    const int most = workers < 1 || workers > MOST ? 0 : 1;
    const int bad = usage(argc, argv, 0, most, "own_threads [WORKERS, 1 to 64]");
    if (bad >= 0) return bad;
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.work, NULL);
    pthread_cond_init(&p.done, NULL);
    while (p.workers + 1 < workers &&
           pthread_create(&p.thread[p.workers], NULL, thread_main, &p) == 0)
        p.workers++;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1;
    alone = gradients(&hooks, &count);
    hooks.parallel.user = &p;
    hooks.parallel.run = run;
    hooks.parallel.workers = p.workers + 1;
    pooled = gradients(&hooks, &count);
    for (i = 0; alone && pooled && i < count; i++)
        differ += memcmp(&alone[i], &pooled[i], sizeof alone[i]) != 0;
    pthread_mutex_lock(&p.lock);
    p.quit = 1;
    pthread_cond_broadcast(&p.work);
    pthread_mutex_unlock(&p.lock);
    for (i = 0; i < p.workers; i++) pthread_join(p.thread[i], NULL);
    printf("%lu workers, %lu gradients, %lu differ\n", (unsigned long)(p.workers + 1),
           (unsigned long)count, (unsigned long)differ);
    i = !alone || !pooled || differ;
    free(alone);
    free(pooled);
    return (int)i;
}
