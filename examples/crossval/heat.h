/* heat.h: heat maps for people, in HTML: the slice in its unit, the map at its true resolution, and the map over
   the slice without the air around the head; and what Q-Net's decision on a whole scan rests on, slice by
   slice. It needs writer.h, svg.h and viridis.h only, and put_heat_css in the page's style. */
#ifndef HEAT_H
#define HEAT_H
#include "../viridis.h"
#include "svg.h"

/* What is black and what is white, by channel; the same for all scans, so that greys compare between subjects,
   but of T1W, which has no unit: there 1 is the mean of the slice's pixels above 0. */
static const struct heat_window { const char *name; double low, high; const char *low_text, *high_text; }
    heat_windows[3] = { { "QSM", -0.15, 0.3, "-0.15", "0.30 ppm" }, { "R2*", 0, 80, "0", "80 1/s" },
                        { "T1W", 0, 2, "0", "2 x mean" } };

/* What pictures show of the channels that the networks were given. */
static inline int heat_channel(const int use_channel[3])
{
    return use_channel[0] ? 0 : use_channel[1] ? 1 : 2;
}

#define HEAT_SIDE 128 /* a picture's side at most; 32 greys: a page of many slices stays small */
#define HEAT_FINER 4  /* the smooth map has this many pixels for each of its cells: the browser does the rest */

/* For and against, the colours of both groups everywhere on the page (style.h: --hh and --hc). */
static const uint8_t heat_colour[2][3] = { { 0x5b, 0x94, 0xe8 }, { 0xd5, 0x5e, 0x00 } };

/* ---- Slices ------------------------------------------------------------------------------------ */

static inline int heat_side(int size)
{
    return size < HEAT_SIDE ? size : HEAT_SIDE;
}

/* Mean of one channel over the pixels of the central size x size of pixels[in][in][3] that are under pixel
   (y, x) of a picture of heat_side(size). */
static double heat_mean(const float *pixels, int in, int size, int y, int x, int channel)
{
    const int side = heat_side(size), first = (in - size) / 2;
    double sum = 0;
    int n = 0;
    for (int i = y * size / side; i < ((y + 1) * size + side - 1) / side; i++)
        for (int j = x * size / side; j < ((x + 1) * size + side - 1) / side; j++, n++)
            sum += (double)pixels[3 * ((size_t)(first + i) * (size_t)in + (size_t)(first + j)) + (size_t)channel];
    return sum / n;
}

/* From the first to the last pixel or back: air spreads to candidates (2) beside it; whether any changed. */
static int heat_spread(uint8_t *air, int side, int back)
{
    int changed = 0;
    for (int k = 0; k < side * side; k++) {
        const int i = back ? side * side - 1 - k : k, y = i / side, x = i % side;
        const int edge = y == 0 || x == 0 || y == side - 1 || x == side - 1;
        if (air[i] == 2 && (edge || air[i - side] == 1 || air[i + side] == 1 || air[i - 1] == 1 || air[i + 1] == 1))
            air[i] = 1, changed = 1;
    }
    return changed;
}

/* The picture of a channel of a slice pixels[in][in][3] (QSM, R2*, T1W before stretching) as a network of
   size x size sees it: grey[side][side], and air[side][side], 1 outside of the head: what is dark in T1W, at
   most .3 of the mean of what is not 0, and joined to the edge. Without T1W: what is 0 in both other maps. */
static inline void heat_slice(const float *pixels, int in, int size, int channel, uint8_t *grey, uint8_t *air)
{
    const struct heat_window *window = &heat_windows[channel];
    const int side = heat_side(size);
    double sum = 0, n = 0, limit, one;
    for (int i = 0; i < in * in; i++) {
        sum += pixels[3 * i + 2] > 0 ? (double)pixels[3 * i + 2] : 0;
        n += pixels[3 * i + 2] > 0;
    }
    limit = n > 0 ? 0.3 * sum / n : 0;
    one = channel == 2 && n > 0 ? sum / n : 1;
    for (int i = 0; i < side * side; i++) {
        double v[3];
        for (int c = 0; c < 3; c++) v[c] = heat_mean(pixels, in, size, i / side, i % side, c);
        air[i] = (n > 0 ? v[2] <= limit : v[0] == 0 && v[1] == 0) ? 2 : 0;
        v[0] = (v[channel] / one - window->low) / (window->high - window->low);
        grey[i] = (uint8_t)((int)(31 * (v[0] > 0 ? v[0] < 1 ? v[0] : 1 : 0) + 0.5) * 255 / 31);
    }
    while (heat_spread(air, side, 0) && heat_spread(air, side, 1)) continue;
    for (int i = 0; i < side * side; i++) {
        air[i] = air[i] == 1;
        if (air[i]) grey[i] = 0;
    }
}

