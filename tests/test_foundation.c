/* Rooms >>status, >>context, >>random, >>file, >>tensor. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"

#define FOLDER "build/test_foundation"

/* An allocator that counts what is out and fails the n-th request (0: none). */
typedef struct counting { long requests, fail_at, blocks; size_t bytes; } counting;

static void *counting_alloc(void *user, size_t size, size_t align)
{
    counting *c = (counting *)user;
    void *p;
    if (++c->requests == c->fail_at) return NULL;
    p = qnet__default_alloc(NULL, size, align);
    if (p != NULL) {
        c->blocks++;
        c->bytes += size;
    }
    return p;
}

static void counting_free(void *user, void *ptr, size_t size)
{
    counting *c = (counting *)user;
    c->blocks--;
    c->bytes -= size;
    qnet__default_free(NULL, ptr, size);
}

static qnet_context *make_context(counting *c)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    if (c != NULL) {
        hooks.allocator.user = c;
        hooks.allocator.alloc = counting_alloc;
        hooks.allocator.free = counting_free;
    }
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    return ctx;
}

static void test_status(void)
{
    int i, j;
    for (i = 0; i < QNET_STATUS_COUNT; i++) {
        CHECK(strncmp(qnet_status_name((qnet_status)i), "QNET_", 5) == 0);
        CHECK(strlen(qnet_status_text((qnet_status)i)) > 1);
        for (j = 0; j < i; j++) {
            CHECK(strcmp(qnet_status_name((qnet_status)i), qnet_status_name((qnet_status)j)) != 0);
        }
    }
    CHECK(strcmp(qnet_status_name(QNET_ERROR_DATA), "QNET_ERROR_DATA") == 0);
    CHECK(strcmp(qnet_status_text(QNET_OK), "ok") == 0);
    CHECK(strcmp(qnet_status_text(QNET_STATUS_COUNT), "unknown status") == 0);
    CHECK(strcmp(qnet_status_name(QNET_STATUS_COUNT), "unknown status") == 0);
}

static void test_helpers(void)
{
    size_t out = 7;
    const unsigned char b[8] = { 0x01, 0x82, 0x03, 0x84, 0x05, 0x86, 0x07, 0x88 };
    unsigned char w[8];
    CHECK(qnet__mul(0, (size_t)-1, &out) && out == 0);
    CHECK(qnet__mul((size_t)-1, 1, &out) && out == (size_t)-1);
    out = 7;
    CHECK(!qnet__mul((size_t)-1 / 2 + 1, 2, &out) && out == 7);
    CHECK(qnet__add((size_t)-1, 0, &out) && out == (size_t)-1);
    out = 7;
    CHECK(!qnet__add((size_t)-1, 1, &out) && out == 7);
    CHECK(qnet__min_size(2, 3) == 2 && qnet__max_size(2, 3) == 3);
    CHECK(qnet__min_int(-2, 3) == -2 && qnet__max_int(-2, 3) == 3);
    CHECK(qnet__is_finite(0) && qnet__is_finite(-DBL_MAX));
    CHECK(!qnet__is_finite(HUGE_VAL) && !qnet__is_finite(-HUGE_VAL));
    CHECK(!qnet__is_finite(HUGE_VAL - HUGE_VAL));
    CHECK(qnet__load_le32(b) == 0x84038201u);
    CHECK(qnet__load_le64(b) == (((uint64_t)0x88078605u << 32) | 0x84038201u));
    qnet__store(w, 2, 0, 0x8201u);
    CHECK(memcmp(w, b, 2) == 0);
    qnet__store(w, 4, 0, 0x84038201u);
    CHECK(memcmp(w, b, 4) == 0);
    qnet__store(w, 8, 0, qnet__load_le64(b));
    CHECK(memcmp(w, b, 8) == 0);
    qnet__store(w, 2, 1, 0x0182u);
    CHECK(memcmp(w, b, 2) == 0);
    qnet__store(w, 4, 1, 0x01820384u);
    CHECK(memcmp(w, b, 4) == 0);
    qnet__store(w, 8, 1, qnet__load_le64(b));
    qnet__swap_bytes(w, 1, 8);
    CHECK(memcmp(w, b, 8) == 0);
    qnet__swap_bytes(w, 4, 2);
    CHECK(w[0] == b[1] && w[1] == b[0] && w[6] == b[7] && w[7] == b[6]);
    qnet__swap_bytes(w, 8, 1);
    qnet__swap_bytes(w, 0, 8);
    CHECK(w[0] == b[1] && w[7] == b[6]);
    {
        const uint32_t host = 0x84038201u;
        CHECK((memcmp(&host, b, 4) == 0) == qnet__is_little_endian());
    }
}

static void test_arena(void)
{
    qnet__arena plan = { NULL, 0 }, carve;
    qnet_context *ctx = make_context(NULL);
    unsigned char *block, *a, *b, *c;
    CHECK(qnet__take(&plan, 3, 5) == NULL && plan.at == 64);
    CHECK(qnet__take(&plan, 64, 1) == NULL && plan.at == 128);
    CHECK(qnet__take(&plan, 0, 8) == NULL && plan.at == 128);
    block = (unsigned char *)qnet__alloc(ctx, plan.at);
    CHECK(block != NULL && (uintptr_t)block % 64 == 0);
    carve.base = block;
    carve.at = 0;
    a = (unsigned char *)qnet__take(&carve, 3, 5);
    b = (unsigned char *)qnet__take(&carve, 64, 1);
    c = (unsigned char *)qnet__take(&carve, 0, 8);
    CHECK(a == block && b == block + 64 && c == block + 128 && carve.at == plan.at);
    qnet__free(ctx, block, plan.at);
    /* Every way to overflow ends at SIZE_MAX, and stays there. */
    CHECK(qnet__take(&plan, (size_t)-1, 2) == NULL && plan.at == (size_t)-1);
    CHECK(qnet__take(&plan, 1, 1) == NULL && plan.at == (size_t)-1);
    plan.at = 0;
    CHECK(qnet__take(&plan, (size_t)-1, 1) == NULL && plan.at == (size_t)-1);
    plan.at = (size_t)-1 - 64;
    CHECK(qnet__take(&plan, 100, 1) == NULL && plan.at == (size_t)-1);
    qnet_context_destroy(ctx);
}

