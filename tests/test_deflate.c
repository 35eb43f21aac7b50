/* Rooms >>deflate and >>png: hand-made streams of every block kind, round trips, bad input. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "gzip.h"

static qnet_context *ctx;

/* ---- an allocator that counts, and can fail the n-th time ---- */

typedef struct counter {
    long live, calls, fail_at;
} counter;

static void *count_alloc(void *user, size_t size, size_t align)
{
    counter *c = (counter *)user;
    if (++c->calls == c->fail_at) return NULL;
    c->live++;
    return qnet__default_alloc(NULL, size, align);
}

static void count_free(void *user, void *ptr, size_t size)
{
    ((counter *)user)->live--;
    qnet__default_free(NULL, ptr, size);
}

static qnet_context *counting_context(counter *c)
{
    qnet_hooks hooks;
    qnet_context *made = NULL;
    memset(&hooks, 0, sizeof hooks);
    memset(c, 0, sizeof *c);
    hooks.allocator.user = c;
    hooks.allocator.alloc = count_alloc;
    hooks.allocator.free = count_free;
    CHECK(qnet_context_create(&hooks, &made) == QNET_OK);
    return made;
}

/* ---- streams made bit by bit ---- */

typedef struct bits {
    unsigned char bytes[4096];
    size_t size;
    int used; /* bits of the last byte */
} bits;

static void put(bits *b, unsigned value, int n)
{
    for (; n > 0; n--, value >>= 1) {
        if (b->used == 0) b->bytes[b->size++] = 0;
        b->bytes[b->size - 1] |= (unsigned char)((value & 1) << b->used);
        b->used = (b->used + 1) & 7;
    }
}

/* A Huffman code goes out from its first bit on. */
static void put_code(bits *b, unsigned code, int n)
{
    for (n--; n >= 0; n--) put(b, code >> n & 1, 1);
}

static void put_literal(bits *b, int byte) /* in the fixed code */
{
    if (byte < 144)
        put_code(b, 0x30u + (unsigned)byte, 8);
    else
        put_code(b, 0x190u + (unsigned)byte - 144, 9);
}

static void align(bits *b)
{
    b->used = 0;
}

static void gzip_head(bits *b, int flags)
{
    static const unsigned char head[10] = {0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 0, 3};
    memset(b, 0, sizeof *b);
    memcpy(b->bytes, head, 10);
    b->bytes[3] = (unsigned char)flags;
    b->size = 10;
}

static void gzip_tail(bits *b, const void *plain, size_t size)
{
    align(b);
    qnet__store(b->bytes + b->size, 4, 0, qnet_crc32(0, plain, size));
    qnet__store(b->bytes + b->size + 4, 4, 0, (uint32_t)size);
    b->size += 8;
}

static qnet_status unpack(const bits *b, qnet_buffer *out)
{
    qnet_buffer_free(ctx, out);
    return gzip_unpack(ctx, b->bytes, b->size, 0, out);
}

static int same(const qnet_buffer *b, const void *bytes, size_t size)
{
    return b->size == size && (size == 0 || memcmp(b->bytes, bytes, size) == 0);
}

static void test_checksums(void)
{
    unsigned char data[1200];
    size_t i;
    /* The check values of the CRC catalogue and of RFC 1950's usual example. */
    CHECK(qnet_crc32(0, "123456789", 9) == 0xcbf43926u);
    CHECK(qnet_crc32(qnet_crc32(0, "1234", 4), "56789", 5) == 0xcbf43926u);
    CHECK(qnet_crc32(7, NULL, 0) == 7);
    CHECK(qnet__adler32(1, (const unsigned char *)"Wikipedia", 9) == 0x11e60398u);
    for (i = 0; i < sizeof data; i++) data[i] = (unsigned char)(i * i >> 3);
    for (i = 505; i < 530; i++) { /* the table form takes over at 512 bytes */
        uint32_t whole = qnet_crc32(0, data, i), parts = qnet_crc32(0, data, 100);
        CHECK(whole == qnet_crc32(parts, data + 100, i - 100));
    }
}

