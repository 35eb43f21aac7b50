#!/usr/bin/env python3
"""Writes image.h: what two oracles (image_oracle.py) make of the cases of augmentation, sampled.
    python3 tests/golden/make_image.py
Needs NumPy, SciPy and PyTorch; oracle_env.py fetches Albumentations and OpenCV."""
import io, sys, zlib
import numpy as np, torch
import golden_file, image_oracle as oracle

POINTS = 24  # per case: the corners of the output, the rest anywhere
out = io.StringIO()


def write(text):
    out.write(text + "\n")


def number(v):
    return "%.9g" % (v + 0.0)


def record(case):
    grid = case.get("grid", ([1] * 6, [1] * 6))
    bc, affine = case.get("bc", (1, 0)), case.get("affine", (0, 1, 0, 0))
    return "{%d, %d, %d, %s, %s, %d, %s, %d, {%s}, {%s}, %d, %s, %d, %d}" % (
        case.get("hflip", 0), case.get("vflip", 0), "bc" in case, number(bc[0]), number(bc[1]),
        "gamma" in case, number(case.get("gamma", 1)), "grid" in case,
        ", ".join(map(number, grid[0])), ", ".join(map(number, grid[1])), "affine" in case,
        ", ".join(map(number, affine)), *case.get("crop", (0, 0)))


cases = oracle.cases()
pairs = [(oracle.image(c["h"], c["w"]), c) for c in cases]
versions, theirs, _ = oracle.run(pairs)
if not versions.startswith("Albumentations 1.0.3, OpenCV 4."):
    sys.exit("make_image.py needs Albumentations 1.0.3 over OpenCV 4, found %s: image.h stays as it is" % versions)
write("/* image.h: written by make_image.py with %s, SciPy map_coordinates.\n"
      "   crc: of all of Albumentations' float32 output, for transforms that only move or scale values.\n"
      "   sum: mean of exact[y][x][c] * (formula(420, j) - .5) over all pixels, j counting them.\n"
      "   A row of points: output y, x; three channels at exact coordinates; by Albumentations; how far\n"
      "   OpenCV's rounding of coordinates to 1/32 pixel can move a value there. How far it does, over\n"
      "   all pixels (largest, mean):" % versions)
for (img, case), a in zip(pairs, theirs):
    if a is not None and oracle.interpolates(case):
        d = np.abs(a - oracle.exact(img, case)).max(2)
        write("     %-36s %.4f %.4f" % (case["name"], d.max(), d.mean()))
write("*/\nstatic const image_case image_cases[] = {")
rows = []
for k, ((img, case), a) in enumerate(zip(pairs, theirs)):
    e, b, (oh, ow) = oracle.exact(img, case), oracle.bound(img, case), case["out"]
    still = not oracle.interpolates(case)
    crc = zlib.crc32(a.astype("<f4").tobytes()) if still and "gamma" not in case else 0
    total = np.mean(e.ravel() * (oracle.formula(420, e.size) - .5))
    first = len(rows)
    if not crc or "bc" in case:
        u = oracle.formula(421 + k, 2 * POINTS)
        at = [(0, 0), (0, ow - 1), (oh - 1, 0), (oh - 1, ow - 1)]
        at += [(int(u[2 * i] * oh), int(u[2 * i + 1] * ow)) for i in range(4, POINTS)]
        for y, x in at:
            seen = a[y, x] if a is not None else [-1] * 3
            rows.append("{%d, %d, %s, %s, %s}" % (y, x, ", ".join(map(number, e[y, x])),
                                                  ", ".join(map(number, seen)), "%.3g" % b[y, x]))
    write('    {"%s", %d, %d, %d, %d,\n     %s,\n     0x%08xu, %.12g, %d, %d},' %
          (case["name"], case["h"], case["w"], oh, ow, record(case), crc, total, first,
           len(rows) - first))
write("};\nstatic const double image_points[][9] = {")
for r in rows:
    write("    %s," % r)
write("};")

img = oracle.image(43, 52).astype(np.float64)
raw = np.where(img > .45, (img - .5) * 700, 0).astype(np.float32).astype(np.float64)
write("/* numpy.percentile of the non-zero values of each channel: q, three channels. */\n"
      "static const double image_percentiles[][4] = {")
for q in (0, 1, 12.5, 50, 77.7, 99, 100):
    write("    {%s}," % ", ".join("%.12g" % v for v in
                                  [q] + [np.percentile(raw[..., c][raw[..., c] != 0], q) for c in range(3)]))
write("};\n/* torch.nn.functional.interpolate, bilinear, align_corners=False, in float64, to h x w: mean of\n"
      "   value[j] (formula(480, j) - .5), then the corners' and the middle's first channel. */\n"
      "static const double image_resizes[][8] = {")
for h, w in ((7, 5), (3, 11), (64, 90), (21, 104), (43, 52), (1, 1)):
    t = torch.tensor(img).permute(2, 0, 1)[None]
    t = torch.nn.functional.interpolate(t, (h, w), mode="bilinear", align_corners=False)
    v = t[0].permute(1, 2, 0).numpy()
    total = np.mean(v.ravel() * (oracle.formula(480, v.size) - .5))
    write("    {%s}," % ", ".join("%.12g" % x for x in [
        h, w, total, v[0, 0, 0], v[0, -1, 0], v[-1, 0, 0], v[-1, -1, 0], v[h // 2, w // 2, 0]]))
write("};")
golden_file.replace("image.h", out.getvalue())
