/* examples/trace.c: that it names every tensor, and that the file it saves holds what it says: the
   network is followed through the file's tensors by definition where that is short. PyTorch does the
   whole of it in tests/parity/parity_trace.py. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include <stdarg.h>

static char last_line[300];
static int lines, nowhere; /* lines without a place in the paper */
static int quiet_printf(const char *format, ...)
{
    va_list list;
    int n;
    va_start(list, format);
    n = vsnprintf(last_line, sizeof last_line, format, list);
    va_end(list);
    lines++;
    nowhere += n > 2 && last_line[n - 2] == ' ';
    return n;
}
static int quiet_fprintf(FILE *to, const char *format, ...)
{
    va_list list;
    int n;
    (void)to;
    va_start(list, format);
    n = vsnprintf(last_line, sizeof last_line, format, list);
    va_end(list);
    return n;
}
#define main trace_main
#define printf quiet_printf
#define fprintf quiet_fprintf
#include "trace.c"
#undef fprintf
#undef printf
#undef main

static qnet_context *ctx;
static qnet_safetensors *file;

static const qnet_safetensor *tensor(const char *name, int ndim, size_t s0, size_t s1, size_t s2, size_t s3)
{
    const qnet_safetensor *t = qnet_safetensors_find(file, name);
    const size_t shape[4] = {s0, s1, s2, s3};
    int d;
    static qnet_safetensor none;
    static float zero[1];
    none.data = zero;
    if (!CHECK(t != NULL) || !CHECK(t->ndim == ndim)) {
        printf("    %s\n", name);
        return &none;
    }
    for (d = 0; d < ndim; d++) CHECK(t->shape[d] == shape[d]);
    return t;
}

/* Files are little-endian and so are the machines that this test knows. */
static double at(const qnet_safetensor *t, size_t i)
{
    float v = 0;
    if (i < t->count) memcpy(&v, (const char *)t->data + 4 * i, 4);
    return (double)v;
}

