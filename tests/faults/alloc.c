/* Every allocation of every public function that asks for memory is failed, alone and with all
   after it: the status is QNET_ERROR_MEMORY, a sentence says so, out-parameters and old files are
   as they were, all memory comes back with its size, and the same call then succeeds with the same
   result. Without an argument what takes long is tried at some points; "all": at each, whole
   experiments at 20; or the name of one case. */
#define _POSIX_C_SOURCE 200112L
#define QNET_IMPLEMENTATION
#include "qnet.h"
#define PTH_IMPLEMENTATION
#include "weights_tools/pth.h"
#include "../memory.h"
#include "../test.h"
#include "../quick.h"
#include "examples/crossval/bids.h"
#define CAM_SCANS 1
#include "crossval/report.h"
#include "phantom.h"
#include "../gzip.h"

#define FOLDER "build/faults_alloc"
#define DATA FOLDER "/data"

/* One case with one allocation failed: the first attempt fails, the second is let be. */
typedef struct trial {
    memory_watch m;
    qnet_hooks hooks;
    qnet_context *ctx;
    size_t fail_at, points, live;
    int fail_on, attempt;
    int silent; /* no context that could hold a sentence */
    qnet_status status;
    uint64_t hash; /* of the result */
} trial;

static qnet_context *plain;    /* for what is prepared before */
static memory_watch all_plain; /* its memory */

static void begin(trial *t)
{
    t->live = t->m.count;
    t->m.calls = t->m.failed = 0;
    t->m.fail_at = t->attempt == 0 ? t->fail_at : 0;
    t->m.fail_on = t->fail_on;
}

static void end(trial *t)
{
    t->m.fail_at = 0;
    if (t->m.calls > t->points) t->points = t->m.calls;
}

/* The call under test. */
#define TRY(t, call) (begin(t), (t)->status = (call), end(t))

/* Out-parameters before a call. */
#define OUT(x) memset(&(x), 0x5A, sizeof(x))

/* After TRY: 1 when the failed call shall be made again. p[n]: what it must have left alone, as it
   was (NULL: as OUT made it). */
static int again(trial *t, const void *p, const void *was, size_t n)
{
    size_t i;
    int same = 1;
    if (t->status == QNET_OK) return 0;
    CHECK(t->m.failed > 0 && t->attempt == 0);
    CHECK(t->status == QNET_ERROR_MEMORY);
    if (t->status != QNET_ERROR_MEMORY)
        printf("    allocation %lu: %s: %s\n", (unsigned long)t->fail_at,
               qnet_status_name(t->status), t->silent ? "" : qnet_last_error(t->ctx));
    if (!t->silent) CHECK_CONTAINS(qnet_last_error(t->ctx), "memory");
    for (i = 0; i < n; i++)
        same &= ((const unsigned char *)p)[i] == (was ? ((const unsigned char *)was)[i] : 0x5A);
    CHECK(same && "what the call should not touch");
    CHECK(t->m.count == t->live && "nothing is held back");
    if (t->m.failed == 0 || t->attempt > 0) return 0;
    t->attempt = 1;
    return 1;
}

static void add_hash(trial *t, const void *p, size_t n)
{
    t->hash = qnet_hash(t->hash, p, n);
}

/* A file that must stay while its replacement fails. */
static void old_file(const char *path)
{
    CHECK_OK(plain, qnet_file_replace(plain, path, "old", 3));
}

static int again_file(trial *t, const char *path)
{
    if (t->status != QNET_OK) {
        qnet_buffer b = {0};
        CHECK_OK(plain, qnet_file_read(plain, path, 0, &b));
        CHECK(b.size == 3 && memcmp(b.bytes, "old", 3) == 0);
        qnet_buffer_free(plain, &b);
    }
    return again(t, NULL, NULL, 0);
}

/* Of its first bytes, which say of a checkpoint how far it is. */
static void hash_file(trial *t, const char *path)
{
    char bytes[4096];
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    if (file == NULL) return;
    add_hash(t, bytes, fread(bytes, 1, sizeof bytes, file));
    fclose(file);
}

static void hash_and_free(trial *t, qnet_buffer *b)
{
    add_hash(t, b->bytes, b->size);
    qnet_buffer_free(t->ctx, b);
}

/* x[n] that are the same at each call. */
static qnet_real *numbers(size_t n)
{
    qnet_real *x = (qnet_real *)malloc(n * sizeof *x);
    size_t i;
    if (x == NULL) abort();
    for (i = 0; i < n; i++) x[i] = (qnet_real)((double)(i * 2654435761u % 1000) / 1000 - .5);
    return x;
}

/* ---- ground floor ---- */

static void context_create(trial *t)
{
    qnet_context *out;
    t->silent = 1;
    do {
        OUT(out);
        TRY(t, qnet_context_create(&t->hooks, &out));
    } while (again(t, &out, NULL, sizeof out));
    if (t->status == QNET_OK) qnet_context_destroy(out);
}

static void buffer_append(trial *t)
{
    qnet_buffer b = {0}, was;
    CHECK_OK(t->ctx, qnet_buffer_append(t->ctx, &b, "before", 6));
    was = b;
    do TRY(t, qnet_buffer_append(t->ctx, &b, DATA DATA DATA DATA DATA DATA DATA DATA DATA DATA DATA
                                 DATA DATA DATA DATA DATA, 16 * strlen(DATA)));
    while (again(t, &b, &was, sizeof b));
    hash_and_free(t, &b);
}

static void buffer_printf(trial *t)
{
    qnet_buffer b = {0}, was = {0};
    do TRY(t, qnet_buffer_printf(t->ctx, &b, "%300d", 7));
    while (again(t, &b, &was, sizeof b));
    hash_and_free(t, &b);
}

static void file_replace(trial *t)
{
    old_file(FOLDER "/replaced");
    do TRY(t, qnet_file_replace(t->ctx, FOLDER "/replaced", "new", 3));
    while (again_file(t, FOLDER "/replaced"));
    hash_file(t, FOLDER "/replaced");
}

static void file_read(trial *t)
{
    qnet_buffer b = {0}, was = {0};
    old_file(FOLDER "/read");
    do TRY(t, qnet_file_read(t->ctx, FOLDER "/read", 0, &b));
    while (again(t, &b, &was, sizeof b));
    hash_and_free(t, &b);
}

static void make_folder(trial *t)
{
    do TRY(t, qnet_make_folder(t->ctx, FOLDER "/a/b"));
    while (again(t, NULL, NULL, 0));
}

/* ---- layers with scratch NULL ---- */

#define SIDE 8
#define CHANNELS 64

static void gemm(trial *t)
{
    const size_t n = CHANNELS;
    qnet_real *a = numbers(n * n), *b = numbers(n * n), *c = numbers(n * n), *was = numbers(n * n);
    do TRY(t, qnet_gemm(t->ctx, 0, 1, n, n, n, a, n, b, n, 0, c, n, NULL));
    while (again(t, c, was, n * n * sizeof *c));
    add_hash(t, c, n * n * sizeof *c);
    free(a), free(b), free(c), free(was);
}

static void conv_forward(trial *t, int kernel, int stride)
{
    const qnet_conv2d shape = {2, SIDE, SIDE, CHANNELS, CHANNELS, kernel, stride, kernel / 2};
    const size_t in = 2 * SIDE * SIDE * CHANNELS;
    const size_t weights = (size_t)(kernel * kernel) * CHANNELS * CHANNELS;
    const size_t out = in / (size_t)(stride * stride);
    qnet_real *x = numbers(in), *w = numbers(weights), *y = numbers(out), *was = numbers(out);
    do TRY(t, qnet_conv2d_forward(t->ctx, &shape, x, w, y, NULL));
    while (again(t, y, was, out * sizeof *y));
    add_hash(t, y, out * sizeof *y);
    free(x), free(w), free(y), free(was);
}