/* What zlib 1.2.13 made at level 9 of the text below: one dynamic block. */
static const unsigned char zlib_bytes[] = {
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xa5, 0x8e, 0xd1, 0x09, 0xc0,
    0x40, 0x08, 0x43, 0x67, 0x0b, 0xf9, 0x78, 0x0b, 0x64, 0xff, 0x59, 0x1a, 0x8f, 0xf3, 0xb3,
    0x50, 0xa8, 0xa2, 0x62, 0x62, 0x24, 0x90, 0x58, 0x09, 0x9d, 0x6d, 0x44, 0x46, 0x29, 0x30,
    0x41, 0x29, 0x42, 0x76, 0xd3, 0x20, 0x23, 0x70, 0xab, 0xf9, 0x51, 0x71, 0x4e, 0x47, 0x83,
    0x2f, 0xb4, 0x34, 0xf2, 0x6e, 0x7d, 0x41, 0x8d, 0x70, 0x8d, 0x14, 0xf0, 0x79, 0xff, 0xc3,
    0xdf, 0xab, 0xec, 0x01, 0x13, 0x9c, 0xb1, 0x56, 0xf5, 0x00, 0x00, 0x00};
static const char zlib_text[] =
    "GGTTCATTGGTTTGGGTACGATATTTTTTGTCAGTGTTTTTTTGTATGTCGTTCCTTCTCTTTGGGTACGATATTTTTTGTCAGTGTT"
    "TTTTTGTATGTCCTCTTCCTTGCTGTATGTTTTTTTGTGACTGTTTTTTATAGCATGGGTTTGGTTACTTGGGGTTCATTGGTTTGGG"
    "TACGATATTTTTTGTCAGTGTTTTTTTGTATGTCGTTCCTTCTCATTGGTTTGGGTACGATATTTTTTG";

static void test_zlib_stream(void)
{
    qnet_buffer out = {NULL, 0, 0, NULL};
    CHECK((zlib_bytes[10] >> 1 & 3) == 2);
    CHECK_OK(ctx, gzip_unpack(ctx, zlib_bytes, sizeof zlib_bytes, 0, &out));
    CHECK(same(&out, zlib_text, strlen(zlib_text)));
    qnet_buffer_free(ctx, &out);
}

/* The head of a dynamic block (not the last) with these code lengths; every code length is itself
   sent in four bits. */
static void put_dynamic(bits *b, const uint8_t *literal, int literals, const uint8_t *dist,
                        int dists)
{
    int i;
    put(b, 0 | 2 << 1, 3);
    put(b, (unsigned)literals - 257, 5);
    put(b, (unsigned)dists - 1, 5);
    put(b, 15, 4);
    for (i = 0; i < 19; i++) put(b, i < 3 ? 0 : 4, 3); /* 16, 17, 18 come first: not used */
    for (i = 0; i < literals; i++) put_code(b, literal[i], 4);
    for (i = 0; i < dists; i++) put_code(b, dist[i], 4);
}

static void test_block_kinds(void)
{
    static const char mixed[] = "xyza\310a\310a\310a\310a\310a\310a\310";
    qnet_buffer out = {NULL, 0, 0, NULL};
    uint8_t literal[286], dist[30];
    bits b;
    int i;

    gzip_head(&b, 0); /* stored, then fixed with a match that overlaps itself, then stored empty */
    put(&b, 0, 3);
    align(&b);
    put(&b, 3, 16);
    put(&b, 0xfffc, 16);
    put(&b, 'x' | 'y' << 8 | 'z' << 16, 24);
    put(&b, 0 | 1 << 1, 3);
    put_literal(&b, 'a');
    put_literal(&b, 200);
    put_code(&b, 265 - 256, 7); /* length 11 or 12 */
    put(&b, 0, 1);
    put_code(&b, 1, 5); /* distance 2 */
    put_literal(&b, 200);
    put_code(&b, 0, 7); /* end of block */
    put(&b, 1, 3);
    align(&b);
    put(&b, 0, 16);
    put(&b, 0xffff, 16);
    gzip_tail(&b, mixed, 17);
    CHECK_OK(ctx, unpack(&b, &out));
    CHECK(same(&out, mixed, 17));

    memset(literal, 0, sizeof literal); /* codes of 1 to 15 bits, longer than the first table */
    memset(dist, 0, sizeof dist);
    for (i = 0; i < 14; i++) literal['a' + i] = (uint8_t)(i + 1);
    literal['z'] = 15;
    literal[256] = 15;
    gzip_head(&b, 0);
    put_dynamic(&b, literal, 257, dist, 1); /* no distance code at all: only literals may come */
    for (i = 0; i < 14; i++) put_code(&b, (1u << (i + 1)) - 2, i + 1);
    put_code(&b, 0x7ffe, 15);
    put_code(&b, 0x7fff, 15);
    put(&b, 1 | 1 << 1, 3);
    put_code(&b, 0, 7);
    gzip_tail(&b, "abcdefghijklmnz", 15);
    CHECK_OK(ctx, unpack(&b, &out));
    CHECK(same(&out, "abcdefghijklmnz", 15));

    /* a lone distance code of one bit is let pass, as by zlib */
    memset(literal, 0, sizeof literal);
    literal['r'] = literal[256] = 2;
    literal[257] = 1;
    dist[0] = 1;
    gzip_head(&b, 0);
    put_dynamic(&b, literal, 258, dist, 1);
    put_code(&b, 2, 2); /* 'r' */
    put_code(&b, 0, 1); /* length 3 */
    put_code(&b, 0, 1); /* distance 1 */
    put_code(&b, 3, 2);
    put(&b, 1 | 1 << 1, 3);
    put_code(&b, 0, 7);
    gzip_tail(&b, "rrrr", 4);
    CHECK_OK(ctx, unpack(&b, &out));
    CHECK(same(&out, "rrrr", 4));
    qnet_buffer_free(ctx, &out);
}

