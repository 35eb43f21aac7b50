/* examples/maps/find.h: names and sidecars of echoes. The folders that it walks through are in tests/maps.sh. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "examples/maps/find.h"
#include "test.h"

#define FOLDER "build/test_sidecar"

static qnet_context *ctx;

static void test_numbers(void)
{
    static const struct { const char *text; int found; double value; } cases[] = {
        {"{\"EchoTime\": 0.005}", 1, .005},
        {" {\"a\": [1, {\"EchoTime\": 9}], \"EchoTime\":5e-3 } \n", 1, .005},
        {"\xef\xbb\xbf{\"EchoTime\": 0.005}", 1, .005},
        {"{\"EchoTime\": \"0.005\"}", 1, .005},
        {"{\"EchoTime\": -1}", 1, -1},
        {"{\"EchoTime\": 0.005, \"EchoTime\": 0.006}", 1, .005},
        {"{\"EchoTime\": null}", 0, 0},
        {"{\"EchoTime2\": 1, \"echotime\": 2}", 0, 0},
        {"{}", 0, 0},
        {"{\"x\": {\"EchoTime\": 1}}", 0, 0},
        {"{\"EchoTime\": 1e999}", -1, 0},
        {"{\"EchoTime\": nan}", -1, 0},
        {"{\"EchoTime\": true}", -1, 0},
        {"{\"EchoTime\": \"\"}", -1, 0},
        {"{\"EchoTime\": [0.005]}", -1, 0},
        {"{\"EchoTime\": 0.005 s}", 0, 0},         /* no JSON at all, as are those below */
        {"{\"EchoTime\": 0.005}}", 0, 0},
        {"{\"EchoTime\": 0.005", 0, 0},
        {"{\"EchoTime\" 0.005}", 0, 0},
        {"{\"EchoTime\": \"0.005}", 0, 0},
        {"[{\"EchoTime\": 0.005}]", 0, 0},
        {"0.005", 0, 0},
        {"", 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double number = 0;
        const char *value;
        const int found = json_number(cases[i].text, "EchoTime", &number);
        CHECK(found == cases[i].found);
        if (found == 1) CHECK_NEAR(number, cases[i].value, 1e-15);
        if (found != cases[i].found) printf("    %s: %d\n", cases[i].text, found);
        CHECK(json_find(cases[i].text, "x", &value) == (i < 15));
    }
}

