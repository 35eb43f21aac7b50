/* maps: from a scanner's echoes in a BIDS folder to the maps that crossval reads (paper, "Dataset").

       build/maps --data BIDS --out BIDS/derivatives/qnet [options]          build/maps --help
       build/crossval --data BIDS --out DIR

   The work is in qnet.h (qnet_maps_from_echoes); this program finds the echoes and reads their sidecars
   (find.h), writes the maps (outputs.h) and a page for each session that shows them (quality.h), and stops
   cleanly on Ctrl-C: run it again with --resume and it goes on. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#define PROGRAM "maps"
#include "examples/crossval/program.h"
#include "make.h"
#include "settings.h"

static const char help[] =
    "usage: maps --data BIDS --out DIR [options]\n"
    "\n"
    "Makes QSM, R2* and T1W of multi-echo gradient-echo data as the paper does, and with two flip\n"
    "angles T1 and M0. Reads *_echo-N_part-mag_MEGRE and *_part-phase_MEGRE (or VFA, with flip-N),\n"
    ".nii or .nii.gz, and their JSON sidecars; writes *_Chimap, *_R2starmap, *_T1w, *_T1map, *_M0map\n"
    "and masks, a sidecar for each, and one page per session with pictures of all. crossval --data\n"
    "BIDS then reads them.\n"
    "\n"
    "  --data BIDS         the data set: sub-*/anat or sub-*/ses-*/anat\n"
    "  --out DIR           a folder for the maps alone: BIDS/derivatives/qnet, where crossval finds them;\n"
    "                      a file there that is not by maps is refused, never replaced\n"
    "  --subject NAME      this subject alone          --session NAME  this session alone\n"
    "  --run N             where several runs fit; and --acq NAME, --suffix MEGRE or VFA\n"
    "  --mode KIND         paper: each echo to susceptibility, then their mean, with the paper's numbers;\n"
    "                      consensus: the echoes to one field first, with a larger sphere and a roll-off.\n"
    "                      Choose it for maps of your own, above all of oblique slabs; the paper's for\n"
    "                      maps to compare with the paper's (paper)\n"
    "  --mask FILE         the brain, on the echoes' grid; {subject} and {session} in it stand for\n"
    "                      names such as sub-01; auto: brain extraction (auto)\n"
    "  --phase-sign SIGN   1: phase grows with the field, as Siemens and Philips have it; -1: it\n"
    "                      falls, as GE has it; auto: by the sidecar's Manufacturer (auto)\n"
    "  --background KIND   sharp or vsharp (sharp)\n"
    "  --sharp-radius R    of SHARP's sphere, in mm (6; of consensus 9)\n"
    "  --roll-off X        the part of the frequencies that fades before the inversion, 0 to 1 (0; of\n"
    "                      consensus .5)\n"
    "  --brain-threshold X of brain extraction, .01 to .99: higher: a smaller brain (.2)\n"
    "  --brain-erode N     voxels taken from its rim, in plane (4)\n"
    "  --threads N         threads (all)               --cpu KIND      auto, scalar, avx2, avx512,\n"
    "                                                                  neon (auto)\n"
    "  --resume            leave sessions as they are whose maps are made of these echoes and settings\n"
    "  --quiet             errors and warnings only    --version       prints the version\n"
    "  --help              prints this\n"
    "\n"
    "Exit status: 0 done, 1 an error (one sentence says which), 2 wrong usage, 130 stopped by Ctrl-C.\n";

typedef struct options {
    const char *data, *out, *subject, *session, *mask;
    choice echoes;
    int sign, resume, quiet; /* sign 0: by the manufacturer */
    qnet_hooks hooks;
    qnet_maps_config config;
} options;

/* A number in low..high. */
static int decimal(const char *name, const char *text, double low, double high, double *out)
{
    char expected[80];
    double value = 0;
    snprintf(expected, sizeof expected, "a number from %g to %g", low, high);
    if (!table_number(text, &value) || !(value >= low && value <= high)) return fail(name, text, expected);
    *out = value;
    return 1;
}

