/* phantom_echoes.h: what a scanner would record of the heads of phantom.h: complex echoes of a
   spoiled gradient echo, in BIDS layout, from which build/maps makes the maps.
   SPDX-License-Identifier: MIT-0

   A voxel's signal at echo time TE:

       S = g M0 sin(a) (1 - E1) / (1 - E1 cos(a)) exp(-TE R2*) exp(i (p + 2 pi gamma B0 f TE)) + n

   E1 = exp(-TR / T1); g the receiver's gain, p its phase; f the relative field change of all that
   is magnetised (brain, skull, scalp, the air around and in cavities) less what a shim takes away;
   n complex noise. Phase grows with the field, as Siemens and Philips have it. The sequence is the
   paper's: TR 36 ms, 24 degrees, TE 5 to 30 ms, 3 T; with two flip angles, 6 degrees too.

   Include qnet.h and phantom.h first. */
#ifndef PHANTOM_ECHOES_H
#define PHANTOM_ECHOES_H

#define PHANTOM_ECHOES 6
#define PHANTOM_TR .036    /* s */
#define PHANTOM_TE .005    /* s: the first echo's, and the distance of two */
#define PHANTOM_FIELD 3.0  /* T */
#define PHANTOM_SNR 60     /* of white matter at the first echo and 24 degrees */
#define PHANTOM_NECK_MM 40 /* how far the lowest slice goes on below, for the field alone */

static const double phantom_flips[2] = {24, 6}; /* degrees */

/* A whole head on nx x ny x nz voxels: 176 x 211 x 140 mm from the red nuclei to the top. */
static inline void phantom_echoes_size(phantom_config *config, int nx, int ny, int nz)
{
    config->nx = nx;
    config->ny = ny;
    config->nz = nz;
    config->spacing[0] = config->spacing[1] = fmax(176.0 / nx, 211.0 / ny);
    config->spacing[2] = 140.0 / nz;
    config->z_mm = -40 + .5 * config->spacing[2];
}

/* 4 + 4 heads of 80 x 96 x 56 voxels, 2.2 x 2.2 x 2.5 mm. */
static inline void phantom_echoes_init(phantom_config *config)
{
    phantom_config_init(config, PHANTOM_SMALL);
    config->hh = config->hc = 4;
    config->tool = "phantom";
    config->flips = 1;
    phantom_echoes_size(config, 80, 96, 56);
}

/* One voxel as the scanner meets it. */
typedef struct phantom_spin {
    float chi;                   /* ppm, relative to air */
    float r2star, t1, m0, gain;  /* gain 0: no signal */
    float offset;                /* phase at time 0 */
} phantom_spin;

/* Air in the head: below the frontal lobes, and an ear on either side; mm in the scanner. */
static inline int phantom_is_cavity(const double world[3])
{
    const double front[3] = {world[0], world[1] - 58, world[2] + 34}, front_radius[3] = {16, 14, 12};
    const double ear[3] = {fabs(world[0]) - 62, world[1] + 25, world[2] + 36};
    const double ear_radius[3] = {10, 12, 10};
    return phantom_depth(front, front_radius) > 0 || phantom_depth(ear, ear_radius) > 0;
}

/* Tissue outside of the brain by its distance from the outline: water, skull and scalp. Their
   susceptibilities are relative to air, .36 ppm: water -9.05 - .36, bone 2.1 below it, fat .6
   above. */
static inline void phantom_around(const phantom_voxel *v, const double world[3], phantom_spin *spin)
{
    static const float layer[3][5] = { /* down to, chi, R2*, T1, M0 */
        {-2.5f, -9.4f, 2, 4, 1}, {-8, -11.5f, 200, .5f, .08f}, {-14, -8.8f, 40, .35f, .9f}};
    int k = 0;
    memset(spin, 0, sizeof *spin);
    while (k < 3 && v->depth < layer[k][0]) {
        k++;
    }
    if (k == 3 || (k > 0 && phantom_is_cavity(world))) {
        return;
    }
    spin->chi = layer[k][1];
    spin->r2star = layer[k][2];
    spin->t1 = layer[k][3];
    spin->m0 = layer[k][4];
    spin->gain = 1;
}

