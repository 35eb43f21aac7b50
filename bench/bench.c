/* Our own figures: every convolution of ResNet18 alone, as GFLOP/s and as a share of what a loop of
   nothing but multiply-adds reaches in the same run; then the whole network in images per second.

       bench [--threads N] [--batch N] [--cpu scalar|avx2|avx512] [--repeats N] [--layers] [--network]

   For people a table, for programs lines of `bench NAME VALUE UNIT`. Times are the best of several
   runs, and with one thread they are processor time: on a busy machine the rest measures the
   neighbours. */
#define QNET_IMPLEMENTATION
#include "../qnet.h"

typedef struct options {
    int threads, batch, repeats, layers, network;
    qnet_cpu cpu;
} options;

static void die(const char *text)
{
    fprintf(stderr, "bench: %s\n", text);
    exit(1);
}

static options parse(int argc, char **argv)
{
    options o = {1, 16, 5, 1, 1, QNET_CPU_AUTO};
    int i;
    for (i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--layers") == 0) o.network = 0;
        else if (strcmp(argv[i], "--network") == 0) o.layers = 0;
        else if (strcmp(argv[i], "--threads") == 0) o.threads = atoi(value), i++;
        else if (strcmp(argv[i], "--batch") == 0) o.batch = atoi(value), i++;
        else if (strcmp(argv[i], "--repeats") == 0) o.repeats = atoi(value), i++;
        else if (strcmp(argv[i], "--cpu") == 0 && qnet_cpu_parse(value, &o.cpu) == QNET_OK) i++;
        else die("usage: bench [--threads N] [--batch N] [--cpu scalar|avx2|avx512] [--repeats N] "
                 "[--layers] [--network]");
    }
    if (o.threads < 1 || o.batch < 1 || o.repeats < 1) die("numbers must be at least 1");
    return o;
}

static void *block(size_t bytes)
{
    void *p = qnet__default_alloc(NULL, bytes, 64);
    if (p == NULL) die("out of memory");
    return p;
}

/* Numbers in -.5 .. .5 that no loop can profit from. */
static qnet_real *numbers(size_t count)
{
    qnet_real *p = (qnet_real *)block(count * sizeof *p);
    size_t i;
    for (i = 0; i < count; i++) p[i] = (qnet_real)((double)(i * 7919 % 1009) / 1009 - .5);
    return p;
}

static double seconds_now(qnet_context *ctx)
{
    return qnet__workers(ctx) == 1 ? (double)clock() / CLOCKS_PER_SEC : qnet__seconds(ctx);
}

/* ---- The peak: independent multiply-adds in registers, on out[256] ---- */

#define PEAK_STEPS 400000

#if QNET__X86
QNET__AVX512 static void peak_avx512(float *out)
{
    __m512 sum[16], x = _mm512_set1_ps(.5f);
    int i, k;
    QNET__UNROLL
    for (i = 0; i < 16; i++) sum[i] = _mm512_loadu_ps(out + 16 * i);
    for (k = 0; k < PEAK_STEPS; k++) {
        QNET__UNROLL
        for (i = 0; i < 16; i++) sum[i] = _mm512_fmadd_ps(sum[i], x, x);
    }
    QNET__UNROLL
    for (i = 0; i < 16; i++) _mm512_storeu_ps(out + 16 * i, sum[i]);
}

QNET__AVX2 static void peak_avx2(float *out)
{
    __m256 sum[12], x = _mm256_set1_ps(.5f);
    int i, k;
    QNET__UNROLL
    for (i = 0; i < 12; i++) sum[i] = _mm256_loadu_ps(out + 8 * i);
    for (k = 0; k < PEAK_STEPS; k++) {
        QNET__UNROLL
        for (i = 0; i < 12; i++) sum[i] = _mm256_fmadd_ps(sum[i], x, x);
    }
    QNET__UNROLL
    for (i = 0; i < 12; i++) _mm256_storeu_ps(out + 8 * i, sum[i]);
}
#endif

static void peak_task(void *arg, size_t index, size_t worker)
{
#if QNET__X86
    float out[256];
    volatile float keep = 2; /* unknown to the compiler, which would compute the sums itself */
    int i;
    QNET__UNUSED(index), QNET__UNUSED(worker);
    for (i = 0; i < 256; i++) out[i] = keep;
    if (qnet_context_cpu((const qnet_context *)arg) == QNET_CPU_AVX512) peak_avx512(out);
    else peak_avx2(out);
    keep = out[0];
    QNET__UNUSED(keep);
#else
    QNET__UNUSED(arg), QNET__UNUSED(index), QNET__UNUSED(worker);
#endif
}

