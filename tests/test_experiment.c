/* The experiment as a library call, on a cohort of eight small heads that this program writes. The
   command-line side (signals, resume after a kill, sentences) is in tests/crossval.sh. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#define CAM_SCANS 1
#include "crossval/report.h"
#include "test.h"
#include "folder.h"
#include "quick.h"

static const char data_folder[] = "build/test-experiment/data",
                  out_folder[] = "build/test-experiment/out",
                  other_folder[] = "build/test-experiment/other", /* other people, the same names */
                  start[] = "build/test-experiment/start.safetensors"; /* random weights, drawn once */

/* A disc with two bright nuclei; those of HH are brighter. kind: 0 QSM, 1 R2*, 2 T1W, 3 mask. */
static void write_map(qnet_context *ctx, const char *path, uint64_t people, int subject, int kind)
{
    qnet_volume *v = NULL;
    qnet_rng rng = qnet_rng_at(people, QNET_RANDOM_USER, (uint32_t)kind, (uint64_t)subject);
    CHECK_OK(ctx, qnet_volume_create(ctx, 40, 44, 6, &v));
    v->spacing[0] = v->spacing[1] = 3;
    v->spacing[2] = 2;
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 4; j++) v->affine[i][j] = i == j ? v->spacing[i] : j == 3 ? -50 : 0;
    }
    for (int z = 0; z < 6; z++) {
        for (int y = 0; y < 44; y++) {
            for (int x = 0; x < 40; x++) {
                const double dx = (x - 19.5) / 17, dy = (y - 21.5) / 20;
                const double nucleus = pow((fabs(x - 19.5) - 6) / 3, 2) + pow((y - 22) / 5.0, 2);
                float *voxel = &v->voxels[(z * 44 + y) * 40 + x];
                *voxel = 0;
                if (dx * dx + dy * dy > 1) continue;
                if (kind == 3)
                    *voxel = nucleus < 1 && z >= 1 && z <= 4;
                else
                    *voxel = (float)((kind == 0 ? 0.02 : 20) * (1 + 0.2 * qnet_rng_normal(&rng)) *
                                     (nucleus < 1 ? (subject < 4 ? 4 : 2) : 1));
            }
        }
    }
    CHECK_OK(ctx, qnet_nifti_save(ctx, path, v, 0));
    qnet_volume_destroy(v);
}

/* participants.tsv with subjects first, first + step ... of 0..7: the first four are HH. */
static void write_table(qnet_context *ctx, const char *folder, int first, int step)
{
    char path[256];
    qnet_buffer rows;
    memset(&rows, 0, sizeof rows);
    CHECK_OK(ctx, qnet_buffer_printf(ctx, &rows, "participant_id\tage\tsex\tgroup\n"));
    for (int s = first; s >= 0 && s < 8; s += step) {
        CHECK_OK(ctx, qnet_buffer_printf(ctx, &rows, "sub-%02d\t%d\tM\t%s\n", s + 1, 40 + s,
                                         s < 4 ? "HH" : "HC"));
    }
    sprintf(path, "%s/participants.tsv", folder);
    CHECK_OK(ctx, qnet_file_replace(ctx, path, rows.bytes, rows.size));
    qnet_buffer_free(ctx, &rows);
}

static void write_cohort(qnet_context *ctx, const char *folder, uint64_t people)
{
    static const char *const names[4] = { "Chimap", "R2starmap", "T1w", "desc-basalganglia_mask" };
    char path[256];
    for (int s = 0; s < 8; s++) {
        for (int k = 0; k < 4; k++) {
            sprintf(path, "%s/derivatives/maps/sub-%02d/anat", folder, s + 1);
            CHECK_OK(ctx, qnet_make_folder(ctx, path));
            sprintf(path + strlen(path), "/sub-%02d_%s.nii.gz", s + 1, names[k]);
            write_map(ctx, path, people, s, k);
        }
    }
    sprintf(path, "%s/dataset_description.json", folder);
    CHECK_OK(ctx, qnet_file_replace(ctx, path, "{\"Name\": \"Eight discs, simulated\"}", 34));
    write_table(ctx, folder, 0, 1);
}

static pictures drawn; /* of the last experiment */

enum { RUN_IMAGES = 8 * 3 };
static double undisturbed[RUN_IMAGES][QNET_MODELS]; /* the probabilities of test_run's first repeat */

static void context_end(qnet_context *ctx)
{
    pictures_free(ctx, &drawn);
    qnet_context_destroy(ctx);
}

/* For images of 32 x 32, one at a time, not for training. */
static qnet_resnet *small_resnet(qnet_context *ctx, int classes)
{
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_resnet_config_init(&config);
    config.height = config.width = 32;
    config.batch = 1;
    config.training = 0;
    config.classes = classes;
    CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
    return net;
}

/* A file of random weights that says of itself what `pairs` say. */
static void write_weights(qnet_context *ctx, const char *path, int classes, const char *const *pairs, int n)
{
    qnet_resnet *net = small_resnet(ctx, classes);
    quick_weights(net);
    CHECK_OK(ctx, qnet_weights_save(ctx, path, net->table, net->weights, pairs, n));
    qnet_resnet_destroy(net);
}

static void small_config(qnet_experiment_config *c)
{
    qnet_experiment_config_init(c);
    c->use_input[QNET_INPUT_FULL] = 0;
    c->input[QNET_INPUT_CROP].size = 32;
    c->input[QNET_INPUT_CROP].max_slices = 3;
    c->folds = 2;
    c->bootstrap = 40;
    c->stage1.epochs = 2;
    c->stage1.batch = 8;
    c->stage2.epochs = 4;
    c->stage2.hidden = 8;
    c->publish.user = &drawn;
    c->publish.input = pictures_input;
    c->publish.write = report_write;
}

/* The least that goes through all steps: one slice of a scan, one epoch. */
static void tiny_config(qnet_experiment_config *c)
{
    small_config(c);
    c->input[QNET_INPUT_CROP].max_slices = 1;
    c->input[QNET_INPUT_FULL] = c->input[QNET_INPUT_CROP];
    c->input[QNET_INPUT_FULL].input = QNET_INPUT_FULL;
    c->stage1.epochs = c->stage2.epochs = 1;
    c->bootstrap = 4;
}

static long allocated; /* bytes in use, by the allocator hook */

static void *counted_alloc(void *user, size_t size, size_t align)
{
    char *block = (char *)malloc(size + align + sizeof(void *)), *p;
    (void)user;
    if (!block) return NULL;
    p = block + sizeof(void *);
    p += (align - (uintptr_t)p % align) % align;
    memcpy(p - sizeof(void *), &block, sizeof(void *));
    allocated += (long)size;
    return p;
}

static void counted_free(void *user, void *ptr, size_t size)
{
    void *block;
    (void)user;
    memcpy(&block, (char *)ptr - sizeof(void *), sizeof(void *));
    allocated -= (long)size;
    free(block);
}

