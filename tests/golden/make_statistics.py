#!/usr/bin/env python3
"""Writes, on the numbers that formula.h makes, statistics.h: coefficients and standard errors of logistic
regressions by statsmodels (no penalty) and scikit-learn (ridge); and subjects.h: what the report of
crossval says of probabilities, by statsmodels (McNemar, Holm, calibration, intervals of predictive values), SciPy
(permutations, by the exact distribution of Mann and Whitney's U), scikit-learn (Brier, calibration bins, baselines
under the same folds) and sums written out (predictive values, net benefit).
    python3 tests/golden/make_statistics.py
Needs NumPy, SciPy, scikit-learn and statsmodels."""
import io
import numpy as np, scipy.optimize, scipy.stats, sklearn, statsmodels
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import test_proportions_2indep
import golden_file
from image_oracle import formula

# items, predictors, ridge, and first and range of predictor j: low[j] + span[j] u
LOGISTIC = [
    (60, 1, 0, [20], [60]),              # an age
    (40, 0, 0, [], []),                  # the intercept alone
    (113, 3, 0, [20, -.05, 15], [60, .3, 80]),  # an age, ppm, 1/s
    (99, 4, 1, [-2, -2, -2, -2], [4, 4, 4, 4]),
    (30, 8, .01, [-1] * 8, [2] * 8),
    (12, 20, 2.5, [-1] * 20, [2] * 20),  # more predictors than items
]


def logistic_table(k):
    """label, x of set k: [n], [n][p]."""
    n, p, ridge, low, span = LOGISTIC[k]
    i = 2000 + 40 * k
    u = np.stack([formula(i + 1 + j, n) for j in range(max(p, 1))], 1)
    label = (formula(i, n) < .25 + .5 * u[:, 0]).astype(float)
    return label, np.array(low) + np.array(span) * u[:, :p]


def logistic(k):
    """coefficients, then standard errors."""
    n, p, ridge, _, _ = LOGISTIC[k]
    y, x = logistic_table(k)
    one = np.column_stack([np.ones(n), x])
    if ridge == 0:
        fit = sm.Logit(y, one).fit(method="newton", tol=1e-15, maxiter=100, disp=0)
        return [*fit.params, *fit.bse]
    fit = LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-13, max_iter=1000).fit(x, y)
    c = np.concatenate([fit.intercept_, fit.coef_[0]])
    prob = 1 / (1 + np.exp(-one @ c))
    h = one.T @ (one * (prob * (1 - prob))[:, None]) + ridge * np.diag([0] + [1] * p)
    return [*c, *np.sqrt(np.diag(np.linalg.inv(h)))]


def row(values):
    return ", ".join("%.17g" % v for v in values)


out = io.StringIO()
out.write("/* statistics.h: written by make_statistics.py with scikit-learn %s, statsmodels %s, NumPy %s. */\n"
          % (sklearn.__version__, statsmodels.__version__, np.__version__))
out.write("/* items, predictors, ridge, low[], span[], coefficients, then their standard errors */\n"
          "static const logistic_set logistic_sets[] = {\n")
for k, (n, p, ridge, low, span) in enumerate(LOGISTIC):
    out.write("    {%d, %d, %g, {%s}, {%s},\n     {%s}},\n" % (
        n, p, ridge, row(low or [0]), row(span or [0]), row(logistic(k))))
out.write("};\n")
golden_file.replace("statistics.h", out.getvalue())

# ---- What the report says of probabilities ------------------------------------------------------

PAIRS = [(0, 0), (1, 0), (5, 5), (3, 12), (0, 7), (21, 40), (300, 251)]
HOLM = [.04, .001, .04, .9, .03, .0002, 1, .012]
# tp fn tn fp, prevalence
PREDICTIVE = [(42, 8, 37, 8, .5), (42, 8, 37, 8, .005), (10, 0, 9, 3, .1), (4, 6, 12, 0, .5), (1, 1, 1, 1, .02),
              (23, 1, 23, 1, .5), (480, 20, 9900, 100, .005), (0, 5, 4, 3, .2)]
# subjects, folds, lead of HH in the probability
SUBJECTS = [(40, 4, .12), (99, 10, .1), (250, 5, .03)]
THRESHOLDS = [.01, .1, .25, .5, .75, .9]


def subjects(k):
    """label, fold, probability, x [n][3] with NaN in places: an age, a sex, a value in 1/s."""
    n, folds, lead = SUBJECTS[k]
    i = 3000 + 40 * k
    label = (formula(i, n) < .5).astype(int)
    p = np.clip(.02 + .96 * (formula(i + 1, n) * (1 - lead) + lead * label), 0, 1)
    x = np.stack([20 + 60 * formula(i + 2, n), np.floor(2 * formula(i + 3, n)),
                  30 + 20 * formula(i + 4, n) + 9 * label], 1)
    x[formula(i + 5, n) < .1, 0] = np.nan
    return label, np.arange(n) * 7 % folds, p, x


