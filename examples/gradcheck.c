/* gradcheck: every layer's gradient against central differences (f(x + h) - f(x - h)) / 2h.

       build/gradcheck          in double; -DQNET_REAL=float shows how few digits are left there

   f is the sum of a layer's outputs with random weights r, so that df/dy = r is what the backward
   pass starts from, or the loss of a network. The error is |numeric - analytic| over the larger of
   their sum and a thousandth of the largest gradient; "ok" is below 1e-7. Exit status 1 if one is
   not. Change a sign in a backward pass of qnet.h and see it. Last line: "47 gradients, 0 fail". */
#ifndef QNET_REAL
#define QNET_REAL double
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"
#include "../tests/reference.h" /* worst_gradient: the central differences */

#include <math.h>
#include <stdlib.h>

enum { ROOM = 4096 };
static qnet_context *ctx;
/* Inputs, parameters, output, weights of the sum, gradients of a..d, and what layers keep. */
static qnet_real a[ROOM], b[ROOM], c[ROOM], d[ROOM], y[ROOM], r[ROOM];
static qnet_real da[ROOM], db[ROOM], dc[ROOM], dd[ROOM], mean[ROOM], rstd[ROOM], saved[ROOM];
static uint8_t argmax[ROOM];
static const int label[4] = {1, -1, 0, 2}, length[3] = {4, 1, 3}, scan_label[3] = {1, 0, 1};
static const qnet_lstm bilstm = {3, 4, 5, 3}, one = {1, 3, 5, 3};
static int checked, failed;

static double sum(size_t count)
{
    double s = 0;
    size_t i;
    for (i = 0; i < count; i++) s += (double)r[i] * (double)y[i];
    return s;
}

/* ---- the functions whose gradients are taken; `user` is what they need to know -------------- */

static double f_conv(void *user)
{
    const qnet_conv2d *s = (const qnet_conv2d *)user;
    qnet_conv2d_forward(ctx, s, a, b, y, NULL);
    return sum((size_t)(s->batch * qnet_conv2d_out_height(s) * qnet_conv2d_out_width(s) *
                        s->out_channels));
}
/* kind 0: batch norm, 1: and a residual, 2: and a ReLU, as at the end of a ResBlock */
static double f_norm(void *user)
{
    int kind = *(int *)user;
    qnet_batchnorm_forward(ctx, 12, 5, a, b, c, kind ? d : NULL, kind == 2, .1, NULL, NULL, mean,
                           rstd, y, NULL);
    return sum(60);
}
static double f_relu(void *user)
{
    (void)user;
    qnet_relu_forward(60, a, y);
    return sum(60);
}
static double f_maxpool(void *user)
{
    (void)user;
    qnet_maxpool_forward(ctx, 1, 7, 6, 4, a, y, argmax);
    return sum(4 * 3 * 4);
}
static double f_avgpool(void *user)
{
    (void)user;
    qnet_avgpool_forward(ctx, 2, 9, 4, a, y);
    return sum(8);
}
static double f_dense(void *user)
{
    (void)user;
    qnet_dense_forward(ctx, 6, 7, 3, a, b, c, y, NULL);
    return sum(18);
}
static double f_cross_entropy(void *user)
{
    double loss = 0;
    (void)user;
    qnet_cross_entropy(ctx, 4, 3, a, label, &loss, NULL);
    return loss;
}
/* Both directions' weights lie one after the other in b, c, d. */
static qnet_lstm_weights lstm_weights(void)
{
    qnet_lstm_weights w;
    int k;
    for (k = 0; k < 2; k++) w.w[k] = b + k * 60, w.u[k] = c + k * 36, w.b[k] = d + k * 12;
    return w;
}
static double f_bilstm(void *user)
{
    qnet_lstm_weights w = lstm_weights();
    qnet_lstm_forward(ctx, (const qnet_lstm *)user, length, &w, a, y, saved, NULL);
    return sum(3 * 4 * 6);
}
/* The same layer on one scan of 3 slices, but as Eqs. (1)-(5) have it: a cell step after step. */
static double f_cell(void *user)
{
    qnet_lstm_weights w = lstm_weights();
    qnet_real h[3], cell[3], gates[12];
    int k, step, t, i;
    (void)user;
    for (k = 0; k < 2; k++) {
        memset(h, 0, sizeof h);
        memset(cell, 0, sizeof cell);
        for (step = 0; step < 3; step++) {
            t = k ? 2 - step : step;
            qnet_lstm_cell(5, 3, w.w[k], w.u[k], w.b[k], a + 5 * t, h, cell, h, cell, gates);
            for (i = 0; i < 3; i++) y[6 * t + 3 * k + i] = h[i];
        }
    }
    return sum(3 * 6);
}

