"""From echoes to maps by NumPy, SciPy and scikit-image: the other side of the maps_... rows of
bench/peers.py. The steps and formulas are those of API 12, written as one would write them with
these packages: kernels are made once for all echoes, transforms are real ones of padded sizes that
are quick (scipy.fft, all threads), echoes are unwrapped in parallel. PRECISION is float32 or
float64, that of the transforms.

Reads one command a line, answers one line of JSON, as bench/ours.c does.

    hello
    maps_open DATA                    reads all echoes and the true mask of a folder of echoes
    maps_unwrap ROUNDS PRECISION      seconds; values: see the functions
    maps_background ROUNDS PRECISION
    maps_invert ROUNDS PRECISION
    maps_r2star ROUNDS PRECISION
    maps_chain ROUNDS PRECISION       all of them: the paper's mode, with the true mask
    maps_brain ROUNDS PRECISION       brainextractor's BET; values: Dice with the true mask
    maps_fft ROUNDS PRECISION         one volume to its half spectrum and back, all threads
    memory                            values: resident bytes now and at their peak

As a program that shows how near the maps are to the truth: maps_peers.py truth DATA.
"""
import contextlib
import glob
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import scipy.fft
import scipy.ndimage

THREADS = int(os.environ.get("PEERS_THREADS", "2"))
GAMMA = 42.577478518e6  # Hz/T
now = time.process_time if os.environ.get("PEERS_CLOCK") == "processor" else time.perf_counter


class Echoes:
    """What a folder holds: magnitude and phase [echoes] as [x][y][z], seconds, tesla, affine."""

    def __init__(self, data, flip=""):
        import nibabel
        at = glob.glob(os.path.join(data, "sub-*", "anat"))[0]
        names = sorted(glob.glob(os.path.join(at, "*%s*part-mag*.nii*" % flip)))
        first = nibabel.load(names[0])
        self.affine = first.affine
        self.spacing = np.sqrt((first.affine[:3, :3] ** 2).sum(0))
        self.magnitude, self.phase, self.time = [], [], []
        for name in names:
            side = json.load(open(name.split(".nii")[0] + ".json"))
            self.time.append(side["EchoTime"])
            self.field_strength = side["MagneticFieldStrength"]
            self.sign = -1 if side["Manufacturer"].startswith("GE") else 1
            for kind, to in (("mag", self.magnitude), ("phase", self.phase)):
                volume = nibabel.load(name.replace("part-mag", "part-" + kind))
                to.append(np.asarray(volume.dataobj, dtype=np.float32))
        self.time = np.array(self.time)
        self.truth = {os.path.basename(n).split(".")[0].split("sub-01_")[-1]:
                      np.asarray(nibabel.load(n).dataobj, dtype=np.float32) for n in
                      glob.glob(os.path.join(data, "derivatives/truth/*/anat/*.nii*"))}
        self.mask = self.truth["desc-brain_mask"] > 0


def unwrap(echoes, mask):
    """[echoes] of masked 3DSRNCP, made consistent as in room >>maps of qnet.h: components of the
    first two echoes, then voxels, by whole turns from the line through a smooth offset."""
    from skimage.restoration import unwrap_phase

    def one(phase):
        return unwrap_phase(np.ma.array(phase, mask=~mask), rng=1).filled(0).astype(np.float32)

    with ThreadPoolExecutor(THREADS) as pool:
        out = [u[mask] for u in pool.map(one, echoes.phase)]
    turn, time = np.float32(2 * np.pi), echoes.time
    labels, count = scipy.ndimage.label(mask)
    labels = labels[mask]
    for c in range(1, count + 1):
        inside = labels == c if count > 1 else slice(None)
        out[0][inside] -= turn * np.rint(np.median(out[0][inside]) / turn)
        distance = out[1][inside] - out[0][inside] * np.float32(time[1] / time[0])
        out[1][inside] -= turn * np.rint(np.median(distance) / turn)
    at = np.concatenate([[np.ones(mask.sum())], [
        2 * x / max(n - 1, 1) - 1 for x, n in zip(np.nonzero(mask), mask.shape)]])
    terms = np.array([at[i] * at[j] for i in range(4) for j in range(i, 4)])
    offset = out[0] - time[0] / (time[1] - time[0]) * (out[1] - out[0])
    weighted = terms * echoes.magnitude[0][mask] ** 2
    offset = np.linalg.solve(weighted @ terms.T, weighted @ offset) @ terms
    for e in range(1, len(out)):
        line = offset + (out[e - 1] - offset) * (time[e] / time[e - 1])
        out[e] += turn * np.rint((line - out[e]) / turn).astype(np.float32)
    whole = []
    for u in out:
        whole.append(np.zeros(mask.shape, np.float32))
        whole[-1][mask] = u
    return whole


def quick(n):
    """The smallest size from n on whose prime factors are 2, 3, 5 and 7."""
    rest = n
    for p in (2, 3, 5, 7):
        while rest % p == 0:
            rest //= p
    return n if rest == 1 else quick(n + 1)