static void fails(const bits *b, const char *part)
{
    qnet_buffer out = {NULL, 0, 0, NULL};
    CHECK_FAILS(ctx, unpack(b, &out), QNET_ERROR_FORMAT, part);
    CHECK(out.bytes == NULL && out.size == 0);
}

static void test_bad_blocks(void)
{
    uint8_t literal[286], dist[30];
    bits b;
    int i;
    gzip_head(&b, 0);
    put(&b, 1 | 3 << 1, 3);
    put(&b, 0, 32);
    fails(&b, "block type is 3");

    gzip_head(&b, 0);
    put(&b, 1, 3);
    align(&b);
    put(&b, 3, 16);
    put(&b, 3, 16);
    fails(&b, "complement");

    gzip_head(&b, 0); /* a match before the start, after one byte */
    put(&b, 1 | 1 << 1, 3);
    put_literal(&b, 'a');
    put_code(&b, 1, 7);
    put_code(&b, 1, 5);
    put(&b, 0, 32);
    fails(&b, "too far back");

    gzip_head(&b, 0); /* length code 286 exists in the fixed code and means nothing */
    put(&b, 1 | 1 << 1, 3);
    put_code(&b, 0xc0 + 6, 8);
    put(&b, 0, 32);
    fails(&b, "length that has no code");

    gzip_head(&b, 0);
    put(&b, 1 | 1 << 1, 3);
    put_literal(&b, 'a');
    put_code(&b, 1, 7);
    put_code(&b, 30, 5);
    put(&b, 0, 32);
    fails(&b, "distance that has no code");

    memset(literal, 0, sizeof literal); /* one code of 15 bits too many */
    memset(dist, 0, sizeof dist);
    for (i = 0; i < 15; i++) literal[i] = (uint8_t)(i + 1);
    literal[15] = literal[256] = 15;
    gzip_head(&b, 0);
    put_dynamic(&b, literal, 257, dist, 1);
    fails(&b, "literal and length codes is no prefix code");
    memset(literal, 0, sizeof literal);
    memset(dist, 0, sizeof dist);
    literal[0] = literal[1] = literal[256] = 1; /* three codes of one bit */
    gzip_head(&b, 0);
    put_dynamic(&b, literal, 257, dist, 1);
    fails(&b, "literal and length codes is no prefix code");
    literal[0] = 0;
    literal[1] = 2; /* a quarter of the codes is not used */
    gzip_head(&b, 0);
    put_dynamic(&b, literal, 257, dist, 1);
    fails(&b, "literal and length codes is no prefix code");
    literal[1] = 1;
    literal[256] = 0;
    gzip_head(&b, 0);
    put_dynamic(&b, literal, 257, dist, 1);
    fails(&b, "no code for its end");
    literal[256] = 1;
    dist[0] = dist[1] = dist[2] = 1;
    gzip_head(&b, 0);
    put_dynamic(&b, literal, 257, dist, 3);
    fails(&b, "distance codes is no prefix code");
    dist[0] = dist[1] = 0;
    dist[2] = 2; /* a lone code of two bits */
    gzip_head(&b, 0);
    put_dynamic(&b, literal, 257, dist, 3);
    fails(&b, "distance codes is no prefix code");
    literal[1] = 0; /* a lone literal code: a block that only ends; then no match is possible */
    literal[256] = 1;
    dist[2] = 0;
    gzip_head(&b, 0);
    put_dynamic(&b, literal, 257, dist, 1);
    put(&b, 1, 1);
    put(&b, 0, 32);
    fails(&b, "no code");

    gzip_head(&b, 0);
    put(&b, 1 | 2 << 1, 3);
    put(&b, 30, 5); /* 287 literal and length codes */
    put(&b, 0, 32);
    fails(&b, "too many");
    gzip_head(&b, 0);
    put(&b, 1 | 2 << 1, 3);
    put(&b, 0, 5);
    put(&b, 30, 5); /* 31 distance codes */
    put(&b, 0, 32);
    fails(&b, "too many");

    for (i = 0; i < 4; i++) { /* the code of the code lengths: 0, 16, 17, 18 in two bits each */
        gzip_head(&b, 0);
        put(&b, 1 | 2 << 1, 3);
        put(&b, 0, 10);
        put(&b, 0, 4);
        put(&b, i == 3 ? 0 : 2, 3);
        put(&b, 2, 3);
        put(&b, 2, 3);
        put(&b, i == 2 ? 1 : 2, 3);
        if (i == 0) put_code(&b, 1, 2); /* 16: repeat the one before, of which there is none */
        if (i == 1) {
            put_code(&b, 3, 2); /* 18, twice 138 zeros: more than 258 codes */
            put(&b, 127, 7);
            put_code(&b, 3, 2);
            put(&b, 127, 7);
        }
        put(&b, 0, 16);
        fails(&b, i == 0   ? "none before"
                  : i == 1 ? "past the last"
                           : "code lengths is no prefix code");
    }
}

