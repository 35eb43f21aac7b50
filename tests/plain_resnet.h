/* plain_resnet.h: ResNet18 forward and backward, layer by layer with the public calls of qnet.h and every
   tensor in memory: the network as a textbook has it. qnet_resnet_forward and _backward compute the same
   numbers with norms, ReLUs and sums fused into the convolutions, and in a third of the memory; tests
   compare the two. Include qnet.h first.

       plain_net p = {0};
       p.ctx = ctx, p.table = net->table, p.weights = weights, p.gradients = gradients;
       status = plain_resnet_forward(&p, x, batch, height, width, channels, 1, logits);
       status = plain_resnet_backward(&p, dlogits);
       plain_free(&p);

   If p.trace is set it gets every tensor, under the name of the torchvision module whose output it is
   ("layer1.0.relu"); the gradient of a norm's output, inside the ReLU, is "grad layer1.0.bn1". */
#ifndef PLAIN_RESNET_H
#define PLAIN_RESNET_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*plain_trace)(void *user, const char *name, const qnet_real *data, int ndim, const size_t *shape);

/* y = act(norm(conv(x)) + residual), act = ReLU or nothing. */
typedef struct plain_conv_bn {
    char conv_name[32], norm_name[32], out_name[32];
    qnet_conv2d shape;
    int relu;
    const qnet_real *x;
    qnet_real *conv_out, *y; /* [batch][out_h][out_w][out] */
    qnet_real *mean, *rstd;  /* [out], of the batch */
    qnet_real *dx, *dsum;    /* gradients of x, and of norm + residual, inside the ReLU */
} plain_conv_bn;

/* y = ReLU(second(first(x)) + shortcut(x)); without `halves` the shortcut is x itself. */
typedef struct plain_block {
    int halves;
    plain_conv_bn first, second, shortcut;
} plain_block;

typedef struct plain_net {
    qnet_context *ctx;
    const qnet_param_table *table;
    qnet_real *weights;   /* [table->total]; a training pass moves the running statistics in it */
    qnet_real *gradients; /* [table->trainable], written by the backward pass */
    plain_trace trace;
    void *user;
    int batch, classes, train;
    plain_conv_bn stem;
    plain_block block[8];
    uint8_t *argmax;                   /* of max pooling */
    qnet_real *pooled, *features;      /* [batch][h][w][64], [batch][512] */
    void *memory[256];                 /* all tensors */
    int count;
} plain_net;

#define PLAIN_TRY(call)                            \
    do {                                           \
        const qnet_status status_ = (call);        \
        if (status_ != QNET_OK) return status_;    \
    } while (0)

static inline void *plain_bytes(plain_net *p, size_t bytes)
{
    void *block = p->count < 256 ? malloc(bytes) : NULL;
    if (block != NULL) p->memory[p->count++] = block;
    return block;
}
static inline qnet_status plain_new(plain_net *p, size_t count, qnet_real **out)
{
    *out = (qnet_real *)plain_bytes(p, count * sizeof **out);
    return *out != NULL ? QNET_OK : QNET_ERROR_MEMORY;
}
static inline void plain_free(plain_net *p)
{
    while (p->count > 0) free(p->memory[--p->count]);
}

/* "name.suffix" in a block: the weights or the gradients. */
static inline qnet_real *plain_find(const plain_net *p, qnet_real *block, const char *name, const char *suffix)
{
    char full[64];
    sprintf(full, "%.40s.%.20s", name, suffix);
    return block + p->table->entries[qnet_param_find(p->table, full)].offset;
}

static inline void plain_show(const plain_net *p, const char *prefix, const char *name, const qnet_real *data,
                              int ndim, size_t s0, size_t s1, size_t s2, size_t s3)
{
    const size_t shape[4] = {s0, s1, s2, s3};
    char full[64];
    sprintf(full, "%.10s%.50s", prefix, name);
    if (p->trace != NULL) p->trace(p->user, full, data, ndim, shape);
}

