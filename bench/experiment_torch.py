#!/usr/bin/env python3
"""The whole experiment of build/crossval as a PyTorch user writes it: NIfTI files read, slices cut
out, augmentation, stage 1 with and without weight averaging, features, stage 2, and the statistics,
for the same folder, folds and epochs. bench/peers.py times both, row `experiment`.

    experiment_torch.py --data out/demo-cohort --size 64 --folds 3 --epochs1 8 --epochs2 20

What a careful user does is done: volumes are read once, images prepared and stretched once and kept
in memory, the ResNetSWA goes on from the ResNet's checkpoint, channels_last, Adam in one kernel,
workers that stay, norms folded into convolutions for test images, which come in large batches, the
plain ResNet on held out images alone, all resamples of a bootstrap in one product. Draws are its
own, so results agree with crossval's only as two seeds do. Left out, in its favour: checkpoints,
weights' files, report and pictures. torch.compile is not tried: it takes a minute a network.

The last line is JSON: seconds (without the imports) and, of each input, level and model, the AUC.
"""
import argparse
import copy
import csv
import functools
import glob
import json
import math
import os
import time

import albumentations as A
import cv2
import nibabel
import numpy as np
import torch
from scipy.stats import norm, rankdata

from theirs import ResNet18, folded

nn = torch.nn
F = torch.nn.functional
MODELS = ("ResNet", "ResNetSWA", "Q-Net")
BOX_MM, MARGIN = 96, .08


# ---- Reading: slices of the basal ganglia, stretched once ----

@functools.lru_cache(None)
def volume(path):
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return image.get_fdata(dtype=np.float32), image.header.get_zooms()


def stretch(image):
    """Each channel from its 1st..99th percentile of non-zero pixels to 0..1."""
    for c in range(3):
        brain = image[..., c][image[..., c] != 0]
        low, high = np.percentile(brain, (1, 99)) if brain.size else (0, 1)
        image[..., c] = np.clip((image[..., c] - low) / max(high - low, 1e-12), 0, 1)
    return image


