"""Fourier transforms of qnet.h, float and double, beside those of numpy.fft in float64: sizes of all
kinds of factors, and those that volumes of the head have."""
import numpy as np
from parity_data import Ours, formula

SHAPES = [(1, 1, n) for n in (1, 2, 30, 127, 128, 130, 1009, 4096)]
SHAPES += [(1, 144, 128), (1, 97, 61), (64, 144, 128), (56, 128, 112), (36, 75, 49), (60, 135, 120)]


def distance(a, b):
    return np.linalg.norm(np.ravel(a) - np.ravel(b)) / np.linalg.norm(b)


def rows(build):
    for real, tolerance in ((np.float32, 2e-7), (np.float64, 1e-14)):
        name = "double" if real == np.float64 else "float"
        ours = Ours(build, "maps_" + name)

        def ask(command, x, out):
            ours.ask(*command.split(), ours.put("x", x), ours.path("y"))
            return ours.get("y", real).view(out)

        try:
            for k, shape in enumerate(SHAPES):
                count = int(np.prod(shape))
                ours.ask("grid", *shape[::-1], *np.eye(3, 4).ravel())
                x = (formula(950 + k, 2 * count) - .5).astype(real)
                pair = np.complex64 if real == np.float32 else np.complex128
                z, r = x.view(pair).reshape(shape), x[:count].reshape(shape)
                wide = np.fft.fftn(z.astype(complex))
                half = np.fft.rfftn(r.astype(float))
                made = [(ask("fft 0", z, pair), wide), (ask("rfft", r, pair), half),
                        (ask("fft 1", wide.astype(pair), pair), np.fft.ifftn(wide)),
                        (ask("irfft", half.astype(pair), real), r.astype(float))]
                error = max(distance(a, b) for a, b in made)
                yield ("FFT, %s, %s" % (name, " x ".join(map(str, shape[::-1]))), np.linalg.norm(made[1][0]),
                       np.linalg.norm(half), error, tolerance)
        finally:
            ours.close()