static double seven_seconds(void *user) { return *(double *)user; }

typedef struct heard { int messages, reports; char text[1024]; qnet_log_level level; } heard;

static void hear_message(void *user, qnet_log_level level, const char *text)
{
    heard *h = (heard *)user;
    h->messages++;
    h->level = level;
    snprintf(h->text, sizeof h->text, "%s", text);
}

static int hear_report(void *user, const qnet_progress_info *info)
{
    heard *h = (heard *)user;
    h->reports++;
    return info->epoch == 3;
}

static void test_context(void)
{
    counting c = { 0, 0, 0, 0 };
    qnet_hooks hooks;
    qnet_context *ctx = NULL, *other = NULL;
    qnet_progress progress;
    qnet_progress_info info;
    heard h;
    double now = 7;
    void *p;
    char longer[3000];
    memset(&h, 0, sizeof h);
    memset(&hooks, 0, sizeof hooks);
    memset(&info, 0, sizeof info);
    CHECK(qnet_context_create(NULL, NULL) == QNET_ERROR_ARGUMENT);
    CHECK(strcmp(qnet_last_error(NULL), "") == 0);
    qnet_context_destroy(NULL);

    ctx = make_context(&c);
    CHECK(c.blocks == 1);
    CHECK(strcmp(qnet_last_error(ctx), "") == 0);
    p = qnet__alloc(ctx, 0);
    CHECK(p != NULL && c.blocks == 2);
    qnet__free(ctx, p, 0);
    qnet__free(ctx, NULL, 99);
    CHECK(c.blocks == 1);
    CHECK(qnet__fail(ctx, QNET_ERROR_SHAPE, "x.nii: expected %d, found %d", 3, 4) ==
          QNET_ERROR_SHAPE);
    CHECK(strcmp(qnet_last_error(ctx), "x.nii: expected 3, found 4") == 0);
    CHECK(qnet__fail(ctx, QNET_ERROR_DATA, "fold 2: %s", qnet_last_error(ctx)) == QNET_ERROR_DATA);
    CHECK(strcmp(qnet_last_error(ctx), "fold 2: x.nii: expected 3, found 4") == 0);
    CHECK(qnet__fail(NULL, QNET_ERROR_DATA, "nobody hears %d", 1) == QNET_ERROR_DATA);
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    CHECK(qnet__fail(ctx, QNET_ERROR_DATA, "%s", longer) == QNET_ERROR_DATA);
    CHECK(strlen(qnet_last_error(ctx)) == 1023);
    CHECK(qnet__no_memory(ctx, 12345678, "a plan") == QNET_ERROR_MEMORY);
    CHECK(strcmp(qnet_last_error(ctx), "no memory: 12345678 bytes for a plan") == 0);
    CHECK(qnet__no_memory(ctx, SIZE_MAX, "a plan") == QNET_ERROR_LIMIT);
    CHECK(strcmp(qnet_last_error(ctx), "a plan: more bytes than can be addressed") == 0);
    /* Hooks copied from one context work in another, which does not outlive them. */
    CHECK(qnet_context_create(qnet_context_hooks(ctx), &other) == QNET_OK);
    qnet_context_destroy(ctx);
    CHECK(qnet_context_hooks(other)->parallel.user == other);
    qnet_context_destroy(other);
    CHECK(c.blocks == 0 && c.bytes == 0);

    /* No memory for the context itself. */
    c.requests = 0;
    c.fail_at = 1;
    hooks.allocator.user = &c;
    hooks.allocator.alloc = counting_alloc;
    hooks.allocator.free = counting_free;
    other = NULL;
    CHECK(qnet_context_create(&hooks, &other) == QNET_ERROR_MEMORY && other == NULL);
    /* Half an allocator, no workers, wrong numbers. */
    hooks.allocator.free = NULL;
    CHECK(qnet_context_create(&hooks, &other) == QNET_ERROR_ARGUMENT && other == NULL);
    memset(&hooks, 0, sizeof hooks);
    hooks.parallel.workers = 3;
    CHECK(qnet_context_create(&hooks, &other) == QNET_ERROR_ARGUMENT && other == NULL);
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = -1;
    CHECK(qnet_context_create(&hooks, &other) == QNET_ERROR_ARGUMENT);
#ifndef __cplusplus /* where an enum may not hold other values */
    memset(&hooks, 0, sizeof hooks);
    hooks.cpu = (qnet_cpu)(QNET_CPU_NEON + 1);
    CHECK(qnet_context_create(&hooks, &other) == QNET_ERROR_ARGUMENT && other == NULL);
    CHECK(strcmp(qnet_cpu_name(hooks.cpu), "unknown") == 0);
#endif

    memset(&hooks, 0, sizeof hooks);
    hooks.clock.user = &now;
    hooks.clock.seconds = seven_seconds;
    hooks.log.user = &h;
    hooks.log.message = hear_message;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    CHECK_NEAR(qnet__seconds(ctx), 7, 0);
    qnet__log(ctx, QNET_LOG_WARNING, "%d of %d", 2, 3);
    CHECK(h.messages == 1 && h.level == QNET_LOG_WARNING && strcmp(h.text, "2 of 3") == 0);
    CHECK(qnet__report(ctx, &info) == 0);
    progress.user = &h;
    progress.report = hear_report;
    qnet_set_progress(ctx, progress);
    CHECK(qnet__report(ctx, &info) == 0);
    info.epoch = 3;
    CHECK(qnet__report(ctx, &info) != 0 && h.reports == 2);
    progress.report = NULL;
    qnet_set_progress(ctx, progress);
    CHECK(qnet__report(ctx, &info) == 0 && h.reports == 2);
    qnet_context_destroy(ctx);

    ctx = make_context(NULL);
    qnet__log(ctx, QNET_LOG_INFO, "%s", "nobody hears");
    now = qnet__seconds(ctx);
    CHECK(qnet__seconds(ctx) >= now && now > 0);
    qnet_context_destroy(ctx);
}

