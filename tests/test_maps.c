/* Room >>maps: the chain on a small head whose susceptibility is known, against its own steps called one by one, in
   both modes, of either sign, from radians and from a scanner's integers; what it refuses; stops, memory, workers. Then
   the simulated scans of ../shared/data, where they are at hand, against the truth. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200112L
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "memory.h"
#include "workers.h"

#define PI 3.14159265358979323846
#define MOST 6
#define NX 36
#define NY 40
#define NZ 28
#define COUNT (NX * NY * NZ)

static qnet_context *ctx;
static char logged[1024];
static int warnings;

static void keep_log(void *user, qnet_log_level level, const char *text)
{
    (void)user;
    warnings += level == QNET_LOG_WARNING;
    snprintf(logged, sizeof logged, "%s", text);
}

/* ---- a small head ------------------------------------------------------------------------------ */

typedef struct scan {
    qnet_volume *magnitude[MOST], *phase[MOST], *mask, *susceptibility, *field, *low;
    qnet_echo echo[MOST], second_echo;
    qnet_echoes first, second;
} scan;

/* A volume of 3 mm with axes turned by 20 degrees about x, as a technician turns the slices. */
static qnet_volume *head_volume(void)
{
    const double a = 20 * PI / 180;
    qnet_volume *v = NULL;
    CHECK_OK(ctx, qnet_volume_create(ctx, NX, NY, NZ, &v));
    v->affine[0][0] = 3;
    v->affine[1][1] = 3 * cos(a), v->affine[1][2] = -3 * sin(a);
    v->affine[2][1] = 3 * sin(a), v->affine[2][2] = 3 * cos(a);
    for (int i = 0; i < 3; i++) v->spacing[i] = 3;
    return v;
}

static int in_sphere(int x, int y, int z, double cx, double cy, double cz, double r)
{
    return (x - cx) * (x - cx) + (y - cy) * (y - cy) + (z - cz) * (z - cz) <= r * r;
}

/* 0 brain, 1 and 2 nuclei of iron, -1 outside. */
static int tissue(int x, int y, int z)
{
    const double a = (x - 17.5) / 15, b = (y - 19.5) / 17, c = (z - 13.5) / 11;
    if (a * a + b * b + c * c > 1) return -1;
    return in_sphere(x, y, z, 12, 20, 14, 2.5) ? 1 : in_sphere(x, y, z, 23, 20, 14, 2.5) ? 2 : 0;
}

static double wrap(double p) { return p - 2 * PI * rint(p / (2 * PI)); }

static double spoiled(double t1, double degrees, double tr)
{
    const double e1 = exp(-tr / t1), a = degrees * PI / 180;
    return sin(a) * (1 - e1) / (1 - e1 * cos(a));
}

/* Iron of .3 and .2 ppm, air of 4 ppm below the front, a phase offset of coils; six echoes of 3 T. */
static void make_scan(scan *s, int sign)
{
    qnet_rng rng = qnet_rng_at(1, 900, 0, 0);
    memset(s, 0, sizeof *s);
    s->mask = head_volume(), s->susceptibility = head_volume(), s->low = head_volume();
    for (int i = 0; i < COUNT; i++) {
        const int x = i % NX, y = i / NX % NY, z = i / NX / NY, t = tissue(x, y, z);
        s->mask->voxels[i] = t >= 0 ? 1.f : 0;
        s->susceptibility->voxels[i] = t == 1 ? .3f : t == 2 ? .2f : in_sphere(x, y, z, 18, 37, 3, 3) ? 4.f : 0;
        s->low->voxels[i] = t < 0 ? 5.f : (float)(1e4 * spoiled(t > 0 ? 1.0 : 1.4, 6, .036) * exp(-.005 * 20));
    }
    CHECK_OK(ctx, qnet_dipole_field(ctx, s->susceptibility, &s->field));
    for (int e = 0; e < MOST; e++) {
        const double te = .005 * (e + 1);
        s->magnitude[e] = head_volume(), s->phase[e] = head_volume();
        for (int i = 0; i < COUNT; i++) {
            const int x = i % NX, y = i / NX % NY, z = i / NX / NY, t = tissue(x, y, z);
            const double rate = t == 1 ? 50 : t == 2 ? 40 : 20, t1 = t > 0 ? 1.0 : 1.4;
            const double offset = .6 + 1.5 * (x - 18.) * (y - 20.) / 360 + .8 * (z - 14.) / 14;
            s->magnitude[e]->voxels[i] = t < 0 ? 5.f : (float)(1e4 * spoiled(t1, 24, .036) * exp(-te * rate));
            s->phase[e]->voxels[i] =
                (float)(t < 0 ? PI * (2 * qnet_rng_uniform(&rng) - 1)
                              : sign * wrap(offset + 2 * PI * 42.577478518 * 3 * te * (double)s->field->voxels[i]));
        }
        s->echo[e].magnitude = s->magnitude[e], s->echo[e].phase = s->phase[e];
        s->echo[e].echo_time = te;
    }
    s->first.count = MOST, s->first.echo = s->echo;
    s->first.field_strength = 3, s->first.repetition_time = .036, s->first.flip_angle = 24, s->first.phase_sign = sign;
    s->second = s->first;
    s->second.count = 1, s->second.echo = &s->second_echo, s->second.flip_angle = 6;
    s->second_echo.magnitude = s->low, s->second_echo.echo_time = .005, s->second_echo.name = "low.nii";
}

static void free_scan(scan *s)
{
    for (int e = 0; e < MOST; e++) qnet_volume_destroy(s->magnitude[e]), qnet_volume_destroy(s->phase[e]);
    qnet_volume_destroy(s->mask), qnet_volume_destroy(s->susceptibility), qnet_volume_destroy(s->field);
    qnet_volume_destroy(s->low);
}

/* The paper's values, for a head of 3 mm. */
static qnet_maps_config small_config(qnet_maps_mode mode)
{
    qnet_maps_config c;
    qnet_maps_config_init(&c);
    c.mode = mode;
    c.brain.erode = 1, c.brain.island = 200;
    return c;
}

static double mean_of(const qnet_volume *v, const qnet_volume *mask, int wanted)
{
    double sum = 0, n = 0;
    for (int i = 0; i < COUNT; i++) {
        const int inside = mask->voxels[i] != 0 && tissue(i % NX, i / NX % NY, i / NX / NY) == wanted;
        sum += inside ? (double)v->voxels[i] : 0;
        n += inside;
    }
    return sum / n;
}

