/* weights_tools/pth.h: PyTorch's .pth files in and out; run from the top of the repository. The
   good files are tests/golden/?*.pth (make_pth.py); the bad ones are made from them here. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#define PTH_IMPLEMENTATION
#include "golden/pth.h"
#include "test.h"
#include "weights_tools/pth.h"

static double number(const qnet_safetensor *t, size_t i)
{
    double x;
    qnet__numbers((const unsigned char *)t->data + i * qnet_dtype_size(t->dtype), t->dtype, 1, &x);
    return x;
}

static qnet_context *ctx;

typedef struct image { unsigned char *bytes; size_t size; } image;

static image image_of(const void *bytes, size_t size)
{
    image f;
    f.bytes = (unsigned char *)malloc(size + !size); /* exactly so much: a sanitizer sees one more */
    f.size = size;
    if (f.bytes == NULL) abort();
    if (size > 0) memcpy(f.bytes, bytes, size);
    return f;
}

static image golden(const char *name)
{
    char path[64];
    qnet_buffer b;
    image f;
    memset(&b, 0, sizeof b);
    snprintf(path, sizeof path, "tests/golden/%s", name);
    CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &b));
    f = image_of(b.bytes, b.size);
    qnet_buffer_free(ctx, &b);
    return f;
}

static qnet_status read_image(image f, qnet_safetensors **out, char sentence[PTH_SENTENCE])
{
    qnet_buffer b;
    qnet_memory_source state;
    qnet_source source;
    qnet_status status;
    memset(&b, 0, sizeof b);
    status = pth_to_safetensors(ctx, "x.pth", f.bytes, f.size, &b, sentence);
    if (status == QNET_OK) {
        source = qnet_source_memory(&state, b.bytes, b.size, "x.pth");
        status = qnet_safetensors_read(ctx, &source, out);
    } else {
        CHECK(b.bytes == NULL && b.size == 0); /* nothing half done */
    }
    qnet_buffer_free(ctx, &b);
    return status;
}

/* The file must be refused, with this status and words; f is freed. */
static void refused(image f, qnet_status expected, const char *words)
{
    qnet_safetensors *out = NULL;
    char sentence[PTH_SENTENCE];
    qnet_status status = read_image(f, &out, sentence);
    CHECK(status == expected);
    if (status != expected) printf("    got %s: %s\n", qnet_status_name(status), sentence);
    CHECK(out == NULL);
    CHECK_CONTAINS(sentence, words);
    CHECK_CONTAINS(sentence, "x.pth: ");
    if (out != NULL) qnet_safetensors_destroy(out);
    free(f.bytes);
}

/* ---- good files ------------------------------------------------------------------------------ */

/* Number j of tensor i in the golden files. */
static double value(size_t i, size_t j) { return ((double)((5 * i + 7 * j) % 11) - 5) / 4; }

/* columns > 0: the tensor is the transpose of the formula's, which has so many columns. */
static void check_tensor(const qnet_safetensors *file, const char *name, size_t i, qnet_dtype dtype,
                         int ndim, size_t s0, size_t s1, size_t columns)
{
    const qnet_safetensor *t = qnet_safetensors_find(file, name);
    size_t j, bad = 0;
    CHECK(t != NULL);
    if (t == NULL) return;
    CHECK(t->dtype == dtype && t->ndim == ndim);
    CHECK(ndim < 1 || t->shape[0] == s0);
    CHECK(ndim < 2 || t->shape[1] == s1);
    for (j = 0; j < t->count; j++) {
        size_t k = columns ? j % s1 * columns + j / s1 : j;
        bad += number(t, j) != value(i, k);
    }
    CHECK(bad == 0);
}

static void check_all(const char *name)
{
    image f = golden(name);
    qnet_safetensors *file = NULL;
    char sentence[PTH_SENTENCE];
    const qnet_safetensor *t;
    CHECK(read_image(f, &file, sentence) == QNET_OK);
    free(f.bytes);
    if (file == NULL) return;
    CHECK(file->count == 11 && file->metadata_count == 0);
    check_tensor(file, "plain", 0, QNET_F32, 3, 2, 3, 0);
    check_tensor(file, "tied", 0, QNET_F32, 3, 2, 3, 0);
    check_tensor(file, "parameter", 1, QNET_F32, 1, 4, 0, 0);
    check_tensor(file, "double", 2, QNET_F64, 1, 3, 0, 0);
    check_tensor(file, "half", 3, QNET_F16, 1, 5, 0, 0);
    check_tensor(file, "bfloat", 4, QNET_BF16, 2, 2, 2, 0);
    check_tensor(file, "scalar", 5, QNET_F32, 0, 0, 0, 0);
    check_tensor(file, "empty", 6, QNET_F32, 2, 0, 3, 0);
    check_tensor(file, "slice", 7, QNET_F32, 2, 3, 3, 0);
    check_tensor(file, "turned", 8, QNET_F32, 2, 3, 4, 0);
    t = qnet_safetensors_find(file, "bn.num_batches_tracked");
    CHECK(t != NULL && t->dtype == QNET_I64 && t->ndim == 0 && number(t, 0) == 7);
    qnet_safetensors_destroy(file);
}

static void test_zip(void) { check_all("zip.pth"); }
static void test_legacy(void) { check_all("legacy.pth"); }

static void test_old(void)
{
    image f = golden("old.pth");
    qnet_safetensors *file = NULL;
    char sentence[PTH_SENTENCE];
    CHECK(read_image(f, &file, sentence) == QNET_OK);
    free(f.bytes);
    if (file == NULL) return;
    CHECK(file->count == 3);
    check_tensor(file, "conv.weight", 0, QNET_F32, 2, 2, 3, 0);
    check_tensor(file, "conv.bias", 1, QNET_F32, 1, 2, 0, 0);
    check_tensor(file, "fc.weight", 2, QNET_F32, 2, 1, 2, 0);
    qnet_safetensors_destroy(file);
}

