/* echoes.h: the maps of a subject who has a scanner's echoes and no maps, made as those of the study were. */
#ifndef PREDICT_ECHOES_H
#define PREDICT_ECHOES_H
#include "examples/maps/make.h"
#include "examples/maps/settings.h"

typedef struct echo_options {
    const char *mode, *brain_mask; /* NULL: the study's; by brain extraction */
    choice echoes;
    int sign;                      /* of the phase: 1, -1, 0: by the manufacturer */
} echo_options;

/* Maps that were made here. */
typedef struct made_maps {
    char path[3][BIDS_PATH]; /* QSM, R2*, T1W */
    char how[200];           /* "of 6 echoes ..."; "": none were made */
    char care[400];          /* how they differ from the study's, as far as that is known; "" */
    const char *mode;
    int as_study;            /* 1: with the settings of the study's maps, as far as they are not of a session */
} made_maps;

/* Warns of what the page says, too. */
static void made_warn(bids *b, made_maps *made, const char *text)
{
    const size_t n = strlen(made->care);
    bids_warn(b, "%s", text);
    snprintf(made->care + n, sizeof made->care - n, "%s%s", n ? "; " : "", text);
}

/* How to make them: as `study` says, the settings of its maps; NULL: it does not. */
static qnet_maps_config echo_config(bids *b, const echo_options *o, const char *study, made_maps *made)
{
    qnet_maps_config config;
    char mask[8] = "auto", text[160];
    qnet_maps_config_init(&config);
    if (study) settings_read(study, &config);
    made->as_study = study && (!o->mode || (*o->mode == 'c') == (config.mode == QNET_MAPS_CONSENSUS));
    if (o->mode && !made->as_study) { /* with the numbers of that mode */
        if (*o->mode == 'c') qnet_maps_config_consensus(&config);
        else qnet_maps_config_init(&config);
    }
    made->mode = config.mode == QNET_MAPS_PAPER ? "paper" : "consensus";
    if (study) json_member(study, "mask", mask, sizeof mask);
    if (study && !made->as_study) {
        snprintf(text, sizeof text, "the study's maps were made in the mode %s, these in the mode %s (--mode): the "
                 "networks know no such maps", *made->mode == 'p' ? "consensus" : "paper", made->mode);
        made_warn(b, made, text);
    }
    if (strcmp(mask, "auto") != 0 && !o->brain_mask)
        made_warn(b, made, "the study's maps were made within brain masks that were given, these within that of brain "
                           "extraction (--brain-mask)");
    if (!study && !o->mode) {
        snprintf(text, sizeof text, "the model does not say how the study's maps were made: these are made in the "
                 "mode %s (--mode)", made->mode);
        made_warn(b, made, text);
    }
    return config;
}

/* The subject's session that has echoes; QNET_ERROR_NOT_FOUND and s->key "": none has. */
static qnet_status echo_session(bids *b, const echo_options *o, const char *subject, session *s)
{
    qnet_buffer list;
    const session_name *names;
    qnet_status status;
    size_t count;
    memset(&list, 0, sizeof list);
    status = list_sessions(b, subject, b->session, &list);
    names = (const session_name *)(const void *)list.bytes;
    count = list.size / sizeof *names;
    if (status == QNET_OK && count == 0) status = bids_fail(b, QNET_ERROR_NOT_FOUND, "%s: no such session", subject);
    if (status == QNET_OK && count > 1)
        status = bids_fail(b, QNET_ERROR_DATA, "%s: has %lu sessions, %s and %s among them; choose with session=%s",
                           subject, (unsigned long)count, names[0].label, names[1].label, names[0].label);
    else if (status == QNET_OK) {
        session_start(s, &names[0]);
        status = find_echoes(b, &o->echoes, s);
        if (status == QNET_ERROR_NOT_FOUND && !s->key[0]) { /* a folder of one subject's files */
            s->place[0] = '\0';
            status = find_echoes(b, &o->echoes, s);
        }
    }
    qnet_buffer_free(b->ctx, &list);
    return status;
}

/* The maps of the session into files in out/maps. */
static qnet_status echo_maps(bids *b, const echo_options *o, const char *study, const char *out, const session *s,
                             made_maps *made)
{
    static const int kinds[3] = {CHIMAP, R2STARMAP, T1W};
    const qnet_maps_config config = echo_config(b, o, study, made);
    char text[1400] = "", folder[BIDS_PATH];
    images loaded;
    outputs files;
    quality q;
    qnet_maps *maps = NULL;
    qnet_status status;
    memset(&loaded, 0, sizeof loaded);
    memset(&files, 0, sizeof files);
    memset(&q, 0, sizeof q);
    q.s = s;
    q.config = &config;
    q.mask = o->brain_mask ? o->brain_mask : "";
    q.sign_given = phase_sign(s, o->sign, &q.sign, text);
    if (text[0]) bids_warn(b, "%s", text);
    BIDS_TRY(bids_path(b, folder, out, "/maps", "", ""));
    BIDS_TRY(outputs_check_session(b, folder, s));
    BIDS_TRY(hash_inputs(b, s, &config, q.mask, q.sign, &q.hash));
    status = maps_of_session(b, s, &config, q.mask, q.sign, &loaded, &maps);
    q.maps = maps;
    if (status == QNET_OK) status = outputs_make(b, &q, &files);
    if (status == QNET_OK) status = outputs_write(b, folder, s, &files);
    for (int k = 0; k < 3 && status == QNET_OK; k++)
        status = output_path(b, folder, s, kinds[k], ".nii.gz", made->path[k]);
    snprintf(made->how, sizeof made->how, "of %d echoes%s, mode %s%s", s->first->count,
             s->second ? " at two flip angles" : "", made->mode, made->as_study ? ", as the study's" : "");
    outputs_free(b, &files);
    qnet_maps_destroy(maps);
    images_free(&loaded);
    return status;
}

/* Makes the maps of the subject whose search found none, as missing says, and names them in *files. */
static inline qnet_status maps_from_echoes(bids *b, const echo_options *o, const char *study, const char *out,
                                           const char *missing, qnet_scan_files *files, made_maps *made)
{
    session *s = (session *)calloc(1, sizeof *s);
    qnet_status status;
    if (s == NULL) return bids_fail(b, QNET_ERROR_MEMORY, "no memory for a session");
    status = echo_session(b, o, files->subject, s);
    if (status == QNET_ERROR_NOT_FOUND && !s->key[0])
        bids_fail(b, status, "%.1200s; and there are no echoes to make it of, such as "
                  "%s_echo-1_part-mag_MEGRE.nii.gz", missing, files->subject);
    if (status == QNET_OK) status = echo_maps(b, o, study, out, s, made);
    if (status == QNET_OK) {
        files->qsm = made->path[0];
        files->r2star = made->path[1];
        files->t1w = made->path[2];
    }
    free(s);
    return status;
}
#endif
