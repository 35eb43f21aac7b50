/* pth.h: PyTorch's .pth files, turned to safetensors and back, beside qnet.h. C99 and C++11.
   SPDX-License-Identifier: MIT-0

   In the ONE file that defines QNET_IMPLEMENTATION, behind it:

       #define PTH_IMPLEMENTATION
       #include "weights_tools/pth.h"

   and, before qnet_context_create, `hooks.weights = pth_weights_reader();`. From then on every
   function of qnet.h that takes the path of a weights file takes a .pth file as well.

   A .pth file is what torch.save(model.state_dict(), path) writes: names and tensors; or a dict
   that has those under 'state_dict', 'model_state_dict' or 'model', beside numbers, texts and the
   state of an optimiser, which are left out with a warning. Two forms:

       zip      torch >= 1.6: an archive of stored entries NAME/data.pkl, NAME/version,
                NAME/byteorder, NAME/data/0, NAME/data/1, ...
       legacy   before, resnet18-5c106cde.pth for one: five pickles (magic number, version of the
                format, sys_info, state dict, keys of storages), then per key a count and numbers

   The state dict is a pickle, which is a program for a stack machine. It is NOT executed: the
   reader knows the 34 opcodes and the globals that a state dict of dense tensors needs
   (pth__opcodes, pth__globals), builds plain records from them, and refuses everything else by
   name. Nothing is imported, called or looked up. The zip must have no deflated, encrypted,
   overlapping or missing bytes, and every CRC must be right. Memory is bounded by a multiple of the
   file's size.

   Types: float64, float32, float16, bfloat16, int64. Tensors may be transposed, sliced or share a
   storage; each comes out contiguous. Tensors whose own elements overlap (expand) are refused.

   Metadata of a safetensors file (key = text) travels in the attribute `qnet_metadata` of the
   OrderedDict, a dict that torch.load hands to Python as state_dict.qnet_metadata. */
#ifndef PTH_H
#define PTH_H

#ifndef QNET_H
#include "qnet.h"
#endif

#define PTH_SENTENCE 512 /* bytes of a failure's sentence */

#ifdef __cplusplus
extern "C" {
#endif

/* 1 when a file begins as one of the two forms; 8 bytes are enough. */
int pth_is_pth(const void *bytes, size_t size);

/* A .pth file's bytes[size] as a safetensors file, appended to *out, which must be empty. name is
   for sentences. On failure *out is empty and sentence says which file, which tensor, what was
   expected and what was found. */
qnet_status pth_to_safetensors(qnet_context *ctx, const char *name, const void *bytes, size_t size,
                               qnet_buffer *out, char sentence[PTH_SENTENCE]);

/* The reverse: the zip form, for torch.load(path, weights_only=True), appended to the empty *out.
   The same tensors give the same bytes, at any time and place. */
qnet_status pth_from_safetensors(qnet_context *ctx, const char *name, const qnet_safetensors *file,
                                 qnet_buffer *out, char sentence[PTH_SENTENCE]);

#ifndef QNET_NO_STDIO
/* For qnet_hooks: reads files that begin as a .pth file, or whose name ends in .pth or .pt. */
qnet_weights_reader pth_weights_reader(void);
#endif

#ifdef __cplusplus
}
#endif
#endif /* PTH_H */

/* ---- END OF API ------------------------------------------------------------------------------ */

#if defined(PTH_IMPLEMENTATION) && !defined(PTH_IMPLEMENTED)
#define PTH_IMPLEMENTED

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Limits on what a file may ask for. A state dict of 65,536 tensors stays below all of them. */
#define PTH__MAX_PICKLE ((size_t)1 << 24) /* bytes of one pickle */
#define PTH__MAX_VALUES ((size_t)1 << 21) /* values that a pickle makes */
#define PTH__MAX_STACK ((size_t)1 << 16)
#define PTH__MAX_ENTRIES ((size_t)65600)  /* of a zip archive */
#define PTH__MAX_TENSORS ((size_t)65535)
#define PTH__MAX_METADATA 512
#define PTH__MAX_SHARING 4 /* bytes of all tensors : bytes of the file, where storages are shared */
#define PTH__DIMS 8
#define PTH__NONE 0xffffffffu

#define PTH__TRY(call)                                                                            \
    do {                                                                                          \
        qnet_status pth__status = (call);                                                         \
        if (pth__status != QNET_OK) return pth__status;                                           \
    } while (0)

/* What a pickle makes. Containers hold a list of cells, a dict's being key, value, key, ... */
typedef enum pth__kind {
    PTH__MARK, PTH__NULL, PTH__BOOL, PTH__INT, PTH__TEXT, PTH__TUPLE, PTH__LIST, PTH__DICT,
    PTH__ORDERED, PTH__GLOBAL, PTH__STORAGE, PTH__TENSOR, PTH__FLOAT
} pth__kind;

typedef struct pth__value {
    int kind;
    uint32_t a, b;  /* text: first byte in the file, bytes; container: first, last cell; global:
                       pth__global, dtype; storage, tensor: index in the reader's list (a tensor
                       that is not yet built: PTH__NONE) */
    uint32_t state; /* ordered: the dict of its attributes, or PTH__NONE */
    int64_t number; /* bool, int; container: cells */
} pth__value;

typedef struct pth__cell { uint32_t value, next; } pth__cell;

/* Numbers of one type that tensors are views of; one record per mention in the pickle. */
typedef struct pth__storage {
    const char *key;
    size_t key_bytes;
    qnet_dtype dtype;
    size_t count;
    const unsigned char *data; /* once found: count numbers, little-endian */
} pth__storage;

typedef struct pth__tensor {
    uint32_t storage;
    int ndim;
    size_t offset, shape[PTH__DIMS], stride[PTH__DIMS]; /* in numbers */
    const char *name; /* in the state dict; NULL: not in it */
    size_t name_bytes, count;
} pth__tensor;

typedef struct pth__entry { /* of the zip archive */
    const char *name;
    size_t name_bytes, header, data, size;
    uint32_t crc;
    int flags, used;
} pth__entry;

typedef struct pth__reader {
    qnet_context *ctx;
    const char *name;
    char *sentence;
    const unsigned char *bytes; /* the file */
    size_t size;
    const char *what;           /* the pickle that is read: "data.pkl" */
    size_t begin, at, end;      /* and where it lies in the file */
    qnet_buffer values, cells, stack, memo, storages, tensors, entries, order;
    size_t puts;                /* into the memo */
    uint32_t metadata;          /* the value of qnet_metadata, or PTH__NONE */
} pth__reader;

/* ---- sentences ------------------------------------------------------------------------------- */

static qnet_status pth__fail(pth__reader *r, qnet_status status, const char *format, ...)
#if defined(__GNUC__) || defined(__clang__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* "name: " and the sentence. */
static qnet_status pth__fail(pth__reader *r, qnet_status status, const char *format, ...)
{
    va_list args;
    int n = snprintf(r->sentence, PTH_SENTENCE, "%.200s: ", r->name);
    va_start(args, format);
    vsnprintf(r->sentence + n, PTH_SENTENCE - (size_t)n, format, args);
    va_end(args);
    return status;
}

/* Passes on a failure of qnet.h, memory for the most part. */
static qnet_status pth__pass(pth__reader *r, qnet_status status)
{
    if (status == QNET_OK) return status;
    return pth__fail(r, status, "%s", qnet_last_error(r->ctx));
}

/* Text of a file, cut and made printable, for a sentence. */
static const char *pth__printable(char out[64], const void *text, size_t bytes)
{
    size_t i;
    for (i = 0; i < bytes && i < 63; i++) {
        unsigned char c = ((const unsigned char *)text)[i];
        out[i] = (char)(c >= 0x20 && c < 0x7f ? c : '?');
    }
    out[i] = '\0';
    return out;
}

/* ---- lists ----------------------------------------------------------------------------------- */

static pth__value *pth__value_at(const pth__reader *r, uint32_t i)
{
    return (pth__value *)(void *)r->values.bytes + i;
}
static pth__cell *pth__cell_at(const pth__reader *r, uint32_t i)
{
    return (pth__cell *)(void *)r->cells.bytes + i;
}
static pth__storage *pth__storage_at(const pth__reader *r, size_t i)
{
    return (pth__storage *)(void *)r->storages.bytes + i;
}
static pth__tensor *pth__tensor_at(const pth__reader *r, size_t i)
{
    return (pth__tensor *)(void *)r->tensors.bytes + i;
}
static pth__entry *pth__entry_at(const pth__reader *r, size_t i)
{
    return (pth__entry *)(void *)r->entries.bytes + i;
}
static uint32_t *pth__stack(const pth__reader *r) { return (uint32_t *)(void *)r->stack.bytes; }
static size_t pth__depth(const pth__reader *r) { return r->stack.size / sizeof(uint32_t); }
static size_t pth__tensors(const pth__reader *r) { return r->tensors.size / sizeof(pth__tensor); }
static size_t pth__storages(const pth__reader *r)
{
    return r->storages.size / sizeof(pth__storage);
}
static size_t pth__entries(const pth__reader *r) { return r->entries.size / sizeof(pth__entry); }

static qnet_status pth__append(pth__reader *r, qnet_buffer *list, const void *item, size_t bytes)
{
    return pth__pass(r, qnet_buffer_append(r->ctx, list, item, bytes));
}

static int pth__compare(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    int c = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return c ? c : a_bytes < b_bytes ? -1 : a_bytes > b_bytes;
}

typedef int (*pth__less)(const pth__reader *r, uint32_t a, uint32_t b);

static void pth__sift(const pth__reader *r, uint32_t *index, size_t at, size_t n, pth__less less)
{
    for (;;) {
        size_t child = 2 * at + 1;
        uint32_t swap;
        if (child >= n) return;
        if (child + 1 < n && less(r, index[child], index[child + 1])) child++;
        if (!less(r, index[at], index[child])) return;
        swap = index[at];
        index[at] = index[child];
        index[child] = swap;
        at = child;
    }
}

/* r->order = 0..n-1 in rising order: heapsort (Williams 1964), which no file can make slow. */
static qnet_status pth__sort(pth__reader *r, size_t n, pth__less less)
{
    uint32_t i, *index;
    r->order.size = 0;
    for (i = 0; i < n; i++) PTH__TRY(pth__append(r, &r->order, &i, sizeof(i)));
    index = (uint32_t *)(void *)r->order.bytes;
    for (i = (uint32_t)(n / 2); i-- > 0;) pth__sift(r, index, i, n, less);
    for (i = (uint32_t)n; i-- > 1;) {
        uint32_t swap = index[0];
        index[0] = index[i];
        index[i] = swap;
        pth__sift(r, index, 0, i, less);
    }
    return QNET_OK;
}

