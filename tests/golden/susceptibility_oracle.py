"""The formulas of >>susceptibility in NumPy, float64, for make_maps_susceptibility.py (the committed
numbers) and tests/parity (the live comparison). Arrays are [z][y][x]; spacing and b are (x, y, z)."""
import itertools
import numpy as np
from image_oracle import formula


def bits(i, n):
    """formula_bits of formula.h for j = 0..n-1."""
    m = np.uint64(0xffffffff)
    h = ((np.uint64(i * 1000003) + np.arange(n, dtype=np.uint64)) & m) * np.uint64(2654435761) & m
    h ^= h >> np.uint64(15)
    h = h * np.uint64(2246822519) & m
    return h ^ (h >> np.uint64(13))


def sketch(x, k):
    """golden_sketch of distance.h: k sums."""
    x = np.ascontiguousarray(x, np.float64).reshape(-1)
    b = bits(777, x.size)
    bucket = ((b >> np.uint64(16)) * np.uint64(k) >> np.uint64(16)).astype(np.int64)
    return np.bincount(bucket, weights=np.where(b & np.uint64(1), -x, x), minlength=k)


def good_size(n):
    while True:
        rest = n
        for p in (2, 3, 5, 7):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return n
        n += 1


def direction(affine):
    """Of the main field, along z of the world, in the axes of a volume."""
    a = np.asarray(affine, float)[:3, :3]
    u, _, v = np.linalg.svd(a / np.linalg.norm(a, axis=0))
    return (u @ v)[2]


def dipole(size, spacing, b):
    """D on the half spectrum of an array of this [z, y, x] size; at the middle of an even axis the
    mean of D for both signs of that frequency."""
    def of(signs):
        k = [np.array(f) for f in (z, y, x)]
        for axis, sign in enumerate(signs):
            if size[axis] % 2 == 0:
                middle = [slice(None)] * 3
                middle[axis] = size[axis] // 2
                k[axis][tuple(middle)] = sign * np.abs(k[axis][tuple(middle)])
        return 1 / 3 - (k[2] * b[0] + k[1] * b[1] + k[0] * b[2]) ** 2 / square

    z, y, x = [f(n, d) for f, n, d in zip((np.fft.fftfreq, np.fft.fftfreq, np.fft.rfftfreq), size,
                                          spacing[::-1])]
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    square = x * x + y * y + z * z
    square[0, 0, 0] = 1
    d = np.mean([of(signs) for signs in itertools.product((1, -1), repeat=3)], 0)
    d[0, 0, 0] = 0
    d[np.abs(d) < 1e-12] = 0  # its sign would be rounding's
    return d


def irfftn(x, size):
    return np.fft.irfftn(x, size, axes=(0, 1, 2))


def padded(x, size):
    out = np.zeros(size)
    out[tuple(slice(n) for n in x.shape)] = x
    return out


def cut(x, shape):
    return x[tuple(slice(n) for n in shape)]


def field(chi, spacing, b):
    size = [good_size(2 * n) for n in chi.shape]
    f = irfftn(np.fft.rfftn(padded(chi, size)) * dipole(size, spacing, b), size)
    return cut(f, chi.shape)


def reach(radius, unit):
    return [int(radius / u + 1e-9) for u in unit]


def sphere(size, radius, unit):
    """Transform of a sphere of sum 1 around [0, 0, 0]; unit: (x, y, z)."""
    z, y, x = np.meshgrid(*[np.minimum(np.arange(n), n - np.arange(n)) * u
                            for n, u in zip(size, unit[::-1])], indexing="ij")
    s = (x * x + y * y + z * z <= radius * radius * (1 + 1e-9)).astype(float)
    return np.fft.rfftn(s / s.sum()).real


