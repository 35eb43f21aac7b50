/* Every number of the paper that is a default here, asked for through the public API alone, with the
   section that prints it; and the places of the header where a reader finds it. What the paper leaves
   open is under CHOICES in the front matter and tested where it is used. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "phantom.h"
#include "test.h"
#include "plain_resnet.h"

static qnet_context *ctx;

/* "Dataset", Abstract, Fig. 2: the phantom that stands in for the confidential data. */
static void test_dataset(void)
{
    phantom_config config;
    static phantom_subject subjects[99];
    int i, hh = 0, men = 0;
    double youngest = 200, oldest = 0;
    phantom_config_init(&config, PHANTOM_PAPER);
    CHECK(config.hh == 52 && config.hc == 47);         /* "52 subjects with HH and 47 HCs" */
    CHECK(config.spacing[2] == 2);                     /* "slice thickness is 2mm" */
    CHECK_NEAR(config.nx * config.spacing[0], 220, .5); /* "FOV = 220mm x 220mm" */
    CHECK_NEAR(config.spacing[0] / 2, .43, 1e-12);     /* every other pixel of the display's .43 mm */
    phantom_draw(&config, subjects);
    for (i = 0; i < 99; i++) {
        hh += subjects[i].label == QNET_HH;
        men += subjects[i].sex == QNET_MALE;
        youngest = fmin(youngest, subjects[i].age);
        oldest = fmax(oldest, subjects[i].age);
    }
    CHECK(hh == 52);
    CHECK(men == 67);                        /* "67 males and 32 females" */
    CHECK(youngest >= 20 && oldest <= 85);   /* "aged 20 to 85 years" */
    CHECK(youngest < 25 && oldest > 80);
}

/* "Dataset", steps (i) to (v): from echoes to maps. */
static void test_maps(void)
{
    qnet_maps_config c;
    qnet_maps_config_init(&c);
    CHECK(c.mode == QNET_MAPS_PAPER);        /* "reconstructed for each echo individually" */
    CHECK(c.brain.threshold == .2 && c.brain.erode == 4 && c.brain.island == 2000);
    CHECK(c.brain_echo == 2);                /* "using the 2nd echo" */
    CHECK(c.susceptibility.background == QNET_SHARP);
    CHECK(c.susceptibility.sharp_threshold == .05 && c.susceptibility.sharp_radius == 6);
    CHECK(c.susceptibility.tkd_threshold == .1);
    CHECK(c.susceptibility.iteration_threshold == .1 && c.susceptibility.iterations == 4);
    CHECK(c.first_echo == 2 && c.last_echo == 6); /* "the QSMs from TE2 - TE6" */
}

/* "Data Preparation": three channels, slices of the basal ganglia, full-size and cropped input. */
static void test_inputs(void)
{
    qnet_input_config full, crop;
    qnet_resnet_config net;
    qnet_experiment_config e;
    qnet_input_config_init(&full, QNET_INPUT_FULL);
    qnet_input_config_init(&crop, QNET_INPUT_CROP);
    qnet_resnet_config_init(&net);
    qnet_experiment_config_init(&e);
    CHECK(net.channels == 3);                /* "concatenated in a channel-wise fashion" */
    CHECK(e.use_input[QNET_INPUT_FULL] && e.use_input[QNET_INPUT_CROP]); /* "two scenarios" */
    CHECK(full.size == 256 && crop.size == 224 && net.height == 224 && net.width == 224); /* ours */
    CHECK_NEAR(crop.box_mm, 224 * 220. / 512, .5); /* 224 pixels of "0.43mm x 0.43mm" */
    CHECK(full.slice_count == 0 && crop.slice_count == 0); /* "slices that include the basal ganglia" */
    CHECK(full.max_slices == 24 && crop.max_slices == 24);
    CHECK(strcmp(qnet_input_name(QNET_INPUT_CROP), "crop") == 0);
}

