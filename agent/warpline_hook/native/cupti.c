/* The CUDA injection: finds the libcupti of this process, asks for kernels, copies and sets, and gives way to everybody else.
 *
 * CUPTI calls back into buffers.c from any thread, which never waits. One thread of ours does everything else: it flushes,
 * decodes, obeys the control word, and looks whether what CUPTI delivers can be true. */
#define _GNU_SOURCE
#include "cupti_abi.h"
#include "shim.h"

#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    FLUSH_MS = 500,
    FLUSH_MS_MIN = 20,
    FLUSH_MS_MAX = 5000,
    WINDOW_UNIT_MS = 100,
    EXIT_MS = 2000,           /* the program waits no longer than this for its last records */
    EXIT_LOOK_MS = 50,
    AFTER_PROFILER_SECONDS = 5,
    CLOCK_SECONDS = 10,       /* between two KIND_CLOCK */
    JUDGED_RECORDS = 1000,    /* fewer say nothing of how many are damaged */
    INVALID_PERCENT = 1,
    POOL_LIMIT = 16,          /* device buffers of CUPTI, 3.2 MB each */
    STACK_BYTES = 1 << 20,
    CAPTURE_ALL = CAPTURE_KERNELS | CAPTURE_MEMCPY | CAPTURE_MEMSET | CAPTURE_GRAPHS,
};

static struct {
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
} api;

static const struct {
    uint32_t bit;
    int kind;
} kinds[] = {{CAPTURE_KERNELS, ABI_CONCURRENT_KERNEL}, {CAPTURE_MEMCPY, ABI_MEMCPY}, {CAPTURE_MEMSET, ABI_MEMSET},
             {CAPTURE_GRAPHS, ABI_GRAPH_TRACE}};

static pid_t owner;
static uint32_t work, finished; /* futexes; what is said of them counts up */
static _Atomic int stopping, profiling;
static _Atomic uint64_t profiled_ns;
static uint32_t enabled, withdrawn; /* `withdrawn`: what damage has made us give up */
static int paused, strikes;
static struct tally judged, seen;
static uint64_t flushed_ns, clock_told_ns;

static void tell(uint32_t *word)
{
    __atomic_fetch_add(word, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Until the word differs from `old` or the time is over, by a clock that nobody sets. */
static void await(uint32_t *word, uint32_t old, uint64_t ms)
{
    struct timespec time = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000 * 1000000)};
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == old)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, &time, NULL, 0);
}

static void wake(void) { tell(&work); }

static void say(int state, const char *what, int result)
{
    char why[512];
    const char *meaning = NULL;
    if (api.describe && result)
        api.describe(result, &meaning);
    snprintf(why, sizeof why, result ? "%s: %s (%d)" : "%s", what, meaning ? meaning : "CUPTI error", result);
    ring_state(CHANNEL_KERNELS, state, why);
}

static void no_callback(void *data, int domain, uint32_t id, const void *about) { (void)data, (void)domain, (void)id, (void)about; }

/* --- at the start, on the thread that initialises CUDA --- */

static void *libcupti(void)
{
    static const char *const names[] = {"libcupti.so.13", "libcupti.so.12", "libcupti.so.11.8", "libcupti.so"};
    const char *given = getenv("WARPLINE_CUPTI");
    void *found = NULL;
    if (given && *given)
        return dlopen(given, RTLD_NOW | RTLD_LOCAL);
    for (size_t pass = 0; pass < 2; pass++) /* first the one that is there already: two in one process get in each other's way */
        for (size_t each = 0; !found && each < sizeof names / sizeof *names; each++)
            found = dlopen(names[each], RTLD_NOW | RTLD_LOCAL | (pass ? 0 : RTLD_NOLOAD));
    return found;
}

static int resolve(void *library)
{
    const struct {
        void *at;
        const char *name;
        int needed;
    } wanted[] = {
        {&api.version, "cuptiGetVersion", 1},
        {&api.subscribe, "cuptiSubscribe", 1},
        {&api.unsubscribe, "cuptiUnsubscribe", 1},
        {&api.set_attribute, "cuptiActivitySetAttribute", 0},
        {&api.callbacks, "cuptiActivityRegisterCallbacks", 1},
        {&api.enable, "cuptiActivityEnable", 1},
        {&api.disable, "cuptiActivityDisable", 1},
        {&api.next, "cuptiActivityGetNextRecord", 1},
        {&api.dropped, "cuptiActivityGetNumDroppedRecords", 0},
        {&api.flush, "cuptiActivityFlushAll", 1},
        {&api.describe, "cuptiGetResultString", 0},
    };
    for (size_t each = 0; each < sizeof wanted / sizeof *wanted; each++) {
        void *found = dlsym(library, wanted[each].name);
        if (!found && wanted[each].needed)
            return 0;
        memcpy(wanted[each].at, &found, sizeof found);
    }
    return 1;
}