/* All voxels of a subject; labels[voxel]: 1 + the nucleus, 8 white matter, 9 cortex or CSF, 0
   outside. */
static inline void phantom_spins(const phantom_config *config, const phantom_subject *s,
                                 const phantom_voxel *voxels, const double *mean,
                                 phantom_spin *spins, float *labels)
{
    qnet_rng rng = qnet_rng_at(config->seed, QNET_RANDOM_USER + 5, 0, s->stream);
    double phase[5], world[3];
    size_t at = 0;
    int i, x, y, z;
    for (i = 0; i < 5; i++) {
        phase[i] = qnet_rng_range(&rng, -1.2, 1.2);
    }
    for (z = 0; z < config->nz; z++) {
        for (y = 0; y < config->ny; y++) {
            for (x = 0; x < config->nx; x++, at++) {
                const phantom_voxel *v = &voxels[at];
                phantom_spin *spin = &spins[at];
                double chi_plus = v->chi_plus, a, b, c, r2;
                phantom_world(config, x, y, z, world);
                labels[at] = 0;
                phantom_around(v, world, spin);
                if (v->inside) {
                    if (v->nucleus >= 0) {
                        chi_plus += v->share * s->chi_plus[v->nucleus] *
                                    (v->texture - mean[v->nucleus]);
                    }
                    spin->chi = (float)(chi_plus + v->chi_minus - 9.4);
                    spin->r2star = (float)phantom_r2star_of(v->r2, chi_plus, v->chi_minus);
                    spin->t1 = v->t1;
                    spin->m0 = v->m0;
                    spin->gain = 1;
                    labels[at] = v->nucleus >= 0 && v->share > .5f ? (float)(v->nucleus + 1)
                                 : v->t1 < 1 ? 8.0f : 9.0f;
                }
                a = world[0] / 80;
                b = (world[1] + 17) / 80;
                c = (world[2] - 8) / 80;
                r2 = a * a + b * b + c * c;
                spin->gain *= (float)(s->gain * (.9 + .15 * r2 + .05 *
                              phantom_noise(s->texture_seed + 7, world[0] / 70, world[1] / 70,
                                            world[2] / 70)));
                spin->offset = (float)(phase[0] + phase[1] * a + phase[2] * b + phase[3] * c +
                                       phase[4] * r2);
            }
        }
    }
}

/* Solves the symmetric m[4][4] x = b[4] in place, by elimination; b becomes x. */
static inline void phantom_solve(double m[4][4], double b[4])
{
    int i, j, k;
    for (i = 0; i < 4; i++) {
        for (j = i + 1; j < 4; j++) {
            const double f = m[i][i] > 0 ? m[j][i] / m[i][i] : 0;
            for (k = i; k < 4; k++) {
                m[j][k] -= f * m[i][k];
            }
            b[j] -= f * b[i];
        }
    }
    for (i = 3; i >= 0; i--) {
        for (k = i + 1; k < 4; k++) {
            b[i] -= m[i][k] * b[k];
        }
        b[i] = m[i][i] > 0 ? b[i] / m[i][i] : 0;
    }
}

/* The shim: takes from field[voxels] the constant and the gradients that fit it best within the
   brain, but for gradients of at most .004 ppm per cm. */
