/* quality.h: one page for each session, to see at a glance whether its maps can be used: three planes of
   every map, the masks, means by region and what was done to what. The maps' axes are RAS here. */
#ifndef QUALITY_H
#define QUALITY_H
#include "examples/crossval/style.h"
#include "examples/crossval/svg.h"
#include "find.h"

#define PLANE_SIDE 256   /* pixels: of the longer side of a plane */
#define PLANE_GAP 6
#define PLANE_MARGIN 8.0 /* mm around the brain */
#define LABELS_MOST 256

typedef struct quality {
    const session *s;
    const qnet_maps *maps;
    const qnet_maps_config *config;
    const char *dataset, *mask, *warnings; /* mask "": BET's; warnings: lines */
    int sign, sign_given;                  /* sign_given: 1 by the user, 0 by the sidecars, -1 assumed */
    uint64_t hash;                         /* of the inputs */
    const qnet_volume *ganglia, *labels;   /* NULL: none; on the maps' grid */
    const char *ganglia_path, *labels_path;
    char (*label_name)[64];                /* [LABELS_MOST]; NULL: numbers */
} quality;

/* ---- Numbers --------------------------------------------------------------------------------- */

static size_t voxels_of(const qnet_volume *v)
{
    return (size_t)v->nx * (size_t)v->ny * (size_t)v->nz;
}

typedef struct moments { size_t n; double mean, sd; } moments;

/* Of the voxels of a map in a mask (label 0) or of a label in it, and in `within` (NULL: everywhere). */
static moments moments_of(const qnet_volume *map, const qnet_volume *mask, int label,
                          const qnet_volume *within)
{
    moments m = {0, (double)NAN, (double)NAN};
    double sum = 0, squares = 0;
    for (int pass = 0; pass < 2; pass++) {
        m.n = 0;
        for (size_t i = 0; i < voxels_of(map); i++) {
            const float inside = mask->voxels[i];
            if (label ? (int)inside != label : !(inside > 0)) continue;
            if (within && !(within->voxels[i] > 0)) continue;
            if (pass == 0) sum += (double)map->voxels[i];
            else squares += ((double)map->voxels[i] - m.mean) * ((double)map->voxels[i] - m.mean);
            m.n++;
        }
        if (pass == 0 && m.n > 0) m.mean = sum / (double)m.n;
    }
    if (m.n > 1) m.sd = sqrt(squares / (double)(m.n - 1));
    return m;
}

/* The value below which this share of a map's voxels in a mask lies, to 1/4000 of their range. */
static double quantile_of(const qnet_volume *map, const qnet_volume *mask, double share)
{
    enum { BINS = 4000 };
    size_t count[BINS + 1] = {0}, n = 0, below = 0;
    double low = HUGE_VAL, high = -HUGE_VAL;
    int k = 0;
    for (size_t i = 0; i < voxels_of(map); i++) {
        if (!(mask->voxels[i] > 0)) continue;
        low = fmin(low, (double)map->voxels[i]);
        high = fmax(high, (double)map->voxels[i]);
        n++;
    }
    if (n == 0 || !(high > low)) return n > 0 ? high : 1;
    for (size_t i = 0; i < voxels_of(map); i++)
        if (mask->voxels[i] > 0) count[(int)(((double)map->voxels[i] - low) / (high - low) * BINS)]++;
    for (k = 0; k < BINS && (double)(below += count[k]) < share * (double)n;) k++;
    return low + (k + 1) * (high - low) / BINS;
}

static double millilitres(const qnet_volume *mask)
{
    size_t n = 0;
    for (size_t i = 0; i < voxels_of(mask); i++) n += mask->voxels[i] > 0;
    return (double)n * mask->spacing[0] * mask->spacing[1] * mask->spacing[2] / 1000;
}

/* How far, in ppm, the susceptibility of the 2 % of the voxels with the highest R2* lies above that of all:
   iron and venous blood have both, so below 0 the sign of the phase is the wrong one. */
