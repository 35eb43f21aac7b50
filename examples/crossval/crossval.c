/* crossval: the paper's experiment on a folder of NIfTI files (Tables 1-3, Figures 3 and 5-10).

       build/crossval --data DIR --out DIR [options]          build/crossval --help

   The work is in qnet.h (qnet_experiment_run); this program finds the maps in the folder (bids.h),
   reads the options, shows progress, writes the report (report.h) and stops cleanly on Ctrl-C: run
   it again with --resume and it goes on with the same bits. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/maps/settings.h"
#define PTH_IMPLEMENTATION
#include "weights_tools/pth.h"
#define PROGRAM "crossval"
#include "program.h"
#include "option_names.h"
#include "check_page.h"
#include "cluster.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* In two: C99 promises no longer strings than 4095 bytes. */
static const char help_data[] =
    "usage: crossval --data DIR --out DIR [options]\n"
    "\n"
    "Trains and tests ResNet, ResNetSWA and Q-Net by cross-validation over individuals, prints "
    "the\n"
    "paper's Tables 1, 2 and 3, and writes results.json, predictions.csv, manifest.json, "
    "report.html\n"
    "and the weights of each fold into the output folder.\n"
    "\n"
    "  --data DIR          participants.tsv (participant_id age sex group) and, per subject,\n"
    "                      *_Chimap, *_R2starmap, *_T1w and, if there is one,\n"
    "                      *_desc-basalganglia_mask (.nii or .nii.gz)\n"
    "  --out DIR           results; earlier ones are replaced only when all is done\n"
    "  --input KIND        full, crop or both (both)\n"
    "  --size N            side of the network's input in pixels, 32 or more (crop 224, full 256)\n"
    "  --folds K           folds (10)              --repeats R   repeats of the whole (1)\n"
    "  --epochs1 N         stage 1 (100)           --epochs2 N   stage 2 (50)\n"
    "  --batch N           images, or scans, per step (64)\n"
    "  --weights FILE      initial ResNet18 weights, torchvision names, .safetensors or .pth;\n"
    "                      a head of other than 2 classes, or none, is drawn anew\n"
    "                      (default: random, He initialisation; the paper starts from ImageNet)\n"
    "  --stretch KIND      percentile (per slice, the paper's) or window (fixed ppm and 1/s)\n"
    "  --physics-safe      no brightness, contrast, gamma or vertical flip in augmentation\n"
    "  --max-slices N      slices of a scan, the central ones (24)\n"
    "  --locate            slices and crop by the basal ganglia as found in QSM and R2*, even where\n"
    "                      there is a mask; without one that is the default\n"
    "  --slices FIRST:N    no mask, not located: N slices from FIRST, counted upwards from 0\n"
    "  --center X,Y        and centre of the crop in mm (x right, y front)\n"
    "  --channels LIST     of qsm, r2star, t1w: the others are 0, for ablations (all three)\n"
    "  --any-values        maps with values that no brain has are warned of, not refused\n"
    "  --any-orientation   and so are slices far from axial\n"
    "  --derivatives NAMES folder under derivatives/ that holds the maps (default: found);\n"
    "                      several with commas: the first that has one\n"
    "  --session NAME      this session only (default: each is a scan of its subject)\n"
    "  --filter LIST       acq=stage,run=1: no files whose names have another acq or run\n"
    "  --t1w PATTERN       such as '*acq-mprage_T1w*', where several T1W images fit\n"
    "  --maps FILE         a table that names the files: subject, session, qsm, r2star, t1w, mask\n"
    "  --write-maps FILE   only writes such a table of what is found in --data, for editing\n"
    "  --group-column NAME the column of participants.tsv that tells the groups (group)\n"
    "  --positive NAME     what it calls patients (HH) and\n"
    "  --negative NAME     controls (HC); both or none, other groups are then left out\n"
    "  --check             trains nothing: reads all scans, lists every problem and what to do about\n"
    "                      it, estimates the run, and writes check.html with a picture of each scan\n"
    "                      (into --out, else here); exit status 1 if there is a problem\n"
    "  --exclude LIST      participants to leave out, as 03,sub-07, or @FILE that lists them\n"
    "  --skip-bad          leaves out the scans that have problems; the report says which\n";
