"""parity_trace.py: one slice through both networks, forward and backward: every tensor of
tests/plain_resnet.h and plain_scan.h beside PyTorch's of the same name, in float64. The values shown are mean and
standard deviation; the error is |x - y| / |y| over the whole tensor. The weights are ours of
seed 1, handed over number by number; the slice is that of nets.c."""
import numpy as np
import torch
import torch.nn.functional as F
import stream
import networks as n

SIDE = 64


def torch_trace(ours):
    """{name: tensor in the order of qnet.h} of PyTorch for our weights and our slice."""
    net, scan = n.ResNet18().double(), n.ScanModel(512, 256, 1).double()
    with torch.no_grad():
        for model in (net, scan):
            for name, p in model.named_parameters():
                w = ours["weights", name]
                p.copy_(torch.from_numpy(w.transpose(3, 2, 0, 1) if w.ndim == 4 else w))
    x = torch.from_numpy(ours["input", "x"].transpose(0, 3, 1, 2).copy())
    label = torch.tensor([1])
    net.train()
    F.cross_entropy(net(x), label).backward()
    found = {}
    for name, v in net.tensors.items():
        found[name] = n.activation(v)
        found["grad " + name] = n.activation(v.grad)
    features = net.tensors["avgpool"].detach()
    image, logits = scan(features[:, None, :], [1])
    for v in (scan.y, image, logits):
        v.retain_grad()
    sum(scan.losses(image, logits, label)).backward()
    for name, v in (("lstm", scan.y), ("image_head", image), ("scan_head", logits)):
        found[name] = n.to_array(v)
        found["grad " + name] = n.to_array(v.grad)
    return found


def rows(build):
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        ours = stream.tensors(build, "nets_double", ["slice", SIDE])
        theirs = torch_trace(ours)
    finally:
        torch.set_default_dtype(default)
    for (part, name), x in ours.items():
        if part == "trace":
            y = theirs[name]
            tolerance = 1e-10 if name.startswith("grad ") else 1e-12
            yield (f"trace {name} [{'x'.join(map(str, x.shape))}]",
                   "%.5g +- %.4g" % (x.mean(), x.std()),
                   "%.5g +- %.4g" % (y.mean(), y.std()), n.distance(x, y.reshape(x.shape)),
                   tolerance)
