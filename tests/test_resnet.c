/* test_resnet.c: the image-level model against plain_resnet.h and central differences, and for its
   promises: one allocation, the same bits for any number of workers and any batch. Against PyTorch:
   test_parity.c. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "quick.h"
#include "golden/formula_resnet.h"
#include "plain_resnet.h"

/* ---- hooks ---- */

typedef struct counter { long count, live, fail_at; size_t bytes; } counter;
static void *counting_alloc(void *user, size_t size, size_t align)
{
    counter *c = (counter *)user;
    char *raw, *p;
    if (c->count++ == c->fail_at) return NULL;
    raw = (char *)malloc(size + align + sizeof raw);
    if (!raw) return NULL;
    p = raw + sizeof raw;
    p += (align - (size_t)p % align) % align;
    memcpy(p - sizeof raw, &raw, sizeof raw);
    c->live++;
    c->bytes += size;
    return p;
}
static void counting_free(void *user, void *ptr, size_t size)
{
    counter *c = (counter *)user;
    char *raw;
    memcpy(&raw, (char *)ptr - sizeof raw, sizeof raw);
    c->live--;
    c->bytes -= size;
    free(raw);
}

/* Runs the tasks one by one in a shuffled order, each as the next of the workers. */
static void shuffled_run(void *user, size_t count, qnet_task task, void *arg)
{
    size_t workers = *(size_t *)user, i, step = count / 2 + 1;
    while (count > 1) {
        size_t a = count, b = step;
        while (b) { size_t r = a % b; a = b; b = r; }
        if (a == 1) break;
        step++;
    }
    for (i = 0; i < count; i++) task(arg, (i * step + 1) % count, i % workers);
}

static qnet_context *context(counter *c, size_t *workers, qnet_cpu cpu)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    if (c) {
        memset(c, 0, sizeof *c);
        c->fail_at = -1;
        hooks.allocator.user = c;
        hooks.allocator.alloc = counting_alloc;
        hooks.allocator.free = counting_free;
    }
    if (workers) {
        hooks.parallel.user = workers;
        hooks.parallel.run = shuffled_run;
        hooks.parallel.workers = *workers;
    }
    hooks.cpu = cpu;
    hooks.threads = 1; /* test_workers asks for more */
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    return ctx;
}

/* ---- nets and inputs by formula ---- */

static qnet_resnet *make_net(qnet_context *ctx, int h, int w, int batch, int training)
{
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_resnet_config_init(&config);
    config.height = h;
    config.width = w;
    config.batch = batch;
    config.training = training;
    CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
    return net;
}

static qnet_real *numbers(uint32_t i, size_t count, double scale)
{
    qnet_real *x = (qnet_real *)malloc(count * sizeof *x);
    size_t j;
    for (j = 0; j < count; j++) x[j] = (qnet_real)((formula(i, (uint32_t)j) - .5) * scale);
    return x;
}

/* The same weights each time: drawn once, copied after. */
static qnet_real *kept; /* freed by main */
static void initialise(qnet_resnet *net)
{
    size_t bytes = net->table->total * sizeof(qnet_real);
    if (!kept) {
        kept = (qnet_real *)malloc(bytes);
        quick_weights(net);
        memcpy(kept, net->weights, bytes);
    }
    memcpy(net->weights, kept, bytes);
}

static size_t image_count(int batch, int h, int w) { return (size_t)batch * (size_t)h * (size_t)w * 3; }

/* ---- tests ---- */

static void test_table(void)
{
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    qnet_resnet *net = make_net(ctx, 32, 32, 1, 1);
    const qnet_param_table *t = net->table;
    const qnet_param *p;
    size_t at = 0;
    int i;
    CHECK(strcmp(t->network, "resnet18") == 0);
    CHECK(t->count == 122);
    CHECK(t->trainable == 11177538); /* torchvision: 11,689,512 with 1000 classes */
    CHECK(t->total == 11177538 + 2 * 4800 + 20);
    for (i = 0; i < t->count; i++) {
        CHECK(t->entries[i].offset == at);
        CHECK(t->entries[i].trainable == (at < t->trainable));
        CHECK(qnet_param_find(t, t->entries[i].name) == i);
        at += t->entries[i].count;
    }
    CHECK(at == t->total);
    p = &t->entries[0];
    CHECK(strcmp(p->name, "conv1.weight") == 0 && p->ndim == 4 && p->layout == QNET_LAYOUT_HWIO);
    CHECK(p->shape[0] == 7 && p->shape[1] == 7 && p->shape[2] == 3 && p->shape[3] == 64);
    CHECK(qnet_param_find(t, "layer3.0.downsample.0.weight") >= 0);
    CHECK(qnet_param_find(t, "layer3.0.downsample.1.running_var") >= 0);
    CHECK(qnet_param_find(t, "layer1.0.downsample.0.weight") < 0);
    CHECK(qnet_param_find(t, "layer4.1.bn2.num_batches_tracked") >= 0);
    p = &t->entries[qnet_param_find(t, "fc.weight")];
    CHECK(p->ndim == 2 && p->shape[0] == 2 && p->shape[1] == 512 && p->layout == QNET_LAYOUT_PLAIN);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
}

