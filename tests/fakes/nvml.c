/* A stand-in for libnvidia-ml.so.1: a node of up to 16 GPUs that follows a script.
 *
 * The script is a text file named by FAKE_NVML_SCRIPT. It is read again when its size or time of change differs (looked at
 * no more often than every 20 ms), so a change reaches a running process. One statement a line; SEL is a GPU index or `*`:
 *
 *   init ok|driver_not_loaded|no_permission|mismatch|hang
 *   gpus N                          latency on|off
 *   gpu SEL name TEXT               gpu SEL bus HEX             (bus number, the domain is 0)
 *   gpu SEL power WATTS             gpu SEL power square LOW HIGH PERIOD_S
 *   gpu SEL power noise MEAN AMPLITUDE SEED                     (the same three for `util`, percent)
 *   gpu SEL limit WATTS             gpu SEL temperature C       gpu SEL memory_temperature C
 *   gpu SEL sm_clock MHZ            gpu SEL memory_clock MHZ    gpu SEL reasons BITS
 *   gpu SEL memory_used BYTES       gpu SEL processes N         gpu SEL remapped N
 *   gpu SEL process PID BYTES [INSTANCE]                        (one more process, in a MIG instance where named)
 *   gpu SEL many FIRST N                                        (N processes from pid FIRST on, of 1 GiB)
 *   gpu SEL ecc CORRECTED UNCORRECTED
 *   gpu SEL field ID VALUE          gpu SEL per_second ID VALUE (a counter that grows from 0 at the start of the process)
 *   gpu SEL unsupported field ID    gpu SEL unsupported call NAME
 *   gpu SEL denied call NAME        gpu SEL hang call NAME|any
 *   gpu SEL slow call NAME MS       (a call that locks or unlocks has its effect after so long, even if its caller is killed,
 *                                    as one in the kernel does: a process of its own sees to it, and holds the caller's files)
 *   gpu SEL low_power SM BOTH       (watts while the SM clock, and while the memory clock too, is locked to its lowest)
 *   gpu SEL lost                    gpu SEL reset_required
 *   gpu SEL gpm ID VALUE            (offers GPM; without any such line it is not supported)
 *   xid GPU CODE                    (delivered once to each event set that was there before the line was)
 *
 * The energy counter is the integral of the scripted power; idle power may lie below the board's minimum limit.
 *
 * Locked clocks are the machine's, not the process's: they live in the file named by FAKE_NVML_CLOCKS, in which each GPU has six
 * 32-bit integers (SM low, SM high, memory low, memory high, locked how often, unlocked how often; 0 MHz is unlocked).
 */
/* Clocks it offers: SM 210 to 1980 MHz, memory 1593 (SM from 345 MHz) and 2619 MHz.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, TOO_SMALL = 7,
       DRIVER_NOT_LOADED = 9, TIMED_OUT = 10, GPU_IS_LOST = 15, RESET_REQUIRED = 16, MISMATCH = 18 };
enum { GPUS_MAX = 16, NAMES_MAX = 16, FIELDS_MAX = 64, FIELD_IDS = 512, XIDS_MAX = 64, GPMS_MAX = 32, PIDS_MAX = 2048 };
enum { TYPE_DOUBLE = 0, TYPE_UINT = 1, TYPE_ULL = 3 };

typedef int ret_t;
typedef struct { int shape; double a, b, c; } curve_t; /* 0 constant a; 1 square a, b, period c; 2 noise a +- b, seed c */
typedef struct { int id; double value; int grows; } field_t;
typedef struct { int32_t sm[2], memory[2], locked, unlocked; } clocks_t;
enum { SM_LOWEST = 210, SM_LOWEST_AT_LOW_MEMORY = 345, SM_HIGHEST = 1980, MEMORY_LOWEST = 1593, MEMORY_HIGHEST = 2619 };

typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } process_t;

typedef struct gpu {
    process_t process[PIDS_MAX];
    int index, bus, lost, reset, processes, fields, unsupported_calls, denied_calls, hang_calls, slow_calls, gpms;
    char name[96];
    curve_t power, util;
    double limit, temperature, memory_temperature, sm_clock, memory_clock, memory_used, ecc[2], remapped;
    unsigned long long reasons;
    field_t field[FIELDS_MAX];
    struct { int id; double value; } gpm[GPMS_MAX];
    unsigned char field_off[FIELD_IDS];
    char unsupported[NAMES_MAX][64], denied[NAMES_MAX][64], hang[NAMES_MAX][64], slow[NAMES_MAX][64];
    double slow_ms[NAMES_MAX], low_power[2];
} gpu_t;

