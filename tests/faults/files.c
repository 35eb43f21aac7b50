/* Every file operation fails, and every one is the last before a kill: of each function that touches files, and
   of a whole run on a tiny cohort. Without arguments the run is swept where it ends, and there not at every
   point, and draws no heat maps; "all" visits every operation of all, "every N" each Nth.

   Operations are caught at the linker (-Wl,--wrap=fopen ...), so the header is compiled as it is. One run of the
   experiment visits all points: before each operation the process forks, and the child meets the failure there in
   a copy of the output folder, made of links. A kill needs no process: what it leaves is the folder as it is. A
   folder is resumed once for each state that it can be in. */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#define QNET_IMPLEMENTATION
#include "qnet.h"
#define CAM_SCANS 1
#include "crossval/report.h"
#include "../test.h"
#include "../folder.h"

/* ---- Operations that can fail ------------------------------------------------------------------------------- */

static int (*visit)(const char *kind, const char *path); /* non-zero: the operation fails */
static FILE *broken; /* a stream whose read failed */
#define STREAMS 8
static struct { FILE *stream; char path[600], mode[8]; } streams[STREAMS];
static struct { int file; char path[600]; } lock_file;
static int published; /* a result has come to where results are */
static int finishing; /* the last fold is done: what is resumed now trains nothing */

static const char *path_of(FILE *stream)
{
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].stream == stream) return streams[i].path;
    return "";
}

static int fault(const char *kind, const char *path, int code)
{
    const int before = errno, fails = visit && visit(kind, path);
    errno = fails ? code : before;
    return fails;
}

/* Lines as WRAP(int, close, (int file)) declare the real function and begin the one in its place. */
#define WRAP(result, name, parameters) \
    result __real_##name parameters; \
    result __wrap_##name parameters; \
    result __wrap_##name parameters

WRAP(FILE *, fopen, (const char *path, const char *mode))
{
    FILE *stream;
    if (fault("fopen", path, EIO)) return NULL;
    stream = __real_fopen(path, mode);
    for (int i = 0; stream && i < STREAMS; i++) {
        if (streams[i].stream) continue;
        streams[i].stream = stream;
        snprintf(streams[i].path, sizeof streams[i].path, "%s", path);
        snprintf(streams[i].mode, sizeof streams[i].mode, "%s", mode);
        break;
    }
    return stream;
}

WRAP(int, fclose, (FILE *stream))
{
    const int fails = fault("fclose", path_of(stream), EIO);
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].stream == stream) streams[i].stream = NULL;
    if (broken == stream) broken = NULL;
    return __real_fclose(stream) != 0 || fails ? (errno = EIO, EOF) : 0;
}

WRAP(size_t, fread, (void *to, size_t size, size_t n, FILE *stream))
{
    if (!fault("fread", path_of(stream), EIO)) return __real_fread(to, size, n, stream);
    broken = stream;
    return 0;
}

WRAP(int, ferror, (FILE *stream))
{
    return stream == broken || __real_ferror(stream);
}

WRAP(void, rewind, (FILE *stream))
{
    if (stream == broken) broken = NULL;
    __real_rewind(stream);
}

WRAP(size_t, fwrite, (const void *from, size_t size, size_t n, FILE *stream))
{
    if (!fault("fwrite", path_of(stream), ENOSPC)) return __real_fwrite(from, size, n, stream);
    n = __real_fwrite(from, size, n / 2, stream); /* as much as there was room for */
    errno = ENOSPC;
    return n;
}

WRAP(int, fseek, (FILE *stream, long at, int from))
{
    return fault("fseek", path_of(stream), EIO) ? -1 : __real_fseek(stream, at, from);
}

WRAP(long, ftell, (FILE *stream))
{
    return fault("ftell", path_of(stream), EIO) ? -1 : __real_ftell(stream);
}

WRAP(int, open, (const char *path, int flags, mode_t mode))
{
    int file;
    if (fault("open", path, EIO)) return -1;
    file = __real_open(path, flags, mode);
    if (strstr(path, "run.lock")) {
        lock_file.file = file;
        snprintf(lock_file.path, sizeof lock_file.path, "%s", path);
    }
    return file;
}

WRAP(int, close, (int file))
{
    const int fails = fault("close", "", EIO);
    if (lock_file.file == file) lock_file.file = -1;
    return __real_close(file) != 0 || fails ? (errno = EIO, -1) : 0;
}

