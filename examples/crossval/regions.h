/* regions.h: means of QSM and R2* of each scan in the slices that are used, which a baseline of the report
   is fitted on: within the mask or, where a scan of the cohort has none, within the box, air left out. Taken while a scan's
   volumes are in memory, turned to RAS. */
#ifndef CROSSVAL_REGIONS_H
#define CROSSVAL_REGIONS_H
#include "qnet.h"
#include <math.h>
#include <stdlib.h>

typedef struct region_means {
    double mask[2], box[2]; /* of QSM, ppm, and of R2*, 1/s; NaN: nothing there */
} region_means;

typedef struct regions {
    int count;          /* one for each scan of the cohort, in its order */
    region_means *mean; /* [count]; NULL: no memory */
} regions;

/* mean[2] within the mask or, NULL, within the box. */
static void region_mean(const qnet_scan *scan, const qnet_scan_maps *maps, const qnet_volume *mask, double mean[2])
{
    const qnet_volume *qsm = maps->qsm;
    const qnet_cut *cut = &scan->cut;
    const size_t nx = (size_t)qsm->nx, ny = (size_t)qsm->ny;
    double sum[2] = {0, 0}, n = 0;
    for (int z = cut->slice[0]; z <= cut->slice[1]; z++) {
        for (size_t i = 0; i < nx * ny; i++) {
            const size_t at = (size_t)z * nx * ny + i;
            const double dx = ((double)(i % nx) - cut->center[0]) * qsm->spacing[0];
            const double dy = ((double)(i / nx) - cut->center[1]) * qsm->spacing[1];
            if (mask ? !(mask->voxels[at] > 0)
                     : fmax(fabs(dx), fabs(dy)) > cut->side_mm / 2 || !(fabs((double)qsm->voxels[at]) > 0))
                continue;
            sum[0] += (double)qsm->voxels[at];
            sum[1] += maps->r2star ? (double)maps->r2star->voxels[at] : 0;
            n++;
        }
    }
    mean[0] = n > 0 ? sum[0] / n : (double)NAN;
    mean[1] = n > 0 && maps->r2star ? sum[1] / n : (double)NAN;
}

/* For a qnet_viewer: appends the means of one scan. */
static inline void region_add(regions *all, const qnet_scan *scan, const qnet_scan_maps *maps)
{
    const size_t count = (size_t)all->count++;
    region_means *mean = NULL;
    if (count == 0 || all->mean) mean = (region_means *)realloc(all->mean, (count + 1) * sizeof *mean);
    if (mean) {
        mean[count].mask[0] = mean[count].mask[1] = (double)NAN;
        if (maps->mask) region_mean(scan, maps, maps->mask, mean[count].mask);
        region_mean(scan, maps, NULL, mean[count].box);
    } else {
        free(all->mean);
    }
    all->mean = mean;
}
#endif
