/* The little of NCCL's profiler plugin interface that is needed, in our own words: versions 1 to 6, NCCL 2.23 and later.
 *
 * NCCL looks for ncclProfiler_v6 and then down to v1. What the versions share: the descriptor begins with the type of the event,
 * the handle of its parent and the rank; the table holds the same six entries, of which `init` and the types differ. */
#ifndef WARPLINE_NCCL_ABI_H
#define WARPLINE_NCCL_ABI_H

#include <stddef.h>
#include <stdint.h>

enum nccl_event { NCCL_GROUP = 1, NCCL_COLLECTIVE = 2, NCCL_POINT_TO_POINT = 4, NCCL_KERNEL_CHANNEL = 64 };
enum { NCCL_KERNEL_CHANNEL_STOP = 22 }; /* state that brings the GPU's timer at the end of a kernel channel */

struct nccl_event_v1 {
    uint8_t type;
    void *parent;
    int rank;
    union {
        struct {
            const char *name;
            uint64_t hash, sequence;
            uint8_t operation;
            const void *send;
            void *receive;
            size_t count;
            int root;
            uint8_t datatype;
            uint32_t reduction;
            size_t traffic;
            uint8_t channels, warps, algorithm, protocol;
        } collective;
        struct {
            const char *name;
            uint64_t hash;
            uint8_t operation;
            void *buffer;
            uint8_t datatype;
            size_t count;
            int peer;
        } point;
    };
};

struct nccl_event_v2 { /* and v3, up to the data type */
    uint8_t type;
    void *parent;
    int rank;
    union {
        struct {
            const char *name;
            uint64_t hash, sequence;
            const char *operation;
            const void *send;
            void *receive;
            size_t count;
            int root;
            const char *datatype;
            union {
                struct {
                    size_t traffic;
                    uint8_t channels, warps;
                    const char *algorithm, *protocol;
                } v2;
                struct {
                    uint8_t channels, warps;
                    const char *algorithm, *protocol;
                } v3;
            };
        } collective;
        struct {
            const char *name;
            uint64_t hash;
            const char *operation;
            void *buffer;
            const char *datatype;
            size_t count;
            int peer;
        } point;
        struct {
            uint8_t channel; /* v3 */
        } kernel;
    };
};

struct nccl_event_v4 { /* to v6 */
    union {
        uint8_t v4;
        uint64_t v5;
    } type;
    void *parent;
    int rank;
    union {
        struct {
            uint64_t sequence;
            const char *operation;
            const void *send;
            void *receive;
            size_t count;
            int root;
            const char *datatype;
            uint8_t channels, warps;
            const char *algorithm, *protocol;
        } collective;
        struct {
            const char *operation;
            void *buffer;
            const char *datatype;
            size_t count;
            int peer;
            uint8_t channels;
        } point;
        struct {
            uint8_t channel;
            uint64_t timer;
        } kernel;
    };
};

struct nccl_profiler {
    const char *name;
    void *init; /* its type depends on the version */
    int (*start)(void *context, void **handle, void *event);
    int (*stop)(void *handle);
    int (*record)(void *handle, int state, void *arguments);
    int (*finalize)(void *context);
};

#endif
