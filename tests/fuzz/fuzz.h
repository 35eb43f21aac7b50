/* fuzz.h: what the fuzz targets share. NAME.c is a target: LLVMFuzzerTestOneInput gives bytes to
   one reader, and checks that what was read keeps the reader's promises, that a refusal has a
   sentence, that memory stays in proportion to the input and that all of it comes back.

       make fuzz FUZZ="nifti gzip" FUZZ_SECONDS=600     with clang's libFuzzer, ASan and UBSan
       make test      all files of corpus/NAME by tests/fuzz_main.c, with any compiler

   corpus/NAME/ holds small files of our own writers and what was found once. */
#ifndef FUZZ_H
#define FUZZ_H
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200112L
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "../memory.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void fuzz_must(int ok, const char *what, const char *file, int line)
{
    if (ok) return;
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
    abort();
}
#define MUST(condition) fuzz_must(!!(condition), #condition, __FILE__, __LINE__)

/* A context whose memory is watched. */
static qnet_context *fuzz_begin(memory_watch *m)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(m, 0, sizeof *m);
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = m;
    hooks.allocator.alloc = memory_alloc;
    hooks.allocator.free = memory_free;
    hooks.threads = 1;
    hooks.cpu = QNET_CPU_SCALAR; /* checkpoints name the kernels */
    MUST(qnet_context_create(&hooks, &ctx) == QNET_OK);
    return ctx;
}

/* All has come back, and there never was more than `most` bytes. */
static void fuzz_end(qnet_context *ctx, memory_watch *m, size_t most)
{
    qnet_context_destroy(ctx);
    MUST(m->wrong == NULL);
    MUST(m->count == 0);
    MUST(m->peak <= most);
    memory_end(m);
}

/* A failure of a reader: none that blames the caller or the system, and a sentence. */
static void fuzz_refused(qnet_status status, const char *sentence, const char *name)
{
    MUST(status != QNET_OK && status != QNET_ERROR_ARGUMENT && status != QNET_ERROR_MEMORY &&
         status != QNET_ERROR_IO && status < QNET_STATUS_COUNT);
    MUST(sentence[0] != 0 && strstr(sentence, name) != NULL);
}
#endif