static uint32_t pth__le16(const unsigned char *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
static uint32_t pth__le32(const unsigned char *p) { return pth__le16(p) | pth__le16(p + 2) << 16; }
static uint64_t pth__le64(const unsigned char *p)
{
    return (uint64_t)pth__le32(p) | (uint64_t)pth__le32(p + 4) << 32;
}

/* ---- zip: what an archive of stored entries must look like ----------------------------------- */

static qnet_status pth__entry_fail(pth__reader *r, qnet_status status, const pth__entry *e,
                                   const char *what)
{
    char name[64];
    return pth__fail(r, status, "zip entry '%s': %s", pth__printable(name, e->name, e->name_bytes),
                     what);
}

/* Where the central directory lies: from the record at the file's end, and from the 64-bit one
   before it where there is one (APPNOTE 4.3.14-16). Nothing may stand behind or between them. */
static qnet_status pth__zip_end(pth__reader *r, size_t *first, size_t *bytes, size_t *count)
{
    const unsigned char *b = r->bytes, *p, *q;
    size_t end = r->size, tries = 0, k;
    uint64_t n, size, offset;
    for (k = r->size < 22 ? 0 : r->size - 21; k-- > 0 && tries <= 0xffff; tries++)
        if (b[k] == 'P' && memcmp(b + k, "PK\5\6", 4) == 0 &&
            pth__le16(b + k + 20) == r->size - k - 22) {
            end = k;
            break;
        }
    if (end == r->size)
        return pth__fail(r, QNET_ERROR_FORMAT,
                         "no end record of a zip archive in %.0f bytes: truncated, or not written "
                         "by torch.save", (double)r->size);
    p = b + end;
    n = pth__le16(p + 10);
    size = pth__le32(p + 12);
    offset = pth__le32(p + 16);
    if (pth__le16(p + 4) != 0 || pth__le16(p + 6) != 0 || pth__le16(p + 8) != n)
        return pth__fail(r, QNET_ERROR_UNSUPPORTED, "zip archive: expected one volume");
    if (end >= 76 && memcmp(p - 20, "PK\6\7", 4) == 0) {
        q = p - 76;
        if (pth__le64(p - 12) != end - 76 || memcmp(q, "PK\6\6", 4) != 0 || pth__le64(q + 4) != 44)
            return pth__fail(r, QNET_ERROR_FORMAT, "zip archive: the 64-bit end record is damaged");
        if ((n != 0xffff && n != pth__le64(q + 32)) || pth__le64(q + 24) != pth__le64(q + 32) ||
            (size != 0xffffffffu && size != pth__le64(q + 40)) ||
            (offset != 0xffffffffu && offset != pth__le64(q + 48)))
            return pth__fail(r, QNET_ERROR_FORMAT, "zip archive: its two end records disagree");
        n = pth__le64(q + 32);
        size = pth__le64(q + 40);
        offset = pth__le64(q + 48);
        end -= 76;
    }
    if (offset > end || size != end - offset || n > size / 46)
        return pth__fail(r, QNET_ERROR_FORMAT,
                         "zip archive: the directory of %.0f entries at byte %.0f does not end at "
                         "its end record, byte %.0f", (double)n, (double)offset, (double)end);
    if (n > PTH__MAX_ENTRIES)
        return pth__fail(r, QNET_ERROR_LIMIT, "zip archive: %.0f entries, the limit is %.0f",
                         (double)n, (double)PTH__MAX_ENTRIES);
    *first = (size_t)offset;
    *bytes = (size_t)size;
    *count = (size_t)n;
    return QNET_OK;
}

/* The 64-bit numbers of an extra field (id 1) in place of those that are 0xffffffff. */
static int pth__zip64(const unsigned char *extra, size_t bytes, uint64_t *size, uint64_t *packed,
                      uint64_t *offset)
{
    uint64_t *fields[3];
    size_t i, n, at;
    fields[0] = size;
    fields[1] = packed;
    fields[2] = offset;
    for (; bytes >= 4; extra += 4 + n, bytes -= 4 + n) {
        n = pth__le16(extra + 2);
        if (n > bytes - 4) return 0;
        if (pth__le16(extra) != 1) continue;
        for (i = at = 0; i < 3; i++) {
            if (*fields[i] != 0xffffffffu) continue;
            if (n - at < 8) return 0;
            *fields[i] = pth__le64(extra + 4 + at);
            at += 8;
        }
    }
    return bytes == 0 && *size != 0xffffffffu && *packed != 0xffffffffu && *offset != 0xffffffffu;
}

/* The central directory into r->entries. */
static qnet_status pth__zip_directory(pth__reader *r, size_t first, size_t bytes, size_t count)
{
    const unsigned char *p = r->bytes + first;
    size_t i, used, k;
    for (i = 0; i < count; i++, p += used, bytes -= used) {
        pth__entry e;
        uint64_t size, packed, offset;
        memset(&e, 0, sizeof(e));
        if (bytes < 46 || memcmp(p, "PK\1\2", 4) != 0)
            return pth__fail(r, QNET_ERROR_FORMAT, "zip archive: directory entry %.0f is damaged",
                             (double)i);
        e.name_bytes = pth__le16(p + 28);
        used = 46 + e.name_bytes + pth__le16(p + 30) + pth__le16(p + 32);
        if (used > bytes)
            return pth__fail(r, QNET_ERROR_FORMAT, "zip archive: directory entry %.0f is cut off",
                             (double)i);
        e.name = (const char *)p + 46;
        e.flags = (int)pth__le16(p + 8);
        e.crc = pth__le32(p + 16);
        packed = pth__le32(p + 20);
        size = pth__le32(p + 24);
        offset = pth__le32(p + 42);
        for (k = 0; k < e.name_bytes; k++)
            if (e.name[k] < 0x21 || e.name[k] > 0x7e) break;
        if (e.name_bytes == 0 || k < e.name_bytes)
            return pth__entry_fail(r, QNET_ERROR_FORMAT, &e, "its name is not printable ASCII");
        if ((e.flags & ~0x808) != 0)
            return pth__entry_fail(r, QNET_ERROR_UNSUPPORTED, &e,
                                   e.flags & 1 ? "it is encrypted" : "it has unknown flags");
        if (pth__le16(p + 10) != 0)
            return pth__entry_fail(r, QNET_ERROR_UNSUPPORTED, &e,
                                   pth__le16(p + 10) == 8
                                       ? "it is deflated: expected stored, as torch.save writes it"
                                       : "it is compressed: expected stored");
        if (!pth__zip64(p + 46 + e.name_bytes, pth__le16(p + 30), &size, &packed, &offset))
            return pth__entry_fail(r, QNET_ERROR_FORMAT, &e, "its extra field is damaged");
        if (pth__le16(p + 34) != 0 || size != packed || size > r->size || offset > r->size)
            return pth__entry_fail(r, QNET_ERROR_FORMAT, &e, "its size or place is out of range");
        e.header = (size_t)offset;
        e.size = (size_t)size;
        PTH__TRY(pth__append(r, &r->entries, &e, sizeof(e)));
    }
    if (bytes != 0)
        return pth__fail(r, QNET_ERROR_FORMAT, "zip archive: %.0f bytes too many in the directory",
                         (double)bytes);
    return QNET_OK;
}

static int pth__entry_place_less(const pth__reader *r, uint32_t a, uint32_t b)
{
    return pth__entry_at(r, a)->header < pth__entry_at(r, b)->header;
}

static int pth__entry_name_less(const pth__reader *r, uint32_t a, uint32_t b)
{
    const pth__entry *x = pth__entry_at(r, a), *y = pth__entry_at(r, b);
    return pth__compare(x->name, x->name_bytes, y->name, y->name_bytes) < 0;
}

/* One entry, which must fill the bytes from e->header to next: local header, data and, with flag
   bit 3, the data descriptor (4 + 4 + 4 + 4 bytes, or 4 + 4 + 8 + 8 in the 64-bit form). */
static qnet_status pth__zip_entry(pth__reader *r, pth__entry *e, size_t next)
{
    const unsigned char *p = r->bytes + e->header;
    size_t room = next - e->header, head, gap;
    int described = e->flags >> 3 & 1, wide;
    if (room < 30 || memcmp(p, "PK\3\4", 4) != 0)
        return pth__entry_fail(r, QNET_ERROR_FORMAT, e, "no local header where it should begin");
    head = 30 + pth__le16(p + 26) + pth__le16(p + 28);
    if (pth__le16(p + 8) != 0)
        return pth__entry_fail(r, QNET_ERROR_UNSUPPORTED, e,
                               "its local header says compressed: expected stored");
    if (pth__le16(p + 6) != (uint32_t)e->flags || pth__le16(p + 26) != e->name_bytes ||
        head > room || memcmp(p + 30, e->name, e->name_bytes) != 0)
        return pth__entry_fail(r, QNET_ERROR_FORMAT, e, "local header and directory disagree");
    if (e->size > room - head)
        return pth__entry_fail(r, QNET_ERROR_FORMAT, e, "it overlaps the entry behind it");
    gap = room - head - e->size;
    if (!described && (pth__le32(p + 14) != e->crc || pth__le32(p + 18) != e->size ||
                       pth__le32(p + 22) != e->size))
        return pth__entry_fail(r, QNET_ERROR_FORMAT, e, "local header and directory disagree");
    wide = gap == 24;
    if (gap != (size_t)(described ? wide ? 24 : 16 : 0))
        return pth__entry_fail(r, QNET_ERROR_FORMAT, e, "there are foreign bytes behind it");
    e->data = e->header + head;
    p = r->bytes + e->data + e->size;
    if (described && (memcmp(p, "PK\7\10", 4) != 0 || pth__le32(p + 4) != e->crc ||
                      (wide ? pth__le64(p + 8) : pth__le32(p + 8)) != e->size ||
                      (wide ? pth__le64(p + 16) : pth__le32(p + 12)) != e->size))
        return pth__entry_fail(r, QNET_ERROR_FORMAT, e, "data descriptor and directory disagree");
#ifdef PTH_FUZZ /* tests/fuzz_pth.c alone: no fuzzer guesses a CRC */
    return QNET_OK;
#endif
    if (qnet_crc32(0, r->bytes + e->data, e->size) != e->crc)
        return pth__entry_fail(r, QNET_ERROR_FORMAT, e, "its CRC is wrong: the file is damaged");
    return QNET_OK;
}

/* The whole archive; behind it, r->order has the entries by name. Each byte belongs to one. */
static qnet_status pth__zip_read(pth__reader *r)
{
    size_t first = 0, bytes = 0, count = 0, i;
    const uint32_t *order;
    PTH__TRY(pth__zip_end(r, &first, &bytes, &count));
    PTH__TRY(pth__zip_directory(r, first, bytes, count));
    PTH__TRY(pth__sort(r, count, pth__entry_place_less));
    order = (const uint32_t *)(const void *)r->order.bytes;
    for (i = 0; i < count; i++) {
        pth__entry *e = pth__entry_at(r, order[i]);
        size_t next = i + 1 < count ? pth__entry_at(r, order[i + 1])->header : first;
        if (next <= e->header || (i == 0 && e->header != 0))
            return pth__entry_fail(r, QNET_ERROR_FORMAT, e,
                                   next <= e->header ? "it overlaps another entry"
                                                     : "there are foreign bytes before it");
        PTH__TRY(pth__zip_entry(r, e, next));
    }
    PTH__TRY(pth__sort(r, count, pth__entry_name_less));
    order = (const uint32_t *)(const void *)r->order.bytes;
    for (i = 1; i < count; i++)
        if (!pth__entry_name_less(r, order[i - 1], order[i]))
            return pth__entry_fail(r, QNET_ERROR_FORMAT, pth__entry_at(r, order[i]),
                                   "it is there twice");
    return QNET_OK;
}

/* The entry prefix[prefix_bytes] tail[tail_bytes], by bisection of r->order; or NULL. */
static pth__entry *pth__zip_find(const pth__reader *r, const char *prefix, size_t prefix_bytes,
                                 const char *tail, size_t tail_bytes)
{
    const uint32_t *order = (const uint32_t *)(const void *)r->order.bytes;
    size_t low = 0, high = pth__entries(r);
    while (low < high) {
        size_t middle = low + (high - low) / 2, n;
        pth__entry *e = pth__entry_at(r, order[middle]);
        int c;
        n = e->name_bytes < prefix_bytes ? e->name_bytes : prefix_bytes;
        c = pth__compare(e->name, n, prefix, prefix_bytes);
        if (c == 0) c = pth__compare(e->name + n, e->name_bytes - n, tail, tail_bytes);
        if (c == 0) return e;
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- pickle: opcodes and globals ------------------------------------------------------------- */

/* Every opcode has a name here, so that what is refused is refused by name; those with '+' are the
   ones that are read (pickletools; protocol 2, which torch.save writes). */
static const struct { unsigned char code; char name[20]; } pth__opcodes[] = {
    {0x80, "+PROTO"}, {'.', "+STOP"}, {'(', "+MARK"}, {'N', "+NONE"}, {0x88, "+NEWTRUE"},
    {0x89, "+NEWFALSE"}, {'J', "+BININT"}, {'K', "+BININT1"}, {'M', "+BININT2"},
    {0x8a, "+LONG1"}, {'X', "+BINUNICODE"}, {'U', "+SHORT_BINSTRING"}, {'T', "+BINSTRING"},
    {')', "+EMPTY_TUPLE"}, {'t', "+TUPLE"}, {0x85, "+TUPLE1"}, {0x86, "+TUPLE2"},
    {0x87, "+TUPLE3"}, {']', "+EMPTY_LIST"}, {'a', "+APPEND"}, {'e', "+APPENDS"},
    {'}', "+EMPTY_DICT"}, {'s', "+SETITEM"}, {'u', "+SETITEMS"}, {'q', "+BINPUT"},
    {'r', "+LONG_BINPUT"}, {'h', "+BINGET"}, {'j', "+LONG_BINGET"}, {'c', "+GLOBAL"},
    {'Q', "+BINPERSID"}, {'R', "+REDUCE"}, {0x81, "+NEWOBJ"}, {'b', "+BUILD"}, {'0', "POP"},
    {'1', "POP_MARK"}, {'2', "DUP"}, {'F', "FLOAT"}, {'G', "+BINFLOAT"}, {'I', "INT"},
    {'L', "LONG"}, {0x8b, "LONG4"}, {'P', "PERSID"}, {'S', "STRING"}, {'V', "UNICODE"},
    {'d', "DICT"}, {'g', "GET"}, {'i', "INST"}, {'l', "LIST"}, {'o', "OBJ"}, {'p', "PUT"},
    {0x82, "EXT1"}, {0x83, "EXT2"}, {0x84, "EXT4"}, {'B', "BINBYTES"}, {'C', "SHORT_BINBYTES"},
    {0x8c, "SHORT_BINUNICODE"}, {0x8d, "BINUNICODE8"}, {0x8e, "BINBYTES8"}, {0x8f, "EMPTY_SET"},
    {0x90, "ADDITEMS"}, {0x91, "FROZENSET"}, {0x92, "NEWOBJ_EX"}, {0x93, "STACK_GLOBAL"},
    {0x94, "MEMOIZE"}, {0x95, "FRAME"}, {0x96, "BYTEARRAY8"}, {0x97, "NEXT_BUFFER"},
    {0x98, "READONLY_BUFFER"}};

typedef enum pth__global {
    PTH__ORDERED_DICT, PTH__REBUILD_TENSOR, PTH__REBUILD_TENSOR_V2, PTH__REBUILD_PARAMETER,
    PTH__PARAMETER, PTH__STORAGE_TYPE, PTH__TENSOR_TYPE
} pth__global;

/* The globals; and, with dtype -1, types of tensors that are known but not read. The forms
   up to torch 0.4: _rebuild_tensor; XTensor() and BUILD; Parameter by NEWOBJ or REDUCE. */
static const struct { char name[36]; int global, dtype; } pth__globals[] = {
    {"collections.OrderedDict", PTH__ORDERED_DICT, 0},
    {"torch._utils._rebuild_tensor_v2", PTH__REBUILD_TENSOR_V2, 0},
    {"torch._utils._rebuild_parameter", PTH__REBUILD_PARAMETER, 0},
    {"torch._utils._rebuild_tensor", PTH__REBUILD_TENSOR, 0},
    {"torch.nn.parameter.Parameter", PTH__PARAMETER, 0},
    {"torch.FloatStorage", PTH__STORAGE_TYPE, QNET_F32},
    {"torch.LongStorage", PTH__STORAGE_TYPE, QNET_I64},
    {"torch.DoubleStorage", PTH__STORAGE_TYPE, QNET_F64},
    {"torch.HalfStorage", PTH__STORAGE_TYPE, QNET_F16},
    {"torch.BFloat16Storage", PTH__STORAGE_TYPE, QNET_BF16},
    {"torch.FloatTensor", PTH__TENSOR_TYPE, QNET_F32},
    {"torch.LongTensor", PTH__TENSOR_TYPE, QNET_I64},
    {"torch.DoubleTensor", PTH__TENSOR_TYPE, QNET_F64},
    {"torch.HalfTensor", PTH__TENSOR_TYPE, QNET_F16},
    {"torch.IntStorage", PTH__STORAGE_TYPE, QNET_I32}, /* these not for weights */
    {"torch.ShortStorage", PTH__STORAGE_TYPE, QNET_I16},
    {"torch.CharStorage", PTH__STORAGE_TYPE, QNET_I8},
    {"torch.ByteStorage", PTH__STORAGE_TYPE, QNET_U8},
    {"torch.BoolStorage", PTH__STORAGE_TYPE, QNET_BOOL},
    {"torch.ComplexFloatStorage", PTH__STORAGE_TYPE, -1},
    {"torch.ComplexDoubleStorage", PTH__STORAGE_TYPE, -1}};

static const char *pth__opcode_name(int code, int *read)
{
    size_t i;
    for (i = 0; i < sizeof(pth__opcodes) / sizeof(pth__opcodes[0]); i++)
        if (pth__opcodes[i].code == code) {
            *read = pth__opcodes[i].name[0] == '+';
            return pth__opcodes[i].name + *read;
        }
    *read = 0;
    return "unknown";
}

static const char *pth__kind_name(int kind)
{
    static const char names[][22] = {"a mark", "None", "a bool", "an int", "a text", "a tuple",
                                     "a list", "a dict", "an OrderedDict", "a global",
                                     "a storage", "a tensor", "a float"};
    return names[kind];
}

/* "'fc.weight'": the key whose value is being built, which is the last text on the stack at a key's
   place: [dict] [mark] key value key value ..., where the last value may be a dict again. */
static const char *pth__where(const pth__reader *r, char out[96])
{
    size_t i = 1, depth = pth__depth(r);
    const pth__value *key = NULL;
    char text[64];
    for (; i < depth; i += 2) {
        const pth__value *v = pth__value_at(r, pth__stack(r)[i]);
        int below = pth__value_at(r, pth__stack(r)[i - 1])->kind;
        if (v->kind == PTH__MARK && (below == PTH__DICT || below == PTH__ORDERED)) {
            i--; /* the mark of a dict's items: its keys follow */
            continue;
        }
        if (v->kind != PTH__TEXT) break;
        key = v;
    }
    if (key == NULL) return "outside of any entry";
    snprintf(out, 96, "'%s'", pth__printable(text, r->bytes + key->a, key->b));
    return out;
}

/* "x.pth: data.pkl byte 214: 'fc.weight': " and what is wrong. */
static qnet_status pth__pickle_fail(pth__reader *r, qnet_status status, const char *what)
{
    char where[96];
    return pth__fail(r, status, "%s byte %.0f: %s: %s", r->what, (double)(r->at - r->begin),
                     pth__where(r, where), what);
}

/* ---- pickle: the stack machine --------------------------------------------------------------- */

static qnet_status pth__push_index(pth__reader *r, uint32_t i)
{
    if (pth__depth(r) >= PTH__MAX_STACK)
        return pth__pickle_fail(r, QNET_ERROR_LIMIT, "more than 65,536 values on the stack");
    return pth__append(r, &r->stack, &i, sizeof(i));
}

static qnet_status pth__push(pth__reader *r, int kind, uint32_t a, uint32_t b, int64_t number)
{
    pth__value v;
    size_t n = r->values.size / sizeof(v);
    memset(&v, 0, sizeof(v));
    v.kind = kind;
    v.a = a;
    v.b = b;
    v.state = PTH__NONE;
    v.number = number;
    if (n >= PTH__MAX_VALUES)
        return pth__pickle_fail(r, QNET_ERROR_LIMIT, "more than 2,097,152 values");
    PTH__TRY(pth__append(r, &r->values, &v, sizeof(v)));
    return pth__push_index(r, (uint32_t)n);
}

/* Takes the top of the stack, which must not be a mark. */
static qnet_status pth__pop(pth__reader *r, uint32_t *i)
{
    size_t depth = pth__depth(r);
    if (depth == 0 || pth__value_at(r, pth__stack(r)[depth - 1])->kind == PTH__MARK)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "an opcode finds no operand on the stack");
    *i = pth__stack(r)[depth - 1];
    r->stack.size -= sizeof(uint32_t);
    return QNET_OK;
}

/* The place on the stack behind the last mark. */
static qnet_status pth__after_mark(pth__reader *r, size_t *first)
{
    size_t i = pth__depth(r);
    while (i > 0 && pth__value_at(r, pth__stack(r)[i - 1])->kind != PTH__MARK) i--;
    if (i == 0) return pth__pickle_fail(r, QNET_ERROR_FORMAT, "an opcode finds no mark");
    *first = i;
    return QNET_OK;
}

/* Adds value `item` behind the last cell of a container. */
static qnet_status pth__add(pth__reader *r, uint32_t container, uint32_t item)
{
    pth__cell cell;
    uint32_t n = (uint32_t)(r->cells.size / sizeof(cell));
    pth__value *v;
    cell.value = item;
    cell.next = PTH__NONE;
    if (n >= 2 * PTH__MAX_VALUES)
        return pth__pickle_fail(r, QNET_ERROR_LIMIT, "more than 4,194,304 items");
    PTH__TRY(pth__append(r, &r->cells, &cell, sizeof(cell)));
    v = pth__value_at(r, container);
    if (v->number++ == 0)
        v->a = n;
    else
        pth__cell_at(r, v->b)->next = n;
    v->b = n;
    return QNET_OK;
}

/* The values from place `first` of the stack on, as a tuple in their place. drop: marks before. */
static qnet_status pth__tuple(pth__reader *r, size_t first, size_t drop)
{
    size_t i, depth = pth__depth(r);
    uint32_t tuple;
    PTH__TRY(pth__push(r, PTH__TUPLE, 0, 0, 0));
    tuple = pth__stack(r)[depth];
    for (i = first; i < depth; i++) PTH__TRY(pth__add(r, tuple, pth__stack(r)[i]));
    pth__stack(r)[first - drop] = tuple;
    r->stack.size = (first - drop + 1) * sizeof(uint32_t);
    return QNET_OK;
}

/* The items of container v into item[most]; -1 when there are more. */
static int pth__items(const pth__reader *r, const pth__value *v, const pth__value **item, int most)
{
    uint32_t cell = v->a;
    int n;
    if (v->number > most) return -1;
    for (n = 0; n < (int)v->number; n++, cell = pth__cell_at(r, cell)->next)
        item[n] = pth__value_at(r, pth__cell_at(r, cell)->value);
    return n;
}

static int pth__is_text(const pth__reader *r, const pth__value *v, const char *text)
{
    return v->kind == PTH__TEXT && v->b == strlen(text) && memcmp(r->bytes + v->a, text, v->b) == 0;
}

/* The stack from `first` on, key value key value, into the dict below it; drop: marks between. */
static qnet_status pth__set_items(pth__reader *r, size_t first, size_t drop)
{
    size_t i, depth = pth__depth(r);
    uint32_t dict;
    int kind;
    if (first < drop + 1 || (depth - first) % 2 != 0)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "a dict's keys and values do not pair");
    dict = pth__stack(r)[first - drop - 1];
    kind = pth__value_at(r, dict)->kind;
    if (kind != PTH__DICT && kind != PTH__ORDERED)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "items are set in what is no dict");
    for (i = first; i < depth; i++) {
        kind = pth__value_at(r, pth__stack(r)[i])->kind;
        if ((i - first) % 2 == 0 && kind != PTH__TEXT && kind != PTH__INT)
            return pth__pickle_fail(r, QNET_ERROR_FORMAT, "a dict's key is no text or int");
        if (kind == PTH__MARK)
            return pth__pickle_fail(r, QNET_ERROR_FORMAT, "a mark stands for a value");
        PTH__TRY(pth__add(r, dict, pth__stack(r)[i]));
    }
    r->stack.size = (first - drop) * sizeof(uint32_t);
    return QNET_OK;
}

