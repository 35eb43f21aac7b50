/* crossval's report and its predictions.csv: an experiment made up from a random generator,
   written in every form and read again.
   With a folder as argument, writes report.html and the others there, to be looked at. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "crossval/report.h"
#include "test.h"
#include <locale.h>

typedef struct { long alive, count, fail_at; } counting;

static void *counting_alloc(void *user, size_t size, size_t align)
{
    counting *c = (counting *)user;
    void *p;
    (void)align;
    if (c->count++ == c->fail_at) return NULL;
    p = malloc(size);
    if (p) c->alive++;
    return p;
}

static void counting_free(void *user, void *ptr, size_t size)
{
    (void)size;
    ((counting *)user)->alive--;
    free(ptr);
}

static qnet_context *ctx;

/* ---- A made-up experiment ----------------------------------------------------------------------- */

/* Everything in arrays of fixed size: qnet_experiment_destroy is not for this one. */
typedef struct {
    qnet_experiment e;
    pictures drawn;
    int subjects, slices;
    double skill;
} recipe;

static void *zeroed(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p) exit(2);
    return p;
}

static qnet_mean_std mean_std(double mean, double std)
{
    qnet_mean_std r;
    r.mean = mean;
    r.std = std;
    return r;
}

/* Probability of HH by a model of some skill; all models of a slice share part of the noise. */
static double made_up_probability(qnet_rng *rng, const recipe *r, int label, int model, int scan_level,
                                  double shared)
{
    static const double skill[QNET_MODELS] = { 0.45, 0.5, 0.8 };
    const double noise = qnet_rng_normal(rng) * (scan_level ? 0.3 : 0.8) + shared;
    return 1 / (1 + exp(-1.6 * ((label ? 1 : -1) * r->skill * skill[model] + noise)));
}

static void made_up_items(recipe *r, int input, int level, int repeat)
{
    qnet_experiment *e = &r->e;
    qnet_level_result *l = &e->level[input][level];
    size_t n = 0;
    for (int s = 0; s < r->subjects; s++) {
        qnet_rng rng = qnet_rng_at(11, QNET_RANDOM_USER + 1, (uint32_t)(4 * repeat + 2 * level + input),
                                   (uint64_t)s);
        const double person = 0.7 * qnet_rng_normal(&rng);
        const int slices = level == QNET_LEVEL_IMAGE ? e->participants[s].slices : 1;
        for (int t = 0; t < slices; t++) {
            qnet_item *item = &l->items[(size_t)repeat * l->count + n++];
            item->scan = s;
            item->slice = level == QNET_LEVEL_IMAGE ? t : -1;
            item->z = level == QNET_LEVEL_IMAGE ? 30 + t : -1;
            item->fold = e->fold[s];
            item->label = (int)e->participants[s].label;
            for (int m = 0; m < QNET_MODELS; m++) {
                item->probability[m] =
                    made_up_probability(&rng, r, item->label, m, level == QNET_LEVEL_SCAN, person);
                item->decision[m] = item->probability[m] > 0.5;
            }
        }
    }
}

static void evaluate(recipe *r, int input, int level)
{
    static const qnet_model_kind pairs[3][2] = { { QNET_MODEL_RESNET_SWA, QNET_MODEL_RESNET },
                                                 { QNET_MODEL_QNET, QNET_MODEL_RESNET },
                                                 { QNET_MODEL_QNET, QNET_MODEL_RESNET_SWA } };
    qnet_experiment *e = &r->e;
    qnet_level_result *l = &e->level[input][level];
    const size_t n = l->count;
    int *label = (int *)zeroed(n, sizeof(int)), *decision = (int *)zeroed(n, sizeof(int));
    int *subject = (int *)zeroed(n, sizeof(int));
    double *score = (double *)zeroed(n * 3, sizeof(double));
    double *boot = (double *)zeroed((size_t)e->config.bootstrap, sizeof(double));
    qnet_delong d;
    for (int m = 0; m < QNET_MODELS; m++) {
        qnet_model_result *q = &l->model[m];
        for (size_t i = 0; i < n; i++) {
            label[i] = l->items[i].label;
            decision[i] = l->items[i].decision[m];
            subject[i] = l->items[i].scan;
            score[(size_t)m * n + i] = l->items[i].probability[m];
        }
        CHECK_OK(ctx, qnet_metrics_from(ctx, label, decision, n, &q->first));
        q->accuracy = mean_std(q->first.accuracy, 0.06);
        q->sensitivity = mean_std(q->first.sensitivity, 0.11);
        q->specificity = mean_std(q->first.specificity, 0.12);
        q->f1 = mean_std(q->first.f1, 0.064);
        CHECK_OK(ctx, qnet_auc(ctx, label, score + (size_t)m * n, n, &q->auc_first));
        q->auc = mean_std(q->auc_first, 0.05);
        CHECK_OK(ctx, qnet_delong_test(ctx, label, score + (size_t)m * n, NULL, NULL, n, &d));
        q->auc_ci = d.ci[0];
        CHECK_OK(ctx, qnet_delong_test(ctx, label, score + (size_t)m * n, NULL, subject, n, &d));
        q->auc_ci_clustered = d.ci[0];
        q->roc = (qnet_roc_point *)zeroed(n + 1, sizeof(qnet_roc_point));
        CHECK_OK(ctx, qnet_roc(ctx, label, score + (size_t)m * n, n, q->roc, &q->roc_count));
        for (int k = 0; k < 2; k++) {
            CHECK_OK(ctx, qnet_bootstrap_auc(ctx, label, score + (size_t)m * n, k ? subject : NULL, n,
                                             e->config.bootstrap, 1, boot));
            CHECK_OK(ctx, qnet_boxplot_of(ctx, boot, (size_t)e->config.bootstrap,
                                          k ? &q->bootstrap_clustered : &q->bootstrap));
        }
    }
    for (int k = 0; k < 3; k++) {
        qnet_pair_result *p = &l->pair[k];
        const double *s1 = score + (size_t)pairs[k][0] * n, *s2 = score + (size_t)pairs[k][1] * n;
        p->model1 = pairs[k][0];
        p->model2 = pairs[k][1];
        CHECK_OK(ctx, qnet_delong_test(ctx, label, s1, s2, NULL, n, &p->by_item));
        CHECK_OK(ctx, qnet_delong_test(ctx, label, s1, s2, subject, n, &p->by_subject));
    }
    free(label);
    free(decision);
    free(subject);
    free(score);
    free(boot);
}

/* A head-like blob with two bright nuclei, of `slices` slices, and maps over them, signed or not. */
static void made_up_heat(heat_scan *h, int scan, int size, int slices)
{
    float *pixels = (float *)zeroed((size_t)size * (size_t)size * 3, sizeof(float));
    const int channel = h->channel;
    CHECK(heat_scan_room(h, slices, size));
    h->channel = channel;
    for (int t = 0; t < slices; t++) {
        for (int i = 0; i < size * size; i++) {
            const double u = 2.0 * (i % size + 0.5) / size - 1, v = 2.0 * (i / size + 0.5) / size - 1;
            const double nuclei = exp(-40 * ((fabs(u) - 0.25) * (fabs(u) - 0.25) + v * v));
            const int head = u * u / 0.6 + v * v / 0.85 < 1;
            pixels[3 * i] = head ? (float)(0.03 * sin(9 * u) * cos(8 * v) + 0.2 * nuclei) : 0;
            pixels[3 * i + 2] = head ? 100 : 1;
        }
        heat_slice(pixels, size, size, channel, h->grey + t * h->side * h->side, h->air + t * h->side * h->side);
        for (int i = 0; i < h->rows * h->columns; i++) {
            const double u = 2.0 * (i % h->columns + 0.5) / h->columns - 1;
            const double v = 2.0 * (i / h->columns + 0.5) / h->rows - 1;
            const double bump = exp(-9 * ((u - 0.2) * (u - 0.2) + (v + 0.05 * scan / 9) * v));
            h->cells[t * h->rows * h->columns + i] = (float)(slices == 1 ? bump : (t % 3 - 0.8) * bump);
        }
        h->contribution[t] = 0.3 * (t % 3 - 0.8);
        h->z_mm[t] = 2.5 * t - 7;
    }
    free(pixels);
}

