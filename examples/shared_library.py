"""shared_library: qnet.h from Python, by ctypes: DeLong's test, and the ResNet's features and
probabilities of a scan whose maps nibabel reads.

    make shared
    python3 examples/shared_library.py
    python3 examples/shared_library.py QSM R2STAR T1W MASK RESNET.safetensors

The first prints p = 0.0526, as build/delong does; the second, with weights that crossval left in
OUT/weights (...-resnetswa), what stands in the p_resnetswa column of OUT/predictions.csv.
QNET_LIBRARY names a library in another place than build/shared."""
import ctypes as c, os, re, sys

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
path = os.environ.get("QNET_LIBRARY", os.path.join(root, "build", "shared",
                                                   "libqnet.dylib" if sys.platform == "darwin" else "libqnet.so"))
header = re.sub(r"/\*.*?\*/", "", open(os.path.join(root, "qnet.h"), encoding="utf-8").read(), flags=re.S)
types = {"int": c.c_int, "char": c.c_char, "float": c.c_float, "double": c.c_double, "size_t": c.c_size_t,
         "uint64_t": c.c_uint64, "qnet_real": c.c_float}


def type_of(name):
    """The type of this name: a structure with the fields that it has in qnet.h; an enum is an int."""
    found = re.search(r"typedef struct %s \{([^}]*)\} %s;" % (name, name), header)
    if name not in types and found:
        fields = []
        for declaration in found.group(1).split(";")[:-1]:
            base, names = re.match(r"\s*(?:const |struct )*(\w+)\s*(.*)", declaration, re.S).groups()
            for star, field, sides in re.findall(r"(\*?)\s*(\w+)((?:\[\d+\])*),?", names):
                kind = (c.c_char_p if base == "char" else c.c_void_p) if star else type_of(base)
                for side in reversed(re.findall(r"\d+", sides)):
                    kind = kind * int(side)
                fields.append((field, kind))
        types[name] = type(name, (c.Structure,), {"_fields_": fields})
    return types.get(name, c.c_int)


def at(name, address):
    """The structure that lies at an address."""
    return c.cast(address, c.POINTER(type_of(name))).contents


def call(function, *arguments):
    """A function that returns a status: a sentence and the end, if it is not QNET_OK."""
    if getattr(lib, function)(*arguments) != 0:
        sys.exit("shared_library: " + lib.qnet_last_error(ctx).decode())


def create(function, *arguments):
    """What a function stores through its last argument."""
    out = c.c_void_p()
    call(function, *arguments, c.byref(out))
    return out


def delong(label, one, two):
    n, result = len(label), type_of("qnet_delong")()
    call("qnet_delong_test", ctx, (c.c_int * n)(*label), (c.c_double * n)(*one), (c.c_double * n)(*two), None,
         c.c_size_t(n), c.byref(result))
    return result


def volume(path):
    """A map, of any format that nibabel reads."""
    image = nibabel.as_closest_canonical(nibabel.load(path))  # to RAS
    voxels = numpy.asfortranarray(image.get_fdata(dtype=numpy.float32))  # x fastest
    out = create("qnet_volume_create", ctx, *voxels.shape)
    v = at("qnet_volume", out)
    v.spacing[:], v.orientation, v.affine_source = image.header.get_zooms(), b"RAS", 2
    for row in range(3):
        v.affine[row][:] = image.affine[row].tolist()
    c.memmove(v.voxels, voxels.ctypes.data, voxels.nbytes)
    return out


def embed(qsm, r2star, t1w, mask, weights):
    """features[slices][512] and the probability of HH of each slice, prepared as they were in training."""
    config, augment, scan = type_of("qnet_input_config")(), type_of("qnet_augment_config")(), (c.c_int * 1)(0)
    call("qnet_preparation_load", ctx, weights.encode(), c.byref(config), c.byref(augment))
    cohort = create("qnet_cohort_create", ctx, c.byref(config), 1)
    maps = type_of("qnet_scan_maps")(subject=b"scan", qsm=volume(qsm), r2star=volume(r2star), t1w=volume(t1w),
                                     mask=volume(mask))
    call("qnet_cohort_add", cohort, c.byref(maps))
    shape = type_of("qnet_resnet_config")(height=config.size, width=config.size, channels=3, classes=2, batch=16)
    resnet = create("qnet_resnet_create", ctx, c.byref(shape))
    net = at("qnet_resnet", resnet)
    call("qnet_weights_load", ctx, weights.encode(), c.c_void_p(net.table), c.c_void_p(net.weights), 0, None)
    features = numpy.zeros((config.max_slices, 512), numpy.float32)
    probability = numpy.zeros(config.max_slices)
    call("qnet_embed", resnet, c.byref(augment), cohort, scan, 1, c.c_void_p(features.ctypes.data),
         c.c_void_p(probability.ctypes.data))
    count = at("qnet_scan", at("qnet_cohort", cohort).scans).slices
    lib.qnet_resnet_destroy(resnet)
    lib.qnet_cohort_destroy(cohort)
    for v in maps.qsm, maps.r2star, maps.t1w, maps.mask:
        lib.qnet_volume_destroy(c.c_void_p(v))
    return features[:count], probability[:count]


if len(sys.argv) not in (1, 6):
    sys.exit("usage: shared_library.py [QSM R2STAR T1W MASK RESNET.safetensors]")
try:
    lib = c.CDLL(path)
except OSError as error:
    sys.exit("shared_library: no library (make shared makes it): %s" % error)
lib.qnet_last_error.restype = lib.qnet_version.restype = c.c_char_p
version = re.search(r'#define QNET_VERSION "(.*)"', header).group(1)
if lib.qnet_version().decode() != version:
    sys.exit("shared_library: the library is %s, the header %s" % (lib.qnet_version().decode(), version))
ctx = c.c_void_p()
if lib.qnet_context_create(None, c.byref(ctx)) != 0:
    sys.exit("shared_library: no context")
if len(sys.argv) == 1:
    d = delong([1] * 10 + [0] * 10,
               [.91, .85, .78, .73, .66, .61, .58, .95, .44, .70, .12, .25, .31, .44, .52, .08, .39, .63, .17, .29],
               [.62, .70, .35, .80, .55, .30, .66, .90, .41, .52, .45, .20, .58, .33, .61, .15, .48, .40, .27, .72])
    print("AUC %.4f and %.4f, z = %.3f, p = %.4f" % (d.auc[0], d.auc[1], d.z, d.p))
else:
    try:
        import nibabel, numpy
    except ImportError as error:
        sys.exit("shared_library: reading the maps needs nibabel and numpy (%s)" % error)
    features, probability = embed(*sys.argv[1:])
    print("features: %d x %d, mean %.4f" % (*features.shape, features.mean()))
    for t, p in enumerate(probability):
        print("slice %d: probability of HH %.4f" % (t, p))
lib.qnet_context_destroy(ctx)