/* The pixels of a convolution's output. */
static inline size_t plain_rows(const plain_conv_bn *c)
{
    return (size_t)c->shape.batch * (size_t)qnet_conv2d_out_height(&c->shape) * (size_t)qnet_conv2d_out_width(&c->shape);
}
static inline void plain_show_map(const plain_net *p, const plain_conv_bn *c, const char *prefix,
                                  const char *name, const qnet_real *data)
{
    plain_show(p, prefix, name, data, 4, (size_t)c->shape.batch, (size_t)qnet_conv2d_out_height(&c->shape),
               (size_t)qnet_conv2d_out_width(&c->shape), (size_t)c->shape.out_channels);
}

/* ---- a convolution and its norm ---- */

static inline void plain_describe(plain_conv_bn *c, const char *prefix, const char *conv, const char *norm,
                                  const char *out, int batch, int height, int width, int in_channels,
                                  int out_channels, int kernel, int stride, int relu)
{
    const qnet_conv2d shape = {batch, height, width, in_channels, out_channels, kernel, stride, kernel / 2};
    sprintf(c->conv_name, "%.16s%.12s", prefix, conv);
    sprintf(c->norm_name, "%.16s%.12s", prefix, norm);
    sprintf(c->out_name, "%.16s%.12s", prefix, out);
    if (*out == '\0') c->out_name[strlen(prefix) - 1] = '\0'; /* a block's: "layer1.0" */
    c->shape = shape;
    c->relu = relu;
}

static inline qnet_status plain_conv_bn_forward(plain_net *p, plain_conv_bn *c, const qnet_real *x,
                                                const qnet_real *residual)
{
    const size_t rows = plain_rows(c), n = (size_t)c->shape.out_channels;
    const qnet_real *w = plain_find(p, p->weights, c->conv_name, "weight");
    const qnet_real *gamma = plain_find(p, p->weights, c->norm_name, "weight");
    const qnet_real *beta = plain_find(p, p->weights, c->norm_name, "bias");
    qnet_real *running_mean = plain_find(p, p->weights, c->norm_name, "running_mean");
    qnet_real *running_var = plain_find(p, p->weights, c->norm_name, "running_var");
    c->x = x;
    PLAIN_TRY(plain_new(p, rows * n, &c->conv_out));
    PLAIN_TRY(plain_new(p, rows * n, &c->y));
    PLAIN_TRY(qnet_conv2d_forward(p->ctx, &c->shape, x, w, c->conv_out, NULL));
    plain_show_map(p, c, "", c->conv_name, c->conv_out);
    if (p->train) {
        PLAIN_TRY(plain_new(p, n, &c->mean));
        PLAIN_TRY(plain_new(p, n, &c->rstd));
        PLAIN_TRY(qnet_batchnorm_forward(p->ctx, rows, (int)n, c->conv_out, gamma, beta, residual, c->relu,
                                         QNET_BATCHNORM_MOMENTUM, running_mean, running_var, c->mean, c->rstd,
                                         c->y, NULL));
        *plain_find(p, p->weights, c->norm_name, "num_batches_tracked") += 1;
    } else {
        PLAIN_TRY(qnet_batchnorm_inference(p->ctx, rows, (int)n, c->conv_out, gamma, beta, running_mean,
                                           running_var, residual, c->relu, c->y));
    }
    plain_show_map(p, c, "", c->out_name, c->y);
    return QNET_OK;
}

