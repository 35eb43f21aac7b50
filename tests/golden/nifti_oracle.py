"""Oracles of rooms >>nifti and >>deflate: headers that nibabel writes, around voxels of every type
in both byte orders, read back by nibabel; and gzip files by compressors that are not ours. Nothing
here knows qnet.h."""
import gzip, os, pickle, shutil, struct, subprocess, sys, tempfile, zlib
import numpy as np

TYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32,
         np.float64]
SCALES = [(1, 0), (np.float32(.1), -3.5), (np.nan, np.nan), (-2.5e-4, 0), (0, 5), (3, 1e6)]
AFFINES = ["sform, oblique, shear", "qform, oblique", "qform, left-handed", "both, and they differ",
           "neither", "qform, nearly half a turn", "sform, axes permuted", "qform, half a turn"]


def _rotation(x, y, z):
    cx, cy, cz, sx, sy, sz = *np.cos([x, y, z]), *np.sin([x, y, z])
    return (np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
            @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]))


def _affine(rotation, spacing, origin):
    a = np.eye(4)
    a[:3, :3] = rotation * spacing
    a[:3, 3] = origin
    return a


def place(header, kind, k):
    """Fills sform and qform of a nibabel header in the way that AFFINES[kind] says; k varies it."""
    t = .37 + .41 * k
    spacing = np.array([.9375, 1.25, 2.0 + .1 * (k % 3)])
    origin = np.array([-91.5 + k, 12.25, 40.125 - 3 * k])
    oblique = _affine(_rotation(.3 + t, -.7 * t, 1.9 * t), spacing, origin)
    header["pixdim"][1:4] = spacing
    if kind in (0, 3):
        shear = np.eye(4)
        shear[0, 1] = .07
        header.set_sform(shear @ oblique if kind == 0 else oblique, 1 + k % 4)
    if kind == 1:
        header.set_qform(oblique, 1)
    if kind == 2:
        header.set_qform(_affine(_rotation(t, .2, -t), spacing, origin) @ np.diag([-1, 1, 1, 1]), 2)
    if kind == 3:
        header.set_qform(_affine(_rotation(-t, t, .1), spacing, -origin), 1)
    if kind == 5:
        header.set_qform(_affine(_rotation(np.pi - 1e-4, 2e-4, 1e-4), spacing, origin), 1)
    if kind == 6:
        p = np.roll(np.eye(3), 1 + k % 2, 0) * [1, -1, 1]
        header.set_sform(_affine(p, spacing, origin), 2)
    if kind == 7:
        header.set_qform(_affine(np.diag([-1., -1., 1.]), spacing, origin), 3)


