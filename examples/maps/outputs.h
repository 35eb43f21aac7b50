/* outputs.h: the files of one session: made in memory, then written, so that all are there or none.

       OUT/sub-01[/ses-1]/anat/sub-01[_ses-1]_Chimap.nii.gz, .json ...     OUT/sub-01[_ses-1].html

   The Chimap, which makes the others count (crossval finds maps by it), goes last, and behind it its sidecar,
   which has the hash of the inputs and settings, by which --resume knows what is done: what a power cut among
   the renames leaves is made anew. Files without that hash are of others, and stay as they are. */
#ifndef OUTPUTS_H
#define OUTPUTS_H
#include "quality.h"
#include <errno.h>

enum { CHIMAP, R2STARMAP, T1W, T1MAP, M0MAP, BRAIN_MASK, QSM_MASK, OUTPUTS };

static const struct { const char *suffix, *units, *description; } output_kinds[OUTPUTS] = {
    {"Chimap", "ppm", "magnetic susceptibility (QSM), relative to its mean over the brain; 0 outside of "
                      "desc-qsm_mask"},
    {"R2starmap", "1/s", "effective transverse relaxation rate; 0 outside of desc-brain_mask"},
    {"T1w", "arbitrary", "magnitude of the first echo at the largest flip angle"},
    {"T1map", "s", "longitudinal relaxation time, of two flip angles"},
    {"M0map", "arbitrary", "signal without relaxation, of two flip angles"},
    {"desc-brain_mask", "", "the brain, as it was used"},
    {"desc-qsm_mask", "", "where the susceptibility is known"}};

static qnet_volume *output_volume(const qnet_maps *m, int k)
{
    qnet_volume *const volumes[OUTPUTS] = {m->qsm, m->r2star, m->t1w, m->t1, m->m0, m->mask, m->qsm_mask};
    return volumes[k];
}

/* path[BIDS_PATH] of an output; of the page for k = OUTPUTS. */
static qnet_status output_path(bids *b, const char *out, const session *s, int k, const char *extension,
                               char *path)
{
    char name[200];
    if (k == OUTPUTS) snprintf(name, sizeof name, "/%s.html", s->name);
    else snprintf(name, sizeof name, "/%s_%s%s", s->name, output_kinds[k].suffix, extension);
    return bids_path(b, path, out, k == OUTPUTS ? "" : s->place, name, "");
}

/* The hash in the sidecar of an output into found[32]; "": there is none, or not by this program. */
static void output_hash(bids *b, const char *out, const session *s, int k, char *found)
{
    char path[BIDS_PATH];
    qnet_buffer text;
    found[0] = '\0';
    if (output_path(b, out, s, k, ".json", path) != QNET_OK || bids_text(b, path, &text) != QNET_OK) {
        b->error[0] = '\0'; /* what cannot be read is not by this program */
        return;
    }
    if (text.size > 0) json_member((const char *)text.bytes, "InputHash", found, 32);
    qnet_buffer_free(b->ctx, &text);
}

/* 1: the session's outputs are there, and made from what has this hash. */
static inline int is_done(bids *b, const char *out, const session *s, uint64_t hash)
{
    char path[BIDS_PATH], expected[32], found[32];
    for (int k = 0; k <= OUTPUTS; k++) {
        if ((k == T1MAP || k == M0MAP) && !s->second) continue;
        if (output_path(b, out, s, k, ".nii.gz", path) != QNET_OK || !qnet_file_exists(path)) return 0;
        if (k == OUTPUTS) continue;
        if (output_path(b, out, s, k, ".json", path) != QNET_OK || !qnet_file_exists(path)) return 0;
    }
    output_hash(b, out, s, CHIMAP, found);
    snprintf(expected, sizeof expected, "%016llx", (unsigned long long)hash);
    return strcmp(found, expected) == 0;
}

/* Refuses a session whose outputs would replace files that are not of this program. Its own are known by
   the hash in their sidecar; one that lost its sidecar, and the page, by that of the other maps. */
