/* ours: our side of bench/peers.py. Reads one command a line, does the work, answers one line of
   JSON: {"seconds": [...], "values": [...]} or {"error": "..."}. Inputs come from the formula of
   tests/golden/formula.h, which the other side evaluates too, and weights from files that both
   read, so that both do the same work.

       hello                            values: none; "text": the build
       threads N                        0: all; drops what was made
       processor                        from here on, seconds are the processor's, not the clock's
       free                             drops networks and data
       peak                             values: FLOP/s, copied bytes/s, and the direct form's FLOPs
                                        of a training image of 224, 128 and 64 pixels, and of
                                        inference at 224
       weights RESNET SCAN              writes initial weights to these files
       train FILE SIZE BATCH STEPS      seconds and loss of each step; goes on where it was
       infer FILE SIZE BATCH ROUNDS     seconds of each round; probability of class 1 by image
       stage2 FILE RAGGED STEPS         seconds and loss; RAGGED 1: scans of 12..24 slices
       augment STRETCH THREADS ROUNDS   seconds of each batch of 64, all transforms on; STRETCH
                                        0 window, 1 percentiles anew, 2 found once, as in training
       augmented KIND FILE              one image by a fixed record: flips, colour, grid, affine
       delong COUNT ROUNDS              seconds; both AUCs, variances, covariance, z, p
       bootstrap COUNT RESAMPLES ROUNDS seconds; AUC of the sample, mean and deviation of AUCs
       maps_open FOLDER                 reads the echoes there
       maps_unwrap ROUNDS ..., maps_background, maps_invert, maps_r2star, maps_chain, maps_brain,
       maps_fft                         seconds; what the other side compares: echoes.h
       memory                           values: resident bytes now and at their peak (Linux)

   And as a program that starts, predicts and ends: ours predict FILE SIZE IMAGE, where IMAGE holds
   SIZE x SIZE x 3 floats; prints the probability of class 1. */
#if defined(__linux__)
#define _POSIX_C_SOURCE 200809L
#endif
#define QNET_IMPLEMENTATION
#include "../qnet.h"
#include "../tests/golden/formula.h"
#include "machine.h"
#include "echoes.h"

#define MOST 4096     /* of ROUNDS and STEPS */
#define PREPARED 260  /* side of an image before augmentation */
#define CROPPED 224

typedef struct session {
    qnet_context *ctx;
    int threads, processor;
    qnet_resnet *net; /* what it was made for: */
    int size, batch, training, ragged;
    qnet_scan_model *scan;
    qnet_adam_config adam;
    uint64_t step;
    qnet_real *x, *m, *v, *logits;
    size_t inputs;
    int *label, *length;
    echoes_scan scan_of_echoes;
    double seconds[MOST], values[MOST];
    int seconds_count, values_count;
} session;

static void answer(session *s, const char *text)
{
    int i;
    printf("{\"text\": \"%s\", \"seconds\": [", text);
    for (i = 0; i < s->seconds_count; i++) printf("%s%.9g", i ? ", " : "", s->seconds[i]);
    printf("], \"values\": [");
    for (i = 0; i < s->values_count; i++) printf("%s%.17g", i ? ", " : "", s->values[i]);
    printf("]}\n");
    fflush(stdout);
}

/* The other side is told, and the program ends: nothing goes on with half a state. */
static void fail(const char *text)
{
    printf("{\"error\": \"");
    for (; *text; text++) putchar(*text == '"' || *text == '\\' ? '\'' : *text);
    printf("\"}\n");
    fflush(stdout);
    exit(1);
}

static void must(session *s, qnet_status status)
{
    if (status != QNET_OK) fail(qnet_last_error(s->ctx));
}

static void open_context(session *s)
{
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = s->threads;
    if (qnet_context_create(&hooks, &s->ctx) != QNET_OK) fail("no context");
}

static double now(const session *s)
{
    return s->processor ? (double)clock() / CLOCKS_PER_SEC : wall_seconds(s->ctx);
}

