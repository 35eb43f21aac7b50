/* Prediction without a study to train on: the distance against scikit-learn's, and a predictor of two files on a scan
   in memory. The whole, with a model's folder, is in tests/test_experiment.c and tests/predict.sh. */
#define _POSIX_C_SOURCE 200112L /* posix_memalign, for memory.h */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "memory.h"

#define PAIR "build/test-predict-"

/* Mahalanobis distances under the covariance of Ledoit & Wolf, of the 1st and 6th of 12 scans and of one more:
     x = np.sin(1.3*k+0.37*f)+np.cos(0.11*k*f)*0.5
     np.sqrt(sklearn.covariance.LedoitWolf().fit(x[:12]).mahalanobis(x[[0,5,12]])), share .16046102903591183 */
static void test_distance(void)
{
    static const double expected[3] = {3.60098900373989, 3.587409486809732, 28.897303434344675};
    enum { n = 12, p = QNET_FEATURES };
    int list[n];
    qnet_context *ctx;
    struct qnet__predictor_state *s = (struct qnet__predictor_state *)calloc(1, sizeof *s);
    qnet__study q;
    double *memory = (double *)calloc((size_t)(n + 1) * p + p * p + p + (size_t)p * (p + 1) / 2, sizeof(double));
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK && s && memory);
    q.s = s;
    q.x = memory;
    q.covariance = q.x + (n + 1) * p;
    s->study[QNET__MEAN] = q.covariance + p * p;
    s->study[QNET__FACTOR] = s->study[QNET__MEAN] + p;
    for (int k = 0; k <= n; k++)
        for (int f = 0; f < p; f++) q.x[k * p + f] = sin(1.3 * k + 0.37 * f) + cos(0.11 * k * f) * 0.5;
    for (int k = 0; k < n; k++) list[k] = k;
    CHECK_OK(ctx, qnet__study_fit(ctx, &q, list, n));
    for (int i = 0; i < 3; i++)
        CHECK_NEAR(qnet__distance(s->study[QNET__FACTOR], s->study[QNET__MEAN], q.x + (i == 2 ? n : 5 * i) * p),
                   expected[i], 1e-9);
    for (int k = 1; k < n; k++) memcpy(q.x + k * p, q.x, p * sizeof(double));
    CHECK_FAILS(ctx, qnet__study_fit(ctx, &q, list, n), QNET_ERROR_DATA, "do not vary enough");
    free(memory);
    free(s);
    qnet_context_destroy(ctx);
}

static void test_logit(void)
{
    CHECK_NEAR(qnet__logit(0.8), log(4.0), 1e-15);
    CHECK_NEAR(qnet__logit(1), log(999999.0), 1e-9);
    CHECK_NEAR(qnet__logit(0), -qnet__logit(1), 1e-9);
}

