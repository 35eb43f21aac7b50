/* What the out-of-fold probabilities of an experiment are worth, by subject: of the three models and of
   two baselines under the same folds. A subject of several scans counts once, by the mean of their
   probabilities and the majority of their decisions (a tie is HC), so that everything here is of
   independent subjects. First repeat only. */
#ifndef CROSSVAL_ASSESS_H
#define CROSSVAL_ASSESS_H
#include "results.h"
#include "statistics.h"

enum { BASELINE_AGE_SEX = QNET_MODELS, BASELINE_REGIONS, ASSESSED };
#define COMPARISONS 5

typedef struct assessed_model {
    int has;                  /* 0: a baseline without predictors, or without both classes in a fold's training */
    const char *name;
    double *probability;      /* [count] */
    int *decision;            /* [count] */
    qnet_metrics metrics;
    double auc, auc_within;   /* of all subjects; mean over the folds with both classes, NaN: none */
    qnet_interval auc_ci;     /* DeLong on the logit scale */
    calibration fit;
    double permutation_p;     /* NaN: not asked for */
} assessed_model;

typedef struct comparison {
    int model[2];             /* the first is expected to be the better one */
    qnet_delong delong;
    size_t only[2];           /* subjects that only this one of the two has right */
    double p[2], holm[2];     /* DeLong (NaN: too few subjects, no variance), McNemar; over the input's tests */
} comparison;

typedef struct assessment {
    int input, count;         /* subjects; 0: one class only, nothing below */
    int several;              /* 1: some have several scans */
    int *participant, *label, *fold; /* [count]; participant: the first scan */
    double share;             /* of HH */
    assessed_model model[ASSESSED];
    comparison pair[COMPARISONS];
    qnet_buffer memory;
} assessment;

/* Of each input with results, in the order of the tables. */
typedef struct assessments {
    int count;
    assessment of[2];
} assessments;

/* What the caller of the report has set; NULL: nothing. */
static const pictures *pictures_of(const qnet_experiment *e)
{
    const qnet_publish *to = &e->config.publish;
    return to->input == pictures_input ? (const pictures *)to->user : NULL;
}

/* Prevalences that PPV and NPV are stated at: the cohort's, and the one given with --prevalence or,
   where the groups are the paper's, 1 in 200: C282Y homozygotes among people of northern European
   descent (Adams et al. 2005, HEIRS: .44 %). Returns how many. */
static int prevalences(const qnet_experiment *e, double share, double value[2])
{
    const pictures *p = pictures_of(e);
    value[0] = share;
    value[1] = p && p->prevalence > 0 ? p->prevalence : 1.0 / 200;
    return (p && p->prevalence > 0) || !group_given(e, 1) ? 2 : 1;
}

/* The memory of n subjects; columns in the order of their alignment. */
static qnet_status assess_columns(const qnet_experiment *e, assessment *a, double **x, double **z, int **rank,
                                  int **y, int **of)
{
    const size_t n = (size_t)e->participants_count;
    const size_t doubles = (ASSESSED + 2 * BASELINE_PREDICTORS) * n, ints = (2 * ASSESSED + 5) * n;
    const qnet_status status = picture_room(e->ctx, &a->memory, doubles * sizeof(double) + ints * sizeof(int));
    if (status != QNET_OK) return status;
    double *d = (double *)(void *)a->memory.bytes;
    int *i = (int *)(void *)(d + doubles);
    for (int k = 0; k < ASSESSED; k++, d += n, i += n) {
        a->model[k].probability = d;
        a->model[k].decision = i;
    }
    *x = d;
    *z = d + BASELINE_PREDICTORS * n;
    *rank = i;
    i += ASSESSED * n;
    a->participant = i;
    a->label = i + n;
    a->fold = i + 2 * n;
    *y = i + 3 * n;
    *of = i + 4 * n;
    return QNET_OK;
}

/* Subjects, and what the three models say of them; of: [participants], the subject of each scan;
   y: [participants], scratch. */
