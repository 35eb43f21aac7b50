"""networks.py: the two networks of Q-Net in PyTorch, their weights by the formula of formula.h, and
the sketches by which a tensor is compared without storing it. Shared by make_networks.py (the
committed numbers) and tests/parity (the live comparison). A tensor is a NumPy array in the order of
qnet.h: activations [batch][height][width][channels], convolution weights [kh][kw][in][out]."""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SKETCH_STREAM = 777


def bits(i, n):
    """formula_bits of formula.h for j = 0..n-1, as uint64."""
    m = np.uint64(0xffffffff)
    j = np.arange(n, dtype=np.uint64)
    h = ((np.uint64(i * 1000003) + j) & m) * np.uint64(2654435761) & m
    h ^= h >> np.uint64(15)
    h = h * np.uint64(2246822519) & m
    h ^= h >> np.uint64(13)
    return h


def formula(i, n):
    return bits(i, n).astype(np.float64) / 4294967296.0


def t(i, shape):
    return torch.from_numpy(formula(i, int(np.prod(shape))).reshape(shape))


def rounded(x):
    """The float32 next to x, as float64: what a float and a double network can both hold."""
    return x.to(torch.float32).to(torch.float64)


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False),
                                        nn.BatchNorm2d(o)) if stride == 2 else None

    def forward(self, x, keep):
        r = x
        if self.downsample is not None:
            r = keep("downsample", self.downsample[1](keep("downsample.0", self.downsample[0](x))))
        y = keep("relu", F.relu(keep("bn1", self.bn1(keep("conv1", self.conv1(x))))))
        return F.relu(keep("bn2", self.bn2(keep("conv2", self.conv2(y)))) + r)


class ResNet18(nn.Module):
    """torchvision's ResNet18 with torchvision's names; after forward, self.tensors holds every
    tensor that tests/plain_resnet.h hands out, under the same names, and the outputs of norms
    before ReLUs, of which it hands out the gradients."""
    def __init__(self, classes=2):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for k in range(4):
            o = 64 << k
            i = o if k == 0 else o // 2
            setattr(self, f"layer{k + 1}", nn.Sequential(Block(i, o, 1 + (k > 0)), Block(o, o, 1)))
        self.fc = nn.Linear(512, classes)
        self.tensors = {}

    def keep(self, name, x):
        if x.requires_grad:
            x.retain_grad()
        self.tensors[name] = x
        return x

    def forward(self, x):
        self.tensors = {}
        keep = self.keep
        x = keep("bn1", self.bn1(keep("conv1", self.conv1(x))))
        x = keep("maxpool", F.max_pool2d(keep("relu", F.relu(x)), 3, 2, 1))
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            for k, block in enumerate(getattr(self, layer)):
                name = f"{layer}.{k}"
                x = keep(name, block(x, lambda part, v, name=name: keep(f"{name}.{part}", v)))
        return keep("fc", self.fc(keep("avgpool", x.mean((2, 3)))))


BLOCKS = [f"layer{k}.{j}" for k in (1, 2, 3, 4) for j in (0, 1)]
OUTPUTS = ["relu", "maxpool"] + BLOCKS + ["avgpool", "fc"]


def norms(net):
    """The 20 batch norms with their names, in the order of the parameter table."""
    return [(n, m) for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]


def fill_resnet(net, shifts=None):
    """formula_resnet of formula_resnet.h. shifts: {norm's name: its bias}, else the formula's."""
    with torch.no_grad():
        for i, (name, p) in enumerate(net.named_parameters()):
            u = t(i, p.shape)
            if p.ndim == 4:
                v = (u - .5) * 2 * np.sqrt(6 / np.prod(p.shape[1:]))
            elif p.ndim == 2:
                v = (u - .5) * .2
            elif name == "fc.bias":
                v = u - .5
            elif name.endswith("weight"):
                v = .75 + .5 * u
            else:
                v = (u - .5) * .4
                if shifts is not None and name[:-5] in shifts:
                    v = torch.from_numpy(shifts[name[:-5]])
            p.copy_(rounded(v))
        i = 62
        for name, b in net.named_buffers():
            u = t(i, b.shape) if b.ndim else None
            if name.endswith("mean"):
                b.copy_(rounded((u - .5) * .5))
            elif name.endswith("var"):
                b.copy_(rounded(.5 + u))
            i += 1


