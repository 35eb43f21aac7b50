/* Room >>conv: every pass in every form against plain loops, PyTorch and central differences. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "quick.h"

/* Relative to the largest number of the result, which may have cancelled: up to 2304 products of
   size 1 are summed with other roundings, each up to 2e-6 when the partial sum has grown to 30. */
#define NEAR (QNET__REAL_IS_DOUBLE ? 3e-14 : 1e-5)
#define GUARD 8 /* bytes behind a block, which must stay as they are */

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

/* A context for these kernels and workers (NULL: default); NULL where the machine lacks them. */
static qnet_context *make_context(qnet_cpu cpu, size_t *workers)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.alloc = counting_alloc;
    hooks.allocator.free = counting_free;
    hooks.cpu = cpu;
    if (workers != NULL) {
        hooks.parallel.user = workers;
        hooks.parallel.run = fake_run;
        hooks.parallel.workers = *workers;
    }
    return qnet_context_create(&hooks, &ctx) == QNET_OK ? ctx : NULL;
}

/* ---- data ---- */

/* sin(start + 0.7 i): the same in the Python that made the golden numbers. Blocks have exactly n
   numbers, so that the address sanitizer sees any read beyond them. */
static qnet_real *wave(double start, size_t n)
{
    qnet_real *p = (qnet_real *)malloc(n * sizeof *p);
    size_t i;
    if (p == NULL) exit(2);
    for (i = 0; i < n; i++) p[i] = (qnet_real)sin(start + .7 * (double)i);
    return p;
}

/* Independent numbers, nearly normal. */
static qnet_real *normals(uint64_t seed, size_t n)
{
    qnet_real *p = (qnet_real *)malloc(n * sizeof *p);
    uint64_t state = seed << 32;
    size_t i;
    if (p == NULL) exit(2);
    for (i = 0; i < n; i++) p[i] = (qnet_real)quick_normal(&state);
    return p;
}

/* Largest difference over largest number (at least 1); infinite where there is a NaN. */
static double relative_error(const qnet_real *a, const qnet_real *b, size_t n)
{
    double worst = 0, largest = 1;
    size_t i;
    for (i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
        if (fabs((double)b[i]) > largest) largest = fabs((double)b[i]);
        if (d != d) return HUGE_VAL;
    }
    return worst / largest;
}

typedef struct layer {
    qnet_conv2d shape;
    size_t nx, nw, ny;
    qnet_real *x, *w, *dy, *y, *dx, *dw; /* dy is the gradient given, y, dx, dw are results */
} layer;

static layer make_layer(qnet_conv2d s)
{
    layer l;
    l.shape = s;
    l.nx = (size_t)s.batch * (size_t)s.height * (size_t)s.width * (size_t)s.in_channels;
    l.nw = (size_t)s.kernel * (size_t)s.kernel * (size_t)s.in_channels * (size_t)s.out_channels;
    l.ny = (size_t)s.batch * (size_t)qnet_conv2d_out_height(&s) * (size_t)qnet_conv2d_out_width(&s) *
           (size_t)s.out_channels;
    /* The sums of a wave cancel out: where kernels add up in another order, as in Winograd's form, numbers that do
       not. Where a change turns that form off, the errors of the direct sum look larger than allowed, but are not. */
    if (qnet__winograd_side(&s, 1) > 0) {
        l.x = normals(1, l.nx), l.w = normals(2, l.nw), l.dy = normals(3, l.ny);
    } else {
        l.x = wave(1, l.nx), l.w = wave(2, l.nw), l.dy = wave(3, l.ny);
    }
    l.y = wave(4, l.ny), l.dx = wave(5, l.nx), l.dw = wave(6, l.nw);
    return l;
}

static void free_results(layer *l)
{
    free(l->y), free(l->dx), free(l->dw);
}

static void free_layer(layer *l)
{
    free(l->x), free(l->w), free(l->dy);
    free_results(l);
}

static void clear_results(layer *l)
{
    memset(l->y, 255, l->ny * sizeof *l->y); /* NaN */
    memset(l->dx, 255, l->nx * sizeof *l->dx);
    memset(l->dw, 255, l->nw * sizeof *l->dw);
}

/* The same numbers given, and room for results of its own. */
static layer more_results(const layer *l)
{
    layer r = *l;
    r.y = (qnet_real *)malloc(l->ny * sizeof *r.y);
    r.dx = (qnet_real *)malloc(l->nx * sizeof *r.dx);
    r.dw = (qnet_real *)malloc(l->nw * sizeof *r.dw);
    if (r.y == NULL || r.dx == NULL || r.dw == NULL) exit(2);
    clear_results(&r);
    return r;
}

/* The plain loops alone have no tiles, panels and schedules to be reached by a large shape. In double precision the
   schedules are those of float, at half the speed: the largest shapes are left to float. */
static int of_use(const qnet_conv2d *s)
{
    const double products = (double)qnet__conv_out_pixels(s) * s->kernel * s->kernel * s->in_channels * s->out_channels;
    return products < (QNET__REFERENCE_ONLY ? 1e7 : QNET__REAL_IS_DOUBLE ? 1.6e8 : 1e30);
}

/* ---- the equation and its derivatives as plain loops ---- */

