#!/usr/bin/env python3
"""Writes networks.h: what PyTorch's float64 says about ResNet18, the scan model, Adam, the cosine
schedule and CAM, for weights and inputs made by the formula of formula.h. Needs torch; run it as
    python3 tests/golden/make_networks.py > tests/golden/networks.h
A gradient is kept as its projection sum_j g[j] (formula(100 + i, j) - .5) and its norm, elements in
the order of PyTorch's tensors."""
import numpy as np, torch, sys
from torch import nn
import torch.nn.functional as F
torch.manual_seed(0); torch.set_default_dtype(torch.float64)

def formula(i, n):
    j = np.arange(n, dtype=np.uint64)
    m = np.uint64(0xffffffff)
    h = ((np.uint64(i * 1000003) + j) & m) * np.uint64(2654435761) & m
    h ^= h >> np.uint64(15)
    h = h * np.uint64(2246822519) & m
    h ^= h >> np.uint64(13)
    return h.astype(np.float64) / 4294967296.0

def t(i, shape):
    return torch.from_numpy(formula(i, int(np.prod(shape))).reshape(shape))

class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False); self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False); self.bn2 = nn.BatchNorm2d(o)
        self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if stride == 2 else None
    def forward(self, x):
        r = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + r)

class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False); self.bn1 = nn.BatchNorm2d(64)
        for l in range(4):
            o = 64 << l; i = o if l == 0 else o // 2
            setattr(self, f"layer{l+1}", nn.Sequential(Block(i, o, 1 + (l > 0)), Block(o, o, 1)))
        self.fc = nn.Linear(512, 2)
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        self.map = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        self.features = self.map.mean((2, 3))
        return self.fc(self.features)

def fill_resnet(net):
    for i, (name, p) in enumerate(net.named_parameters()):
        u = t(i, p.shape)
        if p.ndim == 4: v = (u - .5) * 2 * np.sqrt(6 / np.prod(p.shape[1:]))
        elif p.ndim == 2: v = (u - .5) * .2
        elif name == "fc.bias": v = u - .5
        elif name.endswith("weight"): v = .75 + .5 * u
        else: v = (u - .5) * .4
        p.data.copy_(v)
    i = 62
    for name, b in net.named_buffers():
        u = t(i, b.shape) if b.ndim else None
        if name.endswith("mean"): b.copy_((u - .5) * .5)
        elif name.endswith("var"): b.copy_(.5 + u)
        i += 1

def array(name, values):
    print(f"static const double {name}[] = {{")
    v = ["%.15g" % float(x) for x in values]
    for k in range(0, len(v), 4): print("    " + ", ".join(v[k:k+4]) + ",")
    print("};")

def projections(params):
    out = []
    for i, p in enumerate(params):
        g = p.grad.reshape(-1).numpy()
        out += [np.dot(g, formula(100 + i, g.size) - .5), np.linalg.norm(g)]
    return out

def resnet_case(name, batch, h, w, x_index):
    net = ResNet18(); fill_resnet(net)
    x = (t(x_index, (batch, h, w, 3)) - .5).permute(0, 3, 1, 2) * 4
    d = t(201, (batch, 2)) - .5
    net.eval()
    with torch.no_grad(): logits = net(x)
    array(name + "_eval_logits", logits.flatten())
    array(name + "_eval_features", net.features.flatten()[:8])
    cam = torch.einsum("c,chw->hw", net.fc.weight[1], net.map[1]).detach()
    unit = (cam - cam.min()) / (cam.max() - cam.min())
    up = F.interpolate(unit[None, None], (h, w), mode="bilinear", align_corners=False)[0, 0]
    array(name + "_cam_raw", cam.flatten())
    array(name + "_cam", up.flatten()[::97])
    net.train()
    y = net(x)
    array(name + "_train_logits", y.flatten())
    net.zero_grad(); y.backward(d)
    array(name + "_gradients", projections(net.parameters()))
    b = dict(net.named_buffers())
    array(name + "_running", [b[k].dot(t(300, b[k].shape)) for k in
          ("bn1.running_mean", "bn1.running_var", "layer2.0.downsample.1.running_mean",
           "layer2.0.downsample.1.running_var", "layer4.1.bn2.running_mean", "layer4.1.bn2.running_var")])

def scan_case():
    B, T, I, H = 5, 7, 12, 6
    lstm = nn.LSTM(I, H, batch_first=True, bidirectional=True)
    image, scan = nn.Linear(2 * H, 2), nn.Linear(T * 2 * H, 2)
    params = list(lstm.parameters()) + list(image.parameters()) + list(scan.parameters())
    for i, p in enumerate(params): p.data.copy_((t(i, p.shape) - .5) * 1.5)
    x = (t(200, (B, T, I)) - .5) * 2
    length = [7, 3, 1, 5, 7]; label = torch.tensor([0, 1, 1, 0, 1])
    packed = nn.utils.rnn.pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False)
    y, _ = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=T)
    li = image(y); ls = scan(y.reshape(B, -1))
    mask = torch.arange(T)[None] < torch.tensor(length)[:, None]
    image_loss = F.cross_entropy(li[mask], label[:, None].expand(B, T)[mask])
    scan_loss = F.cross_entropy(ls, label)
    (image_loss + scan_loss).backward()
    array("scan_losses", [image_loss, scan_loss])
    array("scan_image_logits", torch.where(mask[..., None], li, torch.zeros(())).flatten())
    array("scan_scan_logits", ls.flatten())
    array("scan_gradients", projections(params))

def optim_case():
    p = nn.Parameter((t(0, (9,)) - .5) * 2); opt = torch.optim.Adam([p], lr=3e-4)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=20, eta_min=1e-4); rates = []
    for k in range(20):
        p.grad = (t(1 + k, (9,)) - .3) * (1 if k % 3 else 1e-3); rates.append(opt.param_groups[0]["lr"])
        opt.step(); sched.step()
    array("adam_p", p.detach()); array("adam_m", opt.state[p]["exp_avg"])
    array("adam_v", opt.state[p]["exp_avg_sq"]); array("cosine", rates)
    avg = torch.optim.swa_utils.AveragedModel(nn.Linear(3, 1, bias=False))
    for k in range(4):
        m = nn.Linear(3, 1, bias=False); m.weight.data.copy_(t(50 + k, (1, 3))); avg.update_parameters(m)
    array("swa", avg.module.weight.detach().flatten())

print("/* networks.h: written by make_networks.py with torch %s, float64. */" % torch.__version__)
# Inputs 208 and 212: noise of 5e-7 on weights and input switches no ReLU or max pool there (that
# would be 1e-2 of a gradient's norm instead of 1e-5), so float kernels can be compared closely.
resnet_case("r64", 2, 64, 64, 208)
resnet_case("r97", 3, 97, 65, 212)
scan_case()
optim_case()