/* Out and in again: names, types, shapes, bytes and metadata; the same bytes each time. */
static void test_round_trip(void)
{
    static const char *const pairs[] = {"model", "qnet", "text", "a \"quoted\" \xc3\xa9\nline"};
    image f = golden("zip.pth"), g;
    qnet_safetensors *file = NULL, *with = NULL, *again = NULL;
    qnet_memory_source state;
    qnet_source source;
    qnet_sink sink;
    qnet_buffer b, pth, twice;
    char sentence[PTH_SENTENCE];
    int i;
    memset(&b, 0, sizeof b);
    memset(&pth, 0, sizeof pth);
    memset(&twice, 0, sizeof twice);
    CHECK(read_image(f, &file, sentence) == QNET_OK);
    free(f.bytes);
    if (file == NULL) return;
    sink = qnet_sink_buffer(ctx, &b, "b");
    CHECK_OK(ctx, qnet_safetensors_write(ctx, &sink, file->tensors, file->count, pairs, 2));
    source = qnet_source_memory(&state, b.bytes, b.size, "b");
    CHECK_OK(ctx, qnet_safetensors_read(ctx, &source, &with));
    CHECK(pth_from_safetensors(ctx, "y.pth", with, &pth, sentence) == QNET_OK);
    CHECK(pth_from_safetensors(ctx, "y.pth", with, &twice, sentence) == QNET_OK);
    CHECK(pth.size == twice.size && memcmp(pth.bytes, twice.bytes, pth.size) == 0);
    CHECK(pth_is_pth(pth.bytes, pth.size) && !pth_is_pth(b.bytes, b.size));
    g = image_of(pth.bytes, pth.size);
    CHECK(read_image(g, &again, sentence) == QNET_OK);
    free(g.bytes);
    if (again != NULL) {
        CHECK(again->count == with->count && again->metadata_count == 2);
        CHECK(strcmp(qnet_safetensors_metadata(again, "text"), pairs[3]) == 0);
        for (i = 0; i < with->count; i++) {
            const qnet_safetensor *x = &with->tensors[i], *y = &again->tensors[i];
            CHECK(strcmp(x->name, y->name) == 0 && x->dtype == y->dtype && x->ndim == y->ndim);
            CHECK(memcmp(x->shape, y->shape, sizeof x->shape) == 0 && x->bytes == y->bytes);
            CHECK(x->bytes == 0 || memcmp(x->data, y->data, x->bytes) == 0);
        }
        /* A type that PyTorch's storages here do not have, and names that they could not. */
        again->tensors[0].dtype = QNET_U16;
        CHECK(pth_from_safetensors(ctx, "y.pth", again, &b, sentence) == QNET_ERROR_UNSUPPORTED);
        CHECK_CONTAINS(sentence, "y.pth: tensor 'double': expected type F64, F32, F16, BF16 or I64, "
                                 "found U16");
    }
    qnet_buffer_free(ctx, &b);
    qnet_buffer_free(ctx, &pth);
    qnet_buffer_free(ctx, &twice);
    qnet_safetensors_destroy(file);
    qnet_safetensors_destroy(with);
    qnet_safetensors_destroy(again);
}

/* A stage 2 that torch saved gives torch's logits. 1e-6: eight float roundings of numbers near 1. */
static void test_scan_model(void)
{
    static const int length[2] = {3, 2};
    qnet_scan_config c;
    qnet_scan_model *model = NULL;
    qnet_real x[18], slices[12], scan[4];
    const double tolerance = QNET__REAL_IS_DOUBLE ? 1e-14 : 1e-6;
    size_t j;
    qnet_status before;
    qnet_scan_config_init(&c);
    c.features = c.steps = 3;
    c.hidden = c.batch = 2;
    CHECK_OK(ctx, qnet_scan_model_create(ctx, &c, &model));
    if (model == NULL) return;
    CHECK_OK(ctx, qnet_weights_load(ctx, "tests/golden/scan.pth", model->table, model->weights, 0,
                                    NULL));
    for (j = 0; j < 18; j++) x[j] = (qnet_real)value(50, j);
    CHECK_OK(ctx, qnet_scan_model_forward(model, x, length, 2, slices, scan));
    for (j = 0; j < 12; j++) CHECK_NEAR(slices[j], golden_scan_image[j], tolerance);
    for (j = 0; j < 4; j++) CHECK_NEAR(scan[j], golden_scan[j], tolerance);
    /* Another network's file: a sentence, and not one weight changes. */
    model->weights[0] = 123;
    before = qnet_weights_load(ctx, "tests/golden/zip.pth", model->table, model->weights, 0, NULL);
    CHECK(before == QNET_ERROR_MISMATCH && model->weights[0] == (qnet_real)123);
    CHECK_CONTAINS(qnet_last_error(ctx), "zip.pth: not weights of qnet-scan: tensor 'double' is not");
    qnet_scan_model_destroy(model);
    c.hidden = 3;
    CHECK_OK(ctx, qnet_scan_model_create(ctx, &c, &model));
    CHECK_FAILS(ctx, qnet_weights_load(ctx, "tests/golden/scan.pth", model->table, model->weights,
                                       0, NULL),
                QNET_ERROR_MISMATCH,
                "tensor 'lstm.weight_ih_l0': expected shape [12,3], found [8,3]");
    qnet_scan_model_destroy(model);
}

/* tensors[count] through a .pth into the small stage 2, whose first weight stays on failure. */
static void into_network(const qnet_safetensor *tensors, int count, qnet_status expected,
                         const char *words)
{
    qnet_scan_config c;
    qnet_scan_model *model = NULL;
    qnet_safetensors *file = NULL, *again = NULL;
    qnet_memory_source state;
    qnet_source source;
    qnet_sink sink;
    qnet_buffer b, pth;
    image f;
    char sentence[PTH_SENTENCE];
    qnet_status status;
    memset(&b, 0, sizeof b);
    memset(&pth, 0, sizeof pth);
    qnet_scan_config_init(&c);
    c.features = c.steps = 3;
    c.hidden = c.batch = 2;
    CHECK_OK(ctx, qnet_scan_model_create(ctx, &c, &model));
    sink = qnet_sink_buffer(ctx, &b, "b");
    CHECK_OK(ctx, qnet_safetensors_write(ctx, &sink, tensors, count, NULL, 0));
    source = qnet_source_memory(&state, b.bytes, b.size, "b");
    CHECK_OK(ctx, qnet_safetensors_read(ctx, &source, &file));
    CHECK(file && pth_from_safetensors(ctx, "y.pth", file, &pth, sentence) == QNET_OK);
    f = image_of(pth.bytes, pth.size);
    CHECK(read_image(f, &again, sentence) == QNET_OK);
    free(f.bytes);
    if (model != NULL && again != NULL) {
        model->weights[0] = 123;
        status = qnet_weights_from_safetensors(ctx, again, model->table, model->weights, 0, NULL);
        CHECK(status == expected);
        CHECK((model->weights[0] == (qnet_real)123) == (status != QNET_OK));
        if (status != QNET_OK) CHECK_CONTAINS(qnet_last_error(ctx), words);
    }
    qnet_buffer_free(ctx, &b);
    qnet_buffer_free(ctx, &pth);
    qnet_safetensors_destroy(file);
    qnet_safetensors_destroy(again);
    qnet_scan_model_destroy(model);
}