static void test_cpu(void)
{
    qnet_cpu cpu = QNET_CPU_AVX2, best = qnet__detect_cpu(), automatic = qnet__choose_cpu(QNET_CPU_AUTO);
    qnet_context *ctx = NULL;
    char text[200], tiny[5] = "....";
    int i;
    CHECK(qnet_cpu_parse("sse9", &cpu) == QNET_ERROR_ARGUMENT && cpu == QNET_CPU_AVX2);
    CHECK(qnet_cpu_parse(NULL, &cpu) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_cpu_parse("avx2", NULL) == QNET_ERROR_ARGUMENT);
    for (i = QNET_CPU_AUTO; i <= QNET_CPU_NEON; i++) {
        qnet_hooks hooks;
        memset(&hooks, 0, sizeof hooks);
        CHECK(qnet_cpu_parse(qnet_cpu_name((qnet_cpu)i), &cpu) == QNET_OK && (int)cpu == i);
        hooks.cpu = (qnet_cpu)i;
        if (i == QNET_CPU_AUTO || i == (int)best || (QNET__ISA_AT_RUN_TIME && i < (int)best)) {
            CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
            CHECK(qnet_context_cpu(ctx) == (i == QNET_CPU_AUTO ? automatic : (qnet_cpu)i));
            qnet_describe_build(ctx, text, sizeof text);
            CHECK_CONTAINS(text, "qnet " QNET_VERSION);
            CHECK_CONTAINS(text, QNET__REAL_IS_DOUBLE ? "double" : "float");
            CHECK_CONTAINS(text, qnet_cpu_name(qnet_context_cpu(ctx)));
            CHECK_CONTAINS(text, "worker");
            qnet_describe_build(ctx, tiny, sizeof tiny);
            CHECK(strcmp(tiny, "qnet") == 0);
            qnet_describe_build(ctx, NULL, 0);
            qnet_context_destroy(ctx);
        } else {
            CHECK(qnet_context_create(&hooks, &ctx) == QNET_ERROR_ARGUMENT);
        }
    }
#if defined(__GNUC__) && !defined(__clang__) && QNET__X86
    /* libgcc's own detection is an independent second opinion. */
    CHECK((best >= QNET_CPU_AVX2) == (__builtin_cpu_supports("avx2") &&
                                      __builtin_cpu_supports("fma")));
    CHECK((best >= QNET_CPU_AVX512) == (__builtin_cpu_supports("avx512f") &&
                                        __builtin_cpu_supports("avx512dq") &&
                                        __builtin_cpu_supports("avx512bw") &&
                                        __builtin_cpu_supports("avx512vl")));
#endif
    qnet_describe_build(NULL, text, sizeof text);
    CHECK_CONTAINS(text, QNET_VERSION);
#ifdef __wasm_simd128__
    CHECK_CONTAINS(text, "clang");
    CHECK_CONTAINS(text, "-msimd128");
#endif
}

/* A parallel hook without threads: backwards, worker ids in turn. */
typedef struct fake { size_t workers, runs; } fake;

static void fake_run(void *user, size_t count, qnet_task task, void *arg)
{
    fake *f = (fake *)user;
    size_t i;
    f->runs++;
    for (i = count; i > 0; i--) task(arg, i - 1, (i * 7) % f->workers);
}

typedef struct tally { int seen[100]; size_t worst; } tally;

static void tally_task(void *arg, size_t index, size_t worker)
{
    tally *t = (tally *)arg;
    t->seen[index]++;
    if (worker > t->worst) t->worst = worker;
}

static void mark_task(void *arg, size_t index, size_t worker)
{
    ((size_t *)arg)[index] = worker + 1;
}

static void test_parallel(void)
{
    const size_t workers[4] = { 1, 2, 3, 8 };
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    size_t i, k, marks[500];
    char text[200];
    for (k = 0; k < 4; k++) {
        fake f;
        tally t;
        memset(&hooks, 0, sizeof hooks);
        memset(&t, 0, sizeof t);
        f.workers = workers[k];
        f.runs = 0;
        hooks.parallel.user = &f;
        hooks.parallel.run = fake_run;
        CHECK(qnet_context_create(&hooks, &ctx) == QNET_ERROR_ARGUMENT); /* workers 0 */
        hooks.parallel.workers = workers[k];
        CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
        CHECK(qnet__workers(ctx) == workers[k]);
        qnet__parallel(ctx, 0, tally_task, &t);
        qnet__parallel(ctx, 1, tally_task, &t);
        CHECK(f.runs == 0 && t.seen[0] == 1);
        qnet__parallel(ctx, 100, tally_task, &t);
        CHECK(f.runs == (workers[k] > 1 ? 1u : 0u) && t.worst < workers[k]);
        CHECK(t.seen[0] == 2 && t.seen[1] == 1 && t.seen[50] == 1 && t.seen[99] == 1);
        qnet_describe_build(ctx, text, sizeof text);
        CHECK_CONTAINS(text, "caller's threads");
        qnet_context_destroy(ctx);
    }
    /* The default hook, with more threads than the machine may have. */
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 3;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
#ifdef _OPENMP
    CHECK(qnet__workers(ctx) == 3);
#else
    CHECK(qnet__workers(ctx) == 1);
#endif
    memset(marks, 0, sizeof marks);
    qnet__parallel(ctx, 500, mark_task, marks);
    for (i = k = 0; i < 500; i++) k += marks[i] >= 1 && marks[i] <= qnet__workers(ctx);
    CHECK(k == 500);
    memset(marks, 0, sizeof marks);
    ctx->hooks.parallel.run(ctx->hooks.parallel.user, 500, mark_task, marks);
    for (i = k = 0; i < 500; i++) k += marks[i] >= 1 && marks[i] <= qnet__workers(ctx);
    CHECK(k == 500);
    qnet_context_destroy(ctx);
}

