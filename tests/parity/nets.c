/* nets.c: our side of parity_nets.py and parity_trace.py. Writes tensors to standard output: a line
   "PASS\tNAME\tNDIM S0 S1 ...\n", then the numbers, as they lie in memory (float or double by
   build).

       nets resnet INDEX HEIGHT WIDTH BATCH    the cases of tests/golden/networks.py
       nets scan
       nets train paper | gentle
       nets slice SIDE                         a slice through both networks, weights of seed 1 */
#define QNET_IMPLEMENTATION
#include "../../qnet.h"
#include "../golden/networks_run.h"
#include "../plain_scan.h"
#include <stdio.h>

static void put(const char *pass, const char *name, const qnet_real *data, int ndim,
                const size_t *shape)
{
    size_t count = 1;
    int i;
    printf("%s\t%s\t%d", pass, name, ndim);
    for (i = 0; i < ndim; i++) {
        printf(" %lu", (unsigned long)shape[i]);
        count *= shape[i];
    }
    printf("\n");
    fwrite(data, sizeof *data, count, stdout);
}

static void on_trace(void *user, const char *name, const qnet_real *data, int ndim,
                     const size_t *shape)
{
    put((const char *)user, name, data, ndim, shape);
}

/* All but the head, which comes from the network itself. */
static void on_map(void *user, const char *name, const qnet_real *data, int ndim, const size_t *shape)
{
    if (ndim > 2) put((const char *)user, name, data, ndim, shape);
}

static plain_net plain(qnet_context *ctx, const qnet_param_table *table, qnet_real *weights,
                       qnet_real *gradients, plain_trace trace, char *pass)
{
    plain_net p;
    memset(&p, 0, sizeof p);
    p.ctx = ctx, p.table = table, p.weights = weights, p.gradients = gradients;
    p.trace = trace, p.user = pass;
    return p;
}

static void put_params(const char *pass, const qnet_param_table *table, const qnet_real *values,
                       int trainable)
{
    int i;
    for (i = 0; i < table->count; i++) {
        const qnet_param *p = &table->entries[i];
        if (p->trainable == trainable) put(pass, p->name, values + p->offset, p->ndim, p->shape);
    }
}

static void put_numbers(const char *name, const double *values, size_t count)
{
    qnet_real copy[64];
    size_t j;
    for (j = 0; j < count; j++) copy[j] = (qnet_real)values[j];
    put("losses", name, copy, 1, &count);
}

static int resnet(qnet_context *ctx, uint32_t index, int h, int w, int batch)
{
    static char pass[2][8] = {"eval", "train"};
    qnet_resnet *net = run_resnet_create(ctx, batch, h, w);
    qnet_real *x = run_images(index, batch, h, w), *d = run_numbers(201, (size_t)batch * 2, 1, .5);
    qnet_real *logits = (qnet_real *)malloc((size_t)batch * (2 + QNET_FEATURES) * sizeof *logits);
    qnet_real *features = logits + 2 * batch, *weights = NULL;
    size_t shape[2];
    int train, failed = net == NULL || x == NULL || d == NULL || logits == NULL;
    shape[0] = (size_t)batch;
    if (!failed) {
        weights = (qnet_real *)malloc(net->table->total * sizeof *weights);
        failed = weights == NULL;
    }
    if (!failed) {
        formula_resnet(net);
        run_biases(net);
        memcpy(weights, net->weights, net->table->total * sizeof *weights);
        for (train = 0; train < 2; train++) {
            plain_net p = plain(ctx, net->table, weights, NULL, on_map, pass[train]);
            failed = failed || plain_resnet_forward(&p, x, batch, h, w, 3, train, logits) != QNET_OK ||
                     qnet_resnet_forward(net, x, batch, train, logits, features) != QNET_OK;
            plain_free(&p);
            shape[1] = QNET_FEATURES;
            put(pass[train], "avgpool", features, 2, shape);
            shape[1] = 2;
            put(pass[train], "fc", logits, 2, shape);
        }
        failed = failed || qnet_resnet_backward(net, x, batch, d) != QNET_OK;
        put_params("grad", net->table, net->gradients, 1);
        put_params("stat", net->table, net->weights, 0);
    }
    free(weights);
    free(logits);
    free(x);
    free(d);
    qnet_resnet_destroy(net);
    return failed;
}

