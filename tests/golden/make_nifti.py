#!/usr/bin/env python3
"""Writes nifti.h: small NIfTI-1 files of every type, byte order and kind of affine, what nibabel
reads from them, and one file as a dozen compressors pack it (nifti_oracle.py).
    python3 tests/golden/make_nifti.py
Needs NumPy and nibabel; oracle_env.py fetches the compressors that Python lacks, gzip is the system's."""
import io, sys, zlib
import nibabel, numpy as np
import golden_file, nifti_oracle as oracle
from image_oracle import formula

KEEP = ["zlib level 9", "zlib stored", "zlib Huffman only", "zlib fixed codes", "zlib window of 512",
        "flushed blocks, as pigz", "members, as pigz -i or cat", "blocks of bgzip", "all header fields",
        "Python gzip, file name", "gzip -1", "zopfli", "libdeflate 12", "isa-l 0", "isa-l 3", "zlib-ng 9"]

out = io.StringIO()


def write(text):
    out.write(text + "\n")


def lines(words, indent=" "):
    line = indent
    for w in words:
        if len(line) + len(w) > 98:
            write(line)
            line = indent
        line += w
    write(line)


def array(name, kind, words):
    write("static const %s %s[] = {" % (kind, name))
    lines([w + "," for w in words])
    write("};")


def number(v):
    return "NAN" if np.isnan(v) else ("HUGE_VAL" if v > 0 else "-HUGE_VAL") if np.isinf(v) else "%.9g" % v


write("/* nifti.h: written by make_nifti.py with nibabel %s. nifti_bytes: all files, one after the other;\n"
      "   nifti_voxels: all their voxels as nibabel's get_fdata gives them, rounded to float32. */" %
      nibabel.__version__)
data, voxels, rows = b"", [], []
for name, packed in oracle.files(formula):
    shape, affine, codes, source, v = oracle.read(packed)
    rows.append('{"%s", %d, %d, %d, {%d, %d, %d}, "%s", %d,\n     {%s}},' % (
        name, len(data), len(packed), len(voxels), *shape, codes, source,
        ",\n      ".join(", ".join("%.17g" % x for x in affine[i]) for i in range(3))))
    data += packed
    voxels += [number(x) for x in v]
array("nifti_bytes", "unsigned char", [str(b) for b in data])
array("nifti_voxels", "double", voxels)
write("static const nifti_file nifti_files[] = {")
for r in rows:
    write("    " + r)
write("};")

# Smooth with a little noise, so that matches and literals both occur.
n = (9, 8, 7)
x, y, z = np.meshgrid(*map(np.arange, n), indexing="ij")
u = formula(770, x.size).reshape(n)
stored = (40 * x + 7 * (y - 3) * (z - 2) + (u > .8) * np.floor(u * 90)) * (x + y > 4)
header = nibabel.Nifti1Header()
header.set_data_dtype(np.int16)
header.set_data_shape(n)
oracle.place(header, 0, 1)
header["vox_offset"] = 352
raw = header.binaryblock + b"\0\0\0\0" + stored.astype("<i2").tobytes(order="F")
everything = oracle.compressed(raw)
missing = [name for name in KEEP if name not in everything]
if missing:
    sys.exit("make_nifti.py needs these compressors, too: %s: nifti.h stays as it is" % ", ".join(missing))
shape, affine, codes, source, v = oracle.read(raw)
write("/* %d bytes of NIfTI, packed by each of these; crc and the sum of voxel[j] (formula(771, j) - .5). */"
      % len(raw))
write("static const size_t gzip_size = %d;\nstatic const unsigned long gzip_crc = 0x%08x;" %
      (len(raw), zlib.crc32(raw)))
write("static const double gzip_sum = %.17g;" % (v.astype(float) @ (formula(771, v.size) - .5)))
packed, rows = b"", []
for name in KEEP:
    rows.append('{"%s", %d, %d},' % (name, len(packed), len(everything[name])))
    packed += everything[name]
array("gzip_bytes", "unsigned char", [str(b) for b in packed])
write("static const gzip_file gzip_files[] = {")
for r in rows:
    write("    " + r)
write("};")
golden_file.replace("nifti.h", out.getvalue())
