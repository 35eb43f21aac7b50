/* qnet.h 0.1.0: Q-Net, brain iron in hemochromatosis from QSM, R2* and T1W, in one header.
   SPDX-License-Identifier: MIT-0

   Do this in ONE C or C++ file, and include the header plainly everywhere else:

       #define QNET_IMPLEMENTATION
       #include "qnet.h"

   and link with -lm. Add -fopenmp to use all cores.

   CONTENTS (search for the tag; every ">>" opens a room, and a room calls only rooms above it)

       manual         what it does and does NOT do, quick start, options, systems, memory,
                      threads, determinism, errors, formats, choices, references
       API 1 .. 18    every public type and function, in the order of the data's way
       END OF API     read no further to use the library, read on to audit it
       >>status >>context >>random >>file >>tensor >>text              the ground floor
       >>kernels                                                         per instruction set
       >>gemm >>fuse >>winograd >>conv >>norm                            layers
       >>pool >>stem >>dense >>lstm
       >>resnet >>scan >>optim                                          the two models, Adam, SWA
       >>deflate >>png >>nifti >>weights                                file formats
       >>image >>cohort >>train                                         data, augmentation, training
       >>metrics >>cam >>experiment                                     evaluation, the protocol

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

   examples/crossval makes of that Tables 1-3 and Figures 3 and 5-10, as one HTML page.

   Forward and backward passes are written out by hand, layer by layer; nothing but the C library
   and its maths are needed.

   WHAT IT DOES NOT DO

   - It is no medical device. Nothing that it prints is a diagnosis of a person.
   - It has no weights inside: ImageNet weights come from a file of yours (safetensors; with the
     hook of weights_tools/pth.h also PyTorch's .pth), or training starts from random ones, which
     for 99 subjects is a weaker start than the paper's.
   - It does not compute QSM or R2* maps from echoes, does not segment, does not register.
   - It walks no folders: a list says whose scan lies in which files (examples/crossval/bids.h).
   - No 4-D, complex or RGB volumes, no NIfTI-2, no .hdr/.img pairs: each is an error that says so.
   - It starts no threads of its own, keeps no globals, prints nothing, never exits or aborts.
   - It uses the CPU only, in single precision (double as a reference build).

   QUICK START

       qnet_context *ctx;
       qnet_experiment_config config;
       qnet_experiment *e = NULL;
       bids b;                              (examples/crossval/bids.h: the scans of a BIDS folder;
       memset(&b, 0, sizeof b);              a qnet_dataset may come from anywhere)
       if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
       qnet_experiment_config_init(&config);                  (the paper's values)
       if (bids_read(&b, ctx, "cohort") != QNET_OK ||
           qnet_experiment_run(ctx, &config, &b.dataset, "out", NULL, 0, &e) != QNET_OK)
           puts(bids_error(&b));
       else
           printf("AUC of Q-Net, cropped, by scan: %.3f\n",
                  e->level[QNET_INPUT_CROP][QNET_LEVEL_SCAN].model[QNET_MODEL_QNET].auc_first);
       qnet_experiment_destroy(e);
       bids_free(&b);
       qnet_context_destroy(ctx);

   examples/ holds small programs, one idea each: one LSTM cell against Eqs. (1)-(5), stage 1,
   stage 2, one scan classified, DeLong on a table of scores, CAM of a slice, hooks of your own.

   OPTIONS, defined before the implementation

       QNET_REAL double       networks in double precision: the reference build, slow and exact
       QNET_REFERENCE         plain loops instead of the fast products, convolutions and passes
       QNET_STATIC            everything private to this file
       QNET_IMPLEMENTATION_DONE    QNET_IMPLEMENTATION does nothing, as another file of the program
                              holds it: single-file programs can then share one compiled header
       QNET_API               what stands before every public function, such as
                              __declspec(dllexport) in a DLL and __declspec(dllimport) in its users
       QNET_NO_STDIO          no file access by path; memory and callbacks stay. Of the system then
                              only malloc, snprintf, strtod and their like are asked; no clock
       QNET_NO_FSYNC          files are not forced to the disk before they get their name: quicker,
                              but after a power cut one may be empty; for tests
       QNET_ONLY_INFERENCE    files are read, images prepared, both networks run forward, and class
                              activation maps; no training, no statistics, no NIfTI and PNG files
                              out; no API 18, and so no qnet_preparation_load
       QNET_ONLY_METRICS      statistics alone: API 1 to 3 and 16
       QNET_NO_FILES          networks, layers, optimiser, augmentation and statistics; nothing that
                              knows of files: no NIfTI, no weights files, cohorts, training runs;
                              with QNET_ONLY_INFERENCE no optimiser and no statistics either
       QNET_NO_EXPERIMENT     all but the experiment (API 18)
       QNET_NO_OPENMP         no OpenMP even where the compiler offers it
       QNET_NO_SIMD           the portable kernels only: no AVX2, no AVX-512, no NEON
       QNET_PASTED            this text is part of another header, so that it cannot include itself
                              for AVX2 and AVX-512: the kernels are what the compiler's flags allow,
                              as -mavx2 -mfma. Known without it where it is pasted into a .c
                              file, and where it is itself the file that is compiled
       QNET_FILE              the file's name in quotes, if it was renamed and the compiler does not
                              know __FILE_NAME__ (gcc before 12, clang before 9)
       QNET_CPU_CHOICE        a const char * expression, as getenv("QNET_CPU"): the name of the
                              kernels that AUTO picks, unless NULL; for tests and measurements
       QNET_USE_CBLAS         cblas_sgemm as the BLAS hook that is used when none is given
       QNET_MAX_FILE_BYTES, QNET_MAX_VOXELS    limits on what a file may ask for

   QNET_REAL, QNET_STATIC, QNET_API, QNET_NO_STDIO and those that leave rooms out change
   declarations: define them wherever the header is included; files of different QNET_REAL do not
   link. QNET_USE_CBLAS wants a BLAS at link time (-lopenblas).

   SYSTEMS

   Any with IEEE 754 numbers and bytes of 8 bits, of either byte order: files are the same on all.
   Float must be computed as float: on 32-bit x86 that takes -msse2 -mfpmath=sse, on s390x
   -fexcess-precision=fast in the strict modes; without, the implementation does not compile.
   Microsoft's cl.exe has no vectors that this file could use, so it makes networks some ten times
   slower than clang-cl, which takes all kernels. mingw: gcc may lay AVX's registers on a stack that
   is not aligned to them, and the program crashes (its bug 54412; Debian, MSYS2 and w64devkit have
   repaired it, winlibs and MinGW-Builds not): -Wa,-muse-unaligned-vector-move, or clang.
   WebAssembly: -msimd128, which makes a ResNet three times as fast, and -sALLOW_MEMORY_GROWTH=1.
   Neither POSIX nor Windows, or no system at all: QNET_NO_STDIO.

   MEMORY

   All of it comes from the allocator hook of the context, and goes back with the size it was asked
   with. Models and training runs ask when they are created, and for all they need; forward passes,
   backward passes and training steps ask for nothing. qnet_resnet_bytes and its like say beforehand
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
   whatever promise its library makes. -ffast-math is refused, and its parts should not be used.

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
   (lstm.weight_ih_l0 ...; gates i, f, g, o; two biases). Those of an experiment say in their
   metadata which run, input, repeat, fold and model they are, how images were prepared for them,
   and a Q-Net which embedding it belongs to: qnet_weights_check_pair refuses any other. A
   checkpoint is a safetensors file too.
   Volumes are NIfTI-1; world coordinates are RAS+ in mm. Susceptibility is in ppm, R2* in 1/s.

   FILES

   Paths are the system's bytes on POSIX and UTF-8 on Windows, where \ separates folders as / does.
   A file is written under a name of its own (path.<process>-<n>.tmp), forced to the disk and
   renamed: whatever stops the program, or the power, path holds all of the old or all of the new.
   What a killed program leaves of its .tmp goes when an experiment resumes, otherwise it stays.
   Files have the mode 0666 and folders 0777, less the umask: at the usual 022 everybody on a shared
   machine can read them. Where they tell of patients, say `umask 077` first.

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
       Results          what Tables 1-3 and Fig. 5-10 show: API 16 to 18. examples/audit_paper.c
                        shows what the printed results say of each other, and where they differ

   CHOICES, where the paper leaves a question open (each a field of a configuration, or fixed)

       input            full: 256 x 256; cropped: 224 x 224 of 96 mm around the basal ganglia, that
                        is around their mask's centre of mass
       slices           those with the mask, at most 24, the central ones; padded and masked; of the
                        mask count the components from a fiftieth of the largest one on
       stretching       1st..99th percentile of the non-zero pixels, per slice and channel, to 0..1
       augmentation     ranges of Albumentations 0.5-1.0, which the paper cites; as there, the grid
                        distortion pulls the pixels that a fifth of the prepared side leaves over
                        (none at 260 and 256; 4 at 224 or 74) to the edge: in 6 draws of 10 at 224
                        they jump by more than 3 pixels, once by 19 (500 draws)
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
       batches          an epoch is cut into batches of nearly equal size, none above 64; where 3
                        or more are allowed, no batch norm meets a batch of one
       vote             a tie is HC: the paper asks for "more than"; ROC by the mean probability
       F1               mean of both classes' F1, weighted by support: what the paper's numbers are
       intervals        DeLong and bootstrap by slice, as in the paper, and by subject, because
                        slices of one scan are not independent: of two equally good models, half of
                        all cohorts have a star by slice. AUCs by subject: on the logit scale
       stars, p-values  crossval shows none where a class has fewer than 10 subjects, however many
                        slices: DeLong's test takes AUCs to be normally distributed; nor where a
                        difference has no variance
       shuffled labels  no AUC may stay far above .5. Over all folds it is expected below: a fold
                        with more HH than others leaves fewer to the training that judges it, and
                        scores of different folds are compared. A model that knows only the share
                        of HH in its training gets .46 with 47 + 52 subjects in 10 folds, .40 with
                        24 + 24, .33 with 15 + 15. The mean of the AUCs within folds has no such
                        bias (auc_within_folds)
       initial weights  those of an experiment say on whom they were trained, by hashes of names and
                        QSM maps; a map in common is refused, a name in common whose map is another
                        is warned of

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
#define QNET_VERSION_NUMBER \
    (QNET_VERSION_MAJOR * 10000 + QNET_VERSION_MINOR * 100 + QNET_VERSION_PATCH) /* for #if */

#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#error "qnet.h: -ffast-math and its parts break determinism and NaN checks; build without them"
#endif

#include <stddef.h>
#include <stdint.h>

/* QNET_REAL is the number type of the networks: float, or double for the reference build. */
#ifndef QNET_REAL
#define QNET_REAL float
#endif
typedef QNET_REAL qnet_real;

/* QNET__REAL_IS_DOUBLE: the preprocessor cannot compare types, but it can paste their names. */
#define QNET__KIND_float 1
#define QNET__KIND_double 2
#define QNET__KIND_PASTE(type) QNET__KIND_##type
#define QNET__KIND(type) QNET__KIND_PASTE(type)
#if QNET__KIND(QNET_REAL) == 1
#define QNET__REAL_IS_DOUBLE 0
#elif QNET__KIND(QNET_REAL) == 2
#define QNET__REAL_IS_DOUBLE 1
/* In libraries these bear the type in their names, so that files of different QNET_REAL do not
   link, as they would read each other's numbers wrongly. */
#define qnet_context_create qnet_context_create_double
#define qnet_resnet_create qnet_resnet_create_double
#define qnet_scan_model_create qnet_scan_model_create_double
#else
#error "qnet.h: QNET_REAL must be float or double"
#endif

/* Rooms that are left out: see OPTIONS. */
#if defined(QNET_ONLY_METRICS) && defined(QNET_ONLY_INFERENCE)
#error "qnet.h: of QNET_ONLY_METRICS and QNET_ONLY_INFERENCE define one"
#endif
#ifdef QNET_ONLY_METRICS
#define QNET__HAS_NETWORKS 0
#else
#define QNET__HAS_NETWORKS 1
#endif
#if defined(QNET_ONLY_METRICS) || defined(QNET_NO_FILES)
#define QNET__HAS_FILES 0
#else
#define QNET__HAS_FILES 1
#endif
#if defined(QNET_ONLY_METRICS) || defined(QNET_ONLY_INFERENCE)
#define QNET__HAS_TRAINING 0
#else
#define QNET__HAS_TRAINING 1
#endif
#if QNET__HAS_TRAINING && QNET__HAS_FILES && !defined(QNET_NO_EXPERIMENT)
#define QNET__HAS_EXPERIMENT 1
#else
#define QNET__HAS_EXPERIMENT 0
#endif
#ifdef QNET_ONLY_INFERENCE
#define QNET__HAS_METRICS 0
#else
#define QNET__HAS_METRICS 1
#endif

#ifdef QNET_STATIC
#if defined(__GNUC__) || defined(__clang__)
#ifndef QNET_IMPLEMENTATION
/* A file may want the types alone. gcc warns of functions that have no body at the end of the file,
   so there is no place to end this; of those that are called it warns all the same. */
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#define QNET_API static __attribute__((unused))
#else
#define QNET_API static
#endif
#elif !defined(QNET_API)
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
    X(QNET_ERROR_NUMERIC,     "NaN or infinity")                                                  \
    X(QNET_ERROR_BUSY,        "another run works in this folder")

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
    qnet_clock clock;
    qnet_weights_reader weights;
    int threads;  /* for the default parallel hook; 0: as many as OpenMP offers; 1 without it */
    qnet_cpu cpu;
} qnet_hooks;

/* Makes a context. hooks may be NULL; the struct is copied. Destroy what was made with the
   context before the context itself. Refused, without a sentence as there is no context to hold
   it: threads below 0 or above 4096, half an allocator or parallel hook, and kernels (cpu, or
   QNET_CPU_CHOICE) that this machine or build has not. */
QNET_API qnet_status qnet_context_create(const qnet_hooks *hooks, qnet_context **out);
QNET_API void qnet_context_destroy(qnet_context *ctx);

/* The sentence of the last failure in this context; "" when none has failed yet. Never NULL. */
QNET_API const char *qnet_last_error(const qnet_context *ctx);

/* The hooks in force, defaults filled in. */
QNET_API const qnet_hooks *qnet_context_hooks(const qnet_context *ctx);

/* Changes the progress hook of a context in place (all zero: none). */
QNET_API void qnet_set_progress(qnet_context *ctx, qnet_progress progress);

/* "scalar", "avx2", "avx512", "neon": the kernels this context uses. */
QNET_API const char *qnet_cpu_name(qnet_cpu cpu);
/* The reverse, "auto" included; QNET_ERROR_ARGUMENT for any other name. */
QNET_API qnet_status qnet_cpu_parse(const char *name, qnet_cpu *out);
/* The kernels in force in ctx, never AUTO. */
QNET_API qnet_cpu qnet_context_cpu(const qnet_context *ctx);

/* "qnet 0.1.0, float, gcc 12.2, OpenMP, avx512, 2 workers": into text[size], always ended. */
QNET_API void qnet_describe_build(const qnet_context *ctx, char *text, size_t size);
/* QNET_VERSION of the implementation: a shared library's may differ from that of the header that
   its user was compiled with. */
QNET_API const char *qnet_version(void);

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
/* Fisher-Yates; count < 2^32. */
QNET_API void qnet_rng_shuffle(qnet_rng *rng, int *items, size_t count);

/* 64-bit FNV-1a; pass QNET_HASH_START first, the last value to go on. For records, not security. */
#define QNET_HASH_START 0xcbf29ce484222325u
QNET_API uint64_t qnet_hash(uint64_t hash, const void *bytes, size_t size);

#if QNET__HAS_FILES
/* ============================================================================================
   API 4. Files: every reader takes a qnet_source (memory, stdio, or callbacks) or a path, every
   writer a qnet_sink or a path. A path is written under another name and renamed when complete; a
   symbolic link of that name is replaced by the file, a device or a pipe is refused. See FILES in
   the manual.
   ============================================================================================ */

typedef struct qnet_source {
    void *user;
    /* Reads up to size bytes into dst; *got < size only at the end. Non-zero: an I/O error, with
       the system's reason in errno or 0. */
    int (*read)(void *user, void *dst, size_t size, size_t *got);
    const char *name; /* for error sentences; NULL: "(memory)" */
} qnet_source;

typedef struct qnet_sink {
    void *user;
    int (*write)(void *user, const void *src, size_t size); /* non-zero: as above */
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
/* Writes bytes to path, whole or not at all: the old file stays on any failure. */
QNET_API qnet_status qnet_file_replace(qnet_context *ctx, const char *path, const void *bytes,
                                       size_t size);
/* Reads a whole file of at most limit bytes (0: QNET_MAX_FILE_BYTES) into an empty buffer. */
QNET_API qnet_status qnet_file_read(qnet_context *ctx, const char *path, size_t limit,
                                    qnet_buffer *out);
/* 1 also for what cannot be looked at (no permission, a disk error): opening it says why. */
QNET_API int qnet_file_exists(const char *path);
/* Makes a folder and its parents; one that exists is no error. POSIX and Windows. */
QNET_API qnet_status qnet_make_folder(qnet_context *ctx, const char *path);
/* Appends the names of a folder's entries, sorted by strcmp, each ended by a zero byte. */
QNET_API qnet_status qnet_list_folder(qnet_context *ctx, const char *path, qnet_buffer *names);
#endif

/* Limits on what a file may ask for; define your own before the implementation. */
#ifndef QNET_MAX_FILE_BYTES
#define QNET_MAX_FILE_BYTES ((size_t)0xffffffffu) /* 4 GiB: a text table or a weights file */
#endif
#ifndef QNET_MAX_VOXELS
#define QNET_MAX_VOXELS ((size_t)1 << 28) /* 268 million voxels: 645 x 645 x 645 */
#endif
#endif

#if QNET__HAS_NETWORKS
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
   says that they may. Shapes and pointers are checked, values are not: NaN in, NaN out. What
   returns nothing (qnet_relu_forward, qnet_relu_backward, qnet_softmax, qnet_lstm_cell) does
   nothing where a size is below 1 or a pointer is NULL.
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
   out_h = (height + 2 padding - kernel) / stride + 1. kernel, stride, padding: up to 255. */
typedef struct qnet_conv2d {
    int batch, height, width, in_channels, out_channels, kernel, stride, padding;
} qnet_conv2d;
QNET_API int qnet_conv2d_out_height(const qnet_conv2d *shape);
QNET_API int qnet_conv2d_out_width(const qnet_conv2d *shape);
/* How this convolution is computed, chosen from the shape alone: "Winograd", "direct", "BLAS" (with
   a hook) or "reference" (with QNET_REFERENCE); "none" for a shape that is not valid. The batch is
   a part of the shape, so it may decide about an image's last bits (a ResNet's does not from 16
   on). With "Winograd" a NaN or an infinity reaches all outputs of the tiles that read it, as NaN.
   The gradient of the inputs may go another way, and a ResNet with training = 0 has one more, tiles
   of 2x2 outputs for small maps of few images. */
QNET_API const char *qnet_conv2d_algorithm(const qnet_context *ctx, const qnet_conv2d *shape);
QNET_API size_t qnet_conv2d_scratch(const qnet_context *ctx, const qnet_conv2d *shape);
QNET_API qnet_status qnet_conv2d_forward(qnet_context *ctx, const qnet_conv2d *shape,
                                         const qnet_real *x, const qnet_real *w, qnet_real *y,
                                         void *scratch);
#if QNET__HAS_TRAINING
/* dx and dw from dy; NULL skips one of them (dx for a first layer, dw for frozen weights). */
QNET_API qnet_status qnet_conv2d_backward(qnet_context *ctx, const qnet_conv2d *shape,
                                          const qnet_real *x, const qnet_real *w,
                                          const qnet_real *dy, qnet_real *dx, qnet_real *dw,
                                          void *scratch);
#endif

/* Batch normalisation over rows of x[rows][channels] (Ioffe & Szegedy 2015), with the residual
   addition and the ReLU that follow it in a ResBlock folded into the same pass:
   y = act(gamma * (x - mean) * rstd + beta + residual), act = ReLU if relu, else identity.
   residual NULL: none. y may alias x in the inference form, and residual in both. */
#define QNET_BATCHNORM_EPS 1e-5
#define QNET_BATCHNORM_MOMENTUM 0.1
QNET_API size_t qnet_batchnorm_scratch(const qnet_context *ctx, size_t rows, int channels);
#if QNET__HAS_TRAINING
/* Training form: statistics of this batch, kept in mean[channels] and rstd[channels] for the
   backward pass; running_* (each may be NULL) move by momentum, 0 to 1, the variance unbiased. */
QNET_API qnet_status qnet_batchnorm_forward(qnet_context *ctx, size_t rows, int channels,
                                            const qnet_real *x, const qnet_real *gamma,
                                            const qnet_real *beta, const qnet_real *residual,
                                            int relu, double momentum, qnet_real *running_mean,
                                            qnet_real *running_var, qnet_real *mean,
                                            qnet_real *rstd, qnet_real *y, void *scratch);
#endif
/* With the running statistics; asks for channels numbers during the call. */
QNET_API qnet_status qnet_batchnorm_inference(qnet_context *ctx, size_t rows, int channels,
                                              const qnet_real *x, const qnet_real *gamma,
                                              const qnet_real *beta, const qnet_real *running_mean,
                                              const qnet_real *running_var,
                                              const qnet_real *residual, int relu, qnet_real *y);
#if QNET__HAS_TRAINING
/* y: the output of the forward pass, for the ReLU's mask (NULL without ReLU). dresidual (NULL:
   none) gets the masked dy. dx may alias dy; dresidual may alias dy when dx does not. */
QNET_API qnet_status qnet_batchnorm_backward(qnet_context *ctx, size_t rows, int channels,
                                             const qnet_real *x, const qnet_real *gamma,
                                             const qnet_real *mean, const qnet_real *rstd,
                                             const qnet_real *y, const qnet_real *dy, qnet_real *dx,
                                             qnet_real *dresidual, qnet_real *dgamma,
                                             qnet_real *dbeta, void *scratch);
#endif

QNET_API void qnet_relu_forward(size_t count, const qnet_real *x, qnet_real *y); /* y may alias x */
#if QNET__HAS_TRAINING
QNET_API void qnet_relu_backward(size_t count, const qnet_real *y, const qnet_real *dy,
                                 qnet_real *dx);
#endif

/* Max pooling, kernel 3, stride 2, padding 1: x[batch][h][w][c] to y[batch][oh][ow][c],
   oh = (h - 1) / 2 + 1. argmax[batch][oh][ow][c] (NULL: not needed) gets 0..8, the tap that won,
   the first of equals. */
QNET_API qnet_status qnet_maxpool_forward(qnet_context *ctx, int batch, int height, int width,
                                          int channels, const qnet_real *x, qnet_real *y,
                                          uint8_t *argmax);
#if QNET__HAS_TRAINING
QNET_API qnet_status qnet_maxpool_backward(qnet_context *ctx, int batch, int height, int width,
                                           int channels, const uint8_t *argmax, const qnet_real *dy,
                                           qnet_real *dx);
#endif

/* Global average pooling: x[batch][pixels][channels] to y[batch][channels]. */
QNET_API qnet_status qnet_avgpool_forward(qnet_context *ctx, int batch, size_t pixels, int channels,
                                          const qnet_real *x, qnet_real *y);
#if QNET__HAS_TRAINING
QNET_API qnet_status qnet_avgpool_backward(qnet_context *ctx, int batch, size_t pixels,
                                           int channels, const qnet_real *dy, qnet_real *dx);
#endif

/* Fully connected: y[rows][out] = x[rows][in] * w[out][in]^T + b[out]. */
QNET_API size_t qnet_dense_scratch(const qnet_context *ctx, size_t rows, int in, int out);
QNET_API qnet_status qnet_dense_forward(qnet_context *ctx, size_t rows, int in, int out,
                                        const qnet_real *x, const qnet_real *w, const qnet_real *b,
                                        qnet_real *y, void *scratch);
#if QNET__HAS_TRAINING
QNET_API qnet_status qnet_dense_backward(qnet_context *ctx, size_t rows, int in, int out,
                                         const qnet_real *x, const qnet_real *w,
                                         const qnet_real *dy, qnet_real *dx, qnet_real *dw,
                                         qnet_real *db, void *scratch);
#endif

/* probability = softmax(logits) per row, [rows][classes]; may alias logits. */
QNET_API void qnet_softmax(size_t rows, int classes, const qnet_real *logits,
                           qnet_real *probability);
#if QNET__HAS_TRAINING
/* Mean cross-entropy of the rows with label >= 0; label -1 leaves a row out. QNET_ERROR_DATA when
   no row is left. dlogits (NULL: none) = (probability - onehot) / rows counted, 0 in rows left
   out; may alias logits. */
QNET_API qnet_status qnet_cross_entropy(qnet_context *ctx, size_t rows, int classes,
                                        const qnet_real *logits, const int *label, double *loss,
                                        qnet_real *dlogits);
#endif

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
#if QNET__HAS_TRAINING
/* dx (NULL: not needed: the embedding is frozen) and the gradients from dy. */
QNET_API qnet_status qnet_lstm_backward(qnet_context *ctx, const qnet_lstm *shape,
                                        const int *length, const qnet_lstm_weights *weights,
                                        const qnet_real *x, const qnet_real *y,
                                        const qnet_real *saved, const qnet_real *dy, qnet_real *dx,
                                        const qnet_lstm_gradients *gradients, void *scratch);
#endif

/* ============================================================================================
   API 7. ResNet18, the image-level model (paper, "Internal Architecture", Fig. 4; He et al. 2016):
   7x7/2 convolution 64, batch norm, ReLU, max pool; 8 ResBlocks of two 3x3 convolutions with 64,
   128, 256 and 512 channels, the 3rd, 5th and 7th halving height and width; global average pool
   (512 features); fully connected to 2 classes. Height and width from 32 to 8192.
   ============================================================================================ */

#define QNET_FEATURES 512   /* per slice, after the global average pool */
#define QNET_CLASSES 2
typedef enum qnet_label { QNET_HC = 0, QNET_HH = 1 } qnet_label; /* HH is the positive class */

typedef struct qnet_resnet_config {
    int height, width; /* of the input, 32 to 8192 */
    int channels;      /* 3: QSM, R2*, T1W; up to 1024 */
    int classes;       /* 2; up to 65536 */
    int batch;         /* the largest batch that will be asked for, up to 4096; below 16 it also
                          decides, with the size and `training`, how the deepest maps are computed,
                          and so about last bits */
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
   a network with training = 0 that serves many small batches. After a change of the weights, as by
   qnet_weights_load, call it again: until then a pass would take the old convolutions with the new
   norms and head. (qnet_resnet_init drops the packed form.) The memory comes from the allocator,
   beside qnet_resnet_bytes: 9 to 81 numbers for 9 where Winograd's form is used, up to 208 MB in
   float. It goes with the network. Results keep their bits. */
QNET_API qnet_status qnet_resnet_pack(qnet_resnet *net);
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
#if QNET__HAS_TRAINING
/* Fills net->gradients from dlogits[batch][classes], after a forward pass with train = 1 of the
   same batch; x as then. It uses up what that pass kept: one backward pass per forward pass. */
QNET_API qnet_status qnet_resnet_backward(qnet_resnet *net, const qnet_real *x, int batch,
                                          const qnet_real *dlogits);
#endif
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
#if QNET__HAS_TRAINING
QNET_API qnet_status qnet_scan_model_backward(qnet_scan_model *model, const qnet_real *x,
                                              const int *length, int batch,
                                              const qnet_real *dimage_logits,
                                              const qnet_real *dscan_logits);
/* Both losses of a batch and the whole step's gradients: CE(scan) + CE(image), 1:1. */
QNET_API qnet_status qnet_scan_model_loss(qnet_scan_model *model, const qnet_real *x,
                                          const int *length, const int *scan_label, int batch,
                                          double *image_loss, double *scan_loss, int backward);
#endif

#if QNET__HAS_TRAINING
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
#endif
#endif

#if QNET__HAS_FILES
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
    const void *data; /* in host order; may be unaligned */
} qnet_safetensor;
typedef struct qnet_metadata { char key[64]; char *value; } qnet_metadata;

/* A parsed file: owns its bytes. What no network here can need is left out, with a warning in the
   log: tensors of other dtypes (F8, C64 ...), names above 127 and metadata keys above 63 bytes. */
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

/* Hash of a file's tensors in whatever order: names, types, shapes and numbers; no metadata, and no
   num_batches_tracked. */
QNET_API uint64_t qnet_safetensors_hash(const qnet_safetensors *file);
/* Whether the scan model in `scan` was trained on the features of the ResNet in `resnet`. The files
   of an experiment say in their metadata which run, input, repeat, fold and model they are, a scan
   model's also the hash of that ResNet's tensors. QNET_ERROR_MISMATCH, with what both files are,
   when it is another hash, and for files that say that they are swapped. *known = 0 where `scan`
   has no hash: only what they say was compared. */
QNET_API qnet_status qnet_weights_check_pair(qnet_context *ctx, const qnet_safetensors *resnet,
                                             const qnet_safetensors *scan, int *known);

/* Copies a file's tensors into a block with this table: every name and shape must be there,
   numbers finite and running variances not below 0; float types convert. num_batches_tracked may
   be missing. With `replace_head`, an fc / head of another number of classes, or none at all, is
   left as it is in block and *head_replaced is set. A prefix before all names is passed over, with
   a warning. Nothing is copied on error. */
QNET_API qnet_status qnet_weights_from_safetensors(qnet_context *ctx, const qnet_safetensors *file,
                                                   const qnet_param_table *table, qnet_real *block,
                                                   int replace_head, int *head_replaced);
/* Bytes of the prefix that stands before all names of the file, as "module." of DataParallel or
   "_orig_mod." of torch.compile, where the rest is a name of the table; 0: there is none. */
QNET_API size_t qnet_weights_prefix(const qnet_safetensors *file, const qnet_param_table *table);
/* metadata_pairs: key, value, key, value, ...; `pairs` of them. A number that could not be read
   back (not finite, a variance below 0) is QNET_ERROR_DATA, before anything is written. */
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
    int affine_source;   /* 2: sform, 1: qform, 0: neither in the file, spacing only: which side is
                            left is unknown. If you know it, set affine, and this to 2. */
    float *voxels;
} qnet_volume;

QNET_API qnet_status qnet_volume_create(qnet_context *ctx, int nx, int ny, int nz,
                                        qnet_volume **out);
QNET_API void qnet_volume_destroy(qnet_volume *volume);
/* Reads a single-file NIfTI-1 with one 3-D volume, compressed or not (told by its first bytes), of
   any scalar type and either byte order, scl_slope and scl_inter applied. 4-D files with more than
   one volume, complex, RGB and .hdr/.img pairs are errors that say so. NaN and infinity stay. What
   some tools write wrongly but can mean one thing only (bitpix, a negative spacing, a quaternion
   slightly too long, a zero sform beside a qform ...) is read so, with a warning in the log. */
QNET_API qnet_status qnet_nifti_read(qnet_context *ctx, qnet_source *source, qnet_volume **out);
#if QNET__HAS_TRAINING
/* Little-endian, with the affine as sform. slope 0: float32, which keeps every voxel; above 0:
   int16, voxel = stored * slope, rounded to the nearest step; a voxel beyond 32767 steps is
   QNET_ERROR_DATA. With affine_source 0 the file has neither sform nor qform, and is refused unless
   its axes are LAS, which is how such a file is read. */
QNET_API qnet_status qnet_nifti_write(qnet_context *ctx, qnet_sink *sink, const qnet_volume *volume,
                                      double slope, int gzip);
#endif
#ifndef QNET_NO_STDIO
QNET_API qnet_status qnet_nifti_load(qnet_context *ctx, const char *path, qnet_volume **out);
#if QNET__HAS_TRAINING
/* Compressed if and only if the name ends in .gz. */
QNET_API qnet_status qnet_nifti_save(qnet_context *ctx, const char *path, const qnet_volume *volume,
                                     double slope);
#endif
#endif
/* Permutes and flips the axes, and the affine with them, so that the orientation becomes `to`,
   such as "RAS". World coordinates of every voxel stay the same. */
QNET_API qnet_status qnet_volume_reorient(qnet_volume *volume, const char *to);

/* CRC-32 of RFC 1952 of bytes[size], going on from that of the bytes before; start with 0. */
QNET_API uint32_t qnet_crc32(uint32_t crc, const void *bytes, size_t size);

#if QNET__HAS_TRAINING
/* PNG of rgb[height][width][channels], 8 bits, channels 1 (grey) or 3. */
QNET_API qnet_status qnet_png_write(qnet_context *ctx, qnet_sink *sink, int width, int height,
                                    int channels, const uint8_t *pixels);
#ifndef QNET_NO_STDIO
QNET_API qnet_status qnet_png_save(qnet_context *ctx, const char *path, int width, int height,
                                   int channels, const uint8_t *pixels);
#endif
#endif
#endif

#if QNET__HAS_NETWORKS
/* ============================================================================================
   API 13. Images: histogram stretching and augmentation (paper, "Data Augmentation"). In its order
   and with its probabilities: histogram stretching (1), horizontal flip (.5), vertical flip (.5),
   brightness and contrast (.7), random gamma (.3), grid distortion (.25), shift-scale-rotate (.5),
   crop (1); at test time the first and the last only. Ranges are those of Albumentations.
   An image is float pixels[height][width][3]: QSM (ppm), R2* (1/s), T1W (any unit). NaN becomes 0
   by the stretch and infinity 0 or 1, without an error, and neither counts in a percentile:
   training and qnet_embed refuse images with either before.
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
/* The same within limits of the stretch that are known already (NULL: they are found): they depend
   on image and configuration, not on the record, so training finds them once for all epochs. */
QNET_API qnet_status qnet_augment_apply_within(qnet_context *ctx, const qnet_augment_config *config,
                                               const qnet_augmentation *record, const float *pixels,
                                               int in_h, int in_w, const float low[3],
                                               const float high[3], qnet_real *out, int out_h,
                                               int out_w, void *scratch);
/* Those limits of count pixels. scratch: room for count floats, such as that above. */
QNET_API qnet_status qnet_stretch_limits(qnet_context *ctx, const qnet_augment_config *config,
                                         const float *pixels, size_t count, float low[3],
                                         float high[3], void *scratch);
/* Bilinear resize of in[in_h][in_w][channels], pixel centres aligned (half-pixel convention). */
QNET_API void qnet_image_resize(const float *in, int in_h, int in_w, int channels, float *out,
                                int out_h, int out_w);
#endif

#if QNET__HAS_FILES
/* ============================================================================================
   API 14. Cohorts: scans on disk to images in memory (paper, "Data Preparation": the slices with
   the basal ganglia, full-size or cropped to them), and subject-wise folds ("Training Procedure").
   ============================================================================================ */

typedef enum qnet_sex { QNET_SEX_UNKNOWN, QNET_MALE, QNET_FEMALE } qnet_sex;
typedef enum qnet_input { QNET_INPUT_CROP, QNET_INPUT_FULL } qnet_input;
QNET_API const char *qnet_input_name(qnet_input input); /* "crop", "full" */

/* Is shown each scan of a cohort while its volumes are in memory, turned to RAS, for pictures of
   what was cut. maps->mask: what counts of the mask; NULL: not needed. */
struct qnet_scan;
struct qnet_scan_maps;
typedef struct qnet_viewer {
    void *user;
    void (*show)(void *user, const struct qnet_scan *scan, const struct qnet_scan_maps *maps);
} qnet_viewer;

typedef struct qnet_input_config {
    qnet_input input;
    int size;          /* side of the network's input: 224 cropped, 256 full; >= 32 */
    double box_mm;     /* 96: side of the box around the basal ganglia that fills a cropped image */
    double margin;     /* .08: the prepared cropped image is larger by this share on each side */
    int max_slices;    /* 24: the central ones of those that hold the mask */
    int slice_first, slice_count; /* explicit range along z, upwards from 0; count 0: by the mask */
    double box_center_mm[2];      /* explicit centre (x right, y front); used when box_explicit */
    int box_explicit;
    int any_values;      /* 1: maps with values that no brain has are warned of, not refused */
    int any_orientation; /* 1: and so are slices far from axial */
    const struct qnet_viewer *viewer; /* NULL: none */
} qnet_input_config;
QNET_API void qnet_input_config_init(qnet_input_config *config, qnet_input input);

/* How the images of a scan were cut: what a reader looks at to see that it is the right place. */
typedef struct qnet_cut {
    double center[2];    /* middle of the images: voxels along x and y after orientation to RAS */
    double center_mm[3]; /* the same in the world, in the middle of the slices */
    double side_mm;      /* of the prepared images */
    int slice[2];        /* the lowest and the highest one, from 0 at the bottom */
    double offset_mm[2]; /* the mask's centre of mass from that of the head in its slices, along x
                            and y; NaN without a mask */
    int mask_voxels, mask_left_out; /* what counts of the mask, and of its small pieces does not */
    int outlier;         /* far from most of the cohort: 1 the mask's place, 2 the slices' number */
} qnet_cut;

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
    uint64_t source_hash; /* of the QSM volume as read: it stays however the images are cut */
    qnet_cut cut;
} qnet_scan;

typedef struct qnet_cohort {
    qnet_context *ctx;
    qnet_input_config config;
    int scans_count, capacity;
    int height, width; /* prepared size: config.size plus margins */
    qnet_scan *scans;
} qnet_cohort;

/* Slice t of a scan: pixels[height][width][3]. */
QNET_API const float *qnet_scan_slice(const qnet_cohort *cohort, int scan, int t);
/* Side of the prepared image: size plus margins for a crop, size for the full image. */
QNET_API int qnet_input_prepared(const qnet_input_config *config);

/* One scan in memory: the maps share a grid; mask may be NULL where the configuration names slices
   and box. */
typedef struct qnet_scan_maps {
    const char *subject;
    qnet_label label; double age; qnet_sex sex;
    qnet_volume *qsm, *r2star, *t1w, *mask; /* reoriented to RAS, cleaned in place (below) */
} qnet_scan_maps;

/* One scan on disk: NIfTI files. */
typedef struct qnet_scan_files {
    const char *subject;
    qnet_label label; double age; qnet_sex sex;
    const char *qsm, *r2star, *t1w, *mask;
} qnet_scan_files;

/* An empty cohort with room for `scans` scans. */
QNET_API qnet_status qnet_cohort_create(qnet_context *ctx, const qnet_input_config *config,
                                        int scans, qnet_cohort **out);
/* Checks a scan, chooses its slices, cuts them out and appends them: the cohort is as before on any
   failure. The maps stay the caller's.

   Mask: 0 and 1, labels 1..N of which all count, or a probability in 0..1 from .5 on; what is none
   of these is refused, as is (see any_values) one of more than 200 ml, such as a brain's.
   Components of less than a fiftieth of the largest one are left out; slices are those that hold
   the rest, the box is about its centre of mass.
   NaN or infinity becomes 0 outside of the head, that is where it is joined, through others of its
   slice, to the slice's edge or to a voxel of 0; and where no image looks. Elsewhere it is
   refused, as is a map that is 0 all over a slice's image.
   Values, in the chosen slices within 96 mm about the centre, voxels of 0 left out: refused (see
   any_values) are maps that are constant, or 0 in 95 % of the voxels or 10 % of the mask; |QSM|
   with a 99th percentile outside .005..3 ppm (brains: .05 to .5; in ppb 50 to 500); R2* with a
   median outside 5..80 or a 99th percentile above 1000 1/s (brains at 1.5 to 7 T: 12 to 40, and 25
   to 300), or with a median above 25 and less than .9 of it where QSM is highest, as T2* in ms has.
   QSM must be higher in the mask than around it (else its sign is wrong), no map may be a copy of
   another, and no two subjects may have the same QSM map.
   Slices: a tilt of the axes above 30 degrees is warned of; refused (see any_orientation) are one
   above 45, and one above 30 of slices that were acquired sagittal or coronal.
   Grids that differ by more than .05 voxels at a corner are refused, by more than .0005 warned
   of. */
QNET_API qnet_status qnet_cohort_add(qnet_cohort *cohort, const qnet_scan_maps *maps);
QNET_API void qnet_cohort_destroy(qnet_cohort *cohort);
#ifndef QNET_NO_STDIO
/* A cohort of files[count]: volumes are read, cut and freed one scan after the other, so memory
   holds the slices of all and the volumes of one. Error sentences name the file. A scan whose mask
   lies elsewhere in the head, or in other numbers of slices, than in most of ten or more is warned
   of (the log hook). */
QNET_API qnet_status qnet_cohort_load(qnet_context *ctx, const qnet_input_config *config,
                                      const qnet_scan_files *files, int count, qnet_cohort **out);
#endif

/* fold[i] in 0..folds-1 for scan i: stratified by label, over subjects, seeded; all scans of a
   subject share a fold. QNET_ERROR_ARGUMENT: more folds than a class has subjects. */
QNET_API qnet_status qnet_folds_create(qnet_context *ctx, const qnet_cohort *cohort, int folds,
                                       uint64_t seed, int *fold);
/* QNET_ERROR_LEAK, with the subject's name, when one is in two folds. */
QNET_API qnet_status qnet_folds_check(qnet_context *ctx, const qnet_cohort *cohort, int folds,
                                      const int *fold);

/* ============================================================================================
   API 15. Training (paper, "Training Procedure").
   ============================================================================================ */

#if QNET__HAS_TRAINING
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

typedef struct qnet_stage2_config {
    int epochs, batch;     /* 50, 64 */
    double rate;           /* 3e-4, fixed */
    qnet_adam_config adam;
    int hidden, steps;     /* 256, 24 */
    uint64_t seed;
} qnet_stage2_config;
QNET_API void qnet_stage2_config_init(qnet_stage2_config *config);

typedef struct qnet_epoch {
    double loss, learning_rate, seconds;
} qnet_epoch; /* stage 2: scan + image */

/* A training run of either stage: network, optimiser, averages, history; owns its memory. An epoch
   visits every item, a slice in stage 1 and a scan in stage 2, once, in batches of nearly equal
   size, none above `batch`. */
typedef struct qnet_training {
    qnet_context *ctx;
    qnet_resnet *net;       /* of stage 1; NULL in stage 2 */
    qnet_scan_model *model; /* of stage 2; NULL in stage 1 */
    int epochs, epoch;      /* in all, done */
    qnet_epoch *history;    /* [epochs] */
    uint64_t step;          /* Adam steps done */
    int averaged;           /* weights averaged so far */
    int finished;           /* qnet_training_finish has run: the network is the result */
    struct qnet__training_state *state;
} qnet_training;

/* scans[count]: the training scans, as indices into the cohort, which must outlive the run. weights
   (NULL: random): a block with qnet_resnet's table to start from. */
QNET_API qnet_status qnet_stage1_create(qnet_context *ctx, const qnet_stage1_config *config,
                                        const qnet_cohort *cohort, const int *scans, int count,
                                        const qnet_real *weights, qnet_training **out);
/* features[count][steps][512] (copied), length[count], label[count]: the frozen embedding's. */
QNET_API qnet_status qnet_stage2_create(qnet_context *ctx, const qnet_stage2_config *config,
                                        const qnet_real *features, const int *length,
                                        const int *label, int count, qnet_training **out);
QNET_API void qnet_training_destroy(qnet_training *run);
/* One epoch. QNET_STOPPED leaves the run unusable but for qnet_training_load and _destroy;
   QNET_ERROR_NUMERIC names epoch and step. */
QNET_API qnet_status qnet_training_epoch(qnet_training *run);
/* Ends the run: with SWA takes the averaged weights and re-estimates all batch-norm statistics over
   the training images, augmentation off (Izmailov et al. 2018). */
QNET_API qnet_status qnet_training_finish(qnet_training *run);
/* Checkpoints: a safetensors file with weights, Adam's moments, SWA average, epoch, history, seeds
   and configuration; loading continues with the same bits. QNET_ERROR_MISMATCH when the
   configuration, the cohort or the scans differ; a run without SWA may be loaded into one with SWA
   as long as its epoch is not past qnet_stage1_swa_start: up to there they are the same run. */
QNET_API qnet_status qnet_training_write(qnet_training *run, qnet_sink *sink);
QNET_API qnet_status qnet_training_read(qnet_training *run, qnet_source *source);
#ifndef QNET_NO_STDIO
QNET_API qnet_status qnet_training_save(qnet_training *run, const char *path);
QNET_API qnet_status qnet_training_load(qnet_training *run, const char *path);
/* All remaining epochs and the finish; saves to checkpoint (NULL: nowhere) after each of them. */
QNET_API qnet_status qnet_training_run(qnet_training *run, const char *checkpoint);
#endif
#endif

/* Test-time forward pass of whole scans: features[count][max_slices][512] (zero beyond a scan's
   slices) and probability[count][max_slices] of HH; either may be NULL. net's batch bounds the
   work done at once and does not change the result. */
QNET_API qnet_status qnet_embed(qnet_resnet *net, const qnet_augment_config *augment,
                                const qnet_cohort *cohort, const int *scans, int count,
                                qnet_real *features, double *probability);

/* image[count][steps] and scan[count]: probability of HH. The model's batch bounds the work done
   at once. */
QNET_API qnet_status qnet_scan_model_predict(qnet_scan_model *model, const qnet_real *features,
                                             const int *length, int count, double *image,
                                             double *scan);
#endif

#if QNET__HAS_METRICS
/* ============================================================================================
   API 16. Evaluation (paper, "Results"). label 1 is HH, the positive class; all in double.
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

/* ROC curve (paper, Fig. 5, Fig. 6 and Fig. 8): points[0] = (0,0) ... (1,1), one point per distinct
   score, thresholds falling; decision is HH when score >= threshold, and never at points[0], whose
   threshold is infinity (as that of points[1] is where a score is infinite). points has room for
   count + 1. */
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
    double se;          /* of auc[0] - auc[1]; 0 where only rounding is left of it */
    /* Two-sided. se = 0 gives z = 0, p = 1 where the AUCs are equal, and otherwise z = +-infinity,
       p = 0: perfect separation has no variance to test with; don't read it as certainty. */
    double z, p;
    /* Of each AUC, normal, 95 %, clipped to 0..1; 1..1 for an AUC of 1, which has no variance: no
       interval at all, rather than a narrow one. */
    qnet_interval ci[2];
} qnet_delong;
/* score2 NULL: one curve, entries [1] and the test left zero. cluster NULL: each item for itself;
   otherwise items with equal cluster are one subject, and the variance is Obuchowski's (1997). */
QNET_API qnet_status qnet_delong_test(qnet_context *ctx, const int *label, const double *score1,
                                      const double *score2, const int *cluster, size_t count,
                                      qnet_delong *out);
/* 95 % interval of an AUC with this variance, normal on the logit scale: it stays within 0..1, and
   at 10 + 10 subjects and an AUC of .7 holds the truth in 96 of 100 cohorts, where DeLong's own
   does in 91. The AUC itself, twice, where the variance is 0. */
QNET_API qnet_interval qnet_logit_interval(double auc, double variance);
/* "ns" for p above .05, "*" to .05, "**" to .01, "***" to .001, "****" to .0001 (paper, Table 2).
   "ns" for NaN, too. */
QNET_API const char *qnet_stars(double p);
QNET_API double qnet_normal_cdf(double z);
QNET_API double qnet_normal_quantile(double p);

typedef struct qnet_boxplot {
    double low, q1, median, q3, high, mean, std;
} qnet_boxplot; /* 2.5, 97.5 % ends */
/* AUCs of `resamples` bootstrap samples (paper, Fig. 7): items, or whole clusters where cluster is
   given, drawn with replacement; samples with one class are drawn again. auc[resamples] falls as
   drawn. */
QNET_API qnet_status qnet_bootstrap_auc(qnet_context *ctx, const int *label, const double *score,
                                        const int *cluster, size_t count, int resamples,
                                        uint64_t seed, double *auc);
/* Quartiles and percentile interval of values[count], by linear interpolation between order
   statistics. */
QNET_API qnet_status qnet_boxplot_of(qnet_context *ctx, const double *values, size_t count,
                                     qnet_boxplot *out);
#endif

#if QNET__HAS_NETWORKS
/* ============================================================================================
   API 17. Class activation maps (Zhou et al. 2016; paper, Fig. 9 and 10).
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
#endif

#if QNET__HAS_EXPERIMENT
/* ============================================================================================
   API 18. The experiment: what the paper's tables and figures show, for a cohort.
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

/* Files that a program makes of an experiment, such as a report. input (NULL: none) is called after
   the last fold of each input configuration, for pictures: its cohort is in memory, and
   qnet_experiment_weights loads its networks. write is called once, when all results are there, and
   puts files into `folder` (names without a leading point or ".tmp"). They come to the output
   folder together with the experiment's own; a failure of either is the experiment's, and a resume
   calls both again. */
struct qnet_experiment;
typedef struct qnet_publish {
    void *user;
    qnet_status (*input)(void *user, const struct qnet_experiment *experiment,
                         const qnet_cohort *cohort);
    qnet_status (*write)(void *user, const struct qnet_experiment *experiment, const char *folder);
} qnet_publish;

/* Numbers that change results, and what is made of them. */
typedef struct qnet_experiment_config {
    int use_input[2];             /* by qnet_input: 1, 1 */
    qnet_input_config input[2];
    int folds, repeats;           /* 10, 1 */
    int bootstrap;                /* 2000 resamples */
    int shuffle_labels;           /* 1: labels permuted over subjects in each repeat, a control */
    uint64_t seed;                /* 1; stages and folds derive theirs from it */
    qnet_stage1_config stage1;    /* size, seed: set by the experiment */
    qnet_stage2_config stage2;    /* steps, seed: set by the experiment */
    qnet_publish publish;         /* all zero: none */
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
    /* Mean of the AUCs of its folds that have both classes: no scores of two networks compared. */
    double auc_within_folds;
    qnet_interval auc_ci, auc_ci_clustered; /* DeLong's; by subject, on the logit scale */
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

typedef struct qnet_curve {
    int input, repeat, fold, kind;
    int epochs;
    qnet_epoch *epoch;
} qnet_curve; /* kind: model trained */

typedef struct qnet_participant {
    char subject[64];
    qnet_label label, true_label; /* label: with shuffle_labels that of the first repeat */
    double age;
    qnet_sex sex;
    int slices;
    uint64_t source_hash; /* of its QSM map: qnet_scan */
    qnet_cut cut[2]; /* by qnet_input; all 0: not run */
} qnet_participant;

/* What an experiment works on: a list of scans and, for whoever shows its results, where they are
   from. NULL where not known. examples/crossval/bids.h makes one of a BIDS folder. */
typedef struct qnet_dataset {
    const char *folder, *derivatives; /* the files' folder; the name of that of the maps in it */
    const char *name, *type;          /* BIDS: Name and DatasetType; UTF-8 */
    int simulated;                    /* 1: no real subjects: every result says so */
    int count;
    const qnet_scan_files *scans;
} qnet_dataset;

typedef struct qnet_experiment {
    qnet_context *ctx;
    qnet_experiment_config config;
    char data[512], out[512], weights[512]; /* folders as given; "" where none */
    /* As in qnet_dataset, without control characters; "": none. */
    char derivatives[256], dataset[256], dataset_type[32];
    int simulated;
    int participants_count; qnet_participant *participants;
    int *fold;                               /* [participants_count], first repeat */
    qnet_level_result level[2][QNET_LEVELS]; /* by qnet_input, qnet_level */
    qnet_curve *curves; int curves_count;
    uint64_t cohort_hash[2]; /* of the prepared pixels */
    uint64_t weights_hash;   /* qnet_safetensors_hash of the initial weights file */
    uint64_t run[2]; /* of all that changes a result: the identity that its weights files carry */
    double seconds; /* of training, in all sessions of a run that was stopped and resumed */
    struct qnet__block *blocks; /* the memory of all this */
} qnet_experiment;

#ifndef QNET_NO_STDIO
/* Runs the experiment on the scans of a data set. Work in progress lies in out/checkpoint;
   predictions.csv, weights/ and what config.publish writes are moved from there when all is done:
   until then an earlier result stays whole on any failure. What stops it while they are moved
   leaves out/checkpoint, and a resume moves the rest. resume: goes on from there with the same
   bits. weights: a ResNet18 safetensors file, or NULL for random initial weights; with a file,
   inputs that are not normalised otherwise get the mean and std that an experiment recorded in it,
   or ImageNet's; where its images were prepared otherwise, a warning names both values.
   QNET_ERROR_BUSY while another run, which the sentence names, has the lock out/run.lock.
   QNET_ERROR_LEAK for weights that an experiment trained, they or those they began with, on any
   subject of this cohort, which is known by its QSM map. QNET_ERROR_MISMATCH for weights of
   shuffled labels, and where maps change between the two inputs. */
QNET_API qnet_status qnet_experiment_run(qnet_context *ctx, const qnet_experiment_config *config,
                                         const qnet_dataset *data, const char *out,
                                         const char *weights, int resume,
                                         qnet_experiment **result);
/* The weights of a network that this experiment trained, repeat and fold from 0, from its output
   folder into the block of a table. QNET_ERROR_MISMATCH: the file there is another run's. */
QNET_API qnet_status qnet_experiment_weights(const qnet_experiment *experiment, qnet_input input,
                                             int repeat, int fold, qnet_model_kind model,
                                             const qnet_param_table *table, qnet_real *weights);
/* How the images were prepared for the network in a weights file that an experiment wrote: a
   deployment that reads it here can't get the preprocessing wrong. QNET_ERROR_MISMATCH for a file
   without that record or prepared by another rule, and for weights of shuffled labels. */
QNET_API qnet_status qnet_preparation_load(qnet_context *ctx, const char *weights_path,
                                           qnet_input_config *input, qnet_augment_config *augment);
/* 1 when the network in `file`, or one that its training began with, was trained on the scan with
   this qnet_scan.source_hash, so that its output for that scan says nothing; 0 also where the file
   does not tell. */
QNET_API int qnet_weights_have_seen(const qnet_safetensors *file, uint64_t source_hash);
#endif
QNET_API void qnet_experiment_destroy(qnet_experiment *experiment);
/* predictions.csv: a row per slice and per scan of every repeat. label and decisions: 1 HH, 0 HC;
   scan: index in the order of participants.tsv; slice from 0, the lowest; z: its index in the
   volume. Of shuffled labels the column is shuffled_label, and true_label is the last. */
QNET_API qnet_status qnet_experiment_csv(const qnet_experiment *experiment, qnet_buffer *csv);
#endif

#ifdef __cplusplus
}
#endif
#endif /* QNET_H */

/* ---- END OF API: read no further to use the library, read on to audit it --------------------- */

#if defined(QNET_IMPLEMENTATION) && !defined(QNET_IMPLEMENTATION_DONE)
#define QNET_IMPLEMENTATION_DONE

/* What some warn of: casts in C's form, where this is compiled as C++; in Microsoft's compilers
   fopen and the like, and helpers that a configuration does not call. */
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic push
#ifdef __cplusplus
#pragma GCC diagnostic ignored "-Wold-style-cast"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuseless-cast"
#endif
#endif
#if !QNET__HAS_EXPERIMENT || !QNET__HAS_METRICS /* what the rooms left out would have called */
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#ifdef _MSC_VER
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif
#elif defined(_MSC_VER)
#pragma warning(push)
#pragma warning(disable : 4505 4996)
#endif

/* ============================================================================================
   >>status: the names and texts of the status codes, and the small helpers that every room uses:
   sizes that are checked before they wrap, byte order, minimum and maximum. What compiler and
   system offer is settled here by macros: OpenMP, POSIX or Windows, vector units, attributes.

   Functions that can fail return a qnet_status; those that return an int return 1 for yes or
   success, 0 for no. Relies on the C library only.
   ============================================================================================ */

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_OPENMP) && !defined(QNET_NO_OPENMP)
#define QNET__OPENMP 1
#include <omp.h>
#endif
#ifndef QNET_NO_STDIO
#include <time.h>
#if defined(_WIN32)
#include <direct.h>
#include <fcntl.h>
#include <io.h>
#include <process.h>
#include <share.h>
#include <sys/stat.h>
#include <sys/timeb.h>
#include <sys/types.h>
#include <wchar.h>
#define QNET__WINDOWS 1
#elif defined(__unix__) || defined(__APPLE__) || defined(__HAIKU__) || defined(__wasi__)
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/utsname.h>
#include <unistd.h>
#define QNET__POSIX 1
#else
#error "qnet.h: files need POSIX or Windows; elsewhere define QNET_NO_STDIO"
#endif
#endif

/* Float must be computed as float. An x87 unit computes in 64 binary digits and rounds when a
   number happens to be stored: the same formula then differs from one line to the next, which
   sigma, AUC and percentiles do not bear. */
#if defined(_M_IX86_FP) && _M_IX86_FP < 2
#error "qnet.h: x87 arithmetic breaks determinism; build with /arch:SSE2"
#elif !defined(_MSC_VER) && (FLT_EVAL_METHOD < 0 || FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2)
#error "qnet.h: excess precision: add -msse2 -mfpmath=sse (x86) or -fexcess-precision=fast (s390x)"
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

/* QNET__ISA_AT_RUN_TIME: the kernels are compiled for several instruction sets, for which this file
   includes itself. It cannot where it was pasted into another; an include level of 0 is a paste
   into a .c file. Then, as elsewhere, there are the kernels that the compiler's flags allow. */
#if QNET__X86 && !defined(QNET_PASTED) && !(defined(__INCLUDE_LEVEL__) && __INCLUDE_LEVEL__ == 0)
#define QNET__ISA_AT_RUN_TIME 1
#else
#define QNET__ISA_AT_RUN_TIME 0
#endif
#ifndef QNET_FILE
#ifdef __FILE_NAME__ /* without its folder, as quotes look in this file's folder first */
#define QNET_FILE __FILE_NAME__
#else
#define QNET_FILE "qnet.h"
#endif
#endif

/* Kernels that only training runs. */
#if QNET__HAS_TRAINING
#define QNET__TRAINING(kernel) kernel
#else
#define QNET__TRAINING(kernel) NULL
#endif

/* QNET__NEON: the vectors of 64-bit ARM, which every such processor has. */
#if (defined(__GNUC__) || defined(__clang__)) && defined(__aarch64__) && \
    !defined(QNET_REFERENCE) && !defined(QNET_NO_SIMD) && !QNET__REAL_IS_DOUBLE
#define QNET__NEON 1
#else
#define QNET__NEON 0
#endif

/* The last set that is compiled: the only one, or the plain one where there is a choice. */
#if QNET__X86 && !QNET__ISA_AT_RUN_TIME && defined(__AVX512F__)
#define QNET__CPU_COMPILED QNET_CPU_AVX512
#define QNET__LANES_COMPILED 16
#elif QNET__X86 && !QNET__ISA_AT_RUN_TIME && defined(__AVX2__) && defined(__FMA__)
#define QNET__CPU_COMPILED QNET_CPU_AVX2
#define QNET__LANES_COMPILED 8
#else
#define QNET__CPU_COMPILED (QNET__NEON ? QNET_CPU_NEON : QNET_CPU_SCALAR)
#if (defined(__GNUC__) || defined(__clang__)) && !defined(QNET_REFERENCE)
#define QNET__LANES_COMPILED (QNET__REAL_IS_DOUBLE ? 2 : 4)
#else
#define QNET__LANES_COMPILED 1
#endif
#endif

#if defined(__GNUC__) || defined(__clang__)
#define QNET__RESTRICT __restrict__
#ifdef __MINGW32__ /* whose own printf, as the compiler knows it, has no %zu: ours and C99's do */
#define QNET__PRINTF(text, first) __attribute__((format(gnu_printf, text, first)))
#else
#define QNET__PRINTF(text, first) __attribute__((format(printf, text, first)))
#endif
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
#define QNET__TRY(expr)                                         \
    do {                                                        \
        const qnet_status qnet__try_status = (expr);            \
        if (qnet__try_status != QNET_OK) return qnet__try_status; \
    } while (0)

/* Both tables are made from QNET_STATUS_LIST, so a new code cannot be forgotten here. */
QNET_API const char *qnet_status_text(qnet_status status)
{
#define QNET__STATUS_TEXT(name, text) text,
    static const char *const texts[] = {QNET_STATUS_LIST(QNET__STATUS_TEXT)};
#undef QNET__STATUS_TEXT
    return (unsigned)status < QNET_STATUS_COUNT ? texts[status] : "unknown status";
}

QNET_API const char *qnet_status_name(qnet_status status)
{
#define QNET__STATUS_NAME(name, text) #name,
    static const char *const names[] = {QNET_STATUS_LIST(QNET__STATUS_NAME)};
#undef QNET__STATUS_NAME
    return (unsigned)status < QNET_STATUS_COUNT ? names[status] : "unknown status";
}

/* *out = a * b; 0 and *out untouched when the product does not fit. */
QNET__HELPER int qnet__mul(size_t a, size_t b, size_t *out)
{
    if (b != 0 && a > (size_t)-1 / b) return 0;
    *out = a * b;
    return 1;
}

/* *out = a + b; 0 and *out untouched when the sum does not fit. */
QNET__HELPER int qnet__add(size_t a, size_t b, size_t *out)
{
    if (a > (size_t)-1 - b) return 0;
    *out = a + b;
    return 1;
}

QNET__HELPER size_t qnet__min_size(size_t a, size_t b) { return a < b ? a : b; }
QNET__HELPER size_t qnet__max_size(size_t a, size_t b) { return a > b ? a : b; }
QNET__HELPER int qnet__min_int(int a, int b) { return a < b ? a : b; }
QNET__HELPER int qnet__max_int(int a, int b) { return a > b ? a : b; }

/* 1 for a number, 0 for NaN and the infinities. isfinite is a macro in C, with warnings on mingw,
   and a function in C++. */
QNET__HELPER int qnet__is_finite(double x) { return x - x == 0.0; }

/* 1 when a number's lowest byte lies first in memory. */
QNET__HELPER int qnet__is_little_endian(void)
{
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 1;
}

/* The unaligned little-endian number at p, on any machine. */
QNET__HELPER uint32_t qnet__load_le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

QNET__HELPER uint64_t qnet__load_le64(const unsigned char *p)
{
    return (uint64_t)qnet__load_le32(p) | (uint64_t)qnet__load_le32(p + 4) << 32;
}

/* Stores the lowest `bytes` bytes of v at p, the lowest first or, with big, last. */
QNET__HELPER void qnet__store(unsigned char *p, int bytes, int big, uint64_t v)
{
    for (int i = 0; i < bytes; i++, v >>= 8)
        p[big ? bytes - 1 - i : i] = (unsigned char)(v & 255);
}

/* Reverses the bytes of each of count numbers of `size` bytes at p. */
QNET__HELPER void qnet__swap_bytes(unsigned char *p, size_t count, size_t size)
{
    for (; count > 0; count--, p += size) {
        for (size_t i = 0; i < size / 2; i++) {
            const unsigned char byte = p[i];
            p[i] = p[size - 1 - i];
            p[size - 1 - i] = byte;
        }
    }
}

#if QNET__HAS_FILES
/* Bytes of one number; 0 for what is no dtype. */
QNET_API size_t qnet_dtype_size(qnet_dtype dtype)
{
    static const unsigned char sizes[] = {8, 4, 2, 2, 8, 4, 2, 1, 8, 4, 2, 1, 1};
    return (unsigned)dtype < sizeof(sizes) ? sizes[dtype] : 0;
}

/* As it stands in files, in the order of qnet_dtype; "?" for what is no dtype. */
QNET_API const char *qnet_dtype_name(qnet_dtype dtype)
{
    static const char names[][5] = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16",
                                    "I8",  "U64", "U32", "U16",  "U8",  "BOOL"};
    return (unsigned)dtype < sizeof(names) / sizeof(names[0]) ? names[dtype] : "?";
}

/* The number of any type but BOOL at p, aligned or not, in the order of this machine. Integers
   above 2^53 are rounded. F16 (IEEE 754 binary16) and BF16 (bfloat16) have, from the top, a sign,
   an exponent with bias and a fraction of 10 or 7 bits; exponent 0: subnormal; all ones: infinity
   or NaN. */
QNET__HELPER double qnet__number(const unsigned char *p, qnet_dtype dtype)
{
    const int bits = dtype == QNET_F16 ? 10 : 7, ones = (1 << (15 - bits)) - 1, bias = ones / 2;
    int exponent, fraction;
    uint16_t half;
    double x;
    switch (dtype) {
#define QNET__NUMBER(name, type) case name: { type v; memcpy(&v, p, sizeof v); return (double)v; }
    QNET__NUMBER(QNET_F64, double) QNET__NUMBER(QNET_F32, float)
    QNET__NUMBER(QNET_I64, int64_t) QNET__NUMBER(QNET_I32, int32_t)
    QNET__NUMBER(QNET_I16, int16_t) QNET__NUMBER(QNET_I8, int8_t)
    QNET__NUMBER(QNET_U64, uint64_t) QNET__NUMBER(QNET_U32, uint32_t)
    QNET__NUMBER(QNET_U16, uint16_t) QNET__NUMBER(QNET_U8, uint8_t)
#undef QNET__NUMBER
    case QNET_F16:
    case QNET_BF16:
        memcpy(&half, p, sizeof half);
        exponent = half >> bits & ones;
        fraction = half & ((1 << bits) - 1);
        x = exponent == ones ? (fraction ? NAN : INFINITY)
            : exponent == 0  ? ldexp(fraction, 1 - bias - bits)
                             : ldexp(fraction + (1 << bits), exponent - bias - bits);
        return half >> 15 ? -x : x;
    default: return 0;
    }
}
#endif

/* ============================================================================================
   >>context: the hooks with their defaults filled in, the kernels that the machine can run, and
   the private calls by which all other rooms reach memory, threads, log and progress.

   A context is read-only after its creation but for the last error and the progress hook; there are
   no globals. Memory: qnet__alloc and qnet__free, with the same number of bytes; plans of many
   pieces go through qnet__arena. Threads: qnet__parallel runs a task for each of 0..count-1 and
   returns when all are done; results may depend on the index, never on the worker. Failures:
   qnet__fail records a sentence. Relies on >>status.
   ============================================================================================ */

#define QNET__ALIGN 64 /* a cache line, and the widest vector register */
#define QNET__SENTENCE 1024 /* bytes of a sentence, its end included */

struct qnet_context {
    qnet_hooks hooks;
    qnet_cpu cpu;     /* the kernels in force: never AUTO */
    char error[QNET__SENTENCE]; /* of the last failure */
};

/* Bytes of the UTF-8 character at p[left], 0 if it is none: no overlong forms, no surrogates,
   nothing above U+10FFFF (RFC 3629). */
QNET__HELPER size_t qnet__utf8_size(const unsigned char *p, size_t left)
{
    const size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (n == 0 || n > left || p[0] > 0xf4) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

/* The same of a zero-ended text; 0 also for what may not go to a terminal: control characters (C0,
   DEL, C1). */
static size_t qnet__printable(const unsigned char *p)
{
    const size_t n = qnet__utf8_size(p, 4);
    if (n == 1) return p[0] >= 0x20 && p[0] < 0x7f;
    return n == 2 && p[0] == 0xc2 && p[1] < 0xa0 ? 0 : n;
}

/* A sentence as printf makes it. File names and file contents come into it, and it goes to
   terminals: what is not printable is written as \x1b. */
static void qnet__sentence(char text[QNET__SENTENCE], const char *fmt, va_list args)
{
    char raw[QNET__SENTENCE]; /* aside: an argument may be the last error itself */
    const unsigned char *p = (const unsigned char *)raw;
    size_t used = 0;
    if (vsnprintf(raw, sizeof raw, fmt, args) < 0) raw[0] = '\0';
    while (*p) {
        const size_t n = qnet__printable(p);
        if (used + (n > 0 ? n : 4) >= QNET__SENTENCE) break;
        if (n > 0) memcpy(text + used, p, n);
        else snprintf(text + used, 5, "\\x%02x", (unsigned)*p);
        used += n > 0 ? n : 4;
        p += n > 0 ? n : 1;
    }
    text[used] = '\0';
}

/* Records the sentence of a failure; ctx may be NULL. */
QNET__HELPER QNET__PRINTF(2, 3) void qnet__set_error(qnet_context *ctx, const char *fmt, ...)
{
    va_list args;
    if (ctx == NULL) return;
    va_start(args, fmt);
    qnet__sentence(ctx->error, fmt, args);
    va_end(args);
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
    return bytes == SIZE_MAX ? NULL /* a sum that overflowed */
                             : ctx->hooks.allocator.alloc(ctx->hooks.allocator.user,
                                                          bytes > 0 ? bytes : 1, QNET__ALIGN);
}

/* Gives back what qnet__alloc gave for the same number of bytes; p may be NULL. */
QNET__HELPER void qnet__free(qnet_context *ctx, void *p, size_t bytes)
{
    if (p != NULL)
        ctx->hooks.allocator.free(ctx->hooks.allocator.user, p, bytes > 0 ? bytes : 1);
}

/* The failure of an allocation of `bytes` for `what`; SIZE_MAX: a sum that overflowed. */
QNET__HELPER qnet_status qnet__no_memory(qnet_context *ctx, size_t bytes, const char *what)
{
    if (bytes == SIZE_MAX)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: more bytes than can be addressed", what);
    return qnet__fail(ctx, QNET_ERROR_MEMORY, "no memory: %.0f bytes for %s", (double)bytes, what);
}

/* Carves one block into aligned pieces. A plan runs twice: with base NULL it only adds up `at`,
   the size of the block; then on the block itself it returns the same pieces. */
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

/* The block that a plan has measured, *bytes of it, to be carved by a second run. what: names it in
   the sentence of a failure. */
QNET__HELPER qnet_status qnet__arena_alloc(qnet_context *ctx, qnet__arena *a, size_t *bytes,
                                           const char *what)
{
    *bytes = a->at;
    a->base = (unsigned char *)qnet__alloc(ctx, a->at);
    a->at = 0;
    return a->base != NULL ? QNET_OK : qnet__no_memory(ctx, *bytes, what);
}

/* Large blocks of the default allocator start at a huge page, and Linux is advised to use these:
   page faults and TLB misses then cost a fraction. The name is bound by hand, as strict C99 hides
   the prototype. */
#if defined(__linux__) && !defined(QNET_NO_STDIO) && (defined(__GNUC__) || defined(__clang__))
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
    if (size >= 4 * QNET__HUGE_PAGE) align = qnet__max_size(align, QNET__HUGE_PAGE);
#endif
    if (!qnet__add(size, align + sizeof raw, &bytes)) return NULL;
    raw = (unsigned char *)malloc(bytes);
    if (raw == NULL) return NULL;
    block = raw + sizeof raw;
    block += (align - (size_t)((uintptr_t)block & (align - 1))) & (align - 1);
    memcpy(block - sizeof raw, &raw, sizeof raw);
#ifdef QNET__HUGE_PAGE
    if (size >= 4 * QNET__HUGE_PAGE) /* advice only: whatever comes back */
        (void)qnet__madvise(block, size / QNET__HUGE_PAGE * QNET__HUGE_PAGE, QNET__MADV_HUGEPAGE);
#endif
    return block;
}

/* Its counterpart; the size is not needed. */
static void qnet__default_free(void *user, void *ptr, size_t size)
{
    unsigned char *raw;
    QNET__UNUSED(user);
    QNET__UNUSED(size);
    memcpy(&raw, (unsigned char *)ptr - sizeof raw, sizeof raw);
    free(raw);
}

#define QNET__SHARES 64

/* The default parallel hook: OpenMP's threads where the compiler has them, else a plain loop. A
   thread begins with a share of neighbouring tasks, the same in every job of as many tasks: where
   threads have caches of their own, it finds there what it wrote in the job before. When its share
   is done, it helps the others. user: the context. */
static void qnet__default_run(void *user, size_t count, qnet_task task, void *arg)
{
#ifdef QNET__OPENMP
    const int threads = (int)((const qnet_context *)user)->hooks.parallel.workers;
#if _OPENMP >= 201107
    size_t taken[QNET__SHARES][64 / sizeof(size_t)]; /* of each share; a cache line each */
    memset(taken, 0, sizeof taken);
    #pragma omp parallel num_threads(threads)
    {
        const size_t self = (size_t)omp_get_thread_num();
        const size_t shares = qnet__min_size((size_t)omp_get_num_threads(), QNET__SHARES);
        size_t turn, i;
        for (turn = 0; turn < shares; turn++) {
            const size_t share = (self + turn) % shares, more = count % shares;
            const size_t first = count / shares * share + qnet__min_size(share, more);
            const size_t size = count / shares + (share < more);
            for (;;) {
                #pragma omp atomic capture
                i = taken[share][0]++;
                if (i >= size) break;
                task(arg, first + i, self);
            }
        }
    }
#else
    ptrdiff_t i; /* signed and from outside: OpenMP 2 demands it */
    #pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (i = 0; i < (ptrdiff_t)count; i++) task(arg, (size_t)i, (size_t)omp_get_thread_num());
#endif
#else
    QNET__UNUSED(user);
    for (size_t i = 0; i < count; i++) task(arg, i, 0);
#endif
}

/* Strict C99 hides what Linux has: as for madvise, names are bound by hand, here and for files.
   Only where long has 64 bits, as then so have off_t and the parts of a time. */
#if defined(__linux__) && defined(__LP64__) && !defined(QNET_NO_STDIO) && \
    (defined(__GNUC__) || defined(__clang__))
#define QNET__LINUX64 1
#define QNET__CLOCK_MONOTONIC 1
extern int qnet__clock_gettime(int clock, long now[2]) __asm__("clock_gettime");
#endif

/* Seconds since some fixed moment, by the finest clock at hand that is never set back. */
static double qnet__default_seconds(void *user)
{
    QNET__UNUSED(user);
#if defined(QNET__OPENMP)
    return omp_get_wtime();
#elif defined(QNET_NO_STDIO)
    return 0; /* no system, no clock: progress reports then know no speed */
#elif defined(QNET__LINUX64)
    long now[2] = {0, 0}; /* seconds and 1e-9 seconds */
    (void)qnet__clock_gettime(QNET__CLOCK_MONOTONIC, now);
    return (double)now[0] + 1e-9 * (double)now[1];
#elif defined(CLOCK_MONOTONIC) && defined(QNET__POSIX) && !defined(__wasi__)
    struct timespec now = {0, 0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#elif defined(_WIN32)
    struct __timeb64 now;
    _ftime64(&now);
    return (double)now.time + 1e-3 * now.millitm;
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
#if QNET__ISA_AT_RUN_TIME
    const unsigned osxsave_avx_fma = 1u << 27 | 1u << 28 | 1u << 12;        /* leaf 1, ECX */
    const unsigned avx2 = 1u << 5;                                          /* leaf 7, EBX */
    const unsigned avx512_f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    unsigned a, b, c, d, xcr0, xcr0_high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & osxsave_avx_fma) != osxsave_avx_fma)
        return QNET_CPU_SCALAR;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    QNET__UNUSED(xcr0_high);
    if ((xcr0 & 0x06u) != 0x06u /* the SSE and AVX registers */ ||
        !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & avx2) == 0)
        return QNET_CPU_SCALAR;
    if ((xcr0 & 0xe6u) != 0xe6u /* the mask registers and both halves of the ZMM, too */ ||
        (b & avx512_f_dq_bw_vl) != avx512_f_dq_bw_vl)
        return QNET_CPU_AVX2;
    return QNET_CPU_AVX512;
#else
    return QNET__CPU_COMPILED;
#endif
}

/* The kernels that were requested, if this machine has them; else AUTO. */
static qnet_cpu qnet__choose_cpu(qnet_cpu wanted)
{
    const qnet_cpu best = qnet__detect_cpu();
#ifdef QNET_CPU_CHOICE
    const char *choice = QNET_CPU_CHOICE;
    if (wanted == QNET_CPU_AUTO && choice != NULL && qnet_cpu_parse(choice, &wanted) != QNET_OK)
        return QNET_CPU_AUTO;
#endif
    if (wanted == QNET_CPU_AUTO || wanted == best)
        return best;
    return QNET__ISA_AT_RUN_TIME && wanted < best ? wanted : QNET_CPU_AUTO;
}

/* Checks the hooks and fills in defaults; the context itself comes from the caller's allocator. */
QNET_API qnet_status qnet_context_create(const qnet_hooks *hooks, qnet_context **out)
{
    qnet_context *ctx;
    qnet_hooks h;
    qnet_cpu cpu;
    int own_threads;
    if (out == NULL) return QNET_ERROR_ARGUMENT;
    memset(&h, 0, sizeof h);
    if (hooks != NULL) h = *hooks;
    cpu = qnet__choose_cpu(h.cpu);
    /* Hooks that were copied from another context hold the default run with that context's pointer:
       they get this one's. */
    own_threads = h.parallel.run != NULL && h.parallel.run != qnet__default_run;
    if (cpu == QNET_CPU_AUTO || (h.allocator.alloc == NULL) != (h.allocator.free == NULL) ||
        h.threads < 0 || h.threads > 4096 ||
        (own_threads && (h.parallel.workers < 1 || h.parallel.workers > 4096)) ||
        (h.parallel.run == NULL && h.parallel.workers != 0 /* `threads` was meant */))
        return QNET_ERROR_ARGUMENT;
    if (h.allocator.alloc == NULL) {
        h.allocator.alloc = qnet__default_alloc;
        h.allocator.free = qnet__default_free;
    }
    if (h.clock.seconds == NULL) h.clock.seconds = qnet__default_seconds;
#ifdef QNET_USE_CBLAS
    if (h.blas.sgemm == NULL) h.blas.sgemm = qnet__cblas_sgemm;
#endif
    ctx = (qnet_context *)h.allocator.alloc(h.allocator.user, sizeof *ctx, QNET__ALIGN);
    if (ctx == NULL) return QNET_ERROR_MEMORY;
    memset(ctx, 0, sizeof *ctx);
    if (!own_threads) {
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
    if (ctx != NULL) ctx->hooks.allocator.free(ctx->hooks.allocator.user, ctx, sizeof *ctx);
}

QNET_API const char *qnet_last_error(const qnet_context *ctx)
{
    return ctx != NULL ? ctx->error : "";
}

QNET_API const qnet_hooks *qnet_context_hooks(const qnet_context *ctx) { return &ctx->hooks; }

QNET_API void qnet_set_progress(qnet_context *ctx, qnet_progress progress)
{
    ctx->hooks.progress = progress;
}

QNET_API const char *qnet_cpu_name(qnet_cpu cpu)
{
    static const char *const names[] = {"auto", "scalar", "avx2", "avx512", "neon"};
    return (unsigned)cpu <= QNET_CPU_NEON ? names[cpu] : "unknown";
}

QNET_API qnet_status qnet_cpu_parse(const char *name, qnet_cpu *out)
{
    int i = QNET_CPU_AUTO;
    if (name == NULL || out == NULL) return QNET_ERROR_ARGUMENT;
    while (i <= QNET_CPU_NEON && strcmp(name, qnet_cpu_name((qnet_cpu)i)) != 0) i++;
    if (i > QNET_CPU_NEON) return QNET_ERROR_ARGUMENT;
    *out = (qnet_cpu)i;
    return QNET_OK;
}

QNET_API qnet_cpu qnet_context_cpu(const qnet_context *ctx) { return ctx->cpu; }

/* Runs task(arg, 0..count-1, worker) by the parallel hook, and inline where there is nothing to
   share out. Tasks do not call this again: the worker's index would be used twice at a time. */
QNET__HELPER void qnet__parallel(qnet_context *ctx, size_t count, qnet_task task, void *arg)
{
    const qnet_parallel *parallel = &ctx->hooks.parallel;
    if (count > 1 && parallel->workers > 1) parallel->run(parallel->user, count, task, arg);
    else for (size_t i = 0; i < count; i++) task(arg, i, 0);
}

#define QNET__ZERO_CHUNK ((size_t)2 << 20) /* bytes; a huge page */

typedef struct qnet__zero_job { unsigned char *block; size_t bytes; } qnet__zero_job;

static void qnet__zero_task(void *arg, size_t i, size_t worker)
{
    const qnet__zero_job *job = (const qnet__zero_job *)arg;
    const size_t at = i * QNET__ZERO_CHUNK;
    QNET__UNUSED(worker);
    memset(job->block + at, 0, qnet__min_size(job->bytes - at, QNET__ZERO_CHUNK));
}

/* bytes > 0 zeros. By all threads: it is mostly the system's work at the first touch of memory. */
QNET__HELPER void qnet__zero(qnet_context *ctx, void *block, size_t bytes)
{
    qnet__zero_job job = {(unsigned char *)block, bytes};
    qnet__parallel(ctx, (bytes - 1) / QNET__ZERO_CHUNK + 1, qnet__zero_task, &job);
}

/* Upper bound of the worker index that a task gets: for scratch memory. Work may be split by it
   only where the bits are the same for any split. */
QNET__HELPER size_t qnet__workers(const qnet_context *ctx) { return ctx->hooks.parallel.workers; }

/* The clock hook: differences count, in seconds. */
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
    char text[QNET__SENTENCE];
    va_list args;
    if (ctx == NULL || ctx->hooks.log.message == NULL) return;
    va_start(args, fmt);
    qnet__sentence(text, fmt, args);
    va_end(args);
    ctx->hooks.log.message(ctx->hooks.log.user, level, text);
}

#define QNET__QUOTE(x) #x
#define QNET__VALUE_TEXT(x) QNET__QUOTE(x) /* the text of a macro's value */

/* What a record of results has to name. */
QNET_API void qnet_describe_build(const qnet_context *ctx, char *text, size_t size)
{
    static const char build[] = "qnet " QNET_VERSION
#if QNET__REAL_IS_DOUBLE
        ", double"
#else
        ", float"
#endif
#ifdef QNET_REFERENCE
        ", reference kernels"
#endif
#if defined(__TINYC__)
        ", tcc " QNET__VALUE_TEXT(__TINYC__);
#elif defined(__clang__)
        ", clang " QNET__VALUE_TEXT(__clang_major__) "." QNET__VALUE_TEXT(__clang_minor__)
#ifdef __wasm_simd128__ /* the portable kernels are then vectors of 16 bytes */
        " -msimd128"
#endif
        ;
#elif defined(__GNUC__)
        ", gcc " QNET__VALUE_TEXT(__GNUC__) "." QNET__VALUE_TEXT(__GNUC_MINOR__);
#elif defined(_MSC_VER)
        ", msvc " QNET__VALUE_TEXT(_MSC_VER);
#else
        ", unknown compiler";
#endif
#ifdef QNET__OPENMP
    const char *threads = "OpenMP";
#else
    const char *threads = "no OpenMP";
#endif
    const size_t workers = ctx != NULL ? ctx->hooks.parallel.workers : 0;
    if (text == NULL || size == 0) return;
    if (ctx != NULL && ctx->hooks.parallel.run != qnet__default_run) threads = "caller's threads";
    if (ctx == NULL) snprintf(text, size, "%s, %s", build, threads);
    else
        snprintf(text, size, "%s, %s, %s%s, %lu worker%s", build, threads, qnet_cpu_name(ctx->cpu),
                 ctx->hooks.blas.sgemm != NULL ? ", BLAS" : "", (unsigned long)workers,
                 workers == 1 ? "" : "s");
}

QNET_API const char *qnet_version(void) { return QNET_VERSION; }

/* ============================================================================================
   >>random: Philox4x32-10, a counter-based generator (Salmon, Moraes, Dror, Shaw: Parallel random
   numbers: as easy as 1, 2, 3. SC 2011). A block of four words is a function of key and counter,
   so a stream needs no state but its name. Every random decision of a run names its stream (seed,
   purpose, epoch, sample): the numbers are the same for any number of threads and after any stop.
   Relies on >>status.
   ============================================================================================ */

/* out[4] = Philox4x32-10(counter[4], key[2]): ten rounds of two 32x32-bit products, the key bumped
   by the Weyl constants (golden ratio, sqrt(3) - 1) between rounds. */
static void qnet__philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* The stream's name fills key and counter: key = seed; counter = (block number, epoch, low word of
   sample, 24 more bits of sample and 8 of purpose). Samples from 2^56 on would share streams. */
QNET_API qnet_rng qnet_rng_at(uint64_t seed, int purpose, uint32_t epoch, uint64_t sample)
{
    qnet_rng rng;
    memset(&rng, 0, sizeof rng);
    rng.key[0] = (uint32_t)seed;
    rng.key[1] = (uint32_t)(seed >> 32);
    rng.counter[1] = epoch;
    rng.counter[2] = (uint32_t)sample;
    rng.counter[3] = (uint32_t)(sample >> 32 & 0xffffffu) | (uint32_t)(purpose & 255) << 24;
    rng.used = 4;
    return rng;
}

/* The next 32 bits; a new block when the four words of the last are spent. */
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

/* Uniform in [a, b). */
QNET_API double qnet_rng_range(qnet_rng *rng, double a, double b)
{
    double x = a + (b - a) * qnet_rng_uniform(rng);
    return x < b ? x : a; /* the sum can round up to b */
}

/* The high word of draw * n; draws whose low word is below 2^32 mod n would favour some results
   and are drawn again (Lemire: Fast random integer generation in an interval. ACM TOMACS 2019). */
QNET_API uint32_t qnet_rng_below(qnet_rng *rng, uint32_t n)
{
    uint64_t product;
    if (n == 0) return 0;
    do {
        product = (uint64_t)qnet_rng_u32(rng) * n;
    } while ((uint32_t)product < (0xffffffffu - n + 1) % n);
    return (uint32_t)(product >> 32);
}

/* Box-Muller; the sine half is dropped, so that each call spends the same four words. */
QNET_API double qnet_rng_normal(qnet_rng *rng)
{
    double radius = sqrt(-2.0 * log(1.0 - qnet_rng_uniform(rng))); /* 1 - u is never 0 */
    return radius * cos(6.283185307179586477 * qnet_rng_uniform(rng));
}

/* From the last item on, each is swapped with one of those before it or itself. */
QNET_API void qnet_rng_shuffle(qnet_rng *rng, int *items, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        const size_t j = qnet_rng_below(rng, (uint32_t)i);
        const int swap = items[i - 1];
        items[i - 1] = items[j];
        items[j] = swap;
    }
}

/* FNV-1a: each byte is XORed into the low bits, then multiplied by the prime 2^40 + 2^8 + 0xb3. */
QNET_API uint64_t qnet_hash(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *p = (const unsigned char *)bytes;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

#if QNET__HAS_FILES
/* ============================================================================================
   >>file: readers and writers over memory, files and callbacks.

   A reader pulls bytes from a qnet_source, a writer pushes them into a qnet_sink; a qnet_buffer
   grows. File formats, checkpoints and tables know these three only.
   A file is replaced whole: written beside its path under a temporary name, forced to the disk,
   renamed; after a failure or a power cut the path has the old bytes or the new ones, never a
   mixture. Folders are made, listed in a fixed order, and locked. Paths are UTF-8. Nothing is
   allocated on the word of a length field alone: memory follows the bytes that have come.
   Relies on >>context for memory, threads and sentences.
   ============================================================================================ */

/* What sentences call a source or a sink: the path of a file. */
QNET__HELPER const char *qnet__source_name(const qnet_source *source)
{
    return source->name != NULL ? source->name : "(memory)";
}

QNET__HELPER const char *qnet__sink_name(const qnet_sink *sink)
{
    return sink->name != NULL ? sink->name : "(memory)";
}

/* "path: doing what failed: the system's reason", from errno where that is not 0. */
static qnet_status qnet__io_error(qnet_context *ctx, const char *name, const char *what)
{
    const int code = errno;
    return qnet__fail(ctx, QNET_ERROR_IO, "%s: %s failed%s%s", name, what, code ? ": " : "",
                      code ? strerror(code) : "");
}

/* One call of the source: up to n bytes into dst; *got = 0 only at the end. */
QNET__HELPER qnet_status qnet__read_some(qnet_context *ctx, qnet_source *src, void *dst, size_t n,
                                         size_t *got)
{
    *got = 0;
    errno = 0;
    if (src->read(src->user, dst, n, got) != 0 || *got > n) {
        *got = 0;
        return qnet__io_error(ctx, qnet__source_name(src), "reading");
    }
    return QNET_OK;
}

/* Sources and sinks: read and write return 0, or anything else for a failure; errno may say why. */
static int qnet__memory_read(void *user, void *dst, size_t size, size_t *got)
{
    qnet_memory_source *state = (qnet_memory_source *)user;
    *got = qnet__min_size(size, state->size - state->at);
    if (*got > 0) memcpy(dst, state->bytes + state->at, *got);
    state->at += *got;
    return 0;
}

QNET_API qnet_source qnet_source_memory(qnet_memory_source *state, const void *bytes, size_t size,
                                        const char *name)
{
    const qnet_source source = {state, qnet__memory_read, name};
    state->bytes = (const unsigned char *)bytes;
    state->size = size;
    state->at = 0;
    return source;
}

/* Makes room for `more` bytes and one zero after them, which ends the bytes as a C string. The
   capacity doubles, so that n appends cost O(n). */
static qnet_status qnet__buffer_reserve(qnet_context *ctx, qnet_buffer *buffer, size_t more)
{
    unsigned char *bytes;
    size_t need, capacity;
    if (ctx == NULL || buffer == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "the context or the buffer is NULL");
    if (!qnet__add(buffer->size, more, &need) || !qnet__add(need, 1, &need))
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "a buffer of %.0f bytes cannot grow by %.0f",
                          (double)buffer->size, (double)more);
    if (need <= buffer->capacity) return QNET_OK;
    if (!qnet__mul(buffer->capacity, 2, &capacity)) capacity = need;
    capacity = qnet__max_size(qnet__max_size(capacity, need), 256);
    bytes = (unsigned char *)qnet__alloc(ctx, capacity);
    if (bytes == NULL) return qnet__no_memory(ctx, capacity, "a buffer");
    if (buffer->size > 0) memcpy(bytes, buffer->bytes, buffer->size);
    qnet__free(ctx, buffer->bytes, buffer->capacity);
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    buffer->ctx = ctx;
    return QNET_OK;
}

/* bytes[size] behind what is there; bytes may not lie in the buffer. */
QNET_API qnet_status qnet_buffer_append(qnet_context *ctx, qnet_buffer *buffer, const void *bytes,
                                        size_t size)
{
    if (bytes == NULL && size > 0)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_buffer_append: bytes is NULL");
    QNET__TRY(qnet__buffer_reserve(ctx, buffer, size));
    if (size > 0) memcpy(buffer->bytes + buffer->size, bytes, size);
    buffer->size += size;
    buffer->bytes[buffer->size] = 0;
    return QNET_OK;
}

/* Text of any length: it is measured first, then written to its place. */
QNET_API qnet_status qnet_buffer_printf(qnet_context *ctx, qnet_buffer *buffer, const char *format,
                                        ...)
{
    va_list args;
    int length;
    va_start(args, format);
    length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "a text cannot be formatted: \"%.100s\"",
                          format);
    QNET__TRY(qnet__buffer_reserve(ctx, buffer, (size_t)length));
    va_start(args, format);
    vsnprintf((char *)buffer->bytes + buffer->size, (size_t)length + 1, format, args);
    va_end(args);
    buffer->size += (size_t)length;
    return QNET_OK;
}

QNET_API void qnet_buffer_free(qnet_context *ctx, qnet_buffer *buffer)
{
    if (buffer == NULL) return;
    qnet__free(ctx, buffer->bytes, buffer->capacity);
    memset(buffer, 0, sizeof *buffer);
}

static int qnet__buffer_write(void *user, const void *src, size_t size)
{
    qnet_buffer *buffer = (qnet_buffer *)user;
    return qnet_buffer_append(buffer->ctx, buffer, src, size) != QNET_OK;
}

QNET_API qnet_sink qnet_sink_buffer(qnet_context *ctx, qnet_buffer *buffer, const char *name)
{
    const qnet_sink sink = {buffer, qnet__buffer_write, name};
    buffer->ctx = ctx;
    return sink;
}

/* All n bytes of src into the sink. A buffer that cannot grow is no fault of a disk: its sentence
   says so. */
QNET__HELPER qnet_status qnet__write(qnet_context *ctx, qnet_sink *sink, const void *src, size_t n)
{
    char what[40];
    if (n == 0) return QNET_OK;
    errno = 0;
    if (sink->write == qnet__buffer_write) {
        qnet_buffer *buffer = (qnet_buffer *)sink->user;
        const qnet_status status = qnet_buffer_append(buffer->ctx, buffer, src, n);
        return status == QNET_OK ? status : qnet__fail(ctx, status, "%s: %s", qnet__sink_name(sink),
                                                       qnet_last_error(buffer->ctx));
    }
    if (sink->write(sink->user, src, n) == 0) return QNET_OK;
    snprintf(what, sizeof what, "writing %.0f bytes", (double)n);
    return qnet__io_error(ctx, qnet__sink_name(sink), what);
}

#ifndef QNET_NO_STDIO

/* ---- What systems do differently. Each function fails as its name in C does, with errno. -----
   qnet__fopen_read   a file that exists, in binary
   qnet__fopen_new    a file that does not exist yet, so neither through a link nor over a file
   qnet__look         what a path leads to: 1 a file, 2 a folder, 3 a device, pipe or socket; 0:
                      errno says why not
   qnet__is_link      1 for a symbolic link, also for one whose target does not exist
   qnet__rename       atomically, over a file of the new name
   qnet__remove       a file or an empty folder
   qnet__mkdir        one folder, whose parent exists
   qnet__sync         forces a closed file, or the names in a folder, to the disk
   qnet__is_separator 1 for a character between the names of a path
   qnet__process      the number of this process
   qnet__fd_...       read, write and close of a lock's file descriptor */

#if defined(QNET__POSIX)
#define qnet__remove remove
#define qnet__rename rename
#define qnet__fopen_read(path) fopen((path), "rb")
#define qnet__is_separator(c) ((c) == '/')
#define qnet__fopen_new(path) fopen((path), "wbx")
#define qnet__mkdir(path) mkdir((path), 0777)
#define qnet__fd_read read
#define qnet__fd_write write
#define qnet__fd_close close
#ifdef __wasi__ /* has none */
#define qnet__process() 0
#else
#define qnet__process() getpid()
#endif
/* Strict C99 hides these, too. */
#if defined(__linux__) && (defined(__GNUC__) || defined(__clang__))
extern int qnet__fsync(int file) __asm__("fsync");
extern ptrdiff_t qnet__readlink(const char *path, char *target, size_t size) __asm__("readlink");
#else
#define qnet__fsync fsync
#define qnet__readlink readlink
#endif
#if defined(O_NOFOLLOW) && defined(O_CLOEXEC)
#define QNET__OPEN_FLAGS (O_NOFOLLOW | O_CLOEXEC)
#elif defined(__O_NOFOLLOW) && defined(__O_CLOEXEC)
#define QNET__OPEN_FLAGS (__O_NOFOLLOW | __O_CLOEXEC)
#else
#define QNET__OPEN_FLAGS 0
#endif

static int qnet__look(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) return 0;
    return S_ISREG(info.st_mode) ? 1 : S_ISDIR(info.st_mode) ? 2 : 3;
}

static int qnet__is_link(const char *path)
{
    char target[8];
    return qnet__readlink(path, target, sizeof target) >= 0;
}

#ifndef QNET_NO_FSYNC
static int qnet__sync(const char *path)
{
    const int file = open(path, O_RDONLY);
    int bad, code;
    if (file < 0) return -1;
    bad = qnet__fsync(file) != 0 && errno != EINVAL; /* EINVAL: nothing to force there */
    code = errno;
    close(file);
    errno = code;
    return -bad;
}
#else
#define qnet__sync(path) 0
#endif

#else
#define QNET__UTF16_SIZE 1024 /* of a path, its end included */
#define qnet__process() _getpid()
#define qnet__is_separator(c) ((c) == '/' || (c) == '\\')
#define qnet__is_link(path) 0
#define qnet__sync(path) 0 /* the open file is forced instead */
#define qnet__fd_read _read
#define qnet__fd_write _write
#define qnet__fd_close _close
/* Paths are turned to UTF-16, as the functions with char take the system's code page. windows.h is
   not wanted for four functions; these are its own declarations. */
#ifdef __cplusplus
extern "C" {
#endif
__declspec(dllimport) unsigned long __stdcall GetLastError(void);
__declspec(dllimport) int __stdcall MoveFileExW(const wchar_t *from, const wchar_t *to,
                                                unsigned long flags);
__declspec(dllimport) int __stdcall MultiByteToWideChar(unsigned page, unsigned long flags,
                                                        const char *text, int bytes, wchar_t *wide,
                                                        int size);
__declspec(dllimport) int __stdcall WideCharToMultiByte(unsigned page, unsigned long flags,
                                                        const wchar_t *wide, int count, char *text,
                                                        int size, const char *unknown, int *used);
#ifdef __cplusplus
}
#endif
#define QNET__UTF8 65001

/* UTF-8 to the system's UTF-16, without separators at the end, which stat does not take. 0, and
   errno says why: too long, or no UTF-8. */
static int qnet__utf16(const char *path, wchar_t wide[QNET__UTF16_SIZE])
{
    int n = MultiByteToWideChar(QNET__UTF8, 8 /* strictly */, path, -1, wide, QNET__UTF16_SIZE);
    if (n == 0) {
        errno = GetLastError() == 122 /* does not fit */ ? ENAMETOOLONG : EILSEQ;
        return 0;
    }
    for (n -= 2; n > 0 && (wide[n] == L'/' || wide[n] == L'\\') && wide[n - 1] != L':'; n--)
        wide[n] = 0;
    return 1;
}

/* Files and empty folders, as remove does it on POSIX. */
static int qnet__remove(const char *path)
{
    wchar_t wide[QNET__UTF16_SIZE];
    return qnet__utf16(path, wide) && (_wremove(wide) == 0 || _wrmdir(wide) == 0) ? 0 : -1;
}

/* Over a file that is there, too, which the C library's rename refuses on Windows. */
static int qnet__rename(const char *from, const char *to)
{
    wchar_t wide_from[QNET__UTF16_SIZE], wide_to[QNET__UTF16_SIZE];
    unsigned long code;
    if (!qnet__utf16(from, wide_from) || !qnet__utf16(to, wide_to)) return -1;
    if (MoveFileExW(wide_from, wide_to, 1 | 8 /* replaces, writes through */)) return 0;
    code = GetLastError();
    errno = code == 2 || code == 3 ? ENOENT : code == 5 || code == 32 ? EACCES
          : code == 112 ? ENOSPC : EIO;
    return -1;
}

static FILE *qnet__fopen_read(const char *path)
{
    wchar_t wide[QNET__UTF16_SIZE];
    return qnet__utf16(path, wide) ? _wfopen(wide, L"rb") : NULL;
}

static FILE *qnet__fopen_new(const char *path)
{
    wchar_t wide[QNET__UTF16_SIZE];
    int file;
    if (!qnet__utf16(path, wide)) return NULL;
    file = _wopen(wide, _O_WRONLY | _O_CREAT | _O_EXCL | _O_BINARY | _O_NOINHERIT,
                  _S_IREAD | _S_IWRITE);
    return file >= 0 ? _fdopen(file, "wb") : NULL;
}

static int qnet__look(const char *path)
{
    struct _stat64 info;
    wchar_t wide[QNET__UTF16_SIZE];
    if (!qnet__utf16(path, wide) || _wstat64(wide, &info) != 0) return 0;
    return (info.st_mode & _S_IFDIR) != 0 ? 2 : 1;
}

static int qnet__mkdir(const char *path)
{
    wchar_t wide[QNET__UTF16_SIZE];
    return qnet__utf16(path, wide) ? _wmkdir(wide) : -1;
}

#endif

/* What a path leads to, as qnet__look; 0: nothing. What cannot be looked at is a file, so
   that opening it says why: a disk error must not pass for a file that is not there. */
QNET__HELPER int qnet__path_kind(const char *path)
{
    const int kind = qnet__look(path);
    return kind > 0 ? kind : errno != ENOENT && errno != ENOTDIR;
}

/* ---- files ---- */

/* An open file. The path is the caller's and outlives it. */
typedef struct qnet__file {
    qnet_context *ctx;
    FILE *stream;
    const char *path;
    char *temporary; /* [bytes], the name under which it is written */
    size_t bytes;
    long size; /* when it was opened for reading; 0: not known, as of pipes */
} qnet__file;

/* The source and the sink of an open file. */
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

/* Sets f->size. Returns 1 for the text that git-annex, DataLad or Git LFS leaves in place of a
   file's content; a checkout without links has that of the link. The stream is back at its start;
   pipes are not touched. */
static int qnet__is_pointer_file(qnet__file *f)
{
    char text[1024];
    size_t n = 0;
    f->size = fseek(f->stream, 0, SEEK_END) == 0 ? ftell(f->stream) : 0;
    rewind(f->stream);
    if (f->size > 0 && f->size < (long)sizeof text) {
        n = fread(text, 1, (size_t)f->size, f->stream);
        rewind(f->stream);
    }
    text[n] = '\0';
    return strncmp(text, "/annex/objects/", 15) == 0 ||
           strncmp(text, "version https://git-lfs", 23) == 0 ||
           (text[0] == '.' && strstr(text, ".git/annex/objects/") != NULL);
}

/* Opens a file for reading; *out reads from it until qnet__file_close. On failure there is nothing
   to close. Data sets by git-annex or Git LFS hold links or short texts in place of files that were
   not downloaded: sentences say so. */
QNET__HELPER qnet_status qnet__file_open_read(qnet_context *ctx, const char *path, qnet__file *f,
                                              qnet_source *out)
{
    int code;
    if (ctx == NULL || path == NULL || path[0] == '\0')
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "a path is missing");
    if (qnet__path_kind(path) == 2) /* fopen opens folders on some systems */
        return qnet__fail(ctx, QNET_ERROR_IO, "%s: cannot be opened for reading: it is a folder",
                          path);
    f->stream = qnet__fopen_read(path);
    code = errno;
    if (f->stream == NULL && (code == ENOENT || code == ENOTDIR))
        return qnet__fail(ctx, QNET_ERROR_NOT_FOUND, "%s: %s", path, !qnet__is_link(path) ?
                          "no such file" : "a link that leads nowhere, as git-annex leaves them: "
                          "not downloaded: git annex get / datalad get");
    if (f->stream == NULL)
        return qnet__fail(ctx, QNET_ERROR_IO, "%s: cannot be opened for reading: %s", path,
                          strerror(code));
    if (qnet__is_pointer_file(f)) {
        fclose(f->stream);
        return qnet__fail(ctx, QNET_ERROR_NOT_FOUND, "%s: not downloaded: git annex get / datalad "
                          "get / git lfs pull", path);
    }
    out->user = f;
    out->read = qnet__file_read;
    out->name = path;
    return QNET_OK;
}

/* Closes a file that was read. */
QNET__HELPER void qnet__file_close(qnet__file *f) { fclose(f->stream); }

#define QNET__TEMPORARY 32 /* bytes of ".<process>-<n>.tmp" and its end */

/* Creates a new file beside path, on the same file system, so that renaming it is atomic; *out
   writes to it until qnet__file_finish. No file and no link has its name. On failure there is
   nothing to finish. */
QNET__HELPER qnet_status qnet__file_open_replace(qnet_context *ctx, const char *path,
                                                 qnet__file *f, qnet_sink *out)
{
    if (ctx == NULL || path == NULL || path[0] == '\0')
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "a path is missing");
    if (qnet__path_kind(path) == 3) /* root could rename a file over /dev/null */
        return qnet__fail(ctx, QNET_ERROR_IO, "%s: cannot be written: it is a device or a pipe",
                          path);
    f->ctx = ctx;
    f->path = path;
    f->stream = NULL;
    f->bytes = strlen(path) + QNET__TEMPORARY;
    f->temporary = (char *)qnet__alloc(ctx, f->bytes);
    if (f->temporary == NULL) return qnet__no_memory(ctx, f->bytes, "a file name");
    /* A run that was killed may have left a file of this process number: then the next n. */
    for (int n = 0; n < 100 && f->stream == NULL; n++) {
        snprintf(f->temporary, f->bytes, "%s.%lx-%d.tmp", path, (unsigned long)qnet__process(), n);
        errno = 0;
        f->stream = qnet__fopen_new(f->temporary);
        if (f->stream == NULL && errno != EEXIST) break;
    }
    if (f->stream == NULL) {
        const qnet_status status = qnet__fail(ctx, QNET_ERROR_IO, "%s: cannot be opened for "
                                              "writing: %s", f->temporary, strerror(errno));
        qnet__free(ctx, f->temporary, f->bytes);
        return status;
    }
    out->user = f;
    out->write = qnet__file_write;
    out->name = path;
    return QNET_OK;
}

/* Closes a file that was written; status is its writer's. When that is QNET_OK, the file is forced
   to the disk and renamed to its path. On any failure it is removed and what was at path stays. */
QNET__HELPER qnet_status qnet__file_finish(qnet__file *f, qnet_status status)
{
    int bad = ferror(f->stream);
    errno = 0;
#if defined(QNET__WINDOWS) && !defined(QNET_NO_FSYNC)
    bad = bad || fflush(f->stream) != 0 || _commit(_fileno(f->stream)) != 0;
#endif
    bad |= fclose(f->stream);
    if (status == QNET_OK && (bad || qnet__sync(f->temporary) != 0 ||
                              qnet__rename(f->temporary, f->path) != 0)) {
        const int code = errno;
        status = qnet__fail(f->ctx, QNET_ERROR_IO, "%s: cannot be written: %s", f->path,
                            qnet__path_kind(f->path) == 2 ? "it is a folder"
                            : code != 0                   ? strerror(code)
                                                          : "a write failed");
    }
    if (status != QNET_OK) {
        (void)qnet__remove(f->temporary);
    } else { /* The new name, too: after a power cut the old file, which is whole, is no failure. */
        char *slash = strrchr(f->temporary, '/');
        if (slash != NULL) slash[slash == f->temporary] = '\0';
        (void)qnet__sync(slash != NULL ? f->temporary : ".");
    }
    qnet__free(f->ctx, f->temporary, f->bytes);
    return status;
}

/* Bytes from the position to the end of a file; 0 for other sources and where it is unknown. */
static size_t qnet__file_left(const qnet_source *source)
{
    const qnet__file *f = (const qnet__file *)source->user;
    const long at = source->read == qnet__file_read ? ftell(f->stream) : -1;
    return at >= 0 && at < f->size ? (size_t)(f->size - at) : 0;
}

#ifdef QNET__LINUX64
#define QNET__FILE_PIECES 32
#define QNET__FILE_LARGE ((size_t)1 << 20) /* bytes from which on all threads read */
extern ptrdiff_t qnet__pread(int file, void *dst, size_t size, long at) __asm__("pread");
extern int qnet__fileno(FILE *stream) __asm__("fileno");

typedef struct qnet__pieces_job {
    int file;
    long at; /* where in the file dst[size] comes from */
    unsigned char *dst;
    size_t size;
    int whole[QNET__FILE_PIECES]; /* 1: all of this piece has come */
} qnet__pieces_job;

/* Reads piece i of QNET__FILE_PIECES; a call may give less than it was asked for. */
static void qnet__pieces_task(void *arg, size_t i, size_t worker)
{
    qnet__pieces_job *job = (qnet__pieces_job *)arg;
    const size_t piece = job->size / QNET__FILE_PIECES + 1;
    const size_t end = qnet__min_size((i + 1) * piece, job->size);
    size_t done = qnet__min_size(i * piece, job->size);
    ptrdiff_t got = 1;
    QNET__UNUSED(worker);
    while (done < end && got > 0) {
        got = qnet__pread(job->file, job->dst + done, end - done, job->at + (long)done);
        done += got > 0 ? (size_t)got : 0;
    }
    job->whole[i] = done == end;
}

/* Appends the next size bytes of a file, for which there is room, by all threads: Linux reads in
   several places at a time. Where that fails nothing is appended. */
static void qnet__read_pieces(qnet_context *ctx, qnet_source *source, size_t size, qnet_buffer *out)
{
    FILE *stream = ((qnet__file *)source->user)->stream;
    qnet__pieces_job job = {qnet__fileno(stream), ftell(stream), out->bytes + out->size, size, {0}};
    int whole = 1;
    qnet__parallel(ctx, QNET__FILE_PIECES, qnet__pieces_task, &job);
    for (int i = 0; i < QNET__FILE_PIECES; i++) whole = whole && job.whole[i];
    if (whole && fseek(stream, job.at + (long)size, SEEK_SET) == 0) out->size += size;
}
#endif

#endif /* QNET_NO_STDIO */

#define QNET__READ_TRUST ((size_t)1 << 18) /* bytes allocated before any have been read */

/* Appends the next size bytes of source to out, and a zero behind them; fewer where the source
   ends. For a file that ends within them its length is allocated at once. For a stream out grows to
   at most 16 times of what has been read, or QNET__READ_TRUST. */
QNET__HELPER qnet_status qnet__read(qnet_context *ctx, qnet_source *source, size_t size,
                                    qnet_buffer *out)
{
    const size_t start = out->size;
    size_t got = 1;
#ifndef QNET_NO_STDIO
    const size_t left = qnet__file_left(source);
    if (left > 0 && left <= size) {
        QNET__TRY(qnet__buffer_reserve(ctx, out, left));
#ifdef QNET__LINUX64
        if (left >= QNET__FILE_LARGE) qnet__read_pieces(ctx, source, left, out);
#endif
    }
#endif
    while (out->size - start < size && got > 0) {
        const size_t done = out->size - start, more = size - done;
        if (out->capacity - out->size < 2)
            QNET__TRY(qnet__buffer_reserve(ctx, out,
                                           qnet__min_size(more, 15 * done + QNET__READ_TRUST)));
        QNET__TRY(qnet__read_some(ctx, source, out->bytes + out->size,
                                  qnet__min_size(more, out->capacity - out->size - 1), &got));
        out->size += got;
    }
    if (out->bytes != NULL) out->bytes[out->size] = 0;
    return QNET_OK;
}

/* Exactly size bytes, or an error that says of what, and how many there were. */
QNET__HELPER qnet_status qnet__read_exact(qnet_context *ctx, qnet_source *source, size_t size,
                                          const char *what, qnet_buffer *out)
{
    const size_t start = out->size;
    QNET__TRY(qnet__read(ctx, source, size, out));
    if (out->size - start == size) return QNET_OK;
    return qnet__fail(ctx, QNET_ERROR_FORMAT, "%s: truncated: expected %.0f bytes of %s, found "
                      "%.0f", qnet__source_name(source), (double)size, what,
                      (double)(out->size - start));
}

#ifndef QNET_NO_STDIO

QNET_API qnet_status qnet_file_replace(qnet_context *ctx, const char *path, const void *bytes,
                                       size_t size)
{
    qnet__file file;
    qnet_sink sink;
    if (bytes == NULL && size > 0)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_file_replace: bytes is NULL");
    QNET__TRY(qnet__file_open_replace(ctx, path, &file, &sink));
    return qnet__file_finish(&file, qnet__write(ctx, &sink, bytes, size));
}

/* The limit holds for streams without a length (pipes), too. */
QNET_API qnet_status qnet_file_read(qnet_context *ctx, const char *path, size_t limit,
                                    qnet_buffer *out)
{
    qnet__file file;
    qnet_source source;
    qnet_status status;
    if (out == NULL || out->bytes != NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_file_read: expected an empty buffer");
    QNET__TRY(qnet__file_open_read(ctx, path, &file, &source));
    limit = qnet__min_size(limit > 0 ? limit : QNET_MAX_FILE_BYTES, SIZE_MAX - 1);
    status = qnet__read(ctx, &source, limit + 1, out); /* one byte more: the file is too large */
    if (status == QNET_OK && out->size > limit)
        status = qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: larger than the limit of %.0f bytes", path,
                            (double)limit);
    qnet__file_close(&file);
    if (status != QNET_OK) qnet_buffer_free(ctx, out);
    return status;
}

QNET_API int qnet_file_exists(const char *path)
{
    const int kind = path != NULL ? qnet__path_kind(path) : 0;
    return kind != 0 && kind != 2;
}

/* The folders above it first. That one of those cannot be made is no failure: it may be there, and
   not be ours to look at. Only the folder itself counts. */
QNET_API qnet_status qnet_make_folder(qnet_context *ctx, const char *path)
{
    qnet_buffer copy = {NULL, 0, 0, NULL};
    int code = 0, first = ENOENT; /* why the folder was not made, and why the first above it */
    if (ctx == NULL || path == NULL || path[0] == '\0')
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "a path is missing");
    QNET__TRY(qnet_buffer_append(ctx, &copy, path, strlen(path)));
    for (size_t i = 1; i <= copy.size; i++) {
        if (path[i] != '\0' && !qnet__is_separator(path[i])) continue;
        copy.bytes[i] = '\0';
        errno = 0;
        code = qnet__mkdir((const char *)copy.bytes) == 0 ? 0 : errno;
        if (code != 0 && code != EEXIST && first == ENOENT) first = code;
        copy.bytes[i] = (unsigned char)path[i];
    }
    qnet_buffer_free(ctx, &copy);
    if (code == ENOENT) code = first;
    errno = 0;
    if (qnet__path_kind(path) == 2) return QNET_OK;
    if (errno != 0 && (code == EEXIST || code == 0)) code = errno;
    return qnet__fail(ctx, QNET_ERROR_IO, "%s: the folder cannot be made: %s", path,
                      code == EEXIST ? "a file of this name is in the way"
                                     : strerror(code));
}

#define QNET__NAME_SIZE 256 /* of an entry of a folder, its end included: POSIX's NAME_MAX + 1 */

static int qnet__compare_names(const void *a, const void *b)
{
    return strcmp((const char *)a, (const char *)b);
}

/* Appends one zero-padded name to a buffer of names; "." and ".." are left out. */
static qnet_status qnet__list_add(qnet_context *ctx, qnet_buffer *names, const char *folder,
                                  const char *name)
{
    char padded[QNET__NAME_SIZE] = {0};
    const size_t length = strlen(name);
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return QNET_OK;
    if (length >= sizeof padded)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: the name \"%.40s...\" has %lu bytes, the "
                          "limit is %d", folder, name, (unsigned long)length, QNET__NAME_SIZE - 1);
    memcpy(padded, name, length);
    return qnet_buffer_append(ctx, names, padded, sizeof padded);
}

/* All names of a folder, in the system's order. */
static qnet_status qnet__list_names(qnet_context *ctx, const char *path, qnet_buffer *names)
{
    qnet_status status = QNET_OK;
#if defined(QNET__POSIX)
    DIR *folder = opendir(path);
    const struct dirent *entry = NULL;
    const int opened = folder != NULL;
#else
    wchar_t wide[QNET__UTF16_SIZE + 2];
    char name[3 * QNET__NAME_SIZE + 1]; /* UTF-16 in UTF-8 takes up to three bytes for two */
    struct _wfinddata64_t entry;
    const intptr_t handle =
        qnet__utf16(path, wide) ? _wfindfirst64(wcscat(wide, L"/*"), &entry) : -1;
    const int opened = handle != -1;
#endif
    if (!opened)
        return qnet__fail(ctx, errno == ENOENT || errno == ENOTDIR ? QNET_ERROR_NOT_FOUND
                                                                   : QNET_ERROR_IO,
                          "%s: the folder cannot be opened: %s", path, strerror(errno));
#if defined(QNET__POSIX)
    do {
        if (entry != NULL) status = qnet__list_add(ctx, names, path, entry->d_name);
        errno = 0; /* readdir returns NULL for a failure and at the end */
    } while (status == QNET_OK && (entry = readdir(folder)) != NULL);
    if (status == QNET_OK && errno != 0) status = qnet__io_error(ctx, path, "reading the folder");
    closedir(folder);
#else
    do {
        if (WideCharToMultiByte(QNET__UTF8, 0, entry.name, -1, name, sizeof name, NULL, NULL) == 0)
            status = qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: a name that is too long", path);
        else
            status = qnet__list_add(ctx, names, path, name);
        errno = ENOENT;
    } while (status == QNET_OK && _wfindnext64(handle, &entry) == 0);
    if (status == QNET_OK && errno != ENOENT) /* ENOENT: no more */
        status = qnet__io_error(ctx, path, "reading the folder");
    _findclose(handle);
#endif
    return status;
}

/* Sorted, as results must not depend on the file system's order. */
QNET_API qnet_status qnet_list_folder(qnet_context *ctx, const char *path, qnet_buffer *names)
{
    qnet_buffer list = {NULL, 0, 0, NULL};
    qnet_status status;
    if (path == NULL || names == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "list folder: path or names are NULL");
    status = qnet__list_names(ctx, path, &list);
    if (status == QNET_OK && list.size > 0)
        qsort(list.bytes, list.size / QNET__NAME_SIZE, QNET__NAME_SIZE, qnet__compare_names);
    for (size_t at = 0; at < list.size && status == QNET_OK; at += QNET__NAME_SIZE)
        status = qnet_buffer_append(ctx, names, list.bytes + at,
                                    strlen((const char *)list.bytes + at) + 1);
    qnet_buffer_free(ctx, &list);
    return status;
}

/* The name after `name` in the list that qnet_list_folder made, NULL behind the last; of NULL the
   first. */
QNET__HELPER const char *qnet__list_next(const qnet_buffer *list, const char *name)
{
    const char *next = name == NULL ? (const char *)list->bytes : name + strlen(name) + 1;
    return list->size > 0 && next < (const char *)list->bytes + list->size ? next : NULL;
}

/* ---- The lock of a folder ---------------------------------------------------------------------
   A file in it, locked by the system, whose text says who holds it. The system's lock ends with its
   process, so what a dead one leaves is no lock. flock belongs to the open file, not to the process
   as fcntl's does: two runs in one process exclude each other, a child that ends releases nothing,
   and Linux carries it to the other machines of a shared folder (NFS, SMB).

   Taking: make the folder, open or create the file, lock it without waiting, check that the path
   still leads to it, write the holder's text. Releasing: remove the file, unlock, close, remove the
   folders that were made and are empty. */

typedef struct qnet__lock {
    char path[640]; /* of the file */
    int file;       /* -1: none, on a system without locks */
    size_t there;   /* bytes of the folder's path that existed before */
} qnet__lock;

/* "process 1234 on host since 2026-05-31 17:04:05 UTC", by the calendar (Howard Hinnant's
   days-to-civil, years from March on): gmtime's result is shared by threads. */
static void qnet__holder_text(char text[320])
{
    const long long now = (long long)time(NULL), z = now / 86400 + 719468;
    const int s = (int)(now % 86400), of_era = (int)(z % 146097);
    const int years = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    const int days = of_era - (365 * years + years / 4 - years / 100), m = (5 * days + 2) / 153;
    const int month = m < 10 ? m + 3 : m - 9;
    const char *host = "this machine";
#if defined(QNET__POSIX)
    struct utsname names;
    if (uname(&names) >= 0) host = names.nodename;
#else
    if (getenv("COMPUTERNAME")) host = getenv("COMPUTERNAME");
#endif
    snprintf(text, 320, "process %lu on %.200s since %d-%02d-%02d %02d:%02d:%02d UTC\n",
             (unsigned long)qnet__process(), host, (int)(z / 146097) * 400 + years + (month < 3),
             month, days - (153 * m + 2) / 5 + 1, s / 3600, s / 60 % 60, s % 60);
}

/* The refusal, with the text that the holder wrote to the file; file < 0: it cannot be read. */
static qnet_status qnet__lock_busy(qnet_context *ctx, const qnet__lock *lock, int file)
{
    char text[320];
    const ptrdiff_t n = file < 0 ? 0 : (ptrdiff_t)qnet__fd_read(file, text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return qnet__fail(ctx, QNET_ERROR_BUSY, "%s: another run works in this folder: %s", lock->path,
                      text[0] ? text : "it has not yet said which");
}

/* Opens and locks lock->path. The last holder removes the file before it lets go: whoever opened it
   in between has locked a file without a name, sees that by its inode, and tries again. */
#if defined(QNET__POSIX)
static qnet_status qnet__lock_open(qnet_context *ctx, qnet__lock *lock)
{
    struct stat mine, named;
    for (int tries = 0; tries < 100; tries++) {
        int code;
        lock->file = open(lock->path, O_RDWR | O_CREAT | QNET__OPEN_FLAGS, 0666);
        if (lock->file < 0) return qnet__io_error(ctx, lock->path, "opening");
        if (flock(lock->file, LOCK_EX | LOCK_NB) != 0) {
            const qnet_status status =
                errno == EWOULDBLOCK ? qnet__lock_busy(ctx, lock, lock->file)
                                     : qnet__io_error(ctx, lock->path, "locking");
            code = errno;
            close(lock->file);
            if (status == QNET_ERROR_BUSY) return status;
            if (code != ENOSYS && code != ENOLCK && code != EOPNOTSUPP) return status;
            lock->file = -1;
            qnet__log(ctx, QNET_LOG_WARNING, "%s: this file system has no locks: nothing keeps a "
                      "second run from this folder", lock->path);
            return QNET_OK;
        }
        /* Ours, unless its last holder has removed it since it was opened; what a dead process has
           left goes the same way. */
        if (fstat(lock->file, &mine) == 0 && stat(lock->path, &named) == 0 &&
            mine.st_ino == named.st_ino && mine.st_dev == named.st_dev) {
            if (mine.st_size == 0) return QNET_OK;
            (void)qnet__remove(lock->path);
        }
        close(lock->file);
    }
    return qnet__fail(ctx, QNET_ERROR_IO, "%s: cannot be locked", lock->path);
}
#else
/* Windows: the open file itself is the lock, as its sharing mode denies others to write. */
static qnet_status qnet__lock_open(qnet_context *ctx, qnet__lock *lock)
{
    wchar_t wide[QNET__UTF16_SIZE];
    if (qnet__utf16(lock->path, wide)) {
        lock->file = _wsopen(wide, _O_RDWR | _O_CREAT | _O_TRUNC | _O_BINARY | _O_NOINHERIT,
                             _SH_DENYWR, _S_IREAD | _S_IWRITE);
        if (lock->file >= 0) return QNET_OK;
        if (errno == EACCES) {
            const int file = _wsopen(wide, _O_RDONLY | _O_BINARY | _O_NOINHERIT, _SH_DENYNO, 0);
            const qnet_status status = qnet__lock_busy(ctx, lock, file);
            if (file >= 0) {
                _close(file);
                return status;
            }
            errno = EACCES;
        }
    }
    return qnet__io_error(ctx, lock->path, "locking");
}
#endif

/* Removes folders that this lock made, as far as they are empty. */
static void qnet__lock_tidy(const qnet__lock *lock)
{
    char path[sizeof lock->path];
    strcpy(path, lock->path);
    for (size_t n = strlen(path); n > lock->there; n--) {
        if (!qnet__is_separator(path[n])) continue;
        path[n] = '\0';
        if (qnet__look(path) == 2) (void)qnet__remove(path); /* fails where it holds anything */
    }
}

/* Makes a folder and locks it until qnet__lock_release; QNET_ERROR_BUSY: another run has it. */
static qnet_status qnet__lock_take(qnet_context *ctx, const char *folder, qnet__lock *lock)
{
    char text[320];
    qnet_status status;
    size_t n = strlen(folder);
    lock->file = -1;
    if (n + sizeof "/run.lock" > sizeof lock->path)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%.60s...: the path is too long", folder);
    memcpy(lock->path, folder, n + 1);
    /* To what is there of the path: "file/" is nothing, "file" is: so no separator behind it. */
    while (n > 0 && qnet__path_kind(lock->path) == 0) {
        while (n > 0 && !qnet__is_separator(lock->path[n - 1])) n--;
        while (n > 0 && qnet__is_separator(lock->path[n - 1])) n--;
        lock->path[n] = '\0';
    }
    lock->there = n;
    snprintf(lock->path, sizeof lock->path, "%s/run.lock", folder);
    status = qnet_make_folder(ctx, folder);
    if (status == QNET_OK) status = qnet__lock_open(ctx, lock);
    if (status != QNET_OK) {
        qnet__lock_tidy(lock);
        return status;
    }
    qnet__holder_text(text);
    /* The lock holds without its text, should that not be written. */
    if (lock->file >= 0 && qnet__fd_write(lock->file, text, (unsigned)strlen(text)) < 0) errno = 0;
    return QNET_OK;
}

/* The file goes while the lock still holds; Windows removes no open files. */
static void qnet__lock_release(qnet__lock *lock)
{
#if defined(QNET__POSIX)
    (void)qnet__remove(lock->path);
    if (lock->file >= 0) (void)flock(lock->file, LOCK_UN); /* children may still have it open */
#endif
    if (lock->file >= 0) qnet__fd_close(lock->file);
#ifdef QNET__WINDOWS
    (void)qnet__remove(lock->path);
#endif
    qnet__lock_tidy(lock);
}

#endif /* QNET_NO_STDIO */
#endif

#if QNET__HAS_NETWORKS
/* ============================================================================================
   >>tensor: views into the flat block of a network's weights, by the table of its parameters. Entry
   i lies at entries[i].offset and holds entries[i].count numbers, in the order in which entries
   were added: first what is trained, then running statistics, so that an optimiser's step is one
   loop over the first table->trainable numbers. Relies on no other room.
   ============================================================================================ */

QNET_API qnet_tensor qnet_param_view(const qnet_param_table *table, qnet_real *block, int i)
{
    qnet_tensor view;
    memset(&view, 0, sizeof view);
    if (i >= 0 && i < table->count) {
        const qnet_param *param = &table->entries[i];
        view.data = block + param->offset;
        view.ndim = param->ndim;
        memcpy(view.shape, param->shape, sizeof view.shape);
    }
    return view;
}

QNET_API int qnet_param_find(const qnet_param_table *table, const char *name)
{
    for (int i = 0; i < table->count; i++)
        if (strcmp(table->entries[i].name, name) == 0) return i;
    return -1;
}

/* Appends parameter "name.suffix" of shape s0, s1, ... (ndim of them, a scalar has none; the others
   are 1) to a table that is being filled. entries NULL: the table's numbers are counted, no entry
   is written. */
QNET__HELPER void qnet__param_add(qnet_param_table *table, qnet_param *entries, const char *name,
                                  const char *suffix, int trainable, int ndim, size_t s0,
                                  size_t s1, size_t s2, size_t s3)
{
    const size_t shape[QNET_MAX_DIMS] = {s0, s1, s2, s3}, count = s0 * s1 * s2 * s3;
    if (entries != NULL) {
        qnet_param *p = &entries[table->count];
        memset(p, 0, sizeof *p);
        snprintf(p->name, sizeof p->name, "%s.%s", name, suffix);
        p->ndim = ndim;
        memcpy(p->shape, shape, sizeof shape);
        p->count = count;
        p->offset = table->total;
        p->layout = ndim == 4 ? QNET_LAYOUT_HWIO : QNET_LAYOUT_PLAIN;
        p->trainable = trainable;
    }
    table->count++;
    table->total += count;
    table->trainable += trainable ? count : 0;
}

/* The first of x[count] that is NaN or infinite, or count. */
static size_t qnet__first_bad(const qnet_real *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!qnet__is_finite((double)x[i])) return i;
    return count;
}
#endif

/* ============================================================================================
   >>text
   Numbers as text and back, the same in every locale: a host program that runs with a decimal
   comma must still write files that others can read.
   Relies on >>status alone.
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

#if QNET__HAS_NETWORKS
/* A number of a configuration: its key in files and messages, its place and its range. */
typedef struct qnet__setting {
    const char *key;
    char type; /* 'i' int, 'd' double, 's' qnet_stretch */
    size_t offset;
    double low, high;
} qnet__setting; /* a table of settings ends with a key of NULL */

#define QNET__SETTING(config, type, name, low, high) \
    { #name, type, offsetof(config, name), low, high }
#define QNET__SETTINGS_END { NULL, 0, 0, 0, 0 }

static double qnet__setting_get(const qnet__setting *f, const void *config)
{
    const void *at = (const unsigned char *)config + f->offset;
    if (f->type == 's') return (double)*(const qnet_stretch *)at;
    return f->type == 'i' ? (double)*(const int *)at : *(const double *)at;
}

/* QNET_ERROR_ARGUMENT for the first number of a configuration out of its range, or NaN. */
static qnet_status qnet__settings_check(qnet_context *ctx, const char *what, const qnet__setting *f,
                                      const void *config)
{
    for (; f->key != NULL; f++) {
        const double value = qnet__setting_get(f, config);
        if (!(value >= f->low && value <= f->high))
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: %s %g: expected %.12g to %.12g", what,
                              f->key, value, f->low, f->high);
    }
    return QNET_OK;
}

/* ============================================================================================
   >>kernels: the inner loops that exist once per instruction set (ISA). First the structures that
   they take, which all sets share; then the loops themselves, and the table of a set's functions.

   Their vector type qnet__lanes is as wide as the set's registers: 16 floats with AVX-512, 8 with
   AVX2, 4 with NEON and wherever else the compiler has vector types, 1 where it has none. On x86
   the machine decides at run time: this file then includes itself, once with AVX2 and once with
   AVX-512, and each time compiles nothing but the loops. What is below AVX2 is the plain set there,
   without Winograd's transforms. Elsewhere there is one set, with everything.

   Words of this room and of those that call it, >>gemm to >>resnet:
     tile         rows x columns of a product C that stay in registers; in Winograd's convolution
                  also the outputs that are made at once, 2x2 to 4x4
     panel        columns of b, as wide as a tile, packed so that the rows of k follow each other
     segment      a part of the sum with pointers of its own: a tap, or a row of pixels
     chain        products that are added one to another before the sum is added to C
     piece        k's after which the next tile of rows follows, while b stays in cache
     prologue     what is done to a map while it is read
     epilogue     what is done to a map before it is written
     moments      sums of a map's numbers and of their squares, for a batch norm
     chunk        rows of a map that are read while they stay in cache, with sums of their own
     partial sum  of some rows or tiles; partial sums are added in a fixed order
     block        tiles (>>winograd) that a worker takes from the products to the output at once
     group        64 channels (>>winograd); rows with a partial sum of their own (>>conv)

   A function of a set has a name of its own in each set, by a line in the list of names. One that
   calls no other function of the set and uses no lanes is shared and stands before that list. What
   only training runs is left out where QNET__HAS_TRAINING is 0; its place in the table is NULL.

   To add a set: a value of qnet_cpu with its name and detection (>>context); below, its suffix, its
   lanes and target before one more inclusion of this file, and its line in qnet__isa_of. Its
   multiply-add goes to qnet__lanes_fma. Everything else follows from the number of lanes.

   To change the width of a set's tile: QNET__TILE_WIDE, in vectors. Packed panels follow, as all
   ask the table for `columns`; these are at most QNET__TILE_COLUMNS and divide
   QNET__WINOGRAD_GROUP, as u has no room for a part of a panel (another width needs u padded, and
   narrower tiles for the rest). A tile reads all of its columns of b, also where fewer are wanted:
   where b is read in place (dy in direct dw, the stem), its rows are whole panels. 6 rows of a
   tile, a broadcast and a row of b have to fit in the registers: look for spills in
   qnet__tile_run. For another height see QNET__TILE_ROWS and qnet__tile_size. Bits do not change,
   but for direct dw, whose groups of rows follow from the number of panels (qnet__plan_weights).

   To change a schedule of Winograd's convolutions: the loops here know only ranges of tiles and
   groups of channels. Which of them make a task, in what memory, is decided by qnet__winograd_plan
   and qnet__winograd_plan_weights (>>winograd); y and dx have the same bits by any schedule.

   A form of Winograd's convolution computes Y = A^T [sum of (G g G^T) . (B^T d B)] A, 4x4 outputs
   from 6x6 pixels or, at stride 2, from 9x9; see "Winograd's transforms". To try another, say 6
   outputs per tile: its sizes (qnet__winograd_sizes_of), its B^T, A^T, A, G and G^T,
   QNET__WINOGRAD_MOST, and how an axis is cut (qnet__winograd_cut). test_conv compares maps of all
   sides with the direct sum.

   Relies on >>context.
   ============================================================================================ */

/* 1: only the plain loops of the reference build are used. */
#ifdef QNET_REFERENCE
#define QNET__REFERENCE_ONLY 1
#else
#define QNET__REFERENCE_ONLY 0
#endif

#if QNET__X86
#include <immintrin.h>
#if defined(_MSC_VER) && !defined(__AVX512F__)
/* clang for Microsoft's: what the command line does not enable is left out above. In this order. */
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <fmaintrin.h>
#include <avx512fintrin.h>
#endif
#elif QNET__NEON
#include <arm_neon.h>
#endif

/* ---- What the tile takes --------------------------------------------------------------------- */

/* The micro-kernel ("tile") keeps a block C[rows][columns] in registers over the whole sum

       C[m][c_at + j] (+)= sum over s < segments, k < length of
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

   A tile is 6 rows high and 2 or 4 vectors wide: with 16 registers 12 accumulators, 2 vectors of b
   and a broadcast; with 32 registers 24, 4 and 1. Fewer rows than the usual 14 x 2 of AVX-512, but
   half the loads for a multiply-add (10 for 24, not 16 and some row pointers that find no register
   for 28), which is what counts where two hardware threads share a core. */
#define QNET__TILE_ROWS 6
#define QNET__TILE_COLUMNS (QNET__X86 ? 64 : 16) /* of the widest tile */

typedef struct qnet__tile {
    const qnet_real *const *a; /* [segments][a_rows], of which `rows` are read */
    size_t a_rows;
    const qnet_real *const *b; /* [segments] */
    qnet_real *const *c;       /* [rows] */
    size_t a_at, a_step, b_at, b_step, c_at;
    size_t segments, length;   /* at least 1 */
    uintptr_t ahead;           /* address of a cache line that is asked for ... */
    size_t ahead_step;         /* ... and bytes to that of the next k; see qnet__tile_prefetch */
    size_t chain;              /* products in a chain of additions */
    int rows;                  /* 4, 2 or, with a_step = 1 or beside, 6 */
    int beside;                /* 1: a[s][m] is a[s][0] + m; for 6 rows alone */
    int accumulate;            /* 1: adds to what C holds */
} qnet__tile;

/* Asks for the cache line at an address, which may be anything. */
#if defined(__GNUC__) || defined(__clang__)
#define QNET__PREFETCH(address) __builtin_prefetch((const void *)(address))
#define QNET__PREFETCH_WRITE(address) __builtin_prefetch((const void *)(address), 1)
#else
#define QNET__PREFETCH(address) (void)(address)
#define QNET__PREFETCH_WRITE(address) (void)(address)
#endif

#if defined(__clang__)
#define QNET__UNROLL _Pragma("clang loop unroll(full)")
/* Hides where i comes from: clang would rather step a pointer per row, more than there are. */
#define QNET__KEEP_INDEX(i) __asm__("" : "+r"(i))
#elif defined(__GNUC__)
#define QNET__UNROLL _Pragma("GCC unroll 16")
#define QNET__KEEP_INDEX(i) (void)0
#else
#define QNET__UNROLL
#define QNET__KEEP_INDEX(i) (void)0
#endif

/* A function whose constant arguments select code at each call. Without optimisation that would
   only multiply the code. */
#if (defined(__GNUC__) || defined(__clang__)) && defined(__OPTIMIZE__)
#define QNET__INLINE static inline __attribute__((always_inline))
#else
#define QNET__INLINE QNET__HELPER
#endif

#if defined(__GNUC__) || defined(__clang__)
#define QNET__NOINLINE __attribute__((noinline))
#else
#define QNET__NOINLINE
#endif

/* Products that are added up one by one, in the tile's `chain`. Then the sum is added to C, and the
   next begins with a product: rounding errors grow with the length of a chain. Counted along the
   segments, so that no tile's shape matters. Winograd's form rounds its inputs too, and makes up
   for it with a shorter one: its errors are then about those of PyTorch's direct form
   (test_parity). */
#define QNET__CHAIN_DIRECT 64
#define QNET__CHAIN_WINOGRAD 16
#define QNET__CHAIN_WINOGRAD_WEIGHTS 32 /* the sums are longer: over all tiles */

/* What a step does with the sums that were there before. */
typedef enum qnet__turn {
    QNET__TURN_NONE,  /* goes on with them */
    QNET__TURN_BEGIN, /* there were none */
    QNET__TURN_CHAIN  /* they go to C, and a new chain begins */
} qnet__turn;

/* ---- What is done to a map while it is read and written -------------------------------------- */

/* Where a convolution reads a map x[pixels][channels], with what is to be done to each number:
     plain        x
     normalised   max((x - mean) scale + beta, 0): the input of a convolution that follows a batch
                  norm and ReLU, of which only the norm's input x was kept
     gradient     scale (x - shift - (pre - mean) slope): the gradient of a convolution's output
                  pre, from the gradient x of the batch norm's output that follows it */
typedef enum qnet__prologue_kind {
    QNET__PROLOGUE_PLAIN,
    QNET__PROLOGUE_NORMALISED,
    QNET__PROLOGUE_GRADIENT
} qnet__prologue_kind;

typedef struct qnet__prologue {
    qnet__prologue_kind kind;
    const qnet_real *x, *pre;                            /* [pixels][channels] */
    const qnet_real *mean, *scale, *beta, *shift, *slope; /* [channels] */
} qnet__prologue;

static qnet__prologue qnet__prologue_plain(const qnet_real *x)
{
    qnet__prologue s;
    memset(&s, 0, sizeof s);
    s.x = x;
    return s;
}

/* What is to be done to each number v of a map before it is stored in y (NULL: it is not stored):
     plain      nothing
     moments    nothing, but sum1 += v - center, sum2 += (v - center)^2 for the batch norm that
                follows; center is the first number of the channel in its chunk
     normalise  (v - mean) scale + beta, + residual, ReLU; the residual may want its own
                (residual - residual_mean) residual_scale + residual_beta, and a ReLU of its own
     gradient   + residual (the gradient by another path); 0 where a ReLU's output was: `mask` or,
                with a scale, (pre - mean) scale + beta; and sum1 += v, sum2 += v (pre - mean) for
                the batch norm whose input is pre (NULL: not)
   A scale comes with its mean and beta. Sums are per chunk of pixels; chunks depend on shapes only,
   and are added up in order. */
typedef enum qnet__epilogue_kind {
    QNET__EPILOGUE_PLAIN,
    QNET__EPILOGUE_MOMENTS,
    QNET__EPILOGUE_NORMALISE,
    QNET__EPILOGUE_GRADIENT
} qnet__epilogue_kind;

typedef struct qnet__epilogue {
    qnet__epilogue_kind kind;
    int relu, residual_relu;
    qnet_real *y;                                       /* [pixels][channels] */
    const qnet_real *residual, *mask, *pre;             /* [pixels][channels] */
    const qnet_real *mean, *scale, *beta;               /* [channels] */
    const qnet_real *residual_mean, *residual_scale, *residual_beta; /* [channels] or NULL */
    qnet_real *center;                                  /* [chunks][channels] */
    double *sum1, *sum2;                                /* [chunks][channels] */
    size_t *rows, chunks;                               /* rows[chunks]: pixels in each */
} qnet__epilogue;

static qnet__epilogue qnet__epilogue_plain(qnet_real *y)
{
    qnet__epilogue s;
    memset(&s, 0, sizeof s);
    s.y = y;
    return s;
}

typedef struct qnet__pass_job {
    const qnet__prologue *prologue;
    const qnet__epilogue *epilogue;
    size_t rows, channels, chunk_rows;
} qnet__pass_job;

/* ---- What Winograd's transforms take --------------------------------------------------------- */

/* What a convolution's tiles go from and to. `Outputs` are pixels of y, or of dy, in all forms. */
typedef enum qnet__winograd_form {
    QNET__WINOGRAD_SAME, /* stride 1 */
    QNET__WINOGRAD_HALF  /* stride 2, forward alone */
} qnet__winograd_form;

#define QNET__WINOGRAD_MOST 9   /* points of an axis, at most */
#define QNET__WINOGRAD_CLOSED 3 /* points of an axis of 2 pixels */
#define QNET__WINOGRAD_GROUP 64 /* channels that go from the products to the output at once */
#define QNET__WINOGRAD_PAD 16   /* numbers between rows: powers of two would share cache sets */
#define QNET__SQUARE 16 /* channels of a square of kernels: a cache line of floats */

#define QNET__WINOGRAD_OUTPUTS 4 /* of a tile along an axis, at most */

/* A tile of 4 outputs along an axis: its points, the pixels that it reads, and those of them that
   the tile before does not read. */
typedef struct qnet__winograd_sizes {
    int points, in, fresh;
} qnet__winograd_sizes;

static const qnet__winograd_sizes qnet__winograd_sizes_of[2] = {{6, 6, 4}, {9, 9, 8}};

/* The points of interpolation; see "Winograd's transforms". */
#define QNET__WINOGRAD_A 0.625
#define QNET__WINOGRAD_B 1.5
#define QNET__WINOGRAD_R 0.75
#define QNET__WINOGRAD_T 2.0
#define QNET__WINOGRAD_A2 (QNET__WINOGRAD_A * QNET__WINOGRAD_A)
#define QNET__WINOGRAD_B2 (QNET__WINOGRAD_B * QNET__WINOGRAD_B)
#define QNET__WINOGRAD_R2 (QNET__WINOGRAD_R * QNET__WINOGRAD_R)
#define QNET__WINOGRAD_T2 (QNET__WINOGRAD_T * QNET__WINOGRAD_T)
#define QNET__WINOGRAD_N0 (1 / (QNET__WINOGRAD_A2 * QNET__WINOGRAD_B2))
#define QNET__WINOGRAD_NA (1 / (2 * QNET__WINOGRAD_A2 * (QNET__WINOGRAD_A2 - QNET__WINOGRAD_B2)))
#define QNET__WINOGRAD_NB (1 / (2 * QNET__WINOGRAD_B2 * (QNET__WINOGRAD_B2 - QNET__WINOGRAD_A2)))
#define QNET__WINOGRAD_M0 (1 / (QNET__WINOGRAD_R2 * QNET__WINOGRAD_T))
#define QNET__WINOGRAD_MR (1 / (2 * QNET__WINOGRAD_R2 * (QNET__WINOGRAD_R - QNET__WINOGRAD_T)))
#define QNET__WINOGRAD_MM (-1 / (2 * QNET__WINOGRAD_R2 * (QNET__WINOGRAD_R + QNET__WINOGRAD_T)))
#define QNET__WINOGRAD_MT (1 / (QNET__WINOGRAD_T * (QNET__WINOGRAD_T2 - QNET__WINOGRAD_R2)))

/* How one side of a map is cut: the first `large` tiles have side + 1 outputs, the others side. */
typedef struct qnet__winograd_axis {
    ptrdiff_t tiles, large, side;
    ptrdiff_t points, few; /* of a larger tile, of a smaller one */
} qnet__winograd_axis;

/* Tiles on a map: one has `step` pixels for each of its outputs and `more`, and begins `border`
   pixels before first * step, where `first` is the first of its outputs. */
typedef struct qnet__winograd_map {
    ptrdiff_t height, width, channels;
    int step, border, more;
    int size; /* of views: as for tiles with 4 outputs */
} qnet__winograd_map;

/* How a pass is cut into tasks; see the table at "Schedules" (>>winograd). */
typedef enum qnet__winograd_schedule {
    QNET__WINOGRAD_BY_BLOCK,
    QNET__WINOGRAD_BY_ROUND,
    QNET__WINOGRAD_BY_GROUP,
    QNET__WINOGRAD_BY_PART,
    QNET__WINOGRAD_BY_SQUARE
} qnet__winograd_schedule;

/* All tiles of a batch are in the order of four kinds, by rows and columns of outputs: small large,
   large large, large small, small small. So those that use more points along an axis follow each
   other. */
typedef struct qnet__winograd {
    const struct qnet__isa *isa;
    qnet__winograd_form form;
    qnet__winograd_map in, out;           /* out: dy, for the weights' gradient */
    ptrdiff_t src_c, dst_c;               /* channels that come in and go out */
    qnet__winograd_axis y, x;
    ptrdiff_t kind_end[4], tiles;         /* of the batch */
    ptrdiff_t planes;                     /* y.points * x.points elements, at most 81 */
    qnet__winograd_schedule schedule;
    ptrdiff_t block, blocks;              /* tiles of a block, and blocks of the batch */
    ptrdiff_t round, first, last;         /* tiles of a round, and those of the current one */
    int makes_v, makes_d;                 /* what a strip's task does */
    ptrdiff_t v_row, v_plane;             /* v[planes][tiles][src_c]: steps of the first two */
    ptrdiff_t d_row, d_plane;             /* d[planes][tiles][slab], of the weights' gradient */
    ptrdiff_t slab, slab_first;           /* channels of dy that d has at a time */
    ptrdiff_t m_plane;                    /* m[planes][block][QNET__WINOGRAD_GROUP] */
    ptrdiff_t u_plane; /* u[groups or workers][planes][panels][src_c][isa->columns] */
    ptrdiff_t parts, du_row, du_plane; /* du[parts][planes][in][out] or [workers][planes][64][64] */
    qnet__prologue from;                    /* plain or normalised */
    qnet__prologue dy;                      /* plain or a gradient; of the weights' gradient */
    qnet__epilogue epilogue;
    const qnet_real *w;                   /* [3][3][in][out] */
    int backward;                         /* w is turned round and in, out are dst_c, src_c */
    qnet_real *u;
    const qnet_real *packed;              /* u, or what was packed before */
    qnet_real *v, *m, *d, *du, *dw;       /* dw[3][3][in][out] */
    qnet_real *dy_made;                   /* where dy goes as it is worked out, or NULL */
} qnet__winograd;

/* A tile of points_y * points_x elements: the offsets of its pixels on a map; -1 for what is beyond
   them or outside the map. */
typedef struct qnet__winograd_view {
    int points_y, points_x;
    int rows, columns; /* of pixels */
    ptrdiff_t at[QNET__WINOGRAD_MOST * QNET__WINOGRAD_MOST]; /* [size][size] */
} qnet__winograd_view;

static void qnet__winograd_look(const qnet__winograd *p, ptrdiff_t tile,
                                const qnet__winograd_map *map, qnet__winograd_view *view)
{
    const int size = map->size;
    int kind = 0, large_y, large_x, y, x;
    ptrdiff_t image, i, j, top, left, *at = view->at;
    while (tile >= p->kind_end[kind])
        kind++;
    tile -= kind > 0 ? p->kind_end[kind - 1] : 0;
    large_y = kind == 1 || kind == 2, large_x = kind < 2;
    j = large_x ? p->x.large : p->x.tiles - p->x.large; /* tiles in a row of them */
    i = large_y ? p->y.large : p->y.tiles - p->y.large;
    image = tile / j / i;
    i = tile / j % i + (large_y ? 0 : p->y.large);
    j = tile % j + (large_x ? 0 : p->x.large);
    top = (i * p->y.side + (i < p->y.large ? i : p->y.large)) * map->step - map->border;
    left = (j * p->x.side + (j < p->x.large ? j : p->x.large)) * map->step - map->border;
    view->rows = ((int)p->y.side + large_y) * map->step + map->more;
    view->columns = ((int)p->x.side + large_x) * map->step + map->more;
    view->points_y = (int)(large_y ? p->y.points : p->y.few);
    view->points_x = (int)(large_x ? p->x.points : p->x.few);
    for (y = 0; y < size; y++) {
        const ptrdiff_t row = (image * map->height + top + y) * map->width;
        const int there = y < view->rows && top + y >= 0 && top + y < map->height;
        for (x = 0; x < size; x++) {
            const int inside = there && x < view->columns && left + x >= 0 && left + x < map->width;
            *at++ = inside ? (row + left + x) * map->channels : -1;
        }
    }
}

/* The parts of the algorithm that have a kernel. */
typedef enum qnet__winograd_step {
    QNET__WINOGRAD_INPUT,
    QNET__WINOGRAD_GRADIENT,
    QNET__WINOGRAD_OUTPUT,
    QNET__WINOGRAD_KERNELS,
    QNET__WINOGRAD_KERNEL_GRADIENTS
} qnet__winograd_step;

/* g[3][3][i][j]: the kernels for a square of input channels from i0 and output channels from j0;
   turned round and with channels swapped when they are for the gradient of the inputs. i1 and j1:
   those of the square to come, whose rows are asked for. */
QNET__HELPER void qnet__winograd_gather(const qnet__winograd *p, ptrdiff_t i0, ptrdiff_t j0,
                                        ptrdiff_t i1, ptrdiff_t j1,
                                        qnet_real (*g)[QNET__SQUARE][QNET__SQUARE])
{
    const ptrdiff_t in = p->src_c, out = p->dst_c;
    ptrdiff_t i, j;
    int k;
    for (k = 0; k < 9; k++) {
        if (!p->backward) {
            for (i = 0; i < QNET__SQUARE; i++) {
                memcpy(g[k][i], p->w + (k * in + i0 + i) * out + j0, sizeof g[k][i]);
                QNET__PREFETCH(p->w + (k * in + i1 + i) * out + j1);
            }
            continue;
        }
        for (j = 0; j < QNET__SQUARE; j++) {
            const qnet_real *w = p->w + ((8 - k) * out + j0 + j) * in + i0;
            QNET__PREFETCH(p->w + ((8 - k) * out + j1 + j) * in + i1);
            for (i = 0; i < QNET__SQUARE; i++)
                g[k][i][j] = w[i];
        }
    }
}

/* ---- What pooling, the stem and the LSTM take ------------------------------------------------ */

/* Max pooling's backward loops over channels go in blocks of this constant length, which compilers
   turn into vector code at -O2; channels that are left (none in ResNet18) go one by one. Not 16:
   gcc -O3 unrolls loops of up to 16 turns completely before it looks for vectors, and finds
   none. */
#define QNET__WIDTH 32

/* Everything that the tasks of a max pooling read and write; tasks are rows of the result. */
typedef struct qnet__maxpool {
    const struct qnet__isa *isa;
    size_t height, width, channels, out_height, out_width;
    ptrdiff_t rows_before; /* of x, counted over all images, which are not in x's memory */
    qnet__prologue x;      /* plain, or normalised: then the pooled map is that of norm and ReLU */
    const qnet_real *sign; /* [channels], 1, -1 or 0: that x of a window wins which is largest,
                              smallest or first; NULL: the largest. x is plain */
    const qnet_real *dy;
    qnet_real *y, *dx;     /* dx: backward */
    const uint8_t *winner; /* backward: the argmax of the forward pass */
    uint8_t *argmax;
} qnet__maxpool;

#define QNET__STEM_COLUMN 48   /* u[r .. r + 3][q] */
#define QNET__STEM_TAPS 192    /* 4 columns */
#define QNET__STEM_PIECE 64    /* outputs of pooling that go through a list at a time */

/* sum[64][QNET__STEM_TAPS] += the taps of `count` outputs of pooling, times their gradients
   dy[count][64]: those of output i lie in columns at place[i] and what the winner of its window
   adds, row and column 0 .. 2 of the window, of which rows are `pitch` columns apart. */
typedef struct qnet__stem_list {
    const qnet_real *columns, *dy;
    const uint8_t *winner; /* [count][64] */
    const ptrdiff_t *place;
    ptrdiff_t pitch, count;
    double *sum;
} qnet__stem_list;

/* sigma(x) = 1 / (1 + e^-x). Where e^-x overflows the quotient is 0, as it should be. */
QNET__HELPER qnet_real qnet__sigmoid(qnet_real x)
{
    if (QNET__REAL_IS_DOUBLE) return (qnet_real)(1 / (1 + exp(-(double)x)));
    return (qnet_real)(1.0f / (1.0f + expf(-(float)x)));
}

QNET__HELPER qnet_real qnet__tanh(qnet_real x)
{
    if (QNET__REAL_IS_DOUBLE) return (qnet_real)tanh((double)x);
    return (qnet_real)tanhf((float)x);
}

/* One scan of an LSTM at one step. Arrays are [hidden], or [4 hidden] for the gates and what is
   added to them. */
typedef struct qnet__lstm_row {
    size_t hidden;
    const qnet_real *b, *uh;  /* forward: bias, U h' */
    const qnet_real *c_prev;
    qnet_real *gates;         /* forward: W x, which becomes i, f, g, o */
    qnet_real *c, *tanh_c;    /* forward */
    qnet_real *h, *next_h;    /* forward: h twice, for y and for the next product */
    const qnet_real *dy, *dh; /* backward: from above, and from the step after through U */
    qnet_real *dc;            /* backward: dc in, dc' out */
    qnet_real *dgates;        /* backward: before the activations */
    double *db;               /* backward: += dgates, in double, as many steps add up */
} qnet__lstm_row;

/* ---- The table of a set ---------------------------------------------------------------------- */

typedef struct qnet__isa {
    size_t columns; /* of a tile */
    void (*tile)(const qnet__tile *t);
    /* `rows` rows from `first` on; their sums are those of a chunk. */
    void (*pass)(const qnet__pass_job *job, size_t first, size_t rows, size_t chunk);
    /* i, j and block: see qnet__winograd_step. NULL: convolutions are direct. */
    void (*winograd)(const qnet__winograd *p, qnet__winograd_step step, ptrdiff_t i, ptrdiff_t j,
                     qnet_real *block);
    void (*maxpool)(const qnet__maxpool *pool, size_t index); /* a row of y or, if any, of dx */
    void (*stem)(const qnet__stem_list *list);
    void (*lstm_forward)(const qnet__lstm_row *row);
    void (*lstm_backward)(const qnet__lstm_row *row);
} qnet__isa;

/* As wide as a number: what comparing lanes gives. */
#if QNET__REAL_IS_DOUBLE
typedef int64_t qnet__lane_int;
#else
typedef int32_t qnet__lane_int;
#endif

/* The names of what a set defines: each stands for one that ends in the set's suffix. */
#define QNET__JOIN_(name, suffix) name##suffix
#define QNET__JOIN(name, suffix) QNET__JOIN_(name, suffix)
#define QNET__ISA(name) QNET__JOIN(name, QNET__SUFFIX)
#define qnet__lanes QNET__ISA(qnet__lanes)
#define qnet__narrow QNET__ISA(qnet__narrow)
#define qnet__wide QNET__ISA(qnet__wide)
#define qnet__lanes_load QNET__ISA(qnet__lanes_load)
#define qnet__lanes_store QNET__ISA(qnet__lanes_store)
#define qnet__lanes_zero QNET__ISA(qnet__lanes_zero)
#define qnet__lanes_all QNET__ISA(qnet__lanes_all)
#define qnet__lanes_fma QNET__ISA(qnet__lanes_fma)
#define qnet__lanes_cut QNET__ISA(qnet__lanes_cut)
#define qnet__lanes_int QNET__ISA(qnet__lanes_int)
#define qnet__lanes_select QNET__ISA(qnet__lanes_select)
#define qnet__lanes_load_part QNET__ISA(qnet__lanes_load_part)
#define qnet__lanes_store_part QNET__ISA(qnet__lanes_store_part)
#define qnet__lanes_to_bits QNET__ISA(qnet__lanes_to_bits)
#define qnet__lanes_of_bits QNET__ISA(qnet__lanes_of_bits)
#define qnet__lanes_gate QNET__ISA(qnet__lanes_gate)
#define qnet__widen QNET__ISA(qnet__widen)
#define qnet__wide_round QNET__ISA(qnet__wide_round)
#define qnet__tile_keep QNET__ISA(qnet__tile_keep)
#define qnet__tile_step QNET__ISA(qnet__tile_step)
#define qnet__tile_rows QNET__ISA(qnet__tile_rows)
#define qnet__tile_run QNET__ISA(qnet__tile_run)
#define qnet__prologue_lanes QNET__ISA(qnet__prologue_lanes)
#define qnet__prologue_channels QNET__ISA(qnet__prologue_channels)
#define qnet__prologue_get QNET__ISA(qnet__prologue_get)
#define qnet__prologue_prefetch QNET__ISA(qnet__prologue_prefetch)
#define qnet__sums QNET__ISA(qnet__sums)
#define qnet__sums_fold QNET__ISA(qnet__sums_fold)
#define qnet__epilogue_lanes QNET__ISA(qnet__epilogue_lanes)
#define qnet__epilogue_channels QNET__ISA(qnet__epilogue_channels)
#define qnet__epilogue_put QNET__ISA(qnet__epilogue_put)
#define qnet__epilogue_prefetch QNET__ISA(qnet__epilogue_prefetch)
#define qnet__epilogue_end QNET__ISA(qnet__epilogue_end)
#define qnet__pass_column QNET__ISA(qnet__pass_column)
#define qnet__pass_columns QNET__ISA(qnet__pass_columns)
#define qnet__pass_run QNET__ISA(qnet__pass_run)
#define qnet__winograd_bt QNET__ISA(qnet__winograd_bt)
#define qnet__winograd_at QNET__ISA(qnet__winograd_at)
#define qnet__winograd_a QNET__ISA(qnet__winograd_a)
#define qnet__winograd_bt2 QNET__ISA(qnet__winograd_bt2)
#define qnet__winograd_at2 QNET__ISA(qnet__winograd_at2)
#define qnet__winograd_axis_of QNET__ISA(qnet__winograd_axis_of)
#define qnet__winograd_tile_in QNET__ISA(qnet__winograd_tile_in)
#define qnet__winograd_transform QNET__ISA(qnet__winograd_transform)
#define qnet__winograd_tile_out QNET__ISA(qnet__winograd_tile_out)
#define qnet__winograd_output QNET__ISA(qnet__winograd_output)
#define qnet__winograd_g QNET__ISA(qnet__winograd_g)
#define qnet__winograd_kernels QNET__ISA(qnet__winograd_kernels)
#define qnet__winograd_gt QNET__ISA(qnet__winograd_gt)
#define qnet__winograd_kernel_gradients QNET__ISA(qnet__winograd_kernel_gradients)
#define qnet__winograd_of_kernels QNET__ISA(qnet__winograd_of_kernels)
#define qnet__winograd_same QNET__ISA(qnet__winograd_same)
#define qnet__winograd_half QNET__ISA(qnet__winograd_half)
#define qnet__winograd_run QNET__ISA(qnet__winograd_run)
#define qnet__maxpool_window QNET__ISA(qnet__maxpool_window)
#define qnet__maxpool_forward QNET__ISA(qnet__maxpool_forward)
#define qnet__maxpool_gather QNET__ISA(qnet__maxpool_gather)
#define qnet__maxpool_backward QNET__ISA(qnet__maxpool_backward)
#define qnet__maxpool_row QNET__ISA(qnet__maxpool_row)
#define qnet__stem_add QNET__ISA(qnet__stem_add)
#define qnet__stem_winners_of QNET__ISA(qnet__stem_winners_of)
#define qnet__lstm_units QNET__ISA(qnet__lstm_units)
#define qnet__lstm_units_back QNET__ISA(qnet__lstm_units_back)
#define qnet__lstm_forward_row QNET__ISA(qnet__lstm_forward_row)
#define qnet__lstm_backward_row QNET__ISA(qnet__lstm_backward_row)
#define qnet__isa_table QNET__ISA(qnet__isa_table)

#define QNET__HAS_WINOGRAD (!QNET__ISA_AT_RUN_TIME || QNET__LANES > 4)
#define QNET__TILE_WIDE (QNET__LANES == 16 || QNET__NEON ? 4 : 2)            /* vectors */
#define QNET__WIDE (QNET__LANES > 4 ? QNET__LANES / 2 : QNET__LANES)         /* doubles */
#define QNET__PASS_VECTORS (QNET__LANES == 16 ? 2 : 4)
#define QNET__STEM_VECTORS (QNET__LANES == 16 ? 6 : 12)                      /* half of all taps */

#if QNET__ISA_AT_RUN_TIME
#define QNET__SUFFIX _avx512
#define QNET__LANES 16
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#include QNET_FILE
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#include QNET_FILE
#pragma GCC pop_options
#endif
#undef QNET__LANES
#undef QNET__SUFFIX
#define QNET__SUFFIX _avx2
#define QNET__LANES 8
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include QNET_FILE
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include QNET_FILE
#pragma GCC pop_options
#endif
#undef QNET__LANES
#undef QNET__SUFFIX
#endif

/* The last set is compiled as the file goes on. */
#define QNET__SUFFIX _plain
#define QNET__LANES QNET__LANES_COMPILED
#endif
#define QNET__LAST_SET

#endif /* QNET_IMPLEMENTATION, continued below */

#ifdef QNET__SUFFIX /* the part that is compiled for each set */

/* ---- Vectors --------------------------------------------------------------------------------- */

#if QNET__LANES > 1
typedef qnet_real qnet__lanes __attribute__((vector_size(QNET__LANES * sizeof(qnet_real))));
typedef qnet__lane_int qnet__lanes_int
    __attribute__((vector_size(QNET__LANES * sizeof(qnet_real))));
typedef qnet_real qnet__narrow __attribute__((vector_size(QNET__WIDE * sizeof(qnet_real))));
typedef double qnet__wide __attribute__((vector_size(QNET__WIDE * sizeof(double))));
#else
typedef qnet_real qnet__lanes, qnet__narrow;
typedef qnet__lane_int qnet__lanes_int;
typedef double qnet__wide;
#endif

QNET__INLINE qnet__lanes qnet__lanes_load(const qnet_real *p)
{
    qnet__lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

QNET__INLINE void qnet__lanes_store(qnet_real *p, qnet__lanes v)
{
    memcpy(p, &v, sizeof v);
}

QNET__INLINE qnet__lanes qnet__lanes_zero(void)
{
    qnet__lanes v;
    memset(&v, 0, sizeof v);
    return v;
}

/* x in all lanes. A difference, as 0 + -0 is 0. */
QNET__INLINE qnet__lanes qnet__lanes_all(qnet_real x)
{
    return x - qnet__lanes_zero();
}

/* x y + z, rounded once where the set has such an instruction. */
QNET__INLINE qnet__lanes qnet__lanes_fma(qnet__lanes x, qnet__lanes y, qnet__lanes z)
{
#if QNET__LANES == 16
    return (qnet__lanes)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)z);
#elif QNET__LANES == 8
    return (qnet__lanes)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z);
#elif QNET__NEON
    return (qnet__lanes)vfmaq_f32((float32x4_t)z, (float32x4_t)x, (float32x4_t)y);
#else
    return x * y + z;
#endif
}

/* v, but 0 where test < 0 (or_zero: <= 0). A NaN in test keeps v. */
QNET__INLINE qnet__lanes qnet__lanes_cut(qnet__lanes v, qnet__lanes test, const int or_zero)
{
#if QNET__LANES > 1
    const qnet__lanes zero = qnet__lanes_zero();
    const __typeof__(v < zero) cut = or_zero ? test <= zero : test < zero;
    return (qnet__lanes)((__typeof__(v < zero))v & ~cut);
#else
    return test < 0 || (or_zero && test == 0) ? 0 : v;
#endif
}

/* yes in the lanes where a comparison holds, else no. */
QNET__INLINE qnet__lanes qnet__lanes_select(qnet__lanes_int holds, qnet__lanes yes, qnet__lanes no)
{
#if QNET__LANES > 1
    return (qnet__lanes)(((qnet__lanes_int)yes & holds) | ((qnet__lanes_int)no & ~holds));
#else
    return holds ? yes : no;
#endif
}

/* `count` numbers at p, and zeros behind them. */
QNET__INLINE qnet__lanes qnet__lanes_load_part(const qnet_real *p, const size_t count)
{
    qnet__lanes v = qnet__lanes_zero();
    memcpy(&v, p, count * sizeof *p);
    return v;
}

/* The first `count` lanes go to p. */
QNET__INLINE void qnet__lanes_store_part(qnet_real *p, qnet__lanes v, const size_t count)
{
    memcpy(p, &v, count * sizeof *p);
}

/* *y = x[QNET__WIDE] in double. */
QNET__INLINE void qnet__widen(const qnet_real *x, qnet__wide *y)
{
    qnet__narrow v;
    memcpy(&v, x, sizeof v);
#if QNET__LANES > 1
    *y = __builtin_convertvector(v, qnet__wide);
#else
    *y = (double)v;
#endif
}

/* y[QNET__WIDE] = x, rounded. */
QNET__INLINE void qnet__wide_round(const qnet__wide *x, qnet_real *y)
{
#if QNET__LANES > 1
    const qnet__narrow v = __builtin_convertvector(*x, qnet__narrow);
#else
    const qnet__narrow v = (qnet_real)*x;
#endif
    memcpy(y, &v, sizeof v);
}

/* ---- The tile -------------------------------------------------------------------------------- */

QNET__INLINE void qnet__tile_keep(qnet_real *c, const qnet__lanes *acc, const int held)
{
    int n;
    QNET__UNROLL
    for (n = 0; n < QNET__TILE_WIDE; n++, c += QNET__LANES)
        qnet__lanes_store(c, (held ? qnet__lanes_load(c) : qnet__lanes_zero()) + acc[n]);
}

/* The micro-kernel, written once. A step is one k: `wide` loads of b, and per row one broadcast of
   a and `wide` multiply-adds. `rows`, `wide` and `turn` are constants after inlining, so that the
   loops over m and n unroll and acc lives in registers; a_step where it is 1, and `beside`, so that
   there are registers for all addresses. A chain's sums go to C (held: are added to what C holds)
   row by row while the next chain begins, so that the multipliers do not wait for them. A sum that
   is stored is never -0, so that it does not matter which products of zeros are left out. */
QNET__INLINE void qnet__tile_step(const qnet__tile *t, const int rows, const int beside,
                                  const qnet_real *const *a, size_t i, const qnet_real *b,
                                  uintptr_t ahead, const qnet__turn turn, int held,
                                  qnet__lanes (*acc)[QNET__TILE_WIDE])
{
    qnet__lanes bk[QNET__TILE_WIDE];
    int m, n;
    QNET__PREFETCH(ahead);
    QNET__UNROLL
    for (n = 0; n < QNET__TILE_WIDE; n++)
        bk[n] = qnet__lanes_load(b + n * QNET__LANES);
    QNET__UNROLL
    for (m = 0; m < rows; m++) {
        const qnet__lanes x = qnet__lanes_all(beside ? a[0][i + (size_t)m] : a[m][i]);
        if (turn == QNET__TURN_CHAIN && held)
            qnet__tile_keep(t->c[m] + t->c_at, acc[m], 1);
        else if (turn == QNET__TURN_CHAIN)
            qnet__tile_keep(t->c[m] + t->c_at, acc[m], 0);
        QNET__UNROLL
        for (n = 0; n < QNET__TILE_WIDE; n++)
            acc[m][n] = turn == QNET__TURN_NONE ? qnet__lanes_fma(x, bk[n], acc[m][n]) : x * bk[n];
    }
}

QNET__INLINE void qnet__tile_rows(const qnet__tile *t, const int rows, const size_t a_step,
                                  const int beside)
{
    const size_t b_step = t->b_step, ahead_step = t->ahead_step;
    const qnet_real *const *a = t->a, *b = t->b[0] + t->b_at;
    size_t i = t->a_at, s = 0, k = 1, end, chain = 1; /* products in acc */
    uintptr_t ahead = t->ahead;
    int m, held = t->accumulate; /* 1: C holds a part of the sum */
    qnet__lanes acc[QNET__TILE_ROWS][QNET__TILE_WIDE];
    qnet__tile_step(t, rows, beside, a, i, b, ahead, QNET__TURN_BEGIN, held, acc);
    i += a_step, b += b_step, ahead += ahead_step;
    for (;;) {
        while (k < t->length) {
            if (chain == t->chain) {
                qnet__tile_step(t, rows, beside, a, i, b, ahead, QNET__TURN_CHAIN, held, acc);
                held = 1, chain = 1;
                k++, i += a_step, b += b_step, ahead += ahead_step;
            }
            end = qnet__min_size(t->length, k + t->chain - chain);
            chain += end - k;
            for (; k < end; k++, i += a_step, b += b_step, ahead += ahead_step) {
                QNET__KEEP_INDEX(i);
                qnet__tile_step(t, rows, beside, a, i, b, ahead, QNET__TURN_NONE, held, acc);
            }
        }
        if (++s == t->segments)
            break;
        a += t->a_rows, b = t->b[s] + t->b_at, i = t->a_at, k = 0;
    }
    QNET__UNROLL
    for (m = 0; m < rows; m++) {
        if (held)
            qnet__tile_keep(t->c[m] + t->c_at, acc[m], 1);
        else
            qnet__tile_keep(t->c[m] + t->c_at, acc[m], 0);
    }
}

static void qnet__tile_run(const qnet__tile *t)
{
    if (t->rows == 6 && t->a_step == 1)
        qnet__tile_rows(t, 6, 1, 0);
    else if (t->rows == 6)
        qnet__tile_rows(t, 6, t->a_step, 1);
    else if (t->rows == 4)
        qnet__tile_rows(t, 4, t->a_step, 0);
    else
        qnet__tile_rows(t, 2, t->a_step, 0);
}

/* ---- Prologue and epilogue of a map, and the pass from memory to memory ---------------------- */

/* What a prologue needs of the channels of a vector; loaded once for many pixels. Here and below
   `count` is QNET__LANES or, at the end of channels that fill no vector, 1. */
typedef struct qnet__prologue_lanes {
    qnet__lanes mean, scale, beta, shift, slope;
} qnet__prologue_lanes;

QNET__INLINE void qnet__prologue_channels(const qnet__prologue *s, const qnet__prologue_kind kind,
                                          ptrdiff_t c, const size_t count,
                                          qnet__prologue_lanes *k)
{
    memset(k, 0, sizeof *k);
    if (kind == QNET__PROLOGUE_PLAIN || s->scale == NULL)
        return;
    k->scale = qnet__lanes_load_part(s->scale + c, count);
    k->mean = qnet__lanes_load_part(s->mean + c, count);
    if (kind == QNET__PROLOGUE_NORMALISED)
        k->beta = qnet__lanes_load_part(s->beta + c, count);
    if (kind == QNET__PROLOGUE_GRADIENT) {
        k->shift = qnet__lanes_load_part(s->shift + c, count);
        k->slope = qnet__lanes_load_part(s->slope + c, count);
    }
}

/* The numbers at offset `at` (of pixel and channel) of the map, whose channels are k's. */
QNET__INLINE qnet__lanes qnet__prologue_get(const qnet__prologue *s, const qnet__prologue_kind kind,
                                            const qnet__prologue_lanes *k, ptrdiff_t at,
                                            const size_t count)
{
    qnet__lanes v = qnet__lanes_load_part(s->x + at, count);
    if (kind == QNET__PROLOGUE_NORMALISED) {
        v = (v - k->mean) * k->scale + k->beta;
        v = qnet__lanes_cut(v, v, 0);
    }
    if (kind == QNET__PROLOGUE_GRADIENT && s->scale != NULL)
        v = k->scale * (v - k->shift -
                        (qnet__lanes_load_part(s->pre + at, count) - k->mean) * k->slope);
    return v;
}

/* Prefetches what will be read at `at`, which may lie outside the map. */
QNET__INLINE void qnet__prologue_prefetch(const qnet__prologue *s, const qnet__prologue_kind kind,
                                          ptrdiff_t at)
{
    QNET__PREFETCH((uintptr_t)s->x + (size_t)at * sizeof(qnet_real));
    if (kind == QNET__PROLOGUE_GRADIENT && s->pre != NULL)
        QNET__PREFETCH((uintptr_t)s->pre + (size_t)at * sizeof(qnet_real));
}

/* Sums of one chunk and the channels of a vector: of at most 16 pixels, and of all the others
   before in double, as rounding errors grow with the length of a chain of additions. */
typedef struct qnet__sums {
    qnet__lanes center, sum1, sum2;
    qnet__wide all1[QNET__LANES / QNET__WIDE], all2[QNET__LANES / QNET__WIDE];
} qnet__sums;

QNET__INLINE void qnet__sums_fold(qnet__sums *sums)
{
    int i;
    for (i = 0; i < QNET__LANES / QNET__WIDE; i++) {
        qnet__wide more;
        qnet__widen((const qnet_real *)&sums->sum1 + i * QNET__WIDE, &more);
        sums->all1[i] += more;
        qnet__widen((const qnet_real *)&sums->sum2 + i * QNET__WIDE, &more);
        sums->all2[i] += more;
    }
    sums->sum1 = sums->sum2 = qnet__lanes_zero();
}

/* What an epilogue needs of the channels of a vector; loaded once for many pixels. */
typedef struct qnet__epilogue_lanes {
    qnet__lanes mean, scale, beta, residual_mean, residual_scale, residual_beta;
} qnet__epilogue_lanes;

QNET__INLINE void qnet__epilogue_channels(const qnet__epilogue *s, const qnet__epilogue_kind kind,
                                          ptrdiff_t c, const size_t count,
                                          qnet__epilogue_lanes *k)
{
    memset(k, 0, sizeof *k);
    if (kind != QNET__EPILOGUE_NORMALISE && kind != QNET__EPILOGUE_GRADIENT)
        return;
    if (s->mean != NULL)
        k->mean = qnet__lanes_load_part(s->mean + c, count);
    if (s->scale != NULL) {
        k->scale = qnet__lanes_load_part(s->scale + c, count);
        k->beta = qnet__lanes_load_part(s->beta + c, count);
    }
    if (s->residual_mean != NULL) {
        k->residual_mean = qnet__lanes_load_part(s->residual_mean + c, count);
        k->residual_scale = qnet__lanes_load_part(s->residual_scale + c, count);
        k->residual_beta = qnet__lanes_load_part(s->residual_beta + c, count);
    }
}

/* v goes to offset `at` (of pixel and channel) of the map, whose channels are k's. */
QNET__INLINE void qnet__epilogue_put(const qnet__epilogue *s, const qnet__epilogue_kind kind,
                                     const qnet__epilogue_lanes *k, ptrdiff_t at,
                                     const size_t count, qnet__lanes v, qnet__sums *sums)
{
    if (kind == QNET__EPILOGUE_MOMENTS) {
        const qnet__lanes d = v - sums->center;
        sums->sum1 += d;
        sums->sum2 += d * d;
    }
    if (kind == QNET__EPILOGUE_NORMALISE) {
        if (s->scale != NULL)
            v = (v - k->mean) * k->scale + k->beta;
        if (s->residual != NULL) {
            qnet__lanes other = qnet__lanes_load_part(s->residual + at, count);
            if (s->residual_mean != NULL)
                other = (other - k->residual_mean) * k->residual_scale + k->residual_beta;
            if (s->residual_relu)
                other = qnet__lanes_cut(other, other, 0);
            v += other;
        }
        if (s->relu)
            v = qnet__lanes_cut(v, v, 0);
    }
    if (kind == QNET__EPILOGUE_GRADIENT) {
        if (s->residual != NULL)
            v += qnet__lanes_load_part(s->residual + at, count);
        if (s->mask != NULL) {
            v = qnet__lanes_cut(v, qnet__lanes_load_part(s->mask + at, count), 1);
        } else if (s->scale != NULL) {
            const qnet__lanes pre = qnet__lanes_load_part(s->pre + at, count);
            v = qnet__lanes_cut(v, (pre - k->mean) * k->scale + k->beta, 1);
        }
        if (s->pre != NULL) {
            sums->sum1 += v;
            sums->sum2 += v * (qnet__lanes_load_part(s->pre + at, count) - k->mean);
        }
    }
    if (s->y != NULL)
        qnet__lanes_store_part(s->y + at, v, count);
}

/* Prefetches what will be read and written at `at`. */
QNET__INLINE void qnet__epilogue_prefetch(const qnet__epilogue *s, const qnet__epilogue_kind kind,
                                          ptrdiff_t at)
{
    if (s->y != NULL)
        QNET__PREFETCH_WRITE((uintptr_t)(s->y + at));
    if ((kind == QNET__EPILOGUE_NORMALISE || kind == QNET__EPILOGUE_GRADIENT) &&
        s->residual != NULL)
        QNET__PREFETCH((uintptr_t)(s->residual + at));
    if (kind == QNET__EPILOGUE_GRADIENT && s->mask != NULL)
        QNET__PREFETCH((uintptr_t)(s->mask + at));
    if (kind == QNET__EPILOGUE_GRADIENT && s->pre != NULL)
        QNET__PREFETCH((uintptr_t)(s->pre + at));
}

/* Stores the sums of a chunk, for the channels of a vector; they were folded last. */
QNET__INLINE void qnet__epilogue_end(const qnet__epilogue *s, const qnet__epilogue_kind kind,
                                     ptrdiff_t at, const size_t count, const qnet__sums *sums)
{
    if (kind == QNET__EPILOGUE_MOMENTS)
        qnet__lanes_store_part(s->center + at, sums->center, count);
    if (kind == QNET__EPILOGUE_MOMENTS || (kind == QNET__EPILOGUE_GRADIENT && s->pre != NULL)) {
        memcpy(s->sum1 + at, sums->all1, count * sizeof *s->sum1);
        memcpy(s->sum2 + at, sums->all2, count * sizeof *s->sum2);
    }
}

/* Rows of a chunk for the channels c of some vectors: their sums stay in registers. */
QNET__INLINE void qnet__pass_column(const qnet__pass_job *job, const qnet__prologue_kind from,
                                    const qnet__epilogue_kind to, size_t first_row, size_t rows,
                                    size_t chunk, ptrdiff_t c, const ptrdiff_t vectors,
                                    const size_t count)
{
    const ptrdiff_t n = (ptrdiff_t)job->channels, first = (ptrdiff_t)first_row * n + c;
    const qnet__prologue prologue = *job->prologue; /* copies: stores to maps cannot change them */
    const qnet__epilogue epilogue = *job->epilogue;
    qnet__prologue_lanes in[QNET__PASS_VECTORS];
    qnet__epilogue_lanes out[QNET__PASS_VECTORS];
    qnet__sums sums[QNET__PASS_VECTORS];
    ptrdiff_t r, k;
    memset(sums, 0, sizeof sums);
    QNET__UNROLL
    for (k = 0; k < vectors; k++) {
        const ptrdiff_t d = k * QNET__LANES;
        qnet__prologue_channels(&prologue, from, c + d, count, &in[k]);
        qnet__epilogue_channels(&epilogue, to, c + d, count, &out[k]);
        if (to == QNET__EPILOGUE_MOMENTS)
            sums[k].center = qnet__prologue_get(&prologue, from, &in[k], first + d, count);
    }
    for (r = 0; r < (ptrdiff_t)rows; r++) {
        QNET__UNROLL
        for (k = 0; k < vectors; k++) {
            const ptrdiff_t at = first + r * n + k * QNET__LANES;
            const qnet__lanes v = qnet__prologue_get(&prologue, from, &in[k], at, count);
            qnet__epilogue_put(&epilogue, to, &out[k], at, count, v, &sums[k]);
        }
        if (r % 16 != 15 && r + 1 < (ptrdiff_t)rows) continue;
        QNET__UNROLL
        for (k = 0; k < vectors; k++)
            qnet__sums_fold(&sums[k]);
    }
    for (k = 0; k < vectors; k++)
        qnet__epilogue_end(&epilogue, to, (ptrdiff_t)chunk * n + c + k * QNET__LANES, count,
                           &sums[k]);
}

/* All channels, two cache lines of a row at once; those that fill none (none in ResNet18) one by
   one. */
QNET__INLINE void qnet__pass_columns(const qnet__pass_job *job, const qnet__prologue_kind from,
                                     const qnet__epilogue_kind to, size_t first, size_t rows,
                                     size_t chunk)
{
    const ptrdiff_t n = (ptrdiff_t)job->channels, step = QNET__PASS_VECTORS * QNET__LANES;
    ptrdiff_t c = 0;
    for (; c + step <= n; c += step)
        qnet__pass_column(job, from, to, first, rows, chunk, c, QNET__PASS_VECTORS, QNET__LANES);
    for (; c < n; c++)
        qnet__pass_column(job, from, to, first, rows, chunk, c, 1, 1);
}

/* One of prologue and epilogue is plain. */
static void qnet__pass_run(const qnet__pass_job *job, size_t first, size_t rows, size_t chunk)
{
    const qnet__prologue_kind plain = QNET__PROLOGUE_PLAIN, from = job->prologue->kind;
    const qnet__epilogue_kind store = QNET__EPILOGUE_PLAIN, to = job->epilogue->kind;
    if (QNET__HAS_TRAINING && from == QNET__PROLOGUE_NORMALISED)
        qnet__pass_columns(job, QNET__PROLOGUE_NORMALISED, store, first, rows, chunk);
    else if (QNET__HAS_TRAINING && from == QNET__PROLOGUE_GRADIENT)
        qnet__pass_columns(job, QNET__PROLOGUE_GRADIENT, store, first, rows, chunk);
    else if (QNET__HAS_TRAINING && to == QNET__EPILOGUE_MOMENTS)
        qnet__pass_columns(job, plain, QNET__EPILOGUE_MOMENTS, first, rows, chunk);
    else if (QNET__HAS_TRAINING && to == QNET__EPILOGUE_GRADIENT)
        qnet__pass_columns(job, plain, QNET__EPILOGUE_GRADIENT, first, rows, chunk);
    else
        qnet__pass_columns(job, plain, QNET__EPILOGUE_NORMALISE, first, rows, chunk);
}

#if QNET__HAS_WINOGRAD
/* ---- Winograd's transforms ---------------------------------------------------------------------

   4x4 outputs Y need 6x6 inputs d. With the kernel g and elementwise products (.),
       Y = A^T [ sum over ci of (G g G^T) . (B^T d B) ] A
   takes 36 multiplications per channel pair where the direct sum takes 144 (Winograd 1980; Lavin &
   Gray 2016). Over all tiles of all images each of the 36 elements is a matrix product,
   m[tile][co] = sum over ci of v[tile][ci] * u[ci][co], by the tile.

   The matrices come from interpolation at the points 0, infinity, a, -a, b and -b. With a = 5/8 and
   b = 3/2 all entries of A and B are exact in binary, and the rounding error of 4x4 tiles is less
   than half of that with the usual 1 and 2. na = 1 / (2 a^2 (a^2 - b^2)), n0 = 1 / (a^2 b^2) and
   nb = 1 / (2 b^2 (b^2 - a^2)):

       B^T = [ a2b2   0     -(a2+b2)  0       1  0 ]       G = [ n0    0     0     ]
             [ 0      a2b2   0       -(a2+b2) 0  1 ]           [ 0     0     1     ]
             [ 0     -a b2  -b2       a       1  0 ]           [ na    na a  na a2 ]
             [ 0      a b2  -b2      -a       1  0 ]           [ na   -na a  na a2 ]
             [ 0     -b a2  -a2       b       1  0 ]           [ nb    nb b  nb b2 ]
             [ 0      b a2  -a2      -b       1  0 ]           [ nb   -nb b  nb b2 ]

       A^T = [ 1  0  1   1   1   1  ]
             [ 0  0  a  -a   b  -b  ]
             [ 0  0  a2  a2  b2  b2 ]
             [ 0  1  a3 -a3  b3 -b3 ]          a2 = a^2, and so on

   n outputs along an axis need n + 2 points only. Maps whose sides are not multiples of 4 are cut
   into tiles of nearly equal sides, 14 into 4 4 3 3: tiles of 3 leave out -b, those of 2 also b.
   They use the same G, so that one transformed kernel serves all. A row of G has the divisor
   (p - q) for every other point q; where q is left out, the row of B^T for p has that factor
   instead: p + b for a side of 3, p^2 - b^2 for a side of 2. Without it the row holds the
   coefficients of the product of (z - q) over the other points q that are kept; that of infinity,
   of all that are kept. A^T keeps n rows and the columns of its points, with the 1 of infinity in
   the last row.

   An axis of 2 pixels in all has zeros at both ends. Its two outputs, g1 d1 + g2 d2 and
   g0 d1 + g1 d2, take 3 points, where tiles of 2 take 4 and the direct sum does too:

       B^T = [ 1  1 ]       G = [ 0  1  0 ]       A^T = [ 1  1  0 ]
             [ 0  1 ]           [ 0 -1  1 ]             [ 1  0  1 ]
             [ 1  0 ]           [ 1 -1  0 ]

   Stride 2: y_o = g0 x_{2o-1} + g1 x_{2o} + g2 x_{2o+1} along an axis. The odd pixels meet the taps
   g0 and g2, as if at stride 1: 4 outputs take the five points 0, infinity, r, -r and t of F(4, 2).
   The even ones meet one, and their 4 products stay as they are; so each of them is a point too,
   with a 1 in B, G and A. That makes 9 points, where the direct sum has 12 products, and 81
   elements for 4x4 outputs, not 144. r = 3/4 and t = 2 are exact in binary, and the rounding error
   is about three quarters of that with the usual 1 and 2. For the odd pixels, with
   m0 = 1 / (r^2 t), mr = 1 / (2 r^2 (r - t)), mm = -1 / (2 r^2 (r + t)), mt = 1 / (t (t^2 - r^2)),

       B^T = [ r2t  -r2  -t    1   0 ]     G = [ m0  0    ]     A^T = [ 1  0  1   1   1  ]
             [ 0     r2t -r2  -t   1 ]         [ 0   1    ]           [ 0  0  r  -r   t  ]
             [ 0    -r t  r-t  1   0 ]         [ mr  mr r ]           [ 0  0  r2  r2  t2 ]
             [ 0     r t -r-t  1   0 ]         [ mm -mm r ]           [ 0  1  r3 -r3  t3 ]
             [ 0    -r2   0    1   0 ]         [ mt  mt t ]

   All points are in the order 0, infinity, r, two even pixels; -r, the third; t, the fourth. So
   tiles of 3 leave out the last two, those of 2 the last four, with factors in B^T as above.

   Gradients, at stride 1. That of the inputs is a convolution of dy with the kernel turned round
   and its channels swapped, so it is the same code. That of the weights: Y is linear in G g G^T, so
       dg = G^T [ sum over tiles of (B^T d B) . (A dY A^T) ] G,
   again a matrix product for each element. */

/* The matrices for one axis. y[k] is at y[k * step]; what y has beyond its length is written too,
   and not used. B^T: y[points] from the pixels x. A^T: y[pixels] from x[points]. A: y[points] from
   x[outputs]. Here for stride 1: rows of a and -a, and of b and -b, share even and odd parts. */
QNET__INLINE void qnet__winograd_bt(int points, const qnet__lanes *x, qnet__lanes *y,
                                    const ptrdiff_t step)
{
    const qnet_real a = (qnet_real)QNET__WINOGRAD_A, a2 = (qnet_real)QNET__WINOGRAD_A2;
    const qnet_real b = (qnet_real)QNET__WINOGRAD_B, b2 = (qnet_real)QNET__WINOGRAD_B2;
    if (points == 6) {
        const qnet__lanes even1 = x[4] - b2 * x[2], odd1 = a * (x[3] - b2 * x[1]);
        const qnet__lanes even3 = x[4] - a2 * x[2], odd3 = b * (x[3] - a2 * x[1]);
        y[0] = x[4] + (a2 * b2 * x[0] - (a2 + b2) * x[2]);
        y[step] = x[5] + (a2 * b2 * x[1] - (a2 + b2) * x[3]);
        y[2 * step] = even1 + odd1;
        y[3 * step] = even1 - odd1;
        y[4 * step] = even3 + odd3;
        y[5 * step] = even3 - odd3;
    } else if (points == 5) {
        const qnet__lanes even = x[3] - b * x[2], odd = a * (x[2] - b * x[1]);
        const qnet__lanes last = x[3] - a2 * x[1];
        y[0] = b * (last - b * (x[2] - a2 * x[0]));
        y[step] = x[4] - a2 * x[2] - b * last;
        y[2 * step] = (b + a) * (even + odd);
        y[3 * step] = (b - a) * (even - odd);
        y[4 * step] = y[5 * step] = 2 * b * last;
    } else if (points == 4) {
        y[0] = -b2 * (x[2] - a2 * x[0]);
        y[step] = x[3] - a2 * x[1];
        y[2 * step] = (a2 - b2) * (x[2] + a * x[1]);
        y[3 * step] = y[4 * step] = y[5 * step] = (a2 - b2) * (x[2] - a * x[1]);
    } else {
        y[0] = x[1] + x[2];
        y[step] = x[2];
        y[2 * step] = y[3 * step] = y[4 * step] = y[5 * step] = x[1];
    }
}

QNET__INLINE void qnet__winograd_at(int points, const qnet__lanes *x, qnet__lanes *y,
                                    const ptrdiff_t step)
{
    const qnet_real a = (qnet_real)QNET__WINOGRAD_A, a2 = (qnet_real)QNET__WINOGRAD_A2;
    const qnet_real b = (qnet_real)QNET__WINOGRAD_B, b2 = (qnet_real)QNET__WINOGRAD_B2;
    const qnet__lanes x3 = x[points > 3 ? 3 : 2];
    const qnet__lanes sum1 = x[2] + x3, difference1 = a * (x[2] - x3);
    if (points == 6) {
        const qnet__lanes sum3 = x[4] + x[5], difference3 = b * (x[4] - x[5]);
        y[0] = x[0] + sum1 + sum3;
        y[step] = difference1 + difference3;
        y[2 * step] = a2 * sum1 + b2 * sum3;
        y[3 * step] = x[1] + (a2 * difference1 + b2 * difference3);
    } else if (points == 5) {
        y[0] = x[0] + sum1 + x[4];
        y[step] = difference1 + b * x[4];
        y[2 * step] = y[3 * step] = x[1] + (a2 * sum1 + b2 * x[4]);
    } else if (points == 4) {
        y[0] = x[0] + sum1;
        y[step] = y[2 * step] = y[3 * step] = x[1] + difference1;
    } else {
        y[0] = x[0] + x[1];
        y[step] = y[2 * step] = y[3 * step] = x[0] + x[2];
    }
}

QNET__INLINE void qnet__winograd_a(int points, const qnet__lanes *x, qnet__lanes *y,
                                   const ptrdiff_t step)
{
    const qnet_real a = (qnet_real)QNET__WINOGRAD_A, a2 = (qnet_real)QNET__WINOGRAD_A2;
    const qnet_real b = (qnet_real)QNET__WINOGRAD_B, b2 = (qnet_real)QNET__WINOGRAD_B2;
    const qnet__lanes even = points > 4 ? x[0] + a2 * x[2] : x[0];
    const qnet__lanes odd = points > 5 ? a * (x[1] + a2 * x[3]) : a * x[1];
    if (points == QNET__WINOGRAD_CLOSED) {
        y[0] = x[0] + x[1];
        y[step] = x[0];
        y[2 * step] = y[3 * step] = y[4 * step] = y[5 * step] = x[1];
        return;
    }
    y[0] = x[0];
    y[step] = x[points - 3];
    y[2 * step] = even + odd;
    y[3 * step] = even - odd;
    if (points == 6) {
        const qnet__lanes even3 = x[0] + b2 * x[2], odd3 = b * (x[1] + b2 * x[3]);
        y[4 * step] = even3 + odd3;
        y[5 * step] = even3 - odd3;
    } else if (points == 5) {
        y[4 * step] = y[5 * step] = x[0] + b * x[1] + b2 * x[2];
    } else {
        y[4 * step] = y[5 * step] = x[0];
    }
}

/* For stride 2, with 9, 7 or 5 points. Pixel k of the odd ones is x[2 k], of the even ones
   x[2 k + 1]. */
QNET__INLINE void qnet__winograd_bt2(int points, const qnet__lanes *x, qnet__lanes *y,
                                     const ptrdiff_t step)
{
    const qnet_real r = (qnet_real)QNET__WINOGRAD_R, r2 = (qnet_real)QNET__WINOGRAD_R2;
    const qnet_real t = (qnet_real)QNET__WINOGRAD_T;
    if (points == 9) {
        const qnet__lanes last = x[6] - r2 * x[2];
        const qnet__lanes even = x[6] - t * x[4], rest = r * (x[4] - t * x[2]);
        y[0] = last - t * (x[4] - r2 * x[0]);
        y[step] = x[8] - r2 * x[4] - t * last;
        y[2 * step] = even + rest;
        y[5 * step] = even - rest;
        y[7 * step] = last;
    } else if (points == 7) {
        y[0] = -t * (x[4] - r2 * x[0]);
        y[step] = x[6] - r2 * x[2];
        y[2 * step] = (r - t) * (x[4] + r * x[2]);
        y[5 * step] = y[7 * step] = -(r + t) * (x[4] - r * x[2]);
    } else {
        y[0] = -r * t * (x[2] - r * x[0]);
        y[step] = x[4] - r * x[2];
        y[2 * step] = y[5 * step] = y[7 * step] = 2 * r * (r - t) * x[2];
    }
    y[3 * step] = x[1];
    y[4 * step] = x[3];
    y[6 * step] = x[points > 5 ? 5 : 3];
    y[8 * step] = x[points > 7 ? 7 : 3];
}

QNET__INLINE void qnet__winograd_at2(int points, const qnet__lanes *x, qnet__lanes *y,
                                     const ptrdiff_t step)
{
    const qnet_real r = (qnet_real)QNET__WINOGRAD_R, r2 = (qnet_real)QNET__WINOGRAD_R2;
    const qnet_real t = (qnet_real)QNET__WINOGRAD_T, t2 = (qnet_real)QNET__WINOGRAD_T2;
    const qnet__lanes sum = x[2] + x[5], difference = r * (x[2] - x[5]);
    if (points == 9) {
        y[0] = x[0] + sum + x[7] + x[3];
        y[step] = difference + t * x[7] + x[4];
        y[2 * step] = r2 * sum + t2 * x[7] + x[6];
        y[3 * step] = x[1] + (r2 * difference + t * t2 * x[7]) + x[8];
    } else if (points == 7) {
        y[0] = x[0] + sum + x[3];
        y[step] = difference + x[4];
        y[2 * step] = y[3 * step] = x[1] + r2 * sum + x[6];
    } else {
        y[0] = x[0] + x[2] + x[3];
        y[step] = y[2 * step] = y[3 * step] = x[1] + r * x[2] + x[4];
    }
}

/* The matrix of a form that a step applies to an axis. */
QNET__INLINE void qnet__winograd_axis_of(const qnet__winograd_form form,
                                         const qnet__winograd_step step, int points,
                                         const qnet__lanes *x, qnet__lanes *y,
                                         const ptrdiff_t next)
{
    const int is_same = form == QNET__WINOGRAD_SAME;
    if (step == QNET__WINOGRAD_INPUT && is_same)
        qnet__winograd_bt(points, x, y, next);
    else if (step == QNET__WINOGRAD_INPUT)
        qnet__winograd_bt2(points, x, y, next);
    else if (step == QNET__WINOGRAD_OUTPUT && is_same)
        qnet__winograd_at(points, x, y, next);
    else if (step == QNET__WINOGRAD_OUTPUT)
        qnet__winograd_at2(points, x, y, next);
    else
        qnet__winograd_a(points, x, y, next);
}

/* The pixels of the next tile come from memory while this one is transformed: column x of size
   pixels is prefetched when the vector QNET__WINOGRAD_AHEAD channels before it is read, which may
   be in the tile before. */
#define QNET__WINOGRAD_AHEAD QNET__WINOGRAD_GROUP

/* v = B^T d B of a tile, to[plane] + channel; or, in step GRADIENT, d = A dY A^T for channels of
   a slab. dY is kept in dy_made (NULL: not) for the gradient of the inputs. full: the tile has 4x4
   outputs, and all loops have constant ends; for stride 1 alone, where most of the time goes. */
QNET__INLINE void qnet__winograd_tile_in(const qnet__winograd *p, const qnet__winograd_step step,
                                         const qnet__winograd_form form,
                                         const qnet__prologue_kind kind, const int full,
                                         const qnet__winograd_view *now,
                                         const qnet__winograd_view *next, qnet_real *to)
{
    const int is_dy = step == QNET__WINOGRAD_GRADIENT, most = qnet__winograd_sizes_of[form].points;
    const int size = is_dy ? QNET__WINOGRAD_OUTPUTS : qnet__winograd_sizes_of[form].in;
    const int fresh = is_dy ? QNET__WINOGRAD_OUTPUTS : qnet__winograd_sizes_of[form].fresh;
    const int columns = full ? size : now->columns;
    const int points_y = full ? most : now->points_y, points_x = full ? most : now->points_x;
    const qnet__prologue from = is_dy ? p->dy : p->from; /* a copy: stores cannot change it */
    qnet_real *const dy_made = p->dy_made;
    const ptrdiff_t channels = is_dy ? p->dst_c : p->src_c, first = is_dy ? p->slab_first : 0;
    const ptrdiff_t end = is_dy && first + p->slab < channels ? first + p->slab : channels;
    const ptrdiff_t plane = is_dy ? p->d_plane : p->v_plane;
    ptrdiff_t c;
    int y, x, i;
    for (c = first; c < end; c += QNET__LANES) {
        const ptrdiff_t ahead = c + QNET__WINOGRAD_AHEAD;
        const ptrdiff_t *coming = ahead < channels ? now->at : next->at;
        qnet__prologue_lanes k;
        qnet__lanes half[QNET__WINOGRAD_MOST * QNET__WINOGRAD_MOST];
        qnet__prologue_channels(&from, kind, c, QNET__LANES, &k);
        for (x = 0; x < columns; x++) {
            qnet__lanes d[QNET__WINOGRAD_MOST];
            for (i = 0; i < size && x >= size - fresh; i++)
                qnet__prologue_prefetch(&from, kind, coming[i * size + x] + ahead % channels);
            QNET__UNROLL
            for (i = 0; i < size; i++) {
                const ptrdiff_t at = now->at[i * size + x];
                d[i] = at < 0 ? qnet__lanes_zero()
                              : qnet__prologue_get(&from, kind, &k, at + c, QNET__LANES);
                if (is_dy && dy_made != NULL && at >= 0)
                    qnet__lanes_store(dy_made + at + c, d[i]);
            }
            qnet__winograd_axis_of(form, step, points_y, d, half + x, size);
        }
        for (y = 0; y < points_y; y++) {
            qnet_real *row = to + y * p->x.points * plane + (c - first);
            qnet__lanes d[QNET__WINOGRAD_MOST];
            qnet__winograd_axis_of(form, step, points_x, half + size * y, d, 1);
            QNET__UNROLL
            for (i = 0; i < most; i++)
                if (i < points_x)
                    qnet__lanes_store(row + i * plane, d[i]);
        }
    }
}

/* The tiles first .. last - 1: to[planes][tile - first][channels]. */
QNET__INLINE void qnet__winograd_transform(const qnet__winograd *p, const qnet__winograd_step step,
                                           const qnet__winograd_form form,
                                           const qnet__prologue_kind kind, ptrdiff_t first,
                                           ptrdiff_t last, qnet_real *to)
{
    const int is_dy = step == QNET__WINOGRAD_GRADIENT, most = qnet__winograd_sizes_of[form].points;
    const qnet__winograd_map *map = is_dy ? &p->out : &p->in;
    qnet__winograd_view now, next;
    qnet__winograd_look(p, first, map, &next);
    for (ptrdiff_t t = first; t < last; t++, to += is_dy ? p->d_row : p->v_row) {
        now = next;
        qnet__winograd_look(p, t + 1 < p->tiles ? t + 1 : t, map, &next);
        if (form == QNET__WINOGRAD_SAME && now.points_y == most && now.points_x == most)
            qnet__winograd_tile_in(p, step, form, kind, 1, &now, &next, to);
        else
            qnet__winograd_tile_in(p, step, form, kind, 0, &now, &next, to);
    }
}

/* Y = A^T m A of a tile, for the group of channels from `channel`, to the epilogue. next: the tile
   whose pixels are prefetched, or NULL: what comes then is another thread's. */
QNET__INLINE void qnet__winograd_tile_out(const qnet__winograd *p, const qnet__winograd_form form,
                                          const qnet__epilogue_kind kind, const int full,
                                          const qnet__winograd_view *now,
                                          const qnet__winograd_view *next, ptrdiff_t channel,
                                          int is_first, const qnet_real *m, qnet__sums *sums)
{
    const qnet__epilogue epilogue = p->epilogue; /* a copy, which stores to the map cannot change */
    const int most = qnet__winograd_sizes_of[form].points;
    const int size = QNET__WINOGRAD_OUTPUTS, rows = full ? size : now->rows;
    const int points_y = full ? most : now->points_y, points_x = full ? most : now->points_x;
    const ptrdiff_t plane = p->m_plane, row = p->x.points * plane;
    ptrdiff_t c;
    int y, x, i;
    for (c = channel; c < channel + QNET__WINOGRAD_GROUP; c += QNET__LANES, sums++) {
        const qnet_real *from = m + (c - channel);
        qnet__sums sum = *sums;
        qnet__epilogue_lanes k;
        qnet__lanes half[QNET__WINOGRAD_OUTPUTS * QNET__WINOGRAD_MOST];
        for (i = 0; i < size * size && next != NULL; i++)
            if (next->at[i] >= 0)
                qnet__epilogue_prefetch(&epilogue, kind, next->at[i] + c);
        qnet__epilogue_channels(&epilogue, kind, c, QNET__LANES, &k);
        for (x = 0; x < points_x; x++, from += plane) {
            qnet__lanes e[QNET__WINOGRAD_MOST];
            QNET__UNROLL
            for (i = 0; i < most; i++)
                e[i] = qnet__lanes_load(i < points_y ? from + i * row : from);
            qnet__winograd_axis_of(form, QNET__WINOGRAD_OUTPUT, points_y, e, half + x, most);
        }
        for (y = 0; y < rows; y++) {
            const ptrdiff_t *at = now->at + size * y;
            qnet__lanes e[QNET__WINOGRAD_OUTPUTS];
            qnet__winograd_axis_of(form, QNET__WINOGRAD_OUTPUT, points_x, half + most * y, e, 1);
            if (kind == QNET__EPILOGUE_MOMENTS && y == 0 && is_first)
                sum.center = e[0];
            QNET__UNROLL
            for (i = 0; i < size; i++)
                if (at[i] >= 0)
                    qnet__epilogue_put(&epilogue, kind, &k, at[i] + c, QNET__LANES, e[i], &sum);
        }
        qnet__sums_fold(&sum);
        *sums = sum;
    }
}

/* All tiles of a block, m[planes][tile][QNET__WINOGRAD_GROUP]. */
QNET__INLINE void qnet__winograd_output(const qnet__winograd *p, const qnet__winograd_form form,
                                        const qnet__epilogue_kind kind, ptrdiff_t block,
                                        ptrdiff_t channel, const qnet_real *m)
{
    const int most = qnet__winograd_sizes_of[form].points;
    const ptrdiff_t first = block * p->block;
    const ptrdiff_t last = first + p->block < p->tiles ? first + p->block : p->tiles;
    qnet__sums sums[QNET__WINOGRAD_GROUP / QNET__LANES];
    qnet__winograd_view now, next;
    size_t rows = 0;
    memset(sums, 0, sizeof sums);
    qnet__winograd_look(p, first, &p->out, &next);
    for (ptrdiff_t t = first; t < last; t++, m += QNET__WINOGRAD_GROUP) {
        const qnet__winograd_view *coming = t + 1 < last ? &next : NULL;
        now = next;
        if (coming != NULL)
            qnet__winograd_look(p, t + 1, &p->out, &next);
        if (form == QNET__WINOGRAD_SAME && now.points_y == most && now.points_x == most)
            qnet__winograd_tile_out(p, form, kind, 1, &now, coming, channel, t == first, m, sums);
        else
            qnet__winograd_tile_out(p, form, kind, 0, &now, coming, channel, t == first, m, sums);
        for (int i = 0; i < QNET__WINOGRAD_OUTPUTS * QNET__WINOGRAD_OUTPUTS; i++)
            rows += now.at[i] >= 0;
    }
    for (ptrdiff_t c = 0; c < QNET__WINOGRAD_GROUP; c += QNET__LANES)
        qnet__epilogue_end(&p->epilogue, kind, block * p->dst_c + channel + c, QNET__LANES,
                           &sums[c / QNET__LANES]);
    if (kind == QNET__EPILOGUE_MOMENTS && channel == 0)
        p->epilogue.rows[block] = rows;
}

/* y[points] = G x[3], in double: the entries of G are not exact in binary, and an error in a kernel
   does not average out over pixels. */
QNET__INLINE void qnet__winograd_g(const qnet__winograd_form form, ptrdiff_t points,
                                   const qnet__wide *x, qnet__wide *y, const ptrdiff_t step)
{
    const double a = QNET__WINOGRAD_A, a2 = a * a, b = QNET__WINOGRAD_B, b2 = b * b;
    if (form != QNET__WINOGRAD_SAME) {
        y[0] = QNET__WINOGRAD_M0 * x[0];
        y[step] = x[2];
        y[2 * step] = QNET__WINOGRAD_MR * (x[0] + QNET__WINOGRAD_R * x[2]);
        y[3 * step] = y[4 * step] = y[6 * step] = y[8 * step] = x[1];
        y[5 * step] = QNET__WINOGRAD_MM * (x[0] - QNET__WINOGRAD_R * x[2]);
        y[7 * step] = QNET__WINOGRAD_MT * (x[0] + QNET__WINOGRAD_T * x[2]);
    } else if (points == QNET__WINOGRAD_CLOSED) {
        y[0] = x[1];
        y[step] = x[2] - x[1];
        y[2 * step] = x[0] - x[1];
    } else {
        const qnet__wide even1 = QNET__WINOGRAD_NA * (x[0] + a2 * x[2]);
        const qnet__wide even3 = QNET__WINOGRAD_NB * (x[0] + b2 * x[2]);
        const qnet__wide odd1 = QNET__WINOGRAD_NA * a * x[1], odd3 = QNET__WINOGRAD_NB * b * x[1];
        y[0] = QNET__WINOGRAD_N0 * x[0];
        y[step] = x[2];
        y[2 * step] = even1 + odd1;
        y[3 * step] = even1 - odd1;
        y[4 * step] = even3 + odd3;
        y[5 * step] = even3 - odd3;
    }
}

/* u = G g G^T, for input channels first .. first + QNET__SQUARE - 1 and the output channels of a
   group; u is that of the group. The lines of u that the next square fills are prefetched. */
QNET__INLINE void qnet__winograd_kernels(const qnet__winograd *p, const qnet__winograd_form form,
                                         ptrdiff_t first, ptrdiff_t group, qnet_real *u)
{
    const ptrdiff_t columns = (ptrdiff_t)p->isa->columns;
    qnet_real g[9][QNET__SQUARE][QNET__SQUARE];
    ptrdiff_t i, c, x, y, at[QNET__WINOGRAD_GROUP]; /* of a column in row `first` of its panel */
    for (c = 0; c < QNET__WINOGRAD_GROUP; c++)
        at[c] = (c / columns * p->src_c + first) * columns + c % columns;
    for (c = 0; c < QNET__WINOGRAD_GROUP; c += QNET__SQUARE) {
        const ptrdiff_t next = (c + QNET__SQUARE) % QNET__WINOGRAD_GROUP;
        const ptrdiff_t strip = next > 0 ? first : first + QNET__SQUARE; /* of the next */
        const ptrdiff_t ahead = at[next] + (strip - first) * columns - at[c]; /* may be beyond u */
        qnet__winograd_gather(p, first, group * QNET__WINOGRAD_GROUP + c,
                              strip < p->src_c ? strip : first,
                              group * QNET__WINOGRAD_GROUP + next, g);
        for (i = 0; i < QNET__SQUARE * QNET__SQUARE; i += QNET__WIDE) {
            const ptrdiff_t row = i / QNET__SQUARE, column = c + i % QNET__SQUARE;
            qnet__wide half[3 * QNET__WINOGRAD_MOST], e[QNET__WINOGRAD_MOST];
            for (x = 0; x < 3; x++) {
                QNET__UNROLL
                for (y = 0; y < 3; y++)
                    qnet__widen(&g[3 * y + x][row][column - c], &e[y]);
                qnet__winograd_g(form, p->y.points, e, half + x, 3);
            }
            for (y = 0; y < p->y.points; y++) {
                qnet_real *to = u + y * p->x.points * p->u_plane + row * columns;
                qnet__winograd_g(form, p->x.points, half + 3 * y, e, 1);
                for (x = 0; x < p->x.points; x++, to += p->u_plane) {
                    QNET__PREFETCH_WRITE((uintptr_t)(to + at[column]) +
                                         (uintptr_t)ahead * sizeof *to);
                    qnet__wide_round(&e[x], to + at[column]);
                }
            }
        }
    }
}

#if QNET__HAS_TRAINING
/* y[3] = G^T x[points], in double too; x is 0 beyond, up to 6. */
QNET__INLINE void qnet__winograd_gt(ptrdiff_t points, const qnet__wide *x, qnet__wide *y,
                                    const ptrdiff_t step)
{
    const double a = QNET__WINOGRAD_A, a2 = a * a, b = QNET__WINOGRAD_B, b2 = b * b;
    if (points == QNET__WINOGRAD_CLOSED) {
        y[0] = x[2];
        y[step] = x[0] - x[1] - x[2];
        y[2 * step] = x[1];
    } else {
        const qnet__wide sum1 = QNET__WINOGRAD_NA * (x[2] + x[3]);
        const qnet__wide sum3 = QNET__WINOGRAD_NB * (x[4] + x[5]);
        y[0] = QNET__WINOGRAD_N0 * x[0] + (sum1 + sum3);
        y[step] = QNET__WINOGRAD_NA * a * (x[2] - x[3]) + QNET__WINOGRAD_NB * b * (x[4] - x[5]);
        y[2 * step] = x[1] + (a2 * sum1 + b2 * sum3);
    }
}

#define QNET__WINOGRAD_DU_AHEAD 128 /* bytes: more planes than the hardware would follow */

/* dg = G^T du G for input channel i and the output channels of a group, where du is the sum of all
   parts; du[0] is that of i and the group. The points are constants where they are 6 or 3. */
QNET__INLINE void qnet__winograd_kernel_gradients(const qnet__winograd *p,
                                                  const ptrdiff_t points_y,
                                                  const ptrdiff_t points_x, ptrdiff_t i,
                                                  ptrdiff_t group, const qnet_real *du)
{
    const ptrdiff_t tap = p->src_c * p->dst_c, most = qnet__winograd_sizes_of[0].points;
    qnet_real *dw = p->dw + i * p->dst_c + group * QNET__WINOGRAD_GROUP;
    ptrdiff_t c, x, y, part;
    for (c = 0; c < QNET__WINOGRAD_GROUP; c += QNET__WIDE) {
        qnet__wide half[3 * QNET__WINOGRAD_MOST], e[QNET__WINOGRAD_MOST];
        memset(half, 0, sizeof half);
        memset(e, 0, sizeof e);
        for (x = 0; x < points_x; x++) {
            QNET__UNROLL
            for (y = 0; y < most; y++) {
                const qnet_real *from = du + (y * points_x + x) * p->du_plane + c;
                if (y >= points_y)
                    continue;
                QNET__PREFETCH((uintptr_t)from + QNET__WINOGRAD_DU_AHEAD);
                qnet__widen(from, &e[y]);
                for (part = 1; part < p->parts; part++) {
                    qnet__wide more;
                    qnet__widen(from + part * p->planes * p->du_plane, &more);
                    e[y] += more;
                }
            }
            qnet__winograd_gt(points_y, e, half + x, QNET__WINOGRAD_MOST);
        }
        for (y = 0; y < 3; y++) {
            qnet__winograd_gt(points_x, half + QNET__WINOGRAD_MOST * y, e, 1);
            QNET__UNROLL
            for (x = 0; x < 3; x++)
                qnet__wide_round(&e[x], dw + (3 * y + x) * tap + c);
        }
    }
}
#endif

/* A step on kernels. In a function of its own, as its arrays would take more than 16 KB of stack
   together with those of the others. */
static QNET__NOINLINE void qnet__winograd_of_kernels(const qnet__winograd *p,
                                                     qnet__winograd_step step, ptrdiff_t i,
                                                     ptrdiff_t j, qnet_real *block)
{
    if (step == QNET__WINOGRAD_KERNELS && p->form == QNET__WINOGRAD_SAME)
        qnet__winograd_kernels(p, QNET__WINOGRAD_SAME, i, j, block);
    else if (step == QNET__WINOGRAD_KERNELS)
        qnet__winograd_kernels(p, QNET__WINOGRAD_HALF, i, j, block);
#if QNET__HAS_TRAINING
    else if (p->planes == 36)
        qnet__winograd_kernel_gradients(p, 6, 6, i, j, block);
    else if (p->planes == 9)
        qnet__winograd_kernel_gradients(p, 3, 3, i, j, block);
    else
        qnet__winograd_kernel_gradients(p, p->y.points, p->x.points, i, j, block);
#endif
}

/* A step on maps, for each kind of prologue or epilogue that a network has; a plain epilogue is a
   norm without a scale, and a plain dy a gradient without one. A function for each form, as
   compilers need much longer for both in one. */
static QNET__NOINLINE void qnet__winograd_same(const qnet__winograd *p, qnet__winograd_step step,
                                               ptrdiff_t i, ptrdiff_t j, qnet_real *block)
{
    const qnet__winograd_form form = QNET__WINOGRAD_SAME;
    const qnet__winograd_step in = QNET__WINOGRAD_INPUT, of_dy = QNET__WINOGRAD_GRADIENT;
    if (QNET__HAS_TRAINING && step == of_dy)
        qnet__winograd_transform(p, of_dy, form, QNET__PROLOGUE_GRADIENT, i, j, block);
    else if (QNET__HAS_TRAINING && step == in && p->from.kind == QNET__PROLOGUE_NORMALISED)
        qnet__winograd_transform(p, in, form, QNET__PROLOGUE_NORMALISED, i, j, block);
    else if (step == in)
        qnet__winograd_transform(p, in, form, QNET__PROLOGUE_PLAIN, i, j, block);
    else if (QNET__HAS_TRAINING && p->epilogue.kind == QNET__EPILOGUE_MOMENTS)
        qnet__winograd_output(p, form, QNET__EPILOGUE_MOMENTS, i, j, block);
    else if (QNET__HAS_TRAINING && p->epilogue.kind == QNET__EPILOGUE_GRADIENT)
        qnet__winograd_output(p, form, QNET__EPILOGUE_GRADIENT, i, j, block);
    else
        qnet__winograd_output(p, form, QNET__EPILOGUE_NORMALISE, i, j, block);
}

static QNET__NOINLINE void qnet__winograd_half(const qnet__winograd *p, qnet__winograd_step step,
                                               ptrdiff_t i, ptrdiff_t j, qnet_real *block)
{
    const qnet__winograd_form form = QNET__WINOGRAD_HALF;
    if (step == QNET__WINOGRAD_INPUT)
        qnet__winograd_transform(p, QNET__WINOGRAD_INPUT, form, QNET__PROLOGUE_PLAIN, i, j, block);
    else if (QNET__HAS_TRAINING && p->epilogue.kind == QNET__EPILOGUE_MOMENTS)
        qnet__winograd_output(p, form, QNET__EPILOGUE_MOMENTS, i, j, block);
    else
        qnet__winograd_output(p, form, QNET__EPILOGUE_NORMALISE, i, j, block);
}

static void qnet__winograd_run(const qnet__winograd *p, qnet__winograd_step step, ptrdiff_t i,
                               ptrdiff_t j, qnet_real *block)
{
    if (step == QNET__WINOGRAD_KERNELS || step == QNET__WINOGRAD_KERNEL_GRADIENTS)
        qnet__winograd_of_kernels(p, step, i, j, block);
    else if (p->form == QNET__WINOGRAD_SAME)
        qnet__winograd_same(p, step, i, j, block);
    else
        qnet__winograd_half(p, step, i, j, block);
}
#endif /* QNET__HAS_WINOGRAD */

/* ---- Max pooling ----------------------------------------------------------------------------- */

/* `count` channels of the output at offset `at`, c and those after it: taps tap[9] at pixels
   x[9][channels]. A later tap wins only if it is larger, or NaN; ReLU can wait for the winner. The
   number of a tap is kept as a qnet_real, so that it is chosen like the maximum. */
QNET__INLINE void qnet__maxpool_window(const qnet__maxpool *pool, const qnet__prologue_kind kind,
                                       const int by_sign, const qnet_real *const *x,
                                       const int *tap, size_t c, size_t at, const size_t count)
{
    const qnet__prologue *s = &pool->x;
    const qnet__lanes zero = qnet__lanes_zero();
    qnet__lanes best = zero, winner = qnet__lanes_all((qnet_real)tap[0]), sign = zero;
    qnet__prologue_lanes k;
    qnet__prologue_channels(s, kind, (ptrdiff_t)c, count, &k);
    if (by_sign)
        sign = qnet__lanes_load_part(pool->sign + c, count);
    for (int t = 0; t < 9; t++) {
        qnet__lanes v = qnet__lanes_load_part(x[t] + c, count);
        qnet__lanes_int better;
        if (kind == QNET__PROLOGUE_NORMALISED)
            v = (v - k.mean) * k.scale + k.beta;
        if (by_sign)
            v *= sign;
        if (t == 0)
            best = v;
        better = (qnet__lanes_int)(v > best) | (qnet__lanes_int)(v != v);
        winner = qnet__lanes_select(better, qnet__lanes_all((qnet_real)tap[t]), winner);
        best = qnet__lanes_select(better, v, best);
    }
    if (kind == QNET__PROLOGUE_NORMALISED)
        best = qnet__lanes_cut(best, best, 0);
    if (by_sign)
        best = qnet__lanes_select((qnet__lanes_int)(sign == zero),
                                  qnet__lanes_load_part(x[0] + c, count), best * sign);
    qnet__lanes_store_part(pool->y + at, best, count);
    if (pool->argmax != NULL) {
        qnet_real won[QNET__LANES];
        qnet__lanes_store(won, winner);
        for (size_t i = 0; i < count; i++)
            pool->argmax[at + i] = (uint8_t)won[i];
    }
}

/* One output row: index = image * out_height + row. The window is clipped to the image, which is
   what padding with -infinity means: where a tap is outside, the one before takes part once more,
   or the first inside; that changes nothing. */
QNET__INLINE void qnet__maxpool_forward(const qnet__maxpool *pool, const qnet__prologue_kind kind,
                                        const int by_sign, size_t index)
{
    const ptrdiff_t height = (ptrdiff_t)pool->height, width = (ptrdiff_t)pool->width;
    const ptrdiff_t image = (ptrdiff_t)(index / pool->out_height);
    const ptrdiff_t y = 2 * (ptrdiff_t)(index % pool->out_height) - 1;
    const size_t n = pool->channels;
    for (size_t ox = 0; ox < pool->out_width; ox++) {
        const size_t at = (index * pool->out_width + ox) * n;
        const ptrdiff_t left = 2 * (ptrdiff_t)ox - 1;
        const qnet_real *x[9];
        size_t c = 0;
        int tap[9], last = (y < 0 ? 3 : 0) + (left < 0 ? 1 : 0);
        for (int t = 0; t < 9; t++) {
            const ptrdiff_t iy = y + t / 3, ix = left + t % 3;
            last = iy >= 0 && iy < height && ix >= 0 && ix < width ? t : last;
            tap[t] = last;
            x[t] = pool->x.x + ((image * height + y + last / 3 - pool->rows_before) * width + left +
                                last % 3) * (ptrdiff_t)n;
        }
        for (; c + QNET__LANES <= n; c += QNET__LANES)
            qnet__maxpool_window(pool, kind, by_sign, x, tap, c, at + c, QNET__LANES);
        for (; c < n; c++)
            qnet__maxpool_window(pool, kind, by_sign, x, tap, c, at + c, 1);
    }
}

#if QNET__HAS_TRAINING
/* n numbers of dx at input pixel (iy, ix): the sum over the at most four windows that hold it.
   Window oy covers rows 2 oy - 1 + (0..2), so iy lies in windows iy / 2 and (iy + 1) / 2. */
QNET__INLINE void qnet__maxpool_gather(const int n, const qnet__maxpool *pool, size_t image,
                                       size_t iy, size_t ix, size_t c, qnet_real *dx)
{
    const size_t last_y = qnet__min_size((iy + 1) / 2, pool->out_height - 1);
    const size_t last_x = qnet__min_size((ix + 1) / 2, pool->out_width - 1);
    qnet_real sum[QNET__WIDTH];
    for (int i = 0; i < n; i++) sum[i] = 0;
    for (size_t oy = iy / 2; oy <= last_y; oy++)
        for (size_t ox = ix / 2; ox <= last_x; ox++) {
            const int tap = (int)(iy + 1 - 2 * oy) * 3 + (int)(ix + 1 - 2 * ox);
            const size_t window = (image * pool->out_height + oy) * pool->out_width + ox;
            const uint8_t *winner = pool->winner + window * pool->channels + c;
            const qnet_real *dy = pool->dy + window * pool->channels + c;
            for (int i = 0; i < n; i++) {
                const qnet_real v = dy[i]; /* read in any case, so that the choice is no branch */
                sum[i] += winner[i] == tap ? v : 0;
            }
        }
    for (int i = 0; i < n; i++) dx[i] = sum[i];
}

/* One row of dx. Gathering gives every number one owner. */
QNET__INLINE void qnet__maxpool_backward(const qnet__maxpool *pool, size_t index)
{
    const size_t image = index / pool->height, iy = index % pool->height, n = pool->channels;
    for (size_t ix = 0; ix < pool->width; ix++) {
        qnet_real *dx = pool->dx + (index * pool->width + ix) * n;
        size_t c = 0;
        for (; c + QNET__WIDTH <= n; c += QNET__WIDTH)
            qnet__maxpool_gather(QNET__WIDTH, pool, image, iy, ix, c, dx + c);
        for (; c < n; c++)
            qnet__maxpool_gather(1, pool, image, iy, ix, c, dx + c);
    }
}
#endif

static void qnet__maxpool_row(const qnet__maxpool *pool, size_t index)
{
#if QNET__HAS_TRAINING
    if (pool->dx != NULL) {
        qnet__maxpool_backward(pool, index);
        return;
    }
#endif
    if (QNET__HAS_TRAINING && pool->sign != NULL)
        qnet__maxpool_forward(pool, QNET__PROLOGUE_PLAIN, 1, index);
    else if (pool->x.kind == QNET__PROLOGUE_PLAIN)
        qnet__maxpool_forward(pool, QNET__PROLOGUE_PLAIN, 0, index);
    else
        qnet__maxpool_forward(pool, QNET__PROLOGUE_NORMALISED, 0, index);
}

/* ---- The gradient of the stem's weights ------------------------------------------------------ */

#if QNET__HAS_TRAINING
/* sum[QNET__STEM_TAPS] += value[i] times the taps at from[i]; some vectors of them at a time. */
QNET__INLINE void qnet__stem_add(const qnet_real *columns, const ptrdiff_t *from,
                                 const qnet_real *value, ptrdiff_t count, double *sum)
{
    const ptrdiff_t step = QNET__STEM_VECTORS * QNET__LANES;
    ptrdiff_t first, i, k;
    for (first = 0; first < QNET__STEM_TAPS; first += step) {
        qnet__lanes v[QNET__STEM_VECTORS];
        qnet_real block[QNET__STEM_VECTORS * QNET__LANES];
        QNET__UNROLL
        for (k = 0; k < QNET__STEM_VECTORS; k++)
            v[k] = qnet__lanes_zero();
        for (i = 0; i < count; i++) {
            const qnet_real *p = columns + from[i] + first;
            QNET__UNROLL
            for (k = 0; k < QNET__STEM_VECTORS; k++)
                v[k] += qnet__lanes_load(p + k * QNET__LANES) * value[i];
        }
        QNET__UNROLL
        for (k = 0; k < QNET__STEM_VECTORS; k++)
            qnet__lanes_store(block + k * QNET__LANES, v[k]);
        for (k = 0; k < step; k++)
            sum[first + k] += (double)block[k];
    }
}

static void qnet__stem_winners_of(const qnet__stem_list *p)
{
    qnet_real value[QNET__STEM_PIECE];
    ptrdiff_t from[QNET__STEM_PIECE], tap[9], c, i, n;
    for (i = 0; i < 9; i++)
        tap[i] = (i / 3 * p->pitch + i % 3) * QNET__STEM_COLUMN;
    for (c = 0; c < 64; c++) {
        for (i = n = 0; i < p->count; i++) {
            value[n] = p->dy[i * 64 + c];
            from[n] = p->place[i] + tap[p->winner[i * 64 + c]];
            n += value[n] != 0;
        }
        qnet__stem_add(p->columns, from, value, n, p->sum + c * QNET__STEM_TAPS);
    }
}
#endif

/* ---- The LSTM's element-wise half: one scan at one step -------------------------------------- */

#if QNET__REAL_IS_DOUBLE

/* Double precision is for reference and takes the C library's. */
static void qnet__lanes_gate(qnet__lanes *x, const int of_tanh)
{
    qnet_real v[QNET__LANES];
    qnet__lanes_store(v, *x);
    for (size_t i = 0; i < QNET__LANES; i++)
        v[i] = of_tanh ? qnet__tanh(v[i]) : qnet__sigmoid(v[i]);
    *x = qnet__lanes_load(v);
}

#else

QNET__INLINE qnet__lanes_int qnet__lanes_to_bits(qnet__lanes x)
{
    qnet__lanes_int bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

QNET__INLINE qnet__lanes qnet__lanes_of_bits(qnet__lanes_int bits)
{
    qnet__lanes x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* *x = tanh(x) or sigma(x).
   sigma(x) = e^x / (1 + e^x) for x < 0, 1 / (1 + e^-x) otherwise: no overflow, and small results
   keep their digits. tanh |x| = -d / (2 + d), d = e^-2|x| - 1. Worst errors over every 257th bit
   pattern of a float: sigma 2.33, tanh 2.49 units in the last place.

   e^-a = 2^-m e^r with m = round(a / ln 2) and |r| <= ln 2 / 2. Beyond a = 104, e^-a is below half
   of the smallest float. ln 2 is taken in two parts, of which the first has 16 bits, so that m
   times it is exact. 2^-m = power * rest, as no float is as small as 2^-150, and the smallest ones
   are to be reached with one rounding, at the end. e^r - 1 = r + r^2 q(r), q fitted (least squares,
   reweighted towards the least maximum) to a relative error of 1.4e-8. */
static QNET__NOINLINE void qnet__lanes_gate(qnet__lanes *x, const int of_tanh)
{
    const qnet__lanes_int sign = qnet__lanes_to_bits(*x) & ~0x7fffffff;
    const qnet__lanes zero = qnet__lanes_zero(), most = qnet__lanes_all(104);
    const qnet__lanes size = qnet__lanes_of_bits(qnet__lanes_to_bits(*x) & 0x7fffffff);
    qnet__lanes a = of_tanh ? 2.0f * size : size, rounded, m, r, q, expm1, power, rest, d;
    qnet__lanes_int bits;
    a = qnet__lanes_select(a > most, most, a); /* NaN stays */
    rounded = a * 1.44269504f + 12582912.0f;   /* 1.5 * 2^23: the sum has no digits below 1 */
    bits = qnet__lanes_to_bits(rounded) & 255; /* m: 1.5 * 2^23 has zeros there */
#if QNET__LANES > 1 /* m of the bits, as x87's `rounded` may have more digits than a float */
    m = __builtin_convertvector(bits, qnet__lanes);
#else
    m = (float)bits;
#endif
    power = qnet__lanes_of_bits((127 - (bits >> 1)) << 23);
    rest = qnet__lanes_of_bits((127 - (bits - (bits >> 1))) << 23);
    r = (m * 0.693145752f - a) + m * 1.42860677e-6f;
    q = r * 0.00139464729f + 0.00836659782f;
    q = q * r + 0.0416662805f;
    q = q * r + 0.166665435f;
    q = q * r + 0.5f;
    expm1 = r + r * r * q;
    if (of_tanh) {
        d = power * expm1 * rest + (power * rest - 1.0f); /* near 0: d = e^r - 1 */
        d = d / (2.0f + d);
        *x = qnet__lanes_of_bits((qnet__lanes_to_bits(d) & 0x7fffffff) | sign);
        return;
    }
    d = (power + power * expm1) * rest;
    *x = qnet__lanes_select(*x < zero, d, qnet__lanes_all(1)) / (1.0f + d);
}

#endif

/* `count` units from j on. */
QNET__INLINE void qnet__lstm_units(const qnet__lstm_row *row, size_t j, const size_t count)
{
    const size_t n = row->hidden;
    qnet__lanes a[4], c, t, h;
    QNET__UNROLL
    for (size_t q = 0; q < 4; q++) /* W x + U h' + b */
        a[q] = qnet__lanes_load_part(row->gates + q * n + j, count) +
               qnet__lanes_load_part(row->uh + q * n + j, count) +
               qnet__lanes_load_part(row->b + q * n + j, count);
    qnet__lanes_gate(&a[0], 0); /* i (1) */
    qnet__lanes_gate(&a[1], 0); /* f (3) */
    qnet__lanes_gate(&a[2], 1); /* g */
    qnet__lanes_gate(&a[3], 0); /* o (2) */
    c = a[1] * qnet__lanes_load_part(row->c_prev + j, count) + a[0] * a[2]; /* c = f c' + i g (4) */
    t = c;
    qnet__lanes_gate(&t, 1);
    h = a[3] * t; /* h = o tanh(c) (5) */
    QNET__UNROLL
    for (size_t q = 0; q < 4; q++) qnet__lanes_store_part(row->gates + q * n + j, a[q], count);
    qnet__lanes_store_part(row->c + j, c, count);
    qnet__lanes_store_part(row->tanh_c + j, t, count);
    qnet__lanes_store_part(row->h + j, h, count);
    qnet__lanes_store_part(row->next_h + j, h, count);
}

static void qnet__lstm_forward_row(const qnet__lstm_row *row)
{
    size_t j = 0;
    for (; j + QNET__LANES <= row->hidden; j += QNET__LANES) qnet__lstm_units(row, j, QNET__LANES);
    for (; j < row->hidden; j++) qnet__lstm_units(row, j, 1);
}

#if QNET__HAS_TRAINING
/* The same units backward. i = sigma(a) gives di/da = i (1 - i), g = tanh(a) gives 1 - g^2. */
QNET__INLINE void qnet__lstm_units_back(const qnet__lstm_row *row, size_t j, const size_t count)
{
    const size_t n = row->hidden;
    const qnet__lanes i = qnet__lanes_load_part(row->gates + j, count);
    const qnet__lanes f = qnet__lanes_load_part(row->gates + n + j, count);
    const qnet__lanes g = qnet__lanes_load_part(row->gates + 2 * n + j, count);
    const qnet__lanes o = qnet__lanes_load_part(row->gates + 3 * n + j, count);
    const qnet__lanes t = qnet__lanes_load_part(row->tanh_c + j, count);
    const qnet__lanes dh = qnet__lanes_load_part(row->dy + j, count) +
                           qnet__lanes_load_part(row->dh + j, count);
    const qnet__lanes c_prev = qnet__lanes_load_part(row->c_prev + j, count);
    const qnet__lanes one = qnet__lanes_all(1);
    /* h = o tanh(c) (5) */
    const qnet__lanes dc = qnet__lanes_load_part(row->dc + j, count) + dh * o * (one - t * t);
    qnet__lanes da[4];
    da[3] = dh * t * o * (one - o);
    /* c = f c' + i g (4) */
    da[0] = dc * g * i * (one - i);
    da[1] = dc * c_prev * f * (one - f);
    da[2] = dc * i * (one - g * g);
    qnet__lanes_store_part(row->dc + j, dc * f, count);
    QNET__UNROLL
    for (size_t q = 0; q < 4; q++) {
        double *db = row->db + q * n + j;
        qnet_real part[QNET__LANES];
        qnet__lanes_store(part, da[q]);
        qnet__lanes_store_part(row->dgates + q * n + j, da[q], count);
        for (size_t k = 0; k < count; k++) db[k] += (double)part[k];
    }
}

static void qnet__lstm_backward_row(const qnet__lstm_row *row)
{
    size_t j = 0;
    for (; j + QNET__LANES <= row->hidden; j += QNET__LANES)
        qnet__lstm_units_back(row, j, QNET__LANES);
    for (; j < row->hidden; j++) qnet__lstm_units_back(row, j, 1);
}
#endif

/* ---- The table ------------------------------------------------------------------------------- */

static const qnet__isa qnet__isa_table = {
    QNET__TILE_WIDE * QNET__LANES, qnet__tile_run, qnet__pass_run,
#if QNET__HAS_WINOGRAD
    qnet__winograd_run,
#else
    NULL,
#endif
    qnet__maxpool_row, QNET__TRAINING(qnet__stem_winners_of), qnet__lstm_forward_row,
    QNET__TRAINING(qnet__lstm_backward_row)
};

#endif /* QNET__SUFFIX */

#ifdef QNET__LAST_SET /* the implementation, continued */
#undef QNET__LAST_SET

#if QNET__HAS_NETWORKS
/* The kernels of a context: the one place where they are chosen. */
static const qnet__isa *qnet__isa_of(const qnet_context *ctx)
{
    const qnet__isa *plain = &qnet__isa_table;
#if QNET__ISA_AT_RUN_TIME
    if (qnet_context_cpu(ctx) == QNET_CPU_AVX512)
        return &qnet__isa_table_avx512;
    if (qnet_context_cpu(ctx) == QNET_CPU_AVX2)
        return &qnet__isa_table_avx2;
#endif
    QNET__UNUSED(ctx);
    return plain;
}
#undef QNET__SUFFIX
#undef QNET__LANES


/* ============================================================================================
   >>gemm: how products are cut into tiles (>>kernels), the packing of the right-hand side, and
   qnet_gemm, C[m][n] = op(A)[m][k] op(B)[k][n] + beta C.
   Relies on >>context >>kernels.
   ============================================================================================ */

/* Rows of the next tile where `rows` are left: 6 or, behind the last of these, 4 and 2, of which
   one row may be beyond. */
static int qnet__tile_size(size_t rows)
{
    return rows >= 6 ? 6 : rows > 2 ? 4 : 2;
}

/* A tile of which only the rows with c[m] != NULL and the first `columns` columns are wanted: by
   way of a block on the stack. */
static QNET__NOINLINE void qnet__run_part(const qnet__isa *isa, const qnet__tile *tile,
                                          size_t columns)
{
    const size_t bytes = columns * sizeof(qnet_real);
    qnet_real block[QNET__TILE_ROWS][QNET__TILE_COLUMNS];
    qnet_real *c[QNET__TILE_ROWS];
    qnet__tile part = *tile;
    int m;
    memset(block, 0, sizeof block);
    for (m = 0; m < tile->rows; m++) {
        c[m] = block[m];
        if (tile->accumulate && tile->c[m] != NULL)
            memcpy(block[m], tile->c[m] + tile->c_at, bytes);
    }
    part.c = c;
    part.c_at = 0;
    isa->tile(&part);
    for (m = 0; m < tile->rows; m++) {
        if (tile->c[m] != NULL)
            memcpy(tile->c[m] + tile->c_at, block[m], bytes);
    }
}

#define QNET__LINE 64 /* bytes of a cache line */

/* While tile number `part` of several goes through a piece of b, its share of the next piece comes
   nearer: with every k a cache line, of rows of `wide` numbers that are `step` numbers apart; one
   after another where the rows follow each other, as the hardware likes best. next: NULL where
   there is none. Nobody should write there meanwhile: the line would be taken from that thread, at
   a loss. */
static void qnet__tile_prefetch(qnet__tile *tile, const qnet_real *next, size_t step, size_t wide,
                           size_t part)
{
    const size_t row = wide * sizeof *next, line = qnet__min_size(row, QNET__LINE);
    tile->ahead = (uintptr_t)tile; /* here already */
    tile->ahead_step = 0;
    if (next != NULL && part * line < row) {
        const size_t before = step == wide ? tile->segments * tile->length : 1;
        tile->ahead = (uintptr_t)next + part * before * line;
        tile->ahead_step = step == wide ? line : step * sizeof *next;
    }
}

/* Asks for what C holds when a tile begins, if it was long ago: the tile adds to it at its end. */
static void qnet__tile_prefetch_sums(const qnet__tile *tile, size_t wide)
{
    size_t at;
    int m;
    for (m = 0; m < tile->rows; m++) {
        for (at = 0; at < wide * sizeof(qnet_real) && tile->c[m] != NULL; at += QNET__LINE)
            QNET__PREFETCH_WRITE((uintptr_t)(tile->c[m] + tile->c_at) + at);
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
        if (valid < p->width)
            memset(dst, 0, p->length * p->width * sizeof(qnet_real));
        if (p->column_step == 1) {
            for (k = 0; k < p->length; k++)
                memcpy(dst + k * p->width, src + k * p->row_step, valid * sizeof(qnet_real));
            continue;
        }
        for (first = 0; first < p->length; first = last) {
            last = qnet__min_size(first + QNET__PACK_RUN, p->length);
            for (j = 0; j < valid; j++) {
                const qnet_real *from = src + j * p->column_step;
                QNET__PREFETCH((uintptr_t)from + last * p->row_step * sizeof *from); /* next run */
                for (k = first; k < last; k++)
                    dst[k * p->width + j] = from[k * p->row_step];
            }
        }
    }
}

static size_t qnet__panels(const qnet__isa *isa, size_t columns)
{
    return columns / isa->columns + (columns % isa->columns != 0);
}

/* Panels that a task works through for each tile of rows: as many as stay in a second-level cache
   beside the rows. A constant, so that the split depends on shapes only. */
#define QNET__PANEL_BYTES ((size_t)384 << 10)

static size_t qnet__panels_per_task(size_t panels, size_t panel_numbers)
{
    const size_t fit = QNET__PANEL_BYTES / sizeof(qnet_real) / qnet__max_size(panel_numbers, 1);
    return qnet__min_size(panels, qnet__max_size(fit, 1));
}

/* The reference: C[i][j] = sum over p of op(A)[i][p] * op(B)[p][j] + beta * C[i][j]. */
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

/* ---- The product: one loop nest over tiles --------------------------------------------------- */

/* A block of rows of C by some panels of columns,

       c[m][j] (+)= sum over s < segments, k < length of a[s][m][k a_step] * b[s][k b_step + j],

   m < rows, j < columns: all products and convolutions of this file. From outside in:

       for each panel of columns                            b_panel from one to the next in b
           for each piece of k, at all segments             a piece of b stays in the first cache
               for each tile of 6 rows                      sums in registers; a where it lies

   Rule of chains. Rounding errors grow with the number of products that are added one to another,
   so a tile adds at most `chain` of them, then adds the sum to C (Higham 2002, sec. 4.2: blocked
   summation). The bits of C depend on where chains begin, and on nothing else: not on the height
   or width of tiles, the number of rows, or the worker. Each piece begins a chain. So a caller may
   choose `piece` and cut segments by the shape of the layer only; and with one segment and a
   multiple of `chain`, as QNET__PIECE is of every chain, a cut changes no bits at all.

   Prefetch. While the tiles of a piece go by, each brings its share of the next piece of b nearer
   (behind the last one `next`); where a comes from far, also rows of a. Few tiles of
   rows, as for one image, wait for b: they take the segments one by one, where each begins a chain,
   so that the next piece is one run of memory. */
typedef struct qnet__product {
    const qnet_real *const *a; /* [segments][a_rows]; rows of a segment may lie anywhere ... */
    int beside;                /* ... or 1: row m is a[s][0] + m, rows <= a_step */
    int cold;                  /* a is in no near cache; a_step is 1, and there is one segment */
    const qnet_real *const *b; /* [segments]: the first panel */
    const qnet_real *next;     /* b of the product that follows, or NULL */
    qnet_real *const *c;       /* [rows] */
    size_t rows, columns, segments, length; /* the last two may be 0, and so are the sums then */
    size_t a_rows, a_step, b_step, b_panel;
    size_t chain, piece;       /* at least 1 */
    int accumulate;            /* 1: adds to what C holds */
} qnet__product;

#define QNET__PIECE ((size_t)QNET__CHAIN_DIRECT) /* of k, mostly: the longest chain */
#define QNET__SEGMENTS 64                        /* of a product at most */

/* The rows of a that follow those of the tile at row `first`: of the next tile in this piece or,
   behind the last one, of the first in the next piece. */
static void qnet__product_prefetch(const qnet__product *p, size_t first, size_t at)
{
    for (size_t m = 0; m < QNET__TILE_ROWS; m++) {
        const size_t row = first + QNET__TILE_ROWS + m;
        const qnet_real *from = row < p->rows ? p->a[row] + at
                                              : p->a[qnet__min_size(m, p->rows - 1)] + at +
                                                    p->piece;
        for (size_t line = 0; line < p->piece * sizeof *from; line += QNET__LINE)
            QNET__PREFETCH((uintptr_t)from + line);
    }
}

static void qnet__multiply(const qnet__isa *isa, const qnet__product *p)
{
    const size_t width = isa->columns, lines = (width * sizeof **p->b - 1) / QNET__LINE + 1;
    const size_t full = p->rows - p->rows % QNET__TILE_ROWS; /* rows in full tiles */
    const qnet_real *tail_a[QNET__SEGMENTS * QNET__TILE_ROWS]; /* those behind; the last again */
    qnet_real *tail_c[QNET__TILE_ROWS];
    size_t panel = 0;
    qnet__tile tile;
    if (p->segments == 0 || p->length == 0) {
        for (size_t m = 0; m < p->rows && !p->accumulate; m++)
            memset(p->c[m], 0, p->columns * sizeof *p->c[m]);
        return;
    }
    for (size_t m = 0; m < QNET__TILE_ROWS && full < p->rows; m++) {
        const size_t row = qnet__min_size(full + m, p->rows - 1);
        tail_c[m] = full + m < p->rows ? p->c[row] : NULL;
        for (size_t s = 0; s < p->segments; s++) {
            tail_a[s * QNET__TILE_ROWS + m] = p->beside ? p->a[s * p->a_rows] + row
                                                        : p->a[s * p->a_rows + row];
        }
    }
    tile.a_step = p->a_step, tile.b_step = p->b_step;
    tile.chain = p->chain;
    tile.segments = p->rows <= 3 * QNET__TILE_ROWS && p->length % p->chain == 0 &&
                    p->piece % p->chain == 0 ? 1 : p->segments;
    for (tile.c_at = 0; tile.c_at < p->columns; tile.c_at += width, panel += p->b_panel) {
        const size_t columns = qnet__min_size(p->columns - tile.c_at, width);
        for (size_t at = 0; at < p->length; at += p->piece)
        for (size_t s = 0; s < p->segments; s += tile.segments) {
            const qnet_real *next = p->next, *next_a = NULL;
            tile.length = qnet__min_size(p->length - at, p->piece);
            tile.b = p->b + s, tile.b_at = panel + at * p->b_step;
            tile.accumulate = p->accumulate || at > 0 || s > 0;
            if (s + tile.segments < p->segments) {
                next = p->b[s + tile.segments] + tile.b_at;
            } else if (at + tile.length < p->length) {
                next = p->b[0] + tile.b_at + tile.length * p->b_step;
                next_a = p->beside ? p->a[0] + (at + tile.length) * p->a_step : NULL;
            } else if (tile.c_at + width < p->columns) {
                next = p->b[0] + panel + p->b_panel;
            }
            for (size_t first = 0, part = 0; first < p->rows; first += (size_t)tile.rows, part++) {
                const int tail = first >= full, beside = p->beside && !tail;
                tile.rows = qnet__tile_size(p->rows - first);
                tile.a_rows = tail ? QNET__TILE_ROWS : p->a_rows;
                tile.a = (tail ? tail_a + (first - full) : beside ? p->a : p->a + first) +
                         s * tile.a_rows;
                tile.a_at = at * p->a_step + (beside ? first : 0);
                tile.beside = beside;
                tile.c = tail ? tail_c + (first - full) : p->c + first;
                if (p->accumulate && at == 0 && s == 0)
                    qnet__tile_prefetch_sums(&tile, width);
                if (p->cold)
                    qnet__product_prefetch(p, first, at);
                if (part < lines) {
                    qnet__tile_prefetch(&tile, next, p->b_step, width, part);
                } else {
                    qnet__tile_prefetch(&tile, next_a, p->a_step, p->rows, part - lines);
                }
                if (columns < width || first + (size_t)tile.rows > p->rows)
                    qnet__run_part(isa, &tile, columns);
                else
                    isa->tile(&tile);
            }
        }
    }
}

/* ---- qnet_gemm ------------------------------------------------------------------------------- */

#define QNET__GEMM_BAND 96 /* rows of C per task: their part of A stays in a second-level cache */

typedef struct qnet__gemm {
    const qnet__isa *isa;
    qnet__product product; /* but for its pointers and the block of C */
    const qnet_real *a, *b;
    qnet_real *c;
    size_t m, n, a_row, ldc;
    size_t panels_per_task, bands;
} qnet__gemm;

static void qnet__gemm_task(void *arg, size_t index, size_t worker)
{
    const qnet__gemm *g = (const qnet__gemm *)arg;
    const size_t panel = index / g->bands * g->panels_per_task, column = panel * g->isa->columns;
    const size_t row = index % g->bands * QNET__GEMM_BAND;
    const qnet_real *a[QNET__GEMM_BAND], *b = g->b + panel * g->product.b_panel;
    qnet_real *c[QNET__GEMM_BAND];
    qnet__product p = g->product;
    QNET__UNUSED(worker);
    p.a = a, p.b = &b, p.c = c;
    p.rows = qnet__min_size(QNET__GEMM_BAND, g->m - row);
    p.columns = qnet__min_size(g->panels_per_task * g->isa->columns, g->n - column);
    for (size_t i = 0; i < p.rows; i++) {
        a[i] = g->a + (row + i) * g->a_row;
        c[i] = g->c + (row + i) * g->ldc + column;
    }
    qnet__multiply(g->isa, &p);
}

/* B is read where it lies when it is in rows of whole panels and so few tiles use it that packing
   would cost more than it saves. */
static int qnet__gemm_packs(const qnet__isa *isa, int trans_b, size_t m, size_t n)
{
    return trans_b || n % isa->columns != 0 || m > 8 * (size_t)QNET__TILE_ROWS;
}

/* (size_t)-1 when the bytes do not fit a size_t: no allocator will have them. */
QNET_API size_t qnet_gemm_scratch(const qnet_context *ctx, int trans_a, int trans_b, size_t m,
                                  size_t n, size_t k)
{
    const qnet__isa *isa = qnet__isa_of(ctx);
    qnet__arena arena = {NULL, 0};
    QNET__UNUSED(trans_a);
    if (QNET__REFERENCE_ONLY || !qnet__gemm_packs(isa, trans_b, m, n))
        return 0;
    if (!qnet__mul(k, isa->columns * sizeof(qnet_real), &k))
        return (size_t)-1;
    qnet__take(&arena, qnet__panels(isa, n), k);
    return arena.at;
}

static void qnet__gemm_fast(qnet_context *ctx, int trans_a, int trans_b, size_t m, size_t n,
                            size_t k, const qnet_real *a, size_t lda, const qnet_real *b,
                            size_t ldb, int accumulate, qnet_real *c, size_t ldc, void *scratch)
{
    qnet__gemm g;
    size_t panels;
    memset(&g, 0, sizeof g);
    g.isa = qnet__isa_of(ctx);
    panels = qnet__panels(g.isa, n);
    g.a = a, g.b = b, g.c = c;
    g.m = m, g.n = n, g.ldc = ldc;
    g.a_row = trans_a ? 1 : lda;
    g.product.a_step = trans_a ? lda : 1, g.product.beside = trans_a;
    g.product.b_step = ldb, g.product.b_panel = g.isa->columns;
    g.product.segments = 1, g.product.length = k;
    g.product.chain = QNET__CHAIN_DIRECT, g.product.piece = k;
    g.product.accumulate = accumulate;
    g.panels_per_task = qnet__panels_per_task(panels, k * g.isa->columns);
    g.bands = (m - 1) / QNET__GEMM_BAND + 1;
    if (qnet__gemm_packs(g.isa, trans_b, m, n)) {
        qnet__packing p;
        p.src = b, p.dst = (qnet_real *)scratch;
        p.blocks = 1, p.length = k, p.columns = n, p.width = g.isa->columns;
        p.block_step = 0;
        p.row_step = trans_b ? 1 : ldb;
        p.column_step = trans_b ? ldb : 1;
        qnet__parallel(ctx, panels, qnet__pack_task, &p);
        g.b = p.dst;
        g.product.b_step = g.isa->columns, g.product.b_panel = k * g.isa->columns;
    }
    qnet__parallel(ctx, ((panels - 1) / g.panels_per_task + 1) * g.bands, qnet__gemm_task, &g);
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
    *done = !QNET__REFERENCE_ONLY && blas->sgemm != NULL;
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

/* *block = scratch, or bytes of fresh memory where scratch is NULL and some are wanted; then *owned
   says so, for qnet__free. */
static qnet_status qnet__borrow(qnet_context *ctx, void *scratch, size_t bytes, const char *what,
                                void **block, void **owned)
{
    *owned = NULL;
    *block = scratch;
    if (scratch == NULL && bytes > 0) {
        *block = *owned = qnet__alloc(ctx, bytes);
        if (*block == NULL)
            return qnet__no_memory(ctx, bytes, what);
    }
    return QNET_OK;
}

QNET_API qnet_status qnet_gemm(qnet_context *ctx, int trans_a, int trans_b, size_t m, size_t n,
                               size_t k, const qnet_real *a, size_t lda, const qnet_real *b,
                               size_t ldb, qnet_real beta, qnet_real *c, size_t ldc, void *scratch)
{
    void *own;
    size_t bytes;
    int done = 0;
    if (ctx == NULL || a == NULL || b == NULL || c == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "gemm: the context or a matrix is NULL");
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
    if (done)
        return QNET_OK;
    if (QNET__REFERENCE_ONLY) {
        qnet__gemm_ref(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
        return QNET_OK;
    }
    bytes = qnet_gemm_scratch(ctx, trans_a, trans_b, m, n, k);
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "the packed matrix of a product", &scratch, &own));
    qnet__gemm_fast(ctx, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta != 0, c, ldc, scratch);
    qnet__free(ctx, own, bytes);
    return QNET_OK;
}

/* ============================================================================================
   >>fuse: a pass over a map x[rows][channels] in memory, with the prologue or the epilogue that
   Winograd's convolutions apply while they read and write (>>kernels); and the channels' sums.
   Relies on >>context >>kernels.
   ============================================================================================ */

/* ---- From memory to memory ------------------------------------------------------------------- */

#define QNET__PASS_NUMBERS 32768 /* of a chunk: it is read once, and stays in L2 if it is written */
#define QNET__PASS_ROWS 512      /* and at most so many rows: bounds the rounding of its sums */

static size_t qnet__pass_chunk_rows(size_t channels)
{
    return qnet__min_size(QNET__PASS_ROWS, qnet__max_size(1, QNET__PASS_NUMBERS / channels));
}

static size_t qnet__pass_chunks(size_t rows, size_t channels)
{
    return (rows - 1) / qnet__pass_chunk_rows(channels) + 1;
}

/* A pass, cut into chunks: one task each. */
typedef struct qnet__pass_call {
    qnet__pass_job job;
    const qnet__isa *isa;
} qnet__pass_call;

static void qnet__pass_task(void *arg, size_t chunk, size_t worker)
{
    const qnet__pass_call *call = (const qnet__pass_call *)arg;
    const size_t rows = qnet__min_size(call->job.chunk_rows,
                                       call->job.rows - chunk * call->job.chunk_rows);
    QNET__UNUSED(worker);
    if (call->job.epilogue->rows != NULL)
        call->job.epilogue->rows[chunk] = rows;
    call->isa->pass(&call->job, chunk * call->job.chunk_rows, rows, chunk);
}

/* epilogue <- prologue over x[rows][channels] in chunks of qnet__pass_chunk_rows. One of them is
   plain. The epilogue's y and residual and the prologue's x may be the same map. */
static void qnet__pass(qnet_context *ctx, const qnet__prologue *prologue, qnet__epilogue *epilogue,
                       size_t rows, size_t channels)
{
    qnet__pass_call call;
    call.job.prologue = prologue, call.job.epilogue = epilogue;
    call.job.rows = rows, call.job.channels = channels;
    call.job.chunk_rows = qnet__pass_chunk_rows(channels);
    call.isa = qnet__isa_of(ctx);
    epilogue->chunks = qnet__pass_chunks(rows, channels);
    qnet__parallel(ctx, epilogue->chunks, qnet__pass_task, &call);
}

/* ---- Sums of all chunks, in order and in double ---------------------------------------------- */

/* Memory for the sums of an epilogue: center, sum1 and sum2[numbers], numbers = chunks * channels
   of the largest map, and rows[chunks]; the rest is 0. Partial sums are in double, for a chunk has
   up to QNET__PASS_ROWS terms and the batch many chunks. */
static qnet__epilogue qnet__epilogue_take_sums(qnet__arena *arena, size_t chunks, size_t numbers)
{
    qnet__epilogue s = qnet__epilogue_plain(NULL);
    s.center = (qnet_real *)qnet__take(arena, numbers, sizeof(qnet_real));
    s.sum1 = (double *)qnet__take(arena, numbers, sizeof(double));
    s.sum2 = (double *)qnet__take(arena, numbers, sizeof(double));
    s.rows = (size_t *)qnet__take(arena, chunks, sizeof(size_t));
    return s;
}

#define QNET__EPILOGUE_CHANNELS 16 /* of a task: a cache line of sums */

typedef struct qnet__epilogue_join {
    const qnet__epilogue *sums; /* of chunks rows of [channels] */
    size_t channels;
    double *first, *second; /* [channels] */
} qnet__epilogue_join;

/* Moments: first = mean, second = biased variance. With n numbers around center, mean_k = center +
   sum1 / n and M_k = sum2 - sum1^2 / n (Chan, Golub & LeVeque 1983), M = sum M_k + n (mean_k -
   mean)^2. Gradient: first = sum of sum1, second = sum of sum2. */
static void qnet__epilogue_join_task(void *arg, size_t index, size_t worker)
{
    const qnet__epilogue_join *job = (const qnet__epilogue_join *)arg;
    const qnet__epilogue *s = job->sums;
    const size_t begin = index * QNET__EPILOGUE_CHANNELS, n = job->channels;
    const size_t end = qnet__min_size(begin + QNET__EPILOGUE_CHANNELS, n);
    size_t k, c;
    double rows = 0;
    QNET__UNUSED(worker);
    for (c = begin; c < end; c++)
        job->first[c] = job->second[c] = 0;
    if (s->kind == QNET__EPILOGUE_GRADIENT) {
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
    for (c = begin; c < end; c++)
        job->first[c] /= rows;
    for (k = 0; k < s->chunks; k++) {
        const double m = (double)s->rows[k];
        for (c = begin; c < end; c++) {
            const double sum = s->sum1[k * n + c];
            const double d = (double)s->center[k * n + c] + sum / m - job->first[c];
            job->second[c] += s->sum2[k * n + c] - sum * sum / m + m * d * d;
        }
    }
    for (c = begin; c < end; c++)
        job->second[c] /= rows;
}

/* first[channels] and second[channels] from the sums of a map's chunks, as above; the same bits for
   any number of workers. */
static void qnet__epilogue_totals(qnet_context *ctx, const qnet__epilogue *sums, size_t channels,
                                  double *first, double *second)
{
    qnet__epilogue_join job;
    job.sums = sums;
    job.channels = channels;
    job.first = first;
    job.second = second;
    qnet__parallel(ctx, (channels - 1) / QNET__EPILOGUE_CHANNELS + 1, qnet__epilogue_join_task,
                   &job);
}

/* ============================================================================================
   >>winograd: 3x3 convolution of stride 1 and 2 by Winograd's minimal filtering: how the tiles of a
   batch are cut, which memory u, v and m take, and what the workers do. The transforms, with their
   mathematics, are those of >>kernels. The reference is that of >>conv: the same equation, in
   another order of sums.
   Relies on >>context >>kernels >>gemm.
   ============================================================================================ */

/* ---- Schedules -------------------------------------------------------------------------------

   With P planes (points of a tile), ci and co channels that come in and go out, a pass makes
       v[P][tiles][ci]  transformed inputs      d[P][tiles][co]  transformed dy, for dw
       u[P][ci][co]     transformed kernels     m[P][tiles][co]  products
   in 2 P tiles ci co FLOPs: P = 36 and 16 outputs make a quarter of the direct sum's. What of it
   is there at a time, and by whom it is made, follows from where it fits. A group is 64 channels,
   a block 12 to 96 tiles: the v and m of one stay in a second-level cache of 1 MB for 64 channels,
   and in the third beyond. "Own" is in the worker's memory; what is shared is made by tasks before.

   y, dx   when                      v                      u          a task
    block  8 blocks a worker or more own, a block           shared     a block: its v, then all
                                                                       groups' m and output
    round  fewer                     shared, <= 9 MB        shared     a block and a group
    group  u > 16 MB, v <= 18 MB,    shared, all tiles (at  own, of    a group: its u, then all
           2 groups a worker         stride 2 a quarter)    a group    blocks

   dw      when                      v and d                du         a task
    part   ci, co <= 64              own, 32 tiles          of a part  a part of the tiles
    round  more                      shared, <= 512 tiles   shared     a plane, a group of ci
    square du > 16 MB, v <= 18 MB    shared, all tiles; d   own,       two groups: du, then dw
                                     of a slab of co        64 x 64

   y and dx have the same bits in all three: each number of m is one product. The sums of dw begin
   a chain in each round, so that its schedule may not depend on the number of workers. */

#define QNET__WINOGRAD_BLOCKS 8         /* for each worker */
#define QNET__WINOGRAD_ROUND 65536      /* tiles * channels of a shared v: 9 MB, 5 at stride 2 */
#define QNET__WINOGRAD_ALL 131072       /* tiles * channels by group or by square, at most */
#define QNET__WINOGRAD_U_MOST 4194304   /* numbers of a u or du as a whole: 16 MB */
#define QNET__WINOGRAD_WEIGHT_TILES 512 /* of a round of dw, at most */
#define QNET__WINOGRAD_PARTS 32         /* of the tiles, where each has a du of its own, at most */
#define QNET__WINOGRAD_BLOCK 96         /* tiles, at most */
#define QNET__WINOGRAD_STRIP 4          /* tiles that a task transforms for a shared v or d */

/* Cuts n outputs into tiles of `most` at most. */
static void qnet__winograd_cut(qnet__winograd_axis *axis, ptrdiff_t n, ptrdiff_t most, int stride)
{
    axis->tiles = (n - 1) / most + 1;
    axis->side = n / axis->tiles;
    axis->large = n % axis->tiles;
    if (axis->side < 2) { /* no smaller tiles: the last goes beyond the map */
        axis->side = 2;
        axis->large = 0;
    }
    axis->few = stride == 2 ? 2 * axis->side + 1 : axis->side + 2;
    axis->points = axis->few + (axis->large > 0 ? stride : 0);
    if (stride == 1 && n == 2)
        axis->points = axis->few = QNET__WINOGRAD_CLOSED;
}

/* Points of all tiles of an axis. */
static int64_t qnet__winograd_points(const qnet__winograd_axis *axis)
{
    return (int64_t)(axis->tiles - axis->large) * axis->few + (int64_t)axis->large * axis->points;
}

/* The steps of v, m and d, which follow from the shape; and how the work is cut. side: the largest
   of the tiles, 4 or 2. */
static void qnet__winograd_geometry(qnet__winograd *p, const qnet__isa *isa,
                                    const qnet_conv2d *s, int side, int backward)
{
    const int out_h = (s->height - 1) / s->stride + 1, out_w = (s->width - 1) / s->stride + 1;
    qnet__winograd_map x, y;
    ptrdiff_t small_y, small_x;
    memset(p, 0, sizeof *p);
    memset(&x, 0, sizeof x);
    p->isa = isa;
    p->form = s->stride == 1 ? QNET__WINOGRAD_SAME : QNET__WINOGRAD_HALF;
    p->backward = backward;
    x.step = s->stride;
    y = x;
    y.step = 1;
    x.height = s->height, x.width = s->width, x.channels = s->in_channels;
    y.height = out_h, y.width = out_w, y.channels = s->out_channels;
    p->in = backward ? y : x;
    p->out = backward ? x : y;
    p->in.border = 1;
    p->in.more = 3 - s->stride;
    p->in.size = qnet__winograd_sizes_of[p->form].in;
    p->out.size = QNET__WINOGRAD_OUTPUTS;
    p->src_c = p->in.channels;
    p->dst_c = p->out.channels;
    qnet__winograd_cut(&p->y, out_h, side, s->stride);
    qnet__winograd_cut(&p->x, out_w, side, s->stride);
    small_y = p->y.tiles - p->y.large, small_x = p->x.tiles - p->x.large;
    p->kind_end[0] = s->batch * small_y * p->x.large;
    p->kind_end[1] = p->kind_end[0] + s->batch * p->y.large * p->x.large;
    p->kind_end[2] = p->kind_end[1] + s->batch * p->y.large * small_x;
    p->kind_end[3] = p->tiles = p->kind_end[2] + s->batch * small_y * small_x;
    p->planes = p->y.points * p->x.points;
    p->block = p->src_c <= 64 ? 12 : 48;
    if (p->src_c >= 512 && p->form == QNET__WINOGRAD_SAME)
        p->block = QNET__WINOGRAD_BLOCK; /* u comes from memory */
    p->blocks = (p->tiles - 1) / p->block + 1;
    p->block = (p->tiles - 1) / p->blocks + 1; /* nearly alike, and whole tiles of rows */
    p->block += (QNET__TILE_ROWS - p->block % QNET__TILE_ROWS) % QNET__TILE_ROWS;
    p->v_row = p->src_c + QNET__WINOGRAD_PAD;
    p->m_plane = (p->block + 1) * QNET__WINOGRAD_GROUP + QNET__WINOGRAD_PAD;
    p->u_plane = p->src_c * QNET__WINOGRAD_GROUP + QNET__WINOGRAD_PAD;
}

/* tiles * channels of a v: `most` for 36 planes, a quarter for the 81 of stride 2. */
static ptrdiff_t qnet__winograd_room(const qnet__winograd *p, ptrdiff_t most)
{
    return p->form == QNET__WINOGRAD_SAME ? most : most / 4;
}

/* u or du is too large for caches, and there are not too many tiles for a few rounds at most. */
static int qnet__winograd_by_channels(const qnet__winograd *p)
{
    const ptrdiff_t channels = p->src_c > p->dst_c ? p->src_c : p->dst_c;
    return p->planes * p->src_c * p->dst_c > QNET__WINOGRAD_U_MOST &&
           p->tiles <= QNET__WINOGRAD_ALL / channels;
}

/* Of the tiles first .. last - 1 those that have a plane, which is point y * x.points + x. */
static void qnet__winograd_range(const qnet__winograd *p, ptrdiff_t plane, ptrdiff_t *first,
                                 ptrdiff_t *last)
{
    const int more_y = plane / p->x.points >= p->y.few;
    const int more_x = plane % p->x.points >= p->x.few;
    const ptrdiff_t begin = more_y ? p->kind_end[0] : 0;
    const ptrdiff_t end = more_x ? p->kind_end[1] : more_y ? p->kind_end[2] : p->tiles;
    *first = *first > begin ? *first : begin;
    *last = *last < end ? *last : end;
}

/* The next round of tiles. */
static void qnet__winograd_next(qnet__winograd *p)
{
    p->first = p->last;
    p->last = p->first + p->round < p->tiles ? p->first + p->round : p->tiles;
}

/* Runs a task for each strip of the round's tiles, which makes v, d or both. */
static void qnet__winograd_strip_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const ptrdiff_t at = (ptrdiff_t)index * QNET__WINOGRAD_STRIP, first = p->first + at;
    const ptrdiff_t end = first + QNET__WINOGRAD_STRIP < p->last ? first + QNET__WINOGRAD_STRIP
                                                                 : p->last;
    QNET__UNUSED(worker);
    if (p->makes_v)
        p->isa->winograd(p, QNET__WINOGRAD_INPUT, first, end, p->v + at * p->v_row);
    if (p->makes_d)
        p->isa->winograd(p, QNET__WINOGRAD_GRADIENT, first, end, p->d + at * p->d_row);
}

static void qnet__winograd_strips(qnet_context *ctx, qnet__winograd *p, int makes_v, int makes_d)
{
    p->makes_v = makes_v, p->makes_d = makes_d;
    qnet__parallel(ctx, (size_t)((p->last - p->first - 1) / QNET__WINOGRAD_STRIP + 1),
                   qnet__winograd_strip_task, p);
}

/* ---- Forward and gradient of the inputs ------------------------------------------------------ */

/* m[plane][row][64] = sum over ci of v[plane][row][ci] * u[plane][ci][64], a row for each of the
   tiles first .. last - 1 that has the plane. A row of m beyond may be written too. u: that of the
   group; next: of the group that is multiplied next. */
static void qnet__winograd_multiply(const qnet__winograd *p, const qnet_real *v, ptrdiff_t first,
                                    ptrdiff_t last, const qnet_real *u, const qnet_real *next,
                                    qnet_real *m)
{
    const qnet_real *a[QNET__WINOGRAD_BLOCK + 1];
    qnet_real *c[QNET__WINOGRAD_BLOCK + 1];
    qnet__product product;
    memset(&product, 0, sizeof product);
    product.a = a, product.a_step = 1, product.cold = p->schedule == QNET__WINOGRAD_BY_GROUP;
    product.b = &u, product.b_step = p->isa->columns;
    product.b_panel = (size_t)p->src_c * p->isa->columns;
    product.c = c, product.columns = QNET__WINOGRAD_GROUP;
    product.segments = 1, product.length = (size_t)p->src_c;
    product.chain = QNET__CHAIN_WINOGRAD, product.piece = QNET__PIECE;
    for (ptrdiff_t k = 0; k < p->planes; k++, u += p->u_plane) {
        ptrdiff_t begin = first, end = last, row;
        qnet__winograd_range(p, k, &begin, &end);
        product.next = k + 1 < p->planes ? u + p->u_plane : next;
        product.rows = 0;
        for (row = begin - first; begin + (ptrdiff_t)product.rows < end || product.rows % 2 != 0;
             row++, product.rows++) {
            a[product.rows] = v + k * p->v_plane + (row < end - first ? row : row - 1) * p->v_row;
            c[product.rows] = m + k * p->m_plane + row * QNET__WINOGRAD_GROUP;
        }
        qnet__multiply(p->isa, &product);
    }
}

/* u of 64 output channels. */
static void qnet__winograd_kernels_of(const qnet__winograd *p, ptrdiff_t group, qnet_real *u)
{
    for (ptrdiff_t ci = 0; ci < p->src_c; ci += QNET__SQUARE)
        p->isa->winograd(p, QNET__WINOGRAD_KERNELS, ci, group, u);
}

/* Some blocks of the round, times some groups. */
static void qnet__winograd_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const int by_block = p->schedule == QNET__WINOGRAD_BY_BLOCK;
    const int by_group = p->schedule == QNET__WINOGRAD_BY_GROUP;
    const ptrdiff_t blocks = (p->last - p->first - 1) / p->block + 1, task = (ptrdiff_t)index;
    const ptrdiff_t group = by_block ? 0 : by_group ? task : task / blocks;
    const ptrdiff_t group_end = by_block ? p->dst_c / QNET__WINOGRAD_GROUP : group + 1;
    const ptrdiff_t block_end = by_block ? task + 1 : by_group ? blocks : task % blocks + 1;
    const ptrdiff_t u_size = p->planes * p->u_plane;
    qnet_real *m = p->m + (ptrdiff_t)worker * p->planes * p->m_plane;
    const qnet_real *u = p->packed + (by_group ? (ptrdiff_t)worker : group) * u_size;
    if (by_group)
        qnet__winograd_kernels_of(p, group, p->u + (ptrdiff_t)worker * u_size);
    for (ptrdiff_t block = by_group ? 0 : block_end - 1; block < block_end; block++) {
        const ptrdiff_t first = p->first + block * p->block;
        const ptrdiff_t last = first + p->block < p->last ? first + p->block : p->last;
        qnet_real *v = p->v + (by_block ? (ptrdiff_t)worker * p->planes * p->v_plane
                                        : (first - p->first) * p->v_row);
        if (by_block)
            p->isa->winograd(p, QNET__WINOGRAD_INPUT, first, last, v);
        for (ptrdiff_t g = group; g < group_end; g++) {
            qnet__winograd_multiply(p, v, first, last, u + (g - group) * u_size,
                                    g + 1 < group_end ? u + (g + 1 - group) * u_size : u, m);
            p->isa->winograd(p, QNET__WINOGRAD_OUTPUT, first / p->block,
                               g * QNET__WINOGRAD_GROUP, m);
        }
    }
}

static void qnet__winograd_kernels_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const ptrdiff_t strips = p->src_c / QNET__SQUARE, group = (ptrdiff_t)index / strips;
    QNET__UNUSED(worker);
    p->isa->winograd(p, QNET__WINOGRAD_KERNELS, (ptrdiff_t)index % strips * QNET__SQUARE,
                       group, p->u + group * p->planes * p->u_plane);
}

/* Takes u, v and m from the arena, which may have no base. packed: u is there already. */
static void qnet__winograd_plan(qnet__winograd *p, qnet__arena *arena, size_t workers, int packed)
{
    const ptrdiff_t most =
        qnet__winograd_room(p, QNET__WINOGRAD_ROUND) / p->src_c / p->block * p->block;
    const ptrdiff_t all = qnet__winograd_room(p, QNET__WINOGRAD_ALL);
    const ptrdiff_t groups = p->dst_c / QNET__WINOGRAD_GROUP;
    const size_t bytes = (size_t)p->planes * sizeof(qnet_real);
    size_t makers = 1, u_makers = (size_t)groups; /* of a v each, of a group's u */
    p->schedule = QNET__WINOGRAD_BY_ROUND;
    if (!packed && qnet__winograd_by_channels(p) && groups >= 2 * (ptrdiff_t)workers) {
        const ptrdiff_t rounds = (p->tiles * p->src_c - 1) / all + 1; /* each transforms all of u */
        p->schedule = QNET__WINOGRAD_BY_GROUP;
        p->round = ((p->tiles - 1) / rounds / p->block + 1) * p->block;
        u_makers = workers;
    } else if (p->blocks < (ptrdiff_t)workers * QNET__WINOGRAD_BLOCKS) {
        p->round = most > 0 ? most : p->block;
    } else {
        p->schedule = QNET__WINOGRAD_BY_BLOCK;
        p->round = p->block;
        makers = workers;
    }
    p->round = p->round < p->tiles ? p->round : p->tiles;
    p->v_plane = p->round * p->v_row + QNET__WINOGRAD_PAD;
    if (!packed)
        p->u = (qnet_real *)qnet__take(arena, u_makers * (size_t)p->u_plane, bytes);
    p->v = (qnet_real *)qnet__take(arena, makers * (size_t)p->v_plane, bytes);
    p->m = (qnet_real *)qnet__take(arena, workers * (size_t)p->m_plane, bytes);
    if (p->schedule == QNET__WINOGRAD_BY_BLOCK)
        p->round = p->tiles;
}

/* u of a kernel w, for forward passes or, with backward = 1, for the gradient of the inputs. */
static void qnet__winograd_pack(qnet_context *ctx, const qnet_conv2d *s, int side, int backward,
                                const qnet_real *w, qnet_real *u)
{
    const qnet__isa *isa = qnet__isa_of(ctx);
    qnet__winograd p;
    qnet__winograd_geometry(&p, isa, s, side, backward);
    p.w = w, p.u = u;
    qnet__parallel(ctx, (size_t)(p.src_c / QNET__SQUARE * (p.dst_c / QNET__WINOGRAD_GROUP)),
                   qnet__winograd_kernels_task, &p);
}

/* Forward (backward = 0) or the gradient of the inputs. x: plain or normalised. u: packed before,
   or NULL. */
static void qnet__winograd_conv(qnet_context *ctx, const qnet_conv2d *s, int side, int backward,
                                const qnet__prologue *x, const qnet_real *w, const qnet_real *u,
                                qnet__epilogue *y, void *scratch)
{
    const qnet__isa *isa = qnet__isa_of(ctx);
    qnet__arena arena = {(unsigned char *)scratch, 0};
    qnet__winograd p;
    qnet__winograd_geometry(&p, isa, s, side, backward);
    qnet__winograd_plan(&p, &arena, qnet__workers(ctx), u != NULL);
    y->chunks = (size_t)p.blocks;
    p.from = *x, p.epilogue = *y, p.w = w;
    p.packed = u != NULL ? u : p.u;
    if (u == NULL && p.schedule != QNET__WINOGRAD_BY_GROUP)
        qnet__winograd_pack(ctx, s, side, backward, w, p.u);
    while (p.last < p.tiles) {
        const int by_block = p.schedule == QNET__WINOGRAD_BY_BLOCK;
        const int by_group = p.schedule == QNET__WINOGRAD_BY_GROUP;
        qnet__winograd_next(&p);
        if (!by_block)
            qnet__winograd_strips(ctx, &p, 1, 0);
        qnet__parallel(ctx, (size_t)((by_group ? 1 : (p.last - p.first - 1) / p.block + 1) *
                                     (by_block ? 1 : p.dst_c / QNET__WINOGRAD_GROUP)),
                       qnet__winograd_task, &p);
    }
}

/* ---- Gradient of the weights ----------------------------------------------------------------- */

/* du[ci][co] (+)= sum of v[tile][ci] * d[tile][co] over the tiles first .. last - 1 that have the
   plane, for a group of ci and `columns` of co. v, d and du are those of the first ci, co and
   tile; du holds the sum of the tiles from `begin`. */
static void qnet__winograd_sum(const qnet__winograd *p, ptrdiff_t plane, ptrdiff_t begin,
                               ptrdiff_t first, ptrdiff_t last, ptrdiff_t columns,
                               const qnet_real *v, const qnet_real *d, qnet_real *du)
{
    qnet_real *c[QNET__WINOGRAD_GROUP];
    ptrdiff_t from = first, end = last;
    qnet__product product;
    qnet__winograd_range(p, plane, &from, &end);
    qnet__winograd_range(p, plane, &begin, &last); /* the first tile in du, if any */
    if (from >= end)
        return;
    v += plane * p->v_plane + (from - first) * p->v_row;
    d += plane * p->d_plane + (from - first) * p->d_row;
    for (ptrdiff_t i = 0; i < QNET__WINOGRAD_GROUP; i++)
        c[i] = du + plane * p->du_plane + i * p->du_row;
    memset(&product, 0, sizeof product);
    product.a = &v, product.a_step = (size_t)p->v_row, product.beside = 1;
    product.b = &d, product.b_step = (size_t)p->d_row, product.b_panel = p->isa->columns;
    product.c = c, product.accumulate = from > begin;
    product.rows = QNET__WINOGRAD_GROUP, product.columns = (size_t)columns;
    product.segments = 1, product.length = (size_t)(end - from);
    product.chain = QNET__CHAIN_WINOGRAD_WEIGHTS, product.piece = QNET__PIECE;
    qnet__multiply(p->isa, &product);
}

/* 0 in the planes of du that no tile from begin to end has. */
static void qnet__winograd_clear(const qnet__winograd *p, ptrdiff_t begin, ptrdiff_t end,
                                 qnet_real *du)
{
    for (ptrdiff_t k = 0; k < p->planes; k++) {
        ptrdiff_t first = begin, last = end;
        qnet__winograd_range(p, k, &first, &last);
        if (first >= last)
            memset(du + k * p->du_plane, 0, (size_t)(p->src_c * p->dst_c) * sizeof *du);
    }
}

/* du of a part of the tiles; or of a plane and a group of ci, in a round; or of a group of ci and
   one of co, and dw of these. */
static void qnet__winograd_weights_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    const int by_part = p->schedule == QNET__WINOGRAD_BY_PART;
    const int by_square = p->schedule == QNET__WINOGRAD_BY_SQUARE;
    const ptrdiff_t slab = p->slab < p->dst_c - p->slab_first ? p->slab : p->dst_c - p->slab_first;
    const ptrdiff_t task = (ptrdiff_t)index, groups = p->src_c / QNET__WINOGRAD_GROUP;
    const ptrdiff_t squares = slab / QNET__WINOGRAD_GROUP; /* in a row */
    const ptrdiff_t plane = by_part || by_square ? 0 : task / groups;
    const ptrdiff_t plane_end = by_part || by_square ? p->planes : plane + 1;
    const ptrdiff_t begin = by_part ? p->tiles * task / p->parts : p->first;
    const ptrdiff_t end = by_part ? p->tiles * (task + 1) / p->parts : p->last;
    const ptrdiff_t ci = QNET__WINOGRAD_GROUP * (by_part ? 0 : by_square ? task / squares
                                                                        : task % groups);
    const ptrdiff_t co = by_square ? task % squares * QNET__WINOGRAD_GROUP : 0;
    const ptrdiff_t maker = by_part ? (ptrdiff_t)worker : 0;
    const ptrdiff_t owner = by_part ? task : by_square ? (ptrdiff_t)worker : 0;
    qnet_real *v = p->v + maker * p->planes * p->v_plane;
    qnet_real *d = p->d + maker * p->planes * p->d_plane;
    qnet_real *du = p->du + owner * p->planes * p->du_plane + (by_square ? 0 : ci * p->du_row);
    ptrdiff_t first, last, k;
    if (by_part)
        qnet__winograd_clear(p, begin, end, du);
    for (first = begin; first < end; first = last) {
        last = by_part && first + p->round < end ? first + p->round : end;
        if (by_part) {
            p->isa->winograd(p, QNET__WINOGRAD_INPUT, first, last, v);
            p->isa->winograd(p, QNET__WINOGRAD_GRADIENT, first, last, d);
        }
        for (k = plane; k < plane_end; k++) {
            qnet__winograd_sum(p, k, by_part ? begin : 0, first, last,
                               by_square ? QNET__WINOGRAD_GROUP : p->dst_c, v + ci, d + co, du);
        }
    }
    for (k = 0; by_square && k < QNET__WINOGRAD_GROUP; k++) {
        p->isa->winograd(p, QNET__WINOGRAD_KERNEL_GRADIENTS, ci + k,
                           (p->slab_first + co) / QNET__WINOGRAD_GROUP, du + k * p->du_row);
    }
}

static void qnet__winograd_kernel_gradients_task(void *arg, size_t index, size_t worker)
{
    const qnet__winograd *p = (const qnet__winograd *)arg;
    qnet_real *du = p->du + (ptrdiff_t)index * p->du_row;
    ptrdiff_t group;
    QNET__UNUSED(worker);
    for (group = 0; group < p->dst_c / QNET__WINOGRAD_GROUP; group++) {
        p->isa->winograd(p, QNET__WINOGRAD_KERNEL_GRADIENTS, (ptrdiff_t)index, group,
                           du + group * QNET__WINOGRAD_GROUP);
    }
}

/* Takes du, v and d from the arena, which may have no base. */
static void qnet__winograd_plan_weights(qnet__winograd *p, qnet__arena *arena, size_t workers)
{
    const ptrdiff_t channels = p->src_c > p->dst_c ? p->src_c : p->dst_c;
    const size_t bytes = (size_t)p->planes * sizeof(qnet_real);
    size_t makers = 1, owners = 1; /* of a v and d each, of a du */
    p->parts = 1;
    p->slab = p->dst_c;
    p->du_row = p->dst_c;
    if (channels <= QNET__WINOGRAD_GROUP) {
        p->schedule = QNET__WINOGRAD_BY_PART;
        p->round = QNET__CHAIN_WINOGRAD_WEIGHTS;
        p->parts = p->tiles / (4 * p->round); /* each long enough to be worth a du of its own */
        p->parts = p->parts < 1 ? 1 : p->parts;
        p->parts = p->parts < QNET__WINOGRAD_PARTS ? p->parts : QNET__WINOGRAD_PARTS;
        makers = workers, owners = (size_t)p->parts;
    } else if (qnet__winograd_by_channels(p)) {
        const ptrdiff_t most = QNET__WINOGRAD_ALL / 2 / p->tiles;
        p->schedule = QNET__WINOGRAD_BY_SQUARE;
        p->round = p->tiles;
        p->slab = most / QNET__WINOGRAD_GROUP * QNET__WINOGRAD_GROUP;
        p->slab = p->slab < QNET__WINOGRAD_GROUP ? QNET__WINOGRAD_GROUP : p->slab;
        p->slab = p->slab < p->dst_c ? p->slab : p->dst_c;
        p->du_row = QNET__WINOGRAD_GROUP;
        owners = workers;
    } else {
        p->schedule = QNET__WINOGRAD_BY_ROUND;
        p->round = QNET__WINOGRAD_ROUND / 2 / channels; /* v and d */
        p->round = p->round < QNET__WINOGRAD_WEIGHT_TILES ? p->round : QNET__WINOGRAD_WEIGHT_TILES;
        p->round = p->round < 16 ? 16 : p->round;
        p->round = p->round < p->tiles ? p->round : p->tiles;
    }
    p->du_plane = QNET__WINOGRAD_PAD + p->du_row * (p->schedule == QNET__WINOGRAD_BY_SQUARE
                                                        ? QNET__WINOGRAD_GROUP : p->src_c);
    p->d_row = p->slab + QNET__WINOGRAD_PAD;
    p->v_plane = p->round * p->v_row + QNET__WINOGRAD_PAD;
    p->d_plane = p->round * p->d_row + QNET__WINOGRAD_PAD;
    p->du = (qnet_real *)qnet__take(arena, owners * (size_t)p->du_plane, bytes);
    p->v = (qnet_real *)qnet__take(arena, makers * (size_t)p->v_plane, bytes);
    p->d = (qnet_real *)qnet__take(arena, makers * (size_t)p->d_plane, bytes);
}

/* At stride 1. dy_made: gets dy as it is computed; one of its own maps, or NULL. */
static void qnet__winograd_weights(qnet_context *ctx, const qnet_conv2d *s, int side,
                                   const qnet__prologue *x, const qnet__prologue *dy,
                                   qnet_real *dy_made, qnet_real *dw, void *scratch)
{
    const qnet__isa *isa = qnet__isa_of(ctx);
    qnet__arena arena = {(unsigned char *)scratch, 0};
    qnet__winograd p;
    qnet__winograd_geometry(&p, isa, s, side, 0);
    qnet__winograd_plan_weights(&p, &arena, qnet__workers(ctx));
    p.from = *x, p.dy = *dy, p.dy_made = dy_made, p.dw = dw;
    if (p.schedule == QNET__WINOGRAD_BY_PART) {
        qnet__parallel(ctx, (size_t)p.parts, qnet__winograd_weights_task, &p);
        p.last = p.tiles;
    }
    while (p.last < p.tiles) {
        qnet__winograd_next(&p);
        for (p.slab_first = 0; p.slab_first < p.dst_c; p.slab_first += p.slab) {
            const ptrdiff_t left = p.dst_c - p.slab_first, slab = left < p.slab ? left : p.slab;
            qnet__winograd_strips(ctx, &p, p.slab_first == 0, 1);
            qnet__parallel(ctx, (size_t)((p.schedule == QNET__WINOGRAD_BY_SQUARE
                                              ? slab / QNET__WINOGRAD_GROUP : p.planes) *
                                         (p.src_c / QNET__WINOGRAD_GROUP)),
                           qnet__winograd_weights_task, &p);
        }
    }
    if (p.schedule != QNET__WINOGRAD_BY_SQUARE)
        qnet__parallel(ctx, (size_t)p.src_c, qnet__winograd_kernel_gradients_task, &p);
}

/* ---- Where it pays --------------------------------------------------------------------------- */

/* The largest side of tiles for a convolution, or 0 where another form is better. Winograd's is for
   strides 1 and 2 with whole groups of 64 channels, and pays where it saves two fifths of the
   multiplications, with QNET__WINOGRAD_TILES or more tiles to be worth the transform of the
   kernels. Where those of 4x4 are fewer, and kernels are transformed `once` for many passes, tiles
   of 2x2 need less memory for u. Stride 2, whose u is larger, needs more tiles, 4 of them in each
   image: so neither choice depends on the batch where that is 16 or more. */
#define QNET__WINOGRAD_TILES 16
#define QNET__WINOGRAD_TILES_2 64 /* for stride 2 */

static int qnet__winograd_side(const qnet_conv2d *s, int once)
{
    const int64_t h = (s->height - 1) / s->stride + 1, w = (s->width - 1) / s->stride + 1;
    const int64_t least = s->stride == 1 ? QNET__WINOGRAD_TILES : QNET__WINOGRAD_TILES_2;
    const int64_t in_image = s->stride == 1 ? 1 : QNET__WINOGRAD_TILES_2 / 16;
    if (s->kernel != 3 || s->stride > 2 || s->padding != 1 ||
        s->in_channels % QNET__WINOGRAD_GROUP != 0 || s->out_channels % QNET__WINOGRAD_GROUP != 0) {
        return 0;
    }
    for (int side = 4; side >= (once && s->stride == 1 ? 2 : 4); side -= 2) {
        qnet__winograd_axis y, x;
        int64_t tiles;
        qnet__winograd_cut(&y, (ptrdiff_t)h, side, s->stride);
        qnet__winograd_cut(&x, (ptrdiff_t)w, side, s->stride);
        tiles = (int64_t)y.tiles * x.tiles;
        if (tiles >= in_image && s->batch * tiles >= least) {
            const int64_t products = qnet__winograd_points(&y) * qnet__winograd_points(&x);
            /* 64 channels of h w numbers can be counted in bytes: so can 9 h w */
            return 5 * products <= 3 * 9 * h * w ? side : 0;
        }
    }
    return 0;
}

/* Scratch of all passes that go this way; as an arena, so that a size that does not fit shows. */
static size_t qnet__winograd_scratch(const qnet_context *ctx, const qnet_conv2d *s, int side)
{
    const qnet__isa *isa = qnet__isa_of(ctx);
    qnet__arena forward = {NULL, 0}, data = {NULL, 0}, weights = {NULL, 0};
    qnet__winograd p;
    qnet__winograd_geometry(&p, isa, s, side, 0);
    qnet__winograd_plan(&p, &forward, qnet__workers(ctx), 0);
    if (QNET__HAS_TRAINING && s->stride == 1) {
        qnet__winograd_geometry(&p, isa, s, side, 1);
        qnet__winograd_plan(&p, &data, qnet__workers(ctx), 0);
        qnet__winograd_geometry(&p, isa, s, side, 0);
        qnet__winograd_plan_weights(&p, &weights, qnet__workers(ctx));
    }
    return qnet__max_size(forward.at, qnet__max_size(data.at, weights.at));
}

/* ============================================================================================
   >>conv: two-dimensional convolution, its gradients, and the way to a BLAS.

   With zero outside x, and without the batch index,
       y[oy][ox][co] = sum over ky, kx, ci of
                       x[oy s + ky - p][ox s + kx - p][ci] * w[ky][kx][ci][co],
   2 k^2 ci co FLOPs for each output pixel, as for both gradients. Algorithms, of which
   qnet__conv_pick chooses by the shape:
     Winograd   >>winograd; 3x3, stride 1 and (forward) 2, whole groups of 64 channels
     direct     the sum as it stands, by qnet__multiply over pixels where they lie, with no copy of
                x: a "sweep" over the pixels of y or dx, one over the pixels that dw adds up
     lowering   x is copied to a matrix with k^2 ci numbers for each output pixel, and the rest is
                qnet_gemm: where there is a BLAS hook, with plain loops in a build with
                QNET_REFERENCE, and for dw of odd numbers of channels
   All of them take a prologue of x and an epilogue of y (qnet__conv_map, qnet__conv_backward).
   Relies on >>context >>kernels >>gemm >>fuse >>winograd.
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
    if (shape == NULL)
        return 0;
    return qnet__conv_out(shape->height, shape->kernel, shape->stride, shape->padding);
}

QNET_API int qnet_conv2d_out_width(const qnet_conv2d *shape)
{
    if (shape == NULL)
        return 0;
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
    if (ctx == NULL || s == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: the context or the shape is NULL", who);
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

static size_t qnet__conv_out_pixels(const qnet_conv2d *s)
{
    return (size_t)s->batch * (size_t)qnet_conv2d_out_height(s) *
           (size_t)qnet_conv2d_out_width(s);
}

static size_t qnet__conv_in_pixels(const qnet_conv2d *s)
{
    return (size_t)s->batch * (size_t)s->height * (size_t)s->width;
}

/* ---- Direct, forward and gradient of the inputs: one sweep over pixels ----------------------- */

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
   the forward sweep with the kernel turned round; stride 2 has four on a map, with no zeros
   inserted. With 3 taps, stride 2 and padding 1, along an axis:
       dx[2g] = dy[g] w[1],    dx[2g + 1] = dy[g + 1] w[0] + dy[g] w[2].
   A phase without taps writes zeros. */
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

/* 1 when tap t of some grid point falls inside the source. */
static int qnet__axis_meets(const qnet__axis *a, ptrdiff_t t)
{
    const ptrdiff_t first = a->src_first + t * a->tap_step;
    const ptrdiff_t last = first + (a->grid - 1) * a->src_step;
    return first < a->src && last >= 0;
}

/* Leaves out taps that are outside at all grid points: on a map of 1x1, eight of 3x3. */
static void qnet__axis_trim(qnet__axis *a)
{
    while (a->taps > 1 && !qnet__axis_meets(a, a->taps - 1))
        a->taps--;
    while (a->taps > 1 && !qnet__axis_meets(a, 0)) {
        a->src_first += a->tap_step, a->kernel_first += a->kernel_step;
        a->taps--;
    }
}

/* A sweep: forward, or (backward = 1) for the gradient of the inputs, one phase at a time. A task
   has a band of grid points, about QNET__SWEEP_PIXELS, and some panels of destination channels; it
   takes QNET__SWEEP_ROWS points at a time, with a table of the pixels under their taps, to
   qnet__multiply. */
typedef struct qnet__sweep {
    const qnet__isa *isa;
    qnet_conv2d shape;
    int backward, add;       /* add: to what dst holds */
    int merged;              /* one segment per kernel row, see qnet__conv_merges */
    int by_place;            /* a small map: pixels at the same place of all images follow each
                                other, so that taps are outside for all rows of a product */
    qnet__axis y, x;         /* of the phase */
    const qnet_real *src;    /* [batch][y.src][x.src][src_c] */
    qnet_real *dst;          /* [batch][y.dst][x.dst][dst_c] */
    const qnet_real *panels; /* [panel][kernel][kernel][src_c][isa->columns]: the weights */
    const qnet_real *zeros;  /* [src_c], or a kernel row of pixels if merged */
    ptrdiff_t src_c, dst_c;
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
    qnet__axis_trim(&p->y);
    qnet__axis_trim(&p->x);
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

#define QNET__SWEEP_TAPS 16    /* of one product; larger kernels add up several */
#define QNET__SWEEP_ROWS 48    /* pixels of one product: a piece of the weights stays in cache */
#define QNET__SWEEP_PIXELS 448 /* of one task, about */
#define QNET__SWEEP_PLACES 64  /* of a small map; larger ones meet their borders less often */
#define QNET__SWEEP_TASKS 16   /* with fewer of them, as for one image, a task has one panel */

/* The segments of a product: where each tap reads, relative to the pixel under tap (0, 0). */
typedef struct qnet__taps {
    ptrdiff_t count, y[QNET__SWEEP_TAPS], x[QNET__SWEEP_TAPS], offset[QNET__SWEEP_TAPS];
    const qnet_real *b[QNET__SWEEP_TAPS]; /* their weights in the first panel */
} qnet__taps;

/* Those of the taps of a phase from number `first` on, row by row of the kernel; merged, a kernel
   row counts as one. panels: where the first panel of the product begins. */
static void qnet__sweep_taps(const qnet__sweep *p, const qnet_real *panels, ptrdiff_t first,
                             qnet__taps *taps)
{
    const ptrdiff_t across = p->merged ? 1 : p->x.taps, left = p->y.taps * across - first;
    taps->count = left < QNET__SWEEP_TAPS ? left : QNET__SWEEP_TAPS;
    taps->b[0] = panels; /* even without taps */
    for (ptrdiff_t s = 0; s < taps->count; s++) {
        const ptrdiff_t u = (first + s) / across, v = (first + s) % across;
        const ptrdiff_t ky = p->y.kernel_first + u * p->y.kernel_step;
        const ptrdiff_t kx = p->x.kernel_first + v * p->x.kernel_step;
        taps->y[s] = u * p->y.tap_step;
        taps->x[s] = v * p->x.tap_step;
        taps->offset[s] = (taps->y[s] * p->x.src + taps->x[s]) * p->src_c;
        taps->b[s] = panels + (ky * p->shape.kernel + kx) * p->src_c *
                                  (ptrdiff_t)p->isa->columns;
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
    const int inside_y = qnet__axis_inside(&p->y, y), inside_x = qnet__axis_inside(&p->x, x);
    for (ptrdiff_t s = 0; s < taps->count; s++, a += QNET__SWEEP_ROWS) {
        const ptrdiff_t ty = y + taps->y[s], tx = x + taps->x[s], from = at + taps->offset[s];
        if (!inside_y && (ty < 0 || ty >= p->y.src)) {
            *a = p->zeros;
        } else if (inside_x || (!p->merged && tx >= 0 && tx < p->x.src)) {
            *a = image + from;
        } else if (!p->merged) {
            *a = p->zeros;
        } else {
            *a = border;
            for (ptrdiff_t v = 0; v < p->x.taps; v++, border += p->src_c) {
                const int inside = x + v >= 0 && x + v < p->x.src;
                memcpy(border, inside ? image + (from + v * p->src_c) : p->zeros,
                       (size_t)p->src_c * sizeof *border);
            }
        }
    }
}

/* The rows of a product, pixels from number `at` on: a[tap][row] and c[row]. Pixels are counted
   image by image or, by place, through all images at the first place, then at the next. */
static void qnet__sweep_rows(const qnet__sweep *p, const qnet__taps *taps, ptrdiff_t at,
                             size_t rows, size_t column, const qnet_real **a, qnet_real **c,
                             qnet_real (*border)[QNET__MERGE])
{
    const ptrdiff_t places = p->y.grid * p->x.grid, batch = p->shape.batch;
    for (size_t row = 0; row < rows; row++, at++) {
        const ptrdiff_t n = p->by_place ? at % batch : at / places;
        const ptrdiff_t place = p->by_place ? at / batch : at % places;
        const ptrdiff_t i = place / p->x.grid, j = place % p->x.grid;
        qnet__sweep_pixel(p, taps, n, i, j, a + row, border[row % QNET__TILE_ROWS]);
        c[row] = p->dst + ((n * p->y.dst + p->y.dst_first + i * p->y.dst_step) * p->x.dst +
                           p->x.dst_first + j * p->x.dst_step) * p->dst_c + column;
    }
}

/* Leaves out the taps of a product that are outside the map for all of its rows. They add chains of
   zeros, so the bits stay. */
static void qnet__sweep_skip(const qnet__sweep *p, const qnet__taps *taps, const qnet_real **a,
                             const qnet_real **b, qnet__product *product)
{
    product->segments = 0;
    for (ptrdiff_t s = 0; s < taps->count; s++) {
        const qnet_real **from = a + s * QNET__SWEEP_ROWS;
        size_t row = 0;
        while (p->by_place && row < product->rows && from[row] == p->zeros)
            row++;
        if (row == product->rows)
            continue;
        memmove(a + product->segments * QNET__SWEEP_ROWS, from, product->rows * sizeof *from);
        b[product->segments++] = taps->b[s];
    }
}

/* The panels panel .. panel_end - 1 of all pixels begin .. end - 1 of a phase. A segment is a tap,
   and a piece QNET__PIECE channels of all taps; merged kernel rows are few and short: there all of
   them are one piece, and a product has one tile of rows. */
static void qnet__sweep_pixels(const qnet__sweep *p, ptrdiff_t begin, ptrdiff_t end, size_t panel,
                               size_t panel_end)
{
    const size_t column = panel * p->isa->columns, src_c = (size_t)p->src_c;
    const size_t block = p->merged ? QNET__TILE_ROWS : QNET__SWEEP_ROWS;
    const ptrdiff_t taps_all = p->y.taps * (p->merged ? 1 : p->x.taps);
    const qnet_real *a[QNET__SWEEP_TAPS * QNET__SWEEP_ROWS], *b[QNET__SWEEP_TAPS];
    qnet_real border[QNET__TILE_ROWS][QNET__MERGE], *c[QNET__SWEEP_ROWS];
    ptrdiff_t first = 0, at;
    qnet__product product;
    qnet__taps taps;
    if (taps_all == 0 && p->add)
        return;
    memset(&product, 0, sizeof product);
    product.a = a, product.a_rows = QNET__SWEEP_ROWS, product.a_step = 1;
    product.b = b, product.b_step = p->isa->columns;
    product.b_panel = (size_t)(p->shape.kernel * p->shape.kernel) * src_c * p->isa->columns;
    product.c = c;
    product.columns = qnet__min_size(panel_end * p->isa->columns, (size_t)p->dst_c) - column;
    product.length = p->merged ? (size_t)p->x.taps * src_c : src_c;
    product.piece = qnet__min_size(product.length, QNET__PIECE);
    product.chain = QNET__CHAIN_DIRECT / product.piece * product.piece;
    do { /* once even without taps, to write zeros */
        qnet__sweep_taps(p, p->panels + panel * product.b_panel, first, &taps);
        product.next = taps.b[0];
        product.accumulate = p->add || first > 0;
        for (at = begin; at < end; at += (ptrdiff_t)block) {
            product.rows = qnet__min_size((size_t)(end - at), block);
            qnet__sweep_rows(p, &taps, at, product.rows, column, a, c, border);
            qnet__sweep_skip(p, &taps, a, b, &product);
            qnet__multiply(p->isa, &product);
        }
        first += taps.count;
    } while (first < taps_all);
}

/* The phases of a band follow each other, as they read the same pixels. */
static void qnet__sweep_task(void *arg, size_t index, size_t worker)
{
    qnet__sweep p = *(const qnet__sweep *)arg;
    const size_t band = index / p.phases % p.bands;
    const size_t panel = index / p.phases / p.bands * p.panels_per_task;
    ptrdiff_t pixels, end;
    QNET__UNUSED(worker);
    qnet__sweep_phase(&p, index % p.phases);
    pixels = p.shape.batch * p.y.grid * p.x.grid;
    end = (ptrdiff_t)((band + 1) * p.band);
    qnet__sweep_pixels(&p, (ptrdiff_t)(band * p.band), end < pixels ? end : pixels, panel,
                       qnet__min_size(panel + p.panels_per_task, p.panel_count));
}

/* Scratch of a sweep: panels[panel][tap][src_c][columns], the packed weights, and zeros[kernel
   src_c], which taps outside the map read. */
static void qnet__sweep_take(qnet__arena *arena, const qnet__isa *isa, const qnet_conv2d *s,
                             ptrdiff_t src_c, ptrdiff_t dst_c, qnet_real **panels,
                             qnet_real **zeros)
{
    const size_t row = (size_t)(s->kernel * src_c) * sizeof(qnet_real);
    *panels = (qnet_real *)qnet__take(arena, qnet__panels(isa, (size_t)dst_c) * isa->columns,
                                      (size_t)s->kernel * row);
    *zeros = (qnet_real *)qnet__take(arena, 1, row);
}

/* The weights in panels; transposed for the gradient of the inputs. */
static void qnet__conv_panels(qnet_context *ctx, const qnet_conv2d *s, int backward,
                              const qnet_real *w, qnet_real *panels)
{
    const size_t in = (size_t)s->in_channels, out = (size_t)s->out_channels;
    const qnet__isa *isa = qnet__isa_of(ctx);
    qnet__packing packing;
    packing.src = w, packing.dst = panels, packing.width = isa->columns;
    packing.blocks = (size_t)s->kernel * (size_t)s->kernel, packing.block_step = in * out;
    packing.length = backward ? out : in, packing.columns = backward ? in : out;
    packing.row_step = backward ? 1 : out, packing.column_step = backward ? out : 1;
    qnet__parallel(ctx, qnet__panels(isa, packing.columns), qnet__pack_task, &packing);
}

/* Forward: y from x. Backward: dx from dy, with the weights transposed in the packing; with `add`,
   added to what dx holds. packed: the weights as qnet__conv_panels left them, or NULL. */
static qnet__sweep qnet__sweep_begin(qnet_context *ctx, const qnet_conv2d *s, int backward, int add,
                                     const qnet_real *src, const qnet_real *w,
                                     const qnet_real *packed, qnet_real *dst, qnet__arena *arena)
{
    const ptrdiff_t step = backward ? s->stride : 1, taps = (s->kernel - 1) / step + 1;
    qnet_real *panels, *zeros;
    qnet__sweep p;
    p.isa = qnet__isa_of(ctx);
    p.shape = *s;
    p.backward = backward;
    p.add = add;
    p.merged = !backward && qnet__conv_merges(s);
    p.src = src, p.src_c = backward ? s->out_channels : s->in_channels;
    p.by_place = s->height * (int64_t)s->width <= QNET__SWEEP_PLACES &&
                 (size_t)p.src_c % QNET__PIECE == 0;
    p.dst = dst, p.dst_c = backward ? s->in_channels : s->out_channels;
    qnet__sweep_take(arena, p.isa, s, p.src_c, p.dst_c, &panels, &zeros);
    memset(zeros, 0, (size_t)(s->kernel * p.src_c) * sizeof *zeros);
    p.panels = packed != NULL ? packed : panels, p.zeros = zeros;
    if (packed == NULL)
        qnet__conv_panels(ctx, s, backward, w, panels);
    p.panel_count = qnet__panels(p.isa, (size_t)p.dst_c);
    p.phases_x = (size_t)qnet__min_int(backward ? s->stride : 1, s->width);
    p.phases = (size_t)qnet__min_int(backward ? s->stride : 1, s->height) * p.phases_x;
    qnet__sweep_phase(&p, 0); /* the largest */
    p.band = (size_t)(p.x.grid * ((QNET__SWEEP_PIXELS - 1) / p.x.grid + 1));
    p.bands = ((size_t)(s->batch * p.y.grid * p.x.grid) - 1) / p.band + 1;
    p.panels_per_task = qnet__panels_per_task(p.panel_count, (size_t)(taps * taps * p.src_c) *
                                                                 p.isa->columns);
    if (p.bands * p.phases * p.panel_count / p.panels_per_task < QNET__SWEEP_TASKS)
        p.panels_per_task = 1;
    return p;
}

static void qnet__conv_sweep(qnet_context *ctx, const qnet_conv2d *s, int backward, int add,
                             const qnet_real *src, const qnet_real *w, const qnet_real *packed,
                             qnet_real *dst, void *scratch)
{
    qnet__arena arena = {(unsigned char *)scratch, 0};
    qnet__sweep p = qnet__sweep_begin(ctx, s, backward, add, src, w, packed, dst, &arena);
    qnet__parallel(ctx, ((p.panel_count - 1) / p.panels_per_task + 1) * p.bands * p.phases,
                   qnet__sweep_task, &p);
}

/* ---- Direct, gradient of the weights --------------------------------------------------------- */

/* dw[ky][kx][ci][co] = sum over output pixels of x[pixel under the tap][ci] dy[co]: a product whose
   k goes over pixels, a segment per row of a map, a row per ci; x and dy are both read in place. A
   task has a panel of co, some ci and all taps, and one of `groups` ranges of output rows (counted
   over all images), in chunks of rows whose x stays in cache. Each group has a partial sum of its
   own; they are added in the order of the groups, whose number depends on the shape only. For
   whole panels of co; other shapes are lowered. */
typedef struct qnet__weight_sweep {
    const qnet__isa *isa;
    qnet_conv2d shape;
    const qnet_real *x, *dy;
    qnet_real *partial; /* [groups][kernel * kernel * in_channels][out_channels]; dw if one group */
    qnet_real *dw;      /* [kernel * kernel * in_channels][out_channels] */
    ptrdiff_t out_h, out_w, rows, rows_per_group, rows_per_chunk;
    ptrdiff_t channels; /* ci of a task */
    size_t panels, slices, groups; /* slices: of ci */
} qnet__weight_sweep;

#define QNET__CHUNK_PIXELS 448            /* of a chunk, about */
#define QNET__CHUNK_BYTES ((ptrdiff_t)288 << 10) /* of x in a chunk, about */
#define QNET__DW_BYTES ((ptrdiff_t)160 << 10) /* of dw in the work of one task */
#define QNET__DW_TASKS 32                 /* wanted, by grouping rows */
#define QNET__DW_ROWS 96                  /* ci of a product: whole tiles */
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

/* The segments of a tap over the output rows row .. row_end - 1, where it is inside: a[s] is x at
   channel ci of the first pixel, b[s] dy there at the first column of the panel. */
static void qnet__weight_segments(const qnet__weight_sweep *p, ptrdiff_t tap, ptrdiff_t row,
                                  ptrdiff_t row_end, ptrdiff_t ci, size_t panel,
                                  qnet__product *product, const qnet_real **a, const qnet_real **b)
{
    const qnet_conv2d *s = &p->shape;
    const ptrdiff_t off_y = tap / s->kernel - s->padding, off_x = tap % s->kernel - s->padding;
    const ptrdiff_t co = (ptrdiff_t)(panel * p->isa->columns);
    ptrdiff_t y_first, y_last, x_first, x_last;
    qnet__inside(p->out_h, s->height, s->stride, off_y, &y_first, &y_last);
    qnet__inside(p->out_w, s->width, s->stride, off_x, &x_first, &x_last);
    product->segments = 0;
    product->length = (size_t)(x_last - x_first);
    for (; row < row_end && x_first < x_last; row++) {
        const ptrdiff_t n = row / p->out_h, oy = row % p->out_h;
        const ptrdiff_t y = n * s->height + oy * s->stride + off_y;
        if (oy < y_first || oy >= y_last)
            continue;
        *a++ = p->x + (y * s->width + x_first * s->stride + off_x) * s->in_channels + ci;
        *b++ = p->dy + (row * p->out_w + x_first) * s->out_channels + co;
        product->segments++;
    }
}

/* partial[group][tap][ci of a slice][co of a panel], chunk by chunk of the group's rows: x and dy
   of a chunk serve all taps from a cache. */
static void qnet__weight_task(void *arg, size_t index, size_t worker)
{
    const qnet__weight_sweep *p = (const qnet__weight_sweep *)arg;
    const qnet_conv2d *s = &p->shape;
    const ptrdiff_t taps = (ptrdiff_t)s->kernel * s->kernel, in = s->in_channels;
    const size_t panel = index % p->panels;
    const ptrdiff_t slice = (ptrdiff_t)(index / p->panels % p->slices) * p->channels;
    const ptrdiff_t slice_end = slice + p->channels < in ? slice + p->channels : in;
    const ptrdiff_t group = (ptrdiff_t)(index / p->panels / p->slices);
    const ptrdiff_t begin = group * p->rows_per_group;
    const ptrdiff_t end = begin + p->rows_per_group < p->rows ? begin + p->rows_per_group : p->rows;
    const qnet_real *a[QNET__SEGMENTS], *b[QNET__SEGMENTS];
    qnet_real *c[QNET__DW_ROWS];
    ptrdiff_t row, row_end, tap, ci, i;
    qnet__product product;
    QNET__UNUSED(worker);
    memset(&product, 0, sizeof product);
    product.a = a, product.a_rows = 1, product.a_step = (size_t)(s->stride * in);
    product.beside = 1;
    product.b = b, product.b_step = (size_t)s->out_channels;
    product.c = c, product.columns = p->isa->columns;
    product.chain = QNET__CHAIN_DIRECT, product.piece = (size_t)p->out_w; /* whole */
    for (row = begin; row < end; row = row_end) {
        row_end = row + p->rows_per_chunk < end ? row + p->rows_per_chunk : end;
        product.accumulate = row > begin;
        for (tap = 0; tap < taps; tap++) {
            for (ci = slice; ci < slice_end; ci += QNET__DW_ROWS) {
                product.rows = qnet__min_size(QNET__DW_ROWS, (size_t)(slice_end - ci));
                for (i = 0; i < (ptrdiff_t)product.rows; i++) {
                    c[i] = p->partial + ((group * taps + tap) * in + ci + i) * s->out_channels +
                           panel * p->isa->columns;
                }
                qnet__weight_segments(p, tap, row, row_end, ci, panel, &product, a, b);
                qnet__multiply(p->isa, &product);
            }
        }
    }
}

/* dw = partial[0] + partial[1] + ..., in this order. */
static void qnet__weight_reduce_task(void *arg, size_t index, size_t worker)
{
    const qnet__weight_sweep *p = (const qnet__weight_sweep *)arg;
    const size_t out = (size_t)p->shape.out_channels;
    const size_t all = (size_t)(p->shape.kernel * p->shape.kernel) *
                       (size_t)p->shape.in_channels * out;
    const size_t first = index * QNET__REDUCE_ROWS * out;
    const size_t last = qnet__min_size(first + QNET__REDUCE_ROWS * out, all);
    QNET__UNUSED(worker);
    memcpy(p->dw + first, p->partial + first, (last - first) * sizeof *p->dw);
    for (size_t group = 1; group < p->groups; group++) {
        for (size_t i = first; i < last; i++)
            p->dw[i] += p->partial[group * all + i];
    }
}

/* Everything that follows from the shape: slices of ci, so that all taps of a slice and a panel
   stay in a second-level cache, then chunks, then groups, for about QNET__DW_TASKS tasks.
   Takes the partial sums, groups times dw, unless one group writes dw itself. */
static qnet__weight_sweep qnet__plan_weights(qnet__arena *arena, const qnet__isa *isa,
                                             const qnet_conv2d *s)
{
    const size_t taps = (size_t)s->kernel * (size_t)s->kernel;
    const ptrdiff_t tile_bytes = (ptrdiff_t)(taps * isa->columns * sizeof(qnet_real)) *
                                 QNET__TILE_ROWS;
    qnet__weight_sweep p;
    ptrdiff_t most, wanted, fit;
    memset(&p, 0, sizeof p);
    p.isa = isa;
    p.shape = *s;
    p.out_h = qnet_conv2d_out_height(s);
    p.out_w = qnet_conv2d_out_width(s);
    p.panels = qnet__panels(isa, (size_t)s->out_channels);
    p.channels = QNET__TILE_ROWS * (tile_bytes < QNET__DW_BYTES ? QNET__DW_BYTES / tile_bytes : 1);
    p.channels = p.channels < s->in_channels ? p.channels : s->in_channels;
    p.slices = (size_t)((s->in_channels - 1) / p.channels + 1);
    p.rows = s->batch * p.out_h;
    fit = QNET__CHUNK_BYTES / ((ptrdiff_t)sizeof(qnet_real) * s->stride * s->width * p.channels);
    p.rows_per_chunk = (QNET__CHUNK_PIXELS - 1) / p.out_w + 1;
    p.rows_per_chunk = p.rows_per_chunk < fit ? p.rows_per_chunk : fit > 0 ? fit : 1;
    p.rows_per_chunk = p.rows_per_chunk < QNET__SEGMENTS ? p.rows_per_chunk : QNET__SEGMENTS;
    most = (p.rows - 1) / p.rows_per_chunk + 1;
    wanted = (QNET__DW_TASKS - 1) / (ptrdiff_t)(p.panels * p.slices) + 1;
    wanted = wanted < most ? wanted : most;
    p.rows_per_group = (p.rows - 1) / wanted + 1;
    p.groups = (size_t)((p.rows - 1) / p.rows_per_group + 1);
    if (p.groups > 1) {
        p.partial = (qnet_real *)qnet__take(arena, p.groups * (size_t)s->out_channels,
                                            taps * (size_t)s->in_channels * sizeof(qnet_real));
    }
    return p;
}

static void qnet__conv_weights_direct(qnet_context *ctx, const qnet_conv2d *s, const qnet_real *x,
                                      const qnet_real *dy, qnet_real *dw, void *scratch)
{
    const qnet__isa *isa = qnet__isa_of(ctx);
    qnet__arena arena = {(unsigned char *)scratch, 0};
    qnet__weight_sweep p = qnet__plan_weights(&arena, isa, s);
    const size_t rows = (size_t)(s->kernel * s->kernel) * (size_t)s->in_channels;
    p.x = x, p.dy = dy, p.dw = dw;
    p.partial = p.groups > 1 ? p.partial : dw;
    qnet__parallel(ctx, p.panels * p.slices * p.groups, qnet__weight_task, &p);
    if (p.groups > 1)
        qnet__parallel(ctx, (rows - 1) / QNET__REDUCE_ROWS + 1, qnet__weight_reduce_task, &p);
}

/* ---- By lowering to matrix products ---------------------------------------------------------- */

/* column[oy][ox][ky][kx][ci]: the pixels of one image x[height][width][in] under every tap, zeros
   outside, so that its convolution is the matrix product column * w. With dx, the transpose: each
   number of column is added to the pixel that it would be copied from. */
static void qnet__conv_column(const qnet_conv2d *s, const qnet_real *x, qnet_real *column,
                              qnet_real *dx)
{
    const ptrdiff_t out_h = qnet_conv2d_out_height(s), out_w = qnet_conv2d_out_width(s);
    const ptrdiff_t kernel = s->kernel, in = s->in_channels;
    for (ptrdiff_t oy = 0; oy < out_h; oy++)
    for (ptrdiff_t ox = 0; ox < out_w; ox++)
    for (ptrdiff_t tap = 0; tap < kernel * kernel; tap++, column += in) {
        const ptrdiff_t iy = oy * s->stride + tap / kernel - s->padding;
        const ptrdiff_t ix = ox * s->stride + tap % kernel - s->padding;
        const int inside = iy >= 0 && iy < s->height && ix >= 0 && ix < s->width;
        const ptrdiff_t at = (iy * s->width + ix) * in;
        if (dx == NULL && inside)
            memcpy(column, x + at, (size_t)in * sizeof *column);
        else if (dx == NULL)
            memset(column, 0, (size_t)in * sizeof *column);
        for (ptrdiff_t ci = 0; dx != NULL && inside && ci < in; ci++)
            dx[at + ci] += column[ci];
    }
}

/* Bytes that lowering takes, and where in scratch: column[pixels][k] of one image, with
   k = kernel^2 in_channels, and what qnet_gemm packs. A BLAS brings its own memory. */
static size_t qnet__conv_lower_scratch(const qnet_context *ctx, const qnet_conv2d *s,
                                       void *scratch, qnet_real **column, void **product)
{
    const size_t k = (size_t)(s->kernel * s->kernel) * (size_t)s->in_channels;
    const size_t pixels = qnet__conv_out_pixels(s) / (size_t)s->batch;
    qnet__arena arena = {(unsigned char *)scratch, 0};
    *column = (qnet_real *)qnet__take(&arena, pixels, k * sizeof(qnet_real));
    *product = qnet__take(&arena, ctx->hooks.blas.sgemm != NULL ? 0 : qnet_gemm_scratch(
                                      ctx, 1, 0, k, (size_t)s->out_channels, pixels), 1);
    return arena.at;
}

/* Image by image, with qnet_gemm going to the hook, column[pixels][k], w[k][out], dy[pixels][out]:
       y = column w      forward
       dw = sum over images of column^T dy
       dcolumn = dy w^T, and dx its sum over the taps that meet a pixel.
   That of y, dw and dx which is given, with `add` added to what dx holds. */
static qnet_status qnet__conv_lower(qnet_context *ctx, const qnet_conv2d *s, int add,
                                    const qnet_real *x, const qnet_real *w, const qnet_real *dy,
                                    qnet_real *y, qnet_real *dx, qnet_real *dw, void *scratch)
{
    const size_t k = (size_t)(s->kernel * s->kernel) * (size_t)s->in_channels;
    const size_t out = (size_t)s->out_channels;
    const size_t pixels = qnet__conv_out_pixels(s) / (size_t)s->batch;
    const size_t image = qnet__conv_in_pixels(s) / (size_t)s->batch * (size_t)s->in_channels;
    qnet_real *column;
    void *product;
    qnet__conv_lower_scratch(ctx, s, scratch, &column, &product);
    for (size_t n = 0; n < (size_t)s->batch; n++) {
        const size_t at_y = n * pixels * out, at_x = n * image;
        if (dx == NULL)
            qnet__conv_column(s, x + at_x, column, NULL);
        if (y != NULL) {
            QNET__TRY(qnet_gemm(ctx, 0, 0, pixels, out, k, column, k, w, out, 0, y + at_y, out,
                                product));
        } else if (dw != NULL) {
            QNET__TRY(qnet_gemm(ctx, 1, 0, k, out, pixels, column, k, dy + at_y, out,
                                n > 0 ? (qnet_real)1 : (qnet_real)0, dw, out, product));
        } else {
            QNET__TRY(qnet_gemm(ctx, 0, 1, pixels, k, out, dy + at_y, out, w, out, 0, column, k,
                                product));
            memset(dx + at_x, 0, add ? 0 : image * sizeof *dx);
            qnet__conv_column(s, NULL, column, dx + at_x);
        }
    }
    return QNET_OK;
}

/* ---- The choice of an algorithm -------------------------------------------------------------- */

typedef enum qnet__conv_algorithm {
    QNET__CONV_REFERENCE,
    QNET__CONV_BLAS,
    QNET__CONV_WINOGRAD,
    QNET__CONV_WINOGRAD_2, /* with tiles of 2x2 */
    QNET__CONV_DIRECT
} qnet__conv_algorithm;

static const char *qnet__conv_algorithm_name(qnet__conv_algorithm algorithm)
{
    static const char *const name[] = {"reference", "BLAS", "Winograd", "Winograd 2", "direct"};
    return name[algorithm];
}

/* once: the kernel may be packed once for many passes. */
static qnet__conv_algorithm qnet__conv_pick(const qnet_context *ctx, const qnet_conv2d *shape,
                                            int once)
{
    const int side = qnet__isa_of(ctx)->winograd != NULL ? qnet__winograd_side(shape, once) : 0;
    if (QNET__REFERENCE_ONLY)
        return QNET__CONV_REFERENCE;
    if (!QNET__REAL_IS_DOUBLE && ctx->hooks.blas.sgemm != NULL)
        return QNET__CONV_BLAS;
    return side == 4 ? QNET__CONV_WINOGRAD : side == 2 ? QNET__CONV_WINOGRAD_2 : QNET__CONV_DIRECT;
}

/* The largest side of Winograd's tiles; 0: another algorithm. */
static int qnet__conv_side(qnet__conv_algorithm algorithm)
{
    return algorithm == QNET__CONV_WINOGRAD ? 4 : algorithm == QNET__CONV_WINOGRAD_2 ? 2 : 0;
}

/* That of both gradients. Winograd's form of stride 2 goes forward alone: backward it would save
   1 % of a training step. */
static qnet__conv_algorithm qnet__conv_algorithm_back(qnet__conv_algorithm algorithm,
                                                      const qnet_conv2d *s)
{
    return qnet__conv_side(algorithm) > 0 && s->stride > 1 ? QNET__CONV_DIRECT : algorithm;
}

QNET_API const char *qnet_conv2d_algorithm(const qnet_context *ctx, const qnet_conv2d *shape)
{
    if (shape == NULL || !qnet__conv_valid(shape))
        return "none";
    return qnet__conv_algorithm_name(qnet__conv_pick(ctx, shape, 0));
}

/* The direct gradient of the weights is for whole panels. */
static int qnet__conv_lowers_weights(const qnet_context *ctx, qnet__conv_algorithm algorithm,
                                     const qnet_conv2d *s)
{
    return algorithm < QNET__CONV_WINOGRAD ||
           (size_t)s->out_channels % qnet__isa_of(ctx)->columns != 0;
}

/* Bytes of scratch that any pass takes. */
static size_t qnet__conv_scratch(const qnet_context *ctx, qnet__conv_algorithm algorithm,
                                 const qnet_conv2d *s)
{
    qnet__arena forward = {NULL, 0}, data = {NULL, 0}, weights = {NULL, 0};
    const qnet__isa *isa = qnet__isa_of(ctx);
    const int side = qnet__conv_side(algorithm);
    qnet_real *column, *zeros;
    size_t lowered = 0;
    void *product;
    if (algorithm < QNET__CONV_WINOGRAD)
        return qnet__conv_lower_scratch(ctx, s, NULL, &column, &product);
    if (side > 0)
        forward.at = qnet__winograd_scratch(ctx, s, side);
    else
        qnet__sweep_take(&forward, isa, s, s->in_channels, s->out_channels, &column, &zeros);
    if (QNET__HAS_TRAINING && qnet__conv_algorithm_back(algorithm, s) == QNET__CONV_DIRECT) {
        qnet__sweep_take(&data, isa, s, s->out_channels, s->in_channels, &column, &zeros);
        if (qnet__conv_lowers_weights(ctx, algorithm, s))
            lowered = qnet__conv_lower_scratch(ctx, s, NULL, &column, &product);
        else
            qnet__plan_weights(&weights, isa, s);
    }
    return qnet__max_size(qnet__max_size(forward.at, data.at), qnet__max_size(weights.at, lowered));
}

/* Numbers of a kernel that is packed once for many forward passes; 0 where there is no such
   form. */
static size_t qnet__conv_packed(const qnet_context *ctx, qnet__conv_algorithm algorithm,
                                const qnet_conv2d *s)
{
    const qnet__isa *isa = qnet__isa_of(ctx);
    const size_t in = (size_t)s->in_channels, taps = (size_t)s->kernel * (size_t)s->kernel;
    qnet__winograd p;
    if (algorithm < QNET__CONV_WINOGRAD)
        return 0;
    if (algorithm == QNET__CONV_DIRECT)
        return taps * in * isa->columns * qnet__panels(isa, (size_t)s->out_channels);
    qnet__winograd_geometry(&p, isa, s, qnet__conv_side(algorithm), 0);
    return (size_t)(p.planes * (p.dst_c / QNET__WINOGRAD_GROUP) * p.u_plane);
}

/* w[kernel][kernel][in][out] to packed: Winograd's u, or panels. */
static void qnet__conv_pack(qnet_context *ctx, qnet__conv_algorithm algorithm, const qnet_conv2d *s,
                            const qnet_real *w, qnet_real *packed)
{
    if (qnet__conv_side(algorithm) > 0)
        qnet__winograd_pack(ctx, s, qnet__conv_side(algorithm), 0, w, packed);
    else if (algorithm == QNET__CONV_DIRECT)
        qnet__conv_panels(ctx, s, 0, w, packed);
}

/* ---- Forward and backward -------------------------------------------------------------------- */

/* The map that a prologue describes: its own where that is plain, else made in temp, which may be
   the prologue's x. */
static const qnet_real *qnet__prologue_map(qnet_context *ctx, const qnet__prologue *x,
                                           size_t pixels, int channels, qnet_real *temp)
{
    qnet__epilogue made = qnet__epilogue_plain(temp);
    if (x->kind == QNET__PROLOGUE_PLAIN)
        return x->x;
    qnet__pass(ctx, x, &made, pixels, (size_t)channels);
    return temp;
}

/* y, a map that is stored already, through its epilogue. */
static void qnet__epilogue_map(qnet_context *ctx, qnet__epilogue *y, size_t pixels, int channels)
{
    qnet_real *map = y->y;
    const qnet__prologue stored = qnet__prologue_plain(map);
    if (y->kind == QNET__EPILOGUE_MOMENTS)
        y->y = NULL; /* the map does not change */
    if (y->kind != QNET__EPILOGUE_PLAIN)
        qnet__pass(ctx, &stored, y, pixels, (size_t)channels);
    y->y = map;
}

/* y <- the convolution of x with w or, backward, y <- dx from x = dy. Winograd's form applies the
   forward prologue at stride 1 and all epilogues; else qnet__pass does.
   packed: w by qnet__conv_pack, or NULL. With `add`, which Winograd's form has not, dx is added to
   what y->y holds. temp: as large as x, unless that is plain or its prologue applied. */
static qnet_status qnet__conv_map(qnet_context *ctx, qnet__conv_algorithm algorithm,
                                  const qnet_conv2d *s, int backward, int add,
                                  const qnet__prologue *x, const qnet_real *w,
                                  const qnet_real *packed, qnet__epilogue *y, qnet_real *temp,
                                  void *scratch)
{
    const int side = qnet__conv_side(algorithm);
    size_t in_pixels = qnet__conv_in_pixels(s), out_pixels = qnet__conv_out_pixels(s);
    qnet__prologue from = *x;
    if (side == 0 || s->stride > 1 || backward)
        from = qnet__prologue_plain(qnet__prologue_map(
            ctx, x, backward ? out_pixels : in_pixels,
            backward ? s->out_channels : s->in_channels, temp));
    if (side > 0)
        qnet__winograd_conv(ctx, s, side, backward, &from, w, packed, y, scratch);
    else if (algorithm == QNET__CONV_DIRECT)
        qnet__conv_sweep(ctx, s, backward, add, from.x, w, packed, y->y, scratch);
    else if (backward)
        QNET__TRY(qnet__conv_lower(ctx, s, add, NULL, w, from.x, NULL, y->y, NULL, scratch));
    else
        QNET__TRY(qnet__conv_lower(ctx, s, 0, from.x, w, NULL, y->y, NULL, NULL, scratch));
    if (side == 0)
        qnet__epilogue_map(ctx, y, backward ? in_pixels : out_pixels,
                           backward ? s->in_channels : s->out_channels);
    return QNET_OK;
}

/* y <- the convolution of x with w, from the prologue of x to the epilogue of y. */
static qnet_status qnet__conv_forward(qnet_context *ctx, qnet__conv_algorithm algorithm,
                                      const qnet_conv2d *s, const qnet__prologue *x,
                                      const qnet_real *w, const qnet_real *packed,
                                      qnet__epilogue *y, qnet_real *temp, void *scratch)
{
    return qnet__conv_map(ctx, algorithm, s, 0, 0, x, w, packed, y, temp, scratch);
}

/* dw and dx, unless NULL, from the gradient dy of the output: dy is made (by Winograd's form on the
   way, where dw is wanted), dw is a sum over x and dy, dx the convolution of dy, with its epilogue.
   temp_x and temp_dy: as large as x and dy, unless plain; Winograd's form at stride 1 needs no
   temp_x. temp_dy may be one of dy's maps, which is lost then. */
static qnet_status qnet__conv_backward(qnet_context *ctx, qnet__conv_algorithm algorithm,
                                       const qnet_conv2d *s, const qnet__prologue *x,
                                       const qnet_real *w, const qnet__prologue *dy,
                                       qnet__epilogue *dx, int add, qnet_real *dw,
                                       qnet_real *temp_x, qnet_real *temp_dy, void *scratch)
{
    const qnet__conv_algorithm back = qnet__conv_algorithm_back(algorithm, s);
    const int side = qnet__conv_side(back);
    qnet__prologue from = *x, made = *dy;
    if (dw != NULL && side == 0)
        from = qnet__prologue_plain(qnet__prologue_map(ctx, x, qnet__conv_in_pixels(s),
                                                       s->in_channels, temp_x));
    if (dw != NULL && side > 0) {
        qnet__winograd_weights(ctx, s, side, &from, dy, temp_dy, dw, scratch);
        made = dy->kind == QNET__PROLOGUE_PLAIN ? *dy : qnet__prologue_plain(temp_dy);
    } else {
        made = qnet__prologue_plain(qnet__prologue_map(ctx, dy, qnet__conv_out_pixels(s),
                                                       s->out_channels, temp_dy));
    }
    if (dw != NULL && side == 0 && qnet__conv_lowers_weights(ctx, back, s))
        QNET__TRY(qnet__conv_lower(ctx, s, 0, from.x, w, made.x, NULL, NULL, dw, scratch));
    else if (dw != NULL && side == 0)
        qnet__conv_weights_direct(ctx, s, from.x, made.x, dw, scratch);
    if (dx == NULL)
        return QNET_OK;
    return qnet__conv_map(ctx, back, s, 1, add, &made, w, NULL, dx, NULL, scratch);
}

/* 0 for a shape that is NULL or not valid, (size_t)-1 when the bytes do not fit a size_t. */
QNET_API size_t qnet_conv2d_scratch(const qnet_context *ctx, const qnet_conv2d *shape)
{
    if (shape == NULL || !qnet__conv_valid(shape))
        return 0;
    return qnet__conv_scratch(ctx, qnet__conv_pick(ctx, shape, 0), shape);
}

QNET_API qnet_status qnet_conv2d_forward(qnet_context *ctx, const qnet_conv2d *shape,
                                         const qnet_real *x, const qnet_real *w, qnet_real *y,
                                         void *scratch)
{
    const qnet__prologue from = qnet__prologue_plain(x);
    qnet__epilogue to = qnet__epilogue_plain(y);
    qnet_status status;
    size_t bytes;
    void *own;
    QNET__TRY(qnet__conv_check(ctx, shape, "conv2d forward"));
    if (x == NULL || w == NULL || y == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "conv2d forward: x, w or y is NULL");
    bytes = qnet_conv2d_scratch(ctx, shape);
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "the scratch of a convolution", &scratch, &own));
    status = qnet__conv_forward(ctx, qnet__conv_pick(ctx, shape, 0), shape, &from, w, NULL, &to,
                                NULL, scratch);
    qnet__free(ctx, own, bytes);
    return status;
}

#if QNET__HAS_TRAINING
QNET_API qnet_status qnet_conv2d_backward(qnet_context *ctx, const qnet_conv2d *shape,
                                          const qnet_real *x, const qnet_real *w,
                                          const qnet_real *dy, qnet_real *dx, qnet_real *dw,
                                          void *scratch)
{
    const qnet__prologue from = qnet__prologue_plain(x), gradient = qnet__prologue_plain(dy);
    qnet__epilogue to = qnet__epilogue_plain(dx);
    qnet_status status;
    size_t bytes;
    void *own;
    QNET__TRY(qnet__conv_check(ctx, shape, "conv2d backward"));
    if (w == NULL || dy == NULL || (x == NULL && dw != NULL)) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "conv2d backward: w, dy or (with dw) x is NULL");
    }
    bytes = qnet_conv2d_scratch(ctx, shape);
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "the scratch of a convolution", &scratch, &own));
    status = qnet__conv_backward(ctx, qnet__conv_pick(ctx, shape, 0), shape, &from, w, &gradient,
                                 dx != NULL ? &to : NULL, 0, dw, NULL, NULL, scratch);
    qnet__free(ctx, own, bytes);
    return status;
}
#endif

/* ============================================================================================
   >>norm  Batch normalisation over rows of x[rows][channels], with the residual addition and the
   ReLU that follow it in a ResBlock.

   A layer for callers, in passes of >>fuse; prologues and epilogues (>>kernels) do the arithmetic:
   forward one over x for the moments and one from x to y; backward one for the two sums, which
   stores the masked gradient where it is wanted, and one for dx. ResNet18 does the same where its
   maps are read and written (>>resnet).
   Relies on >>context >>kernels >>gemm >>fuse.
   ============================================================================================ */

/* Fails unless rows and channels (by the caller's word for them) are 1 or more, their product fits
   a size_t, and no required pointer is NULL. */
static qnet_status qnet__check_layer(qnet_context *ctx, const char *name, size_t rows,
                                     const char *word, int channels, int pointers_are_there)
{
    size_t bytes;
    if (ctx == NULL || !pointers_are_there)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: a required pointer is NULL", name);
    if (rows < 1 || channels < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "%s: expected rows and %s of at least 1, found %lu and %d", name, word,
                          (unsigned long)rows, channels);
    if (!qnet__mul(rows, (size_t)channels, &bytes) || !qnet__mul(bytes, sizeof(double), &bytes))
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: %lu rows of %d %s overflow", name,
                          (unsigned long)rows, channels, word);
    return QNET_OK;
}

/* Scratch of a batch norm: what the passes want to know of each channel, and their sums. */
typedef struct qnet__norm {
    double *total1, *total2;          /* [channels]: sums over all chunks */
    qnet_real *scale, *shift, *slope; /* [channels]; of qnet__prologue_kind */
    qnet__epilogue sums;              /* center, sum1, sum2 and rows of each chunk */
} qnet__norm;

static void qnet__norm_plan(qnet__norm *norm, size_t rows, int channels, qnet__arena *arena)
{
    const size_t n = (size_t)channels, chunks = qnet__pass_chunks(rows, n);
    norm->total1 = (double *)qnet__take(arena, n, sizeof(double));
    norm->total2 = (double *)qnet__take(arena, n, sizeof(double));
    norm->scale = (qnet_real *)qnet__take(arena, n, sizeof(qnet_real));
    norm->shift = (qnet_real *)qnet__take(arena, n, sizeof(qnet_real));
    norm->slope = (qnet_real *)qnet__take(arena, n, sizeof(qnet_real));
    norm->sums = qnet__epilogue_take_sums(arena, chunks, chunks * n);
}

/* Five numbers per chunk and channel, in floats: under 5 % of x at the sizes of ResNet18. 0 for
   sizes out of range. */
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

/* (1 - momentum) running + momentum * batch; 1 replaces and 0 keeps what stood there, even NaN. */
static qnet_real qnet__running(qnet_real running, double momentum, double batch)
{
    if (momentum == 0) return running;
    if (momentum == 1) return (qnet_real)batch;
    return (qnet_real)((1 - momentum) * (double)running + momentum * batch);
}

/* y = act((x - mean) scale + beta + residual). */
static void qnet__norm_apply(qnet_context *ctx, size_t rows, int channels, const qnet_real *x,
                             const qnet_real *mean, const qnet_real *scale, const qnet_real *beta,
                             const qnet_real *residual, int relu, qnet_real *y)
{
    const qnet__prologue prologue = qnet__prologue_plain(x);
    qnet__epilogue epilogue = qnet__epilogue_plain(y);
    epilogue.kind = QNET__EPILOGUE_NORMALISE;
    epilogue.mean = mean;
    epilogue.scale = scale;
    epilogue.beta = beta;
    epilogue.residual = residual;
    epilogue.relu = relu;
    qnet__pass(ctx, &prologue, &epilogue, rows, (size_t)channels);
}

#if QNET__HAS_TRAINING
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
    const qnet__prologue prologue = qnet__prologue_plain(x);
    qnet__norm norm;
    qnet__arena arena = { NULL, 0 };
    size_t bytes = qnet_batchnorm_scratch(ctx, rows, channels);
    void *block, *owned;
    double unbias = rows > 1 ? (double)rows / ((double)rows - 1) : 1;

    QNET__TRY(qnet__check_layer(ctx, "qnet_batchnorm_forward", rows, "channels", channels,
                                x && gamma && beta && mean && rstd && y));
    if (!(momentum >= 0 && momentum <= 1))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_batchnorm_forward: expected a momentum of 0 to 1, found %g",
                          momentum);
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "batch norm", &block, &owned));
    arena.base = (unsigned char *)block;
    qnet__norm_plan(&norm, rows, channels, &arena);

    norm.sums.kind = QNET__EPILOGUE_MOMENTS;
    qnet__pass(ctx, &prologue, &norm.sums, rows, (size_t)channels);
    qnet__epilogue_totals(ctx, &norm.sums, (size_t)channels, norm.total1, norm.total2);
    for (size_t c = 0; c < (size_t)channels; c++) {
        double m = norm.total1[c], v = norm.total2[c], r = 1 / sqrt(v + QNET_BATCHNORM_EPS);
        mean[c] = (qnet_real)m;
        rstd[c] = (qnet_real)r;
        norm.scale[c] = (qnet_real)((double)gamma[c] * r);
        if (running_mean != NULL)
            running_mean[c] = qnet__running(running_mean[c], momentum, m);
        if (running_var != NULL)
            running_var[c] = qnet__running(running_var[c], momentum, v * unbias);
    }
    qnet__norm_apply(ctx, rows, channels, x, mean, norm.scale, beta, residual, relu, y);
    qnet__free(ctx, owned, bytes);
    return QNET_OK;
}
#endif

/* y = act(gamma (x - running_mean) / sqrt(running_var + eps) + beta + residual): the statistics are
   constants here, so rows do not depend on each other. */
QNET_API qnet_status qnet_batchnorm_inference(qnet_context *ctx, size_t rows, int channels,
                                              const qnet_real *x, const qnet_real *gamma,
                                              const qnet_real *beta, const qnet_real *running_mean,
                                              const qnet_real *running_var,
                                              const qnet_real *residual, int relu, qnet_real *y)
{
    const size_t bytes = (size_t)qnet__max_int(channels, 1) * sizeof(qnet_real);
    qnet_real *scale;
    QNET__TRY(qnet__check_layer(ctx, "qnet_batchnorm_inference", rows, "channels", channels,
                                x && gamma && beta && running_mean && running_var && y));
    scale = (qnet_real *)qnet__alloc(ctx, bytes);
    if (scale == NULL) return qnet__no_memory(ctx, bytes, "batch norm");
    for (int c = 0; c < channels; c++)
        scale[c] = (qnet_real)((double)gamma[c] /
                               sqrt((double)running_var[c] + QNET_BATCHNORM_EPS));
    qnet__norm_apply(ctx, rows, channels, x, running_mean, scale, beta, residual, relu, y);
    qnet__free(ctx, scale, bytes);
    return QNET_OK;
}

#if QNET__HAS_TRAINING
/* Forward: y = act(v + residual), v = gamma xhat + beta, xhat = (x - mean) rstd.
   g = dy where y > 0 (all of dy without ReLU); dresidual = g; dbeta = sum g;
   dgamma = sum g xhat = rstd sum g (x - mean);
   dx = gamma rstd (g - mean(g) - xhat mean(g xhat)). Ioffe & Szegedy 2015, section 3.
   Between the passes g lies in dresidual or, with a ReLU, in dx. */
QNET_API qnet_status qnet_batchnorm_backward(qnet_context *ctx, size_t rows, int channels,
                                             const qnet_real *x, const qnet_real *gamma,
                                             const qnet_real *mean, const qnet_real *rstd,
                                             const qnet_real *y, const qnet_real *dy, qnet_real *dx,
                                             qnet_real *dresidual, qnet_real *dgamma,
                                             qnet_real *dbeta, void *scratch)
{
    qnet__norm norm;
    qnet__arena arena = { NULL, 0 };
    qnet__prologue prologue = qnet__prologue_plain(dy);
    size_t bytes = qnet_batchnorm_scratch(ctx, rows, channels);
    void *block, *owned;

    QNET__TRY(qnet__check_layer(ctx, "qnet_batchnorm_backward", rows, "channels", channels,
                                x && gamma && mean && rstd && dy));
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "batch norm backward", &block, &owned));
    arena.base = (unsigned char *)block;
    qnet__norm_plan(&norm, rows, channels, &arena);

    norm.sums.kind = QNET__EPILOGUE_GRADIENT;
    norm.sums.y = dresidual != NULL ? dresidual : y != NULL ? dx : NULL;
    norm.sums.mask = y;
    norm.sums.pre = x;
    norm.sums.mean = mean;
    qnet__pass(ctx, &prologue, &norm.sums, rows, (size_t)channels);
    qnet__epilogue_totals(ctx, &norm.sums, (size_t)channels, norm.total1, norm.total2);
    for (size_t c = 0; c < (size_t)channels; c++) {
        double r = (double)rstd[c], sum_g = norm.total1[c], sum_gd = norm.total2[c];
        if (dbeta != NULL) dbeta[c] = (qnet_real)sum_g;
        if (dgamma != NULL) dgamma[c] = (qnet_real)(r * sum_gd);
        norm.scale[c] = (qnet_real)((double)gamma[c] * r);
        norm.shift[c] = (qnet_real)(sum_g / (double)rows);
        norm.slope[c] = (qnet_real)(r * r * sum_gd / (double)rows);
    }
    if (dx != NULL) {
        qnet__epilogue epilogue = qnet__epilogue_plain(dx);
        prologue.kind = QNET__PROLOGUE_GRADIENT;
        prologue.x = norm.sums.y != NULL ? norm.sums.y : dy;
        prologue.pre = x;
        prologue.mean = mean;
        prologue.scale = norm.scale;
        prologue.shift = norm.shift;
        prologue.slope = norm.slope;
        qnet__pass(ctx, &prologue, &epilogue, rows, (size_t)channels);
    }
    qnet__free(ctx, owned, bytes);
    return QNET_OK;
}
#endif

/* ============================================================================================
   >>pool  ReLU; max pooling 3x3/2 of x[batch][h][w][c] to y[batch][(h + 1) / 2][(w + 1) / 2][c];
   average pooling of x[batch][pixels][c] to y[batch][c]; sums over rows. The rows of max pooling
   are computed by >>kernels. All but one of ResNet18's ReLUs are applied while maps are read and
   written (>>kernels); the stem's in pooling.

   Maximum and mask are written as `v < 0 ? 0 : v` and `y <= 0 ? 0 : dy`, never the other way
   round: a comparison with NaN is false, and a NaN must come out as one.
   Relies on >>context >>kernels >>norm.
   ============================================================================================ */

/* y[count] = max(x, 0); NaN stays NaN, as in PyTorch. */
QNET_API void qnet_relu_forward(size_t count, const qnet_real *x, qnet_real *y)
{
    if (x == NULL || y == NULL) return;
    for (size_t i = 0; i < count; i++) y[i] = x[i] < 0 ? 0 : x[i];
}

#if QNET__HAS_TRAINING
/* Forward: y = max(x, 0). dx[count] = dy where y > 0, else 0. dx may alias dy. */
QNET_API void qnet_relu_backward(size_t count, const qnet_real *y, const qnet_real *dy,
                                 qnet_real *dx)
{
    if (y == NULL || dy == NULL || dx == NULL) return;
    for (size_t i = 0; i < count; i++) dx[i] = y[i] <= 0 ? 0 : dy[i];
}
#endif

/* ---- Max pooling ----------------------------------------------------------------------------- */

static void qnet__maxpool_task(void *arg, size_t index, size_t worker)
{
    const qnet__maxpool *pool = (const qnet__maxpool *)arg;
    QNET__UNUSED(worker);
    pool->isa->maxpool(pool, index);
}

/* Forward, or backward where there is a dx. */
static void qnet__maxpool_run(qnet_context *ctx, qnet__maxpool *pool, size_t batch)
{
    qnet__parallel(ctx, batch * (pool->dx != NULL ? pool->height : pool->out_height),
                   qnet__maxpool_task, pool);
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
    QNET__TRY(qnet__check_layer(ctx, name, rows, "channels", channels, pointers_are_there));
    memset(pool, 0, sizeof *pool);
    pool->isa = qnet__isa_of(ctx);
    pool->height = (size_t)height, pool->width = (size_t)width;
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
    pool.x = qnet__prologue_plain(x);
    pool.y = y, pool.argmax = argmax;
    qnet__maxpool_run(ctx, &pool, (size_t)batch);
    return QNET_OK;
}

#if QNET__HAS_TRAINING
/* Forward: y = x at the tap that won, so dx = sum of dy over the windows which the pixel won. */
QNET_API qnet_status qnet_maxpool_backward(qnet_context *ctx, int batch, int height, int width,
                                           int channels, const uint8_t *argmax, const qnet_real *dy,
                                           qnet_real *dx)
{
    qnet__maxpool pool;
    QNET__TRY(qnet__maxpool_plan(ctx, "qnet_maxpool_backward", batch, height, width, channels,
                                 argmax && dy && dx, &pool));
    pool.winner = argmax;
    pool.dy = dy, pool.dx = dx;
    qnet__maxpool_run(ctx, &pool, (size_t)batch);
    return QNET_OK;
}
#endif

/* ---- Sums over rows, for bias gradients and average pooling ---------------------------------- */

#define QNET__COLUMNS 64 /* of a task */

/* sum[b][c] = factor * sum over r of x[b][r][c], in double: there are few of them. */
typedef struct qnet__column_sums {
    size_t rows, columns;
    double factor;
    const qnet_real *x; /* [batch][rows][columns] */
    qnet_real *sum;     /* [batch][columns] */
} qnet__column_sums;

static void qnet__column_sums_task(void *arg, size_t index, size_t worker)
{
    const qnet__column_sums *job = (const qnet__column_sums *)arg;
    const size_t n = job->columns, blocks = (n - 1) / QNET__COLUMNS + 1, b = index / blocks;
    const size_t first = index % blocks * QNET__COLUMNS;
    const size_t count = qnet__min_size(QNET__COLUMNS, n - first);
    double sum[QNET__COLUMNS] = {0};
    QNET__UNUSED(worker);
    for (size_t r = 0; r < job->rows; r++)
        for (size_t c = 0; c < count; c++)
            sum[c] += (double)job->x[(b * job->rows + r) * n + first + c];
    for (size_t c = 0; c < count; c++)
        job->sum[b * n + first + c] = (qnet_real)(job->factor * sum[c]);
}

static void qnet__sum_columns(qnet_context *ctx, size_t batch, size_t rows, size_t columns,
                              double factor, const qnet_real *x, qnet_real *sum)
{
    qnet__column_sums job = {rows, columns, factor, x, sum};
    qnet__parallel(ctx, batch * ((columns - 1) / QNET__COLUMNS + 1), qnet__column_sums_task, &job);
}

/* dx[pixels][channels] of one image. */
typedef struct qnet__avgpool {
    size_t pixels, channels;
    const qnet_real *dy; /* [batch][channels] */
    qnet_real *dx;       /* [batch][pixels][channels] */
} qnet__avgpool;

static void qnet__avgpool_backward_task(void *arg, size_t image, size_t worker)
{
    const qnet__avgpool *pool = (const qnet__avgpool *)arg;
    const qnet_real *dy = pool->dy + image * pool->channels;
    qnet_real *dx = pool->dx + image * pool->pixels * pool->channels;
    QNET__UNUSED(worker);
    for (size_t p = 0; p < pool->pixels; p++, dx += pool->channels)
        for (size_t c = 0; c < pool->channels; c++) dx[c] = dy[c] / (qnet_real)pool->pixels;
}

static qnet_status qnet__avgpool_check(qnet_context *ctx, const char *name, int batch,
                                       size_t pixels, int channels, int pointers_are_there)
{
    size_t rows = 0;
    if (batch < 1 || pixels < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "%s: expected batch and pixels of at least 1, found %d and %lu", name,
                          batch, (unsigned long)pixels);
    if (!qnet__mul((size_t)batch, pixels, &rows)) rows = SIZE_MAX;
    return qnet__check_layer(ctx, name, rows, "channels", channels, pointers_are_there);
}

/* y[b][c] = sum over pixels of x[b][p][c] / pixels. */
QNET_API qnet_status qnet_avgpool_forward(qnet_context *ctx, int batch, size_t pixels, int channels,
                                          const qnet_real *x, qnet_real *y)
{
    QNET__TRY(qnet__avgpool_check(ctx, "qnet_avgpool_forward", batch, pixels, channels, x && y));
    qnet__sum_columns(ctx, (size_t)batch, pixels, (size_t)channels, 1 / (double)pixels, x, y);
    return QNET_OK;
}

#if QNET__HAS_TRAINING
/* Forward: y = sum x / pixels, so dx[b][p][c] = dy[b][c] / pixels. */
QNET_API qnet_status qnet_avgpool_backward(qnet_context *ctx, int batch, size_t pixels,
                                           int channels, const qnet_real *dy, qnet_real *dx)
{
    qnet__avgpool pool = {pixels, (size_t)channels, dy, dx};
    QNET__TRY(qnet__avgpool_check(ctx, "qnet_avgpool_backward", batch, pixels, channels, dy && dx));
    qnet__parallel(ctx, (size_t)batch, qnet__avgpool_backward_task, &pool);
    return QNET_OK;
}
#endif

/* ============================================================================================
   >>stem   A ResNet's first layer in one go, forward and backward: convolution 7x7/2 of
   x[batch][height][width][channels] to 64 channels, batch norm, ReLU and max pooling 3x3/2.

   What the convolution gives, pre, is by far the largest map of the network. A training pass never
   has it whole: bands of its rows are made, used up while they are in cache, and forgotten.

   Forward. The norm's statistics are known after the last band only. But norm and ReLU rise with
   pre where gamma > 0 and fall where gamma < 0: the window's maximum after them is that of its
   largest or its smallest pre. So that one is kept, and normalised by whoever reads it.

   Backward, for 3 channels. Let N be the number of the convolution's outputs, u_o the 147 inputs
   under its taps at output o, so that pre_o = w^T u_o, and g_o the gradient of the norm's output.

       dw = sum over o of u_o dpre_o,    dpre = scale (g - shift - slope (pre - mean)),

          = scale (cross - shift sum - slope (gram - sum sum^T / N) w),

       cross = sum of u_o g_o,   sum = sum of u_o,   gram = sum of u_o u_o^T,   mean = w^T sum / N.

   g is 0 but at the windows' maxima, so cross has a term per output of pooling and not per pixel of
   pre, which are four times as many; and gram does not depend on the 64 channels. Two taps that are
   a certain distance apart meet the same products wherever they lie, but for the borders: so gram
   is a matter of a few hundred sums of products, not of 147 x 147.

   gram - sum sum^T / N loses digits where the inputs' mean is large against their spread. As shift
   is the mean of g, and mean that of pre, the sum of dpre is 0: a constant may be taken off all
   numbers of a channel, padding included, and dw stays. So u_o is x less the mean of the channel
   over the images' middle rows.

   Stride 2 is undone first: u[r][q] holds the 2 x 2 pixels (2r, 2q) ... (2r + 1, 2q + 1) of the
   image, which has a border of 3 zeros at the top and on the left, in 12 numbers. The convolution
   is one of 4x4/1 over u then, and the rows and columns of cross and gram are its 192 taps,

       tap (t, s, [a][b][c])  of output (y, x)  =  u[y + s][x + t][a][b][c],

   of which those with 2s + a = 7 or 2t + b = 7 do not exist for 7x7, and are not read at the end.
   Relies on >>context >>kernels >>gemm >>conv.
   ============================================================================================ */

#define QNET__STEM_PIXELS 896   /* of pre in a band, about: in L2, unless the image is very wide */
#define QNET__STEM_TASKS 16     /* wanted; backward: parts at most, each with its own sums */
#define QNET__STEM_U 12         /* numbers of u[r][q] */
#define QNET__STEM_LAGS 315     /* see qnet__stem_backward_job */
#define QNET__STEM_OUTPUTS 8192 /* whose products are added up in single precision, about */

/* Sizes. Band b has the rows band * b ... of the pooled map, and twice as many of pre; the last
   band may have fewer. */
typedef struct qnet__stem {
    qnet_conv2d conv;
    ptrdiff_t out_h, out_w, pool_h, pool_w; /* of pre and of the pooled map */
    ptrdiff_t band, bands;                  /* bands of one image */
} qnet__stem;

static qnet__stem qnet__stem_geometry(const qnet_conv2d *conv)
{
    qnet__stem s;
    s.conv = *conv;
    s.out_h = qnet_conv2d_out_height(conv);
    s.out_w = qnet_conv2d_out_width(conv);
    s.pool_h = (s.out_h - 1) / 2 + 1;
    s.pool_w = (s.out_w - 1) / 2 + 1;
    s.band = QNET__STEM_PIXELS / (2 * s.out_w);
    s.band = s.band > 0 ? s.band : 1;
    s.bands = (s.pool_h - 1) / s.band + 1;
    return s;
}

static size_t qnet__stem_chunks(const qnet__stem *s)
{
    return (size_t)(s->conv.batch * s->bands);
}

static ptrdiff_t qnet__stem_end(const qnet__stem *s, ptrdiff_t band)
{
    return (band + 1) * s->band < s->pool_h ? (band + 1) * s->band : s->pool_h;
}

/* ---- Forward --------------------------------------------------------------------------------- */

typedef struct qnet__stem_forward_job {
    qnet__stem s;
    qnet__sweep sweep;      /* for all of the images; a band is a sweep with less rows */
    const qnet__isa *isa;
    qnet__maxpool pool;
    const qnet__epilogue *sums; /* of the chunks, or NULL */
    ptrdiff_t tasks;        /* per image */
    qnet_real *rows;        /* [workers][1 + 2 band][out_w][64]: a band of pre, and the row above */
} qnet__stem_forward_job;

/* Rows first .. last - 1 of pre of an image. */
static void qnet__stem_convolve(const qnet__stem_forward_job *p, ptrdiff_t image, ptrdiff_t first,
                                ptrdiff_t last, qnet_real *pre)
{
    qnet__sweep band = p->sweep;
    band.shape.batch = 1;
    band.src += image * band.y.src * band.x.src * band.src_c;
    band.dst = pre;
    band.y.src_first += first * band.y.src_step;
    band.y.grid = band.y.dst = last - first;
    qnet__sweep_pixels(&band, 0, (last - first) * p->s.out_w, 0, band.panel_count);
}

static void qnet__stem_forward_task(void *arg, size_t index, size_t worker)
{
    const qnet__stem_forward_job *p = (const qnet__stem_forward_job *)arg;
    const qnet__stem *s = &p->s;
    const ptrdiff_t image = (ptrdiff_t)index / p->tasks, task = (ptrdiff_t)index % p->tasks;
    const ptrdiff_t begin = task * s->bands / p->tasks, end = (task + 1) * s->bands / p->tasks;
    const ptrdiff_t row = s->out_w * 64;
    qnet_real *above = p->rows + (ptrdiff_t)worker * (1 + 2 * s->band) * row, *rows = above + row;
    ptrdiff_t b, y;
    for (b = begin; b < end; b++) {
        const ptrdiff_t pool_end = qnet__stem_end(s, b), first = 2 * b * s->band;
        const ptrdiff_t last = 2 * pool_end < s->out_h ? 2 * pool_end : s->out_h;
        const int again = b == begin && b > 0; /* the row above is another task's too */
        qnet__maxpool pool = p->pool;
        qnet__stem_convolve(p, image, first - again, last, again ? above : rows);
        if (p->sums != NULL) {
            const size_t chunk = (size_t)(image * s->bands + b);
            const qnet__prologue prologue = qnet__prologue_plain(rows);
            qnet__pass_job job;
            job.prologue = &prologue, job.epilogue = p->sums;
            job.rows = (size_t)((last - first) * s->out_w), job.channels = 64;
            job.chunk_rows = job.rows;
            p->sums->rows[chunk] = job.rows;
            p->isa->pass(&job, 0, job.rows, chunk);
        }
        pool.x.x = above;
        pool.rows_before = image * s->out_h + first - 1;
        for (y = b * s->band; y < pool_end; y++)
            p->isa->maxpool(&pool, (size_t)(image * s->pool_h + y));
        memcpy(above, rows + (last - first - 1) * row, (size_t)row * sizeof *above);
    }
}

static qnet_real *qnet__stem_take_rows(const qnet_context *ctx, const qnet__stem *s,
                                       qnet__arena *arena)
{
    return (qnet_real *)qnet__take(arena, qnet__workers(ctx) * (size_t)(1 + 2 * s->band),
                                   (size_t)s->out_w * 64 * sizeof(qnet_real));
}

static size_t qnet__stem_forward_scratch(const qnet_context *ctx, const qnet_conv2d *conv)
{
    const qnet__isa *isa = qnet__isa_of(ctx);
    const qnet__stem s = qnet__stem_geometry(conv);
    qnet__arena arena = {NULL, 0};
    qnet_real *panels, *zeros;
    qnet__sweep_take(&arena, isa, conv, conv->in_channels, 64, &panels, &zeros);
    qnet__stem_take_rows(ctx, &s, &arena);
    return arena.at;
}

/* pool->y and pool->argmax from pre = conv(x, w), by pool->x's kind; and sums (NULL: none) get the
   chunks of pre's moments. packed: w by qnet__conv_pack, or NULL. */
static void qnet__stem_forward(qnet_context *ctx, const qnet_conv2d *conv, const qnet_real *x,
                               const qnet_real *w, const qnet_real *packed, qnet__epilogue *sums,
                               const qnet__maxpool *pool, void *scratch)
{
    qnet__arena arena = {(unsigned char *)scratch, 0};
    qnet__stem_forward_job p;
    p.s = qnet__stem_geometry(conv);
    p.sweep = qnet__sweep_begin(ctx, conv, 0, 0, x, w, packed, NULL, &arena);
    p.rows = qnet__stem_take_rows(ctx, &p.s, &arena);
    p.pool = *pool;
    p.isa = qnet__isa_of(ctx);
    p.sums = sums;
    p.tasks = (QNET__STEM_TASKS - 1) / conv->batch + 1;
    p.tasks = p.tasks < p.s.bands ? p.tasks : p.s.bands;
    if (sums != NULL)
        sums->chunks = qnet__stem_chunks(&p.s);
    qnet__parallel(ctx, (size_t)(conv->batch * p.tasks), qnet__stem_forward_task, &p);
}

/* ---- Gradient of the weights, for images of three channels ----------------------------------- */

/* u[r .. r + 3][q] lies together, as column [r][q]: so the taps of output (y, x) are the 192
   numbers of the columns [y][x .. x + 3].

   gram by lags. Output (y, x) brings the product of u[r][q] and u[r + i][q + j] for the taps (t, s)
   and (t + j, s + i), where r = y + s and q = x + t. One half is enough, as gram is symmetric:
   i = 0 with j = 0 .. 3, and i = 1 .. 3 with j = -3 .. 3. These are numbers 12 .. 326 of the
   columns [r][q - 3 .. q + 3]: what follows, (3, 3) with a or b = 1, is no tap. (i = 0 with j < 0
   is among them and not used.) So the products of all lags are a matrix product of u[r][q], 12
   rows, by 315 columns, over all r and q.
   Taps differ in which r and q they meet: s ... s + out_h - 1 and t ... t + out_w - 1. So sums are
   kept for seven classes of rows, 0, 1, 2, 3 ... out_h - 1, and the three after these, by seven of
   columns; tap s takes classes s to s + 3. */
typedef struct qnet__stem_backward_job {
    qnet__stem s;
    const qnet__isa *isa;
    qnet__prologue dpool;   /* [batch][pool_h][pool_w][64] */
    qnet__pass_job mask;    /* masks dpool, and its sums */
    const qnet_real *x;     /* [batch][height][width][3] */
    const uint8_t *argmax;  /* of dpool */
    qnet_real pad[12];      /* u in the padding: minus the channels' level, which is taken off x */
    ptrdiff_t parts, pitch; /* pitch: columns of a row, q = -3 .. out_w + 2; three more follow */
    ptrdiff_t rows, width;  /* of columns that a worker holds; QNET__STEM_LAGS in whole panels */
    double *sums;           /* [parts][257][192]: cross[64], gram[192] (half of it), sum */
    qnet_real *u;           /* [workers][rows + 3][pitch][12] */
    qnet_real *columns;     /* [workers][rows][pitch][4][12] */
    qnet_real *lags;        /* [workers][7][7][12][width]: gram's sums of some outputs */
    double *lag_sums;       /* [workers][7][7][12]: those of sum */
    const qnet_real *scale, *shift, *slope, *w; /* for the end */
    qnet_real *dw;          /* [147][64] */
} qnet__stem_backward_job;

#define QNET__STEM_SUMS (257 * QNET__STEM_TAPS) /* of a part */
#define QNET__STEM_GRAM (64 * QNET__STEM_TAPS)  /* where gram begins */
#define QNET__STEM_SUM (256 * QNET__STEM_TAPS)  /* where sum begins */

/* A task at one of its bands: rows first .. last - 1 of u are in columns. */
typedef struct qnet__stem_work {
    const qnet__stem_backward_job *p;
    ptrdiff_t image, first, last;
    qnet_real *u, *columns, *lags;
    double *lag_sums, *sums;
    int begun[7];      /* there are sums of this class of rows in lags and lag_sums ... */
    ptrdiff_t outputs; /* ... of about so many outputs */
} qnet__stem_work;

/* The first row or column of a class; the next class begins where it ends. */
static ptrdiff_t qnet__stem_class(ptrdiff_t outputs, int k)
{
    return k <= 3 ? k : outputs + k - 4;
}

/* u[r] of an image; r may lie outside. */
static void qnet__stem_u(const qnet__stem_backward_job *p, const qnet_real *image, ptrdiff_t r,
                         qnet_real *u)
{
    const size_t width = (size_t)p->s.conv.width;
    for (ptrdiff_t q = 0; q < p->pitch; q++) memcpy(u + q * QNET__STEM_U, p->pad, sizeof p->pad);
    for (ptrdiff_t a = 0; a < 2; a++) {
        const ptrdiff_t y = 2 * r + a - 3;
        const qnet_real *pixel = image + y * p->s.conv.width * 3;
        if (y < 0 || y >= p->s.conv.height) continue;
        for (size_t x = 3; x < width + 3; x++, pixel += 3) { /* from the border on */
            qnet_real *to = u + (x / 2 + 3) * QNET__STEM_U + (size_t)a * 6 + x % 2 * 3;
            for (size_t c = 0; c < 3; c++) to[c] = pixel[c] + p->pad[c];
        }
    }
}

/* Rows first .. last - 1 of columns. */
static void qnet__stem_columns(const qnet__stem_work *t)
{
    const qnet__stem_backward_job *p = t->p;
    const ptrdiff_t pixels = p->s.conv.height * (ptrdiff_t)p->s.conv.width;
    const ptrdiff_t row = p->pitch * QNET__STEM_U;
    qnet_real *column = t->columns;
    for (ptrdiff_t r = t->first; r < t->last + 3; r++)
        qnet__stem_u(p, p->x + t->image * pixels * 3, r, t->u + (r - t->first) * row);
    for (const qnet_real *u = t->u; u < t->u + (t->last - t->first) * row; u += QNET__STEM_U)
        for (ptrdiff_t k = 0; k < 4; k++, column += QNET__STEM_U)
            memcpy(column, u + k * row, QNET__STEM_U * sizeof *column);
}

/* cross += the outputs of pooling in rows y .. y_end - 1. */
static void qnet__stem_cross(const qnet__stem_work *t, ptrdiff_t y, ptrdiff_t y_end)
{
    const qnet__stem_backward_job *p = t->p;
    const ptrdiff_t end = (y_end - y) * p->s.pool_w;
    const size_t begin = (size_t)((t->image * p->s.pool_h + y) * p->s.pool_w) * 64;
    ptrdiff_t place[QNET__STEM_PIECE]; /* of the column of the window's first pixel */
    qnet__stem_list list;
    list.columns = t->columns, list.pitch = p->pitch;
    list.place = place, list.sum = t->sums;
    list.dy = p->dpool.x + begin, list.winner = p->argmax + begin;
    for (ptrdiff_t at = 0; at < end; at += list.count) {
        list.count = end - at < QNET__STEM_PIECE ? end - at : QNET__STEM_PIECE;
        for (ptrdiff_t i = 0; i < list.count; i++) {
            const ptrdiff_t row = y + (at + i) / p->s.pool_w, column = (at + i) % p->s.pool_w;
            place[i] = ((2 * row - 1 - t->first) * p->pitch + 2 * column + 2) * QNET__STEM_COLUMN;
        }
        p->isa->stem(&list);
        list.dy += list.count * 64, list.winner += list.count * 64;
    }
}

/* lags += the products of rows r .. r_end - 1, all of one class, and lag_sums += those of u. */
static void qnet__stem_lags(qnet__stem_work *t, ptrdiff_t r, ptrdiff_t r_end, int row_class)
{
    const qnet__stem_backward_job *p = t->p;
    const ptrdiff_t rows = r_end - r;
    const qnet_real *a[QNET__SEGMENTS], *b[QNET__SEGMENTS];
    qnet_real *c[QNET__STEM_U];
    qnet__product product;
    memset(&product, 0, sizeof product);
    product.a = a, product.beside = 1, product.a_rows = 1;
    product.b = b, product.b_panel = p->isa->columns;
    product.c = c, product.accumulate = t->begun[row_class];
    product.a_step = product.b_step = QNET__STEM_COLUMN;
    product.rows = QNET__STEM_U, product.columns = (size_t)p->width;
    product.segments = (size_t)rows;
    product.chain = QNET__CHAIN_DIRECT;
    for (int k = 0; k < 7; k++) {
        const ptrdiff_t q = qnet__stem_class(p->s.out_w, k);
        const ptrdiff_t length = qnet__stem_class(p->s.out_w, k + 1) - q;
        const ptrdiff_t at = (row_class * 7 + k) * QNET__STEM_U;
        double sum[QNET__STEM_U];
        for (ptrdiff_t m = 0; m < QNET__STEM_U; m++) {
            c[m] = t->lags + (at + m) * p->width;
            sum[m] = t->begun[row_class] ? t->lag_sums[at + m] : 0;
        }
        for (ptrdiff_t i = 0; i < rows; i++) {
            a[i] = t->columns + ((r + i - t->first) * p->pitch + 3 + q) * QNET__STEM_COLUMN;
            b[i] = a[i] - 3 * QNET__STEM_COLUMN + QNET__STEM_U;
            for (ptrdiff_t n = 0; n < length; n++)
                for (ptrdiff_t m = 0; m < QNET__STEM_U; m++)
                    sum[m] += (double)a[i][n * QNET__STEM_COLUMN + m];
        }
        product.length = product.piece = (size_t)length;
        qnet__multiply(p->isa, &product);
        memcpy(t->lag_sums + at, sum, sizeof sum);
    }
    t->begun[row_class] = 1;
}

/* lags and lag_sums go to the taps of gram and sum. Number of a tap: (t 4 + s) 12 + (a 2 + b) 3
   + c. The taps that do not exist get anything. */
static void qnet__stem_flush(qnet__stem_work *t)
{
    const ptrdiff_t n = QNET__STEM_U;
    for (ptrdiff_t tap = 0; tap < 16; tap++) {
        const ptrdiff_t q = tap / 4, s = tap % 4;
        for (ptrdiff_t at = 0; at < 16; at++) { /* classes that the tap meets */
            const ptrdiff_t row = s + at / 4, to_class = row * 7 + q + at % 4;
            if (!t->begun[row]) continue;
            for (ptrdiff_t k = 0; k < n; k++)
                t->sums[QNET__STEM_SUM + tap * n + k] += t->lag_sums[to_class * n + k];
            for (ptrdiff_t i = 0; s + i < 4; i++)
                for (ptrdiff_t j = i > 0 ? -q : 0; q + j < 4; j++) {
                    const qnet_real *from = t->lags + to_class * n * t->p->width +
                                            (j + 3) * QNET__STEM_COLUMN + i * n - n;
                    double *to = t->sums + QNET__STEM_GRAM + tap * n * QNET__STEM_TAPS +
                                 ((q + j) * 4 + s + i) * n;
                    for (ptrdiff_t m = 0; m < n; m++, from += t->p->width, to += QNET__STEM_TAPS)
                        for (ptrdiff_t k = 0; k < n; k++) to[k] += (double)from[k];
                }
        }
    }
    memset(t->begun, 0, sizeof t->begun);
    t->outputs = 0;
}

/* The bands of a part, whose sums nobody else touches. */
static void qnet__stem_part_task(void *arg, size_t part, size_t worker)
{
    const qnet__stem_backward_job *p = (const qnet__stem_backward_job *)arg;
    const qnet__stem *s = &p->s;
    const size_t chunks = qnet__stem_chunks(s), parts = (size_t)p->parts;
    const size_t end = (part + 1) * chunks / parts, row = (size_t)(p->pitch * QNET__STEM_U);
    qnet__stem_work t;
    memset(&t, 0, sizeof t);
    t.p = p;
    t.u = p->u + worker * (size_t)(p->rows + 3) * row;
    t.columns = p->columns + worker * (size_t)((p->rows * p->pitch + 3) * QNET__STEM_COLUMN);
    t.lags = p->lags + worker * 49 * QNET__STEM_U * (size_t)p->width;
    t.lag_sums = p->lag_sums + worker * 49 * QNET__STEM_U;
    t.sums = p->sums + part * QNET__STEM_SUMS;
    memset(t.sums, 0, QNET__STEM_SUMS * sizeof *t.sums);
    for (size_t chunk = part * chunks / parts; chunk < end; chunk++) {
        const ptrdiff_t band = (ptrdiff_t)chunk % s->bands, y = band * s->band;
        const ptrdiff_t y_end = qnet__stem_end(s, band);
        const size_t rows = (size_t)((y_end - y) * s->pool_w);
        t.image = (ptrdiff_t)chunk / s->bands;
        t.first = band > 0 ? 2 * y - 1 : 0; /* the windows reach up */
        t.last = band + 1 < s->bands ? 2 * y_end : s->out_h + 3;
        qnet__stem_columns(&t);
        p->mask.epilogue->rows[chunk] = rows;
        p->isa->pass(&p->mask, (size_t)((t.image * s->pool_h + y) * s->pool_w), rows, chunk);
        qnet__stem_cross(&t, y, y_end);
        for (int k = 0; k < 7; k++) {
            const ptrdiff_t first = qnet__stem_class(s->out_h, k);
            const ptrdiff_t class_end = qnet__stem_class(s->out_h, k + 1);
            const ptrdiff_t last = class_end < t.last ? class_end : t.last;
            for (ptrdiff_t r = first > 2 * y ? first : 2 * y; r < last; r += QNET__SEGMENTS)
                qnet__stem_lags(&t, r, last - r < QNET__SEGMENTS ? last : r + QNET__SEGMENTS, k);
        }
        t.outputs += (t.last - 2 * y) * s->out_w;
        if (t.outputs >= QNET__STEM_OUTPUTS || chunk + 1 == end) qnet__stem_flush(&t);
    }
}

/* Row `row` of all parts' sums, for the first part. */
static void qnet__stem_join_task(void *arg, size_t row, size_t worker)
{
    const qnet__stem_backward_job *p = (const qnet__stem_backward_job *)arg;
    double *to = p->sums + row * QNET__STEM_TAPS;
    QNET__UNUSED(worker);
    for (size_t part = 1; part < (size_t)p->parts; part++)
        for (size_t k = 0; k < QNET__STEM_TAPS; k++) to[k] += to[part * QNET__STEM_SUMS + k];
}

/* The number among the 192 of weight k = (ky 7 + kx) 3 + c; *order: that of its s, then t, to know
   which half of gram has two taps. */
static ptrdiff_t qnet__stem_tap(ptrdiff_t k, ptrdiff_t *order)
{
    const ptrdiff_t ky = k / 21, kx = k / 3 % 7;
    *order = ky / 2 * 4 + kx / 2;
    return (kx / 2 * 4 + ky / 2) * QNET__STEM_U + ky % 2 * 6 + kx % 2 * 3 + k % 3;
}

/* dw[k][64] of weight k, from the sums of all parts. */
static void qnet__stem_weight_task(void *arg, size_t k, size_t worker)
{
    const qnet__stem_backward_job *p = (const qnet__stem_backward_job *)arg;
    const double outputs = (double)p->s.conv.batch * (double)(p->s.out_h * p->s.out_w);
    const double *cross = p->sums, *gram = p->sums + QNET__STEM_GRAM;
    const double *sum = p->sums + QNET__STEM_SUM;
    ptrdiff_t order, other_order;
    const ptrdiff_t tap = qnet__stem_tap((ptrdiff_t)k, &order);
    double cov_w[64] = {0}; /* row k of (gram - sum sum^T / N) w */
    QNET__UNUSED(worker);
    for (ptrdiff_t other = 0; other < 147; other++) {
        const ptrdiff_t i = qnet__stem_tap(other, &other_order);
        const ptrdiff_t at = other_order < order ? i * QNET__STEM_TAPS + tap
                                                 : tap * QNET__STEM_TAPS + i;
        const double cov = gram[at] - sum[tap] * sum[i] / outputs;
        for (ptrdiff_t c = 0; c < 64; c++) cov_w[c] += cov * (double)p->w[other * 64 + c];
    }
    for (size_t c = 0; c < 64; c++)
        p->dw[k * 64 + c] = (qnet_real)((double)p->scale[c] *
            (cross[c * QNET__STEM_TAPS + (size_t)tap] - (double)p->shift[c] * sum[tap] -
             (double)p->slope[c] * cov_w[c]));
}

/* What the job needs of the arena. */
static void qnet__stem_backward_plan(const qnet_context *ctx, const qnet_conv2d *conv,
                                     qnet__arena *arena, qnet__stem_backward_job *p)
{
    const size_t workers = qnet__workers(ctx), real = sizeof(qnet_real);
    size_t row;
    memset(p, 0, sizeof *p);
    p->s = qnet__stem_geometry(conv);
    p->isa = qnet__isa_of(ctx);
    p->parts = (ptrdiff_t)qnet__min_size(QNET__STEM_TASKS, qnet__stem_chunks(&p->s));
    p->pitch = p->s.out_w + 6;
    p->rows = 2 * p->s.band + 5;
    p->width = (ptrdiff_t)(qnet__panels(p->isa, QNET__STEM_LAGS) * p->isa->columns);
    row = (size_t)p->pitch * QNET__STEM_U;
    p->sums = (double *)qnet__take(arena, (size_t)p->parts, QNET__STEM_SUMS * sizeof(double));
    p->u = (qnet_real *)qnet__take(arena, workers * (size_t)(p->rows + 3), row * real);
    p->columns = (qnet_real *)qnet__take(arena, workers * (size_t)(p->rows * p->pitch + 3),
                                         QNET__STEM_COLUMN * real);
    p->lags = (qnet_real *)qnet__take(arena, workers * 49 * QNET__STEM_U, (size_t)p->width * real);
    p->lag_sums = (double *)qnet__take(arena, workers * 49 * QNET__STEM_U, sizeof(double));
}

static size_t qnet__stem_backward_scratch(const qnet_context *ctx, const qnet_conv2d *conv)
{
    qnet__stem_backward_job p;
    qnet__arena arena = {NULL, 0};
    qnet__stem_backward_plan(ctx, conv, &arena, &p);
    return arena.at;
}

/* pad from the mean of each channel over the images' middle rows. */
static void qnet__stem_level(qnet__stem_backward_job *p)
{
    const size_t width = (size_t)p->s.conv.width, height = (size_t)p->s.conv.height;
    for (size_t c = 0; c < 3; c++) {
        double sum = 0;
        for (size_t b = 0; b < (size_t)p->s.conv.batch; b++)
            for (size_t x = 0; x < width; x++)
                sum += (double)p->x[((b * height + height / 2) * width + x) * 3 + c];
        for (size_t k = c; k < QNET__STEM_U; k += 3)
            p->pad[k] = (qnet_real)(-sum / (double)p->s.conv.batch / (double)width);
    }
}

/* Masks the gradient dpool of the pooled map where the ReLU was 0, with sums as for a map of
   pooled pre, and prepares the gradient of the weights: to the scratch. sums->y is dpool. The job
   then is ready for qnet__stem_weight_task. */
static void qnet__stem_backward(qnet_context *ctx, qnet__stem_backward_job *p, qnet__epilogue *sums)
{
    p->dpool = qnet__prologue_plain(sums->y);
    p->mask.prologue = &p->dpool, p->mask.epilogue = sums;
    p->mask.channels = 64;
    sums->chunks = qnet__stem_chunks(&p->s);
    qnet__stem_level(p);
    qnet__parallel(ctx, (size_t)p->parts, qnet__stem_part_task, p);
    qnet__parallel(ctx, 257, qnet__stem_join_task, p);
}

/* ============================================================================================
   >>dense  Fully connected layer on qnet_gemm; softmax and cross-entropy in double, as there are
   few classes and much depends on them.
   Relies on >>gemm >>norm >>pool.
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
    const size_t i = (size_t)in, o = (size_t)out;
    QNET__TRY(qnet__check_layer(ctx, "qnet_dense_forward", rows, "inputs", in, x && w && y));
    QNET__TRY(qnet__check_layer(ctx, "qnet_dense_forward", rows, "outputs", out, 1));
    QNET__TRY(qnet_gemm(ctx, 0, 1, rows, o, i, x, i, w, i, 0, y, o, scratch));
    for (size_t r = 0; b != NULL && r < rows; r++)
        for (size_t c = 0; c < o; c++) y[r * o + c] += b[c];
    return QNET_OK;
}

#if QNET__HAS_TRAINING
/* Forward: y = x w^T + b, so dw = dy^T x, db = sum of dy over rows, dx = dy w. */
QNET_API qnet_status qnet_dense_backward(qnet_context *ctx, size_t rows, int in, int out,
                                         const qnet_real *x, const qnet_real *w,
                                         const qnet_real *dy, qnet_real *dx, qnet_real *dw,
                                         qnet_real *db, void *scratch)
{
    const size_t i = (size_t)in, o = (size_t)out;
    QNET__TRY(qnet__check_layer(ctx, "qnet_dense_backward", rows, "inputs", in, x && w && dy));
    QNET__TRY(qnet__check_layer(ctx, "qnet_dense_backward", rows, "outputs", out, 1));
    if (dw != NULL) QNET__TRY(qnet_gemm(ctx, 1, 0, o, i, rows, dy, o, x, i, 0, dw, i, scratch));
    if (db != NULL) qnet__sum_columns(ctx, 1, rows, o, 1, dy, db);
    if (dx != NULL) QNET__TRY(qnet_gemm(ctx, 0, 0, rows, i, o, dy, o, w, i, 0, dx, i, scratch));
    return QNET_OK;
}
#endif

/* Of l[classes]: the maximum m, which is subtracted so that exp cannot overflow; returns
   sum exp(l - m). */
static double qnet__exp_sum(int classes, const qnet_real *l, double *m)
{
    double sum = 0;
    *m = (double)l[0];
    for (int c = 1; c < classes; c++)
        if ((double)l[c] > *m) *m = (double)l[c];
    for (int c = 0; c < classes; c++) sum += exp((double)l[c] - *m);
    return sum;
}

/* p[c] = exp(l[c] - m) / sum exp(l - m), m = max l. A row is read before it is written, and only
   its own number is overwritten, so probability may be logits. */
QNET_API void qnet_softmax(size_t rows, int classes, const qnet_real *logits,
                           qnet_real *probability)
{
    if (classes < 1 || logits == NULL || probability == NULL) return;
    for (size_t r = 0; r < rows; r++, logits += classes, probability += classes) {
        double m;
        const double sum = qnet__exp_sum(classes, logits, &m);
        for (int c = 0; c < classes; c++)
            probability[c] = (qnet_real)(exp((double)logits[c] - m) / sum);
    }
}

#if QNET__HAS_TRAINING
/* loss = mean of log(sum exp(l - m)) - (l[label] - m); dl[c] = (p[c] - [c = label]) / counted.
   The logarithm of the sum, not of p[label], which may have rounded to 0. Labels are checked
   before anything is written. A NaN logit makes the loss NaN, which training looks for. */
QNET_API qnet_status qnet_cross_entropy(qnet_context *ctx, size_t rows, int classes,
                                        const qnet_real *logits, const int *label, double *loss,
                                        qnet_real *dlogits)
{
    size_t counted = 0;
    double total = 0;
    QNET__TRY(qnet__check_layer(ctx, "qnet_cross_entropy", rows, "classes", classes,
                                logits && label && loss));
    for (size_t r = 0; r < rows; r++) {
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
    for (size_t r = 0; r < rows; r++) {
        const qnet_real *l = logits + r * (size_t)classes;
        double m, sum = qnet__exp_sum(classes, l, &m);
        if (label[r] >= 0) total += log(sum) - ((double)l[label[r]] - m);
        for (int c = 0; dlogits != NULL && c < classes; c++) {
            const double p = exp((double)l[c] - m) / sum;
            dlogits[r * (size_t)classes + (size_t)c] =
                label[r] < 0 ? 0 : (qnet_real)((p - (c == label[r])) / (double)counted);
        }
    }
    *loss = total / (double)counted;
    return QNET_OK;
}
#endif

/* ============================================================================================
   >>lstm  Long short-term memory (Hochreiter & Schmidhuber 1997), Eqs. (1)-(5) of the paper:

       i_t = sigma(W_i x_t + U_i h_{t-1} + b_i)                                    (1)
       o_t = sigma(W_o x_t + U_o h_{t-1} + b_o)                                    (2)
       f_t = sigma(W_f x_t + U_f h_{t-1} + b_f)                                    (3)
       c_t = f_t * c_{t-1} + i_t * tanh(W_c x_t + U_c h_{t-1} + b_c)               (4)
       h_t = o_t * tanh(c_t)                                                       (5)

   x_t[in], h_t[hidden]. The gates are stacked as in PyTorch: i, f, g = tanh(W_c x + U_c h + b_c),
   o. Below, h' and c' stand for those of the step before, in the order of the direction.

   W x is one product over all steps of all scans. U h' needs the steps one after another, but not
   the scans: a task takes one direction of a group of scans through all their steps, with U packed
   once for all tasks. The backward pass does the same and keeps dgates of all steps, so that dW,
   dU and dx are one product each. A BLAS is not used: it would pack U again at every step.

   Scans end at their own length and nothing is computed past it. They are grouped by falling
   length, so that those of a group end at about the same step.
   Relies on >>context >>kernels >>gemm.
   ============================================================================================ */

/* Eqs. (1)-(5) as they stand: the definition. Does nothing where a size is below 1 or a pointer is
   NULL. */
QNET_API void qnet_lstm_cell(int in, int hidden, const qnet_real *w, const qnet_real *u,
                             const qnet_real *b, const qnet_real *x, const qnet_real *h_prev,
                             const qnet_real *c_prev, qnet_real *h, qnet_real *c, qnet_real *gates)
{
    const size_t n = (size_t)hidden, m = (size_t)in;
    if (in < 1 || hidden < 1 || !(w && u && b && x && h_prev && c_prev && h && c && gates)) return;
    for (size_t j = 0; j < 4 * n; j++) { /* all of them before any h, which may alias h_prev */
        qnet_real a = b[j];
        for (size_t k = 0; k < m; k++) a += w[j * m + k] * x[k];
        for (size_t k = 0; k < n; k++) a += u[j * n + k] * h_prev[k];
        gates[j] = j / n == 2 ? qnet__tanh(a) : qnet__sigmoid(a); /* (1), (3), tanh of (4), (2) */
    }
    for (size_t j = 0; j < n; j++) {
        const qnet_real *i = gates, *f = gates + n, *g = gates + 2 * n, *o = gates + 3 * n;
        c[j] = f[j] * c_prev[j] + i[j] * g[j]; /* (4) */
        h[j] = o[j] * qnet__tanh(c[j]);        /* (5) */
    }
}

/* ---- The layer ------------------------------------------------------------------------------- */

#define QNET__LSTM_GROUP 12           /* scans of a task: two tiles of rows */
#define QNET__LSTM_BAND 96            /* rows of C of a product's task */
#define QNET__LSTM_DEPTH ((size_t)256) /* of k at a time, where rows of A are far apart */
#define QNET__LSTM_ROWS ((size_t)64)  /* of a task that copies rows */

/* One direction. A "row" is a pair of a scan and a step below its length; rows are numbered by
   group, step and place in the group, the order in which dW, dU and db add them up. */
typedef struct qnet__lstm_direction {
    int backwards;
    const qnet_real *w, *u, *b; /* [4 hidden][in], [4 hidden][hidden], [4 hidden] */
    qnet_real *y;               /* [batch][steps][2 hidden], at this direction's first column */
    qnet_real *gates;           /* [batch][steps][4 hidden]: i, f, g, o */
    qnet_real *c, *tanh_c;      /* [batch][steps][hidden] */
    const qnet_real *dy;        /* as y */
    qnet_real *packed_w, *packed_u; /* forward: W^T and U^T in panels; backward: W and U */
    qnet_real *dgates;          /* [rows][gate_width] */
    qnet_real *h_panels;        /* h' of all rows, as right-hand side */
    double *db;                 /* [groups][4 hidden] */
} qnet__lstm_direction;

typedef struct qnet__lstm {
    const qnet__isa *isa;
    size_t batch, steps, in, hidden, groups, rows;
    const int *length;     /* [batch] */
    const qnet_real *x;    /* [batch][steps][in] */
    qnet__lstm_direction direction[2];
    size_t *order;         /* [batch]: scans by falling length, equal ones as they come */
    size_t *first;         /* [groups][steps + 1], and one more: the first row of a group's step */
    size_t *at;            /* [rows]: scan * steps + step */
    qnet_real *zero;       /* [hidden]: h and c before the first step */
    qnet_real *worker;     /* [workers][worker_size]: [group][gate_width] and [group][h_width] */
    size_t worker_size, x_width, gate_width, h_width;
    qnet_real *x_rows;     /* forward: x of all rows, [rows][x_width] */
    qnet_real *x_panels;   /* backward: the same as right-hand side */
} qnet__lstm;

/* NULL and a shape out of range: 0. Per direction and row: four gates, c and tanh(c). */
QNET_API size_t qnet_lstm_saved(const qnet_lstm *shape)
{
    size_t rows, numbers, bytes;
    if (shape == NULL || shape->batch < 1 || shape->steps < 1 || shape->in < 1 || shape->hidden < 1)
        return 0;
    if (!qnet__mul((size_t)shape->batch, (size_t)shape->steps, &rows) ||
        !qnet__mul(rows, 12 * (size_t)shape->hidden, &numbers) ||
        !qnet__mul(numbers, sizeof(double), &bytes) ||
        !qnet__mul(rows, (size_t)shape->in * sizeof(double), &bytes))
        return 0;
    return numbers;
}

/* Numbers between rows of `columns`: whole panels, and a cache line more, because rows a power of
   two apart would fall on the same lines of the cache. */
static size_t qnet__lstm_width(const qnet__isa *isa, size_t columns)
{
    return qnet__panels(isa, columns) * isa->columns + QNET__ALIGN / sizeof(qnet_real);
}

/* Sizes, and the arrays of a pass carved from scratch. */
static void qnet__lstm_plan(const qnet_context *ctx, const qnet_lstm *shape, int backward,
                            qnet__lstm *l, qnet__arena *arena)
{
    const size_t batch = (size_t)shape->batch, rows = batch * (size_t)shape->steps;
    const size_t in = (size_t)shape->in, n = (size_t)shape->hidden, real = sizeof(qnet_real);
    const qnet__isa *isa = qnet__isa_of(ctx);
    const size_t in_panels = qnet__panels(isa, in) * isa->columns;
    const size_t n_panels = qnet__panels(isa, n) * isa->columns;
    const size_t gate_panels = qnet__panels(isa, 4 * n) * isa->columns;
    memset(l, 0, sizeof *l);
    l->isa = isa;
    l->batch = batch, l->steps = (size_t)shape->steps, l->in = in, l->hidden = n;
    l->groups = (batch - 1) / QNET__LSTM_GROUP + 1;
    l->x_width = qnet__lstm_width(isa, in);
    l->gate_width = qnet__lstm_width(isa, 4 * n);
    l->h_width = qnet__lstm_width(isa, n);
    l->worker_size = QNET__LSTM_GROUP * (l->gate_width + l->h_width);
    l->order = (size_t *)qnet__take(arena, batch, sizeof(size_t));
    l->first = (size_t *)qnet__take(arena, l->groups * (l->steps + 1) + 1, sizeof(size_t));
    l->at = (size_t *)qnet__take(arena, rows, sizeof(size_t));
    l->zero = (qnet_real *)qnet__take(arena, n, real);
    l->worker = (qnet_real *)qnet__take(arena, qnet__workers(ctx), l->worker_size * real);
    if (backward)
        l->x_panels = (qnet_real *)qnet__take(arena, rows, in_panels * real);
    else
        l->x_rows = (qnet_real *)qnet__take(arena, rows, l->x_width * real);
    for (int d = 0; d < 2; d++) {
        qnet__lstm_direction *dir = &l->direction[d];
        dir->backwards = d;
        if (!backward) {
            dir->packed_w = (qnet_real *)qnet__take(arena, gate_panels, in * real);
            dir->packed_u = (qnet_real *)qnet__take(arena, gate_panels, n * real);
            continue;
        }
        dir->packed_w = (qnet_real *)qnet__take(arena, in_panels, 4 * n * real);
        dir->packed_u = (qnet_real *)qnet__take(arena, n_panels, 4 * n * real);
        dir->dgates = (qnet_real *)qnet__take(arena, rows, l->gate_width * real);
        dir->h_panels = (qnet_real *)qnet__take(arena, rows, n_panels * real);
        dir->db = (double *)qnet__take(arena, l->groups, 4 * n * sizeof(double));
    }
}

/* Bytes that either pass needs, so that one block serves a training step; 0 for a shape that is
   out of range. */
QNET_API size_t qnet_lstm_scratch(const qnet_context *ctx, const qnet_lstm *shape)
{
    qnet__lstm l;
    qnet__arena forward = {NULL, 0}, backward = {NULL, 0};
    if (qnet_lstm_saved(shape) == 0) return 0;
    qnet__lstm_plan(ctx, shape, 0, &l, &forward);
    if (QNET__HAS_TRAINING)
        qnet__lstm_plan(ctx, shape, 1, &l, &backward);
    return qnet__max_size(forward.at, backward.at);
}

/* The caller's arrays, after the plan; y and saved are written by the forward pass alone. Then the
   order of work: order, first and at. */
static void qnet__lstm_begin(qnet__lstm *l, const int *length, const qnet_lstm_weights *weights,
                             const qnet_real *x, qnet_real *y, qnet_real *saved)
{
    const size_t rows = l->batch * l->steps, n = l->hidden;
    size_t *first = l->first;
    l->length = length;
    l->x = x;
    memset(l->zero, 0, n * sizeof *l->zero);
    for (size_t d = 0; d < 2; d++) {
        qnet__lstm_direction *dir = &l->direction[d];
        dir->w = weights->w[d], dir->u = weights->u[d], dir->b = weights->b[d];
        dir->y = y + d * n;
        dir->gates = saved + d * rows * 6 * n;
        dir->c = dir->gates + rows * 4 * n;
        dir->tanh_c = dir->c + rows * n;
    }
    for (size_t i = 0; i < l->batch; i++) { /* insertion: few scans, often sorted already */
        size_t place = i;
        for (; place > 0 && length[l->order[place - 1]] < length[i]; place--)
            l->order[place] = l->order[place - 1];
        l->order[place] = i;
    }
    for (size_t g = 0; g < l->batch; g += QNET__LSTM_GROUP) {
        const size_t end = qnet__min_size(g + QNET__LSTM_GROUP, l->batch);
        for (size_t t = 0; t <= l->steps; t++) {
            *first++ = l->rows;
            for (size_t i = g; i < end && t < (size_t)length[l->order[i]]; i++)
                l->at[l->rows++] = l->order[i] * l->steps + t;
        }
    }
    *first = l->rows;
}

/* The first row of step t of group g, t <= steps. */
static const size_t *qnet__lstm_first(const qnet__lstm *l, size_t g, size_t t)
{
    return l->first + g * (l->steps + 1) + t;
}

/* Scans of group g that reach step t <= steps: its first ones, as they fall in length. */
static size_t qnet__lstm_scans(const qnet__lstm *l, size_t g, size_t t)
{
    const size_t *first = qnet__lstm_first(l, g, t);
    return first[1] - first[0];
}

/* Of [batch][steps]: the step before `at` in this direction. */
static size_t qnet__lstm_before(const qnet__lstm_direction *dir, size_t at)
{
    return dir->backwards ? at + 1 : at - 1;
}

/* ---- Packing and products -------------------------------------------------------------------- */

/* Panel number `index` of a list of matrices. */
static void qnet__lstm_pack_task(void *arg, size_t index, size_t worker)
{
    qnet__packing *p = (qnet__packing *)arg;
    for (; index * p->width >= p->columns; p++) index -= (p->columns + p->width - 1) / p->width;
    qnet__pack_task(p, index, worker);
}

/* W (where it is wanted) and U of both directions as right-hand sides; forward W^T and U^T. */
static void qnet__lstm_pack(qnet_context *ctx, const qnet__lstm *l, int backward, int w_too)
{
    const size_t gates = 4 * l->hidden;
    size_t panels = 0;
    qnet__packing p[4];
    memset(p, 0, sizeof p);
    for (size_t i = 0; i < 4; i++) {
        const qnet__lstm_direction *dir = &l->direction[i % 2];
        const size_t n = i < 2 ? l->in : l->hidden; /* columns of W or U */
        p[i].src = i < 2 ? dir->w : dir->u;
        p[i].dst = i < 2 ? dir->packed_w : dir->packed_u;
        p[i].blocks = 1;
        p[i].width = l->isa->columns;
        p[i].length = backward ? gates : n;
        p[i].columns = i < 2 && !w_too ? 0 : backward ? n : gates;
        p[i].row_step = backward ? n : 1, p[i].column_step = backward ? 1 : n;
        panels += qnet__panels(l->isa, p[i].columns);
    }
    qnet__parallel(ctx, panels, qnet__lstm_pack_task, p);
}

/* C[r][j] (+)= sum over k of A[r][k] B[k][j], with A[r][k] = a[r * a_row + k * a_step]; C's row r
   at c + c_at[r] * columns (c_at NULL: r * columns); B in panels. */
typedef struct qnet__lstm_product {
    const qnet__isa *isa;
    size_t rows, columns, k, a_row, a_step;
    const qnet_real *a, *b;
    qnet_real *c; /* NULL: not wanted */
    const size_t *c_at;
    int accumulate;
    size_t depth, chunk, chunks, tasks; /* k and panels of a task, tasks of a band and at all */
} qnet__lstm_product;

/* The product of rows a[..] and a right-hand side of k rows in panels, for qnet__multiply: all but
   b and the number of rows. */
static qnet__product qnet__lstm_rows(const qnet__isa *isa, size_t k, size_t columns,
                                     const qnet_real *const *a, qnet_real *const *c)
{
    qnet__product p;
    memset(&p, 0, sizeof p);
    p.a = a, p.a_step = 1, p.c = c;
    p.b_step = isa->columns, p.b_panel = k * isa->columns;
    p.columns = columns, p.segments = 1, p.length = k;
    p.chain = QNET__CHAIN_DIRECT, p.piece = QNET__PIECE;
    return p;
}

/* A band of rows times some panels, k in pieces. Tasks go through all products of the list. */
static void qnet__lstm_product_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm_product *p = (const qnet__lstm_product *)arg;
    const qnet_real *a[QNET__LSTM_BAND], *b;
    qnet_real *c[QNET__LSTM_BAND];
    size_t first, panel, column;
    qnet__product product;
    QNET__UNUSED(worker);
    for (; index >= p->tasks; p++) index -= p->tasks;
    first = index / p->chunks * QNET__LSTM_BAND;
    panel = index % p->chunks * p->chunk, column = panel * p->isa->columns;
    product = qnet__lstm_rows(p->isa, p->k, qnet__min_size(p->chunk * p->isa->columns,
                                                           p->columns - column), a, c);
    product.a_step = p->a_step, product.beside = p->a_step > 1, product.b = &b;
    product.rows = qnet__min_size(QNET__LSTM_BAND, p->rows - first);
    for (size_t i = 0; i < product.rows; i++)
        c[i] = p->c + (p->c_at != NULL ? p->c_at[first + i] : first + i) * p->columns + column;
    for (size_t k = 0; k < p->k; k += p->depth) {
        b = p->b + (panel * p->k + k) * p->isa->columns;
        for (size_t i = 0; i < product.rows; i++)
            a[i] = p->a + (first + i) * p->a_row + k * p->a_step;
        product.length = qnet__min_size(p->k - k, p->depth);
        product.accumulate = p->accumulate || k > 0;
        qnet__multiply(p->isa, &product);
    }
}

/* All products of a list, which write to different places. */
static void qnet__lstm_multiply(qnet_context *ctx, const qnet__lstm *l, qnet__lstm_product *p,
                                size_t count)
{
    size_t tasks = 0;
    for (size_t i = 0; i < count; i++) {
        const size_t panels = qnet__panels(l->isa, p[i].columns);
        p[i].isa = l->isa;
        p[i].depth = p[i].a_step > 1 ? qnet__min_size(p[i].k, QNET__LSTM_DEPTH) : p[i].k;
        p[i].chunk = qnet__panels_per_task(panels, l->isa->columns * p[i].depth);
        p[i].chunks = (panels - 1) / p[i].chunk + 1;
        p[i].tasks = p[i].c == NULL ? 0 : p[i].chunks * ((p[i].rows - 1) / QNET__LSTM_BAND + 1);
        tasks += p[i].tasks;
    }
    qnet__parallel(ctx, tasks, qnet__lstm_product_task, p);
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* x side by side, for some rows. */
static void qnet__lstm_gather_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm *l = (const qnet__lstm *)arg;
    const size_t end = qnet__min_size((index + 1) * QNET__LSTM_ROWS, l->rows);
    QNET__UNUSED(worker);
    for (size_t r = index * QNET__LSTM_ROWS; r < end; r++)
        memcpy(l->x_rows + r * l->x_width, l->x + l->at[r] * l->in, l->in * sizeof *l->x);
}

/* One direction of one group, step by step. A worker's memory: U h', and h of the step before. Both
   are 0 where a scan begins: rows that no product has written yet. */
static void qnet__lstm_forward_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm *l = (const qnet__lstm *)arg;
    const qnet__lstm_direction *dir = &l->direction[index % 2];
    const size_t g = index / 2, n = l->hidden, *scan = l->order + g * QNET__LSTM_GROUP;
    const size_t steps = (size_t)l->length[scan[0]];
    qnet_real *uh = l->worker + worker * l->worker_size;
    qnet_real *h = uh + QNET__LSTM_GROUP * l->gate_width;
    const qnet_real *a[QNET__LSTM_GROUP], *u = dir->packed_u;
    qnet_real *c[QNET__LSTM_GROUP];
    qnet__product product = qnet__lstm_rows(
        l->isa, n, qnet__panels(l->isa, 4 * n) * l->isa->columns, a, c); /* U h' */
    product.b = &u;
    memset(uh, 0, QNET__LSTM_GROUP * l->gate_width * sizeof *uh);
    for (size_t i = 0; i < QNET__LSTM_GROUP; i++)
        a[i] = h + i * l->h_width, c[i] = uh + i * l->gate_width;
    for (size_t k = 0; k < steps; k++) {
        const size_t step = dir->backwards ? steps - 1 - k : k;
        const size_t active = qnet__lstm_scans(l, g, step);
        const size_t going = k == 0 ? 0 : qnet__lstm_scans(l, g, step + (size_t)dir->backwards);
        product.rows = going;
        qnet__multiply(l->isa, &product);
        for (size_t i = 0; i < active; i++) {
            const size_t at = scan[i] * l->steps + step;
            qnet__lstm_row row;
            memset(&row, 0, sizeof row);
            row.hidden = n;
            row.b = dir->b, row.uh = c[i];
            row.c_prev = i < going ? dir->c + qnet__lstm_before(dir, at) * n : l->zero;
            row.gates = dir->gates + at * 4 * n;
            row.c = dir->c + at * n, row.tanh_c = dir->tanh_c + at * n;
            row.h = dir->y + at * 2 * n, row.next_h = h + i * l->h_width;
            l->isa->lstm_forward(&row);
        }
    }
}

/* The gates' W x of all rows, then the recurrence. */
static void qnet__lstm_run_forward(qnet_context *ctx, qnet__lstm *l)
{
    qnet__lstm_product p[2];
    memset(p, 0, sizeof p);
    for (size_t d = 0; d < 2; d++) {
        p[d].rows = l->rows, p[d].columns = 4 * l->hidden, p[d].k = l->in;
        p[d].a = l->x_rows, p[d].a_row = l->x_width, p[d].a_step = 1;
        p[d].b = l->direction[d].packed_w;
        p[d].c = l->direction[d].gates, p[d].c_at = l->at;
    }
    qnet__lstm_pack(ctx, l, 0, 1);
    qnet__parallel(ctx, (l->rows - 1) / QNET__LSTM_ROWS + 1, qnet__lstm_gather_task, l);
    qnet__lstm_multiply(ctx, l, p, 2);
    qnet__parallel(ctx, l->groups * 2, qnet__lstm_forward_task, l);
}

/* Shape, lengths and pointers of a call. */
static qnet_status qnet__lstm_check(qnet_context *ctx, const char *name, const qnet_lstm *shape,
                                    const int *length, int pointers_are_there)
{
    if (ctx == NULL || shape == NULL || length == NULL || !pointers_are_there)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: a required pointer is NULL", name);
    if (qnet_lstm_saved(shape) == 0)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "%s: expected batch, steps, in and hidden >= 1 and sizes that fit, found "
                          "%d, %d, %d and %d", name, shape->batch, shape->steps, shape->in,
                          shape->hidden);
    for (int b = 0; b < shape->batch; b++)
        if (length[b] < 1 || length[b] > shape->steps)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "%s: length of sequence %d: expected 1..%d, found %d", name, b,
                              shape->steps, length[b]);
    return QNET_OK;
}

/* Zeros in map[batch][steps][n] past the scans' ends. */
static void qnet__lstm_pad(const qnet__lstm *l, size_t n, qnet_real *map)
{
    for (size_t b = 0; b < l->batch; b++) {
        const size_t length = (size_t)l->length[b];
        memset(map + (b * l->steps + length) * n, 0, (l->steps - length) * n * sizeof *map);
    }
}

QNET_API qnet_status qnet_lstm_forward(qnet_context *ctx, const qnet_lstm *shape, const int *length,
                                       const qnet_lstm_weights *weights, const qnet_real *x,
                                       qnet_real *y, qnet_real *saved, void *scratch)
{
    qnet__lstm l;
    qnet__arena arena = {NULL, 0};
    const size_t bytes = qnet_lstm_scratch(ctx, shape);
    void *block, *owned;
    QNET__TRY(qnet__lstm_check(ctx, "qnet_lstm_forward", shape, length,
                               weights && weights->w[0] && weights->w[1] && weights->u[0] &&
                               weights->u[1] && weights->b[0] && weights->b[1] && x && y && saved));
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "LSTM", &block, &owned));
    arena.base = (unsigned char *)block;
    qnet__lstm_plan(ctx, shape, 0, &l, &arena);
    qnet__lstm_begin(&l, length, weights, x, y, saved);
    qnet__lstm_pad(&l, 2 * l.hidden, y);
    qnet__lstm_run_forward(ctx, &l);
    qnet__free(ctx, owned, bytes);
    return QNET_OK;
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* Row r of a right-hand side of `rows` rows, from count numbers. */
static void qnet__lstm_spread(const qnet__lstm *l, const qnet_real *from, size_t count, size_t r,
                              qnet_real *panels)
{
    const size_t width = l->isa->columns;
    qnet_real *to = panels + r * width;
    for (size_t at = 0; at < count; at += width, to += l->rows * width) {
        const size_t part = qnet__min_size(width, count - at);
        if (part < width) memset(to, 0, width * sizeof *to);
        memcpy(to, from + at, part * sizeof *to);
    }
}

/* Right-hand sides of dW and dU for some rows: x, and h' of both directions. */
static void qnet__lstm_spread_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm *l = (const qnet__lstm *)arg;
    const size_t end = qnet__min_size((index + 1) * QNET__LSTM_ROWS, l->rows);
    QNET__UNUSED(worker);
    for (size_t r = index * QNET__LSTM_ROWS; r < end; r++) {
        const size_t at = l->at[r], b = at / l->steps, t = at % l->steps;
        qnet__lstm_spread(l, l->x + at * l->in, l->in, r, l->x_panels);
        for (size_t d = 0; d < 2; d++) {
            const qnet__lstm_direction *dir = &l->direction[d];
            const int begins = t == (d > 0 ? (size_t)l->length[b] - 1 : 0);
            const qnet_real *h = begins ? l->zero
                                        : dir->y + qnet__lstm_before(dir, at) * 2 * l->hidden;
            qnet__lstm_spread(l, h, l->hidden, r, dir->h_panels);
        }
    }
}

/* One direction of one group, against the forward order: dgates of a step, then what it sends back
   to the step before, dh' = dgates U. A worker's memory: dc and dh, both 0 where a scan ends. */
static void qnet__lstm_backward_task(void *arg, size_t index, size_t worker)
{
    const qnet__lstm *l = (const qnet__lstm *)arg;
    const qnet__lstm_direction *dir = &l->direction[index % 2];
    const size_t g = index / 2, n = l->hidden, *scan = l->order + g * QNET__LSTM_GROUP;
    const size_t steps = (size_t)l->length[scan[0]];
    qnet_real *dh = l->worker + worker * l->worker_size, *dc = dh + QNET__LSTM_GROUP * l->h_width;
    double *db = dir->db + g * 4 * n;
    const qnet_real *a[QNET__LSTM_GROUP], *u = dir->packed_u;
    qnet_real *c[QNET__LSTM_GROUP];
    qnet__product product = qnet__lstm_rows(
        l->isa, 4 * n, qnet__panels(l->isa, n) * l->isa->columns, a, c); /* dgates U */
    product.b = &u;
    memset(dh, 0, QNET__LSTM_GROUP * (l->h_width + n) * sizeof *dh);
    memset(db, 0, 4 * n * sizeof *db);
    for (size_t i = 0; i < QNET__LSTM_GROUP; i++) c[i] = dh + i * l->h_width;
    for (size_t k = steps; k-- > 0;) {
        const size_t step = dir->backwards ? steps - 1 - k : k;
        const size_t active = qnet__lstm_scans(l, g, step);
        const size_t going = k == 0 ? 0 : qnet__lstm_scans(l, g, step + (size_t)dir->backwards);
        qnet_real *dgates = dir->dgates + *qnet__lstm_first(l, g, step) * l->gate_width;
        for (size_t i = 0; i < active; i++) {
            const size_t at = scan[i] * l->steps + step;
            qnet__lstm_row row;
            memset(&row, 0, sizeof row);
            row.hidden = n;
            row.gates = dir->gates + at * 4 * n;
            row.c_prev = i < going ? dir->c + qnet__lstm_before(dir, at) * n : l->zero;
            row.tanh_c = dir->tanh_c + at * n;
            row.dy = dir->dy + at * 2 * n, row.dh = c[i];
            row.dc = dc + i * n, row.dgates = dgates + i * l->gate_width;
            row.db = db;
            a[i] = row.dgates;
            l->isa->lstm_backward(&row);
        }
        product.rows = going;
        qnet__multiply(l->isa, &product);
    }
}

/* Forward: gates = W x + U h' + b, so with dgates of all rows
       dW = dgates^T x    dU = dgates^T h'    db = sum dgates    dx = dgates W. */
static void qnet__lstm_run_backward(qnet_context *ctx, qnet__lstm *l,
                                    const qnet_lstm_gradients *gradients, qnet_real *dx)
{
    const size_t in = l->in, n = l->hidden;
    qnet__lstm_product p[4], px[2];
    memset(p, 0, sizeof p);
    memset(px, 0, sizeof px);
    for (size_t d = 0; d < 2; d++) {
        const qnet__lstm_direction *dir = &l->direction[d];
        p[d].rows = 4 * n, p[d].k = l->rows;
        p[d].a = dir->dgates, p[d].a_row = 1, p[d].a_step = l->gate_width;
        p[2 + d] = p[d];
        p[d].columns = in, p[d].b = l->x_panels, p[d].c = gradients->w[d];
        p[2 + d].columns = n, p[2 + d].b = dir->h_panels, p[2 + d].c = gradients->u[d];
        px[d].rows = l->rows, px[d].columns = in, px[d].k = 4 * n;
        px[d].a = dir->dgates, px[d].a_row = l->gate_width, px[d].a_step = 1;
        px[d].b = dir->packed_w;
        px[d].c = dx, px[d].c_at = l->at;
        px[d].accumulate = d > 0;
    }
    qnet__lstm_pack(ctx, l, 1, dx != NULL);
    qnet__parallel(ctx, (l->rows - 1) / QNET__LSTM_ROWS + 1, qnet__lstm_spread_task, l);
    qnet__parallel(ctx, l->groups * 2, qnet__lstm_backward_task, l);
    qnet__lstm_multiply(ctx, l, p, 4);
    for (size_t d = 0; d < 2; d++)
        for (size_t j = 0; gradients->b[d] != NULL && j < 4 * n; j++) {
            double sum = 0;
            for (size_t g = 0; g < l->groups; g++) sum += l->direction[d].db[g * 4 * n + j];
            gradients->b[d][j] = (qnet_real)sum;
        }
    qnet__lstm_multiply(ctx, l, &px[0], 1);
    qnet__lstm_multiply(ctx, l, &px[1], 1);
}

#if QNET__HAS_TRAINING
/* A NULL in gradients skips that one. dy past a scan's end is not read; dx is zero there. */
QNET_API qnet_status qnet_lstm_backward(qnet_context *ctx, const qnet_lstm *shape,
                                        const int *length, const qnet_lstm_weights *weights,
                                        const qnet_real *x, const qnet_real *y,
                                        const qnet_real *saved, const qnet_real *dy, qnet_real *dx,
                                        const qnet_lstm_gradients *gradients, void *scratch)
{
    qnet__lstm l;
    qnet__arena arena = {NULL, 0};
    const size_t bytes = qnet_lstm_scratch(ctx, shape);
    void *block, *owned;
    QNET__TRY(qnet__lstm_check(ctx, "qnet_lstm_backward", shape, length,
                               weights && weights->w[0] && weights->w[1] && weights->u[0] &&
                               weights->u[1] && x && y && saved && dy && gradients));
    QNET__TRY(qnet__borrow(ctx, scratch, bytes, "LSTM backward", &block, &owned));
    arena.base = (unsigned char *)block;
    qnet__lstm_plan(ctx, shape, 1, &l, &arena);
    qnet__lstm_begin(&l, length, weights, x, (qnet_real *)y, (qnet_real *)saved);
    l.direction[0].dy = dy, l.direction[1].dy = dy + l.hidden;
    if (dx != NULL) qnet__lstm_pad(&l, l.in, dx);
    qnet__lstm_run_backward(ctx, &l, gradients, dx);
    qnet__free(ctx, owned, bytes);
    return QNET_OK;
}
#endif

/* ============================================================================================
   >>resnet
   ResNet18, the image-level model (paper, "Internal Architecture", Fig. 4; He et al. 2016): 20
   convolutions, each with its batch norm ("conv_bn"), in a stem and 8 blocks. One function,
   qnet__resnet_describe, defines it; the parameter table, the memory plan, the forward and the
   backward pass walk its lists. Names in the table are torchvision's. tests/plain_resnet.h is the
   same network layer by layer, with every tensor in memory: read that first.

       x[B][H][W][3]
       stem               7x7/2 conv, BN, ReLU    [B][H/2][W/2][64]     halves are rounded up
       max pool           3x3/2                   [B][H/4][W/4][64]
       layer1  2 blocks                           [B][H/4][W/4][64]
       layer2  2 blocks   the first of stride 2   [B][H/8][W/8][128]
       layer3  2 blocks   the first of stride 2   [B][H/16][W/16][256]
       layer4  2 blocks   the first of stride 2   [B][H/32][W/32][512]  the map that CAM shows
       average pool       features                [B][512]              the embedding of stage 2
       fc                 logits                  [B][classes]

       a block:  mid = ReLU(BN(conv3x3(x))),  out = ReLU(BN(conv3x3(mid)) + shortcut),
                 shortcut = x, or BN(conv1x1/2(x)) where the block has stride 2

   Memory traffic is the limit beside the products. So a training pass keeps the output of each
   convolution, before its norm, and the output of each block, and nothing else. A prologue applies
   norm and ReLU where the next convolution reads (forward) or computes the gradient of a
   convolution's output from that of its norm (backward); an epilogue sums up the moments of a norm,
   or masks a gradient and sums up what its norm needs, where a convolution writes (>>kernels,
   >>fuse). The sum at the end of a block is a pass of its own. At inference norm, residual and ReLU
   are all in epilogues, and what a convolution stores is its output after them.

   The paper's text gives a block one ReLU, after its first convolution. The ResNet18 that it names
   and starts from (He et al., torchvision) has a second one, after the sum: so has this.

   Relies on >>context >>random >>tensor >>kernels >>fuse >>winograd >>conv >>norm >>pool >>stem
   >>dense. Convolutions with prologue and epilogue are those of >>conv; the first one, with its
   norm and pooling, that of >>stem.
   ============================================================================================ */

#define QNET__CONV_BNS 20
#define QNET__RESBLOCKS 8
#define QNET__RESNET_TRAINED (3 * QNET__CONV_BNS + 2) /* table entries that are trained */
#define QNET__RESNET_PARAMS (QNET__RESNET_TRAINED + 3 * QNET__CONV_BNS)

/* A convolution, the batch norm after it and, if relu, a ReLU. With x the convolution's output over
   N = batch out_h out_w pixels, y the norm's, g the gradient of y and d = x - mean (Ioffe & Szegedy
   2015, section 3), per channel:

       y = d scale + beta,  scale = gamma rstd,  rstd = 1 / sqrt(variance + eps);
       dbeta = sum g,  dgamma = rstd sum g d,
       dx = scale (g - mean_g - d slope_g),  mean_g = sum g / N,  slope_g = rstd^2 sum g d / N. */
typedef struct qnet__conv_bn {
    char conv_name[32], norm_name[32]; /* "layer1.0.conv1", "layer1.0.bn1" */
    qnet_conv2d conv;                  /* its batch: the largest, then that of the last pass */
    qnet__conv_algorithm algorithm; /* of the largest batch: any batch then has the same bits */
    int relu;
    qnet_real *w, *gamma, *beta;                     /* in net->weights */
    qnet_real *running_mean, *running_var, *tracked; /* in net->weights */
    qnet_real *dw, *dgamma, *dbeta;                  /* in net->gradients */
    qnet_real *packed;        /* w for the kernels, see qnet_resnet_pack; or NULL */
    qnet_real *conv_out;      /* [batch][out_h][out_w][out], after the norm at inference; of the
                                 stem: pooled, see >>stem */
    qnet_real *mean, *rstd;   /* [out]: statistics of the last training batch */
    const qnet_real *center;  /* mean; running_mean at inference */
    qnet_real *scale;         /* [out]; at inference by running_var */
    qnet_real *mean_g, *slope_g; /* [out] */
} qnet__conv_bn;

/* out = ReLU(second(first(x)) + shortcut(x)): indices of conv_bns, which follow each other;
   shortcut is -1 for x itself. Maps are [batch][h][w][channels] of the block's output. */
typedef struct qnet__resblock {
    int first, second, shortcut;
    qnet_real *out;        /* after its ReLU; until then room for a normalised input */
    qnet_real *dout;       /* gradient of the sum inside the ReLU of `out` */
    qnet_real *dmid;       /* gradient of first's norm */
} qnet__resblock;

typedef struct qnet__resnet_state {
    qnet_resnet net; /* first, so that a pointer to it is the start of the block */
    qnet__conv_bn conv_bn[QNET__CONV_BNS];
    qnet__resblock block[QNET__RESBLOCKS];
    qnet_param_table table;
    qnet_param *params;
    int stem_fused;           /* by >>stem, which takes three channels */
    uint8_t *argmax;          /* of max pooling, like the stem's conv_out */
    qnet_real *dpooled;       /* gradient of that */
    qnet_real *stem_out, *dstem; /* [batch][out_h][out_w][64], unless fused: conv, its gradient */
    qnet_real *features, *dfeatures; /* [batch][512] */
    void *scratch;            /* of the layer that runs */
    qnet__epilogue sums;      /* the memory of the sums of a norm, per chunk ... */
    double *total[2];         /* ... and of all chunks, [512] */
    void *packed;             /* of all conv_bns */
    size_t packed_bytes;
    double momentum;
    int batch, train; /* of the last forward pass; batch 0: none, or used up by a backward pass */
} qnet__resnet_state;

/* Whether the pass that runs is one of training. */
static int qnet__resnet_trains(const qnet__resnet_state *r)
{
    return QNET__HAS_TRAINING && r->train;
}

/* Names and shape of a conv_bn. prefix is "" or "layer1.0."; only shortcuts, 1x1, have no ReLU. */
static void qnet__conv_bn_describe(qnet__conv_bn *c, const char *prefix, const char *conv,
                                   const char *norm, const qnet_conv2d *shape)
{
    snprintf(c->conv_name, sizeof c->conv_name, "%s%s", prefix, conv);
    snprintf(c->norm_name, sizeof c->norm_name, "%s%s", prefix, norm);
    c->conv = *shape;
    c->relu = shape->kernel > 1;
}

/* The definition of ResNet18: the stem, then layers 1..4 of two blocks each, with 64, 128, 256 and
   512 channels. The first block of layers 2..4 halves the map, and its shortcut is a 1x1
   convolution of stride 2; every other shortcut is the identity. All are padded so that stride 1
   keeps the size. */
static void qnet__resnet_describe(const qnet_resnet_config *config, qnet__resnet_state *r)
{
    const int batch = config->batch;
    const qnet_conv2d stem = {batch, config->height, config->width, config->channels, 64, 7, 2, 3};
    int in = 64, n = 1;
    int h = (qnet_conv2d_out_height(&stem) - 1) / 2 + 1; /* of the pooled map */
    int w = (qnet_conv2d_out_width(&stem) - 1) / 2 + 1;
    qnet__conv_bn_describe(r->conv_bn, "", "conv1", "bn1", &stem);
    for (int b = 0; b < QNET__RESBLOCKS; b++) {
        const int layer = b / 2 + 1, out = 64 << (layer - 1);
        const int stride = layer > 1 && b % 2 == 0 ? 2 : 1;
        const int out_h = (h - 1) / stride + 1, out_w = (w - 1) / stride + 1;
        const qnet_conv2d first = {batch, h, w, in, out, 3, stride, 1};
        const qnet_conv2d second = {batch, out_h, out_w, out, out, 3, 1, 1};
        const qnet_conv2d shortcut = {batch, h, w, in, out, 1, stride, 0};
        qnet__conv_bn *c = &r->conv_bn[n];
        qnet__resblock *block = &r->block[b];
        char prefix[] = "layer1.0.";
        prefix[5] = (char)('0' + layer), prefix[7] = (char)('0' + b % 2);
        block->first = n++;
        block->second = n++;
        block->shortcut = stride == 2 ? n++ : -1;
        qnet__conv_bn_describe(c, prefix, "conv1", "bn1", &first);
        qnet__conv_bn_describe(c + 1, prefix, "conv2", "bn2", &second);
        if (stride == 2)
            qnet__conv_bn_describe(c + 2, prefix, "downsample.0", "downsample.1", &shortcut);
        in = out, h = out_h, w = out_w;
    }
}

/* The table, whose entries r->params are not written while they are NULL: entries 3u, 3u + 1 and
   3u + 2 are the weights of conv_bn u and its norm's gamma and beta; then fc; then the running
   statistics, three for each conv_bn. num_batches_tracked is a scalar. */
static void qnet__resnet_table(const qnet_resnet_config *config, qnet__resnet_state *r)
{
    qnet_param_table *t = &r->table;
    const size_t classes = (size_t)config->classes;
    t->network = "resnet18";
    t->entries = r->params;
    for (int u = 0; u < QNET__CONV_BNS; u++) {
        const qnet__conv_bn *c = &r->conv_bn[u];
        const size_t k = (size_t)c->conv.kernel, in = (size_t)c->conv.in_channels;
        const size_t out = (size_t)c->conv.out_channels;
        qnet__param_add(t, r->params, c->conv_name, "weight", 1, 4, k, k, in, out);
        qnet__param_add(t, r->params, c->norm_name, "weight", 1, 1, out, 1, 1, 1);
        qnet__param_add(t, r->params, c->norm_name, "bias", 1, 1, out, 1, 1, 1);
    }
    qnet__param_add(t, r->params, "fc", "weight", 1, 2, classes, QNET_FEATURES, 1, 1);
    qnet__param_add(t, r->params, "fc", "bias", 1, 1, classes, 1, 1, 1);
    for (int u = 0; u < QNET__CONV_BNS; u++) {
        const qnet__conv_bn *c = &r->conv_bn[u];
        const size_t out = (size_t)c->conv.out_channels;
        qnet__param_add(t, r->params, c->norm_name, "running_mean", 0, 1, out, 1, 1, 1);
        qnet__param_add(t, r->params, c->norm_name, "running_var", 0, 1, out, 1, 1, 1);
        qnet__param_add(t, r->params, c->norm_name, "num_batches_tracked", 0, 0, 1, 1, 1, 1);
    }
}

/* ---- Memory by lifetimes --------------------------------------------------------------------- */

/* Tensors that share one region of memory: two may overlap if no step needs both. A tensor is
   needed from step `first` to step `last`, both included. The list of them is run twice: without a
   base to place them, then, from count = 0, to hand them out. */
#define QNET__PLAN_TENSORS 48 /* of a ResNet18 for training */
typedef struct qnet__plan {
    unsigned char *base; /* of the region */
    int count;           /* tensors of this run so far */
    struct { size_t bytes, at; int first, last; } tensor[QNET__PLAN_TENSORS];
} qnet__plan;

/* count * size bytes that steps first..last need; NULL before the region is there. */
static void *qnet__plan_take(qnet__plan *p, size_t count, size_t size, int first, int last)
{
    const int i = p->count++;
    qnet__arena one = {NULL, 0};
    if (p->base != NULL) return p->base + p->tensor[i].at;
    qnet__take(&one, count, size);
    p->tensor[i].bytes = one.at;
    p->tensor[i].first = first;
    p->tensor[i].last = last;
    return NULL;
}

/* First fit, in the order of the list: each at the lowest place that no earlier one has at one of
   its steps. Returns the bytes of the region, SIZE_MAX if they overflow. */
static size_t qnet__plan_place(qnet__plan *p)
{
    size_t sum = 0, end = 0;
    for (int i = 0; i < p->count; i++) {
        const size_t bytes = p->tensor[i].bytes;
        size_t at = 0;
        if (!qnet__add(sum, bytes, &sum)) return SIZE_MAX;
        for (int j = 0; j < i; j++) {
            const size_t taken = p->tensor[j].at, free = taken + p->tensor[j].bytes;
            const int together = p->tensor[i].first <= p->tensor[j].last &&
                                 p->tensor[j].first <= p->tensor[i].last;
            if (together && at < free && taken < at + bytes) {
                at = free;
                j = -1; /* from the first again */
            }
        }
        p->tensor[i].at = at;
        end = qnet__max_size(end, at + bytes);
    }
    return end;
}

/* The maps, by steps: 0 the stem, 1 + b block b, 9 the head, and the same backward: 17 - b block b,
   18 the stem.

       map of block b         training             inference
       conv_out, out          1 + b .. 17 - b      1 + b; out until the next block has read it
       dout                   16 - b .. 17 - b     from the block behind, which computes it
       dmid                   17 - b

   So all that a training pass keeps is there at step 9, and the gradients of a block lie over what
   the blocks behind it have kept. */
static void qnet__resnet_maps(qnet__plan *p, qnet__resnet_state *r)
{
    const int train = QNET__HAS_TRAINING && r->net.config.training;
    const size_t real = sizeof(qnet_real);
    qnet__conv_bn *stem = r->conv_bn;
    const size_t pooled = 64 * qnet__conv_in_pixels(&stem[1].conv);
    const size_t whole = r->stem_fused ? 0 : 64 * qnet__conv_out_pixels(&stem->conv);
    stem->conv_out = (qnet_real *)qnet__plan_take(p, pooled, real, 0, train ? 18 : 1);
    r->stem_out = (qnet_real *)qnet__plan_take(p, whole, real, 0, train ? 18 : 0);
    for (int b = 0; b < QNET__RESBLOCKS; b++) {
        qnet__resblock *block = &r->block[b];
        qnet__conv_bn *second = &r->conv_bn[block->second];
        const int last = qnet__max_int(block->second, block->shortcut), back = 17 - b;
        const size_t count = qnet__conv_out_pixels(&second->conv) *
                             (size_t)second->conv.out_channels;
        for (int u = block->first; u <= last; u++)
            if (train || u != block->second)
                r->conv_bn[u].conv_out = (qnet_real *)qnet__plan_take(p, count, real, 1 + b,
                                                                      train ? back : 1 + b);
        block->out = (qnet_real *)qnet__plan_take(p, count, real, 1 + b, train ? back : 2 + b);
        if (train) {
            block->dout = (qnet_real *)qnet__plan_take(p, count, real, back - 1, back);
            block->dmid = (qnet_real *)qnet__plan_take(p, count, real, back, back);
        }
    }
    if (train) {
        r->argmax = (uint8_t *)qnet__plan_take(p, pooled, 1, 0, 18);
        r->dpooled = (qnet_real *)qnet__plan_take(p, pooled, real, 17, 18);
        r->dstem = (qnet_real *)qnet__plan_take(p, whole, real, 18, 18);
    }
}

/* Bytes of scratch for the layer that needs most, with any batch: Winograd's form may cut a smaller
   one in another way, which takes a little more. Layers run one after the other and share it. */
static size_t qnet__resnet_scratch(const qnet__resnet_state *r)
{
    const qnet_resnet_config *config = &r->net.config;
    const qnet_conv2d *stem = &r->conv_bn[0].conv;
    qnet_context *ctx = r->net.ctx;
    size_t most = qnet_dense_scratch(ctx, (size_t)config->batch, QNET_FEATURES, config->classes);
    if (r->stem_fused)
        most = qnet__max_size(most, qnet__stem_forward_scratch(ctx, stem));
    if (r->stem_fused && config->training)
        most = qnet__max_size(most, qnet__stem_backward_scratch(ctx, stem));
    for (int u = r->stem_fused; u < QNET__CONV_BNS; u++) {
        qnet_conv2d conv = r->conv_bn[u].conv;
        for (conv.batch = 1; conv.batch <= config->batch; conv.batch++)
            most = qnet__max_size(most, qnet__conv_scratch(ctx, r->conv_bn[u].algorithm, &conv));
    }
    return most;
}

/* Memory for the sums of the map that has most numbers in them, one per chunk and channel; it may
   be the input or the output of a convolution. */
static void qnet__resnet_sums(qnet__arena *arena, qnet__resnet_state *r)
{
    const qnet__stem stem = qnet__stem_geometry(&r->conv_bn[0].conv);
    size_t numbers = 64 * qnet__stem_chunks(&stem);
    for (int u = 0; u < QNET__CONV_BNS; u++) {
        const qnet_conv2d *conv = &r->conv_bn[u].conv;
        const size_t out = (size_t)conv->out_channels;
        const int side = qnet__conv_side(r->conv_bn[u].algorithm);
        size_t chunks = qnet__pass_chunks(qnet__conv_out_pixels(conv), out);
        if (side > 0) {
            qnet__winograd p;
            qnet__winograd_geometry(&p, qnet__isa_of(r->net.ctx), conv, side, 0);
            chunks = qnet__max_size(chunks, (size_t)p.blocks);
        }
        numbers = qnet__max_size(numbers, chunks * qnet__max_size((size_t)conv->in_channels, out));
    }
    r->sums = qnet__epilogue_take_sums(arena, numbers / 64, numbers); /* enough chunks */
    r->total[0] = (double *)qnet__take(arena, QNET_FEATURES, sizeof(double));
    r->total[1] = (double *)qnet__take(arena, QNET_FEATURES, sizeof(double));
}

/* Points c, conv_bn number u, at its entries of the weights and gradients, in the order of the
   table. Pointers, not copies: whoever writes the block changes the network. */
static void qnet__conv_bn_bind(qnet__conv_bn *c, int u, const qnet__resnet_state *r)
{
    const qnet_param *p = &r->params[3 * u], *running = p + QNET__RESNET_TRAINED;
    qnet_real *weights = r->net.weights, *gradients = r->net.gradients;
    c->w = weights + p[0].offset;
    c->gamma = weights + p[1].offset;
    c->beta = weights + p[2].offset;
    c->running_mean = weights + running[0].offset;
    c->running_var = weights + running[1].offset;
    c->tracked = weights + running[2].offset;
    if (gradients == NULL) return;
    c->dw = gradients + p[0].offset;
    c->dgamma = gradients + p[1].offset;
    c->dbeta = gradients + p[2].offset;
}

/* Carves the whole network from an arena; with base NULL it only measures. In this order: state,
   table, weights, gradients, what a norm has per channel, maps, scratch, features, sums. */
static void qnet__resnet_plan(qnet_context *ctx, const qnet_resnet_config *config,
                              qnet__arena *arena, qnet__resnet_state *r)
{
    const size_t real = sizeof(qnet_real), batch = (size_t)config->batch;
    qnet__plan plan;
    memset(r, 0, sizeof *r);
    r->net.ctx = ctx;
    r->net.config = *config;
    qnet__take(arena, 1, sizeof *r); /* the state itself, copied to the block's start at the end */
    qnet__resnet_describe(config, r);
    r->stem_fused = !QNET__REFERENCE_ONLY && config->channels == 3;
    r->params = (qnet_param *)qnet__take(arena, QNET__RESNET_PARAMS, sizeof(qnet_param));
    qnet__resnet_table(config, r);
    r->net.weights = (qnet_real *)qnet__take(arena, r->table.total, real);
    if (config->training)
        r->net.gradients = (qnet_real *)qnet__take(arena, r->table.trainable, real);
    for (int u = 0; u < QNET__CONV_BNS; u++) {
        qnet__conv_bn *c = &r->conv_bn[u];
        const size_t out = (size_t)c->conv.out_channels;
        c->algorithm = u == 0 && r->stem_fused ? QNET__CONV_DIRECT
                                               : qnet__conv_pick(ctx, &c->conv, !config->training);
        c->scale = (qnet_real *)qnet__take(arena, out, real);
        if (config->training) {
            c->mean = (qnet_real *)qnet__take(arena, out, real);
            c->rstd = (qnet_real *)qnet__take(arena, out, real);
            c->mean_g = (qnet_real *)qnet__take(arena, out, real);
            c->slope_g = (qnet_real *)qnet__take(arena, out, real);
        }
        if (arena->base != NULL)
            qnet__conv_bn_bind(c, u, r);
    }
    plan.base = NULL;
    plan.count = 0;
    qnet__resnet_maps(&plan, r);
    plan.base = (unsigned char *)qnet__take(arena, qnet__plan_place(&plan), 1);
    plan.count = 0;
    if (plan.base != NULL)
        qnet__resnet_maps(&plan, r);
    r->scratch = qnet__take(arena, qnet__resnet_scratch(r), 1);
    r->features = (qnet_real *)qnet__take(arena, batch * QNET_FEATURES, real);
    if (config->training) {
        r->dfeatures = (qnet_real *)qnet__take(arena, batch * QNET_FEATURES, real);
        qnet__resnet_sums(arena, r);
    }
}

/* `field` of a configuration or call must be least..most. */
static qnet_status qnet__check_range(qnet_context *ctx, const char *what, const char *field,
                                     int value, int least, int most)
{
    if (value >= least && value <= most) return QNET_OK;
    return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: %s must be %d..%d, found %d", what, field,
                      least, most, value);
}

/* QNET_ONLY_INFERENCE leaves training out. */
static qnet_status qnet__check_training(qnet_context *ctx, const char *what, int training)
{
    if (QNET__HAS_TRAINING || !training) return QNET_OK;
    return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                      "%s: training is %d, expected 0: this build has QNET_ONLY_INFERENCE", what,
                      training);
}

/* The limits lie far above any use, so that no product of int sizes inside a layer overflows. The
   largest tensors, the input and the stem's output, a quarter of it with 64 channels, must fit a
   size_t, which matters where that has 32 bits. */
static qnet_status qnet__resnet_check_config(qnet_context *ctx, const qnet_resnet_config *config)
{
    QNET__TRY(qnet__check_range(ctx, "resnet", "height", config->height, 32, 8192));
    QNET__TRY(qnet__check_range(ctx, "resnet", "width", config->width, 32, 8192));
    QNET__TRY(qnet__check_range(ctx, "resnet", "channels", config->channels, 1, 1024));
    QNET__TRY(qnet__check_range(ctx, "resnet", "classes", config->classes, 1, 65536));
    QNET__TRY(qnet__check_range(ctx, "resnet", "batch", config->batch, 1, 4096));
    QNET__TRY(qnet__check_training(ctx, "resnet", config->training));
    const double pixels = (double)config->batch * config->height * config->width;
    if (pixels * qnet__max_int(config->channels, 64) * sizeof(double) > (double)(SIZE_MAX / 2))
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "resnet: %d images of %d x %d x %d do not fit",
                          config->batch, config->height, config->width, config->channels);
    return QNET_OK;
}

QNET_API void qnet_resnet_config_init(qnet_resnet_config *config)
{
    /* height, width, channels, classes, batch, training */
    const qnet_resnet_config usual = {224, 224, 3, QNET_CLASSES, 64, QNET__HAS_TRAINING};
    *config = usual;
}

QNET_API size_t qnet_resnet_bytes(qnet_context *ctx, const qnet_resnet_config *config)
{
    qnet__arena arena = {NULL, 0};
    qnet__resnet_state r;
    if (ctx == NULL || config == NULL || qnet__resnet_check_config(ctx, config) != QNET_OK)
        return 0;
    qnet__resnet_plan(ctx, config, &arena, &r);
    return arena.at == SIZE_MAX ? 0 : arena.at;
}

/* One allocation: the plan measures it, and carves it. The state is filled on the stack and copied
   to the start of the block. Weights and gradients are zero until qnet_resnet_init or a weights
   file fills them. */
QNET_API qnet_status qnet_resnet_create(qnet_context *ctx, const qnet_resnet_config *config,
                                        qnet_resnet **out)
{
    qnet__arena arena = {NULL, 0};
    qnet__resnet_state r;
    size_t bytes;
    if (ctx == NULL || config == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "resnet: ctx, config or out is NULL");
    QNET__TRY(qnet__resnet_check_config(ctx, config));
    qnet__resnet_plan(ctx, config, &arena, &r);
    QNET__TRY(qnet__arena_alloc(ctx, &arena, &bytes, "ResNet18"));
    qnet__resnet_plan(ctx, config, &arena, &r);
    qnet__resnet_state *self = (qnet__resnet_state *)(void *)arena.base;
    r.momentum = QNET_BATCHNORM_MOMENTUM;
    r.net.table = &self->table;
    r.net.bytes = bytes;
    r.net.state = self;
    qnet__zero(ctx, r.net.weights, r.table.total * sizeof(qnet_real));
    if (config->training)
        qnet__zero(ctx, r.net.gradients, r.table.trainable * sizeof(qnet_real));
    *self = r;
    *out = &self->net;
    return QNET_OK;
}

QNET_API void qnet_resnet_destroy(qnet_resnet *net)
{
    if (net == NULL) return;
    qnet__free(net->ctx, net->state->packed, net->state->packed_bytes);
    qnet__free(net->ctx, net->state, net->bytes);
}

/* Measures the packed kernels in a first pass, takes memory unless an earlier call has, and packs
   in a second. An algorithm without a packed form takes none. */
QNET_API qnet_status qnet_resnet_pack(qnet_resnet *net)
{
    qnet__arena arena = {NULL, 0};
    if (net == NULL || net->config.training)
        return qnet__fail(net != NULL ? net->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "resnet pack: expected a network created with training = 0");
    qnet__resnet_state *r = net->state;
    for (int pass = 0; pass < 2; pass++) {
        for (int u = 0; u < QNET__CONV_BNS; u++) {
            qnet__conv_bn *c = &r->conv_bn[u];
            const size_t count = qnet__conv_packed(net->ctx, c->algorithm, &c->conv);
            c->packed = (qnet_real *)qnet__take(&arena, count, sizeof(qnet_real));
            if (c->packed != NULL)
                qnet__conv_pack(net->ctx, c->algorithm, &c->conv, c->w, c->packed);
        }
        if (pass == 0 && arena.at == 0) return QNET_OK;
        if (pass == 0 && r->packed == NULL) {
            QNET__TRY(qnet__arena_alloc(net->ctx, &arena, &r->packed_bytes, "packed weights"));
            r->packed = arena.base;
        }
        arena.base = (unsigned char *)r->packed;
        arena.at = 0;
    }
    return QNET_OK;
}

typedef struct qnet__resnet_init_job { qnet_resnet *net; uint64_t seed; } qnet__resnet_init_job;

/* Initial value of parameter i; each has its own random stream. */
static void qnet__resnet_init_task(void *arg, size_t i, size_t worker)
{
    const qnet__resnet_init_job *job = (const qnet__resnet_init_job *)arg;
    const qnet_param *p = &job->net->table->entries[i];
    qnet_rng rng = qnet_rng_at(job->seed, QNET_RANDOM_INIT_RESNET, 0, i);
    qnet_real *v = job->net->weights + p->offset;
    QNET__UNUSED(worker);
    if (p->ndim == 4) {
        /* Kaiming normal, fan out (He et al. 2015): keeps the gradient's variance through ReLUs. */
        const double std = sqrt(2.0 / (double)(p->shape[0] * p->shape[1] * p->shape[3]));
        for (size_t j = 0; j < p->count; j++)
            v[j] = (qnet_real)(std * qnet_rng_normal(&rng));
    } else if (strncmp(p->name, "fc.", 3) == 0) {
        const double bound = 1.0 / sqrt((double)QNET_FEATURES);
        for (size_t j = 0; j < p->count; j++)
            v[j] = (qnet_real)qnet_rng_range(&rng, -bound, bound);
    } else {
        /* Norms: gamma 1, beta 0, running mean 0 and variance 1, no batch tracked. */
        const int one = strstr(p->name, ".running_var") || strstr(p->name, ".weight");
        for (size_t j = 0; j < p->count; j++)
            v[j] = (qnet_real)one;
    }
}

/* weights[total] as torchvision's ResNet starts: see the task above. The packed form, which was of
   other weights, is dropped. */
QNET_API void qnet_resnet_init(qnet_resnet *net, uint64_t seed)
{
    qnet__resnet_init_job job = {net, seed};
    qnet__parallel(net->ctx, (size_t)net->table->count, qnet__resnet_init_task, &job);
    for (int u = 0; u < QNET__CONV_BNS; u++)
        net->state->conv_bn[u].packed = NULL;
}

/* The head alone, for weights that came without one of the right number of classes. */
QNET__HELPER void qnet__resnet_init_head(qnet_resnet *net, uint64_t seed)
{
    qnet__resnet_init_job job = {net, seed};
    qnet__resnet_init_task(&job, QNET__RESNET_TRAINED - 2, 0); /* fc.weight */
    qnet__resnet_init_task(&job, QNET__RESNET_TRAINED - 1, 0); /* fc.bias */
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
    const qnet__resblock *last = &r->block[QNET__RESBLOCKS - 1];
    const qnet_conv2d *conv = &r->conv_bn[last->second].conv;
    const qnet_tensor map = {r->batch > 0 ? last->out : NULL, 4,
                             {(size_t)r->batch, (size_t)conv->height, (size_t)conv->width,
                              QNET_FEATURES}};
    return map;
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* Prologue ReLU(norm(conv_out)). */
static qnet__prologue qnet__conv_bn_normalised(const qnet__conv_bn *c)
{
    qnet__prologue p = qnet__prologue_plain(c->conv_out);
    p.kind = QNET__PROLOGUE_NORMALISED;
    p.mean = c->center, p.scale = c->scale, p.beta = c->beta;
    return p;
}

/* Epilogue y = act(norm + residual). */
static qnet__epilogue qnet__conv_bn_norm(const qnet__conv_bn *c, const qnet_real *residual,
                                         qnet_real *y)
{
    qnet__epilogue e = qnet__epilogue_plain(y);
    e.kind = QNET__EPILOGUE_NORMALISE;
    e.mean = c->center, e.scale = c->scale, e.beta = c->beta;
    e.residual = residual;
    e.relu = c->relu;
    return e;
}

/* Shapes, centres and, at inference, scales of a pass over `batch` images. */
static void qnet__resnet_begin(qnet__resnet_state *r, int batch, int train)
{
    r->batch = 0; /* until the pass has succeeded there is nothing to go back from */
    r->train = train;
    for (int u = 0; u < QNET__CONV_BNS; u++) {
        qnet__conv_bn *c = &r->conv_bn[u];
        c->conv.batch = batch;
        c->center = train ? c->mean : c->running_mean;
        for (int i = 0; i < c->conv.out_channels && !train; i++)
            c->scale[i] = (qnet_real)((double)c->gamma[i] /
                                      sqrt((double)c->running_var[i] + QNET_BATCHNORM_EPS));
    }
}

/* mean, rstd and scale of a norm from the moments of this batch; the running statistics move.
   momentum and the unbiased variance as in qnet_batchnorm_forward. */
static void qnet__conv_bn_statistics(qnet__resnet_state *r, qnet__conv_bn *c,
                                     const qnet__epilogue *moments)
{
    const size_t n = (size_t)c->conv.out_channels;
    const double rows = (double)qnet__conv_out_pixels(&c->conv);
    qnet__epilogue_totals(r->net.ctx, moments, n, r->total[0], r->total[1]);
    for (size_t i = 0; i < n; i++) {
        const double mean = r->total[0][i], var = r->total[1][i];
        const double rstd = 1 / sqrt(var + QNET_BATCHNORM_EPS);
        c->mean[i] = (qnet_real)mean;
        c->rstd[i] = (qnet_real)rstd;
        c->scale[i] = (qnet_real)((double)c->gamma[i] * rstd);
        c->running_mean[i] = qnet__running(c->running_mean[i], r->momentum, mean);
        c->running_var[i] = qnet__running(c->running_var[i], r->momentum,
                                          var * (rows / (rows - 1)));
    }
    *c->tracked += 1;
}

/* Training: conv_out = conv(x), and the statistics of its norm. Inference: y = act(norm(conv(x)) +
   residual). temp: as large as x, for a prologue that is not plain. */
static qnet_status qnet__conv_bn_forward(qnet__resnet_state *r, qnet__conv_bn *c,
                                         const qnet__prologue *x, const qnet_real *residual,
                                         qnet_real *y, qnet_real *temp)
{
    qnet__epilogue e = r->sums;
    e.kind = QNET__EPILOGUE_MOMENTS;
    e.y = c->conv_out;
    if (!qnet__resnet_trains(r))
        e = qnet__conv_bn_norm(c, residual, y);
    QNET__TRY(qnet__conv_forward(r->net.ctx, c->algorithm, &c->conv, x, c->w, c->packed, &e, temp,
                                 r->scratch));
    if (qnet__resnet_trains(r))
        qnet__conv_bn_statistics(r, c, &e);
    return QNET_OK;
}

/* *map, a block's input [batch][h][w][in], becomes its output: ReLU(second(first(map)) +
   shortcut(map)). Training keeps the convolutions' outputs, so mid is normalised where second reads
   it, and the shortcut's norm where the sum reads it; the sum is a pass over memory. */
static qnet_status qnet__resblock_forward(qnet__resnet_state *r, const qnet__resblock *block,
                                          qnet__prologue *map)
{
    qnet__conv_bn *first = &r->conv_bn[block->first], *second = &r->conv_bn[block->second];
    qnet__conv_bn *shortcut = block->shortcut < 0 ? NULL : &r->conv_bn[block->shortcut];
    const qnet_real *residual = shortcut != NULL ? shortcut->conv_out : map->x;
    if (shortcut != NULL)
        QNET__TRY(qnet__conv_bn_forward(r, shortcut, map, NULL, shortcut->conv_out, NULL));
    QNET__TRY(qnet__conv_bn_forward(r, first, map, NULL, first->conv_out, block->out));
    qnet__prologue mid = qnet__resnet_trains(r) ? qnet__conv_bn_normalised(first)
                                  : qnet__prologue_plain(first->conv_out);
    QNET__TRY(qnet__conv_bn_forward(r, second, &mid, residual, block->out, block->out));
    if (qnet__resnet_trains(r)) {
        const qnet__prologue conv_out = qnet__prologue_plain(second->conv_out);
        qnet__epilogue sum = qnet__conv_bn_norm(second, residual, block->out);
        if (shortcut != NULL) {
            sum.residual_mean = shortcut->mean, sum.residual_scale = shortcut->scale;
            sum.residual_beta = shortcut->beta;
        } else if (map->kind == QNET__PROLOGUE_NORMALISED) { /* the pooled map */
            sum.residual_mean = map->mean, sum.residual_scale = map->scale;
            sum.residual_beta = map->beta;
            sum.residual_relu = 1;
        }
        qnet__pass(r->net.ctx, &conv_out, &sum, qnet__conv_out_pixels(&second->conv),
                   (size_t)second->conv.out_channels);
    }
    *map = qnet__prologue_plain(block->out);
    return QNET_OK;
}

/* The stem, its norm and ReLU, and pooling, from x to *map, which is in stem->conv_out; in
   training not normalised yet, and so pooled by the signs of gamma (>>stem). */
static qnet_status qnet__resnet_stem(qnet__resnet_state *r, const qnet_real *x, qnet__prologue *map)
{
    qnet__conv_bn *stem = r->conv_bn;
    const qnet_conv2d *conv = &stem->conv;
    qnet_context *ctx = r->net.ctx;
    qnet__epilogue moments = r->sums;
    qnet__maxpool pool;
    qnet_real sign[64];
    QNET__TRY(qnet__maxpool_plan(ctx, "resnet forward", conv->batch, qnet_conv2d_out_height(conv),
                                 qnet_conv2d_out_width(conv), 64, 1, &pool));
    pool.x = qnet__conv_bn_normalised(stem);
    pool.y = stem->conv_out;
    moments.kind = qnet__resnet_trains(r) ? QNET__EPILOGUE_MOMENTS : QNET__EPILOGUE_PLAIN;
    if (qnet__resnet_trains(r)) {
        for (int c = 0; c < 64; c++)
            sign[c] = (qnet_real)((stem->gamma[c] > 0) - (stem->gamma[c] < 0));
        pool.x.kind = QNET__PROLOGUE_PLAIN;
        pool.sign = sign;
        pool.argmax = r->argmax;
    }
    if (r->stem_fused) {
        qnet__stem_forward(ctx, conv, x, stem->w, stem->packed,
                           qnet__resnet_trains(r) ? &moments : NULL, &pool, r->scratch);
    } else {
        const qnet__prologue image = qnet__prologue_plain(x);
        pool.x.x = moments.y = r->stem_out;
        QNET__TRY(qnet__conv_forward(ctx, stem->algorithm, conv, &image, stem->w, stem->packed,
                                     &moments, NULL, r->scratch));
        qnet__maxpool_run(ctx, &pool, (size_t)conv->batch);
    }
    *map = qnet__resnet_trains(r) ? qnet__conv_bn_normalised(stem)
                                  : qnet__prologue_plain(stem->conv_out);
    if (qnet__resnet_trains(r))
        qnet__conv_bn_statistics(r, stem, &moments);
    return QNET_OK;
}

/* x[batch][height][width][channels] through the list at the head of this room. Every image by
   itself when train is 0: its bits are the same in any batch. Between networks they are the same if
   the largest batch of both is 16 or more: below that, the deepest maps have too few tiles of 4x4
   for Winograd's form. With train = 1 the norms tie the images of a batch together. */
QNET_API qnet_status qnet_resnet_forward(qnet_resnet *net, const qnet_real *x, int batch, int train,
                                         qnet_real *logits, qnet_real *features)
{
    if (net == NULL || x == NULL)
        return qnet__fail(net ? net->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "resnet forward: net or x is NULL");
    qnet_context *ctx = net->ctx;
    qnet__resnet_state *r = net->state;
    const qnet_param *fc = &r->params[QNET__RESNET_TRAINED - 2];
    const qnet_conv2d *last = &r->conv_bn[r->block[QNET__RESBLOCKS - 1].second].conv;
    const size_t pixels = (size_t)last->height * (size_t)last->width;
    qnet__prologue map;
    QNET__TRY(qnet__check_range(ctx, "resnet forward", "batch", batch, 1, net->config.batch));
    if (train && !net->config.training)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "resnet forward: train = 1 needs a network created with training = 1");
    if (train && (size_t)batch * pixels < 2)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "resnet forward: batch 1 of %d x %d leaves layer4 one value per channel, "
                          "which has no variance; expected a larger batch or image",
                          net->config.height, net->config.width);
    qnet__resnet_begin(r, batch, QNET__HAS_TRAINING && train);
    QNET__TRY(qnet__resnet_stem(r, x, &map));
    for (int b = 0; b < QNET__RESBLOCKS; b++)
        QNET__TRY(qnet__resblock_forward(r, &r->block[b], &map));
    /* logits = fc.weight features + fc.bias, features = mean over the pixels of map. */
    QNET__TRY(qnet_avgpool_forward(ctx, batch, pixels, QNET_FEATURES, map.x, r->features));
    if (logits != NULL)
        QNET__TRY(qnet_dense_forward(ctx, (size_t)batch, QNET_FEATURES, net->config.classes,
                                     r->features, net->weights + fc[0].offset,
                                     net->weights + fc[1].offset, logits, r->scratch));
    if (features != NULL)
        memcpy(features, r->features, (size_t)batch * QNET_FEATURES * sizeof(qnet_real));
    r->batch = batch;
    return QNET_OK;
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* dbeta, dgamma, mean_g and slope_g of a norm from the sums of g and g d over the batch's pixels:
   see qnet__conv_bn. In double, as is their sum over chunks. */
static void qnet__conv_bn_gradient(qnet__resnet_state *r, qnet__conv_bn *c,
                                   const qnet__epilogue *sums)
{
    const size_t n = (size_t)c->conv.out_channels;
    const double rows = (double)qnet__conv_out_pixels(&c->conv);
    qnet__epilogue_totals(r->net.ctx, sums, n, r->total[0], r->total[1]);
    for (size_t i = 0; i < n; i++) {
        const double rstd = (double)c->rstd[i], sum_g = r->total[0][i], sum_gd = r->total[1][i];
        c->dbeta[i] = (qnet_real)sum_g;
        c->dgamma[i] = (qnet_real)(rstd * sum_gd);
        c->mean_g[i] = (qnet_real)(sum_g / rows);
        c->slope_g[i] = (qnet_real)(rstd * rstd * sum_gd / rows);
    }
}

/* Epilogue that stores the gradient g of a norm, with the sums for qnet__conv_bn_gradient. */
static qnet__epilogue qnet__conv_bn_sums(const qnet__resnet_state *r, const qnet__conv_bn *c,
                                         qnet_real *g)
{
    qnet__epilogue e = r->sums;
    e.kind = QNET__EPILOGUE_GRADIENT;
    e.y = g;
    e.pre = c->conv_out, e.mean = c->mean;
    return e;
}

/* From the gradient g of the norm: dw and, unless e is NULL, e <- the gradient of the input x. The
   prologue computes the gradient of conv_out, which may be stored over it. temp: as large as x. */
static qnet_status qnet__conv_bn_backward(qnet__resnet_state *r, qnet__conv_bn *c,
                                          const qnet__prologue *x, const qnet_real *g,
                                          qnet__epilogue *e, int add, qnet_real *temp)
{
    qnet__prologue dconv_out = qnet__prologue_plain(g);
    dconv_out.kind = QNET__PROLOGUE_GRADIENT;
    dconv_out.pre = c->conv_out, dconv_out.mean = c->mean, dconv_out.scale = c->scale;
    dconv_out.shift = c->mean_g, dconv_out.slope = c->slope_g;
    return qnet__conv_backward(r->net.ctx, c->algorithm, &c->conv, x, c->w, &dconv_out, e, add,
                               c->dw, temp, c->conv_out, r->scratch);
}

/* Block b, out = ReLU(second(first(x)) + shortcut(x)). dout and the sums of second's norm are
   given; the same is left for the block before it, or dpooled where x is the pooled map. */
static qnet_status qnet__resblock_backward(qnet__resnet_state *r, int b)
{
    const qnet__resblock *block = &r->block[b], *before = b > 0 ? block - 1 : NULL;
    qnet__conv_bn *first = &r->conv_bn[block->first], *second = &r->conv_bn[block->second];
    qnet__conv_bn *previous = before != NULL ? &r->conv_bn[before->second] : NULL;
    const qnet__prologue mid = qnet__conv_bn_normalised(first);
    const qnet__prologue x = before != NULL ? qnet__prologue_plain(before->out)
                                            : qnet__conv_bn_normalised(r->conv_bn);
    qnet_real *dx = before != NULL ? before->dout : r->dpooled;
    qnet__epilogue dmid = qnet__conv_bn_sums(r, first, block->dmid), dmap = r->sums;

    /* Forward: sum = norm2(conv2(ReLU(norm1(conv1)))) + ...; the mask is that of the inner ReLU. */
    dmid.scale = first->scale, dmid.beta = first->beta;
    QNET__TRY(qnet__conv_bn_backward(r, second, &mid, block->dout, &dmid, 0, block->out));
    qnet__conv_bn_gradient(r, first, &dmid);

    /* The gradient of x: two paths add up; then the mask of the ReLU that made x, which pooling has
       not, and the sums of the norm inside it. */
    dmap.kind = QNET__EPILOGUE_GRADIENT;
    dmap.y = dx;
    if (previous != NULL)
        dmap.pre = previous->conv_out, dmap.mean = previous->mean, dmap.mask = x.x;
    if (block->shortcut < 0) {
        /* Forward: residual = x. */
        dmap.residual = block->dout;
        QNET__TRY(qnet__conv_bn_backward(r, first, &x, block->dmid, &dmap, 0, block->out));
    } else {
        /* Forward: residual = norm(conv(x)). */
        qnet__conv_bn *shortcut = &r->conv_bn[block->shortcut];
        const qnet__prologue dsum = qnet__prologue_plain(block->dout);
        qnet__epilogue sums = qnet__conv_bn_sums(r, shortcut, NULL);
        qnet__epilogue plain = qnet__epilogue_plain(dx);
        QNET__TRY(qnet__conv_bn_backward(r, first, &x, block->dmid, &plain, 0, NULL));
        qnet__pass(r->net.ctx, &dsum, &sums, qnet__conv_out_pixels(&shortcut->conv),
                   (size_t)shortcut->conv.out_channels);
        qnet__conv_bn_gradient(r, shortcut, &sums);
        QNET__TRY(qnet__conv_bn_backward(r, shortcut, &x, block->dout, &plain, 1, NULL));
        qnet__epilogue_map(r->net.ctx, &dmap, qnet__conv_in_pixels(&first->conv),
                           first->conv.in_channels);
    }
    if (previous != NULL)
        qnet__conv_bn_gradient(r, previous, &dmap);
    return QNET_OK;
}

#if QNET__HAS_TRAINING
/* From the gradient r->dpooled of the pooled map to the stem's weights. Forward:
   pooled = maxpool(ReLU(norm)), norm = norm(conv_out), conv_out = conv(x). */
static qnet_status qnet__resnet_stem_backward(qnet__resnet_state *r, const qnet_real *x)
{
    qnet__conv_bn *stem = r->conv_bn, whole = *stem;
    const qnet_conv2d *conv = &stem->conv;
    qnet_context *ctx = r->net.ctx;
    qnet__epilogue sums = qnet__conv_bn_sums(r, stem, r->dpooled);
    sums.scale = stem->scale, sums.beta = stem->beta; /* masks where the ReLU has cut the maximum */
    if (r->stem_fused) {
        qnet__arena arena = {(unsigned char *)r->scratch, 0};
        qnet__stem_backward_job job;
        qnet__stem_backward_plan(ctx, conv, &arena, &job);
        job.x = x, job.argmax = r->argmax;
        job.w = stem->w, job.dw = stem->dw;
        job.scale = stem->scale, job.shift = stem->mean_g, job.slope = stem->slope_g;
        qnet__stem_backward(ctx, &job, &sums);
        qnet__conv_bn_gradient(r, stem, &sums);
        qnet__parallel(ctx, 147, qnet__stem_weight_task, &job);
        return QNET_OK;
    }
    const qnet__prologue image = qnet__prologue_plain(x);
    qnet__epilogue_map(ctx, &sums, qnet__conv_in_pixels(&stem[1].conv), 64);
    qnet__conv_bn_gradient(r, stem, &sums);
    QNET__TRY(qnet_maxpool_backward(ctx, conv->batch, qnet_conv2d_out_height(conv),
                                    qnet_conv2d_out_width(conv), 64, r->argmax, r->dpooled,
                                    r->dstem));
    whole.conv_out = r->stem_out;
    return qnet__conv_bn_backward(r, &whole, &image, r->dstem, NULL, 0, NULL);
}

/* Walks the list backwards from dlogits[batch][classes]. */
QNET_API qnet_status qnet_resnet_backward(qnet_resnet *net, const qnet_real *x, int batch,
                                          const qnet_real *dlogits)
{
    if (net == NULL || x == NULL || dlogits == NULL)
        return qnet__fail(net ? net->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "resnet backward: net, x or dlogits is NULL");
    qnet_context *ctx = net->ctx;
    qnet__resnet_state *r = net->state;
    const qnet_param *fc = &r->params[QNET__RESNET_TRAINED - 2];
    const qnet__resblock *last = &r->block[QNET__RESBLOCKS - 1];
    qnet__conv_bn *second = &r->conv_bn[last->second];
    const size_t pixels = (size_t)second->conv.height * (size_t)second->conv.width;
    if (r->batch == 0 || !r->train)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "resnet backward: expected a forward pass with train = 1 just before");
    if (r->batch != batch)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "resnet backward: expected the forward pass's batch of %d, found %d",
                          r->batch, batch);
    r->batch = 0; /* what the forward pass kept is used up below */

    /* Forward: logits = features fc.weight^T + fc.bias. */
    QNET__TRY(qnet_dense_backward(ctx, (size_t)batch, QNET_FEATURES, net->config.classes,
                                  r->features, net->weights + fc[0].offset, dlogits, r->dfeatures,
                                  net->gradients + fc[0].offset, net->gradients + fc[1].offset,
                                  r->scratch));
    /* Forward: features = mean over pixels of the last block's output, ReLU(norm + shortcut). */
    QNET__TRY(qnet_avgpool_backward(ctx, batch, pixels, QNET_FEATURES, r->dfeatures, last->dout));
    qnet__epilogue sums = qnet__conv_bn_sums(r, second, last->dout);
    sums.mask = last->out;
    qnet__epilogue_map(ctx, &sums, (size_t)batch * pixels, QNET_FEATURES);
    qnet__conv_bn_gradient(r, second, &sums);
    for (int b = QNET__RESBLOCKS - 1; b >= 0; b--)
        QNET__TRY(qnet__resblock_backward(r, b));
    return qnet__resnet_stem_backward(r, x);
}
#endif

/* ============================================================================================
   >>scan
   The scan-level model (paper, "Stage 2", Fig. 4): a bidirectional LSTM over the features of a
   scan's slices, which are its steps, and two fully connected heads on its outputs:

       x[batch][steps][features]     the slices' embeddings by >>resnet, frozen
       y[batch][steps][2 hidden]     BiLSTM, Eqs. (1)-(5) of the paper, >>lstm; 0 at padded steps
       image[batch][steps][classes]  image head: y of each step by one matrix
       scan[batch][classes]          scan head: y of all steps side by side

   The loss is the cross-entropy of both heads, without that of padded steps. PyTorch's LSTM has two
   biases per gate; both are kept and trained, so that files and training agree with it, and their
   sum is what the layer sees.
   Relies on >>context >>random >>tensor >>gemm >>dense >>lstm >>resnet.
   ============================================================================================ */

#define QNET__SCAN_PARAMS 12

/* Where the tensors of a block lie, weights or gradients: [2] are the directions, forward and
   backward in the order of slices. Gates are in PyTorch's order i, f, g, o. */
typedef struct qnet__scan_block {
    qnet_lstm_gradients lstm;   /* w[4 hidden][features], u[4 hidden][hidden], b = b_ih[4 hidden] */
    qnet_real *b_hh[2];         /* [4 hidden] */
    qnet_real *image_w, *image_b; /* [classes][2 hidden], [classes] */
    qnet_real *scan_w, *scan_b; /* [classes][steps 2 hidden], [classes] */
} qnet__scan_block;

typedef struct qnet__scan_state {
    qnet_scan_model model; /* first, so that a pointer to it is the start of the block */
    qnet_param_table table;
    qnet_param *params;
    qnet__scan_block p, d;     /* of model.weights and model.gradients */
    qnet_real *bias[2];        /* [4 hidden] per direction: b_ih + b_hh */
    qnet_lstm lstm;            /* its batch: the largest, then that of the last pass */
    qnet_lstm_weights weights; /* of p, with the sum of the biases */
    qnet_real *y, *dy;         /* [batch][steps][2 hidden]: the LSTM's output */
    qnet_real *saved;          /* of the LSTM, for its backward pass */
    qnet_real *image_logits, *dimage; /* [batch][steps][classes], and gradient */
    qnet_real *scan_logits, *dscan;   /* [batch][classes], and gradient */
    int *image_label;          /* [batch][steps] */
    void *scratch;
    int batch; /* of the last forward pass; 0: none */
} qnet__scan_state;

/* The table, whose entries s->params are not written while they are NULL; all is trained. Names of
   the LSTM are PyTorch's (bidirectional, one layer). columns 0: a vector. */
static void qnet__scan_table(const qnet_scan_config *config, qnet__scan_state *s)
{
    const size_t in = (size_t)config->features, hidden = (size_t)config->hidden, g = 4 * hidden;
    const size_t classes = (size_t)config->classes, all = (size_t)config->steps * 2 * hidden;
    const struct { const char *name, *suffix; size_t rows, columns; } p[QNET__SCAN_PARAMS] = {
        {"lstm", "weight_ih_l0", g, in},
        {"lstm", "weight_hh_l0", g, hidden},
        {"lstm", "bias_ih_l0", g, 0},
        {"lstm", "bias_hh_l0", g, 0},
        {"lstm", "weight_ih_l0_reverse", g, in},
        {"lstm", "weight_hh_l0_reverse", g, hidden},
        {"lstm", "bias_ih_l0_reverse", g, 0},
        {"lstm", "bias_hh_l0_reverse", g, 0},
        {"image_head", "weight", classes, 2 * hidden},
        {"image_head", "bias", classes, 0},
        {"scan_head", "weight", classes, all},
        {"scan_head", "bias", classes, 0}};
    s->table.network = "qnet-scan";
    s->table.entries = s->params;
    for (int i = 0; i < QNET__SCAN_PARAMS; i++)
        qnet__param_add(&s->table, s->params, p[i].name, p[i].suffix, 1, p[i].columns > 0 ? 2 : 1,
                        p[i].rows, qnet__max_size(p[i].columns, 1), 1, 1);
}

/* Where the tensors of the table p lie in a block, in the table's order. */
static qnet__scan_block qnet__scan_bind(const qnet_param *p, qnet_real *block)
{
    qnet__scan_block b;
    for (int d = 0; d < 2; d++) {
        b.lstm.w[d] = block + p++->offset;
        b.lstm.u[d] = block + p++->offset;
        b.lstm.b[d] = block + p++->offset;
        b.b_hh[d] = block + p++->offset;
    }
    b.image_w = block + p[0].offset;
    b.image_b = block + p[1].offset;
    b.scan_w = block + p[2].offset;
    b.scan_b = block + p[3].offset;
    return b;
}

/* Carves the whole model from an arena; with base NULL it only measures. The LSTM and both heads
   run one after the other and share the scratch. */
static void qnet__scan_plan(qnet_context *ctx, const qnet_scan_config *config, qnet__arena *arena,
                            qnet__scan_state *s)
{
    const qnet_lstm lstm = {config->batch, config->steps, config->features, config->hidden};
    const size_t real = sizeof(qnet_real), classes = (size_t)config->classes;
    const size_t batch = (size_t)config->batch, rows = batch * (size_t)config->steps;
    const int width = 2 * config->hidden;
    memset(s, 0, sizeof *s);
    qnet__take(arena, 1, sizeof *s); /* the state itself, copied to the block's start at the end */
    s->lstm = lstm;
    s->params = (qnet_param *)qnet__take(arena, QNET__SCAN_PARAMS, sizeof(qnet_param));
    qnet__scan_table(config, s);
    s->model.weights = (qnet_real *)qnet__take(arena, s->table.total, real);
    for (int d = 0; d < 2; d++)
        s->bias[d] = (qnet_real *)qnet__take(arena, 2 * (size_t)width, real);
    s->y = (qnet_real *)qnet__take(arena, rows * (size_t)width, real);
    s->saved = (qnet_real *)qnet__take(arena, qnet_lstm_saved(&lstm), real);
    s->image_logits = (qnet_real *)qnet__take(arena, rows * classes, real);
    s->scan_logits = (qnet_real *)qnet__take(arena, batch * classes, real);
    s->image_label = (int *)qnet__take(arena, rows, sizeof(int));
    if (config->training) {
        s->model.gradients = (qnet_real *)qnet__take(arena, s->table.total, real);
        s->dy = (qnet_real *)qnet__take(arena, rows * (size_t)width, real);
        s->dimage = (qnet_real *)qnet__take(arena, rows * classes, real);
        s->dscan = (qnet_real *)qnet__take(arena, batch * classes, real);
    }
    size_t scratch = qnet_lstm_scratch(ctx, &lstm); /* no smaller batch needs more */
    scratch = qnet__max_size(scratch, qnet_dense_scratch(ctx, rows, width, config->classes));
    scratch = qnet__max_size(scratch, qnet_dense_scratch(ctx, batch, config->steps * width,
                                                         config->classes));
    s->scratch = qnet__take(arena, scratch, 1);
}

/* The limits lie far above any use. Besides, no tensor of a batch and no weight matrix may be too
   large for a size_t: most * width bounds the numbers in each. */
static qnet_status qnet__scan_check_config(qnet_context *ctx, const qnet_scan_config *config)
{
    QNET__TRY(qnet__check_training(ctx, "scan model", config->training));
    QNET__TRY(qnet__check_range(ctx, "scan model", "features", config->features, 1, 4096));
    QNET__TRY(qnet__check_range(ctx, "scan model", "hidden", config->hidden, 1, 4096));
    QNET__TRY(qnet__check_range(ctx, "scan model", "steps", config->steps, 1, 4096));
    QNET__TRY(qnet__check_range(ctx, "scan model", "classes", config->classes, 1, 4096));
    QNET__TRY(qnet__check_range(ctx, "scan model", "batch", config->batch, 1, 4096));
    const double most = (double)qnet__max_int(config->batch, 4 * config->hidden) * config->steps;
    const double width = config->features + 64.0 * config->hidden + 16.0 * config->classes;
    if (most * width * sizeof(double) > (double)(SIZE_MAX / 2))
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "scan model: %d scans of %d steps do not fit",
                          config->batch, config->steps);
    return QNET_OK;
}

QNET_API void qnet_scan_config_init(qnet_scan_config *config)
{
    /* features, hidden, steps, classes, batch, training */
    const qnet_scan_config usual = {QNET_FEATURES, 256, 24, QNET_CLASSES, 64,
                                    QNET__HAS_TRAINING};
    *config = usual;
}

QNET_API size_t qnet_scan_model_bytes(qnet_context *ctx, const qnet_scan_config *config)
{
    qnet__arena arena = {NULL, 0};
    qnet__scan_state s;
    if (ctx == NULL || config == NULL || qnet__scan_check_config(ctx, config) != QNET_OK)
        return 0;
    qnet__scan_plan(ctx, config, &arena, &s);
    return arena.at == SIZE_MAX ? 0 : arena.at;
}

/* One allocation, as qnet_resnet_create: the plan measures it, and carves it. Weights and gradients
   are zero until qnet_scan_model_init or a weights file fills them. */
QNET_API qnet_status qnet_scan_model_create(qnet_context *ctx, const qnet_scan_config *config,
                                            qnet_scan_model **out)
{
    qnet__arena arena = {NULL, 0};
    qnet__scan_state s;
    size_t bytes;
    if (ctx == NULL || config == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "scan model: ctx, config or out is NULL");
    QNET__TRY(qnet__scan_check_config(ctx, config));
    qnet__scan_plan(ctx, config, &arena, &s);
    QNET__TRY(qnet__arena_alloc(ctx, &arena, &bytes, "the scan model"));
    qnet__scan_plan(ctx, config, &arena, &s);
    qnet__scan_state *self = (qnet__scan_state *)(void *)arena.base;
    const qnet_scan_model model = {ctx, *config, &self->table, s.model.weights, s.model.gradients,
                                   bytes, self};
    s.model = model;
    s.p = qnet__scan_bind(s.params, model.weights);
    for (int d = 0; d < 2; d++)
        s.weights.w[d] = s.p.lstm.w[d], s.weights.u[d] = s.p.lstm.u[d], s.weights.b[d] = s.bias[d];
    memset(model.weights, 0, s.table.total * sizeof(qnet_real));
    if (config->training) {
        s.d = qnet__scan_bind(s.params, model.gradients);
        memset(model.gradients, 0, s.table.total * sizeof(qnet_real));
    }
    *self = s;
    *out = &self->model;
    return QNET_OK;
}

QNET_API void qnet_scan_model_destroy(qnet_scan_model *model)
{
    if (model != NULL)
        qnet__free(model->ctx, model->state, model->bytes);
}

/* PyTorch's defaults: everything of the LSTM U(+-1/sqrt(hidden)), of a head U(+-1/sqrt(in)), in =
   2 hidden for the image head and steps 2 hidden for the scan head. Each parameter has a random
   stream of its own. */
QNET_API void qnet_scan_model_init(qnet_scan_model *model, uint64_t seed)
{
    const qnet_scan_config *config = &model->config;
    const int width = 2 * config->hidden;
    for (int i = 0; i < model->table->count; i++) {
        const qnet_param *p = &model->table->entries[i];
        const int fan = strncmp(p->name, "lstm", 4) == 0    ? config->hidden
                        : strncmp(p->name, "image", 5) == 0 ? width
                                                            : config->steps * width;
        const double bound = 1.0 / sqrt((double)fan);
        qnet_rng rng = qnet_rng_at(seed, QNET_RANDOM_INIT_SCAN, 0, (uint64_t)i);
        for (size_t j = 0; j < p->count; j++)
            model->weights[p->offset + j] = (qnet_real)qnet_rng_range(&rng, -bound, bound);
    }
}

/* batch in 1..config.batch and length[batch] in 1..config.steps. */
static qnet_status qnet__scan_check_batch(const qnet_scan_model *model, const int *length,
                                          int batch)
{
    QNET__TRY(qnet__check_range(model->ctx, "scan model", "batch", batch, 1, model->config.batch));
    for (int b = 0; b < batch; b++)
        if (length[b] < 1 || length[b] > model->config.steps)
            return qnet__fail(model->ctx, QNET_ERROR_ARGUMENT,
                              "scan model: length[%d] must be 1..%d, found %d", b,
                              model->config.steps, length[b]);
    return QNET_OK;
}

/* Sets t[batch][steps][width] to zero at the steps beyond each scan's length[batch]: what a short
   scan lacks neither adds to a logit nor gets a gradient. */
static void qnet__scan_clear_padding(const qnet_scan_config *config, const int *length, int batch,
                                     int width, qnet_real *t)
{
    const size_t steps = (size_t)config->steps, w = (size_t)width;
    for (int b = 0; b < batch; b++) {
        const size_t used = (size_t)length[b];
        memset(t + ((size_t)b * steps + used) * w, 0, (steps - used) * w * sizeof(qnet_real));
    }
}

/* x[batch][steps][features], y[batch][steps][2 hidden] = BiLSTM(x);
   image_logits[batch][steps][classes] = y image_head^T + bias at each step;
   scan_logits[batch][classes] = [y_1 ... y_steps] scan_head^T + bias. The paper leaves open what
   stands at the steps that a short scan lacks: here y is zero there. */
QNET_API qnet_status qnet_scan_model_forward(qnet_scan_model *model, const qnet_real *x,
                                             const int *length, int batch, qnet_real *image_logits,
                                             qnet_real *scan_logits)
{
    if (model == NULL || x == NULL || length == NULL)
        return qnet__fail(model ? model->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "scan model forward: model, x or length is NULL");
    qnet_context *ctx = model->ctx;
    qnet__scan_state *s = model->state;
    const qnet_scan_config *config = &model->config;
    const int width = 2 * config->hidden, classes = config->classes;
    s->batch = 0;
    QNET__TRY(qnet__scan_check_batch(model, length, batch));
    s->lstm.batch = batch;
    for (int d = 0; d < 2; d++)
        for (int i = 0; i < 2 * width; i++)
            s->bias[d][i] = s->p.lstm.b[d][i] + s->p.b_hh[d][i];
    QNET__TRY(qnet_lstm_forward(ctx, &s->lstm, length, &s->weights, x, s->y, s->saved,
                                s->scratch));
    if (image_logits != NULL) {
        QNET__TRY(qnet_dense_forward(ctx, (size_t)batch * (size_t)config->steps, width, classes,
                                     s->y, s->p.image_w, s->p.image_b, image_logits, s->scratch));
        qnet__scan_clear_padding(config, length, batch, classes, image_logits);
    }
    if (scan_logits != NULL)
        QNET__TRY(qnet_dense_forward(ctx, (size_t)batch, config->steps * width, classes, s->y,
                                     s->p.scan_w, s->p.scan_b, scan_logits, s->scratch));
    s->batch = batch;
    return QNET_OK;
}

#if QNET__HAS_TRAINING
/* model->gradients from dimage_logits[batch][steps][classes] and dscan_logits[batch][classes]: from
   the heads to dy[batch][steps][2 hidden], and through time by >>lstm. At padded steps the image
   logits are constant, so what the caller has there is left out. The features are a frozen
   embedding's: no gradient of x is needed. */
QNET_API qnet_status qnet_scan_model_backward(qnet_scan_model *model, const qnet_real *x,
                                              const int *length, int batch,
                                              const qnet_real *dimage_logits,
                                              const qnet_real *dscan_logits)
{
    if (model != NULL && !model->config.training)
        return qnet__fail(model->ctx, QNET_ERROR_ARGUMENT,
                          "scan model backward: needs a model created with training = 1");
    if (model == NULL || x == NULL || length == NULL || dimage_logits == NULL ||
        dscan_logits == NULL)
        return qnet__fail(model ? model->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "scan model backward: an argument is NULL");
    qnet_context *ctx = model->ctx;
    qnet__scan_state *s = model->state;
    const qnet_scan_config *config = &model->config;
    if (s->batch == 0 || s->batch != batch)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "scan model backward: expected the batch of the last forward pass, %d, "
                          "found %d", s->batch, batch);
    QNET__TRY(qnet__scan_check_batch(model, length, batch));
    const int width = 2 * config->hidden, classes = config->classes;
    const size_t rows = (size_t)batch * (size_t)config->steps, w = (size_t)width;
    const size_t k = (size_t)classes;
    memmove(s->dimage, dimage_logits, rows * k * sizeof(qnet_real)); /* may be the same */
    qnet__scan_clear_padding(config, length, batch, classes, s->dimage);

    /* Forward: scan_logits = [y_1 ... y_steps] scan_head^T + bias. */
    QNET__TRY(qnet_dense_backward(ctx, (size_t)batch, config->steps * width, classes, s->y,
                                  s->p.scan_w, dscan_logits, s->dy, s->d.scan_w, s->d.scan_b,
                                  s->scratch));
    /* Forward: image_logits = y image_head^T + bias, then zero at padded steps. Both heads read y,
       so their gradients add up: dy += dimage image_head. */
    QNET__TRY(qnet_dense_backward(ctx, rows, width, classes, s->y, s->p.image_w, s->dimage, NULL,
                                  s->d.image_w, s->d.image_b, s->scratch));
    QNET__TRY(qnet_gemm(ctx, 0, 0, rows, w, k, s->dimage, k, s->p.image_w, w, 1, s->dy, w,
                        s->scratch));
    /* At padded steps y is zero whatever the weights, so nothing flows there. */
    qnet__scan_clear_padding(config, length, batch, width, s->dy);
    /* Forward: y = BiLSTM(x), its bias = b_ih + b_hh: both have the sum's gradient. */
    QNET__TRY(qnet_lstm_backward(ctx, &s->lstm, length, &s->weights, x, s->y, s->saved, s->dy, NULL,
                                 &s->d.lstm, s->scratch));
    for (int d = 0; d < 2; d++)
        memcpy(s->d.b_hh[d], s->d.lstm.b[d], 2 * w * sizeof(qnet_real));
    return QNET_OK;
}
#endif

#if QNET__HAS_TRAINING
/* loss = CE(scan) + CE(image), each a mean of -log softmax(logits)[label]: over scans, and over all
   their slices, which have their scan's label: label -1 leaves padded steps out. The paper has both
   heads trained with cross-entropy ("Stage 2") and says no more; the weights 1:1 are this library's
   choice. With backward != 0 the gradients of the sum go to model->gradients. */
QNET_API qnet_status qnet_scan_model_loss(qnet_scan_model *model, const qnet_real *x,
                                          const int *length, const int *scan_label, int batch,
                                          double *image_loss, double *scan_loss, int backward)
{
    if (model == NULL || x == NULL || length == NULL || scan_label == NULL || image_loss == NULL ||
        scan_loss == NULL)
        return qnet__fail(model ? model->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "scan model loss: an argument is NULL");
    qnet__scan_state *s = model->state;
    const int steps = model->config.steps, classes = model->config.classes;
    double image, scan;
    QNET__TRY(qnet_scan_model_forward(model, x, length, batch, s->image_logits, s->scan_logits));
    for (int i = 0; i < batch * steps; i++)
        s->image_label[i] = i % steps < length[i / steps] ? scan_label[i / steps] : -1;
    QNET__TRY(qnet_cross_entropy(model->ctx, (size_t)batch, classes, s->scan_logits, scan_label,
                                 &scan, s->dscan));
    QNET__TRY(qnet_cross_entropy(model->ctx, (size_t)batch * (size_t)steps, classes,
                                 s->image_logits, s->image_label, &image, s->dimage));
    if (backward)
        QNET__TRY(qnet_scan_model_backward(model, x, length, batch, s->dimage, s->dscan));
    *image_loss = image;
    *scan_loss = scan;
    return QNET_OK;
}
#endif
#endif

#if QNET__HAS_TRAINING
/* ============================================================================================
   >>optim
   Adam (Kingma & Ba 2014), cosine annealing (Loshchilov & Hutter 2017) and the running average of
   stochastic weight averaging (Izmailov et al. 2018): loops over flat blocks of numbers, split into
   chunks of a fixed size. A number depends on no other, so chunks change no bits.
   Relies on >>context.
   ============================================================================================ */

#define QNET__OPTIM_CHUNK ((size_t)1 << 15)

/* p[count] moves by g[count]: weights by their gradient and its moments m and v (Adam), or an
   average by new weights (SWA). */
typedef struct qnet__optim_job {
    size_t count;
    qnet_real *p, *m, *v;
    const qnet_real *g;
    qnet_real b1, one_b1, b2, one_b2; /* one_b1 = 1 - b1, taken in double */
    qnet_real rate;                   /* learning_rate / (1 - b1^t) */
    qnet_real root;                   /* 1 / sqrt(1 - b2^t) */
    qnet_real eps;
    qnet_real share;                  /* of g in the new average, 1 / (n + 1) */
} qnet__optim_job;

static void qnet__optim_run(qnet_context *ctx, qnet_task task, qnet__optim_job *job)
{
    qnet__parallel(ctx, (job->count + QNET__OPTIM_CHUNK - 1) / QNET__OPTIM_CHUNK, task, job);
}

/* Adam on one chunk (Kingma & Ba 2014, Algorithm 1), PyTorch's form, with eps outside the root:
   m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2,
   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).
   Compilers do not vectorise sqrt, because it may set errno. SSE2, which every x86-64 has, takes
   four numbers at a time with the same operations and bits: on small images the square roots are
   otherwise a fifth of a training step. */
static void qnet__adam_task(void *arg, size_t index, size_t worker)
{
    const qnet__optim_job *a = (const qnet__optim_job *)arg;
    const size_t end = qnet__min_size((index + 1) * QNET__OPTIM_CHUNK, a->count);
    size_t i = index * QNET__OPTIM_CHUNK;
    QNET__UNUSED(worker);
#if QNET__X86 && defined(__SSE2__)
    const __m128 b1 = _mm_set1_ps(a->b1), one_b1 = _mm_set1_ps(a->one_b1);
    const __m128 b2 = _mm_set1_ps(a->b2), one_b2 = _mm_set1_ps(a->one_b2);
    const __m128 rate = _mm_set1_ps(a->rate), root = _mm_set1_ps(a->root);
    const __m128 eps = _mm_set1_ps(a->eps);
    for (; i + 4 <= end; i += 4) {
        const __m128 g = _mm_loadu_ps(a->g + i);
        const __m128 m = _mm_add_ps(_mm_mul_ps(b1, _mm_loadu_ps(a->m + i)), _mm_mul_ps(one_b1, g));
        const __m128 v = _mm_add_ps(_mm_mul_ps(b2, _mm_loadu_ps(a->v + i)),
                                    _mm_mul_ps(_mm_mul_ps(one_b2, g), g));
        const __m128 scale = _mm_add_ps(_mm_mul_ps(_mm_sqrt_ps(v), root), eps);
        const __m128 step = _mm_div_ps(_mm_mul_ps(rate, m), scale);
        _mm_storeu_ps(a->m + i, m);
        _mm_storeu_ps(a->v + i, v);
        _mm_storeu_ps(a->p + i, _mm_sub_ps(_mm_loadu_ps(a->p + i), step));
    }
#endif
    for (; i < end; i++) {
        const qnet_real g = a->g[i];
        const qnet_real m = a->b1 * a->m[i] + a->one_b1 * g;
        const qnet_real v = a->b2 * a->v[i] + a->one_b2 * g * g;
        a->m[i] = m;
        a->v[i] = v;
        a->p[i] -= a->rate * m / ((qnet_real)sqrt((double)v) * a->root + a->eps);
    }
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
    qnet__optim_job job;
    memset(&job, 0, sizeof job);
    job.count = count;
    job.p = p, job.g = g, job.m = m, job.v = v;
    job.b1 = (qnet_real)config->beta1;
    job.one_b1 = (qnet_real)(1.0 - config->beta1);
    job.b2 = (qnet_real)config->beta2;
    job.one_b2 = (qnet_real)(1.0 - config->beta2);
    job.rate = (qnet_real)(learning_rate / (1.0 - pow(config->beta1, (double)t)));
    job.root = (qnet_real)(1.0 / sqrt(1.0 - pow(config->beta2, (double)t)));
    job.eps = (qnet_real)config->eps;
    qnet__optim_run(ctx, qnet__adam_task, &job);
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

/* average[n+1] = average[n] + (p - average[n]) / (n + 1): the mean of all p so far, Eq. in sec. 3.2
   of Izmailov et al. The first is a copy, so that no NaN in average matters. */
static void qnet__swa_task(void *arg, size_t index, size_t worker)
{
    const qnet__optim_job *job = (const qnet__optim_job *)arg;
    const size_t start = index * QNET__OPTIM_CHUNK;
    const size_t end = qnet__min_size(start + QNET__OPTIM_CHUNK, job->count);
    QNET__UNUSED(worker);
    for (size_t i = start; i < end; i++)
        job->p[i] = job->share < 1 ? job->p[i] + job->share * (job->g[i] - job->p[i]) : job->g[i];
}

QNET_API void qnet_swa_update(qnet_context *ctx, size_t count, qnet_real *average,
                              const qnet_real *p, uint64_t n)
{
    qnet__optim_job job;
    memset(&job, 0, sizeof job);
    job.count = count;
    job.p = average, job.g = p;
    job.share = (qnet_real)(1.0 / ((double)n + 1.0));
    qnet__optim_run(ctx, qnet__swa_task, &job);
}
#endif

#if QNET__HAS_FILES
/* ============================================================================================
   >>deflate   RFC 1951 (deflate), RFC 1952 (gzip), RFC 1950 (zlib's wrapper, for PNG).

   Both directions stream: inflate pulls compressed bytes from a qnet_source as its caller reads
   plain bytes, deflate takes plain bytes and pushes compressed ones into a qnet_sink. Each keeps
   its state in one heap block, so a .nii.gz never lies in memory as a whole.

   The format in short. A stream is a row of blocks. A block is plain bytes ("stored"), or a row
   of symbols in a Huffman code: a literal byte, or "go back `distance` bytes and copy `length`
   of them", as a code for the length's range, extra bits for the place in the range, a code for
   the distance's range, extra bits; then the symbol 256, the end of the block. The code is fixed
   by the standard or sent at the head of the block ("dynamic"), as the number of bits of each
   symbol's code: that says it all, because codes of one length are numbered in the order of their
   symbols, and shorter ones come first ("canonical"). Bits fill bytes from the lowest on; a
   Huffman code is packed from its first bit, all other numbers from their lowest.

   gzip puts a header before the blocks and CRC-32 and size behind them; zlib two bytes and the
   Adler-32 sum. Relies on >>file for bytes.
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

/* ---- checksums ------------------------------------------------------------------------------- */

/* CRC-32 of RFC 1952, section 8: remainder by x^32 + x^26 + ... + 1 (0xedb88320, bits reversed).
   table[k][b] is the remainder of byte b followed by k zero bytes. */
static void qnet__crc32_table(uint32_t table[8][256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t r = i;
        for (uint32_t k = 0; k < 8; k++) r = (r >> 1) ^ ((r & 1) ? 0xedb88320u : 0);
        table[0][i] = r;
    }
    for (uint32_t k = 1; k < 8; k++)
        for (uint32_t i = 0; i < 256; i++)
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

/* ---- inflate --------------------------------------------------------------------------------- */

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
    for (int bits = 1; bits < 16; bits++, next <<= 1)
        for (int i = 0; i < symbols; i++)
            if (length[i] == bits) code[i] = (uint16_t)qnet__reverse_bits(next++, bits);
}

/* Which of a block's three alphabets a code is for. */
enum { QNET__FOR_CODELEN, QNET__FOR_LITLEN, QNET__FOR_DIST };

/* The table entry of a symbol, without the length of its code; 0 for a reserved symbol. */
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
    uint32_t first_free = 1u << code->index_bits;
    uint16_t codes[QNET__FIXED_CODES];
    int longest = 0, left = 1 << 15; /* of all codes, in units of 15 bits */
    for (int symbol = 0; symbol < symbols; symbol++) {
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
    for (int symbol = 0; symbol < symbols; symbol++) {
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
        for (uint32_t i = at; i < 1u << table_bits; i += 1u << n)
            table[i] = entry ? entry | (uint32_t)n : 0;
    }
    return 1;
}

/* The bits read ahead (lowest first) and the bytes after them. Bits above `count` are 0 or already
   those of the next bytes: or-ing these in again changes nothing. */
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

/* The state of the decoder, about 150 KB: too much for a stack. Input is pulled as it is needed, so
   only the plain side is resumed. The first failure stays in status: readers of bits get zeros from
   then on, and check the status where they end. */
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

/* Records a failure, unless there was one before; what: NULL when the input ended too early. The
   number of plain bytes locates it in a long file. */
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
            size_t got;
            qnet_status status;
            if (s->source_ended) break;
            status = qnet__read_some(s->ctx, s->source, s->input, sizeof s->input, &got);
            if (status != QNET_OK) s->status = status;
            s->source_ended = got == 0;
            s->in.at = s->input;
            s->in.end = s->input + got;
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
    uint32_t flags, n, crc;
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
    for (uint32_t i = 0; i < 6; i++) qnet__inflate_header_byte(s); /* time, XFL, OS */
    if (flags & 4) {                                      /* FEXTRA */
        n = qnet__inflate_header_byte(s);
        n |= qnet__inflate_header_byte(s) << 8;
        for (uint32_t i = 0; i < n; i++) qnet__inflate_header_byte(s);
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
        for (int i = 0; i < QNET__FIXED_CODES; i++) /* RFC 1951, 3.2.6 */
            length[i] = (uint8_t)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
        memset(dist_length, 5, 32); /* 30 and 31 complete the code; they are refused when used */
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
    uint32_t word[2];
    qnet__inflate_bits(s, s->in.count & 7);
    for (uint32_t i = 0; i < 2; i++) {
        word[i] = qnet__inflate_bits(s, 16);
        word[i] |= qnet__inflate_bits(s, 16) << 16;
    }
    if (s->status != QNET_OK) return;
    if (word[0] != s->crc || word[1] != s->member_size)
        s->status = qnet__fail(s->ctx, QNET_ERROR_FORMAT, "%s: corrupt gzip data: CRC is %08lx and "
                               "%lu bytes unpacked, expected %08lx and %lu",
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

/* ---- deflate --------------------------------------------------------------------------------- */

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

/* The code of one symbol. */
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
    memset(d, 0, offsetof(qnet__deflate, head));
    memset(d->head, -1, sizeof d->head);
    d->ctx = ctx;
    d->sink = sink;
    d->zlib = zlib;
    d->check = zlib ? 1 : 0;
    d->written = zlib ? 2 : 10;
    memcpy(d->out, zlib ? zlib_head : gzip_head, d->written);
    qnet__crc32_table(d->crc_table);
    for (int k = 0; k < 29; k++)
        for (int i = qnet__length_base[k]; i <= QNET__MATCH_MAX; i++)
            d->length_symbol[i] = (uint8_t)k;
    for (int k = 0; k < QNET__DIST_CODES; k++)
        for (int i = qnet__dist_base[k] - 1; i < QNET__WINDOW; i += i < 256 ? 1 : 128)
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
    int tries = QNET__CHAIN;
    qnet__deflate_hash(d, at);
    if (room < QNET__MATCH_MIN) return 0;
    /* Places with the same hash, nearest first. Equal hashes of different bytes do happen: the
       bytes are compared, first the one that would make the match the longest so far. */
    for (int32_t place = d->previous[at]; place >= 0 && tries > 0;
         place = d->previous[place], tries--) {
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
    d->litlen.count[256] = 1; /* the end of the block */
}

/* Code lengths length[symbols] <= limit for these counts, and the codes. Huffman's tree by two
   queues (leaves and inner nodes both come in rising order of weight), then lengths above the limit
   are shortened at the least cost elsewhere. At least two codes get a length, so that
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
    /* Truncated depths may break Kraft's inequality, sum of 2^-length <= 1. Each round takes one
       leaf of the greatest length and makes it the sibling of a leaf of the next smaller length,
       which goes one level down: the sum falls by 2^-limit. */
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
    for (int i = 0; i < symbols; i++)
        bits += count[i] * (size_t)(length[i] + (i < plain ? 0 : extra[i - plain]));
    return bits;
}

/* The tokens of the block in the codes at hand, and its end. */
static void qnet__deflate_tokens(qnet__deflate *d)
{
    for (size_t i = 0; i < d->tokens; i++) {
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
    int literals = QNET__LITLEN_CODES, distances = QNET__DIST_CODES, codes = 19, n, run;
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
        for (int i = 0; i < codes; i++)
            qnet__put_bits(d, codelen->length[qnet__codelen_order[i]], 3);
    }
    for (int i = 0; i < n; i += run) {
        int symbol = all[i], most = symbol == 0 ? 138 : 6, repeat;
        /* The first of a run is sent as such, its repeats by 16; zeros all by 17 or 18. */
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

/* Codes window[start..size) as one block, stored where that is no larger, and hands it on. */
static qnet_status qnet__deflate_block(qnet__deflate *d, int last)
{
    qnet__alphabet codelen;
    const size_t n = d->size - d->start;
    size_t bits, written; /* with codes of its own: exact before a bit is written */
    qnet__deflate_parse(d);
    qnet__huffman_make(d->litlen.count, QNET__LITLEN_CODES, 15, d->litlen.length, d->litlen.code);
    qnet__huffman_make(d->dist.count, QNET__DIST_CODES, 15, d->dist.length, d->dist.code);
    memset(&codelen, 0, sizeof codelen);
    bits = qnet__deflate_head(d, &codelen, 0) +
           qnet__coded_bits(d->litlen.count, d->litlen.length, QNET__LITLEN_CODES,
                            qnet__length_extra, 257) +
           qnet__coded_bits(d->dist.count, d->dist.length, QNET__DIST_CODES, qnet__dist_extra, 0);
    qnet__put_bits(d, last ? 1 : 0, 1);
    if (8 * n + 40 <= bits) { /* ties go to the form that is faster to unpack */
        qnet__put_bits(d, 0, 2);
        qnet__put_bits(d, 0, -d->bit_count & 7); /* up to a whole byte */
        qnet__put_bits(d, (uint32_t)n, 16);
        qnet__put_bits(d, (uint32_t)n ^ 0xffff, 16);
        memcpy(d->out + d->written, d->window + d->start, n);
        d->written += n;
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
    memmove(d->window, d->window + QNET__WINDOW, QNET__WINDOW);
    memmove(d->previous, d->previous + QNET__WINDOW, QNET__WINDOW * sizeof d->previous[0]);
    for (int32_t i = 0; i < 1 << QNET__HASH_BITS; i++)
        d->head[i] = qnet__max_int(d->head[i] - QNET__WINDOW, -1);
    for (int32_t i = 0; i < QNET__WINDOW; i++)
        d->previous[i] = qnet__max_int(d->previous[i] - QNET__WINDOW, -1);
    d->start -= QNET__WINDOW;
    d->size -= QNET__WINDOW;
    d->hashed -= QNET__WINDOW;
}

/* Appends bytes[size] to the plain stream. A full block is coded only when more bytes follow it, as
   the last block carries a mark. */
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
    qnet__store(trailer, 4, d->zlib, d->check);
    qnet__store(trailer + 4, 4, 0, d->plain_size);
    return qnet__write(d->ctx, d->sink, trailer, d->zlib ? 4 : 8);
}

#if QNET__HAS_TRAINING
/* ============================================================================================
   >>png   PNG pictures out (ISO/IEC 15948): pixels[height][width][channels], 8 bits, 1 channel
   (grey) or 3 (RGB). A picture is a signature and chunks: IHDR with the sizes, IDAT with the rows,
   each filtered and all packed by the deflate above, IEND.
   Relies on >>context, >>file and >>deflate.
   ============================================================================================ */

/* A chunk: length, type, bytes[size], CRC of type and bytes; big-endian numbers (PNG, 5.3). */
static qnet_status qnet__png_chunk(qnet_context *ctx, qnet_sink *sink, const char *type,
                                   const unsigned char *bytes, size_t size)
{
    unsigned char head[8], crc[4];
    qnet__store(head, 4, 1, (uint32_t)size);
    memcpy(head + 4, type, 4);
    qnet__store(crc, 4, 1, qnet_crc32(qnet_crc32(0, head + 4, 4), bytes, size));
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

/* line[2][1 + bytes]: the kind of the filter and row[bytes] filtered by it; above: the row before,
   NULL for the first. Returns which of the two lines is the one to send: of the five kinds the one
   with the smallest sum of absolute differences wins (PNG, 12.8). */
static int qnet__png_filter(const uint8_t *row, const uint8_t *above, size_t bytes, size_t pixel,
                            unsigned char *line[2])
{
    double best = HUGE_VAL;
    int next = 0; /* the line that is free; the other holds the best so far */
    for (int kind = 0; kind < 5; kind++) {
        double sum = 0;
        line[next][0] = (unsigned char)kind;
        for (size_t i = 0; i < bytes; i++) {
            const int left = i >= pixel ? row[i - pixel] : 0, up = above ? above[i] : 0;
            const int corner = above && i >= pixel ? above[i - pixel] : 0;
            const int d = (row[i] - qnet__png_predict(kind, left, up, corner)) & 255;
            line[next][1 + i] = (unsigned char)d;
            sum += d < 128 ? d : 256 - d; /* mod 256: 255 is as near to 0 as 1 is */
        }
        if (sum < best) {
            best = sum;
            next = !next;
        }
    }
    return !next;
}

/* Signature, IHDR, one IDAT with all rows as a zlib stream, IEND. The stream is made in memory
   first, for its length stands before it. */
QNET_API qnet_status qnet_png_write(qnet_context *ctx, qnet_sink *sink, int width, int height,
                                    int channels, const uint8_t *pixels)
{
    static const unsigned char signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    unsigned char head[13] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0}, *line[2];
    qnet_buffer data = {NULL, 0, 0, NULL};
    qnet_sink to;
    qnet__deflate *d;
    size_t row, block, total;
    qnet_status status = QNET_OK;
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
    block = sizeof *d + 2 * (row + 1);
    d = (qnet__deflate *)qnet__alloc(ctx, block);
    if (d == NULL) return qnet__no_memory(ctx, block, "packing a picture");
    line[0] = (unsigned char *)(d + 1);
    line[1] = line[0] + row + 1;
    /* The rows as a zlib stream in `data`. */
    to = qnet_sink_buffer(ctx, &data, qnet__sink_name(sink));
    qnet__deflate_start(d, ctx, &to, 1);
    for (int y = 0; y < height && status == QNET_OK; y++) {
        const uint8_t *p = pixels + (size_t)y * row;
        const int best = qnet__png_filter(p, y > 0 ? p - row : NULL, row, (size_t)channels, line);
        status = qnet__deflate_write(d, line[best], row + 1);
    }
    if (status == QNET_OK) status = qnet__deflate_finish(d);
    qnet__free(ctx, d, block);
    qnet__store(head, 4, 1, (uint32_t)width);
    qnet__store(head + 4, 4, 1, (uint32_t)height);
    head[9] = channels == 3 ? 2 : 0; /* colour type, behind the 8 bits a sample */
    if (status == QNET_OK) status = qnet__write(ctx, sink, signature, 8);
    if (status == QNET_OK) status = qnet__png_chunk(ctx, sink, "IHDR", head, 13);
    if (status == QNET_OK) status = qnet__png_chunk(ctx, sink, "IDAT", data.bytes, data.size);
    if (status == QNET_OK) status = qnet__png_chunk(ctx, sink, "IEND", NULL, 0);
    qnet_buffer_free(ctx, &data);
    return status;
}

#ifndef QNET_NO_STDIO
/* The same into a file. */
QNET_API qnet_status qnet_png_save(qnet_context *ctx, const char *path, int width, int height,
                                   int channels, const uint8_t *pixels)
{
    qnet__file file;
    qnet_sink sink;
    QNET__TRY(qnet__file_open_replace(ctx, path, &file, &sink));
    return qnet__file_finish(&file, qnet_png_write(ctx, &sink, width, height, channels, pixels));
}
#endif
#endif

/* ============================================================================================
   >>nifti   Volumes, and NIfTI-1 files in and out (nifti1.h, R. W. Cox 2007).

   A volume is voxels[nz][ny][nx] and an affine: world = affine * (i, j, k, 1), in mm, x to the
   right, y to the front, z up ("RAS+"). Nothing is flipped when a file is read: voxels stay in file
   order, and where they lie is in the affine. Turning a volume is an act of its own,
   qnet_volume_reorient. An orientation is three letters, what each voxel axis points to: "LPS" runs
   left, back, up.

   A file is a header of 348 bytes, extensions, and the voxels, x fastest, as one of ten number
   types, little- or big-endian, plain or in gzip; voxel = stored * slope + intercept, as float.
   What tools are known to write wrongly without doubt about its meaning is repaired with a warning,
   all else is refused with the field, what was expected, and what was found.
   Relies on >>context, >>file for bytes and >>deflate for gzip.
   ============================================================================================ */

/* ---- 3 x 3 matrices and affines -------------------------------------------------------------- */

/* The determinant of m, by its first row. */
static double qnet__det3(double m[3][3])
{
    return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
           m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
           m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

/* affine[3][4], row by row. norm[j]: the length of its column j, the spacing along axis j; r[3][3]:
   the orthogonal matrix nearest to the normalised columns, by Newton's iteration R <- (R + R^-T) /
   2 for the polar decomposition, which converges quadratically (Higham 1986). Returns 0 when the
   affine is not finite or singular. */
static int qnet__affine_axes(const double *affine, double norm[3], double r[3][3])
{
    for (int j = 0; j < 3; j++) {
        const double a = affine[j], b = affine[4 + j], c = affine[8 + j];
        norm[j] = sqrt(a * a + b * b + c * c);
        if (!(norm[j] > 1e-9 && norm[j] < 1e9 && fabs(affine[4 * j + 3]) < 1e12)) return 0;
        for (int i = 0; i < 3; i++) r[i][j] = affine[4 * i + j] / norm[j];
    }
    if (fabs(qnet__det3(r)) < 1e-6) return 0; /* unit columns that lie (nearly) in one plane */
    for (int step = 0; step < 30; step++) {
        const double det = qnet__det3(r);
        double next[3][3];
        for (int i = 0; i < 3; i++) {
            const int i1 = (i + 1) % 3, i2 = (i + 2) % 3;
            for (int j = 0; j < 3; j++) { /* cofactor / det = the transposed inverse */
                const int j1 = (j + 1) % 3, j2 = (j + 2) % 3;
                next[i][j] = (r[i][j] + (r[i1][j1] * r[i2][j2] - r[i1][j2] * r[i2][j1]) / det) / 2;
            }
        }
        memcpy(r, next, sizeof next);
    }
    return 1;
}

#define QNET__AXIS_TIE 1e-6

/* world[j]: 0 right-left, 1 front-back, 2 up-down, the world axis nearest to voxel axis j; sign[j]:
   1 towards right, front, up. Axes are settled from the clearest on, each world axis once, as
   nibabel's io_orientation does it. At 45 degrees two are as near: then the first, whatever the
   rounding of an affine to float makes of it. */
static void qnet__nearest_axes(double r[3][3], int world[3], int sign[3])
{
    double strength[3];
    int is_free[3] = {1, 1, 1}, i, j, k, best;
    for (j = 0; j < 3; j++) {
        strength[j] = fmax(fabs(r[0][j]), fmax(fabs(r[1][j]), fabs(r[2][j])));
        world[j] = -1;
    }
    for (k = 0; k < 3; k++) { /* with the axes beyond 45 degrees two may be nearest to the same */
        for (i = 0, j = -1; i < 3; i++)
            if (world[i] < 0 && (j < 0 || strength[i] > strength[j] + QNET__AXIS_TIE)) j = i;
        for (i = 0, best = -1; i < 3; i++)
            if (is_free[i] && (best < 0 || fabs(r[i][j]) > fabs(r[best][j]) + QNET__AXIS_TIE))
                best = i;
        is_free[best] = 0;
        world[j] = best;
        sign[j] = r[best][j] < 0 ? -1 : 1;
    }
}

/* "RAS", "LPI", ...: what the axes of r point to. */
static void qnet__orientation_text(double r[3][3], char text[4])
{
    int world[3], sign[3];
    qnet__nearest_axes(r, world, sign);
    for (int j = 0; j < 3; j++) text[j] = sign[j] > 0 ? "RAS"[world[j]] : "LPI"[world[j]];
    text[3] = '\0';
}

/* The rotation of a quaternion a + bi + cj + dk of any length but 0 (nifti1.h, "method 2"). */
static void qnet__quaternion_to_rotation(const double q[4], double r[3][3])
{
    const double a = q[0], s = 2 / (a * a + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    for (int i = 0; i < 3; i++) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        const double b = q[1 + i], c = q[1 + j], d = q[1 + k];
        r[i][i] = 1 - s * (c * c + d * d);
        r[i][j] = s * (b * c - a * d);
        r[i][k] = s * (b * d + a * c);
    }
}

/* ---- volumes --------------------------------------------------------------------------------- */

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
    const size_t count = qnet__voxel_count(nx, ny, nz);
    qnet_volume *v;
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
    v->nx = nx, v->ny = ny, v->nz = nz;
    for (int i = 0; i < 3; i++) v->spacing[i] = v->affine[i][i] = 1;
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
   affine A follows, so that every voxel keeps its place in the world: column j of the new one is
   column i of A, negated where flipped, and the origin moves by column i times n - 1 to the corner
   that is index 0 now. The volume is as before on failure. */
QNET_API qnet_status qnet_volume_reorient(qnet_volume *volume, const char *to)
{
    static const char letters[] = "RASLPI"; /* letter k is world axis k % 3, negative from 3 on */
    double norm[3], r[3][3], affine[3][4], spacing[3];
    int world[3], sign[3], n[3], size[3], seen[3] = {0, 0, 0}, moves = 0, i, j, k;
    ptrdiff_t stride[3], step[3], start = 0;
    if (volume == NULL || to == NULL)
        return qnet__fail(volume ? volume->ctx : NULL, QNET_ERROR_ARGUMENT,
                          "qnet_volume_reorient: volume or orientation is NULL");
    if (!qnet__affine_axes(&volume->affine[0][0], norm, r))
        return qnet__fail(volume->ctx, QNET_ERROR_DATA,
                          "qnet_volume_reorient: the affine is singular or not finite");
    qnet__nearest_axes(r, world, sign);
    n[0] = volume->nx, n[1] = volume->ny, n[2] = volume->nz;
    stride[0] = 1, stride[1] = n[0], stride[2] = (ptrdiff_t)n[0] * n[1];
    memcpy(affine, volume->affine, sizeof affine);
    for (j = 0; j < 3; j++) { /* i: the old axis along the world axis of letter j */
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
        const size_t bytes = qnet__voxel_count(n[0], n[1], n[2]) * sizeof(float);
        float *voxels = (float *)qnet__alloc(volume->ctx, bytes), *next = voxels;
        if (voxels == NULL) return qnet__no_memory(volume->ctx, bytes, "reorienting a volume");
        for (k = 0; k < size[2]; k++) /* in the new order; step[]: strides in the old one */
            for (j = 0; j < size[1]; j++) {
                const float *row = volume->voxels + (start + k * step[2] + j * step[1]);
                for (i = 0; i < size[0]; i++) *next++ = row[i * step[0]];
            }
        qnet__free(volume->ctx, volume->voxels, bytes);
        volume->voxels = voxels;
    }
    volume->nx = size[0], volume->ny = size[1], volume->nz = size[2];
    memcpy(volume->affine, affine, sizeof affine);
    memcpy(volume->spacing, spacing, sizeof spacing);
    memcpy(volume->orientation, to, 4);
    return QNET_OK;
}

/* ---- the header ------------------------------------------------------------------------------ */

/* The fields of nifti_1_header that are used here: offset in the file and, but for bytes, type. */
#define QNET__NII_BYTES 348             /* int32 at 0, too, in the byte order of the file */
#define QNET__NII_DIM 40, QNET_I16      /* [8]: number of axes, then each length */
#define QNET__NII_DATATYPE 70, QNET_I16 /* qnet__nifti_type */
#define QNET__NII_BITPIX 72, QNET_I16   /* bits per voxel, as datatype says already */
#define QNET__NII_PIXDIM 76, QNET_F32   /* [8]: qfac (1 or -1), then each spacing */
#define QNET__NII_OFFSET 108, QNET_F32  /* of the voxels, 352 without extensions */
#define QNET__NII_SLOPE 112, QNET_F32   /* voxel = stored * slope + inter; 0: stored */
#define QNET__NII_INTER 116, QNET_F32
#define QNET__NII_UNITS 123             /* byte: low 3 bits: 1 m, 2 mm, 3 micron; 0 unknown: mm */
#define QNET__NII_QFORM 252, QNET_I16   /* above 0: the quaternion below is valid */
#define QNET__NII_SFORM 254, QNET_I16   /* above 0: the matrix below is valid */
#define QNET__NII_QUATERN 256, QNET_F32 /* [3]: b, c, d */
#define QNET__NII_QOFFSET 268, QNET_F32 /* [3]: x, y, z */
#define QNET__NII_SROW 280, QNET_F32    /* [3][4]: the matrix, voxel index to world */
#define QNET__NII_MAGIC 344             /* char[4]: "n+1": header and voxels in one file */
/* After it four bytes; where the first is not 0, extensions up to the offset of the voxels. */

#define QNET__NIFTI_MAX_OFFSET ((size_t)1 << 28) /* header and extensions together */
#define QNET__NIFTI_MAX_TAIL   ((size_t)1 << 20) /* bytes after the last voxel that are ignored */
#define QNET__NIFTI_PIECE      65536             /* bytes read or written at a time */
#define QNET__NIFTI_TRUST      ((size_t)1 << 16) /* voxels allocated on the header's word alone */

/* Between the file's byte order and the other one: the numbers of a header. */
static void qnet__nifti_swap_header(unsigned char *h)
{
    static const short runs[6][3] = { /* first byte, count, bytes of each */
        {0, 1, 4}, {40, 8, 2}, {70, 2, 2}, {76, 11, 4}, {252, 2, 2}, {256, 18, 4}};
    for (int i = 0; i < 6; i++)
        qnet__swap_bytes(h + runs[i][0], (size_t)runs[i][1], (size_t)runs[i][2]);
}

/* The type of datatype `code`, if that has one real number per voxel, and its name; else BOOL. */
static qnet_dtype qnet__nifti_type(int code, const char **name)
{
    static const struct { int code; qnet_dtype type; const char *name; } types[10] = {
        {2, QNET_U8, "uint8"},    {4, QNET_I16, "int16"},   {8, QNET_I32, "int32"},
        {16, QNET_F32, "float32"}, {64, QNET_F64, "float64"}, {256, QNET_I8, "int8"},
        {512, QNET_U16, "uint16"}, {768, QNET_U32, "uint32"}, {1024, QNET_I64, "int64"},
        {1280, QNET_U64, "uint64"}};
    for (int i = 0; i < 10; i++)
        if (types[i].code == code) {
            *name = types[i].name;
            return types[i].type;
        }
    return QNET_BOOL;
}

/* Number i of a header's field, which is an offset and a type, I16 or F32. */
static double qnet__nifti_get(const unsigned char *h, int offset, qnet_dtype type, int i)
{
    return qnet__number(h + offset + i * (int)qnet_dtype_size(type), type);
}

/* Its counterpart: value, rounded to the field's type. */
static void qnet__nifti_put(unsigned char *h, int offset, qnet_dtype type, int i, double value)
{
    const int16_t whole = type == QNET_I16 ? (int16_t)value : 0;
    const float real = (float)value;
    if (type == QNET_I16) memcpy(h + offset + 2 * i, &whole, sizeof whole);
    else memcpy(h + offset + 4 * i, &real, sizeof real);
}

/* The state of reading, in one block of the heap. After qnet__nifti_parse nothing in here can lead
   a reader out of bounds. */
typedef struct qnet__nifti_reader {
    qnet_context *ctx;
    qnet_source *source;
    const char *name;
    qnet_volume volume; /* what will be handed out */
    const char *type_name;
    int packed, swapped, datatype, bitpix; /* bitpix: 0 when it agrees with datatype */
    qnet_dtype type;
    size_t bytes, count, offset;       /* bytes of a voxel, voxels, where they start */
    double slope, intercept;
    unsigned char header[QNET__NII_BYTES]; /* in the order of this machine */
    qnet__inflate inflate;               /* if packed */
    unsigned char piece[QNET__NIFTI_PIECE];
} qnet__nifti_reader;

/* Refusals and warnings begin with the file's name. */
#define qnet__nifti_fail(in, status, text, ...) \
    qnet__fail((in)->ctx, QNET_ERROR_##status, "%s: " text, (in)->name, __VA_ARGS__)
#define qnet__nifti_warn(in, text, ...) \
    qnet__log((in)->ctx, QNET_LOG_WARNING, "%s: " text, (in)->name, __VA_ARGS__)

/* affine of the quaternion in the header ("method 2" of nifti1.h). qfac, in pixdim[0], is -1 where
   the third axis makes the frame left-handed. Returns by how much |b, c, d|^2 is above 1, or 0; or
   -1 when that is too much: scanners and FSL write 4e-7, which nifti1_io makes 1 as done here. */
static double qnet__nifti_qform(const unsigned char *h, const double spacing[3],
                                double affine[3][4])
{
    const double qfac = qnet__nifti_get(h, QNET__NII_PIXDIM, 0) < 0 ? -1 : 1;
    double q[4], r[3][3], rest = 1;
    for (int i = 0; i < 3; i++) {
        q[1 + i] = qnet__nifti_get(h, QNET__NII_QUATERN, i);
        rest -= q[1 + i] * q[1 + i];
        affine[i][3] = qnet__nifti_get(h, QNET__NII_QOFFSET, i);
    }
    if (!(rest >= -1e-5)) return -1;
    q[0] = rest <= 3 * (double)FLT_EPSILON ? 0 : sqrt(rest);
    qnet__quaternion_to_rotation(q, r);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) affine[i][j] = r[i][j] * spacing[j] * (j == 2 ? qfac : 1);
    return fmax(0, -rest);
}

/* Where the voxels lie, in mm. The first row that holds decides; refused when that affine is
   singular:
       sform_code > 0, its matrix is not 0   sform
       sform_code > 0, qform not valid       sform, to be refused
       qform_code > 0                        qform
       neither                               LAS around the centre, as nibabel takes ANALYZE
   Valid: code above 0, a quaternion of length 1, spacings above 0. Warnings: a unit that is none, a
   spacing with a sign, a quaternion that is too long, a form that is passed over. */
static qnet_status qnet__nifti_affine(qnet__nifti_reader *in)
{
    static const char *const source[3] = {"pixdim", "qform", "sform"};
    static const double mm[8] = {1, 1000, 1, .001, 1, 1, 1, 1}; /* of a unit: unknown, m, mm, um */
    qnet_volume *v = &in->volume;
    const unsigned char *h = in->header;
    const int dims = (int)qnet__nifti_get(h, QNET__NII_DIM, 0), units = h[QNET__NII_UNITS] & 7;
    const int qform = (int)qnet__nifti_get(h, QNET__NII_QFORM, 0);
    const int sform = (int)qnet__nifti_get(h, QNET__NII_SFORM, 0);
    const int n[3] = {v->nx, v->ny, v->nz};
    double spacing[3], other[3][4], r[3][3], norm[3], excess;
    int negative = 0, zero = 1, qform_valid;
    char text[4] = "";
    if (units > 3)
        qnet__nifti_warn(in, "xyzt_units has the spatial unit %d, which is none of NIfTI-1: taken "
                         "as mm", units);
    /* Both forms are read; the qform also where the sform is used, to compare them. */
    for (int i = 2; i >= 0; i--) {
        spacing[i] = qnet__nifti_get(h, QNET__NII_PIXDIM, 1 + i);
        if (spacing[i] == 0 && (i >= dims || n[i] == 1)) spacing[i] = 1; /* no such axis */
        if (spacing[i] < 0) negative = i + 1;
        spacing[i] = fabs(spacing[i]); /* direction is the quaternion's matter */
    }
    excess = qnet__nifti_qform(h, spacing, other);
    qform_valid = qform > 0 && excess >= 0 && qnet__affine_axes(&other[0][0], norm, r);
    if (qform_valid) qnet__orientation_text(r, text);
    for (int i = 0; i < 12; i++) {
        v->affine[i / 4][i % 4] = qnet__nifti_get(h, QNET__NII_SROW, i);
        zero = zero && (i % 4 == 3 || v->affine[i / 4][i % 4] == 0);
    }
    v->affine_source = sform > 0 && !(zero && qform_valid) ? 2 : qform > 0 ? 1 : 0;
    if (v->affine_source < 2) { /* by pixdim: other[] becomes the affine */
        if (sform > 0)
            qnet__nifti_warn(in, "sform_code is %d, but its matrix is 0: qform is used", sform);
        for (int i = 0; i < 3; i++)
            if (!(spacing[i] > 0 && qnet__is_finite(spacing[i])))
                return qnet__nifti_fail(in, FORMAT, "pixdim[%d] is %g, expected a spacing above 0",
                                        i + 1, spacing[i]);
        if (negative)
            qnet__nifti_warn(in, "pixdim[%d] is %g: taken as %g, a spacing has no sign", negative,
                             -spacing[negative - 1], spacing[negative - 1]);
        for (int i = 0; i < 3 && qform <= 0; i++) {
            memset(other[i], 0, sizeof other[i]);
            other[i][i] = i == 0 ? -spacing[i] : spacing[i];
            other[i][3] = -other[i][i] * (n[i] - 1) / 2;
        }
        if (qform <= 0)
            qnet__nifti_warn(in, "%s", "neither sform nor qform: taken as LAS, side unknown");
        else if (excess < 0)
            return qnet__nifti_fail(in, FORMAT, "%s", "qform: quatern_b, c, d are longer than 1");
        else if (excess > 3 * (double)FLT_EPSILON) /* more than rounding to float (nibabel) */
            qnet__nifti_warn(in, "qform: quatern_b, c, d are longer than 1 by %.2g: taken as 1",
                             excess / 2);
        memcpy(v->affine, other, sizeof other);
    }
    for (int i = 0; i < 12; i++) v->affine[i / 4][i % 4] *= mm[units];
    if (!qnet__affine_axes(&v->affine[0][0], v->spacing, r))
        return qnet__nifti_fail(in, FORMAT, "the affine of the %s is singular or not finite",
                                source[v->affine_source]);
    qnet__orientation_text(r, v->orientation);
    /* Both forms may be there and mean different spaces; that is no fault. That they flip an axis
       against each other mostly is one, of some tool that turned the picture and one form only. */
    if (v->affine_source == 2 && qform_valid && strcmp(text, v->orientation) != 0)
        qnet__nifti_warn(in, "sform says %s and qform says %s; sform is used", v->orientation,
                         text);
    return QNET_OK;
}

/* Checks the header and takes what matters from it. The order matters: what kind of file it is
   comes first, then the size, so that a wrong file gets a sentence about its kind and not about
   some field. */
static qnet_status qnet__nifti_parse(qnet__nifti_reader *in)
{
    unsigned char *h = in->header, *magic = h + QNET__NII_MAGIC;
    int dim[8];
    double offset, slope;
    const long size = (int32_t)qnet__load_le32(h); /* as a little-endian file has it */
    const int big = size == 0x5c010000; /* 348 the other way round */
    if (size == 540 || size == 0x1c020000)
        return qnet__nifti_fail(in, UNSUPPORTED, "sizeof_hdr is %d (NIfTI-2), expected 348 "
                                "(NIfTI-1)", 540);
    if (size != QNET__NII_BYTES && !big)
        return qnet__nifti_fail(in, FORMAT, "not a NIfTI-1 file: sizeof_hdr is %ld, expected 348 "
                                "in either byte order", size);
    in->swapped = big == qnet__is_little_endian();
    if (in->swapped) qnet__nifti_swap_header(h);
    if (memcmp(magic, "ni1", 4) == 0)
        return qnet__nifti_fail(in, UNSUPPORTED, "magic is \"%s\" (a .hdr/.img pair), expected "
                                "\"n+1\" (one file)", "ni1");
    if (memcmp(magic, "n+1", 4) != 0)
        return qnet__nifti_fail(in, FORMAT, "not a NIfTI-1 file: magic is %02x %02x %02x %02x, "
                                "expected 6e 2b 31 00 (\"n+1\")", magic[0], magic[1], magic[2],
                                magic[3]);
    for (int i = 0; i < 8; i++) dim[i] = (int)qnet__nifti_get(h, QNET__NII_DIM, i);
    if (dim[0] < 1 || dim[0] > 7)
        return qnet__nifti_fail(in, FORMAT, "dim[0] is %d, expected 1 to 7", dim[0]);
    for (int i = 1; i <= 7; i++) {
        if (i > dim[0]) dim[i] = 1; /* axes beyond the last hold anything, often 0 */
        if (i > 3 && dim[i] == 0) { /* a series of none is what no tool means */
            qnet__nifti_warn(in, "dim[%d] is 0, taken as 1", i);
            dim[i] = 1;
        }
        if (dim[i] < 1)
            return qnet__nifti_fail(in, FORMAT, "dim[%d] is %d, expected 1 or more", i, dim[i]);
        if (i > 3 && dim[i] > 1)
            return qnet__nifti_fail(in, UNSUPPORTED, "dim[%d] is %d, expected 1: one 3-D volume, "
                                    "not a series", i, dim[i]);
    }
    in->volume.nx = dim[1], in->volume.ny = dim[2], in->volume.nz = dim[3];
    in->count = qnet__voxel_count(dim[1], dim[2], dim[3]);
    if (in->count == 0)
        return qnet__nifti_fail(in, LIMIT, "dim is %d x %d x %d, expected at most %.0f voxels "
                                "(QNET_MAX_VOXELS)", dim[1], dim[2], dim[3],
                                (double)QNET_MAX_VOXELS);
    in->datatype = (int)qnet__nifti_get(h, QNET__NII_DATATYPE, 0);
    in->type = qnet__nifti_type(in->datatype, &in->type_name);
    in->bytes = qnet_dtype_size(in->type);
    if (in->type == QNET_BOOL)
        return qnet__nifti_fail(in, UNSUPPORTED, "datatype is %d, expected one of 2, 4, 8, 16, 64, "
                                "256, 512, 768, 1024, 1280 (one real number per voxel)",
                                in->datatype);
    /* bitpix says nothing new, and tools write it wrongly: uint8 masks from Julia say 32. Should
       datatype be the wrong one of the two, the file has not the length that goes with it. */
    in->bitpix = (int)qnet__nifti_get(h, QNET__NII_BITPIX, 0);
    if (in->bitpix == 8 * (int)in->bytes) in->bitpix = 0;
    else
        qnet__nifti_warn(in, "bitpix is %d, expected %d for datatype %d (%s), which is taken",
                         in->bitpix, 8 * (int)in->bytes, in->datatype, in->type_name);
    /* 0 is refused: voxels could then start at 348 or 352, and the wrong one of them shifts the
       picture by some voxels unnoticed. */
    offset = qnet__nifti_get(h, QNET__NII_OFFSET, 0);
    if (!(offset >= 352 && offset == floor(offset) && qnet__is_finite(offset)))
        return qnet__nifti_fail(in, FORMAT, "vox_offset is %g, expected a whole number of 352 or "
                                "more", offset);
    if (offset > (double)QNET__NIFTI_MAX_OFFSET)
        return qnet__nifti_fail(in, LIMIT, "vox_offset is %g, expected at most %.0f", offset,
                                (double)QNET__NIFTI_MAX_OFFSET);
    in->offset = (size_t)offset;
    slope = qnet__nifti_get(h, QNET__NII_SLOPE, 0);
    in->intercept = qnet__nifti_get(h, QNET__NII_INTER, 0);
    /* NaN is what some tools write for "none"; nibabel takes infinity so, too. */
    in->slope = qnet__is_finite(slope) && slope != 0 ? slope : 1; /* 0: no scaling (nifti1.h) */
    if (in->slope != slope) in->intercept = 0;
    if (!qnet__is_finite(in->intercept))
        return qnet__nifti_fail(in, FORMAT, "scl_inter is %g, expected a finite number",
                                in->intercept);
    return qnet__nifti_affine(in);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* dst[size] from the file, unpacked; *got < size only at its end. */
static qnet_status qnet__nifti_next(qnet__nifti_reader *in, void *dst, size_t size, size_t *got)
{
    size_t n = 0;
    if (in->packed) return qnet__inflate_read(&in->inflate, dst, size, got);
    for (*got = 0; *got < size; *got += n) {
        unsigned char *to = (unsigned char *)dst + *got;
        QNET__TRY(qnet__read_some(in->ctx, in->source, to, size - *got, &n));
        if (n == 0) break;
    }
    return QNET_OK;
}

/* "voxel (x, y, z)" of the volume for sentences. */
static void qnet__voxel_text(const qnet_volume *v, size_t at, char text[64])
{
    const size_t row = (size_t)v->nx, slice = row * (size_t)v->ny;
    snprintf(text, 64, "voxel (%d, %d, %d)", (int)(at % row), (int)(at % slice / row),
             (int)(at / slice));
}

/* voxels[first..first + count) = slope * stored + intercept of what is in the piece, computed in
   double, then rounded to float. */
static qnet_status qnet__nifti_convert(qnet__nifti_reader *in, size_t first, size_t count)
{
    const int scaled = in->slope != 1 || in->intercept != 0;
    float *voxels = in->volume.voxels + first;
    if (in->swapped) qnet__swap_bytes(in->piece, count, in->bytes);
    if (in->type == QNET_F32 && !scaled) { /* keeps every bit of a NaN, too */
        memcpy(voxels, in->piece, count * sizeof *voxels);
        return QNET_OK;
    }
    for (size_t i = 0; i < count; i++) {
        double v = qnet__number(in->piece + i * in->bytes, in->type);
        if (scaled) v = v * in->slope + in->intercept;
        if (fabs(v) > (double)FLT_MAX && qnet__is_finite(v)) {
            char where[64];
            qnet__voxel_text(&in->volume, first + i, where);
            return qnet__nifti_fail(in, DATA, "%s is %g, expected a number that a float can hold",
                                    where, v);
        }
        voxels[i] = (float)v;
    }
    return QNET_OK;
}

/* All voxels into volume.voxels; *room is how many it holds, also on failure. The array grows to at
   most 16 times of what has been read, or QNET__NIFTI_TRUST: a short file with a large dim costs
   little memory. */
static qnet_status qnet__nifti_voxels(qnet__nifti_reader *in, size_t *room)
{
    size_t got, n;
    for (size_t done = 0; done < in->count; done += n) {
        if (done == *room) { /* all that was allocated has arrived */
            const size_t most = qnet__max_size(16 * done, QNET__NIFTI_TRUST);
            const size_t grown = qnet__min_size(in->count, most);
            float *more = (float *)qnet__alloc(in->ctx, grown * sizeof *more);
            if (more == NULL)
                return qnet__no_memory(in->ctx, grown * sizeof *more, "the voxels of a volume");
            if (done > 0) memcpy(more, in->volume.voxels, done * sizeof *more);
            qnet__free(in->ctx, in->volume.voxels, *room * sizeof *more);
            in->volume.voxels = more;
            *room = grown;
        }
        n = qnet__min_size(QNET__NIFTI_PIECE / in->bytes, *room - done);
        QNET__TRY(qnet__nifti_next(in, in->piece, n * in->bytes, &got));
        if (got < n * in->bytes)
            return qnet__nifti_fail(in, FORMAT, "truncated: dim %d x %d x %d of %s needs %.0f "
                                    "bytes of voxels, found %.0f", in->volume.nx, in->volume.ny,
                                    in->volume.nz, in->type_name,
                                    (double)in->count * (double)in->bytes,
                                    (double)done * (double)in->bytes + (double)got);
        QNET__TRY(qnet__nifti_convert(in, done, n));
    }
    return QNET_OK;
}

/* Header, extensions (skipped), voxels, tail. Whether the file is packed is decided by its first
   two bytes, gzip's magic number, not by its name, which a stream does not have and which may be
   wrong. A NIfTI-1 file begins with 5c or 0. */
static qnet_status qnet__nifti_read_parts(qnet__nifti_reader *in, size_t *room)
{
    size_t got, more, tail = 0;
    QNET__TRY(qnet__nifti_next(in, in->header, 2, &got));
    if (got == 2 && in->header[0] == 0x1f && in->header[1] == 0x8b) {
        in->packed = 1;
        qnet__inflate_start(&in->inflate, in->ctx, in->source, in->header, 2);
        got = 0; /* inflate gives the header from its start */
    }
    QNET__TRY(qnet__nifti_next(in, in->header + got, QNET__NII_BYTES - got, &more));
    if (got + more < QNET__NII_BYTES)
        return qnet__nifti_fail(in, FORMAT, "truncated: expected 348 bytes of NIfTI-1 header, "
                                "found %d", (int)(got + more));
    QNET__TRY(qnet__nifti_parse(in));
    for (size_t skip = in->offset - QNET__NII_BYTES; skip > 0; skip -= got) { /* extensions */
        got = qnet__min_size(skip, QNET__NIFTI_PIECE);
        QNET__TRY(qnet__nifti_next(in, in->piece, got, &got));
        if (got == 0)
            return qnet__nifti_fail(in, FORMAT, "truncated: expected voxels at byte %.0f "
                                    "(vox_offset), found the end %.0f bytes before",
                                    (double)in->offset, (double)skip);
    }
    QNET__TRY(qnet__nifti_voxels(in, room));
    /* The tail is read because the CRC of a gzip file is checked at its end. A long tail means that
       dim is wrong. */
    do {
        QNET__TRY(qnet__nifti_next(in, in->piece, QNET__NIFTI_PIECE, &got));
        tail += got;
        if (tail > 0 && in->bitpix != 0)
            return qnet__nifti_fail(in, FORMAT, "bitpix is %d and datatype %d (%s), and more bytes "
                                    "follow than this type takes: one of them is wrong",
                                    in->bitpix, in->datatype, in->type_name);
        if (tail > QNET__NIFTI_MAX_TAIL)
            return qnet__nifti_fail(in, FORMAT, "more than %.0f bytes follow the last voxel, "
                                    "expected the end of the file: dim does not fit the file",
                                    (double)QNET__NIFTI_MAX_TAIL);
    } while (got == QNET__NIFTI_PIECE);
    if (tail > 0)
        qnet__nifti_warn(in, "%.0f bytes follow the last voxel and are ignored", (double)tail);
    return QNET_OK;
}

/* *out is touched only when all has been read and checked, the CRC of a gzip file included. */
QNET_API qnet_status qnet_nifti_read(qnet_context *ctx, qnet_source *source, qnet_volume **out)
{
    qnet__nifti_reader *in;
    qnet_volume *volume = NULL;
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

#if QNET__HAS_TRAINING
/* ---- writing: little-endian, float32 or int16 with a slope, the affine as sform -------------- */

/* The header, h[352], with the four zeros after it that say "no extensions". A volume whose side is
   unknown (affine_source 0) gets neither form, so that no reader takes it as known. */
static void qnet__nifti_header(const qnet_volume *v, double slope, const double spacing[3],
                               unsigned char *h)
{
    const int dim[8] = {3, v->nx, v->ny, v->nz, 1, 1, 1, 1}, known = v->affine_source > 0;
    const int32_t size = QNET__NII_BYTES;
    memset(h, 0, 352);
    memcpy(h, &size, sizeof size);
    h[38] = 'r'; /* "regular", as ANALYZE wants it */
    for (int i = 0; i < 8; i++) {
        qnet__nifti_put(h, QNET__NII_DIM, i, dim[i]);
        qnet__nifti_put(h, QNET__NII_PIXDIM, i, i > 0 && i < 4 ? spacing[i - 1] : 1);
    }
    qnet__nifti_put(h, QNET__NII_DATATYPE, 0, slope > 0 ? 4 : 16); /* int16, float32 */
    qnet__nifti_put(h, QNET__NII_BITPIX, 0, slope > 0 ? 16 : 32);
    qnet__nifti_put(h, QNET__NII_OFFSET, 0, 352);
    qnet__nifti_put(h, QNET__NII_SLOPE, 0, slope > 0 ? slope : 1);
    h[QNET__NII_UNITS] = 2; /* mm */
    qnet__nifti_put(h, QNET__NII_SFORM, 0, known); /* 1: scanner's coordinates */
    for (int i = 0; i < 12 && known; i++)
        qnet__nifti_put(h, QNET__NII_SROW, i, v->affine[i / 4][i % 4]);
    memcpy(h + QNET__NII_MAGIC, "n+1", 4);
    if (!qnet__is_little_endian()) qnet__nifti_swap_header(h);
}

/* To the sink, through deflate where there is one. */
static qnet_status qnet__nifti_send(qnet_context *ctx, qnet__deflate *d, qnet_sink *sink,
                                    const unsigned char *bytes, size_t size)
{
    return d ? qnet__deflate_write(d, bytes, size) : qnet__write(ctx, sink, bytes, size);
}

/* The voxels, by way of piece[QNET__NIFTI_PIECE]. Halves are rounded to even, as numpy does. */
static qnet_status qnet__nifti_write_voxels(qnet_context *ctx, qnet__deflate *d, qnet_sink *sink,
                                            const qnet_volume *v, double slope,
                                            unsigned char *piece)
{
    const size_t count = qnet__voxel_count(v->nx, v->ny, v->nz), bytes = slope > 0 ? 2 : 4;
    const double step = (double)(float)slope; /* as a reader finds it in the header */
    size_t n;
    for (size_t done = 0; done < count; done += n) {
        n = qnet__min_size(QNET__NIFTI_PIECE / bytes, count - done);
        if (slope == 0) memcpy(piece, v->voxels + done, n * bytes);
        for (size_t i = 0; i < n && slope > 0; i++) {
            const double value = (double)v->voxels[done + i], stored = rint(value / step);
            if (!(stored >= -32768 && stored <= 32767)) { /* NaN, too */
                char where[64];
                qnet__voxel_text(v, done + i, where);
                return qnet__fail(ctx, QNET_ERROR_DATA, "%s: %s is %g, which would be stored as "
                                  "%g: it does not fit int16", qnet__sink_name(sink), where, value,
                                  stored);
            }
            qnet__nifti_put(piece + 2 * i, 0, QNET_I16, 0, stored);
        }
        if (!qnet__is_little_endian()) qnet__swap_bytes(piece, n, bytes);
        QNET__TRY(qnet__nifti_send(ctx, d, sink, piece, n * bytes));
    }
    return QNET_OK;
}

/* All that can be refused is refused before the first byte goes out; voxels that do not fit are
   found on the way, and a path is then left as it was. */
QNET_API qnet_status qnet_nifti_write(qnet_context *ctx, qnet_sink *sink, const qnet_volume *volume,
                                      double slope, int gzip)
{
    qnet__deflate *d;
    unsigned char *block, header[352];
    const char *name;
    char orientation[4];
    double spacing[3], r[3][3];
    const size_t deflate_bytes = gzip ? sizeof *d : 0, bytes = deflate_bytes + QNET__NIFTI_PIECE;
    qnet_status status;
    if (ctx == NULL || sink == NULL || sink->write == NULL || volume == NULL ||
        volume->voxels == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_nifti_write: context, sink or volume is NULL");
    name = qnet__sink_name(sink);
    /* slope 0: float32; else int16 of the nearest multiples of the slope. */
    if (!(slope == 0 || (slope >= (double)FLT_MIN && slope <= (double)FLT_MAX)))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: slope is %g, expected 0 or a number above "
                          "0 that a float can hold", name, slope);
    if (qnet__voxel_count(volume->nx, volume->ny, volume->nz) == 0 || volume->nx > 32767 ||
        volume->ny > 32767 || volume->nz > 32767)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: volume is %d x %d x %d, expected sides of 1 "
                          "to 32767 and at most %.0f voxels", name, volume->nx, volume->ny,
                          volume->nz, (double)QNET_MAX_VOXELS);
    if (!qnet__affine_axes(&volume->affine[0][0], spacing, r))
        return qnet__fail(ctx, QNET_ERROR_DATA, "%s: the affine is singular or not finite", name);
    qnet__orientation_text(r, orientation);
    if (volume->affine_source == 0 && strcmp(orientation, "LAS") != 0)
        return qnet__fail(ctx, QNET_ERROR_DATA, "%s: the side of the volume is unknown "
                          "(affine_source 0): a file says so in the order LAS only, not %s; "
                          "qnet_volume_reorient", name, orientation);
    block = (unsigned char *)qnet__alloc(ctx, bytes);
    if (block == NULL) return qnet__no_memory(ctx, bytes, "writing a NIfTI file");
    /* One block holds deflate's state, if any, and the piece of voxels that is converted. */
    d = gzip ? (qnet__deflate *)(void *)block : NULL;
    if (d) qnet__deflate_start(d, ctx, sink, 0);
    qnet__nifti_header(volume, slope, spacing, header);
    status = qnet__nifti_send(ctx, d, sink, header, sizeof header);
    if (status == QNET_OK)
        status = qnet__nifti_write_voxels(ctx, d, sink, volume, slope, block + deflate_bytes);
    if (status == QNET_OK && d) status = qnet__deflate_finish(d);
    qnet__free(ctx, block, bytes);
    return status;
}
#endif

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

#if QNET__HAS_TRAINING
/* Packed where the path ends in .gz; on failure what was at the path stays. */
QNET_API qnet_status qnet_nifti_save(qnet_context *ctx, const char *path, const qnet_volume *volume,
                                     double slope)
{
    qnet__file file;
    qnet_sink sink;
    const size_t n = path != NULL ? strlen(path) : 0;
    const int gzip = n >= 3 && strcmp(path + n - 3, ".gz") == 0;
    QNET__TRY(qnet__file_open_replace(ctx, path, &file, &sink));
    return qnet__file_finish(&file, qnet_nifti_write(ctx, &sink, volume, slope, gzip));
}
#endif
#endif

#define QNET__GRID_REFUSED 0.05  /* voxels: beyond it the maps show visibly different tissue */
#define QNET__GRID_WARNED 0.0005 /* a header's float32 is off by a tenth of that at most */
#define QNET__REGRID \
    ": bring it onto that grid (flirt -applyxfm -usesqform, antsApplyTransforms, 3dresample)"

/* Whether b has the grid of a, but for rounding. With D = affine_b - affine_a, a corner c of the
   grid (voxel indices) lies off by D (c, 1) mm, and by that projected on an axis of a, divided by
   the voxel size, in voxels. The grid is affine: no voxel is further off than the worst corner. */
static qnet_status qnet__check_grid(qnet_context *ctx, const qnet_volume *a, const char *name_a,
                                    const qnet_volume *b, const char *name_b)
{
    double worst = 0;
    if (a->nx != b->nx || a->ny != b->ny || a->nz != b->nz)
        return qnet__fail(ctx, QNET_ERROR_SHAPE,
                          "%s: grid of %dx%dx%d, expected %dx%dx%d as in %s" QNET__REGRID,
                          name_b, b->nx, b->ny, b->nz, a->nx, a->ny, a->nz, name_a);
    for (int corner = 0; corner < 8; corner++) {
        const double at[4] = {corner & 1 ? a->nx - 1.0 : 0, corner & 2 ? a->ny - 1.0 : 0,
                              corner & 4 ? a->nz - 1.0 : 0, 1};
        for (int c = 0; c < 3; c++) { /* along the axes of a, taken as orthogonal */
            double along = 0;
            for (int r = 0; r < 3; r++) {
                double off = 0; /* mm */
                for (int k = 0; k < 4; k++) off += (b->affine[r][k] - a->affine[r][k]) * at[k];
                along += off * a->affine[r][c];
            }
            worst = fmax(worst, fabs(along) / (a->spacing[c] * a->spacing[c]));
        }
    }
    if (!(worst <= QNET__GRID_REFUSED))
        return qnet__fail(ctx, QNET_ERROR_SHAPE,
                          "%s: same %dx%dx%d shape as %s, but its corners lie %.3g voxels off, "
                          "expected %g at most" QNET__REGRID,
                          name_b, b->nx, b->ny, b->nz, name_a, worst, QNET__GRID_REFUSED);
    if (worst > QNET__GRID_WARNED)
        qnet__log(ctx, QNET_LOG_WARNING, "%s: its corners lie %.2g voxels off those of %s", name_b,
                  worst, name_a);
    return QNET_OK;
}

/* ============================================================================================
   >>weights
   Safetensors files in and out, and networks in and out of them.

   A file is: 8 bytes, little-endian: the length n of the header; n bytes of JSON; the tensors'
   bytes, little-endian, without holes. The JSON is one flat object
       {"__metadata__": {"key": "value", ...},
        "fc.bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, ...}
   with offsets from the end of the header (https://github.com/huggingface/safetensors, format).
   The reader takes this grammar only, in one pass, and skips fields of a tensor that it does not
   know. Strings are decoded in place, as no escape is shorter than what it stands for; surrogate
   pairs stay as they are written.

   A network is one block of qnet_real and a table of its parameters: name, shape, layout, offset.
   In memory a convolution is [kh][kw][in][out], in a file [out][in][kh][kw], as PyTorch has it; all
   other tensors are alike in both. Numbers of the types F64, F32, F16 and BF16 become qnet_real.

   Reading goes header -> layout of the bytes -> bytes -> match with the table -> numbers -> copy;
   each step refuses what the next one could not bear, so after it nothing needs to be checked
   again. Files of an experiment carry their provenance as metadata: which run, input, repeat, fold
   and model they are, and of which ResNet a Q-Net took the features.
   Relies on >>context >>random >>file >>tensor >>text.
   ============================================================================================ */

#ifndef QNET_MAX_SAFETENSORS_HEADER
#define QNET_MAX_SAFETENSORS_HEADER ((size_t)1 << 24) /* bytes of JSON */
#endif
#ifndef QNET_MAX_SAFETENSORS_TENSORS
#define QNET_MAX_SAFETENSORS_TENSORS 4096 /* each is compared with each */
#endif
#ifndef QNET_MAX_SAFETENSORS_METADATA
#define QNET_MAX_SAFETENSORS_METADATA 1024
#endif
#define QNET__SAFETENSORS_DIMS 8
#define QNET__SHAPE_TEXT 192 /* "[" 8 numbers of 20 digits and commas "]" */

/* The public struct, as first member, the buffers that its pointers lead into, and the state of the
   parser: header.bytes[header.size] ends with a zero behind it. */
typedef struct qnet__safetensors_file {
    qnet_safetensors file;
    char name[256];
    qnet_buffer header, data, tensors, metadata;
    unsigned char *at;       /* the position in the header */
    int left_out, long_keys; /* tensors and keys that are not read, */
    char first_out[160];     /* and which tensor was the first */
} qnet__safetensors_file;

/* The path that the file was read from. */
static const char *qnet__safetensors_name(const qnet_safetensors *file)
{
    return ((const qnet__safetensors_file *)(const void *)file)->name; /* its first member */
}

/* ---- types and shapes ------------------------------------------------------------------------ */

/* "[64,3,7,7]", for sentences and as the shape's JSON. */
static void qnet__shape_text(char text[QNET__SHAPE_TEXT], int ndim, const size_t *shape)
{
    int at = 1;
    text[0] = '[';
    for (int i = 0; i < ndim; i++)
        at += snprintf(text + at, QNET__SHAPE_TEXT - (size_t)at, i ? ",%.0f" : "%.0f",
                       (double)shape[i]);
    snprintf(text + at, QNET__SHAPE_TEXT - (size_t)at, "]");
}

/* count = product of shape[ndim], bytes = count * size; 0 when one of them does not fit. */
static int qnet__shape_bytes(int ndim, const size_t *shape, size_t size, size_t *count,
                             size_t *bytes)
{
    *count = 1;
    for (int i = 0; i < ndim; i++)
        if (!qnet__mul(*count, shape[i], count)) return 0;
    return qnet__mul(*count, size, bytes);
}

/* Number i of an array, aligned or not. */
static double qnet__element(qnet_dtype dtype, const void *data, size_t i)
{
    return qnet__number((const unsigned char *)data + i * qnet_dtype_size(dtype), dtype);
}

/* The first of tensors[count] whose name one before it has, or NULL. */
static const char *qnet__duplicate_name(const qnet_safetensor *tensors, int count)
{
    for (int i = 1; i < count; i++)
        for (int k = 0; k < i; k++)
            if (strcmp(tensors[i].name, tensors[k].name) == 0) return tensors[i].name;
    return NULL;
}

/* ---- the header's grammar -------------------------------------------------------------------- */

/* Refusals begin with the file's name. */
#define qnet__tensors_fail(f, status, text, ...) \
    qnet__fail((f)->file.ctx, QNET_ERROR_##status, "%s: " text, (f)->name, __VA_ARGS__)

/* The error sentence of the grammar: file, byte and what should have been there. */
static qnet_status qnet__header_fail(const qnet__safetensors_file *f, const char *expected)
{
    return qnet__tensors_fail(f, FORMAT, "header byte %.0f of %.0f: expected %s",
                              (double)(f->at - f->header.bytes), (double)f->header.size, expected);
}

/* The next character that is not a space, or 0 at the end; it stays unread. */
static int qnet__header_peek(qnet__safetensors_file *f)
{
    while (*f->at == ' ' || *f->at == '\t' || *f->at == '\n' || *f->at == '\r') f->at++;
    return *f->at;
}

/* Takes c, after any spaces, or fails with what `expected` says. */
static qnet_status qnet__header_expect(qnet__safetensors_file *f, char c, const char *expected)
{
    if (qnet__header_peek(f) != c) return qnet__header_fail(f, expected);
    f->at++;
    return QNET_OK;
}

/* Before member `index` of a list: *more = 0 when its closing character was taken instead. */
static qnet_status qnet__header_more(qnet__safetensors_file *f, int index, char close, int *more)
{
    const int c = qnet__header_peek(f);
    *more = c != close;
    if (index > 0 && c != ',' && *more) return qnet__header_fail(f, "',' or the end of the list");
    if (index > 0 || !*more) f->at++;
    return QNET_OK;
}

/* Decodes the escape at f->at, a backslash, to *write, which moves on. */
static qnet_status qnet__header_escape(qnet__safetensors_file *f, unsigned char **write)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *simple = f->at[1] ? strchr(from, f->at[1]) : NULL;
    char digits[5] = "";
    unsigned code;
    if (simple != NULL) {
        *(*write)++ = (unsigned char)to[simple - from];
        f->at += 2;
        return QNET_OK;
    }
    if (f->at[1] != 'u') return qnet__header_fail(f, "one of \"\\/bfnrtu behind a backslash");
    if (strspn((const char *)f->at + 2, "0123456789abcdefABCDEF") < 4)
        return qnet__header_fail(f, "four hexadecimal digits");
    memcpy(digits, f->at + 2, 4);
    code = (unsigned)strtoul(digits, NULL, 16);
    if (code == 0) return qnet__header_fail(f, "a character other than NUL");
    if (code >= 0xd800 && code <= 0xdfff) { /* half of a surrogate pair */
        memmove(*write, f->at, 6);
        *write += 6;
    } else { /* UTF-8 of n bytes: 6 bits in each but the first */
        const int n = code < 0x80 ? 1 : code < 0x800 ? 2 : 3;
        for (int i = n - 1; i > 0; i--, code >>= 6)
            (*write)[i] = (unsigned char)(0x80 | (code & 63));
        (*write)[0] = (unsigned char)(code | (n == 1 ? 0u : n == 2 ? 0xc0u : 0xe0u));
        *write += n;
    }
    f->at += 6;
    return QNET_OK;
}

/* A string, decoded in place and ended by NUL, which takes the closing quote's byte at the latest;
   *size: its bytes without the NUL. */
static qnet_status qnet__header_string(qnet__safetensors_file *f, char **text, size_t *size)
{
    unsigned char *write; /* <= f->at: no escape is shorter than its character */
    QNET__TRY(qnet__header_expect(f, '"', "a string"));
    write = f->at;
    *text = (char *)write;
    while (*f->at != '"') {
        const size_t n = qnet__utf8_size(f->at, (size_t)(f->header.bytes + f->header.size - f->at));
        if (f->at == f->header.bytes + f->header.size)
            return qnet__header_fail(f, "the end of a string");
        if (*f->at < 0x20) return qnet__header_fail(f, "no control character in a string");
        if (n == 0) return qnet__header_fail(f, "valid UTF-8");
        if (*f->at == '\\') {
            QNET__TRY(qnet__header_escape(f, &write));
            continue;
        }
        memmove(write, f->at, n);
        write += n;
        f->at += n;
    }
    f->at++;
    *write = 0;
    *size = (size_t)((char *)write - *text);
    return QNET_OK;
}

/* The key of an object's next member, with the comma before it and the colon behind it. *key =
   NULL: the object ends here. */
static qnet_status qnet__header_key(qnet__safetensors_file *f, int index, char **key, size_t *size)
{
    int more;
    *key = NULL;
    QNET__TRY(qnet__header_more(f, index, '}', &more));
    if (!more) return QNET_OK;
    QNET__TRY(qnet__header_string(f, key, size));
    return qnet__header_expect(f, ':', "':'");
}

/* A list of at most `most` numbers, whole, not negative, each of which fits size_t. */
static qnet_status qnet__header_numbers(qnet__safetensors_file *f, size_t *numbers, int most,
                                        int *count)
{
    int more;
    QNET__TRY(qnet__header_expect(f, '[', "'['"));
    for (*count = 0;; (*count)++) {
        size_t value = 0, digits = 0; /* no strtoul: it takes signs and spaces, and saturates */
        int zero;
        QNET__TRY(qnet__header_more(f, *count, ']', &more));
        if (!more) return QNET_OK;
        zero = qnet__header_peek(f) == '0';
        for (; *f->at >= '0' && *f->at <= '9'; digits++, f->at++)
            if (!qnet__mul(value, 10, &value) || !qnet__add(value, (size_t)(*f->at - '0'), &value))
                return qnet__header_fail(f, "a smaller number");
        if (digits == 0 || (zero && digits > 1))
            return qnet__header_fail(f, "a whole number without sign or leading zero");
        if (*count == most)
            return qnet__tensors_fail(f, LIMIT, "header byte %.0f: a list of more than %d numbers",
                                      (double)(f->at - f->header.bytes), most);
        numbers[*count] = value;
    }
}

#define QNET__HEADER_DEPTH 16 /* lists within lists that are skipped */

/* Skips a value of any kind: a string, a list, an object, a number or a word. */
static qnet_status qnet__header_skip(qnet__safetensors_file *f, int depth)
{
    const int c = qnet__header_peek(f);
    char *text;
    size_t size;
    int more = 1;
    if (c == '"') return qnet__header_string(f, &text, &size);
    if (c != '{' && c != '[') {
        size = strspn((const char *)f->at, "abcdefghijklmnopqrstuvwxyzE0123456789-+.");
        f->at += size;
        return size > 0 ? QNET_OK : qnet__header_fail(f, "a value");
    }
    if (depth == 0) return qnet__header_fail(f, "fewer lists within lists");
    f->at++;
    for (int i = 0;; i = 1) {
        if (c == '{') QNET__TRY(qnet__header_key(f, i, &text, &size));
        else QNET__TRY(qnet__header_more(f, i, ']', &more));
        if (!more || (c == '{' && text == NULL)) return QNET_OK;
        QNET__TRY(qnet__header_skip(f, depth - 1));
    }
}

/* The object {"dtype":..., "shape":..., "data_offsets":...} of tensor t, in any order, each once;
   *dtype: what the file says. The shape must take exactly the bytes between the offsets, unless the
   size of that dtype is not known. t->data: the first offset, a number until the bytes are read. */
static qnet_status qnet__header_tensor(qnet__safetensors_file *f, qnet_safetensor *t, char **dtype)
{
    static const char *const fields[3] = {"dtype", "shape", "data_offsets"};
    size_t offsets[2] = {0, 0}, size, bytes;
    int seen[3] = {0, 0, 0}, n, field;
    char *key, shape[QNET__SHAPE_TEXT];
    QNET__TRY(qnet__header_expect(f, '{', "'{' of a tensor"));
    for (int i = 0;; i = 1) {
        QNET__TRY(qnet__header_key(f, i, &key, &size));
        if (key == NULL) break;
        for (field = 0; field < 3 && strcmp(key, fields[field]) != 0; field++) {}
        if (field < 3 && seen[field]++)
            return qnet__tensors_fail(f, FORMAT, "tensor '%s': field '%s' is there twice", t->name,
                                      key);
        if (field == 0) {
            QNET__TRY(qnet__header_string(f, dtype, &size));
            for (n = 0; qnet_dtype_size((qnet_dtype)n); n++)
                if (strcmp(*dtype, qnet_dtype_name((qnet_dtype)n)) == 0) break;
            t->dtype = (qnet_dtype)n; /* of size 0 when it is none of the list */
        } else if (field == 1) {
            QNET__TRY(qnet__header_numbers(f, t->shape, QNET__SAFETENSORS_DIMS, &t->ndim));
        } else if (field == 2) {
            QNET__TRY(qnet__header_numbers(f, offsets, 2, &n));
            if (n != 2) return qnet__header_fail(f, "two data_offsets");
        } else {
            QNET__TRY(qnet__header_skip(f, QNET__HEADER_DEPTH));
        }
    }
    /* All three fields, offsets in order, and as many bytes as the shape takes. */
    for (field = 0; field < 3; field++)
        if (!seen[field])
            return qnet__tensors_fail(f, FORMAT, "tensor '%s': %s is missing", t->name,
                                      fields[field]);
    if (offsets[0] > offsets[1])
        return qnet__tensors_fail(f, FORMAT, "tensor '%s': data_offsets [%.0f,%.0f] run backwards",
                                  t->name, (double)offsets[0], (double)offsets[1]);
    t->bytes = offsets[1] - offsets[0];
    t->data = (const void *)(uintptr_t)offsets[0];
    size = qnet_dtype_size(t->dtype);
    if (size == 0 || (qnet__shape_bytes(t->ndim, t->shape, size, &t->count, &bytes) &&
                      bytes == t->bytes))
        return QNET_OK;
    qnet__shape_text(shape, t->ndim, t->shape);
    return qnet__tensors_fail(f, FORMAT, "tensor '%s': %s %s does not take the %.0f bytes of its "
                              "data_offsets", t->name, qnet_dtype_name(t->dtype), shape,
                              (double)t->bytes);
}

/* The object of "__metadata__": strings to strings, into f->metadata; null stands for none. Values
   stay where they are decoded, in f->header. */
static qnet_status qnet__header_metadata(qnet__safetensors_file *f)
{
    if (qnet__header_peek(f) == 'n') return qnet__header_skip(f, 0);
    QNET__TRY(qnet__header_expect(f, '{', "'{' of __metadata__"));
    for (int i = 0;; i = 1) {
        qnet_metadata entry;
        char *key;
        size_t size, value_size;
        QNET__TRY(qnet__header_key(f, i, &key, &size));
        if (key == NULL) return QNET_OK;
        memset(&entry, 0, sizeof(entry));
        QNET__TRY(qnet__header_string(f, &entry.value, &value_size));
        if (size >= sizeof(entry.key)) {
            f->long_keys++;
            continue;
        }
        if (f->file.metadata_count == QNET_MAX_SAFETENSORS_METADATA)
            return qnet__tensors_fail(f, LIMIT, "metadata '%s': above %d keys", key,
                                      QNET_MAX_SAFETENSORS_METADATA);
        if (qnet_safetensors_metadata(&f->file, key) != NULL)
            return qnet__tensors_fail(f, FORMAT, "metadata '%s' is there twice", key);
        memcpy(entry.key, key, size + 1);
        QNET__TRY(qnet_buffer_append(f->file.ctx, &f->metadata, &entry, sizeof(entry)));
        f->file.metadata = (qnet_metadata *)(void *)f->metadata.bytes;
        f->file.metadata_count++;
    }
}

/* The whole header into f->tensors and f->metadata. Tensors that no network here can need get ndim
   -1: their bytes count for the layout. */
static qnet_status qnet__header_read(qnet__safetensors_file *f)
{
    int seen_metadata = 0;
    QNET__TRY(qnet__header_expect(f, '{', "'{'"));
    for (int i = 0;; i = 1) {
        qnet_safetensor t;
        char *name, *dtype = NULL;
        size_t size;
        QNET__TRY(qnet__header_key(f, i, &name, &size));
        if (name == NULL) break;
        if (strcmp(name, "__metadata__") == 0) {
            if (seen_metadata++)
                return qnet__tensors_fail(f, FORMAT, "%s is there twice", name);
            QNET__TRY(qnet__header_metadata(f));
            continue;
        }
        if (f->file.count == QNET_MAX_SAFETENSORS_TENSORS)
            return qnet__tensors_fail(f, LIMIT, "tensor '%.64s': above %d tensors", name,
                                      QNET_MAX_SAFETENSORS_TENSORS);
        memset(&t, 0, sizeof(t));
        memcpy(t.name, name, qnet__min_size(size, sizeof(t.name) - 1));
        QNET__TRY(qnet__header_tensor(f, &t, &dtype));
        if (size >= sizeof(t.name) || qnet_dtype_size(t.dtype) == 0) {
            if (f->left_out++ == 0)
                snprintf(f->first_out, sizeof(f->first_out), "tensor '%.64s', %s%.32s", t.name,
                         size >= sizeof(t.name) ? "a name above 127 bytes" : "dtype ",
                         size >= sizeof(t.name) ? "" : dtype);
            t.ndim = -1;
        }
        QNET__TRY(qnet_buffer_append(f->file.ctx, &f->tensors, &t, sizeof(t)));
        f->file.tensors = (qnet_safetensor *)(void *)f->tensors.bytes;
        f->file.count++;
    }
    qnet__header_peek(f); /* writers pad with spaces */
    return f->at == f->header.bytes + f->header.size
               ? QNET_OK : qnet__header_fail(f, "nothing behind the closing '}'");
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Checks that the tensors cover bytes 0..*size, each byte once: no two overlap, and the sum of
   their sizes is the largest end. */
static qnet_status qnet__check_layout(const qnet__safetensors_file *f, size_t *size)
{
    size_t sum = 0;
    *size = 0;
    for (int i = 0; i < f->file.count; i++) {
        const qnet_safetensor *a = &f->file.tensors[i], *b = f->file.tensors;
        const size_t begin = (size_t)(uintptr_t)a->data, end = begin + a->bytes;
        for (; b < a; b++)
            if (begin < (size_t)(uintptr_t)b->data + b->bytes && (size_t)(uintptr_t)b->data < end)
                return qnet__tensors_fail(f, FORMAT, "tensor '%s' overlaps '%s'", a->name, b->name);
        sum += a->bytes;
        *size = qnet__max_size(*size, end);
    }
    if (sum == *size) return QNET_OK;
    return qnet__tensors_fail(f, FORMAT, "there is a hole between the tensors: they end at byte "
                              "%.0f and have %.0f", (double)*size, (double)sum);
}

/* Removes the tensors that are not read from the list, with a warning; the layout was checked with
   them. */
static void qnet__leave_out(qnet__safetensors_file *f)
{
    int kept = 0;
    for (int i = 0; i < f->file.count; i++)
        if (f->file.tensors[i].ndim >= 0) f->file.tensors[kept++] = f->file.tensors[i];
    f->file.count = kept;
    if (f->left_out > 0)
        qnet__log(f->file.ctx, QNET_LOG_WARNING, "%s: tensors that are left out: %d, the first is "
                  "%s", f->name, f->left_out, f->first_out);
    if (f->long_keys > 0)
        qnet__log(f->file.ctx, QNET_LOG_WARNING, "%s: metadata that are left out, keys above 63 "
                  "bytes: %d", f->name, f->long_keys);
}

/* The length that a file begins with, and as many bytes of JSON, into f->header. */
static qnet_status qnet__header_load(qnet_context *ctx, qnet_source *source,
                                     qnet__safetensors_file *f)
{
    uint64_t length;
    QNET__TRY(qnet__read_exact(ctx, source, 8, "safetensors header length", &f->header));
    length = qnet__load_le64(f->header.bytes);
    f->header.size = 0;
    if (length == 0)
        return qnet__tensors_fail(f, FORMAT, "expected a safetensors header of %d bytes or more, "
                                  "found 0", 2);
    if (length <= QNET_MAX_SAFETENSORS_HEADER)
        return qnet__read_exact(ctx, source, (size_t)length, "safetensors header", &f->header);
    QNET__TRY(qnet__read_exact(ctx, source, 1, "safetensors header", &f->header));
    if (f->header.bytes[0] != '{') /* most likely a zip archive of PyTorch */
        return qnet__tensors_fail(f, FORMAT, "not a safetensors file: expected '%c' behind the "
                                  "header's length", '{');
    return qnet__tensors_fail(f, LIMIT, "expected a safetensors header of at most %.0f bytes, "
                              "found %.0f", (double)QNET_MAX_SAFETENSORS_HEADER, (double)length);
}

/* Fills f from the source: header, layout, then the tensors' bytes, in this machine's order. */
static qnet_status qnet__safetensors_parse(qnet_context *ctx, qnet_source *source,
                                           qnet__safetensors_file *f)
{
    const char *duplicate;
    unsigned char extra;
    size_t size, got;
    snprintf(f->name, sizeof(f->name), "%s", qnet__source_name(source));
    QNET__TRY(qnet__header_load(ctx, source, f));
    f->at = f->header.bytes;
    QNET__TRY(qnet__header_read(f));
    QNET__TRY(qnet__check_layout(f, &size));
    qnet__leave_out(f);
    duplicate = qnet__duplicate_name(f->file.tensors, f->file.count);
    if (duplicate != NULL)
        return qnet__tensors_fail(f, FORMAT, "tensor '%s' is there twice", duplicate);
    if (size > QNET_MAX_FILE_BYTES)
        return qnet__tensors_fail(f, LIMIT, "%.0f bytes of tensors, the limit is %.0f",
                                  (double)size, (double)QNET_MAX_FILE_BYTES);
    QNET__TRY(qnet__read_exact(ctx, source, size, "tensors", &f->data));
    /* A byte too many means that header and data do not belong together. */
    QNET__TRY(qnet__read_some(ctx, source, &extra, 1, &got));
    if (got != 0)
        return qnet__tensors_fail(f, FORMAT, "the file goes on behind the %.0f bytes of its "
                                  "tensors", (double)size);
    for (int i = 0; i < f->file.count; i++) {
        qnet_safetensor *t = &f->file.tensors[i];
        unsigned char *p = size > 0 ? f->data.bytes + (uintptr_t)t->data : NULL;
        t->data = p;
        if (!qnet__is_little_endian()) qnet__swap_bytes(p, t->count, qnet_dtype_size(t->dtype));
    }
    f->file.block = f->data.bytes;
    f->file.block_bytes = f->data.size;
    return QNET_OK;
}

/* The file's struct and its buffers are separate blocks, because a stream's size is known only when
   it has been read; the struct is made first, so that one call frees whatever there is. */
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

/* Also of a file that was read in part. */
QNET_API void qnet_safetensors_destroy(qnet_safetensors *file)
{
    qnet__safetensors_file *f = (qnet__safetensors_file *)(void *)file; /* its first member */
    if (file == NULL) return;
    qnet_buffer_free(file->ctx, &f->header);
    qnet_buffer_free(file->ctx, &f->data);
    qnet_buffer_free(file->ctx, &f->tensors);
    qnet_buffer_free(file->ctx, &f->metadata);
    qnet__free(file->ctx, f, sizeof(*f));
}

/* The tensor whose name is `name` behind its first `prefix` bytes, which are alike in all; or NULL.
   Linear: the networks here have a hundred names. */
static const qnet_safetensor *qnet__safetensors_find(const qnet_safetensors *file, size_t prefix,
                                                     const char *name)
{
    for (int i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name + prefix, name) == 0) return &file->tensors[i];
    return NULL;
}

QNET_API const qnet_safetensor *qnet_safetensors_find(const qnet_safetensors *file,
                                                      const char *name)
{
    return qnet__safetensors_find(file, 0, name);
}

/* Linear as well; also used on the file that is being read, to find a duplicate key. */
QNET_API const char *qnet_safetensors_metadata(const qnet_safetensors *file, const char *key)
{
    for (int i = 0; i < file->metadata_count; i++)
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
        if (*p == '"' || *p == '\\') QNET__TRY(qnet_buffer_append(ctx, json, "\\", 1));
        if (*p < 0x20) QNET__TRY(qnet_buffer_printf(ctx, json, "\\u%04x", (unsigned)*p));
        else QNET__TRY(qnet_buffer_append(ctx, json, p, n));
    }
    return qnet_buffer_append(ctx, json, "\"", 1);
}

/* Appends the JSON of tensors[count], whose name, dtype, ndim and shape count, and of the metadata
   pairs[pair_count][2]. */
static qnet_status qnet__safetensors_json(qnet_context *ctx, const char *file,
                                          const qnet_safetensor *tensors, int count,
                                          const char *const *pairs, int pair_count,
                                          qnet_buffer *json)
{
    size_t at = 0, end, numbers, bytes;
    char shape[QNET__SHAPE_TEXT];
    QNET__TRY(qnet_buffer_printf(ctx, json, pair_count > 0 ? "{\"__metadata__\":{" : "{"));
    for (int i = 0; i < pair_count; i++) {
        if (i > 0) QNET__TRY(qnet_buffer_append(ctx, json, ",", 1));
        QNET__TRY(qnet__write_json_string(ctx, json, pairs[2 * i]));
        QNET__TRY(qnet_buffer_append(ctx, json, ":", 1));
        QNET__TRY(qnet__write_json_string(ctx, json, pairs[2 * i + 1]));
    }
    if (pair_count > 0) QNET__TRY(qnet_buffer_printf(ctx, json, count > 0 ? "}," : "}"));
    for (int i = 0; i < count; i++, at = end) {
        const qnet_safetensor *t = &tensors[i];
        const size_t size = qnet_dtype_size(t->dtype);
        if (t->ndim < 0 || t->ndim > QNET__SAFETENSORS_DIMS || size == 0 ||
            !qnet__shape_bytes(t->ndim, t->shape, size, &numbers, &bytes) ||
            !qnet__add(at, bytes, &end) || strcmp(t->name, "__metadata__") == 0)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: tensor '%s': name, dtype or shape "
                              "cannot be written", file, t->name);
        qnet__shape_text(shape, t->ndim, t->shape);
        if (i > 0) QNET__TRY(qnet_buffer_append(ctx, json, ",", 1));
        QNET__TRY(qnet__write_json_string(ctx, json, t->name));
        QNET__TRY(qnet_buffer_printf(ctx, json, ":{\"dtype\":\"%s\",\"shape\":%s,"
                                     "\"data_offsets\":[%.0f,%.0f]}", qnet_dtype_name(t->dtype),
                                     shape, (double)at, (double)end));
    }
    /* Spaces bring the data to a multiple of 8 bytes, for readers that map the file. */
    return qnet_buffer_printf(ctx, json, "}%*s", (int)(7 - json->size % 8), "");
}

/* Length and header of a file with these tensors; names are checked to differ. */
static qnet_status qnet__safetensors_begin(qnet_context *ctx, qnet_sink *sink,
                                           const qnet_safetensor *tensors, int count,
                                           const char *const *pairs, int pair_count)
{
    const char *file = qnet__sink_name(sink), *duplicate;
    qnet_buffer json = {NULL, 0, 0, NULL};
    qnet_status status;
    if (count > QNET_MAX_SAFETENSORS_TENSORS || pair_count > QNET_MAX_SAFETENSORS_METADATA)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: above %d tensors or %d metadata keys", file,
                          QNET_MAX_SAFETENSORS_TENSORS, QNET_MAX_SAFETENSORS_METADATA);
    for (int i = 0; i < 2 * pair_count; i++)
        if (pairs[i] == NULL)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: metadata string %d is NULL", file, i);
    duplicate = qnet__duplicate_name(tensors, count);
    if (duplicate != NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: tensor '%s' is there twice", file,
                          duplicate);
    status = qnet_buffer_append(ctx, &json, "length..", 8); /* known at the end */
    if (status == QNET_OK)
        status = qnet__safetensors_json(ctx, file, tensors, count, pairs, pair_count, &json);
    if (status == QNET_OK && json.size - 8 > QNET_MAX_SAFETENSORS_HEADER)
        status = qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: a header of %.0f bytes, the limit is %.0f",
                            file, (double)json.size - 8, (double)QNET_MAX_SAFETENSORS_HEADER);
    if (status == QNET_OK) qnet__store(json.bytes, 8, 0, json.size - 8);
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
    size_t n;
    if (qnet__is_little_endian()) return qnet__write(ctx, sink, data, count * size);
    for (; count > 0; count -= n, p += n * size) {
        n = qnet__min_size(count, sizeof(chunk) / size);
        memcpy(chunk, p, n * size);
        qnet__swap_bytes(chunk, n, size);
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
    if (ctx == NULL || sink == NULL || sink->write == NULL || count < 0 || pairs < 0 ||
        (count > 0 && tensors == NULL) || (pairs > 0 && metadata_pairs == NULL))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_safetensors_write: an argument is NULL or a count below 0");
    QNET__TRY(qnet__safetensors_begin(ctx, sink, tensors, count, metadata_pairs, pairs));
    for (int i = 0; i < count; i++) {
        const size_t size = qnet_dtype_size(tensors[i].dtype);
        qnet__shape_bytes(tensors[i].ndim, tensors[i].shape, size, &numbers, &bytes);
        if (numbers > 0 && tensors[i].data == NULL)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "%s: tensor '%s': no data",
                              qnet__sink_name(sink), tensors[i].name);
        QNET__TRY(qnet__write_numbers(ctx, sink, tensors[i].data, numbers, size));
    }
    return QNET_OK;
}

/* ---- networks ----------------------------------------------------------------------------------
   A network is a table of parameters: name, shape, layout, and place in one block of numbers. A
   file fits a table when it has a tensor for each name, of the same shape and of a float type, and
   no others. All is checked before the first number is copied: a file that does not fit leaves the
   block as it was. Three things may differ, each with a warning or a flag: a prefix before all
   names ("module."), num_batches_tracked, and, with replace_head, the final layer. */

/* 1 when name ends in `end`. */
static int qnet__ends_in(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* "bn1.num_batches_tracked" and the like: PyTorch counts batches there, an I64 of shape []; no
   result depends on it. */
static int qnet__is_tracked(const char *name) { return qnet__ends_in(name, "num_batches_tracked"); }

/* The running variance of a batch norm. */
static int qnet__is_variance(const char *name) { return qnet__ends_in(name, "running_var"); }

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
    memset(&t, 0, sizeof(t));
    memcpy(t.name, p->name, sizeof(p->name));
    t.count = p->count;
    if (qnet__is_tracked(p->name)) {
        t.dtype = QNET_I64;
        return t;
    }
    t.dtype = QNET__REAL_IS_DOUBLE ? QNET_F64 : QNET_F32;
    t.ndim = p->ndim;
    for (int i = 0; i < p->ndim; i++)
        t.shape[i] = p->shape[p->layout == QNET_LAYOUT_HWIO ? oihw[i] : i];
    return t;
}

/* Where number f of the file's [out][in][kh][kw] lies in memory's [kh][kw][in][out]; the order of
   the taps, [kh][kw], is the same in both. */
static size_t qnet__param_index(const qnet_param *p, size_t f)
{
    const size_t taps = p->shape[0] * p->shape[1], in = p->shape[2], out = p->shape[3];
    if (p->layout != QNET_LAYOUT_HWIO) return f;
    return (f % taps * in + f / taps % in) * out + f / taps / in;
}

/* Number i of an F32 tensor. */
static float qnet__load_f32(const void *data, size_t i)
{
    float value;
    memcpy(&value, (const unsigned char *)data + 4 * i, sizeof(value));
    return value;
}

#define QNET__COPY_FILTERS 64 /* of a tile, */
#define QNET__COPY_NUMBERS 8  /* and as many numbers of each */

/* The tensor's numbers to to[p->count], in memory's order. A convolution's [filter][number] is
   transposed in a tile to [number][filter], whose rows are stored in full cache lines: rows of
   memory are a power of two apart, so single numbers would compete for a set of the cache. */
static void qnet__param_copy(const qnet_param *p, const qnet_safetensor *t, qnet_real *to)
{
    const size_t out = p->shape[3], filter = p->count / qnet__max_size(out, 1);
    qnet_real tile[QNET__COPY_NUMBERS][QNET__COPY_FILTERS];
    size_t n;
    if (t->dtype != QNET_F32 || p->layout != QNET_LAYOUT_HWIO || filter < QNET__COPY_NUMBERS) {
        for (size_t k = 0; k < p->count; k++)
            to[qnet__param_index(p, k)] = (qnet_real)qnet__element(t->dtype, t->data, k);
        return;
    }
    for (size_t f = 0; f < filter; f += QNET__COPY_NUMBERS) {
        const size_t at = qnet__min_size(f, filter - QNET__COPY_NUMBERS); /* some once more */
        for (size_t first = 0; first < out; first += n) {
            n = qnet__min_size(out - first, QNET__COPY_FILTERS);
            for (size_t o = 0; o < n; o++) {
                const size_t from = (first + o) * filter + at;
                QNET__UNROLL
                for (size_t k = 0; k < QNET__COPY_NUMBERS; k++)
                    tile[k][o] = (qnet_real)qnet__load_f32(t->data, from + k);
            }
            for (size_t k = 0; k < QNET__COPY_NUMBERS; k++)
                memcpy(to + qnet__param_index(p, at + k) + first, tile[k], n * sizeof(qnet_real));
        }
    }
}

#define QNET__REAL_MAX (QNET__REAL_IS_DOUBLE ? DBL_MAX : (double)FLT_MAX)
#define QNET__NUMBERS_RUN 1024

/* The first number of the tensor outside [least, QNET__REAL_MAX], or t->count. NaN fails every
   comparison. Runs of F32 are tested without a branch for each number, so in vectors. */
static size_t qnet__first_outside(const qnet_safetensor *t, double least)
{
    size_t k = 0;
    for (int inside = 1; t->dtype == QNET_F32 && t->count - k >= QNET__NUMBERS_RUN;) {
        for (size_t i = 0; i < QNET__NUMBERS_RUN; i++) {
            const float x = qnet__load_f32(t->data, k + i);
            inside &= (x <= FLT_MAX) & (x >= (float)least);
        }
        if (!inside) break;
        k += QNET__NUMBERS_RUN;
    }
    for (; k < t->count; k++) {
        const double x = qnet__element(t->dtype, t->data, k);
        if (!(x >= least && x <= QNET__REAL_MAX)) break;
    }
    return k;
}

/* Refuses a tensor with a number that no network can have: NaN, infinity, one that qnet_real cannot
   hold, or a variance below 0, whose root batch norm takes. */
static qnet_status qnet__check_numbers(qnet_context *ctx, const char *file,
                                       const qnet_safetensor *t, const char *name)
{
    const size_t bad = qnet__first_outside(t, qnet__is_variance(name) ? 0 : -QNET__REAL_MAX);
    double x;
    if (bad == t->count) return QNET_OK;
    x = qnet__element(t->dtype, t->data, bad);
    return qnet__fail(ctx, QNET_ERROR_DATA, "%s: tensor '%s': number %.0f is %g, %s", file, name,
                      (double)bad, x, fabs(x) <= QNET__REAL_MAX ? "a variance below 0"
                                                                : "not finite");
}

/* What is matched with what, and where the numbers go. */
typedef struct qnet__weights_job {
    const qnet_safetensors *file;
    const char *name;
    const qnet_param_table *table;
    size_t prefix; /* bytes before the table's name in each of the file */
    int replace_head;
    qnet_real *block;
} qnet__weights_job;

/* Of the head that `name` belongs to, "fc." for "fc.bias": how many tensors of it the file has.
   *classes: the rows of its weight there, 0 without one. */
static int qnet__head_in_file(const qnet__weights_job *job, const char *name, size_t *classes)
{
    const char *dot = strrchr(name, '.');
    const size_t n = dot != NULL ? (size_t)(dot - name) + 1 : 0;
    int count = 0;
    *classes = 0;
    for (int i = 0; i < job->file->count && qnet__is_head(name); i++) {
        const qnet_safetensor *t = &job->file->tensors[i];
        if (strncmp(t->name + job->prefix, name, n) != 0) continue;
        count++;
        if (strcmp(t->name + job->prefix + n, "weight") == 0 && t->ndim > 0) *classes = t->shape[0];
    }
    return count;
}

/* The refusal of entry p: the file is one of another network. */
#define qnet__mismatch(text, ...)                                                                 \
    qnet__fail(ctx, QNET_ERROR_MISMATCH, "%s: not weights of %s: tensor '%s'" text, job->name,    \
               job->table->network, p->name, __VA_ARGS__)

/* Finds entry p in the file and checks presence, type, classes, shape and, with `numbers`, each
   number. *found = NULL: what is in the block stays (a counter that is missing, a head that is to
   be trained anew). With ctx NULL no sentence is made. */
static qnet_status qnet__weights_match(qnet_context *ctx, const qnet__weights_job *job,
                                       const qnet_param *p, int numbers,
                                       const qnet_safetensor **found)
{
    const qnet_safetensor expected = qnet__param_in_file(p);
    const qnet_safetensor *t = qnet__safetensors_find(job->file, job->prefix, p->name);
    char want[QNET__SHAPE_TEXT], have[QNET__SHAPE_TEXT];
    size_t classes;
    const int is_head = qnet__is_head(p->name);
    const int in_head = qnet__head_in_file(job, p->name, &classes);
    int unequal;
    *found = NULL;
    /* Presence. */
    if (t == NULL) {
        const qnet__safetensors_file *f = (const qnet__safetensors_file *)(const void *)job->file;
        if (qnet__is_tracked(p->name) || (job->replace_head && is_head && in_head == 0))
            return QNET_OK;
        return qnet__mismatch(" is missing%s%s", f->left_out ? "; left out was " : "",
                              f->first_out);
    }
    /* Type, then classes: weight and bias of a head must agree with each other. */
    if (expected.dtype == QNET_I64 ? t->dtype != QNET_I64 : t->dtype > QNET_BF16)
        return qnet__mismatch(": expected dtype %s, found %s",
                              expected.dtype == QNET_I64 ? "I64" : "F64, F32, F16 or BF16",
                              qnet_dtype_name(t->dtype));
    if (classes > 0 && t->ndim > 0 && t->shape[0] != classes)
        return qnet__mismatch(" has %.0f classes, its weight %.0f", (double)t->shape[0],
                              (double)classes);
    /* Shape, from the last dimension: unequal = 0: all agree; 1: all but the number of rows, which
       a head may have otherwise when it is to be replaced. */
    unequal = t->ndim == expected.ndim ? t->ndim : QNET__SAFETENSORS_DIMS + 1;
    while (unequal > 0 && unequal <= QNET__SAFETENSORS_DIMS &&
           t->shape[unequal - 1] == expected.shape[unequal - 1])
        unequal--;
    if (unequal == 1 && job->replace_head && is_head) return QNET_OK;
    if (unequal > 0) {
        qnet__shape_text(want, expected.ndim, expected.shape);
        qnet__shape_text(have, t->ndim, t->shape);
        return qnet__mismatch(": expected shape %s, found %s", want, have);
    }
    if (numbers) QNET__TRY(qnet__check_numbers(ctx, job->name, t, p->name));
    *found = t;
    return QNET_OK;
}

/* Copies entry `index` of the table, which has been checked, into the block; of what the file does
   not have the block keeps its numbers. */
static void qnet__weights_copy_task(void *arg, size_t index, size_t worker)
{
    const qnet__weights_job *job = (const qnet__weights_job *)arg;
    const qnet_param *p = &job->table->entries[index];
    const qnet_safetensor *t = NULL;
    QNET__UNUSED(worker);
    if (qnet__weights_match(NULL, job, p, 0, &t) == QNET_OK && t != NULL)
        qnet__param_copy(p, t, job->block + p->offset);
}

/* Frameworks wrap a network and put "module." or "backbone." before all names. The longest common
   prefix of all names is shortened, dot by dot, until a name behind it is one of the table; none
   where any name is right as it is. */
QNET_API size_t qnet_weights_prefix(const qnet_safetensors *file, const qnet_param_table *table)
{
    const char *first;
    size_t n, k;
    if (file == NULL || table == NULL || file->count == 0) return 0;
    first = file->tensors[0].name;
    n = strlen(first);
    for (int i = 0; i < file->count; i++) {
        const char *name = file->tensors[i].name;
        if (qnet_param_find(table, name) >= 0) return 0;
        for (k = 0; k < n && name[k] == first[k];) k++;
        n = k;
    }
    for (; n > 0; n--) /* a few tensors may share more: "module.bn1." */
        for (int i = 0; i < file->count && first[n - 1] == '.'; i++)
            if (qnet_param_find(table, file->tensors[i].name + n) >= 0) return n;
    return 0;
}

/* All entries are checked before the first one is copied. */
QNET_API qnet_status qnet_weights_from_safetensors(qnet_context *ctx, const qnet_safetensors *file,
                                                   const qnet_param_table *table, qnet_real *block,
                                                   int replace_head, int *head_replaced)
{
    const qnet_safetensor *t;
    size_t classes;
    int replaced = 0, headless = 0;
    if (file == NULL || table == NULL || block == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_weights_from_safetensors: an argument is NULL");
    const char *name = qnet__safetensors_name(file);
    qnet__weights_job job = {file, name, table, qnet_weights_prefix(file, table), replace_head,
                             block};
    /* Extra tensors: a file of a larger network must not pass for this one. */
    for (int i = 0; i < file->count; i++)
        if (qnet_param_find(table, file->tensors[i].name + job.prefix) < 0 &&
            !qnet__is_tracked(file->tensors[i].name))
            return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                              "%s: not weights of %s: tensor '%s' is not one of its %d", name,
                              table->network, file->tensors[i].name, table->count);
    for (int i = 0; i < table->count; i++) {
        const qnet_param *p = &table->entries[i];
        QNET__TRY(qnet__weights_match(ctx, &job, p, 1, &t));
        if (t != NULL || qnet__is_tracked(p->name)) continue;
        replaced = 1;
        headless |= qnet__head_in_file(&job, p->name, &classes) == 0;
    }
    if (job.prefix > 0)
        qnet__log(ctx, QNET_LOG_WARNING, "%s: all names begin with '%.*s', which is left out", name,
                  (int)job.prefix, file->tensors[0].name);
    if (headless)
        qnet__log(ctx, QNET_LOG_WARNING, "%s: there is no head (fc) in it: it must be trained anew",
                  name);
    qnet__parallel(file->ctx, (size_t)table->count, qnet__weights_copy_task, &job);
    if (head_replaced != NULL) *head_replaced = replaced;
    return QNET_OK;
}

/* ---- which files belong together ------------------------------------------------------------- */

/* h continued by the tensor's bytes as they are in a file, little-endian on every machine. */
static uint64_t qnet__hash_numbers(uint64_t h, const qnet_safetensor *t)
{
    const unsigned char *p = (const unsigned char *)t->data;
    const size_t size = qnet_dtype_size(t->dtype);
    if (qnet__is_little_endian()) return qnet_hash(h, p, t->bytes);
    for (size_t i = 0; i < t->bytes; i += size)
        for (size_t k = size; k > 0; k--) h = qnet_hash(h, p + i + k - 1, 1);
    return h;
}

/* The sum, mod 2^64, of one hash for each tensor: their order in the file does not matter. */
QNET_API uint64_t qnet_safetensors_hash(const qnet_safetensors *file)
{
    uint64_t sum = QNET_HASH_START;
    for (int i = 0; i < file->count; i++) {
        const qnet_safetensor *t = &file->tensors[i];
        const char *type = qnet_dtype_name(t->dtype);
        char shape[QNET__SHAPE_TEXT];
        uint64_t h = qnet_hash(QNET_HASH_START, t->name, strlen(t->name) + 1);
        if (qnet__is_tracked(t->name)) continue;
        qnet__shape_text(shape, t->ndim, t->shape);
        h = qnet_hash(h, type, strlen(type) + 1);
        h = qnet_hash(h, shape, strlen(shape) + 1);
        sum += qnet__hash_numbers(h, t);
    }
    return sum;
}

/* "crop repeat 1 fold 2 resnetswa of run 1f0c...", with ? for what the file does not say. */
#define QNET__IDENTITY 160
static void qnet__identity_text(const qnet_safetensors *file, char text[QNET__IDENTITY])
{
    static const char *const keys[5] = {"input", "repeat", "fold", "model", "run"};
    static const char *const words[5] = {"", " repeat ", " fold ", " ", " of run "};
    int at = 0;
    for (int i = 0; i < 5; i++) {
        const char *value = qnet_safetensors_metadata(file, keys[i]);
        at += snprintf(text + at, QNET__IDENTITY - (size_t)at, "%s%.16s", words[i],
                       value != NULL ? value : "?");
    }
}

/* By the hash of the ResNet that the scan model's file carries; without one, by what both files say
   of the run that made them. */
QNET_API qnet_status qnet_weights_check_pair(qnet_context *ctx, const qnet_safetensors *resnet,
                                             const qnet_safetensors *scan, int *known)
{
    static const char *const same[7] = {"run",      "input", "repeat", "fold",
                                        "subjects", "seed",  "size"};
    const qnet_safetensors *const files[2] = {resnet, scan};
    const char *embedding, *model;
    char is[2][QNET__IDENTITY], hash[24];
    int differ = 0;
    if (resnet == NULL || scan == NULL || known == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_weights_check_pair: an argument is NULL");
    for (int i = 0; i < 2; i++) {
        model = qnet_safetensors_metadata(files[i], "model");
        if (model != NULL && (strcmp(model, "qnet") == 0) != i) /* files[1] is the Q-Net */
            return qnet__fail(ctx, QNET_ERROR_MISMATCH, "%.250s: is a %.16s where a %s belongs: "
                              "are the two files swapped?", qnet__safetensors_name(files[i]), model,
                              i == 0 ? "ResNet" : "Q-Net");
        qnet__identity_text(files[i], is[i]);
    }
    for (int i = 0; i < 7; i++) {
        const char *a = qnet_safetensors_metadata(resnet, same[i]);
        const char *b = qnet_safetensors_metadata(scan, same[i]);
        differ |= a != NULL && b != NULL && strcmp(a, b) != 0;
    }
    /* The hash decides; the seven keys only where the scan model's file has none. */
    embedding = qnet_safetensors_metadata(scan, "embedding_hash");
    model = qnet_safetensors_metadata(scan, "embedding");
    snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)qnet_safetensors_hash(resnet));
    if (embedding != NULL ? strcmp(embedding, hash) != 0 : differ)
        return qnet__fail(ctx, QNET_ERROR_MISMATCH, "%.250s is %s, trained on the features of "
                          "%.16s weights with hash %.16s, but %.250s is %s with hash %s",
                          qnet__safetensors_name(scan), is[1], model ? model : "its own",
                          embedding ? embedding : "unknown", qnet__safetensors_name(resnet), is[0],
                          hash);
    *known = embedding != NULL;
    return QNET_OK;
}

/* Streams the block: numbers are turned to the file's order 512 at a time, so that no second copy
   of the network is made. */
QNET_API qnet_status qnet_weights_write(qnet_context *ctx, qnet_sink *sink,
                                        const qnet_param_table *table, const qnet_real *block,
                                        const char *const *metadata_pairs, int pairs)
{
    qnet_real chunk[512];
    qnet_safetensor *tensors;
    size_t bytes, n;
    int count = 0;
    qnet_status status = QNET_OK;
    if (ctx == NULL || sink == NULL || sink->write == NULL || table == NULL || block == NULL ||
        pairs < 0 || (pairs > 0 && metadata_pairs == NULL))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_weights_write: an argument is NULL or a count below 0");
    bytes = sizeof(qnet_safetensor) * (size_t)table->count;
    tensors = (qnet_safetensor *)qnet__alloc(ctx, bytes);
    if (tensors == NULL) return qnet__no_memory(ctx, bytes, "a weight file's header");
    /* The 8-byte counters go first, so that every tensor is aligned to its type. Numbers that could
       not be read back are refused. */
    for (int real = 0; real < 2; real++)
        for (int i = 0; i < table->count && status == QNET_OK; i++) {
            const qnet_param *p = &table->entries[i];
            qnet_safetensor t = qnet__param_in_file(p);
            if (qnet__is_tracked(p->name) == real) continue;
            tensors[count++] = t;
            t.dtype = QNET__REAL_IS_DOUBLE ? QNET_F64 : QNET_F32;
            t.data = block + p->offset;
            status = qnet__check_numbers(ctx, qnet__sink_name(sink), &t, p->name);
        }
    if (status == QNET_OK)
        status = qnet__safetensors_begin(ctx, sink, tensors, count, metadata_pairs, pairs);
    for (int i = 0; status == QNET_OK && i < count; i++) {
        const qnet_param *p = &table->entries[qnet_param_find(table, tensors[i].name)];
        if (tensors[i].dtype == QNET_I64) {
            const int64_t value = (int64_t)block[p->offset];
            status = qnet__write_numbers(ctx, sink, &value, 1, sizeof(value));
            continue;
        }
        for (size_t f = 0; status == QNET_OK && f < p->count; f += n) {
            n = qnet__min_size(p->count - f, sizeof(chunk) / sizeof(chunk[0]));
            for (size_t k = 0; k < n; k++)
                chunk[k] = block[p->offset + qnet__param_index(p, f + k)];
            status = qnet__write_numbers(ctx, sink, chunk, n, sizeof(qnet_real));
        }
    }
    qnet__free(ctx, tensors, bytes);
    return status;
}

#ifndef QNET_NO_STDIO
/* qnet_safetensors_read of a path, or of what the hook for other kinds of files makes of it. */
QNET_API qnet_status qnet_safetensors_load(qnet_context *ctx, const char *path,
                                           qnet_safetensors **out)
{
    qnet__file file;
    qnet_source source;
    qnet_status status;
    if (ctx != NULL && path != NULL && out != NULL && ctx->hooks.weights.read != NULL) {
        qnet_buffer bytes = {NULL, 0, 0, NULL};
        qnet_memory_source state;
        char sentence[512] = "";
        int used;
        status = ctx->hooks.weights.read(ctx->hooks.weights.user, ctx, path, &bytes, sentence,
                                         sizeof(sentence));
        used = status != QNET_OK || bytes.size > 0;
        source = qnet_source_memory(&state, bytes.bytes, bytes.size, path);
        if (status != QNET_OK) (void)qnet__fail(ctx, status, "%s", sentence);
        else if (used) status = qnet_safetensors_read(ctx, &source, out);
        qnet_buffer_free(ctx, &bytes);
        if (used) return status;
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
    QNET__TRY(qnet__file_open_replace(ctx, path, &file, &sink));
    return qnet__file_finish(&file, qnet_weights_write(ctx, &sink, table, block, metadata_pairs,
                                                       pairs));
}
#endif

/* ---- configurations as text ------------------------------------------------------------------
   "key=value" lines: the metadata of weights files and checkpoints, and what a resume compares. */

/* Appends a line for each setting, its key behind `prefix`. Equal numbers give equal text and
   different ones different text: no bit is lost. */
static qnet_status qnet__settings_text(qnet_context *ctx, qnet_buffer *text, const char *prefix,
                                     const qnet__setting *f, const void *config)
{
    for (; f->key != NULL; f++) {
        char number[40];
        qnet__format_number(number, sizeof number, qnet__setting_get(f, config));
        QNET__TRY(qnet_buffer_printf(ctx, text, "%s%s=%s\n", prefix, f->key, number));
    }
    return QNET_OK;
}

/* The settings of a table from a file's metadata into a configuration; QNET_ERROR_FORMAT for a
   number that is missing or out of its range. */
static qnet_status qnet__settings_read(qnet_context *ctx, const qnet_safetensors *file,
                                     const char *name, const qnet__setting *f, void *config)
{
    for (; f->key != NULL; f++) {
        void *at = (unsigned char *)config + f->offset;
        const char *text = qnet_safetensors_metadata(file, f->key);
        double value;
        if (text == NULL || !qnet__parse_number(text, &value) ||
            !(value >= f->low && value <= f->high) || (f->type != 'd' && value != floor(value)))
            return qnet__fail(ctx, QNET_ERROR_FORMAT,
                              "%s: metadata \"%s\": expected a %snumber from %g to %g, found %.64s",
                              name, f->key, f->type == 'd' ? "" : "whole ", f->low, f->high,
                              text ? text : "nothing");
        if (f->type == 'd') *(double *)at = value;
        else if (f->type == 'i') *(int *)at = (int)value;
        else *(qnet_stretch *)at = (qnet_stretch)(int)value;
    }
    return QNET_OK;
}

#define QNET__METADATA_PAIRS 80

/* Cuts "key=value" lines up in place: pairs[2 k] and pairs[2 k + 1] point to key and value of line
   k. Returns the number of lines. */
static int qnet__metadata_pairs(char *text, const char *pairs[2 * QNET__METADATA_PAIRS])
{
    int n = 0;
    while (*text && n < QNET__METADATA_PAIRS) {
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
#endif

#if QNET__HAS_NETWORKS
/* ============================================================================================
   >>image: histogram stretching and augmentation (paper, "Data Augmentation", Fig. 3).
   In: a prepared image, pixels[in_h][in_w][3] in physical units. Out: the network's input,
   out[out_h][out_w][3]. The paper's eight steps change values or places. Values, on all of the
   prepared image:

       v -> (v - low) / (high - low), clipped -> alpha v + beta, clipped -> v ^ gamma

   Places, composed into one coordinate map, so that an image is interpolated once however many of
   them were drawn:

      out pixel -> + crop -> inverse shift-scale-rotate -> grid distortion -> flips -> source (x, y)

   A coordinate beyond the border of any image on this way is mirrored there. At last comes
   (v - mean) / std. A cropped input has been cut out of the slice with a margin: percentiles are
   those of the cut-out, and step 8, the crop, moves within the margin. A full input is prepared at
   the network's size, so that its crop is all of it and its step 8 does nothing.
   Formulas and ranges are those of Albumentations 0.5-1.0, which the paper cites (Buslaev et al.
   2020). "Histogram stretching" is not defined there nor in the paper: here it is a linear map of
   the 1st..99th percentile of the non-zero pixels to 0..1, or fixed windows.
   Relies on >>context >>random >>text.
   ============================================================================================ */

QNET_API void qnet_augment_config_init(qnet_augment_config *config)
{
    static const qnet_augment_config paper = {
        QNET_STRETCH_PERCENTILE, 1, 99, {-0.2, 0, 0}, {0.2, 60, 0}, /* T1W has no absolute unit */
        0.5, 0.5, 0.7, 0.3, 0.25, 0.5,           /* probabilities, in the order of the steps */
        0.2, 0.2, 80, 120, 0.3, 0.0625, 0.1, 45, /* ranges, likewise */
        0, {0, 0, 0}, {1, 1, 1}};
    *config = paper;
}

QNET_API void qnet_augment_config_imagenet(qnet_augment_config *config)
{
    static const double mean[3] = {0.485, 0.456, 0.406}, std[3] = {0.229, 0.224, 0.225};
    memcpy(config->mean, mean, sizeof mean);
    memcpy(config->std, std, sizeof std);
}

/* ---- the parameters of one image ------------------------------------------------------------- */

/* A number in -limit..limit; 0 where the transform is off, though drawn all the same. */
static double qnet__draw(qnet_rng *rng, int on, double limit)
{
    const double value = qnet_rng_range(rng, -limit, limit);
    return on ? value : 0;
}

/* 27 uniform numbers are drawn whatever the coins say, in this order: coin hflip; coin vflip; coin
   brightness-contrast, alpha, beta; coin gamma, gamma; coin grid, 6 factors along x, 6 along y;
   coin affine, angle, scale, dx, dy; crop row, crop column. So a changed probability or
   physics_safe leaves every other draw as it was. Fields of a transform that is off hold the
   identity. */
QNET_API qnet_augmentation qnet_augment_draw(const qnet_augment_config *config, qnet_rng *rng,
                                             int in_h, int in_w, int out_h, int out_w)
{
    const int any = !config->physics_safe;
    qnet_augmentation r;
    memset(&r, 0, sizeof r);
    r.hflip = qnet_rng_uniform(rng) < config->p_hflip;
    r.vflip = qnet_rng_uniform(rng) < config->p_vflip && any;
    r.brightness_contrast = qnet_rng_uniform(rng) < config->p_brightness_contrast && any;
    r.alpha = 1 + qnet__draw(rng, r.brightness_contrast, config->contrast);
    r.beta = qnet__draw(rng, r.brightness_contrast, config->brightness);
    r.gamma_on = qnet_rng_uniform(rng) < config->p_gamma && any;
    /* Whole percents, ends included. */
    const double gammas = floor(config->gamma_high - config->gamma_low) + 1;
    r.gamma = (config->gamma_low + floor(qnet_rng_uniform(rng) * gammas)) / 100;
    r.gamma = r.gamma_on ? r.gamma : 1;
    r.grid = qnet_rng_uniform(rng) < config->p_grid;
    for (int i = 0; i <= QNET_GRID_STEPS; i++)
        r.grid_x[i] = 1 + qnet__draw(rng, r.grid, config->grid_limit);
    for (int i = 0; i <= QNET_GRID_STEPS; i++)
        r.grid_y[i] = 1 + qnet__draw(rng, r.grid, config->grid_limit);
    r.affine = qnet_rng_uniform(rng) < config->p_affine;
    r.angle = qnet__draw(rng, r.affine, config->rotate);
    r.scale = 1 + qnet__draw(rng, r.affine, config->scale);
    r.dx = qnet__draw(rng, r.affine, config->shift);
    r.dy = qnet__draw(rng, r.affine, config->shift);
    /* As in Albumentations, in - out itself is never reached. */
    r.crop_y = (int)floor(qnet_rng_uniform(rng) * qnet__max_int(in_h - out_h, 0));
    r.crop_x = (int)floor(qnet_rng_uniform(rng) * qnet__max_int(in_w - out_w, 0));
    return r;
}

QNET_API qnet_augmentation qnet_augment_test(int in_h, int in_w, int out_h, int out_w)
{
    qnet_augmentation r;
    memset(&r, 0, sizeof r);
    r.alpha = r.gamma = r.scale = 1;
    for (int i = 0; i <= QNET_GRID_STEPS; i++) r.grid_x[i] = r.grid_y[i] = 1;
    r.crop_y = qnet__max_int(in_h - out_h, 0) / 2;
    r.crop_x = qnet__max_int(in_w - out_w, 0) / 2;
    return r;
}

/* ---- checks: NaN is refused by the form of the comparisons ----------------------------------- */

/* What the network sees of an image at test time, too. */
#define QNET__CHANNEL_SETTING(name, c, low, high) \
    { #name "." #c, 'd', offsetof(qnet_augment_config, name) + c * sizeof(double), low, high }
#define QNET__CHANNEL_SETTINGS(c)                        \
    QNET__CHANNEL_SETTING(window_low, c, -1e30, 1e30),   \
    QNET__CHANNEL_SETTING(window_high, c, -1e30, 1e30),  \
    QNET__CHANNEL_SETTING(mean, c, -1e6, 1e6),           \
    QNET__CHANNEL_SETTING(std, c, 1e-9, 1e6)
static const qnet__setting qnet__stretch_settings[] = {
    QNET__SETTING(qnet_augment_config, 's', stretch, 0, 1),
    QNET__SETTING(qnet_augment_config, 'd', percentile_low, 0, 100),
    QNET__SETTING(qnet_augment_config, 'd', percentile_high, 0, 100),
    QNET__CHANNEL_SETTINGS(0),
    QNET__CHANNEL_SETTINGS(1),
    QNET__CHANNEL_SETTINGS(2),
    QNET__SETTINGS_END
};

/* What training alone does to it. */
static const qnet__setting qnet__augment_settings[] = {
    QNET__SETTING(qnet_augment_config, 'd', p_hflip, 0, 1),
    QNET__SETTING(qnet_augment_config, 'd', p_vflip, 0, 1),
    QNET__SETTING(qnet_augment_config, 'd', p_brightness_contrast, 0, 1),
    QNET__SETTING(qnet_augment_config, 'd', p_gamma, 0, 1),
    QNET__SETTING(qnet_augment_config, 'd', p_grid, 0, 1),
    QNET__SETTING(qnet_augment_config, 'd', p_affine, 0, 1),
    QNET__SETTING(qnet_augment_config, 'd', brightness, 0, DBL_MAX),
    QNET__SETTING(qnet_augment_config, 'd', contrast, 0, DBL_MAX),
    QNET__SETTING(qnet_augment_config, 'd', gamma_low, FLT_MIN, DBL_MAX),
    QNET__SETTING(qnet_augment_config, 'd', gamma_high, FLT_MIN, DBL_MAX),
    QNET__SETTING(qnet_augment_config, 'd', grid_limit, 0, 1 - DBL_EPSILON),
    QNET__SETTING(qnet_augment_config, 'd', shift, 0, DBL_MAX),
    QNET__SETTING(qnet_augment_config, 'd', scale, 0, 1 - DBL_EPSILON),
    QNET__SETTING(qnet_augment_config, 'd', rotate, 0, DBL_MAX),
    QNET__SETTING(qnet_augment_config, 'i', physics_safe, 0, 1),
    QNET__SETTINGS_END
};

/* Ranges of a configuration; of two limits the upper one is not below the lower one. */
static qnet_status qnet__augment_config_check(qnet_context *ctx, const qnet_augment_config *c)
{
    QNET__TRY(qnet__settings_check(ctx, "augment", qnet__stretch_settings, c));
    QNET__TRY(qnet__settings_check(ctx, "augment", qnet__augment_settings, c));
    if (c->gamma_low > c->gamma_high || c->percentile_low >= c->percentile_high)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: gamma %g..%g, percentiles %g..%g: expected low before high",
                          c->gamma_low, c->gamma_high, c->percentile_low, c->percentile_high);
    for (int i = 0; i < 3; i++)
        if (c->window_low[i] > c->window_high[i])
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "augment: window %g..%g of channel %d is empty", c->window_low[i],
                              c->window_high[i], i);
    return QNET_OK;
}

#define QNET__MAX_PIXELS (INT_MAX / 16) /* of an image: its bytes are an int */

/* Bytes of the grid's map_x[in_w] and map_y[in_h], a row's x[in_w] and y[in_w], and the image after
   the value transforms, [in_h][in_w][3]; (size_t)-1 when that is no size. */
QNET_API size_t qnet_augment_scratch(int in_h, int in_w)
{
    if (in_h < 1 || in_w < 1 || in_h > QNET__MAX_PIXELS / in_w) return (size_t)-1;
    return (3 * (size_t)in_w + (size_t)in_h) * sizeof(double) +
           (size_t)in_h * (size_t)in_w * 3 * sizeof(float);
}

/* A record whose map has an inverse, for images of these sizes. */
static qnet_status qnet__record_check(qnet_context *ctx, const qnet_augmentation *r, int in_h,
                                      int in_w, int out_h, int out_w)
{
    /* NaN and infinity stay visible in a sum, so one comparison finds any of them. */
    double sum = r->alpha + r->beta + r->gamma + r->angle + r->scale + r->dx + r->dy;
    for (int i = 0; i <= QNET_GRID_STEPS; i++) sum += r->grid_x[i] + r->grid_y[i];
    if (qnet_augment_scratch(in_h, in_w) == (size_t)-1 || out_h < 1 || out_w < 1 || r->crop_y < 0 ||
        r->crop_x < 0 || r->crop_y > in_h - out_h || r->crop_x > in_w - out_w)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: crop of %dx%d at row %d, column %d from an image of %dx%d",
                          out_h, out_w, r->crop_y, r->crop_x, in_h, in_w);
    if (!(fabs(sum) <= DBL_MAX))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: a number of the record is not finite");
    if ((r->affine && !(r->scale > 0)) || (r->gamma_on && !(r->gamma > 0)))
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: scale is %g and gamma is %g, expected above 0", r->scale,
                          r->gamma);
    return QNET_OK;
}

/* ---- histogram stretching -------------------------------------------------------------------- */

/* The value of rank `rank` (from 0, in rising order) of v[n], which is reordered so that what
   stands before it is no larger and what stands behind it no smaller (Hoare's selection). */
static float qnet__select(float *v, size_t n, size_t rank)
{
    size_t low = 0, high = n - 1;
    while (low < high) {
        const float pivot = v[low + (high - low) / 2];
        size_t i = low, j = high;
        for (;; i++, j--) {
            while (v[i] < pivot) i++;
            while (v[j] > pivot) j--;
            if (i >= j) break;
            const float swap = v[i];
            v[i] = v[j];
            v[j] = swap;
        }
        /* v[low..j] <= pivot <= v[j+1..high], j < high. */
        if (rank <= j) high = j;
        else low = j + 1;
    }
    return v[rank];
}

/* Percentile q (0..100) of v[n], which is reordered; linear between order statistics as
   numpy.percentile has it: a + f (b - a), a of rank floor(q/100 (n-1)), b of the next. n = 0: 0. */
static float qnet__percentile(float *v, size_t n, double q)
{
    if (n == 0) return 0;
    const double at = q / 100 * (double)(n - 1);
    const size_t rank = qnet__min_size((size_t)at, n - 1);
    const float a = qnet__select(v, n, rank);
    float b = rank + 1 < n ? v[rank + 1] : a;
    for (size_t i = rank + 1; i < n; i++) b = v[i] < b ? v[i] : b;
    return (float)(a + (at - (double)rank) * ((double)b - a));
}

/* low[c] and high[c] by window or by percentiles of the pixels that are neither zero, which lies
   outside the head, nor infinite or NaN; both 0 for a channel without any. */
QNET_API qnet_status qnet_stretch_limits(qnet_context *ctx, const qnet_augment_config *config,
                                         const float *pixels, size_t count, float low[3],
                                         float high[3], void *scratch)
{
    float *values = (float *)scratch;
    if (config == NULL || pixels == NULL || low == NULL || high == NULL || scratch == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "stretch: config, pixels, limits or scratch are missing");
    QNET__TRY(qnet__augment_config_check(ctx, config));
    for (int c = 0; c < 3; c++) {
        size_t n = 0;
        low[c] = (float)config->window_low[c];
        high[c] = (float)config->window_high[c];
        if (config->stretch == QNET_STRETCH_WINDOW &&
            config->window_low[c] < config->window_high[c])
            continue;
        for (size_t i = 0; i < count; i++) {
            const float value = pixels[3 * i + (size_t)c];
            values[n] = value; /* n <= i */
            n += value != 0 && fabsf(value) <= FLT_MAX;
        }
        low[c] = qnet__percentile(values, n, config->percentile_low);
        high[c] = qnet__percentile(values, n, config->percentile_high);
    }
    return QNET_OK;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* v ^ gamma for v in 0..1 by table, for a whole image with one gamma. With v = 2^e m, 1 <= m < 2,
   it is 2^(e gamma) m^gamma: the first factor from a table by the bits of the exponent, the second
   one linear between 512 entries, which is off by at most gamma |gamma - 1| 2^-21 of the value:
   1.1e-7 up to a gamma of 1.2. */
#define QNET__POWER_BITS 9
typedef struct qnet__power_table {
    float exponent[128]; /* 0 for 0 and denormal numbers */
    float mantissa[(1 << QNET__POWER_BITS) + 1];
} qnet__power_table;

static void qnet__power_plan(qnet__power_table *table, double gamma)
{
    table->exponent[0] = 0;
    for (int i = 1; i < 128; i++) table->exponent[i] = (float)pow(2, (i - 127) * gamma);
    for (int i = 0; i <= 1 << QNET__POWER_BITS; i++)
        table->mantissa[i] = (float)pow(1 + i / (double)(1 << QNET__POWER_BITS), gamma);
}

/* 0 and 1 come out exactly. */
static float qnet__power(const qnet__power_table *table, float v)
{
    const int rest_bits = 23 - QNET__POWER_BITS;
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    const uint32_t i = bits >> rest_bits & ((1u << QNET__POWER_BITS) - 1);
    const float rest = (float)(int)(bits & ((1u << rest_bits) - 1)) / (float)(1 << rest_bits);
    return table->exponent[bits >> 23] *
           (table->mantissa[i] + rest * (table->mantissa[i + 1] - table->mantissa[i]));
}

/* The value transforms of pixels[count][3] into image[count][3]. A channel without contrast, or
   whose range overflows, becomes 0, and so does NaN. Without brightness and contrast, alpha 1 and
   beta 0 change no bit. Operation after operation, which a compiler turns into vectors. */
static void qnet__augment_values(const qnet_augmentation *record, const float *pixels,
                                 size_t count, const float low[3], const float high[3],
                                 float *image)
{
    const float alpha = (float)record->alpha, beta = (float)record->beta;
    enum { VALUES = 12 }; /* four pixels */
    float from[VALUES], scale[VALUES], v[VALUES] = {0};
    for (int k = 0; k < VALUES; k++) {
        const float span = high[k % 3] - low[k % 3];
        from[k] = low[k % 3];
        scale[k] = span >= FLT_MIN && span <= FLT_MAX ? 1 / span : 0;
    }
    for (size_t i = 0; i < 3 * count; i += VALUES) {
        const size_t bytes = qnet__min_size(3 * count - i, VALUES) * sizeof *v;
        memcpy(v, pixels + i, bytes);
        for (int k = 0; k < VALUES; k++) v[k] = (v[k] - from[k]) * scale[k];
        for (int k = 0; k < VALUES; k++) v[k] = v[k] > 0 ? v[k] : 0;
        for (int k = 0; k < VALUES; k++) v[k] = v[k] < 1 ? v[k] : 1;
        for (int k = 0; k < VALUES; k++) v[k] = v[k] * alpha + beta;
        for (int k = 0; k < VALUES; k++) v[k] = v[k] > 0 ? v[k] : 0;
        for (int k = 0; k < VALUES; k++) v[k] = v[k] < 1 ? v[k] : 1;
        memcpy(image + i, v, bytes);
    }
    if (record->gamma_on) {
        qnet__power_table table;
        qnet__power_plan(&table, record->gamma);
        for (size_t i = 0; i < 3 * count; i++) image[i] = qnet__power(&table, image[i]);
    }
}

/* ---- geometry -------------------------------------------------------------------------------- */

/* Reflect-101, ... 2 1 | 0 1 2 ... n-1 | n-2 ..., of a coordinate at any distance. */
QNET__INLINE double qnet__reflect(double x, int size)
{
    const double last = size - 1;
    if (x >= 0 && x <= last) return x;
    if (last < 1) return 0;
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
    for (int k = 0; k < piece; k++) first += step * factor[k];
    last = piece < QNET_GRID_STEPS ? first + step * factor[piece] : size;
    return length > 1 ? first + (last - first) * (i - start) / (length - 1) : first;
}

/* The way back from a pixel of the output to the prepared image. */
typedef struct qnet__warp {
    const qnet_augmentation *record;
    int in_h, in_w;
    double xx, xy, x0, yx, yy, y0; /* x = xx X + xy Y + x0, y = yx X + yy Y + y0 */
    const double *map_x, *map_y;   /* [in_w], [in_h]: the grid distortion */
} qnet__warp;

/* Shift-scale-rotate takes (x, y) to M (x, y, 1) with, about the centre (cx, cy) = (w/2, h/2),
   M = [a b (1-a) cx - b cy + dx w; -b a b cx + (1-a) cy + dy h], a = scale cos, b = scale sin
   (OpenCV's getRotationMatrix2D). An output pixel is fetched from M^-1 of itself; the linear part's
   inverse is [a -b; b a] / scale^2. map_x[in_w] and map_y[in_h] are filled. */
static qnet__warp qnet__warp_plan(const qnet_augmentation *record, int in_h, int in_w,
                                  double *map_x, double *map_y)
{
    qnet__warp warp = {record, in_h, in_w, 1, 0, 0, 0, 1, 0, map_x, map_y};
    for (int i = 0; record->grid && i < in_w; i++)
        map_x[i] = qnet__grid_entry(record->grid_x, in_w, i);
    for (int i = 0; record->grid && i < in_h; i++)
        map_y[i] = qnet__grid_entry(record->grid_y, in_h, i);
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

/* The map at a coordinate in 0..size-1 between pixels: linear between its entries. */
QNET__INLINE double qnet__grid_at(const double *map, int size, double x)
{
    const int i = (int)x, next = qnet__min_int(i + 1, size - 1);
    return map[i] + (x - i) * (map[next] - map[i]);
}

/* Source (x, y), within 0..in_w-1, 0..in_h-1, of output pixel (out_x, out_y). */
QNET__INLINE void qnet__warp_point(const qnet__warp *warp, int out_x, int out_y, double *x,
                                   double *y)
{
    const qnet_augmentation *r = warp->record;
    const double X = (double)out_x + r->crop_x, Y = (double)out_y + r->crop_y;
    double sx = qnet__reflect(warp->xx * X + warp->xy * Y + warp->x0, warp->in_w);
    double sy = qnet__reflect(warp->yx * X + warp->yy * Y + warp->y0, warp->in_h);
    if (r->grid) {
        sx = qnet__reflect(qnet__grid_at(warp->map_x, warp->in_w, sx), warp->in_w);
        sy = qnet__reflect(qnet__grid_at(warp->map_y, warp->in_h, sy), warp->in_h);
    }
    *x = r->hflip ? warp->in_w - 1 - sx : sx;
    *y = r->vflip ? warp->in_h - 1 - sy : sy;
}

/* (1-fy) ((1-fx) p[0] + fx p[right]) + fy ((1-fx) q[0] + fx q[right]). */
QNET__INLINE float qnet__bilinear(const float *p, const float *q, size_t right, float fx, float fy)
{
    const float top = p[0] + fx * (p[right] - p[0]), bottom = q[0] + fx * (q[right] - q[0]);
    return top + fy * (bottom - top);
}

/* Row out_y of out[out_h][out_w][3]: image[in_h][in_w][3] where the warp says, bilinear (between
   pixels: flips and crop alone copy them), normalised. Coordinates first, x[out_w] and y[out_w],
   then pixels: two loops without a dependence. */
static void qnet__warp_row(const qnet__warp *warp, const float *image, int out_y, int out_w,
                           const qnet_real mean[3], const qnet_real rstd[3], double *x, double *y,
                           qnet_real *out)
{
    const size_t stride = (size_t)warp->in_w * 3;
    for (int X = 0; X < out_w; X++)
        if (warp->record->affine || out_y == 0 || X == 0)
            qnet__warp_point(warp, X, out_y, &x[X], &y[X]);
        else y[X] = y[0]; /* without rotation y depends on the row alone, and x, kept, not on it */
    for (int X = 0; X < out_w; X++, out += 3) {
        const int x0 = (int)x[X], y0 = (int)y[X];
        const float fx = (float)(x[X] - x0), fy = (float)(y[X] - y0);
        const size_t right = x0 + 1 < warp->in_w ? 3 : 0;
        const float *p = image + (size_t)y0 * stride + (size_t)x0 * 3;
        const float *q = y0 + 1 < warp->in_h ? p + stride : p;
        const qnet_real v0 = qnet__bilinear(p, q, right, fx, fy);
        const qnet_real v1 = qnet__bilinear(p + 1, q + 1, right, fx, fy);
        const qnet_real v2 = qnet__bilinear(p + 2, q + 2, right, fx, fy);
        out[0] = (v0 - mean[0]) * rstd[0];
        out[1] = (v1 - mean[1]) * rstd[1];
        out[2] = (v2 - mean[2]) * rstd[2];
    }
}

/* ---- the whole transform --------------------------------------------------------------------- */

QNET_API qnet_status qnet_augment_apply_within(qnet_context *ctx, const qnet_augment_config *config,
                                               const qnet_augmentation *record, const float *pixels,
                                               int in_h, int in_w, const float low[3],
                                               const float high[3], qnet_real *out, int out_h,
                                               int out_w, void *scratch)
{
    const size_t bytes = qnet_augment_scratch(in_h, in_w);
    qnet_real mean[3], rstd[3];
    float limit[2][3];
    if (config == NULL || record == NULL || pixels == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "augment: config, record, pixels or output is missing");
    QNET__TRY(qnet__record_check(ctx, record, in_h, in_w, out_h, out_w));
    QNET__TRY(qnet__augment_config_check(ctx, config));
    double *map_x = (double *)(scratch ? scratch : qnet__alloc(ctx, bytes));
    if (map_x == NULL) return qnet__no_memory(ctx, bytes, "augmentation");
    double *map_y = map_x + in_w, *x = map_y + in_h, *y = x + in_w;
    float *image = (float *)(void *)(y + in_w);
    const size_t count = (size_t)in_h * (size_t)in_w;
    if (low == NULL || high == NULL) { /* the configuration is right: no failure */
        (void)qnet_stretch_limits(ctx, config, pixels, count, limit[0], limit[1], image);
        low = limit[0];
        high = limit[1];
    }
    qnet__augment_values(record, pixels, count, low, high, image);
    const qnet__warp warp = qnet__warp_plan(record, in_h, in_w, map_x, map_y);
    for (int c = 0; c < 3; c++) {
        mean[c] = (qnet_real)config->mean[c];
        rstd[c] = (qnet_real)(1 / config->std[c]);
    }
    for (int row = 0; row < out_h; row++, out += 3 * (size_t)out_w)
        qnet__warp_row(&warp, image, row, out_w, mean, rstd, x, y, out);
    if (scratch == NULL) qnet__free(ctx, map_x, bytes);
    return QNET_OK;
}

QNET_API qnet_status qnet_augment_apply(qnet_context *ctx, const qnet_augment_config *config,
                                        const qnet_augmentation *record, const float *pixels,
                                        int in_h, int in_w, qnet_real *out, int out_h, int out_w,
                                        void *scratch)
{
    return qnet_augment_apply_within(ctx, config, record, pixels, in_h, in_w, NULL, NULL, out,
                                     out_h, out_w, scratch);
}

/* The two pixels next to coordinate x on an axis of n pixels, low <= x <= high, and the second
   one's weight x - low. Returns 0 where x is outside of the image, whose pixels reach half a step
   beyond their centres; in that half step the outermost pixel counts alone. */
static int qnet__neighbours(double x, int n, int *low, int *high, float *weight)
{
    if (!(x > -0.5 && x < n - 0.5)) return 0;
    x = fmin(fmax(x, 0), n - 1);
    *low = (int)x;
    *high = qnet__min_int(*low + 1, n - 1);
    *weight = (float)(x - *low);
    return 1;
}

/* out[out_h][out_w][channels]: source = (target + 1/2) * in / out - 1/2, clamped to the image, as
   in OpenCV's INTER_LINEAR and PyTorch's align_corners=False. Does nothing for empty sizes. */
QNET_API void qnet_image_resize(const float *in, int in_h, int in_w, int channels, float *out,
                                int out_h, int out_w)
{
    const double step_y = (double)in_h / out_h, step_x = (double)in_w / out_w;
    const size_t n = (size_t)channels, row = (size_t)in_w * n;
    int x0 = 0, x1 = 0, y0 = 0, y1 = 0; /* every source lies within the image */
    float fx = 0, fy = 0;
    if (in_h < 1 || in_w < 1 || channels < 1 || out_h < 1 || out_w < 1) return;
    for (int Y = 0; Y < out_h; Y++)
        for (int X = 0; X < out_w; X++) {
            (void)qnet__neighbours((Y + 0.5) * step_y - 0.5, in_h, &y0, &y1, &fy);
            (void)qnet__neighbours((X + 0.5) * step_x - 0.5, in_w, &x0, &x1, &fx);
            const float *p = in + (size_t)y0 * row + (size_t)x0 * n;
            const float *q = in + (size_t)y1 * row + (size_t)x0 * n;
            for (size_t c = 0; c < n; c++)
                *out++ = qnet__bilinear(p + c, q + c, (size_t)(x1 - x0) * n, fx, fy);
        }
}
#endif

#if QNET__HAS_FILES
/* ============================================================================================
   >>cohort: from volumes to images, scan by scan; folds over individuals.
   In: QSM, R2*, T1W and mostly a mask of the basal ganglia, each float[nz][ny][nx] on one grid.
   Out: pixels[slices][side][side][3], the maps as channels, in their physical units:

       turn to RAS -> same grid? -> NaN outside of the head to 0 -> mask to its large components
           -> slices that hold it -> frame -> do the values make sense? -> resample each slice

   The frame says where an image lies on the voxel grid. Pixel (row, column) shows the voxel
       x = center_x - (column + 1/2 - side/2) step_x,  y = center_y - (row + 1/2 - side/2) step_y
   so that row 0 is the front of the head and column 0 the patient's right (radiological
   convention). step is as many mm along both axes, even if voxels are not square. The full input
   fits the whole slice into the image; the cropped one is box_mm about the mask's centre of mass
   (paper, "Performance Evaluation based on Input Configuration") and a margin, in which the
   augmentation moves its crop. What a folder holds, and which file is which map, is the caller's
   choice: examples/crossval/bids.h.
   Relies on >>context >>random >>text >>nifti >>weights >>image.
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
    config->margin = 0.08, config->max_slices = 24;
}

QNET_API int qnet_input_prepared(const qnet_input_config *config)
{
    if (config->input == QNET_INPUT_FULL) return config->size;
    return config->size + 2 * (int)floor(config->margin * config->size + 0.5);
}

/* Written into weights files: to be raised when the same maps give other pixels than before. 1, not
   written: the box about the middle of the mask's bounding box; 2: about its centre of mass. */
#define QNET__PREPARATION 2
#define QNET__MAX_SIDE 2048   /* pixels */
#define QNET__MAX_SLICES 1024 /* of a scan */

/* Ranges in which nothing below can overflow. */
static const qnet__setting qnet__input_settings[] = {
    QNET__SETTING(qnet_input_config, 'i', size, 32, QNET__MAX_SIDE),
    QNET__SETTING(qnet_input_config, 'd', box_mm, 1, 1000),
    QNET__SETTING(qnet_input_config, 'd', margin, 0, 1),
    QNET__SETTING(qnet_input_config, 'i', max_slices, 1, QNET__MAX_SLICES),
    QNET__SETTING(qnet_input_config, 'i', slice_first, 0, INT_MAX),
    QNET__SETTING(qnet_input_config, 'i', slice_count, 0, QNET__MAX_SLICES),
    QNET__SETTING(qnet_input_config, 'i', box_explicit, 0, 1),
    { "box_center_mm.0", 'd', offsetof(qnet_input_config, box_center_mm), -1e6, 1e6 },
    { "box_center_mm.1", 'd', offsetof(qnet_input_config, box_center_mm) + sizeof(double), -1e6,
      1e6 },
    QNET__SETTINGS_END
};

static qnet_status qnet__input_check(qnet_context *ctx, const qnet_input_config *c)
{
    if (c == NULL) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "input configuration: missing");
    if (c->input != QNET_INPUT_CROP && c->input != QNET_INPUT_FULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "input configuration: input is neither crop nor full");
    QNET__TRY(qnet__settings_check(ctx, "input configuration", qnet__input_settings, c));
    if (c->slice_count > c->max_slices)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "input configuration: slice_count %d: expected max_slices, %d, at most",
                          c->slice_count, c->max_slices);
    return QNET_OK;
}

enum { QNET__QSM, QNET__R2STAR, QNET__T1W, QNET__MASK, QNET__MAPS };

/* How many of the maps are needed: the mask is where slices or box come from it. */
static int qnet__maps_needed(const qnet_input_config *config)
{
    return config->slice_count == 0 || (config->input == QNET_INPUT_CROP && !config->box_explicit)
               ? QNET__MAPS : QNET__MASK;
}

/* What is known of a scan while its images are prepared. */
typedef struct qnet__preparation {
    qnet_context *ctx;
    const qnet_input_config *config;
    qnet_volume *map[QNET__MAPS];  /* [nz][ny][nx] each, on one grid; mask NULL: not needed */
    const char *name[QNET__MAPS];  /* for error sentences */
    int slices, z[QNET__MAX_SLICES]; /* those chosen, lowest first */
    int side;                      /* of the frame, pixels */
    double center[2], step[2];     /* voxels, voxels per pixel; along x and y */
    double half[2];                /* of the frame's side, voxels */
    qnet_cut cut;
} qnet__preparation;

/* Index of voxel (x, y, z) in voxels[nz][ny][nx]. */
static size_t qnet__voxel_at(const qnet_volume *v, int x, int y, int z)
{
    return ((size_t)z * (size_t)v->ny + (size_t)y) * (size_t)v->nx + (size_t)x;
}

/* where: "outside of the head become 0", ... */
static void qnet__warn_of_bad_voxels(qnet_context *ctx, const char *name, size_t bad,
                                     const char *where)
{
    if (bad > 0)
        qnet__log(ctx, QNET_LOG_WARNING, "%s: %.0f voxels of NaN or infinity %s", name,
                  (double)bad, where);
}

/* A refusal, with the field of the configuration that waives it; a warning once it is waived. */
static QNET__PRINTF(4, 5) qnet_status qnet__unless(qnet_context *ctx, int waived, const char *field,
                                                   const char *format, ...)
{
    char text[QNET__SENTENCE];
    va_list args;
    va_start(args, format);
    qnet__sentence(text, format, args);
    va_end(args);
    if (!waived)
        return qnet__fail(ctx, QNET_ERROR_DATA, "%s; if it is right, set %s", text, field);
    qnet__log(ctx, QNET_LOG_WARNING, "%s", text);
    return QNET_OK;
}

/* ---- the maps: orientation, grid, NaN -------------------------------------------------------- */

/* Turns a volume to RAS by permuting and flipping axes. These may lie aslant: slices are then
   planes of the axis nearest to upwards, which for slices acquired at 50 degrees from axial is not
   the one across them. tilt: the largest angle between an axis and that of the head,
   acos(|affine[c][c]| / spacing[c]). */
static qnet_status qnet__to_axial(qnet_context *ctx, const qnet_input_config *config,
                                  qnet_volume *v, const char *name)
{
    char was[4] = "RAS";
    double tilt = 0, norm[3], axes[3][3];
    if (qnet__affine_axes(&v->affine[0][0], norm, axes)) qnet__orientation_text(axes, was);
    const char *acquired = strchr("SI", was[2])   ? "axial"
                           : strchr("AP", was[2]) ? "coronal" : "sagittal";
    const int axial = acquired[0] == 'a';
    QNET__TRY(qnet_volume_reorient(v, "RAS"));
    for (int c = 0; c < 3; c++)
        tilt = fmax(tilt, acos(fmin(fabs(v->affine[c][c]) / v->spacing[c], 1)));
    tilt *= 180 / 3.14159265358979323846;
    if (tilt > 30)
        return qnet__unless(ctx, config->any_orientation || (tilt <= 45 && axial),
                            "any_orientation", "%.300s: its axes are turned by %.0f degrees from "
                            "those of the head, its slices were acquired %s", name, tilt, acquired);
    if (!axial)
        qnet__log(ctx, QNET_LOG_INFO, "%s: slices acquired %s are cut anew as axial ones", name,
                  acquired);
    return QNET_OK;
}

/* Fits leave NaN and infinity outside of the head: they become 0 where they are joined, through
   their like within a slice, to the slice's edge or to a voxel of 0. Alternates sweeps in both
   directions until none changes a voxel. Returns how many did. */
static size_t qnet__clear_outside(qnet_volume *v)
{
    const int nx = v->nx, ny = v->ny;
    size_t cleared = 0, before;
    for (int z = 0; z < v->nz; z++) {
        float *p = v->voxels + qnet__voxel_at(v, 0, 0, z);
        do {
            before = cleared;
            for (int back = 0; back < 2; back++)
                for (int i = 0; i < nx * ny; i++) {
                    const int at = back ? nx * ny - 1 - i : i, x = at % nx, y = at / nx;
                    if (qnet__is_finite((double)p[at])) continue;
                    if (x > 0 && y > 0 && x < nx - 1 && y < ny - 1 && p[at - 1] != 0 &&
                        p[at + 1] != 0 && p[at - nx] != 0 && p[at + nx] != 0)
                        continue;
                    p[at] = 0;
                    cleared++;
                }
        } while (cleared > before);
    }
    return cleared;
}

/* ---- the mask --------------------------------------------------------------------------------

   Users bring outlines of 0 and 1, label images, probability atlases and, by mistake, T1W or a
   brain mask. The last two would go unnoticed: every slice would hold some of them. So a mask is
   made binary, or refused; then its stray pieces go, as one voxel in a corner would add a slice. */

#define QNET__MASK_ML 200 /* the nuclei have 20 to 60, an outline twice that, a brain 1300 */
#define QNET__MASK_LABELS 64 /* a label image of the brain has about 40, any other one thousands */

/* Makes the mask 0 and 1: what is .5 or more becomes 1. Refused are values below 0 or above 1 that
   are not a few whole labels. The distinct values are counted up to one more than the limit. */
static qnet_status qnet__mask_binary(qnet_context *ctx, qnet_volume *mask, const char *name)
{
    const size_t count = qnet__voxel_count(mask->nx, mask->ny, mask->nz);
    float value[QNET__MASK_LABELS + 1], low = 0, high = 0; /* the values but 0 */
    int n = 0, k, whole = 1;
    size_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        const float v = qnet__is_finite((double)mask->voxels[i]) ? mask->voxels[i] : 0;
        bad += v != mask->voxels[i];
        mask->voxels[i] = v;
        low = v < low ? v : low;
        high = v > high ? v : high;
        if (v == 0) continue;
        whole &= v == floorf(v);
        for (k = 0; k < n && value[k] != v;) k++;
        if (k == n && n <= QNET__MASK_LABELS) value[n++] = v;
    }
    qnet__warn_of_bad_voxels(ctx, name, bad, "do not count as mask");
    /* A little beyond 0..1, as interpolation by splines leaves it. */
    if (low < -0.1f || (high > 1.1f && n > 1 && (!whole || n > QNET__MASK_LABELS)))
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "%s: is no mask: expected 0 and 1, up to %d labels, or a probability in "
                          "0..1, found %s%d values in %g..%g", name, QNET__MASK_LABELS,
                          n > QNET__MASK_LABELS ? "more than " : "",
                          qnet__min_int(n, QNET__MASK_LABELS) + 1, (double)low, (double)high);
    if (n > 1 || (n == 1 && value[0] < 1))
        qnet__log(ctx, QNET_LOG_WARNING, whole ? "%s: a label image: all its labels count as mask"
                  : "%s: not of 0 and 1: what is .5 or more counts as mask", name);
    for (size_t i = 0; i < count; i++) mask->voxels[i] = mask->voxels[i] >= 0.5f;
    return QNET_OK;
}

/* Flood fill, breadth first. The component (26 neighbours) of voxel `start`, whose voxels hold
   `from`: makes them `to`, lists their indices in queue[], which has room for all of the mask, and
   returns how many there are. */
static size_t qnet__mask_component(qnet_volume *mask, size_t start, float from, float to,
                                   size_t *queue)
{
    const int nx = mask->nx, ny = mask->ny, nz = mask->nz;
    size_t tail = 1;
    queue[0] = start;
    mask->voxels[start] = to;
    for (size_t head = 0; head < tail; head++) {
        const int x = (int)(queue[head] % (size_t)nx), row = (int)(queue[head] / (size_t)nx);
        for (int d = 0; d < 27; d++) {
            const int i = x + d % 3 - 1, j = row % ny + d / 3 % 3 - 1, k = row / ny + d / 9 - 1;
            if (i < 0 || i >= nx || j < 0 || j >= ny || k < 0 || k >= nz) continue;
            const size_t at = qnet__voxel_at(mask, i, j, k);
            if (mask->voxels[at] != from) continue;
            mask->voxels[at] = to;
            queue[tail++] = at;
        }
    }
    return tail;
}

/* Clears all components of a binary mask that are smaller than a fiftieth of the largest: nuclei
   stay, strays go, which would add slices. A piece that is just not cleared moves the centre by
   2 mm at 10 cm. */
static qnet_status qnet__mask_clean(qnet_context *ctx, qnet_volume *mask, const char *name,
                                    qnet_cut *cut)
{
    const size_t count = qnet__voxel_count(mask->nx, mask->ny, mask->nz);
    size_t n = 0, largest = 0, lost = 0, pieces = 0;
    for (size_t i = 0; i < count; i++) n += mask->voxels[i] > 0;
    if (n == 0)
        return qnet__fail(ctx, QNET_ERROR_DATA, "%s: no voxel is .5 or more, the mask is empty",
                          name);
    size_t *queue = (size_t *)qnet__alloc(ctx, n * sizeof *queue);
    if (queue == NULL) return qnet__no_memory(ctx, n * sizeof *queue, "a mask's components");
    for (size_t i = 0; i < count; i++)
        if (mask->voxels[i] == 1)
            largest = qnet__max_size(largest, qnet__mask_component(mask, i, 1, 2, queue));
    for (size_t i = 0; i < count; i++) {
        if (mask->voxels[i] != 2) continue;
        const size_t size = qnet__mask_component(mask, i, 2, 1, queue);
        if (50 * size >= largest) continue;
        for (size_t k = 0; k < size; k++) mask->voxels[queue[k]] = 0;
        lost += size;
        pieces++;
    }
    qnet__free(ctx, queue, n * sizeof *queue);
    if (lost)
        qnet__log(ctx, QNET_LOG_WARNING,
                  "%s: %.0f voxels in %.0f pieces of less than a fiftieth of the largest are left "
                  "out", name, (double)lost, (double)pieces);
    cut->mask_voxels = (int)(n - lost);
    cut->mask_left_out = (int)lost;
    return QNET_OK;
}

/* ---- which slices, which part of them -------------------------------------------------------- */

/* Centre of mass, along x and y, of the voxels that are not 0 in slices z[count] (NULL: in all); 0
   when there are none. */
static int qnet__center_of_mass(const qnet_volume *v, const int *z, int count, double center[2])
{
    double n = 0, sum[2] = {0, 0};
    for (int t = 0; t < count; t++) {
        const float *voxel = v->voxels + qnet__voxel_at(v, 0, 0, z ? z[t] : t);
        for (int i = 0; i < v->nx * v->ny; i++) {
            if (voxel[i] == 0) continue;
            n++;
            sum[0] += i % v->nx;
            sum[1] += i / v->nx;
        }
    }
    if (n == 0) return 0;
    for (int k = 0; k < 2; k++) center[k] = sum[k] / n;
    return 1;
}

/* p->z: the range of the configuration, or the central max_slices of those that hold the mask. The
   mask is not empty (qnet__mask_clean), so there is at least one. */
static qnet_status qnet__choose_slices(qnet__preparation *p)
{
    const qnet_input_config *c = p->config;
    const qnet_volume *mask = p->map[QNET__MASK];
    const int nz = p->map[QNET__QSM]->nz;
    double at[2];
    int n = 0;
    if (c->slice_count > 0) {
        if (c->slice_count > nz || c->slice_first > nz - c->slice_count)
            return qnet__fail(p->ctx, QNET_ERROR_DATA,
                              "%s: slices %d..%d asked for, the volume has 0..%d",
                              p->name[QNET__QSM], c->slice_first,
                              c->slice_first + c->slice_count - 1, nz - 1);
        for (; n < c->slice_count; n++) p->z[n] = c->slice_first + n;
        p->slices = n;
        return QNET_OK;
    }
    for (int z = 0; z < nz; z++) n += qnet__center_of_mass(mask, &z, 1, at);
    int skip = qnet__max_int(n - c->max_slices, 0) / 2; /* of an odd surplus more goes at the top */
    for (int z = 0; z < nz && p->slices < c->max_slices; z++)
        if (qnet__center_of_mass(mask, &z, 1, at) && skip-- <= 0) p->z[p->slices++] = z;
    return QNET_OK;
}

/* Centre and step of the frame on this scan's grid, in voxels; see the head of this room. mass: the
   mask's centre, where there is one. mm per pixel are

       full   longer side of the slices / size, about the middle of the grid
       crop   box_mm / size, about box_center_mm or the mask's centre of mass

   and step = mm per pixel / voxel size, for each axis. The margin of a crop adds pixels, not
   millimetres per pixel. */
static qnet_status qnet__frame_plan(qnet__preparation *p, const double mass[2])
{
    const qnet_input_config *config = p->config;
    const qnet_volume *v = p->map[QNET__QSM];
    const int n[2] = {v->nx, v->ny};
    double pixel_mm = config->box_mm / config->size;
    if (!(v->spacing[0] > 0 && v->spacing[1] > 0 && v->spacing[0] <= 1000 && v->spacing[1] <= 1000))
        return qnet__fail(p->ctx, QNET_ERROR_DATA, "%s: voxel size is %g x %g mm",
                          p->name[QNET__QSM], v->spacing[0], v->spacing[1]);
    for (int k = 0; k < 2; k++)
        p->center[k] = config->input == QNET_INPUT_FULL ? (n[k] - 1) / 2.0 : mass[k];
    if (config->input == QNET_INPUT_FULL) {
        pixel_mm = fmax(v->nx * v->spacing[0], v->ny * v->spacing[1]) / config->size;
    } else if (config->box_explicit) {
        /* world = affine (i, j, k, 1), k in the middle of the slices: two equations for i and j */
        const double(*a)[4] = v->affine, k = p->z[0] + (p->slices - 1) / 2.0;
        const double x = config->box_center_mm[0] - a[0][2] * k - a[0][3];
        const double y = config->box_center_mm[1] - a[1][2] * k - a[1][3];
        const double det = a[0][0] * a[1][1] - a[0][1] * a[1][0];
        p->center[0] = (x * a[1][1] - y * a[0][1]) / det;
        p->center[1] = (y * a[0][0] - x * a[1][0]) / det;
    }
    p->side = qnet_input_prepared(config);
    for (int k = 0; k < 2; k++) {
        p->step[k] = pixel_mm / v->spacing[k];
        p->half[k] = p->side / 2.0 * p->step[k];
        /* At least one voxel centre inside; also refuses the NaN of a singular affine. */
        if (!(p->center[k] + p->half[k] > 0 && p->center[k] - p->half[k] < n[k] - 1))
            return qnet__fail(p->ctx, QNET_ERROR_DATA,
                              "%s: the box about voxel (%g, %g) lies outside of the %dx%d slices",
                              p->name[QNET__QSM], p->center[0], p->center[1], v->nx, v->ny);
    }
    return QNET_OK;
}

/* ---- do the values make sense? ---------------------------------------------------------------

   A network trains on anything. Maps in ppb, T2* in the place of R2*, swapped files or a sign that
   one vendor turns give a result that looks like one; so what no brain has is refused, by
   percentiles, which some bad voxels do not move. The limits leave room for 1.5 to 7 T and for
   heavy iron load; qnet_cohort_add gives them. */

/* Voxels low[]..high[] of the slices that lie within half[] of a centre, in voxels along x and y;
   low > high where the window lies beside the volume. */
static void qnet__window(const qnet_volume *v, const double center[2], const double half[2],
                         int low[2], int high[2])
{
    for (int k = 0; k < 2; k++) {
        low[k] = (int)fmax(floor(center[k] - half[k]), 0);
        high[k] = (int)fmin(ceil(center[k] + half[k]), (k ? v->ny : v->nx) - 1);
    }
}

/* No chosen slice of a map may be zero all over the voxels that the image shows, or hold NaN or
   infinity there, which would spread by interpolation; elsewhere they become 0. */
static qnet_status qnet__check_slices(const qnet__preparation *p)
{
    const qnet_volume *grid = p->map[QNET__QSM];
    int low[2], high[2];
    qnet__window(grid, p->center, p->half, low, high);
    for (int t = 0; t < p->slices; t++)
        for (int m = QNET__QSM; m <= QNET__T1W; m++) {
            int some = 0;
            for (int y = low[1]; y <= high[1]; y++)
                for (int x = low[0]; x <= high[0]; x++) {
                    const float v = p->map[m]->voxels[qnet__voxel_at(grid, x, y, p->z[t])];
                    if (!qnet__is_finite((double)v))
                        return qnet__fail(p->ctx, QNET_ERROR_DATA,
                                          "%s: voxel (%d, %d, %d) of the volume turned to RAS is "
                                          "%s, inside of the head", p->name[m], x, y, p->z[t],
                                          v != v ? "NaN" : "infinite");
                    some |= v != 0;
                }
            if (!some)
                return qnet__fail(p->ctx, QNET_ERROR_DATA,
                                  "%s: slice %d (from 0 at the bottom) is zero all over the image",
                                  p->name[m], p->z[t]);
        }
    for (int m = QNET__QSM; m <= QNET__T1W; m++) {
        float *voxels = p->map[m]->voxels;
        size_t bad = 0;
        for (size_t i = 0; i < qnet__voxel_count(grid->nx, grid->ny, grid->nz); i++) {
            if (qnet__is_finite((double)voxels[i])) continue;
            voxels[i] = 0;
            bad++;
        }
        qnet__warn_of_bad_voxels(p->ctx, p->name[m], bad,
                                 "inside of the head, where no image looks, become 0");
    }
    return QNET_OK;
}

/* The q-th percentile of those of v[n] that are not 0, which is outside the head, and for which
   where[i] >= least; work[n]. */
static float qnet__percentile_where(const float *v, const float *where, float least, size_t n,
                                    double q, float *work)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (v[i] != 0 && where[i] >= least) work[k++] = v[i];
    return qnet__percentile(work, k, q);
}

/* Why map m can't be what its name says, or NULL. v[map][n]: the voxels of all maps at the same
   places, v[QNET__MASK] 0 where there is no mask. limit: 1st, 50th and 99th percentile of those
   that are not 0. Ranges: see qnet_cohort_add. work[2 n]. */
static const char *qnet__unlikely(int m, float *const v[QNET__MAPS], size_t n, float limit[3],
                                  float *work)
{
    const float *qsm = v[QNET__QSM], *mask = v[QNET__MASK];
    double some = 0, negative = 0, in_mask = 0, empty = 0;
    for (size_t i = 0; i < n; i++) {
        some += v[m][i] != 0;
        negative += v[m][i] < 0;
        in_mask += mask[i] > 0;
        empty += mask[i] > 0 && v[m][i] == 0;
    }
    limit[0] = qnet__percentile_where(v[m], mask, 0, n, 1, work);
    limit[1] = qnet__percentile_where(v[m], mask, 0, n, 50, work);
    limit[2] = qnet__percentile_where(v[m], mask, 0, n, 99, work);
    if (some < 0.05 * (double)n) return "is 0 nearly everywhere";
    if (empty > 0.1 * in_mask) return "is 0, or was NaN, in more than a tenth of the mask";
    if (limit[0] == limit[2]) return "is constant";
    negative /= some;
    if (m == QNET__QSM) {
        float *size = work + n; /* magnitudes: the sign of some voxels may be anything */
        for (size_t i = 0; i < n; i++) size[i] = fabsf(qsm[i]);
        const double largest = (double)qnet__percentile_where(size, mask, 0, n, 99, work);
        if (largest > 3 && negative < 0.05)
            return limit[1] >= 5 && limit[1] <= 80
                       ? "looks like R2*: are QSM and R2* swapped?"
                       : "does not look like susceptibility, which is of both signs";
        if (largest > 3) return "looks like ppb: divide by 1000";
        if (largest < 0.005) return "is too small for ppm: a field, a phase, or not in ppm?";
        for (size_t i = 0; i < n; i++) size[i] = 1 - mask[i]; /* outside of the mask */
        if (in_mask > 0 && qnet__percentile_where(qsm, mask, 1, n, 50, work) <
                               qnet__percentile_where(qsm, size, 1, n, 50, work))
            return "is lower in the mask than around it: of the wrong sign, as GE's phase makes "
                   "it?";
    }
    if (m == QNET__R2STAR) {
        /* Iron is where QSM is highest, and raises R2* (lowers T2*) there. */
        const float highest = qnet__percentile_where(qsm, mask, 0, n, 98, work);
        const float iron = qnet__percentile_where(v[m], qsm, highest, n, 50, work);
        if (negative > 0.05) return "looks like susceptibility: are QSM and R2* swapped?";
        if (limit[2] < 1.5f) return "looks like T2* in seconds: R2* is 1/T2*";
        if (limit[1] > 25 && iron != 0 && iron < 0.9f * limit[1])
            return "looks like T2* in ms, low where there is iron: R2* is 1000/T2*";
        if (limit[1] < 5 || limit[1] > 80 || limit[2] > 1000)
            return "does not look like R2* in 1/s";
    }
    return NULL;
}

#define QNET__VALUES_MM 96 /* a box of this side lies within any head */

/* Refuses values that no brain has, in the chosen slices about a centre (voxels), and a map that is
   a copy of another. The maps' voxels in the window are gathered in v[map][n], so that the same
   index is the same place in all of them. */
static qnet_status qnet__check_values(const qnet__preparation *p, const double center[2])
{
    const qnet_volume *grid = p->map[QNET__QSM];
    const double half[2] = {QNET__VALUES_MM / 2.0 / grid->spacing[0],
                            QNET__VALUES_MM / 2.0 / grid->spacing[1]};
    const size_t whole = qnet__voxel_count(grid->nx, grid->ny, grid->nz) * sizeof(float);
    int low[2], high[2];
    qnet_status status = QNET_OK;
    float *v[QNET__MAPS];
    size_t at = 0;
    qnet__window(grid, center, half, low, high);
    if (low[0] > high[0] || low[1] > high[1]) return QNET_OK; /* an explicit box beside them */
    const size_t row = (size_t)(high[0] - low[0] + 1);
    const size_t n = row * (size_t)(high[1] - low[1] + 1) * (size_t)p->slices;
    const size_t bytes = (QNET__MAPS + 2) * n * sizeof(float);
    float *block = (float *)qnet__alloc(p->ctx, bytes);
    if (block == NULL) return qnet__no_memory(p->ctx, bytes, "a map's values");
    memset(block, 0, bytes);
    for (int m = 0; m < QNET__MAPS; m++) v[m] = block + (size_t)m * n;
    for (int t = 0; t < p->slices; t++)
        for (int y = low[1]; y <= high[1]; y++, at += row)
            for (int m = 0; m < QNET__MAPS; m++)
                if (p->map[m])
                    memcpy(v[m] + at, p->map[m]->voxels + qnet__voxel_at(grid, low[0], y, p->z[t]),
                           row * sizeof *block);
    for (int m = QNET__QSM; m <= QNET__T1W && status == QNET_OK; m++) {
        float limit[3];
        const char *why = qnet__unlikely(m, v, n, limit, block + QNET__MAPS * n);
        for (int k = 0; why == NULL && k < m; k++)
            if (memcmp(p->map[m]->voxels, p->map[k]->voxels, whole) == 0)
                why = "is a copy of another map of this scan";
        if (why != NULL)
            status = qnet__unless(p->ctx, p->config->any_values, "any_values", "%.400s: %s (1 %%, "
                                  "half and 99 %% of its values are below %.3g, %.3g and %.3g)",
                                  p->name[m], why, (double)limit[0], (double)limit[1],
                                  (double)limit[2]);
    }
    qnet__free(p->ctx, block, bytes);
    return status;
}

/* ---- images ---------------------------------------------------------------------------------- */

/* Samples per pixel along an axis: one up to 2 voxels a pixel (bilinear then skips none but at the
   end of that range), above that one per voxel, whose mean is taken. */
static int qnet__samples(double step)
{
    return step <= 2 ? 1 : qnet__min_int((int)ceil(step), 64);
}

/* image[side][side][3] of slice z, all three maps: bilinear between voxel centres, zero outside of
   the volume. A pixel larger than two voxels is the mean of samples on a grid within it, or fine
   detail would be aliased. */
static void qnet__resample_slice(const qnet__preparation *p, int z, float *image)
{
    const qnet_volume *grid = p->map[QNET__QSM];
    const int many_x = qnet__samples(p->step[0]), many_y = qnet__samples(p->step[1]);
    const float share = 1.0f / (float)(many_x * many_y);
    const double half = p->side / 2.0;
    int x0, x1, y0, y1;
    float fx, fy;
    for (int pixel = 0; pixel < p->side * p->side; pixel++, image += 3) {
        const int row = pixel / p->side, column = pixel % p->side;
        float sum[3] = {0, 0, 0};
        for (int i = 0; i < many_x * many_y; i++) {
            const double right = column + (i % many_x + 0.5) / many_x - half; /* of the centre, */
            const double below = row + (i / many_x + 0.5) / many_y - half;    /* in pixels */
            if (!qnet__neighbours(p->center[0] - right * p->step[0], grid->nx, &x0, &x1, &fx) ||
                !qnet__neighbours(p->center[1] - below * p->step[1], grid->ny, &y0, &y1, &fy))
                continue;
            for (int m = 0; m < 3; m++) {
                const float *a = p->map[m]->voxels + qnet__voxel_at(grid, x0, y0, z);
                const float *b = p->map[m]->voxels + qnet__voxel_at(grid, x0, y1, z);
                sum[m] += qnet__bilinear(a, b, (size_t)(x1 - x0), fx, fy);
            }
        }
        for (int m = 0; m < 3; m++) image[m] = many_x * many_y > 1 ? sum[m] * share : sum[m];
    }
}

/* Everything but the images: checks the maps, chooses the slices, places the frame, and fills
   p->cut. The order counts: what is refused first has the plainest sentence, and values are looked
   at where the frame is. */
static qnet_status qnet__cut_plan(qnet__preparation *p)
{
    const int needed = qnet__maps_needed(p->config);
    const qnet_volume *qsm = p->map[QNET__QSM], *mask;
    qnet_cut *cut = &p->cut;
    double head[2], mass[2] = {0, 0};
    for (int m = 0; m < needed; m++) {
        if (p->map[m] == NULL)
            return qnet__fail(p->ctx, QNET_ERROR_ARGUMENT, "%s: missing%s", p->name[m],
                              m == QNET__MASK ? ", and no slices or box are given" : "");
        QNET__TRY(qnet__to_axial(p->ctx, p->config, p->map[m], p->name[m]));
        QNET__TRY(qnet__check_grid(p->ctx, qsm, p->name[QNET__QSM], p->map[m], p->name[m]));
        if (m != QNET__MASK)
            qnet__warn_of_bad_voxels(p->ctx, p->name[m], qnet__clear_outside(p->map[m]),
                                     "outside of the head become 0");
    }
    if (needed < QNET__MAPS) p->map[QNET__MASK] = NULL;
    mask = p->map[QNET__MASK];
    if (mask) {
        QNET__TRY(qnet__mask_binary(p->ctx, p->map[QNET__MASK], p->name[QNET__MASK]));
        QNET__TRY(qnet__mask_clean(p->ctx, p->map[QNET__MASK], p->name[QNET__MASK], cut));
        (void)qnet__center_of_mass(mask, NULL, mask->nz, mass);
        const double ml = cut->mask_voxels * qsm->spacing[0] * qsm->spacing[1] * qsm->spacing[2] /
                          1000;
        if (ml > QNET__MASK_ML)
            QNET__TRY(qnet__unless(p->ctx, p->config->any_values, "any_values",
                                   "%.400s: %.0f ml, more than the %d of basal ganglia and "
                                   "thalami: a mask of the brain?", p->name[QNET__MASK], ml,
                                   QNET__MASK_ML));
    }
    QNET__TRY(qnet__choose_slices(p));
    QNET__TRY(qnet__frame_plan(p, mass));
    QNET__TRY(qnet__check_slices(p));
    QNET__TRY(qnet__check_values(p, mask ? mass : p->center));
    cut->slice[0] = p->z[0];
    cut->slice[1] = p->z[p->slices - 1];
    const double middle = (cut->slice[0] + cut->slice[1]) / 2.0;
    for (int k = 0; k < 3; k++)
        cut->center_mm[k] = qsm->affine[k][0] * p->center[0] + qsm->affine[k][1] * p->center[1] +
                            qsm->affine[k][2] * middle + qsm->affine[k][3];
    cut->side_mm = p->side * p->step[0] * qsm->spacing[0];
    for (int k = 0; k < 2; k++) {
        cut->center[k] = p->center[k];
        cut->offset_mm[k] = mask && qnet__center_of_mass(qsm, p->z, p->slices, head)
                                ? (mass[k] - head[k]) * qsm->spacing[k] : (double)NAN;
    }
    return QNET_OK;
}

/* ---- cohorts ---------------------------------------------------------------------------------

   One block for the list, which does not grow, and one for the images of each scan, as large as its
   slices need. hash is of the pixels: the identity of what a network saw. source_hash is of the QSM
   volume: it stays whatever is cut from it, so that a person is recognised under another name. */

#define QNET__MAX_SCANS 10000 /* finding duplicates compares all pairs of names */

QNET_API qnet_status qnet_cohort_create(qnet_context *ctx, const qnet_input_config *config,
                                        int scans, qnet_cohort **out)
{
    QNET__TRY(qnet__input_check(ctx, config));
    if (out == NULL) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "cohort: no place for the result");
    if (scans < 1 || scans > QNET__MAX_SCANS)
        return qnet__fail(ctx, QNET_ERROR_LIMIT,
                          "cohort: room for %d scans asked for, expected 1..%d", scans,
                          QNET__MAX_SCANS);
    const int side = qnet_input_prepared(config);
    const size_t bytes = sizeof(qnet_cohort) + (size_t)scans * sizeof(qnet_scan);
    qnet_cohort *cohort = (qnet_cohort *)qnet__alloc(ctx, bytes);
    if (cohort == NULL) return qnet__no_memory(ctx, bytes, "a cohort");
    const qnet_cohort empty = {ctx, *config, 0, scans, side, side,
                               (qnet_scan *)(void *)(cohort + 1)};
    *cohort = empty;
    *out = cohort;
    return QNET_OK;
}

/* Bytes of a scan's block: pixels and slice_z. SIZE_MAX, which no allocation has: too many. */
static size_t qnet__scan_bytes(const qnet_cohort *cohort, int slices)
{
    const double image = (double)cohort->height * cohort->width * 3 * sizeof(float);
    const double bytes = slices * (image + sizeof(int));
    return bytes < (double)(SIZE_MAX / 2) ? (size_t)bytes : SIZE_MAX;
}

QNET_API void qnet_cohort_destroy(qnet_cohort *cohort)
{
    if (cohort == NULL) return;
    for (int s = 0; s < cohort->scans_count; s++)
        qnet__free(cohort->ctx, (void *)(uintptr_t)cohort->scans[s].pixels,
                   qnet__scan_bytes(cohort, cohort->scans[s].slices));
    qnet__free(cohort->ctx, cohort,
               sizeof *cohort + (size_t)cohort->capacity * sizeof *cohort->scans);
}

QNET_API const float *qnet_scan_slice(const qnet_cohort *cohort, int scan, int t)
{
    if (scan < 0 || scan >= cohort->scans_count || t < 0 || t >= cohort->scans[scan].slices)
        return NULL;
    return cohort->scans[scan].pixels +
           (size_t)t * (size_t)cohort->height * (size_t)cohort->width * 3;
}

/* Hash of voxels[nz][ny][nx] as they would lie in a file: the same on every machine. */
static uint64_t qnet__volume_hash(const qnet_volume *v)
{
    qnet_safetensor t;
    memset(&t, 0, sizeof t);
    t.dtype = QNET_F32;
    t.data = v->voxels;
    t.bytes = qnet__voxel_count(v->nx, v->ny, v->nz) * sizeof(float);
    return qnet__hash_numbers(QNET_HASH_START, &t);
}

/* A subject has one label, and no two subjects have the same QSM map: a network would be trained
   and tested on one brain. */
static qnet_status qnet__cohort_check(const qnet_cohort *cohort, const qnet_scan *scan)
{
    for (int s = 0; s < cohort->scans_count; s++) {
        const qnet_scan *other = &cohort->scans[s];
        const int same = strcmp(other->subject, scan->subject) == 0;
        if (same && other->label != scan->label)
            return qnet__fail(cohort->ctx, QNET_ERROR_DATA,
                              "cohort: %s is HH in one scan, HC in another", scan->subject);
        if (!same && other->source_hash == scan->source_hash)
            QNET__TRY(qnet__unless(cohort->ctx, cohort->config.any_values, "any_values",
                                   "%s and %s have the same QSM map", other->subject,
                                   scan->subject));
    }
    return QNET_OK;
}

/* Appends a scan; name[] are those of its maps in sentences. Checks, then memory, then images, so
   that the cohort is as before on any failure. The scan's block holds pixels[slices][height][width]
   [3] and slice_z[slices]. */
static qnet_status qnet__cohort_append(qnet_cohort *cohort, const qnet_scan_maps *maps,
                                       const char *const name[QNET__MAPS])
{
    qnet_context *ctx = cohort->ctx;
    qnet_volume *const map[QNET__MAPS] = {maps->qsm, maps->r2star, maps->t1w, maps->mask};
    const size_t image = (size_t)cohort->height * (size_t)cohort->width * 3; /* numbers */
    qnet__preparation p;
    qnet_scan scan;
    memset(&scan, 0, sizeof scan);
    memset(&p, 0, sizeof p);
    if (maps->subject == NULL || maps->subject[0] == '\0')
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "cohort: a scan needs a subject's name");
    if (strlen(maps->subject) >= sizeof scan.subject)
        return qnet__fail(ctx, QNET_ERROR_LIMIT,
                          "cohort: subject \"%.20s...\" has a name above %d bytes", maps->subject,
                          (int)sizeof scan.subject - 1);
    if (maps->label != QNET_HC && maps->label != QNET_HH)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "cohort: %s has label %d, expected HC (0) or HH (1)", maps->subject,
                          (int)maps->label);
    if (cohort->scans_count >= cohort->capacity)
        return qnet__fail(ctx, QNET_ERROR_LIMIT, "%s: the cohort is full with %d scans",
                          maps->subject, cohort->capacity);
    strcpy(scan.subject, maps->subject);
    scan.label = maps->label;
    scan.age = maps->age;
    scan.sex = maps->sex;
    p.ctx = ctx;
    p.config = &cohort->config;
    for (int m = 0; m < QNET__MAPS; m++) p.map[m] = map[m], p.name[m] = name[m];
    QNET__TRY(qnet__cut_plan(&p));
    scan.source_hash = qnet__volume_hash(p.map[QNET__QSM]);
    QNET__TRY(qnet__cohort_check(cohort, &scan));
    const size_t bytes = qnet__scan_bytes(cohort, p.slices);
    float *pixels = (float *)qnet__alloc(ctx, bytes);
    if (pixels == NULL) return qnet__no_memory(ctx, bytes, "a scan's slices");
    int *slice_z = (int *)(void *)(pixels + (size_t)p.slices * image);
    memcpy(slice_z, p.z, (size_t)p.slices * sizeof *slice_z);
    for (int t = 0; t < p.slices; t++)
        qnet__resample_slice(&p, p.z[t], pixels + (size_t)t * image);
    scan.slices = p.slices;
    scan.slice_z = slice_z;
    scan.pixels = pixels;
    scan.hash = qnet_hash(QNET_HASH_START, pixels, (size_t)p.slices * image * sizeof *pixels);
    scan.cut = p.cut;
    cohort->scans[cohort->scans_count++] = scan;
    if (cohort->config.viewer) {
        qnet_scan_maps seen = *maps;
        seen.mask = p.map[QNET__MASK];
        cohort->config.viewer->show(cohort->config.viewer->user, &scan, &seen);
    }
    return QNET_OK;
}

static const char *const qnet__map_names[QNET__MAPS] = {"QSM map", "R2* map", "T1W image",
                                                        "mask of the basal ganglia"};

QNET_API qnet_status qnet_cohort_add(qnet_cohort *cohort, const qnet_scan_maps *maps)
{
    if (cohort == NULL) return QNET_ERROR_ARGUMENT;
    if (maps == NULL) return qnet__fail(cohort->ctx, QNET_ERROR_ARGUMENT, "cohort: maps are NULL");
    return qnet__cohort_append(cohort, maps, qnet__map_names);
}

#ifndef QNET_NO_STDIO
#define QNET__OUTLIER_SCANS 10 /* below that many, a median of distances says little */

/* Measure k of a scan: where the mask lies in the head, along x (k = 0) and y (1), mm, or the
   number of slices (2). NaN: no mask. */
static double qnet__cut_measure(const qnet_scan *scan, int k)
{
    return k < 2 ? scan->cut.offset_mm[k] : scan->slices;
}

/* Marks and warns of scans whose mask lies elsewhere in the head, or has other numbers of slices,
   than in most of the cohort: further from the median than 5 standard deviations and than what
   persons and outlines differ by. A standard deviation is estimated by 1.4826 times the median of
   the distances to the median, which outliers do not move (exact for a normal distribution). */
static qnet_status qnet__cohort_outliers(qnet_cohort *cohort)
{
    static const double least[3] = {10, 10, 5}; /* mm, mm, slices */
    static const char *const what[3] = {"mm to the right from the head's centre to the mask's",
                                        "mm to the front from the head's centre to the mask's",
                                        "slices with the mask"};
    const int n = cohort->scans_count;
    const size_t bytes = (size_t)n * sizeof(float);
    if (n < QNET__OUTLIER_SCANS) return QNET_OK;
    float *work = (float *)qnet__alloc(cohort->ctx, bytes);
    if (work == NULL) return qnet__no_memory(cohort->ctx, bytes, "the scans' places");
    for (int k = 0; k < 3; k++) {
        double median = 0, limit = 0;
        size_t known = 0;
        for (int pass = 0; pass < 2; pass++) { /* the median; the median of the distances to it */
            known = 0;
            for (int s = 0; s < n; s++) {
                const double value = qnet__cut_measure(&cohort->scans[s], k);
                if (value == value) work[known++] = (float)(pass ? fabs(value - median) : value);
            }
            if (pass == 0) median = (double)qnet__percentile(work, known, 50);
            else limit = fmax(5 * 1.4826 * (double)qnet__percentile(work, known, 50), least[k]);
        }
        for (int s = 0; s < n && known >= QNET__OUTLIER_SCANS; s++) {
            qnet_scan *scan = &cohort->scans[s];
            const double value = qnet__cut_measure(scan, k);
            if (!(fabs(value - median) > limit)) continue;
            scan->cut.outlier |= k < 2 ? 1 : 2;
            qnet__log(cohort->ctx, QNET_LOG_WARNING,
                      "%s: %.0f %s, the cohort's median is %.0f: look at the mask", scan->subject,
                      value, what[k], median);
        }
    }
    qnet__free(cohort->ctx, work, bytes);
    return QNET_OK;
}

/* Reads one scan's volumes and appends them. The volumes are freed in any case: memory holds those
   of one scan at a time. */
static qnet_status qnet__cohort_load_one(qnet_cohort *cohort, const qnet_scan_files *files)
{
    const char *const path[QNET__MAPS] = {files->qsm, files->r2star, files->t1w, files->mask};
    const int needed = qnet__maps_needed(&cohort->config);
    qnet_volume *v[QNET__MAPS] = {NULL, NULL, NULL, NULL};
    qnet_status status = QNET_OK;
    for (int m = 0; m < needed && status == QNET_OK; m++) {
        if (path[m] == NULL)
            status = qnet__fail(cohort->ctx, QNET_ERROR_NOT_FOUND, "%.63s: no file of the %s%s",
                                files->subject ? files->subject : "", qnet__map_names[m],
                                m == QNET__MASK ? ", and no slices or box are given" : "");
        else status = qnet_nifti_load(cohort->ctx, path[m], &v[m]);
    }
    const qnet_scan_maps maps = {files->subject, files->label, files->age, files->sex,
                                 v[QNET__QSM], v[QNET__R2STAR], v[QNET__T1W], v[QNET__MASK]};
    if (status == QNET_OK) status = qnet__cohort_append(cohort, &maps, path);
    for (int m = 0; m < QNET__MAPS; m++) qnet_volume_destroy(v[m]);
    return status;
}

/* The cohort of files[count], scan by scan; after each the progress hook may stop it. */
QNET_API qnet_status qnet_cohort_load(qnet_context *ctx, const qnet_input_config *config,
                                      const qnet_scan_files *files, int count, qnet_cohort **out)
{
    qnet_cohort *cohort = NULL;
    qnet_status status = QNET_OK;
    if (files == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "load cohort: files or result are NULL");
    QNET__TRY(qnet_cohort_create(ctx, config, count, &cohort));
    const double start = qnet__seconds(ctx);
    for (int i = 0; i < count && status == QNET_OK; i++) {
        status = qnet__cohort_load_one(cohort, &files[i]);
        const double seconds = qnet__seconds(ctx) - start, done = i + 1;
        const qnet_progress_info info = {
            "read cohort", files[i].subject, 0, 0, (size_t)i + 1, (size_t)count, (double)NAN, 0,
            seconds > 0 ? done / seconds : 0, seconds * (count - done) / done, done / count};
        if (status == QNET_OK && qnet__report(ctx, &info))
            status = qnet__fail(ctx, QNET_STOPPED, "reading the cohort was stopped after %s",
                                files[i].subject);
    }
    if (status == QNET_OK) status = qnet__cohort_outliers(cohort);
    if (status == QNET_OK) *out = cohort;
    else qnet_cohort_destroy(cohort);
    return status;
}
#endif

/* ---- folds -----------------------------------------------------------------------------------

   Cross-validation is over individuals: all scans of a subject share a fold, or a network would be
   tested on a brain that it has seen (paper, "Training Procedure"). */

/* The first scan of scan s's subject. */
static int qnet__first_scan(const qnet_cohort *cohort, int s)
{
    int first = 0;
    while (strcmp(cohort->scans[first].subject, cohort->scans[s].subject) != 0) first++;
    return first;
}

/* Each class of subjects is shuffled, HC first, and dealt out in turn; HH goes on where HC stopped.
   So the folds differ by at most one subject in all, and by at most one in each class. The seed
   alone decides: the same subjects in the same order give the same folds for both inputs and both
   stages. */
QNET_API qnet_status qnet_folds_create(qnet_context *ctx, const qnet_cohort *cohort, int folds,
                                       uint64_t seed, int *fold)
{
    static const char *const name[2] = {"HC", "HH"};
    int count[2] = {0, 0}, next = 0;
    if (cohort == NULL || fold == NULL || folds < 2)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "folds: %d of a cohort, expected 2 or more",
                          folds);
    const int scans = cohort->scans_count;
    for (int s = 0; s < scans; s++) {
        const int first = qnet__first_scan(cohort, s), label = cohort->scans[s].label == QNET_HH;
        if (cohort->scans[s].label != cohort->scans[first].label)
            return qnet__fail(ctx, QNET_ERROR_DATA, "folds: subject %s has scans of both labels",
                              cohort->scans[s].subject);
        count[label] += first == s;
    }
    for (int label = 0; label < 2; label++)
        if (folds > count[label])
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "folds: %d asked for, but there are only %d %s subjects", folds,
                              count[label], name[label]);
    const size_t bytes = (size_t)scans * sizeof(int);
    int *order = (int *)qnet__alloc(ctx, bytes); /* the first scans of the subjects of a class */
    if (order == NULL) return qnet__no_memory(ctx, bytes, "folds");
    for (int label = 0; label < 2; label++) {
        qnet_rng rng = qnet_rng_at(seed, QNET_RANDOM_FOLDS, (uint32_t)label, 0);
        size_t n = 0;
        for (int s = 0; s < scans; s++)
            if ((cohort->scans[s].label == QNET_HH) == label && qnet__first_scan(cohort, s) == s)
                order[n++] = s;
        qnet_rng_shuffle(&rng, order, n);
        for (size_t i = 0; i < n; i++) fold[order[i]] = next++ % folds;
    }
    for (int s = 0; s < scans; s++) fold[s] = fold[qnet__first_scan(cohort, s)];
    qnet__free(ctx, order, bytes);
    return QNET_OK;
}

/* The opposite side of the leak check: whatever made the folds, no subject may be in two. */
QNET_API qnet_status qnet_folds_check(qnet_context *ctx, const qnet_cohort *cohort, int folds,
                                      const int *fold)
{
    if (cohort == NULL || fold == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "folds: cohort or folds are missing");
    for (int i = 0; i < cohort->scans_count; i++) {
        if (fold[i] < 0 || fold[i] >= folds)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "folds: scan %d of %s is in fold %d, expected 0..%d", i,
                              cohort->scans[i].subject, fold[i], folds - 1);
        for (int j = 0; j < i; j++)
            if (fold[i] != fold[j] &&
                strcmp(cohort->scans[i].subject, cohort->scans[j].subject) == 0)
                return qnet__fail(ctx, QNET_ERROR_LEAK, "folds: subject %s is in folds %d and %d",
                                  cohort->scans[i].subject, fold[j], fold[i]);
    }
    return QNET_OK;
}

/* ============================================================================================
   >>train
   Training (paper, "Training Procedure").
     stage 1     ResNet18 on single slices: x[n][size][size][3] -> logits[n][2]
     embedding   the frozen ResNet18 on whole scans: -> features[scans][max_slices][512]
     stage 2     the scan-level model on those features: -> logits[n][steps][2] and [n][2]
   Both stages are one loop, qnet_training_epoch, over items: slices in stage 1, scans in stage 2.

     order   = shuffle(0..count-1), seeded by (seed, epoch)
     batch   -> loss, gradients  -> one step of Adam            for each batch of an epoch
     average += (weights - average) / (n + 1)                   late in a run with SWA

   An epoch depends on (seed, epoch) and on what a checkpoint holds, on nothing else, so a run that
   was stopped goes on with the same bits; each image is augmented from its own random stream, so
   that the number of threads does not matter either.
   Relies on >>context >>random >>file >>tensor >>text >>dense >>resnet >>scan >>optim >>weights
   >>image >>cohort.
   ============================================================================================ */

#if QNET__HAS_TRAINING
/* ---- settings of both stages, as tables ------------------------------------------------------ */

/* beta < 1 and eps > 0 keep Adam's divisions from 0. */
#define QNET__ADAM_SETTING(config, name, low, high) \
    { "adam." #name, 'd', offsetof(config, adam) + offsetof(qnet_adam_config, name), low, high }
#define QNET__ADAM_SETTINGS(config)                         \
    QNET__ADAM_SETTING(config, beta1, 0, 0.999999999999),   \
    QNET__ADAM_SETTING(config, beta2, 0, 0.999999999999),   \
    QNET__ADAM_SETTING(config, eps, DBL_MIN, DBL_MAX)

static const qnet__setting qnet__stage1_settings[] = {
    QNET__SETTING(qnet_stage1_config, 'i', epochs, 1, INT_MAX),
    QNET__SETTING(qnet_stage1_config, 'i', batch, 1, INT_MAX),
    QNET__SETTING(qnet_stage1_config, 'd', rate_first, 0, DBL_MAX),
    QNET__SETTING(qnet_stage1_config, 'd', rate_last, 0, DBL_MAX),
    QNET__SETTING(qnet_stage1_config, 'd', swa_share, 0, 1),
    QNET__SETTING(qnet_stage1_config, 'd', swa_rate, 0, DBL_MAX),
    QNET__ADAM_SETTINGS(qnet_stage1_config),
    QNET__SETTINGS_END
};

static const qnet__setting qnet__stage2_settings[] = {
    QNET__SETTING(qnet_stage2_config, 'i', epochs, 1, INT_MAX),
    QNET__SETTING(qnet_stage2_config, 'i', batch, 1, INT_MAX),
    QNET__SETTING(qnet_stage2_config, 'd', rate, 0, DBL_MAX),
    QNET__SETTING(qnet_stage2_config, 'i', hidden, 1, INT_MAX),
    QNET__ADAM_SETTINGS(qnet_stage2_config),
    QNET__SETTINGS_END
};

/* How far a run is; all the rest follows from the epoch. */
static const qnet__setting qnet__training_settings[] = {
    QNET__SETTING(qnet_training, 'i', epoch, 0, INT_MAX),
    QNET__SETTING(qnet_training, 'i', finished, 0, 1),
    QNET__SETTINGS_END
};

/* ---- checkpoints: arrays, and lines of text as metadata, in a safetensors file --------------- */

/* count numbers of dtype F32 or F64 at data. */
typedef struct qnet__slab {
    const char *name;
    qnet_dtype dtype;
    void *data;
    size_t count;
} qnet__slab;

#define QNET__SLABS 5
#define QNET__REAL_DTYPE (QNET__REAL_IS_DOUBLE ? QNET_F64 : QNET_F32)
#define QNET__EPOCH_NUMBERS (sizeof(qnet_epoch) / sizeof(double)) /* a history is an array of F64 */

/* text is cut up: it becomes the file's metadata; slabs become its tensors, one-dimensional. */
static qnet_status qnet__checkpoint_write(qnet_context *ctx, qnet_sink *sink, char *text,
                                          const qnet__slab *slabs, int count)
{
    const char *pairs[2 * QNET__METADATA_PAIRS];
    const int lines = qnet__metadata_pairs(text, pairs);
    qnet_safetensor tensors[QNET__SLABS];
    memset(tensors, 0, sizeof(tensors));
    for (int i = 0; i < count; i++) {
        snprintf(tensors[i].name, sizeof(tensors[i].name), "%s", slabs[i].name);
        tensors[i].dtype = slabs[i].dtype;
        tensors[i].ndim = 1;
        tensors[i].shape[0] = slabs[i].count;
        tensors[i].data = slabs[i].data;
    }
    return qnet_safetensors_write(ctx, sink, tensors, count, pairs, lines);
}

/* QNET_ERROR_MISMATCH for the first line of text, which is cut up, that the file has otherwise or
   not at all; keys that begin with `skip` are not compared (NULL: all are). */
static qnet_status qnet__checkpoint_compare(qnet_context *ctx, const qnet_safetensors *file,
                                            const char *name, char *text, const char *skip)
{
    const char *pairs[2 * QNET__METADATA_PAIRS];
    const int lines = qnet__metadata_pairs(text, pairs);
    for (int i = 0; i < lines; i++) {
        const char *key = pairs[2 * i], *expected = pairs[2 * i + 1];
        const char *found = qnet_safetensors_metadata(file, key);
        if (skip != NULL && strncmp(key, skip, strlen(skip)) == 0) continue;
        if (found == NULL || strcmp(found, expected) != 0)
            return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                              "%s: checkpoint of another run: %s: expected %s, found %.64s", name,
                              key, expected, found ? found : "nothing");
    }
    return QNET_OK;
}

/* Copies the file's arrays into the slabs, after all of them have been checked. */
static qnet_status qnet__checkpoint_copy(qnet_context *ctx, const qnet_safetensors *file,
                                         const char *name, const qnet__slab *slabs, int count)
{
    for (int i = 0; i < count; i++) {
        const qnet__slab *s = &slabs[i];
        const qnet_safetensor *t = qnet_safetensors_find(file, s->name);
        if (t == NULL || t->dtype != s->dtype || t->ndim != 1 || t->count != s->count)
            return qnet__fail(ctx, QNET_ERROR_FORMAT,
                              "%s: damaged checkpoint: '%s': expected %.0f numbers of type %s, "
                              "found %.0f of type %s", name, s->name, (double)s->count,
                              qnet_dtype_name(s->dtype), t ? (double)t->count : 0,
                              t ? qnet_dtype_name(t->dtype) : "none");
        for (size_t k = 0; k < s->count; k++)
            if (!qnet__is_finite(qnet__element(t->dtype, t->data, k)))
                return qnet__fail(ctx, QNET_ERROR_FORMAT,
                                  "%s: damaged checkpoint: '%s': number %.0f is not finite", name,
                                  s->name, (double)k);
    }
    for (int i = 0; i < count; i++) {
        const qnet_safetensor *t = qnet_safetensors_find(file, slabs[i].name);
        memcpy(slabs[i].data, t->data, t->bytes);
    }
    return QNET_OK;
}

#endif

/* ---- a loop over items in batches, with progress --------------------------------------------- */

/* Batches of a loop: as few as hold `count` items with at most `batch` in each. */
static size_t qnet__batches(size_t count, int batch)
{
    return (count + (size_t)batch - 1) / (size_t)batch;
}

/* First item of batch k of n: the sizes of two batches differ by one at most. */
static size_t qnet__batch_start(size_t count, size_t n, size_t k)
{
    return count / n * k + qnet__min_size(k, count % n);
}

/* An epoch, or a task without epochs (epochs = 0). */
typedef struct qnet__loop {
    qnet_context *ctx;
    const char *task;
    int epoch, epochs;   /* from 1 */
    size_t count, steps; /* items and batches */
    double start;        /* seconds */
    size_t step;         /* the current batch, from 1, which holds */
    size_t first, n;     /* items first .. first + n - 1 */
} qnet__loop;

/* The clock is read here: call it where the work begins. */
static qnet__loop qnet__loop_begin(qnet_context *ctx, const char *task, int epoch, int epochs,
                                   size_t count, size_t steps)
{
    const qnet__loop p = {ctx, task, epoch, epochs, count, steps, qnet__seconds(ctx), 0, 0, 0};
    return p;
}

/* To the next batch; 0 after the last one. */
static int qnet__loop_next(qnet__loop *p)
{
    if (p->step == p->steps) return 0;
    p->first = qnet__batch_start(p->count, p->steps, p->step++);
    p->n = qnet__batch_start(p->count, p->steps, p->step) - p->first;
    return 1;
}

#define QNET__PLACE 128 /* bytes of text */

/* "stage 1, epoch 3 of 100, step 2 of 17" into text: where an error happened. */
static const char *qnet__loop_place(const qnet__loop *p, char text[QNET__PLACE])
{
    char epoch[48] = "";
    if (p->epochs > 0)
        snprintf(epoch, sizeof(epoch), ", epoch %d of %d", p->epoch, p->epochs);
    snprintf(text, QNET__PLACE, "%s%s, step %.0f of %.0f", p->task, epoch, (double)p->step,
             (double)p->steps);
    return text;
}

/* Reports that the current batch is done. The fraction is that of all epochs of this run; the
   experiment wraps the hook and replaces it by its own. */
static qnet_status qnet__loop_report(const qnet__loop *p, double loss, double learning_rate)
{
    const double elapsed = qnet__seconds(p->ctx) - p->start, done = (double)(p->first + p->n);
    const double count = (double)p->count, epochs = p->epochs > 0 ? p->epochs : 1;
    const double left = count * (epochs - (p->epoch > 0 ? p->epoch - 1 : 0)) - done;
    char place[QNET__PLACE];
    qnet_progress_info info;
    info.task = p->task;
    info.where = "";
    info.epoch = p->epoch;
    info.epochs = p->epochs;
    info.step = p->step;
    info.steps = p->steps;
    info.loss = loss;
    info.learning_rate = learning_rate;
    info.items_per_second = elapsed > 0 ? done / elapsed : 0;
    info.seconds_left = info.items_per_second > 0 ? left / info.items_per_second : -1;
    info.fraction = 1 - left / (count * epochs);
    if (qnet__report(p->ctx, &info) == 0) return QNET_OK;
    return qnet__fail(p->ctx, QNET_STOPPED, "%s: stopped by the caller",
                      qnet__loop_place(p, place));
}

/* ---- images: slices of scans, prepared in parallel ------------------------------------------- */

typedef struct qnet__image {
    int scan, slice, label;
    uint64_t index; /* in the whole cohort, scan by scan: names the image's random stream */
    size_t place; /* in an array [scans of the list][max_slices] */
    int ready;    /* seen once: its pixels are finite, and these are the limits of its stretch, */
    float low[3], high[3]; /* which no record changes */
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
    uint64_t hash;               /* of pixels, labels, order and random streams of the images */
    uint64_t seed;
    /* Of the current batch: */
    const int *order;            /* order[first + i] is image i of the batch; NULL: first + i */
    size_t first;
    int epoch;                   /* of the augmentation; -1: test time */
} qnet__loader;

/* Checks the scans and counts their images. */
static qnet_status qnet__loader_measure(qnet_context *ctx, qnet__loader *l, const char *task,
                                        const qnet_cohort *cohort, const int *scans, int count,
                                        int height, int width)
{
    memset(l, 0, sizeof(*l));
    l->cohort = cohort;
    l->height = height;
    l->width = width;
    if (height > cohort->height || width > cohort->width)
        return qnet__fail(ctx, QNET_ERROR_SHAPE,
                          "%s: the network's input is %d x %d, the prepared images %d x %d", task,
                          height, width, cohort->height, cohort->width);
    for (int i = 0; i < count; i++) {
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
static void qnet__loader_plan(qnet_context *ctx, qnet__loader *l, qnet__arena *a, size_t batch)
{
    const size_t pixels = (size_t)l->height * (size_t)l->width;
    const size_t scratch = qnet_augment_scratch(l->cohort->height, l->cohort->width);
    /* Rounded up, so that no two workers write to one cache line. */
    l->scratch_bytes = (scratch + QNET__ALIGN - 1) / QNET__ALIGN * QNET__ALIGN;
    l->images = (qnet__image *)qnet__take(a, l->count, sizeof(qnet__image));
    l->batch = (qnet_real *)qnet__take(a, batch * pixels, 3 * sizeof(qnet_real));
    l->status = (qnet_status *)qnet__take(a, batch, sizeof(qnet_status));
    l->scratch = (unsigned char *)qnet__take(a, qnet__workers(ctx), l->scratch_bytes);
}

/* Lists the images of scans[count] in order. */
static void qnet__loader_fill(qnet__loader *l, const int *scans, int count)
{
    size_t n = 0;
    l->hash = QNET_HASH_START;
    for (int i = 0; i < count; i++) {
        const qnet_scan *scan = &l->cohort->scans[scans[i]];
        uint64_t index = 0, bits[3];
        for (int k = 0; k < scans[i]; k++) index += (uint64_t)l->cohort->scans[k].slices;
        bits[0] = scan->hash;
        bits[1] = index;
        bits[2] = (uint64_t)scan->label;
        l->hash = qnet_hash(l->hash, bits, sizeof(bits));
        for (int slice = 0; slice < scan->slices; slice++) {
            qnet__image *image = &l->images[n++];
            memset(image, 0, sizeof(*image));
            image->scan = scans[i];
            image->slice = slice;
            image->index = index++;
            image->place = (size_t)i * (size_t)l->cohort->config.max_slices + (size_t)slice;
            image->label = (int)scan->label;
        }
    }
}

/* Image i of the current batch. */
static qnet__image *qnet__loader_image(const qnet__loader *l, size_t i)
{
    return &l->images[l->order ? (size_t)l->order[l->first + i] : l->first + i];
}

/* Image i of the batch into its place: the record is drawn from the image's own stream. An image is
   once in an epoch, so that no two workers write to it. */
static qnet_status qnet__loader_apply(qnet_context *ctx, const qnet__loader *l, size_t i,
                                      size_t worker)
{
    qnet__image *image = qnet__loader_image(l, i);
    const float *pixels = qnet_scan_slice(l->cohort, image->scan, image->slice);
    const int in_h = l->cohort->height, in_w = l->cohort->width;
    const size_t count = (size_t)in_h * (size_t)in_w;
    qnet_real *to = l->batch + i * (size_t)l->height * (size_t)l->width * 3;
    void *scratch = l->scratch + worker * l->scratch_bytes;
    qnet_augmentation record;
    if (!image->ready) {
        for (size_t k = 0; k < 3 * count; k++) /* stretching would clip NaN to 0 and hide it */
            if (!qnet__is_finite((double)pixels[k]))
                return qnet__fail(ctx, QNET_ERROR_NUMERIC, "a pixel is NaN or infinite");
        QNET__TRY(qnet_stretch_limits(ctx, l->augment, pixels, count, image->low, image->high,
                                      scratch));
        image->ready = 1;
    }
    if (l->epoch < 0) {
        record = qnet_augment_test(in_h, in_w, l->height, l->width);
    } else {
        qnet_rng rng = qnet_rng_at(l->seed, QNET_RANDOM_AUGMENT, (uint32_t)l->epoch, image->index);
        record = qnet_augment_draw(l->augment, &rng, in_h, in_w, l->height, l->width);
    }
    return qnet_augment_apply_within(ctx, l->augment, &record, pixels, in_h, in_w, image->low,
                                     image->high, to, l->height, l->width, scratch);
}

/* Runs in parallel: it may not write to the context, so it keeps the status only. */
static void qnet__loader_task(void *arg, size_t index, size_t worker)
{
    qnet__loader *l = (qnet__loader *)arg;
    l->status[index] = qnet__loader_apply(NULL, l, index, worker);
}

/* Fills l->batch with the images of the current batch: those at order[first..], or first.. if order
   is NULL. epoch: of the augmentation, -1: none. Of several failures the one of the lowest
   index is reported, whichever thread met it. */
static qnet_status qnet__loader_load(const qnet__loop *p, qnet__loader *l, int epoch,
                                     const int *order)
{
    char place[QNET__PLACE];
    l->order = order;
    l->first = p->first;
    l->epoch = epoch;
    qnet__parallel(p->ctx, p->n, qnet__loader_task, l);
    for (size_t i = 0; i < p->n; i++)
        if (l->status[i] != QNET_OK) {
            const qnet__image *image = qnet__loader_image(l, i);
            qnet_status status = qnet__loader_apply(p->ctx, l, i, 0); /* again, for its sentence */
            return qnet__fail(p->ctx, status, "%s: subject %s, slice %d: %s",
                              qnet__loop_place(p, place), l->cohort->scans[image->scan].subject,
                              image->slice, qnet_last_error(p->ctx));
        }
    return QNET_OK;
}

#if QNET__HAS_TRAINING
/* ---- the training of both stages ------------------------------------------------------------- */

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

/* The paper's numbers; hidden and steps are ours. */
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

/* What a run is made of besides its network, in one block. Adam's moments m and v and the average
   are in the order of the trainable weights, which come first in a network's block. */
typedef struct qnet__training_state {
    qnet_training run;          /* first, so that a pointer to it is the start of the block */
    size_t bytes;               /* of the block */
    qnet_stage1_config config;  /* in stage 2 what both stages have: rate_first = rate_last */
    qnet_stage2_config config2; /* of stage 2 */
    const char *task;           /* in progress reports and messages */
    const qnet_param_table *table;
    qnet_real *weights;         /* [table->total] */
    qnet_real *gradients;       /* [table->trainable] */
    qnet_real *m, *v, *average; /* [table->trainable]; average NULL without SWA */
    size_t count, batches;      /* items, and batches of an epoch */
    int *order;                 /* [count] */
    int *batch_label;           /* [largest batch] */
    uint64_t data_hash, weights_hash; /* weights: those to start from; 0: random ones */
    int broken;                 /* stopped or failed half way through an epoch */
    /* Stage 1: */
    qnet__loader loader;
    qnet_real *logits;          /* [largest batch][2] */
    /* Stage 2: */
    size_t row;                 /* steps * 512: numbers of a scan */
    qnet_real *features;        /* [count][row] */
    int *length, *label;        /* [count] */
    qnet_real *batch;           /* [largest batch][row] */
    int *batch_length;          /* [largest batch] */
} qnet__training_state;

/* The whole block; with base NULL it only measures. largest: items of the largest batch. */
static void qnet__training_plan(qnet__training_state *s, qnet__arena *a, size_t largest)
{
    const size_t real = sizeof(qnet_real), trainable = s->table->trainable;
    qnet__take(a, 1, sizeof(*s));
    s->run.history = (qnet_epoch *)qnet__take(a, (size_t)s->run.epochs, sizeof(qnet_epoch));
    s->m = (qnet_real *)qnet__take(a, trainable, real);
    s->v = (qnet_real *)qnet__take(a, trainable, real);
    if (s->config.swa) s->average = (qnet_real *)qnet__take(a, trainable, real);
    s->order = (int *)qnet__take(a, s->count, sizeof(int));
    s->batch_label = (int *)qnet__take(a, largest, sizeof(int));
    if (s->run.net != NULL) {
        s->logits = (qnet_real *)qnet__take(a, largest, QNET_CLASSES * real);
        qnet__loader_plan(s->run.ctx, &s->loader, a, largest);
    } else {
        s->features = (qnet_real *)qnet__take(a, s->count, s->row * real);
        s->length = (int *)qnet__take(a, s->count, sizeof(int));
        s->label = (int *)qnet__take(a, s->count, sizeof(int));
        s->batch = (qnet_real *)qnet__take(a, largest, s->row * real);
        s->batch_length = (int *)qnet__take(a, largest, sizeof(int));
    }
}

/* Moves s, whose network is there, into a block that holds all it needs, zeroed: neither an epoch
   nor the finish allocates. On failure the network is destroyed. */
static qnet_status qnet__training_carve(qnet__training_state *s, int largest,
                                        qnet__training_state **out)
{
    qnet_resnet *net = s->run.net;
    qnet_scan_model *model = s->run.model;
    qnet__arena arena = {NULL, 0};
    qnet_status status;
    s->table = net ? net->table : model->table;
    s->weights = net ? net->weights : model->weights;
    s->gradients = net ? net->gradients : model->gradients;
    qnet__training_plan(s, &arena, (size_t)largest);
    status = qnet__arena_alloc(s->run.ctx, &arena, &s->bytes, "a training run");
    if (status != QNET_OK) {
        qnet_resnet_destroy(net);
        qnet_scan_model_destroy(model);
        return status;
    }
    memset(arena.base, 0, s->bytes);
    qnet__training_plan(s, &arena, (size_t)largest);
    *out = (qnet__training_state *)(void *)arena.base;
    **out = *s;
    (*out)->run.state = *out;
    return QNET_OK;
}

/* The state is the block that holds everything but the network, the run itself included. */
QNET_API void qnet_training_destroy(qnet_training *run)
{
    if (run == NULL) return;
    qnet_resnet_destroy(run->net);
    qnet_scan_model_destroy(run->model);
    qnet__free(run->ctx, run->state, run->state->bytes);
}

/* Refuses NULL and a run that stopped half way through an epoch. */
static qnet_status qnet__training_ready(const qnet_training *run, const char *function)
{
    if (run == NULL) return QNET_ERROR_ARGUMENT;
    if (run->state->broken)
        return qnet__fail(run->ctx, QNET_ERROR_ARGUMENT,
                          "%s: the run ended half way through an epoch: load a checkpoint",
                          function);
    return QNET_OK;
}

/* order[count] = 0..count-1, shuffled for this epoch. */
static void qnet__training_shuffle(qnet__training_state *s, int epoch)
{
    const int purpose = s->run.net ? QNET_RANDOM_SHUFFLE : QNET_RANDOM_SHUFFLE_SCAN;
    qnet_rng rng = qnet_rng_at(s->config.seed, purpose, (uint32_t)epoch, 0);
    for (size_t i = 0; i < s->count; i++) s->order[i] = (int)i;
    qnet_rng_shuffle(&rng, s->order, s->count);
}

/* The status of a loss: QNET_ERROR_NUMERIC, with epoch and step, where it is not finite. */
static qnet_status qnet__loss_check(const qnet__loop *p, qnet_status status, const double *loss)
{
    char place[QNET__PLACE];
    if (status != QNET_ERROR_NUMERIC && (status != QNET_OK || qnet__is_finite(*loss)))
        return status;
    return qnet__fail(p->ctx, QNET_ERROR_NUMERIC, "%s: the loss is NaN or infinite",
                      qnet__loop_place(p, place));
}

/* Stage 1: loss = mean of -log softmax(logits)[label] over the images of the batch. */
static qnet_status qnet__stage1_loss(qnet__training_state *s, const qnet__loop *p, double *loss)
{
    qnet__loader *l = &s->loader;
    const int n = (int)p->n;
    QNET__TRY(qnet__loader_load(p, l, s->run.epoch, s->order));
    for (size_t i = 0; i < p->n; i++) s->batch_label[i] = qnet__loader_image(l, i)->label;
    QNET__TRY(qnet_resnet_forward(s->run.net, l->batch, n, 1, s->logits, NULL));
    QNET__TRY(qnet__loss_check(p, qnet_cross_entropy(p->ctx, p->n, QNET_CLASSES, s->logits,
                                                     s->batch_label, loss, s->logits), loss));
    /* logits now holds the gradient of the loss with respect to them. */
    return qnet_resnet_backward(s->run.net, l->batch, n, s->logits);
}

/* Stage 2: loss = mean over the scans of the batch + mean over their slices; padded steps count
   nowhere. */
static qnet_status qnet__stage2_loss(qnet__training_state *s, const qnet__loop *p, double *loss)
{
    double image = 0, scan = 0;
    qnet_status status;
    for (size_t i = 0; i < p->n; i++) {
        const size_t item = (size_t)s->order[p->first + i];
        memcpy(s->batch + i * s->row, s->features + item * s->row, s->row * sizeof(qnet_real));
        s->batch_length[i] = s->length[item];
        s->batch_label[i] = s->label[item];
    }
    status = qnet_scan_model_loss(s->run.model, s->batch, s->batch_length, s->batch_label,
                                  (int)p->n, &image, &scan, 1);
    *loss = image + scan;
    return qnet__loss_check(p, status, loss);
}

/* QNET_ERROR_NUMERIC, naming the tensor, unless all weights are finite. A loss precedes its step:
   the last one says nothing of the weights after it. */
static qnet_status qnet__training_check_weights(const qnet__training_state *s, const qnet__loop *p)
{
    char place[QNET__PLACE];
    for (int i = 0; i < s->table->count; i++) {
        const qnet_param *param = &s->table->entries[i];
        if (qnet__first_bad(s->weights + param->offset, param->count) < param->count)
            return qnet__fail(p->ctx, QNET_ERROR_NUMERIC, "%s: '%s' has become NaN or infinite",
                              qnet__loop_place(p, place), param->name);
    }
    return QNET_OK;
}

/* One pass over all items: per batch loss and gradients, one step of Adam; then, late in a run with
   SWA, the average. The loss of the history is the mean over items, not over batches, each with the
   weights of its own step. */
QNET_API qnet_status qnet_training_epoch(qnet_training *run)
{
    double rate, loss = 0, sum = 0;
    qnet__training_state *s;
    qnet_epoch *record;
    qnet__loop p;
    QNET__TRY(qnet__training_ready(run, "qnet_training_epoch"));
    s = run->state;
    if (run->epoch >= run->epochs)
        return qnet__fail(run->ctx, QNET_ERROR_ARGUMENT,
                          "qnet_training_epoch: all %d epochs are done", run->epochs);
    s->broken = 1; /* until the epoch's end: a step cannot be taken back */
    rate = qnet__stage1_rate(&s->config, run->epoch);
    p = qnet__loop_begin(run->ctx, s->task, run->epoch + 1, run->epochs, s->count, s->batches);
    qnet__training_shuffle(s, run->epoch);
    while (qnet__loop_next(&p)) {
        QNET__TRY(run->net ? qnet__stage1_loss(s, &p, &loss) : qnet__stage2_loss(s, &p, &loss));
        run->step++;
        qnet_adam_step(run->ctx, &s->config.adam, s->table->trainable, s->weights, s->gradients,
                       s->m, s->v, rate, run->step);
        sum += loss * (double)p.n;
        QNET__TRY(qnet__loop_report(&p, sum / (double)(p.first + p.n), rate));
    }
    QNET__TRY(qnet__training_check_weights(s, &p));
    if (s->config.swa && run->epoch >= qnet_stage1_swa_start(&s->config)) {
        qnet_swa_update(run->ctx, s->table->trainable, s->average, s->weights,
                        (uint64_t)run->averaged);
        run->averaged++;
    }
    record = &run->history[run->epoch++];
    record->loss = sum / (double)s->count;
    record->learning_rate = rate;
    record->seconds = qnet__seconds(run->ctx) - p.start;
    s->broken = 0;
    return QNET_OK;
}

/* The averaged weights have seen no batch, so their batch norms' statistics are estimated anew: one
   pass over the training images without augmentation. With momentum n_k / (n_1 + ... + n_k) the
   running statistics are the mean over all batches, each weighted by its images. */
static qnet_status qnet__training_statistics(qnet__training_state *s)
{
    qnet_resnet *net = s->run.net;
    qnet_status status = QNET_OK;
    qnet__loop p =
        qnet__loop_begin(s->run.ctx, "batch-norm statistics", 0, 0, s->count, s->batches);
    for (int i = 0; i < s->table->count; i++) { /* running mean 0, variance 1 */
        const qnet_param *param = &s->table->entries[i];
        for (size_t k = 0; !param->trainable && k < param->count; k++)
            s->weights[param->offset + k] = (qnet_real)qnet__is_variance(param->name);
    }
    /* Shuffled, so that a batch holds many subjects, as the batches of training did. */
    qnet__training_shuffle(s, s->run.epochs);
    while (status == QNET_OK && qnet__loop_next(&p)) {
        qnet_resnet_set_momentum(net, (double)p.n / (double)(p.first + p.n));
        status = qnet__loader_load(&p, &s->loader, -1, s->order);
        if (status == QNET_OK)
            status = qnet_resnet_forward(net, s->loader.batch, (int)p.n, 1, NULL, NULL);
        if (status == QNET_OK) status = qnet__loop_report(&p, NAN, 0);
    }
    qnet_resnet_set_momentum(net, QNET_BATCHNORM_MOMENTUM);
    return status == QNET_OK ? qnet__training_check_weights(s, &p) : status;
}

/* Without SWA nothing is left to do: the running statistics have followed the weights. */
QNET_API qnet_status qnet_training_finish(qnet_training *run)
{
    qnet__training_state *s;
    QNET__TRY(qnet__training_ready(run, "qnet_training_finish"));
    s = run->state;
    if (run->epoch < run->epochs)
        return qnet__fail(run->ctx, QNET_ERROR_ARGUMENT,
                          "qnet_training_finish: %d of %d epochs are done", run->epoch,
                          run->epochs);
    if (s->config.swa && !run->finished) {
        s->broken = 1; /* until the statistics are whole */
        memcpy(s->weights, s->average, s->table->trainable * sizeof(qnet_real));
        QNET__TRY(qnet__training_statistics(s));
        s->broken = 0;
    }
    run->finished = 1;
    return QNET_OK;
}

/* ---- the checkpoint of a run ----------------------------------------------------------------- */

/* The kernels in force. Their roundings differ, so a checkpoint is resumed only with its own. */
static const char *qnet__kernels_name(const qnet_context *ctx)
{
    if (ctx->hooks.blas.sgemm != NULL) return "blas";
    return QNET__REFERENCE_ONLY ? "reference" : qnet_cpu_name(qnet_context_cpu(ctx));
}

/* Everything that decides the run's bits, as text: configuration, kernels, initial weights, and a
   hash of the items with their labels. */
static qnet_status qnet__training_text(const qnet__training_state *s, qnet_buffer *text)
{
    qnet_context *ctx = s->run.ctx;
    const qnet_stage1_config *c = &s->config;
    const int stage = s->run.net ? 1 : 2;
    QNET__TRY(qnet_buffer_printf(
        ctx, text,
        "kind=qnet stage %d checkpoint 2\nreal=%s\nkernels=%s\nnetwork=%s\nseed=0x%016llx\n"
        "%s and labels=0x%016llx\n",
        stage, QNET__REAL_IS_DOUBLE ? "double" : "float", qnet__kernels_name(ctx),
        s->table->network, (unsigned long long)c->seed, stage == 1 ? "images" : "features",
        (unsigned long long)s->data_hash));
    if (stage == 2) {
        QNET__TRY(qnet__settings_text(ctx, text, "", qnet__stage2_settings, &s->config2));
        return qnet_buffer_printf(ctx, text, "steps=%d\n", s->config2.steps);
    }
    QNET__TRY(qnet_buffer_printf(ctx, text, "swa=%d\nsize=%d\ninitial weights=0x%016llx\n", c->swa,
                                 c->size, (unsigned long long)s->weights_hash));
    QNET__TRY(qnet__settings_text(ctx, text, "", qnet__stage1_settings, c));
    QNET__TRY(qnet__settings_text(ctx, text, "augment.", qnet__stretch_settings, &c->augment));
    return qnet__settings_text(ctx, text, "augment.", qnet__augment_settings, &c->augment);
}

/* The arrays of a checkpoint with this many averaged weights; returns how many arrays. */
static int qnet__training_slabs(const qnet__training_state *s, int averaged,
                                qnet__slab slabs[QNET__SLABS])
{
    const size_t trainable = s->table->trainable;
    const qnet__slab all[QNET__SLABS] = {
        {"history", QNET_F64, s->run.history, (size_t)s->run.epochs * QNET__EPOCH_NUMBERS},
        {"weights", QNET__REAL_DTYPE, s->weights, s->table->total},
        {"adam.m", QNET__REAL_DTYPE, s->m, trainable},
        {"adam.v", QNET__REAL_DTYPE, s->v, trainable},
        {"swa.average", QNET__REAL_DTYPE, s->average, trainable}};
    memcpy(slabs, all, sizeof(all));
    return averaged > 0 ? QNET__SLABS : QNET__SLABS - 1;
}

/* The lines of the configuration first, then how far the run is, then the arrays. */
QNET_API qnet_status qnet_training_write(qnet_training *run, qnet_sink *sink)
{
    qnet_buffer text = {NULL, 0, 0, NULL};
    qnet__slab slabs[QNET__SLABS];
    qnet_status status;
    QNET__TRY(qnet__training_ready(run, "qnet_training_write"));
    status = qnet__training_text(run->state, &text);
    if (status == QNET_OK)
        status = qnet__settings_text(run->ctx, &text, "", qnet__training_settings, run);
    if (status == QNET_OK) {
        const int count = qnet__training_slabs(run->state, run->averaged, slabs);
        status = qnet__checkpoint_write(run->ctx, sink, (char *)text.bytes, slabs, count);
    }
    qnet_buffer_free(run->ctx, &text);
    return status;
}

/* The running variances in a file's flat block: none may be below 0, as in a weights file. */
static qnet_status qnet__check_variances(qnet_context *ctx, const qnet_safetensors *file,
                                         const char *name, const qnet_param_table *table)
{
    const qnet_safetensor *w = qnet_safetensors_find(file, "weights");
    for (int i = 0; i < table->count && w != NULL && w->count == table->total; i++) {
        const qnet_param *p = &table->entries[i];
        for (size_t k = 0; k < p->count && qnet__is_variance(p->name); k++) {
            const double value = qnet__element(w->dtype, w->data, p->offset + k);
            if (value < 0)
                return qnet__fail(ctx, QNET_ERROR_FORMAT,
                                  "%s: damaged checkpoint: '%s': number %.0f is %g, a variance "
                                  "below 0", name, p->name, (double)k, value);
        }
    }
    return QNET_OK;
}

/* QNET_ERROR_MISMATCH for a checkpoint of another run, QNET_ERROR_FORMAT for a damaged one.
   Everything in the file is checked before the first number of the run changes. Up to the first
   averaged epoch a run with SWA and one without are the same, so `swa` may then differ. */
static qnet_status qnet__training_restore(qnet_training *run, const qnet_safetensors *file,
                                          const char *name)
{
    qnet_context *ctx = run->ctx;
    qnet__training_state *s = run->state;
    const int start = qnet_stage1_swa_start(&s->config);
    const char *swa = qnet_safetensors_metadata(file, "swa");
    const int branch = s->config.swa && swa != NULL && strcmp(swa, "0") == 0;
    qnet_training read = *run;
    qnet__slab slabs[QNET__SLABS];
    qnet_buffer text = {NULL, 0, 0, NULL};
    qnet_status status = qnet__training_text(s, &text);
    if (status == QNET_OK)
        status = qnet__checkpoint_compare(ctx, file, name, (char *)text.bytes,
                                          branch ? "swa" : NULL);
    qnet_buffer_free(ctx, &text);
    QNET__TRY(status);
    QNET__TRY(qnet__settings_read(ctx, file, name, qnet__training_settings, &read));
    if (branch && read.epoch > start)
        return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                          "%s: checkpoint of a run without SWA after epoch %d: expected %d at "
                          "most, where averaging begins", name, read.epoch, start);
    if (read.epoch > run->epochs || (read.finished && read.epoch < run->epochs))
        return qnet__fail(ctx, QNET_ERROR_FORMAT,
                          "%s: damaged checkpoint: epoch %d of %d and finished %d contradict each "
                          "other", name, read.epoch, run->epochs, read.finished);
    read.step = (uint64_t)read.epoch * s->batches;
    read.averaged = s->config.swa ? qnet__max_int(0, read.epoch - start) : 0;
    QNET__TRY(qnet__check_variances(ctx, file, name, s->table));
    QNET__TRY(qnet__checkpoint_copy(ctx, file, name, slabs,
                                    qnet__training_slabs(s, read.averaged, slabs)));
    *run = read;
    s->broken = 0;
    return QNET_OK;
}

/* Any failure leaves the run as it was. */
QNET_API qnet_status qnet_training_read(qnet_training *run, qnet_source *source)
{
    qnet_safetensors *file = NULL;
    qnet_status status;
    if (run == NULL) return QNET_ERROR_ARGUMENT;
    QNET__TRY(qnet_safetensors_read(run->ctx, source, &file));
    status = qnet__training_restore(run, file, qnet__source_name(source));
    qnet_safetensors_destroy(file);
    return status;
}

#ifndef QNET_NO_STDIO
/* A run that may not be saved does not touch the file either. */
QNET_API qnet_status qnet_training_save(qnet_training *run, const char *path)
{
    qnet__file file;
    qnet_sink sink;
    qnet_status status;
    QNET__TRY(qnet__training_ready(run, "qnet_training_save"));
    QNET__TRY(qnet__file_open_replace(run->ctx, path, &file, &sink));
    status = qnet_training_write(run, &sink);
    return qnet__file_finish(&file, status);
}

/* qnet_training_read of a path. */
QNET_API qnet_status qnet_training_load(qnet_training *run, const char *path)
{
    qnet__file file;
    qnet_source source;
    qnet_status status;
    if (run == NULL) return QNET_ERROR_ARGUMENT;
    QNET__TRY(qnet__file_open_read(run->ctx, path, &file, &source));
    status = qnet_training_read(run, &source);
    qnet__file_close(&file);
    return status;
}

/* Goes on from wherever the run is. The last save is made again on a run that is finished: the one
   before may have failed. */
QNET_API qnet_status qnet_training_run(qnet_training *run, const char *checkpoint)
{
    QNET__TRY(qnet__training_ready(run, "qnet_training_run"));
    while (run->epoch < run->epochs) {
        QNET__TRY(qnet_training_epoch(run));
        if (checkpoint) QNET__TRY(qnet_training_save(run, checkpoint));
    }
    QNET__TRY(qnet_training_finish(run));
    return checkpoint ? qnet_training_save(run, checkpoint) : QNET_OK;
}
#endif

/* ---- stage 1: images ------------------------------------------------------------------------- */

/* Of scans[count], which lie in the cohort: each once, and of either class at least one. */
static qnet_status qnet__stage1_check_scans(qnet_context *ctx, const qnet_cohort *cohort,
                                            const int *scans, int count)
{
    int of_label[QNET_CLASSES] = {0, 0};
    for (int i = 0; i < count; i++) {
        const int label = (int)cohort->scans[scans[i]].label;
        if (label < 0 || label >= QNET_CLASSES)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "stage 1: scan %d: label %d: expected 0 or 1", scans[i], label);
        of_label[label]++;
        for (int k = 0; k < i; k++)
            if (scans[k] == scans[i])
                return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "stage 1: scan %d is listed twice",
                                  scans[i]);
    }
    if (of_label[QNET_HC] == 0 || of_label[QNET_HH] == 0)
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "stage 1: %d scans of HC and %d of HH: expected both to learn from",
                          of_label[QNET_HC], of_label[QNET_HH]);
    return QNET_OK;
}

/* Ranges, checked before anything is allocated and before an experiment begins. */
static qnet_status qnet__stage1_config_check(qnet_context *ctx, const qnet_stage1_config *c)
{
    QNET__TRY(qnet__settings_check(ctx, "stage 1", qnet__stage1_settings, c));
    return qnet__augment_config_check(ctx, &c->augment);
}

/* ResNet18 on the slices of scans[count], from `weights` or from random ones (He initialisation;
   the paper starts from ImageNet). Items are images in the order of scans. */
QNET_API qnet_status qnet_stage1_create(qnet_context *ctx, const qnet_stage1_config *config,
                                        const qnet_cohort *cohort, const int *scans, int count,
                                        const qnet_real *weights, qnet_training **out)
{
    qnet__training_state s, *self = NULL;
    qnet_resnet_config net_config;
    if (ctx == NULL || config == NULL || cohort == NULL || scans == NULL || out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_stage1_create: an argument is NULL");
    QNET__TRY(qnet__stage1_config_check(ctx, config));
    memset(&s, 0, sizeof(s));
    QNET__TRY(qnet__loader_measure(ctx, &s.loader, "stage 1", cohort, scans, count, config->size,
                                   config->size));
    QNET__TRY(qnet__stage1_check_scans(ctx, cohort, scans, count));
    s.run.ctx = ctx;
    s.run.epochs = config->epochs;
    s.config = *config;
    s.config.swa = config->swa != 0;
    s.task = config->swa ? "stage 1 SWA" : "stage 1"; /* which of the two runs of a fold it is */
    s.count = s.loader.count;
    s.batches = qnet__batches(s.count, config->batch);

    qnet_resnet_config_init(&net_config);
    net_config.height = net_config.width = config->size;
    /* The largest batch, which may be well below config->batch. */
    net_config.batch = (int)qnet__batch_start(s.count, s.batches, 1);
    QNET__TRY(qnet_resnet_create(ctx, &net_config, &s.run.net));
    QNET__TRY(qnet__training_carve(&s, net_config.batch, &self));
    self->loader.augment = &self->config.augment;
    self->loader.seed = config->seed;
    qnet__loader_fill(&self->loader, scans, count);
    self->data_hash = self->loader.hash;
    if (weights != NULL) {
        const size_t bytes = self->table->total * sizeof(qnet_real);
        self->weights_hash = qnet_hash(QNET_HASH_START, weights, bytes);
        memcpy(self->weights, weights, bytes);
    } else {
        qnet_resnet_init(s.run.net, config->seed);
    }
    *out = &self->run;
    return QNET_OK;
}
#endif

/* ---- the embedding: features and slice probabilities of whole scans -------------------------- */

/* P(HH) = e^z1 / (e^z0 + e^z1) of two logits, in double: rounded to float, confident scores would
   tie, which an AUC sees. */
static double qnet__probability_hh(const qnet_real *logits)
{
    return 1 / (1 + exp((double)logits[QNET_HC] - (double)logits[QNET_HH]));
}

typedef struct qnet__embedding {
    qnet__loader loader;
    qnet_real *batch_features; /* [batch][512] */
    qnet_real *logits;         /* [batch][2] */
    qnet_real *features;       /* [places][512]: the results, until all is well */
    double *probability;       /* [places] */
} qnet__embedding;

/* The test-time pass (paper: stretching and crop only), batch by batch. */
static qnet_status qnet__embed_run(qnet_resnet *net, qnet__embedding *e, size_t batch)
{
    qnet__loader *l = &e->loader;
    qnet__loop p = qnet__loop_begin(net->ctx, "features", 0, 0, l->count,
                                    qnet__batches(l->count, (int)batch));
    while (qnet__loop_next(&p)) {
        QNET__TRY(qnet__loader_load(&p, l, -1, NULL));
        QNET__TRY(qnet_resnet_forward(net, l->batch, (int)p.n, 0, e->logits, e->batch_features));
        for (size_t i = 0; i < p.n; i++) {
            const qnet__image *image = qnet__loader_image(l, i);
            const qnet_real *f = e->batch_features + i * QNET_FEATURES;
            const qnet_real *z = e->logits + i * QNET_CLASSES;
            if (qnet__first_bad(f, QNET_FEATURES) < QNET_FEATURES ||
                qnet__first_bad(z, QNET_CLASSES) < QNET_CLASSES)
                return qnet__fail(net->ctx, QNET_ERROR_NUMERIC,
                                  "features: subject %s, slice %d: the network gives NaN or "
                                  "infinity", l->cohort->scans[image->scan].subject, image->slice);
            memcpy(e->features + image->place * QNET_FEATURES, f,
                   QNET_FEATURES * sizeof(qnet_real));
            e->probability[image->place] = qnet__probability_hh(z);
        }
        QNET__TRY(qnet__loop_report(&p, NAN, 0));
    }
    return QNET_OK;
}

/* Eval mode: batch norms use their running statistics. Results are copied out at the end, so that a
   failure leaves the caller's arrays unchanged. Inference gives a slice the same bits in any batch
   of a network, as its sums run over its own pixels only. */
QNET_API qnet_status qnet_embed(qnet_resnet *net, const qnet_augment_config *augment,
                                const qnet_cohort *cohort, const int *scans, int count,
                                qnet_real *features, double *probability)
{
    const size_t row = QNET_FEATURES * sizeof(qnet_real);
    qnet__embedding e;
    qnet__arena arena = {NULL, 0};
    qnet_context *ctx;
    qnet_status status;
    size_t bytes, places, batch;
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
    for (int i = 0; i < count; i++)
        if (cohort->scans[scans[i]].slices > cohort->config.max_slices)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "features: subject %s has %d slices: expected %d at most",
                              cohort->scans[scans[i]].subject, cohort->scans[scans[i]].slices,
                              cohort->config.max_slices);
    e.loader.augment = augment;
    places = (size_t)count * (size_t)cohort->config.max_slices;
    batch = qnet__min_size((size_t)net->config.batch, e.loader.count);
    for (int pass = 0; pass < 2; pass++) {
        e.batch_features = (qnet_real *)qnet__take(&arena, batch, row);
        e.logits = (qnet_real *)qnet__take(&arena, batch, QNET_CLASSES * sizeof(qnet_real));
        e.features = (qnet_real *)qnet__take(&arena, places, row);
        e.probability = (double *)qnet__take(&arena, places, sizeof(double));
        qnet__loader_plan(ctx, &e.loader, &arena, batch);
        if (pass == 0) QNET__TRY(qnet__arena_alloc(ctx, &arena, &bytes, "features"));
    }
    qnet__loader_fill(&e.loader, scans, count);
    memset(e.features, 0, places * row);
    memset(e.probability, 0, places * sizeof(double));
    status = qnet__embed_run(net, &e, batch);
    if (status == QNET_OK && features)
        memcpy(features, e.features, places * row);
    if (status == QNET_OK && probability)
        memcpy(probability, e.probability, places * sizeof(double));
    qnet__free(ctx, arena.base, bytes);
    return status;
}

#if QNET__HAS_TRAINING
/* ---- stage 2: scans -------------------------------------------------------------------------- */

/* Ranges, as of stage 1. In an experiment `steps` is the cohort's max_slices. */
static qnet_status qnet__stage2_config_check(qnet_context *ctx, const qnet_stage2_config *c)
{
    QNET__TRY(qnet__settings_check(ctx, "stage 2", qnet__stage2_settings, c));
    if (c->steps < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "stage 2: steps %d: expected 1 or more",
                          c->steps);
    return QNET_OK;
}

/* Copies the scans, zero beyond their slices, into the run after a check, and hashes all. */
static qnet_status qnet__stage2_fill(qnet__training_state *s, const qnet_real *features,
                                     const int *length, const int *label)
{
    const int steps = s->config2.steps;
    s->data_hash = QNET_HASH_START;
    for (size_t i = 0; i < s->count; i++) {
        const qnet_real *from = features + i * s->row;
        qnet_real *to = s->features + i * s->row;
        size_t used, bad;
        if (length[i] < 1 || length[i] > steps || label[i] < 0 || label[i] >= QNET_CLASSES)
            return qnet__fail(s->run.ctx, QNET_ERROR_ARGUMENT,
                              "stage 2: scan %d: length %d, label %d: expected 1..%d and 0 or 1",
                              (int)i, length[i], label[i], steps);
        used = (size_t)length[i] * QNET_FEATURES;
        bad = qnet__first_bad(from, used);
        if (bad < used)
            return qnet__fail(s->run.ctx, QNET_ERROR_NUMERIC,
                              "stage 2: scan %d, slice %d: feature %d is NaN or infinite", (int)i,
                              (int)(bad / QNET_FEATURES), (int)(bad % QNET_FEATURES));
        memcpy(to, from, used * sizeof(qnet_real));
        s->length[i] = length[i];
        s->label[i] = label[i];
        s->data_hash = qnet_hash(s->data_hash, to, used * sizeof(qnet_real));
        s->data_hash = qnet_hash(s->data_hash, &s->length[i], sizeof(int));
        s->data_hash = qnet_hash(s->data_hash, &s->label[i], sizeof(int));
    }
    return QNET_OK;
}

/* The scan-level model on features[count][steps][512], from random weights. The rate is fixed, and
   nothing is averaged (paper, "Training Procedure"). The features are copied: a run is the owner of
   all that it reads. */
QNET_API qnet_status qnet_stage2_create(qnet_context *ctx, const qnet_stage2_config *config,
                                        const qnet_real *features, const int *length,
                                        const int *label, int count, qnet_training **out)
{
    qnet__training_state s, *self = NULL;
    qnet_scan_config model_config;
    qnet_status status;
    if (ctx == NULL || config == NULL || features == NULL || length == NULL || label == NULL ||
        out == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_stage2_create: an argument is NULL");
    QNET__TRY(qnet__stage2_config_check(ctx, config));
    if (count < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "stage 2: %d scans: expected 1 or more", count);
    memset(&s, 0, sizeof(s));
    s.run.ctx = ctx;
    s.run.epochs = config->epochs;
    s.config2 = *config;
    s.config.epochs = config->epochs;
    s.config.rate_first = s.config.rate_last = config->rate;
    s.config.adam = config->adam;
    s.config.seed = config->seed;
    s.task = "stage 2";
    s.count = (size_t)count;
    s.batches = qnet__batches(s.count, config->batch);
    s.row = (size_t)config->steps * QNET_FEATURES;

    qnet_scan_config_init(&model_config);
    model_config.hidden = config->hidden;
    model_config.steps = config->steps;
    model_config.batch = (int)qnet__batch_start(s.count, s.batches, 1);
    QNET__TRY(qnet_scan_model_create(ctx, &model_config, &s.run.model));
    QNET__TRY(qnet__training_carve(&s, model_config.batch, &self));
    status = qnet__stage2_fill(self, features, length, label);
    if (status != QNET_OK) {
        qnet_training_destroy(&self->run);
        return status;
    }
    qnet_scan_model_init(s.run.model, config->seed);
    *out = &self->run;
    return QNET_OK;
}
#endif

/* features[count][steps][512] are read in place: scans that follow each other are a batch. A scan's
   result does not depend on what else is in its batch. image[count][steps], scan[count]; logits:
   room for those of a batch. */
static qnet_status qnet__predict_run(qnet_scan_model *model, const qnet_real *features,
                                     const int *length, size_t batch, size_t count,
                                     qnet_real *image_logits, qnet_real *scan_logits,
                                     double *image, double *scan)
{
    const size_t steps = (size_t)model->config.steps;
    size_t n;
    for (size_t first = 0; first < count; first += n) {
        n = qnet__min_size(batch, count - first);
        QNET__TRY(qnet_scan_model_forward(model, features + first * steps * QNET_FEATURES,
                                          length + first, (int)n, image_logits, scan_logits));
        for (size_t i = 0; i < n; i++) {
            const qnet_real *z = image_logits + i * steps * QNET_CLASSES;
            const qnet_real *whole = scan_logits + i * QNET_CLASSES;
            const size_t used = (size_t)length[first + i];
            if (qnet__first_bad(whole, QNET_CLASSES) < QNET_CLASSES ||
                qnet__first_bad(z, used * QNET_CLASSES) < used * QNET_CLASSES)
                return qnet__fail(model->ctx, QNET_ERROR_NUMERIC,
                                  "scan %.0f: the model gives NaN or infinity",
                                  (double)(first + i));
            scan[first + i] = qnet__probability_hh(whole);
            for (size_t t = 0; t < steps; t++)
                image[(first + i) * steps + t] =
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
    qnet_real *image_logits = NULL, *scan_logits = NULL; /* [batch][steps][2], [batch][2] */
    double *images = NULL, *scans = NULL;                /* the results, until all is well */
    qnet__arena arena = {NULL, 0};
    qnet_context *ctx;
    qnet_status status;
    size_t bytes = 0, batch, steps, n;
    if (model == NULL) return QNET_ERROR_ARGUMENT;
    ctx = model->ctx;
    if (features == NULL || length == NULL || count < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_scan_model_predict: an argument is NULL, or no scan");
    if (model->config.features != QNET_FEATURES || model->config.classes != QNET_CLASSES)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_scan_model_predict: a model of %d features and %d classes: "
                          "expected %d and %d", model->config.features, model->config.classes,
                          QNET_FEATURES, QNET_CLASSES);
    for (int i = 0; i < count; i++)
        if (length[i] < 1 || length[i] > model->config.steps)
            return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                              "qnet_scan_model_predict: scan %d: length %d: expected 1..%d", i,
                              length[i], model->config.steps);
    n = (size_t)count;
    steps = (size_t)model->config.steps;
    batch = qnet__min_size((size_t)model->config.batch, n);
    for (int pass = 0; pass < 2; pass++) {
        image_logits =
            (qnet_real *)qnet__take(&arena, batch * steps, QNET_CLASSES * sizeof(qnet_real));
        scan_logits = (qnet_real *)qnet__take(&arena, batch, QNET_CLASSES * sizeof(qnet_real));
        images = (double *)qnet__take(&arena, n * steps, sizeof(double));
        scans = (double *)qnet__take(&arena, n, sizeof(double));
        if (pass == 0) QNET__TRY(qnet__arena_alloc(ctx, &arena, &bytes, "predictions"));
    }
    status = qnet__predict_run(model, features, length, batch, n, image_logits, scan_logits,
                               images, scans);
    if (status == QNET_OK && image) memcpy(image, images, n * steps * sizeof(double));
    if (status == QNET_OK && scan) memcpy(scan, scans, n * sizeof(double));
    qnet__free(ctx, arena.base, bytes);
    return status;
}
#endif

#if QNET__HAS_METRICS
/* ============================================================================================
   >>metrics
   What the paper's "Results" are made of: the confusion matrix and its rates, voting, ROC curve,
   AUC, DeLong's test (by item, and by subject after Obuchowski 1997), bootstrap of AUCs, the stars.
   Every function takes columns of `count` items (slices or scans): label[count], 1 for HH, the
   positive class, and 0 for HC; score[count] or decision[count]; cluster[count], the subject of
   each item. m is the number of HH items, n that of HC items. All is in double; counts of pairs are
   64-bit integers, so an AUC is exact, ties included, until its one division. Errors: labels and
   decisions other than 0 and 1, scores that are NaN, a class without items.
   Relies on >>context >>random.
   ============================================================================================ */

#define QNET__MAX_ITEMS ((size_t)0xffffffffu) /* 2 m n < 2^63, and an index fits qnet_rng_below */

/* ---- Normal distribution --------------------------------------------------------------------- */

/* Phi(z) = erfc(-z / sqrt 2) / 2, whose relative error stays small in the lower tail. */
QNET_API double qnet_normal_cdf(double z)
{
    return 0.5 * erfc(-z * 0.70710678118654752440);
}

/* The z with Phi(z) = p: -infinity for p <= 0, infinity for p >= 1. From the approximation 26.2.23
   of Abramowitz & Stegun 1964, whose error is below 4.5e-4, by steps of Halley's method: with
   e = (Phi(z) - p)/phi(z), z -= e / (1 + z e / 2), which triples the number of right digits. */
QNET_API double qnet_normal_quantile(double p)
{
    double t, z;
    if (p != p) return p;
    if (p <= 0.0) return -HUGE_VAL;
    if (p >= 1.0) return HUGE_VAL;
    if (p > 0.5) return -qnet_normal_quantile(1.0 - p); /* 1 - p is exact here */
    t = sqrt(-2.0 * log(p));
    z = (2.515517 + (0.802853 + 0.010328 * t) * t) /
            (1.0 + (1.432788 + (0.189269 + 0.001308 * t) * t) * t) - t;
    for (int step = 0; step < 3; step++) {
        const double e = (qnet_normal_cdf(z) - p) / (exp(-0.5 * z * z) * 0.39894228040143267794);
        z -= e / (1.0 + 0.5 * z * e);
    }
    return z;
}

/* ---- Confusion matrix ------------------------------------------------------------------------ */

/* Of the paper's measures, with HH positive: accuracy = (TP + TN) / all, sensitivity (recall) =
   TP / (TP + FN), specificity = TN / (TN + FP), precision = TP / (TP + FP). This is
   numerator / denominator, NaN where nothing was counted. */
static double qnet__share(size_t numerator, size_t denominator)
{
    return denominator ? (double)numerator / (double)denominator : (double)NAN;
}

/* The score interval of a proportion: all pi that k successes in t trials do not speak against,
   |k/t - pi| <= z sqrt(pi (1 - pi) / t). With p = k/t its ends are
     ((p + z^2/2t) -+ z sqrt(p(1-p)/t + z^2/4t^2)) / (1 + z^2/t)  (Wilson 1927).
   Unlike p -+ z sqrt(p(1-p)/t) it stays within 0..1 and has a width at p = 0 and 1 (Brown, Cai &
   DasGupta 2001). */
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

/* The same, and both classes must occur: without either, no rate of one axis is defined. */
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

/* The confusion matrix of decision[count] against label[count], and what follows from it. */
QNET_API qnet_status qnet_metrics_from(qnet_context *ctx, const int *label, const int *decision,
                                       size_t count, qnet_metrics *out)
{
    qnet_confusion c;
    size_t hh;
    if (!decision || !out)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_metrics_from: decision or out is NULL");
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

/* ---- Rank order ---------------------------------------------------------------------------- */

/* One item in the order of rising score. */
typedef struct qnet__ranked {
    uint64_t key;  /* sorts as the score does, and is equal where scores are */
    uint32_t item; /* its index; in a bootstrap that of its cluster */
    uint32_t hh;   /* its label */
} qnet__ranked;

/* A whole number that sorts as the double does: negative ones count downwards, and -0 is 0. */
static uint64_t qnet__double_key(double value)
{
    uint64_t bits;
    value += 0.0; /* -0 + 0 = 0 */
    memcpy(&bits, &value, sizeof bits);
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

/* Sorts a[count] by key, equal keys in the order they had: radix sort by 8 digits of 8 bits, the
   lowest first (Knuth, The Art of Computer Programming 3, 5.2.5), without the digits that all keys
   share. O(count) for any input. spare[count] is scratch. */
static void qnet__rank(qnet__ranked *a, qnet__ranked *spare, size_t count)
{
    uint32_t place[8][256]; /* of each digit's values: how many keys, then where the next goes */
    qnet__ranked *from = a, *to = spare, *swap;
    memset(place, 0, sizeof place);
    for (size_t i = 0; i < count; i++)
        for (int d = 0; d < 8; d++) place[d][a[i].key >> 8 * d & 255]++;
    for (int d = 0; d < 8; d++) {
        uint32_t begin = 0;
        if (place[d][a[0].key >> 8 * d & 255] == count) continue;
        for (int value = 0; value < 256; value++) {
            const uint32_t here = place[d][value];
            place[d][value] = begin;
            begin += here;
        }
        for (size_t i = 0; i < count; i++) to[place[d][from[i].key >> 8 * d & 255]++] = from[i];
        swap = from;
        from = to;
        to = swap;
    }
    if (from != a) memcpy(a, from, count * sizeof *a);
}

/* End of the run of equal keys that begins at `first`. */
static size_t qnet__run_end(const qnet__ranked *ranked, size_t count, size_t first)
{
    size_t end = first + 1;
    while (end < count && ranked[end].key == ranked[first].key) end++;
    return end;
}

/* Memory of one evaluation: one block, asked for once. */
typedef struct qnet__evaluation {
    qnet__ranked *ranked, *spare; /* [count] each */
    double *component[2];         /* [count] per curve of DeLong's test, otherwise NULL */
    uint32_t *unit;               /* of a bootstrap: [count], the cluster of each item */
    uint32_t *weight;             /* [workers][count]: how often each cluster was drawn */
    double *auc;                  /* [resamples] */
    void *block;
    size_t bytes;
} qnet__evaluation;

/* For a test of `curves` curves, or a bootstrap where resamples > 0. */
static qnet_status qnet__evaluation_create(qnet_context *ctx, size_t count, int curves,
                                           size_t resamples, qnet__evaluation *e)
{
    qnet__arena arena;
    memset(&arena, 0, sizeof arena);
    memset(e, 0, sizeof *e);
    if (!ctx) return QNET_ERROR_ARGUMENT;
    for (int pass = 0; pass < 2; pass++) {
        e->ranked = (qnet__ranked *)qnet__take(&arena, count, sizeof(qnet__ranked));
        e->spare = (qnet__ranked *)qnet__take(&arena, count, sizeof(qnet__ranked));
        for (int k = 0; k < curves; k++)
            e->component[k] = (double *)qnet__take(&arena, count, sizeof(double));
        if (resamples > 0) {
            e->unit = (uint32_t *)qnet__take(&arena, count, sizeof(uint32_t));
            e->weight = (uint32_t *)qnet__take(&arena, count,
                                               qnet__workers(ctx) * sizeof(uint32_t));
            e->auc = (double *)qnet__take(&arena, resamples, sizeof(double));
        }
        if (pass == 0) {
            e->bytes = arena.at;
            arena.at = 0;
            e->block = qnet__alloc(ctx, e->bytes);
            if (!e->block) return qnet__no_memory(ctx, e->bytes, "an evaluation");
            arena.base = (unsigned char *)e->block;
        }
    }
    return QNET_OK;
}

static void qnet__evaluation_destroy(qnet_context *ctx, qnet__evaluation *e)
{
    qnet__free(ctx, e->block, e->bytes);
}

/* e->ranked = the items in the order of rising score, none of it NaN. label NULL: none. */
static void qnet__rank_scores(qnet__evaluation *e, const double *score, const int *label,
                              size_t count)
{
    for (size_t i = 0; i < count; i++) {
        e->ranked[i].key = qnet__double_key(score[i]);
        e->ranked[i].item = (uint32_t)i;
        e->ranked[i].hh = label ? (uint32_t)label[i] : 0;
    }
    qnet__rank(e->ranked, e->spare, count);
}

/* e->ranked = the items in the order of rising cluster, those of one in the order they had. */
static void qnet__rank_clusters(qnet__evaluation *e, const int *cluster, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        e->ranked[i].key = (uint64_t)((int64_t)cluster[i] - INT_MIN);
        e->ranked[i].item = (uint32_t)i;
        e->ranked[i].hh = 0;
    }
    qnet__rank(e->ranked, e->spare, count);
}

/* ---- ROC curve and AUC --------------------------------------------------------------------- */

/* For each threshold s the share of HC and of HH items that score s or more (Fawcett 2006). Items
   of one score enter together, so a tie is a slanted line, and the area under the curve, by
   trapezia, counts it by half, as qnet_auc does. */
QNET_API qnet_status qnet_roc(qnet_context *ctx, const int *label, const double *score,
                              size_t count, qnet_roc_point *points, size_t *points_count)
{
    qnet__evaluation e;
    size_t m, tp = 0, fp = 0, made = 1, end = count;
    if (!points || !points_count)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_roc: points or points_count is NULL");
    QNET__TRY(qnet__check_curve(ctx, "qnet_roc", label, score, count, &m));
    QNET__TRY(qnet__evaluation_create(ctx, count, 0, 0, &e));
    qnet__rank_scores(&e, score, label, count);
    points[0].false_positive_rate = 0.0;
    points[0].true_positive_rate = 0.0;
    points[0].threshold = HUGE_VAL;
    while (end > 0) { /* from the highest score down, all items of one score at once */
        const uint64_t key = e.ranked[end - 1].key;
        points[made].threshold = score[e.ranked[end - 1].item];
        for (; end > 0 && e.ranked[end - 1].key == key; end--) {
            tp += e.ranked[end - 1].hh;
            fp += 1 - e.ranked[end - 1].hh;
        }
        points[made].false_positive_rate = (double)fp / (double)(count - m);
        points[made].true_positive_rate = (double)tp / (double)m;
        made++;
    }
    *points_count = made;
    qnet__evaluation_destroy(ctx, &e);
    return QNET_OK;
}

/* AUC of scores[count], m of them of HH and n of HC, and, when component is not NULL, each item's
   structural component (DeLong et al. 1988):
     V10(i), HH: share of HC items that score lower than i, ties by half = (TZ_i - TX_i) / n
     V01(j), HC: share of HH items that score higher than j, ties by half = 1 - (TZ_j - TY_j) / m
   with midranks TZ among all, TX among HH, TY among HC (Sun & Xu 2014). In a group of ties with p
   HH and q HC items that stands above a HH and b HC items, TZ = a + b + (p+q+1)/2,
   TX = a + (p+1)/2 and TY = b + (q+1)/2, so TZ - TX = b + q/2 and TZ - TY = a + p/2: one sort, one
   pass. The AUC is the mean of either kind: Mann and Whitney's U / (m n) (Hanley & McNeil 1982). */
static double qnet__components(qnet__evaluation *e, const int *label, const double *score,
                               size_t count, size_t m, double *component)
{
    const size_t n = count - m;
    uint64_t points = 0, a = 0, b = 0; /* points: twice the pairs won */
    qnet__rank_scores(e, score, label, count);
    for (size_t first = 0, end; first < count; first = end) {
        uint64_t p = 0, q, won_hh, won_hc; /* twice the pairs that an item of the class wins */
        end = qnet__run_end(e->ranked, count, first);
        for (size_t k = first; k < end; k++) p += e->ranked[k].hh;
        q = (uint64_t)(end - first) - p;
        won_hh = 2 * b + q;
        won_hc = 2 * ((uint64_t)m - a) - p;
        for (size_t k = first; component && k < end; k++)
            component[e->ranked[k].item] = e->ranked[k].hh ? (double)won_hh / (2.0 * (double)n)
                                                           : (double)won_hc / (2.0 * (double)m);
        points += p * won_hh;
        a += p;
        b += q;
    }
    return (double)points / (double)(2u * (uint64_t)m * (uint64_t)n);
}

QNET_API qnet_status qnet_auc(qnet_context *ctx, const int *label, const double *score,
                              size_t count, double *auc)
{
    qnet__evaluation e;
    size_t m;
    if (!auc) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_auc: auc is NULL");
    QNET__TRY(qnet__check_curve(ctx, "qnet_auc", label, score, count, &m));
    QNET__TRY(qnet__evaluation_create(ctx, count, 0, 0, &e));
    *auc = qnet__components(&e, label, score, count, m, NULL);
    qnet__evaluation_destroy(ctx, &e);
    return QNET_OK;
}

/* ---- DeLong's test ------------------------------------------------------------------------- */

/* AUC -+ 1.96 sqrt(variance), clipped to 0..1. */
static qnet_interval qnet__auc_interval(double auc, double variance)
{
    const double half = 1.95996398454005423552 * sqrt(variance > 0.0 ? variance : 0.0);
    qnet_interval r;
    r.low = auc - half > 0.0 ? auc - half : 0.0;
    r.high = auc + half < 1.0 ? auc + half : 1.0;
    return r;
}

/* logit(AUC) -+ 1.96 sqrt(variance) / (AUC (1 - AUC)), the error by the delta method, and back. */
QNET_API qnet_interval qnet_logit_interval(double auc, double variance)
{
    const double logit = log(auc / (1 - auc)); /* +-infinity without variance: stays there */
    const double half = variance > 0 ? 1.959963984540054 * sqrt(variance) / (auc * (1 - auc)) : 0;
    qnet_interval r;
    r.low = half > 0 ? 1 / (1 + exp(half - logit)) : auc;
    r.high = half > 0 ? 1 / (1 + exp(-half - logit)) : auc;
    return r;
}

/* Covariances of AUCs for clustered data (Obuchowski 1997):
     cov = S10/m + S01/n + (S11 + S11')/(m n),
     S10 = I10 / ((I10 - 1) m) sum_c x_c x'_c,   x_c = sum of V10 - AUC over HH items of c
     S01 = I01 / ((I01 - 1) n) sum_c y_c y'_c,   y_c = sum of V01 - AUC over HC items of c
     S11 = I   / (I - 1)       sum_c x_c y'_c
   with I clusters, I10 of them with HH and I01 with HC items. With clusters of one item (cluster
   NULL), I10 = m, I01 = n and every x_c y_c = 0: what is left is DeLong's cov(V10)/m + cov(V01)/n
   with m-1 and n-1. value: variances of AUC 1 and AUC 2, their covariance, and the variance of
   their difference, formed item by item: curves that differ nowhere have exactly 0. With one curve
   the second is the first. */
static qnet_status qnet__covariances(qnet_context *ctx, qnet__evaluation *e, const int *label,
                                     const int *cluster, size_t count, size_t m, int curves,
                                     const double auc[2], double value[4])
{
    static const int pair[4][2] = { { 0, 0 }, { 1, 1 }, { 0, 1 }, { 2, 2 } };
    const double *v0 = e->component[0], *v1 = e->component[curves - 1], auc1 = auc[curves - 1];
    const double hh = (double)m, hc = (double)(count - m);
    double s10[4], s01[4], s11[4];
    size_t units = 0, with[2] = { 0, 0 }; /* I, and I01 and I10 */
    memset(s10, 0, sizeof s10);
    memset(s01, 0, sizeof s01);
    memset(s11, 0, sizeof s11);
    if (cluster) qnet__rank_clusters(e, cluster, count);
    for (size_t first = 0, end; first < count; first = end, units++) {
        double sum[2][3]; /* [class][AUC 1, AUC 2, their difference] */
        int has[2] = { 0, 0 };
        memset(sum, 0, sizeof sum);
        end = cluster ? qnet__run_end(e->ranked, count, first) : first + 1;
        for (size_t k = first; k < end; k++) {
            const size_t i = cluster ? e->ranked[k].item : k;
            const int y = label[i];
            sum[y][0] += v0[i] - auc[0];
            sum[y][1] += v1[i] - auc1;
            sum[y][2] += (v0[i] - v1[i]) - (auc[0] - auc1);
            has[y] = 1;
        }
        with[0] += (size_t)has[0];
        with[1] += (size_t)has[1];
        for (int j = 0; j < 4; j++) {
            const double x = sum[1][pair[j][0]], y = sum[0][pair[j][0]];
            const double x2 = sum[1][pair[j][1]], y2 = sum[0][pair[j][1]];
            s10[j] += x * x2;
            s01[j] += y * y2;
            s11[j] += x * y2 + x2 * y;
        }
    }
    if (with[0] < 2 || with[1] < 2) {
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "qnet_delong_test: a variance needs two %s of each class, found %lu with "
                          "HH and %lu with HC",
                          cluster ? "clusters" : "items", (unsigned long)with[1],
                          (unsigned long)with[0]);
    }
    for (int j = 0; j < 4; j++) {
        value[j] = (double)with[1] / ((double)(with[1] - 1) * hh * hh) * s10[j] +
                   (double)with[0] / ((double)(with[0] - 1) * hc * hc) * s01[j] +
                   (double)units / ((double)(units - 1) * hh * hc) * s11[j];
    }
    return QNET_OK;
}

/* The test of H0: AUC 1 = AUC 2 for two scores of the same items, which are correlated:
     z = (AUC 1 - AUC 2) / se,  se^2 = var 1 + var 2 - 2 cov,  p = 2 Phi(-|z|)
   (DeLong et al. 1988; paper, Table 2). se^2 is taken as the variance of the differences. By
   cluster it is the test that slices of one subject ask for: taken as independent, they make se
   too small and p too sure. */
QNET_API qnet_status qnet_delong_test(qnet_context *ctx, const int *label, const double *score1,
                                      const double *score2, const int *cluster, size_t count,
                                      qnet_delong *out)
{
    const int curves = score2 ? 2 : 1;
    qnet__evaluation e;
    qnet_delong r;
    qnet_status status;
    double value[4];
    size_t m;
    memset(&r, 0, sizeof r);
    if (!out) return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_delong_test: out is NULL");
    QNET__TRY(qnet__check_curve(ctx, "qnet_delong_test, score1", label, score1, count, &m));
    if (score2)
        QNET__TRY(qnet__check_curve(ctx, "qnet_delong_test, score2", label, score2, count, &m));
    QNET__TRY(qnet__evaluation_create(ctx, count, curves, 0, &e));
    for (int k = 0; k < curves; k++) {
        r.auc[k] = qnet__components(&e, label, k ? score2 : score1, count, m, e.component[k]);
    }
    status = qnet__covariances(ctx, &e, label, cluster, count, m, curves, r.auc, value);
    qnet__evaluation_destroy(ctx, &e);
    if (status != QNET_OK) return status;
    for (int k = 0; k < curves; k++) {
        r.variance[k] = value[k];
        r.ci[k] = qnet__auc_interval(r.auc[k], r.variance[k]);
    }
    if (curves == 2) {
        const double d = r.auc[0] - r.auc[1];
        r.covariance = value[2];
        /* What is left of equal variances is rounding. */
        if (value[3] > 1e-14 * (r.variance[0] + r.variance[1])) r.se = sqrt(value[3]);
        if (d != 0.0) r.z = r.se > 0.0 ? d / r.se : d > 0.0 ? HUGE_VAL : -HUGE_VAL;
        r.p = erfc(fabs(r.z) * 0.70710678118654752440); /* 2 Phi(-|z|), right far into the tail */
    }
    *out = r;
    return QNET_OK;
}

/* The level of a p-value as the paper's Table 2 and Fig. 7 mark it. */
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

/* One bootstrap (Efron 1979). A unit is what is drawn: an item, or a whole cluster, because a
   resample of slices from known subjects would vary less than new subjects do. */
typedef struct qnet__bootstrap {
    const qnet__evaluation *e; /* ranked: in the order of rising score, with units as items */
    size_t count, units;
    uint64_t seed;
} qnet__bootstrap;

/* The AUC where an item counts as often as its unit was drawn, by the sum of qnet__components. In
   double, in which whole numbers below 2^53 are exact. NaN when a class was not drawn. */
static double qnet__weighted_auc(const qnet__ranked *ranked, size_t count, const uint32_t *weight)
{
    double points = 0.0, hh = 0.0, hc = 0.0;
    for (size_t first = 0, end; first < count; first = end) {
        double p, q;
        uint64_t all = 0, of_hh = 0;
        end = qnet__run_end(ranked, count, first);
        for (size_t k = first; k < end; k++) {
            const uint64_t w = weight[ranked[k].item];
            all += w;
            of_hh += w * ranked[k].hh;
        }
        p = (double)of_hh;
        q = (double)(all - of_hh);
        points += p * (2.0 * hc + q);
        hh += p;
        hc += q;
    }
    return hh > 0.0 && hc > 0.0 ? points / (2.0 * hh * hc) : (double)NAN;
}

/* One resample: as many units as there are, drawn with replacement; drawn again while one class is
   missing. Resample `index` has a stream of random numbers of its own, so the result depends
   neither on the number of workers nor on the order of the tasks. */
static void qnet__bootstrap_task(void *arg, size_t index, size_t worker)
{
    const qnet__bootstrap *b = (const qnet__bootstrap *)arg;
    uint32_t *weight = b->e->weight + worker * b->count;
    qnet_rng rng = qnet_rng_at(b->seed, QNET_RANDOM_BOOTSTRAP, 0, (uint64_t)index);
    double auc = (double)NAN;
    for (int attempt = 0; attempt < QNET__BOOTSTRAP_TRIES && auc != auc; attempt++) {
        memset(weight, 0, b->units * sizeof *weight);
        for (size_t k = 0; k < b->units; k++) weight[qnet_rng_below(&rng, (uint32_t)b->units)]++;
        auc = qnet__weighted_auc(b->e->ranked, b->count, weight);
    }
    b->e->auc[index] = auc;
}

QNET_API qnet_status qnet_bootstrap_auc(qnet_context *ctx, const int *label, const double *score,
                                        const int *cluster, size_t count, int resamples,
                                        uint64_t seed, double *auc)
{
    qnet__evaluation e;
    qnet__bootstrap b;
    size_t m, drawn = 0;
    if (!auc || resamples < 1) {
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "qnet_bootstrap_auc: expected room for auc and 1 resample at least, "
                          "found %s and %d",
                          auc ? "room" : "NULL", resamples);
    }
    QNET__TRY(qnet__check_curve(ctx, "qnet_bootstrap_auc", label, score, count, &m));
    QNET__TRY(qnet__evaluation_create(ctx, count, 0, (size_t)resamples, &e));
    b.e = &e;
    b.count = count;
    b.units = cluster ? 0 : count;
    b.seed = seed;
    for (size_t i = 0; i < count; i++) e.unit[i] = (uint32_t)i;
    if (cluster) { /* units are counted in the order of the clusters' values */
        qnet__rank_clusters(&e, cluster, count);
        for (size_t first = 0, end; first < count; first = end, b.units++) {
            end = qnet__run_end(e.ranked, count, first);
            for (size_t k = first; k < end; k++) e.unit[e.ranked[k].item] = (uint32_t)b.units;
        }
    }
    qnet__rank_scores(&e, score, label, count);
    for (size_t k = 0; k < count; k++) e.ranked[k].item = e.unit[e.ranked[k].item];
    qnet__parallel(ctx, (size_t)resamples, qnet__bootstrap_task, &b);
    while (drawn < (size_t)resamples && e.auc[drawn] == e.auc[drawn]) drawn++;
    if (drawn == (size_t)resamples) memcpy(auc, e.auc, drawn * sizeof *auc);
    qnet__evaluation_destroy(ctx, &e);
    if (drawn < (size_t)resamples) {
        return qnet__fail(ctx, QNET_ERROR_DATA,
                          "qnet_bootstrap_auc: resample %lu: one class in each of %d samples drawn",
                          (unsigned long)drawn, QNET__BOOTSTRAP_TRIES);
    }
    return QNET_OK;
}

/* The share-quantile of values, whose rising order is known, by linear interpolation at position
   share * (count - 1): type 7 of Hyndman & Fan 1996, numpy's and R's default. */
static double qnet__order_quantile(const double *values, const qnet__ranked *ranked, size_t count,
                                   double share)
{
    const double at = share * (double)(count - 1);
    const size_t below = qnet__min_size((size_t)at, count - 1);
    const double low = values[ranked[below].item];
    const double high = values[ranked[qnet__min_size(below + 1, count - 1)].item];
    return low + (at - (double)below) * (high - low);
}

/* What a box plot shows: quartiles, and as ends of the whiskers the 2.5th and 97.5th percentile,
   the bootstrap's percentile interval. std has count - 1 below; 0 for one value. */
QNET_API qnet_status qnet_boxplot_of(qnet_context *ctx, const double *values, size_t count,
                                     qnet_boxplot *out)
{
    qnet__evaluation e;
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
    QNET__TRY(qnet__evaluation_create(ctx, count, 0, 0, &e));
    qnet__rank_scores(&e, values, NULL, count);
    for (size_t i = 0; i < count; i++) sum += values[e.ranked[i].item];
    r.mean = sum / (double)count;
    for (size_t i = 0; i < count; i++) {
        const double d = values[e.ranked[i].item] - r.mean;
        squares += d * d;
    }
    r.std = count > 1 ? sqrt(squares / (double)(count - 1)) : 0.0;
    r.low = qnet__order_quantile(values, e.ranked, count, 0.025);
    r.q1 = qnet__order_quantile(values, e.ranked, count, 0.25);
    r.median = qnet__order_quantile(values, e.ranked, count, 0.5);
    r.q3 = qnet__order_quantile(values, e.ranked, count, 0.75);
    r.high = qnet__order_quantile(values, e.ranked, count, 0.975);
    *out = r;
    qnet__evaluation_destroy(ctx, &e);
    return QNET_OK;
}
#endif

#if QNET__HAS_NETWORKS
/* ============================================================================================
   >>cam
   Class activation maps (Zhou et al. 2016; paper, Fig. 9 and 10). The class score is linear in the
   averaged features, score = sum_c w[c] mean_p f[p][c] + b = mean_p (sum_c w[c] f[p][c]) + b, so
   the inner sum, one number per pixel p of the last map, says how much each place adds to it.
   Relies on >>context >>tensor >>resnet >>image.
   ============================================================================================ */

/* raw[p] = sum_c fc.weight[class][c] f[p][c] over the pixels p of image `index`;
   map[height][width] = (raw - its least) / (its greatest - its least), resized, and 0 everywhere
   where raw is flat. The bias, the same everywhere, drops out. The sums are taken in double and
   allocated for this call: no training step comes here. */
QNET_API qnet_status qnet_cam(const qnet_resnet *net, int index, int class_index, float *map,
                              float *raw)
{
    qnet_context *ctx;
    qnet_tensor features;
    const qnet_real *f, *w;
    float *sums, low = FLT_MAX, high = -FLT_MAX;
    size_t pixels, bytes;
    qnet_status status = QNET_OK;
    if (net == NULL || map == NULL)
        return qnet__fail(net ? net->ctx : NULL, QNET_ERROR_ARGUMENT, "cam: net or map is NULL");
    ctx = net->ctx;
    features = qnet_resnet_feature_map(net);
    if (features.data == NULL)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "cam: expected a forward pass before");
    if (index < 0 || (size_t)index >= features.shape[0])
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "cam: image must be 0..%d, as in the last forward pass, found %d",
                          (int)features.shape[0] - 1, index);
    if (class_index < 0 || class_index >= net->config.classes)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "cam: class must be 0..%d, found %d",
                          net->config.classes - 1, class_index);
    w = net->weights + (size_t)class_index * QNET_FEATURES +
        net->table->entries[qnet_param_find(net->table, "fc.weight")].offset;
    pixels = features.shape[1] * features.shape[2];
    f = features.data + (size_t)index * pixels * QNET_FEATURES;
    bytes = pixels * sizeof(float);
    sums = (float *)qnet__alloc(ctx, bytes);
    if (sums == NULL)
        return qnet__no_memory(ctx, bytes, "a class activation map");
    for (size_t p = 0; p < pixels; p++) {
        double sum = 0;
        for (size_t c = 0; c < QNET_FEATURES; c++)
            sum += (double)w[c] * (double)f[p * QNET_FEATURES + c];
        sums[p] = (float)sum;
        low = sums[p] < low ? sums[p] : low;
        high = sums[p] > high ? sums[p] : high;
        if (!qnet__is_finite((double)sums[p]))
            status = qnet__fail(ctx, QNET_ERROR_NUMERIC, "cam: the features or fc.weight of class "
                                "%d hold NaN or infinity", class_index);
    }
    if (status == QNET_OK) {
        if (raw != NULL)
            memcpy(raw, sums, bytes);
        for (size_t p = 0; p < pixels; p++)
            sums[p] = high > low ? (sums[p] - low) / (high - low) : 0.0f;
        qnet_image_resize(sums, (int)features.shape[1], (int)features.shape[2], 1, map,
                          net->config.height, net->config.width);
    }
    qnet__free(ctx, sums, bytes);
    return status;
}

/* v clipped to 0..1; NaN gives 0. */
static double qnet__unit_range(double v)
{
    return v > 0 ? v < 1 ? v : 1 : 0;
}

/* The same as 0..255. */
static uint8_t qnet__cam_byte(double v)
{
    return (uint8_t)(qnet__unit_range(v) * 255 + 0.5);
}

/* MATLAB's and OpenCV's JET: blue 0, cyan, green .5, yellow, red 1; each colour is a trapezium of
   slope 4 around 1/4 (blue), 1/2 (green) and 3/4 (red). */
QNET_API void qnet_jet(double value, uint8_t rgb[3])
{
    for (int i = 0; i < 3; i++)
        rgb[i] = qnet__cam_byte(1.5 - fabs(4 * qnet__unit_range(value) - (3 - i)));
}

/* rgb = 0.3 JET(map) + 0.5 grey, the weights of Zhou et al.'s published program. */
QNET_API void qnet_cam_overlay(const float *map, const float *grey, int height, int width,
                               uint8_t *rgb)
{
    const size_t size = height > 0 && width > 0 ? (size_t)height * (size_t)width : 0;
    for (size_t p = 0; p < size; p++) {
        const double g = qnet__unit_range((double)grey[p]);
        uint8_t heat[3];
        qnet_jet((double)map[p], heat);
        for (size_t i = 0; i < 3; i++)
            rgb[3 * p + i] = qnet__cam_byte(0.3 * heat[i] / 255.0 + 0.5 * g);
    }
}
#endif

#if QNET__HAS_EXPERIMENT
/* ============================================================================================
   >>experiment
   The paper's experiment on one cohort: for each input configuration, repeat and fold
     stage 1            ResNet       cosine annealing over all epochs
     stage 1 with SWA   ResNetSWA    the same run up to the first averaged epoch (so it continues
                                     from a checkpoint taken there), then its own tail
     features           512 per slice from the frozen ResNetSWA, computed once
     stage 2            Q-Net        BiLSTM and two heads
   and the test fold's probabilities by all three. Then, per input and per level (slices, scans):
   metrics, ROC, DeLong's test and bootstrap over the items [repeats][count]. Tables and pictures
   of the results are the caller's (config.publish). Read from the bottom: qnet_experiment_run,
   qnet__experiment_run, qnet__input_run, qnet__fold_run. Relies on >>context >>random >>file >>text
   >>resnet >>weights >>image >>cohort >>train >>metrics.
   Folds are dealt by subject, so that no model is tested on a subject that it, or a network that it
   began with, was trained on (paper, "Training Procedure"). Work in progress is in out/checkpoint:
     config.txt               the configuration, which a resume compares
     <fold>-resnet.checkpoint, -branch, -swa, -stage2      runs that a resume continues
     <fold>-result.safetensors     test probabilities and learning curves of a fold that is done
     weights/<fold>-resnet.safetensors, -resnetswa, -qnet  moved to out/weights at the end
     publish/                 predictions.csv and the caller's files, moved to out at the end
   where <fold> is such as crop-repeat01-fold03.
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
}

/* ---- predictions.csv ------------------------------------------------------------------------- */

/* text as a field after RFC 4180: in quotes, inner ones doubled, where it needs them. */
static void qnet__csv_field(char field[132], const char *text)
{
    const int quoted = strpbrk(text, ",\"\r\n") != NULL;
    if (quoted) *field++ = '"';
    for (; *text; text++) {
        if (*text == '"') *field++ = '"';
        *field++ = *text;
    }
    if (quoted) *field++ = '"';
    *field = '\0';
}

/* One item; a number that is not finite is an empty field. */
static qnet_status qnet__csv_row(const qnet_experiment *e, int input, int level, int repeat,
                                 const qnet_item *item, qnet_buffer *csv)
{
    const qnet_participant *p =
        item->scan >= 0 && item->scan < e->participants_count ? &e->participants[item->scan] : NULL;
    char subject[132], number[QNET_MODELS][32], slice[32] = ",", label[16] = "";
    qnet__csv_field(subject, p ? p->subject : "");
    for (int m = 0; m < QNET_MODELS; m++) {
        qnet__format_number(number[m], sizeof number[m], item->probability[m]);
        if (!qnet__is_finite(item->probability[m])) number[m][0] = '\0';
    }
    if (item->slice >= 0) snprintf(slice, sizeof slice, "%d,%d", item->slice, item->z);
    if (e->config.shuffle_labels && p)
        snprintf(label, sizeof label, ",%d", (int)p->true_label);
    return qnet_buffer_printf(e->ctx, csv, "%s,%s,%d,%d,%s,%d,%s,%d,%s,%s,%s,%d,%d,%d%s\n",
                              qnet_level_name((qnet_level)level),
                              qnet_input_name((qnet_input)input), repeat + 1, item->fold + 1,
                              subject, item->scan, slice, item->label, number[0], number[1],
                              number[2], item->decision[0], item->decision[1], item->decision[2],
                              label);
}

/* Image level first, crop before full, repeat by repeat, in the order of the cohort. */
QNET_API qnet_status qnet_experiment_csv(const qnet_experiment *e, qnet_buffer *csv)
{
    qnet_status status;
    size_t start;
    if (!e) return QNET_ERROR_ARGUMENT;
    if (!csv)
        return qnet__fail(e->ctx, QNET_ERROR_ARGUMENT, "qnet_experiment_csv: the buffer is NULL");
    start = csv->size;
    status = qnet_buffer_printf(e->ctx, csv, "level,input,repeat,fold,subject,scan,slice,z,%slabel,"
                                "p_resnet,p_resnetswa,p_qnet,d_resnet,d_resnetswa,d_qnet%s\n",
                                e->config.shuffle_labels ? "shuffled_" : "",
                                e->config.shuffle_labels ? ",true_label" : "");
    for (int k = 0; k < 2 * QNET_LEVELS; k++) {
        const int level = k / 2, input = k % 2;
        const qnet_level_result *r = &e->level[input][level];
        const size_t rows = e->config.use_input[input] ? (size_t)e->config.repeats * r->count : 0;
        for (size_t i = 0; i < rows && status == QNET_OK; i++)
            status = qnet__csv_row(e, input, level, (int)(i / r->count), &r->items[i], csv);
    }
    if (status != QNET_OK) { /* the buffer as it was */
        csv->size = start;
        if (csv->bytes) csv->bytes[start] = 0;
    }
    return status;
}

/* The memory of an experiment's results is a list of such blocks; data follow at QNET__ALIGN. */
typedef struct qnet__block {
    struct qnet__block *next;
    size_t bytes;
} qnet__block;

#ifndef QNET_NO_STDIO

/* ---- configuration as text --------------------------------------------------------------------
   What a resume compares, and what weights files carry. */

static const qnet__setting qnet__experiment_settings[] = {
    QNET__SETTING(qnet_experiment_config, 'i', folds, 2, INT_MAX),
    QNET__SETTING(qnet_experiment_config, 'i', repeats, 1, 99),
    QNET__SETTING(qnet_experiment_config, 'i', shuffle_labels, 0, 1),
    QNET__SETTINGS_END
};

/* A preparation: where the slices come from and what the network sees of them. */
static qnet_status qnet__preparation_text(qnet_context *ctx, const qnet_input_config *in,
                                          const qnet_augment_config *a, qnet_buffer *text)
{
    QNET__TRY(qnet_buffer_printf(ctx, text, "input=%s\npreparation=%d\n",
                                 qnet_input_name(in->input), QNET__PREPARATION));
    QNET__TRY(qnet__settings_text(ctx, text, "", qnet__input_settings, in));
    return qnet__settings_text(ctx, text, "", qnet__stretch_settings, a);
}

/* Every number that changes what a fold computes; the evaluation behind the folds is made anew. */
static qnet_status qnet__experiment_text(const qnet_experiment *e, qnet_buffer *text)
{
    qnet_context *ctx = e->ctx;
    const qnet_experiment_config *c = &e->config;
    const qnet_augment_config *a = &c->stage1.augment;
    QNET__TRY(qnet_buffer_printf(ctx, text, "version=%s\nfolds_of_repeats=2\nreal=%s\nkernels=%s\n"
                                 "weights=%016llx\n", /* 2: the second way to seed them */
                                 QNET_VERSION, QNET__REAL_IS_DOUBLE ? "double" : "float",
                                 qnet__kernels_name(ctx), (unsigned long long)e->weights_hash));
    for (int i = 0; i < 2; i++)
        if (c->use_input[i]) QNET__TRY(qnet__preparation_text(ctx, &c->input[i], a, text));
    QNET__TRY(qnet__settings_text(ctx, text, "", qnet__experiment_settings, c));
    QNET__TRY(qnet_buffer_printf(ctx, text, "seed=%llu\n", (unsigned long long)c->seed));
    QNET__TRY(qnet__settings_text(ctx, text, "stage1.", qnet__stage1_settings, &c->stage1));
    QNET__TRY(qnet__settings_text(ctx, text, "augment.", qnet__augment_settings, a));
    return qnet__settings_text(ctx, text, "stage2.", qnet__stage2_settings, &c->stage2);
}

/* All ranges, before a file is touched. */
static qnet_status qnet__experiment_check(qnet_context *ctx, const qnet_experiment_config *c)
{
    if (!c->use_input[0] && !c->use_input[1])
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "experiment: no input configuration is chosen");
    QNET__TRY(qnet__settings_check(ctx, "experiment", qnet__experiment_settings, c));
    if (c->bootstrap < 2 || c->bootstrap > 10000000) /* no setting: a resume may change it */
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "experiment: bootstrap %d: expected 2 to 1e7",
                          c->bootstrap);
    QNET__TRY(qnet__stage1_config_check(ctx, &c->stage1));
    return qnet__stage2_config_check(ctx, &c->stage2);
}

/* ---- evaluation of one level ----------------------------------------------------------------- */

/* Mean and standard deviation (n - 1; NaN for one value) of count values, `step` apart, of which
   those that are not finite are left out. */
static qnet_mean_std qnet__mean_std(const double *values, int count, int step)
{
    qnet_mean_std r;
    double sum = 0, square = 0;
    int n = 0;
    for (int i = 0; i < count * step; i += step) {
        if (!qnet__is_finite(values[i])) continue;
        sum += values[i];
        n++;
    }
    r.mean = n ? sum / n : (double)NAN;
    for (int i = 0; i < count * step; i += step)
        if (qnet__is_finite(values[i])) square += (values[i] - r.mean) * (values[i] - r.mean);
    r.std = n > 1 ? sqrt(square / (n - 1)) : (double)NAN;
    return r;
}

#define QNET__FIGURES 5 /* accuracy, sensitivity, specificity, F1, AUC */

/* The columns of a level's items that the metrics read, and room for what is computed from them. */
typedef struct qnet__columns {
    int *label, *decision, *cluster; /* [n] */
    double *score, *score1;          /* [n] */
    double *boot;                    /* [bootstrap] */
    double *values;                  /* [the more of folds and repeats][QNET__FIGURES] */
    size_t n;
} qnet__columns;

/* Fills the columns with the items of one model, those of `fold` or (-1) all. subject[scan]: the
   index of its subject. */
static void qnet__columns_fill(qnet__columns *c, const qnet_item *items, size_t count, int model,
                               int fold, const int *subject)
{
    c->n = 0;
    for (size_t i = 0; i < count; i++) {
        if (fold >= 0 && items[i].fold != fold) continue;
        c->label[c->n] = items[i].label;
        c->decision[c->n] = items[i].decision[model];
        c->cluster[c->n] = subject[items[i].scan];
        c->score[c->n++] = items[i].probability[model];
    }
}

/* The figures of Tables 1 and 3. The AUC of items of one class is NaN. */
static qnet_status qnet__figures(qnet_context *ctx, const qnet__columns *c,
                                 double figure[QNET__FIGURES])
{
    qnet_metrics m;
    QNET__TRY(qnet_metrics_from(ctx, c->label, c->decision, c->n, &m));
    figure[0] = m.accuracy;
    figure[1] = m.sensitivity;
    figure[2] = m.specificity;
    figure[3] = m.f1;
    figure[4] = (double)NAN;
    if (m.count.tp + m.count.fn == 0 || m.count.tn + m.count.fp == 0) return QNET_OK;
    return qnet_auc(ctx, c->label, c->score, c->n, &figure[4]);
}

/* One line of Tables 1 and 3, and the mean of the AUCs within the folds of the first repeat: mean
   and deviation over repeats, or of one repeat the pooled value and the deviation over folds. On
   return the columns hold all items of the first repeat. */
static qnet_status qnet__evaluate_figures(qnet_context *ctx, const qnet_experiment_config *config,
                                          const qnet_level_result *level, int model,
                                          const int *subject, qnet__columns *c,
                                          qnet_model_result *out)
{
    qnet_mean_std *const cell[QNET__FIGURES] = {&out->accuracy, &out->sensitivity,
                                                &out->specificity, &out->f1, &out->auc};
    const size_t count = level->count;
    const int repeated = config->repeats > 1;
    double pooled[QNET__FIGURES];
    for (int fold = 0; fold < config->folds; fold++) {
        qnet__columns_fill(c, level->items, count, model, fold, subject);
        QNET__TRY(qnet__figures(ctx, c, c->values + fold * QNET__FIGURES));
    }
    out->auc_within_folds = qnet__mean_std(c->values + 4, config->folds, QNET__FIGURES).mean;
    for (int k = 0; k < config->repeats && repeated; k++) {
        qnet__columns_fill(c, level->items + (size_t)k * count, count, model, -1, subject);
        QNET__TRY(qnet__figures(ctx, c, c->values + k * QNET__FIGURES));
    }
    qnet__columns_fill(c, level->items, count, model, -1, subject);
    QNET__TRY(qnet__figures(ctx, c, pooled));
    for (int q = 0; q < QNET__FIGURES; q++) {
        *cell[q] = qnet__mean_std(c->values + q, repeated ? config->repeats : config->folds,
                                  QNET__FIGURES);
        if (!repeated) cell[q]->mean = pooled[q];
    }
    return QNET_OK;
}

/* Everything of one model on the first repeat: metrics, ROC curve, and the AUC's intervals by
   DeLong and by bootstrap, each over items and over subjects. Slices of a subject are not
   independent: intervals over items, those of the paper, are too narrow (Obuchowski 1997). */
static qnet_status qnet__evaluate_model(qnet_context *ctx, const qnet_experiment_config *config,
                                        const qnet__columns *c, qnet_model_result *out)
{
    const size_t n = c->n;
    qnet_delong d;
    QNET__TRY(qnet_metrics_from(ctx, c->label, c->decision, n, &out->first));
    QNET__TRY(qnet_auc(ctx, c->label, c->score, n, &out->auc_first));
    QNET__TRY(qnet_delong_test(ctx, c->label, c->score, NULL, NULL, n, &d));
    out->auc_ci = d.ci[0];
    QNET__TRY(qnet_delong_test(ctx, c->label, c->score, NULL, c->cluster, n, &d));
    out->auc_ci_clustered = qnet_logit_interval(d.auc[0], d.variance[0]);
    QNET__TRY(qnet_roc(ctx, c->label, c->score, n, out->roc, &out->roc_count));
    for (int by_subject = 0; by_subject < 2; by_subject++) {
        QNET__TRY(qnet_bootstrap_auc(ctx, c->label, c->score, by_subject ? c->cluster : NULL, n,
                                     config->bootstrap, config->seed, c->boot));
        QNET__TRY(qnet_boxplot_of(ctx, c->boot, (size_t)config->bootstrap,
                                  by_subject ? &out->bootstrap_clustered : &out->bootstrap));
    }
    return QNET_OK;
}

/* The models one by one, then the pairs of Table 2, in its order. */
static qnet_status qnet__evaluate_columns(qnet_context *ctx, const qnet_experiment_config *config,
                                          qnet_level_result *level, const int *subject,
                                          qnet__columns *c)
{
    static const qnet_model_kind pairs[3][2] = { { QNET_MODEL_RESNET_SWA, QNET_MODEL_RESNET },
                                                 { QNET_MODEL_QNET, QNET_MODEL_RESNET },
                                                 { QNET_MODEL_QNET, QNET_MODEL_RESNET_SWA } };
    for (int m = 0; m < QNET_MODELS; m++) {
        qnet_model_result *out = &level->model[m];
        QNET__TRY(qnet__evaluate_figures(ctx, config, level, m, subject, c, out));
        QNET__TRY(qnet__evaluate_model(ctx, config, c, out));
    }
    for (int k = 0; k < 3; k++) {
        qnet_pair_result *pair = &level->pair[k];
        pair->model1 = pairs[k][0];
        pair->model2 = pairs[k][1];
        qnet__columns_fill(c, level->items, level->count, (int)pair->model1, -1, subject);
        memcpy(c->score1, c->score, c->n * sizeof *c->score);
        qnet__columns_fill(c, level->items, level->count, (int)pair->model2, -1, subject);
        QNET__TRY(qnet_delong_test(ctx, c->label, c->score1, c->score, NULL, c->n, &pair->by_item));
        QNET__TRY(qnet_delong_test(ctx, c->label, c->score1, c->score, c->cluster, c->n,
                                   &pair->by_subject));
    }
    return QNET_OK;
}

/* Fills a level's results from its items. */
static qnet_status qnet__evaluate_level(qnet_experiment *e, qnet_level_result *level,
                                        const int *subject)
{
    qnet__arena arena = { NULL, 0 };
    qnet__columns c;
    qnet_status status;
    size_t bytes = 0;
    memset(&c, 0, sizeof c);
    for (int pass = 0; pass < 2; pass++) {
        c.label = (int *)qnet__take(&arena, level->count, sizeof(int));
        c.decision = (int *)qnet__take(&arena, level->count, sizeof(int));
        c.cluster = (int *)qnet__take(&arena, level->count, sizeof(int));
        c.score = (double *)qnet__take(&arena, level->count, sizeof(double));
        c.score1 = (double *)qnet__take(&arena, level->count, sizeof(double));
        c.boot = (double *)qnet__take(&arena, (size_t)e->config.bootstrap, sizeof(double));
        c.values = (double *)qnet__take(
            &arena, (size_t)qnet__max_int(e->config.repeats, e->config.folds),
            QNET__FIGURES * sizeof(double));
        if (pass == 0) QNET__TRY(qnet__arena_alloc(e->ctx, &arena, &bytes, "the evaluation"));
    }
    status = qnet__evaluate_columns(e->ctx, &e->config, level, subject, &c);
    qnet__free(e->ctx, arena.base, bytes);
    return status;
}

/* ---- what the work on a fold needs ----------------------------------------------------------- */

/* One lives in qnet_experiment_run and is passed down. */
typedef struct qnet__job {
    qnet_experiment *e;
    const qnet_dataset *data;
    qnet_cohort *cohort;
    qnet_resnet *initial; /* holds the initial weights; NULL: random ones */
    int new_head;         /* 1: its fc is none of the file's, and drawn anew for each fold */
    char subjects[24];    /* hash of the names of the cohort's subjects, in their order */
    char trained_on[24];  /* the same of initial weights that have no records; "": not known */
    qnet_buffer seen;     /* records of the subjects that the initial weights have seen */
    qnet_buffer text;     /* the configuration, as config.txt holds it */
    uint64_t fingerprint; /* of configuration, cohort and initial weights: the run's identity */
    int resume;
    int opened;           /* 1: out/checkpoint is there and is this run's */
    int input, repeat, fold; /* all from 0 */
    /* By scan of the cohort, each [scans]: */
    int *subject, *fold_of;  /* a subject is the index of its first scan */
    int *image_at;           /* a scan's first image among all of the cohort */
    /* Of the fold, with room for all scans: */
    int *train, *test;       /* scans of its two sides */
    int *length, *label;     /* for stage 2 */
    int train_count, test_count, test_images;
    qnet_real *features;     /* [scans][max_slices][512] */
    double *image, *scan;    /* [scans][max_slices], [scans]: probabilities of HH */
    uint64_t embedding_hash; /* of its resnetswa file, once it is written */
    /* Its result: */
    double *test_image;      /* [QNET_MODELS][images of the test scans, in order] */
    double *test_scan;       /* [QNET_MODELS][test scans] */
    qnet_epoch *curve[QNET_MODELS];
    /* Progress, in epochs of stage 1: */
    qnet_progress outer;     /* the caller's hook */
    char where[64];
    double share_before, share; /* of the whole job: earlier inputs, this input */
    double epochs;           /* of this input, before the present stage-1 run */
    int run_first;           /* epoch at which that began; -1: not stage 1 */
} qnet__job;

/* Epochs of stage 1 of a fold, where the runs with and without SWA share the first ones. */
static int qnet__fold_epochs(const qnet_experiment_config *c)
{
    return 2 * c->stage1.epochs - qnet_stage1_swa_start(&c->stage1);
}

/* Length of a model's learning curve. */
static int qnet__model_epochs(const qnet_experiment_config *c, int model)
{
    return model == QNET_MODEL_QNET ? c->stage2.epochs : c->stage1.epochs;
}

/* The arrays of an input's folds; with base NULL it only measures. */
static void qnet__job_plan(qnet__job *job, qnet__arena *a, size_t images)
{
    const size_t n = (size_t)job->cohort->scans_count;
    const size_t steps = (size_t)job->cohort->config.max_slices;
    int **const ints[] = {&job->subject, &job->fold_of, &job->image_at, &job->train, &job->test,
                          &job->length, &job->label};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        *ints[i] = (int *)qnet__take(a, n, sizeof(int));
    job->features = (qnet_real *)qnet__take(a, n * steps, QNET_FEATURES * sizeof(qnet_real));
    job->image = (double *)qnet__take(a, n * steps, sizeof(double));
    job->scan = (double *)qnet__take(a, n, sizeof(double));
    job->test_image = (double *)qnet__take(a, images, QNET_MODELS * sizeof(double));
    job->test_scan = (double *)qnet__take(a, n, QNET_MODELS * sizeof(double));
}

/* Memory that is freed with the experiment: count * size bytes, zeroed. NULL, with the sentence of
   the error set, when there is none. */
static void *qnet__experiment_alloc(qnet_experiment *e, size_t count, size_t size, const char *what)
{
    size_t bytes = SIZE_MAX;
    qnet__block *block = NULL;
    if (qnet__mul(count, size, &bytes) && qnet__add(bytes, QNET__ALIGN, &bytes))
        block = (qnet__block *)qnet__alloc(e->ctx, bytes);
    if (block == NULL) {
        (void)qnet__no_memory(e->ctx, bytes, what);
        return NULL;
    }
    memset(block, 0, bytes);
    block->next = e->blocks;
    block->bytes = bytes;
    e->blocks = block;
    return (unsigned char *)block + QNET__ALIGN;
}

#define QNET__PATH 960 /* bytes: out, two folders, and a name */

/* The path out/<folder>/<input>-repeat01-fold03-<name>. */
static void qnet__fold_path(const qnet_experiment *e, const char *folder, int input, int repeat,
                            int fold, const char *name, char path[QNET__PATH])
{
    snprintf(path, QNET__PATH, "%s/%s/%s-repeat%02d-fold%02d-%s", e->out, folder,
             qnet_input_name((qnet_input)input), repeat + 1, fold + 1, name);
}

/* Of the current fold, in out/checkpoint. */
static void qnet__job_path(const qnet__job *job, const char *name, char path[QNET__PATH])
{
    qnet__fold_path(job->e, "checkpoint", job->input, job->repeat, job->fold, name, path);
}

static const char *const qnet__weights_files[QNET_MODELS] = {
    "resnet.safetensors", "resnetswa.safetensors", "qnet.safetensors"};

/* The experiment's own progress hook: adds where and the share of the whole job, and passes on. */
static int qnet__job_progress(void *user, const qnet_progress_info *info)
{
    const qnet__job *job = (const qnet__job *)user;
    const qnet_experiment_config *c = &job->e->config;
    const double total = (double)qnet__fold_epochs(c) * c->folds * c->repeats;
    double epochs = job->epochs;
    qnet_progress_info full = *info;
    if (!job->outer.report) return 0;
    if (job->run_first >= 0) { /* without an epoch: the batch-norm pass behind the last one */
        double done = (info->epoch > 0 ? info->epoch - 1 : c->stage1.epochs) - job->run_first;
        if (info->epoch > 0 && info->steps > 0) done += (double)info->step / (double)info->steps;
        if (done > 0) epochs += done;
    }
    full.where = job->where;
    full.fraction = job->share_before + job->share * (epochs < total ? epochs / total : 1);
    return job->outer.report(job->outer.user, &full);
}

/* The seed of a stage: one number per repeat and fold, so that no two runs share a stream. */
static uint64_t qnet__job_seed(const qnet__job *job)
{
    const uint64_t h = qnet_hash(QNET_HASH_START, &job->e->config.seed, sizeof(uint64_t));
    const uint32_t place[3] = {(uint32_t)job->input, (uint32_t)job->repeat, (uint32_t)job->fold};
    return qnet_hash(h, place, sizeof place);
}

/* The first repeat's folds are those of the seed. Those of later repeats are drawn from (seed,
   repeat): with seed + repeat, two experiments of neighbouring seeds would share folds. */
static uint64_t qnet__folds_seed(uint64_t seed, int repeat)
{
    qnet_rng rng = qnet_rng_at(seed, QNET_RANDOM_FOLDS, 2, (uint64_t)repeat); /* 0, 1: classes */
    const uint64_t high = qnet_rng_u32(&rng);
    return repeat == 0 ? seed : high << 32 | qnet_rng_u32(&rng);
}

/* ---- what a weights file says of itself ------------------------------------------------------ */

#define QNET__RECORD 32 /* digits */

/* What it says of a subject on whom it was trained: hashes of the name and of the QSM map, of which
   the second tells who it is, whatever the name, the order or the crop. */
static void qnet__subject_record(const qnet_scan *scan, char record[QNET__RECORD + 1])
{
    snprintf(record, QNET__RECORD + 1, "%016llx%016llx",
             (unsigned long long)qnet_hash(QNET_HASH_START, scan->subject, strlen(scan->subject)),
             (unsigned long long)scan->source_hash);
}

/* Which run, input, fold and model it is, on whom it was trained, counting what its initial weights
   have seen, and how its images were prepared; of Q-Net also, on whose features it was trained
   (qnet_weights_check_pair). */
static qnet_status qnet__weights_text(const qnet__job *job, int model, qnet_buffer *text)
{
    static const char *const names[QNET_MODELS] = {"resnet", "resnetswa", "qnet"};
    qnet_context *ctx = job->e->ctx;
    const qnet_experiment_config *c = &job->e->config;
    QNET__TRY(qnet_buffer_printf(
        ctx, text,
        "model=%s\nversion=%s\nrun=%016llx\nsubjects=%s\nrepeat=%d\nfold=%d\nseed=%llu\n"
        "dataset=%s\nsimulated=%d\nlabels=%s\ntrained_on=%.*s",
        names[model], QNET_VERSION, (unsigned long long)job->fingerprint, job->subjects,
        job->repeat + 1, job->fold + 1, (unsigned long long)c->seed, job->e->dataset,
        job->e->simulated,
        c->shuffle_labels ? "shuffled" : "true", (int)job->seen.size,
        job->seen.size > 0 ? (const char *)job->seen.bytes : ""));
    for (int i = 0; i < job->train_count; i++) {
        char record[QNET__RECORD + 1];
        qnet__subject_record(&job->cohort->scans[job->train[i]], record);
        QNET__TRY(qnet_buffer_append(ctx, text, record, QNET__RECORD));
    }
    QNET__TRY(qnet_buffer_append(ctx, text, "\n", 1));
    if (model == QNET_MODEL_QNET)
        QNET__TRY(qnet_buffer_printf(ctx, text, "embedding=resnetswa\nembedding_hash=%016llx\n",
                                     (unsigned long long)job->embedding_hash));
    return qnet__preparation_text(ctx, &job->cohort->config, &c->stage1.augment, text);
}

/* Saves a trained network of this fold. */
static qnet_status qnet__job_save_weights(const qnet__job *job, int model,
                                          const qnet_param_table *table, const qnet_real *block)
{
    const char *pairs[2 * QNET__METADATA_PAIRS];
    char path[QNET__PATH];
    qnet_buffer text = {NULL, 0, 0, NULL};
    qnet_status status = qnet__weights_text(job, model, &text);
    qnet__fold_path(job->e, "checkpoint/weights", job->input, job->repeat, job->fold,
                    qnet__weights_files[model], path);
    if (status == QNET_OK) {
        const int n = qnet__metadata_pairs((char *)text.bytes, pairs);
        status = qnet_weights_save(job->e->ctx, path, table, block, pairs, n);
    }
    qnet_buffer_free(job->e->ctx, &text);
    return status;
}

/* The file is in out/checkpoint/weights or, once it has been published, in out/weights. */
static qnet_status qnet__experiment_weights_file(const qnet_experiment *e, int input, int repeat,
                                                 int fold, int model, qnet_safetensors **file)
{
    char path[QNET__PATH], expected[24];
    const char *run;
    qnet__fold_path(e, "checkpoint/weights", input, repeat, fold, qnet__weights_files[model], path);
    if (qnet__path_kind(path) == 0)
        qnet__fold_path(e, "weights", input, repeat, fold, qnet__weights_files[model], path);
    QNET__TRY(qnet_safetensors_load(e->ctx, path, file));
    snprintf(expected, sizeof expected, "%016llx", (unsigned long long)e->run[input]);
    run = qnet_safetensors_metadata(*file, "run");
    if (run != NULL && strcmp(run, expected) == 0) return QNET_OK;
    (void)qnet__fail(e->ctx, QNET_ERROR_MISMATCH, "%s: weights of run %.16s, expected %s", path,
                     run ? run : "unknown", expected);
    qnet_safetensors_destroy(*file);
    return QNET_ERROR_MISMATCH;
}

QNET_API qnet_status qnet_experiment_weights(const qnet_experiment *e, qnet_input input,
                                             int repeat, int fold, qnet_model_kind model,
                                             const qnet_param_table *table, qnet_real *weights)
{
    qnet_safetensors *file;
    qnet_status status;
    if (!e) return QNET_ERROR_ARGUMENT;
    if ((unsigned)input > 1 || repeat < 0 || fold < 0 || (unsigned)model >= QNET_MODELS || !table ||
        !weights)
        return qnet__fail(e->ctx, QNET_ERROR_ARGUMENT,
                          "qnet_experiment_weights: an argument is NULL or out of range");
    QNET__TRY(qnet__experiment_weights_file(e, (int)input, repeat, fold, (int)model, &file));
    status = qnet_weights_from_safetensors(e->ctx, file, table, weights, 0, NULL);
    qnet_safetensors_destroy(file);
    return status;
}

/* QNET_ERROR_MISMATCH for weights that were trained on permuted labels. */
static qnet_status qnet__check_labels(qnet_context *ctx, const qnet_safetensors *file,
                                      const char *path)
{
    const char *labels = qnet_safetensors_metadata(file, "labels");
    if (!labels || strcmp(labels, "shuffled") != 0) return QNET_OK;
    return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                      "%.250s: these weights were trained on shuffled labels, as a control; they "
                      "know nothing of the disease", path);
}

/* Compares the second half of each record. */
QNET_API int qnet_weights_have_seen(const qnet_safetensors *file, uint64_t source_hash)
{
    const char *seen = qnet_safetensors_metadata(file, "trained_on");
    char hash[QNET__RECORD / 2 + 1];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)source_hash);
    for (; seen != NULL && strlen(seen) >= QNET__RECORD; seen += QNET__RECORD)
        if (memcmp(seen + QNET__RECORD / 2, hash, QNET__RECORD / 2) == 0) return 1;
    return 0;
}

/* A preparation by another rule, or for shuffled labels, is refused: QNET_ERROR_MISMATCH. */
static qnet_status qnet__preparation_read(qnet_context *ctx, const qnet_safetensors *file,
                                          const char *path, qnet_input_config *in,
                                          qnet_augment_config *a)
{
    const char *name = qnet_safetensors_metadata(file, "input");
    const char *rule = qnet_safetensors_metadata(file, "preparation");
    double number;
    if (!name || (strcmp(name, "crop") != 0 && strcmp(name, "full") != 0))
        return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                          "%s: metadata \"input\" is \"%s\", expected crop or full", path,
                          name ? name : "");
    if (!rule || !qnet__parse_number(rule, &number) || number != QNET__PREPARATION)
        return qnet__fail(ctx, QNET_ERROR_MISMATCH,
                          "%s: its images were prepared by rule %.16s of an earlier or later "
                          "qnet.h, this one has rule %d: the same maps would give other pixels",
                          path, rule ? rule : "1", QNET__PREPARATION);
    QNET__TRY(qnet__check_labels(ctx, file, path));
    qnet_input_config_init(in, name[0] == 'c' ? QNET_INPUT_CROP : QNET_INPUT_FULL);
    qnet_augment_config_init(a);
    QNET__TRY(qnet__settings_read(ctx, file, path, qnet__input_settings, in));
    return qnet__settings_read(ctx, file, path, qnet__stretch_settings, a);
}

/* input and augment change only where all of the record is right. */
QNET_API qnet_status qnet_preparation_load(qnet_context *ctx, const char *weights_path,
                                           qnet_input_config *input, qnet_augment_config *augment)
{
    qnet_safetensors *file;
    qnet_input_config in;
    qnet_augment_config a;
    qnet_status status;
    if (!ctx) return QNET_ERROR_ARGUMENT;
    if (!weights_path || !input || !augment)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_preparation_load: an argument is NULL");
    QNET__TRY(qnet_safetensors_load(ctx, weights_path, &file));
    status = qnet__preparation_read(ctx, file, weights_path, &in, &a);
    qnet_safetensors_destroy(file);
    if (status != QNET_OK) return status;
    *input = in;
    *augment = a;
    return QNET_OK;
}

/* ---- one fold -------------------------------------------------------------------------------- */

/* The file of a fold's result: its path, the line that says whose it is, and its arrays. */
static void qnet__fold_file(const qnet__job *job, char path[QNET__PATH], char text[64],
                            qnet__slab slabs[QNET__SLABS])
{
    static const char *const curves[QNET_MODELS] = {"curve.ResNet", "curve.ResNetSWA",
                                                    "curve.Q-Net"};
    const qnet__slab first[2] = {
        {"image", QNET_F64, job->test_image, (size_t)job->test_images * QNET_MODELS},
        {"scan", QNET_F64, job->test_scan, (size_t)job->test_count * QNET_MODELS}};
    qnet__job_path(job, "result.safetensors", path);
    snprintf(text, 64, "fingerprint=%016llx\n", (unsigned long long)job->fingerprint);
    memcpy(slabs, first, sizeof first);
    for (int m = 0; m < QNET_MODELS; m++) {
        slabs[2 + m].name = curves[m];
        slabs[2 + m].dtype = QNET_F64;
        slabs[2 + m].data = job->curve[m];
        slabs[2 + m].count =
            (size_t)qnet__model_epochs(&job->e->config, m) * QNET__EPOCH_NUMBERS;
    }
}

/* Writes the result. A fold with this file is done: its checkpoints are not read again. */
static qnet_status qnet__fold_save(const qnet__job *job)
{
    qnet__slab slabs[QNET__SLABS];
    char path[QNET__PATH], text[64];
    qnet__file file;
    qnet_sink sink;
    qnet_status status;
    qnet__fold_file(job, path, text, slabs);
    QNET__TRY(qnet__file_open_replace(job->e->ctx, path, &file, &sink));
    status = qnet__checkpoint_write(job->e->ctx, &sink, text, slabs, QNET__SLABS);
    return qnet__file_finish(&file, status);
}

/* Reads a finished fold back; QNET_ERROR_NOT_FOUND when there is none. */
static qnet_status qnet__fold_load(const qnet__job *job)
{
    qnet__slab slabs[QNET__SLABS];
    char path[QNET__PATH], text[64];
    qnet_safetensors *file;
    qnet_status status;
    qnet__fold_file(job, path, text, slabs);
    if (!qnet_file_exists(path)) return QNET_ERROR_NOT_FOUND;
    QNET__TRY(qnet_safetensors_load(job->e->ctx, path, &file));
    status = qnet__checkpoint_compare(job->e->ctx, file, path, text, NULL);
    if (status == QNET_OK)
        status = qnet__checkpoint_copy(job->e->ctx, file, path, slabs, QNET__SLABS);
    qnet_safetensors_destroy(file);
    return status;
}

/* Keeps what `run` has left: its learning curve, its weights, and the test scans' probabilities in
   job->image; scan[test scans] (NULL: the mean over a scan's slices) are those of the scans. */
static qnet_status qnet__fold_keep(qnet__job *job, const qnet_training *run, int model,
                                   const double *scan)
{
    const size_t steps = (size_t)job->cohort->config.max_slices;
    double *image = job->test_image + model * job->test_images;
    for (int i = 0; i < job->test_count; i++) {
        const int slices = job->cohort->scans[job->test[i]].slices;
        double sum = 0;
        for (int t = 0; t < slices; t++) {
            *image = job->image[(size_t)i * steps + (size_t)t];
            sum += *image++;
        }
        job->test_scan[model * job->test_count + i] = scan ? scan[i] : sum / slices;
    }
    memcpy(job->curve[model], run->history, (size_t)run->epochs * sizeof(qnet_epoch));
    return qnet__job_save_weights(job, model, run->state->table, run->state->weights);
}

/* Trains stage 1 to its end, saving after every epoch; the run without SWA leaves a copy at the
   epoch where the run with SWA leaves its path. */
static qnet_status qnet__stage1_train(qnet__job *job, qnet_training *run, int swa, int start)
{
    char checkpoint[QNET__PATH], branch[QNET__PATH];
    qnet__job_path(job, swa ? "swa.checkpoint" : "resnet.checkpoint", checkpoint);
    qnet__job_path(job, "branch.checkpoint", branch);
    if (job->resume && qnet_file_exists(checkpoint)) {
        const qnet_status status = qnet_training_load(run, checkpoint);
        if (status == QNET_ERROR_FORMAT)
            return qnet__fail(run->ctx, status, "%s; remove that file to do its part again",
                              qnet_last_error(run->ctx));
        QNET__TRY(status);
    } else if (swa && start > 0) {
        QNET__TRY(qnet_training_load(run, branch));
    }
    while (run->epoch < run->epochs) {
        QNET__TRY(qnet_training_epoch(run));
        if (!swa && run->epoch == start) QNET__TRY(qnet_training_save(run, branch));
        if (run->epoch < run->epochs) QNET__TRY(qnet_training_save(run, checkpoint));
    }
    QNET__TRY(qnet_training_finish(run));
    return qnet_training_save(run, checkpoint);
}

/* Stage 2 from the training scans' features, in job->features, to its result. */
static qnet_status qnet__stage2_train(qnet__job *job, qnet_training *run, qnet_resnet *net)
{
    char checkpoint[QNET__PATH];
    qnet__job_path(job, "stage2.checkpoint", checkpoint);
    if (job->resume && qnet_file_exists(checkpoint)) QNET__TRY(qnet_training_load(run, checkpoint));
    QNET__TRY(qnet_training_run(run, checkpoint));
    for (int i = 0; i < job->test_count; i++)
        job->length[i] = job->cohort->scans[job->test[i]].slices;
    QNET__TRY(qnet_embed(net, &job->e->config.stage1.augment, job->cohort, job->test,
                         job->test_count, job->features, NULL));
    QNET__TRY(qnet_scan_model_predict(run->model, job->features, job->length, job->test_count,
                                      job->image, job->scan));
    return qnet__fold_keep(job, run, QNET_MODEL_QNET, job->scan);
}

/* Q-Net on the features of the frozen ResNetSWA. */
static qnet_status qnet__fold_stage2(qnet__job *job, qnet_resnet *net)
{
    qnet_stage2_config config = job->e->config.stage2;
    qnet_training *run = NULL;
    qnet_status status;
    config.steps = job->cohort->config.max_slices;
    config.seed = qnet__job_seed(job);
    for (int i = 0; i < job->train_count; i++) {
        job->length[i] = job->cohort->scans[job->train[i]].slices;
        job->label[i] = (int)job->cohort->scans[job->train[i]].label;
    }
    QNET__TRY(qnet_embed(net, &job->e->config.stage1.augment, job->cohort, job->train,
                         job->train_count, job->features, NULL));
    QNET__TRY(qnet_stage2_create(job->e->ctx, &config, job->features, job->length, job->label,
                                 job->train_count, &run));
    status = qnet__stage2_train(job, run, net);
    qnet_training_destroy(run);
    return status;
}

/* The hash that this fold's Q-Net keeps of its embedding: of the file that both will lie beside. */
static qnet_status qnet__job_hash_embedding(qnet__job *job)
{
    qnet_safetensors *file;
    QNET__TRY(qnet__experiment_weights_file(job->e, job->input, job->repeat, job->fold,
                                            QNET_MODEL_RESNET_SWA, &file));
    job->embedding_hash = qnet_safetensors_hash(file);
    qnet_safetensors_destroy(file);
    return QNET_OK;
}

/* ResNet (swa = 0), or ResNetSWA and Q-Net behind it: trained, tested and saved. */
static qnet_status qnet__fold_stage1(qnet__job *job, int swa)
{
    qnet_stage1_config config = job->e->config.stage1;
    const int start = qnet_stage1_swa_start(&config);
    qnet_training *run = NULL;
    qnet_status status;
    config.size = job->cohort->config.size;
    config.seed = qnet__job_seed(job);
    config.swa = swa;
    if (job->new_head) qnet__resnet_init_head(job->initial, config.seed);
    QNET__TRY(qnet_stage1_create(job->e->ctx, &config, job->cohort, job->train, job->train_count,
                                 job->initial ? job->initial->weights : NULL, &run));
    job->run_first = swa ? start : 0;
    status = qnet__stage1_train(job, run, swa, start);
    job->epochs += config.epochs - job->run_first;
    job->run_first = -1;
    if (status == QNET_OK)
        status = qnet_embed(run->net, &config.augment, job->cohort, job->test, job->test_count,
                            NULL, job->image);
    if (status == QNET_OK)
        status = qnet__fold_keep(job, run, swa ? QNET_MODEL_RESNET_SWA : QNET_MODEL_RESNET, NULL);
    if (status == QNET_OK && swa) status = qnet__job_hash_embedding(job);
    if (status == QNET_OK && swa) status = qnet__fold_stage2(job, run->net);
    qnet_training_destroy(run);
    return status;
}

/* Trains and tests the three models of one fold, or reads the result of an earlier run. The
   checkpoints go after the result is on the disk: a kill in between costs no work. */
static qnet_status qnet__fold_run(qnet__job *job)
{
    static const char *const work_files[4] = {"branch.checkpoint", "resnet.checkpoint",
                                              "swa.checkpoint", "stage2.checkpoint"};
    if (job->resume) {
        const qnet_status status = qnet__fold_load(job);
        if (status != QNET_ERROR_NOT_FOUND) return status;
    }
    QNET__TRY(qnet__fold_stage1(job, 0));
    QNET__TRY(qnet__fold_stage1(job, 1));
    QNET__TRY(qnet__fold_save(job));
    for (int i = 0; i < 4; i++) {
        char path[QNET__PATH];
        qnet__job_path(job, work_files[i], path);
        (void)qnet__remove(path);
    }
    return QNET_OK;
}

/* The items of a fold's test scans, by image and by scan, into their places of the two levels. A
   scan's decision is the majority of its slices' by the two ResNets, Q-Net's own by Q-Net (paper,
   Table 3). */
static void qnet__fold_items(const qnet__job *job)
{
    const qnet_level_result *scans = &job->e->level[job->input][QNET_LEVEL_SCAN];
    const qnet_level_result *images = &job->e->level[job->input][QNET_LEVEL_IMAGE];
    const double *image = job->test_image;
    for (int i = 0; i < job->test_count; i++) {
        const int s = job->test[i];
        const qnet_scan *scan = &job->cohort->scans[s];
        const size_t repeat = (size_t)job->repeat;
        qnet_item *whole = scans->items + repeat * scans->count + (size_t)s;
        qnet_item *slice = images->items + repeat * images->count + (size_t)job->image_at[s];
        int votes[QNET_MODELS] = { 0, 0, 0 };
        whole->scan = s;
        whole->slice = whole->z = -1;
        whole->fold = job->fold;
        whole->label = (int)scan->label;
        for (int t = 0; t < scan->slices; t++, slice++, image++) {
            *slice = *whole;
            slice->slice = t;
            slice->z = scan->slice_z[t];
            for (int m = 0; m < QNET_MODELS; m++) {
                slice->probability[m] = image[m * job->test_images];
                slice->decision[m] = slice->probability[m] > 0.5;
                votes[m] += slice->decision[m];
            }
        }
        for (int m = 0; m < QNET_MODELS; m++) {
            whole->probability[m] = job->test_scan[m * job->test_count + i];
            whole->decision[m] = 2 * votes[m] > scan->slices; /* a tie is HC */
        }
        whole->decision[QNET_MODEL_QNET] = whole->probability[QNET_MODEL_QNET] > 0.5;
    }
}

/* Adds the fold's learning curves to the experiment's, into which it trains. */
static qnet_status qnet__fold_curves(qnet__job *job)
{
    qnet_experiment *e = job->e;
    for (int m = 0; m < QNET_MODELS; m++) {
        qnet_curve *curve = &e->curves[e->curves_count++];
        curve->input = job->input;
        curve->repeat = job->repeat;
        curve->fold = job->fold;
        curve->kind = m;
        curve->epochs = qnet__model_epochs(&e->config, m);
        curve->epoch = job->curve[m] = (qnet_epoch *)qnet__experiment_alloc(
            e, (size_t)curve->epochs, sizeof(qnet_epoch), "learning curves");
        if (!curve->epoch) return QNET_ERROR_MEMORY;
    }
    return QNET_OK;
}

/* ---- initial weights ------------------------------------------------------------------------- */

/* Warns of each way in which the images of the initial weights were prepared otherwise. text: this
   input's preparation as lines, cut up in place. */
static void qnet__compare_preparation(qnet_context *ctx, const qnet_safetensors *file,
                                      const char *path, char *text)
{
    static const char *const stretch[2] = { "percentile", "window" };
    const char *pairs[2 * QNET__METADATA_PAIRS], *input = "", *other = "", *kind = "0";
    const int n = qnet__metadata_pairs(text, pairs);
    for (int k = 0; k < n; k++) {
        const char *key = pairs[2 * k], *now = pairs[2 * k + 1];
        const char *was = qnet_safetensors_metadata(file, key);
        if (strcmp(key, "input") == 0) input = now, other = was ? was : now;
        if (strcmp(key, "stretch") == 0) kind = now;
        if (!was && strcmp(key, "preparation") == 0) was = "1"; /* files of before it was said */
        if (!was || strcmp(was, now) == 0) continue;
        if (strncmp(key, "slice", 5) == 0 || strcmp(key, "max_slices") == 0) continue;
        if (strncmp(key, "box_", 4) == 0 && /* a full image has none, and its place is the scan's */
            (strcmp(key, "box_mm") != 0 || strcmp(input, other) != 0 || *input != 'c')) continue;
        if (strncmp(key, "percentile", 10) == 0 && *kind != '0') continue;
        if (strncmp(key, "window", 6) == 0 && *kind != '1') continue;
        if (strcmp(key, "stretch") == 0) now = stretch[*now == '1'], was = stretch[*was == '1'];
        qnet__log(ctx, QNET_LOG_WARNING,
                  "%.250s: these weights know other images: %s is %.40s in the file and %.40s here",
                  path, key, was, now);
    }
}

/* Files of an experiment say how images were prepared: their normalisation is taken unless the
   configuration has one; files that say nothing are taken for ImageNet's. */
static qnet_status qnet__initial_preparation(qnet_experiment *e, const qnet_safetensors *file,
                                             int of_experiment)
{
    qnet_context *ctx = e->ctx;
    qnet_augment_config *a = &e->config.stage1.augment, read = *a;
    int plain = 1; /* not normalised beyond the stretch */
    for (int c = 0; c < 3; c++) plain = plain && a->mean[c] == 0 && a->std[c] == 1;
    if (!qnet_safetensors_metadata(file, "mean.0")) {
        const qnet_safetensor *head = qnet_safetensors_find(file, "fc.weight");
        if (plain && !of_experiment) qnet_augment_config_imagenet(a);
        if (!of_experiment && head != NULL && head->shape[0] == QNET_CLASSES)
            qnet__log(ctx, QNET_LOG_WARNING,
                      "%.250s: has a head of 2 classes and does not say on whom it was trained nor "
                      "how its images were prepared: %s, and subjects in common are not noticed",
                      e->weights, plain ? "ImageNet's mean and std are taken"
                                        : "mean and std are those given");
        return QNET_OK;
    }
    if (plain) {
        QNET__TRY(qnet__settings_read(ctx, file, e->weights, qnet__stretch_settings, &read));
        memcpy(a->mean, read.mean, sizeof a->mean);
        memcpy(a->std, read.std, sizeof a->std);
    }
    for (int i = 0; i < 2; i++) {
        qnet_buffer text = {NULL, 0, 0, NULL};
        qnet_status status;
        if (!e->config.use_input[i]) continue;
        status = qnet__preparation_text(ctx, &e->config.input[i], a, &text);
        if (status == QNET_OK)
            qnet__compare_preparation(ctx, file, e->weights, (char *)text.bytes);
        qnet_buffer_free(ctx, &text);
        QNET__TRY(status);
    }
    return QNET_OK;
}

/* Initial weights into net, and what their file says: on whom they were trained, and how. A head of
   other than 2 classes is left out, as ImageNet's of 1000; each fold then draws its own. */
static qnet_status qnet__initial_read(qnet__job *job, const qnet_safetensors *file,
                                      qnet_resnet *net)
{
    qnet_experiment *e = job->e;
    const char *subjects = qnet_safetensors_metadata(file, "subjects");
    const char *seen = qnet_safetensors_metadata(file, "trained_on");
    e->weights_hash = qnet_safetensors_hash(file);
    qnet_resnet_init(net, e->config.seed);
    QNET__TRY(qnet_weights_from_safetensors(e->ctx, file, net->table, net->weights, 1,
                                            &job->new_head));
    QNET__TRY(qnet__check_labels(e->ctx, file, e->weights));
    if (subjects) snprintf(job->trained_on, sizeof job->trained_on, "%s", subjects);
    if (seen) {
        if (strlen(seen) % QNET__RECORD != 0)
            return qnet__fail(e->ctx, QNET_ERROR_FORMAT,
                              "%.250s: metadata \"trained_on\" is not made of %d digits a subject",
                              e->weights, QNET__RECORD);
        QNET__TRY(qnet_buffer_append(e->ctx, &job->seen, seen, strlen(seen)));
    } else if (subjects) {
        qnet__log(e->ctx, QNET_LOG_WARNING,
                  "%.250s: does not name the subjects that it was trained on one by one; only this "
                  "very cohort would be noticed", e->weights);
    }
    return qnet__initial_preparation(e, file, subjects != NULL);
}

/* The file of initial weights into job->initial, a network of the smallest size: only its weights
   are of use, and they do not depend on the image's. */
static qnet_status qnet__initial_weights(qnet__job *job)
{
    qnet_context *ctx = job->e->ctx;
    qnet_resnet_config c;
    qnet_safetensors *file;
    qnet_status status;
    qnet_resnet_config_init(&c);
    c.height = c.width = 32;
    c.batch = 1;
    c.training = 0;
    QNET__TRY(qnet_safetensors_load(ctx, job->e->weights, &file));
    status = qnet_resnet_create(ctx, &c, &job->initial);
    if (status == QNET_OK) status = qnet__initial_read(job, file, job->initial);
    qnet_safetensors_destroy(file);
    return status;
}

/* Every subject comes into a test fold, so the initial weights may have seen none of them: by the
   records of their file, or by the names of the whole cohort where it has none. */
static qnet_status qnet__check_weights_leak(const qnet__job *job)
{
    const qnet_experiment *e = job->e;
    const char *seen = (const char *)job->seen.bytes;
    const int whole = job->seen.size == 0 && strcmp(job->trained_on, job->subjects) == 0;
    int namesakes = 0;
    for (int s = 0; s < job->cohort->scans_count; s++) {
        const qnet_scan *scan = &job->cohort->scans[s];
        char record[QNET__RECORD + 1];
        int leak = whole, same_name = 0;
        qnet__subject_record(scan, record);
        for (size_t at = 0; at < job->seen.size; at += QNET__RECORD) {
            leak |= memcmp(seen + at + QNET__RECORD / 2, record + QNET__RECORD / 2,
                           QNET__RECORD / 2) == 0;
            same_name |= memcmp(seen + at, record, QNET__RECORD / 2) == 0;
        }
        if (leak)
            return qnet__fail(e->ctx, QNET_ERROR_LEAK,
                              "%.250s: these weights were trained on subjects of this cohort, such "
                              "as %s; the test folds would not be unseen", e->weights,
                              scan->subject);
        namesakes += same_name;
    }
    if (namesakes > 0)
        qnet__log(e->ctx, QNET_LOG_WARNING,
                  "%.250s: %d subjects have the same name as one on whom these weights were "
                  "trained, with another QSM map: if they are the same people, the test folds are "
                  "not unseen", e->weights, namesakes);
    return QNET_OK;
}

/* ---- the files of a run -----------------------------------------------------------------------
   All is written in out/checkpoint, where neither a full disk nor a failure of the caller's publish
   harms earlier results; then it is moved, then out/checkpoint goes. Each step may be the last
   before a kill. Until config.txt is removed, a resume finds all folds done and moves the rest;
   from then on the run counts as complete, and what is left of it as litter. */

/* Counts the files of out/<folder> whose names end in `end`, and removes them if `removing`. */
static qnet_status qnet__work_files(const qnet_experiment *e, const char *folder, const char *end,
                                    int removing, int *count)
{
    char path[QNET__PATH];
    qnet_buffer names = {NULL, 0, 0, NULL};
    qnet_status status;
    snprintf(path, sizeof path, "%s/%s", e->out, folder);
    status = qnet_list_folder(e->ctx, path, &names);
    for (const char *name = NULL;
         status == QNET_OK && (name = qnet__list_next(&names, name)) != NULL;) {
        if (!qnet__ends_in(name, end)) continue;
        ++*count;
        snprintf(path, sizeof path, "%s/%s/%s", e->out, folder, name);
        if (removing) (void)qnet__remove(path);
    }
    qnet_buffer_free(e->ctx, &names);
    return status;
}

/* Moves what is in out/checkpoint/<folder>, but for the system's files, to out<to>, in the order of
   the names; nothing where a folder is in the way of one. */
static qnet_status qnet__work_move(const qnet_experiment *e, const char *folder, const char *to)
{
    char from[QNET__PATH], target[QNET__PATH];
    qnet_buffer names = {NULL, 0, 0, NULL};
    const char *name;
    qnet_status status;
    snprintf(from, sizeof from, "%s/checkpoint/%s", e->out, folder);
    status = qnet_list_folder(e->ctx, from, &names);
    for (int moving = 0; moving < 2; moving++)
        for (name = NULL; status == QNET_OK && (name = qnet__list_next(&names, name)) != NULL;) {
            if (*name == '.') continue;
            snprintf(from, sizeof from, "%s/checkpoint/%s/%s", e->out, folder, name);
            snprintf(target, sizeof target, "%s%s/%s", e->out, to, name);
            if (!moving && qnet__path_kind(target) == 2)
                status = qnet__fail(e->ctx, QNET_ERROR_IO, "%s: cannot be written: it is a folder",
                                    target);
            if (moving && qnet__rename(from, target) != 0)
                status = qnet__fail(e->ctx, QNET_ERROR_IO, "%s: can't be moved to %s: %s", from,
                                    target, strerror(errno));
        }
    qnet_buffer_free(e->ctx, &names);
    QNET__TRY(status);
    snprintf(target, sizeof target, "%s%s", e->out, to);
    (void)qnet__sync(target);
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

/* Opens out/checkpoint: a resumed run must have the same configuration, and a new one must not
   overwrite an unfinished one, which may be days of work. */
static qnet_status qnet__checkpoint_open(const qnet_experiment *e, int resume,
                                         const qnet_buffer *text)
{
    static const char *const folders[3] = {"checkpoint/publish", "checkpoint/weights",
                                           "checkpoint"};
    qnet_context *ctx = e->ctx;
    char path[QNET__PATH];
    int temporary = 0, begun = 0, done = 0;
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", e->out, folders[i]);
        QNET__TRY(qnet_make_folder(ctx, path));
        QNET__TRY(qnet__work_files(e, folders[i], ".tmp", 1, &temporary)); /* of a run killed */
    }
    QNET__TRY(qnet__work_files(e, "checkpoint", ".checkpoint", 0, &begun));
    QNET__TRY(qnet__work_files(e, "checkpoint/weights", ".safetensors", 0, &begun));
    QNET__TRY(qnet__work_files(e, "checkpoint", "-result.safetensors", 0, &done));
    snprintf(path, sizeof path, "%s/checkpoint/config.txt", e->out);
    /* Results alone: a run that was complete, and stopped while it tidied up. */
    if (begun == 0 && done > 0 && !qnet_file_exists(path)) {
        QNET__TRY(qnet__work_files(e, "checkpoint", "-result.safetensors", 1, &done));
        done = 0;
    }
    if (resume && begun + done > 0 && qnet_file_exists(path)) {
        qnet_buffer old = {NULL, 0, 0, NULL};
        qnet_status status = qnet_file_read(ctx, path, 1 << 20, &old);
        if (status == QNET_OK)
            status = qnet__config_compare(ctx, path, old.size ? (const char *)old.bytes : "",
                                          (const char *)text->bytes);
        qnet_buffer_free(ctx, &old);
        return status;
    }
    if (begun + done > 0)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT,
                          "%s/checkpoint: holds an unfinished run (%d files); resume it, or remove "
                          "that folder to begin anew", e->out, begun + done);
    return qnet_file_replace(ctx, path, text->bytes, text->size);
}

/* Removes weights of an earlier run from out/weights whose place none of this run's has taken:
   a fold, repeat or input that it has not. */
static qnet_status qnet__old_weights_clear(const qnet_experiment *e)
{
    const qnet_experiment_config *c = &e->config;
    char folder[600], path[960];
    qnet_buffer names = {NULL, 0, 0, NULL};
    const char *name = NULL;
    qnet_status status;
    int removed = 0;
    snprintf(folder, sizeof folder, "%s/weights", e->out);
    status = qnet_list_folder(e->ctx, folder, &names);
    while (status == QNET_OK && (name = qnet__list_next(&names, name)) != NULL) {
        int input, repeat, fold;
        char model[16], again[64];
        if (strlen(name) < 4 ||
            sscanf(name + 4, "-repeat%2d-fold%6d-%9[a-z]", &repeat, &fold, model) != 3)
            continue;
        input = name[0] == 'f' ? QNET_INPUT_FULL : QNET_INPUT_CROP;
        snprintf(again, sizeof again, "%s-repeat%02d-fold%02d-%s.safetensors",
                 qnet_input_name((qnet_input)input), repeat, fold, model);
        if (strcmp(again, name) != 0) continue; /* not a run's */
        if (c->use_input[input] && repeat <= c->repeats && fold <= c->folds) continue;
        snprintf(path, sizeof path, "%s/%s", folder, name);
        (void)qnet__remove(path);
        removed++;
    }
    qnet_buffer_free(e->ctx, &names);
    if (removed > 0)
        qnet__log(e->ctx, QNET_LOG_INFO, "%s: %d files of an earlier run were removed", folder,
                  removed);
    return status;
}

/* predictions.csv beside the files of the caller's publish. */
static qnet_status qnet__csv_save(const qnet_experiment *e)
{
    char path[600];
    qnet_buffer csv = {NULL, 0, 0, NULL};
    qnet_status status = qnet_experiment_csv(e, &csv);
    snprintf(path, sizeof path, "%s/checkpoint/publish/predictions.csv", e->out);
    if (status == QNET_OK) status = qnet_file_replace(e->ctx, path, csv.bytes, csv.size);
    qnet_buffer_free(e->ctx, &csv);
    return status;
}

/* Publishes a run that is complete. Every step may be repeated: a resume after a kill at any of
   them finds the folds' results, and comes here again. */
static qnet_status qnet__publish(const qnet_experiment *e)
{
    static const char *const folders[3] = {"publish", "weights", ""};
    char path[QNET__PATH];
    int count = 0;
    snprintf(path, sizeof path, "%s/checkpoint/publish", e->out);
    if (e->config.publish.write)
        QNET__TRY(e->config.publish.write(e->config.publish.user, e, path));
    QNET__TRY(qnet__csv_save(e));
    QNET__TRY(qnet__work_move(e, "publish", ""));
    snprintf(path, sizeof path, "%s/weights", e->out);
    QNET__TRY(qnet_make_folder(e->ctx, path));
    QNET__TRY(qnet__work_move(e, "weights", "/weights"));
    QNET__TRY(qnet__old_weights_clear(e));
    QNET__TRY(qnet__work_files(e, "checkpoint", ".checkpoint", 1, &count));
    snprintf(path, sizeof path, "%s/checkpoint/config.txt", e->out);
    if (qnet__remove(path) != 0)
        return qnet__fail(e->ctx, QNET_ERROR_IO, "%s: cannot be removed: %s", path,
                          strerror(errno));
    (void)qnet__work_files(e, "checkpoint", "-result.safetensors", 1, &count);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/checkpoint/%s", e->out, folders[i]);
        (void)qnet__remove(path); /* if it is empty */
    }
    return QNET_OK;
}

/* ---- the whole experiment -------------------------------------------------------------------- */

/* Permutes the true labels over subjects, anew in each repeat: a control that shows leaks. Scans
   of a subject follow it. From here on the cohort has no other labels. */
static void qnet__shuffle_labels(qnet__job *job, int repeat)
{
    const qnet_experiment *e = job->e;
    qnet_scan *scans = job->cohort->scans;
    const int *subject = job->subject;
    int *order = job->train;
    qnet_rng rng = qnet_rng_at(e->config.seed, QNET_RANDOM_LABELS, (uint32_t)repeat, 0);
    size_t n = 0;
    for (int s = 0; s < job->cohort->scans_count; s++)
        if (subject[s] == s) order[n++] = s;
    qnet_rng_shuffle(&rng, order, n);
    n = 0;
    for (int s = 0; s < job->cohort->scans_count; s++)
        scans[s].label = subject[s] == s ? e->participants[order[n++]].true_label
                                         : scans[subject[s]].label;
}

/* The cohort's participants into the experiment, and where this input's scans were cut. The maps of
   the second input are read again, maybe days later, and must be those of the first. */
static qnet_status qnet__participants(qnet_experiment *e, const qnet_cohort *cohort, int input)
{
    const int first = e->participants == NULL;
    if (first) {
        const size_t n = (size_t)cohort->scans_count;
        e->participants = (qnet_participant *)qnet__experiment_alloc(
            e, n, sizeof *e->participants, "participants");
        e->fold = (int *)qnet__experiment_alloc(e, n, sizeof *e->fold, "participants");
        if (!e->participants || !e->fold) return QNET_ERROR_MEMORY;
        e->participants_count = cohort->scans_count;
    }
    for (int s = 0; s < e->participants_count; s++) {
        qnet_participant *p = &e->participants[s];
        const qnet_scan *scan = &cohort->scans[s];
        if (!first && scan->source_hash != p->source_hash)
            return qnet__fail(e->ctx, QNET_ERROR_MISMATCH,
                              "%.250s: the QSM map of %s: it was changed while the first input was "
                              "trained", e->data, scan->subject);
        memcpy(p->subject, scan->subject, sizeof p->subject);
        p->label = p->true_label = scan->label;
        p->source_hash = scan->source_hash;
        p->age = scan->age;
        p->sex = scan->sex;
        p->slices = scan->slices;
        p->cut[input] = scan->cut;
    }
    return QNET_OK;
}

/* Room for the items and ROC points of a level. */
static qnet_status qnet__level_create(qnet_experiment *e, qnet_level_result *level, size_t count)
{
    level->count = count;
    level->items = (qnet_item *)qnet__experiment_alloc(e, (size_t)e->config.repeats * count,
                                                       sizeof(qnet_item), "test items");
    if (!level->items) return QNET_ERROR_MEMORY;
    for (int m = 0; m < QNET_MODELS; m++) {
        level->model[m].roc = (qnet_roc_point *)qnet__experiment_alloc(
            e, count + 1, sizeof(qnet_roc_point), "ROC curves");
        if (!level->model[m].roc) return QNET_ERROR_MEMORY;
    }
    return QNET_OK;
}

/* Trains and tests on one fold of a repeat. */
static qnet_status qnet__input_fold(qnet__job *job, int repeat, int fold)
{
    const qnet_experiment_config *c = &job->e->config;
    job->repeat = repeat;
    job->fold = fold;
    job->train_count = job->test_count = job->test_images = 0;
    for (int s = 0; s < job->cohort->scans_count; s++) {
        if (job->fold_of[s] != fold) {
            job->train[job->train_count++] = s;
            continue;
        }
        job->test[job->test_count++] = s;
        job->test_images += job->cohort->scans[s].slices;
    }
    snprintf(job->where, sizeof job->where, "%s repeat %d/%d fold %d/%d",
             qnet_input_name((qnet_input)job->input), repeat + 1, c->repeats, fold + 1, c->folds);
    job->epochs = (double)qnet__fold_epochs(c) * ((double)repeat * c->folds + fold);
    QNET__TRY(qnet__fold_curves(job));
    QNET__TRY(qnet__fold_run(job));
    qnet__fold_items(job);
    return QNET_OK;
}

/* One input, whose cohort is in memory: for each repeat, folds are dealt and each is trained and
   tested; then all items are evaluated, and the caller may draw. The first deal, before out is
   touched, refuses a cohort with too few subjects for its folds. */
static qnet_status qnet__input_run(qnet__job *job, int images)
{
    qnet_experiment *e = job->e;
    qnet_context *ctx = e->ctx;
    const qnet_experiment_config *c = &e->config;
    qnet_cohort *cohort = job->cohort;
    qnet_level_result *level = e->level[job->input];
    const int n = cohort->scans_count;
    int image = 0;
    for (int s = 0; s < n; s++) {
        job->subject[s] = s;
        for (int q = 0; q < s && job->subject[s] == s; q++)
            if (strcmp(cohort->scans[q].subject, cohort->scans[s].subject) == 0)
                job->subject[s] = q;
        job->image_at[s] = image;
        image += cohort->scans[s].slices;
    }
    QNET__TRY(qnet__participants(e, cohort, job->input));
    QNET__TRY(qnet__check_weights_leak(job));
    if (c->shuffle_labels) qnet__shuffle_labels(job, 0);
    for (int s = 0; s < n; s++) e->participants[s].label = cohort->scans[s].label;
    QNET__TRY(qnet_folds_create(ctx, cohort, c->folds, c->seed, job->fold_of));
    if (!job->opened) /* not before the data have been read: a mistake there leaves no folder */
        QNET__TRY(qnet__checkpoint_open(e, job->resume, &job->text));
    job->opened = 1;
    QNET__TRY(qnet__level_create(e, &level[QNET_LEVEL_IMAGE], (size_t)images));
    QNET__TRY(qnet__level_create(e, &level[QNET_LEVEL_SCAN], (size_t)n));
    for (int repeat = 0; repeat < c->repeats; repeat++) {
        if (c->shuffle_labels) qnet__shuffle_labels(job, repeat);
        QNET__TRY(qnet_folds_create(ctx, cohort, c->folds, qnet__folds_seed(c->seed, repeat),
                                    job->fold_of));
        QNET__TRY(qnet_folds_check(ctx, cohort, c->folds, job->fold_of));
        if (repeat == 0) memcpy(e->fold, job->fold_of, (size_t)n * sizeof(int));
        for (int fold = 0; fold < c->folds; fold++)
            QNET__TRY(qnet__input_fold(job, repeat, fold));
    }
    for (int k = 0; k < QNET_LEVELS; k++)
        QNET__TRY(qnet__evaluate_level(e, &level[k], job->subject));
    if (c->publish.input != NULL) return c->publish.input(c->publish.user, e, cohort);
    return QNET_OK;
}

/* Reads the cohort of one input and runs its folds. */
static qnet_status qnet__input_read_and_run(qnet__job *job)
{
    qnet_experiment *e = job->e;
    qnet__arena arena = { NULL, 0 };
    uint64_t subjects = QNET_HASH_START, hash = QNET_HASH_START;
    qnet_status status;
    size_t bytes;
    int images = 0;
    snprintf(job->where, sizeof job->where, "%s", qnet_input_name((qnet_input)job->input));
    job->epochs = 0;
    job->run_first = -1;
    QNET__TRY(qnet_cohort_load(e->ctx, &e->config.input[job->input], job->data->scans,
                               job->data->count, &job->cohort));
    for (int s = 0; s < job->cohort->scans_count; s++) {
        const qnet_scan *scan = &job->cohort->scans[s];
        const int label = (int)scan->label;
        const size_t name = strlen(scan->subject) + 1;
        subjects = qnet_hash(subjects, scan->subject, name);
        hash = qnet_hash(hash, &scan->hash, sizeof scan->hash);
        hash = qnet_hash(hash, scan->subject, name);
        hash = qnet_hash(hash, &label, sizeof label);
        images += scan->slices;
    }
    snprintf(job->subjects, sizeof job->subjects, "%016llx", (unsigned long long)subjects);
    e->cohort_hash[job->input] = hash;
    job->fingerprint = qnet_hash(QNET_HASH_START, job->text.bytes, job->text.size + 1) ^ hash;
    e->run[job->input] = job->fingerprint;
    qnet__job_plan(job, &arena, (size_t)images);
    status = qnet__arena_alloc(e->ctx, &arena, &bytes, "the folds");
    if (status == QNET_OK) {
        qnet__job_plan(job, &arena, (size_t)images);
        status = qnet__input_run(job, images);
    }
    qnet__free(e->ctx, arena.base, bytes);
    qnet_cohort_destroy(job->cohort);
    return status;
}

/* Sum over the curves, which hold what earlier sessions took; up to the first averaged epoch the
   ResNetSWA's is the ResNet's. */
static double qnet__training_seconds(const qnet_experiment *e)
{
    double sum = 0;
    for (int k = 0; k < e->curves_count; k++) {
        const qnet_curve *c = &e->curves[k];
        int i = c->kind == QNET_MODEL_RESNET_SWA ? qnet_stage1_swa_start(&e->config.stage1) : 0;
        for (; i < c->epochs; i++) sum += c->epoch[i].seconds;
    }
    return sum;
}

/* Under the lock of the output folder: initial weights, the inputs one by one, the files. */
static qnet_status qnet__experiment_run(qnet__job *job)
{
    qnet_experiment *e = job->e;
    const qnet_experiment_config *c = &e->config;
    double pixels = 0;
    if (e->weights[0]) QNET__TRY(qnet__initial_weights(job));
    e->curves = (qnet_curve *)qnet__experiment_alloc(
        e, (size_t)c->repeats * (size_t)c->folds, QNET_MODELS * 2 * sizeof(qnet_curve),
        "learning curves");
    if (!e->curves) return QNET_ERROR_MEMORY;
    QNET__TRY(qnet__experiment_text(e, &job->text));
    for (int i = 0; i < 2; i++)
        if (c->use_input[i]) pixels += (double)c->input[i].size * c->input[i].size;
    for (int i = 0; i < 2; i++) {
        if (!c->use_input[i]) continue;
        job->input = i;
        job->share_before += job->share;
        job->share = (double)c->input[i].size * c->input[i].size / pixels;
        QNET__TRY(qnet__input_read_and_run(job));
    }
    e->seconds = qnet__training_seconds(e);
    return qnet__publish(e);
}

/* Copies a path into dst[512]. */
static qnet_status qnet__copy_path(qnet_context *ctx, char dst[512], const char *path,
                                   const char *what)
{
    if (strlen(path) >= 512)
        return qnet__fail(ctx, QNET_ERROR_LIMIT,
                          "%s: a path of %lu characters, expected at most 511", what,
                          (unsigned long)strlen(path));
    memcpy(dst, path, strlen(path) + 1);
    return QNET_OK;
}

/* UTF-8 text of a file (NULL: "") into to[size], cut where it must be, control characters (C0, DEL,
   C1) made spaces: a terminal would obey them. */
static void qnet__copy_text(char *to, size_t size, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t left = text ? strlen(text) : 0, at = 0, n;
    for (; left > 0 && (n = qnet__utf8_size(p, left)) > 0 && at + n < size; p += n, left -= n) {
        const int control = *p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0);
        if (control) to[at++] = ' ';
        for (size_t i = 0; i < n && !control; i++) to[at++] = (char)p[i];
    }
    to[at] = '\0';
}

/* What the caller may take away while the experiment lives, copied. */
static qnet_status qnet__experiment_texts(qnet_experiment *e, const qnet_dataset *data,
                                          const char *out, const char *weights)
{
    e->simulated = data->simulated;
    qnet__copy_text(e->dataset, sizeof e->dataset, data->name);
    qnet__copy_text(e->dataset_type, sizeof e->dataset_type, data->type);
    qnet__copy_text(e->derivatives, sizeof e->derivatives, data->derivatives);
    if (data->folder)
        QNET__TRY(qnet__copy_path(e->ctx, e->data, data->folder, "data folder"));
    QNET__TRY(qnet__copy_path(e->ctx, e->out, out, "output folder"));
    if (weights && !*weights)
        return qnet__fail(e->ctx, QNET_ERROR_ARGUMENT, "weights file: an empty path");
    return weights ? qnet__copy_path(e->ctx, e->weights, weights, "weights file") : QNET_OK;
}

/* Arguments, then the lock of the output folder, then the work. A run that fails leaves no
   experiment, but its files in out/checkpoint. */
QNET_API qnet_status qnet_experiment_run(qnet_context *ctx, const qnet_experiment_config *config,
                                         const qnet_dataset *data, const char *out,
                                         const char *weights, int resume,
                                         qnet_experiment **result)
{
    qnet_experiment *e;
    qnet__job job;
    qnet__lock lock;
    qnet_status status;
    if (!ctx) return QNET_ERROR_ARGUMENT;
    if (!config || !data || !out || !result)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_experiment_run: an argument is NULL");
    if (!data->scans || data->count < 1)
        return qnet__fail(ctx, QNET_ERROR_ARGUMENT, "qnet_experiment_run: no scans");
    QNET__TRY(qnet__experiment_check(ctx, config));
    e = (qnet_experiment *)qnet__alloc(ctx, sizeof *e);
    if (!e) return qnet__no_memory(ctx, sizeof *e, "an experiment");
    memset(e, 0, sizeof *e);
    e->ctx = ctx;
    e->config = *config;
    status = qnet__experiment_texts(e, data, out, weights);
    if (status == QNET_OK) status = qnet__lock_take(ctx, e->out, &lock);
    if (status == QNET_OK) {
        qnet_progress own = {&job, qnet__job_progress};
        memset(&job, 0, sizeof job);
        job.e = e;
        job.data = data;
        job.resume = resume;
        job.outer = ctx->hooks.progress;
        qnet_set_progress(ctx, own);
        status = qnet__experiment_run(&job);
        qnet_set_progress(ctx, job.outer);
        qnet_buffer_free(ctx, &job.text);
        qnet_buffer_free(ctx, &job.seen);
        qnet_resnet_destroy(job.initial);
        qnet__lock_release(&lock);
    }
    if (status == QNET_OK) *result = e;
    else qnet_experiment_destroy(e);
    return status;
}
#endif /* QNET_NO_STDIO */

/* All results are in e->blocks. */
QNET_API void qnet_experiment_destroy(qnet_experiment *e)
{
    if (!e) return;
    while (e->blocks) {
        struct qnet__block *block = e->blocks;
        e->blocks = block->next;
        qnet__free(e->ctx, block, block->bytes);
    }
    qnet__free(e->ctx, e, sizeof *e);
}
#endif

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic pop
#elif defined(_MSC_VER)
#pragma warning(pop)
#endif

#endif /* QNET_IMPLEMENTATION */