class Grid:
    """The padded grid of a volume and what depends on it alone."""

    def __init__(self, echoes, precision, radius=6.0, alone=False):
        shape = echoes.mask.shape
        self.shape, self.real = shape, np.dtype(precision)
        reach = np.floor(radius / echoes.spacing).astype(int)
        # Padded by the sphere, as in the chain; the inversion alone by a quarter of each side.
        pad = [(n + 3) // 4 for n in shape] if alone else reach
        self.size = tuple(quick(int(n + r)) for n, r in zip(shape, pad))
        # The sphere, its sum 1, around voxel 0.
        at = np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij")
        inside = sum((a * s) ** 2 for a, s in zip(at, echoes.spacing)) <= radius ** 2
        self.voxels = inside.sum()
        sphere = np.zeros(self.size, self.real)
        sphere[tuple(a[inside] % n for a, n in zip(at, self.size))] = 1 / self.voxels
        self.sphere = self.forward(sphere).real
        # The dipole kernel; B0 along world z.
        b = echoes.affine[2, :3] / echoes.spacing
        b = b / np.sqrt((b ** 2).sum())
        k = np.meshgrid(*[scipy.fft.fftfreq(n, s).astype(self.real) for n, s in
                          zip(self.size[:2], echoes.spacing)],
                        scipy.fft.rfftfreq(self.size[2], echoes.spacing[2]).astype(self.real),
                        indexing="ij", sparse=True)
        k2 = sum(a ** 2 for a in k)
        k2[0, 0, 0] = 1
        self.dipole = (1 / 3 - sum(a * c for a, c in zip(k, b)) ** 2 / k2).astype(self.real)
        self.dipole[0, 0, 0] = 0

    def forward(self, x):
        return scipy.fft.rfftn(x.astype(self.real, copy=False), self.size, workers=THREADS)

    def inverse(self, x):
        n = self.shape
        return scipy.fft.irfftn(x, self.size, workers=THREADS)[:n[0], :n[1], :n[2]]


def erode(grid, mask):
    return mask & (grid.inverse(grid.forward(mask) * grid.sphere) > 1 - .5 / grid.voxels)


def background(grid, field, eroded, threshold=.05):
    high = 1 - grid.sphere
    f1 = grid.inverse(grid.forward(field) * high) * eroded
    keep = np.abs(high) >= threshold
    back = np.divide(1, high, out=np.zeros_like(high), where=keep)
    return grid.inverse(grid.forward(f1) * back) * eroded


def invert(grid, local, mask, threshold=.1, least=.1, iterations=4):
    d = grid.dipole
    small = np.abs(d) <= threshold
    back = np.where(small, np.sign(d) / threshold, 1 / np.where(small, 1, d))
    spectrum = grid.forward(local) * back.astype(grid.real)
    chi = grid.inverse(spectrum)
    for _ in range(iterations):
        vessels = grid.forward(np.where((chi > least) & mask, chi, 0))
        spectrum = np.where(small, vessels, spectrum)
        chi = grid.inverse(spectrum)
    chi = chi * mask
    return np.where(mask, chi - chi[mask].mean(), 0)


def r2star(echoes, mask):
    s = np.stack([m[mask] for m in echoes.magnitude]).astype(np.float64)
    dt = echoes.time[1] - echoes.time[0]
    d, a = s[:-2] - s[2:], s[:-2] + 2 * s[1:-1]
    total = s[:-2] + 4 * s[1:-1] + s[2:]
    bottom = (total * a).sum(0)
    out = np.zeros(mask.shape, np.float32)
    out[mask] = np.clip(3 / dt * (d * a).sum(0) / np.where(bottom > 0, bottom, 1), 0,
                        20 / echoes.time[0])
    return out


def field_of(echoes, unwrapped, k):
    """ppm of the unwrapped phase of echo k."""
    return unwrapped * (echoes.sign / (2 * np.pi * GAMMA * 1e-6 * echoes.field_strength *
                                       echoes.time[k]))


def chain(echoes, mask, precision):
    """QSM, the mask in which it is known, R2*."""
    unwrapped = unwrap(echoes, mask)
    grid = Grid(echoes, precision)
    eroded = erode(grid, mask)
    total, weights = np.zeros(mask.shape), np.zeros(mask.shape)
    for k in range(1, len(unwrapped)):
        local = background(grid, field_of(echoes, unwrapped[k], k), eroded)
        weight = (echoes.time[k] * echoes.magnitude[k]) ** 2
        total += weight * invert(grid, local, eroded)
        weights += weight
    qsm = np.where(eroded, total / np.where(weights > 0, weights, 1), 0)
    qsm[eroded] -= qsm[eroded].mean()
    return qsm, eroded, r2star(echoes, mask)


# ---- how near to the truth --------------------------------------------------------------------

def compare(x, t, mask):
    """Correlation and NRMSE in per cent, both less their means."""
    x, t = x[mask] - x[mask].mean(), t[mask] - t[mask].mean()
    return float((x * t).sum() / np.sqrt((x * x).sum() * (t * t).sum())), \
        float(100 * np.sqrt(((x - t) ** 2).sum() / (t * t).sum()))


def show_truth(data):
    flip = "flip-1" if glob.glob(os.path.join(data, "sub-*/anat/*flip-1*")) else ""
    echoes = Echoes(data, flip)
    qsm, eroded, rate = chain(echoes, echoes.mask, "float64")
    print("correlation %.4f, NRMSE %.2f %%, R2* median error %.3f 1/s"
          % (compare(qsm, echoes.truth["Chimap"], eroded) +
             (np.median(np.abs(rate - echoes.truth["R2starmap"])[echoes.mask]),)))
    for label, name in enumerate("WM GM CSF caudate putamen pallidum thalamus".split(), 1):
        inside = eroded & (echoes.truth["dseg"] == label)
        print("%-9s %6d voxels  QSM %7.4f  truth %7.4f" % (
            name, inside.sum(), qsm[inside].mean() if inside.any() else np.nan,
            (echoes.truth["Chimap"][inside] - echoes.truth["Chimap"][eroded].mean()).mean()))


# ---- the rows of peers.py ---------------------------------------------------------------------

state = {}


def timed(rounds, work):
    seconds = []
    for _ in range(rounds):
        start = now()
        result = work()
        seconds.append(now() - start)
    return seconds, result


def numbers(x, mask):
    """What both sides compare of a map: mean and standard deviation in the mask."""
    v = x[mask].astype(np.float64)
    return [float(v.mean()), float(v.std())]


def maps_open(data):
    state["echoes"] = Echoes(data)
    return [], []


def maps_unwrap(rounds, precision):
    e = state["echoes"]
    seconds, u = timed(rounds, lambda: unwrap(e, e.mask))
    return seconds, [n for x in u for n in numbers(x, e.mask)]


def maps_background(rounds, precision):
    e = state["echoes"]
    field = field_of(e, unwrap(e, e.mask)[1], 1)

    def work():
        grid = Grid(e, precision)
        eroded = erode(grid, e.mask)
        return background(grid, field, eroded), eroded

    seconds, (local, eroded) = timed(rounds, work)
    state["local"], state["eroded"] = local, eroded
    return seconds, [float(eroded.sum())] + numbers(local, eroded)


def maps_invert(rounds, precision):
    e = state["echoes"]
    if "local" not in state:
        maps_background(1, precision)
    seconds, chi = timed(rounds, lambda: invert(Grid(e, precision, alone=True), state["local"],
                                                state["eroded"]))
    return seconds, numbers(chi, state["eroded"])


def maps_r2star(rounds, precision):
    e = state["echoes"]
    seconds, rate = timed(rounds, lambda: r2star(e, e.mask))
    return seconds, numbers(rate, e.mask)


def maps_chain(rounds, precision):
    e = state["echoes"]
    seconds, (qsm, eroded, rate) = timed(rounds, lambda: chain(e, e.mask, precision))
    return seconds, [float(eroded.sum())] + numbers(qsm, eroded) + numbers(rate, e.mask)


def maps_brain(rounds, precision):
    import nibabel
    from brainextractor import BrainExtractor
    e = state["echoes"]

    def work():
        with contextlib.redirect_stdout(sys.stderr):
            bet = BrainExtractor(img=nibabel.Nifti1Image(e.magnitude[1], e.affine))
            bet.run()
        return bet.compute_mask() > 0

    seconds, mask = timed(rounds, work)
    return seconds, [float(2 * (mask & e.mask).sum() / (mask.sum() + e.mask.sum()))]


def maps_fft(rounds, precision):
    e = state["echoes"]
    x = np.ascontiguousarray(e.magnitude[0].T, dtype=precision)

    def work():
        y = scipy.fft.rfftn(x, workers=THREADS)
        return y, scipy.fft.irfftn(y, x.shape, workers=THREADS)

    seconds, (y, back) = timed(rounds, work)
    return seconds, [float(abs(y.astype(np.complex128)).mean())] + numbers(back.T, e.mask)


def memory():
    found = {}
    for line in open("/proc/self/status"):
        if line.startswith(("VmRSS", "VmHWM")):
            found[line[:5]] = float(line.split()[1]) * 1024
    return [], [found["VmRSS"], found["VmHWM"]]


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "truth":
        return show_truth(sys.argv[2])
    work = {f.__name__: f for f in (maps_open, maps_unwrap, maps_background, maps_invert,
                                    maps_r2star, maps_chain, maps_brain, maps_fft,
                                    memory)}
    for line in sys.stdin:
        word = line.split()
        if not word:
            continue
        text, seconds, values = "", [], []
        try:
            if word[0] == "hello":
                import skimage
                text = "numpy %s, scipy %s, scikit-image %s" % (
                    np.__version__, scipy.__version__, skimage.__version__)
            elif word[0] == "free":
                state.clear()
            else:
                seconds, values = work[word[0]](*[int(w) if w.isdigit() else w for w in word[1:]])
        except Exception as e:  # told to the other side, which leaves this setting out
            print(json.dumps({"error": "%s: %s" % (type(e).__name__, str(e)[:300])}), flush=True)
            continue
        print(json.dumps({"text": text, "seconds": seconds, "values": values}), flush=True)


if __name__ == "__main__":
    main()
