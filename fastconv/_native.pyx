"""The baseline unit: the thread pool, memory of results, questions to the CPU, and kernels that test the pool.

Compiled for the oldest CPU of the architecture, so that it can be imported anywhere and asked what the
rest may run.
"""

import os
import threading

import numpy

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t

cdef extern from "Python.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "Python.h":
    int PyErr_CheckSignals()

cdef extern from "pool.h" nogil:
    ctypedef void (*fc_kernel)(void *task, ptrdiff_t first, ptrdiff_t last)
    ctypedef int (*fc_interrupted)()
    int FC_DONE, FC_NO_MEMORY
    int FC_MAX_THREADS
    # FC_INTERRUPTED is -1: the exception that the signal handler raised is then set.
    int fc_run(fc_kernel kernel, const void *task, size_t task_bytes, ptrdiff_t items, int threads,
               fc_interrupted interrupted) except -1
    int fc_workers()
    int fc_forked()
    int fc_pool_init()

cdef extern from "results.h" nogil:
    size_t fc_results_kept()
    void fc_results_release()

cdef extern from *:
    """
    #define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
    #define NPY_TARGET_VERSION NPY_1_22_API_VERSION
    #include <numpy/arrayobject.h>
    #include "results.h"

    static PyDataMem_Handler result_handler = {
        "fastconv", 1, {NULL, fc_result_malloc, fc_result_calloc, fc_result_realloc, fc_result_free}};
    """
    ctypedef struct PyDataMem_Handler:
        pass
    PyDataMem_Handler result_handler
    object PyDataMem_SetHandler(object handler)
    int _import_array() except -1

cdef extern from "cpu.h" nogil:
    int fc_x86_level()
    void fc_cpu_name(char *name)

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>

    static void test_nothing(void *task, ptrdiff_t first, ptrdiff_t last) {
        (void)task, (void)first, (void)last;
    }

    /* Adds one to the count of every item. */
    struct test_count { int64_t *counts; };
    static void test_count(void *task, ptrdiff_t first, ptrdiff_t last) {
        struct test_count *t = task;
        for (ptrdiff_t i = first; i < last; i++) t->counts[i]++;
    }

    static int64_t test_clock(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }

    /* Keeps a core busy for so many nanoseconds an item, and counts the item. */
    struct test_spin { int64_t *counts; int64_t nanoseconds; };
    static void test_spin(void *task, ptrdiff_t first, ptrdiff_t last) {
        struct test_spin *t = task;
        for (ptrdiff_t i = first; i < last; i++) {
            int64_t until = test_clock() + t->nanoseconds;
            while (test_clock() < until) {}
            t->counts[i]++;
        }
    }

    /* Writes where the task lies and the sum of its numbers: alignment and copy, seen from inside. */
    struct test_task { int64_t *seen; int64_t length, numbers[]; };
    static void test_task(void *task, ptrdiff_t first, ptrdiff_t last) {
        struct test_task *t = task;
        for (ptrdiff_t i = first; i < last; i++) {
            int64_t sum = 0;
            for (int64_t n = 0; n < t->length; n++) sum += t->numbers[n];
            t->seen[2 * i] = (int64_t)(intptr_t)task;
            t->seen[2 * i + 1] = sum;
        }
    }
    """
    fc_kernel test_nothing, test_count, test_spin, test_task


MAX_THREADS = FC_MAX_THREADS

# Range kernels for tests and for timing the pool itself: name -> address. Task layouts are in the C
# above: pointers and int64 alone.
TEST_KERNELS = {
    "nothing": <size_t>test_nothing,
    "count": <size_t>test_count,
    "spin": <size_t>test_spin,
    "task": <size_t>test_task,
}

cdef unsigned long main_thread = threading.main_thread().ident


def _in_forked_child():
    global main_thread
    main_thread = threading.get_ident()


os.register_at_fork(after_in_child=_in_forked_child)
_import_array()
cdef object result_memory = PyCapsule_New(&result_handler, b"mem_handler", NULL)
if fc_pool_init():
    raise ImportError("pthread_atfork failed")


cdef int interrupted() noexcept with gil:
    return PyErr_CheckSignals()


def run(size_t kernel, bytes task not None, Py_ssize_t items, int threads):
    """Run the range kernel at address `kernel` over `items` work items; see `fastconv.threads.run`."""
    if kernel == 0:
        raise ValueError("kernel is a null pointer")
    if items < 0:
        raise ValueError(f"items must be at least 0, got {items}")
    cdef const char *data = task
    cdef size_t size = len(task)
    # Signals concern the main thread alone; another one has no reason to wait for the GIL meanwhile.
    cdef fc_interrupted check = NULL
    if PyThread_get_thread_ident() == main_thread:
        check = interrupted
    cdef int result
    with nogil:
        result = fc_run(<fc_kernel>kernel, data, size, items, threads, check)
    if result == FC_NO_MEMORY:
        raise MemoryError(f"no memory for a task of {size} bytes")


def empty(shape, dtype):
    """An uninitialised array on a cache line, the memory of which is kept for the next one when it is freed."""
    before = PyDataMem_SetHandler(result_memory)
    try:
        return numpy.empty(shape, dtype)
    finally:
        PyDataMem_SetHandler(before)


def kept_bytes():
    """Bytes kept for the next results."""
    return fc_results_kept()


def release():
    """Give them back to the system."""
    fc_results_release()


def workers():
    """Return how many threads the pool has started."""
    return fc_workers()


def forked():
    """Tell whether this process is the fork of one that had imported this module."""
    return bool(fc_forked())


def x86_level():
    """Return the x86-64 level, 1 to 4, that this CPU and operating system run; 0 on other machines."""
    return fc_x86_level()


def cpu_name():
    """Return the name by which the CPU calls itself; "" where it has none."""
    cdef char[49] name
    fc_cpu_name(name)
    return (<bytes>(<char *>name)).decode("ascii", "replace").strip()