static int option_with_value(options *o, const char *name, const char *value)
{
    qnet_maps_config *c = &o->config;
    if (strcmp(name, "--data") == 0)
        o->data = value;
    else if (strcmp(name, "--out") == 0)
        o->out = value;
    else if (strcmp(name, "--subject") == 0)
        o->subject = value;
    else if (strcmp(name, "--session") == 0)
        o->session = value;
    else if (strcmp(name, "--run") == 0)
        o->echoes.run = value;
    else if (strcmp(name, "--acq") == 0)
        o->echoes.acquisition = value;
    else if (strcmp(name, "--suffix") == 0)
        o->echoes.suffix = value;
    else if (strcmp(name, "--mask") == 0)
        o->mask = strcmp(value, "auto") ? value : NULL;
    else if (strcmp(name, "--mode") == 0) {
        if (strcmp(value, "paper") && strcmp(value, "consensus"))
            return fail(name, value, "paper or consensus");
        if (*value == 'p') qnet_maps_config_init(c);
        else qnet_maps_config_consensus(c);
    } else if (strcmp(name, "--phase-sign") == 0) {
        if (strcmp(value, "auto") && strcmp(value, "1") && strcmp(value, "-1"))
            return fail(name, value, "auto, 1 or -1");
        o->sign = *value == 'a' ? 0 : *value == '1' ? 1 : -1;
    } else if (strcmp(name, "--background") == 0) {
        if (strcmp(value, "sharp") && strcmp(value, "vsharp")) return fail(name, value, "sharp or vsharp");
        c->susceptibility.background = *value == 's' ? QNET_SHARP : QNET_VSHARP;
    } else if (strcmp(name, "--sharp-radius") == 0)
        return decimal(name, value, .1, 100, &c->susceptibility.sharp_radius);
    else if (strcmp(name, "--roll-off") == 0)
        return decimal(name, value, 0, 1, &c->susceptibility.roll_off);
    else if (strcmp(name, "--brain-threshold") == 0)
        return decimal(name, value, .01, .99, &c->brain.threshold);
    else if (strcmp(name, "--brain-erode") == 0)
        return whole(name, value, 0, 100, &c->brain.erode);
    else {
        const int known = hook_option(name, value, &o->hooks);
        return known >= 0 ? known : fail(name, "", "a known option");
    }
    return 1;
}

/* 1: run; 0: bad usage; -1: help or version was asked for and is printed. */
static int parse(int argc, char **argv, options *o)
{
    static const char *const flags[] = {"--help", "--version", "--resume", "--quiet", NULL};
    char name[40];
    const char *value;
    int taken;
    memset(o, 0, sizeof *o);
    qnet_maps_config_init(&o->config);
    for (int pass = 0; pass < 2; pass++) /* the mode before the numbers that are other than the mode's */
        for (int i = 1; i < argc; i += taken) {
            if (strcmp(argv[i], "-h") == 0) return fputs(help, stdout), -1;
            taken = read_option(argc, argv, i, help, flags, name, &value);
            if (taken == 0) return 0;
            if (strcmp(name, "--help") == 0) return fputs(help, stdout), -1;
            if (strcmp(name, "--version") == 0) return puts("maps, qnet.h " QNET_VERSION), -1;
            if (value) {
                if (pass != (strcmp(name, "--mode") == 0) && !option_with_value(o, name, value)) return 0;
            } else *(strcmp(name, "--resume") == 0 ? &o->resume : &o->quiet) = 1;
        }
    if (!o->data) return fail("--data", "", "the folder of a BIDS data set");
    if (!o->out) return fail("--out", "", "a folder for the maps, such as BIDS/derivatives/qnet");
    return 1;
}

/* ---- One session ----------------------------------------------------------------------------- */

/* All that one session needs; made once, for the largest. */
typedef struct job {
    const options *o;
    bids b;
    display shown;
    session s;
    int at, count;         /* of the sessions, from 0 */
    char mask[BIDS_PATH], warnings[4000];
    images loaded;
    qnet_volume *ganglia, *labels;
    char ganglia_path[BIDS_PATH], labels_path[BIDS_PATH], label_name[LABELS_MOST][64];
} job;

