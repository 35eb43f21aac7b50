/* subgroups.h: columns of participants.tsv whose values make subgroups in the report (--subgroups). bids.h reads
   them, assess.h looks subjects up by name. */
#ifndef SUBGROUPS_H
#define SUBGROUPS_H
#include "qnet.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SUBGROUP_COLUMNS 3
#define SUBGROUP_VALUES 8 /* of a column; one of more, which are all numbers, is split at its median */

/* Starts from all zero. */
typedef struct subject_columns {
    int count;
    qnet_buffer text; /* strings, each ended by a zero byte: of each subject its name and count values, "": none; the
                         first, whose name is "", has the columns' names */
} subject_columns;

static inline const char *subject_value(const subject_columns *s, const char *subject, int column)
{
    const char *p = (const char *)s->text.bytes, *end = p + s->text.size;
    while (p < end) {
        const int found = strcmp(p, subject) == 0;
        for (int c = -1; c < s->count; c++, p += strlen(p) + 1)
            if (found && c == column) return p;
    }
    return "";
}

/* 1: text is a number, with point or comma; not "1,250", which may be either of two. */
static inline int subgroup_number(const char *text, double *value)
{
    char digits[32], *end;
    const char *comma = strchr(text, ',');
    if (strlen(text) >= sizeof digits || (comma && strlen(comma) == 4)) return 0;
    strcpy(digits, text);
    if (comma) digits[comma - text] = '.';
    if (strspn(digits, "+-.0123456789eE") < strlen(digits)) return 0;
    *value = strtod(digits, &end);
    return end > digits && !*end && isfinite(*value);
}

/* Numbers before other texts. */
static inline int subgroup_compare(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    double u = 0, v = 0;
    const int is_x = subgroup_number(x, &u), is_y = subgroup_number(y, &v);
    if (is_x && is_y && u != v) return u < v ? -1 : 1;
    return is_x != is_y ? is_y - is_x : strcmp(x, y);
}

/* Sorts values and leaves the different ones, as text, in the first places: how many there are. *median: the
   lower of the two in the middle, NULL: they are not all numbers. */
static inline int subgroup_sort(const char **value, size_t n, const char **median)
{
    int different = 0;
    double number;
    *median = NULL;
    if (n == 0) return 0;
    qsort(value, n, sizeof *value, subgroup_compare);
    if (subgroup_number(value[n - 1], &number)) *median = value[(n - 1) / 2];
    for (size_t i = 0; i < n; i++)
        if (different == 0 || strcmp(value[different - 1], value[i])) value[different++] = value[i];
    return different;
}
#endif
