/* The experiment as a library call, on a cohort of eight small heads that this program writes. The
   command-line side (signals, resume after a kill, sentences) is in tests/crossval.sh. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"

static const char data_folder[] = "build/test-experiment/data",
                  out_folder[] = "build/test-experiment/out";

/* A disc with two bright nuclei; those of HH are brighter. kind: 0 QSM, 1 R2*, 2 T1W, 3 mask. */
static void write_map(qnet_context *ctx, const char *path, int subject, int kind)
{
    qnet_volume *v = NULL;
    qnet_rng rng = qnet_rng_at(5, QNET_RANDOM_USER, (uint32_t)kind, (uint64_t)subject);
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
    CHECK_OK(ctx, qnet_nifti_save(ctx, path, v, NULL));
    qnet_volume_destroy(v);
}

static void write_cohort(qnet_context *ctx)
{
    static const char *const names[4] = { "Chimap", "R2starmap", "T1w", "desc-basalganglia_mask" };
    char path[256];
    qnet_buffer table;
    memset(&table, 0, sizeof table);
    CHECK_OK(ctx, qnet_buffer_printf(ctx, &table, "participant_id\tage\tsex\tgroup\n"));
    for (int s = 0; s < 8; s++) {
        CHECK_OK(ctx, qnet_buffer_printf(ctx, &table, "sub-%02d\t%d\tM\t%s\n", s + 1, 40 + s,
                                         s < 4 ? "HH" : "HC"));
        for (int k = 0; k < 4; k++) {
            sprintf(path, "%s/derivatives/maps/sub-%02d/anat", data_folder, s + 1);
            CHECK_OK(ctx, qnet_make_folder(ctx, path));
            sprintf(path + strlen(path), "/sub-%02d_%s.nii.gz", s + 1, names[k]);
            write_map(ctx, path, s, k);
        }
    }
    sprintf(path, "%s/dataset_description.json", data_folder);
    CHECK_OK(ctx, qnet_file_replace(ctx, path, "{\"Name\": \"Eight discs, simulated\"}", 34));
    sprintf(path, "%s/participants.tsv", data_folder);
    CHECK_OK(ctx, qnet_file_replace(ctx, path, table.bytes, table.size));
    qnet_buffer_free(ctx, &table);
}

