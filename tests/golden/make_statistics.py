#!/usr/bin/env python3
"""Writes statistics.h: coefficients and standard errors of logistic regressions on the numbers that
formula.h makes, by statsmodels (no penalty) and scikit-learn (ridge).
    python3 tests/golden/make_statistics.py
Needs NumPy, scikit-learn and statsmodels."""
import io
import numpy as np, sklearn, statsmodels
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression
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
