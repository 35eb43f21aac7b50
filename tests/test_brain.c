/* Room >>brain: BET against NumPy (tests/golden/make_maps_brain.py), its parts against plain loops and geometry,
   made-up and simulated heads whose brain is known, any number of workers, and everything that it refuses. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200112L
#endif
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "memory.h"
#include "workers.h"
#include "golden/formula.h"
#include "golden/maps_brain.h"

static qnet_context *ctx;

static qnet_volume *volume(int nx, int ny, int nz, double mx, double my, double mz)
{
    const double mm[3] = {mx, my, mz};
    qnet_volume *v = NULL;
    CHECK_OK(ctx, qnet_volume_create(ctx, nx, ny, nz, &v));
    if (v == NULL) abort();
    for (int i = 0; i < 3; i++) v->spacing[i] = v->affine[i][i] = mm[i];
    return v;
}

static size_t size(const qnet_volume *v) { return (size_t)v->nx * (size_t)v->ny * (size_t)v->nz; }

static size_t inside(const qnet_volume *v)
{
    size_t n = 0, zeros = 0;
    for (size_t i = 0; i < size(v); i++) n += v->voxels[i] == 1, zeros += v->voxels[i] == 0;
    CHECK(n + zeros == size(v));
    return n;
}

/* 2 (a and b) / (a + b) */
static double dice(const qnet_volume *a, const qnet_volume *b)
{
    size_t both = 0;
    for (size_t i = 0; i < size(a); i++) both += a->voxels[i] != 0 && b->voxels[i] != 0;
    return 2.0 * (double)both / (double)(inside(a) + inside(b));
}

/* The head of the script: a brain with a bright core, a dark gap, a scalp that is brighter still, noise. */
static qnet_volume *head(void)
{
    qnet_volume *v = volume(44, 40, 30, 2, 2.5, 3);
    for (int z = 0, at = 0; z < 30; z++)
        for (int y = 0; y < 40; y++)
            for (int x = 0; x < 44; x++, at++) {
                const int r = 100 * (x - 21) * (x - 21) + 144 * (y - 19) * (y - 19) + 256 * (z - 12) * (z - 12);
                v->voxels[at] = (float)((r < 8100 ? 1100 : r < 22500 ? 900 : r < 30625 ? 60 : r < 36100 ? 1500 : 0) +
                                        (int)(81 * formula(90, (uint32_t)at)));
            }
    return v;
}

static qnet_brain_config config_of(double threshold, int erode, int island)
{
    qnet_brain_config c;
    qnet_brain_config_init(&c);
    CHECK(c.threshold == .2 && c.erode == 4 && c.island == 2000); /* the paper's */
    c.threshold = threshold, c.erode = erode, c.island = island;
    return c;
}

/* ---- the surface ------------------------------------------------------------------------------ */

static void test_mesh(void)
{
    qnet__mesh *m = (qnet__mesh *)calloc(1, sizeof *m);
    int fives = 0, ordered = 1, outwards = 1, symmetric = 1;
    double shortest = 9, longest = 0;
    qnet__mesh_build(m);
    for (int v = 0; v < QNET__MESH_VERTICES; v++) {
        CHECK_NEAR(qnet__dot3(m->start[v], m->start[v]), 1, 1e-14);
        CHECK(m->neighbors[v] == 6 || m->neighbors[v] == 5);
        fives += m->neighbors[v] == 5;
        for (int k = 0; k < m->neighbors[v]; k++) {
            const int a = m->neighbor[v][k], b = m->neighbor[v][(k + 1) % m->neighbors[v]];
            double corner[3][3];
            int back = 0, face = 0;
            shortest = fmin(shortest, qnet__distance3(m->start[v], m->start[a]));
            longest = fmax(longest, qnet__distance3(m->start[v], m->start[a]));
            for (int i = 0; i < m->neighbors[a]; i++) back |= m->neighbor[a][i] == v, face |= m->neighbor[a][i] == b;
            symmetric &= back && face;
            memcpy(corner[0], m->start[v], sizeof corner[0]);
            memcpy(corner[1], m->start[a], sizeof corner[0]);
            memcpy(corner[2], m->start[b], sizeof corner[0]);
            ordered &= qnet__det3(corner) > 0;
        }
    }
    for (int f = 0; f < QNET__MESH_FACES; f++) {
        double corner[3][3];
        for (int k = 0; k < 3; k++) memcpy(corner[k], m->start[m->face[f][k]], sizeof corner[0]);
        outwards &= qnet__det3(corner) > 0;
    }
    CHECK(fives == 12 && ordered && outwards && symmetric);
    CHECK(shortest > .06 && longest < .09);
    CHECK(qnet__mesh_crossing(m, m->start) < 1e-20);
    /* A sphere that is pressed flat lies on itself. */
    for (int v = 0; v < QNET__MESH_VERTICES; v++) {
        memcpy(m->at[0][v], m->start[v], sizeof m->at[0][v]);
        m->at[0][v][0] *= 1e-3;
    }
    CHECK(qnet__mesh_crossing(m, m->at[0]) > QNET__BET_CROSSING);
    free(m);
}

