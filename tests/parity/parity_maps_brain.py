"""Brain masks of qnet.h and of brainextractor (PyPI), both by BET, beside the true ones of
../shared/data/echoes and echoes_oblique_ge (or $QNET_DATA), where they are there: Dice coefficients
of at least .97, and no lower than brainextractor's at its own threshold and at ours, which there is
threshold^.275. Only isotropic voxels are as brainextractor expects them."""
import contextlib
import io
import os
import warnings
import numpy as np
from parity_data import Ours, data_folder, note


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def rows(build):
    folder = data_folder()
    cases = (("echoes", "sub-01_echo-2_part-mag_MEGRE"), ("echoes_oblique_ge", "sub-01_flip-2_echo-2_part-mag_VFA"))
    if not folder or not os.path.isdir(os.path.join(folder, "echoes")):
        note("skipped: brain masks, as echoes is not there")
        return
    import nibabel
    from brainextractor import BrainExtractor
    ours = Ours(build, "maps_float")
    try:
        for name, image in cases:
            anat = os.path.join(folder, name, "sub-01", "anat", image + ".nii.gz")
            true = os.path.join(folder, name, "derivatives", "truth", "sub-01", "anat", "sub-01_desc-brain_mask.nii.gz")
            magnitude, truth = nibabel.load(anat), np.asarray(nibabel.load(true).dataobj) > 0
            ours.ask("grid", *magnitude.shape, *magnitude.affine[:3].ravel())
            voxels = np.asarray(magnitude.dataobj, np.float32).transpose(2, 1, 0)
            ours.ask("brain", .2, 0, 2000, ours.put("in", voxels), ours.path("out"))
            got = ours.get("out", np.float32).reshape(voxels.shape).transpose(2, 1, 0) > 0
            mine = dice(got, truth)
            yield name + ": Dice with the truth, and .97", mine, .97, max(0., .97 - mine), 0
            for threshold in (.2 ** .275, .5):
                with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    extractor = BrainExtractor(img=magnitude, bt=threshold)
                    extractor.run()
                    theirs = dice(np.asarray(extractor.compute_mask()) > 0, truth)
                what = "%s: Dice, and brainextractor's at %.3g" % (name, threshold)
                yield what, mine, theirs, max(0., theirs - mine), 0
    finally:
        ours.close()
