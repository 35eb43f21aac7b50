/* test_cam.c: class activation maps against PyTorch, colours, and bad input. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "../examples/viridis.h"
#include "golden/formula_resnet.h"
#include "golden/networks.h"

static qnet_context *context(void)
{
    qnet_context *ctx = NULL;
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    return ctx;
}

static qnet_resnet *make_net(qnet_context *ctx, int h, int w, int batch)
{
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_resnet_config_init(&config);
    config.height = h;
    config.width = w;
    config.batch = batch;
    config.training = 0;
    CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
    formula_resnet(net);
    return net;
}

/* Tolerance: float's rounding through 20 convolutions, and a map of floats in any build. */
static void check_golden(int batch, int h, int w, uint32_t x_index, const double *golden_raw, const double *golden_map,
                         const double *eval_logits)
{
    qnet_context *ctx = context();
    qnet_resnet *net = make_net(ctx, h, w, batch);
    size_t image = (size_t)h * (size_t)w, j;
    qnet_real *x = (qnet_real *)malloc((size_t)batch * image * 3 * sizeof *x);
    float *map = (float *)malloc(2 * image * sizeof *map), raw[64], low = 1, high = 0, sum = 0;
    int fh = (h + 31) / 32, fw = (w + 31) / 32, i;
    for (j = 0; j < (size_t)batch * image * 3; j++) x[j] = (qnet_real)((formula(x_index, (uint32_t)j) - .5) * 4);
    CHECK_OK(ctx, qnet_resnet_forward(net, x, batch, 0, NULL, NULL));
    CHECK_OK(ctx, qnet_cam(net, 1, 1, map, raw));
    for (i = 0; i < fh * fw; i++) {
        CHECK_NEAR(raw[i], golden_raw[i], 1e-3);
        sum += raw[i] / (float)(fh * fw);
    }
    /* the mean of the raw map is the class score without its bias */
    CHECK_NEAR(sum + (float)(formula(61, 1) - .5), eval_logits[1 * 2 + 1], 1e-3);
    for (j = 0; j < image; j += 97) CHECK_NEAR(map[j], golden_map[j / 97], 1e-4);
    for (j = 0; j < image; j++) {
        low = map[j] < low ? map[j] : low;
        high = map[j] > high ? map[j] : high;
    }
    /* scaled before it is resized: the ends are met at pixel centres of the last map only */
    CHECK(low >= 0 && low < .1 && high > .9 && high <= 1);
    CHECK_OK(ctx, qnet_cam(net, 1, 1, map + image, NULL));
    CHECK(memcmp(map, map + image, image * sizeof *map) == 0);
    free(x);
    free(map);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
}

static void test_against_pytorch(void)
{
    check_golden(2, 64, 64, 208, r64_cam_raw, r64_cam, r64_eval_logits);
    check_golden(3, 97, 65, 212, r97_cam_raw, r97_cam, r97_eval_logits);
}

/* A network whose last map has one bright corner lights up that corner for its class, and there
   only: shown the right way up and the right way round. */
static void test_where(void)
{
    qnet_context *ctx = context();
    qnet_resnet *net = make_net(ctx, 64, 96, 1);
    qnet_real *x = (qnet_real *)calloc(64 * 96 * 3, sizeof *x);
    float map[64 * 96], raw[6];
    qnet_tensor f;
    size_t j;
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 1, 0, NULL, NULL));
    f = qnet_resnet_feature_map(net);
    CHECK(f.shape[1] == 2 && f.shape[2] == 3);
    for (j = 0; j < 6 * 512; j++) f.data[j] = 0;
    for (j = 0; j < 512; j++) { /* class 1 likes every feature; the one at the top right is 1 */
        net->weights[net->table->entries[60].offset + 512 + j] = 1;
        f.data[2 * 512 + j] = 1;
    }
    CHECK_OK(ctx, qnet_cam(net, 0, 1, map, raw));
    CHECK(raw[2] == 512 && raw[0] == 0 && raw[3] == 0 && raw[5] == 0);
    CHECK(map[95] == 1 && map[0] == 0 && map[63 * 96] == 0 && map[63 * 96 + 95] == 0);
    for (j = 0; j < 512; j++) f.data[2 * 512 + j] = 0;
    CHECK_OK(ctx, qnet_cam(net, 0, 1, map, raw)); /* flat: no division by zero */
    CHECK(map[95] == 0 && map[0] == 0);
    f.data[0] = (qnet_real)HUGE_VAL;
    map[7] = 9;
    CHECK_FAILS(ctx, qnet_cam(net, 0, 1, map, NULL), QNET_ERROR_NUMERIC, "NaN or infinity");
    CHECK(map[7] == 9);
    free(x);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
}

