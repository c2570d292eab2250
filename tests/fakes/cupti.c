/* A stand-in for libcupti: buffers, records of any generation's size, one place for a subscriber, and what goes wrong with it.
 *
 * From the environment:
 *   FAKE_CUPTI_RECORD_BYTES  length of a kernel record: 200, 208, 216 or 248 (default 216)
 *   FAKE_CUPTI_VERSION       what cuptiGetVersion says (default 28)
 *   FAKE_CUPTI_FAIL          comma-separated NAME=RESULT of functions that fail, for example cuptiGetVersion=999
 *   FAKE_CUPTI_TAKEN         set: somebody has subscribed already
 *
 * `fake_cupti(line)` is what the program does on its GPU:
 *   kernels COUNT NAME            kernels one after the other, 500 ns each; how many were recorded
 *   graph COUNT NAME              the same, replayed by CUDA graph 7 (or one record a graph where whole graphs are asked for)
 *   ran START_NS NAME DURATION_NS  one kernel, at that time of the real-time clock; whether it was recorded
 *   copies COUNT BYTES            copies from host to device
 *   sets COUNT BYTES
 *   damaged COUNT HOW GRAPH       kernels with impossible times: zero, backwards, future, unfinished
 *   cut                           a record that is cut off by the end of its buffer
 *   stray                         a record of a kind that nobody asked for
 *   rename 0 NAME                 the address of the newest name stands for this one from now on
 *   loop                          the next buffer's records never end
 *   hold N                        1: full buffers wait, and are given back last first; 0: they are given back
 *   enabled                       mask of what is enabled: 1 kernels, 2 copies, 4 sets, 8 graphs
 *   asked | unclean | flushes | registered | outstanding | threads
 *   steal                         another tool registers its callbacks; restores nothing
 * Threads may call it at once; each has a buffer of its own. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OUT __attribute__((visibility("default")))
enum { SUCCESS = 0, INVALID_PARAMETER = 1, LIMIT = 12, TAKEN = 39 };
enum { MEMCPY = 1, MEMSET = 2, KERNEL = 10, GRAPH = 51, STRAY = 5 };
enum { COPY_BYTES = 96, SET_BYTES = 88, GRAPH_BYTES = 48, HELD_MAX = 256, BUFFERS_MAX = 256 };

typedef void (*request_t)(uint8_t **, size_t *, size_t *);
typedef void (*complete_t)(void *, uint32_t, uint8_t *, size_t, size_t);
struct buffer {
    uint8_t *at;
    size_t size, used;
    int busy;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static request_t request;
static complete_t complete;
static int subscribed, enabled[64], holding, looping, zeroed_attribute, registered, flushes;
static long asked, unclean, outstanding;
static size_t dropped;
static struct buffer held[HELD_MAX], open_buffers[BUFFERS_MAX];
static int held_count, open_count;
static __thread struct buffer *mine;
static uint32_t correlation;

static long number(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static int failing(const char *function)
{
    const char *list = getenv("FAKE_CUPTI_FAIL"), *found = list ? strstr(list, function) : NULL;
    return found && found[strlen(function)] == '=' ? atoi(found + strlen(function) + 1) : SUCCESS;
}

static size_t kernel_bytes(void)
{
    static size_t known;
    if (!known)
        known = (size_t)number("FAKE_CUPTI_RECORD_BYTES", 216);
    return known;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

OUT int cuptiGetVersion(uint32_t *version)
{
    *version = (uint32_t)number("FAKE_CUPTI_VERSION", 28);
    return failing("cuptiGetVersion");
}

OUT int cuptiGetResultString(int result, const char **text)
{
    *text = result == TAKEN ? "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED" : "CUPTI_ERROR_UNKNOWN";
    return SUCCESS;
}

OUT int cuptiSubscribe(void **subscriber, void *callback, void *data)
{
    (void)callback, (void)data;
    if (subscribed || getenv("FAKE_CUPTI_TAKEN"))
        return TAKEN;
    subscribed = 1;
    *subscriber = &subscribed;
    return failing("cuptiSubscribe");
}

OUT int cuptiUnsubscribe(void *subscriber)
{
    subscribed = 0;
    return subscriber ? SUCCESS : INVALID_PARAMETER;
}

OUT int cuptiActivitySetAttribute(int attribute, size_t *size, void *value)
{
    if (attribute == 5)
        zeroed_attribute = *size == 1 && *(uint8_t *)value;
    return failing("cuptiActivitySetAttribute");
}

OUT int cuptiActivityRegisterCallbacks(request_t requested, complete_t completed)
{
    request = requested;
    complete = completed;
    registered++;
    return failing("cuptiActivityRegisterCallbacks");
}

OUT int cuptiActivityEnable(int kind)
{
    int failed = failing("cuptiActivityEnable");
    enabled[kind] = !failed;
    return failed;
}

OUT int cuptiActivityDisable(int kind)
{
    enabled[kind] = 0;
    return SUCCESS;
}

static size_t length(const uint8_t *record)
{
    switch (*(const uint32_t *)record) {
    case KERNEL: return kernel_bytes();
    case MEMCPY: return COPY_BYTES;
    case MEMSET: return SET_BYTES;
    case GRAPH: return GRAPH_BYTES;
    case STRAY: return 64;
    default: return 0;
    }
}

OUT int cuptiActivityGetNextRecord(uint8_t *buffer, size_t valid, uint8_t **record)
{
    uint8_t *next = *record ? *record + length(*record) : buffer;
    if (looping && *record) {
        looping = 0;
        return SUCCESS; /* the same record again */
    }
    if (next >= buffer + valid || !length(next))
        return LIMIT;
    *record = next;
    return SUCCESS;
}