static const char help_run[] =
    "  --bootstrap N       resamples (2000)        --seed S      seed of everything random (1)\n"
    "  --threads N         threads (all)           --cpu KIND    auto, scalar, avx2, avx512,\n"
    "                                             neon (auto)\n"
    "  --permute N         permutations of the labels against the out-of-fold scores (10000; 0: none)\n"
    "  --prevalence P      that predictive values are stated at, .02 or 1/50 (cohort's and 1/200)\n"
    "  --subgroups LIST    up to 3 other columns of participants.tsv, as site,ferritin: Q-Net for each of\n"
    "                      their values (up to 8), or for both sides of the median of numbers\n"
    "  --shuffle-labels    control: labels permuted over subjects, no AUC may stay far above .5\n"
    "  --inner-validation  a second learning curve: while a fold is tested, the next is not trained on\n"
    "                      either but watched; nothing is chosen by it\n"
    "  --resume            go on where a stopped run of the same configuration ended\n"
    "  --checkpoint-seconds N  at most every N seconds an epoch's end is kept for --resume (30);\n"
    "                      0: the end of each epoch\n"
    "  --part K/N          part K of N of the folds only, on one of several machines; the others\n"
    "                      do theirs with the same options and --out. auto: from SLURM, MPI or PBS\n"
    "  --collect           results of all parts that lie in --out; trains nothing\n"
    "  --final             then a model of all subjects, trained as long as each fold was, for new\n"
    "                      scans (build/predict): the folder OUT/model. Where the cross-validation\n"
    "                      in --out is done, that alone; it takes its weights from there\n"
    "  --weights-out KIND  networks to keep: all, features (ResNetSWA and Q-Net, for new scans)\n"
    "                      or none (all)\n"
    "  --quiet             no progress, no tables; errors only\n"
    "  --version           prints the version      --help        prints this\n"
    "\n"
    "A value may also follow a = sign (--folds=3). Exit status: 0 done, 1 an error (one sentence\n"
    "says which), 2 wrong usage, 130 stopped by Ctrl-C, 75 by SIGTERM, or by SIGUSR1 at the end of\n"
    "an epoch: go on with --resume.\n";

typedef struct options {
    const char *data, *out, *weights, *derivatives, *session, *filter, *t1w, *maps, *write_maps;
    const char *group_column, *positive, *negative, *exclude, *subgroups;
    int resume, quiet, collect, final, permutations, check, skip_bad;
    double prevalence;
    qnet_hooks hooks;
    qnet_experiment_config config;
} options;

/* 1: text can stand in HTML, JSON, tables and sentences as it is. */
static int is_plain_name(const char *text)
{
    char quoted[48], plain[48];
    if (!*text || strlen(text) > 40 || strpbrk(text, "<>&\"\\|\177")) return 0;
    snprintf(quoted, sizeof quoted, "\"%s\"", text);
    return json_string(quoted, plain, sizeof plain) != NULL; /* UTF-8, no control characters */
}

/* ".02" or "1/50". */
static int prevalence_of(const char *name, const char *value, double *prevalence)
{
    char *end;
    double below = 1;
    *prevalence = strtod(value, &end);
    if (*end == '/') below = strtod(end + 1, &end);
    *prevalence /= below;
    return (end > value && !*end && *prevalence > 0 && *prevalence < 1) ||
           fail(name, value, "a share between 0 and 1, such as .02 or 1/50");
}

/* --channels: names with commas, in any order. */
static int channels_of(const char *value, qnet_experiment_config *c)
{
    static const char *const names[3] = {"qsm", "r2star", "t1w"};
    int used[3] = {0, 0, 0}, k;
    for (const char *at = value; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        const size_t n = strcspn(at, ",");
        for (k = 0; k < 3 && (strlen(names[k]) != n || strncmp(at, names[k], n)); k++) {}
        if (k == 3 || used[k]) return fail("--channels", value, "one or more of qsm,r2star,t1w");
        used[k] = 1;
    }
    memcpy(c->input[QNET_INPUT_CROP].use_channel, used, sizeof used);
    memcpy(c->input[QNET_INPUT_FULL].use_channel, used, sizeof used);
    return 1;
}

