/* The thread pool: the only code in fastconv that owns threads. Plain C and POSIX, no Python. */
#ifndef FASTCONV_POOL_H
#define FASTCONV_POOL_H

#include <stddef.h>

/* A range function: does the work items [first, last) of `task`. Items are independent of each other. */
typedef void (*fc_kernel)(void *task, ptrdiff_t first, ptrdiff_t last);

/* Asked between slices by the calling thread; non-zero stops the run. */
typedef int (*fc_interrupted)(void);

enum { FC_MAX_THREADS = 256 };
enum fc_result { FC_DONE = 0, FC_INTERRUPTED = -1, FC_NO_MEMORY = -2 };

/*
 * Runs kernel over items [0, items) with up to `threads` threads, the caller among them, and returns
 * when every item is done. `task` is copied to memory aligned to 64 bytes; all threads share the copy.
 * Runs on the caller alone when the pool is busy, when called from within a run, and in a forked child.
 * `interrupted` may be NULL.
 */
int fc_run(fc_kernel kernel, const void *task, size_t task_bytes, ptrdiff_t items, int threads,
           fc_interrupted interrupted);

int fc_workers(void); /* threads that the pool has started so far */
int fc_forked(void);  /* whether this process is a fork of one that had loaded the pool */
int fc_pool_init(void);

#endif