static void test_run(void)
{
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    qnet_buffer text;
    char path[256];
    const qnet_level_result *images, *scans;
    memset(&hooks, 0, sizeof hooks);
    memset(&text, 0, sizeof text);
    hooks.allocator.alloc = counted_alloc;
    hooks.allocator.free = counted_free;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    write_cohort(ctx, data_folder, 5);
    write_weights(ctx, start, QNET_CLASSES, NULL, 0);
    small_config(&c);
    c.repeats = 2;
    CHECK_OK(ctx, run_folder(ctx, &c, data_folder, out_folder, start, 0, &e));
    if (!e) return;
    images = &e->level[QNET_INPUT_CROP][QNET_LEVEL_IMAGE];
    scans = &e->level[QNET_INPUT_CROP][QNET_LEVEL_SCAN];
    CHECK(e->participants_count == 8);
    CHECK(strcmp(e->dataset, "Eight discs, simulated") == 0 && e->simulated == 1);
    CHECK(images->count == RUN_IMAGES && scans->count == 8);
    CHECK(e->level[QNET_INPUT_FULL][QNET_LEVEL_SCAN].count == 0);
    CHECK(e->curves_count == 2 * 2 * QNET_MODELS);
    CHECK(drawn.cams[QNET_INPUT_CROP] == 2 && drawn.sheet[QNET_INPUT_CROP].size == (6 * 32 + 20) * 32 * 3);
    CHECK(drawn.cams[QNET_INPUT_FULL] == 0 && drawn.sheet[QNET_INPUT_FULL].size == 0);
    for (int s = 0; s < 8; s++) {
        const qnet_cut *cut = &e->participants[s].cut[QNET_INPUT_CROP];
        CHECK(cut->slice[1] - cut->slice[0] == 2 && cut->mask_voxels > 0);
        CHECK(e->participants[s].cut[QNET_INPUT_FULL].mask_voxels == 0);
    }
    for (size_t i = 0; i < 2 * images->count; i++) {
        const qnet_item *item = &images->items[i];
        const qnet_item *whole =
            &scans->items[(i / images->count) * scans->count + (size_t)item->scan];
        CHECK(whole->fold == item->fold && whole->label == item->label);
        for (int m = 0; m < QNET_MODELS; m++) {
            CHECK(item->probability[m] >= 0 && item->probability[m] <= 1);
            CHECK(item->decision[m] == (item->probability[m] > 0.5));
        }
    }
    for (size_t s = 0; s < scans->count; s++) { /* voting models: mean and majority of the slices */
        double mean = 0;
        int votes = 0;
        for (size_t i = 0; i < images->count; i++) {
            if (images->items[i].scan != (int)s) continue;
            mean += images->items[i].probability[QNET_MODEL_RESNET] / 3;
            votes += images->items[i].decision[QNET_MODEL_RESNET];
        }
        CHECK_NEAR(scans->items[s].probability[QNET_MODEL_RESNET], mean, 1e-12);
        CHECK(scans->items[s].decision[QNET_MODEL_RESNET] == (votes >= 2));
    }
    { /* mean and deviation over the two repeats, from the definition */
        double accuracy[2] = { 0, 0 }, mean;
        for (size_t i = 0; i < 2 * scans->count; i++) {
            const qnet_item *item = &scans->items[i];
            accuracy[i / scans->count] += (item->decision[QNET_MODEL_QNET] == item->label) / 8.0;
        }
        mean = (accuracy[0] + accuracy[1]) / 2;
        CHECK_NEAR(scans->model[QNET_MODEL_QNET].accuracy.mean, mean, 1e-12);
        CHECK_NEAR(scans->model[QNET_MODEL_QNET].accuracy.std,
                   fabs(accuracy[0] - accuracy[1]) / sqrt(2.0), 1e-12);
    }
    for (int m = 0; m < QNET_MODELS; m++) { /* AUCs within the two folds of the first repeat */
        double sum = 0;
        int folds = 0;
        for (int fold = 0; fold < 2; fold++) {
            int pairs = 0;
            double won = 0;
            for (size_t i = 0; i < 64; i++) {
                const qnet_item *a = &scans->items[i / 8], *b = &scans->items[i % 8];
                if (a->fold != fold || b->fold != fold || a->label != 1 || b->label != 0) continue;
                pairs++;
                won += a->probability[m] > b->probability[m] ? 1
                       : a->probability[m] == b->probability[m] ? 0.5 : 0;
            }
            if (pairs == 0) continue;
            sum += won / pairs;
            folds++;
        }
        CHECK_NEAR(scans->model[m].auc_within_folds, sum / folds, 1e-12);
    }
    { /* the second repeat's folds are not the first's of another seed */
        CHECK(qnet__folds_seed(1, 0) == 1 && qnet__folds_seed(1, 1) != 2 && qnet__folds_seed(1, 1) != 1);
        CHECK(qnet__folds_seed(1, 1) != qnet__folds_seed(1, 2) && qnet__folds_seed(1, 1) != qnet__folds_seed(2, 1));
    }
    { /* of one value there is no deviation */
        const double one[3] = { 0.5, (double)NAN, (double)NAN };
        CHECK(qnet__mean_std(one, 3, 1).mean == 0.5);
        CHECK(qnet__mean_std(one, 3, 1).std != qnet__mean_std(one, 3, 1).std);
    }
    { /* logit(.8) +- 1.96 * .05 / .16, by hand */
        const qnet_interval r = qnet_logit_interval(0.8, 0.0025);
        CHECK_NEAR(r.low, 0.6843435, 1e-7);
        CHECK_NEAR(r.high, 0.8806693, 1e-7);
        CHECK(qnet_logit_interval(1, 0).low == 1 && qnet_logit_interval(0.5, 0).high == 0.5);
    }
    CHECK(scans->pair[0].model1 == QNET_MODEL_RESNET_SWA &&
          scans->pair[0].model2 == QNET_MODEL_RESNET);
    CHECK_NEAR(scans->pair[1].by_item.auc[0], scans->model[QNET_MODEL_QNET].auc_first, 1e-12);
    CHECK_OK(ctx, report_tables(e, &text));
    CHECK_OK(ctx, qnet_buffer_append(ctx, &text, "", 1));
    CHECK_CONTAINS((const char *)text.bytes, "Q-Net");
    text.size = 0;
    CHECK_OK(ctx, report_manifest(e, &text));
    CHECK_CONTAINS((const char *)text.bytes, "\"derivatives\": \"maps\""); /* found */
    CHECK(e->seconds > 0);
    for (int i = 0; i < RUN_IMAGES; i++)
        memcpy(undisturbed[i], images->items[i].probability, sizeof undisturbed[i]);
    qnet_buffer_free(ctx, &text);
    sprintf(path, "%s/report.html", out_folder);
    CHECK(qnet_file_exists(path));
    qnet_experiment_destroy(e);
    context_end(ctx);
    CHECK(allocated == 0);
}

