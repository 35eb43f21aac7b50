/* new_scan: what a model of all subjects of a study says of one more scan.

       build/new_scan OUT/model QSM R2STAR T1W [MASK]

   OUT/model is what `crossval --final` makes. Prints the probability of disease, the calibrated one, its spread
   over the folds' networks and how unlike the study's scans this one is; examples/predict makes a page of it.
   For research only, not a diagnosis. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/usage.h"

int main(int argc, char **argv)
{
    qnet_scan_files files = {"scan", QNET_HC, 0, QNET_SEX_UNKNOWN, NULL, NULL, NULL, NULL, NULL};
    qnet_context *ctx;
    qnet_predictor *predictor = NULL;
    qnet_cohort *cohort = NULL;
    qnet_prediction r;
    qnet_status status;
    const int bad = usage(argc, argv, 4, 5, "new_scan OUT/model QSM R2STAR T1W [MASK]");
    if (bad >= 0) return bad;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return fputs("new_scan: no memory\n", stderr), 1;
    files.qsm = argv[2], files.r2star = argv[3], files.t1w = argv[4], files.mask = argc > 5 ? argv[5] : NULL;
    status = qnet_predictor_open(ctx, argv[1], &predictor);
    if (status == QNET_OK) status = qnet_cohort_load(ctx, &predictor->input, &files, 1, &cohort);
    if (status == QNET_OK) status = qnet_predictor_run(predictor, cohort, 0, &r);
    const char *name = status == QNET_OK ? qnet_safetensors_metadata(predictor->record, "positive") : NULL;
    if (!name) name = "HH";
    if (status != QNET_OK) fprintf(stderr, "new_scan: %s\n", qnet_last_error(ctx));
    else if (r.refused) puts(r.seen ? "refused: a scan of the study" : "refused: unlike the study's scans");
    else if (predictor->calibrated) printf("P(%s) %.4f, calibrated %.4f\n", name, r.probability, r.calibrated);
    else printf("P(%s) %.4f\n", name, r.probability); /* the study was too small to calibrate by */
    for (int k = 0; status == QNET_OK && k < predictor->folds; k++) printf("fold %d: %.4f\n", k + 1, r.by_fold[k]);
    if (status == QNET_OK) printf("distance %.1f, limit %.1f\n", r.distance, predictor->limit);
    qnet_cohort_destroy(cohort);
    qnet_predictor_destroy(predictor);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