/* "Data Augmentation": the list with its probabilities, as configured and as drawn. */
static void test_augmentation(void)
{
    enum { N = 20000 };
    qnet_augment_config c;
    qnet_augmentation a;
    int count[6] = {0, 0, 0, 0, 0, 0}, i, k, crops = 0;
    static const double p[6] = {.5, .5, .7, .3, .25, .5};
    qnet_augment_config_init(&c);
    CHECK(c.p_hflip == .5);                /* "Horizontal Flip (p = 0.5)" */
    CHECK(c.p_vflip == .5);                /* "Vertical Flip (p = 0.5)" */
    CHECK(c.p_brightness_contrast == .7);  /* "Random Brightness and Contrast (p = 0.7)" */
    CHECK(c.p_gamma == .3);                /* "Random Gamma (p = 0.3)" */
    CHECK(c.p_grid == .25);                /* "Grid Distortion (p = 0.25)" */
    CHECK(c.p_affine == .5);               /* "Shifting-Scaling-Rotating (p = 0.5)" */
    CHECK(c.physics_safe == 0);            /* the paper's pipeline is the default */
    CHECK(c.stretch == QNET_STRETCH_PERCENTILE && c.percentile_low == 1 && c.percentile_high == 99);
    /* Ranges: the paper cites Albumentations and gives none, so theirs. */
    CHECK(c.brightness == .2 && c.contrast == .2 && c.gamma_low == 80 && c.gamma_high == 120);
    CHECK(QNET_GRID_STEPS == 5 && c.grid_limit == .3);
    CHECK(c.shift == .0625 && c.scale == .1 && c.rotate == 45);
    for (i = 0; i < N; i++) {
        qnet_rng rng = qnet_rng_at(1, QNET_RANDOM_AUGMENT, 0, (uint64_t)i);
        a = qnet_augment_draw(&c, &rng, 260, 260, 224, 224);
        count[0] += a.hflip;
        count[1] += a.vflip;
        count[2] += a.brightness_contrast;
        count[3] += a.gamma_on;
        count[4] += a.grid;
        count[5] += a.affine;
        crops += a.crop_y != 18 || a.crop_x != 18; /* "Cropping (p = 1)": anywhere, all the time */
    }
    for (k = 0; k < 6; k++) CHECK_NEAR((double)count[k] / N, p[k], 4 * sqrt(p[k] * (1 - p[k]) / N));
    CHECK(crops > N * .99);
    /* "During the test phase, we only use Histogram Stretching and Cropping". */
    a = qnet_augment_test(260, 260, 224, 224);
    CHECK(!a.hflip && !a.vflip && !a.brightness_contrast && !a.gamma_on && !a.grid && !a.affine);
    CHECK(a.crop_y == 18 && a.crop_x == 18);
    /* ImageNet's weights were trained on images scaled so (torchvision). */
    qnet_augment_config_imagenet(&c);
    CHECK(c.mean[0] == .485 && c.mean[1] == .456 && c.mean[2] == .406);
    CHECK(c.std[0] == .229 && c.std[1] == .224 && c.std[2] == .225);
}

/* Widths and channels of the network's outputs. */
typedef struct shapes { size_t conv1, maxpool, layer[4][2], channels[4], features; } shapes;
static void record_shape(void *user, const char *name, const qnet_real *data, int ndim,
                         const size_t *shape)
{
    shapes *s = (shapes *)user;
    (void)data;
    if (strcmp(name, "conv1") == 0) s->conv1 = shape[2];
    if (strcmp(name, "maxpool") == 0) s->maxpool = shape[2];
    if (strncmp(name, "layer", 5) == 0 && strlen(name) == 8) {
        s->layer[name[5] - '1'][name[7] - '0'] = shape[2];
        s->channels[name[5] - '1'] = shape[3];
    }
    if (strcmp(name, "avgpool") == 0) s->features = shape[ndim - 1];
}

