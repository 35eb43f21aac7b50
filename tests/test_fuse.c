/* Room >>fuse: passes against their definition, and convolutions that apply a prologue and an epilogue against the
   same done one after the other. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "quick.h"

/* Numbers of size 1 after a few operations; sums of up to 700 of them. Double: 1e-15 of each. */
#define NEAR (QNET__REAL_IS_DOUBLE ? 1e-13 : 2e-6)
#define NEAR_SUM (QNET__REAL_IS_DOUBLE ? 1e-11 : 1e-3)

enum { CHANNELS = 64, MAPS = 8, VECTORS = 8 };

typedef struct data {
    size_t rows, count, chunks;
    qnet_real *map[MAPS], vector[VECTORS][CHANNELS];
} data;

static qnet_real *normals(uint64_t seed, size_t n)
{
    qnet_real *p = (qnet_real *)malloc(n * sizeof *p);
    uint64_t state = seed << 32;
    size_t i;
    if (p == NULL) exit(2);
    for (i = 0; i < n; i++) p[i] = (qnet_real)quick_normal(&state);
    return p;
}

static data make_data(size_t rows)
{
    data d;
    int i, c;
    d.rows = rows;
    d.count = rows * CHANNELS;
    d.chunks = rows; /* more than any form makes */
    for (i = 0; i < MAPS; i++) d.map[i] = normals((uint64_t)i + 1, d.count);
    for (i = 0; i < VECTORS; i++)
        for (c = 0; c < CHANNELS; c++)
            d.vector[i][c] = (qnet_real)(.1 * i + sin(.7 * i + c)); /* of both signs */
    return d;
}

static void free_data(data *d)
{
    int i;
    for (i = 0; i < MAPS; i++) free(d->map[i]);
}

static void give_sums(qnet__epilogue *s, size_t chunks)
{
    s->center = (qnet_real *)calloc(chunks * CHANNELS, sizeof(qnet_real));
    s->sum1 = (double *)calloc(chunks * CHANNELS, sizeof(double));
    s->sum2 = (double *)calloc(chunks * CHANNELS, sizeof(double));
    s->rows = (size_t *)calloc(chunks, sizeof(size_t));
    if (!s->center || !s->sum1 || !s->sum2 || !s->rows) exit(2);
}

static void free_sums(qnet__epilogue *s)
{
    free(s->center), free(s->sum1), free(s->sum2), free(s->rows);
}

static qnet__prologue make_prologue(const data *d, qnet__prologue_kind kind)
{
    qnet__prologue s = qnet__prologue_plain(d->map[0]);
    s.kind = kind;
    s.pre = d->map[1];
    s.mean = d->vector[0], s.scale = d->vector[1], s.beta = d->vector[2];
    s.shift = d->vector[3], s.slope = d->vector[4];
    return s;
}

/* form 0: moments; 1, 2, 3, 4: normalise without residual, with a plain one, a normalised one, one
   of norm and ReLU; 5, 6, 7: gradient with no mask, a map's, a norm's. */
enum { FORMS = 8 };
static qnet__epilogue make_epilogue(const data *d, int form, qnet_real *y, size_t chunks)
{
    qnet__epilogue s = qnet__epilogue_plain(y);
    give_sums(&s, chunks);
    s.kind = form == 0 ? QNET__EPILOGUE_MOMENTS : form < 5 ? QNET__EPILOGUE_NORMALISE : QNET__EPILOGUE_GRADIENT;
    s.relu = form != 2;
    s.mean = d->vector[5];
    if (form != 0 && form != 5 && form != 6) s.scale = d->vector[6], s.beta = d->vector[7];
    if (form == 2 || form == 3 || form == 4 || form == 7) s.residual = d->map[2];
    if (form == 3 || form == 4)
        s.residual_mean = d->vector[0], s.residual_scale = d->vector[1], s.residual_beta = d->vector[2];
    s.residual_relu = form == 4;
    if (form >= 5) s.pre = d->map[3];
    if (form == 6) s.mask = d->map[4];
    return s;
}

static void compare_totals(qnet_context *ctx, size_t channels, const qnet__epilogue *a,
                           const qnet__epilogue *b)
{
    double first[2][CHANNELS], second[2][CHANNELS];
    size_t c;
    if (a->kind == QNET__EPILOGUE_NORMALISE) return;
    qnet__epilogue_totals(ctx, a, channels, first[0], second[0]);
    qnet__epilogue_totals(ctx, b, channels, first[1], second[1]);
    for (c = 0; c < channels; c++) {
        CHECK_NEAR(first[0][c], first[1][c], NEAR_SUM);
        CHECK_NEAR(second[0][c], second[1][c], NEAR_SUM);
    }
}

