/* test_parity.c: both networks and a training run against PyTorch (tests/golden/sketches.h).

   float: the distance of each of our tensors to PyTorch's float64 one, over all its numbers, is at
   most twice that of PyTorch's own float32. Weights are such that no ReLU and no max pool is near a
   tie (choose_shifts in networks.py), so that the distances are of rounding and of nothing else.
   double: 1e-12 forward, 1e-10 for gradients, 1e-9 for weights after Adam and SWA.
   VERBOSE=1 prints every tensor, otherwise the worst of each table. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "golden/networks_run.h"
#include "golden/distance.h"
#include "plain_scan.h"

static qnet_context *context(void)
{
    qnet_context *ctx = NULL;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    return ctx;
}

/* ---- comparing (golden.h says how) ---- */

#define GOLDEN_SUMS 24 /* the largest K */

/* K = strlen / 8 of the letters. */
static size_t golden_sums(const golden_tensor *golden) { return strlen(golden->sums) / 8; }

/* |x - golden| / |golden| from the sums of x; 0 / 0 is 0. */
static double golden_distance(const golden_tensor *golden, const double *sums)
{
    double units[GOLDEN_SUMS];
    size_t b, k = golden_sums(golden);
    for (b = 0; b < k; b++) units[b] = golden_number(golden->sums + 8 * b, 8) / 35184372088832.0 - 4; /* 2^45 */
    return k > 0 ? golden_apart(sums, golden->norm > 0 ? golden->norm : 1, units, k) : HUGE_VAL;
}

enum { MOST = 256 };
typedef struct table {
    const char *title, *pass; /* pass: what is being collected now */
    const golden_tensor *golden;
    int count, seen[MOST];
    double sums[MOST][GOLDEN_SUMS];
} table;

static void table_start(table *t, const char *title, const golden_tensor *golden, size_t count)
{
    memset(t, 0, sizeof *t);
    t->title = title;
    t->golden = golden;
    t->count = (int)count;
    CHECK(count <= MOST);
}

/* One of our tensors: kept as sums if the table has it. */
static void table_add(table *t, const char *pass, const char *name, const qnet_real *x,
                      size_t count)
{
    int i;
    for (i = 0; i < t->count; i++) {
        if (strcmp(t->golden[i].pass, pass) != 0 || strcmp(t->golden[i].name, name) != 0) continue;
        CHECK(t->golden[i].count == count);
        CHECK(golden_sums(&t->golden[i]) <= GOLDEN_SUMS);
        golden_sketch(x, QNET__REAL_IS_DOUBLE, count, golden_sums(&t->golden[i]), t->sums[i]);
        t->seen[i]++;
    }
}

/* Tensors of plain_resnet.h and plain_scan.h; those of the head come from the network itself. */
static void on_trace(void *user, const char *name, const qnet_real *data, int ndim, const size_t *shape)
{
    table *t = (table *)user;
    size_t count = 1;
    int i;
    for (i = 0; i < ndim; i++) count *= shape[i];
    if (strcmp(name, "avgpool") != 0 && strcmp(name, "fc") != 0) table_add(t, t->pass, name, data, count);
}

/* Every tensor of a parameter table whose pass and name the golden table has. */
static void table_add_params(table *t, const char *pass, const qnet_param_table *params,
                             const qnet_real *values, int trainable)
{
    int i;
    for (i = 0; i < params->count; i++) {
        const qnet_param *p = &params->entries[i];
        if (p->trainable == trainable) table_add(t, pass, p->name, values + p->offset, p->count);
    }
}

/* Tensors of fewer numbers are judged together: among a few roundings, luck decides. */
#define FEW 64
static double few_ours, few_theirs;

static double limit(const char *pass)
{
    if (strcmp(pass, "weights") == 0 || strcmp(pass, "swa") == 0) return 1e-9;
    return strcmp(pass, "grad") == 0 ? 1e-10 : 1e-12; /* stat: statistics of the forward pass */
}

