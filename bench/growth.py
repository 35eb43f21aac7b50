#!/usr/bin/env python3
"""How seconds and memory grow with the work: pixels, batch, threads, slices of a scan, subjects.

    python3 bench/growth.py [--build build] [--rounds 3] [--only subjects,slices]

A training step and inference are build/ours', slices and subjects build/crossval's on phantoms,
from files to report (size 32, 2 folds, 1 + 10 epochs). Each point is a process of its own: the
median of --rounds steps, or one run, and the peak of its resident memory, of steps less what the
program takes before. The slope is that of a straight line through the logarithms: 1 is in
proportion, 0 is constant.
"""
import argparse
import math
import os
import shutil
import statistics
import subprocess
import time

from peers import Side


def slope(x, y):
    """Of the least-squares line through (log x, log y)."""
    x, y = [[math.log(max(v, 1e-9)) for v in values] for values in (x, y)]
    mx, my = statistics.mean(x), statistics.mean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def step(o, command, threads):
    """Seconds of `command` % rounds, and bytes that it took."""
    side = Side([os.path.join(o.build, "ours")], dict(os.environ))
    side.ask("threads %d" % threads)
    if o.processor_time:
        side.ask("processor")
    base = side.ask("memory")["values"][0]
    side.ask(command % 1)
    seconds = statistics.median(side.ask(command % o.rounds)["seconds"])
    peak = side.ask("memory")["values"][1]
    side.close()
    return seconds, peak - base


def experiment(o, subjects, slices):
    """Seconds and bytes of crossval on a phantom cohort, which is made before."""
    data = os.path.join(o.build, "growth", "cohort%d" % subjects)
    half = str(subjects // 2)
    if not os.path.isdir(data):
        subprocess.check_call([os.path.join(o.build, "make_phantom"), "--out", data, "--hh", half,
                               "--hc", half], stdout=subprocess.DEVNULL)
    out = os.path.join(o.build, "growth", "out")
    shutil.rmtree(out, ignore_errors=True)
    command = [os.path.join(o.build, "crossval"), "--quiet", "--data", data, "--out", out,
               "--max-slices", str(slices), "--weights-out", "none",
               "--threads", str(1 if o.processor_time else os.cpu_count() or 1)] + \
        "--size 32 --folds 2 --epochs1 1 --epochs2 10 --batch 16 --bootstrap 200".split()
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("crossval failed")
    wall = time.perf_counter() - start
    return usage.ru_utime + usage.ru_stime if o.processor_time else wall, usage.ru_maxrss * 1024


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build", help="folder of ours, crossval, make_phantom")
    p.add_argument("--rounds", type=int, default=3, help="runs of each step (3)")
    p.add_argument("--processor-time", action="store_true",
                   help="one thread, its processor time: for a machine that others use")
    p.add_argument("--only", default="", metavar="NAME,...", help="these rows")
    o = p.parse_args()
    folder = os.path.join(o.build, "growth")
    os.makedirs(folder, exist_ok=True)
    weights = os.path.join(folder, "resnet18.safetensors")
    side = Side([os.path.join(o.build, "ours")], dict(os.environ))
    side.ask("weights %s %s" % (weights, os.path.join(folder, "scan.safetensors")))
    print(side.ask("hello")["text"])
    side.close()
    cores = 1 if o.processor_time else os.cpu_count() or 1
    threads = [1 << k for k in range(12) if 1 << k < cores] + [cores]
    train = "train %s %%d %%d %%%%d" % weights
    infer = "infer %s %%d %%d %%%%d" % weights
    rows = [  # name, what grows, its values, the work of one value
        ("pixels", "training, batch 16, pixels of an image", [32, 64, 128, 224],
         lambda v: step(o, train % (v, 16), cores), lambda v: v * v),
        ("pixels", "inference, batch 16, pixels of an image", [32, 64, 128, 224],
         lambda v: step(o, infer % (v, 16), cores), lambda v: v * v),
        ("batch", "training, 64 x 64, batch", [8, 16, 32, 64, 128],
         lambda v: step(o, train % (64, v), cores), None),
        ("batch", "inference, 64 x 64, batch", [8, 16, 32, 64, 128],
         lambda v: step(o, infer % (64, v), cores), None),
        ("threads", "training, 128 x 128, batch 16, threads", threads,
         lambda v: step(o, train % (128, 16), v), None),
        ("slices", "the experiment, 16 subjects, slices of each", [2, 4, 8, 16],
         lambda v: experiment(o, 16, v), None),
        ("subjects", "the experiment, 4 slices, subjects", [8, 16, 32, 64],
         lambda v: experiment(o, v, 4), None)]
    print("| what grows | values | seconds | slope | peak memory, MB | slope |")
    print("|---|---|---|---|---|---|")
    for name, text, values, work, x in rows:
        if (o.only and name not in o.only.split(",")) or len(values) == 1:
            continue  # one thread alone is no row
        found = [work(v) for v in values]
        at = [x(v) if x else v for v in values]
        lines = list(zip(*found))
        print("| %s | %s | %s | %.2f | %s | %.2f |" % (
            text, ", ".join("%d" % v for v in at),
            ", ".join("%.3g" % s for s in lines[0]), slope(at, lines[0]),
            ", ".join("%.0f" % (1e-6 * b) for b in lines[1]), slope(at, lines[1])), flush=True)


if __name__ == "__main__":
    main()
