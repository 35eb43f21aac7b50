/* bench: our own figures, layer by layer and whole, beside what the machine can do.

       build/bench [options]             build/bench --help

   Every row says how long it takes, its FLOP/s and bytes/s, and which of the machine's two limits
   is the nearer one: arithmetic (a loop of nothing but multiply-adds in registers, of the same
   kind of vectors as the kernels) or memory (a copy of blocks that no cache holds). Both limits
   are measured in the same run. "roofline" is the time that the nearer limit alone would take,
   over the time taken.

   FLOPs of convolutions are those of the direct form, two for each product of a pixel and a weight,
   also where a Winograd form needs fewer: then the share of the peak can pass 100 %. Bytes are
   those that have to move when operands and results lie in memory and each is touched once; a
   tensor that stays in a cache can pass 100 % of the copy, too.

   For people a table, for programs lines `bench NAME VALUE UNIT` after each table. Layers: best of
   the repeats; whole steps: median. With one thread it is processor time that counts: on a busy
   machine the wall clock measures the neighbours. */
#if defined(__linux__)
#define _POSIX_C_SOURCE 200809L
#endif
#define QNET_IMPLEMENTATION
#include "../qnet.h"
#include "machine.h"
#include "echoes.h"

#ifdef BENCH_OPENBLAS
#include <cblas.h>
extern void openblas_set_num_threads(int threads);
#define BENCH_HAS_BLAS 1
#else
#define BENCH_HAS_BLAS 0
#endif

static void check(qnet_context *ctx, qnet_status status)
{
    if (status != QNET_OK) die(qnet_last_error(ctx));
}

typedef struct options {
    int threads, batch, repeats, layers, network, maps, quick, blas, scaling;
    qnet_cpu cpu;
} options;

typedef struct bench {
    const options *o;
    qnet_context *ctx;
    double peak, copy;  /* of the machine, FLOP/s and bytes/s: the best seen so far */
    const char *suffix; /* "" or "_blas" */
    char lines[32768];  /* of `bench ...`, until the table ends */
    size_t used;
} bench;

static const char usage[] =
    "usage: bench [options]\n"
    "  --threads N    threads (default: all that OpenMP offers)\n"
    "  --batch N      images in a batch (default 64; layers use a quarter of it)\n"
    "  --repeats N    runs of each row after one that warms up (default 5)\n"
    "  --cpu NAME     kernels: auto, scalar, avx2, avx512, neon\n"
    "  --layers       the layers only\n"
    "  --network      the whole steps only\n"
    "  --maps         the steps from echoes to maps only\n"
    "  --scaling      one training step with 1, 2, 4 ... threads up to --threads, and no more\n"
    "  --quick        small batches, few repeats: under a minute\n"
    "  --blas         every row twice, the second time with OpenBLAS as the sgemm hook\n"
    "                 (build/bench-openblas only)\n";

static int number(const char *text, const char *option)
{
    char *end = NULL;
    const long n = text != NULL ? strtol(text, &end, 10) : 0;
    if (text == NULL || *text == 0 || *end != 0 || n < 1 || n > 4096) {
        fprintf(stderr, "bench: %s: expected a number of 1..4096\n%s", option, usage);
        exit(2);
    }
    return (int)n;
}

static options parse(int argc, char **argv)
{
    options o = {0, 64, 5, 1, 1, 1, 0, 0, 0, QNET_CPU_AUTO};
    int i, batch = 0, repeats = 0, only = 0;
    for (i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--help") == 0) {
            fputs(usage, stdout);
            exit(0);
        } else if (strcmp(name, "--layers") == 0) {
            only |= 1;
        } else if (strcmp(name, "--network") == 0) {
            only |= 2;
        } else if (strcmp(name, "--maps") == 0) {
            only |= 4;
        } else if (strcmp(name, "--scaling") == 0) {
            o.scaling = 1;
        } else if (strcmp(name, "--quick") == 0) {
            o.quick = 1;
        } else if (strcmp(name, "--blas") == 0 && BENCH_HAS_BLAS) {
            o.blas = 1;
        } else if (strcmp(name, "--blas") == 0) {
            fprintf(stderr, "bench: --blas: this program was built without OpenBLAS; install "
                            "libopenblas-dev and run `make build/bench-openblas`\n");
            exit(2);
        } else if (strcmp(name, "--threads") == 0) {
            o.threads = number(value, name), i++;
        } else if (strcmp(name, "--batch") == 0) {
            batch = number(value, name), i++;
        } else if (strcmp(name, "--repeats") == 0) {
            repeats = number(value, name), i++;
        } else if (strcmp(name, "--cpu") == 0 && value != NULL &&
                   qnet_cpu_parse(value, &o.cpu) == QNET_OK) {
            i++;
        } else {
            fprintf(stderr, "bench: %s: unknown, or a value is missing or wrong\n%s", name, usage);
            exit(2);
        }
    }
    if (only != 0) o.layers = only & 1, o.network = only & 2, o.maps = only & 4;
    o.batch = batch > 0 ? batch : o.quick ? 16 : 64;
    o.repeats = repeats > 0 ? repeats : o.quick ? 2 : 5;
    return o;
}

static int workers(const bench *b)
{
    return (int)qnet_context_hooks(b->ctx)->parallel.workers;
}

/* The processor's time with one thread, the wall clock's with more. */
static double seconds_now(const bench *b)
{
    return workers(b) == 1 ? (double)clock() / CLOCKS_PER_SEC : wall_seconds(b->ctx);
}

/* Numbers in -.5 .. .5 that no loop can profit from. */
static qnet_real *numbers(bench *b, size_t count)
{
    qnet_real *p = (qnet_real *)block(b->ctx, count * sizeof *p);
    size_t i;
    for (i = 0; i < count; i++) p[i] = (qnet_real)((double)(i * 7919 % 1009) / 1009 - .5);
    return p;
}

static void give(bench *b, qnet_real *p, size_t count)
{
    unblock(b->ctx, p, count * sizeof *p);
}

/* ---- The table ---- */

