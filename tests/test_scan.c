/* test_scan.c: the scan-level model against central differences, and its promises. Against PyTorch:
   test_parity.c. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "reference.h"
#include "plain_scan.h"
#include "golden/formula.h"
#include <limits.h>
#undef I /* cblas.h may bring complex.h */

enum { B = 5, T = 7, I = 12, H = 6 };
static const int length[B] = {7, 3, 1, 5, 7}, label[B] = {0, 1, 1, 0, 1};

static qnet_scan_model *make_model(qnet_context *ctx, int batch, int training)
{
    qnet_scan_config config;
    qnet_scan_model *model = NULL;
    qnet_scan_config_init(&config);
    config.features = I;
    config.hidden = H;
    config.steps = T;
    config.batch = batch;
    config.training = training;
    CHECK_OK(ctx, qnet_scan_model_create(ctx, &config, &model));
    return model;
}

static void fill(qnet_scan_model *model)
{
    int i;
    for (i = 0; i < model->table->count; i++) {
        const qnet_param *p = &model->table->entries[i];
        size_t j;
        for (j = 0; j < p->count; j++) {
            double u = formula((uint32_t)i, (uint32_t)j);
            model->weights[p->offset + j] = (qnet_real)((u - .5) * 1.5);
        }
    }
}

static void input(qnet_real *x)
{
    int j;
    for (j = 0; j < B * T * I; j++) x[j] = (qnet_real)((formula(200, (uint32_t)j) - .5) * 2);
}

static qnet_context *context(const qnet_hooks *hooks)
{
    qnet_context *ctx = NULL;
    qnet_hooks one_thread; /* these models are too small to share out */
    memset(&one_thread, 0, sizeof one_thread);
    one_thread.threads = 1;
    CHECK(qnet_context_create(hooks ? hooks : &one_thread, &ctx) == QNET_OK);
    return ctx;
}

static void test_table(void)
{
    static const char *const names[12] = {
        "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0",
        "lstm.weight_ih_l0_reverse", "lstm.weight_hh_l0_reverse", "lstm.bias_ih_l0_reverse",
        "lstm.bias_hh_l0_reverse", "image_head.weight", "image_head.bias", "scan_head.weight",
        "scan_head.bias"};
    qnet_context *ctx = context(NULL);
    qnet_scan_model *model = make_model(ctx, B, 1);
    size_t at = 0;
    int i;
    CHECK(strcmp(model->table->network, "qnet-scan") == 0);
    CHECK(model->table->count == 12);
    CHECK(model->table->total == model->table->trainable);
    for (i = 0; i < 12; i++) {
        CHECK(strcmp(model->table->entries[i].name, names[i]) == 0);
        CHECK(model->table->entries[i].offset == at);
        at += model->table->entries[i].count;
    }
    CHECK(at == model->table->total);
    CHECK(at == 2 * (4 * H * (I + H + 2)) + 2 * (2 * H + 1) + 2 * (T * 2 * H + 1));
    CHECK(model->table->entries[10].shape[1] == T * 2 * H);
    qnet_scan_model_destroy(model);
    qnet_context_destroy(ctx);
}

typedef struct job { qnet_scan_model *model; const qnet_real *x; } job;
static double total_loss(void *user)
{
    job *j = (job *)user;
    double image = 0, scan = 0;
    if (qnet_scan_model_loss(j->model, j->x, length, label, B, &image, &scan, 0) != QNET_OK) return 1e9;
    return image + scan;
}

static void test_gradient(void)
{
    qnet_context *ctx = context(NULL);
    qnet_scan_model *model = make_model(ctx, B, 1);
    qnet_real x[B * T * I];
    job j;
    double image, scan;
    fill(model);
    input(x);
    j.model = model;
    j.x = x;
    CHECK_OK(ctx, qnet_scan_model_loss(model, x, length, label, B, &image, &scan, 1));
    /* double: rounding 1e-16 / 1e-5 against the cube of the step; float: 1e-7 / 1e-2. */
    CHECK_NEAR(worst_gradient(total_loss, &j, model->weights, model->gradients, model->table->total,
                              QNET__REAL_IS_DOUBLE ? 1e-5 : 1e-2).error, 0, QNET__REAL_IS_DOUBLE ? 1e-7 : .1);
    qnet_scan_model_destroy(model);
    qnet_context_destroy(ctx);
}

