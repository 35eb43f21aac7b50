/* How to run: make fuzz FUZZ=nifti (fuzz.h). The input is a .nii or .nii.gz file. What is read must
   be a volume as qnet.h describes it, be written, read again and be the same. */
#include "fuzz.h"

/* One volume to the end: plain .nii bytes of it into out. 0: refused. */
static int read_write(qnet_context *ctx, const void *bytes, size_t size, qnet_volume **out,
                      qnet_buffer *plain)
{
    qnet_memory_source state;
    qnet_source source = qnet_source_memory(&state, bytes, size, "input.nii");
    qnet_sink sink = qnet_sink_buffer(ctx, plain, "output.nii");
    qnet_status status = qnet_nifti_read(ctx, &source, out);
    if (status != QNET_OK) {
        fuzz_refused(status, qnet_last_error(ctx), "input.nii");
        MUST(*out == NULL);
        return 0;
    }
    return qnet_nifti_write(ctx, &sink, *out, 0, 0) == QNET_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    memory_watch m;
    qnet_context *ctx = fuzz_begin(&m);
    qnet_volume *first = NULL, *second = NULL;
    qnet_buffer once, twice;
    /* A voxel takes a byte or more of the file, and at most 68 of memory while the volume grows; a
       byte of deflate gives 1032 at most. */
    const size_t unpacked = size >= 2 && bytes[0] == 0x1f ? 1032 * size : size;
    memset(&once, 0, sizeof once);
    memset(&twice, 0, sizeof twice);
    if (read_write(ctx, bytes, size, &first, &once)) {
        const size_t count = (size_t)first->nx * (size_t)first->ny * (size_t)first->nz;
        size_t i;
        int r, c;
        MUST(first->nx > 0 && first->ny > 0 && first->nz > 0 && count <= QNET_MAX_VOXELS);
        MUST(first->affine_source >= 0 && first->affine_source <= 2);
        for (r = 0; r < 3; r++) {
            MUST(first->spacing[r] > 0 && isfinite(first->spacing[r]));
            MUST(strchr("RLAPSI", first->orientation[r]) != NULL);
            for (c = 0; c < 4; c++) MUST(isfinite(first->affine[r][c]));
        }
        MUST(read_write(ctx, once.bytes, once.size, &second, &twice));
        MUST(second->nx == first->nx && second->ny == first->ny && second->nz == first->nz);
        MUST(strcmp(second->orientation, first->orientation) == 0);
        for (i = 0; i < count; i++) /* a NaN may lose its payload */
            MUST(memcmp(&first->voxels[i], &second->voxels[i], sizeof(float)) == 0 ||
                 (isnan(first->voxels[i]) && isnan(second->voxels[i])));
        MUST(qnet_volume_reorient(second, "RAS") == QNET_OK);
        MUST(strcmp(second->orientation, "RAS") == 0);
    }
    qnet_volume_destroy(first);
    qnet_volume_destroy(second);
    qnet_buffer_free(ctx, &once);
    qnet_buffer_free(ctx, &twice);
    fuzz_end(ctx, &m, ((size_t)1 << 20) + 80 * unpacked);
    return 0;
}
