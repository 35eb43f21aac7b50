/* How to run: make fuzz FUZZ=pth (fuzz.h). An input that begins with 0x01 is a pickle: it becomes
   the data.pkl of a right zip archive with storages of 64 bytes, so that the stack machine is
   reached at once; any other is a whole .pth file, whose CRCs are not compared (PTH_FUZZ). What the
   reader takes must be written, read again and be the same; what it refuses must come with a
   sentence that names the file. */
#include "fuzz.h"
#define PTH_FUZZ
#define PTH_IMPLEMENTATION
#include "weights_tools/pth.h"

/* A .pth whose data.pkl is pickle[size]. */
static void wrap(qnet_context *ctx, const uint8_t *pickle, size_t size, qnet_buffer *out)
{
    static const char numbers[64] = "";
    pth__writer w;
    size_t first;
    int i;
    char key[16];
    memset(&w, 0, sizeof(w));
    w.ctx = ctx;
    w.out = out;
    pth__put_entry(&w, "data.pkl", pickle, size);
    pth__put_entry(&w, "version", "3\n", 2);
    for (i = 0; i < 2; i++) {
        snprintf(key, sizeof(key), "data/%d", i);
        pth__put_entry(&w, key, numbers, sizeof(numbers));
    }
    first = out->size;
    pth__put_bytes(&w, out, w.directory.bytes, w.directory.size);
    pth__put_bytes(&w, out, "PK\5\6\0\0\0", 8);
    pth__put_number(&w, out, w.entries, 2);
    pth__put_number(&w, out, w.entries, 2);
    pth__put_number(&w, out, w.directory.size, 4);
    pth__put_number(&w, out, first, 4);
    pth__put_number(&w, out, 0, 2);
    qnet_buffer_free(ctx, &w.directory);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    memory_watch m;
    qnet_context *ctx = fuzz_begin(&m);
    qnet_buffer file, first, pth, second;
    qnet_memory_source state;
    qnet_source source;
    qnet_status status;
    qnet_safetensors *tensors = NULL;
    char sentence[PTH_SENTENCE];
    memset(&file, 0, sizeof(file));
    memset(&first, 0, sizeof(first));
    memset(&pth, 0, sizeof(pth));
    memset(&second, 0, sizeof(second));
    if (size > 0 && bytes[0] == 1) {
        wrap(ctx, bytes + 1, size - 1, &file);
        bytes = file.bytes;
        size = file.size;
    }
    status = pth_to_safetensors(ctx, "input", bytes, size, &first, sentence);
    if (status != QNET_OK) {
        fuzz_refused(status, sentence, "input: ");
        MUST(first.bytes == NULL);
    } else {
        source = qnet_source_memory(&state, first.bytes, first.size, "input");
        /* A key of metadata may be there twice, or a text be no UTF-8: qnet.h says so. */
        if (qnet_safetensors_read(ctx, &source, &tensors) == QNET_OK) {
            MUST(pth_from_safetensors(ctx, "output", tensors, &pth, sentence) == QNET_OK);
            MUST(pth_to_safetensors(ctx, "output", pth.bytes, pth.size, &second, sentence) ==
                 QNET_OK);
            MUST(second.size == first.size && memcmp(second.bytes, first.bytes, first.size) == 0);
        }
        qnet_safetensors_destroy(tensors);
    }
    qnet_buffer_free(ctx, &file);
    qnet_buffer_free(ctx, &first);
    qnet_buffer_free(ctx, &pth);
    qnet_buffer_free(ctx, &second);
    /* Tensors may share numbers (PTH__MAX_SHARING); the output is there four times. */
    fuzz_end(ctx, &m, ((size_t)1 << 21) + 200 * size);
    return 0;
}
