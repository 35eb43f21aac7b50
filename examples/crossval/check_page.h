/* check_page.h: what `crossval --check` shows: a table on the terminal, and check.html with all problems,
   what to do about each, and a picture of each scan: QSM, R2* and T1W in the middle of its slices, and T1W
   coronal with the slices. The patient's right is at the left. */
#ifndef CROSSVAL_CHECK_PAGE_H
#define CROSSVAL_CHECK_PAGE_H
#include "check.h"
#include "estimate.h"
#include "style.h"
#include "svg.h"

/* ---- pictures --------------------------------------------------------------------------------- */

#define PANEL 112 /* pixels */

/* Pixel (column, row, 1) to a voxel of a map. */
typedef struct pixel_map {
    double m[3][3];
} pixel_map;

/* A plane of a volume in RAS: axial, or coronal through `at`, a pixel of `step` mm. */
static pixel_map plane_of(const qnet_volume *v, int coronal, double at, double step)
{
    const int down = coronal ? 2 : 1, across = coronal ? 1 : 2, n[3] = {v->nx, v->ny, v->nz};
    pixel_map p;
    memset(&p, 0, sizeof p);
    p.m[0][0] = -step / v->spacing[0];
    p.m[0][2] = (v->nx - 1) / 2.0 - p.m[0][0] * (PANEL - 1) / 2.0;
    p.m[down][1] = -step / v->spacing[down];
    p.m[down][2] = (n[down] - 1) / 2.0 - p.m[down][1] * (PANEL - 1) / 2.0;
    p.m[across][2] = at;
    return p;
}

/* The same of a volume as it is in its file, about its middle: through the world and back by the inverse
   of its affine, whose elements are cofactors / det. */
static pixel_map plane_through(const qnet_volume *v, const double middle[3], int coronal, double step)
{
    const double(*a)[4] = v->affine;
    const double world[3][3] = {{-step, 0, middle[0] + step * (PANEL - 1) / 2.0},
                                {0, coronal ? 0 : -step, middle[1] + (coronal ? 0 : step * (PANEL - 1) / 2.0)},
                                {0, coronal ? -step : 0, middle[2] + (coronal ? step * (PANEL - 1) / 2.0 : 0)}};
    pixel_map p;
    double det = 0;
    for (int c = 0; c < 3; c++)
        det += a[0][c] * (a[1][(c + 1) % 3] * a[2][(c + 2) % 3] - a[1][(c + 2) % 3] * a[2][(c + 1) % 3]);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
            p.m[i][k] = 0;
            for (int j = 0; j < 3; j++) {
                const int r = (j + 1) % 3, s = (j + 2) % 3, x = (i + 1) % 3, y = (i + 2) % 3;
                p.m[i][k] += (a[r][x] * a[s][y] - a[r][y] * a[s][x]) / det * (world[j][k] - (k == 2 ? a[j][3] : 0));
            }
        }
    return p;
}

/* The voxel under a pixel; outside of the volume, or not finite: 0. */
static float pixel_value(const qnet_volume *v, const pixel_map *p, int column, int row)
{
    const int n[3] = {v->nx, v->ny, v->nz};
    size_t at = 0, stride = 1;
    for (int k = 0; k < 3; k++) {
        const double x = floor(p->m[k][0] * column + p->m[k][1] * row + p->m[k][2] + 0.5);
        if (!(x >= 0 && x < n[k])) return 0;
        at += stride * (size_t)x;
        stride *= (size_t)n[k];
    }
    return isfinite(v->voxels[at]) ? v->voxels[at] : 0;
}

/* The border of the mask, between pixels, as the paths of an SVG: whole runs of the edges between rows,
   then between columns. */
static void put_outline(writer *w, const qnet_volume *mask, const pixel_map *p)
{
    put(w, "<path class=\"mk\" d=\"");
    for (int down = 0; down < 2; down++)
        for (int line = 1; line < PANEL; line++)
            for (int at = 0, run = 0; at <= PANEL; at++) {
                const int column = down ? line : at, row = down ? at : line;
                const int edge = at < PANEL && (pixel_value(mask, p, column, row) >= 0.5f) !=
                                     (pixel_value(mask, p, column - down, row - !down) >= 0.5f);
                if (edge) run++;
                else if (run > 0) {
                    print(w, down ? "M%d,%dv%d" : "M%d,%dh%d", down ? line : at - run, down ? at - run : line, run);
                    run = 0;
                }
            }
    put(w, "\"/>");
}

