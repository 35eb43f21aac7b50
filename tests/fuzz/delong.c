/* Fuzz target: the tables that examples/delong.c reads, and the tests on what it read.
       clang -g -O1 -fsanitize=fuzzer,address,undefined -DQNET_STATIC -I. -o build/fuzz_delong tests/fuzz/delong.c -lm
       build/fuzz_delong -max_len=4096 tests/fuzz/corpus/delong */
#define main delong_main
#include "../../examples/delong.c"
#undef main

static void try_table(const options *o, const uint8_t *data, size_t size)
{
    scores s;
    const int status = read_scores(&s, o, data, size);
    for (const char *c = s.t.error; *c; c++)
        if ((unsigned char)*c < 32 && *c != '\t') abort(); /* nothing that a terminal obeys */
    if (status < 0 && !s.t.error[0]) abort();
    for (size_t i = 0; status == 1 && i < s.rows * s.models; i++)
        if (!(fabs(s.value[i]) <= DBL_MAX)) abort();
    if (status == 1 && s.models <= 3) {
        double *score = (double *)malloc(s.rows * sizeof *score), *other = (double *)malloc(s.rows * sizeof *score);
        qnet_context *ctx;
        qnet_delong d;
        if (score && other && qnet_context_create(NULL, &ctx) == QNET_OK) {
            copy_column(&s, 0, score);
            copy_column(&s, s.models - 1, other);
            if (qnet_delong_test(ctx, s.positive, score, other, s.unit, s.rows, &d) == QNET_OK &&
                !(d.auc[0] >= 0 && d.auc[0] <= 1 && d.p >= 0 && d.p <= 1)) abort();
            qnet_context_destroy(ctx);
        }
        free(score);
        free(other);
    }
    free_scores(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    options o;
    memset(&o, 0, sizeof o);
    try_table(&o, data, size);
    o.skip = 1;
    o.positive = "a";
    o.cluster = "id";
    try_table(&o, data, size);
    o.cluster = NULL;
    o.label = "2";
    o.positive = NULL;
    o.where[0] = "input=crop";
    o.wheres = 1;
    try_table(&o, data, size);
    o.header = 1;
    o.label = NULL;
    o.score = "a,b";
    try_table(&o, data, size);
    return 0;
}