/* For qnet_progress.report: the fraction is that of all sessions. */
static int report(void *user, const qnet_progress_info *info)
{
    job *j = (job *)user;
    qnet_progress_info p = *info;
    char where[64];
    snprintf(where, sizeof where, "%.40s %d/%d", j->s.name, j->at + 1, j->count);
    p.where = where;
    p.epoch = 0;
    p.items_per_second = 0; /* steps of very different lengths */
    if (!j->shown.terminal) { /* a line for each session, not for each step */
        p.task = "";
        p.steps = 0;
    }
    p.fraction = (j->at + fmin(fmax(info->fraction, 0), 1)) / j->count;
    return show(&j->shown, &p);
}

/* The library's sentences name fields of its configuration; here those are options. */
static const char *hint(const char *sentence)
{
    static const char *const hints[][2] = {{"phase_sign", " (--phase-sign)"},
                                           {"sharp_radius", " (--sharp-radius)"},
                                           {": threshold is", " (--brain-threshold)"},
                                           {": erode is", " (--brain-erode)"}};
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++)
        if (strstr(sentence, hints[i][0])) return hints[i][1];
    return "";
}

/* For qnet_log.message: warnings also go to the page. */
static void keep_message(void *user, qnet_log_level level, const char *text)
{
    job *j = (job *)user;
    const size_t n = strlen(j->warnings);
    char whole_text[2000];
    snprintf(whole_text, sizeof whole_text, "%.1900s%s", text, hint(text));
    if (level == QNET_LOG_WARNING) snprintf(j->warnings + n, sizeof j->warnings - n, "%s\n", whole_text);
    if (level == QNET_LOG_WARNING) display_clear(&j->shown);
    message(&j->shown, level, whole_text);
}