static void test_headers(void)
{
    qnet_buffer out = {NULL, 0, 0, NULL};
    bits b;
    size_t tail;
    int i;
    gzip_head(&b, 4 | 8 | 16 | 2); /* FEXTRA FNAME FCOMMENT FHCRC */
    put(&b, 5, 16);
    for (i = 0; i < 5; i++) put(&b, 0xee, 8);
    put(&b, 'n', 8);
    put(&b, 0, 8);
    put(&b, 0, 8);
    put(&b, qnet_crc32(0, b.bytes, b.size) & 0xffff, 16);
    put(&b, 1 | 1 << 1, 3);
    put_literal(&b, 'k');
    put_code(&b, 0, 7);
    gzip_tail(&b, "k", 1);
    tail = b.size;
    CHECK_OK(ctx, unpack(&b, &out));
    CHECK(same(&out, "k", 1));
    b.bytes[12] ^= 1; /* in the extra field: only the header's CRC sees it */
    fails(&b, "header's CRC");
    b.bytes[12] ^= 1;

    memcpy(b.bytes + tail, b.bytes, tail); /* two members, then zeros, then something else */
    b.size = 2 * tail;
    CHECK_OK(ctx, unpack(&b, &out));
    CHECK(same(&out, "kk", 2));
    b.size += 500;
    CHECK_OK(ctx, unpack(&b, &out));
    CHECK(same(&out, "kk", 2));
    b.bytes[b.size++] = 'x';
    fails(&b, "no gzip member");
    b.size = 2 * tail;

    b.bytes[tail - 8] ^= 1;
    fails(&b, "CRC");
    b.bytes[tail - 8] ^= 1;
    b.bytes[tail - 4] ^= 1;
    fails(&b, "bytes unpacked, expected");
    b.bytes[tail - 4] ^= 1;
    b.bytes[3] |= 0x20;
    fails(&b, "reserved");
    b.bytes[3] &= 31;
    b.bytes[2] = 7;
    fails(&b, "method");
    b.bytes[2] = 8;
    b.bytes[1] = 0x8c;
    fails(&b, "1f 8b");
    b.bytes[1] = 0x8b;
    CHECK_OK(ctx, unpack(&b, &out));
    b.size = 0;
    fails(&b, "truncated");
    qnet_buffer_free(ctx, &out);
}

/* Cut anywhere: an error with a sentence. One bit changed anywhere: an error, or the same text
   (the header's time, flags of the compressor, OS). Never other text. */
