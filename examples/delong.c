/* delong: do two models differ? Reads lines `label,score1,score2` (label 1: HH) and prints both
   areas under the ROC curve and DeLong's test of their difference.

       build/delong scores.csv          build/delong          (a small built-in example)

   The built-in example prints p = 0.0526, which is also what the 1988 paper's sums over all pairs
   of items give when written out in NumPy. */
#define QNET_IMPLEMENTATION
#include "qnet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char example[] = "label,score1,score2\n"
                              "1,0.91,0.62\n1,0.85,0.70\n1,0.78,0.35\n1,0.73,0.80\n1,0.66,0.55\n"
                              "1,0.61,0.30\n1,0.58,0.66\n1,0.95,0.90\n1,0.44,0.41\n1,0.70,0.52\n"
                              "0,0.12,0.45\n0,0.25,0.20\n0,0.31,0.58\n0,0.44,0.33\n0,0.52,0.61\n"
                              "0,0.08,0.15\n0,0.39,0.48\n0,0.63,0.40\n0,0.17,0.27\n0,0.29,0.72\n";

typedef struct columns {
    int *label;
    double *score1, *score2;
    size_t count;
} columns;

/* Lines into columns; a first line that does not start with a number is a heading. 0: no memory,
   or a line that cannot be read, *bad. */
static int read_columns(const char *text, columns *c, size_t *bad)
{
    size_t lines = 1, line = 0;
    const char *p;
    for (p = text; *p; p++) lines += *p == '\n';
    c->label = (int *)malloc(lines * sizeof(int));
    c->score1 = (double *)malloc(2 * lines * sizeof(double));
    *bad = 0;
    if (!c->label || !c->score1) return 0;
    c->score2 = c->score1 + lines;
    for (p = text; *p;) {
        size_t n = c->count, length = strcspn(p, "\n");
        line++;
        if (sscanf(p, " %d , %lf , %lf", &c->label[n], &c->score1[n], &c->score2[n]) == 3) {
            c->count++;
        } else if (line > 1 && strspn(p, " \r") < length) {
            *bad = line;
            return 0;
        }
        p += length + (p[length] == '\n');
    }
    return 1;
}

int main(int argc, char **argv)
{
    qnet_buffer file;
    qnet_context *ctx;
    qnet_delong d;
    qnet_status status = QNET_OK;
    columns c;
    size_t bad = 0;
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    memset(&c, 0, sizeof c);
    memset(&file, 0, sizeof file);
    if (argc > 1) status = qnet_file_read(ctx, argv[1], 0, &file); /* ends with a zero byte */
    if (status == QNET_OK && !read_columns(argc > 1 ? (char *)file.bytes : example, &c, &bad)) {
        fprintf(stderr, "delong: %s, line %lu: expected label,score1,score2\n", argv[1],
                (unsigned long)bad);
        status = QNET_ERROR_FORMAT;
    } else {
        if (status == QNET_OK)
            status = qnet_delong_test(ctx, c.label, c.score1, c.score2, NULL, c.count, &d);
        if (status != QNET_OK) fprintf(stderr, "delong: %s\n", qnet_last_error(ctx));
    }
    if (status == QNET_OK) {
        printf("%lu items\n", (unsigned long)c.count);
        printf("AUC 1   %.4f  (95 %% CI %.4f to %.4f)\n", d.auc[0], d.ci[0].low, d.ci[0].high);
        printf("AUC 2   %.4f  (95 %% CI %.4f to %.4f)\n", d.auc[1], d.ci[1].low, d.ci[1].high);
        printf("differ  %.4f, standard error %.4f, z = %.3f\n", d.auc[0] - d.auc[1], d.se, d.z);
        printf("p = %.4f %s\n", d.p, qnet_stars(d.p));
    }
    free(c.label);
    free(c.score1);
    qnet_buffer_free(ctx, &file);
    qnet_context_destroy(ctx);
    return status != QNET_OK;
}