/* The three vectors of Random123 1.14 (tests/kat_vectors, philox4x32 10). */
static void test_philox(void)
{
    static const uint32_t kat[3][10] = {
        { 0, 0, 0, 0, 0, 0, 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u },
        { 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu,
          0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu },
        { 0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u,
          0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u }
    };
    uint32_t out[4];
    int i;
    for (i = 0; i < 3; i++) {
        qnet__philox(kat[i], kat[i] + 4, out);
        CHECK(memcmp(out, kat[i] + 6, sizeof out) == 0);
    }
    {
        /* The stream's words are the blocks of counter 0, 1, ... in order. */
        qnet_rng rng = qnet_rng_at(0, 0, 0, 0);
        uint32_t one[4] = { 1, 0, 0, 0 }, zero[2] = { 0, 0 };
        for (i = 0; i < 4; i++) CHECK(qnet_rng_u32(&rng) == kat[0][6 + i]);
        qnet__philox(one, zero, out);
        CHECK(qnet_rng_u32(&rng) == out[0]);
    }
}

static void test_streams(void)
{
    /* Every part of the name changes the stream; the same name gives the same one. */
    qnet_rng base = qnet_rng_at(5, QNET_RANDOM_AUGMENT, 2, 9), r;
    uint32_t first = qnet_rng_u32(&base);
    r = qnet_rng_at(5, QNET_RANDOM_AUGMENT, 2, 9);
    CHECK(qnet_rng_u32(&r) == first);
    r = qnet_rng_at(6, QNET_RANDOM_AUGMENT, 2, 9);
    CHECK(qnet_rng_u32(&r) != first);
    r = qnet_rng_at(5 + ((uint64_t)1 << 40), QNET_RANDOM_AUGMENT, 2, 9);
    CHECK(qnet_rng_u32(&r) != first);
    r = qnet_rng_at(5, QNET_RANDOM_FOLDS, 2, 9);
    CHECK(qnet_rng_u32(&r) != first);
    r = qnet_rng_at(5, QNET_RANDOM_AUGMENT, 3, 9);
    CHECK(qnet_rng_u32(&r) != first);
    r = qnet_rng_at(5, QNET_RANDOM_AUGMENT, 2, 9 + ((uint64_t)1 << 40));
    CHECK(qnet_rng_u32(&r) != first);
}

/* 200000 draws: a mean is off by more than 5 sigma once in 3 million seeds; the seed is fixed. */
static void test_distributions(void)
{
    const int n = 200000;
    const double root = sqrt(200000.0);
    double mean = 0, square = 0, third = 0, low = 1, high = 0, u;
    qnet_rng rng = qnet_rng_at(11, QNET_RANDOM_USER, 0, 0);
    int i, bins[7], items[52], inverse[52];
    for (i = 0; i < n; i++) {
        u = qnet_rng_uniform(&rng);
        mean += u;
        low = u < low ? u : low;
        high = u > high ? u : high;
    }
    CHECK(low >= 0 && high < 1 && low < 1e-4 && high > 1 - 1e-4);
    CHECK_NEAR(mean / n, .5, 5 * sqrt(1.0 / 12) / root);
    mean = 0;
    for (i = 0; i < n; i++) {
        u = qnet_rng_normal(&rng);
        mean += u;
        square += u * u;
        third += u * u * u;
    }
    CHECK_NEAR(mean / n, 0, 5 / root);
    CHECK_NEAR(square / n, 1, 5 * sqrt(2.0) / root);
    CHECK_NEAR(third / n, 0, 5 * sqrt(15.0) / root);
    memset(bins, 0, sizeof bins);
    for (i = 0; i < n; i++) bins[qnet_rng_below(&rng, 7)]++;
    for (i = 0; i < 7; i++) CHECK_NEAR(bins[i], n / 7.0, 5 * sqrt(n * 6.0 / 49));
    CHECK(qnet_rng_below(&rng, 0) == 0 && qnet_rng_below(&rng, 1) == 0);
    mean = 0;
    for (i = 0; i < n; i++) {
        /* With n = 3 * 2^30, half of all draws without rejection would be multiples of 3. */
        mean += qnet_rng_below(&rng, 0xc0000000u) % 3 == 0;
    }
    CHECK_NEAR(mean / n, 1.0 / 3, 5 * sqrt(2.0 / 9) / root);
    for (i = 0; i < 1000; i++) {
        u = qnet_rng_range(&rng, -2, 3);
        if (!(u >= -2 && u < 3)) CHECK(u >= -2 && u < 3);
        /* The next double after 1: half of the sums round up to b. */
        u = qnet_rng_range(&rng, 1, 1 + DBL_EPSILON);
        if (u != 1) CHECK(u == 1);
    }
    CHECK(qnet_rng_range(&rng, 4, 4) == 4);
    for (i = 0; i < 52; i++) items[i] = i;
    qnet_rng_shuffle(&rng, items, 52);
    memset(inverse, 0, sizeof inverse);
    for (i = 0; i < 52; i++) inverse[items[i]]++;
    for (i = 0; i < 52; i++) CHECK(inverse[i] == 1);
    qnet_rng_shuffle(&rng, items, 0);
    qnet_rng_shuffle(&rng, items, 1);
    {
        /* All six orders of three items, equally often. */
        int orders[6] = { 0, 0, 0, 0, 0, 0 };
        for (i = 0; i < 60000; i++) {
            int t[3] = { 0, 1, 2 };
            qnet_rng_shuffle(&rng, t, 3);
            orders[t[0] * 2 + (t[1] > t[2])]++;
        }
        for (i = 0; i < 6; i++) CHECK_NEAR(orders[i], 10000, 5 * sqrt(60000 * 5.0 / 36));
    }
}

