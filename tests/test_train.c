/* Room >>train: stage 1, the embedding, stage 2, checkpoints. Networks are whole ResNet18s on a few
   32 x 32 images, as there is no smaller one. Bit-identity over threads, hooks and killed processes is
   tests/test_identity.c. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"

/* ---- hooks: an allocator that fails the n-th request, workers without threads, a caller who stops */

typedef struct hooks_state {
    long live, calls, fail_at;
    size_t workers;
    long reports, stop_at; /* stops at report number stop_at; 0: never */
    char task[64];         /* of the last report */
    double fraction, left, loss, rate, speed;
    double now; /* of a clock that ticks whenever it is looked at */
    int epoch, epochs;
    size_t step, steps;
} hooks_state;

/* Large blocks are kept and handed out again as they are: new memory costs most of the time of this
   program, and what an earlier run left in them shows whoever reads before writing. */
enum { KEPT = 12 };
static struct { void *p; size_t size; } kept_blocks[KEPT];

static void *count_alloc(void *user, size_t size, size_t align)
{
    hooks_state *h = (hooks_state *)user;
    char *base, *p;
    int i;
    if (++h->calls == h->fail_at) return NULL;
    h->live += (long)size;
    for (i = 0; i < KEPT; i++)
        if (kept_blocks[i].p != NULL && kept_blocks[i].size == size) {
            p = (char *)kept_blocks[i].p;
            kept_blocks[i].p = NULL;
            return p;
        }
    base = (char *)malloc(size + align + sizeof(base));
    if (base == NULL) abort();
    p = base + sizeof(base);
    p += (align - (uintptr_t)p % align) % align;
    memcpy(p - sizeof(base), &base, sizeof(base));
    return p;
}

static void really_free(void *p)
{
    char *base;
    if (p == NULL) return;
    memcpy(&base, (char *)p - sizeof(base), sizeof(base));
    free(base);
}

static void count_free(void *user, void *p, size_t size)
{
    static int next;
    ((hooks_state *)user)->live -= (long)size;
    if (size < 1000000) {
        really_free(p);
        return;
    }
    next = (next + 1) % KEPT; /* the place that was filled longest ago */
    really_free(kept_blocks[next].p);
    kept_blocks[next].p = p;
    kept_blocks[next].size = size;
}

/* Indices in an order that no loop has, each by another worker than its neighbour. */
static void run_shuffled(void *user, size_t count, qnet_task task, void *arg)
{
    size_t workers = ((hooks_state *)user)->workers, step = 7919, i;
    while (count % step == 0) step += 2;
    for (i = 0; i < count; i++) task(arg, (i * step + count / 2) % count, (i * 5 + 1) % workers);
}

static int report(void *user, const qnet_progress_info *info)
{
    hooks_state *h = (hooks_state *)user;
    h->reports++;
    snprintf(h->task, sizeof(h->task), "%s", info->task);
    h->fraction = info->fraction;
    h->left = info->seconds_left;
    h->loss = info->loss;
    h->rate = info->learning_rate;
    h->speed = info->items_per_second;
    h->epoch = info->epoch;
    h->epochs = info->epochs;
    h->step = info->step;
    h->steps = info->steps;
    return h->reports == h->stop_at;
}

static double tick(void *user)
{
    return ((hooks_state *)user)->now++;
}

static qnet_context *make_context(hooks_state *h, size_t workers)
{
    qnet_context *ctx = NULL;
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof(hooks));
    memset(h, 0, sizeof(*h));
    h->workers = workers;
    hooks.allocator.user = h;
    hooks.allocator.alloc = count_alloc;
    hooks.allocator.free = count_free;
    hooks.progress.user = h;
    hooks.progress.report = report;
    hooks.clock.user = h;
    hooks.clock.seconds = tick;
    if (workers > 0) {
        hooks.parallel.user = h;
        hooks.parallel.run = run_shuffled;
        hooks.parallel.workers = workers;
    }
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) abort();
    return ctx;
}

/* ---- a cohort of 5 scans with 12 images of 36 x 36, made in memory ----------------------------- */

enum { SCANS = 5, SIDE = 36, SLICES = 4, IMAGES = 12 };

typedef struct small_cohort {
    qnet_cohort cohort;
    qnet_scan scans[SCANS];
    float pixels[IMAGES][SIDE][SIDE][3];
} small_cohort;

static small_cohort *make_cohort(qnet_context *ctx)
{
    static const int slices[SCANS] = {2, 3, 1, 4, 2};
    small_cohort *c = (small_cohort *)calloc(1, sizeof(*c));
    int i, t, y, x, n = 0;
    c->cohort.ctx = ctx;
    qnet_input_config_init(&c->cohort.config, QNET_INPUT_CROP);
    c->cohort.config.size = 32;
    c->cohort.config.max_slices = SLICES;
    c->cohort.scans_count = SCANS;
    c->cohort.height = c->cohort.width = SIDE;
    c->cohort.scans = c->scans;
    for (i = 0; i < SCANS; i++) {
        qnet_scan *s = &c->scans[i];
        snprintf(s->subject, sizeof(s->subject), "sub-%02d", i == 4 ? 3 : i); /* 3 came twice */
        s->label = i % 2 ? QNET_HH : QNET_HC;
        s->slices = slices[i];
        s->pixels = &c->pixels[n][0][0][0];
        for (t = 0; t < slices[i]; t++, n++)
            for (y = 0; y < SIDE; y++)
                for (x = 0; x < SIDE; x++) {
                    /* Stripes along x or y by class, and another texture in every image. */
                    float v = (float)sin((s->label ? x : y) * .8) + .3f * (float)sin(x * y * .1 + n * 7);
                    c->pixels[n][y][x][0] = v * .1f + .01f;
                    c->pixels[n][y][x][1] = 20 + 5 * v;
                    c->pixels[n][y][x][2] = 100 + 30 * v + (float)n;
                }
        s->hash = qnet_hash(QNET_HASH_START, s->pixels, sizeof(c->pixels[0]) * (size_t)slices[i]);
    }
    return c;
}

static const int train_scans[] = {0, 1, 3}; /* 9 images: batches of 5 and 4 */

static qnet_stage1_config small_config(int swa)
{
    qnet_stage1_config config;
    qnet_stage1_config_init(&config);
    config.epochs = 3;
    config.batch = 6;
    config.swa = swa;
    config.swa_share = .67; /* start: epoch 1 */
    config.size = 32;
    config.seed = 5;
    return config;
}

static qnet_real *start_weights; /* random ones, made once: drawing 11 million of them takes long */

static void make_start_weights(qnet_context *ctx)
{
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    size_t bytes;
    qnet_resnet_config_init(&config);
    config.height = config.width = 32;
    config.batch = 1;
    config.training = 0;
    if (qnet_resnet_create(ctx, &config, &net) != QNET_OK) abort();
    qnet_resnet_init(net, small_config(0).seed);
    bytes = net->table->total * sizeof(qnet_real);
    start_weights = (qnet_real *)malloc(bytes);
    memcpy(start_weights, net->weights, bytes);
    qnet_resnet_destroy(net);
}

static qnet_training *make_run(qnet_context *ctx, const small_cohort *c, const qnet_stage1_config *config)
{
    qnet_training *run = NULL;
    CHECK_OK(ctx, qnet_stage1_create(ctx, config, &c->cohort, train_scans, 3, start_weights, &run));
    if (run == NULL) abort();
    return run;
}

/* A hash, a word at a time, of all that must be the same after resuming. */
static uint64_t digest_words(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)data;
    size_t i;
    for (i = 0; i + 4 <= bytes; i += 4) {
        uint32_t w;
        memcpy(&w, p + i, 4);
        h = (h ^ w) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    return h;
}