static double sign_check(const qnet_maps *maps)
{
    const double limit = quantile_of(maps->r2star, maps->qsm_mask, .98);
    double sum = 0, n = 0;
    for (size_t i = 0; i < voxels_of(maps->qsm); i++) {
        if (!(maps->qsm_mask->voxels[i] > 0) || !((double)maps->r2star->voxels[i] >= limit)) continue;
        sum += (double)maps->qsm->voxels[i];
        n++;
    }
    return n > 0 ? sum / n - moments_of(maps->qsm, maps->qsm_mask, 0, NULL).mean : (double)NAN;
}

/* ---- Pictures -------------------------------------------------------------------------------- */

/* What the planes show: a box around the brain, in voxels, and the voxel that all three go through. */
typedef struct view {
    int low[3], high[3], centre[3];
    double mm; /* per pixel */
} view;

/* The box of the brain with a margin; through the centre of mass of `middle`. */
static view view_of(const qnet_volume *brain, const qnet_volume *middle)
{
    const int size[3] = {brain->nx, brain->ny, brain->nz};
    double sum[3] = {0, 0, 0}, n = 0, longest = 1;
    size_t i = 0;
    int at[3];
    view v;
    for (int d = 0; d < 3; d++) {
        v.low[d] = size[d];
        v.high[d] = -1;
    }
    for (at[2] = 0; at[2] < size[2]; at[2]++)
        for (at[1] = 0; at[1] < size[1]; at[1]++)
            for (at[0] = 0; at[0] < size[0]; at[0]++, i++)
                for (int d = 0; d < 3; d++) {
                    if (brain->voxels[i] > 0 && at[d] < v.low[d]) v.low[d] = at[d];
                    if (brain->voxels[i] > 0 && at[d] > v.high[d]) v.high[d] = at[d];
                    if (!(middle->voxels[i] > 0)) continue;
                    sum[d] += at[d];
                    n += d == 0;
                }
    for (int d = 0; d < 3; d++) {
        const int margin = (int)ceil(PLANE_MARGIN / brain->spacing[d]);
        v.low[d] = v.low[d] - margin > 0 ? v.low[d] - margin : 0;
        v.high[d] = v.high[d] + margin < size[d] - 1 ? v.high[d] + margin : size[d] - 1;
        v.centre[d] = n > 0 ? (int)(sum[d] / n + .5) : size[d] / 2;
        longest = fmax(longest, (v.high[d] - v.low[d] + 1) * brain->spacing[d]);
    }
    v.mm = longest / PLANE_SIDE;
    return v;
}

static int pixels_along(const view *v, const qnet_volume *map, int axis)
{
    const int n = (int)((v->high[axis] - v->low[axis] + 1) * map->spacing[axis] / v->mm);
    return n > 1 ? n : 1;
}

/* The value at a place between voxels of one plane, by linear interpolation. */
static double between(const qnet_volume *map, const double place[3])
{
    const int size[3] = {map->nx, map->ny, map->nz};
    const size_t stride[3] = {1, (size_t)map->nx, (size_t)map->nx * (size_t)map->ny};
    double value = 0;
    for (int corner = 0; corner < 8; corner++) {
        double weight = 1;
        size_t index = 0;
        for (int d = 0; d < 3; d++) {
            const double p = fmin(fmax(place[d], 0), size[d] - 1), whole_part = floor(p);
            const int up = corner >> d & 1, at = (int)whole_part + up;
            weight *= up ? p - whole_part : 1 - (p - whole_part);
            index += stride[d] * (size_t)(at < size[d] ? at : size[d] - 1);
        }
        if (weight > 0) value += weight * (double)map->voxels[index];
    }
    return value;
}

static int in_mask(const qnet_volume *mask, const double place[3])
{
    const int x = (int)floor(place[0] + .5), y = (int)floor(place[1] + .5), z = (int)floor(place[2] + .5);
    if (x < 0 || x >= mask->nx || y < 0 || y >= mask->ny || z < 0 || z >= mask->nz) return 0;
    return mask->voxels[((size_t)z * (size_t)mask->ny + (size_t)y) * (size_t)mask->nx + (size_t)x] > 0;
}