static void test_damage(void)
{
    unsigned char copy[sizeof zlib_bytes];
    qnet_buffer out = {NULL, 0, 0, NULL};
    size_t i;
    int bit, ok = 1, let_pass = 0;
    for (i = 0; i < sizeof zlib_bytes; i++) {
        qnet_status s = gzip_unpack(ctx, zlib_bytes, i, 0, &out);
        ok = ok && s == QNET_ERROR_FORMAT && strstr(qnet_last_error(ctx), "truncated") &&
             out.bytes == NULL;
    }
    CHECK(ok);
    for (i = 0; i < sizeof zlib_bytes; i++)
        for (bit = 0; bit < 8; bit++) {
            qnet_status s;
            memcpy(copy, zlib_bytes, sizeof copy);
            copy[i] ^= (unsigned char)(1 << bit);
            s = gzip_unpack(ctx, copy, sizeof copy, 0, &out);
            if (s == QNET_OK) {
                if (i != sizeof zlib_bytes - 9)
                    let_pass++; /* there: bits that fill the last byte */
                ok = ok && same(&out, zlib_text, strlen(zlib_text));
                qnet_buffer_free(ctx, &out);
            } else {
                ok = ok && s == QNET_ERROR_FORMAT && qnet_last_error(ctx)[0] && out.bytes == NULL;
            }
        }
    CHECK(ok);
    CHECK(let_pass >= 6 * 8 + 1 && let_pass < 64); /* MTIME, XFL, OS, FTEXT; fill bits */
}

/* ---- round trips ---- */

static unsigned char *made(int kind, size_t size)
{
    unsigned char *p = (unsigned char *)malloc(size + 1);
    uint32_t x = 123456789u + (uint32_t)kind;
    size_t i;
    for (i = 0; i < size; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        switch (kind) {
        case 0: p[i] = 0; break;
        case 1: p[i] = (unsigned char)(x >> 11); break;
        case 2: p[i] = (unsigned char)"the rain in spain falls "[x >> 9 & 15]; break;
        case 3: p[i] = (unsigned char)(i / 300 % 2 ? 0 : x >> 20 & 15); break; /* as in volumes */
        default: { /* value k about 2^-k of the time: codes longer than 15 bits without a limit */
            int k = 0;
            while (k < 30 && (x >> k & 1) == 0) k++;
            p[i] = (unsigned char)(k * 8 + (k < 4 ? 0 : (int)(x >> 29)));
        }
        }
    }
    return p;
}

static void round_trip(int kind, size_t size)
{
    unsigned char *p = made(kind, size);
    qnet_buffer packed = {NULL, 0, 0, NULL}, again = {NULL, 0, 0, NULL}, out = {NULL, 0, 0, NULL};
    CHECK_OK(ctx, gzip_pack(ctx, p, size, &packed));
    CHECK_OK(ctx, gzip_unpack(ctx, packed.bytes, packed.size, size ? size : 1, &out));
    CHECK(same(&out, p, size));
    /* Noise takes little more than 8 bits a byte; a block's codes at most 170 bytes, gzip 20. */
    CHECK(packed.size <= size + size / 200 + 170 * (size / 65535 + 1) + 20);
    if (size > 100000) CHECK(packed.size < (kind == 0 ? size / 400 : size * 3 / 4) || kind == 1);
    gzip_pack(ctx, p, size, &again);
    CHECK(same(&again, packed.bytes, packed.size));
    if (size > 1) {
        size_t before;
        qnet_buffer_free(ctx, &out);
        CHECK_OK(ctx, qnet_buffer_append(ctx, &out, "head", 4));
        before = out.size;
        CHECK_FAILS(ctx, gzip_unpack(ctx, packed.bytes, packed.size, size - 1, &out),
                    QNET_ERROR_LIMIT, "more than");
        CHECK(out.size == before && memcmp(out.bytes, "head", 5) == 0);
    }
    qnet_buffer_free(ctx, &packed);
    qnet_buffer_free(ctx, &again);
    qnet_buffer_free(ctx, &out);
    free(p);
}

static void test_round_trips(void)
{
    static const size_t sizes[] = {0,     1,     2,     3,     4,     257,   258,   259,    1000,
                                   32767, 32768, 32769, 65534, 65535, 65536, 98303, 131071, 300001};
    size_t i;
    int kind;
    for (kind = 0; kind < 5; kind++)
        for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) round_trip(kind, sizes[i]);
}

/* The same bytes whatever the pieces they arrive in. */
static void test_pieces(void)
{
    const size_t size = 200000;
    unsigned char *p = made(3, size);
    qnet_buffer whole = {NULL, 0, 0, NULL}, parts = {NULL, 0, 0, NULL};
    qnet_sink sink = qnet_sink_buffer(ctx, &parts, "parts");
    qnet__deflate *d = (qnet__deflate *)malloc(sizeof *d);
    size_t at, n;
    CHECK_OK(ctx, gzip_pack(ctx, p, size, &whole));
    qnet__deflate_start(d, ctx, &sink, 0, 1);
    for (at = 0; at < size; at += n) {
        n = qnet__min_size(at % 7919 + 1, size - at);
        CHECK_OK(ctx, qnet__deflate_write(d, p + at, n));
    }
    CHECK_OK(ctx, qnet__deflate_finish(d));
    CHECK(same(&parts, whole.bytes, whole.size));
    free(d);
    free(p);
    qnet_buffer_free(ctx, &whole);
    qnet_buffer_free(ctx, &parts);
}

