/* train_stage1: the image-level model (ResNet18 with SWA) on a folder of NIfTI maps.

       build/train_stage1 FOLDER WEIGHTS.safetensors FEATURES.safetensors [EPOCHS [SIZE]]

   Three quarters of the subjects train (10 epochs at 64 x 64 unless told otherwise), one quarter is
   kept for testing. WEIGHTS gets the network with torchvision's names; FEATURES the 512 features of
   every slice of every scan, which is what train_stage2 starts from. Stopped with Ctrl-C and
   started again, it goes on from WEIGHTS.checkpoint with the same bits.
   The last line is "images of the test subjects: N of M right": with 6 epochs 34 of 49 on what
   build/make_phantom --out FOLDER --hh 8 --hc 8 writes (another kind of CPU rounds differently and
   may find a few more or less). */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/crossval/bids.h"
#include "examples/usage.h"

#include <stdlib.h>

#define FOLDS 4

static int show(void *user, const qnet_progress_info *p)
{
    (void)user;
    if (p->step == p->steps && p->epochs > 0)
        printf("%s: epoch %d of %d, loss %.4f, %.0f images/s, %.0f s left\n", p->task, p->epoch,
               p->epochs, p->loss, p->items_per_second, p->seconds_left);
    return 0;
}

static qnet_status train(qnet_context *ctx, const qnet_stage1_config *config,
                         const qnet_cohort *cohort, const int *scans, int count,
                         const char *checkpoint, qnet_training **run)
{
    qnet_status status = qnet_stage1_create(ctx, config, cohort, scans, count, NULL, run);
    if (status == QNET_OK && qnet_file_exists(checkpoint))
        status = qnet_training_load(*run, checkpoint);
    if (status == QNET_OK) status = qnet_training_run(*run, checkpoint);
    return status;
}

/* What train_stage2 needs: features[scans][steps][512], and length, label and fold of each scan. */
static qnet_status write_features(qnet_context *ctx, const char *path, const qnet_cohort *cohort,
                                  const qnet_real *features, const int32_t *facts)
{
    static const char *const name[] = {"features", "length", "label", "fold"};
    const size_t count = (size_t)cohort->scans_count;
    qnet_safetensor tensors[4];
    qnet_buffer bytes;
    qnet_sink sink;
    qnet_status status;
    int i;
    memset(tensors, 0, sizeof tensors);
    memset(&bytes, 0, sizeof bytes);
    for (i = 0; i < 4; i++) {
        strcpy(tensors[i].name, name[i]);
        tensors[i].dtype = i > 0 ? QNET_I32 : sizeof(qnet_real) == 8 ? QNET_F64 : QNET_F32;
        tensors[i].ndim = i > 0 ? 1 : 3;
        tensors[i].shape[0] = count;
        tensors[i].shape[1] = (size_t)cohort->config.max_slices;
        tensors[i].shape[2] = QNET_FEATURES;
        tensors[i].data = i > 0 ? (const void *)(facts + count * (size_t)(i - 1)) : features;
    }
    sink = qnet_sink_buffer(ctx, &bytes, path);
    status = qnet_safetensors_write(ctx, &sink, tensors, 4, NULL, 0);
    if (status == QNET_OK) status = qnet_file_replace(ctx, path, bytes.bytes, bytes.size);
    qnet_buffer_free(ctx, &bytes);
    return status;
}

int main(int argc, char **argv)
{
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_input_config input;
    qnet_stage1_config config;
    qnet_cohort *cohort = NULL;
    qnet_training *run = NULL;
    bids found;
    qnet_real *features = NULL;
    double *probability = NULL;
    int32_t *facts = NULL; /* length, label, fold: [3][scans] */
    int *fold = NULL, *scans = NULL;
    char checkpoint[1024];
    int i, t, n = 0, train_count = 0, right = 0, images = 0;
    qnet_status status;
    const int bad = usage(argc, argv, 3, 5, "train_stage1 FOLDER WEIGHTS FEATURES [EPOCHS [SIZE]]");
    if (bad >= 0) return bad;
    memset(&hooks, 0, sizeof hooks);
    hooks.progress.report = show;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return fputs("train_stage1: no memory\n", stderr), 1;
    snprintf(checkpoint, sizeof checkpoint, "%s.checkpoint", argv[2]);
    qnet_input_config_init(&input, QNET_INPUT_CROP);
    input.size = argc > 5 ? atoi(argv[5]) : 64;
    qnet_stage1_config_init(&config);
    config.epochs = argc > 4 ? atoi(argv[4]) : 10;
    config.size = input.size;
    config.batch = 16;
    memset(&found, 0, sizeof found);
    status = bids_read(&found, ctx, argv[1]);
    if (status == QNET_OK)
        status = qnet_cohort_load(ctx, &input, found.dataset.scans, found.dataset.count, &cohort);
    if (status == QNET_OK) {
        const size_t steps = (size_t)input.max_slices;
        n = cohort->scans_count;
        features = (qnet_real *)malloc((size_t)n * steps * QNET_FEATURES * sizeof *features);
        probability = (double *)malloc((size_t)n * steps * sizeof *probability);
        facts = (int32_t *)malloc(3 * (size_t)n * sizeof *facts);
        fold = (int *)malloc((size_t)n * sizeof *fold);
        scans = (int *)malloc((size_t)n * sizeof *scans);
        if (!features || !probability || !facts || !fold || !scans) return 1;
        status = qnet_folds_create(ctx, cohort, FOLDS, 1, fold);
    }
    if (status == QNET_OK) {
        for (i = 0; i < n; i++) {
            facts[i] = cohort->scans[i].slices;
            facts[n + i] = cohort->scans[i].label;
            facts[2 * n + i] = fold[i];
            if (fold[i] != 0) scans[train_count++] = i;
        }
        status = train(ctx, &config, cohort, scans, train_count, checkpoint, &run);
    }
    if (status == QNET_OK)
        status = qnet_weights_save(ctx, argv[2], run->net->table, run->net->weights, NULL, 0);
    if (status == QNET_OK) {
        for (i = 0; i < n; i++) scans[i] = i;
        status = qnet_embed(run->net, &config.augment, cohort, scans, n, features,
                            probability);
    }
    if (status == QNET_OK) status = write_features(ctx, argv[3], cohort, features, facts);
    if (status == QNET_OK) {
        for (i = 0; i < n; i++)
            for (t = 0; fold[i] == 0 && t < facts[i]; t++, images++)
                right += (probability[i * input.max_slices + t] > .5) == facts[n + i];
        printf("images of the test subjects: %d of %d right\n", right, images);
        remove(checkpoint);
    } else {
        fprintf(stderr, "train_stage1: %s\n", bids_error(&found));
    }
    qnet_training_destroy(run);
    qnet_cohort_destroy(cohort);
    bids_free(&found);
    free(features), free(probability), free(facts), free(fold), free(scans);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
