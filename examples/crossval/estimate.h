/* estimate.h: how long a run will take, how much memory and disk, before its first epoch: from two probed
   training steps at the real size and batch, one pass without training, and one epoch of stage 2. */
#ifndef CROSSVAL_ESTIMATE_H
#define CROSSVAL_ESTIMATE_H
#include "program.h"
#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#endif

typedef struct estimate {
    int images, scans;
    long long folds, all_folds; /* of this part; of the whole */
    double seconds, step;       /* of all; of one step of stage 1, at `input` */
    double memory, disk;        /* bytes: at most; of the weights that stay */
    double work_disk;           /* of what lies there while it works */
} estimate;

/* Seconds of each piece of work. */
typedef struct probe {
    double train, forward; /* of an image, at this size */
    double epoch2;         /* of stage 2, on all scans */
    double save;           /* of a checkpoint of stage 1 */
    double numbers[2];     /* not seconds: the weights of either network */
} probe;

static double estimate_clock(const qnet_context *ctx)
{
    const qnet_hooks *hooks = qnet_context_hooks(ctx);
    return hooks->clock.seconds(hooks->clock.user);
}

/* Stage 1 on the scans that fill two steps. The first epoch also touches the memory for the first time; it
   counts only where a second one would take long. */
static qnet_status probe_stage1(qnet_context *ctx, const qnet_experiment_config *c, const qnet_cohort *cohort,
                                int *scans, const char *folder, probe *p)
{
    qnet_stage1_config config = c->stage1;
    qnet_training *run = NULL;
    qnet_status status;
    char path[700];
    int count = 0, images = 0;
    for (; count < cohort->scans_count; count++) {
        const int more = cohort->scans[count].slices;
        if (count > 0 && images + more > 2 * config.batch) break;
        scans[count] = count;
        images += more;
    }
    config.size = cohort->config.size;
    config.swa = 0;
    config.epochs = 2;
    status = qnet_stage1_create(ctx, &config, cohort, scans, count, NULL, &run);
    if (status == QNET_OK) status = qnet_training_epoch(run);
    if (status == QNET_OK && run->history[0].seconds < 20) status = qnet_training_epoch(run);
    if (status == QNET_OK) {
        double start = estimate_clock(ctx);
        p->train = run->history[run->epoch - 1].seconds / images;
        p->numbers[0] = (double)run->net->table->total;
        double *probability = (double *)malloc((size_t)count * (size_t)cohort->config.max_slices * sizeof(double));
        if (probability)
            status = qnet_embed(run->net, &config.augment, cohort, scans, count, NULL, probability);
        free(probability);
        p->forward = (estimate_clock(ctx) - start) / images;
        start = estimate_clock(ctx);
        snprintf(path, sizeof path, "%.600s/probe.checkpoint", folder ? folder : "");
        if (folder && status == QNET_OK && qnet_training_save(run, path) == QNET_OK)
            p->save = estimate_clock(ctx) - start;
        if (folder) (void)remove(path);
    }
    qnet_training_destroy(run);
    return status;
}

/* An epoch of stage 2 on all scans, of features that are 0: the time does not depend on them. */
static qnet_status probe_stage2(qnet_context *ctx, const qnet_experiment_config *c, const qnet_cohort *cohort,
                                probe *p)
{
    const size_t n = (size_t)cohort->scans_count;
    qnet_stage2_config config = c->stage2;
    qnet_training *run = NULL;
    qnet_status status = QNET_ERROR_MEMORY;
    config.steps = cohort->config.max_slices;
    config.epochs = 1;
    qnet_real *features = (qnet_real *)calloc(n * (size_t)config.steps, QNET_FEATURES * sizeof *features);
    int *length = (int *)calloc(2 * n, sizeof *length);
    for (size_t s = 0; length && s < n; s++) {
        length[s] = cohort->scans[s].slices;
        length[n + s] = (int)cohort->scans[s].label;
    }
    if (features && length)
        status = qnet_stage2_create(ctx, &config, features, length, length + n, (int)n, &run);
    if (status == QNET_OK) status = qnet_training_epoch(run);
    if (status == QNET_OK) p->epoch2 = run->history[0].seconds, p->numbers[1] = (double)run->model->table->total;
    qnet_training_destroy(run);
    free(features);
    free(length);
    return status;
}

/* How many of the folds of an input are of this part, which has every parts-th. */
static long long estimate_folds(const qnet_experiment_config *c, int input)
{
    const long long first = input == 1 && c->use_input[0] ? (long long)c->repeats * c->folds : 0;
    long long n = 0;
    for (long long k = first; k < first + (long long)c->repeats * c->folds && c->use_input[input]; k++)
        n += c->part <= 0 || k % c->parts == c->part - 1;
    return n;
}

/* The most memory that this process has had so far, bytes; 0: unknown. */
static double estimate_peak(void)
{
#if defined(__unix__) || defined(__APPLE__)
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (double)usage.ru_maxrss;
#else
    return 1024.0 * (double)usage.ru_maxrss;
#endif
#else
    return 0;
#endif
}

/* From one cohort: those of the other input have as many images, of another size. folder: where a
   checkpoint may be written for the time of it; NULL: nowhere. */
