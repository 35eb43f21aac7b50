/* How to run: make fuzz FUZZ=gzip (fuzz.h). The input is a gzip file if it begins as one; any other
   is packed. What comes out of either must survive the way back. */
#include "fuzz.h"
#include "../gzip.h"

#define LIMIT ((size_t)1 << 18)

/* Packs bytes[size], unpacks that, and compares. */
static void there_and_back(qnet_context *ctx, const void *bytes, size_t size)
{
    qnet_buffer packed, plain;
    memset(&packed, 0, sizeof packed);
    memset(&plain, 0, sizeof plain);
    MUST(gzip_pack(ctx, bytes, size, &packed) == QNET_OK);
    MUST(packed.size <= size + size / 200 + 170 * (size / 65536 + 1) + 20); /* as in test_deflate.c */
    MUST(gzip_unpack(ctx, packed.bytes, packed.size, 0, &plain) == QNET_OK);
    MUST(plain.size == size && (size == 0 || memcmp(plain.bytes, bytes, size) == 0));
    qnet_buffer_free(ctx, &packed);
    qnet_buffer_free(ctx, &plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    memory_watch m;
    qnet_context *ctx = fuzz_begin(&m);
    qnet_buffer out;
    qnet_status status;
    memset(&out, 0, sizeof out);
    MUST(qnet_buffer_append(ctx, &out, "before", 6) == QNET_OK);
    status = gzip_unpack(ctx, size > 0 ? bytes : (const uint8_t *)"", size, LIMIT, &out);
    MUST(out.size >= 6 && memcmp(out.bytes, "before", 6) == 0 && out.bytes[out.size] == 0);
    MUST(out.size - 6 <= LIMIT && out.size - 6 <= 1032 * size);
    if (status != QNET_OK) {
        fuzz_refused(status, qnet_last_error(ctx), "");
        MUST(out.size == 6);
    } else {
        there_and_back(ctx, out.bytes + 6, out.size - 6);
    }
    if (size < 2 || bytes[0] != 0x1f) there_and_back(ctx, bytes, size);
    qnet_buffer_free(ctx, &out);
    fuzz_end(ctx, &m, ((size_t)1 << 20) + 8 * LIMIT);
    return 0;
}