/* A sphere of faces lies between its radius and that of its faces' middles. Centres on voxels and between them, where
   faces have corners at heights of slices and rows; partly and wholly outside of the volume. */
static void test_fill(void)
{
    static const double centers[][3] = {{30, 25, 24}, {30.3, 24.1, 22.7}, {0, 0, 0}, {60, 24, 40}, {200, 0, 0}};
    qnet__mesh *m = (qnet__mesh *)calloc(1, sizeof *m);
    qnet__mesh_build(m);
    for (int c = 0; c < 5; c++) {
        qnet_volume *v = volume(61, 25, 17, 1, 2, 3);
        int wrong = 0;
        for (int k = 0; k < QNET__MESH_VERTICES; k++)
            for (int i = 0; i < 3; i++) m->at[0][k][i] = centers[c][i] + 20 * m->start[k][i];
        qnet__mesh_fill(m, m->at[0], v);
        for (int z = 0, at = 0; z < 17; z++)
            for (int y = 0; y < 25; y++)
                for (int x = 0; x < 61; x++, at++) {
                    const double place[3] = {x, 2.0 * y, 3.0 * z}, r = qnet__distance3(place, centers[c]);
                    wrong += (r < 19.95 && v->voxels[at] != 1) || (r > 20.0001 && v->voxels[at] != 0);
                }
        CHECK(wrong == 0);
        CHECK(c < 4 ? inside(v) > 500 : inside(v) == 0);
        qnet_volume_destroy(v);
        /* Turned inside out there is no inside, where a surface crosses itself, too. */
        v = volume(61, 25, 17, 1, 2, 3);
        for (int k = 0; k < QNET__MESH_VERTICES; k++)
            for (int i = 0; i < 3; i++) m->at[0][k][i] = centers[c][i] + (i == 0 ? -20 : 20) * m->start[k][i];
        qnet__mesh_fill(m, m->at[0], v);
        CHECK(inside(v) == 0);
        qnet_volume_destroy(v);
    }
    free(m);
}

/* ---- parts ------------------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void test_kth(void)
{
    static float x[1000], sorted[1000];
    static const uint32_t values[4] = {100000, 3, 1, 0}; /* many, few, one, ascending */
    for (int kind = 0; kind < 4; kind++)
        for (size_t n = 1; n <= 1000; n = n * 3 + 1)
            for (size_t k = 0; k < n; k += n / 7 + 1) {
                for (size_t i = 0; i < n; i++)
                    x[i] = sorted[i] = kind == 3 ? (float)i : (float)(formula_bits(91, (uint32_t)i) % values[kind]);
                qsort(sorted, n, sizeof *sorted, by_size);
                CHECK(qnet__kth(x, n, k) == sorted[k]);
                qsort(x, n, sizeof *x, by_size);
                CHECK(memcmp(x, sorted, n * sizeof *x) == 0);
            }
}

/* '#' and digits are mask; in answers '#' is. */
static void draw(qnet_volume *v, const char *picture)
{
    for (size_t i = 0; i < size(v); i++) v->voxels[i] = picture[i] != '.';
}

static void check_drawing(const qnet_volume *v, const char *picture)
{
    for (size_t i = 0; i < size(v); i++) CHECK(v->voxels[i] == (picture[i] == '#'));
}