/* The share of a map cells[rows][columns], without signs, that lies in air: evidence of nothing in the head. */
static inline double heat_in_air(const float *cells, int rows, int columns, const uint8_t *air, int side)
{
    double inside = 0, all = 0;
    for (int i = 0; i < side * side; i++) {
        const double v = fabs((double)cells[i / side * rows / side * columns + i % side * columns / side]);
        all += v;
        inside += air[i] ? v : 0;
    }
    return all > 0 ? inside / all : 0;
}

/* ---- Maps -------------------------------------------------------------------------------------- */

/* A slice and its map, as above. */
typedef struct heat_map {
    const uint8_t *grey, *air; /* [side][side] */
    const float *cells;        /* [rows][columns]: 0..1, or -1 (against) .. 1 (for) */
    int side, rows, columns, is_signed;
} heat_map;

/* <image> of 100 x 100 at x, with pixels[height][width][channels] inside; style: its other attributes. */
static void heat_image(writer *w, int x, const char *style, const uint8_t *pixels, int width, int height,
                       int channels)
{
    print(w, "<image x=\"%d\" width=\"100\" height=\"100\" preserveAspectRatio=\"none\" %s href=\"", x, style);
    put_png(w, pixels, width, height, channels);
    put(w, "\"/>");
}

/* The map in colours, `finer` pixels for each cell: viridis; or, of signed maps, the colour of a group, the
   less opaque the smaller the value is. */
static void heat_cells(writer *w, int x, const char *style, const heat_map *h, int finer)
{
    const int rows = h->rows * finer, columns = h->columns * finer, channels = h->is_signed ? 4 : 3;
    const size_t count = (size_t)rows * (size_t)columns;
    float *value = (float *)malloc(count * sizeof *value);
    uint8_t *pixels = (uint8_t *)malloc(count * 4);
    if (w->status == QNET_OK && (!value || !pixels)) w->status = QNET_ERROR_MEMORY;
    if (w->status == QNET_OK) {
        qnet_image_resize(h->cells, h->rows, h->columns, 1, value, rows, columns);
        for (size_t i = 0; i < count; i++) {
            uint8_t *p = pixels + (size_t)channels * i;
            const double v = (double)value[i], size = fabs(v) < 1 ? fabs(v) : 1;
            if (!h->is_signed) {
                viridis(v, p);
                continue;
            }
            memcpy(p, heat_colour[v > 0], 3);
            p[3] = (uint8_t)(255 * size + 0.5);
        }
        heat_image(w, x, style, pixels, columns, rows, channels);
    }
    free(value);
    free(pixels);
}

/* An <svg> of three panels: the slice, the map's cells, the map over the slice. id: of this page alone;
   alt and style (its class) are HTML already. */
static inline void put_heat(writer *w, const heat_map *h, const char *id, const char *style, const char *alt)
{
    const size_t count = (size_t)h->side * (size_t)h->side;
    uint8_t *air = (uint8_t *)calloc(count, 2); /* grey and alpha */
    int any = 0;
    char slice[64];
    if (w->status == QNET_OK && !air) w->status = QNET_ERROR_MEMORY;
    for (size_t i = 0; air && i < count; i++) any |= air[2 * i + 1] = h->air[i] ? 255 : 0;
    print(w, "<svg class=\"heat %s\" viewBox=\"0 0 312 100\" role=\"img\" aria-label=\"%s\">", style, alt);
    snprintf(slice, sizeof slice, "id=\"%.40s\"", id);
    heat_image(w, 0, slice, h->grey, h->side, h->side, 1);
    heat_cells(w, 106, "class=\"cells\"", h, 1);
    print(w, "\n<use href=\"#%s\" x=\"212\"/>", id);
    heat_cells(w, 212, h->is_signed ? "opacity=\".8\"" : "opacity=\".5\"", h, h->is_signed ? 1 : HEAT_FINER);
    if (any && air) heat_image(w, 212, "", air, h->side, h->side, 2);
    print(w, "<rect class=\"rim\" x=\"106\" width=\"100\" height=\"100\"/>");
    for (int x = 0; x < 300; x += 106) /* the patient's sides */
        print(w, "<text x=\"%d\" y=\"10\"%s>R</text><text x=\"%d\" y=\"10\"%s text-anchor=\"end\">L</text>", x + 3,
              x == 106 && h->is_signed ? " class=\"plain\"" : "", x + 97,
              x == 106 && h->is_signed ? " class=\"plain\"" : "");
    put(w, "</svg>\n");
    free(air);
}

