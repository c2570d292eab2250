/* What the parts of the CUDA injection share: cupti_library.c finds CUPTI, cupti_capture.c turns capture on and off, and cupti.c
 * runs it on a thread of its own. */
#ifndef WARPLINE_CUPTI_H
#define WARPLINE_CUPTI_H

#include "cupti_abi.h"
#include "shim.h"

enum { WINDOW_UNIT_MS = 100 };

/* cupti_library.c: the entry points of the libcupti of this process. */
struct cupti_api {
    int (*version)(uint32_t *);
    int (*subscribe)(void **, void (*)(void *, int, uint32_t, const void *), void *);
    int (*unsubscribe)(void *);
    int (*set_attribute)(int, size_t *, void *);
    int (*callbacks)(void (*)(uint8_t **, size_t *, size_t *), void (*)(void *, uint32_t, uint8_t *, size_t, size_t));
    int (*enable)(int);
    int (*disable)(int);
    next_record next;
    int (*dropped)(void *, uint32_t, size_t *);
    int (*flush)(uint32_t);
    int (*describe)(int, const char **);
};
extern struct cupti_api api;
int cupti_attach(void (*wake)(void)); /* 1: CUPTI is there and takes our buffers; 0: the channel says why not */
void cupti_say(int state, const char *what, int result); /* `result` is CUPTI's, 0 for none */

/* cupti_capture.c: one thread, but for the profiler. */
void capture_begin(struct warpline_header *ring); /* before there is the thread, where the first kernels are wanted too */
void capture_turn(struct warpline_header *ring);  /* drains, obeys the control word, flushes, looks whether it can be true */
void capture_end(void);                           /* flushes for the last time */
void capture_profiler(int running);               /* any thread: the user's profiler begins or has ended */
uint64_t capture_flush_ms(uint64_t control);

#endif