static void test_names(void)
{
    char value[32], key[256];
    session s;
    memset(&s, 0, sizeof s);
    strcpy(s.name, "sub-01");
    CHECK(bids_stem("a.nii.gz") == 1 && bids_stem("ab.nii") == 2);
    CHECK(bids_stem(".nii.gz") == 0 && bids_stem("a.json") == 0 && bids_stem("a.gz") == 0);
    CHECK(bids_entity("sub-01_echo-12_part-mag_MEGRE.nii", "echo", value) && strcmp(value, "12") == 0);
    CHECK(bids_entity("sub-01_run-2.nii", "run", value) && strcmp(value, "2") == 0);
    CHECK(!bids_entity("sub-01_MEGRE.nii", "echo", value) && value[0] == '\0');
    CHECK(!bids_entity("sub-xecho-1_MEGRE.nii", "echo", value));
    common_name("sub-01_run-1_echo-2_flip-1_part-mag_VFA.nii.gz", 0, key);
    CHECK(strcmp(key, "sub-01_run-1_VFA") == 0);
    common_name("sub-01_run-1_echo-2_flip-1_part-mag_VFA.nii.gz", 1, key);
    CHECK(strcmp(key, "sub-01_run-1_echo-2_flip-1_part-*_VFA") == 0);
    common_name("sub-01_part-phase_echo-2_MEGRE.nii", 0, key);
    CHECK(strcmp(key, "sub-01_MEGRE") == 0);
    CHECK(bids_same_label("01", "1") && bids_same_label("0", "00") && !bids_same_label("10", "1"));
    {
        static const choice any = {NULL, NULL, NULL}, second = {"2", NULL, NULL}, named = {NULL, "a", "VFA"};
        CHECK(is_echo(&s, &any, "sub-01_echo-1_part-mag_MEGRE.nii.gz", key));
        CHECK(is_echo(&s, &any, "sub-01_echo-1_MEGRE.nii", key));
        CHECK(!is_echo(&s, &any, "sub-01_echo-1_part-real_MEGRE.nii", key));
        CHECK(!is_echo(&s, &any, "sub-01_echo-1_part-mag_MEGRE.json", key));
        CHECK(!is_echo(&s, &any, "sub-011_echo-1_part-mag_MEGRE.nii", key));
        CHECK(!is_echo(&s, &any, "sub-01_T1w.nii.gz", key));
        CHECK(is_echo(&s, &second, "sub-01_run-02_echo-1_part-mag_MEGRE.nii", key));
        CHECK(!is_echo(&s, &second, "sub-01_run-1_echo-1_part-mag_MEGRE.nii", key));
        CHECK(!is_echo(&s, &second, "sub-01_echo-1_part-mag_MEGRE.nii", key));
        CHECK(is_echo(&s, &named, "sub-01_acq-a_echo-1_flip-1_part-mag_VFA.nii", key));
        CHECK(!is_echo(&s, &named, "sub-01_acq-a_echo-1_part-mag_MEGRE.nii", key));
        CHECK(!is_echo(&s, &named, "sub-01_acq-b_echo-1_flip-1_part-mag_VFA.nii", key));
    }
    {
        static const char image[] = "sub-01_run-1_echo-2_part-mag_MEGRE.nii.gz";
        CHECK(sidecar_fits("sub-01_run-1_echo-2_part-mag_MEGRE.json", image) == 4);
        CHECK(sidecar_fits("part-mag_echo-2_MEGRE.json", image) == 2);
        CHECK(sidecar_fits("MEGRE.json", image) == 0);
        CHECK(sidecar_fits("sub-01_echo-2_part-phase_MEGRE.json", image) == -1);
        CHECK(sidecar_fits("sub-01_echo-20_MEGRE.json", image) == -1);
        CHECK(sidecar_fits("sub-01_echo-2.json", image) == -1);
        CHECK(sidecar_fits("sub-01_echo-2_MEGRE.json", "sub-01_echo-20_MEGRE.nii") == -1);
        CHECK(sidecar_fits("MEGR.json", image) == -1);
        CHECK(sidecar_fits("GRE.json", image) == -1);
        CHECK(sidecar_fits("dataset_description.json", image) == -1);
        CHECK(sidecar_fits(".json", image) == -1);
    }
    CHECK(manufacturer_sign("GE") == -1 && manufacturer_sign("GE MEDICAL SYSTEMS") == -1);
    CHECK(manufacturer_sign("General Electric Company") == -1 && manufacturer_sign("ge") == -1);
    CHECK(manufacturer_sign("Siemens") == 1 && manufacturer_sign("Philips Medical Systems") == 1);
    CHECK(manufacturer_sign("Genuine") == 0 && manufacturer_sign("Siemens") == 1 && manufacturer_sign("") == 0);
    CHECK(is_chosen(NULL, "sub-01") && is_chosen("01", "sub-01") && is_chosen("sub-01", "sub-01"));
    CHECK(!is_chosen("1", "sub-01"));
}

static void save(const char *name, const char *text)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", FOLDER, name);
    CHECK_OK(ctx, qnet_file_replace(ctx, path, text, strlen(text)));
}