/* The scan model: image head's loss, scan head's loss or both, and their gradients. */
typedef struct scan_job { qnet_scan_model *model; int image, scan; } scan_job;
static double scan_loss(const scan_job *j, int backward)
{
    qnet_real image[3 * 4 * 2], scan[3 * 2];
    double loss[2] = {0, 0};
    int slice_label[12], i;
    for (i = 0; i < 12; i++) slice_label[i] = i % 4 < length[i / 4] ? scan_label[i / 4] : -1;
    qnet_scan_model_forward(j->model, a, length, 3, image, scan);
    qnet_cross_entropy(ctx, 12, 2, image, slice_label, &loss[0], image);
    qnet_cross_entropy(ctx, 3, 2, scan, scan_label, &loss[1], scan);
    if (!j->image) memset(image, 0, sizeof image);
    if (!j->scan) memset(scan, 0, sizeof scan);
    if (backward) qnet_scan_model_backward(j->model, a, length, 3, image, scan);
    return j->image * loss[0] + j->scan * loss[1];
}
static double f_scan(void *user) { return scan_loss((const scan_job *)user, 0); }

/* All of ResNet18: the loss at weights + s * direction, for weights from..to-1. */
typedef struct resnet_job {
    qnet_resnet *net;
    qnet_real *weights, *direction, *x, s;
    size_t from, to;
} resnet_job;
static double f_resnet(void *user)
{
    resnet_job *j = (resnet_job *)user;
    qnet_real logits[2 * 2];
    double loss = 0;
    size_t i;
    for (i = j->from; i < j->to; i++) j->net->weights[i] = j->weights[i] + j->s * j->direction[i];
    qnet_resnet_forward(j->net, j->x, 2, 1, logits, NULL);
    qnet_cross_entropy(ctx, 2, 2, logits, scan_label, &loss, NULL);
    return loss;
}

/* ---- the table ------------------------------------------------------------------------------- */

static void row(const char *layer, const char *of, size_t numbers, double error)
{
    printf("%-31s %-11s %9lu   %.1e   %s\n", layer, of, (unsigned long)numbers, error,
           error < 1e-7 ? "ok" : "FAILS");
    checked++;
    failed += !(error < 1e-7);
}
static void check(const char *layer, const char *of, scalar_function f, void *user,
                  qnet_real *x, const qnet_real *gradient, size_t count)
{
    /* Convolutions are linear, so a long step costs nothing and leaves less to rounding. */
    const double step = f == f_conv ? .1 : 3e-5;
    row(layer, of, count, worst_gradient(f, user, x, gradient, count, step).error);
}

static void fill(qnet_real *x, size_t count, uint64_t stream)
{
    qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_USER, 0, stream);
    size_t i;
    for (i = 0; i < count; i++) x[i] = (qnet_real)qnet_rng_normal(&rng);
}

