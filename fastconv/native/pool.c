/*
 * How a run goes. The items are split into one contiguous share per thread. Each thread works through
 * its own share from the front, in slices that grow from one item until they take milliseconds, then
 * helps with the shares that are left. So neighbouring items stay on one core, a late or slow thread
 * holds nobody up, and no slice takes long unless a single item does.
 *
 * The caller never waits for a worker to wake up: it does all the work itself if none comes in time, and
 * closes the run when nothing is left to hand out. It waits only for slices that are still being done.
 *
 * Measured on 2 cores, 20 ms of work in 200 items, against one fixed share per thread: 0.2 % slower on idle
 * cores, 19 % faster beside a program that keeps one core busy.
 */
#define _GNU_SOURCE
#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CACHE_LINE = 64, TASK_ON_STACK = 1024, SHARES_ON_STACK = 32, WORKER_STACK = 1 << 20 };

static const int64_t US = 1000, MS = 1000000;
#define SLICE_GROWS_BELOW (2 * MS)
#define SLICE_SHRINKS_ABOVE (20 * MS)
#define INTERRUPT_CHECK (50 * MS)
#define WORKER_SPIN (30 * US) /* waking a sleeper takes 5-50 us; layers of a network follow each other sooner */
#define CALLER_SPIN (50 * US)

struct share {
    _Alignas(CACHE_LINE) _Atomic ptrdiff_t next;
    ptrdiff_t end;
};

struct run {
    fc_kernel kernel;
    void *task;
    struct share *shares;
    int share_count;
    _Atomic int stop;
};

struct worker {
    pthread_cond_t wake;
    int asleep;             /* under lock */
    int cpu;                /* where it fell asleep; -1: unknown */
    pid_t id;
#ifdef __linux__
    int nudged;             /* under lock: `allowed` is to be restored */
    cpu_set_t allowed;
#endif
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t done;
    atomic_int busy;         /* somebody's run owns the pool */
    atomic_int forked;
    atomic_uint generation;  /* one more for each run */
    struct run *run;         /* open for joining, under lock */
    int wanted, joined;      /* threads of this run, under lock */
    atomic_int active;       /* workers inside the run; changed under lock */
    atomic_int workers;      /* started; written by the owner of `busy` */
    int asleep;              /* under lock */
    int cores;
    struct worker worker[FC_MAX_THREADS];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 * MS + t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Takes up to `want` items from the front of a share; returns how many. */
static ptrdiff_t take(struct share *share, ptrdiff_t want, int alone, ptrdiff_t *first) {
    ptrdiff_t next = atomic_load_explicit(&share->next, memory_order_relaxed);
    ptrdiff_t count;
    do {
        ptrdiff_t left = share->end - next;
        if (left <= 0) return 0;
        /* Never more than half, if others can help: the last slices are the small ones. */
        ptrdiff_t most = alone ? left : (left + 1) / 2;
        count = want < most ? want : most;
    } while (!atomic_compare_exchange_weak_explicit(&share->next, &next, next + count, memory_order_relaxed,
                                                    memory_order_relaxed));
    *first = next;
    return count;
}

static void work(struct run *run, int index, fc_interrupted interrupted) {
    const int alone = run->share_count == 1;
    ptrdiff_t want = 1, first, count;
    int64_t start = now(), checked = start;
    for (int k = 0; k < run->share_count; k++) {
        struct share *share = &run->shares[(index + k) % run->share_count];
        while (!atomic_load_explicit(&run->stop, memory_order_relaxed) &&
               (count = take(share, want, alone, &first)) > 0) {
            run->kernel(run->task, first, first + count);
            int64_t end = now();
            if (end - start < SLICE_GROWS_BELOW && want <= PTRDIFF_MAX / 2) want *= 2;
            else if (end - start > SLICE_SHRINKS_ABOVE) want = (count + 1) / 2;
            start = end;
            if (interrupted && end - checked > INTERRUPT_CHECK) {
                if (interrupted()) atomic_store(&run->stop, 1);
                start = checked = now();
            }
        }
    }
}

/*
 * A worker that fell asleep on the core where the caller runs now is often woken up on that core, where it
 * waits for the caller's time slice to end: milliseconds, with the other cores idle. So it is kept off
 * that core for the moment of waking up. (Measured on a virtual machine with 2 cores: a run of 1 ms after
 * a pause took 1.01 ms on two threads without this.)
 */
static void nudge(struct worker *worker, int cpu) {
#ifdef __linux__
    if (cpu < 0 || worker->cpu != cpu || cpu >= CPU_SETSIZE) return;
    cpu_set_t others;
    if (sched_getaffinity(worker->id, sizeof others, &others)) return;
    worker->allowed = others;
    CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) > 0) worker->nudged = !sched_setaffinity(worker->id, sizeof others, &others);
