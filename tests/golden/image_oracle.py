"""Two oracles of room >>image, neither of which knows qnet.h:
exact()        float64 NumPy and scipy.ndimage.map_coordinates at exact coordinates, one resampling
albumentations()  Albumentations 1.0.3 over OpenCV, transform by transform
run(pairs) applies the second one to [(image, case)] in the interpreter of oracle_env.
A case is what qnet_augmentation holds; an absent key means: not drawn."""
import os, pickle, subprocess, sys, tempfile
import numpy as np

STEPS = 5  # of the grid distortion


def formula(i, n):
    """The numbers of formula.h."""
    j = np.arange(n, dtype=np.uint64)
    m = np.uint64(0xffffffff)
    h = ((np.uint64(i * 1000003) + j) & m) * np.uint64(2654435761) & m
    h ^= h >> np.uint64(15)
    h = h * np.uint64(2246822519) & m
    h ^= h >> np.uint64(13)
    return h.astype(np.float64) / 4294967296.0


def image(h, w):
    """Noise: every pixel jumps, so that a coordinate that is off shows as much as it can."""
    return formula(400, h * w * 3).reshape(h, w, 3).astype(np.float32)


def _factors(seed):
    return list(np.round(0.7 + 0.6 * formula(seed, STEPS + 1), 6))


def cases():
    """Every transform alone, edges of their ranges included, then together."""
    a = []

    def add(name, h=43, w=52, out=None, **record):
        a.append(dict(record, name=name, h=h, w=w, out=out or (h, w)))

    add("horizontal flip", hflip=1)
    add("vertical flip", vflip=1)
    add("both flips", 30, 31, hflip=1, vflip=1)
    add("crop", out=(32, 36), crop=(5, 9))
    add("centre crop, odd rest", 45, 50, out=(32, 33), crop=(6, 8))
    add("flips and crop", 40, 37, out=(32, 33), crop=(8, 4), hflip=1, vflip=1)
    add("brightness", bc=(1.0, 0.2))
    add("contrast", bc=(0.8, 0.0))
    add("brightness and contrast, clipped", bc=(1.2, -0.2))
    add("brightness and contrast", 33, 35, bc=(1.0625, 0.171875))
    add("gamma 0.8", gamma=0.8)
    add("gamma 1.2", gamma=1.2)
    add("gamma 0.97", gamma=0.97)
    add("grid, all 0.7", grid=([0.7] * 6, [0.7] * 6))
    add("grid, all 1.3", grid=([1.3] * 6, [1.3] * 6))
    add("grid", grid=(_factors(401), _factors(402)))
    add("grid, sides divisible by 5", 60, 80, grid=(_factors(403), _factors(404)))
    add("grid, rest of 4", 64, 69, grid=(_factors(405), _factors(406)))
    add("rotation 45", affine=(45.0, 1.0, 0.0, 0.0))
    add("rotation -45, smaller, shifted", affine=(-45.0, 0.9, 0.0625, -0.0625))
    add("rotation 17.3, larger, shifted", 51, 40, affine=(17.3, 1.1, -0.041, 0.027))
    add("scale 0.9", affine=(0.0, 0.9, 0.0, 0.0))
    add("shift", affine=(0.0, 1.0, 0.031, -0.057))
    add("all but grid", 70, 66, out=(64, 48), hflip=1, bc=(1.13, -0.07), gamma=0.87,
        affine=(-23.7, 1.04, 0.05, 0.012), crop=(2, 11))
    add("all but affine", 58, 61, out=(48, 50), vflip=1, bc=(0.9, 0.13), gamma=1.11,
        grid=(_factors(407), _factors(408)), crop=(10, 3))
    add("grid and affine in one resampling", 66, 58, out=(64, 48), hflip=1, vflip=1,
        grid=(_factors(409), _factors(410)), affine=(38.2, 0.93, -0.02, 0.06), crop=(1, 7))
    return a


def interpolates(case):
    return "grid" in case or "affine" in case


def _grid_map(factors, size):
    """The source coordinate of each pixel, as Albumentations' grid_distortion lays it out."""
    step = size // STEPS
    entries, previous = np.zeros(size), 0.0
    for k in range(STEPS + 1):
        start, end = k * step, k * step + step
        if end > size:
            end, current = size, size
        else:
            current = previous + step * factors[k]
        entries[start:end] = np.linspace(previous, current, end - start)
        previous = current
    return entries


def _coordinates(case):
    """(y, x) in the flipped image of every output pixel; no reflection yet."""
    from scipy.ndimage import map_coordinates
    h, w = case["h"], case["w"]
    (oh, ow), (cy, cx) = case["out"], case.get("crop", (0, 0))
    y, x = np.meshgrid(np.arange(oh) + float(cy), np.arange(ow) + float(cx), indexing="ij")
    if "affine" in case:
        angle, scale, dx, dy = case["affine"]
        a, b = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
        m = np.array([[a, b, (1 - a) * w / 2 - b * h / 2 + dx * w],
                      [-b, a, b * w / 2 + (1 - a) * h / 2 + dy * h], [0, 0, 1]])
        x, y, _ = np.linalg.inv(m) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        x, y = x.reshape(oh, ow), y.reshape(oh, ow)
    if "grid" in case:  # a map between pixels is what it would be in an image of coordinates
        map_x, map_y = _grid_map(case["grid"][0], w), _grid_map(case["grid"][1], h)
        x = map_coordinates(map_x, [x.ravel()], order=1, mode="mirror").reshape(oh, ow)
        y = map_coordinates(map_y, [y.ravel()], order=1, mode="mirror").reshape(oh, ow)
    return y, x


