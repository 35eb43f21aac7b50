/* examples/delong.c: how it reads a table, and Holm's p against R's p.adjust. The program itself, its
   figures against pROC's, is in delong.sh. */
#define main delong_main
#include "delong.c"
#undef main
#include "test.h"

static scores s;
static options o;

/* Reads text[size] with the options in o. */
static int reads(const char *text, size_t size)
{
    char *copy = (char *)malloc(size + 1); /* so that a sanitizer sees a read past the end */
    int status;
    if (!CHECK(copy != NULL)) return -1;
    memcpy(copy, text, size);
    copy = (char *)realloc(copy, size ? size : 1);
    free_scores(&s);
    status = read_scores(&s, &o, copy, size);
    free(copy);
    return status;
}

/* Two rows, positive .5 and negative 2, in column `name`. */
static void check_two(const char *text, size_t models, const char *name)
{
    if (!CHECK(reads(text, strlen(text)) == 1)) {
        printf("    %s\n    %s\n", text, s.t.error);
        return;
    }
    CHECK(s.rows == 2 && s.models == models && s.positive[0] == 1 && s.positive[1] == 0);
    CHECK(s.value[0] == .5 && s.value[models] == 2 && strcmp(s.name[s.column[0]], name) == 0);
}

static void refuses(const char *text, const char *sentence)
{
    CHECK(reads(text, strlen(text)) == -1);
    CHECK_CONTAINS(s.t.error, sentence);
}

static void test_forms(void)
{
    memset(&o, 0, sizeof o);
    check_two("label,a\n1,.5\n0,2\n", 1, "a");
    check_two("label,a\n1,.5\n0,2", 1, "a");
    check_two("label;a\r\n1;.5\r\n0;2\r\n", 1, "a");
    check_two("label\ta\r1\t.5\r0\t2\r", 1, "a");
    check_two("\xEF\xBB\xBFlabel,a\n1,.5\n0,2\n", 1, "a");
    check_two("\xEF\xBB\xBF" "1,.5\n0,2\n", 1, "2");
    check_two("\n  \nlabel,a\n\n1,.5\n\r\n0,2\n\n", 1, "a");
    check_two("\"label\",\"a\"\n\"1\",\".5\"\n \"0\" , \"2\" \n", 1, "a");
    check_two("label;\"a;\"\"b\"\"\"\n1;.5\n0;2\n", 1, "a;\"b\"");
    check_two("label,\"a;b\tc\"\n1,.5\n0,2\n", 1, "a;b\tc");
    check_two(" label , a \n HH , +5e-1\nHC,2.0\n", 1, "a");
    check_two("1,.5\n0,2\n", 1, "2");
    check_two("HH,.5\n0.0,2\n", 1, "2");
    check_two("a,label,b\n.5,1,7\n2,0,7\n", 2, "a");
    check_two("truth,a,b,c\n1,.5,3,4\n0,2,5,6\n", 3, "a");
    CHECK(s.value[1] == 3 && s.value[5] == 6);
}

