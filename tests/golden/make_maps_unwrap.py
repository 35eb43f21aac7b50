#!/usr/bin/env python3
"""Writes maps_unwrap.h: by how many 2 pi scikit-image's unwrap_phase shifts the voxels of made-up
phases, in two masks.
    python3 tests/golden/make_maps_unwrap.py
The phases are those of wrapped() in tests/test_unwrap.c, by whole numbers, so that both sides have
the same ones: units of 2 pi / 2^20."""
import io
import numpy as np
from skimage.restoration import unwrap_phase
import golden_file
from image_oracle import formula

NX, NY, NZ, TURN = 22, 20, 14, 1 << 20


def wrapped(stream, noise):
    """[NZ][NY][NX]: a saddle of several turns, and noise of that many units either way."""
    z, y, x = np.mgrid[:NZ, :NY, :NX].astype(np.int64)
    bits = (formula(stream, NX * NY * NZ) * 2 ** 32).astype(np.int64)
    units = 9000 * (x - 10) ** 2 - 11000 * (y - 9) ** 2 + 70000 * z * (x - y) // 8
    units += (bits % (2 * noise + 1)).reshape(units.shape) - noise
    return ((units % TURN - TURN // 2) * (2 * np.pi / TURN)).astype(np.float32)


def inside():
    """Two balls that do not touch each other or the border, the first with a hole."""
    z, y, x = np.mgrid[:NZ, :NY, :NX]
    first = (x - 8) ** 2 + (y - 10) ** 2 + 2 * (z - 6) ** 2 < 50
    first &= (x - 8) ** 2 + (y - 10) ** 2 + (z - 6) ** 2 > 4
    return first | ((x - 18) ** 2 + (y - 10) ** 2 + (z - 7) ** 2 < 6)


def shifts(phase, mask):
    """k as letters, M for 0; one for each voxel of the mask."""
    result = unwrap_phase(np.ma.array(phase.astype(np.float64), mask=~mask))
    k = np.rint((result.data - phase)[mask] / (2 * np.pi)).astype(int)
    return "".join(chr(ord("M") + v) for v in k)


out = io.StringIO()
out.write("/* maps_unwrap.h: written by make_maps_unwrap.py. A letter for each voxel of the mask, x fastest:\n"
          "   M + the number of 2 pi that scikit-image's unwrap_phase adds. */\n")
for name, stream, noise in (("smooth", 60, 20000), ("noisy", 61, 220000)):
    text = shifts(wrapped(stream, noise), inside())
    out.write("static const char golden_%s[] =\n" % name)
    lines = [text[i:i + 90] for i in range(0, len(text), 90)]
    out.write("\n".join('    "%s"' % line for line in lines) + ";\n")
golden_file.replace("maps_unwrap.h", out.getvalue())
