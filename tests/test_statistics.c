/* The report's statistics (crossval/statistics.h) against statsmodels, SciPy, scikit-learn and sums written
   out (tests/golden/make_statistics.py), and at their limits. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "crossval/regions.h"
#include "crossval/statistics.h"
#include "test.h"
#include "golden/formula.h"

typedef struct {
    int count, folds;
    double lead, assessed[8 + 12], baseline[4];
} subject_set;

#include "golden/subjects.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define SUBJECTS 250
static qnet_context *ctx;
static int label[SUBJECTS], fold[SUBJECTS], order[SUBJECTS], rank[2 * SUBJECTS];
static double probability[SUBJECTS], x[3 * SUBJECTS], work[3 * SUBJECTS], predicted[SUBJECTS];

/* subjects() of make_statistics.py. */
static size_t make_subjects(size_t k)
{
    const subject_set *s = &subject_sets[k];
    const uint32_t first = 3000 + 40 * (uint32_t)k;
    for (int i = 0; i < s->count; i++) {
        const uint32_t at = (uint32_t)i;
        label[i] = formula(first, at) < 0.5;
        fold[i] = i * 7 % s->folds;
        probability[i] = 0.02 + 0.96 * (formula(first + 1, at) * (1 - s->lead) + s->lead * label[i]);
        x[3 * i] = formula(first + 5, at) < 0.1 ? (double)NAN : 20 + 60 * formula(first + 2, at);
        x[3 * i + 1] = floor(2 * formula(first + 3, at));
        x[3 * i + 2] = 30 + 20 * formula(first + 4, at) + 9 * label[i];
    }
    return (size_t)s->count;
}

static void test_mcnemar(void)
{
    for (size_t i = 0; i < COUNT(mcnemar_sets); i++) {
        const double *m = mcnemar_sets[i];
        CHECK_NEAR(mcnemar_exact((size_t)m[0], (size_t)m[1]), m[2], 1e-12);
        CHECK_NEAR(mcnemar_exact((size_t)m[1], (size_t)m[0]), m[2], 1e-12);
    }
    CHECK_NEAR(mcnemar_exact(0, 2000), 0, 1e-300); /* nothing underflows into nonsense */
}

static void test_holm(void)
{
    double p[COUNT(holm_sets) + 1], adjusted[COUNT(holm_sets) + 1];
    for (size_t i = 0; i < COUNT(holm_sets); i++) p[i] = holm_sets[i][0];
    p[COUNT(holm_sets)] = (double)NAN; /* no test: it costs the others nothing */
    holm(p, (int)COUNT(p), adjusted);
    for (size_t i = 0; i < COUNT(holm_sets); i++) CHECK_NEAR(adjusted[i], holm_sets[i][1], 1e-15);
    CHECK(adjusted[COUNT(holm_sets)] != adjusted[COUNT(holm_sets)]);
}

static void test_predictive(void)
{
    for (size_t i = 0; i < COUNT(predictive_sets); i++) {
        const double *s = predictive_sets[i];
        const qnet_confusion c = {(size_t)s[0], (size_t)s[1], (size_t)s[2], (size_t)s[3]};
        const predictive r = predictive_values(c, s[4]);
        const double got[6] = {r.ppv, r.npv, r.ppv_ci.low, r.ppv_ci.high, r.npv_ci.low, r.npv_ci.high};
        for (int k = 0; k < 6; k++) CHECK_NEAR(got[k], s[5 + k], 1e-13);
        CHECK(got[2] <= got[0] && got[0] <= got[3] && got[4] <= got[1] && got[1] <= got[5]);
    }
    { /* nobody is called ill: no positive predictive value; the negative one is 1 - prevalence */
        const qnet_confusion c = {0, 5, 7, 0};
        const predictive r = predictive_values(c, 0.2);
        CHECK(r.ppv != r.ppv && r.ppv_ci.low != r.ppv_ci.low);
        CHECK_NEAR(r.npv, 0.8, 1e-15);
        CHECK(r.npv_ci.low < 0.8 && r.npv_ci.high > 0.8);
    }
}

static double binomial(double n, double k, double p)
{
    return exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log(1 - p));
}

