"""Oracles of room >>metrics: scikit-learn for rates, curves and areas; pROC (R) for DeLong; R's
prop.test for Wilson's intervals; sums over pairs, written out, for Obuchowski's clustered variance;
scikit-learn's AUC and numpy.percentile over the resamples that Philox4x32-10 draws."""
import os, shutil, subprocess, tempfile
import numpy as np
from image_oracle import formula

# name, items, levels of score (few: heavy ties), share of HH, lead of HH in score 1 and in score 2
# (powers of two in levels and leads: all scores are exact numbers)
SETS = [
    ("60 items, 4 levels", 60, 4, .5, .25, .125),
    ("113 items, 8 levels", 113, 8, .36, .25, .1875),
    ("200 items, 2 levels", 200, 2, .5, .25, .25),
    ("150 items, 4 levels, 1 in 10 HH", 150, 4, .1, .5, .25),
    ("40 items, no ties", 40, 1 << 30, .5, .125, .5),
    ("500 items, 1024 levels", 500, 1024, .52, .25, .375),
    ("80 items, chance", 80, 16, .5, 0, 0),
    ("90 items, worse than chance", 90, 32, .5, -.25, -.125),
    ("64 items, nearly separated", 64, 64, .5, .9375, .875),
]


def table(k):
    """label, score1, score2, cluster, decision of set k, [n][5]."""
    name, n, levels, share, lead1, lead2 = SETS[k]
    i = 500 + 10 * k
    label = (formula(i, n) < share).astype(float)
    a, b = formula(i + 1, n), formula(i + 2, n)
    s1 = np.floor((a + lead1 * label) * levels) / levels
    s2 = np.floor(((a + b) / 2 + lead2 * label) * levels) / levels
    cluster = np.floor(formula(i + 3, n) * (n // 4))
    decision = (s1 >= .625).astype(float)
    return np.stack([label, s1, s2, cluster, decision], 1)


def rates(t):
    """tp fn tn fp, accuracy sensitivity specificity precision f1 f1_hh f1_hc f1_macro."""
    import sklearn.metrics as M
    y, d = t[:, 0], t[:, 4]
    tn, fp, fn, tp = M.confusion_matrix(y, d, labels=[0, 1]).ravel()
    return [tp, fn, tn, fp, M.accuracy_score(y, d), M.recall_score(y, d),
            M.recall_score(y, d, pos_label=0), M.precision_score(y, d, zero_division=np.nan),
            M.f1_score(y, d, average="weighted"), M.f1_score(y, d), M.f1_score(y, d, pos_label=0),
            M.f1_score(y, d, average="macro")]


def curve(t):
    """[points][3]: false positive rate, true positive rate, threshold."""
    from sklearn.metrics import roc_curve
    return np.stack(roc_curve(t[:, 0], t[:, 1], drop_intermediate=False), 1)


def auc(t):
    from sklearn.metrics import roc_auc_score
    return roc_auc_score(t[:, 0], t[:, 1])


R = r"""
suppressMessages(library(pROC))
show <- function(name, v) cat(name, sprintf("%.17g", v), "\n")
delong <- function(name, y, s1, s2) {
  a <- roc(y, s1, levels = c(0, 1), direction = "<", quiet = TRUE)
  b <- roc(y, s2, levels = c(0, 1), direction = "<", quiet = TRUE)
  z <- roc.test(a, b, method = "delong", paired = TRUE)
  i <- ci.auc(a, method = "delong"); j <- ci.auc(b, method = "delong")
  v <- var(a, method = "delong"); w <- var(b, method = "delong"); u <- cov(a, b, method = "delong")
  show(name, c(auc(a), auc(b), v, w, u, sqrt(v + w - 2 * u), z$statistic, z$p.value, i[1], i[3], j[1],
               j[3]))
}
wilson <- function(name, k, n) show(name, prop.test(k, n, correct = FALSE)$conf.int)
"""


def r_program(lines):
    """{name: [numbers]} of what an R program shows; None where there is no R with pROC."""
    if not shutil.which("Rscript"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "program.R")
        with open(path, "w") as f:
            f.write(R + "\n".join(lines) + "\n")
        p = subprocess.run(["Rscript", "--vanilla", path], capture_output=True, text=True)
    if p.returncode:
        if "no package called" in p.stderr:
            return None
        raise RuntimeError(p.stderr)
    rows = [line.split() for line in p.stdout.splitlines() if line.strip()]
    return {r[0]: [float(v) for v in r[1:]] for r in rows}


def _vector(v):
    return "c(%s)" % ", ".join("%.17g" % x for x in v)


def r_delong(name, t):
    return "delong('%s', %s, %s, %s)" % (name, _vector(t[:, 0]), _vector(t[:, 1]), _vector(t[:, 2]))


def r_wilson(name, successes, trials):
    return "wilson('%s', %d, %d)" % (name, successes, trials)


def clustered(t):
    """auc[2] variance[2] covariance of Obuchowski (1997), pairs counted one by one."""
    y, scores, cluster = t[:, 0] == 1, t[:, 1:3].T, t[:, 3]
    m, n = y.sum(), (~y).sum()
    units = np.unique(cluster)
    areas, x10, x01 = [], [], []
    for s in scores:
        wins = (s[y][:, None] > s[~y]) + .5 * (s[y][:, None] == s[~y])
        area = wins.mean()
        areas.append(area)
        v10, v01 = wins.mean(1) - area, wins.mean(0) - area
        x10.append(np.array([v10[cluster[y] == u].sum() for u in units]))
        x01.append(np.array([v01[cluster[~y] == u].sum() for u in units]))
    i10, i01, i = len(np.unique(cluster[y])), len(np.unique(cluster[~y])), len(units)

    def cov(a, b):
        return (i10 / (i10 - 1) * (x10[a] @ x10[b]) / m ** 2 + i01 / (i01 - 1) * (x01[a] @ x01[b]) / n ** 2
                + i / (i - 1) * (x10[a] @ x01[b] + x10[b] @ x01[a]) / (m * n))
    return [*areas, cov(0, 0), cov(1, 1), cov(0, 1)]


def philox(seed, purpose, sample):
    """The 32-bit words of stream (seed, purpose, epoch 0, sample): Philox4x32-10 of Salmon et al.
    2011, key = seed, counter = (block, epoch, sample, purpose << 24)."""
    mask, block = 0xffffffff, 0
    while True:
        c, k0, k1 = [block, 0, sample, purpose << 24], seed & mask, seed >> 32
        for _ in range(10):
            p0, p1 = 0xd2511f53 * c[0], 0xcd9e8d57 * c[2]
            c = [p1 >> 32 ^ c[1] ^ k0, p1 & mask, p0 >> 32 ^ c[3] ^ k1, p0 & mask]
            k0, k1 = k0 + 0x9e3779b9 & mask, k1 + 0xbb67ae85 & mask
        yield from c
        block += 1


BOOTSTRAP = 6  # QNET_RANDOM_BOOTSTRAP


def bootstrap(t, by_cluster, resamples, seed):
    """AUCs of the resamples, by scikit-learn; units drawn by the unbiased multiply-and-reject of
    Lemire 2019, a sample with one class drawn again."""
    unit = np.unique(t[:, 3], return_inverse=True)[1] if by_cluster else np.arange(len(t))
    units = unit.max() + 1
    members = [np.flatnonzero(unit == u) for u in range(units)]
    areas = []
    for r in range(resamples):
        words = philox(seed, BOOTSTRAP, r)
        while True:
            drawn = []
            while len(drawn) < units:
                product = next(words) * int(units)
                if product & 0xffffffff >= 2 ** 32 % int(units):
                    drawn.append(product >> 32)
            s = t[np.concatenate([members[u] for u in drawn])]
            if 0 < s[:, 0].sum() < len(s):
                break
        areas.append(auc(s))
    return np.array(areas)


def box(v):
    """low q1 median q3 high mean std of qnet_boxplot."""
    return [*np.percentile(v, [2.5, 25, 50, 75, 97.5]), np.mean(v), np.std(v, ddof=1)]
