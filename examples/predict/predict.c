/* predict: what the model of a study says of one more scan.

       build/crossval --data COHORT --out OUT --final
       build/predict --model OUT/model --subject FOLDER              build/predict --help

   Prints one line, and writes a page and a JSON file of all that is known of it: the probability of HH with its
   spread over the folds' networks, calibrated, beside those of the study's scans; what the decision rests on; and
   how unlike the study's scans this one is: a scan that is too unlike gets no probability.
   With --weights OUT --fold K it is the two networks of one fold that judge: for a scan that they were tested on
   that is the number in the p_qnet column of OUT/predictions.csv, to its last bit. */
#define QNET_IMPLEMENTATION
#include "qnet.h"

#define PROGRAM "predict"
#include "page.h"
#include "../crossval/program.h"
#include "../crossval/option_names.h"

static const char help[] =
    "usage: predict --model FOLDER --subject FOLDER [options]\n"
    "       predict --model FOLDER QSM R2STAR T1W [MASK] [options]\n"
    "       predict --weights OUT --fold K ... the same\n"
    "\n"
    "The probability that a scan shows hemochromatosis. For research only, not a diagnosis.\n"
    "\n"
    "  --model FOLDER      of all subjects of a study: OUT/model of crossval --final\n"
    "  --weights OUT       or the output folder of crossval, or the folder with the weights themselves,\n"
    "  --fold K            and one of its folds, from 1; of a scan of that study, the one that tested it:\n"
    "                      manifest.json\n"
    "  --repeat R          from 1 (1)      --input KIND    crop or full (crop where OUT has it)\n"
    "  --subject FOLDER    with the maps of one subject: COHORT/sub-01, found as crossval finds them,\n"
    "                      or any folder with ..._Chimap, ..._R2starmap, ..._T1w, ..._mask; or with\n"
    "                      echoes, found as maps finds them: maps are made of them as the study's were\n"
    "  --derivatives TOOL, --session NAME, --filter acq=stage,run=1, --t1w PATTERN\n"
    "                      which of several files, as for crossval\n"
    "  --echoes            even if there are maps\n"
    "  --run N, --acq NAME, --suffix MEGRE, --phase-sign 1, --brain-mask FILE, --mode paper\n"
    "                      of echoes, as for maps (whose --mask is the brain's)\n"
    "  QSM R2STAR T1W      NIfTI maps of one scan: ppm, 1/s, any unit\n"
    "  MASK                of the basal ganglia\n"
    "  --out FOLDER        for NAME.html, NAME.json and maps that are made (prediction)\n"
    "  --anyway            a probability also of a scan that is too unlike those of the study, or that the\n"
    "                      networks were trained on\n"
    "  --any-values, --any-orientation   go on with maps that would be refused, with a warning\n"
    "  --threads N         threads (all)           --cpu KIND    auto, scalar, avx2, avx512,\n"
    "                                             neon (auto): the study's for its bits\n"
    "  --version           prints the version      --help        prints this\n"
    "\n"
    "A value may also follow a = sign. Exit status: 0 done, 1 an error (one sentence says which), 2 wrong\n"
    "usage, 3 the scan is too unlike, or known to the networks: no probability.\n";

typedef struct options {
    const char *model, *weights, *input, *subject, *out;
    const char *derivatives, *session, *filter, *t1w;
    const char *path[4]; /* QSM, R2*, T1W, mask or NULL */
    echo_options echo; /* how maps are made of echoes; echoes 1: even if there are maps */
    int paths, fold, repeat, anyway, echoes, any_values, any_orientation;
    qnet_hooks hooks;
} options;

