/* How to run: make fuzz FUZZ=sidecar (fuzz.h). The input is the JSON sidecar of an image. What is read must be
   in the ranges that examples/maps/find.h states; written as JSON and read again, it must be the same. */
#include "fuzz.h"
#include "examples/maps/find.h"

#define FILE_NAME "build/fuzz-sidecar.json"

static qnet_status parse(bids *b, qnet_context *ctx, const void *bytes, size_t size, sidecar *out)
{
    qnet_buffer text;
    qnet_status status;
    memset(b, 0, sizeof *b);
    memset(&text, 0, sizeof text);
    memset(out, 0, sizeof *out);
    b->ctx = ctx;
    out->echo_time = out->repetition_time = out->flip_angle = out->field_strength = (double)NAN;
    MUST(qnet_buffer_append(ctx, &text, bytes, size) == QNET_OK);
    MUST(qnet_buffer_append(ctx, &text, "", 1) == QNET_OK);
    status = sidecar_parse(b, FILE_NAME, (const char *)text.bytes, out);
    qnet_buffer_free(ctx, &text);
    return status;
}

/* NaN, which says nothing, or above 0 and at most `most`. */
static void must_be(double value, double most)
{
    MUST(isnan(value) || (value > 0 && value <= most));
}

static void put(qnet_context *ctx, qnet_buffer *text, const char *member, double value)
{
    if (!isnan(value))
        MUST(qnet_buffer_printf(ctx, text, ", \"%s\": %.17g", member, value) == QNET_OK);
}

static int same(double a, double b)
{
    return (isnan(a) && isnan(b)) || !(a < b || b < a);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    memory_watch m;
    qnet_context *ctx = fuzz_begin(&m);
    bids b;
    sidecar first, again;
    qnet_buffer text;
    qnet_status status = parse(&b, ctx, bytes, size, &first);
    memset(&text, 0, sizeof text);
    if (status != QNET_OK) {
        fuzz_refused(status, b.error, FILE_NAME);
    } else {
        must_be(first.echo_time, 1);
        must_be(first.repetition_time, 30);
        must_be(first.flip_angle, 180);
        must_be(first.field_strength, 30);
        MUST(memchr(first.manufacturer, 0, sizeof first.manufacturer) != NULL);
        MUST(abs(manufacturer_sign(first.manufacturer)) <= 1);
        MUST(qnet_buffer_printf(ctx, &text, "{\"x\": []") == QNET_OK);
        put(ctx, &text, "EchoTime", first.echo_time);
        put(ctx, &text, "RepetitionTime", first.repetition_time);
        put(ctx, &text, "FlipAngle", first.flip_angle);
        put(ctx, &text, "MagneticFieldStrength", first.field_strength);
        MUST(qnet_buffer_printf(ctx, &text, "}") == QNET_OK);
        MUST(parse(&b, ctx, text.bytes, text.size, &again) == QNET_OK);
        MUST(same(first.echo_time, again.echo_time) && same(first.flip_angle, again.flip_angle) &&
             same(first.repetition_time, again.repetition_time) &&
             same(first.field_strength, again.field_strength));
        qnet_buffer_free(ctx, &text);
    }
    (void)find_echoes;
    (void)list_all;
    fuzz_end(ctx, &m, 4096 + 8 * size);
    return 0;
}