/* The twelve tensors of scan.pth, then one missing, one too many, wrong types, shapes and names. */
static void test_wrong_tensors(void)
{
    static const int64_t counters[8] = {0};
    image f = golden("scan.pth");
    qnet_safetensors *file = NULL;
    qnet_safetensor t[13];
    char sentence[PTH_SENTENCE];
    CHECK(read_image(f, &file, sentence) == QNET_OK);
    free(f.bytes);
    if (file == NULL || file->count != 12) return;
    memcpy(t, file->tensors, 12 * sizeof t[0]);
    into_network(t, 12, QNET_OK, "");
    into_network(t, 11, QNET_ERROR_MISMATCH, "tensor 'scan_head.bias' is missing");
    t[12] = t[11];
    strcpy(t[12].name, "fc.bias");
    into_network(t, 13, QNET_ERROR_MISMATCH, "tensor 'fc.bias' is not one of its 12");
    t[12] = t[2];
    t[2].dtype = QNET_I64;
    t[2].data = counters;
    into_network(t, 12, QNET_ERROR_MISMATCH,
                 "tensor 'lstm.bias_ih_l0': expected dtype F64, F32, F16 or BF16, found I64");
    t[2] = t[12];
    t[2].ndim = 2;
    t[2].shape[0] = 2;
    t[2].shape[1] = 4;
    into_network(t, 12, QNET_ERROR_MISMATCH,
                 "tensor 'lstm.bias_ih_l0': expected shape [8], found [2,4]");
    t[2] = t[12];
    strcpy(t[2].name, "module.lstm.bias_ih_l0");
    into_network(t, 12, QNET_ERROR_MISMATCH, "tensor 'module.lstm.bias_ih_l0' is not one of its");
    qnet_safetensors_destroy(file);
}

/* ---- archives and pickles made here ---------------------------------------------------------- */

typedef struct part { const char *name; const void *data; size_t size; } part;

/* A zip archive of these parts, by the writer of pth.h. */
static image archive(const part *parts, int count)
{
    pth__writer w;
    qnet_buffer out;
    image f;
    size_t first;
    int i;
    memset(&w, 0, sizeof w);
    memset(&out, 0, sizeof out);
    w.ctx = ctx;
    w.out = &out;
    for (i = 0; i < count; i++) pth__put_entry(&w, parts[i].name, parts[i].data, parts[i].size);
    first = out.size;
    pth__put_bytes(&w, &out, w.directory.bytes, w.directory.size);
    pth__put_bytes(&w, &out, "PK\5\6\0\0\0", 8);
    pth__put_number(&w, &out, w.entries, 2);
    pth__put_number(&w, &out, w.entries, 2);
    pth__put_number(&w, &out, w.directory.size, 4);
    pth__put_number(&w, &out, first, 4);
    pth__put_number(&w, &out, 0, 2);
    f = image_of(out.bytes, out.size);
    qnet_buffer_free(ctx, &w.directory);
    qnet_buffer_free(ctx, &out);
    return f;
}

#define BYTES(text) (text), sizeof(text) - 1
static const float four[4] = {1, 2, 3, 4};
static const unsigned char four_bytes[16] = {0, 0, 0x80, 0x3f, 0, 0, 0,    0x40,
                                             0, 0, 0x40, 0x40, 0, 0, 0x80, 0x40};

/* pickle[size] with version, byteorder and one storage of four floats. */
static image pickled(const void *pickle, size_t size)
{
    part p[4] = {{"data.pkl", NULL, 0}, {"byteorder", BYTES("little")}, {"data/0", NULL, 16},
                 {"version", BYTES("3\n")}};
    p[0].data = pickle;
    p[0].size = size;
    p[2].data = four_bytes;
    return archive(p, 4);
}

/* Pieces of a state dict's pickle, as torch writes it. */
#define DICT "\x80\2ccollections\nOrderedDict\n)R"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n("
#define TEXT_S "X\7\0\0\0storage"
#define TEXT_C "X\3\0\0\0cpu"
#define STORAGE(type, count) "(" TEXT_S "ctorch\n" type "\nX\1\0\0\0" "0" TEXT_C count "tQ"
#define HOOKS "\x89" "ccollections\nOrderedDict\n)R"
#define NAME "X\2\0\0\0fc"
#define ITEM(offset, shape, strides) \
    DICT NAME REBUILD STORAGE("FloatStorage", "K\4") offset shape strides HOOKS "tRs"
#define VIEW(offset, shape, strides) ITEM(offset, shape, strides) "."
#define FULL ITEM("K\0", "K\4\x85", "K\1\x85")
#define GOOD FULL "."

static void bad_pickle(const void *pickle, size_t size, qnet_status expected, const char *words)
{
    refused(pickled(pickle, size), expected, words);
}

static void test_good_pickle(void)
{
    image f = pickled(BYTES(GOOD));
    qnet_safetensors *file = NULL;
    char sentence[PTH_SENTENCE];
    CHECK(read_image(f, &file, sentence) == QNET_OK);
    free(f.bytes);
    if (file == NULL) return;
    CHECK(file->count == 1 && memcmp(file->tensors[0].data, four, 16) == 0);
    qnet_safetensors_destroy(file);
    file = NULL; /* without numbers, at the end of the storage, and with strides of no meaning */
    f = pickled(BYTES(VIEW("K\4", "K\0K\2\x86", "K\5K\7\x86")));
    CHECK(read_image(f, &file, sentence) == QNET_OK);
    free(f.bytes);
    if (file == NULL) return;
    CHECK(file->tensors[0].count == 0 && file->tensors[0].shape[1] == 2);
    qnet_safetensors_destroy(file);
}

/* What training scripts save: the state dict under a name, beside numbers, texts, an optimiser with
   tensors of its own and random states. Only the state dict is taken, and the log says so. */
#define ONE_LEVEL(name) "\x80\2}(X\5\0\0\0" "epochK\7X\4\0\0\0" "lossG\x3f\xe0\0\0\0\0\0\0" name
#define OPTIMIZER \
    "X\11\0\0\0" "optimizer}(X\5\0\0\0" "state}(K\0}(X\4\0\0\0" "step" REBUILD STORAGE("FloatStorage", "K\4") \
    "K\1K\2\x85K\1\x85" HOOKS "tRuuX\6\0\0\0" "groups]}(X\5\0\0\0" "betasG12345678G12345678\x86uau" \
    "X\3\0\0\0" "rng" REBUILD STORAGE("FloatStorage", "K\4") "K\0K\4\x85K\1\x85" HOOKS "tR"
#define INNER (&(FULL)[2]) /* without its protocol */

static char warned[PTH_SENTENCE];

static void keep_warning(void *user, qnet_log_level level, const char *text)
{
    (void)user, (void)level;
    snprintf(warned, sizeof warned, "%s", text);
}

