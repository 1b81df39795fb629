"""The only owner of threads: one pool for compiled kernels, one door to Numba's, one limit for BLAS.

Work items depend on the shape of a problem alone, never on the number of threads, and are independent
of each other; so a result has the same bits for every number of threads.

A run is serial on the calling thread when one thread is asked for, when another run owns the pool (a
second Python thread, a nested call), and in a forked child, whose copy of the pool has no threads.
"""

from __future__ import annotations

import operator
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any

from fastconv.errors import shown
from fastconv.machine import usable_cores

try:
    from fastconv import _native
except ImportError as error:
    _native = None  # type: ignore[assignment]
    _unavailable: str | None = f"the compiled thread pool cannot be imported: {error}"
else:
    _unavailable = None

_setting: int | None = None
_forked = False


def unavailable() -> str | None:
    """Return why `run` cannot work on this installation, or None if it can."""
    return _unavailable


# -- The setting of the process ---------------------------------------------------------------------


def validate_threads(threads: object) -> int:
    """Return `threads` as an int; anything but an integer of at least 1, and of a C int, is a ValueError."""
    try:
        if isinstance(threads, bool):
            raise TypeError
        count = operator.index(threads)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"threads must be an integer of at least 1, got {shown(threads)}")
    if count >= 2**31:
        raise ValueError(f"threads must be at most 2**31 - 1, got about 2**{count.bit_length()}")
    return count


def get_num_threads() -> int:
    """Return how many threads a call uses unless it is told otherwise.

    At first: the cores that this process may use.
    """
    return _setting or usable_cores()


def set_num_threads(threads: int) -> None:
    """Set how many threads a call uses unless it is told otherwise, and BLAS too, for the whole process."""
    global _setting
    _setting = validate_threads(threads)
    limit_blas(_setting)


# -- Compiled kernels -------------------------------------------------------------------------------


def run(kernel: int, task: bytes, items: int, threads: int | None = None) -> None:
    """Run a compiled range kernel over work items, and return when all of them are done.

    The GIL is released meanwhile. A signal's exception, such as KeyboardInterrupt, is raised after the
    slices under way; the items not begun by then stay undone.

    Parameters
    ----------
    kernel : int
        Address of a C function ``void kernel(void *task, ptrdiff_t first, ptrdiff_t last)`` that does the
        items [first, last). It may be called many times, by several threads at once, on disjoint ranges,
        and needs at most half a megabyte of stack. One item should take less than 0.1 s: Ctrl-C waits
        for it.
    task : bytes
        Its argument: the bytes of a struct. The kernel sees one copy, aligned to 64 bytes and shared by
        all threads.
    items : int
        Number of work items. 0 calls nothing.
    threads : int, optional
        At most so many threads, the caller among them; beyond 256, 256. None: `get_num_threads()`.

    Raises
    ------
    RuntimeError
        The pool is not built: `unavailable()` says why.
    """
    if _native is None:
        raise RuntimeError(_unavailable)
    _native.run(kernel, task, items, threads or get_num_threads())


# -- Numba ------------------------------------------------------------------------------------------

_numba_turn = threading.Lock()


def _in_forked_child() -> None:
    global _forked, _numba_turn
    _forked = True
    _numba_turn = threading.Lock()


os.register_at_fork(after_in_child=_in_forked_child)


def forked() -> bool:
    """Tell whether this process is a forked child, in which every run is serial."""
    return _forked or _forked_by_multiprocessing()


@cache
def _forked_by_multiprocessing() -> bool:
    """Tell whether multiprocessing forked this process, maybe before fastconv was imported.

    The parent may then have used OpenMP, whose threads are missing here.
    """
    import multiprocessing

    return multiprocessing.parent_process() is not None and (
        multiprocessing.get_start_method(allow_none=True) in ("fork", "forkserver")
    )


