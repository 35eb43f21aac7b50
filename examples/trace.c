/* trace: one slice through the whole network, forward and backward, tensor by tensor.

       build/trace [--side N] [--weights FILE] [--save FILE]

   The slice is two bright discs of N x N pixels (64 when not given) in ppm, 1/s and any unit of
   T1W; it is stretched and cropped as at test time, goes through ResNet18 in training mode with its
   loss and gradients, and its 512 features, as a scan of one slice, through BiLSTM and both heads:
   layer by layer, as tests/plain_resnet.h and plain_scan.h have it. The networks of the library
   compute the same, but do not keep each tensor; at the end their losses must agree with these.
   Weights are random ones of seed 1, or FILE's. For every tensor: name (that of torchvision's
   module), shape, mean, standard deviation, a hash of its bits, and its place in the paper.
   With --save all of them go into one safetensors file, for a comparison with PyTorch; activations
   stay NHWC, weights have PyTorch's shapes:

       slice, input, conv1 ... scan_head, "grad fc" ...      as printed; gradients inside a ReLU
                                                             are those of its norm: "grad bn1"
       loss                                                  stage 1, image head, scan head
       resnet.conv1.weight ..., scan.lstm.weight_ih_l0 ...   weights and statistics before the pass
       grad resnet.conv1.weight ...                          their gradients
       after resnet.bn1.running_mean ...                     the statistics after the pass

   Last line with --side 64: "94 tensors, scan level: probability of HH 0.5126". */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"
#include "../tests/plain_scan.h" /* and plain_resnet.h */

#include <math.h>
#include <stdlib.h>

/* What the paper says of a tensor; the first line whose part is in the name counts. Sections:
   "Data Preparation", "Internal Architecture of the Q-Net" with Fig. 4, "Training Procedure". */
static const struct { const char *part, *place; } places[] = {
    {"slice", "Data Preparation: QSM, R2*, T1W concatenated channel-wise"},
    {"input", "Data Augmentation: Histogram Stretching, Cropping (p = 1)"},
    {"downsample.0", "Architecture: down-sampling by (1x1), stride 2"},
    {"downsample", "Architecture: down-sampling, BN"},
    {".conv1", "Architecture: ResBlock, first (3x3)"},
    {".bn1", "Architecture: ResBlock, BN, before its ReLU"},
    {".relu", "Architecture: ResBlock, BN, ReLU"},
    {".conv2", "Architecture: ResBlock, second (3x3)"},
    {".bn2", "Architecture: ResBlock, BN, before its input is added"},
    {"layer1.0", "Architecture: ResBlock 1 = BN + its input, d = 64"},
    {"layer1.1", "Architecture: ResBlock 2"},
    {"layer2.0", "Architecture: ResBlock 3, w, h halved, d = 128"},
    {"layer2.1", "Architecture: ResBlock 4"},
    {"layer3.0", "Architecture: ResBlock 5, w, h halved, d = 256"},
    {"layer3.1", "Architecture: ResBlock 6"},
    {"layer4.0", "Architecture: ResBlock 7, w, h halved, d = 512"},
    {"layer4.1", "Architecture: ResBlock 8; the maps of Fig. 9, 10"},
    {"conv1", "Fig. 4, Stage 1: (7x7), stride 2"},
    {"bn1", "Fig. 4, Stage 1: BN, before its ReLU"},
    {"relu", "Fig. 4, Stage 1: BN, ReLU"},
    {"maxpool", "Fig. 4, Stage 1: max-pooling"},
    {"avgpool", "Fig. 4, Stage 1: GAP, the image embedding x^t"},
    {"fc", "Fig. 4, Stage 1: FC; cross-entropy"},
    {"lstm", "Fig. 4, Stage 2: Bi-LSTM, Eqs. (1)-(5), h^t"},
    {"image_head", "Fig. 4, Stage 2: FC, image level; cross-entropy"},
    {"scan_head", "Fig. 4, Stage 2: FC, scan level; cross-entropy"},
};

enum { ROOM = 640 };
typedef struct recorder {
    const qnet_context *ctx;
    const qnet_param_table *resnet;
    int tensors, saving, kept, full; /* full: no room or no memory for one */
    size_t height, width;            /* of what the ResBlock in progress reads */
    qnet_safetensor file[ROOM];
} recorder;

