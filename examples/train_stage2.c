/* train_stage2: the scan-level model (BiLSTM and its two heads) on the features of train_stage1.

       build/train_stage2 FEATURES.safetensors [WEIGHTS.safetensors [EPOCHS]]

   FEATURES holds "features" [scans][steps][512] and, by scan, "length", "label" and "fold"; scans
   of fold 0 test, the others train (50 epochs unless told otherwise). WEIGHTS gets the model.
   The last line is "scans of the test subjects: N of M right": 2 of 4 after the run that
   train_stage1.c tells of. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"

#include <stdlib.h>

static int show(void *user, const qnet_progress_info *p)
{
    (void)user;
    if (p->step == p->steps && (p->epoch % 10 == 0 || p->epoch == 1))
        printf("%s: epoch %d of %d, loss %.4f\n", p->task, p->epoch, p->epochs, p->loss);
    return 0;
}

/* A tensor of this name, type and shape[0], or NULL after saying so. */
static const void *tensor(const qnet_safetensors *file, const char *name, qnet_dtype dtype,
                          int ndim, size_t count)
{
    const qnet_safetensor *t = qnet_safetensors_find(file, name);
    if (t != NULL && t->dtype == dtype && t->ndim == ndim && t->shape[0] == count) return t->data;
    fprintf(stderr, "train_stage2: tensor '%s' is missing or not %s [%d]...\n", name,
            qnet_dtype_name(dtype), (int)count);
    return NULL;
}

int main(int argc, char **argv)
{
    const qnet_dtype real = sizeof(qnet_real) == 8 ? QNET_F64 : QNET_F32;
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_safetensors *file = NULL;
    const qnet_safetensor *shape;
    const qnet_real *features;
    const int32_t *facts[3]; /* length, label, fold */
    qnet_stage2_config config;
    qnet_training *run = NULL;
    qnet_real *part[2];                /* features of the scans that train, that test */
    int *length[2], *label[2];
    double *probability;
    int i, k, side, n, count[2] = {0, 0}, right = 0;
    size_t row;
    qnet_status status;
    const int bad = usage(argc, argv, 1, 3, "train_stage2 FEATURES [WEIGHTS [EPOCHS]]");
    if (bad >= 0) return bad;
    memset(&hooks, 0, sizeof hooks);
    hooks.progress.report = show;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return fputs("train_stage2: no memory\n", stderr), 1;
    if (qnet_safetensors_load(ctx, argv[1], &file) != QNET_OK) {
        fprintf(stderr, "train_stage2: %s\n", qnet_last_error(ctx));
        return 1;
    }
    shape = qnet_safetensors_find(file, "features");
    if (shape == NULL || shape->ndim != 3 || shape->dtype != real ||
        shape->shape[2] != QNET_FEATURES || shape->shape[0] > 100000 || shape->shape[1] > 1000) {
        fprintf(stderr, "train_stage2: no features [scans][steps][512] in %s\n", argv[1]);
        return 1;
    }
    features = (const qnet_real *)shape->data;
    n = (int)shape->shape[0];
    facts[0] = (const int32_t *)tensor(file, "length", QNET_I32, 1, shape->shape[0]);
    facts[1] = (const int32_t *)tensor(file, "label", QNET_I32, 1, shape->shape[0]);
    facts[2] = (const int32_t *)tensor(file, "fold", QNET_I32, 1, shape->shape[0]);
    if (!facts[0] || !facts[1] || !facts[2]) return 1;

    qnet_stage2_config_init(&config);
    config.steps = (int)shape->shape[1];
    if (argc > 3) config.epochs = atoi(argv[3]);
    row = shape->shape[1] * QNET_FEATURES;
    for (side = 0; side < 2; side++) {
        part[side] = (qnet_real *)malloc(((size_t)n * row + 1) * sizeof(qnet_real));
        length[side] = (int *)malloc(((size_t)n + 1) * sizeof(int));
        label[side] = (int *)malloc(((size_t)n + 1) * sizeof(int));
        if (!part[side] || !length[side] || !label[side]) return 1;
    }
    for (i = 0; i < n; i++) {
        side = facts[2][i] == 0;
        k = count[side]++;
        memcpy(part[side] + (size_t)k * row, features + (size_t)i * row, row * sizeof(qnet_real));
        length[side][k] = facts[0][i];
        label[side][k] = facts[1][i];
    }
    probability = (double *)malloc(((size_t)n + 1) * sizeof(double));
    if (!probability) return 1;

    status = qnet_stage2_create(ctx, &config, part[0], length[0], label[0], count[0], &run);
    if (status == QNET_OK) status = qnet_training_run(run, NULL);
    if (status == QNET_OK && argc > 2)
        status = qnet_weights_save(ctx, argv[2], run->model->table, run->model->weights, NULL, 0);
    if (status == QNET_OK)
        status = qnet_scan_model_predict(run->model, part[1], length[1], count[1], NULL,
                                         probability);
    if (status == QNET_OK) {
        for (i = 0; i < count[1]; i++) right += (probability[i] > .5) == label[1][i];
        printf("scans of the test subjects: %d of %d right\n", right, count[1]);
    } else {
        fprintf(stderr, "train_stage2: %s\n", qnet_last_error(ctx));
    }
    qnet_training_destroy(run);
    qnet_safetensors_destroy(file);
    for (side = 0; side < 2; side++) free(part[side]), free(length[side]), free(label[side]);
    free(probability);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
