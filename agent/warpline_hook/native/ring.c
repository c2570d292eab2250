/* Makes the ring file of this process and writes to it. */
#define _GNU_SOURCE
#include "shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static struct warpline_header *_Atomic header;
static int gave_up;
static char path[4096];

/* The sizes this process believes in: those in the file can be changed by others. */
static struct {
    struct warpline_record *records;
    uint64_t mask;
} lanes[LANES];
static unsigned char *texts;

struct warpline_header *ring_header(void) { return atomic_load_explicit(&header, memory_order_acquire); }

static uint64_t start_ticks(const char *pid)
{
    char text[1024], where[64];
    snprintf(where, sizeof where, "/proc/%s/stat", pid);
    int file = open(where, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    if (length <= 0)
        return 0;
    text[length] = 0;
    char *at = strrchr(text, ')'); /* the name before it may hold anything */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

static uint64_t pid_namespace(void)
{
    struct stat found;
    return stat("/proc/self/ns/pid", &found) ? 0 : (uint64_t)found.st_ino;
}

/* Whether a ring whose process is gone was left behind: by its agent long ago, or never looked at by one. */
static int left_behind(int folder, const char *name)
{
    struct warpline_header old;
    struct stat about;
    int file = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0)
        return 0;
    ssize_t length = fstat(file, &about) || !S_ISREG(about.st_mode) ? 0 : pread(file, &old, 192, 0);
    close(file);
    uint64_t long_ns = LEFT_SECONDS * 1000000000ull, now = clock_ns(CLOCK_MONOTONIC);
    if (length == 192 && old.reader_seen_ns && now > old.reader_seen_ns)
        return now - old.reader_seen_ns > long_ns;
    return clock_ns(CLOCK_REALTIME) / 1000000000 > (uint64_t)about.st_mtime + LEFT_SECONDS;
}

/* Memory is scarce: take away what processes of this pid namespace that are gone have left. */
static void sweep(const char *folder)
{
    DIR *names = opendir(folder);
    struct dirent *each;
    for (int looked = 0; names && looked < LEFT_FILES && (each = readdir(names));) {
        unsigned long long namespace, pid, ticks;
        char end[8], number[24];
        if (sscanf(each->d_name, "warpline-%llu-%llu-%llu.%7s", &namespace, &pid, &ticks, end) != 4 || strcmp(end, "ring")
            || namespace != pid_namespace())
            continue;
        looked++;
        snprintf(number, sizeof number, "%llu", pid);
        if (start_ticks(number) != ticks && left_behind(dirfd(names), each->d_name))
            unlinkat(dirfd(names), each->d_name, 0);
    }
    if (names)
        closedir(names);
}

static uint64_t sizes(uint64_t kernels, uint64_t capacity[LANES], uint64_t texts_bytes)
{
    capacity[LANE_KERNELS] = kernels;
    capacity[LANE_NCCL] = kernels < NCCL_RECORDS ? kernels : NCCL_RECORDS;
    capacity[LANE_EVENTS] = EVENT_RECORDS;
    uint64_t records = capacity[LANE_KERNELS] + capacity[LANE_NCCL] + capacity[LANE_EVENTS];
    return WARPLINE_HEADER_BYTES + records * WARPLINE_RECORD_BYTES + texts_bytes;
}

/* Records of the kernel lane that the folder has room for; 0 if it has too little even for the smallest ring. */
static uint64_t fitting(const char *folder, uint64_t capacity[LANES])
{
    const char *wish = getenv("WARPLINE_RING_RECORDS");
    uint64_t wanted = wish ? strtoull(wish, NULL, 10) : RECORDS_DEFAULT, kernels = RECORDS_MIN;
    while (kernels < wanted && kernels < RECORDS_MAX)
        kernels *= 2;
    struct statvfs space;
    if (statvfs(folder, &space))
        return 0;
    uint64_t share = (uint64_t)space.f_bavail * space.f_frsize / SHARE_OF_FREE_SPACE;
    while (sizes(kernels, capacity, TEXTS_BYTES) > share) {
        if (kernels == RECORDS_MIN)
            return 0;
        kernels /= 2;
    }
    return kernels;
}

static void describe(struct warpline_header *made, uint64_t bytes, const uint64_t capacity[LANES], uint64_t texts_bytes)
{
    uint64_t offset = WARPLINE_HEADER_BYTES;
    made->version = WARPLINE_VERSION;
    made->header_bytes = WARPLINE_HEADER_BYTES;
    made->file_bytes = bytes;
    made->record_bytes = WARPLINE_RECORD_BYTES;
    made->lanes = LANES;
    made->pid = (uint32_t)getpid();
    made->uid = (uint32_t)getuid();
    made->start_ticks = start_ticks("self");
    made->pid_namespace = pid_namespace();
    made->created_ns = clock_ns(CLOCK_REALTIME);
    for (int lane = 0; lane < LANES; lane++) {
        made->lane[lane].offset = offset;
        made->lane[lane].capacity = capacity[lane];
        lanes[lane].records = (struct warpline_record *)((char *)made + offset);
        lanes[lane].mask = capacity[lane] - 1;
        offset += capacity[lane] * WARPLINE_RECORD_BYTES;
    }
    made->texts_offset = offset;
    made->texts_bytes = texts_bytes;
    made->texts_head = 8;
    texts = (unsigned char *)made + offset;
    const char *control = getenv("WARPLINE_CONTROL");
    made->control = control ? strtoull(control, NULL, 0) : 0;
}

/* Let the group named in the environment read and write; one that is not known or not ours is passed over. The name is looked
 * up in the file alone: asking the system's name service could reach out to the network. */
static void share(int file)
{
    const char *group = getenv("WARPLINE_GROUP");
    FILE *groups = group && *group ? fopen("/etc/group", "re") : NULL;
    size_t length = groups ? strlen(group) : 0;
    char line[1024];
    while (groups && fgets(line, sizeof line, groups)) {
        char *number = strncmp(line, group, length) || line[length] != ':' ? NULL : strchr(line + length + 1, ':');
        if (number && !fchown(file, (uid_t)-1, (gid_t)strtoul(number + 1, NULL, 10)))
            fchmod(file, 0660);
    }
    if (groups)
        fclose(groups);
}

/* A file of `bytes` with all its blocks in place, mapped; NULL with errno. Without the blocks a full file system would end
 * this process with SIGBUS at some later store. */
static struct warpline_header *make(const char *folder, uint64_t bytes)
{
    snprintf(path, sizeof path, "%s/warpline-%llu-%d-%llu.ring", folder, (unsigned long long)pid_namespace(), (int)getpid(),
             (unsigned long long)start_ticks("self"));
    int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
    int file = open(path, flags, 0600);
    if (file < 0 && errno == EEXIST && !unlink(path)) /* of the program this process was before it called exec */
        file = open(path, flags, 0600);
    if (file < 0)
        return NULL;
    share(file);
    int failed = posix_fallocate(file, 0, (off_t)bytes);
    void *made = failed ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    if (!failed && made == MAP_FAILED)
        failed = errno;
    close(file);
    if (failed) {
        unlink(path);
        errno = failed;
        return NULL;
    }
    return made;
}

static void environment(void)
{
    static const char *const names[] = {
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID",
        "SLURM_JOB_NAME", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_STEP_ID", "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_RANK", "PMI_SIZE", "CUDA_VISIBLE_DEVICES", "WARPLINE_JOB",
    };
    char lines[2048];
    size_t length = 0;
    for (size_t each = 0; each < sizeof names / sizeof *names; each++) {
        const char *value = getenv(names[each]);
        if (value && length + strlen(names[each]) + strlen(value) + 2 < sizeof lines)
            length += (size_t)sprintf(lines + length, "%s=%s\n", names[each], value);
    }
    if (length)
        ring_text(TEXT_ENVIRONMENT, lines, length);
}

static void forked(void)
{
    /* The child has this process's memory, but neither its threads nor its place in the ring. */
    atomic_store(&header, NULL);
    gave_up = 0;
    pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    opening = fresh;
}

static void close_ring(void);

static int open_ring(void)
{
    static int watched;
    const char *folder = getenv("WARPLINE_DIRECTORY");
    uint64_t capacity[LANES], texts_bytes = TEXTS_BYTES;
    if (!folder || !*folder)
        folder = "/dev/shm";
    sweep(folder);
    uint64_t kernels = fitting(folder, capacity), bytes = sizes(kernels, capacity, TEXTS_BYTES);
    struct warpline_header *made = kernels ? make(folder, bytes) : NULL;
    if (!made) { /* a page to say why, if there is room for that */
        memset(capacity, 0, sizeof capacity);
        texts_bytes = 0;
        made = make(folder, bytes = WARPLINE_HEADER_BYTES);
        if (!made)
            return 0;
    }
    describe(made, bytes, capacity, texts_bytes);
    __atomic_store_n(&made->magic, WARPLINE_MAGIC, __ATOMIC_RELEASE);
    if (!texts_bytes) {
        for (int channel = 0; channel < CHANNELS; channel++)
            made->channel[channel] = STATE_DENIED;
        munmap(made, bytes);
        return 0;
    }
    if (!watched) {
        pthread_atfork(NULL, NULL, forked);
        atexit(close_ring);
        watched = 1;
    }
    atomic_store_explicit(&header, made, memory_order_release);
    environment();
    return 1;
}

int ring_open(void)
{
    if (ring_header())
        return 1;
    pthread_mutex_lock(&opening);
    int there = ring_header() || (!gave_up && open_ring());
    gave_up = !there;
    pthread_mutex_unlock(&opening);
    return there;
}

int ring_put(int lane, struct warpline_record *record)
{
    struct warpline_header *ring = ring_header();
    if (!ring)
        return 0;
    struct warpline_lane *shared = &ring->lane[lane];
    uint64_t mask = lanes[lane].mask, position = load(&shared->head);
    do {
        if (position - __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE) > mask) {
            __atomic_fetch_add(&shared->dropped, 1, __ATOMIC_RELAXED);
            return 0;
        }
    } while (!__atomic_compare_exchange_n(&shared->head, &position, position + 1, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    struct warpline_record *slot = &lanes[lane].records[position & mask];
    memcpy((char *)slot + sizeof slot->commit, (char *)record + sizeof slot->commit, sizeof *slot - sizeof slot->commit);
    record->commit = (uint32_t)(position + 1);
    __atomic_store_n(&slot->commit, record->commit, __ATOMIC_RELEASE);
    return 1;
}

static struct warpline_record *claim(struct writer *w, struct warpline_lane *shared)
{
    uint64_t mask = lanes[LANE_KERNELS].mask;
    if (w->head - w->tail > mask) {
        w->tail = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);
        if (w->head - w->tail > mask)
            return NULL;
    }
    return &lanes[LANE_KERNELS].records[w->head & mask];
}

static void tell_gap(struct writer *w, struct warpline_record *slot)
{
    struct warpline_record gap = {.commit = slot->commit, .kind = KIND_GAP, .flags = LANE_KERNELS, .extra = GAP_RING_FULL,
                                  .start_ns = w->gap_start_ns, .duration_ns = w->gap_end_ns - w->gap_start_ns,
                                  .value = w->gap_records};
    *slot = gap;
    writer_commit(w, slot);
    w->gap_records = 0;
}

struct warpline_record *writer_slot(struct writer *w, uint64_t start_ns, uint64_t end_ns)
{
    struct warpline_lane *shared = &ring_header()->lane[LANE_KERNELS];
    struct warpline_record *slot = claim(w, shared);
    if (slot && w->gap_records) {
        tell_gap(w, slot);
        slot = claim(w, shared);
    }
    if (slot)
        return slot;
    if (!w->gap_records++) {
        w->gap_start_ns = start_ns;
        w->gap_end_ns = end_ns;
    }
    if (start_ns < w->gap_start_ns)
        w->gap_start_ns = start_ns;
    if (end_ns > w->gap_end_ns)
        w->gap_end_ns = end_ns;
    store(&shared->dropped, shared->dropped + 1);
    return NULL;
}

void writer_commit(struct writer *w, struct warpline_record *slot)
{
    __atomic_store_n(&slot->commit, (uint32_t)++w->head, __ATOMIC_RELEASE);
}

void writer_publish(struct writer *w) { __atomic_store_n(&ring_header()->lane[LANE_KERNELS].head, w->head, __ATOMIC_RELEASE); }

uint32_t ring_text(int kind, const void *bytes, size_t length)
{
    struct warpline_header *ring = ring_header();
    if (!ring)
        return 0;
    if (length > WARPLINE_TEXT_BYTES_MAX)
        length = WARPLINE_TEXT_BYTES_MAX;
    uint64_t room = 8 + ((length + 7) & ~7ull), at = load(&ring->texts_head);
    do {
        if (at < 8 || at > TEXTS_BYTES || room > TEXTS_BYTES - at) {
            ring_count(COUNT_DROPPED_TEXTS, 1);
            return 0;
        }
    } while (!__atomic_compare_exchange_n(&ring->texts_head, &at, at + room, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    at &= ~7ull;
    memcpy(texts + at + 8, bytes, length);
    __atomic_store_n((uint64_t *)(texts + at), (uint64_t)kind << 32 | (uint32_t)(length + 1), __ATOMIC_RELEASE);
    return (uint32_t)(at / 8);
}

void ring_count(int counter, uint64_t by)
{
    struct warpline_header *ring = ring_header();
    if (ring)
        __atomic_fetch_add(&ring->counter[counter], by, __ATOMIC_RELAXED);
}

void ring_state(int channel, int state, const char *why)
{
    struct warpline_header *ring = ring_header();
    if (!ring || (uint32_t)load(&ring->channel[channel]) == (uint32_t)state)
        return;
    uint32_t reason = why ? ring_text(TEXT_NAME, why, strlen(why)) : 0;
    struct warpline_record told = {.kind = KIND_STATE, .flags = (uint16_t)channel, .extra = (uint32_t)state, .name = reason,
                                   .start_ns = clock_ns(CLOCK_REALTIME)};
    store(&ring->channel[channel], (uint64_t)reason << 32 | (uint32_t)state);
    ring_put(LANE_EVENTS, &told);
}

/* The process ends in order. */
static void close_ring(void)
{
    struct warpline_header *ring = ring_header();
    if (!ring)
        return;
    for (int channel = 0; channel < CHANNELS; channel++)
        if ((uint32_t)load(&ring->channel[channel]) == STATE_OK || (uint32_t)load(&ring->channel[channel]) == STATE_PAUSED)
            ring_state(channel, STATE_ENDED, NULL);
    if (!load(&ring->reader_seen_ns))
        unlink(path); /* nobody has ever looked, nobody would clean up */
}