static void layers(void)
{
    static qnet_conv2d conv[4] = {{2, 5, 6, 3, 17, 3, 1, 1}, {2, 5, 6, 3, 17, 3, 2, 1},
                                  {2, 5, 6, 3, 17, 1, 2, 0}, {1, 9, 11, 3, 17, 7, 2, 3}};
    static const char *const conv_name[4] = {"convolution 3x3 / 1", "convolution 3x3 / 2",
                                             "convolution 1x1 / 2", "convolution 7x7 / 2 (stem)"};
    static const char *const norm_name[3] = {"batch norm", "... + residual",
                                             "... + residual, then ReLU"};
    qnet_lstm_weights w = lstm_weights();
    qnet_lstm_gradients g;
    qnet_lstm shape = bilstm;
    double loss;
    int k;
    for (k = 0; k < 4; k++) {
        const qnet_conv2d *s = &conv[k];
        qnet_conv2d_backward(ctx, s, a, b, r, da, db, NULL);
        check(conv_name[k], "input", f_conv, &conv[k], a, da,
              (size_t)(s->batch * s->height * s->width * 3));
        check(conv_name[k], "weight", f_conv, &conv[k], b, db,
              (size_t)(s->kernel * s->kernel * 3 * 17));
    }
    for (k = 0; k < 3; k++) {
        f_norm(&k);
        qnet_batchnorm_backward(ctx, 12, 5, a, b, mean, rstd, k == 2 ? y : NULL, r, da,
                                k ? dd : NULL, db, dc, NULL);
        check(norm_name[k], "input", f_norm, &k, a, da, 60);
        check(norm_name[k], "gamma", f_norm, &k, b, db, 5);
        check(norm_name[k], "beta", f_norm, &k, c, dc, 5);
        if (k) check(norm_name[k], "residual", f_norm, &k, d, dd, 60);
    }
    f_relu(NULL);
    qnet_relu_backward(60, y, r, da);
    check("ReLU", "input", f_relu, NULL, a, da, 60);
    f_maxpool(NULL);
    qnet_maxpool_backward(ctx, 1, 7, 6, 4, argmax, r, da);
    check("max pool 3x3 / 2", "input", f_maxpool, NULL, a, da, 7 * 6 * 4);
    qnet_avgpool_backward(ctx, 2, 9, 4, r, da);
    check("global average pool", "input", f_avgpool, NULL, a, da, 2 * 9 * 4);
    qnet_dense_backward(ctx, 6, 7, 3, a, b, r, da, db, dc, NULL);
    check("fully connected", "input", f_dense, NULL, a, da, 42);
    check("fully connected", "weight", f_dense, NULL, b, db, 21);
    check("fully connected", "bias", f_dense, NULL, c, dc, 3);
    qnet_cross_entropy(ctx, 4, 3, a, label, &loss, da);
    check("softmax, cross-entropy", "logits", f_cross_entropy, NULL, a, da, 12);
    for (k = 0; k < 2; k++) g.w[k] = db + k * 60, g.u[k] = dc + k * 36, g.b[k] = dd + k * 12;
    qnet_lstm_forward(ctx, &one, length + 2, &w, a, y, saved, NULL);
    qnet_lstm_backward(ctx, &one, length + 2, &w, a, y, saved, r, da, &g, NULL);
    check("LSTM cell, Eqs. (1)-(5)", "input", f_cell, NULL, a, da, 15);
    check("LSTM cell, Eqs. (1)-(5)", "W", f_cell, NULL, b, db, 120);
    check("LSTM cell, Eqs. (1)-(5)", "U", f_cell, NULL, c, dc, 72);
    check("LSTM cell, Eqs. (1)-(5)", "b", f_cell, NULL, d, dd, 24);
    f_bilstm(&shape);
    qnet_lstm_backward(ctx, &bilstm, length, &w, a, y, saved, r, da, &g, NULL);
    check("BiLSTM, lengths 4, 1, 3", "input", f_bilstm, &shape, a, da, 3 * 4 * 5);
    check("BiLSTM, lengths 4, 1, 3", "W", f_bilstm, &shape, b, db, 120);
    check("BiLSTM, lengths 4, 1, 3", "U", f_bilstm, &shape, c, dc, 72);
    check("BiLSTM, lengths 4, 1, 3", "b", f_bilstm, &shape, d, dd, 24);
}

static void scan_model(void)
{
    static const char *const name[3] = {"image head, through BiLSTM", "scan head, through BiLSTM",
                                        "Q-Net, CE(scan) + CE(image)"};
    qnet_scan_config config;
    scan_job job;
    int k;
    qnet_scan_config_init(&config);
    config.features = 5;
    config.hidden = 3;
    config.steps = 4;
    config.batch = 3;
    if (qnet_scan_model_create(ctx, &config, &job.model) != QNET_OK) {
        row(qnet_last_error(ctx), "", 0, HUGE_VAL);
        return;
    }
    qnet_scan_model_init(job.model, 1);
    for (k = 0; k < 3; k++) {
        job.image = k != 1;
        job.scan = k != 0;
        scan_loss(&job, 1);
        memcpy(db, job.model->gradients, job.model->table->trainable * sizeof *db);
        check(name[k], "all weights", f_scan, &job, job.model->weights, db,
              job.model->table->trainable);
    }
    qnet_scan_model_destroy(job.model);
}