/* The nearest sidecar wins, field by field; in one folder that with more entities. */
static void test_inheritance(void)
{
    session *s = (session *)calloc(1, sizeof *s);
    const choice any = {NULL, NULL, NULL};
    qnet_buffer list;
    sidecar facts;
    bids b;
    if (!CHECK(s != NULL)) return;
    memset(&b, 0, sizeof b);
    b.ctx = ctx;
    b.folder = FOLDER;
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/sub-01/ses-a/anat"));
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER "/sub-02/anat"));
    save("MEGRE.json", "{\"EchoTime\": 0.5, \"RepetitionTime\": 0.03, \"Manufacturer\": \"GE\"}");
    save("echo-1_MEGRE.json", "{\"EchoTime\": 0.004}");
    save("sub-01/MEGRE.json", "{\"MagneticFieldStrength\": 7, \"RepetitionTime\": null}");
    save("sub-01/ses-a/anat/sub-01_ses-a_echo-1_part-mag_MEGRE.json", "{\"FlipAngle\": 15}");
    strcpy(s->subject, "sub-01");
    strcpy(s->label, "ses-a");
    strcpy(s->name, "sub-01_ses-a");
    strcpy(s->place, "/sub-01/ses-a/anat");
    snprintf(s->folder, sizeof s->folder, "%s", FOLDER "/sub-01/ses-a/anat");
    CHECK(sidecar_find(&b, s, FOLDER "/sub-01/ses-a/anat/sub-01_ses-a_echo-1_part-mag_MEGRE.nii", &facts) ==
          QNET_OK);
    CHECK(facts.count == 4 && strcmp(facts.manufacturer, "GE") == 0);
    CHECK_NEAR(facts.echo_time, .004, 0);
    CHECK_NEAR(facts.repetition_time, .03, 0);
    CHECK_NEAR(facts.flip_angle, 15, 0);
    CHECK_NEAR(facts.field_strength, 7, 0);
    CHECK(sidecar_find(&b, s, FOLDER "/sub-01/ses-a/anat/sub-01_ses-a_echo-2_part-mag_MEGRE.nii", &facts) ==
          QNET_OK);
    CHECK(facts.count == 2 && isnan(facts.flip_angle));
    CHECK_NEAR(facts.echo_time, .5, 0);
    save("sub-01/MEGRE.json", "{\"RepetitionTime\": 36}");
    CHECK(sidecar_find(&b, s, FOLDER "/sub-01/ses-a/anat/sub-01_ses-a_echo-2_part-mag_MEGRE.nii", &facts) ==
          QNET_ERROR_DATA);
    CHECK_CONTAINS(b.error, "sub-01/MEGRE.json: \"RepetitionTime\" is 36, expected seconds, at most 30: these");
    save("sub-01/MEGRE.json", "{\"FlipAngle\": 0}");
    CHECK(sidecar_find(&b, s, FOLDER "/sub-01/ses-a/anat/sub-01_ses-a_echo-2_part-mag_MEGRE.nii", &facts) ==
          QNET_ERROR_DATA);
    CHECK_CONTAINS(b.error, "\"FlipAngle\" is 0, expected degrees");
    /* Sessions in the order of their names. */
    CHECK(list_all(&b, NULL, NULL, &list) == QNET_OK && list.size == 2 * sizeof(session_name));
    if (list.size == 2 * sizeof(session_name)) {
        const session_name *names = (const session_name *)(const void *)list.bytes;
        CHECK(strcmp(names[0].subject, "sub-01") == 0 && strcmp(names[0].label, "ses-a") == 0);
        CHECK(strcmp(names[1].subject, "sub-02") == 0 && names[1].label[0] == '\0');
    }
    qnet_buffer_free(ctx, &list);
    CHECK(list_all(&b, "02", "a", &list) == QNET_ERROR_NOT_FOUND);
    CHECK_CONTAINS(b.error, FOLDER ": no folder sub-02/ses-a");
    CHECK(find_echoes(&b, &any, s) == QNET_ERROR_NOT_FOUND);
    CHECK_CONTAINS(b.error, "no sub-01_ses-a_echo-*_part-mag_MEGRE");
    free(s);
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    RUN(test_numbers);
    RUN(test_names);
    RUN(test_inheritance);
    qnet_context_destroy(ctx);
    return test_end();
}
