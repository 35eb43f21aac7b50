/* Room >>nifti: headers made byte by byte, every type and byte order, orientation against nibabel's
   answers, round trips, damage, and the real files of ../shared/data where they are at hand. */
#define QNET_IMPLEMENTATION
#include "qnet.h"
#include "test.h"
#include "gzip.h"

#define FOLDER "build/test_nifti"

static qnet_context *ctx;

typedef struct counter {
    long live, calls, fail_at;
    size_t largest;
} counter;

static void *count_alloc(void *user, size_t size, size_t align)
{
    counter *c = (counter *)user;
    if (++c->calls == c->fail_at) return NULL;
    c->live++;
    c->largest = qnet__max_size(c->largest, size);
    return qnet__default_alloc(NULL, size, align);
}

static void count_free(void *user, void *ptr, size_t size)
{
    ((counter *)user)->live--;
    qnet__default_free(NULL, ptr, size);
}

static void keep_log(void *user, qnet_log_level level, const char *text)
{
    (void)level;
    strncpy((char *)user, text, 255);
}

static char logged[256];

static qnet_context *counting_context(counter *c)
{
    qnet_hooks hooks;
    qnet_context *made = NULL;
    memset(&hooks, 0, sizeof hooks);
    memset(c, 0, sizeof *c);
    hooks.allocator.user = c;
    hooks.allocator.alloc = count_alloc;
    hooks.allocator.free = count_free;
    hooks.log.user = logged;
    hooks.log.message = keep_log;
    CHECK(qnet_context_create(&hooks, &made) == QNET_OK);
    return made;
}

/* ---- files made by hand ---- */

typedef struct file {
    unsigned char bytes[4096];
    size_t size;
    int big;
} file;

/* Datatypes, of which the library writes INT16 and FLOAT32. */
enum { UINT8 = 2, INT16 = 4, INT32 = 8, FLOAT32 = 16, FLOAT64 = 64, INT8 = 256, UINT16 = 512, UINT32 = 768,
       INT64 = 1024, UINT64 = 1280 };

static int get16(const unsigned char *p) { return p[0] | p[1] << 8; }

static void set16(file *f, size_t at, int value)
{
    f->bytes[at + (f->big ? 1 : 0)] = (unsigned char)(value & 255);
    f->bytes[at + (f->big ? 0 : 1)] = (unsigned char)(value >> 8 & 255);
}

static void set_bits(file *f, size_t at, uint64_t bits, int bytes)
{
    int i;
    for (i = 0; i < bytes; i++, bits >>= 8)
        f->bytes[at + (size_t)(f->big ? bytes - 1 - i : i)] = (unsigned char)(bits & 255);
}

static void set_float(file *f, size_t at, double value)
{
    float v = (float)value;
    uint32_t bits;
    memcpy(&bits, &v, 4);
    set_bits(f, at, bits, 4);
}

/* A header for nx x ny x nz, sform 2 mm with the origin at (-1, -2, -3); no voxels yet. */
static void start(file *f, int big, int type, int bytes, int nx, int ny, int nz)
{
    int i;
    memset(f, 0, sizeof *f);
    f->big = big;
    set_bits(f, 0, 348, 4);
    set16(f, 40, 3);
    set16(f, 42, nx);
    set16(f, 44, ny);
    set16(f, 46, nz);
    set16(f, 70, type);
    set16(f, 72, 8 * bytes);
    for (i = 1; i < 4; i++) set_float(f, 76 + 4 * (size_t)i, 2);
    set_float(f, 108, 352);
    f->bytes[123] = 2;
    set16(f, 254, 1);
    for (i = 0; i < 3; i++) {
        set_float(f, 280 + 20 * (size_t)i, 2);
        set_float(f, 292 + 16 * (size_t)i, -1 - i);
    }
    memcpy(f->bytes + 344, "n+1", 4);
    f->size = 352;
}

static qnet_status parse(const void *bytes, size_t size, qnet_volume **out)
{
    qnet_memory_source memory;
    qnet_source source = qnet_source_memory(&memory, bytes, size, "scan.nii");
    return qnet_nifti_read(ctx, &source, out);
}

/* The number k of a type, and how it lies in a file. */
static double sample(int type, int k)
{
    static const double u[] = {0, 1, 100, 255, 65535, 4294967295.0, 4611686018427387904.0};
    static const double s[] = {0, 1, -1, 127, -128, 32767, -32768, 2147483647.0, -2147483648.0};
    switch (type) {
    case UINT8: return u[k % 4];
    case UINT16: return u[k % 5];
    case UINT32: return u[k % 6];
    case UINT64: return u[k % 7] * (k % 7 == 6 ? 2 : 1); /* 2^63: above int64 */
    case INT8: return s[k % 5];
    case INT16: return s[k % 7];
    case INT32: return s[k % 9];
    case INT64: return s[k % 9] * (k % 9 == 8 ? 1048576.0 : 1);
    default: return (k % 2 ? -1.375 : 3e-3) * (k + 1);
    }
}

static uint64_t sample_bits(int type, double v)
{
    uint64_t bits;
    uint32_t word;
    float f = (float)v;
    switch (type) {
    case FLOAT32: memcpy(&word, &f, 4); return word;
    case FLOAT64: memcpy(&bits, &v, 8); return bits;
    case UINT64: return (uint64_t)v;
    default: return (uint64_t)(int64_t)v;
    }
}

static const int types[10] = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280};
static const int widths[10] = {1, 2, 4, 4, 8, 1, 2, 4, 8, 8};

static void test_types(void)
{
    file f;
    int t, big, scaled, gz, k, vox = 0;
    for (t = 0; t < 10; t++)
        for (big = 0; big < 2; big++)
            for (scaled = 0; scaled < 2; scaled++)
                for (gz = 0; gz < 2; gz++) {
                    qnet_buffer packed = {NULL, 0, 0, NULL};
                    qnet_volume *v = NULL;
                    int ok = 1;
                    start(&f, big, types[t], widths[t], 3, 5, 2);
                    set_float(&f, 108, 352 + 16 * gz); /* an extension to skip */
                    f.size += 16 * (size_t)gz;
                    if (scaled) {
                        set_float(&f, 112, -.5);
                        set_float(&f, 116, 1024);
                    }
                    for (k = 0; k < 30; k++, f.size += (size_t)widths[t])
                        set_bits(&f, f.size, sample_bits(types[t], sample(types[t], k)), widths[t]);
                    if (gz) CHECK_OK(ctx, gzip_pack(ctx, f.bytes, f.size, &packed));
                    CHECK_OK(ctx,
                             parse(gz ? packed.bytes : f.bytes, gz ? packed.size : f.size, &v));
                    if (v == NULL) continue;
                    CHECK(v->nx == 3 && v->ny == 5 && v->nz == 2 && v->affine_source == 2);
                    for (k = 0; k < 30; k++) {
                        double s = sample(types[t], k);
                        if (types[t] == FLOAT32) s = (double)(float)s;
                        if (v->voxels[k] != (float)(scaled ? s * -.5 + 1024 : s)) ok = 0;
                    }
                    CHECK(ok);
                    vox += k;
                    CHECK(strcmp(v->orientation, "RAS") == 0);
                    CHECK(v->affine[0][0] == 2 && v->affine[2][3] == -3 && v->spacing[1] == 2);
                    qnet_volume_destroy(v);
                    qnet_buffer_free(ctx, &packed);
                }
    CHECK(vox == 10 * 2 * 2 * 2 * 30);
}