WRAP(ssize_t, read, (int file, void *to, size_t n))
{
    return fault("read", "", EIO) ? -1 : __real_read(file, to, n);
}

WRAP(ssize_t, write, (int file, const void *from, size_t n))
{
    return fault("write", "", ENOSPC) ? -1 : __real_write(file, from, n);
}

WRAP(int, flock, (int file, int what))
{
    return fault("flock", "", EIO) ? -1 : __real_flock(file, what);
}

WRAP(int, fsync, (int file))
{
    (void)file; /* not for real: the sweep writes hundreds of gigabytes, most of which no disk needs to see */
    return fault("fsync", "", EIO) ? -1 : 0;
}

WRAP(int, fstat, (int file, struct stat *info))
{
    return fault("fstat", "", EIO) ? -1 : __real_fstat(file, info);
}

WRAP(int, stat, (const char *path, struct stat *info))
{
    return fault("stat", path, EIO) ? -1 : __real_stat(path, info);
}

WRAP(int, mkdir, (const char *path, mode_t mode))
{
    return fault("mkdir", path, EIO) ? -1 : __real_mkdir(path, mode);
}

WRAP(DIR *, opendir, (const char *path))
{
    return fault("opendir", path, EIO) ? NULL : __real_opendir(path);
}

WRAP(struct dirent *, readdir, (DIR *folder))
{
    return fault("readdir", "", EIO) ? NULL : __real_readdir(folder);
}

WRAP(int, closedir, (DIR *folder))
{
    const int fails = fault("closedir", "", EIO);
    return __real_closedir(folder) != 0 || fails ? -1 : 0;
}

WRAP(int, remove, (const char *path))
{
    return fault("remove", path, EIO) ? -1 : __real_remove(path);
}

WRAP(int, rename, (const char *from, const char *to))
{
    if (fault("rename", to, EIO)) return -1;
    finishing |= strstr(to, "fold02-result.safetensors") != NULL;
    published |= strstr(from, "checkpoint/") != NULL && strstr(to, "checkpoint/") == NULL;
    return __real_rename(from, to);
}

/* ---- Folders -------------------------------------------------------------------------------------------------- */

#define FOLDER "build/test-faults-files"

typedef struct tree {
    uint64_t contents, state; /* of names and bytes; of names and which file each is */
    int files, temporaries;
} tree;

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t file_contents(const char *path)
{
    static struct { ino_t file; off_t size; long second, fraction; uint64_t contents; } known_files[512];
    static unsigned char chunk[1 << 18];
    struct stat info;
    uint64_t h = 1, word;
    size_t n, slot;
    FILE *f = __real_fopen(path, "rb");
    if (!f) return 0;
    if (__real_stat(path, &info) != 0) memset(&info, 0, sizeof info);
    slot = (size_t)info.st_ino % 512;
    if (known_files[slot].file == info.st_ino && known_files[slot].size == info.st_size &&
        known_files[slot].second == (long)info.st_mtim.tv_sec && known_files[slot].fraction == info.st_mtim.tv_nsec) {
        __real_fclose(f);
        return known_files[slot].contents;
    }
    while ((n = __real_fread(chunk, 1, sizeof chunk, f)) > 0) {
        memset(chunk + n, 0, n % 8 ? 8 - n % 8 : 0);
        for (size_t i = 0; i < n; i += 8) {
            memcpy(&word, chunk + i, 8);
            h = mix(h, word);
        }
        h = mix(h, n);
    }
    __real_fclose(f);
    if (info.st_size < 1 << 20) return h; /* only what takes time is worth remembering */
    known_files[slot].file = info.st_ino;
    known_files[slot].size = info.st_size;
    known_files[slot].second = (long)info.st_mtim.tv_sec;
    known_files[slot].fraction = info.st_mtim.tv_nsec;
    known_files[slot].contents = h;
    return h;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int being_written(const char *path)
{
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].stream && streams[i].mode[0] == 'w' && strcmp(streams[i].path, path) == 0) return 1;
    return 0;
}

typedef enum walk_kind { LOOK, LOOK_INSIDE, REMOVE, LINK } walk_kind;

/* What a folder holds; or removes it; or makes a copy of it at `to`: of links where files are never changed any
   more, and of as many zeros where a file is being written. */
