#!/usr/bin/env python3
"""Writes maps_susceptibility.h: sketches of the float64 results of susceptibility_oracle.py, on four
grids.
    python3 tests/golden/make_maps_susceptibility.py"""
import io
import numpy as np
import golden_file, susceptibility_oracle as oracle
from image_oracle import formula

out = io.StringIO()
out.write("/* maps_susceptibility.h: written by make_maps_susceptibility.py with NumPy %s: the norm of a\n"
          "   result, and the sums of sketch() over it. */\n"
          "typedef struct golden_map { const char *grid, *what; double norm, sums[24]; } golden_map;\n"
          "static const golden_map golden_maps[] = {\n" % np.__version__)


def write(grid, what, x):
    norm = np.linalg.norm(x)
    words, line = ["%.10g" % v for v in oracle.sketch(x, 24) / norm], "     {"
    out.write('    {"%s", "%s", %.10g,\n' % (grid, what, norm))
    for i, w in enumerate(words):
        w += ", " if i < 23 else "}},"
        if len(line) + len(w) > 98:
            out.write(line.rstrip() + "\n")
            line = "      "
        line += w
    out.write(line + "\n")


chi, f, mask = oracle.inputs()
for name, (spacing, angles) in oracle.GRIDS.items():
    affine = oracle.affine(spacing, angles)
    b = oracle.direction(affine)
    write(name, "field", oracle.field(chi, spacing, b))
    for what, kind in (("SHARP", dict(radius=4.5)), ("SHARP, voxels", dict(radius=2, voxels=True)),
                       ("V-SHARP", dict(radius=6, variable=True)),
                       ("V-SHARP, voxels", dict(radius=4, voxels=True, variable=True, threshold=.1))):
        local, fits = oracle.sharp(f, mask, spacing, **kind)
        write(name, what, local)
        write(name, what + ", eroded", fits)
    field = oracle.field(chi, spacing, b).astype(np.float32).astype(np.float64)
    for what, kind in (("TKD", dict(iterations=0, mean_zero=False)), ("iSWIM", dict()),
                       ("iSWIM, other values", dict(threshold=.2, strong=.05, iterations=2)),
                       ("iSWIM, roll-off", dict(roll_off=.6))):
        write(name, what, oracle.invert(field, mask, spacing, b, **kind))
maps = [(formula(810 + e, chi.size).reshape(chi.shape) - .5).astype(np.float32).astype(np.float64) for e in range(3)]
mags = [(formula(820 + e, chi.size).reshape(chi.shape) + .1).astype(np.float32).astype(np.float64) for e in range(3)]
write("isotropic", "average", oracle.average(maps, mags, (.01, .015, .025), mask))
out.write("};\n")
golden_file.replace("maps_susceptibility.h", out.getvalue())
