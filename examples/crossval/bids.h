/* bids.h: the scans of a BIDS folder, as the list that qnet_experiment_run and qnet_cohort_load take.

       bids b;
       memset(&b, 0, sizeof b);
       if (bids_read(&b, ctx, "cohort") != QNET_OK ||
           qnet_experiment_run(ctx, &config, &b.dataset, "out", NULL, 0, &e) != QNET_OK)
           puts(bids_error(&b));
       bids_free(&b);

   The folder, with the suffixes of BIDS' qMRI extension:

       cohort/participants.tsv            participant_id  group (HH or HC)  age  sex; others are not
                                          read but for subgroups. Without a group (n/a): left out
       cohort/dataset_description.json    Name, DatasetType, Keywords: for the report
       cohort/sub-01/sub-01_sessions.tsv  session_id  age; optional
       cohort/sub-01/anat/sub-01_T1w.nii.gz
       cohort/derivatives/TOOL/sub-01/anat/sub-01_Chimap.nii.gz      QSM, ppm
                                           sub-01_R2starmap.nii.gz   1/s
                                           sub-01_desc-basalganglia_mask.nii.gz

   Folders below sub-01 may have any name (anat, ses-1/anat, none); each session with a Chimap is a scan of
   the subject. A derivatives folder may also lie deeper, or hold files sub-01_... without a folder for the
   subject; below sub-01 its files may be called as the tool likes (SEPIA: Sepia_Chimap.nii.gz).
   Of several files that fit a map are taken, in this order: those of the Chimap's derivatives folder, raw
   ones, those of another derivatives folder; those of the session itself; those with the entities of the
   filter; the one without other entities (sub-01_acq-gre_Chimap). Two that are left are an error.
   A sidecar's "Units", such as ppb, are compared with ppm and 1/s. The list stays valid until bids_free. */
#ifndef BIDS_H
#define BIDS_H
#include "qnet.h"
#include "../table.h"
#include "subgroups.h"

#define BIDS_PATH 1024
#define BIDS_SCANS 10000 /* duplicates are found by comparing all pairs */

enum { BIDS_MAPS = 4 }; /* QSM, R2*, T1W, mask */

typedef struct bids_scan {
    char subject[64], session[64];   /* "sub-01", "1" or "" */
    char path[BIDS_MAPS][BIDS_PATH]; /* "": none, of a map that is not needed */
    qnet_label label;
    double age;
    qnet_sex sex;
    int bad; /* 1: a problem was told with its line of participants.tsv; the group is not known */
} bids_scan;

typedef struct bids_file {
    char *path;                     /* that of the folder, and behind it */
    char subject[64], session[64];  /* "sub-01", "1" or "" */
    size_t name, tool, tool_end;    /* where in path its name, and that of its derivatives folder, begin;
                                       tool 0: it is raw */
} bids_file;

typedef struct bids {
    /* Set before bids_read: */
    const char *derivatives; /* TOOL, or several with commas, the first that has a map; NULL: found */
    const char *session;     /* NAME of sub-01/ses-NAME; NULL: each session is a scan of the subject */
    const char *filter;      /* "acq=stage,run=1": files whose name has another value are not taken */
    const char *t1w;         /* pattern, such as "*acq-mprage_T1w*", for T1W; with a / for its path */
    const char *maps;        /* a table that names the files, in place of the search */
    const char *write_maps;  /* where to write such a table of what is found; the rest is not needed */
    const char *group_column;        /* NULL: "group" */
    const char *positive, *negative; /* in that column, for HH and HC; NULL: "HH" and "HC". Given: others
                                        are left out */
    const char *exclude;     /* participants to leave out, "sub-03,07" */
    const char *subgroups;   /* up to SUBGROUP_COLUMNS other columns of that table, "site,scanner"; NULL: none */
    int no_r2star, no_t1w;   /* 1: a scan may lack it, as its channel is not used */
    int any_values;          /* 1: other units are warned of, not refused */
    int any_groups;          /* 1: problem is told of groups and subgroups, and goes on even where there are no
                                right ones */
    qnet_log log;            /* of warnings */
    /* Is told each problem with a line of a table (scan -1) or with the files of a scan, by its place in
       the list; NULL: the first one ends the search. */
    void (*problem)(void *user, int scan, const char *sentence);
    void *problem_user;
    /* Its results: */
    qnet_dataset dataset;
    subject_columns columns; /* of the subgroups */
    char error[1600];        /* one sentence, where it fails */
    /* Private: */
    qnet_context *ctx;
    const char *folder;
    bids_scan *list;         /* as dataset.scans; of files that were not found the path is "" */
    int count, room;
    qnet_buffer left_out; /* participants who are none of the two groups, each ended by a zero byte */
    bids_file *index;
    size_t index_count, index_room;
    qnet_scan_files *files;
    char tool[256], name[1024], type[128], root[BIDS_PATH];
} bids;

#define BIDS_TRY(call)                                  \
    do {                                                \
        const qnet_status bids_status = (call);         \
        if (bids_status != QNET_OK) return bids_status; \
    } while (0)

/* Keeps a sentence and returns the status. */
static qnet_status bids_fail(bids *b, qnet_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(b->error, sizeof b->error, format, arguments);
    va_end(arguments);
    return status;
}

/* Tells a problem, behind which the search goes on, or gives its status back. */
static qnet_status bids_problem(bids *b, int scan, qnet_status status)
{
    if (b->problem == NULL || status == QNET_ERROR_MEMORY) return status;
    b->problem(b->problem_user, scan, b->error);
    b->error[0] = '\0';
    return QNET_OK;
}