static void bad(const file *f, qnet_status status, const char *part)
{
    qnet_volume *v = NULL;
    CHECK_FAILS(ctx, parse(f->bytes, f->size, &v), status, part);
    CHECK_CONTAINS(qnet_last_error(ctx), "scan.nii: ");
    CHECK(v == NULL);
}

static void good(const file *f)
{
    qnet_volume *v = NULL;
    CHECK_OK(ctx, parse(f->bytes, f->size, &v));
    qnet_volume_destroy(v);
}

/* One field changed in a file that is otherwise good. */
static void test_bad_headers(void)
{
    static const int odd_types[] = {0, 1, 32, 128, 1536, 1792, 2048, 2304, 3, -2};
    file f, ok;
    size_t i;
    int big;
    for (big = 0; big < 2; big++) {
        start(&ok, big, INT16, 2, 4, 3, 2);
        ok.size += 48;
        good(&ok);
        f = ok;
        set_bits(&f, 0, 347, 4);
        bad(&f, QNET_ERROR_FORMAT, "sizeof_hdr");
        f = ok;
        set_bits(&f, 0, 540, 4);
        bad(&f, QNET_ERROR_UNSUPPORTED, "NIfTI-2");
        f = ok;
        memcpy(f.bytes + 344, "ni1", 4);
        bad(&f, QNET_ERROR_UNSUPPORTED, ".hdr/.img pair");
        f = ok;
        memset(f.bytes + 344, 0, 4);
        bad(&f, QNET_ERROR_FORMAT, "magic is 00 00 00 00");
        f = ok;
        set16(&f, 40, 0);
        bad(&f, QNET_ERROR_FORMAT, "dim[0] is 0, expected 1 to 7");
        set16(&f, 40, 8);
        bad(&f, QNET_ERROR_FORMAT, "dim[0] is 8");
        f = ok;
        set16(&f, 44, 0);
        bad(&f, QNET_ERROR_FORMAT, "dim[2] is 0");
        set16(&f, 44, -3);
        bad(&f, QNET_ERROR_FORMAT, "dim[2] is -3");
        f = ok;
        set16(&f, 40, 4);
        set16(&f, 48, -1);
        bad(&f, QNET_ERROR_FORMAT, "dim[4] is -1");
        set16(&f, 48, 1);
        good(&f);
        set16(&f, 48, 3);
        bad(&f, QNET_ERROR_UNSUPPORTED, "dim[4] is 3, expected 1");
        f = ok;
        for (i = 42; i < 48; i += 2) set16(&f, i, 32767);
        bad(&f, QNET_ERROR_LIMIT, "QNET_MAX_VOXELS");
        f = ok;
        for (i = 0; i < sizeof odd_types / sizeof odd_types[0]; i++) {
            set16(&f, 70, odd_types[i]);
            bad(&f, QNET_ERROR_UNSUPPORTED, "datatype is");
        }
        f = ok;
        set_float(&f, 108, 0);
        bad(&f, QNET_ERROR_FORMAT, "vox_offset is 0");
        set_float(&f, 108, 348);
        bad(&f, QNET_ERROR_FORMAT, "vox_offset is 348");
        set_float(&f, 108, 352.5);
        bad(&f, QNET_ERROR_FORMAT, "vox_offset is 352.5");
        set_bits(&f, 108, 0x7fc00000, 4); /* NaN */
        bad(&f, QNET_ERROR_FORMAT, "vox_offset");
        set_bits(&f, 108, 0x7f800000, 4); /* infinity */
        bad(&f, QNET_ERROR_FORMAT, "vox_offset");
        set_float(&f, 108, 1e9);
        bad(&f, QNET_ERROR_LIMIT, "vox_offset");
        set_float(&f, 108, 401);
        bad(&f, QNET_ERROR_FORMAT, "truncated: expected voxels at byte 401");
        set_float(&f, 108, 353);
        bad(&f, QNET_ERROR_FORMAT, "needs 48 bytes of voxels, found 47");
        f = ok;
        set_float(&f, 112, 1);
        set_bits(&f, 116, 0x7f800000, 4);
        bad(&f, QNET_ERROR_FORMAT, "scl_inter");
        f = ok;
        set_bits(&f, 280, 0x7fc00000, 4);
        bad(&f, QNET_ERROR_FORMAT, "affine of the sform");
        f = ok;
        set_float(&f, 280, 0);
        bad(&f, QNET_ERROR_FORMAT, "singular");
        f = ok;
        memcpy(f.bytes + 296, f.bytes + 280, 16); /* two axes in one direction */
        bad(&f, QNET_ERROR_FORMAT, "singular");
        f = ok;
        set16(&f, 254, 0);
        set_float(&f, 84, 0);
        bad(&f, QNET_ERROR_FORMAT, "pixdim[2] is 0");
        f = ok;
        set16(&f, 254, 0);
        set16(&f, 252, 1);
        set_float(&f, 256, .8);
        set_float(&f, 260, .8);
        bad(&f, QNET_ERROR_FORMAT, "quatern_b, c, d");
    }
    for (i = 0; i < 400; i++) { /* cut anywhere */
        qnet_volume *v = NULL;
        qnet_status s = parse(ok.bytes, i, &v);
        CHECK(s == QNET_ERROR_FORMAT && v == NULL && strstr(qnet_last_error(ctx), "truncated"));
    }
    CHECK_FAILS(ctx, qnet_nifti_read(ctx, NULL, NULL), QNET_ERROR_ARGUMENT, "NULL");
}

/* Reads it and checks the one warning that comes with it (NULL: none) and where voxels lie. */
static void repaired(const file *f, const char *warning, int source, const char *orientation,
                     double first)
{
    qnet_volume *v = NULL;
    logged[0] = '\0';
    CHECK_OK(ctx, parse(f->bytes, f->size, &v));
    if (v == NULL) return;
    if (warning) CHECK_CONTAINS(logged, warning);
    else if (!CHECK(logged[0] == '\0')) printf("    %s\n", logged);
    CHECK(v->affine_source == source && strcmp(v->orientation, orientation) == 0);
    CHECK_NEAR(v->affine[0][0], first, 4e-6);
    CHECK(v->voxels[5] == 5);
    qnet_volume_destroy(v);
}