static void made_up_picture(pictures *d, int input, int scan, int size)
{
    cam_picture *c = &d->cam[input][d->cams[input]++];
    c->scan = scan;
    c->slice = 7;
    c->probability = 0.1 + 0.13 * (scan % 7);
    made_up_heat(&c->heat, scan, size, 1);
    if (input != QNET_INPUT_CROP || d->scans[input] == 2) return;
    d->scan[input][d->scans[input]] = *c;
    c = &d->scan[input][d->scans[input]++];
    made_up_heat(&c->heat, scan, size, size > 100 ? 14 : 2);
}

static void made_up_pictures(recipe *r, int input, int size)
{
    pictures *d = &r->drawn;
    const int wide = sheet_width(size);
    d->size[input] = size;
    CHECK_OK(ctx, picture_room(ctx, &d->sheet[input], (size_t)wide * (size_t)size * 3));
    memset(d->sheet[input].bytes, 255, d->sheet[input].size);
    for (int k = 0; k < 6; k++)
        for (int p = 0; p < size * size; p++)
            memset(d->sheet[input].bytes + 3 * (p / size * wide + p % size + k * (size + 4)), p / size * k % 256, 3);
    for (int i = 0; i < 4; i++) made_up_picture(d, input, i * 3 + 1, size);
}

static void made_up_curves(recipe *r)
{
    qnet_experiment *e = &r->e;
    e->curves = (qnet_curve *)zeroed((size_t)(6 * e->config.folds), sizeof(qnet_curve));
    for (int i = 0; i < 6 * e->config.folds; i++) {
        qnet_curve *c = &e->curves[e->curves_count];
        qnet_rng rng = qnet_rng_at(3, QNET_RANDOM_USER, 0, (uint64_t)i);
        c->input = i / 3 % 2;
        if (!e->config.use_input[c->input]) continue;
        e->curves_count++;
        c->kind = i % 3;
        c->fold = i / 6;
        c->epochs = c->kind == QNET_MODEL_QNET ? e->config.stage2.epochs : e->config.stage1.epochs;
        c->epoch = (qnet_epoch *)zeroed((size_t)c->epochs, sizeof(qnet_epoch));
        for (int k = 0; k < c->epochs; k++) {
            const double t = (k + 1.0) / c->epochs;
            c->epoch[k].loss = (c->kind == QNET_MODEL_QNET ? 1.35 : 0.69) * (0.25 + 0.75 * exp(-3 * t)) +
                               0.03 * qnet_rng_normal(&rng);
            c->epoch[k].validation = c->epoch[k].loss + 0.2 * t;
        }
    }
}

static recipe *made_up(int subjects, int slices, double skill, int both, int size)
{
    recipe *r = (recipe *)zeroed(1, sizeof *r);
    qnet_experiment *e = &r->e;
    r->subjects = subjects;
    r->slices = slices;
    r->skill = skill;
    e->ctx = ctx;
    qnet_experiment_config_init(&e->config);
    e->config.use_input[QNET_INPUT_CROP] = 1;
    e->config.use_input[QNET_INPUT_FULL] = both;
    e->config.folds = subjects < 20 ? 4 : 10;
    e->config.repeats = 1;
    e->config.bootstrap = subjects < 20 ? 50 : 500;
    e->config.seed = 18446744073709551615u;
    strcpy(e->data, "cohort <main> & \"others\"");
    strcpy(e->out, "out/\xff\xfe");
    strcpy(e->dataset, "Iron <b>\"1\"</b> & \xc3\xa9t\xc3\xa9");
    strcpy(e->dataset_type, "raw<i>");
    e->participants_count = subjects;
    e->participants = (qnet_participant *)zeroed((size_t)subjects, sizeof(qnet_participant));
    e->fold = (int *)zeroed((size_t)subjects, sizeof(int));
    for (int s = 0; s < subjects; s++) {
        qnet_participant *p = &e->participants[s];
        qnet_rng rng = qnet_rng_at(5, QNET_RANDOM_USER, 0, (uint64_t)s);
        sprintf(p->subject, "sub-%02d", s + 1);
        p->label = p->true_label = s * 100 < subjects * 53 ? QNET_HH : QNET_HC;
        p->age = s == 2 ? (double)NAN : floor(20 + 65 * qnet_rng_uniform(&rng));
        p->sex = s == 3 ? QNET_SEX_UNKNOWN : qnet_rng_uniform(&rng) < 0.67 ? QNET_MALE : QNET_FEMALE;
        p->slices = slices - (int)qnet_rng_below(&rng, (uint32_t)(slices / 3 + 1));
        e->fold[s] = s % e->config.folds;
    }
    strcpy(e->participants[0].subject, "a<b>\"x\", \x01'&");
    for (int input = 0; input < 2; input++) {
        size_t images = 0;
        if (!e->config.use_input[input]) continue;
        for (int s = 0; s < subjects; s++) images += (size_t)e->participants[s].slices;
        for (int level = 0; level < QNET_LEVELS; level++) {
            qnet_level_result *l = &e->level[input][level];
            l->count = level == QNET_LEVEL_IMAGE ? images : (size_t)subjects;
            l->items = (qnet_item *)zeroed(l->count, sizeof(qnet_item));
            made_up_items(r, input, level, 0);
            evaluate(r, input, level);
        }
        if (size) made_up_pictures(r, input, size);
    }
    made_up_curves(r);
    e->cohort_hash[0] = 0x0123456789abcdefu;
    e->seconds = 4321;
    return r;
}

static void destroy(recipe *r)
{
    qnet_experiment *e = &r->e;
    for (int input = 0; input < 2; input++) {
        for (int level = 0; level < QNET_LEVELS; level++) {
            free(e->level[input][level].items);
            for (int m = 0; m < QNET_MODELS; m++) free(e->level[input][level].model[m].roc);
        }
    }
    r->drawn.cuts.rgb = NULL;
    pictures_free(ctx, &r->drawn);
    for (int c = 0; c < e->curves_count; c++) free(e->curves[c].epoch);
    free(e->curves);
    free(e->participants);
    free(e->fold);
    free(r);
}

static qnet_status page(const qnet_experiment *e, qnet_buffer *html)
{
    return report_html(e, &((const recipe *)(const void *)e)->drawn, html); /* e is its first member */
}

/* As crossval does: options of the report, and means of the regions, which tell the groups apart a little. */
static void give_options(recipe *r, int permutations, double prevalence)
{
    r->e.config.publish.input = pictures_input;
    r->e.config.publish.user = &r->drawn;
    r->drawn.permutations = permutations;
    r->drawn.prevalence = prevalence;
    for (int s = 0; s < r->subjects; s++) {
        qnet_rng rng = qnet_rng_at(6, QNET_RANDOM_USER, 0, (uint64_t)s);
        region_means *m;
        r->drawn.means.mean = (region_means *)realloc(r->drawn.means.mean, (size_t)(s + 1) * sizeof *m);
        m = &r->drawn.means.mean[r->drawn.means.count++];
        m->mask[0] = 0.06 + 0.02 * ((r->e.participants[s].label == QNET_HH) + qnet_rng_normal(&rng));
        m->mask[1] = 30 + 5 * qnet_rng_normal(&rng);
        m->box[0] = m->box[1] = 0;
    }
}

/* ---- Reading back --------------------------------------------------------------------- */

static long occurrences(const char *text, const char *part)
{
    long n = 0;
    for (const char *p = strstr(text, part); p; p = strstr(p + 1, part)) n++;
    return n;
}

/* A JSON reader that only says whether text is JSON: returns the end of one value, NULL if none. */
static const char *skip(const char *p)
{
    return p + strspn(p, " \n");
}

static const char *json_string(const char *p)
{
    if (*p++ != '"') return NULL;
    for (; *p != '"'; p++) {
        if ((unsigned char)*p < 0x20) return NULL;
        if (*p != '\\') continue;
        p++;
        if (*p == 'u' && strspn(p + 1, "0123456789abcdef") >= 4) p += 4;
        else if (!*p || !strchr("\"\\/bfnrt", *p)) return NULL;
    }
    return p + 1;
}

static const char *json_value(const char *p)
{
    const char close = *p == '{' ? '}' : ']';
    double value;
    size_t length;
    char number[40];
    if (*p == '"') return json_string(p);
    if (strncmp(p, "null", 4) == 0) return p + 4;
    if (*p != '{' && *p != '[') {
        length = strspn(p, "+-.0123456789e");
        if (length == 0 || length >= sizeof number) return NULL;
        memcpy(number, p, length);
        number[length] = '\0';
        return qnet__parse_number(number, &value) ? p + length : NULL;
    }
    p = skip(p + 1);
    if (*p == close) return p + 1;
    for (;;) {
        if (close == '}') {
            p = json_string(p);
            if (!p || *(p = skip(p)) != ':') return NULL;
            p = skip(p + 1);
        }
        p = json_value(p);
        if (!p) return NULL;
        p = skip(p);
        if (*p == close) return p + 1;
        if (*p != ',') return NULL;
        p = skip(p + 1);
    }
}