/* Hands out one to three bytes per call, and fails at byte `fail`. */
typedef struct drip {
    const unsigned char *bytes;
    size_t size, at, fail;
} drip;

static int drip_read(void *user, void *dst, size_t size, size_t *got)
{
    drip *d = (drip *)user;
    *got = qnet__min_size(qnet__min_size(size, d->at % 3 + 1), d->size - d->at);
    if (d->at >= d->fail) return 1;
    memcpy(dst, d->bytes + d->at, *got);
    d->at += *got;
    return 0;
}

static void test_dripping_source(void)
{
    qnet__inflate *s = (qnet__inflate *)malloc(sizeof *s);
    unsigned char out[1000];
    qnet_source source;
    drip d;
    size_t got = 0;
    d.bytes = zlib_bytes;
    d.size = sizeof zlib_bytes;
    d.at = 2;
    d.fail = (size_t)-1;
    source.user = &d;
    source.read = drip_read;
    source.name = "drip";
    qnet__inflate_start(s, ctx, &source, zlib_bytes, 2);
    CHECK_OK(ctx, qnet__inflate_read(s, out, sizeof out, &got));
    CHECK(got == strlen(zlib_text) && memcmp(out, zlib_text, got) == 0);
    d.at = 2;
    d.fail = 40;
    qnet__inflate_start(s, ctx, &source, zlib_bytes, 2);
    CHECK_FAILS(ctx, qnet__inflate_read(s, out, sizeof out, &got), QNET_ERROR_IO,
                "drip: reading failed");
    free(s);
}

/* Every table that the decoder can be given fits its block. */
static void test_table_bounds(void)
{
    uint8_t length[288];
    qnet__huffman *code;
    int longest, n;
    for (longest = 9; longest <= 15; longest++) {
        /* pairs of the longest codes fill up what a few short codes leave */
        for (n = 2; n <= 286; n += 2) {
            int i, left = 1 << longest, used = 0;
            memset(length, 0, sizeof length);
            for (i = 0; i < n; i++) length[used++] = (uint8_t)longest;
            left -= n;
            for (i = 1; i < longest && left > 0 && used < 288; i++)
                if (left & 1 << (longest - i)) {
                    length[used++] = (uint8_t)i;
                    left -= 1 << (longest - i);
                }
            if (left != 0) continue;
            code = (qnet__huffman *)malloc(sizeof *code); /* sanitizers know its end */
            CHECK(qnet__huffman_build(code, QNET__FOR_LITLEN, length, used) == 1);
            if (used <= 32) CHECK(qnet__huffman_build(code, QNET__FOR_DIST, length, used) == 1);
            free(code);
        }
    }
}

/* Counts like the Fibonacci numbers make Huffman's tree as deep as it gets: 21 bits for 22 symbols.
   With the limit the code must still be complete, and a rarer symbol never shorter. */
static void test_code_lengths(void)
{
    qnet__deflate *d = (qnet__deflate *)calloc(1, sizeof *d);
    double sum = 0;
    int i;
    d->count[0] = d->count[1] = 1;
    for (i = 2; i < 22; i++) d->count[i] = d->count[i - 1] + d->count[i - 2];
    qnet__huffman_make(d);
    for (i = 0; i < QNET__LITLEN_CODES; i++) {
        CHECK(d->length[i] <= QNET__CODE_MOST && (d->length[i] > 0) == (i < 22));
        CHECK(i == 0 || i >= 22 || d->length[i] <= d->length[i - 1]);
        if (d->length[i]) sum += 1.0 / (1 << d->length[i]);
    }
    CHECK(d->length[0] > 10);
    CHECK_NEAR(sum, 1, 0);
    memset(d->count, 0, sizeof d->count); /* a block of one byte: two symbols, a bit each */
    d->count[7] = d->count[256] = 1;
    qnet__huffman_make(d);
    for (i = 0; i < QNET__LITLEN_CODES; i++) CHECK(d->length[i] == (i == 7 || i == 256));
    free(d);
}