static void drop(session *s)
{
    const size_t batch = (size_t)s->batch;
    size_t n = 0;
    if (s->net != NULL) n = s->net->table->trainable;
    if (s->scan != NULL) n = s->scan->table->trainable;
    unblock(s->ctx, s->x, s->inputs * sizeof *s->x);
    unblock(s->ctx, s->m, n * sizeof *s->m), unblock(s->ctx, s->v, n * sizeof *s->v);
    unblock(s->ctx, s->logits, batch * QNET_CLASSES * sizeof *s->logits);
    unblock(s->ctx, s->label, batch * sizeof *s->label);
    unblock(s->ctx, s->length, batch * sizeof *s->length);
    qnet_resnet_destroy(s->net);
    qnet_scan_model_destroy(s->scan);
    echoes_close(&s->scan_of_echoes);
    s->net = NULL, s->scan = NULL;
    s->x = s->m = s->v = s->logits = NULL;
    s->label = s->length = NULL;
    s->step = 0;
}

/* x[i] = 4 (formula(index, i) - 1/2). */
static void formula_input(qnet_real *x, uint32_t index, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) x[i] = (qnet_real)((formula(index, (uint32_t)i) - .5) * 4);
}

static void moments(session *s, size_t count)
{
    s->m = (qnet_real *)block(s->ctx, count * sizeof *s->m);
    s->v = (qnet_real *)block(s->ctx, count * sizeof *s->v);
}

/* The network for this work, its weights from the file, unless it is there already. */
static void want_resnet(session *s, const char *file, int size, int batch, int training)
{
    qnet_resnet_config config;
    int i;
    if (s->net != NULL && s->size == size && s->batch == batch && s->training == training) return;
    drop(s);
    qnet_resnet_config_init(&config);
    config.height = config.width = s->size = size;
    config.batch = s->batch = batch;
    config.training = s->training = training;
    must(s, qnet_resnet_create(s->ctx, &config, &s->net));
    must(s, qnet_weights_load(s->ctx, file, s->net->table, s->net->weights, 0, NULL));
    if (!training) must(s, qnet_resnet_pack(s->net));
    s->inputs = (size_t)batch * (size_t)size * (size_t)size * 3;
    s->x = (qnet_real *)block(s->ctx, s->inputs * sizeof *s->x);
    formula_input(s->x, 7, s->inputs);
    s->logits = (qnet_real *)block(s->ctx, (size_t)batch * QNET_CLASSES * sizeof *s->logits);
    s->label = (int *)block(s->ctx, (size_t)batch * sizeof *s->label);
    for (i = 0; i < batch; i++) s->label[i] = i % 2;
    if (training) moments(s, s->net->table->trainable);
}

static void want_scan(session *s, const char *file, int ragged)
{
    qnet_scan_config config;
    int i;
    if (s->scan != NULL && s->ragged == ragged) return;
    drop(s);
    qnet_scan_config_init(&config);
    config.training = 1;
    s->batch = config.batch, s->ragged = ragged;
    must(s, qnet_scan_model_create(s->ctx, &config, &s->scan));
    must(s, qnet_weights_load(s->ctx, file, s->scan->table, s->scan->weights, 0, NULL));
    s->inputs = (size_t)s->batch * (size_t)config.steps * (size_t)config.features;
    s->x = (qnet_real *)block(s->ctx, s->inputs * sizeof *s->x);
    formula_input(s->x, 8, s->inputs);
    s->label = (int *)block(s->ctx, (size_t)s->batch * sizeof *s->label);
    s->length = (int *)block(s->ctx, (size_t)s->batch * sizeof *s->length);
    for (i = 0; i < s->batch; i++) {
        s->label[i] = i % 2;
        s->length[i] = ragged ? 12 + i * 5 % 13 : config.steps;
    }
    moments(s, s->scan->table->trainable);
}

/* Random convolutions as PyTorch draws them, and batch-norm statistics of real passes: with the
   initial 0 and 1, activations double from block to block and probabilities are all 0 or 1. */
