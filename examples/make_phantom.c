/* make_phantom: writes the phantom cohort (phantom.h) as a BIDS-like folder of NIfTI files.

       make_phantom --out out/phantom
       make_phantom --out out/paper --scale paper --seed 7
       make_phantom --out out/echoes --echoes

   With --echoes it writes what the scanner records (phantom_echoes.h), for build/maps.
   At the end it prints the subjects and the seconds: 48 subjects of the small scale take a few
   seconds on one core. */
#define QNET_IMPLEMENTATION
#include "../qnet.h"
#include "phantom.h"
#include "phantom_echoes.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: make_phantom --out DIR [options]\n"
    "  --out DIR        folder to write; made if it is not there\n"
    "  --scale small    24 + 24 subjects of 96x112x14 voxels, 1.72x1.72x2 mm (default)\n"
    "  --scale paper    52 + 47 subjects of 256x256x32 voxels, .86x.86x2 mm\n"
    "  --echoes         no maps but multi-echo magnitudes and phases of 4 + 4 whole heads,\n"
    "                   80x96x56 voxels\n"
    "  --flips N        of the echoes: 2 for two flip angles; default 1\n"
    "  --hh N           subjects with hemochromatosis\n"
    "  --hc N           healthy controls\n"
    "  --size NXxNYxNZ  voxels; the spacing follows, so that the head fits\n"
    "  --effect X       strength of the disease; 0: none; default 1\n"
    "  --seed S         default 8\n"
    "  --help           this text\n";

static int fail(const char *what, const char *value)
{
    fprintf(stderr, "make_phantom: %s: \"%s\"\n%s", what, value, usage);
    return 2;
}

/* A whole number in low..high from all of text; 0 if it is none. */
static int parse_int(const char *text, int low, int high, int *out)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < low || value > high) {
        return 0;
    }
    *out = (int)value;
    return 1;
}

int main(int argc, char **argv)
{
    phantom_config config;
    const char *out = NULL;
    qnet_context *ctx = NULL;
    qnet_status status;
    double start;
    int i, scale = PHANTOM_SMALL, echoes = 0;
    /* The scale is the base that the other options change, wherever it stands. */
    for (i = 1; i < argc; i++) {
        echoes |= strcmp(argv[i], "--echoes") == 0;
        if (i + 1 < argc && strcmp(argv[i], "--scale") == 0) {
            if (strcmp(argv[i + 1], "paper") == 0) {
                scale = PHANTOM_PAPER;
            } else if (strcmp(argv[i + 1], "small") != 0) {
                return fail("--scale is small or paper", argv[i + 1]);
            }
        }
    }
    if (echoes) {
        phantom_echoes_init(&config);
    } else {
        phantom_config_init(&config, (phantom_scale)scale);
    }
    for (i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
            fputs(usage, stdout);
            return 0;
        }
        if (strcmp(name, "--echoes") == 0) {
            i--; /* has no value */
            continue;
        }
        if (value == NULL) {
            return fail("an option without a value", name);
        }
        if (strcmp(name, "--out") == 0) {
            out = value;
        } else if (strcmp(name, "--hh") == 0) {
            if (!parse_int(value, 0, 4999, &config.hh)) {
                return fail("--hh is a number from 0 to 4999", value);
            }
        } else if (strcmp(name, "--hc") == 0) {
            if (!parse_int(value, 0, 4999, &config.hc)) {
                return fail("--hc is a number from 0 to 4999", value);
            }
        } else if (strcmp(name, "--size") == 0) {
            int nx, ny, nz;
            char rest;
            if (sscanf(value, "%4dx%4dx%4d%c", &nx, &ny, &nz, &rest) != 3 || nx < 16 || ny < 16 ||
                nz < 1 || nx > 1024 || ny > 1024 || nz > 256) {
                return fail("--size is like 96x112x14, at least 16x16x1", value);
            }
            (echoes ? phantom_echoes_size : phantom_config_size)(&config, nx, ny, nz);
        } else if (strcmp(name, "--flips") == 0) {
            if (!echoes || !parse_int(value, 1, 2, &config.flips)) {
                return fail("--flips is 1 or 2, with --echoes", value);
            }
        } else if (strcmp(name, "--effect") == 0) {
            char *end;
            config.effect = strtod(value, &end);
            if (end == value || *end != '\0' || !(config.effect >= 0 && config.effect <= 10)) {
                return fail("--effect is a number from 0 to 10", value);
            }
        } else if (strcmp(name, "--seed") == 0) {
            int seed;
            if (!parse_int(value, 0, INT_MAX, &seed)) {
                return fail("--seed is a whole number", value);
            }
            config.seed = (uint64_t)seed;
        } else if (strcmp(name, "--scale") != 0) {
            return fail("unknown option", name);
        } else if (echoes) {
            return fail("--echoes has one scale (see --size)", value);
        }
    }
    if (out == NULL || config.hh + config.hc < 1) {
        return fail(out == NULL ? "missing" : "no subjects", "--out");
    }
    status = qnet_context_create(NULL, &ctx);
    if (status != QNET_OK) {
        fprintf(stderr, "make_phantom: %s\n", qnet_status_text(status));
        return 1;
    }
    if (!phantom_may_write(ctx, out)) {
        fprintf(stderr, "make_phantom: %s: holds a cohort that is no phantom: nothing is written\n", out);
        qnet_context_destroy(ctx);
        return 1;
    }
    start = qnet_context_hooks(ctx)->clock.seconds(qnet_context_hooks(ctx)->clock.user);
    status = (echoes ? phantom_echoes_write : phantom_write)(ctx, &config, out);
    if (status != QNET_OK) {
        fprintf(stderr, "make_phantom: %s: %s\n", qnet_status_text(status), qnet_last_error(ctx));
        qnet_context_destroy(ctx);
        return 1;
    }
    printf("%s: %d HH + %d HC, %dx%dx%d voxels, %.2fx%.2fx%.2f mm, effect %g, seed %lu, %.1f s\n",
           out, config.hh, config.hc, config.nx, config.ny, config.nz, config.spacing[0],
           config.spacing[1], config.spacing[2], config.effect, (unsigned long)config.seed,
           qnet_context_hooks(ctx)->clock.seconds(qnet_context_hooks(ctx)->clock.user) - start);
    qnet_context_destroy(ctx);
    return 0;
}