/* Runs of each period are found whatever their bytes. */
static void test_periods(void)
{
    static const size_t size = 400000;
    qnet_buffer packed = {NULL, 0, 0, NULL}, out = {NULL, 0, 0, NULL};
    unsigned char *p = (unsigned char *)malloc(size);
    for (size_t period = 1; period <= 4; period++) {
        for (size_t i = 0; i < size; i++) p[i] = (unsigned char)(i % period * 50 + 7);
        CHECK_OK(ctx, gzip_pack_runs(ctx, p, size, period, &packed));
        CHECK(packed.size < 2000);
        CHECK_OK(ctx, gzip_unpack(ctx, packed.bytes, packed.size, 0, &out));
        CHECK(same(&out, p, size));
        qnet_buffer_free(ctx, &packed);
        qnet_buffer_free(ctx, &out);
    }
    free(p);
}

static void test_no_memory(void)
{
    counter c;
    qnet_context *own = counting_context(&c);
    unsigned char *p = made(2, 100000);
    qnet_buffer packed = {NULL, 0, 0, NULL}, out = {NULL, 0, 0, NULL};
    long live = c.live, n;
    int failures = 0;
    for (n = 1; n < 40; n++) {
        qnet_status s;
        c.calls = 0;
        c.fail_at = n;
        s = gzip_pack(own, p, 100000, &packed);
        if (s == QNET_OK) s = gzip_unpack(own, packed.bytes, packed.size, 0, &out);
        if (s != QNET_OK) {
            failures++;
            CHECK(s == QNET_ERROR_MEMORY || s == QNET_ERROR_IO);
            CHECK(qnet_last_error(own)[0] != 0);
        }
        qnet_buffer_free(own, &packed);
        qnet_buffer_free(own, &out);
        CHECK(c.live == live);
    }
    CHECK(failures > 5 && failures < 39); /* each allocation failed once, and then none */
    c.fail_at = 0;
    qnet_context_destroy(own);
    CHECK(c.live == 0);
    free(p);
}

/* ---- PNG ---- */

static uint32_t get_be32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Takes a picture apart again with nothing from the writer but inflate. */
static void png_round_trip(int width, int height, int channels)
{
    static const int order[3] = {0x49484452, 0x49444154, 0x49454e44}, colour[4] = {0, 4, 2, 6};
    size_t row = (size_t)width * (size_t)channels, size = row * (size_t)height, i, at = 8;
    unsigned char *pixels = made(3, size), *plain = NULL;
    qnet__inflate *s = (qnet__inflate *)malloc(sizeof *s);
    qnet_buffer png = {NULL, 0, 0, NULL};
    qnet_memory_source memory;
    qnet_source source;
    qnet_sink sink = qnet_sink_buffer(ctx, &png, "picture");
    int k, ok = 1;
    CHECK_OK(ctx, qnet_png_write(ctx, &sink, width, height, channels, pixels));
    CHECK(png.size > 57 && memcmp(png.bytes, "\211PNG\r\n\032\n", 8) == 0);
    for (k = 0; k < 3 && at + 12 <= png.size; k++) {
        size_t n = get_be32(png.bytes + at);
        CHECK((int)get_be32(png.bytes + at + 4) == order[k]);
        CHECK(qnet_crc32(0, png.bytes + at + 4, n + 4) == get_be32(png.bytes + at + 8 + n));
        if (k == 0) {
            CHECK(n == 13 && (int)get_be32(png.bytes + at + 8) == width);
            CHECK((int)get_be32(png.bytes + at + 12) == height);
            CHECK(png.bytes[at + 16] == 8 && png.bytes[at + 17] == colour[channels - 1]);
        }
        if (k == 1) {
            CHECK(png.bytes[at + 8] == 0x78 &&
                  (png.bytes[at + 8] * 256 + png.bytes[at + 9]) % 31 == 0);
            source = qnet_source_memory(&memory, png.bytes + at + 10, n - 6, "idat");
            qnet__inflate_start(s, ctx, &source, "", 0);
            s->mode = QNET__IN_BLOCK; /* no gzip header; it ends where a gzip trailer is missing */
            while (qnet__inflate_fill(s) == QNET_OK) {}
            CHECK(s->mode == QNET__IN_TRAILER && s->made == size + (size_t)height);
            CHECK(qnet__adler32(1, s->out, s->made) == get_be32(png.bytes + at + 4 + n));
        }
        at += 12 + n;
    }
    CHECK(at == png.size);
    plain = s->out;
    for (i = 0; ok && s->made == size + (size_t)height && i < (size_t)height; i++) {
        unsigned char *line = plain + i * (row + 1) + 1, *above = line - row - 1;
        size_t x, c = (size_t)channels;
        for (x = 0; x < row; x++) {
            int left = x >= c ? line[x - c] : 0, up = i ? above[x] : 0;
            int corner = i && x >= c ? above[x - c] : 0, p = left + up - corner, paeth;
            int pa = abs(p - left), pb = abs(p - up), pc = abs(p - corner);
            paeth = pa <= pb && pa <= pc ? left : pb <= pc ? up : corner;
            line[x] = (unsigned char)(line[x] + (line[-1] == 1   ? left
                                                 : line[-1] == 2 ? up
                                                 : line[-1] == 3 ? (left + up) / 2
                                                 : line[-1] == 4 ? paeth
                                                                 : 0));
        }
        ok = memcmp(line, pixels + i * row, row) == 0;
    }
    CHECK(ok);
    free(s);
    free(pixels);
    qnet_buffer_free(ctx, &png);
}