static void bids_warn(const bids *b, const char *format, ...)
{
    char text[1600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (b->log.message) b->log.message(b->log.user, QNET_LOG_WARNING, text);
}

/* path[BIDS_PATH] = the parts, one after the other. */
static qnet_status bids_path(bids *b, char *path, const char *folder, const char *a,
                             const char *name, const char *tail)
{
    const int n = snprintf(path, BIDS_PATH, "%s%s%s%s", folder, a, name, tail);
    if (n >= 0 && n < BIDS_PATH) return QNET_OK;
    return bids_fail(b, QNET_ERROR_LIMIT, "%.60s...: path of more than %d bytes", folder,
                     BIDS_PATH - 1);
}

/* ---- JSON ------------------------------------------------------------------------------------- */

static const char *json_blank(const char *p)
{
    while (*p && strchr(" \t\r\n", *p)) p++;
    return p;
}

/* The string at p ("...") into out[size], in UTF-8, control characters as blanks, cut at a whole
   character. Returns where it ends; NULL: it is none. */
static const char *json_string(const char *p, char *out, size_t size)
{
    size_t n = 0;
    if (*p++ != '"') return NULL;
    for (; *p != '"'; p++) {
        unsigned code = (unsigned char)*p;
        if (code < 32) return NULL;
        if (code == '\\') {
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/     ";
            const char *at = *++p ? strchr(from, *p) : NULL;
            if (*p == 'u') {
                if (strspn(p + 1, "0123456789abcdefABCDEF") < 4 || sscanf(p + 1, "%4x", &code) != 1)
                    return NULL;
                p += 4;
            } else if (at) code = (unsigned char)to[at - from];
            else return NULL;
        } else if (code >= 0x80) { /* a character of several bytes, as it is */
            const int more = code >= 0xF0 ? 3 : code >= 0xE0 ? 2 : code >= 0xC2 ? 1 : 0;
            int k = 0;
            while (k < more && ((unsigned char)p[k + 1] & 0xC0) == 0x80) k++;
            if (more == 0 || k < more) return NULL;
            if (n + (size_t)more + 1 >= size) size = 0; /* full */
            for (k = 0; k <= more && size > 0; k++) out[n++] = p[k];
            p += more;
            continue;
        }
        if (code < 32 || (code >= 0x7F && code < 0xA0)) code = ' ';
        if (code >= 0xD800 && code < 0xE000) code = '?'; /* half of a surrogate pair */
        if (n + 3 >= size) size = 0;
        else if (code < 0x80) out[n++] = (char)code;
        else {
            if (code >= 0x800) out[n++] = (char)(0xE0 | code >> 12);
            out[n++] = (char)(code >= 0x800 ? 0x80 | (code >> 6 & 63) : 0xC0 | code >> 6);
            out[n++] = (char)(0x80 | (code & 63));
        }
    }
    out[n] = '\0';
    return p + 1;
}

/* Passes the value at p: where it ends; NULL: it is none. What strings it has, by itself or in an array,
   are appended to out[size], a blank before each but the first; NULL: nothing. */
static const char *json_value(const char *p, int depth, char *out, size_t size)
{
    char text[1024];
    p = json_blank(p);
    if (*p == '"') {
        p = json_string(p, text, sizeof text);
        if (p && out) {
            const size_t n = strlen(out);
            snprintf(out + n, size - n, "%s%s", n ? " " : "", text);
        }
    } else if (*p == '{' || *p == '[') {
        const char end = *p == '{' ? '}' : ']';
        p = json_blank(p + 1);
        if (*p == end) return p + 1;
        for (;;) {
            if (end == '}') {
                p = json_string(json_blank(p), text, sizeof text);
                if (p == NULL || *(p = json_blank(p)) != ':') return NULL;
                p++;
            }
            p = depth < 32 ? json_value(p, depth + 1, end == ']' ? out : NULL, size) : NULL;
            if (p == NULL) return NULL;
            p = json_blank(p);
            if (*p == end) return p + 1;
            if (*p++ != ',') return NULL;
        }
    } else {
        const size_t n = strspn(p, "+-.0123456789Eaeflnrstu"); /* a number, true, false or null */
        return n ? p + n : NULL;
    }
    return p;
}

/* The value of a member of the object that text is into *value; NULL: it has none. 0: text is no object. */
static int json_find(const char *text, const char *member, const char **value)
{
    const char *p = json_blank(strncmp(text, "\xef\xbb\xbf", 3) ? text : text + 3);
    const char *end = json_value(p, 0, NULL, 0);
    char key[64];
    *value = NULL;
    if (end == NULL || *p != '{' || *json_blank(end)) return 0;
    p = json_blank(p + 1);
    while (*p == '"') { /* it is known to be right */
        p = json_blank(json_string(p, key, sizeof key));
        p = json_blank(p + 1);
        if (*value == NULL && strcmp(key, member) == 0) *value = p;
        p = json_blank(json_value(p, 1, NULL, 0));
        if (*p == ',') p = json_blank(p + 1);
    }
    return 1;
}

/* The strings of a member of an object into out[size]; "": none. 0: text is no object. */
static int json_member(const char *text, const char *member, char *out, size_t size)
{
    const char *value;
    out[0] = '\0';
    if (!json_find(text, member, &value)) return 0;
    if (value) json_value(value, 1, out, size);
    return 1;
}

/* A number that a member of an object is, also one in quotes. 1: it is in *number; 0: there is no such
   member, or it is null; -1: it is something else. */
static inline int json_number(const char *text, const char *member, double *number)
{
    const char *value, *end;
    char digits[64];
    if (!json_find(text, member, &value) || value == NULL) return 0;
    end = json_value(value, 1, NULL, 0);
    if (end - value == 4 && strncmp(value, "null", 4) == 0) return 0;
    if (*value == '"') {
        value++;
        end--;
    }
    if (end - value >= (int)sizeof digits) return -1;
    memcpy(digits, value, (size_t)(end - value));
    digits[end - value] = '\0';
    return table_number(digits, number) ? 1 : -1;
}

/* The text of a small file, ended by a zero byte, to be freed with qnet_buffer_free; empty where there
   is no such file. */
static qnet_status bids_text(bids *b, const char *path, qnet_buffer *text)
{
    qnet_status status = QNET_OK;
    memset(text, 0, sizeof *text);
    if (!qnet_file_exists(path)) return QNET_OK;
    status = qnet_file_read(b->ctx, path, (size_t)1 << 20, text);
    if (status == QNET_OK) status = qnet_buffer_append(b->ctx, text, "", 1);
    if (status == QNET_OK) return QNET_OK;
    qnet_buffer_free(b->ctx, text);
    return bids_fail(b, status, "%s", qnet_last_error(b->ctx));
}

/* Name and kind of the data set. One that is no JSON is warned of: no number depends on it. */
static qnet_status bids_describe(bids *b)
{
    static const char *const words[3] = {"simulat", "synthetic", "phantom"};
    char path[BIDS_PATH], keywords[2048];
    qnet_buffer text;
    BIDS_TRY(bids_path(b, path, b->folder, "/", "dataset_description.json", ""));
    BIDS_TRY(bids_text(b, path, &text));
    if (text.size > 0) {
        const char *p = (const char *)text.bytes;
        if (!json_member(p, "Name", b->name, sizeof b->name) ||
            !json_member(p, "DatasetType", b->type, sizeof b->type) ||
            !json_member(p, "Keywords", keywords, sizeof keywords / 2))
            bids_warn(b, "%s: is no JSON; the report says \"data set not named\"", path);
        else {
            strcat(strcat(keywords, " "), b->name);
            for (p = keywords; *p; p++)
                for (int k = 0; k < 3; k++) {
                    size_t n = 0;
                    while (words[k][n] && (p[n] | 0x20) == words[k][n]) n++;
                    if (!words[k][n]) b->dataset.simulated = 1;
                }
        }
    }
    qnet_buffer_free(b->ctx, &text);
    return QNET_OK;
}

/* The name behind `name` (NULL: the first) in a list; NULL: none. */
static const char *bids_next(const qnet_buffer *names, const char *name)
{
    const char *next = name ? name + strlen(name) + 1 : (const char *)names->bytes;
    return names->size > 0 && next < (const char *)names->bytes + names->size ? next : NULL;
}

/* ---- participants.tsv ------------------------------------------------------------------------- */

static int bids_lower(int c)
{
    return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

/* The same letters, large or small (ASCII). */
static int bids_same(const char *a, const char *b)
{
    while (*a && bids_lower(*a) == bids_lower(*b)) a++, b++;
    return *a == *b;
}

static int bids_absent(const char *field)
{
    return table_missing(field) || bids_same(field, "na") || bids_same(field, "nan");
}

/* Years, 0..150: a decimal number with point or comma, behind which a unit "y" or the "+" of "89+"
   may stand (BIDS asks for that from 89 on). 0: no such number. */
static int bids_age(const char *field, double *age)
{
    char text[16];
    size_t n = strlen(field);
    *age = (double)NAN;
    if (bids_absent(field)) return 1;
    if (n > 1 && strchr("+yY", field[n - 1])) n--;
    if (n >= sizeof text || strspn(field, "0123456789.,") < n) return 0;
    memcpy(text, field, n);
    text[n] = '\0';
    if (strchr(text, ',')) *strchr(text, ',') = '.';
    if (table_number(text, age) && *age <= 150) return 1;
    *age = (double)NAN;
    return 0;
}

/* M or F in their usual spellings; O and U are unknown here: the paper knows two. 0: no sex. */
static int bids_sex(const char *field, qnet_sex *sex)
{
    static const char *const words[] = {"m", "male", "man", "f", "female", "woman", "w",
                                        "o", "other", "u", "unknown"};
    *sex = QNET_SEX_UNKNOWN;
    if (bids_absent(field)) return 1;
    for (int k = 0; k < 11; k++)
        if (bids_same(field, words[k])) {
            if (k < 7) *sex = k < 3 ? QNET_MALE : QNET_FEMALE;
            return 1;
        }
    return 0;
}

enum { BIDS_ID, BIDS_GROUP, BIDS_AGE, BIDS_SEX, BIDS_COLUMNS };
static const char *const bids_columns[BIDS_COLUMNS] = {"participant_id", "group", "age", "sex"};

/* What a column is called in this table. */
static const char *bids_column(const bids *b, int k)
{
    return k == BIDS_GROUP && b->group_column ? b->group_column : bids_columns[k];
}

/* Says what a field should be: an error, or (of one that only describes) a warning. */
static qnet_status bids_field(bids *b, const char *path, const table *t, int column, const char *field,
                              const char *expected)
{
    char shown[64];
    table_show(field, strlen(field), 60, shown);
    if (column == BIDS_AGE || column == BIDS_SEX) {
        bids_warn(b, "%s: line %lu, %s: expected %s, found \"%s\": taken as unknown", path,
                  (unsigned long)t->line, bids_columns[column], expected, shown);
        return QNET_OK;
    }
    return bids_fail(b, QNET_ERROR_DATA, "%s: line %lu, %s: expected %s, found \"%s\"", path,
                     (unsigned long)t->line, bids_column(b, column), expected, shown);
}

/* Adds a name that is not there to a list such as "a, b, c, ..." in text[size]. */
static void bids_name(char *text, size_t size, const char *name)
{
    const size_t n = strlen(text), length = strlen(name);
    if (length == 0) return;
    for (const char *p = text; (p = strstr(p, name)) != NULL; p++)
        if ((p == text || p[-1] == ' ') && (!p[length] || p[length] == ',')) return;
    if (n > size - 80) {
        if (strcmp(text + n - 3, "...")) strcpy(text + n, ", ...");
    } else snprintf(text + n, size - n, "%s%.60s", n ? ", " : "", name);
}

/* One line of the table, by column, into *scan. */
static qnet_status bids_participant(bids *b, const char *path, const table *t,
                                    const char *const field[BIDS_COLUMNS], bids_scan *scan)
{
    const char *id = field[BIDS_ID], *label = strncmp(id, "sub-", 4) ? id : id + 4;
    const size_t n = strlen(label);
    memset(scan, 0, sizeof *scan);
    if (n == 0 || n >= 60)
        return bids_field(b, path, t, BIDS_ID, id, "a label of 1 to 59 characters");
    /* It becomes part of a path. */
    if (strspn(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-_") < n)
        return bids_field(b, path, t, BIDS_ID, id, "letters, digits, + - _");
    snprintf(scan->subject, sizeof scan->subject, "sub-%.59s", label);
    scan->label = bids_same(field[BIDS_GROUP], b->positive ? b->positive : "HH") ? QNET_HH : QNET_HC;
    if (!bids_age(field[BIDS_AGE], &scan->age))
        bids_field(b, path, t, BIDS_AGE, field[BIDS_AGE], "years (0..150) or n/a");
    if (!bids_sex(field[BIDS_SEX], &scan->sex))
        bids_field(b, path, t, BIDS_SEX, field[BIDS_SEX], "M, F, O or n/a");
    for (int i = 0; i < b->count; i++)
        if (strcmp(b->list[i].subject, scan->subject) == 0) {
            b->list[i].bad = 1;
            return bids_fail(b, QNET_ERROR_DATA, "%s: line %lu, participant_id: %s is there twice",
                             path, (unsigned long)t->line, scan->subject);
        }
    return QNET_OK;
}

/* Whether a list such as "sub-03,07" names a subject, as "sub-03". */
static int bids_is_named(const char *list, const char *subject)
{
    for (const char *p = list; p && *p; p += strspn(p, ", \t\r\n")) {
        const size_t n = strcspn(p, ", \t\r\n"), start = strncmp(p, "sub-", 4) ? 4 : 0;
        if (strlen(subject + start) == n && strncmp(p, subject + start, n) == 0) return 1;
        p += n;
    }
    return 0;
}

/* Every name of the list must be that of a participant: a misspelt one would stay in the cohort. */
static qnet_status bids_check_exclude(bids *b, const char *path)
{
    for (const char *p = b->exclude, *other; p && *p; p += strspn(p, ", \t\r\n")) {
        const size_t n = strcspn(p, ", \t\r\n");
        char name[80];
        snprintf(name, sizeof name, "%s%.*s", strncmp(p, "sub-", 4) ? "sub-" : "", (int)(n < 64 ? n : 64), p);
        other = NULL;
        while (n > 0 && (other = bids_next(&b->left_out, other)) != NULL && strcmp(other, name)) {}
        if (n > 0 && other == NULL)
            return bids_fail(b, QNET_ERROR_ARGUMENT, "exclude: %s is no participant of %s", name, path);
        p += n;
    }
    return QNET_OK;
}

/* 1: the group that a field names is one of the two; 0: it is n/a, or a third one where the two are given. */
static int bids_is_group(const bids *b, const char *field)
{
    return bids_same(field, b->positive ? b->positive : "HH") ||
           bids_same(field, b->negative ? b->negative : "HC");
}

/* Room for one more scan in the list. */
static qnet_status bids_grow(bids *b)
{
    const int room = b->room ? 2 * b->room : 64;
    bids_scan *list;
    if (b->count < b->room) return QNET_OK;
    list = (bids_scan *)realloc(b->list, (size_t)room * sizeof *list);
    if (list == NULL) return bids_fail(b, QNET_ERROR_MEMORY, "no memory for %d scans", room);
    b->list = list;
    b->room = room;
    return QNET_OK;
}

static qnet_status bids_add_text(bids *b, const char *text)
{
    if (qnet_buffer_append(b->ctx, &b->columns.text, text, strlen(text) + 1) == QNET_OK) return QNET_OK;
    return bids_fail(b, QNET_ERROR_MEMORY, "%s", qnet_last_error(b->ctx));
}

/* Where those of b->subgroups are among the columns of the table's first line. */
static qnet_status bids_subgroups(bids *b, const char *path, const table *t, size_t column[SUBGROUP_COLUMNS])
{
    char name[200], shown[64], others[800] = "";
    BIDS_TRY(bids_add_text(b, ""));
    for (const char *p = b->subgroups; p && *p && b->columns.count < SUBGROUP_COLUMNS; p += *p == ',') {
        size_t c = 0;
        p += strspn(p, " ");
        snprintf(name, sizeof name, "%.*s", (int)strcspn(p, ","), p);
        p += strcspn(p, ",");
        while (c < t->columns && !bids_same(t->field[c], name)) c++;
        if (c < t->columns) {
            column[b->columns.count++] = c;
            BIDS_TRY(bids_add_text(b, t->field[c]));
            continue;
        }
        for (c = 0; c < t->columns; c++) {
            table_show(t->field[c], strlen(t->field[c]), 60, shown);
            bids_name(others, sizeof others, shown);
        }
        bids_fail(b, QNET_ERROR_ARGUMENT, "subgroups: %s has no column %.60s; its columns are %s", path, name,
                  others);
        if (!b->any_groups) return QNET_ERROR_ARGUMENT;
        BIDS_TRY(bids_problem(b, -1, QNET_ERROR_ARGUMENT));
    }
    return QNET_OK;
}

/* A column of texts may have SUBGROUP_VALUES of them. */
static qnet_status bids_check_subgroups(bids *b, const char *path)
{
    const char **value = (const char **)malloc((size_t)(b->count + 1) * sizeof *value), *median;
    qnet_status status = value ? QNET_OK : bids_fail(b, QNET_ERROR_MEMORY, "no memory for %d values", b->count);
    for (int c = 0; c < b->columns.count && status == QNET_OK; c++) {
        const char *name = subject_value(&b->columns, "", c);
        char shown[64];
        size_t n = 0;
        for (int i = 0; i < b->count; i++) {
            value[n] = subject_value(&b->columns, b->list[i].subject, c);
            n += *value[n] != '\0';
        }
        const int different = subgroup_sort(value, n, &median);
        if (n == 0) bids_warn(b, "subgroups: %s: column %.60s has no values", path, name);
        if (different <= SUBGROUP_VALUES || median) continue;
        table_show(value[different - 1], strlen(value[different - 1]), 60, shown);
        status = bids_fail(b, QNET_ERROR_DATA, "subgroups: %s: column %.60s has %d different values, \"%s\" among "
                           "them; expected up to %d, or numbers alone", path, name, different, shown,
                           SUBGROUP_VALUES);
        if (b->any_groups) status = bids_problem(b, -1, status);
    }
    free(value);
    return status;
}

/* The rows of an open table, the columns by their names in any order, into the list. */
static qnet_status bids_rows(bids *b, const char *path, table *t)
{
    size_t column[BIDS_COLUMNS], others_at[SUBGROUP_COLUMNS], c;
    int count[4] = {0, 0, 0, 0}; /* of HC, HH, n/a, others */
    int row = table_next(t), known[BIDS_COLUMNS] = {0, 0, 0, 0}, unknown = 0, k;
    char shown[64], others[400] = "", wrong[1600] = "";
    if (row <= 0) return bids_fail(b, QNET_ERROR_FORMAT, "%s: %s", path, row ? t->error : "is empty");
    for (c = 0; c < t->columns; c++)
        for (k = 0; k < BIDS_COLUMNS; k++)
            if (bids_same(t->field[c], bids_column(b, k))) {
                if (known[k]++)
                    return bids_fail(b, QNET_ERROR_FORMAT, "%s: line %lu: two columns named %s", path,
                                     (unsigned long)t->line, bids_column(b, k));
                column[k] = c;
            }
    for (k = BIDS_ID; k <= BIDS_GROUP; k++)
        if (!known[k]) {
            table_show(t->bytes + t->start, t->length, 60, shown);
            bids_fail(b, QNET_ERROR_FORMAT, "%s: line %lu: expected column names, %s among them, found \"%s\"%s",
                      path, (unsigned long)t->line, bids_column(b, k), shown,
                      k == BIDS_GROUP ? "; set group_column to the one of the groups" : "");
            if (k == BIDS_ID || !b->any_groups) return QNET_ERROR_FORMAT;
            BIDS_TRY(bids_problem(b, -1, QNET_ERROR_FORMAT));
        }
    BIDS_TRY(bids_subgroups(b, path, t, others_at));
    while ((row = table_next(t)) != 0) {
        const char *field[BIDS_COLUMNS];
        if (row < 0) { /* the line alone */
            bids_fail(b, QNET_ERROR_FORMAT, "%s: %s", path, t->error);
            BIDS_TRY(bids_problem(b, -1, QNET_ERROR_FORMAT));
            continue;
        }
        for (c = 0; c < t->columns && !t->field[c][0];) c++;
        if (c == t->columns) continue; /* nothing but tabs */
        for (k = 0; k < BIDS_COLUMNS; k++) field[k] = known[k] ? t->field[column[k]] : "";
        char subject[80];
        const char *id = field[BIDS_ID];
        snprintf(subject, sizeof subject, "%s%.64s", strncmp(id, "sub-", 4) ? "sub-" : "", id);
        const int excluded = bids_is_named(b->exclude, subject), absent = bids_absent(field[BIDS_GROUP]);
        const int is_group = bids_is_group(b, field[BIDS_GROUP]);
        const int is_wrong = !known[BIDS_GROUP] || (!is_group && !absent && !b->positive);
        if (is_wrong && known[BIDS_GROUP] && !excluded && unknown++ == 0) { /* told once, with their number */
            (void)bids_field(b, path, t, BIDS_GROUP, field[BIDS_GROUP],
                             "HH or HC (set positive and negative to name other groups)");
            if (b->problem == NULL) return QNET_ERROR_DATA;
            strcpy(wrong, b->error);
        }
        if (excluded || (!is_group && !is_wrong)) {
            table_show(field[BIDS_GROUP], strlen(field[BIDS_GROUP]), 60, shown);
            if (!excluded) {
                count[absent ? 2 : 3]++;
                if (!absent) bids_name(others, sizeof others, shown);
            }
            if (qnet_buffer_printf(b->ctx, &b->left_out, "%s%s", strncmp(id, "sub-", 4) ? "sub-" : "",
                                   id) != QNET_OK ||
                qnet_buffer_append(b->ctx, &b->left_out, "", 1) != QNET_OK)
                return bids_fail(b, QNET_ERROR_MEMORY, "%s", qnet_last_error(b->ctx));
            continue;
        }
        if (b->count >= BIDS_SCANS)
            return bids_fail(b, QNET_ERROR_LIMIT, "%s: more than %d participants", path, BIDS_SCANS);
        BIDS_TRY(bids_grow(b));
        const qnet_status status = bids_participant(b, path, t, field, &b->list[b->count]);
        b->list[b->count].bad = is_wrong;
        if (status != QNET_OK) {
            BIDS_TRY(bids_problem(b, -1, status));
            continue;
        }
        BIDS_TRY(bids_add_text(b, b->list[b->count].subject));
        for (k = 0; k < b->columns.count; k++)
            BIDS_TRY(bids_add_text(b, bids_absent(t->field[others_at[k]]) ? "" : t->field[others_at[k]]));
        count[b->list[b->count++].label == QNET_HH]++;
    }
    if (unknown > 0) {
        bids_fail(b, QNET_ERROR_DATA, unknown > 1 ? "%.1500s; so in %d lines" : "%.1500s", wrong, unknown);
        if (b->count == unknown && !b->any_groups) return QNET_ERROR_DATA; /* the options, rather than a line */
        BIDS_TRY(bids_problem(b, -1, QNET_ERROR_DATA));
    }
    BIDS_TRY(bids_check_exclude(b, path));
    BIDS_TRY(bids_check_subgroups(b, path));
    for (k = 0; k < 2; k++) {
        const char *name = k ? b->positive : b->negative;
        if (name && count[k] == 0)
            return bids_fail(b, QNET_ERROR_DATA, "%s: column %s: no \"%.60s\", expected it in some lines, "
                             "found %s%s%s", path, bids_column(b, BIDS_GROUP), name,
                             count[!k] ? (k ? b->negative : b->positive) : "",
                             count[!k] && others[0] ? ", " : "", others);
    }
    if (count[2])
        bids_warn(b, "%s: %d participants without a %s (n/a) are left out", path, count[2],
                  bids_column(b, BIDS_GROUP));
    if (count[3])
        bids_warn(b, "%s: %d participants of other groups are left out: %s", path, count[3], others);
    if (b->count == 0)
        return bids_fail(b, QNET_ERROR_DATA, b->left_out.size ? "%s: no participants are left"
                         : "%s: no participants below the header", path);
    return QNET_OK;
}

/* participants.tsv, whose text is bytes[size], into the list. */
static qnet_status bids_participants(bids *b, const char *path, const void *bytes, size_t size)
{
    table t;
    qnet_status status;
    if (table_open(&t, bytes, size) < 0)
        return bids_fail(b, QNET_ERROR_MEMORY, "%s: %s", path, t.error);
    status = bids_rows(b, path, &t);
    table_close(&t);
    return status;
}

/* ---- finding the maps ------------------------------------------------------------------------- */

/* BIDS, with the suffixes of its qMRI extension. */
static const char *const bids_suffix[BIDS_MAPS] = {"Chimap", "R2starmap", "T1w", "mask"};

/* The names in a folder, each ended by a zero byte; none where there is no such folder. */
static qnet_status bids_list(bids *b, const char *folder, qnet_buffer *names)
{
    qnet_status status;
    memset(names, 0, sizeof *names);
    status = qnet_list_folder(b->ctx, folder, names);
    if (status == QNET_OK || status == QNET_ERROR_NOT_FOUND) return QNET_OK;
    qnet_buffer_free(b->ctx, names);
    return bids_fail(b, status, "%s", qnet_last_error(b->ctx));
}

/* ---- the index ----------------------------------------------------------------------------------

   The tree is walked once. Of each .nii or .nii.gz in the folders sub-LABEL and derivatives it keeps whose
   it is, told by its folders or its name; entities such as run-1 are read off the name when asked for. */

/* Deeper than derivatives/TOOL/sub-01/ses-1/anat and two more; also the end of links that go in circles. */
#define BIDS_DEPTH 8

/* How long the name is without .nii or .nii.gz; 0: it has neither. */
static size_t bids_stem(const char *name)
{
    const size_t n = strlen(name);
    if (n > 7 && strcmp(name + n - 7, ".nii.gz") == 0) return n - 7;
    return n > 4 && strcmp(name + n - 4, ".nii") == 0 ? n - 4 : 0;
}

/* The value of an entity, such as "1" of "echo" in "sub-01_echo-1_MEGRE.nii", into value[64]; 0: none. */
static int bids_entity(const char *name, const char *key, char *value)
{
    const size_t n = strlen(key);
    const char *p = name;
    value[0] = '\0';
    while (p && (strncmp(p, key, n) != 0 || p[n] != '-'))
        if ((p = strchr(p, '_')) != NULL) p++;
    if (p == NULL) return 0;
    snprintf(value, 64, "%.*s", (int)strcspn(p + n + 1, "_."), p + n + 1);
    return 1;
}

/* The same labels, leading zeros aside: run-1 and run-01. */
static int bids_same_label(const char *a, const char *b)
{
    while (*a == '0' && a[1]) a++;
    while (*b == '0' && b[1]) b++;
    return strcmp(a, b) == 0;
}

/* A file of the index, unless its name says that it is someone else's. tool: where the name of its
   derivatives folder begins; 0: it is raw. */
static qnet_status bids_keep(bids *b, const char *path, const bids_file *in)
{
    bids_file *f;
    char label[64];
    if (b->index_count == b->index_room) {
        const size_t room = b->index_room ? 2 * b->index_room : 256;
        f = (bids_file *)realloc(b->index, room * sizeof *f);
        if (f == NULL) return bids_fail(b, QNET_ERROR_MEMORY, "no memory for %lu files", (unsigned long)room);
        b->index = f;
        b->index_room = room;
    }
    f = &b->index[b->index_count];
    *f = *in;
    f->name = (size_t)(strrchr(path, '/') + 1 - path);
    if (bids_entity(path + f->name, "sub", label) && f->subject[0] && strcmp(label, f->subject + 4) != 0)
        return QNET_OK;
    if (!f->subject[0] && label[0] && strlen(label) < 60) snprintf(f->subject, 64, "sub-%.59s", label);
    if (!f->subject[0]) return QNET_OK;
    if (bids_entity(path + f->name, "ses", label) && f->session[0] && strcmp(label, f->session) != 0)
        return QNET_OK;
    if (!f->session[0]) strcpy(f->session, label);
    if (f->tool && f->tool_end == 0) f->tool_end = f->name - 1;
    f->path = (char *)malloc(strlen(path) + 1);
    if (f->path == NULL) return bids_fail(b, QNET_ERROR_MEMORY, "no memory for the list of files");
    strcpy(f->path, path);
    b->index_count++;
    return QNET_OK;
}

/* A folder into the index. in: whose it is, as far as the folders above it say. */
static qnet_status bids_walk(bids *b, const char *folder, int depth, const bids_file *in)
{
    char path[BIDS_PATH];
    const char *name = NULL;
    qnet_status status;
    qnet_buffer names;
    BIDS_TRY(bids_list(b, folder, &names));
    status = QNET_OK;
    while (status == QNET_OK && (name = bids_next(&names, name)) != NULL) {
        const size_t end = strlen(folder);
        bids_file inner = *in;
        const int person = strncmp(name, "sub-", 4) == 0 && strlen(name) < 64;
        if (name[0] == '.' || (depth == 0 && !person && strcmp(name, "derivatives") != 0)) continue;
        status = bids_path(b, path, folder, "/", name, "");
        if (status != QNET_OK) break;
        if (bids_stem(name)) {
            if (depth > 0) status = bids_keep(b, path, in);
            continue;
        }
        if (depth == 0 && !person) inner.tool = end + 13; /* "/derivatives/" */
        if (person && !in->subject[0]) {
            strcpy(inner.subject, name);
            if (in->tool) inner.tool_end = end > in->tool ? end : in->tool;
        } else if (strncmp(name, "ses-", 4) == 0 && strlen(name) < 64) strcpy(inner.session, name + 4);
        if (depth < BIDS_DEPTH) status = bids_walk(b, path, depth + 1, &inner);
    }
    qnet_buffer_free(b->ctx, &names);
    return status;
}

static int bids_compare(const void *a, const void *b)
{
    const bids_file *x = (const bids_file *)a, *y = (const bids_file *)b;
    const int order = strcmp(x->subject, y->subject);
    return order ? order : strcmp(x->path, y->path);
}

/* The whole folder into the index, sorted by subject and path. */
static qnet_status bids_index(bids *b)
{
    bids_file none;
    memset(&none, 0, sizeof none);
    BIDS_TRY(bids_walk(b, b->folder, 0, &none));
    if (b->index_count > 0) qsort(b->index, b->index_count, sizeof *b->index, bids_compare);
    return QNET_OK;
}

/* The first file of a subject; its others follow. */
static size_t bids_first(const bids *b, const char *subject)
{
    size_t low = 0, high = b->index_count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (strcmp(b->index[middle].subject, subject) < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* ---- which file is which map ------------------------------------------------------------------- */

/* A name or path fits a pattern with * (anything) and ? (one character). */
static int bids_glob(const char *pattern, const char *text)
{
    for (; *pattern; pattern++, text++) {
        if (*pattern == '*') {
            do
                if (bids_glob(pattern + 1, text)) return 1;
            while (*text++);
            return 0;
        }
        if (!*text || (*pattern != '?' && *pattern != *text)) return 0;
    }
    return !*text;
}

/* Whether a file has the suffix of a map, or (T1W) fits the pattern, with its ending or without. */
static int bids_is_map(const bids *b, const bids_file *f, int m)
{
    const char *name = f->path + f->name, *suffix;
    const size_t stem = bids_stem(name), n = strlen(bids_suffix[m]);
    char value[64], text[BIDS_PATH];
    if (m == 2 && b->t1w) {
        snprintf(text, sizeof text, "%s", strchr(b->t1w, '/') ? f->path + strlen(b->folder) + 1 : name);
        if (bids_glob(b->t1w, text)) return 1;
        text[bids_stem(text)] = '\0';
        return bids_glob(b->t1w, text);
    }
    if (stem < n) return 0;
    suffix = name + stem - n;
    if (strncmp(suffix, bids_suffix[m], n) != 0 || (suffix > name && suffix[-1] != '_')) return 0;
    return m < 3 || (bids_entity(name, "desc", value) && strcmp(value, "basalganglia") == 0);
}

/* How many entities of the filter the name has; -1: one of them has another value. */
static int bids_filter(const bids *b, const char *name)
{
    const char *p = b->filter ? b->filter : "";
    char key[32], wanted[64], value[64];
    int matches = 0, n = 0;
    for (; sscanf(p, "%31[A-Za-z0-9]=%63[A-Za-z0-9+]%n", key, wanted, &n) == 2; p += p[n] ? n + 1 : n) {
        if (!bids_entity(name, key, value)) continue;
        if (!bids_same_label(value, wanted)) return -1;
        matches++;
    }
    return matches;
}

/* How many entities a name has besides sub and ses. */
static int bids_others(const char *name)
{
    int count = 0;
    for (const char *p = name; p; p = strchr(p, '_'), p += p != NULL)
        count += p[strcspn(p, "_.-")] == '-' && strncmp(p, "sub-", 4) != 0 && strncmp(p, "ses-", 4) != 0;
    return count;
}

static qnet_status bids_check_filter(bids *b)
{
    const char *p = b->filter;
    char key[32], wanted[64];
    while (p) {
        int n = 0;
        if (sscanf(p, "%31[A-Za-z0-9]=%63[A-Za-z0-9+]%n", key, wanted, &n) != 2 || (p[n] && p[n] != ','))
            return bids_fail(b, QNET_ERROR_ARGUMENT, "filter: expected entity=value, such as "
                             "acq=stage,run=1, found \"%.100s\"", b->filter);
        p = p[n] ? p + n + 1 : NULL;
    }
    return QNET_OK;
}

/* How near a file is to what is wanted, by its place; -1: it is not. In the order: the derivatives folders
   that are given, or that of the scan's Chimap, or (for the Chimap) any; the raw folder; where none is
   given, and for a mask, any other. */
static int bids_place(const bids *b, const bids_file *f, int m, const bids_file *chimap)
{
    const size_t n = f->tool ? f->tool_end - f->tool : 0;
    const char *p = b->derivatives;
    int place = 200;
    if (!f->tool) return 50;
    for (; p && *p; p += strcspn(p, ","), p += *p == ',', place--)
        if (strcspn(p, ",") == n && strncmp(p, f->path + f->tool, n) == 0) return place;
    if (b->derivatives) return m == 3 ? 10 : -1;
    if (chimap == NULL) return 100;
    return chimap->tool && chimap->tool_end - chimap->tool == n &&
           strncmp(chimap->path + chimap->tool, f->path + f->tool, n) == 0 ? 100 : 10;
}

/* Whether a file is map m of a scan, and how well it fits; -1: it is not. */
static int bids_fit(const bids *b, const bids_file *f, int m, const char *session, const bids_file *chimap)
{
    const char *name = f->path + f->name;
    const int place = bids_place(b, f, m, chimap), matches = bids_filter(b, name);
    const size_t start = strlen(f->subject);
    if (place < 0 || matches < 0 || !bids_is_map(b, f, m)) return -1;
    if (f->session[0] && strcmp(f->session, session) != 0) return -1;
    if (!f->tool && (strncmp(name, f->subject, start) != 0 || name[start] != '_')) return -1;
    return 1000 * place + 200 * (f->session[0] != '\0') + 2 * matches + (bids_others(name) == (m == 3));
}

/* An entity of name a that b has not, or with another value, into text[100] as "run=1"; 0: none. */
static int bids_differ(const char *a, const char *b, char *text)
{
    for (const char *p = a; p && *p; p = strchr(p, '_'), p += p != NULL) {
        char key[32], value[64], other[64];
        if (sscanf(p, "%31[A-Za-z0-9]-", key) != 1 || p[strlen(key)] != '-') continue;
        if (!bids_entity(a, key, value) || (bids_entity(b, key, other) && strcmp(value, other) == 0))
            continue;
        snprintf(text, 100, "%s=%s", key, value);
        return 1;
    }
    return 0;
}

/* Several files fit a map equally well: lists them, and what to choose one with. A derivatives folder is
   added to that of the Chimap, or to those given. */
static qnet_status bids_ambiguous(bids *b, const char *subject, int m, const bids_file *chimap,
                                  const bids_file *const found[], int count)
{
    const bids_file *x = found[0], *y = found[1];
    const char *nx = x->path + x->name, *ny = y->path + y->name;
    const size_t folder = strlen(b->folder) + 1, sx = bids_stem(nx), sy = bids_stem(ny);
    const size_t tx = x->tool ? x->tool_end - x->tool : 0, ty = y->tool ? y->tool_end - y->tool : 0;
    char list[700] = "", how[300] = "a table of files", entity[100], tools[150] = "";
    if (b->derivatives) snprintf(tools, sizeof tools, "%.140s,", b->derivatives);
    else if (chimap && chimap->tool)
        snprintf(tools, sizeof tools, "%.*s,", (int)(chimap->tool_end - chimap->tool),
                 chimap->path + chimap->tool);
    for (int i = 0; i < count && i < 4; i++) {
        const size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%.160s", i ? ", " : "", found[i]->path + folder);
    }
    if (count > 4) strcat(list, ", ...");
    if (x->name == y->name && sx == sy && strncmp(x->path, y->path, x->name + sx) == 0)
        return bids_fail(b, QNET_ERROR_DATA, "%s: is there both as .nii and .nii.gz", x->path);
    if (tx != ty || strncmp(x->path + x->tool, y->path + y->tool, tx) != 0)
        snprintf(how, sizeof how, "derivatives=%s%.*s", tools, (int)(tx < 100 ? tx : 100),
                 x->path + x->tool);
    else if (bids_differ(nx, ny, entity) || bids_differ(ny, nx, entity)) {
        if (m != 2) snprintf(how, sizeof how, "filter=%s", entity);
        else {
            *strchr(entity, '=') = '-';
            snprintf(how, sizeof how, "t1w=*_%s_*", entity);
        }
    }
    return bids_fail(b, QNET_ERROR_DATA, "%s: %d files fit %s: %s; choose with %s", subject, count,
                     bids_suffix[m], list, how);
}

/* Without a mask the basal ganglia are found in the maps (qnet_locate). */
static int bids_optional(const bids *b, int m)
{
    return m == 3 || (m == 2 && b->no_t1w) || (m == 1 && b->no_r2star);
}

/* There is no map m of a subject: says where it was looked for, and what there is. */
static qnet_status bids_missing(bids *b, const char *subject, const char *session, int m)
{
    const size_t first = bids_first(b, subject);
    const char *number = subject + 4 + strspn(subject + 4, "0");
    char has[400] = "", hint[500] = "", in[200], sessions[200] = "";
    int here = 0; /* 1: of the session, too */
    for (size_t i = first; i < b->index_count && strcmp(b->index[i].subject, subject) == 0; i++) {
        const bids_file *f = &b->index[i];
        bids_name(has, sizeof has, f->path + f->name);
        here |= strcmp(f->session, session) == 0;
        if (f->session[0]) bids_name(sessions, sizeof sessions, f->session);
    }
    if (has[0]) snprintf(hint, sizeof hint, "; it has %s", has);
    if (sessions[0] && !here)
        snprintf(hint, sizeof hint, "; its sessions are %s; choose with session=%.*s", sessions,
                 (int)strcspn(sessions, ","), sessions);
    for (size_t i = 0; i < b->index_count && !has[0] && *number && !hint[0]; i++) {
        const char *other = b->index[i].subject;
        if (strcmp(other + 4 + strspn(other + 4, "0"), number) == 0)
            snprintf(hint, sizeof hint, "; there is a folder %s", other);
    }
    snprintf(in, sizeof in, "%s%s%s", subject, session[0] ? "/ses-" : "", session);
    return bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: no %s%s%s.nii.gz or .nii in %.300s/%s or "
                     "%.300s/derivatives/%.200s/%s%s%s%s", subject, m == 2 && b->t1w ? "" : subject,
                     m == 2 && b->t1w ? "" : "_", m == 2 && b->t1w ? b->t1w : bids_suffix[m],
                     b->folder, in, b->folder, b->derivatives ? b->derivatives : "*", in,
                     b->filter ? ", with filter=" : "", b->filter ? b->filter : "", hint);
}

/* Map m of a scan: into *out; NULL: there is none. Several that fit equally well are an error. */
static qnet_status bids_pick(bids *b, const char *subject, const char *session, int m,
                             const bids_file *chimap, const bids_file **out)
{
    const bids_file *found[8];
    int best = -1, count = 0;
    *out = NULL;
    for (size_t i = bids_first(b, subject); i < b->index_count; i++) {
        const bids_file *f = &b->index[i];
        const int fit = strcmp(f->subject, subject) ? -2 : bids_fit(b, f, m, session, chimap);
        if (fit == -2) break;
        if (fit < 0 || fit < best) continue;
        if (fit > best) count = 0;
        best = fit;
        if (count < 8) found[count] = f;
        count++;
    }
    if (count > 1) return bids_ambiguous(b, subject, m, chimap, found, count);
    if (count == 1) *out = found[0];
    return QNET_OK;
}

/* The text of the sidecar of a map, <map>.json, and its name; empty: there is none that can be read. */
static void bids_sidecar(bids *b, const char *path, char name[BIDS_PATH + 8], qnet_buffer *text)
{
    snprintf(name, BIDS_PATH + 8, "%.*s.json", (int)bids_stem(path), path);
    (void)bids_text(b, name, text);
    b->error[0] = '\0';
}

/* Refuses (see any_values) a map whose sidecar gives "Units" that are not those of this program. */
static qnet_status bids_check_units(bids *b, int map, const char *path)
{
    static const char *const right[2][3] = {{"ppm", "ppm", "ppm"}, {"1/s", "s^-1", "Hz"}};
    char name[BIDS_PATH + 8], unit[24] = "";
    qnet_buffer text;
    int known = 0;
    if (map > 1) return QNET_OK;
    bids_sidecar(b, path, name, &text);
    if (text.size > 0) json_member((const char *)text.bytes, "Units", unit, sizeof unit);
    qnet_buffer_free(b->ctx, &text);
    for (int k = 0; k < 3; k++) known |= strcmp(unit, right[map][k]) == 0;
    if (known || !unit[0]) return QNET_OK;
    bids_fail(b, QNET_ERROR_DATA, "%s: gives \"Units\" as \"%s\", expected %s%s%s", name, unit,
              right[map][0], strcmp(unit, "ppb") ? "" : ": divide the map by 1000",
              b->any_values ? "" : "; if it is right, set any_values");
    if (!b->any_values) return QNET_ERROR_DATA;
    bids_warn(b, "%s", b->error);
    b->error[0] = '\0';
    return QNET_OK;
}

/* A failure to find a map of a scan: a problem, or a warning where the table of maps is written, to be
   filled in there. */
static qnet_status bids_lacks(bids *b, const bids_scan *scan, qnet_status status)
{
    if (!b->write_maps || b->problem) return bids_problem(b, (int)(scan - b->list), status);
    bids_warn(b, "%s", b->error);
    b->error[0] = '\0';
    return QNET_OK;
}

/* The paths of one scan's maps. */
static qnet_status bids_find_maps(bids *b, bids_scan *scan)
{
    const bids_file *file, *chimap = NULL;
    for (int m = 0; m < BIDS_MAPS; m++) {
        qnet_status status = bids_pick(b, scan->subject, scan->session, m, chimap, &file);
        if (status == QNET_OK && file == NULL) {
            if (bids_optional(b, m)) continue;
            status = bids_missing(b, scan->subject, scan->session, m);
        }
        if (status == QNET_OK) status = bids_path(b, scan->path[m], file->path, "", "", "");
        if (status == QNET_OK && m == 0) {
            chimap = file;
            if (file->tool) {
                char tool[256];
                snprintf(tool, sizeof tool, "%.*s", (int)(file->tool_end - file->tool),
                         file->path + file->tool);
                bids_name(b->tool, sizeof b->tool, tool);
            }
        }
        if (status == QNET_OK) status = bids_check_units(b, m, scan->path[m]);
        if (status != QNET_OK) BIDS_TRY(bids_lacks(b, scan, status));
    }
    return QNET_OK;
}

/* Warns of subjects with a Chimap that are not in the table: a row that was forgotten would make the cohort
   smaller without a word. participants: the rows. */
static void bids_check_left_out(bids *b, const bids_scan *participants, int count)
{
    char text[400] = "";
    int left = 0;
    for (size_t i = 0; i < b->index_count;) {
        const char *subject = b->index[i].subject, *other = NULL;
        int known = 0, maps = 0;
        for (; i < b->index_count && strcmp(b->index[i].subject, subject) == 0; i++)
            maps |= bids_is_map(b, &b->index[i], 0);
        for (int s = 0; s < count && maps && !known; s++) known = !strcmp(participants[s].subject, subject);
        while (!known && (other = bids_next(&b->left_out, other)) != NULL) known = !strcmp(other, subject);
        if (!maps || known) continue;
        left++;
        bids_name(text, sizeof text, subject);
    }
    if (left)
        bids_warn(b, "%s: maps of %d subjects without a line in participants.tsv are left out: %s", b->folder,
                  left, text);
}

/* The scans of one participant: one for each session with a Chimap, or for the given one. */
static qnet_status bids_find_scans(bids *b, const bids_scan *participant)
{
    const char *wanted = b->session ? b->session + (strncmp(b->session, "ses-", 4) ? 0 : 4) : NULL;
    const int before = b->count;
    int k;
    for (size_t i = bids_first(b, participant->subject); i <= b->index_count; i++) {
        const bids_file *f = i < b->index_count ? &b->index[i] : NULL;
        const int end = f == NULL || strcmp(f->subject, participant->subject) != 0;
        const char *session = end ? wanted ? wanted : "" : f->session;
        bids_scan *scan;
        if (end && b->count > before) break; /* without any, what is missing is told of the whole */
        if (!end && bids_fit(b, f, 0, session, NULL) < 0) continue;
        if (!end && wanted && f->session[0] && strcmp(wanted, session) != 0) continue;
        for (k = before; k < b->count && strcmp(b->list[k].session, session) != 0;) k++;
        if (k < b->count) continue;
        if (b->count >= BIDS_SCANS) return bids_fail(b, QNET_ERROR_LIMIT, "more than %d scans", BIDS_SCANS);
        BIDS_TRY(bids_grow(b));
        scan = &b->list[b->count];
        *scan = *participant;
        snprintf(scan->session, sizeof scan->session, "%.63s", session);
        BIDS_TRY(bids_find_maps(b, scan));
        b->count++;
        if (end) break;
    }
    return QNET_OK;
}

/* ---- a table of maps ---------------------------------------------------------------------------

       subject  session  qsm                 r2star                 t1w                 mask
       sub-01   1        maps/01_qsm.nii.gz  maps/01_r2star.nii.gz  /data/01/t1.nii.gz  n/a

   Paths are relative to the table's folder, or absolute. One line is one scan; session may be left out. */

enum { BIDS_SUBJECT, BIDS_SESSION, BIDS_FILES, BIDS_TABLE = BIDS_FILES + BIDS_MAPS };
static const char *const bids_table[BIDS_TABLE] = {"subject", "session", "qsm", "r2star", "t1w", "mask"};

static int bids_is_absolute(const char *path)
{
    return path[0] == '/' || path[0] == '\\' || (path[0] && path[1] == ':');
}

/* How long the folder of a path is, with the / at its end. */
static size_t bids_folder(const char *path)
{
    const char *end = strrchr(path, '/');
    return end ? (size_t)(end - path) + 1 : 0;
}

/* One line of the table: a scan of the participant of that name, if there is one. */
static qnet_status bids_table_row(bids *b, const table *t, const size_t column[BIDS_TABLE],
                                  const bids_scan *participants, int count, int *unknown)
{
    const char *id = t->field[column[BIDS_SUBJECT]], *other = NULL;
    const char *label = strncmp(id, "sub-", 4) ? id : id + 4;
    const size_t none = t->columns;
    char session[64] = "";
    bids_scan *scan;
    int s = 0;
    if (column[BIDS_SESSION] != none && !bids_absent(t->field[column[BIDS_SESSION]])) {
        const char *name = t->field[column[BIDS_SESSION]];
        snprintf(session, sizeof session, "%.63s", strncmp(name, "ses-", 4) ? name : name + 4);
    }
    while (s < count && strcmp(participants[s].subject + 4, label) != 0) s++;
    if (s == count) {
        while ((other = bids_next(&b->left_out, other)) != NULL && strcmp(other + 4, label)) {}
        *unknown += other == NULL;
        return QNET_OK;
    }
    for (int i = 0; i < b->count; i++)
        if (strcmp(b->list[i].subject, participants[s].subject) == 0 &&
            strcmp(b->list[i].session, session) == 0) {
            bids_fail(b, QNET_ERROR_DATA, "%s: line %lu: %s is there twice%s%s", b->maps,
                      (unsigned long)t->line, participants[s].subject, session[0] ? ", session " : "",
                      session);
            return bids_problem(b, -1, QNET_ERROR_DATA);
        }
    if (b->count >= BIDS_SCANS) return bids_fail(b, QNET_ERROR_LIMIT, "more than %d scans", BIDS_SCANS);
    BIDS_TRY(bids_grow(b));
    scan = &b->list[b->count];
    *scan = participants[s];
    strcpy(scan->session, session);
    for (int m = 0; m < BIDS_MAPS; m++) {
        const size_t c = column[BIDS_FILES + m];
        const char *path = c == none ? "" : t->field[c];
        char folder[BIDS_PATH] = "";
        if (bids_absent(path)) {
            if (bids_optional(b, m)) continue;
            bids_fail(b, QNET_ERROR_DATA, "%s: line %lu, %s: expected a file, found \"%s\"", b->maps,
                      (unsigned long)t->line, bids_table[BIDS_FILES + m], path);
            BIDS_TRY(bids_problem(b, b->count, QNET_ERROR_DATA));
            continue;
        }
        if (!bids_is_absolute(path) && bids_folder(b->maps) < sizeof folder)
            memcpy(folder, b->maps, bids_folder(b->maps));
        BIDS_TRY(bids_path(b, scan->path[m], folder, path, "", ""));
        qnet_status status = QNET_OK;
        if (!qnet_file_exists(scan->path[m])) {
            status = bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: line %lu, %s: there is no file %.600s", b->maps,
                               (unsigned long)t->line, bids_table[BIDS_FILES + m], scan->path[m]);
            scan->path[m][0] = '\0';
        } else if (bids_stem(scan->path[m])) status = bids_check_units(b, m, scan->path[m]);
        if (status != QNET_OK) BIDS_TRY(bids_problem(b, b->count, status));
    }
    b->count++;
    return QNET_OK;
}

static qnet_status bids_table_rows(bids *b, table *t, const bids_scan *participants, int count)
{
    size_t column[BIDS_TABLE], c;
    int row = table_next(t), unknown = 0, left = 0, k, s;
    char text[400] = "";
    for (k = 0; k < BIDS_TABLE && row > 0; k++) {
        for (c = 0; c < t->columns && !bids_same(t->field[c], bids_table[k]) &&
                    !(k == 0 && bids_same(t->field[c], "participant_id")); c++) {}
        column[k] = c;
        if (c == t->columns && k != BIDS_SESSION && !bids_optional(b, k - BIDS_FILES))
            return bids_fail(b, QNET_ERROR_FORMAT, "%s: line %lu: expected the columns subject, qsm, r2star, "
                             "t1w, and if need be session and mask; there is no %s", b->maps,
                             (unsigned long)t->line, bids_table[k]);
    }
    while (row > 0 && (row = table_next(t)) > 0)
        BIDS_TRY(bids_table_row(b, t, column, participants, count, &unknown));
    if (row < 0) return bids_fail(b, QNET_ERROR_FORMAT, "%s: %s", b->maps, t->error);
    if (b->count == 0)
        return bids_fail(b, QNET_ERROR_DATA, "%s: no line is of a participant of %.300s/participants.tsv",
                         b->maps, b->folder);
    if (unknown)
        bids_warn(b, "%s: %d lines of subjects without a line in participants.tsv are left out", b->maps,
                  unknown);
    for (k = 0; k < count; k++) {
        for (s = 0; s < b->count && strcmp(b->list[s].subject, participants[k].subject) != 0;) s++;
        if (s < b->count) continue;
        left++;
        bids_name(text, sizeof text, participants[k].subject);
    }
    if (left) bids_warn(b, "%s: %d participants without a line there are left out: %s", b->maps, left, text);
    return QNET_OK;
}

static qnet_status bids_read_table(bids *b, const bids_scan *participants, int count)
{
    qnet_buffer text;
    table t;
    qnet_status status;
    memset(&text, 0, sizeof text);
    status = qnet_file_read(b->ctx, b->maps, (size_t)64 << 20, &text);
    if (status != QNET_OK) return bids_fail(b, status, "%s", qnet_last_error(b->ctx));
    if (table_open(&t, text.bytes, text.size) < 0)
        status = bids_fail(b, QNET_ERROR_MEMORY, "%s: %s", b->maps, t.error);
    else {
        status = bids_table_rows(b, &t, participants, count);
        table_close(&t);
    }
    qnet_buffer_free(b->ctx, &text);
    return status;
}

/* path[BIDS_PATH], as the table that is written would have it, which lies in another folder. */
static qnet_status bids_from_table(bids *b, const char *file, char *path)
{
    const char *at = b->write_maps;
    const size_t n = bids_folder(at);
    char up[BIDS_PATH] = "";
    int known = !bids_is_absolute(at); /* how to go up from there */
    if (bids_is_absolute(file)) return bids_path(b, path, file, "", "", "");
    if (strncmp(file, at, n) == 0) return bids_path(b, path, file + n, "", "", "");
    for (const char *p = at; known && p < at + n; p = strchr(p, '/') + 1) {
        if (strncmp(p, "../", 3) == 0 || strlen(up) + 4 > sizeof up) known = 0;
        else if (strncmp(p, "./", 2) != 0 && p[0] != '/') strcat(up, "../");
    }
    if (!known)
        return bids_fail(b, QNET_ERROR_ARGUMENT, "%s: cannot name the files of %s from there: give the whole "
                         "path of that folder", at, b->folder);
    return bids_path(b, path, up, file, "", "");
}

/* The list as a table of maps. */
static qnet_status bids_write_table(bids *b)
{
    qnet_buffer text;
    qnet_status status;
    char path[BIDS_PATH];
    memset(&text, 0, sizeof text);
    if (qnet_file_exists(b->write_maps))
        return bids_fail(b, QNET_ERROR_ARGUMENT, "%s: is there already, expected a new file", b->write_maps);
    status = qnet_buffer_printf(b->ctx, &text, "subject\tsession\tqsm\tr2star\tt1w\tmask\n");
    for (int i = 0; i < b->count && status == QNET_OK; i++) {
        const bids_scan *scan = &b->list[i];
        status = qnet_buffer_printf(b->ctx, &text, "%s\t%s", scan->subject,
                                    scan->session[0] ? scan->session : "n/a");
        for (int m = 0; m < BIDS_MAPS && status == QNET_OK; m++) {
            strcpy(path, "n/a");
            if (scan->path[m][0]) status = bids_from_table(b, scan->path[m], path);
            if (status == QNET_OK) status = qnet_buffer_printf(b->ctx, &text, "\t%s", path);
        }
        if (status == QNET_OK) status = qnet_buffer_printf(b->ctx, &text, "\n");
    }
    if (status == QNET_OK) status = qnet_file_replace(b->ctx, b->write_maps, text.bytes, text.size);
    qnet_buffer_free(b->ctx, &text);
    return status;
}

/* ---- the whole --------------------------------------------------------------------------------- */

static void bids_free(bids *b)
{
    free(b->list);
    free(b->files);
    for (size_t i = 0; i < b->index_count; i++) free(b->index[i].path);
    free(b->index);
    b->index = NULL;
    b->index_count = b->index_room = 0;
    if (b->ctx) qnet_buffer_free(b->ctx, &b->left_out);
    if (b->ctx) qnet_buffer_free(b->ctx, &b->columns.text);
    b->list = NULL;
    b->files = NULL;
    memset(&b->dataset, 0, sizeof b->dataset);
}

/* The sentence of what failed last, here or in the library. */
static inline const char *bids_error(const bids *b)
{
    return b->error[0] ? b->error : qnet_last_error(b->ctx);
}

/* The age at a scan's session, where sub-01/sub-01_sessions.tsv (session_id, age) tells it. */
static qnet_status bids_session_age(bids *b, bids_scan *scan)
{
    char path[BIDS_PATH], file[150];
    size_t column[2], c;
    int row;
    qnet_buffer text;
    table t;
    if (!scan->session[0]) return QNET_OK;
    snprintf(file, sizeof file, "/%.60s_sessions.tsv", scan->subject);
    BIDS_TRY(bids_path(b, path, b->folder, "/", scan->subject, file));
    if (bids_text(b, path, &text) != QNET_OK) {
        bids_warn(b, "%s: ages of sessions are not read", bids_error(b));
        b->error[0] = '\0';
        return QNET_OK;
    }
    row = table_open(&t, text.bytes, text.size > 0 ? text.size - 1 : 0);
    if (row == 1 && (row = table_next(&t)) == 1)
        for (int k = 0; k < 2; k++) {
            for (c = 0; c < t.columns && !bids_same(t.field[c], k ? "age" : "session_id"); c++) {}
            column[k] = c;
            if (c == t.columns) row = 0; /* it tells something else */
        }
    while (row == 1 && (row = table_next(&t)) == 1) {
        const char *id = t.field[column[0]], *age = t.field[column[1]];
        double years;
        if (strcmp(strncmp(id, "ses-", 4) ? id : id + 4, scan->session) != 0 || bids_absent(age)) continue;
        if (bids_age(age, &years)) scan->age = years;
        else (void)bids_field(b, path, &t, BIDS_AGE, age, "years (0..150) or n/a");
    }
    if (row < 0) bids_warn(b, "%s: %s: ages of sessions are not read", path, t.error);
    table_close(&t);
    qnet_buffer_free(b->ctx, &text);
    return QNET_OK;
}

/* From the list of participants to that of their scans. */
static qnet_status bids_scans(bids *b)
{
    bids_scan *participants = b->list;
    const int count = b->count;
    qnet_status status = QNET_OK;
    b->list = NULL;
    b->count = b->room = 0;
    if (b->maps) status = bids_read_table(b, participants, count);
    else {
        status = bids_index(b);
        if (status == QNET_OK) bids_check_left_out(b, participants, count);
        for (int i = 0; i < count && status == QNET_OK; i++) status = bids_find_scans(b, &participants[i]);
    }
    for (int i = 0; i < b->count && status == QNET_OK; i++) status = bids_session_age(b, &b->list[i]);
    free(participants);
    return status;
}

/* The list in the form of the library. */
static qnet_status bids_dataset(bids *b)
{
    b->files = (qnet_scan_files *)calloc(b->count > 0 ? (size_t)b->count : 1, sizeof *b->files);
    if (b->files == NULL)
        return bids_fail(b, QNET_ERROR_MEMORY, "no memory for %d scans", b->count);
    for (int i = 0; i < b->count; i++) {
        const bids_scan *scan = &b->list[i];
        qnet_scan_files *f = &b->files[i];
        f->subject = scan->subject;
        f->label = scan->label;
        f->age = scan->age;
        f->sex = scan->sex;
        f->qsm = scan->path[0][0] ? scan->path[0] : NULL;
        f->r2star = scan->path[1][0] ? scan->path[1] : NULL;
        f->t1w = scan->path[2][0] ? scan->path[2] : NULL;
        f->mask = scan->path[3][0] ? scan->path[3] : NULL;
        f->session = scan->session[0] ? scan->session : NULL;
    }
    b->dataset.folder = b->folder;
    b->dataset.derivatives = b->tool;
    b->dataset.name = b->name;
    b->dataset.type = b->type;
    b->dataset.count = b->count;
    b->dataset.scans = b->files;
    return QNET_OK;
}

/* Reads a folder, whose name must stay where it is, into b->dataset. */
static inline qnet_status bids_read(bids *b, qnet_context *ctx, const char *folder)
{
    char path[BIDS_PATH];
    qnet_buffer text;
    qnet_status status;
    memset(&text, 0, sizeof text);
    b->ctx = ctx;
    b->folder = folder;
    status = bids_path(b, path, folder, "/participants.tsv", "", "");
    if (status != QNET_OK) return status;
    status = qnet_file_read(ctx, path, (size_t)64 << 20, &text);
    if (status != QNET_OK) bids_fail(b, status, "%s", qnet_last_error(ctx));
    else status = bids_participants(b, path, text.bytes, text.size);
    qnet_buffer_free(ctx, &text);
    if (status == QNET_OK) status = bids_describe(b);
    if (status == QNET_OK) status = bids_check_filter(b);
    if (status == QNET_OK) status = bids_scans(b);
    if (status == QNET_OK && b->write_maps) status = bids_write_table(b);
    if (status == QNET_OK) status = bids_dataset(b);
    if (status != QNET_OK) bids_free(b);
    return status;
}

/* ---- one subject --------------------------------------------------------------------------------- */

/* The folder of whose files is looked for: of cohort/sub-01, cohort/sub-01/ses-1 and cohort/derivatives/TOOL/
   sub-01 it is cohort, with the subject, and the session unless one is given, in *who; of any other folder it
   is that folder. 1: the first kind. */
static int bids_subject_root(bids *b, const char *folder, bids_scan *who)
{
    size_t n;
    char *name;
    snprintf(b->root, sizeof b->root, "%s%s", strchr(folder, '/') ? "" : "./", folder);
    for (n = strlen(b->root); n > 1 && b->root[n - 1] == '/';) b->root[--n] = '\0';
    name = strrchr(b->root, '/') + 1;
    if (strncmp(name, "ses-", 4) == 0 && strlen(name) < 64) {
        char *before = name - 1;
        while (before > b->root && before[-1] != '/') before--;
        if (strncmp(before, "sub-", 4) == 0) {
            strcpy(who->session, name + 4);
            name[-1] = '\0';
            name = before;
        }
    }
    if (strncmp(name, "sub-", 4) != 0 || strlen(name) > 63) return 0;
    strcpy(who->subject, name);
    if (name == b->root + 1) name++; /* of "/sub-01" */
    name[-1] = '\0';
    for (name = b->root; (name = strstr(name, "/derivatives/")) != NULL; name++) *name = '\0';
    return 1;
}

/* The scan of one subject into b->dataset, of a folder as above; the label (HC), age and sex say nothing. A
   mask may be missing. */
static inline qnet_status bids_read_subject(bids *b, qnet_context *ctx, const char *folder)
{
    bids_scan who;
    bids_file in;
    qnet_status status = QNET_OK;
    memset(&who, 0, sizeof who);
    memset(&in, 0, sizeof in);
    who.age = (double)NAN;
    b->ctx = ctx;
    b->folder = b->root;
    if (strlen(folder) + 3 > sizeof b->root)
        return bids_fail(b, QNET_ERROR_LIMIT, "%.60s...: path of more than %d bytes", folder, BIDS_PATH - 1);
    if (bids_subject_root(b, folder, &who)) {
        if (!b->session && who.session[0]) {
            strcpy(b->type, who.session); /* where it stays */
            b->session = b->type;
        }
        status = bids_index(b);
    } else { /* as a derivatives folder that holds one subject */
        for (int named = 1; named >= 0 && status == QNET_OK && b->index_count == 0; named--) {
            in.tool = (size_t)(strrchr(b->root, '/') + 1 - b->root);
            in.tool_end = strlen(b->root);
            if (!named) strcpy(in.subject, "sub-scan"); /* their names are of no one */
            status = bids_walk(b, b->root, 1, &in);
        }
        if (status == QNET_OK && b->index_count == 0)
            status = bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: no .nii or .nii.gz file is in that folder", folder);
        if (status == QNET_OK) {
            qsort(b->index, b->index_count, sizeof *b->index, bids_compare);
            strcpy(who.subject, b->index[0].subject);
            if (strcmp(who.subject, b->index[b->index_count - 1].subject) != 0)
                status = bids_fail(b, QNET_ERROR_DATA, "%s: holds files of %s and of %s, expected those of one "
                                   "subject", folder, who.subject, b->index[b->index_count - 1].subject);
        }
    }
    who.session[0] = '\0';
    if (status == QNET_OK) status = bids_check_filter(b);
    if (status == QNET_OK) status = bids_find_scans(b, &who);
    if (status == QNET_OK && b->count > 1)
        status = bids_fail(b, QNET_ERROR_DATA, "%s: has %d sessions, %s and %s among them; choose with session=%s",
                           folder, b->count, b->list[0].session, b->list[1].session, b->list[0].session);
    if (status == QNET_OK) status = bids_dataset(b);
    if (status != QNET_OK) bids_free(b);
    return status;
}
#endif
