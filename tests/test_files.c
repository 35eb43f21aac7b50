/* Files as they meet other programs, other systems and full disks: sentences on a terminal, temporary names,
   locks, encodings, separators, out of memory and out of space. The sweep over every single file operation
   is in tests/faults/files.c. */
#if defined(__unix__) || defined(__APPLE__)
#define _DEFAULT_SOURCE /* fork, symlink */
#include <unistd.h>
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "gzip.h"
#ifdef QNET__POSIX
#include <signal.h>
#include <sys/wait.h>
#endif

#define FOLDER "build/test-files"

static long fail_alloc; /* requests until one fails; 0: none does */

static void *failing_alloc(void *user, size_t size, size_t align)
{
    (void)user;
    return fail_alloc > 0 && --fail_alloc == 0 ? NULL : qnet__default_alloc(NULL, size, align);
}

static char logged[1024];
static void message(void *user, qnet_log_level level, const char *text)
{
    (void)user;
    (void)level;
    strcpy(logged, text);
}

static qnet_context *make_context(void)
{
    qnet_context *ctx = NULL;
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1;
    hooks.allocator.alloc = failing_alloc;
    hooks.allocator.free = qnet__default_free;
    hooks.log.message = message;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    return ctx;
}

/* 1: the file holds exactly text. */
static int holds(qnet_context *ctx, const char *path, const char *text)
{
    qnet_buffer b;
    int same;
    memset(&b, 0, sizeof b);
    if (qnet_file_read(ctx, path, 0, &b) != QNET_OK) return 0;
    same = b.size == strlen(text) && memcmp(b.bytes, text, b.size) == 0;
    qnet_buffer_free(ctx, &b);
    return same;
}

/* How many names of a folder contain part. */
static int names_with(qnet_context *ctx, const char *folder, const char *part)
{
    qnet_buffer names = { NULL, 0, 0, NULL };
    const char *name = NULL;
    int n = 0;
    CHECK_OK(ctx, qnet_list_folder(ctx, folder, &names));
    while ((name = qnet__list_next(&names, name)) != NULL) n += strstr(name, part) != NULL;
    qnet_buffer_free(ctx, &names);
    return n;
}

/* What comes from a file must not steer the terminal that it is shown on. */
static void test_control_characters(void)
{
    qnet_context *ctx = make_context();
    qnet_volume *v = NULL;
    char text[1024];
    CHECK(qnet_nifti_load(ctx, "no\033]0;owned\007such.nii", &v) != QNET_OK);
    CHECK_CONTAINS(qnet_last_error(ctx), "no\\x1b]0;owned\\x07such.nii");
    qnet__set_error(ctx, "a\tb\nc\177d");
    CHECK(strcmp(qnet_last_error(ctx), "a\\x09b\\x0ac\\x7fd") == 0);
    qnet__set_error(ctx, "Zo\303\253 \316\224\317\207 \344\270\255 \360\237\247\240");
    CHECK(strcmp(qnet_last_error(ctx), "Zo\303\253 \316\224\317\207 \344\270\255 \360\237\247\240") == 0);
    qnet__set_error(ctx, "%s", "C1 \302\233, no UTF-8 \233 \377 \303(, overlong \300\257, surrogate \355\240\200");
    CHECK(strcmp(qnet_last_error(ctx), "C1 \\xc2\\x9b, no UTF-8 \\x9b \\xff \\xc3(, overlong \\xc0\\xaf, surrogate "
                                       "\\xed\\xa0\\x80") == 0);
    qnet__set_error(ctx, "again: %s", qnet_last_error(ctx)); /* what is harmless stays as it is */
    CHECK_CONTAINS(qnet_last_error(ctx), "again: C1 \\xc2\\x9b, no");
    memset(text, 7, sizeof text);
    text[sizeof text - 1] = '\0';
    qnet__set_error(ctx, "%s", text);
    CHECK(strlen(qnet_last_error(ctx)) == 1020 && strncmp(qnet_last_error(ctx), "\\x07\\x07", 8) == 0);
    qnet__log(ctx, QNET_LOG_INFO, "%s", "bell \007 \303\251");
    CHECK(strcmp(logged, "bell \\x07 \303\251") == 0);
    qnet_context_destroy(ctx);
}

