#!/usr/bin/env python3
"""Writes maps_fft.h: sketches of numpy.fft's float64 transforms of numbers by the formula of
formula.h, for every length from 1 to 130, primes, planes and volumes.
    python3 tests/golden/make_maps_fft.py"""
import io
import numpy as np
import golden_file
from image_oracle import formula
from susceptibility_oracle import sketch

SHAPES = [(n, 1, 1) for n in range(1, 131)]
SHAPES += [(n, 1, 1) for n in (131, 199, 211, 257, 509, 1009, 343, 625, 729, 1024, 1155)]
SHAPES += [(1, 13, 1), (1, 1, 17), (33, 40, 1), (64, 35, 1), (7, 1, 22), (1, 9, 14), (71, 50, 1)]
SHAPES += [(2, 3, 5), (8, 8, 8), (9, 15, 7), (36, 33, 3), (20, 18, 14), (67, 5, 11), (30, 16, 49)]

out = io.StringIO()
out.write("/* maps_fft.h: written by make_maps_fft.py with NumPy %s. nx, ny, nz; of fftn and of rfftn:\n"
          "   the norm, and the sums of sketch() over it. */\n"
          "static const struct { int n[3]; double norm, sums[4], real_norm, real_sums[4]; }\n"
          "    golden_fft[] = {\n" % np.__version__)
for k, (nx, ny, nz) in enumerate(SHAPES):
    x = (formula(900 + k, 2 * nx * ny * nz) - .5).astype(np.float32).astype(np.float64)
    z = x.view(np.complex128).reshape(nz, ny, nx)
    rows = []
    for y in (np.fft.fftn(z), np.fft.rfftn(x[:nx * ny * nz].reshape(nz, ny, nx))):
        y = np.ascontiguousarray(y).view(np.float64)
        norm = np.linalg.norm(y)
        rows.append("%.17g, {%s}" % (norm, ", ".join("%.17g" % v for v in sketch(y, 4) / norm)))
    out.write("    {{%d, %d, %d},\n     %s,\n     %s},\n" % (nx, ny, nz, rows[0], rows[1]))
out.write("};\n")
golden_file.replace("maps_fft.h", out.getvalue())