/* f = sum d * logits along a random direction of each unit's weights, gamma and beta (and of fc),
   by central differences. Only in double: with a step that is large against float's rounding, many
   of the 1e5 ReLUs and max pools cross their kink. At 1e-7 some do (errors to 4e-4 of the norm), at
   1e-8 and for this input none does; rounding is then 1e-15 / 1e-8. */
static void test_gradient(void)
{
#if QNET__REAL_IS_DOUBLE
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    const int batch = 2, h = 33, w = 47;
    qnet_resnet *net = make_net(ctx, h, w, batch, 1);
    qnet_real *x = numbers(200, image_count(batch, h, w), 4), *d = numbers(201, (size_t)batch * 2, 1);
    qnet_real *saved = (qnet_real *)malloc(net->table->total * sizeof *saved), logits[4];
    const double step = 1e-8;
    double worst = 0;
    int group, side, i;

    formula_resnet(net);
    memcpy(saved, net->weights, net->table->total * sizeof *saved);
    CHECK_OK(ctx, qnet_resnet_forward(net, x, batch, 1, logits, NULL));
    CHECK_OK(ctx, qnet_resnet_backward(net, x, batch, d));
    for (group = 0; group <= 20; group++) {
        int first = 3 * group, last = group < 20 ? first + 3 : first + 2;
        size_t from = net->table->entries[first].offset, j;
        size_t to = net->table->entries[last - 1].offset + net->table->entries[last - 1].count;
        double analytic = 0, norm = 0, f[2], error;
        for (j = from; j < to; j++) {
            double r = formula(400, (uint32_t)j) - .5;
            analytic += (double)net->gradients[j] * r;
            norm += (double)net->gradients[j] * (double)net->gradients[j];
        }
        for (side = 0; side < 2; side++) {
            for (j = from; j < to; j++) {
                double r = formula(400, (uint32_t)j) - .5;
                net->weights[j] = (qnet_real)((double)saved[j] + (side ? step : -step) * r);
            }
            CHECK_OK(ctx, qnet_resnet_forward(net, x, batch, 1, logits, NULL));
            f[side] = 0;
            for (i = 0; i < batch * 2; i++) f[side] += (double)logits[i] * (double)d[i];
        }
        memcpy(net->weights + from, saved + from, (to - from) * sizeof *saved);
        error = fabs((f[1] - f[0]) / (2 * step) - analytic) / sqrt(norm);
        worst = error > worst ? error : worst;
        CHECK(norm > 0);
        CHECK_NEAR(error, 0, 1e-7);
    }
    if (getenv("VERBOSE")) printf("central differences: worst %g\n", worst);
    free(saved);
    free(x);
    free(d);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
#endif
}

static void check_workers(int batch, int h, int w, int count)
{
    static const size_t workers[4] = {1, 3, 2, 8};
    qnet_real *x = numbers(200, image_count(batch, h, w), 4), *d = numbers(201, (size_t)batch * 2, 1);
    qnet_real *first = NULL, logits[4][42];
    int i;
    memset(logits, 0, sizeof logits);
    for (i = 0; i < count; i++) {
        size_t n = workers[i], total, trainable;
        qnet_context *ctx = context(NULL, &n, QNET_CPU_AUTO);
        qnet_resnet *net = make_net(ctx, h, w, batch, 1);
        total = net->table->total;
        trainable = net->table->trainable;
        initialise(net);
        CHECK_OK(ctx, qnet_resnet_forward(net, x, batch, 1, logits[i], NULL));
        CHECK_OK(ctx, qnet_resnet_backward(net, x, batch, d));
        if (!first) {
            first = (qnet_real *)malloc((total + trainable) * sizeof *first);
            memcpy(first, net->weights, total * sizeof *first);
            memcpy(first + total, net->gradients, trainable * sizeof *first);
        }
        CHECK(memcmp(logits[i], logits[0], sizeof logits[0]) == 0);
        CHECK(memcmp(first, net->weights, total * sizeof *first) == 0); /* running statistics */
        CHECK(memcmp(first + total, net->gradients, trainable * sizeof *first) == 0);
        qnet_resnet_destroy(net);
        qnet_context_destroy(ctx);
    }
    free(first);
    free(x);
    free(d);
}

/* Few tiles, where workers share Winograd's inputs; and so many that each has its own. */
static void test_workers(void)
{
    check_workers(3, 33, 47, 4);
    if (!QNET__REAL_IS_DOUBLE) check_workers(21, 128, 128, 2);
}

/* The same bits; nearly the same numbers where a BLAS works them out. */
static int alike(const qnet_real *a, const qnet_real *b, size_t n)
{
    size_t i;
    for (i = 0; i < n && TEST_BLAS; i++)
        if (!(fabs((double)a[i] - (double)b[i]) <= 1e-5 * (1 + fabs((double)b[i])))) return 0;
    return TEST_BLAS || memcmp(a, b, n * sizeof *a) == 0;
}