def sharp(f, mask, spacing, radius=6., threshold=.05, voxels=False, variable=False):
    """Local field and eroded mask. Schweser et al. 2011; variable: Wu et al. 2012."""
    unit = (1, 1, 1) if voxels else spacing
    size = [good_size(n + r) for n, r in zip(f.shape, reach(radius, unit)[::-1])]
    step = max(unit)
    count = max(int(radius / step + 1e-9), 1) if variable else 1
    m, g = padded(mask, size), padded(f * mask, size)
    fits, f1 = np.zeros(size), np.zeros(size)
    for i in range(count):
        s = sphere(size, radius - (count - 1 - i) * step, unit)
        voxels_in = 1 / irfftn(s, size)[0, 0, 0]
        inside = (irfftn(np.fft.rfftn(m) * s, size) > 1 - .5 / voxels_in) & (m > 0)
        c = g - irfftn(np.fft.rfftn(g) * s, size)
        f1[inside], fits[inside] = c[inside], 1
    c = 1 - s
    use = np.abs(c) >= threshold
    local = fits * irfftn(np.where(use, np.fft.rfftn(f1) / np.where(use, c, 1), 0), size)
    return cut(local, f.shape), cut(fits, f.shape)


def window(size, part):
    """Tukey's along each axis, on the half spectrum of an array of this [z, y, x] size."""
    def w(f):
        rise = np.clip((2 * np.abs(f) - 1 + part) / max(part, 1e-9), 0, 1)
        return (1 + np.cos(np.pi * rise)) / 2

    z, y, x = [w(f(n)) for f, n in zip((np.fft.fftfreq, np.fft.fftfreq, np.fft.rfftfreq), size)]
    return z[:, None, None] * y[:, None] * x


def invert(local, mask, spacing, b, threshold=.1, strong=.1, iterations=4, mean_zero=True, roll_off=0.):
    """Shmueli et al. 2009 and, with iterations, Tang et al. 2013."""
    size = [good_size(n + (n + 3) // 4) for n in local.shape]
    d, m = dipole(size, spacing, b), padded(mask, size)
    large = np.abs(d) > threshold
    x = np.fft.rfftn(padded(local * mask, size)) * np.where(large, 1 / np.where(large, d, 1),
                                                           np.sign(d) / threshold) * window(size, roll_off)
    chi = irfftn(x, size)
    for _ in range(iterations):
        y = np.fft.rfftn(np.where((chi > strong) & (m > 0), chi, 0))
        chi = irfftn(np.where(np.abs(d) < threshold, y, x), size)
    chi = cut(chi, local.shape) * mask
    return chi - mask * chi.sum() / mask.sum() if mean_zero else chi


def average(maps, magnitudes, times, mask):
    w = np.stack([(t * s) ** 2 for t, s in zip(times, magnitudes)])
    return mask * (w * np.stack(maps)).sum(0) / w.sum(0)


# ---- The cases of test_susceptibility -------------------------------------------------------------

def affine(spacing, angles):
    """Turned by these degrees about x, then y, then z of the world."""
    r = np.eye(3)
    for axis, degrees in enumerate(angles):
        a, t = np.eye(3), np.radians(degrees)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        a[i, i] = a[j, j] = np.cos(t)
        a[i, j], a[j, i] = -np.sin(t), np.sin(t)
        r = a @ r
    return r * np.asarray(spacing)


SIZE = (24, 22, 18)  # x, y, z
GRIDS = {"isotropic": ((1.5, 1.5, 1.5), (0, 0, 0)), "anisotropic": ((1, 1.25, 2), (0, 0, 0)),
         "oblique": ((1.5, 1.5, 1.5), (17, -9, 31)), "oblique, anisotropic": ((1.2, 1, 2), (25, 12, -8))}


def coordinates():
    """-1 to 1 along each axis: [z][y][x] arrays of x, y, z."""
    z, y, x = np.meshgrid(*[(np.arange(n) + .5) / n * 2 - 1 for n in SIZE[::-1]], indexing="ij")
    return x, y, z


def inputs():
    """float32 as the header reads them: chi, field, mask, as inputs() of test_susceptibility.c."""
    x, y, z = coordinates()
    u = formula(800, x.size).reshape(x.shape)
    mask = (x * x + y * y + z * z < .9).astype(float)
    chi = np.where(mask > 0, .3 * (u - .5) + np.where((x - .2) ** 2 + y * y + z * z < .1, .5, 0), 0)
    f = .2 * x - .3 * y * z + .25 * (x * x - y * y) + .1 * (u - .5)
    return [a.astype(np.float32).astype(np.float64) for a in (chi, f, mask)]
