/* cuts.h: where the images of each scan were cut, as small pictures for the report: left an axial plane
   of T1W, the middle one of the slices, with mask (orange) and box (blue); right a coronal one through the
   centre, with mask and first and last slice. 16 greys keep a picture small. */
#ifndef CUTS_H
#define CUTS_H
#include "qnet.h"
#include <math.h>
#include <stdlib.h>

#define CUT_SIDE 64
#define CUT_BYTES ((size_t)CUT_SIDE * 2 * CUT_SIDE * 3)

typedef struct cut_pictures {
    int count;    /* one for each scan of the cohort, in its order */
    uint8_t *rgb; /* [count][CUT_SIDE][2 CUT_SIDE][3]; NULL: no memory */
} cut_pictures;

static void cut_picture(const qnet_scan *scan, const qnet_scan_maps *maps, uint8_t *rgb)
{
    static const uint8_t mask_colour[3] = {230, 159, 0}, box_colour[3] = {86, 180, 233};
    const qnet_volume *mask = maps->mask; /* T1W, or what there is */
    const qnet_volume *t1w = maps->t1w ? maps->t1w : maps->r2star ? maps->r2star : maps->qsm;
    const qnet_cut *cut = &scan->cut;
    const int nx = t1w->nx, ny = t1w->ny, nz = t1w->nz;
    const double *mm = t1w->spacing, middle = CUT_SIDE / 2.0;
    const double step = fmax(fmax(nx * mm[0], ny * mm[1]), nz * mm[2]) / CUT_SIDE; /* mm per pixel */
    const double half[2] = {cut->side_mm / 2 / mm[0], cut->side_mm / 2 / mm[1]};
    const int z = scan->slice_z[scan->slices / 2];
    const int y = (int)fmin(fmax(floor(cut->center[1] + 0.5), 0), ny - 1);
    const size_t plane = (size_t)nx * (size_t)ny;
    const float *slice = t1w->voxels + (size_t)z * plane;
    double sum = 0, n = 0, white;
    for (size_t i = 0; i < plane; i++) {
        sum += slice[i] > 0 ? (double)slice[i] : 0;
        n += slice[i] > 0;
    }
    white = n > 0 ? 2 * sum / n : 1;
    for (int i = 0; i < CUT_SIDE * 2 * CUT_SIDE; i++, rgb += 3) {
        const int row = i / (2 * CUT_SIDE), column = i % CUT_SIDE, coronal = i / CUT_SIDE % 2;
        const int size = coronal ? nz : ny;                /* of the axis that runs downwards */
        const double voxels = step / mm[coronal ? 2 : 1]; /* per pixel, along it */
        /* The voxel under the pixel: from the patient's right, front or top on. */
        const double u = (nx - 1) / 2.0 - (column + 0.5 - middle) * step / mm[0];
        const double v = (size - 1) / 2.0 - (row + 0.5 - middle) * voxels;
        const int x = (int)floor(u + 0.5), down = (int)floor(v + 0.5);
        int box, grey = 0, in_mask = 0;
        if (x >= 0 && x < nx && down >= 0 && down < size) {
            const size_t at = (size_t)(coronal ? down : z) * plane +
                              (size_t)(coronal ? y : down) * (size_t)nx + (size_t)x;
            grey = (int)(fmin(fmax((double)t1w->voxels[at] / white, 0), 1) * 15 + 0.5) * 17;
            in_mask = mask && mask->voxels[at] > 0 && (row + column) % 2 == 0;
        }
        if (coronal) {
            box = fabs(v - (cut->slice[0] - 0.5)) <= voxels / 2 ||
                  fabs(v - (cut->slice[1] + 0.5)) <= voxels / 2;
        } else { /* the rim, one pixel wide */
            const double dx = fabs(u - cut->center[0]), dy = fabs(v - cut->center[1]);
            box = dx <= half[0] && dy <= half[1] &&
                  (dx > half[0] - step / mm[0] || dy > half[1] - voxels);
        }
        for (int c = 0; c < 3; c++)
            rgb[c] = box ? box_colour[c] : in_mask ? mask_colour[c] : (uint8_t)grey;
    }
}

/* For qnet_viewer: appends the picture of one scan to a cut_pictures. */
static inline void cut_show(void *user, const qnet_scan *scan, const qnet_scan_maps *maps)
{
    cut_pictures *pictures = (cut_pictures *)user;
    const size_t count = (size_t)pictures->count;
    uint8_t *rgb = NULL;
    pictures->count++;
    if (count == 0 || pictures->rgb) rgb = (uint8_t *)realloc(pictures->rgb, (count + 1) * CUT_BYTES);
    if (rgb) cut_picture(scan, maps, rgb + count * CUT_BYTES);
    else free(pictures->rgb);
    pictures->rgb = rgb;
}
#endif