/* In eval mode an image has the same bits in any batch, any place of it, and both kinds of net. */
static void test_batch_independence(void)
{
    int cpu;
    for (cpu = QNET_CPU_AUTO; cpu <= QNET_CPU_SCALAR; cpu++) {
        const int batch = 5, h = 33, w = 47;
        qnet_context *ctx = context(NULL, NULL, (qnet_cpu)cpu);
        qnet_resnet *net = make_net(ctx, h, w, batch, 0), *big = make_net(ctx, h, w, batch, 1);
        qnet_real *x = numbers(200, image_count(batch, h, w), 4);
        qnet_real all[10], one[10], features[5 * 512], feature[512];
        int b;
        CHECK(net->bytes < big->bytes);
        CHECK(net->gradients == NULL && big->gradients != NULL);
        formula_resnet(net);
        formula_resnet(big);
        CHECK_OK(ctx, qnet_resnet_forward(net, x, batch, 0, all, features));
        CHECK_OK(ctx, qnet_resnet_forward(big, x, batch, 0, one, NULL));
        CHECK(memcmp(all, one, sizeof all) == 0);
        for (b = 0; b < batch; b++) {
            CHECK_OK(ctx, qnet_resnet_forward(net, x + image_count(b, h, w), 1, 0, one, feature));
            CHECK(alike(all + 2 * b, one, 2));
            CHECK(alike(features + 512 * b, feature, 512));
        }
        CHECK_OK(ctx, qnet_resnet_forward(net, x + image_count(2, h, w), 3, 0, one, NULL));
        CHECK(alike(all + 4, one, 6));
        free(x);
        qnet_resnet_destroy(net);
        qnet_resnet_destroy(big);
        qnet_context_destroy(ctx);
    }
}

/* An image has the same bits in all networks whose largest batch is 16 or more. */
static void test_networks_of_other_batches(void)
{
    static const int side[] = {64, 96, 112, 128}, batch[] = {16, 24, 64, 130};
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    qnet_real first[512], feature[512];
    size_t i, j;
    for (i = 0; i < 4; i++)
        for (j = 0; j < 4; j++) {
            qnet_resnet *net = make_net(ctx, side[i], side[i], batch[j], j % 2);
            qnet_real *x = numbers(200, image_count(1, side[i], side[i]), 4);
            formula_resnet(net);
            CHECK_OK(ctx, qnet_resnet_forward(net, x, 1, 0, NULL, j == 0 ? first : feature));
            CHECK(j == 0 || memcmp(first, feature, sizeof first) == 0);
            free(x);
            qnet_resnet_destroy(net);
        }
    qnet_context_destroy(ctx);
}

static void test_memory(void)
{
    counter c;
    qnet_context *ctx = context(&c, NULL, QNET_CPU_AUTO);
    qnet_real *x = numbers(200, image_count(2, 64, 40), 4), d[4] = {1, 0, 0, -1};
    qnet_resnet_config config;
    qnet_resnet *net = (qnet_resnet *)&c;
    long before = c.count;

    qnet_resnet_config_init(&config);
    CHECK(config.height == 224 && config.width == 224 && config.channels == 3 &&
          config.classes == 2 && config.batch == 64 && config.training == 1);
    config.height = 64;
    config.width = 40;
    config.batch = 2;
    c.fail_at = c.count;
    CHECK_FAILS(ctx, qnet_resnet_create(ctx, &config, &net), QNET_ERROR_MEMORY, "bytes for ResNet18");
    CHECK(net == (qnet_resnet *)&c);
    c.fail_at = -1;
    before = c.count;
    CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
    CHECK(c.count == before + 1);
    CHECK(net->bytes == qnet_resnet_bytes(ctx, &config));
    initialise(net);
    c.fail_at = c.count; /* nothing below may ask for memory */
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 2, 1, NULL, NULL));
    CHECK_OK(ctx, qnet_resnet_backward(net, x, 2, d));
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 1, 1, NULL, NULL));
    CHECK_OK(ctx, qnet_resnet_backward(net, x, 1, d));
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 2, 0, NULL, NULL));
    CHECK(c.count == before + 1);
    qnet_resnet_destroy(net);
    qnet_resnet_destroy(NULL);
    CHECK(c.live == 1); /* the context */
    qnet_context_destroy(ctx);
    CHECK(c.live == 0 && c.bytes == 0);
    free(x);
}

/* No more than a network took when this was written, and 1 %: with two workers, in single precision. */
static void test_bytes(void)
{
    static const struct { int size, batch, training; double megabytes; } most[] = {
        {224, 64, 1, 833.6}, {112, 64, 1, 294.2}, {64, 64, 1, 162.1}, {224, 16, 1, 286.5},
        {224, 64, 0, 234.4}, {112, 64, 0, 103.7}, {64, 64, 0, 70.2},  {224, 16, 0, 103.2}};
    qnet_hooks hooks;
    qnet_context *ctx;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 2;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) exit(2);
    for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
        qnet_resnet_config config;
        qnet_resnet_config_init(&config);
        config.height = config.width = most[i].size;
        config.batch = most[i].batch;
        config.training = most[i].training;
        CHECK(1e-6 * (double)qnet_resnet_bytes(ctx, &config) <= 1.01 * most[i].megabytes);
    }
    qnet_context_destroy(ctx);
}