static int is_json(const qnet_buffer *b)
{
    const char *end = json_value((const char *)b->bytes);
    return end && *skip(end) == '\0' && strlen((const char *)b->bytes) == b->size;
}

/* ---- Tests --------------------------------------------------------------------- */

static void test_numbers(void)
{
    char t[NUMBER_SIZE];
    CHECK(strcmp(fixed_text(t, 0.87549, 3), "0.875") == 0);
    CHECK(strcmp(fixed_text(t, -1.5, 1), "-1.5") == 0);
    CHECK(strcmp(fixed_text(t, (double)NAN, 3), "-") == 0);
    CHECK(strcmp(fixed_text(t, HUGE_VAL, 3), "inf") == 0 && strcmp(fixed_text(t, -HUGE_VAL, 3), "-inf") == 0);
    CHECK(strcmp(fixed_text(t, 1e300, 3), "1.000e+300") == 0);
    CHECK(strcmp(p_text(t, 6.187e-33), "6.2e-33") == 0);
    CHECK(strcmp(p_text(t, 0.0539), "0.0539") == 0 && strcmp(p_text(t, 1.0), "1.0000") == 0);
    CHECK(strcmp(p_text(t, 0.0), "0") == 0 && strcmp(p_text(t, (double)NAN), "-") == 0);
    CHECK(strcmp(p_text(t, 0.00009), "9.0e-05") == 0);
    strcpy(t, "-12,5e-07"); /* a decimal comma */
    decimal_point(t);
    CHECK(strcmp(t, "-12.5e-07") == 0);
    strcpy(t, "0\xd9\xab""875"); /* the Arabic decimal sign, two bytes of UTF-8 */
    decimal_point(t);
    CHECK(strcmp(t, "0.875") == 0);
    CHECK(nice_step(1, 5) == 0.2 && nice_step(10, 5) == 2 && nice_step(99, 10) == 10);
    CHECK_NEAR(nice_step(0.3, 6), 0.05, 1e-15);
}

static void test_base64(void)
{
    static const char *const want[5] = { "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==" }; /* RFC 4648, 10 */
    recipe *r = made_up(12, 3, 1, 0, 0);
    for (size_t n = 0; n < 5; n++) {
        qnet_buffer b;
        writer w;
        memset(&b, 0, sizeof b);
        w = writer_begin(ctx, &b, "", 0);
        put_base64(&w, (const unsigned char *)"foobar", n);
        CHECK_OK(ctx, writer_end(&w));
        CHECK(b.size == strlen(want[n]) && (n == 0 || memcmp(b.bytes, want[n], b.size) == 0));
        qnet_buffer_free(ctx, &b);
    }
    {
        unsigned char bytes[1000];
        qnet_buffer b;
        writer w;
        memset(bytes, 0, sizeof bytes);
        memset(&b, 0, sizeof b);
        w = writer_begin(ctx, &b, "", 0);
        put_base64(&w, bytes, sizeof bytes);
        CHECK(b.size == 1336 && strcmp((char *)b.bytes + 1330, "AAAA==") == 0);
        qnet_buffer_free(ctx, &b);
    }
    destroy(r);
}

static void test_tables(void)
{
    recipe *r = made_up(22, 3, 1, 1, 0); /* 12 HH, 10 HC: as few as have stars */
    qnet_experiment *e = &r->e;
    qnet_level_result *l = &e->level[QNET_INPUT_FULL][QNET_LEVEL_IMAGE];
    qnet_buffer b;
    const char *text;
    memset(&b, 0, sizeof b);
    l->model[QNET_MODEL_RESNET].accuracy = mean_std(0.6819, 0.0024);
    l->pair[1].by_item.auc[0] = 0.851;
    l->pair[1].by_item.auc[1] = 0.747;
    l->pair[1].by_item.se = 0.0087;
    l->pair[1].by_item.z = 11.954;
    l->pair[1].by_item.p = 6.187e-33;
    e->level[QNET_INPUT_CROP][QNET_LEVEL_SCAN].model[QNET_MODEL_QNET].accuracy = mean_std(79 / 95.0, 0.3);
    CHECK_OK(ctx, report_tables(e, &b));
    text = (const char *)b.bytes;
    CHECK_CONTAINS(text, "Full size ResNet    68.19 +- 0.24");
    CHECK_CONTAINS(text, "          Q-Net       ResNet      0.851   0.747   0.0087     11.954   6.2e-33   ****");
    CHECK_CONTAINS(text, "\n          Q-Net     83.16   "); /* Table 3 has no deviations */
    CHECK_CONTAINS(text, "over the 10 folds");
    CHECK_CONTAINS(text, "Small cohort: 22 subjects");
    CHECK_CONTAINS(text, " (p = ");
    CHECK_CONTAINS(text, "Random initial weights");
    CHECK(strstr(text, "Short training") == NULL && strstr(text, "nan") == NULL);
    for (const char *line = text; *line;) { /* fits a page */
        const size_t length = strcspn(line, "\n");
        CHECK(length <= 100);
        line += length + (line[length] == '\n');
    }
    qnet_buffer_free(ctx, &b);
    e->config.repeats = 3;
    CHECK_OK(ctx, report_tables(e, &b));
    CHECK_CONTAINS((const char *)b.bytes, "over 3 repeats of the 10-fold");
    CHECK_CONTAINS((const char *)b.bytes, "83.16 +- 30.00");
    CHECK_CONTAINS((const char *)b.bytes, "those of the first repeat");
    qnet_buffer_free(ctx, &b);
    e->config.repeats = 1;
    e->config.shuffle_labels = 1;
    e->config.stage1.epochs = 3;
    strcpy(e->weights, "resnet18.safetensors");
    CHECK_OK(ctx, report_tables(e, &b));
    CHECK_CONTAINS((const char *)b.bytes, "Control run with shuffled labels");
    CHECK_CONTAINS((const char *)b.bytes, "Short training: 3 epochs");
    CHECK(strstr((const char *)b.bytes, "Random initial weights") == NULL);
    CHECK_CONTAINS((const char *)b.bytes, "Initial weights from a file.");
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

/* Text, page and JSON of an experiment whose smaller class has so few subjects that no test counts. */
static void check_no_stars(recipe *r, const char *why)
{
    const char *const stars[3] = { "\"stars\": null", "\"too_few_subjects\": 1", "\"p\": null" };
    const long tests = r->e.config.use_input[QNET_INPUT_FULL] ? 24 : 12;
    qnet_buffer b;
    const char *text;
    memset(&b, 0, sizeof b);
    for (int input = 0; input < 2; input++) {
        for (int k = 0; k < 6; k++) {
            r->e.level[input][k / 3].pair[k % 3].by_item.p = 1e-33;
            r->e.level[input][k / 3].pair[k % 3].by_subject.p = 1e-33;
        }
    }
    CHECK_OK(ctx, report_tables(&r->e, &b));
    text = (const char *)b.bytes;
    CHECK(strstr(text, "****\n") == NULL && strstr(text, "e-33") == NULL && strstr(text, "p = ") == NULL);
    CHECK(strstr(text, "significant") == NULL);
    for (size_t i = 0; i < b.size; i++) if (b.bytes[i] == '\n') b.bytes[i] = ' ';
    CHECK_CONTAINS(text, why);
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, page(&r->e, &b));
    text = (const char *)b.bytes;
    CHECK(strstr(text, ">****<") == NULL && strstr(text, "e-33") == NULL && strstr(text, "p&nbsp;=") == NULL);
    CHECK(strstr(text, "significant") == NULL && strstr(text, "v-5H") == NULL); /* nor brackets */
    CHECK_CONTAINS(text, why);
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, report_json(&r->e, &b));
    for (int k = 0; k < 3; k++) CHECK(occurrences((const char *)b.bytes, stars[k]) == tests);
    CHECK(strstr((const char *)b.bytes, "e-33") == NULL);
    CHECK(is_json(&b));
    qnet_buffer_free(ctx, &b);
}

