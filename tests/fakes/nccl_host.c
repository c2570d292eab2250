/* A program that uses NCCL, without NCCL: it loads NCCL_PROFILER_PLUGIN as NCCL does, and enqueues operations.
 *
 * FAKE_NCCL_API is the newest version of the interface that this NCCL knows (1 to 6), FAKE_NCCL_VERSION what ncclGetVersion says.
 * One command a line, one answer a line; compiled as a library, `fake_nccl(line)` is the same in somebody else's process:
 *
 *   comm HASH RANK RANKS NODES NAME    a communicator; its place
 *   coll COMM COUNT ELEMENTS SEQUENCE  all-reduces of bfloat16 on it, SEQUENCE, SEQUENCE+1, ...; how many events the plugin took
 *   datatype NAME                      all-reduces are of this type from now on, from version 2 of the interface on
 *   p2p COMM COUNT ELEMENTS PEER       sends
 *   threads COUNT                      every communicator in a thread of its own
 *   together THREADS COUNT             so many threads on communicator 0 at once
 *   mask                               events that the plugin asks for
 *   version                            of the interface in use, 0 without a plugin
 *   destroy COMM                       and, with the last one, unload the plugin
 *   cost COUNT                         nanoseconds of one operation, start and stop, times 100
 *   fork COMM                          a child enqueues one
 *   cuda                               initialises CUDA, which loads CUDA_INJECTION64_PATH
 *   exit
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { GROUP = 1, COLLECTIVE = 2, POINT = 4, KERNEL = 64, KERNEL_STOP = 22, COMMS = 64 };

struct table {
    const char *name;
    int (*init)();
    int (*start)(void *, void **, void *);
    int (*stop)(void *);
    int (*record)(void *, int, void *);
    int (*finalize)(void *);
};

static void *library;
static struct table *plugin;
static int api, mask, comms;
static struct {
    void *context;
    uint64_t hash;
    int rank, there;
} comm[COMMS];
static long count_each;
static const char *shared_name = "world";
static char datatype[32] = "ncclBfloat16";

/* As NCCL has it; the plugin asks. */
int ncclGetVersion(int *version)
{
    const char *text = getenv("FAKE_NCCL_VERSION");
    *version = text ? atoi(text) : 0;
    return 0;
}

static void put8(unsigned char *at, size_t offset, int value) { at[offset] = (unsigned char)value; }
static void put32(unsigned char *at, size_t offset, int value) { memcpy(at + offset, &value, 4); }
static void put64(unsigned char *at, size_t offset, uint64_t value) { memcpy(at + offset, &value, 8); }
static void put_text(unsigned char *at, size_t offset, const char *value) { memcpy(at + offset, &value, 8); }

/* Garbage where the interface has padding. */
static void head(unsigned char *event, int type, void *parent, int rank)
{
    memset(event, 0xa5, 160);
    if (api >= 5)
        put64(event, 0, (uint64_t)type);
    else
        put8(event, 0, type);
    memcpy(event + 8, &parent, 8);
    put32(event, 16, rank);
}

static void collective(unsigned char *event, int which, uint64_t sequence, uint64_t elements)
{
    head(event, COLLECTIVE, NULL, comm[which].rank);
    if (api >= 4) {
        put64(event, 24, sequence), put_text(event, 32, "AllReduce"), put64(event, 56, elements), put32(event, 64, 0);
        put_text(event, 72, datatype), put8(event, 80, 16), put_text(event, 88, "RING"), put_text(event, 96, "SIMPLE");
        return;
    }
    put_text(event, 24, shared_name), put64(event, 32, comm[which].hash), put64(event, 40, sequence);
    put64(event, 72, elements), put32(event, 80, 0);
    if (api == 1) {
        put8(event, 48, 4), put8(event, 84, 9), put8(event, 104, 16), put8(event, 106, 1), put8(event, 107, 2);
        return;
    }
    put_text(event, 48, "AllReduce"), put_text(event, 88, datatype);
    put8(event, api == 2 ? 104 : 96, 16);
    put_text(event, api == 2 ? 112 : 104, "RING"), put_text(event, api == 2 ? 120 : 112, "SIMPLE");
}

static void point(unsigned char *event, int which, uint64_t elements, int peer)
{
    head(event, POINT, NULL, comm[which].rank);
    if (api >= 4) {
        put_text(event, 24, "Send"), put_text(event, 40, "ncclFloat32"), put64(event, 48, elements), put32(event, 56, peer);
        put8(event, 60, 2);
        return;
    }
    put_text(event, 24, shared_name), put64(event, 32, comm[which].hash), put64(event, 64, elements), put32(event, 72, peer);
    if (api == 1) {
        put8(event, 40, 6), put8(event, 56, 7);
        return;
    }
    put_text(event, 40, "Send"), put_text(event, 56, "ncclFloat32");
}

static void kernel_channels(int which, void *parent)
{
    for (int channel = 0; channel < 2; channel++) {
        unsigned char event[160];
        uint64_t stopped[8] = {2000 + (uint64_t)channel};
        void *handle = NULL;
        head(event, KERNEL, parent, comm[which].rank);
        put8(event, 24, channel);
        if (api >= 4)
            put64(event, 32, 1000 + (uint64_t)channel);
        plugin->start(comm[which].context, &handle, event);
        if (api >= 4)
            plugin->record(handle, KERNEL_STOP, stopped);
        plugin->stop(handle);
    }
}

/* NCCL tells of the launch before the operations in it, whether the plugin asks for groups or not. */
static void launch(int which)
{
    unsigned char event[160];
    void *handle = NULL;
    head(event, GROUP, NULL, comm[which].rank);
    plugin->start(comm[which].context, &handle, event);
    if (handle)
        plugin->stop(handle);
}

