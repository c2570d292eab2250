/* The little of CUPTI's binary interface that is needed, in our own words, so that no header of NVIDIA's is. The numbers hold
 * for CUPTI 11.8 to 13.x: structures have only grown at their ends. tests/cupti_headers.py compares each with the headers that
 * NVIDIA publishes.
 *
 * How long a record is depends on the libcupti that is loaded: step with cuptiActivityGetNextRecord only. */
#ifndef WARPLINE_CUPTI_ABI_H
#define WARPLINE_CUPTI_ABI_H

#include <stddef.h>
#include <stdint.h>

enum abi_kind { ABI_MEMCPY = 1, ABI_MEMSET = 2, ABI_CONCURRENT_KERNEL = 10, ABI_GRAPH_TRACE = 51 };
enum abi_result { ABI_SUCCESS = 0, ABI_MAX_LIMIT_REACHED = 12, ABI_MULTIPLE_SUBSCRIBERS = 39, ABI_UNKNOWN = 999 };
enum abi_attribute { ABI_DEVICE_BUFFER_POOL_LIMIT = 2, ABI_ZEROED_OUT_ACTIVITY_BUFFER = 5 };
enum abi_flush { ABI_FLUSH_COMPLETED = 0, ABI_FLUSH_FORCED = 1 };
enum { ABI_VERSION_MAY_REFUSE = 27 }; /* from here on (12.9) a request for a buffer may be answered with none */

struct abi_kernel {
    uint32_t kind;
    uint8_t skipped_0[12];
    uint64_t start, end, completed;
    uint32_t device, context, stream;
    uint8_t skipped_1[40];
    uint32_t correlation;
    int64_t grid;
    const char *name;
    uint8_t skipped_2[32];
    uint64_t graph_node;
    uint8_t skipped_3[4];
    uint32_t graph;
};

struct abi_memcpy {
    uint32_t kind;
    uint8_t copy_kind;
    uint8_t skipped_0[3];
    uint64_t bytes, start, end;
    uint32_t device, context, stream, correlation;
    uint8_t skipped_1[16];
    uint64_t graph_node;
    uint32_t graph;
};

struct abi_memset {
    uint32_t kind, value;
    uint64_t bytes, start, end;
    uint32_t device, context, stream, correlation;
    uint8_t skipped_0[16];
    uint64_t graph_node;
    uint32_t graph;
};

struct abi_graph {
    uint32_t kind, correlation;
    uint64_t start, end;
    uint32_t device, graph, context, stream;
};

#endif