/* A model that says the same of everybody is neither perfect nor a leak, and where the test has no
   variance there is no star, however far apart the AUCs are. */
static void test_equal_scores(void)
{
    recipe *r = made_up(24, 3, 2, 1, 8);
    qnet_level_result *l = &r->e.level[QNET_INPUT_CROP][QNET_LEVEL_SCAN];
    qnet_buffer b;
    memset(&b, 0, sizeof b);
    for (size_t i = 0; i < l->count; i++) {
        l->items[i].probability[QNET_MODEL_QNET] = 0.5;
        l->items[i].probability[QNET_MODEL_RESNET_SWA] = 1 - l->items[i].label;
    }
    for (int m = 0; m < QNET_MODELS; m++) free(l->model[m].roc); /* of what was made up at first */
    evaluate(r, QNET_INPUT_CROP, QNET_LEVEL_SCAN);
    l->model[QNET_MODEL_QNET].auc_within_folds = 0.4375;
    CHECK(l->pair[2].by_subject.se == 0 && l->pair[2].by_subject.p == 0);
    for (int shuffled = 0; shuffled < 2; shuffled++) {
        r->e.config.shuffle_labels = shuffled;
        CHECK_OK(ctx, report_tables(&r->e, &b));
        for (size_t i = 0; i < b.size; i++) if (b.bytes[i] == '\n') b.bytes[i] = ' ';
        CHECK_CONTAINS((const char *)b.bytes, "its AUC is 0.500 (no interval: all scores are equal)");
        CHECK_CONTAINS((const char *)b.bytes, shuffled ? "shows neither a leak nor" : "equal). So this cohort does not show");
        if (!shuffled) CHECK_CONTAINS((const char *)b.bytes, "no variance to test with");
        CHECK(strstr((const char *)b.bytes, "significantly") == NULL && strstr((const char *)b.bytes, "inf") == NULL);
        if (shuffled) CHECK_CONTAINS((const char *)b.bytes, "AUCs within the folds is 0.438");
        if (shuffled) CHECK_CONTAINS((const char *)b.bytes, "crop Q-Net 0.438, 0.500;");
        CHECK_CONTAINS((const char *)b.bytes, "two of five cohorts would have a star");
        qnet_buffer_free(ctx, &b);
    }
    CHECK_OK(ctx, report_json(&r->e, &b));
    CHECK(is_json(&b));
    CHECK(occurrences((const char *)b.bytes, "\"no_variance\": 1") == 2);
    CHECK(occurrences((const char *)b.bytes, "\"stars\": null") == 2);
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, page(&r->e, &b));
    CHECK_CONTAINS((const char *)b.bytes, "shuffled label H");
    CHECK_CONTAINS((const char *)b.bytes, "the patient's right is at the left");
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

static void test_few_subjects(void)
{
    recipe *r = made_up(18, 3, 2, 1, 8);
    check_no_stars(r, "with 8 subjects in the smaller group");
    destroy(r);
    r = made_up(24, 3, 2, 1, 8); /* two scans of each of twelve: subjects count, not scans or slices */
    for (int s = 1; s < 24; s += 2) strcpy(r->e.participants[s].subject, r->e.participants[s - 1].subject);
    for (int s = 0; s < 24; s++) r->e.participants[s].label = s < 14 ? QNET_HH : QNET_HC;
    check_no_stars(r, "with 5 subjects in the smaller group");
    destroy(r);
}

static void test_json(void)
{
    static const char *const keys[6] = { "\n  \"config\": {",      "\n  \"cohort\": {", "\n  \"image_level\": {",
                                         "\n  \"scan_level\": {", "\n  \"delong\": [", "\n  \"bootstrap\": {" };
    recipe *r = made_up(12, 3, 1, 1, 0);
    qnet_experiment *e = &r->e;
    qnet_buffer b;
    memset(&b, 0, sizeof b);
    e->level[0][0].model[0].auc.mean = (double)NAN;
    e->level[0][0].pair[0].by_item.z = HUGE_VAL;
    e->level[0][0].model[QNET_MODEL_QNET].accuracy = mean_std(0.8037, 0.007);
    CHECK_OK(ctx, report_json(e, &b));
    CHECK(is_json(&b));
    for (int i = 0; i < 6; i++) CHECK(occurrences((const char *)b.bytes, keys[i]) == 1);
    CHECK_CONTAINS((const char *)b.bytes, "\"auc\": {\"mean\": null");
    CHECK_CONTAINS((const char *)b.bytes, "\"z\": null");
    CHECK_CONTAINS((const char *)b.bytes, "\"accuracy\": {\"mean\": 0.8037, \"std\": 0.007}");
    CHECK_CONTAINS((const char *)b.bytes, "\"seed\": 18446744073709551615");
    CHECK_CONTAINS((const char *)b.bytes, "\"rate_first\": 0.0003");
    CHECK_CONTAINS((const char *)b.bytes, "cohort <main> & \\\"others\\\"");
    CHECK(occurrences((const char *)b.bytes, "\"model1\"") == 12);
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, report_manifest(e, &b));
    CHECK(is_json(&b));
    CHECK_CONTAINS((const char *)b.bytes, "\"cohort_crop\": \"0123456789abcdef\"");
    CHECK_CONTAINS((const char *)b.bytes, "a<b>\\\"x\\\", \\u0001'&");
    CHECK_CONTAINS((const char *)b.bytes, "out/\xef\xbf\xbd\xef\xbf\xbd"); /* was not UTF-8 */
    CHECK(occurrences((const char *)b.bytes, "\"fold\"") == 12);
    CHECK_CONTAINS((const char *)b.bytes, "\"age\": null");
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

