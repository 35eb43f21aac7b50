/* make.h: the maps of one session, from its files (find.h) to volumes, as maps and predict make them. */
#ifndef MAKE_H
#define MAKE_H
#include "outputs.h"

/* The names of a session into *s. */
static void session_start(session *s, const session_name *name)
{
    memcpy(s->subject, name->subject, sizeof s->subject);
    memcpy(s->label, name->label, sizeof s->label);
    snprintf(s->name, sizeof s->name, "%s%s%s", s->subject, s->label[0] ? "_" : "", s->label);
    snprintf(s->place, sizeof s->place, "/%s%s%s/anat", s->subject, s->label[0] ? "/" : "", s->label);
}

/* The images of a session; all NULL at first. */
typedef struct images { qnet_volume *magnitude[2][ECHOES_MOST], *phase[2][ECHOES_MOST], *brain; } images;

static void images_free(images *v)
{
    for (int f = 0; f < 2; f++)
        for (int e = 0; e < ECHOES_MOST; e++) {
            qnet_volume_destroy(v->magnitude[f][e]);
            qnet_volume_destroy(v->phase[f][e]);
        }
    qnet_volume_destroy(v->brain);
    memset(v, 0, sizeof *v);
}

/* The sign of the phase into *sign, and how it is known (see quality.sign_given). given: 1, -1, or 0: by the
   manufacturer; where that is not known, a warning into text. */
static int phase_sign(const session *s, int given, int *sign, char text[1400])
{
    const echo_file *f = &s->first->echo[0];
    *sign = given ? given : manufacturer_sign(f->facts.manufacturer);
    if (given || *sign) return given != 0;
    *sign = 1;
    snprintf(text, 1400, "%.1000s: its sidecars name %s%s: phase is taken to grow with the field, as "
             "with Siemens and Philips; where it falls, as with GE, say --phase-sign -1", f->magnitude,
             f->facts.manufacturer[0] ? "a Manufacturer that is not known here, " : "no Manufacturer",
             f->facts.manufacturer);
    return -1;
}

/* The hash of all that makes the maps: bytes of the files, what sidecars say, settings. mask: "" or a file. */
static qnet_status hash_inputs(bids *b, const session *s, const qnet_maps_config *config, const char *mask,
                               int sign, uint64_t *hash)
{
    const acquisition *flips[2] = {s->first, s->second};
    const char *paths[3] = {NULL, NULL, NULL};
    qnet_buffer text;
    qnet_status status = QNET_OK;
    writer w;
    *hash = QNET_HASH_START;
    memset(&text, 0, sizeof text);
    w = writer_begin(b->ctx, &text, "null", 0);
    open_object(&w, "", "{");
    put_settings(&w, config, mask, sign);
    for (int f = 0; f < 2; f++)
        for (int e = 0; flips[f] && e < flips[f]->count; e++) {
            const sidecar *x = &flips[f]->echo[e].facts;
            put_members(&w, "te %g; tr %g; angle %g; field %g", x->echo_time, x->repetition_time,
                        x->flip_angle, x->field_strength);
        }
    close_object(&w, "}");
    status = writer_end(&w);
    if (status == QNET_OK) *hash = qnet_hash(*hash, text.bytes, text.size);
    qnet_buffer_free(b->ctx, &text);
    for (int f = 0; f < 2; f++)
        for (int e = 0; flips[f] && e < flips[f]->count; e++) {
            paths[0] = flips[f]->echo[e].magnitude;
            paths[1] = flips[f]->echo[e].phase;
            paths[2] = f == 0 && e == 0 && mask[0] ? mask : NULL;
            for (int k = 0; k < 3 && status == QNET_OK; k++) {
                if (!paths[k]) continue;
                status = qnet_file_read(b->ctx, paths[k], 0, &text);
                if (status == QNET_OK) *hash = qnet_hash(*hash, text.bytes, text.size);
                qnet_buffer_free(b->ctx, &text);
            }
        }
    return status;
}

/* The images of an acquisition, and what is known of them, for the library; echo[ECHOES_MOST]. */
static qnet_status load_flip(bids *b, images *v, int f, const acquisition *a, int sign, qnet_echo *echo,
                             qnet_echoes *out)
{
    const sidecar *facts = &a->echo[0].facts;
    for (int e = 0; e < a->count; e++) {
        const echo_file *file = &a->echo[e];
        BIDS_TRY(qnet_nifti_load(b->ctx, file->magnitude, &v->magnitude[f][e]));
        BIDS_TRY(qnet_nifti_load(b->ctx, file->phase, &v->phase[f][e]));
        echo[e].magnitude = v->magnitude[f][e];
        echo[e].phase = v->phase[f][e];
        echo[e].echo_time = file->facts.echo_time;
        echo[e].name = file->name;
    }
    out->count = a->count;
    out->echo = echo;
    out->field_strength = facts->field_strength;
    out->repetition_time = isnan(facts->repetition_time) ? 0 : facts->repetition_time;
    out->flip_angle = isnan(facts->flip_angle) ? 0 : facts->flip_angle;
    out->phase_sign = sign;
    return QNET_OK;
}

/* The maps of a session, within the brain mask of a file or (mask "") that of brain extraction. */
static qnet_status maps_of_session(bids *b, const session *s, const qnet_maps_config *config, const char *mask,
                                   int sign, images *v, qnet_maps **maps)
{
    qnet_echo echo[2][ECHOES_MOST];
    qnet_echoes flips[2];
    qnet_status status;
    memset(echo, 0, sizeof echo);
    memset(flips, 0, sizeof flips);
    BIDS_TRY(load_flip(b, v, 0, s->first, sign, echo[0], &flips[0]));
    if (s->second) BIDS_TRY(load_flip(b, v, 1, s->second, sign, echo[1], &flips[1]));
    if (mask[0]) BIDS_TRY(qnet_nifti_load(b->ctx, mask, &v->brain));
    status = qnet_maps_from_echoes(b->ctx, config, &flips[0], s->second ? &flips[1] : NULL, v->brain, maps);
    if (status != QNET_OK && strncmp(qnet_last_error(b->ctx), "mask: ", 6) == 0)
        bids_fail(b, status, "%s: %s", mask, qnet_last_error(b->ctx) + 6); /* the library does not know its name */
    return status;
}
#endif
