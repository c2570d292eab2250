/* What Python calls, through ctypes: the number of the step, and word of the user's profiler. Both return at once. */
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