static int scan(qnet_context *ctx)
{
    static char pass[] = "train";
    qnet_scan_model *model = run_scan_create(ctx);
    qnet_real *x = run_numbers(200, (size_t)RUN_SCANS * RUN_STEPS * QNET_FEATURES, 2, 0);
    qnet_real *gradient = (qnet_real *)calloc((size_t)RUN_SCANS * RUN_STEPS * QNET_FEATURES, sizeof *gradient);
    const size_t shape[3] = {RUN_SCANS, RUN_STEPS, QNET_FEATURES};
    double loss[2] = {0, 0};
    int failed = model == NULL || x == NULL || gradient == NULL;
    if (!failed) {
        plain_net p = plain(ctx, model->table, model->weights, model->gradients, on_trace, pass);
        failed = plain_scan(&p, &model->config, x, run_scan_length, run_scan_label, RUN_SCANS,
                            loss) != QNET_OK ||
                 qnet_scan_model_loss(model, x, run_scan_length, run_scan_label, RUN_SCANS,
                                      &loss[0], &loss[1], 1) != QNET_OK;
        plain_free(&p);
        put_params("grad", model->table, model->gradients, 1);
        for (size_t i = 0; i < RUN_SCANS && !failed; i++)
            failed = qnet_scan_attribution(model, x + i * shape[1] * shape[2], run_scan_length[i],
                                           gradient + i * shape[1] * shape[2], NULL) != QNET_OK;
        put("attribution", "features", gradient, 3, shape);
        put_numbers("losses", loss, 2);
    }
    free(gradient);
    free(x);
    qnet_scan_model_destroy(model);
    return failed;
}

static void on_part(void *user, const char *part, const qnet_resnet *net)
{
    (void)user;
    put_params(part, net->table, net->weights, 1);
    put_params(part, net->table, net->weights, 0);
}

static int train(qnet_context *ctx, const run_config *config)
{
    double losses[RUN_LOSSES] = {0};
    qnet_real logits[2 * 64];
    size_t shape[2];
    shape[0] = (size_t)config->batch;
    shape[1] = 2;
    if (run_train(ctx, config, losses, logits, on_part, NULL) != QNET_OK) return 1;
    put("swa", "fc", logits, 2, shape);
    put_numbers("losses", losses, RUN_LOSSES);
    return 0;
}

/* Two discs, left and right of the middle, under a fine grain: as examples/trace.c draws them, but
   no two pixels alike, so that no maximum is shared. */
static void draw(qnet_real *x, int side)
{
    int row, column, c;
    uint32_t j = 0;
    for (row = 0; row < side; row++) {
        for (column = 0; column < side; column++) {
            double v = (row + .5) / side - .5, u = fabs((column + .5) / side - .5) - .2;
            for (c = 0; c < 3; c++, j++)
                *x++ = (qnet_real)(float)((u * u + v * v < .02 ? .9 - .3 * c : .2 + .1 * c) +
                                          .1 * formula(900, j));
        }
    }
}

static int slice(qnet_context *ctx, int side)
{
    static char pass[] = "trace";
    const int one[1] = {1}, label[1] = {QNET_HH};
    size_t shape[4], count = (size_t)side * (size_t)side * 3;
    qnet_real logits[2], *x = (qnet_real *)malloc(count * sizeof *x);
    qnet_scan_config config;
    qnet_scan_model *model = NULL;
    qnet_resnet *net = run_resnet_create(ctx, 1, side, side);
    double loss[2];
    int failed;
    qnet_scan_config_init(&config);
    config.steps = config.batch = 1;
    failed = x == NULL || net == NULL || qnet_scan_model_create(ctx, &config, &model) != QNET_OK;
    if (!failed) {
        draw(x, side);
        shape[0] = 1;
        shape[1] = shape[2] = (size_t)side;
        shape[3] = 3;
        qnet_resnet_init(net, 1);
        qnet_scan_model_init(model, 1);
        put("input", "x", x, 4, shape);
        put_params("weights", net->table, net->weights, 1);
        put_params("weights", model->table, model->weights, 1);
        {
            plain_net p = plain(ctx, net->table, net->weights, net->gradients, on_trace, pass);
            plain_net q = plain(ctx, model->table, model->weights, model->gradients, on_trace, pass);
            failed = plain_resnet_forward(&p, x, 1, side, side, 3, 1, logits) != QNET_OK ||
                     qnet_cross_entropy(ctx, 1, 2, logits, label, loss, logits) != QNET_OK ||
                     plain_resnet_backward(&p, logits) != QNET_OK ||
                     plain_scan(&q, &config, p.features, one, label, 1, loss) != QNET_OK;
            plain_free(&p);
            plain_free(&q);
        }
    }
    free(x);
    qnet_scan_model_destroy(model);
    qnet_resnet_destroy(net);
    return failed;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    qnet_context *ctx = NULL;
    int failed = 2;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    if (strcmp(what, "resnet") == 0 && argc == 6)
        failed = resnet(ctx, (uint32_t)atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
    else if (strcmp(what, "scan") == 0) failed = scan(ctx);
    else if (strcmp(what, "train") == 0 && argc == 3)
        failed = train(ctx, strcmp(argv[2], "paper") == 0 ? &run_paper : &run_gentle);
    else if (strcmp(what, "slice") == 0 && argc == 3 && atoi(argv[2]) >= 33)
        failed = slice(ctx, atoi(argv[2]));
    if (failed)
        fprintf(stderr, "nets %s: %s\n", what,
                failed == 2 ? "see the top of nets.c" : qnet_last_error(ctx));
    qnet_context_destroy(ctx);
    return failed;
}