static image level(const char *head, size_t head_bytes, const char *tail, size_t tail_bytes)
{
    char pickle[2048];
    memcpy(pickle, head, head_bytes);
    memcpy(pickle + head_bytes, INNER, sizeof(FULL) - 3);
    memcpy(pickle + head_bytes + sizeof(FULL) - 3, tail, tail_bytes);
    return pickled(pickle, head_bytes + sizeof(FULL) - 3 + tail_bytes);
}
#define LEVEL(head, tail) level(BYTES(head), BYTES(tail))

static void taken(image f, const char *under)
{
    qnet_safetensors *file = NULL;
    char sentence[PTH_SENTENCE], words[64];
    warned[0] = '\0';
    CHECK(read_image(f, &file, sentence) == QNET_OK);
    if (sentence[0] != '\0') printf("    %s\n", sentence);
    free(f.bytes);
    snprintf(words, sizeof words, "x.pth: a training script's file: the weights under '%s' are taken", under);
    CHECK_CONTAINS(warned, words);
    if (file == NULL) return;
    CHECK(file->count == 1 && strcmp(file->tensors[0].name, "fc") == 0);
    CHECK(memcmp(file->tensors[0].data, four, 16) == 0);
    qnet_safetensors_destroy(file);
}

static void test_training_scripts(void)
{
    taken(LEVEL(ONE_LEVEL("X\12\0\0\0" "state_dict"), "u."), "state_dict");
    taken(LEVEL(ONE_LEVEL("X\12\0\0\0" "state_dict"), OPTIMIZER "u."), "state_dict");
    taken(LEVEL(ONE_LEVEL(OPTIMIZER "X\20\0\0\0" "model_state_dict"), "u."), "model_state_dict");
    taken(LEVEL("\x80\2}X\5\0\0\0" "model", "s."), "model");
    refused(LEVEL("\x80\2}X\3\0\0\0" "net", "s."), QNET_ERROR_UNSUPPORTED,
            "'net': expected a tensor, found an OrderedDict: expected a state dict, "
            "torch.save(model.state_dict(), path), or one under 'state_dict'");
    refused(LEVEL(ONE_LEVEL("X\5\0\0\0" "model}X\12\0\0\0" "state_dict"), "u."), QNET_ERROR_UNSUPPORTED,
            "weights under 'model' and under 'state_dict': expected one of them");
    refused(LEVEL("\x80\2}X\5\0\0\0" "model}X\5\0\0\0" "model", "ss."), QNET_ERROR_UNSUPPORTED,
            "'model': expected a tensor, found an OrderedDict"); /* two levels */
    bad_pickle(BYTES("\x80\2}(" NAME "K\1X\5\0\0\0" "model}(X\1\0\0\0" "aK\1uu."), QNET_ERROR_UNSUPPORTED,
               "'a': expected a tensor, found an int");
    bad_pickle(BYTES(ONE_LEVEL("X\4\0\0\0" "argscargparse\nNamespace\n")), QNET_ERROR_UNSUPPORTED,
               "'args': global 'argparse.Namespace' is refused");
    bad_pickle(BYTES("\x80\2}(X\5\0\0\0" "model}(X\1\0\0\0" "ai"), QNET_ERROR_UNSUPPORTED, "'a': opcode 0x69 INST");
}

static void test_opcodes(void)
{
    /* The ones that are read; all other bytes are refused, whatever stands around them. */
    static const char known[] = ".(NGJKMXUT)t]ae}suqrhjcQRb\x88\x89\x8a\x81\x85\x86\x87";
    char pickle[64], words[32];
    int code;
    for (code = 0; code < 256; code++) {
        if (memchr(known, code, sizeof(known) - 1) != NULL) continue;
        memcpy(pickle, DICT NAME, sizeof(DICT NAME) - 1);
        pickle[sizeof(DICT NAME) - 1] = (char)code;
        snprintf(words, sizeof words, "opcode 0x%02x ", (unsigned)code);
        bad_pickle(pickle, sizeof(DICT NAME), QNET_ERROR_UNSUPPORTED, words);
    }
    bad_pickle(BYTES(DICT NAME "\x93."), QNET_ERROR_UNSUPPORTED,
               "data.pkl byte 37: 'fc': opcode 0x93 STACK_GLOBAL is refused");
    bad_pickle(BYTES(DICT NAME "i"), QNET_ERROR_UNSUPPORTED, "opcode 0x69 INST");
    bad_pickle(BYTES(DICT NAME "P"), QNET_ERROR_UNSUPPORTED, "PERSID");
    bad_pickle(BYTES(DICT NAME "G1234567"), QNET_ERROR_FORMAT, "truncated");
    bad_pickle(BYTES("\x80\4\x95"), QNET_ERROR_UNSUPPORTED, "protocol 2, found bytes 80 04");
    bad_pickle(BYTES("hello"), QNET_ERROR_UNSUPPORTED, "protocol 2");
}

static void test_globals(void)
{
    bad_pickle(BYTES(DICT NAME "cos\nsystem\n(X\4\0\0\0" "trueetR."), QNET_ERROR_UNSUPPORTED,
               "'fc': global 'os.system' is refused");
    bad_pickle(BYTES("\x80\2" "c__builtin__\neval\n(X\1\0\0\0" "1tR."), QNET_ERROR_UNSUPPORTED,
               "global '__builtin__.eval' is refused");
    bad_pickle(BYTES("\x80\2" "ctorch\nload\n."), QNET_ERROR_UNSUPPORTED, "'torch.load'");
    bad_pickle(BYTES("\x80\2" "ctorch._utils\n_rebuild_tensor_v2.__globals__\n."),
               QNET_ERROR_UNSUPPORTED, "__globals__");
    bad_pickle(BYTES("\x80\2" "ctorch._utils._rebuild_tensor_v2\n\n."), QNET_ERROR_UNSUPPORTED,
               "is refused");
    bad_pickle(BYTES("\x80\2" "ccollections\nOrdered"), QNET_ERROR_FORMAT, "does not end");
    bad_pickle(BYTES("\x80\2" "ccollections\nOrderedDict\0\n)R."), QNET_ERROR_FORMAT,
               "does not end");
    bad_pickle(BYTES(DICT NAME REBUILD STORAGE("ComplexFloatStorage", "K\4")), QNET_ERROR_UNSUPPORTED,
               "'fc': its type is torch.ComplexFloatStorage: expected FloatStorage");
    bad_pickle(BYTES(DICT NAME REBUILD STORAGE("IntStorage", "K\4") "K\0K\4\x85K\1\x85" HOOKS "tRs."),
               QNET_ERROR_UNSUPPORTED, "tensor 'fc': its type is I32: expected F64, F32");
    bad_pickle(BYTES(DICT NAME REBUILD STORAGE("BoolStorage", "K\4") "K\0K\4\x85K\1\x85" HOOKS "tRs."),
               QNET_ERROR_UNSUPPORTED, "tensor 'fc': its type is BOOL");
    bad_pickle(BYTES(DICT NAME "ctorch\nFloatStorage\n(K\4tR."), QNET_ERROR_UNSUPPORTED,
               "a call with arguments that no state dict has");
}

