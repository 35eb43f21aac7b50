"""The data side of `make parity`: augmentation, evaluation, NIfTI and gzip of qnet.h, compared live
with the programs of tests/golden/*_oracle.py on more, larger and real inputs than the goldens hold.

    rows(build) yields (quantity, ours, theirs, error, tolerance)

build has the program parity/data (tests/parity/data.c). "ours" and "theirs" are the
numbers that differ most among those that the row stands for; "error" is in the row's own measure:
differences, or how many values differ where the tolerance is 0. Real anatomy is read from
../shared/data (or $QNET_DATA) when it is there."""
import glob, os, subprocess, sys, tempfile, zlib
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
import image_oracle, metrics_oracle, nifti_oracle
from image_oracle import formula


def note(text):
    print("parity_data: " + text, file=sys.stderr)


class Ours:
    """A C program, and a folder for the arrays that go to it and come back."""

    def __init__(self, build, program="data"):
        program = os.path.join(build, "parity", program)
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.folder = tempfile.TemporaryDirectory()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def put(self, name, array):
        with open(self.path(name), "wb") as f:
            f.write(array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes())
        return self.path(name)

    def get(self, name, dtype):
        return np.fromfile(self.path(name), dtype)

    def bytes(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def ask(self, *words):
        """The words after "ok". A refusal is an exception: nothing that is asked here may fail."""
        text = " ".join("%.17g" % w if isinstance(w, (float, np.floating)) else str(w) for w in words)
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if not answer or answer[0] != "ok":
            raise RuntimeError("%s: %s" % (text[:200], " ".join(answer) or "the program ended"))
        return answer[1:]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


class Worst:
    """Collects pairs of numbers; the row shows the pair that is worst by its measure."""

    def __init__(self, quantity, tolerance, relative=None):
        self.quantity, self.tolerance, self.relative = quantity, tolerance, relative
        self.pair, self.error, self.count = (0.0, 0.0), -1.0, 0

    def add(self, ours, theirs, scale=1.0):
        """scale: what an error is divided by; with `relative`, also max(|theirs|, relative)."""
        a, b = np.asarray(ours, float).ravel(), np.asarray(theirs, float).ravel()
        if a.shape != b.shape:
            raise ValueError("%s: %s numbers against %s" % (self.quantity, a.shape, b.shape))
        with np.errstate(invalid="ignore"):
            error = np.abs(a - b)
        error[(a == b) | (np.isnan(a) & np.isnan(b))] = 0
        error[np.isnan(error)] = np.inf
        error = error / np.broadcast_to(np.asarray(scale, float).ravel(), error.shape)
        if self.relative:
            error = error / np.maximum(np.abs(b), self.relative)
        self.count += error.size
        if error.size and error.max() > self.error:
            k = error.argmax()
            self.pair, self.error = (float(a[k]), float(b[k])), float(error[k])

    def row(self):
        if self.count == 0:
            raise ValueError(self.quantity + ": nothing was compared")
        return (self.quantity, self.pair[0], self.pair[1], self.error, self.tolerance)


class Differing(Worst):
    """How many values differ at all; NaN equals NaN."""

    def __init__(self, quantity):
        Worst.__init__(self, quantity, 0)
        self.error = 0

    def add(self, ours, theirs):
        a, b = np.asarray(ours).ravel(), np.asarray(theirs).ravel()
        if a.shape != b.shape:
            raise ValueError("%s: %s values against %s" % (self.quantity, a.shape, b.shape))
        wrong = np.flatnonzero((a != b) & ~((a != a) & (b != b)))
        self.count += a.size
        self.error += len(wrong)
        if a.size and a.dtype.kind != "U":
            k = wrong[0] if len(wrong) else np.nanargmax(np.where(np.isfinite(b), np.abs(b), -1))
            if len(wrong) or abs(b[k]) > abs(self.pair[1]):
                self.pair = (float(a[k]), float(b[k]))

    def row(self):
        q, a, b, error, tolerance = Worst.row(self)
        return ("%s (%d values)" % (q, self.count), a, b, float(error), tolerance)


def data_folder():
    for folder in (os.environ.get("QNET_DATA"), os.path.join(ROOT, "..", "shared", "data"),
                   os.path.join(ROOT, "..", "..", "shared", "data")):
        if folder and os.path.isdir(folder):
            return folder
    note("skipped: no real data (../shared/data or $QNET_DATA)")
    return None


# ---- images -------------------------------------------------------------------------------------

def slices(limit=6):
    """Real slices [h][w][3] of QSM, R2* and T1W, by nibabel, as they are."""
    import nibabel as nib
    folder, made = data_folder(), []
    for t1 in sorted(glob.glob(os.path.join(folder or "", "cohort16", "sub-*", "anat", "*_T1w.nii.gz")))[:3]:
        subject = os.path.basename(t1).split("_")[0]
        maps = os.path.join(folder, "cohort16", "derivatives", "maps", subject, "anat", subject)
        volumes = [nib.load(p).get_fdata() for p in
                   (maps + "_Chimap.nii.gz", maps + "_R2starmap.nii.gz", t1)]
        for z in (9, 13):
            made.append(np.stack([v[:, :, z].T for v in volumes], 2).astype(np.float32))
    return made[:limit]


def drawn_cases(count, sizes):
    """Random records over the whole of their ranges; sizes[k]: (h, w), or None for any."""
    made = []
    for k in range(count):
        u = formula(1000 + k, 40)
        h, w = sizes[k] if sizes else (32 + int(u[0] * 150), 32 + int(u[1] * 150))
        out = (h - int(u[2] * h / 3), w - int(u[3] * w / 3))
        case = dict(name="drawn %d" % k, h=h, w=w, out=out, hflip=int(u[4] < .5), vflip=int(u[5] < .5),
                    crop=(int(u[6] * (h - out[0])), int(u[7] * (w - out[1]))))
        if u[8] < .6:
            case["bc"] = (.8 + .4 * u[9], -.2 + .4 * u[10])
        if u[11] < .5:
            case["gamma"] = .8 + int(41 * u[12]) / 100
        if u[13] < .5:
            case["grid"] = (list(.7 + .6 * u[14:20]), list(.7 + .6 * u[20:26]))
        if u[26] < .6:
            case["affine"] = (-45 + 90 * u[27], .9 + .2 * u[28], *(-.0625 + .125 * u[29:31]))
        made.append(case)
    return made


def augmented(ours, img, case):
    bc, grid = case.get("bc", (1., 0.)), case.get("grid", ([1.] * 6, [1.] * 6))
    affine, crop = case.get("affine", (0., 1., 0., 0.)), case.get("crop", (0, 0))
    ours.ask("augment", ours.put("in", img), case["h"], case["w"], ours.path("out"), *case["out"],
             case.get("hflip", 0), case.get("vflip", 0), int("bc" in case), float(bc[0]), float(bc[1]),
             int("gamma" in case), float(case.get("gamma", 1)), int("grid" in case),
             *map(float, grid[0]), *map(float, grid[1]), int("affine" in case), *map(float, affine), *crop)
    return ours.get("out", np.float32).reshape(*case["out"], 3)


def image_rows(ours):
    row = Worst("stretch: percentiles of ties and zeros, numpy", 1e-6)
    for k in range(40):
        n, levels = 1 + int(3000 * formula(900 + k, 1)[0]), 2 + k
        img = (np.floor(formula(940 + k, 3 * n) * levels) - levels // 3).astype(np.float32).reshape(n, 3)
        img[0] = 1
        q = np.sort(np.round(100 * formula(980 + k, 2), 1)) if k else [0, 100]
        v = ours.ask("stretch", ours.put("in", img), q[0], q[1] + .1 * (k > 0), ours.path("out"))
        row.add(list(map(float, v)), [[np.percentile(img[img[:, c] != 0, c], p) for c in range(3)]
                                      for p in (q[0], q[1] + .1 * (k > 0))])
    yield row.row()
    cases = image_oracle.cases()
    pairs = [(image_oracle.image(c["h"], c["w"]), c) for c in cases]
    pairs += [(image_oracle.image(c["h"], c["w"]), c) for c in drawn_cases(40, None)]
    for c in drawn_cases(6, [(260, 262)] * 6):  # as stage 1 has them, crop included
        pairs.append((image_oracle.image(260, 262), dict(c, out=(224, 224), crop=(c["crop"][0] % 37, 17))))
    real = slices()
    if real:
        scaled = []
        limits, stretched = Worst("stretch: percentiles of real slices, numpy", 1e-6, 1e-3), \
            Worst("stretch: real slices", 1e-6)
        for k, img in enumerate(real):
            low, high = [(1, 99), (0, 100), (2.5, 90)][k % 3]
            v = list(map(float, ours.ask("stretch", ours.put("in", img), low, high, ours.path("out"))))
            theirs = np.array([[np.percentile(img[..., c][img[..., c] != 0].astype(float), q)
                                for c in range(3)] for q in (low, high)])
            limits.add(v, theirs)
            mapped = np.clip((img - theirs[0]) / (theirs[1] - theirs[0]), 0, 1)
            stretched.add(ours.get("out", np.float32), mapped)
            scaled.append(mapped.astype(np.float32))
        yield limits.row()
        yield stretched.row()
        real_cases = drawn_cases(30, [scaled[k % len(scaled)].shape[:2] for k in range(30)])
        real_pairs = [(scaled[k % len(scaled)], c) for k, c in enumerate(real_cases)]
    else:
        real_pairs = []
    sizes = [(7, 5), (64, 90), (21, 22), (224, 224), (43, 52)]
    noise = image_oracle.image(43, 52)
    try:
        versions, theirs, resized = image_oracle.run(pairs + real_pairs, [(noise, s) for s in sizes])
        note("images against " + versions)
    except subprocess.CalledProcessError:
        note("skipped: no Albumentations; exact coordinates only")
        versions, theirs, resized = "", [None] * len(pairs + real_pairs), []
    still = {"flips, crops": [], "brightness, contrast": [], "gamma": []}
    moved = {"noise": [], "real slices": []}
    for k, ((img, case), a) in enumerate(zip(pairs + real_pairs, theirs)):
        one = (case["name"], img, case, augmented(ours, img, case), image_oracle.exact(img, case), a)
        if image_oracle.interpolates(case):
            moved["noise" if k < len(pairs) else "real slices"].append(one)
        else:
            still["gamma" if "gamma" in case else "brightness, contrast" if "bc" in case
                  else "flips, crops"].append(one)
    for kind in ("flips, crops", "brightness, contrast"):
        row = Differing(kind + ": Albumentations")
        for name, img, case, o, e, a in still[kind]:
            if a is not None:
                row.add(o, a)
        if row.count:
            yield row.row()
    row = Worst("gamma: Albumentations (and with the above)", 6e-7)
    for name, img, case, o, e, a in still["gamma"]:
        row.add(o, e if a is None else a)
    yield row.row()
    for name, img, case, o, e, a in moved["noise"][:sum(map(image_oracle.interpolates, cases))]:
        yield Worst_of(name + ": exact coordinates, SciPy", 1e-5, o, e)
        if a is not None:
            yield Worst_of(name + ": OpenCV, share of 1/32 px", 1, o, a,
                           image_oracle.bound(img, case)[..., None])
    for kind, ones in moved.items():
        if not ones:
            continue
        near, far = Worst("all records, %s: exact coordinates, SciPy" % kind, 1e-5), \
            Worst("all records, %s: OpenCV, share of 1/32 px" % kind, 1)
        for name, img, case, o, e, a in ones:
            near.add(o, e)
            if a is not None:
                far.add(o, a, np.broadcast_to(image_oracle.bound(img, case)[..., None], o.shape))
        yield near.row()
        if far.count:
            yield far.row()
    try:
        import albumentations, cv2
    except ImportError:
        albumentations = None
    if albumentations and albumentations.__version__.startswith("1.0.") and int(cv2.__version__[0]) > 4:
        # OpenCV 5 does not round to 1/32, but its maps are float32: 1e-5 of a pixel near 180, on
        # slopes of up to 1 a pixel along both axes.
        row = Worst("all records: OpenCV %s, no rounding" % cv2.__version__, 3e-5)
        for ones in moved.values():
            for name, img, case, o, e, a in ones:
                if a is not None:
                    row.add(o, image_oracle.albumentations(img, case))
        yield row.row()
    row = Worst("resize: cv2.resize, INTER_LINEAR", 2e-6)
    for (h, w), a in zip(sizes, resized):
        ours.ask("resize", ours.put("in", noise), 43, 52, 3, ours.path("out"), h, w)
        row.add(ours.get("out", np.float32), a)
    if row.count:
        yield row.row()
    try:
        import torch
    except ImportError:
        note("skipped: no torch for resize")
        return
    row = Worst("resize: torch interpolate, float64", 1e-6)
    for h, w in sizes:
        ours.ask("resize", ours.put("in", noise), 43, 52, 3, ours.path("out"), h, w)
        t = torch.tensor(noise.astype(np.float64)).permute(2, 0, 1)[None]
        t = torch.nn.functional.interpolate(t, (h, w), mode="bilinear", align_corners=False)
        row.add(ours.get("out", np.float32), t[0].permute(1, 2, 0).numpy())
    yield row.row()


def Worst_of(quantity, tolerance, ours, theirs, scale=1.0):
    row = Worst(quantity, tolerance)
    row.add(ours, theirs, np.broadcast_to(scale, np.shape(ours)) if np.ndim(scale) else scale)
    return row.row()


# ---- evaluation ---------------------------------------------------------------------------------

def random_tables():
    """Labels and scores with heavy ties: 2 to 64 levels, 20 to 600 items, 5 to 95 % HH."""
    made = []
    for k in range(60):
        u = formula(2000 + 4 * k, 4)
        n, levels, share = 20 + int(580 * u[0] ** 2), 2 + int(62 * u[1] ** 3), .05 + .9 * u[2]
        label = (formula(2001 + 4 * k, n) < share).astype(float)
        label[:6] = [0, 1, 0, 1, 0, 1]
        a, b = formula(2002 + 4 * k, n), formula(2003 + 4 * k, n)
        s1 = np.floor((a + .5 * (u[3] - .3) * label) * levels)
        s2 = np.floor((.6 * a + .4 * b + .3 * label) * levels) / 3
        cluster = np.floor(b * n / 5)
        cluster[:6] = np.arange(6)  # a variance needs two clusters of each class
        made.append(np.stack([label, s1, s2, cluster, (s1 > levels / 2).astype(float)], 1))
    return made


NAMES = "auc 1,auc 2,variance 1,variance 2,covariance,standard error,z,p,interval 1 low,interval 1 high," \
        "interval 2 low,interval 2 high".split(",")


def asah():
    """{pair: table} of pROC's own data, read from the installed package; None without it. The data
    are part of a GPL package, so they stay there."""
    r = metrics_oracle.r_program(["show('y', as.numeric(aSAH$outcome == 'Poor'))", "show('s100b', aSAH$s100b)",
                                  "show('wfns', as.numeric(aSAH$wfns))", "show('ndka', aSAH$ndka)"])
    if r is None:
        return None
    made = {}
    for a, b in (("wfns", "s100b"), ("wfns", "ndka"), ("s100b", "ndka")):
        t = np.zeros((len(r["y"]), 5))
        t[:, 0], t[:, 1], t[:, 2] = r["y"], r[a], r[b]
        made[a + ", " + b] = t
    return made


def metrics_rows(ours):
    tables = [metrics_oracle.table(k) for k in range(len(metrics_oracle.SETS))] + random_tables()

    def ask(command, t, *words):
        return list(map(float, ours.ask(command, ours.put("table", t), *words)))
    counts, shares = Differing("confusion matrix: scikit-learn"), \
        Worst("accuracy ... F1: scikit-learn", 1e-12)
    areas, clustered = Worst("AUC with ties: scikit-learn", 1e-12), \
        Worst("clustered variances, relative: Obuchowski, pair by pair", 1e-10, 1e-6)
    curves = [Worst("ROC %s: scikit-learn" % n, 1e-12) for n in
              ("false positive rates", "true positive rates", "thresholds")]
    for t in tables:
        o, s = ask("rates", t), metrics_oracle.rates(t)
        counts.add(o[:4], np.array(s[:4], float))
        shares.add(o[4:12], s[4:])
        o, c = ask("roc", t, ours.path("curve")), metrics_oracle.curve(t)
        areas.add(o, metrics_oracle.auc(t))
        for k, p in enumerate(ours.get("curve", np.float64).reshape(-1, 3).T):
            curves[k].add(p, c[:, k])
        clustered.add(ask("delong", t, 1)[:5], metrics_oracle.clustered(t))
    for row in (counts, shares, *curves, areas, clustered):
        yield row.row()

    few = tables[:3] + tables[20:22]
    for by in (0, 1):
        row, quantiles = [Worst("bootstrap by %s, %s: %s" % (("item", "cluster")[by], *w), 1e-12) for w in
                          (("AUC of each resample", "scikit-learn"), ("percentiles, mean, std", "numpy"))]
        for k, t in enumerate(few):
            o = ask("bootstrap", t, by, 200, 1234567890123 + k, ours.path("areas"))
            theirs = metrics_oracle.bootstrap(t, by, 200, 1234567890123 + k)
            row.add(ours.get("areas", np.float64), theirs)
            quantiles.add(o, metrics_oracle.box(theirs))
        yield row.row()
        yield quantiles.row()

    from scipy.stats import norm
    # The rounding of z turns up as z^2 eps of the value: 37^2 2.2e-16 = 3e-13.
    cdf, ppf = Worst("normal cdf, relative: SciPy", 3e-13, 1e-300), Worst("normal quantile: SciPy", 1e-13, 1.)
    for z in np.linspace(-37, 8, 181):
        cdf.add(list(map(float, ours.ask("normal", z)))[0], norm.cdf(z))
    for p in np.concatenate([10. ** -np.arange(1, 300, 7), np.linspace(.001, .999, 101)]):
        ppf.add(list(map(float, ours.ask("normal", p)))[1], norm.ppf(p))
    yield cdf.row()
    yield ppf.row()

    pairs = asah()
    if pairs is None:
        note("skipped: no Rscript with pROC")
        return
    program = [metrics_oracle.r_delong("a%d" % k, t) for k, t in enumerate(pairs.values())]
    for k, t in enumerate(tables):
        tp, fn, tn, fp = metrics_oracle.rates(t)[:4]
        program += [metrics_oracle.r_delong("d%d" % k, t)]
        program += [metrics_oracle.r_wilson("w%d.%d" % (k, j), a, b) for j, (a, b) in
                    enumerate(((tp + tn, len(t)), (tp, tp + fn), (tn, tn + fp)))]
    first = list(pairs.values())[0]
    u = formula(2990, 20000)
    large = np.stack([u < .45, np.floor((formula(2991, u.size) + .1 * (u < .45)) * 16),
                      np.floor((formula(2991, u.size) + .3 * formula(2992, u.size) + .1 * (u < .45)) * 9),
                      np.zeros(u.size), np.zeros(u.size)], 1).astype(float)
    program += [metrics_oracle.r_delong("large", large), "set.seed(1)", "r <- roc(%s, %s, levels = c(0, 1), direction = '<', quiet = TRUE)" %
                (metrics_oracle._vector(first[:, 0]), metrics_oracle._vector(first[:, 1])),
                "show('boot', ci.auc(r, method = 'bootstrap', boot.n = 4000, boot.stratified = FALSE, "
                "progress = 'none'))"]
    r = metrics_oracle.r_program(program)
    for k, (name, t) in enumerate(pairs.items()):
        for what, a, b in zip(NAMES, ask("delong", t, 0), r["a%d" % k]):
            yield ("aSAH %s, %s: pROC" % (name, what), a, b, abs(a - b), 1e-10)
    delong = [Worst("heavy ties, %s: pROC" % n, 1e-10) for n in NAMES]
    variances = Worst("heavy ties, variances and covariance, relative: pROC", 1e-10, 1e-6)
    wilson = Worst("Wilson intervals: R prop.test", 1e-12)
    for k, one in enumerate(tables):
        o = ask("delong", one, 0)
        for row, a, b in zip(delong, o, r["d%d" % k]):
            row.add(a, b)
        variances.add(o[2:5], r["d%d" % k][2:5])
        wilson.add(ask("rates", one)[12:], r["w%d.0" % k] + r["w%d.1" % k] + r["w%d.2" % k])
    big = Worst("20000 items, 16 and 9 levels, all of DeLong, relative: pROC", 1e-10, 1e-6)
    big.add(ask("delong", large, 0), r["large"])
    for row in (*delong, variances, big, wilson):
        yield row.row()
    # Other random numbers: percentiles of 4000 resamples lie within 5 standard errors, which at the
    # 2.5 % end is sqrt(.025 .975 / 4000) / density, about .042 standard deviations, for either.
    o = ask("bootstrap", first, 0, 4000, 1, ours.path("areas"))
    for what, a, b in (("2.5 %", o[0], r["boot"][0]), ("97.5 %", o[4], r["boot"][2])):
        yield ("aSAH wfns, bootstrap %s end: pROC" % what, a, b, abs(a - b), 5 * .042 * 2 ** .5 * o[6])


# ---- volumes ------------------------------------------------------------------------------------

def volume(ours, path):
    """shape, affine, orientation, source, voxels of qnet_nifti_load."""
    w = ours.ask("nifti", path, ours.path("voxels"))
    return (tuple(map(int, w[:3])), np.vstack([np.reshape(list(map(float, w[8:20])), (3, 4)), [0, 0, 0, 1]]),
            w[4], int(w[3]), ours.get("voxels", np.float32), np.array(list(map(float, w[5:8]))))


def nifti_rows(ours):
    import nibabel as nib
    axes, places, spacing = Differing("orientation, source, size: nibabel"), \
        Worst("affine, mm: nibabel", 1e-6), Worst("spacing, mm: nibabel", 1e-6)

    def compare(row, path, data):
        shape, affine, codes, source, v = nifti_oracle.read(data)
        o = volume(ours, path)
        row.add(o[4].astype(np.float64), v.astype(np.float64))
        axes.add(np.array([*map(ord, o[2]), o[3], *o[0]], float),
                 np.array([*map(ord, codes), source, *shape], float))
        places.add(o[1], affine)
        spacing.add(o[5], nib.affines.voxel_sizes(affine))
    for k, dtype in enumerate(nifti_oracle.TYPES):
        for big in (0, 1):
            row = Differing("NIfTI %s, %s-endian: nibabel" % (np.dtype(dtype).name, ("little", "big")[big]))
            for kind in range(len(nifti_oracle.AFFINES)):
                for j, scale in enumerate(nifti_oracle.SCALES):
                    seed = 3000 + ((k * 2 + big) * 8 + kind) * 6 + j
                    data = nifti_oracle.pack(dtype, big, (5, 4, 3), scale, kind, seed % 17,
                                             formula(seed, 120), b"words" * (seed % 5))
                    name = "a.nii" if seed % 3 else "a.nii.gz"
                    path = ours.put(name, data if seed % 3 else zlib_gzip(data, seed % 10))
                    compare(row, path, data)
            yield row.row()
    row = Differing("NIfTI oddities (extensions, 2-D, 4-D of one): nibabel")
    for name, data in nifti_oracle.files(formula):
        compare(row, ours.put("a.nii", data), data)
    yield row.row()
    # Half turns, and what float32 makes of their quaternions: b^2 + c^2 + d^2 is 1 or a little off.
    turns = Worst("qforms, 600 rotations, most near half a turn: nibabel", 1e-6)
    for k in range(600):
        u = formula(3900 + k, 8)
        header = nib.Nifti1Header()
        header.set_data_shape((1, 1, 1))
        header.set_data_dtype(np.uint8)
        axis, angle = u[:3] - .5, np.pi - 10 ** (1 - 9 * u[3])
        header["pixdim"][:4] = [1 - 2 * (k % 2), *(.5 + 2 * u[4:7])]
        header["qform_code"] = 1
        q = axis / np.linalg.norm(axis) * np.sin(angle / 2)
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = q
        header["qoffset_x"], header["vox_offset"] = -80, 352
        data = header.binaryblock + bytes(5)
        turns.add(volume(ours, ours.put("a.nii", data))[1], nifti_oracle.read(data)[1])
    yield turns.row()
    units = Worst("affines in metres and microns: nibabel, times 1000 and .001", 1e-6)
    for k, (unit, mm) in enumerate((("meter", 1000), ("micron", .001), ("mm", 1), ("unknown", 1))):
        header = nib.Nifti1Header()
        header.set_data_shape((1, 1, 1))
        header.set_data_dtype(np.uint8)
        header["vox_offset"] = 352
        nifti_oracle.place(header, k % 2, k)
        header.set_xyzt_units(unit)
        data = header.binaryblock + bytes(5)
        units.add(volume(ours, ours.put("a.nii", data))[1][:3], nifti_oracle.read(data)[1][:3] * mm, mm)
    yield units.row()
    # As nibabel's own save has it, on the way of a user: from an array and an affine.
    row = Differing("nibabel.save of arrays, .nii and .nii.gz")
    for k in range(24):
        u, affine = formula(4000 + k, 60), np.eye(4)
        affine[:3] = np.float32((formula(4100 + k, 12) - .5).reshape(3, 4) * [4, 4, 4, 200])
        dtype = nifti_oracle.TYPES[k % 10]
        image = nib.Nifti1Image(nifti_oracle.stored(dtype, (5, 3, 2), u), affine, dtype=dtype)
        path = ours.path("b.nii" + (".gz" if k % 2 else ""))
        nib.save(image, path)
        with (__import__("gzip").open if k % 2 else open)(path, "rb") as f:
            compare(row, path, f.read())
    yield row.row()
    folder = data_folder()
    if folder:
        row = Differing("real anatomy, every voxel: nibabel")
        for path in sorted(glob.glob(os.path.join(folder, "t1", "*.nii*")) +
                           glob.glob(os.path.join(folder, "cohort16", "**", "*.nii.gz"), recursive=True)):
            if "cohort16" in path and not any(s in path for s in ("sub-01", "sub-07", "sub-16")):
                continue
            with (__import__("gzip").open if path.endswith("gz") else open)(path, "rb") as f:
                compare(row, path, f.read())
        yield row.row()
    for one in (axes, places, spacing):
        yield one.row()

    # And back: our files, read by nibabel.
    voxels, sform = Differing("written by us, voxels: nibabel"), Worst("written by us, sform: nibabel", 1e-6)
    for k, slope in enumerate((0., 1., .5, .0009765625)):
        for j in range(8):
            u = formula(5000 + 8 * k + j, 200)
            v = np.floor(-90 + 181 * u[:60])
            v = (v * slope if slope else v + u[60:120]).astype(np.float32)
            header = nib.Nifti1Header()
            header.set_data_shape((5, 4, 3))
            nifti_oracle.place(header, 0 if j % 2 else 1 + j // 2 % 2, j + k)
            affine = np.float32(header.get_best_affine()).astype(float)
            path = ours.path("c.nii" + (".gz" if j > 3 else ""))
            ours.ask("save", ours.put("in", v), 5, 4, 3, *affine[:3].ravel(), slope, path)
            image = nib.load(path)
            assert image.header.endianness == "<" and image.get_data_dtype() == ("int16" if slope else "float32")
            assert image.header["qform_code"] == 0
            voxels.add(image.get_fdata(dtype=np.float64).astype(np.float32).ravel(order="F"), v)
            sform.add(image.get_sform(), affine)
    for one in (voxels, sform):
        yield one.row()


def zlib_gzip(data, level):
    return nifti_oracle._member(data, nifti_oracle._deflate(data, level))


def gzip_rows(ours):
    """Every compressor on three files; then our own, unpacked by zlib."""
    x, y, z = np.meshgrid(np.arange(96), np.arange(80), np.arange(20), indexing="ij")
    u = formula(6000, x.size).reshape(x.shape)
    smooth = (900 * np.sin(x / 9) * np.cos(y / 7 + z / 5) + 40 * u) * ((x - 48) ** 2 + (y - 40) ** 2 < 1400)
    noise = (formula(6001, 300000) * 256).astype(np.uint8).tobytes()
    payloads = [smooth.astype("<i2").tobytes(order="F"), noise, b"", b"a", bytes(70000) + b"end" * 30000]
    folder = data_folder()
    if folder:
        with open(os.path.join(folder, "t1", "siemens_tfl.nii"), "rb") as f:
            payloads.append(f.read(1 << 20))
    sizes = {}
    for data in payloads:
        for name, packed in nifti_oracle.compressed(data).items():
            ours.ask("gunzip", ours.put("packed", packed), ours.path("unpacked"))
            back = ours.bytes("unpacked")
            a = sizes.setdefault(name, [0, 0, 0])
            a[0] += len(back)
            a[1] += len(data)
            a[2] += back != data
    for name, (a, b, wrong) in sizes.items():
        yield ("gunzip, bytes: " + name, float(a), float(b), float(wrong), 0)
    made = []
    for data in payloads:
        ours.ask("gzip", ours.put("plain", data), ours.path("packed"))
        made.append(ours.bytes("packed"))
    for name, back in nifti_oracle.decompressed(made).items():
        wrong = sum(a != b for a, b in zip(back, payloads))
        yield ("gzip by us, bytes: " + name, float(sum(map(len, payloads))), float(sum(map(len, back))),
               float(wrong), 0)
    # A damaged file must be refused by both, or unpacked to the same bytes by both (there are header
    # bits that mean nothing).
    plain, accepted, wrong, count = payloads[0][80000:83000], [0, 0], 0, 0
    everything = nifti_oracle.compressed(plain)
    for name in ("zlib level 9", "zlib fixed codes", "zlib stored", "all header fields", "libdeflate 12"):
        packed = everything.get(name, b"")
        for bit in [*range(0, min(8 * len(packed), 240), 3), *range(240, 8 * len(packed), 13)]:
            bad = bytearray(packed)
            bad[bit >> 3] ^= 1 << (bit & 7)
            theirs = nifti_oracle.zlib_member(bytes(bad))
            try:
                ours.ask("gunzip", ours.put("packed", bytes(bad)), ours.path("unpacked"))
                mine = ours.bytes("unpacked")
            except RuntimeError:
                mine = None
            count += 1
            wrong += mine != theirs
            accepted[0] += mine is not None
            accepted[1] += theirs is not None
    yield ("gunzip, one bit flipped, accepted (%d files): zlib" % count, *map(float, accepted), float(wrong), 0)


def rows(build):
    ours = Ours(build)
    try:
        for part in (image_rows, metrics_rows, nifti_rows, gzip_rows):
            try:
                yield from part(ours)
            except ImportError as e:
                note("skipped: the rest of %s: %s" % (part.__name__, e))
    finally:
        ours.close()
