/* bids.h: the scans of a BIDS folder, as the list that qnet_experiment_run and qnet_cohort_load take.

       bids b;
       memset(&b, 0, sizeof b);
       if (bids_read(&b, ctx, "cohort") != QNET_OK ||
           qnet_experiment_run(ctx, &config, &b.dataset, "out", NULL, 0, &e) != QNET_OK)
           puts(bids_error(&b));
       bids_free(&b);

   The folder, with the suffixes of BIDS' qMRI extension:

       cohort/participants.tsv            participant_id  group (HH or HC)  age  sex; others are not
                                          read. Without a group (n/a): left out
       cohort/dataset_description.json    Name, DatasetType, Keywords: for the report
       cohort/sub-01/anat/sub-01_T1w.nii.gz
       cohort/derivatives/TOOL/sub-01/anat/sub-01_Chimap.nii.gz      QSM, ppm
                                           sub-01_R2starmap.nii.gz   1/s
                                           sub-01_desc-basalganglia_mask.nii.gz

   Each map may lie in either anat folder; of two, that of the derivatives is taken, where it is on the
   maps' grid. A mask may also lie in another folder under derivatives. Each may have more entities in its
   name (sub-01_acq-gre_Chimap) and be unpacked (.nii). TOOL is the only folder with a Chimap of the first
   participant. A sidecar's "Units", such as ppb, are compared with ppm and 1/s. The list stays valid until
   bids_free. */
#ifndef BIDS_H
#define BIDS_H
#include "qnet.h"
#include "../table.h"

#define BIDS_PATH 1024
#define BIDS_SCANS 10000 /* duplicates are found by comparing all pairs */

enum { BIDS_MAPS = 4 }; /* QSM, R2*, T1W, mask */

typedef struct bids_scan {
    char subject[64], path[BIDS_MAPS][BIDS_PATH]; /* path "": none, of a mask that is not needed */
    qnet_label label;
    double age;
    qnet_sex sex;
} bids_scan;

