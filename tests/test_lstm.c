/* Room >>lstm: the cell against Eqs. (1)-(5), the layer against PyTorch, against its own cell and
   against central differences; padding, workers, memory, bad input. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "reference.h"

/* float: a few hundred products of numbers near 1, through at most 24 steps that contract. */
#define NEAR (QNET__REAL_IS_DOUBLE ? 1e-11 : 3e-6)
/* Central differences: step^2 is cut off in double; rounding / step limits float to one digit. */
#define STEP (QNET__REAL_IS_DOUBLE ? 1e-4 : 1e-2)
#define GRADIENT_ERROR (QNET__REAL_IS_DOUBLE ? 1e-7 : 1e-1)

/* ---- hooks ---- */

static long live_bytes, allocations, fail_at;
static void *counting_alloc(void *user, size_t size, size_t align)
{
    void *block = NULL;
    (void)user;
    if (++allocations == fail_at) return NULL;
    block = qnet__default_alloc(NULL, size, align);
    if (block != NULL) live_bytes += (long)size;
    return block;
}
static void counting_free(void *user, void *ptr, size_t size)
{
    (void)user;
    live_bytes -= (long)size;
    qnet__default_free(NULL, ptr, size);
}

/* Runs the tasks one by one, from the last to the first and odd ones first, as `workers` would. */
static void fake_run(void *user, size_t count, qnet_task task, void *arg)
{
    size_t workers = *(size_t *)user, pass, i;
    for (pass = 0; pass < 2; pass++)
        for (i = count; i-- > 0;)
            if (i % 2 != pass) task(arg, i, i % workers);
}

static qnet_context *make_context(size_t *workers, qnet_cpu cpu)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    hooks.cpu = cpu;
    hooks.allocator.alloc = counting_alloc;
    hooks.allocator.free = counting_free;
    if (workers != NULL) {
        hooks.parallel.user = workers;
        hooks.parallel.run = fake_run;
        hooks.parallel.workers = *workers;
    }
    return qnet_context_create(&hooks, &ctx) == QNET_OK ? ctx : NULL;
}

