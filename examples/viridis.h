/* viridis.h: colours of class activation maps.

       uint8_t rgb[3];
       viridis(0.7, rgb);                              the colour of a value in 0..1
       viridis_over(map, grey, height, width, rgb);    a map over an image, half of each

   Viridis (van der Walt & Smith 2015) at 17 of its 256 colours, and straight lines between, at most 6 of 255 off.
   Its lightness rises steadily, also for those who see no red or no green. Not the JET of the paper's Fig. 9 and 10:
   that is brightest in the middle, so it shows edges where the map has none, and its ends look alike without red
   (Borland & Taylor 2007). */
#ifndef VIRIDIS_H
#define VIRIDIS_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* v clipped to 0..1; NaN gives 0. */
static inline double viridis_clip(double v)
{
    return v > 0 ? v < 1 ? v : 1 : 0;
}

static inline void viridis(double value, uint8_t rgb[3])
{
    static const uint8_t colour[17][3] = {
        {68, 1, 84},    {72, 24, 106},  {71, 45, 123},  {66, 64, 134},  {59, 82, 139},  {51, 99, 141},
        {44, 114, 142}, {38, 129, 142}, {33, 144, 140}, {31, 159, 136}, {40, 174, 128}, {62, 188, 116},
        {93, 201, 99},  {130, 211, 76}, {171, 220, 50}, {213, 226, 26}, {253, 231, 37}};
    const double at = 16 * viridis_clip(value), below = at < 15 ? floor(at) : 15;
    const uint8_t *low = colour[(int)below], *high = colour[(int)below + 1];
    for (int i = 0; i < 3; i++)
        rgb[i] = (uint8_t)(viridis_clip((low[i] + (at - below) * (high[i] - low[i])) / 255) * 255 + 0.5);
}

/* rgb[height][width][3] = (viridis(map) + grey) / 2 of map[height][width] and grey[height][width], both clipped to
   0..1. */
static inline void viridis_over(const float *map, const float *grey, int height, int width, uint8_t *rgb)
{
    const size_t size = height > 0 && width > 0 ? (size_t)height * (size_t)width : 0;
    for (size_t p = 0; p < size; p++) {
        uint8_t heat[3];
        viridis((double)map[p], heat);
        for (size_t i = 0; i < 3; i++)
            rgb[3 * p + i] = (uint8_t)((heat[i] / 255.0 + viridis_clip((double)grey[p])) / 2 * 255 + 0.5);
    }
}
#endif