def run_numba(
    parallel: Callable[..., Any],
    serial: Callable[..., Any],
    args: tuple[Any, ...],
    threads: int | None = None,
    *,
    items: int | None = None,
) -> None:
    """Call a Numba kernel with the threads it may have; the only place that starts Numba's threads.

    `parallel` and `serial` are thin callers of one range kernel: over prange, and over a plain loop. The
    serial one runs when one thread is asked for, when Numba's threads are busy with another call (one of
    its threading layers aborts the process on concurrent entry, the others would start a second team),
    and in a forked child (where OpenMP would abort or hang).

    Parameters
    ----------
    parallel, serial : callable
        Compiled functions of `args`; with `items`, of `(*args, first, last)`, a range of work items.
    args : tuple
        Their arguments.
    threads : int, optional
        At most so many threads, and no more than Numba was started with. None: `get_num_threads()`.
    items : int, optional
        With it the work is done in slices of items that grow until they take a twentieth of a second, and
        Ctrl-C is seen between them. Without it there is one call, which nothing interrupts.
    """
    threads = threads or get_num_threads()
    if threads > 1 and not forked():
        turn = _numba_turn
        if turn.acquire(blocking=False):
            try:
                return _numba_parallel(parallel, args, threads, items)
            finally:
                turn.release()
    return _sliced(serial, args, items, 1)


def _numba_parallel(parallel: Callable[..., Any], args: tuple[Any, ...], threads: int, items: int | None) -> None:
    import numba

    threads = min(threads, numba.config.NUMBA_NUM_THREADS)
    before = numba.get_num_threads()  # Numba keeps it per thread
    numba.set_num_threads(threads)
    try:
        _sliced(parallel, args, items, threads)
    finally:
        numba.set_num_threads(before)


def _sliced(call: Callable[..., Any], args: tuple[Any, ...], items: int | None, threads: int) -> None:
    if items is None:
        call(*args)
        return
    first, count = 0, 4 * threads
    while first < items:
        last = min(first + count, items)
        start = perf_counter()
        call(*args, first, last)
        seconds = perf_counter() - start
        if seconds < 0.025:
            count *= 4
        elif seconds > 0.1:
            count = max(threads, count // 4)
        first = last


# -- BLAS -------------------------------------------------------------------------------------------


def limit_blas(threads: int) -> None:
    """Limit the BLAS libraries loaded so far to so many threads, for the whole process."""
    import numpy  # noqa: F401  # its BLAS has to be there to be limited
    import threadpoolctl

    threadpoolctl.ThreadpoolController().limit(limits=validate_threads(threads), user_api="blas")


# -- Forks ------------------------------------------------------------------------------------------

#: A fork waits at most so many seconds for what must not be forked.
_FORK_WAITS = 60.0

#: The identity of each thread that is inside, once for each time; whether a fork waits. Every change is one operation
#: and nothing is locked: an exception of a signal handler may come between any two lines.
_inside: list[int] = []
_forking = 0


class _Unforkable:
    """`with threads.unforkable:` around a call that a fork must wait for; the call waits for a fork likewise.

    A child forked while another thread is inside OpenBLAS, or compiles with Numba, inherits their locks as they
    are, held for ever: the first product there would hang.
    """

    def __enter__(self) -> None:
        me = threading.get_ident()
        _inside.append(me)  # first enter, then look whether somebody forks; a fork does it the other way round
        while _forking and _inside.count(me) == 1:
            _inside.remove(me)
            time.sleep(0.001)
            _inside.append(me)

    def __exit__(self, *error: object) -> None:
        _inside.remove(threading.get_ident())


unforkable = _Unforkable()


def _before_fork() -> None:
    global _forking
    _forking += 1
    me, deadline = threading.get_ident(), time.monotonic() + _FORK_WAITS
    while any(other != me for other in list(_inside)) and time.monotonic() < deadline:
        time.sleep(0.001)
    while me in _inside:  # left there by an interrupt: who forks is not inside
        _inside.remove(me)


def _after_fork_in_parent() -> None:
    global _forking
    _forking -= 1


def _after_fork_in_child() -> None:
    global _forking
    _inside.clear()
    _forking = 0


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