/* Values from the FNV authors' test suite. */
static void test_hash(void)
{
    CHECK(qnet_hash(QNET_HASH_START, "", 0) == 0xcbf29ce484222325u);
    CHECK(qnet_hash(QNET_HASH_START, "a", 1) == 0xaf63dc4c8601ec8cu);
    CHECK(qnet_hash(QNET_HASH_START, "foobar", 6) == 0x85944171f73967e8u);
    CHECK(qnet_hash(qnet_hash(QNET_HASH_START, "foo", 3), "bar", 3) == 0x85944171f73967e8u);
}

/* A source that gives one byte at a time and fails or lies at a place. */
typedef struct slow { size_t at, size, fail_at, lie_at; } slow;

static int slow_read(void *user, void *dst, size_t size, size_t *got)
{
    slow *s = (slow *)user;
    *got = 0;
    if (s->at == s->fail_at) return 5;
    if (s->at == s->lie_at) {
        *got = size + 1;
        return 0;
    }
    if (size > 0 && s->at < s->size) {
        *(unsigned char *)dst = (unsigned char)s->at++;
        *got = 1;
    }
    return 0;
}

static void test_sources(void)
{
    qnet_context *ctx = make_context(NULL);
    qnet_memory_source state;
    qnet_source source = qnet_source_memory(&state, "abcdef", 6, NULL);
    slow s = { 0, 10, 1000, 1000 };
    qnet_buffer buffer;
    memset(&buffer, 0, sizeof buffer);
    CHECK_OK(ctx, qnet__read_exact(ctx, &source, 4, "a head", &buffer));
    CHECK(buffer.size == 4 && strcmp((char *)buffer.bytes, "abcd") == 0);
    CHECK_OK(ctx, qnet__read_exact(ctx, &source, 0, "nothing", &buffer));
    CHECK_FAILS(ctx, qnet__read_exact(ctx, &source, 4, "a tail", &buffer), QNET_ERROR_FORMAT,
                "(memory): truncated: expected 4 bytes of a tail, found 2");
    CHECK(buffer.size == 6 && strcmp((char *)buffer.bytes, "abcdef") == 0);
    qnet_buffer_free(ctx, &buffer);
    source = qnet_source_memory(&state, NULL, 0, "empty");
    CHECK_FAILS(ctx, qnet__read_exact(ctx, &source, 1, "it", &buffer), QNET_ERROR_FORMAT,
                "empty: ");
    qnet_buffer_free(ctx, &buffer);
    source.user = &s;
    source.read = slow_read;
    source.name = "slow";
    CHECK_OK(ctx, qnet__read_exact(ctx, &source, 10, "all", &buffer));
    CHECK(buffer.size == 10 && buffer.bytes[0] == 0 && buffer.bytes[9] == 9);
    s.at = 0;
    s.fail_at = 4;
    CHECK_FAILS(ctx, qnet__read_exact(ctx, &source, 10, "all", &buffer), QNET_ERROR_IO,
                "slow: reading failed");
    qnet_buffer_free(ctx, &buffer);
    s.at = 0;
    s.fail_at = 1000;
    CHECK_OK(ctx, qnet__read(ctx, &source, 100, &buffer));
    CHECK(buffer.size == 10 && buffer.bytes[9] == 9 && buffer.bytes[10] == 0);
    qnet_buffer_free(ctx, &buffer);
    s.at = 0;
    CHECK_OK(ctx, qnet__read(ctx, &source, 9, &buffer));
    CHECK(buffer.size == 9 && s.at == 9);
    qnet_buffer_free(ctx, &buffer);
    s.at = 0;
    s.lie_at = 3;
    CHECK_FAILS(ctx, qnet__read(ctx, &source, (size_t)-1, &buffer), QNET_ERROR_IO, "slow");
    qnet_buffer_free(ctx, &buffer);
    qnet_context_destroy(ctx);
}

/* What a stream says will come is not believed: room for 2^18 bytes, then for 16 times what came. */
static void test_read_trust(void)
{
    counting c = { 0, 0, 0, 0 };
    qnet_context *ctx = make_context(&c);
    slow s = { 0, 400000, 1000000, 1000000 };
    qnet_source source;
    qnet_buffer buffer;
    size_t before = c.bytes;
    memset(&buffer, 0, sizeof buffer);
    source.user = &s;
    source.read = slow_read;
    source.name = "slow";
    s.size = 1000;
    CHECK_FAILS(ctx, qnet__read_exact(ctx, &source, (size_t)1 << 40, "all", &buffer),
                QNET_ERROR_FORMAT, "found 1000");
    CHECK(c.bytes - before <= QNET__READ_TRUST + 1);
    qnet_buffer_free(ctx, &buffer);
    s.at = 0;
    s.size = 400000;
    CHECK_FAILS(ctx, qnet__read_exact(ctx, &source, (size_t)1 << 40, "all", &buffer),
                QNET_ERROR_FORMAT, "found 400000");
    CHECK(buffer.size == 400000 && c.bytes - before <= 17 * QNET__READ_TRUST + 1);
    qnet_buffer_free(ctx, &buffer);
    qnet_context_destroy(ctx);
    CHECK(c.blocks == 0 && c.bytes == 0);
}