/* The largest difference of two volumes over the largest number of the second. */
static double differs(const qnet_volume *a, const qnet_volume *b)
{
    double worst = 0, most = 0;
    for (int i = 0; i < COUNT; i++) {
        worst = fmax(worst, fabs((double)a->voxels[i] - (double)b->voxels[i]));
        most = fmax(most, fabs((double)b->voxels[i]));
    }
    return worst / most;
}

/* ---- the chain --------------------------------------------------------------------------------- */

static void test_config(void)
{
    qnet_maps_config c;
    qnet_maps_config_init(&c);
    CHECK(c.mode == QNET_MAPS_PAPER && c.brain_echo == 2 && c.first_echo == 2 && c.last_echo == 6);
    CHECK(c.r2star == QNET_R2STAR_AUTO);
    CHECK(c.brain.threshold == .2 && c.brain.erode == 4 && c.brain.island == 2000);
    CHECK(c.susceptibility.sharp_threshold == .05 && c.susceptibility.sharp_radius == 6);
    CHECK(c.susceptibility.tkd_threshold == .1 && c.susceptibility.iteration_threshold == .1);
    CHECK(c.susceptibility.iterations == 4 && c.susceptibility.roll_off == 0);
    qnet_maps_config_consensus(&c);
    CHECK(c.mode == QNET_MAPS_CONSENSUS && c.susceptibility.sharp_radius == 9 && c.susceptibility.roll_off == .5);
    CHECK(c.susceptibility.iterations == 4 && c.brain.erode == 4);
}

/* Each step by its own function. The unwrapped phases of this head are consistent but for 2 pi n, which SHARP does not
   see. */
static void test_steps(void)
{
    scan s;
    qnet_maps *maps = NULL;
    qnet_maps_config c = small_config(QNET_MAPS_PAPER);
    const qnet_volume *map[MOST], *magnitude[MOST];
    qnet_volume *chi[MOST], *eroded = NULL, *qsm = NULL, *r2star = NULL, *t1 = NULL;
    qnet__kspace k;
    double time[MOST], mean = 0;
    int inside = 0;
    make_scan(&s, 1);
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, &s.second, s.mask, &maps));
    for (int e = 0; e < MOST; e++) magnitude[e] = s.magnitude[e], time[e] = .005 * (e + 1);
    for (int e = 1; e < MOST; e++) {
        qnet_volume *field = NULL, *local = NULL;
        qnet_volume_destroy(eroded);
        chi[e] = NULL;
        CHECK_OK(ctx, qnet_phase_unwrap(ctx, s.phase[e], s.mask, &field));
        for (int i = 0; i < COUNT; i++)
            field->voxels[i] = (float)((double)field->voxels[i] / (2 * PI * 42.577478518 * 3 * time[e]));
        CHECK_OK(ctx, qnet_background_remove(ctx, &c.susceptibility, field, s.mask, &local, &eroded));
        chi[e] = head_volume();
        CHECK_OK(ctx, qnet__kspace_open(ctx, "inversion", &c.susceptibility, field, QNET__PAD_SPHERE, 1, 1, &k)); /* padded as the chain does */
        qnet__kspace_bound(&k, eroded->voxels);
        CHECK_OK(ctx, qnet__invert(&k, local->voxels, eroded->voxels, chi[e]->voxels));
        qnet__kspace_close(&k);
        qnet_volume_destroy(field), qnet_volume_destroy(local);
        map[e] = chi[e];
    }
    CHECK_OK(ctx, qnet_susceptibility_average(ctx, MOST - 1, map + 1, magnitude + 1, time + 1, eroded, &qsm));
    for (int i = 0; i < COUNT; i++) mean += (double)qsm->voxels[i], inside += eroded->voxels[i] != 0;
    for (int i = 0; i < COUNT; i++)
        if (eroded->voxels[i] != 0) qsm->voxels[i] -= (float)(mean / inside);
    CHECK(differs(maps->qsm, qsm) < 1e-4);
    CHECK(memcmp(maps->qsm_mask->voxels, eroded->voxels, COUNT * sizeof(float)) == 0);
    CHECK(memcmp(maps->mask->voxels, s.mask->voxels, COUNT * sizeof(float)) == 0);
    CHECK_OK(ctx, qnet_r2star_map(ctx, QNET_R2STAR_AUTO, MOST, magnitude, time, s.mask, &r2star));
    CHECK(memcmp(maps->r2star->voxels, r2star->voxels, COUNT * sizeof(float)) == 0);
    CHECK(memcmp(maps->t1w->voxels, s.magnitude[0]->voxels, COUNT * sizeof(float)) == 0);
    CHECK_OK(ctx, qnet_t1_map(ctx, s.low, 6, s.magnitude[0], 24, .036, NULL, s.mask, &t1, NULL));
    CHECK(memcmp(maps->t1->voxels, t1->voxels, COUNT * sizeof(float)) == 0);
    CHECK_NEAR(mean_of(maps->t1, s.mask, 0), 1.4, 1e-3);
    CHECK(maps->m0 != NULL && maps->ctx == ctx);
    CHECK(memcmp(maps->qsm->affine, s.mask->affine, sizeof s.mask->affine) == 0);
    for (int e = 1; e < MOST; e++) qnet_volume_destroy(chi[e]);
    qnet_volume_destroy(eroded), qnet_volume_destroy(qsm), qnet_volume_destroy(r2star), qnet_volume_destroy(t1);
    qnet_maps_destroy(maps);
    free_scan(&s);
}

