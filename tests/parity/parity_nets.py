"""parity_nets.py: ResNet18, the scan model and a training run, whole tensors, against PyTorch.

Rows "float32": ours and theirs are each one's distance |x - y| / |y| to PyTorch's float64 over all
numbers of the tensor; the error is their ratio, which may be 2. Rows "float64": the double build;
ours and theirs are the two tensors' norms, the error is the distance between the tensors."""
import math
import os
import numpy as np
import torch
import stream
import networks as n

FEW = 64  # tensors of fewer numbers are judged together
HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = {"eval": 1e-12, "train": 1e-12, "stat": 1e-12, "grad": 1e-10, "attribution": 1e-10,
         "weights": 1e-9, "swa": 1e-9}


def float_rows(title, ours, theirs, exact, few):
    for key, y in exact.items():
        x = ours[key].reshape(y.shape)
        mine, other = n.distance(x, y), n.distance(theirs[key], y)
        if y.size < FEW:
            few.append((mine, other))
        else:
            yield (f"{title} {key[0]} {key[1]}, float32", mine, other,
                   mine / other if other > 0 else (0.0 if mine == 0 else math.inf), 2.0)


def double_rows(title, ours, exact):
    for key, y in exact.items():
        x = ours[key].reshape(y.shape)
        yield (f"{title} {key[0]} {key[1]}, float64", float(np.linalg.norm(x)),
               float(np.linalg.norm(y)), n.distance(x, y), LIMIT[key[0]])


def loss_rows(title, ours, exact, limit):
    for k, (x, y) in enumerate(zip(ours, exact)):
        yield f"{title} loss {k + 1}", float(x), float(y), abs(float(x) - y) / y, limit


def rows(build):
    torch.set_num_threads(1)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield from all_rows(build)
    finally:
        torch.set_default_dtype(default)


def all_rows(build):
    shifts = n.read_shifts(os.path.join(HERE, "..", "golden", "sketches.h"))
    few = []
    for case, (batch, h, w, index) in n.CASES.items():
        exact, masks = n.run_resnet(case, torch.float64, shifts)
        theirs, other = n.run_resnet(case, torch.float32, shifts)
        arguments = ["resnet", index, h, w, batch]
        title = f"ResNet18 {case}"
        ours = stream.tensors(build, "nets_float", arguments)
        flips = sum(int(((ours["train", k] > 0) != m.transpose(0, 2, 3, 1)).sum())
                    for k, m in masks.items() if k != "maxpool")
        yield (f"{title} ReLUs on the other side of 0 than in float64", flips,
               sum(int((masks[k] != other[k]).sum()) for k in masks), float(flips), 0.0)
        yield from float_rows(title, ours, theirs, exact, few)
        ours = stream.tensors(build, "nets_double", arguments)
        yield from double_rows(title, ours, exact)
    exact, losses = n.run_scan(torch.float64)
    theirs, _ = n.run_scan(torch.float32)
    exact.update(n.run_attribution(torch.float64))
    theirs.update(n.run_attribution(torch.float32))
    ours = stream.tensors(build, "nets_float", ["scan"])
    yield from float_rows("BiLSTM", ours, theirs, exact, few)
    yield from loss_rows("BiLSTM float32", ours["losses", "losses"], losses, 1e-5)
    ours = stream.tensors(build, "nets_double", ["scan"])
    yield from double_rows("BiLSTM", ours, exact)
    yield from loss_rows("BiLSTM float64", ours["losses", "losses"], losses, 1e-12)
    mine, other = (math.sqrt(sum(e * e for e in column)) for column in zip(*few))
    yield f"all tensors of fewer than {FEW} numbers, float32", mine, other, mine / other, 2.0
    losses, _ = n.run_train("gentle", torch.float64)
    ours = stream.tensors(build, "nets_float", ["train", "gentle"])
    yield from loss_rows("Adam and SWA float32", ours["losses", "losses"], losses, 1e-5)
    losses, exact = n.run_train("paper", torch.float64)
    ours = stream.tensors(build, "nets_double", ["train", "paper"])
    yield from loss_rows("Adam and SWA float64", ours["losses", "losses"], losses, 1e-9)
    yield from double_rows("Adam and SWA", ours, exact)
