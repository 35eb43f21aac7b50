/* echoes.h: what bench and ours measure of the way from echoes to maps: each step of the chain as
   one function of a scan. Private functions of the header are called where a step has no public one
   for several echoes. */
#ifndef ECHOES_H
#define ECHOES_H

#define ECHOES 6

typedef struct echoes_scan {
    qnet_context *ctx;
    qnet_volume *magnitude[ECHOES], *phase[ECHOES], *mask;
    qnet_echo echo[ECHOES];
    qnet_echoes in;
    qnet_volume *field, *local, *eroded; /* of echo 2, once a step has made them */
    qnet_real *transform;
} echoes_scan;

static void echoes_close(echoes_scan *s)
{
    for (int e = 0; e < ECHOES; e++) {
        qnet_volume_destroy(s->magnitude[e]);
        qnet_volume_destroy(s->phase[e]);
    }
    qnet_volume_destroy(s->mask), qnet_volume_destroy(s->field), qnet_volume_destroy(s->local);
    qnet_volume_destroy(s->eroded);
    free(s->transform);
    memset(s, 0, sizeof *s);
}

static void echoes_ready(echoes_scan *s)
{
    for (int e = 0; e < ECHOES; e++) {
        s->echo[e].magnitude = s->magnitude[e];
        s->echo[e].phase = s->phase[e];
        s->echo[e].echo_time = .005 * (e + 1);
    }
    s->in.count = ECHOES;
    s->in.echo = s->echo;
    s->in.field_strength = 3;
    s->in.phase_sign = 1;
}

/* ---- Steps: each leaves in values[] what the other side compares, and how many they are ---- */

/* Mean and standard deviation in a mask. */
static int echoes_numbers(const qnet_volume *v, const qnet_volume *mask, double *values)
{
    double n = 0, sum = 0, square = 0;
    for (size_t i = 0; i < qnet__voxel_count(v->nx, v->ny, v->nz); i++)
        if (mask->voxels[i] != 0) n++, sum += (double)v->voxels[i];
    for (size_t i = 0; i < qnet__voxel_count(v->nx, v->ny, v->nz); i++) {
        const double d = mask->voxels[i] != 0 ? (double)v->voxels[i] - sum / n : 0;
        square += d * d;
    }
    values[0] = sum / n, values[1] = sqrt(square / n);
    return 2;
}

static double echoes_count(const qnet_volume *mask)
{
    double n = 0;
    for (size_t i = 0; i < qnet__voxel_count(mask->nx, mask->ny, mask->nz); i++)
        n += mask->voxels[i] != 0;
    return n;
}

/* All echoes, unwrapped and consistent; the second one's field is kept. */
static qnet_status echoes_unwrap(echoes_scan *s, double *values, int *count)
{
    qnet_maps_config config;
    qnet__chain c;
    qnet_status status;
    qnet_maps_config_init(&config);
    memset(&c, 0, sizeof c);
    c.ctx = s->ctx, c.config = &config, c.first = &s->in, c.made.mask = s->mask, c.scale = 1;
    for (int e = 0; e < ECHOES; e++) c.time[e] = s->echo[e].echo_time, c.name[e] = "";
    status = qnet__chain_unwrap(&c, ECHOES);
    if (status == QNET_OK) status = qnet__chain_align(&c, ECHOES, 0);
    for (int e = 0; e < ECHOES && status == QNET_OK && values != NULL; e++)
        *count += echoes_numbers(c.phase[e], s->mask, values + *count);
    if (status == QNET_OK && s->field == NULL) {
        s->field = c.phase[1];
        c.phase[1] = NULL;
        const double factor = s->in.phase_sign / (2 * QNET__PI * QNET_GAMMA_MHZ_PER_T *
                                                  s->in.field_strength * c.time[1]);
        for (size_t i = 0; i < qnet__voxels_of(s->field); i++)
            s->field->voxels[i] = (float)(factor * (double)s->field->voxels[i]);
    }
    qnet__drop_phases(&c, 0, ECHOES);
    return status;
}

