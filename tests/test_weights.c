/* Room >>weights: safetensors files and the networks in them. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "quick.h"

static double element(qnet_dtype dtype, const void *data, size_t i)
{
    double x;
    qnet__numbers((const unsigned char *)data + i * qnet_dtype_size(dtype), dtype, 1, &x);
    return x;
}

/* ---- an allocator that counts what is out and fails the n-th request -------------------------- */

typedef struct counter { long live, calls, fail_at; } counter;

static void *count_alloc(void *user, size_t size, size_t align)
{
    counter *c = (counter *)user;
    char *base, *p;
    if (++c->calls == c->fail_at || size > ((size_t)1 << 28)) return NULL;
    base = (char *)malloc(size + align + sizeof(base));
    if (base == NULL) return NULL;
    p = base + sizeof(base);
    p += (align - (uintptr_t)p % align) % align;
    memcpy(p - sizeof(base), &base, sizeof(base));
    c->live += (long)size;
    return p;
}

static void count_free(void *user, void *p, size_t size)
{
    char *base;
    memcpy(&base, (char *)p - sizeof(base), sizeof(base));
    ((counter *)user)->live -= (long)size;
    free(base);
}

static char logged[1024]; /* warnings since it was emptied */

static void keep_log(void *user, qnet_log_level level, const char *text)
{
    (void)user;
    if (level == QNET_LOG_WARNING) strncat(logged, text, sizeof(logged) - strlen(logged) - 1);
}

static qnet_context *make_context(counter *c)
{
    qnet_context *ctx = NULL;
    qnet_hooks hooks;
    memset(&hooks, 0, sizeof(hooks));
    memset(c, 0, sizeof(*c));
    hooks.allocator.user = c;
    hooks.allocator.alloc = count_alloc;
    hooks.allocator.free = count_free;
    hooks.log.message = keep_log;
    if (qnet_context_create(&hooks, &ctx) != QNET_OK) abort();
    return ctx;
}

/* ---- files made by hand ---------------------------------------------------------------------- */

typedef struct image { unsigned char bytes[8192]; size_t size; } image;

/* 8 bytes of length, header[header_size], then data_size bytes 0, 1, 2, ... */
static image file_of(const char *header, size_t header_size, size_t data_size)
{
    image f;
    size_t i;
    memset(&f, 0, sizeof(f));
    for (i = 0; i < 8; i++) f.bytes[i] = (unsigned char)((uint64_t)header_size >> (8 * i));
    memcpy(f.bytes + 8, header, header_size);
    for (i = 0; i < data_size; i++) f.bytes[8 + header_size + i] = (unsigned char)i;
    f.size = 8 + header_size + data_size;
    return f;
}

/* Whether t has these numbers. */
static int holds(const qnet_safetensor *t, const void *numbers)
{
    return memcmp(t->data, numbers, t->bytes) == 0;
}

static qnet_status read_image(qnet_context *ctx, const image *f, qnet_safetensors **out)
{
    qnet_memory_source state;
    qnet_source source = qnet_source_memory(&state, f->bytes, f->size, "file.st");
    return qnet_safetensors_read(ctx, &source, out);
}

/* Reading must fail with this status and words, leave `out` alone and give back all memory. */
static void fails(const char *header, size_t data_size, qnet_status expected, const char *words)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    image f = file_of(header, strlen(header), data_size);
    qnet_safetensors *out = NULL;
    long live = c.live;
    CHECK_FAILS(ctx, read_image(ctx, &f, &out), expected, words);
    CHECK_CONTAINS(qnet_last_error(ctx), "file.st");
    CHECK(out == NULL);
    CHECK(c.live == live);
    if (out != NULL) qnet_safetensors_destroy(out);
    qnet_context_destroy(ctx);
}

/* What is said of a number above 2^32: systems of 32 bits cannot even hold it. */
#define WIDE(words) (sizeof(size_t) > 4 ? (words) : "a smaller number")

/* One tensor 'a' with these fields. */
#define ONE(fields) "{\"a\":{" fields "}}"
#define A(shape, begin, end) \
    "\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]"

static void test_dtypes(void)
{
    static const size_t size[] = {8, 4, 2, 2, 8, 4, 2, 1, 8, 4, 2, 1, 1};
    int i;
    for (i = 0; i < 13; i++) CHECK(qnet_dtype_size((qnet_dtype)i) == size[i]);
    CHECK(strcmp(qnet_dtype_name(QNET_F32), "F32") == 0);
    CHECK(strcmp(qnet_dtype_name(QNET_BF16), "BF16") == 0);
    CHECK(strcmp(qnet_dtype_name(QNET_BOOL), "BOOL") == 0);
    CHECK(qnet_dtype_size((qnet_dtype)13) == 0);
    CHECK(strcmp(qnet_dtype_name((qnet_dtype)13), "?") == 0);
}

static void test_reads_a_file(void)
{
    static const char header[] =
        " { \"__metadata__\" : {\"k\":\"v\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20ac\\ud83d\\ude00\"},\n"
        "\"b\":{\"shape\":[2,1],\"data_offsets\":[8,12],\"dtype\":\"I16\"},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"none\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[8,8]},"
        "\"scalar\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[12,13]}}   ";
    counter c;
    qnet_context *ctx = make_context(&c);
    image f = file_of(header, sizeof(header) - 1, 13);
    qnet_safetensors *file = NULL;
    const qnet_safetensor *t;
    uint16_t word = 0;
    CHECK_OK(ctx, read_image(ctx, &f, &file));
    CHECK(file->count == 4 && file->metadata_count == 1);
    CHECK(strcmp(qnet_safetensors_metadata(file, "k"),
                 "v\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\\ud83d\\ude00") == 0);
    CHECK(qnet_safetensors_metadata(file, "no") == NULL);
    CHECK(qnet_safetensors_find(file, "no") == NULL);
    CHECK(strcmp(file->tensors[0].name, "b") == 0); /* the header's order */
    t = qnet_safetensors_find(file, "b");
    CHECK(t->dtype == QNET_I16 && t->ndim == 2 && t->shape[0] == 2 && t->shape[1] == 1);
    CHECK(t->count == 2 && t->bytes == 4);
    memcpy(&word, t->data, sizeof(word));
    CHECK(word == 0x0908);
    t = qnet_safetensors_find(file, "scalar");
    CHECK(t->ndim == 0 && t->count == 1 && ((const unsigned char *)t->data)[0] == 12);
    t = qnet_safetensors_find(file, "none");
    CHECK(t->count == 0 && t->bytes == 0);
    qnet_safetensors_destroy(file);
    f = file_of("{}", 2, 0);
    CHECK_OK(ctx, read_image(ctx, &f, &file));
    CHECK(file->count == 0 && file->metadata_count == 0);
    qnet_safetensors_destroy(file);
    qnet_safetensors_destroy(NULL);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