/* Libraries that tools bring along, the likeliest holder first. */
static const struct {
    const char *part, *who;
} holders[] = {{"ToolsInjection", "Nsight Systems"}, {"nsight-systems", "Nsight Systems"}, {"nsight-compute", "Nsight Compute"},
               {"libTreeLauncher", "Nsight Compute"}, {"cuda-gdb", "cuda-gdb"}, {"parcagpu", "parcagpu"},
               {"libtorch_cpu", "the profiler of PyTorch"}, {"", "another tool"}};

static int look_for_holder(struct dl_phdr_info *library, size_t size, void *best)
{
    size_t each = 0;
    (void)size;
    while (!strstr(library->dlpi_name, holders[each].part))
        each++;
    if (each < *(size_t *)best)
        *(size_t *)best = each;
    return 0;
}

/* CUPTI has room for one subscriber. Where PyTorch leaves the place free (from 2.7 on, with KINETO_USE_DAEMON, which the launcher
 * knows), holding it keeps others from taking CUPTI down under us; else we only look whether somebody sits there. */
static int subscribe(void)
{
    void *subscriber = NULL;
    int result = api.subscribe(&subscriber, no_callback, NULL);
    if (result == ABI_MULTIPLE_SUBSCRIBERS) {
        size_t who = sizeof holders / sizeof *holders - 1;
        char why[128];
        dl_iterate_phdr(look_for_holder, &who);
        snprintf(why, sizeof why, "CUPTI has room for one and is held by %s", holders[who].who);
        say(STATE_BUSY, why, 0);
        return 0;
    }
    if (result) {
        say(STATE_DENIED, "CUPTI refuses to be used", result);
        return 0;
    }
    const char *hold = getenv("WARPLINE_HOLD_CUPTI");
    if (!hold || strcmp(hold, "1"))
        api.unsubscribe(subscriber);
    return 1;
}

static void tune(void)
{
    size_t limit = POOL_LIMIT, size = sizeof limit;
    uint8_t zeroed = 1;
    if (!api.set_attribute)
        return;
    api.set_attribute(ABI_DEVICE_BUFFER_POOL_LIMIT, &size, &limit);
    size = sizeof zeroed;
    api.set_attribute(ABI_ZEROED_OUT_ACTIVITY_BUFFER, &size, &zeroed);
}

static int attach(void)
{
    void *library = libcupti();
    uint32_t version = 0;
    int result;
    if (!library || !resolve(library)) {
        say(STATE_DENIED, library ? "libcupti lacks what is needed" : "there is no libcupti", 0);
        return 0;
    }
    if ((result = api.version(&version))) {
        say(STATE_DENIED, "CUPTI does not start", result);
        return 0;
    }
    ring_header()->cupti_version = version;
    if (!subscribe())
        return 0;
    tune();
    if (!buffers_make(version >= ABI_VERSION_MAY_REFUSE, wake)) {
        say(STATE_DENIED, "there is no memory for records", 0);
        return 0;
    }
    if ((result = api.callbacks(buffers_requested, buffers_completed))) {
        say(STATE_DENIED, "CUPTI takes no buffers", result);
        return 0;
    }
    return 1;
}

/* --- on our own thread --- */

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

static void tell_capture(struct warpline_header *ring, const char *why)
{
    struct warpline_record told = {.kind = KIND_CAPTURE, .start_ns = clock_ns(CLOCK_REALTIME), .value = enabled,
                                   .number = load(&ring->step), .name = why ? ring_text(TEXT_NAME, why, strlen(why)) : 0};
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
            say(result == ABI_MULTIPLE_SUBSCRIBERS ? STATE_BUSY : STATE_DENIED, "CUPTI records no kernels", result);
        }
    }
    if (was & ~enabled)
        flush(ABI_FLUSH_COMPLETED);
    if (enabled != was)
        tell_capture(ring, why);
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
        say(STATE_DEAD, "CUPTI goes on delivering damaged records", 0);
    else
        change(ring, wanted(ring), "kernels of graphs come damaged: whole graphs are captured");
}

/* 1: the user's profiler has CUPTI, or has just had it. Nothing is disabled for it: that could take from it what it has enabled
 * itself. Its registration replaces ours, so ours is made anew afterwards. */
static int gives_way(struct warpline_header *ring)
{
    int user = atomic_load(&profiling);
    if (user && !paused) {
        paused = 1;
        enabled = 0;
        ring_state(CHANNEL_KERNELS, STATE_PAUSED, "the user's profiler runs");
        tell_capture(ring, "the user's profiler runs");
    }
    if (paused && !user && clock_ns(CLOCK_MONOTONIC) > atomic_load(&profiled_ns) + AFTER_PROFILER_SECONDS * 1000000000ull) {
        paused = 0;
        int result = api.callbacks(buffers_requested, buffers_completed);
        if (result) {
            withdrawn = CAPTURE_ALL;
            say(STATE_DEAD, "CUPTI takes no buffers after the user's profiler", result);
        } else {
            ring_state(CHANNEL_KERNELS, STATE_OK, NULL);
        }
    }
    return paused;
}