/* Two scans of each subject, `hh` of HH: the calibration is that of the subjects, by the means of their logits. */
static void summary(qnet_context *ctx, int hh, qnet_predictor *p, double fit[2])
{
    enum { subjects = 24, n = 2 * subjects, size = n * (3 + QNET_MEASURES) };
    static float pixels[3] = {0.1f, 20, 1}, voxels[1];
    static qnet_scan scans[n];
    static double study[size], x[n], mean[subjects];
    static int label[n], first[n], of_subject[subjects];
    struct qnet__predictor_state *s = (struct qnet__predictor_state *)calloc(1, sizeof *s);
    qnet_experiment e;
    qnet_cohort cohort;
    qnet__job job;
    qnet__study q;
    memset(&e, 0, sizeof e);
    memset(&cohort, 0, sizeof cohort);
    memset(&job, 0, sizeof job);
    memset(&q, 0, sizeof q);
    e.ctx = ctx;
    cohort.scans = scans;
    cohort.scans_count = n;
    cohort.height = cohort.width = 1;
    job.e = &e;
    job.cohort = &cohort;
    job.label = label;
    job.subject = first;
    q.s = s;
    q.x = x;
    s->p.scans = n;
    s->voxels = voxels;
    for (int i = 0; i < 4; i++) s->study[i] = study + i * n;
    s->p.distance = s->study[QNET__DISTANCE];
    s->p.probability = s->study[QNET__PROBABILITY];
    for (int k = 0; k < n; k++) { /* the second scans come behind all first ones */
        const int i = first[k] = k % subjects;
        memset(&scans[k], 0, sizeof scans[k]);
        sprintf(scans[k].subject, "sub-%02d", i);
        scans[k].label = i < hh ? QNET_HH : QNET_HC;
        of_subject[i] = (int)scans[k].label;
        scans[k].slices = 1;
        scans[k].pixels = pixels;
        s->study[QNET__PROBABILITY][k] = 0.5 + 0.3 * sin(1.7 * i) + (i < hh ? 0.1 : -0.1) + (k < subjects ? 0.05 : -0.05);
        s->study[QNET__DISTANCE][k] = k + 1; /* quartiles 12.75 and 36.25 */
        mean[i] = k < subjects ? qnet__logit(s->study[QNET__PROBABILITY][k])
                               : (mean[i] + qnet__logit(s->study[QNET__PROBABILITY][k])) / 2;
    }
    CHECK_OK(ctx, qnet__study_summary(&job, &q));
    CHECK_OK(ctx, qnet_logistic_fit(ctx, of_subject, mean, subjects, 1, 1, fit, NULL));
    *p = s->p;
    free(s);
}

static void test_calibration(void)
{
    qnet_context *ctx;
    qnet_predictor p;
    double fit[2];
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    summary(ctx, 12, &p, fit);
    CHECK(p.calibrated && p.intercept == fit[0] && p.slope == fit[1] && p.slope > 0);
    CHECK_NEAR(p.limit, 36.25 + 3 * 23.5, 1e-9);
    summary(ctx, 9, &p, fit); /* 18 scans, but 9 subjects */
    CHECK(!p.calibrated && p.intercept == 0 && p.slope == 1 && fit[1] > 0);
    qnet_context_destroy(ctx);
}

static void input_config(qnet_input_config *config)
{
    qnet_input_config_init(config, QNET_INPUT_CROP);
    config->size = 32;
    config->max_slices = 3;
}

/* A random ResNet and a random Q-Net on it; run: another one leaves the hash of another ResNet. */
static void write_pair(qnet_context *ctx, int seed, const char *labels)
{
    qnet_resnet_config rc;
    qnet_scan_config sc;
    qnet_input_config input;
    qnet_augment_config augment;
    qnet_resnet *resnet = NULL;
    qnet_scan_model *model = NULL;
    qnet_safetensors *file = NULL;
    const char *pairs[2 * QNET__METADATA_PAIRS];
    qnet_resnet_config_init(&rc);
    rc.height = rc.width = 32;
    rc.batch = 1;
    rc.training = 0;
    qnet_scan_config_init(&sc);
    sc.hidden = 8;
    sc.steps = 3;
    sc.training = 0;
    input_config(&input);
    qnet_augment_config_init(&augment);
    CHECK_OK(ctx, qnet_resnet_create(ctx, &rc, &resnet));
    CHECK_OK(ctx, qnet_scan_model_create(ctx, &sc, &model));
    qnet_resnet_init(resnet, (uint64_t)seed);
    qnet_scan_model_init(model, (uint64_t)seed);
    for (int i = 0; i < 2; i++) {
        qnet_buffer text = {NULL, 0, 0, NULL};
        int n;
        CHECK_OK(ctx, qnet_buffer_printf(ctx, &text, "model=%s\nrun=1\nlabels=%s\n", i ? "qnet" : "resnetswa", labels));
        if (i) CHECK_OK(ctx, qnet_buffer_printf(ctx, &text, "embedding=resnetswa\nembedding_hash=%016llx\n",
                                                (unsigned long long)qnet_safetensors_hash(file)));
        CHECK_OK(ctx, qnet__preparation_text(ctx, &input, &augment, &text));
        n = qnet__metadata_pairs((char *)text.bytes, pairs);
        CHECK_OK(ctx, qnet_weights_save(ctx, i ? PAIR "qnet" : PAIR "resnet", i ? model->table : resnet->table,
                                        i ? model->weights : resnet->weights, pairs, n));
        if (!i) CHECK_OK(ctx, qnet_safetensors_load(ctx, PAIR "resnet", &file));
        qnet_buffer_free(ctx, &text);
    }
    qnet_safetensors_destroy(file);
    qnet_resnet_destroy(resnet);
    qnet_scan_model_destroy(model);
}

