/* The ring file: what a training process tells the agent, through memory that both map.
 *
 * This is the layout, whole; warpline_hook/ring.py repeats it for Python and a test compares the two byte by byte.
 *
 *   header (4096 bytes) | records of lane 0 | of lane 1 | of lane 2 | texts
 *
 * The process creates the file with all its blocks in place, writes `magic` last, and from then on only stores to memory: it
 * never waits, and what finds no room is dropped and counted. The agent is the only reader; it writes nothing but
 * `control`, `nccl_control`, `reader_seen_ns`, the `tail` of each lane, and its marks. Little endian, all numbers naturally aligned.
 *
 * A lane is a ring of records. `head` counts the records claimed, `tail` those the agent has taken over, both for ever; the
 * record at position p lies in slot p % capacity and is whole once its `commit` is the low 32 bits of p + 1. Records are
 * never overwritten before `tail` has passed them.
 *
 * Texts are a heap that only grows. An entry is a word (low 32 bits its length in bytes plus one, next 16 its kind; written
 * last, so a zero word means "not yet"), its bytes, and zeros up to a multiple of eight. A text is named by the offset of its
 * word divided by eight; 0 names none. */
#ifndef WARPLINE_RING_H
#define WARPLINE_RING_H

#include <stddef.h>
#include <stdint.h>

#define WARPLINE_MAGIC 0x474e495250524157ull /* "WARPRING" */

enum {
    WARPLINE_VERSION = 1,
    WARPLINE_HEADER_BYTES = 4096,
    WARPLINE_RECORD_BYTES = 64,
    WARPLINE_TEXT_BYTES_MAX = 4096, /* a longer text is cut here */
};

enum warpline_lane_name { LANE_KERNELS, LANE_NCCL, LANE_EVENTS, LANES };

enum warpline_kind {
    KIND_KERNEL = 1,     /* value graph node, extra graph, name */
    KIND_MEMCPY = 2,     /* value bytes, flags direction as CUPTI numbers it, extra graph */
    KIND_MEMSET = 3,     /* value bytes, extra graph */
    KIND_GRAPH = 4,      /* one launch of a whole graph; extra graph */
    KIND_COLLECTIVE = 5, /* enqueued at start; duration counts the communicator's launches (0 not told), value
                            elements, number NCCL's sequence number, correlation root, extra communicator,
                            context data type, device algorithm, stream protocol, flags channels, name operation */
    KIND_POINT_TO_POINT = 6, /* the same; correlation peer, number counts on the communicator, no algorithm and protocol */
    KIND_NCCL_KERNEL = 7,    /* one channel of an operation's kernel began (flags 0) or ended (flags 1): start as the host saw it,
                                value the GPU's timer (0 unknown), number the operation's `commit` (0 it was dropped), stream
                                channel */
    KIND_STATE = 8,  /* flags channel, extra its new state, name why */
    KIND_GAP = 9,    /* value records lost between start and start + duration, flags lane, extra cause */
    KIND_CLOCK = 10, /* one moment: start CLOCK_REALTIME, value CLOCK_MONOTONIC_RAW, number CLOCK_BOOTTIME */
    KIND_CAPTURE = 11 /* what is captured was changed from start to start + duration: value is the mask of it since (enum
                         warpline_capture), number `step` below, name why if that is not what was asked for */
};

enum warpline_gap { GAP_RING_FULL = 1, GAP_CUPTI_DROPPED = 2 };

enum warpline_text {
    TEXT_NAME = 1,         /* UTF-8: a kernel, an operation, a reason */
    TEXT_COMMUNICATOR = 2, /* struct warpline_communicator, then its name */
    TEXT_ENVIRONMENT = 3   /* UTF-8: lines NAME=VALUE, of the variables that tell rank and job */
};

enum warpline_channel { CHANNEL_KERNELS, CHANNEL_NCCL, CHANNELS };

enum warpline_state {
    STATE_NONE = 0,   /* nothing has asked for it */
    STATE_OK = 1,
    STATE_BUSY = 2,   /* somebody else holds it */
    STATE_DENIED = 3, /* it does not work here */
    STATE_DEAD = 4,   /* it worked and is given up */
    STATE_PAUSED = 5, /* the user's profiler runs */
    STATE_ENDED = 6   /* the process has ended it in order */
};

enum warpline_counter {
    COUNT_RECORDS,          /* records CUPTI handed over, of any kind */
    COUNT_INVALID,          /* of them with impossible times or sizes */
    COUNT_UNFINISHED,       /* of them that had not ended when the process did */
    COUNT_UNKNOWN,          /* of them of a kind that was not asked for */
    COUNT_BUFFERS,          /* buffers CUPTI handed over */
    COUNT_DROPPED_POOL,     /* buffers CUPTI asked for and did not get */
    COUNT_DROPPED_CUPTI,    /* records CUPTI itself dropped */
    COUNT_DROPPED_TEXTS,    /* texts that found no room */
    COUNT_ZEROED_LATE,      /* buffers that had to be zeroed on the launching thread */
    COUNT_SPILLED,          /* times a buffer beyond those made at the start was needed */
    COUNT_FLUSHES,
    COUNT_NCCL_OPERATIONS,
    COUNTERS
};