static void test_views(void)
{
    const int wide = sizeof(size_t) > 4;
    bad_pickle(BYTES(VIEW("K\1", "K\4\x85", "K\1\x85")), QNET_ERROR_FORMAT,
               "'fc': shape and strides lead out of its storage");
    bad_pickle(BYTES(VIEW("K\5", "K\1\x85", "K\1\x85")), QNET_ERROR_FORMAT, "begins behind the end");
    bad_pickle(BYTES(VIEW("K\4", "K\1\x85", "K\1\x85")), QNET_ERROR_FORMAT, "lead out");
    bad_pickle(BYTES(VIEW("K\0", "K\2\x85", "K\4\x85")), QNET_ERROR_FORMAT, "lead out");
    bad_pickle(BYTES(VIEW("K\0", "K\2K\3\x86", "K\2K\1\x86")), QNET_ERROR_FORMAT, "lead out");
    bad_pickle(BYTES(VIEW("K\0", "K\2K\2\x86", "K\1K\1\x86")), QNET_ERROR_UNSUPPORTED,
               "'fc': its elements share memory");
    bad_pickle(BYTES(VIEW("K\0", "K\4K\2\x86", "K\1K\0\x86")), QNET_ERROR_UNSUPPORTED, "share");
    /* a size that systems of 32 bits cannot hold */
    bad_pickle(BYTES(VIEW("K\0", "\x8a\7\xff\xff\xff\xff\xff\xff\x0f\x85", "K\0\x85")),
               wide ? QNET_ERROR_UNSUPPORTED : QNET_ERROR_FORMAT, wide ? "share memory" : "a shape");
    bad_pickle(BYTES(VIEW("K\0", "\x8a\7\xff\xff\xff\xff\xff\xff\x0f\x85", "K\1\x85")),
               QNET_ERROR_FORMAT, wide ? "lead out" : "a shape");
    bad_pickle(BYTES(VIEW("J\xff\xff\xff\xff", "K\4\x85", "K\1\x85")), QNET_ERROR_FORMAT,
               "a storage and an offset");
    bad_pickle(BYTES(VIEW("K\0", "J\xfe\xff\xff\xff\x85", "K\1\x85")), QNET_ERROR_FORMAT,
               "none negative");
    bad_pickle(BYTES(VIEW("K\0", "K\4\x85", "K\1K\1\x86")), QNET_ERROR_FORMAT, "as many strides");
    bad_pickle(BYTES(VIEW("K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t")),
               QNET_ERROR_FORMAT, "at most 8");
    bad_pickle(BYTES(DICT NAME REBUILD STORAGE("FloatStorage", "K\5") "K\0K\4\x85K\1\x85" HOOKS
                     "tRs."),
               QNET_ERROR_FORMAT,
               "tensor 'fc': its storage, zip entry 'data/0': expected 20 bytes, found 16");
    bad_pickle(BYTES(DICT NAME REBUILD STORAGE("DoubleStorage", "K\4") "K\0K\4\x85K\1\x85" HOOKS
                     "tRs."),
               QNET_ERROR_FORMAT, "expected 32 bytes, found 16");
    bad_pickle(BYTES(DICT NAME REBUILD STORAGE("FloatStorage", "J\xff\xff\xff\x7f")),
               QNET_ERROR_FORMAT, "'fc': its storage is larger than the file");
    bad_pickle(BYTES(DICT NAME REBUILD STORAGE("FloatStorage", "J\xff\xff\xff\xff")),
               QNET_ERROR_UNSUPPORTED, "persistent id");
    bad_pickle(BYTES(DICT NAME REBUILD "(" TEXT_S "ctorch\nFloatStorage\nX\1\0\0\0" "7" TEXT_C
                     "K\4tQK\0K\4\x85K\1\x85" HOOKS "tRs."),
               QNET_ERROR_FORMAT, "tensor 'fc': its storage, zip entry 'data/7', is missing");
    bad_pickle(BYTES(DICT NAME REBUILD STORAGE("FloatStorage", "K\4") "K\0K\4\x85K\1\x85\x89"
                     "}X\1\0\0\0" "aNstRs."), QNET_ERROR_UNSUPPORTED, "no hooks");
}

