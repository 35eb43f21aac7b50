/* delong: do models differ? A table of labels and scores; for each score the area under the ROC
   curve with DeLong's interval, for each pair DeLong's test, p as it is and after Holm.

       build/delong scores.csv      build/delong (a small built-in example)      build/delong --help

   The built-in example prints p = 0.0526, which is also what the 1988 paper's sums over all pairs
   of items give when written out in NumPy. */
#define QNET_IMPLEMENTATION
#include "qnet.h"

#include "table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char example[] = "label,score1,score2\n"
                              "1,0.91,0.62\n1,0.85,0.70\n1,0.78,0.35\n1,0.73,0.80\n1,0.66,0.55\n"
                              "1,0.61,0.30\n1,0.58,0.66\n1,0.95,0.90\n1,0.44,0.41\n1,0.70,0.52\n"
                              "0,0.12,0.45\n0,0.25,0.20\n0,0.31,0.58\n0,0.44,0.33\n0,0.52,0.61\n"
                              "0,0.08,0.15\n0,0.39,0.48\n0,0.63,0.40\n0,0.17,0.27\n0,0.29,0.72\n";

static const char help[] =
    "usage: delong [options] TABLE\n"
    "\n"
    "Area under the ROC curve of each score, and DeLong's test of each pair of them.\n"
    "\n"
    "TABLE is text, separated by commas, semicolons or tabs. Its first line names the columns;\n"
    "if a field of it starts like a number, it is data, and the columns are called 1, 2, 3 ...\n"
    "\n"
    "  --label NAME         column of the labels, 0 or HC and 1 or HH (the one called label,\n"
    "                       otherwise the first)\n"
    "  --positive VALUE     the label of the positive class, where there are two others\n"
    "  --score A,B,...      columns of the scores, higher for the positive class (all others)\n"
    "  --cluster NAME       rows with the same value here belong together, such as the slices of\n"
    "                       a subject: Obuchowski's variance (each row is for itself)\n"
    "  --where NAME=VALUE   only rows with this value; may be given more than once\n"
    "  --missing skip       leave out rows with an empty field, NA or n/a (they are an error)\n"
    "  --header             the first line holds names, whatever it looks like\n"
    "\n"
    "predictions.csv of crossval: delong --where level=image --where input=crop --cluster subject\n"
    "\n"
    "Exit status: 0 done, 1 an error (one sentence says which), 2 not understood.\n";

#define NONE ((size_t)-1)
#define MAX_WHERE 8
#define MAX_SCORES 1000

typedef struct options {
    const char *path, *label, *positive, *score, *cluster, *where[MAX_WHERE];
    int wheres, skip, header;
} options;

/* The rows that count, and the columns that were asked for. */
typedef struct scores {
    table t;
    char **name, *numbers; /* [columns]; numbers holds the names where the table has none */
    size_t label, cluster, where[MAX_WHERE], column[MAX_SCORES], models;
    int of_crossval;        /* the table is predictions.csv, with these columns: */
    size_t kind[3];         /* level, input, repeat */
    const char *first[3];   /* what stood there in the first row */
    const char *negative;   /* with --positive: the other label */
    size_t rows, room, other, skipped; /* other: rows that --where leaves out */
    int *positive, *unit;   /* [rows]: 1 for the positive class; number of the cluster */
    const char **member;    /* [rows]: name of the cluster */
    double *value;          /* [rows][models] */
    size_t units, with[2];  /* clusters, or rows; those with rows of each class */
} scores;

/* ---- Options ------------------------------------------------------------------------------- */

static int not_understood(const char *option, const char *what)
{
    fprintf(stderr, "delong: %s: %s (see --help)\n", option, what);
    return 2;
}

/* -1: go on; otherwise the exit status. */
static int read_options(int argc, char **argv, options *o)
{
    memset(o, 0, sizeof *o);
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = argv[i + 1], **to = NULL, *missing = NULL;
        if (!strcmp(name, "--help") || !strcmp(name, "-h")) return fputs(help, stdout) < 0;
        if (!strcmp(name, "--header")) o->header = 1;
        else if (*name != '-') to = &o->path, value = name;
        else if (!strcmp(name, "--label")) to = &o->label;
        else if (!strcmp(name, "--positive")) to = &o->positive;
        else if (!strcmp(name, "--score")) to = &o->score;
        else if (!strcmp(name, "--cluster")) to = &o->cluster;
        else if (!strcmp(name, "--missing")) to = &missing;
        else if (strcmp(name, "--where")) return not_understood(name, "no such option");
        else if (o->wheres == MAX_WHERE) return not_understood(name, "at most 8 of them");
        else to = &o->where[o->wheres++];
        if (!to) continue;
        if (!value) return not_understood(name, "expected a value behind it");
        if (*to) return not_understood(name, "given twice");
        if (value != name) i++;
        *to = value;
        if (missing) o->skip = 1;
        if (missing && strcmp(value, "skip")) return not_understood(name, "expected skip");
        if (o->wheres && to == &o->where[o->wheres - 1] && !strchr(value, '='))
            return not_understood(name, "expected NAME=VALUE");
    }
    return -1;
}

