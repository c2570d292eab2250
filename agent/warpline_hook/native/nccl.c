/* The NCCL profiler plugin: one record for each collective and point-to-point operation, in the order in which NCCL enqueues them.
 *
 * NCCL tells when an operation is enqueued, not when it is done: that is seen in the kernels. On request, and for a while, the
 * kernel channels are recorded too. A handle is no pointer but what a later event needs to know, so nothing is kept. */
#define _GNU_SOURCE
#include "nccl_abi.h"
#include "shim.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    USUAL = NCCL_COLLECTIVE | NCCL_POINT_TO_POINT,
    KNOWN_TEXTS = 16, /* operations, types, algorithms and protocols of one communicator */
    KNOWN_CHARS = 24,
    COSTLY_VERSION = 23100, /* kernel channels cost 4 to 13 % from here on */
    HANDLE_KERNEL = 1,
};

struct communicator {
    uint64_t hash;
    uint32_t text;
    uint32_t api;
    int rank;
    atomic_flag naming;
    _Atomic uint64_t points;
    _Atomic uint64_t launches; /* NCCL tells a group before the operations that one kernel does, whatever the mask */
    int known;
    struct {
        const char *pointer;
        uint32_t text;
        char copy[KNOWN_CHARS];
    } texts[KNOWN_TEXTS];
};

static int *mask; /* NCCL reads it anew for each event */
static _Atomic uint64_t obeyed;
static _Atomic uint32_t newest_api;

static uint32_t add_text(const char *text) { return ring_text(TEXT_NAME, text, strnlen(text, WARPLINE_TEXT_BYTES_MAX)); }

/* NCCL's names are constants, so the address finds them; the copy is compared in case they are not. */
static uint32_t text_of(struct communicator *c, const char *text)
{
    if (!text)
        return 0;
    for (int each = 0; each < c->known; each++)
        if (c->texts[each].pointer == text && !strncmp(c->texts[each].copy, text, KNOWN_CHARS - 1))
            return c->texts[each].text;
    uint32_t number = add_text(text);
    if (c->known < KNOWN_TEXTS && number) {
        c->texts[c->known].pointer = text;
        c->texts[c->known].text = number;
        strncpy(c->texts[c->known].copy, text, KNOWN_CHARS - 1);
        c->known++;
    }
    return number;
}

static void describe(struct communicator *c, uint64_t hash, int rank, int ranks, int nodes, const char *name)
{
    struct {
        struct warpline_communicator head;
        char name[256];
    } told = {.head = {.hash = hash, .rank = rank, .ranks = ranks, .nodes = nodes, .api = c->api}};
    size_t length = name ? strnlen(name, sizeof told.name) : 0;
    if (length)
        memcpy(told.name, name, length);
    c->hash = hash;
    c->rank = rank;
    c->text = ring_text(TEXT_COMMUNICATOR, &told, offsetof(__typeof__(told), name) + length);
}

static uint64_t nccl_version(void)
{
    int (*get)(int *) = NULL, version = 0;
    void *library = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_NOLOAD);
    void *found = dlsym(library ? library : RTLD_DEFAULT, "ncclGetVersion");
    memcpy(&get, &found, sizeof found);
    return get && !get(&version) && version > 0 ? (uint64_t)version : 0;
}

/* Kernel channels may be opened where they are known to be cheap. */
static int may_widen(struct warpline_header *ring)
{
    uint64_t version = load(&ring->nccl_version), api = atomic_load(&newest_api);
    return api >= 3 && (version ? version < COSTLY_VERSION : api < 6);
}

static void tell_denied(uint64_t now)
{
    static const char why[] = "kernel channels stay closed: they cost too much with this NCCL";
    struct warpline_record told = {.kind = KIND_STATE, .flags = CHANNEL_NCCL, .extra = STATE_OK, .start_ns = now,
                                   .name = add_text(why)};
    ring_put(LANE_EVENTS, &told);
}

