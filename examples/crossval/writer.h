/* Text into a buffer: numbers, escaping, a printf that writes the same in every locale, JSON. */
#ifndef CROSSVAL_WRITER_H
#define CROSSVAL_WRITER_H
#include "qnet.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __clang__
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))
#elif defined(__GNUC__) /* mingw's own printf would have no %zu */
#define PRINTF_LIKE(text, first) __attribute__((format(gnu_printf, text, first)))
#else
#define PRINTF_LIKE(text, first)
#endif

#define NUMBER_SIZE 32 /* room for a number as text */
#define TEXT_SIZE 112  /* room for two numbers and words between them */

/* In text[NUMBER_SIZE], made by printf under any locale, whatever is neither digit, sign nor
   exponent becomes one point: a decimal comma, or a decimal sign of several bytes. */
static void decimal_point(char *text)
{
    char *to = text;
    for (const char *c = text; *c; c++) {
        if ((*c >= '0' && *c <= '9') || *c == '-' || *c == '+' || *c == 'e') *to++ = *c;
        else if (to > text && to[-1] != '.') *to++ = '.';
    }
    *to = '\0';
}

/* value with a fixed number of decimals, such as "0.875". */
static const char *fixed_text(char text[NUMBER_SIZE], double value, int decimals)
{
    if (!isfinite(value)) return value != value ? "-" : value > 0 ? "inf" : "-inf";
    if (fabs(value) >= 1e15) snprintf(text, NUMBER_SIZE, "%.3e", value); /* long for the room */
    else snprintf(text, NUMBER_SIZE, "%.*f", decimals, value);
    decimal_point(text);
    return text;
}

/* value in as few digits as bring the same double back. */
static const char *shortest_text(char text[NUMBER_SIZE], double value)
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, NUMBER_SIZE, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    decimal_point(text);
    return text;
}

/* A p-value as Table 2 prints it: four decimals, or "6.2e-33" below .0001. */
static inline const char *p_text(char text[NUMBER_SIZE], double p)
{
    if (!(p < 0.0001) || p <= 0.0) return fixed_text(text, p, p <= 0.0 ? 0 : 4);
    snprintf(text, NUMBER_SIZE, "%.1e", p);
    decimal_point(text);
    return text;
}

/* Appends to a buffer until the first failure, which status keeps: callers ask once, at the end. */
typedef struct writer {
    qnet_context *ctx;
    qnet_buffer *out;
    qnet_status status;
    size_t start;        /* size of *out before the first byte: what a failure goes back to */
    const char *missing; /* what stands for NaN */
    int html;            /* HTML; otherwise JSON or plain text */
    int depth, comma;    /* of JSON: nesting, and whether a member came before */
} writer;

static inline writer writer_begin(qnet_context *ctx, qnet_buffer *out, const char *missing, int html)
{
    writer w;
    memset(&w, 0, sizeof w);
    w.ctx = ctx;
    w.out = out;
    w.start = out->size;
    w.missing = missing;
    w.html = html;
    return w;
}

/* The outcome; a failure leaves the buffer as it was found. */
static inline qnet_status writer_end(writer *w)
{
    if (w->status != QNET_OK) {
        w->out->size = w->start;
        if (w->out->bytes) w->out->bytes[w->start] = 0;
    }
    return w->status;
}

static void put_bytes(writer *w, const void *bytes, size_t size)
{
    if (w->status == QNET_OK) w->status = qnet_buffer_append(w->ctx, w->out, bytes, size);
}

static void put(writer *w, const char *text)
{
    put_bytes(w, text, strlen(text));
}

/* Bytes of the UTF-8 character at p, of which `left` are there (RFC 3629); 0 where it is none. */
static size_t utf8_size(const unsigned char *p, size_t left)
{
    const size_t n = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : 4;
    if (n > left || *p > 0xf4) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if (n == 3 && ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] >= 0xa0))) return 0;
    if (n == 4 && ((*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] >= 0x90))) return 0;
    return n;
}

/* Text from outside (names, paths) into JSON or HTML: what is not UTF-8 becomes U+FFFD, control
   characters spaces (HTML) or escapes (JSON), and the format's own signs are escaped. */