/* What is known of the head comes out, of either sign, from radians and from integers. */
static void test_truth(void)
{
    scan s, g;
    qnet_maps *maps = NULL, *other = NULL;
    make_scan(&s, 1), make_scan(&g, -1);
    for (int mode = QNET_MAPS_PAPER; mode <= QNET_MAPS_CONSENSUS; mode++) {
        qnet_maps_config c = small_config((qnet_maps_mode)mode);
        warnings = 0;
        CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, s.mask, &maps));
        CHECK(warnings == 0 && maps->t1 == NULL && maps->m0 == NULL);
        const double brain = mean_of(maps->qsm, maps->qsm_mask, 0);
        CHECK_NEAR(mean_of(maps->qsm, maps->qsm_mask, 1) - brain, .3, .06);
        CHECK_NEAR(mean_of(maps->qsm, maps->qsm_mask, 2) - brain, .2, .04);
        CHECK_NEAR(mean_of(maps->r2star, maps->mask, 1), 50, .05);
        for (int i = 0; i < COUNT; i++) CHECK(maps->qsm_mask->voxels[i] != 0 || maps->qsm->voxels[i] == 0);
        CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &g.first, NULL, s.mask, &other));
        CHECK(differs(other->qsm, maps->qsm) < 1e-4 && warnings == 0);
        qnet_maps_destroy(other);
        g.first.phase_sign = 1; /* the wrong one */
        CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &g.first, NULL, s.mask, &other));
        CHECK(warnings == 1);
        CHECK_CONTAINS(logged, "set phase_sign to -1");
        CHECK(differs(other->qsm, maps->qsm) > 1);
        qnet_maps_destroy(other);
        g.first.phase_sign = -1;
        for (int form = 0; form < 2; form++) {
            for (int e = 0; e < MOST; e++)
                for (int i = 0; i < COUNT; i++) {
                    const double p = (double)s.phase[e]->voxels[i] / PI;
                    g.phase[e]->voxels[i] = (float)(form == 0 ? fmin(rint(4096 * p), 4095)
                                                              : fmin(rint(2048 * p) + 2048, 4095));
                }
            g.first.phase_sign = 1;
            logged[0] = 0;
            CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &g.first, NULL, s.mask, &other));
            CHECK_CONTAINS(logged, form == 0 ? "phases of -4096 to 4095 are scaled" : "phases of 0 to 4095 are scaled");
            CHECK(differs(other->qsm, maps->qsm) < .02);
            qnet_maps_destroy(other);
        }
        qnet_maps_destroy(maps);
        free_scan(&g);
        make_scan(&g, -1);
    }
    free_scan(&s), free_scan(&g);
}

/* With BET's mask; without phases; of the first two echoes; of those in between. */
static void test_parts(void)
{
    scan s;
    qnet_maps *maps = NULL, *other = NULL;
    qnet_maps_config c = small_config(QNET_MAPS_PAPER);
    double both = 0, ours = 0, theirs = 0;
    make_scan(&s, 1);
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, NULL, &maps));
    for (int i = 0; i < COUNT; i++) {
        both += maps->mask->voxels[i] != 0 && s.mask->voxels[i] != 0;
        ours += maps->mask->voxels[i] != 0, theirs += s.mask->voxels[i] != 0;
    }
    CHECK(2 * both / (ours + theirs) > .85);
    qnet_maps_destroy(maps);
    s.first.count = 2;
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, s.mask, &maps));
    c.first_echo = c.last_echo = c.brain_echo = 2;
    s.first.count = MOST;
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, s.mask, &other));
    CHECK(differs(other->qsm, maps->qsm) == 0); /* of echo 2 alone, both */
    qnet_maps_destroy(other), qnet_maps_destroy(maps);
    c.first_echo = c.last_echo = 1; /* of echo 1 alone, which the second one makes consistent */
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, s.mask, &maps));
    const double brain = mean_of(maps->qsm, maps->qsm_mask, 0);
    CHECK_NEAR(mean_of(maps->qsm, maps->qsm_mask, 1) - brain, .3, .06);
    qnet_maps_destroy(maps);
    c.first_echo = MOST, c.last_echo = 50; /* as far as there are any: the last one */
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, s.mask, &maps));
    c.last_echo = MOST;
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, s.mask, &other));
    CHECK(differs(other->qsm, maps->qsm) == 0);
    qnet_maps_destroy(other), qnet_maps_destroy(maps);
    for (int e = 0; e < MOST; e++) s.echo[e].phase = NULL;
    s.first.field_strength = 0, s.first.phase_sign = 0;
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, &s.second, s.mask, &maps));
    CHECK(maps->qsm == NULL && maps->qsm_mask == NULL && maps->r2star != NULL && maps->t1 != NULL);
    qnet_maps_destroy(maps);
    qnet_maps_destroy(NULL);
    free_scan(&s);
}

/* All maps lie where the first echo does, though the others, the mask and the second flip angle are off a little. */
static void test_grid(void)
{
    scan s;
    qnet_maps *maps = NULL;
    const qnet_maps_config c = small_config(QNET_MAPS_PAPER);
    make_scan(&s, 1);
    for (int e = 1; e < MOST; e++) s.magnitude[e]->affine[0][3] = s.phase[e]->affine[0][3] = .01 * e;
    s.mask->affine[1][3] = s.low->affine[2][3] = .02;
    s.second.flip_angle = 60; /* T1W is of the second */
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, &s.second, s.mask, &maps));
    const qnet_volume *const made[] = {maps->qsm, maps->r2star, maps->t1w, maps->mask, maps->qsm_mask, maps->t1,
                                       maps->m0};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        CHECK(memcmp(made[i]->affine, s.magnitude[0]->affine, sizeof made[i]->affine) == 0);
    CHECK(s.mask->affine[1][3] == .02);
    qnet_maps_destroy(maps);
    free_scan(&s);
}

/* Unwrapped echoes with whole turns added become those of the truth: per component, and at single voxels. */
static void test_consistent_phases(void)
{
    scan s;
    qnet_maps_config config = small_config(QNET_MAPS_PAPER);
    qnet__chain c;
    qnet_volume *truth[MOST];
    double worst = 0;
    make_scan(&s, 1);
    memset(&c, 0, sizeof c);
    c.ctx = ctx, c.config = &config, c.first = &s.first, c.made.mask = s.mask;
    for (int i = 0; i < COUNT; i++)
        if (i % NX == 17) s.mask->voxels[i] = 0; /* two components */
    for (int e = 0; e < MOST; e++) {
        c.time[e] = .005 * (e + 1);
        truth[e] = head_volume(), c.phase[e] = head_volume();
        for (int i = 0; i < COUNT; i++) {
            const int x = i % NX, y = i / NX % NY, z = i / NX / NY;
            const double a = (x - 17.5) / 18, b = (y - 19.5) / 20, d = (z - 13.5) / 14;
            const double offset = 2 + 6 * a * b - 4 * d * d + 3 * b, rate = 150 * a * d + 500 * a * a * a - 40;
            if (s.mask->voxels[i] == 0) continue;
            truth[e]->voxels[i] = (float)(offset + rate * c.time[e]);
            c.phase[e]->voxels[i] = (float)((double)truth[e]->voxels[i] + 2 * PI * (x < 17 ? e * e - 3 : 5 - 2 * e) +
                                            (e > 0 && i % 97 == 0 ? 2 * PI * (i % 5 - 2) : 0));
        }
    }
    CHECK_OK(ctx, qnet__chain_align(&c, MOST, 0));
    for (int e = 0; e < MOST; e++)
        for (int i = 0; i < COUNT; i++)
            worst = fmax(worst, fabs((double)c.phase[e]->voxels[i] - (double)truth[e]->voxels[i]));
    CHECK(worst < 1e-4);
    for (int e = 0; e < MOST; e++) qnet_volume_destroy(truth[e]), qnet_volume_destroy(c.phase[e]);
    free_scan(&s);
}