static int full_write(void *user, const void *src, size_t size)
{
    size_t *room = (size_t *)user;
    (void)src;
    if (size > *room) return 1;
    *room -= size;
    return 0;
}

static void test_png(void)
{
    uint8_t pixels[12] = {0};
    qnet_sink sink;
    size_t room;
    png_round_trip(1, 1, 1);
    png_round_trip(1, 1, 3);
    png_round_trip(7, 5, 3);
    png_round_trip(13, 31, 1);
    png_round_trip(13, 31, 2);
    png_round_trip(7, 9, 4);
    png_round_trip(101, 99, 3);
    png_round_trip(1, 300, 3);
    png_round_trip(300, 1, 1);
    sink.user = &room;
    sink.write = full_write;
    sink.name = "disk";
    for (room = 0; room < 60; room += 7) {
        size_t keep = room;
        CHECK_FAILS(ctx, qnet_png_write(ctx, &sink, 2, 2, 3, pixels), QNET_ERROR_IO,
                    "disk: writing");
        room = keep;
    }
    CHECK_FAILS(ctx, qnet_png_write(ctx, NULL, 2, 2, 3, pixels), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_png_write(ctx, &sink, 2, 2, 3, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_png_write(ctx, &sink, 0, 2, 3, pixels), QNET_ERROR_ARGUMENT, "0 x 2 x 3");
    CHECK_FAILS(ctx, qnet_png_write(ctx, &sink, 2, -1, 3, pixels), QNET_ERROR_ARGUMENT, "2 x -1");
    CHECK_FAILS(ctx, qnet_png_write(ctx, &sink, 2, 2, 5, pixels), QNET_ERROR_ARGUMENT, "x 5");
    CHECK_FAILS(ctx, qnet_png_write(ctx, &sink, 1 << 17, 1 << 17, 1, pixels), QNET_ERROR_LIMIT,
                "2^30");
    CHECK_FAILS(ctx, qnet_png_write(ctx, &sink, 1, (1 << 29) + 1, 1, pixels), QNET_ERROR_LIMIT,
                "2^30"); /* with the filters of its rows */
#ifndef QNET_NO_STDIO
    CHECK_OK(ctx, qnet_make_folder(ctx, "build/test_deflate"));
    CHECK_OK(ctx, qnet_png_save(ctx, "build/test_deflate/picture.png", 2, 2, 3, pixels));
    CHECK(qnet_file_exists("build/test_deflate/picture.png"));
    CHECK_FAILS(ctx, qnet_png_save(ctx, "build/test_deflate/picture.png", 0, 2, 3, pixels),
                QNET_ERROR_ARGUMENT, "0 x 2");
    CHECK(qnet_file_exists("build/test_deflate/picture.png") &&
          !TEMPORARY_LEFT("build/test_deflate/picture.png"));
    remove("build/test_deflate/picture.png");
    CHECK_FAILS(ctx, qnet_png_save(ctx, "no/such/folder/x.png", 2, 2, 3, pixels), QNET_ERROR_IO,
                "folder");
    CHECK_FAILS(ctx, qnet_png_save(ctx, NULL, 2, 2, 3, pixels), QNET_ERROR_ARGUMENT, "path");
#endif
}

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    RUN(test_checksums);
    RUN(test_zlib_stream);
    RUN(test_block_kinds);
    RUN(test_bad_blocks);
    RUN(test_headers);
    RUN(test_damage);
    RUN(test_round_trips);
    RUN(test_pieces);
    RUN(test_dripping_source);
    RUN(test_table_bounds);
    RUN(test_code_lengths);
    RUN(test_periods);
    RUN(test_no_memory);
    RUN(test_png);
    qnet_context_destroy(ctx);
    return test_end();
}
