/* Statistics of the report that the paper does not have: exact McNemar test, Holm's correction,
   predictive values, calibration, net benefit, permutation test, and baselines under the same folds.
   Every function takes columns of `count` subjects: label[count], 1 for HH and 0 for HC,
   probability[count] of HH, and no two rows of the same subject. */
#ifndef CROSSVAL_STATISTICS_H
#define CROSSVAL_STATISTICS_H
#include "qnet.h"
#include <math.h>
#include <string.h>

#define BASELINE_RIDGE 1.0 /* on standardised predictors: as scikit-learn, C = 1 */
#define PROBABILITY_EDGE 1e-6 /* where a logit is taken, 0 and 1 are this far inside */
#define CALIBRATION_BINS 10

/* McNemar's test of two classifiers on the same subjects, exact (Fagerland et al. 2013): of the n
   subjects that only one of them has right, each is the first one's with probability 1/2, so
   p = 2 sum_{k <= min} C(n, k) / 2^n, at most 1. */
static double mcnemar_exact(size_t only_first, size_t only_second)
{
    const double n = (double)(only_first + only_second);
    const size_t least = only_first < only_second ? only_first : only_second;
    double sum = 0, log_term = -n * log(2.0);
    for (size_t k = 0; k <= least; k++) {
        sum += exp(log_term);
        log_term += log((n - (double)k) / ((double)k + 1));
    }
    return fmin(1, 2 * sum);
}

/* Holm 1979: the i-th smallest of m p-values, from 0, times m - i, at most 1 and at least what the
   smaller ones became. NaN: no test, stays and does not count. */
static void holm(const double *p, int count, double *adjusted)
{
    int tests = 0;
    for (int i = 0; i < count; i++) {
        tests += p[i] == p[i];
        adjusted[i] = p[i];
    }
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < count; j++) {
            int smaller = 0;
            if (!(p[j] <= p[i])) continue;
            for (int k = 0; k < count; k++) smaller += p[k] < p[j] || (p[k] == p[j] && k < j);
            adjusted[i] = fmax(adjusted[i], fmin(1, (tests - smaller) * p[j]));
        }
    }
}

typedef struct predictive {
    double ppv, npv; /* NaN where nobody was called so */
    qnet_interval ppv_ci, npv_ci;
} predictive;

/* 1 where a ratio t of two rates, of which x[0] of n[0] and x[1] of n[1] were seen, is one of the 95 % score
   interval of Miettinen & Nurminen 1985: (x0/n0 - t x1/n1)^2 is at most z^2 times its variance at the rates
   t p and p that are likeliest under t. p is the smaller root of N t p^2 - b p + x0 + x1, N = n0 + n1. */
static int is_ratio(const double x[2], const double n[2], double t)
{
    const double z = 1.959963984540054, all = n[0] + n[1], c = x[0] + x[1];
    const double b = t * (n[0] + x[1]) + x[0] + n[1];
    const double p = 2 * c / (b + sqrt(fmax(b * b - 4 * all * t * c, 0))), difference = x[0] / n[0] - t * x[1] / n[1];
    const double variance = t * p * (1 - t * p) / n[0] + t * t * p * (1 - p) / n[1];
    return difference * difference <= z * z * variance * all / (all - 1);
}

/* One of the two values and its interval. For PPV: right of ill called ill, wrong of well called ill,
   share: prevalence; for NPV the other way round. By Bayes a value is t share / (t share + 1 - share), t the
   ratio of the rates of right and wrong, so the limits are those at the limits of t. Summed exactly, the
   interval holds the value in 94.8 to 97.1 % of samples of 24 + 24 subjects, sensitivity and specificity from
   .8 to .95 (test_statistics.c); adjusted logit ones (Mercaldo, Lau & Zhou 2007: z^2/2 to either side) in
   66 to 90 %. */
static double predictive_value(size_t right, size_t right_of, size_t wrong, size_t wrong_of, double share,
                               qnet_interval *ci)
{
    const double x[2] = {(double)right, (double)wrong}, n[2] = {(double)right_of, (double)wrong_of};
    const double yes = share * x[0] / n[0], no = (1 - share) * x[1] / n[1];
    double end[2];
    for (int high = 0; high < 2; high++) { /* log t: halves of what lies between one within and one far outside */
        double in = fmin(fmax(log(x[0] / n[0]) - log(x[1] / n[1]), -60), 60), out = high ? 60 : -60;
        for (int i = 0; i < 64; i++) {
            const double middle = (in + out) / 2;
            if (is_ratio(x, n, exp(middle))) in = middle;
            else out = middle;
        }
        end[high] = 1 / (1 + exp(-in) * (1 - share) / share);
    }
    ci->low = right ? end[0] : 0; /* at the ends the limit is exact */
    ci->high = wrong ? end[1] : 1;
    if (right + wrong == 0) ci->low = ci->high = (double)NAN;
    return yes / (yes + no);
}