/* Phases that are consistent as they come stay so: in two components with an offset near pi, and where the offset is
   cubic, no polynomial of second order, which the log tells. Off by turns other than their component's first: none. */
static void test_alignment_breaks_nothing(void)
{
    for (int cubic = 0; cubic < 2; cubic++) {
        scan s;
        qnet_maps_config config = small_config(QNET_MAPS_PAPER);
        qnet__chain c;
        size_t broken = 0;
        make_scan(&s, 1);
        memset(&c, 0, sizeof c);
        c.ctx = ctx, c.config = &config, c.first = &s.first, c.made.mask = s.mask;
        for (int i = 0; i < COUNT; i++)
            if (!cubic && i % NX == 12) s.mask->voxels[i] = 0;
        for (int e = 0; e < MOST; e++) {
            c.time[e] = .005 * (e + 1), c.name[e] = "echo";
            c.phase[e] = head_volume();
            for (int i = 0; i < COUNT; i++) {
                const double a = (i % NX - 17.5) / 18, b = (i / NX % NY - 19.5) / 20, d = (i / NX / NY - 13.5) / 14;
                const double offset = cubic ? 7 * (a * a * a - 3 * a * b * b) : 3.1 + .5 * a;
                if (s.mask->voxels[i] != 0) c.phase[e]->voxels[i] = (float)(offset + 100 * b * d * c.time[e]);
            }
        }
        qnet_volume *before[MOST];
        for (int e = 0; e < MOST; e++) {
            before[e] = head_volume();
            memcpy(before[e]->voxels, c.phase[e]->voxels, COUNT * sizeof(float));
        }
        warnings = 0;
        CHECK_OK(ctx, qnet__chain_align(&c, MOST, 0));
        CHECK(cubic ? warnings > 0 && strstr(logged, "no line over echo times") != NULL : warnings == 0);
        for (int e = 0; e < MOST; e++) {
            double moved[2] = {NAN, NAN};
            for (int i = 0; i < COUNT; i++) {
                const double turns = rint((double)(c.phase[e]->voxels[i] - before[e]->voxels[i]) / (2 * PI));
                double *all = &moved[!cubic && i % NX > 12];
                if (s.mask->voxels[i] == 0) continue;
                if (*all != *all) *all = turns; /* NaN */
                broken += turns != *all;
            }
            qnet_volume_destroy(before[e]), qnet_volume_destroy(c.phase[e]);
        }
        if (!CHECK(broken == 0)) printf("    %s: %lu voxels\n", cubic ? "cubic" : "components", (unsigned long)broken);
        free_scan(&s);
    }
}

/* ---- what is refused --------------------------------------------------------------------------- */

static void test_refused(void)
{
    scan s;
    qnet_maps *untouched = (qnet_maps *)&s, *maps = untouched;
    qnet_maps_config c = small_config(QNET_MAPS_PAPER);
    qnet_volume *none, *other = NULL, *kept;
    make_scan(&s, 1);
    none = head_volume();
    CHECK_OK(ctx, qnet_volume_create(ctx, NX, NY, NZ, &other));
    s.echo[1].name = "sub-01_echo-2.nii.gz";
#define REFUSED(status, part) \
    CHECK_FAILS(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, &s.second, s.mask, &maps), status, part)