/* What has one right meaning is read with that meaning, and said. */
static void test_repairs(void)
{
    counter c;
    qnet_context *own = counting_context(&c), *before = ctx;
    file f, ok, q;
    int big, i;
    ctx = own;
    for (big = 0; big < 2; big++) {
        start(&ok, big, INT16, 2, 4, 3, 2);
        for (i = 0; i < 24; i++) set16(&ok, 352 + 2 * (size_t)i, i);
        ok.size += 48;
        repaired(&ok, NULL, 2, "RAS", 2);

        /* bitpix as Julia wrote it (of the scaled type), and 0; the length says if datatype lies */
        f = ok;
        set16(&f, 72, 32);
        repaired(&f, "bitpix is 32, expected 16 for datatype 4 (int16)", 2, "RAS", 2);
        f.size += 48;
        bad(&f, QNET_ERROR_FORMAT, "bitpix is 32 and datatype 4 (int16)");
        f.size = ok.size - 1;
        bad(&f, QNET_ERROR_FORMAT, "truncated");
        f = ok;
        set16(&f, 72, 0);
        repaired(&f, "bitpix is 0", 2, "RAS", 2);

        f = ok;
        set16(&f, 40, 4); /* dim[4] stays 0 */
        repaired(&f, "dim[4] is 0, taken as 1", 2, "RAS", 2);
        f = ok;
        f.bytes[123] = 7 | 8;
        repaired(&f, "xyzt_units has the spatial unit 7", 2, "RAS", 2);

        /* negative spacing: beside a right sform it means nothing */
        q = ok;
        set16(&q, 252, 1);
        for (i = 0; i < 3; i++) set_float(&q, 268 + 4 * (size_t)i, -1 - i);
        repaired(&q, NULL, 2, "RAS", 2);
        f = q;
        set_float(&f, 80, -2);
        repaired(&f, NULL, 2, "RAS", 2);
        set16(&f, 254, 0);
        repaired(&f, "pixdim[1] is -2: taken as 2", 1, "RAS", 2);
        set16(&f, 252, 0);
        repaired(&f, "neither sform nor qform", 0, "LAS", -2);

        /* quaternions that rounding made too long: half a turn about (.6, .8, 0) */
        f = q;
        set16(&f, 254, 0);
        set_float(&f, 256, .6);
        set_float(&f, 260, .8);
        repaired(&f, NULL, 1, "ARI", 2 * (2 * .36 - 1));
        set_float(&f, 256, .6 * (1 + 4e-6));
        set_float(&f, 260, .8 * (1 + 4e-6));
        repaired(&f, "longer than 1 by", 1, "ARI", 2 * (2 * .36 - 1));
        set_float(&f, 256, .6 * (1 + 1e-5));
        set_float(&f, 260, .8 * (1 + 1e-5));
        bad(&f, QNET_ERROR_FORMAT, "quatern_b, c, d");

        /* a zero sform says nothing; one that is something else is damaged */
        f = q;
        memset(f.bytes + 280, 0, 48);
        repaired(&f, "its matrix is 0: qform is used", 1, "RAS", 2);
        set_float(&f, 88, 0);
        bad(&f, QNET_ERROR_FORMAT, "affine of the sform");
        f = ok;
        memset(f.bytes + 280, 0, 48);
        bad(&f, QNET_ERROR_FORMAT, "affine of the sform");
        f = q;
        set_float(&f, 300, 0);
        bad(&f, QNET_ERROR_FORMAT, "affine of the sform");
    }
    qnet_context_destroy(own);
    CHECK(c.live == 0);
    ctx = before;
}

static void test_scaling_rules(void)
{
    static const uint32_t none[4] = {0, 0x80000000u, 0x7fc00000u, 0xff800000u}; /* 0 -0 NaN -inf */
    file f;
    qnet_volume *v = NULL;
    int i;
    for (i = 0; i < 4; i++) {
        start(&f, i & 1, UINT8, 1, 1, 1, 1);
        f.bytes[f.size++] = 7;
        set_bits(&f, 112, none[i], 4);
        set_float(&f, 116, 100);
        CHECK_OK(ctx, parse(f.bytes, f.size, &v));
        CHECK(v->voxels[0] == 7);
        qnet_volume_destroy(v);
    }
    start(&f, 0, FLOAT64, 8, 2, 1, 1); /* NaN and infinity pass, 1e300 does not fit */
    set_bits(&f, 352, 0x7ff8000000000000u, 8);
    set_bits(&f, 360, 0xfff0000000000000u, 8);
    f.size = 368;
    CHECK_OK(ctx, parse(f.bytes, f.size, &v));
    CHECK(v->voxels[0] != v->voxels[0] && v->voxels[1] < -FLT_MAX);
    qnet_volume_destroy(v);
    set_bits(&f, 360, sample_bits(FLOAT64, 1e300), 8);
    bad(&f, QNET_ERROR_DATA, "voxel (1, 0, 0) is 1e+300");
}

static void test_tail(void)
{
    counter c;
    qnet_context *own = counting_context(&c), *before = ctx;
    unsigned char *many = (unsigned char *)calloc(1, 2u << 20);
    qnet_volume *v = NULL;
    file f;
    ctx = own;
    start(&f, 0, UINT8, 1, 2, 2, 2);
    f.size += 8 + 3;
    logged[0] = 0;
    good(&f);
    CHECK_CONTAINS(logged, "3 bytes follow the last voxel");
    memcpy(many, f.bytes, f.size);
    CHECK_FAILS(ctx, parse(many, 2u << 20, &v), QNET_ERROR_FORMAT, "follow the last voxel");
    CHECK(v == NULL);
    free(many);
    qnet_context_destroy(own);
    CHECK(c.live == 0);
    ctx = before;
}

/* ---- where the voxels lie ---- */

static void set_affine(file *f, const double a[9])
{
    int i, j;
    for (i = 0; i < 3; i++)
        for (j = 0; j < 3; j++) set_float(f, (size_t)(280 + 16 * i + 4 * j), a[3 * i + j]);
}