static void test_components(void)
{
    static const char picture[] = "##.1111."
                                  "#..1..1."
                                  ".#.1111."
                                  "2......#", /* corners do not connect */
        large[] = "...####."
                  "...#..#."
                  "...####."
                  "........",
        three[] = "##.####."
                  "#..#..#."
                  "...####."
                  "........",
        filled[] = "##.####."
                   "#..####."
                   ".#.####."
                   "#......#";
    uint32_t queue[32];
    qnet_volume *v = volume(8, 4, 1, 1, 1, 1), *cube = volume(5, 5, 5, 1, 1, 1);
    draw(v, picture);
    size_t size;
    const float largest = qnet__largest_component(v, queue, &size);
    for (int i = 0; i < 32; i++) v->voxels[i] = v->voxels[i] == largest;
    CHECK(size == 10);
    check_drawing(v, large);
    draw(v, picture);
    CHECK(qnet__keep_components(v, 3, queue) == 13);
    check_drawing(v, three);
    CHECK(qnet__keep_components(v, 11, queue) == 0 && inside(v) == 0);
    CHECK(qnet__largest_component(v, queue, &size) > 1 && size == 0 && inside(v) == 0);
    qnet_volume_destroy(v);
    /* In one slice all is border; a hole is what is closed in along all three axes. */
    v = volume(8, 4, 3, 1, 1, 1);
    for (int z = 0; z < 3; z++)
        for (size_t i = 0; i < 32; i++) v->voxels[(size_t)z * 32 + i] = (z == 1 ? picture : filled)[i] != '.';
    uint32_t large_queue[125];
    qnet__fill_holes(v, large_queue);
    for (size_t i = 0; i < 32; i++) CHECK(v->voxels[32 + i] == (filled[i] == '#'));
    for (size_t i = 0; i < 125; i++) cube->voxels[i] = 1;
    cube->voxels[62] = cube->voxels[63] = 0; /* the middle, and one beside it */
    qnet__fill_holes(cube, large_queue);
    CHECK(inside(cube) == 125);
    cube->voxels[62] = cube->voxels[63] = cube->voxels[64] = 0; /* as far as the border */
    qnet__fill_holes(cube, large_queue);
    CHECK(inside(cube) == 122);
    qnet_volume_destroy(v), qnet_volume_destroy(cube);
}

/* Against all offsets of the disc, tried one by one. */
static void test_erosion(void)
{
    for (int radius = 1; radius <= 9; radius += 1 + radius / 4) {
        qnet_volume *v = volume(23, 19, 2, 1, 1, 1), *mask = volume(23, 19, 2, 1, 1, 1);
        uint32_t distance[23 * 19 * 2];
        qnet__erosion e = {mask, distance, radius};
        for (size_t i = 0; i < size(v); i++)
            v->voxels[i] = mask->voxels[i] = formula(92, (uint32_t)i) > .002 * (radius < 4 ? 20 : 1);
        for (size_t z = 0; z < 2; z++) qnet__erosion_task(&e, z, 0);
        for (int z = 0, at = 0; z < 2; z++)
            for (int y = 0; y < 19; y++)
                for (int x = 0; x < 23; x++, at++) {
                    int stays = 1;
                    for (int dy = -radius; dy <= radius; dy++)
                        for (int dx = -radius; dx <= radius; dx++)
                            if (dx * dx + dy * dy <= radius * radius)
                                stays &= x + dx >= 0 && x + dx < 23 && y + dy >= 0 && y + dy < 19 &&
                                         v->voxels[at + dy * 23 + dx] != 0;
                    CHECK(mask->voxels[at] == (float)stays);
                }
        qnet_volume_destroy(v), qnet_volume_destroy(mask);
    }
}

/* ---- BET -------------------------------------------------------------------------------------- */