static long allocations, fail_at = -1;
static void *counting_alloc(void *user, size_t size, size_t align)
{
    void *raw, **p;
    (void)user;
    if (allocations++ == fail_at) return NULL;
    raw = malloc(size + align + sizeof raw);
    p = (void **)(void *)(((size_t)raw + sizeof raw + align - 1) / align * align);
    p[-1] = raw;
    return p;
}
static void counting_free(void *user, void *ptr, size_t size)
{
    (void)user;
    (void)size;
    free(((void **)ptr)[-1]);
}

static void test_bad_input(void)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    qnet_resnet *net;
    qnet_real *x = (qnet_real *)calloc(2 * 32 * 32 * 3, sizeof *x);
    float map[32 * 32] = {5};
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.alloc = counting_alloc;
    hooks.allocator.free = counting_free;
    hooks.threads = 1;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    net = make_net(ctx, 32, 32, 2);
    CHECK_FAILS(ctx, qnet_cam(net, 0, 0, map, NULL), QNET_ERROR_ARGUMENT, "forward pass");
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 2, 0, NULL, NULL));
    CHECK_FAILS(ctx, qnet_cam(net, 2, 0, map, NULL), QNET_ERROR_ARGUMENT, "image of the last forward pass is 2, expected 0 to 1");
    CHECK_FAILS(ctx, qnet_cam(net, -1, 0, map, NULL), QNET_ERROR_ARGUMENT, "image of the last forward pass is -1");
    CHECK_FAILS(ctx, qnet_cam(net, 0, 2, map, NULL), QNET_ERROR_ARGUMENT, "class is 2, expected 0 to 1");
    CHECK_FAILS(ctx, qnet_cam(net, 0, -1, map, NULL), QNET_ERROR_ARGUMENT, "class is -1");
    CHECK_FAILS(ctx, qnet_cam(net, 0, 0, NULL, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(qnet_cam(NULL, 0, 0, map, NULL) == QNET_ERROR_ARGUMENT);
    fail_at = allocations;
    CHECK_FAILS(ctx, qnet_cam(net, 0, 0, map, NULL), QNET_ERROR_MEMORY, "class activation map");
    CHECK(map[0] == 5);
    CHECK_OK(ctx, qnet_cam(net, 0, 0, map, NULL));
    free(x);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
}

/* Viridis as matplotlib 3.10 has it; in between, straight lines stand for it. */
static void test_colours(void)
{
    static const int at[11] = {0, 24, 51, 77, 102, 128, 153, 179, 204, 231, 255}; /* of 0..255 */
    static const int expected[11][3] = {{68, 1, 84}, {72, 35, 116}, {65, 68, 135}, {52, 96, 141}, {42, 120, 142},
                                        {33, 145, 140}, {34, 168, 132}, {68, 191, 112}, {122, 209, 81},
                                        {192, 223, 37}, {253, 231, 37}};
    static const double outside[3][2] = {{-3, 0}, {7, 1}, {(double)NAN, 0}};
    uint8_t rgb[3], other[3];
    double before = 0;
    for (int i = 0; i < 11; i++) {
        viridis(at[i] / 255., rgb);
        for (int c = 0; c < 3; c++) CHECK_NEAR(rgb[c], expected[i][c], 6);
    }
    for (int i = 0; i <= 100; i++) { /* never darker than before: Rec. 709's luminance, gamma and all */
        viridis(i / 100., rgb);
        const double light = .2126 * pow(rgb[0], 2.2) + .7152 * pow(rgb[1], 2.2) + .0722 * pow(rgb[2], 2.2);
        CHECK(light > before);
        before = light;
    }
    for (int i = 0; i < 3; i++) {
        viridis(outside[i][0], rgb);
        viridis(outside[i][1], other);
        CHECK(memcmp(rgb, other, 3) == 0);
    }
}

static void test_overlay(void)
{
    const float map[4] = {0, 1, .5f, 2}, grey[4] = {0, 1, .5f, -1};
    uint8_t rgb[12 + 1];
    rgb[12] = 77;
    viridis_over(map, grey, 2, 2, rgb);
    CHECK_NEAR(rgb[0], 34, 1); /* half of viridis, half of the image */
    CHECK_NEAR(rgb[2], 42, 1);
    CHECK_NEAR(rgb[3], (253 + 255) / 2., 1);
    CHECK_NEAR(rgb[5], (37 + 255) / 2., 1);
    CHECK_NEAR(rgb[7], (144 + 127.5) / 2, 1);
    CHECK_NEAR(rgb[9], 253 / 2., 1); /* both are clipped to 0..1 */
    CHECK_NEAR(rgb[11], 37 / 2., 1);
    CHECK(rgb[12] == 77);
    viridis_over(map, grey, 0, 2, rgb + 12);
    CHECK(rgb[12] == 77);
}

/* A slice's map for a decision on the scan: its mean is what the slice contributes, sum_c g_c f_c, as features
   are means of the map. Tolerance: float's rounding of those means. */
static void test_scan_maps(void)
{
    qnet_context *ctx = context();
    qnet_resnet *net = make_net(ctx, 64, 96, 3);
    qnet_scan_config config;
    qnet_scan_model *model = NULL;
    qnet_real *x = (qnet_real *)malloc(3 * 64 * 96 * 3 * sizeof *x);
    qnet_real *features = (qnet_real *)calloc(2 * 4 * 512, sizeof *features), *gradient = features + 4 * 512;
    double contribution[4];
    float raw[6] = {0};
    for (size_t j = 0; j < 3 * 64 * 96 * 3; j++) x[j] = (qnet_real)((formula(208, (uint32_t)j) - .5) * 4);
    qnet_scan_config_init(&config);
    config.hidden = 8;
    config.steps = 4;
    config.batch = 1;
    config.training = 0;
    CHECK_OK(ctx, qnet_scan_model_create(ctx, &config, &model));
    qnet_scan_model_init(model, 3);
    CHECK_FAILS(ctx, qnet_cam_weighted(net, 0, gradient, raw), QNET_ERROR_ARGUMENT, "forward pass");
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 3, 0, NULL, features));
    CHECK_OK(ctx, qnet_scan_attribution(model, features, 3, gradient, contribution));
    for (int t = 0; t < 3; t++) {
        double mean = 0, size = 0;
        for (int c = 0; c < 512; c++) size += fabs((double)gradient[t * 512 + c] * (double)features[t * 512 + c]);
        CHECK_OK(ctx, qnet_cam_weighted(net, t, gradient + t * 512, raw));
        for (int p = 0; p < 6; p++) mean += (double)raw[p] / 6;
        CHECK(size > 0 && contribution[t] != 0);
        CHECK_NEAR(mean, contribution[t], 1e-5 * size);
    }
    CHECK(contribution[3] == 0);
    raw[0] = 5;
    gradient[7] = (qnet_real)HUGE_VAL;
    CHECK_FAILS(ctx, qnet_cam_weighted(net, 0, gradient, raw), QNET_ERROR_NUMERIC, "NaN or infinity");
    CHECK_FAILS(ctx, qnet_cam_weighted(net, 3, gradient, raw), QNET_ERROR_ARGUMENT, "is 3, expected 0 to ");
    CHECK_FAILS(ctx, qnet_cam_weighted(net, 0, NULL, raw), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(raw[0] == 5);
    free(x);
    free(features);
    qnet_scan_model_destroy(model);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
}

int main(void)
{
    RUN(test_against_pytorch);
    RUN(test_where);
    RUN(test_bad_input);
    RUN(test_colours);
    RUN(test_overlay);
    RUN(test_scan_maps);
    return test_end();
}