static void put_escaped(writer *w, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t left = strlen(text), n;
    for (; left > 0; p += n, left -= n) {
        const int control = *p < 0x20 || *p == 0x7f;
        char code[16];
        n = utf8_size(p, left);
        if (n == 0) {
            put(w, "\xef\xbf\xbd");
            n = 1;
        } else if (control && w->html) {
            put(w, " ");
        } else if (control || (w->html && strchr("&<>\"'", *p))) {
            snprintf(code, sizeof code, w->html ? "&#%u;" : "\\u%04x", (unsigned)*p);
            put(w, code);
        } else {
            if (!w->html && (*p == '"' || *p == '\\')) put(w, "\\");
            put_bytes(w, p, n);
        }
    }
}

/* The width or precision at *f: digits, or a star for the next argument. */
static int format_int(const char **f, va_list *args)
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
static void vprint(writer *w, const char *f, const char *end, const char *quote, va_list *args)
{
    while (f < end) {
        char number[NUMBER_SIZE];
        const char *text = number;
        const size_t plain = strcspn(f, "%");
        int width, decimals = 0, is_size;
        double value;
        if (plain > 0) {
            const size_t left = (size_t)(end - f);
            put_bytes(w, f, plain < left ? plain : left);
            f += plain;
            continue;
        }
        f++;
        width = format_int(&f, args);
        if (*f == '.') {
            f++;
            decimals = format_int(&f, args);
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
            text = value != value ? w->missing : fixed_text(number, value, decimals);
            break;
        case 'g':
            value = va_arg(*args, double);
            text = isfinite(value) ? shortest_text(number, value) : w->missing;
            break;
        case 's': text = va_arg(*args, const char *); break;
        default: text = "%"; break;
        }
        if (quote && f[-1] == 's') {
            put(w, quote);
            put_escaped(w, text);
            put(w, quote);
        } else if (w->status == QNET_OK) {
            w->status = qnet_buffer_printf(w->ctx, w->out, "%*s", w->html ? 0 : width, text);
        }
    }
}

static PRINTF_LIKE(2, 3) void print(writer *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprint(w, format, format + strlen(format), NULL, &args);
    va_end(args);
}

/* Cells of a table row, "%s|>%.3f|>%d": in HTML <tag> elements, those after a > to the right;
   in plain text the widths make the columns. */
static inline PRINTF_LIKE(3, 4) void cells(writer *w, const char *tag, const char *format, ...)
{
    const char *end;
    va_list args;
    va_start(args, format);
    for (;; format = end + 1) {
        const int right = *format == '>';
        end = format + strcspn(format, "|");
        if (w->html) print(w, "<%s%s>", tag, right ? " class=\"n\"" : "");
        vprint(w, format + right, end, NULL, &args);
        if (w->html) print(w, "</%s>", tag);
        if (!*end) break;
    }
    va_end(args);
}

/* ---- JSON ------------------------------------------------------------------------------------- */

/* Begins a member of the open object or array: comma, new line, and its name where it has one. */
static void put_member(writer *w, const char *name, size_t length)
{
    print(w, "%s\n%*s", w->comma ? "," : "", 2 * w->depth, "");
    w->comma = 1;
    if (length == 0) return;
    put(w, "\"");
    put_bytes(w, name, length);
    put(w, "\": ");
}

/* Opens an object or array; settings are tables in HTML. name "": a member of an array. */
static inline void open_object(writer *w, const char *name, const char *bracket)
{
    if (w->html) {
        print(w, "<table><tbody><tr><th colspan=\"2\">%s</th></tr>\n", name);
        return;
    }
    if (w->depth > 0) put_member(w, name, strlen(name));
    put(w, bracket);
    w->depth++;
    w->comma = 0;
}

static inline void close_object(writer *w, const char *bracket)
{
    if (w->html) {
        put(w, "</tbody></table>\n");
        return;
    }
    w->depth--;
    print(w, "\n%*s%s%s", 2 * w->depth, "", bracket, w->depth == 0 ? "\n" : "");
    w->comma = 1;
}

/* Members "name %d; name %s; name [%g, %g]" of the open object, whose %s are text from outside;
   the same as rows of a table in HTML, without brackets and quotes. */
static inline PRINTF_LIKE(2, 3) void put_members(writer *w, const char *format, ...)
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
            put(w, "<tr><td>");
            put_bytes(w, format, name);
            put(w, "</td><td class=\"n\">");
            vprint(w, value + list, end - list, "", &args);
            put(w, "</td></tr>\n");
        } else {
            put_member(w, format, name);
            vprint(w, value, end, "\"", &args);
        }
        if (!*end) break;
    }
    va_end(args);
}

#endif