/* Thresholds to the last digits; the surface's sums while rounding has not grown yet; the mask at its end. */
static void test_golden(void)
{
    qnet_volume *image = head(), *mask = NULL, *theirs = volume(44, 40, 30, 2, 2.5, 3);
    const qnet_brain_config config = config_of(.2, 0, 0);
    qnet__mesh *mesh = (qnet__mesh *)calloc(1, sizeof *mesh);
    float *work = (float *)malloc(size(image) * sizeof *work);
    qnet__bet b;
    memset(&b, 0, sizeof b);
    b.image = image, b.mesh = mesh, b.bias = pow(.2, .275);
    for (int i = 0; i < 3; i++) b.per_mm[i] = 1 / image->spacing[i];
    CHECK_OK(ctx, qnet__bet_head(ctx, &b, "image", work));
    const double found[8] = {b.t2, b.t98, b.t, b.tm, b.center[0], b.center[1], b.center[2], b.radius};
    for (int i = 0; i < 8; i++) CHECK_NEAR(found[i], golden_head[i], 1e-12 * golden_head[i]);
    qnet__mesh_build(mesh);
    qnet__bet_start(&b);
    for (int step = 0, k = 0; k < 5; step++) {
        double (*at)[3] = mesh->at[b.from], sum[5] = {qnet__mesh_edge(mesh, at), 0, 0, 0, 0};
        if (step == (int)golden_steps[k][0]) {
            for (int v = 0; v < QNET__MESH_VERTICES; v++) {
                for (int i = 0; i < 3; i++) sum[1 + i] += at[v][i];
                sum[4] += qnet__dot3(at[v], at[v]);
            }
            for (int i = 0; i < 5; i++) CHECK_NEAR(sum[i], golden_steps[k][1 + i], 1e-9 * golden_steps[k][1 + i]);
            k++;
        }
        qnet__bet_step(ctx, &b, 0, step);
    }
    for (size_t i = 0, at = 0; i < sizeof golden_mask / sizeof golden_mask[0]; i++)
        for (int n = 0; n < golden_mask[i] && at < size(theirs); n++) theirs->voxels[at++] = (float)(i % 2);
    CHECK_OK(ctx, qnet_brain_mask(ctx, &config, image, &mask));
    printf("    Dice with NumPy's mask: %.5f\n", dice(mask, theirs));
    CHECK(dice(mask, theirs) > .999);
    CHECK(mask->spacing[1] == 2.5 && mask->affine[2][2] == 3);
    free(mesh), free(work);
    qnet_volume_destroy(image), qnet_volume_destroy(mask), qnet_volume_destroy(theirs);
}

/* Without a force of the image (bias 1 on one grey) only curvature moves a vertex. A dent in a sphere is filled more
   in later passes, up to all the way to the mean of its neighbours, and less at their ends; convex places do not
   know of passes. */
static void test_passes(void)
{
    static const int cases[5][2] = {{0, 0}, {0, 999}, {1, 0}, {5, 0}, {5, 999}}; /* pass, step */
    qnet_volume *image = volume(40, 40, 40, 5, 5, 5);
    qnet__bet b;
    double moved[5], convex[5] = {0, 0, 0, 0, 0}, depth = 0;
    memset(&b, 0, sizeof b);
    b.image = image, b.mesh = (qnet__mesh *)calloc(1, sizeof *b.mesh);
    b.bias = 1, b.radius = 160, b.t = 50, b.t98 = 500, b.tm = 200;
    for (int i = 0; i < 3; i++) b.per_mm[i] = .2, b.center[i] = 100;
    for (size_t i = 0; i < size(image); i++) image->voxels[i] = 100;
    qnet__mesh_build(b.mesh);
    for (int k = 0; k < 5; k++) {
        const int v = 2000, *around = b.mesh->neighbor[v];
        double mean[3] = {0, 0, 0};
        qnet__bet_start(&b);
        for (int i = 0; i < 3; i++) b.mesh->at[0][v][i] = 100 + .985 * (b.mesh->at[0][v][i] - 100);
        b.edge = qnet__mesh_edge(b.mesh, b.mesh->at[0]);
        for (int n = 0; n < 6; n++)
            for (int i = 0; i < 3; i++) mean[i] += b.mesh->at[0][around[n]][i] / 6;
        depth = qnet__distance3(mean, b.mesh->at[0][v]);
        qnet__bet_step(ctx, &b, cases[k][0], cases[k][1]);
        moved[k] = qnet__distance3(b.mesh->at[0][v], b.mesh->at[1][v]);
        for (int far = 0; far < 500; far++) convex[k] += qnet__distance3(b.mesh->at[0][far], b.mesh->at[1][far]);
    }
    CHECK(moved[0] == moved[1] && moved[2] > moved[1] && moved[3] > moved[2] && moved[4] < moved[3]);
    CHECK_NEAR(moved[3], depth, .02 * depth);
    for (int k = 1; k < 5; k++) CHECK(convex[k] == convex[0] && convex[0] > 0);
    free(b.mesh);
    qnet_volume_destroy(image);
}