static void test_affines(void)
{
    /* nibabel 5.4.2, aff2axcodes: random rotations with shear, and one where the
       clearest axis must choose first. */
    static const double matrix[9][9] = {
        {0.367, -0.123, -0.44, -0.39, -1.997, 0.128, -0.845, 0.394, -0.25},
        {0.723, 0.854, 0.273, 0.49, -1.509, 0.038, 0.487, 1.074, -0.443},
        {0.295, 1.915, 0.028, 0.204, -0.703, 0.507, 0.934, -0.023, -0.12},
        {0.776, 1.294, -0.271, 0.184, -1.477, -0.186, -0.603, 0.552, -0.406},
        {0.219, 1.949, -0.286, -0.397, 0.559, 0.369, 0.891, 0.219, 0.234},
        {-0.868, 0.453, 0.087, 0.222, -0.342, 0.508, 0.444, 1.959, -0.084},
        {-1, 0, 0, 0, 0, 3, 0, -2, 0},
        {1, 0.1, 0, 0, 1, 0, 0, 0, -1},
        {-.9, -.39, 1.63, -1.18, .16, -2.14, 0, .9, -.24}};
    static const char *const codes[9] = {"IPL", "RPI", "SRA", "RPI", "SRA",
                                         "LSA", "LIA", "RAI", "LSP"};
    /* nibabel, get_qform: quatern (.1, -.3, .5), pixdim (-1, 1.5, 2, 3), offset (-10, 20, 30). */
    static const double qform[12] = {
        0.47999997854232745, -1.7324515469749129, 1.151206439571974,   -10,
        1.1193386503964182,  0.9599999988079071,  1.3837355050965274,  20,
        0.8756032242563354,  -0.2775097109526975, -2.3999999552965154, 30};
    qnet_volume *v = NULL;
    file f;
    counter c;
    qnet_context *own = counting_context(&c), *before = ctx;
    int i, j, units;
    ctx = own;
    for (i = 0; i < 9; i++) {
        start(&f, i & 1, UINT8, 1, 1, 1, 1);
        f.size++;
        set_affine(&f, matrix[i]);
        CHECK_OK(ctx, parse(f.bytes, f.size, &v));
        if (!CHECK(strcmp(v->orientation, codes[i]) == 0))
            printf("    %d: %s\n", i, v->orientation);
        qnet_volume_destroy(v);
    }
    for (units = 0; units < 4; units++) {
        double scale = units == 1 ? 1000 : units == 3 ? .001 : 1;
        start(&f, 1, UINT8, 1, 3, 5, 7);
        f.size += 105;
        f.bytes[123] = (unsigned char)(units | 8);
        set16(&f, 254, 0);
        set16(&f, 252, 1);
        set_float(&f, 76, -1);
        set_float(&f, 80, 1.5);
        set_float(&f, 88, 3);
        set_float(&f, 256, .1);
        set_float(&f, 260, -.3);
        set_float(&f, 264, .5);
        set_float(&f, 268, -10);
        set_float(&f, 272, 20);
        set_float(&f, 276, 30);
        CHECK_OK(ctx, parse(f.bytes, f.size, &v));
        CHECK(v->affine_source == 1 && strcmp(v->orientation, "ALI") == 0);
        for (i = 0; i < 12; i++) /* the header holds floats */
            CHECK_NEAR(v->affine[i / 4][i % 4], scale * qform[i], 1e-6 * scale);
        CHECK_NEAR(v->spacing[0], 1.5 * scale, 1e-6 * scale);
        CHECK_NEAR(v->spacing[2], 3 * scale, 1e-6 * scale);
        qnet_volume_destroy(v);
    }
    /* sform goes before qform; that they differ is logged. A qfac of 0 means 1. */
    set16(&f, 254, 2);
    logged[0] = 0;
    CHECK_OK(ctx, parse(f.bytes, f.size, &v));
    CHECK(v->affine_source == 2 && strcmp(v->orientation, "RAS") == 0);
    CHECK_CONTAINS(logged, "sform says RAS and qform says ALI");
    qnet_volume_destroy(v);
    /* The scanner's axes, 10 degrees about x off the aligned ones: a quaternion of half the angle. */
    set_float(&f, 76, 1);
    set_float(&f, 256, sinf(5 * 3.14159265f / 180));
    set_float(&f, 260, 0);
    set_float(&f, 264, 0);
    for (i = 1; i <= 2; i++) { /* sform_code: the scanner's, too, and aligned */
        set16(&f, 254, i);
        logged[0] = 0;
        CHECK_OK(ctx, parse(f.bytes, f.size, &v));
        CHECK(v->affine_source == 2 && strcmp(v->orientation, "RAS") == 0);
        if (i == 2) CHECK_CONTAINS(logged, "sform (code 2, aligned) is turned by 10 degrees against the scanner's axes");
        else CHECK(logged[0] == 0);
        qnet_volume_destroy(v);
    }
    set_float(&f, 76, -1);
    set_float(&f, 256, .1f);
    set_float(&f, 260, -.3f);
    set_float(&f, 264, .5f);
    set16(&f, 254, 0);
    set_float(&f, 76, 0);
    CHECK_OK(ctx, parse(f.bytes, f.size, &v));
    CHECK(strcmp(v->orientation, "ALS") == 0);
    qnet_volume_destroy(v);
    /* Neither: nibabel's get_base_affine for 3 x 5 x 7 with 3, 2, 1 mm. */
    set16(&f, 252, 0);
    f.bytes[123] = 0;
    for (i = 0; i < 3; i++) set_float(&f, 80 + 4 * (size_t)i, 3 - i);
    logged[0] = 0;
    CHECK_OK(ctx, parse(f.bytes, f.size, &v));
    CHECK(v->affine_source == 0 && strcmp(v->orientation, "LAS") == 0);
    for (i = 0; i < 3; i++) {
        for (j = 0; j < 3; j++) CHECK(v->affine[i][j] == (i != j ? 0 : i == 0 ? -3 : 3 - i));
        CHECK(v->affine[i][3] == (i == 0 ? 3 : i == 1 ? -4 : -3));
    }
    CHECK_CONTAINS(logged, "neither sform nor qform");
    qnet_volume_destroy(v);
    qnet_context_destroy(own);
    CHECK(c.live == 0);
    ctx = before;
}

/* Deterministic numbers in -1..1. */
static double noise(uint32_t *x)
{
    *x = *x * 1664525u + 1013904223u;
    return (double)(*x >> 8) / 8388608.0 - 1;
}

static void world(const qnet_volume *v, int x, int y, int z, double p[3])
{
    int i;
    for (i = 0; i < 3; i++)
        p[i] = v->affine[i][0] * x + v->affine[i][1] * y + v->affine[i][2] * z + v->affine[i][3];
}

/* All 48 orientations, from an oblique one: every voxel keeps its value at its place in the world.
 */