static void look_at_machine(bench *b)
{
    const double peak = measure_peak(b->ctx);
    if (peak > b->peak) b->peak = peak; /* the clock may have risen */
}

static void line(bench *b, const char *name, const char *part, double value, const char *unit)
{
    const size_t room = sizeof b->lines - b->used;
    const int n = snprintf(b->lines + b->used, room, "bench %s%s%s %.6g %s\n", name, part,
                           b->suffix, value, unit);
    if (n < 0 || (size_t)n >= room) die("too many lines");
    b->used += (size_t)n;
}

static void head(bench *b, const char *title)
{
    look_at_machine(b);
    printf("\n%s\n%-30s %10s %9s %6s %8s %6s  %-10s %8s\n", title, "", "ms", "GFLOP/s", "peak",
           "GB/s", "copy", "limit", "roofline");
}

static void tail(bench *b)
{
    printf("%.*s", (int)b->used, b->lines);
    fflush(stdout);
    b->used = 0;
}

/* One row: a name, its work and its time. flops 0: not counted in FLOPs. The limit is "neither"
   where both are more than four times away: latency, branches or a sort. */
static void row(bench *b, const char *name, double flops, double bytes, double seconds)
{
    const double arithmetic = flops / b->peak, memory = bytes / b->copy;
    const double nearer = arithmetic > memory ? arithmetic : memory;
    char full[80];
    snprintf(full, sizeof full, "%s%s", name, b->suffix);
    printf("%-30s %10.3f ", full, 1e3 * seconds);
    if (flops > 0) printf("%9.1f %5.1f%% ", 1e-9 * flops / seconds, 1e2 * arithmetic / seconds);
    else printf("%9s %6s ", "-", "-");
    printf("%8.1f %5.1f%%  %-10s %7.1f%%\n", 1e-9 * bytes / seconds, 1e2 * memory / seconds,
           nearer < .25 * seconds ? "neither" : arithmetic > memory ? "arithmetic" : "memory",
           1e2 * nearer / seconds);
    fflush(stdout);
    line(b, name, "", 1e3 * seconds, "ms");
    if (flops > 0) line(b, name, "_rate", 1e-9 * flops / seconds, "GFLOP/s");
    if (flops > 0) line(b, name, "_peak", 1e2 * arithmetic / seconds, "%");
    line(b, name, "_traffic", 1e-9 * bytes / seconds, "GB/s");
    line(b, name, "_roofline", 1e2 * nearer / seconds, "%");
}

/* Best time of `work`, once to touch all memory and then the repeats. */
typedef void (*work_function)(void *);
static double best_of(bench *b, work_function work, void *arg)
{
    double best = HUGE_VAL;
    int i;
    for (i = -1; i < b->o->repeats; i++) {
        const double start = seconds_now(b);
        double t;
        work(arg);
        t = seconds_now(b) - start;
        if (i >= 0 && t < best) best = t;
    }
    return best;
}

/* ---- Convolutions ---- */

typedef struct conv_job {
    qnet_context *ctx;
    qnet_conv2d shape;
    qnet_real *x, *w, *y, *dy, *dx, *dw;
    void *scratch;
} conv_job;

static void conv_forward(void *arg)
{
    conv_job *j = (conv_job *)arg;
    check(j->ctx, qnet_conv2d_forward(j->ctx, &j->shape, j->x, j->w, j->y, j->scratch));
}

static void conv_weights(void *arg)
{
    conv_job *j = (conv_job *)arg;
    check(j->ctx, qnet_conv2d_backward(j->ctx, &j->shape, j->x, j->w, j->dy, NULL, j->dw,
                                       j->scratch));
}

static void conv_backward(void *arg)
{
    conv_job *j = (conv_job *)arg;
    check(j->ctx, qnet_conv2d_backward(j->ctx, &j->shape, j->x, j->w, j->dy, j->dx, j->dw,
                                       j->scratch));
}

/* The relative root-mean-square error of the forward pass and of the data gradient over that of
   the direct form: the same sums as one chain of fused multiply-adds in single precision, on
   sampled outputs, both against double precision. */
static void conv_errors(bench *b, const conv_job *j, const char *name)
{
    const qnet_conv2d *s = &j->shape;
    double ours[2] = {0, 0}, direct[2] = {0, 0}, size[2] = {0, 0};
    int i, side = s->height, dy, dx, c, pass;
    for (pass = 0; pass < 2; pass++) {
        const int from = pass == 0 ? s->in_channels : s->out_channels;
        const int to = pass == 0 ? s->out_channels : s->in_channels;
        const qnet_real *in = pass == 0 ? j->x : j->dy, *out = pass == 0 ? j->y : j->dx;
        for (i = 0; i < 2000; i++) {
            const int py = i * 7 % side, px = i * 13 % side, o = i * 31 % to;
            double exact = 0, e;
            float chain = 0;
            for (dy = -1; dy <= 1; dy++)
                for (dx = -1; dx <= 1; dx++) {
                    if (py + dy < 0 || py + dy >= side || px + dx < 0 || px + dx >= side) continue;
                    for (c = 0; c < from; c++) {
                        const qnet_real v = in[((size_t)(py + dy) * (size_t)side +
                                                (size_t)(px + dx)) * (size_t)from + (size_t)c];
                        const int tap = pass == 0 ? (dy + 1) * 3 + dx + 1 : (1 - dy) * 3 + 1 - dx;
                        const size_t at = pass == 0 ? (size_t)c * (size_t)to + (size_t)o
                                                    : (size_t)o * (size_t)from + (size_t)c;
                        const qnet_real w = j->w[(size_t)tap * (size_t)(from * to) + at];
                        exact += (double)v * (double)w;
                        chain = fmaf((float)v, (float)w, chain);
                    }
                }
            e = (double)out[((size_t)py * (size_t)side + (size_t)px) * (size_t)to + (size_t)o];
            ours[pass] += (e - exact) * (e - exact);
            direct[pass] += ((double)chain - exact) * ((double)chain - exact);
            size[pass] += exact * exact;
        }
    }
    for (pass = 0; pass < 2; pass++) {
        const char *part = pass == 0 ? "_forward_error" : "_data_error";
        line(b, name, part, sqrt(ours[pass] / size[pass]), "relative_rms");
        line(b, name, pass == 0 ? "_forward_error_over_direct" : "_data_error_over_direct",
             sqrt(ours[pass] / direct[pass]), "x");
    }
}

