/* Loaded into agent or collector by LD_PRELOAD: tells in a shared page how far a write has come, and fails, waits or kills there.
 *
 * The page is a file of its own that outlives the process, so that after a SIGKILL at any moment the last step is known.
 * What the page asks for (a delay before each sync, a disk that is full, an end at the n-th step of a kind) holds at once.
 * Programs that the process starts are not watched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OTHER, LOG, DATABASE, SEGMENT, READERS, SPOOL, CLASSES };
enum { OPEN, WRITE, SYNC, RENAME, UNLINK };

/* Same layout in chaos_probe.py. */
struct page {
    volatile uint64_t step_class, step_operation, step_after, step_ns; /* what was begun or done last, and when */
    volatile uint64_t synced_ns, told_ns;                              /* last sync of the log, last file for readers */
    volatile uint64_t killed_ns;                                       /* when the process ended itself */
    volatile uint64_t sync_delay_ns, write_delay_ns, full;
    volatile uint64_t armed, kill_class, kill_operation, kill_after;
    volatile int64_t kill_countdown;
    volatile uint64_t unsynced; /* writes to the log since its last sync */
};

static struct page *page;
#define FILES_MAX 65536
static unsigned char class_of_file[FILES_MAX];

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void rest(uint64_t ns) {
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (ns && nanosleep(&t, &t) == -1 && errno == EINTR) {}
}

static int class_of(const char *path) {
    if (!path) return OTHER;
    if (strstr(path, "warpline.duckdb.wal")) return LOG;
    if (strstr(path, "warpline.duckdb")) return DATABASE;
    if (strstr(path, "/segments/")) return SEGMENT;
    if (strstr(path, "/hot/") || strstr(path, "catalog.json")) return READERS;
    if (strstr(path, "/spool/") && !strstr(path, "/lock")) return SPOOL;
    return OTHER;
}

static int class_at(int file) { return file >= 0 && file < FILES_MAX ? class_of_file[file] : OTHER; }

static void step(int class, int operation, int after) {
    if (!page || class == OTHER) return;
    page->step_class = (uint64_t)class;
    page->step_operation = (uint64_t)operation;
    page->step_after = (uint64_t)after;
    page->step_ns = now();
    if (class == LOG && operation == WRITE && after) page->unsynced++;
    if (class == LOG && operation == SYNC && after) {
        page->synced_ns = page->step_ns;
        page->unsynced = 0;
    }
    if (class == READERS && operation == RENAME && after) page->told_ns = page->step_ns;
    if (page->armed && page->kill_class == (uint64_t)class && page->kill_operation == (uint64_t)operation &&
        page->kill_after == (uint64_t)after && __atomic_sub_fetch(&page->kill_countdown, 1, __ATOMIC_SEQ_CST) == 0) {
        page->killed_ns = now();
        syscall(SYS_kill, getpid(), SIGKILL);
    }
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("WARPLINE_CHAOS_PAGE");
    int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    unsetenv("LD_PRELOAD");
    unsetenv("WARPLINE_CHAOS_PAGE");
    if (file < 0) return;
    void *found = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (found != MAP_FAILED) page = found;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int opened(int file, const char *path, int flags) {
    if (file >= 0 && file < FILES_MAX) class_of_file[file] = flags & (O_WRONLY | O_RDWR) ? (unsigned char)class_of(path) : OTHER;
    if (flags & (O_WRONLY | O_RDWR)) step(class_at(file), OPEN, 1);
    return file;
}

#define MODE(last) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest_; va_start(rest_, last); mode = va_arg(rest_, mode_t); va_end(rest_); }

int open(const char *path, int flags, ...) { MODE(flags) return opened(REAL(open)(path, flags, mode), path, flags); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(REAL(open64)(path, flags, mode), path, flags); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opened(REAL(openat)(at, path, flags, mode), path, flags); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opened(REAL(openat64)(at, path, flags, mode), path, flags); }

int close(int file) {
    if (file >= 0 && file < FILES_MAX) class_of_file[file] = OTHER;
    return REAL(close)(file);
}

static int refused(int class) {
    if (!page || class == OTHER) return 0;
    if (page->write_delay_ns) rest(page->write_delay_ns);
    if (page->full) errno = ENOSPC;
    return page->full != 0;
}

#define WRITES(file, call) \
    int class = class_at(file); \
    step(class, WRITE, 0); \
    if (refused(class)) return -1; \
    ssize_t done = call; \
    step(class, WRITE, 1); \
    return done;

ssize_t write(int file, const void *data, size_t size) { WRITES(file, REAL(write)(file, data, size)) }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { WRITES(file, REAL(pwrite)(file, data, size, at)) }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) { WRITES(file, REAL(pwrite64)(file, data, size, at)) }
ssize_t writev(int file, const struct iovec *data, int count) { WRITES(file, REAL(writev)(file, data, count)) }

#define SYNCS(file, call) \
    int class = class_at(file); \
    step(class, SYNC, 0); \
    if (page && class != OTHER) rest(page->sync_delay_ns); \
    int done = call; \
    step(class, SYNC, 1); \
    return done;

int fsync(int file) { SYNCS(file, REAL(fsync)(file)) }
int fdatasync(int file) { SYNCS(file, REAL(fdatasync)(file)) }

#define CHANGES(path, operation, call) \
    int class = class_of(path); \
    step(class, operation, 0); \
    int done = call; \
    step(class, operation, 1); \
    return done;

int rename(const char *from, const char *to) { CHANGES(to, RENAME, REAL(rename)(from, to)) }
int renameat(int a, const char *from, int b, const char *to) { CHANGES(to, RENAME, REAL(renameat)(a, from, b, to)) }
int unlink(const char *path) { CHANGES(path, UNLINK, REAL(unlink)(path)) }
int unlinkat(int at, const char *path, int flags) { CHANGES(path, UNLINK, REAL(unlinkat)(at, path, flags)) }
