/* Pictures in HTML: PNG as base64, and the pieces of plots in SVG. */
#ifndef CROSSVAL_SVG_H
#define CROSSVAL_SVG_H
#include "writer.h"

/* bytes as base64 (RFC 4648). */
static void put_base64(writer *w, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[512];
    size_t used = 0;
    for (size_t i = 0; i < size; i += 3) {
        const unsigned a = bytes[i], b = i + 1 < size ? bytes[i + 1] : 0u;
        const unsigned c = i + 2 < size ? bytes[i + 2] : 0u, word = a << 16 | b << 8 | c;
        text[used++] = digits[word >> 18];
        text[used++] = digits[word >> 12 & 63];
        text[used++] = i + 1 < size ? digits[word >> 6 & 63] : '=';
        text[used++] = i + 2 < size ? digits[word & 63] : '=';
        if (used == sizeof text || i + 3 >= size) {
            put_bytes(w, text, used);
            used = 0;
        }
    }
}

/* pixels[height][width][channels] as a PNG in a data URL. */
static void put_png(writer *w, const uint8_t *pixels, int width, int height, int channels)
{
    qnet_buffer png;
    qnet_sink sink;
    memset(&png, 0, sizeof png);
    if (w->status != QNET_OK) return;
    sink = qnet_sink_buffer(w->ctx, &png, "a picture in memory");
    w->status = qnet_png_write(w->ctx, &sink, width, height, channels, pixels);
    if (w->status == QNET_ERROR_IO) w->status = QNET_ERROR_MEMORY; /* it has no other reason */
    put(w, "data:image/png;base64,");
    if (w->status == QNET_OK) put_base64(w, png.bytes, png.size);
    qnet_buffer_free(w->ctx, &png);
}

/* <img> with rgb[height][width][3] inside. alt is HTML already. */
static inline void put_image(writer *w, const uint8_t *rgb, int width, int height, const char *alt)
{
    print(w, "<img width=\"%d\" height=\"%d\" style=\"height:auto\" alt=\"%s\" src=\"", width, height, alt);
    put_png(w, rgb, width, height, 3);
    put(w, "\">");
}

static inline void svg_open(writer *w, int height, const char *label)
{
    print(w, "<svg viewBox=\"0 0 344 %d\" role=\"img\" aria-label=\"%s\">\n", height, label);
}

static void svg_line(writer *w, const char *style, double x1, double y1, double x2, double y2)
{
    print(w, "<path class=\"%s\" d=\"M%.1f,%.1fL%.1f,%.1f\"/>\n", style, x1, y1, x2, y2);
}

static inline void svg_rect(writer *w, const char *style, double x, double y, double width, double height)
{
    print(w, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
          style, x, y, width, height);
}

/* A text element; anchor: "start", "middle" or "end". */
static PRINTF_LIKE(6, 7) void svg_text(writer *w, const char *style,
                                       const char *anchor, double x, double y,
                                       const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print(w, "<text class=\"%s\" text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">", style, anchor, x,
          y);
    vprint(w, format, format + strlen(format), NULL, &args);
    put(w, "</text>\n");
    va_end(args);
}

/* The plotting area within a drawing, and the ranges that it shows. */
typedef struct plot {
    double left, top, width, height;
    double x_low, x_high, y_low, y_high;
} plot;

static double plot_x(const plot *p, double x)
{
    return p->left + (x - p->x_low) / (p->x_high - p->x_low) * p->width;
}

static double plot_y(const plot *p, double y)
{
    return p->top + p->height - (y - p->y_low) / (p->y_high - p->y_low) * p->height;
}

/* The smallest of 1, 2, 5 times a power of ten that goes into range at most `most` times. */
static inline double nice_step(double range, int most)
{
    double step = pow(10.0, floor(log10(range / most)));
    if (step * most < range * (1 - 1e-9)) step *= 2;
    if (step * most < range * (1 - 1e-9)) step *= 2.5;
    if (step * most < range * (1 - 1e-9)) step *= 2;
    return step;
}

/* Grid lines and numbers at the multiples of a step, along y (axis 1) or x (axis 0). */
static inline void plot_ticks(writer *w, const plot *p, int axis, double step, int decimals)
{
    const double low = axis ? p->y_low : p->x_low, high = axis ? p->y_high : p->x_high;
    const double bottom = p->top + p->height;
    for (double k = ceil(low / step - 1e-6); k * step <= high + 1e-6 * step; k += 1) {
        const double v = k * step + 0.0; /* no "-0" */
        if (axis) {
            const double y = plot_y(p, v);
            svg_line(w, "g", p->left, y, p->left + p->width, y);
            svg_text(w, "m", "end", p->left - 6, y + 4, "%.*f", decimals, v);
        } else {
            const double x = plot_x(p, v);
            svg_line(w, "a", x, bottom, x, bottom + 4);
            svg_text(w, "m", "middle", x, bottom + 17, "%.*f", decimals, v);
        }
    }
}

/* The two axes and their titles. */
static inline void plot_axes(writer *w, const plot *p, const char *x, const char *y)
{
    const double bottom = p->top + p->height;
    svg_line(w, "a", p->left, bottom, p->left + p->width, bottom);
    svg_line(w, "a", p->left, p->top, p->left, bottom);
    svg_text(w, "", "middle", p->left + p->width / 2, bottom + 36, "%s", x);
    print(w, "<text text-anchor=\"middle\" transform=\"translate(12 %.1f) rotate(-90)\">%s"
             "</text>\n", p->top + p->height / 2, y);
}

#endif