static double worst(const qnet_real *a, const qnet_real *b, size_t n)
{
    double most = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        const double e = fabs((double)a[i] - (double)b[i]);
        if (!(e <= most)) most = e;
    }
    return most;
}

static qnet_context *make_context(qnet_cpu cpu)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    hooks.cpu = cpu;
    return qnet_context_create(&hooks, &ctx) == QNET_OK ? ctx : NULL;
}

/* A pass by the definitions of prologue and epilogue. */
static qnet_real prologue_reference(const qnet__prologue *s, size_t at, size_t c)
{
    qnet_real v = s->x[at];
    if (s->kind == QNET__PROLOGUE_NORMALISED) {
        v = (v - s->mean[c]) * s->scale[c] + s->beta[c];
        v = v < 0 ? 0 : v;
    } else if (s->kind == QNET__PROLOGUE_GRADIENT) {
        v = s->scale[c] * (v - s->shift[c] - (s->pre[at] - s->mean[c]) * s->slope[c]);
    }
    return v;
}

static void epilogue_reference(const qnet__epilogue *s, size_t at, size_t sum_at, size_t c,
                               qnet_real v)
{
    if (s->kind == QNET__EPILOGUE_MOMENTS) {
        const qnet_real d = v - s->center[sum_at];
        s->sum1[sum_at] += (double)d;
        s->sum2[sum_at] += (double)(d * d);
    } else if (s->kind == QNET__EPILOGUE_NORMALISE) {
        v = (v - s->mean[c]) * s->scale[c] + s->beta[c];
        if (s->residual != NULL) {
            qnet_real other = s->residual[at];
            if (s->residual_mean != NULL)
                other = (other - s->residual_mean[c]) * s->residual_scale[c] + s->residual_beta[c];
            v += s->residual_relu && other < 0 ? 0 : other;
        }
        v = s->relu && v < 0 ? 0 : v;
    } else if (s->kind == QNET__EPILOGUE_GRADIENT) {
        v += s->residual != NULL ? s->residual[at] : 0;
        if (s->mask != NULL) {
            v = s->mask[at] <= 0 ? 0 : v;
        } else if (s->scale != NULL) {
            v = (s->pre[at] - s->mean[c]) * s->scale[c] + s->beta[c] <= 0 ? 0 : v;
        }
        if (s->pre != NULL) {
            s->sum1[sum_at] += (double)v;
            s->sum2[sum_at] += (double)(v * (s->pre[at] - s->mean[c]));
        }
    }
    if (s->y != NULL)
        s->y[at] = v;
}

static void pass_reference(const qnet__pass_job *job, size_t first, size_t rows, size_t chunk)
{
    const size_t n = job->channels;
    size_t r, c;
    for (c = 0; c < n && job->epilogue->sum1 != NULL; c++) {
        job->epilogue->sum1[chunk * n + c] = job->epilogue->sum2[chunk * n + c] = 0;
        if (job->epilogue->kind == QNET__EPILOGUE_MOMENTS)
            job->epilogue->center[chunk * n + c] = prologue_reference(job->prologue, first * n + c, c);
    }
    for (r = 0; r < rows; r++) {
        for (c = 0; c < n; c++) {
            const size_t at = (first + r) * n + c;
            epilogue_reference(job->epilogue, at, chunk * n + c, c,
                               prologue_reference(job->prologue, at, c));
        }
    }
}