static void test_buffer(void)
{
    counting c = { 0, 0, 0, 0 };
    qnet_context *ctx = make_context(&c);
    qnet_buffer buffer;
    qnet_sink sink;
    int i;
    memset(&buffer, 0, sizeof buffer);
    CHECK_OK(ctx, qnet_buffer_append(ctx, &buffer, NULL, 0));
    CHECK(buffer.size == 0 && buffer.bytes[0] == 0);
    for (i = 0; i < 1000; i++) {
        unsigned char byte = (unsigned char)(i & 255);
        CHECK_OK(ctx, qnet_buffer_append(ctx, &buffer, &byte, 1));
    }
    CHECK(buffer.size == 1000 && buffer.bytes[999] == (999 & 255) && buffer.bytes[1000] == 0);
    CHECK(c.requests <= 5); /* the context, then 256, 512, 1024 */
    /* A size that no memory holds leaves the buffer as it was. */
    CHECK_FAILS(ctx, qnet_buffer_append(ctx, &buffer, "x", (size_t)-1), QNET_ERROR_LIMIT,
                "1000 bytes");
    CHECK_FAILS(ctx, qnet_buffer_append(ctx, &buffer, "x", (size_t)-1 - 1000), QNET_ERROR_LIMIT,
                "buffer");
    CHECK(buffer.size == 1000 && buffer.bytes[999] == (999 & 255));
    c.fail_at = c.requests + 1;
    CHECK_FAILS(ctx, qnet_buffer_printf(ctx, &buffer, "%500d", 1), QNET_ERROR_MEMORY, "a buffer");
    CHECK(buffer.size == 1000);
    qnet_buffer_free(ctx, &buffer);
    qnet_buffer_free(ctx, &buffer);
    qnet_buffer_free(ctx, NULL);
    CHECK(buffer.bytes == NULL && buffer.size == 0);
    for (i = 0; i < 100; i++) CHECK_OK(ctx, qnet_buffer_printf(ctx, &buffer, "%d,%s;", i, "ab"));
    CHECK(strncmp((char *)buffer.bytes, "0,ab;1,ab;", 10) == 0);
    CHECK(strlen((char *)buffer.bytes) == buffer.size && buffer.size == 10 * 5 + 90 * 6);
    qnet_buffer_free(ctx, &buffer);
    sink = qnet_sink_buffer(ctx, &buffer, NULL);
    CHECK(strcmp(qnet__name_of(&sink), "(memory)") == 0);
    CHECK_OK(ctx, qnet__write(ctx, &sink, "hello", 5));
    CHECK_OK(ctx, qnet__write(ctx, &sink, NULL, 0));
    CHECK(buffer.size == 5 && strcmp((char *)buffer.bytes, "hello") == 0);
    c.fail_at = c.requests + 1;
    {
        char big[2000];
        memset(big, 'b', sizeof big);
        CHECK_FAILS(ctx, qnet__write(ctx, &sink, big, sizeof big), QNET_ERROR_MEMORY,
                    "(memory): no memory: ");
    }
    qnet_buffer_free(ctx, &buffer);
    qnet_context_destroy(ctx);
    CHECK(c.blocks == 0 && c.bytes == 0);
}