static inline void phantom_shim(const phantom_config *config, const phantom_subject *s,
                                const phantom_voxel *voxels, float *field)
{
    qnet_rng rng = qnet_rng_at(config->seed, QNET_RANDOM_USER + 6, 0, s->stream);
    double m[4][4], b[4], base[4];
    size_t at;
    int pass, i, k, x, y, z;
    memset(m, 0, sizeof m);
    memset(b, 0, sizeof b);
    base[0] = 1;
    for (pass = 0; pass < 2; pass++) {
        for (z = 0, at = 0; z < config->nz; z++) {
            for (y = 0; y < config->ny; y++) {
                for (x = 0; x < config->nx; x++, at++) {
                    phantom_world(config, x, y, z, base + 1);
                    for (i = 0; i < 4 && pass == 0 && voxels[at].inside; i++) {
                        for (k = 0; k < 4; k++) {
                            m[i][k] += base[i] * base[k];
                        }
                        b[i] += base[i] * (double)field[at];
                    }
                    if (pass == 1) {
                        field[at] -= (float)(b[0] + b[1] * base[1] + b[2] * base[2] +
                                             b[3] * base[3]);
                    }
                }
            }
        }
        if (pass == 0) {
            phantom_solve(m, b);
            for (i = 1; i < 4; i++) {
                b[i] += qnet_rng_range(&rng, -.0004, .0004);
            }
        }
    }
}

/* field[voxels]: the relative field change in ppm. The volume is longer by the neck. */
static inline qnet_status phantom_field(qnet_context *ctx, const phantom_config *config,
                                        const phantom_spin *spins, float *field)
{
    const size_t plane = (size_t)config->nx * (size_t)config->ny;
    const int neck = (int)ceil(PHANTOM_NECK_MM / config->spacing[2]);
    phantom_config longer = *config;
    qnet_volume *chi = NULL, *all = NULL;
    qnet_status status;
    size_t i;
    int z;
    longer.nz += neck;
    longer.z_mm -= neck * config->spacing[2];
    status = phantom_volume(ctx, &longer, &chi);
    for (z = 0; z < longer.nz && status == QNET_OK; z++) {
        const size_t from = (size_t)(z < neck ? 0 : z - neck) * plane;
        for (i = 0; i < plane; i++) {
            chi->voxels[(size_t)z * plane + i] = spins[from + i].chi;
        }
    }
    if (status == QNET_OK) {
        status = qnet_dipole_field(ctx, chi, &all);
    }
    if (status == QNET_OK) {
        memcpy(field, all->voxels + (size_t)neck * plane,
               (size_t)config->nz * plane * sizeof (float));
    }
    qnet_volume_destroy(chi);
    qnet_volume_destroy(all);
    return status;
}

/* One echo: magnitude and phase (-pi to pi). */
static inline void phantom_echo(const phantom_config *config, const phantom_subject *s,
                                const phantom_spin *spins, const float *field, int flip, int echo,
                                qnet_volume *magnitude, qnet_volume *phase)
{
    const double pi = 3.14159265358979, angle = phantom_flips[flip] * pi / 180;
    const double te = PHANTOM_TE * (echo + 1), white = phantom_t1w(.70, .85, 20);
    const double noise = config->noise * s->gain / PHANTOM_SNR;
    const double turn = 2 * pi * 42.577478518 * PHANTOM_FIELD * te; /* radians per ppm */
    const size_t plane = (size_t)config->nx * (size_t)config->ny;
    size_t i;
    int z;
    for (z = 0; z < config->nz; z++) {
        qnet_rng rng = qnet_rng_at(config->seed, QNET_RANDOM_USER + 7 + flip,
                                   (uint32_t)(z * PHANTOM_ECHOES + echo), s->stream);
        for (i = (size_t)z * plane; i < (size_t)(z + 1) * plane; i++) {
            const phantom_spin *v = &spins[i];
            double re = noise * qnet_rng_normal(&rng), im = noise * qnet_rng_normal(&rng);
            if (v->m0 > 0) {
                const double e1 = exp(-PHANTOM_TR / (double)v->t1);
                const double signal = (double)(v->gain * v->m0) / white * sin(angle) * (1 - e1) /
                                      (1 - e1 * cos(angle)) * exp(-te * (double)v->r2star);
                const double phi = (double)v->offset + turn * (double)field[i];
                re += signal * cos(phi);
                im += signal * sin(phi);
            }
            magnitude->voxels[i] = (float)sqrt(re * re + im * im);
            phase->voxels[i] = (float)atan2(im, re);
        }
    }
}