static void test_bad_input(void)
{
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    qnet_resnet *net = make_net(ctx, 32, 32, 2, 1), *frozen = make_net(ctx, 32, 32, 2, 0), *none = NULL;
    qnet_real *x = numbers(200, image_count(2, 32, 32), 4), d[4] = {1, 0, 0, -1}, logits[4] = {5, 5, 5, 5};
    qnet_resnet_config config;
    int i;

    for (i = 0; i < 10; i++) {
        static const char *const part[10] = {"height is 31, expected 32 to 8192", "width is 0, expected 32 to 8192", "9000", "channels", "channels",
                                             "classes", "batch", "batch", "-5", "classes"};
        qnet_resnet_config_init(&config);
        if (i == 0) config.height = 31;
        if (i == 1) config.width = 0;
        if (i == 2) config.width = 9000;
        if (i == 3) config.channels = 0;
        if (i == 4) config.channels = INT_MAX;
        if (i == 5) config.classes = 0;
        if (i == 6) config.batch = 0;
        if (i == 7) config.batch = INT_MAX;
        if (i == 8) config.height = -5;
        if (i == 9) config.classes = INT_MAX;
        CHECK_FAILS(ctx, qnet_resnet_create(ctx, &config, &none), QNET_ERROR_ARGUMENT, part[i]);
        CHECK(none == NULL);
        CHECK(qnet_resnet_bytes(ctx, &config) == 0);
    }
    CHECK(qnet_resnet_create(ctx, NULL, &none) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_resnet_create(ctx, &config, NULL) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_resnet_create(NULL, &config, &none) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_resnet_bytes(ctx, NULL) == 0);

    initialise(net);
    CHECK(qnet_resnet_forward(NULL, x, 1, 0, NULL, NULL) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_resnet_forward(net, NULL, 1, 0, NULL, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_resnet_forward(net, x, 0, 0, logits, NULL), QNET_ERROR_ARGUMENT, "batch is 0, expected 1 to 2");
    CHECK_FAILS(ctx, qnet_resnet_forward(net, x, 3, 0, logits, NULL), QNET_ERROR_ARGUMENT, "batch is 3, expected 1 to 2");
    CHECK_FAILS(ctx, qnet_resnet_forward(frozen, x, 2, 1, logits, NULL), QNET_ERROR_ARGUMENT, "training = 1");
    CHECK_FAILS(ctx, qnet_resnet_forward(net, x, 1, 1, logits, NULL), QNET_ERROR_ARGUMENT, "variance");
    CHECK(logits[0] == 5 && logits[3] == 5);
    CHECK_FAILS(ctx, qnet_resnet_backward(net, x, 2, d), QNET_ERROR_ARGUMENT, "forward pass");
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 2, 1, NULL, NULL));
    CHECK_FAILS(ctx, qnet_resnet_backward(net, x, 1, d), QNET_ERROR_ARGUMENT, "batch of 2, found 1");
    CHECK_FAILS(ctx, qnet_resnet_backward(net, x, 2, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_resnet_backward(net, NULL, 2, d), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(qnet_resnet_backward(NULL, x, 2, d) == QNET_ERROR_ARGUMENT);
    CHECK_OK(ctx, qnet_resnet_backward(net, x, 2, d));
    CHECK_FAILS(ctx, qnet_resnet_backward(net, x, 2, d), QNET_ERROR_ARGUMENT, "forward pass");
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 2, 1, NULL, NULL));
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 2, 0, NULL, NULL));
    CHECK_FAILS(ctx, qnet_resnet_backward(net, x, 2, d), QNET_ERROR_ARGUMENT, "forward pass");
    free(x);
    qnet_resnet_destroy(net);
    qnet_resnet_destroy(frozen);
    qnet_context_destroy(ctx);
}

/* Momentum 1/k over k batches gives the mean of the batches' statistics. */
static void test_momentum(void)
{
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    qnet_resnet *net = make_net(ctx, 32, 40, 3, 1);
    qnet_real *x = numbers(200, image_count(9, 32, 40), 4);
    const qnet_param *mean = &net->table->entries[qnet_param_find(net->table, "layer2.0.bn1.running_mean")];
    const qnet_param *var = &net->table->entries[qnet_param_find(net->table, "layer2.0.bn1.running_var")];
    const qnet_param *tracked =
        &net->table->entries[qnet_param_find(net->table, "layer2.0.bn1.num_batches_tracked")];
    double sum[128] = {0};
    size_t j;
    int k;
    initialise(net);
    for (j = 0; j < 128; j++) /* momentum 1 replaces what stood there, whatever it was */
        net->weights[mean->offset + j] = net->weights[var->offset + j] = j % 2 ? NAN : INFINITY;
    qnet_resnet_set_momentum(net, 1);
    for (k = 0; k < 3; k++) {
        CHECK_OK(ctx, qnet_resnet_forward(net, x + image_count(3 * k, 32, 40), 3, 1, NULL, NULL));
        for (j = 0; j < 128; j++) {
            sum[j] += (double)net->weights[mean->offset + j] / 3;
            CHECK(net->weights[var->offset + j] > 0 && net->weights[var->offset + j] < 1e6);
        }
    }
    CHECK(net->weights[tracked->offset] == 3);
    for (k = 0; k < 3; k++) {
        qnet_resnet_set_momentum(net, 1.0 / (k + 1));
        CHECK_OK(ctx, qnet_resnet_forward(net, x + image_count(3 * k, 32, 40), 3, 1, NULL, NULL));
    }
    for (j = 0; j < 128; j++) CHECK_NEAR(net->weights[mean->offset + j], sum[j], 1e-6);
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 0, NULL, NULL)); /* eval moves nothing */
    CHECK(net->weights[tracked->offset] == 6);
    free(x);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
}