static uint64_t digest1(const qnet_training *run)
{
    const qnet_param_table *t = run->net->table;
    uint64_t h = digest_words(1, run->net->weights, t->total * sizeof(qnet_real));
    int i;
    h = digest_words(h, run->state->m, t->trainable * sizeof(qnet_real));
    h = digest_words(h, run->state->v, t->trainable * sizeof(qnet_real));
    if (run->averaged > 0)
        h = digest_words(h, run->state->average, t->trainable * sizeof(qnet_real));
    for (i = 0; i < run->epochs; i++) {
        h = digest_words(h, &run->history[i].loss, sizeof(double));
        h = digest_words(h, &run->history[i].learning_rate, sizeof(double));
    }
    h = h * 31 + (uint64_t)run->epoch;
    h = h * 31 + run->step;
    h = h * 31 + (uint64_t)run->averaged;
    return h * 31 + (uint64_t)run->finished;
}

static void write1(qnet_training *run, qnet_buffer *bytes)
{
    qnet_sink sink = qnet_sink_buffer(run->ctx, bytes, "ck");
    bytes->size = 0;
    CHECK_OK(run->ctx, qnet_training_write(run, &sink));
}

static qnet_status read1(qnet_training *run, const qnet_buffer *bytes)
{
    qnet_memory_source state;
    qnet_source source = qnet_source_memory(&state, bytes->bytes, bytes->size, "ck");
    return qnet_training_read(run, &source);
}

/* ---- tests ------------------------------------------------------------------------------------- */

static void test_configuration(void)
{
    qnet_stage1_config c1;
    qnet_stage2_config c2;
    size_t count, batch, k;
    qnet_stage1_config_init(&c1);
    qnet_stage2_config_init(&c2);
    CHECK(c1.epochs == 100 && c1.batch == 64 && c1.rate_first == 3e-4 && c1.rate_last == 1e-4);
    CHECK(c1.swa_share == .25 && c1.swa_rate == 1e-4 && c1.size == 224);
    CHECK(c1.adam.beta1 == .9 && c1.adam.beta2 == .999 && c1.adam.eps == 1e-8);
    CHECK(c2.epochs == 50 && c2.batch == 64 && c2.rate == 3e-4 && c2.hidden == 256 && c2.steps == 24);
    CHECK(qnet_stage1_swa_start(&c1) == 75);
    CHECK_NEAR(qnet__stage1_rate(&c1, 0), 3e-4, 0);
    CHECK_NEAR(qnet__stage1_rate(&c1, 50), 2e-4, 1e-18);
    CHECK_NEAR(qnet__stage1_rate(&c1, 75), 1e-4, 0);
    c1.swa = 0;
    CHECK_NEAR(qnet__stage1_rate(&c1, 75), 1e-4 + 1e-4 * (1 + cos(3.14159265358979323846 * .75)), 1e-18);
    c1.epochs = 1;
    CHECK(qnet_stage1_swa_start(&c1) == 0);
    c1.epochs = 3;
    c1.swa_share = 0;
    CHECK(qnet_stage1_swa_start(&c1) == 2);
    c1.swa_share = 1;
    CHECK(qnet_stage1_swa_start(&c1) == 0);
    for (count = 1; count < 40; count++) /* every item once, sizes apart by one at most */
        for (batch = 1; batch < 20; batch++) {
            size_t n = qnet__batches(count, (int)batch), low = count, high = 0;
            for (k = 0; k < n; k++) {
                size_t size = qnet__batch_start(count, n, k + 1) - qnet__batch_start(count, n, k);
                if (size < low) low = size;
                if (size > high) high = size;
            }
            CHECK(qnet__batch_start(count, n, 0) == 0 && qnet__batch_start(count, n, n) == count);
            CHECK(high <= batch && high - low <= 1 && low > 0);
        }
}

/* The digest after each epoch and after the finish, from one run that is never interrupted. With
   `resume`, a second run is set from the checkpoint after each epoch and does the next one. kept:
   the checkpoint after epoch `keep`. */