/* Checks all tensors of a table, prints one line. */
static void table_check(const table *t)
{
    static const char *const pass[6] = {"eval", "train", "grad", "stat", "weights", "swa"};
    int p, i;
    CHECK(t->count > 0);
    for (p = 0; p < 6; p++) {
        double worst = -1, at_ours = 0, at_theirs = 0, product = 0;
        const char *name = "";
        int count = 0;
        for (i = 0; i < t->count; i++) {
            const golden_tensor *g = &t->golden[i];
            double ours, measure;
            if (strcmp(g->pass, pass[p]) != 0) continue;
            if (t->seen[i] != 1)
                printf("    %s %s: handed over %d times\n", g->pass, g->name, t->seen[i]);
            CHECK(t->seen[i] == 1);
            ours = golden_distance(g, t->sums[i]);
            if (getenv("VERBOSE"))
                printf("%s %-5s %-32s ours %.3e  PyTorch's float32 %.3e  ratio %.2f\n", t->title,
                       g->pass, g->name, ours, g->torch, ours / g->torch);
            if (QNET__REAL_IS_DOUBLE) {
                measure = ours;
                CHECK_NEAR(ours, 0, limit(g->pass));
                if (!(ours <= limit(g->pass))) printf("    %s %s %s\n", t->title, g->pass, g->name);
            } else if (g->count < FEW) {
                few_ours += ours * ours;
                few_theirs += g->torch * g->torch;
                continue;
            } else {
                measure = ours / g->torch;
                CHECK_NEAR(ours, 0, 2 * g->torch);
                if (!(ours <= 2 * g->torch)) printf("    %s %s %s\n", t->title, g->pass, g->name);
                product += log(measure);
                count++;
            }
            if (measure > worst) {
                worst = measure;
                name = g->name;
                at_ours = ours;
                at_theirs = g->torch;
            }
        }
        if (worst < 0) continue;
        if (QNET__REAL_IS_DOUBLE)
            printf("%s %s: at most %.1e (%s), allowed %.0e\n", t->title, pass[p], worst, name,
                   limit(pass[p]));
        else
            printf("%s %s: on average %.2f of PyTorch's float32 distance to float64; most %.2f "
                   "(%s: ours %.2e, PyTorch's %.2e), allowed 2\n",
                   t->title, pass[p], exp(product / count), worst, name, at_ours, at_theirs);
    }
}

/* ---- the cases of networks.py ---- */

/* The same features by a network for inference alone, whose choice of tiles is its own. */
static void check_inference(const table *t, const qnet_resnet *net, const qnet_real *x)
{
    qnet_resnet_config config = net->config;
    qnet_resnet *alone = NULL;
    qnet_real features[2 * QNET_FEATURES];
    double sums[GOLDEN_SUMS];
    int i;
    config.training = 0;
    CHECK_OK(net->ctx, qnet_resnet_create(net->ctx, &config, &alone));
    memcpy(alone->weights, net->weights, net->table->total * sizeof *net->weights);
    CHECK_OK(net->ctx, qnet_resnet_forward(alone, x, config.batch, 0, NULL, features));
    for (i = 0; strcmp(t->golden[i].pass, "eval") != 0 || strcmp(t->golden[i].name, "avgpool") != 0;) i++;
    golden_sketch(features, QNET__REAL_IS_DOUBLE, 2 * QNET_FEATURES, golden_sums(&t->golden[i]), sums);
    const double ours = golden_distance(&t->golden[i], sums), theirs = t->golden[i].torch;
    CHECK_NEAR(ours, 0, QNET__REAL_IS_DOUBLE ? limit("eval") : 2 * theirs);
    printf("%s inference alone: features %.1e from float64's (PyTorch's float32 %.1e)\n", t->title, ours, theirs);
    qnet_resnet_destroy(alone);
}

static void resnet_case(const char *title, int h, int w, uint32_t index,
                        const golden_tensor *golden, size_t count)
{
    const int batch = 2;
    qnet_context *ctx = context();
    static table t;
    qnet_resnet *net = run_resnet_create(ctx, batch, h, w);
    qnet_real *x = run_images(index, batch, h, w), d[4], logits[4], features[2 * QNET_FEATURES], *weights;
    plain_net p;
    int j;
    CHECK(net != NULL);
    if (net == NULL) return;
    for (j = 0; j < 4; j++) d[j] = (qnet_real)(float)(formula(201, (uint32_t)j) - .5);
    formula_resnet(net);
    run_biases(net);
    table_start(&t, title, golden, count);
    weights = (qnet_real *)malloc(net->table->total * sizeof *weights);
    memcpy(weights, net->weights, net->table->total * sizeof *weights);
    memset(&p, 0, sizeof p);
    p.ctx = ctx, p.table = net->table, p.weights = weights;
    p.trace = on_trace, p.user = &t;
    check_inference(&t, net, x);
    for (j = 0; j < 2; j++) {
        t.pass = j ? "train" : "eval";
        CHECK_OK(ctx, plain_resnet_forward(&p, x, batch, h, w, 3, j, logits));
        CHECK_OK(ctx, qnet_resnet_forward(net, x, batch, j, logits, features));
        table_add(&t, t.pass, "avgpool", features, 2 * QNET_FEATURES);
        table_add(&t, t.pass, "fc", logits, 4);
    }
    CHECK_OK(ctx, qnet_resnet_backward(net, x, batch, d));
    table_add_params(&t, "grad", net->table, net->gradients, 1);
    table_add_params(&t, "stat", net->table, net->weights, 0);
    table_check(&t);
    plain_free(&p);
    free(weights);
    free(x);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
}

