"""Rows of the parity table: weight files and what they mean, qnet.h against PyTorch and the
safetensors package, live. rows(build) yields (quantity, ours, theirs, error, tolerance)."""
import pathlib, subprocess, sys, tempfile
import numpy as np, torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

top = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(top / "weights_tools"))
from qnet_module import ResNet18, ScanModel, load, qnet  # noqa: E402


def formula(i, n):
    """tests/golden/formula.h."""
    m = np.uint64(0xffffffff)
    h = ((np.uint64(i * 1000003) + np.arange(n, dtype=np.uint64)) & m) * np.uint64(2654435761) & m
    h ^= h >> np.uint64(15)
    h = h * np.uint64(2246822519) & m
    h ^= h >> np.uint64(13)
    return torch.from_numpy((h.astype(np.float64) / 4294967296.0).astype(np.float32))


def run(*args):
    return subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True).stdout


def numbers(*args):
    return np.array([float(v) for v in run(*args).split()])


def differing(a, b):
    """Tensors that are not the same bit for bit, in name, type, shape or value."""
    names = set(a) | set(b)
    return sum(1 for n in names if n not in a or n not in b or a[n].dtype != b[n].dtype or
               a[n].shape != b[n].shape or not torch.equal(a[n].data, b[n].data))


def resnet_logits(weights, dtype):
    net = ResNet18().eval()
    net.load_state_dict(weights)
    x = formula(1, 2 * 64 * 64 * 3).reshape(2, 64, 64, 3).permute(0, 3, 1, 2)
    with torch.no_grad(): return net.to(dtype)(x.to(dtype))[1].double().flatten().numpy()


def scan_logits(weights, dtype):
    net = ScanModel()
    net.load_state_dict(weights)
    x = formula(2, 3 * 24 * 512).reshape(3, 24, 512)
    with torch.no_grad(): image, scan = net.to(dtype)(x.to(dtype), torch.tensor([24, 9, 1]))
    return np.concatenate([image.double().flatten().numpy(), scan.double().flatten().numpy()])


def probability(logits):
    z = logits.reshape(-1, 2)
    return 1 / (1 + np.exp(z[:, 0] - z[:, 1]))


def worst(ours, theirs):
    """The pair that differs most, and by how much."""
    k = int(np.argmax(np.abs(ours - theirs)))
    return ours[k], theirs[k], abs(ours[k] - theirs[k])


def rows(build):
    build = pathlib.Path(build).resolve()
    tool, probe = build / "qnet_weights", build / "parity" / "weights_probe"
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        d = pathlib.Path(folder)

        # Every type, scalars and empty tensors, both directions, against the safetensors package.
        kinds = {f"{t}".split(".")[1]: (torch.randn(3, 5) * 3).to(t) for t in
                 (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)}
        kinds |= {"scalar": torch.randn(()), "empty": torch.zeros(0, 3), "counter": torch.tensor(2 ** 40 + 1)}
        save_file(kinds, d / "kinds.safetensors", {"who": "safetensors"})
        run(tool, "convert", d / "kinds.safetensors", d / "copy.safetensors")
        yield ("safetensors package -> ours -> it: tensors changed", differing(load_file(d / "copy.safetensors"), kinds), 0,
               differing(load_file(d / "copy.safetensors"), kinds), 0)
        with safe_open(d / "copy.safetensors", "pt") as f: kept = int(f.metadata() != {"who": "safetensors"})
        yield "the same, metadata changed", kept, 0, kept, 0

        # .pth both ways, both forms.
        odd = kinds | {"turned": torch.randn(4, 6).t(), "slice": torch.randn(9, 9)[2:7, 1:8:3],
                       "parameter": torch.nn.Parameter(torch.randn(7))}
        for form, new in ("zip", True), ("legacy", False):
            torch.save(odd, d / "odd.pth", _use_new_zipfile_serialization=new)
            run(tool, "convert", d / "odd.pth", d / "odd.safetensors")
            n = differing(load_file(d / "odd.safetensors"), odd)
            yield f"torch.save, {form} form -> safetensors: tensors changed", n, 0, n, 0
            run(tool, "convert", d / "odd.pth", d / "ours.pth")
            n = differing(torch.load(d / "ours.pth", weights_only=True), odd)
            yield f"{form} -> our .pth -> torch.load(weights_only=True): tensors changed", n, 0, n, 0

        for name, model, logits in ("resnet", ResNet18(), resnet_logits), ("scan", ScanModel(), scan_logits):
            # From PyTorch to qnet.h, by each of the three files.
            weights = model.state_dict()
            for n in weights:
                if n.endswith("running_var"): weights[n].uniform_(0.5, 1.5)
                if n.endswith("running_mean"): weights[n].normal_(0, 0.2)
                if n.endswith("tracked"): weights[n].fill_(12345)
            save_file(weights, d / "t.safetensors")
            torch.save(weights, d / "t.pth")
            torch.save(weights, d / "old.pth", _use_new_zipfile_serialization=False)
            truth = probability(logits(weights, torch.float64))
            for file in "t.safetensors", "t.pth", "old.pth":
                yield (f"{name}, torch -> {file} -> ours: P(HH)", *worst(probability(numbers(probe, name, d / file)), truth), 1e-6)
            # From qnet.h to PyTorch.
            run(probe, "init", name, 5, d / "q.safetensors")
            run(tool, "convert", d / "q.safetensors", d / "q.pth")
            ours = numbers(probe, name, d / "q.safetensors")
            for file in "q.safetensors", "q.pth":
                yield (f"{name}, ours -> {file} -> torch: P(HH)",
                       *worst(probability(ours), probability(logits(load(d / file), torch.float64))), 1e-6)

        # A trained Q-Net: stage 1, stage 2 and a prepared scan in PyTorch.
        run(build / "make_phantom", "--out", d / "cohort", "--hh", 3, "--hc", 3, "--scale", "small", "--seed", 3)
        run(build / "crossval", "--data", d / "cohort", "--out", d / "run", "--input", "crop", "--size", 64, "--folds", 2,
            "--epochs1", 2, "--epochs2", 4, "--batch", 16, "--bootstrap", 20, "--quiet")
        stem = d / "run" / "weights" / "crop-repeat01-fold01-"
        stage1, stage2 = f"{stem}resnetswa.safetensors", f"{stem}qnet.safetensors"
        ours = numbers(probe, "dump", stage1, stage2, d / "cohort", d / "images")
        images = torch.from_numpy(np.fromfile(d / "images", np.float32).reshape(-1, 64, 64, 3)).permute(0, 3, 1, 2)
        run(tool, "convert", stage1, d / "stage1.pth")
        run(tool, "convert", stage2, d / "stage2.pth")
        for kind, a, b in ("safetensors", stage1, stage2), ("pth", d / "stage1.pth", d / "stage2.pth"):
            image, scan = qnet(a, b, images)
            yield (f"trained Q-Net in PyTorch by .{kind}: P(HH) of {len(image)} slices",
                   *worst(ours[:-1], image.double().numpy()), 1e-5)
            yield f"trained Q-Net in PyTorch by .{kind}: P(HH) of the scan", ours[-1], float(scan), abs(ours[-1] - float(scan)), 1e-5