/* ---- The table ----------------------------------------------------------------------------- */

/* Names and data look different: names do not start like a number, and none is NA or NaN. */
static int is_header(const table *t)
{
    for (size_t i = 0; i < t->columns; i++) {
        const char *f = t->field[i], *p = f + (*f == '+' || *f == '-');
        char *end;
        p += *p == '.';
        if ((*p >= '0' && *p <= '9') || (*f && table_missing(f))) return 0;
        strtod(f, &end);
        if (*f && !*end) return 0; /* nan, inf */
    }
    return 1;
}

/* How many columns have this name; *column is the last of them. */
static int count_columns(const scores *s, const char *name, size_t length, size_t *column)
{
    int count = 0;
    for (size_t i = 0; i < s->t.columns; i++) {
        if (!length || strlen(s->name[i]) != length || memcmp(s->name[i], name, length)) continue;
        *column = i;
        count++;
    }
    return count;
}

/* The column with this name: 1, or -1 where there is none or more than one. */
static int find(scores *s, const char *name, size_t length, size_t *column)
{
    const int count = count_columns(s, name, length, column);
    if (count == 1) return 1;
    return table_fail(&s->t, "%s column is called \"%.*s\"", count ? "more than one" : "no",
                      (int)(length < 100 ? length : 100), name);
}

static int add_score(scores *s, size_t column)
{
    if (column == s->label) return table_fail(&s->t, "the label cannot be a score");
    if (s->models == MAX_SCORES) return table_fail(&s->t, "at most %d scores", MAX_SCORES);
    s->column[s->models++] = column;
    return 1;
}

/* --score A,B,... */
static int named_scores(scores *s, const char *list)
{
    for (;; list++) {
        const size_t length = strcspn(list, ",");
        size_t column;
        if (find(s, list, length, &column) < 0 || add_score(s, column) < 0) return -1;
        list += length;
        if (!*list) return 1;
    }
}

/* All columns but the others that were named; of crossval's table its probabilities. */
static int other_scores(scores *s, const options *o)
{
    for (size_t i = 0; i < s->t.columns; i++) {
        int used = i == s->label || i == s->cluster;
        used |= s->of_crossval && strncmp(s->name[i], "p_", 2);
        for (int k = 0; k < o->wheres; k++) used |= i == s->where[k];
        if (used) continue;
        if (!*s->name[i])
            return table_fail(&s->t, "column %lu has no name: which are the scores? (--score)",
                              (unsigned long)i + 1);
        if (add_score(s, i) < 0) return -1;
    }
    return s->models ? 1 : table_fail(&s->t, "no column is left for the scores");
}

/* From the first line and the options: names of the columns, and which ones count. */
static int choose_columns(scores *s, const options *o, int header)
{
    static const char *const kinds[3] = { "level", "input", "repeat" };
    const char *label = o->label;
    s->name = (char **)malloc(s->t.columns * sizeof *s->name);
    s->numbers = (char *)malloc(s->t.columns * 24);
    if (!s->name || !s->numbers) return table_fail(&s->t, "no memory for the names");
    for (size_t i = 0; i < s->t.columns; i++) {
        s->name[i] = header ? s->t.field[i] : s->numbers + 24 * i;
        if (!header) sprintf(s->name[i], "%lu", (unsigned long)i + 1);
    }
    s->of_crossval = header;
    for (int k = 0; k < 3; k++)
        s->of_crossval &= count_columns(s, kinds[k], strlen(kinds[k]), &s->kind[k]) == 1;
    s->cluster = NONE;
    if (!label && count_columns(s, "label", 5, &s->label)) label = "label";
    if (!label && !*s->name[0])
        return table_fail(&s->t, "column 1 has no name: which holds the labels? (--label)");
    if (label && find(s, label, strlen(label), &s->label) < 0) return -1;
    if (o->cluster && find(s, o->cluster, strlen(o->cluster), &s->cluster) < 0) return -1;
    for (int k = 0; k < o->wheres; k++)
        if (find(s, o->where[k], strcspn(o->where[k], "="), &s->where[k]) < 0) return -1;
    return o->score ? named_scores(s, o->score) : other_scores(s, o);
}