static void test_state_dict(void)
{
    bad_pickle(BYTES(DICT NAME "K\1s."), QNET_ERROR_UNSUPPORTED,
               "'fc': expected a tensor, found an int: expected a state dict");
    bad_pickle(BYTES(DICT NAME "G12345678s."), QNET_ERROR_UNSUPPORTED, "'fc': expected a tensor, found a float");
    bad_pickle(BYTES(DICT "K\1K\1s."), QNET_ERROR_UNSUPPORTED, "expected a tensor, found an int for its name");
    bad_pickle(BYTES("\x80\2]."), QNET_ERROR_UNSUPPORTED, "it holds a list");
    bad_pickle(BYTES("\x80\2" NAME "."), QNET_ERROR_UNSUPPORTED, "it holds a text");
    bad_pickle(BYTES(DICT NAME "ctorch\nFloatTensor\n)Rs."), QNET_ERROR_UNSUPPORTED,
               "'fc': expected a tensor, found one that was never filled");
    /* twice, after the first has been memoised: 'q' behind R */
    bad_pickle(BYTES(DICT NAME REBUILD STORAGE("FloatStorage", "K\4") "K\0K\4\x85K\1\x85" HOOKS
                     "tRq\0s" NAME "h\0s."), QNET_ERROR_FORMAT, "tensor 'fc' is there twice");
    bad_pickle(BYTES(DICT "X\3\0\0\0f\nc" "K\1s."), QNET_ERROR_UNSUPPORTED, "'f?c'");
    bad_pickle(BYTES(DICT "X\3\0\0\0f\nc" REBUILD STORAGE("FloatStorage", "K\4")
                     "K\0K\4\x85K\1\x85" HOOKS "tRs."), QNET_ERROR_FORMAT,
               "tensor 'f?c': expected a name of 1 to 127 printable ASCII characters");
    bad_pickle(BYTES(DICT "X\0\0\0\0" REBUILD STORAGE("FloatStorage", "K\4")
                     "K\0K\4\x85K\1\x85" HOOKS "tRs."), QNET_ERROR_FORMAT, "1 to 127");
    bad_pickle(BYTES(DICT "}X\5\0\0\0hello" "K\1sb."), QNET_ERROR_UNSUPPORTED,
               "attribute 'hello' of an OrderedDict is refused");
    bad_pickle(BYTES(FULL "}X\15\0\0\0qnet_metadata" "K\1sb."), QNET_ERROR_FORMAT,
               "qnet_metadata: expected a dict");
    bad_pickle(BYTES(FULL "}X\15\0\0\0qnet_metadata" "}X\1\0\0\0" "kK\1ssb."), QNET_ERROR_FORMAT,
               "qnet_metadata: expected texts, found an int");
    bad_pickle(BYTES("\x80\2)" "."), QNET_ERROR_UNSUPPORTED, "it holds a tuple");
    bad_pickle(BYTES(GOOD "."), QNET_ERROR_FORMAT, "goes on behind its end");
    bad_pickle(BYTES("\x80\2NN."), QNET_ERROR_FORMAT, "more than one value");
    bad_pickle(BYTES("\x80\2."), QNET_ERROR_FORMAT, "no operand");
    bad_pickle(BYTES("\x80\2(."), QNET_ERROR_FORMAT, "no operand");
    bad_pickle(BYTES("\x80\2t."), QNET_ERROR_FORMAT, "no mark");
    bad_pickle(BYTES("\x80\2N\x86."), QNET_ERROR_FORMAT, "no operand");
    bad_pickle(BYTES("\x80\2(N\x86."), QNET_ERROR_FORMAT, "no operand");
    bad_pickle(BYTES("\x80\2}NNs."), QNET_ERROR_FORMAT, "key is no text");
    bad_pickle(BYTES("\x80\2}(NNNu."), QNET_ERROR_FORMAT, "do not pair");
    bad_pickle(BYTES("\x80\2NN" NAME "Ns."), QNET_ERROR_FORMAT, "no dict");
    bad_pickle(BYTES("\x80\2NNa."), QNET_ERROR_FORMAT, "no list");
    bad_pickle(BYTES("\x80\2h\0."), QNET_ERROR_FORMAT, "holds nothing");
    bad_pickle(BYTES("\x80\2j\xff\xff\xff\xff."), QNET_ERROR_FORMAT, "holds nothing");
    bad_pickle(BYTES("\x80\2Nr\xff\xff\xff\x7f."), QNET_ERROR_FORMAT, "memo index out of order");
    bad_pickle(BYTES("\x80\2(q\0."), QNET_ERROR_FORMAT, "memo index out of order");
    bad_pickle(BYTES("\x80\2X\xff\xff\xff\xff" "abc"), QNET_ERROR_FORMAT, "truncated");
    bad_pickle(BYTES("\x80\2\x8a\x09" "123456789."), QNET_ERROR_LIMIT, "64 bits");
    bad_pickle(BYTES("\x80\2]q\0h\0a."), QNET_ERROR_UNSUPPORTED, "it holds a list"); /* itself */
    {
        char *many = (char *)malloc(70002); /* 70,000 marks */
        if (many == NULL) abort();
        memset(many, '(', 70002);
        memcpy(many, "\x80\2", 2);
        bad_pickle(many, 70002, QNET_ERROR_LIMIT, "65,536 values on the stack");
        free(many);
    }
    {
        /* 300,000 times None in one list by the memo: memory stays small, the list is no tensor. */
        char *many = (char *)malloc(7 + 900000 + 1);
        size_t i;
        if (many == NULL) abort();
        memcpy(many, "\x80\2]Nq\0" "a", 7);
        for (i = 0; i < 300000; i++) memcpy(many + 7 + 3 * i, "h\0a", 3);
        many[7 + 900000] = '.';
        bad_pickle(many, 7 + 900000 + 1, QNET_ERROR_UNSUPPORTED, "it holds a list");
        free(many);
    }
}

/* ---- archives that are not as torch writes them ---------------------------------------------- */

/* Where entry k of the directory of a one-volume archive begins, and the end record. */
static unsigned char *directory(image f, int k)
{
    unsigned char *end = f.bytes + f.size - 22, *p = f.bytes + pth__le32(end + 16);
    for (; k > 0; k--) p += 46 + pth__le16(p + 28) + pth__le16(p + 30) + pth__le16(p + 32);
    return p;
}