static void assess_subjects(const qnet_experiment *e, assessment *a, int *of, int *y)
{
    const qnet_level_result *l = &e->level[a->input][QNET_LEVEL_SCAN];
    int hh = 0;
    for (int i = 0; i < e->participants_count; i++) {
        int k = 0;
        while (k < i && strcmp(e->participants[k].subject, e->participants[i].subject) != 0) k++;
        of[i] = k < i ? of[k] : a->count++;
        if (k == i) {
            a->participant[of[i]] = i;
            a->fold[of[i]] = e->fold[i];
            y[of[i]] = 0;
        }
        y[of[i]]++; /* scans */
        a->several |= k < i;
    }
    for (size_t i = 0; i < l->count; i++) {
        const qnet_item *item = &l->items[i];
        const int s = of[item->scan];
        a->label[s] = item->label;
        for (int m = 0; m < QNET_MODELS; m++) {
            a->model[m].probability[s] += item->probability[m] / y[s];
            a->model[m].decision[s] += item->decision[m];
        }
    }
    for (int s = 0; s < a->count; s++) {
        hh += a->label[s];
        for (int m = 0; m < QNET_MODELS; m++) a->model[m].decision[s] = 2 * a->model[m].decision[s] > y[s];
    }
    a->share = a->count ? (double)hh / a->count : 0;
    if (hh == 0 || hh == a->count) a->count = 0;
}

/* Both baselines: age and sex; means of QSM and R2* of the regions, over a subject's scans. */
static qnet_status assess_baselines(const qnet_experiment *e, assessment *a, double *x, double *z, int *y,
                                    const int *of)
{
    const pictures *p = pictures_of(e);
    const regions *r = p && p->means.count == e->participants_count && p->means.mean ? &p->means : NULL;
    const size_t n = (size_t)a->count;
    int known[2] = {0, 0}, masked = 1;
    for (int i = 0; r && i < r->count; i++) masked &= isfinite(r->mean[i].mask[0]) != 0;
    qnet_status status = QNET_OK;
    for (int k = 0; k < 2; k++) {
        assessed_model *m = &a->model[QNET_MODELS + k];
        for (size_t i = 0; i < 2 * n; i++) x[i] = (double)NAN;
        for (int i = 0; i < e->participants_count; i++) {
            const qnet_participant *s = &e->participants[i];
            double *row = x + 2 * of[i];
            if (k == 0 && i == a->participant[of[i]]) {
                row[0] = s->age;
                row[1] = s->sex == QNET_SEX_UNKNOWN ? (double)NAN : s->sex == QNET_MALE;
                known[0] += isfinite(row[0]) || isfinite(row[1]);
            } else if (k == 1 && r) {
                for (int c = 0; c < 2 && i == a->participant[of[i]]; c++) { /* over the subject's scans */
                    double sum = 0, scans = 0;
                    for (int j = 0; j < e->participants_count; j++) {
                        const double value = masked ? r->mean[j].mask[c] : r->mean[j].box[c];
                        if (of[j] != of[i] || !isfinite(value)) continue;
                        sum += value;
                        scans++;
                    }
                    if (scans > 0) row[c] = sum / scans;
                    known[1] += c == 0 && scans > 0;
                }
            }
        }
        m->name = k == 0 ? "Age and sex" : masked ? "Mask's means" : "Box's means";
        if (2 * known[k] < a->count) continue; /* the others get the mean: more of them is no baseline */
        status = baseline_predict(e->ctx, a->label, a->fold, n, x, 2, y, z, m->probability);
        m->has = status == QNET_OK;
        for (size_t i = 0; i < n; i++) m->decision[i] = m->probability[i] > 0.5;
        if (status != QNET_OK && status != QNET_ERROR_DATA) return status;
    }
    return QNET_OK;
}

