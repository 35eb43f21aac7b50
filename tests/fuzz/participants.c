/* How to run: make fuzz FUZZ=participants (fuzz.h). The input is a participants.tsv. What is read
   must be as bids.h describes it; written as a table and read again, it must be the same. */
#include "fuzz.h"
#include "examples/crossval/bids.h"

#define FILE_NAME "participants.tsv"

static qnet_status parse(bids *b, qnet_context *ctx, const void *bytes, size_t size)
{
    memset(b, 0, sizeof *b);
    b->ctx = ctx;
    return bids_participants(b, FILE_NAME, bytes, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    memory_watch m;
    qnet_context *ctx = fuzz_begin(&m);
    bids first, again;
    int i, k;
    qnet_buffer text;
    qnet_status status = parse(&first, ctx, bytes, size);
    memset(&text, 0, sizeof text);
    if (status != QNET_OK) {
        fuzz_refused(status, first.error, FILE_NAME);
        bids_free(&first);
        fuzz_end(ctx, &m, (size_t)1 << 20);
        return 0;
    }
    MUST(first.count > 0);
    MUST(qnet_buffer_printf(ctx, &text, "participant_id\tage\tsex\tgroup\n") == QNET_OK);
    for (i = 0; i < first.count; i++) {
        const bids_scan *s = &first.list[i];
        char age[32];
        MUST(strncmp(s->subject, "sub-", 4) == 0 && memchr(s->subject, 0, sizeof s->subject));
        MUST(strspn(s->subject, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789+-_") == strlen(s->subject)); /* a part of paths */
        MUST(s->label == QNET_HC || s->label == QNET_HH);
        MUST(isnan(s->age) || (s->age >= 0 && s->age <= 150));
        MUST(s->sex == QNET_SEX_UNKNOWN || s->sex == QNET_MALE || s->sex == QNET_FEMALE);
        for (k = 0; k < i; k++) MUST(strcmp(first.list[k].subject, s->subject) != 0);
        snprintf(age, sizeof age, "%.17g", s->age);
        if (isnan(s->age) || strlen(age) > 14 || strchr(age, 'e')) strcpy(age, "n/a");
        MUST(qnet_buffer_printf(ctx, &text, "%s\t%s\t%s\t%s\n", s->subject, age,
                                s->sex == QNET_MALE ? "M" : s->sex == QNET_FEMALE ? "F" : "n/a",
                                s->label == QNET_HH ? "HH" : "HC") == QNET_OK);
    }
    status = parse(&again, ctx, text.bytes, text.size);
    MUST(status == QNET_OK && again.count == first.count);
    for (i = 0; i < first.count; i++) {
        const bids_scan *a = &first.list[i], *b = &again.list[i];
        MUST(strcmp(b->subject, a->subject) == 0 && b->label == a->label && b->sex == a->sex &&
             (isnan(b->age) || b->age == a->age));
    }
    bids_free(&first);
    bids_free(&again);
    qnet_buffer_free(ctx, &text);
    fuzz_end(ctx, &m, ((size_t)1 << 20) + 200 * size);
    return 0;
}
