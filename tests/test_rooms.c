/* The rule that keeps the header easy to see: a room (">>name") calls only rooms above it, and its head says which.
   This program reads qnet.h, finds the room in which each function is defined, and complains about every call from a
   room to a later one, and about heads whose "Relies on >>a >>b." differs from what is called (>>status apart, whose
   helpers every room uses), or that name no shape, such as x[rows][channels], where the room has arrays of numbers.
   It also holds the header to its own word on line width and on its contents. Run it in
   the folder of qnet.h. */
#include "test.h"
#include <ctype.h>

#define MAX_NAMES 4000

static char *text;
static struct function { char name[80]; int room; } functions[MAX_NAMES];
static int function_count;
static char rooms[64][32];
static int room_count, calls[64][64]; /* [room][the room it calls] */

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *buffer = (char *)calloc(1, 4u << 20);
    size_t n;
    if (!f || !buffer) return NULL;
    n = fread(buffer, 1, (4u << 20) - 1, f);
    buffer[n] = '\0';
    fclose(f);
    return buffer;
}

/* 1 where a room begins: "   >>name" below a line of "====" that opens a comment. */
static int begins_room(const char *start, const char *s)
{
    const char *line = s - 4;
    if (s < start + 12 || strncmp(line, "\n   >>", 6) != 0 || !islower((unsigned char)s[2])) return 0;
    while (line > start && line[-1] != '\n') line--;
    return strncmp(line, "/* ====", 7) == 0;
}

/* Blanks out comments, strings and characters, keeping newlines and the tags that begin rooms. */
static void strip(char *s)
{
    const char *start = s;
    static char tags[4u << 20]; /* 1 where a tag begins: looked for before anything is blanked out */
    for (char *c = s; *c; c++) tags[c - start] = (char)begins_room(start, c);
    while (*s) {
        if (s[0] == '/' && s[1] == '*') {
            char *end = strstr(s + 2, "*/");
            if (!end) end = s + strlen(s) - 2;
            for (; s < end + 2; s++) {
                if (tags[s - start])
                    while (!isspace((unsigned char)*s) && *s != ':') s++;
                if (*s != '\n') *s = ' ';
            }
        } else if (*s == '"' || *s == '\'') {
            char quote = *s++;
            while (*s && *s != quote) {
                if (*s == '\\') *s++ = ' ';
                *s++ = ' ';
            }
            s++;
        } else {
            s++;
        }
    }
}

/* The length of the qnet identifier at s, or 0. */
static size_t identifier(const char *s)
{
    size_t n = 0;
    if (strncmp(s, "qnet_", 5) != 0) return 0;
    while (isalnum((unsigned char)s[n]) || s[n] == '_') n++;
    return n;
}

/* A definition starts at the left margin with a type, and its parameter list is followed by a brace. */
static int is_definition(const char *line_start, const char *after_name)
{
    int depth = 0;
    if (isspace((unsigned char)*line_start) || *line_start == '#' || *line_start == '}') return 0;
    if (*after_name != '(') return 0;
    for (; *after_name; after_name++) {
        if (*after_name == '(') depth++;
        if (*after_name == ')' && --depth == 0) break;
    }
    if (!*after_name) return 0;
    for (after_name++; isspace((unsigned char)*after_name); after_name++) continue;
    return *after_name == '{';
}

static int find(const char *name, size_t length)
{
    for (int i = 0; i < function_count; i++) {
        if (strlen(functions[i].name) == length && memcmp(functions[i].name, name, length) == 0) return i;
    }
    return -1;
}

/* pass 0 collects definitions, pass 1 checks calls. */
static void walk(int pass)
{
    int room = -1, line = 1, bad = 0;
    const char *line_start = text;
    room_count = 0;
    for (char *s = strstr(text, "QNET_IMPLEMENTATION_DONE\n"); s && *s; s++) {
        if (*s == '\n') {
            line++;
            line_start = s + 1;
        }
        if (s[0] == '>' && s[1] == '>' && islower((unsigned char)s[2])) {
            size_t n = 0;
            while (islower((unsigned char)s[2 + n]) || isdigit((unsigned char)s[2 + n])) n++;
            room = room_count++;
            memcpy(rooms[room], s + 2, n < 31 ? n : 31);
            rooms[room][n < 31 ? n : 31] = '\0';
        }
        if (s > text && (isalnum((unsigned char)s[-1]) || s[-1] == '_')) continue;
        size_t n = identifier(s);
        if (n == 0 || n >= 80) continue;
        if (pass == 0 && is_definition(line_start, s + n) && find(s, n) < 0 && function_count < MAX_NAMES) {
            memcpy(functions[function_count].name, s, n);
            functions[function_count].name[n] = '\0';
            functions[function_count++].room = room;
        }
        if (pass == 1) {
            int f = find(s, n);
            if (f >= 0 && room >= 0 && functions[f].room >= 0) calls[room][functions[f].room] = 1;
            if (f >= 0 && functions[f].room > room) {
                printf("    %s is called in >>%s but defined below, in >>%s\n", functions[f].name,
                       room < 0 ? "(start)" : rooms[room], rooms[functions[f].room]);
                bad++;
            }
        }
        s += n - 1;
    }
    if (pass == 1) CHECK(bad == 0);
}