/* From dy to the gradients of the weights, of the input (unless it is the image) and of the residual. */
static inline qnet_status plain_conv_bn_backward(plain_net *p, plain_conv_bn *c, const qnet_real *dy, int image)
{
    const size_t rows = plain_rows(c), n = (size_t)c->shape.out_channels;
    const size_t inputs = (size_t)c->shape.batch * (size_t)c->shape.height * (size_t)c->shape.width *
                          (size_t)c->shape.in_channels;
    const qnet_real *w = plain_find(p, p->weights, c->conv_name, "weight");
    const qnet_real *gamma = plain_find(p, p->weights, c->norm_name, "weight");
    qnet_real *dconv_out;
    PLAIN_TRY(plain_new(p, rows * n, &dconv_out));
    PLAIN_TRY(plain_new(p, rows * n, &c->dsum));
    if (!image) PLAIN_TRY(plain_new(p, inputs, &c->dx));
    PLAIN_TRY(qnet_batchnorm_backward(p->ctx, rows, (int)n, c->conv_out, gamma, c->mean, c->rstd,
                                      c->relu ? c->y : NULL, dy, dconv_out, c->dsum,
                                      plain_find(p, p->gradients, c->norm_name, "weight"),
                                      plain_find(p, p->gradients, c->norm_name, "bias"), NULL));
    plain_show_map(p, c, "grad ", c->relu ? c->norm_name : c->out_name, c->dsum);
    plain_show_map(p, c, "grad ", c->conv_name, dconv_out);
    return qnet_conv2d_backward(p->ctx, &c->shape, c->x, w, dconv_out, c->dx,
                                plain_find(p, p->gradients, c->conv_name, "weight"), NULL);
}

/* ---- the network ---- */

/* x[batch][height][width][channels] to logits[batch][classes]. train: norms by the batch's statistics. */
static inline qnet_status plain_resnet_forward(plain_net *p, const qnet_real *x, int batch, int height,
                                               int width, int channels, int train, qnet_real *logits)
{
    const qnet_real *map;
    int h, w, in = 64, b;
    plain_free(p);
    p->batch = batch;
    p->train = train;
    p->classes = (int)p->table->entries[qnet_param_find(p->table, "fc.bias")].count;

    /* Convolution 7x7 / 2, norm, ReLU, max pool 3x3 / 2. */
    plain_describe(&p->stem, "", "conv1", "bn1", "relu", batch, height, width, channels, 64, 7, 2, 1);
    PLAIN_TRY(plain_conv_bn_forward(p, &p->stem, x, NULL));
    height = qnet_conv2d_out_height(&p->stem.shape);
    width = qnet_conv2d_out_width(&p->stem.shape);
    h = (height - 1) / 2 + 1, w = (width - 1) / 2 + 1;
    PLAIN_TRY(plain_new(p, (size_t)(batch * h * w) * 64, &p->pooled));
    p->argmax = (uint8_t *)plain_bytes(p, (size_t)(batch * h * w) * 64);
    if (p->argmax == NULL) return QNET_ERROR_MEMORY;
    PLAIN_TRY(qnet_maxpool_forward(p->ctx, batch, height, width, 64, p->stem.y, p->pooled, p->argmax));
    plain_show(p, "", "maxpool", p->pooled, 4, (size_t)batch, (size_t)h, (size_t)w, 64);

    /* Eight blocks: 64, 64, 128, 128, 256, 256, 512, 512 channels; the 3rd, 5th and 7th halve the map. */
    for (map = p->pooled, b = 0; b < 8; b++) {
        plain_block *k = &p->block[b];
        const int out = 64 << b / 2, stride = b > 0 && b % 2 == 0 ? 2 : 1;
        const int out_h = (h - 1) / stride + 1, out_w = (w - 1) / stride + 1;
        const qnet_real *residual = map;
        char prefix[16];
        sprintf(prefix, "layer%d.%d.", b / 2 + 1, b % 2);
        k->halves = stride == 2;
        plain_describe(&k->first, prefix, "conv1", "bn1", "relu", batch, h, w, in, out, 3, stride, 1);
        plain_describe(&k->second, prefix, "conv2", "bn2", "", batch, out_h, out_w, out, out, 3, 1, 1);
        plain_describe(&k->shortcut, prefix, "downsample.0", "downsample.1", "downsample", batch, h, w, in, out,
                       1, 2, 0);
        PLAIN_TRY(plain_conv_bn_forward(p, &k->first, map, NULL));
        if (k->halves) {
            PLAIN_TRY(plain_conv_bn_forward(p, &k->shortcut, map, NULL));
            residual = k->shortcut.y;
        }
        PLAIN_TRY(plain_conv_bn_forward(p, &k->second, k->first.y, residual));
        map = k->second.y;
        in = out;
        h = out_h, w = out_w;
    }

    /* Mean over the pixels, fully connected. */
    PLAIN_TRY(plain_new(p, (size_t)batch * QNET_FEATURES, &p->features));
    PLAIN_TRY(qnet_avgpool_forward(p->ctx, batch, (size_t)(h * w), QNET_FEATURES, map, p->features));
    plain_show(p, "", "avgpool", p->features, 2, (size_t)batch, QNET_FEATURES, 1, 1);
    PLAIN_TRY(qnet_dense_forward(p->ctx, (size_t)batch, QNET_FEATURES, p->classes, p->features,
                                 plain_find(p, p->weights, "fc", "weight"), plain_find(p, p->weights, "fc", "bias"),
                                 logits, NULL));
    plain_show(p, "", "fc", logits, 2, (size_t)batch, (size_t)p->classes, 1, 1);
    return QNET_OK;
}