static void bench_convolutions(bench *b)
{
    const int batch = b->o->batch / 4 > 0 ? b->o->batch / 4 : 1;
    static const char *const pass_name[3] = {"_forward", "_data", "_weights"};
    double total[3] = {0, 0, 0}, flops[3] = {0, 0, 0};
    char title[160], name[80];
    int i, pass;
    sprintf(title, "Convolutions of ResNet18 at 224 x 224, batch %d, FLOPs of the direct form",
            batch);
    head(b, title);
    for (i = 0; i < LAYERS; i++) {
        const layer *l = &layers[i];
        const layer_work k = work_of(l, batch, 224);
        const size_t in = (size_t)k.x, weights = (size_t)k.w, out = (size_t)k.y;
        conv_job j;
        double t[3];
        size_t scratch;
        j.ctx = b->ctx;
        j.shape.batch = batch, j.shape.height = j.shape.width = l->size;
        j.shape.in_channels = l->in, j.shape.out_channels = l->out;
        j.shape.kernel = l->kernel, j.shape.stride = l->stride, j.shape.padding = l->padding;
        j.x = numbers(b, in), j.w = numbers(b, weights), j.y = numbers(b, out);
        j.dy = numbers(b, out), j.dx = numbers(b, in), j.dw = numbers(b, weights);
        scratch = qnet_conv2d_scratch(b->ctx, &j.shape);
        j.scratch = block(b->ctx, scratch);
        t[0] = best_of(b, conv_forward, &j);
        t[2] = best_of(b, conv_weights, &j);
        t[1] = best_of(b, conv_backward, &j) - t[2]; /* there is no call for the data alone */
        look_at_machine(b);
        for (pass = 0; pass < 3; pass++) {
            if (pass == 1 && i == 0) continue; /* the first layer needs no data gradient */
            sprintf(name, "%s%s", l->name, pass_name[pass]);
            if (t[pass] > 0) row(b, name, k.flops, 4 * (k.x + k.w + k.y), t[pass]);
            total[pass] += l->count * t[pass];
            flops[pass] += l->count * k.flops;
        }
        if (l->kernel == 3 && l->stride == 1) conv_errors(b, &j, l->name);
        give(b, j.x, in), give(b, j.w, weights), give(b, j.y, out);
        give(b, j.dy, out), give(b, j.dx, in), give(b, j.dw, weights);
        unblock(b->ctx, j.scratch, scratch);
    }
    for (pass = 0; pass < 3; pass++) {
        sprintf(name, "convolutions%s", pass_name[pass]);
        line(b, name, "_rate", 1e-9 * flops[pass] / total[pass], "GFLOP/s");
        line(b, name, "_peak", 1e2 * flops[pass] / total[pass] / b->peak, "%");
    }
    printf("All 20, per image: %.2f ms forward, %.2f ms data, %.2f ms weights\n",
           1e3 * total[0] / batch, 1e3 * total[1] / batch, 1e3 * total[2] / batch);
    tail(b);
}

/* ---- Batch norm, pooling, Adam ---- */

typedef struct norm_job {
    qnet_context *ctx;
    size_t rows;
    int channels, batch, side;
    qnet_real *x, *y, *dy, *dx, *c; /* c: eight vectors of channels */
    uint8_t *argmax;
    void *scratch;
} norm_job;

static void norm_forward(void *arg)
{
    norm_job *j = (norm_job *)arg;
    const size_t n = (size_t)j->channels;
    check(j->ctx, qnet_batchnorm_forward(j->ctx, j->rows, j->channels, j->x, j->c, j->c + n, NULL,
                                         1, .1, j->c + 2 * n, j->c + 3 * n, j->c + 4 * n,
                                         j->c + 5 * n, j->y, j->scratch));
}

static void norm_inference(void *arg)
{
    norm_job *j = (norm_job *)arg;
    const size_t n = (size_t)j->channels;
    check(j->ctx, qnet_batchnorm_inference(j->ctx, j->rows, j->channels, j->x, j->c, j->c + n,
                                           j->c + 2 * n, j->c + 3 * n, NULL, 1, j->y));
}

static void norm_backward(void *arg)
{
    norm_job *j = (norm_job *)arg;
    const size_t n = (size_t)j->channels;
    check(j->ctx, qnet_batchnorm_backward(j->ctx, j->rows, j->channels, j->x, j->c, j->c + 4 * n,
                                          j->c + 5 * n, j->y, j->dy, j->dx, NULL, j->c + 6 * n,
                                          j->c + 7 * n, j->scratch));
}

static void pool_forward(void *arg)
{
    norm_job *j = (norm_job *)arg;
    check(j->ctx, qnet_maxpool_forward(j->ctx, j->batch, j->side, j->side, j->channels, j->x, j->y,
                                       j->argmax));
}

static void pool_backward(void *arg)
{
    norm_job *j = (norm_job *)arg;
    check(j->ctx, qnet_maxpool_backward(j->ctx, j->batch, j->side, j->side, j->channels, j->argmax,
                                        j->dy, j->dx));
}

static void average_forward(void *arg)
{
    norm_job *j = (norm_job *)arg;
    check(j->ctx, qnet_avgpool_forward(j->ctx, j->batch, (size_t)(j->side * j->side), j->channels,
                                       j->x, j->y));
}

typedef struct adam_job {
    qnet_context *ctx;
    size_t count;
    qnet_real *p, *g, *m, *v;
} adam_job;

static void adam_step(void *arg)
{
    adam_job *j = (adam_job *)arg;
    qnet_adam_config config;
    qnet_adam_config_init(&config);
    qnet_adam_step(j->ctx, &config, j->count, j->p, j->g, j->m, j->v, 1e-4, 10);
}