typedef struct { gpu_t gpu[GPUS_MAX]; int gpus, init, latency, xids; struct { int gpu, code; } xid[XIDS_MAX]; } node_t;
typedef struct { gpu_t *device; unsigned long long types, data; unsigned instance, compute; } event_t;
typedef struct { int seen; } event_set_t;
typedef struct { unsigned id, scope; int64_t at, latency; unsigned type; ret_t ret;
                 union { double d; unsigned u; unsigned long long ull; } value; } value_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static node_t node;
static double energy_mj[GPUS_MAX], energy_at[GPUS_MAX], loaded_at, looked_at;
static struct timespec script_time;
static off_t script_size = -1;
static int references;

static double larger(double a, double b) { return a > b ? a : b; }
static double smaller(double a, double b) { return a < b ? a : b; }
static double rest_of(double a, double period) { return a - period * (double)(long long)(a / period); }

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + t.tv_nsec * 1e-9;
}

static double noise(double seed, int gpu, double when) {
    uint64_t x = (uint64_t)(seed * 1e3) * 0x9E3779B97F4A7C15ull + (uint64_t)gpu * 0xBF58476D1CE4E5B9ull + (uint64_t)(when * 10);
    x ^= x >> 30; x *= 0xBF58476D1CE4E5B9ull; x ^= x >> 27; x *= 0x94D049BB133111EBull; x ^= x >> 31;
    return (double)(x >> 11) / 4503599627370496.0 - 1.0; /* -1 to 1 */
}

static double at(const curve_t *c, int gpu, double when) {
    if (c->shape == 1) return rest_of(when, c->c) < c->c / 2 ? c->a : c->b;
    if (c->shape == 2) return larger(0, c->a + c->b * noise(c->c, gpu, when));
    return c->a;
}

static clocks_t *clocks(const gpu_t *g) {
    static clocks_t own[GPUS_MAX], *shared;
    const char *path = getenv("FAKE_NVML_CLOCKS");
    if (!shared && path) {
        int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file >= 0 && ftruncate(file, sizeof own) == 0) {
            void *at = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            if (at != MAP_FAILED) shared = at;
        }
        if (file >= 0) close(file);
    }
    return (shared ? shared : own) + g->index;
}

static double watts(const gpu_t *g, double when) {
    const clocks_t *c = clocks(g);
    int sm_low = c->sm[1] && c->sm[1] < SM_HIGHEST / 2, memory_low = c->memory[1] && c->memory[1] < MEMORY_HIGHEST;
    if (sm_low && g->low_power[0]) return memory_low ? g->low_power[1] : g->low_power[0];
    return at(&g->power, g->index, when);
}

static void integrate(gpu_t *g, double now) {
    double from = energy_at[g->index], step = larger(0.005, (now - from) / 20000);
    for (double t = from; t < now; t += step) energy_mj[g->index] += watts(g, t) * smaller(step, now - t) * 1e3;
    energy_at[g->index] = now;
}

static void defaults(node_t *n) {
    memset(n, 0, sizeof *n);
    n->gpus = 8;
    for (int i = 0; i < GPUS_MAX; i++) {
        gpu_t *g = &n->gpu[i];
        *g = (gpu_t){.index = i, .bus = 0x0a + 0x0f * i, .limit = 700, .temperature = 35, .memory_temperature = 40,
                     .sm_clock = 1980, .memory_clock = 2619, .memory_used = 1e9, .reasons = 1};
        strcpy(g->name, "NVIDIA H100 80GB HBM3");
        g->power.a = 70;
    }
}

static void curve(curve_t *c, const char *text) {
    *c = (curve_t){0};
    if (sscanf(text, "square %lf %lf %lf", &c->a, &c->b, &c->c) == 3) c->shape = 1;
    else if (sscanf(text, "noise %lf %lf %lf", &c->a, &c->b, &c->c) == 3) c->shape = 2;
    else c->a = atof(text);
}

static void keep(char list[NAMES_MAX][64], int *count, const char *name) {
    if (*count < NAMES_MAX) snprintf(list[(*count)++], 64, "%s", name);
}