#define CHAIN "qnet_maps_from_echoes: "
#define ECHO_1 "sub-01_echo-2.nii.gz: "
    CHECK_FAILS(ctx, qnet_maps_from_echoes(ctx, NULL, &s.first, NULL, NULL, &maps), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_maps_from_echoes(ctx, &c, NULL, NULL, NULL, &maps), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, NULL, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(qnet_maps_from_echoes(NULL, &c, &s.first, NULL, NULL, &maps) == QNET_ERROR_ARGUMENT);
    /* the configuration */
    c.brain_echo = 0;
    REFUSED(QNET_ERROR_ARGUMENT, CHAIN "brain_echo is 0, expected 1 to 64");
    c.brain_echo = 2, c.first_echo = 5, c.last_echo = 4;
    REFUSED(QNET_ERROR_ARGUMENT, "last_echo is 4, expected 5 to 64");
    c.first_echo = 2, c.last_echo = 6, c.mode = (qnet_maps_mode)2;
    REFUSED(QNET_ERROR_ARGUMENT, CHAIN "mode is 2, expected 0 to 1");
    c.mode = QNET_MAPS_PAPER, c.r2star = (qnet_r2star_method)7;
    REFUSED(QNET_ERROR_ARGUMENT, CHAIN "r2star is 7, expected 0 to 2");
    c.r2star = QNET_R2STAR_AUTO, c.brain.threshold = 2;
    REFUSED(QNET_ERROR_ARGUMENT, "threshold is 2");
    c.brain.threshold = .2, c.susceptibility.tkd_threshold = -1;
    REFUSED(QNET_ERROR_ARGUMENT, CHAIN "tkd_threshold is -1");
    c.susceptibility.tkd_threshold = .1, c.first_echo = c.last_echo = 7;
    REFUSED(QNET_ERROR_ARGUMENT, CHAIN "first_echo is 7, expected 1 to 6");
    c.first_echo = 2, c.last_echo = 6;
    /* how many echoes, and when */
    s.first.count = 1;
    REFUSED(QNET_ERROR_ARGUMENT, CHAIN "echoes is 1, expected 2 to 64");
    s.first.count = 65;
    REFUSED(QNET_ERROR_ARGUMENT, "echoes is 65");
    s.first.count = MOST, s.first.echo = NULL;
    REFUSED(QNET_ERROR_ARGUMENT, CHAIN "first->echo is NULL");
    s.first.echo = s.echo, s.echo[1].echo_time = 0;
    REFUSED(QNET_ERROR_ARGUMENT, ECHO_1 "echo time of 0 s (missing?), expected 0.0001 to 1");
    s.echo[1].echo_time = 5e-5;
    REFUSED(QNET_ERROR_ARGUMENT, ECHO_1 "echo time of 5e-05 s, expected 0.0001 to 1");
    s.echo[1].echo_time = 10;
    REFUSED(QNET_ERROR_ARGUMENT, ECHO_1 "echo time of 10 s (milliseconds?), expected 0.0001 to 1");
    s.echo[1].echo_time = .005;
    REFUSED(QNET_ERROR_ARGUMENT, ECHO_1 "echo time of 0.005 s, expected more than that of the echo before, 0.005");
    s.echo[1].echo_time = .0108, c.r2star = QNET_R2STAR_ARLO;
    REFUSED(QNET_ERROR_ARGUMENT, "ARLO needs echoes at equal distances");
    s.echo[1].echo_time = .01, s.first.count = 2;
    REFUSED(QNET_ERROR_ARGUMENT, "ARLO needs 3 echoes");
    s.first.count = MOST, c.r2star = QNET_R2STAR_AUTO;
    /* volumes */
    s.echo[1].magnitude = other;
    REFUSED(QNET_ERROR_SHAPE, ECHO_1 "same 36x40x28 shape as echo 1, but its corners lie");
    s.echo[1].magnitude = none;
    REFUSED(QNET_ERROR_DATA, ECHO_1 "the magnitude is 0 to 0 everywhere");
    s.echo[1].magnitude = NULL;
    REFUSED(QNET_ERROR_ARGUMENT, ECHO_1 "the volume is missing");
    s.echo[1].magnitude = s.magnitude[1], s.magnitude[1]->voxels[5] = NAN;
    REFUSED(QNET_ERROR_NUMERIC, ECHO_1 "voxel (5, 0, 0) is");
    s.magnitude[1]->voxels[5] = 5, s.echo[1].phase = other;
    REFUSED(QNET_ERROR_SHAPE, ECHO_1 "phase: same");
    s.echo[1].phase = none;
    REFUSED(QNET_ERROR_DATA, ECHO_1 "phase: 0 everywhere, expected a phase that varies");
    s.echo[1].phase = NULL;
    REFUSED(QNET_ERROR_ARGUMENT, ECHO_1 "the phase is missing, 5 of 6 echoes have one");
    s.echo[1].phase = s.phase[1];
    const float phase = s.phase[1]->voxels[5];
    s.phase[1]->voxels[5] = -INFINITY;
    REFUSED(QNET_ERROR_NUMERIC, ECHO_1 "phase: voxel (5, 0, 0) is -inf, expected a finite number");
    s.phase[1]->voxels[5] = 7;
    REFUSED(QNET_ERROR_DATA, "to 7, expected radians within +-pi, or a scanner's whole numbers over -4096 to 4095 or");
    for (int e = 0; e < MOST; e++) /* whole numbers of no scanner that is known */
        for (int i = 0; i < COUNT; i++) s.phase[e]->voxels[i] = (float)(i % 2000);
    REFUSED(QNET_ERROR_DATA, "the phases are whole numbers, 0 to 1999");
    free_scan(&s);
    make_scan(&s, 1);
    CHECK(s.phase[1]->voxels[5] == phase);
    for (int e = 0; e < MOST; e++) /* phases in half turns */
        for (int i = 0; i < COUNT; i++) s.phase[e]->voxels[i] /= (float)PI;
    REFUSED(QNET_ERROR_DATA, "within +-1, expected +-pi: multiply by pi");
    free_scan(&s);
    make_scan(&s, 1);
    /* phases that do not grow with the echo time */
    s.echo[3].phase = s.phase[1];
    REFUSED(QNET_ERROR_DATA, "echo 4: phases are the same numbers as those of echo 2: they do not grow");
    s.echo[3].phase = s.phase[3];
    for (int mode = QNET_MAPS_PAPER; mode <= QNET_MAPS_CONSENSUS; mode++) {
        c.mode = (qnet_maps_mode)mode;
        for (int a = 0; a < MOST; a++)
            for (int b = a + 1; b < MOST; b++) {
                s.echo[a].phase = s.phase[b], s.echo[b].phase = s.phase[a];
                REFUSED(QNET_ERROR_DATA, "its phases do not grow with the echo time as those of the others do");
                s.echo[a].phase = s.phase[a], s.echo[b].phase = s.phase[b];
            }
        s.echo[1].phase = s.phase[4], s.echo[4].phase = s.phase[1];
        REFUSED(QNET_ERROR_DATA, "echo 3: after those of echo 2, its phases");
        for (int e = 0; e < MOST; e++) s.echo[e].phase = s.phase[MOST - 1 - e];
        REFUSED(QNET_ERROR_DATA, "echo 6: its phases vary less than those of echo 1, and do not grow");
        for (int e = 0; e < MOST; e++) s.echo[e].phase = s.phase[e];
        s.first.count = 2, s.echo[0].phase = s.phase[1], s.echo[1].phase = s.phase[0];
        REFUSED(QNET_ERROR_DATA, "echo 2: its phases vary less than those of echo 1");
        s.first.count = MOST, s.echo[0].phase = s.phase[0], s.echo[1].phase = s.phase[1];
    }
    c.mode = QNET_MAPS_PAPER;
    for (int i = 0; i < COUNT; i++) s.magnitude[1]->voxels[i] = 5;
    CHECK_FAILS(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, NULL, &maps), QNET_ERROR_DATA,
                "echo 2: nearly all voxels are 5, expected an image of a head");
    free_scan(&s);
    make_scan(&s, 1);
    s.mask->affine[0][1] = .3;
    REFUSED(QNET_ERROR_UNSUPPORTED, "mask: the affine's axes 1 and 2 are at 84");
    s.mask->affine[0][1] = 0, kept = s.mask, s.mask = none;
    REFUSED(QNET_ERROR_DATA, "mask: the mask is empty");
    s.mask = kept, s.mask->voxels[7] = -1;
    REFUSED(QNET_ERROR_DATA, "mask: a value of -1, expected 0 and 1, or labels: a map");
    s.mask->voxels[7] = .3f;
    REFUSED(QNET_ERROR_DATA, "mask: a value of 0.3");
    s.mask->voxels[7] = 0, s.mask = other;
    REFUSED(QNET_ERROR_SHAPE, "mask: same");
    s.mask = kept;
    /* the scanner */
    s.first.field_strength = 0;
    REFUSED(QNET_ERROR_ARGUMENT, "echo 1: field strength in T is 0, expected 0.01 to 30");
    s.first.field_strength = 3, s.first.phase_sign = 0;
    REFUSED(QNET_ERROR_ARGUMENT, "phase_sign 0, expected 1 (Siemens, Philips) or -1 (GE)");
    s.first.phase_sign = 1;
    /* the second flip angle */
    s.second.count = 0;
    REFUSED(QNET_ERROR_ARGUMENT, "the second flip angle has no echo");
    s.second.count = 1, s.second_echo.magnitude = other;
    REFUSED(QNET_ERROR_SHAPE, "low.nii: same");
    s.second_echo.magnitude = s.low, s.second_echo.echo_time = .006;
    REFUSED(QNET_ERROR_DATA, "low.nii: echo time of 0.006 s, expected 0.005 as in echo 1");
    s.second_echo.echo_time = 5;
    REFUSED(QNET_ERROR_ARGUMENT, "low.nii: echo time of 5 s (milliseconds?)");
    s.second_echo.echo_time = .005, s.second.flip_angle = 24;
    REFUSED(QNET_ERROR_ARGUMENT, "low.nii: flip angles of 24 and 24 degrees, expected two different ones");
    s.second.flip_angle = 0;
    REFUSED(QNET_ERROR_ARGUMENT, "low.nii: flip angles of 24 and 0");
    s.second.flip_angle = 6, s.second.repetition_time = .04;
    REFUSED(QNET_ERROR_ARGUMENT, "low.nii: repetition times of 0.036 and 0.04");
    s.second.repetition_time = s.first.repetition_time = 36;
    REFUSED(QNET_ERROR_ARGUMENT, "low.nii: repetition times of 36 and 36, expected the same at both");
    CHECK(maps == untouched);
    qnet_volume_destroy(none), qnet_volume_destroy(other);
    free_scan(&s);
}