def scan_images(folder, subject, side, crop, most):
    """[slices][side][side][3]: the central `most` slices with the mask; crop: the box around it."""
    at = os.path.join(folder, "**", "%s_%%s.nii*" % subject)
    find = lambda name: glob.glob(at % name, recursive=True)[0]
    maps = [volume(find(n)) for n in ("Chimap", "R2starmap", "T1w")]
    mask, zooms = volume(find("desc-basalganglia_mask"))
    inside = np.flatnonzero(mask.any(axis=(0, 1)))
    first = (len(inside) - min(len(inside), most)) // 2
    inside = inside[first:first + most]
    data = np.stack([m for m, _ in maps], -1)
    nx, ny = data.shape[:2]
    if crop:
        points = np.argwhere(mask > 0)
        cx, cy = points[:, 0].mean(), points[:, 1].mean()
        half = BOX_MM * (1 + 2 * MARGIN) / 2
        to = np.float32([[2 * half / side / zooms[1], 0, cy - half / zooms[1]],
                         [0, 2 * half / side / zooms[0], cx - half / zooms[0]]])
    else:  # the whole slice in the square, larger axis first
        step = max(nx, ny) / side
        to = np.float32([[step, 0, ny / 2 - step * side / 2], [0, step, nx / 2 - step * side / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return [stretch(cv2.warpAffine(np.ascontiguousarray(data[:, :, z]), to, (side, side),
                                   flags=flags)) for z in inside]


def cohort(o, crop):
    """Images of all scans, the scan of each, and labels of the scans."""
    side = o.size + (2 * round(MARGIN * o.size) if crop else 0)
    with open(os.path.join(o.data, "participants.tsv")) as f:
        people = list(csv.DictReader(f, delimiter="\t"))
    images, scan = [], []
    for i, p in enumerate(people):
        found = scan_images(o.data, p["participant_id"], side, crop, o.max_slices)
        images += found
        scan += [i] * len(found)
    return np.stack(images), np.array(scan), np.array([p["group"] == "HH" for p in people]) * 1


# ---- Images of a batch ----

class Images(torch.utils.data.Dataset):
    def __init__(self, images, label, index, o):
        self.images, self.label, self.index = images, label, index
        reflect = cv2.BORDER_REFLECT_101
        self.compose = A.Compose([
            A.HorizontalFlip(p=.5), A.VerticalFlip(p=.5),
            A.RandomBrightnessContrast(brightness_limit=.2, contrast_limit=.2, p=.7),
            A.RandomGamma(gamma_limit=(80, 120), p=.3),
            A.GridDistortion(num_steps=5, distort_limit=.3, border_mode=reflect, p=.25),
            A.ShiftScaleRotate(shift_limit=.0625, scale_limit=.1, rotate_limit=45,
                               border_mode=reflect, p=.5),
            A.RandomCrop(o.size, o.size)])

    def __len__(self):
        return len(self.index)

    def __getitem__(self, k):
        i = self.index[k]
        image = self.compose(image=self.images[i])["image"]
        return torch.from_numpy(np.ascontiguousarray(image)), int(self.label[i])


def start_worker(_):
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def nchw(x):
    """[n][h][w][c] seen as [n][c][h][w]: channels_last without a copy."""
    return x.permute(0, 3, 1, 2)


# ---- Stage 1 ----

def cosine(o, epoch):
    return 1e-4 + 2e-4 * (1 + math.cos(math.pi * epoch / o.epochs1)) / 2


def train_epoch(net, loader, adam, rate):
    net.train()
    for group in adam.param_groups:
        group["lr"] = rate
    for x, y in loader:
        adam.zero_grad(set_to_none=True)
        F.cross_entropy(net(nchw(x)), y).backward()
        adam.step()


def initialised():
    net = ResNet18()
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return net.to(memory_format=torch.channels_last)


def stage1(images, label, index, test, o):
    """The ResNet, then its averaged sequel from the epoch where averaging begins. Returns both."""
    loader = torch.utils.data.DataLoader(
        Images(images, label, index, o), o.batch, shuffle=True, num_workers=o.workers,
        persistent_workers=o.workers > 0, worker_init_fn=start_worker)
    start = o.epochs1 - max(1, round(.25 * o.epochs1))
    resnet = initialised()
    adam = torch.optim.Adam(resnet.parameters(), fused=True)
    for epoch in range(o.epochs1):
        if epoch == start:
            swa = initialised()
            swa.load_state_dict(resnet.state_dict())
            swa_adam = torch.optim.Adam(swa.parameters(), fused=True)
            swa_adam.load_state_dict(adam.state_dict())
        train_epoch(resnet, loader, adam, cosine(o, epoch))
    average = torch.optim.swa_utils.AveragedModel(swa)
    for epoch in range(start, o.epochs1):
        train_epoch(swa, loader, swa_adam, 1e-4)
        average.update_parameters(swa)
    plain = [nchw(x) for x in torch.split(test[index], o.batch)]
    torch.optim.swa_utils.update_bn(plain, average)
    return resnet, average.module


@torch.inference_mode()
def embed(net, x, batch=128):
    """Features and the probability of HH of all images, at test time."""
    net = folded(copy.deepcopy(net).eval())
    fc, net.fc = net.fc, nn.Identity()
    features = torch.cat([net(nchw(part)) for part in torch.split(x, batch)])
    return features, torch.softmax(fc(features).double(), 1)[:, 1].numpy()


# ---- Stage 2 ----

class QNet(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.lstm = nn.LSTM(512, 256, batch_first=True, bidirectional=True)
        self.image_head, self.scan_head = nn.Linear(512, 2), nn.Linear(steps * 512, 2)
        self.steps = steps

    def forward(self, x, length):
        rnn = nn.utils.rnn
        if int(length.min()) < self.steps:
            p = rnn.pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False)
            y = rnn.pad_packed_sequence(self.lstm(p)[0], batch_first=True,
                                        total_length=self.steps)[0]
        else:
            y = self.lstm(x)[0]
        return self.image_head(y), self.scan_head(y.flatten(1))


def stage2(x, length, label, index, o):
    net = QNet(o.max_slices).train()
    adam = torch.optim.Adam(net.parameters(), lr=3e-4, fused=True)
    x, length, label = x[index], length[index], label[index]
    mask = torch.arange(o.max_slices)[None] < length[:, None]
    of_slice = label[:, None].expand(-1, o.max_slices)
    for _ in range(o.epochs2):
        for i in torch.split(torch.randperm(len(index)), o.batch):
            adam.zero_grad(set_to_none=True)
            image, scan = net(x[i], length[i])
            loss = F.cross_entropy(image[mask[i]], of_slice[i][mask[i]])
            (loss + F.cross_entropy(scan, label[i])).backward()
            adam.step()
    return net.eval()


# ---- Statistics ----

def auc_parts(label, score):
    """AUC and DeLong's structural components (Sun & Xu)."""
    p, q = score[label == 1], score[label == 0]
    z = rankdata(np.concatenate([p, q]))
    v10 = (z[:len(p)] - rankdata(p)) / len(q)
    v01 = 1 - (z[len(p):] - rankdata(q)) / len(p)
    return v10.mean(), v10, v01


def bootstrap(label, cluster, score, count, rng):
    """AUCs of `count` resamples of whole clusters: how often each was drawn, times the pairs of
    items of two clusters that are in the right order."""
    positive, negative = label == 1, label == 0
    k = int(cluster.max()) + 1
    of_p, of_n = np.eye(k)[cluster[positive]], np.eye(k)[cluster[negative]]
    p, q = score[positive][:, None], score[negative]
    pairs = of_p.T @ ((p > q) + .5 * (p == q)) @ of_n
    drawn = rng.multinomial(k, np.full(k, 1 / k), count).astype(float)
    with np.errstate(invalid="ignore"):
        return ((drawn @ pairs * drawn).sum(1) /
                ((drawn @ of_p.sum(0)) * (drawn @ of_n.sum(0))))


def statistics(label, scan, scores, o, rng):
    """AUC, sensitivity, specificity of each model; DeLong of each pair; bootstrap by item and by
    scan."""
    found, parts = {}, []
    positive, negative = label == 1, label == 0
    for name, s in zip(MODELS, scores):
        a = auc_parts(label, s)
        parts.append(a)
        decided = s > .5
        found[name] = dict(auc=float(a[0]), sensitivity=float(decided[positive].mean()),
                           specificity=float(1 - decided[negative].mean()))
    for i in range(3):
        for j in range(i + 1, 3):
            d10, d01 = parts[i][1] - parts[j][1], parts[i][2] - parts[j][2]
            error = math.sqrt(d10.var(ddof=1) / len(d10) + d01.var(ddof=1) / len(d01))
            z = (parts[i][0] - parts[j][0]) / max(error, 1e-300)
            found["%s - %s" % (MODELS[i], MODELS[j])] = dict(z=z, p=float(2 * norm.sf(abs(z))))
    for kind, cluster in (("item", np.arange(len(label))), ("scan", scan)):
        for name, values in zip(MODELS, scores):
            draws = bootstrap(label, cluster, values, o.bootstrap, rng)
            found[name]["interval_" + kind] = np.nanpercentile(draws, (2.5, 97.5)).tolist()
    return found


# ---- The experiment ----

def folds_of(label, o, rng):
    """The fold of each scan, stratified by label."""
    fold = np.empty(len(label), int)
    at = 0
    for value in (0, 1):
        i = rng.permutation(np.flatnonzero(label == value))
        fold[i] = (np.arange(len(i)) + at) % o.folds
        at += len(i)
    return fold


def run(o):
    rng = np.random.default_rng(o.seed)
    out = {}
    for crop in (1, 0):
        images, scan, label = cohort(o, crop)
        cut = (images.shape[1] - o.size) // 2
        test = torch.from_numpy(np.ascontiguousarray(
            images[:, cut:cut + o.size, cut:cut + o.size]))
        of_slice, scans = label[scan], len(label)
        first = np.searchsorted(scan, np.arange(scans))
        length = np.bincount(scan, minlength=scans)
        slices = np.arange(len(scan)) - first[scan]  # within the scan
        fold = folds_of(label, o, rng)
        image_score, scan_score = np.zeros((3, len(scan))), np.zeros((3, scans))
        for k in range(o.folds):
            train, held = np.flatnonzero(fold[scan] != k), np.flatnonzero(fold[scan] == k)
            resnet, averaged = stage1(images, of_slice, train, test, o)
            image_score[0, held] = embed(resnet, test[held])[1]
            features, p = embed(averaged, test)
            image_score[1, held] = p[held]
            x = torch.zeros(scans, o.max_slices, 512)
            x[torch.from_numpy(scan), torch.from_numpy(slices)] = features.clone()
            size = torch.from_numpy(length)
            net = stage2(x, size, torch.from_numpy(label), np.flatnonzero(fold != k), o)
            with torch.inference_mode():
                i = np.flatnonzero(fold == k)
                image, whole = net(x[i], size[i])
                p = torch.softmax(image.double(), 2)[:, :, 1].numpy()
                for row, s in enumerate(i):
                    image_score[2, first[s]:first[s] + length[s]] = p[row, :length[s]]
                scan_score[2, i] = torch.softmax(whole.double(), 1)[:, 1].numpy()
        for m in range(2):  # the mean slice
            scan_score[m] = np.bincount(scan, image_score[m], scans) / length
        name = "crop" if crop else "full"
        out[name + ", image"] = statistics(of_slice, scan, image_score, o, rng)
        out[name + ", scan"] = statistics(label, np.arange(scans), scan_score, o, rng)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, metavar="FOLDER", help="as crossval reads it")
    for name, value, text in (("size", 64, "side of the network's input"), ("folds", 3, "folds"),
                              ("epochs1", 8, "epochs of stage 1"),
                              ("epochs2", 20, "epochs of stage 2"),
                              ("batch", 32, "images, or scans, per step"),
                              ("max-slices", 8, "slices of a scan, the central ones"),
                              ("bootstrap", 2000, "resamples"), ("seed", 1, "of all draws"),
                              ("threads", os.cpu_count() or 2, "of the arithmetic"),
                              ("workers", 0, "processes that prepare images; 0: none beside")):
        p.add_argument("--" + name, type=int, default=value, help="%s (%d)" % (text, value))
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    start = time.perf_counter()
    found = run(o)
    seconds = time.perf_counter() - start
    for name, table in found.items():
        print("%-12s" % name, "  ".join("%s %.3f" % (m, table[m]["auc"]) for m in MODELS))
    print(json.dumps({"seconds": seconds, "auc": {n: [t[m]["auc"] for m in MODELS]
                                                  for n, t in found.items()}}))


if __name__ == "__main__":
    main()