static void conv_backward(trial *t, int kernel, int stride)
{
    const qnet_conv2d shape = {2, SIDE, SIDE, CHANNELS, CHANNELS, kernel, stride, kernel / 2};
    const size_t in = 2 * SIDE * SIDE * CHANNELS;
    const size_t weights = (size_t)(kernel * kernel) * CHANNELS * CHANNELS;
    const size_t out = in / (size_t)(stride * stride);
    qnet_real *x = numbers(in), *w = numbers(weights), *dy = numbers(out);
    qnet_real *dx = numbers(in), *dw = numbers(weights), *was = numbers(in + weights);
    do TRY(t, qnet_conv2d_backward(t->ctx, &shape, x, w, dy, dx, dw, NULL));
    while (again(t, dx, was, in * sizeof *dx));
    add_hash(t, dx, in * sizeof *dx);
    add_hash(t, dw, weights * sizeof *dw);
    free(x), free(w), free(dy), free(dx), free(dw), free(was);
}

static void conv_3x3(trial *t) { conv_forward(t, 3, 1); }
static void conv_3x3_2(trial *t) { conv_forward(t, 3, 2); }
static void conv_1x1(trial *t) { conv_forward(t, 1, 1); }
static void conv_3x3_back(trial *t) { conv_backward(t, 3, 1); }
static void conv_7x7_back(trial *t) { conv_backward(t, 7, 2); }

static void batchnorm_forward(trial *t)
{
    const size_t rows = 40, n = rows * CHANNELS, c = CHANNELS * sizeof(qnet_real);
    qnet_real *x = numbers(n), *g = numbers(CHANNELS), *y = numbers(n), *was = numbers(n);
    qnet_real *mean = numbers(CHANNELS), *var = numbers(CHANNELS), m[CHANNELS], r[CHANNELS];
    do TRY(t, qnet_batchnorm_forward(t->ctx, rows, CHANNELS, x, g, g, NULL, 1, .1, mean, var, m, r,
                                     y, NULL));
    while (again(t, y, was, n * sizeof *y));
    add_hash(t, y, n * sizeof *y), add_hash(t, mean, c), add_hash(t, var, c);
    free(x), free(g), free(y), free(was), free(mean), free(var);
}

static void batchnorm_backward(trial *t)
{
    const size_t rows = 40, n = rows * CHANNELS;
    qnet_real *x = numbers(n), *g = numbers(CHANNELS), *dx = numbers(n), *was = numbers(n);
    qnet_real dg[CHANNELS], db[CHANNELS];
    do TRY(t, qnet_batchnorm_backward(t->ctx, rows, CHANNELS, x, g, g, g, x, x, dx, NULL, dg, db,
                                      NULL));
    while (again(t, dx, was, n * sizeof *dx));
    add_hash(t, dx, n * sizeof *dx), add_hash(t, dg, sizeof dg), add_hash(t, db, sizeof db);
    free(x), free(g), free(dx), free(was);
}

static void dense_forward(trial *t)
{
    const size_t n = CHANNELS * CHANNELS;
    qnet_real *x = numbers(n), *w = numbers(n), *y = numbers(n), *was = numbers(n);
    do TRY(t, qnet_dense_forward(t->ctx, CHANNELS, CHANNELS, CHANNELS, x, w, x, y, NULL));
    while (again(t, y, was, n * sizeof *y));
    add_hash(t, y, n * sizeof *y);
    free(x), free(w), free(y), free(was);
}

static void dense_backward(trial *t)
{
    const size_t n = CHANNELS * CHANNELS;
    const size_t all = 2 * n + CHANNELS; /* dx, dw, db */
    qnet_real *x = numbers(n), *w = numbers(n), *d = numbers(all), *was = numbers(all);
    do TRY(t, qnet_dense_backward(t->ctx, CHANNELS, CHANNELS, CHANNELS, x, w, x, d, d + n, d + 2 * n, NULL));
    while (again(t, d, was, all * sizeof *d));
    add_hash(t, d, all * sizeof *d);
    free(x), free(w), free(d), free(was);
}

static void lstm(trial *t, int back)
{
    const qnet_lstm shape = {2, 3, 5, 4};
    const int length[2] = {3, 2};
    const size_t nx = 2 * 3 * 5, ny = 2 * 3 * 8, saved = qnet_lstm_saved(&shape);
    qnet_real *x = numbers(nx), *w = numbers(4 * 4 * 5), *y = numbers(ny), *s = numbers(saved);
    qnet_real *was = numbers(ny), *dx = numbers(nx), *d = numbers(2 * (80 + 64 + 16));
    qnet_lstm_weights weights = {{w, w}, {w, w}, {w, w}};
    qnet_lstm_gradients gradients = {{d, d + 160}, {d + 80, d + 240}, {d + 144, d + 304}};
    if (back) {
        CHECK_OK(t->ctx, qnet_lstm_forward(t->ctx, &shape, length, &weights, x, y, s, NULL));
        do TRY(t, qnet_lstm_backward(t->ctx, &shape, length, &weights, x, y, s, y, dx, &gradients,
                                     NULL));
        while (again(t, dx, was, nx * sizeof *dx));
        add_hash(t, d, 320 * sizeof *d);
    } else {
        do TRY(t, qnet_lstm_forward(t->ctx, &shape, length, &weights, x, y, s, NULL));
        while (again(t, y, was, ny * sizeof *y));
        add_hash(t, y, ny * sizeof *y);
    }
    free(x), free(w), free(y), free(s), free(was), free(dx), free(d);
}

static void lstm_forward(trial *t) { lstm(t, 0); }
static void lstm_backward(trial *t) { lstm(t, 1); }

/* ---- networks ---- */

#define PIXELS 32

static qnet_resnet *make_resnet(qnet_context *ctx, int training)
{
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    size_t i;
    qnet_resnet_config_init(&config);
    config.height = config.width = PIXELS;
    config.batch = 2;
    config.training = training;
    CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
    if (net == NULL) abort();
    for (i = 0; i < net->table->total; i++) net->weights[i] = (qnet_real).01;
    return net;
}

static void resnet_create(trial *t)
{
    qnet_resnet_config config;
    qnet_resnet *net;
    qnet_resnet_config_init(&config);
    config.height = config.width = PIXELS;
    config.batch = 2;
    do {
        OUT(net);
        TRY(t, qnet_resnet_create(t->ctx, &config, &net));
    } while (again(t, &net, NULL, sizeof net));
    if (t->status == QNET_OK) qnet_resnet_destroy(net);
}

static void resnet_pack(trial *t)
{
    qnet_resnet *net = make_resnet(t->ctx, 0);
    qnet_real *x = numbers(2 * PIXELS * PIXELS * 3), logits[4];
    do {
        OUT(logits);
        TRY(t, qnet_resnet_pack(net));
    } while (again(t, logits, NULL, sizeof logits));
    CHECK_OK(t->ctx, qnet_resnet_forward(net, x, 2, 0, logits, NULL));
    add_hash(t, logits, sizeof logits);
    free(x);
    qnet_resnet_destroy(net);
}

static void cam(trial *t)
{
    qnet_resnet *net = make_resnet(t->ctx, 0);
    qnet_real *x = numbers(2 * PIXELS * PIXELS * 3);
    float map[PIXELS * PIXELS], raw[1];
    CHECK_OK(t->ctx, qnet_resnet_forward(net, x, 2, 0, NULL, NULL));
    do {
        OUT(map);
        TRY(t, qnet_cam(net, 1, 1, map, raw));
    } while (again(t, map, NULL, sizeof map));
    add_hash(t, map, sizeof map);
    free(x);
    qnet_resnet_destroy(net);
}

static qnet_scan_config small_scan_config(void)
{
    qnet_scan_config config;
    qnet_scan_config_init(&config);
    config.hidden = 1;
    config.steps = 2;
    config.batch = 2;
    return config;
}

static void scan_model_create(trial *t)
{
    const qnet_scan_config config = small_scan_config();
    qnet_scan_model *model;
    do {
        OUT(model);
        TRY(t, qnet_scan_model_create(t->ctx, &config, &model));
    } while (again(t, &model, NULL, sizeof model));
    if (t->status == QNET_OK) qnet_scan_model_destroy(model);
}