static void tell_clocks(void)
{
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    if (clock_told_ns && now < clock_told_ns + CLOCK_SECONDS * 1000000000ull)
        return;
    clock_told_ns = now;
    struct warpline_record clocks = {.kind = KIND_CLOCK, .start_ns = clock_ns(CLOCK_REALTIME),
                                     .value = clock_ns(CLOCK_MONOTONIC_RAW), .number = clock_ns(CLOCK_BOOTTIME)};
    ring_put(LANE_EVENTS, &clocks);
}

static uint64_t flush_ms(uint64_t control)
{
    uint64_t wished = control >> 16 & 0xffff;
    return !wished ? FLUSH_MS : wished < FLUSH_MS_MIN ? FLUSH_MS_MIN : wished > FLUSH_MS_MAX ? FLUSH_MS_MAX : wished;
}

/* Until a buffer comes back, a window of steps begins or ends, or it is time. */
static void rest(struct warpline_header *ring, uint32_t heard)
{
    uint64_t control = load(&ring->control), ms = flush_ms(control);
    await(&work, heard, (control & 0xff) == MODE_TIME && ms > WINDOW_UNIT_MS ? WINDOW_UNIT_MS : ms);
}

static void turn(struct warpline_header *ring)
{
    uint64_t now = clock_ns(CLOCK_REALTIME);
    store(&ring->heartbeat_ns, clock_ns(CLOCK_MONOTONIC));
    buffers_drain(read_buffer);
    tell_clocks();
    if (!gives_way(ring)) {
        uint32_t to = wanted(ring);
        if (to != enabled)
            change(ring, to, NULL);
        if (enabled && (now < flushed_ns || now - flushed_ns >= flush_ms(load(&ring->control)) * 1000000))
            flush(ABI_FLUSH_COMPLETED);
        judge(ring);
    }
    buffers_clean();
}

static void *flusher(void *given)
{
    struct warpline_header *ring = given;
    pthread_setname_np(pthread_self(), "warpline");
    buffers_clean();
    flushed_ns = clock_ns(CLOCK_REALTIME);
    while (!atomic_load(&stopping)) {
        uint32_t heard = __atomic_load_n(&work, __ATOMIC_ACQUIRE);
        turn(ring);
        rest(ring, heard);
    }
    if (enabled && !paused && !atomic_load(&profiling))
        flush(ABI_FLUSH_FORCED); /* kernels that still run are given up */
    tell(&finished);
    return NULL;
}

static void at_exit(void)
{
    if (getpid() != owner)
        return;
    atomic_store(&stopping, 1);
    wake();
    for (int waited_ms = 0; waited_ms < EXIT_MS && !__atomic_load_n(&finished, __ATOMIC_ACQUIRE); waited_ms += EXIT_LOOK_MS)
        await(&finished, 0, EXIT_LOOK_MS);
}

/* Signals of the program are none of this thread's business. */
static int start(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attributes, flusher, ring_header());
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return !failed;
}

/* The tool that was to be injected before us: it comes first, and we stay away from CUPTI, since of two that ask for records
 * the later one silently takes them from the earlier. */
static int chained(void)
{
    const char *path = getenv("WARPLINE_CHAIN_INJECTION");
    if (!path || !*path)
        return 0;
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    int (*inject)(void) = NULL;
    void *found = library ? dlsym(library, "InitializeInjection") : NULL;
    memcpy(&inject, &found, sizeof found);
    if (!inject) {
        char why[512];
        snprintf(why, sizeof why, "the injection %s that was there before cannot be loaded", path);
        ring_state(CHANNEL_KERNELS, STATE_DENIED, why);
        return 1;
    }
    inject();
    char why[512];
    snprintf(why, sizeof why, "CUPTI is left to the injection %s", path);
    ring_state(CHANNEL_KERNELS, STATE_BUSY, why);
    return 1;
}

/* Called by the CUDA driver when it is initialised; anything but 1 would end the program's use of CUDA. */
PUBLIC int InitializeInjection(void)
{
    if (owner == getpid())
        return 1;
    owner = getpid();
    int there = ring_open();
    if (chained() || !there || !attach())
        return 1;
    ring_state(CHANNEL_KERNELS, STATE_OK, NULL);
    change(ring_header(), wanted(ring_header()), NULL); /* where the first kernels are wanted too */
    if (start())
        atexit(at_exit);
    else
        say(STATE_DENIED, "no thread can be started", 0);
    return 1;
}

/* --- from Python --- */

void cupti_profiler(int running)
{
    if (!running)
        atomic_store(&profiled_ns, clock_ns(CLOCK_MONOTONIC));
    atomic_store(&profiling, running);
    if (owner == getpid())
        wake();
}

void cupti_step(uint64_t number)
{
    uint64_t control = load(&ring_header()->control), length = control >> 32 & 0xffff, period = control >> 48 & 0x7fff;
    if ((control & 0xff) == MODE_STEPS && period && (number % period == 0 || number % period == length) && owner == getpid())
        wake();
}