#else
    (void)worker, (void)cpu;
#endif
}

static void undo_nudge(struct worker *worker) {
#ifdef __linux__
    if (worker->nudged) sched_setaffinity(0, sizeof worker->allowed, &worker->allowed);
    worker->nudged = 0;
#else
    (void)worker;
#endif
}

static int this_cpu(void) {
#ifdef __linux__
    return sched_getcpu();
#else
    return -1;
#endif
}

static void *worker_main(void *self) {
    struct worker *me = self;
    unsigned seen = 0; /* stale or not: a worker that comes too late finds no run to join */
#ifdef __linux__
    me->id = (pid_t)syscall(SYS_gettid);
#endif
    for (;;) {
        if (atomic_load(&pool.workers) < pool.cores)
            for (int64_t until = now() + WORKER_SPIN; atomic_load(&pool.generation) == seen && now() < until;)
                relax();
        pthread_mutex_lock(&pool.lock);
        while (atomic_load(&pool.generation) == seen) {
            me->cpu = this_cpu();
            me->asleep = 1;
            pool.asleep++;
            pthread_cond_wait(&me->wake, &pool.lock);
            pool.asleep -= me->asleep; /* 0 if the caller woke us: it has counted already */
            me->asleep = 0;
            undo_nudge(me);
        }
        seen = atomic_load(&pool.generation);
        if (pool.run && pool.joined < pool.wanted) {
            struct run *run = pool.run;
            int index = pool.joined++;
            atomic_fetch_add(&pool.active, 1);
            pthread_mutex_unlock(&pool.lock);
            work(run, index, NULL);
            pthread_mutex_lock(&pool.lock);
            if (atomic_fetch_sub(&pool.active, 1) == 1) pthread_cond_signal(&pool.done);
        }
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

/* Called by the owner of `busy`. Fewer workers than asked for is not an error: the caller does the rest. */
static void start_workers(int wanted) {
    if (atomic_load(&pool.workers) >= wanted) return;
    sigset_t all, before;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, WORKER_STACK);
    sigfillset(&all); /* signals are for Python's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int n; (n = atomic_load(&pool.workers)) < wanted; atomic_store(&pool.workers, n + 1)) {
        pthread_t thread;
        struct worker *worker = &pool.worker[n];
        *worker = (struct worker){.wake = PTHREAD_COND_INITIALIZER, .cpu = -1};
        if (pthread_create(&thread, &attributes, worker_main, worker)) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* Wakes so many sleeping workers up; under lock. */
static void wake(int count) {
    int cpu = this_cpu(), workers = atomic_load(&pool.workers);
    for (int n = 0; n < workers && count > 0; n++) {
        struct worker *worker = &pool.worker[n];
        if (!worker->asleep) continue;
        worker->asleep = 0;
        pool.asleep--;
        nudge(worker, cpu);
        pthread_cond_signal(&worker->wake);
        count--;
    }
}

static void run_alone(struct run *run, ptrdiff_t items, fc_interrupted interrupted) {
    struct share share = {.end = items};
    run->shares = &share;
    run->share_count = 1;
    work(run, 0, interrupted);
}

/* Waits for the workers that are inside the run; nobody can join any more. */
static void wait_for_workers(struct run *run, int spin, fc_interrupted interrupted) {
    if (spin)
        for (int64_t until = now() + CALLER_SPIN; atomic_load(&pool.active) > 0 && now() < until;) relax();
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&pool.active) > 0) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += INTERRUPT_CHECK;
        until.tv_sec += until.tv_nsec / (1000 * MS);
        until.tv_nsec %= 1000 * MS;
        if (pthread_cond_timedwait(&pool.done, &pool.lock, &until) == ETIMEDOUT && interrupted &&
            !atomic_load(&run->stop)) {
            pthread_mutex_unlock(&pool.lock);
            if (interrupted()) atomic_store(&run->stop, 1);
            pthread_mutex_lock(&pool.lock);
        }
    }
    pthread_mutex_unlock(&pool.lock);
}