/* Of the files of a run, only a fold's own ResNetSWA goes with its Q-Net. */
static void test_identity(void)
{
    static const char *const names[4] = { "crop-repeat01-fold01-resnetswa", "crop-repeat01-fold01-resnet",
                                          "crop-repeat01-fold02-resnetswa", "crop-repeat02-fold01-resnetswa" };
    qnet_context *ctx;
    qnet_safetensors *scan = NULL, *resnet = NULL;
    qnet_buffer manifest;
    char path[256], run[64];
    memset(&manifest, 0, sizeof manifest);
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    sprintf(path, "%s/weights/crop-repeat01-fold01-qnet.safetensors", out_folder);
    CHECK_OK(ctx, qnet_safetensors_load(ctx, path, &scan));
    for (int k = 0; k < 4 && scan; k++) {
        int known = -1;
        sprintf(path, "%s/weights/%s.safetensors", out_folder, names[k]);
        CHECK_OK(ctx, qnet_safetensors_load(ctx, path, &resnet));
        if (k == 0) {
            CHECK_OK(ctx, qnet_weights_check_pair(ctx, resnet, scan, &known));
            CHECK(known == 1);
        } else {
            CHECK_FAILS(ctx, qnet_weights_check_pair(ctx, resnet, scan, &known), QNET_ERROR_MISMATCH, names[k]);
            CHECK_CONTAINS(qnet_last_error(ctx), "crop repeat 1 fold 1 qnet of run ");
            CHECK_CONTAINS(qnet_last_error(ctx), "features of resnetswa weights");
        }
        qnet_safetensors_destroy(resnet);
        resnet = NULL;
    }
    if (scan) { /* what draws heat maps asks whose weights they are */
        qnet_experiment e;
        qnet_resnet *net = small_resnet(ctx, QNET_CLASSES);
        memset(&e, 0, sizeof e);
        e.ctx = ctx;
        strcpy(e.out, out_folder);
        e.run[QNET_INPUT_CROP] = (uint64_t)strtoull(qnet_safetensors_metadata(scan, "run"), NULL, 16);
        CHECK_OK(ctx, qnet_experiment_weights(&e, QNET_INPUT_CROP, 1, 0, QNET_MODEL_RESNET_SWA, net->table,
                                              net->weights));
        CHECK_FAILS(ctx, qnet_experiment_weights(&e, QNET_INPUT_CROP, 1, 9, QNET_MODEL_RESNET_SWA, net->table,
                                                 net->weights), QNET_ERROR_NOT_FOUND, "crop-repeat02-fold10");
        CHECK_FAILS(ctx, qnet_experiment_weights(&e, QNET_INPUT_CROP, 1, 0, QNET_MODELS, net->table,
                                                 net->weights), QNET_ERROR_ARGUMENT, "out of range");
        e.run[QNET_INPUT_CROP] ^= 1;
        CHECK_FAILS(ctx, qnet_experiment_weights(&e, QNET_INPUT_CROP, 1, 0, QNET_MODEL_RESNET_SWA, net->table,
                                                 net->weights), QNET_ERROR_MISMATCH,
                    "resnetswa.safetensors: weights of run ");
        qnet_resnet_destroy(net);
    }
    sprintf(path, "%s/manifest.json", out_folder);
    CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &manifest));
    if (scan) {
        sprintf(run, "\"run_crop\": \"%.16s\"", qnet_safetensors_metadata(scan, "run"));
        CHECK_CONTAINS((const char *)manifest.bytes, run);
        CHECK(strcmp(qnet_safetensors_metadata(scan, "dataset"), "Eight discs, simulated") == 0);
        CHECK(strcmp(qnet_safetensors_metadata(scan, "simulated"), "1") == 0);
    }
    qnet_buffer_free(ctx, &manifest);
    qnet_safetensors_destroy(scan);
    context_end(ctx);
}

static void count_warning(void *user, qnet_log_level level, const char *text)
{
    *(int *)user += level == QNET_LOG_WARNING;
    CHECK_CONTAINS(text, "dataset_description.json");
}

static void test_preparation(void)
{
    qnet_context *ctx;
    qnet_input_config input;
    qnet_augment_config augment;
    char path[256];
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    sprintf(path, "%s/weights/crop-repeat02-fold01-resnetswa.safetensors", out_folder);
    CHECK_OK(ctx, qnet_preparation_load(ctx, path, &input, &augment));
    CHECK(input.input == QNET_INPUT_CROP && input.size == 32 && input.max_slices == 3);
    CHECK(input.box_mm == 96 && input.margin == 0.08);
    CHECK(augment.percentile_low == 1 && augment.percentile_high == 99 && augment.std[2] == 0.225); /* as the weights it began with */
    { /* another rule of preparation */
        qnet_buffer bytes;
        unsigned char *at;
        memset(&bytes, 0, sizeof bytes);
        CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &bytes));
        for (at = bytes.bytes; at < bytes.bytes + 2000 && memcmp(at, "preparation\":\"", 14) != 0;) at++;
        CHECK(at[14] == '2' && at[15] == '"');
        at[14] = '1';
        CHECK_OK(ctx, qnet_file_replace(ctx, "build/test-experiment/old.safetensors", bytes.bytes, bytes.size));
        CHECK_FAILS(ctx, qnet_preparation_load(ctx, "build/test-experiment/old.safetensors", &input, &augment),
                    QNET_ERROR_MISMATCH, "old.safetensors: its images were prepared by rule 1, those of this qnet.h are by rule 2");
        at[0] = 'x'; /* no rule */
        CHECK_OK(ctx, qnet_file_replace(ctx, "build/test-experiment/old.safetensors", bytes.bytes, bytes.size));
        CHECK_FAILS(ctx, qnet_preparation_load(ctx, "build/test-experiment/old.safetensors", &input, &augment),
                    QNET_ERROR_MISMATCH, "old.safetensors: its images were prepared by rule unknown");
        qnet_buffer_free(ctx, &bytes);
    }
    CHECK_FAILS(ctx, qnet_preparation_load(ctx, "build/test-experiment/none", &input, &augment),
                QNET_ERROR_NOT_FOUND, "none");
    context_end(ctx);
}

/* What a data set says of itself, in the ways in which people and programs write it. */
static void test_dataset(void)
{
    static const struct { const char *text, *name, *type; int simulated, warns; } cases[] = {
        { NULL, "", "", 0, 0 },
        { "{\"Name\": \"Iron at 3 T\", \"DatasetType\":\"raw\"}", "Iron at 3 T", "raw", 0, 0 },
        { "\xef\xbb\xbf{ \"BIDSVersion\":\"1.8.0\",\r\n\"Authors\":[\"A\",\"B {}\"],\"x\":{\"Name\":\"no\",\"y\":"
          "[1,-2.5e3,null,true,[]]},\"Name\":\"\\u00e9t\\u00e9 \\\"1\\\"\" }\n",
          "\xc3\xa9t\xc3\xa9 \"1\"", "", 0, 0 },
        { "{\"Name\":\"Digital PHANTOM heads\"}", "Digital PHANTOM heads", "", 1, 0 },
        { "{\"Name\":\"X\",\"Keywords\":[\"iron\",\"Simulated\"]}", "X", "", 1, 0 },
        { "{\"Name\":\"X\",\"HowToAcknowledge\":\"uses simulated annealing\"}", "X", "", 0, 0 },
        { "{\"Name\":\"a\\u001b[2J\\u009bb\\nc\"}", "a [2J b c", "", 0, 0 }, /* no terminal codes */
        { "{\"Name\": 3}", "", "", 0, 0 },
        { "", "", "", 0, 1 },
        { "{\"Name\":\"X\"", "", "", 0, 1 },
        { "{\"Name\":\"X\",}", "", "", 0, 1 },
        { "{\"Name\":}", "", "", 0, 1 },
        { "[\"Name\"]", "", "", 0, 1 },
        { "{\"Name\":\"\xff\"}", "", "", 0, 1 },
    };
    static const char folder[] = "build/test-experiment/described";
    char path[256], text[2000];
    int warnings = 0;
    qnet_context *ctx;
    bids found;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    CHECK_OK(ctx, qnet_make_folder(ctx, folder));
    sprintf(path, "%s/dataset_description.json", folder);
    remove(path);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        memset(&found, 0, sizeof found);
        found.ctx = ctx;
        found.folder = folder;
        found.log.user = &warnings;
        found.log.message = count_warning;
        warnings = 0;
        if (cases[k].text)
            CHECK_OK(ctx, qnet_file_replace(ctx, path, cases[k].text, strlen(cases[k].text)));
        CHECK(bids_describe(&found) == QNET_OK);
        if (strcmp(found.name, cases[k].name)) printf("    \"%s\" from %s\n", found.name, cases[k].text);
        CHECK(strcmp(found.name, cases[k].name) == 0 && strcmp(found.type, cases[k].type) == 0);
        CHECK(found.dataset.simulated == cases[k].simulated && warnings == cases[k].warns);
    }
    strcpy(text, "{\"Name\":\"");
    for (int i = 0; i < 700; i++) strcat(text, "\xc3\xa9"); /* cut at a whole character */
    strcat(text, "\"}");
    CHECK_OK(ctx, qnet_file_replace(ctx, path, text, strlen(text)));
    CHECK(bids_describe(&found) == QNET_OK);
    CHECK(strlen(found.name) == 1022 && strncmp(found.name, text + 9, 1022) == 0);
    context_end(ctx);
}

