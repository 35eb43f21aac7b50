/* results.json and manifest.json: the numbers of an experiment for other programs. The settings are
   also tables of the page. */
#ifndef CROSSVAL_JSON_H
#define CROSSVAL_JSON_H
#include "pictures.h"
#include "results.h"

#define ADAM_FORMAT "; adam_beta1 %g; adam_beta2 %g; adam_eps %g"
#define MEAN_FORMAT " {\"mean\": %g, \"std\": %g}"
#define BOX_FORMAT \
    " {\"low\": %g, \"q1\": %g, \"median\": %g, \"q3\": %g, \"high\": %g, \"mean\": %g, "          \
    "\"std\": %g}"

static void put_augment_settings(writer *w, const qnet_augment_config *a)
{
    open_object(w, "augment", "{");
    put_members(w, "stretch %s; percentile_low %g; percentile_high %g; "
                   "window_low [%g, %g, %g]; window_high [%g, %g, %g]",
                a->stretch == QNET_STRETCH_WINDOW ? "window" : "percentile", a->percentile_low,
                a->percentile_high, a->window_low[0], a->window_low[1], a->window_low[2],
                a->window_high[0], a->window_high[1], a->window_high[2]);
    put_members(w, "p_hflip %g; p_vflip %g; p_brightness_contrast %g; p_gamma %g; p_grid %g; "
                   "p_affine %g; brightness %g; contrast %g; gamma_low %g; gamma_high %g; "
                   "grid_limit %g; shift %g; scale %g; rotate %g; physics_safe %d",
                a->p_hflip, a->p_vflip, a->p_brightness_contrast, a->p_gamma, a->p_grid,
                a->p_affine, a->brightness, a->contrast, a->gamma_low, a->gamma_high,
                a->grid_limit, a->shift, a->scale, a->rotate, a->physics_safe);
    put_members(w, "mean [%g, %g, %g]; std [%g, %g, %g]", a->mean[0], a->mean[1], a->mean[2],
                a->std[0], a->std[1], a->std[2]);
    close_object(w, "}");
}

/* Every number that changes results. */
static void put_settings(writer *w, const qnet_experiment *e)
{
    const qnet_experiment_config *c = &e->config;
    const qnet_stage1_config *s1 = &c->stage1;
    const qnet_stage2_config *s2 = &c->stage2;
    open_object(w, w->html ? "experiment" : "config", "{");
    put_members(w, "version %s; seed %llu; folds %d; repeats %d; bootstrap %d; "
                   "shuffle_labels %d; inner_validation %d; cam_scans %d; initial_weights %s",
                QNET_VERSION, (unsigned long long)c->seed, c->folds, c->repeats, c->bootstrap,
                c->shuffle_labels, c->inner_validation, CAM_SCANS, e->weights[0] ? e->weights : "random");
    if (w->html) close_object(w, "}"); /* in JSON the others are within */
    for (int i = 0; i < 2; i++) {
        const qnet_input_config *in = &c->input[table_input[i]];
        if (!c->use_input[table_input[i]]) continue;
        open_object(w, i == 0 ? "input_full" : "input_crop", "{");
        put_members(w, "size %d; box_mm %g; margin %g; max_slices %d; slice_first %d; "
                       "slice_count %d; box_explicit %d; box_center_mm [%g, %g]; derivatives %s; "
                       "any_values %d; any_orientation %d; locate %d; use_channel [%d, %d, %d]",
                    in->size, in->box_mm, in->margin, in->max_slices, in->slice_first,
                    in->slice_count, in->box_explicit, in->box_center_mm[0],
                    in->box_center_mm[1], e->derivatives,
                    in->any_values, in->any_orientation, in->locate, in->use_channel[0],
                    in->use_channel[1], in->use_channel[2]);
        close_object(w, "}");
    }
    open_object(w, "stage1", "{");
    put_members(w, "epochs %d; batch %d; rate_first %g; rate_last %g; swa_share %g; swa_rate %g"
                   ADAM_FORMAT, s1->epochs, s1->batch, s1->rate_first, s1->rate_last,
                s1->swa_share, s1->swa_rate, s1->adam.beta1, s1->adam.beta2, s1->adam.eps);
    close_object(w, "}");
    put_augment_settings(w, &s1->augment);
    open_object(w, "stage2", "{");
    put_members(w, "epochs %d; batch %d; rate %g; hidden %d" ADAM_FORMAT, s2->epochs, s2->batch,
                s2->rate, s2->hidden, s2->adam.beta1, s2->adam.beta2, s2->adam.eps);
    close_object(w, "}");
    if (!w->html) close_object(w, "}");
}

static void put_dataset_members(writer *w, const qnet_experiment *e)
{
    if (e->dataset[0]) put_members(w, "dataset %s", e->dataset);
    else put_members(w, "dataset null");
    put_members(w, "dataset_type %s; simulated %d", e->dataset_type, e->simulated);
}