static int option_with_value(options *o, const char *name, const char *value)
{
    char rest; /* catches what stands behind a number */
    qnet_experiment_config *c = &o->config;
    qnet_input_config *crop = &c->input[QNET_INPUT_CROP], *full = &c->input[QNET_INPUT_FULL];
    if (strcmp(name, "--data") == 0)
        o->data = value;
    else if (strcmp(name, "--out") == 0)
        o->out = value;
    else if (strcmp(name, "--weights") == 0)
        o->weights = value;
    else if (strcmp(name, "--derivatives") == 0)
        o->derivatives = value;
    else if (strcmp(name, "--session") == 0)
        o->session = value;
    else if (strcmp(name, "--filter") == 0)
        o->filter = value;
    else if (strcmp(name, "--t1w") == 0)
        o->t1w = value;
    else if (strcmp(name, "--maps") == 0)
        o->maps = value;
    else if (strcmp(name, "--write-maps") == 0)
        o->write_maps = value;
    else if (strcmp(name, "--group-column") == 0)
        o->group_column = value;
    else if (strcmp(name, "--exclude") == 0)
        o->exclude = value;
    else if (strcmp(name, "--subgroups") == 0) {
        int columns = 1;
        for (const char *p = value; *p; p++) columns += *p == ',';
        if (!*value || columns > SUBGROUP_COLUMNS)
            return fail(name, value, "one to three columns of participants.tsv, such as site,ferritin");
        o->subgroups = value;
    } else if (strcmp(name, "--positive") == 0 || strcmp(name, "--negative") == 0) {
        if (!is_plain_name(value))
            return fail(name, value, "a name of 1 to 40 bytes in UTF-8 without < > & \" | and backslash");
        *(name[2] == 'p' ? &o->positive : &o->negative) = value;
    } else if (strcmp(name, "--folds") == 0)
        return whole(name, value, 2, 100000, &c->folds);
    else if (strcmp(name, "--repeats") == 0)
        return whole(name, value, 1, 99, &c->repeats);
    else if (strcmp(name, "--epochs1") == 0)
        return whole(name, value, 1, 100000, &c->stage1.epochs);
    else if (strcmp(name, "--epochs2") == 0)
        return whole(name, value, 1, 100000, &c->stage2.epochs);
    else if (strcmp(name, "--checkpoint-seconds") == 0)
        return whole(name, value, 0, 1000000, &c->checkpoint_seconds);
    else if (strcmp(name, "--bootstrap") == 0)
        return whole(name, value, 2, 10000000, &c->bootstrap);
    else if (strcmp(name, "--permute") == 0)
        return whole(name, value, 0, 10000000, &o->permutations);
    else if (strcmp(name, "--prevalence") == 0)
        return prevalence_of(name, value, &o->prevalence);
    else if (strcmp(name, "--batch") == 0) {
        if (!whole(name, value, 1, 65536, &c->stage1.batch)) return 0;
        c->stage2.batch = c->stage1.batch;
    } else if (strcmp(name, "--size") == 0) {
        if (!whole(name, value, 32, 2048, &crop->size)) return 0;
        full->size = crop->size;
    } else if (strcmp(name, "--max-slices") == 0) {
        if (!whole(name, value, 1, 1024, &crop->max_slices)) return 0;
        full->max_slices = crop->max_slices;
    } else if (strcmp(name, "--seed") == 0) {
        char *end;
        errno = 0;
        c->seed = (uint64_t)strtoull(value, &end, 10);
        if (end == value || *end || strchr(value, '-') || errno == ERANGE) {
            return fail(name, value, "a whole number from 0 to 18446744073709551615");
        }
    } else if (strcmp(name, "--input") == 0) {
        c->use_input[QNET_INPUT_CROP] = strcmp(value, "full") != 0;
        c->use_input[QNET_INPUT_FULL] = strcmp(value, "crop") != 0;
        if (strcmp(value, "full") && strcmp(value, "crop") && strcmp(value, "both")) {
            return fail(name, value, "full, crop or both");
        }
    } else if (strcmp(name, "--stretch") == 0) {
        if (strcmp(value, "percentile") == 0)
            c->stage1.augment.stretch = QNET_STRETCH_PERCENTILE;
        else if (strcmp(value, "window") == 0)
            c->stage1.augment.stretch = QNET_STRETCH_WINDOW;
        else
            return fail(name, value, "percentile or window");
    } else if (strcmp(name, "--slices") == 0) {
        char *end;
        const long first = strtol(value, &end, 10);
        const long count = *end == ':' ? strtol(end + 1, &end, 10) : 0;
        if (*value < '0' || *value > '9' || *end || first > 32767 ||
            count < 1 || count > 32767)
            return fail(name, value, "FIRST:N, such as 8:16");
        crop->slice_first = (int)first;
        crop->slice_count = (int)count;
        full->slice_first = crop->slice_first;
        full->slice_count = crop->slice_count;
    } else if (strcmp(name, "--center") == 0) {
        if (sscanf(value, "%lf,%lf%c", &crop->box_center_mm[0], &crop->box_center_mm[1], &rest) != 2 ||
            !(fabs(crop->box_center_mm[0]) < 1e6 && fabs(crop->box_center_mm[1]) < 1e6)) {
            return fail(name, value, "X,Y in mm, such as 0,2.5");
        }
        crop->box_explicit = 1;
    } else if (strcmp(name, "--channels") == 0) {
        return channels_of(value, c);
    } else if (strcmp(name, "--part") == 0) {
        return part_of(name, value, &c->part, &c->parts);
    } else if (strcmp(name, "--weights-out") == 0) {
        c->keep[QNET_MODEL_RESNET] = strcmp(value, "all") == 0;
        c->keep[QNET_MODEL_RESNET_SWA] = c->keep[QNET_MODEL_QNET] = strcmp(value, "none") != 0;
        if (strcmp(value, "all") && strcmp(value, "features") && strcmp(value, "none"))
            return fail(name, value, "all, features or none");
    } else {
        const int known = hook_option(name, value, &o->hooks);
        return known >= 0 ? known : fail(name, "", "a known option");
    }
    return 1;
}

