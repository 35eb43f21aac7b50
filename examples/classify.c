/* classify: one scan from its NIfTI maps, with trained weights.

       build/classify QSM R2STAR T1W MASK --weights OUT --fold 1        build/classify --help

   The weights are those that crossval leaves in OUT/weights: a fold's ResNetSWA and the Q-Net that
   was trained on its features. Both say in their metadata what they are and how images were
   prepared for them, so that neither the pair nor the preparation can be got wrong here.
   Prints the probability of HH slice by slice and, last, of the scan. For a scan of the test fold
   that is the number in the p_qnet column of OUT/predictions.csv. */
#define QNET_IMPLEMENTATION
#include "qnet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: classify QSM R2STAR T1W [MASK] --weights OUT --fold K [--repeat R] [--input KIND]\n"
    "       classify QSM R2STAR T1W [MASK] RESNETSWA.safetensors QNET.safetensors\n"
    "\n"
    "The probability that a scan shows hemochromatosis, by the networks of one fold. For research\n"
    "only, not a diagnosis.\n"
    "\n"
    "  QSM R2STAR T1W   NIfTI maps on one grid: ppm, 1/s, any unit\n"
    "  MASK             of the basal ganglia; not needed where training named slices and centre\n"
    "  --weights OUT    the output folder of crossval, or the folder with the weights themselves\n"
    "  --fold K         from 1; of a subject of that cohort, the fold that tested it: manifest.json\n"
    "  --repeat R       from 1 (1)\n"
    "  --input KIND     crop or full (crop where OUT has it)\n"
    "  --any-values, --any-orientation   go on with maps that would be refused, with a warning\n"
    "\n"
    "Exit status: 0 done, 1 an error (one sentence says which), 2 bad usage.\n";

typedef struct options {
    const char *path[6]; /* QSM, R2*, T1W, mask or NULL, ResNetSWA, Q-Net */
    const char *weights, *input;
    int fold, repeat, any_values, any_orientation, seen;
    char found[2][1024]; /* paths within the folder */
} options;

typedef struct job {
    qnet_safetensors *file[2]; /* ResNetSWA, Q-Net */
    qnet_cohort *cohort;       /* of one scan */
    qnet_resnet *resnet;
    qnet_scan_model *qnet;
    qnet_real *features;         /* [max_slices][512] */
    double *by_resnet, *by_qnet; /* [max_slices] */
} job;

/* ---- The command line ------------------------------------------------------------------------ */

static int fail(const char *name, const char *expected)
{
    fprintf(stderr, "classify: %s: expected %s (see --help)\n", name, expected);
    return 0;
}

/* 1: run; 0: bad usage; -1: help was asked for. */
static int parse(int argc, char **argv, options *o)
{
    const char *given[6];
    int n = 0, i;
    memset(o, 0, sizeof *o);
    o->repeat = 1;
    for (i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        char *end = NULL;
        if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return -1;
        if (strncmp(name, "--", 2) != 0) {
            if (n == 6) return fail(name, "at most six files");
            given[n++] = name;
            continue;
        }
        if (strcmp(name, "--any-values") == 0) {
            o->any_values = 1;
            continue;
        }
        if (strcmp(name, "--any-orientation") == 0) {
            o->any_orientation = 1;
            continue;
        }
        if (strcmp(name, "--seen") == 0) {
            o->seen = 1;
            continue;
        }
        i++;
        if (strcmp(name, "--weights") == 0 && *value) {
            o->weights = value;
        } else if (strcmp(name, "--input") == 0) {
            if (strcmp(value, "crop") && strcmp(value, "full")) return fail(name, "crop or full");
            o->input = value;
        } else if (strcmp(name, "--fold") == 0 || strcmp(name, "--repeat") == 0) {
            const long number = strtol(value, &end, 10);
            if (end == value || *end || number < 1 || number > 100000)
                return fail(name, "a whole number from 1");
            if (name[2] == 'f') o->fold = (int)number;
            else o->repeat = (int)number;
        } else {
            return fail(name, "a known option and, behind it, its value");
        }
    }
    if (o->weights ? n != 3 && n != 4 : n != 5 && n != 6)
        return fail("files", o->weights ? "QSM R2STAR T1W and, mostly, MASK"
                                        : "QSM R2STAR T1W, mostly MASK, and two of weights");
    if (o->weights && o->fold == 0) return fail("--fold", "the fold whose weights to take");
    for (i = 0; i < 3; i++) o->path[i] = given[i];
    if (n == 4 || n == 6) o->path[3] = given[3];
    for (i = 0; i < 2 && !o->weights; i++) o->path[4 + i] = given[n - 2 + i];
    return 1;
}

/* ---- The work -------------------------------------------------------------------------------- */

/* Paths of the fold's weights in the folder: the first that is there of weights/crop-repeat01-...,
   weights/full-..., and the same without weights/; if none is, loading the last will say so. */
static void find_weights(options *o)
{
    static const char *const models[2] = {"resnetswa", "qnet"}, *const inputs[2] = {"crop", "full"};
    int k, m;
    for (k = 0; k < 4; k++) {
        if (o->input && strcmp(o->input, inputs[k % 2]) != 0) continue;
        for (m = 0; m < 2; m++) {
            snprintf(o->found[m], sizeof o->found[m], "%s/%s%s-repeat%02d-fold%02d-%s.safetensors",
                     o->weights, k < 2 ? "weights/" : "", inputs[k % 2], o->repeat, o->fold,
                     models[m]);
            o->path[4 + m] = o->found[m];
        }
        if (qnet_file_exists(o->path[5])) return;
    }
}

