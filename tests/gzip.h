/* gzip in memory, for tests: by the library's private streams, which its readers of .nii.gz and
   its writers use. Include it behind qnet.h. */
#ifndef GZIP_H
#define GZIP_H

/* Takes back what was appended to out after its first `size` bytes. */
static void gzip_cut(qnet_context *ctx, qnet_buffer *out, size_t size)
{
    if (size == 0) {
        qnet_buffer_free(ctx, out);
        return;
    }
    out->size = size;
    out->bytes[size] = 0;
}

/* Appends at most limit bytes to out, which is as before on failure; limit 0: QNET_MAX_FILE_BYTES. */
static inline qnet_status gzip_unpack(qnet_context *ctx, const void *bytes, size_t size, size_t limit, qnet_buffer *out)
{
    qnet_memory_source memory;
    qnet_source source = qnet_source_memory(&memory, bytes, size, NULL);
    qnet__inflate *s = (qnet__inflate *)qnet__alloc(ctx, sizeof *s);
    const size_t before = out->size;
    qnet_status status;
    if (s == NULL) return qnet__no_memory(ctx, sizeof *s, "unpacking gzip data");
    if (limit == 0) limit = (size_t)QNET_MAX_FILE_BYTES;
    qnet__inflate_start(s, ctx, &source, "", 0);
    do { /* piece by piece, so that a small file which unpacks to a huge one ends at the limit */
        status = qnet__inflate_fill(s);
        const size_t n = s->made - s->taken;
        if (status == QNET_OK && s->gone + s->made > limit)
            status = qnet__fail(ctx, QNET_ERROR_LIMIT, "gzip data unpacks to more than %.0f bytes", (double)limit);
        if (status == QNET_OK) status = qnet_buffer_append(ctx, out, s->out + s->taken, n);
        s->taken += n;
    } while (status == QNET_OK && s->mode != QNET__IN_END);
    qnet__free(ctx, s, sizeof *s);
    if (status != QNET_OK) gzip_cut(ctx, out, before);
    return status;
}

/* Appends one gzip member to out, which is as before on failure; period: of its runs, in bytes. */
static inline qnet_status gzip_pack_runs(qnet_context *ctx, const void *bytes, size_t size, size_t period,
                                         qnet_buffer *out)
{
    qnet__deflate *d = (qnet__deflate *)qnet__alloc(ctx, sizeof *d);
    const size_t before = out->size;
    qnet_sink sink = qnet_sink_buffer(ctx, out, "(memory)");
    qnet_status status;
    if (d == NULL) return qnet__no_memory(ctx, sizeof *d, "packing gzip data");
    qnet__deflate_start(d, ctx, &sink, 0, period);
    status = qnet__deflate_write(d, bytes, size);
    if (status == QNET_OK) status = qnet__deflate_finish(d);
    qnet__free(ctx, d, sizeof *d);
    if (status != QNET_OK) gzip_cut(ctx, out, before);
    return status;
}

static inline qnet_status gzip_pack(qnet_context *ctx, const void *bytes, size_t size, qnet_buffer *out)
{
    return gzip_pack_runs(ctx, bytes, size, 1, out);
}

#endif
