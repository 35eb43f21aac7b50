/* networks_run.h: the cases of networks.py by qnet.h; for test_parity.c and tests/parity/nets.c. */
#ifndef NETWORKS_RUN_H
#define NETWORKS_RUN_H
#include "formula_resnet.h"
#include "sketches.h"
#include <stdlib.h>
#include <string.h>

static qnet_resnet *run_resnet_create(qnet_context *ctx, int batch, int height, int width)
{
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_resnet_config_init(&config);
    config.height = height;
    config.width = width;
    config.batch = batch;
    return qnet_resnet_create(ctx, &config, &net) == QNET_OK ? net : NULL;
}

/* scale * formula - scale * shift, rounded to float; to be freed. */
static qnet_real *run_numbers(uint32_t index, size_t count, double scale, double shift)
{
    qnet_real *x = (qnet_real *)malloc(count * sizeof *x);
    size_t j;
    for (j = 0; x != NULL && j < count; j++)
        x[j] = (qnet_real)(float)((formula(index, (uint32_t)j) - shift) * scale);
    return x;
}

/* x[batch][h][w][3] in -2..2; to be freed. */
static qnet_real *run_images(uint32_t index, int batch, int h, int w)
{
    return run_numbers(index, (size_t)batch * (size_t)h * (size_t)w * 3, 4, .5);
}

/* The biases that keep every ReLU away from its kink. */
static void run_biases(qnet_resnet *net)
{
    size_t i, j;
    for (i = 0; i < sizeof golden_biases / sizeof *golden_biases; i++) {
        int found = qnet_param_find(net->table, golden_biases[i].name);
        const qnet_param *p = &net->table->entries[found < 0 ? 0 : found];
        for (j = 0; found >= 0 && j < p->count; j++)
            net->weights[p->offset + j] =
                (qnet_real)((golden_number(golden_biases[i].biases + 2 * j, 2) - 2048) / 4096);
    }
}

enum { RUN_SCANS = 4, RUN_STEPS = 24 };
static const int run_scan_length[RUN_SCANS] = {24, 17, 1, 9},
                 run_scan_label[RUN_SCANS] = {0, 1, 1, 0};

static qnet_scan_model *run_scan_create(qnet_context *ctx)
{
    qnet_scan_config config;
    qnet_scan_model *model = NULL;
    int i;
    size_t j;
    qnet_scan_config_init(&config);
    config.batch = RUN_SCANS;
    if (qnet_scan_model_create(ctx, &config, &model) != QNET_OK) return NULL;
    for (i = 0; i < model->table->count; i++) {
        const qnet_param *p = &model->table->entries[i];
        for (j = 0; j < p->count; j++)
            model->weights[p->offset + j] =
                (qnet_real)(float)((formula((uint32_t)i, (uint32_t)j) - .5) *
                                   (i < 8 ? .125 : .0625));
    }
    return model;
}

/* 20 steps of Adam with the cosine schedule, 5 at its last rate with a snapshot after each, their
   average, and one pass over the first 5 batches for its statistics. Two settings: */
typedef struct run_config {
    int batch, height, width;
    int batches; /* taken in turn */
    double rate, last_rate;
} run_config;
/* The paper's rates, where differences grow a hundred-thousandfold in 25 steps: for the double
   build. Gentle ones, where float32 can follow float64. */
static const run_config run_paper = {4, 48, 40, 25, 3e-4, 1e-4};
static const run_config run_gentle = {12, 48, 40, 5, 2e-6, 2e-6 / 3};
enum { RUN_ADAM = 20, RUN_SNAPSHOTS = 5, RUN_LOSSES = RUN_ADAM + RUN_SNAPSHOTS };

/* part(user, "weights" after 20 steps, then "swa", net). losses[RUN_LOSSES]; logits[batch][2]: of
   the averaged network in evaluation mode, batch 0. */
static qnet_status run_train(qnet_context *ctx, const run_config *c, double *losses,
                             qnet_real *logits,
                             void (*part)(void *user, const char *name, const qnet_resnet *net),
                             void *user)
{
    qnet_resnet *net = run_resnet_create(ctx, c->batch, c->height, c->width);
    qnet_real *m, *v, *average, *x, *d;
    qnet_adam_config adam;
    qnet_status status = QNET_OK;
    size_t count, j;
    int i, k, label[64];
    if (net == NULL) return QNET_ERROR_MEMORY;
    count = net->table->trainable;
    m = (qnet_real *)calloc(count, sizeof *m);
    v = (qnet_real *)calloc(count, sizeof *v);
    average = (qnet_real *)calloc(count, sizeof *average);
    d = (qnet_real *)calloc((size_t)c->batch, 2 * sizeof *d);
    if (m == NULL || v == NULL || average == NULL || d == NULL) status = QNET_ERROR_MEMORY;
    qnet_adam_config_init(&adam);
    formula_resnet(net);
    for (k = 0; k < RUN_LOSSES && status == QNET_OK; k++) {
        int at = k % c->batches;
        x = run_images((uint32_t)(2000 + at), c->batch, c->height, c->width);
        for (i = 0; i < c->batch; i++) label[i] = (i * 7 + at * 3) / 2 % 2;
        if (x == NULL) status = QNET_ERROR_MEMORY;
        else status = qnet_resnet_forward(net, x, c->batch, 1, d, NULL);
        if (status == QNET_OK)
            status = qnet_cross_entropy(ctx, (size_t)c->batch, 2, d, label, &losses[k], d);
        if (status == QNET_OK) status = qnet_resnet_backward(net, x, c->batch, d);
        free(x);
        if (status != QNET_OK) break;
        qnet_adam_step(ctx, &adam, count, net->weights, net->gradients, m, v,
                       qnet_cosine_rate(c->rate, c->last_rate, k, RUN_ADAM), (uint64_t)k + 1);
        if (k == RUN_ADAM - 1) part(user, "weights", net);
        if (k >= RUN_ADAM)
            qnet_swa_update(ctx, count, average, net->weights, (uint64_t)(k - RUN_ADAM));
    }
    if (status == QNET_OK) {
        memcpy(net->weights, average, count * sizeof *average);
        for (i = 0; i < net->table->count; i++) {
            const qnet_param *p = &net->table->entries[i];
            for (j = 0; !p->trainable && j < p->count; j++)
                net->weights[p->offset + j] = strstr(p->name, "running_var") ? 1 : 0;
        }
    }
    for (k = 0; k < RUN_SNAPSHOTS && status == QNET_OK; k++) {
        x = run_images((uint32_t)(2000 + k), c->batch, c->height, c->width);
        qnet_resnet_set_momentum(net, 1.0 / (k + 1));
        status =
            x == NULL ? QNET_ERROR_MEMORY : qnet_resnet_forward(net, x, c->batch, 1, NULL, NULL);
        free(x);
    }
    if (status == QNET_OK) {
        x = run_images(2000, c->batch, c->height, c->width);
        status =
            x == NULL ? QNET_ERROR_MEMORY : qnet_resnet_forward(net, x, c->batch, 0, logits, NULL);
        free(x);
        part(user, "swa", net);
    }
    free(m);
    free(v);
    free(average);
    free(d);
    qnet_resnet_destroy(net);
    return status;
}
#endif