static void test_init(void)
{
    size_t workers = 3;
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO), *ctx3 = context(NULL, &workers, QNET_CPU_AUTO);
    qnet_resnet *a = make_net(ctx, 32, 32, 1, 0), *b = make_net(ctx3, 32, 32, 1, 0);
    size_t bytes = a->table->total * sizeof(qnet_real), j;
    int i;
    CHECK(a->weights[0] == 0 && a->weights[a->table->total - 1] == 0);
    qnet_resnet_init(a, 5);
    qnet_resnet_init(b, 5);
    CHECK(memcmp(a->weights, b->weights, bytes) == 0);
    qnet_resnet_init(b, 6);
    CHECK(memcmp(a->weights, b->weights, bytes) != 0);
    for (i = 0; i < a->table->count; i++) {
        const qnet_param *p = &a->table->entries[i];
        const qnet_real *v = a->weights + p->offset;
        double sum = 0, square = 0, n = (double)p->count;
        for (j = 0; j < p->count; j++) {
            sum += (double)v[j];
            square += (double)v[j] * (double)v[j];
        }
        if (p->ndim == 4) { /* 5 standard errors of mean and variance */
            double var = 2.0 / (double)(p->shape[0] * p->shape[1] * p->shape[3]);
            CHECK_NEAR(sum / n, 0, 5 * sqrt(var / n));
            CHECK_NEAR(square / n / var, 1, 5 * sqrt(2 / n));
        } else if (strcmp(p->name, "fc.weight") == 0) {
            CHECK_NEAR(square / n, 1.0 / 3 / 512, 5 * 1.0 / 3 / 512 * sqrt(.8 / n));
        } else if (strncmp(p->name, "fc", 2) != 0) {
            int one = p->trainable ? strstr(p->name, ".weight") != NULL : strstr(p->name, "_var") != NULL;
            CHECK(sum == (one ? n : 0));
        }
    }
    qnet_resnet_destroy(a);
    qnet_resnet_destroy(b);
    qnet_context_destroy(ctx);
    qnet_context_destroy(ctx3);
}

/* What CAM reads: the last block's output, until a backward pass uses it up. */
static void test_feature_map(void)
{
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    qnet_resnet *net = make_net(ctx, 48, 33, 2, 1);
    qnet_real *x = numbers(200, image_count(2, 48, 33), 4), d[4] = {1, 0, 0, -1}, features[2 * QNET_FEATURES];
    qnet_tensor map;
    int i;
    CHECK(qnet_resnet_feature_map(net).data == NULL);
    initialise(net);
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 2, 1, NULL, features));
    map = qnet_resnet_feature_map(net);
    CHECK(map.data != NULL && map.ndim == 4 && map.shape[0] == 2 && map.shape[1] == 2 &&
          map.shape[2] == 2 && map.shape[3] == 512);
    for (i = 0; i < 512; i++)
        CHECK_NEAR((map.data[i] + map.data[512 + i] + map.data[1024 + i] + map.data[1536 + i]) / 4, features[i],
                   1e-5 * (1 + fabs((double)features[i])));
    CHECK_OK(ctx, qnet_resnet_backward(net, x, 2, d));
    CHECK(qnet_resnet_feature_map(net).data == NULL);
    free(x);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
}

/* Packed weights give the same bits, follow a second call, and go with the network. */
static void test_pack(void)
{
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    qnet_resnet *net = make_net(ctx, 64, 48, 16, 0), *training = make_net(ctx, 64, 48, 16, 1);
    qnet_real *x = numbers(200, image_count(3, 64, 48), 4), plain[6], packed[6], other[6];
    formula_resnet(net);
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 0, plain, NULL));
    CHECK_OK(ctx, qnet_resnet_pack(net));
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 0, packed, NULL));
    CHECK(memcmp(plain, packed, sizeof plain) == 0);
    CHECK_OK(ctx, qnet_resnet_forward(net, x + image_count(1, 64, 48), 1, 0, packed, NULL));
    CHECK(memcmp(plain + 2, packed, 2 * sizeof *plain) == 0);
    net->weights[0] += 1;
    net->weights[net->table->entries[qnet_param_find(net->table, "layer1.0.conv1.weight")].offset] += 1;
    CHECK_OK(ctx, qnet_resnet_pack(net));
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 0, packed, NULL));
    formula_resnet(training);
    memcpy(training->weights, net->weights, net->table->total * sizeof *net->weights);
    CHECK_OK(ctx, qnet_resnet_forward(training, x, 3, 0, other, NULL));
    CHECK(memcmp(other, packed, sizeof other) == 0 && memcmp(other, plain, sizeof other) != 0);
    CHECK(qnet_resnet_pack(training) == QNET_ERROR_ARGUMENT);
    qnet_resnet_init(net, 9); /* the packed form is dropped */
    memcpy(training->weights, net->weights, net->table->total * sizeof *net->weights);
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 0, packed, NULL));
    CHECK_OK(ctx, qnet_resnet_forward(training, x, 3, 0, other, NULL));
    CHECK(memcmp(other, packed, sizeof other) == 0);
    CHECK(qnet_resnet_pack(NULL) == QNET_ERROR_ARGUMENT);
    free(x);
    qnet_resnet_destroy(net);
    qnet_resnet_destroy(training);
    qnet_context_destroy(ctx);
}