static void walk(const char *path, walk_kind what, const char *to, tree *t)
{
    char *names[300], from[600], target[600];
    struct dirent *entry;
    int n = 0;
    DIR *folder = __real_opendir(path);
    if (!folder) return;
    if (what == LINK) __real_mkdir(to, 0777);
    while ((entry = __real_readdir(folder)) != NULL && n < 300)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) names[n++] = strdup(entry->d_name);
    __real_closedir(folder);
    qsort(names, (size_t)n, sizeof *names, compare_entries);
    for (int i = 0; i < n; i++) {
        const int temporary = strstr(names[i], ".tmp") != NULL, lock = strcmp(names[i], "run.lock") == 0;
        struct stat info;
        snprintf(from, sizeof from, "%s/%s", path, names[i]);
        if (what == LINK) snprintf(target, sizeof target, "%s/%s", to, names[i]);
        if (__real_stat(from, &info) != 0) memset(&info, 0, sizeof info);
        if (S_ISDIR(info.st_mode)) {
            walk(from, what, target, t);
        } else if (what == REMOVE) {
            __real_remove(from);
        } else if (what == LINK && (lock || being_written(from))) {
            int file = __real_open(target, O_WRONLY | O_CREAT, 0666);
            CHECK(file >= 0 && ftruncate(file, info.st_size) == 0);
            __real_close(file);
        } else if (what == LINK) {
            CHECK(link(from, target) == 0);
        } else if (t) {
            t->files++;
            t->temporaries += temporary;
            if (what == LOOK_INSIDE) t->contents = mix(t->contents, file_contents(from));
            if (!lock) t->state = mix(t->state, temporary ? 1 : (uint64_t)info.st_ino);
        }
        if (t) {
            t->contents = qnet_hash(t->contents, from, strlen(from));
            if (!lock) t->state = qnet_hash(t->state, from, strcspn(from, temporary ? "." : ""));
        }
        free(names[i]);
    }
    if (what == REMOVE) __real_remove(path);
}

static tree look(const char *path, walk_kind what)
{
    tree t;
    memset(&t, 0, sizeof t);
    walk(path, what, NULL, &t);
    return t;
}

static void write_text(const char *path, const char *text)
{
    FILE *f = __real_fopen(path, "wb");
    if (CHECK(f != NULL)) {
        CHECK(__real_fwrite(text, 1, strlen(text), f) == strlen(text));
        __real_fclose(f);
    }
}

/* ---- Functions one by one ------------------------------------------------------------------------------------- */

static long at, operations; /* the operation to fail, and how many there have been */
static int kill_there, failed_stat;

static int visit_one(const char *kind, const char *path)
{
    (void)path;
    if (++operations != at) return 0;
    failed_stat = strcmp(kind, "stat") == 0;
    if (kill_there) _exit(99);
    return 1;
}

typedef struct fixture {
    qnet_context *ctx;
    qnet_volume *volume;
    qnet_training *stage2;
    qnet_input_config input;
    void *out; /* what a loader gives */
    qnet_buffer buffer;
} fixture;

static const uint8_t pixels[64] = { 9, 7, 5, 3 };

static qnet_status do_replace(fixture *f) { return qnet_file_replace(f->ctx, FOLDER "/one/file", "new", 3); }
static qnet_status do_png(fixture *f) { return qnet_png_save(f->ctx, FOLDER "/one/file", 8, 8, 1, pixels); }
static qnet_status do_nifti(fixture *f) { return qnet_nifti_save(f->ctx, FOLDER "/one/file", f->volume, 0); }
static qnet_status do_nifti_gz(fixture *f) { return qnet_nifti_save(f->ctx, FOLDER "/one/file.gz", f->volume, 0); }
static qnet_status do_stage2(fixture *f) { return qnet_training_save(f->stage2, FOLDER "/one/file"); }
static qnet_status do_weights(fixture *f)
{
    return qnet_weights_save(f->ctx, FOLDER "/one/file", f->stage2->model->table, f->stage2->model->weights, NULL, 0);
}
static qnet_status do_folder(fixture *f) { return qnet_make_folder(f->ctx, FOLDER "/one/made/twice"); }
static qnet_status do_read(fixture *f) { return qnet_file_read(f->ctx, FOLDER "/one/in", 0, &f->buffer); }
static qnet_status do_load(fixture *f)
{
    return qnet_nifti_load(f->ctx, FOLDER "/one/in.nii.gz", (qnet_volume **)(void *)&f->out);
}
static qnet_status do_load_plain(fixture *f)
{
    return qnet_nifti_load(f->ctx, FOLDER "/one/in.nii", (qnet_volume **)(void *)&f->out);
}
static qnet_status do_tensors(fixture *f)
{
    return qnet_safetensors_load(f->ctx, FOLDER "/one/in.safetensors", (qnet_safetensors **)(void *)&f->out);
}
static qnet_status do_resume2(fixture *f) { return qnet_training_load(f->stage2, FOLDER "/one/in.checkpoint"); }
static qnet_status do_cohort(fixture *f)
{
    const qnet_log none = {NULL, NULL};
    return load_folder(f->ctx, &f->input, FOLDER "/data", NULL, none, (qnet_cohort **)(void *)&f->out);
}