/* Names of temporary files that others can guess must not lead to files of others. */
static void test_temporary_names(void)
{
    qnet_context *ctx = make_context();
    char path[300];
    int n;
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/names"));
    CHECK_OK(ctx, qnet_file_replace(ctx, FOLDER "/names/victim", "mine", 4));
    CHECK_OK(ctx, qnet_file_replace(ctx, FOLDER "/names/report", "old", 3));
#ifdef QNET__POSIX
    for (n = 0; n < 3; n++) { /* links with the very names that this process would use */
        snprintf(path, sizeof path, FOLDER "/names/report.%lx-%d.tmp", (unsigned long)getpid(), n);
        if (n == 0) strcpy(path, FOLDER "/names/report.tmp");
        remove(path);
        CHECK(symlink("victim", path) == 0);
    }
#else
    for (n = 0; n < 3; n++) {
        snprintf(path, sizeof path, FOLDER "/names/report.%lx-%d.tmp", (unsigned long)_getpid(), n);
        CHECK_OK(ctx, qnet_file_replace(ctx, path, "theirs", 6));
    }
#endif
    CHECK_OK(ctx, qnet_file_replace(ctx, FOLDER "/names/report", "new", 3));
    CHECK(holds(ctx, FOLDER "/names/victim", "mine"));
    CHECK(holds(ctx, FOLDER "/names/report", "new"));
    CHECK(names_with(ctx, FOLDER "/names", ".tmp") == 3); /* those, and none of ours */
    for (n = 0; n < 3; n++) {
        snprintf(path, sizeof path, FOLDER "/names/report.%lx-%d.tmp", (unsigned long)qnet__process(), n);
        qnet__remove(path);
    }
    remove(FOLDER "/names/report.tmp");
    { /* two at a time: each has a file of its own, the last one stays */
        qnet__file a, b;
        qnet_sink to_a, to_b;
        CHECK_OK(ctx, qnet__file_open_replace(ctx, FOLDER "/names/report", &a, &to_a));
        CHECK_OK(ctx, qnet__file_open_replace(ctx, FOLDER "/names/report", &b, &to_b));
        CHECK_OK(ctx, qnet__write(ctx, &to_a, "aaaa", 4));
        CHECK_OK(ctx, qnet__write(ctx, &to_b, "bb", 2));
        CHECK_OK(ctx, qnet__file_finish(&a, QNET_OK));
        CHECK(holds(ctx, FOLDER "/names/report", "aaaa"));
        CHECK_OK(ctx, qnet__file_finish(&b, QNET_OK));
        CHECK(holds(ctx, FOLDER "/names/report", "bb"));
    }
    CHECK(names_with(ctx, FOLDER "/names", ".tmp") == 0);
    qnet_context_destroy(ctx);
}