static void test_rooms_call_only_upwards(void)
{
    text = read_file("qnet.h");
    CHECK(text != NULL);
    if (!text) return;
    strip(text);
    walk(0);
    walk(1);
    printf("    %d functions in %d rooms\n", function_count, room_count);
    CHECK(room_count >= 20);
    CHECK(function_count > 300);
    /* The check can fail: turned around, it must find offenders. */
    for (int i = 0; i < function_count; i++) functions[i].room = room_count - 1 - functions[i].room;
    CHECK(functions[find("qnet_conv2d_forward", 19)].room > 0);
    free(text);
}

/* 1: the head that ends before end names the shape of an array: there is a word in brackets. */
static int names_shape(const char *head, const char *end)
{
    for (; head < end; head++) {
        size_t n = 1;
        if (head[0] != '[') continue;
        while (isalnum((unsigned char)head[n]) || head[n] == '_') n++;
        if (n > 1 && head[n] == ']') return 1;
    }
    return 0;
}

/* Each room opens with what it computes, in which shapes, and with what it relies on. */
static void test_heads(void)
{
    char *s = read_file("qnet.h");
    int room = 0;
    CHECK(s != NULL);
    if (!s) return;
    for (char *c = strstr(s, "QNET_IMPLEMENTATION_DONE\n"); c && *c; c++) {
        int relies[64] = {0}, differs = 0, lines = 0;
        if (!begins_room(s, c)) continue;
        const char *end = strstr(c, "====="), *list = strstr(c, "Relies on ");
        const char *array = strstr(end, "qnet_real *"), *next = end;
        while (*next && !begins_room(s, next)) next++;
        for (const char *p = c; p < end; p++) lines += *p == '\n';
        CHECK(lines >= 2);
        if (!CHECK(!array || array > next || names_shape(c, end)))
            printf("    >>%s has arrays of numbers: expected a shape such as x[rows][channels]\n", rooms[room]);
        if (list && list < end) {
            const char *stop = strchr(list, '.');
            for (const char *p = list; p < stop; p++) {
                size_t n = 0;
                if (p[0] != '>' || p[1] != '>') continue;
                while (islower((unsigned char)p[2 + n])) n++;
                for (int i = 0; i < room_count; i++)
                    relies[i] |= strlen(rooms[i]) == n && memcmp(rooms[i], p + 2, n) == 0;
            }
        }
        for (int i = 1; i < room_count; i++) differs |= i != room && relies[i] != calls[room][i];
        if (!CHECK(list && list < end && !differs)) {
            printf("    >>%s: expected \"Relies on", rooms[room]);
            for (int i = 1; i < room_count; i++)
                if (i != room && calls[room][i]) printf(" >>%s", rooms[i]);
            printf(".\"\n");
        }
        room++;
    }
    CHECK(room == room_count);
    free(s);
}

static void test_lines_and_tags(void)
{
    char *s = read_file("qnet.h");
    int column = 0, line = 1, wide = 0, tabs = 0;
    CHECK(s != NULL);
    if (!s) return;
    for (char *c = s; *c; c++) {
        if (*c == '\t') tabs++;
        if (*c == '\n') {
            if (column > 100 && wide++ < 5) printf("    qnet.h:%d has %d columns\n", line, column);
            column = 0;
            line++;
        } else if (((unsigned char)*c & 0xc0) != 0x80) {
            column++;
        }
    }
    CHECK(wide == 0);
    CHECK(tabs == 0);
    CHECK(strstr(s, "SPDX-License-Identifier") != NULL);
    CHECK(strstr(s, "END OF API") != NULL);
    for (int i = 0; i < room_count; i++) { /* each room is in the contents at the top */
        char tag[40];
        char *first;
        sprintf(tag, ">>%s", rooms[i]);
        first = strstr(s, tag);
        CHECK(first != NULL && first < strstr(s, "#ifndef QNET_H"));
    }
    free(s);
}

int main(void)
{
    RUN(test_rooms_call_only_upwards);
    RUN(test_heads);
    RUN(test_lines_and_tags);
    return test_end();
}