/* The offset in x of channel 0 of the pixel under tap (ky, kx) of output pixel p, or -1 outside. */
static ptrdiff_t pixel_under(const qnet_conv2d *s, ptrdiff_t p, int ky, int kx)
{
    const ptrdiff_t out_h = qnet_conv2d_out_height(s), out_w = qnet_conv2d_out_width(s);
    const ptrdiff_t ox = p % out_w, oy = p / out_w % out_h, n = p / out_w / out_h;
    const ptrdiff_t y = oy * s->stride + ky - s->padding, x = ox * s->stride + kx - s->padding;
    if (y < 0 || y >= s->height || x < 0 || x >= s->width)
        return -1;
    return ((n * s->height + y) * s->width + x) * s->in_channels;
}

/* y += a x. */
static void add_scaled(qnet_real *y, qnet_real a, const qnet_real *x, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) y[i] += a * x[i];
}

/* y, dx and dw:
     y[p][co]            += x[at + ci] * w[ky][kx][ci][co], so
     dx[at + ci]         += dy[p][co]  * w[ky][kx][ci][co] and
     dw[ky][kx][ci][co]  += dy[p][co]  * x[at + ci]. */
static void reference(layer *l)
{
    const qnet_conv2d *s = &l->shape;
    const ptrdiff_t pixels = (ptrdiff_t)qnet__conv_out_pixels(s), taps = (ptrdiff_t)s->kernel * s->kernel;
    const ptrdiff_t in = s->in_channels, out = s->out_channels;
    qnet_real *turned = (qnet_real *)malloc(l->nw * sizeof *turned); /* [tap][co][ci]: quicker for dx */
    ptrdiff_t p, tap, ci, co;
    if (turned == NULL) exit(2);
    for (tap = 0; tap < taps; tap++)
        for (ci = 0; ci < in; ci++)
            for (co = 0; co < out; co++)
                turned[(tap * out + co) * in + ci] = l->w[(tap * in + ci) * out + co];
    memset(l->y, 0, l->ny * sizeof *l->y);
    memset(l->dx, 0, l->nx * sizeof *l->dx);
    memset(l->dw, 0, l->nw * sizeof *l->dw);
    for (p = 0; p < pixels; p++)
        for (tap = 0; tap < taps; tap++) {
            const ptrdiff_t at = pixel_under(s, p, (int)(tap / s->kernel), (int)(tap % s->kernel));
            if (at < 0) continue;
            for (ci = 0; ci < in; ci++)
                add_scaled(l->y + p * out, l->x[at + ci], l->w + (tap * in + ci) * out, out);
            for (co = 0; co < out; co++)
                add_scaled(l->dx + at, l->dy[p * out + co], turned + (tap * out + co) * in, in);
            for (ci = 0; ci < in; ci++)
                add_scaled(l->dw + (tap * in + ci) * out, l->x[at + ci], l->dy + p * out, out);
        }
    free(turned);
}

static void run_layer(qnet_context *ctx, layer *l, void *scratch)
{
    CHECK_OK(ctx, qnet_conv2d_forward(ctx, &l->shape, l->x, l->w, l->y, scratch));
    CHECK_OK(ctx, qnet_conv2d_backward(ctx, &l->shape, l->x, l->w, l->dy, l->dx, l->dw, scratch));
}

/* So many channels that du is not made as a whole (the schedule by square), nor u with few workers, also
   with axes of 2 pixels. */
#define LARGE_KERNELS {5, 7, 7, 320, 384, 3, 1, 1}, {20, 2, 2, 704, 704, 3, 1, 1}

/* The same at stride 2, with 4 tiles in each image, and more than a round of v has. */
#define LARGE_KERNELS_2 {43, 13, 15, 192, 384, 3, 2, 1}

/* A context for each kind of kernels that this machine has. */
static qnet_context *kinds[QNET_CPU_NEON + 1];
static int kinds_count;

/* All kinds of kernels against one reference. */
static void check_against_reference(qnet_conv2d s)
{
    layer l = make_layer(s), r = more_results(&l);
    reference(&r);
    for (int k = 0; k < kinds_count; k++) {
        qnet_context *ctx = kinds[k];
        double errors[3];
        clear_results(&l);
        run_layer(ctx, &l, NULL);
        errors[0] = relative_error(l.y, r.y, l.ny);
        errors[1] = relative_error(l.dx, r.dx, l.nx);
        errors[2] = relative_error(l.dw, r.dw, l.nw);
        if (!CHECK(errors[0] <= NEAR && errors[1] <= NEAR && errors[2] <= NEAR))
            printf("    %s: batch %d, %dx%dx%d to %d, kernel %d, stride %d, padding %d: forward %g, data %g, "
                   "weights %g\n", qnet_cpu_name(qnet_context_cpu(ctx)), s.batch, s.height, s.width,
                   s.in_channels, s.out_channels, s.kernel, s.stride, s.padding, errors[0], errors[1],
                   errors[2]);
    }
    free_results(&r);
    free_layer(&l);
}

/* The passes that Winograd's form has, all three at stride 1 and forward at stride 2, with tiles of 4 or
   2 (and what is left over), on any map. */