/* The stack from `first` on into the list below it. */
static qnet_status pth__append_items(pth__reader *r, size_t first, size_t drop)
{
    size_t i, depth = pth__depth(r);
    uint32_t list;
    if (first < drop + 1) return pth__pickle_fail(r, QNET_ERROR_FORMAT, "no list to append to");
    list = pth__stack(r)[first - drop - 1];
    if (pth__value_at(r, list)->kind != PTH__LIST)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "items are appended to what is no list");
    for (i = first; i < depth; i++) PTH__TRY(pth__add(r, list, pth__stack(r)[i]));
    r->stack.size = (first - drop) * sizeof(uint32_t);
    return QNET_OK;
}

/* GLOBAL: two lines, module and name. */
static qnet_status pth__read_global(pth__reader *r)
{
    char name[160], text[320], shown[64];
    size_t n = 0, lines = 0, i;
    for (; r->at < r->end && lines < 2 && n < sizeof(name) - 1; r->at++) {
        char c = (char)r->bytes[r->at];
        lines += c == '\n';
        if (c != '\n')
            name[n++] = c;
        else if (lines == 1)
            name[n++] = '.';
    }
    name[n] = '\0';
    if (lines < 2 || strlen(name) != n)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "the name of a global does not end");
    for (i = 0; i < sizeof(pth__globals) / sizeof(pth__globals[0]); i++) {
        if (strcmp(name, pth__globals[i].name) != 0) continue;
        if (pth__globals[i].dtype < 0) {
            snprintf(text, sizeof(text),
                     "its type is %s: expected FloatStorage, DoubleStorage, HalfStorage, "
                     "BFloat16Storage or LongStorage", name);
            return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED, text);
        }
        return pth__push(r, PTH__GLOBAL, (uint32_t)pth__globals[i].global,
                         (uint32_t)pth__globals[i].dtype, 0);
    }
    snprintf(text, sizeof(text),
             "global '%s' is refused: expected those of a state dict (OrderedDict, "
             "_rebuild_tensor_v2, _rebuild_parameter, torch storages); nothing was executed",
             pth__printable(shown, name, n));
    return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED, text);
}