/* What may be no brain, or no map of one, is made and warned of. */
static void test_warned(void)
{
    scan s;
    qnet_maps *maps = NULL;
    qnet_maps_config c = small_config(QNET_MAPS_PAPER);
    make_scan(&s, 1);
#define WARNED(mask, count, part) \
    warnings = 0; \
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &s.first, NULL, mask, &maps)); \
    CHECK(warnings == (count)); \
    CHECK_CONTAINS(logged, part); \
    qnet_maps_destroy(maps), maps = NULL
    s.mask->voxels[NX * NY * 14 + NX * 20 + 18] = 3;
    WARNED(s.mask, 1, "mask: values of 1 to 3 beside 0: maps are made in all of them");
    for (int i = 0; i < COUNT; i++) s.mask->voxels[i] = i / NX / NY < 14 && s.mask->voxels[i] != 0 ? 1.f : 0;
    WARNED(s.mask, 1, "mask: 159 ml, and maps are made in it; a brain has 300 to 2500");
    for (int i = 0; i < COUNT; i++) s.mask->voxels[i] = tissue(i % NX, i / NX % NY, i / NX / NY) >= 0 ? 1.f : 0;
    c.brain.erode = 4; /* BET's of as few */
    WARNED(NULL, 1, " ml, and maps are made in it; a brain has 300 to 2500");
    s.magnitude[0]->affine_source = 0;
    WARNED(s.mask, 1, "echo 1: neither sform nor qform: the main field is taken to lie along the third axis");
    s.magnitude[0]->affine_source = 2;
    s.first.field_strength = .02;
    WARNED(s.mask, 1, "echo 1: QSM has a 99th percentile of about ");
    s.first.phase_sign = -1; /* which is not what is wrong first */
    WARNED(s.mask, 1, "echo 1: QSM has a 99th percentile of about ");
    s.first.field_strength = 3, s.first.phase_sign = 1;
    for (int e = 0; e < MOST; e++) s.echo[e].echo_time /= 20, s.echo[e].phase = NULL;
    WARNED(s.mask, 1, "echo 1: R2* has a median of about 384 1/s and a 99th percentile of");
    for (int e = 0; e < MOST; e++) s.echo[e].echo_time *= 20 * 6;
    WARNED(s.mask, 1, "expected 5 to 80 and 1000 at most: wrong echo times");
    free_scan(&s);
}

/* ---- stops, memory, workers -------------------------------------------------------------------- */

typedef struct stopper { size_t at, reports; double fraction; char tasks[400]; } stopper;

static int stop(void *user, const qnet_progress_info *info)
{
    stopper *s = (stopper *)user;
    s->reports++;
    CHECK(info->step == s->reports && info->fraction > s->fraction && info->fraction <= 1);
    s->fraction = info->fraction;
    if (!strstr(s->tasks, info->task)) strcat(strcat(s->tasks, info->task), ",");
    return s->reports == s->at;
}

static void test_stops_memory_workers(void)
{
    scan s;
    memory_watch watch;
    size_t three = 3;
    qnet_hooks hooks;
    qnet_context *c = NULL;
    qnet_maps *maps = NULL, *other = NULL;
    stopper stopped;
    make_scan(&s, 1);
    memset(&watch, 0, sizeof watch), memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &watch, hooks.allocator.alloc = memory_alloc, hooks.allocator.free = memory_free;
    workers_hook(&hooks, &three);
    hooks.progress.user = &stopped, hooks.progress.report = stop;
    CHECK(qnet_context_create(&hooks, &c) == QNET_OK);
    const size_t before = watch.bytes;
    for (int mode = QNET_MAPS_PAPER; mode <= QNET_MAPS_CONSENSUS; mode++) {
        const qnet_maps_config config = small_config((qnet_maps_mode)mode);
        size_t steps, calls;
        memset(&stopped, 0, sizeof stopped);
        watch.calls = 0;
        CHECK_OK(c, qnet_maps_from_echoes(c, &config, &s.first, &s.second, NULL, &maps));
        CHECK_NEAR(stopped.fraction, 1, 1e-9);
        CHECK(strcmp(stopped.tasks, "brain mask,R2*,T1,unwrap,background,inversion,") == 0);
        steps = stopped.reports, calls = watch.calls;
        /* the same bits with other workers */
        CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &config, &s.first, &s.second, NULL, &other));
        CHECK(memcmp(maps->qsm->voxels, other->qsm->voxels, COUNT * sizeof(float)) == 0);
        CHECK(memcmp(maps->mask->voxels, other->mask->voxels, COUNT * sizeof(float)) == 0);
        qnet_maps_destroy(maps), qnet_maps_destroy(other);
        maps = NULL;
        CHECK(watch.bytes == before);
        for (size_t at = 1; at < steps; at += mode == QNET_MAPS_PAPER ? 1 : 3) { /* the mask given: a step less */
            memset(&stopped, 0, sizeof stopped);
            stopped.at = at;
            CHECK_FAILS(c, qnet_maps_from_echoes(c, &config, &s.first, &s.second, s.mask, &maps), QNET_STOPPED,
                        "qnet_maps_from_echoes: stopped by the caller after");
            CHECK(maps == NULL && watch.bytes == before);
        }
        for (size_t at = 1; at <= calls - 5; at += 1 + calls / 6) { /* all of them: tests/faults/alloc.c */
            memset(&stopped, 0, sizeof stopped);
            watch.calls = 0, watch.fail_at = at;
            CHECK_FAILS(c, qnet_maps_from_echoes(c, &config, &s.first, &s.second, s.mask, &maps), QNET_ERROR_MEMORY,
                        "no memory");
            CHECK(maps == NULL && watch.bytes == before);
            watch.fail_at = 0;
        }
    }
    CHECK(watch.wrong == NULL);
    qnet_context_destroy(c);
    memory_end(&watch);
    free_scan(&s);
}

