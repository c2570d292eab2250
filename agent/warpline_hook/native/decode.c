/* Reads CUPTI's records, leaves out what cannot be true, and writes the rest to the kernel lane. */
#define _GNU_SOURCE
#include "cupti_abi.h"
#include "shim.h"

#include <string.h>

enum {
    POINTERS = 8192,     /* names by address */
    POINTER_PROBES = 4,  /* places tried for an address */
    NAMES = 16384,       /* names by content */
    PROBES = 16,         /* places tried for a name */
    PUBLISH_EVERY = 256, /* records */
};
#define FUTURE_NS 5000000000ull   /* a clock that was set back a little is no damage */
#define BELIEVED_NS 1000000000ull /* so long an address is believed to stand for the same name */

static struct {
    const char *pointer;
    uint32_t since, name;
} pointers[POINTERS + POINTER_PROBES];
static struct {
    uint64_t hash;
    uint32_t name;
} names[NAMES];
static uint32_t era; /* of belief in addresses */
static uint64_t era_began_ns;
static struct writer writer;
static struct warpline_header *written;
static uint64_t last_end;

static uint64_t mix(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)(a ^ 0x9E3779B97F4A7C15ull) * (b ^ 0xD6E8FEB86659FD93ull);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash(const char *text, size_t length)
{
    uint64_t sum = length + 1, word;
    for (; length >= 8; text += 8, length -= 8) {
        memcpy(&word, text, 8);
        sum = mix(sum, word);
    }
    word = 0;
    memcpy(&word, text, length);
    sum = mix(sum, word);
    return sum ? sum : 1;
}

static uint32_t by_content(const char *text)
{
    size_t length = strnlen(text, WARPLINE_TEXT_BYTES_MAX);
    uint64_t sum = hash(text, length);
    for (int each = 0; each < PROBES; each++) {
        size_t place = (sum + (uint64_t)each) % NAMES;
        if (names[place].hash == sum)
            return names[place].name;
        if (!names[place].hash) {
            uint32_t name = ring_text(TEXT_NAME, text, length);
            if (name) {
                names[place].hash = sum;
                names[place].name = name;
            }
            return name;
        }
    }
    ring_count(COUNT_DROPPED_TEXTS, 1);
    return 0;
}

/* An address may be used again for another name once its module is unloaded, so it is not believed for ever. */
static uint32_t name_of(const char *text)
{
    size_t place = (size_t)mix((uintptr_t)text, 1) % POINTERS, chosen = place;
    if (!text)
        return 0;
    for (size_t each = place; each < place + POINTER_PROBES; each++) {
        if (pointers[each].pointer == text && pointers[each].since == era)
            return pointers[each].name;
        if (pointers[chosen].since == era && pointers[each].since != era)
            chosen = each;
    }
    pointers[chosen].name = by_content(text);
    pointers[chosen].pointer = text;
    pointers[chosen].since = era;
    return pointers[chosen].name;
}

static int plausible(uint64_t start, uint64_t end, uint64_t now, uint32_t graph, struct tally *tally)
{
    if (start && start <= end && end <= now + FUTURE_NS)
        return 1;
    if (start && !end && start <= now + FUTURE_NS) {
        ring_count(COUNT_UNFINISHED, 1);
        return 0;
    }
    tally->invalid++;
    tally->graphs += graph != 0;
    return 0;
}

/* A slot with what all kinds have; NULL where the record is left out or finds no room. */
static struct warpline_record *begin(uint16_t kind, uint64_t start, uint64_t end, uint64_t now, uint32_t graph, struct tally *tally)
{
    struct warpline_record *slot = plausible(start, end, now, graph, tally) ? writer_slot(&writer, start, end) : NULL;
    if (!slot)
        return NULL;
    slot->kind = kind;
    slot->flags = 0;
    slot->start_ns = start;
    slot->duration_ns = end - start;
    slot->value = slot->number = 0;
    slot->name = 0;
    slot->extra = graph;
    return slot;
}