static void write_weights(session *s, const char *resnet_file, const char *scan_file)
{
    qnet_resnet_config config;
    qnet_scan_config scan_config;
    qnet_resnet *net = NULL;
    qnet_scan_model *scan = NULL;
    const size_t count = 16 * 64 * 64 * 3;
    qnet_real *x = (qnet_real *)block(s->ctx, count * sizeof *x);
    qnet_resnet_config_init(&config);
    config.height = config.width = 64, config.batch = 16;
    must(s, qnet_resnet_create(s->ctx, &config, &net));
    qnet_resnet_init(net, 1);
    formula_input(x, 9, count);
    qnet_resnet_set_momentum(net, 1);
    must(s, qnet_resnet_forward(net, x, 16, 1, NULL, NULL));
    must(s, qnet_weights_save(s->ctx, resnet_file, net->table, net->weights, NULL, 0));
    qnet_resnet_destroy(net);
    unblock(s->ctx, x, count * sizeof *x);
    qnet_scan_config_init(&scan_config);
    must(s, qnet_scan_model_create(s->ctx, &scan_config, &scan));
    qnet_scan_model_init(scan, 1);
    must(s, qnet_weights_save(s->ctx, scan_file, scan->table, scan->weights, NULL, 0));
    qnet_scan_model_destroy(scan);
}

static void train(session *s, int steps)
{
    int i;
    for (i = 0; i < steps; i++) {
        const double start = now(s);
        must(s, qnet_resnet_forward(s->net, s->x, s->batch, 1, s->logits, NULL));
        must(s, qnet_cross_entropy(s->ctx, (size_t)s->batch, QNET_CLASSES, s->logits, s->label,
                                   &s->values[i], s->logits));
        must(s, qnet_resnet_backward(s->net, s->x, s->batch, s->logits));
        qnet_adam_step(s->ctx, &s->adam, s->net->table->trainable, s->net->weights,
                       s->net->gradients, s->m, s->v, 1e-4, ++s->step);
        s->seconds[i] = now(s) - start;
    }
    s->seconds_count = s->values_count = steps;
}

static void infer(session *s, int rounds)
{
    int i;
    for (i = 0; i < rounds; i++) {
        const double start = now(s);
        must(s, qnet_resnet_forward(s->net, s->x, s->batch, 0, s->logits, NULL));
        qnet_softmax((size_t)s->batch, QNET_CLASSES, s->logits, s->logits);
        s->seconds[i] = now(s) - start;
    }
    for (i = 0; i < s->batch && i < MOST; i++) s->values[i] = (double)s->logits[2 * i + 1];
    s->seconds_count = rounds, s->values_count = i;
}

static void stage2(session *s, int steps)
{
    double image_loss, scan_loss;
    int i;
    for (i = 0; i < steps; i++) {
        const double start = now(s);
        must(s, qnet_scan_model_loss(s->scan, s->x, s->length, s->label, s->batch, &image_loss,
                                     &scan_loss, 1));
        qnet_adam_step(s->ctx, &s->adam, s->scan->table->trainable, s->scan->weights,
                       s->scan->gradients, s->m, s->v, 3e-4, ++s->step);
        s->seconds[i] = now(s) - start;
        s->values[i] = image_loss + scan_loss;
    }
    s->seconds_count = s->values_count = steps;
}

/* ---- Augmentation ---- */

/* A smooth image in 0..1; peers.py has the same. */
static void smooth_image(float *pixels)
{
    int y, x, c;
    for (y = 0; y < PREPARED; y++)
        for (x = 0; x < PREPARED; x++)
            for (c = 0; c < 3; c++)
                *pixels++ = (float)(.5 + .3 * sin(.11 * x + .5 * c) * cos(.13 * y) +
                                    .15 * sin(.07 * (x + 2 * y)));
}