static void check_tiles(qnet_conv2d s, int side)
{
    layer l = make_layer(s), r = more_results(&l);
    reference(&r);
    for (int k = 0; k < kinds_count; k++) {
        qnet_context *ctx = kinds[k];
        if (qnet__isa_of(ctx)->winograd == NULL) continue;
        const qnet__prologue x = qnet__prologue_plain(l.x), dy = qnet__prologue_plain(l.dy);
        qnet__epilogue y = qnet__epilogue_plain(l.y), dx = qnet__epilogue_plain(l.dx);
        void *scratch = qnet__default_alloc(NULL, qnet__winograd_scratch(ctx, &s, side, 1), 64);
        if (scratch == NULL) exit(2);
        qnet__winograd_conv(ctx, &s, side, 0, &x, l.w, NULL, &y, scratch);
        CHECK(relative_error(l.y, r.y, l.ny) <= NEAR);
        if (s.stride == 1) {
            qnet__winograd_conv(ctx, &s, side, 1, &dy, l.w, NULL, &dx, scratch);
            qnet__winograd_weights(ctx, &s, side, &x, &dy, NULL, l.dw, scratch);
            CHECK(relative_error(l.dx, r.dx, l.nx) <= NEAR);
            CHECK(relative_error(l.dw, r.dw, l.nw) <= NEAR);
        }
        qnet__default_free(NULL, scratch, 0);
    }
    free_results(&r);
    free_layer(&l);
}

static qnet_conv2d make_shape(int batch, int height, int width, int in, int out, int kernel, int stride,
                              int padding)
{
    qnet_conv2d s;
    s.batch = batch, s.height = height, s.width = width, s.in_channels = in, s.out_channels = out;
    s.kernel = kernel, s.stride = stride, s.padding = padding;
    return s;
}

/* ---- tests ---- */

/* Made by torch.nn.functional.conv2d in double precision: x, w, dy = sin(start + .7 i) in our
   layouts with start 1, 2, 3; the sum of t[i] cos(.3 i) and the last number of y, dx and dw. */
static void test_reference_against_torch(void)
{
    static const struct {
        qnet_conv2d s;
        double y_sum, y_last, dx_sum, dx_last, dw_sum, dw_last;
    } golden[] = {
        {{2, 9, 8, 3, 5, 3, 2, 1}, -0.791839816604178, -0.0122748200622782, -4.09210714577355,
         -2.3948963634448, -3.78134753673614, 1.4128030667446},
        {{1, 7, 10, 4, 6, 7, 2, 3}, -6.09851537501219, -0.354520472118596, 3.61492510194952,
         7.23614279734826, 1.33196185222745, -0.171210766020903},
        {{2, 6, 5, 2, 3, 1, 2, 0}, 0.210861122351405, -0.905585053811562, 8.7487913807558, 0,
         3.90974522409223, -0.504828326263894},
    };
    /* 700 numbers up to 10, each good to a few units of 6e-8 (1e-16), are summed here. */
    const double near_sum = QNET__REAL_IS_DOUBLE ? 1e-11 : 2e-3, near_one = near_sum / 100;
    size_t i, j;
    for (i = 0; i < sizeof golden / sizeof *golden; i++) {
        layer l = make_layer(golden[i].s);
        double y = 0, dx = 0, dw = 0;
        reference(&l);
        for (j = 0; j < l.ny; j++) y += (double)l.y[j] * cos(.3 * (double)j);
        for (j = 0; j < l.nx; j++) dx += (double)l.dx[j] * cos(.3 * (double)j);
        for (j = 0; j < l.nw; j++) dw += (double)l.dw[j] * cos(.3 * (double)j);
        CHECK_NEAR(y, golden[i].y_sum, near_sum);
        CHECK_NEAR(l.y[l.ny - 1], golden[i].y_last, near_one);
        CHECK_NEAR(dx, golden[i].dx_sum, near_sum);
        CHECK_NEAR(l.dx[l.nx - 1], golden[i].dx_last, near_one);
        CHECK_NEAR(dw, golden[i].dw_sum, near_sum);
        CHECK_NEAR(l.dw[l.nw - 1], golden[i].dw_last, near_one);
        free_layer(&l);
    }
}

/* Every kernel size, stride and padding on a small map, and shapes that reach every branch: edges of
   tiles, several panels, bands, chunks and groups, kernels beyond one pass, maps below the kernel. */