static void statement(gpu_t *g, const char *key, const char *rest) {
    int id; double v, w; char name[64];
    unsigned first, n = ~0u;
    unsigned long long bytes;
    if (!strcmp(key, "name")) snprintf(g->name, sizeof g->name, "%s", rest);
    else if (!strcmp(key, "bus")) g->bus = (int)strtol(rest, NULL, 16);
    else if (!strcmp(key, "power")) curve(&g->power, rest);
    else if (!strcmp(key, "util")) curve(&g->util, rest);
    else if (!strcmp(key, "limit")) g->limit = atof(rest);
    else if (!strcmp(key, "temperature")) g->temperature = atof(rest);
    else if (!strcmp(key, "memory_temperature")) g->memory_temperature = atof(rest);
    else if (!strcmp(key, "sm_clock")) g->sm_clock = atof(rest);
    else if (!strcmp(key, "memory_clock")) g->memory_clock = atof(rest);
    else if (!strcmp(key, "reasons")) g->reasons = strtoull(rest, NULL, 0);
    else if (!strcmp(key, "memory_used")) g->memory_used = atof(rest);
    else if (!strcmp(key, "processes"))
        for (int n = atoi(rest); g->processes < n && g->processes < PIDS_MAX;) {
            unsigned pid = 1000 + 100 * (unsigned)g->index + (unsigned)g->processes;
            g->process[g->processes++] = (process_t){pid, 1 << 30, ~0u, ~0u};
        }
    else if (!strcmp(key, "many") && sscanf(rest, "%u %u", &first, &n) == 2)
        for (; n-- && g->processes < PIDS_MAX;) g->process[g->processes++] = (process_t){first++, 1 << 30, ~0u, ~0u};
    else if (!strcmp(key, "process") && sscanf(rest, "%u %llu %u", &first, &bytes, &n) >= 2 && g->processes < PIDS_MAX)
        g->process[g->processes++] = (process_t){first, bytes, n, n == ~0u ? n : 0};
    else if (!strcmp(key, "remapped")) g->remapped = atof(rest);
    else if (!strcmp(key, "lost")) g->lost = 1;
    else if (!strcmp(key, "reset_required")) g->reset = 1;
    else if (!strcmp(key, "ecc") && sscanf(rest, "%lf %lf", &v, &w) == 2) { g->ecc[0] = v; g->ecc[1] = w; }
    else if ((!strcmp(key, "field") || !strcmp(key, "per_second")) && sscanf(rest, "%d %lf", &id, &v) == 2 && g->fields < FIELDS_MAX)
        g->field[g->fields++] = (field_t){id, v, key[0] == 'p'};
    else if (!strcmp(key, "gpm") && sscanf(rest, "%d %lf", &id, &v) == 2 && g->gpms < GPMS_MAX) {
        g->gpm[g->gpms].id = id; g->gpm[g->gpms++].value = v;
    }
    else if (!strcmp(key, "unsupported") && sscanf(rest, "field %d", &id) == 1 && id < FIELD_IDS) g->field_off[id] = 1;
    else if (!strcmp(key, "unsupported") && sscanf(rest, "call %63s", name) == 1) keep(g->unsupported, &g->unsupported_calls, name);
    else if (!strcmp(key, "denied") && sscanf(rest, "call %63s", name) == 1) keep(g->denied, &g->denied_calls, name);
    else if (!strcmp(key, "hang") && sscanf(rest, "call %63s", name) == 1) keep(g->hang, &g->hang_calls, name);
    else if (!strcmp(key, "slow") && sscanf(rest, "call %63s %lf", name, &v) == 2 && g->slow_calls < NAMES_MAX) {
        g->slow_ms[g->slow_calls] = v; keep(g->slow, &g->slow_calls, name);
    }
    else if (!strcmp(key, "low_power") && sscanf(rest, "%lf %lf", &v, &w) == 2) { g->low_power[0] = v; g->low_power[1] = w; }
}

