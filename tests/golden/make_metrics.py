#!/usr/bin/env python3
"""Writes metrics.h: rates, curves, areas, intervals, DeLong's and Obuchowski's variances and
bootstrap quantiles of scores that the formula of formula.h makes (metrics_oracle.py).
    python3 tests/golden/make_metrics.py
Needs NumPy, scikit-learn, and R with pROC."""
import io, sys
import numpy as np, sklearn
import golden_file, metrics_oracle as oracle
from image_oracle import formula

tables = [oracle.table(k) for k in range(len(oracle.SETS))]
program = ["show('pROC', as.numeric(paste0(packageVersion('pROC')$major, '.', packageVersion('pROC')$minor)))"]
for k, t in enumerate(tables):
    tp, fn, tn, fp = oracle.rates(t)[:4]
    program += [oracle.r_delong("d%d" % k, t), oracle.r_wilson("a%d" % k, tp + tn, len(t)),
                oracle.r_wilson("s%d" % k, tp, tp + fn), oracle.r_wilson("c%d" % k, tn, tn + fp)]
r = oracle.r_program(program)
if r is None:
    sys.exit("make_metrics.py needs Rscript and its package pROC: metrics.h stays as it is")

out = io.StringIO()


def write(text):
    out.write(text + "\n")


def row(values):
    return ", ".join("%.17g" % v for v in values)


write("/* metrics.h: written by make_metrics.py with scikit-learn %s, NumPy %s, pROC %g.\n"
      "   rates: tp fn tn fp accuracy sensitivity specificity precision f1 f1_hh f1_hc f1_macro.\n"
      "   wilson: of accuracy, sensitivity, specificity. delong: auc[2] variance[2] covariance se z p and\n"
      "   both intervals. clustered: auc[2] variance[2] covariance. points, curve: of the ROC curve of\n"
      "   score 1, how many, and the sums over k of fpr[k] formula(900, k), tpr[k] formula(901, k) and,\n"
      "   from k = 1, threshold[k] formula(902, k). box: of 60 bootstrap AUCs with seed 11, by item and\n"
      "   by cluster: low q1 median q3 high mean std. */" %
      (sklearn.__version__, np.__version__, r["pROC"][0]))
write("static const metrics_set metrics_sets[] = {")
for k, t in enumerate(tables):
    name, n, levels, share, lead1, lead2 = oracle.SETS[k]
    c = oracle.curve(t)
    w = [formula(900 + j, len(c)) for j in range(3)]
    sums = [c[:, 0] @ w[0], c[:, 1] @ w[1], c[1:, 2] @ w[2][1:]]
    write('    {"%s", %d, %d, %g, %g, %g,' % (name, n, levels, share, lead1, lead2))
    write("     {%s},\n     {%s},\n     {%s},\n     {%s},\n     %d, {%s},\n     {{%s},\n      {%s}}}," % (
        row(oracle.rates(t)), row(r["a%d" % k] + r["s%d" % k] + r["c%d" % k]), row(r["d%d" % k]),
        row(oracle.clustered(t)), len(c), row(sums), row(oracle.box(oracle.bootstrap(t, 0, 60, 11))),
        row(oracle.box(oracle.bootstrap(t, 1, 60, 11)))))
write("};\n/* All of the curve of set 0. */\nstatic const double metrics_curve[][3] = {")
for p in oracle.curve(tables[0]):
    write("    {%s}," % row(p).replace("inf", "HUGE_VAL"))
write("};")
golden_file.replace("metrics.h", out.getvalue())
