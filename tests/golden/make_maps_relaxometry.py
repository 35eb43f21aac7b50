#!/usr/bin/env python3
"""Writes maps_relaxometry.h: R2*, T1, M0 and the line through phases of small made-up echoes, in
float64 from the formulas of the papers; the lines by numpy.polyfit.
    python3 tests/golden/make_maps_relaxometry.py
The volumes are those of relaxometry_series() in tests/test_relaxometry.c."""
import io
import numpy as np
import golden_file
from image_oracle import formula

N = 60  # 5 x 4 x 3 voxels
EQUAL = np.array([.005, .010, .015, .020, .025])
UNEQUAL = np.array([.004, .0092, .0147, .0211, .030])
TR, LOW, HIGH = .036, 6.0, 24.0


def series(stream, echoes, scale, fall):
    """float32, as the header reads them: [echoes][N]."""
    return np.array([scale * formula(stream + e, N) + fall * (echoes - e)
                     for e in range(echoes)]).astype(np.float32).astype(np.float64)


def arlo(s, times):
    """Pei et al. 2015: 1/T2* of integrals over two intervals and the losses across them."""
    dt = times[1] - times[0]
    integral = dt / 3 * (s[:-2] + 4 * s[1:-1] + s[2:])
    loss = s[:-2] - s[2:]
    cross = (integral * loss).sum(0)
    return (dt / 3 * (loss ** 2).sum(0) + cross) / ((integral ** 2).sum(0) + dt / 3 * cross)


def loglinear(s, times):
    return np.array([-np.polyfit(times, np.log(v), 1, w=v)[0] for v in s.T])


def t1(low, high, b1):
    out = np.zeros((2, N))
    for i in range(N):
        a = np.radians(np.array([LOW, HIGH]) * b1[i])
        y = np.array([low[i], high[i]])
        e1, intercept = np.polyfit(y / np.tan(a), y / np.sin(a), 1)
        out[:, i] = -TR / np.log(e1), intercept / (1 - e1)
    return out


def spoiled(m0, t1_seconds, angle):
    e1, a = np.exp(-TR / t1_seconds), np.radians(angle)
    return m0 * np.sin(a) * (1 - e1) / (1 - e1 * np.cos(a))


out = io.StringIO()
out.write("/* maps_relaxometry.h: written by make_maps_relaxometry.py. [60] each, x fastest. */\n")


def array(name, values):
    out.write("static const double %s[60] = {\n" % name)
    line = ""
    for v in values:
        word = "%.10g, " % v
        if len(line) + len(word) > 96:
            out.write("    " + line.rstrip() + "\n")
            line = ""
        line += word
    out.write("    " + line.rstrip().rstrip(",") + "\n};\n")


s = series(10, 5, 20, 40)
limit = lambda r, times: np.clip(r, 0, 20 / times[0])
array("golden_arlo", limit(arlo(s, EQUAL), EQUAL))
array("golden_loglinear", limit(loglinear(s, UNEQUAL), UNEQUAL))
phase = series(20, 5, 3, -2)
fit = np.array([np.polyfit(UNEQUAL, phase[:, i], 1, w=s[:, i]) for i in range(N)])
array("golden_slope", fit[:, 0])
array("golden_offset", fit[:, 1])
true_t1, b1 = .4 + 2 * formula(30, N), (.8 + .4 * formula(31, N)).astype(np.float32).astype(float)
# The signals go into the header with 9 digits, which is all that a float has.
low = np.float32(spoiled(1000, true_t1, LOW * b1)).astype(float)
high = np.float32(spoiled(1000, true_t1, HIGH * b1)).astype(float)
array("golden_low", low)
array("golden_high", high)
both = t1(low, high, b1)
array("golden_t1", both[0])
array("golden_m0", both[1])
array("golden_t1_plain", t1(low, high, np.ones(N))[0])
golden_file.replace("maps_relaxometry.h", out.getvalue())
