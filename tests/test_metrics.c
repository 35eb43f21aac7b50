/* >>metrics: rates, ROC, AUC, DeLong, bootstrap, quantiles. Golden numbers: an independent NumPy
   program (pairs counted one by one, numpy.cov, Obuchowski's sums over clusters), scikit-learn 1.9,
   SciPy 1.17 and pROC 1.18 (R 4.2), on the data of make_data. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "golden/formula.h"

typedef struct {
    int count, predictors;
    double ridge, low[20], span[20], expected[2 * 21];
} logistic_set;

#include "golden/statistics.h"

static qnet_context *ctx;

/* ---- Hooks --------------------------------------------------------------------- */

typedef struct { long alive, count, fail_at; } counting;

static void *counting_alloc(void *user, size_t size, size_t align)
{
    counting *c = (counting *)user;
    void *p;
    (void)align;
    if (c->count++ == c->fail_at) return NULL;
    p = malloc(size);
    if (p) c->alive++;
    return p;
}

static void counting_free(void *user, void *ptr, size_t size)
{
    (void)size;
    ((counting *)user)->alive--;
    free(ptr);
}

/* Runs tasks one after the other in a scattered order under changing worker numbers. */
static void scattered_run(void *user, size_t count, qnet_task task, void *arg)
{
    const size_t workers = *(const size_t *)user;
    for (size_t i = 0; i < count; i++) {
        const size_t index = count % 7 ? (i * 7 + 3) % count : count - 1 - i;
        task(arg, index, (i * 5 + i / 3) % workers);
    }
}

static qnet_context *context_with(counting *c, size_t *workers)
{
    qnet_context *made = NULL;
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    if (c) {
        hooks.allocator.user = c;
        hooks.allocator.alloc = counting_alloc;
        hooks.allocator.free = counting_free;
    }
    if (workers) {
        hooks.parallel.user = workers;
        hooks.parallel.run = scattered_run;
        hooks.parallel.workers = *workers;
    }
    CHECK(qnet_context_create(&hooks, &made) == QNET_OK);
    return made;
}

/* ---- Data --------------------------------------------------------------------- */

#define N 60
static int label[N], decision[N], mixed[N], pure[N], single[N];
static double s1[N], s2[N];

static void make_data(void)
{
    for (int i = 0; i < N; i++) {
        label[i] = (i * 7) % 13 < 6;
        s1[i] = ((i * 29) % 31 + 6 * label[i]) / 16.0;
        s2[i] = ((i * 17) % 19 + 3 * label[i]) / 16.0;
        decision[i] = s1[i] > 1.1;
        mixed[i] = (i * 5) % 9 - 4;
        pure[i] = label[i] ? 100 + i % 7 : i % 6;
        single[i] = 1000 - i;
    }
}

/* ---- Tests --------------------------------------------------------------------- */

static void test_normal(void)
{
    static const double z[6][2] = { { -12.0, 1.776482112077653e-33 }, { -5.0, 2.8665157187919328e-07 },
                                    { -1.0, 0.15865525393145707 },    { 0.0, 0.5 },
                                    { 0.3, 0.61791142218895256 },     { 2.0, 0.97724986805182079 } };
    static const double q[10][2] = {
        { 1e-300, -37.047096299361201 },      { 1e-20, -9.2623400897984087 },
        { 1e-05, -4.2648907939228247 },       { 0.01, -2.3263478740408408 },
        { 0.02425, -1.9729610513118849 },     { 0.3, -0.52440051270804089 },
        { 0.5, 0.0 },                         { 0.8, 0.8416212335729143 },
        { 0.975, 1.959963984540054 },         { 0.999999, 4.7534243088170873 }
    };
    for (int i = 0; i < 6; i++) { /* erfc is good to an ulp or two; its argument is rounded once */
        CHECK_NEAR(qnet_normal_cdf(z[i][0]), z[i][1], 4e-14 * z[i][1]);
    }
    CHECK(qnet_normal_cdf(-HUGE_VAL) == 0.0 && qnet_normal_cdf(HUGE_VAL) == 1.0);
    for (int i = 0; i < 10; i++) CHECK_NEAR(qnet_normal_quantile(q[i][0]), q[i][1], 1e-15 * (1 + fabs(q[i][1])));
    CHECK(qnet_normal_quantile(0.0) == -HUGE_VAL && qnet_normal_quantile(1.0) == HUGE_VAL);
    CHECK(qnet_normal_quantile(-0.1) == -HUGE_VAL && qnet_normal_quantile(1.1) == HUGE_VAL);
    CHECK(qnet_normal_quantile((double)NAN) != qnet_normal_quantile(0.5));
    CHECK(qnet_normal_quantile(5e-324) < -38.0 && qnet_normal_quantile(5e-324) > -39.0);
    for (int i = 1; i < 1000; i++) { /* there and back: the density turns 1 ulp of z into this */
        const double p = i / 1000.0;
        CHECK_NEAR(qnet_normal_cdf(qnet_normal_quantile(p)), p, 4e-16);
    }
}

static void test_stars(void)
{
    CHECK(strcmp(qnet_stars(1.0), "ns") == 0 && strcmp(qnet_stars(0.0539), "ns") == 0);
    CHECK(strcmp(qnet_stars(0.0501), "ns") == 0 && strcmp(qnet_stars(0.05), "*") == 0);
    CHECK(strcmp(qnet_stars(0.0101), "*") == 0 && strcmp(qnet_stars(0.01), "**") == 0);
    CHECK(strcmp(qnet_stars(0.0011), "**") == 0 && strcmp(qnet_stars(0.001), "***") == 0);
    CHECK(strcmp(qnet_stars(0.00011), "***") == 0 && strcmp(qnet_stars(0.0001), "****") == 0);
    CHECK(strcmp(qnet_stars(6.2e-33), "****") == 0 && strcmp(qnet_stars(0.0), "****") == 0);
}

