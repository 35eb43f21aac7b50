#!/usr/bin/env python3
"""Writes the small .pth files of test_pth.c and pth.h, what torch says about them. Needs torch:
    python3 tests/golden/make_pth.py
zip.pth, legacy.pth   the two forms of torch.save, with every kind of tensor that the reader takes
old.pth               by hand, what Python 2 and torch 0.1-0.4 wrote: byte strings, tensors and
                      Parameters by BUILD and NEWOBJ; torch.load must read it to the same numbers
scan.pth              a small stage 2; pth.h has its outputs
Number j of tensor i is ((5 i + 7 j) % 11 - 5) / 4, which all types hold exactly."""
import io, os, pickle, struct, sys, tempfile
import torch
import golden_file
from collections import OrderedDict
here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "weights_tools"))

def t(i, shape, dtype=torch.float32):
    n = 1
    for s in shape: n *= s
    return torch.tensor([((5 * i + 7 * j) % 11 - 5) / 4 for j in range(n)], dtype=torch.float64).reshape(shape).to(dtype)

def tensors():
    d = OrderedDict()
    d["plain"] = t(0, (2, 3, 2))
    d["parameter"] = torch.nn.Parameter(t(1, (4,)))
    d["double"] = t(2, (3,), torch.float64)
    d["half"] = t(3, (5,), torch.float16)
    d["bfloat"] = t(4, (2, 2), torch.bfloat16)
    d["scalar"] = t(5, ())
    d["bn.num_batches_tracked"] = torch.tensor(7)
    d["empty"] = t(6, (0, 3))
    big = torch.zeros(6, 8); big[2:5, 1:7:2] = t(7, (3, 3)); d["slice"] = big[2:5, 1:7:2]
    d["turned"] = t(8, (3, 4)).t().contiguous().t()
    d["tied"] = d["plain"]
    d._metadata = OrderedDict([("", {"version": 1}), ("bn", {"version": 2})])
    return d