/* ---- ../shared/data ---------------------------------------------------------------------------- */

/* Correlation, and 100 |x - t| / |t|, inside the mask, x and t less their means. */
static void compare(const qnet_volume *x, const qnet_volume *t, const qnet_volume *mask, double *correlation,
                    double *nrmse)
{
    double n = 0, mx = 0, mt = 0, xx = 0, xt = 0, tt = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < qnet__voxel_count(x->nx, x->ny, x->nz); i++) {
            const double a = (double)x->voxels[i] - (pass ? mx / n : 0), b = (double)t->voxels[i] - (pass ? mt / n : 0);
            if (mask->voxels[i] == 0) continue;
            if (pass == 0) n++, mx += a, mt += b;
            else xx += a * a, xt += a * b, tt += b * b;
        }
    *correlation = xt / sqrt(xx * tt);
    *nrmse = 100 * sqrt((xx - 2 * xt + tt) / tt);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of |x / t - 1|, or of |x - t|, over a mask's voxels whose label is wanted (0: all). */
static double median_error(const qnet_volume *x, const qnet_volume *t, const qnet_volume *mask, int relative)
{
    const size_t count = qnet__voxel_count(x->nx, x->ny, x->nz);
    double *d = (double *)malloc(count * sizeof *d), median;
    size_t n = 0;
    for (size_t i = 0; i < count && d; i++) {
        const double a = (double)x->voxels[i], b = (double)t->voxels[i];
        if (mask->voxels[i] != 0 && (!relative || b > 0)) d[n++] = fabs(relative ? a / b - 1 : a - b);
    }
    if (!d || n == 0) return NAN;
    qsort(d, n, sizeof *d, by_size);
    median = d[n / 2];
    free(d);
    return median;
}

/* Means of a map by the labels of dseg: WM 1, GM 2, CSF 3, caudate 4, putamen 5, pallidum 6, thalamus 7. */
static void regions(const qnet_volume *x, const qnet_volume *labels, const qnet_volume *mask, double mean[8])
{
    double n[8] = {0};
    memset(mean, 0, 8 * sizeof *mean);
    for (size_t i = 0; i < qnet__voxel_count(x->nx, x->ny, x->nz); i++)
        if (mask->voxels[i] != 0) mean[(int)labels->voxels[i]] += (double)x->voxels[i], n[(int)labels->voxels[i]]++;
    for (int k = 0; k < 8; k++) mean[k] /= n[k];
}

static qnet_volume *load(const char *folder, const char *name)
{
    char path[400];
    qnet_volume *v = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK_OK(ctx, qnet_nifti_load(ctx, path, &v));
    return v;
}

/* Echoes by the pattern of their names. */
static void load_echoes(const char *folder, const char *pattern, int count, qnet_echo *echo, qnet_echoes *echoes)
{
    char name[200];
    memset(echoes, 0, sizeof *echoes);
    for (int e = 0; e < count; e++) {
        snprintf(name, sizeof name, pattern, e + 1, "mag");
        echo[e].magnitude = load(folder, name);
        snprintf(name, sizeof name, pattern, e + 1, "phase");
        echo[e].phase = load(folder, name);
        echo[e].echo_time = .005 * (e + 1), echo[e].name = NULL;
    }
    echoes->count = count, echoes->echo = echo;
    echoes->field_strength = 3, echoes->repetition_time = .036, echoes->flip_angle = 24, echoes->phase_sign = 1;
}

static void free_echoes(qnet_echo *echo, int count)
{
    for (int e = 0; e < count; e++)
        qnet_volume_destroy((qnet_volume *)echo[e].magnitude), qnet_volume_destroy((qnet_volume *)echo[e].phase);
}

#define TRUTH "derivatives/truth/sub-01/anat/sub-01_"

/* Six echoes of one real anatomy. A chain of NumPy, SciPy and scikit-image reaches .75, 66 % and 1.2 1/s with the true
   mask. */
static void test_echoes(void)
{
    static const char folder[] = "../shared/data/echoes";
    qnet_echo echo[6];
    qnet_echoes echoes;
    qnet_maps_config c;
    double correlation[3], nrmse[3], qsm[8], rate[8];
    if (!qnet_file_exists("../shared/data/echoes/" TRUTH "Chimap.nii.gz")) {
        printf("skipped: no %s\n", folder);
        return;
    }
    load_echoes("../shared/data/echoes/sub-01/anat", "sub-01_echo-%d_part-%s_MEGRE.nii.gz", 6, echo, &echoes);
    qnet_volume *truth = load(folder, TRUTH "Chimap.nii.gz"), *mask = load(folder, TRUTH "desc-brain_mask.nii.gz");
    qnet_volume *true_rate = load(folder, TRUTH "R2starmap.nii.gz"), *labels = load(folder, TRUTH "dseg.nii.gz");
    qnet_maps_config_init(&c);
    for (int run = 0; run < 3; run++) { /* the true mask, BET's, consensus mode */
        qnet_maps *maps = NULL;
        warnings = 0;
        if (run == 2) qnet_maps_config_consensus(&c);
        CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &echoes, NULL, run == 1 ? NULL : mask, &maps));
        if (!maps) break;
        CHECK(warnings == 0);
        compare(maps->qsm, truth, maps->qsm_mask, &correlation[run], &nrmse[run]);
        const double error = median_error(maps->r2star, true_rate, maps->mask, 0);
        printf("    echoes, %s: correlation %.3f, NRMSE %.1f %%, R2* median error %.2f 1/s\n",
               run == 0 ? "the true mask" : run == 1 ? "BET's mask" : "consensus mode", correlation[run], nrmse[run],
               error);
        CHECK(error <= 1.21);
        regions(maps->qsm, labels, maps->qsm_mask, qsm);
        regions(maps->r2star, labels, maps->qsm_mask, rate);
        CHECK(qsm[6] > qsm[4] && qsm[6] > qsm[5] && qsm[4] > qsm[7] && qsm[5] > qsm[7] && qsm[7] > qsm[1]);
        CHECK(rate[6] > rate[7] && rate[7] > rate[4] && rate[1] > rate[2] && rate[2] > rate[3]);
        qnet_maps_destroy(maps);
    }
    CHECK(correlation[0] >= .77 && nrmse[0] <= 63);
    CHECK(correlation[1] >= correlation[0] - .02 && nrmse[1] <= nrmse[0] + 2);
    CHECK(correlation[2] >= .80 && nrmse[2] <= 60); /* wanted: .75 */
    qnet_volume_destroy(truth), qnet_volume_destroy(mask), qnet_volume_destroy(true_rate), qnet_volume_destroy(labels);
    free_echoes(echo, 6);
}