static qnet_status outputs_check_session(bids *b, const char *out, const session *s)
{
    char path[BIDS_PATH], found[32];
    qnet_buffer names;
    int own = 0, folder;
    const char *echo = s->first->echo[0].magnitude;
    BIDS_TRY(bids_path(b, path, out, s->place, strrchr(echo, '/'), ""));
    if (qnet_file_exists(path))
        return bids_fail(b, QNET_ERROR_ARGUMENT, "%s: is an echo, so %s is a folder of data, expected one "
                         "of its own for the maps (--out)", path, out);
    for (int k = 0; k < OUTPUTS; k++) {
        output_hash(b, out, s, k, found);
        own |= found[0] != '\0';
    }
    for (int k = 0; k <= OUTPUTS; k++) {
        if ((k == T1MAP || k == M0MAP) && !s->second) continue;
        output_hash(b, out, s, k < OUTPUTS ? k : CHIMAP, found);
        for (int e = 0; e < 2; e++) {
            BIDS_TRY(output_path(b, out, s, k, e ? ".nii.gz" : ".json", path));
            memset(&names, 0, sizeof names);
            folder = !qnet_file_exists(path) && qnet_list_folder(b->ctx, path, &names) == QNET_OK;
            qnet_buffer_free(b->ctx, &names);
            if (folder)
                return bids_fail(b, QNET_ERROR_DATA, "%s: is a folder, expected a map or nothing: move it "
                                 "away, or choose another folder (--out)", path);
            if (!qnet_file_exists(path) || found[0] || (own && (e || k == OUTPUTS))) continue;
            return bids_fail(b, QNET_ERROR_DATA, "%s: is there and not of this program, expected another "
                             "folder for the maps (--out), or move it away", path);
        }
    }
    return QNET_OK;
}

/* Appends where a file lies in the data set. */
static void put_source(writer *w, const bids *b, const char *path)
{
    const size_t n = strlen(b->folder);
    put_members(w, " %s", strncmp(path, b->folder, n) == 0 ? path + n + strspn(path + n, "/") : path);
}

static qnet_status output_sidecar(const bids *b, const quality *q, int k, qnet_buffer *json)
{
    writer own = writer_begin(b->ctx, json, "null", 0), *w = &own;
    const acquisition *flips[2] = {q->s->first, q->s->second};
    open_object(w, "", "{");
    put_members(w, "Description %s", output_kinds[k].description);
    if (output_kinds[k].units[0]) put_members(w, "Units %s", output_kinds[k].units);
    if (k >= BRAIN_MASK) put_members(w, "Type %s", "Brain");
    put_members(w, "MagneticFieldStrength %g; InputHash \"%016llx\"",
                flips[0]->echo[0].facts.field_strength, (unsigned long long)q->hash);
    open_object(w, "BasedOn", "[");
    for (int f = 0; f < 2; f++)
        for (int e = 0; flips[f] && e < flips[f]->count; e++) {
            put_source(w, b, flips[f]->echo[e].magnitude);
            put_source(w, b, flips[f]->echo[e].phase);
        }
    close_object(w, "]");
    put_settings(w, q->config, q->mask, q->sign);
    close_object(w, "}");
    return writer_end(w);
}

typedef struct outputs { qnet_buffer image[OUTPUTS], sidecar[OUTPUTS], page; } outputs;

static void outputs_free(bids *b, outputs *o)
{
    for (int k = 0; k < OUTPUTS; k++) {
        qnet_buffer_free(b->ctx, &o->image[k]);
        qnet_buffer_free(b->ctx, &o->sidecar[k]);
    }
    qnet_buffer_free(b->ctx, &o->page);
}

/* The images and their sidecars, in memory. */
static qnet_status outputs_make(bids *b, const quality *q, outputs *o)
{
    qnet_status status = QNET_OK;
    for (int k = 0; k < OUTPUTS && status == QNET_OK; k++) {
        const qnet_volume *volume = output_volume(q->maps, k);
        qnet_sink sink = qnet_sink_buffer(b->ctx, &o->image[k], output_kinds[k].suffix);
        if (volume == NULL) continue;
        status = qnet_nifti_write(b->ctx, &sink, volume, k >= BRAIN_MASK ? 1 : 0, 1);
        if (status == QNET_OK) status = output_sidecar(b, q, k, &o->sidecar[k]);
    }
    return status;
}

#ifdef _WIN32 /* whose rename replaces nothing */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
static int rename_over(const char *from, const char *to)
{
    wchar_t wide[2][BIDS_PATH];
    return MultiByteToWideChar(CP_UTF8, 0, from, -1, wide[0], BIDS_PATH) > 0 &&
           MultiByteToWideChar(CP_UTF8, 0, to, -1, wide[1], BIDS_PATH) > 0 &&
           MoveFileExW(wide[0], wide[1], MOVEFILE_REPLACE_EXISTING) ? 0 : -1;
}
#else
#define rename_over rename
#endif

enum { STAGE_WRITE, STAGE_RENAME, STAGE_REMOVE };

/* One stage for one file of a session: its bytes to <path>.new; that to <path>; that, left over, away. */
static qnet_status output_stage(bids *b, int stage, const char *path, const qnet_buffer *bytes)
{
    char made[BIDS_PATH];
    if (bytes->size == 0) return QNET_OK;
    BIDS_TRY(bids_path(b, made, path, ".new", "", ""));
    if (stage == STAGE_WRITE) return qnet_file_replace(b->ctx, made, bytes->bytes, bytes->size);
    if (stage == STAGE_REMOVE) remove(made);
    else if (rename_over(made, path) != 0)
        return bids_fail(b, QNET_ERROR_IO, "%s: cannot be replaced: %s", path, strerror(errno));
    return QNET_OK;
}

