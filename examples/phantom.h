/* phantom.h: a cohort of simulated heads with and without hemochromatosis, for demos and tests of
   qnet.h. SPDX-License-Identifier: MIT-0

   The study behind the paper cannot share its data, so this makes a stand-in: parametric anatomy,
   published tissue values and ages, and a disease effect whose strength is known. It is physically
   plausible and seeded; it is no evidence about real patients.

   Include qnet.h first. All functions are static inline; the same configuration gives the same
   voxels. Coordinates are mm in RAS+, with the origin near the anterior commissure.

   What a subject of the HH group has more than one of the HC group, all times config.effect:
     - iron in the deep grey nuclei (phantom_tissues[].hemochromatosis), more in men, more in some;
     - a steeper fall of iron from the back to the front of each nucleus, and stronger patches.
       Both are made free of mean in each nucleus, so that region means do not see them.

   Sources: susceptibilities, T2: tables of the QSM reconstruction challenge 2.0 and of
   chi-separation phantoms. Iron and age: Hallgren & Sourander, J. Neurochem. 3:41, 1958.
   T1 at 3 T: approximate, literature. Cohort: 52 HH, 47 HC, 67 men, 32 women, 20-85 years,
   TR 36 ms, 2 mm slices (paper, "Dataset"). */
#ifndef PHANTOM_H
#define PHANTOM_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum phantom_scale { PHANTOM_SMALL, PHANTOM_PAPER } phantom_scale;

typedef struct phantom_config {
    int hh, hc;        /* subjects of each group */
    int nx, ny, nz;    /* voxels */
    double spacing[3]; /* mm */
    double z_mm;       /* centre of the lowest slice */
    double effect;     /* of the disease; 1: region means alone tell 70-75 % of the subjects */
    double noise;      /* 1: QSM .008 ppm, R2* .8 1/s, T1W 1.5 % of white matter */
    uint64_t seed;
    const char *tool;  /* the folder under derivatives: "qsm" */
    int flips;         /* of phantom_echoes.h: flip angles, 1 or 2 */
} phantom_config;

typedef enum phantom_tissue {
    PHANTOM_CAUDATE, PHANTOM_PUTAMEN, PHANTOM_PALLIDUM, PHANTOM_THALAMUS, PHANTOM_RED_NUCLEUS,
    PHANTOM_NIGRA, PHANTOM_DENTATE, PHANTOM_NUCLEI,
    PHANTOM_WHITE = PHANTOM_NUCLEI, PHANTOM_CORTEX, PHANTOM_CSF, PHANTOM_VEIN, PHANTOM_TISSUES
} phantom_tissue;

typedef struct phantom_properties {
    const char *name;
    double chi_plus, chi_minus; /* ppm: of iron and venous blood; of myelin and calcium */
    double t2_ms, t1_s, m0;     /* m0: water content relative to CSF */
    double hemochromatosis;     /* share of chi_plus that a man with HH has on top, at effect 1 */
} phantom_properties;

static const phantom_properties phantom_tissues[PHANTOM_TISSUES] = {
    { "caudate",          .0527, -.0087,   88.4, 1.30, .82, .22 },
    { "putamen",          .0471, -.0091,   77.6, 1.17, .81, .28 },
    { "globus_pallidus",  .1437, -.0132,   63.8, 1.00, .76, .055 },
    { "thalamus",         .0509, -.0309,   87.1, 1.10, .79, .175 },
    { "red_nucleus",      .1109, -.0109,   67.8, 1.05, .78, .085 },
    { "substantia_nigra", .1224, -.0114,   72.7, 1.05, .78, .15 },
    { "dentate",          .1684, -.0164,  110.3, 1.05, .78, .15 },
    { "white_matter",     .0059, -.0359,   70.0,  .85, .70,  0 },
    { "cortex",           .0392, -.0192,  130.5, 1.33, .82,  0 },
    { "csf",              .0275, -.0085, 1584.0, 4.00, 1.0,  0 },
    { "vein",             .2800, -.0100,   30.0, 1.60, .90,  0 } /* 60-65 % oxygenated blood */
};

/* All that makes one head what it is; drawn once, rendered as often as wanted. */
typedef struct phantom_subject {
    char name[16];        /* "sub-01" */
    qnet_label label;
    double age;           /* whole years */
    qnet_sex sex;
    double scale[3], shift_mm[3], turn; /* affine: turn about z, in radians */
    double nuclei, ventricles;          /* size, relative to age 20 and to the mean */
    double chi_plus[PHANTOM_NUCLEI];    /* mean of each nucleus, ppm */
    double gradient, patches;           /* texture: shares of chi_plus */
    double gain;                        /* of the receiver, T1W */
    uint32_t texture_seed;
    uint64_t stream;      /* index of the subject */
} phantom_subject;

/* True mean susceptibility (ppm) and R2* (1/s) of a nucleus of a subject. */
static inline double phantom_chi(const phantom_subject *s, int nucleus)
{
    return s->chi_plus[nucleus] + phantom_tissues[nucleus].chi_minus;
}

static inline double phantom_r2star_of(double r2, double chi_plus, double chi_minus)
{
    return r2 + 137 * (chi_plus + fabs(chi_minus)); /* relaxometric constant at 3 T, 1/(s ppm) */
}

static inline double phantom_r2star(const phantom_subject *s, int nucleus)
{
    return phantom_r2star_of(1000 / phantom_tissues[nucleus].t2_ms, s->chi_plus[nucleus],
                             phantom_tissues[nucleus].chi_minus);
}

/* small: 24 + 24 heads of 96x112x14 voxels, 1.72x1.72x2 mm. paper: 52 + 47 of 256x256x32,
   .86x.86x2 mm, down to the dentate. Both hold the basal ganglia in about 12 slices. */
