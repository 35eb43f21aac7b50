/* qnet.h 0.1.0: Q-Net, brain iron in hemochromatosis from QSM, R2* and T1W, in one header.
   SPDX-License-Identifier: MIT-0

   Do this in ONE C or C++ file, and include the header plainly everywhere else:

       #define QNET_IMPLEMENTATION
       #include "qnet.h"

   and link with -lm. Add -fopenmp to use all cores.

   CONTENTS (search for the tag; every ">>" opens a room, and a room calls only rooms above it)

       manual         what it does and does NOT do, quick start, options, memory, threads,
                      determinism, errors, formats, choices, references
       API 1 .. 17    every public type and function, in the order of the data's way
       END OF API     read no further to use the library, read on to audit it
       >>status >>context >>random >>file >>tensor >>text              the ground floor
       >>gemm >>fuse >>winograd >>conv >>norm                            layers
       >>pool >>dense >>lstm >>gradcheck
       >>resnet >>scan >>optim                                          the two models, Adam, SWA
       >>deflate >>png >>nifti >>weights                                file formats
       >>image >>cohort >>train                                         data, augmentation, training
       >>metrics >>cam >>report >>experiment                            evaluation, the tables

   WHAT IT DOES

   It holds the whole of one paper: S. Zabihi, E. Rahimian, S. Sharma, S. K. Sethi, S. Gharabaghi,
   A. Asif, E. M. Haacke, M. S. Jog, A. Mohammadi, "Q-Net: A Quantitative Susceptibility
   Mapping-based Deep Neural Network for Differential Diagnosis of Brain Iron Deposition in
   Hemochromatosis". From QSM, R2* and T1W volumes on disk to a diagnosis for the scan, its heat
   map, and the statistics that say whether one model is better than another:

       NIfTI files -> slices of the basal ganglia, 3 channels        >>nifti >>cohort
       augmentation (histogram stretching ... crop)                  >>image
       stage 1: ResNet18, Adam, cosine annealing, with and without
                stochastic weight averaging                          >>resnet >>optim >>train
       stage 2: 512 frozen features a slice, BiLSTM (Eqs. 1-5), an
                image head and a scan head                           >>lstm >>scan >>train
       cross-validation over individuals, accuracy ... F1, ROC, AUC,
                DeLong, bootstrap, voting                            >>metrics >>experiment
       class activation maps                                         >>cam
       Tables 1-3, Figures 3 and 5-10 as one HTML page               >>report

   Forward and backward passes are written out by hand, layer by layer; nothing but the C library
   and its maths are needed.

   WHAT IT DOES NOT DO

   - It is no medical device. Nothing that it prints is a diagnosis of a person.
   - It has no weights inside: ImageNet weights come from a file of yours (safetensors; with the
     hook of weights_tools/pth.h also PyTorch's .pth), or training starts from random ones, which
     for 99 subjects is a weaker start than the paper's.
   - It does not compute QSM or R2* maps from echoes, does not segment, does not register.
   - No 4-D, complex or RGB volumes, no NIfTI-2, no .hdr/.img pairs: each is an error that says so.
   - It starts no threads of its own, keeps no globals, prints nothing, never exits or aborts.
   - No fsync: a file is whole or absent after a crash of the program, not after a power cut.
   - It uses the CPU only, in single precision (double as a reference build).

   QUICK START

       qnet_context *ctx;
       qnet_experiment_config config;
       qnet_experiment *e;
       qnet_context_create(NULL, &ctx);
       qnet_experiment_config_init(&config);                  (the paper's values)
       if (qnet_experiment_run(ctx, &config, "cohort", "out", NULL, 0, &e) != QNET_OK)
           puts(qnet_last_error(ctx));
       else
           printf("AUC of Q-Net, cropped, by scan: %.3f\n",
                  e->level[QNET_INPUT_CROP][QNET_LEVEL_SCAN].model[QNET_MODEL_QNET].auc_first);
       qnet_experiment_destroy(e);
       qnet_context_destroy(ctx);

   examples/ holds small programs, one idea each: one LSTM cell against Eqs. (1)-(5), stage 1,
   stage 2, one scan classified, DeLong on a table of scores, CAM of a slice, hooks of your own.

   OPTIONS, defined before the implementation

       QNET_REAL double       networks in double precision: the reference build, slow and exact
       QNET_REFERENCE         plain-loop twins instead of the fast kernels
       QNET_STATIC            everything private to this file
       QNET_NO_STDIO          no file access by path; memory and callbacks stay
       QNET_NO_OPENMP         no OpenMP even where the compiler offers it
       QNET_NO_SIMD           the portable kernels only: no AVX2, no AVX-512, no NEON
       QNET_CPU_CHOICE        a const char * expression, as getenv("QNET_CPU"): the name of the
                              kernels that AUTO picks, unless NULL; for tests and measurements
       QNET_USE_CBLAS         cblas_sgemm as the BLAS hook that is used when none is given
       QNET_MAX_FILE_BYTES, QNET_MAX_VOXELS    limits on what a file may ask for

   QNET_REAL, QNET_STATIC and QNET_NO_STDIO change declarations: define them wherever the header is
   included. QNET_USE_CBLAS wants a BLAS at link time (-lopenblas).

   MEMORY

   All of it comes from the allocator hook of the context, and goes back with the size it was asked
   with. Models and training runs ask when they are created, and for all they need; forward passes,
   backward passes and training steps ask for nothing (but with a trace hook, for the maps that are
   worked out for it alone). qnet_resnet_bytes and its like say beforehand
   how much that will be. A layer called alone takes a scratch block of qnet_..._scratch bytes, or
   NULL, and then asks for one during the call. Whatever fails gives back what it had asked for.

   THREADS

   Work goes through the parallel hook as run(count, task): OpenMP where the compiler has it, a
   plain loop otherwise, or your own pool (examples/own_threads.c). One context is for one thread
   at a time; contexts share nothing. Hooks are called from the thread that called the library,
   except for the tasks of the parallel hook and the BLAS hook, which is never called inside a
   task.

   DETERMINISM

   The same inputs, seed and build on the same kind of CPU give the same bits, for any number of
   threads, any parallel hook, and after any stop-and-resume. Work is split by shape, never by
   thread count; each output has one owner; partial sums are combined in a fixed order; random
   numbers are counted, not drawn from a state: each is a function of (seed, purpose, epoch,
   sample). Different kernels (scalar, AVX2, AVX-512, NEON) round differently, and a BLAS hook keeps
   whatever promise its library makes. -ffast-math is refused.

   ERRORS

   Every function that can fail returns a qnet_status; its out-parameters stay untouched then, and
   qnet_last_error(ctx) holds one sentence: which file, which field, what was expected, what was
   found. It stays until the next failure. Arguments are checked in every build; functions without
   a status want pointers that are not NULL, destroy functions excepted. Configurations are filled
   by qnet_..._config_init with the paper's values; in them 0 means 0. Hooks are the opposite:
   zero means the default.

   FORMATS

   Images and activations are NHWC: [batch][height][width][channels]. Convolution weights are
   [kernel][kernel][in][out] in memory and PyTorch's [out][in][kernel][kernel] in files. A weights
   file is safetensors with torchvision's names (conv1.weight ... fc.bias) or PyTorch's LSTM names
   (lstm.weight_ih_l0 ...; gates i, f, g, o; two biases). A checkpoint is a safetensors file too.
   Volumes are NIfTI-1; world coordinates are RAS+ in mm. Susceptibility is in ppm, R2* in 1/s.

   THE PAPER'S NUMBERS, by section, and what holds them (tests/test_paper.c asks for each one)

       Dataset          52 HH and 47 HC; 67 men, 32 women of 20 to 85 years; 220 mm shown at .43 mm,
                        2 mm slices: examples/phantom.h, as the data are confidential
       Preparation      QSM, R2*, T1W as three channels; full-size or cropped: qnet_input_config
       Augmentation     eight steps, each with its probability: qnet_augment_config
       Architecture     ResNet18, 512 features a slice; one BiLSTM layer, Eqs. (1)-(5), two heads:
                        qnet_resnet_config, qnet_scan_config
       Training         10 folds over individuals, 10 in each (of 99, one fold has 9); stage 1: 100
                        epochs, batch 64, Adam, 3e-4 to 1e-4 by cosine annealing; stage 2: 50
                        epochs, batch 64, 3e-4: qnet_experiment_config
       Results          Tables 1-3, Fig. 5-10, stars, votes: API 15 to 17. examples/audit_paper.c
                        shows what the printed results say of each other, and where they differ

   CHOICES, where the paper leaves a question open (each a field of a configuration, or fixed)

       input            full: 256 x 256; cropped: 224 x 224 of 96 mm around the basal ganglia
       slices           those with the mask, at most 24, the central ones; padded and masked
       stretching       1st..99th percentile of the non-zero pixels, per slice and channel, to 0..1
       augmentation     ranges of Albumentations 0.5-1.0, which the paper cites
       cropped input    the box and a margin of 8 % are cut out first; stretching and geometry act
                        on the cut-out: percentiles are its own, far corners are mirrored
       ResBlock         a second ReLU, after the sum, as in He et al. and the ImageNet weights; the
                        paper's text has the first one only (fixed)
       BiLSTM           256 hidden units per direction
       stage 2 input    features of the slices as they are at test time, without augmentation,
                        computed once
       stage-2 loss     cross-entropy of scans + cross-entropy of slices, 1:1
       Adam, cosine     beta .9 and .999, eps 1e-8 outside the root, no weight decay; one rate per
                        epoch, which would reach 1e-4 one epoch after the last
       folds            stratified by label, over individuals; the same ones for both stages, so
                        that no embedding has seen the individuals it is tested on (fixed)
       SWA              the last quarter of the epochs at a constant 1e-4, an average at each
                        epoch's end, then new batch-norm statistics over the training images; the
                        run is the ResNet's own up to there
       batches          an epoch is cut into batches of nearly equal size, none above 64, so that no
                        batch norm meets a batch of one
       vote             a tie is HC: the paper asks for "more than"; ROC by the mean probability
       F1               mean of both classes' F1, weighted by support: what the paper's numbers are
       intervals        DeLong and bootstrap by slice, as in the paper, and by subject, because
                        slices of one scan are not independent

   REFERENCES

       Zhou et al. 2016 (CAM); He et al. 2016 (ResNet); Ioffe & Szegedy 2015 (batch norm);
       Hochreiter & Schmidhuber 1997, Schuster & Paliwal 1997 (LSTM, BiLSTM); Kingma & Ba 2014
       (Adam); Loshchilov & Hutter 2017 (cosine annealing); Izmailov et al. 2018 (SWA); Buslaev et
       al. 2020 (Albumentations); DeLong et al. 1988, Sun & Xu 2014, Obuchowski 1997 (ROC areas);
       Wilson 1927 (intervals); Salmon et al. 2011 (Philox); RFC 1950-1952 (deflate, gzip); the
       NIfTI-1 standard of the NIfTI Data Format Working Group; the safetensors format. */
#ifndef QNET_H
#define QNET_H

#define QNET_VERSION_MAJOR 0
#define QNET_VERSION_MINOR 1
#define QNET_VERSION_PATCH 0
#define QNET_VERSION "0.1.0"

#if defined(__FAST_MATH__)
#error "qnet.h: -ffast-math breaks determinism and NaN checks; build without it"
#endif

#include <stddef.h>
#include <stdint.h>

/* QNET_REAL is the number type of the networks: float, or double for the reference build. */
#ifndef QNET_REAL
#define QNET_REAL float
#endif
typedef QNET_REAL qnet_real;

#ifdef QNET_STATIC
#if defined(__GNUC__) || defined(__clang__)
#define QNET_API static __attribute__((unused))
#else
#define QNET_API static
#endif
#else
#define QNET_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ============================================================================================
   API 1. Status: every function that can fail returns one of these; out-parameters are untouched
   on failure, and qnet_last_error(ctx) holds a sentence with the file, the field, what was
   expected and what was found.
   ============================================================================================ */

#define QNET_STATUS_LIST(X)                                                                       \
    X(QNET_OK,                "ok")                                                               \
    X(QNET_STOPPED,           "stopped by the caller")                                            \
    X(QNET_ERROR_ARGUMENT,    "an argument is out of range or missing")                           \
    X(QNET_ERROR_MEMORY,      "the allocator returned no memory")                                 \
    X(QNET_ERROR_NOT_FOUND,   "a file, folder or entry does not exist")                           \
    X(QNET_ERROR_IO,          "reading or writing failed")                                        \
    X(QNET_ERROR_FORMAT,      "a file is truncated, corrupt or not of the expected format")       \
    X(QNET_ERROR_UNSUPPORTED, "a file is valid but of a kind that is not supported")              \
    X(QNET_ERROR_LIMIT,       "a size is above the limit of this library")                        \
    X(QNET_ERROR_SHAPE,       "shapes or grids do not agree")                                     \
    X(QNET_ERROR_MISMATCH,    "weights or checkpoint belong to another network or configuration") \
    X(QNET_ERROR_DATA,        "the data cannot be used")                                          \
    X(QNET_ERROR_LEAK,        "a subject is on both sides of a train/test split")                 \
    X(QNET_ERROR_NUMERIC,     "NaN or infinity")

typedef enum qnet_status {
#define QNET__STATUS_ENUM(name, text) name,
    QNET_STATUS_LIST(QNET__STATUS_ENUM)
#undef QNET__STATUS_ENUM
    QNET_STATUS_COUNT
} qnet_status;

/* The general text of a status, such as "the data cannot be used". Never NULL. */
QNET_API const char *qnet_status_text(qnet_status status);

/* The name of a status, such as "QNET_ERROR_DATA". Never NULL. */
QNET_API const char *qnet_status_name(qnet_status status);

/* ============================================================================================
   API 2. Context: hooks and resources. All zero means defaults: malloc/free, OpenMP where the
   compiler has it and otherwise the calling thread, own matrix products, no log, no progress.
   A context may be used by one thread at a time; several contexts are independent.
   ============================================================================================ */

typedef struct qnet_context qnet_context;

typedef struct qnet_allocator {
    void *user;
    void *(*alloc)(void *user, size_t size,
                   size_t align); /* align: a power of two; NULL: none left */
    void (*free)(void *user, void *ptr, size_t size);      /* size: as it was asked for */
} qnet_allocator;

/* Runs task(arg, index, worker) for every index in 0..count-1, in any order, and returns when all
   have ended. worker < workers names the executing thread: two tasks that run at the same time
   have different workers. Results never depend on the number of workers. */
typedef void (*qnet_task)(void *arg, size_t index, size_t worker);
typedef struct qnet_parallel {
    void *user;
    void (*run)(void *user, size_t count, qnet_task task, void *arg);
    size_t workers;
} qnet_parallel;

/* Row-major C[m,n] = alpha * op(A)[m,k] * op(B)[k,n] + beta * C, as cblas_sgemm defines it. */
typedef struct qnet_blas {
    void *user;
    void (*sgemm)(void *user, int trans_a, int trans_b, int m, int n, int k, float alpha,
                  const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
} qnet_blas;

typedef enum qnet_log_level { QNET_LOG_DEBUG, QNET_LOG_INFO, QNET_LOG_WARNING } qnet_log_level;
typedef struct qnet_log {
    void *user;
    void (*message)(void *user, qnet_log_level level, const char *text);
} qnet_log;

/* What long work reports. A non-zero return asks it to stop: it returns QNET_STOPPED. */
typedef struct qnet_progress_info {
    const char *task;      /* "read cohort", "stage 1", "stage 1 SWA", "features", "stage 2", ... */
    const char *where;     /* "crop repeat 1/1 fold 3/10", or "" */
    int epoch, epochs;     /* from 1; 0 where there is none */
    size_t step, steps;    /* within the epoch or the task, from 1 */
    double loss;           /* mean of the epoch so far; NaN where there is none */
    double learning_rate;  /* 0 where there is none */
    double items_per_second;
    double seconds_left;   /* of the task; negative: unknown */
    double fraction;       /* of the whole job where known, otherwise of the task, 0..1 */
} qnet_progress_info;
typedef struct qnet_progress {
    void *user;
    int (*report)(void *user, const qnet_progress_info *info);
} qnet_progress;

/* Hands every named tensor of a forward or backward pass to the caller, in the order of
   computation: data[shape[0]]...[shape[ndim-1]], valid during the call only. */
typedef struct qnet_trace {
    void *user;
    void (*tensor)(void *user, const char *name, const qnet_real *data, int ndim,
                   const size_t *shape);
} qnet_trace;

/* Seconds since any fixed moment; only progress reports use it, never a result. */
typedef struct qnet_clock {
    void *user;
    double (*seconds)(void *user);
} qnet_clock;

/* Reads weight files of another kind, such as PyTorch's (weights_tools/pth.h), for every function
   that takes the path of a weights file. What it puts into *safetensors is read in place of the
   file; an empty buffer says: read the file as it is. A failure leaves the buffer empty and its
   sentence in sentence[size]. */
struct qnet_buffer;
typedef struct qnet_weights_reader {
    void *user;
    qnet_status (*read)(void *user, qnet_context *ctx, const char *path,
                        struct qnet_buffer *safetensors, char *sentence, size_t size);
} qnet_weights_reader;

/* Which kernels to use. AUTO asks CPUID and the operating system; a choice that the machine does
   not have is an error of qnet_context_create. SCALAR is plain C that any compiler takes. */
typedef enum qnet_cpu {
    QNET_CPU_AUTO,
    QNET_CPU_SCALAR,
    QNET_CPU_AVX2,
    QNET_CPU_AVX512,
    QNET_CPU_NEON /* 64-bit ARM */
} qnet_cpu;

typedef struct qnet_hooks {
    qnet_allocator allocator;
    qnet_parallel parallel;
    qnet_blas blas;
    qnet_log log;
    qnet_progress progress;
    qnet_trace trace;
    qnet_clock clock;
    qnet_weights_reader weights;
    int threads;  /* for the default parallel hook; 0: as many as OpenMP offers */
    qnet_cpu cpu;
} qnet_hooks;

/* Makes a context. hooks may be NULL; the struct is copied. Destroy what was made with the
   context before the context itself. */
QNET_API qnet_status qnet_context_create(const qnet_hooks *hooks, qnet_context **out);
QNET_API void qnet_context_destroy(qnet_context *ctx);

/* The sentence of the last failure in this context; "" when none has failed yet. Never NULL. */
QNET_API const char *qnet_last_error(const qnet_context *ctx);

/* The hooks in force, defaults filled in. */
QNET_API const qnet_hooks *qnet_context_hooks(const qnet_context *ctx);

/* Changes the progress or trace hook of a context in place (all zero: none). */
QNET_API void qnet_set_progress(qnet_context *ctx, qnet_progress progress);
QNET_API void qnet_set_trace(qnet_context *ctx, qnet_trace trace);

/* "scalar", "avx2", "avx512", "neon": the kernels this context uses. */
QNET_API const char *qnet_cpu_name(qnet_cpu cpu);
/* The reverse, "auto" included; QNET_ERROR_ARGUMENT for any other name. */
QNET_API qnet_status qnet_cpu_parse(const char *name, qnet_cpu *out);
/* The kernels in force in ctx, never AUTO. */
QNET_API qnet_cpu qnet_context_cpu(const qnet_context *ctx);

/* "qnet 0.1.0, float, gcc 12.2.0, OpenMP, avx512, 2 workers": into text[size], always ended. */
QNET_API void qnet_describe_build(const qnet_context *ctx, char *text, size_t size);

/* ============================================================================================
   API 3. Random numbers: Philox4x32-10 (Salmon et al. 2011). A stream is named by
   (seed, purpose, epoch, sample), so that a draw never depends on the order of the work.
   ============================================================================================ */

typedef enum qnet_purpose {
    QNET_RANDOM_INIT_RESNET, /* sample: index of the parameter */
    QNET_RANDOM_INIT_SCAN,
    QNET_RANDOM_SHUFFLE,     /* order of the samples of an epoch */
    QNET_RANDOM_AUGMENT,     /* sample: index of the image */
    QNET_RANDOM_FOLDS,
    QNET_RANDOM_LABELS,      /* shuffled-label control */
    QNET_RANDOM_BOOTSTRAP,   /* sample: index of the resample */
    QNET_RANDOM_SHUFFLE_SCAN,
    QNET_RANDOM_USER = 128   /* free for callers: 128..255 */
} qnet_purpose;

typedef struct qnet_rng {
    uint32_t key[2], counter[4], block[4];
    int used; /* words of block that are spent */
} qnet_rng;

QNET_API qnet_rng qnet_rng_at(uint64_t seed, int purpose, uint32_t epoch, uint64_t sample);
QNET_API uint32_t qnet_rng_u32(qnet_rng *rng);
QNET_API double qnet_rng_uniform(qnet_rng *rng);                  /* [0, 1), 53 bits, two words */
QNET_API double qnet_rng_range(qnet_rng *rng, double a, double b); /* [a, b) */
QNET_API uint32_t qnet_rng_below(qnet_rng *rng, uint32_t n); /* 0..n-1, unbiased; 0 for n = 0 */
QNET_API double qnet_rng_normal(qnet_rng *rng);                   /* mean 0, variance 1 */
QNET_API void qnet_rng_shuffle(qnet_rng *rng, int *items, size_t count); /* Fisher-Yates */

/* 64-bit FNV-1a; pass QNET_HASH_START first, the last value to go on. For records, not security. */
#define QNET_HASH_START 0xcbf29ce484222325u
QNET_API uint64_t qnet_hash(uint64_t hash, const void *bytes, size_t size);

/* ============================================================================================
   API 4. Files: every reader takes a qnet_source (memory, stdio, or callbacks) or a path, every
   writer a qnet_sink or a path. A path is written as "path.tmp" and renamed when complete; a
   symbolic link or a device of that name is replaced by the file. There is no fsync behind it.
   ============================================================================================ */

typedef struct qnet_source {
    void *user;
    /* Reads up to size bytes into dst; *got < size only at the end. Non-zero: an I/O error. */
    int (*read)(void *user, void *dst, size_t size, size_t *got);
    const char *name; /* for error sentences; NULL: "(memory)" */
} qnet_source;

typedef struct qnet_sink {
    void *user;
    int (*write)(void *user, const void *src, size_t size); /* non-zero: an I/O error */
    const char *name;
} qnet_sink;

typedef struct qnet_memory_source {
    const unsigned char *bytes;
    size_t size, at;
} qnet_memory_source;
/* A source over bytes[size]; state must outlive the source. */
QNET_API qnet_source qnet_source_memory(qnet_memory_source *state, const void *bytes, size_t size,
                                        const char *name);

/* Bytes that grow by the allocator hook; start from all zero, give back with qnet_buffer_free. */
typedef struct qnet_buffer {
    unsigned char *bytes;
    size_t size, capacity;
    qnet_context *ctx;
} qnet_buffer;
QNET_API qnet_status qnet_buffer_append(qnet_context *ctx, qnet_buffer *buffer, const void *bytes,
                                        size_t size);
QNET_API qnet_status qnet_buffer_printf(qnet_context *ctx, qnet_buffer *buffer, const char *format,
                                        ...)
#if defined(__GNUC__) || defined(__clang__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;
QNET_API void qnet_buffer_free(qnet_context *ctx, qnet_buffer *buffer);
QNET_API qnet_sink qnet_sink_buffer(qnet_context *ctx, qnet_buffer *buffer, const char *name);

#ifndef QNET_NO_STDIO
/* Writes bytes to path by way of path.tmp and a rename: the old file stays on any failure. */
QNET_API qnet_status qnet_file_replace(qnet_context *ctx, const char *path, const void *bytes,
                                       size_t size);
/* Reads a whole file of at most limit bytes (0: QNET_MAX_FILE_BYTES) into an empty buffer. */
QNET_API qnet_status qnet_file_read(qnet_context *ctx, const char *path, size_t limit,
                                    qnet_buffer *out);
QNET_API int qnet_file_exists(const char *path);
/* Makes a folder and its parents; one that exists is no error. POSIX and Windows. */
QNET_API qnet_status qnet_make_folder(qnet_context *ctx, const char *path);
#endif

/* Limits on what a file may ask for; define your own before the implementation. */
#ifndef QNET_MAX_FILE_BYTES
#define QNET_MAX_FILE_BYTES ((size_t)0xffffffffu) /* 4 GiB: a text table or a weights file */
#endif
#ifndef QNET_MAX_VOXELS
#define QNET_MAX_VOXELS ((size_t)1 << 28) /* 268 million voxels: 645 x 645 x 645 */
#endif

/* ============================================================================================
   API 5. Tensors and parameters. Activations are NHWC; all weights of a network lie in one flat
   block, indexed by a table of names, so that Adam, SWA, checkpoints and weight files are loops
   over one array. Trainable entries come first, running statistics after them.
   ============================================================================================ */

#define QNET_MAX_DIMS 4

typedef struct qnet_tensor {
    qnet_real *data;
    int ndim;
    size_t shape[QNET_MAX_DIMS];
} qnet_tensor;

typedef enum qnet_layout {
    QNET_LAYOUT_PLAIN, /* the shape here is the shape in files */
    QNET_LAYOUT_HWIO   /* convolution [kh][kw][in][out] here; [out][in][kh][kw] in files */
} qnet_layout;

typedef struct qnet_param {
    char name[64];  /* torchvision's or PyTorch's name, such as "layer1.0.conv1.weight" */
    int ndim;
    size_t shape[QNET_MAX_DIMS]; /* as it lies in memory */
    size_t offset, count;        /* in the flat block, in numbers */
    qnet_layout layout;
    int trainable;               /* 0: running statistic of a batch norm */
} qnet_param;

typedef struct qnet_param_table {
    const char *network;    /* "resnet18" or "qnet-scan" */
    const qnet_param *entries;
    int count;              /* entries */
    size_t trainable;       /* numbers that are trained: the first part of the block */
    size_t total;           /* numbers in the block, running statistics included */
} qnet_param_table;

/* The view of entry i of a block with this table. */
QNET_API qnet_tensor qnet_param_view(const qnet_param_table *table, qnet_real *block, int i);
/* The index of a name, or -1. */
QNET_API int qnet_param_find(const qnet_param_table *table, const char *name);

/* ============================================================================================
   API 6. Layers: forward/backward pairs that can be called alone. Shapes are written
   x[rows][columns]. Gradients are overwritten, not added to. scratch: a block of
   qnet_..._scratch bytes, aligned to 64, or NULL to have one allocated for the call.
   NULL for an optional gradient skips it. Inputs and outputs must not overlap unless a comment
   says that they may. Shapes and pointers are checked; values are not: NaN in, NaN out.
   ============================================================================================ */

/* C[m,n] = op(A)[m,k] * op(B)[k,n] + beta * C, row major, beta 0 or 1. Leading dimensions count
   numbers. With a BLAS hook it goes there. */
QNET_API qnet_status qnet_gemm(qnet_context *ctx, int trans_a, int trans_b, size_t m, size_t n,
                               size_t k, const qnet_real *a, size_t lda, const qnet_real *b,
                               size_t ldb, qnet_real beta, qnet_real *c, size_t ldc, void *scratch);
QNET_API size_t qnet_gemm_scratch(const qnet_context *ctx, int trans_a, int trans_b, size_t m,
                                  size_t n, size_t k);

/* Convolution without bias (each one in ResNet18 is followed by a batch norm), zero padding.
   x[batch][height][width][in], w[kernel][kernel][in][out], y[batch][out_h][out_w][out],
   out_h = (height + 2 padding - kernel) / stride + 1. */
typedef struct qnet_conv2d {
    int batch, height, width, in_channels, out_channels, kernel, stride, padding;
} qnet_conv2d;
QNET_API int qnet_conv2d_out_height(const qnet_conv2d *shape);
QNET_API int qnet_conv2d_out_width(const qnet_conv2d *shape);
/* How this convolution is computed, chosen from the shape alone: "Winograd", "direct", "BLAS" (with
   a hook) or "reference" (with QNET_REFERENCE); "none" for a shape that is not valid. */
QNET_API const char *qnet_conv2d_algorithm(const qnet_context *ctx, const qnet_conv2d *shape);
QNET_API size_t qnet_conv2d_scratch(const qnet_context *ctx, const qnet_conv2d *shape);
QNET_API qnet_status qnet_conv2d_forward(qnet_context *ctx, const qnet_conv2d *shape,
                                         const qnet_real *x, const qnet_real *w, qnet_real *y,
                                         void *scratch);
/* dx and dw from dy; NULL skips one of them (dx for a first layer, dw for frozen weights). */
QNET_API qnet_status qnet_conv2d_backward(qnet_context *ctx, const qnet_conv2d *shape,
                                          const qnet_real *x, const qnet_real *w,
                                          const qnet_real *dy, qnet_real *dx, qnet_real *dw,
                                          void *scratch);

/* Batch normalisation over rows of x[rows][channels] (Ioffe & Szegedy 2015), with the residual
   addition and the ReLU that follow it in a ResBlock folded into the same pass:
   y = act(gamma * (x - mean) * rstd + beta + residual), act = ReLU if relu, else identity.
   residual NULL: none. y may alias x in the inference form, and residual in both. */
#define QNET_BATCHNORM_EPS 1e-5
#define QNET_BATCHNORM_MOMENTUM 0.1
QNET_API size_t qnet_batchnorm_scratch(const qnet_context *ctx, size_t rows, int channels);
/* Training form: statistics of this batch, kept in mean[channels] and rstd[channels] for the
   backward pass; running_* (NULL: none) move by momentum, the variance unbiased. */
QNET_API qnet_status qnet_batchnorm_forward(qnet_context *ctx, size_t rows, int channels,
                                            const qnet_real *x, const qnet_real *gamma,
                                            const qnet_real *beta, const qnet_real *residual,
                                            int relu, double momentum, qnet_real *running_mean,
                                            qnet_real *running_var, qnet_real *mean,
                                            qnet_real *rstd, qnet_real *y, void *scratch);
QNET_API qnet_status qnet_batchnorm_inference(qnet_context *ctx, size_t rows, int channels,
                                              const qnet_real *x, const qnet_real *gamma,
                                              const qnet_real *beta, const qnet_real *running_mean,
                                              const qnet_real *running_var,
                                              const qnet_real *residual, int relu, qnet_real *y);
/* y: the output of the forward pass, for the ReLU's mask (NULL without ReLU). dresidual (NULL:
   none) gets the masked dy. dx may alias dy; dresidual may alias dy when dx does not. */
QNET_API qnet_status qnet_batchnorm_backward(qnet_context *ctx, size_t rows, int channels,
                                             const qnet_real *x, const qnet_real *gamma,
                                             const qnet_real *mean, const qnet_real *rstd,
                                             const qnet_real *y, const qnet_real *dy, qnet_real *dx,
                                             qnet_real *dresidual, qnet_real *dgamma,
                                             qnet_real *dbeta, void *scratch);

QNET_API void qnet_relu_forward(size_t count, const qnet_real *x, qnet_real *y); /* y may alias x */
QNET_API void qnet_relu_backward(size_t count, const qnet_real *y, const qnet_real *dy,
                                 qnet_real *dx);

/* Max pooling, kernel 3, stride 2, padding 1: x[batch][h][w][c] to y[batch][oh][ow][c],
   oh = (h - 1) / 2 + 1. argmax[batch][oh][ow][c] (NULL: not needed) gets 0..8, the tap that won,
   the first of equals. */
QNET_API qnet_status qnet_maxpool_forward(qnet_context *ctx, int batch, int height, int width,
                                          int channels, const qnet_real *x, qnet_real *y,
                                          uint8_t *argmax);
QNET_API qnet_status qnet_maxpool_backward(qnet_context *ctx, int batch, int height, int width,
                                           int channels, const uint8_t *argmax, const qnet_real *dy,
                                           qnet_real *dx);

/* Global average pooling: x[batch][pixels][channels] to y[batch][channels]. */
QNET_API qnet_status qnet_avgpool_forward(qnet_context *ctx, int batch, size_t pixels, int channels,
                                          const qnet_real *x, qnet_real *y);
QNET_API qnet_status qnet_avgpool_backward(qnet_context *ctx, int batch, size_t pixels,
                                           int channels, const qnet_real *dy, qnet_real *dx);

/* Fully connected: y[rows][out] = x[rows][in] * w[out][in]^T + b[out]. */
QNET_API size_t qnet_dense_scratch(const qnet_context *ctx, size_t rows, int in, int out);
QNET_API qnet_status qnet_dense_forward(qnet_context *ctx, size_t rows, int in, int out,
                                        const qnet_real *x, const qnet_real *w, const qnet_real *b,
                                        qnet_real *y, void *scratch);
QNET_API qnet_status qnet_dense_backward(qnet_context *ctx, size_t rows, int in, int out,
                                         const qnet_real *x, const qnet_real *w,
                                         const qnet_real *dy, qnet_real *dx, qnet_real *dw,
                                         qnet_real *db, void *scratch);

/* probability = softmax(logits) per row, [rows][classes]; may alias logits. */
QNET_API void qnet_softmax(size_t rows, int classes, const qnet_real *logits,
                           qnet_real *probability);
/* Mean cross-entropy of the rows with label >= 0; label -1 leaves a row out. QNET_ERROR_DATA when
   no row is left. dlogits (NULL: none) = (probability - onehot) / rows counted, 0 in rows left
   out; may alias logits. */
QNET_API qnet_status qnet_cross_entropy(qnet_context *ctx, size_t rows, int classes,
                                        const qnet_real *logits, const int *label, double *loss,
                                        qnet_real *dlogits);

/* One step of an LSTM cell, Eqs. (1)-(5) of the paper, with PyTorch's gate order i, f, g, o:
   w[4 hidden][in], u[4 hidden][hidden], b[4 hidden] (the sum of PyTorch's two biases).
   h and c [hidden] may alias h_prev and c_prev. gates[4 hidden], not NULL, gets the activated
   gates. Plain loops: this is the definition; qnet_lstm_forward is the fast form. */
QNET_API void qnet_lstm_cell(int in, int hidden, const qnet_real *w, const qnet_real *u,
                             const qnet_real *b, const qnet_real *x, const qnet_real *h_prev,
                             const qnet_real *c_prev, qnet_real *h, qnet_real *c, qnet_real *gates);

/* A bidirectional LSTM layer over sequences of different length (paper, "Sequential Modeling").
   x[batch][steps][in]; length[batch] in 1..steps; y[batch][steps][2 hidden] = forward, backward;
   zero at steps >= length, and the backward direction starts at length-1. Per direction d = 0, 1:
   w[d] [4 hidden][in], u[d] [4 hidden][hidden], b[d] [4 hidden]. saved: qnet_lstm_saved numbers
   (gates and cell states) that the backward pass reads. */
typedef struct qnet_lstm {
    int batch, steps, in, hidden;
} qnet_lstm;
typedef struct qnet_lstm_weights { const qnet_real *w[2], *u[2], *b[2]; } qnet_lstm_weights;
typedef struct qnet_lstm_gradients { qnet_real *w[2], *u[2], *b[2]; } qnet_lstm_gradients;
QNET_API size_t qnet_lstm_saved(const qnet_lstm *shape);
QNET_API size_t qnet_lstm_scratch(const qnet_context *ctx, const qnet_lstm *shape);
QNET_API qnet_status qnet_lstm_forward(qnet_context *ctx, const qnet_lstm *shape, const int *length,
                                       const qnet_lstm_weights *weights, const qnet_real *x,
                                       qnet_real *y, qnet_real *saved, void *scratch);
/* dx (NULL: not needed: the embedding is frozen) and the gradients from dy. */
QNET_API qnet_status qnet_lstm_backward(qnet_context *ctx, const qnet_lstm *shape,
                                        const int *length, const qnet_lstm_weights *weights,
                                        const qnet_real *x, const qnet_real *y,
                                        const qnet_real *saved, const qnet_real *dy, qnet_real *dx,
                                        const qnet_lstm_gradients *gradients, void *scratch);

/* Compares an analytic gradient with central differences (f(x + h) - f(x - h)) / 2h of a scalar
   function of x[count], at `samples` positions spread over x (0: all). x is restored. The error is
   |numeric - analytic| / max(1e-3 * largest gradient, |numeric| + |analytic|). */
typedef double (*qnet_scalar_function)(void *user);
typedef struct qnet_gradcheck_result {
    double max_error;
    size_t worst; /* index into x */
    double analytic, numeric;
} qnet_gradcheck_result;
QNET_API qnet_status qnet_gradcheck(qnet_context *ctx, qnet_scalar_function f, void *user,
                                    qnet_real *x, const qnet_real *gradient, size_t count,
                                    size_t samples, double step, qnet_gradcheck_result *out);

/* ============================================================================================
   API 7. ResNet18, the image-level model (paper, "Internal Architecture", Fig. 4; He et al. 2016):
   7x7/2 convolution 64, batch norm, ReLU, max pool; 8 ResBlocks of two 3x3 convolutions with 64,
   128, 256 and 512 channels, the 3rd, 5th and 7th halving height and width; global average pool
   (512 features); fully connected to 2 classes. Any height and width >= 32.
   ============================================================================================ */

#define QNET_FEATURES 512   /* per slice, after the global average pool */
#define QNET_CLASSES 2
typedef enum qnet_label { QNET_HC = 0, QNET_HH = 1 } qnet_label; /* HH is the positive class */

typedef struct qnet_resnet_config {
    int height, width; /* of the input, >= 32 */
    int channels;      /* 3: QSM, R2*, T1W */
    int classes;       /* 2 */
    int batch;         /* the largest batch that will be asked for; below 16 it also decides, with
                          the size, how the deepest maps are computed, and so about last bits */
    int training;      /* 0: forward only, in far less memory */
} qnet_resnet_config;
QNET_API void qnet_resnet_config_init(qnet_resnet_config *config); /* 224x224x3, 2, 64, training */

/* Owns one block: weights, gradients, activations. The fields may be read; weights written. */
typedef struct qnet_resnet {
    qnet_context *ctx;
    qnet_resnet_config config;
    const qnet_param_table *table;
    qnet_real *weights;   /* [table->total] */
    qnet_real *gradients; /* [table->trainable]; NULL unless training */
    size_t bytes;         /* of the whole block */
    struct qnet__resnet_state *state;
} qnet_resnet;

/* Bytes that qnet_resnet_create will ask for, 0 for a configuration that is out of range. */
QNET_API size_t qnet_resnet_bytes(qnet_context *ctx, const qnet_resnet_config *config);
QNET_API qnet_status qnet_resnet_create(qnet_context *ctx, const qnet_resnet_config *config,
                                        qnet_resnet **out);
QNET_API void qnet_resnet_destroy(qnet_resnet *net);
/* Packs the weights in the form that the kernels read, once instead of in every forward pass: for
   a network with training = 0 that serves many small batches. After a change of the weights, call
   it again. The memory comes from the allocator, beside qnet_resnet_bytes: 36 numbers for 9 where
   Winograd's form is used, up to 158 MB in float. It goes with the network. Results keep their
   bits. */
QNET_API qnet_status qnet_resnet_pack(qnet_resnet *net);
/* The plan of the network as a table, a row per convolution: its algorithm, and where in the block
   (in MB) its output is kept, and the output of the norm and ReLU after it ("-": that is not kept,
   but worked out where it is read). Like snprintf: text[size] gets whole lines, and the length that
   all of them have comes back; text may be NULL if size is 0. */
QNET_API size_t qnet_resnet_plan_text(const qnet_resnet *net, char *text, size_t size);
/* Random weights: convolutions Kaiming normal (fan out), fc U(+-1/sqrt(512)), batch norms 1 and 0,
   as torchvision does. Where ImageNet weights are at hand, load them after this. */
QNET_API void qnet_resnet_init(qnet_resnet *net, uint64_t seed);
/* x[batch][height][width][channels]. With running statistics ("eval mode"), where an image has the
   same bits in any batch (and in any network whose largest batch is 16 or more), or, when `train`,
   with those of the batch, which also moves the running ones and keeps what the backward pass
   needs.
   logits[batch][classes] and features[batch][512] may be NULL. */
QNET_API qnet_status qnet_resnet_forward(qnet_resnet *net, const qnet_real *x, int batch, int train,
                                         qnet_real *logits, qnet_real *features);
/* Fills net->gradients from dlogits[batch][classes], after a forward pass with train = 1 of the
   same batch; x as then. It uses up what that pass kept: one backward pass per forward pass. */
QNET_API qnet_status qnet_resnet_backward(qnet_resnet *net, const qnet_real *x, int batch,
                                          const qnet_real *dlogits);
/* Momentum of the running statistics; default .1. Re-estimation (SWA) sets 1/k for batch k. */
QNET_API void qnet_resnet_set_momentum(qnet_resnet *net, double momentum);
/* The last block's output of the last forward pass: [batch][h][w][512], after ReLU; for CAM. A
   backward pass uses it up. */
QNET_API qnet_tensor qnet_resnet_feature_map(const qnet_resnet *net);

/* ============================================================================================
   API 8. The scan-level model (paper, "Stage 2", Fig. 4): one BiLSTM layer over the features of a
   scan's slices, an FC head on each step (image level) and an FC head on all steps' outputs
   concatenated (scan level). Scans of fewer than `steps` slices are padded and masked.
   ============================================================================================ */

typedef struct qnet_scan_config {
    int features; /* 512 */
    int hidden;   /* 256 per direction */
    int steps;    /* 24: the largest number of slices of a scan */
    int classes;  /* 2 */
    int batch;    /* 64: the largest number of scans in a batch */
    int training;
} qnet_scan_config;
QNET_API void qnet_scan_config_init(qnet_scan_config *config);

typedef struct qnet_scan_model {
    qnet_context *ctx;
    qnet_scan_config config;
    const qnet_param_table *table; /* lstm.*, image_head.*, scan_head.* */
    qnet_real *weights, *gradients;
    size_t bytes;
    struct qnet__scan_state *state;
} qnet_scan_model;

QNET_API size_t qnet_scan_model_bytes(qnet_context *ctx, const qnet_scan_config *config);
QNET_API qnet_status qnet_scan_model_create(qnet_context *ctx, const qnet_scan_config *config,
                                            qnet_scan_model **out);
QNET_API void qnet_scan_model_destroy(qnet_scan_model *model);
QNET_API void qnet_scan_model_init(qnet_scan_model *model, uint64_t seed); /* PyTorch's defaults */
/* x[batch][steps][features], length[batch] in 1..steps; image_logits[batch][steps][classes] (zero
   at padded steps) and scan_logits[batch][classes] may be NULL. */
QNET_API qnet_status qnet_scan_model_forward(qnet_scan_model *model, const qnet_real *x,
                                             const int *length, int batch, qnet_real *image_logits,
                                             qnet_real *scan_logits);
QNET_API qnet_status qnet_scan_model_backward(qnet_scan_model *model, const qnet_real *x,
                                              const int *length, int batch,
                                              const qnet_real *dimage_logits,
                                              const qnet_real *dscan_logits);
/* Both losses of a batch and the whole step's gradients: CE(scan) + CE(image), 1:1. */
QNET_API qnet_status qnet_scan_model_loss(qnet_scan_model *model, const qnet_real *x,
                                          const int *length, const int *scan_label, int batch,
                                          double *image_loss, double *scan_loss, int backward);

/* ============================================================================================
   API 9. Optimisation.
   ============================================================================================ */

typedef struct qnet_adam_config {
    double beta1, beta2, eps;
} qnet_adam_config; /* Kingma & Ba 2014 */
QNET_API void qnet_adam_config_init(qnet_adam_config *config);                  /* .9, .999, 1e-8 */
/* Step number t (from 1) of Adam on p[count]; m and v start at zero:
   m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr/(1-b1^t) m / (sqrt(v)/sqrt(1-b2^t) + eps). */
QNET_API void qnet_adam_step(qnet_context *ctx, const qnet_adam_config *config, size_t count,
                             qnet_real *p, const qnet_real *g, qnet_real *m, qnet_real *v,
                             double learning_rate, uint64_t t);
/* eta_min + (eta_0 - eta_min)(1 + cos(pi epoch/epochs))/2 (Loshchilov & Hutter 2017). */
QNET_API double qnet_cosine_rate(double eta_0, double eta_min, int epoch, int epochs);
/* average += (p - average) / (n + 1), where n weights have been averaged so far (0: a copy). */
QNET_API void qnet_swa_update(qnet_context *ctx, size_t count, qnet_real *average,
                              const qnet_real *p, uint64_t n);

/* ============================================================================================
   API 10. Weight files: safetensors, with torchvision's names and layouts in the file. A program
   that includes weights_tools/pth.h and sets hooks.weights reads PyTorch's .pth by path as well.
   ============================================================================================ */

typedef enum qnet_dtype {
    QNET_F64, QNET_F32, QNET_F16, QNET_BF16,
    QNET_I64, QNET_I32, QNET_I16, QNET_I8, QNET_U64, QNET_U32, QNET_U16, QNET_U8,
    QNET_BOOL
} qnet_dtype;
QNET_API size_t qnet_dtype_size(qnet_dtype dtype);
QNET_API const char *qnet_dtype_name(qnet_dtype dtype); /* "F32" */

typedef struct qnet_safetensor {
    char name[128];
    qnet_dtype dtype;
    int ndim;
    size_t shape[8];
    size_t count, bytes;
    const void *data; /* little-endian, as in the file */
} qnet_safetensor;
typedef struct qnet_metadata { char key[64]; char *value; } qnet_metadata;

/* A parsed file: owns its bytes. */
typedef struct qnet_safetensors {
    qnet_context *ctx;
    qnet_safetensor *tensors; int count;
    qnet_metadata *metadata; int metadata_count;
    void *block; size_t block_bytes;
} qnet_safetensors;
QNET_API qnet_status qnet_safetensors_read(qnet_context *ctx, qnet_source *source,
                                           qnet_safetensors **out);
QNET_API void qnet_safetensors_destroy(qnet_safetensors *file);
QNET_API const qnet_safetensor *qnet_safetensors_find(const qnet_safetensors *file,
                                                      const char *name);
QNET_API const char *qnet_safetensors_metadata(const qnet_safetensors *file,
                                               const char *key); /* or NULL */
/* Tensors in the order given; data in host order. */
QNET_API qnet_status qnet_safetensors_write(qnet_context *ctx, qnet_sink *sink,
                                            const qnet_safetensor *tensors, int count,
                                            const char *const *metadata_pairs, int pairs);

/* Copies a file's tensors into a block with this table: every name and shape must be there, float
   types convert. num_batches_tracked may be missing. With `replace_head`, an fc / head of another
   number of classes is left as it is in block and *head_replaced is set. Nothing is copied on
   error. */
QNET_API qnet_status qnet_weights_from_safetensors(qnet_context *ctx, const qnet_safetensors *file,
                                                   const qnet_param_table *table, qnet_real *block,
                                                   int replace_head, int *head_replaced);
/* metadata_pairs: key, value, key, value, ...; `pairs` of them. */
QNET_API qnet_status qnet_weights_write(qnet_context *ctx, qnet_sink *sink,
                                        const qnet_param_table *table, const qnet_real *block,
                                        const char *const *metadata_pairs, int pairs);
#ifndef QNET_NO_STDIO
QNET_API qnet_status qnet_safetensors_load(qnet_context *ctx, const char *path,
                                           qnet_safetensors **out);
QNET_API qnet_status qnet_weights_load(qnet_context *ctx, const char *path,
                                       const qnet_param_table *table, qnet_real *block,
                                       int replace_head, int *head_replaced);
QNET_API qnet_status qnet_weights_save(qnet_context *ctx, const char *path,
                                       const qnet_param_table *table, const qnet_real *block,
                                       const char *const *metadata_pairs, int pairs);
#endif

/* ============================================================================================
   API 11. Volumes and NIfTI-1 (.nii, .nii.gz).
   ============================================================================================ */

/* voxels[nz][ny][nx], x fastest, in file order: nothing is flipped when it is read. */
typedef struct qnet_volume {
    qnet_context *ctx;
    int nx, ny, nz;
    double spacing[3];   /* mm */
    double affine[3][4]; /* voxel index to mm, RAS+: x to the right, y to the front, z up */
    char orientation[4]; /* what each axis points to, "RAS", "LAS", ...; from the affine */
    int affine_source;   /* 2: sform, 1: qform, 0: neither in the file, spacing only */
    float *voxels;
} qnet_volume;

typedef enum qnet_nifti_type { /* NIfTI-1 datatype codes */
    QNET_NIFTI_UINT8 = 2, QNET_NIFTI_INT8 = 256,
    QNET_NIFTI_INT16 = 4, QNET_NIFTI_UINT16 = 512,
    QNET_NIFTI_INT32 = 8, QNET_NIFTI_UINT32 = 768,
    QNET_NIFTI_INT64 = 1024, QNET_NIFTI_UINT64 = 1280,
    QNET_NIFTI_FLOAT32 = 16, QNET_NIFTI_FLOAT64 = 64
} qnet_nifti_type;
typedef struct qnet_nifti_options {
    qnet_nifti_type type;    /* of the voxels in the file */
    /* voxel = stored * slope + intercept; slope 0 means none. Integer types round: susceptibility
       in ppm needs a slope, such as 1e-4, or all of it becomes 0. */
    double slope, intercept;
    int gzip;                /* 1: compressed; qnet_nifti_save goes by the name instead */
    int big_endian;
    const char *description; /* at most 79 characters; NULL: none */
} qnet_nifti_options;

QNET_API qnet_status qnet_volume_create(qnet_context *ctx, int nx, int ny, int nz,
                                        qnet_volume **out);
QNET_API void qnet_volume_destroy(qnet_volume *volume);
/* Reads a single-file NIfTI-1 with one 3-D volume, compressed or not (told by its first bytes), of
   any scalar type and either byte order, scl_slope and scl_inter applied. 4-D files with more than
   one volume, complex, RGB and .hdr/.img pairs are errors that say so. NaN and infinity stay. */
QNET_API qnet_status qnet_nifti_read(qnet_context *ctx, qnet_source *source, qnet_volume **out);
/* Stored values are rounded to nearest and must fit the type, or QNET_ERROR_DATA. */
QNET_API qnet_status qnet_nifti_write(qnet_context *ctx, qnet_sink *sink, const qnet_volume *volume,
                                      const qnet_nifti_options *options);
QNET_API void qnet_nifti_options_init(qnet_nifti_options *options); /* float32, gzip */
#ifndef QNET_NO_STDIO
QNET_API qnet_status qnet_nifti_load(qnet_context *ctx, const char *path, qnet_volume **out);
/* Compressed if and only if the name ends in .gz; options NULL: float32. */
QNET_API qnet_status qnet_nifti_save(qnet_context *ctx, const char *path, const qnet_volume *volume,
                                     const qnet_nifti_options *options);
#endif
/* Permutes and flips the axes, and the affine with them, so that the orientation becomes `to`,
   such as "RAS". World coordinates of every voxel stay the same. */
QNET_API qnet_status qnet_volume_reorient(qnet_volume *volume, const char *to);

/* Inflate (RFC 1951) of a gzip member or members (RFC 1952), CRC checked; deflate likewise. */
QNET_API qnet_status qnet_gzip_decompress(qnet_context *ctx, const void *bytes, size_t size,
                                          size_t limit, qnet_buffer *out);
QNET_API qnet_status qnet_gzip_compress(qnet_context *ctx, const void *bytes, size_t size,
                                        qnet_buffer *out);
QNET_API uint32_t qnet_crc32(uint32_t crc, const void *bytes, size_t size); /* start with 0 */

/* PNG of rgb[height][width][channels], 8 bits, channels 1 (grey) or 3. */
QNET_API qnet_status qnet_png_write(qnet_context *ctx, qnet_sink *sink, int width, int height,
                                    int channels, const uint8_t *pixels);
#ifndef QNET_NO_STDIO
QNET_API qnet_status qnet_png_save(qnet_context *ctx, const char *path, int width, int height,
                                   int channels, const uint8_t *pixels);
#endif

/* ============================================================================================
   API 12. Images: histogram stretching and augmentation (paper, "Data Augmentation"). In its order
   and with its probabilities: histogram stretching (1), horizontal flip (.5), vertical flip (.5),
   brightness and contrast (.7), random gamma (.3), grid distortion (.25), shift-scale-rotate (.5),
   crop (1); at test time the first and the last only. Ranges are those of Albumentations.
   An image is float pixels[height][width][3]: QSM (ppm), R2* (1/s), T1W (any unit).
   ============================================================================================ */

typedef enum qnet_stretch {
    /* per image and channel: the 1st..99th percentile of the non-zero pixels */
    QNET_STRETCH_PERCENTILE,
    /* fixed physical windows, which keep the iron level absolute; T1W by percentile */
    QNET_STRETCH_WINDOW
} qnet_stretch;

typedef struct qnet_augment_config {
    qnet_stretch stretch;
    double percentile_low, percentile_high;   /* 1, 99 */
    double window_low[3], window_high[3];     /* -.2 .2 ppm; 0 60 1/s; low = high: percentile */
    double p_hflip, p_vflip, p_brightness_contrast; /* .5 .5 .7 */
    double p_gamma, p_grid, p_affine;         /* .3 .25 .5 */
    double brightness, contrast;              /* limits .2, .2 */
    double gamma_low, gamma_high;             /* 80, 120 percent */
    double grid_limit;                        /* .3, with 5 steps */
    double shift, scale, rotate;              /* .0625, .1, 45 degrees */
    int physics_safe; /* 1: no brightness, contrast, gamma, vertical flip: not of this physics */
    double mean[3], std[3]; /* the network's input is (stretched - mean) / std; 0 and 1 */
} qnet_augment_config;
QNET_API void qnet_augment_config_init(qnet_augment_config *config);
/* mean .485 .456 .406, std .229 .224 .225: for ImageNet weights (torchvision). */
QNET_API void qnet_augment_config_imagenet(qnet_augment_config *config);

#define QNET_GRID_STEPS 5
/* What one image got: drawn first, applied second; the record that replays it. */
typedef struct qnet_augmentation {
    int hflip, vflip;
    int brightness_contrast; double alpha, beta;  /* v * alpha + beta, clipped to 0..1 */
    int gamma_on; double gamma;                   /* v ^ gamma */
    int grid; double grid_x[QNET_GRID_STEPS + 1], grid_y[QNET_GRID_STEPS + 1];
    int affine; double angle, scale, dx, dy;      /* degrees; dx, dy as shares of width, height */
    int crop_y, crop_x;                           /* offset of the output in the prepared image */
} qnet_augmentation;

/* The parameters of an image of in_h x in_w for an output of out_h x out_w, out <= in. */
QNET_API qnet_augmentation qnet_augment_draw(const qnet_augment_config *config, qnet_rng *rng,
                                             int in_h, int in_w, int out_h, int out_w);
/* The test-time parameters: nothing but the central crop. */
QNET_API qnet_augmentation qnet_augment_test(int in_h, int in_w, int out_h, int out_w);
/* Stretches pixels[in_h][in_w][3], applies the record with all geometry in one resampling
   (bilinear, reflect-101), normalises by config->mean and std, and writes out[out_h][out_w][3].
   scratch: qnet_augment_scratch bytes. */
QNET_API size_t qnet_augment_scratch(int in_h, int in_w);
QNET_API qnet_status qnet_augment_apply(qnet_context *ctx, const qnet_augment_config *config,
                                        const qnet_augmentation *record, const float *pixels,
                                        int in_h, int in_w, qnet_real *out, int out_h, int out_w,
                                        void *scratch);
/* The pieces: low[3] and high[3] of the stretch, and the map itself, clipped to 0..1. */
QNET_API qnet_status qnet_stretch_limits(qnet_context *ctx, const qnet_augment_config *config,
                                         const float *pixels, size_t count, float low[3],
                                         float high[3], void *scratch);
QNET_API void qnet_stretch_apply(const float *pixels, size_t count, const float low[3],
                                 const float high[3], float *out);
/* Source coordinate (x, y) in the prepared image of output pixel (out_x, out_y) under a record. */
QNET_API void qnet_augment_map(const qnet_augmentation *record, int in_h, int in_w, int out_x,
                               int out_y, double *x, double *y);
/* Bilinear resize of in[in_h][in_w][channels], pixel centres aligned (half-pixel convention). */
QNET_API void qnet_image_resize(const float *in, int in_h, int in_w, int channels, float *out,
                                int out_h, int out_w);

/* ============================================================================================
   API 13. Cohorts: scans on disk to images in memory (paper, "Data Preparation": the slices with
   the basal ganglia, full-size or cropped to them), and subject-wise folds ("Training Procedure").
   ============================================================================================ */

typedef enum qnet_sex { QNET_SEX_UNKNOWN, QNET_MALE, QNET_FEMALE } qnet_sex;
typedef enum qnet_input { QNET_INPUT_CROP, QNET_INPUT_FULL } qnet_input;
QNET_API const char *qnet_input_name(qnet_input input); /* "crop", "full" */

typedef struct qnet_input_config {
    qnet_input input;
    int size;          /* side of the network's input: 224 cropped, 256 full; >= 32 */
    double box_mm;     /* 96: side of the box around the basal ganglia that fills a cropped image */
    double margin;     /* .08: the prepared cropped image is larger by this share on each side */
    int max_slices;    /* 24: the central ones of those that hold the mask */
    int slice_first, slice_count; /* explicit range along z, upwards from 0; count 0: by the mask */
    double box_center_mm[2];      /* explicit centre (x right, y front); used when box_explicit */
    int box_explicit;
    const char *derivatives;      /* folder under derivatives/; NULL: the one that holds the maps */
} qnet_input_config;
QNET_API void qnet_input_config_init(qnet_input_config *config, qnet_input input);

/* One scan: T slices, lowest first. Rows run from the front of the head, columns from the patient's
   right (radiological convention). Pixels are physical values, before stretching; 0 outside. */
typedef struct qnet_scan {
    char subject[64];
    qnet_label label;
    double age;         /* years; NaN: unknown */
    qnet_sex sex;
    int slices;
    const int *slice_z; /* [slices]: index along z after orientation to RAS */
    const float *pixels; /* [slices][height][width][3] */
    uint64_t hash;      /* of the pixels */
} qnet_scan;

typedef struct qnet_cohort {
    qnet_context *ctx;
    qnet_input_config config;
    int scans_count, height, width; /* prepared size: config.size plus margins */
    qnet_scan *scans;
    void *block; size_t block_bytes;
} qnet_cohort;

/* Slice t of a scan: pixels[height][width][3]. */
QNET_API const float *qnet_scan_slice(const qnet_cohort *cohort, int scan, int t);

/* A cohort from maps in memory: all three must share a grid; mask may be NULL with explicit ranges
   in the config. Used by qnet_cohort_read and by programs that have volumes already. */
typedef struct qnet_scan_maps {
    const char *subject;
    qnet_label label; double age; qnet_sex sex;
    qnet_volume *qsm, *r2star, *t1w, *mask; /* reoriented to RAS in place */
} qnet_scan_maps;
/* Prepares one scan into pixels: *slices, slice_z[max_slices], pixels[max_slices][h][w][3]. */
QNET_API qnet_status qnet_scan_prepare(qnet_context *ctx, const qnet_input_config *config,
                                       const qnet_scan_maps *maps, int *slices, int *slice_z,
                                       float *pixels);
/* Side of the prepared image: size plus margins for a crop, size for the full image. */
QNET_API int qnet_input_prepared(const qnet_input_config *config);
/* An empty cohort with room for `scans` scans; qnet_cohort_add prepares and copies. */
QNET_API qnet_status qnet_cohort_create(qnet_context *ctx, const qnet_input_config *config,
                                        int scans, qnet_cohort **out);
QNET_API qnet_status qnet_cohort_add(qnet_cohort *cohort, const qnet_scan_maps *maps);
QNET_API void qnet_cohort_destroy(qnet_cohort *cohort);
#ifndef QNET_NO_STDIO
/* Reads a BIDS-like folder: participants.tsv (participant_id age sex group(HH|HC)) and per subject
   *_Chimap, *_R2starmap, *_T1w and, optionally, *_desc-basalganglia_mask (.nii.gz or .nii) under
   derivatives/<tool>/sub-X/anat or sub-X/anat. A NaN voxel, an all-zero slice, a missing map or a
   grid that differs is an error that names file and subject. */
QNET_API qnet_status qnet_cohort_read(qnet_context *ctx, const char *folder,
                                      const qnet_input_config *config, qnet_cohort **out);
#endif

/* fold[i] in 0..folds-1 for scan i: stratified by label, over subjects, seeded; all scans of a
   subject share a fold. QNET_ERROR_ARGUMENT: more folds than a class has subjects. */
QNET_API qnet_status qnet_folds_create(qnet_context *ctx, const qnet_cohort *cohort, int folds,
                                       uint64_t seed, int *fold);
/* QNET_ERROR_LEAK, with the subject's name, when one is in two folds. */
QNET_API qnet_status qnet_folds_check(qnet_context *ctx, const qnet_cohort *cohort, int folds,
                                      const int *fold);

/* ============================================================================================
   API 14. Training (paper, "Training Procedure").
   ============================================================================================ */

typedef struct qnet_stage1_config {
    int epochs, batch;                 /* 100, 64 */
    double rate_first, rate_last;      /* 3e-4 to 1e-4 by cosine annealing, per epoch */
    int swa;                           /* 1: stochastic weight averaging in the last epochs */
    double swa_share, swa_rate;        /* the last .25 of the epochs, at a constant 1e-4 */
    qnet_adam_config adam;
    qnet_augment_config augment;
    int size;                          /* side of the network's input */
    uint64_t seed;
} qnet_stage1_config;
QNET_API void qnet_stage1_config_init(qnet_stage1_config *config);
/* First epoch (from 0) whose weights are averaged: epochs - max(1, round(swa_share * epochs)). */
QNET_API int qnet_stage1_swa_start(const qnet_stage1_config *config);

typedef struct qnet_epoch {
    double loss, learning_rate, seconds;
} qnet_epoch; /* stage 2: scan + image */

/* A training run: network, optimiser, averages, history; owns its memory. An epoch visits every
   training image once, in batches of nearly equal size, none above `batch`. */
typedef struct qnet_stage1 {
    qnet_context *ctx;
    qnet_stage1_config config;
    const qnet_cohort *cohort;
    qnet_resnet *net;
    int epoch;            /* epochs done */
    qnet_epoch *history;  /* [config.epochs] */
    uint64_t step;        /* Adam steps done */
    int averaged;         /* weights averaged so far */
    int finished;         /* qnet_stage1_finish has run: net holds the result */
    struct qnet__stage1_state *state;
} qnet_stage1;

/* scans[count]: the training scans, as indices into the cohort. label_of[cohort->scans_count]
   replaces the cohort's labels when not NULL (shuffled-label control). weights (NULL: random):
   a block with qnet_resnet's table to start from. */
QNET_API qnet_status qnet_stage1_create(qnet_context *ctx, const qnet_stage1_config *config,
                                        const qnet_cohort *cohort, const int *scans, int count,
                                        const int *label_of, const qnet_real *weights,
                                        qnet_stage1 **out);
QNET_API void qnet_stage1_destroy(qnet_stage1 *run);
/* One epoch. QNET_STOPPED leaves the run unusable but for qnet_stage1_load and _destroy;
   QNET_ERROR_NUMERIC names epoch and step. */
QNET_API qnet_status qnet_stage1_epoch(qnet_stage1 *run);
/* Ends the run: with SWA takes the averaged weights and re-estimates all batch-norm statistics over
   the training images, augmentation off (Izmailov et al. 2018). */
QNET_API qnet_status qnet_stage1_finish(qnet_stage1 *run);
/* Checkpoints: a safetensors file with weights, Adam's moments, SWA average, epoch, history, seeds
   and configuration; loading continues with the same bits. QNET_ERROR_MISMATCH when the
   configuration, the cohort or the scans differ; a run without SWA may be loaded into one with SWA
   as long as its epoch is not past qnet_stage1_swa_start: up to there they are the same run. */
QNET_API qnet_status qnet_stage1_write(qnet_stage1 *run, qnet_sink *sink);
QNET_API qnet_status qnet_stage1_read(qnet_stage1 *run, qnet_source *source);
#ifndef QNET_NO_STDIO
QNET_API qnet_status qnet_stage1_save(qnet_stage1 *run, const char *path);
QNET_API qnet_status qnet_stage1_load(qnet_stage1 *run, const char *path);
/* All remaining epochs and the finish; saves to checkpoint (NULL: nowhere) after every epoch. */
QNET_API qnet_status qnet_stage1_run(qnet_stage1 *run, const char *checkpoint);
#endif

/* Test-time forward pass of whole scans: features[count][max_slices][512] (zero beyond a scan's
   slices) and probability[count][max_slices] of HH; either may be NULL. net's batch bounds the
   work done at once and does not change the result. */
QNET_API qnet_status qnet_embed(qnet_resnet *net, const qnet_augment_config *augment,
                                const qnet_cohort *cohort, const int *scans, int count,
                                qnet_real *features, double *probability);

typedef struct qnet_stage2_config {
    int epochs, batch;     /* 50, 64 */
    double rate;           /* 3e-4, fixed */
    qnet_adam_config adam;
    int hidden, steps;     /* 256, 24 */
    uint64_t seed;
} qnet_stage2_config;
QNET_API void qnet_stage2_config_init(qnet_stage2_config *config);

typedef struct qnet_stage2 {
    qnet_context *ctx;
    qnet_stage2_config config;
    qnet_scan_model *model;
    int epoch;
    qnet_epoch *history;
    uint64_t step;
    struct qnet__stage2_state *state;
} qnet_stage2;
/* features[count][steps][512] (copied), length[count], label[count]: the frozen embedding's. */
QNET_API qnet_status qnet_stage2_create(qnet_context *ctx, const qnet_stage2_config *config,
                                        const qnet_real *features, const int *length,
                                        const int *label, int count, qnet_stage2 **out);
QNET_API void qnet_stage2_destroy(qnet_stage2 *run);
QNET_API qnet_status qnet_stage2_epoch(qnet_stage2 *run);
QNET_API qnet_status qnet_stage2_write(qnet_stage2 *run, qnet_sink *sink);
QNET_API qnet_status qnet_stage2_read(qnet_stage2 *run, qnet_source *source);
#ifndef QNET_NO_STDIO
QNET_API qnet_status qnet_stage2_save(qnet_stage2 *run, const char *path);
QNET_API qnet_status qnet_stage2_load(qnet_stage2 *run, const char *path);
QNET_API qnet_status qnet_stage2_run(qnet_stage2 *run, const char *checkpoint);
#endif
/* image[count][steps] and scan[count]: probability of HH. The model's batch bounds the work done
   at once. */
QNET_API qnet_status qnet_scan_model_predict(qnet_scan_model *model, const qnet_real *features,
                                             const int *length, int count, double *image,
                                             double *scan);

/* ============================================================================================
   API 15. Evaluation (paper, "Results"). label 1 is HH, the positive class; all in double.
   ============================================================================================ */

typedef struct qnet_confusion { size_t tp, fn, tn, fp; } qnet_confusion;
typedef struct qnet_interval { double low, high; } qnet_interval;
typedef struct qnet_metrics {
    qnet_confusion count;
    double accuracy, sensitivity, specificity; /* NaN where the class is empty */
    double precision;
    double f1;          /* support-weighted mean over both classes: what the paper prints */
    double f1_hh, f1_hc, f1_macro;
    qnet_interval accuracy_ci, sensitivity_ci, specificity_ci; /* Wilson, 95 % */
} qnet_metrics;
/* decision[i] and label[i] are 0 or 1. */
QNET_API qnet_status qnet_metrics_from(qnet_context *ctx, const int *label, const int *decision,
                                       size_t count, qnet_metrics *out);
QNET_API qnet_metrics qnet_metrics_of(qnet_confusion count);
/* Wilson score interval of successes/trials at level, such as .95; 0..1 when trials is 0; NaN for
   more successes than trials or a level outside 0..1. */
QNET_API qnet_interval qnet_wilson(size_t successes, size_t trials, double level);
/* Majority vote over slices; a tie is HC: the paper asks for "more than". */
QNET_API int qnet_vote(const int *decision, size_t count);

/* ROC curve: points[0] = (0,0) ... (1,1), one point per distinct score, thresholds falling;
   decision is HH when score >= threshold. points has room for count + 1. */
typedef struct qnet_roc_point {
    double false_positive_rate, true_positive_rate, threshold;
} qnet_roc_point;
QNET_API qnet_status qnet_roc(qnet_context *ctx, const int *label, const double *score,
                              size_t count, qnet_roc_point *points, size_t *points_count);
/* Area under it = P(score of an HH > that of an HC) + half the ties. QNET_ERROR_DATA with one
   class. */
QNET_API qnet_status qnet_auc(qnet_context *ctx, const int *label, const double *score,
                              size_t count, double *auc);

/* DeLong, DeLong & Clarke-Pearson 1988, by the fast form of Sun & Xu 2014. */
typedef struct qnet_delong {
    double auc[2];
    double variance[2], covariance;
    double se;          /* of auc[0] - auc[1] */
    /* Two-sided. se = 0 gives z = 0, p = 1 where the AUCs are equal, and otherwise z = +-infinity,
       p = 0: perfect separation has no variance to test with; don't read it as certainty. */
    double z, p;
    qnet_interval ci[2]; /* of each AUC, normal, 95 %, clipped to 0..1 */
} qnet_delong;
/* score2 NULL: one curve, entries [1] and the test left zero. cluster NULL: each item for itself;
   otherwise items with equal cluster are one subject, and the variance is Obuchowski's (1997). */
QNET_API qnet_status qnet_delong_test(qnet_context *ctx, const int *label, const double *score1,
                                      const double *score2, const int *cluster, size_t count,
                                      qnet_delong *out);
/* "ns" for p above .05, "*" to .05, "**" to .01, "***" to .001, "****" to .0001 (paper, Table 2).
   "ns" for NaN, too. */
QNET_API const char *qnet_stars(double p);
QNET_API double qnet_normal_cdf(double z);
QNET_API double qnet_normal_quantile(double p);

typedef struct qnet_boxplot {
    double low, q1, median, q3, high, mean, std;
} qnet_boxplot; /* 2.5, 97.5 % ends */
/* AUCs of `resamples` bootstrap samples: items, or whole clusters where cluster is given, drawn
   with replacement; samples with one class are drawn again. auc[resamples] falls as drawn. */
QNET_API qnet_status qnet_bootstrap_auc(qnet_context *ctx, const int *label, const double *score,
                                        const int *cluster, size_t count, int resamples,
                                        uint64_t seed, double *auc);
/* Quartiles and percentile interval of values[count], by linear interpolation between order
   statistics. */
QNET_API qnet_status qnet_boxplot_of(qnet_context *ctx, const double *values, size_t count,
                                     qnet_boxplot *out);

/* ============================================================================================
   API 16. Class activation maps (Zhou et al. 2016; paper, Fig. 9 and 10).
   ============================================================================================ */

/* map[h][w] of net->config's input size, after a forward pass that held image `index` of the batch:
   sum over channels of fc.weight[class][channel] * features, bilinear to the image's size, scaled
   to 0..1. High (red) = evidence for the class. A flat map gives 0 everywhere, NaN or infinity in
   it QNET_ERROR_NUMERIC. raw (NULL: none) gets the map before scaling, [fh][fw]. */
QNET_API qnet_status qnet_cam(const qnet_resnet *net, int index, int class_index, float *map,
                              float *raw);
/* JET colours, 0.3 heat + 0.5 image, as rgb[height][width][3]; grey[height][width] in 0..1. */
QNET_API void qnet_cam_overlay(const float *map, const float *grey, int height, int width,
                               uint8_t *rgb);
QNET_API void qnet_jet(double value, uint8_t rgb[3]);

/* ============================================================================================
   API 17. The experiment: the paper's tables and figures for a cohort.
   ============================================================================================ */

typedef enum qnet_model_kind {
    QNET_MODEL_RESNET,
    QNET_MODEL_RESNET_SWA,
    QNET_MODEL_QNET,
    QNET_MODELS
} qnet_model_kind;
typedef enum qnet_level { QNET_LEVEL_IMAGE, QNET_LEVEL_SCAN, QNET_LEVELS } qnet_level;
QNET_API const char *qnet_model_name(qnet_model_kind model); /* "ResNet", "ResNetSWA", "Q-Net" */
QNET_API const char *qnet_level_name(qnet_level level);      /* "image", "scan" */

/* Numbers that change results; every one is written to results.json. */
typedef struct qnet_experiment_config {
    int use_input[2];             /* by qnet_input: 1, 1 */
    qnet_input_config input[2];
    int folds, repeats;           /* 10, 1 */
    int bootstrap;                /* 2000 resamples */
    int shuffle_labels;           /* 1: labels permuted over subjects; AUCs must fall to .5 */
    uint64_t seed;                /* 1; stages and folds derive theirs from it */
    qnet_stage1_config stage1;    /* size, seed: set by the experiment */
    qnet_stage2_config stage2;    /* steps, seed: set by the experiment */
    int cam_scans;                /* 3: scans of each class whose CAMs are drawn */
} qnet_experiment_config;
QNET_API void qnet_experiment_config_init(qnet_experiment_config *config);

/* One test item: a slice, or (slice = -1) a scan. Each model never saw its subject in training. */
typedef struct qnet_item {
    int scan, slice, z;       /* index in the cohort; slice within the scan; its z in the volume */
    int fold, label;
    double probability[QNET_MODELS]; /* of HH; voting models at scan level: mean over slices */
    int decision[QNET_MODELS];       /* voting models at scan level: the majority vote */
} qnet_item;

typedef struct qnet_mean_std { double mean, std; } qnet_mean_std;
/* One line of Tables 1 and 3. mean and std over repeats; with one repeat, the value over all test
   items and the standard deviation over folds. */
typedef struct qnet_model_result {
    qnet_mean_std accuracy, sensitivity, specificity, f1, auc;
    qnet_metrics first;        /* of the first repeat, with Wilson intervals */
    double auc_first;
    qnet_interval auc_ci, auc_ci_clustered; /* DeLong: by item, by subject */
    qnet_roc_point *roc; size_t roc_count;
    qnet_boxplot bootstrap, bootstrap_clustered;
} qnet_model_result;

typedef struct qnet_pair_result {
    qnet_model_kind model1, model2;
    qnet_delong by_item, by_subject;
} qnet_pair_result;

/* All of one input configuration and level. ROC, DeLong and bootstrap use the first repeat. */
typedef struct qnet_level_result {
    size_t count;                /* items of one repeat */
    qnet_item *items;            /* [repeats][count] */
    qnet_model_result model[QNET_MODELS];
    qnet_pair_result pair[3]; /* ResNetSWA-ResNet, Q-Net-ResNet, Q-Net-ResNetSWA, as in Table 2 */
} qnet_level_result;

typedef struct qnet_cam_picture {
    int scan, slice, width, height;
    uint8_t *rgb;
    uint8_t *grey_rgb;
    double probability;
} qnet_cam_picture;
typedef struct qnet_curve {
    int input, repeat, fold, kind;
    int epochs;
    qnet_epoch *epoch;
} qnet_curve; /* kind: model trained */

typedef struct qnet_participant {
    char subject[64];
    qnet_label label;
    double age;
    qnet_sex sex;
    int slices;
} qnet_participant;

typedef struct qnet_experiment {
    qnet_context *ctx;
    qnet_experiment_config config;
    char data[512], out[512], weights[512]; /* folders as given; "" where none */
    int participants_count; qnet_participant *participants;
    int *fold;                               /* [participants_count], first repeat */
    qnet_level_result level[2][QNET_LEVELS]; /* by qnet_input, qnet_level */
    qnet_curve *curves; int curves_count;
    qnet_cam_picture *cams[2]; int cams_count[2];
    uint8_t *augmented[2]; /* Fig. 3: rgb sheet of the QSM channel; NULL if not run */
    int augmented_width[2], augmented_height[2];
    uint64_t cohort_hash[2], weights_hash; /* of the prepared pixels; of the initial weights file */
    double seconds;
} qnet_experiment;

#ifndef QNET_NO_STDIO
/* Runs the experiment on a BIDS-like folder. Work in progress lies in out/checkpoint; results.json,
   predictions.csv, manifest.json, report.html and weights/ appear when all is done, so that an
   earlier result stays whole on any failure. resume: goes on from out/checkpoint with the same
   bits. weights: a torchvision ResNet18 safetensors file, or NULL for random initial weights;
   with such a file, inputs that are not normalised otherwise get ImageNet's mean and std.
   QNET_ERROR_LEAK for weights that an experiment trained on these very subjects. */
QNET_API qnet_status qnet_experiment_run(qnet_context *ctx, const qnet_experiment_config *config,
                                         const char *data, const char *out, const char *weights,
                                         int resume, qnet_experiment **result);
/* The files that qnet_experiment_run writes at its end, one by one. */
QNET_API qnet_status qnet_experiment_save(const qnet_experiment *experiment, const char *out);
/* How the images were prepared for the network in a weights file that an experiment wrote: a
   deployment that reads it here can't get the preprocessing wrong. QNET_ERROR_MISMATCH for a file
   without that record. */
QNET_API qnet_status qnet_preparation_load(qnet_context *ctx, const char *weights_path,
                                           qnet_input_config *input, qnet_augment_config *augment);
#endif
QNET_API void qnet_experiment_destroy(qnet_experiment *experiment);
/* Tables 1, 2 and 3 in the paper's form, as text. */
QNET_API qnet_status qnet_experiment_tables(const qnet_experiment *experiment, qnet_buffer *text);
QNET_API qnet_status qnet_experiment_json(const qnet_experiment *experiment, qnet_buffer *json);
QNET_API qnet_status qnet_experiment_csv(const qnet_experiment *experiment, qnet_buffer *csv);
QNET_API qnet_status qnet_experiment_manifest(const qnet_experiment *experiment, qnet_buffer *json);
QNET_API qnet_status qnet_experiment_html(const qnet_experiment *experiment, qnet_buffer *html);

#ifdef __cplusplus
}
#endif
#endif /* QNET_H */

/* ---- END OF API: read no further to use the library, read on to audit it ------------------- */

#if defined(QNET_IMPLEMENTATION) && !defined(QNET_IMPLEMENTATION_DONE)
#define QNET_IMPLEMENTATION_DONE

/* ============================================================================================
   >>status: the names and texts of the status codes, and the small helpers that every room uses:
   checked sizes, byte order, minimum and maximum.
   ============================================================================================ */

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(_OPENMP) && !defined(QNET_NO_OPENMP)
#define QNET__OPENMP 1
#include <omp.h>
#endif
#ifndef QNET_NO_STDIO
#if defined(_WIN32)
#include <direct.h>
#include <io.h>
#include <sys/stat.h>
#include <sys/types.h>
#define QNET__WINDOWS 1
#elif defined(__unix__) || defined(__APPLE__) || defined(__HAIKU__)
#include <dirent.h>
#include <sys/stat.h>
#include <sys/types.h>
#define QNET__POSIX 1
#endif
#endif

/* QNET__REAL_IS_DOUBLE: the preprocessor cannot compare types, but it can paste their names. */
#define QNET__KIND_float 1
#define QNET__KIND_double 2
#define QNET__KIND_PASTE(type) QNET__KIND_##type
#define QNET__KIND(type) QNET__KIND_PASTE(type)
#if QNET__KIND(QNET_REAL) == 1
#define QNET__REAL_IS_DOUBLE 0
#elif QNET__KIND(QNET_REAL) == 2
#define QNET__REAL_IS_DOUBLE 1
#else
#error "qnet.h: QNET_REAL must be float or double"
#endif

/* QNET__X86: kernels with AVX2 or AVX-512 target attributes can be compiled and may be picked. */
#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__)) && \
    !defined(__TINYC__) && !defined(QNET_REFERENCE) && !defined(QNET_NO_SIMD) && \
    !QNET__REAL_IS_DOUBLE
#define QNET__X86 1
#include <cpuid.h>
#else
#define QNET__X86 0
#endif

/* QNET__NEON: the vectors of 64-bit ARM, which every such processor has. */
#if (defined(__GNUC__) || defined(__clang__)) && defined(__aarch64__) && \
    !defined(QNET_REFERENCE) && !defined(QNET_NO_SIMD) && !QNET__REAL_IS_DOUBLE
#define QNET__NEON 1
#else
#define QNET__NEON 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define QNET__RESTRICT __restrict__
#define QNET__PRINTF(text, first) __attribute__((format(printf, text, first)))
/* A helper that some configurations, such as QNET_NO_STDIO, do not call. */
#define QNET__HELPER static __attribute__((unused))
#elif defined(_MSC_VER)
#define QNET__RESTRICT __restrict
#define QNET__PRINTF(text, first)
#define QNET__HELPER static
#else
#define QNET__RESTRICT
#define QNET__PRINTF(text, first)
#define QNET__HELPER static
#endif

#define QNET__UNUSED(x) ((void)(x))

/* Returns from the function with the status of expr unless it is QNET_OK. */
#define QNET__TRY(expr)                                  \
    do {                                                 \
        qnet_status qnet__try_status = (expr);           \
        if (qnet__try_status != QNET_OK) {               \
            return qnet__try_status;                     \
        }                                                \
    } while (0)

QNET_API const char *qnet_status_text(qnet_status status)
{
    switch (status) {
#define QNET__STATUS_CASE(name, text) case name: return text;
        QNET_STATUS_LIST(QNET__STATUS_CASE)
#undef QNET__STATUS_CASE
    case QNET_STATUS_COUNT: break;
    }
    return "unknown status";
}

QNET_API const char *qnet_status_name(qnet_status status)
{
    switch (status) {
#define QNET__STATUS_CASE(name, text) case name: return #name;
        QNET_STATUS_LIST(QNET__STATUS_CASE)
#undef QNET__STATUS_CASE
    case QNET_STATUS_COUNT: break;
    }
    return "unknown status";
}

/* *out = a * b; 0 and *out untouched when the product does not fit. */
QNET__HELPER int qnet__mul(size_t a, size_t b, size_t *out)
{
    if (b != 0 && a > (size_t)-1 / b) {
        return 0;
    }
    *out = a * b;
    return 1;
}

/* *out = a + b; 0 and *out untouched when the sum does not fit. */
QNET__HELPER int qnet__add(size_t a, size_t b, size_t *out)
{
    if (a > (size_t)-1 - b) {
        return 0;
    }
    *out = a + b;
    return 1;
}

QNET__HELPER size_t qnet__min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

QNET__HELPER size_t qnet__max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

QNET__HELPER int qnet__min_int(int a, int b)
{
    return a < b ? a : b;
}

QNET__HELPER int qnet__max_int(int a, int b)
{
    return a > b ? a : b;
}

/* 1 for a number, 0 for NaN and the infinities. isfinite is a macro in C, a function in C++. */
QNET__HELPER int qnet__is_finite(double x)
{
    return x - x == 0.0;
}

QNET__HELPER int qnet__is_little_endian(void)
{
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 1;
}

/* Loads and stores of unaligned numbers in a stated byte order, whatever the machine's own is. */
QNET__HELPER uint16_t qnet__load_le16(const unsigned char *p)
{
    return (uint16_t)(p[0] | (unsigned)p[1] << 8);
}

QNET__HELPER uint32_t qnet__load_le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

QNET__HELPER uint64_t qnet__load_le64(const unsigned char *p)
{
    return (uint64_t)qnet__load_le32(p) | (uint64_t)qnet__load_le32(p + 4) << 32;
}

QNET__HELPER uint16_t qnet__load_be16(const unsigned char *p)
{
    return (uint16_t)((unsigned)p[0] << 8 | p[1]);
}

QNET__HELPER uint32_t qnet__load_be32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

QNET__HELPER uint64_t qnet__load_be64(const unsigned char *p)
{
    return (uint64_t)qnet__load_be32(p) << 32 | (uint64_t)qnet__load_be32(p + 4);
}

QNET__HELPER void qnet__store_le16(unsigned char *p, uint16_t v)
{
    p[0] = (unsigned char)(v & 255);
    p[1] = (unsigned char)(v >> 8);
}

QNET__HELPER void qnet__store_le32(unsigned char *p, uint32_t v)
{
    qnet__store_le16(p, (uint16_t)(v & 0xffff));
    qnet__store_le16(p + 2, (uint16_t)(v >> 16));
}

QNET__HELPER void qnet__store_le64(unsigned char *p, uint64_t v)
{
    qnet__store_le32(p, (uint32_t)(v & 0xffffffffu));
    qnet__store_le32(p + 4, (uint32_t)(v >> 32));
}

QNET__HELPER void qnet__store_be16(unsigned char *p, uint16_t v)
{
    p[0] = (unsigned char)(v >> 8);
    p[1] = (unsigned char)(v & 255);
}

QNET__HELPER void qnet__store_be32(unsigned char *p, uint32_t v)
{
    qnet__store_be16(p, (uint16_t)(v >> 16));
    qnet__store_be16(p + 2, (uint16_t)(v & 0xffff));
}

/* ============================================================================================
   >>context: the hooks with their defaults filled in, the kernels that the machine can run, and
   the private calls by which all other rooms reach memory, threads, log, progress and trace.
   ============================================================================================ */

#define QNET__ALIGN 64 /* a cache line, and the widest vector register */

struct qnet_context {
    qnet_hooks hooks;
    qnet_cpu cpu;     /* the kernels in force: never AUTO */
    char error[1024]; /* the sentence of the last failure */
};

/* Records the sentence of a failure; ctx may be NULL. */
QNET__HELPER QNET__PRINTF(2, 3) void qnet__set_error(qnet_context *ctx, const char *fmt, ...)
{
    /* Formatted aside first: an argument may be the last error itself. */
    char text[sizeof ((qnet_context *)0)->error];
    va_list args;
    if (ctx == NULL) {
        return;
    }
    va_start(args, fmt);
    if (vsnprintf(text, sizeof text, fmt, args) < 0) {
        text[0] = '\0';
    }
    va_end(args);
    memcpy(ctx->error, text, sizeof text);
}

/* Records the sentence and gives the status, so that a failure is one
       return qnet__fail(ctx, QNET_ERROR_X, "%s: expected ..., found ...", ...);
   A macro, because a compiler that sees which status is returned does not warn of out-parameters
   that a failure leaves unset. Not for tasks that run in parallel: they store a status, and their
   caller reports it. */
#define qnet__fail(ctx, status, ...) (qnet__set_error((ctx), __VA_ARGS__), (status))

/* Memory from the allocator hook: aligned to 64 bytes, not zeroed, NULL when there is none. */
QNET__HELPER void *qnet__alloc(qnet_context *ctx, size_t bytes)
{
    return ctx->hooks.allocator.alloc(ctx->hooks.allocator.user, bytes > 0 ? bytes : 1,
                                      QNET__ALIGN);
}

/* Gives back what qnet__alloc gave for the same number of bytes; p may be NULL. */
QNET__HELPER void qnet__free(qnet_context *ctx, void *p, size_t bytes)
{
    if (p != NULL) {
        ctx->hooks.allocator.free(ctx->hooks.allocator.user, p, bytes > 0 ? bytes : 1);
    }
}

QNET__HELPER qnet_status qnet__no_memory(qnet_context *ctx, size_t bytes, const char *what)
{
    return qnet__fail(ctx, QNET_ERROR_MEMORY, "no memory: %.0f bytes for %s", (double)bytes, what);
}

/* Carves one block into aligned pieces. A plan runs twice: with base NULL it only adds up `at`,
   the bytes to ask for; on the block itself it hands out the same pieces. */
typedef struct qnet__arena {
    unsigned char *base;
    size_t at;
} qnet__arena;

/* count * size bytes, aligned to 64; NULL while measuring. at = SIZE_MAX once a sum overflows,
   which no allocator will serve. */
QNET__HELPER void *qnet__take(qnet__arena *a, size_t count, size_t size)
{
    size_t bytes, end, start = a->at;
    if (!qnet__mul(count, size, &bytes) || !qnet__add(bytes, QNET__ALIGN - 1, &bytes) ||
        !qnet__add(start, bytes / QNET__ALIGN * QNET__ALIGN, &end)) {
        a->at = (size_t)-1;
        return NULL;
    }
    a->at = end;
    return a->base != NULL ? a->base + start : NULL;
}

/* Large blocks of the default allocator start at a huge page, and Linux is asked to use these: the
   first touch of memory then costs a fraction, and so does finding it. The name is bound by hand,
   as strict C99 hides the prototype. */
#if defined(__linux__) && (defined(__GNUC__) || defined(__clang__))
#define QNET__HUGE_PAGE ((size_t)2 << 20)
extern int qnet__madvise(void *block, size_t size, int advice) __asm__("madvise");
#define QNET__MADV_HUGEPAGE 14
#endif

/* The default allocator: malloc, with the pointer that free needs kept just below the block. */
static void *qnet__default_alloc(void *user, size_t size, size_t align)
{
    size_t bytes;
    unsigned char *raw, *block;
    QNET__UNUSED(user);
#ifdef QNET__HUGE_PAGE
    if (size >= 4 * QNET__HUGE_PAGE) {
        align = qnet__max_size(align, QNET__HUGE_PAGE);
    }
#endif
    if (!qnet__add(size, align + sizeof raw, &bytes)) {
        return NULL;
    }
    raw = (unsigned char *)malloc(bytes);
    if (raw == NULL) {
        return NULL;
    }
    block = raw + sizeof raw;
    block += (align - (size_t)((uintptr_t)block & (align - 1))) & (align - 1);
    memcpy(block - sizeof raw, &raw, sizeof raw);
#ifdef QNET__HUGE_PAGE
    if (size >= 4 * QNET__HUGE_PAGE) { /* advice only: whatever comes back */
        (void)qnet__madvise(block, size / QNET__HUGE_PAGE * QNET__HUGE_PAGE, QNET__MADV_HUGEPAGE);
    }
#endif
    return block;
}

static void qnet__default_free(void *user, void *ptr, size_t size)
{
    unsigned char *raw;
    QNET__UNUSED(user);
    QNET__UNUSED(size);
    memcpy(&raw, (unsigned char *)ptr - sizeof raw, sizeof raw);
    free(raw);
}

/* The default parallel hook: OpenMP's threads where the compiler has them, else a plain loop.
   user: the context. */
static void qnet__default_run(void *user, size_t count, qnet_task task, void *arg)
{
#ifdef QNET__OPENMP
    const qnet_context *ctx = (const qnet_context *)user;
    int threads = (int)ctx->hooks.parallel.workers;
    ptrdiff_t i; /* signed: OpenMP 2 demands it */
    #pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (i = 0; i < (ptrdiff_t)count; i++) {
        task(arg, (size_t)i, (size_t)omp_get_thread_num());
    }
#else
    size_t i;
    QNET__UNUSED(user);
    for (i = 0; i < count; i++) {
        task(arg, i, 0);
    }
#endif
}

static double qnet__default_seconds(void *user)
{
    QNET__UNUSED(user);
#if defined(QNET__OPENMP)
    return omp_get_wtime();
#elif defined(TIME_UTC)
    {
        struct timespec now;
        if (timespec_get(&now, TIME_UTC) == TIME_UTC) {
            return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
        }
        return (double)time(NULL);
    }
#else
    return (double)time(NULL);
#endif
}

#ifdef QNET_USE_CBLAS
#include <cblas.h>
/* The ready-made BLAS hook. */
static void qnet__cblas_sgemm(void *user, int trans_a, int trans_b, int m, int n, int k,
                              float alpha, const float *a, int lda, const float *b, int ldb,
                              float beta, float *c, int ldc)
{
    QNET__UNUSED(user);
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
#endif

/* The best kernels that this processor, its operating system and this build can run. AVX needs
   the system to save the wide registers: CPUID alone does not say so, XGETBV does (Intel SDM
   vol. 1, 14.3 and 15.2). */
static qnet_cpu qnet__detect_cpu(void)
{
#if QNET__X86
    const unsigned osxsave_avx_fma = 1u << 27 | 1u << 28 | 1u << 12;        /* leaf 1, ECX */
    const unsigned avx2 = 1u << 5;                                          /* leaf 7, EBX */
    const unsigned avx512_f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    unsigned a, b, c, d, xcr0, xcr0_high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & osxsave_avx_fma) != osxsave_avx_fma) {
        return QNET_CPU_SCALAR;
    }
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    QNET__UNUSED(xcr0_high);
    if ((xcr0 & 0x06u) != 0x06u || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & avx2) == 0) {
        return QNET_CPU_SCALAR; /* 0x06: the SSE and AVX registers */
    }
    if ((xcr0 & 0xe6u) != 0xe6u || (b & avx512_f_dq_bw_vl) != avx512_f_dq_bw_vl) {
        return QNET_CPU_AVX2;   /* 0xe0: the mask registers and both halves of the ZMM */
    }
    return QNET_CPU_AVX512;
#else
    return QNET__NEON ? QNET_CPU_NEON : QNET_CPU_SCALAR;
#endif
}

/* What was asked for, if this machine has it; else AUTO. */
static qnet_cpu qnet__choose_cpu(qnet_cpu wanted)
{
    const qnet_cpu best = qnet__detect_cpu();
#ifdef QNET_CPU_CHOICE
    const char *choice = QNET_CPU_CHOICE;
    if (wanted == QNET_CPU_AUTO && choice != NULL && qnet_cpu_parse(choice, &wanted) != QNET_OK) {
        return QNET_CPU_AUTO;
    }
#endif
    if (wanted == QNET_CPU_AUTO || wanted == best || wanted == QNET_CPU_SCALAR) {
        return wanted == QNET_CPU_AUTO ? best : wanted;
    }
    return wanted == QNET_CPU_AVX2 && best == QNET_CPU_AVX512 ? wanted : QNET_CPU_AUTO;
}

QNET_API qnet_status qnet_context_create(const qnet_hooks *hooks, qnet_context **out)
{
    qnet_context *ctx;
    qnet_hooks h;
    qnet_cpu cpu;
    if (out == NULL) {
        return QNET_ERROR_ARGUMENT;
    }
    memset(&h, 0, sizeof h);
    if (hooks != NULL) {
        h = *hooks;
    }
    cpu = qnet__choose_cpu(h.cpu);
    if ((h.allocator.alloc == NULL) != (h.allocator.free == NULL) || h.threads < 0 ||
        h.threads > 4096 || cpu == QNET_CPU_AUTO) {
        return QNET_ERROR_ARGUMENT;
    }
    if (h.parallel.run != NULL && h.parallel.run != qnet__default_run &&
        (h.parallel.workers < 1 || h.parallel.workers > 4096)) {
        return QNET_ERROR_ARGUMENT;
    }
    if (h.allocator.alloc == NULL) {
        h.allocator.alloc = qnet__default_alloc;
        h.allocator.free = qnet__default_free;
    }
    if (h.clock.seconds == NULL) {
        h.clock.seconds = qnet__default_seconds;
    }
#ifdef QNET_USE_CBLAS
    if (h.blas.sgemm == NULL) {
        h.blas.sgemm = qnet__cblas_sgemm;
    }
#endif
    ctx = (qnet_context *)h.allocator.alloc(h.allocator.user, sizeof *ctx, QNET__ALIGN);
    if (ctx == NULL) {
        return QNET_ERROR_MEMORY;
    }
    memset(ctx, 0, sizeof *ctx);
    /* The default run again: hooks were copied from another context, whose pointer they hold. */
    if (h.parallel.run == NULL || h.parallel.run == qnet__default_run) {
        h.parallel.user = ctx;
        h.parallel.run = qnet__default_run;
#ifdef QNET__OPENMP
        h.parallel.workers = (size_t)(h.threads > 0 ? h.threads : omp_get_max_threads());
#else
        h.parallel.workers = 1;
#endif
    }
    ctx->hooks = h;
    ctx->cpu = cpu;
    *out = ctx;
    return QNET_OK;
}

QNET_API void qnet_context_destroy(qnet_context *ctx)
{
    if (ctx != NULL) {
        qnet_allocator allocator = ctx->hooks.allocator;
        allocator.free(allocator.user, ctx, sizeof *ctx);
    }
}

QNET_API const char *qnet_last_error(const qnet_context *ctx)
{
    return ctx != NULL ? ctx->error : "";
}

QNET_API const qnet_hooks *qnet_context_hooks(const qnet_context *ctx)
{
    return &ctx->hooks;
}

QNET_API void qnet_set_progress(qnet_context *ctx, qnet_progress progress)
{
    ctx->hooks.progress = progress;
}

QNET_API void qnet_set_trace(qnet_context *ctx, qnet_trace trace)
{
    ctx->hooks.trace = trace;
}

QNET_API const char *qnet_cpu_name(qnet_cpu cpu)
{
    switch (cpu) {
    case QNET_CPU_AUTO: return "auto";
    case QNET_CPU_SCALAR: return "scalar";
    case QNET_CPU_AVX2: return "avx2";
    case QNET_CPU_AVX512: return "avx512";
    case QNET_CPU_NEON: return "neon";
    }
    return "unknown";
}

QNET_API qnet_status qnet_cpu_parse(const char *name, qnet_cpu *out)
{
    int i;
    if (name == NULL || out == NULL) {
        return QNET_ERROR_ARGUMENT;
    }
    for (i = QNET_CPU_AUTO; i <= QNET_CPU_NEON; i++) {
        if (strcmp(name, qnet_cpu_name((qnet_cpu)i)) == 0) {
            *out = (qnet_cpu)i;
            return QNET_OK;
        }
    }
    return QNET_ERROR_ARGUMENT;
}

QNET_API qnet_cpu qnet_context_cpu(const qnet_context *ctx)
{
    return ctx->cpu;
}

/* Runs task(arg, 0..count-1, worker) by the parallel hook, and inline where there is nothing to
   share out. Tasks do not call this again: the worker's index would be used twice at a time. */
QNET__HELPER void qnet__parallel(qnet_context *ctx, size_t count, qnet_task task, void *arg)
{
    const qnet_parallel *parallel = &ctx->hooks.parallel;
    size_t i;
    if (count > 1 && parallel->workers > 1) {
        parallel->run(parallel->user, count, task, arg);
        return;
    }
    for (i = 0; i < count; i++) {
        task(arg, i, 0);
    }
}

/* Upper bound of the worker index that a task gets: for scratch memory, never to split work. */
QNET__HELPER size_t qnet__workers(const qnet_context *ctx)
{
    return ctx->hooks.parallel.workers;
}

QNET__HELPER double qnet__seconds(qnet_context *ctx)
{
    return ctx->hooks.clock.seconds(ctx->hooks.clock.user);
}

/* Hands info to the progress hook; non-zero: the caller wants to stop. */
QNET__HELPER int qnet__report(qnet_context *ctx, const qnet_progress_info *info)
{
    const qnet_progress *progress = &ctx->hooks.progress;
    return progress->report != NULL ? progress->report(progress->user, info) : 0;
}

QNET__HELPER QNET__PRINTF(3, 4) void qnet__log(qnet_context *ctx, qnet_log_level level,
                                               const char *fmt, ...)
{
    char text[1024];
    va_list args;
    if (ctx->hooks.log.message == NULL) {
        return;
    }
    va_start(args, fmt);
    if (vsnprintf(text, sizeof text, fmt, args) < 0) {
        text[0] = '\0';
    }
    va_end(args);
    ctx->hooks.log.message(ctx->hooks.log.user, level, text);
}

/* Hands data[s0]..[s(ndim-1)] to the trace hook; sizes beyond ndim are not read. */
QNET__HELPER void qnet__trace(qnet_context *ctx, const char *name, const qnet_real *data, int ndim,
                              size_t s0, size_t s1, size_t s2, size_t s3)
{
    const qnet_trace *trace = &ctx->hooks.trace;
    if (trace->tensor != NULL) {
        size_t shape[4];
        shape[0] = s0;
        shape[1] = s1;
        shape[2] = s2;
        shape[3] = s3;
        trace->tensor(trace->user, name, data, ndim, shape);
    }
}

QNET_API void qnet_describe_build(const qnet_context *ctx, char *text, size_t size)
{
    char compiler[64], workers[96];
    const char *threads;
#if defined(__TINYC__)
    snprintf(compiler, sizeof compiler, "tcc %d", __TINYC__);
#elif defined(__clang__)
    snprintf(compiler, sizeof compiler, "clang %d.%d.%d", __clang_major__, __clang_minor__,
             __clang_patchlevel__);
#elif defined(__GNUC__)
    snprintf(compiler, sizeof compiler, "gcc %d.%d.%d", __GNUC__, __GNUC_MINOR__,
             __GNUC_PATCHLEVEL__);
#elif defined(_MSC_VER)
    snprintf(compiler, sizeof compiler, "msvc %d", _MSC_VER);
#else
    snprintf(compiler, sizeof compiler, "unknown compiler");
#endif
#ifdef QNET__OPENMP
    threads = "OpenMP";
#else
    threads = "no OpenMP";
#endif
    workers[0] = '\0';
    if (ctx != NULL) {
        if (ctx->hooks.parallel.run != qnet__default_run) {
            threads = "caller's threads";
        }
        snprintf(workers, sizeof workers, ", %s%s, %lu worker%s", qnet_cpu_name(ctx->cpu),
                 ctx->hooks.blas.sgemm != NULL ? ", BLAS" : "",
                 (unsigned long)ctx->hooks.parallel.workers,
                 ctx->hooks.parallel.workers == 1 ? "" : "s");
    }
    if (text != NULL && size > 0) {
        snprintf(text, size, "qnet %s, %s%s, %s, %s%s", QNET_VERSION,
                 QNET__REAL_IS_DOUBLE ? "double" : "float",
#ifdef QNET_REFERENCE
                 ", reference kernels",
#else
                 "",
#endif
                 compiler, threads, workers);
    }
}

/* ============================================================================================
   >>random: Philox4x32-10, a counter-based generator (Salmon, Moraes, Dror, Shaw: Parallel random
   numbers: as easy as 1, 2, 3. SC 2011). A block of four words is a function of key and counter,
   so a stream needs no state but its name.
   ============================================================================================ */

/* out[4] = Philox4x32-10(counter[4], key[2]): ten rounds of two 32x32-bit products, the key bumped
   by the Weyl constants (golden ratio, sqrt(3) - 1) between rounds. */
static void qnet__philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    int round;
    for (round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0;
        uint64_t p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)(p1 & 0xffffffffu);
        c3 = (uint32_t)(p0 & 0xffffffffu);
        k0 = (uint32_t)((k0 + (uint64_t)0x9e3779b9u) & 0xffffffffu);
        k1 = (uint32_t)((k1 + (uint64_t)0xbb67ae85u) & 0xffffffffu);
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The stream's name fills key and counter: key = seed; counter = (block number, epoch, low word of
   sample, 24 more bits of sample and 8 of purpose). Samples from 2^56 on would share streams. */
QNET_API qnet_rng qnet_rng_at(uint64_t seed, int purpose, uint32_t epoch, uint64_t sample)
{
    qnet_rng rng;
    memset(&rng, 0, sizeof rng);
    rng.key[0] = (uint32_t)(seed & 0xffffffffu);
    rng.key[1] = (uint32_t)(seed >> 32);
    rng.counter[1] = epoch;
    rng.counter[2] = (uint32_t)(sample & 0xffffffffu);
    rng.counter[3] = (uint32_t)(sample >> 32 & 0xffffffu) | (uint32_t)(purpose & 255) << 24;
    rng.used = 4;
    return rng;
}

QNET_API uint32_t qnet_rng_u32(qnet_rng *rng)
{
    if (rng->used >= 4) {
        qnet__philox(rng->counter, rng->key, rng->block);
        rng->counter[0]++; /* wraps after 2^34 words of one stream */
        rng->used = 0;
    }
    return rng->block[rng->used++];
}

/* (27 bits * 2^26 + 26 bits) / 2^53: every value is a multiple of 2^-53. */
QNET_API double qnet_rng_uniform(qnet_rng *rng)
{
    double high = (double)(qnet_rng_u32(rng) >> 5);
    double low = (double)(qnet_rng_u32(rng) >> 6);
    return (high * 67108864.0 + low) / 9007199254740992.0;
}

QNET_API double qnet_rng_range(qnet_rng *rng, double a, double b)
{
    double x = a + (b - a) * qnet_rng_uniform(rng);
    return x < b ? x : a; /* the sum can round up to b */
}

/* The high word of draw * n; draws whose low word is below 2^32 mod n would favour some results
   and are drawn again (Lemire: Fast random integer generation in an interval. ACM TOMACS 2019). */
QNET_API uint32_t qnet_rng_below(qnet_rng *rng, uint32_t n)
{
    uint32_t threshold;
    uint64_t product;
    if (n == 0) {
        return 0;
    }
    threshold = (0xffffffffu - n + 1) % n;
    do {
        product = (uint64_t)qnet_rng_u32(rng) * n;
    } while ((uint32_t)(product & 0xffffffffu) < threshold);
    return (uint32_t)(product >> 32);
}

/* Box-Muller; the sine half is dropped, so that each call spends the same four words. */
QNET_API double qnet_rng_normal(qnet_rng *rng)
{
    double radius = sqrt(-2.0 * log(1.0 - qnet_rng_uniform(rng))); /* 1 - u is never 0 */
    return radius * cos(6.283185307179586477 * qnet_rng_uniform(rng));
}

QNET_API void qnet_rng_shuffle(qnet_rng *rng, int *items, size_t count)
{
    size_t i;
    for (i = count; i > 1; i--) {
        size_t j = qnet_rng_below(rng, (uint32_t)i);
        int swap = items[i - 1];
        items[i - 1] = items[j];
        items[j] = swap;
    }
}

QNET_API uint64_t qnet_hash(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *p = (const unsigned char *)bytes;
    size_t i;
    for (i = 0; i < size; i++) {
        hash = (hash ^ p[i]) * 0x100000001b3u;
    }
    return hash;
}

/* ============================================================================================
   >>file: bounded readers and writers over memory, stdio or callbacks; files are replaced whole;
   folders are made and listed.
   ============================================================================================ */

QNET__HELPER const char *qnet__source_name(const qnet_source *source)
{
    return source->name != NULL ? source->name : "(memory)";
}

QNET__HELPER const char *qnet__sink_name(const qnet_sink *sink)
{
    return sink->name != NULL ? sink->name : "(memory)";
}

/* Exactly n bytes into dst[n], or an error that says of what, and how many there were. */
QNET__HELPER qnet_status qnet__read_exact(qnet_context *ctx, qnet_source *src, void *dst, size_t n,
                                          const char *what)
{
    size_t done = 0;
    while (done < n) {
        size_t got = 0;
        if (src->read(src->user, (unsigned char *)dst + done, n - done, &got) != 0) {
            return qnet__fail(ctx, QNET_ERROR_IO, "%s: reading %s failed", qnet__source_name(src),
                              what);
        }
        if (got == 0 || got > n - done) {
            return qnet__fail(ctx, QNET_ERROR_FORMAT,
                              "%s: truncated: expected %.0f bytes of %s, found %.0f",
                              qnet__source_name(src), (double)n, what, (double)done);
        }
        done += got;
    }
    return QNET_OK;
}

QNET__HELPER qnet_status qnet__write(qnet_context *ctx, qnet_sink *sink, const void *src, size_t n)
{
    if (n > 0 && sink->write(sink->user, src, n) != 0) {
        return qnet__fail(ctx, QNET_ERROR_IO, "%s: writing %.0f bytes failed",
                          qnet__sink_name(sink), (double)n);
    }
    return QNET_OK;
}

static int qnet__memory_read(void *user, void *dst, size_t size, size_t *got)
{
    qnet_memory_source *state = (qnet_memory_source *)user;
    *got = qnet__min_size(size, state->size - state->at);
    if (*got > 0) {
        memcpy(dst, state->bytes + state->at, *got);
    }
    state->at += *got;
    return 0;
}

QNET_API qnet_source qnet_source_memory(qnet_memory_source *state, const void *bytes, size_t size,
                                        const char *name)
{
    qnet_source source;
    state->bytes = (const unsigned char *)bytes;
    state->size = size;
    state->at = 0;
    source.user = state;
    source.read = qnet__memory_read;
    source.name = name;
    return source;
}

/* Makes room for `more` bytes and one zero after them, which ends the bytes as a C string. The
   capacity doubles, so that n appends cost O(n). */
static qnet_status qnet__buffer_reserve(qnet_context *ctx, qnet_buffer *buffer, size_t more)
{
    unsigned char *bytes;
    size_t need, capacity;
    if (!qnet__add(buffer->size, more, &need) || !qnet__add(need, 1, &need)) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "a buffer of %.0f bytes cannot grow by %.0f",
                          (double)buffer->size, (double)more);
    }
    if (need <= buffer->capacity) {
        return QNET_OK;
    }
    if (!qnet__mul(buffer->capacity, 2, &capacity)) {
        capacity = need;
    }
    capacity = qnet__max_size(qnet__max_size(capacity, need), 256);
    bytes = (unsigned char *)qnet__alloc(ctx, capacity);
    if (bytes == NULL) {
        return qnet__no_memory(ctx, capacity, "a buffer");
    }
    if (buffer->size > 0) {
        memcpy(bytes, buffer->bytes, buffer->size);
    }
    qnet__free(ctx, buffer->bytes, buffer->capacity);
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    buffer->ctx = ctx;
    return QNET_OK;
}

QNET_API qnet_status qnet_buffer_append(qnet_context *ctx, qnet_buffer *buffer, const void *bytes,
                                        size_t size)
{
    QNET__TRY(qnet__buffer_reserve(ctx, buffer, size));
    if (size > 0) {
        memcpy(buffer->bytes + buffer->size, bytes, size);
    }
    buffer->size += size;
    buffer->bytes[buffer->size] = 0;
    return QNET_OK;
}

QNET_API qnet_status qnet_buffer_printf(qnet_context *ctx, qnet_buffer *buffer, const char *format,
                                        ...)
{
    va_list args;
    int length;
    va_start(args, format);
    length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "a text cannot be formatted: \"%.100s\"",
                          format);
    }
    QNET__TRY(qnet__buffer_reserve(ctx, buffer, (size_t)length));
    va_start(args, format);
    vsnprintf((char *)buffer->bytes + buffer->size, (size_t)length + 1, format, args);
    va_end(args);
    buffer->size += (size_t)length;
    return QNET_OK;
}

QNET_API void qnet_buffer_free(qnet_context *ctx, qnet_buffer *buffer)
{
    if (buffer != NULL) {
        qnet__free(ctx, buffer->bytes, buffer->capacity);
        memset(buffer, 0, sizeof *buffer);
    }
}

static int qnet__buffer_write(void *user, const void *src, size_t size)
{
    qnet_buffer *buffer = (qnet_buffer *)user;
    return qnet_buffer_append(buffer->ctx, buffer, src, size) != QNET_OK;
}

QNET_API qnet_sink qnet_sink_buffer(qnet_context *ctx, qnet_buffer *buffer, const char *name)
{
    qnet_sink sink;
    buffer->ctx = ctx;
    sink.user = buffer;
    sink.write = qnet__buffer_write;
    sink.name = name;
    return sink;
}

/* The rest of a source, at most limit bytes, appended to an empty buffer. No size is believed: the
   buffer grows with what is read. On failure the buffer is empty. */
QNET__HELPER qnet_status qnet__read_all(qnet_context *ctx, qnet_source *source, size_t limit,
                                        qnet_buffer *out)
{
    unsigned char chunk[4096];
    qnet_status status = QNET_OK;
    for (;;) {
        size_t got = 0;
        if (source->read(source->user, chunk, sizeof chunk, &got) != 0 || got > sizeof chunk) {
            status = qnet__fail(ctx, QNET_ERROR_IO, "%s: reading failed",
                                qnet__source_name(source));
        } else if (got > limit - out->size) {
            status = qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: larger than the limit of %.0f bytes",
                                qnet__source_name(source), (double)limit);
        } else {
            status = qnet_buffer_append(ctx, out, chunk, got);
        }
        if (status != QNET_OK) {
            qnet_buffer_free(ctx, out);
            return status;
        }
        if (got == 0) {
            return QNET_OK;
        }
    }
}

#ifndef QNET_NO_STDIO

/* What a path leads to: 0 nothing, 1 a file, 2 a folder. */
QNET__HELPER int qnet__path_kind(const char *path)
{
#if defined(QNET__POSIX)
    struct stat info;
    if (stat(path, &info) != 0) {
        return 0;
    }
    return S_ISDIR(info.st_mode) ? 2 : 1;
#elif defined(QNET__WINDOWS)
    struct _stat info;
    if (_stat(path, &info) != 0) {
        return 0;
    }
    return (info.st_mode & _S_IFDIR) != 0 ? 2 : 1;
#else
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) {
        return 0;
    }
    fclose(stream);
    return 1;
#endif
}

/* An open file, with copies of its names: `path`, and `temporary` = path.tmp when writing. */
typedef struct qnet__file {
    qnet_context *ctx;
    FILE *stream;
    char *path, *temporary; /* one block of `bytes` bytes at path */
    size_t bytes;
} qnet__file;

static int qnet__file_read(void *user, void *dst, size_t size, size_t *got)
{
    qnet__file *f = (qnet__file *)user;
    *got = fread(dst, 1, size, f->stream);
    return *got < size && ferror(f->stream);
}

static int qnet__file_write(void *user, const void *src, size_t size)
{
    qnet__file *f = (qnet__file *)user;
    return fwrite(src, 1, size, f->stream) != size;
}

/* Fills f with the two names of a path and no stream. */
static qnet_status qnet__file_names(qnet_context *ctx, const char *path, qnet__file *f)
{
    size_t length;
    if (path == NULL || path[0] == '\0') {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "a path is missing");
    }
    length = strlen(path);
    f->ctx = ctx;
    f->stream = NULL;
    f->bytes = 2 * (length + 1) + 4;
    f->path = (char *)qnet__alloc(ctx, f->bytes);
    if (f->path == NULL) {
        return qnet__no_memory(ctx, f->bytes, "a file name");
    }
    f->temporary = f->path + length + 1;
    memcpy(f->path, path, length + 1);
    memcpy(f->temporary, path, length);
    memcpy(f->temporary + length, ".tmp", 5);
    return QNET_OK;
}

/* Closes a file that was read. */
QNET__HELPER void qnet__file_close(qnet__file *f)
{
    if (f->stream != NULL) {
        fclose(f->stream);
        f->stream = NULL;
    }
    qnet__free(f->ctx, f->path, f->bytes);
    f->path = NULL;
}

/* Opens a file for reading; *out reads from it until qnet__file_close. On failure there is nothing
   to close. */
QNET__HELPER qnet_status qnet__file_open_read(qnet_context *ctx, const char *path, qnet__file *f,
                                              qnet_source *out)
{
    QNET__TRY(qnet__file_names(ctx, path, f));
    if (qnet__path_kind(path) == 2) {
        errno = 0; /* fopen opens folders on some systems */
    } else {
        f->stream = fopen(path, "rb");
    }
    if (f->stream == NULL) {
        int code = errno; /* 0: not even tried, a folder */
        qnet__file_close(f);
        if (code == ENOENT || code == ENOTDIR) {
            return qnet__fail(ctx, QNET_ERROR_NOT_FOUND, "%s: no such file", path);
        }
        return qnet__fail(ctx, QNET_ERROR_IO, "%s: cannot be opened for reading: %s", path,
                          code != 0 ? strerror(code) : "it is a folder");
    }
    out->user = f;
    out->read = qnet__file_read;
    out->name = f->path;
    return QNET_OK;
}

/* Opens path.tmp for writing; *out writes to it until qnet__file_commit or qnet__file_abandon. On
   failure there is nothing to close. */
QNET__HELPER qnet_status qnet__file_open_replace(qnet_context *ctx, const char *path,
                                                 qnet__file *f, qnet_sink *out)
{
    QNET__TRY(qnet__file_names(ctx, path, f));
    errno = 0;
    f->stream = fopen(f->temporary, "wb");
    if (f->stream == NULL) {
        int code = errno;
        qnet__file_close(f);
        return qnet__fail(ctx, QNET_ERROR_IO, "%s.tmp: cannot be opened for writing: %s", path,
                          strerror(code));
    }
    out->user = f;
    out->write = qnet__file_write;
    out->name = f->path;
    return QNET_OK;
}

/* Closes and removes path.tmp; what was at path stays. */
QNET__HELPER void qnet__file_abandon(qnet__file *f)
{
    if (f->stream != NULL) {
        fclose(f->stream);
        f->stream = NULL;
    }
    remove(f->temporary);
    qnet__file_close(f);
}

/* Closes path.tmp and renames it to path. On failure path.tmp is removed and path stays. */
QNET__HELPER qnet_status qnet__file_commit(qnet_context *ctx, qnet__file *f)
{
    int bad = ferror(f->stream), code;
    errno = 0;
    bad |= fclose(f->stream);
    f->stream = NULL;
#ifdef QNET__WINDOWS
    if (!bad) {
        remove(f->path); /* rename does not replace there */
    }
#endif
    if (!bad) {
        bad = rename(f->temporary, f->path);
    }
    code = errno;
    if (bad) {
        qnet_status status = qnet__fail(ctx, QNET_ERROR_IO, "%s: cannot be written: %s", f->path,
                                        code != 0 ? strerror(code) : "a write failed");
        qnet__file_abandon(f);
        return status;
    }
    qnet__file_close(f);
    return QNET_OK;
}

QNET_API qnet_status qnet_file_replace(qnet_context *ctx, const char *path, const void *bytes,
                                       size_t size)
{
    qnet__file file;
    qnet_sink sink;
    qnet_status status;
    QNET__TRY(qnet__file_open_replace(ctx, path, &file, &sink));
    status = qnet__write(ctx, &sink, bytes, size);
    if (status != QNET_OK) {
        qnet__file_abandon(&file);
        return status;
    }
    return qnet__file_commit(ctx, &file);
}

QNET_API qnet_status qnet_file_read(qnet_context *ctx, const char *path, size_t limit,
                                    qnet_buffer *out)
{
    qnet__file file;
    qnet_source source;
    qnet_buffer bytes;
    qnet_status status;
    memset(&bytes, 0, sizeof bytes);
    if (out == NULL || out->bytes != NULL) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_file_read: expected an empty buffer");
    }
    QNET__TRY(qnet__file_open_read(ctx, path, &file, &source));
    status = qnet__read_all(ctx, &source, limit > 0 ? limit : QNET_MAX_FILE_BYTES, &bytes);
    qnet__file_close(&file);
    if (status == QNET_OK) {
        *out = bytes;
    }
    return status;
}

QNET_API int qnet_file_exists(const char *path)
{
    return path != NULL && qnet__path_kind(path) == 1;
}

/* One level; the caller checks what came of it. */
static void qnet__make_one_folder(const char *path)
{
#if defined(QNET__POSIX)
    (void)mkdir(path, 0777);
#elif defined(QNET__WINDOWS)
    (void)_mkdir(path);
#else
    QNET__UNUSED(path);
#endif
}

QNET_API qnet_status qnet_make_folder(qnet_context *ctx, const char *path)
{
    qnet__file names;
    size_t i;
    int made, code;
    QNET__TRY(qnet__file_names(ctx, path, &names));
    /* Parents that cannot be made may be there already: only the folder itself counts. */
    for (i = 1; names.path[i] != '\0'; i++) {
        char c = names.path[i];
        if (c == '/' || c == '\\') {
            names.path[i] = '\0';
            qnet__make_one_folder(names.path);
            names.path[i] = c;
        }
    }
    errno = 0;
    qnet__make_one_folder(names.path);
    code = errno;
    made = qnet__path_kind(path) == 2;
    qnet__file_close(&names);
    if (!made) {
        return qnet__fail(ctx, QNET_ERROR_IO, "%s: the folder cannot be made: %s", path,
                          code == EEXIST ? "a file of this name is in the way"
                          : code != 0    ? strerror(code)
                                         : "not supported on this system");
    }
    return QNET_OK;
}

#define QNET__NAME_SIZE 256 /* of an entry of a folder, its end included: POSIX's NAME_MAX + 1 */

static int qnet__compare_names(const void *a, const void *b)
{
    return strcmp((const char *)a, (const char *)b);
}

#if defined(QNET__POSIX) || defined(QNET__WINDOWS)
/* Appends one zero-padded name to a buffer of names; "." and ".." are left out. */
static qnet_status qnet__list_add(qnet_context *ctx, qnet_buffer *names, const char *folder,
                                  const char *name)
{
    char padded[QNET__NAME_SIZE];
    size_t length = strlen(name);
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return QNET_OK;
    }
    if (length >= sizeof padded) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: the name \"%.40s...\" has %lu bytes, "
                          "the limit is %d", folder, name, (unsigned long)length,
                          QNET__NAME_SIZE - 1);
    }
    memset(padded, 0, sizeof padded);
    memcpy(padded, name, length);
    return qnet_buffer_append(ctx, names, padded, sizeof padded);
}

/* All names of a folder, in the system's order. */
static qnet_status qnet__list_names(qnet_context *ctx, const char *path, qnet_buffer *names)
{
    qnet_status status = QNET_OK;
#if defined(QNET__POSIX)
    DIR *folder = opendir(path);
    struct dirent *entry;
    if (folder == NULL) {
        return qnet__fail(ctx, errno == EACCES ? QNET_ERROR_IO : QNET_ERROR_NOT_FOUND,
                          "%s: the folder cannot be opened: %s", path, strerror(errno));
    }
    while (status == QNET_OK && (entry = readdir(folder)) != NULL) {
        status = qnet__list_add(ctx, names, path, entry->d_name);
    }
    closedir(folder);
#else
    char pattern[1024];
    struct _finddata_t entry;
    intptr_t handle;
    if (strlen(path) + 3 > sizeof pattern) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%.100s...: the path is too long", path);
    }
    snprintf(pattern, sizeof pattern, "%s/*", path);
    handle = _findfirst(pattern, &entry);
    if (handle == -1) {
        return qnet__fail(ctx, QNET_ERROR_NOT_FOUND, "%s: no such folder", path);
    }
    do {
        status = qnet__list_add(ctx, names, path, entry.name);
    } while (status == QNET_OK && _findnext(handle, &entry) == 0);
    _findclose(handle);
#endif
    return status;
}
#endif

/* The names of a folder's files and folders, sorted by strcmp: results must not depend on the file
   system's order. Give *names[*count] back with qnet__free(ctx, *names, *bytes); an empty
   folder gives NULL, 0, 0. */
QNET__HELPER qnet_status qnet__list_folder(qnet_context *ctx, const char *path,
                                           char (**names)[QNET__NAME_SIZE], size_t *count,
                                           size_t *bytes)
{
#if defined(QNET__POSIX) || defined(QNET__WINDOWS)
    qnet_buffer list;
    qnet_status status;
    memset(&list, 0, sizeof list);
    status = qnet__list_names(ctx, path, &list);
    if (status != QNET_OK) {
        qnet_buffer_free(ctx, &list);
        return status;
    }
    if (list.size > 0) {
        qsort(list.bytes, list.size / QNET__NAME_SIZE, QNET__NAME_SIZE, qnet__compare_names);
    }
    *names = (char (*)[QNET__NAME_SIZE])(void *)list.bytes;
    *count = list.size / QNET__NAME_SIZE;
    *bytes = list.capacity;
    return QNET_OK;
#else
    QNET__UNUSED(names);
    QNET__UNUSED(count);
    QNET__UNUSED(bytes);
    return qnet__fail(ctx, QNET_ERROR_UNSUPPORTED, "%s: folders cannot be listed here", path);
#endif
}

#endif /* QNET_NO_STDIO */

/* ============================================================================================
   >>tensor: views into the flat block of a network's weights, by the table of its parameters.
   ============================================================================================ */

QNET_API qnet_tensor qnet_param_view(const qnet_param_table *table, qnet_real *block, int i)
{
    qnet_tensor view;
    int d;
    memset(&view, 0, sizeof view);
    if (i >= 0 && i < table->count) {
        const qnet_param *param = &table->entries[i];
        view.data = block + param->offset;
        view.ndim = param->ndim;
        for (d = 0; d < param->ndim && d < QNET_MAX_DIMS; d++) {
            view.shape[d] = param->shape[d];
        }
    }
    return view;
}

QNET_API int qnet_param_find(const qnet_param_table *table, const char *name)
{
    int i;
    for (i = 0; i < table->count; i++) {
        if (strcmp(table->entries[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* ============================================================================================
   >>text
   Numbers as text and back, the same in every locale: a host program that runs with a decimal
   comma must still write files that others can read.
   ============================================================================================ */

/* The locale's decimal sign, as printf and strtod use it. */
static char qnet__decimal_sign(void)
{
    char probe[8];
    snprintf(probe, sizeof probe, "%.1f", 0.5);
    return probe[1];
}

/* value as text[size] with a decimal point, in as few digits as bring the same double back. */
static void qnet__format_number(char *text, size_t size, double value)
{
    const char sign = qnet__decimal_sign();
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, size, "%.*g", digits, value);
        if (digits == 17 || strtod(text, NULL) == value) break;
    }
    for (char *c = text; *c; c++) {
        if (*c == sign) *c = '.';
    }
}

/* Reads a number with a decimal point that takes up all of text; 0 when it is none. */
static int qnet__parse_number(const char *text, double *out)
{
    char copy[64], *end;
    const char sign = qnet__decimal_sign();
    double value;
    const size_t length = strlen(text);
    if (length == 0 || length >= sizeof copy) return 0;
    for (size_t i = 0; i <= length; i++) {
        if (text[i] == sign && sign != '.') return 0; /* the locale's own sign is none of ours */
        copy[i] = text[i] == '.' ? sign : text[i];
    }
    value = strtod(copy, &end);
    if (end == copy || *end) return 0;
    *out = value;
    return 1;
}

/* ============================================================================================
   >>gemm: the one micro-kernel under all matrix products and convolutions, the packing of its
   right-hand side, and qnet_gemm.

   The micro-kernel ("tile") keeps a block C[rows][columns] in registers over the whole sum

       C[m][j] (+)= sum over s < segments, k < length of
                    a[s][m][a_at + k * a_step] * b[s][b_at + k * b_step + j].

   a is a table of pointers, one per segment and row, so rows may lie anywhere in memory:
     matrix product        one segment; rows of A, or columns of it (a_step = lda) for A^T;
     convolution           a segment per tap, a row per output pixel: a[s][m] is the input pixel
                           under tap s, or a row of zeros outside the image; b is the weights;
     gradient of inputs    the same, with dy as the input;
     gradient of weights   a segment per image row, a row per input channel, k over the pixels of
                           the row: a_step goes from pixel to pixel, b is dy itself.
   The left side is read where it lies; k ascends in every path, and every SIMD path fuses multiply
   and add, so the shape of a tile does not change the bits of a result.
   ============================================================================================ */

/* 1: only the plain-loop twins are used. */
#ifdef QNET_REFERENCE
#define QNET__TWINS_ONLY 1
#else
#define QNET__TWINS_ONLY 0
#endif

#if QNET__X86
#include <immintrin.h>
#elif QNET__NEON
#include <arm_neon.h>
#endif

/* A tile is 6 rows high and 2 or 4 vectors wide: with 16 registers 12 accumulators, 2 vectors of b
   and a broadcast; with 32 registers 24, 4 and 1. Fewer rows than the usual 14 x 2 of AVX-512, but
   half the loads for a multiply-add (10 for 24, not 16 and some row pointers that find no register
   for 28), which is what counts where two hardware threads share a core. */
#define QNET__TILE_ROWS 6
#define QNET__TILE_COLUMNS (QNET__X86 ? 64 : 16) /* of the widest tile */

typedef struct qnet__tile {
    const qnet_real *const *a; /* [segments][a_rows], of which `rows` are read */
    size_t a_rows;
    uintptr_t ahead;           /* address; the cache lines from there on are asked for, one per k */
    const qnet_real *const *b; /* [segments] */
    qnet_real *const *c;       /* [rows]; NULL: this row is not kept (see qnet__run_tile) */
    size_t a_at, a_step, b_at, b_step;
    size_t segments, length;
    size_t chain;              /* products in a chain of additions */
    int rows;                  /* 6, 4 or 2 */
    int accumulate;            /* 1: adds to what C holds */
} qnet__tile;

/* Asks for the cache line at an address, which may be anything. */
#if defined(__GNUC__) || defined(__clang__)
#define QNET__PREFETCH(address) __builtin_prefetch((const void *)(address))
#else
#define QNET__PREFETCH(address) (void)(address)
#endif

#if defined(__clang__)
#define QNET__UNROLL _Pragma("clang loop unroll(full)")
/* Hides where i comes from: clang would rather step a pointer per row, more than there are. */
#define QNET__KEEP_INDEX(i) __asm__("" : "+r"(i))
#define QNET__INLINE static inline __attribute__((always_inline))
#elif defined(__GNUC__)
#define QNET__UNROLL _Pragma("GCC unroll 16")
#define QNET__KEEP_INDEX(i) (void)0
#define QNET__INLINE static inline __attribute__((always_inline))
#else
#define QNET__UNROLL
#define QNET__KEEP_INDEX(i) (void)0
#define QNET__INLINE static
#endif

/* Products that are added up one by one, in the tile's `chain`. Then the sum is added to C, and the
   next begins at zero: rounding errors grow with the length of a chain. Counted along the segments,
   so that no tile's shape matters. Winograd's form rounds its inputs too, and makes up for it with
   a shorter one: its errors are then about those of PyTorch's direct form (test_parity). */
#define QNET__CHAIN_DIRECT 64
#define QNET__CHAIN_WINOGRAD 16
#define QNET__CHAIN_WINOGRAD_WEIGHTS 32 /* the sums are longer: over all tiles */

/* The micro-kernel, written once. `rows` and `wide` are constants after inlining, so that the loops
   over m and n unroll and acc lives in registers. Per k: `wide` loads of b, and per row one
   broadcast of a and `wide` multiply-adds. */
#define QNET__DEFINE_TILE(name, target, vector, wide, zero, load, store, broadcast, fma, add)     \
    target QNET__INLINE void name##_rows(const qnet__tile *t, const int rows)                     \
    {                                                                                             \
        const size_t lanes = sizeof(vector) / sizeof(qnet_real);                                  \
        const size_t a_step = t->a_step, b_step = t->b_step;                                      \
        vector acc[QNET__TILE_ROWS][wide], bk[wide];                                              \
        size_t s, k, end, chain = 0; /* products in acc */                                        \
        uintptr_t ahead = t->ahead;                                                               \
        int m, n, held = t->accumulate; /* 1: C holds a part of the sum */                        \
        QNET__UNROLL                                                                              \
        for (m = 0; m < rows; m++) {                                                              \
            QNET__UNROLL                                                                          \
            for (n = 0; n < wide; n++) {                                                          \
                acc[m][n] = zero();                                                               \
            }                                                                                     \
        }                                                                                         \
        for (s = 0; s < t->segments; s++) {                                                       \
            const qnet_real *const *a = t->a + s * t->a_rows;                                     \
            const qnet_real *b = t->b[s] + t->b_at;                                               \
            size_t i = t->a_at;                                                                   \
            for (k = 0; k < t->length; k = end) {                                                 \
                end = qnet__min_size(t->length, k + t->chain - chain);                            \
                chain += end - k;                                                                 \
                for (; k < end; k++, i += a_step, b += b_step) {                                  \
                    QNET__KEEP_INDEX(i);                                                          \
                    QNET__PREFETCH(ahead);                                                        \
                    ahead += 64;                                                                  \
                    QNET__UNROLL                                                                  \
                    for (n = 0; n < wide; n++) {                                                  \
                        bk[n] = load(b + (size_t)n * lanes);                                      \
                    }                                                                             \
                    QNET__UNROLL                                                                  \
                    for (m = 0; m < rows; m++) {                                                  \
                        const vector x = broadcast(a[m][i]);                                      \
                        QNET__UNROLL                                                              \
                        for (n = 0; n < wide; n++) {                                              \
                            acc[m][n] = fma(x, bk[n], acc[m][n]);                                 \
                        }                                                                         \
                    }                                                                             \
                }                                                                                 \
                if (chain == t->chain && (s + 1 < t->segments || end < t->length)) {              \
                    QNET__UNROLL                                                                  \
                    for (m = 0; m < rows; m++) {                                                  \
                        QNET__UNROLL                                                              \
                        for (n = 0; n < wide; n++) {                                              \
                            qnet_real *c = t->c[m] + (size_t)n * lanes;                           \
                            store(c, held ? add(load(c), acc[m][n]) : acc[m][n]);                 \
                            acc[m][n] = zero();                                                   \
                        }                                                                         \
                    }                                                                             \
                    chain = 0;                                                                    \
                    held = 1;                                                                     \
                }                                                                                 \
            }                                                                                     \
        }                                                                                         \
        QNET__UNROLL                                                                              \
        for (m = 0; m < rows; m++) {                                                              \
            QNET__UNROLL                                                                          \
            for (n = 0; n < wide; n++) {                                                          \
                qnet_real *c = t->c[m] + (size_t)n * lanes;                                       \
                store(c, held ? add(load(c), acc[m][n]) : acc[m][n]);                             \
            }                                                                                     \
        }                                                                                         \
    }                                                                                             \
                                                                                                  \
    target static void name(const qnet__tile *t)                                                  \
    {                                                                                             \
        switch (t->rows) {                                                                        \
        case 6: name##_rows(t, 6); break;                                                         \
        case 4: name##_rows(t, 4); break;                                                         \
        default: name##_rows(t, 2); break;                                                        \
        }                                                                                         \
    }

#if QNET__X86
#define QNET__AVX512 __attribute__((target("avx512f")))
#define QNET__AVX2 __attribute__((target("avx2,fma")))
QNET__DEFINE_TILE(qnet__tile_avx512, QNET__AVX512, __m512, 4, _mm512_setzero_ps, _mm512_loadu_ps,
                  _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps)
QNET__DEFINE_TILE(qnet__tile_avx2, QNET__AVX2, __m256, 2, _mm256_setzero_ps, _mm256_loadu_ps,
                  _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps)
#elif QNET__NEON
QNET__INLINE float32x4_t qnet__neon_zero(void)
{
    return vdupq_n_f32(0);
}

QNET__INLINE float32x4_t qnet__neon_multiply_add(float32x4_t x, float32x4_t y, float32x4_t z)
{
    return vfmaq_f32(z, x, y);
}

QNET__DEFINE_TILE(qnet__tile_neon, , float32x4_t, 4, qnet__neon_zero, vld1q_f32, vst1q_f32,
                  vdupq_n_f32, qnet__neon_multiply_add, vaddq_f32)
#endif

/* Any machine: vectors of 16 bytes where the compiler has them, else single numbers. */
#if defined(__GNUC__) || defined(__clang__)
typedef qnet_real qnet__vector __attribute__((vector_size(16)));
#else
typedef qnet_real qnet__vector;
#endif
#define QNET__LANES (sizeof(qnet__vector) / sizeof(qnet_real))

QNET__INLINE qnet__vector qnet__vector_load(const qnet_real *p)
{
    qnet__vector v;
    memcpy(&v, p, sizeof v);
    return v;
}

QNET__INLINE void qnet__vector_store(qnet_real *p, qnet__vector v)
{
    memcpy(p, &v, sizeof v);
}

QNET__INLINE qnet__vector qnet__vector_broadcast(qnet_real x)
{
    qnet_real all[QNET__LANES];
    size_t i;
    QNET__UNROLL
    for (i = 0; i < QNET__LANES; i++) {
        all[i] = x;
    }
    return qnet__vector_load(all);
}

QNET__INLINE qnet__vector qnet__vector_zero(void)
{
    return qnet__vector_broadcast(0);
}

QNET__INLINE qnet__vector qnet__vector_multiply_add(qnet__vector x, qnet__vector y, qnet__vector z)
{
    return x * y + z;
}

QNET__INLINE qnet__vector qnet__vector_add(qnet__vector x, qnet__vector y)
{
    return x + y;
}

#define QNET__PORTABLE_WIDE 2
QNET__DEFINE_TILE(qnet__tile_portable, , qnet__vector, QNET__PORTABLE_WIDE, qnet__vector_zero,
                  qnet__vector_load, qnet__vector_store, qnet__vector_broadcast,
                  qnet__vector_multiply_add, qnet__vector_add)

/* A tile function with its shape. */
typedef struct qnet__kernel {
    size_t columns;
    void (*run)(const qnet__tile *tile);
} qnet__kernel;

static qnet__kernel qnet__pick_kernel(const qnet_context *ctx)
{
    static const qnet__kernel portable = {QNET__PORTABLE_WIDE * QNET__LANES, qnet__tile_portable};
#if QNET__X86
    static const qnet__kernel avx512 = {64, qnet__tile_avx512}, avx2 = {16, qnet__tile_avx2};
    switch (qnet_context_cpu(ctx)) {
    case QNET_CPU_AVX512: return avx512;
    case QNET_CPU_AVX2: return avx2;
    default: return portable;
    }
#elif QNET__NEON
    static const qnet__kernel neon = {16, qnet__tile_neon};
    return qnet_context_cpu(ctx) == QNET_CPU_NEON ? neon : portable;
#else
    QNET__UNUSED(ctx);
    return portable;
#endif
}

/* The numbers of rows that tiles come in: the smallest of them for `rows` rows, or the largest. */
static int qnet__tile_size(size_t rows)
{
    return rows > 4 ? 6 : rows > 2 ? 4 : 2;
}

/* Runs a tile of which only the rows with c[m] != NULL and the first `columns` columns are wanted.
   One that is not full goes by way of a block on the stack. */
static void qnet__run_tile(const qnet__kernel *kernel, const qnet__tile *tile, size_t columns)
{
    qnet_real block[QNET__TILE_ROWS][QNET__TILE_COLUMNS];
    qnet_real *c[QNET__TILE_ROWS];
    qnet__tile part = *tile;
    int full = columns == kernel->columns, m;
    for (m = 0; m < tile->rows; m++) {
        full = full && tile->c[m] != NULL;
    }
    if (full) {
        kernel->run(tile);
        return;
    }
    for (m = 0; m < tile->rows; m++) {
        c[m] = block[m];
        memset(block[m], 0, sizeof block[m]);
        if (tile->accumulate && tile->c[m] != NULL) {
            memcpy(block[m], tile->c[m], columns * sizeof(qnet_real));
        }
    }
    part.c = c;
    kernel->run(&part);
    for (m = 0; m < tile->rows; m++) {
        if (tile->c[m] != NULL) {
            memcpy(tile->c[m], block[m], columns * sizeof(qnet_real));
        }
    }
}

/* Packs a right-hand side into panels of the kernel's width, so that the tile reads it in order:
       dst[panel][block][k][j] = src[block * block_step + k * row_step + column * column_step],
   column = panel * width + j, zero beyond the last column. One task per panel. */
typedef struct qnet__packing {
    const qnet_real *src;
    qnet_real *dst;
    size_t blocks, length, columns, width;
    size_t block_step, row_step, column_step;
} qnet__packing;

#define QNET__PACK_RUN 16 /* numbers of a row of src that are read at once: a cache line */

static void qnet__pack_task(void *arg, size_t index, size_t worker)
{
    const qnet__packing *p = (const qnet__packing *)arg;
    const size_t valid = qnet__min_size(p->width, p->columns - index * p->width);
    size_t block, j, k, first, last;
    QNET__UNUSED(worker);
    for (block = 0; block < p->blocks; block++) {
        const qnet_real *src = p->src + block * p->block_step + index * p->width * p->column_step;
        qnet_real *dst = p->dst + (index * p->blocks + block) * p->length * p->width;
        if (valid < p->width) {
            memset(dst, 0, p->length * p->width * sizeof(qnet_real));
        }
        if (p->column_step == 1) {
            for (k = 0; k < p->length; k++) {
                memcpy(dst + k * p->width, src + k * p->row_step, valid * sizeof(qnet_real));
            }
            continue;
        }
        for (first = 0; first < p->length; first = last) {
            last = qnet__min_size(first + QNET__PACK_RUN, p->length);
            for (j = 0; j < valid; j++) {
                for (k = first; k < last; k++) {
                    dst[k * p->width + j] = src[k * p->row_step + j * p->column_step];
                }
            }
        }
    }
}

static size_t qnet__panels(const qnet__kernel *kernel, size_t columns)
{
    return columns / kernel->columns + (columns % kernel->columns != 0);
}

/* Panels that a task works through for each tile of rows: as many as stay in a second-level cache
   beside the rows. A constant, so that the split depends on shapes only. */
#define QNET__PANEL_BYTES ((size_t)384 << 10)

static size_t qnet__panels_per_task(size_t panels, size_t panel_numbers)
{
    const size_t fit = QNET__PANEL_BYTES / sizeof(qnet_real) / qnet__max_size(panel_numbers, 1);
    return qnet__min_size(panels, qnet__max_size(fit, 1));
}

/* The twin of qnet_gemm: C[i][j] = sum over p of op(A)[i][p] * op(B)[p][j] + beta * C[i][j]. */
static void qnet__gemm_ref(int trans_a, int trans_b, size_t m, size_t n, size_t k,
                           const qnet_real *a, size_t lda, const qnet_real *b, size_t ldb,
                           qnet_real beta, qnet_real *c, size_t ldc)
{
    size_t i, j, p;
    for (i = 0; i < m; i++) {
        for (j = 0; j < n; j++) {
            qnet_real sum = beta != 0 ? c[i * ldc + j] : 0;
            for (p = 0; p < k; p++) {
                sum += (trans_a ? a[p * lda + i] : a[i * lda + p]) *
                       (trans_b ? b[j * ldb + p] : b[p * ldb + j]);
            }
            c[i * ldc + j] = sum;
        }
    }
}

#define QNET__GEMM_BAND 384 /* rows of C per task: a multiple of 6 that several tasks share well */

typedef struct qnet__gemm {
    qnet__kernel kernel;
    const qnet_real *a, *b;
    qnet_real *c;
    size_t m, n, k, ldc;
    size_t a_row, a_step;   /* from row to row and from k to k of op(A) */
    size_t b_panel, b_step; /* from panel to panel and from k to k of op(B) */
    size_t panels, panels_per_task, bands;
    int accumulate;
} qnet__gemm;

static void qnet__gemm_task(void *arg, size_t index, size_t worker)
{
    const qnet__gemm *g = (const qnet__gemm *)arg;
    const size_t panel_first = index / g->bands * g->panels_per_task;
    const size_t panel_last = qnet__min_size(panel_first + g->panels_per_task, g->panels);
    const size_t band = index % g->bands * QNET__GEMM_BAND;
    const size_t last = qnet__min_size(band + QNET__GEMM_BAND, g->m);
    const qnet_real *a[QNET__TILE_ROWS];
    qnet_real *c[QNET__TILE_ROWS];
    size_t first, rows, panel;
    qnet__tile tile;
    int i;
    QNET__UNUSED(worker);
    memset(&tile, 0, sizeof tile);
    tile.chain = QNET__CHAIN_DIRECT;
    tile.a = a, tile.b = &g->b, tile.c = c;
    tile.a_step = g->a_step, tile.b_step = g->b_step;
    tile.segments = 1, tile.length = g->k;
    tile.accumulate = g->accumulate;
    for (first = band; first < last; first += rows) {
        rows = qnet__min_size(last - first, (size_t)QNET__TILE_ROWS);
        tile.rows = qnet__tile_size(rows);
        for (i = 0; i < tile.rows; i++) {
            a[i] = g->a + qnet__min_size(first + (size_t)i, last - 1) * g->a_row;
        }
        for (panel = panel_first; panel < panel_last; panel++) {
            const size_t column = panel * g->kernel.columns;
            tile.b_at = panel * g->b_panel;
            for (i = 0; i < tile.rows; i++) {
                const size_t row = first + (size_t)i;
                c[i] = row < last ? g->c + row * g->ldc + column : NULL;
            }
            qnet__run_tile(&g->kernel, &tile,
                           qnet__min_size(g->n - column, g->kernel.columns));
        }
    }
}

/* B is read where it lies when it is in rows of whole panels and so few tiles use it that packing
   would cost more than it saves. */
static int qnet__gemm_packs(const qnet__kernel *kernel, int trans_b, size_t m, size_t n)
{
    return trans_b || n % kernel->columns != 0 || m > 8 * (size_t)QNET__TILE_ROWS;
}

/* (size_t)-1 when the bytes do not fit a size_t: no allocator will have them. */
QNET_API size_t qnet_gemm_scratch(const qnet_context *ctx, int trans_a, int trans_b, size_t m,
                                  size_t n, size_t k)
{
    const qnet__kernel kernel = qnet__pick_kernel(ctx);
    qnet__arena arena = {NULL, 0};
    QNET__UNUSED(trans_a);
    if (QNET__TWINS_ONLY || !qnet__gemm_packs(&kernel, trans_b, m, n)) {
        return 0;
    }
    if (!qnet__mul(k, kernel.columns * sizeof(qnet_real), &k)) {
        return (size_t)-1;
    }
    qnet__take(&arena, qnet__panels(&kernel, n), k);
    return arena.at;
}

static void qnet__gemm_fast(qnet_context *ctx, int trans_a, int trans_b, size_t m, size_t n,
                            size_t k, const qnet_real *a, size_t lda, const qnet_real *b,
                            size_t ldb, int accumulate, qnet_real *c, size_t ldc, void *scratch)
{
    qnet__gemm g;
    g.kernel = qnet__pick_kernel(ctx);
    g.a = a, g.b = b, g.c = c;
    g.m = m, g.n = n, g.k = k, g.ldc = ldc;
    g.a_row = trans_a ? 1 : lda;
    g.a_step = trans_a ? lda : 1;
    g.b_panel = g.kernel.columns;
    g.b_step = ldb;
    g.panels = qnet__panels(&g.kernel, n);
    g.panels_per_task = qnet__panels_per_task(g.panels, k * g.kernel.columns);
    g.bands = (m - 1) / QNET__GEMM_BAND + 1;
    g.accumulate = accumulate;
    if (qnet__gemm_packs(&g.kernel, trans_b, m, n)) {
        qnet__packing p;
        p.src = b, p.dst = (qnet_real *)scratch;
        p.blocks = 1, p.length = k, p.columns = n, p.width = g.kernel.columns;
        p.block_step = 0;
        p.row_step = trans_b ? 1 : ldb;
        p.column_step = trans_b ? ldb : 1;
        qnet__parallel(ctx, g.panels, qnet__pack_task, &p);
        g.b = p.dst;
        g.b_panel = k * g.kernel.columns;
        g.b_step = g.kernel.columns;
    }
    qnet__parallel(ctx, ((g.panels - 1) / g.panels_per_task + 1) * g.bands, qnet__gemm_task, &g);
}

/* The route to a BLAS, which counts in int. *done: 0 where there is none. */
static qnet_status qnet__gemm_blas(qnet_context *ctx, int trans_a, int trans_b, size_t m, size_t n,
                                   size_t k, const qnet_real *a, size_t lda, const qnet_real *b,
                                   size_t ldb, qnet_real beta, qnet_real *c, size_t ldc, int *done)
{
#if QNET__REAL_IS_DOUBLE
    QNET__UNUSED(ctx), QNET__UNUSED(trans_a), QNET__UNUSED(trans_b), QNET__UNUSED(m);
    QNET__UNUSED(n), QNET__UNUSED(k), QNET__UNUSED(a), QNET__UNUSED(lda), QNET__UNUSED(b);
    QNET__UNUSED(ldb), QNET__UNUSED(beta), QNET__UNUSED(c), QNET__UNUSED(ldc);
    *done = 0;
#else
    const qnet_blas *blas = &ctx->hooks.blas;
    const size_t most = qnet__max_size(qnet__max_size(m, n), qnet__max_size(k, qnet__max_size(
                        lda, qnet__max_size(ldb, ldc))));
    *done = !QNET__TWINS_ONLY && blas->sgemm != NULL;
    if (*done && most > (size_t)INT_MAX) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT,
                          "gemm: a size of %lu is above what the BLAS hook counts to, %d",
                          (unsigned long)most, INT_MAX);
    }
    if (*done) {
        blas->sgemm(blas->user, trans_a != 0, trans_b != 0, (int)m, (int)n, (int)k, 1, a, (int)lda,
                    b, (int)ldb, beta, c, (int)ldc);
    }
#endif
    return QNET_OK;
}

/* 1 when rows of `step` numbers are at least `width` wide and their bytes fit a size_t. */
static int qnet__matrix_ok(size_t rows, size_t width, size_t step)
{
    size_t bytes;
    return step >= width && qnet__mul(rows, step, &bytes) &&
           qnet__mul(bytes, sizeof(qnet_real), &bytes);
}

QNET_API qnet_status qnet_gemm(qnet_context *ctx, int trans_a, int trans_b, size_t m, size_t n,
                               size_t k, const qnet_real *a, size_t lda, const qnet_real *b,
                               size_t ldb, qnet_real beta, qnet_real *c, size_t ldc, void *scratch)
{
    void *own = NULL;
    size_t bytes;
    int done = 0;
    if (ctx == NULL || a == NULL || b == NULL || c == NULL) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "gemm: the context or a matrix is NULL");
    }
    if (m == 0 || n == 0 || k == 0) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "gemm: m %lu, n %lu and k %lu must be at least 1", (unsigned long)m,
                          (unsigned long)n, (unsigned long)k);
    }
    if (!qnet__matrix_ok(trans_a ? k : m, trans_a ? m : k, lda) ||
        !qnet__matrix_ok(trans_b ? n : k, trans_b ? k : n, ldb) || !qnet__matrix_ok(m, n, ldc)) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "gemm: leading dimensions %lu, %lu, %lu are too small for (or too large "
                          "with) m %lu, n %lu, k %lu", (unsigned long)lda, (unsigned long)ldb,
                          (unsigned long)ldc, (unsigned long)m, (unsigned long)n, (unsigned long)k);
    }
    if (beta != 0 && beta != 1) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "gemm: beta %g is neither 0 nor 1",
                          (double)beta);
    }
    QNET__TRY(qnet__gemm_blas(ctx, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc, &done));
    if (done) {
        return QNET_OK;
    }
    if (QNET__TWINS_ONLY) {
        qnet__gemm_ref(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
        return QNET_OK;
    }
    bytes = qnet_gemm_scratch(ctx, trans_a, trans_b, m, n, k);
    if (scratch == NULL && bytes != 0) {
        own = scratch = qnet__alloc(ctx, bytes);
        if (own == NULL) {
            return qnet__no_memory(ctx, bytes, "the packed matrix of a product");
        }
    }
    qnet__gemm_fast(ctx, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta != 0, c, ldc, scratch);
    qnet__free(ctx, own, bytes);
    return QNET_OK;
}

/* Products after which the rows go on to the next tile while the same piece of b stays in the first
   cache. It is the longest chain and a multiple of the others, so that it changes no bits. */
#define QNET__PIECE ((size_t)QNET__CHAIN_DIRECT)

/* Bytes that a tile asks for ahead in a piece. With a packed b of 64 columns and four tiles or more
   to a piece, the next piece has arrived when its turn comes, even from memory. */
#define QNET__AHEAD (64 * QNET__PIECE)

/* Some rows times a matrix that is packed once and used often, for callers' own tasks:
       c[m][j] (+)= sum over p < k of a[m][p * a_step] * b[p][j],   m < rows, j < columns.
   b: panels b_panel numbers apart, whose rows are b_step apart. A row with c[m] = NULL is not
   kept; a[m] must be readable for all rows, and `chain` divides QNET__PIECE. */
static void qnet__multiply_rows(const qnet__kernel *kernel, size_t chain, size_t rows,
                                size_t columns, size_t k, const qnet_real *const *a, size_t a_step,
                                const qnet_real *b, size_t b_step, size_t b_panel,
                                qnet_real *const *c, int accumulate)
{
    const size_t panels = qnet__panels(kernel, columns);
    const qnet_real *from[QNET__TILE_ROWS];
    qnet_real *to[QNET__TILE_ROWS];
    size_t panel, first, at, i, row;
    qnet__tile tile;
    memset(&tile, 0, sizeof tile);
    tile.chain = chain;
    tile.a = from, tile.b = &b, tile.c = to;
    tile.a_step = a_step, tile.b_step = b_step;
    tile.segments = 1;
    for (panel = 0; panel < panels; panel++) {
        const size_t column = panel * kernel->columns;
        const size_t wanted = qnet__min_size(columns - column, kernel->columns);
        for (at = 0; at < k; at += tile.length) {
            tile.length = qnet__min_size(k - at, QNET__PIECE);
            tile.a_at = at * a_step, tile.b_at = panel * b_panel + at * b_step;
            tile.accumulate = accumulate || at > 0;
            for (first = 0; first < rows; first += QNET__TILE_ROWS) {
                tile.rows = qnet__tile_size(rows - first);
                for (i = 0; i < (size_t)tile.rows; i++) {
                    row = qnet__min_size(first + i, rows - 1);
                    from[i] = a[row];
                    to[i] = first + i < rows && c[row] != NULL ? c[row] + column : NULL;
                }
                tile.ahead = (uintptr_t)b + (tile.b_at + tile.length * b_step) * sizeof *b +
                             first / QNET__TILE_ROWS * QNET__AHEAD;
                qnet__run_tile(kernel, &tile, wanted);
            }
        }
    }
}

/* ============================================================================================
   >>fuse: what is done to a map beside a convolution, so that it crosses memory less often: a
   `source` says how the numbers that are read come about, a `sink` what happens to the numbers that
   are written. Winograd's form applies both while it works; for the other forms, qnet__pass does
   the same from memory to memory.
   ============================================================================================ */

/* Numbers side by side in channels. Compilers with vector types split them into the registers that
   the target has; for others a vector is one number. */
#if defined(__GNUC__) || defined(__clang__)
#define QNET__LANE_COUNT (QNET__REAL_IS_DOUBLE ? 8 : 16)
typedef qnet_real qnet__lanes __attribute__((vector_size(QNET__LANE_COUNT * sizeof(qnet_real))));
typedef double qnet__wide __attribute__((vector_size(QNET__LANE_COUNT * sizeof(double))));
#else
#define QNET__LANE_COUNT 1
typedef qnet_real qnet__lanes;
typedef double qnet__wide;
#endif

QNET__INLINE void qnet__lanes_load(qnet__lanes *v, const qnet_real *p)
{
    memcpy(v, p, sizeof *v);
}

QNET__INLINE void qnet__lanes_store(qnet_real *p, const qnet__lanes *v)
{
    memcpy(p, v, sizeof *v);
}

QNET__INLINE void qnet__lanes_widen(const qnet__lanes *x, qnet__wide *y)
{
#if QNET__LANE_COUNT > 1
    *y = __builtin_convertvector(*x, qnet__wide);
#else
    *y = (double)*x;
#endif
}

QNET__INLINE void qnet__lanes_round(const qnet__wide *x, qnet__lanes *y)
{
#if QNET__LANE_COUNT > 1
    *y = __builtin_convertvector(*x, qnet__lanes);
#else
    *y = (qnet_real)*x;
#endif
}

/* Where test < 0 (or_zero: <= 0), v becomes 0. A NaN in test keeps v. */
QNET__INLINE void qnet__lanes_cut(qnet__lanes *v, const qnet__lanes *test, const int or_zero)
{
#if QNET__LANE_COUNT > 1
    qnet__lanes zero;
    memset(&zero, 0, sizeof zero);
    {
        const __typeof__(*v < zero) cut = or_zero ? *test <= zero : *test < zero;
        *v = (qnet__lanes)((__typeof__(*v < zero))*v & ~cut);
    }
#else
    *v = *test < 0 || (or_zero && *test == 0) ? 0 : *v;
#endif
}

/* Where a convolution reads a map x[pixels][channels], with what is to be done to each number:
     plain        x
     normalised   max((x - mean) scale + beta, 0): the input of a convolution that follows a batch
                  norm and ReLU, of which only the norm's input x was kept
     gradient     scale (x - shift - (pre - mean) slope): the gradient of a convolution's output
                  pre, from the gradient x of the batch norm's output that follows it */
typedef enum qnet__source_kind {
    QNET__SOURCE_PLAIN,
    QNET__SOURCE_NORMALISED,
    QNET__SOURCE_GRADIENT
} qnet__source_kind;

typedef struct qnet__source {
    qnet__source_kind kind;
    const qnet_real *x, *pre;                            /* [pixels][channels] */
    const qnet_real *mean, *scale, *beta, *shift, *slope; /* [channels] */
} qnet__source;

static qnet__source qnet__source_plain(const qnet_real *x)
{
    qnet__source s;
    memset(&s, 0, sizeof s);
    s.x = x;
    return s;
}

/* v = the numbers of channels c.. at offset `at` (of pixel and channel) of the source. */
QNET__INLINE void qnet__source_get(const qnet__source *s, const qnet__source_kind kind,
                                   ptrdiff_t at, ptrdiff_t c, qnet__lanes *v)
{
    qnet__lanes mean, scale, other;
    qnet__lanes_load(v, s->x + at);
    if (kind == QNET__SOURCE_PLAIN) {
        return;
    }
    qnet__lanes_load(&mean, s->mean + c);
    qnet__lanes_load(&scale, s->scale + c);
    if (kind == QNET__SOURCE_NORMALISED) {
        qnet__lanes_load(&other, s->beta + c);
        *v = (*v - mean) * scale + other;
        qnet__lanes_cut(v, v, 0);
    } else {
        qnet__lanes pre, slope;
        qnet__lanes_load(&pre, s->pre + at);
        qnet__lanes_load(&other, s->shift + c);
        qnet__lanes_load(&slope, s->slope + c);
        *v = scale * (*v - other - (pre - mean) * slope);
    }
}

/* What is to be done to each number v of a map before it is stored in y (NULL: it is not stored):
     plain      nothing
     moments    nothing, but sum1 += v - center, sum2 += (v - center)^2 for the batch norm that
                follows; center is the first number of the channel in its chunk
     normalise  (v - mean) scale + beta, + residual, ReLU; the residual may want its own
                (residual - residual_mean) residual_scale + residual_beta
     gradient   + residual (the gradient by another path); 0 where a ReLU's output was: `mask` or,
                with a scale, (pre - mean) scale + beta; and sum1 += v, sum2 += v (pre - mean) for
                the batch norm whose input is pre (NULL: not)
   Sums are per chunk of pixels; chunks depend on shapes only, and are added up in order. */
typedef enum qnet__sink_kind {
    QNET__SINK_PLAIN,
    QNET__SINK_MOMENTS,
    QNET__SINK_NORMALISE,
    QNET__SINK_GRADIENT
} qnet__sink_kind;

typedef struct qnet__sink {
    qnet__sink_kind kind;
    int relu;
    qnet_real *y;                                       /* [pixels][channels] */
    const qnet_real *residual, *mask, *pre;             /* [pixels][channels] */
    const qnet_real *mean, *scale, *beta;               /* [channels] */
    const qnet_real *residual_mean, *residual_scale, *residual_beta; /* [channels] or NULL */
    qnet_real *center;                                  /* [chunks][channels] */
    double *sum1, *sum2;                                /* [chunks][channels] */
    size_t *rows, chunks;                               /* rows[chunks]: pixels in each */
} qnet__sink;

static qnet__sink qnet__sink_plain(qnet_real *y)
{
    qnet__sink s;
    memset(&s, 0, sizeof s);
    s.y = y;
    return s;
}

/* Sums of one chunk and the channels of a vector: of at most 16 pixels, and of all the others
   before in double, as rounding errors grow with the length of a chain of additions. */
typedef struct qnet__sums {
    qnet__lanes center, sum1, sum2;
    qnet__wide all1, all2;
} qnet__sums;

QNET__INLINE void qnet__sums_fold(qnet__sums *sums)
{
    qnet__wide more;
    qnet__lanes_widen(&sums->sum1, &more);
    sums->all1 += more;
    qnet__lanes_widen(&sums->sum2, &more);
    sums->all2 += more;
    memset(&sums->sum1, 0, sizeof sums->sum1);
    memset(&sums->sum2, 0, sizeof sums->sum2);
}

/* v = (v - mean[c..]) scale[c..] + beta[c..]. */
QNET__INLINE void qnet__lanes_normalise(const qnet_real *mean, const qnet_real *scale,
                                        const qnet_real *beta, ptrdiff_t c, qnet__lanes *v)
{
    qnet__lanes m, k, b;
    qnet__lanes_load(&m, mean + c);
    qnet__lanes_load(&k, scale + c);
    qnet__lanes_load(&b, beta + c);
    *v = (*v - m) * k + b;
}

/* The numbers `value` of channels c.. go to offset `at` (of pixel and channel) of the sink. */
QNET__INLINE void qnet__sink_put(const qnet__sink *s, const qnet__sink_kind kind, ptrdiff_t at,
                                 ptrdiff_t c, const qnet__lanes *value, qnet__sums *sums)
{
    qnet__lanes v = *value, other;
    if (kind == QNET__SINK_MOMENTS) {
        other = v - sums->center;
        sums->sum1 += other;
        sums->sum2 += other * other;
    }
    if (kind == QNET__SINK_NORMALISE) {
        qnet__lanes_normalise(s->mean, s->scale, s->beta, c, &v);
        if (s->residual != NULL) {
            qnet__lanes_load(&other, s->residual + at);
            if (s->residual_mean != NULL) {
                qnet__lanes_normalise(s->residual_mean, s->residual_scale, s->residual_beta, c,
                                      &other);
            }
            v += other;
        }
        if (s->relu) {
            qnet__lanes_cut(&v, &v, 0);
        }
    }
    if (kind == QNET__SINK_GRADIENT) {
        if (s->residual != NULL) {
            qnet__lanes_load(&other, s->residual + at);
            v += other;
        }
        if (s->mask != NULL) {
            qnet__lanes_load(&other, s->mask + at);
            qnet__lanes_cut(&v, &other, 1);
        } else if (s->scale != NULL) {
            qnet__lanes_load(&other, s->pre + at);
            qnet__lanes_normalise(s->mean, s->scale, s->beta, c, &other);
            qnet__lanes_cut(&v, &other, 1);
        }
        if (s->pre != NULL) {
            qnet__lanes pre, mean;
            qnet__lanes_load(&pre, s->pre + at);
            qnet__lanes_load(&mean, s->mean + c);
            sums->sum1 += v;
            sums->sum2 += v * (pre - mean);
        }
    }
    if (s->y != NULL) {
        qnet__lanes_store(s->y + at, &v);
    }
}

/* Stores the sums of a chunk, for the channels of a vector; they were folded last. */
QNET__INLINE void qnet__sink_end(const qnet__sink *s, const qnet__sink_kind kind, ptrdiff_t chunk,
                                 ptrdiff_t channels, ptrdiff_t c, const qnet__sums *sums)
{
    if (kind == QNET__SINK_MOMENTS) {
        qnet__lanes_store(s->center + chunk * channels + c, &sums->center);
    }
    if (kind == QNET__SINK_MOMENTS || (kind == QNET__SINK_GRADIENT && s->pre != NULL)) {
        memcpy(s->sum1 + chunk * channels + c, &sums->all1, sizeof sums->all1);
        memcpy(s->sum2 + chunk * channels + c, &sums->all2, sizeof sums->all2);
    }
}

/* ---- From memory to memory ------------------------------------------------------------------- */

#define QNET__PASS_NUMBERS 32768 /* of a chunk: it is read once, and stays in L2 if it is written */
#define QNET__PASS_ROWS 512      /* and at most so many rows: bounds the rounding of its sums */

typedef struct qnet__pass_job {
    const qnet__source *source;
    const qnet__sink *sink;
    size_t rows, channels, chunk_rows;
} qnet__pass_job;

static size_t qnet__pass_chunk_rows(size_t channels)
{
    return qnet__min_size(QNET__PASS_ROWS, qnet__max_size(1, QNET__PASS_NUMBERS / channels));
}

static size_t qnet__pass_chunks(size_t rows, size_t channels)
{
    return (rows - 1) / qnet__pass_chunk_rows(channels) + 1;
}

/* The twin, by the definitions of source and sink. */
static qnet_real qnet__source_ref(const qnet__source *s, size_t at, size_t c)
{
    qnet_real v = s->x[at];
    if (s->kind == QNET__SOURCE_NORMALISED) {
        v = (v - s->mean[c]) * s->scale[c] + s->beta[c];
        v = v < 0 ? 0 : v;
    } else if (s->kind == QNET__SOURCE_GRADIENT) {
        v = s->scale[c] * (v - s->shift[c] - (s->pre[at] - s->mean[c]) * s->slope[c]);
    }
    return v;
}

static void qnet__sink_ref(const qnet__sink *s, size_t at, size_t sum_at, size_t c, qnet_real v)
{
    if (s->kind == QNET__SINK_MOMENTS) {
        const qnet_real d = v - s->center[sum_at];
        s->sum1[sum_at] += (double)d;
        s->sum2[sum_at] += (double)(d * d);
    } else if (s->kind == QNET__SINK_NORMALISE) {
        v = (v - s->mean[c]) * s->scale[c] + s->beta[c];
        if (s->residual != NULL && s->residual_mean != NULL) {
            v += (s->residual[at] - s->residual_mean[c]) * s->residual_scale[c] +
                 s->residual_beta[c];
        } else if (s->residual != NULL) {
            v += s->residual[at];
        }
        v = s->relu && v < 0 ? 0 : v;
    } else if (s->kind == QNET__SINK_GRADIENT) {
        v += s->residual != NULL ? s->residual[at] : 0;
        if (s->mask != NULL) {
            v = s->mask[at] <= 0 ? 0 : v;
        } else if (s->scale != NULL) {
            v = (s->pre[at] - s->mean[c]) * s->scale[c] + s->beta[c] <= 0 ? 0 : v;
        }
        if (s->pre != NULL) {
            s->sum1[sum_at] += (double)v;
            s->sum2[sum_at] += (double)(v * (s->pre[at] - s->mean[c]));
        }
    }
    if (s->y != NULL) {
        s->y[at] = v;
    }
}

static void qnet__pass_ref(const qnet__pass_job *job, size_t chunk, size_t rows)
{
    const size_t n = job->channels, first = chunk * job->chunk_rows * n;
    size_t r, c;
    for (c = 0; c < n && job->sink->sum1 != NULL; c++) {
        job->sink->sum1[chunk * n + c] = job->sink->sum2[chunk * n + c] = 0;
        if (job->sink->kind == QNET__SINK_MOMENTS) {
            job->sink->center[chunk * n + c] = qnet__source_ref(job->source, first + c, c);
        }
    }
    for (r = 0; r < rows; r++) {
        for (c = 0; c < n; c++) {
            const size_t at = first + r * n + c;
            qnet__sink_ref(job->sink, at, chunk * n + c, c, qnet__source_ref(job->source, at, c));
        }
    }
}

/* Rows of a chunk, in columns of a few vectors, so that a row is read a cache line or more at once
   and the sums stay in registers. */
QNET__INLINE void qnet__pass_columns(const qnet__pass_job *job, const qnet__source_kind from,
                                     const qnet__sink_kind to, size_t chunk, size_t rows)
{
    const ptrdiff_t n = (ptrdiff_t)job->channels;
    const ptrdiff_t first = (ptrdiff_t)(chunk * job->chunk_rows) * n;
    ptrdiff_t r, c;
    for (c = 0; c < n; c += 2 * QNET__LANE_COUNT) {
        const ptrdiff_t d = c + QNET__LANE_COUNT;
        qnet__sums left, right;
        qnet__lanes v;
        memset(&left, 0, sizeof left);
        memset(&right, 0, sizeof right);
        if (to == QNET__SINK_MOMENTS) {
            qnet__source_get(job->source, from, first + c, c, &left.center);
            qnet__source_get(job->source, from, first + d, d, &right.center);
        }
        for (r = 0; r < (ptrdiff_t)rows; r++) {
            qnet__source_get(job->source, from, first + r * n + c, c, &v);
            qnet__sink_put(job->sink, to, first + r * n + c, c, &v, &left);
            qnet__source_get(job->source, from, first + r * n + d, d, &v);
            qnet__sink_put(job->sink, to, first + r * n + d, d, &v, &right);
            if (r % 16 == 15 || r + 1 == (ptrdiff_t)rows) {
                qnet__sums_fold(&left);
                qnet__sums_fold(&right);
            }
        }
        qnet__sink_end(job->sink, to, (ptrdiff_t)chunk, n, c, &left);
        qnet__sink_end(job->sink, to, (ptrdiff_t)chunk, n, d, &right);
    }
}

#define QNET__DEFINE_PASS(name, target)                                                           \
    target static void name(const qnet__pass_job *job, size_t chunk, size_t rows)                 \
    {                                                                                             \
        const qnet__sink_kind to = job->sink->kind;                                               \
        if (job->source->kind == QNET__SOURCE_NORMALISED)                                         \
            qnet__pass_columns(job, QNET__SOURCE_NORMALISED, QNET__SINK_PLAIN, chunk, rows);      \
        else if (job->source->kind == QNET__SOURCE_GRADIENT)                                      \
            qnet__pass_columns(job, QNET__SOURCE_GRADIENT, QNET__SINK_PLAIN, chunk, rows);        \
        else if (to == QNET__SINK_MOMENTS)                                                        \
            qnet__pass_columns(job, QNET__SOURCE_PLAIN, QNET__SINK_MOMENTS, chunk, rows);         \
        else if (to == QNET__SINK_NORMALISE)                                                      \
            qnet__pass_columns(job, QNET__SOURCE_PLAIN, QNET__SINK_NORMALISE, chunk, rows);       \
        else                                                                                      \
            qnet__pass_columns(job, QNET__SOURCE_PLAIN, QNET__SINK_GRADIENT, chunk, rows);        \
    }

QNET__DEFINE_PASS(qnet__pass_portable, )
#if QNET__X86
QNET__DEFINE_PASS(qnet__pass_avx2, QNET__AVX2)
QNET__DEFINE_PASS(qnet__pass_avx512, QNET__AVX512)
#endif

typedef struct qnet__pass_call {
    qnet__pass_job job;
    void (*run)(const qnet__pass_job *job, size_t chunk, size_t rows);
} qnet__pass_call;

static void qnet__pass_task(void *arg, size_t chunk, size_t worker)
{
    const qnet__pass_call *call = (const qnet__pass_call *)arg;
    const size_t rows = qnet__min_size(call->job.chunk_rows,
                                       call->job.rows - chunk * call->job.chunk_rows);
    QNET__UNUSED(worker);
    if (call->job.sink->rows != NULL) {
        call->job.sink->rows[chunk] = rows;
    }
    call->run(&call->job, chunk, rows);
}

/* sink <- source over x[rows][channels], channels a multiple of 32. One of the two is plain. The
   sink's y, residual and the source's x may be the same map. */
static void qnet__pass(qnet_context *ctx, const qnet__source *source, qnet__sink *sink, size_t rows,
                       size_t channels)
{
    qnet__pass_call call;
    call.job.source = source, call.job.sink = sink;
    call.job.rows = rows, call.job.channels = channels;
    call.job.chunk_rows = qnet__pass_chunk_rows(channels);
    call.run = QNET__TWINS_ONLY ? qnet__pass_ref : qnet__pass_portable;
#if QNET__X86
    if (!QNET__TWINS_ONLY && qnet_context_cpu(ctx) == QNET_CPU_AVX512) {
        call.run = qnet__pass_avx512;
    } else if (!QNET__TWINS_ONLY && qnet_context_cpu(ctx) == QNET_CPU_AVX2) {
        call.run = qnet__pass_avx2;
    }
#endif
    sink->chunks = qnet__pass_chunks(rows, channels);
    qnet__parallel(ctx, sink->chunks, qnet__pass_task, &call);
}

/* ---- Sums of all chunks, in order and in double ---------------------------------------------- */

#define QNET__SINK_CHANNELS 16 /* of a task: a cache line of sums */

typedef struct qnet__sink_join {
    const qnet__sink *sink;
    size_t channels;
    double *first, *second; /* [channels] */
} qnet__sink_join;

/* Moments: first = mean, second = biased variance. With n numbers around center, mean_k = center +
   sum1 / n and M_k = sum2 - sum1^2 / n (Chan, Golub & LeVeque 1983), M = sum M_k + n (mean_k -
   mean)^2. Gradient: first = sum of sum1, second = sum of sum2. */
static void qnet__sink_join_task(void *arg, size_t index, size_t worker)
{
    const qnet__sink_join *job = (const qnet__sink_join *)arg;
    const qnet__sink *s = job->sink;
    const size_t begin = index * QNET__SINK_CHANNELS, n = job->channels;
    const size_t end = qnet__min_size(begin + QNET__SINK_CHANNELS, n);
    size_t k, c;
    double rows = 0;
    QNET__UNUSED(worker);
    for (c = begin; c < end; c++) {
        job->first[c] = job->second[c] = 0;
    }
    if (s->kind == QNET__SINK_GRADIENT) {
        for (k = 0; k < s->chunks; k++) {
            for (c = begin; c < end; c++) {
                job->first[c] += s->sum1[k * n + c];
                job->second[c] += s->sum2[k * n + c];
            }
        }
        return;
    }
    for (k = 0; k < s->chunks; k++) {
        rows += (double)s->rows[k];
        for (c = begin; c < end; c++) {
            job->first[c] += (double)s->rows[k] * (double)s->center[k * n + c] +
                             s->sum1[k * n + c];
        }
    }
    for (c = begin; c < end; c++) {
        job->first[c] /= rows;
    }
    for (k = 0; k < s->chunks; k++) {
        const double m = (double)s->rows[k];
        for (c = begin; c < end; c++) {
            const double sum = s->sum1[k * n + c];
            const double d = (double)s->center[k * n + c] + sum / m - job->first[c];
            job->second[c] += s->sum2[k * n + c] - sum * sum / m + m * d * d;
        }
    }
    for (c = begin; c < end; c++) {
        job->second[c] /= rows;
    }
}

static void qnet__sink_totals(qnet_context *ctx, const qnet__sink *sink, size_t channels,
                              double *first, double *second)
{
    qnet__sink_join job;
    job.sink = sink;
    job.channels = channels;
    job.first = first;
    job.second = second;
    qnet__parallel(ctx, (channels - 1) / QNET__SINK_CHANNELS + 1, qnet__sink_join_task, &job);
}

/* ============================================================================================
   >>winograd: 3x3 convolution at stride 1 by Winograd's minimal filtering F(4x4, 3x3).

   4x4 outputs Y need 6x6 inputs d. With the kernel g and elementwise products (.),
       Y = A^T [ sum over ci of (G g G^T) . (B^T d B) ] A
   takes 36 multiplications per channel pair where the direct sum takes 144 (Winograd 1980; Lavin &
   Gray 2016). Over all tiles of all images each of the 36 elements is a matrix product,
   m[tile][co] = sum over ci of v[tile][ci] * u[ci][co], by the tile of >>gemm.

   The matrices come from interpolation at the points 0, a, -a, b, -b and infinity. With a = 5/8 and
   b = 3/2 all entries of A and B are exact in binary, and the rounding error is less than half of
   that with the usual 1 and 2. na = 1 / (2 a^2 (a^2 - b^2)), nb = 1 / (2 b^2 (b^2 - a^2)),
   n0 = 1 / (a^2 b^2):

       B^T = [ a2b2   0     -(a2+b2)  0       1  0 ]       G = [ n0    0     0     ]
             [ 0     -a b2  -b2       a       1  0 ]           [ na    na a  na a2 ]
             [ 0      a b2  -b2      -a       1  0 ]           [ na   -na a  na a2 ]
             [ 0     -b a2  -a2       b       1  0 ]           [ nb    nb b  nb b2 ]
             [ 0      b a2  -a2      -b       1  0 ]           [ nb   -nb b  nb b2 ]
             [ 0      a2b2   0       -(a2+b2) 0  1 ]           [ 0     0     1     ]

       A^T = [ 1  1   1   1   1   0 ]
             [ 0  a  -a   b  -b   0 ]
             [ 0  a2  a2  b2  b2  0 ]
             [ 0  a3 -a3  b3 -b3  1 ]          a2 = a^2, and so on

   Gradient of the inputs: a convolution of dy with the kernel turned round and its channels
   swapped, so it is the same code. Gradient of the weights: Y is linear in G g G^T, so
       dg = G^T [ sum over tiles of (B^T d B) . (A dY A^T) ] G,
   again 36 matrix products. The twins are those of >>conv: the equation that this room evaluates
   is the same, in another order of sums.
   ============================================================================================ */

/* ---- The transforms in one dimension. Strides are in vectors. -------------------------------- */

#define QNET__WINOGRAD_A 0.625
#define QNET__WINOGRAD_B 1.5
#define QNET__WINOGRAD_A2 (QNET__WINOGRAD_A * QNET__WINOGRAD_A)
#define QNET__WINOGRAD_B2 (QNET__WINOGRAD_B * QNET__WINOGRAD_B)
#define QNET__WINOGRAD_N0 (1 / (QNET__WINOGRAD_A2 * QNET__WINOGRAD_B2))
#define QNET__WINOGRAD_NA (1 / (2 * QNET__WINOGRAD_A2 * (QNET__WINOGRAD_A2 - QNET__WINOGRAD_B2)))
#define QNET__WINOGRAD_NB (1 / (2 * QNET__WINOGRAD_B2 * (QNET__WINOGRAD_B2 - QNET__WINOGRAD_A2)))

/* y[6] = B^T x[6]; rows 1 and 2, 3 and 4 share their even and odd parts. */
QNET__INLINE void qnet__winograd_bt(const qnet__lanes *x, qnet__lanes *y, const ptrdiff_t step)
{
    const qnet_real a = (qnet_real)QNET__WINOGRAD_A, a2 = (qnet_real)QNET__WINOGRAD_A2;
    const qnet_real b = (qnet_real)QNET__WINOGRAD_B, b2 = (qnet_real)QNET__WINOGRAD_B2;
    const qnet__lanes even1 = x[4] - b2 * x[2], odd1 = a * (x[3] - b2 * x[1]);
    const qnet__lanes even3 = x[4] - a2 * x[2], odd3 = b * (x[3] - a2 * x[1]);
    y[0] = x[4] + (a2 * b2 * x[0] - (a2 + b2) * x[2]);
    y[step] = even1 + odd1;
    y[2 * step] = even1 - odd1;
    y[3 * step] = even3 + odd3;
    y[4 * step] = even3 - odd3;
    y[5 * step] = x[5] + (a2 * b2 * x[1] - (a2 + b2) * x[3]);
}

/* y[4] = A^T x[6]. */
QNET__INLINE void qnet__winograd_at(const qnet__lanes *x, qnet__lanes *y, const ptrdiff_t step)
{
    const qnet_real a = (qnet_real)QNET__WINOGRAD_A, a2 = (qnet_real)QNET__WINOGRAD_A2;
    const qnet_real b = (qnet_real)QNET__WINOGRAD_B, b2 = (qnet_real)QNET__WINOGRAD_B2;
    const qnet__lanes sum1 = x[1] + x[2], difference1 = a * (x[1] - x[2]);
    const qnet__lanes sum3 = x[3] + x[4], difference3 = b * (x[3] - x[4]);
    y[0] = x[0] + sum1 + sum3;
    y[step] = difference1 + difference3;
    y[2 * step] = a2 * sum1 + b2 * sum3;
    y[3 * step] = x[5] + (a2 * difference1 + b2 * difference3);
}

/* y[6] = A x[4]. */
QNET__INLINE void qnet__winograd_a(const qnet__lanes *x, qnet__lanes *y, const ptrdiff_t step)
{
    const qnet_real a = (qnet_real)QNET__WINOGRAD_A, a2 = (qnet_real)QNET__WINOGRAD_A2;
    const qnet_real b = (qnet_real)QNET__WINOGRAD_B, b2 = (qnet_real)QNET__WINOGRAD_B2;
    const qnet__lanes even1 = x[0] + a2 * x[2], odd1 = a * (x[1] + a2 * x[3]);
    const qnet__lanes even3 = x[0] + b2 * x[2], odd3 = b * (x[1] + b2 * x[3]);
    y[0] = x[0];
    y[step] = even1 + odd1;
    y[2 * step] = even1 - odd1;
    y[3 * step] = even3 + odd3;
    y[4 * step] = even3 - odd3;
    y[5 * step] = x[3];
}

/* y[6] = G x[3], in double: the entries of G are not exact in binary, and an error in a kernel does
   not average out over pixels. */
QNET__INLINE void qnet__winograd_g(const qnet__wide *x, qnet__wide *y, const ptrdiff_t step)
{
    const double a = QNET__WINOGRAD_A, a2 = QNET__WINOGRAD_A2;
    const double b = QNET__WINOGRAD_B, b2 = QNET__WINOGRAD_B2;
    const qnet__wide even1 = QNET__WINOGRAD_NA * (x[0] + a2 * x[2]);
    const qnet__wide even3 = QNET__WINOGRAD_NB * (x[0] + b2 * x[2]);
    const qnet__wide odd1 = QNET__WINOGRAD_NA * a * x[1], odd3 = QNET__WINOGRAD_NB * b * x[1];
    y[0] = QNET__WINOGRAD_N0 * x[0];
    y[step] = even1 + odd1;
    y[2 * step] = even1 - odd1;
    y[3 * step] = even3 + odd3;
    y[4 * step] = even3 - odd3;
    y[5 * step] = x[2];
}

/* y[3] = G^T x[6], in double too. */
QNET__INLINE void qnet__winograd_gt(const qnet__wide *x, qnet__wide *y, const ptrdiff_t step)
{
    const double a = QNET__WINOGRAD_A, a2 = QNET__WINOGRAD_A2;
    const double b = QNET__WINOGRAD_B, b2 = QNET__WINOGRAD_B2;
    const qnet__wide sum1 = QNET__WINOGRAD_NA * (x[1] + x[2]);
    const qnet__wide sum3 = QNET__WINOGRAD_NB * (x[3] + x[4]);
    y[0] = QNET__WINOGRAD_N0 * x[0] + (sum1 + sum3);
    y[step] = QNET__WINOGRAD_NA * a * (x[1] - x[2]) + QNET__WINOGRAD_NB * b * (x[3] - x[4]);
    y[2 * step] = x[5] + (a2 * sum1 + b2 * sum3);
}

/* ---- The transforms of tiles ----------------------------------------------------------------- */

#define QNET__WINOGRAD_GROUP 64 /* channels that go from the products to the output at once */
#define QNET__WINOGRAD_PAD 16   /* numbers between rows: powers of two would share cache sets */

typedef struct qnet__winograd {
    qnet__kernel kernel;
    ptrdiff_t height, width;              /* of a map; inputs and outputs are alike */
    ptrdiff_t src_c, dst_c;               /* channels that come in and go out */
    ptrdiff_t tiles_y, tiles_x, tiles;    /* of an image, of an image, of the batch */
    ptrdiff_t block, blocks;              /* tiles of one chunk of work, and chunks */
    ptrdiff_t round;                      /* tiles in a shared v; 0: each task has its own v */
    ptrdiff_t round_first, round_last;
    ptrdiff_t v_row, v_plane;             /* v[36][tiles][src_c]: steps of the first two */
    ptrdiff_t d_row, d_plane;             /* d[36][tiles][dst_c], of the weights' gradient */
    ptrdiff_t m_plane;                    /* m[36][block][QNET__WINOGRAD_GROUP] */
    qnet__source x, dy;                   /* dy: for the weights' gradient only */
    qnet__sink sink;
    const qnet_real *w;                   /* [3][3][in][out] */
    int backward;                         /* w is turned round and in, out are dst_c, src_c */
    qnet_real *u;                         /* [groups][36][panels][src_c][kernel.columns] */
    const qnet_real *packed;              /* u, or what was packed before */
    qnet_real *v, *m, *d, *du, *dw;       /* du[36][in][out], dw[3][3][in][out] */
} qnet__winograd;

/* at[size * size]: the offsets of the pixels of a tile that starts `border` pixels before its
   outputs, or -1 outside the map. */
static void qnet__winograd_offsets(const qnet__winograd *p, ptrdiff_t tile, int border, int size,
                                   ptrdiff_t channels, ptrdiff_t *at)
{
    const ptrdiff_t left = tile % p->tiles_x * 4 - border;
    const ptrdiff_t top = tile / p->tiles_x % p->tiles_y * 4 - border;
    const ptrdiff_t image = tile / p->tiles_x / p->tiles_y * p->height;
    ptrdiff_t y, x;
    for (y = top; y < top + size; y++) {
        for (x = left; x < left + size; x++) {
            const int inside = y >= 0 && y < p->height && x >= 0 && x < p->width;
            *at++ = inside ? ((image + y) * p->width + x) * channels : -1;
        }
    }
}

QNET__INLINE void qnet__winograd_get(const qnet__source *s, const qnet__source_kind kind,
                                     ptrdiff_t at, ptrdiff_t c, qnet__lanes *v)
{
    if (at < 0) {
        memset(v, 0, sizeof *v);
    } else {
        qnet__source_get(s, kind, at + c, c, v);
    }
}

/* to[k][...] = x[k], k < 6. Written out here and below: compilers unroll loops too late to keep
   small arrays in registers. */
QNET__INLINE void qnet__winograd_put(const qnet__lanes *x, qnet_real *to, ptrdiff_t plane)
{
    qnet__lanes_store(to, &x[0]);
    qnet__lanes_store(to + plane, &x[1]);
    qnet__lanes_store(to + 2 * plane, &x[2]);
    qnet__lanes_store(to + 3 * plane, &x[3]);
    qnet__lanes_store(to + 4 * plane, &x[4]);
    qnet__lanes_store(to + 5 * plane, &x[5]);
}

/* v[36][tile - first][src_c] = B^T d B of the tiles first .. last - 1. */
QNET__INLINE void qnet__winograd_input(const qnet__winograd *p, const qnet__source_kind kind,
                                       ptrdiff_t first, ptrdiff_t last, qnet_real *v)
{
    ptrdiff_t t, c, at[36];
    int y, x;
    for (t = first; t < last; t++, v += p->v_row) {
        qnet__winograd_offsets(p, t, 1, 6, p->src_c, at);
        for (c = 0; c < p->src_c; c += QNET__LANE_COUNT) {
            qnet__lanes half[36];
            for (x = 0; x < 6; x++) {
                qnet__lanes d[6];
                qnet__winograd_get(&p->x, kind, at[x], c, &d[0]);
                qnet__winograd_get(&p->x, kind, at[6 + x], c, &d[1]);
                qnet__winograd_get(&p->x, kind, at[12 + x], c, &d[2]);
                qnet__winograd_get(&p->x, kind, at[18 + x], c, &d[3]);
                qnet__winograd_get(&p->x, kind, at[24 + x], c, &d[4]);
                qnet__winograd_get(&p->x, kind, at[30 + x], c, &d[5]);
                qnet__winograd_bt(d, half + x, 6);
            }
            for (y = 0; y < 6; y++) {
                qnet__lanes d[6];
                qnet__winograd_bt(half + 6 * y, d, 1);
                qnet__winograd_put(d, v + y * 6 * p->v_plane + c, p->v_plane);
            }
        }
    }
}

/* d[36][tile - first][dst_c] = A dY A^T of the tiles first .. last - 1. */
QNET__INLINE void qnet__winograd_gradient(const qnet__winograd *p, const qnet__source_kind kind,
                                          ptrdiff_t first, ptrdiff_t last, qnet_real *d)
{
    ptrdiff_t t, c, at[16];
    int y, x;
    for (t = first; t < last; t++, d += p->d_row) {
        qnet__winograd_offsets(p, t, 0, 4, p->dst_c, at);
        for (c = 0; c < p->dst_c; c += QNET__LANE_COUNT) {
            qnet__lanes half[24];
            for (x = 0; x < 4; x++) {
                qnet__lanes e[4];
                qnet__winograd_get(&p->dy, kind, at[x], c, &e[0]);
                qnet__winograd_get(&p->dy, kind, at[4 + x], c, &e[1]);
                qnet__winograd_get(&p->dy, kind, at[8 + x], c, &e[2]);
                qnet__winograd_get(&p->dy, kind, at[12 + x], c, &e[3]);
                qnet__winograd_a(e, half + x, 4);
            }
            for (y = 0; y < 6; y++) {
                qnet__lanes e[6];
                qnet__winograd_a(half + 4 * y, e, 1);
                qnet__winograd_put(e, d + y * 6 * p->d_plane + c, p->d_plane);
            }
        }
    }
}

/* To the sink, unless the pixel is outside the map. */
QNET__INLINE void qnet__winograd_sink(const qnet__sink *s, const qnet__sink_kind kind,
                                      ptrdiff_t at, ptrdiff_t channel, const qnet__lanes *y,
                                      qnet__sums *sums)
{
    if (at >= 0) {
        qnet__sink_put(s, kind, at + channel, channel, y, sums);
    }
}

/* Y = A^T m A of the tiles of a block, for a group of channels from `channel`, to the sink. */
QNET__INLINE void qnet__winograd_output(const qnet__winograd *p, const qnet__sink_kind kind,
                                        ptrdiff_t block, ptrdiff_t channel, const qnet_real *m)
{
    const qnet__sink *s = &p->sink;
    const ptrdiff_t first = block * p->block;
    const ptrdiff_t last = first + p->block < p->tiles ? first + p->block : p->tiles;
    qnet__sums sums[QNET__WINOGRAD_GROUP / QNET__LANE_COUNT];
    ptrdiff_t t, c, at[16];
    size_t rows = 0;
    int x, y;
    memset(sums, 0, sizeof sums);
    for (t = first; t < last; t++) {
        qnet__winograd_offsets(p, t, 0, 4, p->dst_c, at);
        for (c = 0; c < QNET__WINOGRAD_GROUP; c += QNET__LANE_COUNT) {
            const ptrdiff_t to = channel + c, plane = p->m_plane;
            const qnet_real *from = m + (t - first) * QNET__WINOGRAD_GROUP + c;
            qnet__sums *const sum = &sums[c / QNET__LANE_COUNT];
            qnet__lanes half[24];
            for (x = 0; x < 6; x++, from += plane) {
                qnet__lanes e[6];
                qnet__lanes_load(&e[0], from);
                qnet__lanes_load(&e[1], from + 6 * plane);
                qnet__lanes_load(&e[2], from + 12 * plane);
                qnet__lanes_load(&e[3], from + 18 * plane);
                qnet__lanes_load(&e[4], from + 24 * plane);
                qnet__lanes_load(&e[5], from + 30 * plane);
                qnet__winograd_at(e, half + x, 6);
            }
            for (y = 0; y < 4; y++) {
                qnet__lanes e[4];
                qnet__winograd_at(half + 6 * y, e, 1);
                if (kind == QNET__SINK_MOMENTS && y == 0 && t == first) {
                    sum->center = e[0];
                }
                qnet__winograd_sink(s, kind, at[4 * y], to, &e[0], sum);
                qnet__winograd_sink(s, kind, at[4 * y + 1], to, &e[1], sum);
                qnet__winograd_sink(s, kind, at[4 * y + 2], to, &e[2], sum);
                qnet__winograd_sink(s, kind, at[4 * y + 3], to, &e[3], sum);
            }
            qnet__sums_fold(sum);
        }
        for (x = 0; x < 16; x++) {
            rows += at[x] >= 0;
        }
    }
    for (c = 0; c < QNET__WINOGRAD_GROUP; c += QNET__LANE_COUNT) {
        qnet__sink_end(s, kind, block, p->dst_c, channel + c, &sums[c / QNET__LANE_COUNT]);
    }
    if (kind == QNET__SINK_MOMENTS && channel == 0) {
        s->rows[block] = rows;
    }
}

/* u = G g G^T, for input channels first .. first + QNET__LANE_COUNT - 1 and the output channels of
   a vector from `channel`. The kernels are first gathered: turned round and with channels swapped
   when they are for the gradient of the inputs. */
QNET__INLINE void qnet__winograd_kernels(const qnet__winograd *p, ptrdiff_t first,
                                         ptrdiff_t channel)
{
    const ptrdiff_t columns = (ptrdiff_t)p->kernel.columns, in = p->src_c, out = p->dst_c;
    const ptrdiff_t piece = columns < QNET__LANE_COUNT ? columns : QNET__LANE_COUNT;
    qnet_real g[9][QNET__LANE_COUNT];
    ptrdiff_t i, j;
    int k, y, x;
    for (i = first; i < first + QNET__LANE_COUNT; i++) {
        qnet__wide half[18], e[6];
        qnet__lanes u;
        for (k = 0; k < 9; k++) {
            if (!p->backward) {
                memcpy(g[k], p->w + (k * in + i) * out + channel, sizeof g[k]);
                continue;
            }
            for (j = 0; j < QNET__LANE_COUNT; j++) {
                g[k][j] = p->w[((8 - k) * out + channel + j) * in + i];
            }
        }
        for (x = 0; x < 3; x++) {
            QNET__UNROLL
            for (y = 0; y < 3; y++) {
                qnet__lanes_load(&u, g[y * 3 + x]);
                qnet__lanes_widen(&u, &e[y]);
            }
            qnet__winograd_g(e, half + x, 3);
        }
        for (y = 0; y < 6; y++) {
            qnet__winograd_g(half + 3 * y, e, 1);
            for (x = 0; x < 6; x++) {
                qnet__lanes_round(&e[x], &u);
                for (j = 0; j < QNET__LANE_COUNT; j += piece) {
                    const ptrdiff_t to = channel + j, group = to / QNET__WINOGRAD_GROUP;
                    const ptrdiff_t panel = to % QNET__WINOGRAD_GROUP / columns;
                    const ptrdiff_t panels = QNET__WINOGRAD_GROUP / columns;
                    memcpy(p->u + (((group * 36 + y * 6 + x) * panels + panel) * in + i) * columns +
                               to % columns,
                           (const qnet_real *)&u + j, (size_t)piece * sizeof(qnet_real));
                }
            }
        }
    }
}

/* dg = G^T du G for input channel i. */
QNET__INLINE void qnet__winograd_kernel_gradients(const qnet__winograd *p, ptrdiff_t i)
{
    const ptrdiff_t in = p->src_c, out = p->dst_c;
    ptrdiff_t c;
    int y, x;
    for (c = 0; c < out; c += QNET__LANE_COUNT) {
        qnet__wide half[18], e[6];
        qnet__lanes v;
        for (x = 0; x < 6; x++) {
            QNET__UNROLL
            for (y = 0; y < 6; y++) {
                qnet__lanes_load(&v, p->du + ((y * 6 + x) * in + i) * out + c);
                qnet__lanes_widen(&v, &e[y]);
            }
            qnet__winograd_gt(e, half + x, 6);
        }
        for (y = 0; y < 3; y++) {
            qnet__winograd_gt(half + 6 * y, e, 1);
            QNET__UNROLL
            for (x = 0; x < 3; x++) {
                qnet__lanes_round(&e[x], &v);
                qnet__lanes_store(p->dw + ((y * 3 + x) * in + i) * out + c, &v);
            }
        }
    }
}

/* The loops above, compiled for each kind of CPU. */
typedef enum qnet__winograd_step {
    QNET__WINOGRAD_INPUT,
    QNET__WINOGRAD_GRADIENT,
    QNET__WINOGRAD_OUTPUT,
    QNET__WINOGRAD_KERNELS,
    QNET__WINOGRAD_KERNEL_GRADIENTS
} qnet__winograd_step;

#define QNET__DEFINE_WINOGRAD(name, target)                                                       \
    target static void name(const qnet__winograd *p, qnet__winograd_step step, ptrdiff_t i,       \
                            ptrdiff_t j, qnet_real *block)                                        \
    {                                                                                             \
        const qnet__source_kind from = step == QNET__WINOGRAD_GRADIENT ? p->dy.kind : p->x.kind;  \
        if (step == QNET__WINOGRAD_INPUT && from == QNET__SOURCE_PLAIN)                           \
            qnet__winograd_input(p, QNET__SOURCE_PLAIN, i, j, block);                             \
        else if (step == QNET__WINOGRAD_INPUT && from == QNET__SOURCE_NORMALISED)                 \
            qnet__winograd_input(p, QNET__SOURCE_NORMALISED, i, j, block);                        \
        else if (step == QNET__WINOGRAD_INPUT)                                                    \
            qnet__winograd_input(p, QNET__SOURCE_GRADIENT, i, j, block);                          \
        else if (step == QNET__WINOGRAD_GRADIENT && from == QNET__SOURCE_PLAIN)                   \
            qnet__winograd_gradient(p, QNET__SOURCE_PLAIN, i, j, block);                          \
        else if (step == QNET__WINOGRAD_GRADIENT)                                                 \
            qnet__winograd_gradient(p, QNET__SOURCE_GRADIENT, i, j, block);                       \
        else if (step == QNET__WINOGRAD_KERNELS)                                                  \
            qnet__winograd_kernels(p, i, j);                                                      \
        else if (step == QNET__WINOGRAD_KERNEL_GRADIENTS)                                         \
            qnet__winograd_kernel_gradients(p, i);                                                \
        else if (p->sink.kind == QNET__SINK_PLAIN)                                                \
            qnet__winograd_output(p, QNET__SINK_PLAIN, i, j, block);                              \
        else if (p->sink.kind == QNET__SINK_MOMENTS)                                              \
            qnet__winograd_output(p, QNET__SINK_MOMENTS, i, j, block);                            \
        else if (p->sink.kind == QNET__SINK_NORMALISE)                                            \
            qnet__winograd_output(p, QNET__SINK_NORMALISE, i, j, block);                          \
        else                                                                                      \
            qnet__winograd_output(p, QNET__SINK_GRADIENT, i, j, block);                           \
    }

QNET__DEFINE_WINOGRAD(qnet__winograd_portable, )
#if QNET__X86
QNET__DEFINE_WINOGRAD(qnet__winograd_avx2, QNET__AVX2)
QNET__DEFINE_WINOGRAD(qnet__winograd_avx512, QNET__AVX512)
#endif

static void qnet__winograd_run(const qnet__winograd *p, qnet__winograd_step step, ptrdiff_t i,
                               ptrdiff_t j, qnet_real *block)
{
#if QNET__X86
    if (p->kernel.columns == 64) {
        qnet__winograd_avx512(p, step, i, j, block);
        return;
    }
    if (p->kernel.columns == 16) {
        qnet__winograd_avx2(p, step, i, j, block);
        return;
    }
#endif
    qnet__winograd_portable(p, step, i, j, block);
}

/* ---- Forward and gradient of the inputs ------------------------------------------------------ */

/* m[36][row][group] = sum over ci of v[36][row][ci] * u[36][ci][group] for `count` rows of v. Rows
   of m beyond them are written too, up to whole tiles, as a block is. A piece of u stays in the
   first cache while the rows go by. */
static void qnet__winograd_multiply(const qnet__winograd *p, const qnet_real *v, ptrdiff_t count,
                                    ptrdiff_t group, qnet_real *m)
{
    const ptrdiff_t columns = (ptrdiff_t)p->kernel.columns, piece = (ptrdiff_t)QNET__PIECE;
    const qnet_real *u = p->packed + group * 36 * p->src_c * QNET__WINOGRAD_GROUP;
    const qnet_real *a[QNET__TILE_ROWS];
    qnet_real *c[QNET__TILE_ROWS];
    ptrdiff_t k, panel, r, row, at;
    qnet__tile tile;
    int i;
    memset(&tile, 0, sizeof tile);
    tile.chain = QNET__CHAIN_WINOGRAD;
    tile.a = a, tile.b = &u, tile.c = c;
    tile.a_step = 1, tile.b_step = (size_t)columns;
    tile.segments = 1, tile.length = (size_t)piece;
    for (k = 0; k < 36; k++) {
        for (panel = 0; panel < QNET__WINOGRAD_GROUP; panel += columns) {
            for (at = 0; at < p->src_c; at += piece, u += piece * columns) {
                tile.accumulate = at > 0;
                for (r = 0; r < count; r += QNET__TILE_ROWS) {
                    tile.rows = qnet__tile_size((size_t)(count - r));
                    for (i = 0; i < tile.rows; i++) {
                        row = r + i < count ? r + i : count - 1;
                        a[i] = v + k * p->v_plane + row * p->v_row + at;
                        c[i] = m + k * p->m_plane + (r + i) * QNET__WINOGRAD_GROUP + panel;
                    }
                    tile.ahead = (uintptr_t)u + (size_t)(piece * columns) * sizeof *u +
                                 (size_t)(r / QNET__TILE_ROWS) * QNET__AHEAD;
                    p->kernel.run(&tile);
                }
            }
        }
    }
}

static ptrdiff_t qnet__winograd_last(const qnet__winograd *p, ptrdiff_t first, ptrdiff_t count)
{
    const ptrdiff_t end = p->round_last > 0 ? p->round_last : p->tiles;
    return first + count < end ? first + count : end;
}

/* A block from end to end, in memory of the worker's own. */
static void qnet__winograd_block_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const ptrdiff_t first = (ptrdiff_t)index * p->block;
    const ptrdiff_t last = qnet__winograd_last(p, first, p->block);
    qnet_real *v = p->v + (ptrdiff_t)worker * 36 * p->v_plane;
    qnet_real *m = p->m + (ptrdiff_t)worker * 36 * p->m_plane;
    ptrdiff_t group;
    qnet__winograd_run(p, QNET__WINOGRAD_INPUT, first, last, v);
    for (group = 0; group < p->dst_c / QNET__WINOGRAD_GROUP; group++) {
        qnet__winograd_multiply(p, v, last - first, group, m);
        qnet__winograd_run(p, QNET__WINOGRAD_OUTPUT, (ptrdiff_t)index, group * QNET__WINOGRAD_GROUP,
                           m);
    }
}

#define QNET__WINOGRAD_STRIP 4 /* tiles that a task transforms for a shared v */

static void qnet__winograd_input_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const ptrdiff_t at = (ptrdiff_t)index * QNET__WINOGRAD_STRIP, first = p->round_first + at;
    QNET__UNUSED(worker);
    qnet__winograd_run(p, QNET__WINOGRAD_INPUT, first,
                       qnet__winograd_last(p, first, QNET__WINOGRAD_STRIP), p->v + at * p->v_row);
}

/* A group of output channels of a block, from the shared v. */
static void qnet__winograd_group_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const ptrdiff_t groups = p->dst_c / QNET__WINOGRAD_GROUP, group = (ptrdiff_t)index % groups;
    const ptrdiff_t at = (ptrdiff_t)index / groups * p->block, first = p->round_first + at;
    const ptrdiff_t last = qnet__winograd_last(p, first, p->block);
    qnet_real *m = p->m + (ptrdiff_t)worker * 36 * p->m_plane;
    qnet__winograd_multiply(p, p->v + at * p->v_row, last - first, group, m);
    qnet__winograd_run(p, QNET__WINOGRAD_OUTPUT, first / p->block, group * QNET__WINOGRAD_GROUP, m);
}

static void qnet__winograd_kernels_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const ptrdiff_t strips = p->src_c / QNET__LANE_COUNT;
    QNET__UNUSED(worker);
    qnet__winograd_run(p, QNET__WINOGRAD_KERNELS, (ptrdiff_t)index % strips * QNET__LANE_COUNT,
                       (ptrdiff_t)index / strips * QNET__LANE_COUNT, NULL);
}

/* A block is a small multiple of QNET__TILE_ROWS: v and m of one stay in a second-level cache of
   1 MB for 64 channels, and in the third beyond. Where there are QNET__WINOGRAD_BLOCKS of them or
   more, each is a task. With fewer, all workers transform into one v, round by round, and then
   share out the output channels too. */
#define QNET__WINOGRAD_BLOCKS 48
#define QNET__WINOGRAD_ROUND 65536 /* tiles * channels of a shared v: 9 MB */
#define QNET__WINOGRAD_WEIGHT_TILES 512 /* of a round of the weights' gradient, at most */

/* The steps of v, m and d, which follow from the shape; and how the work is cut. */
static void qnet__winograd_geometry(qnet__winograd *p, const qnet__kernel *kernel,
                                    const qnet_conv2d *s, int backward)
{
    memset(p, 0, sizeof *p);
    p->kernel = *kernel;
    p->height = s->height;
    p->width = s->width;
    p->backward = backward;
    p->src_c = backward ? s->out_channels : s->in_channels;
    p->dst_c = backward ? s->in_channels : s->out_channels;
    p->tiles_y = (p->height - 1) / 4 + 1;
    p->tiles_x = (p->width - 1) / 4 + 1;
    p->tiles = s->batch * p->tiles_y * p->tiles_x;
    p->block = p->src_c <= 64 ? 24 : 48;
    p->blocks = (p->tiles - 1) / p->block + 1;
    p->block = (p->tiles - 1) / p->blocks + 1; /* nearly alike, and whole tiles of rows */
    p->block += (QNET__TILE_ROWS - p->block % QNET__TILE_ROWS) % QNET__TILE_ROWS;
    p->v_row = p->src_c + QNET__WINOGRAD_PAD;
    p->d_row = p->dst_c + QNET__WINOGRAD_PAD;
    p->m_plane = p->block * QNET__WINOGRAD_GROUP + QNET__WINOGRAD_PAD;
}

/* Takes u, v and m from the arena, which may have no base. */
static void qnet__winograd_plan(qnet__winograd *p, qnet__arena *arena, size_t workers)
{
    const ptrdiff_t most = QNET__WINOGRAD_ROUND / p->src_c / p->block * p->block;
    if (p->blocks < QNET__WINOGRAD_BLOCKS) {
        p->round = p->tiles < most ? p->tiles : most > 0 ? most : p->block;
    }
    p->v_plane = (p->round > 0 ? p->round : p->block) * p->v_row + QNET__WINOGRAD_PAD;
    p->u = (qnet_real *)qnet__take(arena, (size_t)(p->src_c * p->dst_c), 36 * sizeof(qnet_real));
    p->v = (qnet_real *)qnet__take(arena, (p->round > 0 ? 1 : workers) * (size_t)p->v_plane,
                                   36 * sizeof(qnet_real));
    p->m = (qnet_real *)qnet__take(arena, workers * (size_t)p->m_plane, 36 * sizeof(qnet_real));
}

/* u of a kernel w, for forward passes or, with backward = 1, for the gradient of the inputs. */
static void qnet__winograd_pack(qnet_context *ctx, const qnet_conv2d *s, int backward,
                                const qnet_real *w, qnet_real *u)
{
    const qnet__kernel kernel = qnet__pick_kernel(ctx);
    qnet__winograd p;
    qnet__winograd_geometry(&p, &kernel, s, backward);
    p.w = w, p.u = u;
    qnet__parallel(ctx, (size_t)(p.src_c / QNET__LANE_COUNT * (p.dst_c / QNET__LANE_COUNT)),
                   qnet__winograd_kernels_task, &p);
}

/* Forward (backward = 0) or the gradient of the inputs. u: packed before, or NULL. */
static void qnet__winograd_conv(qnet_context *ctx, const qnet_conv2d *s, int backward,
                                const qnet__source *x, const qnet_real *w, const qnet_real *u,
                                qnet__sink *sink, void *scratch)
{
    const qnet__kernel kernel = qnet__pick_kernel(ctx);
    qnet__arena arena = {(unsigned char *)scratch, 0};
    qnet__winograd p;
    ptrdiff_t count;
    qnet__winograd_geometry(&p, &kernel, s, backward);
    qnet__winograd_plan(&p, &arena, qnet__workers(ctx));
    sink->chunks = (size_t)p.blocks;
    p.x = *x, p.sink = *sink;
    if (u == NULL) {
        qnet__winograd_pack(ctx, s, backward, w, p.u);
    }
    p.packed = u != NULL ? u : p.u;
    if (p.round == 0) {
        qnet__parallel(ctx, (size_t)p.blocks, qnet__winograd_block_task, &p);
        return;
    }
    for (; p.round_first < p.tiles; p.round_first = p.round_last) {
        p.round_last = 0;
        p.round_last = qnet__winograd_last(&p, p.round_first, p.round);
        count = p.round_last - p.round_first;
        qnet__parallel(ctx, (size_t)((count - 1) / QNET__WINOGRAD_STRIP + 1),
                       qnet__winograd_input_task, &p);
        qnet__parallel(ctx, (size_t)(((count - 1) / p.block + 1) * p.dst_c / QNET__WINOGRAD_GROUP),
                       qnet__winograd_group_task, &p);
    }
}

/* ---- Gradient of the weights ----------------------------------------------------------------- */

static void qnet__winograd_both_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const ptrdiff_t at = (ptrdiff_t)(index / 2) * QNET__WINOGRAD_STRIP;
    const ptrdiff_t first = p->round_first + at;
    const ptrdiff_t last = qnet__winograd_last(p, first, QNET__WINOGRAD_STRIP);
    QNET__UNUSED(worker);
    if (index % 2 == 0) {
        qnet__winograd_run(p, QNET__WINOGRAD_INPUT, first, last, p->v + at * p->v_row);
    } else {
        qnet__winograd_run(p, QNET__WINOGRAD_GRADIENT, first, last, p->d + at * p->d_row);
    }
}

#define QNET__WINOGRAD_CHANNELS 64 /* input channels whose gradients a task sums up */

/* du[k][ci][co] (+)= sum over the tiles of a round of v[k][tile][ci] * d[k][tile][co], for one k
   of 36 and a range of ci. */
static void qnet__winograd_sum_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const ptrdiff_t ranges = p->src_c / QNET__WINOGRAD_CHANNELS, k = (ptrdiff_t)index / ranges;
    const ptrdiff_t first = (ptrdiff_t)index % ranges * QNET__WINOGRAD_CHANNELS;
    const qnet_real *a[QNET__WINOGRAD_CHANNELS];
    qnet_real *c[QNET__WINOGRAD_CHANNELS];
    ptrdiff_t i;
    QNET__UNUSED(worker);
    for (i = 0; i < QNET__WINOGRAD_CHANNELS; i++) {
        a[i] = p->v + k * p->v_plane + first + i;
        c[i] = p->du + (k * p->src_c + first + i) * p->dst_c;
    }
    qnet__multiply_rows(&p->kernel, QNET__CHAIN_WINOGRAD_WEIGHTS, QNET__WINOGRAD_CHANNELS,
                        (size_t)p->dst_c, (size_t)(p->round_last - p->round_first), a,
                        (size_t)p->v_row, p->d + k * p->d_plane, (size_t)p->d_row,
                        p->kernel.columns, c, p->round_first > 0);
}

static void qnet__winograd_kernel_gradients_task(void *arg, size_t index, size_t worker)
{
    QNET__UNUSED(worker);
    qnet__winograd_run((const qnet__winograd *)arg, QNET__WINOGRAD_KERNEL_GRADIENTS,
                       (ptrdiff_t)index, 0, NULL);
}

/* Takes du, v and d from the arena, which may have no base. */
static void qnet__winograd_plan_weights(qnet__winograd *p, qnet__arena *arena)
{
    const ptrdiff_t channels = p->src_c > p->dst_c ? p->src_c : p->dst_c;
    p->round = QNET__WINOGRAD_ROUND / 2 / channels; /* v and d */
    p->round = p->round < QNET__WINOGRAD_WEIGHT_TILES ? p->round : QNET__WINOGRAD_WEIGHT_TILES;
    p->round = p->round < 16 ? 16 : p->round;
    p->round = p->round < p->tiles ? p->round : p->tiles;
    p->v_plane = p->round * p->v_row + QNET__WINOGRAD_PAD;
    p->d_plane = p->round * p->d_row + QNET__WINOGRAD_PAD;
    p->du = (qnet_real *)qnet__take(arena, (size_t)(p->src_c * p->dst_c), 36 * sizeof(qnet_real));
    p->v = (qnet_real *)qnet__take(arena, (size_t)p->v_plane, 36 * sizeof(qnet_real));
    p->d = (qnet_real *)qnet__take(arena, (size_t)p->d_plane, 36 * sizeof(qnet_real));
}

static void qnet__winograd_weights(qnet_context *ctx, const qnet_conv2d *s, const qnet__source *x,
                                   const qnet__source *dy, qnet_real *dw, void *scratch)
{
    const qnet__kernel kernel = qnet__pick_kernel(ctx);
    qnet__arena arena = {(unsigned char *)scratch, 0};
    qnet__winograd p;
    ptrdiff_t strips;
    qnet__winograd_geometry(&p, &kernel, s, 0);
    qnet__winograd_plan_weights(&p, &arena);
    p.x = *x, p.dy = *dy, p.dw = dw;
    for (; p.round_first < p.tiles; p.round_first = p.round_last) {
        p.round_last = 0;
        p.round_last = qnet__winograd_last(&p, p.round_first, p.round);
        strips = (p.round_last - p.round_first - 1) / QNET__WINOGRAD_STRIP + 1;
        qnet__parallel(ctx, (size_t)(2 * strips), qnet__winograd_both_task, &p);
        qnet__parallel(ctx, (size_t)(36 * (p.src_c / QNET__WINOGRAD_CHANNELS)),
                       qnet__winograd_sum_task, &p);
    }
    qnet__parallel(ctx, (size_t)p.src_c, qnet__winograd_kernel_gradients_task, &p);
}

/* Where Winograd's form is used: at stride 1 with whole groups of 64 channels, on maps whose tiles
   save at least half of the multiplications (36 for a tile against 9 for a pixel), and with enough
   tiles to be worth the transform of the kernels. */
#define QNET__WINOGRAD_TILES 16

static int qnet__winograd_fits(const qnet_conv2d *s)
{
    const int64_t tiles = (int64_t)((s->height - 1) / 4 + 1) * ((s->width - 1) / 4 + 1);
    return s->kernel == 3 && s->stride == 1 && s->padding == 1 &&
           s->in_channels % QNET__WINOGRAD_GROUP == 0 &&
           s->out_channels % QNET__WINOGRAD_GROUP == 0 &&
           2 * 36 * tiles <= 9 * (int64_t)s->height * s->width &&
           s->batch * tiles >= QNET__WINOGRAD_TILES;
}

/* Scratch of all three passes; as an arena, so that a size that does not fit shows. */
static size_t qnet__winograd_scratch(const qnet_context *ctx, const qnet_conv2d *s)
{
    const qnet__kernel kernel = qnet__pick_kernel(ctx);
    qnet__arena forward = {NULL, 0}, data = {NULL, 0}, weights = {NULL, 0};
    qnet__winograd p;
    qnet__winograd_geometry(&p, &kernel, s, 0);
    qnet__winograd_plan(&p, &forward, qnet__workers(ctx));
    qnet__winograd_geometry(&p, &kernel, s, 1);
    qnet__winograd_plan(&p, &data, qnet__workers(ctx));
    qnet__winograd_geometry(&p, &kernel, s, 0);
    qnet__winograd_plan_weights(&p, &weights);
    return qnet__max_size(forward.at, qnet__max_size(data.at, weights.at));
}

/* ============================================================================================
   >>conv: two-dimensional convolution, its gradients, and the way to a BLAS.

   With zero outside x, and without the batch index,
       y[oy][ox][co] = sum over ky, kx, ci of
                       x[oy s + ky - p][ox s + kx - p][ci] * w[ky][kx][ci][co].
   The direct sums here go by the tile of >>gemm, which reads pixels where they lie. The functions
   at the end of this room pick: Winograd's form where it fits, a BLAS where there is a hook.
   ============================================================================================ */

#define QNET__CONV_MOST 255 /* of kernel, stride and padding */

/* Output size along one axis, or 0 when there is none. */
static int qnet__conv_out(int in, int kernel, int stride, int padding)
{
    const int64_t span = (int64_t)in + 2 * (int64_t)padding - kernel;
    if (in <= 0 || kernel <= 0 || stride <= 0 || padding < 0 || span < 0 ||
        span / stride >= INT_MAX) {
        return 0;
    }
    return (int)(span / stride) + 1;
}

QNET_API int qnet_conv2d_out_height(const qnet_conv2d *shape)
{
    if (shape == NULL) {
        return 0;
    }
    return qnet__conv_out(shape->height, shape->kernel, shape->stride, shape->padding);
}

QNET_API int qnet_conv2d_out_width(const qnet_conv2d *shape)
{
    if (shape == NULL) {
        return 0;
    }
    return qnet__conv_out(shape->width, shape->kernel, shape->stride, shape->padding);
}

/* 1 when batch * height * width * channels numbers, all >= 1, fit in half an address space. */
static int qnet__conv_fits(int batch, int height, int width, int channels)
{
    size_t n = sizeof(qnet_real);
    return batch > 0 && height > 0 && width > 0 && channels > 0 &&
           qnet__mul(n, (size_t)batch, &n) && qnet__mul(n, (size_t)height, &n) &&
           qnet__mul(n, (size_t)width, &n) && qnet__mul(n, (size_t)channels, &n) &&
           n <= (size_t)-1 / 2;
}

/* The maps and the weights of a shape are sizes that can be counted with ptrdiff_t. */
static int qnet__conv_valid(const qnet_conv2d *s)
{
    const int out_h = qnet_conv2d_out_height(s), out_w = qnet_conv2d_out_width(s);
    return s->kernel <= QNET__CONV_MOST && s->stride <= QNET__CONV_MOST &&
           s->padding <= QNET__CONV_MOST &&
           qnet__conv_fits(s->batch, s->height, s->width, s->in_channels) &&
           qnet__conv_fits(s->batch, out_h, out_w, s->out_channels) &&
           qnet__conv_fits(s->kernel, s->kernel, s->in_channels, s->out_channels);
}

static qnet_status qnet__conv_check(qnet_context *ctx, const qnet_conv2d *s, const char *who)
{
    if (ctx == NULL || s == NULL) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: the context or the shape is NULL", who);
    }
    if (!qnet__conv_valid(s)) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "%s: batch %d, height %d, width %d, %d to %d channels, kernel %d, "
                          "stride %d, padding %d is not a convolution with an output, or too large "
                          "(kernel, stride and padding go to %d)", who, s->batch, s->height,
                          s->width, s->in_channels, s->out_channels, s->kernel, s->stride,
                          s->padding, QNET__CONV_MOST);
    }
    return QNET_OK;
}

/* ---- The twins: the equation and its derivatives as plain loops ------------------------------ */

/* The offset in x of channel 0 of the pixel under tap (ky, kx) of output pixel p, or -1 outside. */
static ptrdiff_t qnet__conv_pixel(const qnet_conv2d *s, ptrdiff_t p, int ky, int kx)
{
    const ptrdiff_t out_h = qnet_conv2d_out_height(s), out_w = qnet_conv2d_out_width(s);
    const ptrdiff_t ox = p % out_w, oy = p / out_w % out_h, n = p / out_w / out_h;
    const ptrdiff_t y = oy * s->stride + ky - s->padding, x = ox * s->stride + kx - s->padding;
    if (y < 0 || y >= s->height || x < 0 || x >= s->width) {
        return -1;
    }
    return ((n * s->height + y) * s->width + x) * s->in_channels;
}

static ptrdiff_t qnet__conv_out_pixels(const qnet_conv2d *s)
{
    return (ptrdiff_t)s->batch * qnet_conv2d_out_height(s) * qnet_conv2d_out_width(s);
}

static ptrdiff_t qnet__conv_in_count(const qnet_conv2d *s)
{
    return (ptrdiff_t)s->batch * s->height * s->width * s->in_channels;
}

static ptrdiff_t qnet__conv_weight_count(const qnet_conv2d *s)
{
    return (ptrdiff_t)s->kernel * s->kernel * s->in_channels * s->out_channels;
}

static void qnet__conv2d_forward_ref(const qnet_conv2d *s, const qnet_real *x, const qnet_real *w,
                                     qnet_real *y)
{
    const ptrdiff_t pixels = qnet__conv_out_pixels(s), ci_count = s->in_channels;
    const ptrdiff_t co_count = s->out_channels;
    ptrdiff_t p, ci, co, at;
    int ky, kx;
    memset(y, 0, (size_t)(pixels * co_count) * sizeof *y);
    for (p = 0; p < pixels; p++) {
        for (ky = 0; ky < s->kernel; ky++) {
            for (kx = 0; kx < s->kernel; kx++) {
                const qnet_real *wk = w + ((ptrdiff_t)ky * s->kernel + kx) * ci_count * co_count;
                at = qnet__conv_pixel(s, p, ky, kx);
                for (ci = 0; at >= 0 && ci < ci_count; ci++) {
                    for (co = 0; co < co_count; co++) {
                        y[p * co_count + co] += x[at + ci] * wk[ci * co_count + co];
                    }
                }
            }
        }
    }
}

/* y[p][co] += x[at + ci] * w[ky][kx][ci][co], so dx[at + ci] += dy[p][co] * w[ky][kx][ci][co]. */
static void qnet__conv2d_backward_data_ref(const qnet_conv2d *s, int add, const qnet_real *w,
                                           const qnet_real *dy, qnet_real *dx)
{
    const ptrdiff_t pixels = qnet__conv_out_pixels(s), ci_count = s->in_channels;
    const ptrdiff_t co_count = s->out_channels;
    ptrdiff_t p, ci, co, at;
    int ky, kx;
    memset(dx, 0, add ? 0 : (size_t)qnet__conv_in_count(s) * sizeof *dx);
    for (p = 0; p < pixels; p++) {
        for (ky = 0; ky < s->kernel; ky++) {
            for (kx = 0; kx < s->kernel; kx++) {
                const qnet_real *wk = w + ((ptrdiff_t)ky * s->kernel + kx) * ci_count * co_count;
                at = qnet__conv_pixel(s, p, ky, kx);
                for (ci = 0; at >= 0 && ci < ci_count; ci++) {
                    for (co = 0; co < co_count; co++) {
                        dx[at + ci] += dy[p * co_count + co] * wk[ci * co_count + co];
                    }
                }
            }
        }
    }
}

/* y[p][co] += x[at + ci] * w[ky][kx][ci][co], so dw[ky][kx][ci][co] += x[at + ci] * dy[p][co]. */
static void qnet__conv2d_backward_weights_ref(const qnet_conv2d *s, const qnet_real *x,
                                              const qnet_real *dy, qnet_real *dw)
{
    const ptrdiff_t pixels = qnet__conv_out_pixels(s), ci_count = s->in_channels;
    const ptrdiff_t co_count = s->out_channels;
    ptrdiff_t p, ci, co, at;
    int ky, kx;
    memset(dw, 0, (size_t)qnet__conv_weight_count(s) * sizeof *dw);
    for (p = 0; p < pixels; p++) {
        for (ky = 0; ky < s->kernel; ky++) {
            for (kx = 0; kx < s->kernel; kx++) {
                qnet_real *dwk = dw + ((ptrdiff_t)ky * s->kernel + kx) * ci_count * co_count;
                at = qnet__conv_pixel(s, p, ky, kx);
                for (ci = 0; at >= 0 && ci < ci_count; ci++) {
                    for (co = 0; co < co_count; co++) {
                        dwk[ci * co_count + co] += x[at + ci] * dy[p * co_count + co];
                    }
                }
            }
        }
    }
}

/* ---- Forward and gradient of the inputs: one sweep of the tile over pixels ------------------- */

/* One axis of a sweep: grid point g writes destination dst_first + g dst_step, and its tap t reads
   source src_first + g src_step + t tap_step with kernel index kernel_first + t kernel_step. */
typedef struct qnet__axis {
    ptrdiff_t src, dst, grid, taps; /* sizes */
    ptrdiff_t dst_first, dst_step, src_first, src_step, tap_step, kernel_first, kernel_step;
} qnet__axis;

/* y[o] = sum over k of x[o s + k - p] * w[k]. */
static qnet__axis qnet__axis_forward(int in, int out, const qnet_conv2d *s)
{
    qnet__axis a;
    a.src = in, a.dst = a.grid = out, a.taps = s->kernel;
    a.dst_first = 0, a.dst_step = 1;
    a.src_first = -s->padding, a.src_step = s->stride, a.tap_step = 1;
    a.kernel_first = 0, a.kernel_step = 1;
    return a;
}

/* The inputs i = phase + g s meet the taps k with (i + p - k) divisible by s, k = k0 + t s:
   dx[i] = sum over t of dy[(i + p - k0) / s - t] * w[k0 + t s]. Stride 1 has one phase, and this is
   the forward sweep with the kernel turned round; stride 2 has four, with no zeros inserted. A
   phase without taps writes zeros. */
static qnet__axis qnet__axis_phase(int in, int out, int phase, const qnet_conv2d *s)
{
    qnet__axis a;
    a.src = out, a.dst = in;
    a.grid = phase < in ? (in - phase - 1) / s->stride + 1 : 0;
    a.dst_first = phase, a.dst_step = s->stride;
    a.kernel_first = (phase + s->padding) % s->stride, a.kernel_step = s->stride;
    a.taps = a.kernel_first < s->kernel ? (s->kernel - a.kernel_first - 1) / s->stride + 1 : 0;
    a.src_first = (phase + s->padding - a.kernel_first) / s->stride;
    a.src_step = 1, a.tap_step = -1;
    return a;
}

/* A sweep: forward, or (backward = 1) for the gradient of the inputs, one phase at a time. */
typedef struct qnet__sweep {
    qnet__kernel kernel;
    qnet_conv2d shape;
    int backward, add;       /* add: to what dst holds */
    int merged;              /* one segment per kernel row, see qnet__conv_merges */
    int by_place;            /* on a small map: the same place of all images, then the next place */
    qnet__axis y, x;         /* of the phase */
    const qnet_real *src;    /* [batch][y.src][x.src][src_c] */
    qnet_real *dst;          /* [batch][y.dst][x.dst][dst_c] */
    const qnet_real *panels; /* [panel][kernel_size][kernel_size][src_c][kernel.columns] */
    const qnet_real *zeros;  /* [src_c], or a kernel row of pixels if merged */
    ptrdiff_t src_c, dst_c, kernel_size;
    size_t phases, phases_x;
    size_t panel_count, panels_per_task;
    size_t bands, band;      /* of a phase; and grid points in each, over all images */
} qnet__sweep;

static void qnet__sweep_phase(qnet__sweep *p, size_t phase)
{
    const qnet_conv2d *s = &p->shape;
    const int out_h = qnet_conv2d_out_height(s), out_w = qnet_conv2d_out_width(s);
    if (p->backward) {
        p->y = qnet__axis_phase(s->height, out_h, (int)(phase / p->phases_x), s);
        p->x = qnet__axis_phase(s->width, out_w, (int)(phase % p->phases_x), s);
    } else {
        p->y = qnet__axis_forward(s->height, out_h, s);
        p->x = qnet__axis_forward(s->width, out_w, s);
    }
}

/* With few input channels a tap is too short a loop. A kernel row of pixels, kernel * channels
   numbers, is contiguous in x: it is taken as one segment ("merged"), and copied with zeros only
   where it crosses the border. The sum has the same order. At most this many numbers per output
   pixel, and only below this many channels. */
#define QNET__MERGE 160 /* 7 x 7 x 3 = 147: the first layer */
#define QNET__MERGE_CHANNELS 8

static int qnet__conv_merges(const qnet_conv2d *s)
{
    return s->in_channels < QNET__MERGE_CHANNELS && s->kernel > 1 && s->kernel <= 8 &&
           s->kernel * s->kernel * s->in_channels <= QNET__MERGE;
}

#define QNET__SWEEP_TAPS 16    /* of one pass of the tile; larger kernels add up several passes */
#define QNET__SWEEP_ROWS 48    /* pixels that go by while a piece of the weights stays in cache */
#define QNET__SWEEP_PIXELS 448 /* of one task, about */

/* On maps of at most this many pixels a good part of the taps is outside. Pixels at the same place
   of many images have the same ones there, and these are left out: on 2x2 pixels five of nine. */
#define QNET__SWEEP_PLACES 16

/* The taps of a pass: where each one reads, relative to the pixel under tap (0, 0). */
typedef struct qnet__taps {
    ptrdiff_t count, y[QNET__SWEEP_TAPS], x[QNET__SWEEP_TAPS], offset[QNET__SWEEP_TAPS];
    const qnet_real *b[QNET__SWEEP_TAPS]; /* their weights in the first panel */
} qnet__taps;

static void qnet__sweep_taps(const qnet__sweep *p, ptrdiff_t first, qnet__taps *taps)
{
    const ptrdiff_t across = p->merged ? 1 : p->x.taps, left = p->y.taps * across - first;
    ptrdiff_t s;
    taps->count = left < QNET__SWEEP_TAPS ? left : QNET__SWEEP_TAPS;
    for (s = 0; s < taps->count; s++) {
        const ptrdiff_t u = (first + s) / across, v = (first + s) % across;
        const ptrdiff_t ky = p->y.kernel_first + u * p->y.kernel_step;
        const ptrdiff_t kx = p->x.kernel_first + v * p->x.kernel_step;
        taps->y[s] = u * p->y.tap_step;
        taps->x[s] = v * p->x.tap_step;
        taps->offset[s] = (taps->y[s] * p->x.src + taps->x[s]) * p->src_c;
        taps->b[s] = p->panels +
                     (ky * p->kernel_size + kx) * p->src_c * (ptrdiff_t)p->kernel.columns;
    }
}

/* 1 when all taps from position `at` fall inside the source of this axis. */
static int qnet__axis_inside(const qnet__axis *a, ptrdiff_t at)
{
    const ptrdiff_t end = at + (a->taps - 1) * a->tap_step;
    return at >= 0 && at < a->src && end >= 0 && end < a->src;
}

/* a[s * QNET__SWEEP_ROWS]: the source pixel under each tap of output pixel (i, j) of image n, zeros
   outside. Merged kernel rows that cross the border are put together in border[]. */
static void qnet__sweep_pixel(const qnet__sweep *p, const qnet__taps *taps, ptrdiff_t n,
                              ptrdiff_t i, ptrdiff_t j, const qnet_real **a, qnet_real *border)
{
    const qnet_real *image = p->src + n * p->y.src * p->x.src * p->src_c;
    const ptrdiff_t y = p->y.src_first + i * p->y.src_step;
    const ptrdiff_t x = p->x.src_first + j * p->x.src_step;
    const ptrdiff_t at = (y * p->x.src + x) * p->src_c;
    const int inside_x = qnet__axis_inside(&p->x, x);
    ptrdiff_t s, v;
    if (inside_x && qnet__axis_inside(&p->y, y)) {
        for (s = 0; s < taps->count; s++) {
            a[s * QNET__SWEEP_ROWS] = image + (at + taps->offset[s]);
        }
        return;
    }
    for (s = 0; s < taps->count; s++) {
        const ptrdiff_t ty = y + taps->y[s], tx = x + taps->x[s];
        if (ty < 0 || ty >= p->y.src) {
            a[s * QNET__SWEEP_ROWS] = p->zeros;
        } else if (inside_x || (!p->merged && tx >= 0 && tx < p->x.src)) {
            a[s * QNET__SWEEP_ROWS] = image + (at + taps->offset[s]);
        } else if (!p->merged) {
            a[s * QNET__SWEEP_ROWS] = p->zeros;
        } else {
            a[s * QNET__SWEEP_ROWS] = border;
            for (v = 0; v < p->x.taps; v++, border += p->src_c) {
                const int inside = x + v >= 0 && x + v < p->x.src;
                memcpy(border, inside ? image + (at + taps->offset[s] + v * p->src_c) : p->zeros,
                       (size_t)p->src_c * sizeof *border);
            }
        }
    }
}

/* A piece of a panel's weights for all rows of a block, whose outputs are at pixel[row], or NULL.
   tile->a: the pointers of row 0. */
static void qnet__sweep_piece(const qnet__sweep *p, const qnet__tile *piece,
                              qnet_real *const *pixel, ptrdiff_t rows, size_t panel)
{
    const size_t column = panel * p->kernel.columns;
    const size_t wanted = qnet__min_size((size_t)p->dst_c - column, p->kernel.columns);
    qnet_real *c[QNET__TILE_ROWS];
    qnet__tile tile = *piece;
    ptrdiff_t row;
    int m;
    tile.c = c;
    for (row = 0; row < rows; row += QNET__TILE_ROWS) {
        tile.a = piece->a + row;
        tile.ahead = piece->ahead + (size_t)(row / QNET__TILE_ROWS) * QNET__AHEAD;
        tile.rows = qnet__tile_size((size_t)(rows - row));
        for (m = 0; m < tile.rows; m++) {
            c[m] = pixel[row + m] == NULL ? NULL : pixel[row + m] + column;
        }
        qnet__run_tile(&p->kernel, &tile, wanted);
    }
}

/* A block of pixels, one after another from first: their outputs to pixel[], the inputs under the
   taps to a[tap][row], and used[tap] = 1 unless all of those are zeros. */
static void qnet__sweep_block(const qnet__sweep *p, const qnet__taps *taps, ptrdiff_t first,
                              ptrdiff_t rows, const qnet_real **a, qnet_real **pixel,
                              unsigned char *used, qnet_real (*border)[QNET__MERGE])
{
    const ptrdiff_t places = p->y.grid * p->x.grid, batch = p->shape.batch;
    ptrdiff_t n = p->by_place ? first % batch : first / places;
    ptrdiff_t place = p->by_place ? first / batch : first % places, row, s;
    ptrdiff_t i = place / p->x.grid, j = place % p->x.grid;
    memset(used, !p->by_place, QNET__SWEEP_TAPS);
    for (row = 0; row < rows || row % QNET__TILE_ROWS != 0; row++) {
        qnet__sweep_pixel(p, taps, n, i, j, a + row, border[row % QNET__TILE_ROWS]);
        if (row >= rows) { /* rows left over repeat the last pixel and are not kept */
            pixel[row] = NULL;
            continue;
        }
        for (s = 0; s < taps->count && p->by_place; s++) {
            used[s] |= a[s * QNET__SWEEP_ROWS + row] != p->zeros;
        }
        pixel[row] = p->dst + ((n * p->y.dst + p->y.dst_first + i * p->y.dst_step) * p->x.dst +
                               p->x.dst_first + j * p->x.dst_step) * p->dst_c;
        if (row + 1 == rows || (p->by_place && ++n < batch)) {
            continue;
        }
        if (++j == p->x.grid) {
            j = 0;
            i++;
        }
        if (p->by_place) {
            n = 0;
        } else if (i == p->y.grid) {
            i = 0;
            n++;
        }
    }
}

/* One pass over the pixels begin .. end - 1 and the panels of a task, a block of pixels at a time:
   piece by piece of the weights, all of the block. Merged kernel rows are few and short: there all
   of them are one piece, and a block is a tile. */
static void qnet__sweep_pass(const qnet__sweep *p, const qnet__taps *taps, ptrdiff_t begin,
                             ptrdiff_t end, size_t panel_first, size_t panel_last, int accumulate)
{
    const size_t columns = p->kernel.columns, segments = (size_t)taps->count;
    const size_t panel_size = (size_t)(p->kernel_size * p->kernel_size * p->src_c) * columns;
    const size_t length = (size_t)(p->merged ? p->x.taps * p->src_c : p->src_c);
    const size_t piece = qnet__min_size(length, QNET__PIECE);
    const size_t together = p->merged ? qnet__max_size(segments, 1) : QNET__PIECE / piece;
    const ptrdiff_t block = p->merged ? QNET__TILE_ROWS : QNET__SWEEP_ROWS;
    const qnet_real *a[QNET__SWEEP_TAPS * QNET__SWEEP_ROWS];
    qnet_real border[QNET__TILE_ROWS][QNET__MERGE], *pixel[QNET__SWEEP_ROWS];
    unsigned char used[QNET__SWEEP_TAPS];
    ptrdiff_t first, rows;
    size_t panel, segment, at;
    qnet__tile tile;
    memset(&tile, 0, sizeof tile);
    tile.a_rows = QNET__SWEEP_ROWS;
    tile.a_step = 1, tile.b_step = columns;
    tile.chain = QNET__CHAIN_DIRECT / piece * piece;
    for (first = begin; first < end; first += block) {
        rows = end - first < block ? end - first : block;
        qnet__sweep_block(p, taps, first, rows, a, pixel, used, border);
        for (panel = panel_first; panel < panel_last; panel++) {
            tile.accumulate = accumulate;
            for (segment = 0; segment < segments; segment += together) {
                tile.segments = qnet__min_size(together, segments - segment);
                if (memchr(used + segment, 1, tile.segments) == NULL) {
                    continue;
                }
                tile.a = a + segment * QNET__SWEEP_ROWS, tile.b = taps->b + segment;
                for (at = 0; at < length; at += tile.length) {
                    tile.length = qnet__min_size(p->merged ? length : piece, length - at);
                    tile.a_at = at, tile.b_at = panel * panel_size + at * columns;
                    tile.ahead = (uintptr_t)(taps->b[segment] + tile.b_at) +
                                 tile.segments * tile.length * columns * sizeof(qnet_real);
                    qnet__sweep_piece(p, &tile, pixel, rows, panel);
                    tile.accumulate = 1;
                }
            }
            if (!tile.accumulate) { /* no tap inside the image */
                tile.a = a, tile.segments = 0;
                qnet__sweep_piece(p, &tile, pixel, rows, panel);
            }
        }
    }
}

/* The phases of a band follow each other, as they read the same pixels. */
static void qnet__sweep_task(void *arg, size_t index, size_t worker)
{
    qnet__sweep p = *(const qnet__sweep *)arg;
    const size_t band = index / p.phases % p.bands;
    const size_t panel_first = index / p.phases / p.bands * p.panels_per_task;
    const size_t panel_last = qnet__min_size(panel_first + p.panels_per_task, p.panel_count);
    ptrdiff_t pixels, end, segments, first = 0;
    qnet__taps taps;
    QNET__UNUSED(worker);
    qnet__sweep_phase(&p, index % p.phases);
    pixels = p.shape.batch * p.y.grid * p.x.grid;
    end = (ptrdiff_t)((band + 1) * p.band);
    end = end < pixels ? end : pixels;
    segments = p.merged ? p.y.taps : p.y.taps * p.x.taps;
    if (segments == 0 && p.add) {
        return;
    }
    do { /* once even without taps, to write zeros */
        qnet__sweep_taps(&p, first, &taps);
        qnet__sweep_pass(&p, &taps, (ptrdiff_t)(band * p.band), end, panel_first, panel_last,
                         p.add || first > 0);
        first += taps.count;
    } while (first < segments);
}

/* Scratch of a sweep: the packed weights and a row of zeros. */
typedef struct qnet__sweep_plan {
    qnet_real *panels, *zeros;
    size_t zero_count;
} qnet__sweep_plan;

static qnet__sweep_plan qnet__plan_sweep(qnet__arena *arena, const qnet__kernel *kernel,
                                         const qnet_conv2d *s, int src_c, int dst_c)
{
    const size_t panels = qnet__panels(kernel, (size_t)dst_c);
    const size_t taps = (size_t)s->kernel * (size_t)s->kernel;
    qnet__sweep_plan plan;
    plan.zero_count = (size_t)src_c * (size_t)s->kernel;
    plan.panels = (qnet_real *)qnet__take(arena, panels * kernel->columns,
                                          taps * (size_t)src_c * sizeof(qnet_real));
    plan.zeros = (qnet_real *)qnet__take(arena, plan.zero_count, sizeof(qnet_real));
    return plan;
}

/* The weights in panels; transposed for the gradient of the inputs. */
static void qnet__conv_panels(qnet_context *ctx, const qnet_conv2d *s, int backward,
                              const qnet_real *w, qnet_real *panels)
{
    const size_t in = (size_t)s->in_channels, out = (size_t)s->out_channels;
    const qnet__kernel kernel = qnet__pick_kernel(ctx);
    qnet__packing packing;
    packing.src = w, packing.dst = panels, packing.width = kernel.columns;
    packing.blocks = (size_t)s->kernel * (size_t)s->kernel, packing.block_step = in * out;
    packing.length = backward ? out : in, packing.columns = backward ? in : out;
    packing.row_step = backward ? 1 : out, packing.column_step = backward ? out : 1;
    qnet__parallel(ctx, qnet__panels(&kernel, packing.columns), qnet__pack_task, &packing);
}

/* Forward: y from x. Backward: dx from dy, with the weights transposed in the packing; with `add`,
   added to what dx holds. packed: the weights as qnet__conv_panels left them, or NULL. */
static void qnet__conv_sweep(qnet_context *ctx, const qnet_conv2d *s, int backward, int add,
                             const qnet_real *src, const qnet_real *w, const qnet_real *packed,
                             qnet_real *dst, void *scratch)
{
    const ptrdiff_t step = backward ? s->stride : 1, taps = (s->kernel - 1) / step + 1;
    qnet__arena arena = {(unsigned char *)scratch, 0};
    qnet__sweep_plan plan;
    qnet__sweep p;
    p.kernel = qnet__pick_kernel(ctx);
    p.shape = *s;
    p.backward = backward;
    p.add = add;
    p.merged = !backward && qnet__conv_merges(s);
    p.by_place = !p.merged && s->height * (int64_t)s->width <= QNET__SWEEP_PLACES;
    p.src = src, p.src_c = backward ? s->out_channels : s->in_channels;
    p.dst = dst, p.dst_c = backward ? s->in_channels : s->out_channels;
    p.kernel_size = s->kernel;
    plan = qnet__plan_sweep(&arena, &p.kernel, s, (int)p.src_c, (int)p.dst_c);
    memset(plan.zeros, 0, plan.zero_count * sizeof(qnet_real));
    p.panels = plan.panels, p.zeros = plan.zeros;

    if (packed == NULL) {
        qnet__conv_panels(ctx, s, backward, w, plan.panels);
    } else {
        p.panels = packed;
    }
    p.panel_count = qnet__panels(&p.kernel, (size_t)p.dst_c);
    p.phases_x = (size_t)qnet__min_int(backward ? s->stride : 1, s->width);
    p.phases = (size_t)qnet__min_int(backward ? s->stride : 1, s->height) * p.phases_x;
    qnet__sweep_phase(&p, 0); /* the largest */
    p.band = (size_t)(p.x.grid * ((QNET__SWEEP_PIXELS - 1) / p.x.grid + 1));
    p.bands = ((size_t)(s->batch * p.y.grid * p.x.grid) - 1) / p.band + 1;
    p.panels_per_task = qnet__panels_per_task(p.panel_count, (size_t)(taps * taps * p.src_c) *
                                                                 p.kernel.columns);
    qnet__parallel(ctx, ((p.panel_count - 1) / p.panels_per_task + 1) * p.bands * p.phases,
                   qnet__sweep_task, &p);
}

/* ---- Gradient of the weights ----------------------------------------------------------------- */

/* The tile holds dw[ky][kx][block of ci][panel of co] and sums over pixels, x and dy both read in
   place. A task owns a panel, some blocks of ci and all taps, and one of `groups` ranges of output
   rows (counted over all images); it goes through its rows in chunks that stay in cache, and adds
   up in partial[group]. The partial sums are then added in the order of the groups. The number of
   groups depends on the shape only.
   Where kernel rows are merged (see qnet__conv_merges), kx and ci together are the rows of the
   tile, over the output columns whose whole kernel row lies in the image; the few columns at the
   left and right follow tap by tap. */
typedef struct qnet__weight_sweep {
    qnet__kernel kernel;
    qnet_conv2d shape;
    const qnet_real *x, *dy; /* dy[batch][out_h][out_w][dy_c], dy_c a multiple of kernel.columns */
    qnet_real *partial;      /* [groups][kernel * kernel * in_channels][dy_c] */
    qnet_real *dw;           /* [kernel * kernel * in_channels][out_channels] */
    ptrdiff_t dy_c, out_h, out_w;
    ptrdiff_t rows, rows_per_group, rows_per_chunk;
    ptrdiff_t inner_first, inner_last; /* output columns whose kernel rows lie in the image */
    ptrdiff_t blocks, blocks_per_task, supers;
    size_t panels, groups;
    int merged;
} qnet__weight_sweep;

#define QNET__CHUNK_ROWS 64               /* output rows of a chunk at most: segments of a tile */
#define QNET__CHUNK_PIXELS 448            /* and pixels, about; of merged rows 4 times as many */
#define QNET__CHUNK_BYTES ((ptrdiff_t)288 << 10) /* of x in a chunk, about */
#define QNET__DW_BYTES ((ptrdiff_t)160 << 10) /* of dw in the work of one task */
#define QNET__DW_TASKS 32                 /* wanted, by grouping rows */
#define QNET__REDUCE_ROWS 64              /* of dw per task of the reduction */

/* first <= o < last: the outputs whose source o * stride + offset is in 0 .. in - 1. */
static void qnet__inside(ptrdiff_t out, ptrdiff_t in, ptrdiff_t stride, ptrdiff_t offset,
                         ptrdiff_t *first, ptrdiff_t *last)
{
    *first = offset < 0 ? (-offset + stride - 1) / stride : 0;
    *last = in > offset ? (in - offset - 1) / stride + 1 : 0;
    *last = *last < out ? *last : out;
    *first = *first < *last ? *first : *last;
}

/* A task at one of its chunks. */
typedef struct qnet__weight_work {
    const qnet__weight_sweep *p;
    qnet_real *dw;           /* [kernel * kernel * in_channels] rows dy_c apart, at the panel */
    ptrdiff_t panel_column;  /* the panel's first */
    ptrdiff_t block_first, block_last;
    ptrdiff_t row_first, row_last; /* output rows over all images */
} qnet__weight_work;

/* dw[ky][kx][r] (+)= the sum over the chunk's output columns first .. last - 1 of
   x[pixel under tap (ky, kx)][r] * dy, for rows r = 0 .. rows - 1: the channels of that pixel, and
   of the pixels to its right where rows are more than channels. A segment per output row. */
static void qnet__weight_columns(const qnet__weight_work *t, ptrdiff_t ky, ptrdiff_t kx,
                                 ptrdiff_t rows, ptrdiff_t first, ptrdiff_t last, int accumulate)
{
    const qnet__weight_sweep *p = t->p;
    const ptrdiff_t in_c = p->shape.in_channels, stride = p->shape.stride;
    const ptrdiff_t most = QNET__TILE_ROWS;
    const ptrdiff_t off_y = ky - p->shape.padding, off_x = kx - p->shape.padding;
    const qnet_real *a[QNET__CHUNK_ROWS * QNET__TILE_ROWS], *b[QNET__CHUNK_ROWS];
    qnet_real *c[QNET__TILE_ROWS], *dw = t->dw + (ky * p->shape.kernel + kx) * in_c * p->dy_c;
    ptrdiff_t r, y_first, y_last, x_first, x_last, i, m;
    size_t segments = 0;
    qnet__tile tile;
    qnet__inside(p->out_h, p->shape.height, stride, off_y, &y_first, &y_last);
    qnet__inside(last, p->shape.width, stride, off_x, &x_first, &x_last);
    x_first = x_first > first ? x_first : first;
    for (r = t->row_first; r < t->row_last && x_first < x_last; r++) {
        const ptrdiff_t n = r / p->out_h, oy = r % p->out_h;
        const ptrdiff_t y = n * p->shape.height + oy * stride + off_y;
        if (oy < y_first || oy >= y_last) {
            continue;
        }
        for (m = 0; m < QNET__TILE_ROWS; m++) { /* the last row again: read, never kept */
            a[(ptrdiff_t)segments * QNET__TILE_ROWS + m] =
                p->x + (y * p->shape.width + x_first * stride + off_x) * in_c +
                (m < rows ? m : rows - 1);
        }
        b[segments++] = p->dy + (r * p->out_w + x_first) * p->dy_c + t->panel_column;
    }
    tile.a = a, tile.b = b, tile.c = c;
    tile.a_step = (size_t)(stride * in_c);
    tile.b_at = 0, tile.b_step = (size_t)p->dy_c;
    tile.a_rows = QNET__TILE_ROWS;
    tile.ahead = (uintptr_t)t->dw; /* nothing that would come late */
    tile.segments = segments, tile.length = segments > 0 ? (size_t)(x_last - x_first) : 0;
    tile.accumulate = accumulate;
    tile.chain = QNET__CHAIN_DIRECT;
    for (i = t->block_first; i < t->block_last && i * most < rows; i++) {
        const ptrdiff_t begin = i * most, end = begin + most < rows ? begin + most : rows;
        ptrdiff_t at = begin;
        tile.rows = qnet__tile_size((size_t)(end - begin));
        if (at + tile.rows > rows) { /* end with the last row; those of the block before drop out */
            at = rows > tile.rows ? rows - tile.rows : 0;
        }
        for (m = 0; m < tile.rows; m++) {
            c[m] = at + m >= begin && at + m < end ? dw + (at + m) * p->dy_c : NULL;
        }
        tile.a_at = (size_t)at;
        qnet__run_tile(&p->kernel, &tile, p->kernel.columns);
    }
}

static void qnet__weight_task(void *arg, size_t index, size_t worker)
{
    const qnet__weight_sweep *p = (const qnet__weight_sweep *)arg;
    const ptrdiff_t kernel = p->shape.kernel, in_c = p->shape.in_channels;
    const ptrdiff_t super = (ptrdiff_t)(index / p->panels) % p->supers;
    const ptrdiff_t group = (ptrdiff_t)(index / p->panels) / p->supers;
    const ptrdiff_t begin = group * p->rows_per_group;
    const ptrdiff_t end = begin + p->rows_per_group < p->rows ? begin + p->rows_per_group : p->rows;
    ptrdiff_t ky, kx;
    qnet__weight_work t;
    QNET__UNUSED(worker);
    t.p = p;
    t.panel_column = (ptrdiff_t)(index % p->panels * p->kernel.columns);
    t.dw = p->partial + group * kernel * kernel * in_c * p->dy_c + t.panel_column;
    t.block_first = super * p->blocks_per_task;
    t.block_last = t.block_first + p->blocks_per_task;
    for (t.row_first = begin; t.row_first < end; t.row_first = t.row_last) {
        const int add = t.row_first > begin;
        t.row_last = t.row_first + p->rows_per_chunk < end ? t.row_first + p->rows_per_chunk : end;
        for (ky = 0; ky < kernel; ky++) {
            if (p->merged) {
                qnet__weight_columns(&t, ky, 0, kernel * in_c, p->inner_first, p->inner_last, add);
            }
            for (kx = 0; kx < kernel; kx++) {
                if (p->merged) {
                    qnet__weight_columns(&t, ky, kx, in_c, 0, p->inner_first, 1);
                    qnet__weight_columns(&t, ky, kx, in_c, p->inner_last, p->out_w, 1);
                } else {
                    qnet__weight_columns(&t, ky, kx, in_c, 0, p->out_w, add);
                }
            }
        }
    }
}

/* dw[r][co] = partial[0][r][co] + partial[1][r][co] + ..., in this order. */
static void qnet__weight_reduce_task(void *arg, size_t index, size_t worker)
{
    const qnet__weight_sweep *p = (const qnet__weight_sweep *)arg;
    const ptrdiff_t out_c = p->shape.out_channels;
    const ptrdiff_t rows = (ptrdiff_t)p->shape.kernel * p->shape.kernel * p->shape.in_channels;
    const ptrdiff_t first = (ptrdiff_t)index * QNET__REDUCE_ROWS;
    const ptrdiff_t last = first + QNET__REDUCE_ROWS < rows ? first + QNET__REDUCE_ROWS : rows;
    ptrdiff_t r, co;
    size_t group;
    QNET__UNUSED(worker);
    for (r = first; r < last; r++) {
        qnet_real *dw = p->dw + r * out_c;
        const qnet_real *partial = p->partial + r * p->dy_c;
        memcpy(dw, partial, (size_t)out_c * sizeof *dw);
        for (group = 1; group < p->groups; group++) {
            partial += rows * p->dy_c;
            for (co = 0; co < out_c; co++) {
                dw[co] += partial[co];
            }
        }
    }
}

/* Everything that follows from the shape, with the scratch: dy with its channels padded to whole
   panels (only if they are not) and the partial sums (unless there is one group to write dw
   itself). */
static qnet__weight_sweep qnet__plan_weights(qnet__arena *arena, const qnet__kernel *kernel,
                                             const qnet_conv2d *s, qnet_real **padded)
{
    qnet__weight_sweep p;
    const size_t taps = (size_t)s->kernel * (size_t)s->kernel;
    ptrdiff_t most, tasks, wanted, block_bytes, tile_rows, channels, fit, unused;
    size_t partial_rows;
    memset(&p, 0, sizeof p);
    p.kernel = *kernel;
    p.shape = *s;
    p.out_h = qnet_conv2d_out_height(s);
    p.out_w = qnet_conv2d_out_width(s);
    p.panels = qnet__panels(kernel, (size_t)s->out_channels);
    p.dy_c = (ptrdiff_t)(p.panels * kernel->columns);
    qnet__inside(p.out_w, s->width, s->stride, -s->padding, &p.inner_first, &p.inner_last);
    qnet__inside(p.out_w, s->width, s->stride, s->kernel - 1 - s->padding, &unused, &p.inner_last);
    p.merged = qnet__conv_merges(s) && p.inner_first < p.inner_last;
    tile_rows = p.merged ? (ptrdiff_t)s->kernel * s->in_channels : s->in_channels;
    p.blocks = (tile_rows - 1) / QNET__TILE_ROWS + 1;
    block_bytes = (ptrdiff_t)(taps * kernel->columns * sizeof(qnet_real)) * QNET__TILE_ROWS;
    p.blocks_per_task = block_bytes < QNET__DW_BYTES ? QNET__DW_BYTES / block_bytes : 1;
    if (p.merged) {
        p.blocks_per_task = p.blocks; /* all of dw is small */
    }
    p.supers = (p.blocks - 1) / p.blocks_per_task + 1;
    p.rows = s->batch * p.out_h;
    channels = p.blocks_per_task * QNET__TILE_ROWS;
    channels = channels < s->in_channels ? channels : s->in_channels;
    fit = QNET__CHUNK_BYTES / ((ptrdiff_t)sizeof(qnet_real) * s->stride * s->width * channels);
    p.rows_per_chunk = (QNET__CHUNK_PIXELS * (p.merged ? 4 : 1) - 1) / p.out_w + 1;
    p.rows_per_chunk = p.rows_per_chunk < fit ? p.rows_per_chunk : fit > 0 ? fit : 1;
    if (p.rows_per_chunk > QNET__CHUNK_ROWS) {
        p.rows_per_chunk = QNET__CHUNK_ROWS;
    }
    most = (p.rows - 1) / p.rows_per_chunk + 1;
    tasks = (ptrdiff_t)p.panels * p.supers;
    wanted = (QNET__DW_TASKS - 1) / tasks + 1;
    wanted = wanted < most ? wanted : most;
    p.rows_per_group = (p.rows - 1) / wanted + 1;
    p.groups = (size_t)((p.rows - 1) / p.rows_per_group + 1);
    *padded = NULL;
    if (p.dy_c != s->out_channels) {
        *padded = (qnet_real *)qnet__take(arena, (size_t)(p.rows * p.out_w),
                                          (size_t)p.dy_c * sizeof(qnet_real));
    }
    if (p.dy_c != s->out_channels || p.groups > 1) {
        if (!qnet__mul(p.groups, taps * (size_t)s->in_channels, &partial_rows)) {
            partial_rows = (size_t)-1;
        }
        p.partial = (qnet_real *)qnet__take(arena, partial_rows,
                                            (size_t)p.dy_c * sizeof(qnet_real));
    }
    return p;
}

static void qnet__conv_weights_direct(qnet_context *ctx, const qnet_conv2d *s, const qnet_real *x,
                                      const qnet_real *dy, qnet_real *dw, void *scratch)
{
    const qnet__kernel kernel = qnet__pick_kernel(ctx);
    qnet__arena arena = {(unsigned char *)scratch, 0};
    qnet_real *padded;
    qnet__weight_sweep p = qnet__plan_weights(&arena, &kernel, s, &padded);
    const ptrdiff_t weight_rows = (ptrdiff_t)s->kernel * s->kernel * s->in_channels;
    ptrdiff_t pixel;
    p.x = x, p.dy = dy, p.dw = dw;
    if (padded != NULL) {
        memset(padded, 0, (size_t)(p.rows * p.out_w * p.dy_c) * sizeof *padded);
        for (pixel = 0; pixel < p.rows * p.out_w; pixel++) {
            memcpy(padded + pixel * p.dy_c, dy + pixel * s->out_channels,
                   (size_t)s->out_channels * sizeof *padded);
        }
        p.dy = padded;
    }
    if (p.partial == NULL) {
        p.partial = dw;
    }
    qnet__parallel(ctx, p.panels * (size_t)p.supers * p.groups, qnet__weight_task, &p);
    if (p.partial != dw) {
        qnet__parallel(ctx, (size_t)((weight_rows - 1) / QNET__REDUCE_ROWS + 1),
                       qnet__weight_reduce_task, &p);
    }
}

/* ---- By way of a BLAS ------------------------------------------------------------------------ */

/* column[oy][ox][ky][kx][ci]: the pixels of one image x[height][width][in] under every tap, zeros
   outside, so that its convolution is the matrix product column * w. */
static void qnet__im2col(const qnet_conv2d *s, const qnet_real *x, qnet_real *column)
{
    const ptrdiff_t out = (ptrdiff_t)qnet_conv2d_out_height(s) * qnet_conv2d_out_width(s);
    const size_t pixel = (size_t)s->in_channels;
    ptrdiff_t p, at;
    int ky, kx;
    for (p = 0; p < out; p++) {
        for (ky = 0; ky < s->kernel; ky++) {
            for (kx = 0; kx < s->kernel; kx++, column += pixel) {
                at = qnet__conv_pixel(s, p, ky, kx);
                if (at >= 0) {
                    memcpy(column, x + at, pixel * sizeof *column);
                } else {
                    memset(column, 0, pixel * sizeof *column);
                }
            }
        }
    }
}

/* The transpose of im2col: adds every entry of dcolumn to the pixel it was copied from. */
static void qnet__col2im(const qnet_conv2d *s, int add, const qnet_real *dcolumn, qnet_real *dx)
{
    const ptrdiff_t out = (ptrdiff_t)qnet_conv2d_out_height(s) * qnet_conv2d_out_width(s);
    ptrdiff_t p, at;
    int ky, kx, ci;
    memset(dx, 0, add ? 0 : (size_t)(qnet__conv_in_count(s) / s->batch) * sizeof *dx);
    for (p = 0; p < out; p++) {
        for (ky = 0; ky < s->kernel; ky++) {
            for (kx = 0; kx < s->kernel; kx++, dcolumn += s->in_channels) {
                at = qnet__conv_pixel(s, p, ky, kx);
                for (ci = 0; at >= 0 && ci < s->in_channels; ci++) {
                    dx[at + ci] += dcolumn[ci];
                }
            }
        }
    }
}

/* Image by image, with qnet_gemm going to the hook:
   y = column w;  dw += column^T dy;  dcolumn = dy w^T.
   y is written if it is given, else those of dw and dx that are given, with `add` added to what dx
   holds. */
static qnet_status qnet__conv_blas(qnet_context *ctx, const qnet_conv2d *s, int add,
                                   const qnet_real *x, const qnet_real *w, const qnet_real *dy,
                                   qnet_real *y, qnet_real *dx, qnet_real *dw, qnet_real *column)
{
    const size_t taps = (size_t)s->kernel * (size_t)s->kernel;
    const size_t k = taps * (size_t)s->in_channels, out = (size_t)s->out_channels;
    const size_t pixels = (size_t)(qnet__conv_out_pixels(s) / s->batch);
    const size_t image = (size_t)(qnet__conv_in_count(s) / s->batch);
    int n;
    for (n = 0; n < s->batch; n++) {
        const size_t at_y = (size_t)n * pixels * out, at_x = (size_t)n * image;
        if (y != NULL || dw != NULL) {
            qnet__im2col(s, x + at_x, column);
        }
        if (y != NULL) {
            QNET__TRY(qnet_gemm(ctx, 0, 0, pixels, out, k, column, k, w, out, 0, y + at_y, out,
                                NULL));
            continue;
        }
        if (dw != NULL) {
            QNET__TRY(qnet_gemm(ctx, 1, 0, k, out, pixels, column, k, dy + at_y, out,
                                n > 0 ? (qnet_real)1 : (qnet_real)0, dw, out, NULL));
        }
        if (dx != NULL) {
            QNET__TRY(qnet_gemm(ctx, 0, 1, pixels, k, out, dy + at_y, out, w, out, 0, column, k,
                                NULL));
            qnet__col2im(s, add, column, dx + at_x);
        }
    }
    return QNET_OK;
}

static int qnet__conv_uses_blas(const qnet_context *ctx)
{
    return !QNET__REAL_IS_DOUBLE && ctx->hooks.blas.sgemm != NULL;
}

/* The one place where the way to do a convolution is chosen. */
typedef enum qnet__conv_way {
    QNET__CONV_REFERENCE,
    QNET__CONV_BLAS,
    QNET__CONV_WINOGRAD,
    QNET__CONV_DIRECT
} qnet__conv_way;

static qnet__conv_way qnet__conv_pick(const qnet_context *ctx, const qnet_conv2d *shape)
{
    if (QNET__TWINS_ONLY) {
        return QNET__CONV_REFERENCE;
    }
    if (qnet__conv_uses_blas(ctx)) {
        return QNET__CONV_BLAS;
    }
    return qnet__winograd_fits(shape) ? QNET__CONV_WINOGRAD : QNET__CONV_DIRECT;
}

QNET_API const char *qnet_conv2d_algorithm(const qnet_context *ctx, const qnet_conv2d *shape)
{
    static const char *const name[] = {"reference", "BLAS", "Winograd", "direct"};
    if (shape == NULL || !qnet__conv_valid(shape)) {
        return "none";
    }
    return name[qnet__conv_pick(ctx, shape)];
}

/* ---- The public functions, which pick -------------------------------------------------------- */

static size_t qnet__conv_scratch(const qnet_context *ctx, qnet__conv_way way,
                                 const qnet_conv2d *shape)
{
    qnet__arena forward = {NULL, 0}, data = {NULL, 0}, weights = {NULL, 0};
    const qnet__kernel kernel = qnet__pick_kernel(ctx);
    qnet_real *padded;
    switch (way) {
    case QNET__CONV_REFERENCE: return 0;
    case QNET__CONV_WINOGRAD: return qnet__winograd_scratch(ctx, shape);
    case QNET__CONV_BLAS:
        qnet__take(&forward, (size_t)(qnet__conv_out_pixels(shape) / shape->batch),
                   (size_t)(shape->kernel * shape->kernel) * (size_t)shape->in_channels *
                       sizeof(qnet_real));
        return forward.at;
    default:
        qnet__plan_sweep(&forward, &kernel, shape, shape->in_channels, shape->out_channels);
        qnet__plan_sweep(&data, &kernel, shape, shape->out_channels, shape->in_channels);
        qnet__plan_weights(&weights, &kernel, shape, &padded);
        return qnet__max_size(forward.at, qnet__max_size(data.at, weights.at));
    }
}

/* The map of a source: its own where that is plain, else worked out into temp, which may be the
   source's x. */
static const qnet_real *qnet__source_map(qnet_context *ctx, const qnet__source *source, size_t rows,
                                         int channels, qnet_real *temp)
{
    qnet__sink sink = qnet__sink_plain(temp);
    if (source->kind == QNET__SOURCE_PLAIN) {
        return source->x;
    }
    qnet__pass(ctx, source, &sink, rows, (size_t)channels);
    return temp;
}

/* Ways other than Winograd's store the map first, and apply the sink then. */
static void qnet__sink_map(qnet_context *ctx, qnet__sink *sink, size_t rows, int channels)
{
    const qnet__source source = qnet__source_plain(sink->y);
    if (sink->kind != QNET__SINK_PLAIN) {
        qnet__pass(ctx, &source, sink, rows, (size_t)channels);
    }
}

/* Numbers of a kernel that is packed once for many forward passes; 0 where there is no such
   form. */
static size_t qnet__conv_packed(const qnet_context *ctx, qnet__conv_way way, const qnet_conv2d *s)
{
    const qnet__kernel kernel = qnet__pick_kernel(ctx);
    const size_t in = (size_t)s->in_channels, taps = (size_t)s->kernel * (size_t)s->kernel;
    switch (way) {
    case QNET__CONV_WINOGRAD: return 36 * in * (size_t)s->out_channels;
    case QNET__CONV_DIRECT:
        return taps * in * kernel.columns * qnet__panels(&kernel, (size_t)s->out_channels);
    default: return 0;
    }
}

static void qnet__conv_pack(qnet_context *ctx, qnet__conv_way way, const qnet_conv2d *s,
                            const qnet_real *w, qnet_real *packed)
{
    if (way == QNET__CONV_WINOGRAD) {
        qnet__winograd_pack(ctx, s, 0, w, packed);
    } else if (way == QNET__CONV_DIRECT) {
        qnet__conv_panels(ctx, s, 0, w, packed);
    }
}

/* sink <- conv(source, w). packed: w by qnet__conv_pack, or NULL. temp: as large as the input, for
   ways other than Winograd's and a source that is not plain. */
static qnet_status qnet__conv_forward(qnet_context *ctx, qnet__conv_way way, const qnet_conv2d *s,
                                      const qnet__source *source, const qnet_real *w,
                                      const qnet_real *packed, qnet__sink *sink, qnet_real *temp,
                                      void *scratch)
{
    const size_t in_rows = (size_t)(qnet__conv_in_count(s) / s->in_channels);
    const qnet_real *x;
    if (way == QNET__CONV_WINOGRAD) {
        qnet__winograd_conv(ctx, s, 0, source, w, packed, sink, scratch);
        return QNET_OK;
    }
    x = qnet__source_map(ctx, source, in_rows, s->in_channels, temp);
    if (way == QNET__CONV_REFERENCE) {
        qnet__conv2d_forward_ref(s, x, w, sink->y);
    } else if (way == QNET__CONV_BLAS) {
        QNET__TRY(qnet__conv_blas(ctx, s, 0, x, w, NULL, sink->y, NULL, NULL,
                                  (qnet_real *)scratch));
    } else {
        qnet__conv_sweep(ctx, s, 0, 0, x, w, packed, sink->y, scratch);
    }
    qnet__sink_map(ctx, sink, (size_t)qnet__conv_out_pixels(s), s->out_channels);
    return QNET_OK;
}

/* dw and sink, unless NULL, from the gradient of the output; sink gets that of x. With `add`, which
   Winograd's way has not, it is added to what sink->y holds. temp_x and temp_dy: like temp above;
   temp_dy may be where dy is. */
static qnet_status qnet__conv_backward(qnet_context *ctx, qnet__conv_way way, const qnet_conv2d *s,
                                       const qnet__source *x, const qnet_real *w,
                                       const qnet__source *dy, qnet__sink *sink, int add,
                                       qnet_real *dw, qnet_real *temp_x, qnet_real *temp_dy,
                                       void *scratch)
{
    const size_t in_rows = (size_t)(qnet__conv_in_count(s) / s->in_channels);
    const qnet_real *from_x = NULL, *from_dy;
    qnet_real *dx = sink != NULL ? sink->y : NULL;
    if (way == QNET__CONV_WINOGRAD) {
        if (dw != NULL) {
            qnet__winograd_weights(ctx, s, x, dy, dw, scratch);
        }
        if (sink != NULL) {
            qnet__winograd_conv(ctx, s, 1, dy, w, NULL, sink, scratch);
        }
        return QNET_OK;
    }
    if (dw != NULL) {
        from_x = qnet__source_map(ctx, x, in_rows, s->in_channels, temp_x);
    }
    from_dy = qnet__source_map(ctx, dy, (size_t)qnet__conv_out_pixels(s), s->out_channels, temp_dy);
    if (way == QNET__CONV_REFERENCE) {
        if (dw != NULL) {
            qnet__conv2d_backward_weights_ref(s, from_x, from_dy, dw);
        }
        if (dx != NULL) {
            qnet__conv2d_backward_data_ref(s, add, w, from_dy, dx);
        }
    } else if (way == QNET__CONV_BLAS) {
        QNET__TRY(qnet__conv_blas(ctx, s, add, from_x, w, from_dy, NULL, dx, dw,
                                  (qnet_real *)scratch));
    } else {
        if (dw != NULL) {
            qnet__conv_weights_direct(ctx, s, from_x, from_dy, dw, scratch);
        }
        if (dx != NULL) {
            qnet__conv_sweep(ctx, s, 1, add, from_dy, w, NULL, dx, scratch);
        }
    }
    if (sink != NULL) {
        qnet__sink_map(ctx, sink, in_rows, s->in_channels);
    }
    return QNET_OK;
}

/* 0 for a shape that is not valid, (size_t)-1 when the bytes do not fit a size_t. */
QNET_API size_t qnet_conv2d_scratch(const qnet_context *ctx, const qnet_conv2d *shape)
{
    return qnet__conv_valid(shape) ? qnet__conv_scratch(ctx, qnet__conv_pick(ctx, shape), shape)
                                   : 0;
}

/* *scratch as given, or allocated and noted in *own and *bytes for qnet__free. */
static qnet_status qnet__conv_borrow(qnet_context *ctx, const qnet_conv2d *shape, void **scratch,
                                     void **own, size_t *bytes)
{
    *own = NULL;
    *bytes = qnet_conv2d_scratch(ctx, shape);
    if (*scratch == NULL && *bytes > 0) {
        *own = *scratch = qnet__alloc(ctx, *bytes);
        if (*own == NULL) {
            return qnet__no_memory(ctx, *bytes, "the scratch of a convolution");
        }
    }
    return QNET_OK;
}

QNET_API qnet_status qnet_conv2d_forward(qnet_context *ctx, const qnet_conv2d *shape,
                                         const qnet_real *x, const qnet_real *w, qnet_real *y,
                                         void *scratch)
{
    const qnet__source source = qnet__source_plain(x);
    qnet__sink sink = qnet__sink_plain(y);
    qnet_status status;
    void *own;
    size_t bytes;
    QNET__TRY(qnet__conv_check(ctx, shape, "conv2d forward"));
    if (x == NULL || w == NULL || y == NULL) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "conv2d forward: x, w or y is NULL");
    }
    QNET__TRY(qnet__conv_borrow(ctx, shape, &scratch, &own, &bytes));
    status = qnet__conv_forward(ctx, qnet__conv_pick(ctx, shape), shape, &source, w, NULL, &sink,
                                NULL, scratch);
    qnet__free(ctx, own, bytes);
    return status;
}

QNET_API qnet_status qnet_conv2d_backward(qnet_context *ctx, const qnet_conv2d *shape,
                                          const qnet_real *x, const qnet_real *w,
                                          const qnet_real *dy, qnet_real *dx, qnet_real *dw,
                                          void *scratch)
{
    const qnet__source source = qnet__source_plain(x), gradient = qnet__source_plain(dy);
    qnet__sink sink = qnet__sink_plain(dx);
    qnet_status status;
    void *own;
    size_t bytes;
    QNET__TRY(qnet__conv_check(ctx, shape, "conv2d backward"));
    if (w == NULL || dy == NULL || (x == NULL && dw != NULL)) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "conv2d backward: w, dy or (with dw) x is NULL");
    }
    QNET__TRY(qnet__conv_borrow(ctx, shape, &scratch, &own, &bytes));
    status = qnet__conv_backward(ctx, qnet__conv_pick(ctx, shape), shape, &source, w, &gradient,
                                 dx != NULL ? &sink : NULL, 0, dw, NULL, NULL, scratch);
    qnet__free(ctx, own, bytes);
    return status;
}

/* ============================================================================================
   >>norm  Batch normalisation over rows of x[rows][channels], with the residual addition and the
   ReLU that follow it in a ResBlock.

   A layer for callers. ResNet18 computes the same in pieces, where its maps are read and written
   (>>fuse, >>resnet).

   All of it is bound by memory, so passes are few. Forward: one over x for the moments, one that
   reads x and writes y. Backward: one over x, dy (and y, for the ReLU's mask) for the two sums,
   one that reads them again and writes dx. Whatever is computed beside that traffic is free.

   Rows are cut into chunks by the shape alone. A chunk sums its rows in qnet_real, around its own
   mean, so that nothing cancels; the chunks are joined in double, in order. No result depends on
   who computed which chunk.
   ============================================================================================ */

/* Loops over channels go in blocks of this constant length, which compilers turn into vector
   code at -O2; a shorter block takes the channels that are left (none in ResNet18). Not 16: gcc
   -O3 unrolls loops of up to 16 turns completely before it looks for vectors, and finds none. */
#define QNET__WIDTH 32

/* For c in blocks of QNET__WIDTH over 0..n-1: call, with the constant as `width`; then once more
   for the rest. Two calls, so that the compiler knows the turns of the first one's loops. */
#define QNET__BLOCKS(c, n, width, call)                                   \
    do {                                                                  \
        for ((c) = 0; (c) + QNET__WIDTH <= (n); (c) += QNET__WIDTH) {     \
            const int width = QNET__WIDTH;                                \
            call;                                                         \
        }                                                                 \
        if ((c) < (n)) {                                                  \
            const int width = (int)((n) - (c));                           \
            call;                                                         \
        }                                                                 \
    } while (0)

#define QNET__NORM_CHUNK 32768 /* numbers in a chunk: 128 KB, read a second time from L2 */
#define QNET__NORM_ROWS 512    /* and at most so many rows: bounds the rounding of a chunk's sum */

/* Name, rows >= 1, channels >= 1, a size that fits, and pointers that are there. */
static qnet_status qnet__check_layer(qnet_context *ctx, const char *name, size_t rows, int channels,
                                     int pointers_are_there)
{
    size_t bytes;
    if (ctx == NULL || !pointers_are_there)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: a required pointer is NULL", name);
    if (rows < 1 || channels < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "%s: expected at least 1 row and 1 channel, found %lu and %d", name,
                          (unsigned long)rows, channels);
    if (!qnet__mul(rows, (size_t)channels, &bytes) || !qnet__mul(bytes, sizeof(double), &bytes))
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: %lu rows of %d channels overflow", name,
                          (unsigned long)rows, channels);
    return QNET_OK;
}

/* *block = scratch, or bytes of fresh memory where scratch is NULL; then *owned says so. */
static qnet_status qnet__borrow(qnet_context *ctx, void *scratch, size_t bytes, const char *what,
                                void **block, void **owned)
{
    *owned = NULL;
    *block = scratch;
    if (scratch == NULL) {
        if (bytes == SIZE_MAX) return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: sizes overflow", what);
        *block = *owned = qnet__alloc(ctx, bytes);
        if (*block == NULL) return qnet__no_memory(ctx, bytes, what);
    }
    return QNET_OK;
}

/* All that the tasks of one batch norm read and write. */
typedef struct qnet__norm {
    size_t rows, channels, chunk_rows, chunks;
    const qnet_real *x, *residual, *mask; /* [rows][channels]; mask: y of the forward pass */
    const qnet_real *dy;
    qnet_real *y, *dx, *dresidual;
    qnet_real least;                      /* 0 with ReLU, -infinity without: y = max(v, least) */
    const qnet_real *mean, *beta;         /* [channels] */
    qnet_real *scale;                     /* [channels]: gamma * rstd */
    qnet_real *shift, *slope;             /* [channels]: mean(g) and mean(g (x - mean)) rstd^2 */
    qnet_real *center, *sum1, *sum2;      /* [chunks][channels]: what each chunk found */
    double *total1, *total2;              /* [channels] */
} qnet__norm;

/* Sets the sizes and, where the arena has a base, the scratch arrays. */
static void qnet__norm_plan(qnet__norm *norm, size_t rows, int channels, qnet__arena *arena)
{
    size_t n = (size_t)channels, partial;
    memset(norm, 0, sizeof *norm);
    norm->rows = rows;
    norm->channels = n;
    norm->chunk_rows = qnet__min_size(QNET__NORM_ROWS, qnet__max_size(1, QNET__NORM_CHUNK / n));
    norm->chunks = (rows - 1) / norm->chunk_rows + 1;
    partial = norm->chunks * n; /* at most rows * channels */
    norm->total1 = (double *)qnet__take(arena, n, sizeof(double));
    norm->total2 = (double *)qnet__take(arena, n, sizeof(double));
    norm->scale = (qnet_real *)qnet__take(arena, n, sizeof(qnet_real));
    norm->shift = (qnet_real *)qnet__take(arena, n, sizeof(qnet_real));
    norm->slope = (qnet_real *)qnet__take(arena, n, sizeof(qnet_real));
    norm->center = (qnet_real *)qnet__take(arena, partial, sizeof(qnet_real));
    norm->sum1 = (qnet_real *)qnet__take(arena, partial, sizeof(qnet_real));
    norm->sum2 = (qnet_real *)qnet__take(arena, partial, sizeof(qnet_real));
}

/* Rows of a chunk: chunk_rows, fewer in the last. */
static size_t qnet__norm_chunk_length(const qnet__norm *norm, size_t chunk)
{
    return qnet__min_size(norm->chunk_rows, norm->rows - chunk * norm->chunk_rows);
}

/* sum[n] += x[n], n <= QNET__WIDTH. */
QNET__INLINE void qnet__norm_add(int n, const qnet_real *x, qnet_real *sum)
{
    qnet_real v[QNET__WIDTH];
    int i;
    for (i = 0; i < n; i++) v[i] = x[i];
    for (i = 0; i < n; i++) sum[i] += v[i];
}

/* sum1[n] += x - center, sum2[n] += (x - center)^2. The local arrays stay in registers and tell
   the compiler that nothing overlaps. */
QNET__INLINE void qnet__norm_moments(int n, const qnet_real *x, const qnet_real *center,
                                     qnet_real *sum1, qnet_real *sum2)
{
    qnet_real d[QNET__WIDTH];
    int i;
    for (i = 0; i < n; i++) d[i] = x[i] - center[i];
    for (i = 0; i < n; i++) sum1[i] += d[i];
    for (i = 0; i < n; i++) sum2[i] += d[i] * d[i];
}

/* y[n] = max((x - mean) * scale + beta + residual, least). A NaN stays one. */
QNET__INLINE void qnet__norm_apply(int n, const qnet_real *x, const qnet_real *mean,
                                   const qnet_real *scale, const qnet_real *beta,
                                   const qnet_real *residual, qnet_real least, qnet_real *y)
{
    qnet_real v[QNET__WIDTH];
    int i;
    for (i = 0; i < n; i++) v[i] = (x[i] - mean[i]) * scale[i] + beta[i];
    if (residual != NULL)
        for (i = 0; i < n; i++) v[i] += residual[i];
    for (i = 0; i < n; i++) y[i] = v[i] < least ? least : v[i];
}

/* g[n] = dy where the ReLU let the value through (mask > 0), else 0; dy where mask is NULL. */
QNET__INLINE void qnet__norm_mask(int n, const qnet_real *dy, const qnet_real *mask, qnet_real *g)
{
    int i;
    for (i = 0; i < n; i++) g[i] = dy[i];
    if (mask != NULL)
        for (i = 0; i < n; i++) g[i] = mask[i] <= 0 ? 0 : g[i];
}

/* sum1[n] += g, sum2[n] += g * (x - mean). */
QNET__INLINE void qnet__norm_gradient_sums(int n, const qnet_real *x, const qnet_real *mean,
                                           const qnet_real *dy, const qnet_real *mask,
                                           qnet_real *sum1, qnet_real *sum2)
{
    qnet_real g[QNET__WIDTH], d[QNET__WIDTH];
    int i;
    qnet__norm_mask(n, dy, mask, g);
    for (i = 0; i < n; i++) d[i] = g[i] * (x[i] - mean[i]);
    for (i = 0; i < n; i++) sum1[i] += g[i];
    for (i = 0; i < n; i++) sum2[i] += d[i];
}

/* dx[n] = scale * (g - shift - (x - mean) * slope); dresidual[n] = g. */
QNET__INLINE void qnet__norm_gradient(int n, const qnet__norm *norm, size_t c, const qnet_real *x,
                                      const qnet_real *dy, const qnet_real *mask, qnet_real *dx,
                                      qnet_real *dresidual)
{
    const qnet_real *mean = norm->mean + c, *scale = norm->scale + c;
    const qnet_real *shift = norm->shift + c, *slope = norm->slope + c;
    qnet_real g[QNET__WIDTH], v[QNET__WIDTH];
    int i;
    qnet__norm_mask(n, dy, mask, g);
    for (i = 0; i < n; i++) v[i] = scale[i] * (g[i] - shift[i] - (x[i] - mean[i]) * slope[i]);
    if (dresidual != NULL)
        for (i = 0; i < n; i++) dresidual[i] = g[i];
    if (dx != NULL)
        for (i = 0; i < n; i++) dx[i] = v[i];
}

/* The tasks: one chunk of rows each. They go along whole rows, the order of memory, with the
   partial sums of a row's channels (at most 32 KB) beside them in the first cache. */

/* center[chunk][channels] = mean of the chunk in qnet_real; sum1, sum2 = sums of (x - center) and
   (x - center)^2. sum1 is what rounding left in center: see qnet__norm_join. */
static void qnet__norm_moments_task(void *arg, size_t chunk, size_t worker)
{
    const qnet__norm *norm = (const qnet__norm *)arg;
    size_t n = norm->channels, rows = qnet__norm_chunk_length(norm, chunk), r, c;
    const qnet_real *x = norm->x + chunk * norm->chunk_rows * n, *p;
    qnet_real *center = norm->center + chunk * n;
    qnet_real *sum1 = norm->sum1 + chunk * n, *sum2 = norm->sum2 + chunk * n;
    QNET__UNUSED(worker);
    for (c = 0; c < n; c++) center[c] = sum1[c] = sum2[c] = 0;
    for (p = x, r = 0; r < rows; r++, p += n) {
        QNET__BLOCKS(c, n, width, qnet__norm_add(width, p + c, center + c));
    }
    for (c = 0; c < n; c++) center[c] /= (qnet_real)rows;
    for (p = x, r = 0; r < rows; r++, p += n) {
        QNET__BLOCKS(c, n, width, qnet__norm_moments(width, p + c, center + c, sum1 + c, sum2 + c));
    }
}

/* y of the chunk's rows. x - mean comes first: scale * x + (beta - scale * mean) would save a
   subtraction that is free beside the memory traffic, and cancels where |mean| is large. */
static void qnet__norm_apply_task(void *arg, size_t chunk, size_t worker)
{
    const qnet__norm *norm = (const qnet__norm *)arg;
    size_t n = norm->channels, rows = qnet__norm_chunk_length(norm, chunk), r, c;
    size_t at = chunk * norm->chunk_rows * n;
    QNET__UNUSED(worker);
    for (r = 0; r < rows; r++, at += n) {
        const qnet_real *x = norm->x + at, *e = norm->residual != NULL ? norm->residual + at : NULL;
        qnet_real *y = norm->y + at;
        QNET__BLOCKS(c, n, width,
                     qnet__norm_apply(width, x + c, norm->mean + c, norm->scale + c, norm->beta + c,
                                      e != NULL ? e + c : NULL, norm->least, y + c));
    }
}

/* sum1[chunk][channels] = sum of g, sum2 = sum of g (x - mean). */
static void qnet__norm_gradient_sums_task(void *arg, size_t chunk, size_t worker)
{
    const qnet__norm *norm = (const qnet__norm *)arg;
    size_t n = norm->channels, rows = qnet__norm_chunk_length(norm, chunk), r, c;
    size_t at = chunk * norm->chunk_rows * n;
    qnet_real *sum1 = norm->sum1 + chunk * n, *sum2 = norm->sum2 + chunk * n;
    QNET__UNUSED(worker);
    for (c = 0; c < n; c++) sum1[c] = sum2[c] = 0;
    for (r = 0; r < rows; r++, at += n) {
        const qnet_real *x = norm->x + at, *dy = norm->dy + at;
        const qnet_real *m = norm->mask != NULL ? norm->mask + at : NULL;
        QNET__BLOCKS(c, n, width,
                     qnet__norm_gradient_sums(width, x + c, norm->mean + c, dy + c,
                                              m != NULL ? m + c : NULL, sum1 + c, sum2 + c));
    }
}

/* dx and dresidual of the chunk's rows. */
static void qnet__norm_gradient_task(void *arg, size_t chunk, size_t worker)
{
    const qnet__norm *norm = (const qnet__norm *)arg;
    size_t n = norm->channels, rows = qnet__norm_chunk_length(norm, chunk), r, c;
    size_t at = chunk * norm->chunk_rows * n;
    QNET__UNUSED(worker);
    for (r = 0; r < rows; r++, at += n) {
        const qnet_real *x = norm->x + at, *dy = norm->dy + at;
        const qnet_real *m = norm->mask != NULL ? norm->mask + at : NULL;
        qnet_real *dx = norm->dx != NULL ? norm->dx + at : NULL;
        qnet_real *e = norm->dresidual != NULL ? norm->dresidual + at : NULL;
        QNET__BLOCKS(c, n, width,
                     qnet__norm_gradient(width, norm, c, x + c, dy + c, m != NULL ? m + c : NULL,
                                         dx != NULL ? dx + c : NULL, e != NULL ? e + c : NULL));
    }
}

/* Joins the chunks' moments: total1[channels] = mean, total2[channels] = biased variance.
   With n rows of sum1 and sum2 around center: mean_k = center + sum1/n,
   M_k = sum2 - sum1^2/n (Chan, Golub & LeVeque 1983), M = sum M_k + n (mean_k - mean)^2. */
static void qnet__norm_join(const qnet__norm *norm)
{
    size_t n = norm->channels, k, c;
    for (c = 0; c < n; c++) norm->total1[c] = norm->total2[c] = 0;
    for (k = 0; k < norm->chunks; k++) {
        double rows = (double)qnet__norm_chunk_length(norm, k);
        for (c = 0; c < n; c++)
            norm->total1[c] += rows * (double)norm->center[k * n + c] +
                               (double)norm->sum1[k * n + c];
    }
    for (c = 0; c < n; c++) norm->total1[c] /= (double)norm->rows;
    for (k = 0; k < norm->chunks; k++) {
        double rows = (double)qnet__norm_chunk_length(norm, k);
        for (c = 0; c < n; c++) {
            double s = (double)norm->sum1[k * n + c];
            double d = (double)norm->center[k * n + c] + s / rows - norm->total1[c];
            norm->total2[c] += (double)norm->sum2[k * n + c] - s * s / rows + rows * d * d;
        }
    }
    for (c = 0; c < n; c++) norm->total2[c] /= (double)norm->rows;
}

/* The twin of the above: total1[channels] = mean, total2[channels] = biased variance of x. */
static void qnet__norm_moments_ref(const qnet__norm *norm)
{
    size_t n = norm->channels, r, c;
    for (c = 0; c < n; c++) {
        double mean = 0, square = 0;
        for (r = 0; r < norm->rows; r++) mean += (double)norm->x[r * n + c];
        mean /= (double)norm->rows;
        for (r = 0; r < norm->rows; r++) {
            double d = (double)norm->x[r * n + c] - mean;
            square += d * d;
        }
        norm->total1[c] = mean;
        norm->total2[c] = square / (double)norm->rows;
    }
}

/* y = max(gamma * rstd * (x - mean) + beta + residual, least). */
static void qnet__norm_apply_ref(const qnet__norm *norm)
{
    size_t n = norm->channels, r, c;
    for (r = 0; r < norm->rows; r++) {
        for (c = 0; c < n; c++) {
            size_t i = r * n + c;
            qnet_real v = (norm->x[i] - norm->mean[c]) * norm->scale[c] + norm->beta[c];
            if (norm->residual != NULL) v += norm->residual[i];
            norm->y[i] = v < norm->least ? norm->least : v;
        }
    }
}

/* total1[channels] = sum of g, total2[channels] = sum of g (x - mean), g = dy behind the ReLU. */
static void qnet__norm_gradient_sums_ref(const qnet__norm *norm)
{
    size_t n = norm->channels, r, c;
    for (c = 0; c < n; c++) {
        norm->total1[c] = norm->total2[c] = 0;
        for (r = 0; r < norm->rows; r++) {
            size_t i = r * n + c;
            if (norm->mask != NULL && norm->mask[i] <= 0) continue;
            norm->total1[c] += (double)norm->dy[i];
            norm->total2[c] += (double)norm->dy[i] * (double)(norm->x[i] - norm->mean[c]);
        }
    }
}

/* dx = scale * (g - shift - (x - mean) * slope), dresidual = g. */
static void qnet__norm_gradient_ref(const qnet__norm *norm)
{
    size_t n = norm->channels, r, c;
    for (r = 0; r < norm->rows; r++) {
        for (c = 0; c < n; c++) {
            size_t i = r * n + c;
            qnet_real g = norm->mask != NULL && norm->mask[i] <= 0 ? 0 : norm->dy[i];
            qnet_real d = norm->x[i] - norm->mean[c];
            if (norm->dresidual != NULL) norm->dresidual[i] = g;
            if (norm->dx != NULL)
                norm->dx[i] = norm->scale[c] * (g - norm->shift[c] - d * norm->slope[c]);
        }
    }
}

/* The pickers: twins under QNET_REFERENCE, tasks otherwise. */

/* total1 = mean, total2 = biased variance. */
static void qnet__norm_run_moments(qnet_context *ctx, qnet__norm *norm)
{
    if (QNET__TWINS_ONLY) {
        qnet__norm_moments_ref(norm);
    } else {
        qnet__parallel(ctx, norm->chunks, qnet__norm_moments_task, norm);
        qnet__norm_join(norm);
    }
}

static void qnet__norm_run_apply(qnet_context *ctx, qnet__norm *norm)
{
    if (QNET__TWINS_ONLY) qnet__norm_apply_ref(norm);
    else qnet__parallel(ctx, norm->chunks, qnet__norm_apply_task, norm);
}

/* total1 = sum g, total2 = sum g (x - mean); chunks join in order, in double. */
static void qnet__norm_run_gradient_sums(qnet_context *ctx, qnet__norm *norm)
{
    size_t n = norm->channels, k, c;
    if (QNET__TWINS_ONLY) {
        qnet__norm_gradient_sums_ref(norm);
        return;
    }
    qnet__parallel(ctx, norm->chunks, qnet__norm_gradient_sums_task, norm);
    for (c = 0; c < n; c++) norm->total1[c] = norm->total2[c] = 0;
    for (k = 0; k < norm->chunks; k++) {
        for (c = 0; c < n; c++) {
            norm->total1[c] += (double)norm->sum1[k * n + c];
            norm->total2[c] += (double)norm->sum2[k * n + c];
        }
    }
}

static void qnet__norm_run_gradient(qnet_context *ctx, qnet__norm *norm)
{
    if (norm->dx == NULL && norm->dresidual == NULL) return;
    if (QNET__TWINS_ONLY) qnet__norm_gradient_ref(norm);
    else qnet__parallel(ctx, norm->chunks, qnet__norm_gradient_task, norm);
}

/* Three partial sums per chunk and channel: rows / chunk_rows * channels * 12 bytes, under 5 % of
   x at the sizes of ResNet18. 0 for sizes out of range. */
QNET_API size_t qnet_batchnorm_scratch(const qnet_context *ctx, size_t rows, int channels)
{
    qnet__norm norm;
    qnet__arena arena = { NULL, 0 };
    size_t numbers;
    QNET__UNUSED(ctx);
    if (rows < 1 || channels < 1) return 0;
    if (!qnet__mul(rows, (size_t)channels, &numbers)) return SIZE_MAX;
    qnet__norm_plan(&norm, rows, channels, &arena);
    return arena.at;
}

/* mean = sum x / rows, var = sum (x - mean)^2 / rows, rstd = 1 / sqrt(var + eps),
   y = act(gamma (x - mean) rstd + beta + residual).
   running = (1 - momentum) running + momentum * {mean, var * rows / (rows - 1)}; with a single row
   the unbiased variance does not exist, and the biased one (0) is taken. */
QNET_API qnet_status qnet_batchnorm_forward(qnet_context *ctx, size_t rows, int channels,
                                            const qnet_real *x, const qnet_real *gamma,
                                            const qnet_real *beta, const qnet_real *residual,
                                            int relu, double momentum, qnet_real *running_mean,
                                            qnet_real *running_var, qnet_real *mean,
                                            qnet_real *rstd, qnet_real *y, void *scratch)
{
    qnet__norm norm;
    qnet__arena arena = { NULL, 0 };
    size_t bytes = qnet_batchnorm_scratch(ctx, rows, channels), c;
    void *block, *owned;
    double unbias = rows > 1 ? (double)rows / ((double)rows - 1) : 1;

    QNET__TRY(qnet__check_layer(ctx, "qnet_batchnorm_forward", rows, channels,
                                x && gamma && beta && mean && rstd && y));
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "batch norm", &block, &owned));
    arena.base = (unsigned char *)block;
    qnet__norm_plan(&norm, rows, channels, &arena);
    norm.x = x;
    norm.residual = residual;
    norm.y = y;
    norm.least = relu ? 0 : (qnet_real)-INFINITY;
    norm.mean = mean;
    norm.beta = beta;

    qnet__norm_run_moments(ctx, &norm);
    for (c = 0; c < norm.channels; c++) {
        double m = norm.total1[c], v = norm.total2[c], r = 1 / sqrt(v + QNET_BATCHNORM_EPS);
        mean[c] = (qnet_real)m;
        rstd[c] = (qnet_real)r;
        norm.scale[c] = (qnet_real)((double)gamma[c] * r);
        if (running_mean != NULL)
            running_mean[c] = (qnet_real)((1 - momentum) * (double)running_mean[c] + momentum * m);
        if (running_var != NULL)
            running_var[c] =
                (qnet_real)((1 - momentum) * (double)running_var[c] + momentum * v * unbias);
    }
    qnet__norm_run_apply(ctx, &norm);
    qnet__free(ctx, owned, bytes);
    return QNET_OK;
}

#define QNET__NORM_GROUP 512 /* channels whose scale a task keeps on its stack */

/* What the inference form reads: norm.mean is the running mean. */
typedef struct qnet__norm_eval {
    qnet__norm norm;
    const qnet_real *gamma, *running_var; /* [channels] */
} qnet__norm_eval;

/* y of a chunk's rows, channels in groups. Each task works out scale = gamma / sqrt(running_var +
   eps) again: this form has no scratch to keep it in, and a chunk is long enough to hide it. */

static void qnet__norm_eval_task(void *arg, size_t chunk, size_t worker)
{
    const qnet__norm_eval *eval = (const qnet__norm_eval *)arg;
    const qnet__norm *norm = &eval->norm;
    qnet_real scale[QNET__NORM_GROUP];
    size_t n = norm->channels, rows = qnet__norm_chunk_length(norm, chunk), first, r, c;
    QNET__UNUSED(worker);
    for (first = 0; first < n; first += QNET__NORM_GROUP) {
        size_t group = qnet__min_size(QNET__NORM_GROUP, n - first);
        const qnet_real *mean = norm->mean + first, *beta = norm->beta + first;
        for (c = 0; c < group; c++)
            scale[c] = (qnet_real)((double)eval->gamma[first + c] /
                                   sqrt((double)eval->running_var[first + c] + QNET_BATCHNORM_EPS));
        for (r = 0; r < rows; r++) {
            size_t at = (chunk * norm->chunk_rows + r) * n + first;
            const qnet_real *x = norm->x + at;
            const qnet_real *e = norm->residual != NULL ? norm->residual + at : NULL;
            qnet_real *y = norm->y + at;
            QNET__BLOCKS(c, group, width,
                         qnet__norm_apply(width, x + c, mean + c, scale + c, beta + c,
                                          e != NULL ? e + c : NULL, norm->least, y + c));
        }
    }
}

/* y = act(gamma (x - running_mean) / sqrt(running_var + eps) + beta + residual): the statistics are
   constants here, so rows do not depend on each other. */
QNET_API qnet_status qnet_batchnorm_inference(qnet_context *ctx, size_t rows, int channels,
                                              const qnet_real *x, const qnet_real *gamma,
                                              const qnet_real *beta, const qnet_real *running_mean,
                                              const qnet_real *running_var,
                                              const qnet_real *residual, int relu, qnet_real *y)
{
    qnet__norm_eval eval;
    qnet__arena arena = { NULL, 0 };
    QNET__TRY(qnet__check_layer(ctx, "qnet_batchnorm_inference", rows, channels,
                                x && gamma && beta && running_mean && running_var && y));
    qnet__norm_plan(&eval.norm, rows, channels, &arena);
    eval.norm.x = x;
    eval.norm.residual = residual;
    eval.norm.y = y;
    eval.norm.least = relu ? 0 : (qnet_real)-INFINITY;
    eval.norm.mean = running_mean;
    eval.norm.beta = beta;
    eval.gamma = gamma;
    eval.running_var = running_var;
    qnet__parallel(ctx, eval.norm.chunks, qnet__norm_eval_task, &eval);
    return QNET_OK;
}

/* Forward: y = act(v + residual), v = gamma xhat + beta, xhat = (x - mean) rstd.
   g = dy where y > 0 (all of dy without ReLU); dresidual = g; dbeta = sum g;
   dgamma = sum g xhat = rstd sum g (x - mean);
   dx = gamma rstd (g - mean(g) - xhat mean(g xhat)). Ioffe & Szegedy 2015, section 3. */
QNET_API qnet_status qnet_batchnorm_backward(qnet_context *ctx, size_t rows, int channels,
                                             const qnet_real *x, const qnet_real *gamma,
                                             const qnet_real *mean, const qnet_real *rstd,
                                             const qnet_real *y, const qnet_real *dy, qnet_real *dx,
                                             qnet_real *dresidual, qnet_real *dgamma,
                                             qnet_real *dbeta, void *scratch)
{
    qnet__norm norm;
    qnet__arena arena = { NULL, 0 };
    size_t bytes = qnet_batchnorm_scratch(ctx, rows, channels), c;
    void *block, *owned;

    QNET__TRY(qnet__check_layer(ctx, "qnet_batchnorm_backward", rows, channels,
                                x && gamma && mean && rstd && dy));
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "batch norm backward", &block, &owned));
    arena.base = (unsigned char *)block;
    qnet__norm_plan(&norm, rows, channels, &arena);
    norm.x = x;
    norm.mask = y;
    norm.dy = dy;
    norm.dx = dx;
    norm.dresidual = dresidual;
    norm.mean = mean;

    qnet__norm_run_gradient_sums(ctx, &norm);
    for (c = 0; c < norm.channels; c++) {
        double r = (double)rstd[c], sum_g = norm.total1[c], sum_gd = norm.total2[c];
        if (dbeta != NULL) dbeta[c] = (qnet_real)sum_g;
        if (dgamma != NULL) dgamma[c] = (qnet_real)(r * sum_gd);
        norm.scale[c] = (qnet_real)((double)gamma[c] * r);
        norm.shift[c] = (qnet_real)(sum_g / (double)rows);
        norm.slope[c] = (qnet_real)(r * r * sum_gd / (double)rows);
    }
    qnet__norm_run_gradient(ctx, &norm);
    qnet__free(ctx, owned, bytes);
    return QNET_OK;
}

/* ============================================================================================
   >>pool  ReLU, max pooling 3x3/2, global average pooling. All but one of ResNet18's ReLUs are
   applied while maps are read and written (>>fuse); the stem's in pooling.

   Maximum and mask are written as `v < 0 ? 0 : v` and `y <= 0 ? 0 : dy`, never the other way
   round: a comparison with NaN is false, and a NaN must come out as one.
   ============================================================================================ */

/* y[count] = max(x, 0); NaN stays NaN, as in PyTorch. */
QNET_API void qnet_relu_forward(size_t count, const qnet_real *x, qnet_real *y)
{
    size_t i;
    for (i = 0; i < count; i++) y[i] = x[i] < 0 ? 0 : x[i];
}

/* Forward: y = max(x, 0). dx[count] = dy where y > 0, else 0. dx may alias dy. */
QNET_API void qnet_relu_backward(size_t count, const qnet_real *y, const qnet_real *dy,
                                 qnet_real *dx)
{
    size_t i;
    for (i = 0; i < count; i++) dx[i] = y[i] <= 0 ? 0 : dy[i];
}

/* No pixel has won: the source has a ReLU, which cut the maximum, so no gradient passes. */
#define QNET__MAXPOOL_NONE 9

/* Everything that the tasks of a max pooling read and write; tasks are rows of the result. */
typedef struct qnet__maxpool {
    size_t height, width, channels, out_height, out_width;
    qnet__source x;        /* plain, or normalised: then the pooled map is that of norm and ReLU */
    const qnet_real *dy;
    qnet_real *y, *dx;
    const uint8_t *winner; /* backward: the argmax of the forward pass */
    uint8_t *argmax;
} qnet__maxpool;

/* The twin: every output by itself over the nine taps. The window is clipped to the image, which is
   what padding with -infinity means. A later tap wins only if it is larger, or NaN. */
static void qnet__maxpool_forward_ref(const qnet__maxpool *pool, size_t batch)
{
    size_t n = pool->channels, b, oy, ox, c, at = 0;
    for (b = 0; b < batch; b++)
    for (oy = 0; oy < pool->out_height; oy++)
    for (ox = 0; ox < pool->out_width; ox++)
    for (c = 0; c < n; c++, at++) {
        qnet_real best = 0;
        int tap, winner = -1;
        for (tap = 0; tap < 9; tap++) {
            size_t iy = 2 * oy + (size_t)(tap / 3), ix = 2 * ox + (size_t)(tap % 3); /* plus 1 */
            qnet_real v;
            if (iy < 1 || iy > pool->height || ix < 1 || ix > pool->width) continue;
            v = qnet__source_ref(&pool->x,
                                 ((b * pool->height + iy - 1) * pool->width + ix - 1) * n + c, c);
            if (winner < 0 || v > best || v != v) {
                best = v;
                winner = tap;
            }
        }
        if (pool->x.kind != QNET__SOURCE_PLAIN && best <= 0) winner = QNET__MAXPOOL_NONE;
        pool->y[at] = best;
        if (pool->argmax != NULL) pool->argmax[at] = (uint8_t)winner;
    }
}

/* The twin: forward y[at] = x[the tap that won], so dx[the tap that won] += dy[at]. */
static void qnet__maxpool_backward_ref(const qnet__maxpool *pool, size_t batch)
{
    size_t n = pool->channels, b, oy, ox, c, at = 0;
    size_t count = batch * pool->height * pool->width * n;
    for (c = 0; c < count; c++) pool->dx[c] = 0;
    for (b = 0; b < batch; b++)
    for (oy = 0; oy < pool->out_height; oy++)
    for (ox = 0; ox < pool->out_width; ox++)
    for (c = 0; c < n; c++, at++) {
        size_t iy = 2 * oy + pool->winner[at] / 3 - 1, ix = 2 * ox + pool->winner[at] % 3 - 1;
        if (pool->winner[at] == QNET__MAXPOOL_NONE) continue;
        pool->dx[((b * pool->height + iy) * pool->width + ix) * n + c] += pool->dy[at];
    }
}

/* v[n] = what the source makes of x. */
QNET__INLINE void qnet__maxpool_get(int n, const qnet__source *s, const qnet__source_kind kind,
                                    size_t c, const qnet_real *x, qnet_real *v)
{
    int i;
    for (i = 0; i < n; i++) v[i] = x[i];
    if (kind == QNET__SOURCE_PLAIN) return;
    for (i = 0; i < n; i++) v[i] = (x[i] - s->mean[c + (size_t)i]) * s->scale[c + (size_t)i] +
                                   s->beta[c + (size_t)i];
    for (i = 0; i < n; i++) v[i] = v[i] < 0 ? 0 : v[i];
}

/* n channels from c of one output, whose window has rows x columns taps, the first of them number
   first_tap, at pixel `pixel`; they go to `at`. */
QNET__INLINE void qnet__maxpool_window(int n, const qnet__maxpool *pool,
                                       const qnet__source_kind kind, size_t pixel, int rows,
                                       int columns, int first_tap, size_t c, size_t at)
{
    qnet_real best[QNET__WIDTH], v[QNET__WIDTH];
    int tap[QNET__WIDTH], i, r, k;
    for (i = 0; i < n; i++) tap[i] = first_tap;
    for (r = 0; r < rows; r++) {
        for (k = 0; k < columns; k++) {
            const size_t from = pixel + (size_t)r * pool->width + (size_t)k;
            const int this_tap = first_tap + 3 * r + k;
            qnet__maxpool_get(n, &pool->x, kind, c, pool->x.x + from * pool->channels + c, v);
            if (r == 0 && k == 0) {
                for (i = 0; i < n; i++) best[i] = v[i];
                continue;
            }
            for (i = 0; i < n; i++) tap[i] = v[i] > best[i] || v[i] != v[i] ? this_tap : tap[i];
            for (i = 0; i < n; i++) best[i] = v[i] > best[i] || v[i] != v[i] ? v[i] : best[i];
        }
    }
    if (kind != QNET__SOURCE_PLAIN)
        for (i = 0; i < n; i++) tap[i] = best[i] <= 0 ? QNET__MAXPOOL_NONE : tap[i];
    for (i = 0; i < n; i++) pool->y[at + (size_t)i] = best[i];
    if (pool->argmax != NULL)
        for (i = 0; i < n; i++) pool->argmax[at + (size_t)i] = (uint8_t)tap[i];
}

/* One output row: index = image * out_height + row. */
QNET__INLINE void qnet__maxpool_forward_row(const qnet__maxpool *pool, const qnet__source_kind kind,
                                            size_t index)
{
    size_t image = index / pool->out_height, oy = index % pool->out_height, n = pool->channels;
    size_t top = oy > 0 ? 2 * oy - 1 : 0, bottom = qnet__min_size(2 * oy + 1, pool->height - 1);
    size_t ox, c;
    for (ox = 0; ox < pool->out_width; ox++) {
        size_t left = ox > 0 ? 2 * ox - 1 : 0, right = qnet__min_size(2 * ox + 1, pool->width - 1);
        size_t pixel = (image * pool->height + top) * pool->width + left;
        size_t at = (index * pool->out_width + ox) * n;
        int rows = (int)(bottom - top) + 1, columns = (int)(right - left) + 1;
        int tap = (oy > 0 ? 0 : 3) + (ox > 0 ? 0 : 1);
        QNET__BLOCKS(c, n, width,
                     qnet__maxpool_window(width, pool, kind, pixel, rows, columns, tap, c, at + c));
    }
}

/* sum[n] += dy where tap won. */
QNET__INLINE void qnet__maxpool_gather(int n, int tap, const uint8_t *winner, const qnet_real *dy,
                                       qnet_real *sum)
{
    int i;
    for (i = 0; i < n; i++) {
        qnet_real v = dy[i]; /* read in any case, so that the choice is no branch */
        sum[i] += winner[i] == tap ? v : 0;
    }
}

/* dx[n] of input pixel (iy, ix): the sum over the at most four windows that hold it. Window oy
   covers rows 2 oy - 1 + (0..2), so iy lies in windows iy / 2 and (iy + 1) / 2. */
QNET__INLINE void qnet__maxpool_pixel(int n, const qnet__maxpool *pool, size_t image, size_t iy,
                                      size_t ix, size_t c, qnet_real *dx)
{
    size_t last_y = qnet__min_size((iy + 1) / 2, pool->out_height - 1);
    size_t last_x = qnet__min_size((ix + 1) / 2, pool->out_width - 1), oy, ox;
    qnet_real sum[QNET__WIDTH];
    int i;
    for (i = 0; i < n; i++) sum[i] = 0;
    for (oy = iy / 2; oy <= last_y; oy++) {
        for (ox = ix / 2; ox <= last_x; ox++) {
            int tap = (int)(iy + 1 - 2 * oy) * 3 + (int)(ix + 1 - 2 * ox);
            size_t at = (image * pool->out_height + oy) * pool->out_width + ox;
            at = at * pool->channels + c;
            qnet__maxpool_gather(n, tap, pool->winner + at, pool->dy + at, sum);
        }
    }
    for (i = 0; i < n; i++) dx[i] = sum[i];
}

/* One row of dx: index = image * height + row. Gathering gives every number one owner. */
QNET__INLINE void qnet__maxpool_backward_row(const qnet__maxpool *pool, size_t index)
{
    size_t image = index / pool->height, iy = index % pool->height, n = pool->channels, ix, c;
    for (ix = 0; ix < pool->width; ix++) {
        qnet_real *dx = pool->dx + (index * pool->width + ix) * n;
        QNET__BLOCKS(c, n, width, qnet__maxpool_pixel(width, pool, image, iy, ix, c, dx + c));
    }
}

#define QNET__DEFINE_MAXPOOL(name, target)                                                        \
    target static void name(const qnet__maxpool *pool, size_t index)                              \
    {                                                                                             \
        if (pool->dx != NULL)                                                                     \
            qnet__maxpool_backward_row(pool, index);                                              \
        else if (pool->x.kind == QNET__SOURCE_PLAIN)                                              \
            qnet__maxpool_forward_row(pool, QNET__SOURCE_PLAIN, index);                           \
        else                                                                                      \
            qnet__maxpool_forward_row(pool, QNET__SOURCE_NORMALISED, index);                      \
    }

QNET__DEFINE_MAXPOOL(qnet__maxpool_portable, )
#if QNET__X86
QNET__DEFINE_MAXPOOL(qnet__maxpool_avx2, QNET__AVX2)
QNET__DEFINE_MAXPOOL(qnet__maxpool_avx512, QNET__AVX512)
#endif

typedef struct qnet__maxpool_call {
    const qnet__maxpool *pool;
    void (*run)(const qnet__maxpool *pool, size_t index);
} qnet__maxpool_call;

static void qnet__maxpool_task(void *arg, size_t index, size_t worker)
{
    const qnet__maxpool_call *call = (const qnet__maxpool_call *)arg;
    QNET__UNUSED(worker);
    call->run(call->pool, index);
}

/* Forward, or backward where there is a dx. */
static void qnet__maxpool_run(qnet_context *ctx, const qnet__maxpool *pool, size_t batch)
{
    qnet__maxpool_call call;
    call.pool = pool;
    call.run = qnet__maxpool_portable;
#if QNET__X86
    if (qnet_context_cpu(ctx) == QNET_CPU_AVX512) {
        call.run = qnet__maxpool_avx512;
    } else if (qnet_context_cpu(ctx) == QNET_CPU_AVX2) {
        call.run = qnet__maxpool_avx2;
    }
#endif
    if (!QNET__TWINS_ONLY) {
        qnet__parallel(ctx, batch * (pool->dx != NULL ? pool->height : pool->out_height),
                       qnet__maxpool_task, &call);
    } else if (pool->dx != NULL) {
        qnet__maxpool_backward_ref(pool, batch);
    } else {
        qnet__maxpool_forward_ref(pool, batch);
    }
}

/* Checks the sizes and fills them in; the arrays are left NULL. */
static qnet_status qnet__maxpool_plan(qnet_context *ctx, const char *name, int batch, int height,
                                      int width, int channels, int pointers_are_there,
                                      qnet__maxpool *pool)
{
    size_t rows = 0;
    if (batch < 1 || height < 1 || width < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "%s: expected batch, height and width >= 1, found %d, %d and %d", name,
                          batch, height, width);
    if (!qnet__mul((size_t)batch, (size_t)height, &rows) ||
        !qnet__mul(rows, (size_t)width, &rows))
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: %d images of %d x %d overflow", name, batch,
                          height, width);
    QNET__TRY(qnet__check_layer(ctx, name, rows, channels, pointers_are_there));
    memset(pool, 0, sizeof *pool);
    pool->height = (size_t)height;
    pool->width = (size_t)width;
    pool->channels = (size_t)channels;
    pool->out_height = (pool->height - 1) / 2 + 1;
    pool->out_width = (pool->width - 1) / 2 + 1;
    return QNET_OK;
}

/* y[oy][ox] = max over taps (i, j) in 0..2 of x[2 oy - 1 + i][2 ox - 1 + j]. argmax NULL: none. */
QNET_API qnet_status qnet_maxpool_forward(qnet_context *ctx, int batch, int height, int width,
                                          int channels, const qnet_real *x, qnet_real *y,
                                          uint8_t *argmax)
{
    qnet__maxpool pool;
    QNET__TRY(qnet__maxpool_plan(ctx, "qnet_maxpool_forward", batch, height, width, channels,
                                 x && y, &pool));
    pool.x = qnet__source_plain(x);
    pool.y = y;
    pool.argmax = argmax;
    qnet__maxpool_run(ctx, &pool, (size_t)batch);
    return QNET_OK;
}

/* Forward: y = x at the tap that won, so dx = sum of dy over the windows which the pixel won. */
QNET_API qnet_status qnet_maxpool_backward(qnet_context *ctx, int batch, int height, int width,
                                           int channels, const uint8_t *argmax, const qnet_real *dy,
                                           qnet_real *dx)
{
    qnet__maxpool pool;
    QNET__TRY(qnet__maxpool_plan(ctx, "qnet_maxpool_backward", batch, height, width, channels,
                                 argmax && dy && dx, &pool));
    pool.winner = argmax;
    pool.dy = dy;
    pool.dx = dx;
    qnet__maxpool_run(ctx, &pool, (size_t)batch);
    return QNET_OK;
}

/* Column sums are needed by average pooling and by every bias gradient; they are short, so they
   are kept in double. */
#define QNET__COLUMNS 64
typedef struct qnet__column_sums {
    size_t rows, columns;
    const qnet_real *x; /* [rows][columns] */
    double factor;
    qnet_real *sum;     /* [columns] */
} qnet__column_sums;

/* sum[c] = factor * sum over rows of x[r][c], for block number `index` of QNET__COLUMNS columns. */
static void qnet__column_sums_task(void *arg, size_t index, size_t worker)
{
    const qnet__column_sums *job = (const qnet__column_sums *)arg;
    size_t first = index * QNET__COLUMNS, r, c;
    size_t n = qnet__min_size(QNET__COLUMNS, job->columns - first);
    double sum[QNET__COLUMNS];
    QNET__UNUSED(worker);
    for (c = 0; c < n; c++) sum[c] = 0;
    for (r = 0; r < job->rows; r++)
        for (c = 0; c < n; c++) sum[c] += (double)job->x[r * job->columns + first + c];
    for (c = 0; c < n; c++) job->sum[first + c] = (qnet_real)(job->factor * sum[c]);
}

/* sum[columns] = sum over rows of x[rows][columns]. */
static void qnet__sum_columns(qnet_context *ctx, size_t rows, size_t columns, const qnet_real *x,
                              qnet_real *sum)
{
    qnet__column_sums job;
    job.rows = rows;
    job.columns = columns;
    job.x = x;
    job.factor = 1;
    job.sum = sum;
    qnet__parallel(ctx, (columns - 1) / QNET__COLUMNS + 1, qnet__column_sums_task, &job);
}

/* Everything that the tasks of an average pooling read and write; tasks are images. */
typedef struct qnet__avgpool {
    size_t pixels, channels;
    const qnet_real *x, *dy; /* x[batch][pixels][channels], dy[batch][channels] */
    qnet_real *y, *dx;
} qnet__avgpool;

/* y[channels] of one image: column sums over its pixels, divided. */
static void qnet__avgpool_forward_task(void *arg, size_t image, size_t worker)
{
    const qnet__avgpool *pool = (const qnet__avgpool *)arg;
    qnet__column_sums job;
    size_t i;
    job.rows = pool->pixels;
    job.columns = pool->channels;
    job.x = pool->x + image * pool->pixels * pool->channels;
    job.factor = 1 / (double)pool->pixels;
    job.sum = pool->y + image * pool->channels;
    for (i = 0; i * QNET__COLUMNS < pool->channels; i++) qnet__column_sums_task(&job, i, worker);
}

/* dx[pixels][channels] of one image. */
static void qnet__avgpool_backward_task(void *arg, size_t image, size_t worker)
{
    const qnet__avgpool *pool = (const qnet__avgpool *)arg;
    const qnet_real *dy = pool->dy + image * pool->channels;
    qnet_real *dx = pool->dx + image * pool->pixels * pool->channels;
    size_t p, c;
    QNET__UNUSED(worker);
    for (p = 0; p < pool->pixels; p++, dx += pool->channels)
        for (c = 0; c < pool->channels; c++) dx[c] = dy[c] / (qnet_real)pool->pixels;
}

/* y[b][c] = sum over pixels of x[b][p][c] / pixels. */
QNET_API qnet_status qnet_avgpool_forward(qnet_context *ctx, int batch, size_t pixels, int channels,
                                          const qnet_real *x, qnet_real *y)
{
    qnet__avgpool pool;
    size_t rows = 0;
    if (batch > 0 && !qnet__mul((size_t)batch, pixels, &rows)) rows = SIZE_MAX;
    QNET__TRY(qnet__check_layer(ctx, "qnet_avgpool_forward", rows, channels, x && y));
    pool.pixels = pixels;
    pool.channels = (size_t)channels;
    pool.x = x;
    pool.y = y;
    pool.dy = NULL;
    pool.dx = NULL;
    qnet__parallel(ctx, (size_t)batch, qnet__avgpool_forward_task, &pool);
    return QNET_OK;
}

/* Forward: y = sum x / pixels, so dx[b][p][c] = dy[b][c] / pixels. */
QNET_API qnet_status qnet_avgpool_backward(qnet_context *ctx, int batch, size_t pixels,
                                           int channels, const qnet_real *dy, qnet_real *dx)
{
    qnet__avgpool pool;
    size_t rows = 0;
    if (batch > 0 && !qnet__mul((size_t)batch, pixels, &rows)) rows = SIZE_MAX;
    QNET__TRY(qnet__check_layer(ctx, "qnet_avgpool_backward", rows, channels, dy && dx));
    pool.pixels = pixels;
    pool.channels = (size_t)channels;
    pool.x = NULL;
    pool.y = NULL;
    pool.dy = dy;
    pool.dx = dx;
    qnet__parallel(ctx, (size_t)batch, qnet__avgpool_backward_task, &pool);
    return QNET_OK;
}

/* ============================================================================================
   >>dense  Fully connected layer on qnet_gemm; softmax and cross-entropy in double, as there are
   few classes and much depends on them.
   ============================================================================================ */

/* The largest of the three products' needs: x w^T, dy^T x, dy w. */
QNET_API size_t qnet_dense_scratch(const qnet_context *ctx, size_t rows, int in, int out)
{
    size_t i, o, bytes;
    if (rows < 1 || in < 1 || out < 1) return 0;
    i = (size_t)in;
    o = (size_t)out;
    bytes = qnet_gemm_scratch(ctx, 0, 1, rows, o, i);
    bytes = qnet__max_size(bytes, qnet_gemm_scratch(ctx, 1, 0, o, i, rows));
    return qnet__max_size(bytes, qnet_gemm_scratch(ctx, 0, 0, rows, i, o));
}

/* y[rows][out] = x[rows][in] * w[out][in]^T + b[out]. b NULL: none. */
QNET_API qnet_status qnet_dense_forward(qnet_context *ctx, size_t rows, int in, int out,
                                        const qnet_real *x, const qnet_real *w, const qnet_real *b,
                                        qnet_real *y, void *scratch)
{
    size_t i = (size_t)in, o = (size_t)out, r, c;
    QNET__TRY(qnet__check_layer(ctx, "qnet_dense_forward", rows, in, x && w && y));
    QNET__TRY(qnet__check_layer(ctx, "qnet_dense_forward", rows, out, 1));
    QNET__TRY(qnet_gemm(ctx, 0, 1, rows, o, i, x, i, w, i, 0, y, o, scratch));
    if (b != NULL)
        for (r = 0; r < rows; r++)
            for (c = 0; c < o; c++) y[r * o + c] += b[c];
    return QNET_OK;
}

/* Forward: y = x w^T + b, so dw = dy^T x, db = sum of dy over rows, dx = dy w. */
QNET_API qnet_status qnet_dense_backward(qnet_context *ctx, size_t rows, int in, int out,
                                         const qnet_real *x, const qnet_real *w,
                                         const qnet_real *dy, qnet_real *dx, qnet_real *dw,
                                         qnet_real *db, void *scratch)
{
    size_t i = (size_t)in, o = (size_t)out;
    QNET__TRY(qnet__check_layer(ctx, "qnet_dense_backward", rows, in, x && w && dy));
    QNET__TRY(qnet__check_layer(ctx, "qnet_dense_backward", rows, out, 1));
    if (dw != NULL) QNET__TRY(qnet_gemm(ctx, 1, 0, o, i, rows, dy, o, x, i, 0, dw, i, scratch));
    if (db != NULL) qnet__sum_columns(ctx, rows, o, dy, db);
    if (dx != NULL) QNET__TRY(qnet_gemm(ctx, 0, 0, rows, i, o, dy, o, w, i, 0, dx, i, scratch));
    return QNET_OK;
}

/* The largest of a row, which softmax subtracts so that exp cannot overflow. */
static double qnet__row_maximum(int classes, const qnet_real *row)
{
    double largest = (double)row[0];
    int c;
    for (c = 1; c < classes; c++)
        if ((double)row[c] > largest) largest = (double)row[c];
    return largest;
}

/* p[c] = exp(l[c] - m) / sum exp(l - m), m = max l. A row is read before it is written, and only
   its own number is overwritten, so probability may be logits. */
QNET_API void qnet_softmax(size_t rows, int classes, const qnet_real *logits,
                           qnet_real *probability)
{
    size_t r, n = (size_t)classes;
    int c;
    for (r = 0; r < rows; r++) {
        const qnet_real *l = logits + r * n;
        qnet_real *p = probability + r * n;
        double m = qnet__row_maximum(classes, l), sum = 0;
        for (c = 0; c < classes; c++) sum += exp((double)l[c] - m);
        for (c = 0; c < classes; c++) p[c] = (qnet_real)(exp((double)l[c] - m) / sum);
    }
}

/* loss = mean of log(sum exp(l - m)) - (l[label] - m); dl[c] = (p[c] - [c = label]) / counted.
   The logarithm of the sum, not of p[label], which may have rounded to 0. Labels are checked
   before anything is written. A NaN logit makes the loss NaN, which training looks for. */
QNET_API qnet_status qnet_cross_entropy(qnet_context *ctx, size_t rows, int classes,
                                        const qnet_real *logits, const int *label, double *loss,
                                        qnet_real *dlogits)
{
    size_t r, n = (size_t)classes, counted = 0;
    double total = 0;
    int c;
    QNET__TRY(qnet__check_layer(ctx, "qnet_cross_entropy", rows, classes, logits && label && loss));
    for (r = 0; r < rows; r++) {
        if (label[r] < -1 || label[r] >= classes)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "qnet_cross_entropy: label of row %lu: expected -1..%d, found %d",
                              (unsigned long)r, classes - 1, label[r]);
        counted += label[r] >= 0;
    }
    if (counted == 0)
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "qnet_cross_entropy: all %lu rows are left out (label -1)",
                          (unsigned long)rows);
    for (r = 0; r < rows; r++) {
        const qnet_real *l = logits + r * n;
        if (label[r] >= 0) {
            double m = qnet__row_maximum(classes, l), sum = 0;
            for (c = 0; c < classes; c++) sum += exp((double)l[c] - m);
            total += log(sum) - ((double)l[label[r]] - m);
            if (dlogits != NULL)
                for (c = 0; c < classes; c++) {
                    double p = exp((double)l[c] - m) / sum;
                    dlogits[r * n + (size_t)c] =
                        (qnet_real)((p - (c == label[r])) / (double)counted);
                }
        } else if (dlogits != NULL) {
            for (c = 0; c < classes; c++) dlogits[r * n + (size_t)c] = 0;
        }
    }
    *loss = total / (double)counted;
    return QNET_OK;
}

/* ============================================================================================
   >>lstm  Long short-term memory (Hochreiter & Schmidhuber 1997), Eqs. (1)-(5) of the paper:

       i_t = sigma(W_i x_t + U_i h_{t-1} + b_i)                                    (1)
       o_t = sigma(W_o x_t + U_o h_{t-1} + b_o)                                    (2)
       f_t = sigma(W_f x_t + U_f h_{t-1} + b_f)                                    (3)
       c_t = f_t * c_{t-1} + i_t * tanh(W_c x_t + U_c h_{t-1} + b_c)               (4)
       h_t = o_t * tanh(c_t)                                                       (5)

   with the four gates stacked as PyTorch does, i, f, g = tanh(W_c x + U_c h + b_c), o.

   W x is one product over all steps of all scans. The recurrence then needs no step of one scan to
   wait for another scan: a task takes one direction of a few scans, as many as a tile has rows,
   through all their steps, with U packed once for all of them. The backward pass does the same and
   keeps dgates of all steps, so that dW, dU and dx are one product each. A BLAS is not asked: its
   products would need U packed anew at every step, and are not called inside a task.

   Scans end at their own length, and no work is done past it: scans are taken in order of falling
   length, so that those of a task end at about the same step. y and dx are zero there, and no sum
   over the steps of a batch sees the padding.
   ============================================================================================ */

/* sigma(x) = 1 / (1 + e^-x). Where e^-x overflows the quotient is 0, as it should be. */
static qnet_real qnet__sigmoid(qnet_real x)
{
    if (QNET__REAL_IS_DOUBLE) return (qnet_real)(1 / (1 + exp(-(double)x)));
    return (qnet_real)(1.0f / (1.0f + expf(-(float)x)));
}

static qnet_real qnet__tanh(qnet_real x)
{
    if (QNET__REAL_IS_DOUBLE) return (qnet_real)tanh((double)x);
    return (qnet_real)tanhf((float)x);
}

/* Eqs. (1)-(5) as they stand: the definition, and the twin of the layer's forward pass below. */
QNET_API void qnet_lstm_cell(int in, int hidden, const qnet_real *w, const qnet_real *u,
                             const qnet_real *b, const qnet_real *x, const qnet_real *h_prev,
                             const qnet_real *c_prev, qnet_real *h, qnet_real *c, qnet_real *gates)
{
    size_t n = (size_t)hidden, m = (size_t)in, j, k;
    /* All gates come before any h, so that h may alias h_prev. */
    for (j = 0; j < 4 * n; j++) {
        qnet_real a = b[j];
        for (k = 0; k < m; k++) a += w[j * m + k] * x[k];
        for (k = 0; k < n; k++) a += u[j * n + k] * h_prev[k];
        gates[j] = j / n == 2 ? qnet__tanh(a) : qnet__sigmoid(a);
    }
    for (j = 0; j < n; j++) {
        const qnet_real *i = gates, *f = gates + n, *g = gates + 2 * n, *o = gates + 3 * n;
        c[j] = f[j] * c_prev[j] + i[j] * g[j];
        h[j] = o[j] * qnet__tanh(c[j]);
    }
}

/* ---- sigma and tanh that a compiler can vectorise ----
   e^-a = 2^-m e^r for a >= 0, with m = round(a / ln 2) and |r| <= ln 2 / 2. Beyond a = 104, e^-a
   is below half of the smallest float. ln 2 is taken in two parts, of which the first has 16 bits,
   so that m times it is exact. 2^-m comes as the product of two powers, since a float has no
   number as small as 2^-150 and reaches its smallest ones by rounding only once, at the end.
   e^r - 1 = r + r^2 q(r), q fitted (least squares, reweighted towards the least maximum) to a
   relative error of 1.4e-8. */
typedef struct qnet__exp_parts {
    float power, rest; /* 2^-m = power * rest */
    float expm1;       /* e^r - 1 */
} qnet__exp_parts;

/* The float that has these bits. */
QNET__INLINE float qnet__float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

QNET__INLINE qnet__exp_parts qnet__exp_of_minus(float a)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: a sum with it has no digits below 1 */
    qnet__exp_parts e;
    float rounded, m, r, q;
    uint32_t bits, half;
    a = a > 104.0f ? 104.0f : a; /* written so that NaN stays */
    rounded = a * 1.44269504f + round;
    m = rounded - round;
    memcpy(&bits, &rounded, sizeof bits);
    bits &= 255; /* m, as 1.5 * 2^23 has zeros there */
    half = bits >> 1;
    e.power = qnet__float_of_bits((127 - half) << 23);
    e.rest = qnet__float_of_bits((127 - (bits - half)) << 23);
    r = (m * 0.693145752f - a) + m * 1.42860677e-6f;
    q = 0.00139464729f;
    q = q * r + 0.00836659782f;
    q = q * r + 0.0416662805f;
    q = q * r + 0.166665435f;
    q = q * r + 0.5f;
    e.expm1 = r + r * r * q;
    return e;
}

/* sigma(x) = e^x / (1 + e^x) for x < 0, 1 / (1 + e^-x) otherwise: no overflow, and small results
   keep their digits. */
QNET__INLINE float qnet__sigmoid_fast(float x)
{
    const qnet__exp_parts e = qnet__exp_of_minus(fabsf(x));
    const float small = (e.power + e.power * e.expm1) * e.rest;
    return (x < 0 ? small : 1.0f) / (1.0f + small);
}

/* tanh |x| = -d / (2 + d), d = e^-2|x| - 1, which keeps its digits near 0: there d = e^r - 1. */
QNET__INLINE float qnet__tanh_fast(float x)
{
    const qnet__exp_parts e = qnet__exp_of_minus(2.0f * fabsf(x));
    const float power = e.power * e.rest;
    const float d = e.power * e.expm1 * e.rest + (power - 1.0f);
    return copysignf(d / (2.0f + d), x);
}

/* What the layer uses. Worst errors of the fast forms against double, over every 257th bit pattern
   of a float: sigma 2.33, tanh 2.49 units in the last place (tests/test_lstm.c measures every
   1021st and asks for 2.4, 2.6). Their twins are the C library's; double precision is for
   reference and stays with the library. */
QNET__INLINE qnet_real qnet__gate(qnet_real x)
{
    return QNET__REAL_IS_DOUBLE ? qnet__sigmoid(x) : (qnet_real)qnet__sigmoid_fast((float)x);
}

QNET__INLINE qnet_real qnet__squash(qnet_real x)
{
    return QNET__REAL_IS_DOUBLE ? qnet__tanh(x) : (qnet_real)qnet__tanh_fast((float)x);
}

/* ---- one row of the element-wise half: a scan at a step ---- */

#define QNET__LSTM_RUN 16 /* units per inner loop, whose fixed length lets compilers vectorise it */

/* Units j .. j + run - 1 of Eqs. (1)-(5), run <= QNET__LSTM_RUN. gates[4 n] holds W x and gets the
   activated gates; recurrent[4 n] = U h, bias[4 n], before[n] = c_{t-1}; cell[n], cell_tanh[n],
   h[n] and next_h[n] (a second copy, which the next product reads) are written. */
QNET__INLINE void qnet__lstm_units(size_t n, size_t j, const size_t run,
                                   const qnet_real *QNET__RESTRICT bias,
                                   const qnet_real *QNET__RESTRICT recurrent,
                                   const qnet_real *QNET__RESTRICT before,
                                   qnet_real *QNET__RESTRICT gates,
                                   qnet_real *QNET__RESTRICT cell,
                                   qnet_real *QNET__RESTRICT cell_tanh,
                                   qnet_real *QNET__RESTRICT h, qnet_real *QNET__RESTRICT next_h)
{
    qnet_real a[4][QNET__LSTM_RUN]; /* aside, so that no store can be taken for a later load */
    size_t q, k;
    for (q = 0; q < 4; q++) {
        const size_t at = q * n + j;
        for (k = 0; k < run; k++) a[q][k] = gates[at + k] + recurrent[at + k] + bias[at + k];
    }
    for (k = 0; k < run; k++) {
        const qnet_real i = qnet__gate(a[0][k]), f = qnet__gate(a[1][k]);
        const qnet_real g = qnet__squash(a[2][k]), o = qnet__gate(a[3][k]);
        const qnet_real c = f * before[j + k] + i * g, t = qnet__squash(c);
        a[0][k] = i, a[1][k] = f, a[2][k] = g, a[3][k] = o;
        cell[j + k] = c;
        cell_tanh[j + k] = t;
        h[j + k] = next_h[j + k] = o * t;
    }
    for (q = 0; q < 4; q++)
        for (k = 0; k < run; k++) gates[q * n + j + k] = a[q][k];
}

QNET__INLINE void qnet__lstm_row(size_t n, const qnet_real *QNET__RESTRICT bias,
                                 const qnet_real *QNET__RESTRICT recurrent,
                                 const qnet_real *QNET__RESTRICT before,
                                 qnet_real *QNET__RESTRICT gates, qnet_real *QNET__RESTRICT cell,
                                 qnet_real *QNET__RESTRICT cell_tanh, qnet_real *QNET__RESTRICT h,
                                 qnet_real *QNET__RESTRICT next_h)
{
    size_t j = 0;
    for (; j + QNET__LSTM_RUN <= n; j += QNET__LSTM_RUN)
        qnet__lstm_units(n, j, QNET__LSTM_RUN, bias, recurrent, before, gates, cell, cell_tanh, h,
                         next_h);
    if (j < n)
        qnet__lstm_units(n, j, n - j, bias, recurrent, before, gates, cell, cell_tanh, h, next_h);
}

/* Units j .. j + run - 1 against the forward equations c = f c' + i g, h = o tanh(c). With dh = dy
   + what the step after sends back through U, and dc likewise:
       do = dh tanh(c)      dc += dh o (1 - tanh(c)^2)
       di = dc g    dg = dc i    df = dc c'    dc' = dc f
   and through the activations sigma' = s (1 - s), tanh' = 1 - g^2. dgates[4 n]; dc[n] in place;
   db[4 n] += dgates, in double, since many steps add up there. */
QNET__INLINE void qnet__lstm_units_back(size_t n, size_t j, const size_t run,
                                        const qnet_real *QNET__RESTRICT gates,
                                        const qnet_real *QNET__RESTRICT before,
                                        const qnet_real *QNET__RESTRICT cell_tanh,
                                        const qnet_real *QNET__RESTRICT dy,
                                        const qnet_real *QNET__RESTRICT dh,
                                        qnet_real *QNET__RESTRICT dc,
                                        qnet_real *QNET__RESTRICT dgates,
                                        double *QNET__RESTRICT db)
{
    qnet_real a[4][QNET__LSTM_RUN]; /* as in the forward pass */
    size_t q, k;
    for (k = 0; k < run; k++) {
        const size_t u = j + k;
        const qnet_real i = gates[u], f = gates[n + u], g = gates[2 * n + u], o = gates[3 * n + u];
        const qnet_real h = dy[u] + dh[u], t = cell_tanh[u];
        const qnet_real c = dc[u] + h * o * (1 - t * t);
        a[0][k] = c * g * i * (1 - i);
        a[1][k] = c * before[u] * f * (1 - f);
        a[2][k] = c * i * (1 - g * g);
        a[3][k] = h * t * o * (1 - o);
        dc[u] = c * f;
    }
    for (q = 0; q < 4; q++) {
        const size_t at = q * n + j;
        for (k = 0; k < run; k++) {
            dgates[at + k] = a[q][k];
            db[at + k] += (double)a[q][k];
        }
    }
}

QNET__INLINE void qnet__lstm_row_back(size_t n, const qnet_real *QNET__RESTRICT gates,
                                      const qnet_real *QNET__RESTRICT before,
                                      const qnet_real *QNET__RESTRICT cell_tanh,
                                      const qnet_real *QNET__RESTRICT dy,
                                      const qnet_real *QNET__RESTRICT dh,
                                      qnet_real *QNET__RESTRICT dc,
                                      qnet_real *QNET__RESTRICT dgates,
                                      double *QNET__RESTRICT db)
{
    size_t j = 0;
    for (; j + QNET__LSTM_RUN <= n; j += QNET__LSTM_RUN)
        qnet__lstm_units_back(n, j, QNET__LSTM_RUN, gates, before, cell_tanh, dy, dh, dc, dgates,
                              db);
    if (j < n)
        qnet__lstm_units_back(n, j, n - j, gates, before, cell_tanh, dy, dh, dc, dgates, db);
}

/* The two loops for the kernels that a context may pick. */
typedef struct qnet__lstm_rows {
    void (*forward)(size_t n, const qnet_real *bias, const qnet_real *recurrent,
                    const qnet_real *before, qnet_real *gates, qnet_real *cell,
                    qnet_real *cell_tanh, qnet_real *h, qnet_real *next_h);
    void (*backward)(size_t n, const qnet_real *gates, const qnet_real *before,
                     const qnet_real *cell_tanh, const qnet_real *dy, const qnet_real *dh,
                     qnet_real *dc, qnet_real *dgates, double *db);
} qnet__lstm_rows;

#define QNET__DEFINE_LSTM_ROWS(name, target)                                                      \
    target static void name(size_t n, const qnet_real *bias, const qnet_real *recurrent,          \
                            const qnet_real *before, qnet_real *gates, qnet_real *cell,           \
                            qnet_real *cell_tanh, qnet_real *h, qnet_real *next_h)                \
    {                                                                                             \
        qnet__lstm_row(n, bias, recurrent, before, gates, cell, cell_tanh, h, next_h);            \
    }                                                                                             \
    target static void name##_back(size_t n, const qnet_real *gates, const qnet_real *before,     \
                                   const qnet_real *cell_tanh, const qnet_real *dy,               \
                                   const qnet_real *dh, qnet_real *dc, qnet_real *dgates,         \
                                   double *db)                                                    \
    {                                                                                             \
        qnet__lstm_row_back(n, gates, before, cell_tanh, dy, dh, dc, dgates, db);                 \
    }

QNET__DEFINE_LSTM_ROWS(qnet__lstm_row_portable, )
#if QNET__X86
QNET__DEFINE_LSTM_ROWS(qnet__lstm_row_avx2, QNET__AVX2)
QNET__DEFINE_LSTM_ROWS(qnet__lstm_row_avx512, QNET__AVX512)
#endif

static qnet__lstm_rows qnet__lstm_pick_rows(const qnet_context *ctx)
{
    qnet__lstm_rows rows = {qnet__lstm_row_portable, qnet__lstm_row_portable_back};
#if QNET__X86
    if (qnet_context_cpu(ctx) == QNET_CPU_AVX512) {
        rows.forward = qnet__lstm_row_avx512;
        rows.backward = qnet__lstm_row_avx512_back;
    } else if (qnet_context_cpu(ctx) == QNET_CPU_AVX2) {
        rows.forward = qnet__lstm_row_avx2;
        rows.backward = qnet__lstm_row_avx2_back;
    }
#else
    QNET__UNUSED(ctx);
#endif
    return rows;
}

/* ---- the layer ---- */

/* One direction of a layer. Arrays run as [batch][steps][...]; a scan's row of step t in a
   [batch][steps][n] array is (scan * steps + t) * n. */
typedef struct qnet__lstm {
    size_t batch, steps, in, hidden;
    int backwards;                 /* direction */
    const int *length;             /* [batch] */
    const qnet_real *w, *u, *b;    /* [4 hidden][in], [4 hidden][hidden], [4 hidden] */
    const qnet_real *x;            /* [batch][steps][in] */
    qnet_real *y;                  /* [batch][steps][2 hidden], at this direction's first column */
    qnet_real *gates;              /* [batch][steps][4 hidden]: i, f, g, o */
    qnet_real *cell, *cell_tanh;   /* [batch][steps][hidden] */
    const qnet_real *dy;           /* as y */
} qnet__lstm;

/* Numbers of one direction's part of `saved`. */
static size_t qnet__lstm_direction(const qnet_lstm *shape)
{
    return (size_t)shape->batch * (size_t)shape->steps * 6 * (size_t)shape->hidden;
}

/* The job of direction d, of a forward pass; a backward pass adds its own arrays. */
static qnet__lstm qnet__lstm_job(const qnet_lstm *shape, const int *length, int d,
                                 const qnet_lstm_weights *weights, const qnet_real *x, qnet_real *y,
                                 qnet_real *saved)
{
    qnet__lstm job;
    size_t rows = (size_t)shape->batch * (size_t)shape->steps;
    memset(&job, 0, sizeof job);
    job.batch = (size_t)shape->batch;
    job.steps = (size_t)shape->steps;
    job.in = (size_t)shape->in;
    job.hidden = (size_t)shape->hidden;
    job.backwards = d;
    job.length = length;
    job.w = weights->w[d];
    job.u = weights->u[d];
    job.b = weights->b[d];
    job.x = x;
    job.y = y + (size_t)d * job.hidden;
    job.gates = saved + (size_t)d * qnet__lstm_direction(shape);
    job.cell = job.gates + rows * 4 * job.hidden;
    job.cell_tanh = job.cell + rows * job.hidden;
    return job;
}

/* 1 if step t is the first that scan b takes in this direction: h and c before it are zero. */
static int qnet__lstm_is_first(const qnet__lstm *job, size_t b, size_t t)
{
    return t == (job->backwards ? (size_t)job->length[b] - 1 : 0);
}

/* 1 if step t is the last that scan b takes in this direction. */
static int qnet__lstm_is_last(const qnet__lstm *job, size_t b, size_t t)
{
    return t == (job->backwards ? 0 : (size_t)job->length[b] - 1);
}

/* Row of the step before the one of row, in the order of this direction. */
static size_t qnet__lstm_before(const qnet__lstm *job, size_t row)
{
    return job->backwards ? row + 1 : row - 1;
}

/* The twin: every scan by itself, cell after cell. zero[hidden] is the state before the first. */
static void qnet__lstm_forward_ref(const qnet__lstm *job, qnet_real *zero)
{
    size_t n = job->hidden, b, k, j;
    memset(zero, 0, n * sizeof *zero);
    for (b = 0; b < job->batch; b++) {
        size_t steps = (size_t)job->length[b];
        for (k = 0; k < steps; k++) {
            size_t t = job->backwards ? steps - 1 - k : k, row = b * job->steps + t;
            size_t before = qnet__lstm_before(job, row);
            qnet_lstm_cell((int)job->in, (int)n, job->w, job->u, job->b, job->x + row * job->in,
                           k == 0 ? zero : job->y + before * 2 * n,
                           k == 0 ? zero : job->cell + before * n, job->y + row * 2 * n,
                           job->cell + row * n, job->gates + row * 4 * n);
            for (j = 0; j < n; j++)
                job->cell_tanh[row * n + j] = qnet__tanh(job->cell[row * n + j]);
        }
        for (k = steps; k < job->steps; k++)
            memset(job->y + (b * job->steps + k) * 2 * n, 0, n * sizeof *job->y);
    }
}

/* The twin of the backward pass. Forward: gates = W x + U h' + b, so, row by row,
       dW += dgates x^T    dU += dgates h'^T    db += dgates    dx += W^T dgates
       dh' = U^T dgates.
   NULL: not wanted. dgates[4 hidden], dh[hidden] and dc[hidden] are scratch; dx is added to. */
static void qnet__lstm_backward_ref(const qnet__lstm *job, qnet_real *dgates, qnet_real *dh,
                                    qnet_real *dc, qnet_real *dw, qnet_real *du, qnet_real *db,
                                    qnet_real *dx)
{
    const size_t n = job->hidden, in = job->in;
    size_t b, k, j, p;
    if (dw != NULL) memset(dw, 0, 4 * n * in * sizeof *dw);
    if (du != NULL) memset(du, 0, 4 * n * n * sizeof *du);
    if (db != NULL) memset(db, 0, 4 * n * sizeof *db);
    for (b = 0; b < job->batch; b++) {
        size_t steps = (size_t)job->length[b];
        memset(dh, 0, n * sizeof *dh);
        memset(dc, 0, n * sizeof *dc);
        for (k = steps; k-- > 0;) {
            size_t t = job->backwards ? steps - 1 - k : k, row = b * job->steps + t;
            size_t before = qnet__lstm_before(job, row);
            const qnet_real *i = job->gates + row * 4 * n, *f = i + n, *g = f + n, *o = g + n;
            const qnet_real *cell_tanh = job->cell_tanh + row * n, *dy = job->dy + row * 2 * n;
            for (j = 0; j < n; j++) {
                qnet_real h = dy[j] + dh[j], slope = 1 - cell_tanh[j] * cell_tanh[j];
                qnet_real c = dc[j] + h * o[j] * slope;
                dgates[j] = c * g[j] * i[j] * (1 - i[j]);
                dgates[n + j] = k > 0 ? c * job->cell[before * n + j] * f[j] * (1 - f[j]) : 0;
                dgates[2 * n + j] = c * i[j] * (1 - g[j] * g[j]);
                dgates[3 * n + j] = h * cell_tanh[j] * o[j] * (1 - o[j]);
                dc[j] = c * f[j];
            }
            memset(dh, 0, n * sizeof *dh);
            for (j = 0; j < 4 * n; j++) {
                if (db != NULL) db[j] += dgates[j];
                for (p = 0; p < in; p++) {
                    if (dw != NULL) dw[j * in + p] += dgates[j] * job->x[row * in + p];
                    if (dx != NULL) dx[row * in + p] += dgates[j] * job->w[j * in + p];
                }
                for (p = 0; p < n; p++) {
                    if (du != NULL && k > 0)
                        du[j * n + p] += dgates[j] * job->y[before * 2 * n + p];
                    dh[p] += dgates[j] * job->u[j * n + p];
                }
            }
        }
    }
}

/* Shape, lengths and pointers of a call. */
static qnet_status qnet__lstm_check(qnet_context *ctx, const char *name, const qnet_lstm *shape,
                                    const int *length, int pointers_are_there)
{
    int b;
    if (ctx == NULL || shape == NULL || length == NULL || !pointers_are_there)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: a required pointer is NULL", name);
    if (qnet_lstm_saved(shape) == 0)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "%s: expected batch, steps, in and hidden >= 1 and sizes that fit, found "
                          "%d, %d, %d and %d", name, shape->batch, shape->steps, shape->in,
                          shape->hidden);
    for (b = 0; b < shape->batch; b++)
        if (length[b] < 1 || length[b] > shape->steps)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "%s: length of sequence %d: expected 1..%d, found %d", name, b,
                              shape->steps, length[b]);
    return QNET_OK;
}

/* Per direction and row: four gates, c and tanh(c). 0 for a shape that is out of range. */
QNET_API size_t qnet_lstm_saved(const qnet_lstm *shape)
{
    size_t rows, numbers, bytes;
    if (shape->batch < 1 || shape->steps < 1 || shape->in < 1 || shape->hidden < 1) return 0;
    if (!qnet__mul((size_t)shape->batch, (size_t)shape->steps, &rows) ||
        !qnet__mul(rows, 12 * (size_t)shape->hidden, &numbers) ||
        !qnet__mul(numbers, sizeof(double), &bytes) ||
        !qnet__mul(rows, (size_t)shape->in * sizeof(double), &bytes))
        return 0;
    return numbers;
}

/* Numbers between the rows of a worker's arrays: whole panels, and a cache line more, because rows
   a power of two apart would fall on the same lines of the cache. */
static size_t qnet__lstm_width(const qnet__kernel *kernel, size_t columns)
{
    return qnet__panels(kernel, columns) * kernel->columns + QNET__ALIGN / sizeof(qnet_real);
}

/* Scans that a task takes through the steps together, two tiles of rows. */
#define QNET__LSTM_GROUP 12

/* Both passes: the order of work, and arrays carved from scratch. "Rows" are pairs of a scan and a
   step below its length, numbered by group, step and place in the group: the order in which
   dW, dU and db add them up. */
typedef struct qnet__lstm_work {
    qnet__kernel kernel;
    qnet__lstm_rows elementwise;
    qnet__lstm job[2];
    size_t groups, rows;
    size_t *order;            /* [batch]: scans by falling length, equal ones as they come */
    size_t *start;            /* [groups]: first row of a group */
    size_t *at;               /* [rows]: scan * steps + t */
    qnet_real *zero;          /* [4 hidden] */
    qnet_real *worker;        /* [workers][group][width of 4 hidden + of hidden] */
    size_t worker_size;
    /* forward */
    qnet_real *x;             /* [rows][x_width]: inputs side by side */
    size_t x_width;
    qnet_real *w[2], *u[2];   /* W^T, U^T in panels; backward: W, U */
    /* backward */
    qnet_real *dgates[2];     /* [rows][gate_width] */
    size_t gate_width;
    double *db[2];            /* [groups][4 hidden] */
    qnet_real *x_panels;      /* x and h', packed as right-hand sides */
    qnet_real *h_panels[2];
    qnet_real *dx;
    const qnet_lstm_gradients *gradients;
} qnet__lstm_work;

/* Products of the weight gradients are cut into this many rows, so that a tile's left and right
   side stay in the first two caches. */
#define QNET__LSTM_DEPTH ((size_t)256)

static void qnet__lstm_plan(const qnet_context *ctx, const qnet_lstm *shape, int backward,
                            qnet__lstm_work *s, qnet__arena *arena)
{
    const size_t batch = (size_t)shape->batch, rows = batch * (size_t)shape->steps;
    const size_t in = (size_t)shape->in, n = (size_t)shape->hidden, real = sizeof(qnet_real);
    const size_t columns = qnet__pick_kernel(ctx).columns;
    size_t in_panels, n_panels, gate_panels;
    int d;
    memset(s, 0, sizeof *s);
    s->kernel = qnet__pick_kernel(ctx);
    s->elementwise = qnet__lstm_pick_rows(ctx);
    in_panels = qnet__panels(&s->kernel, in) * columns;
    n_panels = qnet__panels(&s->kernel, n) * columns;
    gate_panels = qnet__panels(&s->kernel, 4 * n) * columns;
    s->order = (size_t *)qnet__take(arena, batch, sizeof(size_t));
    s->start = (size_t *)qnet__take(arena, batch, sizeof(size_t));
    s->at = (size_t *)qnet__take(arena, rows, sizeof(size_t));
    s->zero = (qnet_real *)qnet__take(arena, 4 * n, real);
    s->gate_width = qnet__lstm_width(&s->kernel, 4 * n);
    s->worker_size = QNET__LSTM_GROUP * (s->gate_width + qnet__lstm_width(&s->kernel, n));
    s->worker = (qnet_real *)qnet__take(arena, qnet__workers(ctx), s->worker_size * real);
    if (!backward) {
        s->x_width = qnet__lstm_width(&s->kernel, in);
        s->x = (qnet_real *)qnet__take(arena, rows, s->x_width * real);
        for (d = 0; d < 2; d++) {
            s->w[d] = (qnet_real *)qnet__take(arena, gate_panels, in * real);
            s->u[d] = (qnet_real *)qnet__take(arena, gate_panels, n * real);
        }
        return;
    }
    s->x_panels = (qnet_real *)qnet__take(arena, rows, in_panels * real);
    for (d = 0; d < 2; d++) {
        s->u[d] = (qnet_real *)qnet__take(arena, n_panels, 4 * n * real);
        s->w[d] = (qnet_real *)qnet__take(arena, in_panels, 4 * n * real);
        s->h_panels[d] = (qnet_real *)qnet__take(arena, rows, n_panels * real);
        s->dgates[d] = (qnet_real *)qnet__take(arena, rows, s->gate_width * real);
        s->db[d] = (double *)qnet__take(arena, batch, 4 * n * sizeof(double));
    }
}

/* Bytes that either pass needs, so that one block serves a training step; 0 for a shape that is
   out of range. */
QNET_API size_t qnet_lstm_scratch(const qnet_context *ctx, const qnet_lstm *shape)
{
    qnet__lstm_work s;
    qnet__arena forward = { NULL, 0 }, backward = { NULL, 0 };
    if (qnet_lstm_saved(shape) == 0) return 0;
    qnet__lstm_plan(ctx, shape, 0, &s, &forward);
    qnet__lstm_plan(ctx, shape, 1, &s, &backward);
    return qnet__max_size(forward.at, backward.at);
}

/* Fills order, start and at. Lengths have been checked. */
static void qnet__lstm_arrange(const qnet_lstm *shape, const int *length, qnet__lstm_work *s)
{
    const size_t batch = (size_t)shape->batch, steps = (size_t)shape->steps;
    size_t g, i, t;
    for (i = 0; i < batch; i++) { /* insertion: few scans, often sorted already */
        size_t place = i;
        for (; place > 0 && length[s->order[place - 1]] < length[i]; place--)
            s->order[place] = s->order[place - 1];
        s->order[place] = i;
    }
    s->groups = (batch - 1) / QNET__LSTM_GROUP + 1;
    s->rows = 0;
    for (g = 0; g < s->groups; g++) {
        const size_t *scan = s->order + g * QNET__LSTM_GROUP;
        const size_t scans = qnet__min_size(QNET__LSTM_GROUP, batch - g * QNET__LSTM_GROUP);
        s->start[g] = s->rows;
        for (t = 0; t < steps; t++)
            for (i = 0; i < scans && t < (size_t)length[scan[i]]; i++)
                s->at[s->rows++] = scan[i] * steps + t;
    }
    memset(s->zero, 0, 4 * (size_t)shape->hidden * sizeof *s->zero);
}

/* Scans of group g that reach step t; those are its first ones. */
static size_t qnet__lstm_scans(const qnet__lstm_work *s, size_t g, size_t t)
{
    const qnet__lstm *job = s->job;
    size_t i = 0, last = qnet__min_size(QNET__LSTM_GROUP, job->batch - g * QNET__LSTM_GROUP);
    while (i < last && t < (size_t)job->length[s->order[g * QNET__LSTM_GROUP + i]]) i++;
    return i;
}

/* A matrix m[rows][columns] as packed right-hand side; transposed: m^T. */
static qnet__packing qnet__lstm_packing(const qnet__lstm_work *s, const qnet_real *m, size_t rows,
                                        size_t columns, int transposed, qnet_real *to)
{
    qnet__packing p;
    p.src = m;
    p.dst = to;
    p.blocks = 1;
    p.length = transposed ? columns : rows;
    p.columns = transposed ? rows : columns;
    p.width = s->kernel.columns;
    p.block_step = 0;
    p.row_step = transposed ? 1 : columns;
    p.column_step = transposed ? columns : 1;
    return p;
}

/* Everything that is laid out anew before a pass, as one list of tasks: the panels of up to four
   matrices, then groups of rows. */
typedef struct qnet__lstm_layout {
    const qnet__lstm_work *work;
    qnet__packing packing[4];
    size_t panels[4]; /* 0: no such matrix */
    void (*rows)(const qnet__lstm_work *work, size_t first, size_t last);
} qnet__lstm_layout;

#define QNET__LSTM_ROWS_AT_ONCE ((size_t)64)

static void qnet__lstm_layout_task(void *arg, size_t index, size_t worker)
{
    qnet__lstm_layout *l = (qnet__lstm_layout *)arg;
    size_t i, first;
    for (i = 0; i < 4; i++) {
        if (index < l->panels[i]) {
            qnet__pack_task(&l->packing[i], index, worker);
            return;
        }
        index -= l->panels[i];
    }
    first = index * QNET__LSTM_ROWS_AT_ONCE;
    l->rows(l->work, first, qnet__min_size(first + QNET__LSTM_ROWS_AT_ONCE, l->work->rows));
}

static void qnet__lstm_lay_out(qnet_context *ctx, qnet__lstm_layout *l)
{
    size_t tasks = (l->work->rows - 1) / QNET__LSTM_ROWS_AT_ONCE + 1, i;
    for (i = 0; i < 4; i++) {
        if (l->panels[i] > 0) l->panels[i] = qnet__panels(&l->work->kernel, l->packing[i].columns);
        tasks += l->panels[i];
    }
    qnet__parallel(ctx, tasks, qnet__lstm_layout_task, l);
}

/* ---- forward ---- */

static void qnet__lstm_gather_x(const qnet__lstm_work *s, size_t first, size_t last)
{
    const size_t in = s->job[0].in;
    size_t r;
    for (r = first; r < last; r++)
        memcpy(s->x + r * s->x_width, s->job[0].x + s->at[r] * in, in * sizeof *s->x);
}

/* Rows of gates per task of W x, and of dW, dU and dx. */
#define QNET__LSTM_BAND 96

/* How W x is cut: a task is a band of rows times some panels of one direction. */
typedef struct qnet__lstm_product {
    const qnet__lstm_work *work;
    size_t bands, panels, panels_per_task, chunks;
} qnet__lstm_product;

/* gates = x W^T at the rows of a band. */
static void qnet__lstm_input_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm_product *p = (const qnet__lstm_product *)arg;
    const qnet__lstm_work *s = p->work;
    const qnet__lstm *job = &s->job[index % 2];
    const size_t columns = s->kernel.columns, gates = 4 * job->hidden;
    const size_t panel = index / 2 % p->chunks * p->panels_per_task;
    const size_t begin = panel * columns;
    const size_t end = qnet__min_size((panel + p->panels_per_task) * columns, gates);
    const size_t first = index / 2 / p->chunks * QNET__LSTM_BAND;
    const size_t rows = qnet__min_size(QNET__LSTM_BAND, s->rows - first);
    const qnet_real *a[QNET__LSTM_BAND];
    qnet_real *c[QNET__LSTM_BAND];
    size_t i;
    QNET__UNUSED(worker);
    for (i = 0; i < rows; i++) {
        a[i] = s->x + (first + i) * s->x_width;
        c[i] = job->gates + s->at[first + i] * gates + begin;
    }
    qnet__multiply_rows(&s->kernel, QNET__CHAIN_DIRECT, rows, end - begin, job->in, a, 1,
                        s->w[index % 2] + begin * job->in, columns, job->in * columns, c, 0);
}

/* One direction of one group, step by step: gates += h' U^T + b, then Eqs. (1)-(5). The worker's
   arrays: the product, and h of the step before. */
static void qnet__lstm_forward_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm_work *s = (const qnet__lstm_work *)arg;
    const qnet__lstm *job = &s->job[index % 2];
    const size_t g = index / 2, n = job->hidden, *scan = s->order + g * QNET__LSTM_GROUP;
    const size_t h_width = qnet__lstm_width(&s->kernel, n);
    const size_t scans = qnet__lstm_scans(s, g, 0), steps = (size_t)job->length[scan[0]];
    qnet_real *product = s->worker + worker * s->worker_size;
    qnet_real *h = product + QNET__LSTM_GROUP * s->gate_width;
    const qnet_real *a[QNET__LSTM_GROUP];
    qnet_real *c[QNET__LSTM_GROUP];
    size_t i, k, t;
    for (i = 0; i < QNET__LSTM_GROUP; i++) {
        a[i] = h + i * h_width;
        c[i] = product + i * s->gate_width;
    }
    for (k = 0; k < steps; k++) {
        const size_t step = job->backwards ? steps - 1 - k : k;
        const size_t active = qnet__lstm_scans(s, g, step);
        const size_t going = k == 0 ? 0 : qnet__min_size(active, qnet__lstm_scans(s, g,
                                                         job->backwards ? step + 1 : step));
        if (going > 0)
            qnet__multiply_rows(&s->kernel, QNET__CHAIN_DIRECT, going,
                                qnet__panels(&s->kernel, 4 * n) * s->kernel.columns, n, a, 1,
                                s->u[index % 2], s->kernel.columns, n * s->kernel.columns, c, 0);
        for (i = 0; i < active; i++) {
            const size_t row = scan[i] * job->steps + step, before = qnet__lstm_before(job, row);
            s->elementwise.forward(n, job->b, i < going ? c[i] : s->zero,
                                   i < going ? job->cell + before * n : s->zero,
                                   job->gates + row * 4 * n, job->cell + row * n,
                                   job->cell_tanh + row * n, job->y + row * 2 * n, h + i * h_width);
        }
    }
    for (i = 0; i < scans; i++)
        for (t = (size_t)job->length[scan[i]]; t < job->steps; t++)
            memset(job->y + (scan[i] * job->steps + t) * 2 * n, 0, n * sizeof *job->y);
}

static void qnet__lstm_forward_fast(qnet_context *ctx, qnet__lstm_work *s)
{
    const size_t in = s->job[0].in, n = s->job[0].hidden;
    qnet__lstm_layout layout;
    qnet__lstm_product product;
    int d;
    layout.work = s;
    layout.rows = qnet__lstm_gather_x;
    for (d = 0; d < 2; d++) {
        layout.packing[d] = qnet__lstm_packing(s, s->job[d].w, 4 * n, in, 1, s->w[d]);
        layout.packing[2 + d] = qnet__lstm_packing(s, s->job[d].u, 4 * n, n, 1, s->u[d]);
        layout.panels[d] = layout.panels[2 + d] = 1;
    }
    qnet__lstm_lay_out(ctx, &layout);
    product.work = s;
    product.panels = qnet__panels(&s->kernel, 4 * n);
    product.panels_per_task = qnet__panels_per_task(product.panels, in * s->kernel.columns);
    product.chunks = (product.panels - 1) / product.panels_per_task + 1;
    product.bands = (s->rows - 1) / QNET__LSTM_BAND + 1;
    qnet__parallel(ctx, product.bands * product.chunks * 2, qnet__lstm_input_task, &product);
    qnet__parallel(ctx, s->groups * 2, qnet__lstm_forward_task, s);
}

QNET_API qnet_status qnet_lstm_forward(qnet_context *ctx, const qnet_lstm *shape, const int *length,
                                       const qnet_lstm_weights *weights, const qnet_real *x,
                                       qnet_real *y, qnet_real *saved, void *scratch)
{
    qnet__lstm_work s;
    qnet__arena arena = { NULL, 0 };
    size_t bytes;
    void *block, *owned;
    int d;
    QNET__TRY(qnet__lstm_check(ctx, "qnet_lstm_forward", shape, length,
                               weights && weights->w[0] && weights->w[1] && weights->u[0] &&
                               weights->u[1] && weights->b[0] && weights->b[1] && x && y && saved));
    bytes = qnet_lstm_scratch(ctx, shape);
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "LSTM", &block, &owned));
    arena.base = (unsigned char *)block;
    qnet__lstm_plan(ctx, shape, 0, &s, &arena);
    for (d = 0; d < 2; d++) {
        s.job[d] = qnet__lstm_job(shape, length, d, weights, x, y, saved);
        if (QNET__TWINS_ONLY) qnet__lstm_forward_ref(&s.job[d], s.zero);
    }
    if (!QNET__TWINS_ONLY) {
        qnet__lstm_arrange(shape, length, &s);
        qnet__lstm_forward_fast(ctx, &s);
    }
    qnet__free(ctx, owned, bytes);
    return QNET_OK;
}

/* ---- backward ---- */

/* Copies one row of numbers into panels that lie panel_size apart, `width` numbers in each. */
static void qnet__lstm_spread(const qnet_real *from, size_t count, size_t width, size_t panel_size,
                              qnet_real *to)
{
    size_t at, part;
    for (at = 0; at < count; at += width, to += panel_size) {
        part = qnet__min_size(width, count - at);
        if (part < width) memset(to, 0, width * sizeof *to);
        memcpy(to, from + at, part * sizeof *to);
    }
}

/* Right-hand sides of dW and dU: x, and h of the step before, which is zero at the first. */
static void qnet__lstm_gather_inputs(const qnet__lstm_work *s, size_t first, size_t last)
{
    const size_t columns = s->kernel.columns, panel = s->rows * columns;
    const size_t in = s->job[0].in, n = s->job[0].hidden;
    size_t r;
    int d;
    for (r = first; r < last; r++) {
        const size_t row = s->at[r], b = row / s->job[0].steps, t = row % s->job[0].steps;
        qnet__lstm_spread(s->job[0].x + row * in, in, columns, panel, s->x_panels + r * columns);
        for (d = 0; d < 2; d++) {
            const qnet__lstm *job = &s->job[d];
            qnet__lstm_spread(qnet__lstm_is_first(job, b, t)
                                  ? s->zero : job->y + qnet__lstm_before(job, row) * 2 * n,
                              n, columns, panel, s->h_panels[d] + r * columns);
        }
    }
}

/* One direction of one group, against the forward order: dgates of a step, then what it sends back
   to the step before, dh' = dgates U. The worker's arrays: dh, dc. */
static void qnet__lstm_backward_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm_work *s = (const qnet__lstm_work *)arg;
    const qnet__lstm *job = &s->job[index % 2];
    const size_t g = index / 2, n = job->hidden, *scan = s->order + g * QNET__LSTM_GROUP;
    const size_t h_width = qnet__lstm_width(&s->kernel, n);
    const size_t steps = (size_t)job->length[scan[0]];
    qnet_real *dh = s->worker + worker * s->worker_size, *dc = dh + QNET__LSTM_GROUP * h_width;
    qnet_real *dgates = s->dgates[index % 2] + s->start[g] * s->gate_width; /* of a step's scans */
    double *db = s->db[index % 2] + g * 4 * n;
    const qnet_real *a[QNET__LSTM_GROUP];
    qnet_real *c[QNET__LSTM_GROUP];
    size_t i, k;
    memset(dc, 0, QNET__LSTM_GROUP * n * sizeof *dc);
    memset(db, 0, 4 * n * sizeof *db);
    for (i = 0; i < QNET__LSTM_GROUP; i++) c[i] = dh + i * h_width;
    if (!job->backwards) /* from the end: the rows are numbered by rising step */
        for (k = 0; k < steps; k++) dgates += qnet__lstm_scans(s, g, k) * s->gate_width;
    for (k = steps; k-- > 0;) {
        const size_t step = job->backwards ? steps - 1 - k : k;
        const size_t active = qnet__lstm_scans(s, g, step);
        const size_t going = k == 0 ? 0 : qnet__min_size(active, qnet__lstm_scans(s, g,
                                                         job->backwards ? step + 1 : step));
        if (!job->backwards) dgates -= active * s->gate_width;
        for (i = 0; i < active; i++) {
            const size_t row = scan[i] * job->steps + step, before = qnet__lstm_before(job, row);
            a[i] = dgates + i * s->gate_width;
            s->elementwise.backward(n, job->gates + row * 4 * n,
                                    i < going ? job->cell + before * n : s->zero,
                                    job->cell_tanh + row * n, job->dy + row * 2 * n,
                                    qnet__lstm_is_last(job, scan[i], step) ? s->zero : c[i],
                                    dc + i * n, dgates + i * s->gate_width, db);
        }
        if (job->backwards) dgates += active * s->gate_width;
        if (going > 0)
            qnet__multiply_rows(&s->kernel, QNET__CHAIN_DIRECT, going,
                                qnet__panels(&s->kernel, n) * s->kernel.columns, 4 * n, a, 1,
                                s->u[index % 2], s->kernel.columns, 4 * n * s->kernel.columns, c,
                                0);
    }
}

/* dW = dgates^T x and dU = dgates^T h' of a direction: a band of gates times some panels. Those of
   h' follow on those of x. */
static void qnet__lstm_weights_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm_product *p = (const qnet__lstm_product *)arg;
    const qnet__lstm_work *s = p->work;
    const int d = (int)(index % 2);
    const size_t gates = 4 * s->job[d].hidden, columns = s->kernel.columns;
    const size_t in_panels = qnet__panels(&s->kernel, s->job[d].in);
    const size_t chunk = index / 2 % p->chunks * p->panels_per_task;
    const size_t chunk_end = qnet__min_size(chunk + p->panels_per_task, p->panels);
    const size_t first = index / 2 / p->chunks * QNET__LSTM_BAND;
    const size_t rows = qnet__min_size(QNET__LSTM_BAND, gates - first);
    const qnet_real *a[QNET__LSTM_BAND];
    qnet_real *c[QNET__LSTM_BAND];
    size_t row, panel, i;
    QNET__UNUSED(worker);
    for (row = 0; row < s->rows; row += QNET__LSTM_DEPTH) {
        const size_t depth = qnet__min_size(QNET__LSTM_DEPTH, s->rows - row);
        for (i = 0; i < rows; i++) a[i] = s->dgates[d] + row * s->gate_width + first + i;
        for (panel = chunk; panel < chunk_end; panel++) {
            const int of_x = panel < in_panels;
            const size_t width = of_x ? s->job[d].in : s->job[d].hidden;
            const size_t at = of_x ? panel : panel - in_panels;
            const qnet_real *b = of_x ? s->x_panels : s->h_panels[d];
            qnet_real *to = of_x ? s->gradients->w[d] : s->gradients->u[d];
            if (to == NULL) continue;
            for (i = 0; i < rows; i++) c[i] = to + (first + i) * width + at * columns;
            qnet__multiply_rows(&s->kernel, QNET__CHAIN_DIRECT, rows,
                                qnet__min_size(columns, width - at * columns), depth, a,
                                s->gate_width, b + (at * s->rows + row) * columns, columns, 0, c,
                                row > 0);
        }
    }
}

/* dx = dgates W of both directions, at the rows of a band. */
static void qnet__lstm_dx_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm_work *s = (const qnet__lstm_work *)arg;
    const size_t in = s->job[0].in, gates = 4 * s->job[0].hidden, columns = s->kernel.columns;
    const size_t first = index * QNET__LSTM_BAND;
    const size_t rows = qnet__min_size(QNET__LSTM_BAND, s->rows - first);
    const qnet_real *a[QNET__LSTM_BAND];
    qnet_real *c[QNET__LSTM_BAND];
    size_t i;
    int d;
    QNET__UNUSED(worker);
    for (d = 0; d < 2; d++) {
        for (i = 0; i < rows; i++) {
            a[i] = s->dgates[d] + (first + i) * s->gate_width;
            c[i] = s->dx + s->at[first + i] * in;
        }
        qnet__multiply_rows(&s->kernel, QNET__CHAIN_DIRECT, rows, in, gates, a, 1, s->w[d],
                            columns, gates * columns, c, d > 0);
    }
}

/* Forward: gates = W x + U h' + b, so with dgates of all rows
       dW = dgates^T x    dU = dgates^T h'    db = sum dgates    dx = dgates W. */
static void qnet__lstm_backward_fast(qnet_context *ctx, qnet__lstm_work *s)
{
    const size_t in = s->job[0].in, n = s->job[0].hidden;
    qnet__lstm_layout layout;
    qnet__lstm_product product;
    size_t g, j, b, t;
    int d;
    layout.work = s;
    layout.rows = qnet__lstm_gather_inputs;
    for (d = 0; d < 2; d++) {
        layout.packing[d] = qnet__lstm_packing(s, s->job[d].u, 4 * n, n, 0, s->u[d]);
        layout.packing[2 + d] = qnet__lstm_packing(s, s->job[d].w, 4 * n, in, 0, s->w[d]);
        layout.panels[d] = 1;
        layout.panels[2 + d] = s->dx != NULL;
    }
    qnet__lstm_lay_out(ctx, &layout);
    qnet__parallel(ctx, s->groups * 2, qnet__lstm_backward_task, s);
    product.work = s;
    product.panels = qnet__panels(&s->kernel, in) + qnet__panels(&s->kernel, n);
    product.panels_per_task = qnet__panels_per_task(product.panels, s->kernel.columns *
                                                    qnet__min_size(s->rows, QNET__LSTM_DEPTH));
    product.chunks = (product.panels - 1) / product.panels_per_task + 1;
    product.bands = (4 * n - 1) / QNET__LSTM_BAND + 1;
    qnet__parallel(ctx, product.bands * product.chunks * 2, qnet__lstm_weights_task, &product);
    for (d = 0; d < 2; d++)
        for (j = 0; s->gradients->b[d] != NULL && j < 4 * n; j++) {
            double sum = 0;
            for (g = 0; g < s->groups; g++) sum += s->db[d][g * 4 * n + j];
            s->gradients->b[d][j] = (qnet_real)sum;
        }
    if (s->dx == NULL) return;
    for (b = 0; b < s->job[0].batch; b++)
        for (t = (size_t)s->job[0].length[b]; t < s->job[0].steps; t++)
            memset(s->dx + (b * s->job[0].steps + t) * in, 0, in * sizeof *s->dx);
    qnet__parallel(ctx, (s->rows - 1) / QNET__LSTM_BAND + 1, qnet__lstm_dx_task, s);
}

/* A NULL in gradients skips that one. dy past a scan's end is not read; dx is zero there. */
QNET_API qnet_status qnet_lstm_backward(qnet_context *ctx, const qnet_lstm *shape,
                                        const int *length, const qnet_lstm_weights *weights,
                                        const qnet_real *x, const qnet_real *y,
                                        const qnet_real *saved, const qnet_real *dy, qnet_real *dx,
                                        const qnet_lstm_gradients *gradients, void *scratch)
{
    qnet__lstm_work s;
    qnet__arena arena = { NULL, 0 };
    size_t bytes;
    void *block, *owned;
    int d;
    QNET__TRY(qnet__lstm_check(ctx, "qnet_lstm_backward", shape, length,
                               weights && weights->w[0] && weights->w[1] && weights->u[0] &&
                               weights->u[1] && x && y && saved && dy && gradients));
    bytes = qnet_lstm_scratch(ctx, shape);
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "LSTM backward", &block, &owned));
    arena.base = (unsigned char *)block;
    qnet__lstm_plan(ctx, shape, 1, &s, &arena);
    if (QNET__TWINS_ONLY && dx != NULL)
        memset(dx, 0, (size_t)shape->batch * (size_t)shape->steps * (size_t)shape->in * sizeof *dx);
    for (d = 0; d < 2; d++) {
        /* The job type serves both passes; this one does not write y and saved. */
        s.job[d] = qnet__lstm_job(shape, length, d, weights, x, (qnet_real *)y, (qnet_real *)saved);
        s.job[d].dy = dy + (size_t)d * s.job[d].hidden;
        if (QNET__TWINS_ONLY)
            qnet__lstm_backward_ref(&s.job[d], s.zero, s.worker, s.worker + s.job[d].hidden,
                                    gradients->w[d], gradients->u[d], gradients->b[d], dx);
    }
    if (!QNET__TWINS_ONLY) {
        s.dx = dx;
        s.gradients = gradients;
        qnet__lstm_arrange(shape, length, &s);
        qnet__lstm_backward_fast(ctx, &s);
    }
    qnet__free(ctx, owned, bytes);
    return QNET_OK;
}

/* ============================================================================================
   >>gradcheck  Any gradient against central differences. Meant for QNET_REAL double, where a right
   gradient agrees to about 1e-8; in float the difference quotient itself has few digits.
   ============================================================================================ */

/* numeric = (f(x + h) - f(x - h)) / ((x + h) - (x - h)), the steps as they were rounded. Its error
   is about h^2 f''' / 6 + eps |f| / h, so h near the cube root of eps is best: 1e-5 in double. The
   floor under the denominator, 1e-3 of the largest gradient, keeps numbers that are all rounding
   from being reported as wrong. A non-finite quotient is an error, not a large number. */
QNET_API qnet_status qnet_gradcheck(qnet_context *ctx, qnet_scalar_function f, void *user,
                                    qnet_real *x, const qnet_real *gradient, size_t count,
                                    size_t samples, double step, qnet_gradcheck_result *out)
{
    qnet_gradcheck_result worst = { -1, 0, 0, 0 };
    double largest = 0;
    size_t s, i;
    QNET__TRY(qnet__check_layer(ctx, "qnet_gradcheck", count, 1, f && x && gradient && out));
    if (!(step > 0))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_gradcheck: expected step > 0, found %g",
                          step);
    if (samples == 0 || samples > count) samples = count;
    for (i = 0; i < count; i++)
        if (fabs((double)gradient[i]) > largest) largest = fabs((double)gradient[i]);
    for (s = 0; s < samples; s++) {
        qnet_real kept, above, below;
        double up, down, numeric, analytic, scale, error;
        i = s * (count / samples) + s * (count % samples) / samples;
        kept = x[i];
        above = (qnet_real)((double)kept + step);
        below = (qnet_real)((double)kept - step);
        x[i] = above;
        up = f(user);
        x[i] = below;
        down = f(user);
        x[i] = kept;
        numeric = (up - down) / ((double)above - (double)below);
        analytic = (double)gradient[i];
        if (!(fabs(numeric) < HUGE_VAL) || !(fabs(analytic) < HUGE_VAL))
            return qnet__fail(ctx, QNET_ERROR_NUMERIC,
                              "qnet_gradcheck: at index %lu: numeric %g, analytic %g",
                              (unsigned long)i, numeric, analytic);
        scale = fabs(numeric) + fabs(analytic);
        if (scale < 1e-3 * largest) scale = 1e-3 * largest;
        error = scale > 0 ? fabs(numeric - analytic) / scale : 0;
        if (error > worst.max_error) {
            worst.max_error = error;
            worst.worst = i;
            worst.analytic = analytic;
            worst.numeric = numeric;
        }
    }
    *out = worst;
    return QNET_OK;
}

/* ============================================================================================
   >>resnet
   ResNet18, the image-level model (paper, "Internal Architecture", Fig. 4; He et al. 2016). The
   network is one list of 20 units (a convolution and its batch norm) and 8 blocks over them, made
   by qnet__resnet_describe; the parameter table, the memory plan, the forward and the backward
   pass all walk that list. Names are torchvision's, in the table and in the trace: a traced tensor
   has the name of the torchvision module whose output it is.

       x[B][H][W][3]
       unit 0             7x7/2 conv, BN, ReLU    [B][H/2][W/2][64]     halves are rounded up
       max pool           3x3/2                   [B][H/4][W/4][64]
       layer1  2 blocks                           [B][H/4][W/4][64]
       layer2  2 blocks   the first of stride 2   [B][H/8][W/8][128]
       layer3  2 blocks   the first of stride 2   [B][H/16][W/16][256]
       layer4  2 blocks   the first of stride 2   [B][H/32][W/32][512]  the map that CAM shows
       average pool       features                [B][512]              the embedding of stage 2
       fc                 logits                  [B][classes]

       a block:  first = ReLU(BN(conv3x3(x))),  out = ReLU(BN(conv3x3(first)) + shortcut),
                 shortcut = x, or BN(conv1x1/2(x)) where the block has stride 2

   Memory is the limit beside the products, so a training pass keeps what a convolution gives
   ("pre") and the blocks' outputs, and nothing else. Statistics of a batch norm are summed up while
   pre is written; norm and ReLU are applied where the next convolution reads pre; the sum at the
   end of a block is the one pass of its own. Backward it is the same: masks and the sums of a
   norm's gradient where a gradient is written, the norm's own gradient where it is read (>>fuse).

   The paper's text gives a block one ReLU, after its first convolution. The ResNet18 that it names
   and starts from (He et al., torchvision) has a second one, after the sum: so has this.
   ============================================================================================ */

#define QNET__UNITS 20
#define QNET__RESBLOCKS 8
#define QNET__RESNET_TRAINED (3 * QNET__UNITS + 2) /* table entries that are trained */
#define QNET__RESNET_PARAMS (QNET__RESNET_TRAINED + 3 * QNET__UNITS)

/* A convolution, the batch norm after it and, if relu, a ReLU. Shapes are the largest batch's. */
typedef struct qnet__unit {
    char conv_name[32], norm_name[32]; /* "layer1.0.conv1", "layer1.0.bn1" */
    char out_name[32];                 /* of the unit's output in the trace: "layer1.0.relu" */
    qnet_conv2d conv;
    qnet__conv_way way; /* chosen for the largest batch, so that any batch has the same bits */
    int relu;
    qnet_real *w, *gamma, *beta;                     /* in net->weights */
    qnet_real *packed;                               /* w for the kernels, see qnet_resnet_pack */
    qnet_real *running_mean, *running_var, *tracked; /* in net->weights */
    qnet_real *dw, *dgamma, *dbeta;                  /* in net->gradients */
    qnet_real *pre;         /* [batch][out_h][out_w][out]: what the convolution gives */
    qnet_real *out;         /* like pre: after norm, residual and ReLU; NULL where it is not kept */
    qnet_real *mean, *rstd; /* [out]: statistics of the last training batch */
    qnet_real *scale;       /* [out]: gamma * rstd */
    qnet_real *shift, *slope; /* [out]: see qnet__unit_gradient */
} qnet__unit;

/* out = ReLU(second(first(x)) + shortcut(x)); shortcut is a unit, or -1 for x itself. */
typedef struct qnet__resblock {
    char name[16]; /* "layer1.0" */
    int first, second, shortcut;
} qnet__resblock;

typedef struct qnet__resnet_state {
    qnet_resnet net; /* first, so that a pointer to it is the start of the block */
    qnet__unit unit[QNET__UNITS];
    qnet__resblock block[QNET__RESBLOCKS];
    qnet_param_table table;
    qnet_param *params;
    qnet_real *pool;      /* [batch][pool_h][pool_w][64]: after max pooling */
    uint8_t *argmax;      /* like pool; training only */
    qnet_real *features;  /* [batch][512] */
    qnet_real *logits;    /* [batch][classes] */
    qnet_real *dfeatures; /* [batch][512] */
    qnet_real *dout[QNET__RESBLOCKS]; /* gradient of a block's output */
    qnet_real *dfirst[QNET__RESBLOCKS]; /* of the output of a block's first unit */
    qnet_real *dpool;     /* of the pooled map */
    qnet_real *stem_grad; /* of the stem's norm */
    qnet_real *temp[2];   /* for units whose convolution needs a normalised input in memory */
    qnet__sink sums;      /* the memory of the sums */
    double *total[2];     /* [512]: of all chunks */
    void *scratch;        /* for the layer that needs most */
    void *packed;         /* all units' */
    size_t packed_bytes;
    int pool_h, pool_w;
    double momentum;
    int batch;   /* of the last forward pass; 0: none yet */
    int trained; /* images that a backward pass may follow for; 0: none */
} qnet__resnet_state;

/* Numbers in the output of a unit for this batch. */
static size_t qnet__unit_count(const qnet__unit *unit, int batch)
{
    return (size_t)batch * (size_t)qnet_conv2d_out_height(&unit->conv) *
           (size_t)qnet_conv2d_out_width(&unit->conv) * (size_t)unit->conv.out_channels;
}

/* One unit: a kernel x kernel convolution of `in` to `out` channels over height x width,
   padded so that stride 1 keeps the size. prefix is "" or "layer1.0.". */
static void qnet__unit_describe(qnet__unit *unit, const char *prefix, const char *conv,
                                const char *norm, const char *out_name, int batch, int height,
                                int width, int in, int out, int kernel, int stride)
{
    snprintf(unit->conv_name, sizeof unit->conv_name, "%s%s", prefix, conv);
    snprintf(unit->norm_name, sizeof unit->norm_name, "%s%s", prefix, norm);
    snprintf(unit->out_name, sizeof unit->out_name, "%s%s", prefix, out_name);
    unit->conv.batch = batch;
    unit->conv.height = height;
    unit->conv.width = width;
    unit->conv.in_channels = in;
    unit->conv.out_channels = out;
    unit->conv.kernel = kernel;
    unit->conv.stride = stride;
    unit->conv.padding = kernel / 2;
    unit->relu = 1;
}

/* The definition of ResNet18: the stem, then layers 1..4 of two blocks each, with 64, 128, 256 and
   512 channels. The first block of layers 2..4 halves the map, and its shortcut follows suit by a
   1x1 convolution of stride 2; every other shortcut is the identity. */
static void qnet__resnet_describe(const qnet_resnet_config *config, qnet__resnet_state *r)
{
    int batch = config->batch, in = 64, n = 1, layer, i, h, w;

    qnet__unit_describe(&r->unit[0], "", "conv1", "bn1", "relu", batch, config->height,
                        config->width, config->channels, 64, 7, 2);
    r->pool_h = h = (qnet_conv2d_out_height(&r->unit[0].conv) - 1) / 2 + 1;
    r->pool_w = w = (qnet_conv2d_out_width(&r->unit[0].conv) - 1) / 2 + 1;

    for (layer = 1; layer <= 4; layer++) {
        for (i = 0; i < 2; i++) {
            qnet__resblock *block = &r->block[2 * (layer - 1) + i];
            int out = 64 << (layer - 1), stride = layer > 1 && i == 0 ? 2 : 1;
            int out_h = (h - 1) / stride + 1, out_w = (w - 1) / stride + 1;
            char prefix[16];

            snprintf(block->name, sizeof block->name, "layer%d.%d", layer, i);
            snprintf(prefix, sizeof prefix, "layer%d.%d.", layer, i);
            block->first = n++;
            qnet__unit_describe(&r->unit[block->first], prefix, "conv1", "bn1", "relu", batch, h, w,
                                in, out, 3, stride);
            block->second = n++;
            qnet__unit_describe(&r->unit[block->second], prefix, "conv2", "bn2", "", batch, out_h,
                                out_w, out, out, 3, 1);
            snprintf(r->unit[block->second].out_name, sizeof block->name, "%s", block->name);
            block->shortcut = -1;
            if (stride == 2) {
                block->shortcut = n++;
                qnet__unit_describe(&r->unit[block->shortcut], prefix, "downsample.0",
                                    "downsample.1", "downsample", batch, h, w, in, out, 1, stride);
                r->unit[block->shortcut].relu = 0;
            }
            in = out;
            h = out_h;
            w = out_w;
        }
    }
}

/* Writes table entry p = "name.suffix" at `offset` of the block; returns the offset after it. */
static size_t qnet__param_set(qnet_param *p, const char *name, const char *suffix, int ndim,
                              size_t s0, size_t s1, size_t s2, size_t s3, int trainable,
                              size_t offset)
{
    int i;
    snprintf(p->name, sizeof p->name, "%s.%s", name, suffix);
    p->ndim = ndim;
    p->shape[0] = s0;
    p->shape[1] = s1;
    p->shape[2] = s2;
    p->shape[3] = s3;
    p->count = 1;
    for (i = 0; i < ndim; i++) {
        p->count *= p->shape[i];
    }
    p->offset = offset;
    p->layout = ndim == 4 ? QNET_LAYOUT_HWIO : QNET_LAYOUT_PLAIN;
    p->trainable = trainable;
    return offset + p->count;
}

/* Fills the table: entry 3u, 3u+1, 3u+2 are the weights of unit u and its norm's gamma and beta;
   then fc; then the running statistics, three for each unit. num_batches_tracked is a scalar. */
static void qnet__resnet_table(const qnet_resnet_config *config, qnet__resnet_state *r,
                               qnet_param *p)
{
    size_t at = 0, classes = (size_t)config->classes;
    int u;

    for (u = 0; u < QNET__UNITS; u++) {
        const qnet__unit *unit = &r->unit[u];
        size_t k = (size_t)unit->conv.kernel, in = (size_t)unit->conv.in_channels;
        size_t out = (size_t)unit->conv.out_channels;
        at = qnet__param_set(p++, unit->conv_name, "weight", 4, k, k, in, out, 1, at);
        at = qnet__param_set(p++, unit->norm_name, "weight", 1, out, 1, 1, 1, 1, at);
        at = qnet__param_set(p++, unit->norm_name, "bias", 1, out, 1, 1, 1, 1, at);
    }
    at = qnet__param_set(p++, "fc", "weight", 2, classes, QNET_FEATURES, 1, 1, 1, at);
    at = qnet__param_set(p++, "fc", "bias", 1, classes, 1, 1, 1, 1, at);
    for (u = 0; u < QNET__UNITS; u++) {
        const qnet__unit *unit = &r->unit[u];
        size_t out = (size_t)unit->conv.out_channels;
        at = qnet__param_set(p++, unit->norm_name, "running_mean", 1, out, 1, 1, 1, 0, at);
        at = qnet__param_set(p++, unit->norm_name, "running_var", 1, out, 1, 1, 1, 0, at);
        at = qnet__param_set(p++, unit->norm_name, "num_batches_tracked", 0, 1, 1, 1, 1, 0, at);
    }
}

/* Numbers in the block: those that are trained and all. */
static void qnet__resnet_count(const qnet_resnet_config *config, qnet__resnet_state *r)
{
    size_t trainable = (size_t)config->classes * (QNET_FEATURES + 1), running = 0;
    int u;

    for (u = 0; u < QNET__UNITS; u++) {
        const qnet_conv2d *conv = &r->unit[u].conv;
        size_t out = (size_t)conv->out_channels;
        trainable += (size_t)(conv->kernel * conv->kernel * conv->in_channels) * out + 2 * out;
        running += 2 * out + 1;
    }
    r->table.network = "resnet18";
    r->table.count = QNET__RESNET_PARAMS;
    r->table.trainable = trainable;
    r->table.total = trainable + running;
}

/* Scratch bytes of the layer that needs most. Layers may split small batches in another way than
   large ones, so every batch size is asked for. */
static size_t qnet__resnet_scratch(qnet_context *ctx, const qnet_resnet_config *config,
                                   const qnet__resnet_state *r)
{
    size_t bytes = 0;
    int u, batch;

    for (batch = 1; batch <= config->batch; batch++) {
        for (u = 0; u < QNET__UNITS; u++) {
            qnet_conv2d conv = r->unit[u].conv;
            conv.batch = batch;
            bytes = qnet__max_size(bytes, qnet__conv_scratch(ctx, r->unit[u].way, &conv));
        }
        bytes = qnet__max_size(bytes, qnet_dense_scratch(ctx, (size_t)batch, QNET_FEATURES,
                                                         config->classes));
    }
    return bytes;
}

/* Memory for the sums of the unit that has most chunks; a map may be an input or an output. */
static void qnet__resnet_plan_sums(qnet__arena *arena, const qnet_resnet_config *config,
                                   qnet__resnet_state *r)
{
    const qnet__kernel kernel = qnet__pick_kernel(r->net.ctx);
    size_t numbers = 0, chunks = 0;
    int u;

    for (u = 0; u < QNET__UNITS; u++) {
        const qnet_conv2d *conv = &r->unit[u].conv;
        size_t out = (size_t)conv->out_channels, most;
        qnet__winograd p;
        qnet__winograd_geometry(&p, &kernel, conv, 0);
        most = qnet__pass_chunks(qnet__unit_count(&r->unit[u], config->batch) / out, out);
        if (r->unit[u].way == QNET__CONV_WINOGRAD) {
            most = qnet__max_size(most, (size_t)p.blocks);
        }
        chunks = qnet__max_size(chunks, most);
        numbers = qnet__max_size(numbers, most * qnet__max_size(out, (size_t)p.src_c));
    }
    r->sums.center = (qnet_real *)qnet__take(arena, numbers, sizeof(qnet_real));
    r->sums.sum1 = (double *)qnet__take(arena, numbers, sizeof(double));
    r->sums.sum2 = (double *)qnet__take(arena, numbers, sizeof(double));
    r->sums.rows = (size_t *)qnet__take(arena, chunks, sizeof(size_t));
    r->total[0] = (double *)qnet__take(arena, QNET_FEATURES, sizeof(double));
    r->total[1] = (double *)qnet__take(arena, QNET_FEATURES, sizeof(double));
}

/* `count` numbers from *at on, which moves; NULL while there is no memory yet. */
static qnet_real *qnet__resnet_carve(qnet_real **at, size_t *used, size_t count)
{
    qnet_real *p = *at;
    *used += count;
    *at = p != NULL ? p + count : NULL;
    return p;
}

/* Training keeps every convolution's output and every block's output, layer after layer in one
   region. What is needed only for a while lies over parts of it that are dead then:

       stem's output, and its norm's           until pooling: over layers 1 and 2, not yet computed;
         gradient                              after layer1's backward pass: over the same, used up
       gradients of block outputs, dout[b]     layer1: over layer2's and layer3's maps
                                               layer2: over layer4's, and in a work region
                                               layers 3 and 4: in the work region
       gradient inside a block, dfirst[b]      layer1: over layer2's maps, layer2: over layer3's,
                                               layers 3 and 4: in the work region
       gradient of the pooled map              over layer3's maps

   The stem's output is computed again in the backward pass: 2 % of the work for a fifth of the
   memory. */
static void qnet__resnet_plan_training(qnet__arena *arena, const qnet_resnet_config *config,
                                       qnet__resnet_state *r)
{
    size_t real = sizeof(qnet_real), used = 0, total, small, size[5], temp = 0;
    size_t stem = qnet__unit_count(&r->unit[0], config->batch);
    size_t pool = (size_t)config->batch * (size_t)r->pool_h * (size_t)r->pool_w * 64;
    qnet_real *region, *at, *layer[5], *w;
    int u, b, l, pass;

    for (l = 1; l <= 4; l++) {
        size[l] = qnet__unit_count(&r->unit[r->block[2 * l - 1].second], config->batch);
    }
    /* Twice: to measure, and to place. */
    for (pass = 0, total = 0, region = NULL; pass < 2; pass++) {
        if (pass == 1) {
            total = qnet__max_size(used, 2 * stem);
            region = (qnet_real *)qnet__take(arena, total, real);
        }
        at = region;
        used = 0;
        for (b = 0; b < QNET__RESBLOCKS; b++) {
            const qnet__resblock *block = &r->block[b];
            if (b % 2 == 0) {
                layer[b / 2 + 1] = at;
            }
            for (u = block->first; u <= (block->shortcut > 0 ? block->shortcut : block->second);
                 u++) {
                r->unit[u].pre = qnet__resnet_carve(&at, &used, size[b / 2 + 1]);
            }
            r->unit[block->second].out = qnet__resnet_carve(&at, &used, size[b / 2 + 1]);
        }
    }
    r->unit[0].pre = region;
    r->unit[0].out = r->stem_grad = region != NULL ? region + stem : NULL;

    /* Layers 2 and 3 have seven maps each: room for size[1], of dout or dpool, and dfirst behind
       it, as size[1] is at most 2 size[2] and 4 size[3], and size[2] at most 2 size[3]. */
    small = qnet__max_size(size[3], size[4]);
    w = (qnet_real *)qnet__take(arena, 3 * small, real);
    if (w != NULL) {
        for (b = 4; b < 8; b++) {
            r->dfirst[b] = w;
            r->dout[b] = w + (b % 2 == 0 ? small : 2 * small);
        }
        r->dfirst[0] = r->dfirst[1] = layer[2] + size[1];
        r->dfirst[2] = r->dfirst[3] = layer[3] + size[1];
        r->dout[3] = layer[4];
        r->dout[2] = w;
        r->dout[1] = layer[3];
        r->dout[0] = layer[2];
        r->dpool = layer[3];
    }

    for (u = 0; u < QNET__UNITS; u++) {
        qnet__unit *unit = &r->unit[u];
        size_t out = (size_t)unit->conv.out_channels;
        unit->mean = (qnet_real *)qnet__take(arena, out, real);
        unit->rstd = (qnet_real *)qnet__take(arena, out, real);
        unit->shift = (qnet_real *)qnet__take(arena, out, real);
        unit->slope = (qnet_real *)qnet__take(arena, out, real);
    }
    for (b = 0; b < QNET__RESBLOCKS; b++) {
        if (r->unit[r->block[b].second].way != QNET__CONV_WINOGRAD) {
            temp = qnet__max_size(temp, size[b / 2 + 1]);
        }
    }
    r->temp[0] = (qnet_real *)qnet__take(arena, temp, real);
    r->temp[1] = (qnet_real *)qnet__take(arena, temp, real);
    r->pool = (qnet_real *)qnet__take(arena, pool, real);
    r->argmax = (uint8_t *)qnet__take(arena, pool, 1);
    r->dfeatures = (qnet_real *)qnet__take(arena, (size_t)config->batch * QNET_FEATURES, real);
    qnet__resnet_plan_sums(arena, config, r);
}

/* Inference: three maps that the blocks pass round, two of them over the stem's output, which is
   dead after pooling; norms work in place. */
static void qnet__resnet_plan_inference(qnet__arena *arena, const qnet_resnet_config *config,
                                        qnet__resnet_state *r, size_t map)
{
    size_t stem = qnet__max_size(qnet__unit_count(&r->unit[0], config->batch), 2 * map);
    qnet_real *buffer[3];
    int b, in = 0;

    buffer[0] = r->pool = (qnet_real *)qnet__take(arena, map, sizeof(qnet_real));
    buffer[1] = (qnet_real *)qnet__take(arena, stem, sizeof(qnet_real));
    buffer[2] = arena->base ? buffer[1] + map : NULL;
    r->unit[0].pre = r->unit[0].out = buffer[1];
    for (b = 0; b < QNET__RESBLOCKS; b++) {
        const qnet__resblock *block = &r->block[b];
        qnet__unit *first = &r->unit[block->first], *second = &r->unit[block->second];
        first->pre = first->out = buffer[(in + 1) % 3];
        if (block->shortcut >= 0) { /* x is read by the shortcut and first, then written over */
            qnet__unit *shortcut = &r->unit[block->shortcut];
            shortcut->pre = shortcut->out = buffer[(in + 2) % 3];
        } else { /* x is needed to the end */
            in = (in + 2) % 3;
        }
        second->pre = second->out = buffer[in];
    }
}

/* Carves the whole network from an arena; with base NULL it only measures. */
static void qnet__resnet_plan(qnet_context *ctx, const qnet_resnet_config *config,
                              qnet__arena *arena, qnet__resnet_state *r)
{
    size_t real = sizeof(qnet_real), batch = (size_t)config->batch, map;
    int u, b;

    memset(r, 0, sizeof *r);
    r->net.ctx = ctx;
    qnet__take(arena, 1, sizeof *r); /* the state itself, copied to the block's start at the end */
    qnet__resnet_describe(config, r);
    qnet__resnet_count(config, r);
    r->params = (qnet_param *)qnet__take(arena, QNET__RESNET_PARAMS, sizeof(qnet_param));
    r->net.weights = (qnet_real *)qnet__take(arena, r->table.total, real);
    if (config->training) {
        r->net.gradients = (qnet_real *)qnet__take(arena, r->table.trainable, real);
    }

    /* Largest input or output of a block. Layers 2..4 quarter the pixels and double the channels,
       but a map of 3 x 3 becomes 2 x 2: small sizes can grow, so all are looked at. */
    map = batch * (size_t)r->pool_h * (size_t)r->pool_w * 64;
    for (b = 0; b < QNET__RESBLOCKS; b++) {
        u = r->block[b].second;
        map = qnet__max_size(map, qnet__unit_count(&r->unit[u], config->batch));
    }
    for (u = 0; u < QNET__UNITS; u++) {
        r->unit[u].way = qnet__conv_pick(ctx, &r->unit[u].conv);
        r->unit[u].scale = (qnet_real *)qnet__take(arena, (size_t)r->unit[u].conv.out_channels,
                                                   real);
    }
    if (config->training) {
        qnet__resnet_plan_training(arena, config, r);
    } else {
        qnet__resnet_plan_inference(arena, config, r, map);
    }

    r->features = (qnet_real *)qnet__take(arena, batch * QNET_FEATURES, real);
    r->logits = (qnet_real *)qnet__take(arena, batch * (size_t)config->classes, real);
    r->scratch = qnet__take(arena, qnet__resnet_scratch(ctx, config, r), 1);
}

/* The limits lie far above any use, so that no product of int sizes inside a layer overflows. */
static qnet_status qnet__resnet_check_config(qnet_context *ctx, const qnet_resnet_config *config)
{
    size_t count;

    if (config->height < 32 || config->width < 32 || config->height > 8192 ||
        config->width > 8192) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "resnet: height and width must be 32..8192, found %d x %d",
                          config->height, config->width);
    }
    if (config->channels < 1 || config->channels > 1024) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "resnet: channels must be 1..1024, found %d",
                          config->channels);
    }
    if (config->classes < 1 || config->classes > 65536) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "resnet: classes must be 1..65536, found %d",
                          config->classes);
    }
    if (config->batch < 1 || config->batch > 4096) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "resnet: batch must be 1..4096, found %d",
                          config->batch);
    }
    /* The largest tensors are the input and the stem's output, a quarter of it with 64 channels. */
    count = (size_t)qnet__max_int(config->channels, 64) * sizeof(double);
    if (!qnet__mul(count, (size_t)config->height, &count) ||
        !qnet__mul(count, (size_t)config->width, &count) ||
        !qnet__mul(count, (size_t)config->batch, &count)) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "resnet: %d images of %d x %d x %d do not fit",
                          config->batch, config->height, config->width, config->channels);
    }
    return QNET_OK;
}

QNET_API void qnet_resnet_config_init(qnet_resnet_config *config)
{
    config->height = config->width = 224;
    config->channels = 3;
    config->classes = QNET_CLASSES;
    config->batch = 64;
    config->training = 1;
}

/* The plan is run without memory; nothing is kept. */
QNET_API size_t qnet_resnet_bytes(qnet_context *ctx, const qnet_resnet_config *config)
{
    qnet__arena arena = {NULL, 0};
    qnet__resnet_state r;

    if (ctx == NULL || config == NULL || qnet__resnet_check_config(ctx, config) != QNET_OK) {
        return 0;
    }
    qnet__resnet_plan(ctx, config, &arena, &r);
    return arena.at == (size_t)-1 ? 0 : arena.at;
}

/* Points every unit at its entries of the weights and gradients, in the order of
   qnet__resnet_table. Pointers, not copies: whoever writes the block changes the network. */
static void qnet__resnet_bind(qnet__resnet_state *r)
{
    int u;

    for (u = 0; u < QNET__UNITS; u++) {
        const qnet_param *p = &r->params[3 * u], *running = p + QNET__RESNET_TRAINED;
        qnet__unit *unit = &r->unit[u];
        unit->w = r->net.weights + p[0].offset;
        unit->gamma = r->net.weights + p[1].offset;
        unit->beta = r->net.weights + p[2].offset;
        unit->running_mean = r->net.weights + running[0].offset;
        unit->running_var = r->net.weights + running[1].offset;
        unit->tracked = r->net.weights + running[2].offset;
        if (r->net.gradients != NULL) {
            unit->dw = r->net.gradients + p[0].offset;
            unit->dgamma = r->net.gradients + p[1].offset;
            unit->dbeta = r->net.gradients + p[2].offset;
        }
    }
}

/* One allocation: the plan is run twice, to measure and to carve. The state is filled on the stack
   and copied to the start of the block. Weights and gradients are zero until qnet_resnet_init or a
   weights file fills them. */
QNET_API qnet_status qnet_resnet_create(qnet_context *ctx, const qnet_resnet_config *config,
                                        qnet_resnet **out)
{
    qnet__arena arena = {NULL, 0};
    qnet__resnet_state r, *self;
    size_t bytes;

    if (ctx == NULL || config == NULL || out == NULL) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "resnet: ctx, config or out is NULL");
    }
    QNET__TRY(qnet__resnet_check_config(ctx, config));
    bytes = qnet_resnet_bytes(ctx, config);
    if (bytes == 0) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "resnet: the network does not fit into memory");
    }
    arena.base = (unsigned char *)qnet__alloc(ctx, bytes);
    if (arena.base == NULL) {
        return qnet__no_memory(ctx, bytes, "ResNet18");
    }

    qnet__resnet_plan(ctx, config, &arena, &r);
    self = (qnet__resnet_state *)(void *)arena.base;
    r.momentum = QNET_BATCHNORM_MOMENTUM;
    r.table.entries = r.params;
    r.net.config = *config;
    r.net.table = &self->table;
    r.net.bytes = bytes;
    r.net.state = self;
    memset(r.params, 0, QNET__RESNET_PARAMS * sizeof(qnet_param));
    qnet__resnet_table(config, &r, r.params);
    qnet__resnet_bind(&r);
    memset(r.net.weights, 0, r.table.total * sizeof(qnet_real));
    if (r.net.gradients != NULL) {
        memset(r.net.gradients, 0, r.table.trainable * sizeof(qnet_real));
    }
    *self = r;
    *out = &self->net;
    return QNET_OK;
}

QNET_API void qnet_resnet_destroy(qnet_resnet *net)
{
    if (net != NULL) {
        qnet__free(net->ctx, net->state->packed, net->state->packed_bytes);
        qnet__free(net->ctx, net->state, net->bytes);
    }
}

QNET_API qnet_status qnet_resnet_pack(qnet_resnet *net)
{
    qnet__resnet_state *r;
    qnet__arena arena = {NULL, 0};
    int u, pass;

    if (net == NULL || net->config.training) {
        return qnet__fail(net != NULL ? net->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "resnet pack: expected a network created with training = 0");
    }
    r = net->state;
    for (pass = 0; pass < 2; pass++) {
        if (pass == 1 && arena.at == 0) { /* no way that packs */
            return QNET_OK;
        }
        if (pass == 1 && r->packed == NULL) {
            r->packed = qnet__alloc(net->ctx, arena.at);
            r->packed_bytes = arena.at;
            if (r->packed == NULL) {
                return qnet__no_memory(net->ctx, arena.at, "packed weights");
            }
        }
        arena.base = (unsigned char *)(pass == 1 ? r->packed : NULL);
        arena.at = 0;
        for (u = 0; u < QNET__UNITS; u++) {
            qnet__unit *unit = &r->unit[u];
            const size_t count = qnet__conv_packed(net->ctx, unit->way, &unit->conv);
            unit->packed = count > 0 ? (qnet_real *)qnet__take(&arena, count, sizeof(qnet_real))
                                     : NULL;
            if (unit->packed != NULL) {
                qnet__conv_pack(net->ctx, unit->way, &unit->conv, unit->w, unit->packed);
            }
        }
    }
    return QNET_OK;
}

/* Where `data` lies in the network's block, in MB from its start; "-": nowhere. */
static void qnet__resnet_place(const qnet__resnet_state *r, const void *data, char text[16])
{
    snprintf(text, 16, "-");
    if (data != NULL) {
        snprintf(text, 16, "%.1f", (double)((const unsigned char *)data -
                                            (const unsigned char *)(const void *)r) / 1e6);
    }
}

QNET_API size_t qnet_resnet_plan_text(const qnet_resnet *net, char *text, size_t size)
{
    static const char *const way[] = {"reference", "BLAS", "Winograd", "direct"};
    const qnet__resnet_state *r;
    size_t used = 0;
    int u, n;

    if (text != NULL && size > 0) {
        text[0] = '\0';
    }
    if (net == NULL) {
        return 0;
    }
    r = net->state;
    for (u = -1; u <= QNET__UNITS; u++) {
        char line[192], shape[48], pre[16], out[16];
        if (u < 0) {
            n = snprintf(line, sizeof line, "%-22s %-17s %-10s %9s %8s %8s\n", "convolution",
                         "output", "algorithm", "MB", "kept at", "block at");
        } else if (u == QNET__UNITS) {
            qnet__resnet_place(r, r->scratch, out);
            n = snprintf(line, sizeof line,
                         "block of %.1f MB: weights %.1f, scratch at %s; packed weights %.1f\n",
                         (double)net->bytes / 1e6,
                         (double)r->table.total * sizeof(qnet_real) / 1e6, out,
                         (double)r->packed_bytes / 1e6);
        } else {
            const qnet__unit *unit = &r->unit[u];
            snprintf(shape, sizeof shape, "%dx%dx%dx%d", net->config.batch,
                     qnet_conv2d_out_height(&unit->conv), qnet_conv2d_out_width(&unit->conv),
                     unit->conv.out_channels);
            qnet__resnet_place(r, unit->pre, pre);
            qnet__resnet_place(r, unit->out, out);
            n = snprintf(line, sizeof line, "%-22s %-17s %-10s %9.2f %8s %8s\n",
                         unit->conv_name, shape, way[unit->way],
                         (double)qnet__unit_count(unit, net->config.batch) *
                             sizeof(qnet_real) / 1e6,
                         pre, out);
        }
        if (n > 0 && text != NULL && used + (size_t)n < size) {
            memcpy(text + used, line, (size_t)n + 1);
        }
        used += n > 0 ? (size_t)n : 0;
    }
    return used;
}

typedef struct qnet__resnet_init_job { qnet_resnet *net; uint64_t seed; } qnet__resnet_init_job;

/* Initial value of parameter i; each has its own random stream. */
static void qnet__resnet_init_task(void *arg, size_t i, size_t worker)
{
    const qnet__resnet_init_job *job = (const qnet__resnet_init_job *)arg;
    const qnet_param *p = &job->net->table->entries[i];
    qnet_rng rng = qnet_rng_at(job->seed, QNET_RANDOM_INIT_RESNET, 0, i);
    qnet_real *v = job->net->weights + p->offset;
    size_t j;

    QNET__UNUSED(worker);
    if (p->ndim == 4) {
        /* Kaiming normal, fan out (He et al. 2015): keeps the gradient's variance through ReLUs. */
        double std = sqrt(2.0 / (double)(p->shape[0] * p->shape[1] * p->shape[3]));
        for (j = 0; j < p->count; j++) {
            v[j] = (qnet_real)(std * qnet_rng_normal(&rng));
        }
    } else if (strncmp(p->name, "fc.", 3) == 0) {
        double bound = 1.0 / sqrt((double)QNET_FEATURES);
        for (j = 0; j < p->count; j++) {
            v[j] = (qnet_real)qnet_rng_range(&rng, -bound, bound);
        }
    } else {
        /* Norms: gamma 1, beta 0, running mean 0 and variance 1, no batch tracked. */
        int one = strstr(p->name, ".running_var") != NULL || strstr(p->name, ".weight") != NULL;
        for (j = 0; j < p->count; j++) {
            v[j] = (qnet_real)one;
        }
    }
}

/* weights[total] as torchvision's ResNet starts: see the task above. */
QNET_API void qnet_resnet_init(qnet_resnet *net, uint64_t seed)
{
    qnet__resnet_init_job job;
    job.net = net;
    job.seed = seed;
    qnet__parallel(net->ctx, (size_t)net->table->count, qnet__resnet_init_task, &job);
}

/* The head alone, for weights that came without one of the right number of classes. */
QNET__HELPER void qnet__resnet_init_head(qnet_resnet *net, uint64_t seed)
{
    qnet__resnet_init_job job;
    job.net = net;
    job.seed = seed;
    qnet__resnet_init_task(&job, (size_t)qnet_param_find(net->table, "fc.weight"), 0);
    qnet__resnet_init_task(&job, (size_t)qnet_param_find(net->table, "fc.bias"), 0);
}

/* running = (1 - momentum) running + momentum * batch; with 1/k at batch k = 1, 2, ... that is the
   mean over batches, whatever stood there before: the re-estimation of Izmailov et al. 2018. */
QNET_API void qnet_resnet_set_momentum(qnet_resnet *net, double momentum)
{
    net->state->momentum = momentum;
}

/* [batch][h][w][512]; data NULL and batch 0 before the first forward pass and after a backward
   pass, which uses it up. */
QNET_API qnet_tensor qnet_resnet_feature_map(const qnet_resnet *net)
{
    const qnet__resnet_state *r = net->state;
    const qnet__unit *last = &r->unit[r->block[QNET__RESBLOCKS - 1].second];
    qnet_tensor t;

    t.data = r->batch > 0 ? last->out : NULL;
    t.ndim = 4;
    t.shape[0] = (size_t)r->batch;
    t.shape[1] = (size_t)qnet_conv2d_out_height(&last->conv);
    t.shape[2] = (size_t)qnet_conv2d_out_width(&last->conv);
    t.shape[3] = QNET_FEATURES;
    return t;
}

/* Hands a tensor in the shape of a unit's output to the trace hook. */
static void qnet__unit_trace(const qnet__resnet_state *r, const qnet__unit *unit, int batch,
                             const char *prefix, const char *name, const qnet_real *data)
{
    char full[48];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    qnet__trace(r->net.ctx, full, data, 4, (size_t)batch,
                (size_t)qnet_conv2d_out_height(&unit->conv),
                (size_t)qnet_conv2d_out_width(&unit->conv), (size_t)unit->conv.out_channels);
}

static int qnet__resnet_traces(const qnet__resnet_state *r)
{
    return r->net.ctx->hooks.trace.tensor != NULL;
}

/* The trace of a map that is never in memory: worked out for it alone. x <- the source or, where
   the source is plain, what the sink makes of it. */
static qnet_status qnet__unit_trace_made(const qnet__resnet_state *r, const qnet__unit *unit,
                                         int batch, const char *prefix, const char *name,
                                         const qnet__source *source, const qnet__sink *sink)
{
    const size_t n = (size_t)unit->conv.out_channels, count = qnet__unit_count(unit, batch);
    qnet__sink to = *sink;
    if (!qnet__resnet_traces(r)) {
        return QNET_OK;
    }
    to.y = (qnet_real *)qnet__alloc(r->net.ctx, count * sizeof(qnet_real));
    if (to.y == NULL) {
        return qnet__no_memory(r->net.ctx, count * sizeof(qnet_real), "a traced tensor");
    }
    qnet__pass(r->net.ctx, source, &to, count / n, n);
    qnet__unit_trace(r, unit, batch, prefix, name, to.y);
    qnet__free(r->net.ctx, to.y, count * sizeof(qnet_real));
    return QNET_OK;
}

/* ReLU(norm(pre)) of a unit, for whoever reads it. */
static qnet__source qnet__unit_normalised(const qnet__unit *unit)
{
    qnet__source s = qnet__source_plain(unit->pre);
    s.kind = QNET__SOURCE_NORMALISED;
    s.mean = unit->mean, s.scale = unit->scale, s.beta = unit->beta;
    return s;
}

/* act(norm + residual) of a unit, into y. With `train` by the batch's statistics. */
static qnet__sink qnet__unit_sink(const qnet__unit *unit, int train, qnet_real *y)
{
    qnet__sink s = qnet__sink_plain(y);
    s.kind = QNET__SINK_NORMALISE;
    s.mean = train ? unit->mean : unit->running_mean, s.scale = unit->scale, s.beta = unit->beta;
    s.relu = unit->relu;
    return s;
}

/* pre = conv(x); mean, rstd and scale of the norm from this batch; the running statistics move.
   momentum and the unbiased variance as in qnet_batchnorm_forward. */
static qnet_status qnet__unit_train(qnet__resnet_state *r, qnet__unit *unit, int batch,
                                    const qnet__source *x)
{
    qnet_context *ctx = r->net.ctx;
    size_t n = (size_t)unit->conv.out_channels, rows = qnet__unit_count(unit, batch) / n, c;
    double unbias = rows > 1 ? (double)rows / ((double)rows - 1) : 1;
    qnet_conv2d conv = unit->conv;
    qnet__sink sink = r->sums, norm;

    conv.batch = batch;
    sink.kind = QNET__SINK_MOMENTS;
    sink.y = unit->pre;
    QNET__TRY(qnet__conv_forward(ctx, unit->way, &conv, x, unit->w, NULL, &sink, r->temp[0],
                                 r->scratch));
    qnet__sink_totals(ctx, &sink, n, r->total[0], r->total[1]);
    for (c = 0; c < n; c++) {
        double mean = r->total[0][c], var = r->total[1][c];
        double rstd = 1 / sqrt(var + QNET_BATCHNORM_EPS);
        unit->mean[c] = (qnet_real)mean;
        unit->rstd[c] = (qnet_real)rstd;
        unit->scale[c] = (qnet_real)((double)unit->gamma[c] * rstd);
        unit->running_mean[c] = (qnet_real)((1 - r->momentum) * (double)unit->running_mean[c] +
                                            r->momentum * mean);
        unit->running_var[c] = (qnet_real)((1 - r->momentum) * (double)unit->running_var[c] +
                                           r->momentum * var * unbias);
    }
    *unit->tracked += 1;
    qnet__unit_trace(r, unit, batch, "", unit->conv_name, unit->pre);
    if (unit->out == NULL) {
        const qnet__source pre = qnet__source_plain(unit->pre);
        norm = qnet__unit_sink(unit, 1, NULL);
        return qnet__unit_trace_made(r, unit, batch, "", unit->out_name, &pre, &norm);
    }
    return QNET_OK;
}

/* y = act(norm(conv(x)) + residual) with the running statistics, in one go. */
static qnet_status qnet__unit_infer(qnet__resnet_state *r, qnet__unit *unit, int batch,
                                    const qnet_real *x, const qnet_real *residual, qnet_real *y)
{
    const qnet__source source = qnet__source_plain(x);
    size_t n = (size_t)unit->conv.out_channels, c;
    qnet_conv2d conv = unit->conv;
    qnet__sink sink;
    qnet_status status;

    conv.batch = batch;
    if (qnet__resnet_traces(r)) { /* the convolution's output is not kept: computed for the trace */
        const size_t bytes = qnet__unit_count(unit, batch) * sizeof(qnet_real);
        sink = qnet__sink_plain((qnet_real *)qnet__alloc(r->net.ctx, bytes));
        if (sink.y == NULL) {
            return qnet__no_memory(r->net.ctx, bytes, "a traced tensor");
        }
        status = qnet__conv_forward(r->net.ctx, unit->way, &conv, &source, unit->w, unit->packed,
                                    &sink, NULL, r->scratch);
        if (status == QNET_OK) {
            qnet__unit_trace(r, unit, batch, "", unit->conv_name, sink.y);
        }
        qnet__free(r->net.ctx, sink.y, bytes);
        QNET__TRY(status);
    }
    for (c = 0; c < n; c++) {
        unit->scale[c] = (qnet_real)((double)unit->gamma[c] /
                                     sqrt((double)unit->running_var[c] + QNET_BATCHNORM_EPS));
    }
    sink = qnet__unit_sink(unit, 0, y);
    sink.residual = residual;
    QNET__TRY(qnet__conv_forward(r->net.ctx, unit->way, &conv, &source, unit->w, unit->packed,
                                 &sink, NULL, r->scratch));
    qnet__unit_trace(r, unit, batch, "", unit->out_name, y);
    return QNET_OK;
}

/* *map, a block's input, becomes its output: ReLU(second(first(map)) + shortcut(map)). */
static qnet_status qnet__resblock_forward(qnet__resnet_state *r, const qnet__resblock *block,
                                          int batch, int train, const qnet_real **map)
{
    qnet__unit *first = &r->unit[block->first], *second = &r->unit[block->second];
    qnet__unit *shortcut = block->shortcut < 0 ? NULL : &r->unit[block->shortcut];
    qnet__source x = qnet__source_plain(*map), middle;
    qnet__sink sum;

    if (!train) {
        /* The shortcut goes first: the second unit may write over the block's input. A network for
           training writes where it would keep `pre`. */
        const qnet_real *residual = *map;
        if (shortcut != NULL) {
            QNET__TRY(qnet__unit_infer(r, shortcut, batch, *map, NULL, shortcut->pre));
            residual = shortcut->pre;
        }
        QNET__TRY(qnet__unit_infer(r, first, batch, *map, NULL, first->pre));
        QNET__TRY(qnet__unit_infer(r, second, batch, first->pre, residual, second->out));
        *map = second->out;
        return QNET_OK;
    }
    QNET__TRY(qnet__unit_train(r, first, batch, &x));
    middle = qnet__unit_normalised(first);
    QNET__TRY(qnet__unit_train(r, second, batch, &middle));
    x = qnet__source_plain(second->pre);
    sum = qnet__unit_sink(second, 1, second->out);
    sum.residual = *map;
    if (shortcut != NULL) {
        qnet__source from = qnet__source_plain(*map);
        QNET__TRY(qnet__unit_train(r, shortcut, batch, &from));
        sum.residual = shortcut->pre;
        sum.residual_mean = shortcut->mean, sum.residual_scale = shortcut->scale;
        sum.residual_beta = shortcut->beta;
    }
    qnet__pass(r->net.ctx, &x, &sum, qnet__unit_count(second, batch) /
                                         (size_t)second->conv.out_channels,
               (size_t)second->conv.out_channels);
    qnet__unit_trace(r, second, batch, "", second->out_name, second->out);
    *map = second->out;
    return QNET_OK;
}

/* The stem, its norm and ReLU, and pooling, from x to r->pool. In training, pooling itself
   normalises what it reads, and keeps who won. */
static qnet_status qnet__resnet_stem(qnet__resnet_state *r, int batch, int train,
                                     const qnet_real *x)
{
    qnet__unit *stem = &r->unit[0];
    const qnet__source source = qnet__source_plain(x);
    qnet__maxpool pool;

    QNET__TRY(qnet__maxpool_plan(r->net.ctx, "resnet forward", batch,
                                 qnet_conv2d_out_height(&stem->conv),
                                 qnet_conv2d_out_width(&stem->conv), 64, 1, &pool));
    if (train) {
        QNET__TRY(qnet__unit_train(r, stem, batch, &source));
        pool.x = qnet__unit_normalised(stem);
        pool.argmax = r->argmax;
        if (r->net.ctx->hooks.trace.tensor != NULL) {
            qnet__unit_trace(r, stem, batch, "", stem->out_name,
                             qnet__source_map(r->net.ctx, &pool.x,
                                              qnet__unit_count(stem, batch) / 64, 64, stem->out));
        }
    } else {
        QNET__TRY(qnet__unit_infer(r, stem, batch, x, NULL, stem->pre));
        pool.x = qnet__source_plain(stem->pre);
    }
    pool.y = r->pool;
    qnet__maxpool_run(r->net.ctx, &pool, (size_t)batch);
    qnet__trace(r->net.ctx, "maxpool", r->pool, 4, (size_t)batch, (size_t)r->pool_h,
                (size_t)r->pool_w, 64);
    return QNET_OK;
}

/* x[batch][height][width][channels] through the list at the head of this room. Every image by
   itself when train is 0: its bits are the same in any batch and with either kind of memory plan.
   Between networks they are the same if the largest batch of both is 16 or more: below that, the
   deepest maps have too few tiles for Winograd's form. With train = 1 the norms tie the images of
   a batch together. */
QNET_API qnet_status qnet_resnet_forward(qnet_resnet *net, const qnet_real *x, int batch, int train,
                                         qnet_real *logits, qnet_real *features)
{
    qnet__resnet_state *r;
    qnet_context *ctx;
    const qnet_real *map;
    const qnet_conv2d *last;
    const qnet_real *fc_weight, *fc_bias;
    int b, classes;
    size_t pixels;

    if (net == NULL || x == NULL) {
        return qnet__fail(net ? net->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "resnet forward: net or x is NULL");
    }
    ctx = net->ctx;
    r = net->state;
    classes = net->config.classes;
    last = &r->unit[r->block[QNET__RESBLOCKS - 1].second].conv;
    pixels = (size_t)qnet_conv2d_out_height(last) * (size_t)qnet_conv2d_out_width(last);
    if (batch < 1 || batch > net->config.batch) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "resnet forward: batch must be 1..%d, found %d",
                          net->config.batch, batch);
    }
    if (train && !net->config.training) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "resnet forward: train = 1 needs a network created with training = 1");
    }
    if (train && (size_t)batch * pixels < 2) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "resnet forward: batch 1 of %d x %d leaves layer4 one value per channel, "
                          "which has no variance; expected a larger batch or image",
                          net->config.height, net->config.width);
    }
    r->trained = r->batch = 0; /* until this pass has succeeded there is nothing to go back from */

    QNET__TRY(qnet__resnet_stem(r, batch, train, x));
    map = r->pool;
    for (b = 0; b < QNET__RESBLOCKS; b++) {
        QNET__TRY(qnet__resblock_forward(r, &r->block[b], batch, train, &map));
    }
    /* logits = fc.weight features + fc.bias, features = mean over the pixels of map. */
    QNET__TRY(qnet_avgpool_forward(ctx, batch, pixels, QNET_FEATURES, map, r->features));
    qnet__trace(ctx, "avgpool", r->features, 2, (size_t)batch, QNET_FEATURES, 1, 1);
    fc_weight = net->weights + r->params[QNET__RESNET_TRAINED - 2].offset;
    fc_bias = net->weights + r->params[QNET__RESNET_TRAINED - 1].offset;
    QNET__TRY(qnet_dense_forward(ctx, (size_t)batch, QNET_FEATURES, classes, r->features, fc_weight,
                                 fc_bias, r->logits, r->scratch));
    qnet__trace(ctx, "fc", r->logits, 2, (size_t)batch, (size_t)classes, 1, 1);

    r->batch = batch;
    r->trained = train ? batch : 0;
    if (logits != NULL) {
        memcpy(logits, r->logits, (size_t)batch * (size_t)classes * sizeof(qnet_real));
    }
    if (features != NULL) {
        memcpy(features, r->features, (size_t)batch * QNET_FEATURES * sizeof(qnet_real));
    }
    return QNET_OK;
}

/* With g the gradient of norm(pre) and d = pre - mean, from sum g and sum g d (r->total):
       dbeta = sum g,  dgamma = rstd sum g d,
       dpre = scale (g - shift - d slope),  shift = sum g / rows,  slope = rstd^2 sum g d / rows.
   Ioffe & Szegedy 2015, section 3, as in qnet_batchnorm_backward. */
static void qnet__unit_gradient(qnet__resnet_state *r, qnet__unit *unit, int batch,
                                const qnet__sink *sums)
{
    size_t n = (size_t)unit->conv.out_channels, c;
    double rows = (double)(qnet__unit_count(unit, batch) / n);

    qnet__sink_totals(r->net.ctx, sums, n, r->total[0], r->total[1]);
    for (c = 0; c < n; c++) {
        double rstd = (double)unit->rstd[c], sum_g = r->total[0][c], sum_gd = r->total[1][c];
        unit->dbeta[c] = (qnet_real)sum_g;
        unit->dgamma[c] = (qnet_real)(rstd * sum_gd);
        unit->shift[c] = (qnet_real)(sum_g / rows);
        unit->slope[c] = (qnet_real)(rstd * rstd * sum_gd / rows);
    }
}

/* dpre of a unit, for whoever reads it, from the gradient g of its norm. */
static qnet__source qnet__unit_dpre(const qnet__unit *unit, const qnet_real *g)
{
    qnet__source s = qnet__source_plain(g);
    s.kind = QNET__SOURCE_GRADIENT;
    s.pre = unit->pre, s.mean = unit->mean, s.scale = unit->scale;
    s.shift = unit->shift, s.slope = unit->slope;
    return s;
}

/* Where the gradient of a unit's norm goes, with the sums that qnet__unit_gradient wants. */
static qnet__sink qnet__unit_dnorm(const qnet__resnet_state *r, const qnet__unit *unit,
                                   qnet_real *g)
{
    qnet__sink s = r->sums;
    s.kind = QNET__SINK_GRADIENT;
    s.y = g;
    s.pre = unit->pre, s.mean = unit->mean;
    return s;
}

/* dw of a unit and, unless sink is NULL, sink <- the gradient of its input x, from the gradient g
   of its norm. temp: where dpre may be worked out; g itself, if nobody needs it any more. */
static qnet_status qnet__unit_backward(qnet__resnet_state *r, qnet__unit *unit, int batch,
                                       const qnet__source *x, const qnet_real *g, qnet_real *temp,
                                       qnet__sink *sink, int add)
{
    const qnet__source dpre = qnet__unit_dpre(unit, g);
    const qnet__sink plain = qnet__sink_plain(NULL);
    qnet_conv2d conv = unit->conv;

    conv.batch = batch;
    qnet__unit_trace(r, unit, batch, "grad ",
                     unit->relu ? unit->norm_name : unit->out_name, g);
    QNET__TRY(qnet__unit_trace_made(r, unit, batch, "grad ", unit->conv_name, &dpre, &plain));
    return qnet__conv_backward(r->net.ctx, unit->way, &conv, x, unit->w, &dpre, sink, add, unit->dw,
                               r->temp[0], temp, r->scratch);
}

/* Backward of block b, out = ReLU(second(first(x)) + shortcut(x)). r->dout[b] holds the gradient of
   the sum inside the ReLU, and second's norm knows its sums; both are left so for the block before
   it, `previous` (NULL: what comes before is not a block): dx goes to r->dout[b - 1], or r->dpool.
   r->dout[b] is lost. */
static qnet_status qnet__resblock_backward(qnet__resnet_state *r, int b, int batch,
                                           const qnet_real *map, qnet__unit *previous)
{
    const qnet__resblock *block = &r->block[b];
    qnet__unit *first = &r->unit[block->first], *second = &r->unit[block->second];
    qnet_context *ctx = r->net.ctx;
    qnet_real *dout = r->dout[b], *dx = b > 0 ? r->dout[b - 1] : r->dpool;
    const qnet__source x = qnet__source_plain(map), middle = qnet__unit_normalised(first);
    const qnet__source gradient = qnet__source_plain(dout);
    qnet__sink dfirst = qnet__unit_dnorm(r, first, r->dfirst[b]), dmap = r->sums;

    /* Forward: sum = norm2(conv2(ReLU(norm1(pre1)))) + ...; the mask is that of the inner ReLU. */
    dfirst.scale = first->scale, dfirst.beta = first->beta;
    QNET__TRY(qnet__unit_backward(r, second, batch, &middle, dout, r->temp[1], &dfirst, 0));
    qnet__unit_gradient(r, first, batch, &dfirst);

    /* The gradient of the map: two paths add up; then the mask of the ReLU that made the map, which
       pooling has not, and the sums of the norm inside it. */
    if (previous != NULL) {
        dmap = qnet__unit_dnorm(r, previous, dx);
        dmap.mask = map;
    }
    dmap.kind = QNET__SINK_GRADIENT;
    dmap.y = dx;
    if (block->shortcut < 0) {
        /* Forward: residual = x. */
        dmap.residual = dout;
        QNET__TRY(qnet__unit_backward(r, first, batch, &x, r->dfirst[b], r->dfirst[b], &dmap, 0));
    } else {
        /* Forward: residual = norm(conv(x)). */
        qnet__unit *shortcut = &r->unit[block->shortcut];
        const size_t n = (size_t)shortcut->conv.out_channels;
        const size_t in = (size_t)first->conv.in_channels;
        qnet__sink sums = qnet__unit_dnorm(r, shortcut, NULL), plain = qnet__sink_plain(dx);
        qnet__source both;
        QNET__TRY(qnet__unit_backward(r, first, batch, &x, r->dfirst[b], r->dfirst[b], &plain, 0));
        qnet__pass(ctx, &gradient, &sums, qnet__unit_count(shortcut, batch) / n, n);
        qnet__unit_gradient(r, shortcut, batch, &sums);
        QNET__TRY(qnet__unit_backward(r, shortcut, batch, &x, dout, dout, &plain, 1));
        both = qnet__source_plain(dx);
        qnet__pass(ctx, &both, &dmap, (size_t)batch * (size_t)first->conv.height *
                                          (size_t)first->conv.width, in);
    }
    if (previous != NULL) {
        qnet__unit_gradient(r, previous, batch, &dmap);
    }
    return QNET_OK;
}

/* From the gradient r->dpool of the pooled map to the stem's. The mask of the ReLU is in r->argmax:
   where it cut the maximum, nobody has won. */
static qnet_status qnet__resnet_stem_backward(qnet__resnet_state *r, int batch, const qnet_real *x)
{
    qnet__unit *stem = &r->unit[0];
    const qnet__source source = qnet__source_plain(x), g = qnet__source_plain(r->stem_grad);
    qnet__sink again = qnet__sink_plain(stem->pre), sums = qnet__unit_dnorm(r, stem, NULL);
    qnet_conv2d conv = stem->conv;

    qnet__trace(r->net.ctx, "grad maxpool", r->dpool, 4, (size_t)batch, (size_t)r->pool_h,
                (size_t)r->pool_w, 64);
    /* Forward: pool = maxpool(ReLU(norm)), norm = norm(pre), pre = conv(x). */
    QNET__TRY(qnet_maxpool_backward(r->net.ctx, batch, qnet_conv2d_out_height(&conv),
                                    qnet_conv2d_out_width(&conv), 64, r->argmax, r->dpool,
                                    r->stem_grad));
    conv.batch = batch;
    QNET__TRY(qnet__conv_forward(r->net.ctx, stem->way, &conv, &source, stem->w, NULL, &again, NULL,
                                 r->scratch));
    qnet__pass(r->net.ctx, &g, &sums, qnet__unit_count(stem, batch) / 64, 64);
    qnet__unit_gradient(r, stem, batch, &sums);
    return qnet__unit_backward(r, stem, batch, &source, r->stem_grad, r->stem_grad, NULL, 0);
}

/* Walks the list backwards from dlogits[batch][classes]. What the forward pass kept is used up. */
QNET_API qnet_status qnet_resnet_backward(qnet_resnet *net, const qnet_real *x, int batch,
                                          const qnet_real *dlogits)
{
    qnet__resnet_state *r;
    qnet_context *ctx;
    const qnet_param *fc;
    qnet__unit *last;
    qnet__source gradient;
    qnet__sink sink;
    size_t pixels;
    int b, classes;

    if (net == NULL || x == NULL || dlogits == NULL) {
        return qnet__fail(net ? net->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "resnet backward: net, x or dlogits is NULL");
    }
    ctx = net->ctx;
    r = net->state;
    if (r->trained == 0) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "resnet backward: expected a forward pass with train = 1 just before");
    }
    if (r->trained != batch) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "resnet backward: expected the forward pass's batch of %d, found %d",
                          r->trained, batch);
    }
    r->trained = r->batch = 0; /* what the forward pass kept is used up below */
    classes = net->config.classes;
    last = &r->unit[r->block[QNET__RESBLOCKS - 1].second];
    pixels = qnet__unit_count(last, 1) / QNET_FEATURES;
    fc = &r->params[QNET__RESNET_TRAINED - 2];

    /* Forward: logits = features fc.weight^T + fc.bias. */
    qnet__trace(ctx, "grad fc", dlogits, 2, (size_t)batch, (size_t)classes, 1, 1);
    QNET__TRY(qnet_dense_backward(ctx, (size_t)batch, QNET_FEATURES, classes, r->features,
                                  net->weights + fc[0].offset, dlogits, r->dfeatures,
                                  net->gradients + fc[0].offset, net->gradients + fc[1].offset,
                                  r->scratch));
    /* Forward: features = mean over pixels of the last block's output. */
    qnet__trace(ctx, "grad avgpool", r->dfeatures, 2, (size_t)batch, QNET_FEATURES, 1, 1);
    QNET__TRY(qnet_avgpool_backward(ctx, batch, pixels, QNET_FEATURES, r->dfeatures,
                                    r->dout[QNET__RESBLOCKS - 1]));
    /* Forward: that output = ReLU(norm + shortcut). */
    gradient = qnet__source_plain(r->dout[QNET__RESBLOCKS - 1]);
    sink = qnet__unit_dnorm(r, last, r->dout[QNET__RESBLOCKS - 1]);
    sink.mask = last->out;
    qnet__pass(ctx, &gradient, &sink, (size_t)batch * pixels, QNET_FEATURES);
    qnet__unit_gradient(r, last, batch, &sink);
    for (b = QNET__RESBLOCKS - 1; b >= 0; b--) {
        qnet__unit *previous = b > 0 ? &r->unit[r->block[b - 1].second] : NULL;
        QNET__TRY(qnet__resblock_backward(r, b, batch, b > 0 ? previous->out : r->pool, previous));
    }
    return qnet__resnet_stem_backward(r, batch, x);
}

/* ============================================================================================
   >>scan
   The scan-level model (paper, "Stage 2", Fig. 4): a bidirectional LSTM over the features of a
   scan's slices, and two fully connected heads on its outputs y[batch][steps][2 hidden]: the image
   head on each step, the scan head on all steps of a scan side by side. Padded steps are zero in y
   and have no image loss. PyTorch's LSTM has two biases per gate; both are kept and trained, so
   that files and training agree with it, and their sum is what the layer sees.
   ============================================================================================ */

#define QNET__SUM_CHUNK ((size_t)1 << 15)
typedef struct qnet__sum_job { size_t count; const qnet_real *x; qnet_real *y; } qnet__sum_job;

/* y += x over one chunk. Each element is one addition, so chunks change no bits. */
static void qnet__sum_task(void *arg, size_t index, size_t worker)
{
    const qnet__sum_job *job = (const qnet__sum_job *)arg;
    const qnet_real *QNET__RESTRICT x = job->x;
    qnet_real *QNET__RESTRICT y = job->y;
    size_t i, start = index * QNET__SUM_CHUNK;
    size_t end = qnet__min_size(start + QNET__SUM_CHUNK, job->count);

    QNET__UNUSED(worker);
    for (i = start; i < end; i++) {
        y[i] += x[i];
    }
}

/* y[count] += x[count]: where two paths of the network part, their gradients add up. */
static void qnet__sum(qnet_context *ctx, size_t count, const qnet_real *x, qnet_real *y)
{
    qnet__sum_job job;
    job.count = count;
    job.x = x;
    job.y = y;
    qnet__parallel(ctx, (count + QNET__SUM_CHUNK - 1) / QNET__SUM_CHUNK, qnet__sum_task, &job);
}

/* Entries of the table; direction 1, the backward one, has its four after those of direction 0. */
#define QNET__SCAN_WEIGHT_IH 0
#define QNET__SCAN_WEIGHT_HH 1
#define QNET__SCAN_BIAS_IH 2
#define QNET__SCAN_BIAS_HH 3
#define QNET__SCAN_DIRECTION 4 /* entries per direction */
#define QNET__SCAN_IMAGE_HEAD 8 /* weight, bias */
#define QNET__SCAN_SCAN_HEAD 10
#define QNET__SCAN_PARAMS 12

typedef struct qnet__scan_state {
    qnet_scan_model model; /* first, so that a pointer to it is the start of the block */
    qnet_param_table table;
    qnet_param *params;
    qnet_real *bias[2];      /* [4 hidden] per direction: bias_ih + bias_hh */
    qnet_real *y, *dy;       /* [batch][steps][2 hidden]: the LSTM's output */
    qnet_real *dy_scan;      /* like y: the scan head's share of dy */
    qnet_real *saved;        /* of the LSTM, for its backward pass */
    qnet_real *image_logits; /* [batch][steps][classes] */
    qnet_real *scan_logits;  /* [batch][classes] */
    qnet_real *dimage, *dscan; /* gradients of the two */
    int *image_label;        /* [batch][steps] */
    void *scratch;
    int batch; /* of the last forward pass; 0: none */
} qnet__scan_state;

/* The shape of the LSTM layer for this batch. */
static qnet_lstm qnet__scan_lstm(const qnet_scan_config *config, int batch)
{
    qnet_lstm shape;
    shape.batch = batch;
    shape.steps = config->steps;
    shape.in = config->features;
    shape.hidden = config->hidden;
    return shape;
}

/* Fills the table p[QNET__SCAN_PARAMS]; returns the numbers in the block, all of them trained. */
static size_t qnet__scan_table(const qnet_scan_config *config, qnet_param *p)
{
    static const char *const suffix[2][4] = {
        {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"},
        {"weight_ih_l0_reverse", "weight_hh_l0_reverse", "bias_ih_l0_reverse",
         "bias_hh_l0_reverse"}};
    size_t in = (size_t)config->features, hidden = (size_t)config->hidden, gates = 4 * hidden;
    size_t classes = (size_t)config->classes, at = 0;
    int d;

    for (d = 0; d < 2; d++) {
        at = qnet__param_set(p++, "lstm", suffix[d][0], 2, gates, in, 1, 1, 1, at);
        at = qnet__param_set(p++, "lstm", suffix[d][1], 2, gates, hidden, 1, 1, 1, at);
        at = qnet__param_set(p++, "lstm", suffix[d][2], 1, gates, 1, 1, 1, 1, at);
        at = qnet__param_set(p++, "lstm", suffix[d][3], 1, gates, 1, 1, 1, 1, at);
    }
    at = qnet__param_set(p++, "image_head", "weight", 2, classes, 2 * hidden, 1, 1, 1, at);
    at = qnet__param_set(p++, "image_head", "bias", 1, classes, 1, 1, 1, 1, at);
    at = qnet__param_set(p++, "scan_head", "weight", 2, classes,
                         (size_t)config->steps * 2 * hidden, 1, 1, 1, at);
    return qnet__param_set(p, "scan_head", "bias", 1, classes, 1, 1, 1, 1, at);
}

/* Carves the whole model from an arena; with base NULL it only measures. */
static void qnet__scan_plan(qnet_context *ctx, const qnet_scan_config *config, qnet__arena *arena,
                            qnet__scan_state *s)
{
    qnet_param table[QNET__SCAN_PARAMS];
    qnet_lstm shape = qnet__scan_lstm(config, config->batch);
    size_t real = sizeof(qnet_real), classes = (size_t)config->classes;
    size_t rows = (size_t)config->batch * (size_t)config->steps;
    size_t width = 2 * (size_t)config->hidden, scratch = 0;
    int batch, in = config->steps * 2 * config->hidden;

    memset(s, 0, sizeof *s);
    memset(table, 0, sizeof table);
    qnet__take(arena, 1, sizeof *s); /* the state itself, copied to the block's start at the end */
    s->table.network = "qnet-scan";
    s->table.count = QNET__SCAN_PARAMS;
    s->table.trainable = s->table.total = qnet__scan_table(config, table);
    s->params = (qnet_param *)qnet__take(arena, QNET__SCAN_PARAMS, sizeof(qnet_param));
    if (s->params != NULL) {
        memcpy(s->params, table, sizeof table);
    }
    s->table.entries = s->params;
    s->model.weights = (qnet_real *)qnet__take(arena, s->table.total, real);
    s->bias[0] = (qnet_real *)qnet__take(arena, 2 * width, real);
    s->bias[1] = (qnet_real *)qnet__take(arena, 2 * width, real);
    s->y = (qnet_real *)qnet__take(arena, rows * width, real);
    s->saved = (qnet_real *)qnet__take(arena, qnet_lstm_saved(&shape), real);
    s->image_logits = (qnet_real *)qnet__take(arena, rows * classes, real);
    s->scan_logits = (qnet_real *)qnet__take(arena, (size_t)config->batch * classes, real);
    s->image_label = (int *)qnet__take(arena, rows, sizeof(int));
    if (config->training) {
        s->model.gradients = (qnet_real *)qnet__take(arena, s->table.total, real);
        s->dy = (qnet_real *)qnet__take(arena, rows * width, real);
        s->dy_scan = (qnet_real *)qnet__take(arena, rows * width, real);
        s->dimage = (qnet_real *)qnet__take(arena, rows * classes, real);
        s->dscan = (qnet_real *)qnet__take(arena, (size_t)config->batch * classes, real);
    }
    /* Every batch size is asked for, as in qnet__resnet_scratch. */
    for (batch = 1; batch <= config->batch; batch++) {
        shape.batch = batch;
        rows = (size_t)batch * (size_t)config->steps;
        scratch = qnet__max_size(scratch, qnet_lstm_scratch(ctx, &shape));
        scratch = qnet__max_size(scratch, qnet_dense_scratch(ctx, rows, 2 * config->hidden,
                                                             config->classes));
        scratch = qnet__max_size(scratch, qnet_dense_scratch(ctx, (size_t)batch, in,
                                                             config->classes));
    }
    s->scratch = qnet__take(arena, scratch, 1);
}

/* The limits lie far above any use, so that no product of sizes inside a layer overflows. */
static qnet_status qnet__scan_check_config(qnet_context *ctx, const qnet_scan_config *config)
{
    const int value[5] = {config->features, config->hidden, config->steps, config->classes,
                          config->batch};
    static const char *const name[5] = {"features", "hidden", "steps", "classes", "batch"};
    size_t count, width;
    int i;

    for (i = 0; i < 5; i++) {
        if (value[i] < 1 || value[i] > 4096) {
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "scan model: %s must be 1..4096, found %d",
                              name[i], value[i]);
        }
    }
    /* No tensor of a batch is larger than this, nor is any weight matrix. */
    width = (size_t)config->features + 64 * (size_t)config->hidden + 16 * (size_t)config->classes;
    count = (size_t)qnet__max_int(config->batch, 4 * config->hidden) * sizeof(double);
    if (!qnet__mul(count, (size_t)config->steps, &count) || !qnet__mul(count, width, &count)) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "scan model: %d scans of %d steps do not fit",
                          config->batch, config->steps);
    }
    return QNET_OK;
}

QNET_API void qnet_scan_config_init(qnet_scan_config *config)
{
    config->features = QNET_FEATURES;
    config->hidden = 256;
    config->steps = 24;
    config->classes = QNET_CLASSES;
    config->batch = 64;
    config->training = 1;
}

QNET_API size_t qnet_scan_model_bytes(qnet_context *ctx, const qnet_scan_config *config)
{
    qnet__arena arena = {NULL, 0};
    qnet__scan_state s;

    if (ctx == NULL || config == NULL || qnet__scan_check_config(ctx, config) != QNET_OK) {
        return 0;
    }
    qnet__scan_plan(ctx, config, &arena, &s);
    return arena.at == (size_t)-1 ? 0 : arena.at;
}

/* One allocation, as qnet_resnet_create. Weights and gradients are zero until qnet_scan_model_init
   or a weights file fills them. */
QNET_API qnet_status qnet_scan_model_create(qnet_context *ctx, const qnet_scan_config *config,
                                            qnet_scan_model **out)
{
    qnet__arena arena = {NULL, 0};
    qnet__scan_state s, *self;
    size_t bytes;

    if (ctx == NULL || config == NULL || out == NULL) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "scan model: ctx, config or out is NULL");
    }
    QNET__TRY(qnet__scan_check_config(ctx, config));
    bytes = qnet_scan_model_bytes(ctx, config);
    if (bytes == 0) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "scan model: it does not fit into memory");
    }
    arena.base = (unsigned char *)qnet__alloc(ctx, bytes);
    if (arena.base == NULL) {
        return qnet__no_memory(ctx, bytes, "the scan model");
    }
    qnet__scan_plan(ctx, config, &arena, &s);
    self = (qnet__scan_state *)(void *)arena.base;
    s.model.ctx = ctx;
    s.model.config = *config;
    s.model.table = &self->table;
    s.model.bytes = bytes;
    s.model.state = self;
    memset(s.model.weights, 0, s.table.total * sizeof(qnet_real));
    if (s.model.gradients != NULL) {
        memset(s.model.gradients, 0, s.table.total * sizeof(qnet_real));
    }
    *self = s;
    *out = &self->model;
    return QNET_OK;
}

QNET_API void qnet_scan_model_destroy(qnet_scan_model *model)
{
    if (model != NULL) {
        qnet__free(model->ctx, model->state, model->bytes);
    }
}

/* PyTorch's defaults: everything of the LSTM U(+-1/sqrt(hidden)), of a head U(+-1/sqrt(in)). */
QNET_API void qnet_scan_model_init(qnet_scan_model *model, uint64_t seed)
{
    const qnet_scan_config *config = &model->config;
    int i;

    for (i = 0; i < model->table->count; i++) {
        const qnet_param *p = &model->table->entries[i];
        qnet_rng rng = qnet_rng_at(seed, QNET_RANDOM_INIT_SCAN, 0, (uint64_t)i);
        double fan = i < QNET__SCAN_IMAGE_HEAD  ? config->hidden
                     : i < QNET__SCAN_SCAN_HEAD ? 2 * config->hidden
                                                : config->steps * 2 * config->hidden;
        double bound = 1.0 / sqrt(fan);
        size_t j;
        for (j = 0; j < p->count; j++) {
            model->weights[p->offset + j] = (qnet_real)qnet_rng_range(&rng, -bound, bound);
        }
    }
}

/* Entry i of the table in `block`: the weights or the gradients. */
static qnet_real *qnet__scan_entry(const qnet__scan_state *s, qnet_real *block, int i)
{
    return block + s->params[i].offset;
}

/* The LSTM's weights as the layer wants them, the two biases of a direction summed. */
static qnet_lstm_weights qnet__scan_weights(qnet__scan_state *s)
{
    qnet_lstm_weights w;
    int d, i;

    for (d = 0; d < 2; d++) {
        int first = d * QNET__SCAN_DIRECTION;
        const qnet_real *ih = qnet__scan_entry(s, s->model.weights, first + QNET__SCAN_BIAS_IH);
        const qnet_real *hh = qnet__scan_entry(s, s->model.weights, first + QNET__SCAN_BIAS_HH);
        for (i = 0; i < 4 * s->model.config.hidden; i++) {
            s->bias[d][i] = ih[i] + hh[i];
        }
        w.w[d] = qnet__scan_entry(s, s->model.weights, first + QNET__SCAN_WEIGHT_IH);
        w.u[d] = qnet__scan_entry(s, s->model.weights, first + QNET__SCAN_WEIGHT_HH);
        w.b[d] = s->bias[d];
    }
    return w;
}

/* batch in 1..config.batch and length[batch] in 1..config.steps. */
static qnet_status qnet__scan_check_batch(const qnet_scan_model *model, const int *length,
                                          int batch)
{
    int b;

    if (batch < 1 || batch > model->config.batch) {
        return qnet__fail(model->ctx, QNET_ERROR_ARGUMENT,
                          "scan model: batch must be 1..%d, found %d", model->config.batch, batch);
    }
    for (b = 0; b < batch; b++) {
        if (length[b] < 1 || length[b] > model->config.steps) {
            return qnet__fail(model->ctx, QNET_ERROR_ARGUMENT,
                              "scan model: length[%d] must be 1..%d, found %d", b,
                              model->config.steps, length[b]);
        }
    }
    return QNET_OK;
}

/* Sets t[batch][steps][width] to zero at the steps beyond each scan's length. */
static void qnet__scan_clear_padding(const qnet_scan_config *config, const int *length, int batch,
                                     int width, qnet_real *t)
{
    size_t steps = (size_t)config->steps, w = (size_t)width;
    int b;

    for (b = 0; b < batch; b++) {
        size_t used = (size_t)length[b];
        memset(t + ((size_t)b * steps + used) * w, 0, (steps - used) * w * sizeof(qnet_real));
    }
}

/* x[batch][steps][features], y[batch][steps][2 hidden] = BiLSTM(x), Eqs. (1)-(5) of the paper;
   image_logits[batch][steps][classes] = y image_head^T + bias at each step;
   scan_logits[batch][classes] = [y_1 ... y_steps] scan_head^T + bias, the steps side by side. The
   paper leaves open what stands at the steps that a short scan lacks: here y is zero there. */
QNET_API qnet_status qnet_scan_model_forward(qnet_scan_model *model, const qnet_real *x,
                                             const int *length, int batch, qnet_real *image_logits,
                                             qnet_real *scan_logits)
{
    qnet__scan_state *s;
    const qnet_scan_config *config;
    qnet_context *ctx;
    qnet_lstm shape;
    qnet_lstm_weights weights;
    const qnet_real *head;
    size_t rows, classes;
    int width;

    if (model == NULL || x == NULL || length == NULL) {
        return qnet__fail(model ? model->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "scan model forward: model, x or length is NULL");
    }
    ctx = model->ctx;
    s = model->state;
    config = &model->config;
    s->batch = 0;
    QNET__TRY(qnet__scan_check_batch(model, length, batch));
    rows = (size_t)batch * (size_t)config->steps;
    classes = (size_t)config->classes;
    width = 2 * config->hidden;
    shape = qnet__scan_lstm(config, batch);
    weights = qnet__scan_weights(s);

    QNET__TRY(qnet_lstm_forward(ctx, &shape, length, &weights, x, s->y, s->saved, s->scratch));
    qnet__trace(ctx, "lstm", s->y, 3, (size_t)batch, (size_t)config->steps, (size_t)width, 1);
    head = qnet__scan_entry(s, model->weights, QNET__SCAN_IMAGE_HEAD);
    QNET__TRY(qnet_dense_forward(ctx, rows, width, config->classes, s->y, head,
                                 head + classes * (size_t)width, s->image_logits, s->scratch));
    qnet__scan_clear_padding(config, length, batch, config->classes, s->image_logits);
    qnet__trace(ctx, "image_head", s->image_logits, 3, (size_t)batch, (size_t)config->steps,
                classes, 1);
    head = qnet__scan_entry(s, model->weights, QNET__SCAN_SCAN_HEAD);
    QNET__TRY(qnet_dense_forward(ctx, (size_t)batch, config->steps * width, config->classes, s->y,
                                 head, head + classes * (size_t)(config->steps * width),
                                 s->scan_logits, s->scratch));
    qnet__trace(ctx, "scan_head", s->scan_logits, 2, (size_t)batch, classes, 1, 1);

    s->batch = batch;
    if (image_logits != NULL) {
        memcpy(image_logits, s->image_logits, rows * classes * sizeof(qnet_real));
    }
    if (scan_logits != NULL) {
        memcpy(scan_logits, s->scan_logits, (size_t)batch * classes * sizeof(qnet_real));
    }
    return QNET_OK;
}

/* model->gradients from s->dimage[batch][steps][classes], zero at padded steps, and
   s->dscan[batch][classes]. The features are a frozen embedding's: no gradient of x is needed. */
static qnet_status qnet__scan_backward(qnet__scan_state *s, const qnet_real *x, const int *length,
                                       int batch)
{
    qnet_scan_model *model = &s->model;
    const qnet_scan_config *config = &model->config;
    qnet_context *ctx = model->ctx;
    size_t rows = (size_t)batch * (size_t)config->steps, classes = (size_t)config->classes;
    int d, width = 2 * config->hidden;
    qnet_lstm shape = qnet__scan_lstm(config, batch);
    qnet_lstm_weights weights = qnet__scan_weights(s);
    qnet_lstm_gradients gradients;
    qnet_real *dhead;

    /* Forward: scan_logits = [y_1 ... y_steps] scan_head^T + bias. */
    qnet__trace(ctx, "grad scan_head", s->dscan, 2, (size_t)batch, classes, 1, 1);
    dhead = qnet__scan_entry(s, model->gradients, QNET__SCAN_SCAN_HEAD);
    QNET__TRY(qnet_dense_backward(ctx, (size_t)batch, config->steps * width, config->classes, s->y,
                                  qnet__scan_entry(s, model->weights, QNET__SCAN_SCAN_HEAD),
                                  s->dscan, s->dy_scan, dhead,
                                  dhead + classes * (size_t)(config->steps * width), s->scratch));
    /* Forward: image_logits = y image_head^T + bias, then zero at padded steps. */
    qnet__trace(ctx, "grad image_head", s->dimage, 3, (size_t)batch, (size_t)config->steps, classes,
                1);
    dhead = qnet__scan_entry(s, model->gradients, QNET__SCAN_IMAGE_HEAD);
    QNET__TRY(qnet_dense_backward(ctx, rows, width, config->classes, s->y,
                                  qnet__scan_entry(s, model->weights, QNET__SCAN_IMAGE_HEAD),
                                  s->dimage, s->dy, dhead, dhead + classes * (size_t)width,
                                  s->scratch));
    /* Both heads read y; at padded steps y is zero whatever the weights, so nothing flows there. */
    qnet__sum(ctx, rows * (size_t)width, s->dy_scan, s->dy);
    qnet__scan_clear_padding(config, length, batch, width, s->dy);
    qnet__trace(ctx, "grad lstm", s->dy, 3, (size_t)batch, (size_t)config->steps, (size_t)width, 1);
    /* Forward: y = BiLSTM(x), its bias = bias_ih + bias_hh: both have the sum's gradient. */
    for (d = 0; d < 2; d++) {
        int first = d * QNET__SCAN_DIRECTION;
        gradients.w[d] = qnet__scan_entry(s, model->gradients, first + QNET__SCAN_WEIGHT_IH);
        gradients.u[d] = qnet__scan_entry(s, model->gradients, first + QNET__SCAN_WEIGHT_HH);
        gradients.b[d] = qnet__scan_entry(s, model->gradients, first + QNET__SCAN_BIAS_IH);
    }
    QNET__TRY(qnet_lstm_backward(ctx, &shape, length, &weights, x, s->y, s->saved, s->dy, NULL,
                                 &gradients, s->scratch));
    for (d = 0; d < 2; d++) {
        int first = d * QNET__SCAN_DIRECTION;
        memcpy(qnet__scan_entry(s, model->gradients, first + QNET__SCAN_BIAS_HH), gradients.b[d],
               2 * (size_t)width * sizeof(qnet_real));
    }
    return QNET_OK;
}

/* dimage_logits[batch][steps][classes], dscan_logits[batch][classes]; at padded steps the image
   logits are constant, so what the caller has there is left out. */
QNET_API qnet_status qnet_scan_model_backward(qnet_scan_model *model, const qnet_real *x,
                                              const int *length, int batch,
                                              const qnet_real *dimage_logits,
                                              const qnet_real *dscan_logits)
{
    qnet__scan_state *s;
    const qnet_scan_config *config;
    size_t classes;

    if (model == NULL || x == NULL || length == NULL || dimage_logits == NULL ||
        dscan_logits == NULL) {
        return qnet__fail(model ? model->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "scan model backward: an argument is NULL");
    }
    s = model->state;
    config = &model->config;
    if (!config->training) {
        return qnet__fail(model->ctx, QNET_ERROR_ARGUMENT,
                          "scan model backward: needs a model created with training = 1");
    }
    if (s->batch == 0 || s->batch != batch) {
        return qnet__fail(model->ctx, QNET_ERROR_ARGUMENT,
                          "scan model backward: expected the batch of the last forward pass, %d, "
                          "found %d", s->batch, batch);
    }
    QNET__TRY(qnet__scan_check_batch(model, length, batch));
    classes = (size_t)config->classes;
    memcpy(s->dimage, dimage_logits,
           (size_t)batch * (size_t)config->steps * classes * sizeof(qnet_real));
    memcpy(s->dscan, dscan_logits, (size_t)batch * classes * sizeof(qnet_real));
    qnet__scan_clear_padding(config, length, batch, config->classes, s->dimage);
    return qnet__scan_backward(s, x, length, batch);
}

/* loss = CE(scan) + CE(image), each a mean: over scans, and over all their slices, which have
   their scan's label: label -1 leaves padded steps out. The paper has both heads trained with
   cross-entropy and says no more; the weights 1:1 are this library's choice. */
QNET_API qnet_status qnet_scan_model_loss(qnet_scan_model *model, const qnet_real *x,
                                          const int *length, const int *scan_label, int batch,
                                          double *image_loss, double *scan_loss, int backward)
{
    qnet__scan_state *s;
    const qnet_scan_config *config;
    double image, scan;
    int b, t;

    if (model == NULL || x == NULL || length == NULL || scan_label == NULL || image_loss == NULL ||
        scan_loss == NULL) {
        return qnet__fail(model ? model->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "scan model loss: an argument is NULL");
    }
    s = model->state;
    config = &model->config;
    if (backward && !config->training) {
        return qnet__fail(model->ctx, QNET_ERROR_ARGUMENT,
                          "scan model loss: backward needs a model created with training = 1");
    }
    QNET__TRY(qnet_scan_model_forward(model, x, length, batch, NULL, NULL));
    for (b = 0; b < batch; b++) {
        for (t = 0; t < config->steps; t++) {
            s->image_label[b * config->steps + t] = t < length[b] ? scan_label[b] : -1;
        }
    }
    QNET__TRY(qnet_cross_entropy(model->ctx, (size_t)batch, config->classes, s->scan_logits,
                                 scan_label, &scan, backward ? s->dscan : NULL));
    QNET__TRY(qnet_cross_entropy(model->ctx, (size_t)batch * (size_t)config->steps,
                                 config->classes, s->image_logits, s->image_label, &image,
                                 backward ? s->dimage : NULL));
    if (backward) {
        QNET__TRY(qnet__scan_backward(s, x, length, batch));
    }
    *image_loss = image;
    *scan_loss = scan;
    return QNET_OK;
}

/* ============================================================================================
   >>optim
   Adam (Kingma & Ba 2014), cosine annealing (Loshchilov & Hutter 2017) and the running average of
   stochastic weight averaging (Izmailov et al. 2018). All are loops over flat blocks, split into
   chunks of a fixed size.
   ============================================================================================ */

#define QNET__OPTIM_CHUNK ((size_t)1 << 15)

typedef struct qnet__adam_job {
    size_t count;
    qnet_real *p, *m, *v;
    const qnet_real *g;
    qnet_real b1, one_b1, b2, one_b2; /* one_b1 = 1 - b1, taken in double */
    qnet_real rate;                   /* learning_rate / (1 - b1^t) */
    qnet_real root;                   /* 1 / sqrt(1 - b2^t) */
    qnet_real eps;
} qnet__adam_job;

/* Adam on numbers start..end-1 (Kingma & Ba 2014, Algorithm 1), PyTorch's form, with eps outside
   the root: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2,
   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps). */
static void qnet__adam_ref(const qnet__adam_job *a, size_t start, size_t end)
{
    size_t i;

    for (i = start; i < end; i++) {
        qnet_real g = a->g[i];
        qnet_real m = a->b1 * a->m[i] + a->one_b1 * g;
        qnet_real v = a->b2 * a->v[i] + a->one_b2 * g * g;
        a->m[i] = m;
        a->v[i] = v;
        a->p[i] -= a->rate * m / ((qnet_real)sqrt((double)v) * a->root + a->eps);
    }
}

#if QNET__X86 && defined(__SSE2__)
/* Compilers do not vectorise sqrt, because it may set errno: this does, four numbers at a time,
   with the operations of the loop above. Every x86-64 has SSE2, and the step waits for memory. */
static void qnet__adam_sse2(const qnet__adam_job *a, size_t start, size_t end)
{
    const __m128 b1 = _mm_set1_ps(a->b1), one_b1 = _mm_set1_ps(a->one_b1);
    const __m128 b2 = _mm_set1_ps(a->b2), one_b2 = _mm_set1_ps(a->one_b2);
    const __m128 rate = _mm_set1_ps(a->rate), root = _mm_set1_ps(a->root);
    const __m128 eps = _mm_set1_ps(a->eps);
    size_t i;

    /* Loads and stores are unaligned: nothing says where a caller's block starts. */
    for (i = start; i + 4 <= end; i += 4) {
        __m128 g = _mm_loadu_ps(a->g + i), m = _mm_loadu_ps(a->m + i), v = _mm_loadu_ps(a->v + i);
        __m128 step;
        m = _mm_add_ps(_mm_mul_ps(b1, m), _mm_mul_ps(one_b1, g));
        v = _mm_add_ps(_mm_mul_ps(b2, v), _mm_mul_ps(_mm_mul_ps(one_b2, g), g));
        _mm_storeu_ps(a->m + i, m);
        _mm_storeu_ps(a->v + i, v);
        step = _mm_add_ps(_mm_mul_ps(_mm_sqrt_ps(v), root), eps);
        step = _mm_div_ps(_mm_mul_ps(rate, m), step);
        _mm_storeu_ps(a->p + i, _mm_sub_ps(_mm_loadu_ps(a->p + i), step));
    }
    qnet__adam_ref(a, i, end);
}
#endif

/* One chunk, by the fast form where there is one. */
static void qnet__adam_task(void *arg, size_t index, size_t worker)
{
    const qnet__adam_job *job = (const qnet__adam_job *)arg;
    size_t start = index * QNET__OPTIM_CHUNK;
    size_t end = qnet__min_size(start + QNET__OPTIM_CHUNK, job->count);

    QNET__UNUSED(worker);
#if QNET__X86 && defined(__SSE2__)
    qnet__adam_sse2(job, start, end);
#else
    qnet__adam_ref(job, start, end);
#endif
}

QNET_API void qnet_adam_config_init(qnet_adam_config *config)
{
    config->beta1 = 0.9;
    config->beta2 = 0.999;
    config->eps = 1e-8;
}

/* p, g, m, v[count]. The corrections 1 - b^t and all that hangs on them are taken in double, once a
   step; the loops over numbers run in qnet_real, as PyTorch's do. */
QNET_API void qnet_adam_step(qnet_context *ctx, const qnet_adam_config *config, size_t count,
                             qnet_real *p, const qnet_real *g, qnet_real *m, qnet_real *v,
                             double learning_rate, uint64_t t)
{
    qnet__adam_job job;

    job.count = count;
    job.p = p;
    job.g = g;
    job.m = m;
    job.v = v;
    job.b1 = (qnet_real)config->beta1;
    job.one_b1 = (qnet_real)(1.0 - config->beta1);
    job.b2 = (qnet_real)config->beta2;
    job.one_b2 = (qnet_real)(1.0 - config->beta2);
    job.rate = (qnet_real)(learning_rate / (1.0 - pow(config->beta1, (double)t)));
    job.root = (qnet_real)(1.0 / sqrt(1.0 - pow(config->beta2, (double)t)));
    job.eps = (qnet_real)config->eps;
    qnet__parallel(ctx, (count + QNET__OPTIM_CHUNK - 1) / QNET__OPTIM_CHUNK, qnet__adam_task, &job);
}

/* Half a cosine from eta_0 at epoch 0 to eta_min at `epochs`; constant before and after. Eq. (5) of
   Loshchilov & Hutter 2017, whose restarts the paper does not mention. */
QNET_API double qnet_cosine_rate(double eta_0, double eta_min, int epoch, int epochs)
{
    const double pi = 3.14159265358979323846;
    if (epoch <= 0) return eta_0;
    if (epoch >= epochs) return eta_min; /* no restart */
    return eta_min + (eta_0 - eta_min) * (1.0 + cos(pi * epoch / epochs)) / 2.0;
}

typedef struct qnet__swa_job {
    size_t count;
    qnet_real *average;
    const qnet_real *p;
    uint64_t n;
} qnet__swa_job;

/* average[n+1] = average[n] + (p - average[n]) / (n + 1): the mean of all p so far, Eq. in sec. 3.2
   of Izmailov et al. n = 0 copies, so that what stood in average does not matter, NaN included. */
static void qnet__swa_task(void *arg, size_t index, size_t worker)
{
    const qnet__swa_job *job = (const qnet__swa_job *)arg;
    const qnet_real *QNET__RESTRICT p = job->p;
    qnet_real *QNET__RESTRICT average = job->average;
    qnet_real share = (qnet_real)(1.0 / ((double)job->n + 1.0));
    size_t i, start = index * QNET__OPTIM_CHUNK;
    size_t end = qnet__min_size(start + QNET__OPTIM_CHUNK, job->count);

    QNET__UNUSED(worker);
    for (i = start; i < end; i++) {
        average[i] = job->n == 0 ? p[i] : average[i] + share * (p[i] - average[i]);
    }
}

/* average[count], p[count]. */
QNET_API void qnet_swa_update(qnet_context *ctx, size_t count, qnet_real *average,
                              const qnet_real *p, uint64_t n)
{
    qnet__swa_job job;

    job.count = count;
    job.average = average;
    job.p = p;
    job.n = n;
    qnet__parallel(ctx, (count + QNET__OPTIM_CHUNK - 1) / QNET__OPTIM_CHUNK, qnet__swa_task, &job);
}

/* ============================================================================================
   >>deflate   RFC 1951 (deflate), RFC 1952 (gzip), RFC 1950 (zlib's wrapper, for PNG).

   Both directions stream: inflate pulls compressed bytes from a qnet_source and is asked for
   plain bytes, deflate is given plain bytes and pushes compressed ones into a qnet_sink. Each
   holds all it needs in one heap block, so a .nii.gz never lies in memory as a whole.

   The format in short. A stream is a row of blocks. A block is plain bytes ("stored"), or a row
   of symbols in a Huffman code: a literal byte, or "go back `distance` bytes and copy `length`
   of them", as a code for the length's range, extra bits for the place in the range, a code for
   the distance's range, extra bits; then the symbol 256, the end of the block. The code is fixed
   by the standard or sent at the head of the block ("dynamic"), as the number of bits of each
   symbol's code: that says it all, because codes of one length are numbered in the order of their
   symbols, and shorter ones come first ("canonical"). Bits fill bytes from the lowest on; a
   Huffman code is packed from its first bit, all other numbers from their lowest.

   gzip puts a header before the blocks and CRC-32 and size behind them; zlib two bytes and the
   Adler-32 sum.
   ============================================================================================ */

#define QNET__WINDOW       32768 /* how far back a match may reach */
#define QNET__MATCH_MIN    3
#define QNET__MATCH_MAX    258
#define QNET__LITLEN_CODES 286 /* 0..255 literal, 256 end of block, 257..285 length */
#define QNET__DIST_CODES   30
#define QNET__FIXED_CODES  288 /* the fixed code has two more, which stand for nothing */

/* RFC 1951, 3.2.5: length code 257 + i stands for length_base[i] plus length_extra[i] more bits;
   distance code i likewise. */
static const uint16_t qnet__length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10,  11,  13,
                                               15, 17, 19, 23, 27, 31, 35, 43,  51,  59,
                                               67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t qnet__length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                               2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t qnet__dist_base[QNET__DIST_CODES] = {
    1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
    193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const uint8_t qnet__dist_extra[QNET__DIST_CODES] = {
    0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
    6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
/* RFC 1951, 3.2.7: the order in which the lengths of the code-length code are sent. Its symbols
   0..15 are a length; 16 repeats the one before, 17 and 18 repeat zeros: base times, plus extra. */
static const uint8_t qnet__codelen_order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                11, 4,  12, 3, 13, 2, 14, 1, 15};
static const uint8_t qnet__repeat_base[3] = {3, 3, 11}, qnet__repeat_extra[3] = {2, 3, 7};

/* Lengths of the fixed code (RFC 1951, 3.2.6): length[288] and dist_length[32]. */
static void qnet__fixed_lengths(uint8_t *length, uint8_t *dist_length)
{
    int i;
    for (i = 0; i < QNET__FIXED_CODES; i++)
        length[i] = (uint8_t)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
    memset(dist_length, 5, 32); /* 30 and 31 complete the code; they are refused when used */
}

/* ---- checksums ---- */

/* CRC-32 of RFC 1952, section 8: remainder by x^32 + x^26 + ... + 1 (0xedb88320, bits reversed).
   table[k][b] is the remainder of byte b followed by k zero bytes. */
static void qnet__crc32_table(uint32_t table[8][256])
{
    uint32_t i, k;
    for (i = 0; i < 256; i++) {
        uint32_t r = i;
        for (k = 0; k < 8; k++) r = (r >> 1) ^ ((r & 1) ? 0xedb88320u : 0);
        table[0][i] = r;
    }
    for (k = 1; k < 8; k++)
        for (i = 0; i < 256; i++)
            table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 255];
}

/* Eight bytes at a time: the remainder is linear, so the eight bytes' parts are looked up apart
   and added ("slicing by 8", Kounavis & Berry 2005). */
static uint32_t qnet__crc32_update(uint32_t table[8][256], uint32_t crc, const unsigned char *p,
                                   size_t size)
{
    crc = ~crc;
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t a = crc ^ qnet__load_le32(p), b = qnet__load_le32(p + 4);
        crc = table[7][a & 255] ^ table[6][(a >> 8) & 255] ^ table[5][(a >> 16) & 255] ^
              table[4][a >> 24] ^ table[3][b & 255] ^ table[2][(b >> 8) & 255] ^
              table[1][(b >> 16) & 255] ^ table[0][b >> 24];
    }
    for (; size > 0; p++, size--) crc = (crc >> 8) ^ table[0][(crc ^ *p) & 255];
    return ~crc;
}

/* The public form: of bytes[size], going on from the crc of what came before them. */
QNET_API uint32_t qnet_crc32(uint32_t crc, const void *bytes, size_t size)
{
    uint32_t table[8][256];
    if (bytes == NULL) return crc;
    qnet__crc32_table(table);
    return qnet__crc32_update(table, crc, (const unsigned char *)bytes, size);
}

/* Adler-32 of RFC 1950: a = 1 + sum of bytes, b = sum of all a, both mod 65521. */
static uint32_t qnet__adler32(uint32_t adler, const unsigned char *p, size_t size)
{
    uint32_t a = adler & 0xffff, b = adler >> 16;
    while (size > 0) {
        size_t n = qnet__min_size(size, 5552); /* the most before b can pass 2^32 */
        for (size -= n; n > 0; n--) b += a += *p++;
        a %= 65521;
        b %= 65521;
    }
    return b << 16 | a;
}

/* ---- inflate ---- */

/* A decoding table is indexed by the next bits of the stream. An entry holds, from bit 0: the bits
   that it consumes (4), what it is (4), the number of extra bits (8), its value (16). Codes longer
   than the index go through a link to a second table. An entry of 0 is no code at all. */
#define QNET__CODE_LITERAL 0x10u /* value: the byte, or a code length */
#define QNET__CODE_BASE    0x20u /* value: the base of a length or distance */
#define QNET__CODE_END     0x40u /* end of block */
#define QNET__CODE_LINK    0x80u /* value: where the second table starts */

#define QNET__LITLEN_BITS  11
#define QNET__DIST_BITS    8
#define QNET__CODELEN_BITS 7
/* Each second table serves at least two codes: 288/2 of 16 entries, 32/2 of 128. */
#define QNET__LITLEN_TABLE ((1 << QNET__LITLEN_BITS) + 144 * 16)
#define QNET__DIST_TABLE   ((1 << QNET__DIST_BITS) + 16 * 128)

/* sub_bits: the index bits of every second table, 0 when no code is longer than index_bits. */
typedef struct qnet__huffman {
    uint32_t *table;
    int index_bits, sub_bits;
} qnet__huffman;

/* The low n bits of code in reverse order: deflate packs codes from their first bit on. */
static uint32_t qnet__reverse_bits(uint32_t code, int n)
{
    uint32_t r = 0;
    for (; n > 0; n--, code >>= 1) r = r << 1 | (code & 1);
    return r;
}

/* code[symbols] of these lengths (RFC 1951, 3.2.2), first bit lowest. */
static void qnet__canonical_codes(const uint8_t *length, int symbols, uint16_t *code)
{
    uint32_t next = 0;
    int bits, i;
    for (bits = 1; bits < 16; bits++, next <<= 1)
        for (i = 0; i < symbols; i++)
            if (length[i] == bits) code[i] = (uint16_t)qnet__reverse_bits(next++, bits);
}

/* Which of a block's three alphabets a code is for. */
enum { QNET__FOR_CODELEN, QNET__FOR_LITLEN, QNET__FOR_DIST };

/* The table entry of a symbol, without its code's bits; 0 for a symbol that stands for nothing. */
static uint32_t qnet__code_entry(int what, int symbol)
{
    uint32_t base, extra;
    if (what == QNET__FOR_CODELEN || (what == QNET__FOR_LITLEN && symbol < 256))
        return (uint32_t)symbol << 16 | QNET__CODE_LITERAL;
    if (what == QNET__FOR_LITLEN && symbol == 256) return QNET__CODE_END;
    if (symbol >= (what == QNET__FOR_LITLEN ? QNET__LITLEN_CODES : QNET__DIST_CODES)) return 0;
    base = what == QNET__FOR_LITLEN ? qnet__length_base[symbol - 257] : qnet__dist_base[symbol];
    extra = what == QNET__FOR_LITLEN ? qnet__length_extra[symbol - 257] : qnet__dist_extra[symbol];
    return base << 16 | extra << 8 | QNET__CODE_BASE;
}

/* Fills code->table from length[symbols], 0..15 (RFC 1951, 3.2.2). As zlib does, refuses a set of
   lengths that is over-subscribed or leaves codes unused, but for a lone code of one bit (or no
   code) for lengths and distances. Returns 1, or 0 when refused. */
static int qnet__huffman_build(qnet__huffman *code, int what, const uint8_t *length, int symbols)
{
    uint32_t i, first_free = 1u << code->index_bits;
    uint16_t codes[QNET__FIXED_CODES];
    int symbol, longest = 0, left = 1 << 15; /* of all codes, in units of 15 bits */
    for (symbol = 0; symbol < symbols; symbol++) {
        if (length[symbol] > 0) left -= 1 << (15 - length[symbol]);
        longest = qnet__max_int(longest, length[symbol]);
    }
    if (left < 0 || (left > 0 && (what == QNET__FOR_CODELEN || longest > 1))) return 0;
    qnet__canonical_codes(length, symbols, codes);
    /* A short code fills every place of the table whose low bits are the code: what the bits above
       it are does not matter. A long code shares the place of its first index_bits bits with
       others, and a second table, indexed by the bits after those, tells them apart. */
    code->sub_bits = qnet__max_int(longest - code->index_bits, 0);
    memset(code->table, 0, first_free * sizeof *code->table);
    for (symbol = 0; symbol < symbols; symbol++) {
        uint32_t entry = qnet__code_entry(what, symbol), *table = code->table, at;
        int n = length[symbol], table_bits = code->index_bits;
        if (n == 0) continue;
        at = codes[symbol];
        if (n > code->index_bits) {
            uint32_t *link = &table[at & ((1u << code->index_bits) - 1)];
            if (*link == 0) {
                *link = first_free << 16 | QNET__CODE_LINK | (uint32_t)code->index_bits;
                memset(table + first_free, 0, sizeof *link << code->sub_bits);
                first_free += 1u << code->sub_bits;
            }
            table += *link >> 16;
            table_bits = code->sub_bits;
            at >>= code->index_bits;
            n -= code->index_bits;
        }
        for (i = at; i < 1u << table_bits; i += 1u << n) table[i] = entry ? entry | (uint32_t)n : 0;
    }
    return 1;
}

/* The bits read ahead (lowest first) and the bytes after them. Bits above `count` are 0 or equal
   to what is to come, so that or-ing the same bytes in again does no harm. */
typedef struct qnet__bit_reader {
    uint64_t bits;
    int count;
    const unsigned char *at, *end;
} qnet__bit_reader;

/* The next n <= 16 bits. When they run out zeros come and count falls below 0. */
QNET__INLINE uint32_t qnet__next_bits(qnet__bit_reader *in, uint32_t n)
{
    uint32_t value = (uint32_t)in->bits & ((1u << n) - 1);
    in->bits >>= n;
    in->count -= (int)n;
    return value;
}

/* The table entry of the next symbol. index_bits is code->index_bits, passed as the constant that
   every caller knows, so that the compiler folds it into the decoder's loop. */
QNET__INLINE uint32_t qnet__next_code(qnet__bit_reader *in, const qnet__huffman *code,
                                       int index_bits)
{
    uint32_t entry = code->table[in->bits & ((1u << index_bits) - 1)];
    if (entry & QNET__CODE_LINK) {
        qnet__next_bits(in, (uint32_t)index_bits);
        entry = code->table[(entry >> 16) + (in->bits & ((1u << code->sub_bits) - 1))];
    }
    qnet__next_bits(in, entry & 15);
    return entry;
}

/* What comes next in the stream. Each state is left only at a place where decoding can go on in the
   next call: between symbols, or between the bytes of a stored block. */
enum {
    QNET__IN_HEADER, QNET__IN_BLOCK, QNET__IN_STORED, QNET__IN_CODES, QNET__IN_TRAILER, QNET__IN_END
};

#define QNET__INFLATE_STEP  65536 /* plain bytes made at a time, at least */
#define QNET__INFLATE_SLACK 288   /* one match and the overshoot of its copy in steps of eight */

/* The state of unpacking, about 150 KB, in one block of the heap: too much for a stack. Input is
   pulled as it is needed, so only the plain side has to stop and go on. The first failure stays in
   status: what reads bits gets zeros from then on, and looks at the status where it ends. */
typedef struct qnet__inflate {
    qnet_context *ctx;
    qnet_source *source;
    qnet_status status;
    int source_ended, mode, last_block, members;
    qnet__bit_reader in;
    qnet__huffman litlen, dist;
    size_t stored_left;
    /* out[0..made) are plain bytes, and `gone` more were there before; the caller has those below
       taken; a match may not reach below member, where this gzip member starts. */
    size_t made, taken, member;
    uint64_t gone;
    uint32_t crc, member_size;
    uint32_t crc_table[8][256];
    uint32_t litlen_table[QNET__LITLEN_TABLE], dist_table[QNET__DIST_TABLE];
    unsigned char input[16384];
    unsigned char out[QNET__WINDOW + QNET__INFLATE_STEP + QNET__INFLATE_SLACK];
} qnet__inflate;

/* first[first_size]: bytes that were already read from source, at most 16384. */
static void qnet__inflate_start(qnet__inflate *s, qnet_context *ctx, qnet_source *source,
                                const void *first, size_t first_size)
{
    memset(s, 0, offsetof(qnet__inflate, crc_table));
    s->ctx = ctx;
    s->source = source;
    s->litlen.table = s->litlen_table;
    s->litlen.index_bits = QNET__LITLEN_BITS;
    s->dist.table = s->dist_table;
    s->dist.index_bits = QNET__DIST_BITS;
    memcpy(s->input, first, first_size);
    s->in.at = s->input;
    s->in.end = s->input + first_size;
    qnet__crc32_table(s->crc_table);
}

/* A failure, unless there was one before; what: NULL when the input ended too early. The count of
   plain bytes tells where to look in a long file. */
static void qnet__inflate_fail(qnet__inflate *s, const char *what)
{
    if (s->status == QNET_OK)
        s->status = qnet__fail(s->ctx, QNET_ERROR_FORMAT, "%s: %s%s, near byte %.0f unpacked",
                               qnet__source_name(s->source), what ? "corrupt gzip data: " : "",
                               what ? what : "truncated: expected more gzip data, found its end",
                               (double)(s->gone + s->made));
}

/* Tops the bits up to at least 57, or to all there are. */
static void qnet__inflate_refill(qnet__inflate *s)
{
    while (s->in.count <= 56) {
        if (s->in.at == s->in.end) {
            size_t got = 0;
            if (s->source_ended) break;
            if (s->source->read(s->source->user, s->input, sizeof s->input, &got) != 0) {
                got = 0;
                s->status = qnet__fail(s->ctx, QNET_ERROR_IO, "%s: reading failed",
                                       qnet__source_name(s->source));
            }
            s->source_ended = got == 0;
            s->in.at = s->input;
            s->in.end = s->input + qnet__min_size(got, sizeof s->input);
            if (got == 0) break;
        }
        s->in.bits |= (uint64_t)*s->in.at++ << s->in.count;
        s->in.count += 8;
    }
}

/* The next n <= 16 bits; 0 and a failure when there are not so many. */
static uint32_t qnet__inflate_bits(qnet__inflate *s, int n)
{
    if (s->in.count < n) qnet__inflate_refill(s);
    if (s->in.count >= n) return qnet__next_bits(&s->in, (uint32_t)n);
    qnet__inflate_fail(s, NULL);
    return 0;
}

/* A byte of the gzip header; all of them go into the header's check sum. */
static uint32_t qnet__inflate_header_byte(qnet__inflate *s)
{
    unsigned char byte = (unsigned char)qnet__inflate_bits(s, 8);
    s->crc = qnet__crc32_update(s->crc_table, s->crc, &byte, 1);
    return byte;
}

/* RFC 1952, 2.3. A further member may follow the first; so may zeros that pad the file: tape and
   some archives leave them behind, and gzip lets them pass, too. */
static void qnet__inflate_header(qnet__inflate *s)
{
    uint32_t flags, i, n, crc;
    for (; s->members > 0; qnet__next_bits(&s->in, 8)) {
        qnet__inflate_refill(s);
        if (s->in.count < 8) {
            s->mode = QNET__IN_END;
            return;
        }
        if ((s->in.bits & 255) != 0) break;
    }
    s->crc = 0;
    if (qnet__inflate_header_byte(s) != 0x1f || qnet__inflate_header_byte(s) != 0x8b)
        qnet__inflate_fail(s, s->members ? "bytes that are no gzip member follow the data"
                                         : "it does not start with 1f 8b");
    if (qnet__inflate_header_byte(s) != 8)
        qnet__inflate_fail(s, "compression method is not 8 (deflate)");
    flags = qnet__inflate_header_byte(s);
    if (flags & 0xe0) qnet__inflate_fail(s, "reserved flag bits are set in the header");
    for (i = 0; i < 6; i++) qnet__inflate_header_byte(s); /* time, XFL, OS */
    if (flags & 4) {                                      /* FEXTRA */
        n = qnet__inflate_header_byte(s);
        n |= qnet__inflate_header_byte(s) << 8;
        for (i = 0; i < n; i++) qnet__inflate_header_byte(s);
    }
    for (n = 8; n <= 16; n <<= 1) /* FNAME, FCOMMENT: each ends with a zero */
        while ((flags & n) && qnet__inflate_header_byte(s) != 0) {}
    crc = s->crc & 0xffff;
    if ((flags & 2) && qnet__inflate_bits(s, 16) != crc) /* FHCRC */
        qnet__inflate_fail(s, "the header's CRC differs");
    s->members = 1;
    s->crc = 0;
    s->member_size = 0;
    s->member = s->made;
    s->mode = QNET__IN_BLOCK;
}

/* The codes of a dynamic block (RFC 1951, 3.2.7). Lengths come in three layers: 3-bit numbers give
   a code, in which the lengths of the two real codes are sent as one row, runs shortened. Returns
   what is wrong with them, or NULL. */
static const char *qnet__inflate_dynamic(qnet__inflate *s)
{
    uint8_t length[QNET__LITLEN_CODES + QNET__DIST_CODES] = {0};
    uint32_t literals = qnet__inflate_bits(s, 5) + 257, distances = qnet__inflate_bits(s, 5) + 1;
    uint32_t codes = qnet__inflate_bits(s, 4) + 4, i, at = 0;
    qnet__huffman codelen;
    if (literals > QNET__LITLEN_CODES || distances > QNET__DIST_CODES)
        return "too many length or distance codes";
    for (i = 0; i < codes; i++) length[qnet__codelen_order[i]] = (uint8_t)qnet__inflate_bits(s, 3);
    codelen.table = s->dist_table; /* free until the distance code is built */
    codelen.index_bits = QNET__CODELEN_BITS;
    if (!qnet__huffman_build(&codelen, QNET__FOR_CODELEN, length, 19))
        return "the set of code lengths is no prefix code";
    while (at < literals + distances) { /* from here on length[] is that of the real codes */
        uint32_t symbol, repeat = 1;
        uint8_t fill;
        if (s->in.count < QNET__CODELEN_BITS) qnet__inflate_refill(s);
        symbol = qnet__next_code(&s->in, &codelen, QNET__CODELEN_BITS) >> 16;
        if (s->in.count < 0) return NULL; /* no bit is left: the next to be read tells */
        if (symbol == 16 && at == 0) return "a repeated code length has none before it";
        fill = (uint8_t)(symbol < 16 ? symbol : symbol == 16 ? length[at - 1] : 0);
        if (symbol >= 16)
            repeat = qnet__repeat_base[symbol - 16] +
                     qnet__inflate_bits(s, qnet__repeat_extra[symbol - 16]);
        if (repeat > literals + distances - at)
            return "a repeated code length goes past the last code";
        for (; repeat > 0; repeat--) length[at++] = fill;
    }
    if (length[256] == 0) return "a block has no code for its end";
    if (!qnet__huffman_build(&s->litlen, QNET__FOR_LITLEN, length, (int)literals))
        return "the set of literal and length codes is no prefix code";
    if (!qnet__huffman_build(&s->dist, QNET__FOR_DIST, length + literals, (int)distances))
        return "the set of distance codes is no prefix code";
    return NULL;
}

/* Three bits open a block: is it the last, and of which kind (RFC 1951, 3.2.3): 0 stored, 1 with
   the fixed code, 2 with a code of its own. */
static void qnet__inflate_block(qnet__inflate *s)
{
    uint8_t length[QNET__FIXED_CODES], dist_length[32];
    const char *wrong = NULL;
    uint32_t type;
    s->last_block = (int)qnet__inflate_bits(s, 1);
    type = qnet__inflate_bits(s, 2);
    s->mode = type == 0 ? QNET__IN_STORED : QNET__IN_CODES;
    if (type == 0) {
        /* Bytes were read whole, so what is beyond a multiple of 8 is the rest of this byte. */
        qnet__inflate_bits(s, s->in.count & 7);
        s->stored_left = qnet__inflate_bits(s, 16);
        if (s->stored_left != (qnet__inflate_bits(s, 16) ^ 0xffff))
            wrong = "the length of a stored block and its complement differ";
    } else if (type == 1) {
        qnet__fixed_lengths(length, dist_length);
        qnet__huffman_build(&s->litlen, QNET__FOR_LITLEN, length, QNET__FIXED_CODES);
        qnet__huffman_build(&s->dist, QNET__FOR_DIST, dist_length, 32);
    } else {
        wrong = type == 2 ? qnet__inflate_dynamic(s) : "block type is 3";
    }
    if (s->in.count < 0) qnet__inflate_fail(s, NULL);
    if (wrong) qnet__inflate_fail(s, wrong);
}

/* Bytes as they are, until the block ends or the room is used. */
static void qnet__inflate_stored(qnet__inflate *s)
{
    size_t room = QNET__WINDOW + QNET__INFLATE_STEP - s->made, n;
    for (; s->stored_left > 0 && room > 0 && s->status == QNET_OK; s->stored_left -= n, room -= n) {
        if (s->in.count > 0 || s->in.at == s->in.end) { /* whole bytes that were read ahead */
            s->out[s->made] = (unsigned char)qnet__inflate_bits(s, 8);
            n = 1;
        } else {
            s->in.bits = 0;
            n = qnet__min_size(s->stored_left, room);
            n = qnet__min_size((size_t)(s->in.end - s->in.at), n);
            memcpy(s->out + s->made, s->in.at, n);
            s->in.at += n;
        }
        s->made += n;
    }
    if (s->stored_left == 0) s->mode = s->last_block ? QNET__IN_TRAILER : QNET__IN_BLOCK;
}

/* Decodes until the block ends or the room is used. At the end of the input the bits run out as
   zeros and count falls below 0: what was decoded then is never handed out. */
static void qnet__inflate_codes(qnet__inflate *s)
{
    qnet__bit_reader in = s->in; /* a copy whose address is not taken stays in registers */
    const qnet__huffman litlen = s->litlen, dist = s->dist;
    unsigned char *out = s->out + s->made, *end = s->out + QNET__WINDOW + QNET__INFLATE_STEP;
    const unsigned char *member = s->out + s->member;
    const char *wrong = NULL;
    while (out < end && in.count >= 0) {
        uint32_t entry, distance, n;
        /* Topping up only below 48 bits lets several literals go by on one refill. */
        if (in.count < 48) { /* a length and a distance take at most 15 + 5 + 15 + 13 bits */
            if (in.end - in.at >= 8) {
                in.bits |= qnet__load_le64(in.at) << in.count;
                in.at += (63 - in.count) >> 3;
                in.count |= 56;
            } else {
                s->in = in;
                qnet__inflate_refill(s);
                in = s->in;
            }
        }
        entry = qnet__next_code(&in, &litlen, QNET__LITLEN_BITS);
        if (entry & QNET__CODE_LITERAL) {
            *out++ = (unsigned char)(entry >> 16);
            continue;
        }
        if (!(entry & QNET__CODE_BASE)) {
            s->mode = s->last_block ? QNET__IN_TRAILER : QNET__IN_BLOCK;
            if (!(entry & QNET__CODE_END)) wrong = "a literal or length that has no code";
            break;
        }
        n = (entry >> 16) + qnet__next_bits(&in, entry >> 8 & 255); /* base + extra bits */
        entry = qnet__next_code(&in, &dist, QNET__DIST_BITS);
        distance = (entry >> 16) + qnet__next_bits(&in, entry >> 8 & 255);
        if (!(entry & QNET__CODE_BASE)) wrong = "a distance that has no code";
        else if (distance > (size_t)(out - member)) wrong = "a distance too far back";
        if (wrong) break;
        if (distance >= 8) { /* may write up to 7 bytes too many: the slack holds them */
            const unsigned char *from = out - distance;
            unsigned char *to = out;
            out += n;
            for (; to < out; to += 8, from += 8) memcpy(to, from, 8);
        } else { /* the copy reads what it has just written: a pattern of 1 to 7 bytes repeats */
            for (; n > 0; n--, out++) *out = *(out - distance);
        }
    }
    s->in = in;
    s->made = (size_t)(out - s->out);
    if (in.count < 0) qnet__inflate_fail(s, NULL);
    if (wrong) qnet__inflate_fail(s, wrong);
}

/* After the last block of a member: CRC-32 and size of its plain bytes (RFC 1952, 2.3.1). */
static void qnet__inflate_trailer(qnet__inflate *s)
{
    uint32_t word[2], i;
    qnet__inflate_bits(s, s->in.count & 7);
    for (i = 0; i < 2; i++) {
        word[i] = qnet__inflate_bits(s, 16);
        word[i] |= qnet__inflate_bits(s, 16) << 16;
    }
    if (s->status != QNET_OK) return;
    if (word[0] != s->crc || word[1] != s->member_size)
        s->status = qnet__fail(s->ctx, QNET_ERROR_FORMAT,
                               "%s: corrupt gzip data: CRC is %08lx and %lu bytes unpacked, "
                               "expected %08lx and %lu",
                               qnet__source_name(s->source), (unsigned long)s->crc,
                               (unsigned long)s->member_size, (unsigned long)word[0],
                               (unsigned long)word[1]);
    s->mode = QNET__IN_HEADER;
}

/* Makes more plain bytes, after all that were made have been taken. */
static qnet_status qnet__inflate_fill(qnet__inflate *s)
{
    /* A fill makes 65536 bytes or reaches the end: next to that the move of 32768 is cheap. */
    if (s->made > QNET__WINDOW) { /* keep what a match may still reach */
        size_t shift = s->made - QNET__WINDOW;
        memmove(s->out, s->out + shift, QNET__WINDOW);
        s->made = s->taken = QNET__WINDOW;
        s->gone += shift;
        s->member = s->member > shift ? s->member - shift : 0;
    }
    while (s->status == QNET_OK && s->mode != QNET__IN_END &&
           s->made < QNET__WINDOW + QNET__INFLATE_STEP) {
        size_t from = s->made;
        switch (s->mode) {
        case QNET__IN_HEADER: qnet__inflate_header(s); break;
        case QNET__IN_BLOCK: qnet__inflate_block(s); break;
        case QNET__IN_STORED: qnet__inflate_stored(s); break;
        case QNET__IN_CODES: qnet__inflate_codes(s); break;
        default: qnet__inflate_trailer(s); break;
        }
        s->crc = qnet__crc32_update(s->crc_table, s->crc, s->out + from, s->made - from);
        s->member_size += (uint32_t)(s->made - from); /* mod 2^32, as the file has it */
    }
    return s->status;
}

/* The next plain bytes: dst[size]; *got < size only at the end, when every CRC has been right. */
static qnet_status qnet__inflate_read(qnet__inflate *s, void *dst, size_t size, size_t *got)
{
    size_t n;
    for (*got = 0; *got < size; *got += n, s->taken += n) {
        if (s->made == s->taken && s->mode == QNET__IN_END) break;
        if (s->made == s->taken) QNET__TRY(qnet__inflate_fill(s));
        n = qnet__min_size(s->made - s->taken, size - *got);
        memcpy((unsigned char *)dst + *got, s->out + s->taken, n);
    }
    return QNET_OK;
}

/* Takes back what was appended to out after its first `size` bytes. */
static void qnet__buffer_cut(qnet_context *ctx, qnet_buffer *out, size_t size)
{
    if (size == 0) {
        qnet_buffer_free(ctx, out);
        return;
    }
    out->size = size;
    out->bytes[size] = 0;
}

/* limit 0: QNET_MAX_FILE_BYTES. Appends to out, which is as before on failure. */
QNET_API qnet_status qnet_gzip_decompress(qnet_context *ctx, const void *bytes, size_t size,
                                          size_t limit, qnet_buffer *out)
{
    qnet_memory_source memory;
    qnet_source source;
    qnet__inflate *s;
    qnet_status status;
    size_t before, n;
    if (ctx == NULL || bytes == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_gzip_decompress: context, bytes or out is NULL");
    if (limit == 0) limit = (size_t)QNET_MAX_FILE_BYTES;
    s = (qnet__inflate *)qnet__alloc(ctx, sizeof *s);
    if (s == NULL) return qnet__no_memory(ctx, sizeof *s, "unpacking gzip data");
    source = qnet_source_memory(&memory, bytes, size, NULL);
    qnet__inflate_start(s, ctx, &source, "", 0);
    before = out->size;
    do { /* piece by piece, so that a small file which unpacks to a huge one ends at the limit */
        status = qnet__inflate_fill(s);
        n = s->made - s->taken;
        if (status == QNET_OK && s->gone + s->made > limit)
            status = qnet__fail(ctx, QNET_ERROR_LIMIT, "gzip data unpacks to more than %.0f bytes",
                                (double)limit);
        if (status == QNET_OK) status = qnet_buffer_append(ctx, out, s->out + s->taken, n);
        s->taken += n;
    } while (status == QNET_OK && s->mode != QNET__IN_END);
    qnet__free(ctx, s, sizeof *s);
    if (status != QNET_OK) qnet__buffer_cut(ctx, out, before);
    return status;
}

/* ---- deflate ---- */

#define QNET__BLOCK     QNET__WINDOW /* plain bytes of one deflate block */
#define QNET__HASH_BITS 15
#define QNET__CHAIN     48   /* earlier places that are tried for a match */
#define QNET__NICE      96   /* a match of this length is taken without a look further */
#define QNET__TOO_FAR   4096 /* a match of 3 from farther costs more than 3 literals */

/* An alphabet of a block: how often each symbol comes, its code and the code's length in bits. */
typedef struct qnet__alphabet {
    uint32_t count[QNET__FIXED_CODES];
    uint8_t length[QNET__FIXED_CODES];
    uint16_t code[QNET__FIXED_CODES];
} qnet__alphabet;

/* The state of packing, about 600 KB in one block of the heap. window holds up to 32768 bytes that
   a match may reach back to and, after them, the block that is being filled. */
typedef struct qnet__deflate {
    qnet_context *ctx;
    qnet_sink *sink;
    int zlib; /* 1: the wrapper of RFC 1950; 0: gzip */
    uint64_t bits;
    int bit_count;
    size_t written; /* bytes in out */
    /* window[start..size) is not yet coded, [0..hashed) is in the chains */
    size_t start, size, hashed;
    uint32_t check, plain_size;
    size_t tokens;
    qnet__alphabet litlen, dist;
    uint8_t length_symbol[QNET__MATCH_MAX + 1]; /* length -> code - 257 */
    uint8_t dist_symbol[512]; /* distance - 1 < 256: itself; else 256 + (distance - 1 >> 7) */
    uint32_t crc_table[8][256];
    int32_t head[1 << QNET__HASH_BITS]; /* latest place with this hash, or -1 */
    int32_t previous[2 * QNET__WINDOW]; /* the one before a place, or -1 */
    uint32_t token[QNET__BLOCK];        /* a literal, or distance << 9 | length */
    unsigned char window[2 * QNET__WINDOW];
    unsigned char out[QNET__BLOCK + 1024];
} qnet__deflate;

/* Adds the low n <= 32 bits of value to the stream. out has room for any block: one that would be
   larger than its plain bytes is stored as they are. */
static void qnet__put_bits(qnet__deflate *d, uint32_t value, int n)
{
    d->bits |= (uint64_t)value << d->bit_count;
    d->bit_count += n;
    for (; d->bit_count >= 8; d->bit_count -= 8, d->bits >>= 8)
        d->out[d->written++] = (unsigned char)(d->bits & 255);
}

/* The code 0..29 of a distance 1..32768. From 257 on each code starts at a multiple of 128, + 1. */
static int qnet__distance_symbol(const qnet__deflate *d, uint32_t distance)
{
    return d->dist_symbol[distance <= 256 ? distance - 1 : 256 + ((distance - 1) >> 7)];
}

static void qnet__put_symbol(qnet__deflate *d, const qnet__alphabet *a, int symbol)
{
    qnet__put_bits(d, a->code[symbol], a->length[symbol]);
}

/* Writes the head of the wrapper and makes the tables from a length or distance to its symbol:
   smallest code first, so that each later one overwrites from its own base on. */
static void qnet__deflate_start(qnet__deflate *d, qnet_context *ctx, qnet_sink *sink, int zlib)
{
    static const unsigned char gzip_head[10] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}; /* no time */
    static const unsigned char zlib_head[2] = {0x78, 0x9c};
    int i, k;
    memset(d, 0, offsetof(qnet__deflate, head));
    memset(d->head, -1, sizeof d->head);
    d->ctx = ctx;
    d->sink = sink;
    d->zlib = zlib;
    d->check = zlib ? 1 : 0;
    d->written = zlib ? 2 : 10;
    memcpy(d->out, zlib ? zlib_head : gzip_head, d->written);
    qnet__crc32_table(d->crc_table);
    for (k = 0; k < 29; k++)
        for (i = qnet__length_base[k]; i <= QNET__MATCH_MAX; i++) d->length_symbol[i] = (uint8_t)k;
    for (k = 0; k < QNET__DIST_CODES; k++)
        for (i = qnet__dist_base[k] - 1; i < QNET__WINDOW; i += i < 256 ? 1 : 128)
            d->dist_symbol[i < 256 ? i : 256 + (i >> 7)] = (uint8_t)k;
}

/* Puts every place up to and with `last` into the hash chains; a place needs three bytes. */
static void qnet__deflate_hash(qnet__deflate *d, size_t last)
{
    for (; d->hashed <= last && d->hashed + QNET__MATCH_MIN <= d->size; d->hashed++) {
        const unsigned char *p = d->window + d->hashed;
        uint32_t h = ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16) * 0x9e3779b1u;
        /* Knuth's multiplicative hash: the high bits are the well mixed ones. */
        h >>= 32 - QNET__HASH_BITS;
        d->previous[d->hashed] = d->head[h];
        d->head[h] = (int32_t)d->hashed;
    }
}

/* The longest match for the bytes at `at`, within the block; 0 when there is none worth it. */
static uint32_t qnet__deflate_match(qnet__deflate *d, size_t at, uint32_t *distance)
{
    const unsigned char *p = d->window + at;
    size_t room = qnet__min_size(d->size - at, QNET__MATCH_MAX), best = QNET__MATCH_MIN - 1;
    int32_t place;
    int tries = QNET__CHAIN;
    qnet__deflate_hash(d, at);
    if (room < QNET__MATCH_MIN) return 0;
    /* Places with the same hash, nearest first. Equal hashes of different bytes do happen: the
       bytes are compared, first the one that would make the match the longest so far. */
    for (place = d->previous[at]; place >= 0 && tries > 0; place = d->previous[place], tries--) {
        const unsigned char *q = d->window + place;
        size_t n = 0, back = at - (size_t)place;
        if (back > QNET__WINDOW) break; /* those after it are farther still */
        if (q[best] != p[best] || q[0] != p[0]) continue;
        while (n < room && p[n] == q[n]) n++;
        /* the nearest of equal lengths wins: its distance takes fewer bits */
        if (n <= best || (n == QNET__MATCH_MIN && back > QNET__TOO_FAR)) continue;
        best = n;
        *distance = (uint32_t)back;
        if (n >= QNET__NICE || n == room) break;
    }
    return best < QNET__MATCH_MIN ? 0 : (uint32_t)best;
}

/* Fills token[] for window[start..size): literals and matches, each match taken only when none
   longer starts one byte later ("lazy" matching, as in zlib). */
static void qnet__deflate_parse(qnet__deflate *d)
{
    size_t at = d->start;
    memset(d->litlen.count, 0, sizeof d->litlen.count);
    memset(d->dist.count, 0, sizeof d->dist.count);
    d->tokens = 0;
    while (at < d->size) {
        uint32_t distance = 0, n = qnet__deflate_match(d, at, &distance), later_distance = 0, later;
        while (n > 0 && n < QNET__NICE && at + 1 < d->size) {
            later = qnet__deflate_match(d, at + 1, &later_distance);
            if (later <= n) break;
            d->litlen.count[d->window[at]]++;
            d->token[d->tokens++] = d->window[at++];
            n = later;
            distance = later_distance;
        }
        if (n == 0) { /* nothing to go back to */
            d->litlen.count[d->window[at]]++;
            d->token[d->tokens++] = d->window[at++];
            continue;
        }
        d->litlen.count[257 + d->length_symbol[n]]++;
        d->dist.count[qnet__distance_symbol(d, distance)]++;
        d->token[d->tokens++] = distance << 9 | n;
        at += n;
        qnet__deflate_hash(d, at - 1);
    }
    d->litlen.count[256] = 1;
}

/* Code lengths length[symbols] <= limit for these counts, and the codes. Huffman's tree by two
   queues (leaves and inner nodes both come in rising order of weight), then lengths above the limit
   are shortened and the shortest harm done elsewhere. At least two codes get a length, so that
   every decoder takes the set as complete. */
static void qnet__huffman_make(const uint32_t *count, int symbols, int limit, uint8_t *length,
                               uint16_t *code)
{
    uint32_t weight[2 * QNET__FIXED_CODES], kraft = 0;
    uint16_t order[QNET__FIXED_CODES], parent[2 * QNET__FIXED_CODES];
    int depth[2 * QNET__FIXED_CODES], of_length[16] = {0}, used = 0, i, k, leaf, inner, node;
    memset(length, 0, (size_t)symbols);
    for (i = 0; i < symbols; i++) {
        if (count[i] == 0) continue;
        for (k = used++; k > 0 && count[order[k - 1]] > count[i]; k--) order[k] = order[k - 1];
        order[k] = (uint16_t)i;
    }
    for (i = 0; used < 2; i++) /* a second code: one that does not occur */
        if (count[i] == 0) order[used++] = (uint16_t)i;
    /* nodes 0..used-1 are the leaves, the rest are made here, each the parent of two below it */
    for (i = 0; i < used; i++) weight[i] = count[order[i]];
    for (node = used, leaf = 0, inner = used; node < 2 * used - 1; node++) {
        weight[node] = 0;
        for (k = 0; k < 2; k++) { /* the two lightest */
            int light = leaf < used && (inner == node || weight[leaf] <= weight[inner]);
            int take = light ? leaf++ : inner++;
            weight[node] += weight[take];
            parent[take] = (uint16_t)node;
        }
    }
    depth[2 * used - 2] = 0;
    for (i = 2 * used - 3; i >= 0; i--) {
        depth[i] = depth[parent[i]] + 1;
        if (i < used) of_length[qnet__min_int(depth[i], limit)]++;
    }
    for (i = 1; i <= limit; i++) kraft += (uint32_t)of_length[i] << (limit - i);
    /* Cutting depths to the limit made too many short codes: the sum of 2^-length is above 1. Each
       round takes one leaf of the greatest length and hangs it, as the twin, below the leaf of the
       next smaller length: the sum falls by 2^-limit. */
    for (; kraft > 1u << limit; kraft--) {
        of_length[limit]--;
        for (i = limit - 1; of_length[i] == 0; i--) {}
        of_length[i]--;
        of_length[i + 1] += 2;
    }
    /* Which leaf has which depth no longer matters: only how many there are of each. */
    for (i = limit, k = 0; i >= 1; i--) /* the rarest get the longest */
        for (leaf = 0; leaf < of_length[i]; leaf++) length[order[k++]] = (uint8_t)i;
    qnet__canonical_codes(length, symbols, code);
}

/* The bits that symbols[count] take: count * (length + extra); symbols below `plain` have no extra
   bits. */
static size_t qnet__coded_bits(const uint32_t *count, const uint8_t *length, int symbols,
                               const uint8_t *extra, int plain)
{
    size_t bits = 0;
    int i;
    for (i = 0; i < symbols; i++)
        bits += count[i] * (size_t)(length[i] + (i < plain ? 0 : extra[i - plain]));
    return bits;
}

/* The bits of the block's tokens with code lengths litlen[] and dist[]. */
static size_t qnet__deflate_cost(const qnet__deflate *d, const uint8_t *litlen, const uint8_t *dist)
{
    return qnet__coded_bits(d->litlen.count, litlen, QNET__LITLEN_CODES, qnet__length_extra, 257) +
           qnet__coded_bits(d->dist.count, dist, QNET__DIST_CODES, qnet__dist_extra, 0);
}

/* The tokens of the block in the codes at hand, and its end. */
static void qnet__deflate_tokens(qnet__deflate *d)
{
    size_t i;
    for (i = 0; i < d->tokens; i++) {
        uint32_t n = d->token[i] & 511, distance = d->token[i] >> 9;
        int symbol;
        if (distance == 0) {
            qnet__put_symbol(d, &d->litlen, (int)n);
            continue;
        }
        symbol = d->length_symbol[n];
        qnet__put_symbol(d, &d->litlen, 257 + symbol);
        qnet__put_bits(d, n - qnet__length_base[symbol], qnet__length_extra[symbol]);
        symbol = qnet__distance_symbol(d, distance);
        qnet__put_symbol(d, &d->dist, symbol);
        qnet__put_bits(d, distance - qnet__dist_base[symbol], qnet__dist_extra[symbol]);
    }
    qnet__put_symbol(d, &d->litlen, 256);
}

/* The head of a dynamic block: all code lengths as one row, runs shortened, in the code `codelen`.
   Called twice: with codelen->count all 0 it counts the symbols, makes their code of at most 7 bits
   and returns how many bits the head will take; then it writes. */
static size_t qnet__deflate_head(qnet__deflate *d, qnet__alphabet *codelen, int write)
{
    uint8_t all[QNET__LITLEN_CODES + QNET__DIST_CODES];
    int literals = QNET__LITLEN_CODES, distances = QNET__DIST_CODES, codes = 19, i, n, run;
    while (d->litlen.length[literals - 1] == 0) literals--; /* zeros at the end are not sent */
    while (d->dist.length[distances - 1] == 0) distances--;
    n = literals + distances;
    memcpy(all, d->litlen.length, (size_t)literals);
    memcpy(all + literals, d->dist.length, (size_t)distances);
    if (write) {
        while (codes > 4 && codelen->length[qnet__codelen_order[codes - 1]] == 0) codes--;
        qnet__put_bits(d, (uint32_t)(literals - 257), 5);
        qnet__put_bits(d, (uint32_t)(distances - 1), 5);
        qnet__put_bits(d, (uint32_t)(codes - 4), 4);
        for (i = 0; i < codes; i++)
            qnet__put_bits(d, codelen->length[qnet__codelen_order[i]], 3);
    }
    for (i = 0; i < n; i += run) {
        int symbol = all[i], most = symbol == 0 ? 138 : 6, repeat;
        for (run = 1; run < most && i + run < n && all[i + run] == symbol; run++) {}
        repeat = run >= 3 && (symbol == 0 || (i > 0 && all[i - 1] == symbol));
        if (repeat) symbol = symbol != 0 ? 16 : run <= 10 ? 17 : 18;
        else run = 1;
        codelen->count[symbol]++;
        if (write) qnet__put_symbol(d, codelen, symbol);
        if (write && repeat)
            qnet__put_bits(d, (uint32_t)(run - qnet__repeat_base[symbol - 16]),
                           qnet__repeat_extra[symbol - 16]);
    }
    if (write) return 0;
    qnet__huffman_make(codelen->count, 19, 7, codelen->length, codelen->code);
    while (codes > 4 && codelen->length[qnet__codelen_order[codes - 1]] == 0) codes--;
    return 14 + 3 * (size_t)codes +
           qnet__coded_bits(codelen->count, codelen->length, 19, qnet__repeat_extra, 16);
}

/* Codes window[start..size) as one block in the smallest of the three forms, and hands it on. */
static qnet_status qnet__deflate_block(qnet__deflate *d, int last)
{
    uint8_t fixed[QNET__FIXED_CODES], fixed_dist[32];
    qnet__alphabet codelen;
    size_t n = d->size - d->start, dynamic_bits, fixed_bits, stored_bits = 8 * n + 40, written;
    qnet__deflate_parse(d);
    qnet__huffman_make(d->litlen.count, QNET__LITLEN_CODES, 15, d->litlen.length, d->litlen.code);
    qnet__huffman_make(d->dist.count, QNET__DIST_CODES, 15, d->dist.length, d->dist.code);
    memset(&codelen, 0, sizeof codelen);
    qnet__fixed_lengths(fixed, fixed_dist);
    /* Each form's exact cost is known before a bit is written. */
    dynamic_bits = qnet__deflate_head(d, &codelen, 0) +
                   qnet__deflate_cost(d, d->litlen.length, d->dist.length);
    fixed_bits = qnet__deflate_cost(d, fixed, fixed_dist);
    qnet__put_bits(d, last ? 1 : 0, 1);
    /* Ties go to the form that is faster to unpack. */
    if (stored_bits <= qnet__min_size(dynamic_bits, fixed_bits)) {
        qnet__put_bits(d, 0, 2);
        qnet__put_bits(d, 0, -d->bit_count & 7); /* up to a whole byte */
        qnet__put_bits(d, (uint32_t)n, 16);
        qnet__put_bits(d, (uint32_t)n ^ 0xffff, 16);
        memcpy(d->out + d->written, d->window + d->start, n);
        d->written += n;
    } else if (fixed_bits <= dynamic_bits) {
        qnet__put_bits(d, 1, 2);
        memcpy(d->litlen.length, fixed, sizeof fixed);
        memcpy(d->dist.length, fixed_dist, QNET__DIST_CODES);
        qnet__canonical_codes(fixed, QNET__FIXED_CODES, d->litlen.code);
        qnet__canonical_codes(fixed_dist, QNET__DIST_CODES, d->dist.code);
        qnet__deflate_tokens(d);
    } else {
        qnet__put_bits(d, 2, 2);
        qnet__deflate_head(d, &codelen, 1);
        qnet__deflate_tokens(d);
    }
    d->start = d->size;
    written = d->written;
    d->written = 0;
    return qnet__write(d->ctx, d->sink, d->out, written);
}

/* Makes room for the next block: the last 32768 bytes stay, and all places move down with them. */
static void qnet__deflate_slide(qnet__deflate *d)
{
    int32_t i;
    memmove(d->window, d->window + QNET__WINDOW, QNET__WINDOW);
    memmove(d->previous, d->previous + QNET__WINDOW, QNET__WINDOW * sizeof d->previous[0]);
    for (i = 0; i < 1 << QNET__HASH_BITS; i++)
        d->head[i] = qnet__max_int(d->head[i] - QNET__WINDOW, -1);
    for (i = 0; i < QNET__WINDOW; i++)
        d->previous[i] = qnet__max_int(d->previous[i] - QNET__WINDOW, -1);
    d->start -= QNET__WINDOW;
    d->size -= QNET__WINDOW;
    d->hashed -= QNET__WINDOW;
}

/* Takes in bytes[size]. A full block is coded only when more comes, so that the last one is known
   to be the last. */
static qnet_status qnet__deflate_write(qnet__deflate *d, const void *bytes, size_t size)
{
    const unsigned char *p = (const unsigned char *)bytes;
    size_t n;
    d->check = d->zlib ? qnet__adler32(d->check, p, size)
                       : qnet__crc32_update(d->crc_table, d->check, p, size);
    d->plain_size += (uint32_t)size; /* mod 2^32, as gzip has it */
    for (; size > 0; p += n, size -= n) {
        if (d->size - d->start == QNET__BLOCK) QNET__TRY(qnet__deflate_block(d, 0));
        if (d->size == 2 * QNET__WINDOW) qnet__deflate_slide(d);
        n = qnet__min_size(size, d->start + QNET__BLOCK - d->size);
        memcpy(d->window + d->size, p, n);
        d->size += n;
    }
    return QNET_OK;
}

/* The last block and the check sums. */
static qnet_status qnet__deflate_finish(qnet__deflate *d)
{
    unsigned char trailer[8];
    QNET__TRY(qnet__deflate_block(d, 1));
    qnet__put_bits(d, 0, -d->bit_count & 7); /* up to a whole byte */
    QNET__TRY(qnet__write(d->ctx, d->sink, d->out, d->written));
    qnet__store_le32(trailer, d->check);
    qnet__store_le32(trailer + 4, d->plain_size);
    if (d->zlib) qnet__store_be32(trailer, d->check);
    return qnet__write(d->ctx, d->sink, trailer, d->zlib ? 4 : 8);
}

/* Appends one gzip member to out, which is as before on failure. Same bytes in, same bytes out:
   no time and no name are written. */
QNET_API qnet_status qnet_gzip_compress(qnet_context *ctx, const void *bytes, size_t size,
                                        qnet_buffer *out)
{
    qnet__deflate *d;
    qnet_sink sink;
    qnet_status status;
    size_t before;
    if (ctx == NULL || (bytes == NULL && size > 0) || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_gzip_compress: context, bytes or out is NULL");
    d = (qnet__deflate *)qnet__alloc(ctx, sizeof *d);
    if (d == NULL) return qnet__no_memory(ctx, sizeof *d, "packing gzip data");
    before = out->size;
    sink = qnet_sink_buffer(ctx, out, "(memory)");
    qnet__deflate_start(d, ctx, &sink, 0);
    status = qnet__deflate_write(d, bytes, size);
    if (status == QNET_OK) status = qnet__deflate_finish(d);
    qnet__free(ctx, d, sizeof *d);
    if (status != QNET_OK) qnet__buffer_cut(ctx, out, before);
    return status;
}

/* ============================================================================================
   >>png   PNG pictures out (ISO/IEC 15948): 8 bits, grey or RGB, by the deflate above.
   ============================================================================================ */

/* A chunk: length, type, bytes[size], CRC of type and bytes; big-endian numbers (PNG, 5.3). */
static qnet_status qnet__png_chunk(qnet_context *ctx, qnet_sink *sink, const char *type,
                                   const unsigned char *bytes, size_t size)
{
    unsigned char head[8], crc[4];
    qnet__store_be32(head, (uint32_t)size);
    memcpy(head + 4, type, 4);
    qnet__store_be32(crc, qnet_crc32(qnet_crc32(0, head + 4, 4), bytes, size));
    QNET__TRY(qnet__write(ctx, sink, head, 8));
    QNET__TRY(qnet__write(ctx, sink, bytes, size));
    return qnet__write(ctx, sink, crc, 4);
}

/* A row of a picture is sent as differences to a prediction from pixels that are known by then,
   one of five kinds per row; smooth pictures leave small numbers, which deflate packs better.
   What filter `kind` predicts from the bytes to the left, above and above left (PNG, 9.2). */
static int qnet__png_predict(int kind, int left, int above, int corner)
{
    int p = left + above - corner, a = abs(p - left), b = abs(p - above), c = abs(p - corner);
    switch (kind) {
    case 0: return 0;
    case 1: return left;
    case 2: return above;
    case 3: return (left + above) / 2;
    default: return a <= b && a <= c ? left : b <= c ? above : corner; /* Paeth */
    }
}

/* line[1 + bytes]: the kind of the filter and row[bytes] filtered by it; above: the row before,
   NULL for the first. Of the five kinds the one with the smallest sum of absolute differences
   wins (PNG, 12.8). */
static void qnet__png_filter(const uint8_t *row, const uint8_t *above, size_t bytes, size_t pixel,
                             unsigned char *line)
{
    double best = HUGE_VAL;
    int pass, best_kind = 0;
    size_t i;
    for (pass = 0; pass < 6; pass++) { /* the sixth time with the best: what is in line stays */
        int kind = pass < 5 ? pass : best_kind;
        double sum = 0;
        for (i = 0; i < bytes; i++) {
            int left = i >= pixel ? row[i - pixel] : 0, up = above ? above[i] : 0;
            int corner = above && i >= pixel ? above[i - pixel] : 0;
            int d = (row[i] - qnet__png_predict(kind, left, up, corner)) & 255;
            line[1 + i] = (unsigned char)d;
            sum += d < 128 ? d : 256 - d; /* mod 256: 255 is as near to 0 as 1 is */
        }
        if (sum < best) best_kind = kind;
        best = fmin(best, sum);
    }
    line[0] = (unsigned char)best_kind;
}

/* Signature, IHDR, one IDAT with all rows as a zlib stream, IEND. The stream is made in memory
   first, for its length stands before it. */
QNET_API qnet_status qnet_png_write(qnet_context *ctx, qnet_sink *sink, int width, int height,
                                    int channels, const uint8_t *pixels)
{
    static const unsigned char signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    unsigned char head[13] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0}, *line;
    qnet_buffer data = {NULL, 0, 0, NULL};
    qnet_sink to;
    qnet__deflate *d;
    size_t row, block, total;
    qnet_status status = QNET_OK;
    int y;
    if (ctx == NULL || sink == NULL || pixels == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_png_write: context, sink or pixels is NULL");
    if (width < 1 || height < 1 || (channels != 1 && channels != 3))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_png_write: picture is %d x %d x %d, "
                          "expected sides > 0, 1 or 3 channels", width, height, channels);
    row = (size_t)width * (size_t)channels;
    if (width > INT_MAX / 4 || !qnet__mul(row, (size_t)height, &total) || total > INT_MAX / 2)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "qnet_png_write: picture is %d x %d x %d, "
                          "expected at most 2^30 bytes", width, height, channels);
    block = sizeof *d + row + 1;
    d = (qnet__deflate *)qnet__alloc(ctx, block);
    if (d == NULL) return qnet__no_memory(ctx, block, "packing a picture");
    line = (unsigned char *)(d + 1);
    to = qnet_sink_buffer(ctx, &data, qnet__sink_name(sink));
    qnet__deflate_start(d, ctx, &to, 1);
    for (y = 0; y < height && status == QNET_OK; y++) {
        const uint8_t *p = pixels + (size_t)y * row;
        qnet__png_filter(p, y > 0 ? p - row : NULL, row, (size_t)channels, line);
        status = qnet__deflate_write(d, line, row + 1);
    }
    if (status == QNET_OK) status = qnet__deflate_finish(d);
    qnet__free(ctx, d, block);
    qnet__store_be32(head, (uint32_t)width);
    qnet__store_be32(head + 4, (uint32_t)height);
    head[9] = channels == 3 ? 2 : 0; /* colour type */
    if (status == QNET_OK) status = qnet__write(ctx, sink, signature, 8);
    if (status == QNET_OK) status = qnet__png_chunk(ctx, sink, "IHDR", head, 13);
    if (status == QNET_OK) status = qnet__png_chunk(ctx, sink, "IDAT", data.bytes, data.size);
    if (status == QNET_OK) status = qnet__png_chunk(ctx, sink, "IEND", NULL, 0);
    qnet_buffer_free(ctx, &data);
    return status;
}

#ifndef QNET_NO_STDIO
/* The same into a file, by way of path.tmp. */
QNET_API qnet_status qnet_png_save(qnet_context *ctx, const char *path, int width, int height,
                                   int channels, const uint8_t *pixels)
{
    qnet__file file;
    qnet_sink sink;
    qnet_status status;
    if (ctx == NULL || path == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_png_save: context or path is NULL");
    QNET__TRY(qnet__file_open_replace(ctx, path, &file, &sink));
    status = qnet_png_write(ctx, &sink, width, height, channels, pixels);
    if (status == QNET_OK) return qnet__file_commit(ctx, &file);
    qnet__file_abandon(&file);
    return status;
}
#endif

/* ============================================================================================
   >>nifti   Volumes, and NIfTI-1 files in and out (nifti1.h, R. W. Cox 2007).

   Nothing is flipped when a file is read: voxels stay in file order, and where they lie is in
   the affine. Turning a volume is an act of its own, qnet_volume_reorient.
   ============================================================================================ */

/* ---- 3 x 3 matrices and affines ---- */

/* The determinant of m. */
static double qnet__det3(double m[3][3])
{
    return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
           m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
           m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

/* affine[3][4], row by row. norm[j]: the length of its column j, the spacing along axis j; r[3][3]:
   the orthogonal matrix nearest to the normalised columns, by Newton's iteration R <- (R + R^-T) /
   2 for the polar decomposition (Higham 1986). Returns 0 when the affine is not finite or singular.
 */
static int qnet__affine_axes(const double *affine, double norm[3], double r[3][3])
{
    int i, j, step;
    for (j = 0; j < 3; j++) {
        double a = affine[j], b = affine[4 + j], c = affine[8 + j];
        norm[j] = sqrt(a * a + b * b + c * c);
        if (!(norm[j] > 1e-9 && norm[j] < 1e9 && fabs(affine[4 * j + 3]) < 1e12)) return 0;
        for (i = 0; i < 3; i++) r[i][j] = affine[4 * i + j] / norm[j];
    }
    if (fabs(qnet__det3(r)) < 1e-6) return 0; /* unit columns that lie (nearly) in one plane */
    for (step = 0; step < 50; step++) {
        double det = qnet__det3(r), next[3][3], change = 0;
        for (i = 0; i < 3; i++) {
            int i1 = (i + 1) % 3, i2 = (i + 2) % 3;
            for (j = 0; j < 3; j++) { /* cofactor / det = the transposed inverse */
                int j1 = (j + 1) % 3, j2 = (j + 2) % 3;
                next[i][j] = (r[i][j] + (r[i1][j1] * r[i2][j2] - r[i1][j2] * r[i2][j1]) / det) / 2;
                change += fabs(next[i][j] - r[i][j]);
            }
        }
        memcpy(r, next, sizeof next);
        if (change < 1e-15) break;
    }
    return 1;
}

/* world[j]: 0 right-left, 1 front-back, 2 up-down, the world axis nearest to voxel axis j; sign[j]:
   1 towards right, front, up. Axes are settled from the clearest on, each world axis once, as
   nibabel's io_orientation does it. */
static void qnet__nearest_axes(double r[3][3], int world[3], int sign[3])
{
    double strength[3];
    int is_free[3] = {1, 1, 1}, i, j, k, best;
    for (j = 0; j < 3; j++) {
        strength[j] = fmax(fabs(r[0][j]), fmax(fabs(r[1][j]), fabs(r[2][j])));
        world[j] = -1;
    }
    for (k = 0; k < 3; k++) { /* with the axes beyond 45 degrees two may want the same one */
        for (i = 0, j = -1; i < 3; i++)
            if (world[i] < 0 && (j < 0 || strength[i] > strength[j])) j = i;
        for (i = 0, best = -1; i < 3; i++)
            if (is_free[i] && (best < 0 || fabs(r[i][j]) > fabs(r[best][j]))) best = i;
        is_free[best] = 0;
        world[j] = best;
        sign[j] = r[best][j] < 0 ? -1 : 1;
    }
}

/* "RAS", "LPI", ...: what the axes of r point to. */
static void qnet__orientation_text(double r[3][3], char text[4])
{
    int world[3], sign[3], j;
    qnet__nearest_axes(r, world, sign);
    for (j = 0; j < 3; j++) text[j] = sign[j] > 0 ? "RAS"[world[j]] : "LPI"[world[j]];
    text[3] = '\0';
}

/* The quaternion of a rotation, scalar part first and not negative. Row k of m is 4 q_k q: the one
   with the largest diagonal is divided by the largest number there is (Shepperd 1978). */
static void qnet__rotation_to_quaternion(double r[3][3], double q[4])
{
    double m[4][4], trace = r[0][0] + r[1][1] + r[2][2], s;
    int i, j, k;
    m[0][0] = 1 + trace;
    for (i = 0; i < 3; i++) {
        j = (i + 1) % 3;
        k = (i + 2) % 3;
        m[0][i + 1] = m[i + 1][0] = r[k][j] - r[j][k];
        m[i + 1][i + 1] = 1 + 2 * r[i][i] - trace;
        m[i + 1][j + 1] = m[j + 1][i + 1] = r[j][i] + r[i][j];
    }
    for (i = 1, k = 0; i < 4; i++)
        if (m[i][i] > m[k][k]) k = i;
    s = 2 * sqrt(m[k][k]);
    if (m[k][0] < 0) s = -s; /* q and -q are one rotation; the file takes a as positive */
    for (i = 0; i < 4; i++) q[i] = m[k][i] / s;
}

/* The rotation of a quaternion a + bi + cj + dk of any length but 0 (nifti1.h, "method 2"). */
static void qnet__quaternion_to_rotation(const double q[4], double r[3][3])
{
    double a = q[0], s = 2 / (a * a + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    int i;
    for (i = 0; i < 3; i++) {
        int j = (i + 1) % 3, k = (i + 2) % 3;
        double b = q[1 + i], c = q[1 + j], d = q[1 + k];
        r[i][i] = 1 - s * (c * c + d * d);
        r[i][j] = s * (b * c - a * d);
        r[i][k] = s * (b * d + a * c);
    }
}

/* ---- volumes ---- */

/* nx * ny * nz, or 0 when a side is not positive or the product is above QNET_MAX_VOXELS. */
static size_t qnet__voxel_count(int nx, int ny, int nz)
{
    size_t n;
    if (nx < 1 || ny < 1 || nz < 1 || !qnet__mul((size_t)nx, (size_t)ny, &n) ||
        !qnet__mul(n, (size_t)nz, &n))
        return 0;
    return n <= (size_t)QNET_MAX_VOXELS ? n : 0;
}

/* A volume of zeros with 1 mm voxels, axes to the right, front and top, voxel (0,0,0) at 0. Set
   affine to what you need; writing and reorienting take orientation and spacing from it. */
QNET_API qnet_status qnet_volume_create(qnet_context *ctx, int nx, int ny, int nz,
                                        qnet_volume **out)
{
    qnet_volume *v;
    size_t count = qnet__voxel_count(nx, ny, nz);
    int i;
    if (ctx == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_volume_create: context or out is NULL");
    if (count == 0)
        return qnet__fail(ctx, nx < 1 || ny < 1 || nz < 1 ? QNET_ERROR_ARGUMENT : QNET_ERROR_LIMIT,
                          "qnet_volume_create: size is %d x %d x %d, expected sides of 1 or more "
                          "and at most %.0f voxels", nx, ny, nz, (double)QNET_MAX_VOXELS);
    v = (qnet_volume *)qnet__alloc(ctx, sizeof *v);
    if (v == NULL) return qnet__no_memory(ctx, sizeof *v, "a volume");
    memset(v, 0, sizeof *v);
    v->ctx = ctx;
    v->nx = nx;
    v->ny = ny;
    v->nz = nz;
    for (i = 0; i < 3; i++) v->spacing[i] = v->affine[i][i] = 1;
    memcpy(v->orientation, "RAS", 4);
    v->affine_source = 2;
    v->voxels = (float *)qnet__alloc(ctx, count * sizeof *v->voxels);
    if (v->voxels == NULL) {
        qnet__free(ctx, v, sizeof *v);
        return qnet__no_memory(ctx, count * sizeof(float), "the voxels of a volume");
    }
    memset(v->voxels, 0, count * sizeof *v->voxels);
    *out = v;
    return QNET_OK;
}

/* NULL is no error. nx, ny, nz must be what they were: they say how large the block is. */
QNET_API void qnet_volume_destroy(qnet_volume *volume)
{
    if (volume == NULL) return;
    qnet__free(volume->ctx, volume->voxels,
               qnet__voxel_count(volume->nx, volume->ny, volume->nz) * sizeof(float));
    qnet__free(volume->ctx, volume, sizeof *volume);
}

/* New axis j runs along an old axis i, backwards where flipped: index_old = n - 1 - index_new. The
   affine follows: column j is the old column i, negated where flipped, and the origin moves to the
   corner that is index 0 now. The volume is as before on failure. */
QNET_API qnet_status qnet_volume_reorient(qnet_volume *volume, const char *to)
{
    static const char letters[] = "RASLPI"; /* letter k is world axis k % 3, negative from 3 on */
    double norm[3], r[3][3], affine[3][4], spacing[3];
    int world[3], sign[3], n[3], size[3], seen[3] = {0, 0, 0}, moves = 0, i, j, k, x, y, z;
    ptrdiff_t stride[3], step[3], start = 0;
    size_t bytes, at = 0;
    float *voxels;
    if (volume == NULL || to == NULL)
        return qnet__fail(volume ? volume->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "qnet_volume_reorient: volume or orientation is NULL");
    if (!qnet__affine_axes(&volume->affine[0][0], norm, r))
        return qnet__fail(volume->ctx, QNET_ERROR_DATA,
                          "qnet_volume_reorient: the affine is singular or not finite");
    qnet__nearest_axes(r, world, sign);
    n[0] = volume->nx;
    n[1] = volume->ny;
    n[2] = volume->nz;
    stride[0] = 1;
    stride[1] = n[0];
    stride[2] = (ptrdiff_t)n[0] * n[1];
    memcpy(affine, volume->affine, sizeof affine);
    for (j = 0; j < 3; j++) {
        const char *letter = to[j] ? strchr(letters, to[j]) : NULL;
        int flip;
        k = letter ? (int)(letter - letters) : -1;
        if (k < 0 || seen[k % 3]++ || (j == 2 && to[3]))
            return qnet__fail(volume->ctx, QNET_ERROR_ARGUMENT,
                              "qnet_volume_reorient: orientation is \"%.20s\", expected three "
                              "letters, one each of R/L, A/P, S/I", to);
        for (i = 0; world[i] != k % 3; i++) {}
        flip = (sign[i] > 0) != (k < 3);
        size[j] = n[i];
        spacing[j] = norm[i];
        step[j] = flip ? -stride[i] : stride[i];
        if (flip) start += stride[i] * (n[i] - 1);
        moves |= flip || i != j;
        for (k = 0; k < 3; k++) {
            affine[k][j] = flip ? -volume->affine[k][i] : volume->affine[k][i];
            if (flip) affine[k][3] += volume->affine[k][i] * (n[i] - 1);
        }
    }
    /* The fields are set in any case, since the caller may have changed the affine. */
    if (moves) {
        bytes = qnet__voxel_count(n[0], n[1], n[2]) * sizeof *voxels;
        voxels = (float *)qnet__alloc(volume->ctx, bytes);
        if (voxels == NULL) return qnet__no_memory(volume->ctx, bytes, "reorienting a volume");
        for (z = 0; z < size[2]; z++)
            for (y = 0; y < size[1]; y++) {
                const float *row = volume->voxels + (start + z * step[2] + y * step[1]);
                for (x = 0; x < size[0]; x++) voxels[at++] = row[x * step[0]];
            }
        qnet__free(volume->ctx, volume->voxels, bytes);
        volume->voxels = voxels;
    }
    volume->nx = size[0];
    volume->ny = size[1];
    volume->nz = size[2];
    memcpy(volume->affine, affine, sizeof affine);
    memcpy(volume->spacing, spacing, sizeof spacing);
    memcpy(volume->orientation, to, 4);
    return QNET_OK;
}

/* ---- the header ---- */

/* The fields of nifti_1_header that are used here, by their offset in the file:
     0  int32    sizeof_hdr      348; read the wrong way round it gives away the byte order
    40  int16[8] dim             number of axes, then the length of each
    70  int16    datatype        qnet_nifti_type
    72  int16    bitpix          bits per voxel; must agree with datatype
    76  float[8] pixdim          qfac (1 or -1), then the spacing along each axis
   108  float    vox_offset      where the voxels start, 352 without extensions
   112  float    scl_slope       voxel = stored * scl_slope + scl_inter; 0: as stored
   116  float    scl_inter
   123  char     xyzt_units      low 3 bits: 1 m, 2 mm, 3 micron
   148  char[80] descrip
   252  int16    qform_code      above 0: the quaternion below is valid
   254  int16    sform_code      above 0: the matrix below is valid
   256  float[3] quatern_b, c, d
   268  float[3] qoffset_x, y, z
   280  float[3][4] srow_x, y, z the matrix: voxel index to world
   344  char[4]  magic           "n+1": header and voxels in one file
   Four bytes follow; where the first is not 0, so do extensions up to vox_offset. */
#define QNET__NIFTI_HEADER     348
#define QNET__NIFTI_MAX_OFFSET ((size_t)1 << 28) /* header and extensions together */
#define QNET__NIFTI_MAX_TAIL   ((size_t)1 << 20) /* bytes after the last voxel that are let pass */
#define QNET__NIFTI_PIECE      65536             /* bytes read or written at a time */
#define QNET__NIFTI_TRUST      ((size_t)1 << 24) /* voxels allocated on the header's word alone */

/* A datatype of the format: its code, bytes per voxel, name. bytes 0: not one real number per
   voxel, not supported. */
typedef struct qnet__nifti_kind {
    int code, bytes;
    const char *name;
    double low, high; /* the stored values that an integer type holds; 0, 0 for floats */
} qnet__nifti_kind;

static const qnet__nifti_kind qnet__nifti_kinds[] = {
    {QNET_NIFTI_UINT8, 1, "uint8", 0, 255},
    {QNET_NIFTI_INT16, 2, "int16", -32768, 32767},
    {QNET_NIFTI_INT32, 4, "int32", -2147483648.0, 2147483647.0},
    {QNET_NIFTI_FLOAT32, 4, "float32", 0, 0},
    {QNET_NIFTI_FLOAT64, 8, "float64", 0, 0},
    {QNET_NIFTI_INT8, 1, "int8", -128, 127},
    {QNET_NIFTI_UINT16, 2, "uint16", 0, 65535},
    {QNET_NIFTI_UINT32, 4, "uint32", 0, 4294967295.0},
    /* the largest doubles below 2^63 and 2^64 */
    {QNET_NIFTI_INT64, 8, "int64", -9223372036854775808.0, 9223372036854774784.0},
    {QNET_NIFTI_UINT64, 8, "uint64", 0, 18446744073709549568.0},
    {1, 0, "binary", 0, 0}, {32, 0, "complex64", 0, 0}, {128, 0, "RGB24", 0, 0},
    {1536, 0, "float128", 0, 0}, {1792, 0, "complex128", 0, 0}, {2048, 0, "complex256", 0, 0},
    {2304, 0, "RGBA32", 0, 0}, {-1, 0, "unknown", 0, 0}};

/* The entry of a code, the last one when there is none. */
static const qnet__nifti_kind *qnet__nifti_entry(int code)
{
    const qnet__nifti_kind *kind = qnet__nifti_kinds;
    while (kind->code != code && kind->code >= 0) kind++;
    return kind;
}

/* NULL for a code that is none of qnet_nifti_type. */
static const qnet__nifti_kind *qnet__nifti_find(int code)
{
    const qnet__nifti_kind *kind = qnet__nifti_entry(code);
    return kind->bytes > 0 ? kind : NULL;
}

static const char *qnet__nifti_unsupported_name(int code)
{
    return qnet__nifti_entry(code)->name;
}

/* The 1, 2, 4 or 8 bytes at p as a number, in the byte order of the file. */
static uint64_t qnet__nifti_bits(const unsigned char *p, int bytes, int big)
{
    switch (bytes) {
    case 1: return p[0];
    case 2: return big ? qnet__load_be16(p) : qnet__load_le16(p);
    case 4: return big ? qnet__load_be32(p) : qnet__load_le32(p);
    default: return big ? qnet__load_be64(p) : qnet__load_le64(p);
    }
}

/* The number of type `code` at p. */
static double qnet__nifti_get(const unsigned char *p, int code, int big)
{
    uint32_t bits32;
    uint64_t bits64;
    float f32;
    double f64;
    switch (code) {
    case QNET_NIFTI_UINT8: return p[0];
    case QNET_NIFTI_INT8: return (int8_t)p[0];
    case QNET_NIFTI_UINT16: return (double)qnet__nifti_bits(p, 2, big);
    case QNET_NIFTI_INT16: return (int16_t)qnet__nifti_bits(p, 2, big);
    case QNET_NIFTI_UINT32: return (double)qnet__nifti_bits(p, 4, big);
    case QNET_NIFTI_INT32: return (int32_t)qnet__nifti_bits(p, 4, big);
    case QNET_NIFTI_UINT64: return (double)qnet__nifti_bits(p, 8, big);
    case QNET_NIFTI_INT64: return (double)(int64_t)qnet__nifti_bits(p, 8, big);
    case QNET_NIFTI_FLOAT32:
        bits32 = (uint32_t)qnet__nifti_bits(p, 4, big);
        memcpy(&f32, &bits32, sizeof f32);
        return (double)f32;
    default:
        bits64 = qnet__nifti_bits(p, 8, big);
        memcpy(&f64, &bits64, sizeof f64);
        return f64;
    }
}

/* Writes v as type `code` at p, integers rounded with halves to even, as numpy does; 0 when it does
   not fit. */
static int qnet__nifti_put(unsigned char *p, int code, int big, double v)
{
    const qnet__nifti_kind *kind = qnet__nifti_entry(code);
    uint64_t bits;
    int i;
    if (kind->high > 0) {
        v = rint(v);
        if (!(v >= kind->low && v <= kind->high)) return 0; /* NaN, too */
        bits = kind->low < 0 ? (uint64_t)(int64_t)v : (uint64_t)v;
    } else if (kind->bytes == 4) {
        float f = (float)v;
        uint32_t low;
        if (fabs(v) > (double)FLT_MAX && qnet__is_finite(v)) return 0;
        memcpy(&low, &f, sizeof low);
        bits = low;
    } else {
        memcpy(&bits, &v, sizeof bits);
    }
    for (i = 0; i < kind->bytes; i++, bits >>= 8)
        p[big ? kind->bytes - 1 - i : i] = (unsigned char)(bits & 255);
    return 1;
}

/* Short forms for the fields of the header. */
static int qnet__nifti_short(const unsigned char *p, int big)
{
    return (int)qnet__nifti_get(p, QNET_NIFTI_INT16, big);
}

static double qnet__nifti_float(const unsigned char *p, int big)
{
    return qnet__nifti_get(p, QNET_NIFTI_FLOAT32, big);
}

/* The state of reading, in one block of the heap. After qnet__nifti_parse nothing in here can lead
   a reader out of bounds. */
typedef struct qnet__nifti_reader {
    qnet_context *ctx;
    qnet_source *source;
    const char *name;
    qnet_volume volume; /* what will be handed out */
    const qnet__nifti_kind *kind;
    int packed, big;
    size_t count, offset;
    double slope, intercept;
    unsigned char header[QNET__NIFTI_HEADER];
    qnet__inflate inflate; /* if packed */
    unsigned char piece[QNET__NIFTI_PIECE];
} qnet__nifti_reader;

/* affine of the quaternion in the header ("method 2" of nifti1.h). qfac, in pixdim[0], is -1 where
   the third axis makes the frame left-handed. Returns 0 when the quaternion is longer than 1. */
static int qnet__nifti_qform(const unsigned char *h, int big, const double pixdim[3],
                             double affine[3][4])
{
    double q[4], r[3][3], rest, qfac = qnet__nifti_float(h + 76, big) < 0 ? -1 : 1;
    int i, j;
    for (i = 0; i < 3; i++) {
        q[1 + i] = qnet__nifti_float(h + 256 + 4 * i, big);
        affine[i][3] = qnet__nifti_float(h + 268 + 4 * i, big);
    }
    rest = 1 - (q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    /* Slightly below 0 is rounding of the stored floats (3 units, as nibabel allows). */
    if (!(rest >= -3 * (double)FLT_EPSILON)) return 0;
    q[0] = rest <= 3 * (double)FLT_EPSILON ? 0 : sqrt(rest);
    qnet__quaternion_to_rotation(q, r);
    for (i = 0; i < 3; i++)
        for (j = 0; j < 3; j++) affine[i][j] = r[i][j] * pixdim[j] * (j == 2 ? qfac : 1);
    return 1;
}

/* Where the voxels lie: the sform if its code says that there is one, else the qform, else spacing
   alone: then axes to the left, front and top around the volume's centre, as nibabel takes them
   from ANALYZE, with a warning in the log. */
static qnet_status qnet__nifti_affine(qnet__nifti_reader *in)
{
    static const char *const source[3] = {"pixdim", "qform", "sform"};
    static const double mm[4] = {1, 1000, 1, .001}; /* of a unit: unknown, m, mm, micron */
    qnet_volume *v = &in->volume;
    const unsigned char *h = in->header;
    int big = in->big, dims = qnet__nifti_short(h + 40, big), units = h[123] & 7, i, j, n[3];
    int qform = qnet__nifti_short(h + 252, big), sform = qnet__nifti_short(h + 254, big);
    double pixdim[3], other[3][4], r[3][3], norm[3];
    char text[4];
    if (units > 3)
        return qnet__fail(in->ctx, QNET_ERROR_FORMAT, "%s: xyzt_units has the spatial unit %d, "
                          "expected 0 (unknown: mm), 1 (m), 2 (mm) or 3 (micron)", in->name, units);
    n[0] = v->nx;
    n[1] = v->ny;
    n[2] = v->nz;
    for (i = 0; i < 3; i++) {
        pixdim[i] = qnet__nifti_float(h + 80 + 4 * i, big);
        if (pixdim[i] == 0 && (i >= dims || n[i] == 1)) pixdim[i] = 1; /* no such axis */
        if (sform <= 0 && !(pixdim[i] > 0 && qnet__is_finite(pixdim[i])))
            return qnet__fail(in->ctx, QNET_ERROR_FORMAT, "%s: pixdim[%d] is %g, expected a "
                              "spacing above 0", in->name, i + 1, pixdim[i]);
    }
    v->affine_source = sform > 0 ? 2 : qform > 0 ? 1 : 0;
    for (i = 0; i < 3 && v->affine_source == 2; i++)
        for (j = 0; j < 4; j++) v->affine[i][j] = qnet__nifti_float(h + 280 + 16 * i + 4 * j, big);
    if (v->affine_source == 1 && !qnet__nifti_qform(h, big, pixdim, v->affine))
        return qnet__fail(in->ctx, QNET_ERROR_FORMAT, "%s: qform: quatern_b, c, d are longer than "
                          "1", in->name);
    if (v->affine_source == 0) {
        for (i = 0; i < 3; i++) {
            v->affine[i][i] = i == 0 ? -pixdim[i] : pixdim[i];
            v->affine[i][3] = -v->affine[i][i] * (n[i] - 1) / 2;
        }
        qnet__log(in->ctx, QNET_LOG_WARNING,
                  "%s: neither sform nor qform: taken as LAS, side unknown", in->name);
    }
    for (i = 0; i < 3; i++)
        for (j = 0; j < 4; j++) v->affine[i][j] *= mm[units];
    if (!qnet__affine_axes(&v->affine[0][0], v->spacing, r))
        return qnet__fail(in->ctx, QNET_ERROR_FORMAT, "%s: the affine of the %s is singular or not "
                          "finite", in->name, source[v->affine_source]);
    qnet__orientation_text(r, v->orientation);
    /* Both forms may be there and mean different spaces; that is no fault. That they flip an axis
       against each other mostly is one, of some tool that turned the picture and one form only. */
    if (v->affine_source == 2 && qform > 0 && qnet__nifti_qform(h, big, pixdim, other) &&
        qnet__affine_axes(&other[0][0], norm, r)) {
        qnet__orientation_text(r, text);
        if (strcmp(text, v->orientation) != 0)
            qnet__log(in->ctx, QNET_LOG_WARNING,
                      "%s: sform says %s and qform says %s; sform is used", in->name,
                      v->orientation, text);
    }
    return QNET_OK;
}

/* Checks the header and takes what matters from it. The order matters: what kind of file it is
   comes first, then the size, so that a wrong file gets a sentence about its kind and not about
   some field. */
static qnet_status qnet__nifti_parse(qnet__nifti_reader *in)
{
    qnet_context *ctx = in->ctx;
    const char *name = in->name;
    const unsigned char *h = in->header;
    int dim[8], i, code, bitpix;
    uint64_t size[2]; /* sizeof_hdr in either byte order: it tells which one it is */
    double offset, slope;
    for (i = 0; i < 2; i++) size[i] = qnet__nifti_bits(h, 4, i);
    in->big = size[1] == QNET__NIFTI_HEADER;
    if (size[0] == 540 || size[1] == 540)
        return qnet__fail(ctx, QNET_ERROR_UNSUPPORTED,
                          "%s: sizeof_hdr is 540 (NIfTI-2), expected 348 (NIfTI-1)", name);
    if (!in->big && size[0] != QNET__NIFTI_HEADER)
        return qnet__fail(ctx, QNET_ERROR_FORMAT, "%s: not a NIfTI-1 file: sizeof_hdr is %ld, "
                          "expected 348 in either byte order", name, (long)(int32_t)size[0]);
    if (memcmp(h + 344, "ni1", 4) == 0)
        return qnet__fail(ctx, QNET_ERROR_UNSUPPORTED, "%s: magic is \"ni1\" (a .hdr/.img pair), "
                          "expected \"n+1\" (one file)", name);
    if (memcmp(h + 344, "n+1", 4) != 0)
        return qnet__fail(ctx, QNET_ERROR_FORMAT, "%s: not a NIfTI-1 file: magic is %02x %02x %02x "
                          "%02x, expected 6e 2b 31 00 (\"n+1\")", name, h[344], h[345], h[346],
                          h[347]);
    for (i = 0; i < 8; i++) dim[i] = qnet__nifti_short(h + 40 + 2 * i, in->big);
    if (dim[0] < 1 || dim[0] > 7)
        return qnet__fail(ctx, QNET_ERROR_FORMAT, "%s: dim[0] is %d, expected 1 to 7", name,
                          dim[0]);
    for (i = 1; i <= 7; i++) {
        if (i > dim[0]) dim[i] = 1; /* axes beyond the last hold anything, often 0 */
        if (dim[i] < 1)
            return qnet__fail(ctx, QNET_ERROR_FORMAT, "%s: dim[%d] is %d, expected 1 or more", name,
                              i, dim[i]);
        if (i > 3 && dim[i] > 1)
            return qnet__fail(ctx, QNET_ERROR_UNSUPPORTED, "%s: dim[%d] is %d, expected 1: one 3-D "
                              "volume, not a series", name, i, dim[i]);
    }
    in->volume.nx = dim[1];
    in->volume.ny = dim[2];
    in->volume.nz = dim[3];
    in->count = qnet__voxel_count(dim[1], dim[2], dim[3]);
    if (in->count == 0)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: dim is %d x %d x %d, expected at most %.0f "
                          "voxels (QNET_MAX_VOXELS)", name, dim[1], dim[2], dim[3],
                          (double)QNET_MAX_VOXELS);
    code = qnet__nifti_short(h + 70, in->big);
    bitpix = qnet__nifti_short(h + 72, in->big);
    in->kind = qnet__nifti_find(code);
    if (in->kind == NULL)
        return qnet__fail(ctx, QNET_ERROR_UNSUPPORTED, "%s: datatype is %d (%s), expected one of "
                          "2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280 (one real number per voxel)",
                          name, code, qnet__nifti_unsupported_name(code));
    /* bitpix says nothing new: two fields that disagree mean that one of them is damaged. */
    if (bitpix != 8 * in->kind->bytes)
        return qnet__fail(ctx, QNET_ERROR_FORMAT, "%s: bitpix is %d, expected %d for datatype %d "
                          "(%s)", name, bitpix, 8 * in->kind->bytes, code, in->kind->name);
    /* 0 is refused, too: whether voxels then start at 348 or 352 would be a guess, and a wrong one
       shifts the picture by some voxels without a sign. */
    offset = qnet__nifti_float(h + 108, in->big);
    if (!(offset >= 352 && offset == floor(offset) && qnet__is_finite(offset)))
        return qnet__fail(ctx, QNET_ERROR_FORMAT, "%s: vox_offset is %g, expected a whole number "
                          "of 352 or more", name, offset);
    if (offset > (double)QNET__NIFTI_MAX_OFFSET)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: vox_offset is %g, expected at most %.0f",
                          name, offset, (double)QNET__NIFTI_MAX_OFFSET);
    in->offset = (size_t)offset;
    slope = qnet__nifti_float(h + 112, in->big);
    in->intercept = qnet__nifti_float(h + 116, in->big);
    /* NaN is what some tools write for "none"; nibabel takes infinity so, too. */
    in->slope = qnet__is_finite(slope) && slope != 0 ? slope : 1; /* 0: no scaling (nifti1.h) */
    if (in->slope != slope) in->intercept = 0;
    if (!qnet__is_finite(in->intercept))
        return qnet__fail(ctx, QNET_ERROR_FORMAT, "%s: scl_inter is %g, expected a finite number",
                          name, in->intercept);
    return qnet__nifti_affine(in);
}

/* ---- reading ---- */

/* dst[size] from the file, unpacked; *got < size only at its end. */
static qnet_status qnet__nifti_next(qnet__nifti_reader *in, void *dst, size_t size, size_t *got)
{
    size_t n = 0;
    if (in->packed) return qnet__inflate_read(&in->inflate, dst, size, got);
    for (*got = 0; *got < size; *got += n) {
        unsigned char *to = (unsigned char *)dst + *got;
        if (in->source->read(in->source->user, to, size - *got, &n) != 0 || n > size - *got)
            return qnet__fail(in->ctx, QNET_ERROR_IO, "%s: reading failed", in->name);
        if (n == 0) break;
    }
    return QNET_OK;
}

/* "voxel (x, y, z)" of the volume for sentences. */
static void qnet__voxel_text(const qnet_volume *v, size_t at, char text[64])
{
    size_t row = (size_t)v->nx, slice = row * (size_t)v->ny;
    snprintf(text, 64, "voxel (%d, %d, %d)", (int)(at % row), (int)(at % slice / row),
             (int)(at / slice));
}

/* voxels[first..first + count) = slope * stored + intercept of what is in the piece, computed in
   double, then rounded to float. */
static qnet_status qnet__nifti_convert(qnet__nifti_reader *in, size_t first, size_t count)
{
    int code = in->kind->code, scaled = in->slope != 1 || in->intercept != 0;
    float *voxels = in->volume.voxels + first;
    const unsigned char *p = in->piece;
    char where[64];
    size_t i;
    for (i = 0; i < count; i++, p += in->kind->bytes) {
        double v;
        if (code == QNET_NIFTI_FLOAT32 && !scaled) { /* keeps every bit, those of a NaN included */
            uint32_t bits = (uint32_t)qnet__nifti_bits(p, 4, in->big);
            memcpy(&voxels[i], &bits, sizeof bits);
            continue;
        }
        v = qnet__nifti_get(p, code, in->big);
        if (scaled) v = v * in->slope + in->intercept;
        if (fabs(v) > (double)FLT_MAX && qnet__is_finite(v)) {
            qnet__voxel_text(&in->volume, first + i, where);
            return qnet__fail(in->ctx, QNET_ERROR_DATA, "%s: %s is %g, expected a number that a "
                              "float can hold", in->name, where, v);
        }
        voxels[i] = (float)v;
    }
    return QNET_OK;
}

/* All voxels into volume.voxels; *room is how many it holds, also on failure. A header that asks
   for very many gets them step by step, as the file delivers: a short file cannot make a huge
   allocation. */
static qnet_status qnet__nifti_voxels(qnet__nifti_reader *in, size_t *room)
{
    size_t bytes = (size_t)in->kind->bytes, done, got, n;
    for (done = 0; done < in->count; done += n) {
        if (done == *room) { /* all that was allocated has arrived */
            size_t grown = done < in->count / 4 ? done * 4 : in->count;
            float *more;
            if (done == 0) grown = qnet__min_size(in->count, QNET__NIFTI_TRUST);
            more = (float *)qnet__alloc(in->ctx, grown * sizeof *more);
            if (more == NULL)
                return qnet__no_memory(in->ctx, grown * sizeof *more, "the voxels of a volume");
            if (done > 0) memcpy(more, in->volume.voxels, done * sizeof *more);
            qnet__free(in->ctx, in->volume.voxels, *room * sizeof *more);
            in->volume.voxels = more;
            *room = grown;
        }
        n = qnet__min_size(QNET__NIFTI_PIECE / bytes, *room - done);
        QNET__TRY(qnet__nifti_next(in, in->piece, n * bytes, &got));
        if (got < n * bytes)
            return qnet__fail(in->ctx, QNET_ERROR_FORMAT, "%s: truncated: dim %d x %d x %d of %s "
                              "needs %.0f bytes of voxels, found %.0f", in->name, in->volume.nx,
                              in->volume.ny, in->volume.nz, in->kind->name,
                              (double)in->count * (double)bytes,
                              (double)done * (double)bytes + (double)got);
        QNET__TRY(qnet__nifti_convert(in, done, n));
    }
    return QNET_OK;
}

/* Header, extensions (skipped), voxels, the rest. That it is packed is told by its first two bytes,
   gzip's mark, not by the name: a stream has none, and names can be wrong. No NIfTI-1 file starts
   so: its first byte is 5c, or 0. */
static qnet_status qnet__nifti_read_parts(qnet__nifti_reader *in, size_t *room)
{
    size_t got, more, skip, tail = 0;
    QNET__TRY(qnet__nifti_next(in, in->header, 2, &got));
    if (got == 2 && in->header[0] == 0x1f && in->header[1] == 0x8b) {
        in->packed = 1;
        qnet__inflate_start(&in->inflate, in->ctx, in->source, in->header, 2);
        got = 0; /* inflate gives the header from its start */
    }
    QNET__TRY(qnet__nifti_next(in, in->header + got, QNET__NIFTI_HEADER - got, &more));
    if (got + more < QNET__NIFTI_HEADER)
        return qnet__fail(in->ctx, QNET_ERROR_FORMAT, "%s: truncated: expected 348 bytes of "
                          "NIfTI-1 header, found %d", in->name, (int)(got + more));
    QNET__TRY(qnet__nifti_parse(in));
    for (skip = in->offset - QNET__NIFTI_HEADER; skip > 0; skip -= got) { /* extensions */
        got = qnet__min_size(skip, QNET__NIFTI_PIECE);
        QNET__TRY(qnet__nifti_next(in, in->piece, got, &got));
        if (got == 0)
            return qnet__fail(in->ctx, QNET_ERROR_FORMAT, "%s: truncated: expected voxels at byte "
                              "%.0f (vox_offset), found the end %.0f bytes before", in->name,
                              (double)in->offset, (double)skip);
    }
    QNET__TRY(qnet__nifti_voxels(in, room));
    /* What follows is read, too: in a gzip file that is what checks its CRC. A lot of it means that
       dim is wrong. */
    do {
        QNET__TRY(qnet__nifti_next(in, in->piece, QNET__NIFTI_PIECE, &got));
        tail += got;
        if (tail > QNET__NIFTI_MAX_TAIL)
            return qnet__fail(in->ctx, QNET_ERROR_FORMAT, "%s: more than %.0f bytes follow the "
                              "last voxel, expected the end of the file: dim does not fit the file",
                              in->name, (double)QNET__NIFTI_MAX_TAIL);
    } while (got == QNET__NIFTI_PIECE);
    if (tail > 0)
        qnet__log(in->ctx, QNET_LOG_WARNING, "%s: %.0f bytes follow the last voxel and are ignored",
                  in->name, (double)tail);
    return QNET_OK;
}

/* *out is touched only when all has been read and checked, the CRC of a gzip file included. */
QNET_API qnet_status qnet_nifti_read(qnet_context *ctx, qnet_source *source, qnet_volume **out)
{
    qnet__nifti_reader *in;
    qnet_volume *volume;
    size_t room = 0;
    qnet_status status;
    if (ctx == NULL || source == NULL || source->read == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_nifti_read: context, source or out is NULL");
    in = (qnet__nifti_reader *)qnet__alloc(ctx, sizeof *in);
    if (in == NULL) return qnet__no_memory(ctx, sizeof *in, "reading a NIfTI file");
    memset(in, 0, offsetof(qnet__nifti_reader, inflate));
    in->ctx = in->volume.ctx = ctx;
    in->source = source;
    in->name = qnet__source_name(source);
    status = qnet__nifti_read_parts(in, &room);
    if (status == QNET_OK) {
        volume = (qnet_volume *)qnet__alloc(ctx, sizeof *volume);
        if (volume == NULL) status = qnet__no_memory(ctx, sizeof *volume, "a volume");
        else *(*out = volume) = in->volume;
    }
    if (status != QNET_OK) qnet__free(ctx, in->volume.voxels, room * sizeof(float));
    qnet__free(ctx, in, sizeof *in);
    return status;
}

/* ---- writing ---- */

/* float32 loses nothing of a volume; gzip as the usual .nii.gz. */
QNET_API void qnet_nifti_options_init(qnet_nifti_options *options)
{
    memset(options, 0, sizeof *options);
    options->type = QNET_NIFTI_FLOAT32;
    options->gzip = 1;
}

/* The header, h[352], with the four zeros after it that say "no extensions". The sform always holds
   the affine; the qform, too, where the affine is a rotation with spacings (no shear). Codes: 1
   scanner's coordinates, 2 where the file that the volume came from did not say. */
static void qnet__nifti_header(const qnet_volume *v, const qnet_nifti_options *o, double norm[3],
                               double r[3][3], unsigned char *h)
{
    int big = o->big_endian, i, j, code = v->affine_source > 0 ? 1 : 2;
    double q[4], shear = 0, handed = qnet__det3(r) < 0 ? -1 : 1;
    const double dim[8] = {3, (double)v->nx, (double)v->ny, (double)v->nz, 1, 1, 1, 1};
    const double pixdim[8] = {handed, norm[0], norm[1], norm[2], 1, 1, 1, 1};
    memset(h, 0, 352);
    qnet__nifti_put(h, QNET_NIFTI_INT32, big, QNET__NIFTI_HEADER);
    h[38] = 'r'; /* "regular", as ANALYZE wants it */
    for (i = 0; i < 8; i++) {
        qnet__nifti_put(h + 40 + 2 * i, QNET_NIFTI_INT16, big, dim[i]);
        qnet__nifti_put(h + 76 + 4 * i, QNET_NIFTI_FLOAT32, big, pixdim[i]);
    }
    qnet__nifti_put(h + 70, QNET_NIFTI_INT16, big, (int)o->type);
    qnet__nifti_put(h + 72, QNET_NIFTI_INT16, big, 8 * qnet__nifti_entry((int)o->type)->bytes);
    qnet__nifti_put(h + 108, QNET_NIFTI_FLOAT32, big, 352);
    qnet__nifti_put(h + 112, QNET_NIFTI_FLOAT32, big, o->slope);
    qnet__nifti_put(h + 116, QNET_NIFTI_FLOAT32, big, o->intercept);
    h[123] = 2; /* mm */
    if (o->description) memcpy(h + 148, o->description, strlen(o->description));
    qnet__nifti_put(h + 254, QNET_NIFTI_INT16, big, code);
    for (i = 0; i < 3; i++)
        for (j = 0; j < 4; j++) {
            qnet__nifti_put(h + 280 + 16 * i + 4 * j, QNET_NIFTI_FLOAT32, big, v->affine[i][j]);
            if (j < 3) shear = fmax(shear, fabs(r[i][j] - v->affine[i][j] / norm[j]));
        }
    if (shear < 1e-6) {
        for (i = 0; i < 3; i++) r[i][2] *= handed; /* qfac takes the mirror image out of axis 3 */
        qnet__rotation_to_quaternion(r, q);
        qnet__nifti_put(h + 252, QNET_NIFTI_INT16, big, code);
        for (i = 0; i < 3; i++) {
            qnet__nifti_put(h + 256 + 4 * i, QNET_NIFTI_FLOAT32, big, q[1 + i]);
            qnet__nifti_put(h + 268 + 4 * i, QNET_NIFTI_FLOAT32, big, v->affine[i][3]);
        }
    }
    memcpy(h + 344, "n+1", 4);
}

/* To the sink, through deflate where there is one. */
static qnet_status qnet__nifti_send(qnet_context *ctx, qnet__deflate *d, qnet_sink *sink,
                                    const unsigned char *bytes, size_t size)
{
    return d ? qnet__deflate_write(d, bytes, size) : qnet__write(ctx, sink, bytes, size);
}

/* The voxels, by way of piece[QNET__NIFTI_PIECE]. */
static qnet_status qnet__nifti_write_voxels(qnet_context *ctx, qnet__deflate *d, qnet_sink *sink,
                                            const qnet_volume *v, const qnet_nifti_options *o,
                                            unsigned char *piece)
{
    const qnet__nifti_kind *kind = qnet__nifti_entry((int)o->type);
    size_t count = qnet__voxel_count(v->nx, v->ny, v->nz), bytes = (size_t)kind->bytes, done, i, n;
    /* As the header has them: what is stored is undone by what a reader finds there. */
    double slope = (double)(float)o->slope, intercept = (double)(float)o->intercept;
    char where[64];
    for (done = 0; done < count; done += n) {
        n = qnet__min_size(QNET__NIFTI_PIECE / bytes, count - done);
        for (i = 0; i < n; i++) {
            double voxel = (double)v->voxels[done + i], stored = (voxel - intercept) / slope;
            if (qnet__nifti_put(piece + i * bytes, kind->code, o->big_endian, stored)) continue;
            qnet__voxel_text(v, done + i, where);
            return qnet__fail(ctx, QNET_ERROR_DATA, "%s: %s is %g, which would be stored as %g: it "
                              "does not fit %s", qnet__sink_name(sink), where, voxel, stored,
                              kind->name);
        }
        QNET__TRY(qnet__nifti_send(ctx, d, sink, piece, n * bytes));
    }
    return QNET_OK;
}

/* options NULL: those of qnet_nifti_options_init. */
QNET_API qnet_status qnet_nifti_write(qnet_context *ctx, qnet_sink *sink, const qnet_volume *volume,
                                      const qnet_nifti_options *options)
{
    qnet_nifti_options o;
    qnet__deflate *d;
    unsigned char *block, header[352];
    const char *name;
    double norm[3], r[3][3];
    size_t deflate_bytes, block_bytes;
    qnet_status status;
    if (ctx == NULL || sink == NULL || sink->write == NULL || volume == NULL ||
        volume->voxels == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_nifti_write: context, sink or volume is NULL");
    name = qnet__sink_name(sink);
    qnet_nifti_options_init(&o);
    if (options) o = *options;
    if (o.slope == 0) {
        o.slope = 1;
        o.intercept = 0;
    }
    /* All that can be refused is refused before the first byte goes out; voxels that do not fit
       their type are found on the way, and a path is then left as it was. */
    if (qnet__nifti_find((int)o.type) == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: type is %d, expected one of "
                          "qnet_nifti_type", name, (int)o.type);
    if (!(fabs(o.slope) >= (double)FLT_MIN && fabs(o.slope) <= (double)FLT_MAX &&
          fabs(o.intercept) <= (double)FLT_MAX))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: slope is %g and intercept %g, expected "
                          "finite numbers that a float can hold", name, o.slope, o.intercept);
    if (o.description && strlen(o.description) > 79)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: description has %.0f characters, expected "
                          "at most 79", name, (double)strlen(o.description));
    if (qnet__voxel_count(volume->nx, volume->ny, volume->nz) == 0 || volume->nx > 32767 ||
        volume->ny > 32767 || volume->nz > 32767)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: volume is %d x %d x %d, expected sides of 1 "
                          "to 32767 and at most %.0f voxels", name, volume->nx, volume->ny,
                          volume->nz, (double)QNET_MAX_VOXELS);
    if (!qnet__affine_axes(&volume->affine[0][0], norm, r))
        return qnet__fail(ctx, QNET_ERROR_DATA, "%s: the affine is singular or not finite", name);
    deflate_bytes = o.gzip ? sizeof *d : 0;
    block_bytes = deflate_bytes + QNET__NIFTI_PIECE;
    block = (unsigned char *)qnet__alloc(ctx, block_bytes);
    if (block == NULL) return qnet__no_memory(ctx, block_bytes, "writing a NIfTI file");
    d = o.gzip ? (qnet__deflate *)(void *)block : NULL;
    if (d) qnet__deflate_start(d, ctx, sink, 0);
    qnet__nifti_header(volume, &o, norm, r, header);
    status = qnet__nifti_send(ctx, d, sink, header, sizeof header);
    if (status == QNET_OK)
        status = qnet__nifti_write_voxels(ctx, d, sink, volume, &o, block + deflate_bytes);
    if (status == QNET_OK && d) status = qnet__deflate_finish(d);
    qnet__free(ctx, block, block_bytes);
    return status;
}

#ifndef QNET_NO_STDIO
/* The sentences of failures start with the path. */
QNET_API qnet_status qnet_nifti_load(qnet_context *ctx, const char *path, qnet_volume **out)
{
    qnet__file file;
    qnet_source source;
    qnet_status status;
    if (ctx == NULL || path == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_nifti_load: context, path or out is NULL");
    QNET__TRY(qnet__file_open_read(ctx, path, &file, &source));
    status = qnet_nifti_read(ctx, &source, out);
    qnet__file_close(&file);
    return status;
}

/* Compressed if and only if the name ends in .gz; options NULL: float32. */
QNET_API qnet_status qnet_nifti_save(qnet_context *ctx, const char *path, const qnet_volume *volume,
                                     const qnet_nifti_options *options)
{
    qnet__file file;
    qnet_sink sink;
    qnet_nifti_options o;
    qnet_status status;
    size_t n;
    if (ctx == NULL || path == NULL || volume == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_nifti_save: context, path or volume is NULL");
    n = strlen(path);
    qnet_nifti_options_init(&o);
    if (options) o = *options;
    o.gzip = n >= 3 && strcmp(path + n - 3, ".gz") == 0;
    QNET__TRY(qnet__file_open_replace(ctx, path, &file, &sink));
    status = qnet_nifti_write(ctx, &sink, volume, &o);
    if (status == QNET_OK) return qnet__file_commit(ctx, &file);
    qnet__file_abandon(&file);
    return status;
}
#endif

/* ============================================================================================
   >>weights
   Safetensors files in and out, and networks in and out of them.

   A file is: 8 bytes, little-endian: the length n of the header; n bytes of JSON; the tensors'
   bytes, little-endian, without holes. The JSON is one flat object
       {"__metadata__": {"key": "value", ...},
        "fc.bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, ...}
   with offsets from the end of the header (https://github.com/huggingface/safetensors, format).
   The reader takes this grammar only, in one pass; a string is decoded in place, as no escape is
   shorter than the UTF-8 that it stands for.
   ============================================================================================ */

#ifndef QNET_MAX_SAFETENSORS_HEADER
#define QNET_MAX_SAFETENSORS_HEADER ((size_t)1 << 24) /* bytes of JSON */
#endif
#ifndef QNET_MAX_SAFETENSORS_TENSORS
#define QNET_MAX_SAFETENSORS_TENSORS 65536
#endif
#ifndef QNET_MAX_SAFETENSORS_METADATA
#define QNET_MAX_SAFETENSORS_METADATA 1024
#endif
#define QNET__SAFETENSORS_DIMS 8
#define QNET__SHAPE_TEXT 192 /* "[" 8 numbers of 20 digits and commas "]" */

/* The public struct, first, and what it lies in. */
typedef struct qnet__safetensors_file {
    qnet_safetensors file;
    char name[256];
    qnet_buffer header, data, tensors, metadata;
    qnet_buffer offsets; /* size_t per tensor: first byte in data */
} qnet__safetensors_file;

/* The header's text as it is read: at moves from begin to end. */
typedef struct qnet__header {
    qnet_context *ctx;
    const char *file;
    unsigned char *begin, *at, *end;
} qnet__header;

/* ---- types and shapes ------------------------------------------------------------------------ */

/* Bytes of one number; 0 for what is no dtype. */
QNET_API size_t qnet_dtype_size(qnet_dtype dtype)
{
    static const unsigned char sizes[] = {8, 4, 2, 2, 8, 4, 2, 1, 8, 4, 2, 1, 1};
    return (unsigned)dtype < sizeof(sizes) ? sizes[dtype] : 0;
}

/* As it stands in files; "?" for what is no dtype. */
QNET_API const char *qnet_dtype_name(qnet_dtype dtype)
{
    static const char names[][5] = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16",
                                    "I8",  "U64", "U32", "U16",  "U8",  "BOOL"};
    return (unsigned)dtype < sizeof(names) / sizeof(names[0]) ? names[dtype] : "?";
}

/* "[64,3,7,7]", which is also the shape's JSON. */
static void qnet__shape_text(char text[QNET__SHAPE_TEXT], int ndim, const size_t *shape)
{
    int i, at = 1;
    text[0] = '[';
    for (i = 0; i < ndim; i++)
        at += snprintf(text + at, QNET__SHAPE_TEXT - (size_t)at, i ? ",%.0f" : "%.0f",
                       (double)shape[i]);
    snprintf(text + at, QNET__SHAPE_TEXT - (size_t)at, "]");
}

/* count = product of shape[ndim], bytes = count * size; 0 when one of them does not fit. */
static int qnet__shape_bytes(int ndim, const size_t *shape, size_t size, size_t *count,
                             size_t *bytes)
{
    int i;
    *count = 1;
    for (i = 0; i < ndim; i++)
        if (!qnet__mul(*count, shape[i], count)) return 0;
    return qnet__mul(*count, size, bytes);
}

/* Number i of a little-endian array of a float type or I64. IEEE 754 binary16: 1 sign, 5 exponent
   and 10 fraction bits; bfloat16 is the upper half of a binary32. */
static double qnet__element(qnet_dtype dtype, const void *data, size_t i)
{
    const unsigned char *p = (const unsigned char *)data + i * qnet_dtype_size(dtype);
    if (dtype == QNET_F64) {
        uint64_t bits = qnet__load_le64(p);
        double value;
        memcpy(&value, &bits, sizeof(value));
        return value;
    }
    if (dtype == QNET_F32 || dtype == QNET_BF16) {
        uint32_t bits = dtype == QNET_F32 ? qnet__load_le32(p) : (uint32_t)qnet__load_le16(p) << 16;
        float value;
        memcpy(&value, &bits, sizeof(value));
        return (double)value;
    }
    if (dtype == QNET_F16) {
        int bits = qnet__load_le16(p), exponent = bits >> 10 & 31, fraction = bits & 1023;
        double value = exponent == 0    ? ldexp(fraction, -24)
                       : exponent == 31 ? (fraction ? NAN : INFINITY)
                                        : ldexp(1024 + fraction, exponent - 25);
        return bits >> 15 ? -value : value;
    }
    if (dtype == QNET_I64) {
        uint64_t bits = qnet__load_le64(p);
        int64_t value;
        memcpy(&value, &bits, sizeof(value));
        return (double)value;
    }
    return 0;
}

/* ---- order: heapsort of an index array, which needs no memory and has no slow case ----------- */

typedef int (*qnet__index_less)(const void *items, size_t a, size_t b);

/* Lets index[at] sink in the heap index[count], where the parent of i is (i - 1) / 2 and no child
   is above its parent (Williams 1964). */
static void qnet__sift_down(size_t *index, size_t at, size_t count, qnet__index_less less,
                            const void *items)
{
    for (;;) {
        size_t child = 2 * at + 1, swap;
        if (child >= count) return;
        if (child + 1 < count && less(items, index[child], index[child + 1])) child++;
        if (!less(items, index[at], index[child])) return;
        swap = index[at];
        index[at] = index[child];
        index[child] = swap;
        at = child;
    }
}

/* index[count] = 0..count-1 in rising order of items. */
static void qnet__sort_index(size_t *index, size_t count, qnet__index_less less, const void *items)
{
    size_t i;
    for (i = 0; i < count; i++) index[i] = i;
    for (i = count / 2; i-- > 0;) qnet__sift_down(index, i, count, less, items);
    for (i = count; i-- > 1;) {
        size_t swap = index[0];
        index[0] = index[i];
        index[i] = swap;
        qnet__sift_down(index, 0, i, less, items);
    }
}

/* items: qnet_safetensor[]. Equal names end side by side, where a duplicate shows. */
static int qnet__tensor_name_less(const void *items, size_t a, size_t b)
{
    const qnet_safetensor *tensors = (const qnet_safetensor *)items;
    return strcmp(tensors[a].name, tensors[b].name) < 0;
}

/* By first byte, then by size, so that an empty tensor comes before the one at the same place. */
static int qnet__tensor_offset_less(const void *items, size_t a, size_t b)
{
    const qnet__safetensors_file *f = (const qnet__safetensors_file *)items;
    const size_t *offset = (const size_t *)(const void *)f->offsets.bytes;
    if (offset[a] != offset[b]) return offset[a] < offset[b];
    return f->file.tensors[a].bytes < f->file.tensors[b].bytes;
}

/* QNET_OK when no two of tensors[count] have the same name; order[count] is scratch. */
static qnet_status qnet__check_names(qnet_context *ctx, const char *file, qnet_status status,
                                     const qnet_safetensor *tensors, size_t count, size_t *order)
{
    size_t i;
    qnet__sort_index(order, count, qnet__tensor_name_less, tensors);
    for (i = 1; i < count; i++)
        if (strcmp(tensors[order[i - 1]].name, tensors[order[i]].name) == 0)
            return qnet__fail(ctx, status, "%s: tensor '%s' is there twice", file,
                              tensors[order[i]].name);
    return QNET_OK;
}

/* ---- the header's grammar -------------------------------------------------------------------- */

/* The error sentence of the grammar: file, byte and what should have been there. */
static qnet_status qnet__header_fail(const qnet__header *h, const char *expected)
{
    return qnet__fail(h->ctx, QNET_ERROR_FORMAT, "%s: header byte %.0f of %.0f: expected %s",
                      h->file, (double)(h->at - h->begin), (double)(h->end - h->begin), expected);
}

/* The next character that is not a space, or 0 at the end; it stays unread. */
static int qnet__header_peek(qnet__header *h)
{
    while (h->at < h->end && (*h->at == ' ' || *h->at == '\t' || *h->at == '\n' || *h->at == '\r'))
        h->at++;
    return h->at < h->end ? *h->at : 0;
}

/* Takes c, after any spaces, or fails with what `expected` says. */
static qnet_status qnet__header_expect(qnet__header *h, char c, const char *expected)
{
    if (qnet__header_peek(h) != c) return qnet__header_fail(h, expected);
    h->at++;
    return QNET_OK;
}

/* After a member of a list: *more = 1 behind a comma, 0 behind the closing character. */
static qnet_status qnet__header_more(qnet__header *h, char close, int *more)
{
    int c = qnet__header_peek(h);
    if (c != ',' && c != close) return qnet__header_fail(h, "',' or the end of the list");
    h->at++;
    *more = c == ',';
    return QNET_OK;
}

/* Bytes of the UTF-8 character at p[left], 0 if it is none: no overlong forms, no surrogates,
   nothing above U+10FFFF (RFC 3629). */
static size_t qnet__utf8_size(const unsigned char *p, size_t left)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4, i;
    if (n == 0 || n > left || p[0] > 0xf4) return 0;
    for (i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

/* The four hexadecimal digits behind "\u". */
static qnet_status qnet__header_hex4(qnet__header *h, uint32_t *code)
{
    int i;
    *code = 0;
    for (i = 0; i < 4; i++) {
        int c = h->at < h->end ? *h->at : 0;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return qnet__header_fail(h, "four hexadecimal digits");
        *code = *code * 16 + (uint32_t)digit;
        h->at++;
    }
    return QNET_OK;
}

/* Decodes the escape at h->at, a backslash, to *write, which moves on. */
static qnet_status qnet__header_escape(qnet__header *h, unsigned char **write)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    unsigned char *w = *write;
    const char *simple;
    uint32_t code, low;
    h->at++;
    if (h->at == h->end) return qnet__header_fail(h, "the rest of an escape");
    simple = *h->at ? strchr(from, *h->at) : NULL;
    if (simple != NULL) {
        *w++ = (unsigned char)to[simple - from];
        h->at++;
        *write = w;
        return QNET_OK;
    }
    if (*h->at != 'u') return qnet__header_fail(h, "one of \"\\/bfnrtu behind a backslash");
    h->at++;
    QNET__TRY(qnet__header_hex4(h, &code));
    if (code >= 0xd800 && code <= 0xdbff) { /* a pair of UTF-16 surrogates */
        if (h->end - h->at < 2 || h->at[0] != '\\' || h->at[1] != 'u')
            return qnet__header_fail(h, "the second half of a surrogate pair");
        h->at += 2;
        QNET__TRY(qnet__header_hex4(h, &low));
        if (low < 0xdc00 || low > 0xdfff)
            return qnet__header_fail(h, "the second half of a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code == 0 || (code >= 0xdc00 && code <= 0xdfff)) {
        return qnet__header_fail(h, "a character other than NUL or half a surrogate pair");
    }
    if (code < 0x80) {
        *w++ = (unsigned char)code;
    } else if (code < 0x800) {
        *w++ = (unsigned char)(0xc0 | code >> 6);
        *w++ = (unsigned char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *w++ = (unsigned char)(0xe0 | code >> 12);
        *w++ = (unsigned char)(0x80 | (code >> 6 & 0x3f));
        *w++ = (unsigned char)(0x80 | (code & 0x3f));
    } else {
        *w++ = (unsigned char)(0xf0 | code >> 18);
        *w++ = (unsigned char)(0x80 | (code >> 12 & 0x3f));
        *w++ = (unsigned char)(0x80 | (code >> 6 & 0x3f));
        *w++ = (unsigned char)(0x80 | (code & 0x3f));
    }
    *write = w;
    return QNET_OK;
}

/* A string, decoded in place and ended by NUL, which takes the closing quote's byte at the latest;
   *size: its bytes without the NUL. */
static qnet_status qnet__header_string(qnet__header *h, char **text, size_t *size)
{
    unsigned char *start, *write; /* write <= h->at: what is decoded never overtakes */
    QNET__TRY(qnet__header_expect(h, '"', "a string"));
    start = write = h->at;
    for (;;) {
        if (h->at == h->end) return qnet__header_fail(h, "the end of a string");
        if (*h->at == '"') break;
        if (*h->at < 0x20) return qnet__header_fail(h, "no control character in a string");
        if (*h->at == '\\') {
            QNET__TRY(qnet__header_escape(h, &write));
        } else {
            size_t n = qnet__utf8_size(h->at, (size_t)(h->end - h->at));
            if (n == 0) return qnet__header_fail(h, "valid UTF-8");
            memmove(write, h->at, n);
            write += n;
            h->at += n;
        }
    }
    h->at++;
    *write = 0;
    *text = (char *)start;
    *size = (size_t)(write - start);
    return QNET_OK;
}

/* A list of at most `most` numbers, whole, not negative, each of which fits size_t. */
static qnet_status qnet__header_numbers(qnet__header *h, size_t *numbers, int most, int *count)
{
    int more = 1;
    *count = 0;
    QNET__TRY(qnet__header_expect(h, '[', "'['"));
    if (qnet__header_peek(h) == ']') {
        h->at++;
        return QNET_OK;
    }
    while (more) {
        size_t value = 0, digits = 0; /* no strtoul: it takes signs and spaces, and saturates */
        int zero = qnet__header_peek(h) == '0';
        for (; h->at < h->end && *h->at >= '0' && *h->at <= '9'; digits++, h->at++)
            if (!qnet__mul(value, 10, &value) || !qnet__add(value, (size_t)(*h->at - '0'), &value))
                return qnet__header_fail(h, "a smaller number");
        if (digits == 0 || (zero && digits > 1))
            return qnet__header_fail(h, "a whole number without sign or leading zero");
        if (*count == most)
            return qnet__fail(h->ctx, QNET_ERROR_LIMIT,
                              "%s: header byte %.0f: a list of more than %d numbers", h->file,
                              (double)(h->at - h->begin), most);
        numbers[(*count)++] = value;
        QNET__TRY(qnet__header_more(h, ']', &more));
    }
    return QNET_OK;
}

/* The object {"dtype":..., "shape":..., "data_offsets":...} of tensor t, in any order, each once;
   *begin: its first byte. The shape must take exactly the bytes between the offsets. */
static qnet_status qnet__header_tensor(qnet__header *h, qnet_safetensor *t, size_t *begin)
{
    size_t offsets[2] = {0, 0}, size, bytes;
    int more = 1, seen_dtype = 0, seen_shape = 0, seen_offsets = 0, n, i;
    char *text, shape[QNET__SHAPE_TEXT];
    QNET__TRY(qnet__header_expect(h, '{', "'{' of a tensor"));
    while (more) {
        QNET__TRY(qnet__header_string(h, &text, &size));
        QNET__TRY(qnet__header_expect(h, ':', "':'"));
        if (strcmp(text, "dtype") == 0 && !seen_dtype) {
            seen_dtype = 1;
            QNET__TRY(qnet__header_string(h, &text, &size));
            for (i = 0; qnet_dtype_size((qnet_dtype)i); i++)
                if (strcmp(text, qnet_dtype_name((qnet_dtype)i)) == 0) break;
            if (qnet_dtype_size((qnet_dtype)i) == 0)
                return qnet__fail(h->ctx, QNET_ERROR_UNSUPPORTED,
                                  "%s: tensor '%s': unknown dtype '%.32s'", h->file, t->name, text);
            t->dtype = (qnet_dtype)i;
        } else if (strcmp(text, "shape") == 0 && !seen_shape) {
            seen_shape = 1;
            QNET__TRY(qnet__header_numbers(h, t->shape, QNET__SAFETENSORS_DIMS, &t->ndim));
        } else if (strcmp(text, "data_offsets") == 0 && !seen_offsets) {
            seen_offsets = 1;
            QNET__TRY(qnet__header_numbers(h, offsets, 2, &n));
            if (n != 2) return qnet__header_fail(h, "two data_offsets");
        } else {
            return qnet__fail(h->ctx, QNET_ERROR_FORMAT,
                              "%s: tensor '%s': field '%.32s' is unknown or there twice", h->file,
                              t->name, text);
        }
        QNET__TRY(qnet__header_more(h, '}', &more));
    }
    if (!seen_dtype || !seen_shape || !seen_offsets)
        return qnet__fail(h->ctx, QNET_ERROR_FORMAT, "%s: tensor '%s': %s is missing", h->file,
                          t->name,
                          !seen_dtype ? "dtype" : !seen_shape ? "shape" : "data_offsets");
    /* From here on the numbers of the file are proven: count and bytes cannot have wrapped. */
    qnet__shape_text(shape, t->ndim, t->shape);
    if (offsets[0] > offsets[1])
        return qnet__fail(h->ctx, QNET_ERROR_FORMAT,
                          "%s: tensor '%s': data_offsets [%.0f,%.0f] run backwards", h->file,
                          t->name, (double)offsets[0], (double)offsets[1]);
    if (!qnet__shape_bytes(t->ndim, t->shape, qnet_dtype_size(t->dtype), &t->count, &bytes) ||
        bytes != offsets[1] - offsets[0])
        return qnet__fail(h->ctx, QNET_ERROR_FORMAT,
                          "%s: tensor '%s': %s %s does not take the %.0f bytes of its data_offsets",
                          h->file, t->name, qnet_dtype_name(t->dtype), shape,
                          (double)(offsets[1] - offsets[0]));
    t->bytes = bytes;
    *begin = offsets[0];
    return QNET_OK;
}

/* The object of "__metadata__": strings to strings, into f->metadata. */
static qnet_status qnet__header_metadata(qnet__header *h, qnet__safetensors_file *f)
{
    int more = 1;
    QNET__TRY(qnet__header_expect(h, '{', "'{' of __metadata__"));
    if (qnet__header_peek(h) == '}') {
        h->at++;
        return QNET_OK;
    }
    while (more) {
        qnet_metadata entry;
        char *key;
        size_t size;
        memset(&entry, 0, sizeof(entry)); /* the value stays in the header's buffer */
        QNET__TRY(qnet__header_string(h, &key, &size));
        if (size >= sizeof(entry.key) || f->file.metadata_count == QNET_MAX_SAFETENSORS_METADATA)
            return qnet__fail(h->ctx, QNET_ERROR_LIMIT,
                              "%s: metadata '%.64s': above %d keys or %d bytes of a key", h->file,
                              key, QNET_MAX_SAFETENSORS_METADATA, (int)sizeof(entry.key) - 1);
        if (qnet_safetensors_metadata(&f->file, key) != NULL)
            return qnet__fail(h->ctx, QNET_ERROR_FORMAT, "%s: metadata '%s' is there twice",
                              h->file, key);
        memcpy(entry.key, key, size + 1);
        QNET__TRY(qnet__header_expect(h, ':', "':'"));
        QNET__TRY(qnet__header_string(h, &entry.value, &size));
        QNET__TRY(qnet_buffer_append(h->ctx, &f->metadata, &entry, sizeof(entry)));
        f->file.metadata = (qnet_metadata *)(void *)f->metadata.bytes;
        f->file.metadata_count++;
        QNET__TRY(qnet__header_more(h, '}', &more));
    }
    return QNET_OK;
}

/* The whole header into f->tensors, f->offsets and f->metadata. */
static qnet_status qnet__header_read(qnet__header *h, qnet__safetensors_file *f)
{
    int more = 1, seen_metadata = 0;
    QNET__TRY(qnet__header_expect(h, '{', "'{'"));
    if (qnet__header_peek(h) == '}') {
        h->at++;
        more = 0;
    }
    while (more) {
        qnet_safetensor t;
        char *name;
        size_t size, begin;
        memset(&t, 0, sizeof(t));
        QNET__TRY(qnet__header_string(h, &name, &size));
        QNET__TRY(qnet__header_expect(h, ':', "':'"));
        if (strcmp(name, "__metadata__") == 0) {
            if (seen_metadata)
                return qnet__fail(h->ctx, QNET_ERROR_FORMAT, "%s: __metadata__ is there twice",
                                  h->file);
            seen_metadata = 1;
            QNET__TRY(qnet__header_metadata(h, f));
        } else {
            if (size >= sizeof(t.name) || f->file.count == QNET_MAX_SAFETENSORS_TENSORS)
                return qnet__fail(h->ctx, QNET_ERROR_LIMIT,
                                  "%s: tensor '%.128s': above %d tensors or %d bytes of a name",
                                  h->file, name, QNET_MAX_SAFETENSORS_TENSORS,
                                  (int)sizeof(t.name) - 1);
            memcpy(t.name, name, size + 1);
            QNET__TRY(qnet__header_tensor(h, &t, &begin));
            QNET__TRY(qnet_buffer_append(h->ctx, &f->offsets, &begin, sizeof(begin)));
            QNET__TRY(qnet_buffer_append(h->ctx, &f->tensors, &t, sizeof(t)));
            f->file.tensors = (qnet_safetensor *)(void *)f->tensors.bytes;
            f->file.count++;
        }
        QNET__TRY(qnet__header_more(h, '}', &more));
    }
    qnet__header_peek(h); /* writers pad with spaces */
    return h->at == h->end ? QNET_OK : qnet__header_fail(h, "nothing behind the closing '}'");
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Appends exactly size bytes of source to out, and a 0 behind them. What a file says will come is
   not believed: out has room for at most 16 times of what has come and 256 KB, so that few copies
   are made on the way. */
static qnet_status qnet__read_growing(qnet_context *ctx, qnet_source *source, size_t size,
                                      const char *what, qnet_buffer *out)
{
    const size_t piece = (size_t)1 << 18;
    size_t done, ask, got = 0;
    for (done = 0; done < size; done += got) {
        ask = qnet__min_size(size - done, piece);
        if (out->capacity - out->size <= ask)
            QNET__TRY(qnet__buffer_reserve(
                ctx, out, qnet__min_size(size - done, 15 * out->size + piece)));
        if (source->read(source->user, out->bytes + out->size, ask, &got) != 0 || got > ask)
            return qnet__fail(ctx, QNET_ERROR_IO, "%s: reading failed", qnet__source_name(source));
        out->size += got;
        out->bytes[out->size] = 0;
        if (got == 0)
            return qnet__fail(ctx, QNET_ERROR_FORMAT,
                              "%s: truncated: expected %.0f bytes of %s, found %.0f",
                              qnet__source_name(source), (double)size, what,
                              (double)done);
    }
    return QNET_OK;
}

/* Checks that the tensors lie side by side from byte 0, each byte once; *size: the sum. */
static qnet_status qnet__check_layout(qnet_context *ctx, const qnet__safetensors_file *f,
                                      size_t *order, size_t *size)
{
    const size_t *offset = (const size_t *)(const void *)f->offsets.bytes;
    size_t i, at = 0, count = (size_t)f->file.count;
    qnet__sort_index(order, count, qnet__tensor_offset_less, f);
    for (i = 0; i < count; i++) {
        const qnet_safetensor *t = &f->file.tensors[order[i]];
        size_t begin = offset[order[i]];
        if (begin != at)
            return qnet__fail(ctx, QNET_ERROR_FORMAT,
                              "%s: tensor '%s' begins at byte %.0f: expected %.0f, %s", f->name,
                              t->name, (double)begin, (double)at,
                              begin < at ? "it overlaps the one before" : "there is a hole");
        at = begin + t->bytes; /* data_offsets[1], which was read as a number that fits */
    }
    *size = at;
    return QNET_OK;
}

/* Everything of qnet_safetensors_read but the cleaning up. */
static qnet_status qnet__safetensors_parse(qnet_context *ctx, qnet_source *source,
                                           qnet__safetensors_file *f)
{
    unsigned char length[8], extra;
    qnet__header h;
    uint64_t header_bytes;
    size_t *order, order_bytes, size = 0, i, got = 0;
    qnet_status status;
    snprintf(f->name, sizeof(f->name), "%s", qnet__source_name(source));
    QNET__TRY(qnet__read_exact(ctx, source, length, sizeof(length), "safetensors header length"));
    header_bytes = qnet__load_le64(length);
    if (header_bytes > QNET_MAX_SAFETENSORS_HEADER)
        return qnet__fail(ctx, QNET_ERROR_LIMIT,
                          "%s: not a safetensors file, or a header of more than %.0f bytes",
                          f->name, (double)QNET_MAX_SAFETENSORS_HEADER);
    QNET__TRY(qnet__read_growing(ctx, source, (size_t)header_bytes, "safetensors header",
                                 &f->header));
    h.ctx = ctx;
    h.file = f->name;
    h.begin = h.at = f->header.bytes;
    h.end = h.begin + f->header.size;
    QNET__TRY(qnet__header_read(&h, f));

    /* Names and offsets are checked in sorted order, so that 65,536 tensors take no second. */
    order_bytes = sizeof(size_t) * (size_t)f->file.count;
    order = (size_t *)qnet__alloc(ctx, order_bytes);
    if (order == NULL) return qnet__no_memory(ctx, order_bytes, "the order of tensors");
    status = qnet__check_names(ctx, f->name, QNET_ERROR_FORMAT, f->file.tensors,
                               (size_t)f->file.count, order);
    if (status == QNET_OK) status = qnet__check_layout(ctx, f, order, &size);
    qnet__free(ctx, order, order_bytes);
    QNET__TRY(status);

    if (size > QNET_MAX_FILE_BYTES)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: %.0f bytes of tensors, the limit is %.0f",
                          f->name, (double)size, (double)QNET_MAX_FILE_BYTES);
    QNET__TRY(qnet__read_growing(ctx, source, size, "tensors", &f->data));
    /* A byte too many means that header and data do not belong together. */
    if (source->read(source->user, &extra, 1, &got) != 0)
        return qnet__fail(ctx, QNET_ERROR_IO, "%s: reading failed", f->name);
    if (got != 0)
        return qnet__fail(ctx, QNET_ERROR_FORMAT,
                          "%s: the file goes on behind the %.0f bytes of its tensors", f->name,
                          (double)size);
    for (i = 0; i < (size_t)f->file.count; i++)
        f->file.tensors[i].data =
            size ? f->data.bytes + ((const size_t *)(const void *)f->offsets.bytes)[i] : NULL;
    f->file.block = f->data.bytes;
    f->file.block_bytes = f->data.size;
    return QNET_OK;
}

/* The file's struct and its five buffers are separate blocks, because a stream's size is known only
   when it has been read; the struct is made first, so that one call frees whatever there is. */
QNET_API qnet_status qnet_safetensors_read(qnet_context *ctx, qnet_source *source,
                                           qnet_safetensors **out)
{
    qnet__safetensors_file *f;
    qnet_status status;
    if (ctx == NULL || source == NULL || source->read == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_safetensors_read: an argument is NULL");
    f = (qnet__safetensors_file *)qnet__alloc(ctx, sizeof(*f));
    if (f == NULL) return qnet__no_memory(ctx, sizeof(*f), "a safetensors file");
    memset(f, 0, sizeof(*f));
    f->file.ctx = ctx;
    status = qnet__safetensors_parse(ctx, source, f);
    if (status != QNET_OK)
        qnet_safetensors_destroy(&f->file);
    else
        *out = &f->file;
    return status;
}

/* Takes a file that is read to any point. */
QNET_API void qnet_safetensors_destroy(qnet_safetensors *file)
{
    qnet__safetensors_file *f = (qnet__safetensors_file *)(void *)file; /* its first member */
    qnet_context *ctx;
    if (file == NULL) return;
    ctx = file->ctx;
    qnet_buffer_free(ctx, &f->header);
    qnet_buffer_free(ctx, &f->data);
    qnet_buffer_free(ctx, &f->tensors);
    qnet_buffer_free(ctx, &f->metadata);
    qnet_buffer_free(ctx, &f->offsets);
    qnet__free(ctx, f, sizeof(*f));
}

/* Linear: the networks here have a hundred names. */
QNET_API const qnet_safetensor *qnet_safetensors_find(const qnet_safetensors *file,
                                                      const char *name)
{
    int i;
    for (i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
    return NULL;
}

/* Linear as well; also used on the file that is being read, to find a key that is there twice. */
QNET_API const char *qnet_safetensors_metadata(const qnet_safetensors *file, const char *key)
{
    int i;
    for (i = 0; i < file->metadata_count; i++)
        if (strcmp(file->metadata[i].key, key) == 0) return file->metadata[i].value;
    return NULL;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* text as a JSON string; QNET_ERROR_ARGUMENT when it is not UTF-8. */
static qnet_status qnet__write_json_string(qnet_context *ctx, qnet_buffer *json, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t left = strlen(text), n;
    QNET__TRY(qnet_buffer_append(ctx, json, "\"", 1));
    for (; left > 0; p += n, left -= n) {
        n = qnet__utf8_size(p, left);
        if (n == 0)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "'%.64s' is not UTF-8: cannot be written",
                              text);
        if (*p < 0x20)
            QNET__TRY(qnet_buffer_printf(ctx, json, "\\u%04x", (unsigned)*p));
        else {
            if (*p == '"' || *p == '\\') QNET__TRY(qnet_buffer_append(ctx, json, "\\", 1));
            QNET__TRY(qnet_buffer_append(ctx, json, p, n));
        }
    }
    return qnet_buffer_append(ctx, json, "\"", 1);
}

/* The JSON of tensors[count], whose name, dtype, ndim and shape count, and of the metadata. */
static qnet_status qnet__safetensors_json(qnet_context *ctx, const char *file,
                                          const qnet_safetensor *tensors, int count,
                                          const char *const *pairs, int pair_count,
                                          qnet_buffer *json)
{
    size_t at = 0, end, numbers, bytes;
    char shape[QNET__SHAPE_TEXT];
    int i;
    QNET__TRY(qnet_buffer_append(ctx, json, "{", 1));
    if (pair_count > 0) QNET__TRY(qnet_buffer_printf(ctx, json, "\"__metadata__\":{"));
    for (i = 0; i < pair_count; i++) {
        if (i > 0) QNET__TRY(qnet_buffer_append(ctx, json, ",", 1));
        QNET__TRY(qnet__write_json_string(ctx, json, pairs[2 * i]));
        QNET__TRY(qnet_buffer_append(ctx, json, ":", 1));
        QNET__TRY(qnet__write_json_string(ctx, json, pairs[2 * i + 1]));
    }
    if (pair_count > 0) QNET__TRY(qnet_buffer_append(ctx, json, count ? "}," : "}", count ? 2 : 1));
    for (i = 0; i < count; i++) {
        const qnet_safetensor *t = &tensors[i];
        if (t->ndim < 0 || t->ndim > QNET__SAFETENSORS_DIMS || qnet_dtype_size(t->dtype) == 0 ||
            !qnet__shape_bytes(t->ndim, t->shape, qnet_dtype_size(t->dtype), &numbers, &bytes) ||
            !qnet__add(at, bytes, &end) || strcmp(t->name, "__metadata__") == 0)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "%s: tensor '%s': name, dtype or shape cannot be written", file,
                              t->name);
        qnet__shape_text(shape, t->ndim, t->shape);
        if (i > 0) QNET__TRY(qnet_buffer_append(ctx, json, ",", 1));
        QNET__TRY(qnet__write_json_string(ctx, json, t->name));
        QNET__TRY(qnet_buffer_printf(ctx, json, ":{\"dtype\":\"%s\",\"shape\":%s,",
                                     qnet_dtype_name(t->dtype), shape));
        QNET__TRY(qnet_buffer_printf(ctx, json, "\"data_offsets\":[%.0f,%.0f]}", (double)at,
                                     (double)end));
        at = end;
    }
    QNET__TRY(qnet_buffer_append(ctx, json, "}", 1));
    /* Spaces bring the data to a multiple of 8 bytes, for readers that map the file. */
    while (json->size % 8 != 0) QNET__TRY(qnet_buffer_append(ctx, json, " ", 1));
    return QNET_OK;
}

/* Length and header of a file with these tensors; names are checked to differ. */
static qnet_status qnet__safetensors_begin(qnet_context *ctx, qnet_sink *sink,
                                           const qnet_safetensor *tensors, int count,
                                           const char *const *pairs, int pair_count)
{
    const char *file = qnet__sink_name(sink);
    size_t bytes = sizeof(size_t) * (size_t)count;
    size_t *order;
    unsigned char length[8];
    qnet_buffer json;
    qnet_status status;
    int i;
    if (count > QNET_MAX_SAFETENSORS_TENSORS || pair_count > QNET_MAX_SAFETENSORS_METADATA)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: above %d tensors or %d metadata keys", file,
                          QNET_MAX_SAFETENSORS_TENSORS, QNET_MAX_SAFETENSORS_METADATA);
    for (i = 0; i < 2 * pair_count; i++)
        if (pairs[i] == NULL)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: metadata string %d is NULL", file, i);
    order = (size_t *)qnet__alloc(ctx, bytes);
    if (order == NULL) return qnet__no_memory(ctx, bytes, "the order of tensors");
    status = qnet__check_names(ctx, file, QNET_ERROR_ARGUMENT, tensors, (size_t)count, order);
    qnet__free(ctx, order, bytes);
    QNET__TRY(status);

    memset(&json, 0, sizeof(json));
    status = qnet__safetensors_json(ctx, file, tensors, count, pairs, pair_count, &json);
    if (status == QNET_OK && json.size > QNET_MAX_SAFETENSORS_HEADER)
        status = qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: a header of %.0f bytes, the limit is %.0f",
                            file, (double)json.size,
                            (double)QNET_MAX_SAFETENSORS_HEADER);
    if (status == QNET_OK) {
        qnet__store_le64(length, json.size);
        status = qnet__write(ctx, sink, length, sizeof(length));
    }
    if (status == QNET_OK) status = qnet__write(ctx, sink, json.bytes, json.size);
    qnet_buffer_free(ctx, &json);
    return status;
}

/* count numbers of `size` bytes in host order, written little-endian. */
static qnet_status qnet__write_numbers(qnet_context *ctx, qnet_sink *sink, const void *data,
                                       size_t count, size_t size)
{
    const unsigned char *p = (const unsigned char *)data;
    unsigned char chunk[4096];
    size_t i, k, n;
    if (qnet__is_little_endian() || size == 1) return qnet__write(ctx, sink, data, count * size);
    for (; count > 0; count -= n, p += n * size) {
        n = qnet__min_size(count, sizeof(chunk) / size);
        for (i = 0; i < n; i++)
            for (k = 0; k < size; k++) chunk[i * size + k] = p[i * size + size - 1 - k];
        QNET__TRY(qnet__write(ctx, sink, chunk, n * size));
    }
    return QNET_OK;
}

/* Of each tensor name, dtype, ndim, shape and data are read; count and bytes follow from them. */
QNET_API qnet_status qnet_safetensors_write(qnet_context *ctx, qnet_sink *sink,
                                            const qnet_safetensor *tensors, int count,
                                            const char *const *metadata_pairs, int pairs)
{
    size_t numbers, bytes;
    int i;
    if (ctx == NULL || sink == NULL || sink->write == NULL || count < 0 || pairs < 0 ||
        (count > 0 && tensors == NULL) || (pairs > 0 && metadata_pairs == NULL))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_safetensors_write: an argument is NULL or a count below 0");
    QNET__TRY(qnet__safetensors_begin(ctx, sink, tensors, count, metadata_pairs, pairs));
    for (i = 0; i < count; i++) {
        size_t size = qnet_dtype_size(tensors[i].dtype);
        qnet__shape_bytes(tensors[i].ndim, tensors[i].shape, size, &numbers, &bytes);
        if (numbers > 0 && tensors[i].data == NULL)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: tensor '%s': no data",
                              qnet__sink_name(sink), tensors[i].name);
        QNET__TRY(qnet__write_numbers(ctx, sink, tensors[i].data, numbers, size));
    }
    return QNET_OK;
}

/* ---- networks -------------------------------------------------------------------------------- */

/* "bn1.num_batches_tracked" and the like: PyTorch counts batches there, an I64 of shape []; no
   result depends on it. */
static int qnet__is_tracked(const char *name)
{
    static const char end[] = "num_batches_tracked";
    size_t n = strlen(name);
    return n >= sizeof(end) - 1 && strcmp(name + n - (sizeof(end) - 1), end) == 0;
}

/* The final layers, whose first dimension is the number of classes. */
static int qnet__is_head(const char *name)
{
    return strncmp(name, "fc.", 3) == 0 || strstr(name, "head.") != NULL;
}

/* The entry as a file has it: dtype and shape, [kh][kw][in][out] turned to [out][in][kh][kw]. */
static qnet_safetensor qnet__param_in_file(const qnet_param *p)
{
    static const int oihw[] = {3, 2, 0, 1};
    qnet_safetensor t;
    int i;
    memset(&t, 0, sizeof(t));
    memcpy(t.name, p->name, sizeof(p->name));
    t.count = p->count;
    if (qnet__is_tracked(p->name)) {
        t.dtype = QNET_I64;
        return t;
    }
    t.dtype = QNET__REAL_IS_DOUBLE ? QNET_F64 : QNET_F32;
    t.ndim = p->ndim;
    for (i = 0; i < p->ndim; i++)
        t.shape[i] = p->shape[p->layout == QNET_LAYOUT_HWIO ? oihw[i] : i];
    return t;
}

/* Where number f of the file's [out][in][kh][kw] lies in memory's [kh][kw][in][out]. */
static size_t qnet__param_index(const qnet_param *p, size_t f)
{
    size_t height = p->shape[0], width = p->shape[1], in = p->shape[2], out = p->shape[3];
    size_t x, y, i;
    if (p->layout != QNET_LAYOUT_HWIO) return f;
    x = f % width;
    f /= width;
    y = f % height;
    f /= height;
    i = f % in;
    return ((y * width + x) * in + i) * out + f / in;
}

/* Number i of an F32 tensor. */
static float qnet__load_f32(const void *data, size_t i)
{
    const uint32_t bits = qnet__load_le32((const unsigned char *)data + 4 * i);
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Plain twin of qnet__param_copy. */
static void qnet__param_copy_ref(const qnet_param *p, const qnet_safetensor *t, qnet_real *to)
{
    size_t k;
    for (k = 0; k < p->count; k++)
        to[qnet__param_index(p, k)] = (qnet_real)qnet__element(t->dtype, t->data, k);
}

/* The tensor's numbers to to[p->count], in memory's order. Of a convolution 16 filters are turned
   at a time: they are 16 streams in the file, and full cache lines in memory. */
static void qnet__param_copy(const qnet_param *p, const qnet_safetensor *t, qnet_real *to)
{
#ifndef QNET_REFERENCE
    if (t->dtype == QNET_F32 && p->layout == QNET_LAYOUT_HWIO) {
        const size_t taps = p->shape[0] * p->shape[1], in = p->shape[2], out = p->shape[3];
        const size_t filter = in * taps; /* numbers of one */
        size_t first, i, tap, o;
        for (first = 0; first < out; first += 16) {
            const size_t end = qnet__min_size(first + 16, out);
            for (i = 0; i < in; i++)
                for (tap = 0; tap < taps; tap++) {
                    qnet_real *row = to + (tap * in + i) * out;
                    for (o = first; o < end; o++)
                        row[o] = (qnet_real)qnet__load_f32(t->data, o * filter + i * taps + tap);
                }
        }
        return;
    }
#endif
    qnet__param_copy_ref(p, t, to);
}

/* The first number of the tensor that is not finite, or that qnet_real cannot hold; t->count: all
   are good. Comparisons are written so that NaN fails. */
static size_t qnet__first_not_finite(const qnet_safetensor *t)
{
    size_t k = 0;
    if (t->dtype == QNET_F32) {
        while (k < t->count && fabsf(qnet__load_f32(t->data, k)) <= FLT_MAX) k++;
        return k;
    }
    while (k < t->count && fabs(qnet__element(t->dtype, t->data, k)) <=
                               (QNET__REAL_IS_DOUBLE ? DBL_MAX : (double)FLT_MAX)) k++;
    return k;
}

/* For a tensor of a head, "fc.bias": the classes that "fc.weight" has in the file; 0: none. */
static size_t qnet__head_classes(const qnet_safetensors *file, const char *name)
{
    const qnet_safetensor *weight = NULL;
    const char *dot = strrchr(name, '.');
    char text[80];
    if (qnet__is_head(name) && dot != NULL) {
        snprintf(text, sizeof(text), "%.*s.weight", (int)(dot - name), name);
        weight = qnet_safetensors_find(file, text);
    }
    return weight != NULL && weight->ndim > 0 ? weight->shape[0] : 0;
}

/* Finds entry p in the file and checks it, with numbers also its numbers; *found = NULL: what is in
   the block stays. */
static qnet_status qnet__weights_match(qnet_context *ctx, const qnet_safetensors *file,
                                       const char *name, const qnet_param_table *table,
                                       const qnet_param *p, int replace_head, int numbers,
                                       const qnet_safetensor **found)
{
    qnet_safetensor expected = qnet__param_in_file(p);
    const qnet_safetensor *t = qnet_safetensors_find(file, p->name);
    char want[QNET__SHAPE_TEXT], have[QNET__SHAPE_TEXT];
    size_t classes = t != NULL ? qnet__head_classes(file, p->name) : 0;
    int rest_agrees, i;
    size_t k;
    *found = NULL;
    if (t == NULL) {
        if (qnet__is_tracked(p->name)) return QNET_OK;
        return qnet__fail(ctx, QNET_ERROR_MISMATCH, "%s: not weights of %s: tensor '%s' is missing",
                          name, table->network, p->name);
    }
    if (expected.dtype == QNET_I64 ? t->dtype != QNET_I64 : t->dtype > QNET_BF16)
        return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                          "%s: not weights of %s: tensor '%s': expected dtype %s, found %s", name,
                          table->network, p->name,
                          expected.dtype == QNET_I64 ? "I64" : "F64, F32, F16 or BF16",
                          qnet_dtype_name(t->dtype));
    if (classes > 0 && t->ndim > 0 && t->shape[0] != classes)
        return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                          "%s: not weights of %s: tensor '%s' has %.0f classes, its weight %.0f",
                          name, table->network, p->name, (double)t->shape[0], (double)classes);
    rest_agrees = t->ndim == expected.ndim;
    for (i = 1; rest_agrees && i < t->ndim; i++) rest_agrees = t->shape[i] == expected.shape[i];
    if (!rest_agrees || (t->ndim > 0 && t->shape[0] != expected.shape[0])) {
        if (replace_head && rest_agrees && qnet__is_head(p->name)) return QNET_OK;
        qnet__shape_text(want, expected.ndim, expected.shape);
        qnet__shape_text(have, t->ndim, t->shape);
        return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                          "%s: not weights of %s: tensor '%s': expected shape %s, found %s", name,
                          table->network, p->name, want, have);
    }
    k = numbers ? qnet__first_not_finite(t) : t->count;
    if (k < t->count)
        return qnet__fail(ctx, QNET_ERROR_DATA, "%s: tensor '%s': number %.0f is not finite",
                          name, p->name, (double)k);
    *found = t;
    return QNET_OK;
}

/* Walks the table twice: all entries are checked before the first one is copied. */
QNET_API qnet_status qnet_weights_from_safetensors(qnet_context *ctx, const qnet_safetensors *file,
                                                   const qnet_param_table *table, qnet_real *block,
                                                   int replace_head, int *head_replaced)
{
    const qnet_safetensor *t;
    const char *name;
    int i, copy, replaced = 0;
    if (file == NULL || table == NULL || block == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_weights_from_safetensors: an argument is NULL");
    name = ((const qnet__safetensors_file *)(const void *)file)->name;
    /* Extra tensors: a file of a larger network must not pass for this one. */
    for (i = 0; i < file->count; i++)
        if (qnet_param_find(table, file->tensors[i].name) < 0 &&
            !qnet__is_tracked(file->tensors[i].name))
            return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                              "%s: not weights of %s: tensor '%s' is not one of its %d", name,
                              table->network, file->tensors[i].name, table->count);
    for (copy = 0; copy < 2; copy++)
        for (i = 0; i < table->count; i++) {
            const qnet_param *p = &table->entries[i];
            QNET__TRY(qnet__weights_match(ctx, file, name, table, p, replace_head, !copy, &t));
            if (t == NULL) {
                replaced |= !qnet__is_tracked(p->name);
            } else if (copy) {
                qnet__param_copy(p, t, block + p->offset);
            }
        }
    if (head_replaced != NULL) *head_replaced = replaced;
    return QNET_OK;
}

/* Streams the block: a convolution is turned to the file's order 512 numbers at a time, in the
   order of the file, so that no second copy of the network is made. */
QNET_API qnet_status qnet_weights_write(qnet_context *ctx, qnet_sink *sink,
                                        const qnet_param_table *table, const qnet_real *block,
                                        const char *const *metadata_pairs, int pairs)
{
    qnet_real chunk[512];
    qnet_safetensor *tensors;
    size_t bytes, k, n, f;
    int i, real, count = 0;
    qnet_status status;
    if (ctx == NULL || sink == NULL || sink->write == NULL || table == NULL || block == NULL ||
        pairs < 0 || (pairs > 0 && metadata_pairs == NULL))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_weights_write: an argument is NULL or a count below 0");
    bytes = sizeof(qnet_safetensor) * (size_t)table->count;
    tensors = (qnet_safetensor *)qnet__alloc(ctx, bytes);
    if (tensors == NULL) return qnet__no_memory(ctx, bytes, "a weight file's header");
    /* The 8-byte counters go first, so that every tensor is aligned to its type. */
    for (real = 0; real < 2; real++)
        for (i = 0; i < table->count; i++)
            if (qnet__is_tracked(table->entries[i].name) == !real)
                tensors[count++] = qnet__param_in_file(&table->entries[i]);
    status = qnet__safetensors_begin(ctx, sink, tensors, count, metadata_pairs, pairs);
    for (i = 0; status == QNET_OK && i < count; i++) {
        const qnet_param *p = &table->entries[qnet_param_find(table, tensors[i].name)];
        if (tensors[i].dtype == QNET_I64) {
            int64_t value = (int64_t)block[p->offset];
            status = qnet__write_numbers(ctx, sink, &value, 1, sizeof(value));
            continue;
        }
        for (f = 0; status == QNET_OK && f < p->count; f += n) {
            n = qnet__min_size(p->count - f, sizeof(chunk) / sizeof(chunk[0]));
            for (k = 0; k < n; k++) chunk[k] = block[p->offset + qnet__param_index(p, f + k)];
            status = qnet__write_numbers(ctx, sink, chunk, n, sizeof(qnet_real));
        }
    }
    qnet__free(ctx, tensors, bytes);
    return status;
}

#ifndef QNET_NO_STDIO
/* What the hook makes of path, a weights file of another kind; *used = 0: none of those. */
static qnet_status qnet__safetensors_by_hook(qnet_context *ctx, const char *path,
                                             qnet_safetensors **out, int *used)
{
    const qnet_weights_reader *reader = &ctx->hooks.weights;
    qnet_memory_source state;
    qnet_source source;
    qnet_buffer bytes;
    qnet_status status;
    char sentence[512];
    memset(&bytes, 0, sizeof(bytes));
    sentence[0] = 0;
    *used = 0;
    if (reader->read == NULL || path == NULL) return QNET_OK;
    status = reader->read(reader->user, ctx, path, &bytes, sentence, sizeof(sentence));
    *used = status != QNET_OK || bytes.size > 0;
    if (status != QNET_OK) {
        status = qnet__fail(ctx, status, "%s", sentence);
    } else if (bytes.size > 0) {
        source = qnet_source_memory(&state, bytes.bytes, bytes.size, path);
        status = qnet_safetensors_read(ctx, &source, out);
    }
    qnet_buffer_free(ctx, &bytes);
    return status;
}

/* qnet_safetensors_read of a path. */
QNET_API qnet_status qnet_safetensors_load(qnet_context *ctx, const char *path,
                                           qnet_safetensors **out)
{
    qnet__file file;
    qnet_source source;
    qnet_status status;
    int used = 0;
    if (ctx != NULL && out != NULL) {
        QNET__TRY(qnet__safetensors_by_hook(ctx, path, out, &used));
        if (used) return QNET_OK;
    }
    QNET__TRY(qnet__file_open_read(ctx, path, &file, &source));
    status = qnet_safetensors_read(ctx, &source, out);
    qnet__file_close(&file);
    return status;
}

/* qnet_weights_from_safetensors of a path. */
QNET_API qnet_status qnet_weights_load(qnet_context *ctx, const char *path,
                                       const qnet_param_table *table, qnet_real *block,
                                       int replace_head, int *head_replaced)
{
    qnet_safetensors *file = NULL;
    qnet_status status;
    QNET__TRY(qnet_safetensors_load(ctx, path, &file));
    status = qnet_weights_from_safetensors(ctx, file, table, block, replace_head, head_replaced);
    qnet_safetensors_destroy(file);
    return status;
}

/* qnet_weights_write to a path, which is replaced only when all has been written. */
QNET_API qnet_status qnet_weights_save(qnet_context *ctx, const char *path,
                                       const qnet_param_table *table, const qnet_real *block,
                                       const char *const *metadata_pairs, int pairs)
{
    qnet__file file;
    qnet_sink sink;
    qnet_status status;
    QNET__TRY(qnet__file_open_replace(ctx, path, &file, &sink));
    status = qnet_weights_write(ctx, &sink, table, block, metadata_pairs, pairs);
    if (status == QNET_OK) return qnet__file_commit(ctx, &file);
    qnet__file_abandon(&file);
    return status;
}
#endif
/* ============================================================================================
   >>image: histogram stretching and augmentation (paper, "Data Augmentation").
   Order: stretch, flips, brightness and contrast, gamma, grid distortion, shift-scale-rotate,
   crop. The first, third and fourth change values and run on the pixels of the prepared image;
   all the others move pixels and are composed into one coordinate map, so that an image is
   interpolated once however many of them were drawn, and not at all when none of them
   interpolates. A cropped input is cut out of the slice first, with a margin, and then treated so:
   its percentiles are those of the cut-out, and what a rotation brings in at the corners beyond the
   margin is mirrored. Formulas and ranges are those of Albumentations 0.5-1.0, which the paper
   cites (Buslaev et al. 2020); "histogram stretching" is not defined there nor in the paper: here
   it is a linear map of the 1st..99th percentile of the non-zero pixels to 0..1, or fixed windows.
   ============================================================================================ */

QNET_API void qnet_augment_config_init(qnet_augment_config *config)
{
    int c;
    memset(config, 0, sizeof *config);
    config->stretch = QNET_STRETCH_PERCENTILE;
    config->percentile_low = 1;
    config->percentile_high = 99;
    config->window_low[0] = -0.2;  /* QSM, ppm */
    config->window_high[0] = 0.2;
    config->window_high[1] = 60;   /* R2*, 1/s; T1W has no absolute unit: 0 0, by percentile */
    config->p_hflip = 0.5;
    config->p_vflip = 0.5;
    config->p_brightness_contrast = 0.7;
    config->p_gamma = 0.3;
    config->p_grid = 0.25;
    config->p_affine = 0.5;
    config->brightness = 0.2;
    config->contrast = 0.2;
    config->gamma_low = 80;
    config->gamma_high = 120;
    config->grid_limit = 0.3;
    config->shift = 0.0625;
    config->scale = 0.1;
    config->rotate = 45;
    for (c = 0; c < 3; c++) config->std[c] = 1;
}

QNET_API void qnet_augment_config_imagenet(qnet_augment_config *config)
{
    config->mean[0] = 0.485;
    config->mean[1] = 0.456;
    config->mean[2] = 0.406;
    config->std[0] = 0.229;
    config->std[1] = 0.224;
    config->std[2] = 0.225;
}

/* ---- drawing: the parameters first ----------------------------------------------------------- */

/* The record of no transform but the crop at (crop_y, crop_x). */
static qnet_augmentation qnet__augment_identity(int crop_y, int crop_x)
{
    qnet_augmentation record;
    int i;
    memset(&record, 0, sizeof record);
    record.alpha = record.gamma = record.scale = 1;
    for (i = 0; i <= QNET_GRID_STEPS; i++) record.grid_x[i] = record.grid_y[i] = 1;
    record.crop_y = crop_y;
    record.crop_x = crop_x;
    return record;
}

/* 27 uniform numbers are drawn whatever the coins say, in this order: coin hflip; coin vflip; coin
   brightness-contrast, alpha, beta; coin gamma, gamma; coin grid, 6 factors along x, 6 along y;
   coin affine, angle, scale, dx, dy; crop row, crop column. So a changed probability or
   physics_safe leaves every other draw as it was. Fields of a transform that did not fall hold
   the identity. */
QNET_API qnet_augmentation qnet_augment_draw(const qnet_augment_config *config, qnet_rng *rng,
                                             int in_h, int in_w, int out_h, int out_w)
{
    const qnet_augmentation none = qnet__augment_identity(0, 0);
    qnet_augmentation record = none;
    double gammas, row, column;
    int i;
    record.hflip = qnet_rng_uniform(rng) < config->p_hflip;
    record.vflip = qnet_rng_uniform(rng) < config->p_vflip;
    record.brightness_contrast = qnet_rng_uniform(rng) < config->p_brightness_contrast;
    record.alpha = 1 + qnet_rng_range(rng, -config->contrast, config->contrast);
    record.beta = qnet_rng_range(rng, -config->brightness, config->brightness);
    /* A whole number of percent, both ends included. */
    record.gamma_on = qnet_rng_uniform(rng) < config->p_gamma;
    gammas = floor(config->gamma_high - config->gamma_low) + 1;
    record.gamma = (config->gamma_low + floor(qnet_rng_uniform(rng) * gammas)) / 100;
    record.grid = qnet_rng_uniform(rng) < config->p_grid;
    for (i = 0; i <= QNET_GRID_STEPS; i++)
        record.grid_x[i] = 1 + qnet_rng_range(rng, -config->grid_limit, config->grid_limit);
    for (i = 0; i <= QNET_GRID_STEPS; i++)
        record.grid_y[i] = 1 + qnet_rng_range(rng, -config->grid_limit, config->grid_limit);
    record.affine = qnet_rng_uniform(rng) < config->p_affine;
    record.angle = qnet_rng_range(rng, -config->rotate, config->rotate);
    record.scale = 1 + qnet_rng_range(rng, -config->scale, config->scale);
    record.dx = qnet_rng_range(rng, -config->shift, config->shift);
    record.dy = qnet_rng_range(rng, -config->shift, config->shift);
    row = qnet_rng_uniform(rng); /* as in Albumentations, in - out itself is never reached */
    column = qnet_rng_uniform(rng);
    record.crop_y = (int)floor(row * qnet__max_int(in_h - out_h, 0));
    record.crop_x = (int)floor(column * qnet__max_int(in_w - out_w, 0));

    /* Only now, so that the numbers above are drawn all the same. */
    if (config->physics_safe) record.vflip = record.brightness_contrast = record.gamma_on = 0;
    if (!record.brightness_contrast) {
        record.alpha = none.alpha;
        record.beta = none.beta;
    }
    if (!record.gamma_on) record.gamma = none.gamma;
    if (!record.grid) {
        memcpy(record.grid_x, none.grid_x, sizeof none.grid_x);
        memcpy(record.grid_y, none.grid_y, sizeof none.grid_y);
    }
    if (!record.affine) {
        record.angle = none.angle;
        record.scale = none.scale;
        record.dx = none.dx;
        record.dy = none.dy;
    }
    return record;
}

QNET_API qnet_augmentation qnet_augment_test(int in_h, int in_w, int out_h, int out_w)
{
    return qnet__augment_identity(qnet__max_int(in_h - out_h, 0) / 2,
                                  qnet__max_int(in_w - out_w, 0) / 2);
}

/* ---- histogram stretching -------------------------------------------------------------------- */

/* Pixels are counted by the leading bits of a key: sign, exponent and two bits of the fraction. */
#define QNET__DIGIT_BITS 11
#define QNET__DIGITS ((size_t)1 << QNET__DIGIT_BITS)

/* Blocks that preparing one image of h x w needs, n = h * w. */
typedef struct qnet__image_scratch {
    float *image;           /* [n][3] after the value transforms, and one number that is not used */
    uint32_t *kept;         /* [n] */
    uint32_t *bins;         /* [4][QNET__DIGITS]: of each channel, and of a selection */
    double *map_x, *map_y;  /* [w], [h]: the grid distortion */
    double *from_x, *from_y; /* [w]: source of each pixel of an output row */
} qnet__image_scratch;

static qnet__image_scratch qnet__image_scratch_plan(qnet__arena *arena, size_t h, size_t w)
{
    qnet__image_scratch s;
    size_t n = 0;
    if (!qnet__mul(h, w, &n)) n = (size_t)-1; /* makes the arena overflow */
    s.kept = (uint32_t *)qnet__take(arena, n, sizeof *s.kept);
    s.bins = (uint32_t *)qnet__take(arena, QNET__DIGITS, 4 * sizeof *s.bins);
    /* Pixels are read four numbers at a time: the last one reads a number past its end. */
    s.image = (float *)qnet__take(arena, n < (size_t)-1 ? n + 1 : n, 3 * sizeof *s.image);
    s.map_x = (double *)qnet__take(arena, w, sizeof *s.map_x);
    s.map_y = (double *)qnet__take(arena, h, sizeof *s.map_y);
    s.from_x = (double *)qnet__take(arena, w, sizeof *s.from_x);
    s.from_y = (double *)qnet__take(arena, w, sizeof *s.from_y);
    return s;
}

/* Bytes for an image of in_h x in_w; (size_t)-1 when that is no size. */
QNET_API size_t qnet_augment_scratch(int in_h, int in_w)
{
    qnet__arena arena = {NULL, 0};
    if (in_h < 1 || in_w < 1) return (size_t)-1;
    (void)qnet__image_scratch_plan(&arena, (size_t)in_h, (size_t)in_w);
    return arena.at;
}

/* An unsigned key that sorts as the float does: negative numbers count downwards. */
static uint32_t qnet__float_key(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The reverse of qnet__float_key. */
static float qnet__key_value(uint32_t key)
{
    uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The keys of rank `rank` and rank + 1 (from 0, in rising order) of key[n], into pair; the last one
   twice when rank = n - 1. Radix selection: count in 256 equal parts of the keys' range, keep the
   part that holds the rank, go on with its range; four times at most, so time is linear whatever
   the keys are. What is few enough is sorted by insertion. key is spent. `above` is the smallest
   key left behind on the upper side: rank + 1, if no kept key follows. */
static void qnet__select_pair(uint32_t *key, size_t n, size_t rank, uint32_t *bins,
                              uint32_t pair[2])
{
    uint32_t above = 0xffffffffu;
    size_t i, k;
    while (n > 24) {
        uint32_t smallest = key[0], largest = key[0], wanted = 0;
        size_t m = 0;
        int down = 0;
        for (i = 1; i < n; i++) {
            smallest = key[i] < smallest ? key[i] : smallest;
            largest = key[i] > largest ? key[i] : largest;
        }
        if (smallest == largest) break;
        while ((largest - smallest) >> down > 255) down++;
        memset(bins, 0, 256 * sizeof *bins);
        for (i = 0; i < n; i++) bins[(key[i] - smallest) >> down]++;
        while (rank >= bins[wanted]) rank -= bins[wanted++];
        for (i = 0; i < n; i++) {
            const uint32_t digit = (key[i] - smallest) >> down;
            above = digit > wanted && key[i] < above ? key[i] : above;
            key[m] = key[i]; /* m <= i */
            m += digit == wanted;
        }
        n = m;
    }
    for (i = 1; i < n; i++) { /* one step each where all are equal */
        const uint32_t moved = key[i];
        for (k = i; k > 0 && key[k - 1] > moved; k--) key[k] = key[k - 1];
        key[k] = moved;
    }
    pair[0] = key[rank];
    pair[1] = rank + 1 < n ? key[rank + 1] : above < 0xffffffffu ? above : key[rank];
}

/* bins[3][QNET__DIGITS]: how many values of each channel of pixels[n][3] have each first digit
   (sign, exponent and two bits more). Zero, which lies outside the head, and what no brain can be
   are left out: 0 and |v| < 2^-128 share the two middle bins; infinity and NaN, the four outer
   ones on each side. */
static void qnet__count_digits(const float *pixels, size_t n, uint32_t *bins)
{
    uint32_t *bins1 = bins + QNET__DIGITS, *bins2 = bins1 + QNET__DIGITS;
    size_t i;
    int c, k;
    memset(bins, 0, 3 * QNET__DIGITS * sizeof *bins);
    for (i = 0; i < n; i++) {
        bins[qnet__float_key(pixels[3 * i]) >> (32 - QNET__DIGIT_BITS)]++;
        bins1[qnet__float_key(pixels[3 * i + 1]) >> (32 - QNET__DIGIT_BITS)]++;
        bins2[qnet__float_key(pixels[3 * i + 2]) >> (32 - QNET__DIGIT_BITS)]++;
    }
    for (c = 0; c < 3; c++, bins += QNET__DIGITS) {
        bins[QNET__DIGITS / 2 - 1] = bins[QNET__DIGITS / 2] = 0;
        for (k = 0; k < 4; k++) bins[k] = bins[QNET__DIGITS - 1 - (size_t)k] = 0;
    }
}

/* Percentile q (0..100) of a channel, linear between order statistics as numpy.percentile has it:
   a + f (b - a), a of rank floor(q/100 (m-1)), b of the next. values: &pixels[0][channel] of
   [n][3]; bins: its counted first digits, which tell where to look. 0 if all are 0. */
static double qnet__percentile(const float *values, size_t n, double q, const uint32_t *bins,
                               uint32_t *kept, uint32_t *work)
{
    size_t count = 0, below = 0, rank, m = 0, i;
    uint32_t first = 0, last, pair[2];
    float low, high;
    double at;
    for (i = 0; i < QNET__DIGITS; i++) count += bins[i];
    if (count == 0) return 0;
    at = q / 100 * (double)(count - 1);
    rank = qnet__min_size((size_t)at, count - 1);
    /* The first digits of the keys of this rank and of the next: nearly always the same one. */
    while (rank >= below + bins[first]) below += bins[first++];
    for (last = first, i = below + bins[first]; i < count && i <= rank + 1;) i += bins[++last];
    low = qnet__key_value(first << (32 - QNET__DIGIT_BITS));
    high = qnet__key_value(((last + 1) << (32 - QNET__DIGIT_BITS)) - 1);
    for (i = 0; i < n; i++) {
        const float value = values[3 * i];
        if (value >= low && value <= high) {
            const uint32_t key = qnet__float_key(value);
            if (bins[key >> (32 - QNET__DIGIT_BITS)]) kept[m++] = key; /* no zero in between */
        }
    }
    qnet__select_pair(kept, m, rank - below, work, pair);
    low = qnet__key_value(pair[0]);
    high = qnet__key_value(pair[1]);
    return low + (at - (double)rank) * ((double)high - low);
}

/* Percentiles and windows in order; NaN is refused by the form of the comparisons. */
static qnet_status qnet__stretch_check(qnet_context *ctx, const qnet_augment_config *config)
{
    int c;
    if (!(config->percentile_low >= 0 && config->percentile_low < config->percentile_high &&
          config->percentile_high <= 100))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "stretch: percentiles %g..%g, expected 0 <= low < high <= 100",
                          config->percentile_low, config->percentile_high);
    for (c = 0; c < 3; c++)
        if (!(config->window_low[c] <= config->window_high[c]))
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "stretch: window %g..%g of channel %d is empty",
                              config->window_low[c], config->window_high[c], c);
    return QNET_OK;
}

/* 1: the channel's limits are percentiles. */
static int qnet__by_percentile(const qnet_augment_config *config, int c)
{
    return config->stretch != QNET_STRETCH_WINDOW ||
           !(config->window_low[c] < config->window_high[c]);
}

/* limit[channel][end]: the percentiles of the non-zero pixels, by counted first digits. */
static void qnet__percentiles_ref(const qnet_augment_config *config, const float *pixels,
                                  size_t count, const qnet__image_scratch *s, float limit[3][2])
{
    uint32_t *work = s->bins + 3 * QNET__DIGITS;
    int c;
    qnet__count_digits(pixels, count, s->bins);
    for (c = 0; c < 3; c++) {
        const uint32_t *bins = s->bins + (size_t)c * QNET__DIGITS;
        if (!qnet__by_percentile(config, c)) continue;
        limit[c][0] = (float)qnet__percentile(pixels + c, count, config->percentile_low, bins,
                                              s->kept, work);
        limit[c][1] = (float)qnet__percentile(pixels + c, count, config->percentile_high, bins,
                                              s->kept, work);
    }
}

/* The fast form guesses from a sample between which two values a percentile lies, then counts in
   one sweep what is below and keeps what is between. A guess that turns out wrong costs time only:
   the twin does it again. */
#define QNET__SAMPLE 1024

typedef struct qnet__bracket {
    float from, to;  /* the wanted ranks are expected at from <= value <= to */
    size_t below;    /* valid pixels under from */
    size_t kept, room;
    uint32_t *key;   /* [room]: keys of what lies between */
} qnet__bracket;

#if QNET__X86
/* What counts for a percentile: 2^-128 <= |value| < infinity, see qnet__count_digits. */
static int qnet__is_counted(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits &= 0x7fffffffu;
    return bits >= 0x00200000u && bits < 0x7f800000u;
}

/* Guesses the brackets b[2] of two percentiles of a channel, values = &pixels[0][channel], from
   every step-th pixel: three and a half standard deviations of the sample's rank, and two ranks
   more, to both sides. 0 where the sample is too small. sample[2 * QNET__SAMPLE] is scratch. */
static int qnet__bracket_guess(const float *values, size_t count, const double percentile[2],
                               uint32_t *sample, uint32_t *work, qnet__bracket b[2])
{
    const size_t step = (count / QNET__SAMPLE) | 1; /* odd, so that no row or column is favoured */
    uint32_t *again = sample + QNET__SAMPLE, pair[2];
    size_t i, n = 0;
    int e;
    for (i = 0; i < count && n < QNET__SAMPLE; i += step) {
        sample[n] = qnet__float_key(values[3 * i]);
        n += (size_t)qnet__is_counted(values[3 * i]);
    }
    if (n < 64) return 0;
    for (e = 0; e < 2; e++) {
        const double q = percentile[e] / 100, at = q * (double)(n - 1);
        const double spread = 3.5 * sqrt((double)n * q * (1 - q)) + 2;
        b[e].from = -FLT_MAX;
        b[e].to = FLT_MAX;
        if (at - spread >= 0) {
            memcpy(again, sample, n * sizeof *again);
            qnet__select_pair(again, n, (size_t)(at - spread), work, pair);
            b[e].from = qnet__key_value(pair[0]);
        }
        if (at + spread < (double)(n - 1)) {
            memcpy(again, sample, n * sizeof *again);
            qnet__select_pair(again, n, (size_t)(at + spread), work, pair);
            b[e].to = qnet__key_value(pair[1]);
        }
    }
    return 1;
}

/* Sweeps pixels[count][3], of which the first multiple of 8 pixels as 3 vectors of 8 numbers: lane
   l of vector v is of channel (8 v + l) % 3. valid[c]: how many of the channel count. Returns 0
   when a bracket holds more than there is room for. */
#define QNET__AVX2_UNFUSED __attribute__((target("avx2"))) /* no fused multiply-add by chance */
QNET__AVX2_UNFUSED static int qnet__bracket_sweep(const float *pixels, size_t count,
                                                  qnet__bracket bracket[3][2], size_t valid[3])
{
    __m256 from[3][2], to[3][2];
    __m256i below[3][2], counted[3];
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const __m256i smallest = _mm256_set1_epi32(0x001fffff);
    const __m256i infinite = _mm256_set1_epi32(0x7f800000);
    const size_t whole = count / 8 * 8;
    size_t i;
    int v, l, e, full = 0;
    for (v = 0; v < 3; v++) {
        counted[v] = below[v][0] = below[v][1] = _mm256_setzero_si256();
        for (e = 0; e < 2; e++) {
            float f[8], t[8];
            for (l = 0; l < 8; l++) {
                f[l] = bracket[(8 * v + l) % 3][e].from;
                t[l] = bracket[(8 * v + l) % 3][e].to;
            }
            from[v][e] = _mm256_loadu_ps(f);
            to[v][e] = _mm256_loadu_ps(t);
        }
    }
    for (i = 0; i < whole && !full; i += 8) { /* 8 keys at most for a bracket */
        for (v = 0; v < 3; v++) {
            const float *at = pixels + 3 * i + 8 * (size_t)v;
            const __m256 x = _mm256_loadu_ps(at);
            const __m256i m = _mm256_and_si256(_mm256_castps_si256(x), magnitude);
            const __m256i ok = _mm256_and_si256(_mm256_cmpgt_epi32(m, smallest),
                                                _mm256_cmpgt_epi32(infinite, m));
            unsigned inside;
            counted[v] = _mm256_sub_epi32(counted[v], ok); /* a true lane is -1 */
            for (e = 0; e < 2; e++) {
                const __m256 low = _mm256_cmp_ps(x, from[v][e], _CMP_LT_OQ);
                const __m256 high = _mm256_cmp_ps(x, to[v][e], _CMP_GT_OQ);
                below[v][e] = _mm256_sub_epi32(
                    below[v][e], _mm256_and_si256(ok, _mm256_castps_si256(low)));
                inside = (unsigned)_mm256_movemask_ps(
                    _mm256_andnot_ps(_mm256_or_ps(low, high), _mm256_castsi256_ps(ok)));
                for (; inside != 0; inside &= inside - 1) { /* from the lowest bit on */
                    const int lane = __builtin_ctz(inside);
                    qnet__bracket *b = &bracket[(8 * v + lane) % 3][e];
                    b->key[b->kept++] = qnet__float_key(at[lane]);
                    full |= b->kept + 8 > b->room;
                }
            }
        }
    }
    memset(valid, 0, 3 * sizeof *valid);
    for (v = 0; v < 3; v++) {
        int32_t n[8], u[2][8];
        _mm256_storeu_si256((__m256i *)(void *)n, counted[v]);
        _mm256_storeu_si256((__m256i *)(void *)u[0], below[v][0]);
        _mm256_storeu_si256((__m256i *)(void *)u[1], below[v][1]);
        for (l = 0; l < 8; l++) {
            const int c = (8 * v + l) % 3;
            valid[c] += (size_t)n[l];
            for (e = 0; e < 2; e++) bracket[c][e].below += (size_t)u[e][l];
        }
    }
    for (i = 3 * whole; i < 3 * count && !full; i++) {
        if (!qnet__is_counted(pixels[i])) continue;
        valid[i % 3]++;
        for (e = 0; e < 2; e++) {
            qnet__bracket *b = &bracket[i % 3][e];
            if (pixels[i] < b->from) b->below++;
            else if (pixels[i] <= b->to) b->key[b->kept++] = qnet__float_key(pixels[i]);
            full |= b->kept + 8 > b->room;
        }
    }
    return !full;
}

/* 1: limit is filled in, with the numbers of the twin; 0: a guess was wrong, nothing has been. */
static int qnet__percentiles_fast(const qnet_augment_config *config, const float *pixels,
                                  size_t count, const qnet__image_scratch *s, float limit[3][2])
{
    const double percentile[2] = {config->percentile_low, config->percentile_high};
    uint32_t *work = s->bins + 3 * QNET__DIGITS, pair[2];
    const size_t room = count / 6;
    qnet__bracket bracket[3][2];
    float found[3][2];
    size_t valid[3];
    int c, e;
    if (count < 4 * QNET__SAMPLE) return 0;
    for (c = 0; c < 3; c++) {
        for (e = 0; e < 2; e++) {
            qnet__bracket *b = &bracket[c][e];
            memset(b, 0, sizeof *b);
            b->from = FLT_MAX; /* nothing lies between */
            b->to = -FLT_MAX;
            b->room = room;
            b->key = s->kept + (size_t)(2 * c + e) * room;
        }
        if (qnet__by_percentile(config, c) &&
            !qnet__bracket_guess(pixels + c, count, percentile, s->bins, work, bracket[c])) {
            return 0;
        }
    }
    if (!qnet__bracket_sweep(pixels, count, bracket, valid)) return 0;
    for (c = 0; c < 3; c++) {
        for (e = 0; qnet__by_percentile(config, c) && e < 2; e++) {
            const qnet__bracket *b = &bracket[c][e];
            const double at = percentile[e] / 100 * (double)(valid[c] - 1);
            const size_t rank = qnet__min_size((size_t)at, valid[c] - 1);
            const size_t next = qnet__min_size(rank + 1, valid[c] - 1);
            float low, high;
            if (rank < b->below || next >= b->below + b->kept) return 0;
            qnet__select_pair(b->key, b->kept, rank - b->below, work, pair);
            low = qnet__key_value(pair[0]);
            high = qnet__key_value(pair[1]);
            found[c][e] = (float)(low + (at - (double)rank) * ((double)high - low));
        }
    }
    for (c = 0; c < 3; c++) {
        for (e = 0; qnet__by_percentile(config, c) && e < 2; e++) limit[c][e] = found[c][e];
    }
    return 1;
}
#endif

/* 1: the vector forms of this room may run. */
static int qnet__image_fast(const qnet_context *ctx)
{
#if defined(QNET_REFERENCE) || !QNET__X86
    QNET__UNUSED(ctx);
    return 0;
#else
    return ctx != NULL && qnet_context_cpu(ctx) >= QNET_CPU_AVX2;
#endif
}

/* low[c] and high[c] by window or by percentiles; both 0 for a channel of nothing but zeros. */
static void qnet__stretch_limits_in(qnet_context *ctx, const qnet_augment_config *config,
                                    const float *pixels, size_t count,
                                    const qnet__image_scratch *s, float low[3], float high[3])
{
    float limit[3][2];
    int c, done = 1;
    for (c = 0; c < 3; c++) {
        limit[c][0] = (float)config->window_low[c];
        limit[c][1] = (float)config->window_high[c];
        if (qnet__by_percentile(config, c)) done = 0;
    }
    QNET__UNUSED(ctx);
#if QNET__X86
    if (!done && qnet__image_fast(ctx)) {
        done = qnet__percentiles_fast(config, pixels, count, s, limit);
    }
#endif
    if (!done) qnet__percentiles_ref(config, pixels, count, s, limit);
    for (c = 0; c < 3; c++) {
        low[c] = limit[c][0];
        high[c] = limit[c][1];
    }
}

/* scratch: qnet_augment_scratch(h, w) bytes of any h * w >= count, or NULL. */
QNET_API qnet_status qnet_stretch_limits(qnet_context *ctx, const qnet_augment_config *config,
                                         const float *pixels, size_t count, float low[3],
                                         float high[3], void *scratch)
{
    qnet__arena arena = {NULL, 0};
    qnet__image_scratch s;
    size_t bytes;
    if (config == NULL || pixels == NULL || low == NULL || high == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "stretch: config, pixels or limits are missing");
    if (count > (size_t)INT_MAX)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "stretch: image of more than %d pixels", INT_MAX);
    QNET__TRY(qnet__stretch_check(ctx, config));
    s = qnet__image_scratch_plan(&arena, 1, count);
    bytes = arena.at;
    arena.base = (unsigned char *)(scratch ? scratch : qnet__alloc(ctx, bytes));
    if (arena.base == NULL) return qnet__no_memory(ctx, bytes, "histogram stretching");
    arena.at = 0;
    s = qnet__image_scratch_plan(&arena, 1, count);
    qnet__stretch_limits_in(ctx, config, pixels, count, &s, low, high);
    if (scratch == NULL) qnet__free(ctx, arena.base, bytes);
    return QNET_OK;
}

/* value clipped to 0..1; NaN becomes 0. */
static float qnet__clip01(float value)
{
    value = value > 0 ? value : 0;
    return value < 1 ? value : 1;
}

/* 1 / (high - low); 0, which makes the channel 0, without contrast or where it would overflow. */
static float qnet__stretch_scale(float low, float high)
{
    const float span = high - low;
    return span >= FLT_MIN && span <= FLT_MAX ? 1 / span : 0;
}

/* out = (pixels - low) / (high - low), clipped; out may be pixels. */
QNET_API void qnet_stretch_apply(const float *pixels, size_t count, const float low[3],
                                 const float high[3], float *out)
{
    float scale[3];
    size_t i;
    int c;
    for (c = 0; c < 3; c++) scale[c] = qnet__stretch_scale(low[c], high[c]);
    for (i = 0; i < 3 * count; i += 3) {
        out[i] = qnet__clip01((pixels[i] - low[0]) * scale[0]);
        out[i + 1] = qnet__clip01((pixels[i + 1] - low[1]) * scale[1]);
        out[i + 2] = qnet__clip01((pixels[i + 2] - low[2]) * scale[2]);
    }
}

/* ---- geometry -------------------------------------------------------------------------------- */

/* Reflect-101, ... 2 1 | 0 1 2 ... n-1 | n-2 ..., of a coordinate at any distance. */
static double qnet__reflect(double x, int size)
{
    const double last = size - 1;
    if (x >= 0 && x <= last) return x;
    if (size < 2) return 0;
    x = fmod(fabs(x), 2 * last);
    if (!(x <= 2 * last)) return 0; /* NaN: any pixel, but one of the image */
    return x > last ? 2 * last - x : x;
}

/* Entry i of the grid distortion's map of one axis. The axis is cut into 5 pieces of `step` pixels
   and a rest; piece k runs linearly over step * factor[k] source pixels from where the last one
   ended, both ends included, and the rest ends at `size`. (On sides below 25, where the rest can be
   as long as a piece, Albumentations leaves pixels unmapped; here the rest is always one piece.) */
static double qnet__grid_entry(const double *factor, int size, int i)
{
    const int step = qnet__max_int(size / QNET_GRID_STEPS, 1);
    const int piece = qnet__min_int(i / step, QNET_GRID_STEPS), start = piece * step;
    const int length = piece < QNET_GRID_STEPS ? step : size - start;
    double first = 0, last;
    int k;
    for (k = 0; k < piece; k++) first += step * factor[k];
    last = piece < QNET_GRID_STEPS ? first + step * factor[piece] : size;
    return length > 1 ? first + (last - first) * (i - start) / (length - 1) : first;
}

/* The way back from a pixel of the output to the prepared image. */
typedef struct qnet__warp {
    const qnet_augmentation *record;
    int in_h, in_w;
    double xx, xy, x0, yx, yy, y0; /* x = xx X + xy Y + x0, y = yx X + yy Y + y0 */
    const double *map_x, *map_y;   /* qnet__grid_entry of each pixel; NULL: computed when needed */
} qnet__warp;

/* Shift-scale-rotate takes (x, y) to M (x, y, 1) with, about the centre (cx, cy) = (w/2, h/2),
   M = [a b (1-a) cx - b cy + dx w; -b a b cx + (1-a) cy + dy h], a = scale cos, b = scale sin
   (OpenCV's getRotationMatrix2D). An output pixel is fetched from M^-1 of itself; the linear part's
   inverse is [a -b; b a] / scale^2. */
static qnet__warp qnet__warp_plan(const qnet_augmentation *record, int in_h, int in_w)
{
    qnet__warp warp;
    memset(&warp, 0, sizeof warp);
    warp.record = record;
    warp.in_h = in_h;
    warp.in_w = in_w;
    warp.xx = warp.yy = 1;
    if (record->affine) {
        const double radians = record->angle * 3.14159265358979323846 / 180;
        const double a = record->scale * cos(radians), b = record->scale * sin(radians);
        const double cx = in_w / 2.0, cy = in_h / 2.0, det = record->scale * record->scale;
        const double tx = (1 - a) * cx - b * cy + record->dx * in_w;
        const double ty = b * cx + (1 - a) * cy + record->dy * in_h;
        warp.xx = a / det;
        warp.xy = -b / det;
        warp.yx = b / det;
        warp.yy = a / det;
        warp.x0 = -(warp.xx * tx + warp.xy * ty);
        warp.y0 = -(warp.yx * tx + warp.yy * ty);
    }
    return warp;
}

/* Entry at a coordinate in 0..size-1 between pixels: linear between its neighbours. */
static double qnet__grid_at(const double *map, const double *factor, int size, double x)
{
    const int i = (int)x, next = qnet__min_int(i + 1, size - 1);
    const double a = map ? map[i] : qnet__grid_entry(factor, size, i);
    const double b = map ? map[next] : qnet__grid_entry(factor, size, next);
    return a + (x - i) * (b - a);
}

/* Source (x, y), within 0..in_w-1, 0..in_h-1, of output pixel (out_x, out_y): back through the
   crop, shift-scale-rotate, grid distortion and flips. Where the paper's pipeline would read a
   border of an intermediate image, the coordinate is reflected there too. */
static void qnet__warp_point(const qnet__warp *warp, int out_x, int out_y, double *x, double *y)
{
    const qnet_augmentation *r = warp->record;
    const double X = (double)out_x + r->crop_x, Y = (double)out_y + r->crop_y;
    double sx = qnet__reflect(warp->xx * X + warp->xy * Y + warp->x0, warp->in_w);
    double sy = qnet__reflect(warp->yx * X + warp->yy * Y + warp->y0, warp->in_h);
    if (r->grid) {
        sx = qnet__reflect(qnet__grid_at(warp->map_x, r->grid_x, warp->in_w, sx), warp->in_w);
        sy = qnet__reflect(qnet__grid_at(warp->map_y, r->grid_y, warp->in_h, sy), warp->in_h);
    }
    *x = r->hflip ? warp->in_w - 1 - sx : sx;
    *y = r->vflip ? warp->in_h - 1 - sy : sy;
}

QNET_API void qnet_augment_map(const qnet_augmentation *record, int in_h, int in_w, int out_x,
                               int out_y, double *x, double *y)
{
    const qnet__warp warp = qnet__warp_plan(record, in_h, in_w);
    qnet__warp_point(&warp, out_x, out_y, x, y);
}

/* Ranges of a configuration: probabilities, limits, and a normalisation that can be divided by. */
static qnet_status qnet__augment_config_check(qnet_context *ctx, const qnet_augment_config *c)
{
    const double p[6] = {c->p_hflip, c->p_vflip, c->p_brightness_contrast,
                         c->p_gamma, c->p_grid, c->p_affine};
    const double limit[4] = {c->brightness, c->contrast, c->shift, c->rotate};
    int i;
    for (i = 0; i < 6; i++)
        if (!(p[i] >= 0 && p[i] <= 1))
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "augment: a probability is %g, expected 0..1", p[i]);
    for (i = 0; i < 4; i++)
        if (!(limit[i] >= 0 && limit[i] <= DBL_MAX))
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "augment: a limit of brightness, contrast, shift or rotate is %g",
                              limit[i]);
    if (!(c->scale >= 0 && c->scale < 1) || !(c->grid_limit >= 0 && c->grid_limit < 1) ||
        !(c->gamma_low > 0 && c->gamma_low <= c->gamma_high && c->gamma_high <= DBL_MAX))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: scale %g, grid_limit %g, gamma %g..%g out of range", c->scale,
                          c->grid_limit, c->gamma_low, c->gamma_high);
    for (i = 0; i < 3; i++)
        if (!qnet__is_finite(c->mean[i]) || !(c->std[i] > 0 && c->std[i] <= DBL_MAX))
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "augment: channel %d has mean %g and std %g, expected std > 0", i,
                              c->mean[i], c->std[i]);
    return qnet__stretch_check(ctx, c);
}

/* ---- applying a record ----------------------------------------------------------------------- */

/* Every number of a record finite and in the range where the map has an inverse. */
static qnet_status qnet__augment_check(qnet_context *ctx, const qnet_augment_config *config,
                                       const qnet_augmentation *r, int in_h, int in_w, int out_h,
                                       int out_w)
{
    /* NaN and infinity stay visible in a sum, so one comparison finds any of them. */
    double sum = r->alpha + r->beta + r->gamma + r->angle + r->scale + r->dx + r->dy;
    int i;
    for (i = 0; i <= QNET_GRID_STEPS; i++) sum += r->grid_x[i] + r->grid_y[i];
    for (i = 0; i < 3; i++) sum += config->mean[i] + config->std[i];
    if (in_h < 1 || in_w < 1 || out_h < 1 || out_w < 1 || out_h > in_h || out_w > in_w)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: output of %dx%d from an image of %dx%d", out_h, out_w, in_h,
                          in_w);
    if (r->crop_y < 0 || r->crop_x < 0 || r->crop_y > in_h - out_h || r->crop_x > in_w - out_w)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: crop of %dx%d at row %d, column %d leaves the image of %dx%d",
                          out_h, out_w, r->crop_y, r->crop_x, in_h, in_w);
    if (!(fabs(sum) <= DBL_MAX))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: a number of the record, mean or std is not finite");
    if (r->affine && !(r->scale > 0))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "augment: scale is %g, expected above 0",
                          r->scale);
    if (r->gamma_on && !(r->gamma > 0))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "augment: gamma is %g, expected above 0",
                          r->gamma);
    for (i = 0; i < 3; i++)
        if (!(config->std[i] >= FLT_MIN)) /* so that 1 / std is finite */
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "augment: std of channel %d is %g, expected above 0", i,
                              config->std[i]);
    return qnet__stretch_check(ctx, config);
}

/* v ^ gamma for v in 0..1, by the definition. */
QNET__HELPER float qnet__power_ref(float v, double gamma)
{
    return (float)pow(v, gamma);
}

/* The same by table, for a whole image with one gamma. With v = 2^e m, 1 <= m < 2, it is
   2^(e gamma) m^gamma: the first factor from a table by the bits of the exponent, the second one
   linear between 512 entries, which is off by at most gamma |gamma - 1| 2^-21 of the value: 1.1e-7
   up to a gamma of 1.2. */
#define QNET__POWER_BITS 9
typedef struct qnet__power_table {
    double gamma;
    float exponent[128]; /* 0 for 0 and denormal numbers */
    float mantissa[(1 << QNET__POWER_BITS) + 1];
} qnet__power_table;

/* The tables of one gamma; 640 calls of pow. */
static void qnet__power_plan(qnet__power_table *table, double gamma)
{
    int i;
    table->gamma = gamma;
    table->exponent[0] = 0;
    for (i = 1; i < 128; i++) table->exponent[i] = (float)pow(2, (i - 127) * gamma);
    for (i = 0; i <= 1 << QNET__POWER_BITS; i++)
        table->mantissa[i] = (float)pow(1 + i / (double)(1 << QNET__POWER_BITS), gamma);
}

/* v in 0..1; 0 and 1 come out exactly. */
static float qnet__power(const qnet__power_table *table, float v)
{
#ifdef QNET_REFERENCE
    return qnet__power_ref(v, table->gamma);
#else
    const int rest_bits = 23 - QNET__POWER_BITS;
    uint32_t bits, i;
    float rest;
    memcpy(&bits, &v, sizeof bits);
    i = bits >> rest_bits & ((1u << QNET__POWER_BITS) - 1);
    rest = (float)(int)(bits & ((1u << rest_bits) - 1)) / (float)(1 << rest_bits);
    return table->exponent[bits >> 23] *
           (table->mantissa[i] + rest * (table->mantissa[i + 1] - table->mantissa[i]));
#endif
}

/* The value transforms: stretch; v * alpha + beta, clipped to 0..1; v ^ gamma. pixels[count][3] to
   image[count][3]. */
static void qnet__augment_values_ref(const qnet_augmentation *record, const float *pixels,
                                     size_t count, const float low[3], const float high[3],
                                     float *image)
{
    const float alpha = (float)record->alpha, beta = (float)record->beta;
    size_t i;
    qnet_stretch_apply(pixels, count, low, high, image);
    if (record->brightness_contrast)
        for (i = 0; i < 3 * count; i++) image[i] = qnet__clip01(image[i] * alpha + beta);
    if (record->gamma_on) {
        qnet__power_table table;
        qnet__power_plan(&table, record->gamma);
        for (i = 0; i < 3 * count; i++) image[i] = qnet__power(&table, image[i]);
    }
}

#if QNET__X86
/* v ^ gamma for vectors, 0 < gamma <= QNET__POWER_GAMMA. With v = 2^e m, 1 <= m < 2, as above, but
     m^gamma = (3/2)^gamma sum over k of binomial(gamma, k) u^k,   u = m / (3/2) - 1, |u| <= 1/3,
   whose rest after k = 10 is below 2e-8 of it, and 2^(e gamma) from 16 numbers in two registers. */
#define QNET__POWER_GAMMA 3
#define QNET__POWER_TERMS 11
typedef struct qnet__power_series {
    qnet__power_table table; /* for numbers below 2^-15, which are rare */
    float term[QNET__POWER_TERMS], exponent[16];
} qnet__power_series;

static void qnet__power_series_plan(qnet__power_series *s, double gamma)
{
    double term = pow(1.5, gamma);
    int k;
    qnet__power_plan(&s->table, gamma);
    for (k = 0; k < QNET__POWER_TERMS; k++) {
        s->term[k] = (float)term;
        term *= (gamma - k) / (k + 1);
    }
    for (k = 0; k < 16; k++) s->exponent[k] = (float)pow(2, (k - 15) * gamma);
}

/* x in 0..1; 0 and 1 come out exactly. */
QNET__AVX2 QNET__INLINE __m256 qnet__power_avx2(const qnet__power_series *s, __m256 x)
{
    const __m256 one = _mm256_set1_ps(1), zero = _mm256_setzero_ps();
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i e = _mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127 - 15));
    const __m256 m = _mm256_or_ps(_mm256_castsi256_ps(_mm256_and_si256(bits,
                                      _mm256_set1_epi32(0x007fffff))), one);
    const __m256 u = _mm256_fmadd_ps(m, _mm256_set1_ps(2.f / 3), _mm256_set1_ps(-1));
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(s->exponent), e);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(s->exponent + 8), e);
    const __m256 scale = _mm256_blendv_ps( /* bit 3 of e, moved to the sign, chooses */
        low, high, _mm256_castsi256_ps(_mm256_slli_epi32(e, 28)));
    const __m256 is_zero = _mm256_cmp_ps(x, zero, _CMP_EQ_OQ);
    const __m256 is_one = _mm256_cmp_ps(x, one, _CMP_EQ_OQ);
    __m256 sum = _mm256_set1_ps(s->term[QNET__POWER_TERMS - 1]);
    int k;
    QNET__UNROLL
    for (k = QNET__POWER_TERMS - 2; k >= 0; k--) {
        sum = _mm256_fmadd_ps(sum, u, _mm256_set1_ps(s->term[k]));
    }
    sum = _mm256_min_ps(_mm256_mul_ps(scale, sum), one);
    sum = _mm256_blendv_ps(_mm256_andnot_ps(is_zero, sum), one, is_one);
    if (_mm256_movemask_ps(_mm256_andnot_ps(is_zero, _mm256_castsi256_ps(e))) != 0) { /* e < 0 */
        float value[8];
        _mm256_storeu_ps(value, x);
        for (k = 0; k < 8; k++) value[k] = qnet__power(&s->table, value[k]);
        sum = _mm256_loadu_ps(value);
    }
    return sum;
}

/* The value transforms of 8 pixels at a time; channels lie in the lanes as in
   qnet__bracket_sweep. Returns how many pixels have been done. */
QNET__AVX2 static size_t qnet__augment_values_avx2(const qnet_augmentation *record,
                                                   const float *pixels, size_t count,
                                                   const float low[3], const float high[3],
                                                   float *image)
{
    const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1);
    const __m256 alpha = _mm256_set1_ps((float)record->alpha);
    const __m256 beta = _mm256_set1_ps((float)record->beta);
    __m256 from[3], scale[3];
    qnet__power_series power;
    size_t i;
    int v, l;
    for (v = 0; v < 3; v++) {
        float f[8], r[8];
        for (l = 0; l < 8; l++) {
            const int c = (8 * v + l) % 3;
            f[l] = low[c];
            r[l] = qnet__stretch_scale(low[c], high[c]);
        }
        from[v] = _mm256_loadu_ps(f);
        scale[v] = _mm256_loadu_ps(r);
    }
    if (record->gamma_on) qnet__power_series_plan(&power, record->gamma);
    else memset(&power, 0, sizeof power);
    for (i = 0; i + 8 <= count; i += 8) {
        for (v = 0; v < 3; v++) {
            const size_t at = 3 * i + 8 * (size_t)v;
            __m256 x = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(pixels + at), from[v]),
                                     scale[v]);
            x = _mm256_min_ps(_mm256_max_ps(x, zero), one); /* NaN becomes 0 */
            if (record->brightness_contrast) {
                x = _mm256_add_ps(_mm256_mul_ps(x, alpha), beta);
                x = _mm256_min_ps(_mm256_max_ps(x, zero), one);
            }
            if (record->gamma_on) x = qnet__power_avx2(&power, x);
            _mm256_storeu_ps(image + at, x);
        }
    }
    return i;
}
#endif

static void qnet__augment_values(int fast, const qnet_augmentation *record, const float *pixels,
                                 size_t count, const float low[3], const float high[3],
                                 float *image)
{
    size_t done = 0;
#if QNET__X86
    if (fast && count >= 8 && !(record->gamma_on && record->gamma > QNET__POWER_GAMMA)) {
        done = qnet__augment_values_avx2(record, pixels, count, low, high, image);
    }
#endif
    QNET__UNUSED(fast);
    if (done < count) {
        qnet__augment_values_ref(record, pixels + 3 * done, count - done, low, high,
                                 image + 3 * done);
    }
}

/* One output row without interpolation: flips and crop move whole pixels. */
static void qnet__copy_row(const qnet__warp *warp, const float *image, int out_y, int out_w,
                           const qnet_real mean[3], const qnet_real rstd[3], qnet_real *out)
{
    const qnet_augmentation *r = warp->record;
    const int y = r->vflip ? warp->in_h - 1 - (out_y + r->crop_y) : out_y + r->crop_y;
    const float *row = image + (size_t)y * (size_t)warp->in_w * 3;
    int X, c;
    for (X = 0; X < out_w; X++) {
        const int x = r->hflip ? warp->in_w - 1 - (X + r->crop_x) : X + r->crop_x;
        for (c = 0; c < 3; c++) out[X * 3 + c] = ((qnet_real)row[x * 3 + c] - mean[c]) * rstd[c];
    }
}

/* (1-fy) ((1-fx) p[0] + fx p[right]) + fy ((1-fx) q[0] + fx q[right]). */
static qnet_real qnet__bilinear(const float *p, const float *q, size_t right, float fx, float fy)
{
    const float top = p[0] + fx * (p[right] - p[0]), bottom = q[0] + fx * (q[right] - q[0]);
    return (qnet_real)(top + fy * (bottom - top));
}

/* Sources of the pixels `first`..out_w-1 of an output row, into x[out_w] and y[out_w]. */
static void qnet__warp_points_ref(const qnet__warp *warp, int out_y, int first, int out_w,
                                  double *x, double *y)
{
    int X;
    for (X = first; X < out_w; X++) qnet__warp_point(warp, X, out_y, &x[X], &y[X]);
}

#if QNET__X86
/* qnet__reflect of four coordinates no further than 2 last = 2 (size - 1) from 0; *far: bits of the
   lanes where that does not hold. */
QNET__AVX2_UNFUSED QNET__INLINE __m256d qnet__reflect_avx2(__m256d x, int size, int *far)
{
    const __m256d twice = _mm256_set1_pd(2.0 * (size - 1));
    const __m256d a = _mm256_andnot_pd(_mm256_set1_pd(-0.0), x);
    *far |= _mm256_movemask_pd(_mm256_cmp_pd(a, twice, _CMP_NLE_UQ)); /* also NaN */
    return _mm256_min_pd(a, _mm256_sub_pd(twice, a));
}

/* map[i] of four indices. The plain gather starts from a register that is never set, of which gcc
   warns. */
QNET__AVX2_UNFUSED QNET__INLINE __m256d qnet__gather_avx2(const double *map, __m128i i)
{
    const __m256d zero = _mm256_setzero_pd();
    return _mm256_mask_i32gather_pd(zero, map, i, _mm256_cmp_pd(zero, zero, _CMP_EQ_OQ), 8);
}

/* qnet__grid_at of four coordinates; lanes that are too far out read entry 0. */
QNET__AVX2_UNFUSED QNET__INLINE __m256d qnet__grid_at_avx2(const double *map, int size, __m256d x)
{
    const __m128i last = _mm_set1_epi32(size - 1), zero = _mm_setzero_si128();
    const __m128i i = _mm_max_epi32(_mm_min_epi32(_mm256_cvttpd_epi32(x), last), zero);
    const __m128i next = _mm_min_epi32(_mm_add_epi32(i, _mm_set1_epi32(1)), last);
    const __m256d a = qnet__gather_avx2(map, i), b = qnet__gather_avx2(map, next);
    const __m256d rest = _mm256_sub_pd(x, _mm256_cvtepi32_pd(i));
    return _mm256_add_pd(a, _mm256_mul_pd(rest, _mm256_sub_pd(b, a)));
}

/* Four pixels at a time, by the operations of qnet__warp_point in their order: the same bits. */
QNET__AVX2_UNFUSED static void qnet__warp_points_avx2(const qnet__warp *warp, int out_y, int out_w,
                                                      double *x, double *y)
{
    const qnet_augmentation *r = warp->record;
    const double Y = (double)out_y + r->crop_y;
    const __m256d xx = _mm256_set1_pd(warp->xx), xy = _mm256_set1_pd(warp->xy * Y);
    const __m256d yx = _mm256_set1_pd(warp->yx), yy = _mm256_set1_pd(warp->yy * Y);
    const __m256d x0 = _mm256_set1_pd(warp->x0), y0 = _mm256_set1_pd(warp->y0);
    const __m256d steps = _mm256_set_pd(3, 2, 1, 0);
    int X;
    for (X = 0; X + 4 <= out_w; X += 4) {
        const __m256d at = _mm256_add_pd(_mm256_set1_pd((double)X + r->crop_x), steps);
        __m256d sx = _mm256_add_pd(_mm256_add_pd(_mm256_mul_pd(xx, at), xy), x0);
        __m256d sy = _mm256_add_pd(_mm256_add_pd(_mm256_mul_pd(yx, at), yy), y0);
        int far = 0;
        sx = qnet__reflect_avx2(sx, warp->in_w, &far);
        sy = qnet__reflect_avx2(sy, warp->in_h, &far);
        if (r->grid) {
            sx = qnet__grid_at_avx2(warp->map_x, warp->in_w, sx);
            sy = qnet__grid_at_avx2(warp->map_y, warp->in_h, sy);
            sx = qnet__reflect_avx2(sx, warp->in_w, &far);
            sy = qnet__reflect_avx2(sy, warp->in_h, &far);
        }
        if (r->hflip) sx = _mm256_sub_pd(_mm256_set1_pd(warp->in_w - 1), sx);
        if (r->vflip) sy = _mm256_sub_pd(_mm256_set1_pd(warp->in_h - 1), sy);
        _mm256_storeu_pd(x + X, sx);
        _mm256_storeu_pd(y + X, sy);
        if (far) qnet__warp_points_ref(warp, out_y, X, X + 4, x, y);
    }
    qnet__warp_points_ref(warp, out_y, X, out_w, x, y);
}
#endif

static void qnet__warp_points(int fast, const qnet__warp *warp, int out_y, int out_w, double *x,
                              double *y)
{
#if QNET__X86
    if (fast) {
        qnet__warp_points_avx2(warp, out_y, out_w, x, y);
        return;
    }
#endif
    QNET__UNUSED(fast);
    qnet__warp_points_ref(warp, out_y, 0, out_w, x, y);
}

/* One output row, bilinear, from pixel `first` on: pixel (x, y) of the source is
   image[(y w + x) 3 ..]. from_x, from_y [out_w]: where the row's pixels come from. */
static void qnet__warp_row_ref(const qnet__warp *warp, const float *image, int first, int out_w,
                               const double *from_x, const double *from_y, const qnet_real mean[3],
                               const qnet_real rstd[3], qnet_real *out)
{
    const size_t stride = (size_t)warp->in_w * 3;
    int X;
    for (X = first; X < out_w; X++) {
        const double x = from_x[X], y = from_y[X];
        const int x0 = (int)x, y0 = (int)y;
        const float fx = (float)(x - x0), fy = (float)(y - y0);
        const size_t right = x0 + 1 < warp->in_w ? 3 : 0;
        const float *p = image + (size_t)y0 * stride + (size_t)x0 * 3;
        const float *q = y0 + 1 < warp->in_h ? p + stride : p;
        out[X * 3] = (qnet__bilinear(p, q, right, fx, fy) - mean[0]) * rstd[0];
        out[X * 3 + 1] = (qnet__bilinear(p + 1, q + 1, right, fx, fy) - mean[1]) * rstd[1];
        out[X * 3 + 2] = (qnet__bilinear(p + 2, q + 2, right, fx, fy) - mean[2]) * rstd[2];
    }
}

/* The same with the three channels side by side in a vector, whose fourth lane is the next pixel's
   first number: it is overwritten by that pixel, and the row's last pixel goes by the twin. */
#if (defined(__GNUC__) || defined(__clang__)) && !QNET__REAL_IS_DOUBLE && !defined(QNET_REFERENCE)
static int qnet__warp_row_portable(const qnet__warp *warp, const float *image, int first,
                                   int out_w, const double *from_x, const double *from_y,
                                   const float mean[4], const float rstd[4], float *out)
{
    const qnet__vector m = qnet__vector_load(mean), s = qnet__vector_load(rstd);
    const int stride = warp->in_w * 3, last_x = warp->in_w - 1, last_y = warp->in_h - 1;
    int X;
    for (X = first; X + 1 < out_w; X++) {
        const double x = from_x[X], y = from_y[X];
        const int x0 = (int)x, y0 = (int)y;
        const float fx = (float)(x - x0), fy = (float)(y - y0); /* in every lane below */
        const ptrdiff_t right = x0 < last_x ? 3 : 0, down = y0 < last_y ? stride : 0;
        const float *p = image + (y0 * stride + x0 * 3);
        const qnet__vector p0 = qnet__vector_load(p), p1 = qnet__vector_load(p + right);
        const qnet__vector q0 = qnet__vector_load(p + down);
        const qnet__vector q1 = qnet__vector_load(p + down + right);
        const qnet__vector top = p0 + fx * (p1 - p0), bottom = q0 + fx * (q1 - q0);
        qnet__vector_store(out + X * 3, (top + fy * (bottom - top) - m) * s);
    }
    return X;
}

#if QNET__X86
/* Two pixels' vectors side by side: four numbers each at p + at[0] and p + at[1]. */
QNET__AVX2_UNFUSED QNET__INLINE __m256 qnet__two_pixels_avx2(const float *p, const int at[2])
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + at[0])),
                                _mm_loadu_ps(p + at[1]), 1);
}

/* Two pixels in a vector, the places of four found at a time. */
QNET__AVX2_UNFUSED static int qnet__warp_row_avx2(const qnet__warp *warp, const float *image,
                                                  int out_w, const double *from_x,
                                                  const double *from_y, const float mean[4],
                                                  const float rstd[4], float *out)
{
    const __m256 m = _mm256_broadcast_ps((const __m128 *)(const void *)mean);
    const __m256 s = _mm256_broadcast_ps((const __m128 *)(const void *)rstd);
    const __m128i stride = _mm_set1_epi32(warp->in_w * 3), three = _mm_set1_epi32(3);
    const __m128i last_x = _mm_set1_epi32(warp->in_w - 1), last_y = _mm_set1_epi32(warp->in_h - 1);
    int X, k;
    for (X = 0; X + 4 < out_w; X += 4) {
        const __m256d x = _mm256_loadu_pd(from_x + X), y = _mm256_loadu_pd(from_y + X);
        const __m128i x0 = _mm256_cvttpd_epi32(x), y0 = _mm256_cvttpd_epi32(y);
        const __m128 fx = _mm256_cvtpd_ps(_mm256_sub_pd(x, _mm256_cvtepi32_pd(x0)));
        const __m128 fy = _mm256_cvtpd_ps(_mm256_sub_pd(y, _mm256_cvtepi32_pd(y0)));
        const __m128i p = _mm_add_epi32(_mm_mullo_epi32(y0, stride), _mm_mullo_epi32(x0, three));
        const __m128i right = _mm_and_si128(_mm_cmplt_epi32(x0, last_x), three);
        const __m128i q = _mm_add_epi32(p, _mm_and_si128(_mm_cmplt_epi32(y0, last_y), stride));
        int at[4][4]; /* [corner][pixel] */
        _mm_storeu_si128((__m128i *)(void *)at[0], p);
        _mm_storeu_si128((__m128i *)(void *)at[1], _mm_add_epi32(p, right));
        _mm_storeu_si128((__m128i *)(void *)at[2], q);
        _mm_storeu_si128((__m128i *)(void *)at[3], _mm_add_epi32(q, right));
        for (k = 0; k < 4; k += 2) {
            const __m256i lanes = _mm256_setr_epi32(k, k, k, k, k + 1, k + 1, k + 1, k + 1);
            const __m256 wx = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(fx), lanes);
            const __m256 wy = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(fy), lanes);
            const __m256 p0 = qnet__two_pixels_avx2(image, at[0] + k);
            const __m256 p1 = qnet__two_pixels_avx2(image, at[1] + k);
            const __m256 q0 = qnet__two_pixels_avx2(image, at[2] + k);
            const __m256 q1 = qnet__two_pixels_avx2(image, at[3] + k);
            const __m256 top = _mm256_add_ps(p0, _mm256_mul_ps(wx, _mm256_sub_ps(p1, p0)));
            const __m256 bottom = _mm256_add_ps(q0, _mm256_mul_ps(wx, _mm256_sub_ps(q1, q0)));
            __m256 v = _mm256_add_ps(top, _mm256_mul_ps(wy, _mm256_sub_ps(bottom, top)));
            v = _mm256_mul_ps(_mm256_sub_ps(v, m), s);
            _mm_storeu_ps(out + (X + k) * 3, _mm256_castps256_ps128(v));
            _mm_storeu_ps(out + (X + k + 1) * 3, _mm256_extractf128_ps(v, 1));
        }
    }
    return X;
}
#endif

static void qnet__warp_row(int fast, const qnet__warp *warp, const float *image, int out_w,
                           const double *from_x, const double *from_y, const qnet_real mean[3],
                           const qnet_real rstd[3], qnet_real *out)
{
    const float mean4[4] = {mean[0], mean[1], mean[2], 0};
    const float rstd4[4] = {rstd[0], rstd[1], rstd[2], 0};
    int done = 0;
#if QNET__X86
    if (fast) done = qnet__warp_row_avx2(warp, image, out_w, from_x, from_y, mean4, rstd4, out);
#endif
    QNET__UNUSED(fast);
    done = qnet__warp_row_portable(warp, image, done, out_w, from_x, from_y, mean4, rstd4, out);
    qnet__warp_row_ref(warp, image, done, out_w, from_x, from_y, mean, rstd, out);
}
#else
static void qnet__warp_row(int fast, const qnet__warp *warp, const float *image, int out_w,
                           const double *from_x, const double *from_y, const qnet_real mean[3],
                           const qnet_real rstd[3], qnet_real *out)
{
    QNET__UNUSED(fast);
    qnet__warp_row_ref(warp, image, 0, out_w, from_x, from_y, mean, rstd, out);
}
#endif

/* All but the limits of the stretch, which depend on the image alone and may be kept for the next
   record. Arguments have been checked. fast: see qnet__image_fast. */
static void qnet__augment_run(int fast, const qnet_augment_config *config,
                              const qnet_augmentation *record,
                              const float *pixels, int in_h, int in_w, const float low[3],
                              const float high[3], const qnet__image_scratch *s, qnet_real *out,
                              int out_h, int out_w)
{
    const size_t count = (size_t)in_h * (size_t)in_w;
    qnet__warp warp = qnet__warp_plan(record, in_h, in_w);
    qnet_real mean[3], rstd[3];
    int i;
    qnet__augment_values(fast, record, pixels, count, low, high, s->image);
    memset(s->image + 3 * count, 0, sizeof *s->image); /* read with the last pixel, never used */

    if (record->grid) {
        for (i = 0; i < in_w; i++) s->map_x[i] = qnet__grid_entry(record->grid_x, in_w, i);
        for (i = 0; i < in_h; i++) s->map_y[i] = qnet__grid_entry(record->grid_y, in_h, i);
        warp.map_x = s->map_x;
        warp.map_y = s->map_y;
    }
    if (record->grid && !record->affine) { /* x is a function of the column alone: looked up once */
        qnet__warp_points(fast, &warp, 0, out_w, s->from_x, s->from_y);
    }
    for (i = 0; i < 3; i++) {
        mean[i] = (qnet_real)config->mean[i];
        rstd[i] = (qnet_real)(1 / config->std[i]);
    }
    for (i = 0; i < out_h; i++) {
        qnet_real *row = out + (size_t)i * (size_t)out_w * 3;
        if (record->affine) {
            qnet__warp_points(fast, &warp, i, out_w, s->from_x, s->from_y);
            qnet__warp_row(fast, &warp, s->image, out_w, s->from_x, s->from_y, mean, rstd, row);
        } else if (record->grid) { /* and y one of the row */
            double x, y;
            int X;
            qnet__warp_point(&warp, 0, i, &x, &y);
            for (X = 0; X < out_w; X++) s->from_y[X] = y;
            qnet__warp_row(fast, &warp, s->image, out_w, s->from_x, s->from_y, mean, rstd, row);
        } else {
            qnet__copy_row(&warp, s->image, i, out_w, mean, rstd, row);
        }
    }
}

QNET_API qnet_status qnet_augment_apply(qnet_context *ctx, const qnet_augment_config *config,
                                        const qnet_augmentation *record, const float *pixels,
                                        int in_h, int in_w, qnet_real *out, int out_h, int out_w,
                                        void *scratch)
{
    qnet__arena arena = {NULL, 0};
    qnet__image_scratch s;
    float low[3], high[3];
    size_t bytes;
    if (config == NULL || record == NULL || pixels == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: config, record, pixels or output is missing");
    QNET__TRY(qnet__augment_check(ctx, config, record, in_h, in_w, out_h, out_w));
    /* Pixel indices times 3 channels are int in the loops. */
    if (in_h > INT_MAX / 4 / in_w)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "augment: an image of %dx%d is too large", in_h,
                          in_w);
    bytes = qnet_augment_scratch(in_h, in_w);
    arena.base = (unsigned char *)(scratch ? scratch : qnet__alloc(ctx, bytes));
    if (arena.base == NULL) return qnet__no_memory(ctx, bytes, "augmentation");
    s = qnet__image_scratch_plan(&arena, (size_t)in_h, (size_t)in_w);
    qnet__stretch_limits_in(ctx, config, pixels, (size_t)in_h * (size_t)in_w, &s, low, high);
    qnet__augment_run(qnet__image_fast(ctx), config, record, pixels, in_h, in_w, low, high, &s, out,
                      out_h, out_w);
    if (scratch == NULL) qnet__free(ctx, arena.base, bytes);
    return QNET_OK;
}

/* out[out_h][out_w][channels]: source = (target + 1/2) * in / out - 1/2, clamped to the image, as
   in OpenCV's INTER_LINEAR and PyTorch's align_corners=False. Does nothing for empty sizes. */
QNET_API void qnet_image_resize(const float *in, int in_h, int in_w, int channels, float *out,
                                int out_h, int out_w)
{
    const double step_y = (double)in_h / out_h, step_x = (double)in_w / out_w;
    int X, Y, c;
    if (in_h < 1 || in_w < 1 || channels < 1 || out_h < 1 || out_w < 1) return;
    for (Y = 0; Y < out_h; Y++) {
        const double y = fmin(fmax((Y + 0.5) * step_y - 0.5, 0), in_h - 1);
        const int y0 = (int)y, y1 = qnet__min_int(y0 + 1, in_h - 1);
        const float fy = (float)(y - y0);
        for (X = 0; X < out_w; X++) {
            const double x = fmin(fmax((X + 0.5) * step_x - 0.5, 0), in_w - 1);
            const int x0 = (int)x, x1 = qnet__min_int(x0 + 1, in_w - 1);
            const float fx = (float)(x - x0);
            const size_t row0 = (size_t)y0 * (size_t)in_w, row1 = (size_t)y1 * (size_t)in_w;
            const float *p00 = in + (row0 + (size_t)x0) * (size_t)channels;
            const float *p01 = in + (row0 + (size_t)x1) * (size_t)channels;
            const float *p10 = in + (row1 + (size_t)x0) * (size_t)channels;
            const float *p11 = in + (row1 + (size_t)x1) * (size_t)channels;
            float *to = out + ((size_t)Y * (size_t)out_w + (size_t)X) * (size_t)channels;
            for (c = 0; c < channels; c++) {
                const float top = p00[c] + fx * (p01[c] - p00[c]);
                const float bottom = p10[c] + fx * (p11[c] - p10[c]);
                to[c] = top + fy * (bottom - top);
            }
        }
    }
}
/* ============================================================================================
   >>cohort: from volumes to images, scan by scan; folders of scans; subject-wise folds.
   A prepared image is an axial slice in the radiological convention: row 0 is the front of the
   head, column 0 the patient's right. Volumes are brought to RAS first, so that is the voxel grid
   read backwards along both axes. The full input fits the whole slice into a square, true to
   scale; the cropped one is a square of box_mm about the basal ganglia (paper,
   "Performance Evaluation based on Input Configuration"), prepared with a margin that the random
   crop of the augmentation moves in.
   ============================================================================================ */

QNET_API const char *qnet_input_name(qnet_input input)
{
    return input == QNET_INPUT_CROP ? "crop" : input == QNET_INPUT_FULL ? "full" : "unknown";
}

QNET_API void qnet_input_config_init(qnet_input_config *config, qnet_input input)
{
    memset(config, 0, sizeof *config);
    config->input = input;
    config->size = input == QNET_INPUT_FULL ? 256 : 224;
    config->box_mm = 96; /* 224 pixels of the paper's .43 mm */
    config->margin = 0.08;
    config->max_slices = 24;
}

QNET_API int qnet_input_prepared(const qnet_input_config *config)
{
    if (config->input == QNET_INPUT_FULL) return config->size;
    return config->size + 2 * (int)floor(config->margin * config->size + 0.5);
}

#define QNET__MAX_SIDE 2048   /* pixels */
#define QNET__MAX_SLICES 1024 /* of a scan */

/* Every number of the configuration in the range where nothing below can overflow. */
static qnet_status qnet__input_check(qnet_context *ctx, const qnet_input_config *config)
{
    const char *what = NULL;
    if (config == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "input configuration: missing");
    if (config->input != QNET_INPUT_CROP && config->input != QNET_INPUT_FULL)
        what = "input is neither crop nor full";
    else if (config->size < 32 || config->size > QNET__MAX_SIDE)
        what = "size is outside 32..2048";
    else if (!(config->box_mm >= 1 && config->box_mm <= 1000))
        what = "box_mm is outside 1..1000";
    else if (!(config->margin >= 0 && config->margin <= 1))
        what = "margin is outside 0..1";
    else if (config->max_slices < 1 || config->max_slices > QNET__MAX_SLICES)
        what = "max_slices is outside 1..1024";
    else if (config->slice_first < 0 || config->slice_count < 0)
        what = "slice_first or slice_count is negative";
    else if (config->slice_count > config->max_slices)
        what = "slice_count is above max_slices";
    else if (config->box_explicit && !(fabs(config->box_center_mm[0]) <= 1e6 &&
                                       fabs(config->box_center_mm[1]) <= 1e6))
        what = "box_center_mm is not a place";
    if (what) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "input configuration: %s", what);
    return QNET_OK;
}

/* Whether slices or box come from the mask. */
static int qnet__input_needs_mask(const qnet_input_config *config)
{
    return config->slice_count == 0 || (config->input == QNET_INPUT_CROP && !config->box_explicit);
}

/* ---- one scan -------------------------------------------------------------------------------- */

enum { QNET__QSM, QNET__R2STAR, QNET__T1W, QNET__MASK, QNET__MAPS };

/* The volumes of one scan, with names for error sentences. */
typedef struct qnet__scan_files {
    qnet_volume *volume[QNET__MAPS];
    const char *name[QNET__MAPS];
} qnet__scan_files;

/* Slice z of a volume: [ny][nx]. */
static const float *qnet__slice_of(const qnet_volume *volume, int z)
{
    return volume->voxels + (size_t)z * (size_t)volume->ny * (size_t)volume->nx;
}

/* NaN or infinity anywhere is an error: it would spread over an image by interpolation. The voxel
   is named as it lies in the file, so this comes before any reorientation. */
static qnet_status qnet__check_finite(qnet_context *ctx, const qnet_volume *volume,
                                      const char *name)
{
    const size_t nx = (size_t)volume->nx, ny = (size_t)volume->ny;
    const size_t count = nx * ny * (size_t)volume->nz;
    size_t i;
    for (i = 0; i < count; i++)
        if (!(fabsf(volume->voxels[i]) <= FLT_MAX))
            return qnet__fail(ctx, QNET_ERROR_DATA, "%s: voxel (%d, %d, %d) is %s", name,
                              (int)(i % nx), (int)(i / nx % ny), (int)(i / nx / ny),
                              volume->voxels[i] != volume->voxels[i] ? "NaN" : "infinite");
    return QNET_OK;
}

/* Same shape, and the same affine to 1e-3 mm. */
static qnet_status qnet__check_grid(qnet_context *ctx, const qnet_volume *a, const char *name_a,
                                    const qnet_volume *b, const char *name_b)
{
    double worst = 0;
    int r, c;
    if (a->nx != b->nx || a->ny != b->ny || a->nz != b->nz)
        return qnet__fail(ctx, QNET_ERROR_SHAPE, "%s: grid of %dx%dx%d, expected %dx%dx%d as in %s",
                          name_b, b->nx, b->ny, b->nz, a->nx, a->ny, a->nz, name_a);
    for (r = 0; r < 3; r++)
        for (c = 0; c < 4; c++) worst = fmax(worst, fabs(a->affine[r][c] - b->affine[r][c]));
    if (!(worst <= 1e-3))
        return qnet__fail(ctx, QNET_ERROR_SHAPE,
                          "%s: same %dx%dx%d shape as %s, but its affine differs by %g mm",
                          name_b, b->nx, b->ny, b->nz, name_a, worst);
    return QNET_OK;
}

/* Which slices: `count` of them, from `first` upwards; with a mask, those that hold some of it. */
typedef struct qnet__slice_choice {
    const qnet_volume *mask; /* NULL: every slice */
    int first, count;
} qnet__slice_choice;

/* The first slice from z upwards that the choice counts, or nz. */
static int qnet__slice_next(const qnet__slice_choice *choice, int z)
{
    const qnet_volume *mask = choice->mask;
    if (mask == NULL) return z;
    for (; z < mask->nz; z++) {
        const float *voxels = qnet__slice_of(mask, z);
        const size_t count = (size_t)mask->nx * (size_t)mask->ny;
        size_t i;
        for (i = 0; i < count; i++)
            if (voxels[i] > 0) return z;
    }
    return z;
}

static qnet_status qnet__empty_mask(qnet_context *ctx, const qnet__scan_files *files)
{
    return qnet__fail(ctx, QNET_ERROR_DATA, "%s: no voxel is above 0, the mask is empty",
                      files->name[QNET__MASK]);
}

/* The range asked for, or the central max_slices of those that hold the mask. */
static qnet_status qnet__choose_slices(qnet_context *ctx, const qnet_input_config *config,
                                       const qnet__scan_files *files, qnet__slice_choice *out)
{
    const int nz = files->volume[QNET__QSM]->nz;
    qnet__slice_choice choice = {NULL, 0, 0};
    int z, skip;
    if (config->slice_count > 0) {
        choice.first = config->slice_first;
        choice.count = config->slice_count;
        if (choice.count > nz || choice.first > nz - choice.count)
            return qnet__fail(ctx, QNET_ERROR_DATA,
                              "%s: slices %d..%d asked for, the volume has 0..%d",
                              files->name[QNET__QSM], choice.first, choice.first + choice.count - 1,
                              nz - 1);
        *out = choice;
        return QNET_OK;
    }
    choice.mask = files->volume[QNET__MASK];
    for (z = qnet__slice_next(&choice, 0); z < nz; z = qnet__slice_next(&choice, z + 1))
        choice.count++;
    if (choice.count == 0) return qnet__empty_mask(ctx, files);
    /* Of an odd surplus the larger part goes at the upper end. */
    skip = qnet__max_int(choice.count - config->max_slices, 0) / 2;
    choice.count = qnet__min_int(choice.count, config->max_slices);
    choice.first = qnet__slice_next(&choice, 0);
    for (; skip > 0; skip--) choice.first = qnet__slice_next(&choice, choice.first + 1);
    *out = choice;
    return QNET_OK;
}

/* How the image lies on the voxel grid: pixel (row, column) is at voxel
   x = center_x - (column + 1/2 - side/2) step_x, y = center_y - (row + 1/2 - side/2) step_y. */
typedef struct qnet__frame {
    int side;
    double center_x, center_y; /* voxels */
    double step_x, step_y;     /* voxels per pixel */
} qnet__frame;

/* Centre of the mask's bounding box over all its slices; 0 when it is empty. */
static int qnet__mask_center(const qnet_volume *mask, double *x, double *y)
{
    int low_x = mask->nx, low_y = mask->ny, high_x = 0, high_y = 0, i, j, k;
    for (k = 0; k < mask->nz; k++)
        for (j = 0; j < mask->ny; j++)
            for (i = 0; i < mask->nx; i++)
                if (qnet__slice_of(mask, k)[(size_t)j * (size_t)mask->nx + (size_t)i] > 0) {
                    low_x = qnet__min_int(low_x, i);
                    high_x = qnet__max_int(high_x, i);
                    low_y = qnet__min_int(low_y, j);
                    high_y = qnet__max_int(high_y, j);
                }
    *x = (low_x + high_x) / 2.0;
    *y = (low_y + high_y) / 2.0;
    return low_x <= high_x;
}

/* The frame of the configuration on this scan's grid. One pixel is as many mm along both axes, so
   that nothing is stretched even if voxels are not square. */
static qnet_status qnet__frame_plan(qnet_context *ctx, const qnet_input_config *config,
                                    const qnet__scan_files *files, const qnet__slice_choice *choice,
                                    qnet__frame *out)
{
    const qnet_volume *v = files->volume[QNET__QSM];
    qnet__frame frame;
    double pixel_mm, half;
    if (!(v->spacing[0] > 0 && v->spacing[1] > 0 && v->spacing[0] <= 1000 && v->spacing[1] <= 1000))
        return qnet__fail(ctx, QNET_ERROR_DATA, "%s: voxel size is %g x %g mm",
                          files->name[QNET__QSM], v->spacing[0], v->spacing[1]);
    frame.side = qnet_input_prepared(config);
    frame.center_x = (v->nx - 1) / 2.0;
    frame.center_y = (v->ny - 1) / 2.0;
    if (config->input == QNET_INPUT_FULL) {
        pixel_mm = fmax(v->nx * v->spacing[0], v->ny * v->spacing[1]) / config->size;
    } else {
        pixel_mm = config->box_mm / config->size;
        if (config->box_explicit) {
            /* world = A (i, j, k, 1), at the middle of the chosen slices: two equations for i, j */
            const double(*a)[4] = v->affine, k = choice->first + (choice->count - 1) / 2.0;
            const double x = config->box_center_mm[0] - a[0][2] * k - a[0][3];
            const double y = config->box_center_mm[1] - a[1][2] * k - a[1][3];
            const double det = a[0][0] * a[1][1] - a[0][1] * a[1][0];
            frame.center_x = (x * a[1][1] - y * a[0][1]) / det;
            frame.center_y = (y * a[0][0] - x * a[1][0]) / det;
        } else if (!qnet__mask_center(files->volume[QNET__MASK], &frame.center_x,
                                      &frame.center_y)) {
            return qnet__empty_mask(ctx, files);
        }
    }
    frame.step_x = pixel_mm / v->spacing[0];
    frame.step_y = pixel_mm / v->spacing[1];
    half = frame.side / 2.0;
    /* At least one voxel centre inside; also refuses the NaN of a singular affine. */
    if (!(frame.center_x + half * frame.step_x > 0 &&
          frame.center_x - half * frame.step_x < v->nx - 1 &&
          frame.center_y + half * frame.step_y > 0 &&
          frame.center_y - half * frame.step_y < v->ny - 1))
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "%s: the box about voxel (%g, %g) lies outside of the %dx%d slices",
                          files->name[QNET__QSM], frame.center_x, frame.center_y, v->nx, v->ny);
    *out = frame;
    return QNET_OK;
}

/* No chosen slice of a map may be zero all over the voxels that the image shows. */
static qnet_status qnet__check_slices(qnet_context *ctx, const qnet__scan_files *files,
                                      const qnet__slice_choice *choice, const qnet__frame *frame)
{
    const qnet_volume *grid = files->volume[QNET__QSM];
    const double half_x = frame->side / 2.0 * frame->step_x;
    const double half_y = frame->side / 2.0 * frame->step_y;
    const int x0 = (int)fmax(floor(frame->center_x - half_x), 0);
    const int x1 = (int)fmin(ceil(frame->center_x + half_x), grid->nx - 1);
    const int y0 = (int)fmax(floor(frame->center_y - half_y), 0);
    const int y1 = (int)fmin(ceil(frame->center_y + half_y), grid->ny - 1);
    int m, t, x, y, z = choice->first;
    for (t = 0; t < choice->count; t++, z = qnet__slice_next(choice, z + 1))
        for (m = QNET__QSM; m <= QNET__T1W; m++) {
            const float *voxels = qnet__slice_of(files->volume[m], z);
            int some = 0;
            for (y = y0; y <= y1 && !some; y++)
                for (x = x0; x <= x1 && !some; x++)
                    some = voxels[(size_t)y * (size_t)grid->nx + (size_t)x] != 0;
            if (!some)
                return qnet__fail(ctx, QNET_ERROR_DATA,
                                  "%s: slice %d (from 0 at the bottom) is zero all over the image",
                                  files->name[m], z);
        }
    return QNET_OK;
}

/* The two neighbours of coordinate x on an axis of n voxels, and the second one's weight; 0 where x
   is outside of the volume, whose voxels reach half a step beyond their centres. */
static int qnet__tap(double x, int n, int *low, int *high, float *weight)
{
    if (!(x > -0.5 && x < n - 0.5)) return 0;
    x = fmin(fmax(x, 0), n - 1);
    *low = (int)x;
    *high = qnet__min_int(*low + 1, n - 1);
    *weight = (float)(x - *low);
    return 1;
}

/* Samples per pixel along an axis: one up to 2 voxels a pixel (bilinear then skips none but at the
   end of that range), above that one per voxel, whose mean is taken. */
static int qnet__samples(double step)
{
    return step <= 2 ? 1 : qnet__min_int((int)ceil(step), 64);
}

/* image[side][side][3] of slice z: bilinear, zero outside of the volume. */
static void qnet__resample_slice(const qnet__scan_files *files, const qnet__frame *frame, int z,
                                 float *image)
{
    const qnet_volume *grid = files->volume[QNET__QSM];
    const int many_x = qnet__samples(frame->step_x), many_y = qnet__samples(frame->step_y);
    const float share = 1.0f / (float)(many_x * many_y);
    const double half = frame->side / 2.0;
    const float *voxels[3];
    int row, column, i, j, m, x0, x1, y0, y1;
    float fx, fy;
    for (m = 0; m < 3; m++) voxels[m] = qnet__slice_of(files->volume[m], z);
    for (row = 0; row < frame->side; row++)
        for (column = 0; column < frame->side; column++, image += 3) {
            float sum[3] = {0, 0, 0};
            for (i = 0; i < many_y; i++) {
                /* pixels from the centre; columns run to the patient's left, rows to the back */
                const double below = row + (i + 0.5) / many_y - half;
                const double y = frame->center_y - below * frame->step_y;
                if (!qnet__tap(y, grid->ny, &y0, &y1, &fy)) continue;
                for (j = 0; j < many_x; j++) {
                    const double right = column + (j + 0.5) / many_x - half;
                    const double x = frame->center_x - right * frame->step_x;
                    if (!qnet__tap(x, grid->nx, &x0, &x1, &fx)) continue;
                    for (m = 0; m < 3; m++) {
                        const float *p = voxels[m] + (size_t)y0 * (size_t)grid->nx;
                        const float *q = voxels[m] + (size_t)y1 * (size_t)grid->nx;
                        const float top = p[x0] + fx * (p[x1] - p[x0]);
                        const float bottom = q[x0] + fx * (q[x1] - q[x0]);
                        sum[m] += top + fy * (bottom - top);
                    }
                }
            }
            for (m = 0; m < 3; m++) image[m] = many_x * many_y > 1 ? sum[m] * share : sum[m];
        }
}

/* Checks everything first and writes slices, slice_z[count] and pixels[count][side][side][3] last,
   so that they are as before on any failure. The mask is only looked at where it is needed. */
static qnet_status qnet__scan_prepare(qnet_context *ctx, const qnet_input_config *config,
                                      const qnet__scan_files *files, int *slices, int *slice_z,
                                      float *pixels)
{
    const int needed = qnet__input_needs_mask(config) ? QNET__MAPS : QNET__MASK;
    const size_t side = (size_t)qnet_input_prepared(config);
    qnet__slice_choice choice;
    qnet__frame frame;
    int m, t, z;
    for (m = 0; m < needed; m++) {
        if (files->volume[m] == NULL)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: missing%s", files->name[m],
                              m == QNET__MASK ? ", and no slices or box are given" : "");
        QNET__TRY(qnet__check_finite(ctx, files->volume[m], files->name[m]));
        QNET__TRY(qnet_volume_reorient(files->volume[m], "RAS"));
        QNET__TRY(qnet__check_grid(ctx, files->volume[0], files->name[0], files->volume[m],
                                   files->name[m]));
    }
    QNET__TRY(qnet__choose_slices(ctx, config, files, &choice));
    QNET__TRY(qnet__frame_plan(ctx, config, files, &choice, &frame));
    QNET__TRY(qnet__check_slices(ctx, files, &choice, &frame));
    *slices = choice.count;
    for (t = 0, z = choice.first; t < choice.count; t++, z = qnet__slice_next(&choice, z + 1)) {
        slice_z[t] = z;
        qnet__resample_slice(files, &frame, z, pixels + (size_t)t * side * side * 3);
    }
    return QNET_OK;
}

/* Volumes that came from memory have no file names: they are called by what they are. */
static qnet__scan_files qnet__scan_files_of(const qnet_scan_maps *maps)
{
    qnet__scan_files files;
    files.volume[QNET__QSM] = maps->qsm;
    files.volume[QNET__R2STAR] = maps->r2star;
    files.volume[QNET__T1W] = maps->t1w;
    files.volume[QNET__MASK] = maps->mask;
    files.name[QNET__QSM] = "QSM map";
    files.name[QNET__R2STAR] = "R2* map";
    files.name[QNET__T1W] = "T1W image";
    files.name[QNET__MASK] = "mask of the basal ganglia";
    return files;
}

QNET_API qnet_status qnet_scan_prepare(qnet_context *ctx, const qnet_input_config *config,
                                       const qnet_scan_maps *maps, int *slices, int *slice_z,
                                       float *pixels)
{
    qnet__scan_files files;
    QNET__TRY(qnet__input_check(ctx, config));
    if (maps == NULL || slices == NULL || slice_z == NULL || pixels == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "prepare scan: maps or an output are missing");
    files = qnet__scan_files_of(maps);
    return qnet__scan_prepare(ctx, config, &files, slices, slice_z, pixels);
}

/* ---- cohorts --------------------------------------------------------------------------------- */

#define QNET__MAX_SCANS 10000 /* finding duplicates compares all pairs of names */

/* What lies at the start of a cohort's block, before scans, slice numbers and pixels. */
typedef struct qnet__cohort {
    qnet_cohort base; /* first: a qnet_cohort pointer is a pointer to this */
    int capacity;     /* scans there is room for */
    int *slice_z;     /* [capacity][max_slices] */
    float *pixels;    /* [capacity][max_slices][height][width][3] */
    char derivatives[256];
} qnet__cohort;

/* With arena->base NULL this only measures. */
static qnet__cohort *qnet__cohort_plan(qnet__arena *arena, const qnet_input_config *config,
                                       size_t scans)
{
    const size_t side = (size_t)qnet_input_prepared(config); /* at most 3 QNET__MAX_SIDE */
    const size_t slices = scans * (size_t)config->max_slices;
    const size_t image = side * side * 3 * sizeof(float);
    qnet__cohort *cohort = (qnet__cohort *)qnet__take(arena, 1, sizeof *cohort);
    void *list = qnet__take(arena, scans, sizeof(qnet_scan));
    void *z = qnet__take(arena, slices, sizeof(int));
    void *pixels = qnet__take(arena, slices, image);
    if (cohort != NULL) {
        memset(cohort, 0, sizeof *cohort);
        cohort->base.scans = (qnet_scan *)list;
        cohort->slice_z = (int *)z;
        cohort->pixels = (float *)pixels;
    }
    return cohort;
}

/* One block for all: a scan of fewer slices leaves the rest of its place unused, and memory that is
   never written is not backed by the system. */
QNET_API qnet_status qnet_cohort_create(qnet_context *ctx, const qnet_input_config *config,
                                        int scans, qnet_cohort **out)
{
    qnet__arena arena = {NULL, 0};
    qnet__cohort *cohort;
    size_t bytes;
    QNET__TRY(qnet__input_check(ctx, config));
    if (out == NULL) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "cohort: no place for the result");
    if (scans < 1 || scans > QNET__MAX_SCANS)
        return qnet__fail(ctx, QNET_ERROR_LIMIT,
                          "cohort: room for %d scans asked for, expected 1..%d", scans,
                          QNET__MAX_SCANS);
    if (config->derivatives && strlen(config->derivatives) >= sizeof cohort->derivatives)
        return qnet__fail(ctx, QNET_ERROR_LIMIT,
                          "cohort: the name of the derivatives folder is too long");
    (void)qnet__cohort_plan(&arena, config, (size_t)scans);
    bytes = arena.at;
    if (bytes == (size_t)-1)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "cohort: %d scans do not fit into memory", scans);
    arena.base = (unsigned char *)qnet__alloc(ctx, bytes);
    if (arena.base == NULL) return qnet__no_memory(ctx, bytes, "a cohort's slices");
    arena.at = 0;
    cohort = qnet__cohort_plan(&arena, config, (size_t)scans);
    cohort->capacity = scans;
    cohort->base.ctx = ctx;
    cohort->base.config = *config;
    if (config->derivatives) {
        strcpy(cohort->derivatives, config->derivatives);
        cohort->base.config.derivatives = cohort->derivatives;
    }
    cohort->base.height = cohort->base.width = qnet_input_prepared(config);
    cohort->base.block = cohort;
    cohort->base.block_bytes = bytes;
    *out = &cohort->base;
    return QNET_OK;
}

QNET_API void qnet_cohort_destroy(qnet_cohort *cohort)
{
    if (cohort != NULL) qnet__free(cohort->ctx, cohort->block, cohort->block_bytes);
}

QNET_API const float *qnet_scan_slice(const qnet_cohort *cohort, int scan, int t)
{
    if (scan < 0 || scan >= cohort->scans_count) return NULL;
    if (t < 0 || t >= cohort->scans[scan].slices) return NULL;
    return cohort->scans[scan].pixels +
           (size_t)t * (size_t)cohort->height * (size_t)cohort->width * 3;
}

/* Appends a scan of `who`; the cohort is as before on any failure. */
static qnet_status qnet__cohort_append(qnet_cohort *cohort, const qnet_scan *who,
                                       const qnet__scan_files *files)
{
    qnet__cohort *room = (qnet__cohort *)cohort->block;
    const size_t slices = (size_t)cohort->config.max_slices, at = (size_t)cohort->scans_count;
    const size_t pixels = (size_t)cohort->height * (size_t)cohort->width * 3;
    qnet_scan scan = *who;
    int *slice_z;
    float *place;
    if (cohort->scans_count >= room->capacity)
        return qnet__fail(cohort->ctx, QNET_ERROR_LIMIT, "%s: the cohort is full with %d scans",
                          who->subject, room->capacity);
    /* Prepared in its final place; it counts only once scans_count has gone up. */
    slice_z = room->slice_z + at * slices;
    place = room->pixels + at * slices * pixels;
    QNET__TRY(qnet__scan_prepare(cohort->ctx, &cohort->config, files, &scan.slices, slice_z,
                                 place));
    scan.slice_z = slice_z;
    scan.pixels = place;
    scan.hash = qnet_hash(QNET_HASH_START, place, (size_t)scan.slices * pixels * sizeof(float));
    cohort->scans[at] = scan;
    cohort->scans_count++;
    return QNET_OK;
}

QNET_API qnet_status qnet_cohort_add(qnet_cohort *cohort, const qnet_scan_maps *maps)
{
    qnet__scan_files files;
    qnet_scan who;
    qnet_context *ctx;
    memset(&who, 0, sizeof who);
    if (cohort == NULL) return QNET_ERROR_ARGUMENT;
    ctx = cohort->ctx;
    if (maps == NULL || maps->subject == NULL || maps->subject[0] == '\0')
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "cohort: a scan needs maps and a subject's name");
    if (strlen(maps->subject) >= sizeof who.subject)
        return qnet__fail(ctx, QNET_ERROR_LIMIT,
                          "cohort: subject \"%.20s...\" has a name above %d bytes", maps->subject,
                          (int)sizeof who.subject - 1);
    if (maps->label != QNET_HC && maps->label != QNET_HH)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "cohort: %s has label %d, expected HC (0) or HH (1)", maps->subject,
                          (int)maps->label);
    for (int s = 0; s < cohort->scans_count; s++)
        if (strcmp(cohort->scans[s].subject, maps->subject) == 0 &&
            cohort->scans[s].label != maps->label)
            return qnet__fail(ctx, QNET_ERROR_DATA, "cohort: %s is HH in one scan, HC in another",
                              maps->subject);
    strcpy(who.subject, maps->subject);
    who.label = maps->label;
    who.age = maps->age;
    who.sex = maps->sex;
    files = qnet__scan_files_of(maps);
    return qnet__cohort_append(cohort, &who, &files);
}

/* ---- folds ----------------------------------------------------------------------------------- */

/* first[i]: the first scan of the subject of scan i. A subject with both labels is an error. */
static qnet_status qnet__subjects(qnet_context *ctx, const qnet_cohort *cohort, int *first)
{
    int i, j;
    for (i = 0; i < cohort->scans_count; i++) {
        const qnet_scan *scan = &cohort->scans[i];
        for (j = 0; j < i && strcmp(cohort->scans[j].subject, scan->subject) != 0;) j++;
        first[i] = j;
        if (scan->label != cohort->scans[j].label)
            return qnet__fail(ctx, QNET_ERROR_DATA, "folds: subject %s has scans of both labels",
                              scan->subject);
    }
    return QNET_OK;
}

/* Each class is shuffled, HC first, and dealt out in turn; HH goes on where HC stopped. So the
   folds differ by at most one subject in all, and by at most one in each class. work[2 count]. */
static qnet_status qnet__deal_folds(qnet_context *ctx, const qnet_cohort *cohort, int folds,
                                    uint64_t seed, int *work, int *fold)
{
    int *first = work, *order = work + cohort->scans_count;
    size_t count[2] = {0, 0}, i;
    int label, s, next = 0;
    QNET__TRY(qnet__subjects(ctx, cohort, first));
    for (s = 0; s < cohort->scans_count; s++)
        if (first[s] == s) count[cohort->scans[s].label == QNET_HH]++;
    for (label = 0; label < 2; label++)
        if ((size_t)folds > count[label])
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "folds: %d asked for, but there are only %d %s subjects", folds,
                              (int)count[label], label ? "HH" : "HC");
    for (label = 0; label < 2; label++) {
        qnet_rng rng = qnet_rng_at(seed, QNET_RANDOM_FOLDS, (uint32_t)label, 0);
        size_t n = 0;
        for (s = 0; s < cohort->scans_count; s++)
            if (first[s] == s && (cohort->scans[s].label == QNET_HH) == label) order[n++] = s;
        qnet_rng_shuffle(&rng, order, n);
        for (i = 0; i < n; i++) fold[order[i]] = next++ % folds;
    }
    for (s = 0; s < cohort->scans_count; s++) fold[s] = fold[first[s]];
    return QNET_OK;
}

/* The seed alone decides: the same subjects in the same order give the same folds for both inputs
   and both stages. */
QNET_API qnet_status qnet_folds_create(qnet_context *ctx, const qnet_cohort *cohort, int folds,
                                       uint64_t seed, int *fold)
{
    qnet_status status;
    size_t bytes;
    int *work;
    if (cohort == NULL || fold == NULL || folds < 2)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "folds: %d of a cohort, expected 2 or more",
                          folds);
    bytes = 2 * (size_t)cohort->scans_count * sizeof *work;
    work = (int *)qnet__alloc(ctx, bytes);
    if (work == NULL) return qnet__no_memory(ctx, bytes, "folds");
    status = qnet__deal_folds(ctx, cohort, folds, seed, work, fold);
    qnet__free(ctx, work, bytes);
    return status;
}

/* The opposite side of the leak check: whatever made the folds, no subject may be in two. */
QNET_API qnet_status qnet_folds_check(qnet_context *ctx, const qnet_cohort *cohort, int folds,
                                      const int *fold)
{
    int i, j;
    if (cohort == NULL || fold == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "folds: cohort or folds are missing");
    for (i = 0; i < cohort->scans_count; i++) {
        if (fold[i] < 0 || fold[i] >= folds)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "folds: scan %d of %s is in fold %d, expected 0..%d", i,
                              cohort->scans[i].subject, fold[i], folds - 1);
        for (j = 0; j < i; j++)
            if (fold[i] != fold[j] &&
                strcmp(cohort->scans[i].subject, cohort->scans[j].subject) == 0)
                return qnet__fail(ctx, QNET_ERROR_LEAK, "folds: subject %s is in folds %d and %d",
                                  cohort->scans[i].subject, fold[j], fold[i]);
    }
    return QNET_OK;
}

#ifndef QNET_NO_STDIO

/* ---- participants.tsv ------------------------------------------------------------------------ */

#define QNET__TABLE_BYTES ((size_t)64 << 20) /* more text than QNET__MAX_SCANS lines need */

/* A piece of the table's text. */
typedef struct qnet__span {
    const char *at;
    size_t size;
} qnet__span;

/* Cuts the next line off text, without its end (LF or CR LF); 0 when there is none. */
static int qnet__next_line(qnet__span *text, qnet__span *line)
{
    const char *end;
    if (text->size == 0) return 0;
    end = (const char *)memchr(text->at, '\n', text->size);
    line->at = text->at;
    line->size = end ? (size_t)(end - text->at) : text->size;
    text->at += line->size + (end != NULL);
    text->size -= line->size + (end != NULL);
    if (line->size > 0 && line->at[line->size - 1] == '\r') line->size--;
    return 1;
}

/* Field number `index` of a line, spaces around it dropped; 0 when the line has fewer. */
static int qnet__field(qnet__span line, int index, qnet__span *out)
{
    const char *p = line.at, *end = line.at + line.size, *stop;
    for (; index > 0; index--) {
        p = (const char *)memchr(p, '\t', (size_t)(end - p));
        if (p == NULL) return 0;
        p++;
    }
    stop = (const char *)memchr(p, '\t', (size_t)(end - p));
    if (stop == NULL) stop = end;
    while (p < stop && *p == ' ') p++;
    while (p < stop && stop[-1] == ' ') stop--;
    out->at = p;
    out->size = (size_t)(stop - p);
    return 1;
}

/* A line of nothing but spaces and tabs. */
static int qnet__is_blank(qnet__span line)
{
    size_t i;
    for (i = 0; i < line.size; i++)
        if (line.at[i] != ' ' && line.at[i] != '\t') return 0;
    return 1;
}

/* The same letters, large or small (ASCII). */
static int qnet__span_is(qnet__span span, const char *word)
{
    size_t i;
    for (i = 0; i < span.size; i++) {
        const char a = span.at[i], b = word[i];
        if ((a >= 'A' && a <= 'Z' ? a + ('a' - 'A') : a) != b) return 0;
    }
    return word[span.size] == '\0';
}

enum {
    QNET__COLUMN_ID, QNET__COLUMN_GROUP, QNET__COLUMN_AGE, QNET__COLUMN_SEX, QNET__COLUMN_COUNT
};

/* The table and the place in it that an error sentence names. */
typedef struct qnet__table {
    qnet_context *ctx;
    const char *path;
    int line;                  /* from 1 */
    int column[QNET__COLUMN_COUNT]; /* index of each field; -1: not in the table */
    int fields;                /* in the header */
} qnet__table;

/* The sentence of a field that cannot be used: file, line, field, expected, found. */
static qnet_status qnet__bad_field(const qnet__table *table, const char *field,
                                   const char *expected, qnet__span found)
{
    const int shown = (int)qnet__min_size(found.size, 60);
    return qnet__fail(table->ctx, QNET_ERROR_DATA, "%s: line %d, %s: expected %s, found \"%.*s\"",
                      table->path, table->line, field, expected, shown, found.at);
}

/* Finds the columns by their names, in any order; others are let be. */
static qnet_status qnet__read_header(qnet__table *table, qnet__span line)
{
    static const char *const names[QNET__COLUMN_COUNT] = {"participant_id", "group", "age", "sex"};
    const int shown = (int)qnet__min_size(line.size, 60);
    qnet__span field;
    int c;
    for (c = 0; c < QNET__COLUMN_COUNT; c++) table->column[c] = -1;
    for (table->fields = 0; qnet__field(line, table->fields, &field); table->fields++)
        for (c = 0; c < QNET__COLUMN_COUNT; c++)
            if (qnet__span_is(field, names[c])) {
                if (table->column[c] >= 0)
                    return qnet__fail(table->ctx, QNET_ERROR_FORMAT,
                                      "%s: line %d: two columns named %s", table->path, table->line,
                                      names[c]);
                table->column[c] = table->fields;
            }
    for (c = 0; c <= QNET__COLUMN_GROUP; c++)
        if (table->column[c] < 0)
            return qnet__fail(table->ctx, QNET_ERROR_FORMAT,
                              "%s: line %d: expected column names, %s among them, found \"%.*s\"",
                              table->path, table->line, names[c], shown, line.at);
    return QNET_OK;
}

/* subject[64] as "sub-<label>". A label becomes part of a path: nothing but letters, digits and
   "+-_" passes. */
static qnet_status qnet__read_subject(const qnet__table *table, qnet__span id, char *subject)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789+-_";
    qnet__span label = id;
    size_t i;
    if (id.size >= 4 && memcmp(id.at, "sub-", 4) == 0) {
        label.at += 4;
        label.size -= 4;
    }
    if (label.size == 0 || label.size >= 60)
        return qnet__bad_field(table, "participant_id", "a label of 1 to 59 characters", id);
    for (i = 0; i < label.size; i++)
        if (memchr(allowed, label.at[i], sizeof allowed - 1) == NULL)
            return qnet__bad_field(table, "participant_id", "letters, digits, + - _", id);
    memcpy(subject, "sub-", 4);
    memcpy(subject + 4, label.at, label.size);
    subject[4 + label.size] = '\0';
    return QNET_OK;
}

/* Years as a plain decimal number; NaN for "n/a" or nothing. */
static qnet_status qnet__read_age(const qnet__table *table, qnet__span field, double *age)
{
    char text[16];
    size_t i;
    *age = NAN;
    if (field.size == 0 || qnet__span_is(field, "n/a")) return QNET_OK;
    for (i = 0; i < field.size && i < sizeof text - 1; i++) {
        if (field.at[i] != '.' && (field.at[i] < '0' || field.at[i] > '9')) break;
        text[i] = field.at[i];
    }
    text[i] = '\0';
    if (i < field.size || !qnet__parse_number(text, age) || !(*age <= 150))
        return qnet__bad_field(table, "age", "years (0..150) or n/a", field);
    return QNET_OK;
}

/* M or F; "O" and "n/a" are unknown here: the paper's table knows two. */
static qnet_status qnet__read_sex(const qnet__table *table, qnet__span field, qnet_sex *sex)
{
    *sex = QNET_SEX_UNKNOWN;
    if (qnet__span_is(field, "m") || qnet__span_is(field, "male")) *sex = QNET_MALE;
    else if (qnet__span_is(field, "f") || qnet__span_is(field, "female")) *sex = QNET_FEMALE;
    else if (field.size > 0 && !qnet__span_is(field, "n/a") && !qnet__span_is(field, "o") &&
             !qnet__span_is(field, "other"))
        return qnet__bad_field(table, "sex", "M, F, O or n/a", field);
    return QNET_OK;
}

/* One line into subject, label, age and sex of *out. */
static qnet_status qnet__read_participant(const qnet__table *table, qnet__span line, qnet_scan *out)
{
    qnet__span field[QNET__COLUMN_COUNT];
    int c, fields = 0;
    memset(out, 0, sizeof *out);
    while (qnet__field(line, fields, &field[0])) fields++;
    if (fields != table->fields)
        return qnet__fail(table->ctx, QNET_ERROR_FORMAT,
                          "%s: line %d: expected %d tab-separated fields, found %d",
                          table->path, table->line, table->fields, fields);
    for (c = 0; c < QNET__COLUMN_COUNT; c++) {
        field[c].at = "";
        field[c].size = 0;
        if (table->column[c] >= 0) (void)qnet__field(line, table->column[c], &field[c]);
    }
    QNET__TRY(qnet__read_subject(table, field[QNET__COLUMN_ID], out->subject));
    if (qnet__span_is(field[QNET__COLUMN_GROUP], "hh")) out->label = QNET_HH;
    else if (qnet__span_is(field[QNET__COLUMN_GROUP], "hc")) out->label = QNET_HC;
    else return qnet__bad_field(table, "group", "HH or HC", field[QNET__COLUMN_GROUP]);
    QNET__TRY(qnet__read_age(table, field[QNET__COLUMN_AGE], &out->age));
    return qnet__read_sex(table, field[QNET__COLUMN_SEX], &out->sex);
}

/* Parses text into a list of participants in the order of the file: *list[*count], to be given back
   with qnet__free(ctx, *list, *bytes). */
static qnet_status qnet__parse_participants(qnet__table *table, qnet__span text, qnet_scan **list,
                                            int *count, size_t *bytes)
{
    qnet__span rest = text, line = text;
    qnet_status status = QNET_OK;
    qnet_scan *scans;
    size_t lines = 0, n = 0, i, size;
    if (memchr(text.at, '\0', text.size) != NULL)
        return qnet__fail(table->ctx, QNET_ERROR_FORMAT,
                          "%s: holds zero bytes, expected plain text", table->path);
    if (text.size >= 3 && memcmp(text.at, "\xef\xbb\xbf", 3) == 0) { /* UTF-8 byte-order mark */
        text.at += 3;
        text.size -= 3;
    }
    /* Counted first, so that one block holds the list. */
    for (rest = text; qnet__next_line(&rest, &line);) lines += !qnet__is_blank(line);
    if (lines == 0) return qnet__fail(table->ctx, QNET_ERROR_FORMAT, "%s: is empty", table->path);
    if (lines - 1 > QNET__MAX_SCANS)
        return qnet__fail(table->ctx, QNET_ERROR_LIMIT, "%s: more than %d participants",
                          table->path, QNET__MAX_SCANS);
    size = (lines - 1) * sizeof *scans; /* bounded by the file's size: a line has 1 byte at least */
    scans = (qnet_scan *)qnet__alloc(table->ctx, size);
    if (scans == NULL) return qnet__no_memory(table->ctx, size, "the list of participants");
    table->fields = 0;
    rest = text;
    for (table->line = 1; status == QNET_OK && qnet__next_line(&rest, &line); table->line++) {
        if (qnet__is_blank(line)) continue;
        if (table->fields == 0) {
            status = qnet__read_header(table, line);
            continue;
        }
        status = qnet__read_participant(table, line, &scans[n]);
        for (i = 0; i < n && status == QNET_OK; i++)
            if (strcmp(scans[i].subject, scans[n].subject) == 0)
                status = qnet__fail(table->ctx, QNET_ERROR_DATA,
                                    "%s: line %d, participant_id: %s is there twice", table->path,
                                    table->line, scans[n].subject);
        n++;
    }
    if (status == QNET_OK && n == 0)
        status = qnet__fail(table->ctx, QNET_ERROR_DATA, "%s: no participants below the header",
                            table->path);
    if (status != QNET_OK) {
        qnet__free(table->ctx, scans, size);
        return status;
    }
    *list = scans;
    *count = (int)n;
    *bytes = size;
    return QNET_OK;
}

/* The same from a file. */
static qnet_status qnet__read_participants(qnet_context *ctx, const char *path, qnet_scan **list,
                                           int *count, size_t *bytes)
{
    qnet__table table;
    qnet_buffer file;
    qnet__span text;
    qnet_status status;
    memset(&file, 0, sizeof file);
    memset(&table, 0, sizeof table);
    table.ctx = ctx;
    table.path = path;
    QNET__TRY(qnet_file_read(ctx, path, QNET__TABLE_BYTES, &file));
    text.at = file.size ? (const char *)file.bytes : "";
    text.size = file.size;
    status = qnet__parse_participants(&table, text, list, count, bytes);
    qnet_buffer_free(ctx, &file);
    return status;
}

/* ---- finding the maps ------------------------------------------------------------------------ */

#define QNET__PATH_SIZE 1024

/* path[QNET__PATH_SIZE] = the parts joined as printf does; too long is an error. */
static qnet_status qnet__path(qnet_context *ctx, char *path, const char *folder, const char *a,
                              const char *b, const char *c)
{
    const int n = snprintf(path, QNET__PATH_SIZE, "%s%s%s%s", folder, a, b, c);
    if (n < 0 || n >= QNET__PATH_SIZE)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%.60s...: path of more than %d bytes", folder,
                          QNET__PATH_SIZE - 1);
    return QNET_OK;
}

/* name is <subject>_<any BIDS entities>_<suffix>.nii or .nii.gz. */
static int qnet__name_fits(const char *name, const char *subject, const char *suffix)
{
    const size_t length = strlen(name), start = strlen(subject), end = strlen(suffix);
    /* bytes of ".nii.gz" or ".nii" */
    const size_t kind = length > 3 && strcmp(name + length - 3, ".gz") == 0 ? 7 : 4;
    if (length < start + 1 + end + kind || strncmp(name, subject, start) != 0) return 0;
    if (strncmp(name + length - kind, kind == 7 ? ".nii.gz" : ".nii", kind) != 0) return 0;
    return name[start] == '_' && name[length - kind - end - 1] == '_' &&
           strncmp(name + length - kind - end, suffix, end) == 0;
}

/* The file with a suffix such as "Chimap" in a folder: <subject>_<suffix>.nii.gz or .nii if it
   exists, otherwise the only one that has more entities in its name. *found says whether there is
   one; several are an error. path[QNET__PATH_SIZE]. */
static qnet_status qnet__find_map(qnet_context *ctx, const char *folder, const char *subject,
                                  const char *suffix, char *path, int *found)
{
    char (*names)[QNET__NAME_SIZE] = NULL;
    const char *match = NULL, *second = NULL;
    char tail[64];
    size_t count = 0, bytes = 0, i;
    qnet_status status = QNET_OK;
    int packed;
    *found = 0;
    snprintf(tail, sizeof tail, "_%s.nii.gz", suffix);
    QNET__TRY(qnet__path(ctx, path, folder, "/", subject, tail));
    packed = qnet_file_exists(path);
    path[strlen(path) - 3] = '\0'; /* without ".gz" */
    *found = packed || qnet_file_exists(path);
    if (packed && qnet_file_exists(path))
        return qnet__fail(ctx, QNET_ERROR_DATA, "%s: is there both as .nii and .nii.gz", path);
    if (packed) return qnet__path(ctx, path, folder, "/", subject, tail);
    if (*found || qnet__path_kind(folder) != 2) return QNET_OK;
    QNET__TRY(qnet__list_folder(ctx, folder, &names, &count, &bytes));
    for (i = 0; i < count; i++)
        if (qnet__name_fits(names[i], subject, suffix)) {
            if (match) second = names[i];
            else match = names[i];
        }
    if (second)
        status = qnet__fail(ctx, QNET_ERROR_DATA, "%s: %s and %s both fit %s_*_%s, expected one",
                            folder, match, second, subject, suffix);
    else if (match) {
        *found = 1;
        status = qnet__path(ctx, path, folder, "/", match, "");
    }
    qnet__free(ctx, names, bytes);
    return status;
}

/* The folder under derivatives/ with a susceptibility map of this subject: config->derivatives, or
   the only one that has it. tool[256] is "" when the maps are in the raw folders. */
static qnet_status qnet__find_derivatives(qnet_context *ctx, const char *folder,
                                          const qnet_input_config *config, const char *subject,
                                          char *tool)
{
    char path[QNET__PATH_SIZE], anat[QNET__PATH_SIZE], map[QNET__PATH_SIZE], tail[96];
    char (*names)[QNET__NAME_SIZE] = NULL;
    size_t count = 0, bytes = 0, i;
    qnet_status status = QNET_OK;
    int found;
    tool[0] = '\0';
    QNET__TRY(qnet__path(ctx, path, folder, "/derivatives", "", ""));
    if (config->derivatives) {
        strcpy(tool, config->derivatives); /* its length was checked with the cohort's creation */
        return QNET_OK;
    }
    if (qnet__path_kind(path) != 2) return QNET_OK;
    QNET__TRY(qnet__list_folder(ctx, path, &names, &count, &bytes));
    snprintf(tail, sizeof tail, "/%s/anat", subject);
    for (i = 0; i < count && status == QNET_OK; i++) {
        status = qnet__path(ctx, anat, path, "/", names[i], tail);
        if (status == QNET_OK)
            status = qnet__find_map(ctx, anat, subject, "Chimap", map, &found);
        if (status != QNET_OK || !found) continue;
        if (tool[0])
            status = qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                                "%s: both %s and %s hold a Chimap of %s, choose one by its name",
                                path, tool, names[i], subject);
        else strcpy(tool, names[i]);
    }
    qnet__free(ctx, names, bytes);
    return status;
}

/* The paths of a subject's volumes, beside each other in the derivatives or in the raw folder; a
   map in both is taken from the derivatives, where it is on the maps' grid. */
static qnet_status qnet__find_maps(qnet_context *ctx, const char *folder, const char *tool,
                                   const char *subject, int needed, char (*path)[QNET__PATH_SIZE])
{
    /* BIDS, with the suffixes of its qMRI extension. */
    static const char *const suffix[QNET__MAPS] = {"Chimap", "R2starmap", "T1w",
                                                   "desc-basalganglia_mask"};
    char raw[QNET__PATH_SIZE], derived[QNET__PATH_SIZE], tail[96];
    int m, found;
    snprintf(tail, sizeof tail, "/%s/anat", subject);
    QNET__TRY(qnet__path(ctx, raw, folder, tail, "", ""));
    QNET__TRY(qnet__path(ctx, derived, folder, "/derivatives/", tool, tail));
    for (m = 0; m < needed; m++) {
        found = 0;
        if (tool[0]) QNET__TRY(qnet__find_map(ctx, derived, subject, suffix[m], path[m], &found));
        if (!found) QNET__TRY(qnet__find_map(ctx, raw, subject, suffix[m], path[m], &found));
        if (!found)
            return qnet__fail(ctx, QNET_ERROR_NOT_FOUND, "%s: no %s_%s.nii.gz or .nii in %s%s%s%s",
                              subject, subject, suffix[m], tool[0] ? derived : "",
                              tool[0] ? " or " : "", raw,
                              m == QNET__MASK ? " (needed unless slices and box are given)" : "");
    }
    return QNET_OK;
}

/* ---- reading a cohort ------------------------------------------------------------------------ */

/* Loads one participant's volumes and appends the scan. */
static qnet_status qnet__cohort_read_one(qnet_cohort *cohort, const char *folder, const char *tool,
                                         const qnet_scan *who)
{
    char path[QNET__MAPS][QNET__PATH_SIZE];
    const int needed = qnet__input_needs_mask(&cohort->config) ? QNET__MAPS : QNET__MASK;
    qnet__scan_files files;
    qnet_status status;
    int m;
    memset(&files, 0, sizeof files);
    status = qnet__find_maps(cohort->ctx, folder, tool, who->subject, needed, path);
    for (m = 0; m < needed && status == QNET_OK; m++) {
        files.name[m] = path[m];
        status = qnet_nifti_load(cohort->ctx, path[m], &files.volume[m]);
    }
    if (status == QNET_OK) status = qnet__cohort_append(cohort, who, &files);
    for (m = 0; m < needed; m++) qnet_volume_destroy(files.volume[m]);
    return status;
}

/* All participants into an empty cohort, with progress. */
static qnet_status qnet__cohort_read_all(qnet_cohort *cohort, const char *folder,
                                         const qnet_scan *list, int count)
{
    qnet_context *ctx = cohort->ctx;
    const double start = qnet__seconds(ctx);
    char tool[256];
    int i;
    QNET__TRY(qnet__find_derivatives(ctx, folder, &cohort->config, list[0].subject, tool));
    for (i = 0; i < count; i++) {
        qnet_progress_info info;
        double seconds;
        QNET__TRY(qnet__cohort_read_one(cohort, folder, tool, &list[i]));
        seconds = qnet__seconds(ctx) - start;
        memset(&info, 0, sizeof info);
        info.task = "read cohort";
        info.where = list[i].subject;
        info.step = (size_t)i + 1;
        info.steps = (size_t)count;
        info.loss = NAN;
        info.items_per_second = seconds > 0 ? (i + 1) / seconds : 0;
        info.seconds_left = seconds * (count - i - 1) / (i + 1);
        info.fraction = (double)(i + 1) / count;
        if (qnet__report(ctx, &info))
            return qnet__fail(ctx, QNET_STOPPED, "%s: reading was stopped after %s", folder,
                              list[i].subject);
    }
    return QNET_OK;
}

/* Volumes are read, cut and given back one subject after the other: memory holds the slices of all
   and the volumes of one. */
QNET_API qnet_status qnet_cohort_read(qnet_context *ctx, const char *folder,
                                      const qnet_input_config *config, qnet_cohort **out)
{
    char path[QNET__PATH_SIZE];
    qnet_scan *list = NULL;
    qnet_cohort *cohort = NULL;
    qnet_status status;
    size_t bytes = 0;
    int count = 0;
    QNET__TRY(qnet__input_check(ctx, config));
    if (folder == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "read cohort: folder or result is missing");
    QNET__TRY(qnet__path(ctx, path, folder, "/participants.tsv", "", ""));
    QNET__TRY(qnet__read_participants(ctx, path, &list, &count, &bytes));
    status = qnet_cohort_create(ctx, config, count, &cohort);
    if (status == QNET_OK) status = qnet__cohort_read_all(cohort, folder, list, count);
    qnet__free(ctx, list, bytes);
    if (status != QNET_OK) {
        qnet_cohort_destroy(cohort);
        return status;
    }
    *out = cohort;
    return QNET_OK;
}

#endif /* QNET_NO_STDIO */

/* ============================================================================================
   >>train
   Training (paper, "Training Procedure"). Stage 1 trains ResNet18 on single slices; qnet_embed
   runs it over whole scans; stage 2 trains the scan-level model on those features, which no longer
   change. An epoch depends on (seed, epoch) and on what a checkpoint holds, on nothing else, so a
   run that was stopped goes on with the same bits.
   ============================================================================================ */

/* ---- what both stages share ------------------------------------------------------------------ */

/* Batches of an epoch: as few as hold `count` items with at most `batch` in each. */
static size_t qnet__batches(size_t count, int batch)
{
    return (count + (size_t)batch - 1) / (size_t)batch;
}

/* First item of batch k of n: the sizes of two batches differ by one at most. */
static size_t qnet__batch_start(size_t count, size_t n, size_t k)
{
    return count / n * k + qnet__min_size(k, count % n);
}

/* order[count] = 0..count-1, shuffled for this epoch. */
static void qnet__epoch_order(uint64_t seed, int purpose, int epoch, int *order, size_t count)
{
    qnet_rng rng = qnet_rng_at(seed, purpose, (uint32_t)epoch, 0);
    size_t i;
    for (i = 0; i < count; i++) order[i] = (int)i;
    qnet_rng_shuffle(&rng, order, count);
}

/* P(HH) = e^z1 / (e^z0 + e^z1) of two logits, in double: rounded to float, confident scores would
   tie, which an AUC sees. */
static double qnet__probability_hh(const qnet_real *logits)
{
    return 1 / (1 + exp((double)logits[QNET_HC] - (double)logits[QNET_HH]));
}

/* The first of x[count] that is NaN or infinite, or count. */
static size_t qnet__first_bad(const qnet_real *x, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++)
        if (!isfinite(x[i])) break;
    return i;
}

/* 0 <= beta < 1 and eps > 0, which is what keeps Adam's divisions from 0; false for NaN. */
static int qnet__adam_is_sound(const qnet_adam_config *adam)
{
    return adam->beta1 >= 0 && adam->beta1 < 1 && adam->beta2 >= 0 && adam->beta2 < 1 &&
           adam->eps > 0 && adam->eps <= DBL_MAX;
}

/* Progress of one epoch, or of a task without epochs (epochs = 0). */
typedef struct qnet__meter {
    qnet_context *ctx;
    const char *task;
    int epoch, epochs;    /* from 1 */
    size_t steps;         /* of the epoch */
    double items_before;  /* of the task, in earlier epochs */
    double items_total;   /* of the whole task */
    double start;         /* seconds */
} qnet__meter;

/* items: of one epoch, or of the task. Asks for the time: call it where the work begins. */
static qnet__meter qnet__meter_start(qnet_context *ctx, const char *task, int epoch, int epochs,
                                     size_t steps, size_t items)
{
    qnet__meter m;
    m.ctx = ctx;
    m.task = task;
    m.epoch = epoch;
    m.epochs = epochs;
    m.steps = steps;
    m.items_before = epochs > 0 ? (double)items * (epoch - 1) : 0;
    m.items_total = epochs > 0 ? (double)items * epochs : (double)items;
    m.start = qnet__seconds(ctx);
    return m;
}

/* "stage 1, epoch 3 of 100, step 2 of 17" into text: where an error happened. */
#define QNET__PLACE 128
static const char *qnet__meter_place(const qnet__meter *m, size_t step, char text[QNET__PLACE])
{
    char epoch[48] = "";
    if (m->epochs > 0)
        snprintf(epoch, sizeof(epoch), ", epoch %d of %d", m->epoch, m->epochs);
    snprintf(text, QNET__PLACE, "%s%s, step %.0f of %.0f", m->task, epoch, (double)step,
             (double)m->steps);
    return text;
}

/* After step `step` (from 1) of the epoch, with `items` of it done. */
static qnet_status qnet__meter_report(const qnet__meter *m, size_t step, size_t items, double loss,
                                      double learning_rate)
{
    double elapsed = qnet__seconds(m->ctx) - m->start;
    double left = m->items_total - m->items_before - (double)items;
    char place[QNET__PLACE];
    qnet_progress_info info;
    info.task = m->task;
    info.where = "";
    info.epoch = m->epoch;
    info.epochs = m->epochs;
    info.step = step;
    info.steps = m->steps;
    info.loss = loss;
    info.learning_rate = learning_rate;
    info.items_per_second = elapsed > 0 ? (double)items / elapsed : 0;
    info.seconds_left = info.items_per_second > 0 ? left / info.items_per_second : -1;
    info.fraction = 1 - left / m->items_total;
    /* The fraction is of this task; who runs many tasks wraps the hook and puts in its own. */
    if (qnet__report(m->ctx, &info) == 0) return QNET_OK;
    return qnet__fail(m->ctx, QNET_STOPPED, "%s: stopped by the caller",
                      qnet__meter_place(m, step, place));
}

/* QNET_ERROR_NUMERIC, naming the tensor, unless all weights are finite. A ReLU turns NaN into 0, so
   a loss can look well while the weights behind it are lost. */
static qnet_status qnet__check_weights(const qnet__meter *m, const qnet_param_table *table,
                                       const qnet_real *weights)
{
    char place[QNET__PLACE];
    int i;
    for (i = 0; i < table->count; i++) {
        const qnet_param *p = &table->entries[i];
        if (qnet__first_bad(weights + p->offset, p->count) < p->count)
            return qnet__fail(m->ctx, QNET_ERROR_NUMERIC, "%s: '%s' has become NaN or infinite",
                              qnet__meter_place(m, m->steps, place), p->name);
    }
    return QNET_OK;
}

/* ---- checkpoints: flat arrays and lines of text in a safetensors file ------------------------ */

#define QNET__FIELDS 64

typedef struct qnet__fields {
    char key[QNET__FIELDS][32], value[QNET__FIELDS][32];
    int count;
} qnet__fields;

/* Appends a line; key and value must fit 31 characters. */
static void qnet__field_text(qnet__fields *f, const char *key, const char *value)
{
    snprintf(f->key[f->count], sizeof(f->key[0]), "%s", key);
    snprintf(f->value[f->count], sizeof(f->value[0]), "%s", value);
    f->count++;
}

/* Equal numbers give equal text and different ones different text, so text can be compared. */
static void qnet__field_number(qnet__fields *f, const char *key, double value)
{
    char text[32];
    qnet__format_number(text, sizeof(text), value); /* 17 digits where needed: no bit is lost */
    qnet__field_text(f, key, text);
}

/* 64 bits, which a double could not hold, in hexadecimal. */
static void qnet__field_bits(qnet__fields *f, const char *key, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof(text), "0x%08lx%08lx", (unsigned long)(value >> 32),
             (unsigned long)(value & 0xffffffffu));
    qnet__field_text(f, key, text);
}

/* The three lines of an optimiser. */
static void qnet__field_adam(qnet__fields *f, const qnet_adam_config *adam)
{
    qnet__field_number(f, "adam.beta1", adam->beta1);
    qnet__field_number(f, "adam.beta2", adam->beta2);
    qnet__field_number(f, "adam.eps", adam->eps);
}

/* An array of a checkpoint: count numbers of dtype F32 or F64 at data. */
typedef struct qnet__slab {
    const char *name;
    qnet_dtype dtype;
    void *data;
    size_t count;
} qnet__slab;

#define QNET__SLABS 5

/* count numbers of the networks' own type, which float and double builds keep apart. */
static qnet__slab qnet__slab_real(const char *name, qnet_real *data, size_t count)
{
    qnet__slab s;
    s.name = name;
    s.dtype = QNET__REAL_IS_DOUBLE ? QNET_F64 : QNET_F32;
    s.data = data;
    s.count = count;
    return s;
}

/* The history is an array of structs of three doubles: F64 [3 epochs] in the file. */
static qnet__slab qnet__slab_history(qnet_epoch *history, int epochs)
{
    qnet__slab s;
    s.name = "history";
    s.dtype = QNET_F64;
    s.data = history;
    s.count = (size_t)epochs * (sizeof(qnet_epoch) / sizeof(double));
    return s;
}

/* fields become the file's metadata, slabs its tensors, one-dimensional and in host memory. */
static qnet_status qnet__checkpoint_write(qnet_context *ctx, qnet_sink *sink,
                                          const qnet__fields *fields, const qnet__slab *slabs,
                                          int count)
{
    const char *pairs[2 * QNET__FIELDS];
    qnet_safetensor tensors[QNET__SLABS];
    int i;
    for (i = 0; i < fields->count; i++) {
        pairs[2 * i] = fields->key[i];
        pairs[2 * i + 1] = fields->value[i];
    }
    memset(tensors, 0, sizeof(tensors));
    for (i = 0; i < count; i++) {
        snprintf(tensors[i].name, sizeof(tensors[i].name), "%s", slabs[i].name);
        tensors[i].dtype = slabs[i].dtype;
        tensors[i].ndim = 1;
        tensors[i].shape[0] = slabs[i].count;
        tensors[i].data = slabs[i].data;
    }
    return qnet_safetensors_write(ctx, sink, tensors, count, pairs, fields->count);
}

/* QNET_ERROR_MISMATCH for the first field of the file that is not as expected; those whose key
   begins with `skip` are not compared (NULL: all are). */
static qnet_status qnet__checkpoint_compare(qnet_context *ctx, const qnet_safetensors *file,
                                            const char *name, const qnet__fields *expected,
                                            const char *skip)
{
    int i;
    for (i = 0; i < expected->count; i++) {
        const char *found = qnet_safetensors_metadata(file, expected->key[i]);
        if (skip != NULL && strncmp(expected->key[i], skip, strlen(skip)) == 0) continue;
        if (found == NULL || strcmp(found, expected->value[i]) != 0)
            return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                              "%s: checkpoint of another run: %s: expected %s, found %.64s", name,
                              expected->key[i], expected->value[i], found ? found : "nothing");
    }
    return QNET_OK;
}

/* A whole number 0..most of the file's metadata. */
static qnet_status qnet__checkpoint_count(qnet_context *ctx, const qnet_safetensors *file,
                                          const char *name, const char *key, double most,
                                          double *out)
{
    const char *text = qnet_safetensors_metadata(file, key);
    double value;
    if (text == NULL || !qnet__parse_number(text, &value) ||
        !(value >= 0 && value <= most && floor(value) == value))
        return qnet__fail(ctx, QNET_ERROR_FORMAT,
                          "%s: damaged checkpoint: %s: expected a whole number of at most %.0f, "
                          "found %.64s", name, key, most, text ? text : "nothing");
    *out = value;
    return QNET_OK;
}

/* Copies the file's arrays into the slabs, after all of them have been checked. */
static qnet_status qnet__checkpoint_copy(qnet_context *ctx, const qnet_safetensors *file,
                                         const char *name, const qnet__slab *slabs, int count)
{
    int i, copy;
    size_t k;
    for (copy = 0; copy < 2; copy++)
        for (i = 0; i < count; i++) {
            const qnet__slab *s = &slabs[i];
            const qnet_safetensor *t = qnet_safetensors_find(file, s->name);
            if (t == NULL || t->dtype != s->dtype || t->ndim != 1 || t->count != s->count)
                return qnet__fail(ctx, QNET_ERROR_FORMAT,
                                  "%s: damaged checkpoint: '%s': expected %.0f numbers of type %s, "
                                  "found %.0f of type %s", name, s->name, (double)s->count,
                                  qnet_dtype_name(s->dtype), t ? (double)t->count : 0,
                                  t ? qnet_dtype_name(t->dtype) : "none");
            if (copy && qnet__is_little_endian()) {
                memcpy(s->data, t->data, t->bytes);
                continue;
            }
            for (k = 0; k < s->count; k++) {
                double value = qnet__element(t->dtype, t->data, k);
                if (!isfinite(value))
                    return qnet__fail(ctx, QNET_ERROR_FORMAT,
                                      "%s: damaged checkpoint: '%s': number %.0f is not finite",
                                      name, s->name, (double)k);
                if (!copy) continue;
                if (s->dtype == QNET_F64) ((double *)s->data)[k] = value;
                else ((float *)s->data)[k] = (float)value;
            }
        }
    return QNET_OK;
}

/* ---- images: slices of scans, prepared in parallel ------------------------------------------- */

typedef struct qnet__image {
    int scan, slice, label;
    size_t index; /* in the whole cohort, scan by scan: names the image's random stream */
} qnet__image;

/* A list of images and what is needed to turn some of them into a batch. */
typedef struct qnet__loader {
    const qnet_cohort *cohort;
    const qnet_augment_config *augment;
    int height, width;           /* of the network's input */
    qnet__image *images; size_t count;
    qnet_real *batch;            /* [largest batch][height][width][3] */
    qnet_status *status;         /* [largest batch]: a task cannot write to ctx */
    unsigned char *scratch;      /* [workers][scratch_bytes] */
    size_t scratch_bytes;
    /* Of the batch at hand: */
    const int *order;            /* order[first + i] is image i of the batch; NULL: first + i */
    size_t first;
    int epoch;                   /* of the augmentation; -1: test time */
    uint64_t seed;
} qnet__loader;

/* Checks the scans and counts their images. */
static qnet_status qnet__loader_measure(qnet_context *ctx, qnet__loader *l, const char *task,
                                        const qnet_cohort *cohort, const int *scans, int count,
                                        int height, int width)
{
    int i;
    memset(l, 0, sizeof(*l));
    l->cohort = cohort;
    l->height = height;
    l->width = width;
    if (height > cohort->height || width > cohort->width)
        return qnet__fail(ctx, QNET_ERROR_SHAPE,
                          "%s: the network's input is %d x %d, the prepared images %d x %d", task,
                          height, width, cohort->height, cohort->width);
    for (i = 0; i < count; i++) {
        if (scans[i] < 0 || scans[i] >= cohort->scans_count)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: scan %d: expected 0..%d", task,
                              scans[i], cohort->scans_count - 1);
        l->count += (size_t)cohort->scans[scans[i]].slices;
    }
    if (l->count < 1 || l->count > (size_t)INT_MAX)
        return qnet__fail(ctx, QNET_ERROR_DATA, "%s: %.0f images in %d scans", task,
                          (double)l->count, count);
    return QNET_OK;
}

/* Memory for batches of `batch`. */
static void qnet__loader_plan(qnet_context *ctx, qnet__loader *l, qnet__arena *a, int batch)
{
    size_t pixels = (size_t)l->height * (size_t)l->width;
    l->scratch_bytes = qnet_augment_scratch(l->cohort->height, l->cohort->width);
    l->images = (qnet__image *)qnet__take(a, l->count, sizeof(qnet__image));
    l->batch = (qnet_real *)qnet__take(a, (size_t)batch * pixels, 3 * sizeof(qnet_real));
    l->status = (qnet_status *)qnet__take(a, (size_t)batch, sizeof(qnet_status));
    /* Rounded up, so that no two workers write to one cache line. */
    l->scratch_bytes = (l->scratch_bytes + QNET__ALIGN - 1) / QNET__ALIGN * QNET__ALIGN;
    l->scratch = (unsigned char *)qnet__take(a, qnet__workers(ctx), l->scratch_bytes);
}

/* Lists the images of scans[count] in order. label_of (NULL: the cohort's): by scan. */
static void qnet__loader_fill(qnet__loader *l, const int *scans, int count, const int *label_of)
{
    size_t n = 0;
    int i, scan, slice;
    for (i = 0; i < count; i++) {
        size_t index = 0;
        for (scan = 0; scan < scans[i]; scan++) index += (size_t)l->cohort->scans[scan].slices;
        for (slice = 0; slice < l->cohort->scans[scan].slices; slice++) {
            qnet__image *image = &l->images[n++];
            image->scan = scan;
            image->slice = slice;
            image->index = index++;
            image->label = label_of ? label_of[scan] : (int)l->cohort->scans[scan].label;
        }
    }
}

/* Image i of the batch at hand. */
static const qnet__image *qnet__loader_image(const qnet__loader *l, size_t i)
{
    return &l->images[l->order ? (size_t)l->order[l->first + i] : l->first + i];
}

/* Image i of the batch into its place: the record is drawn from the image's own stream. */
static qnet_status qnet__loader_apply(qnet_context *ctx, const qnet__loader *l, size_t i,
                                      size_t worker)
{
    const qnet__image *image = qnet__loader_image(l, i);
    const float *pixels = qnet_scan_slice(l->cohort, image->scan, image->slice);
    const int in_h = l->cohort->height, in_w = l->cohort->width;
    size_t k, numbers = (size_t)in_h * (size_t)in_w * 3;
    qnet_augmentation record;
    /* Stretching would clip NaN to 0 and hide it. */
    for (k = 0; k < numbers; k++)
        if (!isfinite(pixels[k]))
            return qnet__fail(ctx, QNET_ERROR_NUMERIC, "a pixel is NaN or infinite");
    if (l->epoch < 0) {
        record = qnet_augment_test(in_h, in_w, l->height, l->width);
    } else {
        qnet_rng rng = qnet_rng_at(l->seed, QNET_RANDOM_AUGMENT, (uint32_t)l->epoch, image->index);
        record = qnet_augment_draw(l->augment, &rng, in_h, in_w, l->height, l->width);
    }
    return qnet_augment_apply(ctx, l->augment, &record, pixels, in_h, in_w,
                              l->batch + i * (size_t)l->height * (size_t)l->width * 3, l->height,
                              l->width, l->scratch + worker * l->scratch_bytes);
}

/* Runs beside its like: it may not write to the context, so it keeps the status only. */
static void qnet__loader_task(void *arg, size_t index, size_t worker)
{
    qnet__loader *l = (qnet__loader *)arg;
    l->status[index] = qnet__loader_apply(NULL, l, index, worker);
}

/* Fills l->batch with the n images of step `step` (from 1): those at order[first..], or first.. if
   order is NULL. epoch: of the augmentation, -1: none. The first failure by index is told. */
static qnet_status qnet__loader_load(const qnet__meter *m, size_t step, qnet__loader *l, int epoch,
                                     const int *order, size_t first, size_t n)
{
    qnet_context *ctx = m->ctx;
    char place[QNET__PLACE];
    size_t i;
    l->order = order;
    l->first = first;
    l->epoch = epoch;
    qnet__parallel(ctx, n, qnet__loader_task, l);
    for (i = 0; i < n; i++)
        if (l->status[i] != QNET_OK) {
            const qnet__image *image = qnet__loader_image(l, i);
            qnet_status status = qnet__loader_apply(ctx, l, i, 0); /* again, for its sentence */
            return qnet__fail(ctx, status, "%s: subject %s, slice %d: %s",
                              qnet__meter_place(m, step, place),
                              l->cohort->scans[image->scan].subject, image->slice,
                              qnet_last_error(ctx));
        }
    return QNET_OK;
}

/* ---- stage 1: images ------------------------------------------------------------------------- */

typedef struct qnet__stage1_state {
    qnet_stage1 run; /* first, so that a pointer to it is the start of the block */
    size_t bytes;    /* of the block: everything but the network */
    qnet__loader loader;
    size_t batches;  /* of an epoch */
    qnet_real *m, *v, *average; /* [table->trainable]; average NULL without SWA */
    qnet_real *logits;          /* [largest batch][2] */
    int *label;                 /* [largest batch] */
    int *order;                 /* [images] */
    uint64_t data_hash, weights_hash; /* weights: those to start from; 0: random ones */
    int broken;                 /* stopped or failed half way through an epoch */
} qnet__stage1_state;

/* The paper's numbers ("Training Procedure"); where SWA starts and its rate are ours. */
QNET_API void qnet_stage1_config_init(qnet_stage1_config *config)
{
    memset(config, 0, sizeof(*config));
    config->epochs = 100;
    config->batch = 64;
    config->rate_first = 3e-4;
    config->rate_last = 1e-4;
    config->swa = 1;
    config->swa_share = .25;
    config->swa_rate = 1e-4;
    qnet_adam_config_init(&config->adam);
    qnet_augment_config_init(&config->augment);
    config->size = 224;
    config->seed = 1;
}

/* At least one epoch is averaged, whatever the share. */
QNET_API int qnet_stage1_swa_start(const qnet_stage1_config *config)
{
    return config->epochs - qnet__max_int(1, (int)floor(config->swa_share * config->epochs + .5));
}

/* Learning rate of an epoch (from 0): cosine annealing; constant while weights are averaged. */
static double qnet__stage1_rate(const qnet_stage1_config *config, int epoch)
{
    if (config->swa && epoch >= qnet_stage1_swa_start(config)) return config->swa_rate;
    return qnet_cosine_rate(config->rate_first, config->rate_last, epoch, config->epochs);
}

/* The name in progress reports and errors: which of the two runs of a fold it is. */
static const char *qnet__stage1_task(const qnet_stage1 *run)
{
    return run->config.swa ? "stage 1 SWA" : "stage 1";
}

/* The configuration and the labels, before anything is asked for. */
static qnet_status qnet__stage1_config_check(qnet_context *ctx, const qnet_stage1_config *c)
{
    if (c->epochs < 1 || c->batch < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "stage 1: epochs %d and batch %d: expected 1 or more", c->epochs,
                          c->batch);
    if (!(c->rate_first >= 0 && c->rate_first <= DBL_MAX) || !qnet__adam_is_sound(&c->adam) ||
        !(c->rate_last >= 0 && c->rate_last <= DBL_MAX))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "stage 1: rates %g, %g, beta1 %g, beta2 %g or eps %g out of range",
                          c->rate_first, c->rate_last, c->adam.beta1, c->adam.beta2, c->adam.eps);
    if (!(c->swa_share >= 0 && c->swa_share <= 1) || !(c->swa_rate >= 0 && c->swa_rate <= DBL_MAX))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "stage 1: swa_share %g, swa_rate %g: expected a share of 0..1 and a rate",
                          c->swa_share, c->swa_rate);
    return qnet__augment_config_check(ctx, &c->augment);
}

static qnet_status qnet__stage1_check(qnet_context *ctx, const qnet_stage1_config *c,
                                      const qnet_cohort *cohort, const int *scans, int count,
                                      const int *label_of)
{
    int i, k, of_label[QNET_CLASSES] = {0, 0};
    QNET__TRY(qnet__stage1_config_check(ctx, c));
    for (i = 0; i < count; i++) {
        int label;
        if (scans[i] < 0 || scans[i] >= cohort->scans_count) continue; /* told by the loader */
        label = label_of ? label_of[scans[i]] : (int)cohort->scans[scans[i]].label;
        if (label < 0 || label >= QNET_CLASSES)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "stage 1: scan %d: label %d: expected 0 or 1", scans[i], label);
        of_label[label]++;
        for (k = 0; k < i; k++)
            if (scans[k] == scans[i])
                return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "stage 1: scan %d is listed twice",
                                  scans[i]);
    }
    if (count > 0 && of_label[QNET_HC] + of_label[QNET_HH] == count &&
        (of_label[QNET_HC] == 0 || of_label[QNET_HH] == 0))
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "stage 1: %d scans of HC and %d of HH: expected both to learn from",
                          of_label[QNET_HC], of_label[QNET_HH]);
    return QNET_OK;
}

/* What a run trains on: the pixels, labels, order and random streams of its images. */
static uint64_t qnet__stage1_hash(const qnet__loader *l)
{
    uint64_t hash = QNET_HASH_START;
    unsigned char bytes[32];
    size_t i;
    for (i = 0; i < l->count; i++) {
        const qnet__image *image = &l->images[i];
        qnet__store_le64(bytes, l->cohort->scans[image->scan].hash);
        qnet__store_le64(bytes + 8, image->index);
        qnet__store_le64(bytes + 16, (uint64_t)image->slice);
        qnet__store_le64(bytes + 24, (uint64_t)image->label);
        hash = qnet_hash(hash, bytes, sizeof(bytes));
    }
    return hash;
}

/* The whole block; with base NULL it only measures. trainable: numbers that Adam moves. */
static void qnet__stage1_plan(qnet_context *ctx, qnet__stage1_state *s, qnet__arena *a, int largest,
                              size_t trainable)
{
    const qnet_stage1_config *c = &s->run.config;
    qnet__take(a, 1, sizeof(*s));
    s->run.history = (qnet_epoch *)qnet__take(a, (size_t)c->epochs, sizeof(qnet_epoch));
    s->m = (qnet_real *)qnet__take(a, trainable, sizeof(qnet_real));
    s->v = (qnet_real *)qnet__take(a, trainable, sizeof(qnet_real));
    if (c->swa) s->average = (qnet_real *)qnet__take(a, trainable, sizeof(qnet_real));
    s->logits = (qnet_real *)qnet__take(a, (size_t)largest * QNET_CLASSES, sizeof(qnet_real));
    s->label = (int *)qnet__take(a, (size_t)largest, sizeof(int));
    s->order = (int *)qnet__take(a, s->loader.count, sizeof(int));
    qnet__loader_plan(ctx, &s->loader, a, largest);
}

/* Two blocks: the network's own, and one for everything else. A plan is run twice, to measure and
   to carve; epochs and the finish then ask for no memory. */
QNET_API qnet_status qnet_stage1_create(qnet_context *ctx, const qnet_stage1_config *config,
                                        const qnet_cohort *cohort, const int *scans, int count,
                                        const int *label_of, const qnet_real *weights,
                                        qnet_stage1 **out)
{
    qnet__stage1_state s, *self;
    qnet__arena arena = {NULL, 0};
    qnet_resnet_config net_config;
    qnet_resnet *net = NULL;
    size_t trainable;
    if (ctx == NULL || config == NULL || cohort == NULL || scans == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_stage1_create: an argument is NULL");
    QNET__TRY(qnet__stage1_check(ctx, config, cohort, scans, count, label_of));
    memset(&s, 0, sizeof(s));
    s.run.ctx = ctx;
    s.run.config = *config;
    s.run.cohort = cohort;
    QNET__TRY(qnet__loader_measure(ctx, &s.loader, "stage 1", cohort, scans, count, config->size,
                                   config->size));
    s.batches = qnet__batches(s.loader.count, config->batch);

    qnet_resnet_config_init(&net_config);
    net_config.height = net_config.width = config->size;
    /* The largest batch there will be, which may be well below config->batch. */
    net_config.batch = (int)((s.loader.count + s.batches - 1) / s.batches);
    QNET__TRY(qnet_resnet_create(ctx, &net_config, &net));
    trainable = net->table->trainable;
    s.run.net = net;

    qnet__stage1_plan(ctx, &s, &arena, net_config.batch, trainable);
    s.bytes = arena.at;
    arena.base = (unsigned char *)qnet__alloc(ctx, s.bytes);
    if (arena.base == NULL) {
        qnet_resnet_destroy(net);
        return qnet__no_memory(ctx, s.bytes, "a stage 1 run");
    }
    arena.at = 0;
    qnet__stage1_plan(ctx, &s, &arena, net_config.batch, trainable);
    self = (qnet__stage1_state *)(void *)arena.base;
    *self = s;
    self->run.state = self;
    self->loader.augment = &self->run.config.augment;
    self->loader.seed = config->seed;
    qnet__loader_fill(&self->loader, scans, count, label_of);
    self->data_hash = qnet__stage1_hash(&self->loader);
    if (weights != NULL)
        self->weights_hash = qnet_hash(QNET_HASH_START, weights,
                                       net->table->total * sizeof(qnet_real));
    memset(self->run.history, 0, (size_t)config->epochs * sizeof(qnet_epoch));
    memset(self->m, 0, trainable * sizeof(qnet_real));
    memset(self->v, 0, trainable * sizeof(qnet_real));
    if (weights) memcpy(net->weights, weights, net->table->total * sizeof(qnet_real));
    else qnet_resnet_init(net, config->seed);
    *out = &self->run;
    return QNET_OK;
}

/* The state is the start of the block that holds all but the network. */
QNET_API void qnet_stage1_destroy(qnet_stage1 *run)
{
    if (run == NULL) return;
    qnet_resnet_destroy(run->net);
    qnet__free(run->ctx, run->state, run->state->bytes);
}

/* Refuses NULL and a run that stopped half way through an epoch. */
static qnet_status qnet__stage1_ready(const qnet_stage1 *run, const char *function)
{
    if (run == NULL) return QNET_ERROR_ARGUMENT;
    if (run->state->broken)
        return qnet__fail(run->ctx, QNET_ERROR_ARGUMENT,
                          "%s: the run ended half way through an epoch: load a checkpoint",
                          function);
    return QNET_OK;
}

/* Forward, loss, backward and one step of Adam on `n` images that lie in the loader's batch. */
static qnet_status qnet__stage1_step(qnet_stage1 *run, const qnet__meter *meter, size_t step, int n,
                                     double rate, double *loss)
{
    qnet__stage1_state *s = run->state;
    char place[QNET__PLACE];
    qnet_resnet *net = run->net;
    qnet_status status;
    QNET__TRY(qnet_resnet_forward(net, s->loader.batch, n, 1, s->logits, NULL));
    status = qnet_cross_entropy(run->ctx, (size_t)n, QNET_CLASSES, s->logits, s->label, loss,
                                s->logits);
    if (status == QNET_ERROR_NUMERIC || (status == QNET_OK && !isfinite(*loss)))
        return qnet__fail(run->ctx, QNET_ERROR_NUMERIC, "%s: the loss is NaN or infinite",
                          qnet__meter_place(meter, step, place));
    QNET__TRY(status);
    /* logits now holds the gradient of the loss with respect to them. */
    QNET__TRY(qnet_resnet_backward(net, s->loader.batch, n, s->logits));
    run->step++;
    qnet_adam_step(run->ctx, &run->config.adam, net->table->trainable, net->weights, net->gradients,
                   s->m, s->v, rate, run->step);
    return QNET_OK;
}

/* Shuffle; per batch: augment, forward, loss, backward, Adam; then, late in a run with SWA, take
   the weights into the average. The loss of the history is the mean over images, not batches. */
QNET_API qnet_status qnet_stage1_epoch(qnet_stage1 *run)
{
    qnet__stage1_state *s;
    qnet__meter meter;
    double rate, sum = 0;
    size_t k, i, first, end;
    QNET__TRY(qnet__stage1_ready(run, "qnet_stage1_epoch"));
    s = run->state;
    if (run->epoch >= run->config.epochs)
        return qnet__fail(run->ctx, QNET_ERROR_ARGUMENT,
                          "qnet_stage1_epoch: all %d epochs are done", run->config.epochs);
    /* A step that fails cannot be taken back, so the run is spent until the epoch's end. */
    s->broken = 1;
    rate = qnet__stage1_rate(&run->config, run->epoch);
    meter = qnet__meter_start(run->ctx, qnet__stage1_task(run), run->epoch + 1, run->config.epochs,
                              s->batches, s->loader.count);
    qnet__epoch_order(run->config.seed, QNET_RANDOM_SHUFFLE, run->epoch, s->order, s->loader.count);
    for (k = 0; k < s->batches; k++) {
        double loss;
        first = qnet__batch_start(s->loader.count, s->batches, k);
        end = qnet__batch_start(s->loader.count, s->batches, k + 1);
        QNET__TRY(qnet__loader_load(&meter, k + 1, &s->loader, run->epoch, s->order, first,
                                    end - first));
        for (i = first; i < end; i++) s->label[i - first] = s->loader.images[s->order[i]].label;
        QNET__TRY(qnet__stage1_step(run, &meter, k + 1, (int)(end - first), rate, &loss));
        sum += loss * (double)(end - first);
        QNET__TRY(qnet__meter_report(&meter, k + 1, end, sum / (double)end, rate));
    }
    QNET__TRY(qnet__check_weights(&meter, run->net->table, run->net->weights));
    if (run->config.swa && run->epoch >= qnet_stage1_swa_start(&run->config)) {
        qnet_swa_update(run->ctx, run->net->table->trainable, s->average, run->net->weights,
                        (uint64_t)run->averaged);
        run->averaged++;
    }
    run->history[run->epoch].loss = sum / (double)s->loader.count;
    run->history[run->epoch].learning_rate = rate;
    run->history[run->epoch].seconds = qnet__seconds(run->ctx) - meter.start;
    run->epoch++;
    s->broken = 0;
    return QNET_OK;
}

/* Running mean 0, variance 1, no batch counted. */
static void qnet__reset_statistics(qnet_resnet *net)
{
    int i;
    size_t k;
    for (i = 0; i < net->table->count; i++) {
        const qnet_param *p = &net->table->entries[i];
        int one = strstr(p->name, "running_var") != NULL;
        for (k = 0; !p->trainable && k < p->count; k++)
            net->weights[p->offset + k] = (qnet_real)one;
    }
}

/* The averaged weights have seen no batch, so their batch norms' statistics are found anew: one
   pass over the training images without augmentation. With momentum n_k / (n_1 + ... + n_k) the
   running statistics are the mean over all batches, each weighted by its images. */
static qnet_status qnet__stage1_statistics(qnet_stage1 *run)
{
    qnet__stage1_state *s = run->state;
    qnet__meter meter = qnet__meter_start(run->ctx, "batch-norm statistics", 0, 0, s->batches,
                                          s->loader.count);
    qnet_status status = QNET_OK;
    size_t k, first, end;
    qnet__reset_statistics(run->net);
    /* Shuffled, so that a batch holds many subjects, as the batches of training did. */
    qnet__epoch_order(run->config.seed, QNET_RANDOM_SHUFFLE, run->config.epochs, s->order,
                      s->loader.count);
    for (k = 0; k < s->batches && status == QNET_OK; k++) {
        first = qnet__batch_start(s->loader.count, s->batches, k);
        end = qnet__batch_start(s->loader.count, s->batches, k + 1);
        qnet_resnet_set_momentum(run->net, (double)(end - first) / (double)end);
        status = qnet__loader_load(&meter, k + 1, &s->loader, -1, s->order, first,
                                   end - first);
        if (status == QNET_OK)
            status = qnet_resnet_forward(run->net, s->loader.batch, (int)(end - first), 1, NULL,
                                         NULL);
        if (status == QNET_OK) status = qnet__meter_report(&meter, k + 1, end, NAN, 0);
    }
    qnet_resnet_set_momentum(run->net, QNET_BATCHNORM_MOMENTUM);
    QNET__TRY(status);
    return qnet__check_weights(&meter, run->net->table, run->net->weights);
}

/* Without SWA nothing is left to do: the running statistics have followed the weights all along.
   Statistics of batch norms are not averaged, they are found anew. */
QNET_API qnet_status qnet_stage1_finish(qnet_stage1 *run)
{
    qnet__stage1_state *s;
    QNET__TRY(qnet__stage1_ready(run, "qnet_stage1_finish"));
    s = run->state;
    if (run->epoch < run->config.epochs)
        return qnet__fail(run->ctx, QNET_ERROR_ARGUMENT,
                          "qnet_stage1_finish: %d of %d epochs are done", run->epoch,
                          run->config.epochs);
    if (run->finished) return QNET_OK;
    if (run->config.swa) {
        s->broken = 1; /* until the statistics are whole */
        memcpy(run->net->weights, s->average, run->net->table->trainable * sizeof(qnet_real));
        QNET__TRY(qnet__stage1_statistics(run));
        s->broken = 0;
    }
    run->finished = 1;
    return QNET_OK;
}

/* Which kernels compute: their roundings differ, so a checkpoint goes on only with its own. */
static const char *qnet__kernels_name(const qnet_context *ctx)
{
    if (ctx->hooks.blas.sgemm != NULL) return "blas";
    return QNET__TWINS_ONLY ? "reference" : qnet_cpu_name(qnet_context_cpu(ctx));
}

/* Everything that decides the run's bits but its start weights, which the checkpoint replaces. */
static void qnet__stage1_fields(const qnet_stage1 *run, qnet__fields *f)
{
    static const char *const axis[] = {"0", "1", "2"};
    const qnet_stage1_config *c = &run->config;
    const qnet_augment_config *a = &c->augment;
    char key[32];
    int i;
    f->count = 0;
    qnet__field_text(f, "kind", "qnet stage 1 checkpoint 1");
    qnet__field_text(f, "real", QNET__REAL_IS_DOUBLE ? "double" : "float");
    qnet__field_text(f, "kernels", qnet__kernels_name(run->ctx));
    qnet__field_text(f, "network", run->net->table->network);
    qnet__field_number(f, "epochs", c->epochs);
    qnet__field_number(f, "batch", c->batch);
    qnet__field_number(f, "rate_first", c->rate_first);
    qnet__field_number(f, "rate_last", c->rate_last);
    qnet__field_number(f, "swa", c->swa != 0);
    qnet__field_number(f, "swa_share", c->swa_share);
    qnet__field_number(f, "swa_rate", c->swa_rate);
    qnet__field_adam(f, &c->adam);
    qnet__field_number(f, "augment.stretch", a->stretch);
    qnet__field_number(f, "augment.percentile_low", a->percentile_low);
    qnet__field_number(f, "augment.percentile_high", a->percentile_high);
    qnet__field_number(f, "augment.p_hflip", a->p_hflip);
    qnet__field_number(f, "augment.p_vflip", a->p_vflip);
    qnet__field_number(f, "augment.p_brightness_contrast", a->p_brightness_contrast);
    qnet__field_number(f, "augment.p_gamma", a->p_gamma);
    qnet__field_number(f, "augment.p_grid", a->p_grid);
    qnet__field_number(f, "augment.p_affine", a->p_affine);
    qnet__field_number(f, "augment.brightness", a->brightness);
    qnet__field_number(f, "augment.contrast", a->contrast);
    qnet__field_number(f, "augment.gamma_low", a->gamma_low);
    qnet__field_number(f, "augment.gamma_high", a->gamma_high);
    qnet__field_number(f, "augment.grid_limit", a->grid_limit);
    qnet__field_number(f, "augment.shift", a->shift);
    qnet__field_number(f, "augment.scale", a->scale);
    qnet__field_number(f, "augment.rotate", a->rotate);
    qnet__field_number(f, "augment.physics_safe", a->physics_safe != 0);
    for (i = 0; i < 3; i++) {
        snprintf(key, sizeof(key), "augment.window_low.%s", axis[i]);
        qnet__field_number(f, key, a->window_low[i]);
        snprintf(key, sizeof(key), "augment.window_high.%s", axis[i]);
        qnet__field_number(f, key, a->window_high[i]);
        snprintf(key, sizeof(key), "augment.mean.%s", axis[i]);
        qnet__field_number(f, key, a->mean[i]);
        snprintf(key, sizeof(key), "augment.std.%s", axis[i]);
        qnet__field_number(f, key, a->std[i]);
    }
    qnet__field_number(f, "size", c->size);
    qnet__field_bits(f, "seed", c->seed);
    qnet__field_bits(f, "images and labels", run->state->data_hash);
    qnet__field_bits(f, "initial weights", run->state->weights_hash);
}

/* The arrays of a checkpoint with this many averaged weights; returns how many arrays. */
static int qnet__stage1_slabs(const qnet_stage1 *run, int averaged, qnet__slab slabs[QNET__SLABS])
{
    const qnet_param_table *table = run->net->table;
    int n = 0;
    slabs[n++] = qnet__slab_history(run->history, run->config.epochs);
    slabs[n++] = qnet__slab_real("weights", run->net->weights, table->total);
    slabs[n++] = qnet__slab_real("adam.m", run->state->m, table->trainable);
    slabs[n++] = qnet__slab_real("adam.v", run->state->v, table->trainable);
    if (averaged > 0)
        slabs[n++] = qnet__slab_real("swa.average", run->state->average, table->trainable);
    return n;
}

/* The lines of the configuration first, then how far the run is, then the arrays. */
QNET_API qnet_status qnet_stage1_write(qnet_stage1 *run, qnet_sink *sink)
{
    qnet__fields fields;
    qnet__slab slabs[QNET__SLABS];
    int count;
    QNET__TRY(qnet__stage1_ready(run, "qnet_stage1_write"));
    qnet__stage1_fields(run, &fields);
    qnet__field_text(&fields, "version", QNET_VERSION);
    qnet__field_number(&fields, "epoch", run->epoch);
    qnet__field_number(&fields, "step", (double)run->step);
    qnet__field_number(&fields, "averaged", run->averaged);
    qnet__field_number(&fields, "finished", run->finished);
    count = qnet__stage1_slabs(run, run->averaged, slabs);
    return qnet__checkpoint_write(run->ctx, sink, &fields, slabs, count);
}

/* Checks everything of the file before the first number of the run changes. */
static qnet_status qnet__stage1_restore(qnet_stage1 *run, const qnet_safetensors *file,
                                        const char *name)
{
    const int start = qnet_stage1_swa_start(&run->config);
    const char *swa = qnet_safetensors_metadata(file, "swa");
    /* Up to `start` a run with SWA and one without do the same. */
    const int branch = run->config.swa && swa != NULL && strcmp(swa, "0") == 0;
    double epoch, step, averaged, finished;
    qnet__fields fields;
    qnet__slab slabs[QNET__SLABS];
    int count;
    qnet__stage1_fields(run, &fields);
    QNET__TRY(qnet__checkpoint_compare(run->ctx, file, name, &fields, branch ? "swa" : NULL));
    QNET__TRY(qnet__checkpoint_count(run->ctx, file, name, "epoch", run->config.epochs, &epoch));
    if (branch && epoch > start)
        return qnet__fail(run->ctx, QNET_ERROR_MISMATCH,
                          "%s: checkpoint of a run without SWA after epoch %.0f: expected %d at "
                          "most, where averaging begins", name, epoch, start);
    QNET__TRY(qnet__checkpoint_count(run->ctx, file, name, "step", 9007199254740992.0, &step));
    QNET__TRY(qnet__checkpoint_count(run->ctx, file, name, "averaged", run->config.epochs,
                                     &averaged));
    QNET__TRY(qnet__checkpoint_count(run->ctx, file, name, "finished", 1, &finished));
    /* Step and averaged follow from the epoch: a file where they do not was not written here. */
    if (step != epoch * (double)run->state->batches ||
        (finished > 0 && epoch < run->config.epochs) ||
        averaged != (run->config.swa && epoch > start ? epoch - start : 0))
        return qnet__fail(run->ctx, QNET_ERROR_FORMAT,
                          "%s: damaged checkpoint: epoch %.0f, step %.0f, averaged %.0f and "
                          "finished %.0f contradict each other", name, epoch, step, averaged,
                          finished);
    count = qnet__stage1_slabs(run, (int)averaged, slabs);
    QNET__TRY(qnet__checkpoint_copy(run->ctx, file, name, slabs, count));
    run->epoch = (int)epoch;
    run->step = (uint64_t)step;
    run->averaged = (int)averaged;
    run->finished = finished > 0;
    run->state->broken = 0;
    return QNET_OK;
}

/* Any failure leaves the run as it was. */
QNET_API qnet_status qnet_stage1_read(qnet_stage1 *run, qnet_source *source)
{
    qnet_safetensors *file = NULL;
    qnet_status status;
    if (run == NULL) return QNET_ERROR_ARGUMENT;
    QNET__TRY(qnet_safetensors_read(run->ctx, source, &file));
    status = qnet__stage1_restore(run, file, qnet__source_name(source));
    qnet_safetensors_destroy(file);
    return status;
}

#ifndef QNET_NO_STDIO
/* A run that may not be saved does not touch the file either. */
QNET_API qnet_status qnet_stage1_save(qnet_stage1 *run, const char *path)
{
    qnet__file file;
    qnet_sink sink;
    qnet_status status;
    QNET__TRY(qnet__stage1_ready(run, "qnet_stage1_save"));
    QNET__TRY(qnet__file_open_replace(run->ctx, path, &file, &sink));
    status = qnet_stage1_write(run, &sink);
    if (status == QNET_OK) return qnet__file_commit(run->ctx, &file);
    qnet__file_abandon(&file);
    return status;
}

/* qnet_stage1_read of a path. */
QNET_API qnet_status qnet_stage1_load(qnet_stage1 *run, const char *path)
{
    qnet__file file;
    qnet_source source;
    qnet_status status;
    if (run == NULL) return QNET_ERROR_ARGUMENT;
    QNET__TRY(qnet__file_open_read(run->ctx, path, &file, &source));
    status = qnet_stage1_read(run, &source);
    qnet__file_close(&file);
    return status;
}

/* Goes on from wherever the run is; a run that is finished stays as it is. */
QNET_API qnet_status qnet_stage1_run(qnet_stage1 *run, const char *checkpoint)
{
    QNET__TRY(qnet__stage1_ready(run, "qnet_stage1_run"));
    while (run->epoch < run->config.epochs) {
        QNET__TRY(qnet_stage1_epoch(run));
        if (checkpoint) QNET__TRY(qnet_stage1_save(run, checkpoint));
    }
    if (run->finished) return QNET_OK;
    QNET__TRY(qnet_stage1_finish(run));
    return checkpoint ? qnet_stage1_save(run, checkpoint) : QNET_OK;
}
#endif

/* ---- the embedding: features and slice probabilities of whole scans -------------------------- */

typedef struct qnet__embedding {
    qnet__loader loader;
    qnet_real *batch_features; /* [batch][512] */
    qnet_real *logits;         /* [batch][2] */
    qnet_real *features;       /* [count][max_slices][512]: the results, until all is well */
    double *probability;       /* [count][max_slices] */
} qnet__embedding;

/* batch: slices at once; places: scans * max_slices. */
static void qnet__embed_plan(qnet_context *ctx, qnet__embedding *e, qnet__arena *a, int batch,
                             size_t places)
{
    const size_t row = QNET_FEATURES * sizeof(qnet_real);
    e->batch_features = (qnet_real *)qnet__take(a, (size_t)batch, row);
    e->logits = (qnet_real *)qnet__take(a, (size_t)batch * QNET_CLASSES, sizeof(qnet_real));
    e->features = (qnet_real *)qnet__take(a, places, row);
    e->probability = (double *)qnet__take(a, places, sizeof(double));
    qnet__loader_plan(ctx, &e->loader, a, batch);
}

/* The test-time pass (paper: stretching and crop only), batch by batch. Slices come in the order of
   scans[count], so a place is reached by counting. */
static qnet_status qnet__embed_run(qnet_resnet *net, qnet__embedding *e, const int *scans,
                                   int batch, int max_slices)
{
    qnet_context *ctx = net->ctx;
    qnet__loader *l = &e->loader;
    size_t batches = qnet__batches(l->count, batch), k, i, first, end, place = 0;
    qnet__meter meter = qnet__meter_start(ctx, "features", 0, 0, batches, l->count);
    int scan = 0, slice = 0;
    for (k = 0; k < batches; k++) {
        first = qnet__batch_start(l->count, batches, k);
        end = qnet__batch_start(l->count, batches, k + 1);
        QNET__TRY(qnet__loader_load(&meter, k + 1, l, -1, NULL, first, end - first));
        QNET__TRY(qnet_resnet_forward(net, l->batch, (int)(end - first), 0, e->logits,
                                      e->batch_features));
        for (i = 0; i < end - first; i++) {
            const qnet_real *f = e->batch_features + i * QNET_FEATURES;
            const qnet_real *z = e->logits + i * QNET_CLASSES;
            /* A loop, not an if: a scan may have no slice. */
            while (slice == l->cohort->scans[scans[scan]].slices) {
                scan++;
                slice = 0;
            }
            place = (size_t)scan * (size_t)max_slices + (size_t)slice++;
            if (qnet__first_bad(f, QNET_FEATURES) < QNET_FEATURES ||
                qnet__first_bad(z, QNET_CLASSES) < QNET_CLASSES)
                return qnet__fail(ctx, QNET_ERROR_NUMERIC,
                                  "features: subject %s, slice %d: the network gives NaN or "
                                  "infinity", l->cohort->scans[scans[scan]].subject, slice - 1);
            memcpy(e->features + place * QNET_FEATURES, f, QNET_FEATURES * sizeof(qnet_real));
            e->probability[place] = qnet__probability_hh(z);
        }
        QNET__TRY(qnet__meter_report(&meter, k + 1, end, NAN, 0));
    }
    return QNET_OK;
}

/* Results are made aside and copied at the end, so that a failure leaves the caller's arrays alone.
   Inference gives each slice the same bits in any batch of a network: its sums run over its own
   pixels only. */
QNET_API qnet_status qnet_embed(qnet_resnet *net, const qnet_augment_config *augment,
                                const qnet_cohort *cohort, const int *scans, int count,
                                qnet_real *features, double *probability)
{
    qnet__embedding e;
    qnet__arena arena = {NULL, 0};
    qnet_context *ctx;
    qnet_status status;
    size_t bytes, places;
    int i, batch, max_slices;
    if (net == NULL) return QNET_ERROR_ARGUMENT;
    ctx = net->ctx;
    if (augment == NULL || cohort == NULL || scans == NULL || count < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "features: an argument is NULL, or no scan");
    if (net->config.channels != 3 || net->config.classes != QNET_CLASSES)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "features: a network of %d channels and %d classes: expected 3 and 2",
                          net->config.channels, net->config.classes);
    memset(&e, 0, sizeof(e));
    QNET__TRY(qnet__loader_measure(ctx, &e.loader, "features", cohort, scans, count,
                                   net->config.height, net->config.width));
    max_slices = cohort->config.max_slices;
    for (i = 0; i < count; i++)
        if (cohort->scans[scans[i]].slices > max_slices)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "features: subject %s has %d slices: expected %d at most",
                              cohort->scans[scans[i]].subject, cohort->scans[scans[i]].slices,
                              max_slices);
    e.loader.augment = augment;
    places = (size_t)count * (size_t)max_slices;
    batch = (int)qnet__min_size((size_t)net->config.batch, e.loader.count);
    qnet__embed_plan(ctx, &e, &arena, batch, places);
    bytes = arena.at;
    arena.base = (unsigned char *)qnet__alloc(ctx, bytes);
    if (arena.base == NULL) return qnet__no_memory(ctx, bytes, "features");
    arena.at = 0;
    qnet__embed_plan(ctx, &e, &arena, batch, places);
    qnet__loader_fill(&e.loader, scans, count, NULL);
    memset(e.features, 0, places * QNET_FEATURES * sizeof(qnet_real));
    memset(e.probability, 0, places * sizeof(double));
    status = qnet__embed_run(net, &e, scans, batch, max_slices);
    if (status == QNET_OK && features)
        memcpy(features, e.features, places * QNET_FEATURES * sizeof(qnet_real));
    if (status == QNET_OK && probability)
        memcpy(probability, e.probability, places * sizeof(double));
    qnet__free(ctx, arena.base, bytes);
    return status;
}

/* ---- stage 2: scans -------------------------------------------------------------------------- */

typedef struct qnet__stage2_state {
    qnet_stage2 run; /* first, so that a pointer to it is the start of the block */
    size_t bytes;    /* of the block: everything but the model */
    int count;       /* scans */
    size_t batches;  /* of an epoch */
    size_t row;      /* steps * 512: numbers of a scan */
    qnet_real *features;              /* [count][steps][512] */
    int *length, *label, *order;      /* [count] */
    qnet_real *batch;                 /* [largest batch][steps][512] */
    int *batch_length, *batch_label;  /* [largest batch] */
    qnet_real *m, *v;                 /* [table->trainable] */
    uint64_t data_hash;
    int broken;
} qnet__stage2_state;

/* The paper's numbers ("Training Procedure"); hidden and steps are ours. */
QNET_API void qnet_stage2_config_init(qnet_stage2_config *config)
{
    memset(config, 0, sizeof(*config));
    config->epochs = 50;
    config->batch = 64;
    config->rate = 3e-4;
    qnet_adam_config_init(&config->adam);
    config->hidden = 256;
    config->steps = 24;
    config->seed = 1;
}

/* features[count][steps][512] are looked at up to each scan's length only. */
static qnet_status qnet__stage2_config_check(qnet_context *ctx, const qnet_stage2_config *c)
{
    if (c->epochs < 1 || c->batch < 1 || c->steps < 1 || c->hidden < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "stage 2: epochs %d, batch %d, steps %d, hidden %d: expected 1 or more",
                          c->epochs, c->batch, c->steps, c->hidden);
    if (!(c->rate >= 0 && c->rate <= DBL_MAX) || !qnet__adam_is_sound(&c->adam))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "stage 2: rate %g, beta1 %g, beta2 %g or eps %g out of range", c->rate,
                          c->adam.beta1, c->adam.beta2, c->adam.eps);
    return QNET_OK;
}

static qnet_status qnet__stage2_check(qnet_context *ctx, const qnet_stage2_config *c,
                                      const qnet_real *features, const int *length,
                                      const int *label, int count)
{
    int i;
    QNET__TRY(qnet__stage2_config_check(ctx, c));
    if (count < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "stage 2: %d scans: expected 1 or more", count);
    for (i = 0; i < count; i++) {
        size_t row = (size_t)c->steps * QNET_FEATURES, used, bad;
        if (length[i] < 1 || length[i] > c->steps || label[i] < 0 || label[i] >= QNET_CLASSES)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "stage 2: scan %d: length %d, label %d: expected 1..%d and 0 or 1", i,
                              length[i], label[i], c->steps);
        used = (size_t)length[i] * QNET_FEATURES;
        bad = qnet__first_bad(features + (size_t)i * row, used);
        if (bad < used)
            return qnet__fail(ctx, QNET_ERROR_NUMERIC,
                              "stage 2: scan %d, slice %d: feature %d is NaN or infinite", i,
                              (int)(bad / QNET_FEATURES), (int)(bad % QNET_FEATURES));
    }
    return QNET_OK;
}

/* The whole block; with base NULL it only measures. */
static void qnet__stage2_plan(qnet__stage2_state *s, qnet__arena *a, int largest, size_t trainable)
{
    size_t count = (size_t)s->count, batch = (size_t)largest;
    qnet__take(a, 1, sizeof(*s));
    s->run.history = (qnet_epoch *)qnet__take(a, (size_t)s->run.config.epochs, sizeof(qnet_epoch));
    s->features = (qnet_real *)qnet__take(a, count, s->row * sizeof(qnet_real));
    s->length = (int *)qnet__take(a, count, sizeof(int));
    s->label = (int *)qnet__take(a, count, sizeof(int));
    s->order = (int *)qnet__take(a, count, sizeof(int));
    s->batch = (qnet_real *)qnet__take(a, batch, s->row * sizeof(qnet_real));
    s->batch_length = (int *)qnet__take(a, batch, sizeof(int));
    s->batch_label = (int *)qnet__take(a, batch, sizeof(int));
    s->m = (qnet_real *)qnet__take(a, trainable, sizeof(qnet_real));
    s->v = (qnet_real *)qnet__take(a, trainable, sizeof(qnet_real));
}

/* Copies the scans, zero beyond their slices, and takes the hash of all. */
static void qnet__stage2_fill(qnet__stage2_state *s, const qnet_real *features, const int *length,
                              const int *label)
{
    int i;
    memset(s->features, 0, (size_t)s->count * s->row * sizeof(qnet_real));
    s->data_hash = QNET_HASH_START;
    for (i = 0; i < s->count; i++) {
        size_t at = (size_t)i * s->row;
        size_t bytes = (size_t)length[i] * QNET_FEATURES * sizeof(qnet_real);
        s->length[i] = length[i];
        s->label[i] = label[i];
        memcpy(s->features + at, features + at, bytes);
        s->data_hash = qnet_hash(s->data_hash, s->features + at, bytes);
        s->data_hash = qnet_hash(s->data_hash, &s->length[i], sizeof(int));
        s->data_hash = qnet_hash(s->data_hash, &s->label[i], sizeof(int));
    }
}

/* Two blocks, as in stage 1: the model's own, and one for everything else. */
QNET_API qnet_status qnet_stage2_create(qnet_context *ctx, const qnet_stage2_config *config,
                                        const qnet_real *features, const int *length,
                                        const int *label, int count, qnet_stage2 **out)
{
    qnet__stage2_state s, *self;
    qnet__arena arena = {NULL, 0};
    qnet_scan_config model_config;
    qnet_scan_model *model = NULL;
    size_t trainable;
    if (ctx == NULL || config == NULL || features == NULL || length == NULL || label == NULL ||
        out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_stage2_create: an argument is NULL");
    QNET__TRY(qnet__stage2_check(ctx, config, features, length, label, count));
    memset(&s, 0, sizeof(s));
    s.run.ctx = ctx;
    s.run.config = *config;
    s.count = count;
    s.row = (size_t)config->steps * QNET_FEATURES;
    s.batches = qnet__batches((size_t)count, config->batch);

    qnet_scan_config_init(&model_config);
    model_config.hidden = config->hidden;
    model_config.steps = config->steps;
    model_config.batch = (int)(((size_t)count + s.batches - 1) / s.batches);
    QNET__TRY(qnet_scan_model_create(ctx, &model_config, &model));
    trainable = model->table->trainable;
    s.run.model = model;

    qnet__stage2_plan(&s, &arena, model_config.batch, trainable);
    s.bytes = arena.at;
    arena.base = (unsigned char *)qnet__alloc(ctx, s.bytes);
    if (arena.base == NULL) {
        qnet_scan_model_destroy(model);
        return qnet__no_memory(ctx, s.bytes, "a stage 2 run");
    }
    arena.at = 0;
    qnet__stage2_plan(&s, &arena, model_config.batch, trainable);
    self = (qnet__stage2_state *)(void *)arena.base;
    *self = s;
    self->run.state = self;
    qnet__stage2_fill(self, features, length, label);
    memset(self->run.history, 0, (size_t)config->epochs * sizeof(qnet_epoch));
    memset(self->m, 0, trainable * sizeof(qnet_real));
    memset(self->v, 0, trainable * sizeof(qnet_real));
    qnet_scan_model_init(model, config->seed);
    *out = &self->run;
    return QNET_OK;
}

/* As qnet_stage1_destroy. */
QNET_API void qnet_stage2_destroy(qnet_stage2 *run)
{
    if (run == NULL) return;
    qnet_scan_model_destroy(run->model);
    qnet__free(run->ctx, run->state, run->state->bytes);
}

/* Refuses NULL and a run that stopped half way through an epoch. */
static qnet_status qnet__stage2_ready(const qnet_stage2 *run, const char *function)
{
    if (run == NULL) return QNET_ERROR_ARGUMENT;
    if (run->state->broken)
        return qnet__fail(run->ctx, QNET_ERROR_ARGUMENT,
                          "%s: the run ended half way through an epoch: load a checkpoint",
                          function);
    return QNET_OK;
}

/* Gathers the scans order[first..end), and takes one step; *loss = CE(scan) + CE(image). */
static qnet_status qnet__stage2_step(qnet_stage2 *run, const qnet__meter *meter, size_t step,
                                     size_t first, size_t end, double *loss)
{
    char place[QNET__PLACE];
    qnet__stage2_state *s = run->state;
    qnet_scan_model *model = run->model;
    double image_loss = 0, scan_loss = 0;
    qnet_status status;
    size_t i;
    /* Loss of a batch: mean over its scans + mean over their slices; padded steps count nowhere. */
    for (i = first; i < end; i++) {
        int scan = s->order[i];
        memcpy(s->batch + (i - first) * s->row, s->features + (size_t)scan * s->row,
               s->row * sizeof(qnet_real));
        s->batch_length[i - first] = s->length[scan];
        s->batch_label[i - first] = s->label[scan];
    }
    status = qnet_scan_model_loss(model, s->batch, s->batch_length, s->batch_label,
                                  (int)(end - first), &image_loss, &scan_loss, 1);
    *loss = image_loss + scan_loss;
    if (status == QNET_ERROR_NUMERIC || (status == QNET_OK && !isfinite(*loss)))
        return qnet__fail(run->ctx, QNET_ERROR_NUMERIC, "%s: the loss is NaN or infinite",
                          qnet__meter_place(meter, step, place));
    QNET__TRY(status);
    run->step++;
    qnet_adam_step(run->ctx, &run->config.adam, model->table->trainable, model->weights,
                   model->gradients, s->m, s->v, run->config.rate, run->step);
    return QNET_OK;
}

/* As qnet_stage1_epoch, at a fixed rate and without averaging (paper, "Training Procedure"). */
QNET_API qnet_status qnet_stage2_epoch(qnet_stage2 *run)
{
    qnet__stage2_state *s;
    qnet__meter meter;
    double sum = 0, loss;
    size_t k, first, end, count;
    QNET__TRY(qnet__stage2_ready(run, "qnet_stage2_epoch"));
    s = run->state;
    count = (size_t)s->count;
    if (run->epoch >= run->config.epochs)
        return qnet__fail(run->ctx, QNET_ERROR_ARGUMENT,
                          "qnet_stage2_epoch: all %d epochs are done", run->config.epochs);
    s->broken = 1; /* until the epoch's end */
    meter = qnet__meter_start(run->ctx, "stage 2", run->epoch + 1, run->config.epochs, s->batches,
                              count);
    qnet__epoch_order(run->config.seed, QNET_RANDOM_SHUFFLE_SCAN, run->epoch, s->order, count);
    for (k = 0; k < s->batches; k++) {
        first = qnet__batch_start(count, s->batches, k);
        end = qnet__batch_start(count, s->batches, k + 1);
        QNET__TRY(qnet__stage2_step(run, &meter, k + 1, first, end, &loss));
        sum += loss * (double)(end - first);
        QNET__TRY(qnet__meter_report(&meter, k + 1, end, sum / (double)end, run->config.rate));
    }
    QNET__TRY(qnet__check_weights(&meter, run->model->table, run->model->weights));
    run->history[run->epoch].loss = sum / (double)count;
    run->history[run->epoch].learning_rate = run->config.rate;
    run->history[run->epoch].seconds = qnet__seconds(run->ctx) - meter.start;
    run->epoch++;
    s->broken = 0;
    return QNET_OK;
}

/* Everything that decides the run's bits; the start weights follow from the seed. */
static void qnet__stage2_fields(const qnet_stage2 *run, qnet__fields *f)
{
    const qnet_stage2_config *c = &run->config;
    f->count = 0;
    qnet__field_text(f, "kind", "qnet stage 2 checkpoint 1");
    qnet__field_text(f, "real", QNET__REAL_IS_DOUBLE ? "double" : "float");
    qnet__field_text(f, "kernels", qnet__kernels_name(run->ctx));
    qnet__field_text(f, "network", run->model->table->network);
    qnet__field_number(f, "epochs", c->epochs);
    qnet__field_number(f, "batch", c->batch);
    qnet__field_number(f, "rate", c->rate);
    qnet__field_adam(f, &c->adam);
    qnet__field_number(f, "hidden", c->hidden);
    qnet__field_number(f, "steps", c->steps);
    qnet__field_bits(f, "seed", c->seed);
    qnet__field_bits(f, "features and labels", run->state->data_hash);
}

/* The arrays of a checkpoint; returns how many. */
static int qnet__stage2_slabs(const qnet_stage2 *run, qnet__slab slabs[QNET__SLABS])
{
    const qnet_param_table *table = run->model->table;
    slabs[0] = qnet__slab_history(run->history, run->config.epochs);
    slabs[1] = qnet__slab_real("weights", run->model->weights, table->total);
    slabs[2] = qnet__slab_real("adam.m", run->state->m, table->trainable);
    slabs[3] = qnet__slab_real("adam.v", run->state->v, table->trainable);
    return 4;
}

/* As qnet_stage1_write. */
QNET_API qnet_status qnet_stage2_write(qnet_stage2 *run, qnet_sink *sink)
{
    qnet__fields fields;
    qnet__slab slabs[QNET__SLABS];
    int count;
    QNET__TRY(qnet__stage2_ready(run, "qnet_stage2_write"));
    qnet__stage2_fields(run, &fields);
    qnet__field_text(&fields, "version", QNET_VERSION);
    qnet__field_number(&fields, "epoch", run->epoch);
    qnet__field_number(&fields, "step", (double)run->step);
    count = qnet__stage2_slabs(run, slabs);
    return qnet__checkpoint_write(run->ctx, sink, &fields, slabs, count);
}

/* Checks everything of the file before the first number of the run changes. */
static qnet_status qnet__stage2_restore(qnet_stage2 *run, const qnet_safetensors *file,
                                        const char *name)
{
    double epoch, step;
    qnet__fields fields;
    qnet__slab slabs[QNET__SLABS];
    int count;
    qnet__stage2_fields(run, &fields);
    QNET__TRY(qnet__checkpoint_compare(run->ctx, file, name, &fields, NULL));
    QNET__TRY(qnet__checkpoint_count(run->ctx, file, name, "epoch", run->config.epochs, &epoch));
    QNET__TRY(qnet__checkpoint_count(run->ctx, file, name, "step", 9007199254740992.0, &step));
    if (step != epoch * (double)run->state->batches)
        return qnet__fail(run->ctx, QNET_ERROR_FORMAT,
                          "%s: damaged checkpoint: epoch %.0f and step %.0f contradict each other",
                          name, epoch, step);
    count = qnet__stage2_slabs(run, slabs);
    QNET__TRY(qnet__checkpoint_copy(run->ctx, file, name, slabs, count));
    run->epoch = (int)epoch;
    run->step = (uint64_t)step;
    run->state->broken = 0;
    return QNET_OK;
}

/* Any failure leaves the run as it was. */
QNET_API qnet_status qnet_stage2_read(qnet_stage2 *run, qnet_source *source)
{
    qnet_safetensors *file = NULL;
    qnet_status status;
    if (run == NULL) return QNET_ERROR_ARGUMENT;
    QNET__TRY(qnet_safetensors_read(run->ctx, source, &file));
    status = qnet__stage2_restore(run, file, qnet__source_name(source));
    qnet_safetensors_destroy(file);
    return status;
}

#ifndef QNET_NO_STDIO
/* A run that may not be saved does not touch the file either. */
QNET_API qnet_status qnet_stage2_save(qnet_stage2 *run, const char *path)
{
    qnet__file file;
    qnet_sink sink;
    qnet_status status;
    QNET__TRY(qnet__stage2_ready(run, "qnet_stage2_save"));
    QNET__TRY(qnet__file_open_replace(run->ctx, path, &file, &sink));
    status = qnet_stage2_write(run, &sink);
    if (status == QNET_OK) return qnet__file_commit(run->ctx, &file);
    qnet__file_abandon(&file);
    return status;
}

/* qnet_stage2_read of a path. */
QNET_API qnet_status qnet_stage2_load(qnet_stage2 *run, const char *path)
{
    qnet__file file;
    qnet_source source;
    qnet_status status;
    if (run == NULL) return QNET_ERROR_ARGUMENT;
    QNET__TRY(qnet__file_open_read(run->ctx, path, &file, &source));
    status = qnet_stage2_read(run, &source);
    qnet__file_close(&file);
    return status;
}

/* Goes on from wherever the run is, to its last epoch. */
QNET_API qnet_status qnet_stage2_run(qnet_stage2 *run, const char *checkpoint)
{
    QNET__TRY(qnet__stage2_ready(run, "qnet_stage2_run"));
    while (run->epoch < run->config.epochs) {
        QNET__TRY(qnet_stage2_epoch(run));
        if (checkpoint) QNET__TRY(qnet_stage2_save(run, checkpoint));
    }
    return QNET_OK;
}
#endif

/* ---- using the scan-level model -------------------------------------------------------------- */

typedef struct qnet__prediction {
    qnet_real *image_logits, *scan_logits; /* [batch][steps][2], [batch][2] */
    double *image, *scan;                  /* [count][steps], [count]: until all is well */
} qnet__prediction;

/* batch: scans at once. */
static void qnet__predict_plan(qnet__prediction *p, qnet__arena *a, size_t batch, size_t steps,
                               size_t count)
{
    p->image_logits = (qnet_real *)qnet__take(a, batch * steps, QNET_CLASSES * sizeof(qnet_real));
    p->scan_logits = (qnet_real *)qnet__take(a, batch, QNET_CLASSES * sizeof(qnet_real));
    p->image = (double *)qnet__take(a, count * steps, sizeof(double));
    p->scan = (double *)qnet__take(a, count, sizeof(double));
}

/* features[count][steps][512] are read in place: scans that follow each other are a batch. A scan's
   result does not depend on what else is in its batch. */
static qnet_status qnet__predict_run(qnet_scan_model *model, qnet__prediction *p,
                                     const qnet_real *features, const int *length, size_t batch,
                                     size_t count)
{
    size_t steps = (size_t)model->config.steps, row = steps * QNET_FEATURES, first, i, t, n;
    for (first = 0; first < count; first += n) {
        n = qnet__min_size(batch, count - first);
        QNET__TRY(qnet_scan_model_forward(model, features + first * row, length + first, (int)n,
                                          p->image_logits, p->scan_logits));
        for (i = 0; i < n; i++) {
            const qnet_real *z = p->image_logits + i * steps * QNET_CLASSES;
            size_t used = (size_t)length[first + i];
            if (qnet__first_bad(p->scan_logits + i * QNET_CLASSES, QNET_CLASSES) < QNET_CLASSES ||
                qnet__first_bad(z, used * QNET_CLASSES) < used * QNET_CLASSES)
                return qnet__fail(model->ctx, QNET_ERROR_NUMERIC,
                                  "scan %.0f: the model gives NaN or infinity",
                                  (double)(first + i));
            p->scan[first + i] = qnet__probability_hh(p->scan_logits + i * QNET_CLASSES);
            for (t = 0; t < steps; t++)
                p->image[(first + i) * steps + t] =
                    t < used ? qnet__probability_hh(z + t * QNET_CLASSES) : 0;
        }
    }
    return QNET_OK;
}

/* features[count][steps][512], length[count] in 1..steps; probabilities of padded steps are 0. */
QNET_API qnet_status qnet_scan_model_predict(qnet_scan_model *model, const qnet_real *features,
                                             const int *length, int count, double *image,
                                             double *scan)
{
    qnet__prediction p;
    qnet__arena arena = {NULL, 0};
    qnet_context *ctx;
    qnet_status status;
    size_t bytes, batch, steps;
    int i;
    if (model == NULL) return QNET_ERROR_ARGUMENT;
    ctx = model->ctx;
    steps = (size_t)model->config.steps;
    if (features == NULL || length == NULL || count < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_scan_model_predict: an argument is NULL, or no scan");
    if (model->config.features != QNET_FEATURES || model->config.classes != QNET_CLASSES)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_scan_model_predict: a model of %d features and %d classes: "
                          "expected %d and %d", model->config.features, model->config.classes,
                          QNET_FEATURES, QNET_CLASSES);
    for (i = 0; i < count; i++)
        if (length[i] < 1 || length[i] > model->config.steps)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "qnet_scan_model_predict: scan %d: length %d: expected 1..%d", i,
                              length[i], model->config.steps);
    batch = qnet__min_size((size_t)model->config.batch, (size_t)count);
    qnet__predict_plan(&p, &arena, batch, steps, (size_t)count);
    bytes = arena.at;
    arena.base = (unsigned char *)qnet__alloc(ctx, bytes);
    if (arena.base == NULL) return qnet__no_memory(ctx, bytes, "predictions");
    arena.at = 0;
    qnet__predict_plan(&p, &arena, batch, steps, (size_t)count);
    status = qnet__predict_run(model, &p, features, length, batch, (size_t)count);
    if (status == QNET_OK && image)
        memcpy(image, p.image, (size_t)count * steps * sizeof(double));
    if (status == QNET_OK && scan) memcpy(scan, p.scan, (size_t)count * sizeof(double));
    qnet__free(ctx, arena.base, bytes);
    return status;
}

/* ============================================================================================
   >>metrics
   What the paper's "Results" are made of: the confusion matrix and its rates, voting, ROC curve,
   AUC, DeLong's test (by item, and by subject after Obuchowski 1997), bootstrap of AUCs, the stars.
   Label 1 (HH) is the positive class; m is the number of HH items, n that of HC items. Counts of
   pairs are 64-bit integers, so an AUC is exact, ties included, until its one division.
   ============================================================================================ */

#define QNET__MAX_ITEMS ((size_t)0xffffffffu) /* 2 m n < 2^63, and an index fits qnet_rng_below */

/* ---- Normal distribution ------------------------------------------------------------------- */

/* Phi(z) = erfc(-z / sqrt 2) / 2, whose relative error stays small in the lower tail. */
QNET_API double qnet_normal_cdf(double z)
{
    return 0.5 * erfc(-z * 0.70710678118654752440);
}

/* The z with Phi(z) = p: -infinity for p <= 0, infinity for p >= 1. Acklam's rational approximation
   (2003, relative error 1.2e-9), then one step of Halley's method: with e = (Phi(z) - p)/phi(z),
   z -= e / (1 + z e / 2), which triples the number of right digits. */
QNET_API double qnet_normal_quantile(double p)
{
    static const double a[6] = { -3.969683028665376e+01, 2.209460984245205e+02,
                                 -2.759285104469687e+02, 1.383577518672690e+02,
                                 -3.066479806614716e+01, 2.506628277459239e+00 };
    static const double b[5] = { -5.447609879822406e+01, 1.615858368580409e+02,
                                 -1.556989798598866e+02, 6.680131188771972e+01,
                                 -1.328068155288572e+01 };
    static const double c[6] = { -7.784894002430293e-03, -3.223964580411365e-01,
                                 -2.400758277161838e+00, -2.549732539343734e+00,
                                 4.374664141464968e+00, 2.938163982698783e+00 };
    static const double d[4] = { 7.784695709041462e-03, 3.224671290700398e-01,
                                 2.445134137142996e+00, 3.754408661907416e+00 };
    double q, r, z, density;
    if (p != p) return p;
    if (p <= 0.0) return -HUGE_VAL;
    if (p >= 1.0) return HUGE_VAL;
    if (p > 0.5) return -qnet_normal_quantile(1.0 - p); /* 1 - p is exact here */
    if (p < 0.02425) {
        q = sqrt(-2.0 * log(p));
        z = (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
            ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1.0);
    } else {
        q = p - 0.5;
        r = q * q;
        z = (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
            (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1.0);
    }
    density = exp(-0.5 * z * z) * 0.39894228040143267794;
    if (density > 0.0) {
        const double e = (qnet_normal_cdf(z) - p) / density;
        z -= e / (1.0 + 0.5 * z * e);
    }
    return z;
}

/* ---- Confusion matrix ---------------------------------------------------------------------- */

/* numerator / denominator, NaN where nothing was counted. */
static double qnet__share(size_t numerator, size_t denominator)
{
    return denominator ? (double)numerator / (double)denominator : (double)NAN;
}

/* With p = k/t: ((p + z^2/2t) -+ z sqrt(p(1-p)/t + z^2/4t^2)) / (1 + z^2/t)  (Wilson 1927). */
QNET_API qnet_interval qnet_wilson(size_t successes, size_t trials, double level)
{
    qnet_interval r;
    double t, p, z, center, half;
    r.low = 0.0;
    r.high = 1.0;
    if (successes > trials || !(level > 0.0 && level < 1.0)) r.low = r.high = (double)NAN;
    if (trials == 0 || !(r.low == 0.0)) return r;
    t = (double)trials;
    p = (double)successes / t;
    z = -qnet_normal_quantile((1.0 - level) / 2.0);
    center = (p + z * z / (2.0 * t)) / (1.0 + z * z / t);
    half = z * sqrt(p * (1.0 - p) / t + z * z / (4.0 * t * t)) / (1.0 + z * z / t);
    if (successes > 0) r.low = center - half; /* at the ends the exact limit is 0 or 1 */
    if (successes < trials) r.high = center + half;
    return r;
}

/* F1 of a class = 2 tp / (2 tp + fn + fp), NaN for a class that neither occurs nor is named. f1
   weighs both classes' F1 by how often they occur: this fits all rows of Table 1 and those rows of
   Table 3 that have whole counts (examples/audit_paper.c). */
QNET_API qnet_metrics qnet_metrics_of(qnet_confusion count)
{
    const size_t hh = count.tp + count.fn, hc = count.tn + count.fp, all = hh + hc;
    qnet_metrics r;
    r.count = count;
    r.accuracy = qnet__share(count.tp + count.tn, all);
    r.sensitivity = qnet__share(count.tp, hh);
    r.specificity = qnet__share(count.tn, hc);
    r.precision = qnet__share(count.tp, count.tp + count.fp);
    r.f1_hh = qnet__share(2 * count.tp, 2 * count.tp + count.fn + count.fp);
    r.f1_hc = qnet__share(2 * count.tn, 2 * count.tn + count.fp + count.fn);
    r.f1_macro = (r.f1_hh + r.f1_hc) / 2.0;
    r.f1 = all ? 0.0 : (double)NAN;
    if (hh) r.f1 += (double)hh / (double)all * r.f1_hh;
    if (hc) r.f1 += (double)hc / (double)all * r.f1_hc;
    r.accuracy_ci = qnet_wilson(count.tp + count.tn, all, 0.95);
    r.sensitivity_ci = qnet_wilson(count.tp, hh, 0.95);
    r.specificity_ci = qnet_wilson(count.tn, hc, 0.95);
    return r;
}

/* Checks labels (all 0 or 1) and scores (none NaN; score NULL: not checked), counts HH in *hh. */
static qnet_status qnet__check_items(qnet_context *ctx, const char *what, const int *label,
                                     const double *score, size_t count, size_t *hh)
{
    size_t positives = 0;
    if (!label) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: label is NULL", what);
    if (count == 0) return qnet__fail(ctx, QNET_ERROR_DATA, "%s: there are no items", what);
    if (count > QNET__MAX_ITEMS) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: at most %lu items, found %lu", what,
                          (unsigned long)QNET__MAX_ITEMS, (unsigned long)count);
    }
    for (size_t i = 0; i < count; i++) {
        if (label[i] != 0 && label[i] != 1) {
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "%s: label of item %lu: expected 0 (HC) or 1 (HH), found %d", what,
                              (unsigned long)i, label[i]);
        }
        if (score && score[i] != score[i]) {
            return qnet__fail(ctx, QNET_ERROR_NUMERIC, "%s: score of item %lu is NaN", what,
                              (unsigned long)i);
        }
        positives += (size_t)label[i];
    }
    *hh = positives;
    return QNET_OK;
}

/* The same, and both classes must occur. */
static qnet_status qnet__check_curve(qnet_context *ctx, const char *what, const int *label,
                                     const double *score, size_t count, size_t *hh)
{
    if (!score) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: score is NULL", what);
    QNET__TRY(qnet__check_items(ctx, what, label, score, count, hh));
    if (*hh == 0 || *hh == count) {
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "%s: an ROC curve needs items of both classes, found %lu HH and %lu HC",
                          what, (unsigned long)*hh, (unsigned long)(count - *hh));
    }
    return QNET_OK;
}

QNET_API qnet_status qnet_metrics_from(qnet_context *ctx, const int *label, const int *decision,
                                       size_t count, qnet_metrics *out)
{
    qnet_confusion c;
    size_t hh;
    if (!decision || !out) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_metrics_from: decision or out is NULL");
    }
    QNET__TRY(qnet__check_items(ctx, "qnet_metrics_from", label, NULL, count, &hh));
    memset(&c, 0, sizeof c);
    for (size_t i = 0; i < count; i++) {
        if (decision[i] != 0 && decision[i] != 1) {
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "qnet_metrics_from: decision of item %lu: expected 0 or 1, found %d",
                              (unsigned long)i, decision[i]);
        }
        if (label[i]) {
            if (decision[i]) c.tp++;
            else c.fn++;
        } else {
            if (decision[i]) c.fp++;
            else c.tn++;
        }
    }
    *out = qnet_metrics_of(c);
    return QNET_OK;
}

/* "If the number of HC predicted images is more than HH, the patient is classified as a HC, and
   vice versa" (paper, "Scan-Level Classification"); a tie, which it leaves open, is HC. */
QNET_API int qnet_vote(const int *decision, size_t count)
{
    size_t hh = 0;
    for (size_t i = 0; i < count; i++) hh += decision[i] != 0;
    return hh > count - hh;
}

/* ---- Sorting ------------------------------------------------------------------------------- */

#define QNET__SORT_BITS 11 /* of a digit: 2,048 places to write to are at home in a level 2 cache */
#define QNET__SORT_PLACES ((size_t)1 << QNET__SORT_BITS)
#define QNET__SORT_PASSES 4
#define QNET__SORT_SMALL 512 /* below, counting digits costs more than merging */

/* What it takes to sort `count` keys. */
typedef struct qnet__sorting {
    uint32_t *order;           /* [count]: the result, indices of the keys in rising order */
    uint64_t *packed, *spare;  /* [count] each; NULL where count < QNET__SORT_SMALL */
    uint32_t *merged;          /* [count] */
    uint32_t *places;          /* [QNET__SORT_PASSES][QNET__SORT_PLACES] */
    unsigned char *kind;       /* [count]: see qnet__components_fast */
} qnet__sorting;

static void qnet__sorting_plan(qnet__arena *arena, size_t count, qnet__sorting *s)
{
    memset(s, 0, sizeof *s);
    s->order = (uint32_t *)qnet__take(arena, count, sizeof(uint32_t));
    s->merged = (uint32_t *)qnet__take(arena, count, sizeof(uint32_t));
    s->kind = (unsigned char *)qnet__take(arena, count, 1);
    if (count >= QNET__SORT_SMALL) {
        s->packed = (uint64_t *)qnet__take(arena, count, sizeof(uint64_t));
        s->spare = (uint64_t *)qnet__take(arena, count, sizeof(uint64_t));
        s->places = (uint32_t *)qnet__take(arena, QNET__SORT_PASSES * QNET__SORT_PLACES,
                                           sizeof(uint32_t));
    }
}

/* Puts order[count], in which equal keys stand as they came, in the order of rising key, by merging
   runs of length 1, 2, 4, ...: no recursion, O(count log count) for any input, and not much more
   than copying for what is nearly in order. */
static void qnet__rank_merge(const double *key, size_t count, uint32_t *order, uint32_t *merged)
{
    uint32_t *from = order, *to = merged, *swap;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t left = 0; left < count; left += 2 * width) {
            const size_t middle = qnet__min_size(left + width, count);
            const size_t right = qnet__min_size(left + 2 * width, count);
            size_t i = left, j = middle, k = left;
            if (middle < right && key[from[middle]] < key[from[middle - 1]]) {
                while (i < middle && j < right) {
                    to[k++] = key[from[j]] < key[from[i]] ? from[j++] : from[i++];
                }
            }
            while (i < middle) to[k++] = from[i++];
            while (j < right) to[k++] = from[j++];
        }
        swap = from;
        from = to;
        to = swap;
    }
    if (from != order) memcpy(order, from, count * sizeof *order);
}

/* A whole number that sorts as the double does: negative ones count downwards, and -0 is 0. */
static uint64_t qnet__double_key(double value)
{
    uint64_t bits;
    value += 0.0; /* -0 + 0 = 0 */
    memcpy(&bits, &value, sizeof bits);
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

/* How many bits x has: 0 for 0. */
static int qnet__bit_length(uint64_t x)
{
    int bits = 0;
    for (; x > 0; x >>= 1) bits++;
    return bits;
}

/* The plain twin: merging from the start. */
static void qnet__rank_ref(const double *key, size_t count, const qnet__sorting *s)
{
    for (size_t i = 0; i < count; i++) s->order[i] = (uint32_t)i;
    qnet__rank_merge(key, count, s->order, s->merged);
}

/* Radix sort, the lowest digit first. Sorted are 8 bytes: the leading bits of a key's whole number
   less the smallest one, and below them the index. 44 bits of the former are looked at, in which
   two different scores of a million are rarely equal; where the bits left out do matter, merging
   finishes what is then nearly in order. */
QNET__HELPER void qnet__rank_fast(const double *key, size_t count, const qnet__sorting *s)
{
    const int index_bits = qnet__bit_length((uint64_t)count - 1);
    uint64_t smallest = qnet__double_key(key[0]), largest = smallest, *from = s->packed;
    uint64_t *to = s->spare, *swap;
    const uint64_t mask = ((uint64_t)1 << index_bits) - 1;
    int used, drop, passes, in_order = 1;
    for (size_t i = 1; i < count; i++) {
        const uint64_t k = qnet__double_key(key[i]);
        smallest = k < smallest ? k : smallest;
        largest = k > largest ? k : largest;
    }
    used = qnet__min_int(qnet__bit_length(largest - smallest), 64 - index_bits);
    used = qnet__min_int(used, QNET__SORT_PASSES * QNET__SORT_BITS);
    drop = qnet__bit_length(largest - smallest) - used;
    passes = (used + QNET__SORT_BITS - 1) / QNET__SORT_BITS;
    memset(s->places, 0, QNET__SORT_PASSES * QNET__SORT_PLACES * sizeof(uint32_t));
    for (size_t i = 0; i < count; i++) {
        uint64_t k = drop < 64 ? (qnet__double_key(key[i]) - smallest) >> drop : 0;
        from[i] = k << index_bits | i;
        for (int pass = 0; pass < QNET__SORT_PASSES; pass++, k >>= QNET__SORT_BITS) {
            s->places[(size_t)pass * QNET__SORT_PLACES + (k & (QNET__SORT_PLACES - 1))]++;
        }
    }
    for (int pass = 0; pass < passes; pass++) {
        uint32_t *place = s->places + (size_t)pass * QNET__SORT_PLACES, begin = 0;
        const int shift = index_bits + pass * QNET__SORT_BITS;
        for (size_t d = 0; d < QNET__SORT_PLACES; d++) { /* from how many to where they begin */
            const uint32_t here = place[d];
            place[d] = begin;
            begin += here;
        }
        for (size_t i = 0; i < count; i++) {
            to[place[from[i] >> shift & (QNET__SORT_PLACES - 1)]++] = from[i];
        }
        swap = from;
        from = to;
        to = swap;
    }
    for (size_t i = 0; i < count; i++) s->order[i] = (uint32_t)(from[i] & mask);
    for (size_t i = 1; drop > 0 && in_order && i < count; i++) {
        in_order = from[i] >> index_bits != from[i - 1] >> index_bits ||
                   key[s->order[i]] >= key[s->order[i - 1]];
    }
    if (!in_order) qnet__rank_merge(key, count, s->order, s->merged);
}

/* s->order = the indices of key[count], none of it NaN, in the order of rising key; those of equal
   keys in the order they had. */
static void qnet__rank(const double *key, size_t count, const qnet__sorting *s)
{
#ifndef QNET_REFERENCE
    if (s->packed) {
        qnet__rank_fast(key, count, s);
        return;
    }
#endif
    qnet__rank_ref(key, count, s);
}

/* End of the run of equal keys that starts at `first`. */
static size_t qnet__tie_end(const double *key, const uint32_t *order, size_t count, size_t first)
{
    const double value = key[order[first]];
    size_t end = first + 1;
    while (end < count && key[order[end]] == value) end++;
    return end;
}

/* Memory of one evaluation: the arrays that the functions below need; those not asked for NULL. */
typedef struct qnet__evaluation {
    qnet__sorting sorting[2];     /* the second one: curves that are sorted at the same time */
    int sortings;
    double *component[2];         /* [count] per curve */
    double *sum[2][2];            /* [class][curve], [units] */
    double *difference[2];        /* [class], [units] */
    double *cluster;              /* [count]: as a sorting key */
    uint32_t *unit;               /* [count]: which cluster, from 0 without gaps, an item is of */
    unsigned char *has[2];        /* [class], [units]: the cluster has an item of the class */
    uint32_t *slot;               /* [count], of a bootstrap: see there */
    unsigned char *tied;          /* [count], of a bootstrap */
    void *block;
    size_t bytes;
} qnet__evaluation;

/* curves: 0..2 with components; clustered, resampled: with what clusters and a bootstrap need. */
static qnet_status qnet__evaluation_create(qnet_context *ctx, size_t count, int curves,
                                           int clustered, int resampled, qnet__evaluation *e)
{
    qnet__arena arena;
    memset(&arena, 0, sizeof arena);
    memset(e, 0, sizeof *e);
    if (!ctx) return QNET_ERROR_ARGUMENT;
    e->sortings = curves == 2 && qnet__workers(ctx) > 1 ? 2 : 1;
    for (int pass = 0; pass < 2; pass++) {
        for (int k = 0; k < e->sortings; k++) qnet__sorting_plan(&arena, count, &e->sorting[k]);
        for (int k = 0; k < curves; k++) {
            e->component[k] = (double *)qnet__take(&arena, count, sizeof(double));
        }
        if (clustered) {
            for (int y = 0; y < 2; y++) {
                for (int k = 0; k < curves; k++) {
                    e->sum[y][k] = (double *)qnet__take(&arena, count, sizeof(double));
                }
                if (curves == 2) {
                    e->difference[y] = (double *)qnet__take(&arena, count, sizeof(double));
                }
                e->has[y] = (unsigned char *)qnet__take(&arena, count, 1);
            }
            e->cluster = (double *)qnet__take(&arena, count, sizeof(double));
            e->unit = (uint32_t *)qnet__take(&arena, count, sizeof(uint32_t));
        }
        if (resampled) {
            e->slot = (uint32_t *)qnet__take(&arena, count, sizeof(uint32_t));
            e->tied = (unsigned char *)qnet__take(&arena, count, 1);
        }
        if (pass == 0) {
            e->bytes = arena.at;
            arena.at = 0;
            e->block = qnet__alloc(ctx, e->bytes);
            if (!e->block) return qnet__no_memory(ctx, e->bytes, "an evaluation's sorted scores");
            arena.base = (unsigned char *)e->block;
        }
    }
    return QNET_OK;
}

static void qnet__evaluation_destroy(qnet_context *ctx, qnet__evaluation *e)
{
    qnet__free(ctx, e->block, e->bytes);
}

/* unit[i] = number of the cluster of item i, counted from 0 in the order of the cluster's value
   (cluster NULL: i itself). Returns how many clusters there are; *largest, where it is asked for,
   is the number of items in the largest. */
static size_t qnet__units(const int *cluster, size_t count, qnet__evaluation *e, size_t *largest)
{
    const uint32_t *order = e->sorting[0].order;
    size_t units = 0, most = 1;
    for (size_t i = 0; i < count; i++) e->unit[i] = (uint32_t)i;
    if (cluster) {
        for (size_t i = 0; i < count; i++) e->cluster[i] = (double)cluster[i];
        qnet__rank(e->cluster, count, &e->sorting[0]);
        for (size_t first = 0, end; first < count; first = end, units++) {
            end = qnet__tie_end(e->cluster, order, count, first);
            for (size_t k = first; k < end; k++) e->unit[order[k]] = (uint32_t)units;
            most = end - first > most ? end - first : most;
        }
    }
    if (largest) *largest = most;
    return cluster ? units : count;
}

/* ---- ROC curve and AUC --------------------------------------------------------------------- */

QNET_API qnet_status qnet_roc(qnet_context *ctx, const int *label, const double *score,
                              size_t count, qnet_roc_point *points, size_t *points_count)
{
    qnet__evaluation e;
    const uint32_t *order;
    size_t m, n, tp = 0, fp = 0, made = 1, end = count;
    if (!points || !points_count) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_roc: points or points_count is NULL");
    }
    QNET__TRY(qnet__check_curve(ctx, "qnet_roc", label, score, count, &m));
    QNET__TRY(qnet__evaluation_create(ctx, count, 0, 0, 0, &e));
    n = count - m;
    qnet__rank(score, count, &e.sorting[0]);
    order = e.sorting[0].order;
    points[0].false_positive_rate = 0.0;
    points[0].true_positive_rate = 0.0;
    points[0].threshold = HUGE_VAL;
    while (end > 0) { /* from the highest score down, all items of one score at once */
        const double threshold = score[order[end - 1]];
        while (end > 0 && score[order[end - 1]] == threshold) {
            end--;
            if (label[order[end]]) tp++;
            else fp++;
        }
        points[made].false_positive_rate = (double)fp / (double)n;
        points[made].true_positive_rate = (double)tp / (double)m;
        points[made].threshold = threshold;
        made++;
    }
    *points_count = made;
    qnet__evaluation_destroy(ctx, &e);
    return QNET_OK;
}

/* Plain-loop twin of qnet__components: every HH item against every HC item, two points for a win
   and one for a tie. */
QNET__HELPER double qnet__components_ref(const int *label, const double *score, size_t count,
                                         size_t m, size_t n, double *component)
{
    uint64_t points = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t won = 0;
        for (size_t j = 0; j < count; j++) {
            const double hh = label[i] ? score[i] : score[j];
            const double hc = label[i] ? score[j] : score[i];
            if (label[j] != label[i]) won += hh > hc ? 2u : hh == hc ? 1u : 0u;
        }
        if (component) component[i] = (double)won / (2.0 * (double)(label[i] ? n : m));
        if (label[i]) points += won;
    }
    return (double)points / (double)(2u * (uint64_t)m * (uint64_t)n);
}

/* AUC of scores, order[count] being that of rising score, and, when component is not NULL, each
   item's structural component (DeLong et al. 1988):
     V10(i), HH: share of HC items that score lower than i, ties by half = (TZ_i - TX_i) / n
     V01(j), HC: share of HH items that score higher than j, ties by half = 1 - (TZ_j - TY_j) / m
   with midranks TZ among all, TX among HH, TY among HC (Sun & Xu 2014). In a group of ties with p
   HH and q HC items that stands above a HH and b HC items, TZ = a + b + (p+q+1)/2,
   TX = a + (p+1)/2 and TY = b + (q+1)/2, so TZ - TX = b + q/2 and TZ - TY = a + p/2: one sort, one
   pass. kind[count] is scratch. */
QNET__HELPER double qnet__components_fast(const int *label, const double *score,
                                          const uint32_t *order, size_t count, size_t m, size_t n,
                                          unsigned char *kind, double *component)
{
    const double below[2] = {2.0 * (double)m, 2.0 * (double)n}; /* [class]: denominators */
    uint64_t points = 0, a = 0, b = 0; /* points: twice the pairs won */
    double before = score[order[0]];
    /* What lies scattered is fetched in a loop without decisions, which can run far ahead: the
       label, and whether the score is that of the item before. */
    for (size_t k = 0; k < count; k++) {
        const double here = score[order[k]];
        kind[k] = (unsigned char)(label[order[k]] | (here == before) << 1);
        before = here;
    }
    for (size_t first = 0, end; first < count; first = end) {
        uint64_t p = kind[first] & 1u, q, won[2]; /* won: by an item of the class, twice */
        for (end = first + 1; end < count && kind[end] > 1; end++) p += kind[end] & 1u;
        q = (uint64_t)(end - first) - p;
        won[0] = 2 * ((uint64_t)m - a) - p;
        won[1] = 2 * b + q;
        for (size_t k = first; component && k < end; k++) {
            const int y = kind[k] & 1;
            component[order[k]] = (double)won[y] / below[y];
        }
        points += p * won[1];
        a += p;
        b += q;
    }
    return (double)points / (double)(2u * (uint64_t)m * (uint64_t)n);
}

static double qnet__components(const int *label, const double *score, size_t count, size_t m,
                               size_t n, const qnet__sorting *sorting, double *component)
{
#ifdef QNET_REFERENCE
    QNET__UNUSED(sorting);
    return qnet__components_ref(label, score, count, m, n, component);
#else
    qnet__rank(score, count, sorting);
    return qnet__components_fast(label, score, sorting->order, count, m, n, sorting->kind,
                                 component);
#endif
}

/* (pairs won + half the ties) / (m n), counted in whole numbers: no rounding before the
   quotient. */
QNET_API qnet_status qnet_auc(qnet_context *ctx, const int *label, const double *score,
                              size_t count, double *auc)
{
    qnet__evaluation e;
    size_t m;
    if (!auc) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_auc: auc is NULL");
    QNET__TRY(qnet__check_curve(ctx, "qnet_auc", label, score, count, &m));
    QNET__TRY(qnet__evaluation_create(ctx, count, 0, 0, 0, &e));
    *auc = qnet__components(label, score, count, m, count - m, &e.sorting[0], NULL);
    qnet__evaluation_destroy(ctx, &e);
    return QNET_OK;
}

/* ---- DeLong's test ------------------------------------------------------------------------- */

/* What stands before the three sums of qnet__covariance. */
typedef struct qnet__obuchowski { double hh, hc, cross; } qnet__obuchowski;

/* Covariance of two AUCs, or of two differences of AUCs, for clustered data (Obuchowski 1997):
     S10/m + S01/n + (S11 + S11')/(m n),
     S10 = I10 / ((I10 - 1) m) sum_c x_c x'_c,   x_c = sum of V10 - AUC over HH items of c
     S01 = I01 / ((I01 - 1) n) sum_c y_c y'_c,   y_c = sum of V01 - AUC over HC items of c
     S11 = I   / (I - 1)       sum_c x_c y'_c
   with I clusters, I10 of them with HH and I01 with HC items. With clusters of one item, I10 = m,
   I01 = n and every x_c y_c = 0: what is left is DeLong's cov(V10)/m + cov(V01)/n with m-1 and n-1.
   x, y, x2, y2 [units]; x2, y2 may be x, y: then it is a variance. */
static double qnet__covariance(const qnet__obuchowski *f, const double *x, const double *y,
                               const double *x2, const double *y2, size_t units)
{
    double s10 = 0.0, s01 = 0.0, s11 = 0.0;
    for (size_t c = 0; c < units; c++) {
        s10 += x[c] * x2[c];
        s01 += y[c] * y2[c];
        s11 += x[c] * y2[c] + x2[c] * y[c];
    }
    return f->hh * s10 + f->hc * s01 + f->cross * s11;
}

/* What the sums over clusters of a test come to. */
typedef struct qnet__delong_sums { double variance[2], covariance, of_difference; }
    qnet__delong_sums;

/* The same sums where every item is its own cluster, straight from the components. Each one adds
   what qnet__covariance adds, in the same order, but for zeros. */
QNET__HELPER void qnet__item_covariances(const qnet__obuchowski *f, const int *label, size_t count,
                                         int curves, const double *auc,
                                         const double *const component[2], qnet__delong_sums *out)
{
    const double *v0 = component[0], *v1 = component[curves - 1];
    double s[2][4]; /* [class]: x0 x0, x1 x1, x0 x1, d d */
    memset(s, 0, sizeof s);
    for (size_t i = 0; i < count; i++) {
        const double x0 = v0[i] - auc[0], x1 = v1[i] - auc[curves - 1];
        const double d = (v0[i] - v1[i]) - (auc[0] - auc[curves - 1]);
        const int y = label[i];
        /* Both are added to, as branches on labels cannot be foreseen. */
        s[0][0] += y ? 0.0 : x0 * x0;
        s[1][0] += y ? x0 * x0 : 0.0;
        s[0][1] += y ? 0.0 : x1 * x1;
        s[1][1] += y ? x1 * x1 : 0.0;
        s[0][2] += y ? 0.0 : x0 * x1;
        s[1][2] += y ? x0 * x1 : 0.0;
        s[0][3] += y ? 0.0 : d * d;
        s[1][3] += y ? d * d : 0.0;
    }
    out->variance[0] = f->hh * s[1][0] + f->hc * s[0][0];
    out->variance[1] = f->hh * s[1][1] + f->hc * s[0][1];
    out->covariance = f->hh * s[1][2] + f->hc * s[0][2];
    out->of_difference = f->hh * s[1][3] + f->hc * s[0][3];
}

/* AUC -+ 1.96 sqrt(variance), clipped to 0..1. */
static qnet_interval qnet__auc_interval(double auc, double variance)
{
    const double half = 1.95996398454005423552 * sqrt(variance > 0.0 ? variance : 0.0);
    qnet_interval r;
    r.low = auc - half > 0.0 ? auc - half : 0.0;
    r.high = auc + half < 1.0 ? auc + half : 1.0;
    return r;
}

/* The sums over clusters of components less their AUC, and of the two curves' differences: these
   are formed item by item, so that curves that differ nowhere have a difference of exactly 0. */
static void qnet__cluster_sums(const int *label, size_t count, size_t units, int curves,
                               const double *auc, qnet__evaluation *e)
{
    for (int k = 0; k < curves; k++) {
        for (int y = 0; y < 2; y++) {
            memset(e->sum[y][k], 0, units * sizeof(double));
            if (k == 1) memset(e->difference[y], 0, units * sizeof(double));
        }
        for (size_t i = 0; i < count; i++) {
            const double v = e->component[k][i] - auc[k];
            e->sum[label[i]][k][e->unit[i]] += v;
        }
    }
    for (size_t i = 0; curves == 2 && i < count; i++) {
        const double d = (e->component[0][i] - e->component[1][i]) - (auc[0] - auc[1]);
        e->difference[label[i]][e->unit[i]] += d;
    }
}

/* Marks which clusters hold items of each class and counts them in with[class]. */
static void qnet__cluster_classes(const int *label, size_t count, size_t units, qnet__evaluation *e,
                                  size_t with[2])
{
    for (int y = 0; y < 2; y++) {
        with[y] = 0;
        memset(e->has[y], 0, units);
    }
    for (size_t i = 0; i < count; i++) {
        unsigned char *has = &e->has[label[i]][e->unit[i]];
        if (!*has) with[label[i]]++;
        *has = 1;
    }
}

/* qnet__covariance of what has been summed: of the curves and of their difference. */
static void qnet__cluster_covariances(const qnet__obuchowski *f, size_t units, int curves,
                                      const qnet__evaluation *e, qnet__delong_sums *out)
{
    memset(out, 0, sizeof *out);
    for (int k = 0; k < curves; k++) {
        const double *x = e->sum[1][k], *y = e->sum[0][k];
        out->variance[k] = qnet__covariance(f, x, y, x, y, units);
    }
    if (curves == 2) {
        const double *x = e->difference[1], *y = e->difference[0];
        out->of_difference = qnet__covariance(f, x, y, x, y, units);
        out->covariance = qnet__covariance(f, e->sum[1][0], e->sum[0][0], e->sum[1][1],
                                           e->sum[0][1], units);
    }
}

/* Items that are their own clusters need no sums over clusters. */
static int qnet__is_clustered(const int *cluster)
{
#ifdef QNET_REFERENCE
    QNET__UNUSED(cluster);
    return 1;
#else
    return cluster != NULL;
#endif
}

/* The curves of a test, which are sorted at the same time where there are threads. */
typedef struct qnet__curves {
    const int *label;
    const double *const *score;
    const qnet__evaluation *e;
    size_t count, m;
    double auc[2];
} qnet__curves;

static void qnet__curve_task(void *arg, size_t index, size_t worker)
{
    qnet__curves *c = (qnet__curves *)arg;
    const qnet__sorting *sorting = &c->e->sorting[index % (size_t)c->e->sortings];
    QNET__UNUSED(worker);
    c->auc[index] = qnet__components(c->label, c->score[index], c->count, c->m, c->count - c->m,
                                     sorting, c->e->component[index]);
}

/* z = (AUC 1 - AUC 2) / se, se^2 = var 1 + var 2 - 2 cov, taken as the variance of the differences;
   p = 2 Phi(-|z|) (DeLong et al. 1988; paper, Table 2). */
static qnet_status qnet__delong_run(qnet_context *ctx, const int *label,
                                    const double *const score[2], const int *cluster, size_t count,
                                    size_t m, qnet__evaluation *e, qnet_delong *out)
{
    const int curves = score[1] ? 2 : 1, clustered = qnet__is_clustered(cluster);
    const size_t n = count - m;
    const size_t units = clustered ? qnet__units(cluster, count, e, NULL) : count;
    size_t with[2];
    qnet__curves c;
    qnet__obuchowski f;
    qnet__delong_sums sums;
    qnet_delong r;
    memset(&r, 0, sizeof r);
    with[0] = n;
    with[1] = m;
    if (clustered) qnet__cluster_classes(label, count, units, e, with);
    if (with[0] < 2 || with[1] < 2) {
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "qnet_delong_test: a variance needs two %s of each class, found %lu with "
                          "HH and %lu with HC",
                          cluster ? "clusters" : "items", (unsigned long)with[1],
                          (unsigned long)with[0]);
    }
    f.hh = (double)with[1] / ((double)(with[1] - 1) * (double)m * (double)m);
    f.hc = (double)with[0] / ((double)(with[0] - 1) * (double)n * (double)n);
    f.cross = (double)units / ((double)(units - 1) * (double)m * (double)n);
    c.label = label;
    c.score = score;
    c.e = e;
    c.count = count;
    c.m = m;
    c.auc[1] = 0.0;
    qnet__parallel(ctx, (size_t)curves, qnet__curve_task, &c);
    if (clustered) {
        qnet__cluster_sums(label, count, units, curves, c.auc, e);
        qnet__cluster_covariances(&f, units, curves, e, &sums);
    } else {
        const double *component[2];
        component[0] = e->component[0];
        component[1] = e->component[1];
        qnet__item_covariances(&f, label, count, curves, c.auc, component, &sums);
    }
    for (int k = 0; k < curves; k++) {
        r.auc[k] = c.auc[k];
        r.variance[k] = sums.variance[k];
        r.ci[k] = qnet__auc_interval(r.auc[k], r.variance[k]);
    }
    if (curves == 2) {
        const double d = r.auc[0] - r.auc[1];
        r.covariance = sums.covariance;
        r.se = sqrt(sums.of_difference > 0.0 ? sums.of_difference : 0.0);
        if (d == 0.0) r.z = 0.0;
        else r.z = r.se > 0.0 ? d / r.se : d > 0.0 ? HUGE_VAL : -HUGE_VAL;
        r.p = erfc(fabs(r.z) * 0.70710678118654752440); /* 2 Phi(-|z|), right far into the tail */
    }
    *out = r;
    return QNET_OK;
}

QNET_API qnet_status qnet_delong_test(qnet_context *ctx, const int *label, const double *score1,
                                      const double *score2, const int *cluster, size_t count,
                                      qnet_delong *out)
{
    const double *score[2];
    qnet__evaluation e;
    qnet_status status;
    size_t m;
    score[0] = score1;
    score[1] = score2;
    if (!out) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_delong_test: out is NULL");
    QNET__TRY(qnet__check_curve(ctx, "qnet_delong_test, score1", label, score1, count, &m));
    if (score2) {
        QNET__TRY(qnet__check_curve(ctx, "qnet_delong_test, score2", label, score2, count, &m));
    }
    QNET__TRY(qnet__evaluation_create(ctx, count, score2 ? 2 : 1, qnet__is_clustered(cluster),
                                      0, &e));
    status = qnet__delong_run(ctx, label, score, cluster, count, m, &e, out);
    qnet__evaluation_destroy(ctx, &e);
    return status;
}

QNET_API const char *qnet_stars(double p)
{
    if (p <= 0.0001) return "****";
    if (p <= 0.001) return "***";
    if (p <= 0.01) return "**";
    if (p <= 0.05) return "*";
    return "ns";
}

/* ---- Bootstrap ----------------------------------------------------------------------------- */

#define QNET__BOOTSTRAP_TRIES 1000 /* one class in all of them: probability at most 2^-1000 */

/* A resample's AUC needs only sums of weights. Between two changes of class in the order of rising
   score, it does not matter which item a draw fell on; so the items are laid into groups, each a
   run of HC and the run of HH above it, or the items of one score that both classes have; and a
   draw counts in slot 2 * group + class. */
typedef struct qnet__bootstrap {
    const int *label;
    const double *score;
    const uint32_t *order;     /* [count]: of rising score */
    const uint32_t *unit;      /* [count]: cluster of each item; NULL: each item is its own */
    const uint32_t *slot;      /* [count]: of each item */
    const unsigned char *tied; /* [groups]: 1 where the two classes have the same score */
    uint32_t *weight;          /* [workers][units], where they are clusters: how often drawn */
    uint32_t *sum;             /* [workers][2 * groups]: the slots */
    double *auc;               /* [resamples]; NaN: no sample with both classes was found */
    size_t count, units, groups;
    uint64_t seed;
    qnet_cpu cpu;
    int by_item; /* the twin is to be used: slots might overflow, or QNET_REFERENCE */
} qnet__bootstrap;

/* Plain twin: the AUC where item i counts weight[unit[i]] times, by the sum of qnet__components
   with weights. In double: whole numbers below 2^53 are exact, and nothing wraps. NaN when a class
   has no weight. */
static double qnet__weighted_auc_ref(const qnet__bootstrap *b, const uint32_t *weight)
{
    double points = 0.0, hh = 0.0, hc = 0.0;
    for (size_t first = 0, end; first < b->count; first = end) {
        double p = 0.0, q = 0.0;
        end = qnet__tie_end(b->score, b->order, b->count, first);
        for (size_t k = first; k < end; k++) {
            const uint32_t item = b->order[k];
            const double w = (double)weight[b->unit ? b->unit[item] : item];
            if (b->label[item]) p += w;
            else q += w;
        }
        points += p * (2.0 * hc + q);
        hh += p;
        hc += q;
    }
    return hh > 0.0 && hc > 0.0 ? points / (2.0 * hh * hc) : (double)NAN;
}

/* The same from the sums of the slots; hh + hc < 2^32, so that 2 hh hc fits. */
QNET__HELPER double qnet__weighted_auc_fast(const qnet__bootstrap *b, const uint32_t *sum)
{
    uint64_t points = 0, hh = 0, hc = 0;
    for (size_t g = 0; g < b->groups; g++) {
        const uint64_t q = sum[2 * g], p = sum[2 * g + 1];
        points += p * (2 * hc + (b->tied[g] ? q : 2 * q));
        hh += p;
        hc += q;
    }
    return hh > 0 && hc > 0 ? (double)points / (2.0 * (double)hh * (double)hc) : (double)NAN;
}

#define QNET__DRAW_BLOCKS 64 /* of four words, made at a time */

/* The next QNET__DRAW_BLOCKS blocks of a stream of which whole blocks have been used:
   words[4 * QNET__DRAW_BLOCKS], as qnet_rng_u32 would give them one by one. */
QNET__HELPER void qnet__draw_words_ref(qnet_rng *rng, uint32_t *words)
{
    for (int i = 0; i < QNET__DRAW_BLOCKS; i++, rng->counter[0]++) {
        qnet__philox(rng->counter, rng->key, words + 4 * i);
    }
}

#if QNET__X86
/* Four blocks at a time, each word in a lane of 64 bits, whose upper half the product ignores. */
QNET__AVX2 static void qnet__draw_words_avx2(qnet_rng *rng, uint32_t *words)
{
    const __m256i m0 = _mm256_set1_epi64x(0xd2511f53), m1 = _mm256_set1_epi64x(0xcd9e8d57);
    for (int i = 0; i < QNET__DRAW_BLOCKS; i += 4, rng->counter[0] += 4) {
        __m256i c0 = _mm256_add_epi64(_mm256_set1_epi64x((long long)rng->counter[0]),
                                      _mm256_set_epi64x(3, 2, 1, 0));
        __m256i c1 = _mm256_set1_epi64x((long long)rng->counter[1]);
        __m256i c2 = _mm256_set1_epi64x((long long)rng->counter[2]);
        __m256i c3 = _mm256_set1_epi64x((long long)rng->counter[3]);
        __m256i even, odd;
        uint32_t k0 = rng->key[0], k1 = rng->key[1];
        for (int round = 0; round < 10; round++) {
            const __m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);
            c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1),
                                  _mm256_set1_epi64x((long long)k0));
            c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3),
                                  _mm256_set1_epi64x((long long)k1));
            c1 = p1;
            c3 = p0;
            k0 += 0x9e3779b9u;
            k1 += 0xbb67ae85u;
        }
        /* Lane b of c0..c3 holds the words of block b: side by side, then block by block. */
        c0 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa);
        c2 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xaa);
        even = _mm256_unpacklo_epi64(c0, c2);
        odd = _mm256_unpackhi_epi64(c0, c2);
        _mm256_storeu_si256((__m256i *)(void *)(words + 4 * i),
                            _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256((__m256i *)(void *)(words + 4 * i + 8),
                            _mm256_permute2x128_si256(even, odd, 0x31));
    }
}
#endif

static void qnet__draw_words(qnet_cpu cpu, qnet_rng *rng, uint32_t *words)
{
#if QNET__X86 && !defined(QNET_REFERENCE)
    if (cpu >= QNET_CPU_AVX2) {
        qnet__draw_words_avx2(rng, words);
        return;
    }
#endif
    QNET__UNUSED(cpu);
    qnet__draw_words_ref(rng, words);
}

/* The words of a stream, made many at a time. */
typedef struct qnet__draws {
    qnet_rng rng;
    size_t used;
    uint32_t words[4 * QNET__DRAW_BLOCKS];
} qnet__draws;

/* As many units as there are, drawn with replacement as by qnet_rng_below. Counts unit u at
   counts[place[u]], or counts[u] where place is NULL. */
static void qnet__draw_units(const qnet__bootstrap *b, const uint32_t *place, qnet__draws *d,
                             uint32_t *counts)
{
    const uint64_t units = b->units;
    const uint32_t threshold = (uint32_t)((((uint64_t)1 << 32) - units) % units);
    size_t left = b->units;
    while (left > 0) {
        size_t end;
        if (d->used == 4 * QNET__DRAW_BLOCKS) {
            qnet__draw_words(b->cpu, &d->rng, d->words);
            d->used = 0;
        }
        end = d->used + qnet__min_size(left, 4 * QNET__DRAW_BLOCKS - d->used);
        for (; d->used < end; d->used++) {
            const uint64_t product = d->words[d->used] * units;
            const size_t u = (size_t)(product >> 32);
            if ((uint32_t)(product & 0xffffffffu) < threshold) continue;
            counts[place ? place[u] : u]++;
            left--;
        }
    }
}

/* One resample: as many units as there are, drawn with replacement; drawn again while one class is
   missing. */
static void qnet__bootstrap_task(void *arg, size_t index, size_t worker)
{
    const qnet__bootstrap *b = (const qnet__bootstrap *)arg;
    const int by_slot = !b->by_item, by_unit = b->unit || b->by_item;
    uint32_t *weight = by_unit ? b->weight + worker * b->units : NULL;
    uint32_t *sum = by_slot ? b->sum + worker * 2 * b->groups : NULL;
    qnet__draws draws;
    double auc = (double)NAN;
    draws.rng = qnet_rng_at(b->seed, QNET_RANDOM_BOOTSTRAP, 0, (uint64_t)index);
    draws.used = 4 * QNET__DRAW_BLOCKS;
    for (int attempt = 0; attempt < QNET__BOOTSTRAP_TRIES && auc != auc; attempt++) {
        if (by_unit) memset(weight, 0, b->units * sizeof *weight);
        if (by_slot) memset(sum, 0, 2 * b->groups * sizeof *sum);
        if (by_unit) {
            qnet__draw_units(b, NULL, &draws, weight);
            for (size_t i = 0; by_slot && i < b->count; i++) sum[b->slot[i]] += weight[b->unit[i]];
        } else {
            qnet__draw_units(b, b->slot, &draws, sum);
        }
        auc = by_slot ? qnet__weighted_auc_fast(b, sum) : qnet__weighted_auc_ref(b, weight);
    }
    b->auc[index] = auc;
}

/* slot[i] of each item and tied[] of each group; returns how many groups there are. */
static size_t qnet__bootstrap_groups(const int *label, const double *score, const uint32_t *order,
                                     size_t count, uint32_t *slot, unsigned char *tied)
{
    size_t groups = 0;
    int open = -1; /* the class that the last group ends with; -1: nothing may be added to it */
    for (size_t first = 0, end; first < count; first = end) {
        size_t hh = 0;
        int mixed, y;
        end = qnet__tie_end(score, order, count, first);
        for (size_t k = first; k < end; k++) hh += (size_t)label[order[k]];
        mixed = hh > 0 && hh < end - first;
        y = hh > 0;
        if (mixed || y < open || open < 0) tied[groups++] = (unsigned char)mixed;
        open = mixed ? -1 : y;
        for (size_t k = first; k < end; k++) {
            slot[order[k]] = (uint32_t)(2 * (groups - 1) + (size_t)label[order[k]]);
        }
    }
    return groups;
}

static qnet_status qnet__bootstrap_run(qnet_context *ctx, const int *label, const double *score,
                                       const int *cluster, size_t count, size_t resamples,
                                       uint64_t seed, qnet__evaluation *e, double *auc)
{
    const size_t workers = qnet__workers(ctx);
    size_t bytes = 0, failed = resamples, largest = 1;
    qnet__arena arena;
    qnet__bootstrap b;
    memset(&arena, 0, sizeof arena);
    memset(&b, 0, sizeof b);
    b.units = cluster ? qnet__units(cluster, count, e, &largest) : count;
    b.unit = cluster ? e->unit : NULL;
    b.by_item = count > 0x7fffffffu || b.units > 0xffffffffu / largest; /* slots are 32 bits */
#ifdef QNET_REFERENCE
    b.by_item = 1;
#endif
    qnet__rank(score, count, &e->sorting[0]);
    b.groups = qnet__bootstrap_groups(label, score, e->sorting[0].order, count, e->slot, e->tied);
    for (int pass = 0; pass < 2; pass++) {
        b.auc = (double *)qnet__take(&arena, resamples, sizeof(double));
        if (cluster || b.by_item) {
            b.weight = (uint32_t *)qnet__take(&arena, b.units, workers * sizeof(uint32_t));
        }
        if (!b.by_item) {
            b.sum = (uint32_t *)qnet__take(&arena, 2 * b.groups, workers * sizeof(uint32_t));
        }
        if (pass == 0) {
            bytes = arena.at;
            arena.at = 0;
            arena.base = (unsigned char *)qnet__alloc(ctx, bytes);
            if (!arena.base) return qnet__no_memory(ctx, bytes, "a bootstrap");
        }
    }
    b.label = label;
    b.score = score;
    b.order = e->sorting[0].order;
    b.slot = e->slot;
    b.tied = e->tied;
    b.count = count;
    b.seed = seed;
    b.cpu = qnet_context_cpu(ctx);
    qnet__parallel(ctx, resamples, qnet__bootstrap_task, &b);
    for (size_t r = resamples; r-- > 0;) {
        if (b.auc[r] != b.auc[r]) failed = r;
    }
    if (failed == resamples) memcpy(auc, b.auc, resamples * sizeof *auc);
    qnet__free(ctx, arena.base, bytes);
    if (failed < resamples) {
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "qnet_bootstrap_auc: resample %lu: one class in each of %d samples drawn",
                          (unsigned long)failed, QNET__BOOTSTRAP_TRIES);
    }
    return QNET_OK;
}

QNET_API qnet_status qnet_bootstrap_auc(qnet_context *ctx, const int *label, const double *score,
                                        const int *cluster, size_t count, int resamples,
                                        uint64_t seed, double *auc)
{
    qnet__evaluation e;
    qnet_status status;
    size_t m;
    if (!auc || resamples < 1) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_bootstrap_auc: expected room for auc and 1 resample at least, "
                          "found %s and %d",
                          auc ? "room" : "NULL", resamples);
    }
    QNET__TRY(qnet__check_curve(ctx, "qnet_bootstrap_auc", label, score, count, &m));
    QNET__TRY(qnet__evaluation_create(ctx, count, 0, cluster != NULL, 1, &e));
    status = qnet__bootstrap_run(ctx, label, score, cluster, count, (size_t)resamples, seed, &e,
                                 auc);
    qnet__evaluation_destroy(ctx, &e);
    return status;
}

/* The share-quantile of values, whose rising order is known, by linear interpolation: position
   share * (count - 1). */
static double qnet__order_quantile(const double *values, const uint32_t *order, size_t count,
                                   double share)
{
    const double at = share * (double)(count - 1);
    const size_t below = qnet__min_size((size_t)at, count - 1);
    const double low = values[order[below]];
    const double high = values[order[qnet__min_size(below + 1, count - 1)]];
    return low + (at - (double)below) * (high - low);
}

/* std has count - 1 below; 0 for one value. */
QNET_API qnet_status qnet_boxplot_of(qnet_context *ctx, const double *values, size_t count,
                                     qnet_boxplot *out)
{
    qnet__evaluation e;
    const uint32_t *order;
    qnet_boxplot r;
    double sum = 0.0, squares = 0.0;
    if (!ctx) return QNET_ERROR_ARGUMENT;
    if (!values || !out || count == 0) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_boxplot_of: expected values[count >= 1] and out, found count %lu",
                          (unsigned long)count);
    }
    for (size_t i = 0; i < count; i++) {
        if (!qnet__is_finite(values[i])) {
            return qnet__fail(ctx, QNET_ERROR_NUMERIC,
                              "qnet_boxplot_of: value %lu is NaN or infinite", (unsigned long)i);
        }
    }
    QNET__TRY(qnet__evaluation_create(ctx, count, 0, 0, 0, &e));
    qnet__rank(values, count, &e.sorting[0]);
    order = e.sorting[0].order;
    for (size_t i = 0; i < count; i++) sum += values[order[i]];
    r.mean = sum / (double)count;
    for (size_t i = 0; i < count; i++) {
        squares += (values[order[i]] - r.mean) * (values[order[i]] - r.mean);
    }
    r.std = count > 1 ? sqrt(squares / (double)(count - 1)) : 0.0;
    r.low = qnet__order_quantile(values, order, count, 0.025);
    r.q1 = qnet__order_quantile(values, order, count, 0.25);
    r.median = qnet__order_quantile(values, order, count, 0.5);
    r.q3 = qnet__order_quantile(values, order, count, 0.75);
    r.high = qnet__order_quantile(values, order, count, 0.975);
    *out = r;
    qnet__evaluation_destroy(ctx, &e);
    return QNET_OK;
}

/* ============================================================================================
   >>cam
   Class activation maps (Zhou et al. 2016; paper, Fig. 9 and 10). The class score is linear in the
   averaged features, score = sum_c w[c] mean_p f[p][c] + b = mean_p (sum_c w[c] f[p][c]) + b, so
   the inner sum, one number per pixel p of the last map, says how much each place adds to it.
   ============================================================================================ */

/* raw[p] = sum_c fc.weight[class][c] f[p][c] over the pixels p of image `index`;
   map[height][width] = (raw - its least) / (its greatest - its least), resized. The bias, the same
   everywhere, drops out. The sums are taken in double and allocated for this call: no training
   step comes here. */
QNET_API qnet_status qnet_cam(const qnet_resnet *net, int index, int class_index, float *map,
                              float *raw)
{
    qnet_context *ctx;
    qnet_tensor features;
    const qnet_real *f, *w;
    float *sums, low = FLT_MAX, high = -FLT_MAX;
    size_t pixels, bytes, p, c;
    int fc;

    if (net == NULL || map == NULL) {
        return qnet__fail(net ? net->ctx : NULL, QNET_ERROR_ARGUMENT, "cam: net or map is NULL");
    }
    ctx = net->ctx;
    features = qnet_resnet_feature_map(net);
    if (features.data == NULL) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "cam: expected a forward pass before");
    }
    if (index < 0 || (size_t)index >= features.shape[0]) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "cam: image must be 0..%d, as in the last forward pass, found %d",
                          (int)features.shape[0] - 1, index);
    }
    if (class_index < 0 || class_index >= net->config.classes) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "cam: class must be 0..%d, found %d",
                          net->config.classes - 1, class_index);
    }
    fc = qnet_param_find(net->table, "fc.weight");
    w = net->weights + net->table->entries[fc].offset + (size_t)class_index * QNET_FEATURES;
    pixels = features.shape[1] * features.shape[2];
    f = features.data + (size_t)index * pixels * QNET_FEATURES;
    bytes = pixels * sizeof(float);
    sums = (float *)qnet__alloc(ctx, bytes);
    if (sums == NULL) {
        return qnet__no_memory(ctx, bytes, "a class activation map");
    }
    for (p = 0; p < pixels; p++) {
        double sum = 0;
        for (c = 0; c < QNET_FEATURES; c++) {
            sum += (double)w[c] * (double)f[p * QNET_FEATURES + c];
        }
        sums[p] = (float)sum;
        if (!qnet__is_finite((double)sums[p])) {
            qnet__free(ctx, sums, bytes);
            return qnet__fail(ctx, QNET_ERROR_NUMERIC,
                              "cam: the features or fc.weight of class %d hold NaN or infinity",
                              class_index);
        }
    }
    if (raw != NULL) {
        memcpy(raw, sums, bytes);
    }
    for (p = 0; p < pixels; p++) {
        low = sums[p] < low ? sums[p] : low;
        high = sums[p] > high ? sums[p] : high;
    }
    for (p = 0; p < pixels; p++) { /* no place stands out in a flat map: 0 everywhere */
        sums[p] = high > low ? (sums[p] - low) / (high - low) : 0.0f;
    }
    qnet_image_resize(sums, (int)features.shape[1], (int)features.shape[2], 1, map,
                      net->config.height, net->config.width);
    qnet__free(ctx, sums, bytes);
    return QNET_OK;
}

/* v clipped to 0..1, as 0..255; NaN gives 0. */
static uint8_t qnet__cam_byte(double v)
{
    return (uint8_t)(v > 0 ? (v < 1 ? v * 255 + 0.5 : 255) : 0);
}

/* MATLAB's and OpenCV's JET: blue 0, cyan, green .5, yellow, red 1; each colour is a trapezium of
   slope 4 around 1/4 (blue), 1/2 (green) and 3/4 (red). */
QNET_API void qnet_jet(double value, uint8_t rgb[3])
{
    int i;

    value = value > 0 ? (value < 1 ? value : 1) : 0;
    for (i = 0; i < 3; i++) {
        rgb[i] = qnet__cam_byte(1.5 - fabs(4 * value - (3 - i)));
    }
}

/* rgb = 0.3 JET(map) + 0.5 grey, the weights of Zhou et al.'s published program. */
QNET_API void qnet_cam_overlay(const float *map, const float *grey, int height, int width,
                               uint8_t *rgb)
{
    size_t p, i, size = height > 0 && width > 0 ? (size_t)height * (size_t)width : 0;

    for (p = 0; p < size; p++) {
        double g = (double)grey[p];
        uint8_t heat[3];
        g = g > 0 ? (g < 1 ? g : 1) : 0;
        qnet_jet((double)map[p], heat);
        for (i = 0; i < 3; i++) {
            rgb[3 * p + i] = qnet__cam_byte(0.3 * heat[i] / 255.0 + 0.5 * g);
        }
    }
}

/* ============================================================================================
   >>report
   An experiment as text: the paper's tables for a terminal, results.json, predictions.csv,
   manifest.json, and report.html, one self-contained page with the paper's figures. Nothing here
   computes a result; every function reads struct qnet_experiment and appends to a buffer.
   ============================================================================================ */

QNET_API const char *qnet_model_name(qnet_model_kind model)
{
    static const char *const names[QNET_MODELS] = { "ResNet", "ResNetSWA", "Q-Net" };
    return (unsigned)model < (unsigned)QNET_MODELS ? names[model] : "unknown";
}

QNET_API const char *qnet_level_name(qnet_level level)
{
    return level == QNET_LEVEL_IMAGE ? "image" : level == QNET_LEVEL_SCAN ? "scan" : "unknown";
}

/* ---- Numbers as text ------------------------------------------------------------------------- */

#define QNET__NUMBER 32 /* room for a number as text */
#define QNET__TEXT 112  /* room for two numbers and words between them */

/* In text[QNET__NUMBER], made by printf under any locale, whatever is neither digit, sign nor
   exponent becomes one point: a decimal comma, or a decimal sign of several bytes. */
static void qnet__point(char *text)
{
    char *to = text;
    for (const char *c = text; *c; c++) {
        if ((*c >= '0' && *c <= '9') || *c == '-' || *c == '+' || *c == 'e') *to++ = *c;
        else if (to > text && to[-1] != '.') *to++ = '.';
    }
    *to = '\0';
}

/* value with a fixed number of decimals, such as "0.875". */
static const char *qnet__fixed(char text[QNET__NUMBER], double value, int decimals)
{
    if (!qnet__is_finite(value)) return value != value ? "-" : value > 0 ? "inf" : "-inf";
    if (fabs(value) >= 1e15) snprintf(text, QNET__NUMBER, "%.3e", value); /* long for the room */
    else snprintf(text, QNET__NUMBER, "%.*f", decimals, value);
    qnet__point(text);
    return text;
}

/* A p-value as Table 2 prints it: four decimals, or "6.2e-33" below .0001. */
static const char *qnet__p_text(char text[QNET__NUMBER], double p)
{
    if (!(p < 0.0001) || p <= 0.0) return qnet__fixed(text, p, p <= 0.0 ? 0 : 4);
    snprintf(text, QNET__NUMBER, "%.1e", p);
    qnet__point(text);
    return text;
}

/* ---- The writer ------------------------------------------------------------------------------ */

/* Appends to a buffer until the first failure, which status keeps: callers ask once, at the end. */
typedef struct qnet__writer {
    qnet_context *ctx;
    qnet_buffer *out;
    qnet_status status;
    size_t start;        /* size of *out before the first byte: what a failure goes back to */
    const char *missing; /* what stands for NaN */
    int html;            /* HTML; otherwise JSON or plain text */
    int depth, comma;    /* of JSON: nesting, and whether a member came before */
} qnet__writer;

static qnet_status qnet__writer_begin(qnet__writer *w, const qnet_experiment *e, qnet_buffer *out,
                                      const char *what, const char *missing)
{
    memset(w, 0, sizeof *w);
    if (!e) return QNET_ERROR_ARGUMENT;
    if (!out) return qnet__fail(e->ctx, QNET_ERROR_ARGUMENT, "%s: the buffer is NULL", what);
    w->ctx = e->ctx;
    w->out = out;
    w->start = out->size;
    w->missing = missing;
    return QNET_OK;
}

/* The outcome; a failure leaves the buffer as it was found. */
static qnet_status qnet__writer_end(qnet__writer *w)
{
    if (w->status != QNET_OK) {
        w->out->size = w->start;
        if (w->out->bytes) w->out->bytes[w->start] = 0;
    }
    return w->status;
}

static void qnet__put_bytes(qnet__writer *w, const void *bytes, size_t size)
{
    if (w->status == QNET_OK) w->status = qnet_buffer_append(w->ctx, w->out, bytes, size);
}

static void qnet__put(qnet__writer *w, const char *text)
{
    qnet__put_bytes(w, text, strlen(text));
}

/* Text from outside (names, paths) into JSON or HTML: what is not UTF-8 becomes U+FFFD, control
   characters spaces (HTML) or escapes (JSON), and the format's own signs are escaped. */
static void qnet__put_escaped(qnet__writer *w, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t left = strlen(text), n;
    for (; left > 0; p += n, left -= n) {
        const int control = *p < 0x20 || *p == 0x7f;
        char code[16];
        n = qnet__utf8_size(p, left);
        if (n == 0) {
            qnet__put(w, "\xef\xbf\xbd");
            n = 1;
        } else if (control && w->html) {
            qnet__put(w, " ");
        } else if (control || (w->html && strchr("&<>\"'", *p))) {
            snprintf(code, sizeof code, w->html ? "&#%u;" : "\\u%04x", (unsigned)*p);
            qnet__put(w, code);
        } else {
            if (!w->html && (*p == '"' || *p == '\\')) qnet__put(w, "\\");
            qnet__put_bytes(w, p, n);
        }
    }
}

/* The width or precision at *f: digits, or a star for the next argument. */
static int qnet__format_int(const char **f, va_list *args)
{
    char *end;
    long value;
    if (**f == '*') {
        ++*f;
        return va_arg(*args, int);
    }
    value = strtol(*f, &end, 10);
    *f = end;
    return (int)value;
}

/* What the printing functions below share: a small printf, format up to `end`, whose numbers are
   the same in every locale. It knows %d, %zu, %llu, %016llx, %s and
     %.3f  decimals, NaN as w->missing;
     %g    digits that read back as the same double; null for what JSON has not.
   Widths count in plain text and JSON only. quote: NULL: a %s is put as it is; otherwise it comes
   from outside: it is escaped and put between two of these. */
static void qnet__vprint(qnet__writer *w, const char *f, const char *end, const char *quote,
                         va_list *args)
{
    while (f < end) {
        char number[QNET__NUMBER];
        const char *text = number;
        const size_t plain = strcspn(f, "%");
        int width, decimals = 0, is_size;
        double value;
        if (plain > 0) {
            const size_t left = (size_t)(end - f);
            qnet__put_bytes(w, f, qnet__min_size(plain, left));
            f += qnet__min_size(plain, left);
            continue;
        }
        f++;
        width = qnet__format_int(&f, args);
        if (*f == '.') {
            f++;
            decimals = qnet__format_int(&f, args);
        }
        is_size = *f == 'z';
        f += strspn(f, "lz");
        switch (*f++) {
        case 'd': snprintf(number, sizeof number, "%d", va_arg(*args, int)); break;
        case 'u':
            snprintf(number, sizeof number, "%llu",
                     is_size ? va_arg(*args, size_t) : va_arg(*args, unsigned long long));
            break;
        case 'x':
            snprintf(number, sizeof number, "%016llx", va_arg(*args, unsigned long long));
            break;
        case 'f':
            value = va_arg(*args, double);
            text = value != value ? w->missing : qnet__fixed(number, value, decimals);
            break;
        case 'g':
            value = va_arg(*args, double);
            if (qnet__is_finite(value)) qnet__format_number(number, sizeof number, value);
            else text = w->missing;
            break;
        case 's': text = va_arg(*args, const char *); break;
        default: text = "%"; break;
        }
        if (quote && f[-1] == 's') {
            qnet__put(w, quote);
            qnet__put_escaped(w, text);
            qnet__put(w, quote);
        } else if (w->status == QNET_OK) {
            w->status = qnet_buffer_printf(w->ctx, w->out, "%*s", w->html ? 0 : width, text);
        }
    }
}

static QNET__PRINTF(2, 3) void qnet__print(qnet__writer *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    qnet__vprint(w, format, format + strlen(format), NULL, &args);
    va_end(args);
}

/* Cells of a table row, "%s|>%.3f|>%d": in HTML <tag> elements, those after a > to the right;
   in plain text the widths make the columns. */
static QNET__PRINTF(3, 4) void qnet__cells(qnet__writer *w, const char *tag,
                                           const char *format, ...)
{
    const char *end;
    va_list args;
    va_start(args, format);
    for (;; format = end + 1) {
        const int right = *format == '>';
        end = format + strcspn(format, "|");
        if (w->html) qnet__print(w, "<%s%s>", tag, right ? " class=\"n\"" : "");
        qnet__vprint(w, format + right, end, NULL, &args);
        if (w->html) qnet__print(w, "</%s>", tag);
        if (!*end) break;
    }
    va_end(args);
}

/* ---- What several of the texts say ----------------------------------------------------------- */

static const char *qnet__input_title(int input)
{
    return input == QNET_INPUT_FULL ? "Full size image" : "Cropped image";
}

static int qnet__has_input(const qnet_experiment *e, int input)
{
    return e->config.use_input[input] && e->level[input][QNET_LEVEL_IMAGE].count > 0 &&
           e->level[input][QNET_LEVEL_SCAN].count > 0;
}

/* Full size first, as in the paper's tables. */
static const int qnet__table_input[2] = { QNET_INPUT_FULL, QNET_INPUT_CROP };

/* The inputs that have results, in the order of the paper's tables; returns how many. */
static int qnet__inputs(const qnet_experiment *e, int input[2])
{
    int count = 0;
    for (int i = 0; i < 2; i++) {
        if (qnet__has_input(e, qnet__table_input[i])) input[count++] = qnet__table_input[i];
    }
    return count;
}

/* The input that the verdict is about: the cropped one where it was run, as in the abstract. */
static int qnet__main_input(const qnet_experiment *e)
{
    return qnet__has_input(e, QNET_INPUT_CROP) ? QNET_INPUT_CROP : QNET_INPUT_FULL;
}

/* Counts of one class (or, index 2, of both), over subjects but for scans and slices. */
typedef struct qnet__group {
    int subjects, men, women, ages, scans, slices;
    double age_mean, age_std, age_low, age_high; /* NaN where no age is known */
} qnet__group;

/* 1 when no earlier scan is of the same subject. */
static int qnet__is_first_scan(const qnet_experiment *e, int i)
{
    for (int k = 0; k < i; k++) {
        if (strcmp(e->participants[k].subject, e->participants[i].subject) == 0) return 0;
    }
    return 1;
}

static void qnet__group_add(qnet__group *g, const qnet_participant *p, int first)
{
    g->scans++;
    g->slices += p->slices;
    if (!first) return;
    g->subjects++;
    g->men += p->sex == QNET_MALE;
    g->women += p->sex == QNET_FEMALE;
    if (!qnet__is_finite(p->age)) return;
    if (g->ages == 0 || p->age < g->age_low) g->age_low = p->age;
    if (g->ages == 0 || p->age > g->age_high) g->age_high = p->age;
    g->ages++; /* Welford's running mean; age_std holds the sum of squares until the end */
    g->age_std += (p->age - g->age_mean) * (p->age - g->age_mean) * (g->ages - 1) / g->ages;
    g->age_mean += (p->age - g->age_mean) / g->ages;
}

/* group[0]: HC, [1]: HH, [2]: both; of all participants (fold -1), or of one fold's test set. */
static void qnet__groups(const qnet_experiment *e, int fold, qnet__group group[3])
{
    memset(group, 0, 3 * sizeof *group);
    for (int i = 0; i < e->participants_count; i++) {
        const qnet_participant *p = &e->participants[i];
        const int first = qnet__is_first_scan(e, i);
        if (fold >= 0 && e->fold[i] != fold) continue;
        qnet__group_add(&group[p->label == QNET_HH], p, first);
        qnet__group_add(&group[2], p, first);
    }
    for (int k = 0; k < 3; k++) {
        qnet__group *g = &group[k];
        if (g->ages == 0) g->age_mean = g->age_low = g->age_high = (double)NAN;
        g->age_std = g->ages > 1 ? sqrt(g->age_std / (g->ages - 1)) : (double)NAN;
    }
}

/* DeLong's interval of an AUC of 0 or 1 has no width: where two groups do not overlap, the method
   has nothing to say, which is not the same as being sure. */
static int qnet__is_interval(qnet_interval r)
{
    return r.low < r.high;
}

/* "0.802-0.948", or in a sentence "95 % interval 0.802 to 0.948"; each end times `scale`. */
static const char *qnet__interval_text(const qnet__writer *w, char text[QNET__TEXT],
                                       qnet_interval r, double scale, int decimals, int sentence)
{
    char low[QNET__NUMBER], high[QNET__NUMBER];
    if (!qnet__is_interval(r)) {
        return sentence ? "no interval: the groups do not overlap" : w->missing;
    }
    snprintf(text, QNET__TEXT, "%s%s%s%s", sentence ? "95 % interval " : "",
             qnet__fixed(low, r.low * scale, decimals),
             sentence ? " to " : w->html ? "&thinsp;&ndash;&thinsp;" : "-",
             qnet__fixed(high, r.high * scale, decimals));
    return text;
}

/* The verdict in plain sentences, about the scan-level Q-Net. */
static void qnet__put_verdict(qnet__writer *w, const qnet_experiment *e)
{
    const int input = qnet__main_input(e);
    const qnet_level_result *level = &e->level[input][QNET_LEVEL_SCAN];
    const qnet_model_result *q = &level->model[QNET_MODEL_QNET];
    const qnet_interval auc = q->auc_ci_clustered;
    const qnet_confusion c = q->first.count;
    const qnet_delong *d = &level->pair[2].by_subject;
    char p[QNET__NUMBER], text[2][QNET__TEXT];
    if (!qnet__has_input(e, input)) {
        qnet__put(w, "There is no result: neither input was run.");
        return;
    }
    if (e->config.shuffle_labels) {
        qnet__put(w, "Control run with shuffled labels: there is nothing to learn here, and an AUC "
                     "far from 0.5 would mean a leak. ");
    }
    qnet__print(w, "Of %zu scans that it had never seen in training, %s, %s classified %zu "
                   "correctly: accuracy %.1f %% (%s %%). It recognised %zu of %zu scans of "
                   "hemochromatosis (sensitivity %.1f %%) and %zu of %zu of healthy controls "
                   "(specificity %.1f %%); its AUC is %.3f (%s). ",
                level->count,
                input == QNET_INPUT_CROP ? "cropped to the basal ganglia" : "in full size",
                w->html ? "<i>Q-Net</i>" : "Q-Net", c.tp + c.tn, 100 * q->first.accuracy,
                qnet__interval_text(w, text[0], q->first.accuracy_ci, 100, 1, 1), c.tp, c.tp + c.fn,
                100 * q->first.sensitivity, c.tn, c.tn + c.fp, 100 * q->first.specificity,
                q->auc_first, qnet__interval_text(w, text[1], auc, 1, 3, 1));
    if (e->config.shuffle_labels) {
        qnet__put(w, !qnet__is_interval(auc) ? "Look for a leak."
                     : auc.low <= 0.5 && auc.high >= 0.5
                         ? "That interval holds 0.5, as it should."
                         : "That interval does not hold 0.5: one such run in twenty falls outside "
                           "by chance; if it happens again, look for a leak.");
        return;
    }
    if (!(auc.low > 0.5)) {
        qnet__put(w, "That interval holds 0.5 or lies below it: this cohort does not show that the "
                     "model is better than a coin. ");
    }
    qnet__print(w, "Its AUC %s that of ResNetSWA with voting (%s%s).",
                !(d->p <= 0.05) ? "does not differ significantly from"
                : d->z > 0      ? "is significantly higher than"
                                : "is significantly lower than",
                w->html ? "p&nbsp;=&nbsp;" : "p = ", qnet__p_text(p, d->p));
}

/* What the number behind +- is. */
static void qnet__put_spread(qnet__writer *w, const qnet_experiment *e)
{
    const char *sign = w->html ? "&plusmn;" : "+-";
    if (e->config.repeats > 1) {
        qnet__print(w, "%s is the standard deviation over %d repeats of the %d-fold "
                       "cross-validation, each with its own folds and seeds, as in the paper.",
                    sign, e->config.repeats, e->config.folds);
    } else {
        qnet__print(w, "The value is that of all test items together; %s is the standard deviation "
                       "over the %d folds of one cross-validation. It is larger than the paper's, "
                       "which is over repeats, and is no standard error.",
                    sign, e->config.folds);
    }
}

/* Where a reader should be careful: the items of a list. */
static void qnet__put_warnings(qnet__writer *w, const qnet_experiment *e,
                               const qnet__group group[3])
{
    const char *item = w->html ? "<li>" : "- ", *end = w->html ? "</li>\n" : "\n";
    const int epochs1 = e->config.stage1.epochs, epochs2 = e->config.stage2.epochs;
    const int least = qnet__min_int(group[0].subjects, group[1].subjects);
    if (e->config.shuffle_labels) {
        qnet__print(w, "%sControl run: the labels were shuffled over the subjects before anything "
                       "else. HH and HC below are the shuffled labels.%s", item, end);
    }
    if (group[2].subjects < 50 || least < 20) {
        qnet__print(w, "%sSmall cohort: %d subjects, %d in the smaller group. One scan more or "
                       "less moves the scan-level accuracy by %.1f points; read the intervals "
                       "before the values.%s",
                    item, group[2].subjects, least, 100.0 / qnet__max_int(1, group[2].scans), end);
    }
    if (!e->weights[0]) {
        qnet__print(w, "%sRandom initial weights. The paper starts from ImageNet weights, which it "
                       "reports to help considerably.%s", item, end);
    }
    if (epochs1 < 100 || epochs2 < 50) {
        qnet__print(w, "%sShort training: %d epochs of stage 1 and %d of stage 2; the paper has "
                       "100 and 50.%s", item, epochs1, epochs2, end);
    }
    qnet__print(w, "%sSlices of one scan are not independent. Intervals and p-values by image, "
                   "which the paper prints, are therefore too sure; those by subject are the ones "
                   "to rely on.%s%sp-values are not corrected for the number of comparisons.%s",
                item, end, item, end);
    if (e->config.repeats > 1) {
        qnet__print(w, "%sROC curves, intervals, p-values and bootstraps are those of the first "
                       "repeat.%s", item, end);
    }
}

/* ---- Tables, as text or HTML ----------------------------------------------------------------- */

/* Begins row k of the rows of an input, which is named in the first of them only. */
static void qnet__row_begin(qnet__writer *w, int input, int k)
{
    const char *name = input == QNET_INPUT_FULL ? "Full size" : "Cropped";
    if (w->html) qnet__print(w, "<tr%s>", k == 0 ? " class=\"first\"" : "");
    qnet__cells(w, "td", "%-10s", k > 0 ? "" : w->html ? qnet__input_title(input) : name);
}

static void qnet__row_end(qnet__writer *w)
{
    qnet__put(w, w->html ? "</tr>\n" : "\n");
}

/* "68.19 +- 0.24" in percent, or (scale 1) "0.866 +- 0.012"; without std when spread is 0. */
static const char *qnet__mean_text(const qnet__writer *w, char text[QNET__TEXT], qnet_mean_std v,
                                   double scale, int spread)
{
    char mean[QNET__NUMBER], std[QNET__NUMBER];
    const int decimals = scale > 1 ? 2 : 3;
    if (v.mean != v.mean) return w->missing;
    if (!spread) return qnet__fixed(text, v.mean * scale, decimals);
    snprintf(text, QNET__TEXT, "%s%s%s", qnet__fixed(mean, v.mean * scale, decimals),
             w->html ? "&thinsp;&plusmn;&thinsp;" : " +- ",
             v.std != v.std ? w->missing : qnet__fixed(std, v.std * scale, decimals));
    return text;
}

/* The rates of Tables 1 and 3 in the order of their columns, which is not the same in both. */
static const char *const qnet__rate_names[QNET_LEVELS][4] = {
    { "Accuracy", "Sensitivity", "Specificity", "F1-score" },
    { "Accuracy", "F1-score", "Sensitivity", "Specificity" }
};

static void qnet__rates(const qnet_model_result *r, int level, qnet_mean_std rate[4])
{
    const int image = level == QNET_LEVEL_IMAGE;
    rate[0] = r->accuracy;
    rate[image ? 1 : 2] = r->sensitivity;
    rate[image ? 2 : 3] = r->specificity;
    rate[image ? 3 : 1] = r->f1;
}

/* Tables 1 and 3 as text, one input below the other, where the paper has them side by side. */
static void qnet__text_rates(qnet__writer *w, const qnet_experiment *e, int level)
{
    const int spread = level == QNET_LEVEL_IMAGE || e->config.repeats > 1;
    const char *const *names = qnet__rate_names[level];
    int input[2];
    const int inputs = qnet__inputs(e, input);
    char text[QNET__TEXT];
    qnet__print(w, "%-10s%-10s%-16s%-16s%-16s%-16s%s\n", "Input", "Model", names[0], names[1],
                names[2], names[3], "AUC");
    for (int i = 0; i < inputs * QNET_MODELS; i++) {
        const int in = input[i / QNET_MODELS], m = i % QNET_MODELS;
        const qnet_model_result *r = &e->level[in][level].model[m];
        qnet_mean_std rate[4];
        qnet__rates(r, level, rate);
        qnet__row_begin(w, in, m);
        qnet__print(w, "%-10s", qnet_model_name((qnet_model_kind)m));
        for (int k = 0; k < 4; k++) {
            qnet__print(w, "%-16s", qnet__mean_text(w, text, rate[k], 100, spread));
        }
        qnet__put(w, qnet__mean_text(w, text, r->auc, 1, spread));
        qnet__row_end(w);
    }
}

/* Tables 1 and 3 as in the paper: the inputs side by side. */
static void qnet__html_rates(qnet__writer *w, const qnet_experiment *e, int level)
{
    const int image = level == QNET_LEVEL_IMAGE, spread = image || e->config.repeats > 1;
    int input[2];
    const int inputs = qnet__inputs(e, input);
    char text[QNET__TEXT];
    qnet__print(w, "<p class=\"cap\"><b>Table %d.</b> %s-level classifiers, %d-fold "
                   "cross-validation over individuals, in percent%s.</p><div class=\"scroll\">"
                   "<table class=\"wide pin\"><thead><tr><th>Input</th>",
                image ? 1 : 3, image ? "Image" : "Scan", e->config.folds,
                spread ? ", mean &plusmn; standard deviation" : "");
    for (int i = 0; i < inputs; i++) {
        qnet__print(w, "<th colspan=\"4\">%s</th>", qnet__input_title(input[i]));
    }
    qnet__put(w, "</tr><tr><th>Model</th>");
    for (int k = 0; k < 4 * inputs; k++) {
        qnet__cells(w, "th", ">%s", qnet__rate_names[level][k % 4]);
    }
    qnet__put(w, "</tr></thead><tbody>\n");
    for (int m = 0; m < QNET_MODELS; m++) {
        qnet__print(w, "<tr%s><th>%s</th>", m == QNET_MODEL_QNET ? " class=\"best\"" : "",
                    qnet_model_name((qnet_model_kind)m));
        for (int k = 0; k < 4 * inputs; k++) {
            qnet_mean_std rate[4];
            qnet__rates(&e->level[input[k / 4]][level].model[m], level, rate);
            qnet__cells(w, "td", ">%s", qnet__mean_text(w, text, rate[k % 4], 100, spread));
        }
        qnet__row_end(w);
    }
    qnet__put(w, "</tbody></table></div>\n");
}

/* Table 2 for a level (in HTML its rows only): with the test by item (0), by subject (1), or both
   (first 0, last 1: HTML). */
static void qnet__put_pairs(qnet__writer *w, const qnet_experiment *e, int level, int first,
                            int last)
{
    int input[2];
    const int inputs = qnet__inputs(e, input);
    char p[QNET__NUMBER];
    if (!w->html) {
        qnet__print(w, "%-10s%-12s%-12s%-8s%-8s%-11s%-9s%-10s%s\n", "Input", "Variable 1",
                    "Variable 2", "AUC 1", "AUC 2", "Std Error", "z-score", "p-value", "Level");
    }
    for (int i = 0; i < inputs * 3; i++) {
        const qnet_pair_result *pair = &e->level[input[i / 3]][level].pair[i % 3];
        const qnet_delong *d = first ? &pair->by_subject : &pair->by_item;
        qnet__row_begin(w, input[i / 3], i % 3);
        qnet__cells(w, "td", "%-12s|%-12s|>%-8.3f|>%-8.3f", qnet_model_name(pair->model1),
                    qnet_model_name(pair->model2), d->auc[0], d->auc[1]);
        for (int by_subject = first; by_subject <= last; by_subject++) {
            d = by_subject ? &pair->by_subject : &pair->by_item;
            qnet__cells(w, "td", ">%-11.4f|>%-9.3f|>%-10s|%s", d->se, d->z, qnet__p_text(p, d->p),
                        qnet_stars(d->p));
        }
        qnet__row_end(w);
    }
}

/* Table 2: as in the paper, with the test by subject beside it. */
static void qnet__html_pairs(qnet__writer *w, const qnet_experiment *e, int level)
{
    const int image = level == QNET_LEVEL_IMAGE;
    qnet__print(w, "<p class=\"cap\">%sDeLong tests of all pairs of ROC curves, %s level; "
                   "H<sub>0</sub>: AUC<sub>1</sub> = AUC<sub>2</sub>.%s</p>\n<div class=\"scroll\">"
                   "<table class=\"wide\"><thead><tr><th></th><th colspan=\"2\">Variables</th>"
                   "<th colspan=\"2\">AUCs</th><th colspan=\"4\">By %s</th>%s</tr><tr>",
                image ? "<b>Table 2.</b> " : "", qnet_level_name((qnet_level)level),
                image ? " On the right the same with the slices of a subject as one cluster "
                        "(Obuchowski 1997)."
                      : "",
                image ? "image" : "subject", image ? "<th colspan=\"4\">By subject</th>" : "");
    qnet__cells(w, "th", "Input|1|2|>1|>2");
    for (int k = 0; k < (image ? 2 : 1); k++) qnet__cells(w, "th", ">Std error|>z|>p|Level");
    qnet__put(w, "</tr></thead><tbody>\n");
    qnet__put_pairs(w, e, level, image ? 0 : 1, 1);
    qnet__put(w, "</tbody></table></div>\n");
}

static void qnet__put_intervals(qnet__writer *w, const qnet_experiment *e, int level)
{
    static const int width[5] = { -13, -14, -12, -13, 0 };
    const char *items = level == QNET_LEVEL_IMAGE ? "image" : "scan";
    int input[2];
    const int inputs = qnet__inputs(e, input);
    char text[QNET__TEXT];
    if (w->html) {
        qnet__print(w, "<p class=\"cap\">95 %% intervals, %s level. AUC: DeLong, by %s and by "
                       "subject. Rates: Wilson, percent%s.</p>\n<div class=\"scroll\">"
                       "<table class=\"wide\"><thead><tr>",
                    items, items,
                    level == QNET_LEVEL_IMAGE ? ", slices taken as independent" : "");
    }
    qnet__cells(w, "th", "%-10s|%-10s|>%-7s|>by %-10s|>%-14s|>%-12s|>%-13s|>%s", "Input", "Model",
                "AUC", items, "by subject", "Accuracy", "Sensitivity", "Specificity");
    qnet__put(w, w->html ? "</tr></thead><tbody>\n" : "\n");
    for (int i = 0; i < inputs * QNET_MODELS; i++) {
        const int in = input[i / QNET_MODELS], m = i % QNET_MODELS;
        const qnet_model_result *r = &e->level[in][level].model[m];
        const qnet_interval ci[5] = { r->auc_ci, r->auc_ci_clustered, r->first.accuracy_ci,
                                      r->first.sensitivity_ci, r->first.specificity_ci };
        qnet__row_begin(w, in, m);
        qnet__cells(w, "td", "%-10s|>%-7.3f", qnet_model_name((qnet_model_kind)m), r->auc_first);
        for (int k = 0; k < 5; k++) { /* two of AUCs, three of rates in percent */
            qnet__cells(w, "td", ">%*s", width[k],
                        qnet__interval_text(w, text, ci[k], k < 2 ? 1 : 100, k < 2 ? 3 : 1, 0));
        }
        qnet__row_end(w);
    }
    if (w->html) qnet__put(w, "</tbody></table></div>\n");
}

/* Breaks what was written from `start` on into lines of at most 98 bytes, at spaces. */
static void qnet__wrap(qnet__writer *w, size_t start)
{
    size_t line = start, space = start; /* a space of an earlier line is before `line` */
    for (size_t i = start; w->status == QNET_OK && i < w->out->size; i++) {
        if (w->out->bytes[i] == '\n') line = i + 1;
        if (i - line >= 98 && space > line) {
            w->out->bytes[space] = '\n';
            line = space + 1;
        }
        if (w->out->bytes[i] == ' ') space = i;
    }
}

QNET_API qnet_status qnet_experiment_tables(const qnet_experiment *e, qnet_buffer *text)
{
    qnet__writer writer, *w = &writer;
    qnet__group group[3];
    size_t notes;
    QNET__TRY(qnet__writer_begin(w, e, text, "qnet_experiment_tables", "-"));
    qnet__groups(e, -1, group);
    qnet__print(w, "Table 1. Image-level classifiers, %d-fold cross-validation over individuals.\n"
                   "MEAN +- STD, in percent; AUC from 0 to 1.\n\n", e->config.folds);
    qnet__text_rates(w, e, QNET_LEVEL_IMAGE);
    qnet__put(w, "\nTable 2. DeLong tests, image level; H0: AUC 1 = AUC 2.\n\n");
    qnet__put_pairs(w, e, QNET_LEVEL_IMAGE, 0, 0);
    qnet__put(w, "\nThe same, with the slices of a subject taken as one cluster (Obuchowski 1997):"
                 "\n\n");
    qnet__put_pairs(w, e, QNET_LEVEL_IMAGE, 1, 1);
    qnet__put(w, "\nTable 3. Scan-level classifiers, in percent; ResNet and ResNetSWA vote over "
                 "the slices of a scan.\n\n");
    qnet__text_rates(w, e, QNET_LEVEL_SCAN);
    qnet__put(w, "\nDeLong tests, scan level, by subject.\n\n");
    qnet__put_pairs(w, e, QNET_LEVEL_SCAN, 1, 1);
    qnet__put(w, "\n95 % intervals, image level. AUC: DeLong; others: Wilson, percent, by image."
                 "\n\n");
    qnet__put_intervals(w, e, QNET_LEVEL_IMAGE);
    qnet__put(w, "\n95 % intervals, scan level. AUC: DeLong; others: Wilson, percent.\n\n");
    qnet__put_intervals(w, e, QNET_LEVEL_SCAN);
    qnet__put(w, "\n");
    notes = w->out->size;
    qnet__put_spread(w, e);
    qnet__put(w, "\nSensitivity: share of hemochromatosis recognised; specificity: share of "
                 "healthy controls recognised. F1-score: mean of both groups' F1, weighted by "
                 "their size. Level: ns p > .05, * p <= .05, ** p <= .01, *** p <= .001, "
                 "**** p <= .0001.\n\n");
    qnet__put_warnings(w, e, group);
    qnet__put(w, "\n");
    qnet__put_verdict(w, e);
    qnet__put(w, "\n");
    qnet__wrap(w, notes);
    return qnet__writer_end(w);
}

/* ---- results.json and manifest.json ---------------------------------------------------------- */

/* Begins a member of the open object or array: comma, new line, and its name where it has one. */
static void qnet__member(qnet__writer *w, const char *name, size_t length)
{
    qnet__print(w, "%s\n%*s", w->comma ? "," : "", 2 * w->depth, "");
    w->comma = 1;
    if (length == 0) return;
    qnet__put(w, "\"");
    qnet__put_bytes(w, name, length);
    qnet__put(w, "\": ");
}

/* Opens an object or array; settings are tables in HTML. name "": a member of an array. */
static void qnet__open(qnet__writer *w, const char *name, const char *bracket)
{
    if (w->html) {
        qnet__print(w, "<table><tbody><tr><th colspan=\"2\">%s</th></tr>\n", name);
        return;
    }
    if (w->depth > 0) qnet__member(w, name, strlen(name));
    qnet__put(w, bracket);
    w->depth++;
    w->comma = 0;
}

static void qnet__close(qnet__writer *w, const char *bracket)
{
    if (w->html) {
        qnet__put(w, "</tbody></table>\n");
        return;
    }
    w->depth--;
    qnet__print(w, "\n%*s%s%s", 2 * w->depth, "", bracket, w->depth == 0 ? "\n" : "");
    w->comma = 1;
}

/* Members "name %d; name %s; name [%g, %g]" of the open object, whose %s are text from outside;
   the same as rows of a table in HTML, without brackets and quotes. */
static QNET__PRINTF(2, 3) void qnet__members(qnet__writer *w, const char *format, ...)
{
    const char *end;
    va_list args;
    va_start(args, format);
    for (;; format = end + 2) {
        const size_t name = strcspn(format, " ");
        const char *value = format + name + 1;
        end = value + strcspn(value, ";");
        if (w->html) {
            const int list = *value == '[';
            qnet__put(w, "<tr><td>");
            qnet__put_bytes(w, format, name);
            qnet__put(w, "</td><td class=\"n\">");
            qnet__vprint(w, value + list, end - list, "", &args);
            qnet__put(w, "</td></tr>\n");
        } else {
            qnet__member(w, format, name);
            qnet__vprint(w, value, end, "\"", &args);
        }
        if (!*end) break;
    }
    va_end(args);
}

#define QNET__ADAM "; adam_beta1 %g; adam_beta2 %g; adam_eps %g"
#define QNET__MEAN " {\"mean\": %g, \"std\": %g}"
#define QNET__BOX                                                                                  \
    " {\"low\": %g, \"q1\": %g, \"median\": %g, \"q3\": %g, \"high\": %g, \"mean\": %g, "          \
    "\"std\": %g}"

static void qnet__put_augment_settings(qnet__writer *w, const qnet_augment_config *a)
{
    qnet__open(w, "augment", "{");
    qnet__members(w, "stretch %s; percentile_low %g; percentile_high %g; "
                     "window_low [%g, %g, %g]; window_high [%g, %g, %g]",
                  a->stretch == QNET_STRETCH_WINDOW ? "window" : "percentile", a->percentile_low,
                  a->percentile_high, a->window_low[0], a->window_low[1], a->window_low[2],
                  a->window_high[0], a->window_high[1], a->window_high[2]);
    qnet__members(w, "p_hflip %g; p_vflip %g; p_brightness_contrast %g; p_gamma %g; p_grid %g; "
                     "p_affine %g; brightness %g; contrast %g; gamma_low %g; gamma_high %g; "
                     "grid_limit %g; shift %g; scale %g; rotate %g; physics_safe %d",
                  a->p_hflip, a->p_vflip, a->p_brightness_contrast, a->p_gamma, a->p_grid,
                  a->p_affine, a->brightness, a->contrast, a->gamma_low, a->gamma_high,
                  a->grid_limit, a->shift, a->scale, a->rotate, a->physics_safe);
    qnet__members(w, "mean [%g, %g, %g]; std [%g, %g, %g]", a->mean[0], a->mean[1], a->mean[2],
                  a->std[0], a->std[1], a->std[2]);
    qnet__close(w, "}");
}

/* Every number that changes results. */
static void qnet__put_settings(qnet__writer *w, const qnet_experiment *e)
{
    const qnet_experiment_config *c = &e->config;
    const qnet_stage1_config *s1 = &c->stage1;
    const qnet_stage2_config *s2 = &c->stage2;
    qnet__open(w, w->html ? "experiment" : "config", "{");
    qnet__members(w, "version %s; seed %llu; folds %d; repeats %d; bootstrap %d; "
                     "shuffle_labels %d; cam_scans %d; initial_weights %s",
                  QNET_VERSION, (unsigned long long)c->seed, c->folds, c->repeats, c->bootstrap,
                  c->shuffle_labels, c->cam_scans, e->weights[0] ? e->weights : "random");
    if (w->html) qnet__close(w, "}"); /* in JSON the others are within */
    for (int i = 0; i < 2; i++) {
        const qnet_input_config *in = &c->input[qnet__table_input[i]];
        if (!c->use_input[qnet__table_input[i]]) continue;
        qnet__open(w, i == 0 ? "input_full" : "input_crop", "{");
        qnet__members(w, "size %d; box_mm %g; margin %g; max_slices %d; slice_first %d; "
                         "slice_count %d; box_explicit %d; box_center_mm [%g, %g]; derivatives %s",
                      in->size, in->box_mm, in->margin, in->max_slices, in->slice_first,
                      in->slice_count, in->box_explicit, in->box_center_mm[0],
                      in->box_center_mm[1], in->derivatives ? in->derivatives : "");
        qnet__close(w, "}");
    }
    qnet__open(w, "stage1", "{");
    qnet__members(w, "epochs %d; batch %d; rate_first %g; rate_last %g; swa_share %g; swa_rate %g"
                     QNET__ADAM, s1->epochs, s1->batch, s1->rate_first, s1->rate_last,
                  s1->swa_share, s1->swa_rate, s1->adam.beta1, s1->adam.beta2, s1->adam.eps);
    qnet__close(w, "}");
    qnet__put_augment_settings(w, &s1->augment);
    qnet__open(w, "stage2", "{");
    qnet__members(w, "epochs %d; batch %d; rate %g; hidden %d" QNET__ADAM, s2->epochs, s2->batch,
                  s2->rate, s2->hidden, s2->adam.beta1, s2->adam.beta2, s2->adam.eps);
    qnet__close(w, "}");
    if (!w->html) qnet__close(w, "}");
}

static void qnet__put_cohort(qnet__writer *w, const qnet_experiment *e)
{
    static const char names[3][4] = { "HC", "HH", "all" };
    qnet__group group[3];
    qnet__groups(e, -1, group);
    qnet__open(w, "cohort", "{");
    qnet__members(w, "data %s", e->data);
    for (int k = 2; k >= 0; k--) {
        const qnet__group *g = &group[k];
        qnet__open(w, names[k], "{");
        qnet__members(w, "subjects %d; scans %d; slices %d; men %d; women %d; age_mean %g; "
                         "age_std %g; age_min %g; age_max %g",
                      g->subjects, g->scans, g->slices, g->men, g->women, g->age_mean, g->age_std,
                      g->age_low, g->age_high);
        qnet__close(w, "}");
    }
    qnet__close(w, "}");
}

/* One model of image_level or scan_level. */
static void qnet__put_model(qnet__writer *w, const qnet_model_result *r)
{
    const qnet_metrics *m = &r->first;
    qnet__members(w, "accuracy" QNET__MEAN "; sensitivity" QNET__MEAN "; specificity" QNET__MEAN
                     "; f1" QNET__MEAN "; auc" QNET__MEAN,
                  r->accuracy.mean, r->accuracy.std, r->sensitivity.mean, r->sensitivity.std,
                  r->specificity.mean, r->specificity.std, r->f1.mean, r->f1.std, r->auc.mean,
                  r->auc.std);
    qnet__open(w, "first_repeat", "{");
    qnet__members(w, "confusion {\"tp\": %zu, \"fn\": %zu, \"tn\": %zu, \"fp\": %zu}; "
                     "precision %g; f1_hh %g; f1_hc %g; f1_macro %g",
                  m->count.tp, m->count.fn, m->count.tn, m->count.fp, m->precision, m->f1_hh,
                  m->f1_hc, m->f1_macro);
    qnet__members(w, "accuracy_wilson95 [%g, %g]; sensitivity_wilson95 [%g, %g]; "
                     "specificity_wilson95 [%g, %g]; auc %g; auc_delong95 [%g, %g]; "
                     "auc_delong95_by_subject [%g, %g]",
                  m->accuracy_ci.low, m->accuracy_ci.high, m->sensitivity_ci.low,
                  m->sensitivity_ci.high, m->specificity_ci.low, m->specificity_ci.high,
                  r->auc_first, r->auc_ci.low, r->auc_ci.high, r->auc_ci_clustered.low,
                  r->auc_ci_clustered.high);
    qnet__close(w, "}");
}

/* One model of bootstrap. */
static void qnet__put_boxes(qnet__writer *w, const qnet_model_result *r)
{
    const qnet_boxplot *b = &r->bootstrap, *c = &r->bootstrap_clustered;
    qnet__members(w, "by_item" QNET__BOX "; by_subject" QNET__BOX, b->low, b->q1, b->median, b->q3,
                  b->high, b->mean, b->std, c->low, c->q1, c->median, c->q3, c->high, c->mean,
                  c->std);
}

/* {"image_level": {"crop": {"Q-Net": ...}}}: what `put` writes of each model. */
static void qnet__put_levels(qnet__writer *w, const qnet_experiment *e,
                             void (*put)(qnet__writer *, const qnet_model_result *))
{
    for (int level = 0; level < QNET_LEVELS; level++) {
        qnet__open(w, level == QNET_LEVEL_IMAGE ? "image_level" : "scan_level", "{");
        for (int input = 0; input < 2; input++) {
            if (!qnet__has_input(e, input)) continue;
            qnet__open(w, qnet_input_name((qnet_input)input), "{");
            for (int m = QNET_MODELS - 1; m >= 0; m--) {
                qnet__open(w, qnet_model_name((qnet_model_kind)m), "{");
                put(w, &e->level[input][level].model[m]);
                qnet__close(w, "}");
            }
            qnet__close(w, "}");
        }
        qnet__close(w, "}");
    }
}

static void qnet__put_delong(qnet__writer *w, const qnet_experiment *e)
{
    qnet__open(w, "delong", "[");
    for (int i = 0; i < 2 * QNET_LEVELS * 3; i++) {
        const int input = i / (QNET_LEVELS * 3), level = i / 3 % QNET_LEVELS;
        const qnet_pair_result *pair = &e->level[input][level].pair[i % 3];
        const qnet_delong *a = &pair->by_item, *b = &pair->by_subject;
        if (!qnet__has_input(e, input)) continue;
        qnet__open(w, "", "{");
        qnet__members(w, "input %s; level %s; model1 %s; model2 %s; auc1 %g; auc2 %g; se %g; z %g; "
                         "p %g; stars %s",
                      qnet_input_name((qnet_input)input), qnet_level_name((qnet_level)level),
                      qnet_model_name(pair->model1), qnet_model_name(pair->model2), a->auc[0],
                      a->auc[1], a->se, a->z, a->p, qnet_stars(a->p));
        qnet__open(w, "clustered", "{");
        qnet__members(w, "se %g; z %g; p %g; stars %s", b->se, b->z, b->p, qnet_stars(b->p));
        qnet__close(w, "}");
        qnet__close(w, "}");
    }
    qnet__close(w, "]");
}

QNET_API qnet_status qnet_experiment_json(const qnet_experiment *e, qnet_buffer *json)
{
    qnet__writer writer, *w = &writer;
    QNET__TRY(qnet__writer_begin(w, e, json, "qnet_experiment_json", "null"));
    qnet__open(w, "", "{");
    qnet__put_settings(w, e);
    qnet__put_cohort(w, e);
    qnet__put_levels(w, e, qnet__put_model);
    qnet__put_delong(w, e);
    qnet__open(w, "bootstrap", "{");
    qnet__members(w, "resamples %d", e->config.bootstrap);
    qnet__put_levels(w, e, qnet__put_boxes);
    qnet__close(w, "}");
    qnet__close(w, "}");
    return qnet__writer_end(w);
}

QNET_API qnet_status qnet_experiment_manifest(const qnet_experiment *e, qnet_buffer *json)
{
    qnet__writer writer, *w = &writer;
    char build[256];
    QNET__TRY(qnet__writer_begin(w, e, json, "qnet_experiment_manifest", "null"));
    qnet_describe_build(e->ctx, build, sizeof build);
    qnet__open(w, "", "{");
    qnet__members(w, "version %s; build %s; cpu %s; data %s; out %s; initial_weights %s; "
                     "seconds %g",
                  QNET_VERSION, build, qnet_cpu_name(qnet_context_cpu(e->ctx)), e->data, e->out,
                  e->weights, e->seconds);
    qnet__open(w, "hashes", "{");
    for (int input = 0; input < 2; input++) {
        const unsigned long long hash = e->cohort_hash[input];
        if (!qnet__has_input(e, input)) continue;
        if (input == QNET_INPUT_CROP) qnet__members(w, "cohort_crop \"%016llx\"", hash);
        else qnet__members(w, "cohort_full \"%016llx\"", hash);
    }
    if (e->weights[0]) {
        qnet__members(w, "initial_weights \"%016llx\"", (unsigned long long)e->weights_hash);
    }
    qnet__close(w, "}");
    qnet__put_settings(w, e);
    qnet__open(w, "scans", "[");
    for (int i = 0; i < e->participants_count; i++) {
        const qnet_participant *p = &e->participants[i];
        qnet__members(w, " {\"subject\": %s, \"group\": %s, \"sex\": %s, \"age\": %g, "
                         "\"slices\": %d, \"fold\": %d}",
                      p->subject, p->label == QNET_HH ? "HH" : "HC",
                      p->sex == QNET_MALE ? "M" : p->sex == QNET_FEMALE ? "F" : "", p->age,
                      p->slices, e->fold[i] + 1);
    }
    qnet__close(w, "]");
    qnet__close(w, "}");
    return qnet__writer_end(w);
}

/* ---- predictions.csv ------------------------------------------------------------------------- */

/* A field after RFC 4180: in quotes, inner ones doubled, where it needs them. */
static void qnet__put_field(qnet__writer *w, const char *text)
{
    const int quoted = strpbrk(text, ",\"\r\n") != NULL;
    if (quoted) qnet__put(w, "\"");
    for (; *text; text++) {
        if (*text == '"') qnet__put(w, "\"");
        qnet__put_bytes(w, text, 1);
    }
    if (quoted) qnet__put(w, "\"");
}

static void qnet__put_item(qnet__writer *w, const qnet_experiment *e, int input, int level,
                           int repeat, const qnet_item *item)
{
    const double *p = item->probability;
    const int *d = item->decision;
    qnet__print(w, "%s,%s,%d,%d,", qnet_level_name((qnet_level)level),
                qnet_input_name((qnet_input)input), repeat + 1, item->fold + 1);
    if (item->scan >= 0 && item->scan < e->participants_count) {
        qnet__put_field(w, e->participants[item->scan].subject);
    }
    qnet__print(w, ",%d,", item->scan);
    if (item->slice >= 0) qnet__print(w, "%d,%d,", item->slice, item->z);
    else qnet__put(w, ",,");
    qnet__print(w, "%d,%g,%g,%g,%d,%d,%d\n", item->label, p[0], p[1], p[2], d[0], d[1], d[2]);
}

/* label and decisions: 1 HH, 0 HC; scan: index in the order of participants.tsv; slice from 0, the
   lowest; z: its index in the volume. */
QNET_API qnet_status qnet_experiment_csv(const qnet_experiment *e, qnet_buffer *csv)
{
    qnet__writer writer, *w = &writer;
    QNET__TRY(qnet__writer_begin(w, e, csv, "qnet_experiment_csv", ""));
    qnet__put(w, "level,input,repeat,fold,subject,scan,slice,z,label,p_resnet,p_resnetswa,p_qnet,"
                 "d_resnet,d_resnetswa,d_qnet\n");
    for (int k = 0; k < 2 * QNET_LEVELS; k++) {
        const int level = k / 2, input = k % 2;
        const qnet_level_result *r = &e->level[input][level];
        if (!qnet__has_input(e, input)) continue;
        for (size_t i = 0; i < (size_t)e->config.repeats * r->count && w->status == QNET_OK; i++) {
            qnet__put_item(w, e, input, level, (int)(i / r->count), &r->items[i]);
        }
    }
    return qnet__writer_end(w);
}

/* ---- report.html: pieces --------------------------------------------------------------------- */

/* Colours: Okabe & Ito's blue and vermilion with a grey; lines also differ by their dashes. */
static void qnet__put_css(qnet__writer *w)
{
    qnet__put(w,
        ":root{--ink:#1c2430;--muted:#5b6574;--line:#d5dae1;--paper:#fff;--card:#f5f7f9;"
        "--resnet:#6f7782;--swa:#d55e00;--qnet:#0067a8;--hh:#d55e00;--hc:#4a90b8;"
        "--none:#b9c0c9;--warn:#fdf6e7;--warnline:#d9a520}\n@media(prefers-color-scheme:dark){"
        ":root{--ink:#e5e9ee;--muted:#a3adba;--line:#3a4350;--paper:#14181e;--card:#1d232b;"
        "--resnet:#a7afba;--swa:#f08a3c;--qnet:#58b0ea;--hh:#f08a3c;--hc:#6fb3d9;"
        "--none:#5b6574;--warn:#2b2517;--warnline:#b98d1c}}\n*{box-sizing:border-box}html{"
        "-webkit-text-size-adjust:100%}\nbody{margin:0;background:var(--paper);"
        "color:var(--ink);font:16px/1.6 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica "
        "Neue','Liberation Sans',Arial,sans-serif}\nmain{max-width:68rem;margin:0 auto;"
        "padding:2.5rem 1.25rem 4rem}\np,li,figcaption{max-width:46rem}h1,h2,h3{"
        "line-height:1.25;text-wrap:balance}\nh1{font-size:1.9rem;margin:.2rem 0 1.2rem;"
        "letter-spacing:-.01em}\nh2{font-size:1.35rem;margin:3rem 0 1rem;padding-top:1.1rem;"
        "border-top:1px solid var(--line)}\nh3{font-size:1.05rem;margin:2rem 0 .5rem}\n.small,"
        "figcaption,.key{font-size:.9375rem;color:var(--muted)}.kicker{margin:0;"
        "color:var(--muted)}\n.verdict{font-size:1.15rem;line-height:1.6;border-left:4px solid "
        "var(--qnet);margin:0 0 1.5rem;padding:.2rem 0 .2rem 1.1rem;max-width:48rem}\n");
    qnet__put(w,
        ".tile i,.verdict i{font-style:normal;white-space:nowrap}.tiles{display:grid;"
        "grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.75rem;margin:1.5rem 0}\n"
        ".tile{background:var(--card);border-radius:8px;padding:.8rem 1rem}.tile b{"
        "display:block;font-size:1.7rem;line-height:1.3;font-weight:650}.tile span{"
        "display:block;color:var(--muted);font-size:.9375rem;line-height:1.4}\n.care{"
        "background:var(--warn);border-left:4px solid var(--warnline);border-radius:0 8px 8px "
        "0;padding:.7rem 1.1rem;margin:1.5rem 0;max-width:48rem}.care ul{margin:.3rem 0;"
        "padding-left:1.1rem}\n.scroll{overflow-x:auto;background:linear-gradient(90deg,"
        "var(--paper) 30%,transparent) 0 0/2rem 100% no-repeat local,linear-gradient(270deg,"
        "var(--paper) 30%,transparent) 100% 0/2rem 100% no-repeat local,linear-gradient(90deg,"
        "var(--line),transparent) 0 0/.7rem 100% no-repeat scroll,linear-gradient(270deg,"
        "var(--line),transparent) 100% 0/.7rem 100% no-repeat scroll}\n.wide{"
        "font-size:.9375rem}.wide th,.wide td{padding:.36rem .5rem}.pin tr>:first-child{"
        "position:sticky;left:0;background:var(--paper)}.pin tr.best>:first-child{"
        "background:var(--card)}\ntable{border-collapse:collapse;"
        "font-variant-numeric:tabular-nums;border-top:2px solid var(--ink);border-bottom:2px "
        "solid var(--ink);margin:.4rem 0}\nth,td{padding:.36rem .7rem;text-align:left;"
        "white-space:nowrap;vertical-align:baseline}\nth{font-weight:600}thead tr:last-child "
        "th{border-bottom:1px solid var(--ink)}\nthead th[colspan]{text-align:center}td.n,th.n{"
        "text-align:right}tbody th{font-weight:600}\ntbody tr.first>*{border-top:1px solid "
        "var(--line)}tr.best>*{background:var(--card)}\ntd.wrap{white-space:normal;"
        "min-width:16rem}.cap{margin:2rem 0 .5rem;color:var(--muted);font-size:.9375rem}.cap b{"
        "color:var(--ink)}\nfigure{margin:1.8rem 0}figcaption{margin-top:.6rem}figcaption b{"
        "color:var(--ink)}\n.panels{display:grid;grid-template-columns:repeat(auto-fit,"
        "minmax(17.5rem,1fr));gap:1.2rem 1.8rem}\n.panels h4{margin:0 0 .2rem;font-size:1rem;"
        "font-weight:600}.panel{min-width:0;max-width:31rem}.two{"
        "grid-template-columns:repeat(auto-fit,minmax(max(17.5rem,40%),1fr))}\n");
    qnet__put(w,
        "svg{display:block;width:100%;height:auto;font-family:inherit;font-size:12px}svg text{"
        "fill:var(--ink)}svg .m{fill:var(--muted)}\nsvg .g{stroke:var(--line);stroke-width:1}"
        "svg .a{stroke:var(--muted);stroke-width:1;fill:none}\nsvg .d{stroke:var(--muted);"
        "stroke-width:1;stroke-dasharray:4 4;fill:none}\nsvg .l{fill:none;stroke-width:2;"
        "stroke-linejoin:round}svg .t{fill:none;stroke-width:1;opacity:.4}\n.c0{"
        "stroke:var(--resnet)}.c1{stroke:var(--swa)}.c2{stroke:var(--qnet)}\nsvg .l.c0{"
        "stroke-dasharray:2 3}svg .l.c1{stroke-dasharray:8 3}svg .l.solid{"
        "stroke-dasharray:none}\nsvg .b0{fill:var(--resnet)}svg .b1{fill:var(--swa)}svg .b2{"
        "fill:var(--qnet)}\nsvg .box{stroke:var(--ink);stroke-width:1;fill-opacity:.55}svg "
        ".med{stroke:var(--ink);stroke-width:2.5}\nsvg .hh{fill:var(--hh)}svg .hc{"
        "fill:var(--hc)}svg .no{fill:var(--none)}svg .k{fill:var(--paper);opacity:.85}\n.sw{"
        "display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .35em 0 0}\n"
        ".cams{display:grid;grid-template-columns:repeat(auto-fill,minmax(17.5rem,1fr));"
        "gap:1.4rem}\n.cam{margin:0}.cam div{display:flex;gap:3px}.cam img{width:50%;"
        "min-width:0;display:block;background:#000}.cam figcaption{margin-top:.35rem}\n.sheet "
        "img{display:block;width:100%;min-width:44rem}.bar{max-width:22rem;margin:.8rem 0}\n"
        ".sets{columns:19rem;column-gap:2rem}.sets table{width:100%;break-inside:avoid;"
        "margin:0 0 1.4rem;font-size:.9375rem;border-width:1px}.sets td,.sets th{"
        "padding:.12rem .4rem}.sets td{white-space:normal;overflow-wrap:anywhere}\na{"
        "color:var(--qnet)}code{font-size:.9em}\n@media(min-width:48rem){.side{display:grid;"
        "grid-template-columns:minmax(0,29rem) 1fr;column-gap:1.8rem;align-items:end}.side "
        "figcaption{padding-bottom:2rem}}\n@media(max-width:30rem){main{padding:1.25rem 1rem "
        "3rem}h1{font-size:1.5rem}.verdict{font-size:1.05rem}.tiles{grid-template-columns:1fr "
        "1fr}.tile{padding:.65rem .8rem}.tile b{font-size:1.4rem}th,td{padding:.34rem .5rem}}\n"
        "@media print{:root{--ink:#000;--muted:#444;--paper:#fff;--card:#f3f3f3;--line:#ccc;"
        "--resnet:#6f7782;--swa:#d55e00;--qnet:#0067a8;--hh:#d55e00;--hc:#4a90b8;"
        "--none:#b9c0c9;--warn:#fff}body{font-size:10.5pt}main{max-width:none;padding:0}"
        ".scroll{overflow:visible}.sheet img{min-width:0}h2,h3,h4,.cap{break-after:avoid}"
        "figure,table,.tile,.care,.cam,.panel{break-inside:avoid}th,td{padding:.2rem .4rem}"
        ".wide{font-size:8.5pt}}\n");
}

/* bytes as base64 (RFC 4648). */
static void qnet__put_base64(qnet__writer *w, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[512];
    size_t used = 0;
    for (size_t i = 0; i < size; i += 3) {
        const unsigned a = bytes[i], b = i + 1 < size ? bytes[i + 1] : 0u;
        const unsigned c = i + 2 < size ? bytes[i + 2] : 0u, word = a << 16 | b << 8 | c;
        text[used++] = digits[word >> 18];
        text[used++] = digits[word >> 12 & 63];
        text[used++] = i + 1 < size ? digits[word >> 6 & 63] : '=';
        text[used++] = i + 2 < size ? digits[word & 63] : '=';
        if (used == sizeof text || i + 3 >= size) {
            qnet__put_bytes(w, text, used);
            used = 0;
        }
    }
}

/* <img> with rgb[height][width][3] inside. alt is HTML already. */
static void qnet__put_image(qnet__writer *w, const uint8_t *rgb, int width, int height,
                            const char *alt)
{
    qnet_buffer png;
    qnet_sink sink;
    memset(&png, 0, sizeof png);
    if (w->status != QNET_OK) return;
    sink = qnet_sink_buffer(w->ctx, &png, "a picture of the report");
    w->status = qnet_png_write(w->ctx, &sink, width, height, 3, rgb);
    if (w->status == QNET_ERROR_IO) { /* a buffer refuses bytes for one reason only */
        w->status = qnet__no_memory(w->ctx, 2 * png.size, sink.name);
    }
    qnet__print(w, "<img width=\"%d\" height=\"%d\" style=\"height:auto\" alt=\"%s\" "
                   "src=\"data:image/png;base64,", width, height, alt);
    if (w->status == QNET_OK) qnet__put_base64(w, png.bytes, png.size);
    qnet__put(w, "\">");
    qnet_buffer_free(w->ctx, &png);
}

static void qnet__svg_open(qnet__writer *w, int height, const char *label)
{
    qnet__print(w, "<svg viewBox=\"0 0 344 %d\" role=\"img\" aria-label=\"%s\">\n", height, label);
}

static void qnet__svg_line(qnet__writer *w, const char *style, double x1, double y1, double x2,
                           double y2)
{
    qnet__print(w, "<path class=\"%s\" d=\"M%.1f,%.1fL%.1f,%.1f\"/>\n", style, x1, y1, x2, y2);
}

static void qnet__svg_rect(qnet__writer *w, const char *style, double x, double y, double width,
                           double height)
{
    qnet__print(w, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
                style, x, y, width, height);
}

/* A text element; anchor: "start", "middle" or "end". */
static QNET__PRINTF(6, 7) void qnet__svg_text(qnet__writer *w, const char *style,
                                              const char *anchor, double x, double y,
                                              const char *format, ...)
{
    va_list args;
    va_start(args, format);
    qnet__print(w, "<text class=\"%s\" text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">", style, anchor, x,
                y);
    qnet__vprint(w, format, format + strlen(format), NULL, &args);
    qnet__put(w, "</text>\n");
    va_end(args);
}

/* The plotting area within a drawing, and the ranges that it shows. */
typedef struct qnet__plot {
    double left, top, width, height;
    double x_low, x_high, y_low, y_high;
} qnet__plot;

static double qnet__plot_x(const qnet__plot *p, double x)
{
    return p->left + (x - p->x_low) / (p->x_high - p->x_low) * p->width;
}

static double qnet__plot_y(const qnet__plot *p, double y)
{
    return p->top + p->height - (y - p->y_low) / (p->y_high - p->y_low) * p->height;
}

/* The smallest of 1, 2, 5 times a power of ten that goes into range at most `most` times. */
static double qnet__nice_step(double range, int most)
{
    double step = pow(10.0, floor(log10(range / most)));
    if (step * most < range * (1 - 1e-9)) step *= 2;
    if (step * most < range * (1 - 1e-9)) step *= 2.5;
    if (step * most < range * (1 - 1e-9)) step *= 2;
    return step;
}

/* Grid lines and numbers at the multiples of a step, along y (axis 1) or x (axis 0). */
static void qnet__plot_ticks(qnet__writer *w, const qnet__plot *p, int axis, double step,
                             int decimals)
{
    const double low = axis ? p->y_low : p->x_low, high = axis ? p->y_high : p->x_high;
    const double bottom = p->top + p->height;
    for (double k = ceil(low / step - 1e-6); k * step <= high + 1e-6 * step; k += 1) {
        const double v = k * step + 0.0; /* no "-0" */
        if (axis) {
            const double y = qnet__plot_y(p, v);
            qnet__svg_line(w, "g", p->left, y, p->left + p->width, y);
            qnet__svg_text(w, "m", "end", p->left - 6, y + 4, "%.*f", decimals, v);
        } else {
            const double x = qnet__plot_x(p, v);
            qnet__svg_line(w, "a", x, bottom, x, bottom + 4);
            qnet__svg_text(w, "m", "middle", x, bottom + 17, "%.*f", decimals, v);
        }
    }
}

/* The two axes and their titles. */
static void qnet__plot_axes(qnet__writer *w, const qnet__plot *p, const char *x, const char *y)
{
    const double bottom = p->top + p->height;
    qnet__svg_line(w, "a", p->left, bottom, p->left + p->width, bottom);
    qnet__svg_line(w, "a", p->left, p->top, p->left, bottom);
    qnet__svg_text(w, "", "middle", p->left + p->width / 2, bottom + 36, "%s", x);
    qnet__print(w, "<text text-anchor=\"middle\" transform=\"translate(12 %.1f) rotate(-90)\">%s"
                   "</text>\n", p->top + p->height / 2, y);
}

/* ---- report.html: figures -------------------------------------------------------------------- */

/* One curve of an ROC figure. */
typedef struct qnet__roc_line {
    const qnet_model_result *result;
    const char *name;
    int style;
} qnet__roc_line;

/* The curve as a path; steps too small to see are left out: a page of 10^4 items stays small. */
static void qnet__svg_roc_path(qnet__writer *w, const qnet__plot *p, const qnet__roc_line *line)
{
    double last_x = 0, last_y = 0;
    qnet__print(w, "<path class=\"l c%d\" d=\"", line->style);
    for (size_t i = 0; i < line->result->roc_count; i++) {
        const qnet_roc_point *point = &line->result->roc[i];
        const double x = qnet__plot_x(p, point->false_positive_rate);
        const double y = qnet__plot_y(p, point->true_positive_rate);
        const int end = i == 0 || i + 1 == line->result->roc_count;
        if (!end && fabs(x - last_x) + fabs(y - last_y) < 0.4) continue;
        qnet__print(w, "%s%.1f,%.1f", i == 0 ? "M" : "L", x, y);
        last_x = x;
        last_y = y;
    }
    qnet__put(w, "\"/>\n");
}

static void qnet__svg_roc(qnet__writer *w, const qnet__roc_line *lines, int count,
                          const char *label)
{
    const qnet__plot p = { 44, 8, 290, 290, 0, 1, 0, 1 };
    const double bottom = p.top + p.height;
    qnet__svg_open(w, 342, label);
    qnet__plot_ticks(w, &p, 0, 0.2, 1);
    qnet__plot_ticks(w, &p, 1, 0.2, 1);
    qnet__plot_axes(w, &p, "False positive rate", "True positive rate");
    qnet__svg_line(w, "d", p.left, bottom, p.left + p.width, p.top);
    for (int i = 0; i < count; i++) qnet__svg_roc_path(w, &p, &lines[i]);
    /* The key, from below; curves of poor models run behind it. */
    qnet__svg_rect(w, "k", 182, bottom - 30 - 18 * count, 150, 18 * count + 22);
    qnet__print(w, "<path class=\"d\" d=\"M188.0,%.1fh26\"/>\n", bottom - 18);
    qnet__svg_text(w, "m", "start", 220, bottom - 14, "No skill");
    for (int i = 1; i <= count; i++) {
        const qnet__roc_line *line = &lines[count - i];
        const double y = bottom - 14 - 18 * i;
        qnet__print(w, "<path class=\"l c%d\" d=\"M188.0,%.1fh26\"/>\n", line->style, y - 4);
        qnet__svg_text(w, "", "start", 220, y, "%s %.3f", line->name, line->result->auc_first);
    }
    qnet__put(w, "</svg>\n");
}

/* Fig. 5 and Fig. 8: Q-Net of both inputs. */
static void qnet__figure_inputs(qnet__writer *w, const qnet_experiment *e, int level)
{
    qnet__roc_line lines[2];
    int input[2];
    const int inputs = qnet__inputs(e, input);
    for (int i = 0; i < inputs; i++) {
        lines[i].result = &e->level[input[i]][level].model[QNET_MODEL_QNET];
        lines[i].style = input[i] == QNET_INPUT_FULL ? 1 : 2;
        lines[i].name = input[i] == QNET_INPUT_FULL ? "Full size" : "Cropped";
    }
    qnet__put(w, "<figure class=\"side\"><div class=\"panel\">\n");
    qnet__svg_roc(w, lines, inputs, "ROC curves of Q-Net for each input");
    qnet__print(w, "</div><figcaption><b>Fig. %d.</b> ROC curve%s of Q-Net, %s-level "
                   "classification, with AUC. The dashed diagonal is a classifier without skill."
                   "</figcaption></figure>\n",
                level == QNET_LEVEL_IMAGE ? 5 : 8, inputs > 1 ? "s" : "",
                qnet_level_name((qnet_level)level));
}

/* Fig. 6: the three models, a panel per input. */
static void qnet__figure_models(qnet__writer *w, const qnet_experiment *e)
{
    qnet__roc_line lines[QNET_MODELS];
    int input[2];
    const int inputs = qnet__inputs(e, input);
    qnet__put(w, "<figure><div class=\"panels\">");
    for (int i = 0; i < inputs; i++) {
        for (int m = 0; m < QNET_MODELS; m++) {
            lines[m].result = &e->level[input[i]][QNET_LEVEL_IMAGE].model[m];
            lines[m].style = m;
            lines[m].name = qnet_model_name((qnet_model_kind)m);
        }
        qnet__print(w, "<div class=\"panel\"><h4>%s</h4>\n", qnet__input_title(input[i]));
        qnet__svg_roc(w, lines, QNET_MODELS, "ROC curves of the three models");
        qnet__put(w, "</div>");
    }
    qnet__put(w, "</div><figcaption><b>Fig. 6.</b> ROC curves of the three models by image, with "
                 "AUC. The true positive rate is the sensitivity, the false positive rate one less "
                 "the specificity.</figcaption></figure>\n");
}

/* One panel of Fig. 7: a box per model over its bootstrapped AUCs. */
static void qnet__svg_boxes(qnet__writer *w, const qnet_level_result *level, int by_subject)
{
    qnet__plot p = { 44, 66, 290, 200, 0, 3, 1, 0 };
    const double bottom = p.top + p.height;
    const qnet_boxplot *box[QNET_MODELS];
    double step;
    for (int m = 0; m < QNET_MODELS; m++) {
        const qnet_model_result *r = &level->model[m];
        box[m] = by_subject ? &r->bootstrap_clustered : &r->bootstrap;
        if (box[m]->low < p.y_low) p.y_low = box[m]->low;
        if (box[m]->high > p.y_high) p.y_high = box[m]->high;
    }
    if (!(p.y_high - p.y_low > 0.05)) { /* all alike: a range to draw in */
        p.y_low -= 0.05;
        p.y_high += 0.05;
    }
    step = qnet__nice_step(p.y_high - p.y_low, 6);
    p.y_low = floor(p.y_low / step) * step;
    p.y_high = ceil(p.y_high / step) * step;
    qnet__svg_open(w, 292, by_subject ? "Box plots of AUC, subjects resampled"
                                      : "Box plots of AUC, images resampled");
    qnet__plot_ticks(w, &p, 1, step, step < 0.1 ? 2 : 1);
    qnet__svg_line(w, "a", p.left, bottom, p.left + p.width, bottom);
    for (int m = 0; m < QNET_MODELS; m++) {
        static const char *const styles[QNET_MODELS] = { "box b0", "box b1", "box b2" };
        const qnet_boxplot *b = box[m];
        const double x = qnet__plot_x(&p, m + 0.5), q1 = qnet__plot_y(&p, b->q1),
                     q3 = qnet__plot_y(&p, b->q3), median = qnet__plot_y(&p, b->median),
                     low = qnet__plot_y(&p, b->low), high = qnet__plot_y(&p, b->high);
        qnet__svg_line(w, "a", x, low, x, q1);
        qnet__svg_line(w, "a", x, q3, x, high);
        qnet__svg_line(w, "a", x - 12, low, x + 12, low);
        qnet__svg_line(w, "a", x - 12, high, x + 12, high);
        qnet__svg_rect(w, styles[m], x - 26, q3, 52, q1 - q3);
        qnet__svg_line(w, "med", x - 26, median, x + 26, median);
        qnet__svg_text(w, "", "middle", x, bottom + 18, "%s", qnet_model_name((qnet_model_kind)m));
    }
    for (int k = 0; k < 3; k++) { /* brackets with stars: short ones below, the long one on top */
        const qnet_pair_result *pair = &level->pair[k];
        const double x1 = qnet__plot_x(&p, (double)pair->model2 + 0.54), y = k == 1 ? 20 : 46;
        const double x2 = qnet__plot_x(&p, (double)pair->model1 + 0.46);
        const double pvalue = by_subject ? pair->by_subject.p : pair->by_item.p;
        qnet__print(w, "<path class=\"a\" d=\"M%.1f,%.1fv-5H%.1fv5\"/>\n", x1, y + 5, x2);
        qnet__svg_text(w, "", "middle", (x1 + x2) / 2, pvalue <= 0.05 ? y - 1 : y - 4, "%s",
                       qnet_stars(pvalue));
    }
    qnet__put(w, "</svg>\n");
}

static void qnet__figure_boxes(qnet__writer *w, const qnet_experiment *e)
{
    int input[2];
    const int inputs = qnet__inputs(e, input);
    qnet__put(w, "<figure><div class=\"panels two\">");
    for (int i = 0; i < 2 * inputs; i++) {
        const int by_subject = i % 2;
        qnet__print(w, "<div class=\"panel\"><h4>%s, %s resampled</h4>\n",
                    qnet__input_title(input[i / 2]), by_subject ? "subjects" : "images");
        qnet__svg_boxes(w, &e->level[input[i / 2]][QNET_LEVEL_IMAGE], by_subject);
        qnet__put(w, "</div>");
    }
    qnet__print(w, "</div><figcaption><b>Fig. 7.</b> AUCs by image of %d bootstrap samples: box "
                   "from the first to the third quartile, line at the median, whiskers at 2.5 and "
                   "97.5 %%. Above: significance of the difference by DeLong's test, <i>ns</i> "
                   "p &gt; .05, * p &le; .05, ** p &le; .01, *** p &le; .001, **** p &le; .0001. "
                   "Where images are resampled, as in the paper, the slices of a scan count as "
                   "independent; where subjects are, they do not.</figcaption></figure>\n",
                e->config.bootstrap);
}

/* Fig. 2 (a): ages in bins of ten years, HH beside HC. */
static void qnet__svg_ages(qnet__writer *w, const qnet_experiment *e)
{
    qnet__plot p = { 44, 10, 290, 180, 0, 1, 0, 1 };
    int count[2][13], first = 12, last = 0, most = 1;
    double step;
    memset(count, 0, sizeof count);
    for (int i = 0; i < e->participants_count; i++) {
        const qnet_participant *s = &e->participants[i];
        int bin;
        if (!(s->age >= 0 && s->age < 130) || !qnet__is_first_scan(e, i)) continue;
        bin = (int)(s->age / 10);
        most = qnet__max_int(most, ++count[s->label == QNET_HH][bin]);
        first = qnet__min_int(first, bin);
        last = qnet__max_int(last, bin);
    }
    if (first > last) return;
    p.x_low = 10 * first;
    p.x_high = 10 * (last + 1);
    step = fmax(1, qnet__nice_step(most, 5));
    p.y_high = ceil(most / step) * step;
    qnet__put(w, "<div class=\"panel\"><h4>Age</h4>\n");
    qnet__svg_open(w, 236, "Ages of both groups");
    qnet__plot_ticks(w, &p, 1, step, 0);
    qnet__plot_ticks(w, &p, 0, 10, 0);
    for (int bin = first; bin <= last; bin++) {
        for (int label = 0; label < 2; label++) {
            const double wide = p.width / (last + 1 - first);
            const double top = qnet__plot_y(&p, count[label][bin]);
            qnet__svg_rect(w, label ? "hh" : "hc",
                           qnet__plot_x(&p, 10.0 * bin) + wide * (label ? 0.08 : 0.5), top,
                           wide * 0.4, p.top + p.height - top);
        }
    }
    qnet__plot_axes(w, &p, "Age in years", "Subjects");
    qnet__put(w, "</svg></div>\n");
}

/* Fig. 2 (b): men and women of each group, as bars of one length scale. */
static void qnet__svg_sexes(qnet__writer *w, const qnet__group group[3])
{
    static const char *const names[3] = { "men", "women", "unknown" };
    const int most = qnet__max_int(1, qnet__max_int(group[0].subjects, group[1].subjects));
    qnet__put(w, "<div class=\"panel\"><h4>Sex</h4>\n");
    qnet__svg_open(w, 200, "Men and women of both groups");
    for (int label = 1; label >= 0; label--) {
        const qnet__group *g = &group[label];
        const int counts[3] = { g->men, g->women, g->subjects - g->men - g->women };
        double y = label ? 10 : 112;
        for (int k = 0; k < (counts[2] ? 3 : 2); k++, y += 27) {
            const double length = 210.0 * counts[k] / most;
            qnet__svg_text(w, "m", "end", 82, y + 15, "%s %s", label ? "HH" : "HC", names[k]);
            qnet__svg_rect(w, k == 2 ? "no" : label ? "hh" : "hc", 90, y, length, 20);
            qnet__svg_text(w, "", "start", 96 + length, y + 15, "%d", counts[k]);
        }
    }
    qnet__put(w, "</svg></div>\n");
}

/* Loss of curve c at an epoch; NaN where it has none, or is of another input or model. */
static double qnet__loss(const qnet_experiment *e, int c, int input, int model, int epoch)
{
    const qnet_curve *curve = &e->curves[c];
    if (curve->input != input || curve->kind != model || epoch >= curve->epochs) return (double)NAN;
    return qnet__is_finite(curve->epoch[epoch].loss) ? curve->epoch[epoch].loss : (double)NAN;
}

/* One polyline per fold and repeat (thin), and their mean (thick). */
static void qnet__svg_loss_lines(qnet__writer *w, const qnet_experiment *e, int input, int model,
                                 const qnet__plot *p, int epochs)
{
    for (int c = 0; c < e->curves_count; c++) {
        if (e->curves[c].input != input || e->curves[c].kind != model) continue;
        qnet__print(w, "<polyline class=\"t c%d\" points=\"", model);
        for (int i = 0; i < epochs; i++) {
            const double loss = qnet__loss(e, c, input, model, i);
            if (loss != loss) continue;
            qnet__print(w, "%.1f,%.1f ", qnet__plot_x(p, i + 1), qnet__plot_y(p, loss));
        }
        qnet__put(w, "\"/>\n");
    }
    qnet__print(w, "<polyline class=\"l solid c%d\" points=\"", model);
    for (int i = 0; i < epochs; i++) {
        double sum = 0;
        int n = 0;
        for (int c = 0; c < e->curves_count; c++) {
            const double loss = qnet__loss(e, c, input, model, i);
            if (loss != loss) continue;
            sum += loss;
            n++;
        }
        if (n == 0) continue;
        qnet__print(w, "%.1f,%.1f ", qnet__plot_x(p, i + 1), qnet__plot_y(p, sum / n));
    }
    qnet__put(w, "\"/>\n");
}

static void qnet__figure_learning(qnet__writer *w, const qnet_experiment *e)
{
    qnet__put(w, "<figure><div class=\"panels\">");
    for (int k = 0; k < 2 * QNET_MODELS; k++) {
        const int input = qnet__table_input[k / QNET_MODELS], model = k % QNET_MODELS;
        qnet__plot p = { 44, 8, 284, 170, 1, 2, 0, 1 };
        int epochs = 0;
        double most = 0, step;
        for (int c = 0; c < e->curves_count; c++) {
            for (int i = 0; i < e->curves[c].epochs; i++) {
                const double loss = qnet__loss(e, c, input, model, i);
                if (loss > most) most = loss;
            }
            if (e->curves[c].input == input && e->curves[c].kind == model) {
                epochs = qnet__max_int(epochs, e->curves[c].epochs);
            }
        }
        if (!(most > 0)) continue;
        step = qnet__nice_step(most, 5);
        p.x_high = qnet__max_int(2, epochs);
        p.y_high = ceil(most / step - 1e-9) * step;
        qnet__print(w, "<div class=\"panel\"><h4>%s &middot; %s</h4>\n",
                    qnet_model_name((qnet_model_kind)model), qnet__input_title(input));
        qnet__svg_open(w, 222, "Training loss over epochs");
        qnet__plot_ticks(w, &p, 1, step, step < 0.01 ? 3 : step < 0.1 ? 2 : step < 1 ? 1 : 0);
        qnet__plot_ticks(w, &p, 0, fmax(1, qnet__nice_step(p.x_high - 1, 6)), 0);
        qnet__plot_axes(w, &p, "Epoch", "Loss");
        qnet__svg_loss_lines(w, e, input, model, &p, epochs);
        qnet__put(w, "</svg></div>\n");
    }
    qnet__put(w, "</div><figcaption>Training loss, one thin line per fold, their mean thick. "
                 "ResNet and ResNetSWA: cross-entropy by image on augmented slices. Q-Net: sum of "
                 "the two heads' cross-entropies, by scan and by image.</figcaption></figure>\n");
}

/* Fig. 9 (full size), Fig. 10 (cropped). */
static void qnet__figure_cams(qnet__writer *w, const qnet_experiment *e, int input)
{
    if (e->cams_count[input] == 0) return;
    qnet__print(w, "<figure><h3>%s</h3>\n<div class=\"cams\">\n", qnet__input_title(input));
    for (int i = 0; i < e->cams_count[input]; i++) {
        const qnet_cam_picture *c = &e->cams[input][i];
        const qnet_participant *s =
            c->scan >= 0 && c->scan < e->participants_count ? &e->participants[c->scan] : NULL;
        if (!c->rgb || !c->grey_rgb) continue;
        qnet__put(w, "<figure class=\"cam\"><div>");
        qnet__put_image(w, c->grey_rgb, c->width, c->height, "QSM slice");
        qnet__put_image(w, c->rgb, c->width, c->height, "the same slice with its heat map");
        qnet__put(w, "</div><figcaption><b>");
        qnet__put_escaped(w, s ? s->subject : "");
        qnet__print(w, "</b>, %s, slice %d: P(HH)&nbsp;%.2f</figcaption></figure>\n",
                    !s ? "" : s->label == QNET_HH ? "hemochromatosis" : "healthy control",
                    c->slice + 1, c->probability);
    }
    qnet__print(w, "</div><figcaption><b>Fig. %d.</b> Class activation maps by the image-level "
                   "network (ResNetSWA) of the fold that never saw the subject, for the class that "
                   "it chose (HH where P(HH) is above .5): left the QSM slice, right the map over "
                   "it. Each map is scaled to its own range, so colours compare places within a "
                   "slice, not subjects.</figcaption></figure>\n",
                input == QNET_INPUT_FULL ? 9 : 10);
}

/* The colour scale of the maps. */
static void qnet__svg_colour_bar(qnet__writer *w)
{
    qnet__put(w, "<div class=\"bar\">");
    qnet__svg_open(w, 44, "Colour scale, from blue for no evidence to red for most");
    qnet__put(w, "<defs><linearGradient id=\"jet\">");
    for (int i = 0; i <= 16; i++) {
        uint8_t rgb[3];
        char colour[8];
        qnet_jet(i / 16.0, rgb);
        snprintf(colour, sizeof colour, "#%02x%02x%02x", rgb[0], rgb[1], rgb[2]);
        qnet__print(w, "<stop offset=\"%.4f\" stop-color=\"%s\"/>", i / 16.0, colour);
    }
    qnet__put(w, "</linearGradient></defs>\n<rect x=\"0\" y=\"2\" width=\"344\" height=\"16\" "
                 "fill=\"url(#jet)\"/>\n");
    qnet__svg_text(w, "m", "start", 0, 36, "least evidence");
    qnet__svg_text(w, "m", "end", 344, 36, "most evidence for the class");
    qnet__put(w, "</svg></div>\n");
}

/* Fig. 3. */
static void qnet__figure_augmented(qnet__writer *w, const qnet_experiment *e)
{
    int shown = 0;
    for (int i = 0; i < 2; i++) {
        const int input = qnet__table_input[i];
        if (!e->augmented[input]) continue;
        qnet__print(w, "%s<h3>%s</h3>\n<div class=\"scroll sheet\">", shown++ ? "" : "<figure>",
                    qnet__input_title(input));
        qnet__put_image(w, e->augmented[input], e->augmented_width[input],
                        e->augmented_height[input], "a QSM slice and five augmented copies");
        qnet__put(w, "</div>\n");
    }
    if (!shown) return;
    qnet__put(w, "<figcaption><b>Fig. 3.</b> Left, a QSM slice as the test phase sees it; the "
                 "others are draws of the training augmentation from it: flips, brightness and "
                 "contrast, gamma, grid distortion, shift-scale-rotate, crop.</figcaption>"
                 "</figure>\n");
}

/* ---- report.html: the page ------------------------------------------------------------------- */

/* One of the large numbers at the top; unit "": as it is, otherwise in percent. */
static void qnet__html_tile(qnet__writer *w, const char *name, double value, const char *unit,
                            qnet_interval r)
{
    const int percent = *unit != '\0', decimals = percent ? 1 : 3;
    const double scale = percent ? 100 : 1;
    qnet__print(w, "<div class=\"tile\"><b>%.*f%s</b><span>%s</span><span>", decimals,
                value * scale, unit, name);
    if (qnet__is_interval(r)) {
        qnet__print(w, "95&nbsp;%% CI <i>%.*f&ndash;%.*f</i>", decimals, r.low * scale, decimals,
                    r.high * scale);
    }
    qnet__put(w, "</span></div>\n");
}

static void qnet__html_top(qnet__writer *w, const qnet_experiment *e, const qnet__group group[3])
{
    const int input = qnet__main_input(e);
    const qnet_model_result *q = &e->level[input][QNET_LEVEL_SCAN].model[QNET_MODEL_QNET];
    const qnet_metrics *m = &q->first;
    qnet__print(w, "<p class=\"kicker\">Q-Net &middot; report of an experiment%s</p>\n"
                   "<h1>Hemochromatosis or healthy? Brain iron maps of %d subjects</h1>\n"
                   "<p class=\"verdict\">",
                e->config.shuffle_labels ? " &middot; shuffled-label control" : "",
                group[2].subjects);
    qnet__put_verdict(w, e);
    qnet__put(w, "</p>\n");
    if (qnet__has_input(e, input)) {
        const char *percent = "&thinsp;%";
        qnet__put(w, "<div class=\"tiles\">\n");
        qnet__html_tile(w, "AUC", q->auc_first, "", q->auc_ci_clustered);
        qnet__html_tile(w, "Accuracy", m->accuracy, percent, m->accuracy_ci);
        qnet__html_tile(w, "Sensitivity", m->sensitivity, percent, m->sensitivity_ci);
        qnet__html_tile(w, "Specificity", m->specificity, percent, m->specificity_ci);
        qnet__print(w, "</div>\n<p class=\"key\">Q-Net, one decision per scan, %s. The AUC is the "
                       "chance that a scan of hemochromatosis gets a higher score than one of a "
                       "healthy control; a coin has 0.5. CI: confidence interval. Research "
                       "software: no basis for the diagnosis of a patient.</p>\n",
                    input == QNET_INPUT_CROP ? "cropped image" : "full size image");
    }
    qnet__put(w, "<div class=\"care\"><b>Read with care</b><ul>\n");
    qnet__put_warnings(w, e, group);
    qnet__put(w, "</ul></div>\n");
}

static void qnet__html_cohort(qnet__writer *w, const qnet_experiment *e, const qnet__group group[3])
{
    static const char *const names[3] = { "Healthy controls (HC)", "Hemochromatosis (HH)", "All" };
    static const int rows[3] = { 1, 0, 2 };
    qnet__print(w, "<h2>What was run</h2>\n<p>%d-fold cross-validation over individuals%s: the "
                   "subjects are split into %d folds, and each fold is judged by models that were "
                   "trained on the others. ",
                e->config.folds, e->config.repeats > 1 ? ", repeated with new folds" : "",
                e->config.folds);
    qnet__print(w, "Per fold three models: <b>ResNet</b> (ResNet18 on single slices, %d epochs), "
                   "<b>ResNetSWA</b> (the same with stochastic weight averaging), both of which "
                   "vote over the slices of a scan, and <b>Q-Net</b> (the frozen ResNetSWA's "
                   "features of all slices through a bidirectional LSTM, %d epochs). Each image "
                   "holds three channels: QSM, R2* and T1-weighted.</p>\n<div class=\"scroll\">"
                   "<table><thead><tr>",
                e->config.stage1.epochs, e->config.stage2.epochs);
    qnet__cells(w, "th", "Group|>Subjects|>Men|>Women|>Age, mean &plusmn; SD|>Age range|>Scans|"
                         ">Slices");
    qnet__put(w, "</tr></thead><tbody>\n");
    for (int k = 0; k < 3; k++) {
        const qnet__group *g = &group[rows[k]];
        qnet__print(w, "<tr%s>", k == 2 ? " class=\"first\"" : "");
        qnet__cells(w, "td", "%s|>%d|>%d|>%d|>%.1f &plusmn; %.1f|>%.0f&thinsp;&ndash;&thinsp;%.0f|"
                             ">%d|>%d",
                    names[rows[k]], g->subjects, g->men, g->women, g->age_mean, g->age_std,
                    g->age_low, g->age_high, g->scans, g->slices);
        qnet__row_end(w);
    }
    qnet__put(w, "</tbody></table></div>\n<figure><div class=\"panels\">\n");
    qnet__svg_ages(w, e);
    qnet__svg_sexes(w, group);
    qnet__put(w, "</div><figcaption><span class=\"sw\" style=\"background:var(--hh)\"></span>HH "
                 "&nbsp; <span class=\"sw\" style=\"background:var(--hc)\"></span>HC &nbsp; "
                 "<b>Fig. 2.</b> Age and sex of the subjects.</figcaption></figure>\n");
}

static void qnet__html_results(qnet__writer *w, const qnet_experiment *e)
{
    int input[2];
    qnet__put(w, "<h2>Results by image</h2>\n");
    qnet__html_rates(w, e, QNET_LEVEL_IMAGE);
    qnet__put(w, "<p class=\"key\">");
    qnet__put_spread(w, e);
    qnet__put(w, " Sensitivity is the share of hemochromatosis that is recognised, specificity "
                 "that of healthy controls. The F1-score is the mean of both groups', weighted by "
                 "their size.</p>\n");
    if (qnet__inputs(e, input) == 2) qnet__figure_inputs(w, e, QNET_LEVEL_IMAGE);
    qnet__figure_models(w, e);
    qnet__html_pairs(w, e, QNET_LEVEL_IMAGE);
    qnet__put(w, "<p class=\"key\"><i>ns</i> p &gt; .05, * p &le; .05, ** p &le; .01, *** p &le; "
                 ".001, **** p &le; .0001.</p>\n");
    qnet__figure_boxes(w, e);
    qnet__put_intervals(w, e, QNET_LEVEL_IMAGE);
    qnet__put(w, "<h2>Results by scan</h2>\n");
    qnet__html_rates(w, e, QNET_LEVEL_SCAN);
    qnet__put(w, "<p class=\"key\">ResNet and ResNetSWA: majority of their slices, a tie counts as "
                 "healthy; their ROC curves use the mean probability. Q-Net decides once per scan."
                 "</p>\n");
    qnet__figure_inputs(w, e, QNET_LEVEL_SCAN);
    qnet__html_pairs(w, e, QNET_LEVEL_SCAN);
    qnet__put_intervals(w, e, QNET_LEVEL_SCAN);
}

static void qnet__html_training(qnet__writer *w, const qnet_experiment *e)
{
    qnet__put(w, "<h2>How it was trained</h2>\n");
    qnet__figure_augmented(w, e);
    if (e->curves_count > 0) qnet__figure_learning(w, e);
    qnet__put(w, "<h3>Folds</h3>\n<p class=\"cap\">Who was tested in which fold of the first "
                 "repeat; no subject is in two.</p>\n<div class=\"scroll\"><table><thead><tr>");
    qnet__cells(w, "th", ">Fold|>HH|>HC|>Men|>Women|>Mean age|Subjects");
    qnet__put(w, "</tr></thead><tbody>\n");
    for (int fold = 0; fold < e->config.folds; fold++) {
        qnet__group g[3];
        int named = 0;
        qnet__groups(e, fold, g);
        qnet__put(w, "<tr>");
        qnet__cells(w, "td", ">%d|>%d|>%d|>%d|>%d|>%.1f", fold + 1, g[1].subjects, g[0].subjects,
                    g[2].men, g[2].women, g[2].age_mean);
        qnet__put(w, "<td class=\"wrap small\">");
        for (int i = 0; i < e->participants_count; i++) {
            if (e->fold[i] != fold || !qnet__is_first_scan(e, i)) continue;
            if (named++) qnet__put(w, ", ");
            qnet__put_escaped(w, e->participants[i].subject);
        }
        qnet__put(w, "</td></tr>\n");
    }
    qnet__put(w, "</tbody></table></div>\n");
}

static void qnet__html_record(qnet__writer *w, const qnet_experiment *e)
{
    static const char *const names[3] = { "Build", "Data", "Results" };
    const int minutes = e->seconds >= 600;
    char build[256];
    qnet_describe_build(e->ctx, build, sizeof build);
    qnet__put(w, "<h2>Record</h2>\n<p>Everything that changes a number on this page. The same "
                 "configuration, data, build and kind of processor give the same numbers again."
                 "</p>\n<div class=\"scroll\"><table><tbody>\n");
    for (int i = 0; i < 3; i++) {
        qnet__print(w, "<tr><td>%s</td><td class=\"wrap\">", names[i]);
        qnet__put_escaped(w, i == 0 ? build : i == 1 ? e->data : e->out);
        qnet__put(w, "</td></tr>\n");
    }
    for (int input = 0; input < 2; input++) {
        if (!qnet__has_input(e, input)) continue;
        qnet__print(w, "<tr><td>Hash of the images, %s</td><td><code>%016llx</code></td></tr>\n",
                    qnet_input_name((qnet_input)input), (unsigned long long)e->cohort_hash[input]);
    }
    if (e->weights[0]) {
        qnet__print(w, "<tr><td>Hash of the initial weights</td><td><code>%016llx</code></td></tr>"
                       "\n", (unsigned long long)e->weights_hash);
    }
    qnet__print(w, "<tr><td>Time</td><td>%.*f %s</td></tr>\n</tbody></table></div>\n"
                   "<h3>Configuration</h3>\n<div class=\"sets\">\n",
                minutes, minutes ? e->seconds / 60 : e->seconds, minutes ? "minutes" : "seconds");
    qnet__put_settings(w, e);
    qnet__put(w, "</div>\n");
}

QNET_API qnet_status qnet_experiment_html(const qnet_experiment *e, qnet_buffer *html)
{
    qnet__writer writer, *w = &writer;
    qnet__group group[3];
    QNET__TRY(qnet__writer_begin(w, e, html, "qnet_experiment_html", "&ndash;"));
    w->html = 1;
    qnet__groups(e, -1, group);
    qnet__put(w, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta "
                 "name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta "
                 "name=\"color-scheme\" content=\"light dark\">\n<title>Q-Net report</title>\n"
                 "<style>\n");
    qnet__put_css(w);
    qnet__put(w, "</style>\n</head>\n<body>\n<main>\n");
    qnet__html_top(w, e, group);
    qnet__html_cohort(w, e, group);
    if (qnet__has_input(e, qnet__main_input(e))) qnet__html_results(w, e);
    if (e->cams_count[0] + e->cams_count[1] > 0) {
        qnet__put(w, "<h2>Where the network looks</h2>\n<p>Red regions speak most for the class "
                     "that the network chose, dark blue ones least. The maps show where evidence "
                     "was found, not that it is right.</p>\n");
        qnet__svg_colour_bar(w);
        qnet__figure_cams(w, e, QNET_INPUT_FULL);
        qnet__figure_cams(w, e, QNET_INPUT_CROP);
    }
    qnet__html_training(w, e);
    qnet__html_record(w, e);
    qnet__print(w, "<p class=\"small\">Written by qnet.h %s. Method: Zabihi et al., <i>Q-Net: a "
                   "quantitative susceptibility mapping-based deep neural network for differential "
                   "diagnosis of brain iron deposition in hemochromatosis</i>. Tests: DeLong et "
                   "al. 1988, Obuchowski 1997, Wilson 1927.</p>\n</main>\n</body>\n</html>\n",
                QNET_VERSION);
    return qnet__writer_end(w);
}

/* ============================================================================================
   >>experiment
   The paper's experiment on one cohort: for each input configuration, repeat and fold
     stage 1            ResNet       cosine annealing over all epochs
     stage 1 with SWA   ResNetSWA    the same run up to the first averaged epoch (so it continues
                                     from a checkpoint taken there), then its own tail
     features           512 per slice from the frozen ResNetSWA, computed once
     stage 2            Q-Net        BiLSTM and two heads
   and the test fold's probabilities by all three. Then metrics, ROC, DeLong, bootstrap and CAM.
   ============================================================================================ */

QNET_API void qnet_experiment_config_init(qnet_experiment_config *config)
{
    memset(config, 0, sizeof *config);
    config->use_input[QNET_INPUT_CROP] = 1;
    config->use_input[QNET_INPUT_FULL] = 1;
    qnet_input_config_init(&config->input[QNET_INPUT_CROP], QNET_INPUT_CROP);
    qnet_input_config_init(&config->input[QNET_INPUT_FULL], QNET_INPUT_FULL);
    config->folds = 10;
    config->repeats = 1;
    config->bootstrap = 2000;
    config->seed = 1;
    qnet_stage1_config_init(&config->stage1);
    qnet_stage2_config_init(&config->stage2);
    config->cam_scans = 3;
}

#ifndef QNET_NO_STDIO

/* ---- Configuration as text ---------------------------------------------------------------------
   "key=value" lines: what a resume compares, and what weight files carry. */

/* One line of a configuration text; the decimal sign is a point whatever the locale. */
static qnet_status qnet__config_line(qnet_context *ctx, qnet_buffer *text, const char *key,
                                     double value)
{
    char number[40];
    qnet__format_number(number, sizeof number, value);
    return qnet_buffer_printf(ctx, text, "%s=%s\n", key, number);
}

/* A line whose key has a prefix and an index, such as "augment.mean.0". */
static qnet_status qnet__config_line_at(qnet_context *ctx, qnet_buffer *text, const char *key,
                                        int i, double value)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%d", key, i);
    return qnet__config_line(ctx, text, name, value);
}

/* The fields of a preparation: where the slices come from and what the network sees of them. */
static qnet_status qnet__preparation_text(qnet_context *ctx, const qnet_input_config *in,
                                          const qnet_augment_config *a, qnet_buffer *text)
{
    QNET__TRY(qnet_buffer_printf(ctx, text, "input=%s\n", qnet_input_name(in->input)));
    QNET__TRY(qnet__config_line(ctx, text, "size", in->size));
    QNET__TRY(qnet__config_line(ctx, text, "box_mm", in->box_mm));
    QNET__TRY(qnet__config_line(ctx, text, "margin", in->margin));
    QNET__TRY(qnet__config_line(ctx, text, "max_slices", in->max_slices));
    QNET__TRY(qnet__config_line(ctx, text, "slice_first", in->slice_first));
    QNET__TRY(qnet__config_line(ctx, text, "slice_count", in->slice_count));
    QNET__TRY(qnet__config_line(ctx, text, "box_explicit", in->box_explicit));
    QNET__TRY(qnet__config_line_at(ctx, text, "box_center_mm", 0, in->box_center_mm[0]));
    QNET__TRY(qnet__config_line_at(ctx, text, "box_center_mm", 1, in->box_center_mm[1]));
    QNET__TRY(qnet__config_line(ctx, text, "stretch", (double)a->stretch));
    QNET__TRY(qnet__config_line(ctx, text, "percentile_low", a->percentile_low));
    QNET__TRY(qnet__config_line(ctx, text, "percentile_high", a->percentile_high));
    for (int c = 0; c < 3; c++) {
        QNET__TRY(qnet__config_line_at(ctx, text, "window_low", c, a->window_low[c]));
        QNET__TRY(qnet__config_line_at(ctx, text, "window_high", c, a->window_high[c]));
        QNET__TRY(qnet__config_line_at(ctx, text, "mean", c, a->mean[c]));
        QNET__TRY(qnet__config_line_at(ctx, text, "std", c, a->std[c]));
    }
    return QNET_OK;
}

/* Every field that changes a result. */
static qnet_status qnet__experiment_text(const qnet_experiment *e, qnet_buffer *text)
{
    qnet_context *ctx = e->ctx;
    const qnet_experiment_config *c = &e->config;
    const qnet_augment_config *a = &c->stage1.augment;
    QNET__TRY(qnet_buffer_printf(ctx, text, "version=%s\nreal=%s\nkernels=%s\nweights=%016llx\n",
                                 QNET_VERSION, QNET__REAL_IS_DOUBLE ? "double" : "float",
                                 qnet__kernels_name(ctx), (unsigned long long)e->weights_hash));
    for (int i = 0; i < 2; i++) {
        if (c->use_input[i]) QNET__TRY(qnet__preparation_text(ctx, &c->input[i], a, text));
    }
    QNET__TRY(qnet__config_line(ctx, text, "folds", c->folds));
    QNET__TRY(qnet__config_line(ctx, text, "repeats", c->repeats));
    QNET__TRY(qnet__config_line(ctx, text, "shuffle_labels", c->shuffle_labels));
    QNET__TRY(qnet_buffer_printf(ctx, text, "seed=%llu\n", (unsigned long long)c->seed));
    QNET__TRY(qnet__config_line(ctx, text, "stage1.epochs", c->stage1.epochs));
    QNET__TRY(qnet__config_line(ctx, text, "stage1.batch", c->stage1.batch));
    QNET__TRY(qnet__config_line(ctx, text, "stage1.rate_first", c->stage1.rate_first));
    QNET__TRY(qnet__config_line(ctx, text, "stage1.rate_last", c->stage1.rate_last));
    QNET__TRY(qnet__config_line(ctx, text, "stage1.swa_share", c->stage1.swa_share));
    QNET__TRY(qnet__config_line(ctx, text, "stage1.swa_rate", c->stage1.swa_rate));
    QNET__TRY(qnet__config_line(ctx, text, "stage1.adam.beta1", c->stage1.adam.beta1));
    QNET__TRY(qnet__config_line(ctx, text, "stage1.adam.beta2", c->stage1.adam.beta2));
    QNET__TRY(qnet__config_line(ctx, text, "stage1.adam.eps", c->stage1.adam.eps));
    QNET__TRY(qnet__config_line(ctx, text, "augment.p_hflip", a->p_hflip));
    QNET__TRY(qnet__config_line(ctx, text, "augment.p_vflip", a->p_vflip));
    QNET__TRY(
        qnet__config_line(ctx, text, "augment.p_brightness_contrast", a->p_brightness_contrast));
    QNET__TRY(qnet__config_line(ctx, text, "augment.p_gamma", a->p_gamma));
    QNET__TRY(qnet__config_line(ctx, text, "augment.p_grid", a->p_grid));
    QNET__TRY(qnet__config_line(ctx, text, "augment.p_affine", a->p_affine));
    QNET__TRY(qnet__config_line(ctx, text, "augment.brightness", a->brightness));
    QNET__TRY(qnet__config_line(ctx, text, "augment.contrast", a->contrast));
    QNET__TRY(qnet__config_line(ctx, text, "augment.gamma_low", a->gamma_low));
    QNET__TRY(qnet__config_line(ctx, text, "augment.gamma_high", a->gamma_high));
    QNET__TRY(qnet__config_line(ctx, text, "augment.grid_limit", a->grid_limit));
    QNET__TRY(qnet__config_line(ctx, text, "augment.shift", a->shift));
    QNET__TRY(qnet__config_line(ctx, text, "augment.scale", a->scale));
    QNET__TRY(qnet__config_line(ctx, text, "augment.rotate", a->rotate));
    QNET__TRY(qnet__config_line(ctx, text, "augment.physics_safe", a->physics_safe));
    QNET__TRY(qnet__config_line(ctx, text, "stage2.epochs", c->stage2.epochs));
    QNET__TRY(qnet__config_line(ctx, text, "stage2.batch", c->stage2.batch));
    QNET__TRY(qnet__config_line(ctx, text, "stage2.rate", c->stage2.rate));
    QNET__TRY(qnet__config_line(ctx, text, "stage2.hidden", c->stage2.hidden));
    QNET__TRY(qnet__config_line(ctx, text, "stage2.adam.beta1", c->stage2.adam.beta1));
    QNET__TRY(qnet__config_line(ctx, text, "stage2.adam.beta2", c->stage2.adam.beta2));
    return qnet__config_line(ctx, text, "stage2.adam.eps", c->stage2.adam.eps);
}

/* ---- Evaluation of one level ----------------------------------------------------------------- */

/* Mean and standard deviation (n - 1; 0 for one value) of the values that are not NaN. */
static qnet_mean_std qnet__mean_std(const double *values, int count)
{
    qnet_mean_std r;
    double sum = 0, square = 0;
    int n = 0;
    for (int i = 0; i < count; i++) {
        if (!qnet__is_finite(values[i])) continue;
        sum += values[i];
        n++;
    }
    r.mean = n ? sum / n : (double)NAN;
    for (int i = 0; i < count; i++) {
        if (qnet__is_finite(values[i])) square += (values[i] - r.mean) * (values[i] - r.mean);
    }
    r.std = n > 1 ? sqrt(square / (n - 1)) : 0.0;
    return r;
}

/* The columns of a level's items that the metrics read, each [n]. */
typedef struct qnet__columns {
    int *label, *decision, *cluster;
    double *score;
} qnet__columns;

/* Fills the columns with the items of one model, those of `fold` or (-1) all; returns how many. */
static size_t qnet__columns_fill(qnet__columns *c, const qnet_item *items, size_t count, int model,
                                 int fold, const int *subject)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        if (fold >= 0 && items[i].fold != fold) continue;
        c->label[n] = items[i].label;
        c->decision[n] = items[i].decision[model];
        c->cluster[n] = subject[items[i].scan];
        c->score[n] = items[i].probability[model];
        n++;
    }
    return n;
}

/* One value per repeat (or, with one repeat, per fold) of the five figures of Tables 1 and 3. */
typedef struct qnet__figures {
    double accuracy, sensitivity, specificity, f1, auc;
} qnet__figures;

static qnet_status qnet__figures_of(qnet_context *ctx, const qnet__columns *c, size_t n,
                                    qnet__figures *out)
{
    qnet_metrics m;
    double auc;
    QNET__TRY(qnet_metrics_from(ctx, c->label, c->decision, n, &m));
    if (qnet_auc(ctx, c->label, c->score, n, &auc) != QNET_OK)
        auc = (double)NAN; /* one-class fold */
    out->accuracy = m.accuracy;
    out->sensitivity = m.sensitivity;
    out->specificity = m.specificity;
    out->f1 = m.f1;
    out->auc = auc;
    return QNET_OK;
}

/* One line of Tables 1 and 3: mean and deviation over repeats, or value and that over folds. */
static qnet_status qnet__evaluate_figures(qnet_context *ctx, const qnet_experiment_config *config,
                                          const qnet_level_result *level, int model,
                                          const int *subject, qnet__columns *columns,
                                          double *values, qnet_model_result *out)
{
    const int by_fold = config->repeats == 1;
    const int parts = by_fold ? config->folds : config->repeats;
    qnet__figures f;
    qnet_mean_std *cell[5];
    cell[0] = &out->accuracy;
    cell[1] = &out->sensitivity;
    cell[2] = &out->specificity;
    cell[3] = &out->f1;
    cell[4] = &out->auc;
    for (int k = 0; k < parts; k++) {
        const qnet_item *items = level->items + (by_fold ? 0 : (size_t)k * level->count);
        size_t n =
            qnet__columns_fill(columns, items, level->count, model, by_fold ? k : -1, subject);
        QNET__TRY(qnet__figures_of(ctx, columns, n, &f));
        values[k] = f.accuracy;
        values[parts + k] = f.sensitivity;
        values[2 * parts + k] = f.specificity;
        values[3 * parts + k] = f.f1;
        values[4 * parts + k] = f.auc;
    }
    for (int q = 0; q < 5; q++) *cell[q] = qnet__mean_std(values + q * parts, parts);
    if (by_fold) { /* the value over all test items, as the paper pools them */
        size_t n = qnet__columns_fill(columns, level->items, level->count, model, -1, subject);
        QNET__TRY(qnet__figures_of(ctx, columns, n, &f));
        out->accuracy.mean = f.accuracy;
        out->sensitivity.mean = f.sensitivity;
        out->specificity.mean = f.specificity;
        out->f1.mean = f.f1;
        out->auc.mean = f.auc;
    }
    return QNET_OK;
}

/* Everything of one model on the first repeat: metrics, ROC, DeLong intervals, bootstraps. */
static qnet_status qnet__evaluate_model(qnet_context *ctx, const qnet_experiment_config *config,
                                        const qnet_level_result *level, int model,
                                        const int *subject, qnet__columns *columns, double *boot,
                                        qnet_model_result *out)
{
    const size_t n = qnet__columns_fill(columns, level->items, level->count, model, -1, subject);
    qnet_delong d;
    QNET__TRY(qnet_metrics_from(ctx, columns->label, columns->decision, n, &out->first));
    QNET__TRY(qnet_auc(ctx, columns->label, columns->score, n, &out->auc_first));
    QNET__TRY(qnet_delong_test(ctx, columns->label, columns->score, NULL, NULL, n, &d));
    out->auc_ci = d.ci[0];
    QNET__TRY(qnet_delong_test(ctx, columns->label, columns->score, NULL, columns->cluster, n, &d));
    out->auc_ci_clustered = d.ci[0];
    QNET__TRY(qnet_roc(ctx, columns->label, columns->score, n, out->roc, &out->roc_count));
    for (int by_subject = 0; by_subject < 2; by_subject++) {
        QNET__TRY(qnet_bootstrap_auc(ctx, columns->label, columns->score,
                                     by_subject ? columns->cluster : NULL, n, config->bootstrap,
                                     config->seed, boot));
        QNET__TRY(qnet_boxplot_of(ctx, boot, (size_t)config->bootstrap,
                                  by_subject ? &out->bootstrap_clustered : &out->bootstrap));
    }
    return QNET_OK;
}

/* The pairs of Table 2, in its order. */
static qnet_status qnet__evaluate_pairs(qnet_context *ctx, qnet_level_result *level,
                                        const int *subject, qnet__columns *columns, double *score1)
{
    static const qnet_model_kind pairs[3][2] = { { QNET_MODEL_RESNET_SWA, QNET_MODEL_RESNET },
                                                 { QNET_MODEL_QNET, QNET_MODEL_RESNET },
                                                 { QNET_MODEL_QNET, QNET_MODEL_RESNET_SWA } };
    for (int k = 0; k < 3; k++) {
        qnet_pair_result *pair = &level->pair[k];
        size_t n;
        pair->model1 = pairs[k][0];
        pair->model2 = pairs[k][1];
        n = qnet__columns_fill(columns, level->items, level->count, (int)pair->model1, -1, subject);
        memcpy(score1, columns->score, n * sizeof *score1);
        qnet__columns_fill(columns, level->items, level->count, (int)pair->model2, -1, subject);
        QNET__TRY(
            qnet_delong_test(ctx, columns->label, score1, columns->score, NULL, n, &pair->by_item));
        QNET__TRY(qnet_delong_test(ctx, columns->label, score1, columns->score, columns->cluster, n,
                                   &pair->by_subject));
    }
    return QNET_OK;
}

/* Fills a level's results from its items. subject[scan]: the index of its subject. */
static qnet_status qnet__evaluate_level(qnet_experiment *e, qnet_level_result *level,
                                        const int *subject)
{
    qnet_context *ctx = e->ctx;
    const int parts = qnet__max_int(e->config.repeats, e->config.folds);
    qnet__arena arena = { NULL, 0 };
    qnet__columns columns;
    double *boot = NULL, *values = NULL, *score1 = NULL;
    qnet_status status = QNET_OK;
    size_t bytes = 0;
    memset(&columns, 0, sizeof columns);
    for (int pass = 0; pass < 2; pass++) {
        columns.label = (int *)qnet__take(&arena, level->count, sizeof(int));
        columns.decision = (int *)qnet__take(&arena, level->count, sizeof(int));
        columns.cluster = (int *)qnet__take(&arena, level->count, sizeof(int));
        columns.score = (double *)qnet__take(&arena, level->count, sizeof(double));
        score1 = (double *)qnet__take(&arena, level->count, sizeof(double));
        boot = (double *)qnet__take(&arena, (size_t)e->config.bootstrap, sizeof(double));
        values = (double *)qnet__take(&arena, (size_t)parts * 5, sizeof(double));
        if (pass == 0) {
            bytes = arena.at;
            arena.at = 0;
            arena.base = (unsigned char *)qnet__alloc(ctx, bytes);
            if (!arena.base) return qnet__no_memory(ctx, bytes, "the evaluation");
        }
    }
    for (int m = 0; m < QNET_MODELS && status == QNET_OK; m++) {
        status = qnet__evaluate_figures(ctx, &e->config, level, m, subject, &columns, values,
                                        &level->model[m]);
        if (status == QNET_OK) {
            status = qnet__evaluate_model(ctx, &e->config, level, m, subject, &columns, boot,
                                          &level->model[m]);
        }
    }
    if (status == QNET_OK) status = qnet__evaluate_pairs(ctx, level, subject, &columns, score1);
    qnet__free(ctx, arena.base, bytes);
    return status;
}

/* ---- One fold -------------------------------------------------------------------------------- */

/* What a fold's work needs; one lives in qnet_experiment_run and is passed down. */
typedef struct qnet__job {
    qnet_experiment *e;
    qnet_cohort *cohort;
    qnet_resnet *initial; /* holds the initial weights; NULL: random ones */
    int new_head;         /* 1: its fc is none of the file's, and drawn anew for each fold */
    char subjects[24];    /* hash of the names of the cohort's subjects */
    char trained_on[24];  /* the same of the subjects that the initial weights saw; "": not known */
    int input, repeat, fold; /* all from 0 */
    int *train, *test;       /* scans of this fold's two sides */
    int train_count, test_count;
    int *length, *label;     /* [train_count] for stage 2 */
    int opened;              /* 1: out/checkpoint is there and is this run's */
    uint64_t fingerprint;    /* of configuration, cohort and initial weights */
    const qnet_buffer *text; /* the configuration, as config.txt holds it */
    int resume;
    qnet_progress outer; /* the caller's progress hook */
    char where[64];
    double share_before, share;               /* of the whole job: earlier inputs, this input */
    double work_done, work_total, work_epoch; /* pixels to train on: so far, in all, in one epoch */
    double phase_work;                        /* of this fold, before the present stage-1 run */
    int phase_first; /* epoch at which the present stage-1 run began; -1: not stage 1 */
} qnet__job;

/* The path out/checkpoint/<input>-repeat01-fold03<suffix>. */
static void qnet__job_path(const qnet__job *job, const char *suffix, char path[700])
{
    snprintf(path, 700, "%s/checkpoint/%s-repeat%02d-fold%02d%s", job->e->out,
             qnet_input_name((qnet_input)job->input), job->repeat + 1, job->fold + 1, suffix);
}

/* The experiment's own progress hook: adds where and the share of the whole job, and passes on. */
static int qnet__job_progress(void *user, const qnet_progress_info *info)
{
    qnet__job *job = (qnet__job *)user;
    qnet_progress_info full = *info;
    double work = job->work_done + job->phase_work;
    if (!job->outer.report) return 0;
    if (job->phase_first >= 0) { /* without an epoch: the batch-norm pass behind the last one */
        double epochs =
            (info->epoch > 0 ? info->epoch - 1 : job->e->config.stage1.epochs) - job->phase_first;
        if (info->epoch > 0 && info->steps > 0) epochs += (double)info->step / (double)info->steps;
        if (epochs > 0) work += job->work_epoch * epochs;
    }
    full.where = job->where;
    full.fraction = job->share_before;
    if (job->work_total > 0)
        full.fraction += job->share * (work < job->work_total ? work / job->work_total : 1);
    return job->outer.report(job->outer.user, &full);
}

static void qnet__remove_file(const char *path)
{
    (void)remove(path); /* a work file that is not there is as good as removed */
}

/* Metadata of a weights file: what it is, and how its images were prepared. pairs[] points into
   text, which holds "key=value" lines and is cut up in place; returns the number of pairs. */
static int qnet__metadata_pairs(char *text, const char **pairs, int most)
{
    int n = 0;
    while (*text && n < most) {
        char *equals = strchr(text, '='), *end = strchr(text, '\n');
        if (!equals || !end || equals > end) break;
        *equals = *end = '\0';
        pairs[2 * n] = text;
        pairs[2 * n + 1] = equals + 1;
        n++;
        text = end + 1;
    }
    return n;
}

/* Saves a trained network of this fold as out/checkpoint/<...>-<model>.safetensors. */
static qnet_status qnet__job_save_weights(const qnet__job *job, const char *model,
                                          const qnet_param_table *table, const qnet_real *block)
{
    qnet_context *ctx = job->e->ctx;
    const qnet_experiment_config *c = &job->e->config;
    const char *pairs[2 * 48];
    char path[700], suffix[64];
    qnet_buffer text;
    qnet_status status;
    memset(&text, 0, sizeof text);
    snprintf(suffix, sizeof suffix, "-%s.safetensors", model);
    qnet__job_path(job, suffix, path);
    status = qnet_buffer_printf(
        ctx, &text, "model=%s\nversion=%s\nsubjects=%s\nrepeat=%d\nfold=%d\nseed=%llu\n", model,
        QNET_VERSION, job->subjects, job->repeat + 1, job->fold + 1, (unsigned long long)c->seed);
    if (status == QNET_OK) {
        status = qnet__preparation_text(ctx, &job->cohort->config, &c->stage1.augment, &text);
    }
    if (status == QNET_OK) status = qnet_buffer_append(ctx, &text, "", 1);
    if (status == QNET_OK) {
        int n = qnet__metadata_pairs((char *)text.bytes, pairs, 48);
        status = qnet_weights_save(ctx, path, table, block, pairs, n);
    }
    qnet_buffer_free(ctx, &text);
    return status;
}

/* The seed of a stage: one number per repeat and fold, so that no two runs share a stream. */
static uint64_t qnet__job_seed(const qnet__job *job)
{
    uint64_t h = qnet_hash(QNET_HASH_START, &job->e->config.seed, sizeof job->e->config.seed);
    uint32_t place[3];
    place[0] = (uint32_t)job->input;
    place[1] = (uint32_t)job->repeat;
    place[2] = (uint32_t)job->fold;
    return qnet_hash(h, place, sizeof place);
}

/* What a fold leaves behind: test probabilities and learning curves; one block, kept as a file. */
typedef struct qnet__fold_result {
    double *image;              /* [QNET_MODELS][images of the test scans, in order] */
    double *scan;               /* [QNET_MODELS][test scans]; voting models: mean over slices */
    double *curve[QNET_MODELS]; /* [epochs][3]: loss, learning rate, seconds */
    int images, scans, epochs[QNET_MODELS];
    size_t bytes;
    void *block;
} qnet__fold_result;

static qnet_status qnet__fold_result_create(const qnet__job *job, qnet__fold_result *r)
{
    qnet_context *ctx = job->e->ctx;
    qnet__arena arena = { NULL, 0 };
    memset(r, 0, sizeof *r);
    r->scans = job->test_count;
    for (int i = 0; i < job->test_count; i++) r->images += job->cohort->scans[job->test[i]].slices;
    r->epochs[QNET_MODEL_RESNET] = job->e->config.stage1.epochs;
    r->epochs[QNET_MODEL_RESNET_SWA] = job->e->config.stage1.epochs;
    r->epochs[QNET_MODEL_QNET] = job->e->config.stage2.epochs;
    for (int pass = 0; pass < 2; pass++) {
        r->image = (double *)qnet__take(&arena, (size_t)r->images * QNET_MODELS, sizeof(double));
        r->scan = (double *)qnet__take(&arena, (size_t)r->scans * QNET_MODELS, sizeof(double));
        for (int m = 0; m < QNET_MODELS; m++) {
            r->curve[m] = (double *)qnet__take(&arena, (size_t)r->epochs[m] * 3, sizeof(double));
        }
        if (pass == 0) {
            r->bytes = arena.at;
            arena.at = 0;
            arena.base = (unsigned char *)qnet__alloc(ctx, r->bytes);
            if (!arena.base) return qnet__no_memory(ctx, r->bytes, "a fold's result");
        }
    }
    r->block = arena.base;
    memset(r->block, 0, r->bytes);
    return QNET_OK;
}

/* The tensors of a fold's file; data points into r. */
#define QNET__FOLD_TENSORS (2 + QNET_MODELS)
static void qnet__fold_tensors(const qnet__fold_result *r, qnet_safetensor *t)
{
    static const char *const names[QNET__FOLD_TENSORS] = { "image", "scan", "curve.ResNet",
                                                           "curve.ResNetSWA", "curve.Q-Net" };
    memset(t, 0, QNET__FOLD_TENSORS * sizeof *t);
    for (int i = 0; i < QNET__FOLD_TENSORS; i++) {
        snprintf(t[i].name, sizeof t[i].name, "%s", names[i]);
        t[i].dtype = QNET_F64;
        t[i].ndim = 2;
        t[i].shape[0] = i < 2 ? (size_t)QNET_MODELS : (size_t)r->epochs[i - 2];
        t[i].shape[1] = i == 0 ? (size_t)r->images : i == 1 ? (size_t)r->scans : 3;
        t[i].count = t[i].shape[0] * t[i].shape[1];
        t[i].bytes = t[i].count * sizeof(double);
        t[i].data = i == 0 ? r->image : i == 1 ? r->scan : r->curve[i - 2];
    }
}

static qnet_status qnet__fold_save(const qnet__job *job, const qnet__fold_result *r)
{
    qnet_context *ctx = job->e->ctx;
    qnet_safetensor tensors[QNET__FOLD_TENSORS];
    char path[700], fingerprint[24];
    const char *pairs[2];
    qnet__file file;
    qnet_sink sink;
    qnet_status status;
    qnet__fold_tensors(r, tensors);
    snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)job->fingerprint);
    pairs[0] = "fingerprint";
    pairs[1] = fingerprint;
    qnet__job_path(job, "-result.safetensors", path);
    QNET__TRY(qnet__file_open_replace(ctx, path, &file, &sink));
    status = qnet_safetensors_write(ctx, &sink, tensors, QNET__FOLD_TENSORS, pairs, 1);
    if (status != QNET_OK) {
        qnet__file_abandon(&file);
        return status;
    }
    return qnet__file_commit(ctx, &file);
}

/* Reads a finished fold back; QNET_ERROR_NOT_FOUND when there is none. */
static qnet_status qnet__fold_load(const qnet__job *job, qnet__fold_result *r)
{
    qnet_context *ctx = job->e->ctx;
    qnet_safetensor want[QNET__FOLD_TENSORS];
    char path[700], fingerprint[24];
    qnet_safetensors *file;
    const char *found;
    qnet_status status = QNET_OK;
    qnet__job_path(job, "-result.safetensors", path);
    if (!qnet_file_exists(path)) return QNET_ERROR_NOT_FOUND;
    QNET__TRY(qnet_safetensors_load(ctx, path, &file));
    qnet__fold_tensors(r, want);
    snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)job->fingerprint);
    found = qnet_safetensors_metadata(file, "fingerprint");
    if (!found || strcmp(found, fingerprint) != 0) {
        status = qnet__fail(ctx, QNET_ERROR_MISMATCH,
                            "%s: made with another configuration, cohort or initial weights "
                            "(fingerprint %s, expected %s)",
                            path, found ? found : "missing", fingerprint);
    }
    for (int pass = 0; pass < 2; pass++) { /* check all, then copy */
        for (int i = 0; i < QNET__FOLD_TENSORS && status == QNET_OK; i++) {
            const qnet_safetensor *t = qnet_safetensors_find(file, want[i].name);
            if (!t || t->dtype != QNET_F64 || t->bytes != want[i].bytes) {
                status = qnet__fail(ctx, QNET_ERROR_FORMAT,
                                    "%s: tensor %s: expected %lu bytes of F64, found %lu", path,
                                    want[i].name, (unsigned long)want[i].bytes,
                                    (unsigned long)(t ? t->bytes : 0));
            } else if (pass == 1) {
                double *to = i == 0 ? r->image : i == 1 ? r->scan : r->curve[i - 2];
                memcpy(to, t->data,
                       t->bytes); /* a fold's file stays on the machine that wrote it */
            }
        }
    }
    qnet_safetensors_destroy(file);
    return status;
}

static void qnet__copy_curve(double *curve, const qnet_epoch *history, int epochs)
{
    for (int i = 0; i < epochs; i++) {
        curve[3 * i] = history[i].loss;
        curve[3 * i + 1] = history[i].learning_rate;
        curve[3 * i + 2] = history[i].seconds;
    }
}

/* Probabilities of the test scans' slices by net into the row of `model`, and means per scan. */
static qnet_status qnet__fold_test_images(const qnet__job *job, qnet_resnet *net, int model,
                                          qnet__fold_result *r)
{
    qnet_context *ctx = job->e->ctx;
    const int steps = job->cohort->config.max_slices;
    const size_t bytes = (size_t)job->test_count * (size_t)steps * sizeof(double);
    double *probability = (double *)qnet__alloc(ctx, bytes);
    double *image = r->image + (size_t)model * (size_t)r->images;
    qnet_status status;
    if (!probability) return qnet__no_memory(ctx, bytes, "test probabilities");
    status = qnet_embed(net, &job->e->config.stage1.augment, job->cohort, job->test,
                        job->test_count, NULL, probability);
    for (int i = 0; i < job->test_count && status == QNET_OK; i++) {
        const int slices = job->cohort->scans[job->test[i]].slices;
        double sum = 0;
        for (int t = 0; t < slices; t++) {
            *image = probability[(size_t)i * (size_t)steps + (size_t)t];
            sum += *image++;
        }
        r->scan[model * r->scans + i] = sum / slices;
    }
    qnet__free(ctx, probability, bytes);
    return status;
}

/* Runs stage 1 with or without SWA to its end, saving after every epoch; the run without SWA leaves
   a copy at the epoch where the run with SWA leaves its path. *out is finished. */
static qnet_status qnet__fold_stage1(qnet__job *job, int swa, qnet_stage1 **out)
{
    qnet_context *ctx = job->e->ctx;
    qnet_stage1_config config = job->e->config.stage1;
    char checkpoint[700], branch[700];
    qnet_stage1 *run = NULL;
    qnet_status status;
    int start;
    config.size = job->cohort->config.size;
    config.seed = qnet__job_seed(job);
    config.swa = swa;
    start = qnet_stage1_swa_start(&config);
    if (job->new_head) qnet__resnet_init_head(job->initial, config.seed);
    qnet__job_path(job, swa ? "-swa.checkpoint" : "-resnet.checkpoint", checkpoint);
    qnet__job_path(job, "-branch.checkpoint", branch);
    QNET__TRY(qnet_stage1_create(ctx, &config, job->cohort, job->train, job->train_count, NULL,
                                 job->initial ? job->initial->weights : NULL, &run));
    status = QNET_OK;
    if (job->resume && qnet_file_exists(checkpoint)) {
        status = qnet_stage1_load(run, checkpoint);
        if (status == QNET_ERROR_FORMAT)
            status = qnet__fail(ctx, status, "%s; remove that file to do its part again",
                                qnet_last_error(ctx));
    } else if (swa && start > 0) {
        status = qnet_stage1_load(run, branch);
    }
    job->phase_first = swa ? start : 0;
    while (status == QNET_OK && run->epoch < config.epochs) {
        status = qnet_stage1_epoch(run);
        if (status == QNET_OK && !swa && run->epoch == start)
            status = qnet_stage1_save(run, branch);
        if (status == QNET_OK && run->epoch < config.epochs)
            status = qnet_stage1_save(run, checkpoint);
    }
    if (status == QNET_OK && !run->finished) status = qnet_stage1_finish(run);
    if (status == QNET_OK) status = qnet_stage1_save(run, checkpoint);
    if (status == QNET_OK) {
        job->phase_work += job->work_epoch * (config.epochs - job->phase_first);
        *out = run;
    } else {
        qnet_stage1_destroy(run);
    }
    job->phase_first = -1;
    return status;
}

/* Stage 2 of a fold over the frozen embedding `net`: features, training, test probabilities. */
static qnet_status qnet__fold_stage2(qnet__job *job, qnet_resnet *net, qnet__fold_result *r)
{
    qnet_context *ctx = job->e->ctx;
    const int steps = job->cohort->config.max_slices;
    const int most = qnet__max_int(job->train_count, job->test_count);
    qnet_stage2_config config = job->e->config.stage2;
    qnet__arena arena = { NULL, 0 };
    qnet_real *features = NULL;
    double *image = NULL, *scan = NULL;
    qnet_stage2 *run = NULL;
    char checkpoint[700];
    size_t bytes = 0;
    qnet_status status;
    for (int pass = 0; pass < 2; pass++) {
        features = (qnet_real *)qnet__take(&arena, (size_t)most * (size_t)steps * QNET_FEATURES,
                                           sizeof(qnet_real));
        image = (double *)qnet__take(&arena, (size_t)most * (size_t)steps, sizeof(double));
        scan = (double *)qnet__take(&arena, (size_t)most, sizeof(double));
        if (pass == 0) {
            bytes = arena.at;
            arena.at = 0;
            arena.base = (unsigned char *)qnet__alloc(ctx, bytes);
            if (!arena.base) return qnet__no_memory(ctx, bytes, "the features of a fold");
        }
    }
    config.steps = steps;
    config.seed = qnet__job_seed(job);
    for (int i = 0; i < job->train_count; i++) {
        job->length[i] = job->cohort->scans[job->train[i]].slices;
        job->label[i] = (int)job->cohort->scans[job->train[i]].label;
    }
    qnet__job_path(job, "-stage2.checkpoint", checkpoint);
    status = qnet_embed(net, &job->e->config.stage1.augment, job->cohort, job->train,
                        job->train_count, features, NULL);
    if (status == QNET_OK) {
        status = qnet_stage2_create(ctx, &config, features, job->length, job->label,
                                    job->train_count, &run);
    }
    if (status == QNET_OK && job->resume && qnet_file_exists(checkpoint)) {
        status = qnet_stage2_load(run, checkpoint);
    }
    if (status == QNET_OK) status = qnet_stage2_run(run, checkpoint);
    if (status == QNET_OK) {
        status = qnet_embed(net, &job->e->config.stage1.augment, job->cohort, job->test,
                            job->test_count, features, NULL);
    }
    if (status == QNET_OK) {
        for (int i = 0; i < job->test_count; i++) {
            job->length[i] = job->cohort->scans[job->test[i]].slices;
        }
        status = qnet_scan_model_predict(run->model, features, job->length, job->test_count, image,
                                         scan);
    }
    if (status == QNET_OK) {
        double *to = r->image + (size_t)QNET_MODEL_QNET * (size_t)r->images;
        for (int i = 0; i < job->test_count; i++) {
            for (int t = 0; t < job->length[i]; t++)
                *to++ = image[(size_t)i * (size_t)steps + (size_t)t];
            r->scan[QNET_MODEL_QNET * r->scans + i] = scan[i];
        }
        qnet__copy_curve(r->curve[QNET_MODEL_QNET], run->history, run->epoch);
        status = qnet__job_save_weights(job, "qnet", run->model->table, run->model->weights);
    }
    qnet_stage2_destroy(run);
    qnet__free(ctx, arena.base, bytes);
    if (status == QNET_OK) qnet__remove_file(checkpoint);
    return status;
}

/* Trains and tests the three models of one fold, or reads what an earlier run has done. */
static qnet_status qnet__fold_run(qnet__job *job, qnet__fold_result *r)
{
    static const char *const work_files[] = { "-branch.checkpoint", "-resnet.checkpoint",
                                              "-swa.checkpoint" };
    qnet_stage1 *run = NULL;
    char path[700];
    qnet_status status = QNET_ERROR_NOT_FOUND;
    if (job->resume) status = qnet__fold_load(job, r);
    if (status != QNET_ERROR_NOT_FOUND) return status;
    for (int swa = 0; swa < 2; swa++) {
        const int model = swa ? QNET_MODEL_RESNET_SWA : QNET_MODEL_RESNET;
        QNET__TRY(qnet__fold_stage1(job, swa, &run));
        qnet__copy_curve(r->curve[model], run->history, run->epoch);
        status = qnet__job_save_weights(job, swa ? "resnetswa" : "resnet", run->net->table,
                                        run->net->weights);
        if (status == QNET_OK) status = qnet__fold_test_images(job, run->net, model, r);
        if (status == QNET_OK && swa) status = qnet__fold_stage2(job, run->net, r);
        qnet_stage1_destroy(run);
        if (status != QNET_OK) return status;
    }
    QNET__TRY(qnet__fold_save(job, r));
    for (size_t i = 0; i < sizeof work_files / sizeof *work_files; i++) {
        qnet__job_path(job, work_files[i], path);
        qnet__remove_file(path);
    }
    return QNET_OK;
}

/* The items of a fold's test scans, by image and by scan, into their places of the two levels:
   image_at[scan] is a scan's first image among all of the cohort. */
static void qnet__fold_items(const qnet__job *job, const qnet__fold_result *r, const int *image_at)
{
    qnet_level_result *levels = job->e->level[job->input];
    int image = 0;
    for (int i = 0; i < job->test_count; i++) {
        const int s = job->test[i];
        const qnet_scan *scan = &job->cohort->scans[s];
        qnet_item *whole = levels[QNET_LEVEL_SCAN].items +
                           (size_t)job->repeat * levels[QNET_LEVEL_SCAN].count + (size_t)s;
        qnet_item *slice = levels[QNET_LEVEL_IMAGE].items +
                           (size_t)job->repeat * levels[QNET_LEVEL_IMAGE].count +
                           (size_t)image_at[s];
        int votes[QNET_MODELS] = { 0, 0, 0 };
        for (int t = 0; t < scan->slices; t++, slice++, image++) {
            slice->scan = s;
            slice->slice = t;
            slice->z = scan->slice_z[t];
            slice->fold = job->fold;
            slice->label = (int)scan->label;
            for (int m = 0; m < QNET_MODELS; m++) {
                slice->probability[m] = r->image[(size_t)m * (size_t)r->images + (size_t)image];
                slice->decision[m] = slice->probability[m] > 0.5;
                votes[m] += slice->decision[m];
            }
        }
        whole->scan = s;
        whole->slice = -1;
        whole->z = -1;
        whole->fold = job->fold;
        whole->label = (int)scan->label;
        for (int m = 0; m < QNET_MODELS; m++) {
            whole->probability[m] = r->scan[m * r->scans + i];
            whole->decision[m] = m == QNET_MODEL_QNET
                                     ? whole->probability[m] > 0.5
                                     : 2 * votes[m] > scan->slices; /* a tie is HC */
        }
    }
}

/* ---- Pictures -------------------------------------------------------------------------------- */

#define QNET__SHEET_COLUMNS 6
#define QNET__SHEET_GAP 4
#define QNET__SHEET_EPOCH 1000000 /* draws that no training sees */

static uint8_t qnet__to_byte(double v)
{
    return (uint8_t)(v <= 0 ? 0 : v >= 1 ? 255 : (int)(v * 255 + 0.5));
}

/* An augmentation record's picture with the network's normalisation left out: values in 0..1. */
static qnet_augment_config qnet__display_config(const qnet_augment_config *augment)
{
    qnet_augment_config config = *augment;
    for (int c = 0; c < 3; c++) {
        config.mean[c] = 0;
        config.std[c] = 1;
    }
    return config;
}

/* Fig. 3: the QSM channel of one slice without augmentation, then as five draws make it. */
static qnet_status qnet__augmentation_sheet(qnet_experiment *e, const qnet_cohort *cohort,
                                            int input)
{
    qnet_context *ctx = e->ctx;
    const int size = cohort->config.size, side = cohort->height;
    const int width = QNET__SHEET_COLUMNS * size + (QNET__SHEET_COLUMNS - 1) * QNET__SHEET_GAP;
    const qnet_augment_config config = qnet__display_config(&e->config.stage1.augment);
    const size_t pixels = (size_t)size * (size_t)size;
    const size_t image_bytes = pixels * 3 * sizeof(qnet_real),
                 scratch_bytes = qnet_augment_scratch(side, side);
    qnet_real *image = (qnet_real *)qnet__alloc(ctx, image_bytes);
    void *scratch = qnet__alloc(ctx, scratch_bytes);
    uint8_t *sheet = (uint8_t *)qnet__alloc(ctx, (size_t)width * (size_t)size * 3);
    qnet_status status = QNET_OK;
    int scan = 0;
    if (!image || !scratch || !sheet) {
        status = qnet__no_memory(ctx, image_bytes + scratch_bytes, "the augmentation sheet");
    }
    while (scan + 1 < cohort->scans_count && cohort->scans[scan].label != QNET_HH) scan++;
    if (status == QNET_OK) memset(sheet, 255, (size_t)width * (size_t)size * 3);
    for (int k = 0; k < QNET__SHEET_COLUMNS && status == QNET_OK; k++) {
        qnet_rng rng =
            qnet_rng_at(e->config.seed, QNET_RANDOM_AUGMENT, QNET__SHEET_EPOCH, (uint64_t)k);
        qnet_augmentation record = k == 0
                                       ? qnet_augment_test(side, side, size, size)
                                       : qnet_augment_draw(&config, &rng, side, side, size, size);
        status = qnet_augment_apply(ctx, &config, &record,
                                    qnet_scan_slice(cohort, scan, cohort->scans[scan].slices / 2),
                                    side, side, image, size, size, scratch);
        for (size_t p = 0; p < pixels && status == QNET_OK; p++) {
            uint8_t *to = sheet + ((p / (size_t)size) * (size_t)width + p % (size_t)size +
                                   (size_t)k * (size_t)(size + QNET__SHEET_GAP)) *
                                      3;
            to[0] = to[1] = to[2] = qnet__to_byte((double)image[3 * p]);
        }
    }
    qnet__free(ctx, image, image_bytes);
    qnet__free(ctx, scratch, scratch_bytes);
    if (status != QNET_OK) {
        qnet__free(ctx, sheet, (size_t)width * (size_t)size * 3);
        return status;
    }
    e->augmented[input] = sheet;
    e->augmented_width[input] = width;
    e->augmented_height[input] = size;
    return QNET_OK;
}

/* CAM of the middle slice of scan s by `net`, for the class that the slice is given. */
static qnet_status qnet__cam_draw(qnet_experiment *e, const qnet_cohort *cohort, qnet_resnet *net,
                                  int s, qnet_cam_picture *picture)
{
    qnet_context *ctx = e->ctx;
    const int size = cohort->config.size, side = cohort->height,
              slice = cohort->scans[s].slices / 2;
    const size_t pixels = (size_t)size * (size_t)size;
    const qnet_augment_config *network = &e->config.stage1.augment;
    const qnet_augment_config display = qnet__display_config(network);
    const qnet_augmentation record = qnet_augment_test(side, side, size, size);
    qnet__arena arena = { NULL, 0 };
    qnet_real *image = NULL, logits[QNET_CLASSES], probability[QNET_CLASSES];
    float *map = NULL, *grey = NULL;
    void *scratch = NULL;
    size_t bytes = 0;
    qnet_status status;
    for (int pass = 0; pass < 2; pass++) {
        image = (qnet_real *)qnet__take(&arena, pixels * 3, sizeof(qnet_real));
        map = (float *)qnet__take(&arena, pixels, sizeof(float));
        grey = (float *)qnet__take(&arena, pixels, sizeof(float));
        scratch = qnet__take(&arena, qnet_augment_scratch(side, side), 1);
        if (pass == 0) {
            bytes = arena.at;
            arena.at = 0;
            arena.base = (unsigned char *)qnet__alloc(ctx, bytes);
            if (!arena.base) return qnet__no_memory(ctx, bytes, "an activation map");
        }
    }
    status = qnet_augment_apply(ctx, &display, &record, qnet_scan_slice(cohort, s, slice), side,
                                side, image, size, size, scratch);
    for (size_t p = 0; p < pixels && status == QNET_OK; p++) {
        grey[p] = (float)image[3 * p];
        picture->grey_rgb[3 * p] = qnet__to_byte((double)grey[p]);
        picture->grey_rgb[3 * p + 1] = picture->grey_rgb[3 * p + 2] = picture->grey_rgb[3 * p];
    }
    if (status == QNET_OK) {
        status = qnet_augment_apply(ctx, network, &record, qnet_scan_slice(cohort, s, slice), side,
                                    side, image, size, size, scratch);
    }
    if (status == QNET_OK) status = qnet_resnet_forward(net, image, 1, 0, logits, NULL);
    if (status == QNET_OK) {
        qnet_softmax(1, QNET_CLASSES, logits, probability);
        picture->probability = (double)probability[QNET_HH];
        status =
            qnet_cam(net, 0, probability[QNET_HH] > (qnet_real)0.5 ? QNET_HH : QNET_HC, map, NULL);
    }
    if (status == QNET_OK) {
        qnet_cam_overlay(map, grey, size, size, picture->rgb);
        picture->scan = s;
        picture->slice = slice;
    }
    qnet__free(ctx, arena.base, bytes);
    return status;
}

/* Fig. 9, 10: the first cam_scans scans of each class that Q-Net's scan head gets right (or any,
   where it gets too few), each by the ResNetSWA that never saw the subject. */
static qnet_status qnet__cams(qnet__job *job)
{
    qnet_experiment *e = job->e;
    qnet_context *ctx = e->ctx;
    const qnet_cohort *cohort = job->cohort;
    const int size = cohort->config.size, most = 2 * e->config.cam_scans;
    const qnet_item *items = e->level[job->input][QNET_LEVEL_SCAN].items;
    qnet_resnet_config config;
    qnet_resnet *net;
    qnet_status status = QNET_OK;
    if (most == 0) return QNET_OK;
    qnet_resnet_config_init(&config);
    config.height = config.width = size;
    config.batch = 1;
    config.training = 0;
    e->cams[job->input] =
        (qnet_cam_picture *)qnet__alloc(ctx, (size_t)most * sizeof(qnet_cam_picture));
    if (!e->cams[job->input])
        return qnet__no_memory(ctx, (size_t)most * sizeof(qnet_cam_picture), "CAM pictures");
    memset(e->cams[job->input], 0, (size_t)most * sizeof(qnet_cam_picture));
    QNET__TRY(qnet_resnet_create(ctx, &config, &net));
    for (int label = 1; label >= 0; label--) {
        int drawn = 0;
        for (int right = 1; right >= 0; right--) {
            for (int s = 0; s < cohort->scans_count && drawn < e->config.cam_scans; s++) {
                qnet_cam_picture *picture = &e->cams[job->input][e->cams_count[job->input]];
                const size_t bytes = (size_t)size * (size_t)size * 3;
                char path[700];
                if (items[s].label != label) continue;
                if ((items[s].decision[QNET_MODEL_QNET] == label) != right) continue;
                picture->width = picture->height = size;
                picture->rgb = (uint8_t *)qnet__alloc(ctx, bytes);
                picture->grey_rgb = (uint8_t *)qnet__alloc(ctx, bytes);
                e->cams_count[job->input]++; /* from here on qnet_experiment_destroy frees it */
                drawn++;
                if (!picture->rgb || !picture->grey_rgb) {
                    status = qnet__no_memory(ctx, bytes, "a CAM picture");
                    goto done;
                }
                job->repeat = 0;
                job->fold = e->fold[s];
                qnet__job_path(job, "-resnetswa.safetensors", path);
                status = qnet_weights_load(ctx, path, net->table, net->weights, 0, NULL);
                if (status == QNET_OK) status = qnet__cam_draw(e, cohort, net, s, picture);
                if (status != QNET_OK) goto done;
            }
        }
    }
done:
    qnet_resnet_destroy(net);
    return status;
}

/* ---- The whole experiment -------------------------------------------------------------------- */

static qnet_status qnet__experiment_check(qnet_context *ctx, const qnet_experiment_config *c)
{
    if (!c->use_input[0] && !c->use_input[1]) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "experiment: no input configuration is chosen");
    }
    if (c->folds < 2) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "experiment: folds is %d, expected at least 2",
                          c->folds);
    }
    if (c->repeats < 1 || c->repeats > 99) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "experiment: repeats is %d, expected 1 to 99",
                          c->repeats);
    }
    if (c->bootstrap < 2 || c->bootstrap > 10000000) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "experiment: bootstrap is %d, expected 2 to 10000000", c->bootstrap);
    }
    if (c->cam_scans < 0 || c->cam_scans > 1000) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "experiment: cam_scans is %d, expected 0 to 1000", c->cam_scans);
    }
    QNET__TRY(qnet__stage1_config_check(ctx, &c->stage1));
    return qnet__stage2_config_check(ctx, &c->stage2);
}

/* Copies a path into dst[512]. */
static qnet_status qnet__copy_path(qnet_context *ctx, char dst[512], const char *path,
                                   const char *what)
{
    if (strlen(path) >= 512) {
        return qnet__fail(ctx, QNET_ERROR_LIMIT,
                          "%s: a path of %lu characters, expected at most 511", what,
                          (unsigned long)strlen(path));
    }
    memcpy(dst, path, strlen(path) + 1);
    return QNET_OK;
}

/* Permutes the labels over subjects, a control that shows leaks. Scans of a subject follow it. */
static void qnet__shuffle_labels(qnet_cohort *cohort, uint64_t seed, const int *subject, int *order,
                                 int *label)
{
    qnet_rng rng = qnet_rng_at(seed, QNET_RANDOM_LABELS, 0, 0);
    size_t n = 0;
    for (int s = 0; s < cohort->scans_count; s++) {
        label[s] = (int)cohort->scans[s].label;
        if (subject[s] == s) order[n++] = s;
    }
    qnet_rng_shuffle(&rng, order, n);
    n = 0;
    for (int s = 0; s < cohort->scans_count; s++) {
        if (subject[s] == s) cohort->scans[s].label = (qnet_label)label[order[n++]];
    }
    for (int s = 0; s < cohort->scans_count; s++)
        cohort->scans[s].label = cohort->scans[subject[s]].label;
}

/* The cohort's participants into the experiment, from the first input that is read. */
static qnet_status qnet__participants(qnet_experiment *e, const qnet_cohort *cohort)
{
    const size_t n = (size_t)cohort->scans_count;
    if (e->participants) return QNET_OK;
    e->participants = (qnet_participant *)qnet__alloc(e->ctx, n * sizeof *e->participants);
    e->fold = (int *)qnet__alloc(e->ctx, n * sizeof *e->fold);
    e->participants_count = cohort->scans_count;
    if (!e->participants || !e->fold)
        return qnet__no_memory(e->ctx, n * sizeof *e->participants, "participants");
    memset(e->participants, 0, n * sizeof *e->participants);
    for (size_t s = 0; s < n; s++) {
        memcpy(e->participants[s].subject, cohort->scans[s].subject,
               sizeof e->participants[s].subject);
        e->participants[s].label = cohort->scans[s].label;
        e->participants[s].age = cohort->scans[s].age;
        e->participants[s].sex = cohort->scans[s].sex;
        e->participants[s].slices = cohort->scans[s].slices;
    }
    return QNET_OK;
}

/* Room for the items, ROC points and curves of one input. */
static qnet_status qnet__level_create(qnet_experiment *e, qnet_level_result *level, size_t count)
{
    const size_t repeats = (size_t)e->config.repeats;
    level->count = count;
    level->items = (qnet_item *)qnet__alloc(e->ctx, repeats * count * sizeof(qnet_item));
    if (!level->items)
        return qnet__no_memory(e->ctx, repeats * count * sizeof(qnet_item), "test items");
    memset(level->items, 0, repeats * count * sizeof(qnet_item));
    for (int m = 0; m < QNET_MODELS; m++) {
        level->model[m].roc =
            (qnet_roc_point *)qnet__alloc(e->ctx, (count + 1) * sizeof(qnet_roc_point));
        if (!level->model[m].roc) {
            return qnet__no_memory(e->ctx, (count + 1) * sizeof(qnet_roc_point), "ROC curves");
        }
    }
    return QNET_OK;
}

static qnet_status qnet__curves_add(const qnet__job *job, const qnet__fold_result *r)
{
    qnet_experiment *e = job->e;
    for (int m = 0; m < QNET_MODELS; m++) {
        qnet_curve *curve = &e->curves[e->curves_count];
        const size_t n = (size_t)r->epochs[m];
        curve->epoch = (qnet_epoch *)qnet__alloc(e->ctx, n * sizeof(qnet_epoch));
        if (!curve->epoch)
            return qnet__no_memory(e->ctx, n * sizeof(qnet_epoch), "learning curves");
        curve->input = job->input;
        curve->repeat = job->repeat;
        curve->fold = job->fold;
        curve->kind = m;
        curve->epochs = r->epochs[m];
        for (size_t i = 0; i < n; i++) {
            curve->epoch[i].loss = r->curve[m][3 * i];
            curve->epoch[i].learning_rate = r->curve[m][3 * i + 1];
            curve->epoch[i].seconds = r->curve[m][3 * i + 2];
        }
        e->curves_count++;
    }
    return QNET_OK;
}

/* QNET_ERROR_MISMATCH with the first line in which two configuration texts differ, or QNET_OK. */
static qnet_status qnet__config_compare(qnet_context *ctx, const char *path, const char *was,
                                        const char *now)
{
    size_t line = strcspn(was, "\n");
    while (*was && line == strcspn(now, "\n") && memcmp(was, now, line) == 0) {
        was += line + (was[line] == '\n');
        now += line + (now[line] == '\n');
        line = strcspn(was, "\n");
    }
    if (!*was && !*now) return QNET_OK;
    return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                      "%s: the run to resume has \"%.*s\", this one has \"%.*s\"", path, (int)line,
                      was, (int)strcspn(now, "\n"), now);
}

/* 1 for the name of a fold's file in out/checkpoint. */
static int qnet__is_fold_file(const char *name)
{
    return strncmp(name, "crop-", 5) == 0 || strncmp(name, "full-", 5) == 0;
}

/* Opens out/checkpoint: a resumed run must have the same configuration, and a new one must not
   tread on an unfinished one, which may be days of work. text ends with a zero byte. */
static qnet_status qnet__checkpoint_open(qnet_context *ctx, const qnet_experiment *e, int resume,
                                         const qnet_buffer *text)
{
    char folder[600], path[700], (*names)[256];
    size_t count, bytes, unfinished = 0;
    qnet_buffer old;
    qnet_status status;
    memset(&old, 0, sizeof old);
    snprintf(folder, sizeof folder, "%s/checkpoint", e->out);
    snprintf(path, sizeof path, "%s/config.txt", folder);
    QNET__TRY(qnet_make_folder(ctx, folder));
    QNET__TRY(qnet__list_folder(ctx, folder, &names, &count, &bytes));
    for (size_t i = 0; i < count; i++) unfinished += (size_t)qnet__is_fold_file(names[i]);
    qnet__free(ctx, names, bytes);
    if (resume && unfinished > 0 && qnet_file_exists(path)) {
        QNET__TRY(qnet_file_read(ctx, path, 1 << 20, &old));
        status = qnet_buffer_append(ctx, &old, "", 1);
        if (status == QNET_OK) {
            status =
                qnet__config_compare(ctx, path, (const char *)old.bytes, (const char *)text->bytes);
        }
        qnet_buffer_free(ctx, &old);
        return status;
    }
    if (unfinished > 0) {
        return qnet__fail(
            ctx, QNET_ERROR_ARGUMENT,
            "%s: holds an unfinished run (%lu files); resume it, or remove that folder "
            "to begin anew",
            folder, (unsigned long)unfinished);
    }
    return qnet_file_replace(ctx, path, text->bytes, text->size - 1);
}

/* Weights that were trained on these very subjects have seen those of every test fold. */
static qnet_status qnet__check_weights_leak(const qnet__job *job)
{
    if (strcmp(job->trained_on, job->subjects) != 0) return QNET_OK;
    return qnet__fail(job->e->ctx, QNET_ERROR_LEAK,
                      "%s: these weights were trained on subjects of this cohort; the test folds "
                      "would not be unseen",
                      job->e->weights);
}

/* All repeats and folds of one input whose cohort is in memory. ints: 7 arrays of scans_count. */
static qnet_status qnet__input_run(qnet__job *job, int *ints)
{
    qnet_experiment *e = job->e;
    qnet_context *ctx = e->ctx;
    qnet_cohort *cohort = job->cohort;
    const int n = cohort->scans_count;
    int *subject = ints, *fold_of = ints + n, *image_at = ints + 2 * n, images = 0;
    job->train = ints + 3 * n;
    job->test = ints + 4 * n;
    job->length = ints + 5 * n;
    job->label = ints + 6 * n;
    for (int s = 0; s < n; s++) {
        subject[s] = s;
        for (int q = 0; q < s && subject[s] == s; q++) {
            if (strcmp(cohort->scans[q].subject, cohort->scans[s].subject) == 0) subject[s] = q;
        }
        image_at[s] = images;
        images += cohort->scans[s].slices;
    }
    QNET__TRY(qnet__check_weights_leak(job));
    if (e->config.shuffle_labels)
        qnet__shuffle_labels(cohort, e->config.seed, subject, job->train, job->test);
    QNET__TRY(qnet_folds_create(ctx, cohort, e->config.folds, e->config.seed, fold_of));
    if (!job->opened) { /* not before the data have been read: a mistake there leaves no folder */
        QNET__TRY(qnet__checkpoint_open(ctx, e, job->resume, job->text));
        job->opened = 1;
    }
    QNET__TRY(qnet__participants(e, cohort));
    QNET__TRY(qnet__level_create(e, &e->level[job->input][QNET_LEVEL_IMAGE], (size_t)images));
    QNET__TRY(qnet__level_create(e, &e->level[job->input][QNET_LEVEL_SCAN], (size_t)n));
    QNET__TRY(qnet__augmentation_sheet(e, cohort, job->input));
    for (int repeat = 0; repeat < e->config.repeats; repeat++) {
        QNET__TRY(qnet_folds_create(ctx, cohort, e->config.folds, e->config.seed + (uint64_t)repeat,
                                    fold_of));
        QNET__TRY(qnet_folds_check(ctx, cohort, e->config.folds, fold_of));
        if (repeat == 0) memcpy(e->fold, fold_of, (size_t)n * sizeof(int));
        for (int fold = 0; fold < e->config.folds; fold++) {
            qnet__fold_result result;
            qnet_status status;
            job->repeat = repeat;
            job->fold = fold;
            job->train_count = job->test_count = 0;
            for (int s = 0; s < n; s++) {
                if (fold_of[s] == fold)
                    job->test[job->test_count++] = s;
                else
                    job->train[job->train_count++] = s;
            }
            snprintf(job->where, sizeof job->where, "%s repeat %d/%d fold %d/%d",
                     qnet_input_name((qnet_input)job->input), repeat + 1, e->config.repeats,
                     fold + 1, e->config.folds);
            job->phase_work = 0;
            job->phase_first = -1;
            QNET__TRY(qnet__fold_result_create(job, &result));
            status = qnet__fold_run(job, &result);
            if (status == QNET_OK) {
                qnet__fold_items(job, &result, image_at);
                status = qnet__curves_add(job, &result);
            }
            qnet__free(ctx, result.block, result.bytes);
            if (status != QNET_OK) return status;
            job->work_done += job->work_epoch * (2 * e->config.stage1.epochs -
                                                 qnet_stage1_swa_start(&e->config.stage1));
        }
    }
    for (int level = 0; level < QNET_LEVELS; level++) {
        QNET__TRY(qnet__evaluate_level(e, &e->level[job->input][level], subject));
    }
    return qnet__cams(job);
}

/* Reads the cohort of one input, checks that it is the one of a resumed run, and runs its folds. */
static qnet_status qnet__input_read_and_run(qnet__job *job, const char *data)
{
    qnet_experiment *e = job->e;
    qnet_context *ctx = e->ctx;
    qnet_cohort *cohort;
    int *ints;
    uint64_t subjects;
    size_t bytes;
    double images = 0;
    qnet_status status;
    snprintf(job->where, sizeof job->where, "%s", qnet_input_name((qnet_input)job->input));
    job->work_total = 0;
    job->phase_work = 0;
    job->phase_first = -1;
    QNET__TRY(qnet_cohort_read(ctx, data, &e->config.input[job->input], &cohort));
    job->cohort = cohort;
    e->cohort_hash[job->input] = subjects = QNET_HASH_START;
    for (int s = 0; s < cohort->scans_count; s++) {
        const qnet_scan *scan = &cohort->scans[s];
        int label = (int)scan->label;
        uint64_t h = qnet_hash(e->cohort_hash[job->input], &scan->hash, sizeof scan->hash);
        subjects = qnet_hash(subjects, scan->subject, strlen(scan->subject) + 1);
        h = qnet_hash(h, scan->subject, strlen(scan->subject) + 1);
        e->cohort_hash[job->input] = qnet_hash(h, &label, sizeof label);
        images += scan->slices;
    }
    snprintf(job->subjects, sizeof job->subjects, "%016llx", (unsigned long long)subjects);
    job->work_epoch = images * (e->config.folds - 1) / e->config.folds * cohort->config.size *
                      cohort->config.size;
    job->work_done = 0;
    job->work_total = job->work_epoch * e->config.repeats * e->config.folds *
                      (2 * e->config.stage1.epochs - qnet_stage1_swa_start(&e->config.stage1));
    job->fingerprint ^= e->cohort_hash[job->input];
    bytes = (size_t)cohort->scans_count * 7 * sizeof(int);
    ints = (int *)qnet__alloc(ctx, bytes);
    status = ints ? qnet__input_run(job, ints) : qnet__no_memory(ctx, bytes, "the folds");
    job->fingerprint ^= e->cohort_hash[job->input];
    qnet__free(ctx, ints, bytes);
    qnet_cohort_destroy(cohort);
    return status;
}

/* 1 when the network's input is not normalised beyond the stretch. */
static int qnet__is_plain(const qnet_augment_config *a)
{
    int plain = 1;
    for (int c = 0; c < 3; c++) plain = plain && a->mean[c] == 0 && a->std[c] == 1;
    return plain;
}

/* Initial weights from a file into job->initial. A head of other than 2 classes is left out, as
   ImageNet's of 1000; each fold then draws its own. Weights that an experiment wrote say on which
   subjects they were trained. */
static qnet_status qnet__initial_weights(qnet__job *job, qnet_context *ctx,
                                         const qnet_experiment_config *config, const char *path)
{
    qnet_resnet_config c;
    qnet_safetensors *file;
    const char *subjects;
    qnet_resnet *net;
    qnet_status status;
    qnet_resnet_config_init(&c);
    c.height = c.width = 32;
    c.batch = 1;
    c.training = 0;
    QNET__TRY(qnet_safetensors_load(ctx, path, &file));
    status = qnet_resnet_create(ctx, &c, &net);
    if (status == QNET_OK) {
        qnet_resnet_init(net, config->seed);
        subjects = qnet_safetensors_metadata(file, "subjects");
        if (subjects) snprintf(job->trained_on, sizeof job->trained_on, "%s", subjects);
        status = qnet_weights_from_safetensors(ctx, file, net->table, net->weights, 1,
                                               &job->new_head);
        if (status == QNET_OK)
            job->initial = net;
        else
            qnet_resnet_destroy(net);
    }
    qnet_safetensors_destroy(file);
    return status;
}

/* Moves the weight files of a run that is complete from checkpoint/ to weights/. */
static qnet_status qnet__publish_weights(const qnet_experiment *e)
{
    qnet_context *ctx = e->ctx;
    char folder[700], from[960], to[960], (*names)[256];
    size_t count, bytes;
    qnet_status status = QNET_OK;
    snprintf(folder, sizeof folder, "%s/weights", e->out);
    QNET__TRY(qnet_make_folder(ctx, folder));
    snprintf(folder, sizeof folder, "%s/checkpoint", e->out);
    QNET__TRY(qnet__list_folder(ctx, folder, &names, &count, &bytes));
    for (size_t i = 0; i < count && status == QNET_OK; i++) {
        const size_t length = strlen(names[i]);
        if (!qnet__is_fold_file(names[i])) continue;
        snprintf(from, sizeof from, "%s/checkpoint/%s", e->out, names[i]);
        if (length > 19 && strcmp(names[i] + length - 19, "-result.safetensors") == 0) continue;
        snprintf(to, sizeof to, "%s/weights/%s", e->out, names[i]);
#ifdef _WIN32
        qnet__remove_file(to); /* rename does not replace there */
#endif
        if (rename(from, to) != 0) {
            status = qnet__fail(ctx, QNET_ERROR_IO, "%s: can't be moved to %s", from, to);
        }
    }
    for (size_t i = 0; i < count && status == QNET_OK; i++) { /* what is left are the results */
        snprintf(from, sizeof from, "%s/checkpoint/%s", e->out, names[i]);
        if (qnet__is_fold_file(names[i])) qnet__remove_file(from);
    }
    qnet__free(ctx, names, bytes);
    if (status == QNET_OK) {
        snprintf(from, sizeof from, "%s/checkpoint/config.txt", e->out);
        qnet__remove_file(from);
        (void)remove(folder); /* the empty folder goes where the system's remove takes folders */
    }
    return status;
}

/* The parts of qnet_experiment_run behind its argument checks; e is destroyed by the caller on
 * failure. */
static qnet_status qnet__experiment_run(qnet_experiment *e, const char *data, const char *weights,
                                        int resume)
{
    qnet_context *ctx = e->ctx;
    qnet__job job;
    qnet_progress own;
    qnet_buffer text;
    qnet_status status;
    size_t curves;
    const double begin = qnet__seconds(ctx);
    double pixels = 0;
    memset(&job, 0, sizeof job);
    memset(&text, 0, sizeof text);
    if (weights) {
        QNET__TRY(qnet__initial_weights(&job, ctx, &e->config, weights));
        e->weights_hash = qnet_hash(QNET_HASH_START, job.initial->weights,
                                    job.initial->table->total * sizeof(qnet_real));
        if (qnet__is_plain(&e->config.stage1.augment) && job.trained_on[0] == '\0')
            qnet_augment_config_imagenet(&e->config.stage1.augment);
    }
    curves = (size_t)e->config.repeats * (size_t)e->config.folds * QNET_MODELS * 2;
    e->curves = (qnet_curve *)qnet__alloc(ctx, curves * sizeof(qnet_curve));
    status =
        e->curves ? QNET_OK : qnet__no_memory(ctx, curves * sizeof(qnet_curve), "learning curves");
    if (status == QNET_OK) status = qnet__experiment_text(e, &text);
    if (status == QNET_OK) status = qnet_buffer_append(ctx, &text, "", 1);
    if (status == QNET_OK) {
        job.e = e;
        job.text = &text;
        job.resume = resume;
        job.fingerprint = qnet_hash(QNET_HASH_START, text.bytes, text.size);
        job.outer = ctx->hooks.progress;
        own.user = &job;
        own.report = qnet__job_progress;
        qnet_set_progress(ctx, own);
        for (int i = 0; i < 2; i++) {
            if (e->config.use_input[i])
                pixels += (double)e->config.input[i].size * e->config.input[i].size;
        }
        for (int i = 0; i < 2 && status == QNET_OK; i++) {
            const double share = (double)e->config.input[i].size * e->config.input[i].size / pixels;
            if (!e->config.use_input[i]) continue;
            job.input = i;
            job.share_before += job.share;
            job.share = share;
            status = qnet__input_read_and_run(&job, data);
        }
        qnet_set_progress(ctx, job.outer);
    }
    qnet_buffer_free(ctx, &text);
    qnet_resnet_destroy(job.initial);
    e->seconds = qnet__seconds(ctx) - begin;
    if (status == QNET_OK) status = qnet_experiment_save(e, e->out);
    if (status == QNET_OK) status = qnet__publish_weights(e);
    return status;
}

QNET_API qnet_status qnet_experiment_save(const qnet_experiment *e, const char *out)
{
    typedef qnet_status (*writer)(const qnet_experiment *, qnet_buffer *);
    static const writer writers[] = { qnet_experiment_csv, qnet_experiment_manifest,
                                      qnet_experiment_html, qnet_experiment_json };
    static const char *const names[] = { "predictions.csv", "manifest.json", "report.html",
                                         "results.json" };
    qnet_buffer text[4];
    char path[700];
    qnet_status status = QNET_OK;
    memset(text, 0, sizeof text);
    if (strlen(out) >= 512)
        return qnet__fail(e->ctx, QNET_ERROR_LIMIT, "output folder: the path is too long");
    for (int i = 0; i < 4 && status == QNET_OK; i++) status = writers[i](e, &text[i]);
    if (status == QNET_OK) status = qnet_make_folder(e->ctx, out);
    for (int i = 0; i < 4 && status == QNET_OK; i++) {
        snprintf(path, sizeof path, "%s/%s", out, names[i]);
        status = qnet_file_replace(e->ctx, path, text[i].bytes, text[i].size);
    }
    for (int i = 0; i < 4; i++) qnet_buffer_free(e->ctx, &text[i]);
    return status;
}

/* A number of a weights file's metadata. */
static qnet_status qnet__metadata_number(qnet_context *ctx, const qnet_safetensors *file,
                                         const char *path, const char *key, double low, double high,
                                         double *out)
{
    const char *text = qnet_safetensors_metadata(file, key);
    if (!text) {
        return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                          "%s: no metadata \"%s\": not a weights file of an experiment", path, key);
    }
    if (!qnet__parse_number(text, out) || !(*out >= low && *out <= high)) {
        return qnet__fail(ctx, QNET_ERROR_FORMAT,
                          "%s: metadata \"%s\" is \"%s\", expected %g to %g", path, key, text, low,
                          high);
    }
    return QNET_OK;
}

static qnet_status qnet__preparation_parse(qnet_context *ctx, const qnet_safetensors *file,
                                           const char *path, qnet_input_config *in,
                                           qnet_augment_config *a)
{
    const char *name = qnet_safetensors_metadata(file, "input");
    double v[8];
    char key[40];
    if (!name || (strcmp(name, "crop") != 0 && strcmp(name, "full") != 0)) {
        return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                          "%s: metadata \"input\" is \"%s\", expected crop or full", path,
                          name ? name : "");
    }
    qnet_input_config_init(in, name[0] == 'c' ? QNET_INPUT_CROP : QNET_INPUT_FULL);
    qnet_augment_config_init(a);
    QNET__TRY(qnet__metadata_number(ctx, file, path, "size", 32, 4096, &v[0]));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "box_mm", 1e-3, 1e4, &in->box_mm));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "margin", 0, 1, &in->margin));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "max_slices", 1, 4096, &v[1]));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "slice_first", 0, 32767, &v[2]));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "slice_count", 0, 32767, &v[3]));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "box_explicit", 0, 1, &v[4]));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "box_center_mm.0", -1e6, 1e6,
                                    &in->box_center_mm[0]));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "box_center_mm.1", -1e6, 1e6,
                                    &in->box_center_mm[1]));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "stretch", 0, 1, &v[5]));
    QNET__TRY(qnet__metadata_number(ctx, file, path, "percentile_low", 0, 100, &a->percentile_low));
    QNET__TRY(
        qnet__metadata_number(ctx, file, path, "percentile_high", 0, 100, &a->percentile_high));
    for (int c = 0; c < 3; c++) {
        snprintf(key, sizeof key, "window_low.%d", c);
        QNET__TRY(qnet__metadata_number(ctx, file, path, key, -1e30, 1e30, &a->window_low[c]));
        snprintf(key, sizeof key, "window_high.%d", c);
        QNET__TRY(qnet__metadata_number(ctx, file, path, key, -1e30, 1e30, &a->window_high[c]));
        snprintf(key, sizeof key, "mean.%d", c);
        QNET__TRY(qnet__metadata_number(ctx, file, path, key, -1e6, 1e6, &a->mean[c]));
        snprintf(key, sizeof key, "std.%d", c);
        QNET__TRY(qnet__metadata_number(ctx, file, path, key, 1e-9, 1e6, &a->std[c]));
    }
    in->size = (int)v[0];
    in->max_slices = (int)v[1];
    in->slice_first = (int)v[2];
    in->slice_count = (int)v[3];
    in->box_explicit = (int)v[4];
    a->stretch = (qnet_stretch)(int)v[5];
    return QNET_OK;
}

QNET_API qnet_status qnet_preparation_load(qnet_context *ctx, const char *weights_path,
                                           qnet_input_config *input, qnet_augment_config *augment)
{
    qnet_safetensors *file;
    qnet_input_config in;
    qnet_augment_config a;
    qnet_status status;
    if (!ctx) return QNET_ERROR_ARGUMENT;
    if (!weights_path || !input || !augment) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_preparation_load: an argument is NULL");
    }
    QNET__TRY(qnet_safetensors_load(ctx, weights_path, &file));
    status = qnet__preparation_parse(ctx, file, weights_path, &in, &a);
    qnet_safetensors_destroy(file);
    if (status != QNET_OK) return status;
    *input = in;
    *augment = a;
    return QNET_OK;
}

QNET_API qnet_status qnet_experiment_run(qnet_context *ctx, const qnet_experiment_config *config,
                                         const char *data, const char *out, const char *weights,
                                         int resume, qnet_experiment **result)
{
    qnet_experiment *e;
    qnet_status status;
    if (!ctx) return QNET_ERROR_ARGUMENT;
    if (!config || !data || !out || !result) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_experiment_run: an argument is NULL");
    }
    QNET__TRY(qnet__experiment_check(ctx, config));
    e = (qnet_experiment *)qnet__alloc(ctx, sizeof *e);
    if (!e) return qnet__no_memory(ctx, sizeof *e, "an experiment");
    memset(e, 0, sizeof *e);
    e->ctx = ctx;
    e->config = *config;
    status = qnet__copy_path(ctx, e->data, data, "data folder");
    if (status == QNET_OK) status = qnet__copy_path(ctx, e->out, out, "output folder");
    if (status == QNET_OK && weights)
        status = qnet__copy_path(ctx, e->weights, weights, "weights file");
    if (status == QNET_OK) status = qnet__experiment_run(e, data, weights, resume);
    if (status != QNET_OK) {
        qnet_experiment_destroy(e);
        return status;
    }
    *result = e;
    return QNET_OK;
}
#endif /* QNET_NO_STDIO */

QNET_API void qnet_experiment_destroy(qnet_experiment *e)
{
    qnet_context *ctx;
    if (!e) return;
    ctx = e->ctx;
    for (int i = 0; i < 2; i++) {
        for (int l = 0; l < QNET_LEVELS; l++) {
            qnet_level_result *level = &e->level[i][l];
            qnet__free(ctx, level->items,
                       (size_t)e->config.repeats * level->count * sizeof(qnet_item));
            for (int m = 0; m < QNET_MODELS; m++) {
                qnet__free(ctx, level->model[m].roc, (level->count + 1) * sizeof(qnet_roc_point));
            }
        }
        for (int k = 0; k < e->cams_count[i]; k++) {
            const size_t bytes = (size_t)e->cams[i][k].width * (size_t)e->cams[i][k].height * 3;
            qnet__free(ctx, e->cams[i][k].rgb, bytes);
            qnet__free(ctx, e->cams[i][k].grey_rgb, bytes);
        }
        qnet__free(ctx, e->cams[i], (size_t)e->config.cam_scans * 2 * sizeof(qnet_cam_picture));
        qnet__free(ctx, e->augmented[i],
                   (size_t)e->augmented_width[i] * (size_t)e->augmented_height[i] * 3);
    }
    for (int k = 0; k < e->curves_count; k++) {
        qnet__free(ctx, e->curves[k].epoch, (size_t)e->curves[k].epochs * sizeof(qnet_epoch));
    }
    qnet__free(ctx, e->curves,
               (size_t)e->config.repeats * (size_t)e->config.folds * QNET_MODELS * 2 *
                   sizeof(qnet_curve));
    qnet__free(ctx, e->participants, (size_t)e->participants_count * sizeof(qnet_participant));
    qnet__free(ctx, e->fold, (size_t)e->participants_count * sizeof(int));
    qnet__free(ctx, e, sizeof *e);
}

#endif /* QNET_IMPLEMENTATION */
