/* find.h: the echoes of one session in a BIDS folder, with what their sidecars say.

       BIDS/sub-01[/ses-1]/anat/sub-01[_ses-1][_run-1]_echo-1_part-mag_MEGRE.nii.gz     and .json
                                sub-01[_ses-1][_run-1]_echo-1_part-phase_MEGRE.nii.gz
       with two flip angles     sub-01_echo-1_flip-1_part-mag_VFA.nii.gz ...

   Entities may stand in any order; without part- an image is a magnitude. A sidecar applies to all images
   whose name has its entities and suffix, in its folder or below; the nearest one wins (BIDS, "The
   Inheritance Principle"). */
#ifndef FIND_H
#define FIND_H
#include "examples/crossval/bids.h"

#define ECHOES_MOST 64

/* What the sidecars of an image say; NaN and "": nothing. */
typedef struct sidecar {
    double echo_time, repetition_time, flip_angle, field_strength; /* s, s, degrees, T */
    char manufacturer[64];
    int count; /* how many apply */
} sidecar;

typedef struct echo_file {
    char magnitude[BIDS_PATH], phase[BIDS_PATH], name[256]; /* name: of both, for sentences */
    sidecar facts;
} echo_file;

typedef struct acquisition {
    char flip[32]; /* label; "": none */
    int count;
    echo_file echo[ECHOES_MOST];
} acquisition;

typedef struct session {
    char subject[64], label[64], name[130]; /* "sub-01", "ses-1" or "", "sub-01_ses-1" */
    char place[150], folder[BIDS_PATH];     /* "/sub-01/ses-1/anat", and its path (find_echoes) */
    char key[256];                          /* the files' names without echo, flip, part */
    int flips;
    acquisition flip[2];                    /* in the order of their names */
    acquisition *first, *second;            /* the larger flip angle first; second NULL: one flip */
} session;

typedef struct choice { const char *run, *acquisition, *suffix; } choice; /* NULL: any */

/* ---- Names ----------------------------------------------------------------------------------- */

/* The name without extension into key[256], and without the entities that tell echoes apart; with_part:
   part-* in place of part-mag and part-phase, and the others stay. */
static void common_name(const char *name, int with_part, char *key)
{
    static const char *const apart[3] = {"part-", "echo-", "flip-"};
    const char *p = name, *end = name + bids_stem(name);
    size_t n = 0;
    while (p < end) {
        const char *next = strchr(p, '_');
        size_t length = next && next < end ? (size_t)(next - p) + 1 : (size_t)(end - p);
        int k = 0;
        while (k < 3 && strncmp(p, apart[k], 5) != 0) k++;
        if ((k == 3 || (k > 0 && with_part)) && n + length < 250) {
            memcpy(key + n, p, length);
            n += length;
        } else if (k == 0 && with_part && n < 240) {
            memcpy(key + n, "part-*_", 7);
            n += 7;
        }
        p += length;
    }
    key[n] = '\0';
}

static const char *suffix_of(const char *name)
{
    const char *last = strrchr(name, '_');
    return last ? last + 1 : name;
}

/* 1: name is an echo of this session that the choice allows; its key into key[256]. */
static int is_echo(const session *s, const choice *c, const char *name, char *key)
{
    const size_t n = strlen(s->name);
    char value[64];
    if (!bids_stem(name) || strncmp(name, s->name, n) != 0 || name[n] != '_') return 0;
    common_name(name, 0, key);
    if (strcmp(suffix_of(key), "MEGRE") != 0 && strcmp(suffix_of(key), "VFA") != 0) return 0;
    if (c->suffix && strcmp(suffix_of(key), c->suffix) != 0) return 0;
    if (c->run && (!bids_entity(name, "run", value) || !bids_same_label(value, c->run))) return 0;
    if (c->acquisition && (!bids_entity(name, "acq", value) || strcmp(value, c->acquisition))) return 0;
    bids_entity(name, "part", value);
    return !value[0] || strcmp(value, "mag") == 0 || strcmp(value, "phase") == 0;
}

