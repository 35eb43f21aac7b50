/* settings.h: how maps were made, as the object "Settings" in their sidecars (quality.h: put_settings) says. */
#ifndef SETTINGS_H
#define SETTINGS_H
#include "examples/crossval/bids.h"

/* The object Settings of a text of JSON into object[4000]; "": it has none. */
static inline void settings_of(const qnet_buffer *text, char *object)
{
    const char *value = NULL;
    object[0] = '\0';
    if (text->size > 0 && json_find((const char *)text->bytes, "Settings", &value) && value && *value == '{') {
        const int n = (int)(json_value(value, 1, NULL, 0) - value);
        if (n < 4000) snprintf(object, 4000, "%.*s", n, value); /* whole or not at all */
    }
}

/* The first member of one object that is not the same in another into text: its name and both values. Signs
   of the phase and masks are of a session; only whether a mask is given is compared. 0: there is none. */
static inline int other_setting(const char *ours, const char *theirs, char text[400])
{
    const char *p = json_blank(ours + 1);
    while (*p == '"') {
        char key[64];
        const char *value = json_blank(json_blank(json_string(p, key, sizeof key)) + 1), *other;
        const size_t n = (size_t)(json_value(value, 1, NULL, 0) - value);
        size_t m = 0;
        json_find(theirs, key, &other);
        if (other) m = (size_t)(json_value(other, 1, NULL, 0) - other);
        if (strcmp(key, "mask") == 0 ? other && (strncmp(value, "\"auto\"", 6) == 0) !=
                                                (strncmp(other, "\"auto\"", 6) == 0)
                                     : strcmp(key, "phase_sign") && (n != m || strncmp(value, other, n))) {
            snprintf(text, 400, "%s %.*s, here %.*s", key, m < 99 ? (int)m : 99, other ? other : "",
                     n < 99 ? (int)n : 99, value);
            return 1;
        }
        p = json_blank(value + n);
        if (*p == ',') p = json_blank(p + 1);
    }
    return 0;
}

/* The object into a configuration, whose fields stay where it says nothing that fits. */
static inline void settings_read(const char *object, qnet_maps_config *c)
{
    qnet_susceptibility_config *x = &c->susceptibility;
    const struct { const char *name; int *to; } whole_numbers[] = {
        {"first_echo", &c->first_echo}, {"last_echo", &c->last_echo}, {"brain_erode", &c->brain.erode},
        {"brain_island", &c->brain.island}, {"brain_echo", &c->brain_echo}, {"iterations", &x->iterations},
        {"mean_zero", &x->mean_zero}};
    const struct { const char *name; double *to; } numbers[] = {
        {"brain_threshold", &c->brain.threshold}, {"sharp_threshold", &x->sharp_threshold},
        {"sharp_radius", &x->sharp_radius}, {"tkd_threshold", &x->tkd_threshold},
        {"iteration_threshold", &x->iteration_threshold}, {"roll_off", &x->roll_off}};
    char word[32];
    double value;
    for (size_t i = 0; i < sizeof whole_numbers / sizeof *whole_numbers; i++)
        if (json_number(object, whole_numbers[i].name, &value) == 1 && fabs(value) < 1e9)
            *whole_numbers[i].to = (int)value;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (json_number(object, numbers[i].name, &value) == 1) *numbers[i].to = value;
    if (json_member(object, "mode", word, sizeof word) && word[0])
        c->mode = strcmp(word, "consensus") ? QNET_MAPS_PAPER : QNET_MAPS_CONSENSUS;
    if (json_member(object, "background", word, sizeof word) && word[0])
        x->background = strcmp(word, "V-SHARP") ? QNET_SHARP : QNET_VSHARP;
    if (json_member(object, "sharp_unit", word, sizeof word) && word[0])
        x->sharp_unit = strcmp(word, "mm") ? QNET_RADIUS_VOXELS : QNET_RADIUS_MM;
    if (json_member(object, "r2star", word, sizeof word) && word[0])
        c->r2star = strcmp(word, "ARLO") == 0 ? QNET_R2STAR_ARLO
                    : strcmp(word, "log-linear") == 0 ? QNET_R2STAR_LOGLINEAR : QNET_R2STAR_AUTO;
}
#endif
