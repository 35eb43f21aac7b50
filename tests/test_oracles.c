/* Augmentation, evaluation and NIfTI against other people's programs: Albumentations and OpenCV,
   SciPy, PyTorch, scikit-learn, pROC, nibabel and a dozen compressors. Inputs come from formula.h,
   what the others say from image.h, metrics.h and nifti.h of tests/golden, which make_*.py there
   write. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "golden/formula.h"

typedef struct {
    const char *name;
    int h, w, out_h, out_w;
    qnet_augmentation record;
    uint32_t crc; /* 0: none, the case interpolates or takes a power */
    double sum;
    int first, points;
} image_case;

typedef struct {
    const char *name;
    int count, levels;
    double share, lead1, lead2;
    double rates[12], wilson[6], delong[12], clustered[5];
    int points;
    double curve[3];
    double box[2][7];
} metrics_set;

typedef struct {
    const char *name;
    size_t at, size, voxels_at;
    int n[3];
    const char *orientation;
    int source;
    double affine[12];
} nifti_file;

typedef struct {
    const char *name;
    size_t at, size;
} gzip_file;

#include "golden/image.h"
#include "golden/metrics.h"
#include "golden/nifti.h"
#include "gzip.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static qnet_context *ctx;

/* Which of many cases a failed check belongs to. */
static long failed_before;
static void begin(void)
{
    failed_before = test_failed;
}
static void end(const char *name)
{
    if (test_failed > failed_before) printf("    in \"%s\"\n", name);
}

/* ---- images ---------------------------------------------------------------------------------- */

#define MOST (96 * 96 * 3)
static float source[MOST];
static qnet_real result[MOST];

/* A compiler that fuses v * alpha + beta rounds once where NumPy rounds twice: other bits. */
#ifdef __FP_FAST_FMAF
#define FUSES 1
#else
#define FUSES 0
#endif

/* What moves or scales values is exact, bit by bit over the whole output. Where pixels are
   interpolated or raised to a power, the exact-coordinates oracle is met to 1e-6 (float weights
   and values of size 1: 3e-7 is what there is), its mean over all pixels to 1e-7, and
   Albumentations over OpenCV 4 within what rounding coordinates to 1/32 pixel can do there. */
static void test_augmentations(void)
{
    qnet_augment_config config;
    size_t k;
    int c, i;
    qnet_augment_config_init(&config);
    config.stretch = QNET_STRETCH_WINDOW;
    for (c = 0; c < 3; c++) {
        config.window_low[c] = 0;
        config.window_high[c] = 1;
    }
    for (k = 0; k < COUNT(image_cases); k++) {
        const image_case *one = &image_cases[k];
        const int count = one->out_h * one->out_w * 3;
        double sum = 0;
        begin();
        for (i = 0; i < one->h * one->w * 3; i++)
            source[i] = (float)formula(400, (uint32_t)i);
        CHECK_OK(ctx, qnet_augment_apply(ctx, &config, &one->record, source, one->h, one->w, result,
                                         one->out_h, one->out_w, NULL));
        for (i = 0; i < count; i++) sum += (double)result[i] * (formula(420, (uint32_t)i) - 0.5);
        CHECK_NEAR(sum / count, one->sum, 1e-7);
        if (one->crc && !(FUSES && one->record.brightness_contrast)) {
            uint32_t crc = 0, bits;
            for (i = 0; i < count; i++) {
                const float v = (float)result[i];
                unsigned char bytes[4];
                memcpy(&bits, &v, 4);
                for (c = 0; c < 4; c++) bytes[c] = (unsigned char)(bits >> 8 * c & 255);
                crc = qnet_crc32(crc, bytes, 4);
            }
            CHECK(crc == one->crc);
        }
        for (i = 0; i < one->points; i++) {
            const double *p = image_points[one->first + i];
            const int at = ((int)p[0] * one->out_w + (int)p[1]) * 3;
            const int moves = one->record.grid || one->record.affine;
            for (c = 0; c < 3; c++) {
                CHECK_NEAR(result[at + c], p[2 + c], moves ? 1e-6 : 6e-7);
                if (p[5 + c] >= 0) CHECK_NEAR(result[at + c], p[5 + c], moves ? p[8] : 6e-7);
            }
        }
        end(one->name);
    }
}