/* What the agent asks for beyond the usual, and for how long. */
static void obey(struct warpline_header *ring, uint64_t now)
{
    uint64_t control = load(&ring->nccl_control), until_ms = control >> 16, was = atomic_load(&obeyed);
    uint64_t wish = now / 1000000 < until_ms ? control : 0;
    if (wish == was || !mask || !atomic_compare_exchange_strong(&obeyed, &was, wish))
        return;
    int more = (int)(wish & NCCL_KERNEL_CHANNEL);
    if (more && !may_widen(ring)) {
        tell_denied(now);
        more = 0;
    }
    __atomic_store_n(mask, USUAL | more, __ATOMIC_RELAXED);
}

/* CUDA has room for one injection as well. */
static void tell_of_injection(void)
{
    const char *named = other_tool("CUDA_INJECTION64_PATH");
    char why[512];
    snprintf(why, sizeof why, "CUDA has room for one injection, and CUDA_INJECTION64_PATH names %s", named ? named : "");
    if (named)
        ring_state(CHANNEL_KERNELS, STATE_BUSY, why);
}

static struct communicator *begin(void **context, int *event_mask, uint32_t api)
{
    struct communicator *made = ring_open() ? calloc(1, sizeof *made) : NULL;
    *context = made;
    __atomic_store_n(event_mask, made ? USUAL : 0, __ATOMIC_RELAXED);
    if (!made)
        return NULL;
    made->api = api;
    atomic_flag_clear(&made->naming);
    mask = event_mask;
    atomic_store(&obeyed, 0);
    atomic_store(&newest_api, api);
    store(&ring_header()->nccl_version, nccl_version());
    ring_state(CHANNEL_NCCL, STATE_OK, NULL);
    tell_of_injection();
    return made;
}

static int init_v1(void **context, int *event_mask)
{
    begin(context, event_mask, 1);
    return 0;
}

static int init_v2(void **context, int *event_mask)
{
    begin(context, event_mask, 2);
    return 0;
}

static int init_v3(void **context, int *event_mask)
{
    begin(context, event_mask, 3);
    return 0;
}

static int init_v4(void **context, int *event_mask, const char *name, uint64_t hash, int nodes, int ranks, int rank, void *log)
{
    struct communicator *c = begin(context, event_mask, 4);
    (void)log;
    if (c)
        describe(c, hash, rank, ranks, nodes, name);
    return 0;
}

static int init_v5(void **context, uint64_t hash, int *event_mask, const char *name, int nodes, int ranks, int rank, void *log)
{
    struct communicator *c = begin(context, event_mask, 5);
    (void)log;
    if (c)
        describe(c, hash, rank, ranks, nodes, name);
    return 0;
}

static int init_v6(void **context, uint64_t hash, int *event_mask, const char *name, int nodes, int ranks, int rank, void *log)
{
    struct communicator *c = begin(context, event_mask, 6);
    (void)log;
    if (c)
        describe(c, hash, rank, ranks, nodes, name);
    return 0;
}

/* What all versions say of an operation. */
struct operation {
    int kind, rank, other, channels;
    uint64_t hash, sequence, count;
    const char *communicator, *name, *datatype, *algorithm, *protocol;
};

static void put(struct communicator *c, void **handle, const struct operation *o)
{
    struct warpline_header *ring = ring_header();
    uint64_t now = clock_ns(CLOCK_REALTIME);
    if (!ring)
        return;
    obey(ring, now);
    struct warpline_record told = {.kind = (uint16_t)o->kind, .flags = (uint16_t)o->channels, .start_ns = now, .value = o->count,
                                   .number = o->sequence, .correlation = (uint32_t)o->other};
    told.duration_ns = atomic_load_explicit(&c->launches, memory_order_relaxed);
    if (!atomic_flag_test_and_set_explicit(&c->naming, memory_order_acquire)) {
        if (c->api < 4 && (!c->text || c->hash != o->hash))
            describe(c, o->hash, o->rank, -1, -1, o->communicator);
        told.name = text_of(c, o->name);
        told.context = text_of(c, o->datatype);
        told.device = text_of(c, o->algorithm);
        told.stream = text_of(c, o->protocol);
        atomic_flag_clear_explicit(&c->naming, memory_order_release);
    } else { /* two threads at one communicator: no time for more than the name */
        told.name = add_text(o->name ? o->name : "");
    }
    told.extra = c->text;
    ring_count(COUNT_NCCL_OPERATIONS, 1);
    if (ring_put(LANE_NCCL, &told))
        *handle = (void *)((uintptr_t)told.commit << 16);
}