/* 0 or 1, or -1. */
static int read_label(scores *s, const options *o, const char *text)
{
    double number = -1;
    if (o->positive) {
        if (!strcmp(text, o->positive)) return 1;
        if (!s->negative) s->negative = text;
        if (!strcmp(text, s->negative)) return 0;
        return table_fail(&s->t, "a third label, \"%.60s\", beside \"%.60s\" and \"%.60s\"", text,
                          o->positive, s->negative);
    }
    table_number(text, &number);
    if (!strcmp(text, "HH") || number == 1) return 1;
    if (!strcmp(text, "HC") || number == 0) return 0;
    return table_fail(&s->t, "column %.60s: expected a label, 0 or HC and 1 or HH, found \"%.60s\" "
                      "(--positive takes others)", s->name[s->label], text);
}

static int make_room(scores *s)
{
    const size_t room = s->room ? 2 * s->room : 64;
    void *positive, *member, *value;
    if (room > (size_t)-1 / sizeof(double) / s->models) return table_fail(&s->t, "no memory");
    positive = realloc(s->positive, room * sizeof *s->positive);
    if (positive) s->positive = (int *)positive;
    member = realloc(s->member, room * sizeof *s->member);
    if (member) s->member = (const char **)member;
    value = realloc(s->value, room * s->models * sizeof *s->value);
    if (value) s->value = (double *)value;
    if (!positive || !member || !value) return table_fail(&s->t, "no memory");
    s->room = room;
    return 1;
}

/* The row that lies in s->t. */
static int add_row(scores *s, const options *o)
{
    char **field = s->t.field;
    const char *missing = NULL;
    double *value;
    for (int k = 0; k < o->wheres; k++) {
        if (strcmp(field[s->where[k]], strchr(o->where[k], '=') + 1)) {
            s->other++;
            return 1;
        }
    }
    for (int k = 0; k < 3 && s->of_crossval; k++) { /* the same scans again are no new ones */
        const char *text = field[s->kind[k]];
        if (!s->first[k]) s->first[k] = text;
        if (strcmp(text, s->first[k]))
            return table_fail(&s->t, "%s is \"%.40s\" here and \"%.40s\" above: choose, as with "
                              "--where %s=%.40s", s->name[s->kind[k]], text, s->first[k],
                              s->name[s->kind[k]], text);
    }
    if (s->rows == s->room && make_room(s) < 0) return -1;
    if (s->cluster != NONE && table_missing(field[s->cluster])) missing = s->name[s->cluster];
    s->member[s->rows] = s->cluster == NONE ? "" : field[s->cluster];
    if (table_missing(field[s->label])) missing = s->name[s->label];
    else if ((s->positive[s->rows] = read_label(s, o, field[s->label])) < 0) return -1;
    value = s->value + s->rows * s->models;
    for (size_t m = 0; m < s->models; m++) {
        const char *text = field[s->column[m]], *name = s->name[s->column[m]];
        if (table_missing(text)) missing = name;
        else if (!table_number(text, &value[m]))
            return table_fail(&s->t, "column %.60s: expected a number such as 0.25, found "
                              "\"%.60s\"", name, text);
    }
    if (missing && !o->skip)
        return table_fail(&s->t, "column %.60s: no value (--missing skip leaves such rows out)",
                          missing);
    if (missing) s->skipped++;
    else s->rows++;
    return 1;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(**(const char **const *)a, **(const char **const *)b);
}

/* Numbers of the clusters, and how many have rows of each class. */
static int number_clusters(scores *s)
{
    const char ***order = (const char ***)malloc((s->rows + 1) * sizeof *order);
    int has[2] = { 0, 0 };
    s->unit = (int *)malloc((s->rows + 1) * sizeof *s->unit);
    if (!order || !s->unit) {
        free(order);
        return table_fail(&s->t, "no memory");
    }
    for (size_t i = 0; i < s->rows; i++) order[i] = &s->member[i];
    if (s->cluster != NONE) qsort(order, s->rows, sizeof *order, by_name);
    for (size_t i = 0; i < s->rows; i++) {
        const size_t row = (size_t)(order[i] - s->member);
        if (i == 0 || s->cluster == NONE || strcmp(*order[i], *order[i - 1])) {
            s->units++;
            has[0] = has[1] = 0;
        }
        s->unit[row] = (int)(s->units - 1);
        s->with[s->positive[row]] += !has[s->positive[row]];
        has[s->positive[row]] = 1;
    }
    free(order);
    return 1;
}