/* 1: run; 0: bad usage; -1: help or version was asked for and is printed. */
static int parse(int argc, char **argv, options *o)
{
    static const char *const flags[] = {"--help", "--version", "--resume", "--quiet", "--shuffle-labels",
                                        "--inner-validation", "--physics-safe", "--any-values", "--any-orientation",
                                        "--collect", "--locate", "--final", "--check",
                                        "--skip-bad", NULL};
    char name[40], help[sizeof help_data + sizeof help_run];
    const char *value;
    int taken;
    snprintf(help, sizeof help, "%s%s", help_data, help_run);
    memset(o, 0, sizeof *o);
    qnet_experiment_config_init(&o->config);
    o->permutations = 10000;
    o->config.publish.input = pictures_input;
    o->config.publish.write = report_write;
    for (int i = 1; i < argc; i += taken) {
        if (strcmp(argv[i], "-h") == 0) return fputs(help, stdout), -1;
        taken = read_option(argc, argv, i, help, flags, name, &value);
        if (taken == 0) return 0;
        if (strcmp(name, "--help") == 0) return fputs(help, stdout), -1;
        if (strcmp(name, "--version") == 0) return puts("crossval, qnet.h " QNET_VERSION), -1;
        if (value) {
            if (!option_with_value(o, name, value)) return 0;
        } else if (strcmp(name, "--resume") == 0)
            o->resume = 1;
        else if (strcmp(name, "--quiet") == 0)
            o->quiet = 1;
        else if (strcmp(name, "--collect") == 0)
            o->collect = 1;
        else if (strcmp(name, "--check") == 0)
            o->check = 1;
        else if (strcmp(name, "--skip-bad") == 0)
            o->skip_bad = 1;
        else if (strcmp(name, "--final") == 0)
            o->final = 1;
        else if (strcmp(name, "--shuffle-labels") == 0)
            o->config.shuffle_labels = 1;
        else if (strcmp(name, "--inner-validation") == 0)
            o->config.inner_validation = 1;
        else if (strcmp(name, "--physics-safe") == 0)
            o->config.stage1.augment.physics_safe = 1;
        else if (strcmp(name, "--locate") == 0)
            o->config.input[0].locate = o->config.input[1].locate = 1;
        else if (strcmp(name, "--any-values") == 0)
            o->config.input[0].any_values = o->config.input[1].any_values = 1;
        else
            o->config.input[0].any_orientation = o->config.input[1].any_orientation = 1;
    }
    if (!o->data) return fail("--data", "", "the folder with participants.tsv");
    if (o->maps && o->write_maps) return fail("--write-maps", o->write_maps, "no --maps beside it");
    if (o->check && o->collect) return fail("--check", "", "no --collect beside it");
    if (!o->out && !o->write_maps && !o->check) return fail("--out", "", "a folder for the results");
    if (!o->positive != !o->negative)
        return fail(o->positive ? "--negative" : "--positive", "", "the name of the other group");
    if (o->positive && bids_same(o->positive, o->negative))
        return fail("--negative", o->negative, "another name than that of --positive");
    if (o->collect && o->config.part) return fail("--collect", "", "no --part beside it");
    if (o->final && o->config.part) return fail("--final", "", "no --part beside it: give it with --collect");
    if (o->final && o->config.shuffle_labels) return fail("--final", "", "no --shuffle-labels beside it");
    if (o->final && !o->config.keep[QNET_MODEL_QNET])
        return fail("--final", "", "--weights-out features or all: it is made of the folds' weights");
    if (o->collect) o->config.part = QNET_COLLECT;
    return 1;
}