static void test_files(void)
{
    counting c = { 0, 0, 0, 0 };
    qnet_context *ctx = make_context(&c);
    const char *path = FOLDER "/a/b/file.bin";
    unsigned char bytes[10000];
    qnet_buffer buffer;
    qnet__file file;
    qnet_sink sink;
    qnet_source source;
    size_t i;
    long n;
    memset(&buffer, 0, sizeof buffer);
    for (i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 31 & 255);
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/a/b"));
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/a/b"));
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/a/b/"));
    remove(path);
    CHECK(!qnet_file_exists(path) && !qnet_file_exists(NULL));
    CHECK(!qnet_file_exists(FOLDER) && qnet__path_kind(FOLDER) == 2);
    CHECK_FAILS(ctx, qnet_file_read(ctx, path, 0, &buffer), QNET_ERROR_NOT_FOUND, path);
    CHECK_FAILS(ctx, qnet_file_read(ctx, FOLDER, 0, &buffer), QNET_ERROR_IO, "it is a folder");
    CHECK_FAILS(ctx, qnet_file_read(ctx, NULL, 0, &buffer), QNET_ERROR_ARGUMENT, "path");
    CHECK_FAILS(ctx, qnet_file_read(ctx, "", 0, &buffer), QNET_ERROR_ARGUMENT, "path");
    CHECK_OK(ctx, qnet_file_replace(ctx, path, bytes, sizeof bytes));
    CHECK(qnet_file_exists(path) && !TEMPORARY_LEFT(FOLDER "/a/b/file.bin"));
    CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &buffer));
    CHECK(buffer.size == sizeof bytes && memcmp(buffer.bytes, bytes, sizeof bytes) == 0);
    CHECK(buffer.capacity == sizeof bytes + 2); /* its length, asked for at once */
    qnet_buffer_free(ctx, &buffer);
    CHECK_OK(ctx, qnet_file_read(ctx, path, sizeof bytes, &buffer));
    qnet_buffer_free(ctx, &buffer);
    CHECK_FAILS(ctx, qnet_file_read(ctx, path, sizeof bytes - 1, &buffer), QNET_ERROR_LIMIT,
                "file.bin: larger than the limit of 9999 bytes");
    CHECK(buffer.bytes == NULL);
    /* A file in the way of a folder, a folder in the way of a file. */
    CHECK_FAILS(ctx, qnet_make_folder(ctx, FOLDER "/a/b/file.bin/c"), QNET_ERROR_IO, "file.bin/c");
    CHECK_FAILS(ctx, qnet_make_folder(ctx, path), QNET_ERROR_IO, "file.bin");
    CHECK_FAILS(ctx, qnet_make_folder(ctx, ""), QNET_ERROR_ARGUMENT, "path");
    CHECK_FAILS(ctx, qnet_file_replace(ctx, FOLDER "/a", "x", 1), QNET_ERROR_IO, FOLDER "/a");
    CHECK(!TEMPORARY_LEFT(FOLDER "/a"));
    CHECK_FAILS(ctx, qnet_file_replace(ctx, FOLDER "/none/x", "x", 1), QNET_ERROR_IO, "none/x: cannot be opened for writing: its folder does not exist");
    CHECK_FAILS(ctx, qnet_file_replace(ctx, FOLDER "/a/b/file.bin/x", "x", 1), QNET_ERROR_IO,
                "file.bin/x");
    /* An abandoned write leaves the old file whole. */
    CHECK_OK(ctx, qnet__file_open_replace(ctx, path, &file, &sink));
    CHECK(strcmp(qnet__name_of(&sink), path) == 0);
    CHECK_OK(ctx, qnet__write(ctx, &sink, "half", 4));
    CHECK(qnet__file_finish(&file, QNET_STOPPED) == QNET_STOPPED);
    CHECK(!TEMPORARY_LEFT(FOLDER "/a/b/file.bin"));
    CHECK_OK(ctx, qnet__file_open_read(ctx, path, &source));
    CHECK_OK(ctx, qnet__read_exact(ctx, &source, sizeof bytes, "the file", &buffer));
    CHECK_FAILS(ctx, qnet__read_exact(ctx, &source, 4, "more", &buffer), QNET_ERROR_FORMAT, path);
    qnet__file_close(&source);
    CHECK(buffer.size == sizeof bytes && memcmp(buffer.bytes, bytes, sizeof bytes) == 0);
    qnet_buffer_free(ctx, &buffer);
    CHECK_OK(ctx, qnet_file_replace(ctx, path, NULL, 0));
    CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &buffer));
    CHECK(buffer.size == 0);
    qnet_buffer_free(ctx, &buffer);
    /* Each allocation in turn fails: a status, no leak, the old file. */
    CHECK_OK(ctx, qnet_file_replace(ctx, path, "old", 3));
    for (n = 1; n <= 2; n++) {
        c.fail_at = c.requests + n;
        if (qnet_file_read(ctx, path, 0, &buffer) == QNET_OK) {
            qnet_buffer_free(ctx, &buffer);
            CHECK(n == 2); /* a buffer: the second request never comes */
        } else {
            CHECK_CONTAINS(qnet_last_error(ctx), "no memory");
        }
        CHECK(c.blocks == 1);
    }
    c.fail_at = c.requests + 1;
    CHECK_FAILS(ctx, qnet_file_replace(ctx, path, "new", 3), QNET_ERROR_MEMORY, "a file name");
    c.fail_at = c.requests + 1;
    CHECK_FAILS(ctx, qnet_make_folder(ctx, FOLDER "/z"), QNET_ERROR_MEMORY, "a buffer");
    CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &buffer));
    CHECK(buffer.size == 3 && memcmp(buffer.bytes, "old", 3) == 0);
    qnet_buffer_free(ctx, &buffer);
#ifdef __linux__
    /* A device that is always full: the failure shows at the latest when the file is closed. */
    if (qnet__path_kind("/dev/full") == 3) {
        CHECK_OK(ctx, qnet__file_open_replace(ctx, path, &file, &sink));
        fclose(file.stream);
        file.stream = fopen("/dev/full", "wb");
        if (qnet__write(ctx, &sink, "new", 3) == QNET_OK) {
            CHECK_FAILS(ctx, qnet__file_finish(&file, QNET_OK), QNET_ERROR_IO, "cannot be written");
        } else {
            qnet__file_finish(&file, QNET_ERROR_IO);
        }
        CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &buffer));
        CHECK(buffer.size == 3 && memcmp(buffer.bytes, "old", 3) == 0);
        qnet_buffer_free(ctx, &buffer);
    }
#endif
    remove(path);
    qnet_context_destroy(ctx);
    CHECK(c.blocks == 0 && c.bytes == 0);
}

static void test_list(void)
{
    counting c = { 0, 0, 0, 0 };
    qnet_context *ctx = make_context(&c);
    qnet_buffer names = { NULL, 0, 0, NULL };
    const char *name, *next;
    int count = 0;
    char path[300];
    int i;
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/list/sub-10"));
    for (i = 0; i < 8; i++) {
        snprintf(path, sizeof path, FOLDER "/list/sub-0%d.txt", 7 - i);
        CHECK_OK(ctx, qnet_file_replace(ctx, path, "", 0));
    }
    CHECK_OK(ctx, qnet_list_folder(ctx, FOLDER "/list", &names));
    name = qnet__list_next(&names, NULL);
    CHECK(name != NULL && strcmp(name, "sub-00.txt") == 0);
    for (; name != NULL; name = next, count++) {
        next = qnet__list_next(&names, name);
        CHECK(next != NULL ? strcmp(name, next) < 0 : strcmp(name, "sub-10") == 0);
    }
    CHECK(count == 9);
    qnet_buffer_free(ctx, &names);
    CHECK_OK(ctx, qnet_list_folder(ctx, FOLDER "/list/sub-10", &names));
    CHECK(names.bytes == NULL && names.size == 0 && qnet__list_next(&names, NULL) == NULL);
    CHECK_FAILS(ctx, qnet_list_folder(ctx, FOLDER "/none", &names), QNET_ERROR_NOT_FOUND,
                FOLDER "/none");
    for (i = 1; i <= 3; i++) {
        c.fail_at = c.requests + i;
        CHECK_FAILS(ctx, qnet_list_folder(ctx, FOLDER "/list", &names), QNET_ERROR_MEMORY, "a buffer");
        CHECK(names.size == 0);
        qnet_buffer_free(ctx, &names);
        CHECK(c.blocks == 1);
    }
    CHECK_OK(ctx, qnet_buffer_append(ctx, &names, "zz", 3)); /* appended to what is there; sorted apart */
    CHECK_OK(ctx, qnet_list_folder(ctx, FOLDER "/list", &names));
    CHECK(strcmp((const char *)names.bytes, "zz") == 0 && strcmp((const char *)names.bytes + 3, "sub-00.txt") == 0);
    qnet_buffer_free(ctx, &names);
    for (i = 0; i < 8; i++) {
        snprintf(path, sizeof path, FOLDER "/list/sub-0%d.txt", i);
        remove(path);
    }
    qnet_context_destroy(ctx);
    CHECK(c.blocks == 0 && c.bytes == 0);
}