static void line_of(node_t *n, char *line) {
    char selector[16], key[32], word[32]; int used = 0, a, b;
    line[strcspn(line, "\r\n#")] = 0;
    if (sscanf(line, "gpus %d", &a) == 1) n->gpus = a < GPUS_MAX ? a : GPUS_MAX;
    else if (sscanf(line, "latency %31s", word) == 1) n->latency = !strcmp(word, "on");
    else if (sscanf(line, "xid %d %d", &a, &b) == 2 && n->xids < XIDS_MAX) { n->xid[n->xids].gpu = a; n->xid[n->xids++].code = b; }
    else if (sscanf(line, "init %31s", word) == 1)
        n->init = !strcmp(word, "driver_not_loaded") ? DRIVER_NOT_LOADED : !strcmp(word, "no_permission") ? NO_PERMISSION
                : !strcmp(word, "mismatch") ? MISMATCH : !strcmp(word, "hang") ? -1 : OK;
    else if (sscanf(line, "gpu %15s %31s %n", selector, key, &used) >= 2 && used)
        for (int i = 0; i < GPUS_MAX; i++)
            if (selector[0] == '*' || atoi(selector) == i) statement(&n->gpu[i], key, line + used);
}

static void script(void) { /* with the lock held */
    double now = now_s();
    const char *path = getenv("FAKE_NVML_SCRIPT");
    struct stat s = {0};
    if (loaded_at && now - looked_at < 0.02) return;
    looked_at = now;
    if (path && stat(path, &s) == 0) {
        if (loaded_at && s.st_size == script_size && !memcmp(&s.st_mtim, &script_time, sizeof script_time)) return;
    } else if (loaded_at) return;
    for (int i = 0; loaded_at && i < GPUS_MAX; i++) integrate(&node.gpu[i], now);
    node_t fresh;
    defaults(&fresh);
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    while (file && fgets(line, sizeof line, file)) line_of(&fresh, line);
    if (file) fclose(file);
    node = fresh;
    script_size = s.st_size;
    script_time = s.st_mtim;
    if (!loaded_at) /* the counter's start: as if the power had been so since the machine was started */
        for (int i = 0; i < GPUS_MAX; i++) { energy_at[i] = now; energy_mj[i] = node.gpu[i].power.a * now * 1e3; }
    if (!loaded_at) loaded_at = now;
}

static int listed(char list[NAMES_MAX][64], int count, const char *name) {
    for (int i = 0; i < count; i++) if (!strcmp(list[i], name) || !strcmp(list[i], "any")) return 1;
    return 0;
}

static void take(double milliseconds) { /* a sleep is never as short as the short calls are */
    double end = now_s() + milliseconds * 1e-3;
    if (milliseconds >= 1) usleep((useconds_t)(milliseconds * 1e3));
    while (now_s() < end) {}
}
static void hang(void) { for (;;) pause(); }

static double latency_ms(const char *call) { /* medians of a real driver */
    if (strstr(call, "RunningProcesses")) return 4.491;
    if (strstr(call, "FanSpeed")) return 0.137;
    if (strstr(call, "MemoryInfo")) return 0.0116;
    if (strstr(call, "PcieThroughput")) return 20;
    return 0.0025;
}

static ret_t enter(gpu_t *g, const char *call) {
    pthread_mutex_lock(&lock);
    script();
    int known = references > 0;
    int inside = g >= node.gpu && g < node.gpu + GPUS_MAX;
    int hangs = known && inside && listed(g->hang, g->hang_calls, call), slow = node.latency;
    ret_t result = !known ? UNINITIALIZED : !inside ? INVALID : g->lost ? GPU_IS_LOST : g->reset ? RESET_REQUIRED
                 : listed(g->unsupported, g->unsupported_calls, call) ? NOT_SUPPORTED
                 : listed(g->denied, g->denied_calls, call) ? NO_PERMISSION : OK;
    pthread_mutex_unlock(&lock);
    if (hangs) hang();
    if (slow) take(latency_ms(call));
    return result;
}

#define ENTER(g) do { ret_t entered = enter((g), __func__); if (entered) return entered; } while (0)

ret_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    script();
    int init = node.init;
    if (init == OK) references++;
    pthread_mutex_unlock(&lock);
    if (init < 0) hang();
    return init;
}
ret_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
ret_t nvmlInit(void) { return nvmlInitWithFlags(0); }
ret_t nvmlShutdown(void) { if (references > 0) references--; return OK; }

const char *nvmlErrorString(ret_t code) {
    return code == GPU_IS_LOST ? "GPU is lost" : code == NOT_SUPPORTED ? "Not Supported" : code == NO_PERMISSION
         ? "Insufficient Permissions" : code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Unknown Error";
}

static ret_t text(char *to, unsigned size, const char *from) {
    if (strlen(from) >= size) return TOO_SMALL;
    strcpy(to, from);
    return OK;
}
ret_t nvmlSystemGetDriverVersion(char *to, unsigned size) { return text(to, size, "580.65.06"); }
ret_t nvmlSystemGetNVMLVersion(char *to, unsigned size) { return text(to, size, "13.580.65.06"); }
ret_t nvmlSystemGetCudaDriverVersion(int *version) { *version = 13000; return OK; }
ret_t nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return OK; }

