/* program.h: what crossval and maps share: sentences on wrong options, Ctrl-C, which stops the work, progress
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
#include <unistd.h>
#endif

/* ---- Options --------------------------------------------------------------------------------- */

/* Says what an option should be; 0. */
static int fail(const char *name, const char *value, const char *expected)
{
    fprintf(stderr, PROGRAM ": %s %s: expected %s (see --help)\n", name, value ? value : "",
            expected);
    return 0;
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

/* ---- Progress: a bar on a terminal, a line now and then in a log ----------------------------- */

static volatile sig_atomic_t interrupted; /* by this signal; 0: not */

static void on_interrupt(int signal_number)
{
    interrupted = signal_number;
}

typedef struct display {
    int quiet, terminal;
    time_t begin, last;
    double first_fraction;
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

/* Takes the bar off a terminal. */
static void display_clear(const display *d)
{
    if (d->terminal && !d->quiet) printf("\r%-118s\r", "");
    fflush(stdout);
}

/* For qnet_progress.report, whose user is a display. */
static int show(void *user, const qnet_progress_info *p)
{
    display *d = (display *)user;
    char left[32], bar[21], line[256];
    const time_t now = time(NULL);
    const int news = strcmp(d->where, p->where) != 0 || strcmp(d->task, p->task) != 0;
    double gained;
    int at;
#ifdef SIGUSR1
    /* With time left, at the first step of an epoch: the checkpoint of the one before is written. */
    if (interrupted == SIGUSR1) return p->epoch == 0 || p->step == 1;
#endif
    if (interrupted) return 1;
    if (d->quiet) return 0;
    if (d->first_fraction < 0 && p->epoch > 0) { /* folds that are done come at once */
        d->first_fraction = p->fraction;
        d->begin = now;
    }
    if (!news && difftime(now, d->last) < (d->terminal ? 1 : 20)) return 0;
    gained = d->first_fraction < 0 ? 0 : p->fraction - d->first_fraction;
    duration(left, gained > 0.002 ? difftime(now, d->begin) * (1 - p->fraction) / gained : -1);
    at = (int)(p->fraction * 20);
    for (int i = 0; i < 20; i++) bar[i] = i < at ? '#' : '.';
    bar[20] = '\0';
    sprintf(line, "%s %3d%%  left %s  %.50s  %.24s", bar, /* there is work while it is called */
            p->fraction < 0.99 ? (int)(p->fraction * 100) : 99, left, p->where, p->task);
    if (p->epoch > 0)
        sprintf(line + strlen(line), " epoch %d/%d", p->epoch, p->epochs);
    else if (p->steps > 0)
        sprintf(line + strlen(line), " %lu/%lu", (unsigned long)p->step, (unsigned long)p->steps);
    if (p->loss == p->loss && p->epoch > 0) sprintf(line + strlen(line), "  loss %.3f", p->loss);
    if (p->items_per_second > 0) sprintf(line + strlen(line), "  %.0f/s", p->items_per_second);
    if (d->terminal)
        printf("\r%-118.118s", line);
    else
        printf("%s\n", line);
    fflush(stdout);
    d->last = now;
    sprintf(d->where, "%.63s", p->where);
    sprintf(d->task, "%.31s", p->task);
    return 0;
}

/* For qnet_log.message, whose user is a display. */
static void message(void *user, qnet_log_level level, const char *text)
{
    fflush(stdout);
    if (level == QNET_LOG_WARNING) fprintf(stderr, PROGRAM ": warning: %s\n", text);
    else if (level != QNET_LOG_DEBUG && !((display *)user)->quiet) printf("%s\n", text);
}

#endif