static int stop_at, kept = 3;
static int stop(void *user, const qnet_progress_info *info)
{
    (void)user;
    CHECK(info->fraction >= 0 && info->fraction <= 1);
    if (kept == 2) { /* 1 where the first epoch's end was kept */
        if (strcmp(info->task, "stage 1") != 0 || info->epoch != 2) return 0;
        kept = qnet_file_exists("build/test-experiment/parts/checkpoint/crop-repeat01-fold01-resnet.checkpoint");
        return 1;
    }
    return stop_at > 0 && --stop_at == 0;
}

/* Stopped at many different moments, resumed each time: the same predictions as test_run's, whose
   second repeat changes nothing of the first. */
static void test_stop_and_resume(void)
{
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *parts = NULL;
    qnet_status status = QNET_STOPPED;
    int stops = 0;
    memset(&hooks, 0, sizeof hooks);
    hooks.progress.report = stop;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    small_config(&c);
    for (int n = 0; status == QNET_STOPPED && n < 200; n++) {
        stop_at = 20 + n; /* reports until the next stop, at first in the second epoch */
        kept = n < 2 ? 2 : 3;
        c.checkpoint_seconds = n == 0 ? 1000000 : 0;
        status = run_folder(ctx, &c, data_folder, "build/test-experiment/parts", start, n > 0, &parts);
        CHECK(n > 1 || kept == n);
        stops += status == QNET_STOPPED;
    }
    CHECK(status == QNET_OK);
    CHECK(stops >= 3);
    if (parts) {
        const qnet_level_result *images = &parts->level[0][QNET_LEVEL_IMAGE];
        CHECK(images->count == RUN_IMAGES);
        for (size_t i = 0; i < RUN_IMAGES; i++)
            for (int m = 0; m < QNET_MODELS; m++)
                CHECK(images->items[i].probability[m] == undisturbed[i][m]);
    }
    qnet_experiment_destroy(parts);
    context_end(ctx);
}

/* qnet_experiment_final on a folder. */
static qnet_status final_folder(qnet_context *ctx, const qnet_experiment_config *config, const char *out, int resume)
{
    bids b;
    qnet_status status;
    memset(&b, 0, sizeof b);
    status = bids_read(&b, ctx, data_folder);
    if (status == QNET_OK) status = qnet_experiment_final(ctx, config, &b.dataset, out, start, resume);
    return folder_end(ctx, &b, status);
}

static uint64_t hash_of(qnet_context *ctx, const char *path)
{
    qnet_buffer bytes = {NULL, 0, 0, NULL};
    uint64_t hash;
    CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &bytes));
    hash = qnet_hash(QNET_HASH_START, bytes.bytes, bytes.size);
    qnet_buffer_free(ctx, &bytes);
    return hash;
}

#define MODEL "build/test-experiment/parts/model"

/* A model of all subjects of the run that test_stop_and_resume left: stopped at many moments, the same bits as at
   once; what it knows of the study, and says of a scan of it. */
static void test_final(void)
{
    static const char *const files[3] = {MODEL "/model.safetensors", MODEL "/qnet.safetensors",
                                         MODEL "/resnetswa.safetensors"};
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_predictor *p = NULL;
    qnet_prediction r;
    qnet_cohort *cohort = NULL;
    qnet_log quiet;
    qnet_status status = QNET_STOPPED;
    uint64_t at_once[3];
    int stops = 0;
    memset(&hooks, 0, sizeof hooks);
    memset(&quiet, 0, sizeof quiet);
    hooks.allocator.alloc = counted_alloc;
    hooks.allocator.free = counted_free;
    hooks.progress.report = stop;
    allocated = 0;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    small_config(&c);
    stop_at = 0;
    c.part = c.parts = 1;
    CHECK_FAILS(ctx, final_folder(ctx, &c, "build/test-experiment/parts", 0), QNET_ERROR_ARGUMENT, "has no parts");
    c.part = c.parts = 0;
    c.shuffle_labels = 1;
    CHECK_FAILS(ctx, final_folder(ctx, &c, "build/test-experiment/parts", 0), QNET_ERROR_ARGUMENT, "labels are shuffled");
    c.shuffle_labels = 0;
    c.seed = 2;
    CHECK_FAILS(ctx, final_folder(ctx, &c, "build/test-experiment/parts", 0), QNET_ERROR_MISMATCH,
                "a final model takes ResNetSWA and Q-Net of every fold");
    c.seed = 1;
    CHECK_FAILS(ctx, final_folder(ctx, &c, "build/test-experiment/nothing", 0), QNET_ERROR_NOT_FOUND,
                "crop-repeat01-fold01-resnetswa.safetensors");
    CHECK(!qnet_file_exists(MODEL) && !qnet_file_exists("build/test-experiment/nothing"));
    CHECK_OK(ctx, final_folder(ctx, &c, "build/test-experiment/parts", 0));
    CHECK(!qnet_file_exists(MODEL "/checkpoint"));
    for (int i = 0; i < 3; i++) at_once[i] = hash_of(ctx, files[i]);
    for (int n = 0; status == QNET_STOPPED && n < 200; n++) {
        stop_at = n < 3 ? 30 + n : 0;
        c.checkpoint_seconds = n < 3 ? 0 : 1000000;
        status = final_folder(ctx, &c, "build/test-experiment/parts", n > 0);
        stops += status == QNET_STOPPED;
    }
    stop_at = 0;
    CHECK_OK(ctx, status);
    CHECK(stops >= 2);
    for (int i = 0; i < 3; i++) CHECK(hash_of(ctx, files[i]) == at_once[i]);

    CHECK_OK(ctx, qnet_predictor_open(ctx, MODEL, &p));
    if (!p) return;
    CHECK(p->folds == 2 && p->scans == 8 && !p->calibrated && p->few_scans); /* 4 scans of a class are too few */
    CHECK_OK(ctx, load_folder(ctx, &p->input, data_folder, NULL, quiet, &cohort));
    for (int i = 0; i < 8 && cohort; i++) {
        CHECK(p->label[i] == (i < 4) && p->probability[i] >= 0 && p->probability[i] <= 1 && p->distance[i] > 0);
        CHECK(p->measures[i * QNET_MEASURES + QNET_MEASURE_X] == 3);
        if (i % 3 != 0) continue; /* 0 and 3 are HH, 6 is HC */
        p->anyway = 0;
        CHECK_OK(ctx, qnet_predictor_run(p, cohort, i, &r));
        CHECK(r.seen && !r.namesake && r.refused && r.unlike == 0 && r.probability != r.probability);
        CHECK(r.by_fold[0] != r.by_fold[0] && r.by_slice[0] != r.by_slice[0]);
        p->anyway = 1;
        CHECK_OK(ctx, qnet_predictor_run(p, cohort, i, &r));
        CHECK(!r.refused && r.probability >= 0 && r.probability <= 1);
        CHECK(r.by_fold[0] == p->probability[i] || r.by_fold[1] == p->probability[i]); /* the one that tested it */
    }
    /* Another session of a subject of the study, and the same map under a name that it does not have. */
    p->anyway = 0;
    cohort->scans[0].source_hash ^= 1;
    CHECK_OK(ctx, qnet_predictor_run(p, cohort, 0, &r));
    CHECK(!r.seen && r.namesake && !r.refused && r.probability >= 0);
    strcpy(cohort->scans[0].subject, "sub-99");
    CHECK_OK(ctx, qnet_predictor_run(p, cohort, 0, &r));
    CHECK(!r.seen && !r.namesake && !r.refused);
    cohort->scans[0].source_hash ^= 1;
    CHECK_OK(ctx, qnet_predictor_run(p, cohort, 0, &r));
    CHECK(r.seen && !r.namesake && r.refused);
    qnet_cohort_destroy(cohort);
    qnet_predictor_destroy(p);
    context_end(ctx);
    CHECK(allocated == 0);
}

