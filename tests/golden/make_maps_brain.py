#!/usr/bin/env python3
"""Writes maps_brain.h: what BET (Smith 2002) makes of a small made-up head, in NumPy float64 from
the formulas at >>brain: thresholds, centre, radius, the surface on its way and at its end.
    python3 tests/golden/make_maps_brain.py
The head is that of head() in tests/test_brain.c, by whole numbers. The sphere of 2,562 vertices is
SciPy's convex hull of a subdivided icosahedron's points, the mask a test of each voxel's winding
number by the solid angles of the faces."""
import io
import numpy as np
from scipy.spatial import ConvexHull
import golden_file
from image_oracle import formula

SHAPE, MM = (44, 40, 30), np.array([2.0, 2.5, 3.0])  # nx, ny, nz
THRESHOLD, STEPS = .2, 1000


def head():
    """I[x, y, z]: a brain with a bright core, a dark gap, a scalp that is brighter still, noise."""
    x, y, z = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    r = (10 * (x - 21)) ** 2 + (12 * (y - 19)) ** 2 + (16 * (z - 12)) ** 2
    image = np.select([r < 90 ** 2, r < 150 ** 2, r < 175 ** 2, r < 190 ** 2], [1100, 900, 60, 1500], 0)
    noise = (formula(90, image.size) * 81).astype(int).reshape(SHAPE[::-1]).transpose()
    return (image + noise).astype(np.float64)


def sphere():
    """Vertices of the icosahedron whose edges were halved four times, and faces, outwards."""
    golden = (1 + 5 ** .5) / 2
    points = np.array([np.roll([0, a, b * golden], k) for k in range(3) for a in (-1, 1) for b in (-1, 1)])
    points /= np.linalg.norm(points, axis=1)[:, None]
    for _ in range(4):
        edges = {tuple(sorted(e)) for f in ConvexHull(points).simplices for e in zip(f, np.roll(f, 1))}
        middle = np.array([points[a] + points[b] for a, b in sorted(edges)])
        points = np.concatenate([points, middle / np.linalg.norm(middle, axis=1)[:, None]])
    faces = ConvexHull(points).simplices
    inwards = np.linalg.det(points[faces]) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return points, faces


def thresholds(image):
    values = np.sort(image.ravel())
    n = len(values)
    t2, t98 = values[n // 50], values[n - 1 - n // 50]
    t2 = min(t2, .1 * t98)
    t = t2 + .1 * (t98 - t2)
    at = np.argwhere(image > t)
    weight = np.minimum(image[image > t], t98) - t2
    center = (weight[:, None] * at * MM).sum(0) / weight.sum()
    radius = (len(at) * MM.prod() * 3 / (4 * np.pi)) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1) * MM
    ball = (np.linalg.norm(grid - center, axis=-1) < radius) & (image > t2) & (image < t98)
    inside = np.sort(image[ball])
    return t2, t98, t, inside[len(inside) // 2], center, radius


def sample(image, places, t2):
    """The voxel that a place lies in; beyond the border the last one, for 20 mm."""
    at = places / MM + .5
    beyond = ((at < -20 / MM) | (at > np.array(SHAPE) + 20 / MM)).any(-1)
    index = np.clip(np.floor(at).astype(int), 0, np.array(SHAPE) - 1)
    return np.where(beyond, t2, image[tuple(np.moveaxis(index, -1, 0))])


class Surface:
    def __init__(self, points, faces, image, found):
        self.image, self.faces, self.found = image, faces, found
        self.at = found[4] + found[5] / 2 * points
        pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        self.a, self.b = pairs.T  # each edge once in either direction
        self.count = np.bincount(self.a)[:, None]

    def edge(self):
        return np.linalg.norm(self.at[self.a] - self.at[self.b], axis=1).mean()

    def step(self, l):
        t2, _, t, tm = self.found[:4]
        corner = self.at[self.faces]
        area = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        n, mean = np.zeros_like(self.at), np.zeros_like(self.at)
        for k in range(3):
            np.add.at(n, self.faces[:, k], area)
        n /= np.linalg.norm(n, axis=1)[:, None]
        np.add.at(mean, self.a, self.at[self.b])
        s = mean / self.count - self.at
        along = (s * n).sum(1)
        e, f = (1 / 3.33 + 1 / 10) / 2, 6 / (1 / 3.33 - 1 / 10)
        f2 = (1 + np.tanh(f * (2 * np.abs(along) / l ** 2 - e))) / 2
        line = np.stack([sample(self.image, self.at - d * n, t2) for d in range(8)])
        low = np.maximum(t2, np.minimum(tm, line.min(0)))
        high = np.minimum(tm, np.maximum(t, line[:4].max(0)))
        tl = t2 + THRESHOLD ** .275 * (high - t2)
        f3 = .05 * 2 * (low - tl) / (high - t2) * l
        self.at = self.at + (s - along[:, None] * n) / 2 + (f2 * along + f3)[:, None] * n


def winding(surface):
    """The voxels around which the faces turn once: half the sum of their solid angles over 2 pi."""
    grid = (np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1) * MM).reshape(-1, 3)
    total = np.zeros(len(grid))
    for face in surface.faces:
        a, b, c = (surface.at[v] - grid for v in face)
        la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
        top = np.einsum("ij,ij->i", a, np.cross(b, c))
        bottom = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        total += 2 * np.arctan2(top, bottom)
    return (total > 2 * np.pi).reshape(SHAPE)


image = head()
found = thresholds(image)
surface = Surface(*sphere(), image, found)
out = io.StringIO()
out.write("/* maps_brain.h: written by make_maps_brain.py. */\n"
          "/* t2, t98, t, tm, centre (mm), radius (mm) */\n"
          "static const double golden_head[8] = {%s};\n" %
          ", ".join("%.15g" % v for v in [*found[:4], *found[4], found[5]]))
out.write("/* After so many steps: mean edge (mm), sums of x, y, z and of x^2 + y^2 + z^2 (mm) over the vertices. */\n"
          "static const double golden_steps[][6] = {\n")
for step in range(STEPS + 1):
    if step in (0, 1, 10, 50, 200):
        sums = [surface.edge(), *surface.at.sum(0), (surface.at ** 2).sum()]
        out.write("    {%d, %s},\n" % (step, ", ".join("%.13g" % v for v in sums)))
    if step % 50 == 0:
        l = surface.edge()
    if step < STEPS:
        surface.step(l)
out.write("};\n")
mask = winding(surface)
runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.transpose().ravel().astype(int), [0]])))
out.write("/* The mask, x fastest: voxels outside, inside, outside, ... in turn. */\n"
          "static const int golden_mask[] = {\n")
lengths = [str(v) for v in np.diff(np.concatenate([[0], runs]))]
for i in range(0, len(lengths), 24):
    out.write("    %s,\n" % ", ".join(lengths[i:i + 24]))
out.write("};\n")
golden_file.replace("maps_brain.h", out.getvalue())