static const char *algorithm_of(const qnet_resnet *net, const char *conv)
{
    int u;
    for (u = 0; u < QNET__CONV_BNS; u++)
        if (strcmp(net->state->conv_bn[u].conv_name, conv) == 0)
            switch (net->state->conv_bn[u].algorithm) {
            case QNET__CONV_LOWERED: return QNET__REFERENCE_ONLY ? "reference" : "BLAS";
            case QNET__CONV_DIRECT: return "direct";
            case QNET__CONV_WINOGRAD_2: return "Winograd 2";
            case QNET__CONV_WINOGRAD: return "Winograd";
            }
    return "none";
}

/* The algorithms that are picked, and tensors of the plan: none leaves the block, and no two that a step
   needs overlap. */
static void test_plan(void)
{
    static const char *const rows[][2] = {{"layer1.0.conv1", "Winograd"}, {"layer2.0.conv1", "Winograd"},
        {"layer2.0.downsample.0", "direct"}, {"layer4.0.conv1", "Winograd"}, {"layer4.1.conv2", "Winograd"}};
    const char *const only = QNET__REFERENCE_ONLY ? "reference" : TEST_BLAS ? "BLAS" : NULL;
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    const int direct = qnet__isa_of(ctx)->winograd == NULL;
    int training, j, k;
    size_t i;
    for (training = 0; training < 2; training++) {
        qnet_resnet *net = make_net(ctx, 224, 224, 16, training);
        qnet__resnet_state r = *net->state;
        qnet__plan plan;
        size_t end;
        memset(&plan, 0, sizeof plan);
        qnet__resnet_maps(&plan, &r);
        end = qnet__plan_place(&plan);
        CHECK(end > 0 && end < net->bytes && plan.count == (training ? QNET__PLAN_TENSORS : 21));
        for (j = 0; j < plan.count; j++) {
            CHECK(plan.tensor[j].at + plan.tensor[j].bytes <= end);
            for (k = 0; k < j; k++) {
                const int together = plan.tensor[j].first <= plan.tensor[k].last &&
                                     plan.tensor[k].first <= plan.tensor[j].last;
                CHECK(!together || plan.tensor[j].at + plan.tensor[j].bytes <= plan.tensor[k].at ||
                      plan.tensor[k].at + plan.tensor[k].bytes <= plan.tensor[j].at);
            }
        }
        CHECK(strcmp(algorithm_of(net, "conv1"), QNET__REFERENCE_ONLY ? "reference" : "direct") == 0);
        for (i = 0; i < sizeof rows / sizeof *rows; i++)
            CHECK(strcmp(algorithm_of(net, rows[i][0]), only != NULL ? only : direct ? "direct" : rows[i][1]) == 0);
        qnet_resnet_destroy(net);
    }
    qnet_context_destroy(ctx);
}

/* A sum of sizes that overflows is no plan. */
static void test_plan_overflow(void)
{
    qnet__plan plan;
    memset(&plan, 0, sizeof plan);
    CHECK(qnet__plan_take(&plan, SIZE_MAX / 2 - 64, 1, 0, 1) == NULL);
    CHECK(qnet__plan_take(&plan, SIZE_MAX / 2 - 64, 1, 2, 3) == NULL);
    CHECK(qnet__plan_take(&plan, SIZE_MAX / 2 - 64, 1, 0, 3) == NULL);
    CHECK(qnet__plan_place(&plan) == SIZE_MAX);
    plan.count = 0;
    CHECK(qnet__plan_take(&plan, SIZE_MAX / 4, 8, 0, 1) == NULL);
    CHECK(qnet__plan_place(&plan) == SIZE_MAX);
}

/* The same with tiles of 2x2, which are for inference with few images only. */
static void test_pack_small_tiles(void)
{
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    qnet_resnet *net = make_net(ctx, 96, 96, 3, 0), *training = make_net(ctx, 96, 96, 3, 1);
    qnet_real *x = numbers(200, image_count(3, 96, 96), 4), plain[6], packed[6];
    int b, small = 0;
    formula_resnet(net);
    for (b = 0; b < QNET__CONV_BNS; b++) {
        small += net->state->conv_bn[b].algorithm == QNET__CONV_WINOGRAD_2;
        CHECK(training->state->conv_bn[b].algorithm != QNET__CONV_WINOGRAD_2);
    }
    CHECK(QNET__REFERENCE_ONLY || TEST_BLAS || qnet__isa_of(ctx)->winograd == NULL || small > 0);
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 0, plain, NULL));
    CHECK_OK(ctx, qnet_resnet_pack(net));
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 0, packed, NULL));
    CHECK(memcmp(plain, packed, sizeof plain) == 0);
    for (b = 0; b < 3; b++) {
        CHECK_OK(ctx, qnet_resnet_forward(net, x + image_count(1, 96, 96) * (size_t)b, 1, 0, packed,
                                          NULL));
        CHECK(memcmp(plain + 2 * b, packed, 2 * sizeof *plain) == 0);
    }
    free(x);
    qnet_resnet_destroy(net);
    qnet_resnet_destroy(training);
    qnet_context_destroy(ctx);
}