static void test_against_reference(void)
{
    static const qnet_conv2d shapes[] = {
        {2, 9, 11, 5, 7, 3, 1, 1},   {1, 8, 8, 16, 32, 1, 2, 0},    {2, 15, 13, 3, 40, 7, 2, 3},
        {2, 5, 6, 64, 64, 3, 1, 1},  {1, 4, 4, 33, 65, 3, 2, 1},    {3, 7, 7, 20, 8, 5, 3, 4},
        {1, 1, 1, 1, 1, 1, 1, 0},    {1, 30, 3, 70, 33, 3, 1, 1},   {1, 40, 70, 3, 16, 7, 2, 3},
        {2, 14, 14, 130, 96, 3, 1, 1}, {40, 1, 1, 9, 12, 3, 1, 1},  {3, 1, 90, 6, 6, 3, 2, 1},
        {1, 90, 1, 7, 70, 2, 1, 1},  {2, 10, 9, 8, 8, 7, 1, 3},     {1, 12, 12, 2, 4, 9, 2, 4},
        {1, 6, 6, 4, 4, 3, 5, 0},    {2, 3, 3, 4, 5, 2, 4, 7},      {1, 2, 2, 12, 12, 6, 1, 3},
        {1, 6, 6, 256, 40, 3, 1, 1}, {1, 33, 33, 64, 64, 3, 2, 1},  {5, 7, 7, 512, 64, 1, 2, 0},
        /* Winograd: ragged maps, few tiles and many, more channels in than out and the reverse */
        {16, 3, 4, 64, 64, 3, 1, 1}, {4, 7, 6, 64, 128, 3, 1, 1},    {3, 14, 15, 192, 64, 3, 1, 1},
        {2, 97, 65, 64, 64, 3, 1, 1}, {1, 13, 300, 64, 64, 3, 1, 1},
        /* tiles of 3 and 2 outputs along an axis, and of 2 only */
        {2, 5, 33, 64, 64, 3, 1, 1}, {3, 35, 5, 128, 64, 3, 1, 1}, {4, 2, 16, 64, 64, 3, 1, 1},
        /* axes of 2 pixels */
        {3, 35, 2, 64, 128, 3, 1, 1}, {20, 2, 2, 128, 64, 3, 1, 1}, {16, 2, 3, 64, 64, 3, 1, 1},
        /* Winograd at stride 2 */
        {3, 56, 49, 64, 128, 3, 2, 1}, {9, 27, 25, 128, 64, 3, 2, 1}, {128, 7, 8, 64, 64, 3, 2, 1},
        LARGE_KERNELS, LARGE_KERNELS_2,
    };
    int cpu, kernel, stride, padding;
    size_t i;
    kinds_count = 0;
    for (cpu = QNET_CPU_SCALAR; cpu <= QNET_CPU_NEON; cpu++)
        if ((kinds[kinds_count] = make_context((qnet_cpu)cpu, NULL)) != NULL) kinds_count++;
    for (kernel = 1; kernel <= 7; kernel++)
        for (stride = 1; stride <= 3; stride++)
            for (padding = 0; padding <= kernel; padding++) {
                check_against_reference(make_shape(2, 7, 8, 3, 5, kernel, stride, padding));
                check_against_reference(make_shape(1, 8, 7, 17, 9, kernel, stride, padding));
            }
    for (i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (of_use(&shapes[i])) check_against_reference(shapes[i]);
    for (i = 1; i < 12; i++) check_tiles(make_shape(2, (int)i, 9 - (int)i / 2, 64, 128, 3, 1, 1), 2);
    for (i = 1; i < 16; i++) { /* stride 2, outputs of 1 to 8 */
        check_tiles(make_shape(2, (int)i, 17 - (int)i, 64, 128, 3, 2, 1), 4);
        check_tiles(make_shape(2, (int)i, 14 - (int)i % 8, 128, 64, 3, 2, 1), 2);
    }
    while (kinds_count > 0) qnet_context_destroy(kinds[--kinds_count]);
    CHECK(live_bytes == 0);
}

/* The loss sum(y * dy) is linear in x and in w, so central differences with a large step are exact
   up to rounding. */
static layer *loss_layer;
static qnet_context *loss_ctx;
static double loss(void *user)
{
    double sum = 0;
    size_t i;
    (void)user;
    qnet_conv2d_forward(loss_ctx, &loss_layer->shape, loss_layer->x, loss_layer->w, loss_layer->y, NULL);
    for (i = 0; i < loss_layer->ny; i++) sum += (double)loss_layer->y[i] * (double)loss_layer->dy[i];
    return sum;
}

static void test_gradients(void)
{
    static const qnet_conv2d shapes[] = {
        {2, 6, 5, 3, 4, 3, 1, 1}, {1, 7, 8, 9, 5, 3, 2, 1}, {1, 9, 9, 3, 4, 7, 2, 3}, {2, 5, 5, 4, 3, 1, 2, 0},
        {4, 7, 8, 64, 64, 3, 1, 1}};
    const double most = QNET__REAL_IS_DOUBLE ? 1e-7 : 2e-2; /* float: rounding of the loss over the step */
    size_t i;
    loss_ctx = make_context(QNET_CPU_AUTO, NULL);
    for (i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (!of_use(&shapes[i])) continue;
        layer l = make_layer(shapes[i]);
        double gradient, sum, plus;
        size_t at;
        loss_layer = &l;
        run_layer(loss_ctx, &l, NULL);
        for (at = 0; at < l.nx + l.nw; at += 1 + l.nx / 40) {
            qnet_real *value = at < l.nx ? &l.x[at] : &l.w[at - l.nx], old = *value;
            gradient = (double)(at < l.nx ? l.dx[at] : l.dw[at - l.nx]);
            *value = old + 1;
            plus = loss(NULL);
            *value = old - 1;
            sum = (plus - loss(NULL)) / ((double)(qnet_real)(old + 1) - (double)(qnet_real)(old - 1));
            *value = old;
            CHECK_NEAR(gradient, sum, most);
        }
        free_layer(&l);
    }
    qnet_context_destroy(loss_ctx);
}

/* Root mean square of a - exact over that of exact. */
static double rms_error(const qnet_real *a, const double *exact, size_t n)
{
    double sum = 0, size = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        double d = (double)a[i] - exact[i];
        sum += d * d;
        size += exact[i] * exact[i];
    }
    return sqrt(sum / size);
}

/* The stated bound: rounding errors of Winograd's form, measured against sums in double, are at most
   2.5 times those of the direct sum, the reference. (The fast direct form adds up in shorter chains, and
   is more exact than its reference.) */
