/* The libcupti of this process: finds it, takes what is needed of it, and looks whether somebody else has it. */
#define _GNU_SOURCE
#include "cupti.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    POOL_LIMIT = 16, /* device buffers of CUPTI, 3.2 MB each */
};

struct cupti_api api;

void cupti_say(int state, const char *what, int result)
{
    char why[512];
    const char *meaning = NULL;
    if (api.describe && result)
        api.describe(result, &meaning);
    snprintf(why, sizeof why, result ? "%s: %s (%d)" : "%s", what, meaning ? meaning : "CUPTI error", result);
    ring_state(CHANNEL_KERNELS, state, why);
}

static void no_callback(void *data, int domain, uint32_t id, const void *about) { (void)data, (void)domain, (void)id, (void)about; }

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

enum { OF_NVIDIA = 5 }; /* so many of them */

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

const char *other_tool(const char *variable)
{
    const char *named = getenv(variable), *slash;
    Dl_info ours;
    if (!named || !*named || !strcmp(named, "none") || !dladdr((void *)(uintptr_t)other_tool, &ours))
        return NULL;
    slash = strrchr(ours.dli_fname, '/');
    return strstr(named, slash ? slash + 1 : ours.dli_fname) ? NULL : named;
}

/* The user looks with a tool of NVIDIA's, which may ask for CUPTI only later: it shall find it free. */
static int watched(void)
{
    size_t who = sizeof holders / sizeof *holders - 1;
    char why[128];
    dl_iterate_phdr(look_for_holder, &who);
    if (who >= OF_NVIDIA)
        return 0;
    snprintf(why, sizeof why, "CUPTI is left to %s, which is loaded here", holders[who].who);
    cupti_say(STATE_BUSY, why, 0);
    return 1;
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
        cupti_say(STATE_BUSY, why, 0);
        return 0;
    }
    if (result) {
        cupti_say(STATE_DENIED, "CUPTI refuses to be used", result);
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

int cupti_attach(void (*wake)(void))
{
    uint32_t version = 0;
    int result;
    if (watched())
        return 0;
    void *library = libcupti();
    if (!library || !resolve(library)) {
        cupti_say(STATE_DENIED, library ? "libcupti lacks what is needed" : "there is no libcupti", 0);
        return 0;
    }
    if ((result = api.version(&version))) {
        cupti_say(STATE_DENIED, "CUPTI does not start", result);
        return 0;
    }
    ring_header()->cupti_version = version;
    if (!subscribe())
        return 0;
    tune();
    if (!buffers_make(version >= ABI_VERSION_MAY_REFUSE, wake)) {
        cupti_say(STATE_DENIED, "there is no memory for records", 0);
        return 0;
    }
    if ((result = api.callbacks(buffers_requested, buffers_completed))) {
        cupti_say(STATE_DENIED, "CUPTI takes no buffers", result);
        return 0;
    }
    return 1;
}