/* Both ends of a percentile are floats; the result is rounded to one. */
static void test_percentiles(void)
{
    const size_t count = COUNT(image_percentiles);
    qnet_augment_config config;
    size_t k;
    int i, c;
    qnet_augment_config_init(&config);
    for (i = 0; i < 43 * 52 * 3; i++) {
        const float v = (float)formula(400, (uint32_t)i);
        source[i] = (double)v > 0.45 ? (float)(((double)v - 0.5) * 700) : 0;
    }
    for (k = 0; k + 1 < count; k++) {
        static float values[43 * 52];
        float low[3], high[3];
        config.percentile_low = image_percentiles[k][0];
        config.percentile_high = image_percentiles[k + 1][0];
        CHECK_OK(ctx, qnet_stretch_limits(ctx, &config, source, 43 * 52, low, high, values));
        for (c = 0; c < 3; c++) {
            const double a = image_percentiles[k][1 + c], b = image_percentiles[k + 1][1 + c];
            CHECK_NEAR(low[c], a, 6e-8 * fabs(a));
            CHECK_NEAR(high[c], b, 6e-8 * fabs(b));
        }
    }
}

static void test_resizes(void)
{
    static float out[104 * 90 * 3];
    size_t k;
    int i;
    for (i = 0; i < 43 * 52 * 3; i++) source[i] = (float)formula(400, (uint32_t)i);
    for (k = 0; k < COUNT(image_resizes); k++) {
        const double *want = image_resizes[k];
        const int h = (int)want[0], w = (int)want[1];
        double sum = 0;
        qnet_image_resize(source, 43, 52, 3, out, h, w);
        for (i = 0; i < h * w * 3; i++) sum += (double)out[i] * (formula(480, (uint32_t)i) - 0.5);
        CHECK_NEAR(sum / (h * w * 3), want[2], 1e-7);
        CHECK_NEAR(out[0], want[3], 3e-7);
        CHECK_NEAR(out[(w - 1) * 3], want[4], 3e-7);
        CHECK_NEAR(out[(h - 1) * w * 3], want[5], 3e-7);
        CHECK_NEAR(out[(h * w - 1) * 3], want[6], 3e-7);
        CHECK_NEAR(out[(h / 2 * w + w / 2) * 3], want[7], 3e-7);
    }
}

/* ---- evaluation ------------------------------------------------------------------------------ */

#define ITEMS 500
static int label[ITEMS], cluster[ITEMS], decision[ITEMS];
static double score[2][ITEMS];

/* table() of metrics_oracle.py; every number is exact in double. */
static void make_scores(size_t set)
{
    const metrics_set *one = &metrics_sets[set];
    const uint32_t at = 500 + 10 * (uint32_t)set;
    uint32_t i;
    for (i = 0; i < (uint32_t)one->count; i++) {
        const double a = formula(at + 1, i), b = formula(at + 2, i);
        label[i] = formula(at, i) < one->share;
        score[0][i] = floor((a + one->lead1 * label[i]) * one->levels) / one->levels;
        score[1][i] = floor(((a + b) / 2 + one->lead2 * label[i]) * one->levels) / one->levels;
        cluster[i] = (int)floor(formula(at + 3, i) * (one->count / 4));
        decision[i] = score[0][i] >= 0.625;
    }
}