#ifndef QNET_NO_STDIO

/* "<folder>/<name>.json" of an echo. */
static inline qnet_status phantom_save_sidecar(qnet_context *ctx, const char *folder,
                                               const char *name, int flip, int echo, int phase)
{
    qnet_buffer text;
    qnet_status status;
    char path[1024];
    memset(&text, 0, sizeof text);
    snprintf(path, sizeof path, "%s/%s.json", folder, name);
    status = qnet_buffer_printf(ctx, &text,
                                "{\n  \"Manufacturer\": \"Phantom\",\n"
                                "  \"MagneticFieldStrength\": %g,\n  \"RepetitionTime\": %g,\n"
                                "  \"FlipAngle\": %g,\n  \"EchoTime\": %g%s\n}\n",
                                PHANTOM_FIELD, PHANTOM_TR, phantom_flips[flip],
                                PHANTOM_TE * (echo + 1), phase ? ",\n  \"Units\": \"rad\"" : "");
    if (status == QNET_OK) {
        status = qnet_file_replace(ctx, path, text.bytes, text.size);
    }
    qnet_buffer_free(ctx, &text);
    return status;
}

/* Magnitudes and phases of all echoes, int16, with their sidecars. */
static inline qnet_status phantom_save_echoes(qnet_context *ctx, const phantom_config *config,
                                              const phantom_subject *s, const phantom_spin *spins,
                                              const float *field, const char *anat)
{
    static const char *const part[2] = {"mag", "phase"};
    static const double step[2] = {.2, 3.14159265358979 / 4096};
    qnet_volume *volume[2] = {NULL, NULL};
    qnet_status status = phantom_volume(ctx, config, &volume[0]);
    int flip, echo, k;
    if (status == QNET_OK) {
        status = phantom_volume(ctx, config, &volume[1]);
    }
    for (flip = 0; flip < config->flips; flip++) {
        for (echo = 0; echo < PHANTOM_ECHOES && status == QNET_OK; echo++) {
            phantom_echo(config, s, spins, field, flip, echo, volume[0], volume[1]);
            for (k = 0; k < 2 && status == QNET_OK; k++) {
                char name[100], suffix[64];
                snprintf(suffix, sizeof suffix, "echo-%d_%spart-%s_%s", echo + 1,
                         config->flips < 2 ? "" : flip == 0 ? "flip-1_" : "flip-2_", part[k],
                         config->flips < 2 ? "MEGRE" : "VFA");
                status = phantom_save(ctx, anat, s->name, suffix, volume[k], step[k]);
                snprintf(name, sizeof name, "%s_%s", s->name, suffix);
                if (status == QNET_OK) {
                    status = phantom_save_sidecar(ctx, anat, name, flip, echo, k);
                }
            }
        }
    }
    qnet_volume_destroy(volume[0]);
    qnet_volume_destroy(volume[1]);
    return status;
}

/* The true labels of the tissues (dseg), and the masks of the brain and of the basal ganglia. */
static inline qnet_status phantom_save_labels(qnet_context *ctx, const phantom_config *config,
                                              const phantom_subject *s, const float *labels,
                                              const char *derived)
{
    static const char *const suffix[3] = {"dseg", "desc-brain_mask", "desc-basalganglia_mask"};
    static const float first[3] = {0, 1, 1}, last[3] = {9, 9, PHANTOM_PALLIDUM + 1};
    const size_t count = (size_t)config->nx * (size_t)config->ny * (size_t)config->nz;
    qnet_volume *volume = NULL;
    qnet_status status = phantom_volume(ctx, config, &volume);
    size_t i;
    int k;
    for (k = 0; k < 3 && status == QNET_OK; k++) {
        for (i = 0; i < count; i++) {
            volume->voxels[i] = k == 0 ? labels[i]
                                       : labels[i] >= first[k] && labels[i] <= last[k];
        }
        status = phantom_save(ctx, derived, s->name, suffix[k], volume, 1);
    }
    qnet_volume_destroy(volume);
    return status;
}