/* The AUC of what y and z hold of n subjects; NaN where they are of one class. */
static qnet_status assess_auc(const qnet_experiment *e, const int *y, const double *z, size_t n, double *auc)
{
    size_t hh = 0;
    *auc = (double)NAN;
    for (size_t i = 0; i < n; i++) hh += y[i] == 1;
    return hh > 0 && hh < n ? qnet_auc(e->ctx, y, z, n, auc) : QNET_OK;
}

static qnet_status assess_model(const qnet_experiment *e, assessment *a, assessed_model *m, int *y, double *z)
{
    const size_t n = (size_t)a->count;
    const qnet_interval none = {(double)NAN, (double)NAN};
    double sum = 0, auc;
    int folds = 0;
    qnet_delong d;
    qnet_status status = qnet_metrics_from(e->ctx, a->label, m->decision, n, &m->metrics);
    if (status == QNET_OK) status = qnet_auc(e->ctx, a->label, m->probability, n, &m->auc);
    if (status != QNET_OK) return status;
    status = qnet_delong_test(e->ctx, a->label, m->probability, NULL, NULL, n, &d);
    if (status != QNET_OK && status != QNET_ERROR_DATA) return status;
    m->auc_ci = status == QNET_OK ? qnet_logit_interval(d.auc[0], d.variance[0]) : none;
    for (int fold = 0; fold < e->config.folds; fold++) {
        size_t k = 0;
        for (size_t i = 0; i < n; i++) {
            if (a->fold[i] != fold) continue;
            y[k] = a->label[i];
            z[k++] = m->probability[i];
        }
        status = assess_auc(e, y, z, k, &auc);
        if (status != QNET_OK) return status;
        if (auc != auc) continue;
        sum += auc;
        folds++;
    }
    m->auc_within = folds ? sum / folds : (double)NAN;
    return calibrate(e->ctx, a->label, m->probability, n, z, &m->fit);
}

static qnet_status assess_pairs(const qnet_experiment *e, assessment *a)
{
    static const int models[COMPARISONS][2] = {{QNET_MODEL_RESNET_SWA, QNET_MODEL_RESNET},
                                               {QNET_MODEL_QNET, QNET_MODEL_RESNET},
                                               {QNET_MODEL_QNET, QNET_MODEL_RESNET_SWA},
                                               {QNET_MODEL_QNET, BASELINE_AGE_SEX},
                                               {QNET_MODEL_QNET, BASELINE_REGIONS}};
    double p[COMPARISONS], adjusted[COMPARISONS];
    for (int k = 0; k < COMPARISONS; k++) {
        comparison *c = &a->pair[k];
        const assessed_model *m[2];
        qnet_status status;
        for (int i = 0; i < 2; i++) m[i] = &a->model[c->model[i] = models[k][i]];
        c->p[0] = c->p[1] = (double)NAN;
        if (!m[0]->has || !m[1]->has) continue;
        status = qnet_delong_test(e->ctx, a->label, m[0]->probability, m[1]->probability, NULL, (size_t)a->count,
                                  &c->delong);
        if (status != QNET_OK && status != QNET_ERROR_DATA) return status;
        if (status == QNET_OK && stars_of(e, &c->delong)) c->p[0] = c->delong.p;
        for (int i = 0; i < a->count; i++) {
            const int right[2] = {m[0]->decision[i] == a->label[i], m[1]->decision[i] == a->label[i]};
            c->only[0] += right[0] && !right[1];
            c->only[1] += right[1] && !right[0];
        }
        c->p[1] = mcnemar_exact(c->only[0], c->only[1]);
    }
    for (int test = 0; test < 2; test++) {
        for (int k = 0; k < COMPARISONS; k++) p[k] = a->pair[k].p[test];
        holm(p, COMPARISONS, adjusted);
        for (int k = 0; k < COMPARISONS; k++) a->pair[k].holm[test] = adjusted[k];
    }
    return QNET_OK;
}