/* Stretching by percentiles or by a window of 0..1, which leaves the image. */
static void augment_settings(qnet_augment_config *config, int stretch)
{
    int c;
    qnet_augment_config_init(config);
    config->stretch = stretch ? QNET_STRETCH_PERCENTILE : QNET_STRETCH_WINDOW;
    for (c = 0; c < 3; c++) config->window_low[c] = 0, config->window_high[c] = 1;
    config->p_hflip = config->p_vflip = config->p_brightness_contrast = config->p_gamma = 1;
    config->p_grid = config->p_affine = 1;
}

typedef struct augment_job {
    qnet_context *ctx;
    qnet_augment_config config;
    float *pixels, limits[2][3];
    int once; /* the limits are known */
    qnet_real *out;
    unsigned char *scratch;
    size_t scratch_bytes;
    uint32_t round;
} augment_job;

static void augment_task(void *arg, size_t index, size_t worker)
{
    augment_job *j = (augment_job *)arg;
    qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_AUGMENT, j->round, index);
    qnet_augmentation record =
        qnet_augment_draw(&j->config, &rng, PREPARED, PREPARED, CROPPED, CROPPED);
    qnet_augment_apply_within(j->ctx, &j->config, &record, j->pixels, PREPARED, PREPARED,
                              j->once ? j->limits[0] : NULL, j->limits[1],
                              j->out + index * CROPPED * CROPPED * 3, CROPPED, CROPPED,
                              j->scratch + worker * j->scratch_bytes);
}

static void augment(session *s, int stretch, int one_thread, int rounds)
{
    const qnet_parallel *p = &qnet_context_hooks(s->ctx)->parallel;
    const size_t pixels = PREPARED * PREPARED * 3 * sizeof(float);
    const size_t out = 64 * CROPPED * CROPPED * 3 * sizeof(qnet_real);
    augment_job j;
    size_t scratch;
    int i, k;
    j.ctx = s->ctx, j.round = 0;
    augment_settings(&j.config, stretch);
    j.scratch_bytes = (qnet_augment_scratch(PREPARED, PREPARED) + 63) / 64 * 64;
    scratch = j.scratch_bytes * p->workers;
    j.pixels = (float *)block(s->ctx, pixels);
    j.out = (qnet_real *)block(s->ctx, out);
    j.scratch = (unsigned char *)block(s->ctx, scratch);
    smooth_image(j.pixels);
    j.once = stretch == 2;
    must(s, qnet_stretch_limits(s->ctx, &j.config, j.pixels, PREPARED * PREPARED, j.limits[0],
                                j.limits[1], j.scratch));
    for (i = 0; i < rounds; i++, j.round++) {
        const double start = now(s);
        if (one_thread) {
            for (k = 0; k < 64; k++) augment_task(&j, (size_t)k, 0);
        } else {
            p->run(p->user, 64, augment_task, &j);
        }
        s->seconds[i] = now(s) - start;
    }
    s->seconds_count = rounds;
    unblock(s->ctx, j.pixels, pixels), unblock(s->ctx, j.out, out);
    unblock(s->ctx, j.scratch, scratch);
}