static const char *group_names[2]; /* by label, as given; NULL: HC and HH */

/* The group's name for HH or HC, where one begins and ends there as a word of a sentence. */
static const char *named_group(const char *at, const char *start)
{
    const int hh = strncmp(at, "HH", 2) == 0;
    if ((!hh && strncmp(at, "HC", 2) != 0) || at == start || at[-1] != ' ' || (at[2] && !strchr(" ,.;", at[2])))
        return NULL;
    return group_names[hh];
}

/* The paper's groups are the study's own, too. */
static const char *in_options(const char *sentence, char text[2000])
{
    return option_names(sentence, named_group, text);
}

/* The scans of the folder; only maps that the configuration needs must be there. Problems go to c. */
static qnet_status find_scans(check *c, const options *o, const char *exclude)
{
    const qnet_input_config *crop = &o->config.input[QNET_INPUT_CROP];
    bids *found = c->found;
    qnet_status status;
    found->derivatives = o->derivatives;
    found->session = o->session;
    found->filter = o->filter;
    found->t1w = o->t1w;
    found->maps = o->maps;
    found->write_maps = o->write_maps;
    found->group_column = o->group_column;
    found->positive = o->positive;
    found->negative = o->negative;
    found->exclude = exclude;
    found->subgroups = o->subgroups;
    found->no_r2star = !crop->use_channel[1];
    found->no_t1w = !crop->use_channel[2];
    found->any_values = crop->any_values;
    found->any_groups = o->check && !o->skip_bad; /* which cannot leave an option out */
    found->log = qnet_context_hooks(c->ctx)->log;
    if (!o->write_maps || o->check) {
        found->problem = check_problem;
        found->problem_user = c;
    }
    status = bids_read(found, c->ctx, o->data);
    if (status == QNET_OK && !check_begin(c)) status = QNET_ERROR_MEMORY;
    found->dataset.read = check_read;
    found->dataset.user = c;
    for (const char *p = exclude; status == QNET_OK && p && *p; p += strspn(p, ", \t\r\n")) {
        char name[64];
        snprintf(name, sizeof name, "%s%.*s", strncmp(p, "sub-", 4) ? "sub-" : "",
                 (int)strcspn(p, ", \t\r\n"), p);
        p += strcspn(p, ", \t\r\n");
        if (name[4]) check_leave_out(c, name, "", "--exclude");
    }
    return status;
}