/* The scales of these panels: greys of a channel and colours of the map. The groups' names are HTML already. */
static inline void put_heat_scales(writer *w, int channel, int is_signed, const char *positive, const char *negative)
{
    const struct heat_window *window = &heat_windows[channel];
    const char *id = is_signed ? "scale-signed" : "scale-map";
    put(w, "<div class=\"bar\">");
    svg_open(w, 44, "Scales of the pictures: the slice from black to white, and the map's colours");
    print(w, "<defs><linearGradient id=\"%s\">", id);
    for (int i = 0; i <= 16; i++) {
        const double v = i / 8.0 - 1;
        uint8_t rgb[3];
        char colour[8];
        if (is_signed) memcpy(rgb, heat_colour[v > 0], 3);
        else viridis(i / 16.0, rgb);
        snprintf(colour, sizeof colour, "#%02x%02x%02x", rgb[0], rgb[1], rgb[2]);
        print(w, "<stop offset=\"%.4f\" stop-color=\"%s\" stop-opacity=\"%.3f\"/>", i / 16.0, colour,
              is_signed ? fabs(v) : 1.0);
    }
    print(w, "</linearGradient><linearGradient id=\"%s-grey\"><stop stop-color=\"#000\"/><stop offset=\"1\" "
             "stop-color=\"#fff\"/></linearGradient></defs>\n<rect class=\"rim\" x=\"1\" y=\"2\" width=\"150\" "
             "height=\"16\" fill=\"url(#%s-grey)\"/><rect class=\"rim\" x=\"181\" y=\"2\" width=\"162\" "
             "height=\"16\" fill=\"url(#%s)\"/>\n", id, id, id);
    svg_text(w, "m", "start", 0, 34, "%s", window->low_text);
    if (window->low < 0) svg_text(w, "m", "middle", 1 - 150 * window->low / (window->high - window->low), 34, "0");
    svg_text(w, "m", "end", 152, 34, "%s", window->high_text);
    svg_text(w, "m", "start", 180, 34, is_signed ? "for %s" : "least%s", is_signed ? negative : "");
    if (is_signed) svg_text(w, "m", "middle", 262, 34, "0");
    svg_text(w, "m", "end", 344, 34, is_signed ? "for %s" : "most%s", is_signed ? positive : "");
    put(w, "</svg></div>\n");
}

/* ---- A whole scan ------------------------------------------------------------------------------- */

/* What Q-Net's decision on one scan rests on (qnet_scan_attribution), for the page. Starts from all zero. */
typedef struct heat_scan {
    int slices, side, rows, columns, channel; /* channel: that the slices are pictures of */
    uint8_t *grey, *air;  /* [slices][side][side] */
    float *cells;         /* [slices][rows][columns]: the maps, by the largest value of the scan: -1..1 */
    double *contribution; /* [slices]: for the positive group above 0 */
    double *z_mm;         /* [slices]: the slice's place in the world */
} heat_scan;

static inline void heat_scan_free(heat_scan *h)
{
    free(h->grey);
    free(h->air);
    free(h->cells);
    free(h->contribution);
    free(h->z_mm);
    memset(h, 0, sizeof *h);
}

/* Room for the pictures of `slices` slices of a network of size x size; 0: no memory. */
static int heat_scan_room(heat_scan *h, int slices, int size)
{
    const size_t n = (size_t)slices, cells = (size_t)((size + 31) / 32); /* halved five times, rounded up */
    memset(h, 0, sizeof *h);
    h->slices = slices;
    h->side = heat_side(size);
    h->rows = h->columns = (int)cells;
    h->grey = (uint8_t *)calloc(n, (size_t)h->side * (size_t)h->side);
    h->air = (uint8_t *)calloc(n, (size_t)h->side * (size_t)h->side);
    h->cells = (float *)calloc(n, cells * cells * sizeof(float));
    h->contribution = (double *)calloc(n, sizeof(double));
    h->z_mm = (double *)calloc(n, sizeof(double));
    return h->grey && h->air && h->cells && h->contribution && h->z_mm;
}