/* ---- Sidecars -------------------------------------------------------------------------------- */

/* How many entities the name of a sidecar has, if it applies to an image of this name; otherwise -1. */
static int sidecar_fits(const char *name, const char *image)
{
    const size_t n = strlen(name), stem = bids_stem(image);
    const char *p = name, *end = name + n - 5;
    int count = 0;
    if (n <= 5 || strcmp(end, ".json") != 0) return -1;
    while (p < end) {
        const char *next = strchr(p, '_'), *q = image;
        const size_t length = next ? (size_t)(next - p) : (size_t)(end - p);
        while (q && (strncmp(q, p, length) != 0 ||
                     (next ? q[length] != '_' : q != suffix_of(image) || q + length != image + stem)))
            if ((q = strchr(q, '_')) != NULL) q++;
        if (q == NULL) return -1;
        count += next != NULL;
        p += length + 1;
    }
    return count;
}

/* A number of a sidecar into *value, unless it has none. */
static qnet_status sidecar_number(bids *b, const char *path, const char *text, const char *member,
                                  double most, const char *expected, double *value)
{
    double number;
    const int found = json_number(text, member, &number);
    if (found == 0) return QNET_OK;
    if (found < 0)
        return bids_fail(b, QNET_ERROR_FORMAT, "%s: \"%s\" is no number, expected %s", path, member,
                         expected);
    if (!(number > 0 && number <= most))
        return bids_fail(b, QNET_ERROR_DATA, "%s: \"%s\" is %g, expected %s%s", path, member, number,
                         expected, number > most && strstr(expected, "seconds")
                                       ? ": these are milliseconds, divide them by 1000" : "");
    *value = number;
    return QNET_OK;
}

/* The line, from 1, of the member or the text behind it that makes of a text no object. */
static int json_bad_line(const char *text)
{
    const char *p = json_blank(strncmp(text, "\xef\xbb\xbf", 3) ? text : text + 3), *good = p;
    char key[1024];
    int line = 1;
    while (p && (*p == '{' || *p == ',')) {
        p = json_blank(p + 1);
        good = p;
        p = json_string(p, key, sizeof key);
        p = p && *(p = json_blank(p)) == ':' ? json_value(p + 1, 1, NULL, 0) : NULL;
        if (p) good = p;
        if (p) p = json_blank(p);
    }
    if (p && *p == '}') good = json_blank(p + 1); /* something behind the object */
    for (p = text; p < good; p++) line += *p == '\n';
    return line;
}

/* What the text of a sidecar says replaces what is known. */
static qnet_status sidecar_parse(bids *b, const char *path, const char *text, sidecar *out)
{
    const char *value;
    if (!json_find(text, "Manufacturer", &value))
        return bids_fail(b, QNET_ERROR_FORMAT, "%s: is no JSON object, see line %d", path,
                         json_bad_line(text));
    if (value) json_member(text, "Manufacturer", out->manufacturer, sizeof out->manufacturer);
    BIDS_TRY(sidecar_number(b, path, text, "EchoTime", 1, "seconds, at most 1", &out->echo_time));
    BIDS_TRY(sidecar_number(b, path, text, "RepetitionTime", 30, "seconds, at most 30",
                            &out->repetition_time));
    BIDS_TRY(sidecar_number(b, path, text, "FlipAngle", 180, "degrees, 0 to 180", &out->flip_angle));
    BIDS_TRY(sidecar_number(b, path, text, "MagneticFieldStrength", 30, "tesla, at most 30",
                            &out->field_strength));
    out->count++;
    return QNET_OK;
}

static qnet_status sidecar_read(bids *b, const char *path, sidecar *out)
{
    qnet_buffer text;
    qnet_status status;
    BIDS_TRY(bids_text(b, path, &text));
    status = sidecar_parse(b, path, text.size > 0 ? (const char *)text.bytes : "", out);
    qnet_buffer_free(b->ctx, &text);
    return status;
}