/* Where each scan was cut: in the manifest by numbers, on the page as a picture, outliers marked. */
static void test_cuts(void)
{
    static uint8_t rgb[12 * 2 * CUT_SIDE * CUT_SIDE * 3];
    recipe *r = made_up(12, 3, 1, 1, 0);
    qnet_experiment *e = &r->e;
    qnet_buffer b;
    memset(&b, 0, sizeof b);
    CHECK_OK(ctx, page(e, &b));
    CHECK(occurrences((const char *)b.bytes, "Where the images were cut") == 0); /* not kept */
    qnet_buffer_free(ctx, &b);
    for (int s = 0; s < 12; s++) {
        qnet_cut *c = &e->participants[s].cut[QNET_INPUT_CROP];
        c->slice[0] = 3;
        c->slice[1] = 14 + s;
        c->center[0] = 71.5;
        c->center_mm[2] = -20.25;
        c->side_mm = 111.4;
        c->mask_voxels = 2000;
        c->mask_left_out = s == 5;
        c->outlier = s == 5 ? 3 : 0;
    }
    CHECK_OK(ctx, report_manifest(e, &b));
    CHECK(is_json(&b));
    CHECK_CONTAINS((const char *)b.bytes, "\"cut_crop\": [");
    CHECK_CONTAINS((const char *)b.bytes,
                   "{\"subject\": \"sub-06\", \"slices\": [3, 19], \"center_voxel\": [71.5, 0], "
                   "\"center_mm\": [0, 0, -20.25], \"side_mm\": 111.4, \"mask_voxels\": 2000, "
                   "\"mask_left_out\": 1, \"located\": 0, \"confidence\": 0, \"outlier\": \"place in the head, number of slices\"}");
    qnet_buffer_free(ctx, &b);
    r->drawn.cuts.count = 12;
    r->drawn.cuts.rgb = rgb;
    CHECK_OK(ctx, page(e, &b));
    CHECK(occurrences((const char *)b.bytes, "<details open><summary>Where the images were cut") == 1);
    CHECK(occurrences((const char *)b.bytes, "alt=\"where this scan was cut\"") == 12);
    CHECK(occurrences((const char *)b.bytes, " class=\"odd\">") == 1);
    CHECK_CONTAINS((const char *)b.bytes, "sub-06, slices 3&ndash;19, <b>look: place in the head, ");
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

/* What is said of subjects: against the library's own tests where both are of the same, and counted. */
static void test_assessed(void)
{
    static uint8_t rgb[24 * 2 * CUT_SIDE * CUT_SIDE * 3];
    recipe *r = made_up(24, 3, 2, 1, 0);
    qnet_experiment *e = &r->e;
    long wrong = 0, missed = 0;
    assessments all;
    qnet_buffer b;
    memset(&b, 0, sizeof b);
    give_options(r, 200, 0.02);
    CHECK_OK(ctx, assess_all(e, &all));
    CHECK(all.count == 2 && all.of[0].input == QNET_INPUT_FULL && all.of[1].input == QNET_INPUT_CROP);
    for (int i = 0; i < all.count; i++) {
        const assessment *a = &all.of[i];
        const qnet_level_result *l = &e->level[a->input][QNET_LEVEL_SCAN];
        int in_groups[2] = { 0, 0 };
        CHECK(a->count == 24 && !a->several);
        for (int m = 0; m < QNET_MODELS; m++) {
            CHECK_NEAR(a->model[m].auc, l->model[m].auc_first, 1e-15);
            CHECK(memcmp(&a->model[m].metrics.count, &l->model[m].first.count, sizeof(qnet_confusion)) == 0);
            wrong += (long)(l->model[m].first.count.fn + l->model[m].first.count.fp);
        }
        missed += (long)(l->model[QNET_MODEL_QNET].first.count.fn + l->model[QNET_MODEL_QNET].first.count.fp);
        for (int k = 0; k < COMPARISONS; k++) {
            const comparison *c = &a->pair[k];
            if (k < 3 && l->pair[k].by_subject.se > 0) CHECK_NEAR(c->p[0], l->pair[k].by_subject.p, 1e-12);
            CHECK(!(c->holm[0] < c->p[0]) && c->holm[1] >= c->p[1] && c->only[0] + c->only[1] <= 24);
            CHECK_NEAR(c->p[1], mcnemar_exact(c->only[0], c->only[1]), 0);
        }
        for (int m = 0; m < ASSESSED; m++) {
            CHECK(a->model[m].has && a->model[m].permutation_p >= 1 / 201.0 && a->model[m].permutation_p <= 1);
            CHECK((a->model[m].permutation_p <= 0.05) == (a->model[m].auc > 0.7));
        }
        CHECK(strcmp(a->model[BASELINE_REGIONS].name, "Mask's means") == 0);
        subgroups list;
        CHECK_OK(ctx, assess_subgroups(e, a, &list));
        CHECK(list.count == SUBGROUPS);
        for (int k = 0; k < SUBGROUPS; k++) {
            CHECK(list.of[k].auc_ci.low != list.of[k].auc_ci.low); /* fewer than ten of either group */
            in_groups[k / 2] += list.of[k].count;
        }
        CHECK(in_groups[0] == 23 && in_groups[1] == 23); /* one without a sex, one without an age */
    }
    assess_free(e, &all);
    r->drawn.cuts.count = 24;
    r->drawn.cuts.rgb = rgb;
    CHECK_OK(ctx, page(e, &b));
    r->drawn.cuts.rgb = NULL;
    CHECK(occurrences((const char *)b.bytes, "&nbsp;&#10007;") == wrong);
    CHECK(occurrences((const char *)b.bytes, "<tr class=\"missed\">") == missed);
    CHECK(occurrences((const char *)b.bytes, "pin sortable\">") == 2);
    CHECK(occurrences((const char *)b.bytes, "Q-Net says</th><th scope=\"col\">Pictures</th>") == 2);
    CHECK(occurrences((const char *)b.bytes, "href=\"#scan-24\"") == 2);
    CHECK(occurrences((const char *)b.bytes, "id=\"scan-24\"") == 1);
    CHECK(occurrences((const char *)b.bytes, "<circle class=\"ring\"") == missed);
    CHECK_CONTAINS((const char *)b.bytes, ">2.0</td>"); /* the given prevalence, in percent */
    CHECK_CONTAINS((const char *)b.bytes, "of 200 permutations");
    CHECK_CONTAINS((const char *)b.bytes, "Deep learning: ResNet18");
    CHECK_CONTAINS((const char *)b.bytes, "<li>44 Funding</li>");
    for (int k = 0; k < 4; k++) { /* targets of links */
        static const char *const ids[4] = { "subject-by-subject", "beside-simpler-models",
                                            "what-the-probabilities-are-worth", "for-a-paper-claim-and-tripod-ai" };
        char id[60];
        sprintf(id, "<h2 id=\"%s\">", ids[k]);
        CHECK(occurrences((const char *)b.bytes, id) == 1);
    }
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, report_json(e, &b));
    CHECK(is_json(&b));
    CHECK(occurrences((const char *)b.bytes, "\n  \"by_subject\": {") == 1);
    CHECK(occurrences((const char *)b.bytes, "\"brier\": ") == 10);
    CHECK(occurrences((const char *)b.bytes, "{\"prevalence\": 0.02, ") == 10);
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

static void test_subgroup_values(void)
{
    const char *value[6] = { "10", "9", "1e1", "9", "2,5", "-3" }, *median;
    double number;
    CHECK(subgroup_sort(value, 6, &median) == 5 && strcmp(median, "9") == 0); /* of -3 2,5 9 9 10 1e1 */
    CHECK(strcmp(value[0], "-3") == 0 && strcmp(value[1], "2,5") == 0 && strcmp(value[4], "1e1") == 0);
    value[5] = "1,250"; /* German or English */
    CHECK(subgroup_sort(value, 6, &median) == 6 && median == NULL && strcmp(value[5], "1,250") == 0);
    CHECK(subgroup_sort(value, 0, &median) == 0 && median == NULL);
    CHECK(subgroup_number("0.125", &number) && number == 0.125 && !subgroup_number("", &number));
    CHECK(!subgroup_number("1,2,3", &number) && !subgroup_number("inf", &number) && !subgroup_number("5 ", &number));
    CHECK(!subgroup_number("1e999", &number) && !subgroup_number("00000000000000000000000000000001", &number));
}

/* Subgroups by columns of participants.tsv, whose lines are in another order and of more people: by hand. */
static void test_subgroup_columns(void)
{
    static const char *const site[3] = { "B|\"2\"", "", "<A>&" }, *const first[8] = { "", "S<i>te", "iron", "few",
                             "sub-99", "C", "999", "0" };
    static const char *const values[12] = { "<A>&", "B|\"2\"", "up to 9", "above 9", "0", "1", "2", "3", "4", "5",
                                            "6", "7" };
    recipe *r = made_up(24, 3, 2, 0, 0);
    qnet_experiment *e = &r->e;
    subject_columns *columns = &r->drawn.columns;
    qnet_buffer b;
    assessments all;
    subgroups list;
    memset(&b, 0, sizeof b);
    give_options(r, 0, 0);
    columns->count = 3;
    for (int k = 0; k < 8; k++) CHECK_OK(ctx, qnet_buffer_append(ctx, &columns->text, first[k], strlen(first[k]) + 1));
    for (int s = 23; s >= 0; s--) {
        char iron[4] = "", few[4];
        const char *const line[4] = { e->participants[s].subject, site[s % 3], iron, few };
        if (s < 17) sprintf(iron, "%d", s + 1);
        sprintf(few, "%d", s % 8);
        for (int k = 0; k < 4; k++) CHECK_OK(ctx, qnet_buffer_append(ctx, &columns->text, line[k], strlen(line[k]) + 1));
    }
    CHECK(strcmp(subject_value(columns, "sub-17", 1), "17") == 0 && strcmp(subject_value(columns, "sub-99", 0), "C") == 0);
    CHECK(strcmp(subject_value(columns, "sub-1", 0), "") == 0 && strcmp(subject_value(columns, "C", 0), "") == 0);
    CHECK_OK(ctx, assess_all(e, &all));
    CHECK_OK(ctx, assess_subgroups(e, &all.of[0], &list));
    CHECK(list.count == SUBGROUPS + 12);
    for (int row = 0; row < 12; row++) {
        const subgroup *g = &list.of[SUBGROUPS + row];
        int count = 0, hh = 0, right = 0;
        for (int s = 0; s < 24; s++) {
            const qnet_item *item = &e->level[QNET_INPUT_CROP][QNET_LEVEL_SCAN].items[s];
            const int in = row == 0 ? s % 3 == 2 : row == 1 ? s % 3 == 0 : row == 2 ? s < 9
                         : row == 3 ? s >= 9 && s < 17 : s % 8 == row - 4;
            count += in;
            hh += in && item->label == QNET_HH;
            right += in && item->decision[QNET_MODEL_QNET] == item->label;
        }
        CHECK(strcmp(g->column, row < 2 ? "S<i>te" : row < 4 ? "iron" : "few") == 0);
        CHECK(strcmp(g->value, values[row]) == 0 && g->count == count && g->hh == hh);
        CHECK_NEAR(g->metrics.accuracy, (double)right / count, 1e-15);
    }
    assess_free(e, &all);
    CHECK_OK(ctx, page(e, &b));
    CHECK_CONTAINS((const char *)b.bytes, "<td>S&#60;i&#62;te: &#60;A&#62;&#38;</td><td class=\"n\">4</td>");
    CHECK_CONTAINS((const char *)b.bytes, "<td>S&#60;i&#62;te: B|&#34;2&#34;</td>");
    CHECK_CONTAINS((const char *)b.bytes, "<td>iron: up to 9</td><td class=\"n\">9</td><td class=\"n\">0</td>");
    CHECK_CONTAINS((const char *)b.bytes, "By sex, age, S&#60;i&#62;te, iron and few; no method");
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, report_json(e, &b));
    CHECK(is_json(&b));
    CHECK_CONTAINS((const char *)b.bytes, "\"column\": \"S<i>te\",");
    CHECK_CONTAINS((const char *)b.bytes, "\"value\": \"B|\\\"2\\\"\",");
    CHECK(occurrences((const char *)b.bytes, "\"column\": ") == 12);
    qnet_buffer_free(ctx, &b);
    columns->count = 0;
    CHECK_OK(ctx, report_json(e, &b));
    CHECK(strstr((const char *)b.bytes, "by_column") == NULL);
    qnet_buffer_free(ctx, &b);
    qnet_buffer_free(ctx, &columns->text);
    destroy(r);
}