static void run_together(struct run *run, ptrdiff_t items, int threads, struct share *shares,
                         fc_interrupted interrupted) {
    ptrdiff_t each = items / threads, larger = items % threads, next = 0;
    for (int t = 0; t < threads; t++) {
        atomic_init(&shares[t].next, next);
        next += each + (t < larger);
        shares[t].end = next;
    }
    run->shares = shares;
    run->share_count = threads;
    start_workers(threads - 1);

    pthread_mutex_lock(&pool.lock);
    pool.run = run;
    pool.wanted = threads;
    pool.joined = 1;
    atomic_fetch_add(&pool.generation, 1);
    /* Those who are awake look for a run by themselves. */
    wake(threads - 1 - (atomic_load(&pool.workers) - pool.asleep));
    pthread_mutex_unlock(&pool.lock);

    work(run, 0, interrupted);

    pthread_mutex_lock(&pool.lock);
    pool.run = NULL;
    pthread_mutex_unlock(&pool.lock);
    wait_for_workers(run, threads <= pool.cores, interrupted);
}

int fc_run(fc_kernel kernel, const void *task, size_t task_bytes, ptrdiff_t items, int threads,
           fc_interrupted interrupted) {
    if (items <= 0) return FC_DONE;
    _Alignas(CACHE_LINE) char small_task[TASK_ON_STACK];
    struct share few_shares[SHARES_ON_STACK];
    void *large_task = NULL, *many_shares = NULL;
    struct run run = {.kernel = kernel, .task = small_task};

    if (task_bytes > TASK_ON_STACK) {
        if (posix_memalign(&large_task, CACHE_LINE, task_bytes)) return FC_NO_MEMORY;
        run.task = large_task;
    }
    memcpy(run.task, task, task_bytes);
    if (threads > FC_MAX_THREADS) threads = FC_MAX_THREADS;
    if (threads > items) threads = (int)items;
    if (threads > SHARES_ON_STACK && posix_memalign(&many_shares, CACHE_LINE, (size_t)threads * sizeof(struct share)))
        threads = SHARES_ON_STACK;

    int free_pool = 0;
    if (threads > 1 && !atomic_load(&pool.forked) && atomic_compare_exchange_strong(&pool.busy, &free_pool, 1)) {
        run_together(&run, items, threads, many_shares ? many_shares : few_shares, interrupted);
        atomic_store(&pool.busy, 0);
    } else {
        run_alone(&run, items, interrupted);
    }
    free(large_task);
    free(many_shares);
    return atomic_load(&run.stop) ? FC_INTERRUPTED : FC_DONE;
}

int fc_workers(void) { return atomic_load(&pool.workers); }

int fc_forked(void) { return atomic_load(&pool.forked); }

/* The workers stayed in the parent and the lock may be held for ever: a child runs alone from now on. */
static void in_forked_child(void) {
    atomic_store(&pool.forked, 1);
    atomic_store(&pool.workers, 0);
}

int fc_pool_init(void) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    pool.cores = cores > 0 ? (int)cores : 1;
    return pthread_atfork(NULL, NULL, in_forked_child);
}