static void bench_passes(bench *b)
{
    static const int side[5] = {112, 56, 28, 14, 7}, channels[5] = {64, 64, 128, 256, 512};
    const int batch = b->o->batch / 4 > 0 ? b->o->batch / 4 : 1;
    const double real = sizeof(qnet_real);
    adam_job a;
    norm_job j;
    char title[160], name[80];
    size_t i;
    int k;
    sprintf(title, "Batch norm with ReLU (alone, not in a convolution), pooling, Adam, batch %d",
            batch);
    head(b, title);
    for (k = 0; k < 5; k++) {
        const size_t rows = (size_t)batch * (size_t)(side[k] * side[k]), c = (size_t)channels[k];
        const size_t count = rows * c;
        const size_t scratch = qnet_batchnorm_scratch(b->ctx, rows, channels[k]);
        const double n = (double)count * real;
        j.ctx = b->ctx, j.rows = rows, j.channels = channels[k], j.batch = batch, j.side = side[k];
        j.x = numbers(b, count), j.y = numbers(b, count);
        j.dy = numbers(b, count), j.dx = numbers(b, count);
        j.c = numbers(b, 8 * c);
        for (i = 0; i < 8 * c; i++) j.c[i] = (qnet_real).5;
        j.argmax = (uint8_t *)block(b->ctx, count);
        j.scratch = block(b->ctx, scratch);
        sprintf(name, "batchnorm_%d_%d_forward", side[k], channels[k]);
        row(b, name, 0, 3 * n, best_of(b, norm_forward, &j)); /* x twice, y */
        sprintf(name, "batchnorm_%d_%d_backward", side[k], channels[k]);
        row(b, name, 0, 7 * n, best_of(b, norm_backward, &j)); /* x, y, dy twice, dx */
        sprintf(name, "batchnorm_%d_%d_inference", side[k], channels[k]);
        row(b, name, 0, 2 * n, best_of(b, norm_inference, &j));
        if (k == 0) { /* a quarter of the pixels comes out, with a byte each */
            row(b, "maxpool_112_64_forward", 0, 1.25 * n + .25 * n / real,
                best_of(b, pool_forward, &j));
            row(b, "maxpool_112_64_backward", 0, 1.25 * n + .25 * n / real,
                best_of(b, pool_backward, &j));
        }
        if (k == 4) row(b, "avgpool_7_512_forward", 0, n, best_of(b, average_forward, &j));
        give(b, j.x, count), give(b, j.y, count), give(b, j.dy, count), give(b, j.dx, count);
        give(b, j.c, 8 * c);
        unblock(b->ctx, j.argmax, count), unblock(b->ctx, j.scratch, scratch);
    }
    a.ctx = b->ctx, a.count = 11177538; /* ResNet18 with two classes */
    a.p = numbers(b, a.count), a.g = numbers(b, a.count), a.m = numbers(b, a.count);
    a.v = (qnet_real *)block(b->ctx, a.count * sizeof(qnet_real));
    row(b, "adam_resnet18", 0, 7 * (double)a.count * real, best_of(b, adam_step, &a));
    give(b, a.p, a.count), give(b, a.g, a.count), give(b, a.m, a.count), give(b, a.v, a.count);
    tail(b);
}

/* ---- BiLSTM ---- */

typedef struct lstm_job {
    qnet_context *ctx;
    qnet_lstm shape;
    qnet_lstm_weights weights;
    qnet_lstm_gradients gradients;
    qnet_real *x, *y, *dy, *saved;
    int *length;
    void *scratch;
} lstm_job;

static void lstm_forward(void *arg)
{
    lstm_job *j = (lstm_job *)arg;
    check(j->ctx, qnet_lstm_forward(j->ctx, &j->shape, j->length, &j->weights, j->x, j->y, j->saved,
                                    j->scratch));
}

static void lstm_backward(void *arg)
{
    lstm_job *j = (lstm_job *)arg;
    check(j->ctx, qnet_lstm_backward(j->ctx, &j->shape, j->length, &j->weights, j->x, j->y,
                                     j->saved, j->dy, NULL, &j->gradients, j->scratch));
}

static void bench_lstm(bench *b)
{
    const qnet_lstm shape = {64, 24, 512, 256};
    const size_t w = 4 * 256 * 512, u = 4 * 256 * 256, c = 4 * 256, in = 64 * 24 * 512;
    const size_t saved = qnet_lstm_saved(&shape), scratch = qnet_lstm_scratch(b->ctx, &shape);
    const double real = sizeof(qnet_real), rows = 64 * 24;
    /* Both directions. Backward: weights of both products, and the state's; not x's. */
    const double forward = 2 * rows * 2. * (double)(w + u);
    const double backward = 2 * rows * 2. * (double)(w + 2 * u);
    const double bytes = real * (2. * (double)in + (double)saved + 2. * (double)(w + u));
    qnet_real *weights = numbers(b, 4 * (w + u + c));
    lstm_job j;
    int i;
    for (i = 0; i < 2; i++) {
        qnet_real *p = weights + (size_t)i * (w + u + c), *g = p + 2 * (w + u + c);
        size_t k;
        for (k = 0; k < w + u + c; k++) p[k] /= 16;
        j.weights.w[i] = p, j.weights.u[i] = p + w, j.weights.b[i] = p + w + u;
        j.gradients.w[i] = g, j.gradients.u[i] = g + w, j.gradients.b[i] = g + w + u;
    }
    j.ctx = b->ctx, j.shape = shape;
    j.x = numbers(b, in), j.y = numbers(b, in), j.dy = numbers(b, in), j.saved = numbers(b, saved);
    j.length = (int *)block(b->ctx, 64 * sizeof *j.length);
    for (i = 0; i < 64; i++) j.length[i] = 24;
    j.scratch = block(b->ctx, scratch);
    head(b, "BiLSTM, 64 scans x 24 slices x 512 features, 256 hidden units per direction");
    row(b, "bilstm_forward", forward, bytes, best_of(b, lstm_forward, &j));
    row(b, "bilstm_backward", backward, bytes + real * 2. * (double)(w + u),
        best_of(b, lstm_backward, &j));
    tail(b);
    give(b, j.x, in), give(b, j.y, in), give(b, j.dy, in), give(b, j.saved, saved);
    give(b, weights, 4 * (w + u + c));
    unblock(b->ctx, j.length, 64 * sizeof *j.length), unblock(b->ctx, j.scratch, scratch);
}