ret_t nvmlDeviceGetCount_v2(unsigned *count) {
    pthread_mutex_lock(&lock);
    script();
    *count = (unsigned)node.gpus;
    pthread_mutex_unlock(&lock);
    return references > 0 ? OK : UNINITIALIZED;
}
ret_t nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

ret_t nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu_t **device) {
    if (references <= 0) return UNINITIALIZED;
    if (index >= (unsigned)node.gpus) return INVALID;
    *device = &node.gpu[index];
    ENTER(*device);
    return OK;
}
ret_t nvmlDeviceGetHandleByIndex(unsigned index, gpu_t **device) { return nvmlDeviceGetHandleByIndex_v2(index, device); }

ret_t nvmlDeviceGetName(gpu_t *g, char *to, unsigned size) { ENTER(g); return text(to, size, g->name); }
ret_t nvmlDeviceGetIndex(gpu_t *g, unsigned *index) { ENTER(g); *index = (unsigned)g->index; return OK; }
ret_t nvmlDeviceGetMinorNumber(gpu_t *g, unsigned *index) { ENTER(g); *index = (unsigned)g->index; return OK; }
ret_t nvmlDeviceGetUUID(gpu_t *g, char *to, unsigned size) {
    char uuid[64];
    ENTER(g);
    snprintf(uuid, sizeof uuid, "GPU-%08x-0000-4000-8000-%012x", 0xfa4e0000u + (unsigned)g->index, (unsigned)g->bus);
    return text(to, size, uuid);
}

ret_t nvmlDeviceGetHandleByUUID(const char *uuid, gpu_t **device) {
    unsigned index, bus;
    if (references <= 0) return UNINITIALIZED;
    if (sscanf(uuid, "GPU-fa4e%4x-0000-4000-8000-%12x", &index, &bus) != 2 || index >= (unsigned)node.gpus) return NOT_FOUND;
    *device = &node.gpu[index];
    ENTER(*device);
    return OK;
}

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
ret_t nvmlDeviceGetPciInfo_v3(gpu_t *g, pci_t *pci) {
    ENTER(g);
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned)g->bus;
    pci->id = 0x233010de;
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", g->bus);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", g->bus);
    return OK;
}
typedef struct { char bus_id[16]; unsigned domain, bus, device, id, subsystem, reserved[4]; } old_pci_t;
ret_t nvmlDeviceGetPciInfo_v2(gpu_t *g, old_pci_t *pci) {
    ENTER(g);
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned)g->bus;
    snprintf(pci->bus_id, sizeof pci->bus_id, "0000:%02X:00.0", g->bus);
    return OK;
}
ret_t nvmlDeviceGetPciInfo(gpu_t *g, old_pci_t *pci) { return nvmlDeviceGetPciInfo_v2(g, pci); }

static double power_of(gpu_t *g) { return watts(g, now_s()); }
static double energy_of(gpu_t *g) {
    pthread_mutex_lock(&lock);
    integrate(g, now_s());
    double value = energy_mj[g->index];
    pthread_mutex_unlock(&lock);
    return value;
}

ret_t nvmlDeviceGetPowerUsage(gpu_t *g, unsigned *mw) { ENTER(g); *mw = (unsigned)(power_of(g) * 1e3); return OK; }
ret_t nvmlDeviceGetTotalEnergyConsumption(gpu_t *g, unsigned long long *mj) { ENTER(g); *mj = (unsigned long long)energy_of(g); return OK; }
ret_t nvmlDeviceGetEnforcedPowerLimit(gpu_t *g, unsigned *mw) { ENTER(g); *mw = (unsigned)(g->limit * 1e3); return OK; }
ret_t nvmlDeviceGetPowerManagementLimit(gpu_t *g, unsigned *mw) { ENTER(g); *mw = (unsigned)(g->limit * 1e3); return OK; }
ret_t nvmlDeviceGetPowerManagementLimitConstraints(gpu_t *g, unsigned *low, unsigned *high) { ENTER(g); *low = 200000; *high = 700000; return OK; }
ret_t nvmlDeviceGetTemperature(gpu_t *g, unsigned sensor, unsigned *c) { ENTER(g); (void)sensor; *c = (unsigned)g->temperature; return OK; }
ret_t nvmlDeviceGetClockInfo(gpu_t *g, unsigned type, unsigned *mhz) {
    ENTER(g);
    int locked = type == 2 ? clocks(g)->memory[1] : clocks(g)->sm[1];
    double free_running = type == 2 ? g->memory_clock : g->sm_clock;
    *mhz = (unsigned)(locked ? smaller(locked, free_running) : free_running);
    return OK;
}
ret_t nvmlDeviceGetMaxClockInfo(gpu_t *g, unsigned type, unsigned *mhz) { ENTER(g); *mhz = type == 2 ? MEMORY_HIGHEST : SM_HIGHEST; return OK; }
ret_t nvmlDeviceGetApplicationsClock(gpu_t *g, unsigned type, unsigned *mhz) { ENTER(g); (void)type; (void)mhz; return NOT_SUPPORTED; }