/* One stage for all files: sidecars first, as they tell whose an image and the page are, but the Chimap's
   last, as it tells that all is done. */
static qnet_status outputs_stage(bids *b, int stage, const char *out, const session *s, const outputs *o)
{
    char path[BIDS_PATH];
    for (int k = OUTPUTS - 1; k >= 0; k--) {
        if (k == CHIMAP) {
            BIDS_TRY(output_path(b, out, s, OUTPUTS, "", path));
            BIDS_TRY(output_stage(b, stage, path, &o->page));
        }
        for (int image = k == CHIMAP, i = 0; i < 2; i++, image = !image) {
            BIDS_TRY(output_path(b, out, s, k, image ? ".nii.gz" : ".json", path));
            BIDS_TRY(output_stage(b, stage, path, image ? &o->image[k] : &o->sidecar[k]));
        }
    }
    return QNET_OK;
}

/* Writes all beside what is there, and when all are written, in place of it: if one cannot be written (a
   full disk), the old ones stay. Where a rename fails, those behind it stay, too; --resume makes all anew.
   Then what these maps do not have and former ones had goes: T1 and M0, which are this program's where their
   sidecar has the hash. */
static qnet_status outputs_write(bids *b, const char *out, const session *s, const outputs *o)
{
    char path[BIDS_PATH], found[32];
    qnet_status status;
    BIDS_TRY(bids_path(b, path, out, s->place, "", ""));
    BIDS_TRY(qnet_make_folder(b->ctx, path));
    status = outputs_stage(b, STAGE_WRITE, out, s, o);
    if (status == QNET_OK) status = outputs_stage(b, STAGE_RENAME, out, s, o);
    if (status != QNET_OK) {
        outputs_stage(b, STAGE_REMOVE, out, s, o);
        return status;
    }
    for (int k = 0; k < OUTPUTS; k++) {
        if (o->image[k].size > 0) continue;
        output_hash(b, out, s, k, found);
        if (!found[0]) continue;
        if (output_path(b, out, s, k, ".nii.gz", path) == QNET_OK) remove(path);
        if (output_path(b, out, s, k, ".json", path) == QNET_OK) remove(path);
    }
    return QNET_OK;
}

static const char program_name[] = "qnet.h maps";

/* Refuses a folder of another program: one that has files, hidden ones aside, but no description of this. */
static inline qnet_status outputs_check(bids *b, const char *out)
{
    char path[BIDS_PATH];
    const char *name = NULL;
    qnet_buffer text, names;
    qnet_status status = QNET_OK;
    BIDS_TRY(bids_path(b, path, out, "/dataset_description.json", "", ""));
    BIDS_TRY(bids_text(b, path, &text));
    if (text.size > 0 && !strstr((const char *)text.bytes, program_name))
        status = bids_fail(b, QNET_ERROR_DATA, "%s: is of another program, expected a folder of its own "
                           "for the maps (--out)", path);
    else if (text.size == 0 && (status = bids_list(b, out, &names)) == QNET_OK) {
        while ((name = bids_next(&names, name)) != NULL && name[0] == '.') {}
        if (name)
            status = bids_fail(b, QNET_ERROR_DATA, "%s/%s: is there, but no dataset_description.json of "
                               "this program, expected a new or empty folder for the maps (--out)", out,
                               name);
        qnet_buffer_free(b->ctx, &names);
    }
    qnet_buffer_free(b->ctx, &text);
    return status;
}

/* dataset_description.json. */
static inline qnet_status outputs_describe(bids *b, const char *out)
{
    char path[BIDS_PATH];
    qnet_buffer text;
    qnet_status status;
    writer w;
    memset(&text, 0, sizeof text);
    BIDS_TRY(bids_path(b, path, out, "/dataset_description.json", "", ""));
    w = writer_begin(b->ctx, &text, "null", 0);
    open_object(&w, "", "{");
    put_members(&w, "Name %s; BIDSVersion %s; DatasetType %s", "QSM, R2* and T1W from echoes", "1.8.0",
                "derivative");
    open_object(&w, "GeneratedBy", "[");
    put_members(&w, " {\"Name\": %s, \"Version\": %s}", program_name, QNET_VERSION);
    close_object(&w, "]");
    open_object(&w, "SourceDatasets", "[");
    put_members(&w, " {\"URL\": %s}", b->folder);
    close_object(&w, "]");
    close_object(&w, "}");
    status = writer_end(&w);
    if (status == QNET_OK) status = qnet_make_folder(b->ctx, out);
    if (status == QNET_OK) status = qnet_file_replace(b->ctx, path, text.bytes, text.size);
    if (status != QNET_OK) bids_fail(b, status, "%s (--out)", qnet_last_error(b->ctx));
    qnet_buffer_free(b->ctx, &text);
    return status;
}
#endif