def fixed_keys(data):
    """A legacy file's storage keys are addresses: here they become 1, 2, ... in order of appearance."""
    stream, size = io.BytesIO(data), {}
    class P(pickle.Unpickler):
        def find_class(self, m, n): return n if n.endswith("Storage") else lambda *a: OrderedDict()
        def persistent_load(self, pid): size.setdefault(pid[2], pid[4] * element[pid[1]])
    element = {"FloatStorage": 4, "DoubleStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8}
    for _ in range(3): pickle.load(stream)
    P(stream).load()
    head, numbers = data[:stream.tell()], {}
    for key in pickle.load(stream): numbers[key] = stream.read(8 + size[key])
    for k, key in enumerate(size): head = head.replace(key.encode(), str(k + 1).zfill(len(key)).encode())
    keys = [str(k + 1).zfill(len(key)) for k, key in enumerate(size)]
    return head + pickle.dumps(keys, protocol=2) + b"".join(numbers[key] for key in size)

class Old:
    """Opcodes of protocol 2 as Python 2's cPickle chose them."""
    def __init__(self): self.b = b"\x80\2"; self.memo = 0
    def op(self, b): self.b += b; return self
    def put(self): self.memo += 1; return self.op(b"q" + bytes([self.memo]))
    def s(self, text): return self.op(b"U" + bytes([len(text)]) + text.encode()).put()
    def g(self, m, n): return self.op(f"c{m}\n{n}\n".encode()).put()
    def n(self, v): return self.op(b"\x8a\1" + bytes([v]))       # a long
    def storage(self, key, count):
        self.op(b"(").s("storage").g("torch", "FloatStorage").s(key).s("cpu").op(b"K" + bytes([count]) + b"Nt").put()
        return self.op(b"Q").put()
    def size(self, *v):
        self.op(b"(")
        for x in v: self.n(x)
        return self.op(b"t").put()

def old():
    p = Old().g("collections", "OrderedDict").op(b"]").put().op(b"(")
    pair = lambda name: p.op(b"]").put().op(b"(").s(name)
    # FloatTensor() and BUILD (storage, offset, size, stride): torch 0.1
    pair("conv.weight").g("torch.nn.parameter", "Parameter").op(b")\x81").put().op(b"(")
    p.g("torch", "FloatTensor").op(b")R").put().op(b"(").storage("11", 6).n(0).size(2, 3).size(3, 1).op(b"tb")
    p.op(b"N").g("collections", "OrderedDict").op(b")R").put().op(b"\x88\x89tb").op(b"e")
    # _rebuild_tensor: torch 0.2-0.3, within a Parameter made by NEWOBJ with its data
    pair("conv.bias").g("torch.nn.parameter", "Parameter").g("torch._utils", "_rebuild_tensor")
    p.op(b"(").storage("12", 4).n(1).size(2).size(1).op(b"tR").put().op(b"\x85\x81").put()
    p.op(b"\x88\x89N\x87b").op(b"e")
    # Parameter(tensor, requires_grad): torch 0.4.1
    pair("fc.weight").g("torch.nn.parameter", "Parameter").g("torch._utils", "_rebuild_tensor_v2")
    p.op(b"(").storage("13", 2).n(0).size(1, 2).size(2, 1).op(b"\x89").g("collections", "OrderedDict").op(b")RtR").put()
    p.op(b"\x88\x86R").op(b"e").op(b"e\x85R").put().op(b".")
    keys = Old().op(b"]").put().op(b"(").s("12").s("11").s("13").op(b"e.")
    info = Old().op(b"}").put().op(b"(").s("protocol_version").op(b"M\xe9\3").s("type_sizes").op(b"}").put()
    info.op(b"(").s("int").op(b"K\4").s("long").op(b"K\4").s("short").op(b"K\2u").s("little_endian").op(b"\x88u.")
    out = b"\x80\2\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\2M\xe9\3." + info.b + p.b + keys.b
    conv, bias, fc = t(0, (2, 3)), torch.cat([torch.tensor([9.]), t(1, (2,)), torch.tensor([9.])]), t(2, (1, 2))
    for v in bias, conv, fc:
        out += struct.pack("<q", v.numel()) + v.flatten().numpy().tobytes()
    got = torch.load(io.BytesIO(out), weights_only=False, encoding="latin1")
    want = {"conv.weight": conv, "conv.bias": bias[1:3], "fc.weight": fc}
    assert list(got) == list(want) and all(torch.equal(got[k].data, want[k]) for k in want)
    golden_file.replace("old.pth", out)

def saved(name, value):
    """The bytes of torch.save's zip form; it puts the file's name into them."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(value, os.path.join(folder, name))
        with open(os.path.join(folder, name), "rb") as f: return f.read()

def scan():
    from qnet_module import ScanModel
    model = ScanModel(features=3, hidden=2, steps=3)
    for i, v in enumerate(model.state_dict().values()): v.copy_(t(i, v.shape))
    weights = saved("scan.pth", model.state_dict())
    x, length = t(50, (2, 3, 3)), torch.tensor([3, 2])
    with torch.no_grad(): image, scan = model.double()(x.double(), length)
    line = lambda v: ", ".join(f"{float(a):.17g}" for a in v.flatten())
    golden_file.replace("scan.pth", weights)
    golden_file.replace("pth.h", "/* pth.h: by make_pth.py, not by hand: float64 logits of scan.pth for scans of 3 and 2 slices. */\n"
                        f"static const double golden_scan_image[] = {{\n    {line(image[:1])},\n    {line(image[1:])}}};\n"
                        f"static const double golden_scan[] = {{\n    {line(scan)}}};\n")

if __name__ == "__main__":
    buffer = io.BytesIO()
    torch.save(tensors(), buffer, _use_new_zipfile_serialization=False)
    for name, data in ("zip.pth", saved("zip.pth", tensors())), ("legacy.pth", fixed_keys(buffer.getvalue())):
        got, want = torch.load(io.BytesIO(data), weights_only=True), tensors()
        assert all(torch.equal(got[k], want[k]) for k in want)
        golden_file.replace(name, data)
    old()
    scan()