/* An ellipsoidal brain in a skull and a scalp, by mm, so that voxels may have any shape. cut: the volume ends in the
   brain, above and below. */
static qnet_volume *phantom(double mx, double my, double mz, int cut, qnet_volume **truth)
{
    const int nx = (int)(200 / mx), ny = (int)(220 / my), nz = (int)((cut ? 60 : 180) / mz);
    qnet_volume *v = volume(nx, ny, nz, mx, my, mz);
    *truth = volume(nx, ny, nz, mx, my, mz);
    for (int z = 0, at = 0; z < nz; z++)
        for (int y = 0; y < ny; y++)
            for (int x = 0; x < nx; x++, at++) {
                const double place[3] = {(x - .5 * nx) * mx / 68, (y - .5 * ny) * my / 82, (z - .5 * nz) * mz / 62};
                const double r = sqrt(qnet__dot3(place, place)), noise = 40 * formula(93, (uint32_t)at);
                const double shade = 1 + .2 * place[0] - .15 * place[1]; /* of a coil */
                const double tissue = r < 1 ? 900 + 150 * sin(.2 * x) : r < 1.1 ? 50 : r < 1.2 ? 1300 : 0;
                v->voxels[at] = (float)(tissue * shade + noise);
                (*truth)->voxels[at] = r < 1;
            }
    return v;
}

static void test_phantoms(void)
{
    static const double mm[][3] = {{2, 2, 2}, {1.6, 1.6, 4}, {3, 2, 2.5}, {2, 2, 1.5}, {3, 3, 2}};
    for (int k = 0; k < 5; k++) {
        qnet_volume *truth = NULL, *mask = NULL, *image = phantom(mm[k][0], mm[k][1], mm[k][2], k > 2, &truth);
        const qnet_brain_config config = config_of(.2, 0, 0);
        CHECK_OK(ctx, qnet_brain_mask(ctx, &config, image, &mask));
        printf("    %g x %g x %g mm%s: Dice %.4f\n", image->spacing[0], image->spacing[1], image->spacing[2],
               k > 2 ? ", cut" : "", dice(mask, truth));
        CHECK(dice(mask, truth) > .97);
        for (size_t i = 0, n = size(mask) / (size_t)mask->nz; k > 2 && i < size(mask); i++) /* the end slices */
            if (i >= n && i < size(mask) - n) mask->voxels[i] = truth->voxels[i] = 0;
        if (!CHECK(dice(mask, truth) > .98)) printf("    %g\n", dice(mask, truth));
        qnet_volume_destroy(image), qnet_volume_destroy(truth), qnet_volume_destroy(mask);
    }
}