/* ---- Augmentation and statistics ---- */

#define PREPARED 260 /* a crop of 224 with its margins */

typedef struct augment_job {
    qnet_context *ctx;
    qnet_augment_config config;
    float *pixels, low[3], high[3];
    qnet_real *out;
    size_t scratch_bytes;
    unsigned char *scratch;
    uint32_t round;
} augment_job;

static void limits_work(void *arg)
{
    augment_job *j = (augment_job *)arg;
    check(j->ctx, qnet_stretch_limits(j->ctx, &j->config, j->pixels, PREPARED * PREPARED, j->low,
                                      j->high, j->scratch));
}

static void augment_task(void *arg, size_t index, size_t worker)
{
    augment_job *j = (augment_job *)arg;
    qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_AUGMENT, j->round, index);
    qnet_augmentation record =
        qnet_augment_draw(&j->config, &rng, PREPARED, PREPARED, 224, 224);
    qnet_augment_apply_within(j->ctx, &j->config, &record, j->pixels, PREPARED, PREPARED, j->low,
                              j->high, j->out + index * 224 * 224 * 3, 224, 224,
                              j->scratch + worker * j->scratch_bytes);
}

static void augment_batch(void *arg)
{
    augment_job *j = (augment_job *)arg;
    const qnet_parallel *p = &qnet_context_hooks(j->ctx)->parallel;
    p->run(p->user, 16, augment_task, j);
    j->round++;
}

typedef struct score_job {
    qnet_context *ctx;
    int *label, resamples;
    double *score[2], *auc;
    size_t count;
} score_job;

static void delong_work(void *arg)
{
    score_job *j = (score_job *)arg;
    qnet_delong d;
    check(j->ctx, qnet_delong_test(j->ctx, j->label, j->score[0], j->score[1], NULL, j->count, &d));
}

static void bootstrap_work(void *arg)
{
    score_job *j = (score_job *)arg;
    check(j->ctx, qnet_bootstrap_auc(j->ctx, j->label, j->score[0], NULL, j->count, j->resamples, 1,
                                     j->auc));
}

static void bench_data(bench *b)
{
    static const struct {
        const char *name;
        int flips, colour, gamma, grid, affine;
    } kind[] = {{"augment_stretch", 0, 0, 0, 0, 0}, {"augment_flips", 1, 0, 0, 0, 0},
                {"augment_brightness", 0, 1, 0, 0, 0}, {"augment_gamma", 0, 0, 1, 0, 0},
                {"augment_grid", 0, 0, 0, 1, 0}, {"augment_affine", 0, 0, 0, 0, 1},
                {"augment_all", 1, 1, 1, 1, 1}};
    const size_t items = b->o->quick ? 100000 : 1000000, boot = b->o->quick ? 10000 : 100000;
    const double image = 4. * 3 * (PREPARED * PREPARED + 224 * 224);
    const size_t pixels = PREPARED * PREPARED * 3, outs = 16 * 224 * 224 * 3;
    augment_job a;
    score_job s;
    char name[80];
    size_t i, k;
    memset(&a, 0, sizeof a);
    a.ctx = b->ctx;
    a.pixels = (float *)block(b->ctx, pixels * sizeof *a.pixels);
    for (i = 0; i < pixels; i++)
        a.pixels[i] = (float)(.5 + .4 * sin((double)(i / 3 % PREPARED) * .11) *
                                       cos((double)(i / 3 / PREPARED) * .13 + (double)(i % 3)));
    a.out = numbers(b, outs);
    a.scratch_bytes = (qnet_augment_scratch(PREPARED, PREPARED) + 63) / 64 * 64;
    a.scratch = (unsigned char *)block(b->ctx, a.scratch_bytes * (size_t)workers(b));
    head(b, "Augmentation, 16 images of 260 x 260 to 224 x 224: stretch and each transform alone, "
            "and all;\nfirst the limits of one image's stretch, which training finds once");
    qnet_augment_config_init(&a.config);
    row(b, "stretch_limits_1", 0, image, best_of(b, limits_work, &a));
    for (k = 0; k < sizeof kind / sizeof *kind; k++) {
        a.config.p_hflip = a.config.p_vflip = kind[k].flips;
        a.config.p_brightness_contrast = kind[k].colour, a.config.p_gamma = kind[k].gamma;
        a.config.p_grid = kind[k].grid, a.config.p_affine = kind[k].affine;
        row(b, kind[k].name, 0, 16 * image, best_of(b, augment_batch, &a));
    }
    tail(b);
    unblock(b->ctx, a.pixels, pixels * sizeof *a.pixels), give(b, a.out, outs);
    unblock(b->ctx, a.scratch, a.scratch_bytes * (size_t)workers(b));

    s.ctx = b->ctx;
    s.label = (int *)block(b->ctx, items * sizeof *s.label);
    for (k = 0; k < 2; k++) s.score[k] = (double *)block(b->ctx, items * sizeof(double));
    s.resamples = b->o->quick ? 200 : 2000;
    s.auc = (double *)block(b->ctx, (size_t)s.resamples * sizeof(double));
    for (i = 0; i < items; i++) {
        qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_USER, 0, i);
        s.label[i] = qnet_rng_uniform(&rng) > .5;
        for (k = 0; k < 2; k++) s.score[k][i] = s.label[i] * .5 + qnet_rng_uniform(&rng);
    }
    head(b, "Statistics: labels and scores read once are the bytes");
    s.count = items;
    sprintf(name, "delong_%.0e", (double)items);
    row(b, name, 0, 20. * (double)items, best_of(b, delong_work, &s));
    s.count = boot;
    sprintf(name, "bootstrap_%dx%.0e", s.resamples, (double)boot);
    row(b, name, 0, 12. * (double)boot * s.resamples, best_of(b, bootstrap_work, &s));
    tail(b);
    unblock(b->ctx, s.label, items * sizeof *s.label);
    unblock(b->ctx, s.auc, (size_t)s.resamples * sizeof(double));
    for (k = 0; k < 2; k++) unblock(b->ctx, s.score[k], items * sizeof(double));
}

