"""The other side of bench/peers.py: PyTorch, ONNX Runtime, Albumentations and scikit-learn doing
the work of bench/ours.c on the same inputs, at settings that the commands name. Reads one command
a line, answers one line of JSON, as bench/ours.c does; the last word of a command is the setting.

    hello
    free
    train FILE SIZE BATCH STEPS default|channels_last|compile
    infer FILE SIZE BATCH ROUNDS default|channels_last|folded|folded_channels_last|jit|mkldnn
    infer FILE SIZE BATCH ROUNDS compile
    infer FILE SIZE BATCH ROUNDS onnxruntime|onnxruntime_sleep
    stage2 FILE RAGGED STEPS plain|packed|time_major|without_onednn
    augment STRETCH ROUNDS            batches of 64, one thread
    augmented KIND FILE               values: difference of our image from theirs: largest, bound
    scores FILE COUNT                 labels and both scores for R
    delong COUNT ROUNDS               Sun & Xu's form on numpy and scipy
    bootstrap COUNT RESAMPLES PROCESSES
    memory

And as a program that starts, predicts and ends: theirs.py predict FILE.pth SIZE IMAGE.
"""
import json
import os
import sys
import time

if len(sys.argv) > 1 and sys.argv[1] == "predict":
    # Nothing is imported here that a prediction does not need.
    import torch
else:
    import math
    import numpy as np
    import torch

now = time.process_time if os.environ.get("PEERS_CLOCK") == "processor" else time.perf_counter
nn = torch.nn
F = torch.nn.functional
PREPARED, CROPPED = 260, 224


# ---- Networks, with torchvision's and PyTorch's names ----

class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride == 2:
            self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, 2, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += shortcut
        return self.relu(y)


class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for k in range(4):
            o = 64 << k
            i = o if k == 0 else o // 2
            setattr(self, "layer%d" % (k + 1),
                    nn.Sequential(Block(i, o, 1 + (k > 0)), Block(o, o, 1)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, 2)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class ScanModel(nn.Module):
    """BiLSTM over the slices of a scan, a head on each step, a head on all steps."""

    def __init__(self, setting):
        super().__init__()
        self.setting = setting
        self.lstm = nn.LSTM(512, 256, batch_first=setting != "time_major", bidirectional=True)
        self.image_head = nn.Linear(512, 2)
        self.scan_head = nn.Linear(24 * 512, 2)

    def forward(self, x, length):
        if self.setting == "packed":
            p = nn.utils.rnn.pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False)
            y, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(p)[0], batch_first=True,
                                                    total_length=24)
        elif self.setting == "time_major":
            y = self.lstm(x.transpose(0, 1))[0].transpose(0, 1)
        else:
            y = self.lstm(x)[0]
        return self.image_head(y), self.scan_head(y.reshape(y.shape[0], -1))


if len(sys.argv) > 1 and sys.argv[1] == "predict":
    with torch.device("meta"):  # no time for initial weights that the file replaces
        net = ResNet18()
    net.load_state_dict(torch.load(sys.argv[2], weights_only=True, mmap=True), assign=True)
    net.eval()
    size = int(sys.argv[3])
    image = torch.from_file(sys.argv[4], size=size * size * 3).view(1, size, size, 3)
    with torch.inference_mode():
        print("%.9g" % torch.softmax(net(image.permute(0, 3, 1, 2)), 1)[0, 1].item(), flush=True)
    sys.exit(0)


# ---- The same numbers as in ours.c ----

def formula(index, count, first=0):
    j = np.arange(first, first + count, dtype=np.uint64)
    mask = np.uint64(0xffffffff)
    h = ((np.uint64(index * 1000003) + j) & mask) * np.uint64(2654435761) & mask
    h ^= h >> np.uint64(15)
    h = h * np.uint64(2246822519) & mask
    h ^= h >> np.uint64(13)
    return h.astype(np.float64) / 4294967296.0


