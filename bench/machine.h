/* machine.h: what both benchmark programs need beside qnet.h: the machine's own limits, measured by
   loops of nothing but multiply-adds and of nothing but copies; the convolutions of ResNet18 and
   their work; a clock; memory.

   To be included after qnet.h, in one file. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
#define BENCH_X86 1
#include <immintrin.h>
#else
#define BENCH_X86 0
#endif
#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define BENCH_NEON 1
#include <arm_neon.h>
#else
#define BENCH_NEON 0
#endif
#if defined(__clang__)
#define BENCH_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define BENCH_UNROLL _Pragma("GCC unroll 16")
#else
#define BENCH_UNROLL
#endif

static void die(const char *text)
{
    fprintf(stderr, "bench: %s\n", text);
    exit(1);
}

/* ---- Memory ---- */

/* Blocks come from the library's own default allocator, which knows about alignment and pages. */
static void *block(qnet_context *ctx, size_t bytes)
{
    const qnet_allocator *a = &qnet_context_hooks(ctx)->allocator;
    void *p = a->alloc(a->user, bytes > 0 ? bytes : 64, 64);
    if (p == NULL) die("out of memory");
    memset(p, 0, bytes);
    return p;
}

static void unblock(qnet_context *ctx, void *p, size_t bytes)
{
    const qnet_allocator *a = &qnet_context_hooks(ctx)->allocator;
    if (p != NULL) a->free(a->user, p, bytes > 0 ? bytes : 64);
}

/* ---- Time ---- */

/* Wall clock, by the clock hook. */
static double wall_seconds(qnet_context *ctx)
{
    const qnet_clock *c = &qnet_context_hooks(ctx)->clock;
    return c->seconds(c->user);
}

/* ---- The peak of the arithmetic: independent multiply-adds in registers, on lanes[256] ---- */

#define PEAK_STEPS 60000

#if BENCH_X86
__attribute__((target("avx512f"))) static double peak_avx512(float *lanes)
{
    __m512 sum[16], x = _mm512_set1_ps(.5f);
    int i, k;
    BENCH_UNROLL
    for (i = 0; i < 16; i++) sum[i] = _mm512_loadu_ps(lanes + 16 * i);
    for (k = 0; k < PEAK_STEPS; k++) {
        BENCH_UNROLL
        for (i = 0; i < 16; i++) sum[i] = _mm512_fmadd_ps(sum[i], x, x);
    }
    BENCH_UNROLL
    for (i = 0; i < 16; i++) _mm512_storeu_ps(lanes + 16 * i, sum[i]);
    return 2. * PEAK_STEPS * 16 * 16;
}

__attribute__((target("avx2,fma"))) static double peak_avx2(float *lanes)
{
    __m256 sum[12], x = _mm256_set1_ps(.5f);
    int i, k;
    BENCH_UNROLL
    for (i = 0; i < 12; i++) sum[i] = _mm256_loadu_ps(lanes + 8 * i);
    for (k = 0; k < PEAK_STEPS; k++) {
        BENCH_UNROLL
        for (i = 0; i < 12; i++) sum[i] = _mm256_fmadd_ps(sum[i], x, x);
    }
    BENCH_UNROLL
    for (i = 0; i < 12; i++) _mm256_storeu_ps(lanes + 8 * i, sum[i]);
    return 2. * PEAK_STEPS * 12 * 8;
}
#endif

#if BENCH_NEON
static double peak_neon(float *lanes)
{
    float32x4_t sum[16], x = vdupq_n_f32(.5f);
    int i, k;
    BENCH_UNROLL
    for (i = 0; i < 16; i++) sum[i] = vld1q_f32(lanes + 4 * i);
    for (k = 0; k < PEAK_STEPS; k++) {
        BENCH_UNROLL
        for (i = 0; i < 16; i++) sum[i] = vfmaq_f32(sum[i], x, x);
    }
    BENCH_UNROLL
    for (i = 0; i < 16; i++) vst1q_f32(lanes + 4 * i, sum[i]);
    return 2. * PEAK_STEPS * 16 * 4;
}
#endif