/* A disc with a brighter middle, which is the mask. */
static qnet_volume *volume(qnet_context *ctx, int kind, double scale)
{
    qnet_volume *v = NULL;
    qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_USER, (uint32_t)kind, 0);
    CHECK_OK(ctx, qnet_volume_create(ctx, 40, 44, 6, &v));
    v->spacing[0] = v->spacing[1] = 3;
    v->spacing[2] = 2;
    v->affine_source = 2;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) v->affine[i][j] = i == j ? v->spacing[i] : j == 3 ? -50 : 0;
    for (int i = 0; i < 40 * 44 * 6; i++) {
        const double x = (i % 40 - 19.5) / 17, y = (i / 40 % 44 - 21.5) / 20, r = x * x + y * y;
        const double noise = 1 + 0.2 * qnet_rng_normal(&rng);
        v->voxels[i] = r > 1 ? 0 : (float)(kind == 3 ? r < 0.2 : scale * (kind ? 20 : 0.02) * noise * (r < 0.2 ? 3 : 1));
    }
    return v;
}

static qnet_cohort *cohort_of(qnet_context *ctx, const qnet_input_config *input)
{
    qnet_cohort *cohort = NULL;
    qnet_scan_maps maps = {"new", QNET_HC, NAN, QNET_SEX_UNKNOWN, volume(ctx, 0, 1), volume(ctx, 1, 1),
                           volume(ctx, 2, 1), volume(ctx, 3, 1), NULL};
    CHECK_OK(ctx, qnet_cohort_create(ctx, input, 1, &cohort));
    CHECK_OK(ctx, qnet_cohort_add(cohort, &maps));
    qnet_volume_destroy(maps.qsm);
    qnet_volume_destroy(maps.r2star);
    qnet_volume_destroy(maps.t1w);
    qnet_volume_destroy(maps.mask);
    return cohort;
}