/* A run that was stopped while it moved its files to OUT leaves weights of two runs beside each other. */
static int is_unfinished(const options *o)
{
    char path[1024];
    snprintf(path, sizeof path, "%.1000s/checkpoint/config.txt", o->weights);
    return qnet_file_exists(path);
}

static void message(void *user, qnet_log_level level, const char *text)
{
    (void)user;
    if (level == QNET_LOG_WARNING) fprintf(stderr, "classify: warning: %s\n", text);
}

/* Both files, and whether they belong together. */
static qnet_status load_weights(qnet_context *ctx, const char *const *path, job *j)
{
    qnet_status status = qnet_safetensors_load(ctx, path[0], &j->file[0]);
    const char *simulated;
    char text[1024];
    int known = 1;
    if (status == QNET_OK) status = qnet_safetensors_load(ctx, path[1], &j->file[1]);
    if (status == QNET_OK) status = qnet_weights_check_pair(ctx, j->file[0], j->file[1], &known);
    if (status != QNET_OK) return status;
    if (!known) {
        snprintf(text, sizeof text, "%.900s does not say whose features it was trained on: whether "
                                    "the two belong together cannot be checked", path[1]);
        message(NULL, QNET_LOG_WARNING, text);
    }
    simulated = qnet_safetensors_metadata(j->file[1], "simulated");
    if (simulated && strcmp(simulated, "1") == 0)
        message(NULL, QNET_LOG_WARNING, "these weights were trained on simulated subjects");
    return QNET_OK;
}

static qnet_status load_scan(qnet_context *ctx, const char *const *path,
                             const qnet_input_config *input, job *j)
{
    const qnet_scan_files files = {"scan", QNET_HC, 0, QNET_SEX_UNKNOWN, path[0], path[1], path[2], path[3]};
    return qnet_cohort_load(ctx, input, &files, 1, &j->cohort);
}

static qnet_status make_networks(qnet_context *ctx, const qnet_input_config *input, job *j)
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
        status = qnet_weights_from_safetensors(ctx, j->file[0], j->resnet->table,
                                               j->resnet->weights, 0, NULL);
    if (status == QNET_OK) status = qnet_scan_model_create(ctx, &scan, &j->qnet);
    if (status == QNET_OK)
        status = qnet_weights_from_safetensors(ctx, j->file[1], j->qnet->table, j->qnet->weights, 0,
                                               NULL);
    return status;
}

/* Probability of HH of the scan, by the whole network. */
static qnet_status classify(qnet_context *ctx, const options *o, job *j, double *probability)
{
    const int only[1] = {0};
    qnet_input_config input;
    qnet_augment_config augment;
    qnet_status status = load_weights(ctx, o->path + 4, j);
    size_t steps;
    if (status == QNET_OK) status = qnet_preparation_load(ctx, o->path[5], &input, &augment);
    if (status != QNET_OK) return status;
    input.any_values = o->any_values;
    input.any_orientation = o->any_orientation;
    status = make_networks(ctx, &input, j);
    if (status == QNET_OK) status = load_scan(ctx, o->path, &input, j);
    if (status != QNET_OK) return status;
    if (qnet_weights_have_seen(j->file[1], j->cohort->scans[0].source_hash)) {
        if (!o->seen) return QNET_ERROR_LEAK;
        message(NULL, QNET_LOG_WARNING, "these weights were trained on this scan");
    }
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
    qnet_hooks hooks;
    double probability = 0;
    options o;
    job j;
    int i, ok = parse(argc, argv, &o);
    if (ok <= 0) {
        if (ok < 0) fputs(help, stdout);
        return ok < 0 ? 0 : 2;
    }
    if (o.weights) find_weights(&o);
    memset(&hooks, 0, sizeof hooks);
    hooks.log.message = message;
    if (o.weights && is_unfinished(&o))
        message(NULL, QNET_LOG_WARNING, "a run into this folder has not ended: its weights may be of an earlier one");
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return 1;
    memset(&j, 0, sizeof j);
    status = classify(ctx, &o, &j, &probability);
    if (status == QNET_OK) {
        printf("    z  ResNetSWA   Q-Net\n");
        for (i = 0; i < j.cohort->scans[0].slices; i++)
            printf("%5d  %9.4f  %6.4f\n", j.cohort->scans[0].slice_z[i], j.by_resnet[i],
                   j.by_qnet[i]);
        printf("probability of HH: %.4f (research only, not a diagnosis)\n", probability);
    } else {
        const char *text = qnet_last_error(ctx); /* names fields that are options here */
        if (status == QNET_ERROR_LEAK)
            text = "these weights were trained on this scan, so that what they say of it is worth "
                   "nothing: take the fold that tested it (manifest.json), or --seen";
        fprintf(stderr, "classify: %s: %s%s\n", qnet_status_text(status), text,
                strstr(text, "set any_values")        ? " (--any-values)"
                : strstr(text, "set any_orientation") ? " (--any-orientation)"
                                                      : "");
    }
    free(j.features);
    free(j.by_resnet);
    qnet_scan_model_destroy(j.qnet);
    qnet_resnet_destroy(j.resnet);
    qnet_cohort_destroy(j.cohort);
    for (i = 0; i < 2; i++) qnet_safetensors_destroy(j.file[i]);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