/* *a, all zero at first, of one input; assess_free frees it in any case. */
static qnet_status assess(const qnet_experiment *e, int input, assessment *a)
{
    const pictures *given = pictures_of(e);
    double *x, *z, p[ASSESSED];
    const double *score[ASSESSED];
    int *rank, *y, *of, scores = 0;
    qnet_status status = assess_columns(e, a, &x, &z, &rank, &y, &of);
    if (status != QNET_OK) return status;
    a->input = input;
    assess_subjects(e, a, of, y);
    if (a->count == 0) return QNET_OK;
    for (int m = 0; m < QNET_MODELS; m++) {
        a->model[m].has = 1;
        a->model[m].name = qnet_model_name((qnet_model_kind)m);
    }
    status = assess_baselines(e, a, x, z, y, of);
    for (int m = 0; m < ASSESSED && status == QNET_OK; m++) {
        a->model[m].permutation_p = (double)NAN;
        if (!a->model[m].has) continue;
        score[scores++] = a->model[m].probability;
        status = assess_model(e, a, &a->model[m], y, z);
    }
    if (status == QNET_OK) status = assess_pairs(e, a);
    if (status != QNET_OK || !given || given->permutations < 1) return status;
    permutation_test(a->label, score, scores, (size_t)a->count, given->permutations, e->config.seed, y, rank, p);
    for (int m = ASSESSED - 1; m >= 0; m--)
        if (a->model[m].has) a->model[m].permutation_p = p[--scores];
    return QNET_OK;
}

/* Of all inputs; all->count of them have both classes. */
static qnet_status assess_all(const qnet_experiment *e, assessments *all)
{
    int input[2];
    const int inputs = inputs_of(e, input);
    qnet_status status = QNET_OK;
    memset(all, 0, sizeof *all);
    for (int i = 0; i < inputs && status == QNET_OK; i++) {
        status = assess(e, input[i], &all->of[all->count]);
        if (status == QNET_OK && all->of[all->count].count == 0) {
            qnet_buffer_free(e->ctx, &all->of[all->count].memory);
            memset(&all->of[all->count], 0, sizeof all->of[0]);
        } else {
            all->count++;
        }
    }
    return status;
}

static void assess_free(const qnet_experiment *e, assessments *all)
{
    for (int i = 0; i < all->count; i++) qnet_buffer_free(e->ctx, &all->of[i].memory);
}

/* Subgroups of subjects: men, women, both sides of the median of the ages that are known, and those by the columns
   of pictures.columns. */
#define SUBGROUPS 4
typedef struct subgroup {
    const char *column, *value; /* of the columns; NULL: one of the four */
    char half[48];          /* the value, where the column is split at its median */
    int count, hh;
    qnet_metrics metrics;   /* of Q-Net */
    double auc;             /* NaN: one class only */
    qnet_interval auc_ci;   /* NaN: fewer than STARS_SUBJECTS of either class */
} subgroup;

typedef struct subgroups {
    int count;
    double median_age;      /* NaN: no age is known */
    subgroup of[SUBGROUPS + SUBGROUP_COLUMNS * SUBGROUP_VALUES];
} subgroups;

static double assess_median_age(const qnet_experiment *e, const assessment *a)
{
    double median = (double)NAN;
    for (int i = 0; i < a->count; i++) { /* the known age with at most half of them below and half above */
        const double age = e->participants[a->participant[i]].age;
        int below = 0, above = 0, known = 0;
        if (!isfinite(age)) continue;
        for (int k = 0; k < a->count; k++) {
            const double other = e->participants[a->participant[k]].age;
            known += isfinite(other);
            below += other < age;
            above += other > age;
        }
        if (2 * below <= known && 2 * above <= known && !(median < age)) median = age; /* the lower of two */
    }
    return median;
}