/* Rates are one division each; F1 a few; Wilson's limits lose one digit where p - z... cancels. */
static void test_rates(void)
{
    size_t k;
    for (k = 0; k < COUNT(metrics_sets); k++) {
        const metrics_set *one = &metrics_sets[k];
        qnet_metrics m = { 0 };
        int i;
        begin();
        make_scores(k);
        CHECK_OK(ctx, qnet_metrics_from(ctx, label, decision, (size_t)one->count, &m));
        {
            const double got[12] = {(double)m.count.tp, (double)m.count.fn, (double)m.count.tn,
                                    (double)m.count.fp, m.accuracy, m.sensitivity, m.specificity,
                                    m.precision, m.f1, m.f1_hh, m.f1_hc, m.f1_macro};
            const double wilson[6] = {m.accuracy_ci.low, m.accuracy_ci.high,
                                      m.sensitivity_ci.low, m.sensitivity_ci.high,
                                      m.specificity_ci.low, m.specificity_ci.high};
            for (i = 0; i < 12; i++) CHECK_NEAR(got[i], one->rates[i], i < 4 ? 0 : 1e-15);
            for (i = 0; i < 6; i++) CHECK_NEAR(wilson[i], one->wilson[i], 1e-14);
        }
        end(one->name);
    }
}

static void test_curves(void)
{
    size_t k, i;
    for (k = 0; k < COUNT(metrics_sets); k++) {
        const metrics_set *one = &metrics_sets[k];
        qnet_roc_point p[ITEMS + 1];
        size_t n = 0;
        double sum[3] = {0, 0, 0};
        begin();
        make_scores(k);
        CHECK_OK(ctx, qnet_roc(ctx, label, score[0], (size_t)one->count, p, &n));
        CHECK((int)n == one->points);
        for (i = 0; i < n; i++) {
            sum[0] += p[i].false_positive_rate * formula(900, (uint32_t)i);
            sum[1] += p[i].true_positive_rate * formula(901, (uint32_t)i);
            if (i > 0) sum[2] += p[i].threshold * formula(902, (uint32_t)i);
        }
        for (i = 0; i < 3; i++) CHECK_NEAR(sum[i], one->curve[i], 1e-12);
        if (k == 0) {
            CHECK(n == COUNT(metrics_curve));
            for (i = 0; i < n && i < COUNT(metrics_curve); i++) {
                CHECK(p[i].false_positive_rate == metrics_curve[i][0]);
                CHECK(p[i].true_positive_rate == metrics_curve[i][1]);
                CHECK(p[i].threshold == metrics_curve[i][2]);
            }
        }
        end(one->name);
    }
}

/* DeLong: variances are sums of up to 500 terms of 1e-3, and z divides by a small difference of
   them: relative to what they are. */
static void test_delongs(void)
{
    size_t k;
    for (k = 0; k < COUNT(metrics_sets); k++) {
        const metrics_set *one = &metrics_sets[k];
        qnet_delong d;
        int i;
        begin();
        make_scores(k);
        CHECK_OK(ctx, qnet_delong_test(ctx, label, score[0], score[1], NULL, (size_t)one->count,
                                       &d));
        {
            const double got[12] = {d.auc[0], d.auc[1], d.variance[0], d.variance[1],
                                    d.covariance, d.se, d.z, d.p, d.ci[0].low, d.ci[0].high,
                                    d.ci[1].low, d.ci[1].high};
            for (i = 0; i < 12; i++)
                CHECK_NEAR(got[i], one->delong[i], 1e-12 * fmax(fabs(one->delong[i]), 1e-3));
        }
        CHECK_OK(ctx, qnet_delong_test(ctx, label, score[0], score[1], cluster, (size_t)one->count,
                                       &d));
        {
            const double got[5] = {d.auc[0], d.auc[1], d.variance[0], d.variance[1], d.covariance};
            for (i = 0; i < 5; i++)
                CHECK_NEAR(got[i], one->clustered[i], 1e-12 * fmax(fabs(one->clustered[i]), 1e-3));
        }
        end(one->name);
    }
}

/* The same resamples, drawn by a Philox of the oracle's own; AUCs by scikit-learn, quantiles by
   NumPy. */
