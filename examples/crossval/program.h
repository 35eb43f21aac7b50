/* program.h: what crossval, maps and predict share: sentences on wrong options, Ctrl-C, which stops the work, progress
   and messages. PROGRAM: the program's name, defined before. */
#ifndef CROSSVAL_PROGRAM_H
#define CROSSVAL_PROGRAM_H
#include "qnet.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/ioctl.h>
#include <unistd.h>
#endif
#ifdef __GLIBC__
#include <malloc.h>
#endif

/* ---- Options --------------------------------------------------------------------------------- */

/* Says what an option should be; 0. */
static int fail(const char *name, const char *value, const char *expected)
{
    const int given = value && *value;
    fprintf(stderr, PROGRAM ": %s%s%s: expected %s (see --help)\n", name, given ? " " : "",
            given ? value : "", expected);
    return 0;
}

/* How many letters must be changed, added or left out to make b of a (Levenshtein). */
static int letters_apart(const char *a, const char *b)
{
    int row[40]; /* of a's letters up to i and b's up to j */
    const int n = (int)strlen(b);
    if (n > 39 || strlen(a) > 39) return 99;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; *a; i++, a++) {
        int before = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            const int changed = before + (*a != b[j - 1]), least = row[j] < row[j - 1] ? row[j] : row[j - 1];
            before = row[j];
            row[j] = changed < least + 1 ? changed : least + 1;
        }
    }
    return row[n];
}

/* The option in the text of --help that is most like name, into like[40]; 1: it is the same. */
static int find_option(const char *text, const char *name, char like[40])
{
    int least = 1 + (int)(strlen(name) - 1) / 2; /* of more letters it would be a guess */
    if (least > 4) least = 4;
    like[0] = '\0';
    for (const char *p = text; (p = strstr(p, "--")) != NULL; p += 2) {
        char option[40];
        int apart;
        snprintf(option, sizeof option, "--%.*s", (int)strspn(p + 2, "abcdefghijklmnopqrstuvwxyz0123456789-"),
                 p + 2);
        apart = letters_apart(name, option);
        if (apart == 0) return 1;
        if (apart < least) {
            least = apart;
            strcpy(like, option);
        }
    }
    return 0;
}

/* Argument i is "--name=value", "--name value" or, of an option without a value, "--name": the name into
   name[40]. How many arguments that takes; 0: bad usage, of which a sentence is printed. flags: the options
   without a value, ended by NULL. */
static int read_option(int argc, char **argv, int i, const char *text, const char *const *flags,
                       char name[40], const char **value)
{
    const char *equal = strncmp(argv[i], "--", 2) ? NULL : strchr(argv[i], '=');
    char like[40];
    snprintf(name, 40, "%.*s", equal ? (int)(equal - argv[i]) : 39, argv[i]);
    *value = equal ? equal + 1 : NULL;
    if (strncmp(name, "--", 2) != 0) return fail(argv[i], "", "an option, which begins with --");
    if (!find_option(text, name, like)) {
        fprintf(stderr, PROGRAM ": %s: no such option%s%s%s (see --help)\n", name,
                like[0] ? "; did you mean " : "", like, like[0] ? "?" : "");
        return 0;
    }
    while (*flags && strcmp(*flags, name) != 0) flags++;
    if (*flags) return equal ? fail(name, *value, "no value") : 1;
    if (equal) return 1;
    if (i + 1 >= argc || strncmp(argv[i + 1], "--", 2) == 0)
        return fail(name, i + 1 < argc ? argv[i + 1] : "", "its value");
    *value = argv[i + 1];
    return 2;
}

/* A whole number in low..high. */
static int whole(const char *name, const char *text, long low, long high, int *out)
{
    char *end, expected[80];
    long value = strtol(text, &end, 10);
    sprintf(expected, "a whole number from %ld to %ld", low, high);
    if (end == text || *end || value < low || value > high) return fail(name, text, expected);
    *out = (int)value;
    return 1;
}

/* --threads and --cpu: 1, or 0 with a sentence; -1: another option. */
static int hook_option(const char *name, const char *value, qnet_hooks *hooks)
{
    if (strcmp(name, "--threads") == 0) return whole(name, value, 1, 1024, &hooks->threads);
    if (strcmp(name, "--cpu") != 0) return -1;
    return qnet_cpu_parse(value, &hooks->cpu) == QNET_OK ||
           fail(name, value, "auto, scalar, avx2, avx512 or neon");
}

/* 1; or 0, and it is said why there is no context. With glibc, memory that is freed stays with the program: each fold
   asks for the same networks again, and each session for the same volumes, whose pages the system would clear anew. */
static int open_context(qnet_hooks *hooks, qnet_context **ctx)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);
#endif
    if (qnet_context_create(hooks, ctx) == QNET_OK) return 1;
    hooks->cpu = QNET_CPU_AUTO;
    if (qnet_context_create(hooks, ctx) != QNET_OK) return fputs(PROGRAM ": no memory\n", stderr), 0;
    fprintf(stderr, PROGRAM ": --cpu: this machine does not have it; its best is %s\n",
            qnet_cpu_name(qnet_context_cpu(*ctx)));
    qnet_context_destroy(*ctx);
    return 0;
}

/* ---- Progress: a bar on a terminal, a line now and then in a log ----------------------------- */

static volatile sig_atomic_t interrupted; /* by this signal; 0: not */

static void on_interrupt(int signal_number)
{
    interrupted = signal_number;
}

