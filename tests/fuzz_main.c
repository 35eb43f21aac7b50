/* fuzz_main.c: runs a fuzz target without a fuzzer, on the files of a corpus:
   build/tests/fuzz_NAME FILES; each file that passes counts as a test. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const char *at = "";
static long passed;

/* The target has aborted or crashed. */
static void report(int number)
{
    printf("%s: failed (signal %d)\n%ld passed, 1 failed\n", at, number, passed);
    fflush(stdout);
    _Exit(1);
}

int main(int argc, char **argv)
{
    int i;
    signal(SIGABRT, report);
#ifndef __SANITIZE_ADDRESS__ /* which says more */
    signal(SIGSEGV, report);
    signal(SIGFPE, report);
#endif
    for (i = 1; i < argc; i++) {
        FILE *file = fopen(at = argv[i], "rb");
        uint8_t *bytes = NULL;
        size_t size = 0, got = 0;
        if (file != NULL && fseek(file, 0, SEEK_END) == 0) size = (size_t)ftell(file);
        /* As a fuzzer does: a block that ends with the input. */
        if (file != NULL && (bytes = (uint8_t *)malloc(size > 0 ? size : 1)) != NULL) {
            rewind(file);
            got = fread(bytes, 1, size, file);
        }
        if (file != NULL) fclose(file);
        if (bytes == NULL || got != size) {
            printf("%s: cannot be read\n%ld passed, 1 failed\n", at, passed);
            return 1;
        }
        LLVMFuzzerTestOneInput(bytes, size);
        free(bytes);
        passed++;
    }
    if (passed == 0) printf("%s: expected the files of a corpus\n", argv[0]);
    printf("%ld passed, %d failed\n", passed, passed == 0);
    return passed == 0;
}