/* Who was left out by the user, and why. */
static void put_left_out(writer *w, const qnet_experiment *e)
{
    int count;
    const left_out *out = left_out_of(e, &count);
    open_object(w, "left_out", "[");
    for (int i = 0; i < count; i++)
        put_members(w, " {\"subject\": %s, \"session\": %s, \"why\": %s}", out[i].subject, out[i].session,
                    out[i].why);
    close_object(w, "]");
}

static void put_cohort(writer *w, const qnet_experiment *e)
{
    static const char names[3][4] = { "HC", "HH", "all" };
    group_counts group[3];
    count_groups(e, -1, group);
    open_object(w, "cohort", "{");
    put_members(w, "data %s", e->data);
    put_dataset_members(w, e);
    for (int k = 2; k >= 0; k--) {
        const group_counts *g = &group[k];
        open_object(w, names[k], "{");
        if (k < 2) put_members(w, "name %s", group_tag(e, k));
        put_members(w, "subjects %d; scans %d; slices %d; men %d; women %d; age_mean %g; "
                       "age_std %g; age_min %g; age_max %g",
                    g->subjects, g->scans, g->slices, g->men, g->women, g->age_mean, g->age_std,
                    g->age_low, g->age_high);
        close_object(w, "}");
    }
    put_left_out(w, e);
    close_object(w, "}");
}

/* One model of image_level or scan_level. */
static void put_model(writer *w, const qnet_model_result *r)
{
    const qnet_metrics *m = &r->first;
    put_members(w, "accuracy" MEAN_FORMAT "; sensitivity" MEAN_FORMAT "; specificity" MEAN_FORMAT
                   "; f1" MEAN_FORMAT "; auc" MEAN_FORMAT,
                r->accuracy.mean, r->accuracy.std, r->sensitivity.mean, r->sensitivity.std,
                r->specificity.mean, r->specificity.std, r->f1.mean, r->f1.std, r->auc.mean,
                r->auc.std);
    open_object(w, "first_repeat", "{");
    put_members(w, "confusion {\"tp\": %zu, \"fn\": %zu, \"tn\": %zu, \"fp\": %zu}; "
                   "precision %g; f1_hh %g; f1_hc %g; f1_macro %g",
                m->count.tp, m->count.fn, m->count.tn, m->count.fp, m->precision, m->f1_hh,
                m->f1_hc, m->f1_macro);
    put_members(w, "accuracy_wilson95 [%g, %g]; sensitivity_wilson95 [%g, %g]; "
                   "specificity_wilson95 [%g, %g]; auc %g; auc_within_folds %g; "
                   "auc_delong95 [%g, %g]; "
                   "auc_delong95_by_subject [%g, %g]",
                m->accuracy_ci.low, m->accuracy_ci.high, m->sensitivity_ci.low,
                m->sensitivity_ci.high, m->specificity_ci.low, m->specificity_ci.high,
                r->auc_first, r->auc_within_folds, r->auc_ci.low, r->auc_ci.high,
                r->auc_ci_clustered.low, r->auc_ci_clustered.high);
    close_object(w, "}");
}

/* One model of bootstrap. */
static void put_boxes(writer *w, const qnet_model_result *r)
{
    const qnet_boxplot *b = &r->bootstrap, *c = &r->bootstrap_clustered;
    put_members(w, "by_item" BOX_FORMAT "; by_subject" BOX_FORMAT, b->low, b->q1, b->median, b->q3,
                b->high, b->mean, b->std, c->low, c->q1, c->median, c->q3, c->high, c->mean,
                c->std);
}

/* {"image_level": {"crop": {"Q-Net": ...}}}: what `put_one` writes of each model. */
static void put_levels(writer *w, const qnet_experiment *e,
                       void (*put_one)(writer *, const qnet_model_result *))
{
    for (int level = 0; level < QNET_LEVELS; level++) {
        open_object(w, level == QNET_LEVEL_IMAGE ? "image_level" : "scan_level", "{");
        for (int input = 0; input < 2; input++) {
            if (!has_input(e, input)) continue;
            open_object(w, qnet_input_name((qnet_input)input), "{");
            for (int m = QNET_MODELS - 1; m >= 0; m--) {
                open_object(w, qnet_model_name((qnet_model_kind)m), "{");
                put_one(w, &e->level[input][level].model[m]);
                close_object(w, "}");
            }
            close_object(w, "}");
        }
        close_object(w, "}");
    }
}

/* The end of one test: "p 0.003; stars **", or both null where no p should be read, and why. */
static void put_stars(writer *w, const qnet_experiment *e, const qnet_delong *d)
{
    const char *stars = stars_of(e, d);
    if (stars) put_members(w, "p %g; stars %s", d->p, stars);
    else put_members(w, "p null; stars null");
    put_members(w, "too_few_subjects %d; no_variance %d", !is_testable(e), !(d->se > 0));
}