/* A slab turned by 17 degrees, GE's sign, two flip angles. Its simulated field has a pattern of the highest frequency
   along y, which no step of the paper's mode is there to remove: of the true field, SHARP and the division make a map
   with correlation .33 and NRMSE 201 %, and the paper's mode in NumPy (bench/maps_peers.py truth) one of .328 and 199 %
   of the phases, or .313 and 209 % with the mean of the dipole kernel at the highest frequency, as here. So that mode is
   compared with the map of the true field, and the consensus mode with the truth: wanted is .75. The gain of the second
   scan is another one, too, by a factor that white matter tells. */
static void test_oblique_ge(void)
{
    static const char folder[] = "../shared/data/echoes_oblique_ge";
    qnet_echo low[4], high[4];
    qnet_echoes first, second;
    qnet_maps_config c;
    qnet_maps *maps = NULL;
    qnet_volume *local = NULL, *eroded = NULL, *best = NULL;
    double correlation, nrmse, qsm[8], a[8], b[8];
    if (!qnet_file_exists("../shared/data/echoes_oblique_ge/" TRUTH "Chimap.nii.gz")) {
        printf("skipped: no %s\n", folder);
        return;
    }
    load_echoes("../shared/data/echoes_oblique_ge/sub-01/anat", "sub-01_flip-1_echo-%d_part-%s_VFA.nii.gz", 4, low,
                &first);
    load_echoes("../shared/data/echoes_oblique_ge/sub-01/anat", "sub-01_flip-2_echo-%d_part-%s_VFA.nii.gz", 4, high,
                &second);
    qnet_volume *truth = load(folder, TRUTH "Chimap.nii.gz"), *mask = load(folder, TRUTH "desc-brain_mask.nii.gz");
    qnet_volume *field = load(folder, TRUTH "desc-total_fieldmap.nii.gz"), *labels = load(folder, TRUTH "dseg.nii.gz");
    qnet_volume *t1 = load(folder, TRUTH "T1map.nii.gz");
    first.flip_angle = 6, first.phase_sign = -1;
    qnet_maps_config_init(&c);
    regions(low[0].magnitude, labels, mask, a), regions(high[0].magnitude, labels, mask, b);
    const double gain = spoiled(.85, 24, .036) / spoiled(.85, 6, .036) / (b[1] / a[1]);
    for (size_t i = 0; i < qnet__voxel_count(mask->nx, mask->ny, mask->nz); i++)
        high[0].magnitude->voxels[i] *= (float)gain;
    warnings = 0;
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &first, &second, mask, &maps));
    CHECK(warnings == 0);
    CHECK_OK(ctx, qnet_background_remove(ctx, &c.susceptibility, field, mask, &local, &eroded));
    CHECK_OK(ctx, qnet_dipole_invert(ctx, &c.susceptibility, local, eroded, &best));
    compare(maps->qsm, best, maps->qsm_mask, &correlation, &nrmse);
    printf("    oblique, GE: correlation %.3f, NRMSE %.1f %% with the map of the true field", correlation, nrmse);
    CHECK(correlation >= .9 && nrmse <= 45);
    compare(maps->qsm, truth, maps->qsm_mask, &correlation, &nrmse);
    printf("; %.3f, %.1f %% with the truth, T1 median error %.1f %%\n", correlation, nrmse,
           100 * median_error(maps->t1, t1, maps->mask, 1));
    CHECK(correlation >= .30 && nrmse <= 210);
    CHECK(median_error(maps->t1, t1, maps->mask, 1) < .075); /* of single voxels, whose SNR is 60 before the decay */
    /* Without the noise; the gain is that of white matter, deep nuclei are 6 to 8 % above the truth. */
    regions(maps->t1, labels, maps->mask, a), regions(t1, labels, maps->mask, b);
    for (int k = 1; k < 8; k++) CHECK_NEAR(a[k] / b[k], 1, k == 1 ? .01 : .1);
    regions(maps->qsm, labels, maps->qsm_mask, qsm);
    CHECK(qsm[6] > qsm[4] && qsm[6] > qsm[5] && qsm[4] > qsm[7] && qsm[5] > qsm[7] && qsm[7] > qsm[1]);
    qnet_maps_destroy(maps);
    maps = NULL;
    qnet_maps_config_consensus(&c);
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &first, NULL, mask, &maps));
    compare(maps->qsm, truth, maps->qsm_mask, &correlation, &nrmse);
    printf("    oblique, GE, consensus mode: correlation %.3f, NRMSE %.1f %% with the truth\n", correlation, nrmse);
    CHECK(correlation >= .75 && nrmse <= 70 && warnings == 0);
    regions(maps->qsm, labels, maps->qsm_mask, qsm);
    CHECK(qsm[6] > qsm[4] && qsm[6] > qsm[5] && qsm[4] > qsm[7] && qsm[5] > qsm[7] && qsm[7] > qsm[1]);
    qnet_maps_destroy(maps);
    maps = NULL;
    qnet_maps_config_init(&c);
    first.phase_sign = 1;
    CHECK_OK(ctx, qnet_maps_from_echoes(ctx, &c, &first, NULL, mask, &maps));
    CHECK(warnings == 1);
    CHECK_CONTAINS(logged, "set phase_sign to -1");
    qnet_maps_destroy(maps);
    qnet_volume_destroy(local), qnet_volume_destroy(eroded), qnet_volume_destroy(best);
    qnet_volume_destroy(truth), qnet_volume_destroy(mask), qnet_volume_destroy(field), qnet_volume_destroy(labels);
    qnet_volume_destroy(t1);
    free_echoes(low, 4), free_echoes(high, 4);
}

int main(void)
{
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.log.message = keep_log;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) return 1;
    RUN(test_config);
    RUN(test_steps);
    RUN(test_truth);
    RUN(test_parts);
    RUN(test_grid);
    RUN(test_consistent_phases);
    RUN(test_alignment_breaks_nothing);
    RUN(test_refused);
    RUN(test_warned);
    RUN(test_stops_memory_workers);
    RUN(test_echoes);
    RUN(test_oblique_ge);
    qnet_context_destroy(ctx);
    return test_end();
}