/* Draws one plane into rgb, whose rows have `width` pixels, from column `left` on: the axial, coronal or
   sagittal one (across: its axes, to the right and down), seen from below, from the front, from the
   patient's left. Outside of `within` (NULL: nowhere) it is black; the rims of up to three masks lie over
   it. */
static void draw_plane(const view *v, const qnet_volume *map, double low, double high,
                       const qnet_volume *within, const qnet_volume *const rim[3], const int across[2],
                       int left, int width, uint8_t *rgb)
{
    static const uint8_t colour[3][3] = {{86, 180, 233}, {230, 159, 0}, {240, 228, 66}};
    const int columns = pixels_along(v, map, across[0]), rows = pixels_along(v, map, across[1]);
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < columns; column++) {
            uint8_t *pixel = rgb + 3 * ((size_t)row * (size_t)width + (size_t)(left + column));
            double place[3], beside[3], grey;
            for (int d = 0; d < 3; d++) place[d] = v->centre[d];
            for (int k = 0; k < 2; k++)
                place[across[k]] = v->high[across[k]] + .5 -
                                   ((k ? row : column) + .5) * v->mm / map->spacing[across[k]];
            if (within && !in_mask(within, place)) continue;
            grey = fmin(fmax((between(map, place) - low) / (high - low), 0), 1);
            memset(pixel, (int)(grey * 255 + .5), 3);
            for (int m = 0; m < 3; m++) {
                int edge = 0;
                if (rim[m] == NULL || !in_mask(rim[m], place)) continue;
                for (int k = 0; k < 4; k++) {
                    const int axis = across[k / 2];
                    memcpy(beside, place, sizeof beside);
                    beside[axis] += (k % 2 ? 1 : -1) * v->mm / map->spacing[axis];
                    edge |= !in_mask(rim[m], beside);
                }
                if (edge) memcpy(pixel, colour[m], 3);
            }
        }
}

/* A letter of 10 x 14 pixels at a place of rgb, white; of 5 x 7 dots, a bit each from the left. */
static void draw_letter(char letter, int left, int top, int width, uint8_t *rgb)
{
    static const uint8_t dots[2][7] = {{16, 16, 16, 16, 16, 16, 31}, {30, 17, 17, 30, 20, 18, 17}};
    for (int y = 0; y < 14; y++)
        for (int x = 0; x < 10; x++)
            if (dots[letter == 'R'][y / 2] >> (4 - x / 2) & 1)
                memset(rgb + 3 * ((size_t)(top + y) * (size_t)width + (size_t)(left + x)), 255, 3);
}

/* <figure> with the three planes of a map. */
static void put_planes(writer *w, const view *v, const qnet_volume *map, double low, double high,
                       const qnet_volume *within, const qnet_volume *const rim[3], const char *name,
                       const char *caption)
{
    static const int across[3][2] = {{0, 1}, {0, 2}, {1, 2}};
    int width = -PLANE_GAP, height = 0, left = 0;
    uint8_t *rgb;
    if (w->status != QNET_OK) return;
    for (int k = 0; k < 3; k++) {
        const int rows = pixels_along(v, map, across[k][1]);
        width += pixels_along(v, map, across[k][0]) + PLANE_GAP;
        height = rows > height ? rows : height;
    }
    rgb = (uint8_t *)calloc((size_t)width * (size_t)height, 3);
    if (rgb == NULL) {
        w->status = QNET_ERROR_MEMORY;
        return;
    }
    for (int k = 0; k < 3; k++) {
        const int shift = (height - pixels_along(v, map, across[k][1])) / 2;
        draw_plane(v, map, low, high, within, rim, across[k], left, width,
                   rgb + 3 * (size_t)shift * (size_t)width);
        if (k < 2 && pixels_along(v, map, across[k][0]) > 40 && height > 40) {
            draw_letter('R', left + 4, shift + 4, width, rgb);
            draw_letter('L', left + pixels_along(v, map, across[k][0]) - 14, shift + 4, width, rgb);
        }
        left += pixels_along(v, map, across[k][0]) + PLANE_GAP;
    }
    put(w, "<figure><div class=\"scroll sheet\">");
    put_image(w, rgb, width, height, name);
    print(w, "</div><figcaption><b>%s</b> %s</figcaption></figure>\n", name, caption);
    free(rgb);
}