/* What the sidecars in a folder say of an image: the more entities, the later, so that it stays. */
static qnet_status sidecar_folder(bids *b, const char *folder, const char *image, sidecar *out)
{
    char path[BIDS_PATH];
    const char *name = NULL;
    qnet_buffer names;
    qnet_status status = QNET_OK;
    int most = 0;
    BIDS_TRY(bids_list(b, folder, &names));
    for (int count = 0; count <= most && status == QNET_OK; count++)
        while ((name = bids_next(&names, name)) != NULL && status == QNET_OK) {
            const int fits = sidecar_fits(name, image);
            if (fits > most) most = fits;
            if (fits != count) continue;
            status = bids_path(b, path, folder, "/", name, "");
            if (status == QNET_OK) status = sidecar_read(b, path, out);
        }
    qnet_buffer_free(b->ctx, &names);
    return status;
}

/* What the sidecars of the data set say of an image in the session's folder. */
static qnet_status sidecar_find(bids *b, const session *s, const char *path, sidecar *out)
{
    const char *image = strrchr(path, '/') + 1;
    char folder[BIDS_PATH];
    memset(out, 0, sizeof *out);
    out->echo_time = out->repetition_time = out->flip_angle = out->field_strength = (double)NAN;
    BIDS_TRY(sidecar_folder(b, b->folder, image, out));
    BIDS_TRY(bids_path(b, folder, b->folder, "/", s->subject, ""));
    BIDS_TRY(sidecar_folder(b, folder, image, out));
    if (s->label[0]) {
        BIDS_TRY(bids_path(b, folder, b->folder, "/", s->subject, "/"));
        strncat(folder, s->label, sizeof folder - strlen(folder) - 1);
        BIDS_TRY(sidecar_folder(b, folder, image, out));
    }
    BIDS_TRY(sidecar_folder(b, s->folder, image, out));
    if (out->count > 0) return QNET_OK;
    return bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: has no sidecar, expected %.*s.json with EchoTime "
                     "and MagneticFieldStrength", path, (int)bids_stem(image), image);
}

/* ---- Echoes ---------------------------------------------------------------------------------- */

/* The names, without echo, flip and part, that fit: one into s->key. */
static qnet_status find_key(bids *b, const choice *c, const qnet_buffer *names, session *s)
{
    char key[256], other[256] = "", list[1100] = "", run[2][64];
    const char *name = NULL;
    int count = 0;
    while ((name = bids_next(names, name)) != NULL) {
        const size_t n = strlen(list);
        char quoted[260];
        if (!is_echo(s, c, name, key)) continue;
        snprintf(quoted, sizeof quoted, "%s%s", count > 0 ? ", " : "", key);
        if (strcmp(key, s->key) == 0 || strstr(list, quoted)) continue;
        if (n < 800) snprintf(list + n, sizeof list - n, "%s", quoted);
        strcpy(count == 0 ? s->key : other, key);
        count++;
    }
    if (count == 1) return QNET_OK;
    if (count == 0) {
        while ((name = bids_next(names, name)) != NULL) {
            char part[32];
            const size_t n = strlen(list);
            bids_entity(name, "part", part);
            if (!bids_stem(name) || strcmp(part, "phase") == 0 || n > 700) continue;
            if (count++ < 3) snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "; there is ", name);
        }
        return bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: no %s_echo-*_part-mag_MEGRE (or VFA) .nii.gz or "
                         ".nii%s%s%s", s->folder, s->name,
                         c->run || c->acquisition || c->suffix ? " of the run, acquisition or suffix "
                                                                 "that was chosen" : "", list,
                         count > 3 ? ", ..." : "");
    }
    bids_entity(s->key, "run", run[0]);
    bids_entity(other, "run", run[1]);
    return bids_fail(b, QNET_ERROR_ARGUMENT, "%s: %d sets of echoes fit: %s; choose one with %s",
                     s->folder, count, list,
                     strcmp(run[0], run[1]) ? "--run"
                     : strcmp(suffix_of(s->key), suffix_of(other)) ? "--suffix" : "--acq");
}

