/* What the parts of the native library share. It runs in somebody else's process: nothing here ever waits for the agent,
 * raises, prints or exits, and what it holds is bounded. */
#ifndef WARPLINE_SHIM_H
#define WARPLINE_SHIM_H

#include "ring.h"

#include <stdatomic.h>
#include <time.h>

#define PUBLIC __attribute__((visibility("default")))

enum {
    RECORDS_DEFAULT = 131072, /* of the kernel lane: 2.6 s at 50,000 kernels a second, 8 MB */
    RECORDS_MIN = 4096,
    RECORDS_MAX = 1 << 20,
    NCCL_RECORDS = 8192,
    EVENT_RECORDS = 2048,
    TEXTS_BYTES = 1 << 20,
    LEFT_SECONDS = 600, /* a ring that nobody has read for so long, and whose process is gone, is taken away */
    LEFT_FILES = 64,    /* of those looked at for that */
    SHARE_OF_FREE_SPACE = 16, /* of the file system's free space one ring takes no more than this part: NCCL lives there too */
};

/* ring.c */
int ring_open(void);                           /* 1: there is a ring, made now or before; 0: there is none */
struct warpline_header *ring_header(void);     /* NULL without a ring */
int ring_put(int lane, struct warpline_record *record); /* any thread; `commit` is filled in; 0: dropped and counted */
uint32_t ring_text(int kind, const void *bytes, size_t length);
void ring_count(int counter, uint64_t by);
void ring_state(int channel, int state, const char *why); /* into the header and, where it changes, the event lane */

/* The kernel lane has one writer at a time; it publishes in batches. */
struct writer {
    uint64_t head, tail;
    uint64_t gap_records, gap_start_ns, gap_end_ns;
};
struct warpline_record *writer_slot(struct writer *w, uint64_t start_ns, uint64_t end_ns); /* NULL: no room, counted */
void writer_commit(struct writer *w, struct warpline_record *slot);
void writer_publish(struct writer *w);

/* buffers.c: memory for CUPTI's records. Callbacks of CUPTI take and give it back on any thread without waiting; one thread of
 * ours reads what came back. */
int buffers_make(int may_refuse, void (*wake)(void)); /* `may_refuse`: this CUPTI takes no for an answer */
void buffers_requested(uint8_t **buffer, size_t *size, size_t *records_max);
void buffers_completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid);
void buffers_drain(void (*read)(uint8_t *buffer, size_t valid)); /* those that came back, oldest first */
void buffers_clean(void);

/* decode.c: CUPTI's records into the kernel lane; one thread. */
struct tally {
    uint64_t records, invalid, graphs; /* `graphs`: of the invalid, those of a CUDA graph */
};
typedef int (*next_record)(uint8_t *buffer, size_t valid, void **record);
void decode(next_record next, uint8_t *buffer, size_t valid, struct tally *tally);

/* cupti.c; its parts share cupti.h */
const char *other_tool(const char *variable); /* what else the variable names than this library; NULL where nothing */
void cupti_profiler(int running); /* the user's profiler begins or has ended */
void cupti_step(uint64_t number);
void cupti_end(void); /* the program ends; may wait for its last records */

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

#define load(at) __atomic_load_n((at), __ATOMIC_RELAXED)
#define store(at, value) __atomic_store_n((at), (value), __ATOMIC_RELAXED)

#endif