static void small_config(qnet_experiment_config *c)
{
    qnet_experiment_config_init(c);
    c->use_input[QNET_INPUT_FULL] = 0;
    c->input[QNET_INPUT_CROP].size = 32;
    c->input[QNET_INPUT_CROP].max_slices = 3;
    c->folds = 2;
    c->bootstrap = 40;
    c->stage1.epochs = 3;
    c->stage1.batch = 8;
    c->stage2.epochs = 4;
    c->stage2.hidden = 8;
    c->cam_scans = 1;
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
    const qnet_level_result *images, *scans;
    memset(&hooks, 0, sizeof hooks);
    memset(&text, 0, sizeof text);
    hooks.allocator.alloc = counted_alloc;
    hooks.allocator.free = counted_free;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    write_cohort(ctx);
    small_config(&c);
    c.repeats = 2;
    CHECK_OK(ctx, qnet_experiment_run(ctx, &c, data_folder, out_folder, NULL, 0, &e));
    if (!e) return;
    images = &e->level[QNET_INPUT_CROP][QNET_LEVEL_IMAGE];
    scans = &e->level[QNET_INPUT_CROP][QNET_LEVEL_SCAN];
    CHECK(e->participants_count == 8);
    CHECK(strcmp(e->dataset, "Eight discs, simulated") == 0 && e->simulated == 1);
    CHECK(images->count == 24 && scans->count == 8);
    CHECK(e->level[QNET_INPUT_FULL][QNET_LEVEL_SCAN].count == 0);
    CHECK(e->curves_count == 2 * 2 * QNET_MODELS);
    CHECK(e->cams_count[QNET_INPUT_CROP] == 2);
    for (int s = 0; s < 8; s++) {
        const qnet_cut *cut = &e->participants[s].cut[QNET_INPUT_CROP];
        CHECK(cut->picture != NULL && cut->slice[1] - cut->slice[0] == 2 && cut->mask_voxels > 0);
        CHECK(e->participants[s].cut[QNET_INPUT_FULL].picture == NULL);
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
    CHECK(scans->pair[0].model1 == QNET_MODEL_RESNET_SWA &&
          scans->pair[0].model2 == QNET_MODEL_RESNET);
    CHECK_NEAR(scans->pair[1].by_item.auc[0], scans->model[QNET_MODEL_QNET].auc_first, 1e-12);
    CHECK_OK(ctx, qnet_experiment_tables(e, &text));
    CHECK_OK(ctx, qnet_buffer_append(ctx, &text, "", 1));
    CHECK_CONTAINS((const char *)text.bytes, "Q-Net");
    qnet_buffer_free(ctx, &text);
    CHECK_OK(ctx, qnet_experiment_save(e, "build/test-experiment/again"));
    CHECK(qnet_file_exists("build/test-experiment/again/report.html"));
    qnet_experiment_destroy(e);
    qnet_context_destroy(ctx);
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
        qnet__job job;
        memset(&e, 0, sizeof e);
        memset(&job, 0, sizeof job);
        e.ctx = ctx;
        job.e = &e;
        job.fingerprint = (uint64_t)strtoull(qnet_safetensors_metadata(scan, "run"), NULL, 16);
        CHECK_OK(ctx, qnet__check_run(&job, path));
        job.fingerprint ^= 1;
        CHECK_FAILS(ctx, qnet__check_run(&job, path), QNET_ERROR_MISMATCH, "resnetswa.safetensors: weights of run ");
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
    qnet_context_destroy(ctx);
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
    CHECK(augment.percentile_low == 1 && augment.percentile_high == 99 && augment.std[2] == 1);
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
                    QNET_ERROR_MISMATCH, "old.safetensors: its images were prepared by rule 1 ");
        at[0] = 'x'; /* as files were before the rule had a number */
        CHECK_OK(ctx, qnet_file_replace(ctx, "build/test-experiment/old.safetensors", bytes.bytes, bytes.size));
        CHECK_FAILS(ctx, qnet_preparation_load(ctx, "build/test-experiment/old.safetensors", &input, &augment),
                    QNET_ERROR_MISMATCH, "old.safetensors: its images were prepared by rule 1 ");
        qnet_buffer_free(ctx, &bytes);
    }
    CHECK_FAILS(ctx, qnet_preparation_load(ctx, "build/test-experiment/none", &input, &augment),
                QNET_ERROR_NOT_FOUND, "none");
    qnet_context_destroy(ctx);
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
    qnet_experiment *e = (qnet_experiment *)calloc(1, sizeof *e);
    qnet_hooks hooks;
    int warnings = 0;
    if (!e) return;
    memset(&hooks, 0, sizeof hooks);
    hooks.log.user = &warnings;
    hooks.log.message = count_warning;
    CHECK(qnet_context_create(&hooks, &e->ctx) == QNET_OK);
    CHECK_OK(e->ctx, qnet_make_folder(e->ctx, folder));
    sprintf(path, "%s/dataset_description.json", folder);
    remove(path);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        memset(e->dataset, 0, sizeof e->dataset);
        memset(e->dataset_type, 0, sizeof e->dataset_type);
        e->simulated = warnings = 0;
        if (cases[k].text)
            CHECK_OK(e->ctx, qnet_file_replace(e->ctx, path, cases[k].text, strlen(cases[k].text)));
        CHECK_OK(e->ctx, qnet__dataset_describe(e, folder));
        if (strcmp(e->dataset, cases[k].name)) printf("    \"%s\" from %s\n", e->dataset, cases[k].text);
        CHECK(strcmp(e->dataset, cases[k].name) == 0 && strcmp(e->dataset_type, cases[k].type) == 0);
        CHECK(e->simulated == cases[k].simulated && warnings == cases[k].warns);
    }
    strcpy(text, "{\"Name\":\"");
    for (int i = 0; i < 400; i++) strcat(text, "\xc3\xa9"); /* cut at a whole character */
    strcat(text, "\"}");
    CHECK_OK(e->ctx, qnet_file_replace(e->ctx, path, text, strlen(text)));
    CHECK_OK(e->ctx, qnet__dataset_describe(e, folder));
    CHECK(strlen(e->dataset) == 254 && strncmp(e->dataset, text + 9, 254) == 0);
    qnet_context_destroy(e->ctx);
    free(e);
}

