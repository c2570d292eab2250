/* Prints where everything lies in the ring file, as JSON, for comparison with warpline_hook/ring.py. */
#include "ring.h"

#include <stdio.h>

#define HEADER(field) printf("\"%s\": %zu, ", #field, offsetof(struct warpline_header, field))
#define LANE(field) printf("\"lane.%s\": %zu, ", #field, offsetof(struct warpline_lane, field))
#define RECORD(field) \
    printf("\"record.%s\": [%zu, %zu], ", #field, offsetof(struct warpline_record, field), sizeof((struct warpline_record *)0)->field)
#define COMMUNICATOR(field) printf("\"communicator.%s\": %zu, ", #field, offsetof(struct warpline_communicator, field))
#define MARK(field) printf("\"mark.%s\": %zu, ", #field, offsetof(struct warpline_mark, field))
#define NUMBER(name) printf("\"%s\": %llu, ", #name, (unsigned long long)(name))

int main(void)
{
    printf("{");
    HEADER(magic), HEADER(version), HEADER(header_bytes), HEADER(file_bytes), HEADER(texts_offset), HEADER(texts_bytes);
    HEADER(record_bytes), HEADER(lanes), HEADER(pid), HEADER(uid), HEADER(start_ticks), HEADER(pid_namespace);
    HEADER(created_ns), HEADER(control), HEADER(nccl_control), HEADER(reader_seen_ns), HEADER(heartbeat_ns);
    HEADER(capturing), HEADER(step), HEADER(last_record_ns), HEADER(cupti_version), HEADER(nccl_version);
    HEADER(channel), HEADER(counter), HEADER(lane), HEADER(texts_head), HEADER(mark), HEADER(settled);
    MARK(number), MARK(frame), MARK(told_ns), MARK(whole_ns), MARK(lane);
    LANE(offset), LANE(capacity), LANE(head), LANE(dropped), LANE(tail);
    RECORD(commit), RECORD(kind), RECORD(flags), RECORD(start_ns), RECORD(duration_ns), RECORD(value), RECORD(number);
    RECORD(device), RECORD(context), RECORD(stream), RECORD(correlation), RECORD(name), RECORD(extra);
    COMMUNICATOR(hash), COMMUNICATOR(rank), COMMUNICATOR(ranks), COMMUNICATOR(nodes), COMMUNICATOR(api);
    NUMBER(sizeof(struct warpline_communicator)), NUMBER(WARPLINE_MAGIC), NUMBER(WARPLINE_VERSION);
    NUMBER(WARPLINE_HEADER_BYTES), NUMBER(WARPLINE_RECORD_BYTES), NUMBER(WARPLINE_TEXT_BYTES_MAX);
    NUMBER(sizeof(struct warpline_lane)), NUMBER(sizeof(struct warpline_mark)), NUMBER(LANES), NUMBER(LANE_KERNELS), NUMBER(LANE_NCCL), NUMBER(LANE_EVENTS);
    NUMBER(KIND_KERNEL), NUMBER(KIND_MEMCPY), NUMBER(KIND_MEMSET), NUMBER(KIND_GRAPH), NUMBER(KIND_COLLECTIVE);
    NUMBER(KIND_POINT_TO_POINT), NUMBER(KIND_NCCL_KERNEL), NUMBER(KIND_STATE), NUMBER(KIND_GAP), NUMBER(KIND_CLOCK);
    NUMBER(KIND_CAPTURE), NUMBER(TEXT_NAME), NUMBER(TEXT_COMMUNICATOR), NUMBER(TEXT_ENVIRONMENT);
    NUMBER(CHANNEL_KERNELS), NUMBER(CHANNEL_NCCL), NUMBER(CHANNELS), NUMBER(STATE_NONE), NUMBER(STATE_OK);
    NUMBER(STATE_BUSY), NUMBER(STATE_DENIED), NUMBER(STATE_DEAD), NUMBER(STATE_PAUSED), NUMBER(STATE_ENDED);
    NUMBER(COUNT_RECORDS), NUMBER(COUNT_INVALID), NUMBER(COUNT_UNFINISHED), NUMBER(COUNT_UNKNOWN), NUMBER(COUNT_BUFFERS);
    NUMBER(COUNT_DROPPED_POOL), NUMBER(COUNT_DROPPED_CUPTI), NUMBER(COUNT_DROPPED_TEXTS), NUMBER(COUNT_ZEROED_LATE);
    NUMBER(COUNT_SPILLED), NUMBER(COUNT_FLUSHES), NUMBER(COUNT_NCCL_OPERATIONS), NUMBER(COUNTERS);
    NUMBER(GAP_RING_FULL), NUMBER(GAP_CUPTI_DROPPED), NUMBER(MODE_OFF), NUMBER(MODE_FULL);
    NUMBER(MODE_STEPS), NUMBER(MODE_TIME), NUMBER(MODE_AWAY), NUMBER(CAPTURE_KERNELS), NUMBER(CAPTURE_MEMCPY), NUMBER(CAPTURE_MEMSET);
    NUMBER(CAPTURE_GRAPHS), NUMBER(WARPLINE_UNREAD), NUMBER(WARPLINE_READER_SILENT_SECONDS);
    printf("\"end\": 0}\n");
    return 0;
}