/* "Internal Architecture of the Q-Net", Stage 1, Fig. 4. */
static void test_resnet18(void)
{
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_real logits[2][2];
    plain_net plain;
    shapes s;
    static qnet_real x[64 * 64 * 3];
    int i, convs = 0, down = 0, blocks = 0, k;
    qnet_resnet_config_init(&config);
    CHECK(config.classes == 2 && QNET_CLASSES == 2 && QNET_HH == 1 && QNET_HC == 0);
    config.height = config.width = 64;
    config.batch = 1;
    config.training = 0;
    CHECK_OK(ctx, qnet_resnet_create(ctx, &config, &net));
    if (net == NULL) return;
    for (i = 0; i < net->table->count; i++) {
        const qnet_param *p = &net->table->entries[i];
        if (p->ndim != 4) continue;
        if (strstr(p->name, "downsample")) {
            down++; /* "a (1x1) convolution layer", "at 3rd, 5th, and 7th ResBlock" */
            CHECK(p->shape[0] == 1 && p->name[6] == '.' && p->name[7] == '0' && p->name[5] >= '2');
            continue;
        }
        convs++;
        CHECK(p->shape[0] == (convs == 1 ? 7u : 3u)); /* "(7x7) convolution", "two (3x3)" */
        blocks += strstr(p->name, ".conv2") != NULL;
        CHECK(p->trainable); /* "not frozen during the first training stage" */
    }
    CHECK(convs + 1 == 18);  /* "composed of 18 layers": those and the FC */
    CHECK(blocks == 8);      /* "8 residual convolution blocks" */
    CHECK(down == 3);
    qnet_resnet_init(net, 1);
    x[64 * 96] = 1;
    memset(&s, 0, sizeof s);
    memset(&plain, 0, sizeof plain);
    plain.ctx = ctx, plain.table = net->table, plain.weights = net->weights;
    plain.trace = record_shape, plain.user = &s;
    CHECK_OK(ctx, plain_resnet_forward(&plain, x, 1, 64, 64, 3, 0, logits[0]));
    CHECK_OK(ctx, qnet_resnet_forward(net, x, 1, 0, logits[1], NULL)); /* is the network of these shapes */
    CHECK_NEAR(logits[1][0], logits[0][0], 1e-4);
    CHECK_NEAR(logits[1][1], logits[0][1], 1e-4);
    plain_free(&plain);
    CHECK(s.conv1 == 32 && s.maxpool == 16);
    for (k = 0; k < 4; k++) { /* "64, which increases to 128, 256, and 512", w and h "by a factor of 2" */
        CHECK(s.channels[k] == 64u << k);
        CHECK(s.layer[k][0] == 16u >> k && s.layer[k][1] == 16u >> k);
    }
    CHECK(s.features == 512 && QNET_FEATURES == 512); /* GAP: 1 x 1 x d */
    qnet_resnet_destroy(net);
}

static const qnet_param *entry(const qnet_param_table *t, const char *name)
{
    int i = qnet_param_find(t, name);
    CHECK(i >= 0);
    return &t->entries[i >= 0 ? i : 0];
}

/* "Scan-Level Model", Stage 2, Fig. 4; "Sequential Modeling". */
static void test_scan_model(void)
{
    qnet_scan_config config;
    qnet_scan_model *model = NULL;
    const qnet_param *p;
    qnet_scan_config_init(&config);
    CHECK(config.features == 512); /* "extracted features from each image after the GAP layer" */
    CHECK(config.hidden == 256 && config.steps == 24 && config.classes == 2); /* ours */
    config.batch = 1;
    config.training = 0;
    CHECK_OK(ctx, qnet_scan_model_create(ctx, &config, &model));
    if (model == NULL) return;
    p = entry(model->table, "lstm.weight_ih_l0"); /* "a one-layer Bi-LSTM", gates of Eqs. (1)-(4) */
    CHECK(p->shape[0] == 4 * 256 && p->shape[1] == 512);
    p = entry(model->table, "lstm.weight_hh_l0_reverse"); /* "2 LSTMs are used in parallel" */
    CHECK(p->shape[0] == 4 * 256 && p->shape[1] == 256);
    CHECK(qnet_param_find(model->table, "lstm.weight_ih_l1") < 0);
    p = entry(model->table, "image_head.weight"); /* "a FC layer ... to classify each slice" */
    CHECK(p->shape[0] == 2 && p->shape[1] == 2 * 256);
    p = entry(model->table, "scan_head.weight"); /* "output features ... are concatenated" */
    CHECK(p->shape[0] == 2 && p->shape[1] == 24 * 2 * 256);
    qnet_scan_model_destroy(model);
}