/* From dlogits[batch][classes], after a forward pass with train = 1, to p->gradients. */
static inline qnet_status plain_resnet_backward(plain_net *p, const qnet_real *dlogits)
{
    const plain_conv_bn *last = &p->block[7].second;
    const size_t batch = (size_t)p->batch, pixels = plain_rows(last) / batch;
    const int height = qnet_conv2d_out_height(&p->stem.shape), width = qnet_conv2d_out_width(&p->stem.shape);
    qnet_real *dfeatures, *dy, *dstem;
    size_t i, count;
    int b;
    plain_show(p, "grad ", "fc", dlogits, 2, batch, (size_t)p->classes, 1, 1);
    PLAIN_TRY(plain_new(p, batch * QNET_FEATURES, &dfeatures));
    PLAIN_TRY(qnet_dense_backward(p->ctx, batch, QNET_FEATURES, p->classes, p->features,
                                  plain_find(p, p->weights, "fc", "weight"), dlogits, dfeatures,
                                  plain_find(p, p->gradients, "fc", "weight"),
                                  plain_find(p, p->gradients, "fc", "bias"), NULL));
    plain_show(p, "grad ", "avgpool", dfeatures, 2, batch, QNET_FEATURES, 1, 1);
    PLAIN_TRY(plain_new(p, plain_rows(last) * QNET_FEATURES, &dy));
    PLAIN_TRY(qnet_avgpool_backward(p->ctx, p->batch, pixels, QNET_FEATURES, dfeatures, dy));
    for (b = 7; b >= 0; b--) {
        /* Forward: y = ReLU(second(first(x)) + shortcut(x)): the gradients of both paths add up. */
        plain_block *k = &p->block[b];
        const qnet_conv2d *in = &k->first.shape;
        const qnet_real *by_shortcut;
        PLAIN_TRY(plain_conv_bn_backward(p, &k->second, dy, 0));
        PLAIN_TRY(plain_conv_bn_backward(p, &k->first, k->second.dx, 0));
        if (k->halves) PLAIN_TRY(plain_conv_bn_backward(p, &k->shortcut, k->second.dsum, 0));
        by_shortcut = k->halves ? k->shortcut.dx : k->second.dsum;
        dy = k->first.dx;
        count = batch * (size_t)in->height * (size_t)in->width * (size_t)in->in_channels;
        for (i = 0; i < count; i++) dy[i] += by_shortcut[i];
    }
    plain_show(p, "grad ", "maxpool", dy, 4, batch, (size_t)p->block[0].first.shape.height,
               (size_t)p->block[0].first.shape.width, 64);
    PLAIN_TRY(plain_new(p, plain_rows(&p->stem) * 64, &dstem));
    PLAIN_TRY(qnet_maxpool_backward(p->ctx, p->batch, height, width, 64, p->argmax, dy, dstem));
    return plain_conv_bn_backward(p, &p->stem, dstem, 1);
}

#endif