static int option_with_value(options *o, const char *name, const char *value)
{
    const struct { const char *name, **to; } texts[] = {
        {"--model", &o->model}, {"--weights", &o->weights}, {"--subject", &o->subject}, {"--out", &o->out},
        {"--derivatives", &o->derivatives}, {"--session", &o->session}, {"--filter", &o->filter},
        {"--t1w", &o->t1w}, {"--input", &o->input}, {"--mode", &o->echo.mode}, {"--run", &o->echo.echoes.run},
        {"--acq", &o->echo.echoes.acquisition}, {"--suffix", &o->echo.echoes.suffix},
        {"--brain-mask", &o->echo.brain_mask}};
    const int hook = hook_option(name, value, &o->hooks);
    if (hook >= 0) return hook;
    if (strcmp(name, "--fold") == 0) return whole(name, value, 1, 100000, &o->fold);
    if (strcmp(name, "--repeat") == 0) return whole(name, value, 1, 99, &o->repeat);
    if (strcmp(name, "--input") == 0 && strcmp(value, "crop") && strcmp(value, "full"))
        return fail(name, value, "crop or full");
    if (strcmp(name, "--mode") == 0 && strcmp(value, "paper") && strcmp(value, "consensus"))
        return fail(name, value, "paper or consensus");
    if (strcmp(name, "--phase-sign") == 0) {
        o->echo.sign = strcmp(value, "1") == 0 ? 1 : strcmp(value, "-1") == 0 ? -1 : 0;
        return o->echo.sign != 0 || strcmp(value, "auto") == 0 || fail(name, value, "auto, 1 or -1");
    }
    if (!*value) return fail(name, "", "its value");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(name, texts[i].name) == 0) *texts[i].to = value;
    return 1;
}

/* 1: run; 0: bad usage; -1: help or version was asked for and is printed. */
static int parse(int argc, char **argv, options *o)
{
    static const char *const flags[] = {"--help", "--version", "--anyway", "--echoes", "--any-values", "--any-orientation", NULL};
    char name[40];
    const char *value;
    int taken;
    memset(o, 0, sizeof *o);
    o->repeat = 1;
    o->out = "prediction";
    for (int i = 1; i < argc; i += taken) {
        taken = 1;
        if (strcmp(argv[i], "-h") == 0) return fputs(help, stdout), -1;
        if (strncmp(argv[i], "--", 2) != 0) {
            if (o->paths == 4) return fail(argv[i], "", "at most four files");
            o->path[o->paths++] = argv[i];
            continue;
        }
        taken = read_option(argc, argv, i, help, flags, name, &value);
        if (taken == 0) return 0;
        if (strcmp(name, "--help") == 0) return fputs(help, stdout), -1;
        if (strcmp(name, "--version") == 0) return puts("predict, qnet.h " QNET_VERSION), -1;
        if (value && !option_with_value(o, name, value)) return 0;
        o->anyway |= strcmp(name, "--anyway") == 0;
        o->echoes |= strcmp(name, "--echoes") == 0;
        o->any_values |= strcmp(name, "--any-values") == 0;
        o->any_orientation |= strcmp(name, "--any-orientation") == 0;
    }
    if (!o->model == !o->weights) return fail("--model", "", "a model's folder, or --weights and --fold");
    if (o->weights && o->fold == 0) return fail("--fold", "", "the fold whose weights to take");
    if (o->model && (o->fold || o->input)) return fail("--model", "", "no --fold and no --input beside it");
    if (o->subject ? o->paths > 0 : o->paths < 3)
        return fail("files", "", "--subject FOLDER, or QSM R2STAR T1W and, if there is one, MASK");
    return 1;
}

/* What is said on the way; the last problem is not said again at the end. */
typedef struct teller {
    display d;
    char last[2000];
} teller;

/* For qnet_log.message, whose user is a teller. */
static void tell(void *user, qnet_log_level level, const char *sentence)
{
    teller *t = (teller *)user;
    char text[2000];
    option_names(sentence, NULL, text);
    if (level == QNET_LOG_ERROR) strcpy(t->last, text);
    message(&t->d, level, text);
}

/* The file of a network of a fold: where = 0 in OUT/weights, 1 in the folder itself. */
static void fold_path(const options *o, int where, const char *input, int fold, const char *model, char path[1100])
{
    snprintf(path, 1100, "%.1000s/%s%s-repeat%02d-fold%02d-%s.safetensors", o->weights, where ? "" : "weights/", input,
             o->repeat, fold, model);
}

