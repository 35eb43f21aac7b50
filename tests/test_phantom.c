/* examples/phantom.h: the cohort that demos and tests share. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "../examples/phantom.h"
#include "test.h"
#include "folder.h"

#define FOLDER "build/test_phantom"

static phantom_subject drawn[2000];

/* A head of few voxels, so that the tests are quick. */
static void tiny(phantom_config *config)
{
    phantom_config_init(config, PHANTOM_SMALL);
    config->hh = 2;
    config->hc = 1;
    phantom_config_size(config, 48, 56, 10);
}

/* The tables in paper_facts: R2* of each tissue follows from its T2 and susceptibilities. */
static void test_tissues(void)
{
    const double r2star[9] = { 19.7, 20.6, 37.2, 22.7, 31.4, 32.1, 34.4, 20.0, 15.7 };
    const double chi[9] = { .0440, .0380, .1305, .0200, .1000, .1110, .1520, -.0300, .0200 };
    int i;
    for (i = 0; i < 9; i++) {
        const phantom_properties *t = &phantom_tissues[i];
        CHECK_NEAR(t->chi_plus + t->chi_minus, chi[i], 2e-4); /* the table's fourth decimal */
        CHECK_NEAR(phantom_r2star_of(1000 / t->t2_ms, t->chi_plus, t->chi_minus), r2star[i], .06);
    }
    for (i = 0; i < PHANTOM_NUCLEI; i++) {
        CHECK_NEAR(phantom_iron(i, 45), 1, 1e-12);
        CHECK(phantom_iron(i, 20) < .9 && phantom_iron(i, 20) > .5);
        CHECK(i == PHANTOM_THALAMUS ? phantom_iron(i, 85) < 1 : phantom_iron(i, 85) > 1);
        CHECK(phantom_tissues[i].hemochromatosis > 0);
    }
    /* Hallgren & Sourander: 12.66 mg / 100 g in the putamen at 45 years, 14.59 at 85. */
    CHECK_NEAR(phantom_iron(PHANTOM_PUTAMEN, 85), 14.592 / 12.663, 1e-3);
    /* White matter, M0 .7, T1 .85 s, R2* 20: sin 24 (1 - E1) / (1 - E1 cos 24) exp(-.1), with
       E1 = exp(-.036 / .85) = .958532. */
    CHECK_NEAR(phantom_t1w(.7, .85, 20), .7 * .406737 * .041468 / .124338 * .904837, 1e-5);
}

static void test_draw(void)
{
    phantom_config config;
    double age[2] = { 0, 0 }, chi[2] = { 0, 0 };
    int count[2] = { 0, 0 }, men = 0, women_hh = 0, early = 0, i, k;
    static phantom_subject other[99];
    phantom_config_init(&config, PHANTOM_PAPER);
    CHECK(config.hh == 52 && config.hc == 47);
    phantom_draw(&config, drawn);
    for (i = 0; i < 99; i++) {
        const phantom_subject *s = &drawn[i];
        char name[16];
        snprintf(name, sizeof name, "sub-%02d", i + 1);
        CHECK(strcmp(s->name, name) == 0);
        CHECK(s->age >= 20 && s->age <= 85 && s->age == floor(s->age));
        CHECK(s->ventricles > .3 && s->nuclei > .7 && s->patches > 0);
        for (k = 0; k < PHANTOM_NUCLEI; k++) {
            CHECK(s->chi_plus[k] > .2 * phantom_tissues[k].chi_plus);
            CHECK(s->chi_plus[k] < 4 * phantom_tissues[k].chi_plus);
        }
        age[s->label] += s->age;
        count[s->label]++;
        men += s->sex == QNET_MALE;
        women_hh += s->sex == QNET_FEMALE && s->label == QNET_HH;
        early += s->label == QNET_HH && i < 50;
    }
    CHECK(count[QNET_HH] == 52 && count[QNET_HC] == 47 && men == 67);
    CHECK(women_hh > 8 && women_hh < 25);  /* 17 if sex says nothing about the group */
    CHECK(early > 16 && early < 37);       /* 26 if the order says nothing either */
    CHECK_NEAR(age[QNET_HH] / 52, age[QNET_HC] / 47, 3);
    /* The same again; with another seed, something else. */
    phantom_draw(&config, other);
    CHECK(memcmp(other, drawn, sizeof other) == 0);
    config.seed++;
    phantom_draw(&config, other);
    CHECK(strcmp(other[0].name, drawn[0].name) == 0 && other[0].gain != drawn[0].gain);

    /* Many subjects: HH has more iron by what the table says, and none more at effect 0. */
    for (k = 0; k < 2; k++) {
        double ratio;
        phantom_config_init(&config, PHANTOM_SMALL);
        config.hh = config.hc = 1000;
        config.effect = k;
        phantom_draw(&config, drawn);
        chi[0] = chi[1] = 0;
        for (i = 0; i < 2000; i++) chi[drawn[i].label] += drawn[i].chi_plus[PHANTOM_PUTAMEN];
        ratio = chi[QNET_HH] / chi[QNET_HC];
        /* Men get the share of the table, women .7 of it; penetrance has mean exp(.3^2 / 2). The
           spread of 16 % and of age leave 1 % of standard error in the ratio. */
        CHECK_NEAR(ratio, 1 + k * .28 * (67 + .7 * 32) / 99 * 1.046, .035);
    }
    {
        /* What the disease does not touch is the same at any effect. */
        phantom_subject a = drawn[0], b;
        config.effect = 0;
        b = a;
        phantom_draw_subject(&config, b.stream, &b);
        CHECK(a.texture_seed == b.texture_seed && a.gain == b.gain && a.turn == b.turn);
        if (a.label == QNET_HC) CHECK(memcmp(a.chi_plus, b.chi_plus, sizeof a.chi_plus) == 0);
    }
}

