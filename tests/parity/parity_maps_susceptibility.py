"""The field of a susceptibility map, SHARP, V-SHARP and the inversion of qnet.h beside NumPy's of the
same formulas in float64 (tests/golden/susceptibility_oracle.py): the cases of the goldens, and the
real anatomy of ../shared/data (or $QNET_DATA) where it is there."""
import os
import numpy as np
from parity_data import Ours, data_folder, note
import susceptibility_oracle as oracle


def distance(a, b):
    return np.linalg.norm(np.ravel(a) - np.ravel(b)) / np.linalg.norm(b)


def config(variable=False, threshold=.05, radius=6., voxels=False, tkd=.1, strong=.1, iterations=4, mean_zero=True):
    return [int(variable), threshold, float(radius), int(voxels), tkd, strong, iterations, int(mean_zero)]


def step(ours, command, words, volumes, results):
    paths = [ours.put("in%d" % i, v.astype(np.float32)) for i, v in enumerate(volumes)]
    ours.ask(command, *words, *paths, *[ours.path("out%d" % i) for i in range(results)])
    return [ours.get("out%d" % i, np.float32) for i in range(results)]


def compare(ours, name, affine, chi, field, mask):
    spacing, b = np.linalg.norm(affine[:3, :3], axis=0), oracle.direction(affine)
    ours.ask("grid", *chi.shape[::-1], *np.hstack([affine[:3, :3], np.zeros((3, 1))]).ravel())

    def row(what, a, b):
        return ("%s: %s" % (name, what), np.linalg.norm(a), np.linalg.norm(b), distance(a, b), 1e-5)

    total = oracle.field(chi, spacing, b)
    yield row("field", step(ours, "field", [], [chi], 1)[0], total)
    for what, kind in (("SHARP", dict(radius=4.5)), ("V-SHARP", dict(radius=6, variable=True, threshold=.1))):
        local, fits = oracle.sharp(field, mask, spacing, **kind)
        a, e = step(ours, "background", config(**kind), [field, mask], 2)
        yield row(what, a, local)
        yield (name + ": " + what + ", voxels", float(e.sum()), float(fits.sum()), float((e != fits.ravel()).sum()), 0)
    local = total.astype(np.float32).astype(float)
    for iterations in (0, 4):
        yield row("inversion, %d iterations" % iterations,
                  step(ours, "invert", config(iterations=iterations), [local, mask], 1)[0],
                  oracle.invert(local, mask, spacing, b, iterations=iterations))


def rows(build):
    ours = Ours(build, "maps_float")
    try:
        chi, field, mask = oracle.inputs()
        for name, (spacing, angles) in oracle.GRIDS.items():
            yield from compare(ours, name, oracle.affine(spacing, angles), chi, field, mask)
        folder = data_folder()
        if not folder or not os.path.isdir(os.path.join(folder, "echoes")):
            note("skipped: susceptibility on echoes, which is not there")
            return
        import nibabel
        for which in ("echoes", "echoes_oblique_ge"):
            def load(name):
                image = nibabel.load(os.path.join(folder, which, "derivatives", "truth", "sub-01", "anat",
                                                  "sub-01_%s.nii.gz" % name))
                return np.asarray(image.dataobj, np.float32).astype(float).transpose(2, 1, 0), image.affine
            chi, affine = load("Chimap")
            field, mask = load("desc-total_fieldmap")[0], load("desc-brain_mask")[0]
            yield from compare(ours, which, affine, chi, field, (mask > 0) * 1.)
    finally:
        ours.close()