static void test_resnet(void)
{
#define CASE(title, h, w, index, golden) \
    resnet_case(title, h, w, index, golden, sizeof golden / sizeof *golden)
    CASE("ResNet18 224x224", 224, 224, 1246, golden_resnet_224);
    CASE("ResNet18 128x128", 128, 128, 1103, golden_resnet_128);
    CASE("ResNet18 97x65", 97, 65, 1039, golden_resnet_97_65);
#undef CASE
}

/* Loss of float within 1e-5 of float64's, or of double within 1e-12. The training run's oracle for
   float has weights rounded to float32 after each step: see tests/golden/networks.py. */
static void check_losses(const char *title, const double *ours, const double *exact,
                         const double *theirs, int count)
{
    double most = 0, most_theirs = 0, allowed = QNET__REAL_IS_DOUBLE ? 1e-12 : 1e-5;
    int k;
    if (QNET__REAL_IS_DOUBLE && count == RUN_LOSSES) allowed = 1e-9; /* as the weights */
    for (k = 0; k < count; k++) {
        double e = fabs(ours[k] - exact[k]) / exact[k];
        most = e > most ? e : most;
        e = fabs(theirs[k] - exact[k]) / exact[k];
        most_theirs = e > most_theirs ? e : most_theirs;
        CHECK_NEAR(ours[k], exact[k], allowed * exact[k]);
    }
    printf("%s losses: at most %.1e from float64's (PyTorch's float32 %.1e), allowed %.0e\n", title,
           most, most_theirs, allowed);
}

static void test_scan(void)
{
    qnet_context *ctx = context();
    static table t;
    qnet_scan_model *model = run_scan_create(ctx);
    qnet_real *x = run_numbers(200, (size_t)RUN_SCANS * RUN_STEPS * QNET_FEATURES, 2, 0);
    double loss[2];
    plain_net p;
    CHECK(model != NULL);
    if (model == NULL) return;
    table_start(&t, "BiLSTM and heads", golden_scan, sizeof golden_scan / sizeof *golden_scan);
    memset(&p, 0, sizeof p);
    p.ctx = ctx, p.table = model->table, p.weights = model->weights, p.gradients = model->gradients;
    p.trace = on_trace, p.user = &t;
    t.pass = "train";
    CHECK_OK(ctx, plain_scan(&p, &model->config, x, run_scan_length, run_scan_label, RUN_SCANS, loss));
    plain_free(&p);
    CHECK_OK(ctx, qnet_scan_model_loss(model, x, run_scan_length, run_scan_label, RUN_SCANS,
                                       &loss[0], &loss[1], 1));
    table_add_params(&t, "grad", model->table, model->gradients, 1);
    table_check(&t);
    check_losses("BiLSTM and heads", loss, golden_scan_losses, golden_scan_losses_float, 2);
    free(x);
    qnet_scan_model_destroy(model);
    qnet_context_destroy(ctx);
}

static void on_part(void *user, const char *part, const qnet_resnet *net)
{
    table *t = (table *)user;
    table_add_params(t, part, net->table, net->weights, 1);
    table_add_params(t, part, net->table, net->weights, 0);
}

/* 20 steps of Adam with the cosine schedule, SWA of five snapshots, its batch-norm pass. */
static void test_training(void)
{
    qnet_context *ctx = context();
    double losses[RUN_LOSSES] = {0};
    qnet_real logits[2 * 64];
#if QNET__REAL_IS_DOUBLE
    static table t;
    table_start(&t, "Adam and SWA", golden_paper, sizeof golden_paper / sizeof *golden_paper);
    CHECK_OK(ctx, run_train(ctx, &run_paper, losses, logits, on_part, &t));
    table_add(&t, "swa", "fc", logits, (size_t)run_paper.batch * 2);
    table_check(&t);
    check_losses("Adam and SWA", losses, golden_paper_losses, golden_paper_losses_float,
                 RUN_LOSSES);
#else
    static table t; /* of no tensor */
    CHECK_OK(ctx, run_train(ctx, &run_gentle, losses, logits, on_part, &t));
    check_losses("Adam and SWA", losses, golden_gentle_losses, golden_gentle_losses_float,
                 RUN_LOSSES);
#endif
    qnet_context_destroy(ctx);
}

static void test_few(void)
{
    if (QNET__REAL_IS_DOUBLE) return;
    printf("tensors of fewer than %d numbers, together: %.2f of PyTorch's float32 distance, "
           "allowed 2\n",
           FEW, sqrt(few_ours / few_theirs));
    CHECK(few_theirs > 0 && few_ours <= 4 * few_theirs);
}

int main(void)
{
    RUN(test_resnet);
    RUN(test_scan);
    RUN(test_training);
    RUN(test_few);
    return test_end();
}
