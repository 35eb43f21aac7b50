/* The items of two reporting guidelines that the program can fill in, and those that are left to the authors:
   CLAIM, the Checklist for Artificial Intelligence in Medical Imaging (Tejani et al. 2024, Radiology:
   Artificial Intelligence 6:e240300), and TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378). Topics are in
   words of our own. */
#ifndef CROSSVAL_CHECKLIST_H
#define CROSSVAL_CHECKLIST_H
#include "assessment.h"

typedef enum fact {
    FACT_DATA, FACT_PREPARED, FACT_SUBSETS, FACT_MISSING, FACT_FOLDS, FACT_DISJOINT, FACT_SAME, FACT_MODEL,
    FACT_SOFTWARE, FACT_START, FACT_TRAINING, FACT_SELECTION, FACT_ENSEMBLE, FACT_OUTPUT, FACT_IMBALANCE,
    FACT_METRICS, FACT_UNCERTAINTY, FACT_SUBGROUPS, FACT_EXPLAINED, FACT_INTERNAL, FACT_FLOW, FACT_PERFORMANCE,
    FACT_FAILURES, FACT_UPDATING, FACT_WEIGHTS, FACTS
} fact;

/* Numbers of the items in CLAIM and TRIPOD+AI, the topic, and where on the page there is more. */
static const char *const facts[FACTS][4] = {
    {"7", "", "Data set", "Record"},
    {"9", "7, 9b, 12b", "Predictors and their preparation", "Configuration"},
    {"10", "", "Subsets of the data", "How it was trained"},
    {"12", "11", "Missing data", "What was run"},
    {"19", "12a, 21", "Partitions", "Folds"},
    {"20", "", "Level of disjointness", "Folds"},
    {"", "16, 20c", "Training and test data compared", "Folds"},
    {"1, 22", "12c", "Model", "What was run"},
    {"23", "18f", "Software", "Record"},
    {"24", "", "Initial weights", "Record"},
    {"25", "12c", "Training", "How it was trained; Configuration"},
    {"26", "12c", "Choice among models", ""},
    {"27", "", "Ensembles", "Results by scan"},
    {"", "12g, 15", "Output and threshold", "Subject by subject"},
    {"", "13", "Class imbalance", "What was run"},
    {"28", "12e", "Measures", "Results by image, by scan; Beside simpler models"},
    {"29", "23a", "Uncertainty and tests", "Results by scan; Beside simpler models"},
    {"30", "14, 23a", "Subgroups, sensitivity", "Beside simpler models"},
    {"31", "", "Explanation", "the heat maps"},
    {"32", "12c", "Internal testing", ""},
    {"35, 36", "20a, 20b", "Subjects", "What was run (Fig. 2)"},
    {"37, 38", "23a", "Performance", "Results by scan"},
    {"39", "", "Failures", "Subject by subject"},
    {"", "12f, 24", "Model updating", ""},
    {"", "22", "The model itself", ""}};

static const char *const open_claim[] = {
    "2 Structured abstract", "3 Background, intended use and clinical role", "4 Aims and hypotheses",
    "5 Prospective or retrospective", "6 Goal of the study", "8 Who could take part, and how they were chosen",
    "11 De-identification", "13 Acquisition of the images", "14 Reference standard: how the groups were told",
    "15 Why this reference standard", "16 Who assessed it", "17 How it was annotated",
    "18 Agreement of those who did", "21 How the size of the test set was arrived at",
    "33 Testing on data from elsewhere, or why not", "34 Registration, if a trial",
    "35 Who was left out, and why", "40 Limitations", "41 What it means for practice", "42 Full protocol",
    "43 Availability of software, model and data", "44 Funding", NULL};

static const char *const open_tripod[] = {
    "1 Title", "2 Abstract", "3a Context and reasons", "3b Target population, purpose and users",
    "3c Known inequalities of health", "4 Objectives", "5a Sources of the data", "5b Dates",
    "6a Setting and centres", "6b Eligibility", "6c Treatments", "8a Outcome: how the groups were told",
    "8b Who assessed it", "8c Blinding", "9a Choice of predictors", "9c Who assessed predictors",
    "10 Sample size", "12d, 23b Differences between centres", "17 Ethics approval and consent", "18a Funding",
    "18b Conflicts of interest", "18c Protocol", "18d Registration", "18e Availability of data",
    "19 Patients and public", "25 Interpretation", "26 Limitations", "27a Poor or missing input in use",
    "27b What users need to know", "27c Next steps", NULL};

