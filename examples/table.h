/* table.h: a table of text, read a line at a time from bytes in memory.

       table t;
       int row = table_open(&t, bytes, size);
       while (row == 1 && (row = table_next(&t)) == 1) use(t.field, t.columns);
       if (row == -1) puts(t.error);
       table_close(&t);

   Comma, semicolon or tab, told by the first line; quoted fields (RFC 4180, but none goes over the
   end of a line); LF, CRLF or CR; UTF-8 with or without its mark. Every row has as many fields as
   the first line. Blank lines are no rows. What cannot be read is a sentence in t.error with the
   line's number and text. */
#ifndef TABLE_H
#define TABLE_H
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct table {
    const char *bytes; /* [size], the caller's */
    size_t size, at;   /* how far it is read */
    char *text;        /* [size + 1]: a copy, cut into fields in place; fields live until the end */
    size_t line;       /* of the row, from 1 */
    size_t start, length; /* where the line lies */
    char **field;      /* [columns] */
    size_t columns;
    char separator;
    char error[600];
} table;

/* text as it can be shown on a terminal: control characters as '?', at most `most` bytes of it and
   "..." behind, cut before a whole UTF-8 character. out has room for most + 4. */
static void table_show(const char *text, size_t length, size_t most, char *out)
{
    size_t n = length > most ? most : length, i;
    unsigned char before = 0;
    while (n < length && n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    for (i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        /* the controls U+0080 to U+009F, in UTF-8 or as single bytes */
        const int c1 = c >= 0x80 && c < 0xA0 && (before < 0x80 || before == 0xC2);
        if (c1 && before == 0xC2) out[i - 1] = '?';
        out[i] = (char)((c < 32 && c != '\t') || c == 127 || c1 ? '?' : c);
        before = c1 ? 0 : c;
    }
    strcpy(out + n, n < length ? "..." : "");
}

/* Keeps a sentence about the row's line, or about the table where line is 0. -1. */
static int table_fail(table *t, const char *format, ...)
{
    char what[300], shown[304], line[164];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    table_show(what, strlen(what), sizeof what, shown);
    table_show(t->bytes + t->start, t->length, sizeof line - 4, line);
    if (!t->line) strcpy(t->error, shown);
    else sprintf(t->error, "line %lu: %s; the line is \"%s\"", (unsigned long)t->line, shown, line);
    return -1;
}

/* 1, or -1 where there is no memory. */
static int table_open(table *t, const void *bytes, size_t size)
{
    memset(t, 0, sizeof *t);
    t->bytes = (const char *)bytes;
    t->size = size;
    t->text = size < (size_t)-1 ? (char *)malloc(size + 1) : NULL;
    if (!t->text) {
        strcpy(t->error, "no memory for the table");
        return -1;
    }
    if (size > 0) memcpy(t->text, bytes, size);
    t->text[size] = '\0';
    if (size >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0) t->at = 3;
    return 1;
}

static void table_close(table *t)
{
    free(t->text);
    free(t->field);
}

static int table_blank(const table *t, char c)
{
    return c == ' ' || (c == '\t' && t->separator != '\t');
}

/* The first of tab, semicolon and comma that stands outside quotes in the line; and room for the
   fields: no more than separators and one. */
static int table_first_line(table *t)
{
    const char *line = t->text + t->start, *p, *kind = "\t;,";
    size_t count = 0;
    for (; *kind && count == 0; kind++) {
        int quoted = 0;
        for (p = line; *p; p++) {
            if (*p == '"') quoted = !quoted;
            if (*p == *kind && !quoted) count++;
        }
        t->separator = *kind;
    }
    for (count = 1, p = line; *p; p++) count += *p == t->separator;
    t->field = (char **)malloc(count * sizeof *t->field);
    return t->field ? 1 : table_fail(t, "no memory for %lu fields", (unsigned long)count);
}

/* Cuts one field off at p: where the next one starts, or NULL where the line ends. */
static char *table_cut(const table *t, char *p, char **field, const char **bad)
{
    char *end, separator;
    int open = 0;
    while (table_blank(t, *p)) p++;
    *field = end = p;
    if (*p == '"') {
        for (open = 1, p++; *p; *end++ = *p++) {
            if (*p == '"' && *++p != '"') {
                open = 0;
                break;
            }
        }
        while (table_blank(t, *p)) p++;
        if (open) *bad = "a quote that is not closed on its line";
        else if (*p && *p != t->separator) *bad = "text behind a closing quote";
    } else {
        while (*p && *p != t->separator) p++;
        for (end = p; end > *field && table_blank(t, end[-1]);) end--;
    }
    separator = *p;
    *end = '\0';
    return separator ? p + 1 : NULL;
}

/* 1: a row lies in field[columns]; 0: there is none left; -1: error says what is wrong. */
static int table_next(table *t)
{
    const char *bad = NULL;
    const int first = t->field == NULL;
    char *p, *extra;
    size_t n, i;
    do {
        if (t->at >= t->size) return 0;
        t->line++;
        t->start = t->at;
        while (t->at < t->size && t->bytes[t->at] != '\n' && t->bytes[t->at] != '\r') t->at++;
        t->length = t->at - t->start;
        if (t->at < t->size && t->bytes[t->at++] == '\r' && t->at < t->size)
            t->at += t->bytes[t->at] == '\n';
        for (i = 0; i < t->length && table_blank(t, t->bytes[t->start + i]);) i++;
    } while (i == t->length);
    p = t->text + t->start;
    p[t->length] = '\0';
    if (strlen(p) < t->length)
        return table_fail(t, "a zero byte (UTF-16 has them: save the table as UTF-8)");
    if (first && table_first_line(t) < 0) return -1;
    for (n = 0; p && !bad; n++)
        p = table_cut(t, p, first || n < t->columns ? &t->field[n] : &extra, &bad);
    if (bad) return table_fail(t, "%s", bad);
    if (first) t->columns = n;
    if (n != t->columns)
        return table_fail(t, "expected %lu fields as in the first line, found %lu",
                          (unsigned long)t->columns, (unsigned long)n);
    return 1;
}

/* A field without a value: empty, or as R and BIDS write it. */
static int table_missing(const char *field)
{
    return !*field || !strcmp(field, "NA") || !strcmp(field, "N/A") || !strcmp(field, "n/a");
}

/* 1 where the whole field is a finite decimal number. */
static int table_number(const char *field, double *value)
{
    char *end;
    if (!*field || strspn(field, "+-.0123456789eE") != strlen(field)) return 0;
    *value = strtod(field, &end);
    return *end == '\0' && end != field && fabs(*value) <= 1.7976931348623157e308;
}
#endif