/* Mean of a map over the mask, and the slices that hold it. */
static double mask_mean(const phantom_maps *maps, const qnet_volume *map, int *slices)
{
    size_t plane = (size_t)map->nx * (size_t)map->ny, i;
    double sum = 0, n = 0;
    int z;
    *slices = 0;
    for (z = 0; z < map->nz; z++) {
        double before = n;
        for (i = (size_t)z * plane; i < (size_t)(z + 1) * plane; i++) {
            if (maps->mask->voxels[i] > 0) {
                sum += (double)map->voxels[i];
                n++;
            }
        }
        *slices += n > before;
    }
    return n > 0 ? sum / n : 0;
}

static void test_render(void)
{
    phantom_config config;
    phantom_maps a, b;
    phantom_subject s;
    qnet_context *ctx = NULL;
    size_t count, i, brain = 0, mask = 0, right = 0, bad = 0, same = 0;
    double difference = 0, absolute = 0, volume = 0, mean;
    int slices;
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    phantom_config_init(&config, PHANTOM_SMALL);
    phantom_draw(&config, drawn);
    s = drawn[0];
    CHECK_OK(ctx, phantom_render(ctx, &config, &s, &a));
    CHECK_OK(ctx, phantom_render(ctx, &config, &s, &b));
    count = (size_t)(96 * 112 * 14);
    CHECK(a.qsm->nx == 96 && a.qsm->ny == 112 && a.mask->nz == 14);
    CHECK(memcmp(a.qsm->voxels, b.qsm->voxels, count * sizeof (float)) == 0);
    CHECK(memcmp(a.t1w->voxels, b.t1w->voxels, count * sizeof (float)) == 0);
    CHECK_NEAR(a.qsm->affine[2][3], config.z_mm, 0);
    CHECK(memcmp(a.qsm->affine, a.mask->affine, sizeof a.qsm->affine) == 0);
    for (i = 0; i < count; i++) {
        float q = a.qsm->voxels[i], r = a.r2star->voxels[i], t = a.t1w->voxels[i];
        bad += !(fabs((double)q) < 1 && r >= 0 && r < 200 && t >= 0 && t < 30000);
        bad += (r > 0) != (t > 0) || (q < 0 || q > 0) > (r > 0); /* one brain; QSM eroded */
        bad += a.mask->voxels[i] > 0 && !(fabs((double)q) > 0);
        brain += r > 0;
        mask += a.mask->voxels[i] > 0;
        right += a.mask->voxels[i] > 0 && i % 96 >= 48;
    }
    CHECK(bad == 0);
    CHECK(brain > count / 3 && brain < count * 3 / 4);
    CHECK_NEAR((double)right / (double)mask, .5, .06);
    mean = mask_mean(&a, a.qsm, &slices);
    CHECK(slices >= 9 && slices <= 13);
    CHECK(mean > .02 && mean < .15);
    for (i = 0; i < (size_t)PHANTOM_SHAPES; i++) {
        const double *r = phantom_shapes[i].radius;
        if (phantom_shapes[i].tissue <= PHANTOM_PALLIDUM) {
            volume += 2 * 4 / 3.0 * 3.14159265 * r[0] * r[1] * r[2];
        }
    }
    volume *= pow(s.nuclei, 3) * s.scale[0] * s.scale[1] * s.scale[2];
    /* The mask holds the striata and pallida of both sides; they overlap and bend a little. */
    CHECK_NEAR((double)mask * 1.72 * 1.72 * 2, volume, .15 * volume);
    phantom_maps_destroy(&b);

    /* Without noise and texture, and with texture only: region means do not see the texture. Its
       sum over the volume is 0 but for the share that rounds away in float. */
    config.noise = 0;
    s.gradient = s.patches = 0;
    CHECK_OK(ctx, phantom_render(ctx, &config, &s, &b));
    phantom_maps_destroy(&a);
    s.gradient = .4;
    s.patches = .2;
    CHECK_OK(ctx, phantom_render(ctx, &config, &s, &a));
    for (i = 0; i < count; i++) {
        double d = (double)a.qsm->voxels[i] - (double)b.qsm->voxels[i];
        difference += d;
        absolute += fabs(d);
        same += a.t1w->voxels[i] > 0 && !(fabs(d) > 0);
    }
    CHECK(absolute > 20);                     /* ppm voxels: the texture is there */
    CHECK(fabs(difference) < 1e-3 * absolute);
    CHECK(same > brain * 8 / 10);             /* and nowhere but in the nuclei */
    phantom_maps_destroy(&a);
    phantom_maps_destroy(&b);
    CHECK(a.qsm == NULL && b.mask == NULL);
    {
        /* More iron is brighter QSM, higher R2*, darker T1W. */
        double q, r, t;
        config.noise = 1;
        CHECK_OK(ctx, phantom_render(ctx, &config, &s, &a));
        q = mask_mean(&a, a.qsm, &slices);
        r = mask_mean(&a, a.r2star, &slices);
        t = mask_mean(&a, a.t1w, &slices);
        phantom_maps_destroy(&a);
        for (i = 0; i < PHANTOM_NUCLEI; i++) s.chi_plus[i] *= 1.5;
        CHECK_OK(ctx, phantom_render(ctx, &config, &s, &a));
        CHECK(mask_mean(&a, a.qsm, &slices) > 1.3 * q);
        CHECK(mask_mean(&a, a.r2star, &slices) > 1.05 * r);
        CHECK(mask_mean(&a, a.t1w, &slices) < t);
        phantom_maps_destroy(&a);
    }
    qnet_context_destroy(ctx);
}

