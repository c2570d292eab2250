/* Buffers for CUPTI's records: a fixed region of address space, handed out and taken back without a lock.
 *
 * A buffer is clean (all zeros, ready), out (CUPTI has it), full (came back with records) or dirty (read, to be zeroed). Only
 * full -> dirty -> clean happens on our thread; requests come on threads that launch kernels. */
#define _GNU_SOURCE
#include "cupti_abi.h"
#include "shim.h"

#include <string.h>
#include <sys/mman.h>

enum {
    BUFFERS = 64,
    BUFFERS_AT_START = 8,
    BUFFER_BYTES = 1 << 20, /* 4,700 kernels of the newest CUPTI */
    SPARE_BYTES = 64 << 10  /* of one made because CUPTI takes no for no answer */
};

static uint8_t *region;
static int may_refuse;
static void (*wake)(void);
static _Atomic uint64_t clean, full, dirty;
static _Atomic uint64_t arrivals;
static size_t valid_bytes[BUFFERS];
static uint64_t arrived[BUFFERS];
static _Atomic(uint8_t *) spares[BUFFERS];

static int take(_Atomic uint64_t *set)
{
    uint64_t seen = atomic_load_explicit(set, memory_order_acquire);
    while (seen) {
        int lowest = __builtin_ctzll(seen);
        if (atomic_compare_exchange_weak_explicit(set, &seen, seen & ~(1ull << lowest), memory_order_acq_rel, memory_order_acquire))
            return lowest;
    }
    return -1;
}

static void put(_Atomic uint64_t *set, int buffer) { atomic_fetch_or_explicit(set, 1ull << buffer, memory_order_release); }

static uint8_t *at(int buffer) { return region + (size_t)buffer * BUFFER_BYTES; }

int buffers_make(int refusing, void (*waker)(void))
{
    void *made = mmap(NULL, (size_t)BUFFERS * BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                      -1, 0);
    if (made == MAP_FAILED)
        return 0;
    region = made;
    may_refuse = refusing;
    wake = waker;
    dirty = (1ull << BUFFERS_AT_START) - 1; /* zeroing them puts their memory in place */
    clean = ~dirty;
    return 1;
}

/* Before CUPTI 12.9 an empty hand could end the program: it gets memory of its own, whose records are dropped. */
static uint8_t *spare(void)
{
    for (int each = 0; each < BUFFERS; each++) {
        uint8_t *none = NULL, *made;
        if (atomic_load(&spares[each]))
            continue;
        made = mmap(NULL, SPARE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (made == MAP_FAILED)
            return NULL;
        if (atomic_compare_exchange_strong(&spares[each], &none, made))
            return made;
        munmap(made, SPARE_BYTES);
    }
    return NULL;
}

void buffers_requested(uint8_t **buffer, size_t *size, size_t *records_max)
{
    int chosen = take(&clean);
    *records_max = 0;
    *size = BUFFER_BYTES;
    if (chosen < 0 && (chosen = take(&dirty)) >= 0) {
        memset(at(chosen), 0, BUFFER_BYTES);
        ring_count(COUNT_ZEROED_LATE, 1);
    }
    if (chosen >= BUFFERS_AT_START)
        ring_count(COUNT_SPILLED, 1);
    if (chosen >= 0) {
        *buffer = at(chosen);
        return;
    }
    ring_count(COUNT_DROPPED_POOL, 1);
    *buffer = may_refuse ? NULL : spare();
    *size = *buffer ? SPARE_BYTES : 0;
}

void buffers_completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid)
{
    (void)context, (void)stream, (void)size;
    if (buffer >= region && buffer < region + (size_t)BUFFERS * BUFFER_BYTES) {
        int back = (int)((size_t)(buffer - region) / BUFFER_BYTES);
        valid_bytes[back] = valid < BUFFER_BYTES ? valid : BUFFER_BYTES;
        arrived[back] = atomic_fetch_add(&arrivals, 1);
        put(&full, back);
        wake();
        return;
    }
    for (int each = 0; each < BUFFERS; each++) { /* a spare of ours; any other is somebody else's and stays as it is */
        uint8_t *made = buffer;
        if (buffer && atomic_compare_exchange_strong(&spares[each], &made, NULL)) {
            munmap(buffer, SPARE_BYTES);
            return;
        }
    }
}

void buffers_drain(void (*read)(uint8_t *, size_t))
{
    uint64_t waiting;
    while ((waiting = atomic_load_explicit(&full, memory_order_acquire))) {
        int oldest = __builtin_ctzll(waiting);
        for (int each = oldest + 1; each < BUFFERS; each++)
            if (waiting >> each & 1 && arrived[each] < arrived[oldest])
                oldest = each;
        atomic_fetch_and_explicit(&full, ~(1ull << oldest), memory_order_acquire);
        ring_count(COUNT_BUFFERS, 1);
        read(at(oldest), valid_bytes[oldest]);
        put(&dirty, oldest);
    }
}

void buffers_clean(void)
{
    int used;
    while ((used = take(&dirty)) >= 0) {
        memset(at(used), 0, BUFFER_BYTES);
        put(&clean, used);
    }
}