static void run_and_resume(int swa, int resume, uint64_t digest[5], int keep, qnet_buffer *kept)
{
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    small_cohort *c = make_cohort(ctx);
    qnet_stage1_config config = small_config(swa);
    qnet_training *run = make_run(ctx, c, &config), *other = resume ? make_run(ctx, c, &config) : run;
    qnet_buffer bytes;
    uint64_t next = 0;
    int e;
    memset(&bytes, 0, sizeof(bytes));
    if (resume) CHECK_OK(ctx, qnet_training_epoch(other)); /* which must not show through */
    for (e = 0; e <= config.epochs; e++) {
        digest[e] = digest1(run);
        CHECK(!resume || e == 0 || digest[e] == next);
        if (resume || e == keep) write1(run, &bytes);
        if (resume) {
            CHECK_OK(ctx, read1(other, &bytes));
            CHECK(other->epoch == e && !other->finished);
        }
        if (e == keep) {
            kept->bytes = (unsigned char *)malloc(bytes.size);
            kept->size = bytes.size;
            memcpy(kept->bytes, bytes.bytes, bytes.size);
        }
        if (e < config.epochs) {
            CHECK_OK(ctx, qnet_training_epoch(run));
            if (resume) CHECK_OK(ctx, qnet_training_epoch(other));
        } else {
            CHECK_OK(ctx, qnet_training_finish(run));
            CHECK_OK(ctx, qnet_training_finish(other)); /* of `run` again: nothing is left to do */
        }
        if (resume) next = digest1(other);
    }
    digest[e] = digest1(run);
    CHECK(!resume || digest[e] == next);
    CHECK(run->finished && run->step == 6 && run->averaged == (swa ? 2 : 0));
    CHECK_FAILS(ctx, qnet_training_epoch(run), QNET_ERROR_ARGUMENT, "all 3 epochs are done");
    qnet_buffer_free(ctx, &bytes);
    if (resume) qnet_training_destroy(other);
    qnet_training_destroy(run);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

static void test_stage1_resumes_with_the_same_bits(void)
{
    hooks_state h;
    qnet_context *ctx;
    small_cohort *c;
    qnet_stage1_config config = small_config(1);
    qnet_training *run;
    uint64_t plain[5], swa[5];
    qnet_buffer branch, late;
    memset(&branch, 0, sizeof(branch));
    memset(&late, 0, sizeof(late));
    run_and_resume(0, 0, plain, 1, &branch);
    run_and_resume(1, 1, swa, 2, &late);
    CHECK(plain[0] == swa[0] && plain[1] == swa[1]); /* up to swa_start they are one run */
    CHECK(plain[2] != swa[2] && plain[4] != swa[4]);

    /* A run without SWA, at swa_start, becomes one with SWA. */
    ctx = make_context(&h, 0);
    c = make_cohort(ctx);
    run = make_run(ctx, c, &config);
    CHECK_OK(ctx, read1(run, &branch));
    CHECK(digest1(run) == swa[1]);
    CHECK_OK(ctx, qnet_training_run(run, NULL));
    CHECK(digest1(run) == swa[4]);
    qnet_training_destroy(run);

    /* But not one that is past it, or that has another seed; nor the other way round. */
    config.swa_share = .3;
    config.seed = 6;
    run = make_run(ctx, c, &config);
    CHECK_FAILS(ctx, read1(run, &branch), QNET_ERROR_MISMATCH,
                "ck: the run to resume has \"seed=0x0000000000000005\", this one has "
                "\"seed=0x0000000000000006\"");
    qnet_training_destroy(run);
    config = small_config(1);
    config.swa_share = 1; /* start: epoch 0 */
    run = make_run(ctx, c, &config);
    CHECK_FAILS(ctx, read1(run, &branch), QNET_ERROR_MISMATCH, "without SWA after epoch 1: expected 0");
    CHECK_FAILS(ctx, read1(run, &late), QNET_ERROR_MISMATCH, "has \"swa_share=0.67\", this one has \"swa_share=1\"");
    qnet_training_destroy(run);
    config = small_config(0);
    run = make_run(ctx, c, &config);
    CHECK_FAILS(ctx, read1(run, &late), QNET_ERROR_MISMATCH, "has \"swa=1\", this one has \"swa=0\"");
    qnet_training_destroy(run);
    free(branch.bytes);
    free(late.bytes);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

static qnet_status load(qnet__loop *loop, qnet__loader *l, int epoch, const int *order, size_t first, size_t n)
{
    loop->first = first;
    loop->n = n;
    return qnet__loader_load(loop, l, epoch, order);
}

/* An image of a batch depends on seed, epoch and its index in the cohort, not on its place. */
static void test_augmentation_is_named_by_image(void)
{
    enum { N = 32 * 32 * 3 };
    hooks_state h;
    qnet_context *ctx = make_context(&h, 3);
    small_cohort *c = make_cohort(ctx);
    qnet_stage1_config config = small_config(0);
    qnet_training *run;
    qnet__loader *l;
    qnet__loop loop = qnet__loop_begin(ctx, "test", 1, 1, 1, 1);
    static const int order[] = {7, 5, 0};
    static qnet_real first[3][N], x[N];
    qnet_rng rng;
    qnet_augmentation record;
    float low[3], high[3];
    static float values[SIDE * SIDE];
    config.augment.p_gamma = config.augment.p_affine = 1; /* what is called alone is what trains */
    run = make_run(ctx, c, &config);
    l = &run->state->loader;
    /* Image 5 of the run is slice 0 of scan 3, before which the cohort has 2 + 3 + 1 images. */
    CHECK(l->count == 9 && l->images[5].scan == 3 && l->images[5].slice == 0 && l->images[5].index == 6);
    CHECK_OK(ctx, load(&loop, l, 4, order, 0, 3));
    memcpy(first, l->batch, sizeof(first));
    rng = qnet_rng_at(config.seed, QNET_RANDOM_AUGMENT, 4, 6);
    record = qnet_augment_draw(&config.augment, &rng, SIDE, SIDE, 32, 32);
    CHECK_OK(ctx, qnet_augment_apply(ctx, &config.augment, &record, qnet_scan_slice(&c->cohort, 3, 0),
                                     SIDE, SIDE, x, 32, 32, NULL));
    CHECK(memcmp(first[1], x, sizeof(x)) == 0);
    CHECK_OK(ctx, load(&loop, l, 4, order, 1, 1));
    CHECK(memcmp(l->batch, x, sizeof(x)) == 0);
    CHECK_OK(ctx, load(&loop, l, 5, order, 1, 1)); /* another epoch */
    CHECK(memcmp(l->batch, x, sizeof(x)) != 0);
    CHECK_OK(ctx, load(&loop, l, -1, NULL, 5, 1)); /* none: the central crop */
    record = qnet_augment_test(SIDE, SIDE, 32, 32);
    CHECK_OK(ctx, qnet_augment_apply(ctx, &config.augment, &record, qnet_scan_slice(&c->cohort, 3, 0),
                                     SIDE, SIDE, x, 32, 32, NULL));
    CHECK(memcmp(l->batch, x, sizeof(x)) == 0);
    /* The limits of the stretch were found when the image came first, and are kept. */
    CHECK_OK(ctx, qnet_stretch_limits(ctx, &config.augment, qnet_scan_slice(&c->cohort, 3, 0),
                                      SIDE * SIDE, low, high, values));
    CHECK(l->images[5].ready && !l->images[4].ready);
    CHECK(memcmp(l->images[5].low, low, sizeof low) == 0);
    CHECK(memcmp(l->images[5].high, high, sizeof high) == 0);
    l->images[5].high[0] += 1;
    CHECK_OK(ctx, load(&loop, l, -1, NULL, 5, 1));
    CHECK(memcmp(l->batch, x, sizeof(x)) != 0);
    qnet_training_destroy(run);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

/* SWA and the batch-norm statistics behind it, computed again from their definitions. */
static void test_stage1_averages_weights(void)
{
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    small_cohort *c = make_cohort(ctx);
    qnet_stage1_config config = small_config(1);
    qnet_training *run = make_run(ctx, c, &config);
    size_t n = run->net->table->trainable, i, k, bad = 0;
    qnet_real *first = (qnet_real *)malloc(n * sizeof(qnet_real));
    qnet_real *second = (qnet_real *)malloc(n * sizeof(qnet_real));
    qnet_conv2d stem;
    qnet_real *x = (qnet_real *)malloc(9 * 32 * 32 * 3 * sizeof(qnet_real));
    qnet_real *y = (qnet_real *)malloc(9 * 16 * 16 * 64 * sizeof(qnet_real));
    qnet_tensor w, mean, var;
    qnet_augmentation record = qnet_augment_test(SIDE, SIDE, 32, 32);
    long calls;
    CHECK_OK(ctx, qnet_training_epoch(run));
    CHECK(run->averaged == 0);
    calls = h.calls;
    CHECK_OK(ctx, qnet_training_epoch(run));
    CHECK(run->averaged == 1 && h.rate == 1e-4);
    memcpy(first, run->net->weights, n * sizeof(qnet_real));
    CHECK_OK(ctx, qnet_training_epoch(run));
    CHECK(run->averaged == 2);
    memcpy(second, run->net->weights, n * sizeof(qnet_real));
    CHECK_OK(ctx, qnet_training_finish(run));
    CHECK(h.calls == calls); /* training asks for no memory */
    for (i = 0; i < n; i++) { /* one rounding of the mean, one of the difference: 2 ulp */
        double a = ((double)first[i] + (double)second[i]) / 2;
        double ulp = QNET__REAL_IS_DOUBLE ? DBL_EPSILON : (double)FLT_EPSILON;
        bad += !(fabs((double)run->net->weights[i] - a) <=
                 ulp * (fabs((double)first[i]) + fabs((double)second[i])));
    }
    CHECK(bad == 0);

    /* bn1's statistics: conv1 over the 9 images, centre crop; batches 0..4 and 5..8. */
    for (i = 0; i < 9; i++) {
        const qnet__image *image = &run->state->loader.images[i];
        CHECK_OK(ctx, qnet_augment_apply(ctx, &config.augment, &record,
                                         qnet_scan_slice(&c->cohort, image->scan, image->slice), SIDE,
                                         SIDE, x + i * 32 * 32 * 3, 32, 32, NULL));
    }
    stem.batch = 9;
    stem.height = stem.width = 32;
    stem.in_channels = 3;
    stem.out_channels = 64;
    stem.kernel = 7;
    stem.stride = 2;
    stem.padding = 3;
    w = qnet_param_view(run->net->table, run->net->weights,
                        qnet_param_find(run->net->table, "conv1.weight"));
    mean = qnet_param_view(run->net->table, run->net->weights,
                           qnet_param_find(run->net->table, "bn1.running_mean"));
    var = qnet_param_view(run->net->table, run->net->weights,
                          qnet_param_find(run->net->table, "bn1.running_var"));
    CHECK_OK(ctx, qnet_conv2d_forward(ctx, &stem, x, w.data, y, NULL));
    for (k = 0; k < 64; k++) {
        double expected_mean = 0, expected_var = 0;
        size_t b, p;
        for (b = 0; b < 2; b++) {
            size_t begin = b ? 5 * 256 : 0, end = b ? 9 * 256 : 5 * 256;
            double s = 0, ss = 0, count = (double)(end - begin);
            for (p = begin; p < end; p++) s += (double)y[p * 64 + k];
            for (p = begin; p < end; p++)
                ss += ((double)y[p * 64 + k] - s / count) * ((double)y[p * 64 + k] - s / count);
            expected_mean += s / (9 * 256);
            expected_var += ss / (count - 1) * (b ? 4. : 5.) / 9;
        }
        /* Sums of 1280 numbers of size 1 in float: 1e-5 is some 100 roundings. */
        CHECK_NEAR(mean.data[k], expected_mean, 1e-5 * (1 + fabs(expected_mean)));
        CHECK_NEAR(var.data[k], expected_var, 1e-5 * (1 + expected_var));
    }
    free(first);
    free(second);
    free(x);
    free(y);
    qnet_training_destroy(run);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

static void test_stage1_learns(void)
{
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    small_cohort *c = make_cohort(ctx);
    qnet_stage1_config config = small_config(1); /* so that the batch norms' statistics fit */
    qnet_training *run;
    static const int flipped[SCANS] = {1, 0, 1, 0, 1};
    static const int all[] = {0, 1, 2, 3, 4};
    double probability[SCANS][SLICES];
    int i, t;
    config.epochs = 4;
    config.swa_share = .1;
    config.augment.p_affine = config.augment.p_grid = 0; /* stripes are told by their direction */
    /* Without weights the run draws its own, from its seed. */
    for (i = 0; i < SCANS; i++) c->scans[i].label = (qnet_label)flipped[i];
    CHECK_OK(ctx, qnet_stage1_create(ctx, &config, &c->cohort, train_scans, 3, NULL, &run));
    CHECK(memcmp(run->net->weights, start_weights, run->net->table->total * sizeof(qnet_real)) == 0);
    CHECK_OK(ctx, qnet_training_run(run, NULL));
    CHECK(run->history[3].loss < .5 * run->history[0].loss);
    CHECK_OK(ctx, qnet_embed(run->net, &config.augment, &c->cohort, all, SCANS, NULL, &probability[0][0]));
    for (i = 0; i < 2; i++) /* the labels were learnt, on the training scans 0 and 1 */
        for (t = 0; t < c->scans[i].slices; t++) CHECK((probability[i][t] > .5) == flipped[i]);
    qnet_training_destroy(run);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

static void test_stage1_numeric_errors(void)
{
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    small_cohort *c = make_cohort(ctx);
    qnet_stage1_config config = small_config(1);
    qnet_training *run = make_run(ctx, c, &config);
    qnet_buffer bytes;
    qnet_sink sink;
    uint64_t before;
    memset(&bytes, 0, sizeof(bytes));
    write1(run, &bytes);
    before = digest1(run);
    c->pixels[3][10][10][1] = (float)NAN; /* scan 1, slice 1 */
    CHECK_FAILS(ctx, qnet_training_epoch(run), QNET_ERROR_NUMERIC,
                "stage 1 SWA, epoch 1 of 3, step");
    CHECK_CONTAINS(qnet_last_error(ctx), "subject sub-01, slice 1: a pixel is NaN");
    /* The run is spent: it may not go on or be saved until it is loaded. */
    sink = qnet_sink_buffer(ctx, &bytes, "ck");
    CHECK_FAILS(ctx, qnet_training_epoch(run), QNET_ERROR_ARGUMENT, "load a checkpoint");
    CHECK_FAILS(ctx, qnet_training_finish(run), QNET_ERROR_ARGUMENT, "load a checkpoint");
    CHECK_FAILS(ctx, qnet_training_write(run, &sink), QNET_ERROR_ARGUMENT, "load a checkpoint");
    CHECK_FAILS(ctx, qnet_training_run(run, NULL), QNET_ERROR_ARGUMENT, "load a checkpoint");
    CHECK_OK(ctx, read1(run, &bytes));
    CHECK(digest1(run) == before);
    c->pixels[3][10][10][1] = 20;

    run->net->weights[qnet_param_find(run->net->table, "fc.bias") >= 0
                          ? run->net->table->entries[qnet_param_find(run->net->table, "fc.bias")].offset
                          : 0] = (qnet_real)INFINITY;
    CHECK_FAILS(ctx, qnet_training_epoch(run), QNET_ERROR_NUMERIC,
                "stage 1 SWA, epoch 1 of 3, step 1 of 2: the loss is NaN or infinite");
    CHECK_OK(ctx, read1(run, &bytes));
    /* NaN in front of a ReLU, which may swallow it: the weights behind tell. */
    run->net->weights[0] = (qnet_real)NAN;
    CHECK(qnet_training_epoch(run) == QNET_ERROR_NUMERIC);
    CHECK_OK(ctx, read1(run, &bytes));
    run->state->config.rate_first = QNET__REAL_IS_DOUBLE ? 1e308 : 1e38; /* the weights overflow */
    CHECK(qnet_training_epoch(run) == QNET_ERROR_NUMERIC);
    qnet_buffer_free(ctx, &bytes);
    qnet_training_destroy(run);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

static void test_progress_and_stop(void)
{
    static const int all[] = {0, 1, 2, 3, 4};
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    small_cohort *c = make_cohort(ctx);
    qnet_stage1_config config = small_config(1);
    qnet_training *run;
    qnet_real features[4];
    config.epochs = 2;
    config.swa_share = .5;
    run = make_run(ctx, c, &config);
    CHECK_OK(ctx, qnet_training_epoch(run));
    CHECK(strcmp(h.task, "stage 1 SWA") == 0 && h.reports == 2);
    CHECK(h.epoch == 1 && h.epochs == 2 && h.step == 2 && h.steps == 2);
    CHECK_NEAR(h.fraction, .5, 1e-12);
    CHECK_NEAR(h.loss, run->history[0].loss, 1e-12);
    CHECK_NEAR(h.rate, 3e-4, 1e-18);
    /* The clock ticks once a look: at the start, after 5 and after 9 images, at the end. */
    CHECK(h.speed == 9 / 2. && h.left == 9 / h.speed && run->history[0].seconds == 3);
    CHECK_OK(ctx, qnet_training_save(run, "build/test_train.checkpoint"));
    h.stop_at = 3;
    CHECK_FAILS(ctx, qnet_training_run(run, NULL), QNET_STOPPED,
                "stage 1 SWA, epoch 2 of 2, step 1 of 2: stopped by the caller");
    CHECK_FAILS(ctx, qnet_training_save(run, "build/test_train.checkpoint"), QNET_ERROR_ARGUMENT, "load");
    CHECK_OK(ctx, qnet_training_load(run, "build/test_train.checkpoint"));
    h.stop_at = h.reports + 4; /* the second batch of the statistics */
    CHECK_FAILS(ctx, qnet_training_run(run, "build/test_train.checkpoint"), QNET_STOPPED,
                "batch-norm statistics, step 2 of 2");
    CHECK_FAILS(ctx, qnet_training_finish(run), QNET_ERROR_ARGUMENT, "load");
    CHECK_OK(ctx, qnet_training_load(run, "build/test_train.checkpoint"));
    CHECK(run->epoch == 2 && !run->finished);
    CHECK_OK(ctx, qnet_training_run(run, "build/test_train.checkpoint"));
    CHECK(strcmp(h.task, "batch-norm statistics") == 0 && run->finished);
    CHECK_OK(ctx, qnet_training_run(run, "build/test_train.checkpoint")); /* nothing is left to do */
    h.stop_at = h.reports + 1;
    CHECK_FAILS(ctx, qnet_embed(run->net, &config.augment, &c->cohort, all, SCANS, features, NULL),
                QNET_STOPPED, "features, step 1 of 3: stopped");
    CHECK_FAILS(ctx, qnet_training_load(run, "build/no.checkpoint"), QNET_ERROR_NOT_FOUND, "no.checkpoint");
    CHECK_FAILS(ctx, qnet_training_save(run, "build/no/such/folder.ck"), QNET_ERROR_IO, "folder.ck");
    remove("build/test_train.checkpoint");
    qnet_training_destroy(run);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

/* Replaces `from` by `to`, of the same length, in the checkpoint's header. */
static void edit(qnet_buffer *bytes, const char *from, const char *to)
{
    size_t i, n = strlen(from);
    CHECK(strlen(to) == n);
    for (i = 8; i + n < 8000; i++)
        if (memcmp(bytes->bytes + i, from, n) == 0) {
            memcpy(bytes->bytes + i, to, n);
            return;
        }
    CHECK(0 && "found in the header");
}

/* Reading must fail when this line of the checkpoint has this value (NULL: is missing). The file is
   parsed once and changed in memory, as each one is 180 MB. */
static void refuse1(qnet_training *run, qnet_safetensors *file, const char *key, const char *value,
                    qnet_status status, const char *words)
{
    char text[32], none[] = "none";
    qnet_metadata was;
    int i;
    for (i = 0; i < file->metadata_count; i++)
        if (strcmp(file->metadata[i].key, key) == 0) break;
    CHECK(i < file->metadata_count);
    if (i == file->metadata_count) return;
    was = file->metadata[i];
    if (value == NULL) file->metadata[i].key = none;
    else file->metadata[i].value = strcpy(text, value);
    CHECK_FAILS(run->ctx, qnet__training_restore(run, file, "ck"), status, words);
    file->metadata[i] = was;
}

static void test_stage1_refuses_other_checkpoints(void)
{
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    small_cohort *c = make_cohort(ctx);
    qnet_stage1_config config = small_config(1);
    static const int other_scans[] = {0, 1, 4, 2};
    qnet_training *run, *other = NULL;
    qnet_buffer bytes, weights;
    qnet_sink sink;
    qnet_memory_source state;
    qnet_source source;
    qnet_safetensors *file = NULL;
    uint64_t before;
    qnet_real keep, below = (qnet_real)-.25;
    char *number;
    size_t size, var;
    int i;
    memset(&bytes, 0, sizeof(bytes));
    memset(&weights, 0, sizeof(weights));
    config.epochs = 2;
    config.swa_share = .5;
    run = make_run(ctx, c, &config);
    CHECK_OK(ctx, qnet_training_epoch(run));
    CHECK_OK(ctx, qnet_training_epoch(run));
    write1(run, &bytes);
    before = digest1(run);

    source = qnet_source_memory(&state, bytes.bytes, bytes.size, "ck");
    CHECK_OK(ctx, qnet_safetensors_read(ctx, &source, &file));
    refuse1(run, file, "epochs", "3", QNET_ERROR_MISMATCH,
            "ck: the run to resume has \"epochs=3\", this one has \"epochs=2\"");
    refuse1(run, file, "rate_first", "0.0004", QNET_ERROR_MISMATCH,
            "has \"rate_first=0.0004\", this one has \"rate_first=0.0003\"");
    refuse1(run, file, "augment.p_gamma", NULL, QNET_ERROR_MISMATCH,
            "has \"none=0.3\", this one has \"augment.p_gamma=0.3\"");
    refuse1(run, file, "real", "half", QNET_ERROR_MISMATCH, "has \"real=half\"");
    refuse1(run, file, "kind", "qnet stage 7", QNET_ERROR_MISMATCH, "has \"kind=qnet stage 7\"");
    refuse1(run, file, "epoch", "9", QNET_ERROR_FORMAT, "epoch 9 of 2 and finished 0 contradict");
    refuse1(run, file, "epoch", "x", QNET_ERROR_FORMAT, "found x");
    refuse1(run, file, "epoch", "1.5", QNET_ERROR_FORMAT, "found 1.5");
    refuse1(run, file, "epoch", "nan", QNET_ERROR_FORMAT, "found nan");
    refuse1(run, file, "epoch", NULL, QNET_ERROR_FORMAT, "found nothing");
    refuse1(run, file, "finished", "2", QNET_ERROR_FORMAT, "from 0 to 1, found 2");
    CHECK(file->count == 5);
    var = run->net->table->entries[qnet_param_find(run->net->table, "bn1.running_var")].offset;
    number = (char *)file->block + ((const char *)qnet_safetensors_find(file, "weights")->data -
                                    (const char *)file->block) + (var + 3) * sizeof(keep);
    memcpy(&keep, number, sizeof(keep));
    memcpy(number, &below, sizeof(below));
    CHECK_FAILS(ctx, qnet__training_restore(run, file, "ck"), QNET_ERROR_DATA,
                "ck: tensor 'bn1.running_var': number 3 is -0.25, a variance below 0");
    memcpy(number, &keep, sizeof(keep));
    for (i = 0; i < 5; i += 2) {
        char first = file->tensors[i].name[0];
        file->tensors[i].name[0] = '#';
        CHECK(qnet__training_restore(run, file, "ck") == QNET_ERROR_FORMAT);
        file->tensors[i].name[0] = first;
        CHECK_CONTAINS(qnet_last_error(ctx), file->tensors[i].name);
        file->tensors[i].count--;
        CHECK(qnet__training_restore(run, file, "ck") == QNET_ERROR_FORMAT);
        file->tensors[i].count++;
    }
    qnet_safetensors_destroy(file);
    CHECK(digest1(run) == before);
    size = bytes.size;
    bytes.size = size - 1;
    CHECK_FAILS(ctx, read1(run, &bytes), QNET_ERROR_FORMAT, "truncated");
    bytes.size = 100;
    CHECK_FAILS(ctx, read1(run, &bytes), QNET_ERROR_FORMAT, "truncated");
    bytes.size = size;
    memset(bytes.bytes + size - 8, 0xff, 8); /* NaN */
    CHECK_FAILS(ctx, read1(run, &bytes), QNET_ERROR_DATA, "'swa.average': number");

    sink = qnet_sink_buffer(ctx, &weights, "weights");
    CHECK_OK(ctx, qnet_weights_write(ctx, &sink, run->net->table, run->net->weights, NULL, 0));
    CHECK_FAILS(ctx, read1(run, &weights), QNET_ERROR_MISMATCH, "has \"\", this one has \"kind=");
    CHECK(digest1(run) == before);

    /* Other scans, other labels, other pixels. */
    before = run->state->data_hash;
    CHECK_OK(ctx, qnet_stage1_create(ctx, &config, &c->cohort, other_scans, 4, start_weights, &other));
    CHECK(other->state->data_hash != before);
    CHECK_FAILS(ctx, read1(other, &bytes), QNET_ERROR_MISMATCH, "has \"images and labels=");
    qnet_training_destroy(other);
    c->scans[3].label = QNET_HC;
    other = make_run(ctx, c, &config);
    CHECK(other->state->data_hash != before);
    qnet_training_destroy(other);
    c->scans[3].label = QNET_HH;
    c->scans[3].hash++;
    other = make_run(ctx, c, &config);
    CHECK(other->state->data_hash != before);
    qnet_training_destroy(other);
    qnet_buffer_free(ctx, &bytes);
    qnet_buffer_free(ctx, &weights);
    qnet_training_destroy(run);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

static void test_stage1_arguments(void)
{
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    small_cohort *c = make_cohort(ctx);
    qnet_stage1_config good = small_config(0), bad;
    static const int outside[] = {0, 5}, twice[] = {0, 1, 0};
    qnet_training *run = NULL;
#define CREATE(config, scans, count) \
    qnet_stage1_create(ctx, config, &c->cohort, scans, count, NULL, &run)
    CHECK_FAILS(ctx, CREATE(NULL, train_scans, 3), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, CREATE(&good, outside, 2), QNET_ERROR_ARGUMENT, "scan 5: expected 0..4");
    CHECK_FAILS(ctx, CREATE(&good, twice, 3), QNET_ERROR_ARGUMENT, "scan 0 is listed twice");
    CHECK_FAILS(ctx, CREATE(&good, train_scans, 0), QNET_ERROR_DATA, "0 images in 0 scans");
    c->scans[1].label = (qnet_label)2;
    CHECK_FAILS(ctx, CREATE(&good, train_scans, 3), QNET_ERROR_ARGUMENT, "scan 1: label 2");
    c->scans[1].label = QNET_HC;
    c->scans[3].label = QNET_HC;
    CHECK_FAILS(ctx, CREATE(&good, train_scans, 3), QNET_ERROR_DATA, "0 of HH: expected both");
    c->scans[1].label = c->scans[3].label = QNET_HH;
    bad = good;
    bad.augment.p_hflip = 7;
    CHECK_FAILS(ctx, CREATE(&bad, train_scans, 3), QNET_ERROR_ARGUMENT, "p_hflip is 7, expected 0 to 1");
    bad = good;
    bad.augment.std[1] = 0;
    CHECK_FAILS(ctx, CREATE(&bad, train_scans, 3), QNET_ERROR_ARGUMENT, "std.1 is 0, expected 1e-09 to 1000000");
    bad = good;
    bad.size = 37;
    CHECK_FAILS(ctx, CREATE(&bad, train_scans, 3), QNET_ERROR_SHAPE, "37 x 37, the prepared images 36 x 36");
    bad.size = 31;
    CHECK_FAILS(ctx, CREATE(&bad, train_scans, 3), QNET_ERROR_ARGUMENT, "31");
    bad = good;
    bad.epochs = 0;
    CHECK_FAILS(ctx, CREATE(&bad, train_scans, 3), QNET_ERROR_ARGUMENT, "epochs is 0");
    bad = good;
    bad.batch = -1;
    CHECK_FAILS(ctx, CREATE(&bad, train_scans, 3), QNET_ERROR_ARGUMENT, "batch is -1");
    bad = good;
    bad.rate_last = NAN;
    CHECK_FAILS(ctx, CREATE(&bad, train_scans, 3), QNET_ERROR_ARGUMENT, "rate_last is nan, expected at least 0");
    bad = good;
    bad.adam.beta2 = 1;
    CHECK_FAILS(ctx, CREATE(&bad, train_scans, 3), QNET_ERROR_ARGUMENT, "beta2 is 1");
    bad = good;
    bad.swa_share = 1.5;
    CHECK_FAILS(ctx, CREATE(&bad, train_scans, 3), QNET_ERROR_ARGUMENT, "swa_share is 1.5");
    CHECK(run == NULL);
    run = make_run(ctx, c, &good);
    CHECK_FAILS(ctx, qnet_training_finish(run), QNET_ERROR_ARGUMENT, "0 of 3 epochs");
    CHECK_FAILS(ctx, qnet_training_read(run, NULL), QNET_ERROR_ARGUMENT, "NULL");
    run->state->config.augment.percentile_low = 200; /* refused by the augmentation, in a parallel task */
    CHECK_FAILS(ctx, qnet_training_epoch(run), QNET_ERROR_ARGUMENT, "epoch 1 of 3, step 1 of 2: subject");
    CHECK_CONTAINS(qnet_last_error(ctx), "percentile_low is 200, expected 0 to 100");
    CHECK(qnet_training_epoch(NULL) == QNET_ERROR_ARGUMENT);
    qnet_training_destroy(run);
    qnet_training_destroy(NULL);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

static void test_embedding(void)
{
    static const int scans[] = {3, 0, 4}, outside[] = {-1};
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    small_cohort *c = make_cohort(ctx);
    qnet_augment_config augment;
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_real *features[3], x[32 * 32 * 3], logits[2], one[QNET_FEATURES];
    double probability[3][3][SLICES];
    qnet_augmentation record = qnet_augment_test(SIDE, SIDE, 32, 32);
    static const int batch[] = {16, 18, 20};
    size_t row = SLICES * QNET_FEATURES, i;
    int k, j;
    qnet_augment_config_init(&augment);
    qnet_resnet_config_init(&config);
    config.height = config.width = 32;
    config.training = 0;
    for (k = 0; k < 3; k++) { /* the same bits for any batch; first, scan by scan */
        features[k] = (qnet_real *)malloc(3 * row * sizeof(qnet_real));
        memset(features[k], 0x55, 3 * row * sizeof(qnet_real));
        config.batch = batch[k];
        CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
        memcpy(net->weights, start_weights, net->table->total * sizeof(qnet_real));
        for (j = 0; j < (k == 0 ? 3 : 1); j++)
            CHECK_OK(ctx, qnet_embed(net, &augment, &c->cohort, scans + j, k == 0 ? 1 : 3,
                                     features[k] + (size_t)j * row, &probability[k][j][0]));
        if (k < 2) qnet_resnet_destroy(net);
    }
    CHECK(memcmp(features[0], features[1], 3 * row * sizeof(qnet_real)) == 0);
    CHECK(memcmp(features[0], features[2], 3 * row * sizeof(qnet_real)) == 0);
    CHECK(TEST_BLAS || memcmp(probability[0], probability[1], sizeof(probability[0])) == 0);
    CHECK(TEST_BLAS || memcmp(probability[0], probability[2], sizeof(probability[0])) == 0);
    CHECK(strcmp(h.task, "features") == 0 && h.step == 1 && h.steps == 1);
    for (i = row + 2 * QNET_FEATURES; i < 2 * row; i++) /* scan 0 has two slices */
        if (features[2][i] != 0) CHECK(0 && "zero beyond the slices");
    CHECK(probability[2][1][2] == 0 && probability[2][1][3] == 0);

    /* Slice 1 of scan 4, by hand. */
    CHECK_OK(ctx, qnet_augment_apply(ctx, &augment, &record, qnet_scan_slice(&c->cohort, 4, 1), SIDE,
                                     SIDE, x, 32, 32, NULL));
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 1, 0, logits, one));
    CHECK(memcmp(one, features[2] + 2 * row + QNET_FEATURES, sizeof(one)) == 0);
    qnet_softmax(1, 2, logits, logits);
    CHECK_NEAR(probability[2][2][1], logits[QNET_HH], 1e-6); /* that softmax is in float */

    /* Failures leave the results alone. */
    memset(features[0], 0, 3 * row * sizeof(qnet_real));
    memset(features[1], 0, 3 * row * sizeof(qnet_real));
    CHECK_FAILS(ctx, qnet_embed(net, &augment, &c->cohort, outside, 1, features[0], NULL),
                QNET_ERROR_ARGUMENT, "scan -1");
    CHECK_FAILS(ctx, qnet_embed(net, NULL, &c->cohort, scans, 3, features[0], NULL),
                QNET_ERROR_ARGUMENT, "NULL");
    c->cohort.config.max_slices = 3;
    CHECK_FAILS(ctx, qnet_embed(net, &augment, &c->cohort, scans, 3, features[0], NULL),
                QNET_ERROR_ARGUMENT, "sub-03 has 4 slices: expected 3");
    c->cohort.config.max_slices = SLICES;
    c->pixels[11][0][0][0] = (float)INFINITY;
    CHECK_FAILS(ctx, qnet_embed(net, &augment, &c->cohort, scans, 3, features[0], NULL),
                QNET_ERROR_NUMERIC, "features, step 1 of 1: subject sub-03, slice 1: a pixel");
    c->pixels[11][0][0][0] = 0;
    net->weights[net->table->entries[qnet_param_find(net->table, "fc.weight")].offset] = (qnet_real)NAN;
    CHECK_FAILS(ctx, qnet_embed(net, &augment, &c->cohort, scans, 3, features[0], NULL),
                QNET_ERROR_NUMERIC, "sub-03, slice 0: the network gives NaN");
    CHECK(memcmp(features[0], features[1], 3 * row * sizeof(qnet_real)) == 0);
    CHECK(qnet_embed(NULL, &augment, &c->cohort, scans, 3, NULL, NULL) == QNET_ERROR_ARGUMENT);
    qnet_resnet_destroy(net);
    config.classes = 3;
    CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
    CHECK_FAILS(ctx, qnet_embed(net, &augment, &c->cohort, scans, 3, NULL, NULL), QNET_ERROR_ARGUMENT,
                "3 classes");
    qnet_resnet_destroy(net);
    config.classes = 2;
    config.height = 64;
    CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
    CHECK_FAILS(ctx, qnet_embed(net, &augment, &c->cohort, scans, 3, NULL, NULL), QNET_ERROR_SHAPE,
                "64 x 32");
    qnet_resnet_destroy(net);
    for (k = 0; k < 3; k++) free(features[k]);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

/* Every allocation of a call fails once; the call must say so, and leak nothing. */
static void test_stage1_out_of_memory(void)
{
    static const int scans[] = {0, 1};
    hooks_state h;
    qnet_context *ctx = make_context(&h, 3);
    small_cohort *c = make_cohort(ctx);
    qnet_stage1_config config = small_config(1);
    qnet_training *run = NULL;
    qnet_status status;
    long n, live = h.live;
    double probability[2 * SLICES];
    config.epochs = 1;
    for (n = 1, status = QNET_ERROR_MEMORY; status != QNET_OK; n++) {
        h.fail_at = h.calls + n;
        status = qnet_stage1_create(ctx, &config, &c->cohort, train_scans, 3, start_weights,
                                    &run);
        CHECK(status == QNET_OK || (status == QNET_ERROR_MEMORY && run == NULL && h.live == live));
    }
    CHECK(n == 4); /* network and run: two blocks */
    live = h.live;
    for (n = 1, status = QNET_ERROR_MEMORY; status != QNET_OK; n++) {
        h.fail_at = h.calls + n;
        status = qnet_embed(run->net, &config.augment, &c->cohort, scans, 2, NULL, probability);
        CHECK((status == QNET_OK || status == QNET_ERROR_MEMORY) && h.live == live);
    }
    CHECK(n == 3);
    h.fail_at = 0;
    qnet_training_destroy(run);
    free(c);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

/* ---- stage 2 ----------------------------------------------------------------------------------- */

enum { S2_COUNT = 7, S2_STEPS = 4 };
static const int s2_length[S2_COUNT] = {4, 1, 3, 4, 2, 4, 3};
static const int s2_label[S2_COUNT] = {0, 1, 0, 1, 1, 0, 1};

static qnet_real *make_features(void)
{
    qnet_real *f = (qnet_real *)malloc(S2_COUNT * S2_STEPS * QNET_FEATURES * sizeof(qnet_real));
    qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_USER, 0, 0);
    int i, t, k;
    for (i = 0; i < S2_COUNT; i++)
        for (t = 0; t < S2_STEPS; t++)
            for (k = 0; k < QNET_FEATURES; k++) {
                double v = qnet_rng_normal(&rng) * .3 + (k % 7 == 0 ? (s2_label[i] ? .5 : -.5) : 0);
                /* What lies beyond a scan's slices must not matter. */
                f[(i * S2_STEPS + t) * QNET_FEATURES + k] = (qnet_real)(t < s2_length[i] ? v : 1e3);
            }
    return f;
}

static qnet_stage2_config small_config2(void)
{
    qnet_stage2_config config;
    qnet_stage2_config_init(&config);
    config.epochs = 4;
    config.batch = 3;
    config.hidden = 16;
    config.steps = S2_STEPS;
    config.rate = 1e-2;
    config.seed = 11;
    return config;
}

static qnet_training *make_run2(qnet_context *ctx, const qnet_stage2_config *config,
                              const qnet_real *features)
{
    qnet_training *run = NULL;
    CHECK_OK(ctx, qnet_stage2_create(ctx, config, features, s2_length, s2_label, S2_COUNT, &run));
    if (run == NULL) abort();
    return run;
}

static uint64_t digest2(const qnet_training *run)
{
    const qnet_param_table *t = run->model->table;
    uint64_t h = digest_words(1, run->model->weights, t->total * sizeof(qnet_real));
    int i;
    h = digest_words(h, run->state->m, t->trainable * sizeof(qnet_real));
    h = digest_words(h, run->state->v, t->trainable * sizeof(qnet_real));
    for (i = 0; i < run->epochs; i++)
        h = digest_words(h, &run->history[i].loss, sizeof(double));
    return (h * 31 + (uint64_t)run->epoch) * 31 + run->step;
}

static void write2(qnet_training *run, qnet_buffer *bytes)
{
    qnet_sink sink = qnet_sink_buffer(run->ctx, bytes, "ck");
    bytes->size = 0;
    CHECK_OK(run->ctx, qnet_training_write(run, &sink));
}

static qnet_status read2(qnet_training *run, const qnet_buffer *bytes)
{
    qnet_memory_source state;
    qnet_source source = qnet_source_memory(&state, bytes->bytes, bytes->size, "ck");
    return qnet_training_read(run, &source);
}

static void test_stage2_resumes_with_the_same_bits(void)
{
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    qnet_stage2_config config = small_config2();
    qnet_real *features = make_features();
    qnet_training *run = make_run2(ctx, &config, features), *other = make_run2(ctx, &config, features);
    qnet_buffer bytes;
    uint64_t next = digest2(run), last;
    long calls = 0;
    int e;
    memset(&bytes, 0, sizeof(bytes));
    CHECK_OK(ctx, qnet_training_run(other, NULL));
    last = digest2(other);
    for (e = 0; e <= config.epochs; e++) {
        CHECK(digest2(run) == next);
        write2(run, &bytes);
        CHECK_OK(ctx, read2(other, &bytes));
        CHECK(other->epoch == e);
        if (e < config.epochs) {
            calls = h.calls;
            CHECK_OK(ctx, qnet_training_epoch(other));
            CHECK_OK(ctx, qnet_training_epoch(run));
            CHECK(h.calls == calls); /* training asks for no memory */
        }
        next = digest2(other);
    }
    CHECK(digest2(run) == last && run->step == 12);
    CHECK(run->history[3].loss < .5 * run->history[0].loss); /* it learns */
    CHECK_NEAR(run->history[0].loss, 2 * log(2.), .7);       /* two heads that know nothing yet */
    CHECK_FAILS(ctx, qnet_training_epoch(run), QNET_ERROR_ARGUMENT, "all 4 epochs");
    CHECK(strcmp(h.task, "stage 2") == 0 && h.steps == 3 && h.epochs == 4 && h.rate == 1e-2);
    qnet_training_destroy(run);
    qnet_training_destroy(other);
    qnet_training_destroy(NULL);
    qnet_buffer_free(ctx, &bytes);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
    free(features);
}

static void test_stage2_prediction(void)
{
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    qnet_stage2_config config = small_config2();
    qnet_real *features = make_features();
    qnet_training *run = make_run2(ctx, &config, features);
    double image[2][S2_COUNT][S2_STEPS], scan[2][S2_COUNT];
    int one_length[1] = {0}, i, t;
    CHECK_OK(ctx, qnet_training_run(run, NULL));
    CHECK_OK(ctx, qnet_scan_model_predict(run->model, features, s2_length, S2_COUNT, &image[0][0][0],
                                          scan[0]));
    for (i = 0; i < S2_COUNT; i++) { /* scan by scan: the same bits */
        CHECK_OK(ctx, qnet_scan_model_predict(run->model, features + i * S2_STEPS * QNET_FEATURES,
                                              s2_length + i, 1, image[1][i], &scan[1][i]));
        CHECK((scan[0][i] > .5) == s2_label[i]);
        for (t = 0; t < S2_STEPS; t++)
            CHECK(t < s2_length[i] ? image[0][i][t] > 0 && image[0][i][t] < 1 : image[0][i][t] == 0);
    }
    CHECK(memcmp(image[0], image[1], sizeof(image[0])) == 0);
    CHECK(memcmp(scan[0], scan[1], sizeof(scan[0])) == 0);
    CHECK_OK(ctx, qnet_scan_model_predict(run->model, features, s2_length, S2_COUNT, NULL, NULL));
    CHECK_FAILS(ctx, qnet_scan_model_predict(run->model, features, one_length, 1, image[1][0], NULL),
                QNET_ERROR_ARGUMENT, "length[0] must be 1..4, found 0");
    CHECK_FAILS(ctx, qnet_scan_model_predict(run->model, NULL, s2_length, 1, NULL, NULL),
                QNET_ERROR_ARGUMENT, "NULL");
    CHECK(qnet_scan_model_predict(NULL, features, s2_length, 1, NULL, NULL) == QNET_ERROR_ARGUMENT);
    i = qnet_param_find(run->model->table, "scan_head.bias");
    run->model->weights[run->model->table->entries[i].offset] = (qnet_real)NAN;
    CHECK_FAILS(ctx, qnet_scan_model_predict(run->model, features, s2_length, S2_COUNT, &image[0][0][0],
                                             scan[0]), QNET_ERROR_NUMERIC, "scan 0: the model gives NaN");
    CHECK(memcmp(scan[0], scan[1], sizeof(scan[0])) == 0);
    qnet_training_destroy(run);
    free(features);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

static void test_stage2_refuses(void)
{
    /* Both precisions may run at once. */
    const char *checkpoint2 = QNET__REAL_IS_DOUBLE ? "build/double_train2" : "build/test_train2";
    hooks_state h;
    qnet_context *ctx = make_context(&h, 0);
    qnet_stage2_config config = small_config2(), bad;
    qnet_real *features = make_features();
    qnet_training *run = make_run2(ctx, &config, features), *other = NULL;
    qnet_buffer bytes;
    int length[S2_COUNT], label[S2_COUNT];
    uint64_t before;
    size_t size;
    memcpy(length, s2_length, sizeof(length));
    memcpy(label, s2_label, sizeof(label));
    memset(&bytes, 0, sizeof(bytes));
    CHECK_OK(ctx, qnet_training_epoch(run));
    before = digest2(run);
    write2(run, &bytes);
    edit(&bytes, "\"hidden\":\"16\"", "\"hidden\":\"17\"");
    CHECK_FAILS(ctx, read2(run, &bytes), QNET_ERROR_MISMATCH, "has \"hidden=17\", this one has \"hidden=16\"");
    edit(&bytes, "\"hidden\":\"17\"", "\"hidden\":\"16\"");
    edit(&bytes, "\"finished\":\"0\"", "\"finished\":\"1\"");
    CHECK_FAILS(ctx, read2(run, &bytes), QNET_ERROR_FORMAT, "epoch 1 of 4 and finished 1 contradict");
    edit(&bytes, "\"finished\":\"1\"", "\"finished\":\"0\"");
    size = bytes.size;
    for (bytes.size = 0; bytes.size < size; bytes.size += size / 20)
        CHECK_FAILS(ctx, read2(run, &bytes), QNET_ERROR_FORMAT, "truncated");
    bytes.size = size;
    label[0] = 1;
    CHECK_OK(ctx, qnet_stage2_create(ctx, &config, features, length, label, S2_COUNT, &other));
    CHECK_FAILS(ctx, read2(other, &bytes), QNET_ERROR_MISMATCH, "has \"features and labels=");
    label[0] = 0;
    qnet_training_destroy(other);
    CHECK(digest2(run) == before);

    h.stop_at = h.reports + 2;
    CHECK_FAILS(ctx, qnet_training_epoch(run), QNET_STOPPED, "stage 2, epoch 2 of 4, step 2 of 3");
    CHECK_FAILS(ctx, qnet_training_epoch(run), QNET_ERROR_ARGUMENT, "load a checkpoint");
    CHECK_FAILS(ctx, qnet_training_save(run, "build/x"), QNET_ERROR_ARGUMENT, "load a checkpoint");
    CHECK_OK(ctx, read2(run, &bytes));
    CHECK(digest2(run) == before);
    run->model->weights[0] = (qnet_real)NAN;
    CHECK(qnet_training_epoch(run) == QNET_ERROR_NUMERIC);
    CHECK_CONTAINS(qnet_last_error(ctx), "stage 2, epoch 2 of 4");
    CHECK_OK(ctx, read2(run, &bytes));
    CHECK_OK(ctx, qnet_training_save(run, checkpoint2));
    CHECK_OK(ctx, qnet_training_run(run, checkpoint2));
    before = digest2(run);
    qnet_training_destroy(run);
    run = make_run2(ctx, &config, features);
    CHECK_OK(ctx, qnet_training_load(run, checkpoint2));
    CHECK(digest2(run) == before);
    CHECK_FAILS(ctx, qnet_training_load(run, "build/none"), QNET_ERROR_NOT_FOUND, "none");
    CHECK_FAILS(ctx, qnet_training_save(run, "build/no/such"), QNET_ERROR_IO, "such");
    remove(checkpoint2);
    qnet_buffer_free(ctx, &bytes);
    qnet_training_destroy(run);

    other = NULL;
#define CREATE2(config) qnet_stage2_create(ctx, config, features, length, label, S2_COUNT, &other)
    length[2] = 5;
    CHECK_FAILS(ctx, CREATE2(&config), QNET_ERROR_ARGUMENT, "scan 2: length 5");
    length[2] = 3;
    label[6] = -1;
    CHECK_FAILS(ctx, CREATE2(&config), QNET_ERROR_ARGUMENT, "scan 6: length 3, label -1");
    label[6] = 1;
    features[QNET_FEATURES * S2_STEPS * 2 + QNET_FEATURES + 9] = (qnet_real)NAN;
    CHECK_FAILS(ctx, CREATE2(&config), QNET_ERROR_NUMERIC, "scan 2, slice 1: feature 9");
    features[QNET_FEATURES * S2_STEPS * 2 + QNET_FEATURES + 9] = 0;
    bad = config;
    bad.rate = -1;
    CHECK_FAILS(ctx, CREATE2(&bad), QNET_ERROR_ARGUMENT, "rate is -1");
    bad = config;
    bad.steps = 0;
    CHECK_FAILS(ctx, CREATE2(&bad), QNET_ERROR_ARGUMENT, "steps is 0");
    bad = config;
    bad.hidden = 0;
    CHECK(CREATE2(&bad) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, CREATE2(NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(other == NULL);
    free(features);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

static void test_stage2_out_of_memory(void)
{
    hooks_state h;
    qnet_context *ctx = make_context(&h, 2);
    qnet_stage2_config config = small_config2();
    qnet_real *features = make_features();
    qnet_training *run = NULL;
    qnet_buffer bytes;
    qnet_status status = QNET_ERROR_MEMORY;
    double scan[S2_COUNT];
    long n, live = h.live;
    memset(&bytes, 0, sizeof(bytes));
    for (n = 1; status != QNET_OK; n++) {
        h.fail_at = h.calls + n;
        status = qnet_stage2_create(ctx, &config, features, s2_length, s2_label, S2_COUNT, &run);
        CHECK(status == QNET_OK || (status == QNET_ERROR_MEMORY && run == NULL && h.live == live));
    }
    CHECK(n == 4);
    live = h.live;
    for (n = 1, status = QNET_ERROR_MEMORY; status != QNET_OK; n++) {
        h.fail_at = h.calls + n;
        status = qnet_scan_model_predict(run->model, features, s2_length, S2_COUNT, NULL, scan);
        CHECK((status == QNET_OK || status == QNET_ERROR_MEMORY) && h.live == live);
    }
    CHECK(n == 3);
    h.fail_at = 0;
    write2(run, &bytes);
    live = h.live;
    for (n = 1, status = QNET_ERROR_MEMORY; status != QNET_OK; n++) {
        h.fail_at = h.calls + n;
        status = read2(run, &bytes);
        CHECK((status == QNET_OK || status == QNET_ERROR_MEMORY) && h.live == live);
    }
    CHECK(n > 8);
    h.fail_at = 0;
    qnet_buffer_free(ctx, &bytes);
    qnet_training_destroy(run);
    free(features);
    qnet_context_destroy(ctx);
    CHECK(h.live == 0);
}

int main(void)
{
    qnet_context *ctx;
    hooks_state h;
    int k;
    ctx = make_context(&h, 0);
    if (qnet_make_folder(ctx, "build") != QNET_OK) return 1;
    make_start_weights(ctx);
    qnet_context_destroy(ctx);
    RUN(test_configuration);
    if (!QNET__REAL_IS_DOUBLE) { /* checkpoints of 360 MB would teach nothing new */
        RUN(test_stage1_resumes_with_the_same_bits);
        RUN(test_progress_and_stop);
        RUN(test_stage1_refuses_other_checkpoints);
    }
    RUN(test_augmentation_is_named_by_image);
    RUN(test_stage1_averages_weights);
    RUN(test_stage1_learns);
    RUN(test_stage1_numeric_errors);
    RUN(test_stage1_arguments);
    RUN(test_embedding);
    RUN(test_stage1_out_of_memory);
    RUN(test_stage2_resumes_with_the_same_bits);
    RUN(test_stage2_prediction);
    RUN(test_stage2_refuses);
    RUN(test_stage2_out_of_memory);
    free(start_weights);
    for (k = 0; k < KEPT; k++) really_free(kept_blocks[k].p);
    return test_end();
}