/* What a panel shows. */
typedef struct panel {
    const char *name;       /* "QSM" */
    const qnet_volume *map; /* NULL: could not be read */
    const qnet_volume *mask;
    pixel_map map_at, mask_at;
    double low, high;       /* black and white */
    char place[48];         /* "z = 6 mm" */
    double box[4];          /* left, top, width, height in pixels; width 0: none */
    int coronal;
} panel;

static void put_panel(writer *w, const panel *p)
{
    print(w, "<svg class=\"pan\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s %s\">", PANEL, PANEL, p->name,
          p->map ? p->place : "missing");
    if (p->map) {
        uint8_t grey[PANEL * PANEL];
        for (int i = 0; i < PANEL * PANEL; i++) {
            const double v = (double)pixel_value(p->map, &p->map_at, i % PANEL, i / PANEL);
            const double share = v == 0 ? 0 : (v - p->low) / (p->high - p->low);
            grey[i] = (uint8_t)((int)(fmin(fmax(share, 0), 1) * 31 + 0.5) * 255 / 31);
        }
        print(w, "<image width=\"%d\" height=\"%d\" href=\"", PANEL, PANEL);
        put_png(w, grey, PANEL, PANEL, 1);
        put(w, "\"/>");
    } else print(w, "<rect class=\"nomap\" width=\"%d\" height=\"%d\"/>", PANEL, PANEL);
    if (p->map && p->mask) put_outline(w, p->mask, &p->mask_at);
    if (p->map && p->box[2] > 0)
        print(w, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
              p->coronal ? "sl" : "bx", p->box[0], p->box[1], p->box[2], p->box[3]);
    print(w, "<text x=\"4\" y=\"10\">%s</text>", p->map ? p->name : "");
    if (p->map)
        print(w, "<text x=\"3\" y=\"%d\">R</text><text x=\"%d\" y=\"%d\">L</text><text x=\"%d\" y=\"10\" "
                 "text-anchor=\"end\">%s</text>", PANEL / 2 + 4, PANEL - 9, PANEL / 2 + 4, PANEL - 3, p->place);
    else
        print(w, "<text class=\"no\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">no %s</text>", PANEL / 2, PANEL / 2,
              p->name);
    put(w, "</svg>\n");
}

/* Black and white of a map: the same for all scans where its unit is right. T1W has no unit. */
static void panel_window(const check_scan *s, int m, double *low, double *high)
{
    const double top = (double)s->value[m][2];
    *low = m == 0 ? -0.1 : 0;
    *high = m == 0 ? 0.2 : m == 1 ? 60 : 1.2 * top;
    if (m < 2 && (top > 10 * *high || top < *high / 20 || (m == 0 && s->value[0][0] > 0))) {
        *low = (double)s->value[m][0];
        *high = top;
    }
    if (!(*high > *low)) *high = *low + 1;
}