/* The lock of a folder. */
static void test_lock(void)
{
    qnet_context *ctx = make_context(), *other = make_context();
    qnet_folder_lock *lock = NULL, *second = NULL;
    char process[40];
    snprintf(process, sizeof process, "process %lu on ", (unsigned long)qnet__process());
    CHECK_OK(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a/b", &lock)); /* makes the folder */
    CHECK_FAILS(other, qnet_folder_lock_take(other, FOLDER "/lock/a/b/", &second), QNET_ERROR_BUSY, process);
    CHECK_CONTAINS(qnet_last_error(other), " since 20");
    CHECK_CONTAINS(qnet_last_error(other), "lock/a/b");
    qnet_folder_lock_release(lock);
    CHECK(qnet__path_kind(FOLDER "/lock/a") == 0 && qnet__path_kind(FOLDER "/lock") == 0); /* made, and left empty */
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/lock/a"));
    CHECK_OK(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a/b", &lock));
    CHECK_OK(ctx, qnet_file_replace(ctx, FOLDER "/lock/a/b/x", "x", 1));
    qnet_folder_lock_release(lock);
    CHECK(qnet_file_exists(FOLDER "/lock/a/b/x") && names_with(ctx, FOLDER "/lock/a/b", "") == 1);
    CHECK_OK(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a", &lock));
    qnet_folder_lock_release(lock);
    CHECK(names_with(ctx, FOLDER "/lock/a", "") == 1); /* b; the lock is gone, and a, that was there, is not */
    /* A file that a dead process left behind is no lock. */
    CHECK_OK(ctx, qnet_file_replace(ctx, FOLDER "/lock/a/b/run.lock", "process 1 on elsewhere since 1999-01-01\n", 40));
    CHECK_OK(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a/b", &lock));
    CHECK_FAILS(other, qnet_folder_lock_take(other, FOLDER "/lock/a/b", &second), QNET_ERROR_BUSY, process);
    CHECK(strstr(qnet_last_error(other), "1999") == NULL);
#ifdef QNET__POSIX
    { /* A forked child that ends does not open the lock of its parent. */
        int status = 0;
        pid_t child = fork();
        if (child == 0) _exit(0);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK_FAILS(other, qnet_folder_lock_take(other, FOLDER "/lock/a/b", &second), QNET_ERROR_BUSY, process);
    }
    qnet_folder_lock_release(lock);
    { /* One that is killed with a lock of its own leaves none. */
        int ready[2], status = 0;
        char byte;
        pid_t child;
        CHECK(pipe(ready) == 0);
        child = fork();
        if (child == 0) {
            if (qnet_folder_lock_take(ctx, FOLDER "/lock/a/b", &lock) == QNET_OK && write(ready[1], "x", 1) == 1)
                for (;;) pause();
            _exit(1);
        }
        close(ready[1]);
        CHECK(read(ready[0], &byte, 1) == 1);
        close(ready[0]);
        snprintf(process, sizeof process, "process %lu on ", (unsigned long)child);
        CHECK_FAILS(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a/b", &lock), QNET_ERROR_BUSY, process);
        kill(child, SIGKILL);
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_OK(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a/b", &lock));
        qnet_folder_lock_release(lock);
        CHECK(names_with(ctx, FOLDER "/lock/a/b", "") == 1);
    }
    /* A link in its place is not followed. */
    CHECK(symlink("x", FOLDER "/lock/a/b/run.lock") == 0);
    CHECK_FAILS(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a/b", &lock), QNET_ERROR_IO, "run.lock");
    CHECK(holds(ctx, FOLDER "/lock/a/b/x", "x"));
    remove(FOLDER "/lock/a/b/run.lock");
#else
    qnet_folder_lock_release(lock);
#endif
    CHECK_FAILS(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a/b/x", &lock), QNET_ERROR_IO, "b/x");
    /* Nor is a file lost that stands where a folder was to be: only folders that were made are removed. */
    CHECK_FAILS(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a/b/x/out", &lock), QNET_ERROR_IO, "x/out");
    CHECK_FAILS(ctx, qnet_folder_lock_take(ctx, FOLDER "/lock/a/b/x/out/deep/", &lock), QNET_ERROR_IO, "x/out/deep");
    CHECK(holds(ctx, FOLDER "/lock/a/b/x", "x"));
    qnet__remove(FOLDER "/lock/a/b/x");
    qnet__remove(FOLDER "/lock/a/b");
    qnet__remove(FOLDER "/lock/a");
    qnet__remove(FOLDER "/lock");
    qnet_context_destroy(ctx);
    qnet_context_destroy(other);
}

/* An output folder in use is not even read from, and a start that fails leaves no folder. */
static void test_experiment_lock(void)
{
    qnet_context *ctx = make_context();
    qnet_experiment_config config;
    qnet_experiment *e = NULL;
    qnet_folder_lock *lock = NULL;
    qnet_scan_files scan;
    qnet_dataset data;
    memset(&scan, 0, sizeof scan);
    memset(&data, 0, sizeof data);
    scan.subject = "sub-01";
    scan.qsm = scan.r2star = scan.t1w = scan.mask = FOLDER "/none";
    data.scans = &scan;
    data.count = 1;
    qnet_experiment_config_init(&config);
    CHECK_OK(ctx, qnet_folder_lock_take(ctx, FOLDER "/run", &lock));
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &config, &data, FOLDER "/run", FOLDER "/none.safetensors", 1,
                                         &e), QNET_ERROR_BUSY, FOLDER "/run");
    qnet_folder_lock_release(lock);
    CHECK_FAILS(ctx, qnet_experiment_run(ctx, &config, &data, FOLDER "/run/deep", NULL, 0, &e),
                QNET_ERROR_NOT_FOUND, FOLDER "/none");
    CHECK(e == NULL && qnet__path_kind(FOLDER "/run") == 0);
    qnet_context_destroy(ctx);
}

/* Out of memory in a sink over memory is that, whatever writes. */
typedef qnet_status (*writer)(qnet_context *ctx, qnet_sink *sink);

static qnet_status write_nifti(qnet_context *ctx, qnet_sink *sink)
{
    qnet_volume *v = NULL;
    qnet_status status = qnet_volume_create(ctx, 20, 20, 3, &v);
    if (status != QNET_OK) return status;
    for (int i = 0; i < 1200; i++) v->voxels[i] = (float)(i * i % 977);
    status = qnet_nifti_write(ctx, sink, v, 0, sink->name == NULL);
    qnet_volume_destroy(v);
    return status;
}

static qnet_status write_png(qnet_context *ctx, qnet_sink *sink)
{
    static const uint8_t pixels[64] = { 1, 2, 3 };
    return qnet_png_write(ctx, sink, 8, 8, 1, pixels);
}

static qnet_status write_safetensors(qnet_context *ctx, qnet_sink *sink)
{
    static const float data[200] = { 1 };
    qnet_safetensor t;
    memset(&t, 0, sizeof t);
    strcpy(t.name, "t");
    t.dtype = QNET_F32;
    t.ndim = 1;
    t.shape[0] = t.count = 200;
    t.bytes = sizeof data;
    t.data = (unsigned char *)(uintptr_t)data;
    return qnet_safetensors_write(ctx, sink, &t, 1, NULL, 0);
}

static qnet_status write_stage2(qnet_context *ctx, qnet_sink *sink)
{
    static const int length[2] = { 2, 1 }, label[2] = { 0, 1 };
    static const qnet_real features[2 * 2 * QNET_FEATURES] = { 1 };
    qnet_stage2_config config;
    qnet_training *run = NULL;
    qnet_status status;
    qnet_stage2_config_init(&config);
    config.steps = 2;
    config.hidden = 4;
    status = qnet_stage2_create(ctx, &config, features, length, label, 2, &run);
    if (status == QNET_OK) status = qnet_training_write(run, sink);
    qnet_training_destroy(run);
    return status;
}

static qnet_status write_gzip(qnet_context *ctx, qnet_sink *sink) /* has a buffer of its own */
{
    unsigned char bytes[3000];
    qnet_buffer packed;
    qnet_status status;
    memset(&packed, 0, sizeof packed);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)((i * i * 7919) >> 5 & 255);
    (void)sink;
    status = gzip_pack(ctx, bytes, sizeof bytes, &packed);
    qnet_buffer_free(ctx, &packed);
    return status;
}

static qnet_status save_png(qnet_context *ctx, qnet_sink *sink)
{
    static const uint8_t pixels[64] = { 1, 2, 3 };
    (void)sink;
    return qnet_png_save(ctx, FOLDER "/a.png", 8, 8, 1, pixels);
}

static void test_memory_sinks(void)
{
    static const struct { const char *name; writer write; } kinds[] = {
        { "nifti", write_nifti }, { NULL, write_nifti }, { "png", write_png }, { "safetensors", write_safetensors },
        { "stage2", write_stage2 }, { "gzip", write_gzip }, { "save", save_png } };
    qnet_context *ctx = make_context();
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER));
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        qnet_status status = QNET_ERROR_MEMORY;
        long n = 0;
        while (status != QNET_OK && n < 300) {
            qnet_buffer buffer;
            qnet_sink sink;
            memset(&buffer, 0, sizeof buffer);
            sink = qnet_sink_buffer(ctx, &buffer, kinds[k].name);
            fail_alloc = ++n;
            status = kinds[k].write(ctx, &sink);
            fail_alloc = 0;
            if (status != QNET_OK) {
                CHECK(status == QNET_ERROR_MEMORY);
                CHECK_CONTAINS(qnet_last_error(ctx), "no memory: ");
            }
            qnet_buffer_free(ctx, &buffer);
        }
        CHECK(status == QNET_OK && n > 1);
    }
    remove(FOLDER "/a.png");
    CHECK(names_with(ctx, FOLDER, "a.png") == 0);
    qnet_context_destroy(ctx);
}

static int full_write(void *user, const void *src, size_t size)
{
    (void)user;
    (void)src;
    (void)size;
    errno = ENOSPC;
    return 1;
}

static int broken_read(void *user, void *dst, size_t size, size_t *got)
{
    (void)dst;
    *got = *(int *)user ? size + 1 : 0; /* more than was asked for: an error too */
    errno = *(int *)user ? 0 : EIO;
    return *(int *)user ? 0 : 1;
}

/* What the system says is in the sentence. */
static void test_reasons(void)
{
    qnet_context *ctx = make_context();
    qnet_sink sink;
    qnet_source source;
    qnet_buffer buffer;
    qnet_volume *v = NULL;
    qnet_safetensors *st = NULL;
    int too_many = 0;
    memset(&buffer, 0, sizeof buffer);
    sink.user = NULL;
    sink.write = full_write;
    sink.name = "full";
    CHECK_FAILS(ctx, write_png(ctx, &sink), QNET_ERROR_IO, strerror(ENOSPC));
    CHECK_FAILS(ctx, write_nifti(ctx, &sink), QNET_ERROR_IO, strerror(ENOSPC));
    CHECK_FAILS(ctx, write_safetensors(ctx, &sink), QNET_ERROR_IO, strerror(ENOSPC));
    CHECK_FAILS(ctx, write_stage2(ctx, &sink), QNET_ERROR_IO, strerror(ENOSPC));
    source.user = &too_many;
    source.read = broken_read;
    source.name = "broken";
    for (too_many = 0; too_many < 2; too_many++) {
        const char *reason = too_many ? "broken: reading" : strerror(EIO);
        CHECK_FAILS(ctx, qnet_nifti_read(ctx, &source, &v), QNET_ERROR_IO, reason);
        CHECK_FAILS(ctx, qnet_safetensors_read(ctx, &source, &st), QNET_ERROR_IO, reason);
        CHECK_FAILS(ctx, qnet__read(ctx, &source, 100, &buffer), QNET_ERROR_IO, reason);
    }
    qnet_buffer_free(ctx, &buffer);
    CHECK(v == NULL && st == NULL);
#ifdef __linux__
    if (qnet__path_kind("/dev/full") == 3) { /* a real disk that is full */
        qnet__file file;
        static char big[100000];
        CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER));
        CHECK_OK(ctx, qnet__file_open_replace(ctx, FOLDER "/x", &file, &sink));
        fclose(file.stream);
        file.stream = fopen("/dev/full", "wb");
        CHECK_FAILS(ctx, qnet__write(ctx, &sink, big, sizeof big), QNET_ERROR_IO, "No space left");
        qnet__file_finish(&file, QNET_ERROR_IO);
        /* a device stays one, also for root */
        CHECK_FAILS(ctx, qnet_file_replace(ctx, "/dev/full", "x", 1), QNET_ERROR_IO, "it is a device");
        CHECK(qnet__path_kind("/dev/full") == 3 && qnet_file_exists("/dev/full"));
    }
#endif
    qnet_context_destroy(ctx);
}

/* Folders and files with names of another script, and what separates their parts. */
static void test_paths(void)
{
    qnet_context *ctx = make_context();
    const char *folder = FOLDER "/paths/d\303\251j\303\240 \344\270\255";
    const char *path = FOLDER "/paths/d\303\251j\303\240 \344\270\255/Zo\303\253.txt";
    qnet_buffer names = { NULL, 0, 0, NULL };
    char text[300];
    snprintf(text, sizeof text, "%s/", folder);
    CHECK_OK(ctx, qnet_make_folder(ctx, text));
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/paths//more//"));
    CHECK(qnet__path_kind(folder) == 2 && qnet__path_kind(text) == 2);
    CHECK(qnet__path_kind(FOLDER "/paths/more") == 2);
    CHECK_OK(ctx, qnet_file_replace(ctx, path, "one", 3));
    CHECK_OK(ctx, qnet_file_replace(ctx, path, "two", 3)); /* over the first */
    CHECK(qnet_file_exists(path) && holds(ctx, path, "two"));
    CHECK_OK(ctx, qnet_list_folder(ctx, text, &names));
    CHECK(names.size == 9 && strcmp((const char *)names.bytes, "Zo\303\253.txt") == 0);
    qnet_buffer_free(ctx, &names);
#ifdef QNET__WINDOWS
    { /* the system sees the same names */
        FILE *f = _wfopen(L"build/test-files/paths/d\u00e9j\u00e0 \u4e2d/Zo\u00eb.txt", L"rb");
        CHECK(f != NULL);
        if (f) {
            CHECK_FAILS(ctx, qnet_file_replace(ctx, path, "three", 5), QNET_ERROR_IO, "Permission denied");
            fclose(f);
            CHECK(holds(ctx, path, "two") && names_with(ctx, folder, "") == 1);
        }
    }
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "\\paths\\back\\slash\\"));
    CHECK(qnet__path_kind(FOLDER "/paths/back/slash") == 2);
    CHECK(qnet__path_kind("C:\\") == 2 && qnet__path_kind("C:/") == 2);
    qnet__remove(FOLDER "/paths/back/slash");
    qnet__remove(FOLDER "/paths/back");
    CHECK_FAILS(ctx, qnet_file_replace(ctx, FOLDER "/paths/\377", "x", 1), QNET_ERROR_IO, "\\xff");