typedef struct function {
    const char *name;
    qnet_status (*run)(fixture *f);
    const char *file; /* that it writes, or NULL */
} function;
static const function functions[] = {
    { "qnet_file_replace", do_replace, "file" }, { "qnet_png_save", do_png, "file" },
    { "qnet_nifti_save", do_nifti, "file" }, { "qnet_nifti_save gz", do_nifti_gz, "file.gz" },
    { "qnet_training_save", do_stage2, "file" }, { "qnet_weights_save", do_weights, "file" },
    { "qnet_make_folder", do_folder, NULL }, { "qnet_file_read", do_read, NULL }, { "qnet_nifti_load gz", do_load, NULL },
    { "qnet_nifti_load", do_load_plain, NULL }, { "qnet_safetensors_load", do_tensors, NULL },
    { "qnet_training_load", do_resume2, NULL }, { "qnet_cohort_load", do_cohort, NULL } };

/* A disc with two bright nuclei; those of HH are brighter. kind: 0 QSM, 1 R2*, 2 T1W, 3 mask. */
static void write_map(qnet_context *ctx, const char *path, int subject, int kind)
{
    qnet_volume *v = NULL;
    qnet_rng rng = qnet_rng_at(5, QNET_RANDOM_USER, (uint32_t)kind, (uint64_t)subject);
    CHECK_OK(ctx, qnet_volume_create(ctx, 40, 44, 4, &v));
    v->spacing[0] = v->spacing[1] = 3;
    v->spacing[2] = 2;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) v->affine[i][j] = i == j ? v->spacing[i] : j == 3 ? -50 : 0;
    for (int z = 0; z < 4; z++)
        for (int y = 0; y < 44; y++)
            for (int x = 0; x < 40; x++) {
                const double dx = (x - 19.5) / 17, dy = (y - 21.5) / 20;
                const double nucleus = pow((fabs(x - 19.5) - 6) / 3, 2) + pow((y - 22) / 5.0, 2);
                float *voxel = &v->voxels[(z * 44 + y) * 40 + x];
                *voxel = 0;
                if (dx * dx + dy * dy > 1) continue;
                *voxel = kind == 3 ? (float)(nucleus < 1 && z >= 1 && z <= 2)
                                   : (float)((kind == 0 ? 0.02 : 20) * (1 + 0.2 * qnet_rng_normal(&rng)) *
                                             (nucleus < 1 ? (subject < 2 ? 4 : 2) : 1));
            }
    CHECK_OK(ctx, qnet_nifti_save(ctx, path, v, 0));
    qnet_volume_destroy(v);
}

static void write_cohort(qnet_context *ctx)
{
    static const char *const names[4] = { "Chimap", "R2starmap", "T1w", "desc-basalganglia_mask" };
    char path[300];
    for (int s = 0; s < 4; s++)
        for (int k = 0; k < 4; k++) {
            sprintf(path, FOLDER "/data/derivatives/maps/sub-%02d/anat", s + 1);
            CHECK_OK(ctx, qnet_make_folder(ctx, path));
            sprintf(path + strlen(path), "/sub-%02d_%s.nii.gz", s + 1, names[k]);
            write_map(ctx, path, s, k);
        }
    write_text(FOLDER "/data/participants.tsv", "participant_id\tage\tsex\tgroup\nsub-01\t40\tM\tHH\n"
               "sub-02\t41\tM\tHH\nsub-03\t42\tF\tHC\nsub-04\t43\tM\tHC\n");
}

