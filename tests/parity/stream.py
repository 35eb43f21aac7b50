"""stream.py: runs build/parity/NAME_float or NAME_double and reads the tensors that it writes."""
import os
import subprocess
import sys
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))


def tensors(build, program, arguments):
    """{(pass, name): float64 array in the order of qnet.h's memory}, in the order of writing."""
    path = os.path.join(build, "parity", program)
    run = subprocess.run([path] + [str(a) for a in arguments], stdout=subprocess.PIPE, check=True)
    data, at, found = run.stdout, 0, {}
    real = np.dtype(np.float64 if program.endswith("_double") else np.float32)
    while at < len(data):
        end = data.index(b"\n", at)
        part, name, sizes = data[at:end].decode().split("\t")
        shape = [int(s) for s in sizes.split()[1:]]
        count = int(np.prod(shape))
        numbers = np.frombuffer(data, real, count, end + 1)
        found[part, name] = numbers.reshape(shape).astype(np.float64)
        at = end + 1 + count * real.itemsize
    return found