static ret_t listed_clocks(const unsigned *from, unsigned there, unsigned *count, unsigned *to) {
    unsigned room = *count;
    *count = there;
    if (there > room || !to) return TOO_SMALL;
    memcpy(to, from, there * sizeof *to);
    return OK;
}
ret_t nvmlDeviceGetSupportedMemoryClocks(gpu_t *g, unsigned *count, unsigned *mhz) {
    static const unsigned all[] = {MEMORY_HIGHEST, MEMORY_LOWEST};
    ENTER(g);
    return listed_clocks(all, 2, count, mhz);
}
ret_t nvmlDeviceGetSupportedGraphicsClocks(gpu_t *g, unsigned memory, unsigned *count, unsigned *mhz) {
    static const unsigned high[] = {SM_HIGHEST, 1200, SM_LOWEST}, low[] = {1200, SM_LOWEST_AT_LOW_MEMORY};
    ENTER(g);
    if (memory != MEMORY_HIGHEST && memory != MEMORY_LOWEST) return INVALID;
    return memory == MEMORY_HIGHEST ? listed_clocks(high, 3, count, mhz) : listed_clocks(low, 2, count, mhz);
}

static double slowness_ms(const gpu_t *g, const char *call) {
    for (int i = 0; i < g->slow_calls; i++) if (!strcmp(g->slow[i], call)) return g->slow_ms[i];
    return 0;
}

static void change(gpu_t *g, const char *call, int32_t *which, unsigned low, unsigned high) {
    double slowness = slowness_ms(g, call);
    pid_t late = slowness ? fork() : -1;
    if (late > 0) { waitpid(late, NULL, 0); return; }
    if (late == 0) { setsid(); take(slowness); } /* the lock may be anybody's in here */
    else { pthread_mutex_lock(&lock); integrate(g, now_s()); }
    which[0] = (int32_t)low;
    which[1] = (int32_t)high;
    __atomic_add_fetch(high ? &clocks(g)->locked : &clocks(g)->unlocked, 1, __ATOMIC_SEQ_CST);
    if (late == 0) _exit(0);
    pthread_mutex_unlock(&lock);
}
/* A change looks at the script at once: what was said before it holds. */
#define CHANGE(g, which, low, high) do { looked_at = 0; ENTER(g); change(g, __func__, clocks(g)->which, low, high); return OK; } while (0)
ret_t nvmlDeviceSetGpuLockedClocks(gpu_t *g, unsigned low, unsigned high) { CHANGE(g, sm, low, high); }
ret_t nvmlDeviceResetGpuLockedClocks(gpu_t *g) { CHANGE(g, sm, 0, 0); }
ret_t nvmlDeviceSetMemoryLockedClocks(gpu_t *g, unsigned low, unsigned high) { CHANGE(g, memory, low, high); }
ret_t nvmlDeviceResetMemoryLockedClocks(gpu_t *g) { CHANGE(g, memory, 0, 0); }
ret_t nvmlDeviceGetCurrentClocksEventReasons(gpu_t *g, unsigned long long *bits) { ENTER(g); *bits = g->reasons; return OK; }
ret_t nvmlDeviceGetCurrentClocksThrottleReasons(gpu_t *g, unsigned long long *bits) { ENTER(g); *bits = g->reasons; return OK; }
ret_t nvmlDeviceGetPerformanceState(gpu_t *g, unsigned *state) { ENTER(g); *state = 0; return OK; }
ret_t nvmlDeviceGetFanSpeed(gpu_t *g, unsigned *percent) { ENTER(g); (void)percent; return NOT_SUPPORTED; /* no fan on the module */ }
ret_t nvmlDeviceGetCurrPcieLinkGeneration(gpu_t *g, unsigned *value) { ENTER(g); *value = 5; return OK; }
ret_t nvmlDeviceGetCurrPcieLinkWidth(gpu_t *g, unsigned *value) { ENTER(g); *value = 16; return OK; }
ret_t nvmlDeviceGetPcieThroughput(gpu_t *g, unsigned which, unsigned *kib) { ENTER(g); (void)which; *kib = 0; return OK; }
ret_t nvmlDeviceGetMigMode(gpu_t *g, unsigned *current, unsigned *pending) { ENTER(g); *current = *pending = 0; return OK; }