typedef struct bids {
    /* Set before bids_read: */
    const char *derivatives; /* TOOL; NULL: found */
    const char *session;     /* NAME, where anat folders lie in sub-01/ses-NAME; NULL: in sub-01 */
    const char *group_column;        /* NULL: "group" */
    const char *positive, *negative; /* in that column, for HH and HC; NULL: "HH" and "HC". Given: others
                                        are left out */
    int no_masks;            /* 1: slices and boxes are given, so that no mask is needed */
    int any_values;          /* 1: other units are warned of, not refused */
    qnet_log log;            /* of warnings */
    /* Its results: */
    qnet_dataset dataset;
    char error[1600];        /* one sentence, where it fails */
    /* Private: */
    qnet_context *ctx;
    const char *folder;
    bids_scan *list;
    int count, room;
    qnet_buffer left_out; /* participants who are none of the two groups, each ended by a zero byte */
    qnet_scan_files *files;
    char tool[256], name[1024], type[128];
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
        if (strcmp(b->list[i].subject, scan->subject) == 0)
            return bids_fail(b, QNET_ERROR_DATA, "%s: line %lu, participant_id: %s is there twice",
                             path, (unsigned long)t->line, scan->subject);
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

/* The rows of an open table, the columns by their names in any order, into the list. */
static qnet_status bids_rows(bids *b, const char *path, table *t)
{
    size_t column[BIDS_COLUMNS], c;
    int row = table_next(t), known[BIDS_COLUMNS] = {0, 0, 0, 0}, count[4] = {0, 0, 0, 0}, k; /* HC, HH, n/a, others */
    char shown[64], others[400] = "";
    if (row == 0) return bids_fail(b, QNET_ERROR_FORMAT, "%s: is empty", path);
    for (c = 0; row > 0 && c < t->columns; c++)
        for (k = 0; k < BIDS_COLUMNS; k++)
            if (bids_same(t->field[c], bids_column(b, k))) {
                if (known[k]++)
                    return bids_fail(b, QNET_ERROR_FORMAT, "%s: line %lu: two columns named %s", path,
                                     (unsigned long)t->line, bids_column(b, k));
                column[k] = c;
            }
    for (k = BIDS_ID; row > 0 && k <= BIDS_GROUP; k++)
        if (!known[k]) {
            table_show(t->bytes + t->start, t->length, 60, shown);
            return bids_fail(b, QNET_ERROR_FORMAT, "%s: line %lu: expected column names, %s among "
                             "them, found \"%s\"%s", path, (unsigned long)t->line, bids_column(b, k),
                             shown, k == BIDS_GROUP ? "; set group_column to the one of the groups" : "");
        }
    while (row > 0 && (row = table_next(t)) > 0) {
        const char *field[BIDS_COLUMNS];
        for (c = 0; c < t->columns && !t->field[c][0];) c++;
        if (c == t->columns) continue; /* nothing but tabs */
        for (k = 0; k < BIDS_COLUMNS; k++) field[k] = known[k] ? t->field[column[k]] : "";
        if (!bids_is_group(b, field[BIDS_GROUP])) {
            const int absent = bids_absent(field[BIDS_GROUP]);
            const char *id = field[BIDS_ID];
            table_show(field[BIDS_GROUP], strlen(field[BIDS_GROUP]), 60, shown);
            if (!absent && !b->positive && !b->negative)
                return bids_field(b, path, t, BIDS_GROUP, field[BIDS_GROUP],
                                  "HH or HC (set positive and negative to name other groups)");
            count[absent ? 2 : 3]++;
            if (!absent) bids_name(others, sizeof others, shown);
            if (qnet_buffer_printf(b->ctx, &b->left_out, "%s%s", strncmp(id, "sub-", 4) ? "sub-" : "",
                                   id) != QNET_OK ||
                qnet_buffer_append(b->ctx, &b->left_out, "", 1) != QNET_OK)
                return bids_fail(b, QNET_ERROR_MEMORY, "%s", qnet_last_error(b->ctx));
            continue;
        }
        if (b->count >= BIDS_SCANS)
            return bids_fail(b, QNET_ERROR_LIMIT, "%s: more than %d participants", path, BIDS_SCANS);
        BIDS_TRY(bids_grow(b));
        BIDS_TRY(bids_participant(b, path, t, field, &b->list[b->count]));
        count[b->list[b->count++].label == QNET_HH]++;
    }
    if (row < 0) return bids_fail(b, QNET_ERROR_FORMAT, "%s: %s", path, t->error);
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
        return bids_fail(b, QNET_ERROR_DATA, "%s: no participants below the header", path);
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

/* tail[150] = "/sub-01/anat", or with the session in it. */
static void bids_tail(const bids *b, const char *subject, char *tail)
{
    const char *session = b->session ? b->session : "";
    snprintf(tail, 150, "/%.63s%s%.60s/anat", subject, *session ? "/ses-" : "",
             strncmp(session, "ses-", 4) ? session : session + 4);
}

/* ---- finding the maps ------------------------------------------------------------------------- */

/* BIDS, with the suffixes of its qMRI extension. */
static const char *const bids_suffix[BIDS_MAPS] = {"Chimap", "R2starmap", "T1w",
                                                   "desc-basalganglia_mask"};

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

/* The name behind `name` (NULL: the first) in a list; NULL: none. */
static const char *bids_next(const qnet_buffer *names, const char *name)
{
    const char *next = name ? name + strlen(name) + 1 : (const char *)names->bytes;
    return names->size > 0 && next < (const char *)names->bytes + names->size ? next : NULL;
}

/* 0: name is not <subject>_<entities>_<suffix>.nii or .nii.gz; 1: it is; 2: and without entities. */
static int bids_fits(const char *name, const char *subject, const char *suffix)
{
    const size_t length = strlen(name), start = strlen(subject), end = strlen(suffix);
    const size_t kind = length > 3 && strcmp(name + length - 3, ".gz") == 0 ? 7 : 4;
    const char *last; /* the suffix */
    if (length < start + 1 + end + kind || strncmp(name, subject, start) != 0) return 0;
    last = name + length - kind - end;
    if (name[start] != '_' || last[-1] != '_' || strncmp(last, suffix, end) != 0 ||
        strncmp(last + end, ".nii.gz", kind) != 0)
        return 0;
    return length == start + 1 + end + kind ? 2 : 1;
}

/* The file of a map in a folder: that without entities if there is one, otherwise the only one. "" into
   path[BIDS_PATH] where there is none; several are an error. */
static qnet_status bids_find(bids *b, const char *folder, const char *subject, const char *suffix,
                             char *path)
{
    const char *name = NULL, *match = NULL, *second = NULL;
    qnet_status status = QNET_OK;
    qnet_buffer names;
    int best = 1;
    path[0] = '\0';
    BIDS_TRY(bids_list(b, folder, &names));
    while ((name = bids_next(&names, name)) != NULL) {
        const int fits = bids_fits(name, subject, suffix);
        if (fits < best) continue;
        second = fits == best ? match : NULL;
        match = name;
        best = fits;
        if (second && best == 2) break;
    }
    if (second && best == 2)
        status = bids_fail(b, QNET_ERROR_DATA, "%s/%s: is there both as .nii and .nii.gz", folder,
                           second);
    else if (second)
        status = bids_fail(b, QNET_ERROR_DATA, "%s: %s and %s both fit %s_*_%s, expected one", folder,
                           second, match, subject, suffix);
    else if (match) status = bids_path(b, path, folder, "/", match, "");
    qnet_buffer_free(b->ctx, &names);
    return status;
}

/* A file in the folders TOOL/TAIL (such as /sub-01/anat) under derivatives: into path[BIDS_PATH], and its
   TOOL into tool[256]; both "" where there is none. Two tools that have one are an error; `advice` ends its
   sentence. */
static qnet_status bids_find_derived(bids *b, const char *tail, const char *subject, const char *suffix,
                                     const char *advice, char *tool, char *path)
{
    char folder[BIDS_PATH], anat[BIDS_PATH], found[BIDS_PATH];
    const char *name = NULL;
    qnet_buffer names;
    qnet_status status;
    tool[0] = path[0] = '\0';
    BIDS_TRY(bids_path(b, folder, b->folder, "/derivatives", "", ""));
    status = bids_list(b, folder, &names);
    while (status == QNET_OK && (name = bids_next(&names, name)) != NULL) {
        status = bids_path(b, anat, folder, "/", name, tail);
        if (status == QNET_OK) status = bids_find(b, anat, subject, suffix, found);
        if (status != QNET_OK || !found[0]) continue;
        if (tool[0])
            status = bids_fail(b, QNET_ERROR_ARGUMENT, "%s: both %s and %s hold a %s of %s, %s", folder,
                               tool, name, suffix, subject, advice);
        snprintf(tool, 256, "%s", name);
        strcpy(path, found);
    }
    qnet_buffer_free(b->ctx, &names);
    return status;
}

/* The folder of the maps into b->tool: the one given, or the only one with a Chimap of this subject;
   "": the raw folders hold them. */
static qnet_status bids_find_tool(bids *b, const char *subject)
{
    char map[BIDS_PATH], tail[150];
    if (b->derivatives) {
        if (strlen(b->derivatives) >= sizeof b->tool)
            return bids_fail(b, QNET_ERROR_LIMIT, "the name of the derivatives folder is too long");
        strcpy(b->tool, b->derivatives);
        return QNET_OK;
    }
    bids_tail(b, subject, tail);
    return bids_find_derived(b, tail, subject, bids_suffix[0], "choose one by its name", b->tool, map);
}

/* What may help where a subject has no map: a folder whose name has other zeros before its number, as
   "sub-1" and "sub-01". */
static void bids_hint(bids *b, const char *folder, const char *subject, char hint[96])
{
    const char *name = NULL, *number = subject + 4 + strspn(subject + 4, "0");
    qnet_buffer names;
    if (bids_list(b, folder, &names) != QNET_OK) return;
    while (!hint[0] && (name = bids_next(&names, name)) != NULL)
        if (*number && strncmp(name, "sub-", 4) == 0 && strcmp(name, subject) != 0 &&
            strcmp(name + 4 + strspn(name + 4, "0"), number) == 0)
            snprintf(hint, 96, "; there is a folder %.60s", name);
    qnet_buffer_free(b->ctx, &names);
}

/* Refuses (see any_values) a map beside which a sidecar, <map>.json, gives "Units" that are not those
   of this program. A sidecar that can't be read says nothing. */
static qnet_status bids_check_units(bids *b, int map, const char *path)
{
    static const char *const right[2][3] = {{"ppm", "ppm", "ppm"}, {"1/s", "s^-1", "Hz"}};
    char name[BIDS_PATH + 8], unit[24] = "";
    const char *end = strrchr(path, '.');
    qnet_buffer text;
    int known = 0;
    if (map > 1) return QNET_OK;
    snprintf(name, sizeof name, "%.*s.json", (int)(end - path) - (strcmp(end, ".gz") ? 0 : 4), path);
    if (bids_text(b, name, &text) == QNET_OK && text.size > 0)
        json_member((const char *)text.bytes, "Units", unit, sizeof unit);
    qnet_buffer_free(b->ctx, &text);
    b->error[0] = '\0';
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

/* The paths of one scan's maps. */
static qnet_status bids_find_maps(bids *b, bids_scan *scan)
{
    char raw[BIDS_PATH], tool[BIDS_PATH], derived[BIDS_PATH], tail[150], other[256], hint[96] = "";
    bids_tail(b, scan->subject, tail);
    BIDS_TRY(bids_path(b, raw, b->folder, tail, "", ""));
    BIDS_TRY(bids_path(b, tool, b->folder, "/derivatives/", b->tool, ""));
    BIDS_TRY(bids_path(b, derived, tool, tail, "", ""));
    for (int m = 0; m < BIDS_MAPS; m++) {
        char *path = scan->path[m];
        path[0] = '\0';
        if (b->tool[0]) BIDS_TRY(bids_find(b, derived, scan->subject, bids_suffix[m], path));
        if (!path[0]) BIDS_TRY(bids_find(b, raw, scan->subject, bids_suffix[m], path));
        if (!path[0] && m == 3)
            BIDS_TRY(bids_find_derived(b, tail, scan->subject, bids_suffix[m],
                                       "put the right one beside the Chimap", other, path));
        if (path[0]) {
            BIDS_TRY(bids_check_units(b, m, path));
            continue;
        }
        if (m == 3 && b->no_masks) continue;
        bids_hint(b, b->folder, scan->subject, hint);
        if (b->tool[0]) bids_hint(b, tool, scan->subject, hint);
        return bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: no %s_%s.nii.gz or .nii in %s%s%s%s%s",
                         scan->subject, scan->subject, bids_suffix[m], b->tool[0] ? derived : "",
                         b->tool[0] ? " or " : "", raw,
                         m == 3 ? " (needed unless slices and box are given)" : "", hint);
    }
    return QNET_OK;
}

/* Warns of subjects' folders with a Chimap that are not in the table: a row that was forgotten would
   make the cohort smaller without a word. */
static qnet_status bids_check_left_out(bids *b)
{
    char folder[BIDS_PATH], anat[BIDS_PATH], map[BIDS_PATH], tail[150], text[512] = "";
    const char *name = NULL, *other;
    qnet_status status;
    qnet_buffer names;
    int left = 0, s;
    BIDS_TRY(bids_path(b, folder, b->folder, b->tool[0] ? "/derivatives/" : "", b->tool, ""));
    BIDS_TRY(bids_list(b, folder, &names));
    while ((name = bids_next(&names, name)) != NULL) {
        if (strncmp(name, "sub-", 4) != 0 || strlen(name) > 63) continue;
        for (s = 0; s < b->count && strcmp(b->list[s].subject, name) != 0;) s++;
        if (s < b->count) continue;
        for (other = NULL; (other = bids_next(&b->left_out, other)) && strcmp(other, name);) {}
        if (other) continue;
        bids_tail(b, name, tail);
        status = bids_path(b, anat, folder, tail, "", "");
        if (status == QNET_OK && bids_find(b, anat, name, bids_suffix[0], map) == QNET_OK && !map[0])
            continue; /* several are as good as one */
        if (left++ < 5)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", left > 1 ? ", " : "",
                     name);
    }
    qnet_buffer_free(b->ctx, &names);
    b->error[0] = '\0';
    if (left)
        bids_warn(b, "%s: maps of %d subjects without a line in participants.tsv are left out: %s%s",
                  folder, left, text, left > 5 ? ", ..." : "");
    return QNET_OK;
}

/* ---- the whole --------------------------------------------------------------------------------- */

static void bids_free(bids *b)
{
    free(b->list);
    free(b->files);
    if (b->ctx) qnet_buffer_free(b->ctx, &b->left_out);
    b->list = NULL;
    b->files = NULL;
    memset(&b->dataset, 0, sizeof b->dataset);
}

/* The sentence of what failed last, here or in the library. */
static inline const char *bids_error(const bids *b)
{
    return b->error[0] ? b->error : qnet_last_error(b->ctx);
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
        f->qsm = scan->path[0];
        f->r2star = scan->path[1];
        f->t1w = scan->path[2];
        f->mask = scan->path[3][0] ? scan->path[3] : NULL;
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
    if (status == QNET_OK) status = bids_find_tool(b, b->list[0].subject);
    if (status == QNET_OK) status = bids_check_left_out(b);
    for (int i = 0; i < b->count && status == QNET_OK; i++) status = bids_find_maps(b, &b->list[i]);
    if (status == QNET_OK) status = bids_dataset(b);
    if (status != QNET_OK) bids_free(b);
    return status;
}
#endif