static void test_bootstraps(void)
{
    size_t k;
    for (k = 0; k < COUNT(metrics_sets); k++) {
        const metrics_set *one = &metrics_sets[k];
        double auc[60];
        int by, i;
        begin();
        make_scores(k);
        for (by = 0; by < 2; by++) {
            qnet_boxplot b = { 0 };
            CHECK_OK(ctx, qnet_bootstrap_auc(ctx, label, score[0], by ? cluster : NULL,
                                             (size_t)one->count, 60, 11, auc));
            CHECK_OK(ctx, qnet_boxplot_of(ctx, auc, 60, &b));
            {
                const double got[7] = {b.low, b.q1, b.median, b.q3, b.high, b.mean, b.std};
                for (i = 0; i < 7; i++) CHECK_NEAR(got[i], one->box[by][i], 1e-14);
            }
        }
        end(one->name);
    }
}

/* ---- volumes --------------------------------------------------------------------------------- */

static int same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b) || (a == 0 && b == 0);
}

/* Voxels are those of nibabel to the bit (NaN apart); affines come from floats through a dozen
   products in double: 1e-12 of numbers up to 100, where 1e-6 is asked for. */
static void test_nifti_files(void)
{
    size_t k, j, count;
    for (k = 0; k < COUNT(nifti_files); k++) {
        const nifti_file *one = &nifti_files[k];
        qnet_memory_source memory;
        qnet_source bytes = qnet_source_memory(&memory, nifti_bytes + one->at, one->size,
                                               one->name);
        qnet_volume *v = NULL;
        int i;
        begin();
        CHECK_OK(ctx, qnet_nifti_read(ctx, &bytes, &v));
        if (v) {
            CHECK(v->nx == one->n[0] && v->ny == one->n[1] && v->nz == one->n[2]);
            CHECK(strcmp(v->orientation, one->orientation) == 0);
            CHECK(v->affine_source == one->source);
            for (i = 0; i < 12; i++)
                CHECK_NEAR(v->affine[i / 4][i % 4], one->affine[i], 1e-12 * 100);
            count = (size_t)one->n[0] * (size_t)one->n[1] * (size_t)one->n[2];
            for (j = 0; j < count; j++)
                CHECK(same_float(v->voxels[j], (float)nifti_voxels[one->voxels_at + j]));
        }
        qnet_volume_destroy(v);
        end(one->name);
    }
}

static void test_compressors(void)
{
    size_t k, j;
    for (k = 0; k < COUNT(gzip_files); k++) {
        const gzip_file *one = &gzip_files[k];
        const unsigned char *packed = gzip_bytes + one->at;
        qnet_memory_source memory;
        qnet_source bytes = qnet_source_memory(&memory, packed, one->size, one->name);
        qnet_volume *v = NULL;
        qnet_buffer b;
        double sum = 0;
        begin();
        memset(&b, 0, sizeof b);
        CHECK_OK(ctx, gzip_unpack(ctx, packed, one->size, 1 << 20, &b));
        CHECK(b.size == gzip_size && qnet_crc32(0, b.bytes, b.size) == (uint32_t)gzip_crc);
        qnet_buffer_free(ctx, &b);
        CHECK_OK(ctx, qnet_nifti_read(ctx, &bytes, &v));
        if (v) {
            for (j = 0; j < (size_t)v->nx * (size_t)v->ny * (size_t)v->nz; j++)
                sum += (double)v->voxels[j] * (formula(771, (uint32_t)j) - 0.5);
            CHECK_NEAR(sum, gzip_sum, 1e-9);
        }
        qnet_volume_destroy(v);
        end(one->name);
    }
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    RUN(test_augmentations);
    RUN(test_percentiles);
    RUN(test_resizes);
    RUN(test_rates);
    RUN(test_curves);
    RUN(test_delongs);
    RUN(test_bootstraps);
    RUN(test_nifti_files);
    RUN(test_compressors);
    qnet_context_destroy(ctx);
    return test_end();
}