static void scan_model_predict(trial *t)
{
    const qnet_scan_config config = small_scan_config();
    const int length[3] = {2, 1, 2};
    qnet_real *x = numbers(3 * 2 * QNET_FEATURES);
    qnet_scan_model *model = NULL;
    double image[6], scan[3];
    CHECK_OK(t->ctx, qnet_scan_model_create(t->ctx, &config, &model));
    qnet_scan_model_init(model, 1);
    do {
        OUT(image), OUT(scan);
        TRY(t, qnet_scan_model_predict(model, x, length, 3, image, scan));
    } while (again(t, image, NULL, sizeof image));
    add_hash(t, scan, sizeof scan);
    free(x);
    qnet_scan_model_destroy(model);
}

static void scan_attribution(trial *t)
{
    const qnet_scan_config config = small_scan_config();
    qnet_real *x = numbers(2 * QNET_FEATURES), gradient[2 * QNET_FEATURES];
    qnet_scan_model *model = NULL;
    double contribution[2];
    CHECK_OK(t->ctx, qnet_scan_model_create(t->ctx, &config, &model));
    qnet_scan_model_init(model, 1);
    do {
        OUT(contribution), OUT(gradient);
        TRY(t, qnet_scan_attribution(model, x, 2, gradient, contribution));
    } while (again(t, contribution, NULL, sizeof contribution));
    add_hash(t, gradient, sizeof gradient);
    free(x);
    qnet_scan_model_destroy(model);
}

/* ---- files ---- */

/* A table of three entries in the place of a network's. */
static const qnet_param entries[] = {
    {"conv1.weight", 4, {3, 3, 2, 4}, 0, 72, QNET_LAYOUT_HWIO, 1},
    {"fc.weight", 2, {2, 4, 0, 0}, 72, 8, QNET_LAYOUT_PLAIN, 1},
    {"bn1.num_batches_tracked", 0, {0, 0, 0, 0}, 80, 1, QNET_LAYOUT_PLAIN, 0}};
static const qnet_param_table tiny_table = {"tiny", entries, 3, 80, 81};
static const char *const pairs[] = {"seed", "1", "a longer key", "and a value with \"quotes\""};
static qnet_real block[81];
static qnet_buffer tensors_file, pth_file, nifti_file, nifti_gz_file;
static qnet_volume *volume;

static void prepare_files(void)
{
    qnet_sink sink = qnet_sink_buffer(plain, &tensors_file, "tensors");
    qnet_memory_source state;
    qnet_source source;
    qnet_safetensors *tensors = NULL;
    char sentence[PTH_SENTENCE];
    int i;
    for (i = 0; i < 80; i++) block[i] = (qnet_real)i / 16;
    CHECK_OK(plain, qnet_weights_write(plain, &sink, &tiny_table, block, pairs, 2));
    source = qnet_source_memory(&state, tensors_file.bytes, tensors_file.size, "tensors");
    CHECK_OK(plain, qnet_safetensors_read(plain, &source, &tensors));
    CHECK(pth_from_safetensors(plain, "x.pth", tensors, &pth_file, sentence) == QNET_OK);
    qnet_safetensors_destroy(tensors);
    CHECK_OK(plain, qnet_file_replace(plain, FOLDER "/tiny.safetensors", tensors_file.bytes,
                                      tensors_file.size));
    CHECK_OK(plain, qnet_file_replace(plain, FOLDER "/tiny.pth", pth_file.bytes, pth_file.size));
    CHECK_OK(plain, qnet_volume_create(plain, 48, 48, 32, &volume)); /* more than one piece */
    for (i = 0; i < 48 * 48 * 32; i++) volume->voxels[i] = (float)(i % 7);
    sink = qnet_sink_buffer(plain, &nifti_gz_file, "x.nii.gz");
    CHECK_OK(plain, qnet_nifti_write(plain, &sink, volume, 0, 1));
    sink = qnet_sink_buffer(plain, &nifti_file, "x.nii");
    CHECK_OK(plain, qnet_nifti_write(plain, &sink, volume, 0, 0));
    CHECK_OK(plain, qnet_file_replace(plain, FOLDER "/x.nii.gz", nifti_gz_file.bytes,
                                      nifti_gz_file.size));
}

static void weights_write(trial *t)
{
    qnet_buffer b = {0};
    do {
        qnet_sink sink = qnet_sink_buffer(t->ctx, &b, "weights");
        TRY(t, qnet_weights_write(t->ctx, &sink, &tiny_table, block, pairs, 2));
        if (t->status != QNET_OK) qnet_buffer_free(t->ctx, &b);
    } while (again(t, NULL, NULL, 0));
    hash_and_free(t, &b);
}

static void weights_save(trial *t)
{
    old_file(FOLDER "/saved");
    do TRY(t, qnet_weights_save(t->ctx, FOLDER "/saved", &tiny_table, block, pairs, 2));
    while (again_file(t, FOLDER "/saved"));
    hash_file(t, FOLDER "/saved");
}

static void load_weights(trial *t, const char *path)
{
    qnet_real to[81];
    do {
        OUT(to);
        TRY(t, qnet_weights_load(t->ctx, path, &tiny_table, to, 0, NULL));
    } while (again(t, to, NULL, sizeof to));
    add_hash(t, to, sizeof to);
    CHECK(memcmp(to, block, 80 * sizeof *to) == 0);
}

static void weights_load(trial *t) { load_weights(t, FOLDER "/tiny.safetensors"); }

static void weights_load_pth(trial *t)
{
    qnet_context *ctx = t->ctx;
    qnet_hooks hooks = t->hooks;
    hooks.weights = pth_weights_reader();
    t->ctx = NULL;
    CHECK(qnet_context_create(&hooks, &t->ctx) == QNET_OK);
    load_weights(t, FOLDER "/tiny.pth");
    qnet_context_destroy(t->ctx);
    t->ctx = ctx;
}

static void pth_to(trial *t)
{
    qnet_buffer b = {0}, was = {0};
    char sentence[PTH_SENTENCE];
    t->silent = 1;
    do {
        TRY(t, pth_to_safetensors(t->ctx, "x.pth", pth_file.bytes, pth_file.size, &b, sentence));
        if (t->status != QNET_OK) CHECK_CONTAINS(sentence, "memory");
    } while (again(t, &b, &was, sizeof b));
    CHECK(b.size == tensors_file.size);
    hash_and_free(t, &b);
}

static void pth_from(trial *t)
{
    qnet_buffer b = {0}, was = {0};
    qnet_memory_source state;
    qnet_source source = qnet_source_memory(&state, tensors_file.bytes, tensors_file.size, "x");
    qnet_safetensors *tensors = NULL;
    char sentence[PTH_SENTENCE];
    t->silent = 1;
    CHECK_OK(plain, qnet_safetensors_read(plain, &source, &tensors));
    do {
        TRY(t, pth_from_safetensors(t->ctx, "x.pth", tensors, &b, sentence));
        if (t->status != QNET_OK) CHECK_CONTAINS(sentence, "memory");
    } while (again(t, &b, &was, sizeof b));
    qnet_safetensors_destroy(tensors);
    hash_and_free(t, &b);
}

static void read_tensors(trial *t, const char *path)
{
    qnet_safetensors *out;
    qnet_memory_source state;
    do {
        qnet_source source = qnet_source_memory(&state, tensors_file.bytes, tensors_file.size, "x");
        OUT(out);
        TRY(t, path ? qnet_safetensors_load(t->ctx, path, &out)
                    : qnet_safetensors_read(t->ctx, &source, &out));
    } while (again(t, &out, NULL, sizeof out));
    if (t->status != QNET_OK) return;
    add_hash(t, out->block, out->block_bytes);
    qnet_safetensors_destroy(out);
}

