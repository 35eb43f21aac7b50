/* One step of an LSTM cell by hand, Eqs. (1)-(5) of the paper, beside qnet_lstm_cell.

       i = sigma(W_i x + U_i h' + b_i)                  (1)  input gate
       o = sigma(W_o x + U_o h' + b_o)                  (2)  output gate
       f = sigma(W_f x + U_f h' + b_f)                  (3)  forget gate
       c = f c' + i tanh(W_c x + U_c h' + b_c)          (4)  cell state
       h = o tanh(c)                                    (5)  hidden state

   Run it: the last line must read "h[0] = 0.248939". PyTorch's LSTMCell gives the same number. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"

#include <math.h>

enum { IN = 3, HIDDEN = 2 };

/* The matrices of each equation by themselves, as a paper writes them. */
static const double W_i[HIDDEN][IN] = { { .5, -.1, .2 }, { .1, .4, -.3 } };
static const double W_f[HIDDEN][IN] = { { -.2, .3, .1 }, { .6, .2, .1 } };
static const double W_c[HIDDEN][IN] = { { .7, -.5, .4 }, { -.4, .8, .3 } };
static const double W_o[HIDDEN][IN] = { { .2, .2, -.6 }, { .3, -.7, .5 } };
static const double U_i[HIDDEN][HIDDEN] = { { .1, -.2 }, { .3, .4 } };
static const double U_f[HIDDEN][HIDDEN] = { { -.5, .2 }, { .1, .6 } };
static const double U_c[HIDDEN][HIDDEN] = { { .3, .7 }, { -.8, .2 } };
static const double U_o[HIDDEN][HIDDEN] = { { .4, -.1 }, { .2, .5 } };
static const double b_i[HIDDEN] = { .1, 0 }, b_f[HIDDEN] = { 1, 1 };
static const double b_c[HIDDEN] = { 0, -.1 }, b_o[HIDDEN] = { .2, .1 };

static const double x[IN] = { 1, -.5, 2 };
static const double h_before[HIDDEN] = { .3, -.4 }, c_before[HIDDEN] = { .5, -1 };

static double sigma(double a) { return 1 / (1 + exp(-a)); }

/* Row j of W x + U h' + b. */
static double affine(const double W[HIDDEN][IN], const double U[HIDDEN][HIDDEN], const double *b, int j)
{
    double sum = b[j];
    int k;
    for (k = 0; k < IN; k++) sum += W[j][k] * x[k];
    for (k = 0; k < HIDDEN; k++) sum += U[j][k] * h_before[k];
    return sum;
}

/* qnet and PyTorch stack the gates in the order i, f, g (the tanh of Eq. 4), o: gate number `gate`
   of the stacked arrays gets these matrices. */
static void stack(int gate, const double W[HIDDEN][IN], const double U[HIDDEN][HIDDEN], const double *b,
                  qnet_real *w_all, qnet_real *u_all, qnet_real *b_all)
{
    int j, k;
    for (j = 0; j < HIDDEN; j++) {
        int row = gate * HIDDEN + j;
        for (k = 0; k < IN; k++) w_all[row * IN + k] = (qnet_real)W[j][k];
        for (k = 0; k < HIDDEN; k++) u_all[row * HIDDEN + k] = (qnet_real)U[j][k];
        b_all[row] = (qnet_real)b[j];
    }
}

int main(int argc, char **argv)
{
    qnet_real w[4 * HIDDEN * IN], u[4 * HIDDEN * HIDDEN], b[4 * HIDDEN], gates[4 * HIDDEN];
    qnet_real xs[IN], hs[HIDDEN], cs[HIDDEN];
    double h[HIDDEN], c[HIDDEN], worst = 0;
    int j;
    const int bad = usage(argc, argv, 0, 0, "lstm_cell\n\nOne step of an LSTM by hand, beside qnet_lstm_cell.");
    if (bad >= 0) return bad;

    for (j = 0; j < HIDDEN; j++) {
        double i = sigma(affine(W_i, U_i, b_i, j));                            /* (1) */
        double o = sigma(affine(W_o, U_o, b_o, j));                            /* (2) */
        double f = sigma(affine(W_f, U_f, b_f, j));                            /* (3) */
        c[j] = f * c_before[j] + i * tanh(affine(W_c, U_c, b_c, j));           /* (4) */
        h[j] = o * tanh(c[j]);                                                 /* (5) */
    }

    stack(0, W_i, U_i, b_i, w, u, b);
    stack(1, W_f, U_f, b_f, w, u, b);
    stack(2, W_c, U_c, b_c, w, u, b);
    stack(3, W_o, U_o, b_o, w, u, b);
    for (j = 0; j < IN; j++) xs[j] = (qnet_real)x[j];
    for (j = 0; j < HIDDEN; j++) hs[j] = (qnet_real)h_before[j];
    for (j = 0; j < HIDDEN; j++) cs[j] = (qnet_real)c_before[j];
    qnet_lstm_cell(IN, HIDDEN, w, u, b, xs, hs, cs, hs, cs, gates);

    printf("              by hand   qnet_lstm_cell\n");
    for (j = 0; j < HIDDEN; j++) {
        printf("c[%d]       %10.6f   %10.6f\n", j, c[j], (double)cs[j]);
        printf("h[%d]       %10.6f   %10.6f\n", j, h[j], (double)hs[j]);
        worst = fmax(worst, fmax(fabs(h[j] - (double)hs[j]), fabs(c[j] - (double)cs[j])));
    }
    printf("largest difference %.1e\n", worst);
    printf("h[0] = %.6f\n", (double)hs[0]);
    return worst < 1e-6 ? 0 : 1; /* a float holds seven digits */
}