/* The first time, writes one file and fails. */
static qnet_status publish_at_second(void *user, const qnet_experiment *e, const char *folder)
{
    int *calls = (int *)user;
    char path[700];
    sprintf(path, "%.600s/mine.txt", folder);
    CHECK_OK(e->ctx, qnet_file_replace(e->ctx, path, "mine", 4));
    CHECK(e->level[QNET_INPUT_CROP][QNET_LEVEL_SCAN].model[QNET_MODEL_QNET].auc_first >= 0);
    return ++*calls > 1 ? QNET_OK : qnet_make_folder(e->ctx, path); /* a file is in the way */
}

/* What publish writes comes to the results with all the rest or not at all, and a folder in the way
   stops it before anything has been moved. */
static void test_publish(void)
{
    static const char out[] = "build/test-experiment/published";
    static const char *const old[4] = { "predictions.csv", "mine.txt", "report.html",
                                        "weights/crop-repeat01-fold01-qnet.safetensors" };
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    qnet_buffer text;
    char path[256];
    int calls = 0;
    memset(&text, 0, sizeof text);
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    tiny_config(&c);
    c.publish.input = NULL;
    c.publish.write = publish_at_second;
    c.publish.user = &calls;
    sprintf(path, "%s/weights", out);
    CHECK_OK(ctx, qnet_make_folder(ctx, path));
    for (int k = 0; k < 4; k++) {
        sprintf(path, "%s/%s", out, old[k]);
        CHECK_OK(ctx, qnet_file_replace(ctx, path, "old", 3));
    }
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out, NULL, 0, &e), QNET_ERROR_IO, "mine.txt");
    sprintf(path, "%s/mine.txt", out);
    CHECK(qnet__remove(path) == 0);
    CHECK_OK(ctx, qnet_make_folder(ctx, path));
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out, NULL, 1, &e), QNET_ERROR_IO, "it is a folder");
    for (int k = 0; k < 4; k++) {
        text.size = 0;
        sprintf(path, "%s/%s", out, old[k]);
        if (k != 1) CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &text));
        if (k != 1) CHECK(text.size == 3);
        qnet_buffer_free(ctx, &text);
    }
    sprintf(path, "%s/mine.txt", out);
    CHECK(qnet__remove(path) == 0);
    CHECK_OK(ctx, run_folder(ctx, &c, data_folder, out, NULL, 1, &e));
    CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &text));
    CHECK(text.size == 4 && calls == 3);
    sprintf(path, "%s/checkpoint", out);
    CHECK(!qnet_file_exists(path));
    qnet_buffer_free(ctx, &text);
    qnet_experiment_destroy(e);
    context_end(ctx);
}

/* Lines of a data set for weights files that would leave files that nothing can read. */
static void test_record(void)
{
    static const char *const lines[] = { "no value\n", "a=1", "a=1\na=2\n", "model=resnet\n", "input=full\n",
                                         "limit=3\n", "a=\xff\n", NULL };
    static const char out[] = "build/test-experiment/record";
    char many[1000] = "";
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    qnet_input_config input;
    qnet_augment_config augment;
    bids b;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    tiny_config(&c);
    c.publish.input = NULL;
    c.publish.write = NULL;
    memset(&b, 0, sizeof b);
    CHECK_OK(ctx, bids_read(&b, ctx, data_folder));
    for (int i = 0; i < QNET__METADATA_PAIRS; i++) sprintf(many + strlen(many), "k%d=1\n", i);
    for (size_t k = 0; k < sizeof lines / sizeof *lines; k++) {
        b.dataset.record = lines[k] ? lines[k] : many;
        CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, &b.dataset, out, NULL, 0, &e), QNET_ERROR_ARGUMENT,
                    k == 6 ? "is not UTF-8" : "record: expected lines");
    }
    CHECK(!qnet_file_exists("build/test-experiment/record/checkpoint"));
    b.dataset.record = "a=1\n";
    CHECK_OK(ctx, qnet_experiment_run(ctx, &c, &b.dataset, out, NULL, 0, &e));
    CHECK_OK(ctx, qnet_preparation_load(ctx, "build/test-experiment/record/weights/crop-repeat01-fold01-qnet.safetensors",
                                        &input, &augment));
    qnet_experiment_destroy(e);
    bids_free(&b);
    context_end(ctx);
}

static void test_bad_arguments(void)
{
    qnet_context *ctx;
    qnet_dataset none;
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    small_config(&c);
    memset(&none, 0, sizeof none);
    CHECK(qnet_experiment_run(NULL, &c, &none, out_folder, NULL, 0, &e) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, NULL, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, &none, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "no scans");
    c.folds = 1;
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "folds");
    c.folds = 5;
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "5");
    small_config(&c);
    c.repeats = 0;
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "repeats");
    small_config(&c);
    c.stage1.swa_share = (double)NAN;
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "swa_share");
    small_config(&c);
    c.stage1.epochs = 0;
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "epochs");
    small_config(&c);
    c.use_input[QNET_INPUT_CROP] = 0;
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "input");
    for (int k = 0; k < 6; k++) {
        static const int part[6][2] = { { 0, 2 }, { 3, 2 }, { 1, 3 }, { -2, 2 }, { 1, 0 }, { QNET_COLLECT, 3 } };
        small_config(&c);
        c.part = part[k][0];
        c.parts = part[k][1];
        CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out_folder, NULL, 0, &e), QNET_ERROR_ARGUMENT,
                    "expected 1 to the number of parts, and of parts 1 to 2, as there are folds");
    }
    CHECK(e == NULL);
    CHECK(strcmp(qnet_model_name(QNET_MODEL_QNET), "Q-Net") == 0);
    CHECK(strcmp(qnet_level_name(QNET_LEVEL_SCAN), "scan") == 0);
    qnet_experiment_destroy(NULL);
    context_end(ctx);
}

