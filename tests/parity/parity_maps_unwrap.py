"""Unwrapped phases of qnet.h beside those of scikit-image's unwrap_phase, voxel by voxel, but for one
multiple of 2 pi in each component of the mask: made-up phases with more and more noise, and each
echo of ../shared/data/echoes (or $QNET_DATA) where it is there."""
import os
import numpy as np
from scipy.ndimage import label
from skimage.restoration import unwrap_phase
from parity_data import Ours, data_folder, note
from image_oracle import formula


def made_up(noise):
    """A phase of many turns with a pole of both signs, and a ball with a slit; [z][y][x]."""
    z, y, x = np.mgrid[:30, :44, :40].astype(float)
    phase = .02 * (x - 20) ** 2 - .015 * (y - 20) ** 2 + .9 * z + 40 / (3 + np.hypot(x - 12, np.hypot(y - 25, z - 15)))
    phase += noise * (formula(300, phase.size).reshape(phase.shape) - .5)
    mask = (x - 20) ** 2 + (y - 21) ** 2 + 2 * (z - 15) ** 2 < 320
    mask &= ~((np.abs(x - 24) < 1) & (y > 14))
    return np.angle(np.exp(1j * phase)).astype(np.float32), mask


def compare(ours, name, phase, mask):
    ours.ask("grid", *phase.shape[::-1], *np.eye(3, 4).ravel())
    ours.ask("unwrap", ours.put("phase", phase), ours.put("mask", mask.astype(np.float32)), ours.path("out"))
    got = ours.get("out", np.float32).reshape(phase.shape)
    theirs = unwrap_phase(np.ma.array(phase.astype(np.float64), mask=~mask)).data
    turns = (got - theirs) / (2 * np.pi)
    k = np.rint(turns)
    parts, count = label(mask)
    same = sum(np.unique(k[parts == i], return_counts=True)[1].max() for i in range(1, count + 1))
    yield name + ": voxels as theirs", int(same), int(mask.sum()), 1 - same / mask.sum(), 1e-3
    yield name + ": from a whole turn, rad", 0., 0., 2 * np.pi * np.abs(turns - k)[mask].max(), 2e-5
    yield name + ": outside of the mask", float(np.abs(got[~mask]).max()), 0., np.abs(got[~mask]).max(), 0


def rows(build):
    ours = Ours(build, "maps_float")
    try:
        for noise in (0, 1, 2, 3):
            yield from compare(ours, "made-up, noise %d" % noise, *made_up(noise))
        folder = os.path.join(data_folder() or "", "echoes")
        if not os.path.isdir(folder):
            note("skipped: unwrapping of echoes, which is not there")
            return
        import nibabel
        def load(*name):
            return np.asarray(nibabel.load(os.path.join(folder, *name)).dataobj, np.float32).transpose(2, 1, 0)
        mask = load("derivatives", "truth", "sub-01", "anat", "sub-01_desc-brain_mask.nii.gz") > 0
        for echo in range(1, 7):
            phase = load("sub-01", "anat", "sub-01_echo-%d_part-phase_MEGRE.nii.gz" % echo)
            yield from compare(ours, "echoes, echo %d" % echo, phase, mask)
    finally:
        ours.close()