def _values(img, case):
    v = img.astype(np.float64)
    if "bc" in case:
        v = np.clip(v * case["bc"][0] + case["bc"][1], 0, 1)
    if "gamma" in case:
        v = v ** case["gamma"]
    if case.get("hflip"):
        v = v[:, ::-1]
    if case.get("vflip"):
        v = v[::-1]
    return v


def exact(img, case):
    from scipy.ndimage import map_coordinates
    v, (y, x) = _values(img, case), _coordinates(case)
    if not interpolates(case):
        return v[y.astype(int), x.astype(int)]
    return np.stack([map_coordinates(v[..., c], [y, x], order=1, mode="mirror") for c in range(3)], -1)


def bound(img, case):
    """How far a value can move when both coordinates are rounded to 1/32 pixel (so by 1/64 at
    most) after a sum of two terms in 1/1024 pixel, as OpenCV's classic warps do: the largest slopes
    nearby, per pixel."""
    from scipy.ndimage import maximum_filter, map_coordinates
    v, (y, x) = _values(img, case), _coordinates(case)
    total = np.zeros(y.shape)
    for axis in (0, 1):
        slope = np.abs(np.diff(v, axis=axis, append=np.take(v, [-1], axis))).max(2)
        slope = maximum_filter(slope, 5, mode="nearest")
        total += map_coordinates(slope, [y, x], order=0, mode="mirror")
    return (1 / 64 + 1 / 1024) * total + 1e-6


def albumentations(img, case):
    """None where two transforms would each interpolate: that is not one resampling."""
    import cv2
    import albumentations as A
    import albumentations.augmentations.crops.functional as C
    if "grid" in case and "affine" in case:
        return None
    v = img.copy()
    if case.get("hflip"):
        v = A.HorizontalFlip().apply(v)
    if case.get("vflip"):
        v = A.VerticalFlip().apply(v)
    if "bc" in case:
        v = A.RandomBrightnessContrast().apply(v, alpha=case["bc"][0], beta=case["bc"][1])
    if "gamma" in case:
        v = A.RandomGamma().apply(v, gamma=case["gamma"])
    if "grid" in case:
        v = A.GridDistortion(STEPS).apply(v, stepsx=case["grid"][0], stepsy=case["grid"][1])
    if "affine" in case:
        angle, scale, dx, dy = case["affine"]
        v = A.ShiftScaleRotate().apply(v, angle=angle, scale=scale, dx=dx, dy=dy,
                                       interpolation=cv2.INTER_LINEAR)
    (oh, ow), (cy, cx) = case["out"], case.get("crop", (0, 0))
    if (oh, ow) != v.shape[:2]:
        if (cy, cx) == ((v.shape[0] - oh) // 2, (v.shape[1] - ow) // 2):
            v = C.center_crop(v, oh, ow)
        else:  # RandomCrop takes the offset as a share, and cuts the product down
            v = C.random_crop(v, oh, ow, (cy + 0.5) / max(v.shape[0] - oh, 1),
                              (cx + 0.5) / max(v.shape[1] - ow, 1))
    return np.ascontiguousarray(v)


def resized(img, h, w):
    import cv2
    return cv2.resize(img, (w, h), interpolation=cv2.INTER_LINEAR)


def _versions():
    import cv2, albumentations as A
    return "Albumentations %s, OpenCV %s" % (A.__version__, cv2.__version__)


def run(pairs, resizes=()):
    """(what it ran on, [albumentations(image, case)], [resized(image, h, w)])."""
    import oracle_env
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "job.pickle")
        with open(path, "wb") as f:
            pickle.dump([(i.shape, i.tobytes(), c) for i, c in pairs] +
                        [(i.shape, i.tobytes(), s) for i, s in resizes], f)
        subprocess.run([oracle_env.python(), os.path.abspath(__file__), path], check=True)
        with open(path, "rb") as f:
            versions, out = pickle.load(f)
    out = [o and np.frombuffer(o[1], np.float32).reshape(o[0]) for o in out]
    return versions, out[:len(pairs)], out[len(pairs):]


if __name__ == "__main__":
    made = []
    for shape, data, what in pickle.load(open(sys.argv[1], "rb")):
        img = np.frombuffer(data, np.float32).reshape(shape)
        v = albumentations(img, what) if isinstance(what, dict) else resized(img, *what)
        if v is not None:
            v = (v.shape, v.astype(np.float32).tobytes())
        made.append(v)
    pickle.dump((_versions(), made), open(sys.argv[1], "wb"))
