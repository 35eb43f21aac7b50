/* Every layer's gradients against central differences (f(x + h) - f(x - h)) / 2h, in double.

   f is a sum of the layer's outputs with random weights r, so that df/dy = r is what the backward
   pass starts from. Run it: a line per gradient, each error below 1e-7, and at the end
   "20 gradients, all below 1e-7". Change a sign in a backward pass of qnet.h and see it fail. */
#define QNET_REAL double
#define QNET_IMPLEMENTATION
#include "qnet.h"

enum { ROOM = 2048 };
static qnet_context *ctx;
/* inputs, parameters, output, weights of the sum, and the gradients of a..d */
static double a[ROOM], b[ROOM], c[ROOM], d[ROOM], y[ROOM], r[ROOM], da[ROOM], db[ROOM], dc[ROOM], dd[ROOM];
static double mean[ROOM], rstd[ROOM], saved[ROOM];
static uint8_t argmax[ROOM];
static int label[4] = { 1, -1, 0, 2 }, length[3] = { 4, 1, 3 };
static const qnet_conv2d conv = { 2, 5, 6, 3, 4, 3, 2, 1 };
static const qnet_lstm lstm = { 3, 4, 5, 3 };
static int checked, failed;

static double sum(size_t count)
{
    double s = 0;
    size_t i;
    for (i = 0; i < count; i++) s += r[i] * y[i];
    return s;
}

/* The functions of which the gradients are taken; their values do not matter. */
static double f_conv(void *u)
{
    (void)u;
    qnet_conv2d_forward(ctx, &conv, a, b, y, NULL);
    return sum(2 * 3 * 3 * 4);
}
static double f_norm(void *relu)
{
    qnet_batchnorm_forward(ctx, 12, 5, a, b, c, d, relu != NULL, .1, NULL, NULL, mean, rstd, y, NULL);
    return sum(60);
}
static double f_maxpool(void *u)
{
    (void)u;
    qnet_maxpool_forward(ctx, 1, 7, 6, 4, a, y, argmax);
    return sum(4 * 3 * 4);
}
static double f_avgpool(void *u)
{
    (void)u;
    qnet_avgpool_forward(ctx, 2, 9, 4, a, y);
    return sum(8);
}
static double f_dense(void *u)
{
    (void)u;
    qnet_dense_forward(ctx, 6, 7, 3, a, b, c, y, NULL);
    return sum(18);
}
static double f_cross_entropy(void *u)
{
    double loss = 0;
    (void)u;
    qnet_cross_entropy(ctx, 4, 3, a, label, &loss, NULL);
    return loss;
}
/* Both directions' weights lie one after the other in b, c, d. */
static qnet_lstm_weights lstm_weights(void)
{
    qnet_lstm_weights w;
    int k;
    for (k = 0; k < 2; k++) {
        w.w[k] = b + k * 12 * 5;
        w.u[k] = c + k * 12 * 3;
        w.b[k] = d + k * 12;
    }
    return w;
}
static double f_lstm(void *u)
{
    qnet_lstm_weights w = lstm_weights();
    (void)u;
    qnet_lstm_forward(ctx, &lstm, length, &w, a, y, saved, NULL);
    return sum(3 * 4 * 6);
}

static void check(const char *layer, const char *of, qnet_scalar_function f, void *user, double *x,
                  const double *gradient, size_t count)
{
    qnet_gradcheck_result worst;
    if (qnet_gradcheck(ctx, f, user, x, gradient, count, 0, 3e-5, &worst) != QNET_OK) {
        printf("%s\n", qnet_last_error(ctx));
        exit(1);
    }
    printf("%-28s %-9s %4lu numbers   largest error %.1e at %lu: %+.9f, numeric %+.9f\n", layer, of,
           (unsigned long)count, worst.max_error, (unsigned long)worst.worst, worst.analytic, worst.numeric);
    checked++;
    failed += !(worst.max_error < 1e-7);
}

static void fill(double *x, uint64_t stream)
{
    qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_USER, 0, stream);
    int i;
    for (i = 0; i < ROOM; i++) x[i] = qnet_rng_normal(&rng);
}

int main(void)
{
    qnet_lstm_weights w = lstm_weights();
    qnet_lstm_gradients g;
    double loss;
    int k;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    fill(a, 1); fill(b, 2); fill(c, 3); fill(d, 4); fill(r, 5);

    qnet_conv2d_backward(ctx, &conv, a, b, r, da, db, NULL);
    check("convolution 3x3 / 2", "input", f_conv, NULL, a, da, 2 * 5 * 6 * 3);
    check("convolution 3x3 / 2", "weight", f_conv, NULL, b, db, 3 * 3 * 3 * 4);
    for (k = 0; k < 2; k++) {
        const char *name = k ? "batch norm + residual + ReLU" : "batch norm + residual";
        f_norm(k ? ctx : NULL);
        qnet_batchnorm_backward(ctx, 12, 5, a, b, mean, rstd, k ? y : NULL, r, da, dd, db, dc, NULL);
        check(name, "input", f_norm, k ? ctx : NULL, a, da, 60);
        check(name, "gamma", f_norm, k ? ctx : NULL, b, db, 5);
        check(name, "beta", f_norm, k ? ctx : NULL, c, dc, 5);
        check(name, "residual", f_norm, k ? ctx : NULL, d, dd, 60);
    }
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
    check("softmax + cross-entropy", "logits", f_cross_entropy, NULL, a, da, 12);
    for (k = 0; k < 2; k++) { g.w[k] = db + k * 60; g.u[k] = dc + k * 36; g.b[k] = dd + k * 12; }
    f_lstm(NULL);
    qnet_lstm_backward(ctx, &lstm, length, &w, a, y, saved, r, da, &g, NULL);
    check("BiLSTM, lengths 4 1 3", "input", f_lstm, NULL, a, da, 3 * 4 * 5);
    check("BiLSTM, lengths 4 1 3", "W", f_lstm, NULL, b, db, 120);
    check("BiLSTM, lengths 4 1 3", "U", f_lstm, NULL, c, dc, 72);
    check("BiLSTM, lengths 4 1 3", "b", f_lstm, NULL, d, dd, 24);
    qnet_context_destroy(ctx);
    printf("%d gradients, %s\n", checked, failed ? "some above 1e-7" : "all below 1e-7");
    return failed != 0;
}