/* For check.draw. cut NULL: the files as they are, through the middle of the QSM map. */
static void check_draw(check *c, check_scan *s, const qnet_scan *cut, const qnet_scan_maps *maps)
{
    static const char *const names[3] = {"QSM", "R2*", "T1W"};
    const qnet_volume *const map[3] = {maps->qsm, maps->r2star, maps->t1w};
    const qnet_volume *grid = map[0] ? map[0] : map[1] ? map[1] : map[2];
    writer own, *w = &own;
    double step = 0, world[3] = {0, 0, 0};
    s->picture.size = 0;
    own = writer_begin(c->ctx, &s->picture, "-", 1);
    if (grid) {
        const double middle[3] = {(grid->nx - 1) / 2.0, (grid->ny - 1) / 2.0, (grid->nz - 1) / 2.0};
        const double size[3] = {grid->nx * grid->spacing[0], grid->ny * grid->spacing[1],
                                grid->nz * grid->spacing[2]};
        step = fmax(fmax(size[0], size[1]), size[2]) / PANEL;
        for (int k = 0; k < 3; k++) {
            world[k] = grid->affine[k][3];
            for (int j = 0; j < 3; j++) world[k] += grid->affine[k][j] * middle[j];
        }
    }
    const int z = cut ? cut->slice_z[cut->slices / 2] : 0;
    for (int i = 0; i < 4; i++) {
        const int m = i < 3 ? i : 2, coronal = i == 3;
        panel p;
        memset(&p, 0, sizeof p);
        p.name = names[m];
        p.map = map[m];
        p.mask = maps->mask;
        p.coronal = coronal;
        panel_window(s, m, &p.low, &p.high);
        if (p.map && cut) {
            const double *mm = grid->spacing, *at = cut->cut.center;
            const double y = fmin(fmax(floor(at[1] + 0.5), 0), grid->ny - 1), side = c->box_mm / step;
            const double left = ((grid->nx - 1) / 2.0 - at[0]) * mm[0] / step + PANEL / 2.0;
            p.map_at = p.mask_at = plane_of(grid, coronal, coronal ? y : z, step);
            /* In the world, on the axis of the head. */
            snprintf(p.place, sizeof p.place, "%s = %.0f mm", coronal ? "y" : "z",
                     grid->affine[coronal ? 1 : 2][0] * at[0] + grid->affine[coronal ? 1 : 2][1] * (coronal ? y : at[1]) +
                     grid->affine[coronal ? 1 : 2][2] * z + grid->affine[coronal ? 1 : 2][3] + 0.0);
            if (coronal) {
                const double pixels = mm[2] / step, top = ((grid->nz - 1) / 2.0 - cut->cut.slice[1] - 0.5) * pixels;
                p.box[1] = top + PANEL / 2.0;
                p.box[2] = PANEL;
                p.box[3] = (cut->cut.slice[1] - cut->cut.slice[0] + 1) * pixels;
            } else if (side > 0) {
                p.box[0] = left - side / 2;
                p.box[1] = ((grid->ny - 1) / 2.0 - at[1]) * mm[1] / step + PANEL / 2.0 - side / 2;
                p.box[2] = p.box[3] = side;
            }
        } else if (p.map) {
            p.map_at = plane_through(p.map, world, coronal, step);
            if (p.mask) p.mask_at = plane_through(p.mask, world, coronal, step);
            snprintf(p.place, sizeof p.place, "%s = %.0f mm", coronal ? "y" : "z", world[coronal ? 1 : 2] + 0.0);
        }
        put_panel(w, &p);
    }
    (void)writer_end(w);
}

/* ---- the table on the terminal ------------------------------------------------------------------ */

/* "144x168x24", or "-". */
static const char *grid_text(const check_scan *s, int m, char text[48])
{
    strcpy(text, "-");
    if (s->n[m][0] > 0) snprintf(text, 48, "%dx%dx%d", s->n[m][0], s->n[m][1], s->n[m][2]);
    return text;
}

static const char *spacing_text(const check_scan *s, char text[48])
{
    strcpy(text, "-");
    if (s->n[0][0] > 0) snprintf(text, 48, "%.2fx%.2fx%.2f", s->mm[0][0], s->mm[0][1], s->mm[0][2]);
    return text;
}

static const char *range_text(const check_scan *s, int m, int decimals, char text[48])
{
    const int wide = fabs((double)s->value[m][2]) >= 1000;
    if (fabs((double)s->value[m][2]) < 1 && decimals < 2) decimals = 2; /* no R2* is that small */
    strcpy(text, "-");
    if (s->n[m][0] > 0)
        snprintf(text, 48, wide ? "%.*e..%.*e" : "%.*f..%.*f", wide ? 1 : decimals, (double)s->value[m][0],
                 wide ? 1 : decimals, (double)s->value[m][2]);
    return text;
}

static const char *slices_text(const check_scan *s, char text[48])
{
    strcpy(text, "-");
    if (s->taken) snprintf(text, 48, "%d (%d..%d)", s->slices, s->cut.slice[0], s->cut.slice[1]);
    return text;
}

/* The mask's volume, or how sure the place is that was found without one. */
static const char *mask_text(const check_scan *s, char text[48])
{
    double confidence;
    strcpy(text, "-");
    if (!s->taken) return text;
    if (check_located(&s->cut, &confidence)) snprintf(text, 48, "found, %.2f", confidence);
    else if (s->cut.mask_voxels > 0) snprintf(text, 48, "%.0f ml", s->mask_ml);
    return text;
}

