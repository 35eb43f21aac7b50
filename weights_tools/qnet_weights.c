/* qnet_weights: weight files in and out of qnet.h's world.

       build/qnet_weights convert resnet18.pth resnet18.safetensors
       build/qnet_weights --help

   PyTorch's .pth (both forms of torch.save, read without executing the pickle: pth.h), safetensors,
   and checkpoints of a run; one row of LAYOUT.md per tensor. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#define PTH_IMPLEMENTATION
#include "weights_tools/pth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: qnet_weights convert IN OUT [--classes N] [--seed S]\n"
    "       qnet_weights list FILE\n"
    "       qnet_weights compare A B [--tolerance T]\n"
    "       qnet_weights hash FILE\n"
    "\n"
    "Files are .safetensors or PyTorch's .pth (zip and legacy form), told by their first bytes;\n"
    "a .pth is read without executing the pickle in it. What is left out of a training script's\n"
    "file, and a prefix before all names of a ResNet18 (module.), is said and passed over.\n"
    "\n"
    "convert   writes the tensors of IN under the same names to OUT, whose ending says how:\n"
    "          .safetensors, or .pth (.pt) for torch.load(OUT, weights_only=True). From a\n"
    "          checkpoint of a run it takes the weights of the last epoch, with their names.\n"
    "          --classes N: a ResNet18 head (fc.*) of another number of classes, or none, is\n"
    "          replaced by a fresh one, drawn as qnet_resnet_init draws it from --seed S (1).\n"
    "list      name, type, shape, mean, standard deviation and hash of each tensor; metadata\n"
    "compare   largest absolute and relative difference of each tensor; metadata is left out\n"
    "hash      one number for all names, types, shapes and values, whatever the kind of file and\n"
    "          the order in it: the embedding_hash in the metadata of the Q-Net trained on its\n"
    "          features; for ResNet18 also the one that a run's manifest.json prints\n"
    "\n"
    "Exit status: 0 done, or all tensors equal (within T: 0); 1 tensors differ; 2 an error.\n";

static void print_warning(void *user, qnet_log_level level, const char *text)
{
    (void)user;
    if (level == QNET_LOG_WARNING) fprintf(stderr, "%s\n", text);
}

static int fail(qnet_context *ctx)
{
    fprintf(stderr, "qnet_weights: %s\n", qnet_last_error(ctx));
    return 2;
}

static int fail_text(const char *name, const char *text)
{
    fprintf(stderr, "qnet_weights: %s: %s\n", name, text);
    return 2;
}

/* ---- numbers of a tensor --------------------------------------------------------------------- */

static int little_endian(void)
{
    const uint16_t one = 1;
    unsigned char low;
    memcpy(&low, &one, 1);
    return low == 1;
}

/* Number i's bits. */
static uint64_t bits_of(const qnet_safetensor *t, size_t i)
{
    const size_t size = qnet_dtype_size(t->dtype);
    const unsigned char *p = (const unsigned char *)t->data + i * size;
    uint64_t bits = 0;
    size_t k;
    for (k = 0; k < size; k++) bits = bits << 8 | p[little_endian() ? size - 1 - k : k];
    return bits;
}

static double element(const qnet_safetensor *t, size_t i)
{
    const size_t size = qnet_dtype_size(t->dtype);
    const uint64_t bits = bits_of(t, i);
    if (t->dtype == QNET_F64) {
        double v;
        memcpy(&v, &bits, sizeof v);
        return v;
    }
    if (t->dtype == QNET_F32 || t->dtype == QNET_BF16) {
        uint32_t word = (uint32_t)bits << (t->dtype == QNET_BF16 ? 16 : 0);
        float v;
        memcpy(&v, &word, sizeof v);
        return (double)v;
    }
    if (t->dtype == QNET_F16) {
        int exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 1023);
        double v = exponent == 0    ? ldexp(fraction, -24)
                   : exponent == 31 ? (fraction ? NAN : INFINITY)
                                    : ldexp(1024 + fraction, exponent - 25);
        return bits >> 15 ? -v : v;
    }
    if (t->dtype == QNET_I64 || t->dtype == QNET_I32 || t->dtype == QNET_I16 || t->dtype == QNET_I8)
        return bits >> (8 * size - 1) & 1
                   ? -(double)((~bits & ((uint64_t)-1 >> (64 - 8 * size))) + 1)
                   : (double)bits;
    return (double)bits;
}