#else
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/paths/back\\slash")); /* a name like any other */
    CHECK(qnet__path_kind(FOLDER "/paths/back\\slash") == 2 && qnet__path_kind(FOLDER "/paths/back") == 0);
    qnet__remove(FOLDER "/paths/back\\slash");
#endif
    CHECK_FAILS(ctx, qnet_file_replace(ctx, FOLDER "/paths/more", "x", 1), QNET_ERROR_IO, "paths/more");
    CHECK(names_with(ctx, FOLDER "/paths", ".tmp") == 0);
    qnet__remove(path);
    qnet__remove(folder);
    qnet__remove(FOLDER "/paths/more");
    qnet__remove(FOLDER "/paths");
    CHECK(qnet__path_kind(FOLDER "/paths") == 0);
    qnet_context_destroy(ctx);
}

static void test_clock(void)
{
    qnet_context *ctx = make_context();
    const double begin = qnet__seconds(ctx);
    double now = begin;
    long n;
    for (n = 0; n < 100000000 && now == begin; n++) now = qnet__seconds(ctx);
    CHECK(now > begin && now - begin < 0.5);
    qnet_context_destroy(ctx);
}

int main(void)
{
    RUN(test_control_characters);
    RUN(test_temporary_names);
    RUN(test_lock);
    RUN(test_experiment_lock);
    RUN(test_memory_sinks);
    RUN(test_reasons);
    RUN(test_paths);
    RUN(test_clock);
    return test_end();
}