static predictive predictive_values(qnet_confusion c, double prevalence)
{
    predictive r;
    r.ppv = predictive_value(c.tp, c.tp + c.fn, c.fp, c.fp + c.tn, prevalence, &r.ppv_ci);
    r.npv = predictive_value(c.tn, c.fp + c.tn, c.fn, c.tp + c.fn, 1 - prevalence, &r.npv_ci);
    return r;
}

typedef struct calibration {
    double brier;           /* mean of (probability - label)^2 (Brier 1950) */
    double mean;            /* of the probabilities: beside the share of HH, calibration in the large */
    /* logit P(HH) = intercept + logit(probability), calibration in the large: above 0 where the
       probabilities are too low; and = line + slope logit(probability) (Cox 1958), a slope below 1 when
       they are too sure (Van Calster et al. 2019). Calibrated: 0 and 1. NaN: no finite fit. */
    double intercept, intercept_error, line, slope, slope_error;
    int bins;               /* about equally large, by rising probability */
    double bin_mean[CALIBRATION_BINS];
    int bin_count[CALIBRATION_BINS], bin_hh[CALIBRATION_BINS];
} calibration;

static double logit_of(double probability)
{
    const double p = fmin(fmax(probability, PROBABILITY_EDGE), 1 - PROBABILITY_EDGE);
    return log(p / (1 - p));
}

/* The intercept a of P(HH) = 1 / (1 + exp(-(a + offset[i]))) of highest likelihood, where the labels' sum is
   that of P, and its standard error: Newton's steps, kept within +-60 by halving what is known to hold a. */
static void calibrate_intercept(const int *label, const double *offset, size_t count, double *a, double *error)
{
    double low = -60, high = 60, information = 0;
    *a = 0;
    for (int step = 0; step < 200 && high - low > 1e-13; step++) {
        double score = 0, next;
        information = 0;
        for (size_t i = 0; i < count; i++) {
            const double p = 1 / (1 + exp(-(*a + offset[i])));
            score += label[i] - p;
            information += p * (1 - p);
        }
        if (score > 0) low = *a;
        else high = *a;
        next = *a + score / information;
        if (fabs(next - *a) < 1e-14) break;
        *a = next > low && next < high ? next : (low + high) / 2;
    }
    *error = 1 / sqrt(information);
}

/* work: [count]. Bins: one for each ten subjects, 2 to 10; equal probabilities stay together. */
static qnet_status calibrate(qnet_context *ctx, const int *label, const double *probability, size_t count,
                             double *work, calibration *out)
{
    double c[2], error[2];
    qnet_status status;
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < count; i++) {
        const double d = probability[i] - label[i];
        out->brier += d * d / (double)count;
        out->mean += probability[i] / (double)count;
        work[i] = logit_of(probability[i]);
    }
    out->bins = count < 20 ? 2 : count >= 10 * CALIBRATION_BINS ? CALIBRATION_BINS : (int)(count / 10);
    for (size_t i = 0; i < count; i++) {
        size_t lower = 0; /* the bin of the first subject of this probability is that of all */
        int bin;
        for (size_t k = 0; k < count; k++) lower += probability[k] < probability[i];
        bin = (int)(lower * (size_t)out->bins / count);
        out->bin_mean[bin] += probability[i];
        out->bin_count[bin]++;
        out->bin_hh[bin] += label[i];
    }
    for (int bin = 0; bin < out->bins; bin++)
        if (out->bin_count[bin]) out->bin_mean[bin] /= out->bin_count[bin];
    status = qnet_logistic_fit(ctx, label, work, count, 1, 0, c, error);
    calibrate_intercept(label, work, count, &out->intercept, &out->intercept_error);
    out->line = status == QNET_OK ? c[0] : (double)NAN;
    out->slope = status == QNET_OK ? c[1] : (double)NAN;
    out->slope_error = status == QNET_OK ? error[1] : (double)NAN;
    return status == QNET_ERROR_DATA ? QNET_OK : status;
}

/* Net benefit of treating who has threshold or more (Vickers & Elkin 2006), at a prevalence:
   sensitivity prevalence - (1 - specificity) (1 - prevalence) threshold / (1 - threshold). */
