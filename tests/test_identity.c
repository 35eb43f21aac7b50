/* The promise of determinism: the same bits for any number of threads, any parallel hook, any order
   of the tasks, and after any stop. Both stages are trained again and again, each time in a process
   of its own: with OpenMP, with the pool of examples/own_threads.c, with tasks in reverse, and with
   processes that are killed in every epoch and each followed by one that has other threads and goes
   on from the checkpoint. All weights, statistics and optimiser states must agree bit for bit. */
#define main own_threads_main /* for its pool */
#include "own_threads.c"
#undef main
#include "test.h"
#include "quick.h"

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* 41 x 41 pixels in batches of 6 and 5: odd sizes, and large enough that batch norms, sums and Adam
   cut their work into more than one task (KINDS counts the functions that do). */
enum { SCANS = 5, PIXELS = 44, INPUT = 41, IMAGES = 12, SLICES = 4, EPOCHS1 = 3, EPOCHS2 = 3 };
static const int slices[SCANS] = {2, 3, 1, 4, 2};
static const int train_scans[4] = {0, 1, 3, 4}, all_scans[SCANS] = {0, 1, 2, 3, 4};

/* ---- what a process tells: hashes by moment ---------------------------------------------------- */

enum {
    EPOCH1,                         /* weights, statistics, Adam's moments after each epoch of stage 1 */
    AVERAGE = EPOCH1 + EPOCHS1,     /* SWA's average */
    FINISHED,                       /* its weights and re-estimated statistics */
    FEATURES,                       /* and probabilities of all slices */
    EPOCH2,                         /* stage 2 */
    PREDICTION = EPOCH2 + EPOCHS2,
    KINDS,                          /* different functions that came as tasks */
    MOMENTS
};
static const char *const moment_name[KINDS] = {
    "stage 1, epoch 1", "stage 1, epoch 2", "stage 1, epoch 3", "SWA average", "SWA finished",
    "features", "stage 2, epoch 1", "stage 2, epoch 2", "stage 2, epoch 3", "predictions"};
typedef struct message { int moment; uint64_t value; } message;
static int report_to; /* the pipe */

static void tell(int moment, uint64_t value)
{
    message m;
    memset(&m, 0, sizeof m);
    m.moment = moment;
    m.value = value;
    if (write(report_to, &m, sizeof m) != (ssize_t)sizeof m) _exit(3);
}

static uint64_t mix(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)data;
    size_t i;
    for (i = 0; i + 4 <= bytes; i += 4) {
        uint32_t w;
        memcpy(&w, p + i, 4);
        h = (h ^ w) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    return h;
}

/* ---- how a process runs, and when it dies ------------------------------------------------------ */

enum { OPENMP, POOL, REVERSE };
static const char *const way_name[3] = {"OpenMP", "pool", "reverse"};
typedef struct way {
    int kind;
    size_t workers;
    const char *checkpoint; /* NULL: in one go */
    const char *task;       /* killed in this task, epoch and step; NULL: not */
    int epoch;
    size_t step;
    int full_disk; /* killed while the checkpoint of that epoch is being written */
} way;

static qnet_task kind[64];
static size_t kinds;

/* Tasks from the last to the first, each as another worker than its neighbour. */
static void run_reverse(void *user, size_t count, qnet_task task, void *arg)
{
    const way *w = (const way *)user;
    size_t i;
    for (i = 0; i < kinds && kind[i] != task; i++) continue;
    if (count > 1 && i == kinds && kinds < 64) kind[kinds++] = task;
    for (i = count; i > 0; i--) task(arg, i - 1, i % w->workers);
}

static int die_in_time(void *user, const qnet_progress_info *info)
{
    const way *w = (const way *)user;
    if (w->task && strcmp(info->task, w->task) == 0 && info->epoch == w->epoch &&
        info->step == w->step)
        raise(SIGKILL);
    return 0;
}

/* A file may grow to 1 MB: the checkpoint of 180 MB is cut off and SIGXFSZ ends the process. */
static void fill_disk(const way *w, const char *task, int epoch)
{
    struct rlimit limit;
    if (!w->full_disk || !w->task || strcmp(w->task, task) != 0 || w->epoch != epoch) return;
    limit.rlim_cur = limit.rlim_max = 1 << 20;
    setrlimit(RLIMIT_FSIZE, &limit);
}