/* The magnitude of echo 1 to its half spectrum and back. values: mean modulus; what came back. */
static qnet_status echoes_fft(echoes_scan *s, double *values, int *count)
{
    const qnet_volume *v = s->magnitude[0];
    const size_t all = qnet__voxel_count(v->nx, v->ny, v->nz);
    const size_t half = (size_t)(v->nx / 2 + 1) * (size_t)v->ny * (size_t)v->nz;
    qnet_volume back = *v;
    qnet_real *spectrum;
    double modulus = 0;
    if (s->transform == NULL) /* room that stays, as NumPy's allocator keeps it */
        s->transform = (qnet_real *)malloc((2 * half + all) * sizeof *s->transform);
    if (s->transform == NULL) return QNET_ERROR_MEMORY;
    spectrum = s->transform;
    back.voxels = spectrum + 2 * half;
    QNET__TRY(qnet_fft_real(s->ctx, v->nx, v->ny, v->nz, v->voxels, spectrum));
    for (size_t i = 0; i < half && values != NULL; i++)
        modulus += hypot((double)spectrum[2 * i], (double)spectrum[2 * i + 1]) / (double)half;
    QNET__TRY(qnet_fft_real_inverse(s->ctx, v->nx, v->ny, v->nz, spectrum, back.voxels));
    if (values == NULL) return QNET_OK;
    values[0] = modulus;
    *count = 1 + echoes_numbers(&back, s->mask, values + 1);
    return QNET_OK;
}

static qnet_status echoes_background(echoes_scan *s, double *values, int *count)
{
    qnet_maps_config config;
    qnet_maps_config_init(&config);
    qnet_volume_destroy(s->local), qnet_volume_destroy(s->eroded);
    s->local = s->eroded = NULL;
    QNET__TRY(qnet_background_remove(s->ctx, &config.susceptibility, s->field, s->mask, &s->local,
                                     &s->eroded));
    if (values == NULL) return QNET_OK;
    values[0] = echoes_count(s->eroded);
    *count = 1 + echoes_numbers(s->local, s->eroded, values + 1);
    return QNET_OK;
}

static qnet_status echoes_invert(echoes_scan *s, double *values, int *count)
{
    qnet_maps_config config;
    qnet_volume *chi = NULL;
    qnet_maps_config_init(&config);
    QNET__TRY(qnet_dipole_invert(s->ctx, &config.susceptibility, s->local, s->eroded, &chi));
    if (values != NULL) *count = echoes_numbers(chi, s->eroded, values);
    qnet_volume_destroy(chi);
    return QNET_OK;
}

static qnet_status echoes_r2star(echoes_scan *s, double *values, int *count)
{
    const qnet_volume *magnitude[ECHOES];
    double time[ECHOES];
    qnet_volume *r2star = NULL;
    for (int e = 0; e < ECHOES; e++) magnitude[e] = s->magnitude[e], time[e] = s->echo[e].echo_time;
    QNET__TRY(qnet_r2star_map(s->ctx, QNET_R2STAR_AUTO, ECHOES, magnitude, time, s->mask, &r2star));
    if (values != NULL) *count = echoes_numbers(r2star, s->mask, values);
    qnet_volume_destroy(r2star);
    return QNET_OK;
}

/* The paper's mode with the given mask. */
static qnet_status echoes_chain(echoes_scan *s, double *values, int *count)
{
    qnet_maps_config config;
    qnet_maps *maps = NULL;
    qnet_maps_config_init(&config);
    QNET__TRY(qnet_maps_from_echoes(s->ctx, &config, &s->in, NULL, s->mask, &maps));
    if (values != NULL) {
        values[0] = echoes_count(maps->qsm_mask);
        *count = 1 + echoes_numbers(maps->qsm, maps->qsm_mask, values + 1);
        *count += echoes_numbers(maps->r2star, maps->mask, values + *count);
    }
    qnet_maps_destroy(maps);
    return QNET_OK;
}

/* BET as it is compared: neither erosion nor islands. values: Dice with the mask. */
static qnet_status echoes_brain(echoes_scan *s, double *values, int *count)
{
    qnet_brain_config config;
    qnet_volume *mask = NULL;
    double both = 0;
    qnet_brain_config_init(&config);
    config.erode = 0;
    QNET__TRY(qnet_brain_mask(s->ctx, &config, s->magnitude[1], &mask));
    for (size_t i = 0; i < qnet__voxel_count(mask->nx, mask->ny, mask->nz); i++)
        both += mask->voxels[i] != 0 && s->mask->voxels[i] != 0;
    if (values != NULL) {
        values[0] = 2 * both / (echoes_count(mask) + echoes_count(s->mask));
        *count = 1;
    }
    qnet_volume_destroy(mask);
    return QNET_OK;
}

typedef qnet_status (*echoes_step)(echoes_scan *s, double *values, int *count);
static const struct { const char *name; echoes_step run; } echoes_steps[] = {
    {"maps_unwrap", echoes_unwrap}, {"maps_background", echoes_background},
    {"maps_invert", echoes_invert}, {"maps_r2star", echoes_r2star}, {"maps_chain", echoes_chain},
    {"maps_brain", echoes_brain}, {"maps_fft", echoes_fft}};
#define ECHOES_STEPS 7
#endif