static inline void phantom_config_init(phantom_config *config, phantom_scale scale)
{
    int paper = scale == PHANTOM_PAPER;
    memset(config, 0, sizeof *config);
    config->hh = paper ? 52 : 24;
    config->hc = paper ? 47 : 24;
    config->nx = paper ? 256 : 96;
    config->ny = paper ? 256 : 112;
    config->nz = paper ? 32 : 14;
    config->spacing[0] = config->spacing[1] = paper ? .86 : 1.72;
    config->spacing[2] = 2;
    config->z_mm = paper ? -42 : -11;
    config->effect = config->noise = 1;
    config->tool = "qsm";
    config->seed = 8; /* a typical draw: region means score near their mean over many seeds */
}

/* Slices that hold the anatomy for other grids: z_mm such that the slab's middle is that of the
   basal ganglia, and spacing such that the head fits into nx, ny. */
static inline void phantom_config_size(phantom_config *config, int nx, int ny, int nz)
{
    double fit = fmax(165.0 / nx, 193.0 / ny);
    config->nx = nx;
    config->ny = ny;
    config->nz = nz;
    config->spacing[0] = config->spacing[1] = fit;
    config->spacing[2] = nz < 14 ? 28.0 / nz : 2;
    config->z_mm = nz <= 17 ? 2 - .5 * config->spacing[2] * (nz - 1)
                            : 20 - config->spacing[2] * (nz - 1);
}

/* ---- Drawing subjects ----------------------------------------------------------------------- */

/* Iron at an age relative to age 45. The three curves of the striatum and pallidum are Hallgren &
   Sourander's (mg per 100 g); the thalamus rises to 37 years and falls slowly; the other nuclei,
   for which there is no curve at hand, follow the pallidum. */
static inline double phantom_iron(int nucleus, double age)
{
    switch (nucleus) {
    case PHANTOM_CAUDATE:
        return (9.66 * (1 - exp(-.05 * age)) + .33) / (9.66 * (1 - exp(-.05 * 45)) + .33);
    case PHANTOM_PUTAMEN:
        return (14.62 * (1 - exp(-.04 * age)) + .46) / (14.62 * (1 - exp(-.04 * 45)) + .46);
    case PHANTOM_THALAMUS:
        return (age < 37 ? 1 - .012 * (37 - age) : 1 - .003 * (age - 37)) / (1 - .003 * 8);
    default:
        return (21.41 * (1 - exp(-.09 * age)) + .37) / (21.41 * (1 - exp(-.09 * 45)) + .37);
    }
}

static inline void phantom_draw_subject(const phantom_config *config, uint64_t index,
                                        phantom_subject *s)
{
    qnet_rng rng = qnet_rng_at(config->seed, QNET_RANDOM_USER, 0, index);
    double years = s->age - 20, spread = .12 + .08 * years / 65, shared, penetrance, dose;
    int i;
    s->stream = index;
    for (i = 0; i < 3; i++) {
        s->scale[i] = (s->sex == QNET_MALE ? 1.01 : .96) + .015 * qnet_rng_normal(&rng);
        s->shift_mm[i] = qnet_rng_range(&rng, -1, 1) * (i < 2 ? 2 : .8);
    }
    s->turn = .04 * qnet_rng_normal(&rng);
    s->nuclei = (1 - .0015 * years) * exp(.03 * qnet_rng_normal(&rng));
    s->ventricles = (.75 + .010 * years) * exp(.18 * qnet_rng_normal(&rng));
    /* Iron: a log-normal spread, two thirds of whose variance the nuclei of a subject share. */
    shared = qnet_rng_normal(&rng);
    penetrance = exp(.30 * qnet_rng_normal(&rng));
    dose = s->label == QNET_HH ? config->effect : 0;
    for (i = 0; i < PHANTOM_NUCLEI; i++) {
        double own = qnet_rng_normal(&rng);
        double added = dose * penetrance * (s->sex == QNET_MALE ? 1 : .7) *
                       phantom_tissues[i].hemochromatosis;
        s->chi_plus[i] = phantom_tissues[i].chi_plus * phantom_iron(i, s->age) *
                         exp(spread * (.8 * shared + .6 * own)) * (1 + added);
    }
    s->gradient = .12 + .10 * qnet_rng_normal(&rng) + .14 * dose;
    s->patches = fmax(.10 + .03 * qnet_rng_normal(&rng) + .04 * dose, .02);
    s->gain = 1000 * exp(.1 * qnet_rng_normal(&rng));
    s->texture_seed = qnet_rng_u32(&rng);
}

/* Draws the subjects of a cohort: subjects[hh + hc]. Ages spread evenly over 20-85 years in both
   groups; two men to each woman (67 : 32) in the cohort, whichever group; the order is mixed. */
static inline void phantom_draw(const phantom_config *config, phantom_subject *subjects)
{
    qnet_rng rng = qnet_rng_at(config->seed, QNET_RANDOM_USER + 1, 0, 0);
    int total = config->hh + config->hc, i;
    for (i = 0; i < total; i++) {
        int hh = i < config->hh, n = hh ? config->hh : config->hc, rank = hh ? i : i - config->hh;
        double age = 20 + 65 * (rank + .5) / n + 4 * qnet_rng_normal(&rng);
        age = age < 20 ? 40 - age : age > 85 ? 170 - age : age; /* reflected at both ends */
        memset(&subjects[i], 0, sizeof subjects[i]);
        subjects[i].label = hh ? QNET_HH : QNET_HC;
        subjects[i].age = floor(fmin(fmax(age, 20), 85));
    }
    for (i = total - 1; i > 0; i--) {
        int j = (int)qnet_rng_below(&rng, (uint32_t)i + 1);
        phantom_subject swap = subjects[i];
        subjects[i] = subjects[j];
        subjects[j] = swap;
    }
    /* The order is by chance, so every third of it is so, too. */
    for (i = 0; i < total; i++) {
        int number = (i + 1) % 10000;
        subjects[i].sex = i * 32 % 99 < 32 ? QNET_FEMALE : QNET_MALE;
        phantom_draw_subject(config, (uint64_t)i, &subjects[i]);
        snprintf(subjects[i].name, sizeof subjects[i].name, total > 99 ? "sub-%03d" : "sub-%02d",
                 number);
    }
}