/* |a - b| / |b|. */
static double distance(const qnet_real *a, const qnet_real *b, size_t count)
{
    double error = 0, norm = 0;
    size_t j;
    for (j = 0; j < count; j++) {
        const double d = (double)a[j] - (double)b[j];
        error += d * d;
        norm += (double)b[j] * (double)b[j];
    }
    return norm > 0 ? sqrt(error / norm) : HUGE_VAL;
}

/* The fused network against the plain one: logits and features in training and inference, every gradient,
   the running statistics; with rising, falling and constant norms in the stem, images of 3 channels, whose
   stem is fused, and of others, and fewer images than there is room for. */
static void test_plain(void)
{
    static const struct { int height, width, channels, batch; } cases[] = {
        {45, 38, 3, 3}, {45, 38, 1, 3}, {33, 40, 8, 2}, {64, 64, 3, 5}, {128, 96, 3, 2}};
    const double near = QNET__REAL_IS_DOUBLE ? 1e-11 : 2e-4;
    size_t i;
    int c, train;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int h = cases[i].height, w = cases[i].width, channels = cases[i].channels, n = cases[i].batch;
        qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
        qnet_real *x = numbers(300, (size_t)n * (size_t)(h * w * channels), 4), *d = numbers(301, (size_t)n * 2, 1);
        qnet_real logits[2][10], features[5 * QNET_FEATURES], *weights;
        qnet_resnet_config config;
        qnet_resnet *net = NULL;
        plain_net p;
        size_t total, j;
        qnet_resnet_config_init(&config);
        config.height = h, config.width = w, config.channels = channels, config.batch = n + (int)(i % 2);
        CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
        quick_weights(net);
        total = net->table->total;
        for (j = 0; j < (size_t)net->table->count; j++) { /* no norm as it starts */
            const qnet_param *q = &net->table->entries[j];
            size_t k;
            for (k = 0; k < q->count && q->ndim == 1 && q->trainable; k++)
                net->weights[q->offset + k] += (qnet_real)((formula(302, (uint32_t)(q->offset + k)) - .5) * .5);
        }
        for (c = 0; c < 64; c++) /* of bn1 */
            net->weights[net->table->entries[1].offset + (size_t)c] *= (qnet_real)(c == 9 ? 0 : c % 3 ? 1 : -.5);
        weights = (qnet_real *)malloc((total + net->table->trainable) * sizeof *weights);
        memcpy(weights, net->weights, total * sizeof *weights);
        memset(&p, 0, sizeof p);
        p.ctx = ctx, p.table = net->table, p.weights = weights, p.gradients = weights + total;
        for (train = 1; train >= 0; train--) { /* inference by what training has moved */
            CHECK_OK(ctx, qnet_resnet_forward(net, x, n, train, logits[0], features));
            CHECK_OK(ctx, plain_resnet_forward(&p, x, n, h, w, channels, train, logits[1]));
            CHECK_NEAR(distance(logits[0], logits[1], 2 * (size_t)n), 0, near);
            CHECK_NEAR(distance(features, p.features, (size_t)n * QNET_FEATURES), 0, near);
            if (!train) break;
            CHECK_OK(ctx, qnet_resnet_backward(net, x, n, d));
            CHECK_OK(ctx, plain_resnet_backward(&p, d));
            for (c = 0; c < net->table->count; c++) {
                const qnet_param *q = &net->table->entries[c];
                const qnet_real *ours = q->trainable ? net->gradients : net->weights;
                const double e = distance(ours + q->offset, (q->trainable ? p.gradients : weights) + q->offset, q->count);
                /* float: the ReLU of a number near 0 may open in one of them, which 1e-2 of a small map's
                   gradient hangs on; test_parity.c has inputs where none is near 0. */
                if (!CHECK(e <= (QNET__REAL_IS_DOUBLE ? 1e-10 : q->trainable ? .1 : near)))
                    printf("    %s, %d x %d x %d: %.2g\n", q->name, h, w, channels, e);
            }
        }
        plain_free(&p);
        free(weights);
        free(x);
        free(d);
        qnet_resnet_destroy(net);
        qnet_context_destroy(ctx);
    }
}

/* With the running statistics set to those of a batch, inference gives what training has given: the
   two go other ways, above all in the stem, whose norms here rise, fall and are constant. */