def formula_input(index, shape):
    out = np.empty(int(np.prod(shape)), np.float32)
    for at in range(0, out.size, 1 << 20):  # piece by piece: the peak of memory is looked at
        n = min(1 << 20, out.size - at)
        out[at:at + n] = (formula(index, n, at) - .5) * 4
    return out.reshape(shape)


def read_safetensors(path):
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(size))
        data = f.read()
    kind = {"F32": np.float32, "I64": np.int64}
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            out[name] = torch.from_numpy(
                np.frombuffer(data[a:b], kind[t["dtype"]]).reshape(t["shape"]).copy())
    return out


def load(model, path):
    missing, extra = model.load_state_dict(read_safetensors(path), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or extra:
        raise RuntimeError("weights do not fit: missing %s, extra %s" % (missing, extra))
    return model


state = {}


def made(key, make):
    """What `make` returned for this key when it was first asked for, until `free`."""
    if key not in state:
        state[key] = make()
    return state[key]


# ---- Training ----

def train(path, size, batch, steps, setting):
    def make():
        net = load(ResNet18(), path).train()
        x = torch.from_numpy(formula_input(7, (batch, size, size, 3))).permute(0, 3, 1, 2)
        layout = torch.contiguous_format if setting == "default" else torch.channels_last
        net = net.to(memory_format=layout)
        x = x.contiguous(memory_format=layout)
        adam = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
        run = torch.compile(net) if setting == "compile" else net
        return run, x, torch.arange(batch) % 2, adam

    net, x, label, adam = made(("train", path, size, batch, setting), make)
    seconds, losses = [], []
    for _ in range(steps):
        start = now()
        adam.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(x), label)
        loss.backward()
        adam.step()
        losses.append(loss.item())
        seconds.append(now() - start)
    return seconds, losses


def stage2(path, ragged, steps, setting):
    def make():
        net = load(ScanModel(setting), path).train()
        x = torch.from_numpy(formula_input(8, (64, 24, 512)))
        index = torch.arange(64)
        length = 12 + index * 5 % 13 if ragged else torch.full((64,), 24)
        mask = torch.arange(24)[None] < length[:, None]
        label = index % 2
        adam = torch.optim.Adam(net.parameters(), lr=3e-4, fused=True)
        return net, x, length, mask, label, label[:, None].expand(64, 24)[mask], adam

    if ragged and setting != "packed":
        raise RuntimeError("scans of different length need packed sequences")
    net, x, length, mask, label, slice_label, adam = made(("stage2", path, ragged, setting), make)
    seconds, losses = [], []
    with torch.backends.mkldnn.flags(enabled=setting != "without_onednn"):
        for _ in range(steps):
            start = now()
            adam.zero_grad(set_to_none=True)
            image, scan = net(x, length)
            image = image[mask] if ragged else image.reshape(-1, 2)
            loss = F.cross_entropy(image, slice_label) + F.cross_entropy(scan, label)
            loss.backward()
            adam.step()
            losses.append(loss.item())
            seconds.append(now() - start)
    return seconds, losses


# ---- Inference ----