static void fill_sin(qnet_real *x, size_t count, double start, double factor)
{
    size_t i;
    for (i = 0; i < count; i++) x[i] = (qnet_real)(factor * sin(start + 0.7 * (double)i));
}
static void fill_random(qnet_real *x, size_t count, uint64_t seed, double factor)
{
    qnet_rng rng = qnet_rng_at(seed, QNET_RANDOM_USER, 0, 0);
    size_t i;
    for (i = 0; i < count; i++) x[i] = (qnet_real)(factor * qnet_rng_normal(&rng));
}
static double golden_difference(const qnet_real *a, const double *golden, size_t count)
{
    double worst = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        double d = fabs((double)a[i] - golden[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}
static double largest_difference(const qnet_real *a, const qnet_real *b, size_t count)
{
    double worst = 0;
    size_t i;
    for (i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

/* A layer with all its arrays in one block. */
typedef struct layer {
    qnet_context *ctx;
    qnet_lstm shape;
    int *length;
    qnet_real *block, *w[2], *u[2], *b[2], *dw[2], *du[2], *db[2], *x, *dx, *y, *dy, *saved;
    size_t rows, inputs, outputs, nw, nu, nb, saved_count;
} layer;

static layer make_layer(qnet_context *ctx, int batch, int steps, int in, int hidden, const int *length)
{
    layer l;
    qnet_real *at;
    size_t total;
    int d;
    memset(&l, 0, sizeof l);
    l.ctx = ctx;
    l.shape.batch = batch;
    l.shape.steps = steps;
    l.shape.in = in;
    l.shape.hidden = hidden;
    l.length = (int *)malloc((size_t)batch * sizeof(int));
    l.rows = (size_t)batch * (size_t)steps;
    l.inputs = l.rows * (size_t)in;
    l.outputs = l.rows * 2 * (size_t)hidden;
    l.nb = 4 * (size_t)hidden;
    l.nw = l.nb * (size_t)in;
    l.nu = l.nb * (size_t)hidden;
    l.saved_count = qnet_lstm_saved(&l.shape);
    total = 4 * (l.nw + l.nu + l.nb) + 2 * l.inputs + 2 * l.outputs + l.saved_count;
    at = l.block = (qnet_real *)malloc(total * sizeof(qnet_real));
    if (l.length == NULL || l.block == NULL) exit(2);
    memcpy(l.length, length, (size_t)batch * sizeof(int));
    for (d = 0; d < 2; d++) {
        l.w[d] = at; at += l.nw;
        l.u[d] = at; at += l.nu;
        l.b[d] = at; at += l.nb;
        l.dw[d] = at; at += l.nw;
        l.du[d] = at; at += l.nu;
        l.db[d] = at; at += l.nb;
        fill_random(l.w[d], l.nw, 10 + (uint64_t)d, .8 / sqrt((double)in));
        fill_random(l.u[d], l.nu, 20 + (uint64_t)d, .8 / sqrt((double)hidden));
        fill_random(l.b[d], l.nb, 30 + (uint64_t)d, .5);
    }
    l.x = at; at += l.inputs;
    l.dx = at; at += l.inputs;
    l.y = at; at += l.outputs;
    l.dy = at; at += l.outputs;
    l.saved = at;
    fill_random(l.x, l.inputs, 40, 1);
    fill_random(l.dy, l.outputs, 50, 1);
    fill_random(l.y, l.outputs, 60, 1); /* must be overwritten, padding included */
    fill_random(l.saved, l.saved_count, 70, 1);
    return l;
}
static void free_layer(layer *l)
{
    free(l->block);
    free(l->length);
}
static qnet_lstm_weights weights_of(const layer *l)
{
    qnet_lstm_weights w;
    int d;
    for (d = 0; d < 2; d++) {
        w.w[d] = l->w[d];
        w.u[d] = l->u[d];
        w.b[d] = l->b[d];
    }
    return w;
}
static qnet_status forward(layer *l, void *scratch)
{
    qnet_lstm_weights w = weights_of(l);
    return qnet_lstm_forward(l->ctx, &l->shape, l->length, &w, l->x, l->y, l->saved, scratch);
}
static qnet_status backward(layer *l, void *scratch)
{
    qnet_lstm_weights w = weights_of(l);
    qnet_lstm_gradients g;
    int d;
    for (d = 0; d < 2; d++) {
        g.w[d] = l->dw[d];
        g.u[d] = l->du[d];
        g.b[d] = l->db[d];
    }
    return qnet_lstm_backward(l->ctx, &l->shape, l->length, &w, l->x, l->y, l->saved, l->dy, l->dx, &g, scratch);
}

/* Golden numbers of both tests: torch 2.13, float64, F = lambda s, *n: torch.tensor(np.sin(s + .7 *
   arange(prod(n))).reshape(n)). Cell: LSTMCell(2, 2) with weight_ih = F(1,8,2), weight_hh = F(2,8,2),
   bias_ih = F(3,8), bias_hh = 0; x = F(4,2), h = F(5,2), c = F(6,2). */
static void cell_against_torch(void)
{
    static const double golden_h[2] = { -0.282243717758, -0.163956653509 };
    static const double golden_c[2] = { -0.310005282696, -0.171557987258 };
    qnet_real w[16], u[16], b[8], x[2], h[2], c[2], h2[2], c2[2], gates[8];
    int j;
    fill_sin(w, 16, 1, 1);
    fill_sin(u, 16, 2, 1);
    fill_sin(b, 8, 3, 1);
    fill_sin(x, 2, 4, 1);
    fill_sin(h, 2, 5, 1);
    fill_sin(c, 2, 6, 1);
    qnet_lstm_cell(2, 2, w, u, b, x, h, c, h2, c2, gates);
    CHECK(golden_difference(h2, golden_h, 2) < NEAR);
    CHECK(golden_difference(c2, golden_c, 2) < NEAR);
    /* Eqs. (4) and (5) from the gates i, f, g, o */
    for (j = 0; j < 2; j++) {
        double cell = (double)gates[2 + j] * (double)c[j] + (double)gates[j] * (double)gates[4 + j];
        CHECK_NEAR(c2[j], cell, NEAR);
        CHECK_NEAR(h2[j], (double)gates[6 + j] * tanh(cell), NEAR);
    }
    qnet_lstm_cell(2, 2, w, u, b, x, h, c, h, c, gates); /* in place */
    CHECK(memcmp(h, h2, sizeof h) == 0 && memcmp(c, c2, sizeof c) == 0);
    /* saturated gates stay finite */
    x[0] = 1000;
    x[1] = -1000;
    qnet_lstm_cell(2, 2, w, u, b, x, h, c, h, c, gates);
    CHECK(h[0] == h[0] && fabs((double)h[0]) <= 1);
}

/* LSTM(2, 2, bidirectional) over pack_padded_sequence(F(4,2,3,2), [3, 2]); forward weights F(1,8,2),
   F(2,8,2), both biases F(3,8) / 2; reverse weights from 11, 12, 13; dy = F(5,2,3,4). */
static const double golden_y[24] = { -0.133869510402, -0.193465235314, 0.0632989109735, -0.0515089183246,
    -0.23854218295, -0.228311090309, 0.0545581210762, -0.102918319349, -0.00553547953935, 0.182878019279,
    -0.145587415752, -0.302134785188, 0.123671423181, 0.182788288632, 0.109496224205, -0.407225147721,
    -0.124132667888, 0.0547615003902, 0.0660035611558, -0.0558917536935, 0, 0, 0, 0 };
static const double golden_dx[12] = { -0.00795435706609, 0.0103323618453, 0.0590887287361,
    0.0759270166637, -0.227667268842, -0.381961301121, 0.013286095258, 0.124362363752, -0.111670209043,
    -0.229807988843, 0, 0 };
static const double golden_dw[2][16] = { { -0.0176799808384, -0.106610323329, -0.0627302604176,
    -0.174130656019, 0.0251003509609, 0.0376062127746, 0.0346328319215, 0.0839994346038, -0.048598410161,
    -0.280031026607, -0.0248381991099, 0.108449121786, 0.0338541802238, -0.0131131570793, 0.0517427227904,
    -0.0366236473016 }, { -0.0461272839858, -0.0115122977838, -0.013356506237, -0.0137487691791,
    0.0151590895521, 0.00738937211221, 0.00547330762732, 0.00993866281195, -0.0104237500703,
    -0.0847541314327, -0.0186658472932, -0.0144964995053, 0.0534392455051, 0.0853151573273,
    -0.0459993550751, -0.0238604940501 } };
static const double golden_du[2][16] = { { 0.0152552411765, 0.0216308822054, 0.0334775195132,
    0.0392193448143, -0.00599113921648, -0.00591120051633, -0.0118588585941, -0.016112442871,
    0.0985708965004, 0.0885581581942, -0.0194910208977, -0.0349807278996, 0.00590204273765,
    0.00879901596408, 0.0228121695145, 0.0221398634286 }, { -0.00477599158264, 0.00271684991731,
    -0.00080887877802, 0.000705536314117, 0.00127352693414, -0.000369334666745, -0.000893151023701,
    0.00133163260604, 0.000401995833971, -0.00401254376053, 0.00320282438205, -0.00507148055153,
    0.00159383187141, -0.00650178067347, -0.00889165584143, -0.00461216757304 } };
static const double golden_db[2][8] = { { 0.0794261625999, -0.00565446549517, -0.00548497802129,
    -0.095517698072, -0.316429042887, -0.204992267631, 0.0392173088333, -0.00827899595171 },
    { 0.0152072839697, -0.0128282976891, 0.0138293060785, -0.0148982989514, 0.119955484112,
    0.0379625364624, 0.0462172547467, -0.030571214312 } };

static void layer_against_torch(void)
{
    static const int length[2] = { 3, 2 };
    layer l = make_layer(make_context(NULL, QNET_CPU_AUTO), 2, 3, 2, 2, length);
    int d;
    for (d = 0; d < 2; d++) {
        fill_sin(l.w[d], 16, 1 + 10 * d, 1);
        fill_sin(l.u[d], 16, 2 + 10 * d, 1);
        fill_sin(l.b[d], 8, 3 + 10 * d, 1);
    }
    fill_sin(l.x, 12, 4, 1);
    fill_sin(l.dy, 24, 5, 1);
    CHECK_OK(l.ctx, forward(&l, NULL));
    CHECK(golden_difference(l.y, golden_y, 24) < NEAR);
    CHECK_OK(l.ctx, backward(&l, NULL));
    CHECK(golden_difference(l.dx, golden_dx, 12) < NEAR);
    for (d = 0; d < 2; d++) {
        CHECK(golden_difference(l.dw[d], golden_dw[d], 16) < NEAR);
        CHECK(golden_difference(l.du[d], golden_du[d], 16) < NEAR);
        CHECK(golden_difference(l.db[d], golden_db[d], 8) < NEAR);
    }
    qnet_context_destroy(l.ctx);
    free_layer(&l);
}

/* The layer's definition, every scan by itself: qnet_lstm_cell step after step. */
static void forward_by_cells(layer *l)
{
    const size_t n = (size_t)l->shape.hidden, in = (size_t)l->shape.in, steps = (size_t)l->shape.steps;
    qnet_real *zero = (qnet_real *)calloc(n, sizeof *zero);
    if (zero == NULL) exit(2);
    memset(l->y, 0, l->outputs * sizeof *l->y);
    for (size_t d = 0; d < 2; d++) {
        qnet_real *gates = l->saved + d * l->rows * 6 * n, *c = gates + l->rows * 4 * n, *y = l->y + d * n;
        for (size_t b = 0; b < (size_t)l->shape.batch; b++)
            for (int k = 0; k < l->length[b]; k++) {
                const size_t at = b * steps + (size_t)(d ? l->length[b] - 1 - k : k), before = d ? at + 1 : at - 1;
                qnet_lstm_cell(l->shape.in, l->shape.hidden, l->w[d], l->u[d], l->b[d], l->x + at * in,
                               k ? y + before * 2 * n : zero, k ? c + before * n : zero, y + at * 2 * n,
                               c + at * n, gates + at * 4 * n);
                for (size_t j = 0; j < n; j++) c[(l->rows + at) * n + j] = (qnet_real)tanh((double)c[at * n + j]);
            }
    }
    free(zero);
}

/* Forward: gates = W x + U h' + b, c = f c' + i g, h = o tanh(c). Backward, step by step,
       dW += dgates x^T    dU += dgates h'^T    db += dgates    dx += W^T dgates    dh' = U^T dgates. */
static void backward_by_cells(layer *l)
{
    const size_t n = (size_t)l->shape.hidden, in = (size_t)l->shape.in, steps = (size_t)l->shape.steps;
    double *dgates = (double *)malloc(6 * n * sizeof *dgates), *dh = dgates + 4 * n, *dc = dh + n;
    if (dgates == NULL) exit(2);
    memset(l->dx, 0, l->inputs * sizeof *l->dx);
    for (size_t d = 0; d < 2; d++) {
        const qnet_real *gates = l->saved + d * l->rows * 6 * n, *c = gates + l->rows * 4 * n, *y = l->y + d * n;
        memset(l->dw[d], 0, l->nw * sizeof *l->x);
        memset(l->du[d], 0, l->nu * sizeof *l->x);
        memset(l->db[d], 0, l->nb * sizeof *l->x);
        for (size_t b = 0; b < (size_t)l->shape.batch; b++) {
            memset(dh, 0, 2 * n * sizeof *dh);
            for (int k = l->length[b] - 1; k >= 0; k--) {
                const size_t at = b * steps + (size_t)(d ? l->length[b] - 1 - k : k), before = d ? at + 1 : at - 1;
                const qnet_real *gate = gates + at * 4 * n;
                for (size_t j = 0; j < n; j++) {
                    const double i = (double)gate[j], f = (double)gate[n + j], g = (double)gate[2 * n + j];
                    const double o = (double)gate[3 * n + j], t = tanh((double)c[at * n + j]);
                    const double h = (double)l->dy[at * 2 * n + d * n + j] + dh[j];
                    const double cell = dc[j] + h * o * (1 - t * t);
                    dgates[j] = cell * g * i * (1 - i);
                    dgates[n + j] = k > 0 ? cell * (double)c[before * n + j] * f * (1 - f) : 0;
                    dgates[2 * n + j] = cell * i * (1 - g * g);
                    dgates[3 * n + j] = h * t * o * (1 - o);
                    dc[j] = cell * f;
                }
                memset(dh, 0, n * sizeof *dh);
                for (size_t j = 0; j < 4 * n; j++) {
                    l->db[d][j] += (qnet_real)dgates[j];
                    for (size_t p = 0; p < in; p++) {
                        l->dw[d][j * in + p] += (qnet_real)(dgates[j] * (double)l->x[at * in + p]);
                        l->dx[at * in + p] += (qnet_real)(dgates[j] * (double)l->w[d][j * in + p]);
                    }
                    for (size_t p = 0; p < n; p++) {
                        if (k > 0) l->du[d][j * n + p] += (qnet_real)(dgates[j] * (double)y[before * 2 * n + p]);
                        dh[p] += dgates[j] * (double)l->u[d][j * n + p];
                    }
                }
            }
        }
    }
    free(dgates);
}

/* Both passes against their definition, on odd sizes, for every kernel set that this machine has.
   Gradients are sums over up to 51 steps of numbers near 1. */
static void layer_against_its_cells(void)
{
    static const int sizes[][4] = { { 1, 1, 1, 1 }, { 3, 5, 7, 9 }, { 5, 4, 33, 17 }, { 2, 24, 40, 32 },
                                    { 17, 3, 5, 13 }, { 30, 2, 64, 24 }, { 29, 20, 3, 8 } };
    static const qnet_cpu cpus[] = { QNET_CPU_SCALAR, QNET_CPU_AVX2, QNET_CPU_AVX512, QNET_CPU_NEON };
    size_t s, k;
    int b, d, length[30];
    for (k = 0; k < 4; k++) {
        qnet_context *ctx = make_context(NULL, cpus[k]);
        if (ctx == NULL) continue; /* not on this machine */
        for (s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            layer l, cells;
            for (b = 0; b < sizes[s][0]; b++) length[b] = 1 + (b * 7 + sizes[s][1] - 1) % sizes[s][1];
            l = make_layer(ctx, sizes[s][0], sizes[s][1], sizes[s][2], sizes[s][3], length);
            cells = make_layer(ctx, sizes[s][0], sizes[s][1], sizes[s][2], sizes[s][3], length);
            CHECK_OK(ctx, forward(&l, NULL));
            CHECK_OK(ctx, backward(&l, NULL));
            forward_by_cells(&cells);
            backward_by_cells(&cells);
            for (d = 0; d < 2; d++) {
                CHECK(largest_difference(l.dw[d], cells.dw[d], l.nw) < NEAR * 10);
                CHECK(largest_difference(l.du[d], cells.du[d], l.nu) < NEAR * 10);
                CHECK(largest_difference(l.db[d], cells.db[d], l.nb) < NEAR * 10);
            }
            CHECK(largest_difference(l.y, cells.y, l.outputs) < NEAR);
            CHECK(largest_difference(l.dx, cells.dx, l.inputs) < NEAR * 10);
            free_layer(&l);
            free_layer(&cells);
        }
        qnet_context_destroy(ctx);
    }
}

/* Units in the last place of float between got and a value in double. */
static double ulps(float got, double want)
{
    int e;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1, e < -125 ? -149 : e - 24);
}

/* n units of a scan's first step through the kernel of a context: gates from W x to i, f, g, o. */
static void run_row(const qnet_context *ctx, size_t n, const qnet_real *c_prev, qnet_real *gates, qnet_real *c,
                    qnet_real *tanh_c, qnet_real *h, qnet_real *next)
{
    qnet_real *zero = (qnet_real *)malloc(4 * n * sizeof *zero);
    qnet__lstm_row row;
    size_t i;
    if (zero == NULL) exit(2);
    for (i = 0; i < 4 * n; i++) zero[i] = (qnet_real)-0.0; /* leaves -0 as it is */
    memset(&row, 0, sizeof row);
    row.hidden = n, row.b = row.uh = zero, row.c_prev = c_prev, row.gates = gates;
    row.c = c, row.tanh_c = tanh_c, row.h = h, row.next_h = next;
    qnet__isa_of(ctx)->lstm_forward(&row);
    free(zero);
}

/* sigma and tanh of n numbers, out of every kernel set's row of units, against double: the largest errors
   go to worst[2]. Not in double, which takes the library's. */
static void gates_of(const qnet_context *ctx, size_t n, const float *x, float *y, double *worst)
{
    qnet_real *a = (qnet_real *)calloc(9 * n, sizeof *a);
    size_t i;
    if (a == NULL) exit(2);
    for (i = 0; i < 4 * n; i++) a[i] = (qnet_real)x[i % n];
    run_row(ctx, n, a + 4 * n, a, a + 5 * n, a + 6 * n, a + 7 * n, a + 8 * n);
    for (i = 0; i < 4 * n; i++) {
        const size_t of_tanh = i / n == 2;
        const double v = (double)x[i % n], want = of_tanh ? tanh(v) : 1 / (1 + exp(-v));
        const double error = ulps((float)a[i], want);
        if (v == v && !(error <= worst[of_tanh])) worst[of_tanh] = error;
        if (y != NULL && i / n % 2 == 0) y[i % n + of_tanh * n] = (float)a[i];
    }
    free(a);
}

/* All floats in steps of 1021 bit patterns, which is no power of two: subnormal numbers, both signs,
   infinity, NaN. */
static void gates_of_all_floats(void)
{
    enum { N = 4099, EDGES = 26 };
    const float edge[EDGES] = { 0, 1e-45f, 1e-38f, 87.4f, 88.8f, 103.9f, 104, 105, 1e30f, 3.4e38f, INFINITY,
                                       -0.0f, -1e-45f, -1e-38f, -87.4f, -88.8f, -103.9f, -104, -105, -1e30f, -3.4e38f,
                                       -INFINITY, NAN, 1, -1, 2 };
    static const qnet_cpu cpus[] = { QNET_CPU_SCALAR, QNET_CPU_AVX2, QNET_CPU_AVX512, QNET_CPU_NEON };
    static float x[N], y[2 * EDGES];
    const float *s = y, *t = y + EDGES;
    size_t k, i, n;
    for (k = 0; k < 4 && !QNET__REAL_IS_DOUBLE; k++) {
        qnet_context *ctx = make_context(NULL, cpus[k]);
        double worst[2] = { 0, 0 };
        uint32_t bits;
        if (ctx == NULL) continue;
        for (bits = 0, n = 0; bits < 0xffffffffu - 1021; bits += 1021) {
            memcpy(&x[n++], &bits, sizeof x[0]);
            if (n == N) gates_of(ctx, n, x, NULL, worst), n = 0;
        }
        gates_of(ctx, EDGES, edge, y, worst);
        CHECK(worst[0] < 2.4);
        CHECK(worst[1] < 2.6);
        if (worst[0] > 2.4 || worst[1] > 2.6) printf("    sigma %g, tanh %g\n", worst[0], worst[1]);
        for (i = 0; i < 11; i++) CHECK(t[11 + i] == -t[i]);
        CHECK(s[10] == 1 && s[21] == 0 && t[10] == 1 && t[21] == -1);
        CHECK(s[22] != s[22] && t[22] != t[22]);
        CHECK(1 / t[11] < 0);
        qnet_context_destroy(ctx);
    }
}

/* One row of units through each kernel set's own loop against libm in double: what vectorising may
   break. 37 units: two full runs and a rest. Units that fall on infinity and NaN keep them. */
static void rows_of_every_kernel(void)
{
    enum { N = 37 };
    static const qnet_cpu cpus[] = { QNET_CPU_SCALAR, QNET_CPU_AVX2, QNET_CPU_AVX512, QNET_CPU_NEON };
    qnet_real pre[4 * N], gates[4 * N], before[N], cell[N], cell_tanh[N], h[N], next[N];
    double worst;
    size_t k, j, q;
    fill_random(pre, 4 * N, 5, 4);
    fill_random(before, N, 6, 1);
    pre[3] = 1000;
    pre[N + 4] = -1000;
    pre[2 * N + 5] = (qnet_real)INFINITY;
    pre[3 * N + 6] = (qnet_real)NAN;
    for (k = 0; k < 4; k++) {
        qnet_context *ctx = make_context(NULL, cpus[k]);
        if (ctx == NULL) continue;
        memcpy(gates, pre, sizeof gates);
        run_row(ctx, N, before, gates, cell, cell_tanh, h, next);
        CHECK(h[6] != h[6] && gates[3 * N + 6] != gates[3 * N + 6]);
        for (j = 0, worst = 0; j < N; j++) {
            double a[4], c;
            if (j == 6) continue;
            for (q = 0; q < 4; q++) {
                double z = (double)pre[q * N + j];
                a[q] = q == 2 ? tanh(z) : 1 / (1 + exp(-z));
                worst = fmax(worst, fabs(a[q] - (double)gates[q * N + j]));
            }
            c = a[1] * (double)before[j] + a[0] * a[2];
            worst = fmax(worst, fabs(c - (double)cell[j]));
            worst = fmax(worst, fabs(tanh(c) - (double)cell_tanh[j]));
            worst = fmax(worst, fabs(a[3] * tanh(c) - (double)h[j]));
            CHECK(next[j] == h[j]);
        }
        CHECK(worst < (QNET__REAL_IS_DOUBLE ? 1e-15 : 5e-7)); /* two roundings of numbers near 1 */
        qnet_context_destroy(ctx);
    }
}

static double loss(void *user)
{
    layer *l = (layer *)user;
    double sum = 0;
    size_t i;
    forward(l, NULL);
    for (i = 0; i < l->outputs; i++) sum += (double)l->y[i] * (double)l->dy[i];
    return sum;
}

static void check_gradient(layer *l, qnet_real *x, const qnet_real *gradient, size_t count)
{
    const gradient_error worst = worst_gradient(loss, l, x, gradient, count, STEP);
    if (!CHECK(worst.error < GRADIENT_ERROR))
        printf("    error %g at %lu: analytic %g, numeric %g\n", worst.error, (unsigned long)worst.at,
               worst.analytic, worst.numeric);
}

static void gradients(void)
{
    static const int length[4] = { 5, 1, 4, 2 };
    layer l = make_layer(make_context(NULL, QNET_CPU_AUTO), 4, 5, 3, 6, length);
    int d;
    loss(&l);
    CHECK_OK(l.ctx, backward(&l, NULL));
    check_gradient(&l, l.x, l.dx, l.inputs);
    for (d = 0; d < 2; d++) {
        check_gradient(&l, l.w[d], l.dw[d], l.nw);
        check_gradient(&l, l.u[d], l.du[d], l.nu);
        check_gradient(&l, l.b[d], l.db[d], l.nb);
    }
    qnet_context_destroy(l.ctx);
    free_layer(&l);
}

/* A scan's outputs and input gradients have the same bits whatever lies in its padding, with more
   steps of padding, and with other scans beside it or none. */
static void padding_and_neighbours(void)
{
    enum { BATCH = 5, STEPS = 6, IN = 19, HIDDEN = 21 };
    static const int length[BATCH] = { 6, 1, 4, 3, 6 };
    qnet_context *ctx = make_context(NULL, QNET_CPU_AUTO);
    layer l = make_layer(ctx, BATCH, STEPS, IN, HIDDEN, length);
    layer p = make_layer(ctx, BATCH, STEPS + 3, IN, HIDDEN, length);
    size_t b, t, i;
    int d, clean = 1;
    CHECK_OK(ctx, forward(&l, NULL));
    CHECK_OK(ctx, backward(&l, NULL));
    for (i = 0; i < p.inputs; i++) p.x[i] = (qnet_real)NAN;
    for (i = 0; i < p.outputs; i++) p.dy[i] = (qnet_real)NAN;
    for (b = 0; b < BATCH; b++) {
        size_t n = (size_t)length[b];
        memcpy(p.x + b * (STEPS + 3) * IN, l.x + b * STEPS * IN, n * IN * sizeof *l.x);
        memcpy(p.dy + b * (STEPS + 3) * 2 * HIDDEN, l.dy + b * STEPS * 2 * HIDDEN, n * 2 * HIDDEN * sizeof *l.x);
    }
    CHECK_OK(ctx, forward(&p, NULL));
    CHECK_OK(ctx, backward(&p, NULL));
    for (b = 0; b < BATCH; b++) {
        const qnet_real *y = p.y + b * (STEPS + 3) * 2 * HIDDEN, *dx = p.dx + b * (STEPS + 3) * IN;
        size_t n = (size_t)length[b];
        layer one;
        CHECK(memcmp(y, l.y + b * STEPS * 2 * HIDDEN, n * 2 * HIDDEN * sizeof *y) == 0);
        CHECK(memcmp(dx, l.dx + b * STEPS * IN, n * IN * sizeof *dx) == 0);
        for (i = n * 2 * HIDDEN; i < (STEPS + 3) * 2 * HIDDEN; i++) clean &= y[i] == 0;
        for (i = n * IN; i < (STEPS + 3) * IN; i++) clean &= dx[i] == 0;
        /* alone, without padding */
        one = make_layer(ctx, 1, length[b], IN, HIDDEN, &length[b]);
        memcpy(one.x, l.x + b * STEPS * IN, n * IN * sizeof *one.x);
        memcpy(one.dy, l.dy + b * STEPS * 2 * HIDDEN, n * 2 * HIDDEN * sizeof *one.x);
        CHECK_OK(ctx, forward(&one, NULL));
        CHECK_OK(ctx, backward(&one, NULL));
        CHECK(TEST_BLAS || memcmp(y, one.y, one.outputs * sizeof *y) == 0); /* a BLAS's bits may follow from m */
        CHECK(TEST_BLAS || memcmp(dx, one.dx, one.inputs * sizeof *dx) == 0);
        for (i = 0; i < one.outputs && TEST_BLAS; i++) CHECK_NEAR(y[i], one.y[i], NEAR);
        for (i = 0; i < one.inputs && TEST_BLAS; i++) CHECK_NEAR(dx[i], one.dx[i], NEAR);
        free_layer(&one);
    }
    CHECK(clean);
    for (t = 0, i = 0; i < p.saved_count; i++) t += p.saved[i] != p.saved[i];
    CHECK(t == 0);
    for (d = 0; d < 2; d++) {
        CHECK(largest_difference(p.dw[d], l.dw[d], l.nw) < NEAR * 10);
        CHECK(largest_difference(p.du[d], l.du[d], l.nu) < NEAR * 10);
        CHECK(memcmp(p.db[d], l.db[d], l.nb * sizeof *l.x) == 0);
    }
    free_layer(&l);
    free_layer(&p);
    qnet_context_destroy(ctx);
}

static void same_bits_for_any_workers(void)
{
    static size_t workers[4] = { 1, 2, 3, 8 };
    static const int length[7] = { 6, 1, 4, 3, 6, 2, 5 };
    layer first, other;
    size_t i, count;
    memset(&first, 0, sizeof first);
    for (i = 0; i < 4; i++) {
        qnet_context *ctx = make_context(&workers[i], QNET_CPU_AUTO);
        other = make_layer(ctx, 7, 6, 40, 70, length);
        CHECK_OK(ctx, forward(&other, NULL));
        CHECK_OK(ctx, backward(&other, NULL));
        count = (size_t)(other.saved - other.block) + other.saved_count;
        if (i == 0) {
            first = other;
        } else {
            CHECK(memcmp(first.block, other.block, count * sizeof *first.block) == 0);
            free_layer(&other);
        }
        qnet_context_destroy(ctx);
    }
    free_layer(&first);
}

static void memory(void)
{
    static const int length[2] = { 3, 2 };
    qnet_context *ctx = make_context(NULL, QNET_CPU_AUTO);
    layer l = make_layer(ctx, 2, 3, 4, 5, length);
    size_t bytes = qnet_lstm_scratch(ctx, &l.shape);
    void *scratch = qnet__alloc(ctx, bytes);
    long before = live_bytes, n;
    qnet_real kept = l.dw[0][0], y = l.y[0];
    int failures = 0;
    for (n = 1; n < 20; n++) { /* fails the n-th allocation until none is left to fail */
        qnet_status status;
        fail_at = allocations + n;
        status = forward(&l, NULL);
        CHECK(live_bytes == before);
        if (status == QNET_OK) break;
        CHECK(status == QNET_ERROR_MEMORY && strstr(qnet_last_error(ctx), "LSTM") != NULL);
        CHECK(l.y[0] == y);
        failures++;
    }
    CHECK(failures == 1); /* one block per call */
    fail_at = allocations + 1;
    CHECK_FAILS(ctx, backward(&l, NULL), QNET_ERROR_MEMORY, "LSTM backward");
    CHECK(l.dw[0][0] == kept && live_bytes == before);
    fail_at = allocations + 1; /* none with scratch */
    CHECK_OK(ctx, forward(&l, scratch));
    CHECK_OK(ctx, backward(&l, scratch));
    CHECK(l.dw[0][0] != kept);
    fail_at = 0;
    CHECK(live_bytes == before);
    /* gradients that are not asked for */
    {
        qnet_lstm_weights w = weights_of(&l);
        qnet_lstm_gradients none;
        qnet_real dx = l.dx[0];
        memset(&none, 0, sizeof none);
        kept = l.dw[0][0];
        CHECK_OK(ctx, qnet_lstm_backward(ctx, &l.shape, length, &w, l.x, l.y, l.saved, l.dy, NULL, &none, scratch));
        CHECK(l.dw[0][0] == kept && l.dx[0] == dx);
    }
    qnet__free(ctx, scratch, bytes);
    free_layer(&l);
    qnet_context_destroy(ctx);
    CHECK(live_bytes == 0);
}

static void bad_input(void)
{
    static const int length[2] = { 3, 2 };
    qnet_context *ctx = make_context(NULL, QNET_CPU_AUTO);
    layer l = make_layer(ctx, 2, 3, 4, 5, length);
    qnet_lstm huge = { 2147483647, 2147483647, 2147483647, 2147483647 };
    qnet_lstm_weights w = weights_of(&l);
    qnet_real y = l.y[0];
    l.length[1] = 0;
    CHECK_FAILS(ctx, forward(&l, NULL), QNET_ERROR_ARGUMENT, "sequence 1: expected 1..3, found 0");
    l.length[1] = 4;
    CHECK_FAILS(ctx, forward(&l, NULL), QNET_ERROR_ARGUMENT, "found 4");
    CHECK_FAILS(ctx, backward(&l, NULL), QNET_ERROR_ARGUMENT, "qnet_lstm_backward");
    l.length[1] = 2;
    l.shape.hidden = 0;
    CHECK_FAILS(ctx, forward(&l, NULL), QNET_ERROR_ARGUMENT, "found 2, 3, 4 and 0");
    CHECK(qnet_lstm_saved(&l.shape) == 0 && qnet_lstm_scratch(ctx, &l.shape) == 0);
    l.shape.hidden = 5;
    l.shape.batch = -1;
    CHECK_FAILS(ctx, forward(&l, NULL), QNET_ERROR_ARGUMENT, "-1");
    l.shape.batch = 2;
    CHECK(qnet_lstm_saved(&huge) == 0 && qnet_lstm_scratch(ctx, &huge) == 0);
    CHECK_FAILS(ctx, qnet_lstm_forward(ctx, &huge, length, &w, l.x, l.y, l.saved, NULL), QNET_ERROR_ARGUMENT, "fit");
    if (SIZE_MAX <= 0xffffffffu) { /* 12 hidden, and 8 in, are 8 and 0 in 32 bits */
        const qnet_lstm wide = { 1, 1, 4, 357913942 }, deep = { 1, 1, 536870912, 4 };
        CHECK(qnet_lstm_saved(&wide) == 0 && qnet_lstm_saved(&deep) == 0);
    }
    w.u[1] = NULL;
    CHECK_FAILS(ctx, qnet_lstm_forward(ctx, &l.shape, length, &w, l.x, l.y, l.saved, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_lstm_forward(ctx, NULL, length, &w, l.x, l.y, l.saved, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(l.y[0] == y);
    /* what has no status does nothing */
    CHECK(qnet_lstm_saved(NULL) == 0 && qnet_lstm_scratch(ctx, NULL) == 0);
    qnet_lstm_cell(4, 0, l.w[0], l.u[0], l.b[0], l.x, l.y, l.y, l.y, l.y, l.saved);
    qnet_lstm_cell(0, 5, l.w[0], l.u[0], l.b[0], l.x, l.y, l.y, l.y, l.y, l.saved);
    qnet_lstm_cell(4, 5, l.w[0], l.u[0], l.b[0], l.x, l.y, NULL, l.y, l.y, l.saved);
    CHECK(l.y[0] == y);
    free_layer(&l);
    qnet_context_destroy(ctx);
}

int main(void)
{
    RUN(cell_against_torch);
    RUN(layer_against_torch);
    RUN(layer_against_its_cells);
    RUN(gates_of_all_floats);
    RUN(rows_of_every_kernel);
    RUN(gradients);
    RUN(padding_and_neighbours);
    RUN(same_bits_for_any_workers);
    RUN(memory);
    RUN(bad_input);
    return test_end();
}