/* What the compiler's base target does: multiply and add apart, four numbers at a time where it
   has such vectors (SSE2 on x86-64), one otherwise. */
#if defined(__GNUC__) || defined(__clang__)
typedef float peak_lane __attribute__((vector_size(16)));
#define PEAK_WIDTH 4
#else
typedef float peak_lane;
#define PEAK_WIDTH 1
#endif
static double peak_scalar(float *lanes)
{
    peak_lane sum[14], x;
    int i, k;
    memcpy(sum, lanes, sizeof sum);
    memcpy(&x, lanes, sizeof x);
    for (k = 0; k < PEAK_STEPS; k++) {
        BENCH_UNROLL
        for (i = 0; i < 14; i++) sum[i] = sum[i] * x + x;
    }
    memcpy(lanes, sum, sizeof sum);
    return 2. * PEAK_STEPS * 14 * PEAK_WIDTH;
}

#define PEAK_BURSTS 60

typedef struct peak_job {
    qnet_context *ctx;
    double *rate; /* [workers] */
} peak_job;

/* FLOP/s of one worker: the best of short bursts, which a busy machine cuts in two less often than
   it lets one pass. */
static void peak_task(void *arg, size_t index, size_t worker)
{
    const peak_job *job = (const peak_job *)arg;
    const char *path = qnet_cpu_name(qnet_context_cpu(job->ctx));
    float lanes[256];
    volatile float keep = .5f; /* unknown to the compiler, which would compute the sums itself */
    double flops, start, rate, best = 0;
    int i, burst;
    (void)worker;
    for (i = 0; i < 256; i++) lanes[i] = keep;
    for (burst = 0; burst < PEAK_BURSTS; burst++) {
        start = wall_seconds(job->ctx);
#if BENCH_X86
        if (strcmp(path, "avx512") == 0) flops = peak_avx512(lanes);
        else if (strcmp(path, "avx2") == 0) flops = peak_avx2(lanes);
        else flops = peak_scalar(lanes);
#elif BENCH_NEON
        if (strcmp(path, "neon") == 0) flops = peak_neon(lanes);
        else flops = peak_scalar(lanes);
#else
        (void)path;
        flops = peak_scalar(lanes);
#endif
        rate = flops / (wall_seconds(job->ctx) - start);
        if (rate > best) best = rate;
    }
    keep = lanes[0];
    (void)keep;
    job->rate[index] = best;
}

/* FLOP/s of all workers: the sum of what each reaches while the others run, too. */
static double measure_peak(qnet_context *ctx)
{
    const qnet_parallel *p = &qnet_context_hooks(ctx)->parallel;
    peak_job job;
    double sum = 0;
    size_t i;
    job.ctx = ctx;
    job.rate = (double *)block(ctx, p->workers * sizeof *job.rate);
    p->run(p->user, p->workers, peak_task, &job);
    for (i = 0; i < p->workers; i++) sum += job.rate[i];
    unblock(ctx, job.rate, p->workers * sizeof *job.rate);
    return sum;
}

/* ---- The peak of the memory: copies of blocks that no cache holds ---- */

#define COPY_BYTES ((size_t)192 << 20)
#define COPY_PIECE ((size_t)1 << 20)

static int rising(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median of values[count], which are sorted. */
static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, rising);
    return count % 2 ? values[count / 2] : .5 * (values[count / 2 - 1] + values[count / 2]);
}

typedef struct copy_job {
    qnet_context *ctx;
    unsigned char *from, *to;
    size_t pieces; /* of each worker */
    double *rate;  /* [workers][pieces] */
} copy_job;

/* Every worker goes through its own part, piece by piece; the median piece is one that no other
   program has cut in two, while the other workers take their share of the bandwidth. */