typedef struct { unsigned gpu, memory; } utilization_t;
ret_t nvmlDeviceGetUtilizationRates(gpu_t *g, utilization_t *u) {
    ENTER(g);
    u->gpu = (unsigned)at(&g->util, g->index, now_s());
    u->memory = u->gpu / 2;
    return OK;
}

typedef struct { unsigned long long total, unused, used; } memory_t;
ret_t nvmlDeviceGetMemoryInfo(gpu_t *g, memory_t *m) {
    ENTER(g);
    *m = (memory_t){85899345920ull, 85899345920ull - (unsigned long long)g->memory_used, (unsigned long long)g->memory_used};
    return OK;
}
typedef struct { unsigned version; unsigned long long total, reserved, unused, used; } memory_v2_t;
ret_t nvmlDeviceGetMemoryInfo_v2(gpu_t *g, memory_v2_t *m) {
    ENTER(g);
    *m = (memory_v2_t){m->version, 85899345920ull, 500000000ull, 0, (unsigned long long)g->memory_used};
    return OK;
}

ret_t nvmlDeviceGetTotalEccErrors(gpu_t *g, unsigned kind, unsigned counter, unsigned long long *count) {
    ENTER(g);
    (void)counter;
    *count = (unsigned long long)g->ecc[kind ? 1 : 0];
    return OK;
}
ret_t nvmlDeviceGetRemappedRows(gpu_t *g, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    ENTER(g);
    *corrected = (unsigned)g->remapped;
    *uncorrected = *pending = *failed = 0;
    return OK;
}

static ret_t processes(gpu_t *g, unsigned *count, process_t *list) {
    unsigned there = (unsigned)g->processes, room = *count;
    *count = there;
    if (there > room || (there && !list)) return TOO_SMALL;
    for (unsigned i = 0; i < there; i++) list[i] = g->process[i];
    return OK;
}
ret_t nvmlDeviceGetComputeRunningProcesses_v3(gpu_t *g, unsigned *count, process_t *list) { ENTER(g); return processes(g, count, list); }
ret_t nvmlDeviceGetComputeRunningProcesses_v2(gpu_t *g, unsigned *count, process_t *list) { ENTER(g); return processes(g, count, list); }
ret_t nvmlDeviceGetGraphicsRunningProcesses_v3(gpu_t *g, unsigned *count, process_t *list) { ENTER(g); (void)list; *count = 0; return OK; }
typedef struct { unsigned pid; unsigned long long used; } old_process_t;
ret_t nvmlDeviceGetComputeRunningProcesses(gpu_t *g, unsigned *count, old_process_t *list) {
    ENTER(g);
    unsigned there = (unsigned)g->processes, room = *count;
    *count = there;
    if (there > room || (there && !list)) return TOO_SMALL;
    for (unsigned i = 0; i < there; i++) list[i] = (old_process_t){g->process[i].pid, g->process[i].used};
    return OK;
}

static int known_field(unsigned id) {
    return id == 74 || id == 76 || id == 82 || id == 83 || id == 94 || id == 138 || id == 139 || id == 142 || id == 143
        || id == 38 || id == 45 || id == 52 || id == 59 || id == 169 || (id >= 173 && id <= 183) || id == 185 || id == 186
        || id == 190 || id == 197 || id == 198 || (id >= 269 && id <= 271);
}

