/* memory.h: an allocator hook that watches. Blocks have the alignment that was asked for, end where
   the system's block ends (so that ASan sees the first byte too many), and are full of 0xA5; the
   size that comes back must be the one that was asked for. Any call can be made to fail. */
#ifndef MEMORY_H
#define MEMORY_H
#if !defined(_WIN32) && !defined(_POSIX_C_SOURCE)
#error "memory.h: define _POSIX_C_SOURCE 200112L before the first include, for posix_memalign"
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <malloc.h>
#endif

typedef struct memory_block { void *at; size_t size; } memory_block;
typedef struct memory_watch {
    memory_block *live;   /* [count], in the order of allocation */
    size_t count, room;
    size_t bytes, peak;   /* live now, and at most */
    size_t calls;         /* allocations asked for */
    size_t fail_at;       /* the call from 1 that fails; 0: none */
    int fail_on;          /* 1: so do all after it */
    size_t failed;
    const char *wrong;    /* the first thing that was not as promised, or NULL */
} memory_watch;

static void *memory_alloc(void *user, size_t size, size_t align)
{
    memory_watch *m = (memory_watch *)user;
    void *p = NULL;
    m->calls++;
    if (size == 0 || align == 0 || (align & (align - 1)) != 0) m->wrong = "size 0, bad alignment";
    if (m->fail_at > 0 && (m->calls == m->fail_at || (m->fail_on && m->calls > m->fail_at))) {
        m->failed++;
        return NULL;
    }
    if (m->count == m->room) {
        m->room = 2 * m->room + 64;
        m->live = (memory_block *)realloc(m->live, m->room * sizeof *m->live);
        if (m->live == NULL) abort();
    }
#ifdef _WIN32
    p = _aligned_malloc(size, align);
#else
    if (posix_memalign(&p, align, size) != 0) p = NULL;
#endif
    if (p == NULL) return NULL;
    if ((uintptr_t)p % align != 0) m->wrong = "the system's block is not aligned";
    /* Huge blocks are filled at both ends only: the rest would take most of the time of a test. */
    if (size <= (size_t)1 << 22) memset(p, 0xA5, size);
    else memset(p, 0xA5, 4096), memset((char *)p + size - 4096, 0xA5, 4096);
    m->live[m->count].at = p;
    m->live[m->count++].size = size;
    m->bytes += size;
    if (m->bytes > m->peak) m->peak = m->bytes;
    return p;
}

static void memory_free(void *user, void *p, size_t size)
{
    memory_watch *m = (memory_watch *)user;
    size_t i = m->count;
    while (i > 0 && m->live[i - 1].at != p) i--;
    if (i == 0) {
        m->wrong = "a block that was not asked for is given back";
        return;
    }
    if (m->live[i - 1].size != size) m->wrong = "a block is given back with another size";
    m->bytes -= m->live[i - 1].size;
    memmove(m->live + i - 1, m->live + i, (m->count - i) * sizeof *m->live);
    m->count--;
#ifdef _WIN32
    _aligned_free(p);
#else
    free(p);
#endif
}

/* Forgets what was, when every block has come back. */
static void memory_end(memory_watch *m)
{
    free(m->live);
    memset(m, 0, sizeof *m);
}
#endif