def stored(dtype, shape, u):
    """Voxels over the whole range of a type, both ends included; floats with NaN and infinity."""
    n = int(np.prod(shape))
    if np.dtype(dtype).kind == "f":
        v = ((u[:n] - .5) * 10.0 ** (6 * u[n:2 * n])).astype(dtype)
        v[:3] = [np.nan, np.inf, -np.inf]
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        v = np.array([low + int(x * 2 ** 53) * (high - low) // 2 ** 53 for x in u[:n]], dtype=dtype)
        v[:2] = [low, high]
    return v.reshape(shape, order="F")


def pack(dtype, big, shape, scale, kind, k, u, extension=b"", dims=None):
    """The bytes of a NIfTI-1 file."""
    import nibabel as nib
    header = nib.Nifti1Header(endianness=">" if big else "<")
    header.set_data_dtype(np.dtype(dtype).newbyteorder(">" if big else "<"))
    header.set_data_shape(shape)
    place(header, kind, k)
    header["scl_slope"], header["scl_inter"] = scale
    header.set_xyzt_units("mm", "sec")
    if dims:  # trailing axes of length 1
        header["dim"][0] = dims
    tail = b"\0\0\0\0"
    if extension:
        size = (len(extension) + 8 + 15) // 16 * 16
        tail = b"\1\0\0\0" + struct.pack(">ii" if big else "<ii", size, 6) + extension.ljust(size - 8, b"\0")
    header["vox_offset"] = 348 + len(tail)
    voxels = stored(dtype, shape, u).astype(np.dtype(dtype).newbyteorder(">" if big else "<"))
    return header.binaryblock + tail + voxels.tobytes(order="F")


def read(data):
    """shape (three sides), affine, orientation, source (2 sform, 1 qform, 0 neither), float32 voxels
    x fastest, by nibabel."""
    import nibabel as nib
    image = nib.Nifti1Image.from_bytes(data)
    h = image.header
    shape = (image.shape + (1, 1, 1))[:3]
    with np.errstate(all="ignore"):
        v = image.get_fdata(dtype=np.float64).astype(np.float32).ravel(order="F")
    source = 2 if h["sform_code"] > 0 else 1 if h["qform_code"] > 0 else 0
    return shape, image.affine, "".join(nib.aff2axcodes(image.affine)), source, v


def files(formula, shape=(3, 3, 2)):
    """(name, bytes): every type in both byte orders, every kind of affine and of scaling."""
    made = []
    for k, dtype in enumerate(TYPES):
        for big in (0, 1):
            j = 2 * k + big
            scale = SCALES[(k + 2 * big) % len(SCALES)]
            kind = (3 * k + 5 * big) % len(AFFINES)
            u = formula(700 + j, 2 * int(np.prod(shape)))
            name = "%s, %s, slope %g, %s" % (np.dtype(dtype).name, "big" if big else "little", scale[0],
                                             AFFINES[kind])
            made.append((name, pack(dtype, big, shape, scale, kind, j, u)))
    u = formula(760, 64)
    made.append(("an extension", pack(np.int16, 0, (3, 2, 2), (1, 0), 6, 1, u, b"some words of a tool")))
    made.append(("an extension, big", pack(np.uint16, 1, (2, 3, 2), (1, 0), 1, 2, u, b"x" * 40)))
    made.append(("4-D of one volume", pack(np.int16, 0, (2, 2, 3), (.5, 1), 0, 3, u, dims=4)))
    made.append(("2-D", pack(np.float32, 1, (4, 3), (1, 0), 0, 4, u)))
    return made


# ---- compressors --------------------------------------------------------------------------------

def _deflate(data, level=6, strategy=zlib.Z_DEFAULT_STRATEGY, wbits=-15, flush_every=0):
    c = zlib.compressobj(level, zlib.DEFLATED, wbits, 9, strategy)
    if not flush_every:
        return c.compress(data) + c.flush()
    out = b""
    for i in range(0, len(data), flush_every):
        out += c.compress(data[i:i + flush_every]) + c.flush(zlib.Z_SYNC_FLUSH)
    return out + c.flush()


def _member(data, body, flags=0, fields=b""):
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\x15\xcd\x5b\x07\0\3" + fields
    if flags & 2:  # FHCRC
        head += struct.pack("<H", zlib.crc32(head) & 0xffff)
    return head + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xffffffff)


def _members(data, n):
    cut = [len(data) * i // n for i in range(n + 1)]
    return b"".join(_member(data[a:b], _deflate(data[a:b])) for a, b in zip(cut, cut[1:]))


def _bgzip(data, block=400):
    """Members that tell their size in an extra field, and an empty one at the end (as bgzip)."""
    out = b""
    for i in list(range(0, len(data), block)) + [len(data)]:
        piece = data[i:i + block]
        body = _deflate(piece)
        out += _member(piece, body, 4, struct.pack("<HBBHH", 6, 66, 67, 2, len(body) + 25))
    return out


def _command(*words):
    def run(data):
        return subprocess.run(words, input=data, capture_output=True, check=True).stdout
    run.program = words[0]
    return run


COMPRESSORS = {
    "zlib level 1": lambda d: _member(d, _deflate(d, 1)),
    "zlib level 9": lambda d: _member(d, _deflate(d, 9)),
    "zlib stored": lambda d: _member(d, _deflate(d, 0)),
    "zlib Huffman only": lambda d: _member(d, _deflate(d, 6, zlib.Z_HUFFMAN_ONLY)),
    "zlib run lengths": lambda d: _member(d, _deflate(d, 6, zlib.Z_RLE)),
    "zlib fixed codes": lambda d: _member(d, _deflate(d, 6, zlib.Z_FIXED)),
    "zlib window of 512": lambda d: _member(d, _deflate(d, 6, wbits=-9)),
    "flushed blocks, as pigz": lambda d: _member(d, _deflate(d, 6, flush_every=300)),
    "members, as pigz -i or cat": lambda d: _members(d, 5),
    "blocks of bgzip": _bgzip,
    "all header fields": lambda d: _member(d, _deflate(d), 0x1f, b"\4\0abcdscan.nii\0a comment\0"),
    "Python gzip, file name": lambda d: _python_gzip(d),
    "gzip -1": _command("gzip", "-1", "-c"),
    "gzip -9": _command("gzip", "-9", "-c"),
    "perl": _command("perl", "-MIO::Compress::Gzip=gzip", "-e", "gzip '-' => '-', -Name => 'scan.nii'"),
    "node": _command("node", "-e", "process.stdout.write(require('zlib').gzipSync(require('fs').readFileSync(0)))"),
}
# In the environment of oracle_env: compressors with an encoder of their own.
RARE = {
    "zopfli": lambda d: __import__("zopfli.gzip").gzip.compress(d),
    "libdeflate 1": lambda d: __import__("deflate").gzip_compress(d, 1),
    "libdeflate 12": lambda d: __import__("deflate").gzip_compress(d, 12),
    "isa-l 0": lambda d: __import__("isal.igzip").igzip.compress(d, 0, mtime=123456789),
    "isa-l 3": lambda d: __import__("isal.igzip").igzip.compress(d, 3, mtime=123456789),
    "zlib-ng 1": lambda d: __import__("zlib_ng.gzip_ng").gzip_ng.compress(d, 1, mtime=123456789),
    "zlib-ng 9": lambda d: __import__("zlib_ng.gzip_ng").gzip_ng.compress(d, 9, mtime=123456789),
}


def _python_gzip(data):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "scan.nii.gz")
        with gzip.GzipFile(path, "wb", mtime=123456789) as f:
            f.write(data)
        with open(path, "rb") as f:
            return f.read()


def compressed(data, rare=True):
    """{name: gzip file of data}, with the compressors that are there."""
    made = {}
    for name, f in COMPRESSORS.items():
        if hasattr(f, "program") and not shutil.which(f.program):
            continue
        made[name] = f(data)
    if rare:
        import oracle_env
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "job.pickle")
            with open(path, "wb") as f:
                pickle.dump(data, f)
            subprocess.run([oracle_env.python(), os.path.abspath(__file__), path], check=True)
            with open(path, "rb") as f:
                made.update(pickle.load(f))
    for name, packed in made.items():  # they must agree among themselves
        assert gzip.decompress(packed) == data, name
    return made