/* Removes what an earlier run of this program left unfinished. */
static void forget(qnet_context *ctx, const char *out)
{
    qnet_experiment e;
    static const char *const folders[2] = { "/checkpoint/weights", "/checkpoint" };
    int count = 0;
    memset(&e, 0, sizeof e);
    e.ctx = ctx;
    sprintf(e.out, "%s/checkpoint/weights", out);
    CHECK_OK(ctx, qnet_make_folder(ctx, e.out));
    strcpy(e.out, out);
    for (int k = 0; k < 2; k++) CHECK_OK(ctx, qnet__work_files(&e, folders[k], "", 1, &count));
}

/* The fraction of progress never falls, nor jumps over folds of other parts. */
static int watch_fraction(void *user, const qnet_progress_info *info)
{
    double *last = (double *)user;
    CHECK(info->fraction >= *last && info->fraction <= *last + 0.51 && info->fraction <= 1);
    *last = info->fraction;
    return 0;
}

/* What a part left is damaged, is of other labels, or is gone, while others collect. */
static void test_damaged_part(qnet_context *ctx, const qnet_experiment_config *c)
{
    static const char result[] =
        "build/test-experiment/shared/part-2-of-3/checkpoint/crop-repeat01-fold02-result.safetensors";
    static const char *const folder = "build/test-experiment/shared";
    qnet_experiment *e = NULL;
    write_table(ctx, data_folder, 7, -1); /* another order */
    CHECK_FAILS(ctx, run_folder(ctx, c, data_folder, folder, start, 0, &e), QNET_ERROR_MISMATCH,
                "part-1-of-3/checkpoint/crop-repeat01-fold01-result.safetensors: is of other scans, maps or labels");
    write_table(ctx, data_folder, 0, 1);
    CHECK(rename(result, "build/test-experiment/kept") == 0);
    CHECK_FAILS(ctx, run_folder(ctx, c, data_folder, folder, start, 0, &e), QNET_ERROR_NOT_FOUND,
                "1 of 3 parts are missing or not finished: 2;");
    CHECK(rename("build/test-experiment/kept", result) == 0);
    CHECK(e == NULL);
}

/* Four folds, of two inputs, in three parts: the parts' results are those of one run, whichever came
   first, and only what is to be kept remains. */
static void test_parts(void)
{
    static const char *const out[2] = { "build/test-experiment/shared", "build/test-experiment/alone" };
    static const int order[4] = { 3, 1, 2, QNET_COLLECT };
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *e = NULL, *alone = NULL;
    qnet_buffer text[2];
    char path[256];
    double last = 0;
    int calls = 0;
    memset(&hooks, 0, sizeof hooks);
    memset(text, 0, sizeof text);
    hooks.progress.report = watch_fraction;
    hooks.progress.user = &last;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    tiny_config(&c);
    c.use_input[QNET_INPUT_FULL] = 1;
    for (int part = 1; part <= 3; part++) {
        sprintf(path, "%s/part-%d-of-3", out[0], part);
        forget(ctx, path);
    }
    forget(ctx, out[0]);
    forget(ctx, out[1]);
    c.publish.input = NULL;
    c.publish.write = NULL;
    CHECK_OK(ctx, run_folder(ctx, &c, data_folder, out[1], start, 0, &alone));
    CHECK_OK(ctx, report_csv(alone, &text[1]));
    c.part = QNET_COLLECT;
    c.parts = 3;
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out[0], start, 0, &e), QNET_ERROR_NOT_FOUND,
                "3 of 3 parts are missing or not finished: 1,2,3;");
    c.publish.write = publish_at_second;
    c.publish.user = &calls;
    for (int k = 0; k < 4; k++) {
        c.part = order[k];
        last = 0;
        e = alone; /* a part sets it */
        if (k == 3) test_damaged_part(ctx, &c);
        last = 0;
        if (k == 3) /* the first time, publish fails */
            CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, out[0], start, 0, &e), QNET_ERROR_IO, "mine.txt");
        last = 0;
        if (k == 3) c.keep[QNET_MODEL_RESNET] = 0;
        if (k == 3) CHECK(qnet__remove("build/test-experiment/shared/checkpoint/publish/mine.txt") == 0);
        CHECK_OK(ctx, run_folder(ctx, &c, data_folder, out[0], start, 0, &e));
        CHECK(k < 3 ? e == NULL : e != NULL && e != alone);
    }
    CHECK(last > 0);
    CHECK_OK(ctx, report_csv(e, &text[0]));
    CHECK(text[0].size == text[1].size && memcmp(text[0].bytes, text[1].bytes, text[1].size) == 0);
    CHECK(memcmp(e->run, alone->run, sizeof e->run) == 0 && e->curves_count == alone->curves_count);
    for (int m = 0; m < QNET_MODELS; m++) {
        sprintf(path, "%s/weights/full-repeat01-fold02-%s.safetensors", out[0], qnet__file_names[m]);
        CHECK(qnet_file_exists(path) == (m != QNET_MODEL_RESNET));
        CHECK(e->level[1][QNET_LEVEL_SCAN].model[m].auc_first == alone->level[1][QNET_LEVEL_SCAN].model[m].auc_first);
    }
    for (int part = 1; part <= 3; part++) {
        sprintf(path, "%s/part-%d-of-3", out[0], part);
        CHECK(qnet__path_kind(path) == 0);
    }
    for (int k = 0; k < 2; k++) qnet_buffer_free(ctx, &text[k]);
    qnet_experiment_destroy(e);
    qnet_experiment_destroy(alone);
    context_end(ctx);
}

/* The QSM map of another person takes the place of the sixth one's while the first input is trained. */
static int change_map(void *user, const qnet_progress_info *info)
{
    if (strstr(info->where, "crop repeat 1/1 fold 2"))
        write_map((qnet_context *)user, "build/test-experiment/data/derivatives/maps/sub-06/anat/sub-06_Chimap.nii.gz",
                  7, 5, 0);
    return 0;
}

/* Both inputs must be of the same maps. */
static void test_changed_maps(void)
{
    qnet_hooks hooks;
    qnet_context *ctx, *plain;
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    memset(&hooks, 0, sizeof hooks);
    CHECK(qnet_context_create(NULL, &plain) == QNET_OK);
    hooks.progress.report = change_map;
    hooks.progress.user = plain;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    forget(plain, "build/test-experiment/changed");
    tiny_config(&c);
    c.use_input[QNET_INPUT_FULL] = 1;
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, "build/test-experiment/changed", start, 0, &e),
                QNET_ERROR_MISMATCH, "the QSM map of sub-06: it was changed while the first input was trained");
    CHECK(e == NULL);
    write_cohort(plain, data_folder, 5);
    context_end(ctx);
    context_end(plain);
}