/* BINPERSID: ("storage", type, key, device, count) and, in legacy files, None. */
static qnet_status pth__read_storage(pth__reader *r)
{
    const pth__value *item[6];
    pth__storage s;
    uint32_t id;
    int n;
    PTH__TRY(pth__pop(r, &id));
    n = pth__value_at(r, id)->kind == PTH__TUPLE ? pth__items(r, pth__value_at(r, id), item, 6) : 0;
    if (n < 5 || !pth__is_text(r, item[0], "storage") || item[1]->kind != PTH__GLOBAL ||
        item[1]->a != PTH__STORAGE_TYPE || item[2]->kind != PTH__TEXT ||
        item[3]->kind != PTH__TEXT || item[4]->kind != PTH__INT || item[4]->number < 0 ||
        (n == 6 && item[5]->kind != PTH__NULL))
        return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED,
                                "a persistent id: expected ('storage', type, key, device, count)");
    memset(&s, 0, sizeof(s));
    s.key = (const char *)r->bytes + item[2]->a;
    s.key_bytes = item[2]->b;
    s.dtype = (qnet_dtype)item[1]->b;
    /* More numbers than the file has bytes cannot be there; and the product cannot wrap. */
    if ((uint64_t)item[4]->number > r->size / qnet_dtype_size(s.dtype))
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "its storage is larger than the file");
    s.count = (size_t)item[4]->number;
    PTH__TRY(pth__append(r, &r->storages, &s, sizeof(s)));
    return pth__push(r, PTH__STORAGE, (uint32_t)(pth__storages(r) - 1), 0, 0);
}

/* Numbers of a shape or of strides, none below 0. */
static int pth__numbers(const pth__reader *r, const pth__value *v, size_t out[PTH__DIMS])
{
    const pth__value *item[PTH__DIMS];
    int i, n = v->kind == PTH__TUPLE || v->kind == PTH__LIST ? pth__items(r, v, item, PTH__DIMS)
                                                             : -1;
    for (i = 0; i < n; i++) {
        if (item[i]->kind != PTH__INT || item[i]->number < 0) return -1;
        if ((uint64_t)item[i]->number > (size_t)-1 / 16) return -1;
        out[i] = (size_t)item[i]->number;
    }
    return n;
}

/* *t = (storage, offset, shape, strides): all that lies outside of the storage is refused here, so
   that no later step can read there. Elements of one tensor must not share memory: sorted by
   stride, each dimension must step over all the smaller ones. */
static qnet_status pth__view(pth__reader *r, const pth__value *const *item, pth__tensor *t)
{
    int strides, i, k, order[PTH__DIMS];
    size_t last = 0, room, reach = 0;
    const pth__storage *s;
    memset(t, 0, sizeof(*t));
    if (item[0]->kind != PTH__STORAGE || item[1]->kind != PTH__INT || item[1]->number < 0)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "expected a storage and an offset");
    t->storage = item[0]->a;
    s = pth__storage_at(r, t->storage);
    t->ndim = pth__numbers(r, item[2], t->shape);
    strides = pth__numbers(r, item[3], t->stride);
    if (t->ndim < 0 || strides != t->ndim)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT,
                                "expected a shape and as many strides, at most 8, none negative");
    if ((uint64_t)item[1]->number > s->count)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "it begins behind the end of its storage");
    t->offset = (size_t)item[1]->number;
    room = s->count - t->offset;
    t->count = 1;
    for (i = 0; i < t->ndim; i++)
        if (t->shape[i] == 0) t->count = 0;
    for (i = 0; i < t->ndim && t->count > 0; i++) {
        if (t->shape[i] > (size_t)-1 / t->count)
            return pth__pickle_fail(r, QNET_ERROR_FORMAT, "its shape is larger than its storage");
        t->count *= t->shape[i];
        if (t->shape[i] == 1) continue;
        if (t->stride[i] > 0 && t->shape[i] - 1 > (room - last) / t->stride[i])
            return pth__pickle_fail(r, QNET_ERROR_FORMAT,
                                    "shape and strides lead out of its storage");
        last += (t->shape[i] - 1) * t->stride[i];
    }
    if (t->count > 0 && last >= room)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "shape and strides lead out of its storage");
    for (i = 0; i < t->ndim; i++) { /* insertion by stride */
        for (k = i; k > 0 && t->stride[order[k - 1]] > t->stride[i]; k--) order[k] = order[k - 1];
        order[k] = i;
    }
    for (i = 0; i < t->ndim && t->count > 0; i++) {
        size_t n = t->shape[order[i]], stride = t->stride[order[i]];
        if (n == 1) continue;
        if (stride <= reach)
            return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED,
                                    "its elements share memory (expanded): expected a tensor of "
                                    "its own, as .contiguous() makes it");
        reach += (n - 1) * stride;
    }
    return QNET_OK;
}

/* None, or an empty dict: a tensor without hooks. */
static int pth__no_hooks(const pth__value *v)
{
    return v->kind == PTH__NULL || (v->kind == PTH__ORDERED && v->number == 0 &&
                                    v->state == PTH__NONE);
}

/* Pushes the tensor of arguments (storage, offset, shape, strides ...). */
static qnet_status pth__push_view(pth__reader *r, const pth__value *const *item)
{
    pth__tensor t;
    PTH__TRY(pth__view(r, item, &t));
    if (pth__tensors(r) >= PTH__MAX_TENSORS)
        return pth__pickle_fail(r, QNET_ERROR_LIMIT, "more than 65,535 tensors");
    PTH__TRY(pth__append(r, &r->tensors, &t, sizeof(t)));
    return pth__push(r, PTH__TENSOR, (uint32_t)(pth__tensors(r) - 1), 0, 0);
}

/* OrderedDict() or, from Python 2, OrderedDict([[key, value], ...]). */
static qnet_status pth__make_ordered(pth__reader *r, const pth__value *const *item, int n)
{
    const pth__value *pair[2];
    uint32_t cell, dict, place[2];
    int64_t i, count;
    if (n != 0 && (n != 1 || item[0]->kind != PTH__LIST))
        return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED, "OrderedDict of what is no list");
    cell = n ? item[0]->a : PTH__NONE; /* before the push, which may move what item points to */
    count = n ? item[0]->number : 0;
    PTH__TRY(pth__push(r, PTH__ORDERED, 0, 0, 0));
    dict = pth__stack(r)[pth__depth(r) - 1];
    for (i = 0; i < count; i++, cell = pth__cell_at(r, cell)->next) {
        const pth__value *v = pth__value_at(r, pth__cell_at(r, cell)->value);
        if ((v->kind != PTH__LIST && v->kind != PTH__TUPLE) || pth__items(r, v, pair, 2) != 2 ||
            pair[0]->kind != PTH__TEXT)
            return pth__pickle_fail(r, QNET_ERROR_FORMAT,
                                    "OrderedDict: expected pairs of a name and a tensor");
        place[0] = pth__cell_at(r, v->a)->value;
        place[1] = pth__cell_at(r, v->b)->value;
        PTH__TRY(pth__add(r, dict, place[0]));
        PTH__TRY(pth__add(r, dict, place[1]));
    }
    return QNET_OK;
}

/* REDUCE and NEWOBJ: global(arguments), for the few that make a record here. */
static qnet_status pth__call(pth__reader *r, int newobj)
{
    const pth__value *item[7], *f;
    pth__value g, made;
    uint32_t arguments, global;
    int n;
    PTH__TRY(pth__pop(r, &arguments));
    PTH__TRY(pth__pop(r, &global));
    f = pth__value_at(r, global);
    if (f->kind != PTH__GLOBAL || pth__value_at(r, arguments)->kind != PTH__TUPLE)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "REDUCE or NEWOBJ of what is no global");
    g = *f;
    n = pth__items(r, pth__value_at(r, arguments), item, 7);
    if (g.a == PTH__ORDERED_DICT && !newobj) return pth__make_ordered(r, item, n);
    if (g.a == PTH__REBUILD_TENSOR_V2 && !newobj) {
        if (n != 6 || item[4]->kind != PTH__BOOL || !pth__no_hooks(item[5]))
            return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED,
                                    "_rebuild_tensor_v2: expected storage, offset, shape, "
                                    "strides, requires_grad and no hooks");
        return pth__push_view(r, item);
    }
    if (g.a == PTH__REBUILD_TENSOR && !newobj && n == 4) return pth__push_view(r, item);
    if (g.a == PTH__REBUILD_PARAMETER && !newobj && n == 3 && item[0]->kind == PTH__TENSOR &&
        item[1]->kind == PTH__BOOL && pth__no_hooks(item[2])) {
        made = *item[0];
        return pth__push(r, PTH__TENSOR, made.a, made.b, 0);
    }
    if (g.a == PTH__PARAMETER && (n == 1 || (n == 2 && item[1]->kind == PTH__BOOL)) &&
        item[0]->kind == PTH__TENSOR) {
        made = *item[0];
        return pth__push(r, PTH__TENSOR, made.a, made.b, 0);
    }
    if (g.a == PTH__PARAMETER && newobj && n == 0)
        return pth__push(r, PTH__TENSOR, PTH__NONE, 0, 0);
    if (g.a == PTH__TENSOR_TYPE && n == 0)
        return pth__push(r, PTH__TENSOR, PTH__NONE, g.b + 1, 0);
    return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED,
                            "a call with arguments that no state dict has");
}

/* The attributes of a state dict: _metadata (versions of modules) is passed over, qnet_metadata is
   kept; any other is refused by name. */
static qnet_status pth__attributes(pth__reader *r, uint32_t dict, uint32_t state)
{
    const pth__value *v = pth__value_at(r, state);
    uint32_t cell = v->a;
    int64_t i;
    char text[120], shown[64];
    if (pth__value_at(r, dict)->state != PTH__NONE || v->kind != PTH__DICT)
        return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED, "attributes of an OrderedDict: "
                                "expected one dict of them");
    pth__value_at(r, dict)->state = state;
    for (i = 0; i < v->number; i += 2) {
        const pth__value *key = pth__value_at(r, pth__cell_at(r, cell)->value);
        cell = pth__cell_at(r, cell)->next;
        if (!pth__is_text(r, key, "_metadata") && !pth__is_text(r, key, "qnet_metadata")) {
            snprintf(text, sizeof(text), "attribute '%s' of an OrderedDict is refused",
                     pth__printable(shown, r->bytes + key->a, key->b));
            return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED, text);
        }
        cell = pth__cell_at(r, cell)->next;
    }
    return QNET_OK;
}