/* The whole image by a record with fixed values, as raw floats. */
static void augmented(session *s, const char *kind, const char *path)
{
    static const double grid_x[] = {1.21, .83, .74, 1.29, .95, 1.11};
    static const double grid_y[] = {.72, 1.05, 1.3, .88, 1.17, .91};
    const size_t bytes = PREPARED * PREPARED * 3 * sizeof(float);
    float *pixels = (float *)block(s->ctx, bytes);
    qnet_real *out = (qnet_real *)block(s->ctx, bytes / sizeof(float) * sizeof *out);
    qnet_augmentation r = qnet_augment_test(PREPARED, PREPARED, PREPARED, PREPARED);
    qnet_augment_config config;
    FILE *file;
    augment_settings(&config, 0);
    smooth_image(pixels);
    if (strcmp(kind, "flips") == 0) {
        r.hflip = r.vflip = 1;
    } else if (strcmp(kind, "colour") == 0) {
        r.brightness_contrast = r.gamma_on = 1;
        r.alpha = 1.17, r.beta = -.12, r.gamma = .83;
    } else if (strcmp(kind, "grid") == 0) {
        r.grid = 1;
        memcpy(r.grid_x, grid_x, sizeof grid_x), memcpy(r.grid_y, grid_y, sizeof grid_y);
    } else if (strcmp(kind, "affine") == 0) {
        r.affine = 1;
        r.angle = 31, r.scale = .93, r.dx = .05, r.dy = -.04;
    } else {
        fail("augmented: flips, colour, grid or affine");
    }
    must(s, qnet_augment_apply(s->ctx, &config, &r, pixels, PREPARED, PREPARED, out, PREPARED,
                               PREPARED, NULL));
    file = fopen(path, "wb");
    if (file == NULL || fwrite(out, 1, bytes, file) != bytes || fclose(file) != 0)
        fail("augmented: the file could not be written");
    unblock(s->ctx, pixels, bytes), unblock(s->ctx, out, bytes / sizeof(float) * sizeof *out);
}

/* ---- Statistics ---- */

/* label = formula(20) > .5; score k = label * shift + formula(21 + k) + formula(24) / 2. */
static void scores(session *s, size_t count, int **label, double *score[2])
{
    size_t i;
    int k;
    *label = (int *)block(s->ctx, count * sizeof **label);
    for (k = 0; k < 2; k++) score[k] = (double *)block(s->ctx, count * sizeof(double));
    for (i = 0; i < count; i++) {
        const uint32_t j = (uint32_t)i;
        (*label)[i] = formula(20, j) > .5;
        score[0][i] = (*label)[i] * .5 + formula(21, j) + formula(24, j) / 2;
        score[1][i] = (*label)[i] * .498 + formula(22, j) + formula(24, j) / 2;
    }
}

static void delong(session *s, size_t count, int rounds)
{
    int *label, i;
    double *score[2];
    qnet_delong d;
    scores(s, count, &label, score);
    for (i = 0; i < rounds; i++) {
        const double start = now(s);
        must(s, qnet_delong_test(s->ctx, label, score[0], score[1], NULL, count, &d));
        s->seconds[i] = now(s) - start;
    }
    s->values[0] = d.auc[0], s->values[1] = d.auc[1];
    s->values[2] = d.variance[0], s->values[3] = d.variance[1], s->values[4] = d.covariance;
    s->values[5] = d.z, s->values[6] = d.p;
    s->seconds_count = rounds, s->values_count = 7;
    unblock(s->ctx, label, count * sizeof *label);
    for (i = 0; i < 2; i++) unblock(s->ctx, score[i], count * sizeof(double));
}

static void bootstrap(session *s, size_t count, int resamples, int rounds)
{
    double *score[2], mean = 0, square = 0;
    double *auc = (double *)block(s->ctx, (size_t)resamples * sizeof *auc);
    int *label, i;
    scores(s, count, &label, score);
    for (i = 0; i < rounds; i++) {
        const double start = now(s);
        must(s, qnet_bootstrap_auc(s->ctx, label, score[0], NULL, count, resamples, 1, auc));
        s->seconds[i] = now(s) - start;
    }
    for (i = 0; i < resamples; i++) mean += auc[i] / resamples;
    for (i = 0; i < resamples; i++) square += (auc[i] - mean) * (auc[i] - mean);
    must(s, qnet_auc(s->ctx, label, score[0], count, &s->values[0]));
    s->values[1] = mean, s->values[2] = sqrt(square / (resamples - 1));
    s->seconds_count = rounds, s->values_count = 3;
    unblock(s->ctx, auc, (size_t)resamples * sizeof *auc);
    unblock(s->ctx, label, count * sizeof *label);
    for (i = 0; i < 2; i++) unblock(s->ctx, score[i], count * sizeof(double));
}

