/* What Python calls, through ctypes: the number of the step, word of the user's profiler, and the end. */
#include "shim.h"

/* A step has ended, and step `number` begins: windows of steps go by it. */
PUBLIC void warpline_step(uint64_t number)
{
    struct warpline_header *ring = ring_header();
    if (!ring)
        return;
    store(&ring->step, number + 1);
    cupti_step(number);
}

/* The user's profiler is about to begin (1) or has ended (0): it always wins. */
PUBLIC void warpline_profiler(int running) { cupti_profiler(running); }

/* The interpreter ends: the last records are taken now, two seconds at most. */
PUBLIC void warpline_end(void) { cupti_end(); }