static void test_options(void)
{
    static const char clusters[] = "id,label,a\nB,1,.5\nA,0,2\nB,1,3\nC,1,1\n,1,3\nB,0,1\n";
    memset(&o, 0, sizeof o);
    o.label = "y";
    o.score = "b,a";
    check_two("a,y,b\n9,1,.5\n8,0,2\n", 2, "b");
    CHECK(s.value[1] == 9 && s.value[3] == 8);
    o.score = NULL;
    o.positive = "pat";
    check_two("y,a\npat,.5\nctl,2\n", 1, "a");
    refuses("y,a\npat,.5\nctl,2\nx\x1b[1m,3\n", "line 4: a third label, \"x?[1m\", beside \"pat\" and \"ctl\"; "
            "the line is \"x?[1m,3\"");
    o.label = "2";
    o.positive = NULL;
    check_two(".5,1\n2,0\n", 1, "1");
    memset(&o, 0, sizeof o);
    o.header = 1;
    check_two("label,2019\n1,.5\n0,2\n", 1, "2019");
    memset(&o, 0, sizeof o);
    o.where[0] = "site=A";
    o.where[1] = "visit=";
    o.wheres = 2;
    check_two("label,a,site,visit\n1,.5,A,\n1,x,B,\n,,A,2\n0,2,A,\n", 1, "a");
    CHECK(s.other == 2);
    refuses("label,a,site,visit\n1,.5,B,\n", "no row is left (1 by --where, 0 by --missing)");
    memset(&o, 0, sizeof o);
    o.skip = 1;
    check_two("label,a\n1,.5\n1,\n,3\nNA,n/a\n0,2\n1,N/A\n", 1, "a");
    CHECK(s.skipped == 4);
    refuses("label,a,b\n1,.5,.5\n1,,7x\n", "line 3: column b: expected a number");
    refuses("label,a\n1,\n", "no row is left (0 by --where, 1 by --missing)");
    o.cluster = "id";
    if (!CHECK(reads(clusters, sizeof clusters - 1) == 1)) return;
    CHECK(s.rows == 5 && s.models == 1 && s.units == 3 && s.with[0] == 2 && s.with[1] == 2);
    CHECK(s.unit[0] == s.unit[2] && s.unit[0] == s.unit[4] && s.unit[0] != s.unit[1] &&
          s.unit[3] != s.unit[0] && s.unit[3] != s.unit[1]);
}

static void test_refusals(void)
{
    static const char many[] = "label,a\n1,.5\n0,.25,\"a\nb\"\n";
    char text[400];
    memset(&o, 0, sizeof o);
    refuses("label,a,b\n1,.9,.6\n0,.2,\n1,.9,.6\n", "line 3: column b: no value (--missing skip leaves such "
            "rows out); the line is \"0,.2,\"");
    refuses("1,NA,.6\n1,.9,.6\n0,.2,.6\n", "line 1: column 2: no value");
    refuses("1,.9x,.6\n1,.9,.6\n0,.2,.6\n", "line 1: column 2: expected a number such as 0.25, found \".9x\"");
    CHECK_CONTAINS(s.t.error, "(if it holds names: --header)");
    refuses("HH,.9x\nHH,.5\nHC,2\n", "line 1: column 2: expected a number");
    refuses("HH,nan\nHH,.5\nHC,2\n", "line 1: column 2: expected a number");
    refuses("HH,NA\nHH,.5\nHC,2\n", "line 1: column 2: no value");
    refuses("HH,\nHH,.5\nHC,2\n", "line 1: column 2 has no name");
    refuses(",label,a\n0,1,.5\n1,0,2\n", "column 1 has no name"); /* an index column, as pandas writes it */
    refuses(",truth,a\n0,1,.5\n1,0,2\n", "column 1 has no name");
    refuses("label,a\n1,.5\n0,.5 2\n", "line 3: column a: expected a number such as 0.25, found \".5 2\"");
    refuses("label;a\n1;0,5\n", "found \"0,5\"");
    refuses("label,a\r\n\r\n1,.5\r\n1,x\r\n", "line 4: column a");
    refuses("label,a\n1,nan\n", "found \"nan\"");
    refuses("label,a\n1,-inf\n", "found \"-inf\"");
    refuses("label,a\n1,1e999\n", "found \"1e999\"");
    refuses("label,a\n1,0x10\n", "found \"0x10\"");
    refuses("label,a\n1,1e\n", "found \"1e\"");
    refuses("label,a\n1,.5,\n", "line 2: expected 2 fields as in the first line, found 3");
    refuses("label,a\n1\n", "line 2: expected 2 fields as in the first line, found 1");
    refuses(many, "line 3: a quote that is not closed on its line");
    refuses("label,a\n1,\"\"\"\n", "line 2: a quote that is not closed");
    refuses("label,a\n1,\"5\"x\n", "line 2: text behind a closing quote");
    refuses("label,a\n2,.5\n", "column label: expected a label, 0 or HC and 1 or HH, found \"2\"");
    refuses("label,label,a\n1,1,.5\n", "more than one column is called \"label\"");
    refuses("label a\n1 .5\n", "line 1: no column is left for the scores");
    refuses("", "the table is empty");
    refuses(" \n\r\n", "the table is empty");
    refuses("label,a\n", "no row is left");
    o.score = "a,c";
    refuses("label,a,b\n1,.5,2\n", "line 1: no column is called \"c\"; the line is \"label,a,b\"");
    o.score = "label";
    refuses("label,a,b\n1,.5,2\n", "the label cannot be a score");
    o.score = "";
    refuses("label,a,b\n1,.5,2\n", "no column is called \"\"");
    o.score = NULL;
    CHECK(reads("\xFF\xFEl\0a\0", 6) == -1); /* UTF-16 */
    CHECK_CONTAINS(s.t.error, "line 1: a zero byte");
    CHECK(reads("label,a\n1,.5\0", 13) == -1);
    CHECK_CONTAINS(s.t.error, "line 2: a zero byte");
    /* What is shown of a long line ends before a whole character, and has no control characters. */
    strcpy(text, "label,a\n1 ,"); /* the cut falls into a character */
    for (int i = 0; i < 100; i++) strcat(text, "\xC3\xA9");
    refuses(text, "\xA9...\"");
    CHECK(strstr(s.t.error, "\xC3...") == NULL);
    strcpy(text, "label,a\n1,\x07\xC2\x9B\x9B\x9B\xE2\x80\x93\x7F");
    refuses(text, "found \"?????\xE2\x80\x93?\"; the line is \"1,?????\xE2\x80\x93?\"");
}