def images(i, batch, h, w):
    """x[batch][3][h][w] in -2..2, float64 that float32 holds exactly."""
    return rounded((t(i, (batch, h, w, 3)) - .5) * 4).permute(0, 3, 1, 2).contiguous()


class ScanModel(nn.Module):
    def __init__(self, features, hidden, steps, classes=2):
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.image_head = nn.Linear(2 * hidden, classes)
        self.scan_head = nn.Linear(steps * 2 * hidden, classes)

    def forward(self, x, length):
        """image logits (0 at padded steps), scan logits; self.y: the LSTM's output."""
        steps = x.shape[1]
        packed = nn.utils.rnn.pack_padded_sequence(x, length, batch_first=True,
                                                   enforce_sorted=False)
        self.y, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True,
                                                     total_length=steps)
        self.mask = torch.arange(steps)[None] < torch.tensor(length)[:, None]
        image = torch.where(self.mask[..., None], self.image_head(self.y), 0.0)
        return image, self.scan_head(self.y.flatten(1))

    def losses(self, image, scan, label):
        """Mean cross-entropy over all slices, and over the scans."""
        each = label[:, None].expand(image.shape[:2])
        return (F.cross_entropy(image[self.mask], each[self.mask]), F.cross_entropy(scan, label))


def fill_scan(net):
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            scale = .125 if i < 8 else .0625
            p.copy_(rounded((t(i, p.shape) - .5) * scale))


def to_array(x):
    """A tensor as float64 in the order of qnet.h; only what has four dimensions is turned."""
    x = x.detach().to(torch.float64)
    return x.numpy()


def activation(x):
    x = to_array(x)
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def weight(x):
    x = to_array(x)
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x


_bits = bits(SKETCH_STREAM, 1 << 22)
_sign = 1.0 - 2.0 * (_bits & np.uint64(1)).astype(np.float64)


def sketch(x, k):
    """golden_sketch of distance.h: k sums."""
    x = np.ascontiguousarray(x).reshape(-1)
    bucket = ((_bits[:x.size] >> np.uint64(16)) * np.uint64(k) >> np.uint64(16)).astype(np.int64)
    return np.bincount(bucket, weights=_sign[:x.size] * x, minlength=k)


def distance(x, y):
    """|x - y| / |y|, Euclidean norms over the whole tensor."""
    n = np.linalg.norm(y)
    return np.linalg.norm(np.asarray(x, np.float64) - y) / (n if n > 0 else 1.0)


# ---- The cases ---------------------------------------------------------------------------------

# Weights are such that no ReLU is near its kink in training mode (see choose_shifts) and inputs
# such that no maximum of the pool is near a tie: then gradients are smooth, and what differs is
# rounding.
CASES = {"224": (2, 224, 224, 1246), "128": (2, 128, 128, 1103), "97x65": (2, 97, 65, 1039)}
DLOGITS = 201
SHIFT_STEPS = 4096   # biases are whole multiples of 1/4096
SHIFT_RANGE = 1228   # within +-.3


