#!/usr/bin/env python3
"""We and others do the same work on the same inputs, in turns, on this machine.

    make bench-peers                         PEERS="--only train_64_b64 --rounds 3" for one row

Makes a virtual environment with PyTorch 2.13, ONNX Runtime, OpenCV, Albumentations and scikit-learn
(nothing is fetched where this Python has them already; R's pROC is used where it is there), tries
the settings of each other program, takes the two best, then lets all run in alternating rounds
and compares medians with the better one. Each row also checks that both sides computed the same
thing.

The rows maps_... need a folder of echoes (--echoes, default ../shared/data/echoes).

Prints a table, and lines `ratio NAME VALUE`: their time over ours, above 1 means that we are
faster; for mem_... their memory over ours; over_direct_limit is our speed over that of the peak of
multiply-adds if all convolutions were direct. `share augment_224` is the augmentation of a batch
over its training step. All in float32, warmed up, with the same number of threads.
The exit status is 1 if a check fails; a target that is missed is only told.
"""
import argparse
import glob
import json
import os
import re
import select
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED = {"torch": "torch==2.13.0", "onnxruntime": "onnxruntime", "cv2": "opencv-python-headless",
          "albumentations": "albumentations==1.0.3", "sklearn": "scikit-learn", "scipy": "scipy",
          "skimage": "scikit-image", "nibabel": "nibabel", "brainextractor": "brainextractor"}

# Environments of the other side. PyTorch asks for its activations anew in each step: with "malloc"
# the C library keeps them instead of giving them back to the system, on huge pages. "passive" lets
# threads wait asleep, which on a busy machine is better, and on an idle one worse.
ENVIRONMENTS = {
    "": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "malloc": {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:"
                                 "glibc.malloc.top_pad=268435456:glibc.malloc.hugetlb=1",
               "THP_MEM_ALLOC_ENABLE": "1"},
}
ENVIRONMENTS["malloc+passive"] = dict(ENVIRONMENTS["malloc"], **ENVIRONMENTS["passive"])

# --isa avx2: a switch of each program that holds it to AVX2. ONNX Runtime has none: a copy of its
# library is run in which XGETBV says that the system saves no AVX-512 registers (Bench.hold).
HELD = {"avx2": {"QNET_CPU": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                 "MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENCV_CPU_DISABLE": "AVX512-SKX",
                 "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
                 "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ"},
        "native": {}}


