/* The files that crossval makes of an experiment: results.json, manifest.json and report.html. */

static qnet_status publish_write(void *user, const qnet_experiment *e, const char *folder)
{
    typedef qnet_status (*writer)(const qnet_experiment *, qnet_buffer *);
    static const writer writers[3] = { qnet_experiment_manifest, qnet_experiment_html,
                                       qnet_experiment_json };
    static const char *const names[3] = { "manifest.json", "report.html", "results.json" };
    qnet_status status = QNET_OK;
    (void)user;
    for (int i = 0; i < 3 && status == QNET_OK; i++) {
        qnet_buffer text;
        char path[700];
        memset(&text, 0, sizeof text);
        status = writers[i](e, &text);
        snprintf(path, sizeof path, "%.660s/%s", folder, names[i]);
        if (status == QNET_OK) status = qnet_file_replace(e->ctx, path, text.bytes, text.size);
        qnet_buffer_free(e->ctx, &text);
    }
    return status;
}