def choose_shifts(inputs):
    """For each batch norm before a ReLU the bias of every channel, in 1/4096: of those within +-.3
    the one that leaves the widest gap around 0 among all the ReLU's arguments, over all inputs in
    training mode. Returns {norm: integers} and the narrowest gap found."""
    net = ResNet18()
    fill_resnet(net)
    net = net.double()
    shifts, narrowest = {}, np.inf
    candidate = np.arange(-SHIFT_RANGE, SHIFT_RANGE + 1)

    def relu(name, norm, xs, residuals):
        nonlocal narrowest
        zs = [F.batch_norm(x, None, None, norm.weight, None, True) + r
              for x, r in zip(xs, residuals)]
        best = np.zeros(zs[0].shape[1], np.int64)
        for c in range(best.size):
            v = np.sort(np.concatenate([z[:, c].reshape(-1).numpy() for z in zs]))
            v = np.concatenate([[-1e9], v, [1e9]])
            at = np.searchsorted(v, -candidate / SHIFT_STEPS)
            gap = np.minimum(v[at] + candidate / SHIFT_STEPS, -candidate / SHIFT_STEPS - v[at - 1])
            best[c] = candidate[np.argmax(gap)]
            narrowest = min(narrowest, gap.max())
        shifts[name] = best
        b = torch.from_numpy(best / SHIFT_STEPS)[None, :, None, None]
        return [F.relu(z + b) for z in zs]

    with torch.no_grad():
        xs = relu("bn1", net.bn1, [net.conv1(x) for x in inputs], [0.0] * len(inputs))
        xs = [F.max_pool2d(x, 3, 2, 1) for x in xs]
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            for k, block in enumerate(getattr(net, layer)):
                name = f"{layer}.{k}"
                rs = xs
                if block.downsample is not None:
                    bn = block.downsample[1]
                    rs = [F.batch_norm(block.downsample[0](x), None, None, bn.weight, bn.bias, True)
                          for x in xs]
                ys = relu(name + ".bn1", block.bn1, [block.conv1(x) for x in xs], [0.0] * len(xs))
                xs = relu(name + ".bn2", block.bn2, [block.conv2(y) for y in ys], rs)
    return shifts, narrowest


def pool_margin(x):
    """The smallest difference of a pool window's two largest values, where the larger is positive
    for any bias within +-.3: stem of fill_resnet in training mode."""
    net = ResNet18()
    fill_resnet(net)
    net = net.double()
    with torch.no_grad():
        z = F.batch_norm(net.conv1(x), None, None, net.bn1.weight, None, True)
        z = F.pad(z, (1, 1, 1, 1), value=-1e9)
        two = z.unfold(2, 3, 2).unfold(3, 3, 2).flatten(4).topk(2, 4).values
        gap = (two[..., 0] - two[..., 1])[two[..., 0] > -.3]
        return float(gap.min())


def run_resnet(case, dtype, shifts):
    """One case: {(pass, name): array} with passes eval, train (outputs), grad, stat; and the masks
    of all ReLUs in training mode."""
    batch, h, w, index = CASES[case]
    x = images(index, batch, h, w).to(dtype)
    d = rounded(t(DLOGITS, (batch, 2)) - .5).to(dtype)
    net = ResNet18().double()
    fill_resnet(net, shifts)
    net = net.to(dtype)
    out = {}
    net.eval()
    with torch.no_grad():
        net(x)
    for n in OUTPUTS:
        out["eval", n] = activation(net.tensors[n]).copy()
    net.train()
    net(x).backward(d)
    for n in OUTPUTS:
        out["train", n] = activation(net.tensors[n]).copy()
    for n, p in net.named_parameters():
        out["grad", n] = weight(p.grad)
    for n, m in norms(net):
        out["stat", n + ".running_mean"] = to_array(m.running_mean)
        out["stat", n + ".running_var"] = to_array(m.running_var)
    relus = [n for n in net.tensors if n.endswith("relu")] + BLOCKS
    masks = {n: (net.tensors[n] > 0).numpy() for n in relus}
    masks["maxpool"] = F.max_pool2d(net.tensors["relu"], 3, 2, 1, return_indices=True)[1].numpy()
    return out, masks


SCAN = {"features": 512, "hidden": 256, "steps": 24}
SCAN_LENGTH = [24, 17, 1, 9]
SCAN_LABEL = [0, 1, 1, 0]


def run_scan(dtype):
    net = ScanModel(**SCAN).double()
    fill_scan(net)
    net = net.to(dtype)
    x = rounded(t(200, (len(SCAN_LENGTH), SCAN["steps"], SCAN["features"])) * 2).to(dtype)
    image, scan = net(x, SCAN_LENGTH)
    image_loss, scan_loss = net.losses(image, scan, torch.tensor(SCAN_LABEL))
    (image_loss + scan_loss).backward()
    out = {("train", "lstm"): to_array(net.y), ("train", "image_head"): to_array(image),
           ("train", "scan_head"): to_array(scan)}
    for n, p in net.named_parameters():
        out["grad", n] = weight(p.grad)
    return out, [float(image_loss.detach()), float(scan_loss.detach())]