/* forward + backward with the gradients of the losses is what qnet_scan_model_loss does; gradients
   given at padded steps have no effect; neither have inputs there. */
static void test_pieces(void)
{
    qnet_context *ctx = context(NULL);
    qnet_scan_model *model = make_model(ctx, B, 1);
    qnet_real x[B * T * I], image[B * T * 2], scan[B * 2], *first;
    int labels[B * T], b, t;
    double loss, other;
    size_t bytes = model->table->total * sizeof(qnet_real);
    fill(model);
    input(x);
    first = (qnet_real *)malloc(bytes);
    CHECK_OK(ctx, qnet_scan_model_loss(model, x, length, label, B, &loss, &other, 1));
    memcpy(first, model->gradients, bytes);
    for (b = 0; b < B; b++) {
        for (t = 0; t < T; t++) {
            labels[b * T + t] = t < length[b] ? label[b] : -1;
            if (t >= length[b]) x[(b * T + t) * I] += 100;
        }
    }
    CHECK_OK(ctx, qnet_scan_model_forward(model, x, length, B, image, scan));
    CHECK(image[(1 * T + 3) * 2] == 0 && image[(1 * T + 6) * 2 + 1] == 0);
    CHECK_OK(ctx, qnet_cross_entropy(ctx, B * T, 2, image, labels, &loss, image));
    CHECK_OK(ctx, qnet_cross_entropy(ctx, B, 2, scan, label, &loss, scan));
    image[(1 * T + 3) * 2] = 50; /* a padded step */
    memset(model->gradients, 0, bytes);
    CHECK_OK(ctx, qnet_scan_model_backward(model, x, length, B, image, scan));
    CHECK(memcmp(first, model->gradients, bytes) == 0);
    free(first);
    qnet_scan_model_destroy(model);
    qnet_context_destroy(ctx);
}

/* What qnet_scan_attribution differentiates, of scan 1 or 0: logit of HH less that of HC. */
typedef struct attribution_job { qnet_scan_model *model; const qnet_real *x; int length; } attribution_job;
static double logit_difference(void *user)
{
    attribution_job *j = (attribution_job *)user;
    qnet_real scan[2];
    if (qnet_scan_model_forward(j->model, j->x, &j->length, 1, NULL, scan) != QNET_OK) return 1e9;
    return (double)scan[QNET_HH] - (double)scan[QNET_HC];
}