/* Two scans of each of twelve subjects: they count once, by the mean and the majority. */
static void test_assessed_several(void)
{
    recipe *r = made_up(24, 3, 2, 0, 0);
    qnet_experiment *e = &r->e;
    qnet_item *items = e->level[QNET_INPUT_CROP][QNET_LEVEL_SCAN].items;
    assessments all;
    qnet_buffer b;
    memset(&b, 0, sizeof b);
    for (int s = 0; s < 24; s++) {
        items[s].label = s < 12;
        e->fold[s] = items[s].fold = s / 2 % 4;
        if (s % 2) strcpy(e->participants[s].subject, e->participants[s - 1].subject);
    }
    items[0].probability[QNET_MODEL_QNET] = 0.9;
    items[1].probability[QNET_MODEL_QNET] = 0.2;
    items[0].decision[QNET_MODEL_QNET] = 1;
    items[1].decision[QNET_MODEL_QNET] = 0;
    CHECK_OK(ctx, assess_all(e, &all));
    CHECK(all.count == 1 && all.of[0].count == 12 && all.of[0].several);
    CHECK_NEAR(all.of[0].model[QNET_MODEL_QNET].probability[0], 0.55, 1e-15);
    CHECK(all.of[0].model[QNET_MODEL_QNET].decision[0] == 0); /* a tie */
    CHECK(all.of[0].label[5] == 1 && all.of[0].label[6] == 0 && all.of[0].fold[5] == 1);
    CHECK(all.of[0].pair[2].p[0] != all.of[0].pair[2].p[0]); /* six subjects are too few for DeLong */
    CHECK(!all.of[0].model[BASELINE_REGIONS].has);           /* nobody gave their means */
    assess_free(e, &all);
    CHECK_OK(ctx, page(e, &b));
    CHECK_CONTAINS((const char *)b.bytes, "Some subjects have several scans");
    CHECK(strstr((const char *)b.bytes, "irst repeat") == NULL); /* there is one only */
    CHECK_CONTAINS((const char *)b.bytes, ", scan 2</th>");
    CHECK(strstr((const char *)b.bytes, "Mask's means") == NULL);
    qnet_buffer_free(ctx, &b);
    e->config.repeats = 3;
    CHECK_OK(ctx, page(e, &b));
    CHECK_CONTAINS((const char *)b.bytes, "decisions. First repeat.</p>");
    CHECK_CONTAINS((const char *)b.bytes, "in which fold of the first repeat;");
    qnet_buffer_free(ctx, &b);
    for (int s = 0; s < 24; s++) items[s].label = 1; /* one class: nothing to assess, and still a page */
    CHECK_OK(ctx, page(e, &b));
    CHECK(strstr((const char *)b.bytes, "Subject by subject") == NULL);
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

static void test_csv(void)
{
    recipe *r = made_up(12, 3, 1, 1, 0);
    qnet_experiment *e = &r->e;
    qnet_buffer b;
    const char *line;
    size_t lines = 0, images = e->level[0][QNET_LEVEL_IMAGE].count;
    char first[200];
    memset(&b, 0, sizeof b);
    e->level[0][QNET_LEVEL_IMAGE].items[0].probability[0] = 0.1;
    CHECK_OK(ctx, report_csv(e, &b));
    line = (const char *)b.bytes;
    CHECK_CONTAINS(line, "level,input,repeat,fold,subject,scan,slice,z,label,p_resnet,p_resnetswa,p_qnet,");
    sprintf(first, "\nimage,crop,1,1,\"a<b>\"\"x\"\", \x01'&\",0,0,30,1,0.1,");
    CHECK_CONTAINS(line, first);
    CHECK_CONTAINS(line, "\nscan,full,1,2,sub-02,1,,,1,");
    for (; *line; line += strcspn(line, "\n") + 1) {
        size_t commas = 0, in_quotes = 0;
        for (const char *c = line; *c != '\n'; c++) {
            if (*c == '"') in_quotes = !in_quotes;
            commas += *c == ',' && !in_quotes;
        }
        CHECK(commas == 14);
        lines++;
    }
    CHECK(lines == 1 + 2 * (images + 12));
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

/* Everything that a reader may take away by itself says whose data it is. */
static void test_dataset(void)
{
    recipe *r = made_up(12, 3, 1, 1, 8);
    qnet_experiment *e = &r->e;
    qnet_buffer b;
    memset(&b, 0, sizeof b);
    for (int simulated = 0; simulated < 2; simulated++) {
        const char *html[4] = { "<title>Q-Net report: Iron &#60;b&#62;&#34;1&#34;&#60;/b&#62; &#38; \xc3\xa9t",
                                "experiment &middot; Iron &#60;b", "<p class=\"verdict\">Data: Iron &#60;b",
                                "&#34;1&#34;&#60;/b&#62; &#38; \xc3\xa9t\xc3\xa9, DatasetType raw&#60;i&#62;" };
        e->simulated = simulated;
        if (simulated) html[2] = "&#38; \xc3\xa9t\xc3\xa9. Its subjects are simulated: ";
        CHECK_OK(ctx, page(e, &b));
        for (int k = 0; k < 4; k++) CHECK_CONTAINS((const char *)b.bytes, html[k]);
        CHECK(occurrences((const char *)b.bytes, "imulated") == (simulated ? 5 : 0));
        qnet_buffer_free(ctx, &b);
        CHECK_OK(ctx, report_tables(e, &b));
        CHECK_CONTAINS((const char *)b.bytes, "\nData: Iron <b>\"1\"</b> & ");
        CHECK(occurrences((const char *)b.bytes, "Its subjects are simulated: ") == simulated);
        qnet_buffer_free(ctx, &b);
        for (int k = 0; k < 2; k++) {
            CHECK_OK(ctx, k ? report_manifest(e, &b) : report_json(e, &b));
            CHECK(is_json(&b));
            CHECK_CONTAINS((const char *)b.bytes, "\"dataset\": \"Iron <b>\\\"1\\\"</b> & ");
            CHECK_CONTAINS((const char *)b.bytes, "\"dataset_type\": \"raw<i>\"");
            CHECK_CONTAINS((const char *)b.bytes, simulated ? "\"simulated\": 1" : "\"simulated\": 0");
            qnet_buffer_free(ctx, &b);
        }
    }
    e->dataset[0] = '\0';
    CHECK_OK(ctx, page(e, &b));
    CHECK(occurrences((const char *)b.bytes, "data set not named") == 5);
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, report_json(e, &b));
    CHECK_CONTAINS((const char *)b.bytes, "\"dataset\": null");
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

static void check_html(const char *text)
{
    static const char *const tags[16] = { "div", "table", "tr", "td", "th", "thead", "tbody", "p",
                                          "h2",  "h3",    "h4", "figure", "figcaption", "svg", "text", "ul" };
    for (int i = 0; i < 16; i++) {
        char open[16], open_with[16], close[16];
        sprintf(open, "<%s>", tags[i]);
        sprintf(open_with, "<%s ", tags[i]);
        sprintf(close, "</%s>", tags[i]);
        if (occurrences(text, open) + occurrences(text, open_with) != occurrences(text, close)) printf("<%s>\n", tags[i]);
        CHECK(occurrences(text, open) + occurrences(text, open_with) == occurrences(text, close));
    }
    CHECK(strstr(text, "http") == NULL && strstr(text, "src=\"/") == NULL && strstr(text, "url(#scale-map") != NULL);
    CHECK(strstr(text, "a<b>") == NULL && strstr(text, "<main> &") == NULL && strstr(text, "nan") == NULL);
    CHECK_CONTAINS(text, "a&#60;b&#62;&#34;x&#34;,  &#39;&#38;");
    CHECK_CONTAINS(text, "width=device-width");
    CHECK_CONTAINS(text, "data:image/png;base64,iVBORw0KGgo");
    for (int i = 2; i <= 10; i++) { /* every figure of the results */
        char figure[32];
        sprintf(figure, "<b>Fig. %d.", i);
        if (i != 4) CHECK_CONTAINS(text, figure);
    }
    for (int i = 1; i <= 3; i++) {
        char table[32];
        sprintf(table, "<b>Table %d.", i);
        CHECK_CONTAINS(text, table);
    }
    CHECK((strstr(text, "<p class=\"verdict\">Data: Iron") != NULL) || strstr(text, "shuffled") != NULL);
}

static void test_html(void)
{
    recipe *r = made_up(12, 3, 1, 1, 32);
    qnet_experiment *e = &r->e;
    qnet_buffer b, again;
    long wrong = 0;
    memset(&b, 0, sizeof b);
    memset(&again, 0, sizeof again);
    CHECK_OK(ctx, page(e, &b));
    check_html((const char *)b.bytes);
    CHECK_CONTAINS((const char *)b.bytes, "resolution, 1 &times; 1 cells of 32 pixels"); /* of 32 x 32 */
    CHECK_CONTAINS((const char *)b.bytes, "With images in full size, Q-Net's AUC is ");
    CHECK(occurrences((const char *)b.bytes, "<a href=\"#heat-") > 0 && /* each to a picture that is there */
          occurrences((const char *)b.bytes, "<a href=\"#heat-") == occurrences((const char *)b.bytes, " id=\"heat-"));
    CHECK(occurrences((const char *)b.bytes, "\"l watched c") == 0);
    for (int input = 0; input < 2; input++) { /* a picture's slice that is called what it is not says so */
        for (int i = 0; i < 4; i++) {
            const cam_picture *c = &r->drawn.cam[input][i];
            wrong += (c->probability > 0.5) != (e->participants[c->scan].label == QNET_HH);
        }
    }
    CHECK(wrong > 0 && occurrences((const char *)b.bytes, " wrong</strong></figcaption>") >= wrong);
    CHECK_OK(ctx, page(e, &again));
    CHECK(b.size == again.size && memcmp(b.bytes, again.bytes, b.size) == 0);
    qnet_buffer_free(ctx, &b);
    qnet_buffer_free(ctx, &again);
    e->config.inner_validation = 1; /* a second curve for each model and input */
    CHECK_OK(ctx, page(e, &again));
    CHECK(occurrences((const char *)again.bytes, "\"l watched c") == 6);
    CHECK_CONTAINS((const char *)again.bytes, "Nothing was chosen by it");
    qnet_buffer_free(ctx, &again);
    destroy(r);
}

/* Whether an attribute of that value is in the page, and once. */
static long with_value(const char *text, const char *attribute, const char *value, size_t length)
{
    char part[200];
    snprintf(part, sizeof part, "%s=\"%.*s\"", attribute, (int)length, value);
    return occurrences(text, part);
}

/* What a reader by keyboard or by ear needs. */
static void test_access(void)
{
    recipe *r = made_up(12, 3, 1, 1, 32);
    qnet_buffer b;
    const char *text;
    int level = 1;
    memset(&b, 0, sizeof b);
    CHECK_OK(ctx, page(&r->e, &b));
    text = (const char *)b.bytes;
    for (const char *p = text; (p = strstr(p, "href=\"#")) != NULL;) { /* contents, and slices used twice */
        p += 7;
        CHECK(with_value(text, "id", p, strcspn(p, "\"")) == 1);
    }
    CHECK(occurrences(text, "<li><a href=\"#") == occurrences(text, "<h2 id=\"") && occurrences(text, "<h2>") == 0);
    CHECK_CONTAINS(text, "<a href=\"#results-by-scan\">Results by scan</a>");
    CHECK(occurrences(text, "<th>") == 0 && occurrences(text, "<th ") == occurrences(text, "<th scope=\""));
    CHECK(occurrences(text, "<caption>") >= 8 && occurrences(text, "<p class=\"cap\">") == 0);
    CHECK_CONTAINS(text, "<div tabindex=\"0\" class=\"scroll\"><table class=\"wide pin\"><caption><b>Table 1.</b>");
    CHECK(occurrences(text, "<div class=\"scroll") == 0);
    for (const char *p = text; (p = strstr(p, "<h")) != NULL; p++) { /* no heading skips a level */
        if (p[2] < '1' || p[2] > '6') continue;
        CHECK(p[2] - '0' <= level + 1);
        level = p[2] - '0';
    }
    for (const char *p = text; (p = strstr(p, "<svg class=\"heat")) != NULL; p++) { /* each says which it is */
        const char *label = strstr(p, "aria-label=\"") + 12;
        CHECK(with_value(text, "aria-label", label, strcspn(label, "\"")) <= 2); /* both inputs have one */
        CHECK(strncmp(label, "sub-", 4) == 0 || strncmp(label, "a&#60;", 6) == 0);
    }
    CHECK(occurrences(text, "<div class=\"key\">") == 2); /* of each scan one slice, for paper */
    CHECK(occurrences(text, "Command, ") == 0);
    r->drawn.command = "build/crossval --data 'a <b>'";
    strcpy(r->drawn.date, "2026-01-02");
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, page(&r->e, &b));
    CHECK_CONTAINS((const char *)b.bytes, "Command, 2026-01-02</td><td class=\"wrap\"><code>build/crossval --data "
                                          "&#39;a &#60;b&#62;&#39;</code>");
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

/* A head across the slice, with a dark hole in it: greys are ppm, and air is what the edge reaches. */
static void test_heat(void)
{
    enum { IN = 40, SIZE = 32 };
    float pixels[IN * IN * 3], cells[4] = {1, 0, 0, 0}, whole[4] = {-1, 1, 1, -1};
    uint8_t grey[SIZE * SIZE], air[SIZE * SIZE];
    for (int i = 0; i < IN * IN; i++) {
        const int y = i / IN - 4, x = i % IN - 4, hole = y == 16 && x >= 14 && x < 18;
        const int head = y >= 8 && y < 24 && x >= 0 && x < 32;
        pixels[3 * i] = !head ? 0.2f : x < 16 ? -1 : x == 31 ? 1 : 0.075f;
        pixels[3 * i + 1] = 40;
        pixels[3 * i + 2] = head && !hole ? 100.0f : 2.0f;
    }
    heat_slice(pixels, IN, SIZE, 0, grey, air);
    for (int i = 0; i < SIZE * SIZE; i++) CHECK(air[i] == (i / SIZE < 8 || i / SIZE >= 24));
    CHECK(grey[0] == 0 && grey[8 * SIZE] == 0 && grey[8 * SIZE + 31] == 255); /* air; below and above the window */
    CHECK_NEAR(grey[8 * SIZE + 20], 255 / 2., 5); /* .075 ppm is in its middle; 32 greys */
    CHECK_NEAR(heat_in_air(cells, 2, 2, air, SIZE), .5, 1e-12);
    CHECK_NEAR(heat_in_air(whole, 2, 2, air, SIZE), .5, 1e-12);
    cells[0] = 0;
    CHECK(heat_in_air(cells, 2, 2, air, SIZE) == 0);
    heat_slice(pixels, IN, SIZE, 1, grey, air);
    CHECK_NEAR(grey[8 * SIZE + 20], 255 / 2., 5); /* 40 of 80 1/s */
    heat_slice(pixels, IN, SIZE, 2, grey, air); /* 508 pixels of 100, 1092 of 2: their mean is 33.1, 2 of it white */
    CHECK(grey[8 * SIZE + 20] == 255 && grey[16 * SIZE + 15] > 0 && grey[16 * SIZE + 15] < 12);
    for (int i = 0; i < IN * IN; i++) { /* without T1W the other maps tell */
        pixels[3 * i] = pixels[3 * i + 2] > 50 ? 0.1f : 0;
        pixels[3 * i + 1] = pixels[3 * i + 2] = 0;
    }
    heat_slice(pixels, IN, SIZE, 0, grey, air);
    for (int i = 0; i < SIZE * SIZE; i++) CHECK(air[i] == (i / SIZE < 8 || i / SIZE >= 24));
}

/* Of an ablation the page says which channels there were, and shows the first of them. */
static void test_channels(void)
{
    static const struct { int used[3]; const char *list, *slice, *sheet, *cuts, *white; } cases[4] = {
        { { 1, 1, 1 }, "three channels: QSM, R2* and T1-weighted.<", "the QSM slice", "Left, QSM of", ">T1W of each",
          "0.30 ppm" },
        { { 0, 1, 1 }, "three channels: R2* and T1-weighted, and 0 instead of QSM.<", "the R2* slice", "Left, R2* of",
          ">T1W of each", "80 1/s" },
        { { 0, 1, 0 }, "three channels: R2*, and 0 instead of QSM and T1-weighted.<", "the R2* slice", "Left, R2* of",
          ">R2* of each", "80 1/s" },
        { { 0, 0, 1 }, "three channels: T1-weighted, and 0 instead of QSM and R2*.<", "the T1W slice", "Left, T1W of",
          ">T1W of each", "2 x mean" } };
    static uint8_t rgb[12 * CUT_BYTES];
    for (int k = 0; k < 4; k++) {
        recipe *r = made_up(12, 3, 1, 1, 0);
        qnet_buffer b;
        const char *text;
        memset(&b, 0, sizeof b);
        for (int input = 0; input < 2; input++) {
            memcpy(r->e.config.input[input].use_channel, cases[k].used, sizeof cases[k].used);
            for (int i = 0; i < 4; i++) r->drawn.cam[input][i].heat.channel = heat_channel(cases[k].used);
            made_up_pictures(r, input, 8);
        }
        r->drawn.cuts.rgb = rgb;
        r->drawn.cuts.count = 12;
        CHECK_OK(ctx, page(&r->e, &b));
        text = (const char *)b.bytes;
        CHECK_CONTAINS(text, cases[k].list);
        CHECK_CONTAINS(text, cases[k].slice);
        CHECK_CONTAINS(text, cases[k].sheet);
        CHECK_CONTAINS(text, cases[k].cuts);
        CHECK(occurrences(text, cases[k].white) == 2); /* both scales */
        CHECK(k == 0 || (!strstr(text, "QSM slice") && !strstr(text, "0.30 ppm") && !strstr(text, ": QSM, map")));
        qnet_buffer_free(ctx, &b);
        destroy(r);
    }
}

/* One input, no pictures, no curves, no ages: pages that lack things are still pages. */
static void test_sparse(void)
{
    recipe *r = made_up(12, 3, 0, 0, 0);
    qnet_experiment *e = &r->e;
    qnet_buffer b;
    memset(&b, 0, sizeof b);
    for (int s = 0; s < 12; s++) {
        e->participants[s].age = s % 2 ? (double)NAN : 1e300;
        e->participants[s].sex = QNET_SEX_UNKNOWN;
    }
    CHECK_OK(ctx, page(e, &b));
    CHECK(strstr((const char *)b.bytes, "Full size image") == NULL);
    CHECK(strstr((const char *)b.bytes, "Fig. 5") == NULL && strstr((const char *)b.bytes, "Fig. 9") == NULL);
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, report_json(e, &b));
    CHECK(is_json(&b) && strstr((const char *)b.bytes, "\"full\"") == NULL);
    qnet_buffer_free(ctx, &b);
    e->config.use_input[0] = 0; /* nothing at all */
    CHECK_OK(ctx, page(e, &b));
    CHECK_OK(ctx, report_tables(e, &b));
    CHECK_OK(ctx, report_csv(e, &b));
    qnet_buffer_free(ctx, &b);
    CHECK_OK(ctx, report_json(e, &b));
    CHECK(is_json(&b));
    qnet_buffer_free(ctx, &b);
    destroy(r);
}

typedef qnet_status (*text_function)(const qnet_experiment *, qnet_buffer *);

static void test_bad_input(void)
{
    const text_function texts[5] = { report_tables, report_json, report_csv,
                                report_manifest, page };
    recipe *r = made_up(12, 3, 1, 1, 8);
    for (int k = 0; k < 5; k++) {
        qnet_status status = QNET_ERROR_MEMORY;
        long fail_at = 0;
        for (; status == QNET_ERROR_MEMORY && fail_at < 600; fail_at++) {
            counting c = { 0, 0, -1 };
            qnet_hooks hooks;
            qnet_context *own = NULL;
            qnet_buffer b;
            memset(&hooks, 0, sizeof hooks);
            memset(&b, 0, sizeof b);
            hooks.allocator.user = &c;
            hooks.allocator.alloc = counting_alloc;
            hooks.allocator.free = counting_free;
            CHECK(qnet_context_create(&hooks, &own) == QNET_OK);
            CHECK(qnet_buffer_append(own, &b, "before", 6) == QNET_OK);
            c.count = 0;
            c.fail_at = fail_at;
            r->e.ctx = own;
            status = texts[k](&r->e, &b);
            r->e.ctx = ctx;
            if (status != QNET_OK) {
                CHECK_CONTAINS(qnet_last_error(own), "memory");
                CHECK(b.size == 6 && strcmp((char *)b.bytes, "before") == 0);
            }
            qnet_buffer_free(own, &b);
            qnet_context_destroy(own);
            CHECK(c.alive == 0);
        }
        CHECK(status == QNET_OK && fail_at > 2);
    }
    destroy(r);
}

/* Where the machine has a locale with a decimal comma, the files come out the same. */
static void test_locale(void)
{
    static const char *const names[4] = { "de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR" };
    const text_function texts[5] = { report_tables, report_json, report_csv,
                                report_manifest, page };
    recipe *r = made_up(12, 3, 1, 1, 8);
    for (int k = 0; k < 5; k++) {
        qnet_buffer b, comma;
        int i = 0;
        memset(&b, 0, sizeof b);
        memset(&comma, 0, sizeof comma);
        CHECK_OK(ctx, texts[k](&r->e, &b));
        while (i < 4 && !setlocale(LC_NUMERIC, names[i])) i++;
        CHECK_OK(ctx, texts[k](&r->e, &comma));
        setlocale(LC_NUMERIC, "C");
        CHECK(b.size == comma.size && memcmp(b.bytes, comma.bytes, b.size) == 0);
        qnet_buffer_free(ctx, &b);
        qnet_buffer_free(ctx, &comma);
    }
    destroy(r);
}

#ifndef QNET_NO_STDIO
static int write_all(const char *folder)
{
    recipe *r = made_up(99, 24, 1, 1, 224);
    qnet_buffer b;
    char path[1000];
    int bad;
    give_options(r, 10000, 0);
    strcpy(r->e.participants[0].subject, "sub-01");
    memset(&b, 0, sizeof b);
    snprintf(path, sizeof path, "%s/tables.txt", folder);
    bad = report_write(&r->drawn, &r->e, folder) != QNET_OK || report_tables(&r->e, &b) != QNET_OK;
    bad |= qnet_file_replace(ctx, path, b.bytes, b.size) != QNET_OK;
    qnet_buffer_free(ctx, &b);
    destroy(r);
    return bad;
}
#endif

int main(int argc, char **argv)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 2;
#ifndef QNET_NO_STDIO
    if (argc > 1) return write_all(argv[1]);
#endif
    (void)argc;
    (void)argv;
    RUN(test_numbers);
    RUN(test_base64);
    RUN(test_tables);
    RUN(test_equal_scores);
    RUN(test_few_subjects);
    RUN(test_json);
    RUN(test_cuts);
    RUN(test_assessed);
    RUN(test_subgroup_values);
    RUN(test_subgroup_columns);
    RUN(test_assessed_several);
    RUN(test_csv);
    RUN(test_dataset);
    RUN(test_html);
    RUN(test_access);
    RUN(test_heat);
    RUN(test_channels);
    RUN(test_sparse);
    RUN(test_bad_input);
    RUN(test_locale);
    qnet_context_destroy(ctx);
    return test_end();
}