static qnet_context *make_context(const way *w, pool *p)
{
    qnet_context *ctx = NULL;
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.progress.user = (void *)(uintptr_t)w;
    if (!w->full_disk) hooks.progress.report = die_in_time;
    if (w->kind == OPENMP) hooks.threads = (int)w->workers;
    if (w->kind == POOL) {
        pthread_mutex_init(&p->lock, NULL);
        pthread_cond_init(&p->work, NULL);
        pthread_cond_init(&p->done, NULL);
        while (p->workers + 1 < w->workers) {
            if (pthread_create(&p->thread[p->workers++], NULL, thread_main, p) != 0) _exit(4);
        }
        hooks.parallel.user = p;
        hooks.parallel.run = run;
        hooks.parallel.workers = w->workers;
    }
    if (w->kind == REVERSE) {
        hooks.parallel.user = (void *)(uintptr_t)w;
        hooks.parallel.run = run_reverse;
        hooks.parallel.workers = w->workers;
    }
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) _exit(5);
    return ctx;
}

/* ---- the work of a process --------------------------------------------------------------------- */

static qnet_real *start_weights; /* drawn once by the parent */
static qnet_scan scans[SCANS];
static float pixels[IMAGES][PIXELS][PIXELS][3];

static void make_cohort(qnet_cohort *c)
{
    int i, t, y, x, n = 0;
    memset(c, 0, sizeof *c);
    qnet_input_config_init(&c->config, QNET_INPUT_CROP);
    c->config.size = INPUT;
    c->config.max_slices = SLICES;
    c->scans_count = SCANS;
    c->height = c->width = PIXELS;
    c->scans = scans;
    for (i = 0; i < SCANS; i++) {
        qnet_scan *s = &scans[i];
        snprintf(s->subject, sizeof s->subject, "sub-%02d", i);
        s->label = i % 2 ? QNET_HH : QNET_HC;
        s->slices = slices[i];
        s->pixels = &pixels[n][0][0][0];
        for (t = 0; t < slices[i]; t++, n++)
            for (y = 0; y < PIXELS; y++)
                for (x = 0; x < PIXELS; x++) {
                    float v = (float)sin((s->label ? x : y) * .8) + .3f * (float)sin(x * y * .1 + n * 7);
                    pixels[n][y][x][0] = v * .1f + .01f;
                    pixels[n][y][x][1] = 20 + 5 * v;
                    pixels[n][y][x][2] = 100 + 30 * v + (float)n;
                }
        s->hash = qnet_hash(QNET_HASH_START, s->pixels, sizeof pixels[0] * (size_t)slices[i]);
    }
}

static void must(qnet_context *ctx, qnet_status status, const char *what)
{
    if (status == QNET_OK) return;
    fprintf(stderr, "    %s: %s\n", what, qnet_last_error(ctx));
    _exit(6);
}
#define MUST(call) must(ctx, call, #call)

static uint64_t hash1(const qnet_training *s, int with_average)
{
    const qnet_param_table *t = s->net->table;
    uint64_t h = mix(1, s->net->weights, t->total * sizeof(qnet_real));
    h = mix(h, s->state->m, t->trainable * sizeof(qnet_real));
    h = mix(h, s->state->v, t->trainable * sizeof(qnet_real));
    h = mix(h, &s->history[s->epoch - 1].loss, sizeof(double));
    return with_average ? mix(1, s->state->average, t->trainable * sizeof(qnet_real)) : h;
}

static uint64_t hash2(const qnet_training *s)
{
    const qnet_param_table *t = s->model->table;
    uint64_t h = mix(1, s->model->weights, t->total * sizeof(qnet_real));
    h = mix(h, s->state->m, t->trainable * sizeof(qnet_real));
    h = mix(h, s->state->v, t->trainable * sizeof(qnet_real));
    return mix(h, &s->history[s->epoch - 1].loss, sizeof(double));
}