/* bytes[size] into *s, which is to be freed even on failure: -1, and s->t.error says why. */
static int read_scores(scores *s, const options *o, const void *bytes, size_t size)
{
    int header, row;
    memset(s, 0, sizeof *s);
    if (table_open(&s->t, bytes, size) < 0) return -1;
    if ((row = table_next(&s->t)) < 0) return -1;
    if (row == 0) return table_fail(&s->t, "the table is empty");
    header = o->header || is_header(&s->t);
    if (choose_columns(s, o, header) < 0) return -1;
    if (header) row = table_next(&s->t);
    for (; row == 1; row = table_next(&s->t)) {
        if (add_row(s, o) < 0) {
            if (!header && s->rows + s->other + s->skipped == 0)
                strcat(s->t.error, " (if it holds names: --header)");
            return -1;
        }
    }
    if (row < 0) return -1;
    s->t.line = 0;
    if (s->rows == 0)
        return table_fail(&s->t, "no row is left (%lu by --where, %lu by --missing)",
                          (unsigned long)s->other, (unsigned long)s->skipped);
    return number_clusters(s);
}

static void free_scores(scores *s)
{
    table_close(&s->t);
    free(s->name);
    free(s->numbers);
    free(s->positive);
    free(s->unit);
    free(s->member);
    free(s->value);
}

/* ---- The comparison ------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    const double x = **(const double *const *)a, y = **(const double *const *)b;
    return (x > y) - (x < y);
}

/* Holm 1979: the smallest of n p-values times n, the next one times n - 1 ...; none below the one
   before it, none above 1. order[n] is scratch. */
static void holm(const double *p, size_t n, const double **order, double *adjusted)
{
    double least = 0;
    for (size_t i = 0; i < n; i++) order[i] = p + i;
    qsort(order, n, sizeof *order, by_value);
    for (size_t i = 0; i < n; i++) {
        const double product = *order[i] * (double)(n - i);
        if (product > least) least = product < 1 ? product : 1;
        adjusted[order[i] - p] = least;
    }
}

static void show_p(double p)
{
    printf(p < .0001 && p > 0 ? "  %8.1e" : "  %8.4f", p);
}

/* The name of score m, 32 characters of it. */
static const char *name_of(const scores *s, size_t m, char shown[36])
{
    const char *name = s->name[s->column[m]];
    table_show(name, strlen(name), 32, shown);
    return shown;
}

static void copy_column(const scores *s, size_t m, double *out)
{
    for (size_t i = 0; i < s->rows; i++) out[i] = s->value[i * s->models + m];
}

static qnet_status show_areas(qnet_context *ctx, const scores *s, const int *unit, double *score)
{
    int no_width = 0;
    char name[36];
    printf("\n%-32s     AUC      SE  95 %% interval\n", "score");
    for (size_t m = 0; m < s->models; m++) {
        qnet_delong d;
        qnet_interval ci;
        qnet_status status;
        copy_column(s, m, score);
        status = qnet_delong_test(ctx, s->positive, score, NULL, unit, s->rows, &d);
        if (status != QNET_OK) return status;
        /* Clusters are few: on the logit scale, as crossval's intervals by subject are. */
        ci = unit ? qnet_logit_interval(d.auc[0], d.variance[0]) : d.ci[0];
        printf("%-32s  %.4f  %.4f  %.4f to %.4f%s\n", name_of(s, m, name), d.auc[0],
               sqrt(fmax(d.variance[0], 0)), ci.low, ci.high, ci.low < ci.high ? "" : "  (!)");
        no_width |= !(ci.low < ci.high);
    }
    if (no_width)
        puts("(!) The classes do not overlap, or all scores are equal: the variance is 0 then.\n"
             "    An interval without width is no certainty, nor is a p of 0.");
    return QNET_OK;
}

