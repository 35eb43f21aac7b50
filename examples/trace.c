/* trace: one slice through the whole network, forward and backward, tensor by tensor.

       build/trace [SIDE]          SIDE x SIDE pixels, 64 when not given

   The trace hook is handed every named tensor of both passes; this program prints its name (that
   of torchvision's module), shape, mean, standard deviation, a hash of its bits, and where it
   stands in the paper (Fig. 4 and the section "Internal Architecture of the Q-Net"). The slice is
   two bright discs, the weights are random ones of seed 1.
   Last line with SIDE 64: "92 tensors, scan level: probability of HH 0.5114". */
#define QNET_IMPLEMENTATION
#include "qnet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the paper says of a tensor; the first line whose part is in the name counts. */
static const struct { const char *part, *place; } places[] = {
    {"downsample.0", "down-sampling: (1x1) convolution, stride 2"},
    {"downsample", "down-sampling: BN"},
    {".conv1", "ResBlock: first (3x3) convolution"},
    {".relu", "ResBlock: BN, ReLU"},
    {".conv2", "ResBlock: second (3x3) convolution"},
    {"layer1.0", "ResBlock 1: BN, plus its input, ReLU"},
    {"layer1.1", "ResBlock 2"},
    {"layer2.0", "ResBlock 3, d = 128"},
    {"layer2.1", "ResBlock 4"},
    {"layer3.0", "ResBlock 5, d = 256"},
    {"layer3.1", "ResBlock 6"},
    {"layer4.0", "ResBlock 7, d = 512"},
    {"layer4.1", "ResBlock 8: the maps of Fig. 9 and 10"},
    {"conv1", "Stage 1: (7x7) convolution"},
    {"bn1", "BN"},
    {"relu", "BN, ReLU"},
    {"maxpool", "max-pooling"},
    {"avgpool", "GAP: the embedding of a slice"},
    {"fc", "Stage 1: FC, the image-level prediction"},
    {"lstm", "Stage 2: Bi-LSTM, Eqs. (1)-(5)"},
    {"image_head", "Stage 2: image-level FC"},
    {"scan_head", "Stage 2: scan-level FC"},
};

static void show(void *user, const char *name, const qnet_real *data, int ndim, const size_t *shape)
{
    int *tensors = (int *)user;
    char dims[64] = "";
    const char *place = "";
    double mean = 0, square = 0;
    size_t count = 1, i;
    int d;
    for (d = 0; d < ndim; d++) {
        size_t used = strlen(dims);
        snprintf(dims + used, sizeof dims - used, "%s%lu", d ? "x" : "", (unsigned long)shape[d]);
        count *= shape[d];
    }
    for (i = 0; i < count; i++) mean += (double)data[i] / (double)count;
    for (i = 0; i < count; i++) square += pow((double)data[i] - mean, 2) / (double)count;
    for (i = 0; i < sizeof places / sizeof *places && *place == '\0'; i++)
        if (strstr(name, places[i].part) != NULL) place = places[i].place;
    printf("%-26s %-13s %11.4g %10.4g  %08lx  %s%s\n", name, dims, mean, sqrt(square),
           (unsigned long)(qnet_hash(QNET_HASH_START, data, count * sizeof *data) & 0xffffffffu),
           strncmp(name, "grad ", 5) == 0 ? "gradient of: " : "", place);
    ++*tensors;
}

/* x[side][side][3]: two discs, left and right of the middle, brighter in the first two channels. */
static void draw(qnet_real *x, int side)
{
    int row, column, c;
    for (row = 0; row < side; row++) {
        for (column = 0; column < side; column++) {
            double v = (row + .5) / side - .5, u = fabs((column + .5) / side - .5) - .2;
            for (c = 0; c < 3; c++)
                *x++ = (qnet_real)(u * u + v * v < .02 ? .9 - .3 * c : .2 + .1 * c);
        }
    }
}

static qnet_status run(qnet_context *ctx, qnet_resnet *net, qnet_scan_model *scan, int side,
                       double *probability)
{
    const int one_slice[1] = {1}, label[1] = {QNET_HH};
    qnet_real logits[2], scan_logits[2], features[QNET_FEATURES];
    qnet_real *x = (qnet_real *)malloc((size_t)side * (size_t)side * 3 * sizeof *x);
    double loss, image_loss, scan_loss;
    qnet_status status;
    if (x == NULL) return QNET_ERROR_MEMORY;
    draw(x, side);
    qnet_resnet_init(net, 1);
    qnet_scan_model_init(scan, 1);
    /* Stage 1: forward, cross-entropy, backward. */
    status = qnet_resnet_forward(net, x, 1, 1, logits, features);
    if (status == QNET_OK) status = qnet_cross_entropy(ctx, 1, 2, logits, label, &loss, logits);
    if (status == QNET_OK) status = qnet_resnet_backward(net, x, 1, logits);
    /* Stage 2 on the slice's embedding, as a scan of one slice. */
    if (status == QNET_OK)
        status = qnet_scan_model_loss(scan, features, one_slice, label, 1, &image_loss, &scan_loss,
                                      1);
    if (status == QNET_OK) {
        qnet_trace off = {NULL, NULL};
        qnet_set_trace(ctx, off);
        status = qnet_scan_model_forward(scan, features, one_slice, 1, NULL, scan_logits);
        qnet_softmax(1, 2, scan_logits, scan_logits);
        *probability = (double)scan_logits[QNET_HH];
    }
    free(x);
    return status;
}

int main(int argc, char **argv)
{
    qnet_context *ctx;
    qnet_hooks hooks;
    qnet_resnet_config resnet;
    qnet_scan_config config;
    qnet_resnet *net = NULL;
    qnet_scan_model *scan = NULL;
    qnet_status status;
    double probability = 0;
    int tensors = 0, side = argc > 1 ? atoi(argv[1]) : 64;

    memset(&hooks, 0, sizeof hooks);
    hooks.trace.user = &tensors;
    hooks.trace.tensor = show;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return 1;
    qnet_resnet_config_init(&resnet);
    resnet.height = resnet.width = side;
    resnet.batch = 1;
    qnet_scan_config_init(&config);
    config.steps = config.batch = 1;
    status = qnet_resnet_create(ctx, &resnet, &net);
    if (status == QNET_OK) status = qnet_scan_model_create(ctx, &config, &scan);
    if (status == QNET_OK) {
        printf("%-26s %-13s %11s %10s  %-8s  %s\n", "tensor", "shape", "mean", "std", "hash",
               "paper");
        status = run(ctx, net, scan, side, &probability);
    }
    if (status == QNET_OK)
        printf("%d tensors, scan level: probability of HH %.4f\n", tensors, probability);
    else
        fprintf(stderr, "trace: %s\n", qnet_last_error(ctx));
    qnet_scan_model_destroy(scan);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
