/* The CUDA injection: finds the libcupti of this process, asks for kernels, copies and sets, and gives way to everybody else.
 *
 * CUPTI calls back into buffers.c from any thread, which never waits. One thread of ours does everything else, as
 * cupti_capture.c says. */
#define _GNU_SOURCE
#include "cupti.h"

#include <dlfcn.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    EXIT_MS = 2000, /* the program waits no longer than this for its last records */
    EXIT_LOOK_MS = 50,
    CLOCK_SECONDS = 10, /* between two KIND_CLOCK */
    STACK_BYTES = 1 << 20,
};

static pid_t owner;
static int started;
static uint32_t work, finished; /* futexes; what is said of them counts up */
static _Atomic int stopping;
static uint64_t clock_told_ns;

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

/* Until a buffer comes back, a window of steps begins or ends, or it is time. */
static void rest(struct warpline_header *ring, uint32_t heard)
{
    uint64_t control = load(&ring->control), ms = capture_flush_ms(control);
    await(&work, heard, (control & 0xff) == MODE_TIME && ms > WINDOW_UNIT_MS ? WINDOW_UNIT_MS : ms);
}

static void *flusher(void *given)
{
    struct warpline_header *ring = given;
    pthread_setname_np(pthread_self(), "warpline");
    buffers_clean();
    while (!atomic_load(&stopping)) {
        uint32_t heard = __atomic_load_n(&work, __ATOMIC_ACQUIRE);
        store(&ring->heartbeat_ns, clock_ns(CLOCK_MONOTONIC));
        tell_clocks();
        capture_turn(ring);
        rest(ring, heard);
    }
    capture_end();
    tell(&finished);
    return NULL;
}

/* An interpreter calls this before it goes down: what it still runs then must not find it half gone because we wait. */
void cupti_end(void)
{
    if (getpid() != owner || !started)
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
    char why[512];
    snprintf(why, sizeof why, "CUPTI is left to the injection %s", path);
    ring_state(CHANNEL_KERNELS, STATE_BUSY, why);
    inject(); /* what it returns is for the driver to end the program by: it is not passed on */
    return 1;
}

/* NCCL asks one library alone, and where that is another's we hear nothing of it. */
static void tell_of_plugin(void)
{
    const char *named = other_tool("NCCL_PROFILER_PLUGIN");
    char why[512];
    snprintf(why, sizeof why, "NCCL has room for one profiler plugin, and NCCL_PROFILER_PLUGIN names %s", named ? named : "");
    if (named)
        ring_state(CHANNEL_NCCL, STATE_BUSY, why);
}

/* Called by the CUDA driver when it is initialised; anything but 1 would end the program's use of CUDA. */
PUBLIC int InitializeInjection(void)
{
    if (owner == getpid())
        return 1;
    owner = getpid();
    int there = ring_open();
    tell_of_plugin();
    if (chained() || !there || !cupti_attach(wake))
        return 1;
    ring_state(CHANNEL_KERNELS, STATE_OK, NULL);
    capture_begin(ring_header()); /* where the first kernels are wanted too */
    if ((started = start()))
        atexit(cupti_end);
    else
        cupti_say(STATE_DENIED, "no thread can be started", 0);
    return 1;
}

/* --- from Python --- */

void cupti_profiler(int running)
{
    capture_profiler(running);
    if (owner == getpid())
        wake();
}

void cupti_step(uint64_t number)
{
    uint64_t control = load(&ring_header()->control), length = control >> 32 & 0xffff, period = control >> 48 & 0x7fff;
    if ((control & 0xff) == MODE_STEPS && period && (number % period == 0 || number % period == length) && owner == getpid())
        wake();
}