static void test_wilson(void)
{
    qnet_interval w = qnet_wilson(79, 95, 0.95); /* roots of (79/95 - p)^2 = z^2 p(1-p)/95, brentq */
    CHECK_NEAR(w.low, 0.743796910314561, 1e-14);
    CHECK_NEAR(w.high, 0.893587449969789, 1e-14);
    w = qnet_wilson(0, 10, 0.95);
    CHECK(w.low == 0.0);
    CHECK_NEAR(w.high, 0.277532799862889, 1e-14);
    w = qnet_wilson(7, 7, 0.95);
    CHECK_NEAR(w.low, 0.645669564933313, 1e-14);
    CHECK(w.high == 1.0);
    w = qnet_wilson(0, 0, 0.95);
    CHECK(w.low == 0.0 && w.high == 1.0);
    w = qnet_wilson(1, 3, 1.0);
    CHECK(w.low != w.low && w.high != w.high);
    w = qnet_wilson(9, 7, 0.95);
    CHECK(w.low != w.low && w.high != w.high);
}

static void test_no_context(void)
{
    static const int l[4] = {0, 1, 0, 1};
    static const double score[4] = {1, 2, 3, 4};
    double auc;
    qnet_boxplot box;
    CHECK(qnet_auc(NULL, l, score, 4, &auc) == QNET_ERROR_ARGUMENT);
    CHECK(qnet_boxplot_of(NULL, score, 4, &box) == QNET_ERROR_ARGUMENT);
}