static void shape_text(const qnet_safetensor *t, char text[200])
{
    int k, at = 1;
    strcpy(text, "[");
    for (k = 0; k < t->ndim; k++)
        at += snprintf(text + at, (size_t)(200 - at), "%s%lu", k ? "," : "",
                       (unsigned long)t->shape[k]);
    snprintf(text + at, (size_t)(200 - at), "]");
}

static int same_shape(const qnet_safetensor *a, const qnet_safetensor *b)
{
    return a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof a->shape[0]) == 0;
}

/* ---- list, hash, compare --------------------------------------------------------------------- */

static int list(const qnet_safetensors *file)
{
    double total = 0;
    int i;
    for (i = 0; i < file->count; i++) {
        const qnet_safetensor *t = &file->tensors[i];
        qnet_safetensors alone = *file; /* a file of this tensor, to hash it */
        double sum = 0, square = 0, mean;
        char shape[200];
        size_t k;
        for (k = 0; k < t->count; k++) sum += element(t, k);
        mean = t->count ? sum / (double)t->count : 0;
        for (k = 0; k < t->count; k++) {
            double d = element(t, k) - mean;
            square += d * d;
        }
        shape_text(t, shape);
        alone.tensors = &file->tensors[i];
        alone.count = 1;
        printf("%-36s %-4s %-16s mean %12.5g  sd %11.5g  %016llx\n", t->name,
               qnet_dtype_name(t->dtype), shape, mean,
               t->count ? sqrt(square / (double)t->count) : 0.0,
               (unsigned long long)qnet_safetensors_hash(&alone));
        total += (double)t->count;
    }
    for (i = 0; i < file->metadata_count; i++)
        printf("metadata %s = %.300s%s\n", file->metadata[i].key, file->metadata[i].value,
               strlen(file->metadata[i].value) > 300 ? "..." : "");
    printf("%d tensors, %.0f numbers\n", file->count, total);
    return 0;
}

/* A ResNet18 of so many classes without room for training, or NULL. */
static qnet_resnet *make_resnet(qnet_context *ctx, int classes)
{
    qnet_resnet_config c;
    qnet_resnet *net = NULL;
    qnet_resnet_config_init(&c);
    c.height = c.width = 32;
    c.batch = 1;
    c.classes = classes;
    c.training = 0;
    return qnet_resnet_create(ctx, &c, &net) == QNET_OK ? net : NULL;
}

static int hash(qnet_context *ctx, const qnet_safetensors *file)
{
    const qnet_safetensor *head = qnet_safetensors_find(file, "fc.weight");
    qnet_resnet *net;
    printf("%016llx  %d tensors\n", (unsigned long long)qnet_safetensors_hash(file), file->count);
    if (head == NULL || head->ndim != 2 || head->shape[0] != QNET_CLASSES) return 0;
    net = make_resnet(ctx, QNET_CLASSES);
    if (net == NULL) return fail(ctx);
    memset(net->weights, 0, net->table->total * sizeof(qnet_real)); /* counters may be missing */
    if (qnet_weights_from_safetensors(ctx, file, net->table, net->weights, 0, NULL) == QNET_OK)
        printf("%016llx  as initial_weights in a manifest.json\n",
               (unsigned long long)qnet_hash(QNET_HASH_START, net->weights,
                                             net->table->total * sizeof(qnet_real)));
    qnet_resnet_destroy(net);
    return 0;
}

/* Prints one row and returns 1 when the tensors differ by more than the tolerance. */
static int compare_tensor(const qnet_safetensor *a, const qnet_safetensor *b, double tolerance,
                          double worst[2])
{
    double absolute = 0, relative = 0;
    char sa[200], sb[200];
    int differs;
    size_t k;
    if (b == NULL || !same_shape(a, b)) {
        shape_text(a, sa);
        if (b != NULL) shape_text(b, sb);
        printf("%-36s %s %s%s%s\n", a->name, sa, b ? "but " : "only in one file", b ? sb : "",
               b ? " in the other file" : "");
        return 1;
    }
    for (k = 0; k < a->count; k++) {
        double x = element(a, k), y = element(b, k), d = fabs(x - y);
        double m = fabs(x) > fabs(y) ? fabs(x) : fabs(y);
        if (x == y || (x != x && y != y)) continue;
        if (d != d) d = INFINITY; /* a NaN in one file only */
        if (d > absolute) absolute = d;
        if (d / m > relative || m != m) relative = m == m && m < INFINITY ? d / m : INFINITY;
    }
    differs = !(absolute <= tolerance);
    printf("%-36s %-4s %-4s abs %10.4g  rel %10.4g%s\n", a->name, qnet_dtype_name(a->dtype),
           qnet_dtype_name(b->dtype), absolute, relative, differs ? "  differs" : "");
    if (absolute > worst[0]) worst[0] = absolute;
    if (relative > worst[1]) worst[1] = relative;
    return differs;
}