static void test_archives(void)
{
    static const part no_pickle[] = {{"version", BYTES("3\n")}};
    static const part script[] = {{"data.pkl", BYTES(GOOD)}, {"data/0", four, 16},
                                  {"version", BYTES("3\n")}, {"constants.pkl", BYTES("x")}};
    static const part extra[] = {{"data.pkl", BYTES(GOOD)}, {"data/0", four, 16},
                                 {"data/1", four, 16}, {"version", BYTES("3\n")}};
    static const part twice[] = {{"data.pkl", BYTES(GOOD)}, {"data/0", four, 16},
                                 {"version", BYTES("3\n")}, {"version", BYTES("3\n")}};
    static const part big[] = {{"data.pkl", BYTES(GOOD)}, {"data/0", four, 16},
                               {"byteorder", BYTES("big")}, {"version", BYTES("3\n")}};
    static const part unversioned[] = {{"data.pkl", BYTES(GOOD)}, {"data/0", four, 16}};
    image f;
    unsigned char *p, *q;
    refused(archive(no_pickle, 1), QNET_ERROR_FORMAT, "a zip archive without data.pkl");
    refused(archive(script, 4), QNET_ERROR_UNSUPPORTED, "'archive/constants.pkl': no state dict");
    refused(archive(extra, 4), QNET_ERROR_FORMAT, "'archive/data/1': a storage that belongs to no");
    refused(archive(twice, 4), QNET_ERROR_FORMAT, "'archive/version': it is there twice");
    refused(archive(big, 4), QNET_ERROR_UNSUPPORTED, "'archive/byteorder': expected 'little'");
    refused(archive(unversioned, 2), QNET_ERROR_FORMAT, "'version' is missing");
    refused(image_of("PK", 2), QNET_ERROR_FORMAT, "no end record");
    refused(image_of("", 0), QNET_ERROR_FORMAT, "neither the zip nor the legacy form");
    refused(image_of("\x89HDF", 4), QNET_ERROR_FORMAT, "neither the zip nor the legacy form");

    f = pickled(BYTES(GOOD)); /* deflated, by the directory; then by the local header alone */
    directory(f, 2)[10] = 8;
    refused(f, QNET_ERROR_UNSUPPORTED, "'archive/data/0': it is deflated: expected stored");
    f = pickled(BYTES(GOOD));
    f.bytes[pth__le32(directory(f, 2) + 42) + 8] = 8;
    refused(f, QNET_ERROR_UNSUPPORTED, "'archive/data/0': its local header says compressed");
    f = pickled(BYTES(GOOD));
    directory(f, 2)[10] = 12;
    refused(f, QNET_ERROR_UNSUPPORTED, "it is compressed");
    f = pickled(BYTES(GOOD));
    directory(f, 2)[8] = 1;
    refused(f, QNET_ERROR_UNSUPPORTED, "'archive/data/0': it is encrypted");
    f = pickled(BYTES(GOOD)); /* two entries at one place */
    p = directory(f, 1);
    q = directory(f, 2);
    memcpy(q + 42, p + 42, 4);
    refused(f, QNET_ERROR_FORMAT, "it overlaps");
    f = pickled(BYTES(GOOD)); /* an entry that reaches into the next */
    p = directory(f, 2);
    p[20] = p[24] = 200;
    f.bytes[pth__le32(p + 42) + 18] = f.bytes[pth__le32(p + 42) + 22] = 200;
    refused(f, QNET_ERROR_FORMAT, "'archive/data/0': it overlaps the entry behind it");
    f = pickled(BYTES(GOOD)); /* one that leaves a hole */
    p = directory(f, 2);
    p[20] = p[24] = 8;
    f.bytes[pth__le32(p + 42) + 18] = f.bytes[pth__le32(p + 42) + 22] = 8;
    refused(f, QNET_ERROR_FORMAT, "'archive/data/0': there are foreign bytes behind it");
    f = pickled(BYTES(GOOD));
    f.bytes[pth__le32(directory(f, 2) + 42) + 14] ^= 1;
    refused(f, QNET_ERROR_FORMAT, "local header and directory disagree");
    f = pickled(BYTES(GOOD));
    f.bytes[pth__le32(directory(f, 2) + 42) + 31] ^= 1;
    refused(f, QNET_ERROR_FORMAT, "local header and directory disagree");
    f = pickled(BYTES(GOOD)); /* one bit of a weight */
    f.bytes[(pth__le32(directory(f, 2) + 42) + 64) / 64 * 64 + 3] ^= 1;
    refused(f, QNET_ERROR_FORMAT, "'archive/data/0': its CRC is wrong");
    f = pickled(BYTES(GOOD));
    memset(directory(f, 2) + 42, 0xff, 4);
    refused(f, QNET_ERROR_FORMAT, "its extra field is damaged");
    f = pickled(BYTES(GOOD)); /* sizes that wrap */
    memset(directory(f, 2) + 20, 0xfe, 8);
    refused(f, QNET_ERROR_FORMAT, "its size or place is out of range");
    f = pickled(BYTES(GOOD));
    f.bytes[f.size - 22 + 8] = f.bytes[f.size - 22 + 10] = 200;
    refused(f, QNET_ERROR_FORMAT, "the directory of 200 entries");
    f = pickled(BYTES(GOOD));
    f.bytes[f.size - 22 + 4] = 1;
    refused(f, QNET_ERROR_UNSUPPORTED, "expected one volume");
    f = golden("zip.pth"); /* torch's own, with data descriptors and the 64-bit end record */
    f.bytes[f.size - 22 - 20 - 56 + 24] ^= 1;
    refused(f, QNET_ERROR_FORMAT, "its two end records disagree");
    f = golden("zip.pth");
    f.bytes[f.size - 22 - 20 + 8] ^= 1;
    refused(f, QNET_ERROR_FORMAT, "the 64-bit end record is damaged");
    f = golden("zip.pth");
    p = f.bytes + pth__le32(f.bytes + f.size - 22 + 16); /* first entry: data.pkl */
    p = f.bytes + pth__le32(p + 46 + pth__le16(p + 28) + 42); /* header of the second */
    p[-5] ^= 1;
    refused(f, QNET_ERROR_FORMAT, "data descriptor and directory disagree");
}

/* ---- the legacy form ------------------------------------------------------------------------- */

/* The place of text in the file, or abort. */
static unsigned char *find(image f, const char *text, size_t size)
{
    size_t i;
    for (i = 0; i + size <= f.size; i++)
        if (memcmp(f.bytes + i, text, size) == 0) return f.bytes + i;
    abort();
}

static void test_legacy_refusals(void)
{
    image f, g;
    unsigned char *p;
    f = golden("old.pth");
    f.bytes[6] ^= 1;
    refused(f, QNET_ERROR_FORMAT, "expected its magic number");
    f = golden("old.pth");
    f.bytes[18] ^= 1;
    refused(f, QNET_ERROR_FORMAT, "format 1001");
    f = golden("old.pth");
    p = find(f, BYTES("little_endian"));
    p[15] = 0x89;
    refused(f, QNET_ERROR_UNSUPPORTED, "expected little_endian = True");
    f = golden("old.pth");
    memcpy(find(f, BYTES("FloatStorage")), "ShortStorage", 12);
    refused(f, QNET_ERROR_FORMAT, "tensor and storage differ in type");
    f = golden("old.pth");
    memcpy(find(f, BYTES("OrderedDict")), "OrderedDicu", 11);
    refused(f, QNET_ERROR_UNSUPPORTED, "global 'collections.OrderedDicu' is refused");
    f = golden("old.pth"); /* keys of the list: "12", then "11", "13" */
    p = find(f, BYTES("q\1(U\2" "12"));
    p[5] = '9';
    refused(f, QNET_ERROR_FORMAT, "storage '92' belongs to no tensor");
    f = golden("old.pth");
    p = find(f, BYTES("q\1(U\2" "12"));
    p[18] = '1'; /* "13", the third */
    refused(f, QNET_ERROR_FORMAT, "storage '11' is listed twice");
    f = golden("old.pth");
    p = find(f, BYTES("q\1(U\2" "12"));
    memcpy(p + 2, "NNNN0", 5); /* other things than texts */
    refused(f, QNET_ERROR_UNSUPPORTED, "opcode 0x30 POP");
    f = golden("old.pth");
    f.bytes[f.size - 8 - 8] ^= 1; /* the count of the last storage */
    refused(f, QNET_ERROR_FORMAT,
            "tensor 'fc.weight': its storage '13': expected 2 numbers, found 3");
    g = golden("old.pth");
    f = image_of(g.bytes, g.size - 1);
    refused(f, QNET_ERROR_FORMAT,
            "tensor 'fc.weight': truncated: expected 8 bytes of its storage '13', found 7");
    f.bytes = (unsigned char *)malloc(g.size + 1);
    if (f.bytes == NULL) abort();
    memcpy(f.bytes, g.bytes, g.size);
    f.bytes[g.size] = 0;
    f.size = g.size + 1;
    refused(f, QNET_ERROR_FORMAT, "the file goes on behind its storages");
    free(g.bytes);
}

/* ---- any damage at all ----------------------------------------------------------------------- */

/* Every prefix is refused. */
static void test_truncation(void)
{
    static const char *const names[] = {"zip.pth", "legacy.pth", "old.pth", "scan.pth"};
    int i;
    for (i = 0; i < 4; i++) {
        image f = golden(names[i]);
        size_t size, taken = 0, unnamed = 0;
        for (size = 0; size < f.size; size++) {
            image g = image_of(f.bytes, size);
            qnet_buffer b;
            char sentence[PTH_SENTENCE];
            memset(&b, 0, sizeof b);
            taken += pth_to_safetensors(ctx, "x.pth", g.bytes, g.size, &b, sentence) == QNET_OK;
            unnamed += strncmp(sentence, "x.pth: ", 7) != 0 || b.bytes != NULL;
            qnet_buffer_free(ctx, &b);
            free(g.bytes);
        }
        CHECK(taken == 0 && unnamed == 0);
        free(f.bytes);
    }
}