static void put_maps(writer *w, const quality *q)
{
    static const qnet_volume *const none[3] = {NULL, NULL, NULL};
    const qnet_volume *const rims[3] = {q->maps->mask, q->maps->qsm_mask, q->ganglia};
    const qnet_maps *m = q->maps;
    const view v = view_of(m->mask, q->ganglia ? q->ganglia : m->mask);
    char text[200];
    put(w, "<h2>Maps</h2>\n<p>An axial, a coronal and a sagittal plane");
    put(w, q->ganglia ? " through the basal ganglia" : " through the middle of the brain");
    put(w, "; the patient's right is on the left of the first two.</p>\n");
    put_planes(w, &v, m->qsm, -.15, .15, m->qsm_mask, none, "QSM", "&minus;0.15 (black) to 0.15 ppm (white). "
               "Deep grey nuclei and veins are bright, white matter is darker; streaks or a dark rim mean "
               "trouble, stripes or a checkerboard that --mode consensus suits better.");
    put_planes(w, &v, m->r2star, 0, 60, NULL, none, "R2*", "0 to 60 1/s. Bright: iron, veins, and tissue near "
               "air, where the field is uneven.");
    put_planes(w, &v, m->t1w, 0, 1.2 * quantile_of(m->t1w, m->mask, .98), NULL, rims, "T1W and masks",
               q->ganglia ? "Blue: the brain. Orange: where QSM is known. Yellow: the basal ganglia."
                          : "Blue: the brain. Orange: where QSM is known.");
    if (m->t1)
        put_planes(w, &v, m->t1, 0, 3, NULL, none, "T1", "0 to 3 s.");
    if (m->m0) {
        const double top = 1.1 * quantile_of(m->m0, m->mask, .98);
        snprintf(text, sizeof text, "0 to %.0f, in the scanner's unit.", top);
        put_planes(w, &v, m->m0, 0, top, NULL, none, "M0", text);
    }
}

/* ---- The page -------------------------------------------------------------------------------- */

static void put_tile(writer *w, const char *value, const char *name, const char *note)
{
    print(w, "<div class=\"tile\"><b>%s</b><span>%s</span><span>%s</span></div>\n", value, name, note);
}

static void put_tiles(writer *w, const quality *q)
{
    char text[64], note[64];
    const double brain = millilitres(q->maps->mask), known = millilitres(q->maps->qsm_mask);
    const double check = sign_check(q->maps);
    const moments r2star = moments_of(q->maps->r2star, q->maps->mask, 0, NULL);
    put(w, "<div class=\"tiles\">\n");
    snprintf(text, sizeof text, "%.0f&thinsp;ml", brain);
    put_tile(w, text, "brain mask", q->mask[0] ? "given" : "made here, eroded");
    snprintf(text, sizeof text, "%.0f&thinsp;%%", brain > 0 ? 100 * known / brain : 0);
    put_tile(w, text, "of it with QSM", "the rim is lost to SHARP");
    snprintf(text, sizeof text, "%.1f&thinsp;1/s", r2star.mean);
    put_tile(w, text, "mean R2*", "of the brain mask");
    snprintf(note, sizeof note, "%+.3f&thinsp;ppm where R2* is highest", check);
    put_tile(w, check > 0 ? "as expected" : "reversed?", "sign of the phase", note);
    put(w, "</div>\n");
}

static void put_region(writer *w, const quality *q, const char *name, const qnet_volume *mask, int label)
{
    const qnet_maps *m = q->maps;
    const moments chi = moments_of(m->qsm, mask, label, m->qsm_mask);
    const moments r2star = moments_of(m->r2star, mask, label, m->mask);
    const moments all = moments_of(mask, mask, label, NULL);
    if (all.n == 0) return;
    put(w, "<tr><td>");
    put_escaped(w, name);
    put(w, "</td>");
    cells(w, "td", ">%.1f|>%.3f &plusmn; %.3f|>%.1f &plusmn; %.1f",
          (double)all.n * mask->spacing[0] * mask->spacing[1] * mask->spacing[2] / 1000,
          fabs(chi.mean) < .0005 ? 0 : chi.mean /* no "-0.000" */, chi.sd, r2star.mean, r2star.sd);
    if (m->t1) {
        const moments t1 = moments_of(m->t1, mask, label, m->mask);
        cells(w, "td", ">%.2f &plusmn; %.2f", t1.mean, t1.sd);
    }
    put(w, "</tr>\n");
}