static char warnings[8192];
static void keep_warning(void *user, qnet_log_level level, const char *text)
{
    (void)user;
    if (level == QNET_LOG_WARNING && strlen(warnings) + strlen(text) + 2 < sizeof warnings)
        sprintf(warnings + strlen(warnings), "%s\n", text);
}

static int stop_in_training(void *user, const qnet_progress_info *info)
{
    (void)user;
    return info->epoch > 0;
}

/* Begins a run with initial weights and stops it in its first epoch. The configuration that it
   would have is in config[4096]. */
static qnet_status begin(qnet_context *ctx, const qnet_experiment_config *c, const char *data,
                         const char *weights, char *config)
{
    static int runs;
    char out[64], path[128];
    qnet_experiment *e = NULL;
    qnet_buffer text;
    qnet_status status;
    memset(&text, 0, sizeof text);
    warnings[0] = config[0] = '\0';
    sprintf(out, "build/test-experiment/begun%d", ++runs);
    status = run_folder(ctx, c, data, out, weights, 0, &e);
    sprintf(path, "%s/checkpoint/config.txt", out);
    if (status == QNET_STOPPED && qnet_file_read(ctx, path, 4096, &text) == QNET_OK)
        sprintf(config, "%.*s", (int)text.size, (const char *)text.bytes);
    qnet_buffer_free(ctx, &text);
    qnet_experiment_destroy(e);
    return status;
}

static qnet_context *beginning(void)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    hooks.progress.report = stop_in_training;
    hooks.log.message = keep_warning;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    return ctx;
}

/* Weights are refused for a cohort with any subject that they, or what they began with, have
   seen, whatever the order, the number or the size of the images; namesakes are others. */
static void test_leak(void)
{
    static const char seen[] = "build/test-experiment/out/weights/crop-repeat01-fold01-resnetswa.safetensors",
                      later[] = "build/test-experiment/second/weights/crop-repeat01-fold02-resnet.safetensors";
    qnet_context *ctx = beginning(), *plain;
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    char config[4096 + 1];
    CHECK(qnet_context_create(NULL, &plain) == QNET_OK);
    tiny_config(&c);
    write_cohort(plain, other_folder, 6);
    CHECK_FAILS(ctx, begin(ctx, &c, data_folder, seen, config), QNET_ERROR_LEAK, "subjects of this cohort");
    write_table(plain, data_folder, 7, -1); /* another order */
    CHECK_FAILS(ctx, begin(ctx, &c, data_folder, seen, config), QNET_ERROR_LEAK, "subjects of this cohort");
    write_table(plain, data_folder, 0, 2); /* half of them, */
    c.input[QNET_INPUT_CROP].box_mm = 80;  /* otherwise cut */
    CHECK_FAILS(ctx, begin(ctx, &c, data_folder, seen, config), QNET_ERROR_LEAK, "subjects of this cohort");
    write_table(plain, data_folder, 0, 1);
    tiny_config(&c);
    CHECK(begin(ctx, &c, other_folder, seen, config) == QNET_STOPPED); /* trains */
    CHECK_CONTAINS(warnings, "the same name");
    CHECK_OK(plain, run_folder(plain, &c, other_folder, "build/test-experiment/second", seen, 0, &e));
    qnet_experiment_destroy(e);
    CHECK_FAILS(ctx, begin(ctx, &c, other_folder, later, config), QNET_ERROR_LEAK, "subjects of this cohort");
    CHECK_FAILS(ctx, begin(ctx, &c, data_folder, later, config), QNET_ERROR_LEAK, "subjects of this cohort");
    context_end(plain);
    context_end(ctx);
}

/* How its images were prepared is part of a network: what initial weights say of it is followed
   (normalisation), or the difference is told. */
static void test_initial_weights(void)
{
    static const char path[] = "build/test-experiment/initial.safetensors";
    qnet_context *ctx = beginning();
    qnet_experiment_config c;
    qnet_input_config in;
    qnet_augment_config a;
    qnet_buffer text;
    char config[4096 + 1], first[32];
    const char *pairs[2 * QNET__METADATA_PAIRS];
    int n;
    tiny_config(&c);
    memset(&text, 0, sizeof text);
    qnet_input_config_init(&in, QNET_INPUT_CROP);
    in.size = 64;
    in.box_mm = 90;
    qnet_augment_config_init(&a);
    a.stretch = QNET_STRETCH_WINDOW;
    qnet_augment_config_imagenet(&a);
    a.mean[1] = 0.25;
    CHECK_OK(ctx, qnet__preparation_text(ctx, &in, &a, &text));
    n = qnet__metadata_pairs((char *)text.bytes, pairs);
    write_weights(ctx, path, 2, pairs, n);
    CHECK(begin(ctx, &c, data_folder, path, config) == QNET_STOPPED);
    CHECK_CONTAINS(config, "\nmean.1=0.25\n");
    CHECK_CONTAINS(config, "\nstd.0=0.229\n");
    CHECK_CONTAINS(warnings, "size is 64 in the file and 32 here");
    CHECK_CONTAINS(warnings, "does not say on whom it was trained: subjects in common are not noticed");
    CHECK_CONTAINS(warnings, "box_mm is 90 in the file and 96 here");
    CHECK_CONTAINS(warnings, "stretch is window in the file and percentile here");
    CHECK(strstr(warnings, "mean") == NULL && strstr(warnings, "percentile_low") == NULL);
    CHECK(strstr(warnings, "preparation") == NULL);
    for (int k = 0; k < n; k++) if (strcmp(pairs[2 * k], "preparation") == 0) pairs[2 * k + 1] = "1";
    write_weights(ctx, path, 2, pairs, n);
    c.stage1.augment.mean[0] = 0.5;
    CHECK(begin(ctx, &c, data_folder, path, config) == QNET_STOPPED);
    CHECK_CONTAINS(config, "\nmean.0=0.5\n");
    CHECK_CONTAINS(warnings, "mean.0 is 0.485 in the file and 0.5 here");
    CHECK_CONTAINS(warnings, "preparation is 1 in the file and 2 here");
    tiny_config(&c);
    write_weights(ctx, path, 3, NULL, 0); /* another's, whose head is left out */
    CHECK(begin(ctx, &c, data_folder, path, config) == QNET_STOPPED);
    CHECK_CONTAINS(config, "\nmean.0=0.485\n");
    CHECK(strstr(config, "\nweights=") != NULL);
    if (strstr(config, "\nweights=")) sprintf(first, "%.26s", strstr(config, "\nweights="));
    c.seed = 2; /* the hash is the file's */
    CHECK(begin(ctx, &c, data_folder, path, config) == QNET_STOPPED);
    CHECK_CONTAINS(config, first);
    qnet_buffer_free(ctx, &text);
    context_end(ctx);
}

/* Labels permuted over subjects, anew in each repeat: still four of each class, not the same ones.
   Every file of such a run says so, and its weights are no one's. */