/* Flipped bits and overwritten bytes. A zip archive notices almost all (CRC); what is not covered
   by one (dates, versions, padding) changes no tensor. A legacy file has no checksum: what is taken
   must be a whole file, what is refused must say so. */
static void test_flips(void)
{
    static const char *const names[] = {"zip.pth", "scan.pth", "legacy.pth", "old.pth"};
    qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_USER, 0, 0);
    int i, n, k;
    for (i = 0; i < 4; i++) {
        image f = golden(names[i]);
        qnet_buffer right;
        char sentence[PTH_SENTENCE];
        size_t wrong = 0, unnamed = 0, taken = 0;
        memset(&right, 0, sizeof right);
        CHECK(pth_to_safetensors(ctx, "x.pth", f.bytes, f.size, &right, sentence) == QNET_OK);
        for (n = 0; n < 4000; n++) {
            image g = image_of(f.bytes, f.size);
            qnet_buffer b;
            int flips = 1 + (int)qnet_rng_below(&rng, 3);
            memset(&b, 0, sizeof b);
            for (k = 0; k < flips; k++) {
                size_t at = qnet_rng_below(&rng, (uint32_t)g.size);
                if (n % 2)
                    g.bytes[at] ^= (unsigned char)(1u << qnet_rng_below(&rng, 8));
                else
                    g.bytes[at] = (unsigned char)qnet_rng_u32(&rng);
            }
            if (pth_to_safetensors(ctx, "x.pth", g.bytes, g.size, &b, sentence) == QNET_OK) {
                taken++;
                wrong += b.size != right.size || memcmp(b.bytes, right.bytes, b.size) != 0;
            } else {
                unnamed += strncmp(sentence, "x.pth: ", 7) != 0 || b.bytes != NULL;
            }
            qnet_buffer_free(ctx, &b);
            free(g.bytes);
        }
        CHECK(unnamed == 0 && taken < 4000);
        CHECK(i > 1 || wrong == 0);
        qnet_buffer_free(ctx, &right);
        free(f.bytes);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

typedef struct meter { long live, calls, fail_at; size_t most, total; } meter;

static void *meter_alloc(void *user, size_t size, size_t align)
{
    meter *m = (meter *)user;
    char *base, *p;
    if (++m->calls == m->fail_at) return NULL;
    base = (char *)malloc(size + align + sizeof base);
    if (base == NULL) return NULL;
    p = base + sizeof base;
    p += (align - (uintptr_t)p % align) % align;
    memcpy(p - sizeof base, &base, sizeof base);
    m->live += (long)size;
    m->total += size;
    if (size > m->most) m->most = size;
    return p;
}

static void meter_free(void *user, void *p, size_t size)
{
    char *base;
    memcpy(&base, (char *)p - sizeof base, sizeof base);
    ((meter *)user)->live -= (long)size;
    free(base);
}

/* Every request of memory fails once: a status, nothing lost. No request is large for the file. */
static void test_memory(void)
{
    qnet_hooks hooks;
    qnet_context *old = ctx, *own = NULL;
    image f = golden("zip.pth");
    meter m;
    long n, live, refusals = 0;
    memset(&hooks, 0, sizeof hooks);
    memset(&m, 0, sizeof m);
    hooks.allocator.user = &m;
    hooks.allocator.alloc = meter_alloc;
    hooks.allocator.free = meter_free;
    CHECK(qnet_context_create(&hooks, &own) == QNET_OK);
    live = m.live;
    m.most = 0;
    for (n = 1; n < 10000; n++) {
        qnet_safetensors *file = NULL;
        char sentence[PTH_SENTENCE] = "";
        qnet_status status;
        m.calls = 0;
        m.fail_at = n;
        ctx = own;
        status = read_image(f, &file, sentence);
        if (status == QNET_OK) {
            qnet_buffer b;
            memset(&b, 0, sizeof b);
            status = pth_from_safetensors(ctx, "y", file, &b, sentence);
            if (status != QNET_OK) CHECK(b.bytes == NULL);
            qnet_buffer_free(ctx, &b);
            qnet_safetensors_destroy(file);
        }
        ctx = old;
        if (m.live != live) CHECK(m.live == live);
        if (status == QNET_OK) break;
        /* A buffer that cannot grow is, to a writer into it, a write that fails. */
        refusals += status == QNET_ERROR_MEMORY || status == QNET_ERROR_IO;
    }
    CHECK(n > 20 && refusals == n - 1);
    CHECK(m.live == live);
    CHECK(m.most < 64 * f.size); /* a value is 24 bytes and made by 1 byte at least */
    qnet_context_destroy(own);
    free(f.bytes);
}

/* ---- the hook -------------------------------------------------------------------------------- */

static void test_hook(void)
{
    qnet_safetensors *file = NULL;
    qnet_context *plain = NULL;
    const char *path = "tests/golden/formula.h";
    CHECK_OK(ctx, qnet_safetensors_load(ctx, "tests/golden/zip.pth", &file));
    qnet_safetensors_destroy(file);
    file = NULL;
    CHECK_FAILS(ctx, qnet_safetensors_load(ctx, "tests/golden/none.pth", &file),
                QNET_ERROR_NOT_FOUND, "none.pth");
    CHECK_FAILS(ctx, qnet_safetensors_load(ctx, path, &file), QNET_ERROR_FORMAT, path);
    CHECK(file == NULL);
    CHECK(qnet_context_create(NULL, &plain) == QNET_OK);
    CHECK_FAILS(plain, qnet_safetensors_load(plain, "tests/golden/zip.pth", &file),
                QNET_ERROR_FORMAT, "not a safetensors file");
    qnet_context_destroy(plain);
}

int main(void)
{
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.weights = pth_weights_reader();
    hooks.log.message = keep_warning;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return 1;
    RUN(test_zip);
    RUN(test_legacy);
    RUN(test_old);
    RUN(test_round_trip);
    RUN(test_scan_model);
    RUN(test_wrong_tensors);
    RUN(test_good_pickle);
    RUN(test_training_scripts);
    RUN(test_opcodes);
    RUN(test_globals);
    RUN(test_views);
    RUN(test_state_dict);
    RUN(test_archives);
    RUN(test_legacy_refusals);
    RUN(test_truncation);
    RUN(test_flips);
    RUN(test_memory);
    RUN(test_hook);
    qnet_context_destroy(ctx);
    return test_end();
}