static int compare(const qnet_safetensors *a, const qnet_safetensors *b, double tolerance)
{
    double worst[2] = {0, 0};
    int i, different = 0;
    for (i = 0; i < a->count; i++)
        different += compare_tensor(&a->tensors[i], qnet_safetensors_find(b, a->tensors[i].name),
                                    tolerance, worst);
    for (i = 0; i < b->count; i++)
        if (qnet_safetensors_find(a, b->tensors[i].name) == NULL)
            different += compare_tensor(&b->tensors[i], NULL, tolerance, worst);
    printf("%d tensors, %d differ; largest difference: absolute %.4g, relative %.4g\n", a->count,
           different, worst[0], worst[1]);
    return different > 0;
}

/* ---- convert --------------------------------------------------------------------------------- */

/* The pairs of a file's metadata, for the writers. */
static const char **metadata_pairs(const qnet_safetensors *file)
{
    const char **pairs =
        (const char **)malloc(((size_t)file->metadata_count * 2 + 1) * sizeof *pairs);
    int i;
    for (i = 0; pairs != NULL && i < file->metadata_count; i++) {
        pairs[2 * i] = file->metadata[i].key;
        pairs[2 * i + 1] = file->metadata[i].value;
    }
    return pairs;
}

/* The network whose block `weights` of a checkpoint is, as a file with names. */
static int from_checkpoint(qnet_context *ctx, const char *path, const qnet_safetensors *file,
                           qnet_buffer *out)
{
    const qnet_safetensor *w = qnet_safetensors_find(file, "weights");
    const char *hidden = qnet_safetensors_metadata(file, "hidden");
    const char *steps = qnet_safetensors_metadata(file, "steps"), **pairs = metadata_pairs(file);
    const qnet_param_table *table = NULL;
    qnet_resnet *net = make_resnet(ctx, QNET_CLASSES);
    qnet_scan_model *model = NULL;
    qnet_scan_config c;
    qnet_real *block = NULL;
    qnet_sink sink = qnet_sink_buffer(ctx, out, path);
    qnet_status status = QNET_ERROR_MISMATCH;
    size_t k;
    if (net != NULL && net->table->total == w->count) {
        table = net->table;
    } else if (hidden && steps) {
        qnet_scan_config_init(&c);
        c.hidden = atoi(hidden);
        c.steps = atoi(steps);
        c.batch = 1;
        c.training = 0;
        if (qnet_scan_model_create(ctx, &c, &model) == QNET_OK && model->table->total == w->count)
            table = model->table;
    }
    if (table != NULL) block = (qnet_real *)malloc(w->count * sizeof *block);
    if (block != NULL && pairs != NULL) {
        for (k = 0; k < w->count; k++) block[k] = (qnet_real)element(w, k);
        status = qnet_weights_write(ctx, &sink, table, block, pairs, file->metadata_count);
    }
    qnet_resnet_destroy(net);
    qnet_scan_model_destroy(model);
    free(block);
    free(pairs);
    if (table == NULL)
        return fail_text(path, "a checkpoint, but tensor 'weights' is of no network's size here");
    if (status != QNET_OK) return fail(ctx);
    printf("%s: a checkpoint: weights of its last epoch; they do not say on which subjects they "
           "were trained\n", path);
    return 0;
}

/* All tensors of a file into *out; with net, fc.weight and fc.bias are its own, which the file need
   not have. */