static void test_winograd_error(void)
{
    static const qnet_conv2d shapes[] = {{1, 28, 28, 64, 64, 3, 1, 1}, {4, 7, 7, 512, 64, 3, 1, 1},
                                         {64, 2, 2, 128, 128, 3, 1, 1}, {11, 28, 28, 128, 64, 3, 2, 1}};
    qnet_context *ctx = make_context(QNET_CPU_AUTO, NULL);
    size_t i;
    for (i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const qnet_conv2d s = shapes[i];
        if (!of_use(&s)) continue;
        layer l = make_layer(s), d = more_results(&l);
        double *y = (double *)calloc(l.ny, sizeof *y), *dx = (double *)calloc(l.nx, sizeof *dx);
        double *dw = (double *)calloc(l.nw, sizeof *dw), winograd[3], direct[3];
        ptrdiff_t p, at;
        int k, ci, co;
        if (y == NULL || dx == NULL || dw == NULL) exit(2);
        for (p = 0; p < (ptrdiff_t)qnet__conv_out_pixels(&s); p++)
            for (k = 0; k < 9; k++) {
                at = pixel_under(&s, p, k / 3, k % 3);
                for (ci = 0; at >= 0 && ci < s.in_channels; ci++)
                    for (co = 0; co < s.out_channels; co++) {
                        const size_t iw = ((size_t)k * (size_t)s.in_channels + (size_t)ci) *
                                              (size_t)s.out_channels + (size_t)co;
                        const double w = (double)l.w[iw], x = (double)l.x[at + ci];
                        const double g = (double)l.dy[p * s.out_channels + co];
                        y[p * s.out_channels + co] += x * w;
                        dx[at + ci] += g * w;
                        dw[iw] += x * g;
                    }
            }
        CHECK(QNET__REFERENCE_ONLY || qnet__isa_of(ctx)->winograd == NULL ||
              strcmp(qnet_conv2d_algorithm(ctx, &s), TEST_BLAS ? "BLAS" : "Winograd") == 0);
        run_layer(ctx, &l, NULL);
        reference(&d);
        winograd[0] = rms_error(l.y, y, l.ny), direct[0] = rms_error(d.y, y, l.ny);
        winograd[1] = rms_error(l.dx, dx, l.nx), direct[1] = rms_error(d.dx, dx, l.nx);
        winograd[2] = rms_error(l.dw, dw, l.nw), direct[2] = rms_error(d.dw, dw, l.nw);
        for (k = 0; k < 3; k++)
            if (!CHECK(QNET__REAL_IS_DOUBLE || winograd[k] <= 2.5 * direct[k]))
                printf("    shape %lu, pass %d: %g, direct %g\n", (unsigned long)i, k, winograd[k],
                       direct[k]);
        printf("winograd/direct rms, %d channels: forward %.2g/%.2g, data %.2g/%.2g, weights "
               "%.2g/%.2g\n", s.in_channels, winograd[0], direct[0], winograd[1], direct[1],
               winograd[2], direct[2]);
        free(y), free(dx), free(dw);
        free_results(&d);
        free_layer(&l);
    }
    qnet_context_destroy(ctx);
}

/* dw from a gradient that is worked out as it is read, over one of its own maps: in slabs, and in
   parts, as the shapes are meant to be cut; u in slabs, and as a whole. */
static void test_weights_from_a_source(void)
{
    static const qnet_conv2d stride_2 = LARGE_KERNELS_2;
    static const qnet_conv2d shapes[] = {{10, 5, 7, 64, 2240, 3, 1, 1}, {200, 9, 8, 64, 64, 3, 1, 1}};
    size_t workers = 1, i;
    qnet_context *ctx = make_context(QNET_CPU_AUTO, &workers);
    const qnet__isa *isa = qnet__isa_of(ctx);
    if (isa->winograd != NULL && !QNET__REFERENCE_ONLY) {
        qnet__arena arena = {NULL, 0};
        qnet__winograd p;
        CHECK(qnet__winograd_side(&stride_2, 0) == 4);
        qnet__winograd_geometry(&p, isa, &stride_2, 4, 0);
        qnet__winograd_plan(&p, &arena, 1, 0);
        CHECK(p.slab < p.dst_c && p.tiles == 172);
    }
    for (i = 0; i < 2 && isa->winograd != NULL; i++) {
        const qnet_conv2d s = shapes[i];
        const size_t channels = (size_t)s.out_channels, bytes = qnet__winograd_scratch(ctx, &s, 4, 1);
        layer l = make_layer(s);
        const qnet__prologue x = qnet__prologue_plain(l.x);
        qnet__prologue dy = qnet__prologue_plain(l.dy), plain = qnet__prologue_plain(l.y);
        qnet__epilogue made = qnet__epilogue_plain(l.y);
        qnet_real *pre = normals(9, l.ny), *vector = normals(10, 4 * channels);
        qnet_real *dw = wave(11, l.nw);
        qnet__arena arena = {NULL, 0};
        void *scratch = qnet__default_alloc(NULL, bytes, 64);
        qnet__winograd p;
        if (scratch == NULL) exit(2);
        qnet__winograd_geometry(&p, isa, &s, 4, 0);
        qnet__winograd_plan_weights(&p, &arena, 1);
        CHECK(QNET__REFERENCE_ONLY || (i == 0 ? p.schedule == QNET__WINOGRAD_BY_SQUARE && p.slab < p.dst_c
                                               : p.parts > 1));
        qnet__winograd_plan(&p, &arena, 1, 0);
        CHECK(QNET__REFERENCE_ONLY || (p.slab < p.dst_c) == (i == 0));
        dy.kind = QNET__PROLOGUE_GRADIENT, dy.pre = pre;
        dy.mean = vector, dy.scale = vector + channels;
        dy.shift = vector + 2 * channels, dy.slope = vector + 3 * channels;
        qnet__pass(ctx, &dy, &made, l.ny / channels, channels);
        qnet__winograd_weights(ctx, &s, 4, &x, &plain, NULL, dw, scratch);
        qnet__winograd_weights(ctx, &s, 4, &x, &dy, pre, l.dw, scratch);
        CHECK(relative_error(l.dw, dw, l.nw) <= NEAR);
        CHECK(relative_error(pre, l.y, l.ny) <= NEAR);
        qnet__default_free(NULL, scratch, bytes);
        free(pre), free(vector), free(dw);
        free_layer(&l);
    }
    qnet_context_destroy(ctx);
}