def run_attribution(dtype):
    """What qnet_scan_attribution is, of the same scans: d (logit of HH - logit of HC) / d features."""
    net = ScanModel(**SCAN).double()
    fill_scan(net)
    x = rounded(t(200, (len(SCAN_LENGTH), SCAN["steps"], SCAN["features"])) * 2).to(dtype)
    x.requires_grad_()
    _, scan = net.to(dtype)(x, SCAN_LENGTH)
    return {("attribution", "features"):
            to_array(torch.autograd.grad((scan[:, 1] - scan[:, 0]).sum(), x)[0])}


# 20 steps of Adam with the cosine schedule, then 5 at its last rate with a snapshot after each,
# their average, and one pass over the first 5 batches that finds the batch norms' statistics anew.
# At the paper's rates differences grow a hundred-thousandfold in 25 steps (Adam moves a weight by
# the sign of its gradient, however small): those are for float64. At gentle ones float32 can
# follow, but its weights cannot take steps of 2e-6 exactly: rounding the weights alone moves the
# losses by up to 1.2e-5, in PyTorch's fused Adam as in ours. So the gentle oracle is computed in
# float64 with weights that are rounded to float32 after each step.
RUNS = {"paper": {"batch": 4, "batches": 25, "rate": 3e-4, "last_rate": 1e-4},
        "gentle": {"batch": 12, "batches": 5, "rate": 2e-6, "last_rate": 2e-6 / 3}}
ADAM_STEPS, SNAPSHOTS = 20, 5


def train_batch(k, batch):
    x = images(2000 + k, batch, 48, 40)
    return x, torch.tensor([(j * 7 + k * 3) // 2 % 2 for j in range(batch)])


def run_train(run, dtype):
    """losses of the 25 steps, {(part, name): array}: "weights" after step 20, "swa" averaged with
    its statistics, and ("swa", "fc"): the averaged network's logits in evaluation mode, batch 0."""
    c = RUNS[run]
    net = ResNet18().double()
    fill_resnet(net)
    net = net.to(dtype)
    batches = [(x.to(dtype), y)
               for x, y in (train_batch(k, c["batch"]) for k in range(c["batches"]))]
    optimiser = torch.optim.Adam(net.parameters(), lr=c["rate"], fused=dtype == torch.float32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=ADAM_STEPS,
                                                          eta_min=c["last_rate"])
    average = torch.optim.swa_utils.AveragedModel(net)
    losses, out = [], {}

    def part(name, net):
        for k, p in net.named_parameters():
            out[name, k] = weight(p).copy()
        for k, m in norms(net):
            out[name, k + ".running_mean"] = to_array(m.running_mean).copy()
            out[name, k + ".running_var"] = to_array(m.running_var).copy()

    net.train()
    for k in range(ADAM_STEPS + SNAPSHOTS):
        x, y = batches[k % len(batches)]
        optimiser.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()
        if run == "gentle":
            with torch.no_grad():
                for p in net.parameters():
                    p.copy_(p.float())
        losses.append(float(loss.detach()))
        if k < ADAM_STEPS:
            schedule.step()
        if k == ADAM_STEPS - 1:
            part("weights", net)
        if k >= ADAM_STEPS:
            average.update_parameters(net)
    torch.optim.swa_utils.update_bn([x for x, _ in batches[:SNAPSHOTS]], average)
    part("swa", average.module)
    average.eval()
    with torch.no_grad():
        out["swa", "fc"] = to_array(average(batches[0][0]))
    return losses, out


def read_shifts(path):
    """The biases of choose_shifts as sketches.h has them."""
    import re
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-"
    table = open(path).read().split("golden_biases[] = {")[1].split("};")[0]
    shifts = {}
    for name, body in re.findall(r'\{"([^"]*)\.bias",((?:\s*"[^"]*")+)\}', table):
        s = "".join(re.findall(r'"([^"]*)"', body))
        shifts[name] = np.array([digits.index(s[k]) * 64 + digits.index(s[k + 1]) - 2048
                                 for k in range(0, len(s), 2)]) / SHIFT_STEPS
    return shifts