/* ---- Anatomy -------------------------------------------------------------------------------- */

/* Random number in -1..1 of a lattice point. */
static inline double phantom_lattice(uint32_t seed, int x, int y, int z)
{
    uint32_t h = seed ^ (uint32_t)x * 0x8da6b343u ^ (uint32_t)y * 0xd8163841u ^
                 (uint32_t)z * 0xcb1ab31fu;
    h = (h ^ h >> 16) * 0x7feb352du; /* an integer mixer: each bit depends on all */
    h = (h ^ h >> 15) * 0x846ca68bu;
    return (double)(h ^ h >> 16) / 2147483648.0 - 1;
}

/* Smooth noise of mean 0 and variance about 1 over a lattice of unit spacing. */
static inline double phantom_noise(uint32_t seed, double x, double y, double z)
{
    double fx = floor(x), fy = floor(y), fz = floor(z), u = x - fx, v = y - fy, w = z - fz;
    int ix = (int)fx, iy = (int)fy, iz = (int)fz, k;
    double plane[2];
    u = u * u * (3 - 2 * u);
    v = v * v * (3 - 2 * v);
    w = w * w * (3 - 2 * w);
    for (k = 0; k < 2; k++) {
        double a = phantom_lattice(seed, ix, iy, iz + k);
        double b = phantom_lattice(seed, ix + 1, iy, iz + k);
        double c = phantom_lattice(seed, ix, iy + 1, iz + k);
        double d = phantom_lattice(seed, ix + 1, iy + 1, iz + k);
        plane[k] = (a + (b - a) * u) * (1 - v) + (c + (d - c) * u) * v;
    }
    return 2.7 * (plane[0] + (plane[1] - plane[0]) * w); /* 1 / sd of the interpolated lattice */
}

/* A structure on the right; `mirror` puts its twin on the left. */
typedef struct phantom_shape {
    int tissue, mirror;
    double centre[3], radius[3]; /* mm */
    double yaw;                  /* degrees about z: positive turns the front end inwards */
    double bend;                 /* 1/mm: x moves outwards by bend * y^2, along the shape's y */
    int grows;                   /* with: 0 nothing, 1 the nuclei, 2 the ventricles */
} phantom_shape;

/* Painted in this order, each over the ones before. */
static const phantom_shape phantom_shapes[] = {
    { PHANTOM_CSF,         0, {  0, -44,  -6 }, { 15,  6, 10 },   0,  0,    0 }, /* quadrigeminal */
    { PHANTOM_CSF,         0, {  0,  -4, -19 }, { 13, 10,  8 },   0,  0,    0 }, /* suprasellar */
    { PHANTOM_CSF,         1, { 17, -26, -12 }, {  3, 16, 10 }, -20, -.01,  0 }, /* ambient */
    { PHANTOM_WHITE,       0, {  0, -24, -18 }, { 16, 14, 16 },   0,  0,    0 }, /* midbrain */
    { PHANTOM_CSF,         1, {  6,  16,   8 }, { 2.6, 11,  9 }, -20,  0,   2 }, /* frontal horn */
    { PHANTOM_CSF,         1, {  9,  -6,  20 }, { 4.5, 20,  6 },  10,  0,   2 }, /* body */
    { PHANTOM_CSF,         1, { 25, -41,   8 }, { 4.5, 12,  8 },  25,  0,   2 }, /* atrium */
    { PHANTOM_CSF,         0, {  0, -13,  -1 }, { 1.8, 11, 8 },    0,  0,   2 }, /* third */
    { PHANTOM_THALAMUS,    1, { 11, -18,   6 }, { 8, 13.5, 8 },   25,  0,   1 },
    { PHANTOM_CAUDATE,     1, { 13,  13,   5 }, { 5,  10,  9 },  -12,  0,   1 }, /* head */
    { PHANTOM_CAUDATE,     1, { 17,  -5,  14 }, { 3.2, 15, 4 },   15,  0,   1 }, /* body */
    { PHANTOM_PUTAMEN,     1, { 26,   2,   3 }, { 5, 16.5, 11 },  17, -.010, 1 },
    { PHANTOM_PALLIDUM,    1, { 18.5, -3,   0 }, { 4, 9.5, 6.5 }, 30, -.012, 1 },
    { PHANTOM_RED_NUCLEUS, 1, { 5, -20,  -9 }, { 3.2, 3.6, 4 },    0,  0,   1 },
    { PHANTOM_NIGRA,       1, { 10, -15, -11 }, { 2.2, 7, 4.5 },  40,  0,   1 },
    { PHANTOM_DENTATE,     1, { 14, -57, -35 }, { 4.5, 9, 6 },    35,  0,   1 },
    { PHANTOM_VEIN,        1, { 2.4, -22, 13 }, { 1.1, 17, 1.4 },  0,  0,   0 }, /* int. cerebral */
    { PHANTOM_VEIN,        1, { 2.0,  19,  4 }, { .7,  8, 1.2 },  -5,  0,   0 }, /* septal */
    { PHANTOM_VEIN,        1, { 12,  -3, 12 }, { 1,   7, 1.6 },   35,  0,   0 }, /* striatal */
    { PHANTOM_VEIN,        0, {  0, -60,  8 }, { 1.8, 16, 5 },     0,  0,   0 }, /* straight */
    { PHANTOM_VEIN,        0, {  0, -100, 8 }, { 2.5, 2.5, 60 },   0,  0,   0 }, /* sagittal */
    { PHANTOM_VEIN,        0, {  0,  67,  8 }, { 1.6, 2, 60 },     0,  0,   0 }
};
#define PHANTOM_SHAPES ((int)(sizeof phantom_shapes / sizeof phantom_shapes[0]))
#define PHANTOM_CORTICAL_VEINS 14