/* A copy of data[shape] for the file; name "prefix" + name. */
static qnet_real *keep(recorder *r, const char *prefix, const char *name, const qnet_real *data,
                       int ndim, const size_t *shape)
{
    qnet_safetensor *t = &r->file[r->kept];
    qnet_real *copy;
    int d;
    if (!r->saving) return NULL;
    r->full |= r->kept == ROOM;
    if (r->full) return NULL;
    memset(t, 0, sizeof *t);
    sprintf(t->name, "%.30s%.90s", prefix, name);
    t->dtype = sizeof(qnet_real) == 8 ? QNET_F64 : QNET_F32;
    t->ndim = ndim;
    for (d = 0, t->count = 1; d < ndim; d++) t->count *= t->shape[d] = shape[d];
    copy = (qnet_real *)malloc((t->count + 1) * sizeof *copy);
    r->full |= copy == NULL;
    if (r->full) return NULL;
    memcpy(copy, data, t->count * sizeof *copy);
    t->data = copy;
    r->kept++;
    return copy;
}

/* Entries of a block, convolutions turned from [kh][kw][in][out] to [out][in][kh][kw]. which: 1 the
   trained ones, 2 the statistics, 3 both. */
static void keep_block(recorder *r, const char *prefix, const qnet_param_table *table,
                       const qnet_real *block, int which)
{
    int i;
    for (i = 0; i < table->count; i++) {
        const qnet_param *p = &table->entries[i];
        const qnet_real *from = block + p->offset;
        size_t shape[4], taps, in, out, k, c, o;
        qnet_real *to;
        if (!(which & (p->trainable ? 1 : 2)) || strstr(p->name, "num_batches")) continue;
        if (p->layout != QNET_LAYOUT_HWIO) {
            keep(r, prefix, p->name, from, p->ndim, p->shape);
            continue;
        }
        shape[0] = out = p->shape[3], shape[1] = in = p->shape[2];
        shape[2] = p->shape[0], shape[3] = p->shape[1], taps = shape[2] * shape[3];
        to = keep(r, prefix, p->name, from, 4, shape);
        for (k = 0; to != NULL && k < taps; k++)
            for (c = 0; c < in; c++)
                for (o = 0; o < out; o++) to[(o * in + c) * taps + k] = *from++;
    }
}

/* "3x3 / 1 Winograd" for the output of a convolution, "" for any other tensor. */
static void describe_conv(recorder *r, const char *name, const size_t *shape, char text[40])
{
    char weight[64];
    int i;
    qnet_conv2d conv;
    text[0] = '\0';
    sprintf(weight, "%.50s.weight", name);
    i = qnet_param_find(r->resnet, weight);
    if (i < 0 || r->resnet->entries[i].ndim != 4) return;
    conv.kernel = (int)r->resnet->entries[i].shape[0];
    conv.in_channels = (int)r->resnet->entries[i].shape[2];
    conv.out_channels = (int)r->resnet->entries[i].shape[3];
    conv.padding = conv.kernel / 2;
    conv.batch = (int)shape[0];
    conv.stride = strstr(name, "conv2") || shape[1] == r->height ? 1 : 2;
    conv.height = conv.stride == 2 ? (int)r->height : (int)shape[1];
    conv.width = conv.stride == 2 ? (int)r->width : (int)shape[2];
    sprintf(text, "%dx%d / %d %.20s", conv.kernel, conv.kernel, conv.stride,
            qnet_conv2d_algorithm(r->ctx, &conv));
}

static void show(void *user, const char *name, const qnet_real *data, int ndim, const size_t *shape)
{
    recorder *r = (recorder *)user;
    char dims[64] = "", conv[40] = "";
    const char *place = "";
    const int backward = strncmp(name, "grad ", 5) == 0;
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
    if (!backward && ndim == 4) {
        describe_conv(r, name, shape, conv);
        if (strcmp(name, "input") == 0 || strcmp(name, "maxpool") == 0 || strlen(name) == 8)
            r->height = shape[1], r->width = shape[2]; /* strlen: "layer1.0" */
    }
    printf("%-26s %-12s %-17s %11.4g %10.4g  %08lx  %s%s\n", name, dims, conv, mean, sqrt(square),
           (unsigned long)(qnet_hash(QNET_HASH_START, data, count * sizeof *data) & 0xffffffffu),
           backward ? "gradient of: " : "", place);
    keep(r, "", name, data, ndim, shape);
    r->tensors++;
}

