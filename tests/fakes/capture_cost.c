/* What one kernel record costs the native library: buffers of CUPTI records, read again and again while somebody empties the ring.
 *
 * capture_cost RECORD_BYTES NAMES ROUNDS prints nanoseconds a record, once a round: reading with room in the ring, reading with
 * the ring full, and zeroing the buffer for its next use. */
#include "cupti_abi.h"
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_BYTES = 1 << 20, BUFFERS = 8 };

static size_t record_bytes;
static uint8_t *buffers[BUFFERS];

static int next(uint8_t *buffer, size_t valid, void **record)
{
    uint8_t *at = *record ? (uint8_t *)*record + record_bytes : buffer;
    if (at + record_bytes > buffer + valid)
        return ABI_MAX_LIMIT_REACHED;
    *record = at;
    return ABI_SUCCESS;
}

/* Names as long as those of PyTorch's templated kernels. */
static char **make_names(int count)
{
    char **names = calloc((size_t)count, sizeof *names);
    for (int n = 0; n < count; n++) {
        names[n] = malloc(256);
        snprintf(names[n], 256, "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_15CUDAFunctor_addIfEESt5arrayIPcLm%dEEEE%0*d", n,
                 20 + n * 7 % 120, n);
    }
    return names;
}

static void fill(uint8_t *buffer, char **names, int count, uint64_t start)
{
    for (size_t at = 0, n = 0; at + record_bytes <= BUFFER_BYTES; at += record_bytes, n++) {
        struct abi_kernel *kernel = (struct abi_kernel *)(buffer + at);
        kernel->kind = ABI_CONCURRENT_KERNEL;
        kernel->start = start + n * 20000;
        kernel->end = kernel->start + 15000;
        kernel->stream = 7;
        kernel->correlation = (uint32_t)n;
        kernel->name = names[n * 2654435761u % (unsigned)count];
    }
}

static double read_all(int emptied)
{
    struct tally tally = {0};
    struct warpline_lane *lane = &ring_header()->lane[LANE_KERNELS];
    uint64_t before = clock_ns(CLOCK_MONOTONIC);
    for (int each = 0; each < BUFFERS; each++) {
        decode(next, buffers[each], BUFFER_BYTES, &tally);
        if (emptied)
            __atomic_store_n(&lane->tail, lane->head, __ATOMIC_RELEASE);
    }
    return (double)(clock_ns(CLOCK_MONOTONIC) - before) / (double)tally.records;
}

static double zero_all(void)
{
    uint64_t before = clock_ns(CLOCK_MONOTONIC);
    for (int each = 0; each < BUFFERS; each++) {
        memset(buffers[each], 0, BUFFER_BYTES);
        __asm__ volatile("" ::: "memory");
    }
    return (double)(clock_ns(CLOCK_MONOTONIC) - before) / (double)(BUFFERS * (BUFFER_BYTES / record_bytes));
}

int main(int count, char **arguments)
{
    if (count != 4 || !ring_open())
        return 1;
    record_bytes = strtoul(arguments[1], NULL, 10);
    int names_count = atoi(arguments[2]), rounds = atoi(arguments[3]);
    char **names = make_names(names_count);
    for (int each = 0; each < BUFFERS; each++)
        buffers[each] = aligned_alloc(4096, BUFFER_BYTES);
    for (int round = 0; round < rounds; round++) {
        for (int each = 0; each < BUFFERS; each++)
            fill(buffers[each], names, names_count, clock_ns(CLOCK_REALTIME) - 1000000000ull);
        double room = read_all(1);
        while (ring_header()->lane[LANE_KERNELS].head - ring_header()->lane[LANE_KERNELS].tail
               < ring_header()->lane[LANE_KERNELS].capacity)
            read_all(0);
        double full = read_all(0);
        ring_header()->lane[LANE_KERNELS].tail = ring_header()->lane[LANE_KERNELS].head;
        printf("%.2f %.2f %.2f\n", room, full, zero_all());
    }
    return 0;
}