/* How often the intervals hold the true values, summed over all tables of n + n subjects. */
static void test_predictive_coverage(void)
{
    static const double rates[4] = {0.8, 0.85, 0.9, 0.95};
    for (int k = 0; k < 17; k++) {
        const double sensitivity = k == 16 ? 0.9 : rates[k / 4], specificity = k == 16 ? 0.95 : rates[k % 4];
        const double share = 0.1, ill = sensitivity * share, well = specificity * (1 - share);
        const double ppv = ill / (ill + (1 - specificity) * (1 - share));
        const double npv = well / (well + (1 - sensitivity) * share);
        const size_t n = k == 16 ? 50 : 24;
        double covered[2] = {0, 0};
        for (size_t tp = 0; tp <= n; tp++)
            for (size_t tn = 0; tn <= n; tn++) {
                const qnet_confusion c = {tp, n - tp, tn, n - tn};
                const predictive r = predictive_values(c, share);
                const double chance = binomial((double)n, (double)tp, sensitivity) *
                                      binomial((double)n, (double)tn, specificity);
                covered[0] += r.ppv_ci.low <= ppv && ppv <= r.ppv_ci.high ? chance : 0;
                covered[1] += r.npv_ci.low <= npv && npv <= r.npv_ci.high ? chance : 0;
            }
        for (int i = 0; i < 2; i++) CHECK(covered[i] >= 0.945 && covered[i] <= 0.975); /* nor wider than need be */
    }
}

static void test_subjects(void)
{
    for (size_t k = 0; k < COUNT(subject_sets); k++) {
        const subject_set *s = &subject_sets[k];
        const size_t n = make_subjects(k);
        const double *scores[2] = {probability, predicted};
        const int permutations = 20000;
        calibration c;
        double share = 0, p[2], sum = 0, low = 1, high = 0;
        int in_bins = 0, hh = 0;
        CHECK_OK(ctx, calibrate(ctx, label, probability, n, work, &c));
        CHECK_NEAR(c.brier, s->assessed[0], 1e-14);
        CHECK_NEAR(c.line, s->assessed[1], 1e-9);
        CHECK_NEAR(c.slope, s->assessed[2], 1e-9);
        CHECK_NEAR(c.slope_error, s->assessed[4], 1e-9);
        CHECK_NEAR(c.intercept, s->assessed[6], 1e-12);
        CHECK_NEAR(c.intercept_error, s->assessed[7], 1e-12);
        for (int bin = 0; bin < c.bins; bin++) {
            in_bins += c.bin_count[bin];
            hh += c.bin_hh[bin];
            CHECK(abs(c.bin_count[bin] * c.bins - (int)n) <= c.bins); /* all alike */
            CHECK(bin == 0 || c.bin_mean[bin] > c.bin_mean[bin - 1]);
        }
        for (size_t i = 0; i < n; i++) share += label[i] / (double)n;
        CHECK(in_bins == (int)n && hh == (int)(share * (double)n + 0.5));
        for (size_t t = 0; t < 2 * COUNT(net_thresholds); t++)
            CHECK_NEAR(net_benefit(label, probability, n, t < COUNT(net_thresholds) ? share : 0.1,
                                   net_thresholds[t % COUNT(net_thresholds)]), s->assessed[8 + t], 1e-13);
        CHECK_OK(ctx, baseline_predict(ctx, label, fold, n, x, 3, order, work, predicted));
        for (size_t i = 0; i < n; i++) {
            sum += predicted[i] * formula(950, (uint32_t)i);
            low = fmin(low, predicted[i]);
            high = fmax(high, predicted[i]);
        }
        CHECK_NEAR(sum, s->baseline[0], 1e-7); /* scikit-learn stops at 1e-13 of its score's slope */
        CHECK_NEAR(low, s->baseline[1], 1e-8);
        CHECK_NEAR(high, s->baseline[2], 1e-8);
        permutation_test(label, scores, 2, n, permutations, 3, order, rank, p);
        for (int i = 0; i < 2; i++) { /* 5 standard errors, and the labels themselves */
            const double exact = i ? s->baseline[3] : s->assessed[5];
            CHECK_NEAR(p[i], exact, 5 * sqrt(exact / permutations) + 1.0 / permutations);
        }
    }
}

