/* A process that writes to its ring as it is told, one command a line, one answer a line:
 *
 *   open                     1 or 0
 *   put LANE COUNT FIRST     records with number FIRST, FIRST+1, ... ; how many found room
 *   kernels COUNT FIRST      the same through the writer of the kernel lane, in one batch
 *   threads THREADS COUNT    so many threads write so many NCCL records each, number = thread * 2^32 + n; how many found room
 *   communicator HASH RANK RANKS   the number of its text
 *   enqueue START COMMUNICATOR NAME TYPE ELEMENTS SEQUENCE   one collective, texts by their numbers; 1 or 0
 *   run START DURATION NAME  one kernel; 1 or 0
 *   capture START            kernels are captured from then on; 1 or 0
 *   claim                    claims a record of the NCCL lane and never completes it
 *   text KIND TEXT           its number
 *   state CHANNEL STATE WHY  ok
 *   fork                     what `put 2 1 0` gives in a child
 *   exit                     ends in order
 */
#include "shim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct writer kernels;
static long each_thread;

static long put(int lane, long count, uint64_t first)
{
    long done = 0;
    for (long n = 0; n < count; n++) {
        struct warpline_record record = {.kind = KIND_COLLECTIVE, .number = first + (uint64_t)n, .start_ns = first + (uint64_t)n};
        done += ring_put(lane, &record);
    }
    return done;
}

static void *thread(void *number) { return (void *)put(LANE_NCCL, each_thread, (uint64_t)(intptr_t)number << 32); }

static long batch(long count, uint64_t first)
{
    long done = 0;
    for (long n = 0; n < count; n++) {
        uint64_t at = first + (uint64_t)n;
        struct warpline_record *slot = writer_slot(&kernels, at, at + 1);
        if (!slot)
            continue;
        uint32_t commit = slot->commit;
        *slot = (struct warpline_record){.commit = commit, .kind = KIND_KERNEL, .start_ns = at, .duration_ns = 1, .number = at};
        writer_commit(&kernels, slot);
        done++;
    }
    writer_publish(&kernels);
    return done;
}

static long threads(int count)
{
    pthread_t all[64];
    long done = 0;
    for (int n = 0; n < count; n++)
        pthread_create(&all[n], NULL, thread, (void *)(intptr_t)n);
    for (int n = 0; n < count; n++) {
        void *result;
        pthread_join(all[n], &result);
        done += (long)result;
    }
    return done;
}

static long communicator(uint64_t hash, int rank, int ranks)
{
    struct warpline_communicator head = {.hash = hash, .rank = rank, .ranks = ranks, .nodes = 1, .api = 6};
    return ring_text(TEXT_COMMUNICATOR, &head, sizeof head);
}

static long enqueue(const unsigned long *told)
{
    struct warpline_record record = {.kind = KIND_COLLECTIVE, .start_ns = told[0], .extra = (uint32_t)told[1], .name = (uint32_t)told[2],
                                     .context = (uint32_t)told[3], .value = told[4], .number = told[5]};
    return ring_put(LANE_NCCL, &record);
}

static long run(const unsigned long *told)
{
    struct warpline_record *slot = writer_slot(&kernels, told[0], told[0] + told[1]);
    if (!slot)
        return 0;
    uint32_t commit = slot->commit;
    *slot = (struct warpline_record){.commit = commit, .kind = KIND_KERNEL, .start_ns = told[0], .duration_ns = told[1], .name = (uint32_t)told[2]};
    writer_commit(&kernels, slot);
    writer_publish(&kernels);
    return 1;
}

static long capture(uint64_t start_ns)
{
    struct warpline_record record = {.kind = KIND_CAPTURE, .start_ns = start_ns, .value = CAPTURE_KERNELS};
    return ring_put(LANE_EVENTS, &record);
}

static int forked(void)
{
    int status = 0;
    pid_t child = fork();
    if (!child)
        _exit((int)put(LANE_EVENTS, 1, 0));
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}

int main(void)
{
    char line[8192], text[8192];
    while (fgets(line, sizeof line, stdin)) {
        long a = 0, b = 0, c = 0, answer = 0;
        unsigned long told[6];
        if (!strncmp(line, "open", 4))
            answer = ring_open();
        else if (sscanf(line, "put %ld %ld %ld", &a, &b, &c) == 3)
            answer = put((int)a, b, (uint64_t)c);
        else if (sscanf(line, "kernels %ld %ld", &a, &b) == 2)
            answer = batch(a, (uint64_t)b);
        else if (sscanf(line, "communicator %lx %ld %ld", &told[0], &a, &b) == 3)
            answer = communicator(told[0], (int)a, (int)b);
        else if (sscanf(line, "enqueue %lu %lu %lu %lu %lu %lu", told, told + 1, told + 2, told + 3, told + 4, told + 5) == 6)
            answer = enqueue(told);
        else if (sscanf(line, "run %lu %lu %lu", told, told + 1, told + 2) == 3)
            answer = run(told);
        else if (sscanf(line, "threads %ld %ld", &a, &b) == 2)
            each_thread = b, answer = threads((int)a);
        else if (sscanf(line, "capture %lu", told) == 1)
            answer = capture(told[0]);
        else if (!strncmp(line, "claim", 5))
            answer = (long)__atomic_fetch_add(&ring_header()->lane[LANE_NCCL].head, 1, __ATOMIC_RELAXED);
        else if (sscanf(line, "text %ld %8191[^\n]", &a, text) == 2)
            answer = ring_text((int)a, text, strlen(text));
        else if (sscanf(line, "state %ld %ld %8191[^\n]", &a, &b, text) == 3)
            ring_state((int)a, (int)b, text);
        else if (!strncmp(line, "fork", 4))
            answer = forked();
        else if (!strncmp(line, "exit", 4))
            return 0;
        printf("%ld\n", answer);
        fflush(stdout);
    }
    return 0;
}