#define BEGIN(kind, record) begin((kind), (record)->start, (record)->end, now, (record)->graph, tally)
#define PLACE(slot, record) \
    ((slot)->device = (record)->device, (slot)->context = (record)->context, (slot)->stream = (record)->stream, \
     (slot)->correlation = (record)->correlation)

static struct warpline_record *kernel(const struct abi_kernel *record, uint64_t now, struct tally *tally)
{
    struct warpline_record *slot = BEGIN(KIND_KERNEL, record);
    if (slot) {
        PLACE(slot, record);
        slot->value = record->graph_node;
        slot->name = name_of(record->name);
    }
    return slot;
}

static struct warpline_record *copy(const struct abi_memcpy *record, uint64_t now, struct tally *tally)
{
    struct warpline_record *slot = BEGIN(KIND_MEMCPY, record);
    if (slot) {
        PLACE(slot, record);
        slot->value = record->bytes;
        slot->flags = record->copy_kind;
    }
    return slot;
}

static struct warpline_record *set(const struct abi_memset *record, uint64_t now, struct tally *tally)
{
    struct warpline_record *slot = BEGIN(KIND_MEMSET, record);
    if (slot) {
        PLACE(slot, record);
        slot->value = record->bytes;
    }
    return slot;
}

static struct warpline_record *graph(const struct abi_graph *record, uint64_t now, struct tally *tally)
{
    struct warpline_record *slot = BEGIN(KIND_GRAPH, record);
    if (slot)
        PLACE(slot, record);
    return slot;
}

/* Bytes that a record of this kind has at least; 0 for a kind that was not asked for. */
static size_t least(uint32_t kind)
{
    return kind == ABI_CONCURRENT_KERNEL ? sizeof(struct abi_kernel) : kind == ABI_MEMCPY ? sizeof(struct abi_memcpy)
         : kind == ABI_MEMSET            ? sizeof(struct abi_memset) : kind == ABI_GRAPH_TRACE ? sizeof(struct abi_graph) : 0;
}

static void one(const void *record, size_t room, uint64_t now, struct tally *tally)
{
    uint32_t kind = *(const uint32_t *)record;
    size_t wanted = least(kind);
    if (!wanted || room < wanted) {
        tally->invalid += wanted != 0;
        ring_count(COUNT_UNKNOWN, wanted == 0);
        return;
    }
    struct warpline_record *slot = kind == ABI_CONCURRENT_KERNEL ? kernel(record, now, tally)
                                 : kind == ABI_MEMCPY            ? copy(record, now, tally)
                                 : kind == ABI_MEMSET            ? set(record, now, tally)
                                                                 : graph(record, now, tally);
    if (!slot)
        return;
    last_end = slot->start_ns + slot->duration_ns;
    writer_commit(&writer, slot);
}

/* The ring of this process; names and places of an older one are of no use in it. */
static int begin_buffer(void)
{
    struct warpline_header *ring = ring_header();
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    if (!era || now - era_began_ns > BELIEVED_NS) {
        era++;
        era_began_ns = now;
    }
    if (ring != written) {
        memset(pointers, 0, sizeof pointers);
        memset(names, 0, sizeof names);
        memset(&writer, 0, sizeof writer);
        written = ring;
    }
    return ring != NULL;
}

void decode(next_record next, uint8_t *buffer, size_t valid, struct tally *tally)
{
    uint64_t now = clock_ns(CLOCK_REALTIME), records = 0, invalid = tally->invalid;
    void *record = NULL;
    uint8_t *before = NULL;
    if (!begin_buffer())
        return;
    while (next(buffer, valid, &record) == ABI_SUCCESS) {
        uint8_t *at = record;
        size_t offset = (size_t)(at - buffer);
        if (at < buffer || offset + 8 > valid || at <= before) { /* it would go on for ever, or beyond the buffer */
            tally->invalid++;
            break;
        }
        before = at;
        one(at, valid - offset, now, tally);
        if (++records % PUBLISH_EVERY == 0)
            writer_publish(&writer);
    }
    writer_publish(&writer);
    tally->records += records;
    ring_count(COUNT_RECORDS, records);
    ring_count(COUNT_INVALID, tally->invalid - invalid);
    store(&written->last_record_ns, last_end);
}