/* Every pair; score[2][rows] is scratch. */
static qnet_status show_pairs(qnet_context *ctx, const scores *s, const int *unit, double *score)
{
    const size_t n = s->models, pairs = n * (n - 1) / 2;
    qnet_delong *test = (qnet_delong *)malloc((pairs + 1) * sizeof *test);
    double *p = (double *)malloc((2 * pairs + 1) * sizeof *p);
    const double **order = (const double **)malloc((pairs + 1) * sizeof *order);
    qnet_status status = test && p && order ? QNET_OK : QNET_ERROR_MEMORY;
    size_t k = 0;
    char one[36], two[36];
    for (size_t a = 0; a < n && status == QNET_OK; a++) {
        copy_column(s, a, score);
        for (size_t b = a + 1; b < n && status == QNET_OK; b++, k++) {
            copy_column(s, b, score + s->rows);
            status = qnet_delong_test(ctx, s->positive, score, score + s->rows, unit, s->rows,
                                      &test[k]);
            if (status == QNET_OK) p[k] = test[k].p;
        }
    }
    if (status == QNET_OK && pairs > 0) {
        holm(p, pairs, order, p + pairs);
        printf("\ndifference      SE        z         p  p (Holm)  pair\n");
        for (size_t a = k = 0; a < n; a++) {
            for (size_t b = a + 1; b < n; b++, k++) {
                printf("%10.4f  %.4f  %7.3f", test[k].auc[0] - test[k].auc[1], test[k].se,
                       test[k].z);
                show_p(p[k]);
                show_p(p[pairs + k]);
                printf("  %s - %s\n", name_of(s, a, one), name_of(s, b, two));
            }
        }
    }
    free(test);
    free(p);
    free((void *)order);
    return status;
}

static qnet_status show(qnet_context *ctx, const scores *s)
{
    const int *unit = s->cluster == NONE ? NULL : s->unit;
    double *score = (double *)malloc(2 * s->rows * sizeof *score);
    qnet_status status = score ? QNET_OK : QNET_ERROR_MEMORY;
    size_t positive = 0;
    for (size_t i = 0; i < s->rows; i++) positive += (size_t)s->positive[i];
    printf("%lu rows, %lu of them positive", (unsigned long)s->rows, (unsigned long)positive);
    if (unit) printf(", in %lu clusters", (unsigned long)s->units);
    if (s->other) printf("; %lu left out by --where", (unsigned long)s->other);
    if (s->skipped) printf("; %lu left out, as a value is missing", (unsigned long)s->skipped);
    putchar('\n');
    if (status == QNET_OK) status = show_areas(ctx, s, unit, score);
    if (status == QNET_OK) status = show_pairs(ctx, s, unit, score);
    if (status == QNET_OK && (s->with[0] < 10 || s->with[1] < 10))
        printf("\nFewer than 10 %s in a class: intervals and p are for larger numbers.\n",
               unit ? "clusters" : "rows");
    if (status == QNET_OK && s->of_crossval && !unit)
        puts("\nSlices of a subject are not independent: --cluster subject allows for that.");
    free(score);
    return status;
}

int main(int argc, char **argv)
{
    options o;
    scores s;
    qnet_buffer file;
    qnet_context *ctx;
    const int usage = read_options(argc, argv, &o);
    qnet_status status = QNET_OK;
    if (usage >= 0) return usage;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return fputs("delong: no memory\n", stderr), 1;
    memset(&s, 0, sizeof s);
    memset(&file, 0, sizeof file);
    if (o.path) status = qnet_file_read(ctx, o.path, 0, &file);
    else puts("No table is given: the built-in example.");
    if (status != QNET_OK) {
        fprintf(stderr, "delong: %s\n", qnet_last_error(ctx));
    } else if (read_scores(&s, &o, o.path ? (const char *)file.bytes : example,
                           o.path ? file.size : sizeof example - 1) < 0) {
        fprintf(stderr, "delong: %s: %s\n", o.path ? o.path : "the example", s.t.error);
        status = QNET_ERROR_FORMAT;
    } else if ((status = show(ctx, &s)) != QNET_OK) {
        fprintf(stderr, "delong: %s\n",
                status == QNET_ERROR_MEMORY ? "no memory" : qnet_last_error(ctx));
    }
    free_scores(&s);
    qnet_buffer_free(ctx, &file);
    qnet_context_destroy(ctx);
    if (status == QNET_OK && fflush(stdout) != 0) {
        perror("delong: standard output");
        return 1;
    }
    return status != QNET_OK;
}