/* What the weights files say besides: the groups' names, and how program maps made all Chimaps, if it did, and
   in the same way. */
static qnet_status write_record(check *c, qnet_buffer *record)
{
    bids *b = c->found;
    char first[4000] = "", object[4000], other[400], path[BIDS_PATH + 8];
    qnet_status status = QNET_OK;
    int same = b->count > 0;
    for (int hh = 1; hh >= 0 && status == QNET_OK; hh--)
        if (group_names[hh])
            status = qnet_buffer_printf(c->ctx, record, "%s=%s\n", hh ? "positive" : "negative", group_names[hh]);
    for (int i = 0; i < b->count && same; i++) {
        qnet_buffer text;
        if (!bids_stem(b->list[i].path[0])) continue;
        bids_sidecar(b, b->list[i].path[0], path, &text);
        settings_of(&text, object);
        qnet_buffer_free(c->ctx, &text);
        if (!first[0]) strcpy(first, object);
        same = object[0] && !other_setting(first, object, other);
    }
    for (char *p = first; *p; p++)
        if ((unsigned char)*p < 32) *p = ' ';
    if (status == QNET_OK && same && first[0]) status = qnet_buffer_printf(c->ctx, record, "maps=%s\n", first);
    if (status == QNET_OK && record->size > 0) b->dataset.record = (const char *)record->bytes;
    return status;
}

/* For check.estimate: before the first epoch, two lines; --check shows them behind its table. */
static qnet_status show_estimate(check *c, const qnet_cohort *cohort)
{
    display *d = c->shown;
    estimate e;
    qnet_status status;
    display_clear(d);
    d->silent = 1;
    status = estimate_make(c->ctx, c->config, cohort, c->folder, &e);
    d->silent = 0;
    if (status != QNET_OK) return status == QNET_STOPPED || status == QNET_ERROR_MEMORY ? status : QNET_OK;
    estimate_text(&e, c->config, c->text);
    d->expected = e.seconds;
    if (!c->showing) {
        display_stamp(d);
        printf("%s\n", c->text);
        fflush(stdout);
    }
    return QNET_OK;
}

/* --check: all scans are read, none is kept; then the table, the sentences, and the page. */
static qnet_status run_check(check *c, const options *o)
{
    const int input = o->config.use_input[QNET_INPUT_CROP] ? QNET_INPUT_CROP : QNET_INPUT_FULL;
    qnet_cohort *cohort = NULL;
    qnet_buffer html;
    qnet_status status, written;
    char path[700];
    if (o->out) {
        written = qnet_make_folder(c->ctx, o->out);
        if (written != QNET_OK) return written;
    }
    c->showing = 1;
    c->draw = check_draw;
    c->box_mm = input == QNET_INPUT_CROP ? o->config.input[input].box_mm : 0;
    status = check_read(c, &o->config.input[input], &cohort);
    if (cohort) qnet_cohort_destroy(cohort);
    display_clear(c->shown);
    if (status == QNET_STOPPED || (status != QNET_OK && c->problems == 0)) return status;
    snprintf(path, sizeof path, "%.600s%scheck.html", o->out ? o->out : "", o->out ? "/" : "");
    memset(&html, 0, sizeof html);
    written = check_html(c, c->text, &html);
    if (written == QNET_OK) written = qnet_file_replace(c->ctx, path, html.bytes, html.size);
    qnet_buffer_free(c->ctx, &html);
    if (!o->quiet) {
        printf("\n");
        check_print(c, stdout);
        if (c->warnings) printf("\nWarnings: accepted, but odd.\n");
        check_print_notes(c, QNET_LOG_WARNING, 0, "  ", stdout);
        if (c->skipped) printf("\nProblems of what is left out (--skip-bad):\n");
        check_print_notes(c, QNET_LOG_ERROR, 1, "  ", stdout);
        if (c->text[0]) printf("\n%s\n", c->text);
        if (written == QNET_OK) printf("\nWrote %s, with a picture of each scan: open it in a browser.\n", path);
        if (c->problems == c->skipped)
            printf("No %sproblems: this cohort can be trained on%s.\n", c->skipped ? "other " : "",
                   c->skipped ? ", with --skip-bad" : "");
    }
    return written != QNET_OK ? written : status;
}