static long enqueue(int which, long count, uint64_t elements, uint64_t sequence, int peer, int type)
{
    unsigned char event[160];
    long taken = 0;
    if (!plugin || !comm[which].there)
        return 0;
    for (long n = 0; n < count; n++) {
        void *handle = NULL;
        if (!(__atomic_load_n(&mask, __ATOMIC_RELAXED) & type))
            continue;
        launch(which);
        if (type == COLLECTIVE)
            collective(event, which, sequence + (uint64_t)n, elements);
        else
            point(event, which, elements, peer);
        plugin->start(comm[which].context, &handle, event);
        if (__atomic_load_n(&mask, __ATOMIC_RELAXED) & KERNEL)
            kernel_channels(which, handle);
        plugin->stop(handle);
        taken += handle != NULL;
    }
    return taken;
}

static void load(void)
{
    library = dlopen(getenv("NCCL_PROFILER_PLUGIN"), RTLD_NOW);
    for (api = atoi(getenv("FAKE_NCCL_API")); library && api && !plugin; api -= !plugin) {
        char name[32];
        snprintf(name, sizeof name, "ncclProfiler_v%d", api);
        plugin = dlsym(library, name);
    }
}

static long create(uint64_t hash, int rank, int ranks, int nodes, const char *name)
{
    int made = comms++;
    if (!library)
        load();
    comm[made].hash = hash;
    comm[made].rank = rank;
    comm[made].there = 1;
    if (!plugin)
        return made;
    if (api >= 5)
        plugin->init(&comm[made].context, hash, &mask, strdup(name), nodes, ranks, rank, (void *)NULL);
    else if (api == 4)
        plugin->init(&comm[made].context, &mask, strdup(name), hash, nodes, ranks, rank, (void *)NULL);
    else
        plugin->init(&comm[made].context, &mask);
    return made;
}

static long destroy(int which)
{
    int left = 0;
    comm[which].there = 0;
    if (plugin)
        plugin->finalize(comm[which].context);
    for (int each = 0; each < comms; each++)
        left += comm[each].there;
    if (left || !library)
        return left;
    plugin = NULL;
    mask = 0;
    dlclose(library);
    library = NULL;
    return 0;
}

static void *thread(void *which) { return (void *)enqueue((int)(intptr_t)which, count_each, 8, 0, 0, COLLECTIVE); }

static long threads(int count, int same)
{
    pthread_t all[COMMS];
    long sum = 0;
    for (int n = 0; n < count; n++)
        pthread_create(&all[n], NULL, thread, (void *)(intptr_t)(same ? 0 : n));
    for (int n = 0; n < count; n++) {
        void *result;
        pthread_join(all[n], &result);
        sum += (long)result;
    }
    return sum;
}

static long cost(long count)
{
    struct timespec before, after;
    unsigned char event[160];
    void *handle;
    collective(event, 0, 0, 1 << 20);
    clock_gettime(CLOCK_MONOTONIC, &before);
    for (long n = 0; n < count; n++) {
        plugin->start(comm[0].context, &handle, event);
        plugin->stop(handle);
    }
    clock_gettime(CLOCK_MONOTONIC, &after);
    return (long)(((after.tv_sec - before.tv_sec) * 1e9 + (after.tv_nsec - before.tv_nsec)) * 100 / count);
}

static long forked(int which)
{
    int status = 0;
    pid_t child = fork();
    if (!child)
        _exit((int)enqueue(which, 1, 8, 99, 0, COLLECTIVE));
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}

static long cuda(void)
{
    void *injection = dlopen(getenv("CUDA_INJECTION64_PATH"), RTLD_NOW);
    int (*initialize)(void) = NULL;
    if (injection)
        *(void **)&initialize = dlsym(injection, "InitializeInjection");
    return initialize ? initialize() : -1;
}

static long obey(const char *line)
{
    char name[256] = "";
    long a = 0, b = 0, c = 0, d = 0;
    if (sscanf(line, "comm %lx %ld %ld %ld %255s", (unsigned long *)&a, &b, &c, &d, name) == 5)
        return create((uint64_t)a, (int)b, (int)c, (int)d, name);
    if (sscanf(line, "coll %ld %ld %ld %ld", &a, &b, &c, &d) == 4)
        return enqueue((int)a, b, (uint64_t)c, (uint64_t)d, 0, COLLECTIVE);
    if (sscanf(line, "p2p %ld %ld %ld %ld", &a, &b, &c, &d) == 4)
        return enqueue((int)a, b, (uint64_t)c, 0, (int)d, POINT);
    if (sscanf(line, "datatype %31s", datatype) == 1)
        return 0;
    if (sscanf(line, "threads %ld", &count_each) == 1)
        return threads(comms, 0);
    if (sscanf(line, "together %ld %ld", &a, &count_each) == 2)
        return threads((int)a, 1);
    if (sscanf(line, "destroy %ld", &a) == 1)
        return destroy((int)a);
    if (sscanf(line, "cost %ld", &a) == 1)
        return cost(a);
    if (sscanf(line, "fork %ld", &a) == 1)
        return forked((int)a);
    if (!strncmp(line, "cuda", 4))
        return cuda();
    return strncmp(line, "mask", 4) ? (plugin ? api : 0) : mask;
}

long fake_nccl(const char *line) { return obey(line); }

int main(void)
{
    char line[1024];
    while (fgets(line, sizeof line, stdin) && strncmp(line, "exit", 4)) {
        printf("%ld\n", obey(line));
        fflush(stdout);
    }
    return 0;
}