/* The operation's number, the channel, and what the handle is of, in one word. */
static void *kernel_handle(void *parent, uint8_t channel)
{
    return (void *)(((uintptr_t)parent & ~(uintptr_t)0xffff) | (uintptr_t)channel << 8 | HANDLE_KERNEL);
}

static void put_kernel(uintptr_t handle, uint16_t ended, uint64_t timer)
{
    struct warpline_record told = {.kind = KIND_NCCL_KERNEL, .flags = ended, .start_ns = clock_ns(CLOCK_REALTIME), .value = timer,
                                   .number = handle >> 16, .stream = handle >> 8 & 0xff};
    if (ring_header())
        ring_put(LANE_NCCL, &told);
}

static const char *of(const char *const *names, size_t count, size_t which) { return which < count ? names[which] : NULL; }

#define OF(names, which) of((names), sizeof(names) / sizeof *(names), (which))

static int start_v1(void *context, void **handle, void *event)
{
    static const char *const operations[] = {"Broadcast", "Reduce", "AllGather", "ReduceScatter", "AllReduce", "SendRecv", "Send",
                                             "Recv"};
    static const char *const datatypes[] = {"ncclInt8", "ncclUint8", "ncclInt32", "ncclUint32", "ncclInt64", "ncclUint64",
                                            "ncclFloat16", "ncclFloat32", "ncclFloat64", "ncclBfloat16", "ncclFloat8e4m3",
                                            "ncclFloat8e5m2"};
    static const char *const algorithms[] = {"TREE", "RING", "COLLNET_DIRECT", "COLLNET_CHAIN", "NVLS", "NVLS_TREE", "PAT"};
    static const char *const protocols[] = {"LL", "LL128", "SIMPLE"};
    const struct nccl_event_v1 *e = event;
    struct communicator *c = context;
    *handle = NULL;
    if (!c)
        return 0;
    if (e->type == NCCL_COLLECTIVE)
        put(c, handle, &(struct operation){
            .kind = KIND_COLLECTIVE, .rank = e->rank, .other = e->collective.root, .channels = e->collective.channels,
            .hash = e->collective.hash, .sequence = e->collective.sequence, .count = e->collective.count,
            .communicator = e->collective.name, .name = OF(operations, e->collective.operation),
            .datatype = OF(datatypes, e->collective.datatype), .algorithm = OF(algorithms, e->collective.algorithm),
            .protocol = OF(protocols, e->collective.protocol)});
    else if (e->type == NCCL_GROUP)
        atomic_fetch_add_explicit(&c->launches, 1, memory_order_relaxed);
    else if (e->type == NCCL_POINT_TO_POINT)
        put(c, handle, &(struct operation){
            .kind = KIND_POINT_TO_POINT, .rank = e->rank, .other = e->point.peer, .hash = e->point.hash,
            .sequence = atomic_fetch_add(&c->points, 1), .count = e->point.count, .communicator = e->point.name,
            .name = OF(operations, e->point.operation), .datatype = OF(datatypes, e->point.datatype)});
    return 0;
}

