/* Room >>susceptibility against NumPy in float64 (tests/golden/susceptibility_oracle.py) on four grids, the physics of
   a sphere, the way there and back, and everything that is refused. Tolerances: floats hold 6e-8, and a division by a
   small part of a kernel (1 / .05, 1 / .1) makes that 20 times as large: 1e-5 of a result's norm. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200112L
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "memory.h"
#include "workers.h"
#include "golden/distance.h"
#include "golden/maps_susceptibility.h"

enum { NX = 24, NY = 22, NZ = 18, N = NX * NY * NZ };

static qnet_context *ctx;
static const double pi = 3.14159265358979323846;

/* affine() of susceptibility_oracle.py: turned about x, then y, then z of the world. */
static void turn(qnet_volume *v, const double spacing[3], const double degrees[3])
{
    double r[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
    for (int axis = 0; axis < 3; axis++) {
        const double c = cos(degrees[axis] * pi / 180), s = sin(degrees[axis] * pi / 180);
        const int i = (axis + 1) % 3, j = (axis + 2) % 3;
        for (int k = 0; k < 3; k++) {
            const double a = r[i][k], b = r[j][k];
            r[i][k] = c * a - s * b, r[j][k] = s * a + c * b;
        }
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) v->affine[i][j] = r[i][j] * spacing[j];
    memcpy(v->spacing, spacing, sizeof v->spacing);
}

static qnet_volume *volume(qnet_context *c, int nx, int ny, int nz, double side)
{
    qnet_volume *v = NULL;
    CHECK_OK(c, qnet_volume_create(c, nx, ny, nz, &v));
    for (int i = 0; i < 3; i++) v->affine[i][i] = v->spacing[i] = side;
    return v;
}

static const struct { const char *name; double spacing[3], degrees[3]; } grids[] = {
    {"isotropic", {1.5, 1.5, 1.5}, {0, 0, 0}},
    {"anisotropic", {1, 1.25, 2}, {0, 0, 0}},
    {"oblique", {1.5, 1.5, 1.5}, {17, -9, 31}},
    {"oblique, anisotropic", {1.2, 1, 2}, {25, 12, -8}},
};

/* inputs() of susceptibility_oracle.py: susceptibility, field, mask. */
static void inputs(qnet_context *c, int grid, qnet_volume *v[3])
{
    for (int k = 0; k < 3; k++) {
        v[k] = volume(c, NX, NY, NZ, 1);
        turn(v[k], grids[grid].spacing, grids[grid].degrees);
    }
    for (uint32_t i = 0; i < N; i++) {
        const double x = ((double)(i % NX) + .5) / NX * 2 - 1, y = ((double)(i / NX % NY) + .5) / NY * 2 - 1;
        const double z = ((double)(i / NX / NY) + .5) / NZ * 2 - 1, u = formula(800, i);
        const int inside = x * x + y * y + z * z < .9;
        const double core = (x - .2) * (x - .2) + y * y + z * z < .1 ? .5 : 0;
        v[0]->voxels[i] = (float)(inside ? .3 * (u - .5) + core : 0);
        v[1]->voxels[i] = (float)(.2 * x - .3 * y * z + .25 * (x * x - y * y) + .1 * (u - .5));
        v[2]->voxels[i] = (float)inside;
    }
}

static void destroy(qnet_volume **v, int count)
{
    for (int i = 0; i < count; i++) qnet_volume_destroy(v[i]);
}

static const qnet_volume *const *views(qnet_volume *const *v) { return (const qnet_volume *const *)v; }

static double worst;

/* The distance of v to the golden result of this name. */
static void golden(const char *grid, const char *what, const qnet_volume *v)
{
    const int count = (int)(sizeof golden_maps / sizeof *golden_maps);
    double sums[24], apart;
    int i = 0;
    while (i < count && (strcmp(golden_maps[i].grid, grid) != 0 || strcmp(golden_maps[i].what, what) != 0)) i++;
    if (!CHECK(i < count && v != NULL)) return;
    golden_sketch(v->voxels, 0, N, 24, sums);
    apart = golden_apart(sums, golden_maps[i].norm, golden_maps[i].sums, 24);
    worst = fmax(worst, apart);
    if (!CHECK(apart <= 1e-5)) printf("    %s, %s: %.3g\n", grid, what, apart);
}

static void background(const qnet_susceptibility_config *config, int grid, const char *what, qnet_volume **v)
{
    qnet_volume *made[2] = {NULL, NULL};
    char eroded[40];
    snprintf(eroded, sizeof eroded, "%s, eroded", what);
    CHECK_OK(ctx, qnet_background_remove(ctx, config, v[1], v[2], &made[0], &made[1]));
    golden(grids[grid].name, what, made[0]);
    golden(grids[grid].name, eroded, made[1]);
    destroy(made, 2);
}

static void invert(const qnet_susceptibility_config *config, int grid, const char *what, const qnet_volume *field,
                   const qnet_volume *mask)
{
    qnet_volume *made = NULL;
    CHECK_OK(ctx, qnet_dipole_invert(ctx, config, field, mask, &made));
    golden(grids[grid].name, what, made);
    qnet_volume_destroy(made);
}

static void test_golden(void)
{
    for (int g = 0; g < 4; g++) {
        qnet_susceptibility_config c;
        qnet_volume *v[3], *field = NULL;
        inputs(ctx, g, v);
        CHECK_OK(ctx, qnet_dipole_field(ctx, v[0], &field));
        golden(grids[g].name, "field", field);
        CHECK(memcmp(field->affine, v[0]->affine, sizeof field->affine) == 0);
        qnet_susceptibility_config_init(&c);
        c.sharp_radius = 4.5;
        background(&c, g, "SHARP", v);
        c.sharp_radius = 2, c.sharp_unit = QNET_RADIUS_VOXELS;
        background(&c, g, "SHARP, voxels", v);
        c.background = QNET_VSHARP, c.sharp_radius = 4, c.sharp_threshold = .1;
        background(&c, g, "V-SHARP, voxels", v);
        c.sharp_radius = 6, c.sharp_threshold = .05, c.sharp_unit = QNET_RADIUS_MM;
        background(&c, g, "V-SHARP", v);
        qnet_susceptibility_config_init(&c);
        invert(&c, g, "iSWIM", field, v[2]);
        c.iterations = 0, c.mean_zero = 0;
        invert(&c, g, "TKD", field, v[2]);
        c.iterations = 2, c.mean_zero = 1, c.tkd_threshold = .2, c.iteration_threshold = .05;
        c.sharp_radius = 900; /* is not looked at */
        invert(&c, g, "iSWIM, other values", field, v[2]);
        qnet_susceptibility_config_init(&c);
        c.roll_off = .6;
        invert(&c, g, "iSWIM, roll-off", field, v[2]);
        qnet_volume_destroy(field);
        destroy(v, 3);
    }
    printf("    largest relative distance: %.2g\n", worst);
}

static void test_average(void)
{
    static const double times[3] = {.01, .015, .025};
    const size_t at = (NZ / 2 * NY + NY / 2) * NX + NX / 2;
    qnet_volume *v[3], *map[3], *magnitude[3], *mean = NULL;
    inputs(ctx, 0, v);
    for (uint32_t e = 0; e < 3; e++) {
        map[e] = volume(ctx, NX, NY, NZ, 1.5), magnitude[e] = volume(ctx, NX, NY, NZ, 1.5);
        for (uint32_t i = 0; i < N; i++) {
            map[e]->voxels[i] = (float)(formula(810 + e, i) - .5);
            magnitude[e]->voxels[i] = (float)(formula(820 + e, i) + .1);
        }
    }
    CHECK_OK(ctx, qnet_susceptibility_average(ctx, 3, views(map), views(magnitude), times, v[2], &mean));
    golden("isotropic", "average", mean);
    qnet_volume_destroy(mean);
    for (int e = 0; e < 3; e++) magnitude[e]->voxels[at] = 0;
    CHECK(v[2]->voxels[at] == 1);
    magnitude[0]->affine[0][3] = .01; /* of two grids that are the same but for rounding the map's */
    CHECK_OK(ctx, qnet_susceptibility_average(ctx, 1, views(map), views(magnitude), times, v[2], &mean));
    CHECK(mean->affine[0][3] == 0);
    CHECK(mean->voxels[at] == 0 && mean->voxels[at + 1] == map[0]->voxels[at + 1] && mean->voxels[0] == 0);
    qnet_volume_destroy(mean);
    CHECK_FAILS(ctx, qnet_susceptibility_average(ctx, 0, views(map), views(magnitude), times, v[2], &mean),
                QNET_ERROR_ARGUMENT, "echoes is 0");
    CHECK_FAILS(ctx, qnet_susceptibility_average(ctx, 2, views(map), NULL, times, v[2], &mean),
                QNET_ERROR_ARGUMENT, "NULL");
    destroy(v, 3), destroy(map, 3), destroy(magnitude, 3);
}

/* A sphere of radius a and susceptibility 1 ppm: no change inside, 1/3 (a / r)^3 (3 cos^2 - 1) outside (in ppm; Cheng
   et al. 2009), cos that of the angle to the main field. Four voxels from the edge and further within 2 % of the field
   at the pole, 2/3 ppm; oblique the mean of 2 x 2 x 2 voxels is, as there D jumps at the highest frequency, which then
   rings. And back: the map's difference between inside and outside, as k = 0 is lost, within 2 %; without iteration
   truncation takes 8 %. */
static void sphere(const double spacing[3], const double degrees[3])
{
    const double a = 12; /* mm */
    const int n[3] = {(int)(6 * a / spacing[0]), (int)(6 * a / spacing[1]), (int)(6 * a / spacing[2])};
    const size_t count = (size_t)n[0] * (size_t)n[1] * (size_t)n[2];
    qnet_volume *chi = volume(ctx, n[0], n[1], n[2], 1), *mask = volume(ctx, n[0], n[1], n[2], 1);
    qnet_volume *field = NULL, *back = NULL;
    double *off = (double *)calloc(count, sizeof *off), *radius = (double *)calloc(count, sizeof *radius);
    qnet_susceptibility_config c;
    double b[3], most = 0, moment = 0, length = 0, plain = 0;
    size_t i;
    if (!off || !radius) exit(1);
    turn(chi, spacing, degrees), turn(mask, spacing, degrees);
    qnet_field_direction(chi, b);
    for (int k = 0; k < 3; k++) length += b[k] * b[k];
    CHECK_NEAR(length, 1, 1e-12);
    for (int pass = 0; pass < 2; pass++) {
        i = 0;
        for (int z = 0; z < n[2]; z++)
            for (int y = 0; y < n[1]; y++)
                for (int x = 0; x < n[0]; x++, i++) {
                    const double p[3] = {(x - n[0] / 2) * spacing[0], (y - n[1] / 2) * spacing[1],
                                         (z - n[2] / 2) * spacing[2]};
                    const double r = sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
                    const double along = p[0] * b[0] + p[1] * b[1] + p[2] * b[2];
                    radius[i] = r;
                    if (pass == 0) chi->voxels[i] = (float)(r <= a), moment += r <= a, mask->voxels[i] = 1;
                    else off[i] = (double)field->voxels[i] -
                                  (r > a ? moment / 3 * pow(a / r, 3) * (3 * along * along / r / r - 1) : 0);
                }
        if (pass > 0) break;
        moment *= spacing[0] * spacing[1] * spacing[2] / (4. / 3 * pi * a * a * a); /* voxels over the sphere */
        CHECK_NEAR(moment, 1, .02);
        CHECK_OK(ctx, qnet_dipole_field(ctx, chi, &field));
    }
    for (int z = 0; z + 1 < n[2]; z++)
        for (int y = 0; y + 1 < n[1]; y++)
            for (int x = 0; x + 1 < n[0]; x++) {
                const size_t at = qnet__voxel_at(chi, x, y, z), row = (size_t)n[0], plane = row * (size_t)n[1];
                double e = off[at];
                if (fabs(radius[at] - a) < 4 * fmax(spacing[0], spacing[2])) continue;
                if (b[2] < 1)
                    e = (e + off[at + 1] + off[at + row] + off[at + row + 1] + off[at + plane] + off[at + plane + 1] +
                         off[at + plane + row] + off[at + plane + row + 1]) / 8;
                most = fmax(most, fabs(e));
            }
    CHECK(most < .02 * 2 / 3);
    qnet_susceptibility_config_init(&c);
    for (c.iterations = 0; c.iterations <= 4; c.iterations += 4) {
        double sum[2] = {0, 0}, difference;
        size_t voxels[2] = {0, 0};
        CHECK_OK(ctx, qnet_dipole_invert(ctx, &c, field, mask, &back));
        for (size_t k = 0; k < count; k++) {
            const int outside = radius[k] > 1.25 * a && radius[k] < 2 * a;
            if (radius[k] < .75 * a || outside) sum[outside] += (double)back->voxels[k], voxels[outside]++;
        }
        difference = sum[0] / (double)voxels[0] - sum[1] / (double)voxels[1];
        if (c.iterations == 0) plain = difference;
        else printf("    %g x %g x %g mm, main field (%.2f, %.2f, %.2f): field at most %.2f %% of the pole's off; "
                    "back %.3f, without iteration %.3f ppm\n", spacing[0], spacing[1], spacing[2], b[0], b[1], b[2],
                    150 * most, difference, plain);
        CHECK_NEAR(difference, 1, c.iterations == 0 ? .1 : .02);
        qnet_volume_destroy(back);
    }
    qnet_volume_destroy(chi), qnet_volume_destroy(field), qnet_volume_destroy(mask);
    free(off), free(radius);
}

static void test_sphere(void)
{
    static const double one[3] = {1, 1, 1}, flat[3] = {.8, 1, 1.5}, no[3] = {0, 0, 0}, some[3] = {25, 40, 10};
    sphere(one, no), sphere(one, some), sphere(flat, some);
}

/* The field of sources outside of the mask is removed, that of sources inside stays. */
static void test_background(void)
{
    static const double no[3] = {0, 0, 0}, side[3] = {2, 2, 2};
    enum { M = 48 };
    for (int variable = 0; variable < 2; variable++) {
        qnet_volume *chi[2], *field[2] = {NULL, NULL}, *mask = volume(ctx, M, M, M, 2), *local = NULL, *eroded = NULL;
        qnet_susceptibility_config c;
        double left = 0, was = 0, cross = 0, own = 0, found = 0;
        size_t inside = 0, i = 0;
        for (int k = 0; k < 2; k++) chi[k] = volume(ctx, M, M, M, 2), turn(chi[k], side, no);
        for (int z = 0; z < M; z++)
            for (int y = 0; y < M; y++)
                for (int x = 0; x < M; x++, i++) {
                    const double r = sqrt((x - 24.) * (x - 24.) + (y - 24.) * (y - 24.) + (z - 24.) * (z - 24.));
                    chi[0]->voxels[i] = (float)(fabs(x - 22.) < 3 && fabs(y - 25.) < 4 && fabs(z - 24.) < 3 ? .1 : 0);
                    chi[1]->voxels[i] = (float)(r > 20 && z < 12 && fabs(x - 24.) < 7 ? 9 : 0); /* air below */
                    mask->voxels[i] = (float)(r < 17);
                }
        for (int k = 0; k < 2; k++) CHECK_OK(ctx, qnet_dipole_field(ctx, chi[k], &field[k]));
        for (size_t k = 0; k < i; k++) field[1]->voxels[k] += field[0]->voxels[k];
        qnet_susceptibility_config_init(&c);
        c.background = variable ? QNET_VSHARP : QNET_SHARP;
        CHECK_OK(ctx, qnet_background_remove(ctx, &c, field[1], mask, &local, &eroded));
        for (size_t k = 0; k < i; k++) {
            const double truth = (double)field[0]->voxels[k], all = (double)field[1]->voxels[k] - truth;
            if (eroded->voxels[k] == 0) {
                CHECK(local->voxels[k] == 0);
                continue;
            }
            inside++;
            was += all * all, own += truth * truth, found += (double)local->voxels[k] * (double)local->voxels[k];
            cross += truth * (double)local->voxels[k];
            left += ((double)local->voxels[k] - truth) * ((double)local->voxels[k] - truth);
        }
        printf("    %s: %lu voxels, background %.2f times the local field, then off by %.2f of it, correlation %.3f\n",
               variable ? "V-SHARP" : "SHARP", (unsigned long)inside, sqrt(was / own), sqrt(left / own),
               cross / sqrt(own * found));
        CHECK(was > 4 * own && cross > .9 * sqrt(own * found) && left < .25 * own);
        destroy(chi, 2), destroy(field, 2);
        qnet_volume_destroy(mask), qnet_volume_destroy(local), qnet_volume_destroy(eroded);
    }
}

/* Of a sphere of more than 1000 voxels (the paper's grid, .43 x .43 x 2 mm) each one lies in the mask, counted one by
   one; a mask with holes, so that many spheres miss a single voxel. */
static void test_sphere_fits(void)
{
    enum { X = 64, Y = 60, Z = 20, R = 14, RZ = 3 };
    static const double no[3] = {0, 0, 0}, side[3] = {.43, .43, 2};
    qnet_volume *field = volume(ctx, X, Y, Z, 1), *mask = volume(ctx, X, Y, Z, 1), *local = NULL, *eroded = NULL;
    qnet_susceptibility_config c;
    size_t wrong = 0, inside = 0, voxels = 0;
    turn(field, side, no), turn(mask, side, no);
    for (int i = 0; i < X * Y * Z; i++)
        mask->voxels[i] = i != (9 * Y + 2) * X + 30 && i != (4 * Y + 57) * X + 20;
    qnet_susceptibility_config_init(&c);
    CHECK_OK(ctx, qnet_background_remove(ctx, &c, field, mask, &local, &eroded));
    for (int z = 0; z < Z; z++)
        for (int y = 0; y < Y; y++)
            for (int x = 0; x < X; x++) {
                int fits = 1;
                voxels = 0;
                for (int k = -RZ; k <= RZ; k++)
                    for (int j = -R; j <= R; j++)
                        for (int i = -R; i <= R; i++) {
                            if (i * i * .43 * .43 + j * j * .43 * .43 + k * k * 4. > 36.0001) continue;
                            voxels++;
                            fits = fits && x + i >= 0 && x + i < X && y + j >= 0 && y + j < Y && z + k >= 0 &&
                                   z + k < Z && mask->voxels[((z + k) * Y + y + j) * X + x + i] != 0;
                        }
                inside += fits != 0;
                wrong += fits != (eroded->voxels[(z * Y + y) * X + x] != 0);
            }
    printf("    a sphere of %lu voxels fits %lu times\n", (unsigned long)voxels, (unsigned long)inside);
    CHECK(voxels > 1000 && inside > 1000 && wrong == 0);
    qnet_volume_destroy(field), qnet_volume_destroy(mask), qnet_volume_destroy(local), qnet_volume_destroy(eroded);
}

static void test_direction(void)
{
    static const double side[3] = {1, 2, 3}, tilt[3] = {17, 0, 0}, no[3] = {0, 0, 0};
    qnet_volume *v = volume(ctx, 2, 2, 2, 1);
    double b[3];
    turn(v, side, no);
    qnet_field_direction(v, b);
    CHECK(b[0] == 0 && b[1] == 0 && b[2] == 1);
    turn(v, side, tilt);
    qnet_field_direction(v, b);
    CHECK_NEAR(b[0], 0, 1e-12), CHECK_NEAR(b[1], sin(17 * pi / 180), 1e-12);
    CHECK_NEAR(b[2], cos(17 * pi / 180), 1e-12);
    for (int i = 0; i < 3; i++) v->affine[i][2] = -v->affine[i][2]; /* a flipped axis */
    qnet_field_direction(v, b);
    CHECK_NEAR(b[1], sin(17 * pi / 180), 1e-12), CHECK_NEAR(b[2], -cos(17 * pi / 180), 1e-12);
    qnet_volume_destroy(v);
}

/* The axes of a volume are a matter of its affine alone: flipped or in another order, the map is the same. */
static void test_axes(void)
{
    qnet_volume *v[3], *field = NULL, *straight = NULL, *turned = NULL;
    qnet_susceptibility_config c;
    double most = 0;
    inputs(ctx, 3, v);
    qnet_susceptibility_config_init(&c);
    CHECK_OK(ctx, qnet_dipole_field(ctx, v[0], &field));
    CHECK_OK(ctx, qnet_dipole_invert(ctx, &c, field, v[2], &straight));
    CHECK_OK(ctx, qnet_volume_reorient(field, "PIL"));
    CHECK_OK(ctx, qnet_volume_reorient(v[2], "PIL"));
    CHECK_OK(ctx, qnet_dipole_invert(ctx, &c, field, v[2], &turned));
    CHECK_OK(ctx, qnet_volume_reorient(turned, straight->orientation));
    for (size_t i = 0; i < N; i++) most = fmax(most, fabs((double)turned->voxels[i] - (double)straight->voxels[i]));
    printf("    in other axes: at most %.2g ppm off\n", most);
    CHECK(most < 1e-5);
    qnet_volume_destroy(field), qnet_volume_destroy(straight), qnet_volume_destroy(turned);
    destroy(v, 3);
}

static void test_workers(void)
{
    static size_t workers[] = {1, 2, 3, 8};
    uint64_t hash[8];
    for (size_t w = 0; w < 8; w++) { /* of that hook, then of OpenMP where it is */
        qnet_hooks hooks;
        qnet_context *c;
        qnet_susceptibility_config config;
        qnet_volume *v[3], *made[4] = {NULL, NULL, NULL, NULL};
        memset(&hooks, 0, sizeof hooks);
        if (w < 4) {
            workers_hook(&hooks, &workers[w]);
        } else {
            hooks.threads = (int)workers[w - 4];
        }
        CHECK(qnet_context_create(&hooks, &c) == QNET_OK);
        inputs(c, 3, v);
        qnet_susceptibility_config_init(&config);
        CHECK_OK(c, qnet_dipole_field(c, v[0], &made[0]));
        CHECK_OK(c, qnet_background_remove(c, &config, v[1], v[2], &made[1], &made[2]));
        CHECK_OK(c, qnet_dipole_invert(c, &config, made[1], made[2], &made[3]));
        hash[w] = QNET_HASH_START;
        for (int i = 0; i < 4; i++) hash[w] = qnet_hash(hash[w], made[i]->voxels, N * sizeof(float));
        CHECK(hash[w] == hash[0]);
        destroy(v, 3), destroy(made, 4);
        qnet_context_destroy(c);
    }
}

static double correlation(const qnet_volume *a, const qnet_volume *b, const qnet_volume *mask)
{
    double n = 0, sum[2] = {0, 0}, square[2] = {0, 0}, product = 0;
    for (size_t i = 0; i < (size_t)mask->nx * (size_t)mask->ny * (size_t)mask->nz; i++) {
        const double x = (double)a->voxels[i], y = (double)b->voxels[i];
        if (mask->voxels[i] == 0) continue;
        n++, sum[0] += x, sum[1] += y, square[0] += x * x, square[1] += y * y, product += x * y;
    }
    return (n * product - sum[0] * sum[1]) /
           sqrt((n * square[0] - sum[0] * sum[0]) * (n * square[1] - sum[1] * sum[1]));
}

/* A real anatomy with known truth, straight and on an oblique slab: the total field to the local one, and that to the
   susceptibility. The oblique one's background was made by D, too, and rings at the highest frequency: no sphere's mean
   removes that (NumPy's SHARP has the same .386 there; of means of 2 x 2 x 2 voxels a fourteenth of it stays). */
static void test_shared(void)
{
    static const char *const names[] = {"Chimap", "desc-total_fieldmap", "desc-local_fieldmap", "desc-brain_mask"};
    static const char *const sets[] = {"echoes", "echoes_oblique_ge"};
    for (int s = 0; s < 2; s++) {
        qnet_susceptibility_config c;
        qnet_volume *v[4] = {NULL, NULL, NULL, NULL}, *local = NULL, *eroded = NULL, *chi = NULL, *best = NULL;
        char path[200];
        double r[3];
        snprintf(path, sizeof path, "../shared/data/%s/dataset_description.json", sets[s]);
        if (!qnet_file_exists(path)) {
            printf("    skipped: no ../shared/data/%s\n", sets[s]);
            continue;
        }
        for (int k = 0; k < 4; k++) {
            snprintf(path, sizeof path, "../shared/data/%s/derivatives/truth/sub-01/anat/sub-01_%s.nii.gz", sets[s],
                     names[k]);
            CHECK_OK(ctx, qnet_nifti_load(ctx, path, &v[k]));
        }
        qnet_susceptibility_config_init(&c);
        CHECK_OK(ctx, qnet_background_remove(ctx, &c, v[1], v[3], &local, &eroded));
        CHECK_OK(ctx, qnet_dipole_invert(ctx, &c, local, eroded, &chi));
        CHECK_OK(ctx, qnet_dipole_invert(ctx, &c, v[2], v[3], &best));
        r[0] = correlation(local, v[2], eroded), r[1] = correlation(chi, v[0], eroded);
        r[2] = correlation(best, v[0], v[3]);
        printf("    %s: correlation with the truth: local field %.3f, map %.3f, map of the true local field %.3f\n",
               sets[s], r[0], r[1], r[2]);
        CHECK(r[0] > (s == 0 ? .88 : .37) && r[1] > (s == 0 ? .78 : .3) && r[2] > .9);
        destroy(v, 4);
        qnet_volume_destroy(local), qnet_volume_destroy(eroded), qnet_volume_destroy(chi), qnet_volume_destroy(best);
    }
}

/* A hook that has its transforms from another context. */
static int there(void *user, int nx, int ny, int nz, const float *x, float *spectrum)
{
    (void)user;
    return qnet_fft_real(ctx, nx, ny, nz, (const qnet_real *)(const void *)x, (qnet_real *)(void *)spectrum) != QNET_OK;
}

static int back(void *user, int nx, int ny, int nz, float *spectrum, float *x)
{
    (void)user;
    return qnet_fft_real_inverse(ctx, nx, ny, nz, (qnet_real *)(void *)spectrum, (qnet_real *)(void *)x) != QNET_OK;
}

static int calls;

static int fails(void *user, int nx, int ny, int nz, const float *x, float *spectrum)
{
    (void)user, (void)nx, (void)ny, (void)nz, (void)x, (void)spectrum;
    calls++;
    return 1;
}

static int fails_back(void *user, int nx, int ny, int nz, float *spectrum, float *x)
{
    return fails(user, nx, ny, nz, spectrum, x);
}

/* Transforms go through the hook, to the same but for rounding (other rows share a complex line), and its failure comes
   out. */
static void test_hook(void)
{
    qnet_volume *made[2][4];
    memory_watch m;
    qnet_hooks hooks;
    qnet_context *c, *context[2];
    qnet_volume *v[3], *out = NULL, *eroded = NULL;
    qnet_susceptibility_config config;
    if (QNET__REAL_IS_DOUBLE) return;
    memset(&m, 0, sizeof m);
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &m, hooks.allocator.alloc = memory_alloc, hooks.allocator.free = memory_free;
    for (int by = 0; by < 2; by++) {
        memset(made[by], 0, sizeof made[by]);
        if (by) hooks.fft.forward = there, hooks.fft.inverse = back;
        CHECK(qnet_context_create(&hooks, &c) == QNET_OK);
        inputs(c, 3, v);
        qnet_susceptibility_config_init(&config);
        CHECK_OK(c, qnet_dipole_field(c, v[0], &made[by][0]));
        CHECK_OK(c, qnet_background_remove(c, &config, v[1], v[2], &made[by][1], &made[by][2]));
        CHECK_OK(c, qnet_dipole_invert(c, &config, made[by][1], made[by][2], &made[by][3]));
        destroy(v, 3);
        for (int i = 0; by && i < 4; i++) {
            double most = 0, off = 0;
            for (int k = 0; k < N; k++) {
                most = fmax(most, fabs((double)made[0][i]->voxels[k]));
                off = fmax(off, fabs((double)made[0][i]->voxels[k] - (double)made[1][i]->voxels[k]));
            }
            CHECK(most > 0 && off <= 2e-6 * most);
        }
        if (by) destroy(made[1], 4);
        context[by] = c;
    }
    destroy(made[0], 4);
    qnet_context_destroy(context[0]), qnet_context_destroy(context[1]);
    hooks.fft.forward = fails, hooks.fft.inverse = fails_back;
    CHECK(qnet_context_create(&hooks, &c) == QNET_OK);
    inputs(c, 0, v);
    qnet_susceptibility_config_init(&config);
    CHECK_FAILS(c, qnet_dipole_field(c, v[0], &out), QNET_ERROR_DATA, "FFT hook failed");
    CHECK_FAILS(c, qnet_background_remove(c, &config, v[1], v[2], &out, &eroded), QNET_ERROR_DATA, "FFT hook failed");
    CHECK_FAILS(c, qnet_dipole_invert(c, &config, v[1], v[2], &out), QNET_ERROR_DATA, "FFT hook failed");
    CHECK(out == NULL && eroded == NULL && calls == 3);
    destroy(v, 3);
    qnet_context_destroy(c);
    memory_end(&m);
}

static void refuse_config(qnet_susceptibility_config c, const char *part, const qnet_volume *field,
                          const qnet_volume *mask)
{
    qnet_volume *out = NULL, *eroded = NULL;
    CHECK_FAILS(ctx, qnet_background_remove(ctx, &c, field, mask, &out, &eroded), QNET_ERROR_ARGUMENT, part);
    if (strstr(part, "expected") == NULL) /* of the sphere, which the inversion has not */
        CHECK_FAILS(ctx, qnet_dipole_invert(ctx, &c, field, mask, &out), QNET_ERROR_ARGUMENT, part);
    CHECK(out == NULL && eroded == NULL);
}

static void test_refusals(void)
{
    qnet_volume *v[3], *small = volume(ctx, 3, 3, 3, 1.5), *out = NULL, *eroded = NULL;
    qnet_susceptibility_config c, good;
    inputs(ctx, 0, v);
    qnet_susceptibility_config_init(&good);
    CHECK_FAILS(ctx, qnet_dipole_field(ctx, NULL, &out), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_dipole_field(ctx, v[0], NULL), QNET_ERROR_ARGUMENT, "is NULL, expected ctx && field");
    CHECK_FAILS(ctx, qnet_background_remove(ctx, NULL, v[1], v[2], &out, &eroded), QNET_ERROR_ARGUMENT, "config");
    CHECK_FAILS(ctx, qnet_background_remove(ctx, &good, v[1], NULL, &out, &eroded), QNET_ERROR_ARGUMENT, "mask");
    CHECK_FAILS(ctx, qnet_dipole_invert(ctx, &good, v[1], v[2], NULL), QNET_ERROR_ARGUMENT, "is NULL, expected ctx && config && susceptibility");
#define CONFIG(field, value, part) \
    do { \
        c = good; \
        c.field = value; \
        refuse_config(c, part, v[1], v[2]); \
    } while (0)
    CONFIG(sharp_threshold, 0, "sharp_threshold is 0");
    CONFIG(sharp_threshold, NAN, "sharp_threshold");
    CONFIG(sharp_radius, -1, "sharp_radius is -1");
    CONFIG(sharp_radius, 1, "sharp_radius 1: expected 1.5 or more");
    CONFIG(sharp_radius, 100, "sharp_radius 100: expected less than 36, side 1");
    CONFIG(tkd_threshold, 0, "tkd_threshold is 0");
    CONFIG(tkd_threshold, .7, "tkd_threshold is 0.7");
    CONFIG(iteration_threshold, -1, "iteration_threshold is -1");
    CONFIG(iterations, -1, "iterations is -1");
    CONFIG(mean_zero, 2, "mean_zero is 2");
    CONFIG(background, (qnet_background)7, "background is 7, expected 0 to 1");
    CONFIG(sharp_unit, (qnet_radius_unit)3, "sharp_unit is 3, expected 0 to 1");
#undef CONFIG
    CHECK_FAILS(ctx, qnet_dipole_invert(ctx, &good, v[1], small, &out), QNET_ERROR_SHAPE, "mask");
    v[1]->voxels[100] = NAN;
    CHECK_FAILS(ctx, qnet_background_remove(ctx, &good, v[1], v[2], &out, &eroded), QNET_ERROR_NUMERIC, "field");
    CHECK_FAILS(ctx, qnet_dipole_invert(ctx, &good, v[1], v[2], &out), QNET_ERROR_NUMERIC, "local field");
    CHECK_FAILS(ctx, qnet_dipole_field(ctx, v[1], &out), QNET_ERROR_NUMERIC, "susceptibility");
    v[1]->voxels[100] = 0;
    for (int i = 0; i < N; i++) v[2]->voxels[i] = (float)(i % 3 == 0);
    CHECK_FAILS(ctx, qnet_background_remove(ctx, &good, v[1], v[2], &out, &eroded), QNET_ERROR_DATA,
                "no sphere of sharp_radius 6 mm");
    memset(v[2]->voxels, 0, N * sizeof(float));
    CHECK_FAILS(ctx, qnet_background_remove(ctx, &good, v[1], v[2], &out, &eroded), QNET_ERROR_DATA, "empty");
    CHECK_FAILS(ctx, qnet_dipole_invert(ctx, &good, v[1], v[2], &out), QNET_ERROR_DATA, "empty");
    v[1]->affine[0][1] = .5;
    CHECK_FAILS(ctx, qnet_dipole_field(ctx, v[1], &out), QNET_ERROR_UNSUPPORTED, "degrees");
    CHECK(out == NULL && eroded == NULL);
    qnet_volume_destroy(small);
    destroy(v, 3);
}

/* Within the limit of 2^28 voxels as it is, and above it when it is padded. */
static void test_limit(void)
{
    qnet_volume *v = NULL, *out = NULL;
    CHECK_OK(ctx, qnet_volume_create(ctx, 330, 330, 310, &v));
    CHECK_FAILS(ctx, qnet_dipole_field(ctx, v, &out), QNET_ERROR_LIMIT, "330 x 330 x 310 voxels, padded to 672 x 672");
    CHECK(out == NULL);
    qnet_volume_destroy(v);
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    RUN(test_golden);
    RUN(test_average);
    RUN(test_sphere);
    RUN(test_background);
    RUN(test_sphere_fits);
    RUN(test_direction);
    RUN(test_axes);
    RUN(test_workers);
    RUN(test_shared);
    RUN(test_hook);
    RUN(test_refusals);
    RUN(test_limit);
    qnet_context_destroy(ctx);
    return test_end();
}