static void test_passes(void)
{
    static const size_t rows[] = {1, 15, 700, 1537};
    int cpu, form;
    size_t i, channels;
    for (cpu = QNET_CPU_SCALAR; cpu <= QNET_CPU_NEON; cpu++) {
        qnet_context *ctx = make_context((qnet_cpu)cpu);
        for (i = 0; ctx != NULL && i < 8; i++) {
            data d = make_data(rows[i / 2]);
            qnet_real *y = d.map[5], *z = d.map[6];
            channels = i % 2 == 0 ? CHANNELS : 37; /* the rest of a vector, too */
            for (form = 0; form < FORMS + 2; form++) {
                qnet__prologue prologue =
                    make_prologue(&d, form < FORMS ? QNET__PROLOGUE_PLAIN
                                                 : form == FORMS ? QNET__PROLOGUE_NORMALISED
                                                                 : QNET__PROLOGUE_GRADIENT);
                qnet__epilogue fast = form < FORMS ? make_epilogue(&d, form, y, d.chunks) : qnet__epilogue_plain(y);
                qnet__epilogue ref = form < FORMS ? make_epilogue(&d, form, z, d.chunks) : qnet__epilogue_plain(z);
                qnet__pass_job job;
                size_t chunk;
                qnet__pass(ctx, &prologue, &fast, d.rows, channels);
                job.prologue = &prologue, job.epilogue = &ref;
                job.rows = d.rows, job.channels = channels;
                job.chunk_rows = qnet__pass_chunk_rows(channels);
                ref.chunks = fast.chunks;
                for (chunk = 0; chunk < ref.chunks; chunk++) {
                    const size_t n = qnet__min_size(job.chunk_rows, d.rows - chunk * job.chunk_rows);
                    if (ref.rows != NULL) ref.rows[chunk] = n;
                    pass_reference(&job, chunk * job.chunk_rows, n, chunk);
                }
                if (!CHECK(worst(y, z, d.rows * channels) <= NEAR))
                    printf("    %s, form %d, %lu rows\n", qnet_cpu_name((qnet_cpu)cpu), form,
                           (unsigned long)d.rows);
                if (form < FORMS) compare_totals(ctx, channels, &fast, &ref);
                free_sums(&fast), free_sums(&ref);
            }
            free_data(&d);
        }
        if (ctx != NULL) qnet_context_destroy(ctx);
    }
}

/* Moments against their definition. */
static void test_moments(void)
{
    qnet_context *ctx = make_context(QNET_CPU_AUTO);
    data d = make_data(1537);
    qnet__prologue prologue = make_prologue(&d, QNET__PROLOGUE_PLAIN);
    qnet__epilogue epilogue = make_epilogue(&d, 0, NULL, d.chunks);
    double mean[CHANNELS], var[CHANNELS], m, v;
    size_t r, c;
    for (r = 0; r < d.count; r++) d.map[0][r] += 30; /* far from zero: nothing may cancel */
    qnet__pass(ctx, &prologue, &epilogue, d.rows, CHANNELS);
    qnet__epilogue_totals(ctx, &epilogue, CHANNELS, mean, var);
    for (c = 0; c < CHANNELS; c++) {
        for (r = 0, m = 0; r < d.rows; r++) m += (double)d.map[0][r * CHANNELS + c];
        m /= (double)d.rows;
        for (r = 0, v = 0; r < d.rows; r++)
            v += ((double)d.map[0][r * CHANNELS + c] - m) * ((double)d.map[0][r * CHANNELS + c] - m);
        CHECK_NEAR(mean[c], m, QNET__REAL_IS_DOUBLE ? 1e-13 : 1e-6);
        CHECK_NEAR(var[c], v / (double)d.rows, QNET__REAL_IS_DOUBLE ? 1e-12 : 2e-6);
    }
    free_sums(&epilogue);
    free_data(&d);
    qnet_context_destroy(ctx);
}

/* At stride 2 Winograd's way takes pixels from plain maps, so that conv makes them of others, and
   goes forward alone. */
static void convolve(qnet_context *ctx, const qnet_conv2d *s, int side, int backward,
                     const qnet__prologue *prologue, const qnet_real *w, qnet__epilogue *epilogue, qnet_real *temp,
                     void *scratch)
{
    const qnet__conv_algorithm way = side == 4 ? QNET__CONV_WINOGRAD : QNET__CONV_WINOGRAD_2;
    const qnet__prologue none = qnet__prologue_plain(NULL);
    if (s->stride == 1)
        qnet__winograd_conv(ctx, s, side, backward, prologue, w, NULL, epilogue, scratch);
    else if (backward)
        CHECK_OK(ctx, qnet__conv_backward(ctx, way, s, &none, w, prologue, epilogue, 0, NULL, NULL, temp, scratch));
    else
        CHECK_OK(ctx, qnet__conv_map(ctx, way, s, 0, 0, prologue, w, NULL, epilogue, temp, scratch));
}