/* The forward pass with kernels that were packed before, as inference has them: the same bits, from as much
   scratch as inference has. */
static void check_packed(qnet_context *ctx, const layer *l)
{
    const qnet__conv_algorithm algorithm = qnet__conv_pick(ctx, &l->shape, 0);
    const size_t bytes = qnet__conv_scratch(ctx, algorithm, &l->shape, 0);
    const size_t numbers = qnet__conv_pack(ctx, algorithm, &l->shape, NULL, NULL);
    const qnet__prologue from = qnet__prologue_plain(l->x);
    qnet_real *packed = (qnet_real *)qnet__default_alloc(NULL, (numbers + 1) * sizeof *packed, 64);
    qnet_real *y = (qnet_real *)qnet__default_alloc(NULL, l->ny * sizeof *y, 64);
    void *scratch = qnet__default_alloc(NULL, bytes + 1, 64);
    qnet__epilogue to = qnet__epilogue_plain(y);
    if (packed == NULL || y == NULL || scratch == NULL) exit(2);
    qnet__conv_pack(ctx, algorithm, &l->shape, l->w, packed);
    memset(y, 255, l->ny * sizeof *y);
    CHECK_OK(ctx, qnet__conv_map(ctx, algorithm, &l->shape, 0, 0, &from, l->w, numbers ? packed : NULL, &to, NULL,
                                 scratch));
    CHECK(memcmp(y, l->y, l->ny * sizeof *y) == 0);
    qnet__default_free(NULL, scratch, 0);
    qnet__default_free(NULL, y, 0);
    qnet__default_free(NULL, packed, 0);
}

static void test_workers(void)
{
    static const size_t counts[] = {1, 2, 3, 8};
    static const qnet_conv2d shapes[] = {
        {3, 20, 30, 24, 40, 3, 1, 1}, {2, 33, 40, 3, 64, 7, 2, 3}, {4, 14, 14, 64, 128, 3, 2, 1},
        {7, 14, 13, 64, 128, 3, 1, 1}, {4, 97, 65, 64, 64, 3, 1, 1}, {20, 2, 2, 64, 128, 3, 1, 1},
        {20, 14, 13, 128, 64, 3, 2, 1}, {4, 97, 65, 64, 128, 3, 2, 1},
        LARGE_KERNELS, LARGE_KERNELS_2, {100, 4, 4, 320, 384, 3, 1, 1}, {64, 7, 7, 512, 512, 3, 1, 1} /* blocks */};
    size_t i, j;
    for (j = 0; j < sizeof shapes / sizeof *shapes; j++) {
        if (!of_use(&shapes[j])) continue;
        layer first = make_layer(shapes[j]), l = more_results(&first);
        for (i = 0; i < 4; i++) {
            size_t workers = counts[i];
            qnet_context *ctx = make_context(QNET_CPU_AUTO, &workers);
            clear_results(&l);
            run_layer(ctx, i == 0 ? &first : &l, NULL);
            if (i != 0) {
                CHECK(memcmp(first.y, l.y, l.ny * sizeof *l.y) == 0);
                CHECK(memcmp(first.dx, l.dx, l.nx * sizeof *l.x) == 0);
                CHECK(memcmp(first.dw, l.dw, l.nw * sizeof *l.w) == 0);
            }
            check_packed(ctx, &first);
            qnet_context_destroy(ctx);
        }
        free_results(&l);
        free_layer(&first);
    }
}

/* An image of zeros has the same bits alone and in a batch: -0 is not 0 for memcmp. */
static void test_zeros_in_a_batch(void)
{
    const qnet_conv2d one = {1, 4, 4, 64, 48, 3, 1, 1}, many = {64, 4, 4, 64, 48, 3, 1, 1};
    const size_t tap = (size_t)64 * 48;
    int cpu;
    for (cpu = QNET_CPU_SCALAR; cpu <= QNET_CPU_NEON; cpu++) {
        qnet_context *ctx = make_context((qnet_cpu)cpu, NULL);
        layer a, b;
        size_t i;
        if (ctx == NULL) continue;
        a = make_layer(one), b = make_layer(many);
        memset(a.x, 0, a.nx * sizeof *a.x);
        memset(b.x, 0, b.nx * sizeof *b.x);
        for (i = 0; i < a.nw; i++) a.w[i] = b.w[i] = i / tap == 8 ? (qnet_real)1 : (qnet_real)-1;
        run_layer(ctx, &a, NULL);
        run_layer(ctx, &b, NULL);
        CHECK(memcmp(a.y, b.y, a.ny * sizeof *a.y) == 0);
        free_layer(&a);
        free_layer(&b);
        qnet_context_destroy(ctx);
    }
}