static double no_clock(void *user)
{
    (void)user;
    return 0;
}

static qnet_context *make_context(void)
{
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1;
    hooks.clock.seconds = no_clock; /* times are among the results */
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    return ctx;
}

static void make_fixture(fixture *f)
{
    static const int length[2] = { 2, 1 }, label[2] = { 0, 1 };
    static const qnet_real features[2 * 2 * QNET_FEATURES] = { 1 };
    qnet_stage2_config config;
    memset(f, 0, sizeof *f);
    f->ctx = make_context();
    CHECK_OK(f->ctx, qnet_make_folder(f->ctx, FOLDER "/one"));
    CHECK_OK(f->ctx, qnet_volume_create(f->ctx, 30, 40, 10, &f->volume));
    for (int i = 0; i < 30 * 40 * 10; i++) f->volume->voxels[i] = (float)(i * 7 % 1000);
    qnet_stage2_config_init(&config);
    config.steps = 2;
    config.hidden = 4;
    CHECK_OK(f->ctx, qnet_stage2_create(f->ctx, &config, features, length, label, 2, &f->stage2));
    qnet_input_config_init(&f->input, QNET_INPUT_CROP);
    f->input.size = 32;
    f->input.max_slices = 2;
    write_text(FOLDER "/one/in", "a text\n");
    CHECK_OK(f->ctx, qnet_nifti_save(f->ctx, FOLDER "/one/in.nii", f->volume, 0));
    CHECK_OK(f->ctx, qnet_nifti_save(f->ctx, FOLDER "/one/in.nii.gz", f->volume, 0));
    CHECK_OK(f->ctx, qnet_training_save(f->stage2, FOLDER "/one/in.checkpoint"));
    CHECK_OK(f->ctx, qnet_weights_save(f->ctx, FOLDER "/one/in.safetensors", f->stage2->model->table,
                                       f->stage2->model->weights, NULL, 0));
}

static void drop_output(fixture *f, const function *it)
{
    if (f->out) {
        if (it->run == do_cohort) qnet_cohort_destroy((qnet_cohort *)f->out);
        else if (it->run == do_tensors) qnet_safetensors_destroy((qnet_safetensors *)f->out);
        else qnet_volume_destroy((qnet_volume *)f->out);
    }
    f->out = NULL;
    qnet_buffer_free(f->ctx, &f->buffer);
    __real_remove(FOLDER "/one/made/twice");
    __real_remove(FOLDER "/one/made");
}

static void test_functions(void)
{
    fixture f;
    long points = 0, tolerated = 0;
    make_fixture(&f);
    for (size_t k = 0; k < sizeof functions / sizeof *functions; k++) {
        const function *it = &functions[k];
        char path[300] = "";
        uint64_t old = 0, new_one = 0;
        long count;
        int status;
        if (it->file) sprintf(path, FOLDER "/one/%s", it->file);
        at = operations = 0;
        visit = visit_one;
        CHECK_OK(f.ctx, it->run(&f));
        visit = NULL;
        count = operations;
        CHECK(count >= 2);
        drop_output(&f, it);
        if (it->file) {
            new_one = file_contents(path);
            write_text(path, "old");
            old = file_contents(path);
            CHECK(old != new_one && old && new_one);
        }
        for (long n = 1; n <= count; n++) {
            const tree before = look(FOLDER "/one", LOOK);
            qnet_status result;
            fflush(stdout);
            /* It fails there. */
            at = n;
            operations = 0;
            kill_there = 0;
            visit = visit_one;
            result = it->run(&f);
            visit = NULL;
            points++;
            if (result == QNET_OK) {
                tolerated++; /* what does not matter: the close of what was read, the size of a file to be read */
                if (it->file) CHECK(file_contents(path) == new_one);
            } else {
                /* A stat that fails once, and not the open behind it, may pass for something else in the way. */
                CHECK(result == QNET_ERROR_IO || (failed_stat && it->run == do_cohort));
                CHECK(strlen(qnet_last_error(f.ctx)) > 10 &&
                      (strstr(qnet_last_error(f.ctx), strerror(EIO)) ||
                       strstr(qnet_last_error(f.ctx), strerror(ENOSPC)) || (failed_stat && it->run == do_cohort)));
                CHECK(f.out == NULL && f.buffer.bytes == NULL);
                if (it->file) CHECK(file_contents(path) == old);
            }
            if (it->run != do_folder) CHECK(look(FOLDER "/one", LOOK).files == before.files);
            drop_output(&f, it);
            if (it->file) write_text(path, "old");
            if (test_failed) {
                printf("%s, operation %ld of %ld: %s\n", it->name, n, count, qnet_last_error(f.ctx));
                return;
            }
            /* It is killed there. */
            if (!it->file) continue;
            kill_there = 1;
            operations = 0;
            if (fork() == 0) {
                visit = visit_one;
                (void)it->run(&f);
                _exit(1);
            }
            CHECK(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 99);
            CHECK(file_contents(path) == old || file_contents(path) == new_one);
            points++;
            CHECK_OK(f.ctx, it->run(&f)); /* and what it left is in nobody's way */
            CHECK(file_contents(path) == new_one);
            write_text(path, "old");
        }
    }
    printf("    functions: %lu, %ld points failed or killed, %ld of them without harm\n",
           (unsigned long)(sizeof functions / sizeof *functions), points, tolerated);
    CHECK(tolerated * 2 < points);
    qnet_training_destroy(f.stage2);
    qnet_volume_destroy(f.volume);
    qnet_context_destroy(f.ctx);
}