static void safetensors_read(trial *t) { read_tensors(t, NULL); }
static void safetensors_load(trial *t) { read_tensors(t, FOLDER "/tiny.safetensors"); }

static void safetensors_write(trial *t)
{
    qnet_buffer b = {0};
    qnet_safetensor tensor;
    memset(&tensor, 0, sizeof tensor);
    strcpy(tensor.name, "a");
    tensor.dtype = QNET_U8;
    tensor.ndim = 1;
    tensor.shape[0] = sizeof block;
    tensor.data = block;
    do {
        qnet_sink sink = qnet_sink_buffer(t->ctx, &b, "x");
        TRY(t, qnet_safetensors_write(t->ctx, &sink, &tensor, 1, pairs, 2));
        if (t->status != QNET_OK) qnet_buffer_free(t->ctx, &b);
    } while (again(t, NULL, NULL, 0));
    hash_and_free(t, &b);
}

static void volume_create(trial *t)
{
    qnet_volume *out;
    do {
        OUT(out);
        TRY(t, qnet_volume_create(t->ctx, 4, 5, 6, &out));
    } while (again(t, &out, NULL, sizeof out));
    if (t->status == QNET_OK) qnet_volume_destroy(out);
}

/* bytes NULL: from the file. */
static void read_volume(trial *t, const qnet_buffer *bytes)
{
    qnet_volume *out;
    qnet_memory_source state;
    do {
        qnet_source source = qnet_source_memory(&state, bytes ? bytes->bytes : NULL,
                                                bytes ? bytes->size : 0, "x.nii");
        OUT(out);
        TRY(t, bytes ? qnet_nifti_read(t->ctx, &source, &out)
                     : qnet_nifti_load(t->ctx, FOLDER "/x.nii.gz", &out));
    } while (again(t, &out, NULL, sizeof out));
    if (t->status != QNET_OK) return;
    CHECK(memcmp(out->voxels, volume->voxels, 48 * 48 * 32 * sizeof(float)) == 0);
    qnet_volume_destroy(out);
}

static void nifti_read(trial *t) { read_volume(t, &nifti_file); }
static void nifti_read_gz(trial *t) { read_volume(t, &nifti_gz_file); }
static void nifti_load(trial *t) { read_volume(t, NULL); }

static void write_volume(trial *t, int gzip)
{
    qnet_buffer b = {0};
    do {
        qnet_sink sink = qnet_sink_buffer(t->ctx, &b, "x.nii");
        TRY(t, qnet_nifti_write(t->ctx, &sink, volume, 0, gzip));
        if (t->status != QNET_OK) qnet_buffer_free(t->ctx, &b);
    } while (again(t, NULL, NULL, 0));
    hash_and_free(t, &b);
}

static void nifti_write(trial *t) { write_volume(t, 0); }
static void nifti_write_gz(trial *t) { write_volume(t, 1); }

static void nifti_save(trial *t)
{
    old_file(FOLDER "/y.nii.gz");
    do TRY(t, qnet_nifti_save(t->ctx, FOLDER "/y.nii.gz", volume, 0));
    while (again_file(t, FOLDER "/y.nii.gz"));
    hash_file(t, FOLDER "/y.nii.gz");
}

static void volume_reorient(trial *t)
{
    qnet_memory_source state;
    qnet_source source = qnet_source_memory(&state, nifti_file.bytes, nifti_file.size, "x.nii");
    qnet_volume *v = NULL, was;
    CHECK_OK(t->ctx, qnet_nifti_read(t->ctx, &source, &v));
    was = *v;
    do TRY(t, qnet_volume_reorient(v, "PIL"));
    while (again(t, v, &was, sizeof was));
    add_hash(t, v->voxels, 48 * 48 * 32 * sizeof(float));
    qnet_volume_destroy(v);
}

static void gzip(trial *t, int pack)
{
    qnet_buffer b = {0};
    CHECK_OK(t->ctx, qnet_buffer_append(t->ctx, &b, "before", 6));
    do {
        TRY(t, pack ? gzip_pack(t->ctx, nifti_file.bytes, nifti_file.size, &b)
                    : gzip_unpack(t->ctx, nifti_gz_file.bytes, nifti_gz_file.size, 0, &b));
    } while (again(t, b.bytes, "before", t->status != QNET_OK ? 7 : 0));
    hash_and_free(t, &b);
}

static void gzip_compress(trial *t) { gzip(t, 1); }
static void gzip_decompress(trial *t) { gzip(t, 0); }

static void png_write(trial *t)
{
    qnet_buffer b = {0};
    do {
        qnet_sink sink = qnet_sink_buffer(t->ctx, &b, "x.png");
        TRY(t, qnet_png_write(t->ctx, &sink, 40, 30, 3, nifti_file.bytes));
        if (t->status != QNET_OK) qnet_buffer_free(t->ctx, &b);
    } while (again(t, NULL, NULL, 0));
    hash_and_free(t, &b);
}

static void png_save(trial *t)
{
    old_file(FOLDER "/x.png");
    do TRY(t, qnet_png_save(t->ctx, FOLDER "/x.png", 40, 30, 1, nifti_file.bytes));
    while (again_file(t, FOLDER "/x.png"));
    hash_file(t, FOLDER "/x.png");
}

/* ---- images, cohorts ---- */

static void augment_apply(trial *t)
{
    qnet_augment_config config;
    const qnet_augmentation record = qnet_augment_test(36, 36, 32, 32);
    static qnet_real out[32 * 32 * 3];
    qnet_augment_config_init(&config);
    do {
        OUT(out);
        TRY(t, qnet_augment_apply(t->ctx, &config, &record, volume->voxels, 36, 36, out, 32, 32,
                                  NULL));
    } while (again(t, out, NULL, sizeof out));
    add_hash(t, out, sizeof out);
}

static qnet_input_config small_input(void)
{
    qnet_input_config config;
    qnet_input_config_init(&config, QNET_INPUT_CROP);
    config.size = PIXELS;
    config.max_slices = 2;
    return config;
}

/* The first subject's maps, rendered anew, and turned so that they must be turned back. */
static qnet_scan_maps make_maps(qnet_context *ctx, phantom_maps *maps)
{
    qnet_scan_maps out;
    phantom_config config;
    phantom_subject subjects[4];
    phantom_config_init(&config, PHANTOM_SMALL);
    phantom_config_size(&config, 32, 40, 12);
    config.hh = config.hc = 2;
    phantom_draw(&config, subjects);
    memset(maps, 0, sizeof *maps);
    memset(&out, 0, sizeof out);
    CHECK_OK(ctx, phantom_render(ctx, &config, &subjects[0], maps));
    CHECK_OK(ctx, qnet_volume_reorient(maps->qsm, "LPS"));
    CHECK_OK(ctx, qnet_volume_reorient(maps->mask, "LPS"));
    out.subject = "sub-1";
    out.label = QNET_HH;
    out.qsm = maps->qsm, out.r2star = maps->r2star, out.t1w = maps->t1w, out.mask = maps->mask;
    return out;
}

static void cohort_create(trial *t)
{
    const qnet_input_config config = small_input();
    qnet_cohort *out;
    do {
        OUT(out);
        TRY(t, qnet_cohort_create(t->ctx, &config, 3, &out));
    } while (again(t, &out, NULL, sizeof out));
    if (t->status == QNET_OK) qnet_cohort_destroy(out);
}

static void cohort_add(trial *t)
{
    const qnet_input_config config = small_input();
    qnet_cohort *cohort = NULL;
    phantom_maps maps;
    qnet_scan_maps scan = make_maps(t->ctx, &maps);
    int was = 0;
    CHECK_OK(t->ctx, qnet_cohort_create(t->ctx, &config, 3, &cohort));
    do TRY(t, qnet_cohort_add(cohort, &scan));
    while (again(t, &cohort->scans_count, &was, sizeof was));
    add_hash(t, &cohort->scans[0].hash, sizeof(uint64_t));
    phantom_maps_destroy(&maps);
    qnet_cohort_destroy(cohort);
}