/* x[side][side][3]: two discs, left and right of the middle: iron, seen in QSM and R2*. */
static void draw(float *x, int side)
{
    int row, column;
    for (row = 0; row < side; row++) {
        for (column = 0; column < side; column++) {
            double v = (row + .5) / side - .5, u = fabs((column + .5) / side - .5) - .2;
            int disc = u * u + v * v < .02;
            *x++ = (float)(disc ? .11 + .05 * u : .01 - .02 * v); /* ppm */
            *x++ = (float)(disc ? 35 - 9 * v : 17 + 6 * u);       /* 1/s */
            *x++ = (float)(disc ? 900 + 80 * v : 1100 - 300 * u * v);
        }
    }
}

/* draw() and the preparation of a test image: x[side][side][3]. */
static qnet_status prepare(qnet_context *ctx, recorder *r, int imagenet, int side, qnet_real *x)
{
    const size_t shape[4] = {1, (size_t)side, (size_t)side, 3}, count = shape[1] * shape[2] * 3;
    float *slice = (float *)malloc(count * sizeof *slice);
    qnet_augment_config augment;
    qnet_augmentation record = qnet_augment_test(side, side, side, side);
    qnet_status status;
    size_t i;
    if (slice == NULL) return QNET_ERROR_MEMORY;
    draw(slice, side);
    for (i = 0; i < count; i++) x[i] = (qnet_real)slice[i];
    show(r, "slice", x, 4, shape);
    qnet_augment_config_init(&augment);
    if (imagenet) qnet_augment_config_imagenet(&augment);
    status = qnet_augment_apply(ctx, &augment, &record, slice, side, side, x, side, side, NULL);
    if (status == QNET_OK) show(r, "input", x, 4, shape);
    free(slice);
    return status;
}

static qnet_status run(qnet_context *ctx, recorder *r, qnet_resnet *net, qnet_scan_model *scan,
                       const char *weights, int side, double *probability)
{
    const int one_slice[1] = {1}, label[1] = {QNET_HH};
    const size_t three[1] = {3};
    qnet_real logits[2], features[QNET_FEATURES], losses[3];
    qnet_real *x = (qnet_real *)malloc((size_t)side * (size_t)side * 3 * sizeof *x);
    double loss[3], again[3]; /* stage 1, image head, scan head */
    plain_net p, q;
    int replaced, i;
    qnet_status status = x ? QNET_OK : QNET_ERROR_MEMORY;
    if (status == QNET_OK) {
        qnet_resnet_init(net, 1);
        qnet_scan_model_init(scan, 1);
        if (weights)
            status = qnet_weights_load(ctx, weights, net->table, net->weights, 1, &replaced);
    }
    if (status == QNET_OK) {
        keep_block(r, "resnet.", net->table, net->weights, 3);
        keep_block(r, "scan.", scan->table, scan->weights, 3);
        status = prepare(ctx, r, weights != NULL, side, x);
    }
    memset(&p, 0, sizeof p);
    memset(&q, 0, sizeof q);
    p.ctx = q.ctx = ctx, p.trace = q.trace = show, p.user = q.user = r;
    p.table = net->table, p.weights = net->weights, p.gradients = net->gradients;
    q.table = scan->table, q.weights = scan->weights, q.gradients = scan->gradients;
    /* Stage 1: forward, cross-entropy, backward. */
    if (status == QNET_OK) status = plain_resnet_forward(&p, x, 1, side, side, 3, 1, logits);
    if (status == QNET_OK) status = qnet_cross_entropy(ctx, 1, 2, logits, label, &loss[0], logits);
    if (status == QNET_OK) status = plain_resnet_backward(&p, logits);
    /* Stage 2 on the slice's embedding, as a scan of one slice. */
    if (status == QNET_OK)
        status = plain_scan(&q, &scan->config, p.features, one_slice, label, 1, loss + 1);
    if (status == QNET_OK) {
        for (i = 0; i < 3; i++) losses[i] = (qnet_real)loss[i];
        keep(r, "", "loss", losses, 1, three);
        keep_block(r, "grad resnet.", net->table, net->gradients, 1);
        keep_block(r, "grad scan.", scan->table, scan->gradients, 1);
        keep_block(r, "after resnet.", net->table, net->weights, 2);
    }
    /* The same by the library's networks. */
    if (status == QNET_OK) status = qnet_resnet_forward(net, x, 1, 1, logits, features);
    if (status == QNET_OK)
        status = qnet_cross_entropy(ctx, 1, 2, logits, label, &again[0], NULL);
    if (status == QNET_OK)
        status = qnet_scan_model_loss(scan, features, one_slice, label, 1, &again[1], &again[2], 0);
    for (i = 0; status == QNET_OK && i < 3; i++)
        if (!(fabs(again[i] - loss[i]) <= 1e-4 * (1 + fabs(loss[i])))) status = QNET_ERROR_NUMERIC;
    if (status == QNET_OK) *probability = exp(-again[2]); /* the label is HH */
    plain_free(&p);
    plain_free(&q);
    free(x);
    return status;
}