/* A higher threshold makes a smaller brain, erosion takes what plain loops take, islands go, units do not matter. */
static void test_config(void)
{
    qnet_volume *truth = NULL, *mask[4] = {NULL, NULL, NULL, NULL}, *scaled = NULL;
    qnet_volume *image = phantom(4, 4, 4, 0, &truth);
    const qnet_brain_config whole = config_of(.2, 0, 0), small = config_of(.6, 0, 0), eroded = config_of(.2, 3, 500);
    const qnet_brain_config islands = config_of(.2, 8, 20000);
    uint32_t *distance = (uint32_t *)malloc(size(image) * sizeof *distance);
    CHECK_OK(ctx, qnet_brain_mask(ctx, &whole, image, &mask[0]));
    CHECK_OK(ctx, qnet_brain_mask(ctx, &small, image, &mask[1]));
    CHECK_OK(ctx, qnet_brain_mask(ctx, &eroded, image, &mask[2]));
    CHECK(inside(mask[1]) < inside(mask[0]) && inside(mask[1]) > 0);
    qnet__erosion e = {mask[0], distance, 3};
    scaled = volume(image->nx, image->ny, image->nz, 4, 4, 4);
    for (size_t i = 0; i < size(image); i++) scaled->voxels[i] = 1e-4f * image->voxels[i];
    CHECK_OK(ctx, qnet_brain_mask(ctx, &whole, scaled, &mask[3]));
    CHECK(dice(mask[0], mask[3]) > .999);
    for (size_t z = 0; z < (size_t)image->nz; z++) qnet__erosion_task(&e, z, 0);
    CHECK(dice(mask[0], mask[2]) == 1 && inside(mask[2]) > 5000);
    qnet_volume *const untouched = mask[0];
    CHECK_FAILS(ctx, qnet_brain_mask(ctx, &islands, image, &mask[0]), QNET_ERROR_DATA,
                "nothing is left: erode is 8, island 20000");
    CHECK(mask[0] == untouched);
    for (int i = 0; i < 4; i++) qnet_volume_destroy(mask[i]);
    free(distance);
    qnet_volume_destroy(image), qnet_volume_destroy(truth), qnet_volume_destroy(scaled);
}

static void test_refused(void)
{
    qnet_volume *image = volume(12, 11, 10, 2, 2, 2), *untouched = image, *mask = image;
    qnet_brain_config config = config_of(.2, 4, 2000);
#define REFUSED(status, part) CHECK_FAILS(ctx, qnet_brain_mask(ctx, &config, image, &mask), status, part)
    CHECK(qnet_brain_mask(NULL, &config, image, &mask) == QNET_ERROR_ARGUMENT);
    CHECK_FAILS(ctx, qnet_brain_mask(ctx, NULL, image, &mask), QNET_ERROR_ARGUMENT, "expected ctx && config && mask");
    CHECK_FAILS(ctx, qnet_brain_mask(ctx, &config, image, NULL), QNET_ERROR_ARGUMENT, "is NULL, expected");
    CHECK_FAILS(ctx, qnet_brain_mask(ctx, &config, NULL, &mask), QNET_ERROR_ARGUMENT,
                "qnet_brain_mask: magnitude: the volume is missing");
    REFUSED(QNET_ERROR_DATA, "qnet_brain_mask: magnitude: nearly all voxels are 0, expected an image of a head");
    for (size_t i = 0; i < size(image); i++) image->voxels[i] = 700;
    REFUSED(QNET_ERROR_DATA, "nearly all voxels are 700");
    for (size_t i = 0; i < size(image); i++) image->voxels[i] = i % 9 == 0; /* no brain: specks */
    REFUSED(QNET_ERROR_DATA, "magnitude: around the centre no voxel is between 0 and 1, dark and bright");
    image->voxels[13] = NAN;
    REFUSED(QNET_ERROR_NUMERIC, "magnitude: voxel (1, 1, 0) is ");
    image->voxels[13] = 0;
    config.threshold = 0;
    REFUSED(QNET_ERROR_ARGUMENT, "qnet_brain_mask: threshold is 0, expected 0.01 to 0.99");
    config.threshold = NAN;
    REFUSED(QNET_ERROR_ARGUMENT, "threshold");
    config.threshold = .2, config.erode = -1;
    REFUSED(QNET_ERROR_ARGUMENT, "erode is -1, expected 0 to 100");
    config.erode = 4, config.island = -1;
    REFUSED(QNET_ERROR_ARGUMENT, "island is -1");
    config.island = 2000, image->nx = 0;
    REFUSED(QNET_ERROR_LIMIT, "volume of 0 x 11 x 10");
    image->nx = image->ny = image->nz = 1 << 30;
    REFUSED(QNET_ERROR_LIMIT, "volume of 1073741824 x");
    image->nx = 12, image->ny = 11, image->nz = 10;
    CHECK(mask == untouched);
    qnet_volume_destroy(image);
    /* The smallest volumes that hold anything do not crash, whatever comes out. */
    for (int n = 1; n <= 3; n++) {
        image = volume(n, 1, 4 - n, 2, 3, 1e-3);
        for (size_t i = 0; i < size(image); i++) image->voxels[i] = (float)i;
        mask = NULL;
        config.erode = config.island = 0;
        if (qnet_brain_mask(ctx, &config, image, &mask) != QNET_OK) CHECK(mask == NULL);
        qnet_volume_destroy(mask), qnet_volume_destroy(image);
    }
}