/* BUILD: state for the object below it. Tensors of torch 0.1-0.4: (storage, offset, shape,
   strides); Parameters: (data, _, hooks, requires_grad, volatile) or (requires_grad, _, hooks). */
static qnet_status pth__build(pth__reader *r)
{
    const pth__value *item[5], *s;
    uint32_t state, object, a;
    pth__value *v;
    int n;
    PTH__TRY(pth__pop(r, &state));
    PTH__TRY(pth__pop(r, &object));
    PTH__TRY(pth__push_index(r, object));
    v = pth__value_at(r, object);
    s = pth__value_at(r, state);
    if (v->kind == PTH__ORDERED) return pth__attributes(r, object, state);
    n = v->kind == PTH__TENSOR && s->kind == PTH__TUPLE ? pth__items(r, s, item, 5) : -1;
    if (n == 4 && v->a == PTH__NONE && v->b > 0) {
        PTH__TRY(pth__push_view(r, item));
        PTH__TRY(pth__pop(r, &a));
        v = pth__value_at(r, object);
        v->a = pth__value_at(r, a)->a;
        if ((uint32_t)pth__storage_at(r, pth__tensor_at(r, v->a)->storage)->dtype != v->b - 1)
            return pth__pickle_fail(r, QNET_ERROR_FORMAT, "tensor and storage differ in type");
        return QNET_OK;
    }
    if (n == 5 && v->a == PTH__NONE && v->b == 0 && item[0]->kind == PTH__TENSOR &&
        item[0]->a != PTH__NONE && pth__no_hooks(item[2])) {
        v->a = item[0]->a;
        return QNET_OK;
    }
    if (n == 3 && v->a != PTH__NONE && item[0]->kind == PTH__BOOL && pth__no_hooks(item[2]))
        return QNET_OK;
    return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED, "BUILD with a state that is not known");
}

/* n bytes of the pickle: *p, and the reader moves on. */
static qnet_status pth__bytes(pth__reader *r, size_t n, const unsigned char **p)
{
    if (n > r->end - r->at)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT,
                                "truncated: the pickle ends within an opcode");
    *p = r->bytes + r->at;
    r->at += n;
    return QNET_OK;
}

/* Memo: indices as pickle writes them, 0 1 2 ... or, from Python 2, 1 2 3 ...; so that the memo is
   never larger than what has been put there. */
static qnet_status pth__put(pth__reader *r, uint32_t index)
{
    const uint32_t none = PTH__NONE;
    size_t depth = pth__depth(r), count = r->memo.size / sizeof(uint32_t);
    if (depth == 0 || pth__value_at(r, pth__stack(r)[depth - 1])->kind == PTH__MARK ||
        index > r->puts + 1)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "a memo index out of order");
    for (; count <= index; count++) PTH__TRY(pth__append(r, &r->memo, &none, sizeof(none)));
    ((uint32_t *)(void *)r->memo.bytes)[index] = pth__stack(r)[depth - 1];
    r->puts++;
    return QNET_OK;
}

static qnet_status pth__get(pth__reader *r, uint32_t index)
{
    uint32_t value = PTH__NONE;
    if (index < r->memo.size / sizeof(uint32_t))
        value = ((const uint32_t *)(const void *)r->memo.bytes)[index];
    if (value == PTH__NONE)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "a memo index that holds nothing");
    return pth__push_index(r, value);
}

/* A text of n bytes. */
static qnet_status pth__text(pth__reader *r, size_t n)
{
    const unsigned char *p = NULL;
    PTH__TRY(pth__bytes(r, n, &p));
    return pth__push(r, PTH__TEXT, (uint32_t)(p - r->bytes), (uint32_t)n, 0);
}

/* LONG1: n bytes, little-endian, two's complement. */
static qnet_status pth__long(pth__reader *r, size_t n)
{
    const unsigned char *p = NULL;
    uint64_t bits = 0;
    int64_t number;
    size_t i;
    if (n > 8) return pth__pickle_fail(r, QNET_ERROR_LIMIT, "an int of more than 64 bits");
    PTH__TRY(pth__bytes(r, n, &p));
    if (n > 0 && p[n - 1] >> 7) bits = ~(uint64_t)0;
    for (i = n; i-- > 0;) bits = bits << 8 | p[i];
    memcpy(&number, &bits, sizeof(number));
    return pth__push(r, PTH__INT, 0, 0, number);
}

/* Opcodes that push a constant or move on the memo; *known = 0: none of them. */
static qnet_status pth__simple_opcode(pth__reader *r, int code, int *known)
{
    const unsigned char *p = NULL;
    int32_t number;
    uint32_t bits;
    *known = 1;
    switch (code) {
    case '(': return pth__push(r, PTH__MARK, 0, 0, 0);
    case 'N': return pth__push(r, PTH__NULL, 0, 0, 0);
    case 0x88: return pth__push(r, PTH__BOOL, 0, 0, 1);
    case 0x89: return pth__push(r, PTH__BOOL, 0, 0, 0);
    case ')': return pth__push(r, PTH__TUPLE, 0, 0, 0);
    case ']': return pth__push(r, PTH__LIST, 0, 0, 0);
    case '}': return pth__push(r, PTH__DICT, 0, 0, 0);
    case 'c': return pth__read_global(r);
    case 'J':
        PTH__TRY(pth__bytes(r, 4, &p));
        bits = pth__le32(p);
        memcpy(&number, &bits, sizeof(number));
        return pth__push(r, PTH__INT, 0, 0, number);
    case 'K':
        PTH__TRY(pth__bytes(r, 1, &p));
        return pth__push(r, PTH__INT, 0, 0, p[0]);
    case 'M':
        PTH__TRY(pth__bytes(r, 2, &p));
        return pth__push(r, PTH__INT, 0, 0, (int64_t)pth__le16(p));
    case 0x8a:
        PTH__TRY(pth__bytes(r, 1, &p));
        return pth__long(r, p[0]);
    case 'G': /* its value is of no use here */
        PTH__TRY(pth__bytes(r, 8, &p));
        return pth__push(r, PTH__FLOAT, 0, 0, 0);
    case 'U':
        PTH__TRY(pth__bytes(r, 1, &p));
        return pth__text(r, p[0]);
    case 'X':
    case 'T':
        PTH__TRY(pth__bytes(r, 4, &p));
        return pth__text(r, pth__le32(p));
    case 'q':
        PTH__TRY(pth__bytes(r, 1, &p));
        return pth__put(r, p[0]);
    case 'r':
        PTH__TRY(pth__bytes(r, 4, &p));
        return pth__put(r, pth__le32(p));
    case 'h':
        PTH__TRY(pth__bytes(r, 1, &p));
        return pth__get(r, p[0]);
    case 'j':
        PTH__TRY(pth__bytes(r, 4, &p));
        return pth__get(r, pth__le32(p));
    default: *known = 0; return QNET_OK;
    }
}

/* Opcodes that work on what is on the stack. */
static qnet_status pth__stack_opcode(pth__reader *r, int code)
{
    size_t first = 0, depth = pth__depth(r), n;
    switch (code) {
    case 't':
    case 'u':
    case 'e':
        PTH__TRY(pth__after_mark(r, &first));
        if (code == 'u') return pth__set_items(r, first, 1);
        return code == 't' ? pth__tuple(r, first, 1) : pth__append_items(r, first, 1);
    case 's':
    case 'a':
        n = code == 's' ? 2 : 1;
        if (depth < n + 1 ||
            pth__value_at(r, pth__stack(r)[depth - 1])->kind == PTH__MARK)
            return pth__pickle_fail(r, QNET_ERROR_FORMAT,
                                    "an opcode finds no operand on the stack");
        return code == 's' ? pth__set_items(r, depth - n, 0) : pth__append_items(r, depth - n, 0);
    case 0x85:
    case 0x86:
    case 0x87:
        n = (size_t)code - 0x84;
        for (first = depth; first-- > 0 && depth - first <= n;)
            if (pth__value_at(r, pth__stack(r)[first])->kind == PTH__MARK) break;
        if (depth < n || (depth - first <= n && first < depth))
            return pth__pickle_fail(r, QNET_ERROR_FORMAT,
                                    "an opcode finds no operand on the stack");
        return pth__tuple(r, depth - n, 0);
    case 'Q': return pth__read_storage(r);
    case 'R': return pth__call(r, 0);
    case 0x81: return pth__call(r, 1);
    default: return pth__build(r);
    }
}

/* One pickle from byte `begin` to STOP, at most to `end`; *value: what it leaves. What an earlier
   pickle made stays, so that storages can be compared with the keys that follow them. */
static qnet_status pth__pickle(pth__reader *r, const char *what, size_t begin, size_t end,
                               uint32_t *value)
{
    const unsigned char *p = NULL;
    char text[80];
    int code, known;
    r->what = what;
    r->begin = r->at = begin;
    r->end = end - begin > PTH__MAX_PICKLE ? begin + PTH__MAX_PICKLE : end;
    r->stack.size = r->memo.size = r->puts = 0;
    PTH__TRY(pth__bytes(r, 2, &p));
    if (p[0] != 0x80 || p[1] != 2) {
        snprintf(text, sizeof(text), "expected a pickle of protocol 2, found bytes %02x %02x", p[0],
                 p[1]);
        return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED, text);
    }
    for (;;) {
        PTH__TRY(pth__bytes(r, 1, &p));
        code = p[0];
        if (code == '.') break;
        PTH__TRY(pth__simple_opcode(r, code, &known));
        if (known) continue;
        snprintf(text, sizeof(text), "opcode 0x%02x %s is refused: no state dict needs it", code,
                 pth__opcode_name(code, &known));
        if (!known || code == 0x80) return pth__pickle_fail(r, QNET_ERROR_UNSUPPORTED, text);
        PTH__TRY(pth__stack_opcode(r, code));
    }
    PTH__TRY(pth__pop(r, value));
    if (pth__depth(r) != 0)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "more than one value is left at the end");
    return QNET_OK;
}

/* ---- from the records to tensors ------------------------------------------------------------- */

/* The state dict: what the pickle holds, or what a training script keeps it under. */
static qnet_status pth__find_state_dict(pth__reader *r, uint32_t *top)
{
    static const char *const names[] = {"state_dict", "model_state_dict", "model"};
    const qnet_log *log = &qnet_context_hooks(r->ctx)->log;
    const pth__value *v = pth__value_at(r, *top);
    uint32_t cell = v->a;
    const char *found = NULL;
    char text[PTH_SENTENCE];
    int64_t i;
    size_t k;
    for (i = 0; (v->kind == PTH__DICT || v->kind == PTH__ORDERED) && i < v->number; i += 2) {
        const pth__value *key = pth__value_at(r, pth__cell_at(r, cell)->value);
        const uint32_t next = pth__cell_at(r, cell)->next, item = pth__cell_at(r, next)->value;
        const int kind = pth__value_at(r, item)->kind;
        cell = pth__cell_at(r, next)->next;
        for (k = 0; k < 3 && !pth__is_text(r, key, names[k]);) k++;
        if (k == 3 || (kind != PTH__DICT && kind != PTH__ORDERED)) continue;
        if (found != NULL)
            return pth__fail(r, QNET_ERROR_UNSUPPORTED,
                             "weights under '%s' and under '%s': expected one of them", found,
                             names[k]);
        found = names[k];
        *top = item;
    }
    if (found != NULL && log->message != NULL) {
        snprintf(text, sizeof(text), "%.200s: a training script's file: the weights under '%s' are "
                 "taken, the rest is left out", r->name, found);
        log->message(log->user, QNET_LOG_WARNING, text);
    }
    return QNET_OK;
}

