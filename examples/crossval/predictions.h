/* predictions.csv: a row per slice and per scan of every repeat. label and decisions: 1 HH, 0 HC; scan: index in
   the order of participants.tsv; slice from 0, the lowest; z: its index in the volume. Of shuffled labels the
   column is shuffled_label, and true_label is behind the others; where a scan has a session, that is the last. */
#ifndef CROSSVAL_PREDICTIONS_H
#define CROSSVAL_PREDICTIONS_H
#include "writer.h"

/* text as a field after RFC 4180: in quotes, inner ones doubled, where it needs them. */
static void put_csv_field(writer *w, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        put(w, text);
        return;
    }
    put(w, "\"");
    for (; *text; text++) put_bytes(w, *text == '"' ? "\"\"" : text, *text == '"' ? 2 : 1);
    put(w, "\"");
}

/* One item of level k / 2 and input k % 2; a number that is not finite is an empty field. */
static void put_csv_row(writer *w, const qnet_experiment *e, int k, int repeat, const qnet_item *item,
                        int sessions)
{
    const qnet_participant *p = &e->participants[item->scan];
    print(w, "%s,%s,%d,%d,", qnet_level_name((qnet_level)(k / 2)), qnet_input_name((qnet_input)(k % 2)), repeat + 1,
          item->fold + 1);
    put_csv_field(w, p->subject);
    print(w, ",%d,", item->scan);
    if (item->slice >= 0) print(w, "%d,%d", item->slice, item->z);
    else put(w, ",");
    print(w, ",%d,%g,%g,%g,%d,%d,%d", item->label, item->probability[0], item->probability[1], item->probability[2],
          item->decision[0], item->decision[1], item->decision[2]);
    if (e->config.shuffle_labels) print(w, ",%d", (int)p->true_label);
    if (sessions) {
        put(w, ",");
        put_csv_field(w, p->session);
    }
    put(w, "\n");
}

/* Image level first, crop before full, repeat by repeat, in the order of the cohort. */
static qnet_status report_csv(const qnet_experiment *e, qnet_buffer *csv)
{
    const int shuffled = e->config.shuffle_labels;
    writer w = writer_begin(e->ctx, csv, "", 0);
    int sessions = 0;
    for (int i = 0; i < e->participants_count; i++) sessions |= e->participants[i].session[0] != 0;
    print(&w, "level,input,repeat,fold,subject,scan,slice,z,%slabel,p_resnet,p_resnetswa,p_qnet,d_resnet,d_resnetswa,"
              "d_qnet%s%s\n", shuffled ? "shuffled_" : "", shuffled ? ",true_label" : "", sessions ? ",session" : "");
    for (int k = 0; k < 2 * QNET_LEVELS; k++) {
        const qnet_level_result *r = &e->level[k % 2][k / 2];
        const size_t rows = e->config.use_input[k % 2] ? (size_t)e->config.repeats * r->count : 0;
        for (size_t i = 0; i < rows && w.status == QNET_OK; i++)
            put_csv_row(&w, e, k, (int)(i / r->count), &r->items[i], sessions);
    }
    return writer_end(&w);
}
#endif