static void test_pair(void)
{
    qnet_context *ctx;
    qnet_predictor *p = NULL;
    qnet_prediction r, untouched;
    qnet_cohort *cohort, *other;
    qnet_input_config input;
    qnet_real features[3 * QNET_FEATURES];
    double slices[3], resnet[3], scan;
    const int first = 0;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    write_pair(ctx, 1, "true");
    CHECK_FAILS(ctx, qnet_predictor_open_pair(ctx, PAIR "none", PAIR "qnet", &p), QNET_ERROR_NOT_FOUND, "predict-none");
    CHECK_FAILS(ctx, qnet_predictor_open_pair(ctx, PAIR "qnet", PAIR "resnet", &p), QNET_ERROR_MISMATCH, "swapped");
    CHECK_FAILS(ctx, qnet_predictor_open_pair(ctx, NULL, PAIR "qnet", &p), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_predictor_open(ctx, "build/none", &p), QNET_ERROR_NOT_FOUND, "build/none/model.safetensors");
    CHECK(p == NULL);
    CHECK_OK(ctx, qnet_predictor_open_pair(ctx, PAIR "resnet", PAIR "qnet", &p));
    if (!p) return;
    CHECK(p->folds == 0 && p->scans == 0 && p->input.size == 32 && p->input.max_slices == 3);
    cohort = cohort_of(ctx, &p->input);
    CHECK_OK(ctx, qnet_predictor_run(p, cohort, 0, &r));
    CHECK(!r.refused && !r.seen && !r.unlike && r.slices == 3);
    CHECK(r.calibrated != r.calibrated && r.distance != r.distance); /* there is no study */
    CHECK_NEAR(r.measure[QNET_MEASURE_R2STAR], 20, 6);
    CHECK(r.measure[QNET_MEASURE_X] == 3 && r.measure[QNET_MEASURE_Z] == 2);
    /* The same by hand. */
    CHECK_OK(ctx, qnet_embed(p->resnet, &p->augment, cohort, &first, 1, features, resnet));
    CHECK_OK(ctx, qnet_scan_model_predict(p->qnet, features, &r.slices, 1, slices, &scan));
    CHECK(r.probability == scan);
    CHECK(memcmp(slices, r.by_slice, sizeof slices) == 0 && memcmp(resnet, r.by_slice_resnet, sizeof resnet) == 0);
    /* What does not fit. */
    memset(&untouched, 7, sizeof untouched);
    r = untouched;
    CHECK_FAILS(ctx, qnet_predictor_run(p, cohort, 1, &r), QNET_ERROR_ARGUMENT, "scan 1 of a cohort of 1");
    CHECK_FAILS(ctx, qnet_predictor_run(p, NULL, 0, &r), QNET_ERROR_ARGUMENT, "NULL");
    input = p->input;
    input.size = 48;
    other = cohort_of(ctx, &input);
    CHECK_FAILS(ctx, qnet_predictor_run(p, other, 0, &r), QNET_ERROR_MISMATCH, "predictor->input");
    CHECK(memcmp(&r, &untouched, sizeof r) == 0);
    qnet_cohort_destroy(other);
    qnet_predictor_destroy(p);
    qnet_predictor_destroy(NULL);
    write_pair(ctx, 2, "shuffled");
    CHECK_FAILS(ctx, qnet_predictor_open_pair(ctx, PAIR "resnet", PAIR "qnet", &p), QNET_ERROR_MISMATCH, "shuffled labels");
    qnet_cohort_destroy(cohort);
    qnet_context_destroy(ctx);
    remove(PAIR "resnet");
    remove(PAIR "qnet");
}

/* Each allocation of opening and of a run fails once: an error, nothing left behind, the next one works. */
static void test_memory(void)
{
    memory_watch watch;
    qnet_hooks hooks;
    qnet_context *ctx;
    qnet_predictor *p = NULL;
    qnet_prediction r;
    qnet_cohort *cohort;
    qnet_input_config input;
    int failures = 0;
    memset(&watch, 0, sizeof watch);
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &watch;
    hooks.allocator.alloc = memory_alloc;
    hooks.allocator.free = memory_free;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    write_pair(ctx, 1, "true");
    input_config(&input);
    cohort = cohort_of(ctx, &input);
    const size_t before = watch.count;
    for (int k = 1; !p && k < 200; k++) {
        watch.calls = 0;
        watch.fail_at = (size_t)k;
        const qnet_status status = qnet_predictor_open_pair(ctx, PAIR "resnet", PAIR "qnet", &p);
        if (status == QNET_OK) break;
        failures++;
        if (!CHECK(status == QNET_ERROR_MEMORY && p == NULL && watch.count == before)) break;
    }
    CHECK(failures > 5);
    for (int k = 1; p && k < 200; k++) {
        const size_t open = watch.count;
        watch.calls = 0;
        watch.fail_at = (size_t)k;
        const qnet_status status = qnet_predictor_run(p, cohort, 0, &r);
        if (!CHECK(watch.count == open) || status == QNET_OK) break;
        failures++;
        CHECK(status == QNET_ERROR_MEMORY);
    }
    watch.fail_at = 0;
    qnet_predictor_destroy(p);
    qnet_cohort_destroy(cohort);
    qnet_context_destroy(ctx);
    CHECK(watch.count == 0 && watch.wrong == NULL);
    memory_end(&watch);
    remove(PAIR "resnet");
    remove(PAIR "qnet");
}

int main(void)
{
    RUN(test_distance);
    RUN(test_logit);
    RUN(test_calibration);
    RUN(test_pair);
    RUN(test_memory);
    return test_end();
}