static void test_limits(void)
{
    static const double same[6] = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5}, sure[6] = {0, 1, 0, 1, 0, 1};
    static const int y[6] = {0, 1, 0, 1, 0, 1}, apart[6] = {0, 1, 0, 1, 0, 1}, one[6] = {0, 0, 0, 0, 0, 0}, most[6] = {1, 1, 1, 1, 0, 1};
    const double *score[2] = {same, sure};
    double p[2], nothing[12];
    calibration c;
    CHECK_OK(ctx, calibrate(ctx, y, sure, 6, work, &c)); /* separated: no slope */
    CHECK(c.brier == 0 && c.slope != c.slope && c.slope_error != c.slope_error);
    CHECK_NEAR(c.intercept, 0, 1e-9); /* as many on either side */
    CHECK_OK(ctx, calibrate(ctx, y, same, 6, work, &c)); /* all alike: no slope, and one bin has all */
    CHECK(c.slope != c.slope && c.bin_count[0] == 6 && c.bin_count[1] == 0);
    CHECK_NEAR(c.brier, 0.25, 1e-15);
    CHECK_OK(ctx, calibrate(ctx, most, sure, 6, work, &c)); /* far off: 1 - 1e-6 for half of them, all but one ill */
    CHECK_NEAR(c.intercept, log(2 / PROBABILITY_EDGE), 1e-4); /* two of the three at the low end */
    permutation_test(y, score, 2, 6, 500, 1, order, rank, p);
    CHECK(p[0] == 1); /* ties with every permutation */
    CHECK_NEAR(p[1], 0.05, 0.05); /* 1 in 20 */
    CHECK_NEAR(net_benefit(y, sure, 6, 0.3, 0.5), 0.3, 1e-15);
    for (int i = 0; i < 12; i++) nothing[i] = (double)NAN;
    CHECK_OK(ctx, baseline_predict(ctx, y, one, 6, nothing, 2, order, work, predicted) == QNET_ERROR_DATA
                      ? QNET_OK : QNET_ERROR_ARGUMENT); /* one fold: nobody is left to be trained on */
    CHECK_FAILS(ctx, baseline_predict(ctx, y, apart, 6, nothing, 2, order, work, predicted), QNET_ERROR_DATA,
                "both classes"); /* folds that leave one class */
    for (int i = 0; i < 6; i++) fold[i] = i / 2;
    CHECK_OK(ctx, baseline_predict(ctx, y, fold, 6, nothing, 2, order, work, predicted)); /* nothing known */
    for (int i = 0; i < 6; i++) CHECK_NEAR(predicted[i], 0.5, 1e-12);
}

/* A mask: its voxels in the used slices. Without one: the box, without air. */
static void test_regions(void)
{
    qnet_volume *v[3];
    qnet_scan scan;
    qnet_scan_maps maps;
    regions all;
    memset(&scan, 0, sizeof scan);
    memset(&maps, 0, sizeof maps);
    memset(&all, 0, sizeof all);
    for (int m = 0; m < 3; m++) {
        CHECK_OK(ctx, qnet_volume_create(ctx, 8, 6, 4, &v[m]));
        v[m]->spacing[0] = v[m]->spacing[1] = 2;
        for (int i = 0; i < 8 * 6 * 4; i++) {
            const int at[3] = {i % 8, i / 8 % 6, i / 48};
            v[m]->voxels[i] = m == 2 ? at[0] == 3 && at[1] < 2 : m == 1 ? (float)at[2] : at[0] ? (float)(at[0] + 10 * at[1]) : 0;
        }
    }
    scan.cut.slice[0] = 1;
    scan.cut.slice[1] = 3;
    scan.cut.center[0] = 1;
    scan.cut.center[1] = 2;
    scan.cut.side_mm = 4;
    maps.qsm = v[0];
    maps.r2star = v[1];
    maps.mask = v[2];
    region_add(&all, &scan, &maps);
    maps.mask = NULL;
    region_add(&all, &scan, &maps);
    maps.r2star = NULL;
    region_add(&all, &scan, &maps);
    CHECK(all.count == 3 && isfinite(all.mean[0].mask[0]) && !isfinite(all.mean[1].mask[0]));
    CHECK_NEAR(all.mean[0].mask[0], 8, 1e-12);  /* (3 + 13) / 2 */
    CHECK_NEAR(all.mean[0].mask[1], 2, 1e-12);  /* slices 1 to 3 */
    CHECK_NEAR(all.mean[1].box[0], 21.5, 1e-12); /* columns 0 to 2, of which 0 is air; rows 1 to 3 */
    CHECK(all.mean[0].box[0] == all.mean[1].box[0]);
    CHECK(all.mean[2].box[0] == all.mean[1].box[0] && !isfinite(all.mean[2].box[1]));
    free(all.mean);
    for (int m = 0; m < 3; m++) qnet_volume_destroy(v[m]);
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 2;
    RUN(test_mcnemar);
    RUN(test_holm);
    RUN(test_predictive);
    RUN(test_predictive_coverage);
    RUN(test_subjects);
    RUN(test_limits);
    RUN(test_regions);
    qnet_context_destroy(ctx);
    return test_end();
}