static void put_regions(writer *w, const quality *q)
{
    int named = 0;
    put(w, "<h2>Regions</h2>\n<p>Mean &plusmn; standard deviation over voxels of the region inside the "
           "brain mask, of QSM inside its own mask; ml are of the whole region. QSM is relative to its mean "
           "over the brain: compare differences.</p>\n<div class=\"scroll\"><table><thead><tr>");
    cells(w, "th", "Region|>ml, whole|>QSM, ppm|>R2*, 1/s");
    if (q->maps->t1) cells(w, "th", ">T1, s");
    put(w, "</tr></thead><tbody>\n");
    put_region(w, q, "Brain", q->maps->mask, 0);
    if (q->ganglia) put_region(w, q, "Basal ganglia", q->ganglia, 0);
    for (int label = 1; q->labels && label < LABELS_MOST; label++) {
        char name[80];
        if (q->label_name && q->label_name[label][0]) strcpy(name, q->label_name[label]);
        else snprintf(name, sizeof name, "Label %d", label);
        named |= q->label_name && q->label_name[label][0];
        put_region(w, q, name, q->labels, label);
    }
    put(w, "</tbody></table></div>\n");
    if (q->labels && !named)
        put(w, "<p class=\"small\">A dseg.tsv (index, name) at the top of the labels' folder would name "
               "them.</p>\n");
}

/* The numbers that made the maps: a table of the page, or members of an object in JSON. */
static void put_settings(writer *w, const qnet_maps_config *c, const char *mask, int sign)
{
    const qnet_susceptibility_config *x = &c->susceptibility;
    open_object(w, w->html ? "settings" : "Settings", "{");
    put_members(w, "version %s; mode %s; phase_sign %d; mask %s; first_echo %d; last_echo %d",
                QNET_VERSION, c->mode == QNET_MAPS_PAPER ? "paper" : "consensus", sign,
                mask[0] ? mask : "auto", c->first_echo, c->last_echo);
    put_members(w, "brain_threshold %g; brain_erode %d; brain_island %d; brain_echo %d",
                c->brain.threshold, c->brain.erode, c->brain.island, c->brain_echo);
    put_members(w, "background %s; sharp_threshold %g; sharp_radius %g; sharp_unit %s; tkd_threshold %g; "
                   "iteration_threshold %g; iterations %d; roll_off %g; mean_zero %d",
                x->background == QNET_SHARP ? "SHARP" : "V-SHARP", x->sharp_threshold, x->sharp_radius,
                x->sharp_unit == QNET_RADIUS_MM ? "mm" : "voxels", x->tkd_threshold,
                x->iteration_threshold, x->iterations, x->roll_off, x->mean_zero);
    put_members(w, "r2star %s", c->r2star == QNET_R2STAR_AUTO   ? "auto"
                                : c->r2star == QNET_R2STAR_ARLO ? "ARLO" : "log-linear");
    close_object(w, "}");
}

static void put_flip(writer *w, const acquisition *a)
{
    const sidecar *f = &a->echo[0].facts;
    for (int e = 0; e < a->count; e++) {
        put(w, "<tr><td>");
        put_escaped(w, a->echo[e].name);
        put(w, "</td>");
        cells(w, "td", ">%.2f|>%.1f|>%.2f|>%.1f", 1000 * a->echo[e].facts.echo_time,
              1000 * f->repetition_time, f->field_strength, f->flip_angle);
        put(w, "</tr>\n");
    }
}

