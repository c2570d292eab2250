/* A program that uses CUDA, without CUDA: one command a line, one answer a line.
 *
 *   cuda                  initialises CUDA, which loads CUDA_INJECTION64_PATH; what InitializeInjection returned, -1 without
 *   threads N LINE        N threads each give LINE to the fake libcupti; the sum of what it says
 *   fork LINE             a child gives LINE to the fake libcupti and ends in order; its exit status
 *   exec                  the same program anew in the same process
 *   step N | profiler N   what the hook for Python tells the native library
 *   exit                  ends in order
 *   quit N | _exit N | signal N    ends by exit(N), by _exit(N), or by a signal to itself
 *   anything else         goes to the fake libcupti, FAKE_CUPTI
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static long (*fake)(const char *);
static void *injection;
static char given[8192];

static long cuda(void)
{
    int (*initialize)(void) = NULL;
    injection = dlopen(getenv("CUDA_INJECTION64_PATH"), RTLD_NOW);
    if (injection)
        *(void **)&initialize = dlsym(injection, "InitializeInjection");
    return initialize ? initialize() : -1;
}

static void *thread(void *unused)
{
    (void)unused;
    return (void *)fake(given);
}

static long threads(int count)
{
    pthread_t all[64];
    long sum = 0;
    for (int n = 0; n < count; n++)
        pthread_create(&all[n], NULL, thread, NULL);
    for (int n = 0; n < count; n++) {
        void *result;
        pthread_join(all[n], &result);
        sum += (long)result;
    }
    return sum;
}

static long forked(void)
{
    int status = 0;
    pid_t child = fork();
    if (!child) {
        fake(given);
        exit(7);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static long hook(const char *name, long value)
{
    void *found = injection ? dlsym(injection, name) : NULL;
    if (!found)
        return -1;
    if (!strcmp(name, "warpline_step"))
        ((void (*)(uint64_t))(uintptr_t)found)((uint64_t)value);
    else
        ((void (*)(int))(uintptr_t)found)((int)value);
    return 0;
}

int main(int count, char **arguments)
{
    char line[8192];
    (void)count;
    void *library = dlopen(getenv("FAKE_CUPTI"), RTLD_NOW | RTLD_GLOBAL);
    if (library)
        *(void **)&fake = dlsym(library, "fake_cupti");
    while (fgets(line, sizeof line, stdin)) {
        long a = 0, answer;
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "cuda"))
            answer = cuda();
        else if (!strcmp(line, "exec")) {
            printf("0\n");
            fflush(stdout);
            answer = execv("/proc/self/exe", arguments);
        }
        else if (!strcmp(line, "exit"))
            break;
        else if (sscanf(line, "quit %ld", &a) == 1)
            exit((int)a);
        else if (sscanf(line, "_exit %ld", &a) == 1)
            _exit((int)a);
        else if (sscanf(line, "signal %ld", &a) == 1)
            answer = raise((int)a);
        else if (sscanf(line, "threads %ld %8191[^\n]", &a, given) == 2)
            answer = threads((int)a);
        else if (sscanf(line, "fork %8191[^\n]", given) == 1)
            answer = forked();
        else if (sscanf(line, "step %ld", &a) == 1)
            answer = hook("warpline_step", a);
        else if (sscanf(line, "profiler %ld", &a) == 1)
            answer = hook("warpline_profiler", a);
        else
            answer = fake ? fake(line) : -1;
        printf("%ld\n", answer);
        fflush(stdout);
    }
    return 0;
}