/* Where a slice lies in the world, along z in the middle of the image. */
static inline double heat_z_mm(const qnet_scan *scan, int slice)
{
    const qnet_cut *cut = &scan->cut;
    return cut->center_mm[2] + (scan->slice_z[slice] - (cut->slice[0] + cut->slice[1]) / 2.0) * cut->slice_mm;
}

/* The part below with memory: x[net's batch][size][size][3], features and gradient[steps][512]. */
static qnet_status heat_scan_maps(const qnet_cohort *cohort, int s, const qnet_augment_config *augment,
                                  qnet_resnet *net, qnet_scan_model *model, heat_scan *h, qnet_real *x,
                                  qnet_real *features, qnet_real *gradient)
{
    const int size = net->config.height, in = cohort->height;
    const size_t cells = (size_t)h->rows * (size_t)h->columns, pixels = (size_t)h->side * (size_t)h->side;
    const size_t image = (size_t)size * (size_t)size * 3;
    const qnet_augmentation test = qnet_augment_test(in, in, size, size);
    double largest = 0;
    qnet_status status = QNET_OK;
    h->channel = heat_channel(cohort->config.use_channel);
    status = qnet_embed(net, augment, cohort, &s, 1, features, NULL);
    if (status == QNET_OK)
        status = qnet_scan_attribution(model, features, h->slices, gradient, NULL);
    for (int t = 0; t < h->slices && status == QNET_OK; t++) {
        const qnet_real *g = gradient + (size_t)t * QNET_FEATURES, *f = features + (size_t)t * QNET_FEATURES;
        for (int c = 0; c < QNET_FEATURES; c++) h->contribution[t] += (double)g[c] * (double)f[c];
        h->z_mm[t] = heat_z_mm(&cohort->scans[s], t);
        heat_slice(qnet_scan_slice(cohort, s, t), in, size, h->channel, h->grey + (size_t)t * pixels,
                   h->air + (size_t)t * pixels);
    }
    for (int t = 0, n = net->config.batch; t < h->slices && status == QNET_OK; t += n) {
        n = h->slices - t < n ? h->slices - t : n;
        for (int k = 0; k < n && status == QNET_OK; k++)
            status = qnet_augment_apply(cohort->ctx, augment, &test, qnet_scan_slice(cohort, s, t + k), in, in,
                                        x + image * (size_t)k, size, size, NULL);
        if (status == QNET_OK) status = qnet_resnet_forward(net, x, n, 0, NULL, NULL);
        for (int k = 0; k < n && status == QNET_OK; k++)
            status = qnet_cam_weighted(net, k, gradient + (size_t)(t + k) * QNET_FEATURES,
                                       h->cells + (size_t)(t + k) * cells);
    }
    for (size_t i = 0; i < (size_t)h->slices * cells; i++) largest = fmax(largest, fabs((double)h->cells[i]));
    for (size_t i = 0; i < (size_t)h->slices * cells && largest > 0; i++)
        h->cells[i] = (float)((double)h->cells[i] / largest);
    return status;
}

/* Scan s of a cohort by a ResNetSWA and a Q-Net that belong together. */
static inline qnet_status heat_scan_make(const qnet_cohort *cohort, int s, const qnet_augment_config *augment,
                                         qnet_resnet *net, qnet_scan_model *model, heat_scan *h)
{
    const size_t images = (size_t)net->config.batch * (size_t)net->config.height * (size_t)net->config.width * 3;
    const size_t steps = (size_t)cohort->config.max_slices > (size_t)model->config.steps
                             ? (size_t)cohort->config.max_slices : (size_t)model->config.steps;
    const size_t count = steps * QNET_FEATURES;
    qnet_real *work = (qnet_real *)calloc(images + 2 * count, sizeof *work);
    qnet_status status = QNET_ERROR_MEMORY;
    if (heat_scan_room(h, cohort->scans[s].slices, net->config.height) && work)
        status = heat_scan_maps(cohort, s, augment, net, model, h, work, work + images,
                                work + images + count);
    free(work);
    if (status != QNET_OK) heat_scan_free(h);
    return status;
}

/* The slice that speaks most, for or against. */
static inline int heat_strongest(const heat_scan *h)
{
    int strongest = 0;
    for (int t = 1; t < h->slices; t++)
        if (fabs(h->contribution[t]) > fabs(h->contribution[strongest])) strongest = t;
    return strongest;
}

/* All slices of a scan side by side, to be scrolled through, the strongest alone on paper, and a bar for each
   slice's contribution. id: of this page alone; name (of the scan) and those of the groups: HTML already. */