/* Both stages from whatever the checkpoints hold. */
static void work(const way *w)
{
    static pool p; /* all zero; ends with the process */
    static qnet_cohort cohort;
    static qnet_real features[SCANS * SLICES * QNET_FEATURES];
    static double probability[SCANS * SLICES], image[SCANS * SLICES], scan[SCANS];
    qnet_context *ctx = make_context(w, &p);
    qnet_stage1_config config1;
    qnet_stage2_config config2;
    qnet_training *s1 = NULL;
    qnet_training *s2 = NULL;
    char path[2][300];
    int label[SCANS], i;
    for (i = 0; i < 2 && w->checkpoint; i++) sprintf(path[i], "%.250s.stage%d", w->checkpoint, i + 1);
    make_cohort(&cohort);
    qnet_stage1_config_init(&config1);
    config1.epochs = EPOCHS1;
    config1.batch = 6;
    config1.swa = 1;
    config1.swa_share = .67; /* the last two epochs */
    config1.size = INPUT;
    config1.seed = 5;
    MUST(qnet_stage1_create(ctx, &config1, &cohort, train_scans, 4, start_weights, &s1));
    if (w->checkpoint && qnet_file_exists(path[0])) MUST(qnet_training_load(s1, path[0]));
    while (s1->epoch < EPOCHS1) {
        MUST(qnet_training_epoch(s1));
        tell(EPOCH1 + s1->epoch - 1, hash1(s1, 0));
        fill_disk(w, "stage 1 SWA", s1->epoch);
        if (w->checkpoint) MUST(qnet_training_save(s1, path[0]));
    }
    if (!s1->finished) {
        tell(AVERAGE, hash1(s1, 1));
        MUST(qnet_training_finish(s1));
        tell(FINISHED, hash1(s1, 0));
        if (w->checkpoint) MUST(qnet_training_save(s1, path[0]));
    }
    MUST(qnet_embed(s1->net, &config1.augment, &cohort, all_scans, SCANS, features, probability));
    tell(FEATURES, mix(mix(1, features, sizeof features), probability, sizeof probability));
    qnet_stage2_config_init(&config2);
    config2.epochs = EPOCHS2;
    config2.batch = 2;
    config2.hidden = 40;
    config2.steps = SLICES;
    config2.seed = 11;
    for (i = 0; i < SCANS; i++) label[i] = (int)scans[i].label;
    MUST(qnet_stage2_create(ctx, &config2, features, slices, label, SCANS, &s2));
    if (w->checkpoint && qnet_file_exists(path[1])) MUST(qnet_training_load(s2, path[1]));
    while (s2->epoch < EPOCHS2) {
        MUST(qnet_training_epoch(s2));
        tell(EPOCH2 + s2->epoch - 1, hash2(s2));
        fill_disk(w, "stage 2", s2->epoch);
        if (w->checkpoint) MUST(qnet_training_save(s2, path[1]));
    }
    MUST(qnet_scan_model_predict(s2->model, features, slices, SCANS, image, scan));
    tell(PREDICTION, mix(mix(1, image, sizeof image), scan, sizeof scan));
    tell(KINDS, kinds);
}

/* ---- the parent, which has no threads and does none of the work --------------------------------- */

/* Runs a process to its end or death and gathers what it told. 1: it ended well. 0: it was killed,
   -1: anything else. */