/* A folder like ../shared/data/echoes: six echoes of 5 ms, 3 T, and the true mask. */
static qnet_status echoes_read(qnet_context *ctx, const char *folder, echoes_scan *s)
{
    char path[600];
    memset(s, 0, sizeof *s);
    s->ctx = ctx;
    for (int k = 0; k < 2 * ECHOES; k++) {
        snprintf(path, sizeof path, "%.400s/sub-01/anat/sub-01_echo-%d_part-%s_MEGRE.nii.gz",
                 folder, k / 2 + 1, k % 2 ? "phase" : "mag");
        QNET__TRY(qnet_nifti_load(ctx, path, k % 2 ? &s->phase[k / 2] : &s->magnitude[k / 2]));
    }
    snprintf(path, sizeof path, "%.400s/derivatives/truth/sub-01/anat/"
             "sub-01_desc-brain_mask.nii.gz", folder);
    QNET__TRY(qnet_nifti_load(ctx, path, &s->mask));
    echoes_ready(s);
    return QNET_OK;
}

/* A step of the maps. What it needs of those before is made first, if it is not there. */
static void maps_step(session *s, echoes_step step, int rounds)
{
    echoes_scan *scan = &s->scan_of_echoes;
    if (scan->mask == NULL) fail("maps_open comes first");
    if (scan->field == NULL && step != echoes_chain) must(s, echoes_unwrap(scan, NULL, NULL));
    if (scan->local == NULL && step == echoes_invert) must(s, echoes_background(scan, NULL, NULL));
    for (int i = 0; i < rounds; i++) {
        const double start = now(s);
        must(s, step(scan, NULL, NULL));
        s->seconds[s->seconds_count++] = now(s) - start;
    }
    must(s, step(scan, s->values, &s->values_count));
}

/* VmRSS and VmHWM of /proc/self/status, in bytes; left out where there is no such file. */
static void memory(session *s)
{
    FILE *file = fopen("/proc/self/status", "r");
    char text[256];
    double now = 0, peak = 0;
    while (file != NULL && fgets(text, (int)sizeof text, file) != NULL) {
        if (strncmp(text, "VmRSS:", 6) == 0) now = strtod(text + 6, NULL) * 1024;
        if (strncmp(text, "VmHWM:", 6) == 0) peak = strtod(text + 6, NULL) * 1024;
    }
    if (file != NULL) fclose(file);
    s->values[0] = now, s->values[1] = peak;
    s->values_count = file != NULL ? 2 : 0;
}

static int predict(session *s, const char *file, int size, const char *image)
{
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_buffer bytes;
    qnet_real probability[QNET_CLASSES];
    memset(&bytes, 0, sizeof bytes);
    open_context(s);
    qnet_resnet_config_init(&config);
    config.height = config.width = size, config.batch = 1, config.training = 0;
    must(s, qnet_resnet_create(s->ctx, &config, &net));
    must(s, qnet_weights_load(s->ctx, file, net->table, net->weights, 0, NULL));
    must(s, qnet_file_read(s->ctx, image, 0, &bytes));
    if (bytes.size != (size_t)size * (size_t)size * 3 * sizeof(float)) fail("image: wrong size");
    must(s, qnet_resnet_forward(net, (const qnet_real *)(void *)bytes.bytes, 1, 0, probability,
                                NULL));
    qnet_softmax(1, QNET_CLASSES, probability, probability);
    printf("%.9g\n", (double)probability[1]);
    fflush(stdout);
    qnet_buffer_free(s->ctx, &bytes);
    qnet_resnet_destroy(net);
    qnet_context_destroy(s->ctx);
    return 0;
}

/* Word k of a command as a number in 0..most. */
static int number(char *word[6], int k, int most)
{
    char *end = NULL;
    const long n = word[k] != NULL ? strtol(word[k], &end, 10) : -1;
    if (word[k] == NULL || *end != 0 || n < 0 || n > most) fail("a number is missing or too large");
    return (int)n;
}