/* ---- From echoes to maps ---- */

/* An ellipsoid of 128 x 144 x 56 voxels with nuclei, air below it, coils' phases and noise. */
static qnet_status echoes_make(qnet_context *ctx, echoes_scan *s)
{
    enum { NX = 128, NY = 144, NZ = 56, COUNT = NX * NY * NZ };
    qnet_volume *chi = NULL, *field = NULL;
    memset(s, 0, sizeof *s);
    s->ctx = ctx;
    QNET__TRY(qnet_volume_create(ctx, NX, NY, NZ, &s->mask));
    for (int i = 0; i < 3; i++) s->mask->affine[i][i] = s->mask->spacing[i] = i < 2 ? 1.5 : 2;
    QNET__TRY(qnet__volume_like(ctx, s->mask, &chi));
    for (int i = 0; i < COUNT; i++) {
        const double x = i % NX - 63.5, y = i / NX % NY - 71.5, z = i / NX / NY - 27.5;
        const double r = x * x / 2300 + y * y / 3300 + z * z / 576;
        s->mask->voxels[i] = r < 1;
        chi->voxels[i] = (float)(r < 1 ? .03 * sin(.3 * x) * cos(.27 * y) * sin(.4 * z) : 0);
        if ((fabs(x) - 15) * (fabs(x) - 15) + y * y + 2 * z * z < 60) chi->voxels[i] = .15f;
        if (x * x + (y - 62) * (y - 62) + (z + 24) * (z + 24) < 50) chi->voxels[i] = 6;
    }
    QNET__TRY(qnet_dipole_field(ctx, chi, &field));
    for (int e = 0; e < ECHOES; e++) {
        const double te = .005 * (e + 1);
        QNET__TRY(qnet__volume_like(ctx, s->mask, &s->magnitude[e]));
        QNET__TRY(qnet__volume_like(ctx, s->mask, &s->phase[e]));
        for (int i = 0; i < COUNT; i++) {
            qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_USER, (uint32_t)e, (uint64_t)i);
            const double m = s->mask->voxels[i] != 0 ? 1000 * exp(-te * 20) : 0;
            const double p = .5 + i % NX * .01 +
                             2 * QNET__PI * QNET_GAMMA_MHZ_PER_T * 3 * te *
                                 (double)field->voxels[i];
            const double a = m * cos(p) + 15 * qnet_rng_normal(&rng);
            const double b = m * sin(p) + 15 * qnet_rng_normal(&rng);
            s->magnitude[e]->voxels[i] = (float)sqrt(a * a + b * b);
            s->phase[e]->voxels[i] = (float)atan2(b, a);
        }
    }
    qnet_volume_destroy(chi), qnet_volume_destroy(field);
    echoes_ready(s);
    return QNET_OK;
}

typedef struct maps_job {
    echoes_scan scan;
    echoes_step step;
} maps_job;

static void maps_work(void *arg)
{
    maps_job *j = (maps_job *)arg;
    check(j->scan.ctx, j->step(&j->scan, NULL, NULL));
}

/* Volumes read and written once are the bytes: of the chain all echoes and three maps. */
static void bench_maps(bench *b)
{
    static const double volumes[ECHOES_STEPS] = {13, 3, 3, 8, 16, 2, 4};
    maps_job j;
    check(b->ctx, echoes_make(b->ctx, &j.scan));
    check(b->ctx, echoes_unwrap(&j.scan, NULL, NULL));
    check(b->ctx, echoes_background(&j.scan, NULL, NULL));
    head(b, "From echoes to maps, 6 echoes of 128 x 144 x 56: unwrapping of all, background and "
            "inversion\nof one, R2*, the whole chain with a given mask; BET; one volume to its spectrum and back");
    for (int k = 0; k < ECHOES_STEPS; k++) {
        j.step = echoes_steps[k].run;
        row(b, echoes_steps[k].name, 0, volumes[k] * 4 * 128 * 144 * 56,
            best_of(b, maps_work, &j));
    }
    tail(b);
    echoes_close(&j.scan);
}

/* ---- Whole steps ---- */

/* An allocator that counts what is out and its peak, and leaves the work to another. */
typedef struct counted {
    qnet_allocator inner;
    size_t now, peak;
} counted;

static void *counted_alloc(void *user, size_t size, size_t align)
{
    counted *c = (counted *)user;
    void *p = c->inner.alloc(c->inner.user, size, align);
    if (p != NULL) c->now += size;
    if (c->now > c->peak) c->peak = c->now;
    return p;
}

static void counted_free(void *user, void *p, size_t size)
{
    counted *c = (counted *)user;
    if (p != NULL) c->now -= size;
    c->inner.free(c->inner.user, p, size);
}

/* Bytes that the convolutions of a batch have to move when each pass reads its two operands from
   memory and writes its result there, once; training: with Adam's seven passes over the weights.
   All that is between the convolutions is taken to ride along, as fused code can; of the first
   layer that is pooling, so that a quarter of its output is left. */
static double network_bytes(int batch, int side, int training)
{
    double sum = 0;
    int i;
    for (i = 0; i < LAYERS; i++) {
        const layer_work k = work_of(&layers[i], batch, side);
        const double y = i == 0 ? k.y / 4 : k.y;
        sum += (training ? i == 0 ? 2 : 3 : 1) * layers[i].count * (k.x + k.w + y) * 4;
        if (training) sum += 7 * 4 * layers[i].count * k.w;
    }
    return sum;
}


typedef struct net_job {
    qnet_context *ctx;
    qnet_resnet *net;
    qnet_scan_model *scan;
    qnet_adam_config adam;
    int batch, training;
    size_t inputs;
    qnet_real *x, *m, *v, *logits;
    int *label, *length;
    uint64_t step;
} net_job;