/* The acquisition of a flip label, a new one if need be; NULL: these would be three. */
static acquisition *find_flip(session *s, const char *flip)
{
    for (int k = 0; k < s->flips; k++)
        if (strcmp(s->flip[k].flip, flip) == 0) return &s->flip[k];
    if (s->flips == 2) return NULL;
    strcpy(s->flip[s->flips].flip, flip);
    return &s->flip[s->flips++];
}

/* One file of the session's to where it belongs. */
static qnet_status find_place(bids *b, const char *name, session *s)
{
    char number[64], flip[64], part[64], *path;
    acquisition *a;
    long echo;
    bids_entity(name, "flip", flip);
    bids_entity(name, "part", part);
    echo = bids_entity(name, "echo", number) && strspn(number, "0123456789") == strlen(number)
               ? strtol(number, NULL, 10) : 0;
    if (echo < 1 || echo > ECHOES_MOST)
        return bids_fail(b, QNET_ERROR_DATA, "%s/%s: expected echo-1 to echo-%d in its name", s->folder,
                         name, ECHOES_MOST);
    a = find_flip(s, flip);
    if (a == NULL)
        return bids_fail(b, QNET_ERROR_UNSUPPORTED, "%s/%s: a third flip angle, expected one or two",
                         s->folder, name);
    path = part[0] == 'p' ? a->echo[echo - 1].phase : a->echo[echo - 1].magnitude;
    if (path[0])
        return bids_fail(b, QNET_ERROR_DATA, "%s/%s: %s is the same echo, expected one", s->folder, name,
                         strrchr(path, '/') + 1);
    if (echo > a->count) a->count = (int)echo;
    common_name(name, 1, a->echo[echo - 1].name);
    return bids_path(b, path, s->folder, "/", name, "");
}

/* Each echo of an acquisition has both images. */
static qnet_status check_complete(bids *b, const session *s, const acquisition *a)
{
    if (a->count == 1 && a->echo[0].magnitude[0])
        return bids_fail(b, QNET_ERROR_DATA, "%s: is the only echo, expected two or more",
                         a->echo[0].magnitude);
    for (int e = 0; e < a->count; e++) {
        const echo_file *f = &a->echo[e];
        if (!f->magnitude[0] && !f->phase[0])
            return bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: %s%s%s has %d echoes, but no echo-%d",
                             s->folder, s->key, a->flip[0] ? " flip-" : "", a->flip, a->count, e + 1);
        if (!f->phase[0] || !f->magnitude[0])
            return bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: is there without its %s, expected one with "
                             "part-%s in its name",
                             f->phase[0] ? f->phase : f->magnitude, f->phase[0] ? "magnitude" : "phase",
                             f->phase[0] ? "mag" : "phase");
    }
    return QNET_OK;
}

/* Refuses a field that is not the same in two images; NaN says nothing. */
static qnet_status check_same(bids *b, const char *path, const char *member, double value,
                              const char *other, double expected)
{
    if (!(fabs(value - expected) > 1e-3 * fabs(expected))) return QNET_OK;
    return bids_fail(b, QNET_ERROR_DATA, "%s: \"%s\" is %g, expected %g, as of %s", path, member, value,
                     expected, strrchr(other, '/') + 1);
}

static qnet_status missing(bids *b, const char *path, const char *member, const char *unit)
{
    return bids_fail(b, QNET_ERROR_DATA, "%s: its sidecars have no \"%s\", expected it in %s", path,
                     member, unit);
}

/* The facts of all echoes of an acquisition, each from the magnitude's sidecars, of which the phase's may
   say no other; those of all echoes are the same. two: there is another flip angle. */