/* An allocator that fails the n-th request and counts the blocks that are out. */
typedef struct counting { long requests, fail_at, blocks; } counting;

static void *counting_alloc(void *user, size_t size, size_t align)
{
    counting *c = (counting *)user;
    void *p;
    if (++c->requests == c->fail_at) return NULL;
    p = qnet__default_alloc(NULL, size, align);
    c->blocks += p != NULL;
    return p;
}

static void counting_free(void *user, void *ptr, size_t size)
{
    ((counting *)user)->blocks--;
    qnet__default_free(NULL, ptr, size);
}

/* Runs tasks backwards, as a parallel hook may. */
static void backward_run(void *user, size_t count, qnet_task task, void *arg)
{
    (void)user;
    while (count > 0) {
        count--;
        task(arg, count, count % 3);
    }
}

static void test_write(void)
{
    phantom_config config;
    phantom_maps maps;
    qnet_hooks hooks;
    qnet_context *ctx = NULL, *backward = NULL;
    qnet_volume *volume = NULL;
    qnet_buffer first, second;
    const qnet_log none = {NULL, NULL};
    qnet_cohort *cohort = NULL;
    qnet_input_config input;
    const char *map = FOLDER "/a/derivatives/qsm/sub-02/anat/sub-02_Chimap.nii.gz";
    counting c = { 0, 0, 0 };
    size_t i, count;
    double worst = 0;
    long n;
    memset(&first, 0, sizeof first);
    memset(&second, 0, sizeof second);
    memset(&hooks, 0, sizeof hooks);
    CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
    hooks.parallel.run = backward_run;
    hooks.parallel.workers = 3;
    CHECK(qnet_context_create(&hooks, &backward) == QNET_OK);
    tiny(&config);
    CHECK_OK(ctx, phantom_write(ctx, &config, FOLDER "/a"));
    CHECK_OK(backward, phantom_write(backward, &config, FOLDER "/b"));
    CHECK_OK(ctx, qnet_file_read(ctx, map, 0, &first));
    CHECK_OK(ctx, qnet_file_read(ctx, FOLDER "/b/derivatives/qsm/sub-02/anat/sub-02_Chimap.nii.gz",
                                 0, &second));
    CHECK(first.size == second.size && memcmp(first.bytes, second.bytes, first.size) == 0);
    qnet_buffer_free(ctx, &first);
    qnet_buffer_free(ctx, &second);
    CHECK_OK(ctx, qnet_file_read(ctx, FOLDER "/a/participants.tsv", 0, &first));
    CHECK_CONTAINS((const char *)first.bytes, "participant_id\tage\tsex\tgroup\nsub-01\t");
    CHECK_CONTAINS((const char *)first.bytes, "\nsub-03\t");
    CHECK_CONTAINS((const char *)first.bytes, "\tHC\n");
    qnet_buffer_free(ctx, &first);
    CHECK_OK(ctx, qnet_file_read(ctx, FOLDER "/a/derivatives/qsm/truth.tsv", 0, &first));
    CHECK_CONTAINS((const char *)first.bytes, "participant_id\tcaudate_ppm\t");
    qnet_buffer_free(ctx, &first);
    CHECK(qnet_file_exists(FOLDER "/a/dataset_description.json"));
    CHECK(qnet_file_exists(FOLDER "/a/sub-03/anat/sub-03_T1w.nii.gz"));

    /* What is read back is what was rendered, to half a step of the file. */
    phantom_draw(&config, drawn);
    CHECK_OK(ctx, phantom_render(ctx, &config, &drawn[1], &maps));
    CHECK_OK(ctx, qnet_nifti_load(ctx, map, &volume));
    if (volume != NULL) {
        CHECK(volume->nx == 48 && volume->ny == 56 && volume->nz == 10);
        CHECK(strcmp(volume->orientation, "RAS") == 0);
        CHECK_NEAR(volume->affine[1][3], maps.qsm->affine[1][3], 1e-4); /* float in the file */
        count = (size_t)(48 * 56 * 10);
        for (i = 0; i < count; i++) {
            double q = (double)maps.qsm->voxels[i], r = (double)volume->voxels[i];
            worst = fmax(worst, fabs(q - r));
            if ((fabs(q) > 0) != (fabs(r) > 0)) worst = 1; /* no 0 within the brain */
        }
        CHECK(worst <= .0005001);
        qnet_volume_destroy(volume);
    }
    phantom_maps_destroy(&maps);

    /* The library reads it as a cohort. */
    qnet_input_config_init(&input, QNET_INPUT_CROP);
    input.size = 32;
    CHECK_OK(ctx, load_folder(ctx, &input, FOLDER "/a", NULL, none, &cohort));
    if (cohort != NULL) {
        CHECK(cohort->scans_count == 3 && cohort->scans[1].label == drawn[1].label);
        CHECK_NEAR(cohort->scans[2].age, drawn[2].age, 0);
        qnet_cohort_destroy(cohort);
    }

    /* Bad input. */
    config.hh = config.hc = 0;
    CHECK(phantom_write(ctx, &config, FOLDER "/a") == QNET_ERROR_ARGUMENT);
    config.hh = -1;
    config.hc = 4;
    CHECK(phantom_write(ctx, &config, FOLDER "/a") == QNET_ERROR_ARGUMENT);
    tiny(&config);
    CHECK_FAILS(ctx, phantom_write(ctx, &config, FOLDER "/a/participants.tsv"), QNET_ERROR_IO,
                "participants.tsv");
    /* A folder where a subject's file should be: the sentence survives the tasks' contexts. */
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/c/sub-02/anat/sub-02_T1w.nii.gz/x"));
    CHECK_FAILS(ctx, phantom_write(ctx, &config, FOLDER "/c"), QNET_ERROR_IO, "sub-02_T1w");
    CHECK(!qnet_file_exists(FOLDER "/c/participants.tsv"));
    qnet_context_destroy(ctx);
    qnet_context_destroy(backward);

    /* Each allocation of a rendering fails in turn. */
    memset(&hooks, 0, sizeof hooks);
    hooks.allocator.user = &c;
    hooks.allocator.alloc = counting_alloc;
    hooks.allocator.free = counting_free;
    CHECK(qnet_context_create(&hooks, &ctx) == QNET_OK);
    phantom_config_size(&config, 16, 16, 2);
    for (n = 1; n < 50; n++) {
        qnet_status status;
        c.fail_at = c.requests + n;
        memset(&maps, 0, sizeof maps);
        status = phantom_render(ctx, &config, &drawn[0], &maps);
        if (status == QNET_OK) {
            phantom_maps_destroy(&maps);
            break;
        }
        CHECK(status == QNET_ERROR_MEMORY && maps.qsm == NULL && c.blocks == 1);
    }
    CHECK(n > 5 && n < 50);
    qnet_context_destroy(ctx);
    CHECK(c.blocks == 0);
}

int main(void)
{
    RUN(test_tissues);
    RUN(test_draw);
    RUN(test_render);
    RUN(test_write);
    return test_end();
}
