/* Turns capture on and off as the control word says, gives way to the user's profiler, and looks whether what CUPTI delivers can
 * be true. */
#define _GNU_SOURCE
#include "cupti.h"

#include <string.h>

enum {
    FLUSH_MS = 500,
    FLUSH_MS_MIN = 20,
    FLUSH_MS_MAX = 5000,
    AFTER_PROFILER_SECONDS = 5,
    JUDGED_RECORDS = 1000, /* fewer say nothing of how many are damaged */
    INVALID_PERCENT = 1,
    CAPTURE_ALL = CAPTURE_KERNELS | CAPTURE_MEMCPY | CAPTURE_MEMSET | CAPTURE_GRAPHS,
};

static const struct {
    uint32_t bit;
    int kind;
} kinds[] = {{CAPTURE_KERNELS, ABI_CONCURRENT_KERNEL}, {CAPTURE_MEMCPY, ABI_MEMCPY}, {CAPTURE_MEMSET, ABI_MEMSET},
             {CAPTURE_GRAPHS, ABI_GRAPH_TRACE}};

static _Atomic int profiling;
static _Atomic uint64_t profiled_ns;
static uint32_t enabled, withdrawn; /* `withdrawn`: what damage has made us give up */
static int paused, strikes;
static struct tally judged, seen;
static uint64_t flushed_ns;

static int reader_is_there(struct warpline_header *ring, uint64_t control)
{
    uint64_t seen_ns = load(&ring->reader_seen_ns), now = clock_ns(CLOCK_MONOTONIC);
    return control & WARPLINE_UNREAD || (seen_ns && now < seen_ns + WARPLINE_READER_SILENT_SECONDS * 1000000000ull);
}

static uint32_t wanted(struct warpline_header *ring)
{
    uint64_t control = load(&ring->control), length = control >> 32 & 0xffff, period = control >> 48 & 0x7fff, at;
    uint32_t what = (control >> 8 & 0xff) & ~withdrawn;
    if (withdrawn & CAPTURE_KERNELS && !(withdrawn & CAPTURE_GRAPHS) && control & CAPTURE_KERNELS << 8)
        what |= CAPTURE_GRAPHS;
    if (!reader_is_there(ring, control))
        return 0;
    switch (control & 0xff) {
    case MODE_FULL:
        return what;
    case MODE_STEPS:
        at = load(&ring->step);
        return at && period && (at - 1) % period < length ? what : 0;
    case MODE_TIME:
        at = clock_ns(CLOCK_REALTIME) / 1000000 / WINDOW_UNIT_MS;
        return period && at % period < length ? what : 0;
    default:
        return 0;
    }
}

static void tell_capture(struct warpline_header *ring, uint64_t begun_ns, const char *why)
{
    uint64_t now = clock_ns(CLOCK_REALTIME);
    struct warpline_record told = {.kind = KIND_CAPTURE, .start_ns = begun_ns, .value = enabled,
                                   .duration_ns = now > begun_ns ? now - begun_ns : 0, .number = load(&ring->step),
                                   .name = why ? ring_text(TEXT_NAME, why, strlen(why)) : 0};
    store(&ring->capturing, enabled);
    ring_put(LANE_EVENTS, &told);
}

static void read_buffer(uint8_t *buffer, size_t valid) { decode(api.next, buffer, valid, &seen); }

static void flush(uint32_t how)
{
    uint64_t now = clock_ns(CLOCK_REALTIME);
    size_t lost = 0;
    api.flush(how);
    buffers_drain(read_buffer);
    ring_count(COUNT_FLUSHES, 1);
    if (api.dropped && !api.dropped(NULL, 0, &lost) && lost) {
        struct warpline_record gap = {.kind = KIND_GAP, .flags = LANE_KERNELS, .extra = GAP_CUPTI_DROPPED, .value = lost,
                                      .start_ns = flushed_ns, .duration_ns = now - flushed_ns};
        ring_count(COUNT_DROPPED_CUPTI, lost);
        ring_put(LANE_EVENTS, &gap);
    }
    flushed_ns = now;
}