def folded(net):
    """Batch norm folded into the convolutions before it."""
    fuse = torch.nn.utils.fusion.fuse_conv_bn_eval
    pairs = [(net, "conv1", "bn1")]
    for k in range(1, 5):
        for block in getattr(net, "layer%d" % k):
            pairs += [(block, "conv1", "bn1"), (block, "conv2", "bn2")]
            if block.downsample is not None:
                pairs.append((block.downsample, "0", "1"))
    for module, conv, norm in pairs:
        setattr(module, conv, fuse(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
    return net


def number_field(field, value):
    out = bytearray()
    for v in (field << 3, value):
        while v >= 128:
            out.append(v & 127 | 128)
            v >>= 7
        out.append(v)
    return bytes(out)


def bytes_field(field, value):
    value = value.encode() if isinstance(value, str) else bytes(value)
    head = number_field(field, 0)[:-1]  # the key; its wire type is 2
    size = number_field(0, len(value))[1:]
    return bytes([head[0] | 2]) + head[1:] + size + value


def onnx_model(net, batch, size):
    """The folded network as an ONNX file (protocol buffers, by hand: no exporter is needed)."""
    nodes, tensors = [], []

    def tensor(name, value):
        value = value.detach().contiguous().numpy().astype(np.float32)
        tensors.append(bytes_field(5, b"".join(number_field(1, d) for d in value.shape) +
                                   number_field(2, 1) + bytes_field(8, name) +
                                   bytes_field(9, value.tobytes())))
        return name

    def node(kind, inputs, **attributes):
        out = "t%d" % len(nodes)
        body = b"".join(bytes_field(1, i) for i in inputs) + bytes_field(2, out)
        body += bytes_field(3, "n%d" % len(nodes)) + bytes_field(4, kind)
        for name, value in attributes.items():
            a = bytes_field(1, name)
            if isinstance(value, int):
                a += number_field(3, value) + number_field(20, 2)
            else:
                a += b"".join(number_field(8, v) for v in value) + number_field(20, 7)
            body += bytes_field(5, a)
        nodes.append(bytes_field(1, body))
        return out

    def conv(x, c):
        n = len(nodes)
        w, b = tensor("w%d" % n, c.weight), tensor("b%d" % n, c.bias)
        k, s, p = c.kernel_size[0], c.stride[0], c.padding[0]
        return node("Conv", [x, w, b], kernel_shape=[k, k], strides=[s, s], pads=[p, p, p, p])

    def shape_of(name, dims):
        dims = b"".join(bytes_field(1, number_field(1, d)) for d in dims)
        kind = bytes_field(1, number_field(1, 1) + bytes_field(2, dims))
        return bytes_field(1, name) + bytes_field(2, kind)

    x = node("Relu", [conv("x", net.conv1)])
    x = node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for k in range(1, 5):
        for block in getattr(net, "layer%d" % k):
            y = conv(node("Relu", [conv(x, block.conv1)]), block.conv2)
            if block.downsample is not None:
                x = conv(x, block.downsample[0])
            x = node("Relu", [node("Add", [y, x])])
    x = node("Flatten", [node("GlobalAveragePool", [x])], axis=1)
    x = node("Gemm", [x, tensor("fc_w", net.fc.weight), tensor("fc_b", net.fc.bias)], transB=1)
    x = node("Softmax", [x], axis=1)
    graph = b"".join(nodes) + bytes_field(2, "resnet18") + b"".join(tensors)
    graph += bytes_field(11, shape_of("x", (batch, 3, size, size)))
    graph += bytes_field(12, shape_of(x, (batch, 2)))
    return (number_field(1, 8) + bytes_field(8, bytes_field(1, "") + number_field(2, 13)) +
            bytes_field(7, graph))


def infer(path, size, batch, rounds, setting):
    def make():
        net = load(ResNet18(), path).eval()
        x = torch.from_numpy(formula_input(7, (batch, size, size, 3))).permute(0, 3, 1, 2)
        x = x.contiguous()
        if setting.startswith("onnxruntime"):
            import onnxruntime
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            options.intra_op_num_threads = torch.get_num_threads()
            if setting.endswith("_sleep"):
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            with torch.no_grad():
                model = onnx_model(folded(net), batch, size)
            run = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            feed = {"x": x.numpy()}
            return lambda: run.run(None, feed)[0][:, 1]
        if setting.startswith("folded") or setting == "mkldnn":
            net = folded(net)
        if setting in ("channels_last", "folded_channels_last", "compile"):
            net = net.to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
        if setting == "jit":
            with torch.no_grad():
                net = torch.jit.trace(net, x, check_trace=False)
                net = torch.jit.optimize_for_inference(torch.jit.freeze(net))
        if setting == "compile":
            from torch._inductor import config
            config.freezing = True
            net = torch.compile(net)
        if setting == "mkldnn":
            from torch.utils import mkldnn
            net = mkldnn.to_mkldnn(net)

            def by_mkldnn():
                return torch.softmax(net(x.to_mkldnn()).to_dense(), 1)[:, 1].numpy()
            return by_mkldnn
        return lambda: torch.softmax(net(x), 1)[:, 1].numpy()

    # no_grad for what freezes weights; inference_mode is as fast where both work
    with torch.no_grad() if setting in ("jit", "compile", "mkldnn") else torch.inference_mode():
        run = made(("infer", path, size, batch, setting), make)
        seconds = []
        for _ in range(rounds):
            start = now()
            out = run()
            seconds.append(now() - start)
    return seconds, [float(v) for v in out]


# ---- Augmentation ----

def smooth_image():
    y, x, c = np.meshgrid(np.arange(PREPARED), np.arange(PREPARED), np.arange(3), indexing="ij")
    return (.5 + .3 * np.sin(.11 * x + .5 * c) * np.cos(.13 * y) +
            .15 * np.sin(.07 * (x + 2 * y))).astype(np.float32)


def stretched(image):
    out = np.empty_like(image)
    for c in range(3):
        v = image[..., c]
        low, high = np.percentile(v[v != 0], [1, 99])
        out[..., c] = np.clip((v - low) / (high - low), 0, 1)
    return out


def augment(stretch, rounds):
    def make():
        import albumentations as A
        import cv2
        cv2.setNumThreads(1)
        return A.Compose([A.HorizontalFlip(p=1), A.VerticalFlip(p=1),
                          A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1),
                          A.GridDistortion(p=1), A.ShiftScaleRotate(p=1),
                          A.RandomCrop(CROPPED, CROPPED, p=1)]), smooth_image()
    compose, image = made(("augment",), make)
    out = np.empty((64, CROPPED, CROPPED, 3), np.float32)
    seconds = []
    for _ in range(rounds):
        start = now()
        for i in range(64):
            source = stretched(image) if stretch else image
            out[i] = compose(image=source)["image"]
        seconds.append(now() - start)
    return seconds, []


def augmented(kind, path):
    """Largest difference from our image, and what may be expected of it: OpenCV rounds source
    coordinates to 1/32 pixel, up to 1/64 in x and in y."""
    import albumentations.augmentations.functional as AF
    import albumentations.augmentations.geometric.functional as AG
    image = smooth_image()
    ours = np.fromfile(path, np.float32).reshape(image.shape)
    slope = sum(float(np.abs(np.diff(image, axis=a)).max()) for a in (0, 1))
    bound = 1e-5
    if kind == "flips":
        theirs, bound = image[::-1, ::-1], 1e-6
    elif kind == "colour":
        theirs = AF.gamma_transform(AF.brightness_contrast_adjust(image.copy(), 1.17, -.12, True),
                                    .83)
    elif kind == "grid":
        theirs = AF.grid_distortion(image, 5, [1.21, .83, .74, 1.29, .95, 1.11],
                                    [.72, 1.05, 1.3, .88, 1.17, .91])
        bound = slope / 64 + 1e-5
    else:
        theirs = AG.shift_scale_rotate(image, 31.0, .93, .05, -.04)
        bound = slope / 64 + 1e-5
    return [], [float(np.abs(ours - theirs).max()), bound]


# ---- Statistics ----

def scores(count):
    label = (formula(20, count) > .5).astype(np.int32)
    third = formula(24, count) / 2
    return (label, label * .5 + formula(21, count) + third,
            label * .498 + formula(22, count) + third)


def delong(count, rounds):
    from scipy.stats import rankdata, norm
    label, a, b = scores(count)
    seconds = []
    for _ in range(rounds):
        start = now()
        positive = label == 1
        m, n = int(positive.sum()), int((~positive).sum())
        v01, v10, auc = [], [], []
        for s in (a, b):
            z = rankdata(s)
            p, q = z[positive], z[~positive]
            v01.append((p - rankdata(s[positive])) / n)
            v10.append(1 - (q - rankdata(s[~positive])) / m)
            auc.append(p.sum() / m / n - (m + 1) / 2 / n)
        cov = np.cov(v01) / m + np.cov(v10) / n
        z = (auc[0] - auc[1]) / math.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
        p = 2 * norm.sf(abs(z))
        seconds.append(now() - start)
    return seconds, [float(v) for v in (auc[0], auc[1], cov[0, 0], cov[1, 1], cov[0, 1], z, p)]


def resample(job):
    import sklearn
    from sklearn.metrics import roc_auc_score
    count, resamples, seed = job
    label, score, _ = scores(count)
    rng = np.random.default_rng(seed)
    out = []
    with sklearn.config_context(assume_finite=True):
        roc_auc_score(label, score)  # warms up
        start = now()
        for _ in range(resamples):
            i = rng.integers(0, count, count)
            out.append(roc_auc_score(label[i], score[i]))
        return now() - start, out


def bootstrap(count, resamples, processes):
    """Seconds that all resamples take; with several processes, those of the slowest."""
    from sklearn.metrics import roc_auc_score
    jobs = [(count, resamples // processes, k) for k in range(processes)]
    if processes == 1:
        parts = [resample(jobs[0])]
    else:
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            parts = pool.map(resample, jobs, chunksize=1)
    label, score, _ = scores(count)
    auc = np.concatenate([p[1] for p in parts])
    return [max(p[0] for p in parts)], [float(roc_auc_score(label, score)), float(auc.mean()),
                                        float(auc.std(ddof=1))]


def memory():
    found = {}
    for line in open("/proc/self/status"):
        if line.startswith(("VmRSS", "VmHWM")):
            found[line[:5]] = float(line.split()[1]) * 1024
    return [], [found["VmRSS"], found["VmHWM"]]


def wide_registers():
    """A function that says whether this thread has AVX-512's upper 16 registers in use (XGETBV with
    1: what the next XSAVE would have to keep); None where the processor cannot say."""
    try:
        with open("/proc/cpuinfo") as f:
            flags = f.read()
        if " avx512f " not in flags or " xgetbv1 " not in flags:
            return None
        import ctypes
        import mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b901000000" "0f01d0" "c3"))  # mov ecx, 1; xgetbv; ret
        call = ctypes.CFUNCTYPE(ctypes.c_uint32)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        return lambda page=page: bool(call() & 0x80)
    except (OSError, AttributeError):
        return None


def main():
    wide = wide_registers() or (lambda: False)
    torch.set_num_threads(int(os.environ.get("PEERS_THREADS", "2")))
    for line in sys.stdin:
        word = line.split()
        if not word:
            continue
        name, rest, text, seconds, values = word[0], word[1:], "", [], []
        number = [int(w) if w.isdigit() else w for w in rest]
        try:
            if name == "hello":
                import albumentations
                import cv2
                import onnxruntime
                import sklearn
                text = "torch %s, onnxruntime %s, albumentations %s, opencv %s, scikit-learn %s, " \
                    "numpy %s" % (torch.__version__, onnxruntime.__version__,
                                  albumentations.__version__, cv2.__version__, sklearn.__version__,
                                  np.__version__)
            elif name == "free":
                state.clear()
            elif name == "scores":
                label, a, b = scores(number[1])
                with open(rest[0], "wb") as f:
                    f.write(label.tobytes() + a.tobytes() + b.tobytes())
            elif name == "pth":  # the same weights as PyTorch's own file
                torch.save(read_safetensors(rest[0]), rest[1])
            elif name == "onnx":
                with torch.no_grad(), open(rest[1], "wb") as f:
                    f.write(onnx_model(folded(load(ResNet18(), rest[0]).eval()), 1, number[2]))
            elif name == "image":
                formula_input(7, (number[1], number[1], 3)).tofile(rest[0])
            else:
                work = {"train": train, "infer": infer, "stage2": stage2, "augment": augment,
                        "augmented": augmented, "delong": delong, "bootstrap": bootstrap,
                        "memory": memory}[name]
                seconds, values = work(*number)
        except Exception as e:  # told to the other side, which leaves this setting out
            print(json.dumps({"error": "%s: %s" % (type(e).__name__, str(e)[:300])}), flush=True)
            state.clear()
            continue
        print(json.dumps({"text": text, "seconds": seconds, "values": values, "wide": wide()}),
              flush=True)


if __name__ == "__main__":
    main()
