/* Many threads start runs of all sizes at once; built with a sanitizer by test_threads.py. */
#include "pool.h"
#include "slots.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { ITEMS = 256, CALLERS = 6, RUNS = 2000, THREADS = 5 };

struct task {
    struct fc_slots slots;
    int *counts, *scratch; /* one int of scratch for each slot */
};

static atomic_int wrong;

static void count(void *task, ptrdiff_t first, ptrdiff_t last) {
    struct task *t = task;
    int slot = fc_take_slot(&t->slots);
    t->scratch[slot] = (int)first; /* a race, if another call had the same slot */
    for (ptrdiff_t i = first; i < last; i++) t->counts[i]++;
    wrong |= t->scratch[slot] != (int)first;
    fc_give_slot(&t->slots, slot);
}

static void *caller(void *number) {
    unsigned random = (unsigned)(size_t)number;
    for (int run = 0; run < RUNS; run++) {
        int counts[ITEMS] = {0}, scratch[THREADS] = {0};
        struct task task = {.counts = counts, .scratch = scratch};
        random = random * 1664525 + 1013904223;
        int items = random >> 16 & (ITEMS - 1), threads = 1 + (random >> 8) % THREADS;
        fc_run(count, &task, sizeof task, items, threads, NULL);
        for (int i = 0; i < ITEMS; i++) wrong |= counts[i] != (i < items);
        if (run % 500 == 0) usleep(1000); /* the workers fall asleep */
    }
    return NULL;
}

int main(void) {
    pthread_t callers[CALLERS];
    if (fc_pool_init()) return 2;
    for (size_t i = 0; i < CALLERS; i++) pthread_create(&callers[i], NULL, caller, (void *)i);
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    caller((void *)99);
    printf("wrong %d workers %d\n", wrong, fc_workers());
    return wrong;
}