static int start_v2(void *context, void **handle, void *event)
{
    const struct nccl_event_v2 *e = event;
    struct communicator *c = context;
    int third = c && c->api == 3;
    *handle = NULL;
    if (!c)
        return 0;
    if (e->type == NCCL_COLLECTIVE)
        put(c, handle, &(struct operation){
            .kind = KIND_COLLECTIVE, .rank = e->rank, .other = e->collective.root,
            .channels = third ? e->collective.v3.channels : e->collective.v2.channels, .hash = e->collective.hash,
            .sequence = e->collective.sequence, .count = e->collective.count, .communicator = e->collective.name,
            .name = e->collective.operation, .datatype = e->collective.datatype,
            .algorithm = third ? e->collective.v3.algorithm : e->collective.v2.algorithm,
            .protocol = third ? e->collective.v3.protocol : e->collective.v2.protocol});
    else if (e->type == NCCL_GROUP)
        atomic_fetch_add_explicit(&c->launches, 1, memory_order_relaxed);
    else if (e->type == NCCL_POINT_TO_POINT)
        put(c, handle, &(struct operation){
            .kind = KIND_POINT_TO_POINT, .rank = e->rank, .other = e->point.peer, .hash = e->point.hash,
            .sequence = atomic_fetch_add(&c->points, 1), .count = e->point.count, .communicator = e->point.name,
            .name = e->point.operation, .datatype = e->point.datatype});
    else if (third && e->type == NCCL_KERNEL_CHANNEL)
        put_kernel((uintptr_t)(*handle = kernel_handle(e->parent, e->kernel.channel)), 0, 0);
    return 0;
}

static int start_v4(void *context, void **handle, void *event)
{
    const struct nccl_event_v4 *e = event;
    struct communicator *c = context;
    *handle = NULL;
    if (!c)
        return 0;
    uint64_t type = c->api == 4 ? e->type.v4 : e->type.v5;
    if (type == NCCL_COLLECTIVE)
        put(c, handle, &(struct operation){
            .kind = KIND_COLLECTIVE, .rank = c->rank, .other = e->collective.root, .channels = e->collective.channels,
            .sequence = e->collective.sequence, .count = e->collective.count, .name = e->collective.operation,
            .datatype = e->collective.datatype, .algorithm = e->collective.algorithm, .protocol = e->collective.protocol});
    else if (type == NCCL_GROUP)
        atomic_fetch_add_explicit(&c->launches, 1, memory_order_relaxed);
    else if (type == NCCL_POINT_TO_POINT)
        put(c, handle, &(struct operation){
            .kind = KIND_POINT_TO_POINT, .rank = c->rank, .other = e->point.peer, .channels = e->point.channels,
            .sequence = atomic_fetch_add(&c->points, 1), .count = e->point.count, .name = e->point.operation,
            .datatype = e->point.datatype});
    else if (type == NCCL_KERNEL_CHANNEL)
        put_kernel((uintptr_t)(*handle = kernel_handle(e->parent, e->kernel.channel)), 0, e->kernel.timer);
    return 0;
}

/* A collective stops when it is enqueued, which says nothing; a kernel channel of interface 3 brings no timer. */
static int stop(void *handle)
{
    (void)handle;
    return 0;
}

static int stop_v3(void *handle)
{
    if (((uintptr_t)handle & 0xff) == HANDLE_KERNEL)
        put_kernel((uintptr_t)handle, 1, 0);
    return 0;
}

static int record_v1(void *handle, int state, void *arguments)
{
    (void)handle, (void)state, (void)arguments;
    return 0;
}

static int record_v4(void *handle, int state, void *arguments)
{
    if (state == NCCL_KERNEL_CHANNEL_STOP && ((uintptr_t)handle & 0xff) == HANDLE_KERNEL)
        put_kernel((uintptr_t)handle, 1, arguments ? *(const uint64_t *)arguments : 0);
    return 0;
}

static int finalize(void *context)
{
    free(context);
    return 0;
}

PUBLIC struct nccl_profiler ncclProfiler_v1 = {"warpline", init_v1, start_v1, stop, record_v1, finalize};
PUBLIC struct nccl_profiler ncclProfiler_v2 = {"warpline", init_v2, start_v2, stop, record_v1, finalize};
PUBLIC struct nccl_profiler ncclProfiler_v3 = {"warpline", init_v3, start_v2, stop_v3, record_v1, finalize};
PUBLIC struct nccl_profiler ncclProfiler_v4 = {"warpline", init_v4, start_v4, stop, record_v4, finalize};
PUBLIC struct nccl_profiler ncclProfiler_v5 = {"warpline", init_v5, start_v4, stop, record_v4, finalize};
PUBLIC struct nccl_profiler ncclProfiler_v6 = {"warpline", init_v6, start_v4, stop, record_v4, finalize};