static qnet_cohort *cohort; /* of DATA, in the plain context */

static bids data; /* DATA */

static void cohort_load(trial *t)
{
    const qnet_input_config config = small_input();
    qnet_cohort *out;
    int i;
    do {
        OUT(out);
        TRY(t, qnet_cohort_load(t->ctx, &config, data.dataset.scans, data.dataset.count, &out));
    } while (again(t, &out, NULL, sizeof out));
    if (t->status != QNET_OK) return;
    for (i = 0; i < out->scans_count; i++) add_hash(t, &out->scans[i].hash, sizeof(uint64_t));
    qnet_cohort_destroy(out);
}

static void folds_create(trial *t)
{
    int fold[4];
    do {
        OUT(fold);
        TRY(t, qnet_folds_create(t->ctx, cohort, 2, 1, fold));
    } while (again(t, fold, NULL, sizeof fold));
    add_hash(t, fold, sizeof fold);
}

/* ---- training ---- */

static const int scans[2] = {0, 2};

static qnet_stage1_config stage1_config(void)
{
    qnet_stage1_config config;
    qnet_stage1_config_init(&config);
    config.epochs = 1;
    config.size = PIXELS;
    config.batch = 4;
    return config;
}

static qnet_real *start_weights; /* and the file START of them */
#define START FOLDER "/start.safetensors"

static void prepare_start(void)
{
    static const char *const nobody[2] = {"trained_on", ""};
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    size_t bytes;
    qnet_resnet_config_init(&config);
    config.height = config.width = PIXELS;
    config.batch = 1;
    config.training = 0;
    CHECK_OK(plain, qnet_resnet_create(plain, &config, &net));
    if (net == NULL) exit(2);
    quick_weights(net);
    bytes = net->table->total * sizeof *net->weights;
    start_weights = (qnet_real *)malloc(bytes);
    if (start_weights == NULL) exit(2);
    memcpy(start_weights, net->weights, bytes);
    CHECK_OK(plain, qnet_weights_save(plain, START, net->table, net->weights, nobody, 1));
    qnet_resnet_destroy(net);
}

static void stage1_create(trial *t)
{
    const qnet_stage1_config config = stage1_config();
    qnet_training *run;
    do {
        OUT(run);
        TRY(t, qnet_stage1_create(t->ctx, &config, cohort, scans, 2, start_weights, &run));
    } while (again(t, &run, NULL, sizeof run));
    if (t->status == QNET_OK) qnet_training_destroy(run);
}

/* Goes on after the failure where it was: the same weights. */
static void stage1_run(trial *t)
{
    const qnet_stage1_config config = stage1_config();
    qnet_training *run = NULL;
    CHECK_OK(t->ctx, qnet_stage1_create(t->ctx, &config, cohort, scans, 2, start_weights, &run));
    do TRY(t, qnet_training_run(run, FOLDER "/stage1"));
    while (again(t, NULL, NULL, 0));
    add_hash(t, run->net->weights, run->net->table->total * sizeof(qnet_real));
    hash_file(t, FOLDER "/stage1");
    qnet_training_destroy(run);
}

/* What a checkpoint of stage 1 is of, with the tiny table in the place of the network's. */
typedef struct fake_run {
    qnet_training run;
    qnet_resnet net;
    qnet__training_state state;
    qnet_real weights[81], m[80], v[80], average[80];
    qnet_epoch history[1];
} fake_run;

static void make_fake(qnet_context *ctx, fake_run *f)
{
    memset(f, 0, sizeof *f);
    memcpy(f->weights, block, sizeof block);
    f->run.ctx = ctx;
    f->state.config = stage1_config();
    f->state.table = &tiny_table;
    f->state.weights = f->weights;
    f->run.net = &f->net;
    f->run.state = &f->state;
    f->run.history = f->history;
    f->run.epochs = 1;
    f->net.table = &tiny_table;
    f->net.weights = f->weights;
    f->state.m = f->m, f->state.v = f->v, f->state.average = f->average;
    f->state.batches = 1;
    f->state.run = f->run;
}

static void stage1_checkpoint(trial *t, int file, int load)
{
    fake_run *f = (fake_run *)malloc(sizeof *f), *was = (fake_run *)malloc(sizeof *f);
    qnet_buffer b = {0}, bytes = {0};
    qnet_sink sink = qnet_sink_buffer(plain, &bytes, "x");
    qnet_memory_source state;
    make_fake(plain, f);
    CHECK_OK(plain, qnet_training_write(&f->run, &sink));
    make_fake(t->ctx, f);
    if (load) memset(f->weights, 0, sizeof f->weights);
    *was = *f;
    old_file(FOLDER "/checkpoint");
    if (load)
        CHECK_OK(plain, qnet_file_replace(plain, FOLDER "/checkpoint", bytes.bytes, bytes.size));
    do {
        qnet_source source = qnet_source_memory(&state, bytes.bytes, bytes.size, "x");
        sink = qnet_sink_buffer(t->ctx, &b, "x");
        if (load)
            TRY(t, file ? qnet_training_load(&f->run, FOLDER "/checkpoint")
                        : qnet_training_read(&f->run, &source));
        else
            TRY(t, file ? qnet_training_save(&f->run, FOLDER "/checkpoint")
                        : qnet_training_write(&f->run, &sink));
        if (t->status != QNET_OK) qnet_buffer_free(t->ctx, &b);
    } while (file && !load ? again_file(t, FOLDER "/checkpoint") : again(t, f, was, sizeof *f));
    add_hash(t, f->weights, sizeof f->weights);
    hash_and_free(t, &b);
    qnet_buffer_free(plain, &bytes);
    free(f), free(was);
}

static void stage1_write(trial *t) { stage1_checkpoint(t, 0, 0); }
static void stage1_save(trial *t) { stage1_checkpoint(t, 1, 0); }
static void stage1_read(trial *t) { stage1_checkpoint(t, 0, 1); }
static void stage1_load(trial *t) { stage1_checkpoint(t, 1, 1); }

static void embed(trial *t)
{
    qnet_augment_config config;
    qnet_resnet *net = make_resnet(t->ctx, 0);
    static qnet_real features[2 * 2 * QNET_FEATURES];
    qnet_augment_config_init(&config);
    do {
        OUT(features);
        TRY(t, qnet_embed(net, &config, cohort, scans, 2, features, NULL));
    } while (again(t, features, NULL, sizeof features));
    add_hash(t, features, sizeof features);
    qnet_resnet_destroy(net);
}

static const int two_lengths[2] = {2, 1}, two_labels[2] = {0, 1};

static qnet_training *make_stage2(trial *t, qnet_context *ctx, int call)
{
    qnet_stage2_config config;
    qnet_real *x = numbers(2 * 2 * QNET_FEATURES);
    qnet_training *run;
    qnet_stage2_config_init(&config);
    config.epochs = 2;
    config.hidden = 1;
    config.steps = 2;
    if (call) {
        do {
            OUT(run);
            TRY(t, qnet_stage2_create(ctx, &config, x, two_lengths, two_labels, 2, &run));
        } while (again(t, &run, NULL, sizeof run));
    } else {
        CHECK_OK(ctx, qnet_stage2_create(ctx, &config, x, two_lengths, two_labels, 2, &run));
    }
    free(x);
    return run;
}

static void stage2_create(trial *t)
{
    qnet_training *run = make_stage2(t, t->ctx, 1);
    if (t->status == QNET_OK) qnet_training_destroy(run);
}

static void stage2_run(trial *t)
{
    qnet_training *run = make_stage2(t, t->ctx, 0);
    do TRY(t, qnet_training_run(run, FOLDER "/stage2"));
    while (again(t, NULL, NULL, 0));
    add_hash(t, run->model->weights, run->model->table->total * sizeof(qnet_real));
    hash_file(t, FOLDER "/stage2");
    qnet_training_destroy(run);
}