static void test_params(void)
{
    static const qnet_param entries[2] = {
        { "conv1.weight", 4, { 7, 7, 3, 64 }, 0, 9408, QNET_LAYOUT_HWIO, 1 },
        { "fc.bias", 1, { 2, 0, 0, 0 }, 9408, 2, QNET_LAYOUT_PLAIN, 1 }
    };
    qnet_param_table table;
    qnet_real block[4] = { 0, 0, 0, 0 };
    qnet_tensor view;
    memset(&table, 0, sizeof table);
    table.entries = entries;
    table.count = 2;
    CHECK(qnet_param_find(&table, "fc.bias") == 1 && qnet_param_find(&table, "conv1.weight") == 0);
    CHECK(qnet_param_find(&table, "fc") == -1 && qnet_param_find(&table, "") == -1);
    view = qnet_param_view(&table, block, 0);
    CHECK(view.data == block && view.ndim == 4 && view.shape[0] == 7 && view.shape[3] == 64);
    view = qnet_param_view(&table, block, -1);
    CHECK(view.data == NULL && view.ndim == 0);
    view = qnet_param_view(&table, block, 2);
    CHECK(view.data == NULL);
}

/* Functions that return a status refuse NULL, one pointer at a time. */
static void test_null(void)
{
    qnet_context *ctx = NULL;
    qnet_buffer buffer;
    memset(&buffer, 0, sizeof buffer);
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    CHECK(qnet_file_read(NULL, "README.md", 0, &buffer) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_file_read(ctx, NULL, 0, &buffer) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_file_read(ctx, "README.md", 0, NULL) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_file_replace(NULL, "never.txt", "a", 1) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_file_replace(ctx, NULL, "a", 1) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_file_replace(ctx, "never.txt", NULL, 1) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_make_folder(NULL, "never") == QNET_ERROR_ARGUMENT);
    CHECK(qnet_make_folder(ctx, NULL) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_buffer_append(NULL, &buffer, "a", 1) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_buffer_append(ctx, NULL, "a", 1) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_buffer_append(ctx, &buffer, NULL, 1) == QNET_ERROR_ARGUMENT);
    CHECK(buffer.bytes == NULL && buffer.size == 0);
    qnet_context_destroy(ctx);
}

/* What git-annex, DataLad and Git LFS leave in place of a file is not read as one. */
static void test_not_downloaded(void)
{
    static const char *const pointers[] = {
        "/annex/objects/MD5E-s26093786--c3fd01f0787b14610c066b6b7454ff54.nii.gz\n",
        "../../.git/annex/objects/M8/X8/MD5E-s4--d41d8c.nii.gz/MD5E-s4--d41d8c.nii.gz",
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"};
    static const char *const others[] = {"x /annex/objects/", "version 3\n", "see ../.git/annex/objects/", ""};
    qnet_context *ctx = NULL;
    qnet_buffer bytes;
    size_t i;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    CHECK_OK(ctx, qnet_make_folder(ctx, "build"));
    memset(&bytes, 0, sizeof bytes);
    for (i = 0; i < 3; i++) {
        CHECK_OK(ctx, qnet_file_replace(ctx, "build/test_pointer", pointers[i], strlen(pointers[i])));
        CHECK_FAILS(ctx, qnet_file_read(ctx, "build/test_pointer", 0, &bytes), QNET_ERROR_NOT_FOUND,
                    "build/test_pointer: not downloaded: git annex get / datalad get / git lfs pull");
        CHECK(bytes.bytes == NULL);
    }
    for (i = 0; i < 4; i++) {
        CHECK_OK(ctx, qnet_file_replace(ctx, "build/test_pointer", others[i], strlen(others[i])));
        CHECK_OK(ctx, qnet_file_read(ctx, "build/test_pointer", 0, &bytes));
        CHECK(bytes.size == strlen(others[i]) &&
              (bytes.size == 0 || memcmp(bytes.bytes, others[i], bytes.size) == 0));
        qnet_buffer_free(ctx, &bytes);
    }
    remove("build/test_pointer");
    CHECK_FAILS(ctx, qnet_file_read(ctx, "build/test_pointer", 0, &bytes), QNET_ERROR_NOT_FOUND,
                "build/test_pointer: no such file");
#ifdef QNET__POSIX
    if (system("ln -s ../.git/annex/objects/none build/test_pointer") == 0) {
        CHECK_FAILS(ctx, qnet_file_read(ctx, "build/test_pointer", 0, &bytes), QNET_ERROR_NOT_FOUND,
                    "build/test_pointer: a link that leads nowhere, as git-annex leaves them: not "
                    "downloaded: git annex get / datalad get");
        remove("build/test_pointer");
    }
#endif
    qnet_context_destroy(ctx);
}

int main(void)
{
    RUN(test_status);
    RUN(test_helpers);
    RUN(test_arena);
    RUN(test_context);
    RUN(test_cpu);
    RUN(test_parallel);
    RUN(test_philox);
    RUN(test_streams);
    RUN(test_distributions);
    RUN(test_hash);
    RUN(test_sources);
    RUN(test_read_trust);
    RUN(test_buffer);
    RUN(test_files);
    RUN(test_list);
    RUN(test_params);
    RUN(test_null);
    RUN(test_not_downloaded);
    return test_end();
}