/* What --exclude names: the list, or the text of a file. */
static qnet_status read_exclude(qnet_context *ctx, const char *given, qnet_buffer *text)
{
    qnet_status status;
    if (given == NULL || *given != '@') return QNET_OK;
    status = qnet_file_read(ctx, given + 1, (size_t)1 << 20, text);
    return status == QNET_OK ? qnet_buffer_append(ctx, text, "", 1) : status;
}

/* All problems but those of what is left out, or the one sentence of what failed. */
static void print_failure(const check *c)
{
    char text[2000], list[1000];
    int bad = 0;
    if (!c->failed) {
        if (!c->scan) check_print_notes(c, QNET_LOG_ERROR, 0, "crossval: ", stderr);
        fprintf(stderr, "crossval: %s\n", in_options(bids_error(c->found), text));
        return;
    }
    for (int i = 0; c->scan && i < c->found->count; i++) bad += c->scan[i].problems > 0;
    check_print_notes(c, QNET_LOG_ERROR, 0, "crossval: ", stderr);
    if (c->problems == 1 || c->skip_bad) return;
    check_bad_list(c, list, sizeof list);
    if (bad == c->found->count) list[0] = '\0'; /* nobody would be left */
    snprintf(text, sizeof text, ", %d of %d scans cannot be used", bad, c->found->count);
    fprintf(stderr, "crossval: %d problems%s%s%s%s\n", c->problems, bad ? text : "", c->showing ? "" : "; --check shows them on a page",
            list[0] ? "; to leave them out: --skip-bad or --exclude " : "", list);
}

/* 1: the results of a run that is done lie in the output folder. */
static int is_done(const char *out)
{
    char path[1100];
    snprintf(path, sizeof path, "%.1000s/checkpoint/config.txt", out);
    if (qnet_file_exists(path)) return 0;
    snprintf(path, sizeof path, "%.1000s/predictions.csv", out);
    return qnet_file_exists(path);
}

/* The arguments as one line that a shell would read as them; cut off where it is full. */
static void command_line(int argc, char **argv, char *text, size_t size)
{
    size_t n = 0;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        const int quoted = !*a || a[strspn(a, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                              "0123456789-_=+,./:@%")];
        if (n + 8 > size) return;
        n += (size_t)sprintf(text + n, "%s%s", i > 0 ? " " : "", quoted ? "'" : "");
        for (; *a && n + 8 < size; a++)
            n += (size_t)sprintf(text + n, *a == '\'' ? "'\\''" : "%c", *a);
        n += (size_t)sprintf(text + n, "%s", quoted ? "'" : "");
    }
}