static const char *word_of(char *word[6], int k)
{
    if (word[k] == NULL) fail("a word is missing");
    return word[k];
}

int main(int argc, char **argv)
{
    static session s; /* too large for a stack */
    char text[4096], build[200];
    memset(&s, 0, sizeof s);
    qnet_adam_config_init(&s.adam);
    if (argc == 5 && strcmp(argv[1], "predict") == 0)
        return predict(&s, argv[2], number(argv, 3, MOST), argv[4]);
    open_context(&s);
    while (fgets(text, (int)sizeof text, stdin) != NULL) {
        char *word[6] = {NULL, NULL, NULL, NULL, NULL, NULL};
        int k = 0;
        s.seconds_count = s.values_count = 0;
        build[0] = 0;
        for (word[0] = strtok(text, " \r\n"); k < 5 && word[k] != NULL; k++)
            word[k + 1] = strtok(NULL, " \r\n");
        if (word[0] == NULL) continue;
        if (strcmp(word[0], "hello") == 0) {
            qnet_describe_build(s.ctx, build, sizeof build);
        } else if (strcmp(word[0], "threads") == 0) {
            drop(&s);
            qnet_context_destroy(s.ctx);
            s.threads = number(word, 1, MOST);
            open_context(&s);
        } else if (strcmp(word[0], "processor") == 0) {
            s.processor = 1;
        } else if (strcmp(word[0], "free") == 0) {
            drop(&s);
        } else if (strcmp(word[0], "peak") == 0) {
            s.values[0] = measure_peak(s.ctx);
            s.values[1] = measure_copy(s.ctx);
            for (k = 0; k < 3; k++) s.values[2 + k] = network_flops(k == 0 ? 224 : 256 >> k, 1);
            s.values[5] = network_flops(224, 0);
            s.values_count = 6;
        } else if (strcmp(word[0], "weights") == 0) {
            write_weights(&s, word_of(word, 1), word_of(word, 2));
        } else if (strcmp(word[0], "train") == 0) {
            want_resnet(&s, word_of(word, 1), number(word, 2, MOST), number(word, 3, MOST), 1);
            train(&s, number(word, 4, MOST));
        } else if (strcmp(word[0], "infer") == 0) {
            want_resnet(&s, word_of(word, 1), number(word, 2, MOST), number(word, 3, MOST), 0);
            infer(&s, number(word, 4, MOST));
        } else if (strcmp(word[0], "stage2") == 0) {
            want_scan(&s, word_of(word, 1), number(word, 2, 1));
            stage2(&s, number(word, 3, MOST));
        } else if (strcmp(word[0], "augment") == 0) {
            augment(&s, number(word, 1, 2), number(word, 2, MOST) == 1, number(word, 3, MOST));
        } else if (strcmp(word[0], "augmented") == 0) {
            augmented(&s, word_of(word, 1), word_of(word, 2));
        } else if (strcmp(word[0], "delong") == 0) {
            delong(&s, (size_t)number(word, 1, 100000000), number(word, 2, MOST));
        } else if (strcmp(word[0], "bootstrap") == 0) {
            bootstrap(&s, (size_t)number(word, 1, 100000000), number(word, 2, 1000000),
                      number(word, 3, MOST));
        } else if (strcmp(word[0], "maps_open") == 0) {
            echoes_close(&s.scan_of_echoes);
            must(&s, echoes_read(s.ctx, word_of(word, 1), &s.scan_of_echoes));
        } else if (strncmp(word[0], "maps_", 5) == 0) {
            for (k = 0; k < ECHOES_STEPS && strcmp(word[0], echoes_steps[k].name) != 0;) k++;
            if (k == ECHOES_STEPS) fail("no such command");
            maps_step(&s, echoes_steps[k].run, number(word, 1, MOST));
        } else if (strcmp(word[0], "memory") == 0) {
            memory(&s);
        } else {
            fail("no such command");
        }
        answer(&s, build);
    }
    drop(&s);
    qnet_context_destroy(s.ctx);
    return 0;
}