/* Eqs. (1)-(5), each by itself: one hidden unit, weights such that a gate is open, shut or half. */
static void test_equations(void)
{
    /* rows i, f, g, o; in = hidden = 1 */
    static const double w[4] = {.3, -.2, .7, .5}, u[4] = {.1, .4, -.6, .2}, b[4] = {.05, .5, -.1, .2};
    const double x = 1.5, h = -.4, c = .8;
    qnet_real rw[4], ru[4], rb[4], rx = (qnet_real)x, rh = (qnet_real)h, rc = (qnet_real)c, gates[4];
    double i, o, f, g, cell;
    int k;
    for (k = 0; k < 4; k++) rw[k] = (qnet_real)w[k], ru[k] = (qnet_real)u[k], rb[k] = (qnet_real)b[k];
    qnet_lstm_cell(1, 1, rw, ru, rb, &rx, &rh, &rc, &rh, &rc, gates);
    i = 1 / (1 + exp(-(w[0] * x + u[0] * h + b[0]))); /* (1) */
    o = 1 / (1 + exp(-(w[3] * x + u[3] * h + b[3]))); /* (2) */
    f = 1 / (1 + exp(-(w[1] * x + u[1] * h + b[1]))); /* (3) */
    g = tanh(w[2] * x + u[2] * h + b[2]);
    cell = f * c + i * g;                             /* (4) */
    CHECK_NEAR(gates[0], i, 2e-7);
    CHECK_NEAR(gates[3], o, 2e-7);
    CHECK_NEAR(gates[1], f, 2e-7);
    CHECK_NEAR(gates[2], g, 2e-7);
    CHECK_NEAR(rc, cell, 4e-7);
    CHECK_NEAR(rh, o * tanh(cell), 4e-7);             /* (5) */
}

/* "Training Procedure", "Learn an Image Embedding", "Sequential Modeling". */
static void test_training(void)
{
    qnet_stage1_config c1;
    qnet_stage2_config c2;
    qnet_experiment_config e;
    qnet_real logits[2] = {0, 0};
    const int label[1] = {QNET_HH};
    double loss = 0;
    int epoch;
    qnet_stage1_config_init(&c1);
    qnet_stage2_config_init(&c2);
    qnet_experiment_config_init(&e);
    CHECK(c1.epochs == 100 && c1.batch == 64); /* "100 epochs with a batch size of 64" */
    CHECK(c1.rate_first == 3e-4);              /* "starts from 3e-4" */
    CHECK(c1.rate_last == 1e-4);               /* "declines to 1e-4 with cosine annealing" */
    CHECK_NEAR(qnet_cosine_rate(c1.rate_first, c1.rate_last, 0, c1.epochs), 3e-4, 0);
    CHECK_NEAR(qnet_cosine_rate(c1.rate_first, c1.rate_last, 25, 100), 1e-4 + 1e-4 * (1 + sqrt(.5)), 1e-18);
    CHECK_NEAR(qnet_cosine_rate(c1.rate_first, c1.rate_last, 100, 100), 1e-4, 1e-18);
    for (epoch = 1; epoch < 100; epoch++)
        CHECK(qnet_cosine_rate(3e-4, 1e-4, epoch, 100) < qnet_cosine_rate(3e-4, 1e-4, epoch - 1, 100));
    CHECK(c1.adam.beta1 == .9 && c1.adam.beta2 == .999 && c1.adam.eps == 1e-8); /* Kingma & Ba */
    CHECK(c1.swa == 1);                        /* "SWA ... is applied"; ResNet is the run without */
    CHECK(c1.swa_share == .25 && c1.swa_rate == 1e-4 && qnet_stage1_swa_start(&c1) == 75); /* ours */
    CHECK(c2.epochs == 50 && c2.batch == 64);  /* "50 epochs with a batch size of 64" */
    CHECK(c2.rate == 3e-4);                    /* "learning rate is fixed to 3e-4" */
    CHECK(c2.hidden == 256 && c2.steps == 24);
    CHECK(e.folds == 10);                      /* "10-fold cross-validation" */
    CHECK(e.stage1.epochs == c1.epochs && e.stage1.batch == c1.batch && e.stage2.epochs == c2.epochs);
    CHECK(e.stage1.rate_first == c1.rate_first && e.stage2.rate == c2.rate);
    CHECK(e.shuffle_labels == 0 && e.repeats == 1 && e.bootstrap == 2000);
    CHECK_OK(ctx, qnet_cross_entropy(ctx, 1, 2, logits, label, &loss, NULL)); /* "cross-entropy loss" */
    CHECK_NEAR(loss, log(2.), 1e-12);
}