/* ---- A whole run ---------------------------------------------------------------------------------------------- */

static const char *const old_files[] = { "results.json", "predictions.csv", "manifest.json", "report.html",
    "weights/crop-repeat01-fold01-resnetswa.safetensors", "weights/crop-repeat01-fold02-qnet.safetensors" };
#define OLD_FILES ((int)(sizeof old_files / sizeof *old_files))

static long every;             /* 0: thinned */
static uint64_t expected;      /* contents of out after an undisturbed run */
static uint64_t new_file[OLD_FILES], old_file;
static int in_child;           /* this process met a failure */
static char child_kind[40], child_path[600];
static int child_wrote;        /* while a file was being written */
static long run_points, run_all, run_tolerated, run_kills, run_resumes, kinds_count;
static struct { const char *kind; long count, all; } kinds[40];
static struct { uint64_t state; } known[4000];
static long known_count;

static qnet_status run_experiment(qnet_context *ctx, int resume)
{
    qnet_experiment_config c;
    qnet_experiment *e = NULL;
    pictures drawn;
    qnet_status status;
    qnet_experiment_config_init(&c);
    c.use_input[QNET_INPUT_FULL] = 0;
    c.input[QNET_INPUT_CROP].size = 32;
    c.input[QNET_INPUT_CROP].max_slices = 2;
    c.folds = 2;
    c.bootstrap = 10;
    c.stage1.epochs = 2;
    c.stage1.batch = 4;
    c.stage2.epochs = 1;
    c.stage2.hidden = 4;
    memset(&drawn, 0, sizeof drawn);
    c.publish.user = &drawn;
    if (every) c.publish.input = pictures_input; /* heat maps make each of hundreds of runs half as long again */
    c.publish.write = report_write;
    status = run_folder(ctx, &c, "../data", "out", NULL, resume, &e);
    CHECK((status == QNET_OK) == (e != NULL));
    qnet_experiment_destroy(e);
    pictures_free(ctx, &drawn);
    return status;
}