static int process(const way *w, uint64_t heard[MOMENTS])
{
    int ends[2], status = 0;
    message m;
    pid_t child;
    if (pipe(ends) != 0) return -1;
    fflush(stdout);
    child = fork();
    if (child < 0) return -1;
    if (child == 0) {
        close(ends[0]);
        report_to = ends[1];
        work(w);
        _exit(0);
    }
    close(ends[1]);
    while (read(ends[0], &m, sizeof m) == (ssize_t)sizeof m)
        if (m.moment >= 0 && m.moment < MOMENTS) heard[m.moment] = m.value;
    close(ends[0]);
    if (waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 1 : WIFSIGNALED(status) ? 0 : -1;
}

static uint64_t expected[MOMENTS]; /* of one thread, in one go */

static void compare(const way *w, const char *how, const uint64_t heard[MOMENTS])
{
    int i;
    for (i = 0; i < KINDS; i++)
        if (!CHECK(heard[i] == expected[i] && heard[i] != 0))
            printf("    %s, %lu workers%s: %s differs\n", way_name[w->kind],
                   (unsigned long)w->workers, how, moment_name[i]);
}

static void test_threads_and_orders(void)
{
    static const way ways[] = {
        {OPENMP, 2, NULL, NULL, 0, 0, 0}, {OPENMP, 3, NULL, NULL, 0, 0, 0},
        {OPENMP, 8, NULL, NULL, 0, 0, 0}, {POOL, 2, NULL, NULL, 0, 0, 0},
        {POOL, 8, NULL, NULL, 0, 0, 0},   {REVERSE, 3, NULL, NULL, 0, 0, 0}};
    static const way first = {OPENMP, 1, NULL, NULL, 0, 0, 0};
    size_t i;
    int k, m;
    CHECK(process(&first, expected) == 1);
    for (k = 0; k < KINDS; k++) /* moments differ from each other: the hashes see something */
        for (m = 0; m < k; m++) CHECK(expected[k] != 0 && expected[k] != expected[m]);
    for (i = 0; i < sizeof ways / sizeof *ways; i++) {
        uint64_t heard[MOMENTS];
        memset(heard, 0, sizeof heard);
        CHECK(process(&ways[i], heard) == 1);
        compare(&ways[i], "", heard);
        /* If nothing were split, all of the above would say nothing. */
        if (ways[i].kind == REVERSE) {
            printf("    %lu kinds of tasks\n", (unsigned long)heard[KINDS]);
            CHECK(heard[KINDS] >= (TEST_BLAS ? 10 : 15));
        }
    }
}

/* Removes build/test_identity.*.tmp and says how many there were. */
static int remove_temporaries(void)
{
    qnet_context *ctx = NULL;
    qnet_buffer names = { NULL, 0, 0, NULL };
    const char *name = NULL;
    char path[300];
    int n = 0;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return -1;
    CHECK_OK(ctx, qnet_list_folder(ctx, "build", &names));
    while ((name = qnet__list_next(&names, name)) != NULL) {
        if (strncmp(name, "test_identity.", 14) != 0 || !strstr(name, ".tmp")) continue;
        snprintf(path, sizeof path, "build/%s", name);
        n += remove(path) == 0;
    }
    qnet_buffer_free(ctx, &names);
    qnet_context_destroy(ctx);
    return n;
}

/* One run by many hands: each process is killed where it says, at another number of threads than
   the one before, and the last one ends it. */
static void test_killed_and_resumed(void)
{
    static const char *const path = "build/test_identity";
    static const way ways[] = {
        {OPENMP, 2, path, "stage 1 SWA", 1, 2, 0}, {POOL, 3, path, "stage 1 SWA", 2, 1, 0},
        {REVERSE, 8, path, "stage 1 SWA", 2, 0, 1}, /* while it writes */
        {OPENMP, 3, path, "stage 1 SWA", 3, 2, 0}, {POOL, 2, path, "batch-norm statistics", 0, 2, 0},
        {REVERSE, 1, path, "stage 2", 1, 3, 0}, {OPENMP, 8, path, "stage 2", 2, 1, 0},
        {POOL, 8, path, "stage 2", 3, 2, 0}};
    static const way last = {OPENMP, 1, path, NULL, 0, 0, 0};
    uint64_t heard[MOMENTS];
    size_t i;
    remove("build/test_identity.stage1");
    remove("build/test_identity.stage2");
    (void)remove_temporaries();
    memset(heard, 0, sizeof heard);
    for (i = 0; i < sizeof ways / sizeof *ways; i++)
        if (!CHECK(process(&ways[i], heard) == 0))
            printf("    %s, epoch %d was to be killed\n", ways[i].task, ways[i].epoch);
    CHECK(heard[PREDICTION] == 0);
    CHECK(process(&last, heard) == 1);
    compare(&last, ", killed and resumed", heard);
    remove("build/test_identity.stage1");
    CHECK(remove_temporaries() == 1); /* of the process that died while it wrote */
    remove("build/test_identity.stage2");
}

static int draw_start_weights(void)
{
    qnet_context *ctx = NULL;
    qnet_hooks hooks;
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    size_t bytes;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1; /* a process that has had OpenMP's threads must not fork */
    qnet_resnet_config_init(&config);
    config.height = config.width = 32;
    config.batch = 1;
    config.training = 0;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK || qnet_make_folder(ctx, "build") != QNET_OK ||
        qnet_resnet_create(ctx, &config, &net) != QNET_OK)
        return 0;
    quick_weights(net);
    bytes = net->table->total * sizeof(qnet_real);
    start_weights = (qnet_real *)malloc(bytes);
    if (start_weights) memcpy(start_weights, net->weights, bytes);
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
    return start_weights != NULL;
}

int main(void)
{
    (void)own_threads_main;
    if (!CHECK(draw_start_weights())) return test_end();
    RUN(test_threads_and_orders);
    RUN(test_killed_and_resumed);
    free(start_weights);
    return test_end();
}
#else
int main(void)
{
    (void)own_threads_main;
    printf("this test needs fork\n");
    return test_end();
}
#endif