static void test_crossval_table(void)
{
    static const char text[] = "level,input,repeat,fold,subject,scan,slice,z,label,p_resnet,p_qnet,d_resnet\n"
                               "image,crop,1,1,sub-01,0,0,3,1,.5,.25,1\nimage,crop,1,1,sub-02,1,0,3,0,2,.25,1\n"
                               "image,full,1,1,sub-01,0,0,3,1,.6,.25,1\nscan,crop,1,1,sub-01,0,,,1,.7,.25,1\n";
    memset(&o, 0, sizeof o);
    refuses(text, "line 4: input is \"full\" here and \"crop\" above: choose, as with --where input=full");
    o.where[0] = "input=crop";
    o.wheres = 1;
    refuses(text, "line 5: level is \"scan\" here and \"image\" above");
    o.where[1] = "level=image";
    o.wheres = 2;
    o.cluster = "subject";
    check_two(text, 2, "p_resnet");
    CHECK(s.units == 2 && s.of_crossval);
}

static void test_holm(void)
{
    /* R: p.adjust(p, "holm") */
    static const double p[] = { .01, .04, .03, .005, .03, .9, .6 }, want[] = { .06, .15, .15, .035, .15, 1, 1 };
    static const double ends[] = { 0, 1, .02 }, of_ends[] = { 0, 1, .04 }, one = .004;
    const double *order[7];
    double adjusted[7];
    holm(p, 7, order, adjusted);
    for (int i = 0; i < 7; i++) CHECK_NEAR(adjusted[i], want[i], 1e-15);
    holm(ends, 3, order, adjusted);
    for (int i = 0; i < 3; i++) CHECK(adjusted[i] == of_ends[i]);
    holm(&one, 1, order, adjusted);
    CHECK(adjusted[0] == one);
}

int main(void)
{
    RUN(test_forms);
    RUN(test_options);
    RUN(test_refusals);
    RUN(test_crossval_table);
    RUN(test_holm);
    free_scores(&s);
    return test_end();
}