static qnet_status open_model(qnet_context *ctx, const options *o, bids *found, qnet_predictor **p)
{
    static const char *const inputs[2] = {"crop", "full"};
    const qnet_log *log = &qnet_context_hooks(ctx)->log;
    char path[2][1100];
    int k = 0, folds = 0;
    found->ctx = ctx;
    if (o->model) {
        snprintf(path[0], sizeof path[0], "%.1000s/model.safetensors", o->model);
        snprintf(path[1], sizeof path[1], "%.1000s/model/model.safetensors", o->model);
        if (!qnet_file_exists(path[0]) && qnet_file_exists(path[1]))
            return bids_fail(found, QNET_ERROR_NOT_FOUND, "%s: is not there; the model lies in --model %.1000s/model",
                             path[0], o->model);
        snprintf(path[1], sizeof path[1], "%.1000s/predictions.csv", o->model);
        if (!qnet_file_exists(path[0]) && qnet_file_exists(path[1]))
            return bids_fail(found, QNET_ERROR_NOT_FOUND, "%s: is not there; crossval with --final makes a model, in "
                             "%.400s/model; or take a fold: --weights %.400s --fold 1", path[0], o->model, o->model);
        return qnet_predictor_open(ctx, o->model, p);
    }
    snprintf(path[0], sizeof path[0], "%.1000s/checkpoint/config.txt", o->weights);
    if (qnet_file_exists(path[0])) /* it was perhaps stopped while it moved its files */
        log->message(log->user, QNET_LOG_WARNING, "a run into this folder has not ended: its weights may be of an earlier one");
    for (int i = 0; i < 4 && folds == 0; i++) { /* crop before full, OUT/weights before the folder itself */
        if (o->input && strcmp(o->input, inputs[i % 2]) != 0) continue;
        for (k = i;; folds++) {
            fold_path(o, k / 2, inputs[k % 2], folds + 1, "qnet", path[1]);
            if (!qnet_file_exists(path[1])) break;
        }
    }
    fold_path(o, k / 2, inputs[k % 2], o->fold, "resnetswa", path[0]);
    fold_path(o, k / 2, inputs[k % 2], o->fold, "qnet", path[1]);
    if (folds > 0 && o->fold > folds)
        return bids_fail(found, QNET_ERROR_NOT_FOUND, "%s: is not there: of this input and repeat there are --fold 1 "
                         "to %d", path[0], folds);
    if (folds == 0)
        return bids_fail(found, QNET_ERROR_NOT_FOUND, "%s: is not there; expected %.200s to be the output folder of "
                         "crossval, with weights/ of that input and repeat", path[1], o->weights);
    return qnet_predictor_open_pair(ctx, path[0], path[1], p);
}

/* What the scan is called: the sub-... of the QSM map's name, or all of that without its ending. */
static void name_of(const char *path, char name[64])
{
    const char *file = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char label[64];
    if (bids_entity(file, "sub", label)) snprintf(name, 64, "sub-%.59s", label);
    else snprintf(name, 64, "%.*s", (int)(bids_stem(file) && bids_stem(file) < 63 ? bids_stem(file) : 63), file);
    if (!*name) strcpy(name, "scan");
}

/* For bids.problem, whose user is a text[1600]: the first one. */
static void keep_problem(void *user, int scan, const char *sentence)
{
    char *text = (char *)user;
    (void)scan;
    if (!text[0]) snprintf(text, 1600, "%s", sentence);
}

/* The scan's files, found, made or given. */
static qnet_status find_files(qnet_context *ctx, const options *o, bids *found, scan_page *page)
{
    qnet_scan_files *files = &page->files;
    char problem[1600] = "";
    const char *study = qnet_safetensors_metadata(page->p->record, "maps");
    memset(found, 0, sizeof *found);
    memset(files, 0, sizeof *files);
    if (o->subject) {
        found->derivatives = o->derivatives;
        found->session = o->session;
        found->filter = o->filter;
        found->t1w = o->t1w;
        found->any_values = o->any_values;
        found->no_r2star = !page->p->input.use_channel[1];
        found->no_t1w = !page->p->input.use_channel[2];
        found->log = qnet_context_hooks(ctx)->log;
        found->problem = keep_problem;
        found->problem_user = problem;
        BIDS_TRY(bids_read_subject(found, ctx, o->subject));
        *files = found->dataset.scans[0];
        if (problem[0] && (files->qsm || files->r2star) && !o->echoes)
            return bids_fail(found, QNET_ERROR_DATA, "%.1500s%s", problem,
                             strstr(problem, "_MEGRE") || strstr(problem, "_VFA")
                                 ? "; --echoes makes all maps of its echoes" : "");
        if (problem[0] || o->echoes)
            BIDS_TRY(maps_from_echoes(found, &o->echo, study, o->out, problem, files, &page->made));
        snprintf(page->name, sizeof page->name, "%.40s%s%.18s", files->subject, files->session ? "_ses-" : "",
                 files->session ? files->session : "");
    } else {
        found->ctx = ctx;
        name_of(o->path[0], page->name);
        files->age = (double)NAN;
        files->qsm = o->path[0];
        files->r2star = o->path[1];
        files->t1w = o->path[2];
        files->mask = o->path[3];
        files->subject = page->name;
    }
    return QNET_OK;
}