/* ---- memory, workers -------------------------------------------------------------------------- */

/* The same bits for any number of workers; each allocation failed in turn. */
static void test_memory_and_workers(void)
{
    static size_t workers[4] = {1, 2, 3, 8};
    const qnet_brain_config config = config_of(.2, 2, 100);
    qnet_volume *image = head(), *first = NULL, *mask = NULL;
    CHECK_OK(ctx, qnet_brain_mask(ctx, &config, image, &first));
    for (int w = 0; w < 4; w++) {
        memory_watch watch;
        qnet_hooks hooks;
        qnet_context *c = NULL;
        memset(&hooks, 0, sizeof hooks), memset(&watch, 0, sizeof watch);
        hooks.allocator.user = &watch, hooks.allocator.alloc = memory_alloc, hooks.allocator.free = memory_free;
        workers_hook(&hooks, &workers[w]);
        CHECK(qnet_context_create(&hooks, &c) == QNET_OK);
        const size_t before = watch.bytes;
        for (size_t n = 1; n <= 3; n++) {
            watch.calls = 0, watch.fail_at = n;
            CHECK_FAILS(c, qnet_brain_mask(c, &config, image, &mask), QNET_ERROR_MEMORY, "memory");
            CHECK(watch.bytes == before && mask == NULL);
        }
        watch.fail_at = 0, watch.calls = 0;
        CHECK_OK(c, qnet_brain_mask(c, &config, image, &mask));
        CHECK(watch.calls == 3);
        CHECK(memcmp(mask->voxels, first->voxels, size(mask) * sizeof(float)) == 0);
        qnet_volume_destroy(mask);
        mask = NULL;
        CHECK(watch.bytes == before && watch.wrong == NULL);
        qnet_context_destroy(c);
        memory_end(&watch);
    }
    qnet_volume_destroy(image), qnet_volume_destroy(first);
}

/* ---- simulated and real scans ----------------------------------------------------------------- */

#define SHARED "../shared/data/"

/* Dice with the true masks. brainextractor 0.3.0 has .957 and .953 at its bt = .2^.275, which is our threshold .2, and
   .944 and .943 at its own .5. */
static void test_shared_scans(void)
{
    static const char *const scans[2][2] = {
        {"echoes/sub-01/anat/sub-01_echo-2_part-mag_MEGRE.nii.gz", "echoes"},
        {"echoes_oblique_ge/sub-01/anat/sub-01_flip-2_echo-2_part-mag_VFA.nii.gz", "echoes_oblique_ge"}};
    const qnet_brain_config config = config_of(.2, 0, 2000);
    for (int k = 0; k < 2; k++) {
        char path[200];
        qnet_volume *image = NULL, *truth = NULL, *mask = NULL;
        snprintf(path, sizeof path, SHARED "%s", scans[k][0]);
        if (!qnet_file_exists(path)) {
            printf("    %s is not there: skipped\n", path);
            continue;
        }
        CHECK_OK(ctx, qnet_nifti_load(ctx, path, &image));
        snprintf(path, sizeof path, SHARED "%s/derivatives/truth/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
                 scans[k][1]);
        CHECK_OK(ctx, qnet_nifti_load(ctx, path, &truth));
        CHECK_OK(ctx, qnet_brain_mask(ctx, &config, image, &mask));
        if (mask && truth) {
            printf("    %s: Dice %.4f\n", scans[k][1], dice(mask, truth));
            CHECK(dice(mask, truth) >= .97);
        }
        qnet_volume_destroy(image), qnet_volume_destroy(truth), qnet_volume_destroy(mask);
    }
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    RUN(test_mesh);
    RUN(test_fill);
    RUN(test_kth);
    RUN(test_components);
    RUN(test_erosion);
    RUN(test_golden);
    RUN(test_passes);
    RUN(test_phantoms);
    RUN(test_config);
    RUN(test_refused);
    RUN(test_memory_and_workers);
    RUN(test_shared_scans);
    qnet_context_destroy(ctx);
    return test_end();
}