/* The control word: what the agent wants captured.
 *   bits 0-7   mode: 0 off, 1 all the time, 2 windows of steps, 3 windows of time, 4 leave CUPTI to a
 *              trace that the agent has asked the process for
 *   bits 8-15  what: enum warpline_capture
 *   bits 16-31 milliseconds between flushes, 0 for the default
 *   bits 32-47 length of a window, in steps or in units of 100 ms
 *   bits 48-62 its period, in the same unit: on while (step or time) % period < length
 *   bit  63    also where no agent reads */
enum warpline_mode { MODE_OFF = 0, MODE_FULL = 1, MODE_STEPS = 2, MODE_TIME = 3, MODE_AWAY = 4 };
enum warpline_capture { CAPTURE_KERNELS = 1, CAPTURE_MEMCPY = 2, CAPTURE_MEMSET = 4, CAPTURE_GRAPHS = 8 };
#define WARPLINE_UNREAD (1ull << 63)

/* The NCCL control word: bits 0-15 event mask beyond collectives and point-to-point (64 opens kernel channels),
 * bits 16-63 CLOCK_REALTIME in milliseconds until which it holds. */

enum { WARPLINE_READER_SILENT_SECONDS = 30 }; /* without word from a reader for so long nothing is captured */

struct warpline_record {
    uint32_t commit;
    uint16_t kind, flags;
    uint64_t start_ns, duration_ns; /* CLOCK_REALTIME */
    uint64_t value, number;
    uint32_t device, context, stream, correlation, name, extra;
};

struct warpline_communicator {
    uint64_t hash;
    int32_t rank, ranks, nodes; /* -1 unknown */
    uint32_t api;               /* version of the plugin interface that told it */
};

struct warpline_lane {
    uint64_t offset, capacity; /* capacity is a power of two */
    uint64_t reserved_0[6];
    uint64_t head, dropped; /* written by the process */
    uint64_t reserved_1[6];
    uint64_t tail; /* written by the agent */
    uint64_t reserved_2[15];
};

/* What is safe with the agent, so that one that is killed leaves to the next neither a gap nor a repetition. Of the first `read`
 * records of a lane `safe` are on disk: all but those that started at `told_ns` or later and wait for their step. A mark holds
 * once the frame it names is written; the agent says so in `settled`, or finds that frame when it is started again. */
struct warpline_mark {
    uint64_t number; /* marks count up from 1; number % 2 is the place of a mark */
    uint64_t frame[2];
    uint64_t told_ns, whole_ns; /* steps since `whole_ns` have been captured without a gap; 0 unknown */
    struct {
        uint64_t read, safe, dropped; /* `dropped`: of the lane's, those that have been told */
    } lane[LANES];
};

struct warpline_header {
    uint64_t magic;
    uint32_t version, header_bytes;
    uint64_t file_bytes;
    uint64_t texts_offset, texts_bytes;
    uint32_t record_bytes, lanes;
    uint32_t pid, uid; /* as the process sees itself */
    uint64_t start_ticks, pid_namespace;
    uint64_t created_ns; /* CLOCK_REALTIME */
    uint64_t reserved_0[6];
    /* 128: written by the agent */
    uint64_t control, nccl_control;
    uint64_t reader_seen_ns; /* CLOCK_MONOTONIC */
    uint64_t reserved_1[5];
    /* 192: written by the process */
    uint64_t heartbeat_ns; /* CLOCK_MONOTONIC, of the flush thread */
    uint64_t capturing;    /* enum warpline_capture, in force now */
    uint64_t step;         /* step that runs, plus one; 0 unknown */
    uint64_t last_record_ns; /* end of the newest kernel, copy or set */
    uint64_t cupti_version, nccl_version;
    uint64_t reserved_2[2];
    /* 256: low 32 bits state, high 32 bits the text that says why */
    uint64_t channel[CHANNELS];
    uint64_t reserved_3[32 - CHANNELS];
    /* 512 */
    uint64_t counter[32];
    uint64_t reserved_4[32];
    /* 1024 */
    struct warpline_lane lane[LANES];
    /* 1792: written by the agent */
    struct warpline_mark mark[2];
    uint64_t settled; /* number of the newest mark that holds */
    uint64_t reserved_5[3];
    /* 2048 */
    uint64_t texts_head; /* bytes of the heap claimed, the word 0 included */
    uint64_t reserved_6[255];
};

_Static_assert(sizeof(struct warpline_record) == WARPLINE_RECORD_BYTES, "a record is one line of the cache");
_Static_assert(sizeof(struct warpline_lane) == 256, "a lane is four lines");
_Static_assert(sizeof(struct warpline_header) == WARPLINE_HEADER_BYTES, "the header is a page");
_Static_assert(offsetof(struct warpline_header, control) == 128, "the agent has a line of its own");
_Static_assert(offsetof(struct warpline_header, counter) == 512, "counters");
_Static_assert(offsetof(struct warpline_header, mark) == 1792, "marks");
_Static_assert(offsetof(struct warpline_header, texts_head) == 2048, "texts");
_Static_assert((int)COUNTERS <= 32, "counters fit");

#endif