/* What is drawn once per head before the voxels. */
typedef struct phantom_head {
    const phantom_subject *s;
    double soft_mm; /* half the width of the edges */
    double cos_turn, sin_turn;
    struct { double centre[3], radius[3], reach, cos_yaw, sin_yaw; } shape[PHANTOM_SHAPES];
    double vein[PHANTOM_CORTICAL_VEINS][3]; /* x, y, radius: vertical tubes */
} phantom_head;

/* One voxel before the maps: mixed tissue properties, and the nucleus it lies in. */
typedef struct phantom_voxel {
    float chi_plus, chi_minus, r2, t1, m0;
    float share, texture; /* of the nucleus; relative deviation of its chi_plus, before centring */
    float depth;          /* mm from the brain's outline inwards; below 0: outside, all else 0 */
    short nucleus;        /* -1: none */
    short inside;         /* 1: brain; 2: far enough from its edge for the QSM algorithm */
} phantom_voxel;

/* Distance in mm from p to the surface of an ellipsoid around 0, positive inside (Quilez's
   approximation: exact to first order at the surface). */
static inline double phantom_depth(const double p[3], const double r[3])
{
    double a = p[0] / r[0], b = p[1] / r[1], c = p[2] / r[2], k0, k1;
    k0 = sqrt(a * a + b * b + c * c);
    a /= r[0];
    b /= r[1];
    c /= r[2];
    k1 = sqrt(a * a + b * b + c * c);
    return k1 > 0 ? k0 * (1 - k0) / k1 : fmin(r[0], fmin(r[1], r[2]));
}

/* Share of a voxel that lies on the inner side of an edge at this depth. */
static inline double phantom_cover(double depth, double soft)
{
    double t = .5 + .5 * depth / soft;
    return t <= 0 ? 0 : t >= 1 ? 1 : t * t * (3 - 2 * t);
}

static inline void phantom_paint(phantom_voxel *v, int tissue, double chi_plus, double share)
{
    const phantom_properties *t = &phantom_tissues[tissue];
    float a = (float)share;
    v->chi_plus += a * ((float)chi_plus - v->chi_plus);
    v->chi_minus += a * ((float)t->chi_minus - v->chi_minus);
    v->r2 += a * ((float)(1000 / t->t2_ms) - v->r2);
    v->t1 += a * ((float)t->t1_s - v->t1);
    v->m0 += a * ((float)t->m0 - v->m0);
}

static inline void phantom_head_init(const phantom_config *config, const phantom_subject *s,
                                     phantom_head *head)
{
    qnet_rng rng = qnet_rng_at(config->seed, QNET_RANDOM_USER + 3, 0, s->stream);
    int i, d;
    head->s = s;
    head->soft_mm = fmax(.7, .75 * config->spacing[0]);
    head->cos_turn = cos(s->turn);
    head->sin_turn = sin(s->turn);
    for (i = 0; i < PHANTOM_SHAPES; i++) {
        const phantom_shape *shape = &phantom_shapes[i];
        double wide = shape->grows == 1 ? s->nuclei : 1, angle = shape->yaw * .017453292519943;
        head->shape[i].cos_yaw = cos(angle);
        head->shape[i].sin_yaw = sin(angle);
        head->shape[i].reach = 0;
        for (d = 0; d < 3; d++) {
            double r = shape->radius[d] * wide;
            if (shape->grows == 2) {
                r *= d == 0 ? s->ventricles : sqrt(s->ventricles);
            }
            head->shape[i].radius[d] = r;
            head->shape[i].centre[d] = shape->centre[d] + .4 * qnet_rng_normal(&rng) * (d != 0);
            head->shape[i].reach = fmax(head->shape[i].reach, r);
        }
        /* A ventricle's inner wall stays where it is. */
        if (shape->grows == 2 && shape->mirror) {
            head->shape[i].centre[0] += .6 * shape->radius[0] * (s->ventricles - 1);
        }
        head->shape[i].reach += 2 * head->soft_mm + 3; /* 3: the bend */
    }
    for (i = 0; i < PHANTOM_CORTICAL_VEINS; i++) {
        double angle = qnet_rng_range(&rng, 0, 6.2831853), depth = qnet_rng_range(&rng, .84, .96);
        head->vein[i][0] = 66 * depth * cos(angle);
        head->vein[i][1] = -17 + 86 * depth * sin(angle);
        head->vein[i][2] = qnet_rng_range(&rng, .6, 1.3);
    }
}

/* Distance from the cortical surface, in mm, positive inside: that of the outline, of winding sulci
   up to 20 mm deep, of the fissure between the hemispheres and of the insula. */