/* Simulates and writes one subject. */
static inline qnet_status phantom_write_echoes(qnet_context *ctx, const phantom_config *config,
                                               const phantom_subject *s, const char *folder)
{
    const qnet_allocator *memory = &qnet_context_hooks(ctx)->allocator;
    const size_t count = (size_t)config->nx * (size_t)config->ny * (size_t)config->nz;
    const size_t bytes = count * (sizeof (phantom_voxel) + sizeof (phantom_spin) +
                                  2 * sizeof (float));
    char anat[900], derived[900];
    double mean[PHANTOM_NUCLEI];
    phantom_voxel *voxels;
    phantom_spin *spins;
    float *field, *labels;
    qnet_status status;
    snprintf(anat, sizeof anat, "%.800s/%s/anat", folder, s->name);
    snprintf(derived, sizeof derived, "%.800s/derivatives/%.40s/%s/anat", folder, config->tool,
             s->name);
    status = qnet_make_folder(ctx, anat);
    if (status == QNET_OK) {
        status = qnet_make_folder(ctx, derived);
    }
    if (status != QNET_OK) {
        return status;
    }
    voxels = (phantom_voxel *)memory->alloc(memory->user, bytes, 64);
    if (voxels == NULL) {
        return QNET_ERROR_MEMORY;
    }
    spins = (phantom_spin *)(void *)(voxels + count);
    field = (float *)(void *)(spins + count);
    labels = field + count;
    phantom_voxels(config, s, voxels, mean);
    phantom_spins(config, s, voxels, mean, spins, labels);
    status = phantom_field(ctx, config, spins, field);
    if (status == QNET_OK) {
        phantom_shim(config, s, voxels, field);
        status = phantom_save_echoes(ctx, config, s, spins, field, anat);
    }
    if (status == QNET_OK) {
        status = phantom_save_labels(ctx, config, s, labels, derived);
    }
    memory->free(memory->user, voxels, bytes);
    return status;
}

/* derivatives/TOOL/dseg.tsv: the names of the labels. */
static inline qnet_status phantom_write_names(qnet_context *ctx, const phantom_config *config,
                                              const char *folder)
{
    qnet_buffer text;
    qnet_status status;
    char path[1024];
    int k;
    memset(&text, 0, sizeof text);
    status = qnet_buffer_printf(ctx, &text, "index\tname\n");
    for (k = 0; k < PHANTOM_WHITE && status == QNET_OK; k++) {
        status = qnet_buffer_printf(ctx, &text, "%d\t%s\n", k + 1, phantom_tissues[k].name);
    }
    if (status == QNET_OK) {
        status = qnet_buffer_printf(ctx, &text, "8\twhite_matter\n9\tcortex_and_csf\n");
    }
    if (status == QNET_OK) {
        snprintf(path, sizeof path, "%.900s/derivatives/%.40s/dseg.tsv", folder, config->tool);
        status = qnet_file_replace(ctx, path, text.bytes, text.size);
    }
    qnet_buffer_free(ctx, &text);
    return status;
}

/* phantom_write, of echoes; derivatives/TOOL gets the true labels. */
static inline qnet_status phantom_echoes_write(qnet_context *ctx, const phantom_config *config,
                                               const char *folder)
{
    const qnet_status status = phantom_write_by(ctx, phantom_write_echoes, config, folder);
    return status == QNET_OK ? phantom_write_names(ctx, config, folder) : status;
}

#endif /* QNET_NO_STDIO */
#endif /* PHANTOM_ECHOES_H */