static qnet_status estimate_make(qnet_context *ctx, const qnet_experiment_config *c, const qnet_cohort *cohort,
                                 const char *folder, estimate *out)
{
    const int start = qnet_stage1_swa_start(&c->stage1), averaged = c->stage1.epochs - start;
    const double epochs1 = c->stage1.epochs + averaged, of_size = (double)cohort->config.size * cohort->config.size;
    double images = 0;
    probe p;
    qnet_status status;
    int *scans = (int *)malloc((size_t)cohort->scans_count * sizeof *scans);
    memset(&p, 0, sizeof p);
    memset(out, 0, sizeof *out);
    status = scans ? QNET_OK : QNET_ERROR_MEMORY;
    if (status == QNET_OK) status = probe_stage1(ctx, c, cohort, scans, folder, &p);
    if (status == QNET_OK) status = probe_stage2(ctx, c, cohort, &p);
    free(scans);
    if (status != QNET_OK) return status;
    for (int s = 0; s < cohort->scans_count; s++) images += cohort->scans[s].slices;
    out->images = (int)images;
    out->scans = cohort->scans_count;
    const double train = images * (c->folds - 1) / c->folds, test = images / c->folds;
    const double bytes = sizeof(qnet_real);
    out->step = p.train * fmin(c->stage1.batch, train);
    for (int i = 0; i < 2; i++) {
        const double scale = (double)c->input[i].size * c->input[i].size / of_size;
        const double side = qnet_input_prepared(&c->input[i]);
        const long long folds = estimate_folds(c, i);
        qnet_resnet_config net;
        if (!c->use_input[i]) continue;
        /* Each fold: two runs of stage 1 that share their first epochs; statistics of the averaged
           weights and features of the training images; three passes of the test images. */
        const double work = scale * (train * (p.train * epochs1 + 2 * p.forward) + 3 * test * p.forward) +
                            c->stage2.epochs * p.epoch2 * (c->folds - 1) / c->folds;
        /* Checkpoints by the clock, at the end of each epoch at most; then the one that the averaged run begins
           with, and the networks' files. */
        const double ends = epochs1 + c->stage2.epochs * p.numbers[1] / p.numbers[0];
        const double saves = c->checkpoint_seconds > 0 ? fmin(ends, work / c->checkpoint_seconds) : ends;
        const double fold = work + p.save * (saves + 2);
        out->folds += folds;
        out->all_folds += (long long)c->repeats * c->folds;
        out->seconds += (double)folds * fold;
        for (int m = 0; m < 3; m++) {
            const double file = (double)folds * p.numbers[m == 2] * bytes;
            out->work_disk += file;
            if (c->keep[m]) out->disk += file;
        }
        qnet_resnet_config_init(&net);
        net.height = net.width = c->input[i].size;
        net.batch = (int)fmin(c->stage1.batch, train > 1 ? train : 1);
        net.training = 1;
        /* Images, the network with its gradients and layers, Adam's two moments, the average, and the
           features of all scans. */
        const double memory = images * side * side * 3 * sizeof(float) + (double)qnet_resnet_bytes(ctx, &net) +
                              3 * p.numbers[0] * bytes +
                              (double)cohort->scans_count * cohort->config.max_slices * QNET_FEATURES * bytes;
        if (folds > 0) out->memory = fmax(out->memory, memory);
    }
    /* The probe was at full size: what it took is known, with all that is not counted above. Beside it
       lies the checkpoint that the averaged run begins with, while it is read. */
    out->memory = fmax(out->memory, estimate_peak()) + 3 * p.numbers[0] * bytes;
    out->work_disk += 2 * 4 * p.numbers[0] * bytes; /* two checkpoints of stage 1, one of them being written */
    return QNET_OK;
}

/* "3 min", "2 h 10 min", "2.9 days". */
static const char *estimate_time(double seconds, char text[32])
{
    if (seconds < 90) sprintf(text, "%.0f s", fmax(seconds, 1));
    else if (seconds < 5400) sprintf(text, "%.0f min", seconds / 60);
    else if (seconds < 48 * 3600.0) sprintf(text, "%.1f h", seconds / 3600);
    else sprintf(text, "%.1f days", fmin(seconds / 86400, 1e6));
    return text;
}

static const char *estimate_bytes(double bytes, char text[32])
{
    if (bytes < 1e9) sprintf(text, "%.0f MB", fmax(bytes / 1e6, 1));
    else sprintf(text, "%.1f GB", fmin(bytes / 1e9, 1e9));
    return text;
}

/* Two sentences, in two lines. */
static void estimate_text(const estimate *e, const qnet_experiment_config *c, char text[600])
{
    char time[32], step[32], memory[32], disk[32], work[32], part[80] = "", repeats[24] = "";
    const int averaged = c->stage1.epochs - qnet_stage1_swa_start(&c->stage1);
    if (e->folds < e->all_folds) sprintf(part, ", %lld of these %lld here", e->folds, e->all_folds);
    if (c->repeats > 1) sprintf(repeats, " x %d repeats", c->repeats);
    sprintf(step, e->step < 9.95 ? "%.2g s" : "%.0f s", fmin(e->step, 1e6));
    snprintf(text, 600, "About %s: %d images of %d scans, %d folds%s%s%s, each of %d + %d epochs of stage 1 (%s a "
             "step) and %d of stage 2.\nAbout %s of memory, and %s of disk for the weights that stay; %s while "
             "it works.", estimate_time(e->seconds, time), e->images, e->scans, c->folds,
             c->use_input[0] && c->use_input[1] ? " x 2 inputs" : "", repeats, part, c->stage1.epochs, averaged, step, c->stage2.epochs, estimate_bytes(e->memory, memory),
             estimate_bytes(e->disk, disk), estimate_bytes(e->work_disk, work));
}

#endif