static void net_step(net_job *j)
{
    double loss;
    check(j->ctx, qnet_resnet_forward(j->net, j->x, j->batch, j->training, j->logits, NULL));
    if (!j->training) return;
    check(j->ctx, qnet_cross_entropy(j->ctx, (size_t)j->batch, QNET_CLASSES, j->logits, j->label,
                                     &loss, j->logits));
    check(j->ctx, qnet_resnet_backward(j->net, j->x, j->batch, j->logits));
    qnet_adam_step(j->ctx, &j->adam, j->net->table->trainable, j->net->weights, j->net->gradients,
                   j->m, j->v, 1e-4, ++j->step);
}

static void scan_step(net_job *j)
{
    double image_loss, scan_loss;
    check(j->ctx, qnet_scan_model_loss(j->scan, j->x, j->length, j->label, j->batch, &image_loss,
                                       &scan_loss, 1));
    qnet_adam_step(j->ctx, &j->adam, j->scan->table->trainable, j->scan->weights,
                   j->scan->gradients, j->m, j->v, 3e-4, ++j->step);
}

static void net_open(net_job *j, qnet_context *ctx, int size, int batch, int training)
{
    qnet_resnet_config config;
    size_t i;
    memset(j, 0, sizeof *j);
    j->ctx = ctx, j->batch = batch, j->training = training;
    qnet_adam_config_init(&j->adam);
    qnet_resnet_config_init(&config);
    config.height = config.width = size, config.batch = batch, config.training = training;
    check(ctx, qnet_resnet_create(ctx, &config, &j->net));
    qnet_resnet_init(j->net, 1);
    if (!training) check(ctx, qnet_resnet_pack(j->net));
    j->inputs = (size_t)batch * (size_t)size * (size_t)size * 3;
    j->x = (qnet_real *)block(ctx, j->inputs * sizeof *j->x);
    for (i = 0; i < j->inputs; i++) j->x[i] = (qnet_real)((double)(i * 7919 % 1009) / 1009 - .5);
    j->logits = (qnet_real *)block(ctx, (size_t)batch * QNET_CLASSES * sizeof *j->logits);
    j->label = (int *)block(ctx, (size_t)batch * sizeof *j->label);
    for (i = 0; i < (size_t)batch; i++) j->label[i] = (int)(i % 2);
    if (training) {
        j->m = (qnet_real *)block(ctx, j->net->table->trainable * sizeof *j->m);
        j->v = (qnet_real *)block(ctx, j->net->table->trainable * sizeof *j->v);
    }
}

static void net_close(net_job *j)
{
    const size_t n = j->net != NULL ? j->net->table->trainable : j->scan->table->trainable;
    const size_t batch = (size_t)j->batch;
    unblock(j->ctx, j->m, n * sizeof *j->m), unblock(j->ctx, j->v, n * sizeof *j->v);
    unblock(j->ctx, j->x, j->inputs * sizeof *j->x);
    if (j->logits) unblock(j->ctx, j->logits, batch * QNET_CLASSES * sizeof *j->logits);
    unblock(j->ctx, j->label, batch * sizeof *j->label);
    if (j->length) unblock(j->ctx, j->length, batch * sizeof *j->length);
    qnet_resnet_destroy(j->net);
    qnet_scan_model_destroy(j->scan);
}

/* Median wall seconds of a step, after one that warms up. */
static double step_seconds(bench *b, net_job *j)
{
    double times[4096];
    int i;
    for (i = -1; i < b->o->repeats; i++) {
        const double start = seconds_now(b);
        if (j->scan != NULL) scan_step(j);
        else net_step(j);
        if (i >= 0) times[i] = seconds_now(b) - start;
    }
    return median(times, (size_t)b->o->repeats);
}

/* Largest sum of all blocks asked for: network, optimiser and batch, as in a training run. */
static void bench_memory(bench *b, int size, int batch)
{
    qnet_hooks hooks = *qnet_context_hooks(b->ctx);
    counted memory;
    qnet_context *ctx = NULL;
    net_job j;
    char name[80];
    memory.inner = hooks.allocator, memory.now = memory.peak = 0;
    hooks.allocator.user = &memory;
    hooks.allocator.alloc = counted_alloc;
    hooks.allocator.free = counted_free;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) die("no context");
    net_open(&j, ctx, size, batch, 1);
    net_step(&j);
    net_close(&j);
    qnet_context_destroy(ctx);
    printf("Memory of a training step, %d x %d, batch %d: %.1f MB at its peak\n", size, size, batch,
           1e-6 * (double)memory.peak);
    sprintf(name, "train_%d_b%d_memory", size, batch);
    line(b, name, "", 1e-6 * (double)memory.peak, "MB");
}

static void bench_network(bench *b)
{
    static const int sizes[3] = {224, 128, 64};
    const int batch = b->o->batch;
    char name[80];
    net_job j;
    int i, k, training;
    double t;
    head(b, "ResNet18, whole: a training step (forward, loss, backward, Adam), and inference");
    for (training = 1; training >= 0; training--)
        for (i = b->o->quick ? 1 : 0; i < 3; i++)
            for (k = training; k < 2; k++) {
                const int images = k == 0 ? 1 : batch, size = sizes[i];
                net_open(&j, b->ctx, size, images, training);
                t = step_seconds(b, &j);
                net_close(&j);
                look_at_machine(b);
                sprintf(name, "%s_%d_b%d", training ? "train" : "infer", size, images);
                row(b, name, images * network_flops(size, training),
                    network_bytes(images, size, training), t);
                line(b, name, "_images", images / t, "images/s");
                line(b, name, "_over_direct_limit", /* the peak, if all were direct */
                     images * network_flops(size, training) / b->peak / t, "x");
            }
    bench_memory(b, b->o->quick ? 128 : 224, batch);
    tail(b);
}