static qnet_status find_facts(bids *b, const session *s, int two, acquisition *a)
{
    const char *first = a->echo[0].magnitude;
    const sidecar *known = &a->echo[0].facts;
    for (int e = 0; e < a->count; e++) {
        echo_file *f = &a->echo[e];
        sidecar phase;
        BIDS_TRY(sidecar_find(b, s, f->magnitude, &f->facts));
        BIDS_TRY(sidecar_find(b, s, f->phase, &phase));
        if (isnan(f->facts.echo_time)) return missing(b, f->magnitude, "EchoTime", "seconds");
        BIDS_TRY(check_same(b, f->phase, "EchoTime", phase.echo_time, f->magnitude,
                            f->facts.echo_time));
        for (int k = 0; k < 2; k++) {
            const sidecar *other = k ? &phase : &f->facts;
            const char *path = k ? f->phase : f->magnitude;
            BIDS_TRY(check_same(b, path, "MagneticFieldStrength", other->field_strength, first,
                                known->field_strength));
            BIDS_TRY(check_same(b, path, "RepetitionTime", other->repetition_time, first,
                                known->repetition_time));
            BIDS_TRY(check_same(b, path, "FlipAngle", other->flip_angle, first, known->flip_angle));
        }
    }
    if (isnan(known->field_strength)) return missing(b, first, "MagneticFieldStrength", "tesla");
    if (two && isnan(known->flip_angle)) return missing(b, first, "FlipAngle", "degrees");
    if (two && isnan(known->repetition_time)) return missing(b, first, "RepetitionTime", "seconds");
    return QNET_OK;
}

/* The files of the session in its folder, and what is known of them. */
static qnet_status find_echoes(bids *b, const choice *c, session *s)
{
    const char *name = NULL;
    char key[256];
    qnet_buffer names;
    qnet_status status;
    int low;
    s->flips = 0;
    s->key[0] = '\0';
    memset(s->flip, 0, sizeof s->flip);
    BIDS_TRY(bids_path(b, s->folder, b->folder, s->place, "", ""));
    BIDS_TRY(bids_list(b, s->folder, &names));
    status = find_key(b, c, &names, s);
    while (status == QNET_OK && (name = bids_next(&names, name)) != NULL)
        if (is_echo(s, c, name, key) && strcmp(key, s->key) == 0) status = find_place(b, name, s);
    qnet_buffer_free(b->ctx, &names);
    for (int k = 0; k < s->flips && status == QNET_OK; k++) {
        status = check_complete(b, s, &s->flip[k]);
        if (status == QNET_OK)
            status = find_facts(b, s, s->flips == 2, &s->flip[k]);
    }
    if (status != QNET_OK) return status;
    low = s->flips == 2 && s->flip[0].echo[0].facts.flip_angle < s->flip[1].echo[0].facts.flip_angle;
    s->first = &s->flip[low];
    s->second = s->flips == 2 ? &s->flip[!low] : NULL;
    if (s->second) s->second->count = 1; /* all that T1 takes of it */
    if (!s->second || s->first->echo[0].facts.flip_angle > s->second->echo[0].facts.flip_angle)
        return QNET_OK;
    return bids_fail(b, QNET_ERROR_DATA, "%s: has the same FlipAngle as %s, expected another",
                     s->second->echo[0].magnitude, strrchr(s->first->echo[0].magnitude, '/') + 1);
}

/* ---- Sessions -------------------------------------------------------------------------------- */

typedef struct session_name { char subject[64], label[64]; } session_name;

static qnet_status list_add(bids *b, qnet_buffer *list, const char *subject, const char *label)
{
    session_name s;
    if (strlen(subject) >= sizeof s.subject || strlen(label) >= sizeof s.label)
        return bids_fail(b, QNET_ERROR_LIMIT, "%s: a name of more than 63 bytes", subject);
    memset(&s, 0, sizeof s);
    strcpy(s.subject, subject);
    strcpy(s.label, label);
    if (qnet_buffer_append(b->ctx, list, &s, sizeof s) == QNET_OK) return QNET_OK;
    return bids_fail(b, QNET_ERROR_MEMORY, "no memory for the list of sessions");
}

