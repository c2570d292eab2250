/* An injection of another tool: it takes CUPTI's place for a subscriber, says so in the file FAKE_INJECTION_TOLD, and answers with
 * 0, as one does that has failed. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void callback(void *data, int domain, unsigned id, const void *about) { (void)data, (void)domain, (void)id, (void)about; }

__attribute__((visibility("default"))) int InitializeInjection(void)
{
    static void *subscriber;
    int (*subscribe)(void **, void (*)(void *, int, unsigned, const void *), void *) = NULL;
    void *library = dlopen(getenv("FAKE_CUPTI"), RTLD_NOW);
    *(void **)&subscribe = library ? dlsym(library, "cuptiSubscribe") : NULL;
    int result = subscribe ? subscribe(&subscriber, callback, NULL) : -1;
    FILE *told = fopen(getenv("FAKE_INJECTION_TOLD"), "a");
    if (told) {
        fprintf(told, "%d subscribed %d\n", (int)getpid(), result);
        fclose(told);
    }
    return 0;
}