/* GFLOP/s of all workers together; 0 where there is no such loop. */
static double measure_peak(qnet_context *ctx)
{
    const int wide = qnet_context_cpu(ctx) == QNET_CPU_AVX512;
    double best = 0, rate, start;
    int i;
    if (qnet_context_cpu(ctx) == QNET_CPU_SCALAR || !QNET__X86) return 0;
    for (i = 0; i < 20; i++) {
        start = seconds_now(ctx);
        qnet__parallel(ctx, qnet__workers(ctx), peak_task, ctx);
        rate = 2. * PEAK_STEPS * (wide ? 16 * 16 : 12 * 8) * (double)qnet__workers(ctx) /
               (seconds_now(ctx) - start) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

/* ---- The layers of ResNet18 at 224 x 224 ---- */

typedef struct layer {
    const char *name;
    int size, in, out, kernel, stride, padding;
    int count; /* in the network */
} layer;

static const layer layers[] = {
    {"stem_7x7_s2_3_64", 224, 3, 64, 7, 2, 3, 1},    {"3x3_56_64", 56, 64, 64, 3, 1, 1, 4},
    {"3x3_s2_56_64_128", 56, 64, 128, 3, 2, 1, 1},   {"1x1_s2_56_64_128", 56, 64, 128, 1, 2, 0, 1},
    {"3x3_28_128", 28, 128, 128, 3, 1, 1, 3},        {"3x3_s2_28_128_256", 28, 128, 256, 3, 2, 1, 1},
    {"1x1_s2_28_128_256", 28, 128, 256, 1, 2, 0, 1}, {"3x3_14_256", 14, 256, 256, 3, 1, 1, 3},
    {"3x3_s2_14_256_512", 14, 256, 512, 3, 2, 1, 1}, {"1x1_s2_14_256_512", 14, 256, 512, 1, 2, 0, 1},
    {"3x3_7_512", 7, 512, 512, 3, 1, 1, 3}};

static const char *const passes[3] = {"forward", "data", "weights"};

/* Seconds of the three passes of a layer, best of the repeats. */
static void time_layer(qnet_context *ctx, const layer *l, const options *o, double seconds[3])
{
    const qnet_conv2d s = {o->batch, l->size, l->size, l->in, l->out, l->kernel, l->stride, l->padding};
    const size_t in = (size_t)qnet__conv_in_count(&s), weights = (size_t)qnet__conv_weight_count(&s);
    const size_t out = (size_t)qnet__conv_out_pixels(&s) * (size_t)s.out_channels;
    qnet_real *x = numbers(in), *w = numbers(weights), *dy = numbers(out);
    qnet_real *y = numbers(out), *dx = numbers(in), *dw = numbers(weights);
    const size_t bytes = qnet_conv2d_scratch(ctx, &s);
    void *scratch = block(bytes);
    int i, pass;
    for (pass = 0; pass < 3; pass++) {
        seconds[pass] = HUGE_VAL;
        for (i = -1; i < o->repeats; i++) { /* once to touch all memory */
            const double start = seconds_now(ctx);
            double t;
            if (pass == 0) qnet_conv2d_forward(ctx, &s, x, w, y, NULL);
            else if (pass == 1) qnet__conv_sweep(ctx, &s, 1, dy, w, dx, scratch);
            else qnet__conv_weights_direct(ctx, &s, x, dy, dw, scratch);
            t = seconds_now(ctx) - start;
            if (i >= 0 && t < seconds[pass]) seconds[pass] = t;
        }
    }
    qnet__default_free(NULL, x, 0), qnet__default_free(NULL, w, 0), qnet__default_free(NULL, dy, 0);
    qnet__default_free(NULL, y, 0), qnet__default_free(NULL, dx, 0), qnet__default_free(NULL, dw, 0);
    qnet__default_free(NULL, scratch, bytes);
}

static void bench_layers(qnet_context *ctx, const options *o)
{
    double total[3] = {0, 0, 0}, flops[3] = {0, 0, 0}, peak = measure_peak(ctx), p;
    size_t i;
    int pass;
    printf("\nConvolutions of ResNet18 at 224 x 224, batch %d: GFLOP/s and share of the peak\n", o->batch);
    printf("%-20s %18s %18s %18s\n", "", "forward", "data gradient", "weight gradient");
    for (i = 0; i < sizeof layers / sizeof *layers; i++) {
        const layer *l = &layers[i];
        const double outputs = (double)o->batch * ((l->size - 1) / l->stride + 1) *
                               ((l->size - 1) / l->stride + 1) * l->out;
        const double work = 2 * outputs * l->kernel * l->kernel * l->in;
        double seconds[3];
        time_layer(ctx, l, o, seconds);
        p = measure_peak(ctx); /* the clock may have risen */
        peak = p > peak ? p : peak;
        printf("%-20s", l->name);
        for (pass = 0; pass < 3; pass++) {
            printf("   %8.1f", work / seconds[pass] * 1e-9);
            if (peak > 0) printf(" %5.1f%%", work / seconds[pass] * 1e-7 / peak);
            else printf("       ");
            if (pass != 1 || i != 0) { /* the first layer needs no data gradient */
                total[pass] += l->count * seconds[pass];
                flops[pass] += l->count * work;
            }
        }
        printf("\n");
        for (pass = 0; pass < 3; pass++)
            printf("bench %s_%s %.2f GFLOP/s\n", l->name, passes[pass], work / seconds[pass] * 1e-9);
        fflush(stdout);
    }
    for (pass = 0; pass < 3; pass++)
        printf("bench convolutions_%s %.2f GFLOP/s\n", passes[pass], flops[pass] / total[pass] * 1e-9);
    if (peak > 0) printf("bench peak %.2f GFLOP/s\n", peak);
    printf("All convolutions: %.2f ms forward, %.2f ms backward per image\n",
           total[0] * 1e3 / o->batch, (total[1] + total[2]) * 1e3 / o->batch);
}

/* ---- The whole network ---- */

static void check(qnet_context *ctx, qnet_status status)
{
    if (status != QNET_OK) die(qnet_last_error(ctx));
}

static void bench_network(qnet_context *ctx, const options *o, int size, int batch, int training)
{
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_adam_config adam;
    qnet_real *x = numbers((size_t)batch * (size_t)size * (size_t)size * 3), *m = NULL, *v = NULL;
    qnet_real *logits = (qnet_real *)block((size_t)batch * QNET_CLASSES * sizeof *logits);
    int *label = (int *)block((size_t)batch * sizeof *label), i;
    double best = HUGE_VAL, loss;
    qnet_resnet_config_init(&config);
    config.height = config.width = size;
    config.batch = batch;
    config.training = training;
    check(ctx, qnet_resnet_create(ctx, &config, &net));
    qnet_resnet_init(net, 1);
    qnet_adam_config_init(&adam);
    for (i = 0; i < batch; i++) label[i] = i % 2;
    if (training) {
        m = (qnet_real *)block(net->table->trainable * sizeof *m);
        v = (qnet_real *)block(net->table->trainable * sizeof *v);
        memset(m, 0, net->table->trainable * sizeof *m);
        memset(v, 0, net->table->trainable * sizeof *v);
    }
    for (i = -1; i < o->repeats; i++) { /* once to touch all memory */
        const double start = seconds_now(ctx);
        double t;
        check(ctx, qnet_resnet_forward(net, x, batch, training, logits, NULL));
        if (training) {
            check(ctx, qnet_cross_entropy(ctx, (size_t)batch, QNET_CLASSES, logits, label, &loss, logits));
            check(ctx, qnet_resnet_backward(net, x, batch, logits));
            qnet_adam_step(ctx, &adam, net->table->trainable, net->weights, net->gradients, m, v, 1e-4,
                           (uint64_t)i + 2);
        }
        t = seconds_now(ctx) - start;
        if (i >= 0 && t < best) best = t;
    }
    printf("bench %s_%d_batch_%d %.2f images/s\n", training ? "train" : "infer", size, batch, batch / best);
    printf("bench %s_%d_batch_%d_memory %.1f MB\n", training ? "train" : "infer", size, batch,
           (double)net->bytes * 1e-6);
    fflush(stdout);
    qnet_resnet_destroy(net);
    qnet__default_free(NULL, x, 0), qnet__default_free(NULL, logits, 0);
    qnet__default_free(NULL, label, 0);
    if (training) qnet__default_free(NULL, m, 0), qnet__default_free(NULL, v, 0);
}

int main(int argc, char **argv)
{
    const options o = parse(argc, argv);
    static const int sizes[3] = {64, 128, 224};
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    char text[200];
    int i;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = o.threads;
    hooks.cpu = o.cpu;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) die("this machine lacks the kernels asked for");
    qnet_describe_build(ctx, text, sizeof text);
    printf("%s\n", text);
    if (o.layers) bench_layers(ctx, &o);
    if (o.network) {
        printf("\nResNet18, a training step (forward, backward, Adam) and inference\n");
        for (i = 0; i < 3; i++) bench_network(ctx, &o, sizes[i], o.batch, 1);
        for (i = 0; i < 3; i++) bench_network(ctx, &o, sizes[i], o.batch, 0);
        bench_network(ctx, &o, 224, 1, 0);
    }
    qnet_context_destroy(ctx);
    return 0;
}