static double net_benefit(const int *label, const double *probability, size_t count, double prevalence,
                          double threshold)
{
    double n[2] = {0, 0}, treated[2] = {0, 0};
    for (size_t i = 0; i < count; i++) {
        n[label[i]]++;
        treated[label[i]] += probability[i] >= threshold;
    }
    return treated[1] / n[1] * prevalence -
           treated[0] / n[0] * (1 - prevalence) * threshold / (1 - threshold);
}

/* p[k], for each of `scores` columns score[k][count]: of `permutations` of the labels over the
   subjects, the share whose AUC is that of the labels or more, both counted with the labels
   themselves: (1 + larger) / (1 + permutations) (Phipson & Smyth 2010). Tests that the scores have
   nothing to do with the labels; nothing is trained anew. order: [count]; rank: [scores][count]. */
static void permutation_test(const int *label, const double *const *score, int scores, size_t count,
                             int permutations, uint64_t seed, int *order, int *rank, double *p)
{
    size_t hh = 0;
    for (size_t i = 0; i < count; i++) hh += label[i] == 1;
    for (int k = 0; k < scores; k++) { /* twice the midrank: its sum over HH rises with the AUC */
        p[k] = 1;
        for (size_t i = 0; i < count; i++) {
            int *r = &rank[(size_t)k * count + i];
            *r = 0;
            for (size_t j = 0; j < count; j++)
                *r += (score[k][j] < score[k][i]) + (score[k][j] <= score[k][i]);
        }
    }
    for (int t = 0; t < permutations; t++) {
        qnet_rng rng = qnet_rng_at(seed, QNET_RANDOM_USER + 9, 0, (uint64_t)t);
        for (size_t i = 0; i < count; i++) order[i] = (int)i;
        qnet_rng_shuffle(&rng, order, count);
        for (int k = 0; k < scores; k++) {
            const int *r = rank + (size_t)k * count;
            long long more = 0;
            for (size_t i = 0; i < count; i++) more -= label[i] ? r[i] : 0;
            for (size_t i = 0; i < hh; i++) more += r[order[i]];
            p[k] += more >= 0;
        }
    }
    for (int k = 0; k < scores; k++) p[k] /= 1.0 + permutations;
}

/* What a baseline needs: [count][predictors] doubles twice, and [count] labels. */
#define BASELINE_PREDICTORS 4

/* probability[count] of each subject by a logistic regression on the subjects of the other folds.
   x[count][predictors], NaN: unknown. Mean and standard deviation of the known values of the other
   folds standardise it; what is unknown becomes the mean. z: [count][predictors], y: [count].
   QNET_ERROR_DATA where a fold leaves one class only. */
static qnet_status baseline_predict(qnet_context *ctx, const int *label, const int *fold, size_t count,
                                    const double *x, int predictors, int *y, double *z, double *probability)
{
    double c[1 + BASELINE_PREDICTORS], mean[BASELINE_PREDICTORS], std[BASELINE_PREDICTORS];
    const size_t q = (size_t)predictors;
    for (size_t first = 0; first < count; first++) { /* each fold once, at its first subject */
        size_t n = 0, before = 0;
        qnet_status status;
        while (before < first && fold[before] != fold[first]) before++;
        if (before < first) continue;
        for (size_t j = 0; j < q; j++) {
            double sum = 0, squares = 0, known = 0;
            for (size_t i = 0; i < count; i++) {
                if (fold[i] == fold[first] || !isfinite(x[i * q + j])) continue;
                sum += x[i * q + j];
                known++;
            }
            mean[j] = known > 0 ? sum / known : 0;
            for (size_t i = 0; i < count; i++) {
                const double d = x[i * q + j] - mean[j];
                if (fold[i] != fold[first] && isfinite(x[i * q + j])) squares += d * d;
            }
            std[j] = known > 0 && squares > 0 ? sqrt(squares / known) : 1;
        }
        for (int test = 0; test < 2; test++) { /* the training rows to the front, then one by one */
            for (size_t i = 0; i < count; i++) {
                double *row = z + (test ? 0 : n) * q, eta;
                if ((fold[i] == fold[first]) != test) continue;
                for (size_t j = 0; j < q; j++)
                    row[j] = isfinite(x[i * q + j]) ? (x[i * q + j] - mean[j]) / std[j] : 0;
                if (!test) {
                    y[n++] = label[i];
                    continue;
                }
                eta = c[0];
                for (size_t j = 0; j < q; j++) eta += c[1 + j] * row[j];
                probability[i] = 1 / (1 + exp(-eta));
            }
            status = test ? QNET_OK : qnet_logistic_fit(ctx, y, z, n, q, BASELINE_RIDGE, c, NULL);
            if (status != QNET_OK) return status;
        }
    }
    return QNET_OK;
}

#endif