int main(int argc, char **argv)
{
    options o;
    display d;
    bids found;
    check c;
    pictures drawn;
    const qnet_viewer viewer = {&drawn, pictures_scan, NULL};
    qnet_context *ctx = NULL;
    qnet_experiment *e = NULL;
    qnet_buffer tables, exclude, record;
    qnet_status status;
    char build[160], command[2000];
    const time_t now = time(NULL);
    int ok = parse(argc, argv, &o);
    if (ok <= 0) return ok < 0 ? 0 : 2;
    memset(&tables, 0, sizeof tables);
    memset(&exclude, 0, sizeof exclude);
    memset(&record, 0, sizeof record);
    memset(&drawn, 0, sizeof drawn);
    memset(&found, 0, sizeof found);
    memset(&c, 0, sizeof c);
    display_begin(&d, o.quiet);
    o.hooks.progress.user = &d;
    o.hooks.progress.report = show;
    o.hooks.log.user = &c;
    o.hooks.log.message = check_message;
    o.hooks.weights = pth_weights_reader();
    c.shown = &d;
    c.drawn = &drawn;
    c.found = &found;
    c.config = &o.config;
    c.skip_bad = o.skip_bad;
    c.showing = o.check;
    c.in_options = in_options;
    c.current = -1;
    c.folder = o.out;
    c.estimate = o.quiet || o.collect ? NULL : show_estimate;
    if (!open_context(&o.hooks, &ctx)) return 1;
    c.ctx = found.ctx = ctx;
    qnet_describe_build(ctx, build, sizeof build);
    if (!o.quiet) printf("%s\n", build);
    drawn.group[QNET_HH] = group_names[QNET_HH] = o.positive;
    drawn.group[QNET_HC] = group_names[QNET_HC] = o.negative;
    drawn.permutations = o.permutations;
    drawn.prevalence = o.prevalence;
    command_line(argc, argv, command, sizeof command);
    drawn.command = command;
    strftime(drawn.date, sizeof drawn.date, "%Y-%m-%d", localtime(&now));
    o.config.publish.user = &drawn; /* cuts: of the input that the page shows */
    if (!o.check)
        o.config.input[o.config.use_input[QNET_INPUT_CROP] ? QNET_INPUT_CROP : QNET_INPUT_FULL].viewer =
            &viewer;
    if (o.collect && !parts_there(ctx, o.out, &o.config.parts)) {
        qnet_context_destroy(ctx);
        return 1;
    }
    status = read_exclude(ctx, o.exclude, &exclude);
    if (status == QNET_OK) status = find_scans(&c, &o, exclude.size ? (const char *)exclude.bytes : o.exclude);
    drawn.columns = found.columns;
    if (status == QNET_OK) status = write_record(&c, &record);
    if (status == QNET_OK && o.check) status = run_check(&c, &o);
    else if (status == QNET_OK && !o.write_maps && !(o.final && !o.collect && is_done(o.out)))
        status = qnet_experiment_run(ctx, &o.config, &found.dataset, o.out, o.weights, o.resume, &e);
    if (status == QNET_OK && o.final && !o.write_maps && !o.check) {
        o.config.part = o.config.parts = 0;
        status = qnet_experiment_final(ctx, &o.config, &found.dataset, o.out, o.weights, o.resume);
    }
    display_clear(&d);
    if (status == QNET_OK && o.write_maps) {
        if (!o.quiet) printf("Wrote %s: %d scans.\n", o.write_maps, found.count);
    } else if (status == QNET_OK && e) {
        status = report_tables(e, &tables);
    } else if (status == QNET_OK && !o.quiet && !o.final && !o.check) {
        printf("Part %d of %d is done. When all are: the same command with --collect for --part.\n",
               o.config.part, o.config.parts);
    }
    if (status == QNET_OK && e && !o.quiet) {
        fwrite(tables.bytes, 1, tables.size, stdout);
        printf(
            "\nWrote %s/report.html, results.json, predictions.csv, manifest.json%s.\n", o.out,
            o.config.keep[QNET_MODEL_QNET] ? " and weights/" : "");
    }
    if (status == QNET_OK && o.final && !o.check && !o.quiet) printf("Wrote %s/model, for build/predict.\n", o.out);
    fflush(stdout);
    if (status == QNET_STOPPED) {
        fprintf(stderr, o.check ? "crossval: stopped\n"
                        : "crossval: stopped; the same command with --resume goes on from here\n");
    } else if (status != QNET_OK) print_failure(&c);
    qnet_buffer_free(ctx, &tables);
    qnet_experiment_destroy(e);
    check_free(&c);
    bids_free(&found);
    pictures_free(ctx, &drawn);
    qnet_buffer_free(ctx, &exclude);
    qnet_buffer_free(ctx, &record);
    qnet_context_destroy(ctx);
    return status == QNET_OK ? 0 : status != QNET_STOPPED ? 1 : interrupted == SIGINT ? 130 : 75;
}
