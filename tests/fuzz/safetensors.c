/* How to run: make fuzz FUZZ=safetensors (fuzz.h). The input is a safetensors file; one that begins
   with '{' is the header alone, so that the 8 bytes of its length, and as many zeros as it asks
   for (at most 4096), are put around it. What is read must be as qnet.h describes it, be written,
   read again and be the same. */
#include "fuzz.h"

#define ZEROS 4096

static qnet_status read_file(qnet_context *ctx, const void *bytes, size_t size,
                             qnet_safetensors **out)
{
    qnet_memory_source state;
    qnet_source source = qnet_source_memory(&state, bytes, size, "input");
    return qnet_safetensors_read(ctx, &source, out);
}

/* The header with its length before and n zeros behind it. */
static void wrap(qnet_context *ctx, const uint8_t *header, size_t size, size_t n, qnet_buffer *out)
{
    static const unsigned char zeros[ZEROS] = {0};
    unsigned char length[8];
    qnet__store(length, 8, 0, size);
    MUST(qnet_buffer_append(ctx, out, length, 8) == QNET_OK);
    MUST(qnet_buffer_append(ctx, out, header, size) == QNET_OK);
    MUST(qnet_buffer_append(ctx, out, zeros, n) == QNET_OK);
}

/* Tensors side by side in the block, each as large as its shape says, no two of one name. */
static void check(const qnet_safetensors *f)
{
    size_t sum = 0;
    int i, d;
    MUST(f->count >= 0 && f->metadata_count >= 0);
    for (i = 0; i < f->count; i++) {
        const qnet_safetensor *t = &f->tensors[i];
        size_t count = 1;
        MUST(qnet_dtype_size(t->dtype) > 0 && t->ndim >= 0 && t->ndim <= 8);
        for (d = 0; d < t->ndim; d++) count *= t->shape[d];
        MUST(t->count == count && t->bytes == count * qnet_dtype_size(t->dtype));
        MUST(qnet_safetensors_find(f, t->name) == t);
        if (t->bytes > 0)
            MUST((const char *)t->data >= (const char *)f->block &&
                 (const char *)t->data + t->bytes <= (const char *)f->block + f->block_bytes);
        sum += t->bytes;
    }
    MUST(sum <= f->block_bytes);
    for (i = 0; i < f->metadata_count; i++)
        MUST(qnet_safetensors_metadata(f, f->metadata[i].key) == f->metadata[i].value);
}

/* Writes f and reads that: the same tensors and metadata. */
static void there_and_back(qnet_context *ctx, const qnet_safetensors *f)
{
    const char *pairs[2 * QNET_MAX_SAFETENSORS_METADATA];
    qnet_buffer bytes;
    qnet_sink sink = qnet_sink_buffer(ctx, &bytes, "output");
    qnet_safetensors *again = NULL;
    int i;
    memset(&bytes, 0, sizeof bytes);
    bytes.ctx = ctx;
    for (i = 0; i < f->metadata_count; i++) {
        pairs[2 * i] = f->metadata[i].key;
        pairs[2 * i + 1] = f->metadata[i].value;
    }
    MUST(qnet_safetensors_write(ctx, &sink, f->tensors, f->count, pairs, f->metadata_count) ==
         QNET_OK);
    MUST(read_file(ctx, bytes.bytes, bytes.size, &again) == QNET_OK);
    MUST(again->count == f->count && again->metadata_count == f->metadata_count);
    for (i = 0; i < f->count; i++) {
        const qnet_safetensor *a = &f->tensors[i], *b = &again->tensors[i];
        MUST(strcmp(a->name, b->name) == 0 && a->dtype == b->dtype && a->ndim == b->ndim);
        MUST(a->bytes == b->bytes && memcmp(a->shape, b->shape, sizeof a->shape) == 0);
        MUST(a->bytes == 0 || memcmp(a->data, b->data, a->bytes) == 0);
    }
    for (i = 0; i < f->metadata_count; i++)
        MUST(strcmp(f->metadata[i].key, again->metadata[i].key) == 0 &&
             strcmp(f->metadata[i].value, again->metadata[i].value) == 0);
    qnet_safetensors_destroy(again);
    qnet_buffer_free(ctx, &bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    memory_watch m;
    qnet_context *ctx = fuzz_begin(&m);
    qnet_safetensors *file = NULL;
    qnet_buffer whole;
    qnet_status status;
    double n = 0;
    memset(&whole, 0, sizeof whole);
    if (size > 0 && bytes[0] == '{') {
        /* How many bytes it asks for, by the reader's own sentence: first with none of them. */
        wrap(ctx, bytes, size, 0, &whole);
        if (read_file(ctx, whole.bytes, whole.size, &file) != QNET_OK) {
            const char *asks = strstr(qnet_last_error(ctx), "truncated: expected ");
            if (asks != NULL) n = strtod(asks + strlen("truncated: expected "), NULL);
        }
        qnet_safetensors_destroy(file);
        file = NULL;
        whole.size = 0;
        wrap(ctx, bytes, size, n >= 0 && n <= ZEROS ? (size_t)n : 0, &whole);
        bytes = whole.bytes;
        size = whole.size;
    }
    status = read_file(ctx, bytes, size, &file);
    if (status != QNET_OK) {
        fuzz_refused(status, qnet_last_error(ctx), "input");
        MUST(file == NULL);
    } else {
        check(file);
        there_and_back(ctx, file);
    }
    qnet_safetensors_destroy(file);
    qnet_buffer_free(ctx, &whole);
    /* A tensor takes 50 bytes of JSON or more and some 250 in memory, twice while a list grows. */
    fuzz_end(ctx, &m, ((size_t)1 << 21) + 100 * size);
    return 0;
}