static qnet_status save(qnet_context *ctx, const recorder *r, const char *path)
{
    static const char *const about[] = {"made_by", "qnet trace", "layout", "NHWC"};
    qnet_buffer bytes;
    qnet_sink sink;
    qnet_status status;
    memset(&bytes, 0, sizeof bytes);
    sink = qnet_sink_buffer(ctx, &bytes, path);
    status = qnet_safetensors_write(ctx, &sink, r->file, r->kept, about, 2);
    if (status == QNET_OK) status = qnet_file_replace(ctx, path, bytes.bytes, bytes.size);
    qnet_buffer_free(ctx, &bytes);
    return status;
}

int main(int argc, char **argv)
{
    static recorder r; /* all zero */
    qnet_context *ctx;
    qnet_resnet_config resnet;
    qnet_scan_config config;
    qnet_resnet *net = NULL;
    qnet_scan_model *scan = NULL;
    const char *path = NULL, *weights = NULL;
    qnet_status status;
    double probability = 0;
    int side = 64, i;

    for (i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--side") == 0 && atoi(value) >= 32)
            side = atoi(value);
        else if (strcmp(argv[i], "--weights") == 0 && *value)
            weights = value;
        else if (strcmp(argv[i], "--save") == 0 && *value)
            path = value;
        else /* --help, or none of these */
            return usage(2, argv + i - 1, 2, 0, "trace [--side N, 32 or more] [--weights FILE] [--save FILE]");
    }
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return fputs("trace: no memory\n", stderr), 1;
    r.ctx = ctx;
    qnet_resnet_config_init(&resnet);
    resnet.height = resnet.width = side;
    resnet.batch = 1;
    qnet_scan_config_init(&config);
    config.steps = config.batch = 1;
    status = qnet_resnet_create(ctx, &resnet, &net);
    if (status == QNET_OK) status = qnet_scan_model_create(ctx, &config, &scan);
    if (status == QNET_OK) {
        r.resnet = net->table;
        r.saving = path != NULL;
        printf("%-26s %-12s %-17s %11s %10s  %-8s  %s\n", "tensor", "shape", "", "mean", "std",
               "hash", "paper");
        status = run(ctx, &r, net, scan, weights, side, &probability);
    }
    if (status == QNET_OK && r.full) status = QNET_ERROR_MEMORY;
    if (status == QNET_OK && path) status = save(ctx, &r, path);
    if (status == QNET_OK)
        printf("%d tensors, scan level: probability of HH %.4f\n", r.tensors, probability);
    else
        fprintf(stderr, "trace: %s\n",
                *qnet_last_error(ctx) ? qnet_last_error(ctx) : qnet_status_text(status));
    while (r.kept > 0) free((void *)(uintptr_t)r.file[--r.kept].data);
    qnet_scan_model_destroy(scan);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