/* Names the tensors of the state dict, which must be all that is in it. */
static qnet_status pth__state_dict(pth__reader *r, uint32_t top)
{
    const uint32_t whole = top;
    const pth__value *v;
    uint32_t cell;
    int64_t i;
    size_t k, named = 0;
    char shown[64];
    PTH__TRY(pth__find_state_dict(r, &top));
    v = pth__value_at(r, top);
    cell = v->a;
    if (v->kind != PTH__ORDERED && v->kind != PTH__DICT)
        return pth__fail(r, QNET_ERROR_UNSUPPORTED,
                         "it holds %s: expected a state dict, torch.save(model.state_dict(), path)",
                         pth__kind_name(v->kind));
    for (i = 0; i < v->number; i += 2) {
        const pth__value *key = pth__value_at(r, pth__cell_at(r, cell)->value), *item;
        pth__tensor *t, copy;
        uint32_t next = pth__cell_at(r, cell)->next;
        item = pth__value_at(r, pth__cell_at(r, next)->value);
        cell = pth__cell_at(r, next)->next;
        pth__printable(shown, r->bytes + key->a, key->b); /* of an int: nothing */
        if (key->kind != PTH__TEXT || item->kind != PTH__TENSOR || item->a == PTH__NONE)
            return pth__fail(r, QNET_ERROR_UNSUPPORTED,
                             "'%s': expected a tensor, found %s: expected a state dict, "
                             "torch.save(model.state_dict(), path), or one under 'state_dict', "
                             "'model_state_dict' or 'model'", shown,
                             key->kind != PTH__TEXT      ? "an int for its name"
                             : item->kind == PTH__TENSOR ? "one that was never filled"
                                                         : pth__kind_name(item->kind));
        for (k = 0; k < key->b; k++)
            if (r->bytes[key->a + k] < 0x21 || r->bytes[key->a + k] > 0x7e) break;
        if (key->b == 0 || k < key->b || key->b > 127)
            return pth__fail(r, QNET_ERROR_FORMAT,
                             "tensor '%s': expected a name of 1 to 127 printable ASCII characters",
                             shown);
        t = pth__tensor_at(r, item->a);
        if (pth__storage_at(r, t->storage)->dtype > QNET_I64)
            return pth__fail(r, QNET_ERROR_UNSUPPORTED,
                             "tensor '%s': its type is %s: expected F64, F32, F16, BF16 or I64",
                             shown, qnet_dtype_name(pth__storage_at(r, t->storage)->dtype));
        if (t->name != NULL) { /* one tensor under two names: tied weights */
            copy = *t;
            if (pth__tensors(r) >= PTH__MAX_TENSORS)
                return pth__fail(r, QNET_ERROR_LIMIT, "more than 65,535 tensors");
            PTH__TRY(pth__append(r, &r->tensors, &copy, sizeof(copy)));
            t = pth__tensor_at(r, pth__tensors(r) - 1);
        }
        t->name = (const char *)r->bytes + key->a;
        t->name_bytes = key->b;
        named++;
    }
    if (top != whole) { /* those of the optimiser and the like go */
        for (k = named = 0; k < pth__tensors(r); k++)
            if (pth__tensor_at(r, k)->name != NULL)
                *pth__tensor_at(r, named++) = *pth__tensor_at(r, k);
        r->tensors.size = named * sizeof(pth__tensor);
    }
    if (named != pth__tensors(r))
        return pth__fail(r, QNET_ERROR_UNSUPPORTED,
                         "%.0f tensors are made, %.0f of them are in the state dict: expected all",
                         (double)pth__tensors(r), (double)named);
    if (v->kind == PTH__ORDERED && v->state != PTH__NONE) { /* checked by pth__attributes */
        const pth__value *state = pth__value_at(r, v->state);
        for (i = 0, cell = state->a; i < state->number; i += 2) {
            const pth__value *key = pth__value_at(r, pth__cell_at(r, cell)->value);
            uint32_t next = pth__cell_at(r, cell)->next;
            if (pth__is_text(r, key, "qnet_metadata")) r->metadata = pth__cell_at(r, next)->value;
            cell = pth__cell_at(r, next)->next;
        }
    }
    return QNET_OK;
}

static int pth__storage_less(const pth__reader *r, uint32_t a, uint32_t b)
{
    const pth__storage *x = pth__storage_at(r, a), *y = pth__storage_at(r, b);
    int c = pth__compare(x->key, x->key_bytes, y->key, y->key_bytes);
    return c != 0 ? c < 0 : a < b;
}

/* r->order = the storages by key, in place of the zip's names; all mentions of a key must agree. */
static qnet_status pth__storages_agree(pth__reader *r)
{
    const uint32_t *order;
    size_t i, count = pth__storages(r);
    char key[64];
    PTH__TRY(pth__sort(r, count, pth__storage_less));
    order = (const uint32_t *)(const void *)r->order.bytes;
    for (i = 1; i < count; i++) {
        const pth__storage *x = pth__storage_at(r, order[i - 1]), *y = pth__storage_at(r, order[i]);
        if (pth__compare(x->key, x->key_bytes, y->key, y->key_bytes) == 0 &&
            (x->dtype != y->dtype || x->count != y->count))
            return pth__fail(r, QNET_ERROR_FORMAT,
                             "storage '%s' is %s [%.0f] in one place and %s [%.0f] in another",
                             pth__printable(key, x->key, x->key_bytes), qnet_dtype_name(x->dtype),
                             (double)x->count, qnet_dtype_name(y->dtype), (double)y->count);
    }
    return QNET_OK;
}

/* "tensor 'fc.bias'" for the first tensor that a storage belongs to, or "". */
static const char *pth__storage_owner(const pth__reader *r, size_t storage, char out[96])
{
    size_t i;
    char name[64];
    snprintf(out, 96, "no tensor");
    for (i = 0; i < pth__tensors(r); i++) {
        const pth__tensor *t = pth__tensor_at(r, i);
        if (t->storage != storage || t->name == NULL) continue;
        snprintf(out, 96, "tensor '%s'", pth__printable(name, t->name, t->name_bytes));
        break;
    }
    return out;
}

/* The zip form. */
static qnet_status pth__read_zip(pth__reader *r)
{
    static const char *const known[] = {"data.pkl", "version", "byteorder", ".format_version",
                                        ".storage_alignment", ".data/serialization_id"};
    pth__entry *e, *pickle = NULL;
    size_t i, k, prefix;
    uint32_t top;
    char owner[96];
    PTH__TRY(pth__zip_read(r));
    for (i = 0; i < pth__entries(r); i++) {
        e = pth__entry_at(r, i);
        if (e->name_bytes < 10 || memcmp(e->name + e->name_bytes - 9, "/data.pkl", 9) != 0)
            continue;
        if (pickle != NULL)
            return pth__entry_fail(r, QNET_ERROR_FORMAT, e, "a second data.pkl");
        pickle = e;
    }
    if (pickle == NULL)
        return pth__fail(r, QNET_ERROR_FORMAT,
                         "a zip archive without data.pkl: not written by torch.save");
    prefix = pickle->name_bytes - 8; /* "archive/" */
    for (i = 0; i < pth__entries(r); i++) {
        size_t n;
        e = pth__entry_at(r, i);
        n = e->name_bytes - (e->name_bytes < prefix ? e->name_bytes : prefix);
        if (n == 0 || memcmp(e->name, pickle->name, prefix) != 0)
            return pth__entry_fail(r, QNET_ERROR_FORMAT, e, "it is not in the archive's folder");
        for (k = 0; k < sizeof(known) / sizeof(known[0]); k++)
            if (n == strlen(known[k]) && memcmp(e->name + prefix, known[k], n) == 0) break;
        e->used = k < sizeof(known) / sizeof(known[0]);
        if (!e->used && (n < 6 || memcmp(e->name + prefix, "data/", 5) != 0))
            return pth__entry_fail(r, QNET_ERROR_UNSUPPORTED, e,
                                   "no state dict has it (a TorchScript archive?)");
    }
    e = pth__zip_find(r, pickle->name, prefix, "byteorder", 9);
    if (e != NULL && (e->size != 6 || memcmp(r->bytes + e->data, "little", 6) != 0))
        return pth__entry_fail(r, QNET_ERROR_UNSUPPORTED, e, "expected 'little'");
    e = pth__zip_find(r, pickle->name, prefix, "version", 7);
    if (e == NULL || e->size < 1 || r->bytes[e->data] < '1' || r->bytes[e->data] > '9')
        return pth__fail(r, QNET_ERROR_FORMAT, "zip entry 'version' is missing or no number");

    PTH__TRY(pth__pickle(r, "data.pkl", pickle->data, pickle->data + pickle->size, &top));
    if (r->at != r->end)
        return pth__pickle_fail(r, QNET_ERROR_FORMAT, "the pickle is too long or goes on behind "
                                                      "its end");
    PTH__TRY(pth__state_dict(r, top));
    for (i = 0; i < pth__storages(r); i++) {
        pth__storage *s = pth__storage_at(r, i);
        char text[64], key[64];
        int n;
        pth__printable(key, s->key, s->key_bytes);
        n = snprintf(text, sizeof(text), "data/%.50s", key);
        e = NULL; /* names of entries are printable: a key that is not finds none */
        if (s->key_bytes <= 50 && memcmp(key, s->key, s->key_bytes) == 0)
            e = pth__zip_find(r, pickle->name, prefix, text, (size_t)n);
        if (e == NULL)
            return pth__fail(r, QNET_ERROR_FORMAT, "%s: its storage, zip entry '%s', is missing",
                             pth__storage_owner(r, i, owner), text);
        if (e->size != s->count * qnet_dtype_size(s->dtype))
            return pth__fail(r, QNET_ERROR_FORMAT,
                             "%s: its storage, zip entry '%s': expected %.0f bytes, found %.0f",
                             pth__storage_owner(r, i, owner), text,
                             (double)(s->count * qnet_dtype_size(s->dtype)), (double)e->size);
        s->data = r->bytes + e->data;
        e->used = 1;
    }
    for (i = 0; i < pth__entries(r); i++)
        if (!pth__entry_at(r, i)->used)
            return pth__entry_fail(r, QNET_ERROR_FORMAT, pth__entry_at(r, i),
                                   "a storage that belongs to no tensor");
    return pth__storages_agree(r);
}

/* The storages of the legacy form: per key a count of 8 bytes, then the numbers. keys: the list, in
   the order of the file. r->order has the pickle's storages by key. */