static const char *state_text(const check_scan *s, char text[48])
{
    strcpy(text, "ok");
    if (s->warnings) sprintf(text, "%d warning%s", s->warnings, s->warnings > 1 ? "s" : "");
    if (s->problems) sprintf(text, "%d PROBLEM%s", s->problems, s->problems > 1 ? "S" : "");
    return text;
}

/* The name of the group, age and sex. */
static void person_text(const check *c, const bids_scan *who, char text[96])
{
    const bids *b = c->found;
    const char *group = who->bad ? "?" : who->label == QNET_HH ? b->positive ? b->positive : "HH"
                        : b->negative ? b->negative : "HC";
    char age[16] = "-";
    if (who->age == who->age) snprintf(age, sizeof age, "%.0f", who->age);
    snprintf(text, 96, "%.40s %s %s", group, age, who->sex == QNET_MALE ? "M" : who->sex == QNET_FEMALE ? "F" : "-");
}

enum { CHECK_COLUMNS = 10 };

/* A row of the table; scan -1: its head. */
static void check_row(const check *c, int scan, char cell[CHECK_COLUMNS][160])
{
    static const char *const head[CHECK_COLUMNS] = {"scan", "person", "grid", "mm", "axes", "QSM, ppm", "R2*, 1/s",
                                                    "slices", "mask", ""};
    const bids_scan *who = &c->found->list[scan < 0 ? 0 : scan];
    const check_scan *s = &c->scan[scan < 0 ? 0 : scan];
    char text[96];
    for (int k = 0; k < CHECK_COLUMNS && scan < 0; k++) strcpy(cell[k], head[k]);
    if (scan < 0) return;
    snprintf(cell[0], 160, "%s%s%s", who->subject, who->session[0] ? " " : "", who->session);
    person_text(c, who, text);
    strcpy(cell[1], text);
    strcpy(cell[2], grid_text(s, 0, text));
    strcpy(cell[3], spacing_text(s, text));
    strcpy(cell[4], s->axes[0][0] ? s->axes[0] : "-");
    strcpy(cell[5], range_text(s, 0, 2, text));
    strcpy(cell[6], range_text(s, 1, 0, text));
    strcpy(cell[7], slices_text(s, text));
    strcpy(cell[8], mask_text(s, text));
    strcpy(cell[9], state_text(s, text));
}