static qnet_status rewrite(qnet_context *ctx, const char *path, const qnet_safetensors *file,
                           qnet_resnet *net, qnet_buffer *out)
{
    static const char *const head[] = {"fc.weight", "fc.bias"};
    qnet_safetensor *tensors =
        (qnet_safetensor *)calloc((size_t)file->count + 2, sizeof *tensors), *t;
    const char **pairs = metadata_pairs(file);
    qnet_sink sink = qnet_sink_buffer(ctx, out, path);
    qnet_status status = QNET_ERROR_MEMORY;
    int count = file->count, i, k;
    for (i = 0; i < count && tensors; i++) tensors[i] = file->tensors[i];
    for (k = 0; k < 2 && tensors && net; k++) {
        qnet_tensor fresh =
            qnet_param_view(net->table, net->weights, qnet_param_find(net->table, head[k]));
        for (i = 0; i < count && strcmp(tensors[i].name, head[k]) != 0;) i++;
        if (i == count) count++;
        t = &tensors[i];
        strcpy(t->name, head[k]);
        t->dtype = sizeof(qnet_real) == 8 ? QNET_F64 : QNET_F32;
        t->ndim = fresh.ndim;
        memcpy(t->shape, fresh.shape, (size_t)fresh.ndim * sizeof t->shape[0]);
        t->data = fresh.data;
    }
    if (tensors && pairs)
        status = qnet_safetensors_write(ctx, &sink, tensors, count, pairs, file->metadata_count);
    free(tensors);
    free(pairs);
    return status;
}

/* The net whose fresh head replaces the file's; *net = NULL: the head is right as it is. */
static int fresh_head(qnet_context *ctx, const char *path, const qnet_safetensors *file,
                      int classes, uint64_t seed, qnet_resnet **net)
{
    const qnet_safetensor *w = qnet_safetensors_find(file, "fc.weight");
    const qnet_safetensor *b = qnet_safetensors_find(file, "fc.bias");
    const int none = w == NULL && b == NULL;
    char text[300];
    if (!none && (w == NULL || b == NULL || w->ndim != 2 || w->shape[1] != QNET_FEATURES ||
                  b->ndim != 1 || b->shape[0] != w->shape[0]))
        return fail_text(path, "--classes: expected tensors 'fc.weight' [classes,512] and "
                               "'fc.bias' [classes] of a ResNet18");
    if (!none && w->shape[0] == (size_t)classes) {
        printf("%s: the head has %d classes already and stays\n", path, classes);
        return 0;
    }
    *net = make_resnet(ctx, classes);
    if (*net == NULL) return fail(ctx);
    if (none && qnet_weights_from_safetensors(ctx, file, (*net)->table, (*net)->weights, 1, NULL) !=
                    QNET_OK) {
        snprintf(text, sizeof text, "--classes: no head (fc.*), and no ResNet18 without one: "
                 "%.200s", qnet_last_error(ctx));
        return fail_text(path, text);
    }
    qnet_resnet_init(*net, seed);
    if (none)
        printf("%s: has no head: a fresh one of %d classes is added\n", path, classes);
    else
        printf("%s: the head of %lu classes is replaced by a fresh one of %d\n", path,
               (unsigned long)w->shape[0], classes);
    return 0;
}

static int ends(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && strcmp(text + n - m, end) == 0;
}

/* Reads a file; a prefix before all names of a ResNet18 is taken off. */
static qnet_status load(qnet_context *ctx, const char *path, qnet_safetensors **file)
{
    qnet_status status = qnet_safetensors_load(ctx, path, file);
    qnet_resnet *net;
    size_t n;
    int i;
    if (status != QNET_OK) return status;
    net = make_resnet(ctx, QNET_CLASSES);
    n = net != NULL ? qnet_weights_prefix(*file, net->table) : 0;
    qnet_resnet_destroy(net);
    if (n > 0)
        fprintf(stderr, "%s: all names begin with '%.*s', which is left out\n", path, (int)n,
                (*file)->tensors[0].name);
    for (i = 0; i < (*file)->count && n > 0; i++) {
        char *name = (*file)->tensors[i].name;
        memmove(name, name + n, strlen(name + n) + 1);
    }
    return QNET_OK;
}