def zlib_member(packed):
    """What zlib makes of one whole gzip member and nothing after it; None when it refuses."""
    d = zlib.decompressobj(31)
    try:
        data = d.decompress(packed)
    except zlib.error:
        return None
    return data if d.eof and not d.unused_data else None


DECOMPRESSORS = {
    "zlib": zlib_member,
    "gzip -d": _command("gzip", "-dc"),
    "perl": _command("perl", "-MIO::Uncompress::Gunzip=gunzip", "-e", "gunzip '-' => '-'"),
    "node": _command("node", "-e", "process.stdout.write(require('zlib').gunzipSync(require('fs').readFileSync(0)))"),
}
RARE_DECOMPRESSORS = {
    "libdeflate": lambda p: __import__("deflate").gzip_decompress(p),
    "isa-l": lambda p: __import__("isal.igzip").igzip.decompress(p),
    "zlib-ng": lambda p: __import__("zlib_ng.gzip_ng").gzip_ng.decompress(p),
}


def decompressed(files):
    """{name: [what it unpacks]}, with the decompressors that are there."""
    import oracle_env
    made = {name: [f(p) for p in files] for name, f in DECOMPRESSORS.items()
            if not hasattr(f, "program") or shutil.which(f.program)}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "job.pickle")
        with open(path, "wb") as f:
            pickle.dump(files, f)
        subprocess.run([oracle_env.python(), os.path.abspath(__file__), path], check=True)
        with open(path, "rb") as f:
            made.update(pickle.load(f))
    return made


if __name__ == "__main__":  # one file to pack, or a list of them to unpack
    job, made = pickle.load(open(sys.argv[1], "rb")), {}
    for name, f in (RARE_DECOMPRESSORS if isinstance(job, list) else RARE).items():
        try:
            made[name] = [f(p) for p in job] if isinstance(job, list) else f(job)
        except ImportError as e:
            print("nifti_oracle: without %s: %s" % (name, e), file=sys.stderr)
    pickle.dump(made, open(sys.argv[1], "wb"))