/* How many columns of a terminal a text takes: bytes of UTF-8 that begin a character. */
static int check_width(const char *text)
{
    int width = 0;
    for (; *text; text++) width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

static void check_print(const check *c, FILE *to)
{
    char cell[CHECK_COLUMNS][160];
    int width[CHECK_COLUMNS] = {0};
    for (int pass = 0; pass < 2; pass++)
        for (int i = -1; i < c->found->count; i++) {
            check_row(c, i, cell);
            for (int k = 0; k < CHECK_COLUMNS; k++) {
                const int w = check_width(cell[k]);
                if (pass == 0 && w > width[k]) width[k] = w;
                if (pass == 1) fprintf(to, "%s%*s", cell[k], k + 1 < CHECK_COLUMNS ? width[k] - w + 2 : 0, "");
            }
            if (pass == 1) fputc('\n', to);
        }
}

/* Sentences of a kind, those of the same kind once; of problems those that are skipped, or not. head: before each. */
static void check_print_notes(const check *c, qnet_log_level level, int skipped, const char *head, FILE *to)
{
    char name[160], names[300];
    int others;
    for (int i = 0; i < c->notes; i++) {
        const check_note *n = &c->note[i];
        const char *advice = level == QNET_LOG_ERROR ? check_advice(n->text) : "";
        if (n->level != level || n->skipped != skipped || check_repeats(c, i, &others, names, sizeof names)) continue;
        check_name(c, n->scan, name);
        if (strstr(n->text, check_subject(c, n))) name[0] = '\0';
        fprintf(to, "%s%s%s%s%s%s", head, name, name[0] ? ": " : "", n->text,
                !*advice ? "" : strstr(n->text, "; if it is right") ? "; if not, " : ": ", advice);
        if (others) fprintf(to, "; the same of %d other%s: %s", others, others > 1 ? "s" : "", names);
        fputc('\n', to);
    }
}

/* ---- the page --------------------------------------------------------------------------------- */

/* A sentence, in which the data folder goes without saying, and options are set as code. */
static void put_sentence(writer *w, const check *c, const char *text)
{
    const size_t n = strlen(c->found->folder);
    char piece[2000];
    while (*text) {
        size_t k = 0;
        const int option = strncmp(text, "--", 2) == 0 && text[2] >= 'a' && text[2] <= 'z';
        if (option) k = 2 + strspn(text + 2, "abcdefghijklmnopqrstuvwxyz0123456789-");
        else
            while (text[k] && k + 1 < sizeof piece && strncmp(text + k, " --", 3) &&
                   (strncmp(text + k, c->found->folder, n) || text[k + n] != '/')) k++;
        if (!option && strncmp(text + k, " --", 3) == 0) k++;
        snprintf(piece, sizeof piece, "%.*s", (int)k, text);
        put(w, option ? "<code>" : "");
        put_escaped(w, piece);
        put(w, option ? "</code>" : "");
        text += k;
        if (strncmp(text, c->found->folder, n) == 0 && text[n] == '/') text += n + 1;
    }
}

/* How long the "sub-01: " is that a sentence begins with, where the name stands before it anyway. */
static size_t check_prefix(const check *c, const check_note *n)
{
    const char *subject = check_subject(c, n);
    const size_t length = strlen(subject);
    return length && strncmp(n->text, subject, length) == 0 && strncmp(n->text + length, ": ", 2) == 0
               ? length + 2 : 0;
}

static void html_notes(writer *w, const check *c, qnet_log_level level)
{
    char name[160], names[600]; /* others' names; a sentence */
    int others;
    put(w, "<ul class=\"notes\">\n");
    for (int i = 0; i < c->notes; i++) {
        const check_note *n = &c->note[i];
        const char *advice = level == QNET_LOG_ERROR ? check_advice(n->text) : "";
        if (n->level != level || check_repeats(c, i, &others, names, 300)) continue;
        if (n->scan >= 0) print(w, "<li><a href=\"#s%d\">", n->scan);
        else put(w, "<li><b>");
        put_escaped(w, check_name(c, n->scan, name));
        put(w, n->scan >= 0 ? "</a> " : "</b> ");
        put_sentence(w, c, n->text + check_prefix(c, n));
        if (*advice) {
            snprintf(names + 300, sizeof names - 300, "%c%s.", advice[0] >= 'a' ? advice[0] - 32 : advice[0],
                     advice + 1);
            put(w, ". <i>");
            put_sentence(w, c, names + 300);
            put(w, "</i>");
        }
        if (others) {
            print(w, "%sThe same of %d other%s: ", *advice ? " " : ". ", others, others > 1 ? "s" : "");
            put_escaped(w, names);
            put(w, ".");
        }
        put(w, "</li>\n");
    }
    put(w, "</ul>\n");
}

static void html_table(writer *w, const check *c)
{
    const bids *b = c->found;
    char name[160], t[6][48], person[96];
    put(w, "<h2>All scans</h2>\n<div class=\"scroll\"><table class=\"wide pin\"><thead><tr>");
    cells(w, "th", "Scan|Person|Grid of QSM|mm|Axes|>QSM, ppm|>R2*, 1/s|Slices|Mask|State");
    put(w, "</tr></thead><tbody>\n");
    for (int i = 0; i < b->count; i++) {
        const check_scan *s = &c->scan[i];
        print(w, "<tr%s><td><a href=\"#s%d\">", s->problems ? " class=\"bad\"" : "", i);
        put_escaped(w, check_name(c, i, name));
        put(w, "</a></td>");
        person_text(c, &b->list[i], person);
        cells(w, "td", "%s|%s|%s|%s|>%s|>%s|%s|%s|%s", person, grid_text(s, 0, t[0]), spacing_text(s, t[1]),
              s->axes[0], range_text(s, 0, 3, t[2]), range_text(s, 1, 0, t[3]), slices_text(s, t[4]),
              mask_text(s, t[5]), state_text(s, name));
        put(w, "</tr>\n");
    }
    put(w, "</tbody></table></div>\n<p class=\"key\">Grid, voxels and axes (where each points to) as they are in "
           "the file. Values: 1st to 99th percentile of the voxels that are not 0. Slices: how many, and which, "
           "from 0 at the bottom. Mask: what counts of it, or &ldquo;found&rdquo; and how sure that is "
           "(0&ndash;1) where the place was found without one.</p>\n");
}

static void html_pictures(writer *w, const check *c)
{
    const bids *b = c->found;
    char name[160], person[96], t[48];
    double confidence;
    put(w, "<h2>Look at each scan</h2>\n<p class=\"key\"><span class=\"sw\" style=\"background:#e69f00\"></span>mask "
           "&nbsp; <span class=\"sw\" style=\"background:#56b4e9\"></span>what a cropped image shows &nbsp; <span "
           "class=\"sw\" style=\"background:#56b4e9;opacity:.5\"></span>the chosen slices, in a coronal plane. "
           "R, L: the patient&rsquo;s right and left. QSM is black at &minus;0.1 and white at 0.2&nbsp;ppm, R2* at "
           "0 and 60&nbsp;1/s; a map far outside of that at its own ends. Is the mask on the basal ganglia, are "
           "they in the box, and are the maps those of one person? No program can see whether a file is of "
           "another person, or left and right are exchanged in all of its maps.</p>\n<div class=\"scans\">\n");
    for (int i = 0; i < b->count; i++) {
        const check_scan *s = &c->scan[i];
        print(w, "<figure id=\"s%d\"%s><figcaption><b>", i, s->problems ? " class=\"bad\"" : "");
        put_escaped(w, check_name(c, i, name));
        person_text(c, &b->list[i], person);
        print(w, "</b> %s", person);
        if (s->taken) print(w, " &middot; %d slices, %d&ndash;%d", s->slices, s->cut.slice[0], s->cut.slice[1]);
        if (s->taken && s->cut.mask_voxels > 0) print(w, " &middot; %s", mask_text(s, t));
        if (s->taken && check_located(&s->cut, &confidence))
            print(w, " &middot; <b>found without a mask</b>, confidence %.2f", confidence);
        if (!s->taken) put(w, " &middot; as it is in the files");
        put(w, "</figcaption>\n<div class=\"row\">");
        if (s->picture.size > 0) put_bytes(w, s->picture.bytes, s->picture.size);
        put(w, "</div>\n");
        for (int k = 0; k < c->notes; k++) {
            const check_note *n = &c->note[k];
            if (!check_is_of(c, n, i)) continue;
            print(w, "<p class=\"%s\">", n->level == QNET_LOG_ERROR ? "problem"
                                         : n->level == QNET_LOG_WARNING ? "warning" : "small");
            put_sentence(w, c, n->text + check_prefix(c, n));
            put(w, "</p>\n");
        }
        put(w, "</figure>\n");
    }
    put(w, "</div>\n");
}

static void check_css(writer *w)
{
    put_css(w);
    put(w, ".notes{padding-left:1.1rem}.notes li{margin:.45rem 0;max-width:56rem;overflow-wrap:anywhere}.notes code,.scans code{white-space:nowrap}.notes i{"
           "font-style:normal;color:var(--muted)}.pin tr.bad>td{background-color:var(--warn)}.scans{display:grid;"
           "grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr));gap:1.6rem 2rem}.scans figure{"
           "margin:0;padding-top:.6rem;border-top:1px solid var(--line)}.scans figcaption{margin:0 0 .5rem}"
           ".scans .bad{border-top:3px solid var(--hh)}.row{display:grid;grid-template-columns:repeat(4,1fr);gap:3px}"
           ".pan{background:#000}svg.pan text{fill:#fff;font-size:8px;paint-order:stroke;stroke:#000;"
           "stroke-width:1.5px}svg.pan image{image-rendering:auto}.nomap{fill:var(--card);stroke:var(--line)}"
           "svg.pan text.no{fill:var(--ink);stroke:none}svg .mk{fill:none;stroke:#e69f00;stroke-width:1}"
           "svg .bx{fill:none;stroke:#56b4e9;stroke-width:1}svg .sl{fill:#56b4e9;fill-opacity:.22;stroke:#56b4e9;"
           "stroke-width:.7}.scans p{margin:.35rem 0 0;font-size:.9375rem;overflow-wrap:anywhere}.problem{"
           "border-left:3px solid var(--hh);padding-left:.6rem}.warning{border-left:3px solid var(--warnline);"
           "padding-left:.6rem}code.cmd{display:block;background:var(--card);padding:.6rem .8rem;border-radius:6px;"
           "overflow-wrap:anywhere;max-width:56rem}@media(max-width:34rem){.row{grid-template-columns:1fr 1fr}}"
           "@media print{.scans figure{break-inside:avoid}}\n");
}

static const char *plural(int n)
{
    return n == 1 ? "" : "s";
}

/* check.html. estimated: its text, or "". */
static qnet_status check_html(const check *c, const char *estimated, qnet_buffer *html)
{
    writer own = writer_begin(c->ctx, html, "&ndash;", 1), *w = &own;
    const bids *b = c->found;
    const int problems = c->problems - c->skipped;
    int bad = 0, taken = 0;
    char list[2000];
    for (int i = 0; i < b->count; i++) bad += c->scan[i].problems > 0, taken += c->scan[i].taken;
    check_bad_list(c, list, sizeof list);
    if (bad == b->count || c->skip_bad) list[0] = '\0'; /* nobody would be left, or they are left out */
    put(w, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
           "content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">"
           "\n<title>Q-Net check: ");
    put_escaped(w, b->name[0] ? b->name : b->folder);
    put(w, "</title>\n<style>\n");
    check_css(w);
    put(w, "</style>\n</head>\n<body>\n<main>\n<p class=\"kicker\">Q-Net &middot; check before training &middot; ");
    put_escaped(w, b->name[0] ? b->name : b->folder);
    print(w, "</p>\n<h1>%s</h1>\n<p class=\"verdict\">", problems ? "Not ready to be trained on"
          : c->skipped ? "Ready, without what has a problem" : c->warnings ? "Ready, with something to look at" : "Ready to be trained on");
    print(w, "%d scan%s of ", b->count, plural(b->count));
    put_escaped(w, b->folder);
    if (problems)
        print(w, ": %d problem%s, %d of the scans cannot be used as they are. Nothing has been trained, and "
                 "nothing has been changed.", problems, plural(problems), bad);
    else if (c->skipped)
        print(w, " were read. %d of them cannot be used, and --skip-bad leaves %s out; all others can.", bad,
              bad == 1 ? "it" : "them");
    else print(w, " were read, and all of them can be used. What a program cannot see is for your eyes: below is "
                  "a picture of each.");
    put(w, "</p>\n<div class=\"tiles\">\n");
    print(w, "<div class=\"tile\"><b>%d</b><span>scan%s</span></div><div class=\"tile\"><b>%d</b><span>can be "
             "used</span></div>", b->count, plural(b->count), taken < b->count - bad ? taken : b->count - bad);
    print(w, "<div class=\"tile\"><b>%d</b><span>problem%s</span></div><div class=\"tile\"><b>%d</b><span>"
             "warning%s</span></div></div>\n", c->problems, plural(c->problems), c->warnings, plural(c->warnings));
    if (c->problems) {
        put(w, "<h2>Problems</h2>\n");
        html_notes(w, c, QNET_LOG_ERROR);
        if (list[0]) {
            put(w, "<p>To run without the scans that have one:</p>\n<code class=\"cmd\">--exclude ");
            put_escaped(w, list);
            put(w, "</code>\n<p class=\"key\">or <code>--skip-bad</code>, which leaves out whatever has a problem "
                   "when the run begins. Either is in the report.</p>\n");
        }
    }
    if (c->warnings) {
        put(w, "<h2>Warnings</h2>\n<p class=\"key\">Accepted, but odd.</p>\n");
        html_notes(w, c, QNET_LOG_WARNING);
    }
    if (estimated[0]) {
        put(w, "<h2>What a run will take</h2>\n<p>");
        put_escaped(w, estimated);
        put(w, "</p>\n");
    }
    html_table(w, c);
    html_pictures(w, c);
    print(w, "<p class=\"small\">Written by crossval --check, qnet.h %s.</p>\n</main>\n</body>\n</html>\n",
          QNET_VERSION);
    return writer_end(w);
}

#endif