static void change(struct warpline_header *ring, uint32_t to, const char *why)
{
    uint64_t begun_ns = clock_ns(CLOCK_REALTIME);
    uint32_t was = enabled;
    for (size_t each = 0; each < sizeof kinds / sizeof *kinds; each++) {
        if (was & ~to & kinds[each].bit && !api.disable(kinds[each].kind))
            enabled &= ~kinds[each].bit;
        if (to & ~was & kinds[each].bit) {
            int result = api.enable(kinds[each].kind);
            if (!result) {
                enabled |= kinds[each].bit;
                continue;
            }
            withdrawn |= kinds[each].bit & (CAPTURE_MEMCPY | CAPTURE_MEMSET) ? kinds[each].bit : CAPTURE_ALL;
            cupti_say(result == ABI_MULTIPLE_SUBSCRIBERS ? STATE_BUSY : STATE_DENIED, "CUPTI records no kernels", result);
        }
    }
    if (was & ~enabled)
        flush(ABI_FLUSH_COMPLETED);
    if (enabled != was)
        tell_capture(ring, begun_ns, why);
    if (enabled)
        ring_state(CHANNEL_KERNELS, STATE_OK, NULL);
}

/* Some drivers deliver damaged times for ever once they have begun to (kernels replayed by CUDA graphs, device buffers that are
 * not given back). Off and on again helps some; where it does not, whole graphs are captured in place of their kernels. */
static void judge(struct warpline_header *ring)
{
    uint64_t records = seen.records - judged.records, invalid = seen.invalid - judged.invalid;
    int graphs = 2 * (seen.graphs - judged.graphs) > invalid;
    if (records < JUDGED_RECORDS)
        return;
    judged = seen;
    if (invalid * 100 <= records * INVALID_PERCENT) {
        strikes = 0;
        return;
    }
    uint32_t was = enabled;
    change(ring, 0, "damaged records");
    if (++strikes < 2) {
        change(ring, was, NULL);
        return;
    }
    strikes = 0;
    withdrawn |= graphs && !(was & CAPTURE_GRAPHS) ? CAPTURE_KERNELS : CAPTURE_ALL;
    if (withdrawn & CAPTURE_GRAPHS)
        cupti_say(STATE_DEAD, "CUPTI goes on delivering damaged records", 0);
    else
        change(ring, wanted(ring), "kernels of graphs come damaged: whole graphs are captured");
}

/* 1: the user's profiler, or a trace that was asked for, has CUPTI, or has just had it. Nothing is disabled for it: that could
 * take from it what it has enabled itself. Its registration replaces ours, so ours is made anew afterwards. */
static int gives_way(struct warpline_header *ring)
{
    int user = atomic_load(&profiling), asked = (load(&ring->control) & 0xff) == MODE_AWAY;
    if ((user || asked) && !paused) {
        const char *why = user ? "the user's profiler runs" : "a trace was asked for";
        paused = 1;
        enabled = 0;
        ring_state(CHANNEL_KERNELS, STATE_PAUSED, why);
        tell_capture(ring, clock_ns(CLOCK_REALTIME), why);
    }
    if (asked) {
        atomic_store(&profiled_ns, clock_ns(CLOCK_MONOTONIC));
        user = 1;
    }
    if (paused && !user && clock_ns(CLOCK_MONOTONIC) > atomic_load(&profiled_ns) + AFTER_PROFILER_SECONDS * 1000000000ull) {
        paused = 0;
        int result = api.callbacks(buffers_requested, buffers_completed);
        if (result) {
            withdrawn = CAPTURE_ALL;
            cupti_say(STATE_DEAD, "CUPTI takes no buffers after the user's profiler", result);
        } else {
            ring_state(CHANNEL_KERNELS, STATE_OK, NULL);
        }
    }
    return paused;
}

uint64_t capture_flush_ms(uint64_t control)
{
    uint64_t wished = control >> 16 & 0xffff;
    return !wished ? FLUSH_MS : wished < FLUSH_MS_MIN ? FLUSH_MS_MIN : wished > FLUSH_MS_MAX ? FLUSH_MS_MAX : wished;
}

void capture_turn(struct warpline_header *ring)
{
    uint64_t now = clock_ns(CLOCK_REALTIME);
    buffers_drain(read_buffer);
    if (!gives_way(ring)) {
        uint32_t to = wanted(ring);
        if (to != enabled)
            change(ring, to, NULL);
        if (enabled && (now < flushed_ns || now - flushed_ns >= capture_flush_ms(load(&ring->control)) * 1000000))
            flush(ABI_FLUSH_COMPLETED);
        judge(ring);
    }
    buffers_clean();
}

void capture_begin(struct warpline_header *ring)
{
    flushed_ns = clock_ns(CLOCK_REALTIME);
    change(ring, wanted(ring), NULL);
}

void capture_end(void)
{
    if (enabled && !paused && !atomic_load(&profiling))
        flush(ABI_FLUSH_FORCED); /* kernels that still run are given up */
}

void capture_profiler(int running)
{
    if (!running)
        atomic_store(&profiled_ns, clock_ns(CLOCK_MONOTONIC));
    atomic_store(&profiling, running);
}