class Side:
    """A program that answers a line of JSON to each line that it is told."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.rest = b""
        self.wide = False  # whether a command has left AVX-512 registers in use
        self.others = 0.  # cores that other programs had while the last command ran (Linux)
        self.disturbed = 0.  # the same of the worst run that counts

    def busy(self):
        """Now, and seconds of all cores but those of this program."""
        try:
            with open("/proc/stat") as f, open("/proc/%d/stat" % self.process.pid) as g:
                every = [int(t) for t in f.readline().split()[1:9]]
                mine = [int(t) for t in g.read().rpartition(")")[2].split()[11:13]]
        except (OSError, ValueError):
            return time.monotonic(), 0.
        return time.monotonic(), (sum(every) - every[3] - every[4] - sum(mine)) / \
            os.sysconf("SC_CLK_TCK")

    def calm(self, line, limit=1800, tries=3):
        """The answer of the run that others disturbed least: the first one that they left alone."""
        best = None
        for _ in range(tries):
            answer = self.ask(line, limit)
            if best is None or self.others < best[0]:
                best = self.others, answer
            if self.others < .1:
                break
        self.disturbed = max(self.disturbed, best[0])
        return best[1]

    def ask(self, line, limit=1800):
        """The answer; RuntimeError with the reason if there is none."""
        started, before = self.busy()
        try:
            self.process.stdin.write((line + "\n").encode())
            self.process.stdin.flush()
        except OSError:
            raise RuntimeError("the program has ended")
        end = time.monotonic() + limit
        while b"\n" not in self.rest:
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                self.close()
                raise RuntimeError("no answer to '%s' within %d s" % (line, limit))
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                raise RuntimeError("ended at '%s'" % line)
            self.rest += part
        text, self.rest = self.rest.split(b"\n", 1)
        answer = json.loads(re.sub(rb"\b-?(nan|inf)\b", b"NaN", text))
        if "error" in answer:
            raise RuntimeError(answer["error"])
        self.wide |= answer.get("wide", False)
        ended, after = self.busy()
        self.others = (after - before) / max(ended - started, 1e-3)
        return answer

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Bench:
    def __init__(self, options):
        self.o = options
        self.python = environment(options.venv)
        self.folder = os.path.join(os.path.dirname(os.path.abspath(options.ours)), "peers")
        os.makedirs(self.folder, exist_ok=True)
        self.table, self.ratios, self.shares, self.failed, self.sides = [], [], [], [], {}
        self.ours_time = {}  # seconds of our rows, for the rows that relate them
        self.resnet, self.scan = (os.path.join(self.folder, n + ".safetensors")
                                  for n in ("resnet18", "scan"))

    # ---- Programs ----

    def default_environment(self):
        """Of both sides: threads wait as OpenMP's default has it, whatever make sets."""
        env = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "PYTHONPATH")}
        return dict(env, **HELD[self.o.isa])

    def ours(self):
        if "ours" not in self.sides:
            self.sides["ours"] = Side([self.o.ours], self.default_environment())
            self.sides["ours"].ask("threads %d" % self.o.threads)
            if self.o.processor_time:
                self.sides["ours"].ask("processor")
        return self.sides["ours"]

    def environment(self, name):
        env = self.default_environment()
        env.update(PEERS_THREADS=str(self.o.threads), OMP_NUM_THREADS=str(self.o.threads),
                   TORCHINDUCTOR_CACHE_DIR=os.path.join(self.folder, "inductor"))
        if self.o.processor_time:
            env["PEERS_CLOCK"] = "processor"
        held = env.get("GLIBC_TUNABLES", "")
        env.update(ENVIRONMENTS[name])
        if held not in env.get("GLIBC_TUNABLES", ""):
            env["GLIBC_TUNABLES"] += ":" + held
        if self.o.isa == "avx2":
            env["PYTHONPATH"] = os.path.join(self.folder, "avx2")
        return env

    def hold(self):
        """Each side says what it computes with. After each command of theirs, `wide` says whether
        it left AVX-512 registers in use."""
        self.onnxruntime_avx2()
        mine = self.ours().ask("hello")["text"]
        probe = "import torch; print('aten', torch.backends.cpu.get_cpu_capability())\n" \
            "with torch.backends.mkldnn.verbose(1): torch.conv2d(torch.ones(2, 64, 56, 56), " \
            "torch.ones(64, 64, 3, 3))"
        text = subprocess.check_output([self.python, "-c", probe], env=self.environment(""),
                                       stderr=subprocess.DEVNULL).decode()
        isa = re.search("cpu,isa:(.*)", text)
        self.say("held to AVX2: ours %s; PyTorch %s; oneDNN %s" % (
            "yes" if "avx2" in mine else "NO", re.search("aten (.*)", text).group(1),
            isa.group(1) if isa else "unknown"))
        if "avx2" not in mine or "aten AVX2" not in text or "isa:Intel AVX2\n" not in text:
            self.failed.append("--isa avx2: a switch did not take")

    def onnxruntime_avx2(self):
        """A copy of the package whose library takes 7 for what XGETBV says: no such registers."""
        find = "import onnxruntime as o; print(o.__file__)"
        here = subprocess.check_output([self.python, "-c", find])
        copy = os.path.join(self.folder, "avx2", "onnxruntime")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(os.path.dirname(here.decode().strip()), copy)
        for path in glob.glob(os.path.join(copy, "capi", "onnxruntime_pybind11_state*.so")):
            with open(path, "r+b") as f:  # xor ecx, ecx; and xgetbv -> mov al, 7; nop
                data = f.read().replace(b"\x31\xc9\x0f\x01\xd0",
                                        b"\x31\xc9\xb0\x07\x90")
                f.seek(0)
                f.write(data)

    def theirs(self, name=""):
        if name not in self.sides:
            self.sides[name] = Side([self.python, os.path.join(HERE, "theirs.py")],
                                    self.environment(name))
        return self.sides[name]

    def close(self, *names):
        for name in names or list(self.sides):
            if name in self.sides:
                self.sides.pop(name).close()

    # ---- Reports ----

    def say(self, text):
        print(text, flush=True)

    def check(self, name, what, difference, bound):
        good = difference <= bound  # and NaN is not
        self.say("  check %s, %s: largest difference %.2g, allowed %.2g: %s"
                 % (name, what, difference, bound, "ok" if good else "FAILED"))
        if not good:
            self.failed.append("%s, %s" % (name, what))

    def same(self, name, what, ours, theirs, bound):
        """Relative difference of two lists of numbers, of each pair."""
        if len(ours) != len(theirs) or not ours:
            self.check(name, what + " (%d and %d values)" % (len(ours), len(theirs)),
                       float("inf"), bound)
            return
        self.check(name, what, max(abs(a - b) / max(abs(a), abs(b), 1e-300)
                                   for a, b in zip(ours, theirs)), bound)

    def row(self, name, ours, theirs, setting, ratio, target, flops_per_second=None):
        """flops_per_second: of our side, in the direct form, for its share of the peak."""
        share = "%.0f %%" % (100 * flops_per_second / self.peak) if flops_per_second else ""
        self.table.append((name, ours, theirs, setting, "%.3g" % ratio, ">= %g" % target,
                           "yes" if ratio >= target else "no", share))
        self.ratios.append((name, ratio))
        self.say("  %s: ours %s, theirs %s (%s), ratio %.3g, target %g"
                 % (name, ours, theirs, setting, ratio, target))

    # ---- Both sides in turns ----

    @staticmethod
    def enough(seconds):
        """Runs of so many seconds that make a round: about .4 s, one at least."""
        return max(1, min(40, int(.4 / max(seconds, 1e-6))))

    def best_settings(self, command, settings, keep, limit=1800):
        """The `keep` fastest of [(environment, setting)], each tried alone after a warm-up."""
        found = []
        for env, setting in settings:
            label = "+".join(x for x in (setting, env) if x)
            if self.o.settings and label not in self.o.settings.split(","):
                continue
            try:
                side = self.theirs(env)
                runs = self.enough(side.ask(command % 2 + " " + setting, limit)["seconds"][1])
                tried = side.calm(command % (runs * self.o.search) + " " + setting,
                                  limit, 2)["seconds"]
                found.append((statistics.median(tried), env, setting, label))
                self.say("  tried %-30s %10.2f ms" % (label, 1e3 * found[-1][0]))
                side.ask("free")
            except RuntimeError as e:
                self.say("  tried %-30s left out: %s" % (label, str(e)[:200]))
                self.close(env)
        found.sort()
        for env in set(e for e, _ in settings) - set(f[1] for f in found[:keep]):
            self.close(env)
        return found[:keep]

    def duel(self, command, settings, keep=2, limit=1800, first=3):
        """Medians of alternating rounds. Returns ours, theirs (of the best setting), its label, and
        the values of the first steps of both sides."""
        chosen = self.best_settings(command, settings, keep, limit)
        if not chosen:
            raise RuntimeError("none of the settings works")
        ours = self.ours()
        ours.ask("free")
        answer = ours.ask(command % first)
        values, inner = answer["values"], {"": self.enough(answer["seconds"][-1])}
        theirs_values, times = None, {}
        for _, env, setting, label in chosen:
            answer = self.theirs(env).ask(command % first + " " + setting, limit)
            theirs_values = theirs_values or answer["values"]
            times[label], inner[label] = [], self.enough(answer["seconds"][-1])
        mine = []
        sides = [ours] + [self.theirs(env) for _, env, _, _ in chosen]
        for side in sides:
            side.disturbed = 0.
        for _ in range(self.o.rounds):
            mine.append(statistics.median(ours.calm(command % inner[""])["seconds"]))
            for side, (_, env, setting, label) in zip(sides[1:], chosen):
                line = command % inner[label] + " " + setting
                times[label].append(statistics.median(side.calm(line)["seconds"]))
        self.say("  rounds, ms: ours %s; theirs %s; others had up to %.2f cores" % (
            " ".join("%.4g" % (1e3 * t) for t in mine),
            "; ".join(label + " " + " ".join("%.4g" % (1e3 * t) for t in found)
                      for label, found in times.items()), max(side.disturbed for side in sides)))
        ours.ask("free")
        for _, env, _, _ in chosen:
            if env in self.sides:
                self.theirs(env).ask("free")
        label = min(times, key=lambda k: statistics.median(times[k]))
        if self.o.isa == "avx2" and any(self.theirs(env).wide for _, env, _, _ in chosen):
            self.say("  FAILED: %s: AVX-512 registers in use" % label)
            self.failed.append("%s: AVX-512 registers in use" % command)
        self.close(*[e for e in ENVIRONMENTS if e])
        return statistics.median(mine), statistics.median(times[label]), label, values, \
            theirs_values

    # ---- Rows ----

    def train(self, size):
        name = "train_%d_b64" % size
        settings = [("", "default"), ("", "channels_last"), ("malloc", "default"),
                    ("malloc", "channels_last"), ("malloc+passive", "channels_last")]
        if not self.o.no_compile:
            settings += [("", "compile"), ("malloc", "compile")]
        a, b, label, x, y = self.duel("train %s %d 64 %%d" % (self.resnet, size), settings,
                                      limit=900)
        # The first loss is one forward pass. Adam's first steps are about the sign of gradients:
        # where one is nearly 0, rounding decides it, and later losses drift apart.
        self.same(name, "loss of the first step", x[:1], y[:1], 1e-5)
        self.same(name, "losses of steps 2 and 3", x[1:3], y[1:3], 1e-3)
        self.ours_time[name] = a
        flops = 64 * self.flops[("train", size)]
        self.row(name, "%.1f images/s" % (64 / a), "%.1f images/s" % (64 / b), "torch " + label,
                 b / a, 2.0, flops / a)

    def direct_limit(self):
        """Training at 224 x 224 over what the peak of multiply-adds allows the direct form."""
        a = self.ours_time.get("train_224_b64")
        ours = self.ours()
        if a is None:
            ours.ask("free")
            ours.ask("train %s 224 64 1" % self.resnet)
            a = statistics.median(ours.ask("train %s 224 64 %d" % (self.resnet, self.o.rounds))
                                  ["seconds"])
            ours.ask("free")
        peak, _, flops = ours.ask("peak")["values"][:3]
        limit = peak / flops
        self.row("over_direct_limit_224", "%.1f images/s" % (64 / a), "%.1f images/s" % limit,
                 "%.0f GFLOP/s peak" % (1e-9 * peak), 64 / a / limit, 1.3)

    def infer(self, batch):
        name = "infer_224_b%d" % batch
        command = "infer %s 224 %d %%d" % (self.resnet, batch)
        torch = [(e, s) for e in ("", "malloc") for s in
                 ("default", "channels_last", "folded", "folded_channels_last", "jit", "mkldnn")]
        torch += [("passive", "folded"), ("passive", "folded_channels_last")]
        if not self.o.no_compile:
            torch += [("", "compile"), ("malloc", "compile")]
        for kind, settings, target in (
                ("torch", torch, 2.0),
                ("ort", [(e, s) for e in ("", "malloc")
                         for s in ("onnxruntime", "onnxruntime_sleep")], 1.5)):
            a, b, label, x, y = self.duel(command, settings, limit=900)
            self.check("%s_%s" % (name, kind), "probabilities",
                       max(abs(p - q) for p, q in zip(x, y)), 1e-4)
            self.row("%s_%s" % (name, kind), "%.2f ms" % (1e3 * a), "%.2f ms" % (1e3 * b), label,
                     b / a, target, batch * self.flops[("infer", 224)] / a)

    def stage2(self, ragged):
        name = "stage2_ragged" if ragged else "stage2"
        settings = [(e, s) for e in ("", "passive", "malloc")
                    for s in (["packed"] if ragged else ["plain", "time_major", "packed",
                                                         "without_onednn"])]
        a, b, label, x, y = self.duel("stage2 %s %d %%d" % (self.scan, ragged), settings)
        self.same(name, "losses of the first 3 steps", x[:3], y[:3], 1e-4)
        # Forward W x and U h, then dW, dU and dh; 64 scans of 24 slices, or of 12 to 24.
        steps = sum(12 + i * 5 % 13 for i in range(64)) if ragged else 64 * 24
        flops = 2 * steps * (2 * 512 * 2048 + 3 * 256 * 2048)
        self.row(name, "%.1f ms" % (1e3 * a), "%.1f ms" % (1e3 * b), "torch " + label, b / a,
                 2 if ragged else 1.4, flops / a)

    def augment(self, stretch):
        name = "augment_stretch" if stretch else "augment"
        ours, theirs = self.ours(), self.theirs()
        image = os.path.join(self.folder, "image.bin")
        for kind in ("flips", "colour", "grid", "affine") if not stretch else ():
            ours.ask("augmented %s %s" % (kind, image))
            difference, bound = theirs.ask("augmented %s %s" % (kind, image))["values"]
            self.check(name, kind, difference, bound)
        mine, others = [], []
        for k in range(self.o.rounds + 1):
            a = ours.ask("augment %d 1 1" % stretch)["seconds"]
            b = theirs.ask("augment %d 1" % stretch)["seconds"]
            if k > 0:
                mine, others = mine + a, others + b
        a, b = statistics.median(mine), statistics.median(others)
        theirs.ask("free")
        self.row(name, "%.3f ms/image" % (1e3 * a / 64), "%.3f ms/image" % (1e3 * b / 64),
                 "albumentations, one thread" + (", numpy percentiles" if stretch else ""), b / a,
                 2.0)

    def augment_share(self):
        """A batch of 64, all transforms on, over a training step: both with all threads."""
        ours = self.ours()
        ours.ask("train %s 224 64 1" % self.resnet)
        steps, batches = [], []
        for _ in range(self.o.rounds):
            steps += ours.ask("train %s 224 64 1" % self.resnet)["seconds"]
            batches += ours.ask("augment 2 %d 3" % (2 if self.o.threads != 1 else 1))["seconds"][1:]
        ours.ask("free")
        a, b = statistics.median(batches), statistics.median(steps)
        self.table.append(("augment_share_224", "%.1f ms" % (1e3 * a), "%.1f ms" % (1e3 * b),
                           "our own training step", "%.2f %%" % (100 * a / b), "< 2 %",
                           "yes" if a / b < .02 else "no", ""))
        self.shares.append(("augment_224", a / b))
        self.say("  augment_share_224: %.2f %% of the training step, target < 2 %%" % (100 * a / b))

    def delong(self):
        count = 1000000
        ours, theirs, sides = self.ours(), self.theirs(), []
        r = None
        if shutil.which("Rscript"):
            r = Side(["Rscript", os.path.join(HERE, "theirs.R")], self.environment(""))
            try:
                self.say("  " + r.ask("hello", 120)["text"])
                data = os.path.join(self.folder, "scores.bin")
                theirs.ask("scores %s %d" % (data, count))
                sides.append(("delong_1e6", "pROC", r, "delong %s %d 1" % (data, count)))
            except RuntimeError:
                self.say("  R is here, but not its pROC")
        name = "delong_1e6_numpy" if sides else "delong_1e6"
        sides.append((name, "numpy + scipy, Sun & Xu", theirs, "delong %d 1" % count))
        x = ours.ask("delong %d 1" % count)["values"]
        mine, times = [], [[] for _ in sides]
        for k in range(self.o.rounds):
            mine += ours.ask("delong %d 2" % count)["seconds"]
            for i, (name, label, side, command) in enumerate(sides):
                answer = side.ask(command)
                times[i] += answer["seconds"]
                if k == 0:
                    y = answer["values"]
                    self.same(name, "both AUCs", x[:2], y[:2], 1e-12)
                    self.same(name, "variances, covariance", x[2:5], y[2:5], 1e-10)
                    self.same(name, "z, p", [abs(x[5]), x[6]], [abs(y[5]), y[6]], 1e-8)
        a = statistics.median(mine)
        for (name, label, _, _), t in zip(sides, times):
            b = statistics.median(t)
            self.row(name, "%.0f ms" % (1e3 * a), "%.0f ms" % (1e3 * b), label, b / a, 10.0)
        if r:
            r.close()

    def bootstrap(self):
        count, resamples, fewer = 100000, 2000, 12
        ours, theirs = self.ours(), self.theirs()
        mine, times = [], {1: [], 2: []}
        x, y = [], []
        for _ in range(max(2, self.o.rounds // 2)):
            answer = ours.ask("bootstrap %d %d 1" % (count, resamples))
            mine += answer["seconds"]
            x = answer["values"]
            for processes in times if self.o.threads > 1 else [1]:
                answer = theirs.ask("bootstrap %d %d %d" % (count, fewer, processes))
                times[processes].append(answer["seconds"][0] * resamples / fewer)
                y = answer["values"]
        self.same("bootstrap_2000x1e5", "AUC of the sample", x[:1], y[:1], 1e-12)
        # Different draws: the means differ by chance, by 4 standard errors at most.
        self.check("bootstrap_2000x1e5", "mean AUC in standard errors",
                   abs(x[1] - y[1]) / (x[2] * (1 / resamples + 1 / fewer) ** .5), 4)
        a = statistics.median(mine)
        best = min((k for k in times if times[k]), key=lambda k: statistics.median(times[k]))
        b = statistics.median(times[best])
        self.row("bootstrap_2000x1e5", "%.2f s" % a, "%.2f s" % b,
                 "scikit-learn roc_auc_score, %d process%s, %d resamples scaled to %d"
                 % (best, "es" if best > 1 else "", fewer, resamples), b / a, 10.0)

    def memory(self):
        """Resident memory above that of the started program (libraries loaded, nothing made), each
        in a process of its own; of the other side the setting that takes least."""
        command = "train %s 224 64 3" % self.resnet

        def grown(side, line):
            base = side.ask("memory")["values"][0]
            side.ask(line)
            peak = side.ask("memory")["values"][1]
            side.close()
            return peak - base

        self.close("ours")
        a = grown(self.ours(), command)
        self.close("ours")
        found = []
        for env, setting in (("", "default"), ("", "channels_last"), ("malloc", "channels_last")):
            label = "+".join(x for x in (setting, env) if x)
            self.close(env)
            found.append((grown(self.theirs(env), command + " " + setting), label))
            self.close(env)
            self.say("  torch %-24s %8.0f MB" % (label, 1e-6 * found[-1][0]))
        b, label = min(found)
        self.row("mem_train_224_b64", "%.0f MB" % (1e-6 * a), "%.0f MB" % (1e-6 * b),
                 "torch " + label + ", its least", b / a, 2.0)
        self.table.append(("mem_train_224_b64, alone", "%.0f MB" % (1e-6 * a), "", "", "",
                           "<= 1000 MB", "yes" if a <= 1e9 else "no", ""))

    def start(self):
        """From the start of the process to the printed probability: 45 MB of weights and an image
        on disk, one 224 x 224 forward pass. Libraries and files are in the page cache for both."""
        pth, image = (os.path.join(self.folder, n) for n in ("resnet18.pth", "image224.bin"))
        self.theirs().ask("pth %s %s" % (self.resnet, pth))
        self.theirs().ask("image %s 224" % image)
        commands = [([self.o.ours, "predict", self.resnet, "224", image],
                     self.default_environment()),
                    ([self.python, os.path.join(HERE, "theirs.py"), "predict", pth, "224", image],
                     self.environment(""))]
        times, values = ([], []), [0, 0]
        for k in range(self.o.rounds + 1):
            for i, (command, env) in enumerate(commands):
                start = time.perf_counter()
                process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
                line = process.stdout.readline()
                seconds = time.perf_counter() - start
                process.stdout.close()
                process.wait()
                values[i] = float(line)
                if k > 0:
                    times[i].append(seconds)
        self.check("start_to_first_prediction", "probability", abs(values[0] - values[1]), 1e-4)
        a, b = (statistics.median(t) for t in times)
        self.row("start_to_first_prediction", "%.1f ms" % (1e3 * a), "%.1f ms" % (1e3 * b),
                 "torch, torch.load(mmap=True)", b / a, 20.0)

    def wasm(self):
        """Batch 1 on one thread, both as WebAssembly with SIMD under node."""
        if not shutil.which("node") or not shutil.which("emcc"):
            raise RuntimeError("wasm needs Debian's emscripten, nodejs, npm")
        program, web, model, image = (
            os.path.join(self.folder, n)
            for n in ("ours_wasm.js", "web", "resnet18.onnx", "image224.bin"))
        if not os.path.isdir(os.path.join(web, "node_modules", "onnxruntime-web")):
            os.makedirs(web, exist_ok=True)
            subprocess.check_call(["npm", "install", "--silent", "--no-audit", "--no-fund",
                                   "onnxruntime-web"], cwd=web)
        root = os.path.dirname(HERE)
        subprocess.check_call(
            ["emcc", "-O3", "-msimd128", "-I" + root, os.path.join(HERE, "ours.c"), "-o", program,
             "-sALLOW_MEMORY_GROWTH=1", "-sNODERAWFS=1", "-sEXIT_RUNTIME=1"],
            env=dict(os.environ, NODE_PATH="/usr/share/nodejs"))
        self.theirs().ask("onnx %s %s 224" % (self.resnet, model))
        self.theirs().ask("image %s 224" % image)
        self.close()
        node = ["node", "--no-experimental-fetch"]
        ours = Side(node + [program], self.default_environment())
        theirs = Side(["node", os.path.join(HERE, "wasm", "theirs.mjs"), web],
                      self.default_environment())
        self.say("  ours: %s" % ours.ask("hello")["text"])
        lines = ("infer %s 224 1 %%d" % self.resnet, "infer %s %s 224 %%d" % (model, image))
        times, answers = ([], []), []
        for side, line in zip((ours, theirs), lines):
            answers.append(side.ask(line % 3))
        self.say("  theirs: onnxruntime-web %s" % answers[1]["text"])
        self.check("wasm_infer_224_b1", "probability",
                   abs(answers[0]["values"][0] - answers[1]["values"][0]), 1e-4)
        for _ in range(self.o.rounds):
            for side, line, t in zip((ours, theirs), lines, times):
                t.append(statistics.median(side.ask(line % 5)["seconds"]))
        ours.close(), theirs.close()
        a, b = (statistics.median(t) for t in times)
        self.row("wasm_infer_224_b1", "%.1f ms" % (1e3 * a), "%.1f ms" % (1e3 * b),
                 "onnxruntime-web, SIMD, one thread", b / a, 1.5)

    def scaling(self):
        """One thread against all of --threads: our training step, in turns."""
        if self.o.threads < 2:
            raise RuntimeError("scaling needs two threads")
        command = "train %s 224 64 1" % self.resnet
        sides = []
        for threads in (1, self.o.threads):
            sides.append(Side([self.o.ours], self.default_environment()))
            sides[-1].ask("threads %d" % threads)
            sides[-1].ask(command)
        times = ([], [])
        for _ in range(self.o.rounds):
            for side, t in zip(sides, times):
                t += side.ask(command)["seconds"]
        for side in sides:
            side.close()
        one, all_of = (statistics.median(t) for t in times)
        self.row("scaling_1_to_%d" % self.o.threads, "%.2f s" % all_of, "%.2f s" % one,
                 "ourselves with one thread", one / all_of,
                 1.8 if self.o.threads <= 2 else 11. / 16 * self.o.threads)

    def experiment(self):
        """crossval and experiment_torch.py on the demo's cohort: both inputs, all models, from
        files to statistics, in short. Theirs without its imports, ours with its report and with its
        checkpoints; neither keeps weights."""
        build = os.path.dirname(os.path.abspath(self.o.ours))
        data, out = (os.path.join(self.folder, n) for n in ("cohort", "experiment"))
        size = "--size 64 --folds 2 --epochs1 8 --epochs2 20 --batch 32 --max-slices 8".split()
        if not os.path.isdir(data):
            subprocess.check_call([os.path.join(build, "make_phantom"), "--out", data, "--effect",
                                   "1.5", "--hh", "12", "--hc", "12"], stdout=subprocess.DEVNULL)
        ours = [os.path.join(build, "crossval"), "--quiet", "--data", data, "--out", out,
                "--weights-out", "none", "--permute", "0"] + \
            (["--cpu", self.o.isa] if self.o.isa != "native" else [])
        theirs = [self.python, os.path.join(HERE, "experiment_torch.py"), "--data", data]
        threads = ["--threads", str(self.o.threads)]
        settings = [("malloc", 0), ("malloc", 1), ("malloc+passive", self.o.threads)]

        def run(env, workers, more):
            text = subprocess.check_output(theirs + size + threads + more +
                                           ["--workers", str(workers)],
                                           env=self.environment(env), stderr=subprocess.DEVNULL)
            return json.loads(text.splitlines()[-1])

        tried = {}
        for env, workers in settings:  # by half of the epochs
            tried[env, workers] = run(env, workers, ["--epochs1", "4", "--epochs2", "1"])["seconds"]
            self.say("  tried %s, %d workers: %.1f s" % (env, workers, tried[env, workers]))
        best = min(tried, key=tried.get)
        mine, times = [], []
        for _ in range(max(2, self.o.rounds // 3)):
            shutil.rmtree(out, ignore_errors=True)
            start = time.perf_counter()
            subprocess.check_call(ours + size + threads, env=self.default_environment())
            mine.append(time.perf_counter() - start)
            answer = run(*best, [])
            times.append(answer["seconds"])
            self.say("  ours %.1f s, theirs %.1f s" % (mine[-1], times[-1]))
        self.say("  AUCs of theirs: %s; of ours: %s" % (answer["auc"],
                                                         os.path.join(out, "results.json")))
        a, b = statistics.median(mine), statistics.median(times)
        self.row("experiment", "%.1f s" % a, "%.1f s" % b, "torch %s, %d workers" % best, b / a,
                 2.5)

    # ---- From echoes to maps: bench/maps_peers.py ----

    def maps_sides(self):
        """Ours and theirs with the echoes read; both of this row alone, as memory is measured."""
        if not os.path.isdir(self.o.echoes):
            raise RuntimeError("no folder %s: --echoes" % self.o.echoes)
        sides = (Side([self.o.ours], self.default_environment()),
                 Side([self.python, os.path.join(HERE, "maps_peers.py")], self.environment("")))
        sides[0].ask("threads %d" % self.o.threads)
        if self.o.processor_time:
            sides[0].ask("processor")
        for side in sides:
            side.ask("maps_open %s" % self.o.echoes)
        return sides

    def maps(self, name, target, bounds):
        """A step in alternating rounds, theirs by float32 and float64; bounds: of the relative
        difference of what both sides say of their result, number by number."""
        ours, theirs = self.maps_sides()
        calls = 20 if name == "maps_fft" else 1  # of a turn: it takes milliseconds
        mine, times = [], {"float32": [], "float64": []}
        x = ours.ask("%s 1" % name)["values"]
        for k in range(self.o.rounds + 1):
            for precision in times:
                answer = theirs.ask("%s %d %s" % (name, calls, precision))
                if k == 0:
                    y = answer["values"]
                else:
                    times[precision] += answer["seconds"]
            if k > 0:
                mine += ours.ask("%s %d" % (name, calls))["seconds"]
        ours.close(), theirs.close()
        if name == "maps_brain":
            self.check(name, "Dice below theirs", max(0., y[0] - x[0]), bounds)
        else:
            self.check(name, "mean and deviation, in deviations",
                       max(abs(a - b) for a, b in zip(x, y)) / max(abs(v) for v in y[-2:]), bounds)
        label = min(times, key=lambda p: statistics.median(times[p]))
        a, b = statistics.median(mine), statistics.median(times[label])
        self.row(name, "%.1f ms" % (1e3 * a), "%.1f ms" % (1e3 * b),
                 "brainextractor" if name == "maps_brain" else
                 "scikit-image" if name == "maps_unwrap" else "numpy + scipy, " + label, b / a,
                 target)

    def maps_memory(self):
        """Peak of the whole chain above what the program holds with libraries and echoes loaded."""
        found = []
        for precision in ("float32", "float64"):
            grown = []
            for side, line in zip(self.maps_sides(), ("maps_chain 1", "maps_chain 1 " + precision)):
                base = side.ask("memory")["values"][0]
                side.ask(line)
                grown.append(side.ask("memory")["values"][1] - base)
                side.close()
            found.append((grown[1], grown[0], precision))
        b, a, label = min(found)
        self.row("mem_maps_chain", "%.0f MB" % (1e-6 * a), "%.0f MB" % (1e-6 * b),
                 "numpy + scipy + scikit-image, " + label, b / a, 2.0)

    def run(self):
        rows = [("train_224_b64", lambda: self.train(224)),
                ("over_direct_limit_224", self.direct_limit),
                ("train_128_b64", lambda: self.train(128)),
                ("train_64_b64", lambda: self.train(64)),
                ("infer_224_b1", lambda: self.infer(1)),
                ("infer_224_b64", lambda: self.infer(64)),
                ("stage2", lambda: self.stage2(0)),
                ("stage2_ragged", lambda: self.stage2(1)),
                ("augment", lambda: self.augment(0)),
                ("augment_stretch", lambda: self.augment(1)),
                ("augment_share_224", self.augment_share),
                ("delong_1e6", self.delong),
                ("bootstrap_2000x1e5", self.bootstrap),
                ("mem_train_224_b64", self.memory),
                ("start_to_first_prediction", self.start),
                ("wasm_infer_224_b1", self.wasm),
                ("scaling", self.scaling),
                ("experiment", self.experiment),
                ("maps_unwrap", lambda: self.maps("maps_unwrap", 4, .02)),
                ("maps_background", lambda: self.maps("maps_background", 2, 1e-3)),
                ("maps_invert", lambda: self.maps("maps_invert", 2, 1e-3)),
                ("maps_r2star", lambda: self.maps("maps_r2star", 2, 1e-4)),
                ("maps_brain", lambda: self.maps("maps_brain", 4, 0)),
                ("maps_chain", lambda: self.maps("maps_chain", 4, 1e-3)),
                ("maps_fft", lambda: self.maps("maps_fft", 1, 1e-5)),
                ("mem_maps_chain", self.maps_memory)]
        only = self.o.only.split(",") if self.o.only else [n for n, _ in rows]
        unknown = set(only) - set(n for n, _ in rows)
        if unknown:
            sys.exit("peers.py: --only %s: expected some of %s"
                     % (",".join(sorted(unknown)), ", ".join(n for n, _ in rows)))
        self.say("ours:   %s" % self.ours().ask("hello")["text"])
        self.say("theirs: %s" % self.theirs().ask("hello")["text"])
        self.say("%d thread%s, float32, %d rounds in turns, %s, load of the machine before: %.1f"
                 % (self.o.threads, "s" if self.o.threads > 1 else "", self.o.rounds,
                    "processor time" if self.o.processor_time else "wall clock",
                    os.getloadavg()[0]))
        if self.o.isa != "native":
            self.hold()
        self.peak, copy, *flops = self.ours().ask("peak")["values"]
        self.flops = dict(zip((("train", 224), ("train", 128), ("train", 64), ("infer", 224)),
                              flops))
        self.say("machine: %s, %.0f GFLOP/s of multiply-adds, %.1f GB/s of a copy"
                 % (processor(), 1e-9 * self.peak, 1e-9 * copy))
        self.ours().ask("weights %s %s" % (self.resnet, self.scan))
        for name, work in rows:
            if name not in only:
                continue
            self.say("\n%s" % name)
            start = time.monotonic()
            try:
                work()
            except RuntimeError as e:
                self.say("  FAILED: %s" % e)
                self.failed.append("%s: %s" % (name, e))
                self.close()
            self.say("  (%.0f s)" % (time.monotonic() - start))
        self.close()
        self.report()
        return 1 if self.failed else 0

    def report(self):
        head = ("work", "ours", "theirs", "their best setting", "ratio", "target", "met", "of peak")
        width = [max(len(r[i]) for r in self.table + [head]) for i in range(len(head))]
        self.say("")
        for r in [head, tuple("-" * w for w in width)] + self.table:
            self.say("| " + " | ".join(c.ljust(w) for c, w in zip(r, width)) + " |")
        self.say("")
        for name, ratio in self.ratios:
            self.say("ratio %s %.4g" % (name, ratio))
        for name, share in self.shares:
            self.say("share %s %.4g" % (name, share))
        for text in self.failed:
            self.say("FAILED: " + text)


def processor():
    try:
        with open("/proc/cpuinfo") as f:
            found = dict(re.findall(r"^(cpu family|model|model name)\s*: (.*)$", f.read(), re.M))
        return "%(model name)s (family %(cpu family)s, model %(model)s)" % found
    except (OSError, KeyError):
        return "unknown processor"


def environment(folder):
    """The Python of the virtual environment at `folder`, made if it is not there. It sees what the
    system's Python has; only what is missing there, or of another version, is installed."""
    python = os.path.join(folder, "bin", "python")
    missing = "import importlib.metadata as m\n" \
        "names = {'cv2': 'opencv-python-headless', 'sklearn': 'scikit-learn', " \
        "'skimage': 'scikit-image'}\n" \
        "for name in %r:\n" \
        "    try: print(name, m.version(names.get(name, name)))\n" \
        "    except m.PackageNotFoundError: pass\n" % (list(NEEDED),)
    if not os.path.exists(python):
        print("making %s" % folder, flush=True)
        subprocess.check_call([sys.executable, "-m", "venv", "--system-site-packages", folder])
    found = dict(line.split() for line in
                 subprocess.check_output([python, "-c", missing]).decode().splitlines())
    wanted = [spec for name, spec in NEEDED.items()
              if not found.get(name, "").startswith(spec.partition("==")[2])
              or name not in found]
    torch = [spec for spec in wanted if spec.startswith("torch")]
    for specs, extra in ((torch, ["--index-url", TORCH_INDEX]),
                         ([s for s in wanted if s not in torch], [])):
        if specs:
            print("installing %s" % " ".join(specs), flush=True)
            subprocess.check_call([python, "-m", "pip", "install", "--quiet"] + extra + specs)
    return python


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="", metavar="NAME,...", help="rows to measure")
    p.add_argument("--rounds", type=int, default=7, help="alternating rounds (default 7)")
    p.add_argument("--search", type=int, default=2,
                   help="runs of each setting in the search for the best (default 2)")
    p.add_argument("--settings", default="", metavar="NAME,...",
                   help="try these settings alone, such as channels_last+malloc")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 2,
                   help="of both sides (default: the number of cores)")
    p.add_argument("--isa", choices=sorted(HELD), default="native",
                   help="avx2: both sides without AVX-512, checked (default: what they choose)")
    p.add_argument("--processor-time", action="store_true",
                   help="one thread, and its processor time instead of the wall clock: what can be "
                        "compared on a machine that is busy with other things")
    p.add_argument("--no-compile", action="store_true",
                   help="leave out torch.compile, which takes a minute and a C++ compiler")
    p.add_argument("--echoes", default="../shared/data/echoes", metavar="FOLDER",
                   help="six echoes and their true mask, for the rows maps_...")
    p.add_argument("--ours", default="build/ours", help="our program (make build/ours)")
    p.add_argument("--venv", default="build/venv-peers", help="folder of the virtual environment")
    o = p.parse_args()
    if o.rounds < 1 or o.search < 1 or o.threads < 1:
        p.error("numbers must be at least 1")
    if o.processor_time:
        o.threads = 1
    if not os.path.exists(o.ours):
        p.error("%s is not there: make build/ours" % o.ours)
    sys.exit(Bench(o).run())


if __name__ == "__main__":
    main()