static inline double phantom_cortex_depth(const phantom_head *head, const double p[3],
                                          double outline)
{
    uint32_t seed = head->s->texture_seed;
    double side = fabs(p[0]), depth = outline, along, sulcus, fissure, insula;
    /* Sulci are where a noise crosses zero that varies along the surface more than in depth. The
       seam of the angle is in the fissure behind. */
    along = 52 * atan2(p[0], p[1] + 17);
    sulcus = phantom_noise(seed + 1, along / 8.5, outline / 20, p[2] / 18);
    depth = fmin(depth, 5 * fabs(sulcus) + .3 + 1.5 * fmax(0, outline - 17 - 4 * sulcus));
    /* The corpus callosum and the thalamus bridge the fissure between y = -42 and 36. */
    fissure = side + 1.2 * fmax(0, fmin(36 - p[1], p[1] + 42 + .8 * (p[2] - 5)));
    depth = fmin(depth, fissure + .3);
    /* Insula: a sheet to the side of the putamen, and the fissure that leads out from it. */
    insula = 40 - .12 * p[1] - .006 * (p[1] - 2) * (p[1] - 2);
    fissure = fabs(side - insula) + fmax(0, fabs(p[1] - 2) - 15) + fmax(0, fabs(p[2]) - 13);
    depth = fmin(depth, fissure + .2);
    fissure = fabs(p[1] + 3 + .35 * (side - insula)) + fmax(0, insula - side) +
              fmax(0, fabs(p[2]) - 13);
    return fmin(depth, fissure + .3);
}

/* Fills one voxel from its position in mm in the scanner. */
static inline void phantom_fill(const phantom_head *head, const double world[3], phantom_voxel *v)
{
    const double brain[3] = { 68, 88, 74 };
    const phantom_subject *s = head->s;
    uint32_t seed = s->texture_seed;
    double p[3], q[3], outline, depth, x, y;
    int i, d, k;
    memset(v, 0, sizeof *v);
    v->nucleus = -1;
    v->depth = -99;
    /* Scanner to atlas: shift, turn, scale, then a smooth warp of about 1 mm. */
    x = world[0] - s->shift_mm[0];
    y = world[1] - s->shift_mm[1] + 17;
    p[0] = (head->cos_turn * x + head->sin_turn * y) / s->scale[0];
    p[1] = (head->cos_turn * y - head->sin_turn * x) / s->scale[1] - 17;
    p[2] = (world[2] - s->shift_mm[2]) / s->scale[2];
    if (fabs(p[0]) > 90 || fabs(p[1] + 17) > 110) {
        return;
    }
    for (d = 0; d < 3; d++) {
        q[d] = p[d] + .9 * phantom_noise(seed + 10 + (uint32_t)d, p[0] / 28, p[1] / 28, p[2] / 28);
    }
    memcpy(p, q, sizeof p);
    /* The outline: an ellipsoid, narrower in front. */
    q[0] = p[0] * (1 + .0016 * (p[1] + 17));
    q[1] = p[1] + 17;
    q[2] = p[2] - 8;
    outline = phantom_depth(q, brain);
    v->depth = (float)outline;
    if (outline < 0) {
        return;
    }
    v->inside = outline > 2.5 ? 2 : 1;
    v->chi_plus = (float)phantom_tissues[PHANTOM_WHITE].chi_plus;
    phantom_paint(v, PHANTOM_WHITE, v->chi_plus, 1);
    depth = phantom_cortex_depth(head, p, outline);
    phantom_paint(v, PHANTOM_CORTEX, phantom_tissues[PHANTOM_CORTEX].chi_plus,
                  phantom_cover(3.4 - depth, head->soft_mm));
    phantom_paint(v, PHANTOM_CSF, phantom_tissues[PHANTOM_CSF].chi_plus,
                  phantom_cover(.7 - depth, head->soft_mm));
    for (i = 0; i < PHANTOM_SHAPES; i++) {
        const phantom_shape *shape = &phantom_shapes[i];
        int tissue = shape->tissue;
        double side = shape->mirror && p[0] < 0 ? -1 : 1, share, chi_plus;
        x = side * p[0] - head->shape[i].centre[0];
        y = p[1] - head->shape[i].centre[1];
        q[2] = p[2] - head->shape[i].centre[2];
        if (fabs(y) > head->shape[i].reach || fabs(x) > head->shape[i].reach ||
            fabs(q[2]) > head->shape[i].reach) {
            continue;
        }
        q[0] = head->shape[i].cos_yaw * x + head->shape[i].sin_yaw * y;
        q[1] = head->shape[i].cos_yaw * y - head->shape[i].sin_yaw * x;
        q[0] -= shape->bend * q[1] * q[1];
        share = phantom_cover(phantom_depth(q, head->shape[i].radius), head->soft_mm);
        if (share <= 0) {
            continue;
        }
        chi_plus = tissue < PHANTOM_NUCLEI ? s->chi_plus[tissue] : phantom_tissues[tissue].chi_plus;
        phantom_paint(v, tissue, chi_plus, share);
        if (tissue < PHANTOM_NUCLEI && share >= v->share * (v->nucleus >= 0)) {
            double patch = phantom_noise(seed + 5, p[0] / 5, p[1] / 5, p[2] / 5);
            v->nucleus = (short)tissue;
            v->share = (float)share;
            v->texture = (float)(s->patches * patch -
                                 s->gradient * 1.7 * q[1] / head->shape[i].radius[1]);
        } else if (tissue >= PHANTOM_NUCLEI) {
            v->share *= 1 - (float)share;
        }
    }
    for (k = 0; depth < 8 && k < PHANTOM_CORTICAL_VEINS; k++) {
        x = p[0] - head->vein[k][0];
        y = p[1] - head->vein[k][1];
        if (fabs(x) + fabs(y) < 4) {
            phantom_paint(v, PHANTOM_VEIN, phantom_tissues[PHANTOM_VEIN].chi_plus,
                          phantom_cover(head->vein[k][2] - sqrt(x * x + y * y), head->soft_mm));
        }
    }
}