static void put_delong(writer *w, const qnet_experiment *e)
{
    open_object(w, "delong", "[");
    for (int i = 0; i < 2 * QNET_LEVELS * 3; i++) {
        const int input = i / (QNET_LEVELS * 3), level = i / 3 % QNET_LEVELS;
        const qnet_pair_result *pair = &e->level[input][level].pair[i % 3];
        const qnet_delong *a = &pair->by_item, *b = &pair->by_subject;
        if (!has_input(e, input)) continue;
        open_object(w, "", "{");
        put_members(w, "input %s; level %s; model1 %s; model2 %s; auc1 %g; auc2 %g; se %g; z %g",
                    qnet_input_name((qnet_input)input), qnet_level_name((qnet_level)level),
                    qnet_model_name(pair->model1), qnet_model_name(pair->model2), a->auc[0],
                    a->auc[1], a->se, a->z);
        put_stars(w, e, a);
        open_object(w, "clustered", "{");
        put_members(w, "se %g; z %g", b->se, b->z);
        put_stars(w, e, b);
        close_object(w, "}");
        close_object(w, "}");
    }
    close_object(w, "]");
}

/* What is unlike the cohort in a cut. */
static const char *outlier_name(int outlier)
{
    static const char *const names[4] = {"", "place in the head", "number of slices",
                                         "place in the head, number of slices"};
    return names[outlier & 3];
}

/* manifest.json: what was run on whom, by which build, and where each scan was cut. */
static qnet_status report_manifest(const qnet_experiment *e, qnet_buffer *json)
{
    writer own = writer_begin(e->ctx, json, "null", 0), *w = &own;
    char build[256];
    qnet_describe_build(e->ctx, build, sizeof build);
    open_object(w, "", "{");
    put_members(w, "version %s; build %s; cpu %s; data %s; out %s; initial_weights %s; "
                   "seconds_of_training %g",
                QNET_VERSION, build, qnet_cpu_name(qnet_context_cpu(e->ctx)), e->data, e->out,
                e->weights, e->seconds);
    put_dataset_members(w, e);
    open_object(w, "hashes", "{");
    for (int input = 0; input < 2; input++) {
        const unsigned long long hash = e->cohort_hash[input], run = e->run[input];
        if (!has_input(e, input)) continue;
        if (input == QNET_INPUT_CROP) put_members(w, "cohort_crop \"%016llx\"", hash);
        else put_members(w, "cohort_full \"%016llx\"", hash);
        if (input == QNET_INPUT_CROP) put_members(w, "run_crop \"%016llx\"", run);
        else put_members(w, "run_full \"%016llx\"", run);
    }
    if (e->weights[0])
        put_members(w, "initial_weights \"%016llx\"", (unsigned long long)e->weights_hash);
    close_object(w, "}");
    put_settings(w, e);
    put_left_out(w, e);
    open_object(w, "scans", "[");
    for (int i = 0; i < e->participants_count; i++) {
        const qnet_participant *p = &e->participants[i];
        put_members(w, " {\"subject\": %s, \"session\": %s, \"group\": %s, ", p->subject, p->session,
                    group_tag(e, p->true_label == QNET_HH));
        if (e->config.shuffle_labels)
            print(w, "\"shuffled_group\": \"%s\", ", group_tag(e, p->label == QNET_HH));
        print(w, "\"sex\": \"%s\", \"age\": %g, \"slices\": %d, \"fold\": %d}",
              p->sex == QNET_MALE ? "M" : p->sex == QNET_FEMALE ? "F" : "", p->age,
              p->slices, e->fold[i] + 1);
    }
    close_object(w, "]");
    for (int input = 0; input < 2; input++) {
        if (!has_input(e, input)) continue;
        open_object(w, input == QNET_INPUT_CROP ? "cut_crop" : "cut_full", "[");
        for (int i = 0; i < e->participants_count; i++) {
            const qnet_cut *c = &e->participants[i].cut[input];
            put_members(w, " {\"subject\": %s, \"slices\": [%d, %d], \"center_voxel\": [%g, %g], "
                           "\"center_mm\": [%g, %g, %g], \"side_mm\": %g, \"mask_voxels\": %d, "
                           "\"mask_left_out\": %d, \"located\": %d, \"confidence\": %g, "
                           "\"outlier\": %s}",
                        e->participants[i].subject, c->slice[0], c->slice[1], c->center[0],
                        c->center[1], c->center_mm[0], c->center_mm[1], c->center_mm[2],
                        c->side_mm, c->mask_voxels, c->mask_left_out, c->located, c->confidence,
                        outlier_name(c->outlier));
        }
        close_object(w, "]");
    }
    close_object(w, "}");
    return writer_end(w);
}

#endif
