/* weights_probe: what qnet.h makes of weight files, for parity_weights.py. Numbers go to standard
   output as %.17g, one per line.

       weights_probe init resnet|scan SEED OUT      random weights to a file, by qnet.h
       weights_probe resnet FILE                    logits of 2 images of the formula, 64 x 64
       weights_probe scan FILE                      logits of 3 scans of 24, 9 and 1 slices
       weights_probe dump RESNET QNET DATA OUT      the first scan of a cohort, prepared as the
           weights say: raw float images to OUT, P(HH) of slices and of the scan to the output */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/crossval/bids.h"
#define PTH_IMPLEMENTATION
#include "tests/golden/formula.h"
#include "weights_tools/pth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static qnet_context *ctx;

static void must(qnet_status status)
{
    if (status == QNET_OK) return;
    fprintf(stderr, "weights_probe: %s\n", qnet_last_error(ctx));
    exit(1);
}

static qnet_resnet *make_resnet(int size)
{
    qnet_resnet_config c;
    qnet_resnet *net;
    qnet_resnet_config_init(&c);
    c.height = c.width = size;
    c.batch = 2;
    c.training = 0;
    must(qnet_resnet_create(ctx, &c, &net));
    return net;
}

static qnet_scan_model *make_scan(int steps)
{
    qnet_scan_config c;
    qnet_scan_model *model;
    qnet_scan_config_init(&c);
    c.steps = steps;
    c.batch = 3;
    c.training = 0;
    must(qnet_scan_model_create(ctx, &c, &model));
    return model;
}

static void print(const qnet_real *v, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) printf("%.17g\n", (double)v[i]);
}

static void init(char **a)
{
    qnet_resnet *net = make_resnet(64);
    qnet_scan_model *model = make_scan(24);
    int resnet = strcmp(a[0], "resnet") == 0;
    qnet_resnet_init(net, (uint64_t)atoi(a[1]));
    qnet_scan_model_init(model, (uint64_t)atoi(a[1]));
    must(qnet_weights_save(ctx, a[2], resnet ? net->table : model->table,
                           resnet ? net->weights : model->weights, NULL, 0));
    qnet_resnet_destroy(net);
    qnet_scan_model_destroy(model);
}

static void run_resnet(char **a)
{
    enum { count = 2 * 64 * 64 * 3 };
    qnet_resnet *net = make_resnet(64);
    qnet_real *x = (qnet_real *)malloc(count * sizeof *x), logits[4];
    uint32_t j;
    if (x == NULL) exit(1);
    must(qnet_weights_load(ctx, a[0], net->table, net->weights, 0, NULL));
    for (j = 0; j < count; j++) x[j] = (qnet_real)formula(1, j);
    must(qnet_resnet_forward(net, x, 2, 0, logits, NULL));
    print(logits, 4);
    free(x);
    qnet_resnet_destroy(net);
}

static void run_scan(char **a)
{
    enum { count = 3 * 24 * QNET_FEATURES };
    static const int length[3] = {24, 9, 1};
    qnet_scan_model *model = make_scan(24);
    qnet_real *x = (qnet_real *)malloc(count * sizeof *x), image[3 * 24 * 2], scan[6];
    uint32_t j;
    if (x == NULL) exit(1);
    must(qnet_weights_load(ctx, a[0], model->table, model->weights, 0, NULL));
    for (j = 0; j < count; j++) x[j] = (qnet_real)formula(2, j);
    must(qnet_scan_model_forward(model, x, length, 3, image, scan));
    print(image, 3 * 24 * 2);
    print(scan, 6);
    free(x);
    qnet_scan_model_destroy(model);
}

static void dump(char **a)
{
    const int only[1] = {0};
    qnet_input_config input;
    qnet_augment_config augment;
    qnet_cohort *cohort;
    qnet_resnet *net;
    qnet_scan_model *model;
    qnet_real *x, *features;
    double image[256], scan;
    size_t pixels, slices, i;
    qnet_augmentation record;
    bids found;
    float *raw;
    void *scratch;
    must(qnet_preparation_load(ctx, a[1], &input, &augment));
    memset(&found, 0, sizeof found);
    must(bids_read(&found, ctx, a[2]));
    must(qnet_cohort_load(ctx, &input, found.dataset.scans, found.dataset.count, &cohort));
    bids_free(&found);
    net = make_resnet(input.size);
    model = make_scan(input.max_slices);
    must(qnet_weights_load(ctx, a[0], net->table, net->weights, 0, NULL));
    must(qnet_weights_load(ctx, a[1], model->table, model->weights, 0, NULL));
    slices = (size_t)cohort->scans[0].slices;
    pixels = slices * (size_t)input.size * (size_t)input.size * 3;
    x = (qnet_real *)calloc(pixels, sizeof *x);
    raw = (float *)calloc(pixels, sizeof *raw);
    features = (qnet_real *)calloc((size_t)input.max_slices * QNET_FEATURES, sizeof *features);
    scratch = malloc(qnet_augment_scratch(cohort->height, cohort->width));
    if (!x || !raw || !features || !scratch || input.max_slices > 256) exit(1);
    record = qnet_augment_test(cohort->height, cohort->width, input.size, input.size);
    for (i = 0; i < slices; i++)
        must(qnet_augment_apply(ctx, &augment, &record, qnet_scan_slice(cohort, 0, (int)i),
                                cohort->height, cohort->width, x + i * (pixels / slices),
                                input.size, input.size, scratch));
    for (i = 0; i < pixels; i++) raw[i] = (float)x[i];
    must(qnet_file_replace(ctx, a[3], raw, pixels * sizeof *raw));
    must(qnet_embed(net, &augment, cohort, only, 1, features, NULL));
    must(qnet_scan_model_predict(model, features, &cohort->scans[0].slices, 1, image, &scan));
    for (i = 0; i < slices; i++) printf("%.17g\n", image[i]);
    printf("%.17g\n", scan);
    free(x);
    free(raw);
    free(scratch);
    free(features);
    qnet_resnet_destroy(net);
    qnet_scan_model_destroy(model);
    qnet_cohort_destroy(cohort);
}

int main(int argc, char **argv)
{
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.weights = pth_weights_reader();
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return 1;
    if (argc == 5 && strcmp(argv[1], "init") == 0)
        init(argv + 2);
    else if (argc == 3 && strcmp(argv[1], "resnet") == 0)
        run_resnet(argv + 2);
    else if (argc == 3 && strcmp(argv[1], "scan") == 0)
        run_scan(argv + 2);
    else if (argc == 6 && strcmp(argv[1], "dump") == 0)
        dump(argv + 2);
    else
        return 2;
    qnet_context_destroy(ctx);
    return 0;
}
