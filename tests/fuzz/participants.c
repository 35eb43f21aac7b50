/* How to run: make fuzz FUZZ=participants (fuzz.h). The input is a participants.tsv. What is read
   must be as qnet.h describes it; written as a table and read again, it must be the same. */
#include "fuzz.h"

#define FILE_NAME "participants.tsv"

static qnet_status parse(qnet_context *ctx, const void *bytes, size_t size, qnet_scan **list,
                         int *count, size_t *list_bytes)
{
    qnet__table table;
    qnet__span text;
    memset(&table, 0, sizeof table);
    table.ctx = ctx;
    table.path = FILE_NAME;
    text.at = size > 0 ? (const char *)bytes : "";
    text.size = size;
    return qnet__parse_participants(&table, text, list, count, list_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    memory_watch m;
    qnet_context *ctx = fuzz_begin(&m);
    qnet_scan *list = NULL, *again = NULL;
    size_t list_bytes = 0, again_bytes = 0;
    int count = 0, again_count = 0, i, k;
    qnet_buffer text;
    char age[32];
    qnet_status status = parse(ctx, bytes, size, &list, &count, &list_bytes);
    memset(&text, 0, sizeof text);
    if (status != QNET_OK) {
        fuzz_refused(status, qnet_last_error(ctx), FILE_NAME);
        MUST(list == NULL && count == 0);
        fuzz_end(ctx, &m, ((size_t)1 << 20) + 200 * size);
        return 0;
    }
    MUST(count > 0);
    MUST(qnet_buffer_printf(ctx, &text, "participant_id\tage\tsex\tgroup\n") == QNET_OK);
    for (i = 0; i < count; i++) {
        const qnet_scan *s = &list[i];
        MUST(strncmp(s->subject, "sub-", 4) == 0 && memchr(s->subject, 0, sizeof s->subject));
        MUST(strspn(s->subject, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789+-_") == strlen(s->subject)); /* a part of paths */
        MUST(s->label == QNET_HC || s->label == QNET_HH);
        MUST(isnan(s->age) || (s->age >= 0 && s->age <= 150));
        MUST(s->sex == QNET_SEX_UNKNOWN || s->sex == QNET_MALE || s->sex == QNET_FEMALE);
        for (k = 0; k < i; k++) MUST(strcmp(list[k].subject, s->subject) != 0);
        qnet__format_number(age, sizeof age, s->age);
        MUST(qnet_buffer_printf(ctx, &text, "%s\t%s\t%s\t%s\n", s->subject,
                                isnan(s->age) || strchr(age, 'e') != NULL ? "n/a" : age,
                                s->sex == QNET_MALE ? "M" : s->sex == QNET_FEMALE ? "F" : "n/a",
                                s->label == QNET_HH ? "HH" : "HC") == QNET_OK);
    }
    status = parse(ctx, text.bytes, text.size, &again, &again_count, &again_bytes);
    MUST(status == QNET_OK && again_count == count);
    for (i = 0; i < count; i++)
        MUST(strcmp(again[i].subject, list[i].subject) == 0 && again[i].label == list[i].label &&
             again[i].sex == list[i].sex && (isnan(again[i].age) || again[i].age == list[i].age));
    qnet__free(ctx, list, list_bytes);
    qnet__free(ctx, again, again_bytes);
    qnet_buffer_free(ctx, &text);
    fuzz_end(ctx, &m, ((size_t)1 << 20) + 200 * size);
    return 0;
}