static void test_reorient(void)
{
    static const char letters[] = "RASLPI";
    static const double oblique[12] = {-.05, 1.9, .1, -7, 1.2, .06, -.02, 11, -.03, -.1, -3, 5};
    double place[3 * 4 * 5][3], p[3];
    qnet_volume *v = NULL;
    float *original;
    int a, b, c, i, x, y, z, count = 0;
    CHECK_OK(ctx, qnet_volume_create(ctx, 3, 4, 5, &v));
    CHECK(v->voxels[59] == 0 && strcmp(v->orientation, "RAS") == 0 && v->affine[1][1] == 1);
    memcpy(v->affine, oblique, sizeof oblique);
    CHECK_OK(ctx, qnet_volume_reorient(v, "ARI")); /* as it is: the fields follow the affine */
    CHECK(v->nx == 3 && strcmp(v->orientation, "ARI") == 0 && v->affine[0][1] == 1.9);
    CHECK_NEAR(v->spacing[0], sqrt(.05 * .05 + 1.2 * 1.2 + .03 * .03), 1e-12);
    for (i = 0; i < 60; i++) {
        v->voxels[i] = (float)i;
        world(v, i % 3, i / 3 % 4, i / 12, place[i]);
    }
    original = (float *)malloc(60 * sizeof(float));
    memcpy(original, v->voxels, 60 * sizeof(float));
    for (a = 0; a < 6; a++)
        for (b = 0; b < 6; b++)
            for (c = 0; c < 6; c++) {
                char to[4];
                double norm[3], r[3][3];
                char text[4];
                int moved = 0;
                to[0] = letters[a];
                to[1] = letters[b];
                to[2] = letters[c];
                to[3] = 0;
                if (a % 3 == b % 3 || a % 3 == c % 3 || b % 3 == c % 3) {
                    CHECK_FAILS(ctx, qnet_volume_reorient(v, to), QNET_ERROR_ARGUMENT, to);
                    continue;
                }
                CHECK_OK(ctx, qnet_volume_reorient(v, to));
                count++;
                CHECK(strcmp(v->orientation, to) == 0);
                CHECK(qnet__affine_axes(&v->affine[0][0], norm, r));
                qnet__orientation_text(r, text);
                CHECK(strcmp(text, to) == 0 && fabs(norm[2] - v->spacing[2]) < 1e-12);
                for (z = 0, i = 0; z < v->nz; z++)
                    for (y = 0; y < v->ny; y++)
                        for (x = 0; x < v->nx; x++, i++) {
                            int k = (int)v->voxels[i], j;
                            world(v, x, y, z, p);
                            for (j = 0; j < 3; j++) /* sums of a few products near 10 */
                                if (fabs(p[j] - place[k][j]) > 1e-12) moved++;
                        }
                CHECK(moved == 0 && i == 60);
            }
    CHECK(count == 48);
    CHECK_OK(ctx, qnet_volume_reorient(v, "ARI"));
    CHECK(memcmp(v->voxels, original, 60 * sizeof(float)) == 0);
    CHECK_FAILS(ctx, qnet_volume_reorient(v, "RA"), QNET_ERROR_ARGUMENT, "three letters");
    CHECK_FAILS(ctx, qnet_volume_reorient(v, "RASS"), QNET_ERROR_ARGUMENT, "three letters");
    CHECK_FAILS(ctx, qnet_volume_reorient(v, "ras"), QNET_ERROR_ARGUMENT, "three letters");
    CHECK_FAILS(ctx, qnet_volume_reorient(v, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK(qnet_volume_reorient(NULL, "RAS") == QNET_ERROR_ARGUMENT);
    v->affine[0][1] = v->affine[1][1] = v->affine[2][1] = 0;
    CHECK_FAILS(ctx, qnet_volume_reorient(v, "RAS"), QNET_ERROR_DATA, "singular");
    qnet_volume_destroy(v);
    qnet_volume_destroy(NULL);
    free(original);
    CHECK_FAILS(ctx, qnet_volume_create(ctx, 0, 1, 1, &v), QNET_ERROR_ARGUMENT, "0 x 1 x 1");
    CHECK_FAILS(ctx, qnet_volume_create(ctx, 1, 1, 1, NULL), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_volume_create(ctx, 1 << 30, 1 << 30, 1 << 30, &v), QNET_ERROR_LIMIT,
                "most");
}

/* ---- writing ---- */

static qnet_status pack(const qnet_volume *v, double slope, int gzip, qnet_buffer *out)
{
    qnet_sink sink;
    qnet_buffer_free(ctx, out);
    sink = qnet_sink_buffer(ctx, out, "out.nii");
    return qnet_nifti_write(ctx, &sink, v, slope, gzip);
}

/* A volume with an oblique, left-handed affine without shear. */
static qnet_volume *oblique_volume(int nx, int ny, int nz)
{
    static const double q[4] = {.5, .1, -.7, .5};
    qnet_volume *v = NULL;
    double r[3][3];
    int i, j;
    qnet__quaternion_to_rotation(q, r);
    CHECK_OK(ctx, qnet_volume_create(ctx, nx, ny, nz, &v));
    for (i = 0; i < 3; i++) {
        for (j = 0; j < 3; j++) v->affine[i][j] = r[i][j] * (j == 2 ? -2.5 : 1 + .25 * j);
        v->affine[i][3] = 10.5 * i - 7;
    }
    return v;
}

static void test_write_read(void)
{
    static const double slopes[] = {0, 1, .01, 3};
    qnet_volume *v = oblique_volume(7, 6, 5), *back = NULL;
    qnet_buffer bytes = {NULL, 0, 0, NULL};
    int gz, k, i, j;
    for (k = 0; k < 4; k++)
        for (gz = 0; gz < 2; gz++) {
            double worst = 0;
            for (i = 0; i < 210; i++) v->voxels[i] = (float)(i % 100 - 30) * (k == 0 ? .37f : (float)slopes[k]);
            CHECK_OK(ctx, pack(v, slopes[k], gz, &bytes));
            if (!gz) {
                CHECK(bytes.size == 352 + 210 * (k == 0 ? 4u : 2u));
                CHECK(get16(bytes.bytes + 70) == (k == 0 ? FLOAT32 : INT16));
                CHECK(get16(bytes.bytes + 72) == (k == 0 ? 32 : 16));
                CHECK(get16(bytes.bytes + 252) == 0 && get16(bytes.bytes + 254) == 1);
            }
            CHECK_OK(ctx, parse(bytes.bytes, bytes.size, &back));
            for (i = 0; i < 210; i++)
                worst = fmax(worst, fabs((double)back->voxels[i] - (double)v->voxels[i]));
            CHECK(worst <= (k == 0 ? 0 : 4e-6)); /* a float's rounding of numbers below 100 */
            for (i = 0; i < 3; i++)
                for (j = 0; j < 4; j++) /* floats in the file */
                    CHECK_NEAR(back->affine[i][j], v->affine[i][j], 1e-6);
            CHECK(back->affine_source == 2);
            CHECK_NEAR(back->spacing[2], 2.5, 1e-6);
            qnet_volume_destroy(back);
        }
    v->affine[0][1] += .01; /* shear: a matrix can tell it */
    CHECK_OK(ctx, pack(v, 0, 0, &bytes));
    CHECK_OK(ctx, parse(bytes.bytes, bytes.size, &back));
    CHECK_NEAR(back->affine[0][1], v->affine[0][1], 1e-6);
    qnet_volume_destroy(back);
    qnet_buffer_free(ctx, &bytes);
    qnet_volume_destroy(v);
}

/* Left and right that a file did not tell are not told by a copy of it either: the same voxel has the
   same neighbours, and the same warning comes. In another order than that of such files it is refused. */
static void test_unknown_side(void)
{
    counter c;
    qnet_context *own = counting_context(&c), *before = ctx;
    qnet_buffer bytes = {NULL, 0, 0, NULL};
    qnet_volume *v = NULL, *again = NULL;
    file f;
    int i;
    ctx = own;
    start(&f, 0, UINT8, 1, 2, 3, 4);
    for (i = 0; i < 24; i++) f.bytes[f.size++] = (unsigned char)i;
    set16(&f, 254, 0);
    set_float(&f, 84, 3);
    CHECK_OK(ctx, parse(f.bytes, f.size, &v));
    CHECK_OK(ctx, qnet_volume_reorient(v, "PIR"));
    CHECK_FAILS(ctx, pack(v, 0, 0, &bytes), QNET_ERROR_DATA, "out.nii: the side of the volume is unknown");
    CHECK_CONTAINS(qnet_last_error(ctx), "not PIR");
    CHECK(bytes.size == 0);
    CHECK_OK(ctx, qnet_volume_reorient(v, "LAS"));
    CHECK_OK(ctx, pack(v, 0, 0, &bytes));
    CHECK(get16(bytes.bytes + 252) == 0 && get16(bytes.bytes + 254) == 0);
    logged[0] = '\0';
    CHECK_OK(ctx, parse(bytes.bytes, bytes.size, &again));
    CHECK_CONTAINS(logged, "neither sform nor qform: taken as LAS, side unknown");
    CHECK(again->affine_source == 0 && again->nx == 2 && again->ny == 3 && again->nz == 4);
    CHECK(again->spacing[0] == 2 && again->spacing[1] == 3 && again->spacing[2] == 2);
    for (i = 0; i < 24; i++) CHECK(again->voxels[i] == (float)i);
    qnet_volume_destroy(again);
    qnet_volume_destroy(v);
    qnet_buffer_free(ctx, &bytes);
    qnet_context_destroy(own);
    CHECK(c.live == 0);
    ctx = before;
}

/* The rotation of any quaternion, and of its half turns the axes that stay. */
static void test_quaternions(void)
{
    uint32_t seed = 1;
    int k, i, j;
    for (k = 0; k < 200; k++) {
        double q[4], r[3][3], n = 0, worst = 0;
        for (i = 0; i < 4; i++) q[i] = k < 16 ? (k >> i & 1) : noise(&seed);
        for (i = 0; i < 4; i++) n += q[i] * q[i];
        if (n < 1e-3) continue;
        qnet__quaternion_to_rotation(q, r);
        CHECK_NEAR(qnet__det3(r), 1, 1e-12);
        for (i = 0; i < 3; i++)
            for (j = 0; j < 3; j++)
                worst = fmax(worst, fabs(r[i][0] * r[j][0] + r[i][1] * r[j][1] + r[i][2] * r[j][2] - (i == j)));
        CHECK(worst < 1e-12);
        for (i = 0; i < 3; i++) /* the axis b, c, d stays where it is */
            CHECK_NEAR(r[i][0] * q[1] + r[i][1] * q[2] + r[i][2] * q[3], q[1 + i], 1e-12);
    }
}

static int full_write(void *user, const void *src, size_t size)
{
    size_t *room = (size_t *)user;
    (void)src;
    if (size > *room) return 1;
    *room -= size;
    return 0;
}

static void test_write_refusals(void)
{
    static const float beyond[] = {32767.5f, -32768.6f, 1e30f};
    qnet_volume *v = NULL, *back = NULL;
    qnet_buffer bytes = {NULL, 0, 0, NULL};
    qnet_sink sink;
    size_t room;
    int i, gzip;
    CHECK_OK(ctx, qnet_volume_create(ctx, 2, 3, 2, &v));
    v->voxels[9] = (float)NAN; /* floats keep it */
    v->voxels[8] = -0.f;
    CHECK_OK(ctx, pack(v, 0, 1, &bytes));
    CHECK_OK(ctx, parse(bytes.bytes, bytes.size, &back));
    CHECK(memcmp(back->voxels, v->voxels, 12 * sizeof(float)) == 0);
    qnet_volume_destroy(back);
    CHECK_FAILS(ctx, pack(v, 1, 1, &bytes), QNET_ERROR_DATA, "voxel (1, 1, 1)");
    for (i = 0; i < 3; i++) {
        v->voxels[9] = beyond[i];
        CHECK_FAILS(ctx, pack(v, 1, 1, &bytes), QNET_ERROR_DATA, "out.nii: voxel (1, 1, 1)");
        CHECK_CONTAINS(qnet_last_error(ctx), "does not fit int16");
    }
    v->voxels[9] = .5f; /* to the even neighbour, as rint does */
    v->voxels[8] = 1.5f;
    v->voxels[7] = 2.4999f;
    v->voxels[6] = -32768;
    CHECK_OK(ctx, pack(v, 1, 1, &bytes));
    CHECK_OK(ctx, parse(bytes.bytes, bytes.size, &back));
    CHECK(back->voxels[9] == 0 && back->voxels[8] == 2 && back->voxels[7] == 2 && back->voxels[6] == -32768);
    qnet_volume_destroy(back);
    for (i = 0; i < 12; i++) v->voxels[i] = 0;

    /* What is stored is meant for the slope as the header has it, a float: 3276.65 / .1f. */
    v->voxels[0] = 3276.65f;
    CHECK_OK(ctx, pack(v, .1, 0, &bytes));
    CHECK(get16(bytes.bytes + 352) == 32766);
    v->voxels[0] = 0;

    CHECK_FAILS(ctx, pack(v, (double)NAN, 1, &bytes), QNET_ERROR_ARGUMENT, "slope");
    CHECK_FAILS(ctx, pack(v, 1e-60 /* 0 as a float */, 1, &bytes), QNET_ERROR_ARGUMENT, "slope");
    CHECK_FAILS(ctx, pack(v, 1e60, 1, &bytes), QNET_ERROR_ARGUMENT, "slope");
    CHECK_FAILS(ctx, pack(v, -1, 1, &bytes), QNET_ERROR_ARGUMENT, "slope is -1");
    v->nx = 40000;
    CHECK_FAILS(ctx, pack(v, 0, 1, &bytes), QNET_ERROR_LIMIT, "40000 x 3 x 2");
    v->nx = 2;
    v->affine[2][2] = 0;
    CHECK_FAILS(ctx, pack(v, 0, 1, &bytes), QNET_ERROR_DATA, "singular");
    v->affine[2][2] = 1;
    sink.user = &room;
    sink.write = full_write;
    sink.name = "full disk";
    for (gzip = 0; gzip < 2; gzip++) {
        room = 20;
        CHECK_FAILS(ctx, qnet_nifti_write(ctx, &sink, v, 0, gzip), QNET_ERROR_IO, "full disk: writing");
    }
    CHECK_FAILS(ctx, qnet_nifti_write(ctx, NULL, v, 0, 0), QNET_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(ctx, qnet_nifti_write(ctx, &sink, NULL, 0, 0), QNET_ERROR_ARGUMENT, "NULL");
    qnet_buffer_free(ctx, &bytes);
    qnet_volume_destroy(v);
}

/* ---- damage ---- */

static void test_damage(void)
{
    counter c;
    qnet_context *own = counting_context(&c), *before = ctx;
    qnet_volume *v, *back = NULL;
    qnet_buffer bytes = {NULL, 0, 0, NULL};
    long live;
    size_t i, n = 0;
    int gz, bit, silent = 0, ok = 1;
    ctx = own;
    v = oblique_volume(4, 3, 2);
    for (i = 0; i < 24; i++) v->voxels[i] = (float)i;
    for (gz = 0; gz < 2; gz++) {
        CHECK_OK(ctx, pack(v, 1, gz, &bytes));
        live = c.live;
        for (i = 0; i < bytes.size; i++) {
            qnet_status s = parse(bytes.bytes, i, &back);
            ok = ok && s == QNET_ERROR_FORMAT && back == NULL && c.live == live &&
                 strstr(qnet_last_error(ctx), "truncated");
        }
        CHECK(ok);
        c.largest = 0;
        for (i = 0; i < bytes.size; i++)
            for (bit = 0; bit < 8; bit++) {
                qnet_status s;
                bytes.bytes[i] ^= (unsigned char)(1 << bit);
                own->error[0] = 0;
                s = parse(bytes.bytes, bytes.size, &back);
                bytes.bytes[i] ^= (unsigned char)(1 << bit);
                ok = ok && (s == QNET_OK) == (back != NULL) && (s == QNET_OK || own->error[0]);
                if (gz && s == QNET_OK) { /* the CRC saw to it that nothing changed */
                    silent++;
                    ok = ok && memcmp(back->voxels, v->voxels, 24 * sizeof(float)) == 0;
                }
                qnet_volume_destroy(back);
                back = NULL;
                ok = ok && c.live == live;
                n++;
            }
        CHECK(ok);
        CHECK(c.largest <= qnet__max_size(QNET__NIFTI_TRUST * sizeof(float), sizeof(qnet__nifti_reader)));
    }
    CHECK(n > 8 * 500 && silent >= 49 && silent < 64); /* fields of gzip's header, fill bits */
    qnet_buffer_free(ctx, &bytes);
    qnet_volume_destroy(v);
    qnet_context_destroy(own);
    CHECK(c.live == 0);
    ctx = before;
}

static void test_no_memory(void)
{
    counter c;
    qnet_context *own = counting_context(&c), *before = ctx;
    qnet_volume *v, *back = NULL;
    qnet_buffer bytes = {NULL, 0, 0, NULL};
    long live, n;
    int failures = 0;
    ctx = own;
    v = oblique_volume(4, 3, 2);
    for (n = 1; n < 30; n++) {
        qnet_status s;
        live = c.live;
        c.calls = 0;
        c.fail_at = n;
        s = pack(v, 0, 1, &bytes);
        if (s == QNET_OK) s = parse(bytes.bytes, bytes.size, &back);
        if (s == QNET_OK)
            s = qnet_volume_reorient(back, strcmp(back->orientation, "RAS") ? "RAS" : "LPI");
        c.fail_at = 0;
        CHECK(s == QNET_OK || ((s == QNET_ERROR_MEMORY || s == QNET_ERROR_IO) && own->error[0]));
        failures += s != QNET_OK;
        qnet_volume_destroy(back);
        back = NULL;
        qnet_buffer_free(ctx, &bytes);
        CHECK(c.live == live);
    }
    CHECK(failures >= 6 && failures < 29);
    c.calls = 0;
    for (n = 1; n < 3; n++) {
        c.calls = 0;
        c.fail_at = n;
        CHECK_FAILS(ctx, qnet_volume_create(ctx, 2, 2, 2, &back), QNET_ERROR_MEMORY, "no memory");
        CHECK(back == NULL);
    }
    c.fail_at = 0;
    qnet_volume_destroy(v);
    qnet_context_destroy(own);
    CHECK(c.live == 0);
    ctx = before;
}

/* A header and then numbers made on the fly, as from a socket. */
typedef struct stream {
    const unsigned char *head;
    size_t at, end;
} stream;

static int stream_read(void *user, void *dst, size_t size, size_t *got)
{
    stream *s = (stream *)user;
    unsigned char *p = (unsigned char *)dst;
    size_t i, n = qnet__min_size(qnet__min_size(size, 50000), s->end - s->at);
    for (i = 0; i < n; i++, s->at++)
        p[i] = s->at < 352 ? s->head[s->at] : (unsigned char)((s->at - 352) % 251);
    *got = n;
    return 0;
}

static int broken_read(void *user, void *dst, size_t size, size_t *got)
{
    stream *s = (stream *)user;
    if (s->at >= 400) return 1;
    return stream_read(user, dst, qnet__min_size(size, 400 - s->at), got);
}

static void test_streams(void)
{
    counter c;
    qnet_context *own = counting_context(&c);
    qnet_volume *v = NULL;
    qnet_source source;
    stream s;
    file f;
    size_t i, wrong = 0;
    /* More voxels than are allocated on the header's word: the block grows. */
    const int n = 264;
    const size_t count = (size_t)n * (size_t)n * (size_t)n;
    CHECK(count > QNET__NIFTI_TRUST);
    start(&f, 0, UINT8, 1, n, n, n);
    s.head = f.bytes;
    s.at = 0;
    s.end = 352 + count;
    source.user = &s;
    source.read = stream_read;
    source.name = NULL;
    CHECK_OK(own, qnet_nifti_read(own, &source, &v));
    for (i = 0; v && i < count; i++) wrong += v->voxels[i] != (float)(i % 251);
    CHECK(v && wrong == 0);
    qnet_volume_destroy(v);
    v = NULL;
    /* A short file that promises 2^28 voxels gets no more than the trusted part. */
    start(&f, 1, FLOAT64, 8, 1024, 1024, 256);
    s.at = 0;
    s.end = 5000;
    c.largest = 0;
    CHECK_FAILS(own, qnet_nifti_read(own, &source, &v), QNET_ERROR_FORMAT,
                "needs 2147483648 bytes of voxels, found 4648");
    CHECK(c.largest <= qnet__max_size(QNET__NIFTI_TRUST * sizeof(float), sizeof(qnet__nifti_reader)));
    s.at = 0;
    source.read = broken_read;
    source.name = "socket";
    CHECK_FAILS(own, qnet_nifti_read(own, &source, &v), QNET_ERROR_IO, "socket: reading failed");
    CHECK(v == NULL);
    qnet_context_destroy(own);
    CHECK(c.live == 0);
}

/* ---- files ---- */

#ifndef QNET_NO_STDIO
static void test_files(void)
{
    qnet_volume *v = oblique_volume(5, 4, 3), *back = NULL;
    qnet_buffer bytes = {NULL, 0, 0, NULL};
    CHECK_OK(ctx, qnet_make_folder(ctx, FOLDER));
    CHECK_OK(ctx, qnet_nifti_save(ctx, FOLDER "/a.nii", v, 0));
    CHECK_OK(ctx, qnet_nifti_save(ctx, FOLDER "/a.nii.gz", v, 0));
    CHECK_OK(ctx, qnet_file_read(ctx, FOLDER "/a.nii", 0, &bytes));
    CHECK(bytes.size == 352 + 60 * 4 && bytes.bytes[0] == 0x5c);
    qnet_buffer_free(ctx, &bytes);
    CHECK_OK(ctx, qnet_file_read(ctx, FOLDER "/a.nii.gz", 0, &bytes));
    CHECK(bytes.bytes[0] == 0x1f && bytes.bytes[1] == 0x8b);
    qnet_buffer_free(ctx, &bytes);
    CHECK_OK(ctx, qnet_nifti_load(ctx, FOLDER "/a.nii.gz", &back));
    CHECK(memcmp(back->voxels, v->voxels, 60 * sizeof(float)) == 0);
    qnet_volume_destroy(back);
    back = NULL;
    v->voxels[0] = 1e9f; /* a failed write leaves the file that was there, and nothing else */
    CHECK_FAILS(ctx, qnet_nifti_save(ctx, FOLDER "/a.nii", v, 1), QNET_ERROR_DATA,
                FOLDER "/a.nii: voxel");
    CHECK(!TEMPORARY_LEFT(FOLDER "/a.nii"));
    CHECK_OK(ctx, qnet_nifti_load(ctx, FOLDER "/a.nii", &back));
    qnet_volume_destroy(back);
    back = NULL;
    CHECK_FAILS(ctx, qnet_nifti_load(ctx, FOLDER "/none.nii", &back), QNET_ERROR_NOT_FOUND,
                "none.nii");
    CHECK_OK(ctx, qnet_file_replace(ctx, FOLDER "/empty.nii", "", 0));
    CHECK_FAILS(ctx, qnet_nifti_load(ctx, FOLDER "/empty.nii", &back), QNET_ERROR_FORMAT,
                FOLDER "/empty.nii: truncated: expected 348");
    CHECK_FAILS(ctx, qnet_nifti_save(ctx, "no/such/folder/a.nii", v, 0), QNET_ERROR_IO,
                "folder");
    CHECK_FAILS(ctx, qnet_nifti_load(ctx, NULL, &back), QNET_ERROR_ARGUMENT, "path is missing");
    CHECK_FAILS(ctx, qnet_nifti_save(ctx, FOLDER "/a.nii", NULL, 0), QNET_ERROR_ARGUMENT,
                "NULL");
    CHECK(back == NULL);
    qnet_volume_destroy(v);
}

/* Real files, against what nibabel 5.4.2 reads: the sum of all voxels, and of voxel * (x + 2y +
   3z), which changes when anything is flipped or swapped. */
static void test_real_files(void)
{
    static const struct {
        const char *path, *orientation;
        int n[3];
        double sum, moment, origin[3];
    } real[] = {{"t1/bigendian_mni.nii.gz",
                 "LPI",
                 {161, 191, 151},
                 258857799,
                 128045470217.0,
                 {80, 80, 85}},
                {"t1/colin27_brain.nii.gz",
                 "RAS",
                 {181, 217, 181},
                 158526435,
                 86297227272.0,
                 {-90, -125, -71}},
                {"t1/siemens_tfl.nii",
                 "RAS",
                 {96, 128, 128},
                 223652492,
                 73188318567.0,
                 {-89.57599639892578, -97.906005859375, -140.7760009765625}},
                {"cohort16/sub-01/anat/sub-01_T1w.nii.gz",
                 "RAS",
                 {144, 168, 24},
                 158337965,
                 41568522608.0,
                 {-90, -105, -24}},
                {"cohort16/derivatives/maps/sub-01/anat/sub-01_Chimap.nii.gz",
                 "RAS",
                 {144, 168, 24},
                 -103.80009772814083,
                 -60878.61248340522,
                 {-90, -105, -24}},
                {"cohort16/derivatives/maps/sub-01/anat/sub-01_R2starmap.nii.gz",
                 "RAS",
                 {144, 168, 24},
                 4053476.119363634,
                 1059836673.059341,
                 {-90, -105, -24}},
                {"cohort16/derivatives/maps/sub-01/anat/sub-01_desc-basalganglia_mask.nii.gz",
                 "RAS",
                 {144, 168, 24},
                 9860,
                 2700709,
                 {-90, -105, -24}}};
    size_t i;
    for (i = 0; i < sizeof real / sizeof real[0]; i++) {
        char path[256];
        double sum = 0, moment = 0;
        qnet_volume *v = NULL;
        int x, y, z;
        size_t at = 0;
        snprintf(path, sizeof path, "../shared/data/%s", real[i].path);
        if (!qnet_file_exists(path)) {
            printf("skipped: no %s\n", path);
            continue;
        }
        CHECK_OK(ctx, qnet_nifti_load(ctx, path, &v));
        if (v == NULL) continue;
        CHECK(v->nx == real[i].n[0] && v->ny == real[i].n[1] && v->nz == real[i].n[2]);
        CHECK(strcmp(v->orientation, real[i].orientation) == 0);
        for (z = 0; z < 3; z++) CHECK_NEAR(v->affine[z][3], real[i].origin[z], 0);
        for (z = 0; z < v->nz; z++)
            for (y = 0; y < v->ny; y++)
                for (x = 0; x < v->nx; x++, at++) {
                    sum += (double)v->voxels[at];
                    moment += (double)v->voxels[at] * (x + 2 * y + 3 * z);
                }
        /* integers are exact; scaled maps are summed in another order than numpy's */
        CHECK_NEAR(sum, real[i].sum, 1e-11 * fabs(real[i].moment));
        CHECK_NEAR(moment, real[i].moment, 1e-10 * fabs(real[i].moment));
        qnet_volume_destroy(v);
    }
    if (qnet_file_exists("../shared/data/gre/Mag.nii")) {
        qnet_volume *v = NULL;
        CHECK_FAILS(ctx, qnet_nifti_load(ctx, "../shared/data/gre/Mag.nii", &v),
                    QNET_ERROR_UNSUPPORTED, "dim[4] is 3");
    }
}
#endif

int main(void)
{
    if (qnet_context_create(NULL, &ctx) != QNET_OK) return 1;
    RUN(test_types);
    RUN(test_bad_headers);
    RUN(test_repairs);
    RUN(test_scaling_rules);
    RUN(test_tail);
    RUN(test_affines);
    RUN(test_reorient);
    RUN(test_write_read);
    RUN(test_unknown_side);
    RUN(test_quaternions);
    RUN(test_write_refusals);
    RUN(test_damage);
    RUN(test_no_memory);
    RUN(test_streams);
#ifndef QNET_NO_STDIO
    RUN(test_files);
    RUN(test_real_files);
#endif
    qnet_context_destroy(ctx);
    return test_end();
}