/* Appends the subgroup of the subjects with in[count] 1; work: [count] doubles and twice as many ints. */
static qnet_status assess_subgroup(const qnet_experiment *e, const assessment *a, const int *in, double *work,
                                   subgroups *list)
{
    const assessed_model *m = &a->model[QNET_MODEL_QNET];
    const qnet_interval none = {(double)NAN, (double)NAN};
    subgroup *out = &list->of[list->count++];
    double *score = work;
    int *y = (int *)(void *)(score + a->count), *decision = y + a->count;
    qnet_status status = QNET_OK;
    out->auc = (double)NAN;
    out->auc_ci = none;
    for (int i = 0; i < a->count; i++) {
        if (!in[i]) continue;
        y[out->count] = a->label[i];
        score[out->count] = m->probability[i];
        decision[out->count++] = m->decision[i];
        out->hh += a->label[i];
    }
    if (out->count) {
        const size_t n = (size_t)out->count;
        const int least = out->hh < out->count - out->hh ? out->hh : out->count - out->hh;
        qnet_delong d;
        status = qnet_metrics_from(e->ctx, y, decision, n, &out->metrics);
        if (status == QNET_OK) status = assess_auc(e, y, score, n, &out->auc);
        if (status == QNET_OK && least >= STARS_SUBJECTS) {
            status = qnet_delong_test(e->ctx, y, score, NULL, NULL, n, &d);
            if (status == QNET_OK) out->auc_ci = qnet_logit_interval(d.auc[0], d.variance[0]);
        }
    }
    return status;
}

/* Those of a column; value, sorted, in: [count], scratch. */
static qnet_status assess_column(const qnet_experiment *e, const assessment *a, int column, const char **value,
                                 const char **sorted, int *in, double *work, subgroups *out)
{
    const subject_columns *columns = &pictures_of(e)->columns;
    const char *median;
    double middle = 0, number;
    size_t n = 0;
    qnet_status status = QNET_OK;
    for (int i = 0; i < a->count; i++) {
        value[i] = subject_value(columns, e->participants[a->participant[i]].subject, column);
        if (*value[i]) sorted[n++] = value[i];
    }
    const int different = subgroup_sort(sorted, n, &median), split = median && different > SUBGROUP_VALUES;
    if (split) subgroup_number(median, &middle);
    for (int k = 0; k < (split ? 2 : different) && k < SUBGROUP_VALUES && status == QNET_OK; k++) {
        subgroup *s = &out->of[out->count];
        s->column = subject_value(columns, "", column);
        s->value = split ? s->half : sorted[k];
        if (split) snprintf(s->half, sizeof s->half, "%s %.32s", k ? "above" : "up to", median);
        for (int i = 0; i < a->count; i++)
            in[i] = split ? subgroup_number(value[i], &number) && (number > middle) == k
                          : strcmp(value[i], sorted[k]) == 0;
        status = assess_subgroup(e, a, in, work, out);
    }
    return status;
}

static qnet_status assess_subgroups(const qnet_experiment *e, const assessment *a, subgroups *out)
{
    const pictures *given = pictures_of(e);
    const size_t n = (size_t)a->count;
    qnet_buffer memory;
    qnet_status status;
    memset(&memory, 0, sizeof memory);
    memset(out, 0, sizeof *out);
    out->median_age = assess_median_age(e, a);
    status = picture_room(e->ctx, &memory, n * (2 * sizeof(char *) + sizeof(double) + 3 * sizeof(int)));
    if (status == QNET_OK) {
        const char **value = (const char **)(void *)memory.bytes;
        double *work = (double *)(void *)(value + 2 * n);
        int *in = (int *)(void *)(work + n) + 2 * n;
        for (int k = 0; k < SUBGROUPS && status == QNET_OK; k++) {
            for (size_t i = 0; i < n; i++) {
                const qnet_participant *s = &e->participants[a->participant[i]];
                in[i] = k == 0 ? s->sex == QNET_MALE : k == 1 ? s->sex == QNET_FEMALE
                      : k == 2 ? s->age <= out->median_age : s->age > out->median_age;
            }
            status = assess_subgroup(e, a, in, work, out);
        }
        for (int c = 0; given && c < given->columns.count && status == QNET_OK; c++)
            status = assess_column(e, a, c, value, value + n, in, work, out);
    }
    qnet_buffer_free(e->ctx, &memory);
    return status;
}

#endif