static void stage2_checkpoint(trial *t, int file, int load)
{
    qnet_training *first = make_stage2(t, plain, 0), *run = make_stage2(t, t->ctx, 0), was;
    qnet_buffer b = {0}, bytes = {0};
    qnet_sink sink = qnet_sink_buffer(plain, &bytes, "x");
    qnet_memory_source state;
    CHECK_OK(plain, qnet_training_epoch(first));
    CHECK_OK(plain, qnet_training_write(first, &sink));
    old_file(FOLDER "/checkpoint");
    if (load)
        CHECK_OK(plain, qnet_file_replace(plain, FOLDER "/checkpoint", bytes.bytes, bytes.size));
    was = *run;
    do {
        qnet_source source = qnet_source_memory(&state, bytes.bytes, bytes.size, "x");
        sink = qnet_sink_buffer(t->ctx, &b, "x");
        if (load)
            TRY(t, file ? qnet_training_load(run, FOLDER "/checkpoint")
                        : qnet_training_read(run, &source));
        else
            TRY(t, file ? qnet_training_save(run, FOLDER "/checkpoint")
                        : qnet_training_write(run, &sink));
        if (t->status != QNET_OK) qnet_buffer_free(t->ctx, &b);
    } while (file && !load ? again_file(t, FOLDER "/checkpoint") : again(t, run, &was, sizeof was));
    add_hash(t, run->model->weights, run->model->table->total * sizeof(qnet_real));
    hash_and_free(t, &b);
    qnet_buffer_free(plain, &bytes);
    qnet_training_destroy(first);
    qnet_training_destroy(run);
}

static void stage2_write(trial *t) { stage2_checkpoint(t, 0, 0); }
static void stage2_save(trial *t) { stage2_checkpoint(t, 1, 0); }
static void stage2_read(trial *t) { stage2_checkpoint(t, 0, 1); }
static void stage2_load(trial *t) { stage2_checkpoint(t, 1, 1); }

/* ---- evaluation ---- */

#define ITEMS 10
static const int label[ITEMS] = {0, 1, 0, 1, 1, 0, 0, 1, 1, 0};
static const int cluster[ITEMS] = {1, 2, 1, 2, 3, 4, 4, 3, 5, 6};
static const double score1[ITEMS] = {.1, .9, .4, .35, .8, .5, .2, .5, .7, .6},
                    score2[ITEMS] = {.3, .6, .1, .7, .2, .4, .2, .9, .3, .5};

static void roc(trial *t)
{
    qnet_roc_point points[ITEMS + 1];
    size_t count;
    do {
        OUT(points), OUT(count);
        TRY(t, qnet_roc(t->ctx, label, score1, ITEMS, points, &count));
    } while (again(t, points, NULL, sizeof points));
    if (t->status == QNET_OK) add_hash(t, points, count * sizeof *points);
}

static void auc(trial *t)
{
    double out;
    do {
        OUT(out);
        TRY(t, qnet_auc(t->ctx, label, score1, ITEMS, &out));
    } while (again(t, &out, NULL, sizeof out));
    add_hash(t, &out, sizeof out);
}

static void delong(trial *t)
{
    qnet_delong out;
    do {
        OUT(out);
        TRY(t, qnet_delong_test(t->ctx, label, score1, score2, cluster, ITEMS, &out));
    } while (again(t, &out, NULL, sizeof out));
    add_hash(t, &out, sizeof out);
}

static void bootstrap(trial *t)
{
    double out[20];
    do {
        OUT(out);
        TRY(t, qnet_bootstrap_auc(t->ctx, label, score1, cluster, ITEMS, 20, 1, out));
    } while (again(t, out, NULL, sizeof out));
    add_hash(t, out, sizeof out);
}

static void boxplot(trial *t)
{
    qnet_boxplot out;
    do {
        OUT(out);
        TRY(t, qnet_boxplot_of(t->ctx, score1, ITEMS, &out));
    } while (again(t, &out, NULL, sizeof out));
    add_hash(t, &out, sizeof out);
}

/* ---- the experiment ---- */

static qnet_experiment *experiment; /* a whole one, in the plain context */
static char weights_path[256];      /* of a network that it trained */

static pictures drawn;              /* of the last experiment that ran */

static qnet_experiment_config experiment_config(void)
{
    qnet_experiment_config c;
    qnet_experiment_config_init(&c);
    c.use_input[QNET_INPUT_FULL] = 0;
    c.input[QNET_INPUT_CROP] = small_input();
    c.folds = 2;
    c.bootstrap = 20;
    c.stage1.epochs = 1;
    c.stage1.batch = 4;
    c.stage2.epochs = 1;
    c.stage2.hidden = 1;
    c.publish.user = &drawn;
    c.publish.input = pictures_input;
    return c;
}

/* Removes a folder and all in it; what is not there is no error. */
static void remove_folder(const char *path)
{
    qnet_buffer names = { NULL, 0, 0, NULL };
    const char *name = NULL;
    char inner[1024];
    if (qnet__path_kind(path) != 2) return;
    if (qnet_list_folder(plain, path, &names) != QNET_OK) return;
    while ((name = qnet__list_next(&names, name)) != NULL) {
        snprintf(inner, sizeof inner, "%s/%s", path, name);
        if (qnet__path_kind(inner) == 2) remove_folder(inner);
        else remove(inner);
    }
    qnet_buffer_free(plain, &names);
    remove(path);
}

static void experiment_run(trial *t)
{
    const qnet_experiment_config config = experiment_config();
    qnet_experiment *e;
    qnet_buffer b = {0};
    remove_folder(FOLDER "/out");
    do {
        OUT(e);
        TRY(t, qnet_experiment_run(t->ctx, &config, &data.dataset, FOLDER "/out", START, t->attempt, &e));
        pictures_free(t->ctx, &drawn);
    } while (again(t, &e, NULL, sizeof e));
    if (t->status != QNET_OK) return;
    CHECK_OK(t->ctx, report_csv(e, &b));
    hash_and_free(t, &b);
    qnet_experiment_destroy(e);
}

static void experiment_text(trial *t, qnet_status (*write)(const qnet_experiment *, qnet_buffer *))
{
    qnet_experiment e = *experiment;
    qnet_buffer b = {0};
    e.ctx = t->ctx;
    do {
        TRY(t, write(&e, &b));
        if (t->status != QNET_OK) qnet_buffer_free(t->ctx, &b);
    } while (again(t, NULL, NULL, 0));
    hash_and_free(t, &b);
}

static void experiment_tables(trial *t) { experiment_text(t, report_tables); }
static void experiment_json(trial *t) { experiment_text(t, report_json); }
static void experiment_csv(trial *t) { experiment_text(t, report_csv); }
static void experiment_manifest(trial *t) { experiment_text(t, report_manifest); }
static qnet_status page(const qnet_experiment *e, qnet_buffer *html) { return report_html(e, NULL, html); }
static void experiment_html(trial *t) { experiment_text(t, page); }

static void experiment_publish(trial *t)
{
    qnet_experiment e = *experiment;
    e.ctx = t->ctx;
    CHECK_OK(plain, qnet_make_folder(plain, FOLDER "/published"));
    do TRY(t, report_write(NULL, &e, FOLDER "/published"));
    while (again(t, NULL, NULL, 0));
    hash_file(t, FOLDER "/published/results.json");
}

static void preparation_load(trial *t)
{
    qnet_input_config input;
    qnet_augment_config augment;
    do {
        OUT(input), OUT(augment);
        TRY(t, qnet_preparation_load(t->ctx, weights_path, &input, &augment));
    } while (again(t, &input, NULL, sizeof input));
    add_hash(t, &input.size, sizeof input.size);
}

/* ---- maps from echoes ---- */

static qnet_volume *sphere[6]; /* a map or a field, its mask, a magnitude; that one as large as a head; two phases */