static void test_refuses_bad_headers(void)
{
    fails("", 0, QNET_ERROR_FORMAT, "header of 2 bytes or more, found 0");
    fails("[]", 0, QNET_ERROR_FORMAT, "header byte 0 of 2");
    fails("{} x", 0, QNET_ERROR_FORMAT, "nothing behind");
    fails("{\"a\":1}", 0, QNET_ERROR_FORMAT, "'{' of a tensor");
    fails("{\"a\":{}}", 0, QNET_ERROR_FORMAT, "'a': dtype is missing");
    fails("{\"a\"", 0, QNET_ERROR_FORMAT, "':'");
    fails("{\"a", 0, QNET_ERROR_FORMAT, "end of a string");
    fails("{\"a\\", 0, QNET_ERROR_FORMAT, "behind a backslash");
    fails("{\"\\q\":1}", 0, QNET_ERROR_FORMAT, "behind a backslash");
    fails("{\"\\u12g4\":1}", 0, QNET_ERROR_FORMAT, "hexadecimal");
    fails("{\"\\u0000\":1}", 0, QNET_ERROR_FORMAT, "NUL");
    fails("{\"\n\":1}", 0, QNET_ERROR_FORMAT, "control character");
    fails("{\"\xff\":1}", 0, QNET_ERROR_FORMAT, "UTF-8");
    fails("{\"\xc0\x80\":1}", 0, QNET_ERROR_FORMAT, "UTF-8");         /* overlong */
    fails("{\"\xe0\x80\x80\":1}", 0, QNET_ERROR_FORMAT, "UTF-8");     /* overlong */
    fails("{\"\xed\xa0\x80\":1}", 0, QNET_ERROR_FORMAT, "UTF-8");     /* surrogate */
    fails("{\"\xf4\x90\x80\x80\":1}", 0, QNET_ERROR_FORMAT, "UTF-8"); /* above U+10FFFF */
    fails("{\"\xe2\x82", 0, QNET_ERROR_FORMAT, "UTF-8");              /* cut off */
    fails(ONE(A("[1]", "0", "4")) ",", 4, QNET_ERROR_FORMAT, "nothing behind");
    fails("{\"a\":{" A("[1]", "0", "4") "},}", 4, QNET_ERROR_FORMAT, "a string");
    fails(ONE("\"dtype\":\"F32\",\"shape\":[1]"), 4, QNET_ERROR_FORMAT, "data_offsets is missing");
    fails(ONE("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, QNET_ERROR_FORMAT, "shape is missing");
    fails(ONE("\"shape\":[1],\"data_offsets\":[0,4]"), 4, QNET_ERROR_FORMAT, "dtype is missing");
    fails(ONE(A("[1]", "0", "4") ",\"shape\":[1]"), 4, QNET_ERROR_FORMAT, "'shape' is there twice");
    fails(ONE(A("[1]", "0", "4") ",\"dtype\":\"F32\""), 4, QNET_ERROR_FORMAT, "'dtype' is there twice");
    fails(ONE(A("[1]", "0", "4") ",\"x\":1"), 4, QNET_ERROR_FORMAT,
          "'a': field 'x' is none of dtype, shape and data_offsets");
    fails(ONE("\"shape\":[4],\"dtype\":\"F8_E4M3\",\"data_offsets\":[0,4]"), 4, QNET_ERROR_UNSUPPORTED,
          "tensor 'a': dtype F8_E4M3: expected a type");
    fails(ONE(A("[-1]", "0", "4")), 4, QNET_ERROR_FORMAT, "whole number");
    fails(ONE(A("[1.0]", "0", "4")), 4, QNET_ERROR_FORMAT, "',' or the end");
    fails(ONE(A("[01]", "0", "4")), 4, QNET_ERROR_FORMAT, "leading zero");
    fails(ONE(A("[1,]", "0", "4")), 4, QNET_ERROR_FORMAT, "whole number");
    fails(ONE(A("[99999999999999999999]", "0", "4")), 4, QNET_ERROR_FORMAT, "smaller number");
    fails(ONE(A("[1,1,1,1,1,1,1,1,1]", "0", "4")), 4, QNET_ERROR_LIMIT, "more than 8");
    fails(ONE(A("[1]", "0", "4,8")), 4, QNET_ERROR_LIMIT, "more than 2");
    fails(ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]"), 4, QNET_ERROR_FORMAT, "two");
    fails(ONE(A("[1]", "4", "0")), 4, QNET_ERROR_FORMAT, "backwards");
    fails(ONE(A("[2]", "0", "4")), 4, QNET_ERROR_FORMAT, "'a': F32 [2] does not take the 4 bytes");
    /* The product wraps round to 4 bytes in 64 bits: 2^62 * 4 + ... */
    fails(ONE(A("[4611686018427387905]", "0", "4")), 4, QNET_ERROR_FORMAT, WIDE("does not take"));
    fails(ONE(A("[4294967296,4294967296]", "0", "0")), 0, QNET_ERROR_FORMAT, WIDE("does not take"));
    fails("{\"a\":{" A("[1]", "0", "4") "},\"a\":{" A("[1]", "4", "8") "}}", 8, QNET_ERROR_FORMAT,
          "'a' is there twice");
    fails("{\"a\":{" A("[1]", "0", "4") "},\"\\u0061\":{" A("[1]", "4", "8") "}}", 8,
          QNET_ERROR_FORMAT, "'a' is there twice");
    fails("{\"a\":{" A("[2]", "0", "8") "},\"b\":{" A("[2]", "4", "12") "}}", 12, QNET_ERROR_FORMAT,
          "'b' overlaps 'a'");
    fails("{\"a\":{" A("[1]", "0", "4") "},\"b\":{" A("[1]", "8", "12") "}}", 12, QNET_ERROR_FORMAT,
          "a hole between the tensors: they end at byte 12 and have 8");
    fails(ONE(A("[1]", "4", "8")), 8, QNET_ERROR_FORMAT, "hole");
    fails(ONE(A("[2]", "0", "8")), 7, QNET_ERROR_FORMAT, "expected 8 bytes of tensors, found 7");
    fails(ONE(A("[2]", "0", "8")), 9, QNET_ERROR_FORMAT, "goes on behind the 8 bytes");
    /* A size that is believed would ask for 4 TB here. */
    fails(ONE(A("[1099511627776]", "0", "4398046511104")), 4,
          sizeof(size_t) > 4 ? QNET_ERROR_LIMIT : QNET_ERROR_FORMAT, WIDE("the limit is"));
    fails(ONE(A("[268435456]", "0", "1073741824")), 4, QNET_ERROR_FORMAT, "found 4");
    fails("{\"__metadata__\":[]}", 0, QNET_ERROR_FORMAT, "'{' of __metadata__");
    fails("{\"__metadata__\":{\"a\":1}}", 0, QNET_ERROR_FORMAT, "a string");
    fails("{\"__metadata__\":{\"a\":{}}}", 0, QNET_ERROR_FORMAT, "a string");
    fails("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, QNET_ERROR_FORMAT, "'a' is there twice");
    fails("{\"__metadata__\":nul", 0, QNET_ERROR_FORMAT, "'{' of __metadata__");
    fails("{\"__metadata__\":{\"a\":null}}", 0, QNET_ERROR_FORMAT, "a string");
    fails("{\"__metadata__\":{},\"__metadata__\":{}}", 0, QNET_ERROR_FORMAT, "__metadata__ is there");
}

/* Metadata of any length, or none. */
static void test_metadata(void)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_safetensors *file = NULL;
    char text[700], key[101];
    image f = file_of("{\"__metadata__\":null}", 21, 0);
    CHECK_OK(ctx, read_image(ctx, &f, &file));
    CHECK(file->count == 0 && file->metadata_count == 0);
    qnet_safetensors_destroy(file);
    snprintf(key, sizeof key, "%0100d", 8);
    snprintf(text, sizeof text, "{\"__metadata__\":{\"%s\":\"x\",\"k\":\"v\"}}", key);
    f = file_of(text, strlen(text), 0);
    CHECK_OK(ctx, read_image(ctx, &f, &file));
    CHECK(file->metadata_count == 2 && strcmp(qnet_safetensors_metadata(file, key), "x") == 0);
    CHECK(strcmp(qnet_safetensors_metadata(file, "k"), "v") == 0);
    qnet_safetensors_destroy(file);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

static void test_refuses_long_names_and_cut_files(void)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    char header[512];
    image f;
    qnet_safetensors *file = NULL;
    size_t whole, n;
    snprintf(header, sizeof(header), "{\"%0127d\":{" A("[1]", "0", "4") "}}", 7);
    f = file_of(header, strlen(header), 4);
    CHECK_OK(ctx, read_image(ctx, &f, &file));
    qnet_safetensors_destroy(file);

    whole = f.size;
    for (n = 0; n < whole; n++) { /* every truncation */
        f.size = n;
        CHECK(read_image(ctx, &f, &file) == QNET_ERROR_FORMAT);
    }
    snprintf(header, sizeof(header), "{\"%0128d\":{" A("[1]", "0", "4") "}}", 7);
    f = file_of(header, strlen(header), 4);
    CHECK_FAILS(ctx, read_image(ctx, &f, &file), QNET_ERROR_LIMIT, "a name above 127 bytes");
    f = file_of("{}", 2, 0);
    f.bytes[7] = 0x7f; /* a header of 2^62 bytes */
    CHECK_FAILS(ctx, read_image(ctx, &f, &file), QNET_ERROR_LIMIT, "header of at most 16777216 bytes");
    f.bytes[8] = 'x';
    CHECK_FAILS(ctx, read_image(ctx, &f, &file), QNET_ERROR_FORMAT, "not a safetensors file");
    CHECK_FAILS(ctx, qnet_safetensors_read(ctx, NULL, &file), QNET_ERROR_ARGUMENT, "NULL");
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* Every byte of a file set to a few other values: an error or a file, never more. The sanitizers
   watch. */
static void test_survives_any_byte(void)
{
    static const char header[] =
        "{\"__metadata__\":{\"k\":\"\\u00e9\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,1],"
        "\"data_offsets\":[8,12]},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    static const char others[] = "\"\\{}[]:,0919u \xff\xc3";
    counter c;
    qnet_context *ctx = make_context(&c);
    image f = file_of(header, sizeof(header) - 1, 12);
    qnet_safetensors *file = NULL;
    long read = 0, refused = 0, live = c.live;
    size_t i, k;
    for (i = 0; i < 8 + sizeof(header) - 1; i++)
        for (k = 0; k < sizeof(others); k++) {
            unsigned char was = f.bytes[i];
            f.bytes[i] = (unsigned char)others[k];
            if (read_image(ctx, &f, &file) == QNET_OK) {
                read++;
                qnet_safetensors_destroy(file);
            } else {
                refused++;
            }
            f.bytes[i] = was;
        }
    CHECK(read > 10 && refused > 1000);
    CHECK(c.live == live);
    qnet_context_destroy(ctx);
}

static void test_many_tensors(void)
{
    enum { N = 3000 };
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_safetensor *t = (qnet_safetensor *)calloc(N, sizeof(*t));
    qnet_buffer bytes;
    qnet_sink sink;
    qnet_memory_source state;
    qnet_source source;
    qnet_safetensors *file = NULL;
    uint16_t *data = (uint16_t *)calloc(N, sizeof(*data));
    int i;
    memset(&bytes, 0, sizeof(bytes));
    for (i = 0; i < N; i++) {
        data[i] = (uint16_t)(i * 7);
        snprintf(t[i].name, sizeof(t[i].name), "%d", (i * 1237) % N);
        t[i].dtype = QNET_U16;
        t[i].ndim = 1;
        t[i].shape[0] = i % 3 != 0; /* a third of them is empty */
        t[i].data = &data[i];
    }
    sink = qnet_sink_buffer(ctx, &bytes, NULL);
    CHECK_OK(ctx, qnet_safetensors_write(ctx, &sink, t, N, NULL, 0));
    source = qnet_source_memory(&state, bytes.bytes, bytes.size, NULL);
    CHECK_OK(ctx, qnet_safetensors_read(ctx, &source, &file));
    CHECK(file->count == N);
    for (i = 0; i < N; i++)
        if (i % 3 != 0 && !holds(qnet_safetensors_find(file, t[i].name), &data[i]))
            CHECK(0 && "data agrees");
    qnet_safetensors_destroy(file);
    bytes.size = 0;
    strcpy(t[1].name, t[2900].name);
    CHECK_FAILS(ctx, qnet_safetensors_write(ctx, &sink, t, N, NULL, 0), QNET_ERROR_ARGUMENT, "twice");
    CHECK(bytes.size == 0);
    qnet_buffer_free(ctx, &bytes);
    free(t);
    free(data);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* Numbers are in the host's order in memory and little-endian in a file, both ways and on any host:
   1.5, -2, 258 and 2^32 + 1 as the format has them. */
static void test_byte_order(void)
{
    static const unsigned char bytes[] = {0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0, 0,    0, 0xc0, 0x80,
                                          0xc0, 2, 1, 1, 0, 0,    0,    1, 0, 0, 0,    9};
    const double f64 = 1.5;
    const float f32 = -2;
    const uint16_t half = 0xc080, i16 = 258; /* -4 in bfloat16 */
    const int64_t i64 = (int64_t)1 << 32 | 1;
    const unsigned char u8 = 9;
    const void *data[6];
    static const qnet_dtype dtype[] = {QNET_F64, QNET_F32, QNET_BF16, QNET_I16, QNET_I64, QNET_U8};
    qnet_safetensor t[6];
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_buffer out, again;
    qnet_sink sink;
    qnet_memory_source state;
    qnet_source source;
    qnet_safetensors *file = NULL;
    int i;
    data[0] = &f64, data[1] = &f32, data[2] = &half, data[3] = &i16, data[4] = &i64, data[5] = &u8;
    memset(t, 0, sizeof(t));
    memset(&out, 0, sizeof(out));
    memset(&again, 0, sizeof(again));
    for (i = 0; i < 6; i++) {
        snprintf(t[i].name, sizeof(t[i].name), "t%d", i);
        t[i].dtype = dtype[i];
        t[i].data = data[i];
    }
    sink = qnet_sink_buffer(ctx, &out, "t");
    CHECK_OK(ctx, qnet_safetensors_write(ctx, &sink, t, 6, NULL, 0));
    CHECK(out.size > sizeof(bytes) &&
          memcmp(out.bytes + out.size - sizeof(bytes), bytes, sizeof(bytes)) == 0);
    source = qnet_source_memory(&state, out.bytes, out.size, "t");
    CHECK_OK(ctx, qnet_safetensors_read(ctx, &source, &file));
    for (i = 0; i < 6; i++)
        CHECK(memcmp(file->tensors[i].data, data[i], qnet_dtype_size(dtype[i])) == 0);
    CHECK(element(QNET_F64, file->tensors[0].data, 0) == 1.5);
    CHECK(element(QNET_F32, file->tensors[1].data, 0) == -2);
    CHECK(element(QNET_BF16, file->tensors[2].data, 0) == -4);
    CHECK(element(QNET_I64, file->tensors[4].data, 0) == 4294967297.0);
    sink = qnet_sink_buffer(ctx, &again, "t");
    CHECK_OK(ctx, qnet_safetensors_write(ctx, &sink, file->tensors, 6, NULL, 0));
    CHECK(again.size == out.size && memcmp(again.bytes, out.bytes, out.size) == 0);
    qnet_safetensors_destroy(file);
    qnet_buffer_free(ctx, &out);
    qnet_buffer_free(ctx, &again);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

static void test_writes_what_it_reads(void)
{
    static const char *const pairs[] = {"who", "an \"author\"\n\\ \xc3\xa9", "", ""};
    static const char *const null_pair[] = {"who", NULL};
    double d[] = {1.5, -2, 1e300};
    int32_t k[] = {-1, 7};
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_safetensor t[2];
    qnet_buffer bytes;
    qnet_sink sink;
    qnet_memory_source state;
    qnet_source source;
    qnet_safetensors *file = NULL;
    const qnet_safetensor *got;
    memset(&bytes, 0, sizeof(bytes));
    memset(t, 0, sizeof(t));
    strcpy(t[0].name, "d \xe2\x82\xac");
    t[0].dtype = QNET_F64;
    t[0].ndim = 2;
    t[0].shape[0] = 3;
    t[0].shape[1] = 1;
    t[0].data = d;
    strcpy(t[1].name, "k");
    t[1].dtype = QNET_I32;
    t[1].ndim = 1;
    t[1].shape[0] = 2;
    t[1].data = k;
    sink = qnet_sink_buffer(ctx, &bytes, "out.st");
    CHECK_OK(ctx, qnet_safetensors_write(ctx, &sink, t, 2, pairs, 2));
    CHECK((bytes.size - 8 - 32) % 8 == 0); /* the data begins at a multiple of 8 */
    source = qnet_source_memory(&state, bytes.bytes, bytes.size, NULL);
    CHECK_OK(ctx, qnet_safetensors_read(ctx, &source, &file));
    CHECK(strcmp(qnet_safetensors_metadata(file, "who"), pairs[1]) == 0);
    CHECK(strcmp(qnet_safetensors_metadata(file, ""), "") == 0);
    got = qnet_safetensors_find(file, "d \xe2\x82\xac");
    CHECK(got != NULL && got->dtype == QNET_F64 && got->ndim == 2 && got->shape[0] == 3);
    CHECK(holds(got, d));
    CHECK(holds(qnet_safetensors_find(file, "k"), k));
    qnet_safetensors_destroy(file);

    bytes.size = 0;
    t[1].name[0] = (char)0xff;
    CHECK_FAILS(ctx, qnet_safetensors_write(ctx, &sink, t, 2, NULL, 0), QNET_ERROR_ARGUMENT, "UTF-8");
    strcpy(t[1].name, "__metadata__");
    CHECK_FAILS(ctx, qnet_safetensors_write(ctx, &sink, t, 2, NULL, 0), QNET_ERROR_ARGUMENT,
                "'__metadata__'");
    strcpy(t[1].name, "k");
    t[1].ndim = 9;
    CHECK_FAILS(ctx, qnet_safetensors_write(ctx, &sink, t, 2, NULL, 0), QNET_ERROR_ARGUMENT, "'k'");
    t[1].ndim = 2;
    t[1].shape[0] = t[1].shape[1] = (size_t)-1;
    CHECK_FAILS(ctx, qnet_safetensors_write(ctx, &sink, t, 2, NULL, 0), QNET_ERROR_ARGUMENT, "'k'");
    t[1].ndim = 1;
    t[1].shape[0] = 2;
    t[1].data = NULL;
    CHECK_FAILS(ctx, qnet_safetensors_write(ctx, &sink, t, 2, NULL, 0), QNET_ERROR_ARGUMENT, "no data");
    t[1].data = k;
    CHECK_FAILS(ctx, qnet_safetensors_write(ctx, &sink, t, 2, null_pair, 1), QNET_ERROR_ARGUMENT,
                "string 1 is NULL");
    CHECK_FAILS(ctx, qnet_safetensors_write(ctx, &sink, NULL, 2, NULL, 0), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_safetensors_write(ctx, &sink, t, -1, NULL, 0), QNET_ERROR_ARGUMENT, "below 0");
    qnet_buffer_free(ctx, &bytes);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* ---- a small network --------------------------------------------------------------------------- */

static const qnet_param small_entries[] = {
    {"conv.weight", 4, {3, 2, 2, 5}, 0, 60, QNET_LAYOUT_HWIO, 1},
    {"fc.weight", 2, {2, 3, 1, 1}, 60, 6, QNET_LAYOUT_PLAIN, 1},
    {"fc.bias", 1, {2, 1, 1, 1}, 66, 2, QNET_LAYOUT_PLAIN, 1},
    {"bn.running_mean", 1, {5, 1, 1, 1}, 68, 5, QNET_LAYOUT_PLAIN, 0},
    {"bn.num_batches_tracked", 0, {1, 1, 1, 1}, 73, 1, QNET_LAYOUT_PLAIN, 0},
    {"bn.running_var", 1, {3, 1, 1, 1}, 74, 3, QNET_LAYOUT_PLAIN, 0},
};
static const qnet_param_table small = {"small", small_entries, 6, 68, 77};

static void fill_small(qnet_real block[77])
{
    int i;
    for (i = 0; i < 77; i++) block[i] = (qnet_real)(i * .25 - 3);
    block[73] = 12;
    block[75] = 0; /* a variance may be 0 */
}

/* Writes block and reads the file. */
static qnet_safetensors *written(qnet_context *ctx, const qnet_real *block)
{
    qnet_buffer bytes;
    qnet_sink sink;
    qnet_memory_source state;
    qnet_source source;
    qnet_safetensors *file = NULL;
    memset(&bytes, 0, sizeof(bytes));
    sink = qnet_sink_buffer(ctx, &bytes, "small.st");
    CHECK_OK(ctx, qnet_weights_write(ctx, &sink, &small, block, NULL, 0));
    source = qnet_source_memory(&state, bytes.bytes, bytes.size, "small.st");
    CHECK_OK(ctx, qnet_safetensors_read(ctx, &source, &file));
    qnet_buffer_free(ctx, &bytes);
    return file;
}

static double number(const qnet_safetensor *t, size_t i)
{
    return element(t->dtype, t->data, i);
}

static void test_weights_round_trip(void)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_real block[77], back[77];
    qnet_safetensors *file;
    const qnet_safetensor *t;
    size_t o, i, y, x;
    int replaced = 7;
    fill_small(block);
    file = written(ctx, block);
    CHECK(file->count == 6);
    t = qnet_safetensors_find(file, "conv.weight");
    CHECK(t->dtype == (sizeof(qnet_real) == 8 ? QNET_F64 : QNET_F32));
    CHECK(t->ndim == 4 && t->shape[0] == 5 && t->shape[1] == 2 && t->shape[2] == 3 && t->shape[3] == 2);
    for (o = 0; o < 5; o++)
        for (i = 0; i < 2; i++)
            for (y = 0; y < 3; y++)
                for (x = 0; x < 2; x++)
                    CHECK(number(t, ((o * 2 + i) * 3 + y) * 2 + x) ==
                          (double)block[((y * 2 + x) * 2 + i) * 5 + o]);
    t = qnet_safetensors_find(file, "bn.num_batches_tracked");
    CHECK(t->dtype == QNET_I64 && t->ndim == 0 && number(t, 0) == 12);
    CHECK(((size_t)t->data & 7) == 0);
    memset(back, 0, sizeof(back));
    CHECK_OK(ctx, qnet_weights_from_safetensors(ctx, file, &small, back, 0, &replaced));
    CHECK(memcmp(block, back, sizeof(block)) == 0);
    CHECK(replaced == 0);
    qnet_safetensors_destroy(file);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* Loads a file whose tensors are changed by hand; the block must stay as it is on failure. */
static void load_fails(qnet_safetensors *file, qnet_context *ctx, int replace_head,
                       qnet_status status, const char *words)
{
    qnet_real block[77], before[77];
    int i, replaced = 7;
    for (i = 0; i < 77; i++) block[i] = before[i] = -1;
    CHECK_FAILS(ctx, qnet_weights_from_safetensors(ctx, file, &small, block, replace_head, &replaced),
                status, words);
    CHECK_CONTAINS(qnet_last_error(ctx), "small.st");
    CHECK(memcmp(block, before, sizeof(block)) == 0);
    CHECK(replaced == 7);
}

static void test_weights_of_another_network(void)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_real block[77], bad[77];
    qnet_safetensors *file;
    qnet_safetensor *t, keep;
    qnet_buffer nothing;
    qnet_sink sink;
    int replaced = 7;
    fill_small(block);
    file = written(ctx, block);

    t = &file->tensors[qnet_safetensors_find(file, "fc.bias") - file->tensors];
    keep = *t;
    strcpy(t->name, "fc.bias2");
    load_fails(file, ctx, 0, QNET_ERROR_MISMATCH, "small: tensor 'fc.bias2' is not one of its 6");
    strcpy(t->name, "fc.num_batches_tracked");
    load_fails(file, ctx, 0, QNET_ERROR_MISMATCH, "tensor 'fc.bias' is missing");
    *t = keep;
    t->ndim = 2;
    t->shape[1] = 1;
    load_fails(file, ctx, 1, QNET_ERROR_MISMATCH, "'fc.bias': expected shape [2], found [2,1]");
    *t = keep;
    t->dtype = QNET_I32;
    load_fails(file, ctx, 0, QNET_ERROR_MISMATCH, "'fc.bias': expected dtype F64, F32");
    *t = keep;
    t = &file->tensors[qnet_safetensors_find(file, "conv.weight") - file->tensors];
    keep = *t;
    t->shape[0] = 3;
    t->shape[2] = 5;
    load_fails(file, ctx, 0, QNET_ERROR_MISMATCH,
               "'conv.weight': expected shape [5,2,3,2], found [3,2,5,2]");
    *t = keep;

    /* A head of one class: left alone, and told; without replace_head an error. */
    t = &file->tensors[qnet_safetensors_find(file, "fc.weight") - file->tensors];
    t->shape[0] = 1;
    t->count = 3;
    load_fails(file, ctx, 1, QNET_ERROR_MISMATCH, "small: of its head's tensors only 1 fit");
    keep = *t;
    t = &file->tensors[qnet_safetensors_find(file, "fc.bias") - file->tensors];
    t->shape[0] = 1;
    t->count = 1;
    load_fails(file, ctx, 0, QNET_ERROR_MISMATCH, "'fc.weight': expected shape [2,3], found [1,3]");
    memset(bad, 0, sizeof(bad));
    CHECK_OK(ctx, qnet_weights_from_safetensors(ctx, file, &small, bad, 1, &replaced));
    CHECK(replaced == 1);
    CHECK(bad[59] == block[59] && bad[60] == 0 && bad[67] == 0 && bad[68] == block[68]);

    /* num_batches_tracked may be missing. */
    t = &file->tensors[qnet_safetensors_find(file, "bn.num_batches_tracked") - file->tensors];
    strcpy(t->name, "other.num_batches_tracked");
    CHECK_OK(ctx, qnet_weights_from_safetensors(ctx, file, &small, bad, 1, NULL));
    qnet_safetensors_destroy(file);

    /* A number that is not finite is neither written nor read. */
    file = written(ctx, block);
    t = &file->tensors[qnet_safetensors_find(file, "fc.weight") - file->tensors];
    block[61] = (qnet_real)NAN;
    memset((char *)file->block + ((const char *)t->data - (char *)file->block) + sizeof(qnet_real),
           0xff, sizeof(qnet_real)); /* a NaN in either byte order */
    memset(&nothing, 0, sizeof(nothing));
    sink = qnet_sink_buffer(ctx, &nothing, "small.st");
    CHECK_FAILS(ctx, qnet_weights_write(ctx, &sink, &small, block, NULL, 0), QNET_ERROR_DATA,
                "small.st: tensor 'fc.weight': number 1 is");
    CHECK(nothing.size == 0);
    load_fails(file, ctx, 0, QNET_ERROR_DATA, "nan, not finite");
    CHECK_FAILS(ctx, qnet_weights_from_safetensors(ctx, NULL, &small, block, 0, NULL),
                QNET_ERROR_ARGUMENT, "NULL");
    qnet_safetensors_destroy(file);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* Renames all tensors of a file: `before` and then the name. */
static void rename_all(qnet_safetensors *file, const char *before)
{
    char name[128];
    int i;
    for (i = 0; i < file->count; i++) {
        snprintf(name, sizeof(name), "%s%.60s", before, file->tensors[i].name);
        memcpy(file->tensors[i].name, name, sizeof(name));
    }
}

/* The prefixes of DataParallel, torch.compile and of a larger model. */
static void test_prefix(void)
{
    static const char *const prefixes[] = {"module.", "_orig_mod.", "module._orig_mod.", "net.backbone."};
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_real block[77], back[77];
    qnet_safetensors *file;
    int i;
    fill_small(block);
    for (i = 0; i < 4; i++) {
        char words[128];
        file = written(ctx, block);
        CHECK(qnet_weights_prefix(file, &small) == 0);
        rename_all(file, prefixes[i]);
        CHECK(qnet_weights_prefix(file, &small) == strlen(prefixes[i]));
        logged[0] = 0;
        memset(back, 0, sizeof(back));
        CHECK_OK(ctx, qnet_weights_from_safetensors(ctx, file, &small, back, 0, NULL));
        CHECK(memcmp(block, back, sizeof(block)) == 0);
        snprintf(words, sizeof(words), "small.st: all names begin with '%s'", prefixes[i]);
        CHECK_CONTAINS(logged, words);
        qnet_safetensors_destroy(file);
    }
    file = written(ctx, block); /* one that not all share, and one without a dot, are none */
    rename_all(file, "module.");
    memcpy(file->tensors[2].name, "modul.", 6);
    load_fails(file, ctx, 1, QNET_ERROR_MISMATCH, "is not one of its 6");
    qnet_safetensors_destroy(file);
    file = written(ctx, block);
    rename_all(file, "module");
    load_fails(file, ctx, 1, QNET_ERROR_MISMATCH, "is not one of its 6");
    qnet_safetensors_destroy(file);
    file = written(ctx, block);
    rename_all(file, "module.");
    memcpy(file->tensors[0].name, "conv.weight", 12);
    load_fails(file, ctx, 1, QNET_ERROR_MISMATCH, "is not one of its 6");
    qnet_safetensors_destroy(file);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* Takes a tensor out of the list. */
static void drop(qnet_safetensors *file, const char *name)
{
    int i = (int)(qnet_safetensors_find(file, name) - file->tensors);
    file->tensors[i] = file->tensors[--file->count];
}

/* A file without a head, where the head is replaced anyway; half a head is damage. */
static void test_headless(void)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_real block[77], back[77];
    qnet_safetensors *file;
    int replaced = 7, i;
    fill_small(block);
    file = written(ctx, block);
    drop(file, "fc.weight");
    load_fails(file, ctx, 1, QNET_ERROR_MISMATCH, "small: of its head's tensors only 1 fit");
    drop(file, "fc.bias");
    load_fails(file, ctx, 0, QNET_ERROR_MISMATCH, "tensor 'fc.weight' is missing");
    for (i = 0; i < 2; i++) {
        logged[0] = 0;
        memset(back, 0, sizeof(back));
        CHECK_OK(ctx, qnet_weights_from_safetensors(ctx, file, &small, back, 1, &replaced));
        CHECK(replaced == 1 && back[59] == block[59] && back[60] == 0 && back[67] == 0 && back[68] == block[68]);
        CHECK_CONTAINS(logged, "small.st: there is no head (fc) in it");
        rename_all(file, "module.");
    }
    drop(file, "module.module.conv.weight");
    load_fails(file, ctx, 1, QNET_ERROR_MISMATCH, "tensor 'conv.weight' is missing");
    qnet_safetensors_destroy(file);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* A variance below 0, as averaging weights badly makes it, would give NaN without an error. */
static void test_negative_variance(void)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_real block[77];
    qnet_safetensors *file;
    qnet_buffer nothing;
    qnet_sink sink;
    fill_small(block);
    file = written(ctx, block);
    block[76] = (qnet_real)-.5;
    memcpy((char *)file->block + ((const char *)qnet_safetensors_find(file, "bn.running_var")->data - (char *)file->block) +
               2 * sizeof(qnet_real),
           block + 76, sizeof(qnet_real));
    load_fails(file, ctx, 0, QNET_ERROR_DATA, "'bn.running_var': number 2 is -0.5, a variance below 0");
    memset(&nothing, 0, sizeof(nothing));
    sink = qnet_sink_buffer(ctx, &nothing, "small.st");
    CHECK_FAILS(ctx, qnet_weights_write(ctx, &sink, &small, block, NULL, 0), QNET_ERROR_DATA,
                "'bn.running_var': number 2 is -0.5, a variance below 0");
    CHECK(nothing.size == 0);
    qnet_safetensors_destroy(file);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* The 16-bit formats: values from numpy.float16 and torch.bfloat16, by .view(int16). */
/* A file with two tensors and the metadata given, as JSON members. */
static qnet_safetensors *identified(qnet_context *ctx, const char *metadata, int swapped, float last)
{
    static const char *const names[3] = {"a", "b", "bn1.num_batches_tracked"};
    const float a[2] = {1, 2};
    float b[1];
    const int64_t tracked = swapped ? 7 : 5;
    const void *const data[3] = {a, b, &tracked};
    qnet_safetensor t[3];
    qnet_safetensors *file = NULL;
    const char *pairs[16];
    char text[400];
    qnet_memory_source state;
    qnet_source source;
    qnet_sink sink;
    qnet_buffer out;
    int i, n = 0;
    b[0] = last;
    memset(t, 0, sizeof t);
    memset(&out, 0, sizeof out);
    for (i = 0; i < 3; i++) {
        const int k = swapped ? 2 - i : i;
        strcpy(t[i].name, names[k]);
        t[i].dtype = k == 2 ? QNET_I64 : QNET_F32;
        t[i].ndim = k != 2;
        t[i].shape[0] = k == 0 ? 2 : 1;
        t[i].data = data[k];
    }
    strcpy(text, metadata);
    for (char *p = strtok(text, "= "); p; p = strtok(NULL, "= ")) pairs[n++] = p;
    sink = qnet_sink_buffer(ctx, &out, "made up");
    CHECK_OK(ctx, qnet_safetensors_write(ctx, &sink, t, 3, pairs, n / 2));
    source = qnet_source_memory(&state, out.bytes, out.size, swapped ? "swapped" : "straight");
    CHECK_OK(ctx, qnet_safetensors_read(ctx, &source, &file));
    qnet_buffer_free(ctx, &out);
    return file;
}

static void test_pairs(void)
{
    static const char words[] = "run=0123456789abcdef input=crop repeat=1 fold=2 model=resnetswa";
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_safetensors *a = identified(ctx, words, 0, 3), *b = identified(ctx, words, 1, 3);
    qnet_safetensors *other = identified(ctx, words, 0, 4), *plain = identified(ctx, "", 0, 3), *scan;
    char text[300];
    int known = -1;
    CHECK(qnet_safetensors_hash(a) == qnet_safetensors_hash(b)); /* order and counters do not count, */
    CHECK(qnet_safetensors_hash(a) == qnet_safetensors_hash(plain)); /* nor do metadata; */
    CHECK(qnet_safetensors_hash(a) != qnet_safetensors_hash(other)); /* numbers do */
    sprintf(text, "run=0123456789abcdef input=crop repeat=1 fold=1 model=qnet embedding=resnetswa "
                  "embedding_hash=%016llx", (unsigned long long)qnet_safetensors_hash(a));
    scan = identified(ctx, text, 0, 9);
    CHECK_OK(ctx, qnet_weights_check_pair(ctx, a, scan, &known)); /* what counts are the numbers */
    CHECK(known == 1);
    known = -1;
    CHECK_OK(ctx, qnet_weights_check_pair(ctx, plain, scan, &known));
    CHECK(known == 1);
    known = -1;
    CHECK_FAILS(ctx, qnet_weights_check_pair(ctx, other, scan, &known), QNET_ERROR_MISMATCH,
                "straight is crop repeat 1 fold 1 qnet of run 0123456789abcdef, trained on the features of "
                "resnetswa weights with hash ");
    CHECK_CONTAINS(qnet_last_error(ctx), "but straight is crop repeat 1 fold 2 resnetswa of run 0123456789abcdef");
    CHECK_FAILS(ctx, qnet_weights_check_pair(ctx, scan, a, &known), QNET_ERROR_MISMATCH, "is a qnet where a ResNet belongs");
    qnet_safetensors_destroy(scan);
    scan = identified(ctx, "input=crop repeat=1 fold=2 model=qnet", 0, 9); /* no hash: words are compared */
    CHECK(known == -1);
    CHECK_OK(ctx, qnet_weights_check_pair(ctx, a, scan, &known));
    CHECK(known == 0);
    qnet_safetensors_destroy(scan);
    scan = identified(ctx, "input=full", 0, 9);
    CHECK_FAILS(ctx, qnet_weights_check_pair(ctx, a, scan, &known), QNET_ERROR_MISMATCH,
                "full repeat ? fold ? ? of run ?");
    CHECK_OK(ctx, qnet_weights_check_pair(ctx, plain, scan, &known));
    CHECK_FAILS(ctx, qnet_weights_check_pair(ctx, NULL, scan, &known), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_weights_check_pair(ctx, a, scan, NULL), QNET_ERROR_ARGUMENT, "NULL");
    qnet_safetensors_destroy(scan);
    qnet_safetensors_destroy(a);
    qnet_safetensors_destroy(b);
    qnet_safetensors_destroy(other);
    qnet_safetensors_destroy(plain);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

static void test_half_floats(void)
{
    static const struct { qnet_dtype dtype; uint16_t bits; double value; } golden[] = {
        {QNET_F16, 0x0000, 0}, {QNET_F16, 0x3c00, 1}, {QNET_F16, 0xc000, -2},
        {QNET_F16, 0x0001, 5.9604644775390625e-08}, {QNET_F16, 0x83ff, -6.0975551605224609e-05},
        {QNET_F16, 0x0400, 6.103515625e-05}, {QNET_F16, 0x7bff, 65504}, {QNET_F16, 0x3555, .333251953125},
        {QNET_BF16, 0x3f80, 1}, {QNET_BF16, 0xc0a0, -5}, {QNET_BF16, 0x3eab, .333984375},
        {QNET_BF16, 0x0001, 9.1835496157991212e-41}, {QNET_BF16, 0x7f7f, 3.3895313892515355e+38},
    };
    size_t i;
    for (i = 0; i < sizeof(golden) / sizeof(golden[0]); i++) {
        CHECK_NEAR(element(golden[i].dtype, &golden[i].bits, 0), golden[i].value, 0);
    }
    {
        const uint16_t inf[2] = {0x7c00, 0x7c01};
        CHECK(element(QNET_F16, inf, 0) > 1e300);
        CHECK(element(QNET_F16, inf, 1) != element(QNET_F16, inf, 1));
    }
}

static void test_files(void)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    static const char *const pairs[] = {"network", "small"};
    const char *path = "build/test_weights.safetensors";
    qnet_real block[77], back[77];
    qnet_safetensors *file = NULL;
    CHECK_OK(ctx, qnet_make_folder(ctx, "build"));
    fill_small(block);
    memset(back, 0, sizeof(back));
    CHECK_OK(ctx, qnet_weights_save(ctx, path, &small, block, pairs, 1));
    CHECK_OK(ctx, qnet_weights_load(ctx, path, &small, back, 0, NULL));
    CHECK(memcmp(block, back, sizeof(block)) == 0);
    CHECK_OK(ctx, qnet_safetensors_load(ctx, path, &file));
    CHECK(strcmp(qnet_safetensors_metadata(file, "network"), "small") == 0);
    qnet_safetensors_destroy(file);
    CHECK_FAILS(ctx, qnet_safetensors_load(ctx, "build/none.safetensors", &file),
                QNET_ERROR_NOT_FOUND, "none.safetensors");
    CHECK_FAILS(ctx, qnet_weights_save(ctx, "build/no/such/folder.st", &small, block, pairs, 1),
                QNET_ERROR_IO, "folder.st");
    remove(path);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* Files that are wrong at their very end, by path: the block stays as it was. */
static void test_files_bad_at_the_end(void)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    const char *path = "build/test_weights_end.safetensors";
    char sentence[64];
    qnet_real block[77], back[77], before[77];
    qnet_safetensors *file = NULL;
    qnet_buffer bytes;
    size_t size, header, n;
    memset(&bytes, 0, sizeof(bytes));
    fill_small(block);
    memset(before, 7, sizeof(before));
    memcpy(back, before, sizeof(back));
    CHECK_OK(ctx, qnet_make_folder(ctx, "build"));
    CHECK_OK(ctx, qnet_weights_save(ctx, path, &small, block, NULL, 0));
    CHECK_OK(ctx, qnet_file_read(ctx, path, 0, &bytes));
    header = 8 + (size_t)qnet__load_le64(bytes.bytes);
    size = bytes.size - header;

    for (n = 0; n < size; n++) { /* every truncation of the tensors */
        CHECK_OK(ctx, qnet_file_replace(ctx, path, bytes.bytes, header + n));
        snprintf(sentence, sizeof(sentence), "expected %d bytes of tensors, found %d", (int)size,
                 (int)n);
        CHECK_FAILS(ctx, qnet_weights_load(ctx, path, &small, back, 0, NULL), QNET_ERROR_FORMAT,
                    sentence);
    }
    CHECK_OK(ctx, qnet_file_replace(ctx, path, bytes.bytes, bytes.size + 1)); /* and its zero */
    CHECK_FAILS(ctx, qnet_weights_load(ctx, path, &small, back, 0, NULL), QNET_ERROR_FORMAT,
                "the file goes on behind");

    CHECK_OK(ctx, qnet_file_replace(ctx, path, bytes.bytes, bytes.size));
    CHECK_OK(ctx, qnet_safetensors_load(ctx, path, &file));
    CHECK(file->block_bytes == size);
    if (qnet__is_little_endian()) CHECK(memcmp(file->block, bytes.bytes + header, size) == 0);
    qnet_safetensors_destroy(file);

    memset(bytes.bytes + bytes.size - sizeof(qnet_real), 0xff, sizeof(qnet_real)); /* a NaN */
    CHECK_OK(ctx, qnet_file_replace(ctx, path, bytes.bytes, bytes.size));
    CHECK_FAILS(ctx, qnet_weights_load(ctx, path, &small, back, 0, NULL), QNET_ERROR_DATA,
                "nan, not finite");
    CHECK(memcmp(back, before, sizeof(back)) == 0);
    remove(path);
    qnet_buffer_free(ctx, &bytes);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

static int write_some(void *user, const void *src, size_t size)
{
    size_t *left = (size_t *)user;
    (void)src;
    if (size > *left) return 1;
    *left -= size;
    return 0;
}

static int read_badly(void *user, void *dst, size_t size, size_t *got)
{
    (void)user, (void)dst, (void)size, (void)got;
    return 1;
}

/* A source that gives a byte at a time, as a pipe may. */
static int read_slowly(void *user, void *dst, size_t size, size_t *got)
{
    qnet_source *inner = (qnet_source *)user;
    return inner->read(inner->user, dst, size > 0 ? 1 : 0, got);
}

static void test_io_and_memory_failures(void)
{
    counter c;
    qnet_context *ctx = make_context(&c);
    qnet_real block[77], back[77];
    qnet_buffer bytes;
    qnet_sink sink, small_sink;
    qnet_source source, slow;
    qnet_memory_source state;
    qnet_safetensors *file = NULL;
    size_t room, left;
    long n, live;
    int done;
    fill_small(block);
    memset(&bytes, 0, sizeof(bytes));
    sink = qnet_sink_buffer(ctx, &bytes, NULL);
    CHECK_OK(ctx, qnet_weights_write(ctx, &sink, &small, block, NULL, 0));

    small_sink.user = &left;
    small_sink.write = write_some;
    small_sink.name = "full.st";
    for (room = 0; room < bytes.size; room += 9) { /* the disk is full after `room` bytes */
        left = room;
        CHECK_FAILS(ctx, qnet_weights_write(ctx, &small_sink, &small, block, NULL, 0),
                    QNET_ERROR_IO, "full.st");
    }
    left = bytes.size;
    CHECK_OK(ctx, qnet_weights_write(ctx, &small_sink, &small, block, NULL, 0));

    slow.user = NULL;
    slow.read = read_badly;
    slow.name = "broken.st";
    CHECK_FAILS(ctx, qnet_safetensors_read(ctx, &slow, &file), QNET_ERROR_IO, "broken.st");
    source = qnet_source_memory(&state, bytes.bytes, bytes.size, "m");
    slow.user = &source;
    slow.read = read_slowly;
    CHECK_OK(ctx, qnet_safetensors_read(ctx, &slow, &file));
    CHECK_OK(ctx, qnet_weights_from_safetensors(ctx, file, &small, back, 0, NULL));
    CHECK(memcmp(block, back, sizeof(block)) == 0);
    qnet_safetensors_destroy(file);

    live = c.live;
    for (n = 1, done = 0; !done; n++) { /* every allocation of a read fails once */
        qnet_status status;
        source = qnet_source_memory(&state, bytes.bytes, bytes.size, "m");
        file = NULL;
        c.fail_at = c.calls + n;
        status = qnet_safetensors_read(ctx, &source, &file);
        done = status == QNET_OK;
        if (done) qnet_safetensors_destroy(file);
        else CHECK(status == QNET_ERROR_MEMORY && file == NULL);
        CHECK(c.live == live);
    }
    CHECK(n > 6);
    for (n = 1, done = 0; !done; n++) { /* and of a write, to a sink that needs none */
        left = bytes.size;
        c.fail_at = c.calls + n;
        done = qnet_weights_write(ctx, &small_sink, &small, block, NULL, 0) == QNET_OK;
        CHECK(c.live == live);
    }
    CHECK(n > 4);
    c.fail_at = 0;
    qnet_buffer_free(ctx, &bytes);
    qnet_context_destroy(ctx);
    CHECK(c.live == 0);
}

/* Filters turned in runs against the definition, by which every number has its index. */
static void test_copy(void)
{
    static const size_t shapes[8][4] = {{1, 1, 1, 1}, {3, 3, 5, 16}, {7, 7, 3, 33},
                                        {1, 1, 31, 17}, {3, 2, 4, 15}, {2, 3, 1, 64},
                                        {1, 1, 64, 93}, {3, 3, 8, 64}};
    static float file[6000];
    static char beside[sizeof file + 1]; /* as file, on an odd address */
    static qnet_real fast[6000], ref[6000];
    int i, k;
    for (k = 0; k < 6000; k++) file[k] = (float)(k + 1);
    for (i = 0; i < 8; i++) {
        qnet_param p;
        qnet_safetensor t;
        memset(&p, 0, sizeof p);
        p.ndim = 4;
        memcpy(p.shape, shapes[i], sizeof p.shape);
        p.count = p.shape[0] * p.shape[1] * p.shape[2] * p.shape[3];
        p.layout = QNET_LAYOUT_HWIO;
        t = qnet__param_in_file(&p);
        t.dtype = QNET_F32;
        t.data = file;
        memset(fast, 0, sizeof fast);
        memset(ref, 0, sizeof ref);
        qnet__param_from_file(&p, &t, fast);
        for (k = 0; k < (int)p.count; k++)
            ref[qnet__param_index(&p, (size_t)k)] = (qnet_real)element(QNET_F32, file, (size_t)k);
        CHECK(p.count <= 6000 && memcmp(fast, ref, sizeof fast) == 0);
        CHECK(qnet__check_numbers(NULL, "file.st", &t, "w") == QNET_OK);
        memcpy(beside + 1, file, sizeof file);
        t.data = beside + 1;
        memset(fast, 0, sizeof fast);
        qnet__param_from_file(&p, &t, fast);
        CHECK(memcmp(fast, ref, sizeof fast) == 0);
        CHECK(qnet__check_numbers(NULL, "file.st", &t, "w") == QNET_OK);
        file[p.count - 1] = (float)NAN;
        memcpy(beside + 1, file, sizeof file);
        CHECK(qnet__check_numbers(NULL, "file.st", &t, "w") == QNET_ERROR_DATA);
        t.data = file;
        CHECK(qnet__check_numbers(NULL, "file.st", &t, "w") == QNET_ERROR_DATA);
        file[p.count - 1] = (float)p.count;
        if (i == 0 && !QNET__REAL_IS_DOUBLE) {
            const double large = 1e300;
            qnet_context *ctx = NULL;
            t.dtype = QNET_F64;
            t.data = &large;
            CHECK(qnet_context_create(NULL, &ctx) == QNET_OK);
            CHECK_FAILS(ctx, qnet__check_numbers(ctx, "file.st", &t, "w"), QNET_ERROR_DATA,
                        "number 0 is 1e+300, too large");
            qnet_context_destroy(ctx);
        }
    }
}

/* For the scripts: weights to start from, drawn quickly, which say that they have seen nobody. */
static int write_start(const char *path)
{
    static const char *const pairs[2] = {"trained_on", ""};
    qnet_context *ctx = NULL;
    qnet_resnet_config config;
    qnet_resnet *net = NULL;
    qnet_resnet_config_init(&config);
    config.height = config.width = 32;
    config.batch = 1;
    config.training = 0;
    if (qnet_context_create(NULL, &ctx) != QNET_OK || qnet_resnet_create(ctx, &config, &net) != QNET_OK) return 1;
    quick_weights(net);
    if (qnet_weights_save(ctx, path, net->table, net->weights, pairs, 1) != QNET_OK) return 1;
    qnet_resnet_destroy(net);
    qnet_context_destroy(ctx);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1) return write_start(argv[1]);
    RUN(test_dtypes);
    RUN(test_reads_a_file);
    RUN(test_refuses_bad_headers);
    RUN(test_metadata);
    RUN(test_refuses_long_names_and_cut_files);
    RUN(test_survives_any_byte);
    RUN(test_many_tensors);
    RUN(test_byte_order);
    RUN(test_writes_what_it_reads);
    RUN(test_weights_round_trip);
    RUN(test_weights_of_another_network);
    RUN(test_prefix);
    RUN(test_headless);
    RUN(test_negative_variance);
    RUN(test_pairs);
    RUN(test_half_floats);
    RUN(test_copy);
    RUN(test_files);
    RUN(test_files_bad_at_the_end);
    RUN(test_io_and_memory_failures);
    return test_end();
}