/* One Winograd convolution with prologue and epilogue, against three steps. */
static void test_convolutions(void)
{
    static const qnet_conv2d shapes[] = {{3, 14, 13, 64, 64, 3, 1, 1}, {7, 56, 21, 64, 64, 3, 1, 1},
                                         {29, 2, 2, 64, 64, 3, 1, 1}, {8, 31, 28, 64, 64, 3, 2, 1}};
    int cpu, form, backward;
    size_t i;
    for (cpu = QNET_CPU_SCALAR; cpu <= QNET_CPU_NEON; cpu++) {
        qnet_context *ctx = make_context((qnet_cpu)cpu);
        const int there = ctx != NULL && qnet__isa_of(ctx)->winograd != NULL;
        for (i = 0; there && i < 2 * sizeof shapes / sizeof *shapes; i++) {
            const qnet_conv2d s = shapes[i / 2];
            const int side = i % 2 ? 2 : 4;
            const size_t large = (size_t)(s.batch * s.height * s.width);
            const size_t small = (size_t)qnet__conv_out_pixels(&s);
            data d = make_data(large);
            qnet_real *w = normals(99, 9 * 64 * 64), *from = d.map[7];
            const qnet__conv_algorithm way = side == 4 ? QNET__CONV_WINOGRAD : QNET__CONV_WINOGRAD_2;
            void *scratch = qnet__default_alloc(NULL, qnet__conv_scratch(ctx, way, &s, 1), 64);
            if (scratch == NULL) exit(2);
            for (form = 0; form < 9 * 64 * 64; form++) w[form] *= (qnet_real)(1. / 24);
            CHECK(QNET__REFERENCE_ONLY ||
                  strcmp(qnet_conv2d_algorithm(ctx, &s), TEST_BLAS ? "BLAS" : "Winograd") == 0);
            for (backward = 0; backward < 2; backward++)
                for (form = 0; form < (s.stride == 2 && !backward ? 5 : FORMS); form++) {
                    /* forms from 5 on are of gradients: at stride 2 the way forward has not got them */
                    const size_t rows_in = backward ? small : large, rows = backward ? large : small;
                    const qnet__prologue prologue = make_prologue(&d, QNET__PROLOGUE_NORMALISED);
                    qnet__prologue plain = qnet__prologue_plain(from);
                    qnet__epilogue fused = make_epilogue(&d, form, d.map[5], d.chunks);
                    qnet__epilogue after = make_epilogue(&d, form, d.map[6], d.chunks);
                    qnet__epilogue dst = qnet__epilogue_plain(from);
                    convolve(ctx, &s, side, backward, &prologue, w, &fused, from, scratch);
                    qnet__pass(ctx, &prologue, &dst, rows_in, CHANNELS);
                    dst = qnet__epilogue_plain(d.map[6]);
                    if (fused.kind == QNET__EPILOGUE_NORMALISE) dst.kind = fused.kind; /* without a norm: same chains */
                    convolve(ctx, &s, side, backward, &plain, w, &dst, NULL, scratch);
                    plain = qnet__prologue_plain(d.map[6]);
                    qnet__pass(ctx, &plain, &after, rows, CHANNELS);
                    if (!CHECK(worst(d.map[5], d.map[6], rows * CHANNELS) <= NEAR))
                        printf("    %s, stride %d, tiles of %d, form %d, backward %d\n",
                               qnet_cpu_name((qnet_cpu)cpu), s.stride, side, form, backward);
                    compare_totals(ctx, CHANNELS, &fused, &after);
                    free_sums(&fused), free_sums(&after);
                }
            if (s.stride == 1) { /* dw with both prologues, against plain maps of the same numbers */
                const qnet__prologue x = make_prologue(&d, QNET__PROLOGUE_NORMALISED);
                const qnet__prologue dy = make_prologue(&d, QNET__PROLOGUE_GRADIENT);
                const qnet__prologue px = qnet__prologue_plain(d.map[5]), pdy = qnet__prologue_plain(d.map[6]);
                qnet__epilogue tx = qnet__epilogue_plain(d.map[5]), tdy = qnet__epilogue_plain(d.map[6]);
                qnet_real *dw = normals(3, 9 * 64 * 64), *other = normals(4, 9 * 64 * 64);
                qnet__pass(ctx, &x, &tx, large, CHANNELS);
                qnet__pass(ctx, &dy, &tdy, small, CHANNELS);
                qnet__winograd_weights(ctx, &s, side, &x, &dy, d.map[1], dw, scratch);
                qnet__winograd_weights(ctx, &s, side, &px, &pdy, NULL, other, scratch);
                CHECK(worst(dw, other, 9 * 64 * 64) <= NEAR_SUM);
                CHECK(worst(d.map[1], d.map[6], small * CHANNELS) <= NEAR); /* dy is where pre was */
                free(dw), free(other);
            }
            qnet__default_free(NULL, scratch, 0);
            free(w);
            free_data(&d);
        }
        if (ctx != NULL) qnet_context_destroy(ctx);
    }
}

int main(void)
{
    RUN(test_passes);
    RUN(test_moments);
    if (!QNET__REFERENCE_ONLY) RUN(test_convolutions);
    return test_end();
}