static void bench_stage2(bench *b)
{
    qnet_scan_config config;
    net_job j;
    double w = 2. * 4 * 256 * 512, u = 2. * 4 * 256 * 256, heads = 2. * 512 + 2. * 24 * 512;
    double rows = 64 * 24;
    /* Forward, weights, and the state's gradient; the image head counts per row. */
    double flops = 2 * rows * (2 * w + 3 * u + 3 * 2 * 512) + 2 * 64 * 3 * 2. * 24 * 512, t;
    size_t i;
    memset(&j, 0, sizeof j);
    j.ctx = b->ctx, j.batch = 64;
    qnet_adam_config_init(&j.adam);
    qnet_scan_config_init(&config);
    check(b->ctx, qnet_scan_model_create(b->ctx, &config, &j.scan));
    qnet_scan_model_init(j.scan, 1);
    j.inputs = 64 * 24 * 512;
    j.x = numbers(b, j.inputs);
    j.m = (qnet_real *)block(b->ctx, j.scan->table->trainable * sizeof *j.m);
    j.v = (qnet_real *)block(b->ctx, j.scan->table->trainable * sizeof *j.v);
    j.label = (int *)block(b->ctx, 64 * sizeof *j.label);
    j.length = (int *)block(b->ctx, 64 * sizeof *j.length);
    for (i = 0; i < 64; i++) j.label[i] = (int)(i % 2), j.length[i] = 24;
    head(b, "Stage 2, whole: a training step of BiLSTM and both heads, 64 scans x 24 slices x 512");
    t = step_seconds(b, &j);
    row(b, "stage2_step", flops,
        4 * (2 * rows * 512 + rows * 2 * 5 * 256 + 9 * (w + u + heads)), t);
    tail(b);
    net_close(&j);
}

/* ---- Threads ---- */

/* The training step with 1, 2, 4 ... threads, in alternating rounds. */
static void bench_scaling(const options *o)
{
    const int size = o->quick ? 64 : 224;
    double times[16][64], base = 0;
    int threads[16], count = 0, i, k, most = o->threads, rounds = o->repeats < 64 ? o->repeats : 64;
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.cpu = o->cpu;
    if (most == 0) {
        qnet_context *ctx = NULL;
        if (qnet_context_create(&hooks, &ctx) != QNET_OK) die("no context");
        most = (int)qnet_context_hooks(ctx)->parallel.workers;
        qnet_context_destroy(ctx);
    }
    for (i = 1; i < most; i *= 2) threads[count++] = i;
    threads[count++] = most;
    printf("\nTraining step, %d x %d, batch %d, by threads (median of %d alternating rounds)\n",
           size, size, o->batch, rounds);
    for (k = 0; k < rounds; k++)
        for (i = 0; i < count; i++) {
            qnet_context *ctx = NULL;
            net_job j;
            double start;
            hooks.threads = threads[i];
            if (qnet_context_create(&hooks, &ctx) != QNET_OK) die("no context");
            net_open(&j, ctx, size, o->batch, 1);
            net_step(&j);
            start = wall_seconds(ctx);
            net_step(&j);
            times[i][k] = wall_seconds(ctx) - start;
            net_close(&j);
            qnet_context_destroy(ctx);
        }
    for (i = 0; i < count; i++) {
        const double t = median(times[i], (size_t)rounds);
        if (i == 0) base = t;
        printf("bench train_%d_b%d_threads_%d %.6g ms\n", size, o->batch, threads[i], 1e3 * t);
        printf("bench train_%d_b%d_scaling_%d %.4g x\n", size, o->batch, threads[i], base / t);
    }
}

#if BENCH_HAS_BLAS
static void by_openblas(void *user, int trans_a, int trans_b, int m, int n, int k, float alpha,
                        const float *a, int lda, const float *b, int ldb, float beta, float *c,
                        int ldc)
{
    (void)user;
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
#endif

/* Linux's number of processes that want to run: those of others spoil what several threads do. */
static void warn_if_busy(const bench *b)
{
    FILE *file = fopen("/proc/loadavg", "r");
    char text[64] = "";
    if (file != NULL && fgets(text, (int)sizeof text, file) != NULL && strtod(text, NULL) > .5 &&
        workers(b) > 1)
        printf("NOTE: the load of this machine is %.1f before the start: others compute here, and "
               "times\nof several threads are not to be trusted; --threads 1 counts processor "
               "time.\n", strtod(text, NULL));
    if (file != NULL) fclose(file);
}

static void run(const options *o, int blas)
{
    static bench b; /* its lines are too many for a stack */
    qnet_hooks hooks;
    char text[200];
    memset(&b, 0, sizeof b);
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = o->threads;
    hooks.cpu = o->cpu;
    b.o = o;
    b.suffix = blas ? "_blas" : "";
#if BENCH_HAS_BLAS
    if (blas) hooks.blas.sgemm = by_openblas;
#endif
    if (qnet_context_create(&hooks, &b.ctx) != QNET_OK)
        die("this machine lacks the kernels asked for");
#if BENCH_HAS_BLAS
    openblas_set_num_threads(workers(&b));
#endif
    qnet_describe_build(b.ctx, text, sizeof text);
    look_at_machine(&b);
    b.copy = measure_copy(b.ctx);
    printf("%s%s\nThe machine's own limits: %.1f GFLOP/s of multiply-adds, %.1f GB/s of a copy "
           "(read + written)\n", blas ? "\n" : "", text, 1e-9 * b.peak, 1e-9 * b.copy);
    if (!blas) warn_if_busy(&b);
    if (o->layers) {
        bench_convolutions(&b);
        if (!blas) bench_passes(&b);
        bench_lstm(&b);
        if (!blas) bench_data(&b);
    }
    if (o->maps && !blas) bench_maps(&b);
    if (o->network) {
        bench_network(&b);
        bench_stage2(&b);
    }
    line(&b, "machine_peak", "", 1e-9 * b.peak, "GFLOP/s");
    line(&b, "machine_copy", "", 1e-9 * b.copy, "GB/s");
    line(&b, "machine_threads", "", workers(&b), "threads");
    printf("\n");
    tail(&b);
    qnet_context_destroy(b.ctx);
}

int main(int argc, char **argv)
{
    const options o = parse(argc, argv);
    if (o.scaling) {
        bench_scaling(&o);
        return 0;
    }
    run(&o, 0);
    if (o.blas) run(&o, 1);
    return 0;
}
