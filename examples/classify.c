/* classify: one scan from its NIfTI maps, with trained weights.

       build/classify QSM R2STAR T1W MASK RESNET.safetensors QNET.safetensors

   The weights are those that crossval leaves in OUT/weights (...-resnetswa and ...-qnet of a fold);
   how images were prepared for them stands in the same file, so it cannot be got wrong here.
   Prints the probability of HH slice by slice and, last, of the scan. For a scan of the test fold
   that is the number in the p_qnet column of OUT/predictions.csv. */
#define QNET_IMPLEMENTATION
#include "qnet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    qnet_volume *map[4]; /* QSM, R2*, T1W, mask */
    qnet_cohort *cohort; /* of one scan */
    qnet_resnet *resnet;
    qnet_scan_model *qnet;
    qnet_real *features;         /* [max_slices][512] */
    double *by_resnet, *by_qnet; /* [max_slices] */
} job;

static qnet_status load_scan(qnet_context *ctx, char **path, const qnet_input_config *input, job *j)
{
    qnet_scan_maps maps;
    int i;
    for (i = 0; i < 4; i++) {
        qnet_status status = qnet_nifti_load(ctx, path[i], &j->map[i]);
        if (status != QNET_OK) return status;
    }
    memset(&maps, 0, sizeof maps);
    maps.subject = "scan";
    maps.qsm = j->map[0];
    maps.r2star = j->map[1];
    maps.t1w = j->map[2];
    maps.mask = j->map[3];
    if (qnet_cohort_create(ctx, input, 1, &j->cohort) != QNET_OK) return QNET_ERROR_MEMORY;
    return qnet_cohort_add(j->cohort, &maps);
}

static qnet_status load_networks(qnet_context *ctx, char **path, const qnet_input_config *input,
                                 job *j)
{
    qnet_resnet_config resnet;
    qnet_scan_config scan;
    qnet_status status;
    qnet_resnet_config_init(&resnet);
    resnet.height = resnet.width = input->size;
    resnet.batch = 16; /* slices at once, as many as keep the bits of training's networks */
    resnet.training = 0;
    qnet_scan_config_init(&scan);
    scan.steps = input->max_slices;
    scan.batch = 1;
    scan.training = 0;
    status = qnet_resnet_create(ctx, &resnet, &j->resnet);
    if (status == QNET_OK)
        status = qnet_weights_load(ctx, path[0], j->resnet->table, j->resnet->weights, 0, NULL);
    if (status == QNET_OK) status = qnet_scan_model_create(ctx, &scan, &j->qnet);
    if (status == QNET_OK)
        status = qnet_weights_load(ctx, path[1], j->qnet->table, j->qnet->weights, 0, NULL);
    return status;
}

/* Probability of HH of the scan, by the whole network. */
static qnet_status classify(qnet_context *ctx, char **path, job *j, double *probability)
{
    const int only[1] = {0};
    qnet_input_config input;
    qnet_augment_config augment;
    qnet_status status = qnet_preparation_load(ctx, path[4], &input, &augment);
    size_t steps;
    if (status == QNET_OK) status = load_scan(ctx, path, &input, j);
    if (status == QNET_OK) status = load_networks(ctx, path + 4, &input, j);
    if (status != QNET_OK) return status;
    steps = (size_t)input.max_slices;
    j->features = (qnet_real *)malloc(steps * QNET_FEATURES * sizeof(qnet_real));
    j->by_resnet = (double *)malloc(2 * steps * sizeof(double));
    if (!j->features || !j->by_resnet) return QNET_ERROR_MEMORY;
    j->by_qnet = j->by_resnet + steps;
    status = qnet_embed(j->resnet, &augment, j->cohort, only, 1, j->features, j->by_resnet);
    if (status == QNET_OK)
        status = qnet_scan_model_predict(j->qnet, j->features, &j->cohort->scans[0].slices, 1,
                                         j->by_qnet, probability);
    return status;
}

int main(int argc, char **argv)
{
    qnet_context *ctx;
    qnet_status status;
    double probability = 0;
    job j;
    int i;
    if (argc != 7) {
        fprintf(stderr,
                "usage: classify QSM R2STAR T1W MASK RESNET.safetensors QNET.safetensors\n");
        return 2;
    }
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    memset(&j, 0, sizeof j);
    status = classify(ctx, argv + 1, &j, &probability);
    if (status == QNET_OK) {
        printf("    z  ResNetSWA   Q-Net\n");
        for (i = 0; i < j.cohort->scans[0].slices; i++)
            printf("%5d  %9.4f  %6.4f\n", j.cohort->scans[0].slice_z[i], j.by_resnet[i],
                   j.by_qnet[i]);
        printf("probability of HH: %.4f\n", probability);
    } else {
        fprintf(stderr, "classify: %s: %s\n", qnet_status_text(status), qnet_last_error(ctx));
    }
    free(j.features);
    free(j.by_resnet);
    qnet_scan_model_destroy(j.qnet);
    qnet_resnet_destroy(j.resnet);
    qnet_cohort_destroy(j.cohort);
    for (i = 0; i < 4; i++) qnet_volume_destroy(j.map[i]);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
