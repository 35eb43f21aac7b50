#!/usr/bin/env python3
"""Writes networks.h (CAM, Adam, the cosine schedule, SWA: a few numbers each) and sketches.h (the
outputs, gradients, statistics and training runs of the whole networks, as sketches): what PyTorch's
float64 says for the weights and inputs of networks.py, and how far its own float32 is from it.
Needs torch.  python3 tests/golden/make_networks.py"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
import golden_file
import networks as n
from networks import ResNet18, fill_resnet, formula, t

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-"
SUMS = {"eval": 24, "train": 24, "grad": 24, "stat": 16, "weights": 4, "swa": 4}
out = []


def letters(number, length):
    text = ""
    for _ in range(length):
        number, digit = divmod(number, 64)
        text = DIGITS[digit] + text
    assert number == 0
    return text


def write(name, about):
    golden_file.replace(name, about + "\n" + "\n".join(out) + "\n")
    out.clear()


def array(name, values):
    out.append(f"static const double {name}[] = {{")
    v = ["%.17g" % float(x) for x in values]
    for k in range(0, len(v), 4):
        out.append("    " + ", ".join(v[k:k + 4]) + ",")
    out.append("};")


def text(literal, width=94):
    """A C string in lines of at most 100 columns."""
    return ["  \"%s\"" % literal[k:k + width] for k in range(0, len(literal), width)]


# ---- networks.h ----

def cam_case(name, batch, h, w, x_index):
    net = ResNet18()
    fill_resnet(net)
    x = (t(x_index, (batch, h, w, 3)) - .5).permute(0, 3, 1, 2) * 4
    net.eval()
    with torch.no_grad():
        logits = net(x)
    array(name + "_eval_logits", logits.flatten())
    cam = torch.einsum("c,chw->hw", net.fc.weight[1], net.tensors["layer4.1"][1]).detach()
    unit = (cam - cam.min()) / (cam.max() - cam.min())
    up = F.interpolate(unit[None, None], (h, w), mode="bilinear", align_corners=False)[0, 0]
    array(name + "_cam_raw", cam.flatten())
    array(name + "_cam", up.flatten()[::97])


def optim_case():
    p = nn.Parameter((t(0, (9,)) - .5) * 2)
    opt = torch.optim.Adam([p], lr=3e-4)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=20, eta_min=1e-4)
    rates = []
    for k in range(20):
        p.grad = (t(1 + k, (9,)) - .3) * (1 if k % 3 else 1e-3)
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        sched.step()
    array("adam_p", p.detach())
    array("adam_m", opt.state[p]["exp_avg"])
    array("adam_v", opt.state[p]["exp_avg_sq"])
    array("cosine", rates)
    avg = torch.optim.swa_utils.AveragedModel(nn.Linear(3, 1, bias=False))
    for k in range(4):
        m = nn.Linear(3, 1, bias=False)
        m.weight.data.copy_(t(50 + k, (1, 3)))
        avg.update_parameters(m)
    array("swa", avg.module.weight.detach().flatten())


# ---- sketches.h ----

def tensors(name, exact, rounded):
    """The table `name` of the tensors in exact {(pass, tensor): float64 array}; rounded: the same
    by float32."""
    out.append(f"static const golden_tensor {name}[] = {{")
    for (part, tensor), x in exact.items():
        norm = float("%.7g" % np.linalg.norm(x))
        sums = n.sketch(x, SUMS[part]) / (norm if norm > 0 else 1)
        whole = "".join(letters(int(np.rint((s + 4) * 2.0**45)), 8) for s in sums)
        out.append(' {"%s", "%s", %d, %.7g, %.4g,' %
                   (part, tensor, x.size, norm, n.distance(rounded[part, tensor], x)))
        out.extend(text(whole))
        out[-1] += "},"
    out.append("};")


def shift_table(shifts):
    out.append("/* Biases of the batch norms before ReLUs: two letters each, "
               "2048 + 4096 times the bias. */")
    out.append("static const struct { const char *name, *biases; } golden_biases[] = {")
    for name, b in shifts.items():
        out.append(' {"%s.bias",' % name)
        out.extend(text("".join(letters(int(v) + 2048, 2) for v in b)))
        out[-1] += "},"
    out.append("};")


def flips(case, a, b):
    count = sum(int((a[k] != b[k]).sum()) for k in a)
    print(f"{case}: {count} ReLUs and pool winners differ between float32 and float64")
    assert count == 0, "choose other inputs or wider gaps"


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    cam_case("r64", 2, 64, 64, 208)
    cam_case("r97", 3, 97, 65, 212)
    optim_case()
    write("networks.h", "/* networks.h: written by make_networks.py with torch %s, float64. */" %
          torch.__version__)

    inputs = [n.images(c[3], *c[:3]) for c in n.CASES.values()]
    for case, x in zip(n.CASES, inputs):
        margin = n.pool_margin(x)
        print(f"{case}: closest race in the max pool {margin:.2g}")
        assert margin > 5e-6
    steps, narrowest = n.choose_shifts(inputs)
    print(f"narrowest gap around 0 of any ReLU {narrowest:.2g}")
    assert narrowest > 1e-4
    shifts = {k: v / n.SHIFT_STEPS for k, v in steps.items()}
    shift_table(steps)
    logits = [], []
    for case in n.CASES:
        exact, masks = n.run_resnet(case, torch.float64, shifts)
        rounded, other = n.run_resnet(case, torch.float32, shifts)
        flips(case, masks, other)
        tensors("golden_resnet_" + case.replace("x", "_"), exact, rounded)
    exact, losses = n.run_scan(torch.float64)
    rounded, rounded_losses = n.run_scan(torch.float32)
    tensors("golden_scan", exact, rounded)
    for (part, tensor), x in exact.items():
        k = n.sketch(rounded[part, tensor] - x, SUMS[part])
        print("%-5s %-26s PyTorch float32 - float64: %.3e, by its sketch %.3e" % (
            part, tensor, np.linalg.norm(rounded[part, tensor] - x), np.linalg.norm(k)))
    array("golden_scan_losses", losses)
    array("golden_scan_losses_float", rounded_losses)
    for run in n.RUNS:
        losses, exact = n.run_train(run, torch.float64)
        rounded_losses, rounded = n.run_train(run, torch.float32)
        array(f"golden_{run}_losses", losses)
        array(f"golden_{run}_losses_float", rounded_losses)
        if run == "paper":
            tensors("golden_paper", exact, rounded)
    write("sketches.h", "/* sketches.h: written by make_networks.py with torch %s; its float32: "
          "%d thread, %s. */\n"
          "#include \"golden.h\"" % (torch.__version__, torch.get_num_threads(),
                                     torch.backends.cpu.get_cpu_capability()))


if __name__ == "__main__":
    main()