def predictive(tp, fn, tn, fp, share):
    """ppv npv, then their intervals at those ratios of two rates at which statsmodels' score test (Miettinen &
    Nurminen 1985) has |z| = 1.96; its own interval, in closed form, is another where all of a group are right."""
    def bounds(a, n1, b, n0, share):
        def limit(z):
            score = lambda t: test_proportions_2indep(a, n1, b, n0, np.exp(t), method="score", compare="ratio").statistic
            t = np.exp(scipy.optimize.brentq(lambda t: score(t) - z, -20, 20, xtol=1e-15))
            return t * share / (t * share + 1 - share)
        z = scipy.stats.norm.ppf(.975)
        return [limit(z) if a else 0, limit(-z) if b else 1]
    se, sp = tp / (tp + fn), tn / (tn + fp)
    ppv = se * share / (se * share + (1 - sp) * (1 - share))
    npv = sp * (1 - share) / (sp * (1 - share) + (1 - se) * share)
    return [ppv, npv, *bounds(tp, tp + fn, fp, tn + fp, share), *bounds(tn, tn + fp, fn, tp + fn, 1 - share)]


def assessed(k):
    """brier, intercept, slope, their errors, permutation p, intercept at slope 1 and its error (a GLM with an
    offset), net benefit at the cohort's prevalence and at .1."""
    label, fold, p, x = subjects(k)
    fit = sm.Logit(label, sm.add_constant(scipy.special.logit(p))).fit(method="newton", tol=1e-15, maxiter=100, disp=0)
    u = scipy.stats.mannwhitneyu(p[label == 1], p[label == 0], alternative="greater", method="exact").pvalue
    large = sm.GLM(label, np.ones(len(label)), family=sm.families.Binomial(), offset=scipy.special.logit(p)).fit(tol=1e-14)
    nb = [(p[label == 1] >= t).mean() * q - (p[label == 0] >= t).mean() * (1 - q) * t / (1 - t)
          for q in (label.mean(), .1) for t in THRESHOLDS]
    return [brier_score_loss(label, p), *fit.params, *fit.bse, u, large.params[0], large.bse[0], *nb]


def baseline(k):
    """Of a regression on the other folds' subjects: sum of P(HH) formula(950, i), lowest, highest, p."""
    label, fold, p, x = subjects(k)
    got = np.zeros(len(label))
    for f in np.unique(fold):
        train = fold != f
        mean, std = np.nanmean(x[train], 0), np.nanstd(x[train], 0)
        z = np.nan_to_num((x - mean) / std)
        fit = LogisticRegression(C=1, solver="newton-cholesky", tol=1e-13, max_iter=1000).fit(z[train], label[train])
        got[~train] = fit.predict_proba(z[~train])[:, 1]
    u = scipy.stats.mannwhitneyu(got[label == 1], got[label == 0], alternative="greater", method="exact").pvalue
    return [got @ formula(950, len(got)), got.min(), got.max(), u]


out = io.StringIO()
out.write("/* subjects.h: written by make_statistics.py with scikit-learn %s, statsmodels %s, SciPy %s, NumPy %s. */\n"
          % (sklearn.__version__, statsmodels.__version__, scipy.__version__, np.__version__))
out.write("/* only first right, only second right, p */\nstatic const double mcnemar_sets[][3] = {\n")
for b, c in PAIRS:
    out.write("    {%s},\n" % row([b, c, mcnemar([[0, b], [c, 0]], exact=True).pvalue if b + c else 1]))
out.write("};\nstatic const double holm_sets[][2] = {\n")
for p, q in zip(HOLM, multipletests(HOLM, method="holm")[1]):
    out.write("    {%s},\n" % row([p, q]))
out.write("};\n/* tp fn tn fp prevalence, ppv npv and their intervals */\n"
          "static const double predictive_sets[][11] = {\n")
for one in PREDICTIVE:
    out.write("    {%s},\n" % row([*one, *predictive(*one)]))
out.write("};\nstatic const double net_thresholds[] = {%s};\n" % row(THRESHOLDS))
out.write("/* subjects, folds, lead; brier intercept slope and their errors, permutation p, intercept at slope 1 and its\n"
          "   error, net benefits at the cohort's prevalence and at .1; of the baseline: weighted sum, lowest and highest probability, p */\n"
          "static const subject_set subject_sets[] = {\n")
for k, (n, folds, lead) in enumerate(SUBJECTS):
    out.write("    {%d, %d, %g, {%s},\n     {%s}},\n" % (n, folds, lead, row(assessed(k)), row(baseline(k))))
out.write("};\n")
golden_file.replace("subjects.h", out.getvalue())