static void test_rates(void)
{
    qnet_metrics m, before;
    qnet_confusion c;
    int bad[3] = { 0, 1, 2 };
    CHECK_OK(ctx, qnet_metrics_from(ctx, label, decision, N, &m));
    CHECK_NEAR(m.f1, 0.58368065203297215, 1e-15);
    CHECK_NEAR(m.f1_hh, 0.57627118644067798, 1e-15);
    CHECK_NEAR(m.f1_hc, 0.5901639344262295, 1e-15);
    CHECK_NEAR(m.f1_macro, 0.58321756043345374, 1e-15);
    CHECK_NEAR(m.precision, 0.54838709677419351, 1e-15);
    CHECK(m.count.tp + m.count.fn == 28 && m.count.tn + m.count.fp == 32);
    /* Table 3, Q-Net, cropped: 42 of 49 and 37 of 46; the paper prints 83.16 85.71 80.43 83.14 */
    c.tp = 42;
    c.fn = 7;
    c.tn = 37;
    c.fp = 9;
    m = qnet_metrics_of(c);
    CHECK_NEAR(100 * m.accuracy, 83.16, 0.005);
    CHECK_NEAR(100 * m.sensitivity, 85.71, 0.005);
    CHECK_NEAR(100 * m.specificity, 80.43, 0.005);
    CHECK_NEAR(100 * m.f1, 83.14, 0.005);
    CHECK_NEAR(m.accuracy_ci.low, 0.744, 0.0005);
    CHECK_NEAR(m.accuracy_ci.high, 0.894, 0.0005);
    c.tp = c.fn = 0; /* no HH at all */
    m = qnet_metrics_of(c);
    CHECK(m.sensitivity != m.sensitivity && m.sensitivity_ci.low == 0.0 && m.sensitivity_ci.high == 1.0);
    CHECK_NEAR(m.f1, m.f1_hc, 1e-15);
    CHECK(m.f1_hh == 0.0);
    c.fp = 0;
    m = qnet_metrics_of(c);
    CHECK(m.f1_hh != m.f1_hh && m.precision != m.precision && m.f1 == 1.0);
    c.tn = 0;
    m = qnet_metrics_of(c);
    CHECK(m.accuracy != m.accuracy && m.f1 != m.f1);
    memset(&before, 0x5a, sizeof before);
    m = before;
    CHECK_FAILS(ctx, qnet_metrics_from(ctx, bad, bad, 3, &m), QNET_ERROR_ARGUMENT, "label of item 2");
    CHECK_FAILS(ctx, qnet_metrics_from(ctx, label, bad, 3, &m), QNET_ERROR_ARGUMENT,
                "decision of item 2: expected 0 or 1, found 2");
    CHECK_FAILS(ctx, qnet_metrics_from(ctx, label, decision, 0, &m), QNET_ERROR_DATA, "no items");
    CHECK_FAILS(ctx, qnet_metrics_from(ctx, NULL, decision, 3, &m), QNET_ERROR_ARGUMENT, "label is NULL");
    CHECK_FAILS(ctx, qnet_metrics_from(ctx, label, NULL, 3, &m), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_metrics_from(ctx, label, decision, 3, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(memcmp(&m, &before, sizeof m) == 0);
}

static void test_vote(void)
{
    static const int votes[5] = { 1, 0, 1, 0, 1 };
    CHECK(qnet_vote(votes, 5) == 1);
    CHECK(qnet_vote(votes, 4) == 0); /* a tie is HC */
    CHECK(qnet_vote(votes, 3) == 1 && qnet_vote(votes, 2) == 0 && qnet_vote(votes, 1) == 1);
    CHECK(qnet_vote(votes, 0) == 0);
}

static void test_roc(void)
{
    static const int l[6] = { 1, 0, 1, 1, 0, 0 };
    static const double s[6] = { 0.9, 0.9, 0.8, 0.3, 0.3, 0.1 };
    static const double want[5][3] = { { 0, 0, HUGE_VAL }, { 1 / 3., 1 / 3., 0.9 }, { 1 / 3., 2 / 3., 0.8 },
                                       { 2 / 3., 1, 0.3 }, { 1, 1, 0.1 } };
    qnet_roc_point p[N + 1];
    double area = 0, auc;
    size_t n = 0;
    CHECK_OK(ctx, qnet_roc(ctx, l, s, 6, p, &n));
    CHECK(n == 5);
    for (size_t i = 0; i < n && i < 5; i++) {
        CHECK(p[i].false_positive_rate == want[i][0] && p[i].true_positive_rate == want[i][1]);
        CHECK(p[i].threshold == want[i][2]);
    }
    CHECK_OK(ctx, qnet_roc(ctx, label, s1, N, p, &n));
    CHECK(n == 35); /* as sklearn.metrics.roc_curve(drop_intermediate=False) */
    for (size_t i = 1; i < n; i++) {
        area += (p[i].false_positive_rate - p[i - 1].false_positive_rate) *
                (p[i].true_positive_rate + p[i - 1].true_positive_rate) / 2;
    }
    CHECK_OK(ctx, qnet_auc(ctx, label, s1, N, &auc));
    CHECK_NEAR(area, auc, 1e-14);
    CHECK(p[n - 1].false_positive_rate == 1.0 && p[n - 1].true_positive_rate == 1.0);
}

static void test_auc(void)
{
    static const int l[4] = { 1, 0, 1, 0 };
    static const double perfect[4] = { 2, 1, 3, -1 }, wrong[4] = { -1, 1, -2, 3 }, same[4] = { 5, 5, 5, 5 };
    const double infinite[4] = { HUGE_VAL, -HUGE_VAL, 1, 0 };
    double auc = -1;
    qnet_roc_point points[5];
    qnet_delong perfectly;
    size_t count;
    CHECK_OK(ctx, qnet_auc(ctx, label, s1, N, &auc));
    CHECK_NEAR(auc, 0.6707589285714286, 1e-16); /* sklearn.metrics.roc_auc_score */
    CHECK_OK(ctx, qnet_auc(ctx, label, s2, N, &auc));
    CHECK_NEAR(auc, 0.6188616071428571, 1e-16);
    CHECK_OK(ctx, qnet_auc(ctx, l, perfect, 4, &auc));
    CHECK(auc == 1.0);
    CHECK_OK(ctx, qnet_auc(ctx, l, wrong, 4, &auc));
    CHECK(auc == 0.0);
    CHECK_OK(ctx, qnet_auc(ctx, l, same, 4, &auc));
    CHECK(auc == 0.5);
    CHECK_OK(ctx, qnet_auc(ctx, l, infinite, 4, &auc));
    CHECK(auc == 1.0);
    CHECK_OK(ctx, qnet_roc(ctx, l, infinite, 4, points, &count));
    CHECK(count == 5 && points[0].threshold == HUGE_VAL && points[0].true_positive_rate == 0);
    CHECK(points[1].threshold == HUGE_VAL && points[1].true_positive_rate == .5);
    CHECK_OK(ctx, qnet_delong_test(ctx, l, infinite, NULL, NULL, 4, &perfectly));
    CHECK(perfectly.auc[0] == 1 && perfectly.ci[0].low == 1 && perfectly.ci[0].high == 1);
}

/* Scores of one kind each: many ties, none, both zeros and infinities, magnitudes of all sizes, and
   such that differ only in the last bits, and so in the lowest digits of a key. */
static double score_of_kind(qnet_rng *rng, int kind)
{
    const uint32_t k = qnet_rng_below(rng, 7);
    if (kind == 0) return (double)qnet_rng_below(rng, 5);
    if (kind == 1) return qnet_rng_uniform(rng);
    if (kind == 2) return k < 2 ? 0.0 : k < 4 ? -0.0 : k < 5 ? HUGE_VAL : k < 6 ? -HUGE_VAL : 5e-324;
    if (kind == 3) return qnet_rng_normal(rng) * pow(10, 600 * qnet_rng_uniform(rng) - 300);
    if (kind == 4) return (k == 0 ? -1e300 : 1) + (double)qnet_rng_below(rng, 50) * DBL_EPSILON;
    return 3.25;
}

#define KINDS 6

/* The order is that of the definition: rising scores, equal ones as they came, -0 like 0. */
static void test_rank(void)
{
    static const size_t counts[8] = { 1, 2, 3, 255, 256, 257, 1000, 20011 };
    qnet_rng rng = qnet_rng_at(8, QNET_RANDOM_USER, 0, 0);
    for (int i = 0; i < 8; i++) {
        const size_t n = counts[i];
        double *key = (double *)malloc(n * sizeof *key);
        unsigned char *seen = (unsigned char *)malloc(n);
        qnet__evaluation e;
        CHECK_OK(ctx, qnet__evaluation_create(ctx, n, 0, 0, &e));
        for (int kind = 0; key && seen && kind < KINDS; kind++) {
            size_t wrong = 0;
            for (size_t k = 0; k < n; k++) key[k] = score_of_kind(&rng, kind);
            qnet__rank_items(&e, key, NULL, NULL, n);
            memset(seen, 0, n);
            for (size_t k = 0; k < n; k++) {
                const uint32_t item = e.ranked[k].item, before = k ? e.ranked[k - 1].item : item;
                wrong += item >= n || seen[item]++;
                if (k == 0) continue;
                wrong += !(key[before] < key[item] || (key[before] == key[item] && before < item));
                wrong += (e.ranked[k - 1].key == e.ranked[k].key) != (key[before] == key[item]);
            }
            CHECK(wrong == 0);
        }
        qnet__free(ctx, e.ranked, e.bytes);
        free(key);
        free(seen);
    }
}

/* Labels of both classes, returns how many are HH. */
static size_t random_labels(qnet_rng *rng, size_t n, int *l)
{
    size_t m = 1;
    for (size_t i = 0; i < n; i++) {
        l[i] = i == 0 ? 1 : i == 1 ? 0 : (int)qnet_rng_below(rng, 2);
        if (i > 1) m += (size_t)l[i];
    }
    return m;
}

/* Components and AUC from the definition: every HH item against every HC item, two points for a win
   and one for a tie. */
static double components_by_pairs(const int *l, const double *score, size_t count, size_t m, double *component)
{
    uint64_t points = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t won = 0;
        for (size_t j = 0; j < count; j++) {
            const double hh = l[i] ? score[i] : score[j], hc = l[i] ? score[j] : score[i];
            if (l[j] != l[i]) won += hh > hc ? 2u : hh == hc ? 1u : 0u;
        }
        component[i] = (double)won / (2.0 * (double)(l[i] ? count - m : m));
        if (l[i]) points += won;
    }
    return (double)points / (2.0 * (double)m * (double)(count - m));
}

/* Bit by bit, with many ties and with none. */
static void test_components(void)
{
    static double fast[700], ref[700], score[700];
    static int l[700];
    qnet_rng rng = qnet_rng_at(7, QNET_RANDOM_USER, 0, 0);
    for (int round = 0; round < 66; round++) {
        const size_t n = round < 60 ? 2 + (size_t)round : 640 + (size_t)round % 7;
        const size_t m = random_labels(&rng, n, l);
        qnet__evaluation e;
        double auc;
        CHECK_OK(ctx, qnet__evaluation_create(ctx, n, 0, 0, &e));
        for (size_t i = 0; i < n; i++) score[i] = score_of_kind(&rng, round % KINDS);
        auc = components_by_pairs(l, score, n, m, ref);
        CHECK(qnet__components(&e, l, score, n, m, fast) == auc);
        CHECK(memcmp(fast, ref, n * sizeof *fast) == 0);
        CHECK(qnet__components(&e, l, score, n, m, NULL) == auc);
        qnet__free(ctx, e.ranked, e.bytes);
    }
}

/* A million items: 2.5e11 pairs do not fit 32 bits. */
static void test_large(void)
{
    const size_t n = 1000000;
    int *l = (int *)malloc(n * sizeof *l);
    double *s = (double *)malloc(n * sizeof *s), auc = 0;
    qnet_delong d;
    for (size_t i = 0; l && s && i < n; i++) {
        s[i] = (double)(i * 7919 % n);
        l[i] = s[i] >= 500000.0;
    }
    CHECK_OK(ctx, qnet_auc(ctx, l, s, n, &auc));
    CHECK(auc == 1.0);
    CHECK_OK(ctx, qnet_delong_test(ctx, l, s, NULL, NULL, n, &d));
    CHECK(d.auc[0] == 1.0 && d.variance[0] == 0.0);
    for (size_t i = 0; i < n; i++) s[i] = 1.0;
    CHECK_OK(ctx, qnet_auc(ctx, l, s, n, &auc));
    CHECK(auc == 0.5);
    free(l);
    free(s);
}

static void check_delong(const qnet_delong *d, const double want[6])
{
    /* sums of 60 terms in another order: 1e-14 relative to the largest of them */
    CHECK_NEAR(d->auc[0], 0.6707589285714286, 1e-16);
    CHECK_NEAR(d->auc[1], 0.6188616071428571, 1e-16);
    CHECK_NEAR(d->variance[0], want[0], 1e-16);
    CHECK_NEAR(d->variance[1], want[1], 1e-16);
    CHECK_NEAR(d->covariance, want[2], 1e-16);
    CHECK_NEAR(d->se, want[3], 1e-15);
    CHECK_NEAR(d->z, want[4], 1e-14);
    CHECK_NEAR(d->p, want[5], 1e-14);
    CHECK_NEAR(d->se * d->se, d->variance[0] + d->variance[1] - 2 * d->covariance, 1e-16);
}

static void test_delong(void)
{
    /* NumPy; the first also pROC::roc.test(method = "delong"), pROC::var and pROC::cov */
    static const double by_item[6] = { 0.0048779877864564281, 0.0053278714897277233, 0.00023531267905907877,
                                       0.098667288997245653,  0.52598304824226239,   0.59889998512997622 };
    static const double by_mixed[6] = { 0.0029033799933076455, 0.0033946925683450519, -0.0012213114784042926,
                                        0.093491686894938864,  0.55510092022289681,   0.5788256333936781 };
    static const double by_pure[6] = { 0.0020210922749095799, 0.0077166704788615799, -0.00065700363718965182,
                                       0.1051273990363619,    0.49366123298285969,   0.62154544811893586 };
    qnet_delong d, one;
    CHECK_OK(ctx, qnet_delong_test(ctx, label, s1, s2, NULL, N, &d));
    check_delong(&d, by_item);
    CHECK_NEAR(d.ci[0].low, 0.53386996185197, 1e-14); /* pROC::ci.auc */
    CHECK_NEAR(d.ci[0].high, 0.80764789529088998, 1e-14);
    CHECK_OK(ctx, qnet_delong_test(ctx, label, s1, s2, single, N, &d)); /* Obuchowski's = DeLong's */
    check_delong(&d, by_item);
    CHECK_OK(ctx, qnet_delong_test(ctx, label, s1, s2, mixed, N, &d));
    check_delong(&d, by_mixed);
    CHECK_OK(ctx, qnet_delong_test(ctx, label, s1, s2, pure, N, &d));
    check_delong(&d, by_pure);
    CHECK_OK(ctx, qnet_delong_test(ctx, label, s1, NULL, pure, N, &one));
    CHECK(one.auc[0] == d.auc[0] && one.variance[0] == d.variance[0] && one.ci[0].low == d.ci[0].low);
    CHECK(one.auc[1] == 0 && one.variance[1] == 0 && one.covariance == 0 && one.se == 0 && one.p == 0);
}

/* Straight from the items: the bits of the sums over clusters of one item each, in that order. */
static void test_delong_items(void)
{
    static double a[900], b[900];
    static int l[900], own[900];
    qnet_rng rng = qnet_rng_at(11, QNET_RANDOM_USER, 0, 0);
    for (int round = 0; round < 12; round++) {
        const size_t n = round < 6 ? 40 + (size_t)round : 600 + 49 * (size_t)(round - 6);
        qnet_delong items, clusters;
        random_labels(&rng, n, l);
        for (size_t i = 0; i < n; i++) {
            a[i] = score_of_kind(&rng, round % 4) + l[i] * (round % 4 < 2 ? 0.5 : 0);
            b[i] = score_of_kind(&rng, round % 2) + l[i] * 0.4;
            own[i] = (int)i - 100;
        }
        CHECK_OK(ctx, qnet_delong_test(ctx, l, a, b, NULL, n, &items));
        CHECK_OK(ctx, qnet_delong_test(ctx, l, a, b, own, n, &clusters));
        CHECK(memcmp(&items, &clusters, sizeof items) == 0);
        CHECK_OK(ctx, qnet_delong_test(ctx, l, a, NULL, NULL, n, &items));
        CHECK_OK(ctx, qnet_delong_test(ctx, l, a, NULL, own, n, &clusters));
        CHECK(memcmp(&items, &clusters, sizeof items) == 0 && items.variance[0] > 0);
    }
}

/* How often two equally good models, of AUC .8, have a star in cohorts of the paper's 52 + 47 subjects: what
   the report says of tests by slice, two of five with 24 slices and one of five with 8. Within the groups .44
   of the variance of a score is between subjects, and .23 of that of the difference of two models' scores: the
   means of the report's demo (ResNet and ResNetSWA; all pairs; of DeLong's components, both inputs, two runs). */
static void test_star_by_slice(void)
{
    enum { COHORTS = 400, SUBJECTS = 99, SLICES = 24 };
    static int l[SUBJECTS * SLICES], subject[SUBJECTS * SLICES];
    static double score[2][SUBJECTS * SLICES];
    static const struct { int slices; double low, high; } cases[2] = {{24, 0.36, 0.5}, {8, 0.16, 0.28}};
    for (int k = 0; k < 2; k++) {
        int by_slice = 0, by_subject = 0;
        for (int cohort = 0; cohort < COHORTS; cohort++) {
            qnet_rng rng = qnet_rng_at(5, QNET_RANDOM_USER, (uint32_t)k, (uint64_t)cohort);
            qnet_delong d;
            size_t n = 0;
            for (int s = 0; s < SUBJECTS; s++) {
                const double both = 0.7 * qnet_rng_normal(&rng) + 1.6 * (s < 52);
                const double own[2] = {sqrt(0.3) * qnet_rng_normal(&rng), sqrt(0.3) * qnet_rng_normal(&rng)};
                for (int t = 0; t < cases[k].slices; t++, n++) {
                    l[n] = s < 52;
                    subject[n] = s;
                    for (int m = 0; m < 2; m++) score[m][n] = both + own[m] + qnet_rng_normal(&rng);
                }
            }
            CHECK_OK(ctx, qnet_delong_test(ctx, l, score[0], score[1], NULL, n, &d));
            by_slice += d.p <= 0.05;
            CHECK_OK(ctx, qnet_delong_test(ctx, l, score[0], score[1], subject, n, &d));
            by_subject += d.p <= 0.05;
        }
        CHECK(by_slice > cases[k].low * COHORTS && by_slice < cases[k].high * COHORTS);
        CHECK(by_subject > 0.02 * COHORTS && by_subject < 0.09 * COHORTS);
    }
}

static void test_delong_limits(void)
{
    static const int l[6] = { 1, 1, 1, 0, 0, 0 };
    static const double best[6] = { 9, 8, 7, 3, 2, 1 }, worst[6] = { 1, 2, 3, 7, 8, 9 };
    double stretched[N];
    qnet_delong d;
    CHECK_OK(ctx, qnet_delong_test(ctx, l, best, best, NULL, 6, &d));
    CHECK(d.z == 0.0 && d.p == 1.0 && d.se == 0.0 && d.auc[0] == 1.0 && d.ci[0].low == 1.0);
    CHECK_OK(ctx, qnet_delong_test(ctx, l, best, worst, NULL, 6, &d));
    CHECK(d.z == HUGE_VAL && d.p == 0.0 && d.se == 0.0);
    CHECK_OK(ctx, qnet_delong_test(ctx, l, worst, best, NULL, 6, &d));
    CHECK(d.z == -HUGE_VAL && d.p == 0.0);
    for (int i = 0; i < N; i++) stretched[i] = exp(3 * s1[i]) - 7; /* same order, same curve */
    CHECK_OK(ctx, qnet_delong_test(ctx, label, s1, stretched, NULL, N, &d));
    CHECK(d.z == 0.0 && d.p == 1.0 && d.se == 0.0);
    /* the small p of Table 2: z = 11.954, printed 6.2e-33; scipy 6.187388916642693e-33 */
    CHECK_NEAR(2 * qnet_normal_cdf(-11.954), 6.187388916642693e-33, 1e-45);
}

static void test_bad_input(void)
{
    double score[N], auc = -7, boot[4] = { -7, -7, -7, -7 };
    int l[N], ones[N], two[N];
    qnet_roc_point points[N + 1];
    qnet_delong d, before;
    size_t n = 77;
    memcpy(score, s1, sizeof score);
    memcpy(l, label, sizeof l);
    memset(&before, 0x33, sizeof before);
    d = before;
    for (int i = 0; i < N; i++) {
        ones[i] = 1;
        two[i] = label[i];
    }
    score[17] = (double)NAN;
    l[41] = 3;
    CHECK_FAILS(ctx, qnet_auc(ctx, label, score, N, &auc), QNET_ERROR_NUMERIC, "score of item 17 is NaN");
    CHECK_FAILS(ctx, qnet_auc(ctx, l, s1, N, &auc), QNET_ERROR_ARGUMENT,
                "label of item 41: expected 0 (HC) or 1 (HH), found 3");
    CHECK_FAILS(ctx, qnet_auc(ctx, ones, s1, N, &auc), QNET_ERROR_DATA, "found 60 HH and 0 HC");
    CHECK_FAILS(ctx, qnet_auc(ctx, label, s1, 0, &auc), QNET_ERROR_DATA, "no items");
    CHECK_FAILS(ctx, qnet_auc(ctx, NULL, s1, N, &auc), QNET_ERROR_ARGUMENT, "label");
    CHECK_FAILS(ctx, qnet_auc(ctx, label, NULL, N, &auc), QNET_ERROR_ARGUMENT, "expected score && auc");
    CHECK_FAILS(ctx, qnet_auc(ctx, label, s1, N, NULL), QNET_ERROR_ARGUMENT, "expected score && auc");
    CHECK_FAILS(ctx, qnet_roc(ctx, ones, s1, N, points, &n), QNET_ERROR_DATA, "both classes");
    CHECK_FAILS(ctx, qnet_roc(ctx, label, s1, N, NULL, &n), QNET_ERROR_ARGUMENT, "points");
    CHECK_FAILS(ctx, qnet_roc(ctx, label, score, N, points, &n), QNET_ERROR_NUMERIC, "item 17");
    CHECK_FAILS(ctx, qnet_delong_test(ctx, label, s1, score, NULL, N, &d), QNET_ERROR_NUMERIC, "score2");
    CHECK_FAILS(ctx, qnet_delong_test(ctx, label, score, s1, NULL, N, &d), QNET_ERROR_NUMERIC, "score1");
    CHECK_FAILS(ctx, qnet_delong_test(ctx, ones, s1, s2, NULL, N, &d), QNET_ERROR_DATA, "both classes");
    CHECK_FAILS(ctx, qnet_delong_test(ctx, label, s1, s2, two, N, &d), QNET_ERROR_DATA,
                "two clusters of each class, found 1 with HH and 1 with HC");
    CHECK_FAILS(ctx, qnet_delong_test(ctx, label, s1, NULL, NULL, N, NULL), QNET_ERROR_ARGUMENT, "out");
    CHECK_FAILS(ctx, qnet_bootstrap_auc(ctx, ones, s1, NULL, N, 4, 1, boot), QNET_ERROR_DATA, "both");
    CHECK_FAILS(ctx, qnet_bootstrap_auc(ctx, label, s1, NULL, N, 0, 1, boot), QNET_ERROR_ARGUMENT, "0");
    CHECK_FAILS(ctx, qnet_bootstrap_auc(ctx, label, s1, NULL, N, 4, 1, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(auc == -7 && n == 77 && memcmp(&d, &before, sizeof d) == 0 && boot[0] == -7 && boot[3] == -7);
    if (sizeof(size_t) > 4) {
        CHECK_FAILS(ctx, qnet_auc(ctx, label, s1, (size_t)QNET__MAX_ITEMS + 1, &auc), QNET_ERROR_LIMIT,
                    "at most");
    }
}

#define RESAMPLES 400
static void test_bootstrap(void)
{
    double auc[RESAMPLES], again[RESAMPLES], mean = 0, square = 0;
    qnet_delong d;
    CHECK_OK(ctx, qnet_delong_test(ctx, label, s1, NULL, NULL, N, &d));
    CHECK_OK(ctx, qnet_bootstrap_auc(ctx, label, s1, NULL, N, RESAMPLES, 5, auc));
    for (int i = 0; i < RESAMPLES; i++) {
        CHECK(auc[i] >= 0.0 && auc[i] <= 1.0);
        mean += auc[i] / RESAMPLES;
        square += auc[i] * auc[i] / RESAMPLES;
    }
    CHECK_NEAR(mean, d.auc[0], 4 * sqrt(d.variance[0] / RESAMPLES)); /* 4 standard errors of a mean */
    CHECK_NEAR(sqrt(square - mean * mean) / sqrt(d.variance[0]), 1.0, 0.2); /* 4 / sqrt(2 * 400) = .14 */
    /* the first resample, drawn by hand and scored by qnet_auc */
    {
        qnet_rng rng = qnet_rng_at(5, QNET_RANDOM_BOOTSTRAP, 0, 0);
        double s[N], value = 0;
        int l[N];
        for (int i = 0; i < N; i++) {
            const uint32_t k = qnet_rng_below(&rng, N);
            s[i] = s1[k];
            l[i] = label[k];
        }
        CHECK_OK(ctx, qnet_auc(ctx, l, s, N, &value));
        CHECK(value == auc[0]);
    }
    /* clusters of one item, in the order of the items, are items */
    {
        int own[N];
        for (int i = 0; i < N; i++) own[i] = i - 30;
        CHECK_OK(ctx, qnet_bootstrap_auc(ctx, label, s1, own, N, RESAMPLES, 5, again));
        CHECK(memcmp(auc, again, sizeof auc) == 0);
    }
    /* whole clusters: 7 of HH and 6 of HC; here too the first one by hand */
    CHECK_OK(ctx, qnet_bootstrap_auc(ctx, label, s1, pure, N, RESAMPLES, 6, auc));
    {
        qnet_rng rng = qnet_rng_at(6, QNET_RANDOM_BOOTSTRAP, 0, 0);
        double s[13 * N], value = 0;
        int l[13 * N];
        size_t n = 0;
        for (int i = 0; i < 13; i++) {
            const int k = (int)qnet_rng_below(&rng, 13);
            for (int j = 0; j < N; j++) {
                if (pure[j] != (k < 6 ? k : 94 + k)) continue;
                s[n] = s1[j];
                l[n++] = label[j];
            }
        }
        CHECK_OK(ctx, qnet_auc(ctx, l, s, n, &value));
        CHECK(value == auc[0]);
    }
    /* two items: half of the samples have one class and are drawn again */
    {
        static const int l[2] = { 0, 1 };
        static const double s[2] = { 0.2, 0.7 };
        CHECK_OK(ctx, qnet_bootstrap_auc(ctx, l, s, NULL, 2, RESAMPLES, 1, auc));
        for (int i = 0; i < RESAMPLES; i++) CHECK(auc[i] == 1.0);
    }
}

/* Each resample, drawn word by word: whole clusters copied as often as they were drawn, and scored by
   qnet_auc; with ties of all kinds. */
static void test_bootstrap_by_copies(void)
{
    enum { RUNS = 5, ITEMS = 801 };
    static double score[ITEMS], s[40 * ITEMS];
    static int l[ITEMS], cluster[ITEMS], unit[ITEMS], copies[40 * ITEMS];
    qnet_rng rng = qnet_rng_at(12, QNET_RANDOM_USER, 0, 0);
    for (int round = 0; round < 4 * KINDS; round++) {
        const size_t n = round % 2 ? ITEMS : 3 + (size_t)round;
        const int clustered = round / 2 % 2;
        double auc[RUNS];
        int units = 0;
        random_labels(&rng, n, l);
        for (size_t i = 0; i < n; i++) {
            score[i] = score_of_kind(&rng, round % KINDS) + (round % KINDS == 1 ? l[i] * 0.3 : 0);
            cluster[i] = (int)qnet_rng_below(&rng, 1 + (uint32_t)n / 3) * 3 - 50;
        }
        cluster[0] = -51; /* at least two clusters, one for each class */
        cluster[1] = -52;
        for (int c = -52; c < 3 * ITEMS; c++) { /* numbered in the order of their values */
            int there = 0;
            for (size_t i = 0; i < n; i++) {
                if (cluster[i] != c) continue;
                unit[i] = units;
                there = 1;
            }
            units += there;
        }
        for (size_t i = 0; i < n && !clustered; i++) unit[i] = (int)i;
        if (!clustered) units = (int)n;
        CHECK_OK(ctx, qnet_bootstrap_auc(ctx, l, score, clustered ? cluster : NULL, n, RUNS, 77, auc));
        for (uint64_t run = 0; run < RUNS; run++) {
            qnet_rng draws = qnet_rng_at(77, QNET_RANDOM_BOOTSTRAP, 0, run);
            double want = (double)NAN;
            while (want != want) {
                size_t size = 0, hh = 0;
                for (int k = 0; k < units; k++) {
                    const int drawn = (int)qnet_rng_below(&draws, (uint32_t)units);
                    for (size_t i = 0; i < n && size < 40 * ITEMS; i++) {
                        if (unit[i] != drawn) continue;
                        s[size] = score[i];
                        copies[size++] = l[i];
                        hh += (size_t)l[i];
                    }
                }
                if (hh > 0 && hh < size) CHECK_OK(ctx, qnet_auc(ctx, copies, s, size, &want));
            }
            CHECK(auc[run] == want);
        }
    }
}

static void test_workers(void)
{
    static const size_t counts[4] = { 1, 2, 3, 8 };
    double first[RESAMPLES], auc[RESAMPLES];
    qnet_delong delong[4];
    for (int k = 0; k < 4; k++) {
        size_t workers = counts[k];
        qnet_context *c = context_with(NULL, &workers);
        CHECK_OK(c, qnet_bootstrap_auc(c, label, s2, pure, N, RESAMPLES, 9, k ? auc : first));
        if (k) CHECK(memcmp(first, auc, sizeof auc) == 0);
        CHECK_OK(c, qnet_delong_test(c, label, s1, s2, k % 2 ? pure : NULL, N, &delong[k]));
        CHECK(k < 2 || memcmp(&delong[k], &delong[k - 2], sizeof delong[0]) == 0);
        qnet_context_destroy(c);
    }
}

static void test_boxplot(void)
{
    static const double v[8] = { 3, 0.5, 4, 1, 5, 9, 2, 6 };
    const double bad[3] = { 1, 2, HUGE_VAL };
    qnet_boxplot b;
    CHECK_OK(ctx, qnet_boxplot_of(ctx, v, 8, &b)); /* numpy.percentile, numpy.std(ddof=1) */
    CHECK_NEAR(b.low, 0.5875, 1e-15);
    CHECK_NEAR(b.q1, 1.75, 1e-15);
    CHECK_NEAR(b.median, 3.5, 1e-15);
    CHECK_NEAR(b.q3, 5.25, 1e-15);
    CHECK_NEAR(b.high, 8.475, 1e-14);
    CHECK_NEAR(b.mean, 3.8125, 1e-15);
    CHECK_NEAR(b.std, 2.8276378329421386, 1e-14);
    CHECK_OK(ctx, qnet_boxplot_of(ctx, v, 1, &b));
    CHECK(b.low == 3 && b.q1 == 3 && b.high == 3 && b.mean == 3 && b.std == 0);
    CHECK_FAILS(ctx, qnet_boxplot_of(ctx, bad, 3, &b), QNET_ERROR_NUMERIC, "value 2");
    CHECK_FAILS(ctx, qnet_boxplot_of(ctx, v, 0, &b), QNET_ERROR_ARGUMENT, "no values");
    CHECK_FAILS(ctx, qnet_boxplot_of(ctx, NULL, 3, &b), QNET_ERROR_ARGUMENT, "values");
}

/* statsmodels and scikit-learn stop at 1e-8 of what is left of the score; conditions are up to 1e4. */
static void test_logistic(void)
{
    for (size_t k = 0; k < sizeof logistic_sets / sizeof *logistic_sets; k++) {
        const logistic_set *set = &logistic_sets[k];
        const size_t n = (size_t)set->count, p = (size_t)set->predictors;
        const uint32_t first = 2000 + 40 * (uint32_t)k;
        double x[113 * 20], c[21], error[21], again[21];
        int y[113];
        for (size_t i = 0; i < n; i++) {
            const uint32_t at = (uint32_t)i;
            y[i] = formula(first, at) < 0.25 + 0.5 * formula(first + 1, at);
            for (size_t j = 0; j < p; j++)
                x[i * p + j] = set->low[j] + set->span[j] * formula(first + 1 + (uint32_t)j, at);
        }
        CHECK_OK(ctx, qnet_logistic_fit(ctx, y, x, n, p, set->ridge, c, error));
        CHECK_OK(ctx, qnet_logistic_fit(ctx, y, x, n, p, set->ridge, again, NULL));
        CHECK(memcmp(c, again, (1 + p) * sizeof *c) == 0);
        for (size_t j = 0; j <= p; j++) {
            CHECK_NEAR(c[j], set->expected[j], 1e-8 * (1 + fabs(set->expected[j])));
            CHECK_NEAR(error[j], set->expected[1 + p + j], 1e-8 * set->expected[1 + p + j]);
        }
    }
    { /* the intercept alone is the logit of the share; its error is 1/sqrt(n p (1-p)) */
        static const int y[5] = { 1, 0, 0, 1, 0 };
        double c, error;
        CHECK_OK(ctx, qnet_logistic_fit(ctx, y, NULL, 5, 0, 0, &c, &error));
        CHECK_NEAR(c, log(2.0 / 3), 1e-14);
        CHECK_NEAR(error, 1 / sqrt(1.2), 1e-12); /* of the point before a last step below 1e-10 */
    }
}

static void test_logistic_limits(void)
{
    static const int y[6] = { 0, 0, 0, 1, 1, 1 }, ones[6] = { 1, 1, 1, 1, 1, 1 };
    static const int odd[6] = { 0, 0, 2, 1, 1, 1 }, mixed_y[6] = { 0, 1, 0, 1, 0, 1 };
    static const double apart[6] = { 1, 2, 3, 4, 5, 6 }, touching[6] = { 1, 2, 3, 3, 5, 6 };
    static const double twice[12] = { 1, 2, 2, 4, 5, 10, 3, 6, 7, 14, 8, 16 };
    static const double constant[6] = { 7, 7, 7, 7, 7, 7 };
    double bad[6], huge[6], c[3] = { -7, -7, -7 }, error[3] = { -7, -7, -7 };
    const double *const refused[2] = { apart, touching };
    for (int k = 0; k < 2; k++) {
        CHECK_FAILS(ctx, qnet_logistic_fit(ctx, y, refused[k], 6, 1, 0, c, error), QNET_ERROR_DATA,
                    "predictors separate the labels");
    }
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, mixed_y, twice, 6, 2, 0, c, error), QNET_ERROR_DATA,
                "depend on each other");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, mixed_y, constant, 6, 1, 0, c, error), QNET_ERROR_DATA,
                "depend on each other");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, ones, apart, 6, 1, 1, c, error), QNET_ERROR_DATA,
                "found 6 HH and 0 HC");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, odd, apart, 6, 1, 1, c, error), QNET_ERROR_ARGUMENT,
                "item 2: expected 0 (HC) or 1 (HH), found 2");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, y, apart, 0, 1, 1, c, error), QNET_ERROR_DATA, "no items");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, y, NULL, 6, 1, 1, c, error), QNET_ERROR_ARGUMENT, "x");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, NULL, apart, 6, 1, 1, c, error), QNET_ERROR_ARGUMENT, "label");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, y, apart, 6, 1, 1, NULL, error), QNET_ERROR_ARGUMENT,
                "coefficients");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, y, apart, 6, 1, -1, c, error), QNET_ERROR_ARGUMENT,
                "ridge is -1, expected at least 0");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, y, apart, 6, 1, (double)NAN, c, error), QNET_ERROR_ARGUMENT,
                "ridge");
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, y, apart, 6, 1001, 1, c, error), QNET_ERROR_LIMIT, "at most 1000");
    memcpy(bad, apart, sizeof bad);
    bad[4] = HUGE_VAL;
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, y, bad, 6, 1, 1, c, error), QNET_ERROR_NUMERIC,
                "item 4, predictor 0");
    for (int i = 0; i < 6; i++) huge[i] = touching[i] * 1e300;
    CHECK_FAILS(ctx, qnet_logistic_fit(ctx, mixed_y, huge, 6, 1, 0, c, error), QNET_ERROR_DATA, "too large");
    CHECK(c[0] == -7 && c[2] == -7 && error[0] == -7 && error[2] == -7);
    /* what separates is fitted under a penalty, on a scale far from 1 too */
    CHECK_OK(ctx, qnet_logistic_fit(ctx, y, apart, 6, 1, 1e-6, c, error));
    CHECK(c[1] > 5 && c[1] < 100 && error[1] > 0);
    for (int i = 0; i < 6; i++) huge[i] = 1e6 + touching[i];
    CHECK_OK(ctx, qnet_logistic_fit(ctx, mixed_y, touching, 6, 1, 0, c, NULL));
    CHECK_OK(ctx, qnet_logistic_fit(ctx, mixed_y, huge, 6, 1, 0, error, NULL));
    CHECK_NEAR(error[1], c[1], 1e-4 * fabs(c[1])); /* a condition of 1e12 */
}