static int convert(qnet_context *ctx, const char *in, const char *out, int classes, uint64_t seed)
{
    const int pth = ends(out, ".pth") || ends(out, ".pt");
    qnet_safetensors *file = NULL, *made = NULL;
    qnet_resnet *net = NULL;
    qnet_memory_source state;
    qnet_source source;
    qnet_buffer a, b;
    char sentence[PTH_SENTENCE];
    int result = 0;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    if (!pth && !ends(out, ".safetensors"))
        return fail_text(out, "expected a name that ends in .safetensors, .pth or .pt");
    if (load(ctx, in, &file) != QNET_OK) return fail(ctx);
    if (qnet_safetensors_find(file, "weights") && qnet_safetensors_find(file, "adam.m")) {
        result = from_checkpoint(ctx, in, file, &a);
    } else {
        if (classes > 0) result = fresh_head(ctx, in, file, classes, seed, &net);
        if (result == 0 && rewrite(ctx, out, file, net, &a) != QNET_OK) result = fail(ctx);
    }
    if (result == 0 && pth) {
        source = qnet_source_memory(&state, a.bytes, a.size, out);
        if (qnet_safetensors_read(ctx, &source, &made) != QNET_OK)
            result = fail(ctx);
        else if (pth_from_safetensors(ctx, out, made, &b, sentence) != QNET_OK)
            result = fail_text("convert", sentence);
    }
    if (result == 0 && qnet_file_replace(ctx, out, pth ? b.bytes : a.bytes,
                                         pth ? b.size : a.size) != QNET_OK)
        result = fail(ctx);
    if (result == 0) printf("wrote %s\n", out);
    qnet_buffer_free(ctx, &a);
    qnet_buffer_free(ctx, &b);
    qnet_resnet_destroy(net);
    qnet_safetensors_destroy(file);
    qnet_safetensors_destroy(made);
    return result;
}

/* ---- the command line ------------------------------------------------------------------------ */

typedef struct options {
    const char *path[2];
    int paths, classes;
    uint64_t seed;
    double tolerance;
} options;

static int parse(int argc, char **argv, options *o)
{
    const int converts = strcmp(argv[1], "convert") == 0;
    const int compares = strcmp(argv[1], "compare") == 0;
    int i;
    memset(o, 0, sizeof *o);
    o->seed = 1;
    for (i = 2; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        char *end = NULL;
        if (converts && strcmp(argv[i], "--classes") == 0) {
            long n = strtol(value, &end, 10);
            if (end == value || *end || n < 1 || n > 100000)
                return fail_text("--classes", "expected a whole number from 1 to 100000");
            o->classes = (int)n;
            i++;
        } else if (converts && strcmp(argv[i], "--seed") == 0) {
            o->seed = (uint64_t)strtoull(value, &end, 10);
            if (end == value || *end || strchr(value, '-'))
                return fail_text("--seed", "expected a whole number from 0");
            i++;
        } else if (compares && strcmp(argv[i], "--tolerance") == 0) {
            o->tolerance = strtod(value, &end);
            if (end == value || *end || !(o->tolerance >= 0))
                return fail_text("--tolerance", "expected a number from 0");
            i++;
        } else if (argv[i][0] == '-' || o->paths == (converts || compares ? 2 : 1)) {
            return fail_text(argv[i], "not expected here (see --help)");
        } else {
            o->path[o->paths++] = argv[i];
        }
    }
    if (o->paths < (converts || compares ? 2 : 1))
        return fail_text(argv[1], "a file's name is missing (see --help)");
    return 0;
}

static int run(qnet_context *ctx, const char *command, const options *o)
{
    qnet_safetensors *a = NULL, *b = NULL;
    int result = 0;
    if (strcmp(command, "convert") == 0)
        return convert(ctx, o->path[0], o->path[1], o->classes, o->seed);
    if (load(ctx, o->path[0], &a) != QNET_OK) return fail(ctx);
    if (o->paths == 2 && load(ctx, o->path[1], &b) != QNET_OK)
        result = fail(ctx);
    else if (strcmp(command, "list") == 0)
        result = list(a);
    else if (strcmp(command, "hash") == 0)
        result = hash(ctx, a);
    else
        result = compare(a, b, o->tolerance);
    qnet_safetensors_destroy(a);
    qnet_safetensors_destroy(b);
    return result;
}

int main(int argc, char **argv)
{
    static const char *const commands[] = {"convert", "list", "compare", "hash"};
    qnet_context *ctx = NULL;
    qnet_hooks hooks;
    options o;
    int i, result;
    for (i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, stdout);
            return 0;
        }
    for (i = 0; i < 4 && argc > 1; i++)
        if (strcmp(argv[1], commands[i]) == 0) break;
    if (argc < 2 || i == 4)
        return fail_text(argc < 2 ? "no command" : argv[1],
                         "expected convert, list, compare or hash (see --help)");
    result = parse(argc, argv, &o);
    if (result != 0) return result;
    memset(&hooks, 0, sizeof hooks);
    hooks.weights = pth_weights_reader();
    hooks.log.message = print_warning;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return fail_text("context", "no memory");
    result = run(ctx, argv[1], &o);
    qnet_context_destroy(ctx);
    return result;
}
