/* cluster.h: which part of a run this process has, by --part or by what the cluster's software says of it. */
#ifndef CROSSVAL_CLUSTER_H
#define CROSSVAL_CLUSTER_H
#include "program.h"

/* The number of an environment variable; -1: none. */
static int environment_number(const char *name)
{
    const char *text = getenv(name);
    char *end;
    const long value = text ? strtol(text, &end, 10) : -1;
    return text && end > text && *end == '\0' && value >= 0 && value <= 1000000 ? (int)value : -1;
}

/* Rank and size. mpirun within a SLURM job sees SLURM's variables too, which are those of its own
   start on each machine: the launchers of MPI come first, and an array before its only task. */
static int part_from_environment(int *part, int *parts)
{
    static const char *const names[][3] = { /* rank, size, lowest rank (NULL: 0) */
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", NULL},  /* Open MPI */
        {"PMI_RANK", "PMI_SIZE", NULL},                          /* MPICH, Intel MPI */
        {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"},
        {"SLURM_PROCID", "SLURM_NTASKS", NULL},                  /* srun */
        {"PBS_VNODENUM", "PBS_NP", NULL}};                       /* pbsdsh */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const int rank = environment_number(names[i][0]), size = environment_number(names[i][1]);
        const int lowest = names[i][2] ? environment_number(names[i][2]) : 0;
        if (rank < 0 || size < 1) continue;
        if (lowest < 0 || lowest > 1 || rank - lowest < 0 || rank - lowest >= size)
            return fail("--part", "auto", "an array such as 1-8, without gaps; else K/N instead");
        *part = rank - lowest + 1;
        *parts = size;
        return 1;
    }
    return fail("--part", "auto", "to be started by srun, mpirun or as a SLURM array; a PBS array "
                                  "takes K/N, as in $PBS_ARRAY_INDEX/8");
}

static int part_of(const char *name, const char *value, int *part, int *parts)
{
    char rest;
    if (strcmp(value, "auto") == 0) return part_from_environment(part, parts);
    if (sscanf(value, "%d/%d%c", part, parts, &rest) != 2 || *part < 1 || *part > *parts)
        return fail(name, value, "K/N with K from 1 to N, such as 3/8, or auto");
    return 1;
}

/* How many parts to collect: the folders in the output folder say so. */
static int parts_there(qnet_context *ctx, const char *out, int *parts)
{
    qnet_buffer names;
    size_t at = 0;
    int found = 0, part, of;
    char rest, expected[80];
    memset(&names, 0, sizeof names);
    (void)qnet_list_folder(ctx, out, &names); /* where it fails, there are none */
    for (; at < names.size; at += strlen((const char *)names.bytes + at) + 1) {
        const char *name = (const char *)names.bytes + at;
        if (sscanf(name, "part-%d-of-%d%c", &part, &of, &rest) != 2 || part < 1 || part > of) continue;
        if (found == 0 || found == of) {
            found = of;
            continue;
        }
        sprintf(expected, "parts of one number, found parts of %d and of %d there", found, of);
        found = -1;
        break;
    }
    qnet_buffer_free(ctx, &names);
    if (found == 0) strcpy(expected, "parts there, such as part-1-of-4: run them first");
    if (found < 1) return fail("--out", out, expected);
    *parts = found;
    return 1;
}

#endif