/* The weights of a block move together, each tensor along its gradient and along a random direction
   as long: two passes a block are enough to see a wrong number. The step is short and the image
   such that none of 1e5 ReLUs and max pools crosses its kink. */
static void resnet(void)
{
    enum { HEIGHT = 33, WIDTH = 47 }; /* the least that leaves layer4 2 x 2 pixels, both odd */
    static qnet_real x[2 * HEIGHT * WIDTH * 3], logits[4];
    qnet_resnet_config config;
    resnet_job j;
    qnet_real *g = NULL, slope;
    const qnet_param *p;
    double loss, norm, random, dot = 0;
    size_t n = 0, i;
    int k;
    memset(&j, 0, sizeof j);
    qnet_resnet_config_init(&config);
    config.height = HEIGHT;
    config.width = WIDTH;
    config.batch = 2;
    if (qnet_resnet_create(ctx, &config, &j.net) == QNET_OK) {
        n = j.net->table->trainable;
        g = (qnet_real *)malloc(2 * n * sizeof *g);
    }
    if (g == NULL) {
        row("ResNet18: no memory", "", 0, HUGE_VAL);
        qnet_resnet_destroy(j.net);
        return;
    }
    j.x = x;
    j.weights = g + n;
    j.direction = j.net->gradients; /* not needed any more when g has them */
    qnet_resnet_init(j.net, 1);
    memcpy(j.weights, j.net->weights, n * sizeof *g);
    fill(x, sizeof x / sizeof *x, 6);
    qnet_resnet_forward(j.net, x, 2, 1, logits, NULL);
    qnet_cross_entropy(ctx, 2, 2, logits, scan_label, &loss, logits);
    qnet_resnet_backward(j.net, x, 2, logits);
    memcpy(g, j.net->gradients, n * sizeof *g);
    for (k = 0, p = j.net->table->entries; p->trainable; k++, p++) {
        qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_USER, 1, (uint64_t)k);
        const char *next = p[1].name;
        char name[32];
        for (i = 0, norm = 0; i < p->count; i++) norm += pow((double)g[p->offset + i], 2);
        for (i = p->offset; i < p->offset + p->count; i++) {
            random = sqrt(3 / (double)p->count) * qnet_rng_range(&rng, -1, 1);
            j.direction[i] = (qnet_real)((double)g[i] / sqrt(norm) + random);
            dot += (double)g[i] * (double)j.direction[i];
        }
        j.to = p->offset + p->count;
        /* On to the next tensor of the same block: "layer1.0.", or the stem, or fc. */
        if (p[1].trainable && (*next == 'b' || strncmp(p->name, next, *next == 'f' ? 2 : 9) == 0))
            continue;
        slope = (qnet_real)dot;
        sprintf(name, "ResNet18: %.8s",
                *p->name == 'b' ? "stem" : *p->name == 'f' ? "fc" : p->name);
        row(name, "all weights", j.to - j.from,
            worst_gradient(f_resnet, &j, &j.s, &slope, 1, 1e-6).error);
        memcpy(j.net->weights + j.from, j.weights + j.from, (j.to - j.from) * sizeof *g);
        j.from = j.to;
        dot = 0;
    }
    free(g);
    qnet_resnet_destroy(j.net);
}

int main(int argc, char **argv)
{
    qnet_hooks hooks;
    const int bad = usage(argc, argv, 0, 0, "gradcheck\n\nEvery layer's gradient against central differences, in double.");
    if (bad >= 0) return bad;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1; /* layers this small are not worth waking others */
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return fputs("gradcheck: no memory\n", stderr), 1;
    fill(a, ROOM, 1);
    fill(b, ROOM, 2);
    fill(c, ROOM, 3);
    fill(d, ROOM, 4);
    fill(r, ROOM, 5);
    printf("%-31s %-11s %9s   %s   %s\n", "layer", "gradient of", "numbers", "error  ", "verdict");
    layers();
    scan_model();
    resnet();
    qnet_context_destroy(ctx);
    printf("%d gradients, %d fail\n", checked, failed);
    return failed != 0;
}