/* In a process of its own, in build/.../b. Non-zero: something is wrong. */
static int resume_there(void)
{
    int status;
    run_resumes++;
    fflush(stdout);
    if (fork() == 0) {
        qnet_context *ctx = make_context();
        tree t;
        visit = NULL;
        test_failed = 0;
        if (chdir("../b") != 0) _exit(2);
        CHECK_OK(ctx, run_experiment(ctx, 1));
        t = look("out", LOOK_INSIDE);
        CHECK(t.contents == expected);
        CHECK(t.temporaries == 0);
        if (test_failed) walk("out", LINK, "../left", NULL);
        fflush(stdout);
        _exit(test_failed != 0);
    }
    return wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

/* A folder in a state that has not been resumed yet is resumed; its name is ../b/out. */
static int resume_once(uint64_t state, const char *what, const char *kind, const char *path)
{
    for (long i = 0; i < known_count; i++)
        if (known[i].state == state) return 0;
    if (known_count < 4000) known[known_count++].state = state;
    if (!resume_there()) return 0;
    printf("%s at %s %s: the resumed run is not right\n", what, kind, path);
    return 1;
}

static void copy_out(void)
{
    walk("../b/out", REMOVE, NULL, NULL);
    walk("out", LINK, "../b/out", NULL);
}

/* In a child, so that it shares no place in a file with its parent, and works in b. */
static void part_from_parent(void)
{
    if (chdir("../b") != 0) _exit(2);
    for (int i = 0; i < STREAMS; i++) {
        const int file = streams[i].stream ? fileno(streams[i].stream) : -1;
        const int writes = streams[i].mode[0] == 'w';
        int own;
        if (file < 0) continue;
        own = __real_open(streams[i].path, writes ? O_WRONLY : O_RDONLY, 0);
        if (own < 0 || lseek(own, lseek(file, 0, SEEK_CUR), SEEK_SET) < 0 || dup2(own, file) < 0) _exit(3);
        __real_close(own);
        child_wrote |= writes;
    }
    if (lock_file.file >= 0) {
        const int own = __real_open(lock_file.path, O_RDWR, 0);
        if (own < 0) return; /* it has been removed */
        if (__real_flock(own, LOCK_EX | LOCK_NB) != 0 || dup2(own, lock_file.file) < 0) _exit(4);
        __real_close(own);
    }
}

/* Each Nth, or the 1st, 4th, 16th ... of each kind, and each rename and remove. */
static int chosen(const char *kind)
{
    int k = 0;
    long n;
    while (k < kinds_count && strcmp(kinds[k].kind, kind) != 0) k++;
    if (k == kinds_count && k < 40) kinds[kinds_count++].kind = kind;
    n = ++kinds[k].all;
    if (every ? run_all % every != 0 : ((n & (n - 1)) != 0 || (n & 0x55555555) == 0) && strcmp(kind, "rename") && strcmp(kind, "remove")) return 0;
    kinds[k].count++;
    return 1;
}

/* During the undisturbed run: keeps the folder in the middle of the training, and when that is done. */
static int visit_base(const char *kind, const char *path)
{
    static int kept;
    const int moment = finishing ? 2 : strcmp(kind, "rename") == 0 && strstr(path, "fold01-swa.checkpoint") ? 1 : 0;
    if (moment > kept) {
        kept = moment;
        visit = NULL;
        walk("out", LINK, kept == 1 ? "../middle" : "../end", NULL);
        visit = visit_base;
    }
    return 0;
}

static int visit_run(const char *kind, const char *path)
{
    int status, bad = 0;
    run_all++;
    if (!chosen(kind)) return 0;
    visit = NULL;
    fflush(stdout);
    /* Killed here: what is there now. */
    copy_out();
    run_kills++;
    bad |= resume_once(look("out", LOOK).state, "killed", kind, path);
    /* Failed here. */
    copy_out();
    run_points++;
    if (fork() == 0) {
        part_from_parent();
        in_child = 1;
        strcpy(child_kind, kind);
        snprintf(child_path, sizeof child_path, "%s", path);
        return 1;
    }
    if (wait(&status) < 0 || !WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 100)) {
        printf("failed at %s %s: status %d\n", kind, path, status);
        bad = 1;
    }
    run_tolerated += WIFEXITED(status) && WEXITSTATUS(status) == 100;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        if (chdir("../b") != 0) return 0;
        bad |= resume_once(look("out", LOOK).state, "failed", kind, path);
        if (chdir("../a") != 0) return 0;
    }
    if (bad) test_failed++;
    visit = visit_run;
    return 0;
}

/* Where a run that is complete cannot tidy up, its rest stays for the next one. */
static int may_litter(void)
{
    return strcmp(child_kind, "remove") == 0 || (published && strstr(child_kind, "dir") != NULL);
}

