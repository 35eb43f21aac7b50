/* plain_scan.h: the scan-level model with the public layer calls of qnet.h, forward, loss and backward: the
   BiLSTM over a scan's slices, a head on each step and a head on all steps side by side. Used and traced as
   plain_resnet.h, plain_free included. Include qnet.h first. */
#ifndef PLAIN_SCAN_H
#define PLAIN_SCAN_H

#include "plain_resnet.h"

/* x[batch][steps][features], length[batch], label[batch] to loss = {CE of the image head, of the scan head} and
   p->gradients, for p->weights with p->table. */
static inline qnet_status plain_scan(plain_net *p, const qnet_scan_config *config, const qnet_real *x,
                                     const int *length, const int *label, int batch, double loss[2])
{
    static const char *const name[2][4] = {
        {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"},
        {"weight_ih_l0_reverse", "weight_hh_l0_reverse", "bias_ih_l0_reverse", "bias_hh_l0_reverse"}};
    const int width = 2 * config->hidden, classes = config->classes, steps = config->steps;
    const size_t scans = (size_t)batch, rows = scans * (size_t)steps, w = (size_t)width, k = (size_t)classes;
    const qnet_lstm shape = {batch, steps, config->features, config->hidden};
    const qnet_real *image_w = plain_find(p, p->weights, "image_head", "weight");
    const qnet_real *scan_w = plain_find(p, p->weights, "scan_head", "weight");
    qnet_lstm_weights lstm;
    qnet_lstm_gradients dlstm;
    qnet_real *bias[2], *y, *dy, *dy_scan, *saved, *image, *scan;
    int *image_label = (int *)plain_bytes(p, rows * sizeof *image_label), d;
    size_t i;
    if (image_label == NULL) return QNET_ERROR_MEMORY;
    PLAIN_TRY(plain_new(p, rows * w, &y));
    PLAIN_TRY(plain_new(p, rows * w, &dy));
    PLAIN_TRY(plain_new(p, rows * w, &dy_scan));
    PLAIN_TRY(plain_new(p, qnet_lstm_saved(&shape), &saved));
    PLAIN_TRY(plain_new(p, rows * k, &image));
    PLAIN_TRY(plain_new(p, scans * k, &scan));
    for (d = 0; d < 2; d++) { /* PyTorch's two biases of a gate are one to the layer */
        const qnet_real *b_ih = plain_find(p, p->weights, "lstm", name[d][2]);
        const qnet_real *b_hh = plain_find(p, p->weights, "lstm", name[d][3]);
        PLAIN_TRY(plain_new(p, 2 * w, &bias[d]));
        for (i = 0; i < 2 * w; i++) bias[d][i] = b_ih[i] + b_hh[i];
        lstm.w[d] = plain_find(p, p->weights, "lstm", name[d][0]);
        lstm.u[d] = plain_find(p, p->weights, "lstm", name[d][1]);
        lstm.b[d] = bias[d];
        dlstm.w[d] = plain_find(p, p->gradients, "lstm", name[d][0]);
        dlstm.u[d] = plain_find(p, p->gradients, "lstm", name[d][1]);
        dlstm.b[d] = plain_find(p, p->gradients, "lstm", name[d][2]);
    }

    /* Padded steps are zero in y; their image logits are zero, and have no loss. */
    PLAIN_TRY(qnet_lstm_forward(p->ctx, &shape, length, &lstm, x, y, saved, NULL));
    plain_show(p, "", "lstm", y, 3, scans, (size_t)steps, w, 1);
    PLAIN_TRY(qnet_dense_forward(p->ctx, rows, width, classes, y, image_w,
                                 plain_find(p, p->weights, "image_head", "bias"), image, NULL));
    for (i = 0; i < rows; i++) {
        const int scan_of = (int)(i / (size_t)steps), step = (int)(i % (size_t)steps);
        image_label[i] = step < length[scan_of] ? label[scan_of] : -1;
        if (image_label[i] < 0) memset(image + i * k, 0, k * sizeof *image);
    }
    plain_show(p, "", "image_head", image, 3, scans, (size_t)steps, k, 1);
    PLAIN_TRY(qnet_dense_forward(p->ctx, scans, steps * width, classes, y, scan_w,
                                 plain_find(p, p->weights, "scan_head", "bias"), scan, NULL));
    plain_show(p, "", "scan_head", scan, 2, scans, k, 1, 1);

    /* loss = CE(scan) + CE(image); from here on image and scan are the gradients of the logits. */
    PLAIN_TRY(qnet_cross_entropy(p->ctx, scans, classes, scan, label, &loss[1], scan));
    PLAIN_TRY(qnet_cross_entropy(p->ctx, rows, classes, image, image_label, &loss[0], image));
    plain_show(p, "grad ", "scan_head", scan, 2, scans, k, 1, 1);
    plain_show(p, "grad ", "image_head", image, 3, scans, (size_t)steps, k, 1);
    PLAIN_TRY(qnet_dense_backward(p->ctx, scans, steps * width, classes, y, scan_w, scan, dy_scan,
                                  plain_find(p, p->gradients, "scan_head", "weight"),
                                  plain_find(p, p->gradients, "scan_head", "bias"), NULL));
    PLAIN_TRY(qnet_dense_backward(p->ctx, rows, width, classes, y, image_w, image, dy,
                                  plain_find(p, p->gradients, "image_head", "weight"),
                                  plain_find(p, p->gradients, "image_head", "bias"), NULL));
    for (i = 0; i < rows * w; i++) dy[i] = image_label[i / w] < 0 ? 0 : dy[i] + dy_scan[i];
    plain_show(p, "grad ", "lstm", dy, 3, scans, (size_t)steps, w, 1);
    PLAIN_TRY(qnet_lstm_backward(p->ctx, &shape, length, &lstm, x, y, saved, dy, NULL, &dlstm, NULL));
    for (d = 0; d < 2; d++)
        memcpy(plain_find(p, p->gradients, "lstm", name[d][3]), dlstm.b[d], 2 * w * sizeof *dy);
    return QNET_OK;
}

#endif