static void prepare_maps(void)
{
    enum { WIDTH = 14 };
    for (int k = 0; k < 6; k++) CHECK_OK(plain, qnet_volume_create(plain, WIDTH, WIDTH, WIDTH, &sphere[k]));
    for (int i = 0; i < WIDTH * WIDTH * WIDTH; i++) {
        const int x = i % WIDTH - 7, y = i / WIDTH % WIDTH - 7, z = i / WIDTH / WIDTH - 7;
        sphere[1]->voxels[i] = (float)(x * x + y * y + z * z < 40);
        sphere[0]->voxels[i] = (float)(x * x < 9 && y * y < 4 && z * z < 9);
        sphere[4]->voxels[i] = (float)(.2 * z), sphere[5]->voxels[i] = (float)(.4 * z);
        sphere[2]->voxels[i] = sphere[3]->voxels[i] = sphere[1]->voxels[i] * (float)(90 + i % 19);
    }
    for (int i = 0; i < 3; i++) sphere[3]->spacing[i] = sphere[3]->affine[i][i] = 10; /* mm */
}

static void fft(trial *t)
{
    qnet_real *x = numbers(2 * 4 * 5 * 6);
    do TRY(t, qnet_fft(t->ctx, 4, 5, 6, 0, x));
    while (again(t, NULL, NULL, 0));
    add_hash(t, x, 2 * 4 * 5 * 6 * sizeof *x);
    free(x);
}

static void fft_real(trial *t)
{
    qnet_real *x = numbers(4 * 5 * 6), *spectrum = numbers(2 * 3 * 5 * 6);
    do TRY(t, qnet_fft_real(t->ctx, 4, 5, 6, x, spectrum));
    while (again(t, NULL, NULL, 0));
    add_hash(t, spectrum, 2 * 3 * 5 * 6 * sizeof *x);
    free(x), free(spectrum);
}

static void fft_real_inverse(trial *t)
{
    qnet_real *x = numbers(4 * 5 * 6), *spectrum = numbers(2 * 3 * 5 * 6);
    do TRY(t, qnet_fft_real_inverse(t->ctx, 4, 5, 6, spectrum, x));
    while (again(t, NULL, NULL, 0));
    add_hash(t, x, 4 * 5 * 6 * sizeof *x);
    free(x), free(spectrum);
}

/* A step that makes one or two volumes. */
static void make_volumes(trial *t, qnet_status (*step)(qnet_context *, qnet_volume **), int count)
{
    qnet_volume *out[2];
    do {
        OUT(out);
        TRY(t, step(t->ctx, out));
    } while (again(t, out, NULL, sizeof out));
    for (int k = 0; t->status == QNET_OK && k < count; k++) {
        const size_t voxels = (size_t)out[k]->nx * (size_t)out[k]->ny * (size_t)out[k]->nz;
        add_hash(t, out[k]->voxels, voxels * sizeof(float));
        qnet_volume_destroy(out[k]);
    }
}

static qnet_status field_step(qnet_context *ctx, qnet_volume **out)
{
    return qnet_dipole_field(ctx, sphere[0], out);
}

static qnet_status background_step(qnet_context *ctx, qnet_volume **out)
{
    qnet_susceptibility_config config;
    qnet_susceptibility_config_init(&config);
    config.sharp_radius = 3;
    return qnet_background_remove(ctx, &config, sphere[0], sphere[1], out, out + 1);
}

static qnet_status invert_step(qnet_context *ctx, qnet_volume **out)
{
    qnet_susceptibility_config config;
    qnet_susceptibility_config_init(&config);
    return qnet_dipole_invert(ctx, &config, sphere[0], sphere[1], out);
}

static qnet_status average_step(qnet_context *ctx, qnet_volume **out)
{
    static const double time[2] = {.01, .02};
    const qnet_volume *map[2], *magnitude[2];
    map[0] = map[1] = sphere[0], magnitude[0] = magnitude[1] = sphere[1];
    return qnet_susceptibility_average(ctx, 2, map, magnitude, time, sphere[1], out);
}

static qnet_status brain_step(qnet_context *ctx, qnet_volume **out)
{
    const qnet_brain_config config = {.2, 1, 10};
    return qnet_brain_mask(ctx, &config, sphere[3], out);
}

static qnet_status unwrap_step(qnet_context *ctx, qnet_volume **out)
{
    return qnet_phase_unwrap(ctx, sphere[0], sphere[1], out);
}

/* Two magnitudes of a decay and their phases. */
static const double echo_times[2] = {.01, .02};

static qnet_status r2star_step(qnet_context *ctx, qnet_volume **out)
{
    const qnet_volume *const magnitude[2] = {sphere[2], sphere[1]};
    return qnet_r2star_map(ctx, QNET_R2STAR_AUTO, 2, magnitude, echo_times, sphere[1], out);
}

static qnet_status phase_fit_step(qnet_context *ctx, qnet_volume **out)
{
    const qnet_volume *const magnitude[2] = {sphere[2], sphere[1]}, *const phase[2] = {sphere[0], sphere[1]};
    return qnet_phase_fit(ctx, 2, phase, magnitude, echo_times, sphere[1], out, out + 1);
}

static qnet_status t1_step(qnet_context *ctx, qnet_volume **out)
{
    return qnet_t1_map(ctx, sphere[1], 6, sphere[2], 24, .036, NULL, NULL, out, out + 1);
}

static void maps_from_echoes(trial *t)
{
    const qnet_echo echo[2] = {{sphere[2], sphere[4], .01, NULL}, {sphere[1], sphere[5], .02, NULL}};
    const qnet_echoes first = {2, echo, 3, .036, 24, 1}, second = {1, echo, 3, .036, 6, 1};
    qnet_maps *maps;
    qnet_maps_config config;
    qnet_maps_config_init(&config);
    config.susceptibility.sharp_radius = 3;
    for (int mode = 0; mode < 2 && t->status == QNET_OK; mode++) {
        config.mode = mode == 0 ? QNET_MAPS_PAPER : QNET_MAPS_CONSENSUS;
        do {
            OUT(maps);
            TRY(t, qnet_maps_from_echoes(t->ctx, &config, &first, &second, sphere[1], &maps));
        } while (again(t, &maps, NULL, sizeof maps));
        if (t->status != QNET_OK) return;
        add_hash(t, maps->qsm->voxels, 14 * 14 * 14 * sizeof(float));
        qnet_maps_destroy(maps);
    }
}

static void r2star_map(trial *t) { make_volumes(t, r2star_step, 1); }
static void phase_fit(trial *t) { make_volumes(t, phase_fit_step, 2); }
static void t1_map(trial *t) { make_volumes(t, t1_step, 2); }
static void brain_mask(trial *t) { make_volumes(t, brain_step, 1); }
static void phase_unwrap(trial *t) { make_volumes(t, unwrap_step, 1); }
static void dipole_field(trial *t) { make_volumes(t, field_step, 1); }
static void background_remove(trial *t) { make_volumes(t, background_step, 2); }
static void dipole_invert(trial *t) { make_volumes(t, invert_step, 1); }
static void susceptibility_average(trial *t) { make_volumes(t, average_step, 1); }

/* ---- the driver ---- */

/* most: 0, or at how many points what takes long is tried without "all". */
typedef struct one_case {
    const char *name;
    void (*run)(trial *t);
    size_t most;
} one_case;