static void put_fact(writer *w, const qnet_experiment *e, fact f, const assessment *a, const group_counts group[3])
{
    const qnet_experiment_config *c = &e->config;
    const qnet_input_config *in = &c->input[a->input];
    const assessed_model *q = &a->model[QNET_MODEL_QNET];
    const pictures *given = pictures_of(e);
    const int columns = given ? given->columns.count : 0;
    char text[2][TEXT_SIZE], build[256];
    int no_sex = 0;
    switch (f) {
    case FACT_DATA: put_dataset(w, e); put(w, e->simulated ? "; simulated subjects" : ""); break;
    case FACT_PREPARED:
        put(w, "Three channels: ");
        put_channels(w, e);
        print(w, "; %d &times; %d pixels per slice, turned to one orientation and grid, %s, intensities stretched "
                 "per %s.",
              in->size, in->size, a->input == QNET_INPUT_CROP ? "cut to a box about the basal ganglia" : "whole slices",
              c->stage1.augment.stretch == QNET_STRETCH_WINDOW ? "fixed window" : "slice");
        break;
    case FACT_SUBSETS:
        print(w, "%s, %d at most; %d slices of %d scans.",
              in->slice_count ? "A given range of slices" : "The slices that hold the basal ganglia",
              in->max_slices, group[2].slices, group[2].scans);
        break;
    case FACT_MISSING:
        for (int i = 0; i < e->participants_count; i++)
            no_sex += is_first_scan(e, i) && e->participants[i].sex == QNET_SEX_UNKNOWN;
        print(w, "Age of %d and sex of %d subjects is unknown; the networks use neither. The baseline takes the "
                 "training folds' mean.", group[2].subjects - group[2].ages, no_sex);
        break;
    case FACT_FOLDS:
        print(w, "%d-fold cross-validation, %d repeat%s, seed %llu; %d subjects, each tested once per repeat.",
              c->folds, c->repeats, c->repeats > 1 ? "s" : "", (unsigned long long)c->seed, group[2].subjects);
        break;
    case FACT_DISJOINT: put(w, "By individual: all scans and slices of a subject are in one fold."); break;
    case FACT_SAME: put(w, "One cohort: both differ by chance only, as far as the folds do."); break;
    case FACT_MODEL:
        print(w, "Deep learning: ResNet18 on slices, with and without stochastic weight averaging, and on its 512 "
                 "features a bidirectional LSTM (%d units) over the slices of a scan, for %s or %s.",
              c->stage2.hidden, group_title(e, 1), group_title(e, 0));
        break;
    case FACT_SOFTWARE:
        qnet_describe_build(e->ctx, build, sizeof build);
        put_escaped(w, build);
        break;
    case FACT_START:
        if (e->weights[0]) {
            put_escaped(w, e->weights);
            print(w, ", hash %016llx.", (unsigned long long)e->weights_hash);
        } else {
            put(w, "Random (He et al. 2015); no transfer.");
        }
        break;
    case FACT_TRAINING:
        print(w, "Stage 1: %d epochs, batches of %d, Adam, rate %s", c->stage1.epochs, c->stage1.batch,
              shortest_text(build, c->stage1.rate_first));
        print(w, " to %s by cosine annealing, augmented; stage 2: %d epochs, rate ",
              shortest_text(build, c->stage1.rate_last), c->stage2.epochs);
        print(w, "%s.", shortest_text(build, c->stage2.rate));
        break;
    case FACT_SELECTION:
        put(w, "None: epochs and all else were fixed beforehand, and the last epoch's network is the result. Whether "
               "settings were tried before on the same subjects, the authors know.");
        break;
    case FACT_ENSEMBLE:
        put(w, "ResNetSWA averages weights of its last epochs; ResNet and ResNetSWA vote over a scan's slices. No "
               "ensemble of folds.");
        break;
    case FACT_OUTPUT:
        print(w, "A probability of %s by the network of the fold that never saw the subject; called so above .5, "
                 "fixed beforehand.", group_tag(e, 1));
        break;
    case FACT_IMBALANCE:
        print(w, "%.1f&nbsp;%% of the subjects are %s; no method against imbalance.", 100 * a->share,
              group_tag(e, 1));
        break;
    case FACT_METRICS:
        put(w, "Accuracy, sensitivity, specificity, F1, ROC and AUC by image and by scan; Brier score, calibration, "
               "net benefit, predictive values; two baselines.");
        break;
    case FACT_UNCERTAINTY:
        print(w, "Wilson's and DeLong's 95&nbsp;%% intervals, the latter by subject (Obuchowski 1997); %d bootstrap "
                 "samples; DeLong's and McNemar's tests, with Holm's correction.", c->bootstrap);
        break;
    case FACT_SUBGROUPS:
        put(w, columns ? "By sex, age" : "By sex and age");
        for (int k = 0; k < columns; k++) {
            put(w, k + 1 < columns ? ", " : " and ");
            put_escaped(w, subject_value(&given->columns, "", k));
        }
        print(w, "; no method for fairness was used. Inputs compared: %s.",
              has_input(e, QNET_INPUT_CROP) && has_input(e, QNET_INPUT_FULL) ? "cropped and full size" : "one");
        break;
    case FACT_EXPLAINED: put(w, "Class activation maps (Zhou et al. 2016), not validated."); break;
    case FACT_INTERNAL: put(w, "All results are of subjects that the network had not seen in training."); break;
    case FACT_FLOW:
        print(w, "%d subjects: %d %s, %d %s; %d men, %d women; all of the folder that were not excluded before or "
                 "by options.", group[2].subjects, group[1].subjects, group_tag(e, 1), group[0].subjects,
              group_tag(e, 0), group[2].men, group[2].women);
        break;
    case FACT_PERFORMANCE:
        print(w, "Q-Net, by subject: AUC %.3f (%s), ", q->auc, interval_text(w, text[0], q->auc_ci, 1, 3, 0));
        print(w, "accuracy %.1f&nbsp;%% (%s).", 100 * q->metrics.accuracy,
              interval_text(w, text[1], q->metrics.accuracy_ci, 100, 1, 0));
        break;
    case FACT_FAILURES:
        print(w, "Confusion matrices; Q-Net has %d subjects wrong, each of whom is marked.",
              (int)(q->metrics.count.fn + q->metrics.count.fp));
        break;
    case FACT_UPDATING: put(w, "None: the probabilities are as the networks give them, not recalibrated."); break;
    case FACT_WEIGHTS:
        put(w, c->keep[QNET_MODEL_QNET] ? "The folder weights/ has the networks of every fold (safetensors)."
                                        : "The networks were not kept (--weights-out).");
        break;
    default: break;
    }
}