/* The place of a voxel, in mm in the scanner. */
static inline void phantom_world(const phantom_config *config, int x, int y, int z, double *world)
{
    world[0] = config->spacing[0] * (x - .5 * (config->nx - 1));
    world[1] = -17 + config->spacing[1] * (y - .5 * (config->ny - 1));
    world[2] = config->z_mm + config->spacing[2] * z;
}

/* ---- Maps ----------------------------------------------------------------------------------- */

typedef struct phantom_maps { qnet_volume *qsm, *r2star, *t1w, *mask; } phantom_maps;

static inline void phantom_maps_destroy(phantom_maps *maps)
{
    qnet_volume_destroy(maps->qsm);
    qnet_volume_destroy(maps->r2star);
    qnet_volume_destroy(maps->t1w);
    qnet_volume_destroy(maps->mask);
    memset(maps, 0, sizeof *maps);
}

/* The spoiled gradient echo: S = M0 sin(a) (1 - E1) / (1 - E1 cos(a)) exp(-TE R2*), TR 36 ms,
   TE 5 ms, a = 24 degrees. */
static inline double phantom_t1w(double m0, double t1_s, double r2star)
{
    const double sin_a = .40673664307580, cos_a = .91354545764260;
    double e1 = exp(-.036 / t1_s);
    return m0 * sin_a * (1 - e1) / (1 - e1 * cos_a) * exp(-.005 * r2star);
}

/* From tissue to the three maps with their errors, and the mask of the basal ganglia (caudate,
   putamen, pallidum). mean[nucleus]: of the texture, to be taken off. */
static inline void phantom_measure(const phantom_config *config, const phantom_subject *s,
                                   const phantom_voxel *voxels, const double *mean,
                                   phantom_maps *maps)
{
    const double white = phantom_t1w(.70, .85, 20);
    double world[3];
    size_t at = 0;
    int x, y, z;
    for (z = 0; z < config->nz; z++) {
        qnet_rng rng = qnet_rng_at(config->seed, QNET_RANDOM_USER + 4, (uint32_t)z, s->stream);
        for (y = 0; y < config->ny; y++) {
            for (x = 0; x < config->nx; x++, at++) {
                const phantom_voxel *v = &voxels[at];
                double chi_plus = v->chi_plus, r2star, signal, streak, bias, a, b;
                if (!v->inside) {
                    continue;
                }
                phantom_world(config, x, y, z, world);
                if (v->nucleus >= 0) {
                    chi_plus += v->share * s->chi_plus[v->nucleus] *
                                (v->texture - mean[v->nucleus]);
                }
                r2star = phantom_r2star_of(v->r2, chi_plus, v->chi_minus);
                signal = phantom_t1w(v->m0, v->t1, r2star) / white;
                /* Dipole inversion leaves streaks along the cone at 54.7 degrees to the field:
                   noise that is long along the cone and short across, in y and z. */
                a = .8165 * world[1] + .5774 * world[2];
                b = .5774 * world[1] - .8165 * world[2];
                streak = phantom_noise(s->texture_seed + 6, world[0] / 9, a / 40, b / 7);
                bias = phantom_noise(s->texture_seed + 7, world[0] / 70, world[1] / 70,
                                     world[2] / 70);
                if (v->inside == 2) {
                    a = chi_plus + v->chi_minus + .004 * streak +
                        .008 * config->noise * qnet_rng_normal(&rng);
                    /* 0 means outside: within, the smallest step of the file either way. */
                    maps->qsm->voxels[at] = (float)(fabs(a) >= .001 ? a : a < 0 ? -.001 : .001);
                }
                r2star += .8 * config->noise * qnet_rng_normal(&rng);
                maps->r2star->voxels[at] = (float)fmax(r2star, .05);
                /* A magnitude image: Rician noise. */
                a = signal * (1 + .05 * bias) + .015 * config->noise * qnet_rng_normal(&rng);
                b = .015 * config->noise * qnet_rng_normal(&rng);
                maps->t1w->voxels[at] = (float)(s->gain * sqrt(a * a + b * b));
                maps->mask->voxels[at] = v->nucleus >= 0 && v->nucleus <= PHANTOM_PALLIDUM &&
                                         v->share > .5f;
            }
        }
    }
}

/* Fills voxels[nz][ny][nx]; mean[nucleus]: of the texture. */
static inline void phantom_voxels(const phantom_config *config, const phantom_subject *s,
                                  phantom_voxel *voxels, double *mean)
{
    double weight[PHANTOM_NUCLEI], world[3];
    phantom_head head;
    size_t at = 0;
    int i, x, y, z;
    phantom_head_init(config, s, &head);
    for (i = 0; i < PHANTOM_NUCLEI; i++) {
        mean[i] = weight[i] = 0;
    }
    for (z = 0; z < config->nz; z++) {
        for (y = 0; y < config->ny; y++) {
            for (x = 0; x < config->nx; x++, at++) {
                phantom_voxel *v = &voxels[at];
                phantom_world(config, x, y, z, world);
                phantom_fill(&head, world, v);
                if (v->nucleus >= 0) {
                    mean[v->nucleus] += v->share * v->texture;
                    weight[v->nucleus] += v->share;
                }
            }
        }
    }
    for (i = 0; i < PHANTOM_NUCLEI; i++) {
        mean[i] = weight[i] > 0 ? mean[i] / weight[i] : 0;
    }
}