static void test_no_memory(void)
{
    qnet_roc_point points[N + 1];
    double auc, boot[8], fit[2];
    size_t n;
    qnet_delong d;
    qnet_boxplot b;
    for (int call = 0; call < 6; call++) {
        long fail_at = 0;
        qnet_status status = QNET_ERROR_MEMORY;
        for (; status == QNET_ERROR_MEMORY && fail_at < 20; fail_at++) {
            counting c = { 0, 0, -1 };
            qnet_context *k = context_with(&c, NULL);
            const long alive = c.alive;
            c.count = 0;
            c.fail_at = fail_at;
            if (call == 0) status = qnet_auc(k, label, s1, N, &auc);
            if (call == 1) status = qnet_roc(k, label, s1, N, points, &n);
            if (call == 2) status = qnet_delong_test(k, label, s1, s2, pure, N, &d);
            if (call == 3) status = qnet_bootstrap_auc(k, label, s1, pure, N, 8, 1, boot);
            if (call == 4) status = qnet_boxplot_of(k, s1, N, &b);
            if (call == 5) status = qnet_logistic_fit(k, label, s1, N, 1, 0, fit, NULL);
            if (status != QNET_OK) CHECK_CONTAINS(qnet_last_error(k), "memory");
            CHECK(c.alive == alive);
            qnet_context_destroy(k);
            CHECK(c.alive == 0);
        }
        CHECK(status == QNET_OK && fail_at > 1); /* each call has failed at least once */
    }
}

int main(void)
{
    make_data();
    ctx = context_with(NULL, NULL);
    RUN(test_normal);
    RUN(test_stars);
    RUN(test_wilson);
    RUN(test_no_context);
    RUN(test_rates);
    RUN(test_vote);
    RUN(test_roc);
    RUN(test_auc);
    RUN(test_rank);
    RUN(test_components);
    RUN(test_large);
    RUN(test_delong);
    RUN(test_delong_items);
    RUN(test_star_by_slice);
    RUN(test_delong_limits);
    RUN(test_bad_input);
    RUN(test_bootstrap);
    RUN(test_bootstrap_by_copies);
    RUN(test_workers);
    RUN(test_boxplot);
    RUN(test_logistic);
    RUN(test_logistic_limits);
    RUN(test_no_memory);
    qnet_context_destroy(ctx);
    return test_end();
}