#define CASE(name, most) {#name, name, most}
static const one_case cases[] = {
    CASE(context_create, 0), CASE(buffer_append, 0), CASE(buffer_printf, 0), CASE(file_replace, 0),
    CASE(file_read, 0), CASE(make_folder, 0), CASE(gemm, 0), CASE(conv_3x3, 0),
    CASE(conv_3x3_2, 0), CASE(conv_1x1, 0), CASE(conv_3x3_back, 0), CASE(conv_7x7_back, 0),
    CASE(batchnorm_forward, 0), CASE(batchnorm_backward, 0), CASE(dense_forward, 0),
    CASE(dense_backward, 0), CASE(lstm_forward, 0), CASE(lstm_backward, 0), CASE(resnet_create, 0),
    CASE(resnet_pack, 0), 
    CASE(cam, 0), CASE(scan_model_create, 0),
    CASE(scan_model_predict, 0), CASE(scan_attribution, 0), CASE(weights_write, 0), CASE(weights_save, 0),
    CASE(weights_load, 0), CASE(weights_load_pth, 0), CASE(pth_to, 0), CASE(pth_from, 0),
    CASE(safetensors_read, 0), CASE(safetensors_load, 0), CASE(safetensors_write, 0),
    CASE(volume_create, 0), CASE(nifti_read, 0), CASE(nifti_read_gz, 0), CASE(nifti_load, 0),
    CASE(nifti_write, 0), CASE(nifti_write_gz, 0), CASE(nifti_save, 0), CASE(volume_reorient, 0),
    CASE(gzip_compress, 0), CASE(gzip_decompress, 0), CASE(png_write, 0), CASE(png_save, 0),
    CASE(augment_apply, 0), CASE(cohort_create, 0),
    CASE(cohort_add, 0), CASE(cohort_load, 0), CASE(folds_create, 0), CASE(stage1_create, 2),
    CASE(stage1_run, 1), CASE(stage1_write, 0), CASE(stage1_save, 0), CASE(stage1_read, 0),
    CASE(stage1_load, 0), CASE(embed, 0), CASE(stage2_create, 0), CASE(stage2_run, 0),
    CASE(stage2_write, 0), CASE(stage2_save, 0), CASE(stage2_read, 0), CASE(stage2_load, 0),
    CASE(roc, 0), CASE(auc, 0), CASE(delong, 0), CASE(bootstrap, 0), CASE(boxplot, 0),
    CASE(experiment_tables, 0), CASE(experiment_json, 20), CASE(experiment_csv, 20),
    CASE(experiment_manifest, 0), CASE(experiment_html, 10), CASE(experiment_publish, 4),
    CASE(preparation_load, 2), CASE(fft, 0), CASE(fft_real, 0), CASE(fft_real_inverse, 0),
    CASE(brain_mask, 0), CASE(phase_unwrap, 0), CASE(dipole_field, 0),
    CASE(background_remove, 0), CASE(dipole_invert, 0),
    CASE(susceptibility_average, 0), CASE(r2star_map, 0), CASE(phase_fit, 0), CASE(t1_map, 0),
    CASE(maps_from_echoes, 0), CASE(experiment_run, 1)};

static double no_time(void *user)
{
    (void)user;
    return 0;
}

/* One run of a case with the fail_at'th allocation failed (0: none). */
static void run_case(const one_case *c, trial *t, size_t fail_at, int fail_on)
{
    memset(t, 0, sizeof *t);
    t->hooks.allocator.user = &t->m;
    t->hooks.allocator.alloc = memory_alloc;
    t->hooks.allocator.free = memory_free;
    t->hooks.clock.seconds = no_time; /* which checkpoints keep */
    CHECK(qnet_context_create(&t->hooks, &t->ctx) == QNET_OK);
    t->fail_at = fail_at;
    t->fail_on = fail_on;
    t->hash = QNET_HASH_START;
    c->run(t);
    CHECK(t->status == QNET_OK);
    CHECK(t->attempt == (fail_at > 0) && "the failure is not swallowed");
    qnet_context_destroy(t->ctx);
    CHECK(t->m.count == 0 && "all memory has come back");
    CHECK(t->m.wrong == NULL);
    if (t->m.wrong != NULL) printf("    %s\n", t->m.wrong);
    memory_end(&t->m);
}

static size_t tried, there, whole_points;
static uint64_t whole_hash;

/* A whole experiment takes seconds: no more than this many, also with "all". */
#define EXPERIMENTS 20

/* All points twice, alone and with all after them; or `most` of them, spread, in turn one way and
   the other. */
static void sweep(const one_case *c, int all)
{
    const int whole = c->run == experiment_run;
    const size_t most = all ? whole ? EXPERIMENTS : 0 : c->most;
    trial t;
    size_t points = whole_points, i, n;
    uint64_t hash = whole_hash;
    test_name = c->name;
    if (!whole) {
        run_case(c, &t, 0, 0);
        points = t.points;
        hash = t.hash;
    }
    CHECK(points > 0 && "it asks for memory");
    n = most > 0 && most < points ? most : 2 * points;
    for (i = 0; i < n; i++) {
        const size_t at = n < 2 * points ? (2 * i + 1) * points / (2 * n) + 1 : i / 2 + 1;
        const long failed = test_failed;
        run_case(c, &t, at, (int)(i % 2));
        CHECK(t.hash == hash && "the same result afterwards");
        if (test_failed > failed)
            printf("    %s: allocation %lu of %lu, %s\n", c->name, (unsigned long)at,
                   (unsigned long)points, i % 2 ? "and all after it" : "alone");
    }
    tried += n;
    there += 2 * points;
    if (n < 2 * points)
        printf("%s: %lu of %lu failures tried\n", c->name, (unsigned long)n,
               (unsigned long)(2 * points));
}

static void prepare(void)
{
    const qnet_input_config input = small_input();
    const qnet_experiment_config config = experiment_config();
    phantom_config phantom;
    qnet_buffer names = { NULL, 0, 0, NULL };
    qnet_buffer csv = {0};
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &all_plain;
    hooks.allocator.alloc = memory_alloc;
    hooks.allocator.free = memory_free;
    CHECK(qnet_context_create(&hooks, &plain) == QNET_OK);
    remove_folder(FOLDER);
    CHECK_OK(plain, qnet_make_folder(plain, FOLDER));
    prepare_files();
    prepare_maps();
    phantom_config_init(&phantom, PHANTOM_SMALL);
    phantom_config_size(&phantom, 32, 40, 12);
    phantom.hh = phantom.hc = 2;
    CHECK_OK(plain, phantom_write(plain, &phantom, DATA));
    CHECK(bids_read(&data, plain, DATA) == QNET_OK);
    CHECK_OK(plain, qnet_cohort_load(plain, &input, data.dataset.scans, data.dataset.count, &cohort));
    prepare_start();
    all_plain.calls = 0;
    CHECK_OK(plain, qnet_experiment_run(plain, &config, &data.dataset, FOLDER "/whole", START, 0,
                                        &experiment));
    pictures_free(plain, &drawn);
    if (experiment == NULL) return;
    whole_points = all_plain.calls;
    CHECK_OK(plain, report_csv(experiment, &csv));
    whole_hash = qnet_hash(QNET_HASH_START, csv.bytes, csv.size);
    qnet_buffer_free(plain, &csv);
    CHECK_OK(plain, qnet_list_folder(plain, FOLDER "/whole/weights", &names));
    CHECK(names.size > 0);
    if (names.size > 0)
        snprintf(weights_path, sizeof weights_path, FOLDER "/whole/weights/%s",
                 (const char *)names.bytes);
    qnet_buffer_free(plain, &names);
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 && strcmp(argv[1], "all") != 0 ? argv[1] : NULL;
    const int all = argc > 1;
    size_t i;
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* long work shows where it is */
    prepare();
    if (test_failed > 0 || cohort == NULL || experiment == NULL) return test_end();
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (only == NULL || strcmp(only, cases[i].name) == 0) sweep(&cases[i], all);
    printf("%lu failures of allocations tried, of %lu\n", (unsigned long)tried,
           (unsigned long)there);
    qnet_experiment_destroy(experiment);
    qnet_cohort_destroy(cohort);
    bids_free(&data);
    qnet_volume_destroy(volume);
    for (int k = 0; k < 6; k++) qnet_volume_destroy(sphere[k]);
    qnet_buffer_free(plain, &tensors_file);
    qnet_buffer_free(plain, &pth_file);
    qnet_buffer_free(plain, &nifti_file);
    qnet_buffer_free(plain, &nifti_gz_file);
    free(start_weights);
    remove_folder(FOLDER);
    qnet_context_destroy(plain);
    CHECK(all_plain.count == 0 && all_plain.wrong == NULL);
    memory_end(&all_plain);
    return test_end();
}