static void test_shuffled_labels(void)
{
    static const char out[] = "build/test-experiment/shuffled";
    static const struct { const char *name; int stays; } in_weights[4] = {
        { "full-repeat01-fold01-qnet.safetensors", 0 }, { "crop-repeat01-fold03-resnet.safetensors", 0 },
        { "crop-repeat01-fold01-resnet.safetensors", 1 }, { "crop-mine.safetensors", 1 }
    };
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    qnet_input_config input;
    qnet_augment_config augment;
    qnet_buffer csv;
    char path[256];
    int hh = 0, moved = 0, again = 0;
    memset(&csv, 0, sizeof csv);
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    tiny_config(&c);
    c.shuffle_labels = 1;
    c.repeats = 2;
    sprintf(path, "%s/weights", out);
    CHECK_OK(ctx, qnet_make_folder(ctx, path));
    for (int k = 0; k < 4; k++) {
        sprintf(path, "%s/weights/%s", out, in_weights[k].name);
        CHECK_OK(ctx, qnet_file_replace(ctx, path, "old", 3));
    }
    CHECK_OK(ctx, run_folder(ctx, &c, data_folder, out, start, 0, &e));
    for (int k = 0; k < 4; k++) {
        sprintf(path, "%s/weights/%s", out, in_weights[k].name);
        CHECK(qnet_file_exists(path) == in_weights[k].stays);
    }
    for (int s = 0; e && s < 8; s++) {
        const qnet_item *item = &e->level[0][QNET_LEVEL_SCAN].items[s];
        hh += e->participants[s].label == QNET_HH;
        moved += (e->participants[s].label == QNET_HH) != (s < 4);
        again += item[8].label != item->label; /* of the second repeat */
        CHECK(e->participants[s].true_label == (s < 4 ? QNET_HH : QNET_HC));
        CHECK(item->label == (int)e->participants[s].label);
    }
    CHECK(hh == 4 && moved > 0 && again > 0);
    if (e) CHECK(strcmp(e->derivatives, "maps") == 0 && strcmp(e->data, data_folder) == 0);
    CHECK_OK(ctx, report_csv(e, &csv));
    CHECK_CONTAINS((const char *)csv.bytes, ",z,shuffled_label,p_resnet");
    CHECK_CONTAINS((const char *)csv.bytes, ",d_qnet,true_label\n");
    csv.size = 0;
    CHECK_OK(ctx, report_manifest(e, &csv));
    CHECK_CONTAINS((const char *)csv.bytes, "{\"subject\": \"sub-01\", \"session\": \"\", \"group\": \"HH\", \"shuffled_group\": \"H");
    sprintf(path, "%s/weights/crop-repeat01-fold01-resnetswa.safetensors", out);
    CHECK_FAILS(ctx, qnet_preparation_load(ctx, path, &input, &augment), QNET_ERROR_MISMATCH, "shuffled labels");
    qnet_buffer_free(ctx, &csv);
    qnet_experiment_destroy(e);
    context_end(ctx);
}

/* What the last epoch's validation of a ResNet should be: the loss of the network that it left, on the fold
   behind the tested one. */
static qnet_status watched_again(void *user, const qnet_experiment *e, const qnet_cohort *cohort)
{
    double *loss = (double *)user, probability[8], images = 0;
    int watch[8], count = 0;
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_resnet_config_init(&config);
    config.height = config.width = cohort->config.size;
    config.batch = 3;
    config.training = 0;
    for (int s = 0; s < 8; s++) if (e->fold[s] == 1) watch[count++] = s;
    CHECK_OK(e->ctx, qnet_resnet_create(e->ctx, &config, &net));
    CHECK_OK(e->ctx, qnet_experiment_weights(e, QNET_INPUT_CROP, 0, 0, QNET_MODEL_RESNET, net->table, net->weights));
    CHECK_OK(e->ctx, qnet_embed(net, &e->config.stage1.augment, cohort, watch, count, NULL, probability));
    for (int i = 0; i < count; i++, images++)
        *loss -= log(cohort->scans[watch[i]].label == QNET_HH ? probability[i] : 1 - probability[i]);
    *loss /= images;
    qnet_resnet_destroy(net);
    return QNET_OK;
}

/* A fold that is watched, not trained on: a second curve, the same bits after stops, and nothing else. */
static void test_inner_validation(void)
{
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *e[3] = { NULL, NULL, NULL };
    qnet_status status = QNET_STOPPED;
    double loss = 0;
    int stops = 0, n = 0;
    memset(&hooks, 0, sizeof hooks);
    hooks.progress.report = stop;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    tiny_config(&c);
    c.use_input[QNET_INPUT_FULL] = 0;
    c.folds = 3;
    c.stage1.epochs = c.stage2.epochs = 2;
    memset(&c.publish, 0, sizeof c.publish);
    stop_at = 100000;
    CHECK_OK(ctx, run_folder(ctx, &c, data_folder, "build/test-experiment/plain", NULL, 0, &e[0]));
    c.inner_validation = 1;
    c.publish.user = &loss;
    c.publish.input = watched_again;
    CHECK_OK(ctx, run_folder(ctx, &c, data_folder, "build/test-experiment/watched", NULL, 0, &e[1]));
    c.publish.input = NULL;
    for (; status == QNET_STOPPED && n < 200; n++) {
        stop_at = n < 2 ? 30 + n : 0;
        c.checkpoint_seconds = n < 2 ? 0 : 1000000;
        status = run_folder(ctx, &c, data_folder, "build/test-experiment/watched-parts", NULL, n > 0, &e[2]);
        stops += status == QNET_STOPPED;
    }
    CHECK(status == QNET_OK && stops >= 2);
    for (int i = 0; e[0] && e[1] && e[2] && i < e[1]->curves_count; i++) {
        const qnet_curve *a = &e[0]->curves[i], *b = &e[1]->curves[i], *d = &e[2]->curves[i];
        CHECK(a->epochs == 2 && b->epochs == 2 && d->epochs == 2 && b->kind == a->kind);
        for (int k = 0; k < 2; k++) {
            CHECK(a->epoch[k].validation <= 0);
            CHECK(b->epoch[k].validation > 0 && b->epoch[k].validation < 20);
            CHECK(b->epoch[k].validation == d->epoch[k].validation && b->epoch[k].loss == d->epoch[k].loss);
            CHECK(b->epoch[k].loss != a->epoch[k].loss); /* of fewer images */
        }
        if (i == 0) CHECK_NEAR(b->epoch[1].validation, loss, 1e-6); /* in float; inference folds the norms */
    }
    stop_at = 0;
    c.folds = 2;
    CHECK_FAILS(ctx, run_folder(ctx, &c, data_folder, "build/test-experiment/watched-two", NULL, 0, &e[2]),
                QNET_ERROR_ARGUMENT, "expected 3 or more with inner_validation");
    for (int i = 0; i < 3; i++) qnet_experiment_destroy(e[i]);
    context_end(ctx);
}

int main(void)
{
    RUN(test_run);
    RUN(test_identity);
    RUN(test_preparation);
    RUN(test_dataset);
    RUN(test_stop_and_resume);
    RUN(test_final);
    RUN(test_publish);
    RUN(test_parts);
    RUN(test_record);
    RUN(test_bad_arguments);
    RUN(test_changed_maps);
    RUN(test_leak);
    RUN(test_initial_weights);
    RUN(test_shuffled_labels);
    RUN(test_inner_validation);
    return test_end();
}