static void test_training_and_inference(void)
{
    qnet_context *ctx = context(NULL, NULL, QNET_CPU_AUTO);
    qnet_resnet *net = make_net(ctx, 50, 64, 3, 1);
    qnet_real *x = numbers(301, image_count(3, 50, 64), 4), logits[2][6], features[2][3 * QNET_FEATURES];
    double difference = 0, norm = 0;
    int u, c;
    size_t i;
    initialise(net);
    for (c = 0; c < 64; c++) {
        net->weights[net->table->entries[1].offset + (size_t)c] *= (qnet_real)(c % 7 == 0 ? 0 : c % 3 ? 1 : -.5);
        net->weights[net->table->entries[2].offset + (size_t)c] = (qnet_real)(.2 * (c % 5) - .3);
    }
    qnet_resnet_set_momentum(net, 1); /* running = batch */
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 1, logits[0], features[0]));
    for (u = 0; u < QNET__CONV_BNS; u++) { /* unbiased */
        qnet__conv_bn *unit = &net->state->conv_bn[u];
        const double n = (double)qnet__conv_out_pixels(&unit->conv);
        for (c = 0; c < unit->conv.out_channels; c++)
            unit->norm.running_var[c] = (qnet_real)((double)unit->norm.running_var[c] * (n - 1) / n);
    }
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 0, logits[1], features[1]));
    for (i = 0; i < 3 * QNET_FEATURES; i++) {
        const double d = (double)features[0][i] - (double)features[1][i];
        difference += d * d;
        norm += (double)features[0][i] * (double)features[0][i];
    }
    CHECK(norm > 1);
    CHECK_NEAR(sqrt(difference / norm), 0, QNET__REAL_IS_DOUBLE ? 1e-12 : 1e-4);
    free(x);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
}

static void plain_sgemm(void *user, int trans_a, int trans_b, int m, int n, int k, float alpha,
                        const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    int i, j, l;
    (void)user;
    for (i = 0; i < m; i++)
        for (j = 0; j < n; j++) {
            float sum = 0;
            for (l = 0; l < k; l++)
                sum += (trans_a ? a[l * lda + i] : a[i * lda + l]) * (trans_b ? b[j * ldb + l] : b[l * ldb + j]);
            c[i * ldc + j] = alpha * sum + (beta > 0 || beta < 0 ? beta * c[i * ldc + j] : 0);
        }
}

/* Networks whose convolutions but the stem go to a BLAS, for inference and training, against our own. */
static void test_blas(void)
{
    qnet_context *ctx[2];
    qnet_real *x = numbers(302, image_count(3, 33, 40), 4), logits[2][6], eval[2][6];
    const qnet_real dlogits[6] = { 1, -1, -1, 1, 1, -1 };
    double error = 0, norm = 0;
    qnet_hooks hooks;
    qnet_resnet *net[2];
    size_t i, j;
    ctx[0] = context(NULL, NULL, QNET_CPU_AUTO);
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1;
    hooks.blas.sgemm = plain_sgemm;
    CHECK(qnet_context_create(&hooks, &ctx[1]) == QNET_OK);
    for (i = 0; i < 2; i++) {
        net[i] = make_net(ctx[i], 33, 40, 3, 0);
        initialise(net[i]);
        CHECK_OK(ctx[i], qnet_resnet_forward(net[i], x, 3, 0, eval[i], NULL));
        qnet_resnet_destroy(net[i]);
        net[i] = make_net(ctx[i], 33, 40, 3, 1);
        initialise(net[i]);
        CHECK_OK(ctx[i], qnet_resnet_forward(net[i], x, 3, 1, logits[i], NULL));
        CHECK_OK(ctx[i], qnet_resnet_backward(net[i], x, 3, dlogits));
    }
    for (i = 0; i < 6; i++) CHECK_NEAR(eval[0][i], eval[1][i], 1e-4 * (1 + fabs((double)eval[0][i])));
    for (i = 0; i < 6; i++) CHECK_NEAR(logits[0][i], logits[1][i], 1e-4);
    for (j = 0; j < net[0]->table->trainable; j++) {
        const double d = (double)net[0]->gradients[j] - (double)net[1]->gradients[j];
        error += d * d;
        norm += (double)net[0]->gradients[j] * (double)net[0]->gradients[j];
    }
    CHECK(norm > 0 && sqrt(error / norm) < 1e-3);
    for (i = 0; i < 2; i++) {
        qnet_resnet_destroy(net[i]);
        qnet_context_destroy(ctx[i]);
    }
    free(x);
}

int main(void)
{
    RUN(test_table);
    RUN(test_gradient);
    RUN(test_workers);
    RUN(test_batch_independence);
    if (!QNET__REAL_IS_DOUBLE) { /* the same code in both precisions, and double takes its time */
        RUN(test_networks_of_other_batches);
        RUN(test_memory);
        RUN(test_bytes);
        RUN(test_bad_input);
    }
    RUN(test_momentum);
    RUN(test_init);
    RUN(test_feature_map);
    RUN(test_pack);
    RUN(test_plan);
    RUN(test_plan_overflow);
    RUN(test_pack_small_tiles);
    RUN(test_plain);
    RUN(test_training_and_inference);
    if (!QNET__REAL_IS_DOUBLE) RUN(test_blas); /* the hook's products are of float */
    free(kept);
    return test_end();
}