static void test_file(void)
{
    static char program[] = "trace", side[] = "--side", n[] = "33", save_as[] = "--save";
    static char path[] = "build/test_trace.safetensors";
    char *arguments[] = {program, side, n, save_as, path, NULL};
    const qnet_safetensor *x, *w, *y, *fc, *dfc, *loss, *map, *pooled, *before, *after, *dw, *db;
    double sum, worst = 0, norm = 0, largest = 0;
    size_t i, o, c, ky, kx, gradients = 0, outside = 0;
    int k, row, column;
    CHECK(trace_main(5, arguments) == 0);
    CHECK(lines == 96 && nowhere == 0); /* heading, 94 tensors, the last line */
    CHECK_CONTAINS(last_line, "94 tensors, scan level: probability of HH 0.5");
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    CHECK_OK(ctx, qnet_safetensors_load(ctx, path, &file));
    if (file == NULL) return;
    for (k = 0; k < file->count; k++) {
        gradients += strncmp(file->tensors[k].name, "grad resnet.", 12) == 0;
        CHECK(qnet_safetensors_find(file, file->tensors[k].name) == &file->tensors[k]); /* no name twice */
    }
    CHECK(gradients == 62);
    CHECK(file->count == 94 + 1 + (62 + 40) + 12 + 62 + 12 + 40);

    /* conv1 = 7x7, stride 2, padding 3 of input, weights [out][in][7][7] */
    x = tensor("input", 4, 1, 33, 33, 3);
    w = tensor("resnet.conv1.weight", 4, 64, 3, 7, 7);
    y = tensor("conv1", 4, 1, 17, 17, 64);
    for (o = 0; o < 64; o += 9)
        for (i = 0; i < 17 * 17; i += 5) {
            for (sum = 0, ky = 0; ky < 7; ky++)
                for (kx = 0; kx < 7; kx++) {
                    row = (int)(i / 17 * 2 + ky) - 3;
                    column = (int)(i % 17 * 2 + kx) - 3;
                    if (row < 0 || row > 32 || column < 0 || column > 32) continue;
                    for (c = 0; c < 3; c++)
                        sum += at(x, (size_t)(row * 33 + column) * 3 + c) * at(w, (o * 3 + c) * 49 + ky * 7 + kx);
                }
            worst = fmax(worst, fabs(sum - at(y, i * 64 + o)));
            largest = fmax(largest, fabs(sum));
        }
    CHECK(largest > .1);
    CHECK_NEAR(worst, 0, 1e-5 * largest); /* 147 products in float */

    /* avgpool = mean of the last map; fc's loss and its gradient; fc.weight's gradient */
    map = tensor("layer4.1", 4, 1, 2, 2, 512);
    pooled = tensor("avgpool", 2, 1, 512, 0, 0);
    for (worst = 0, c = 0; c < 512; c++) {
        sum = (at(map, c) + at(map, 512 + c) + at(map, 1024 + c) + at(map, 1536 + c)) / 4;
        worst = fmax(worst, fabs(sum - at(pooled, c)));
    }
    CHECK_NEAR(worst, 0, 1e-5);
    fc = tensor("fc", 2, 1, 2, 0, 0);
    dfc = tensor("grad fc", 2, 1, 2, 0, 0);
    loss = tensor("loss", 1, 3, 0, 0, 0);
    sum = 1 / (1 + exp(at(fc, 0) - at(fc, 1))); /* probability of HH, the label */
    CHECK_NEAR(at(loss, 0), -log(sum), 1e-6);
    CHECK_NEAR(at(dfc, 1), sum - 1, 1e-6);
    CHECK_NEAR(at(dfc, 0), 1 - sum, 1e-6);
    dw = tensor("grad resnet.fc.weight", 2, 2, 512, 0, 0);
    for (worst = 0, c = 0; c < 512; c++) worst = fmax(worst, fabs(at(dw, 512 + c) - at(dfc, 1) * at(pooled, c)));
    CHECK_NEAR(worst, 0, 1e-6);

    /* The gradient inside the last ReLU: a quarter of avgpool's where the map is above 0, else 0. What
       it sums to is bn2.bias's gradient; the same for a norm inside a block and for the first. */
    x = tensor("grad avgpool", 2, 1, 512, 0, 0);
    y = tensor("grad layer4.1.bn2", 4, 1, 2, 2, 512);
    db = tensor("grad resnet.layer4.1.bn2.bias", 1, 512, 0, 0, 0);
    for (worst = 0, largest = 0, c = 0; c < 512; c++) {
        for (sum = 0, i = 0; i < 4; i++) {
            const double d = at(y, i * 512 + c), open = at(map, i * 512 + c) > 0;
            worst = fmax(worst, fabs(d - open * at(x, c) / 4));
            largest = fmax(largest, fabs(d));
            sum += d;
        }
        worst = fmax(worst, fabs(sum - at(db, c)));
    }
    CHECK(largest > 1e-4);
    CHECK_NEAR(worst, 0, 1e-6 * largest);
    y = tensor("grad layer2.1.bn1", 4, 1, 5, 5, 128);
    x = tensor("layer2.1.relu", 4, 1, 5, 5, 128);
    db = tensor("grad resnet.layer2.1.bn1.bias", 1, 128, 0, 0, 0);
    for (worst = 0, largest = 0, c = 0; c < 128; c++) {
        for (sum = 0, i = 0; i < 25; i++) {
            outside += at(x, i * 128 + c) <= 0 && fabs(at(y, i * 128 + c)) > 0;
            sum += at(y, i * 128 + c);
        }
        largest = fmax(largest, fabs(sum));
        worst = fmax(worst, fabs(sum - at(db, c)));
    }
    CHECK(largest > 1e-4);
    CHECK_NEAR(worst, 0, 1e-5 * largest);
    CHECK(outside == 0);
    y = tensor("grad bn1", 4, 1, 17, 17, 64);
    db = tensor("grad resnet.bn1.bias", 1, 64, 0, 0, 0);
    for (worst = 0, largest = 0, c = 0; c < 64; c++) {
        for (sum = 0, i = 0; i < 17 * 17; i++) sum += at(y, i * 64 + c);
        largest = fmax(largest, fabs(sum));
        worst = fmax(worst, fabs(sum - at(db, c)));
    }
    CHECK(largest > 1e-4);
    CHECK_NEAR(worst, 0, 1e-5 * largest);

    /* bn1's statistics moved by .1 towards the mean of conv1's output */
    before = tensor("resnet.bn1.running_mean", 1, 64, 0, 0, 0);
    after = tensor("after resnet.bn1.running_mean", 1, 64, 0, 0, 0);
    y = tensor("conv1", 4, 1, 17, 17, 64);
    for (c = 0; c < 64; c++) {
        for (sum = 0, i = 0; i < 17 * 17; i++) sum += at(y, i * 64 + c) / (17 * 17);
        CHECK_NEAR(at(after, c), .9 * at(before, c) + .1 * sum, 1e-6);
        norm += fabs(at(after, c));
    }
    CHECK(norm > 0);

    /* stage 2: scan_head's logits of the one step's output */
    y = tensor("lstm", 3, 1, 1, 512, 0);
    w = tensor("scan.scan_head.weight", 2, 2, 512, 0, 0);
    x = tensor("scan.scan_head.bias", 1, 2, 0, 0, 0);
    fc = tensor("scan_head", 2, 1, 2, 0, 0);
    tensor("scan.lstm.weight_ih_l0", 2, 1024, 512, 0, 0);
    tensor("grad scan.lstm.weight_hh_l0_reverse", 2, 1024, 256, 0, 0);
    for (o = 0; o < 2; o++) {
        for (sum = at(x, o), c = 0; c < 512; c++) sum += at(w, o * 512 + c) * at(y, c);
        CHECK_NEAR(at(fc, o), sum, 1e-6);
    }
    qnet_safetensors_destroy(file);
    qnet_context_destroy(ctx);
    remove(path);
}

static void test_refusals(void)
{
    static char program[] = "trace", side[] = "--side", n[] = "31", other[] = "64", nothing[] = "--save";
    char *small[] = {program, side, n, NULL}, *stray[] = {program, other, NULL};
    char *open_end[] = {program, nothing, NULL};
    static char read_from[] = "--weights", missing[] = "build/no-such-file";
    char *no_file[] = {program, read_from, missing, NULL};
    CHECK(trace_main(3, no_file) == 1);
    CHECK_CONTAINS(last_line, "build/no-such-file");
    CHECK(trace_main(3, small) == 2);
    CHECK_CONTAINS(last_line, "usage: trace");
    CHECK(trace_main(2, stray) == 2);
    CHECK(trace_main(2, open_end) == 2);
}

int main(void)
{
    RUN(test_file);
    RUN(test_refusals);
    return test_end();
}