static void copy_task(void *arg, size_t index, size_t worker)
{
    const copy_job *job = (const copy_job *)arg;
    double *rate = job->rate + index * job->pieces;
    size_t i;
    (void)worker;
    for (i = 0; i < job->pieces; i++) {
        const size_t at = (index * job->pieces + i) * COPY_PIECE;
        const double start = wall_seconds(job->ctx);
        memcpy(job->to + at, job->from + at, COPY_PIECE);
        rate[i] = 2. * (double)COPY_PIECE / (wall_seconds(job->ctx) - start);
    }
    rate[0] = median(rate, job->pieces);
}

/* Bytes read plus bytes written per second by all workers together, best of 3. */
static double measure_copy(qnet_context *ctx)
{
    const qnet_parallel *p = &qnet_context_hooks(ctx)->parallel;
    copy_job job;
    size_t bytes, rates, k;
    double best = 0, sum;
    int i;
    job.ctx = ctx;
    job.pieces = COPY_BYTES / COPY_PIECE / p->workers + 1;
    bytes = job.pieces * p->workers * COPY_PIECE;
    rates = job.pieces * p->workers * sizeof *job.rate;
    job.from = (unsigned char *)block(ctx, bytes);
    job.to = (unsigned char *)block(ctx, bytes);
    job.rate = (double *)block(ctx, rates);
    for (i = 0; i < 3; i++) {
        p->run(p->user, p->workers, copy_task, &job);
        for (k = 0, sum = 0; k < p->workers; k++) sum += job.rate[k * job.pieces];
        if (sum > best) best = sum;
    }
    unblock(ctx, job.from, bytes), unblock(ctx, job.to, bytes), unblock(ctx, job.rate, rates);
    return best;
}

/* ---- The convolutions of ResNet18; map sizes are those of a 224 x 224 image ---- */

typedef struct layer {
    const char *name;
    int size, in, out, kernel, stride, padding;
    int count; /* in the network */
} layer;

#define LAYERS 11
static const layer layers[LAYERS] = {{"stem_7x7_s2_3_64", 224, 3, 64, 7, 2, 3, 1},
                                     {"3x3_56_64", 56, 64, 64, 3, 1, 1, 4},
                                     {"3x3_s2_56_64_128", 56, 64, 128, 3, 2, 1, 1},
                                     {"1x1_s2_56_64_128", 56, 64, 128, 1, 2, 0, 1},
                                     {"3x3_28_128", 28, 128, 128, 3, 1, 1, 3},
                                     {"3x3_s2_28_128_256", 28, 128, 256, 3, 2, 1, 1},
                                     {"1x1_s2_28_128_256", 28, 128, 256, 1, 2, 0, 1},
                                     {"3x3_14_256", 14, 256, 256, 3, 1, 1, 3},
                                     {"3x3_s2_14_256_512", 14, 256, 512, 3, 2, 1, 1},
                                     {"1x1_s2_14_256_512", 14, 256, 512, 1, 2, 0, 1},
                                     {"3x3_7_512", 7, 512, 512, 3, 1, 1, 3}};

/* Numbers of x, w and y, and the direct form's FLOPs of one pass (the same for all three), for a
   batch and for an image of `side` pixels. */
typedef struct layer_work {
    double x, w, y, flops;
} layer_work;

static layer_work work_of(const layer *l, int batch, int side)
{
    layer_work k;
    int size = side, from = 224, out;
    for (; from > l->size; from /= 2) size = (size + 1) / 2;
    out = (size - 1) / l->stride + 1;
    k.x = (double)batch * size * size * l->in;
    k.w = (double)l->kernel * l->kernel * l->in * l->out;
    k.y = (double)batch * out * out * l->out;
    k.flops = 2 * k.y * l->kernel * l->kernel * l->in;
    return k;
}

/* Direct-form FLOPs of all convolutions of an image; training: forward, data (not of the stem) and
   weights. The rest of the network is under 1 % of it. */
static double network_flops(int side, int training)
{
    double sum = 0;
    int i;
    for (i = 0; i < LAYERS; i++)
        sum += (training ? i == 0 ? 2 : 3 : 1) * layers[i].count *
               work_of(&layers[i], 1, side).flops;
    return sum;
}
#endif