static int stop_at;
static int stop(void *user, const qnet_progress_info *info)
{
    (void)user;
    CHECK(info->fraction >= 0 && info->fraction <= 1);
    return stop_at > 0 && --stop_at == 0;
}

/* Stopped at many different moments, resumed each time: the same predictions. */
static void test_stop_and_resume(void)
{
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *whole = NULL, *parts = NULL;
    qnet_status status = QNET_STOPPED;
    int stops = 0;
    memset(&hooks, 0, sizeof hooks);
    hooks.progress.report = stop;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    small_config(&c);
    stop_at = 0;
    CHECK_OK(ctx, qnet_experiment_run(ctx, &c, data_folder, "build/test-experiment/whole", NULL, 0,
                                      &whole));
    for (int n = 0; status == QNET_STOPPED && n < 200; n++) {
        stop_at = 20 + n; /* reports until the next stop */
        status = qnet_experiment_run(ctx, &c, data_folder, "build/test-experiment/parts", NULL,
                                     n > 0, &parts);
        stops += status == QNET_STOPPED;
    }
    CHECK(status == QNET_OK);
    CHECK(stops >= 3);
    if (whole && parts) {
        const qnet_level_result *a = &whole->level[0][QNET_LEVEL_IMAGE],
                                *b = &parts->level[0][QNET_LEVEL_IMAGE];
        CHECK(a->count == b->count);
        for (size_t i = 0; i < a->count; i++) {
            for (int m = 0; m < QNET_MODELS; m++)
                CHECK(a->items[i].probability[m] == b->items[i].probability[m]);
        }
    }
    qnet_experiment_destroy(whole);
    qnet_experiment_destroy(parts);
    qnet_context_destroy(ctx);
}

static void test_bad_arguments(void)
{
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    small_config(&c);
    CHECK(qnet_experiment_run(NULL, &c, data_folder, out_folder, NULL, 0, &e) ==
          QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, NULL, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "NULL");
    c.folds = 1;
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "folds");
    c.folds = 5;
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "5");
    small_config(&c);
    c.repeats = 0;
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "repeats");
    small_config(&c);
    c.stage1.swa_share = (double)NAN;
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "swa_share");
    small_config(&c);
    c.stage1.epochs = 0;
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "epochs");
    small_config(&c);
    c.use_input[QNET_INPUT_CROP] = 0;
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &c, data_folder, out_folder, NULL, 0, &e),
                QNET_ERROR_ARGUMENT, "input");
    CHECK(e == NULL);
    CHECK(strcmp(qnet_model_name(QNET_MODEL_QNET), "Q-Net") == 0);
    CHECK(strcmp(qnet_level_name(QNET_LEVEL_SCAN), "scan") == 0);
    qnet_experiment_destroy(NULL);
    qnet_context_destroy(ctx);
}

/* Labels permuted over subjects: still four of each class, not the same ones. */
static void test_shuffled_labels(void)
{
    qnet_context *ctx;
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    int hh = 0, moved = 0;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    small_config(&c);
    c.shuffle_labels = 1;
    c.stage1.epochs = c.stage2.epochs = 1;
    CHECK_OK(ctx, qnet_experiment_run(ctx, &c, data_folder, "build/test-experiment/shuffled", NULL,
                                      0, &e));
    for (int s = 0; e && s < 8; s++) {
        hh += e->participants[s].label == QNET_HH;
        moved += (e->participants[s].label == QNET_HH) != (s < 4);
        CHECK(e->level[0][QNET_LEVEL_SCAN].items[s].label == (int)e->participants[s].label);
    }
    CHECK(hh == 4 && moved > 0);
    qnet_experiment_destroy(e);
    qnet_context_destroy(ctx);
}

int main(void)
{
    RUN(test_run);
    RUN(test_identity);
    RUN(test_preparation);
    RUN(test_dataset);
    RUN(test_stop_and_resume);
    RUN(test_bad_arguments);
    RUN(test_shuffled_labels);
    return test_end();
}
