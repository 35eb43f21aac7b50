/* How to run: make fuzz FUZZ=checkpoint (fuzz.h). The input is a checkpoint of stage 1 or 2; one
   that begins with '{' is the header alone, up to a zero byte: its length is put before it and the
   arrays of a right checkpoint behind it, changed by what follows the zero (exclusive or). The runs
   have all that checkpoints are of, but 6 weights instead of 11 millions. A file that is taken must
   leave a run that is sound and comes back the same from a file of its own; one that is refused
   must leave the run as it was. */
#include "fuzz.h"

#define WEIGHTS 6 /* of which 4 are trained */
#define EPOCHS 4

/* What a checkpoint fills. */
typedef struct numbers {
    qnet_epoch history[EPOCHS];
    qnet_real weights[WEIGHTS], m[WEIGHTS], v[WEIGHTS], average[WEIGHTS];
    int epoch, averaged, finished;
    uint64_t step;
} numbers;

/* Both kinds of run. */
typedef struct runs {
    qnet_param_table table;
    qnet_resnet net;
    qnet_scan_model model;
    qnet__training_state state1;
    qnet__training_state state2;
    qnet_training one;
    qnet_training two;
    numbers of[2];
} runs;

/* Run k as it stands: arrays and counters. */
static numbers keep(runs *r, int k)
{
    r->of[k].epoch = k == 0 ? r->one.epoch : r->two.epoch;
    r->of[k].step = k == 0 ? r->one.step : r->two.step;
    r->of[k].averaged = k == 0 ? r->one.averaged : 0;
    r->of[k].finished = k == 0 ? r->one.finished : 0;
    return r->of[k];
}

/* Runs after 3 of 4 epochs of 5 steps; stage 1 has averaged the third. */
static void start(qnet_context *ctx, runs *r)
{
    int i, k;
    memset(r, 0, sizeof *r);
    r->table.network = "resnet18";
    r->table.total = WEIGHTS;
    r->table.trainable = WEIGHTS - 2;
    for (k = 0; k < 2; k++)
        for (i = 0; i < WEIGHTS; i++) {
            r->of[k].weights[i] = (qnet_real)(i + 1) / 8;
            r->of[k].m[i] = r->of[k].v[i] = r->of[k].average[i] = (qnet_real)i / 4;
        }
    r->net.table = r->model.table = &r->table;
    r->net.weights = r->of[0].weights;
    r->model.weights = r->of[1].weights;
    qnet_stage1_config_init(&r->state1.config);
    qnet_stage2_config_init(&r->state2.config2);
    r->state1.config.swa_share = .5;
    r->state2.config.seed = 1;
    r->state1.config.epochs = r->state2.config2.epochs = EPOCHS;
    r->one.epochs = r->two.epochs = EPOCHS;
    r->one.ctx = r->two.ctx = ctx;
    r->one.net = &r->net;
    r->two.model = &r->model;
    r->one.state = &r->state1;
    r->two.state = &r->state2;
    r->one.history = r->of[0].history;
    r->two.history = r->of[1].history;
    r->state1.m = r->of[0].m, r->state1.v = r->of[0].v, r->state1.average = r->of[0].average;
    r->state2.m = r->of[1].m, r->state2.v = r->of[1].v;
    r->state1.batches = r->state2.batches = 5;
    r->state1.table = r->state2.table = &r->table;
    r->state1.weights = r->of[0].weights;
    r->state2.weights = r->of[1].weights;
    r->one.epoch = r->two.epoch = 3;
    r->one.step = r->two.step = 15;
    r->one.averaged = 1;
    r->state1.run = r->one;
    r->state2.run = r->two;
}

static qnet_status read_run(runs *r, int k, const void *bytes, size_t size)
{
    qnet_memory_source state;
    qnet_source source = qnet_source_memory(&state, bytes, size, "input");
    return k == 0 ? qnet_training_read(&r->one, &source) : qnet_training_read(&r->two, &source);
}

static void write_run(qnet_context *ctx, runs *r, int k, qnet_buffer *out)
{
    qnet_sink sink = qnet_sink_buffer(ctx, out, "output");
    MUST((k == 0 ? qnet_training_write(&r->one, &sink)
                 : qnet_training_write(&r->two, &sink)) == QNET_OK);
}

static int finite(const qnet_real *x)
{
    return qnet__first_bad(x, WEIGHTS) == WEIGHTS;
}

/* Gives bytes[size] to run k. */
static void try_run(qnet_context *ctx, int k, const uint8_t *bytes, size_t size)
{
    runs r, again;
    numbers before, after, second;
    qnet_buffer whole, own;
    qnet_status status;
    size_t i, json, header;
    memset(&whole, 0, sizeof whole);
    memset(&own, 0, sizeof own);
    start(ctx, &r);
    before = keep(&r, k);
    if (size > 0 && bytes[0] == '{') {
        unsigned char length[8];
        const uint8_t *end = (const uint8_t *)memchr(bytes, 0, size);
        json = end != NULL ? (size_t)(end - bytes) : size;
        write_run(ctx, &r, k, &own);
        header = 8 + (size_t)qnet__load_le64(own.bytes);
        for (i = 0; json + 1 + i < size && header + i < own.size; i++)
            own.bytes[header + i] ^= bytes[json + 1 + i];
        qnet__store(length, 8, 0, json);
        MUST(qnet_buffer_append(ctx, &whole, length, 8) == QNET_OK);
        MUST(qnet_buffer_append(ctx, &whole, bytes, json) == QNET_OK);
        MUST(qnet_buffer_append(ctx, &whole, own.bytes + header, own.size - header) == QNET_OK);
        bytes = whole.bytes;
        size = whole.size;
        qnet_buffer_free(ctx, &own);
    }
    status = read_run(&r, k, bytes, size);
    after = keep(&r, k);
    if (status != QNET_OK) {
        fuzz_refused(status, qnet_last_error(ctx), "input");
        MUST(memcmp(&after, &before, sizeof after) == 0);
    } else {
        MUST(after.epoch >= 0 && after.epoch <= EPOCHS && after.step == 5 * (uint64_t)after.epoch);
        MUST(after.averaged == (k == 0 && after.epoch > 2 ? after.epoch - 2 : 0));
        MUST(after.finished == 0 || (after.finished == 1 && after.epoch == EPOCHS));
        MUST(finite(after.weights) && finite(after.m) && finite(after.v) && finite(after.average));
        for (i = 0; i < EPOCHS; i++)
            MUST(isfinite(after.history[i].loss) && isfinite(after.history[i].learning_rate) &&
                 isfinite(after.history[i].seconds));
        write_run(ctx, &r, k, &own);
        start(ctx, &again);
        MUST(read_run(&again, k, own.bytes, own.size) == QNET_OK);
        second = keep(&again, k);
        if (after.averaged == 0) memcpy(second.average, after.average, sizeof second.average);
        MUST(memcmp(&second, &after, sizeof after) == 0);
    }
    qnet_buffer_free(ctx, &whole);
    qnet_buffer_free(ctx, &own);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    memory_watch m;
    qnet_context *ctx = fuzz_begin(&m);
    try_run(ctx, 0, bytes, size);
    try_run(ctx, 1, bytes, size);
    fuzz_end(ctx, &m, ((size_t)1 << 21) + 100 * size);
    return 0;
}