/* The path of the brain mask into j->mask: {subject} and {session} become names. "": none is given. */
static qnet_status mask_path(job *j)
{
    static const char *const words[2] = {"{subject}", "{session}"};
    const char *p = j->o->mask ? j->o->mask : "";
    size_t n = 0;
    while (*p && n < sizeof j->mask - 1) {
        int k = 0;
        while (k < 2 && strncmp(p, words[k], 9) != 0) k++;
        if (k < 2) {
            n += (size_t)snprintf(j->mask + n, sizeof j->mask - n, "%s", k ? j->s.label : j->s.subject);
            p += 9;
        } else j->mask[n++] = *p++;
    }
    if (n >= sizeof j->mask - 1)
        return bids_fail(&j->b, QNET_ERROR_LIMIT, "--mask: a path of more than %d bytes", BIDS_PATH - 2);
    j->mask[n] = '\0';
    if (!n || qnet_file_exists(j->mask)) return QNET_OK;
    return bids_fail(&j->b, QNET_ERROR_NOT_FOUND, "%s: is not there, expected the brain mask of %s "
                     "(--mask)", j->mask, j->s.name);
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

/* 1: two volumes of the same voxels. */
static int same_grid(const qnet_volume *a, const qnet_volume *b)
{
    int same = a->nx == b->nx && a->ny == b->ny && a->nz == b->nz;
    for (int r = 0; r < 3; r++)
        for (int c = 0; c < 4; c++) same &= fabs(a->affine[r][c] - b->affine[r][c]) < (c < 3 ? .01 : .1);
    return same;
}

/* A mask or labels of regions from any derivatives folder, for the page alone; without it where there are
   several, or on another grid. */
static void load_regions(job *j, const char *suffix, const qnet_volume *grid, char *path, qnet_volume **out)
{
    char tool[256], text[1400] = "";
    qnet_status status = bids_find(&j->b, j->s.folder, j->s.name, suffix, path);
    if (status == QNET_OK && !path[0])
        status = bids_find_derived(&j->b, j->s.place, j->s.name, suffix, "the page shows neither", tool,
                                   path);
    if (status == QNET_OK && path[0]) status = qnet_nifti_load(j->b.ctx, path, out);
    if (status != QNET_OK) snprintf(text, sizeof text, "%.1300s", bids_error(&j->b));
    else if (*out && !same_grid(*out, grid))
        snprintf(text, sizeof text, "%.1000s: is on another grid than the echoes: left out of the page",
                 path);
    j->b.error[0] = '\0';
    if (!text[0] && *out) return;
    qnet_volume_destroy(*out);
    *out = NULL;
    path[0] = '\0';
    if (text[0]) keep_message(j, QNET_LOG_INFO, text);
}

/* The names of the labels, from a table (index, name) beside them, or dseg.tsv at the top of their folder. */
static void load_label_names(job *j)
{
    char path[BIDS_PATH + 16];
    const char *place = strstr(j->labels_path, j->s.place);
    size_t columns[2], n = bids_stem(j->labels_path);
    qnet_buffer text;
    table t;
    memset(j->label_name, 0, sizeof j->label_name);
    if (!j->labels_path[0]) return;
    snprintf(path, sizeof path, "%.*s.tsv", (int)n, j->labels_path);
    if (!qnet_file_exists(path) && place)
        snprintf(path, sizeof path, "%.*s/dseg.tsv", (int)(place - j->labels_path), j->labels_path);
    if (bids_text(&j->b, path, &text) != QNET_OK || text.size == 0 ||
        table_open(&t, text.bytes, text.size - 1) < 0) {
        qnet_buffer_free(j->b.ctx, &text);
        return;
    }
    columns[0] = columns[1] = (size_t)-1;
    if (table_next(&t) > 0)
        for (size_t c = 0; c < t.columns; c++)
            for (int k = 0; k < 2; k++)
                if (strcmp(t.field[c], k ? "name" : "index") == 0) columns[k] = c;
    while (columns[0] != (size_t)-1 && columns[1] != (size_t)-1 && table_next(&t) > 0) {
        double label;
        if (table_number(t.field[columns[0]], &label) && label >= 1 && label < LABELS_MOST)
            snprintf(j->label_name[(int)label], sizeof j->label_name[0], "%.63s", t.field[columns[1]]);
    }
    table_close(&t);
    qnet_buffer_free(j->b.ctx, &text);
}

/* The page; the maps are turned to RAS for it. */
static qnet_status make_page(job *j, quality *q, qnet_maps *maps, qnet_buffer *html)
{
    qnet_volume *turned[OUTPUTS + 2];
    load_regions(j, "desc-basalganglia_mask", maps->mask, j->ganglia_path, &j->ganglia);
    load_regions(j, "dseg", maps->mask, j->labels_path, &j->labels);
    load_label_names(j);
    for (int k = 0; k < OUTPUTS; k++) turned[k] = output_volume(maps, k);
    turned[OUTPUTS] = j->ganglia;
    turned[OUTPUTS + 1] = j->labels;
    for (int k = 0; k < OUTPUTS + 2; k++)
        if (turned[k]) BIDS_TRY(qnet_volume_reorient(turned[k], "RAS"));
    q->ganglia = j->ganglia;
    q->labels = j->labels;
    q->ganglia_path = j->ganglia_path;
    q->labels_path = j->labels_path;
    q->label_name = j->label_name;
    q->warnings = j->warnings;
    return quality_page(j->b.ctx, q, html);
}

/* The maps of j->s, loaded, computed and written. */
static qnet_status make_maps(job *j, quality *q)
{
    qnet_maps *maps = NULL;
    outputs files;
    qnet_status status;
    memset(&files, 0, sizeof files);
    status = maps_of_session(&j->b, &j->s, &j->o->config, j->mask, q->sign, &j->loaded, &maps);
    if (status == QNET_OK) {
        q->maps = maps;
        status = outputs_make(&j->b, q, &files);
        if (status == QNET_OK) status = make_page(j, q, maps, &files.page);
        if (status == QNET_OK) status = outputs_write(&j->b, j->o->out, &j->s, &files);
    }
    outputs_free(&j->b, &files);
    qnet_maps_destroy(maps);
    images_free(&j->loaded);
    qnet_volume_destroy(j->ganglia);
    qnet_volume_destroy(j->labels);
    j->ganglia = j->labels = NULL;
    return status;
}

/* One session, from its files to its maps. *done: they were there. */
static qnet_status run_session(job *j, const session_name *name, int *done)
{
    quality q;
    char text[1400];
    memset(&q, 0, sizeof q);
    *done = 0;
    j->warnings[0] = j->b.error[0] = '\0';
    session_start(&j->s, name);
    BIDS_TRY(find_echoes(&j->b, &j->o->echoes, &j->s));
    BIDS_TRY(mask_path(j));
    q.s = &j->s;
    q.config = &j->o->config;
    q.dataset = j->b.name;
    q.mask = j->mask;
    q.sign_given = phase_sign(&j->s, j->o->sign, &q.sign, text);
    if (q.sign_given < 0) keep_message(j, QNET_LOG_WARNING, text);
    BIDS_TRY(hash_inputs(&j->b, &j->s, &j->o->config, j->mask, q.sign, &q.hash));
    *done = j->o->resume && is_done(&j->b, j->o->out, &j->s, q.hash);
    if (*done) return QNET_OK;
    if (j->shown.first_fraction < 0) { /* those that were there come at once */
        j->shown.first_fraction = (double)j->at / j->count;
        j->shown.begin = time(NULL);
    }
    return make_maps(j, &q);
}

/* ---- All sessions ---------------------------------------------------------------------------- */

/* Looks for the files of all sessions, so that what is missing is said before any work; of those that have
   no echoes at all it warns, and leaves them out, unless there are no others. */
static qnet_status check_sessions(job *j, session_name *names)
{
    int kept = 0;
    char path[BIDS_PATH];
    for (int i = 0; i < j->count; i++) {
        qnet_status status;
        int none;
        session_start(&j->s, &names[i]);
        status = find_echoes(&j->b, &j->o->echoes, &j->s);
        none = status == QNET_ERROR_NOT_FOUND && !j->s.key[0];
        if (status != QNET_OK && (!none || (kept == 0 && i == j->count - 1))) return status;
        if (none) {
            char text[1600];
            snprintf(text, sizeof text, "%.1500s: left out", j->b.error);
            keep_message(j, QNET_LOG_WARNING, text);
            continue;
        }
        BIDS_TRY(outputs_check_session(&j->b, j->o->out, &j->s));
        BIDS_TRY(mask_path(j));
        names[kept++] = names[i];
    }
    j->count = kept;
    for (int i = 0; j->o->mask && i < kept; i++) {
        session_start(&j->s, &names[i]);
        BIDS_TRY(mask_path(j));
        strcpy(path, j->mask);
        for (int k = 0; k < i; k++) {
            session_start(&j->s, &names[k]);
            BIDS_TRY(mask_path(j));
            if (strcmp(path, j->mask) != 0) continue;
            return bids_fail(&j->b, QNET_ERROR_ARGUMENT, "%s: one mask for %s and %s%s%s, expected %s in its "
                             "name, or --subject and --session (--mask)", path, j->s.name, names[i].subject,
                             names[i].label[0] ? "_" : "", names[i].label,
                             strcmp(names[i].subject, names[k].subject) ? "{subject}" : "{session}");
        }
    }
    return QNET_OK;
}

/* Warns of sessions in the folder of the maps that this run does not make, and that other settings made. */
static qnet_status check_settings(job *j, const session_name *names)
{
    char path[BIDS_PATH], ours[4000], theirs[4000], text[400], first[600] = "";
    bids there = j->b;
    qnet_buffer list, json;
    const session_name *other;
    int count = 0, total, k;
    writer w;
    memset(&json, 0, sizeof json);
    w = writer_begin(j->b.ctx, &json, "null", 0);
    open_object(&w, "", "{");
    put_settings(&w, &j->o->config, j->o->mask ? j->o->mask : "", 1);
    close_object(&w, "}");
    BIDS_TRY(writer_end(&w));
    BIDS_TRY(qnet_buffer_append(j->b.ctx, &json, "", 1));
    settings_of(&json, ours);
    qnet_buffer_free(j->b.ctx, &json);
    there.folder = j->o->out;
    if (list_all(&there, NULL, NULL, &list) != QNET_OK) list.size = 0; /* there is none yet */
    other = (const session_name *)(const void *)list.bytes;
    total = (int)(list.size / sizeof *other);
    for (int i = 0; i < total; i++) {
        for (k = 0; k < j->count && memcmp(&names[k], &other[i], sizeof *other); k++) {}
        session_start(&j->s, &other[i]);
        if (k < j->count || output_path(&there, j->o->out, &j->s, CHIMAP, ".json", path) != QNET_OK ||
            bids_text(&there, path, &json) != QNET_OK) continue;
        settings_of(&json, theirs);
        qnet_buffer_free(j->b.ctx, &json);
        if (theirs[0] && other_setting(ours, theirs, text) && count++ == 0)
            snprintf(first, sizeof first, "%s has %s", j->s.name, text);
    }
    qnet_buffer_free(j->b.ctx, &list);
    if (count == 0) return QNET_OK;
    snprintf(path, sizeof path, "%.300s: %d session%s of other settings, not made again in this run: %s",
             j->o->out, count, count > 1 ? "s" : "", first);
    keep_message(j, QNET_LOG_WARNING, path);
    return QNET_OK;
}

/* A session that fails is told, and the others are still made; QNET_STOPPED ends all. */
static qnet_status run_all(job *j, const session_name *names, int *failed, int *kept)
{
    for (j->at = 0; j->at < j->count; j->at++) {
        int done;
        const qnet_status status = run_session(j, &names[j->at], &done);
        display_clear(&j->shown);
        if (status == QNET_STOPPED || interrupted) return QNET_STOPPED;
        *kept += done;
        if (status == QNET_OK) continue;
        ++*failed;
        fprintf(stderr, "maps: %s: %s%s\n", j->s.name, bids_error(&j->b), hint(bids_error(&j->b)));
    }
    return QNET_OK;
}

int main(int argc, char **argv)
{
    options o;
    job *j;
    qnet_context *ctx = NULL;
    qnet_folder_lock *lock = NULL;
    qnet_buffer names;
    qnet_status status;
    char build[160];
    int failed = 0, kept = 0, ok = parse(argc, argv, &o);
    if (ok <= 0) return ok < 0 ? 0 : 2;
    memset(&names, 0, sizeof names);
    j = (job *)calloc(1, sizeof *j);
    if (j == NULL) {
        fprintf(stderr, "maps: %s\n", qnet_status_text(QNET_ERROR_MEMORY));
        return 1;
    }
    display_begin(&j->shown, o.quiet);
    o.hooks.progress.user = o.hooks.log.user = j;
    o.hooks.progress.report = report;
    o.hooks.log.message = keep_message;
    if (!open_context(&o.hooks, &ctx)) {
        free(j);
        return 1;
    }
    qnet_describe_build(ctx, build, sizeof build);
    if (!o.quiet) printf("%s\n", build);
    j->o = &o;
    j->b.ctx = ctx;
    j->b.folder = o.data;
    j->b.log = o.hooks.log;
    status = list_all(&j->b, o.subject, o.session, &names);
    j->count = (int)(names.size / sizeof(session_name));
    if (status == QNET_OK) status = check_sessions(j, (session_name *)(void *)names.bytes);
    if (status == QNET_OK) status = outputs_check(&j->b, o.out);
    if (status == QNET_OK) status = check_settings(j, (const session_name *)(const void *)names.bytes);
    if (status == QNET_OK) status = bids_describe(&j->b);
    if (status == QNET_OK) {
        status = qnet_folder_lock_take(ctx, o.out, &lock);
        if (status != QNET_OK) bids_fail(&j->b, status, "%s (--out)", qnet_last_error(ctx));
    }
    if (status == QNET_OK) status = outputs_describe(&j->b, o.out);
    if (status == QNET_OK)
        status = run_all(j, (const session_name *)(void *)names.bytes, &failed, &kept);
    fflush(stdout);
    if (status == QNET_STOPPED)
        fprintf(stderr, "maps: stopped; the same command with --resume goes on from here\n");
    else if (status != QNET_OK)
        fprintf(stderr, "maps: %s%s\n", bids_error(&j->b), hint(bids_error(&j->b)));
    else if (!o.quiet && failed < j->count) {
        printf("Wrote the maps of %d of %d sessions into %s", j->count - failed - kept, j->count, o.out);
        printf(kept ? "; those of %d were there.\n" : ".\n", kept);
    }
    qnet_folder_lock_release(lock);
    qnet_buffer_free(ctx, &names);
    qnet_context_destroy(ctx);
    free(j);
    return status == QNET_STOPPED ? 130 : status != QNET_OK || failed > 0;
}
