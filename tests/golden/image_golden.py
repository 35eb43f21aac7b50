"""Prints the arrays of tests/test_image.c: pixels of a smooth test image after each transform, by
Albumentations 1.0.3 over OpenCV 5.0 (pip install albumentations==1.0.3 opencv-python-headless), and
percentiles by NumPy.  python3 image_golden.py"""
import numpy as np
import albumentations.augmentations.functional as F
import albumentations.augmentations.geometric.functional as G

H, W = 43, 52  # neither is a multiple of the 5 grid steps
POINTS = [(0, 0), (0, 51), (42, 0), (42, 51), (5, 40), (21, 26), (30, 3), (13, 17), (40, 44), (8, 25)]


def image():
    y, x, c = np.meshgrid(np.arange(H), np.arange(W), np.arange(3), indexing="ij")
    return 0.5 + 0.3 * np.sin(0.11 * x + 0.5 * c) * np.cos(0.13 * y) + 0.15 * np.sin(0.07 * (x + 2 * y))


def show(name, out):
    print("static const float %s[] = {" % name)
    for y, x in POINTS:
        print("    " + " ".join("%.7ff," % v for v in out[y, x]))
    print("};")


grid_x = [1.21, 0.83, 0.74, 1.29, 0.95, 1.11]
grid_y = [0.72, 1.05, 1.3, 0.88, 1.17, 0.91]
img = image().astype(np.float32)
if __name__ == "__main__":
    show("golden_source", img)
    show("golden_bc", F.brightness_contrast_adjust(img.copy(), 1.17, -0.12, True))
    show("golden_gamma", F.gamma_transform(img.copy(), 0.83))
    show("golden_grid", F.grid_distortion(img, 5, grid_x, grid_y))
    show("golden_affine", G.shift_scale_rotate(img, 31.0, 0.93, 0.05, -0.04))
    show("golden_flip", img[::-1, ::-1])
    raw = np.where(img > 0.45, (img - 0.5) * 700, 0).astype(np.float32)
    for c in range(3):
        v = raw[..., c][raw[..., c] != 0].astype(np.float64)
        print("/* channel %d: %d pixels */ {%.9g, %.9g}, {%.9g, %.9g}," % ((c, v.size) + tuple(np.percentile(v, [1, 99])) + tuple(np.percentile(v, [12.5, 50]))))
    import torch
    a = np.array([[np.sin(0.9 * x + 0.4) * np.cos(0.7 * y) for x in range(7)] for y in range(5)], np.float32)
    for size in ((8, 4), (3, 11)):
        r = torch.nn.functional.interpolate(torch.tensor(a)[None, None], size=size, mode="bilinear", align_corners=False)
        print("resize to", size, ", ".join("%.7ff" % v for v in r.numpy().ravel()))