static void put_open(writer *w, const char *name, const char *const *items)
{
    print(w, "<h3>Open in %s, for the authors</h3>\n<ul class=\"open small\">\n", name);
    for (; *items; items++) print(w, "<li>%s</li>\n", *items);
    put(w, "</ul>\n");
}

static void html_checklist(writer *w, const qnet_experiment *e, const assessment *a, const group_counts group[3])
{
    put(w, "<h2>For a paper: CLAIM and TRIPOD+AI</h2>\n<p>What this program knows of the items of "
           "CLAIM (Tejani et al. 2024, <i>Radiology: Artificial Intelligence</i> 6:e240300) and TRIPOD+AI (Collins "
           "et al. 2024, <i>BMJ</i> 385:e078378), as a start for the authors' own; topics are in short, the lists "
           "themselves are what counts.</p>\n<div class=\"scroll\"><table class=\"wide facts\"><thead><tr>");
    cells(w, "th", "CLAIM|TRIPOD+AI|Topic|Filled in|On this page");
    put(w, "</tr></thead><tbody>\n");
    for (int f = 0; f < FACTS; f++) {
        put(w, "<tr>");
        cells(w, "td", "%s|%s", facts[f][0], facts[f][1]);
        print(w, "<th scope=\"row\">%s</th><td class=\"wrap\">", facts[f][2]);
        put_fact(w, e, (fact)f, a, group);
        print(w, "</td><td>%s</td></tr>\n", facts[f][3]);
    }
    put(w, "</tbody></table></div>\n");
    put_open(w, "CLAIM", open_claim);
    put_open(w, "TRIPOD+AI", open_tripod);
}

/* Of the page, what is about the subjects (checklist 0) or the checklist; nothing where nobody can be assessed. */
static void html_assessed(writer *w, const qnet_experiment *e, const pictures *p, const group_counts group[3],
                          int checklist)
{
    assessments all;
    if (w->status != QNET_OK) return;
    w->status = assess_all(e, &all);
    if (w->status == QNET_OK && all.count > 0 && !checklist) {
        html_single(w, e, p, &all);
        html_assessment(w, e, &all);
    } else if (w->status == QNET_OK && all.count > 0) {
        html_checklist(w, e, &all.of[all.count - 1], group);
    }
    assess_free(e, &all);
}

#endif