/* What a child finds after its failure. Exit status 100: the run ended well all the same. */
static void end_child(qnet_context *ctx, qnet_status status)
{
    const tree t = look("out", status == QNET_OK ? LOOK_INSIDE : LOOK);
    visit = NULL;
    test_failed = 0;
    if (status == QNET_OK) {
        CHECK(!child_wrote); /* nothing of a file may get lost */
        if (!may_litter()) CHECK(t.contents == expected);
        for (int i = 0; i < OLD_FILES; i++) {
            char path[300];
            sprintf(path, "out/%s", old_files[i]);
            CHECK(file_contents(path) == new_file[i]);
        }
    } else {
        const char *sentence = qnet_last_error(ctx);
        const int of_data = strcmp(child_kind, "stat") == 0 && strncmp(child_path, "../data", 7) == 0;
        CHECK(status == QNET_ERROR_IO || of_data);
        CHECK(strstr(sentence, strerror(EIO)) || strstr(sentence, strerror(ENOSPC)) || of_data);
        for (int i = 0; i < OLD_FILES; i++) {
            char path[300];
            uint64_t now;
            sprintf(path, "out/%s", old_files[i]);
            now = file_contents(path);
            CHECK(now == old_file || (published && now == new_file[i]));
        }
    }
    if (strcmp(child_kind, "remove") != 0) CHECK(t.temporaries == 0);
    if (test_failed) printf("    failed at %s %s: %s: %s\n", child_kind, child_path, qnet_status_name(status), qnet_last_error(ctx));
    fflush(stdout);
    _exit(test_failed ? 1 : status == QNET_OK ? 100 : 0);
}

static void put_old_files(const char *folder)
{
    char path[300];
    __real_mkdir(folder, 0777);
    sprintf(path, "%s/weights", folder);
    __real_mkdir(path, 0777);
    for (int i = 0; i < OLD_FILES; i++) {
        sprintf(path, "%s/%s", folder, old_files[i]);
        write_text(path, "of an earlier run");
    }
    old_file = file_contents(path);
}

static void test_run(void)
{
    qnet_context *ctx = make_context();
    qnet_status status;
    char path[300];
    tree t;
    walk(FOLDER "/a", REMOVE, NULL, NULL);
    walk(FOLDER "/b", REMOVE, NULL, NULL);
    __real_mkdir(FOLDER "/a", 0777);
    __real_mkdir(FOLDER "/b", 0777);
    if (!CHECK(chdir(FOLDER "/b") == 0)) return;
    put_old_files("out");
    visit = visit_base;
    CHECK_OK(ctx, run_experiment(ctx, 0));
    visit = NULL;
    t = look("out", LOOK_INSIDE);
    expected = t.contents;
    CHECK(t.files == 10 && t.temporaries == 0);
    for (int i = 0; i < OLD_FILES; i++) {
        sprintf(path, "out/%s", old_files[i]);
        new_file[i] = file_contents(path);
        CHECK(new_file[i] != old_file);
    }
    if (!CHECK(chdir("../a") == 0)) return;
    walk("../b/out", REMOVE, NULL, NULL);
    walk("../middle", LINK, "../b/out", NULL);
    CHECK(resume_there() == 0);
    if (every) put_old_files("out");
    else walk("../end", LINK, "out", NULL);
    published = finishing = 0;
    visit = visit_run;
    status = run_experiment(ctx, !every);
    visit = NULL;
    if (in_child) end_child(ctx, status);
    CHECK_OK(ctx, status);
    CHECK(look("out", LOOK_INSIDE).contents == expected);
    printf("    a run: %ld of %ld operations failed (%ld without harm), %ld of %ld killed, %ld states resumed\n",
           run_points, run_all, run_tolerated, run_kills, run_all, run_resumes);
    printf("   ");
    for (int k = 0; k < kinds_count; k++) printf(" %s %ld/%ld", kinds[k].kind, kinds[k].count, kinds[k].all);
    printf("\n");
    CHECK(run_points > 50 && run_tolerated < run_points && run_resumes > 5);
    test_passed += run_points + run_kills;
    qnet_context_destroy(ctx);
    if (chdir("../../..") == 0) walk(FOLDER, REMOVE, NULL, NULL);
}

int main(int argc, char **argv)
{
    qnet_context *ctx;
    if (argc == 2 && strcmp(argv[1], "all") == 0) every = 1;
    if (argc == 3 && strcmp(argv[1], "every") == 0) every = atol(argv[2]);
    lock_file.file = -1;
    walk(FOLDER, REMOVE, NULL, NULL);
    ctx = make_context();
    write_cohort(ctx);
    qnet_context_destroy(ctx);
    (void)report_tables; /* what a run prints, and does not write */
    RUN(test_functions);
    RUN(test_run);
    return test_end();
}