OUT int cuptiActivityGetNumDroppedRecords(void *context, uint32_t stream, size_t *count)
{
    (void)context, (void)stream;
    pthread_mutex_lock(&lock);
    *count = dropped;
    dropped = 0;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

static void give_back(struct buffer *buffer)
{
    struct buffer full = *buffer;
    buffer->at = NULL;
    pthread_mutex_lock(&lock);
    int keep = holding && held_count < HELD_MAX;
    if (keep)
        held[held_count++] = full;
    else
        outstanding--;
    complete_t deliver = complete;
    pthread_mutex_unlock(&lock);
    if (!keep)
        deliver(NULL, 0, full.at, full.size, full.used);
}

static void give_back_held(void)
{
    while (held_count) {
        struct buffer last = held[--held_count];
        outstanding--;
        complete(NULL, 0, last.at, last.size, last.used);
    }
}

static int mine_alone(struct buffer *buffer)
{
    int free = 0;
    return __atomic_compare_exchange_n(&buffer->busy, &free, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static void leave(struct buffer *buffer) { __atomic_store_n(&buffer->busy, 0, __ATOMIC_RELEASE); }

OUT int cuptiActivityFlushAll(uint32_t forced)
{
    (void)forced;
    __atomic_fetch_add(&flushes, 1, __ATOMIC_RELAXED);
    for (int each = 0; each < __atomic_load_n(&open_count, __ATOMIC_ACQUIRE); each++) {
        if (!mine_alone(&open_buffers[each]))
            continue;
        if (open_buffers[each].at && open_buffers[each].used)
            give_back(&open_buffers[each]);
        leave(&open_buffers[each]);
    }
    return failing("cuptiActivityFlushAll");
}

static int clean(const uint8_t *at, size_t size)
{
    for (size_t byte = 0; byte < size; byte++)
        if (at[byte])
            return 0;
    return 1;
}

/* Room for a record of `size` in this thread's buffer; NULL: dropped. `busy` keeps the flush away until `done`. */
static uint8_t *room(size_t size)
{
    size_t most;
    if (!mine)
        mine = &open_buffers[__atomic_fetch_add(&open_count, 1, __ATOMIC_ACQ_REL) % BUFFERS_MAX];
    while (!mine_alone(mine))
        continue;
    if (mine->at && mine->used + size > mine->size)
        give_back(mine);
    if (!mine->at) {
        mine->used = mine->size = 0;
        request(&mine->at, &mine->size, &most);
        pthread_mutex_lock(&lock);
        asked++;
        outstanding += mine->at != NULL;
        if (mine->at && zeroed_attribute && getenv("FAKE_CUPTI_CHECK"))
            unclean += !clean(mine->at, mine->size);
        dropped += !mine->at || mine->size < size;
        pthread_mutex_unlock(&lock);
    }
    if (!mine->at || mine->size < size) {
        leave(mine);
        return NULL;
    }
    mine->used += size;
    return mine->at + mine->used - size;
}

static void done(void) { leave(mine); }

static void put32(uint8_t *at, size_t offset, uint32_t value) { memcpy(at + offset, &value, 4); }
static void put64(uint8_t *at, size_t offset, uint64_t value) { memcpy(at + offset, &value, 8); }

static void place(uint8_t *at, size_t offset, size_t correlated)
{
    put32(at, offset, 0);     /* device */
    put32(at, offset + 4, 1); /* context */
    put32(at, offset + 8, 7); /* stream */
    put32(at, correlated, __atomic_add_fetch(&correlation, 1, __ATOMIC_RELAXED));
}

static int kernel(const char *name, uint64_t start, uint64_t end, uint32_t graph)
{
    uint8_t *at = enabled[KERNEL] ? room(kernel_bytes()) : NULL;
    if (!at)
        return 0;
    put64(at, 16, start);
    put64(at, 24, end);
    place(at, 40, 92);
    put64(at, 104, (uint64_t)(uintptr_t)name);
    put64(at, 144, graph ? 0x700000000ull + graph : 0);
    put32(at, 156, graph);
    put32(at, 0, KERNEL);
    done();
    return 1;
}

static int copy_or_set(int kind, uint64_t bytes, uint64_t start)
{
    uint8_t *at = enabled[kind] ? room(kind == MEMCPY ? COPY_BYTES : SET_BYTES) : NULL;
    if (!at)
        return 0;
    at[4] = kind == MEMCPY; /* host to device; or the value that is set */
    put64(at, 8, bytes);
    put64(at, 16, start);
    put64(at, 24, start + 100);
    place(at, 32, 44);
    put32(at, 0, (uint32_t)kind);
    done();
    return 1;
}

static int whole_graph(uint64_t start)
{
    uint8_t *at = enabled[GRAPH] ? room(GRAPH_BYTES) : NULL;
    if (!at)
        return 0;
    put64(at, 8, start);
    put64(at, 16, start + 5000);
    put32(at, 28, 7);
    put32(at, 0, GRAPH);
    done();
    return 1;
}

static struct { char *text; } kept[4096];

static void rename_newest(const char *name)
{
    int newest = 0;
    while (kept[newest + 1].text)
        newest++;
    strcpy(kept[newest].text, name); /* the test takes one that is no longer */
}

static const char *keep(const char *name)
{
    pthread_mutex_lock(&lock);
    int each = 0;
    while (kept[each].text && strcmp(kept[each].text, name))
        each++;
    if (!kept[each].text)
        kept[each].text = strdup(name);
    pthread_mutex_unlock(&lock);
    return kept[each].text;
}

static long kernels(long count, const char *name, uint32_t graph)
{
    const char *kept = keep(name);
    uint64_t start = now_ns();
    long recorded = 0;
    for (long n = 0; n < count; n++)
        recorded += graph && enabled[GRAPH] ? whole_graph(start + (uint64_t)n) : kernel(kept, start + (uint64_t)n, start + (uint64_t)n + 500, graph);
    return recorded;
}

static long damaged(long count, const char *how, uint32_t graph)
{
    uint64_t now = now_ns(), hour = 3600ull * 1000000000;
    long recorded = 0;
    for (long n = 0; n < count; n++)
        recorded += !strcmp(how, "zero")        ? kernel("damaged", 0, 0, graph)
                    : !strcmp(how, "backwards") ? kernel("damaged", now, now - 1, graph)
                    : !strcmp(how, "future")    ? kernel("damaged", now, now + hour, graph)
                                                : kernel("damaged", now, 0, graph);
    return recorded;
}

static long special(const char *what)
{
    if (!strcmp(what, "cut")) {
        uint8_t *at = room(kernel_bytes());
        if (!at)
            return 0;
        put32(at, 0, KERNEL);
        mine->used -= kernel_bytes() - 32;
    } else if (!strcmp(what, "stray")) {
        uint8_t *at = room(64);
        if (!at)
            return 0;
        put32(at, 0, STRAY);
    } else {
        looping = 1;
        return 1;
    }
    done();
    return 1;
}

static void nobody_requested(uint8_t **buffer, size_t *size, size_t *most)
{
    *buffer = calloc(1, 1 << 16);
    *size = 1 << 16;
    *most = 0;
}

static void nobody_completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid)
{
    (void)context, (void)stream, (void)size, (void)valid, (void)buffer; /* like a tool that does not know whose buffer it is */
}

OUT long fake_cupti(const char *line)
{
    char word[64] = "", name[4200] = "";
    long a = 0, b = 0;
    sscanf(line, "%63s %ld %4199s %ld", word, &a, name, &b);
    if (!strcmp(word, "kernels") || !strcmp(word, "graph"))
        return kernels(a, name, word[0] == 'g' ? 7 : 0);
    if (!strcmp(word, "ran"))
        return kernel(keep(name), (uint64_t)a, (uint64_t)(a + b), 0);
    if (!strcmp(word, "damaged"))
        return damaged(a, name, (uint32_t)b);
    if (!strcmp(word, "copies") || !strcmp(word, "sets")) {
        long recorded = 0;
        for (long n = 0; n < a; n++)
            recorded += copy_or_set(word[0] == 'c' ? MEMCPY : MEMSET, strtoull(name, NULL, 10), now_ns());
        return recorded;
    }
    if (!strcmp(word, "hold")) {
        holding = (int)a;
        if (!a)
            give_back_held();
        return held_count;
    }
    if (!strcmp(word, "rename")) {
        rename_newest(name);
        return 0;
    }
    if (!strcmp(word, "steal"))
        return cuptiActivityRegisterCallbacks(nobody_requested, nobody_completed);
    if (!strcmp(word, "enabled"))
        return enabled[KERNEL] | enabled[MEMCPY] << 1 | enabled[MEMSET] << 2 | enabled[GRAPH] << 3;
    if (!strcmp(word, "threads"))
        return open_count;
    const struct { const char *word; long value; } told[] = {{"asked", asked}, {"unclean", unclean}, {"flushes", flushes},
        {"registered", registered}, {"outstanding", outstanding}, {"subscribed", subscribed}};
    for (size_t each = 0; each < sizeof told / sizeof *told; each++)
        if (!strcmp(word, told[each].word))
            return told[each].value;
    return special(word);
}