static ret_t field_of(gpu_t *g, value_t *v) {
    if (v->id >= FIELD_IDS || g->field_off[v->id]) return NOT_SUPPORTED;
    v->type = TYPE_ULL;
    v->value.ull = 0;
    for (int i = 0; i < g->fields; i++)
        if (g->field[i].id == (int)v->id) {
            v->value.ull = (unsigned long long)(g->field[i].value * (g->field[i].grows ? now_s() - loaded_at : 1));
            return OK;
        }
    if (!known_field(v->id)) return NOT_SUPPORTED;
    if (v->id == 83) v->value.ull = (unsigned long long)energy_of(g);
    if (v->id == 185 || v->id == 186) { v->type = TYPE_UINT; v->value.u = (unsigned)(power_of(g) * 1e3); }
    if (v->id == 190) { v->type = TYPE_UINT; v->value.u = (unsigned)(g->limit * 1e3); }
    if (v->id == 82) { v->type = TYPE_UINT; v->value.u = (unsigned)g->memory_temperature; }
    if (v->id == 142) v->value.ull = (unsigned long long)g->remapped;
    return OK;
}

ret_t nvmlDeviceGetFieldValues(gpu_t *g, int count, value_t *values) {
    ENTER(g);
    for (int i = 0; i < count; i++) {
        values[i].at = (int64_t)(now_s() * 1e6);
        values[i].latency = 0;
        values[i].ret = field_of(g, &values[i]);
    }
    return OK;
}

ret_t nvmlDeviceGetSupportedEventTypes(gpu_t *g, unsigned long long *types) { ENTER(g); *types = 0x1f; return OK; }
ret_t nvmlEventSetCreate(event_set_t **set) {
    *set = calloc(1, sizeof **set);
    pthread_mutex_lock(&lock);
    script();
    (*set)->seen = node.xids;
    pthread_mutex_unlock(&lock);
    return OK;
}
ret_t nvmlEventSetFree(event_set_t *set) { free(set); return OK; }
ret_t nvmlDeviceRegisterEvents(gpu_t *g, unsigned long long types, event_set_t *set) { ENTER(g); (void)types; (void)set; return OK; }
ret_t nvmlEventSetWait_v2(event_set_t *set, event_t *event, unsigned timeout_ms) {
    /* A real one sleeps until there is an event: where costs are measured, looking for it must not be one. */
    for (double end = now_s() + timeout_ms * 1e-3; now_s() < end; take(node.latency ? 500 : 20)) {
        pthread_mutex_lock(&lock);
        script();
        if (set->seen < node.xids) {
            *event = (event_t){&node.gpu[node.xid[set->seen].gpu], 8, (unsigned long long)node.xid[set->seen].code, ~0u, ~0u};
            set->seen++;
            pthread_mutex_unlock(&lock);
            return OK;
        }
        pthread_mutex_unlock(&lock);
    }
    return TIMED_OUT;
}
ret_t nvmlEventSetWait(event_set_t *set, event_t *event, unsigned timeout_ms) { return nvmlEventSetWait_v2(set, event, timeout_ms); }

typedef struct { unsigned version, supported; } gpm_support_t;
typedef struct { gpu_t *gpu; double taken_at; } gpm_sample_t;
typedef struct { unsigned id; ret_t ret; double value; const char *names[3]; } gpm_metric_t;
typedef struct { unsigned version, count; gpm_sample_t *before, *after; gpm_metric_t metric[]; } gpm_get_t;
ret_t nvmlGpmQueryDeviceSupport(gpu_t *g, gpm_support_t *s) { ENTER(g); s->supported = g->gpms > 0; return OK; }
ret_t nvmlGpmSampleAlloc(gpm_sample_t **sample) { *sample = calloc(1, sizeof **sample); return OK; }
ret_t nvmlGpmSampleFree(gpm_sample_t *sample) { free(sample); return OK; }
ret_t nvmlGpmSampleGet(gpu_t *g, gpm_sample_t *sample) {
    ENTER(g);
    if (!g->gpms) return NOT_SUPPORTED;
    *sample = (gpm_sample_t){g, now_s()};
    return OK;
}
ret_t nvmlGpmMetricsGet(gpm_get_t *get) {
    gpu_t *g = get->after->gpu;
    ENTER(g);
    if (get->before->gpu != g || get->after->taken_at <= get->before->taken_at) return INVALID;
    for (unsigned i = 0; i < get->count; i++) {
        get->metric[i].ret = NOT_SUPPORTED;
        for (int j = 0; j < g->gpms; j++)
            if (g->gpm[j].id == (int)get->metric[i].id) { get->metric[i].ret = OK; get->metric[i].value = g->gpm[j].value; }
    }
    return OK;
}