static qnet_status pth__legacy_storages(pth__reader *r, uint32_t keys, size_t at)
{
    const uint32_t *order = (const uint32_t *)(const void *)r->order.bytes;
    const pth__value *list = pth__value_at(r, keys);
    size_t count = pth__storages(r), low, high, k, i, bytes, found;
    uint32_t cell = list->a;
    int64_t n;
    char owner[96], shown[64];
    for (n = 0; n < list->number; n++, cell = pth__cell_at(r, cell)->next) {
        const pth__value *key = pth__value_at(r, pth__cell_at(r, cell)->value);
        const char *text = (const char *)r->bytes + key->a;
        if (key->kind != PTH__TEXT)
            return pth__fail(r, QNET_ERROR_FORMAT, "the list of storage keys: found %s",
                             pth__kind_name(key->kind));
        for (low = 0, high = count; low < high;) {
            size_t middle = low + (high - low) / 2;
            const pth__storage *s = pth__storage_at(r, order[middle]);
            if (pth__compare(s->key, s->key_bytes, text, key->b) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        pth__printable(shown, text, key->b);
        for (k = low, found = 0; k < count; k++) {
            pth__storage *s = pth__storage_at(r, order[k]);
            if (pth__compare(s->key, s->key_bytes, text, key->b) != 0) break;
            if (s->data != NULL)
                return pth__fail(r, QNET_ERROR_FORMAT, "storage '%s' is listed twice", shown);
            bytes = s->count * qnet_dtype_size(s->dtype);
            if (r->size - at < 8 || bytes > r->size - at - 8)
                return pth__fail(r, QNET_ERROR_FORMAT,
                                 "%s: truncated: expected %.0f bytes of its storage '%s', found "
                                 "%.0f", pth__storage_owner(r, order[k], owner), (double)bytes,
                                 shown, r->size - at < 8 ? 0.0 : (double)(r->size - at - 8));
            if (pth__le64(r->bytes + at) != s->count)
                return pth__fail(r, QNET_ERROR_FORMAT,
                                 "%s: its storage '%s': expected %.0f numbers, found %.0f",
                                 pth__storage_owner(r, order[k], owner), shown, (double)s->count,
                                 (double)pth__le64(r->bytes + at));
            found = 8 + bytes;
        }
        for (i = low; i < k; i++) pth__storage_at(r, order[i])->data = r->bytes + at + 8;
        if (found == 0)
            return pth__fail(r, QNET_ERROR_FORMAT, "storage '%s' belongs to no tensor", shown);
        at += found;
    }
    for (i = 0; i < count; i++)
        if (pth__storage_at(r, i)->data == NULL)
            return pth__fail(r, QNET_ERROR_FORMAT, "%s: its storage '%s' is not in the list",
                             pth__storage_owner(r, i, owner),
                             pth__printable(shown, pth__storage_at(r, i)->key,
                                            pth__storage_at(r, i)->key_bytes));
    if (at != r->size)
        return pth__fail(r, QNET_ERROR_FORMAT,
                         "the file goes on behind its storages: expected %.0f bytes, found %.0f",
                         (double)at, (double)r->size);
    return QNET_OK;
}

/* The pickles of the magic number 0x1950a86a20f9469cfc6c and of the version 1001. */
static const unsigned char pth__magic[] = {0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20,
                                           0x6a, 0xa8, 0x50, 0x19, '.', 0x80, 2, 'M', 0xe9, 3, '.'};

/* The legacy form. */
static qnet_status pth__read_legacy(pth__reader *r)
{
    uint32_t info, top, keys, cell;
    const pth__value *v;
    int64_t i;
    int little = 0;
    if (r->size < sizeof(pth__magic) || memcmp(r->bytes, pth__magic, sizeof(pth__magic)) != 0)
        return pth__fail(r, QNET_ERROR_FORMAT,
                         "a pickle, but not torch.save's: expected its magic number and format "
                         "1001");
    PTH__TRY(pth__pickle(r, "sys_info", sizeof(pth__magic), r->size, &info));
    v = pth__value_at(r, info);
    if (v->kind == PTH__DICT)
        for (i = 0, cell = v->a; i < v->number; i += 2) {
            const pth__value *key = pth__value_at(r, pth__cell_at(r, cell)->value), *item;
            uint32_t next = pth__cell_at(r, cell)->next;
            item = pth__value_at(r, pth__cell_at(r, next)->value);
            if (pth__is_text(r, key, "little_endian"))
                little = item->kind == PTH__BOOL && item->number == 1;
            cell = pth__cell_at(r, next)->next;
        }
    if (!little)
        return pth__fail(r, QNET_ERROR_UNSUPPORTED, "sys_info: expected little_endian = True");
    PTH__TRY(pth__pickle(r, "state dict", r->at, r->size, &top));
    PTH__TRY(pth__pickle(r, "storage keys", r->at, r->size, &keys));
    PTH__TRY(pth__state_dict(r, top)); /* not before: no tensor may be made behind it */
    if (pth__value_at(r, keys)->kind != PTH__LIST)
        return pth__fail(r, QNET_ERROR_FORMAT, "storage keys: expected a list, found %s",
                         pth__kind_name(pth__value_at(r, keys)->kind));
    PTH__TRY(pth__storages_agree(r));
    return pth__legacy_storages(r, keys, r->at);
}

static int pth__tensor_name_less(const pth__reader *r, uint32_t a, uint32_t b)
{
    const pth__tensor *x = pth__tensor_at(r, a), *y = pth__tensor_at(r, b);
    return pth__compare(x->name, x->name_bytes, y->name, y->name_bytes) < 0;
}

static int pth__little_endian(void)
{
    const uint16_t one = 1;
    unsigned char byte;
    memcpy(&byte, &one, 1);
    return byte == 1;
}

/* 1 when the numbers lie side by side, the last dimension fastest. */
static int pth__contiguous(const pth__tensor *t)
{
    size_t step = 1;
    int i;
    for (i = t->ndim; i-- > 0;) {
        if (t->shape[i] != 1 && t->stride[i] != step) return 0;
        step *= t->shape[i];
    }
    return 1;
}

/* The numbers of t in the order of its shape and in the host's byte order, to out. */
static void pth__gather(const pth__reader *r, const pth__tensor *t, unsigned char *out)
{
    const pth__storage *s = pth__storage_at(r, t->storage);
    size_t size = qnet_dtype_size(s->dtype), index[PTH__DIMS] = {0}, at = t->offset, n, k;
    int i, little = pth__little_endian();
    for (n = 0; n < t->count; n++, out += size) {
        const unsigned char *p = s->data + at * size;
        for (k = 0; k < size; k++) out[k] = p[little ? k : size - 1 - k];
        for (i = t->ndim; i-- > 0;) {
            at += t->stride[i];
            if (++index[i] < t->shape[i]) break;
            at -= index[i] * t->stride[i];
            index[i] = 0;
        }
    }
}

/* The metadata's texts, each ended by NUL, in *text; pairs[] are set when it no longer grows. */
static qnet_status pth__metadata(pth__reader *r, qnet_buffer *text, const char **pairs, int *count)
{
    const pth__value *v, *item;
    size_t at = 0;
    uint32_t cell;
    int64_t i;
    *count = 0;
    if (r->metadata == PTH__NONE) return QNET_OK;
    v = pth__value_at(r, r->metadata);
    if ((v->kind != PTH__DICT && v->kind != PTH__ORDERED) || v->number > 2 * PTH__MAX_METADATA)
        return pth__fail(r, QNET_ERROR_FORMAT,
                         "qnet_metadata: expected a dict of at most %d texts", PTH__MAX_METADATA);
    for (i = 0, cell = v->a; i < v->number; i++, cell = pth__cell_at(r, cell)->next) {
        item = pth__value_at(r, pth__cell_at(r, cell)->value);
        if (item->kind != PTH__TEXT || (item->b > 0 && memchr(r->bytes + item->a, 0, item->b)))
            return pth__fail(r, QNET_ERROR_FORMAT, "qnet_metadata: expected texts, found %s",
                             pth__kind_name(item->kind));
        PTH__TRY(pth__append(r, text, r->bytes + item->a, item->b));
        PTH__TRY(pth__append(r, text, "", 1));
    }
    for (i = 0; i < v->number; i++) {
        pairs[i] = (const char *)text->bytes + at;
        at += strlen(pairs[i]) + 1;
    }
    *count = (int)(v->number / 2);
    return QNET_OK;
}

/* Checks names and sizes of all tensors; *gather: bytes of those that cannot be used in place. */
static qnet_status pth__check_tensors(pth__reader *r, size_t *gather)
{
    const uint32_t *order;
    size_t i, count = pth__tensors(r);
    uint64_t total = 0;
    char name[64];
    *gather = 0;
    PTH__TRY(pth__sort(r, count, pth__tensor_name_less));
    order = (const uint32_t *)(const void *)r->order.bytes;
    for (i = 0; i < count; i++) {
        const pth__tensor *t = pth__tensor_at(r, order[i]);
        size_t bytes = t->count * qnet_dtype_size(pth__storage_at(r, t->storage)->dtype);
        pth__printable(name, t->name, t->name_bytes);
        if (i > 0 && !pth__tensor_name_less(r, order[i - 1], order[i]))
            return pth__fail(r, QNET_ERROR_FORMAT, "tensor '%s' is there twice", name);
        total += bytes;
        if (total / PTH__MAX_SHARING > r->size)
            return pth__fail(r, QNET_ERROR_LIMIT,
                             "tensor '%s': tensors that share their storages have more than %d "
                             "times the file's %.0f bytes", name, PTH__MAX_SHARING,
                             (double)r->size);
        if (!pth__contiguous(t) || !pth__little_endian()) *gather += bytes;
    }
    return QNET_OK;
}

/* The tensors as a safetensors file. Types of 8 bytes go first, then 4, then 2, so that each tensor
   is aligned to its type. list[count] and pool are scratch. */
static qnet_status pth__write_safetensors(pth__reader *r, qnet_safetensor *list,
                                          unsigned char *pool, qnet_buffer *out)
{
    const char *pairs[2 * PTH__MAX_METADATA];
    qnet_buffer text;
    qnet_sink sink = qnet_sink_buffer(r->ctx, out, r->name);
    qnet_status status;
    size_t i, size;
    int n = 0, count;
    for (size = 8; size >= 2; size /= 2)
        for (i = 0; i < pth__tensors(r); i++) {
            const pth__tensor *t = pth__tensor_at(r, i);
            const pth__storage *s = pth__storage_at(r, t->storage);
            qnet_safetensor *o = &list[n];
            if (qnet_dtype_size(s->dtype) != size) continue;
            memset(o, 0, sizeof(*o));
            memcpy(o->name, t->name, t->name_bytes);
            o->dtype = s->dtype;
            o->ndim = t->ndim;
            memcpy(o->shape, t->shape, sizeof(o->shape));
            o->count = t->count;
            o->bytes = t->count * size;
            o->data = s->data + t->offset * size;
            if (o->bytes > 0 && (!pth__contiguous(t) || !pth__little_endian())) {
                pth__gather(r, t, pool);
                o->data = pool;
                pool += o->bytes;
            }
            n++;
        }
    memset(&text, 0, sizeof(text));
    memset(pairs, 0, sizeof(pairs));
    status = pth__metadata(r, &text, pairs, &count);
    if (status == QNET_OK)
        status = pth__pass(r, qnet_safetensors_write(r->ctx, &sink, list, n, pairs, count));
    qnet_buffer_free(r->ctx, &text);
    return status;
}

/* ---- the API --------------------------------------------------------------------------------- */

int pth_is_pth(const void *bytes, size_t size)
{
    const unsigned char *p = (const unsigned char *)bytes;
    return (size >= 4 && memcmp(p, "PK\3\4", 4) == 0) ||
           (size >= 4 && memcmp(p, pth__magic, 4) == 0);
}

qnet_status pth_to_safetensors(qnet_context *ctx, const char *name, const void *bytes, size_t size,
                               qnet_buffer *out, char sentence[PTH_SENTENCE])
{
    const qnet_allocator *allocator = &qnet_context_hooks(ctx)->allocator;
    qnet_safetensor *list;
    unsigned char *pool = NULL;
    size_t list_bytes, pool_bytes = 0;
    qnet_status status;
    pth__reader r;
    memset(&r, 0, sizeof(r));
    r.ctx = ctx;
    r.name = name ? name : "(memory)";
    r.sentence = sentence;
    r.bytes = (const unsigned char *)bytes;
    r.size = size;
    r.metadata = PTH__NONE;
    sentence[0] = '\0';
    if (size > QNET_MAX_FILE_BYTES || size > 0xfffffffeu)
        status = pth__fail(&r, QNET_ERROR_LIMIT, "%.0f bytes, the limit is 4 GiB", (double)size);
    else if (size >= 2 && r.bytes[0] == 'P' && r.bytes[1] == 'K')
        status = pth__read_zip(&r);
    else if (size >= 2 && r.bytes[0] == 0x80)
        status = pth__read_legacy(&r);
    else
        status = pth__fail(&r, QNET_ERROR_FORMAT,
                           "neither the zip nor the legacy form of torch.save");
    if (status == QNET_OK) status = pth__check_tensors(&r, &pool_bytes);
    if (status == QNET_OK) {
        list_bytes = (pth__tensors(&r) + 1) * sizeof(*list);
        list = (qnet_safetensor *)allocator->alloc(allocator->user, list_bytes, 64);
        if (list != NULL && pool_bytes > 0)
            pool = (unsigned char *)allocator->alloc(allocator->user, pool_bytes, 64);
        if (list == NULL || (pool_bytes > 0 && pool == NULL))
            status = pth__fail(&r, QNET_ERROR_MEMORY, "no memory for its tensors");
        else
            status = pth__write_safetensors(&r, list, pool, out);
        if (pool != NULL) allocator->free(allocator->user, pool, pool_bytes);
        if (list != NULL) allocator->free(allocator->user, list, list_bytes);
    }
    if (status != QNET_OK) qnet_buffer_free(ctx, out);
    qnet_buffer_free(ctx, &r.values);
    qnet_buffer_free(ctx, &r.cells);
    qnet_buffer_free(ctx, &r.stack);
    qnet_buffer_free(ctx, &r.memo);
    qnet_buffer_free(ctx, &r.storages);
    qnet_buffer_free(ctx, &r.tensors);
    qnet_buffer_free(ctx, &r.entries);
    qnet_buffer_free(ctx, &r.order);
    return status;
}

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct pth__writer {
    qnet_context *ctx;
    qnet_buffer *out, directory;
    size_t entries;
    qnet_status status; /* of the first failure: later writes do nothing */
} pth__writer;

static void pth__put_bytes(pth__writer *w, qnet_buffer *to, const void *bytes, size_t size)
{
    if (w->status == QNET_OK) w->status = qnet_buffer_append(w->ctx, to, bytes, size);
}

/* The lowest n bytes of number, little-endian. */
static void pth__put_number(pth__writer *w, qnet_buffer *to, uint64_t number, size_t n)
{
    unsigned char p[8];
    size_t i;
    for (i = 0; i < 8; i++) p[i] = (unsigned char)(number >> 8 * i);
    pth__put_bytes(w, to, p, n);
}

/* A stored entry archive/<name>; its data begin at a multiple of 64 bytes, as torch's do, by a
   padding field in the extra part of the header. The date is 1 January 1980. */
static void pth__put_entry(pth__writer *w, const char *name, const void *data, size_t size)
{
    static const char zeros[64] = "";
    char path[64];
    size_t header = w->out->size, n = (size_t)snprintf(path, sizeof(path), "archive/%s", name);
    size_t pad = (64 - (header + 30 + n + 4) % 64) % 64;
    uint32_t crc = qnet_crc32(0, data, size);
    int central;
    for (central = 0; central < 2; central++) {
        qnet_buffer *to = central ? &w->directory : w->out;
        pth__put_bytes(w, to, central ? "PK\1\2\24\0" : "PK\3\4", central ? 6 : 4);
        pth__put_number(w, to, 20, 2);                 /* version needed */
        pth__put_number(w, to, 0, 4);                  /* flags, method: stored */
        pth__put_number(w, to, (uint64_t)0x21 << 16, 4); /* time, date */
        pth__put_number(w, to, crc, 4);
        pth__put_number(w, to, size, 4);
        pth__put_number(w, to, size, 4);
        pth__put_number(w, to, n, 2);
        pth__put_number(w, to, central ? 0 : 4 + pad, 2);
        if (central) {
            pth__put_bytes(w, to, zeros, 10); /* comment, disk, attributes */
            pth__put_number(w, to, header, 4);
        }
        pth__put_bytes(w, to, path, n);
    }
    pth__put_bytes(w, w->out, "FB", 2);
    pth__put_number(w, w->out, pad, 2);
    pth__put_bytes(w, w->out, zeros, pad);
    pth__put_bytes(w, w->out, data, size);
    w->entries++;
}

/* A tensor's numbers, which are in the host's order in memory and little-endian in the file. */
static void pth__put_tensor(pth__writer *w, const char *name, const qnet_safetensor *t)
{
    const size_t size = qnet_dtype_size(t->dtype);
    const unsigned char *p = (const unsigned char *)t->data;
    qnet_buffer turned;
    size_t i, k;
    memset(&turned, 0, sizeof(turned));
    if (!pth__little_endian())
        for (i = 0; i < t->count; i++)
            for (k = size; k-- > 0;) pth__put_bytes(w, &turned, p + i * size + k, 1);
    pth__put_entry(w, name, turned.bytes != NULL ? turned.bytes : p, t->bytes);
    qnet_buffer_free(w->ctx, &turned);
}

static void pth__put_text(pth__writer *w, qnet_buffer *to, const char *text)
{
    pth__put_bytes(w, to, "X", 1);
    pth__put_number(w, to, strlen(text), 4);
    pth__put_bytes(w, to, text, strlen(text));
}

/* An int below 2^63 as LONG1. */
static void pth__put_int(pth__writer *w, qnet_buffer *to, uint64_t number)
{
    pth__put_bytes(w, to, "\x8a\x08", 2);
    pth__put_number(w, to, number, 8);
}

/* The state dict's pickle: OrderedDict(), then name and _rebuild_tensor_v2(('storage', type, key,
   'cpu', count), 0, shape, strides, False, OrderedDict()) for each tensor, then the metadata. */
static void pth__put_pickle(pth__writer *w, const qnet_safetensors *file, qnet_buffer *to)
{
    static const char ordered[] = "ccollections\nOrderedDict\n)R";
    static const char rebuild[] = "ctorch._utils\n_rebuild_tensor_v2\n((";
    char text[64];
    int i, k, pass;
    pth__put_bytes(w, to, "\x80\2", 2);
    pth__put_bytes(w, to, ordered, sizeof(ordered) - 1);
    for (i = 0; i < file->count; i++) {
        const qnet_safetensor *t = &file->tensors[i];
        const char *type = t->dtype == QNET_F32   ? "Float"
                           : t->dtype == QNET_F64 ? "Double"
                           : t->dtype == QNET_F16 ? "Half"
                           : t->dtype == QNET_I64 ? "Long"
                                                  : "BFloat16";
        uint64_t strides[PTH__DIMS], step = 1;
        pth__put_text(w, to, t->name);
        pth__put_bytes(w, to, rebuild, sizeof(rebuild) - 1);
        pth__put_text(w, to, "storage");
        snprintf(text, sizeof(text), "ctorch\n%sStorage\n", type);
        pth__put_bytes(w, to, text, strlen(text));
        snprintf(text, sizeof(text), "%d", i);
        pth__put_text(w, to, text);
        pth__put_text(w, to, "cpu");
        pth__put_int(w, to, t->count);
        pth__put_bytes(w, to, "tQK\0", 4);
        for (k = t->ndim; k-- > 0; step *= t->shape[k] ? t->shape[k] : 1) strides[k] = step;
        for (pass = 0; pass < 2; pass++) {
            pth__put_bytes(w, to, "(", 1);
            for (k = 0; k < t->ndim; k++) pth__put_int(w, to, pass ? strides[k] : t->shape[k]);
            pth__put_bytes(w, to, "t", 1);
        }
        pth__put_bytes(w, to, "\x89", 1);
        pth__put_bytes(w, to, ordered, sizeof(ordered) - 1);
        pth__put_bytes(w, to, "tRs", 3);
    }
    if (file->metadata_count > 0) {
        pth__put_bytes(w, to, "}", 1);
        pth__put_text(w, to, "qnet_metadata");
        pth__put_bytes(w, to, "}", 1);
        for (i = 0; i < file->metadata_count; i++) {
            pth__put_text(w, to, file->metadata[i].key);
            pth__put_text(w, to, file->metadata[i].value);
            pth__put_bytes(w, to, "s", 1);
        }
        pth__put_bytes(w, to, "sb", 2);
    }
    pth__put_bytes(w, to, ".", 1);
}

qnet_status pth_from_safetensors(qnet_context *ctx, const char *name, const qnet_safetensors *file,
                                 qnet_buffer *out, char sentence[PTH_SENTENCE])
{
    pth__writer w;
    pth__reader r; /* for sentences only */
    qnet_buffer pickle;
    size_t total = 0, first, k;
    char key[32];
    int i;
    memset(&w, 0, sizeof(w));
    memset(&r, 0, sizeof(r));
    memset(&pickle, 0, sizeof(pickle));
    r.name = name ? name : "(memory)";
    r.sentence = sentence;
    r.ctx = w.ctx = ctx;
    w.out = out;
    sentence[0] = '\0';
    for (i = 0; i < file->count; i++) {
        const qnet_safetensor *t = &file->tensors[i];
        if ((int)t->dtype > (int)QNET_I64)
            return pth__fail(&r, QNET_ERROR_UNSUPPORTED,
                             "tensor '%s': expected type F64, F32, F16, BF16 or I64, found %s",
                             t->name, qnet_dtype_name(t->dtype));
        for (k = 0; t->name[k] > 0x20 && t->name[k] < 0x7f;) k++;
        if (k == 0 || t->name[k] != '\0')
            return pth__fail(&r, QNET_ERROR_UNSUPPORTED,
                             "tensor '%s': expected a name of printable ASCII characters", t->name);
        total += t->bytes; /* all of them lie in one block of memory */
    }
    if ((size_t)file->count > PTH__MAX_TENSORS - 16 || file->metadata_count > PTH__MAX_METADATA ||
        total > 0xf0000000u)
        return pth__fail(&r, QNET_ERROR_LIMIT,
                         "%d tensors of %.0f bytes and %d keys of metadata are too much",
                         file->count, (double)total, file->metadata_count);
    pth__put_pickle(&w, file, &pickle);
    if (w.status == QNET_OK) pth__put_entry(&w, "data.pkl", pickle.bytes, pickle.size);
    qnet_buffer_free(ctx, &pickle);
    pth__put_entry(&w, "byteorder", "little", 6);
    for (i = 0; i < file->count && w.status == QNET_OK; i++) {
        snprintf(key, sizeof(key), "data/%d", i);
        pth__put_tensor(&w, key, &file->tensors[i]);
    }
    pth__put_entry(&w, "version", "3\n", 2);
    first = out->size;
    pth__put_bytes(&w, out, w.directory.bytes, w.directory.size);
    pth__put_bytes(&w, out, "PK\5\6\0\0\0", 8);
    pth__put_number(&w, out, w.entries, 2);
    pth__put_number(&w, out, w.entries, 2);
    pth__put_number(&w, out, w.directory.size, 4);
    pth__put_number(&w, out, first, 4);
    pth__put_number(&w, out, 0, 2);
    qnet_buffer_free(ctx, &w.directory);
    if (w.status == QNET_OK && out->size > 0xfffffffeu)
        w.status = pth__fail(&r, QNET_ERROR_LIMIT, "the file would be larger than 4 GiB");
    else if (w.status != QNET_OK)
        w.status = pth__pass(&r, w.status);
    if (w.status != QNET_OK) qnet_buffer_free(ctx, out);
    return w.status;
}

#ifndef QNET_NO_STDIO
/* The hook: leaves *out empty for what is no .pth file, and qnet.h then reads it as ever. */
static qnet_status pth__read_path(void *user, qnet_context *ctx, const char *path, qnet_buffer *out,
                                  char *sentence, size_t size)
{
    unsigned char begin[8];
    char text[PTH_SENTENCE];
    size_t n, length = path ? strlen(path) : 0;
    qnet_buffer bytes;
    qnet_status status;
    FILE *f = path ? fopen(path, "rb") : NULL;
    (void)user;
    if (f == NULL) return QNET_OK;
    n = fread(begin, 1, sizeof(begin), f);
    fclose(f);
    if (!pth_is_pth(begin, n) && !(length > 4 && strcmp(path + length - 4, ".pth") == 0) &&
        !(length > 3 && strcmp(path + length - 3, ".pt") == 0))
        return QNET_OK;
    memset(&bytes, 0, sizeof(bytes));
    text[0] = '\0';
    status = qnet_file_read(ctx, path, 0, &bytes);
    if (status != QNET_OK)
        snprintf(text, sizeof(text), "%.500s", qnet_last_error(ctx));
    else
        status = pth_to_safetensors(ctx, path, bytes.bytes, bytes.size, out, text);
    qnet_buffer_free(ctx, &bytes);
    if (size > 0) snprintf(sentence, size, "%.*s", (int)size - 1, text);
    return status;
}

qnet_weights_reader pth_weights_reader(void)
{
    qnet_weights_reader reader;
    reader.user = NULL;
    reader.read = pth__read_path;
    return reader;
}
#endif

#endif /* PTH_IMPLEMENTATION */