typedef struct display {
    int quiet, terminal;
    int silent;         /* 1: for the time being it shows nothing, and only listens to Ctrl-C */
    time_t begin, last;
    double first_fraction;
    double expected;    /* seconds of the whole, as long as the work itself does not tell; 0: unknown */
    char where[64], task[32];
} display;

static void duration(char text[32], double seconds)
{
    if (seconds < 0 || seconds > 1e8)
        strcpy(text, "--:--");
    else if (seconds < 3600)
        sprintf(text, "%d:%02d", (int)seconds / 60, (int)seconds % 60);
    else
        sprintf(text, "%dh%02d", (int)(seconds / 3600), (int)(seconds / 60) % 60);
}

/* Starts, and takes the signals of Ctrl-C and kill, and the one that clusters send some time before
   a job's limit. */
static void display_begin(display *d, int quiet)
{
    memset(d, 0, sizeof *d);
    d->quiet = quiet;
    d->begin = time(NULL);
    d->first_fraction = -1;
#if defined(__unix__) || defined(__APPLE__)
    d->terminal = isatty(1);
#endif
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
#ifdef SIGUSR1
    signal(SIGUSR1, on_interrupt);
#endif
}

/* Columns of the terminal, asked for anew each time: windows change. A bar ends one before the last, at
   which some terminals go on to the next row. */
static int display_width(void)
{
    const char *columns = getenv("COLUMNS");
    int width = columns ? atoi(columns) : 0;
#ifdef TIOCGWINSZ
    struct winsize size;
    if (ioctl(1, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) width = size.ws_col;
#endif
    return (width >= 20 && width <= 250 ? width : width > 250 ? 250 : 80) - 1;
}

/* Takes the bar off a terminal. */
static inline void display_clear(const display *d)
{
    if (d->terminal && !d->quiet) printf("\r%*s\r", display_width(), "");
    fflush(stdout);
}

/* Before a line of a log, which nobody watches: when it was written. */
static void display_stamp(const display *d)
{
    const time_t now = time(NULL);
    const struct tm *local = localtime(&now);
    char text[32];
    if (!d->terminal && local && strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", local) > 0)
        printf("%s  ", text);
}

/* The bar in one row of `width`; what matters least goes first where it is narrow: speed and loss, half of
   the bar, all of it, where. */
static void display_row(char line[400], int width, const char *left, const qnet_progress_info *p)
{
    static const int bars[5] = {20, 20, 10, 0, 0};
    char step[64] = "", rest[64] = "";
    if (p->epoch > 0) sprintf(step, " epoch %d/%d", p->epoch, p->epochs);
    else if (p->steps > 0) sprintf(step, " %lu/%lu", (unsigned long)p->step, (unsigned long)p->steps);
    if (p->loss == p->loss && p->epoch > 0) sprintf(rest, "  loss %.3f", p->loss);
    if (p->items_per_second > 0 && p->items_per_second < 1e9)
        sprintf(rest + strlen(rest), "  %.0f/s", p->items_per_second);
    for (int brief = 0; brief < 5; brief++) {
        const int bar = bars[brief], at = (int)(p->fraction * bar);
        for (int i = 0; i < bar; i++) line[i] = i < at ? '#' : '.';
        /* Below 100 %: there is work while it is called. */
        snprintf(line + bar, 350, " %3d%%  left %s  %.*s%s%.24s%s%s",
                 p->fraction < 0.99 ? (int)(p->fraction * 100) : 99, left, brief < 4 ? 50 : 0, p->where,
                 brief < 4 ? "  " : "", p->task, step, brief < 1 ? rest : "");
        if ((int)strlen(line) <= width) return;
    }
}

/* For qnet_progress.report, whose user is a display. */
static int show(void *user, const qnet_progress_info *p)
{
    display *d = (display *)user;
    char left[32], line[400];
    const int width = d->terminal ? display_width() : 250;
    const time_t now = time(NULL);
    const int news = strcmp(d->where, p->where) != 0 || strcmp(d->task, p->task) != 0;
    double gained;
#ifdef SIGUSR1
    /* With time left, at the first step of an epoch: the one before is kept, or one of the last
       --checkpoint-seconds. */
    if (interrupted == SIGUSR1) return p->epoch == 0 || p->step == 1;
#endif
    if (interrupted) return 1;
    if (d->quiet || d->silent) return 0;
    if (d->first_fraction < 0 && p->epoch > 0) { /* folds that are done come at once */
        d->first_fraction = p->fraction;
        d->begin = now;
    }
    if (!news && difftime(now, d->last) < (d->terminal ? 1 : 20)) return 0;
    gained = d->first_fraction < 0 ? 0 : p->fraction - d->first_fraction;
    duration(left, gained > 0.002 ? difftime(now, d->begin) * (1 - p->fraction) / gained
                   : d->expected > 0 ? d->expected * (1 - p->fraction) : -1);
    display_row(line, width, left, p);
    if (d->terminal) printf("\r%-*.*s", width, width, line);
    else {
        display_stamp(d);
        printf("%s\n", line);
    }
    fflush(stdout);
    d->last = now;
    sprintf(d->where, "%.63s", p->where);
    sprintf(d->task, "%.31s", p->task);
    return 0;
}

/* For qnet_log.message, whose user is a display. */
static void message(void *user, qnet_log_level level, const char *text)
{
    const display *d = (const display *)user;
    display_clear(d);
    if (level >= QNET_LOG_WARNING)
        fprintf(stderr, PROGRAM ": %s%s\n", level == QNET_LOG_WARNING ? "warning: " : "", text);
    else if (level != QNET_LOG_DEBUG && !d->quiet) {
        display_stamp(d);
        printf("%s\n", text);
    }
}

#endif