/* The same names, with or without the prefix that folders have: "01" and "sub-01". NULL fits all. */
static int is_chosen(const char *chosen, const char *folder)
{
    return !chosen || strcmp(chosen, folder) == 0 || strcmp(chosen, folder + 4) == 0;
}

static int is_file(const char *folder, const char *name)
{
    char path[BIDS_PATH + 300];
    snprintf(path, sizeof path, "%.1023s/%.255s", folder, name);
    return qnet_file_exists(path);
}

/* The sessions of one subject, as session_names at the end of *list. */
static qnet_status list_sessions(bids *b, const char *subject, const char *chosen, qnet_buffer *list)
{
    char folder[BIDS_PATH];
    const char *name = NULL;
    qnet_buffer names;
    qnet_status status;
    int sessions = 0;
    BIDS_TRY(bids_path(b, folder, b->folder, "/", subject, ""));
    BIDS_TRY(bids_list(b, folder, &names));
    status = QNET_OK;
    while (status == QNET_OK && (name = bids_next(&names, name)) != NULL) {
        if (strncmp(name, "ses-", 4) != 0 || is_file(folder, name)) continue;
        sessions++;
        if (is_chosen(chosen, name)) status = list_add(b, list, subject, name);
    }
    qnet_buffer_free(b->ctx, &names);
    if (status == QNET_OK && sessions == 0 && !chosen) status = list_add(b, list, subject, "");
    return status;
}

/* All sessions of the data set that are asked for (NULL: all), in the order of their names. */
static inline qnet_status list_all(bids *b, const char *subject, const char *chosen, qnet_buffer *list)
{
    const char *name = NULL;
    qnet_buffer names;
    qnet_status status;
    memset(list, 0, sizeof *list);
    memset(&names, 0, sizeof names);
    if (qnet_file_exists(b->folder))
        return bids_fail(b, QNET_ERROR_ARGUMENT, "%s: is a file, expected the folder of a BIDS data set "
                         "(--data)", b->folder);
    if (qnet_list_folder(b->ctx, b->folder, &names) != QNET_OK) {
        qnet_buffer_free(b->ctx, &names);
        return bids_fail(b, QNET_ERROR_NOT_FOUND, "%s (--data)", qnet_last_error(b->ctx));
    }
    status = QNET_OK;
    while (status == QNET_OK && (name = bids_next(&names, name)) != NULL)
        if (strncmp(name, "sub-", 4) == 0 && is_chosen(subject, name) && !is_file(b->folder, name))
            status = list_sessions(b, name, chosen, list);
    qnet_buffer_free(b->ctx, &names);
    if (status != QNET_OK || list->size > 0) return status;
    return bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: no folder sub-%s%s%s%s", b->folder,
                     !subject ? "*" : strncmp(subject, "sub-", 4) ? subject : subject + 4,
                     chosen ? "/ses-" : "", !chosen ? "" : strncmp(chosen, "ses-", 4) ? chosen : chosen + 4,
                     subject || chosen ? "" : ": expected a BIDS data set");
}

/* The sign of the phase by its sidecar: -1 for GE, whose phase falls where others' grows, 1 for Siemens
   and Philips; 0: it does not say whose it is, or another's. */
static int manufacturer_sign(const char *manufacturer)
{
    static const char *const grows[3] = {"siemens", "philips", "phantom"}; /* the last: make_phantom's */
    char text[17] = "";
    for (size_t i = 0; manufacturer[i] && i < sizeof text - 1; i++)
        text[i] = (char)(manufacturer[i] | 0x20); /* small letters; blanks stay */
    for (int k = 0; k < 3; k++)
        if (strncmp(text, grows[k], 7) == 0) return 1;
    return !strcmp(text, "ge") || !strncmp(text, "ge ", 3) || !strncmp(text, "gehc", 4) ||
           !strcmp(text, "general electric") ? -1 : 0;
}
#endif
