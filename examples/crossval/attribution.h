/* What the networks' decisions rest on, in HTML: Q-Net's scans, slice by slice, and the paper's Fig. 9 and 10. */
#ifndef CROSSVAL_ATTRIBUTION_H
#define CROSSVAL_ATTRIBUTION_H
#include "heat.h"
#include "results.h"

/* "sub-01, HH" of a picture. */
static void put_scan_name(writer *w, const qnet_experiment *e, const cam_picture *c)
{
    const qnet_participant *s = &e->participants[c->scan];
    put_scan_of(w, s);
    print(w, ", %s%s", e->config.shuffle_labels ? "shuffled label " : "", group_tag(e, s->label == QNET_HH));
}

/* What stands under a picture. */
static void put_scan_caption(writer *w, const qnet_experiment *e, const cam_picture *c, const char *of)
{
    const int wrong = (c->probability > 0.5) != (e->participants[c->scan].label == QNET_HH);
    put(w, "<figcaption><b>");
    put_scan_name(w, e, c);
    print(w, "</b>: P(%s)&nbsp;%.2f%s%s", group_tag(e, 1), c->probability, of,
          wrong ? " <strong class=\"wrong\">&#x2717; wrong</strong>" : "");
    put(w, "</figcaption>");
}

/* The same as text[NAME_SIZE], HTML already, for attributes. */
#define NAME_SIZE 480
static void scan_name(writer *w, const qnet_experiment *e, const cam_picture *c, char *text)
{
    qnet_buffer name;
    writer own;
    memset(&name, 0, sizeof name);
    own = writer_begin(w->ctx, &name, "", 1);
    put_scan_name(&own, e, c);
    if (w->status == QNET_OK) w->status = own.status;
    snprintf(text, NAME_SIZE, "%s", own.status == QNET_OK ? (const char *)name.bytes : "");
    qnet_buffer_free(w->ctx, &name);
}

/* Q-Net's own maps. */
static void figure_scans(writer *w, const qnet_experiment *e, const pictures *p, int input)
{
    char name[NAME_SIZE], id[40];
    if (p->scans[input] == 0) return;
    print(w, "<figure class=\"long\"><h3>Q-Net, whole scans: %s</h3>\n", input_title(input));
    put_heat_scales(w, p->scan[input][0].heat.channel, 1, group_tag(e, 1), group_tag(e, 0));
    put(w, "<div class=\"cams\">\n");
    for (int i = 0; i < p->scans[input]; i++) {
        const cam_picture *c = &p->scan[input][i];
        char odds[NUMBER_SIZE], all[NUMBER_SIZE], of[120];
        double sum = 0;
        scan_name(w, e, c, name);
        snprintf(id, sizeof id, "scan-%d-%d", input, i + 1);
        print(w, "<figure class=\"cam\" id=\"heat-%d-%d\">", input, c->scan + 1); /* the subjects' table links here */
        for (int t = 0; t < c->heat.slices; t++) sum += c->heat.contribution[t];
        snprintf(of, sizeof of, ", log odds %s; contributions add up to %s",
                 fixed_text(odds, log(c->probability / (1 - c->probability)), 2), fixed_text(all, sum, 2));
        put_scan_caption(w, e, c, of);
        put_heat_scan(w, &c->heat, id, name, group_tag(e, 1), group_tag(e, 0));
        put(w, "</figure>\n");
    }
    print(w, "</div><figcaption>Q-Net's decision on whole scans, by the networks of the fold that never saw the "
             "subject. Each row of pictures: the %s slice; its map of %d &times; %d cells of 32 pixels; the map, "
             "interpolated, over the slice, without the air. A slice's contribution is the sum of gradient times "
             "features over its 512 features, the gradient that of the scan's logit (log odds of %s) through the "
             "BiLSTM; its map tells the places of the slice that it comes from (Grad-CAM, but with both signs), "
             "and the map's mean is the contribution. Colours are by the strongest cell of the scan, so they "
             "compare slices of a scan, not scans. Bars: contributions of all slices. They are of first order and "
             "need not add up to the log odds. The patient's right is at the left; z is that of the scanner's "
             "world. Shown are the first scans of each group that Q-Net classified correctly and, where there is "
             "one, the first that it did not.</figcaption></figure>\n",
          heat_windows[p->scan[input][0].heat.channel].name, p->scan[input][0].heat.rows,
          p->scan[input][0].heat.columns, group_tag(e, 1));
}