/* The stated scratch is enough, nothing is written behind it, nothing else is allocated, and dx may
   be left out. */
static void test_scratch(void)
{
    static const qnet_conv2d shapes[] = {
        {2, 20, 18, 24, 40, 3, 1, 1}, {2, 33, 20, 3, 64, 7, 2, 3}, {1, 9, 9, 64, 128, 1, 2, 0},
        {3, 14, 13, 64, 128, 3, 1, 1}, {4, 90, 65, 64, 64, 3, 1, 1}, {20, 2, 2, 64, 128, 3, 1, 1},
        {20, 14, 13, 128, 64, 3, 2, 1}, {4, 97, 65, 64, 128, 3, 2, 1},
        LARGE_KERNELS, LARGE_KERNELS_2};
    qnet_context *ctx = make_context(QNET_CPU_AUTO, NULL);
    size_t i, j;
    for (i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (!of_use(&shapes[i])) continue;
        const size_t bytes = qnet_conv2d_scratch(ctx, &shapes[i]);
        unsigned char *scratch = (unsigned char *)qnet__default_alloc(NULL, bytes + GUARD, 64);
        layer l = make_layer(shapes[i]), without = more_results(&l);
        run_layer(ctx, &without, NULL); /* test_against_reference */
        const long before = allocations;
        if (scratch == NULL) exit(2);
        memset(scratch, 0xff, bytes + GUARD); /* all NaN: what is read must have been written */
        run_layer(ctx, &l, scratch);
        CHECK(memcmp(l.y, without.y, l.ny * sizeof *l.y) == 0);
        CHECK(memcmp(l.dx, without.dx, l.nx * sizeof *l.dx) == 0);
        CHECK(memcmp(l.dw, without.dw, l.nw * sizeof *l.dw) == 0);
        CHECK_OK(ctx, qnet_conv2d_backward(ctx, &shapes[i], without.x, without.w, without.dy, NULL,
                                           without.dw, scratch));
        CHECK(memcmp(l.dw, without.dw, l.nw * sizeof *l.dw) == 0);
        CHECK_OK(ctx, qnet_conv2d_backward(ctx, &shapes[i], NULL, without.w, without.dy, without.dx,
                                           NULL, scratch));
        CHECK(memcmp(l.dx, without.dx, l.nx * sizeof *l.dx) == 0);
        for (j = 0; j < GUARD; j++) CHECK(scratch[bytes + j] == 0xff);
        CHECK(allocations == before);
        qnet__default_free(NULL, scratch, bytes + GUARD);
        free_results(&without);
        free_layer(&l);
    }
    /* A row of x times the stride is 2^33 bytes: 0 in 32 bits. */
    const qnet_conv2d wide = make_shape(1, 1, 4096, 4096, 64, 1, 128, 0);
    CHECK(qnet_conv2d_scratch(ctx, &wide) > 0);
    qnet_context_destroy(ctx);
}

static void test_output_size(void)
{
    qnet_conv2d s = make_shape(1, 224, 225, 3, 64, 7, 2, 3);
    CHECK(qnet_conv2d_out_height(&s) == 112 && qnet_conv2d_out_width(&s) == 113);
    s.padding = 0;
    CHECK(qnet_conv2d_out_height(&s) == 109 && qnet_conv2d_out_width(&s) == 110);
    s.height = 6;
    CHECK(qnet_conv2d_out_height(&s) == 0);
    s.height = INT_MAX, s.padding = INT_MAX, s.kernel = s.stride = 1;
    CHECK(qnet_conv2d_out_height(&s) == 0); /* more than an int holds */
}