/* A volume of zeros on the grid of the phantom, RAS. */
static inline qnet_status phantom_volume(qnet_context *ctx, const phantom_config *config,
                                         qnet_volume **out)
{
    const qnet_status status = qnet_volume_create(ctx, config->nx, config->ny, config->nz, out);
    qnet_volume *v = *out;
    int d;
    if (status != QNET_OK) {
        return status;
    }
    memset(v->affine, 0, sizeof v->affine);
    for (d = 0; d < 3; d++) {
        v->spacing[d] = v->affine[d][d] = config->spacing[d];
    }
    v->affine[0][3] = -.5 * config->spacing[0] * (config->nx - 1);
    v->affine[1][3] = -17 - .5 * config->spacing[1] * (config->ny - 1);
    v->affine[2][3] = config->z_mm;
    v->affine_source = 2;
    memcpy(v->orientation, "RAS", 4);
    memset(v->voxels, 0,
           (size_t)config->nx * (size_t)config->ny * (size_t)config->nz * sizeof (float));
    return QNET_OK;
}

/* Renders a subject: four volumes on one grid, RAS. Give them back with phantom_maps_destroy. */
static inline qnet_status phantom_render(qnet_context *ctx, const phantom_config *config,
                                         const phantom_subject *s, phantom_maps *out)
{
    const qnet_allocator *memory = &qnet_context_hooks(ctx)->allocator;
    double mean[PHANTOM_NUCLEI];
    qnet_volume **volumes[4];
    phantom_maps maps;
    phantom_voxel *voxels;
    size_t count;
    int i;
    memset(&maps, 0, sizeof maps);
    volumes[0] = &maps.qsm;
    volumes[1] = &maps.r2star;
    volumes[2] = &maps.t1w;
    volumes[3] = &maps.mask;
    for (i = 0; i < 4; i++) {
        qnet_status status = phantom_volume(ctx, config, volumes[i]);
        if (status != QNET_OK) {
            phantom_maps_destroy(&maps);
            return status;
        }
    }
    count = (size_t)config->nx * (size_t)config->ny * (size_t)config->nz;
    voxels = (phantom_voxel *)memory->alloc(memory->user, count * sizeof *voxels, 64);
    if (voxels == NULL) {
        phantom_maps_destroy(&maps);
        return QNET_ERROR_MEMORY;
    }
    phantom_voxels(config, s, voxels, mean);
    phantom_measure(config, s, voxels, mean, &maps);
    memory->free(memory->user, voxels, count * sizeof *voxels);
    *out = maps;
    return QNET_OK;
}

/* ---- Files ---------------------------------------------------------------------------------- */

#ifndef QNET_NO_STDIO

/* Writes one map as int16 in steps of `step`. */
static inline qnet_status phantom_save(qnet_context *ctx, const char *folder, const char *name,
                                       const char *suffix, const qnet_volume *volume, double step)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s_%s.nii.gz", folder, name, suffix);
    return qnet_nifti_save(ctx, path, volume, step);
}

/* Renders and writes one subject. */
static inline qnet_status phantom_write_subject(qnet_context *ctx, const phantom_config *config,
                                                const phantom_subject *s, const char *folder)
{
    char anat[900], derived[900];
    phantom_maps maps;
    qnet_status status;
    snprintf(anat, sizeof anat, "%.800s/%s/anat", folder, s->name);
    snprintf(derived, sizeof derived, "%.800s/derivatives/%.40s/%s/anat", folder, config->tool,
             s->name);
    status = qnet_make_folder(ctx, anat);
    if (status == QNET_OK) {
        status = qnet_make_folder(ctx, derived);
    }
    if (status == QNET_OK) {
        status = phantom_render(ctx, config, s, &maps);
    }
    if (status != QNET_OK) {
        return status;
    }
    status = phantom_save(ctx, derived, s->name, "Chimap", maps.qsm, .001);
    if (status == QNET_OK) {
        status = phantom_save(ctx, derived, s->name, "R2starmap", maps.r2star, .05);
    }
    if (status == QNET_OK) {
        status = phantom_save(ctx, anat, s->name, "T1w", maps.t1w, 1);
    }
    if (status == QNET_OK) {
        status = phantom_save(ctx, derived, s->name, "desc-basalganglia_mask", maps.mask, 1);
    }
    phantom_maps_destroy(&maps);
    return status;
}

/* 0 for a folder whose participants.tsv is not a phantom's: it may be somebody's real cohort. */
static inline int phantom_may_write(qnet_context *ctx, const char *folder)
{
    qnet_buffer text;
    char path[1024];
    int own;
    snprintf(path, sizeof path, "%.900s/participants.tsv", folder);
    if (!qnet_file_exists(path)) return 1;
    memset(&text, 0, sizeof text);
    snprintf(path, sizeof path, "%.900s/dataset_description.json", folder);
    own = qnet_file_read(ctx, path, 65536, &text) == QNET_OK &&
          qnet_buffer_append(ctx, &text, "", 1) == QNET_OK &&
          strstr((const char *)text.bytes, "qnet.h phantom cohort") != NULL;
    qnet_buffer_free(ctx, &text);
    return own;
}

/* participants.tsv, dataset_description.json, and derivatives/TOOL/truth.tsv with the true region
   means: what a classifier of region means could know at best. */