/* "we split the dataset into 10 folds, where each fold consists of 10 individuals": 99 of them make
   nine folds of 10 and one of 9, each with both groups. */
static void test_folds(void)
{
    static qnet_scan scans[99];
    qnet_cohort cohort;
    int fold[99], size[10] = {0}, hh[10] = {0}, i, nine = 0;
    memset(&cohort, 0, sizeof cohort);
    cohort.ctx = ctx;
    cohort.scans = scans;
    cohort.scans_count = 99;
    for (i = 0; i < 99; i++) {
        sprintf(scans[i].subject, "sub-%02d", i);
        scans[i].label = i < 52 ? QNET_HH : QNET_HC;
    }
    CHECK_OK(ctx, qnet_folds_create(ctx, &cohort, 10, 1, fold));
    CHECK_OK(ctx, qnet_folds_check(ctx, &cohort, 10, fold));
    for (i = 0; i < 99; i++) {
        size[fold[i]]++;
        hh[fold[i]] += i < 52;
    }
    for (i = 0; i < 10; i++) {
        CHECK(size[i] == 10 || size[i] == 9);
        CHECK(hh[i] == 5 || hh[i] == 6);
        nine += size[i] == 9;
    }
    CHECK(nine == 1);
}

/* "Results": Table 2's stars, the vote, the F1 of Table 3, the models and their pairs. */
static void test_results(void)
{
    static const struct { double p; const char *stars; } levels[] = {
        {1, "ns"}, {.0500001, "ns"}, {.05, "*"}, {.0100001, "*"}, {.01, "**"}, {.0010001, "**"},
        {.001, "***"}, {.00010001, "***"}, {.0001, "****"}, {0, "****"}};
    const int hc_wins[5] = {0, 1, 0, 1, 0}, hh_wins[3] = {1, 0, 1}, tie[4] = {1, 0, 1, 0};
    qnet_confusion c;
    qnet_metrics m;
    size_t i;
    for (i = 0; i < sizeof levels / sizeof *levels; i++)
        CHECK(strcmp(qnet_stars(levels[i].p), levels[i].stars) == 0);
    CHECK(qnet_vote(hc_wins, 5) == QNET_HC); /* "if the number of HC predicted images is more than HH" */
    CHECK(qnet_vote(hh_wins, 3) == QNET_HH); /* "and vice versa" */
    CHECK(qnet_vote(tie, 4) == QNET_HC);     /* ours */
    c.tp = 42, c.fn = 7, c.tn = 37, c.fp = 9; /* Table 3, Q-Net, cropped: see examples/audit_paper.c */
    m = qnet_metrics_of(c);
    CHECK_NEAR(100 * m.accuracy, 83.16, .005);
    CHECK_NEAR(100 * m.f1, 83.14, .005);
    CHECK_NEAR(100 * m.sensitivity, 85.71, .005);
    CHECK_NEAR(100 * m.specificity, 80.43, .005);
    CHECK(QNET_MODELS == 3 && QNET_LEVELS == 2);
    CHECK(strcmp(qnet_model_name(QNET_MODEL_RESNET), "ResNet") == 0);
    CHECK(strcmp(qnet_model_name(QNET_MODEL_RESNET_SWA), "ResNetSWA") == 0);
    CHECK(strcmp(qnet_model_name(QNET_MODEL_QNET), "Q-Net") == 0);
}