/* Fig. 9 (full size), Fig. 10 (cropped). */
static void figure_cams(writer *w, const qnet_experiment *e, const pictures *p, int input)
{
    char name[NAME_SIZE], id[40], alt[NAME_SIZE + 120], number[NUMBER_SIZE];
    double in_air = 0;
    if (p->cams[input] == 0) return;
    print(w, "<figure class=\"long\"><h3>ResNetSWA, single slices: %s</h3>\n", input_title(input));
    put(w, "<div class=\"cams\">\n");
    for (int i = 0; i < p->cams[input]; i++) {
        const cam_picture *c = &p->cam[input][i];
        const heat_scan *h = &c->heat;
        const heat_map map = { h->grey, h->air, h->cells, h->side, h->rows, h->columns, 0 };
        const char *z = fixed_text(number, h->z_mm[0], 1);
        char of[96];
        scan_name(w, e, c, name);
        snprintf(id, sizeof id, "cam-%d-%d", input, i + 1);
        snprintf(alt, sizeof alt, "%s, slice %d at z %s mm: %s, map of %d x %d cells, map over it", name,
                 c->slice + 1, z, heat_windows[h->channel].name, h->rows, h->columns);
        snprintf(of, sizeof of, ", slice %d, z&nbsp;=&nbsp;%s&nbsp;mm", c->slice + 1, z);
        put(w, "<figure class=\"cam\">");
        put_heat(w, &map, id, "", alt);
        put_scan_caption(w, e, c, of);
        put(w, "</figure>\n");
        in_air += heat_in_air(h->cells, h->rows, h->columns, h->air, h->side) / p->cams[input];
    }
    print(w, "</div><figcaption><b>Fig. %d.</b> Class activation maps by the image-level network (ResNetSWA) of "
             "the fold that never saw the subject, for the class that it chose (%s where its P(%s) of this slice "
             "is above .5). Left the %s slice, in the middle the map at its true resolution, %d &times; %d cells "
             "of 32 pixels, right the map, interpolated, over the slice, without the air, in which %.0f %% of the "
             "maps lie. Each map is scaled to its own range, so colours compare places within a slice, not "
             "subjects. Slices count from 1 at the bottom of those used; the patient's right is at the left. Shown "
             "are the middle slices of each group's first scans that Q-Net classified correctly, of others only "
             "where these are too few.</figcaption></figure>\n",
          input == QNET_INPUT_FULL ? 9 : 10, group_tag(e, 1), group_tag(e, 1),
          heat_windows[p->cam[input][0].heat.channel].name, p->cam[input][0].heat.rows,
          p->cam[input][0].heat.columns, 100 * in_air);
}

/* The section of both. */
static void html_attribution(writer *w, const qnet_experiment *e, const pictures *p)
{
    if (p->cams[0] + p->cams[1] == 0) return;
    put(w, "<h2>Heat maps</h2>\n<p>The maps tell which places of a network's last layer add to a score. They do not "
           "tell why, nor that the decision is right; a cell sees more of the image than it covers, and maps of "
           "networks that learned nothing can look as convincing (Adebayo et al. 2018).</p>\n");
    figure_scans(w, e, p, QNET_INPUT_CROP);
    figure_scans(w, e, p, QNET_INPUT_FULL);
    put_heat_scales(w, heat_channel(e->config.input[main_input(e)].use_channel), 0, "", "");
    figure_cams(w, e, p, QNET_INPUT_FULL);
    figure_cams(w, e, p, QNET_INPUT_CROP);
}

#endif