static void test_attribution(void)
{
    qnet_context *ctx = context(NULL);
    qnet_scan_model *model = make_model(ctx, B, 0), *three = NULL;
    qnet_scan_config config = model->config;
    qnet_real x[B * T * I], gradient[T * I], kept;
    double contribution[T];
    fill(model);
    input(x);
    for (int b = 0; b < B; b++) {
        attribution_job j = {model, x + b * T * I, length[b]};
        CHECK_OK(ctx, qnet_scan_attribution(model, j.x, j.length, gradient, contribution));
        /* as in test_gradient, but a single logit, not a mean of many losses */
        CHECK_NEAR(worst_gradient(logit_difference, &j, x + b * T * I, gradient, T * I,
                                  QNET__REAL_IS_DOUBLE ? 1e-5 : 1e-2).error, 0, QNET__REAL_IS_DOUBLE ? 1e-7 : .1);
        for (int t = 0; t < T; t++) {
            double sum = 0;
            for (int c = 0; c < I; c++) sum += (double)gradient[t * I + c] * (double)j.x[t * I + c];
            CHECK_NEAR(contribution[t], sum, 1e-9);
            CHECK((t < length[b]) == (contribution[t] != 0));
        }
    }
    kept = gradient[0];
    CHECK_OK(ctx, qnet_scan_attribution(model, x + 4 * T * I, T, gradient, NULL));
    CHECK(gradient[0] == kept);
    CHECK_FAILS(ctx, qnet_scan_attribution(model, x, 8, gradient, NULL), QNET_ERROR_ARGUMENT, "1..7, found 8");
    CHECK_FAILS(ctx, qnet_scan_attribution(model, NULL, 3, gradient, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_scan_attribution(model, x, 3, NULL, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(qnet_scan_attribution(NULL, x, 3, gradient, NULL) == QNET_ERROR_ARGUMENT);
    model->weights[0] = (qnet_real)NAN;
    CHECK_FAILS(ctx, qnet_scan_attribution(model, x, 3, gradient, contribution), QNET_ERROR_NUMERIC, "NaN");
    CHECK(gradient[0] == kept);
    config.classes = 3;
    CHECK_OK(ctx, qnet_scan_model_create(ctx, &config, &three));
    CHECK_FAILS(ctx, qnet_scan_attribution(three, x, 3, gradient, NULL), QNET_ERROR_ARGUMENT, "3 classes, expected 2");
    qnet_scan_model_destroy(three);
    qnet_scan_model_destroy(model);
    qnet_context_destroy(ctx);
}

/* A scan's logits do not depend on the batch that it is in. */
static void test_batch_independence(void)
{
    qnet_context *ctx = context(NULL);
    qnet_scan_model *model = make_model(ctx, B, 0);
    qnet_real x[B * T * I], image[B * T * 2], scan[B * 2], one_image[T * 2], one_scan[2];
    int b;
    fill(model);
    input(x);
    CHECK_OK(ctx, qnet_scan_model_forward(model, x, length, B, image, scan));
    for (b = 0; b < B; b++) {
        CHECK_OK(ctx, qnet_scan_model_forward(model, x + b * T * I, length + b, 1, one_image, one_scan));
        CHECK(memcmp(one_image, image + b * T * 2, sizeof one_image) == 0);
        CHECK(TEST_BLAS || memcmp(one_scan, scan + b * 2, sizeof one_scan) == 0);
    }
    qnet_scan_model_destroy(model);
    qnet_context_destroy(ctx);
}

static void backwards_run(void *user, size_t count, qnet_task task, void *arg)
{
    size_t i, workers = *(size_t *)user;
    for (i = count; i-- > 0;) task(arg, i, i % workers);
}

static void test_workers(void)
{
    static const size_t workers[4] = {1, 2, 3, 8};
    qnet_real x[B * T * I], *first = NULL;
    int i;
    input(x);
    for (i = 0; i < 4; i++) {
        size_t n = workers[i], bytes;
        qnet_hooks hooks;
        qnet_context *ctx;
        qnet_scan_model *model;
        double image, scan;
        memset(&hooks, 0, sizeof hooks);
        hooks.parallel.user = &n;
        hooks.parallel.run = backwards_run;
        hooks.parallel.workers = n;
        ctx = context(&hooks);
        model = make_model(ctx, B, 1);
        bytes = model->table->total * sizeof(qnet_real);
        fill(model);
        CHECK_OK(ctx, qnet_scan_model_loss(model, x, length, label, B, &image, &scan, 1));
        if (!first) {
            first = (qnet_real *)malloc(bytes);
            memcpy(first, model->gradients, bytes);
        }
        CHECK(memcmp(first, model->gradients, bytes) == 0);
        qnet_scan_model_destroy(model);
        qnet_context_destroy(ctx);
    }
    free(first);
}

typedef struct counter { long count, live, fail_at; } counter;
static void *counting_alloc(void *user, size_t size, size_t align)
{
    counter *c = (counter *)user;
    void *raw, **p;
    if (c->count++ == c->fail_at) return NULL;
    raw = malloc(size + align + sizeof raw);
    if (!raw) return NULL;
    p = (void **)(void *)(((size_t)raw + sizeof raw + align - 1) / align * align);
    p[-1] = raw;
    c->live++;
    return p;
}
static void counting_free(void *user, void *ptr, size_t size)
{
    (void)size;
    ((counter *)user)->live--;
    free(((void **)ptr)[-1]);
}

static void test_memory(void)
{
    qnet_hooks hooks;
    counter c = {0, 0, -1};
    qnet_context *ctx;
    qnet_scan_config config;
    qnet_scan_model *model = NULL;
    qnet_real x[B * T * I];
    double image = 0, scan = 0;
    long before;
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &c;
    hooks.allocator.alloc = counting_alloc;
    hooks.allocator.free = counting_free;
    ctx = context(&hooks);
    qnet_scan_config_init(&config);
    CHECK(config.features == 512 && config.hidden == 256 && config.steps == 24 &&
          config.classes == 2 && config.batch == 64 && config.training == 1);
    config.features = I;
    config.hidden = H;
    config.steps = T;
    config.batch = B;
    c.fail_at = c.count;
    CHECK_FAILS(ctx, qnet_scan_model_create(ctx, &config, &model), QNET_ERROR_MEMORY, "the scan model");
    CHECK(model == NULL);
    c.fail_at = -1;
    before = c.count;
    CHECK_OK(ctx, qnet_scan_model_create(ctx, &config, &model));
    CHECK(c.count == before + 1 && model->bytes == qnet_scan_model_bytes(ctx, &config));
    qnet_scan_model_init(model, 4);
    input(x);
    c.fail_at = c.count; /* no memory from here on */
    CHECK_OK(ctx, qnet_scan_model_loss(model, x, length, label, B, &image, &scan, 1));
    CHECK_OK(ctx, qnet_scan_model_loss(model, x, length, label, 1, &image, &scan, 1));
    CHECK(c.count == before + 1);
    qnet_scan_model_destroy(model);
    qnet_scan_model_destroy(NULL);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

static void test_init(void)
{
    qnet_context *ctx = context(NULL);
    qnet_scan_model *a = make_model(ctx, 1, 0), *b = make_model(ctx, 1, 1);
    size_t bytes = a->table->total * sizeof(qnet_real), j;
    double largest[12];
    int i;
    CHECK(a->weights[0] == 0);
    qnet_scan_model_init(a, 9);
    qnet_scan_model_init(b, 9);
    CHECK(memcmp(a->weights, b->weights, bytes) == 0);
    qnet_scan_model_init(b, 10);
    CHECK(memcmp(a->weights, b->weights, bytes) != 0);
    for (i = 0; i < 12; i++) {
        const qnet_param *p = &a->table->entries[i];
        double fan = i < 8 ? H : i < 10 ? 2 * H : T * 2 * H, bound = 1 / sqrt(fan);
        largest[i] = 0;
        for (j = 0; j < p->count; j++) {
            double v = fabs((double)a->weights[p->offset + j]);
            largest[i] = v > largest[i] ? v : largest[i];
        }
        CHECK(largest[i] <= bound * (1 + 1e-6));
        if (p->count > 20) CHECK(largest[i] > .8 * bound);
    }
    qnet_scan_model_destroy(a);
    qnet_scan_model_destroy(b);
    qnet_context_destroy(ctx);
}

static void test_bad_input(void)
{
    static const char *const part[5] = {"features", "hidden", "steps", "classes", "batch"};
    qnet_context *ctx = context(NULL);
    qnet_scan_model *model = make_model(ctx, B, 1), *frozen = make_model(ctx, B, 0), *none = NULL;
    qnet_real x[B * T * I], image[B * T * 2] = {0}, scan[B * 2] = {0};
    qnet_scan_config config;
    double image_loss = 5, scan_loss = 6;
    int i, bad[B] = {7, 3, 8, 5, 7}, zero[B] = {0, 3, 1, 5, 7}, wrong[B] = {0, 1, 2, 0, 1};
    int masked[B] = {-1, -1, -1, -1, -1};
    for (i = 0; i < 10; i++) {
        int value = i < 5 ? 0 : INT_MAX;
        qnet_scan_config_init(&config);
        if (i % 5 == 0) config.features = value;
        if (i % 5 == 1) config.hidden = value;
        if (i % 5 == 2) config.steps = value;
        if (i % 5 == 3) config.classes = value;
        if (i % 5 == 4) config.batch = value;
        CHECK_FAILS(ctx, qnet_scan_model_create(ctx, &config, &none), QNET_ERROR_ARGUMENT, part[i % 5]);
        CHECK(none == NULL && qnet_scan_model_bytes(ctx, &config) == 0);
    }
    CHECK(qnet_scan_model_create(ctx, NULL, &none) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_scan_model_create(NULL, &config, &none) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_scan_model_bytes(ctx, NULL) == 0);
    fill(model);
    fill(frozen);
    input(x);
    CHECK_FAILS(ctx, qnet_scan_model_forward(model, NULL, length, B, image, scan), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_scan_model_forward(model, x, NULL, B, image, scan), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(qnet_scan_model_forward(NULL, x, length, B, image, scan) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_scan_model_forward(model, x, length, 0, image, scan), QNET_ERROR_ARGUMENT, "batch is 0, expected 1 to 5");
    CHECK_FAILS(ctx, qnet_scan_model_forward(model, x, length, 6, image, scan), QNET_ERROR_ARGUMENT, "batch is 6, expected 1 to 5");
    CHECK_FAILS(ctx, qnet_scan_model_forward(model, x, bad, B, image, scan), QNET_ERROR_ARGUMENT,
                "length[2] must be 1..7, found 8");
    CHECK_FAILS(ctx, qnet_scan_model_forward(model, x, zero, B, image, scan), QNET_ERROR_ARGUMENT, "length[0]");
    CHECK_FAILS(ctx, qnet_scan_model_backward(model, x, length, B, image, scan), QNET_ERROR_ARGUMENT, "forward");
    CHECK_OK(ctx, qnet_scan_model_forward(model, x, length, B, NULL, NULL));
    CHECK_FAILS(ctx, qnet_scan_model_backward(model, x, length, 2, image, scan), QNET_ERROR_ARGUMENT, "5, found 2");
    CHECK_FAILS(ctx, qnet_scan_model_backward(model, x, bad, B, image, scan), QNET_ERROR_ARGUMENT, "length[2]");
    CHECK_FAILS(ctx, qnet_scan_model_backward(model, x, length, B, NULL, scan), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(qnet_scan_model_backward(NULL, x, length, B, image, scan) == QNET_ERROR_ARGUMENT);
    CHECK_OK(ctx, qnet_scan_model_forward(frozen, x, length, B, NULL, NULL));
    CHECK_FAILS(ctx, qnet_scan_model_backward(frozen, x, length, B, image, scan), QNET_ERROR_ARGUMENT, "training = 1");
    CHECK_FAILS(ctx, qnet_scan_model_loss(frozen, x, length, label, B, &image_loss, &scan_loss, 1),
                QNET_ERROR_ARGUMENT, "training = 1");
    CHECK(qnet_scan_model_loss(NULL, x, length, label, B, &image_loss, &scan_loss, 0) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_scan_model_loss(model, x, length, NULL, B, &image_loss, &scan_loss, 0),
                QNET_ERROR_ARGUMENT, "NULL");
    CHECK(qnet_scan_model_loss(model, x, length, wrong, B, &image_loss, &scan_loss, 0) != QNET_OK);
    CHECK_FAILS(ctx, qnet_scan_model_loss(model, x, length, masked, B, &image_loss, &scan_loss, 1),
                QNET_ERROR_DATA, "");
    CHECK(image_loss == 5 && scan_loss == 6);
    CHECK_OK(ctx, qnet_scan_model_loss(frozen, x, length, label, B, &image_loss, &scan_loss, 0));
    CHECK(image_loss != 5 && scan_loss != 6);
    qnet_scan_model_destroy(model);
    qnet_scan_model_destroy(frozen);
    qnet_context_destroy(ctx);
}

/* Loss and gradients of the same model by the public layer calls. */
static void test_plain(void)
{
    qnet_context *ctx = context(NULL);
    qnet_scan_model *model = make_model(ctx, B, 1);
    qnet_real x[B * T * I], *gradients = (qnet_real *)malloc(model->table->total * sizeof *gradients);
    plain_net p;
    double image, scan, loss[2] = {0, 0}, error = 0, norm = 0;
    size_t j;
    fill(model);
    input(x);
    memset(&p, 0, sizeof p);
    p.ctx = ctx, p.table = model->table, p.weights = model->weights, p.gradients = gradients;
    CHECK_OK(ctx, plain_scan(&p, &model->config, x, length, label, B, loss));
    CHECK_OK(ctx, qnet_scan_model_loss(model, x, length, label, B, &image, &scan, 1));
    CHECK_NEAR(image, loss[0], 1e-6);
    CHECK_NEAR(scan, loss[1], 1e-6);
    for (j = 0; j < model->table->total; j++) {
        const double e = (double)(model->gradients[j] - gradients[j]);
        error += e * e;
        norm += (double)gradients[j] * (double)gradients[j];
    }
    CHECK(norm > 0);
    CHECK_NEAR(sqrt(error / norm), 0, QNET__REAL_IS_DOUBLE ? 1e-14 : 1e-6);
    plain_free(&p);
    free(gradients);
    qnet_scan_model_destroy(model);
    qnet_context_destroy(ctx);
}

int main(void)
{
    RUN(test_table);
    RUN(test_gradient);
    RUN(test_pieces);
    RUN(test_attribution);
    RUN(test_batch_independence);
    RUN(test_workers);
    RUN(test_memory);
    RUN(test_init);
    RUN(test_bad_input);
    RUN(test_plain);
    return test_end();
}