static void put_record(writer *w, const quality *q)
{
    char build[256];
    const char *const paths[3] = {q->mask, q->ganglia_path, q->labels_path};
    static const char *const names[3] = {"Brain mask", "Basal ganglia", "Labels"};
    qnet_describe_build(w->ctx, build, sizeof build);
    put(w, "<h2>Record</h2>\n<div class=\"scroll\"><table><thead><tr>");
    cells(w, "th", "Images|>TE, ms|>TR, ms|>Field, T|>Flip angle, degrees");
    put(w, "</tr></thead><tbody>\n");
    put_flip(w, q->s->first);
    if (q->s->second) put_flip(w, q->s->second);
    put(w, "</tbody></table></div>\n<div class=\"scroll\"><table><tbody>\n<tr><td>Folder</td><td "
           "class=\"wrap\">");
    put_escaped(w, q->s->folder);
    put(w, "</td></tr>\n");
    for (int k = 0; k < 3; k++) {
        if (!paths[k] || !paths[k][0]) continue;
        print(w, "<tr><td>%s</td><td class=\"wrap\">", names[k]);
        put_escaped(w, paths[k]);
        put(w, "</td></tr>\n");
    }
    put(w, "<tr><td>Scanner</td><td>");
    put_escaped(w, q->s->first->echo[0].facts.manufacturer[0] ? q->s->first->echo[0].facts.manufacturer
                                                              : "not named");
    print(w, "; phase taken as %s with the field (%s)</td></tr>\n<tr><td>Build</td><td class=\"wrap\">",
          q->sign < 0 ? "falling" : "growing",
          q->sign_given > 0 ? "as asked for" : q->sign_given < 0 ? "assumed" : "by the manufacturer");
    put_escaped(w, build);
    print(w, "</td></tr>\n<tr><td>Hash of inputs and settings</td><td><code>%016llx</code></td></tr>\n"
             "</tbody></table></div>\n<h3>Settings</h3>\n<div class=\"sets\">\n",
          (unsigned long long)q->hash);
    put_settings(w, q->config, q->mask, q->sign);
    put(w, "</div>\n");
}

static void put_warnings(writer *w, const char *lines)
{
    put(w, "<div class=\"care\"><b>Read with care</b><ul>\n");
    while (*lines) {
        char line[1200];
        const size_t n = strcspn(lines, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, lines);
        put(w, "<li>");
        put_escaped(w, line);
        put(w, "</li>\n");
        lines += n + (lines[n] == '\n');
    }
    put(w, "</ul></div>\n");
}

/* The page of a session: one file that needs no other. */
static inline qnet_status quality_page(qnet_context *ctx, const quality *q, qnet_buffer *html)
{
    writer own = writer_begin(ctx, html, "&ndash;", 1), *w = &own;
    const acquisition *a = q->s->first;
    put(w, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
           "content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light "
           "dark\">\n<title>Maps of ");
    put_escaped(w, q->s->name);
    put(w, "</title>\n<style>\n");
    put_css(w);
    put(w, "</style>\n</head>\n<body>\n<main>\n<p class=\"kicker\">Q-Net &middot; quality of maps "
           "&middot; ");
    put_escaped(w, q->dataset[0] ? q->dataset : "data set not named");
    put(w, "</p>\n<h1>");
    put_escaped(w, q->s->name);
    print(w, "</h1>\n<p class=\"verdict\">QSM, R2* and T1W%s from %d echoes of %.1f to %.1f ms%s at %.1f T, "
             "in the %s.</p>\n", q->maps->t1 ? ", T1 and M0" : "", a->count, 1000 * a->echo[0].facts.echo_time,
          1000 * a->echo[a->count - 1].facts.echo_time, q->s->second ? " at two flip angles" : "",
          a->echo[0].facts.field_strength,
          q->config->mode == QNET_MAPS_PAPER ? "paper's way: each echo to susceptibility, then their mean"
                                             : "consensus way: the echoes to one field, then to "
                                               "susceptibility");
    put_tiles(w, q);
    if (q->warnings[0]) put_warnings(w, q->warnings);
    put_maps(w, q);
    put_regions(w, q);
    put_record(w, q);
    print(w, "<p class=\"small\">Written by qnet.h %s. Research software: no basis for the diagnosis of a "
             "patient.</p>\n</main>\n</body>\n</html>\n", QNET_VERSION);
    return writer_end(w);
}
#endif