/* Where a reader of the header finds each of these: the words must be in one of its comments. */
static void test_found_in_the_header(void)
{
    static const char *const words[] = {
        /* Eqs. (1)-(5) */
        "i_t = sigma(W_i x_t + U_i h_{t-1} + b_i)", "o_t = sigma(W_o x_t + U_o h_{t-1} + b_o)",
        "f_t = sigma(W_f x_t + U_f h_{t-1} + b_f)", "c_t = f_t * c_{t-1} + i_t * tanh(W_c x_t",
        "h_t = o_t * tanh(c_t)",
        /* data */
        "52 HH and 47 HC", "67 men, 32 women", "20 to 85 years", ".43 mm", "2 mm slices", "QSM, R2*, T1W",
        "256 x 256", "224 x 224",
        /* maps */
        "BET on the 2nd echo, threshold .2, erode 4, island 2000", "3DSRNCP; SHARP, threshold .05, kernel 6",
        "truncated division, threshold .1, iteration threshold .1, 4 iterations", "mean of TE2 .. TE6 by SNR",
        /* augmentation, in the paper's order */
        "histogram stretching (1), horizontal flip (.5), vertical flip (.5)",
        "brightness and contrast (.7), random gamma (.3), grid distortion",
        /* architecture */
        "7x7/2", "8 ResBlocks", "3x3", "1x1", "3rd, 5th and 7th", "64, 128, 256 and 512", "(512 features)",
        "256 per direction", "concatenated",
        /* training */
        "100, 64", "3e-4 to 1e-4 by cosine annealing", "50, 64", "3e-4, fixed", "10 folds", "a constant 1e-4",
        /* results */
        "Tables 1-3", "Fig. 3", "Fig. 5", "Fig. 6", "Fig. 7", "Fig. 8", "Fig. 9 and 10", ".0001", "more than"};
    qnet_buffer file;
    char *comments;
    size_t i, n = 0, k;
    memset(&file, 0, sizeof file);
    CHECK_OK(ctx, qnet_file_read(ctx, "qnet.h", 0, &file));
    comments = (char *)malloc(file.size + 1);
    if (comments == NULL || file.size == 0) return;
    for (i = 0; i + 1 < file.size; i++) { /* what stands in comments, its white space as one blank */
        if (file.bytes[i] != '/' || file.bytes[i + 1] != '*') continue;
        for (i += 2; i + 1 < file.size && (file.bytes[i] != '*' || file.bytes[i + 1] != '/'); i++) {
            char c = (char)file.bytes[i];
            if (c == '\n') c = ' ';
            if (c != ' ' || (n > 0 && comments[n - 1] != ' ')) comments[n++] = c;
        }
        i++;
    }
    comments[n] = '\0';
    for (k = 0; k < sizeof words / sizeof *words; k++)
        if (!CHECK(strstr(comments, words[k]) != NULL)) printf("    no comment has \"%s\"\n", words[k]);
    free(comments);
    qnet_buffer_free(ctx, &file);
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    RUN(test_dataset);
    RUN(test_maps);
    RUN(test_inputs);
    RUN(test_augmentation);
    RUN(test_resnet18);
    RUN(test_scan_model);
    RUN(test_equations);
    RUN(test_training);
    RUN(test_folds);
    RUN(test_results);
    RUN(test_found_in_the_header);
    qnet_context_destroy(ctx);
    return test_end();
}