static inline qnet_status phantom_write_tables(qnet_context *ctx, const phantom_config *config,
                                               const phantom_subject *subjects, const char *folder)
{
    static const char description[] =
        "{\n  \"Name\": \"qnet.h phantom cohort (simulated)\",\n  \"BIDSVersion\": \"1.8.0\",\n"
        "  \"DatasetType\": \"raw\",\n  \"Keywords\": [\"simulated\", \"phantom\"],\n"
        "  \"GeneratedBy\": [{\"Name\": \"make_phantom\", \"Version\": \"" QNET_VERSION "\"}]\n}\n";
    qnet_buffer people, truth;
    qnet_status status = QNET_OK;
    char path[1024];
    int i, k;
    memset(&people, 0, sizeof people);
    memset(&truth, 0, sizeof truth);
    status = qnet_buffer_printf(ctx, &people, "participant_id\tage\tsex\tgroup\n");
    if (status == QNET_OK) {
        status = qnet_buffer_printf(ctx, &truth, "participant_id");
    }
    for (k = 0; k < 2 * PHANTOM_NUCLEI && status == QNET_OK; k++) {
        status = qnet_buffer_printf(ctx, &truth, "\t%s_%s",
                                    phantom_tissues[k % PHANTOM_NUCLEI].name,
                                    k < PHANTOM_NUCLEI ? "ppm" : "r2star");
    }
    for (i = 0; i < config->hh + config->hc && status == QNET_OK; i++) {
        const phantom_subject *s = &subjects[i];
        status = qnet_buffer_printf(ctx, &people, "%s\t%.0f\t%s\t%s\n", s->name, s->age,
                                    s->sex == QNET_MALE ? "M" : "F",
                                    s->label == QNET_HH ? "HH" : "HC");
        if (status == QNET_OK) {
            status = qnet_buffer_printf(ctx, &truth, "\n%s", s->name);
        }
        for (k = 0; k < 2 * PHANTOM_NUCLEI && status == QNET_OK; k++) {
            status = qnet_buffer_printf(ctx, &truth, "\t%.5f",
                                        k < PHANTOM_NUCLEI ? phantom_chi(s, k)
                                                           : phantom_r2star(s, k - PHANTOM_NUCLEI));
        }
    }
    if (status == QNET_OK) {
        status = qnet_buffer_printf(ctx, &truth, "\n");
    }
    if (status == QNET_OK) {
        snprintf(path, sizeof path, "%.900s/participants.tsv", folder);
        status = qnet_file_replace(ctx, path, people.bytes, people.size);
    }
    if (status == QNET_OK) {
        snprintf(path, sizeof path, "%.900s/derivatives/%.40s/truth.tsv", folder, config->tool);
        status = qnet_file_replace(ctx, path, truth.bytes, truth.size);
    }
    if (status == QNET_OK) {
        snprintf(path, sizeof path, "%.900s/dataset_description.json", folder);
        status = qnet_file_replace(ctx, path, description, sizeof description - 1);
    }
    qnet_buffer_free(ctx, &people);
    qnet_buffer_free(ctx, &truth);
    return status;
}

/* Writes one subject: phantom_write_subject or phantom_write_echoes. */
typedef qnet_status (*phantom_writer)(qnet_context *ctx, const phantom_config *config,
                                      const phantom_subject *s, const char *folder);

typedef struct phantom_job {
    phantom_writer write;
    const phantom_config *config;
    const phantom_subject *subjects;
    const char *folder;
    qnet_status *status; /* [subjects] */
} phantom_job;

/* One subject per task, in a context of its own: a context serves one thread at a time. */
static inline void phantom_task(void *arg, size_t index, size_t worker)
{
    phantom_job *job = (phantom_job *)arg;
    qnet_hooks hooks;
    qnet_context *ctx = NULL;
    (void)worker;
    memset(&hooks, 0, sizeof hooks);
    hooks.threads = 1;
    job->status[index] = qnet_context_create(&hooks, &ctx);
    if (job->status[index] == QNET_OK) {
        job->status[index] = job->write(ctx, job->config, &job->subjects[index], job->folder);
    }
    qnet_context_destroy(ctx);
}

/* Writes a whole cohort in BIDS layout under folder, by the context's parallel hook. The tables
   come last: a folder with participants.tsv is complete. */
static inline qnet_status phantom_write_by(qnet_context *ctx, phantom_writer write,
                                           const phantom_config *config, const char *folder)
{
    const qnet_hooks *hooks = qnet_context_hooks(ctx);
    size_t total = (size_t)(config->hh + config->hc), i;
    size_t bytes = total * (sizeof (phantom_subject) + sizeof (qnet_status));
    phantom_subject *subjects;
    phantom_job job;
    qnet_status status;
    if (config->hh < 0 || config->hc < 0 || total < 1 || total > 9999 || strlen(folder) > 800) {
        return QNET_ERROR_ARGUMENT;
    }
    subjects = (phantom_subject *)hooks->allocator.alloc(hooks->allocator.user, bytes, 64);
    if (subjects == NULL) {
        return QNET_ERROR_MEMORY;
    }
    phantom_draw(config, subjects);
    job.write = write;
    job.config = config;
    job.subjects = subjects;
    job.folder = folder;
    job.status = (qnet_status *)(void *)(subjects + total);
    status = qnet_make_folder(ctx, folder);
    if (status == QNET_OK) {
        hooks->parallel.run(hooks->parallel.user, total, phantom_task, &job);
        for (i = 0; i < total && status == QNET_OK; i++) {
            status = job.status[i];
            if (status != QNET_OK) { /* again, for its sentence: the task's context is gone */
                status = write(ctx, config, &subjects[i], folder);
            }
        }
    }
    if (status == QNET_OK) {
        status = phantom_write_tables(ctx, config, subjects, folder);
    }
    hooks->allocator.free(hooks->allocator.user, subjects, bytes);
    return status;
}

static inline qnet_status phantom_write(qnet_context *ctx, const phantom_config *config,
                                        const char *folder)
{
    return phantom_write_by(ctx, phantom_write_subject, config, folder);
}

#endif /* QNET_NO_STDIO */
#endif /* PHANTOM_H */
