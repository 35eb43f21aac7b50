"""R2*, the line through phases and T1 of qnet.h beside NumPy's polyfit on random numbers; and the whole
chain from echoes beside that of NumPy, SciPy and scikit-image in float64 (bench/maps_peers.py), on
../shared/data (or $QNET_DATA) where it is there."""
import os
import sys
import numpy as np
from parity_data import ROOT, Ours, data_folder, note

sys.path.insert(0, os.path.join(ROOT, "bench"))
import maps_peers


def distance(a, b):
    return np.linalg.norm(np.ravel(a) - np.ravel(b)) / np.linalg.norm(b)


def row(name, a, b, tolerance):
    return name, np.linalg.norm(a), np.linalg.norm(b), distance(a, b), tolerance


def step(ours, words, volumes, results):
    paths = [ours.put("in%d" % i, v.astype(np.float32)) for i, v in enumerate(volumes)]
    ours.ask(*words, *paths, *[ours.path("out%d" % i) for i in range(results)])
    return [ours.get("out%d" % i, np.float32).astype(float) for i in range(results)]


def voxels(ours):
    """Random echoes of 8 x 7 x 6 voxels, all inside the mask."""
    rng, n = np.random.default_rng(3), 336
    ours.ask("grid", 8, 7, 6, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    mask, times = np.ones(n), np.cumsum(rng.uniform(.002, .006, 6))
    rate = rng.uniform(5, 150, n)
    s = (1000 * np.exp(-np.outer(times, rate)) * rng.uniform(.9, 1.1, (6, n))).astype(np.float32).astype(float)
    theirs = [-np.polyfit(times, np.log(v), 1, w=v)[0] for v in s.T]
    words = [6, *times]
    yield row("R2*, log-linear", step(ours, ["r2star", 2] + words, [*s, mask], 1)[0],
              np.clip(theirs, 0, 20 / times[0]), 1e-6)
    phase = (np.outer(times, rng.normal(0, 300, n)) + rng.normal(0, 1, n)).astype(np.float32).astype(float)
    fit = np.array([np.polyfit(times, p, 1, w=v) for p, v in zip(phase.T, s.T)]).T
    for name, a, b in zip(("slope", "offset"), step(ours, ["fit"] + words, [*phase, *s, mask], 2), fit):
        yield row("line through phases, " + name, a, b, 1e-5)
    b1 = rng.uniform(.8, 1.2, n).astype(np.float32).astype(float)
    t1 = rng.uniform(.4, 3, n)
    a = np.radians(np.outer([6, 24], b1))
    e1 = np.exp(-.036 / t1)
    s = (1000 * np.sin(a) * (1 - e1) / (1 - e1 * np.cos(a))).astype(np.float32).astype(float)
    line = np.array([np.polyfit(v / np.tan(q), v / np.sin(q), 1) for v, q in zip(s.T, a.T)]).T
    for name, a, b in zip(("T1", "M0"), step(ours, ["t1", 6, 24, .036], [*s, b1, mask], 2),
                          (-.036 / np.log(line[0]), line[1] / (1 - line[0]))):
        yield row(name, a, b, 1e-5)


def chains(ours, folder):
    """Ours and theirs: unwrapped, they differ in ties and at the rim, whose voxels the offset's line
    then puts right. Not so on echoes_oblique_ge, whose first echoes have open fringes there."""
    for name, flip in (("echoes", ""),):
        e = maps_peers.Echoes(os.path.join(folder, name), flip)
        ours.ask("grid", *e.mask.shape, *e.affine[:3].ravel())
        mag, phase = ([np.ascontiguousarray(v.transpose(2, 1, 0)) for v in x] for x in (e.magnitude, e.phase))
        words = [e.sign, e.field_strength, len(e.time), *e.time]
        qsm, eroded, rate = step(ours, ["chain", 0] + words, [*mag, *phase, e.mask.transpose(2, 1, 0)], 3)
        theirs = [v.transpose(2, 1, 0) for v in maps_peers.chain(e, e.mask, "float64")]
        yield name + ": voxels where QSM is known", eroded.sum(), theirs[1].sum(), float(
            (eroded != theirs[1].ravel()).sum()), 0
        yield row(name + ": R2*", rate, theirs[2], 1e-6)
        yield row(name + ": QSM", qsm, theirs[0], 1e-3)


def rows(build):
    ours = Ours(build, "maps_float")
    try:
        yield from voxels(ours)
        folder = data_folder()
        if folder and os.path.isdir(os.path.join(folder, "echoes")):
            yield from chains(ours, folder)
        else:
            note("skipped: the chain on echoes, which are not there")
    finally:
        ours.close()