static inline void put_heat_scan(writer *w, const heat_scan *h, const char *id, const char *name,
                                 const char *positive, const char *negative)
{
    const size_t pixels = (size_t)h->side * (size_t)h->side, cells = (size_t)h->rows * (size_t)h->columns;
    const int strongest = heat_strongest(h);
    const plot p = { 44, 14, 290, 72, 0, (double)h->slices, -1, 1 };
    const double largest = fmax(fabs(h->contribution[strongest]), 1e-30), wide = p.width / h->slices;
    print(w, "<div class=\"stack\" tabindex=\"0\" role=\"group\" aria-label=\"%s: %d slices, scroll sideways\">\n",
          name, h->slices);
    for (int t = 0; t < h->slices; t++) {
        const heat_map map = { h->grey + (size_t)t * pixels, h->air + (size_t)t * pixels,
                               h->cells + (size_t)t * cells, h->side, h->rows, h->columns, 1 };
        char slice[64], alt[640], z[NUMBER_SIZE], c[NUMBER_SIZE];
        snprintf(slice, sizeof slice, "%.30s-%d", id, t + 1);
        snprintf(alt, sizeof alt, "%.480s, slice %d of %d at z %s mm, contribution %s: %s, map of %d x %d cells, "
                 "map over it", name, t + 1, h->slices, fixed_text(z, h->z_mm[t], 1),
                 fixed_text(c, h->contribution[t], 3), heat_windows[h->channel].name, h->rows, h->columns);
        print(w, "<div%s>", t == strongest ? " class=\"key\"" : "");
        put_heat(w, &map, slice, "", alt);
        print(w, "<p>Slice %d of %d, z&nbsp;=&nbsp;%.1f&nbsp;mm: %s%.3f%s</p></div>\n", t + 1, h->slices, h->z_mm[t],
              h->contribution[t] > 0 ? "+" : "", h->contribution[t],
              t == strongest ? ", the strongest" : "");
    }
    print(w, "</div>\n<svg class=\"slices\" viewBox=\"0 0 344 112\" role=\"img\" aria-label=\"%s: contribution of "
             "each slice, the strongest %d of %d\">\n", name, strongest + 1, h->slices);
    for (int t = 0; t < h->slices; t++) {
        const double v = h->contribution[t] / largest, y = plot_y(&p, v > 0 ? v : 0);
        print(w, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>Slice %d: %.3f"
                 "</title></rect>", v > 0 ? "hh" : "hc", plot_x(&p, t + 0.15), y, 0.7 * wide,
              fmax(fabs(v) * p.height / 2, 0.5), t + 1, h->contribution[t]);
    }
    svg_line(w, "a", p.left, plot_y(&p, 0), p.left + p.width, plot_y(&p, 0));
    svg_text(w, "m", "end", p.left - 6, p.top + 4, "%.2f", largest);
    svg_text(w, "m", "end", p.left - 6, p.top + p.height + 4, "%.2f", -largest);
    svg_text(w, "m", "start", p.left, 10, "for %s", positive);
    svg_text(w, "m", "start", p.left, p.top + p.height + 14, "for %s", negative);
    svg_text(w, "m", "end", p.left + p.width, p.top + p.height + 14, "slices 1 to %d, from below", h->slices);
    put(w, "</svg>\n");
}

/* What all this needs in the page's style; the colours of style.h, or whose there are. */
static inline void put_heat_css(writer *w)
{
    put(w,
  ".heat{display:block;width:100%;height:auto}.heat text{fill:#fff;font-size:9px;paint-order:stroke;"
  "stroke:#000;stroke-width:2px}.heat .plain{fill:var(--ink);stroke:none}\n.heat .cells{"
  "image-rendering:pixelated}.rim{stroke:var(--muted);stroke-width:.5}.heat .rim{fill:none}\n.stack{display:flex;overflow-x:auto;scroll-snap-type:x mandatory;gap:.5rem}"
  ".stack>div{flex:0 0 100%;scroll-snap-align:start;min-width:0}.stack p{margin:.2rem 0 .4rem;"
  "font-size:.875rem;color:var(--muted)}\n.slices{font-size:10px}.slices .on{stroke:var(--ink);"
  "stroke-width:1.5}.stack+input{width:100%;margin:.2rem 0}\n@media print{.stack>div{"
  "display:none}.stack>div.key{display:block}.heat,.bar{print-color-adjust:exact}.long{break-inside:auto!important}}\n");
}
#endif