/* All of it; the sentence of a failure is in the context or in found. */
static qnet_status predict(qnet_context *ctx, const options *o, bids *found, scan_page *page)
{
    qnet_viewer viewer;
    qnet_status status;
    viewer.user = page;
    viewer.show = page_show;
    viewer.read = NULL;
    page->model = o->model ? o->model : o->weights;
    status = open_model(ctx, o, found, &page->p);
    if (status == QNET_OK) status = find_files(ctx, o, found, page);
    if (status != QNET_OK) return status;
    page_groups(page);
    page->p->anyway = o->anyway;
    page->p->input.any_values = o->any_values;
    page->p->input.any_orientation = o->any_orientation;
    page->p->input.viewer = &viewer;
    status = qnet_cohort_load(ctx, &page->p->input, &page->files, 1, &page->cohort);
    page->p->input.viewer = NULL;
    if (status == QNET_OK) status = qnet_predictor_run(page->p, page->cohort, 0, &page->r);
    if (status == QNET_OK && !page->r.refused)
        status = heat_scan_make(page->cohort, 0, &page->p->augment, page->p->resnet, page->p->qnet, &page->heat);
    if (status == QNET_OK) status = page_write(page, o->out);
    return status;
}

int main(int argc, char **argv)
{
    options o;
    teller t;
    bids found;
    scan_page page;
    qnet_context *ctx = NULL;
    qnet_status status;
    const char *simulated;
    int ok = parse(argc, argv, &o);
    if (ok <= 0) return ok < 0 ? 0 : 2;
    memset(&page, 0, sizeof page);
    memset(&found, 0, sizeof found);
    display_begin(&t.d, 1);
    t.last[0] = '\0';
    o.hooks.log.user = &t;
    o.hooks.log.message = tell;
    o.hooks.progress.user = &t.d;
    o.hooks.progress.report = show;
    if (!open_context(&o.hooks, &ctx)) return 1;
    status = predict(ctx, &o, &found, &page);
    if (status == QNET_OK) {
        simulated = qnet_safetensors_metadata(page.p->record, "simulated");
        if (simulated && strcmp(simulated, "1") == 0)
            tell(&t, QNET_LOG_WARNING, "this model was trained on simulated subjects");
        if (page.r.namesake)
            tell(&t, QNET_LOG_WARNING, "these networks were trained on a subject of this name: if this is another "
                 "session of that person, what they say of it is too good");
        if (page.r.seen && o.anyway)
            tell(&t, QNET_LOG_WARNING, "these networks were trained on this scan: what they say is worth nothing");
        if (page.made.how[0]) fprintf(stderr, "predict: maps were made %s: %s\n", page.made.how, page.made.path[0]);
        page_line(&page);
    } else if (status == QNET_STOPPED) {
        fputs("predict: stopped\n", stderr);
    } else {
        const char *sentence = found.error[0] ? found.error : qnet_last_error(ctx);
        char text[2000];
        option_names(*sentence ? sentence : qnet_status_text(status), NULL, text);
        if (strcmp(text, t.last) != 0) fprintf(stderr, "predict: %s\n", text);
    }
    ok = page.r.refused ? 3 : 0;
    page_free(&page);
    bids_free(&found);
    qnet_context_destroy(ctx);
    return status == QNET_OK ? ok : 1;
}
