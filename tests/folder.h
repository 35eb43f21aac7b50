/* folder.h: an experiment, or a cohort, on a BIDS folder, as one call. */
#ifndef FOLDER_H
#define FOLDER_H
#include "examples/crossval/bids.h"

/* Ends with bids.h; its sentence becomes the context's, where private functions are at hand. */
static qnet_status folder_end(qnet_context *ctx, bids *b, qnet_status status)
{
#ifdef qnet__fail
    if (b->error[0]) (void)qnet__fail(ctx, status, "%s", b->error);
#endif
    (void)ctx;
    bids_free(b);
    return status;
}

static inline qnet_status run_folder(qnet_context *ctx, const qnet_experiment_config *config,
                                     const char *folder, const char *out, const char *weights,
                                     int resume, qnet_experiment **e)
{
    qnet_status status;
    bids b;
    memset(&b, 0, sizeof b);
    status = bids_read(&b, ctx, folder);
    if (status == QNET_OK)
        status = qnet_experiment_run(ctx, config, &b.dataset, out, weights, resume, e);
    return folder_end(ctx, &b, status);
}

/* log: of what bids.h warns of. */
static inline qnet_status load_folder(qnet_context *ctx, const qnet_input_config *config,
                                      const char *folder, const char *derivatives, qnet_log log,
                                      qnet_cohort **out)
{
    qnet_status status;
    bids b;
    memset(&b, 0, sizeof b);
    b.derivatives = derivatives;
    b.no_r2star = !config->use_channel[1];
    b.no_t1w = !config->use_channel[2];
    b.any_values = config->any_values;
    b.log = log;
    status = bids_read(&b, ctx, folder);
    if (status == QNET_OK)
        status = qnet_cohort_load(ctx, config, b.dataset.scans, b.dataset.count, out);
    return folder_end(ctx, &b, status);
}
#endif