static void test_bad_input(void)
{
    qnet_context *ctx = make_context(QNET_CPU_AUTO, NULL);
    qnet_conv2d good = make_shape(1, 3, 3, 1, 1, 3, 1, 1), s;
    qnet_real x[9] = {0}, w[9] = {0}, y[9] = {7, 7, 7, 7, 7, 7, 7, 7, 7};
    int field, i;
    CHECK(qnet_conv2d_forward(NULL, &good, x, w, y, NULL) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_conv2d_forward(ctx, NULL, x, w, y, NULL), QNET_ERROR_ARGUMENT, "shape");
    CHECK_FAILS(ctx, qnet_conv2d_forward(ctx, &good, NULL, w, y, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_conv2d_forward(ctx, &good, x, NULL, y, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_conv2d_forward(ctx, &good, x, w, NULL, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_conv2d_backward(ctx, &good, NULL, w, x, y, y, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_conv2d_backward(ctx, &good, x, NULL, x, y, y, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_conv2d_backward(ctx, &good, x, w, NULL, y, y, NULL), QNET_ERROR_ARGUMENT, "NULL");
    for (field = 0; field < 8; field++) {
        for (i = 0; i < 3; i++) {
            static const int bad[3] = {0, -1, INT_MIN};
            int *fields[8];
            s = good;
            fields[0] = &s.batch, fields[1] = &s.height, fields[2] = &s.width, fields[3] = &s.in_channels;
            fields[4] = &s.out_channels, fields[5] = &s.kernel, fields[6] = &s.stride;
            fields[7] = &s.padding;
            if (field == 7 && i == 0) continue; /* no padding is fine */
            *fields[field] = bad[i];
            CHECK_FAILS(ctx, qnet_conv2d_forward(ctx, &s, x, w, y, NULL), QNET_ERROR_ARGUMENT,
                        "conv2d forward: batch");
            CHECK_FAILS(ctx, qnet_conv2d_backward(ctx, &s, x, w, x, y, y, NULL), QNET_ERROR_ARGUMENT,
                        "conv2d backward: batch");
            CHECK(qnet_conv2d_scratch(ctx, &s) == 0);
        }
    }
    s = make_shape(1, 2, 2, 1, 1, 3, 1, 0); /* no output pixel */
    CHECK_FAILS(ctx, qnet_conv2d_forward(ctx, &s, x, w, y, NULL), QNET_ERROR_ARGUMENT, "height 2");
    CHECK(qnet_conv2d_scratch(ctx, NULL) == 0 && strcmp(qnet_conv2d_algorithm(ctx, NULL), "none") == 0);
    /* a map that can be counted in bytes, while 9 products for each pixel cannot */
    s = make_shape(1, INT_MAX, 1 << 30, 1, 1, 3, 1, 1);
    CHECK(QNET__REFERENCE_ONLY || TEST_BLAS || QNET__REAL_IS_DOUBLE || sizeof(size_t) < 8 ||
          strcmp(qnet_conv2d_algorithm(ctx, &s), "direct") == 0);
    s = make_shape(INT_MAX, INT_MAX, INT_MAX, 1, 1, 1, 1, 0); /* bytes beyond a size_t */
    CHECK_FAILS(ctx, qnet_conv2d_forward(ctx, &s, x, w, y, NULL), QNET_ERROR_ARGUMENT, "too large");
    s = make_shape(1, 3, 3, 1, 1, 3, 256, 1);
    CHECK_FAILS(ctx, qnet_conv2d_forward(ctx, &s, x, w, y, NULL), QNET_ERROR_ARGUMENT, "stride 256");
    for (i = 0; i < 9; i++) CHECK(y[i] == 7);
    qnet_context_destroy(ctx);
}

static void test_no_memory(void)
{
    qnet_context *ctx = make_context(QNET_CPU_AUTO, NULL);
    layer l = make_layer(make_shape(1, 5, 5, 2, 3, 3, 1, 1));
    const qnet_real y = l.y[0], dx = l.dx[0], dw = l.dw[0];
    if (!QNET__REFERENCE_ONLY) {
        fail_at = allocations + 1;
        CHECK_FAILS(ctx, qnet_conv2d_forward(ctx, &l.shape, l.x, l.w, l.y, NULL), QNET_ERROR_MEMORY,
                    "convolution");
        fail_at = allocations + 1;
        CHECK_FAILS(ctx, qnet_conv2d_backward(ctx, &l.shape, l.x, l.w, l.dy, l.dx, l.dw, NULL),
                    QNET_ERROR_MEMORY, "convolution");
        fail_at = 0;
        CHECK(l.y[0] == y && l.dx[0] == dx && l.dw[0] == dw);
    }
    free_layer(&l);
    qnet_context_destroy(ctx);
    CHECK(live_bytes == 0);
}

static int blas_calls;
static void fake_sgemm(void *user, int trans_a, int trans_b, int m, int n, int k, float alpha,
                       const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    (void)user;
    CHECK(alpha == 1);
    blas_calls++;
#if QNET__REAL_IS_DOUBLE
    (void)trans_a, (void)trans_b, (void)m, (void)n, (void)k, (void)a, (void)lda, (void)b, (void)ldb, (void)beta;
    (void)c, (void)ldc;
#else
    qnet__gemm_ref(trans_a, trans_b, (size_t)m, (size_t)n, (size_t)k, a, (size_t)lda, b, (size_t)ldb, beta,
                   c, (size_t)ldc);
#endif
}

static void check_one(qnet_context *ctx, qnet_conv2d s)
{
    kinds[0] = ctx, kinds_count = 1;
    check_against_reference(s);
    kinds_count = 0;
}

/* Left out in double and in the reference build, where the scratch is that of a context without it. */
static void test_blas_hook(void)
{
    const qnet_conv2d s = make_shape(2, 9, 8, 3, 5, 3, 2, 1);
    const int taken = !QNET__REAL_IS_DOUBLE && !QNET__REFERENCE_ONLY;
    qnet_context *plain = make_context(QNET_CPU_AUTO, NULL), *ctx = NULL;
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.blas.sgemm = fake_sgemm;
    CHECK_OK(ctx, qnet_context_create(&hooks, &ctx));
    CHECK((qnet_context_hooks(ctx)->blas.sgemm != NULL) == taken);
    CHECK(taken || qnet_conv2d_scratch(ctx, &s) == qnet_conv2d_scratch(plain, &s));
    check_one(ctx, s);
    CHECK(blas_calls == (taken ? 2 * 3 : 0));
    check_one(ctx, make_shape(1, 9, 8, 3, 5, 7, 1, 3));
    check_one(ctx, make_shape(3, 5, 6, 4, 6, 1, 1, 0));
    qnet_context_destroy(ctx);
    qnet_context_destroy(plain);
}

int main(void)
{
    RUN(test_reference_against_torch);
    RUN(test_against_reference);
    RUN(test_gradients);
    RUN(test_winograd_error);
    RUN(test_weights_from_a_source);
    RUN(test_workers);
    RUN(test_zeros_in_a_batch);
    RUN(test_scratch);
    RUN(test_output_size);
    RUN(test_bad_input);
    RUN(test_no_memory);
    RUN(test_blas_hook);
    return test_end();
}
