"""Measures the limits of this machine: what every other figure is a share of.

Never called inside a user's call: `fastconv info --measure` and the bench runs do.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from fastconv import threads as pool
from fastconv.kernels.cython import load
from fastconv.machine import Limits, machine, store_limits


def measure(seconds: float = 1.5, threads: int = 1, *, store: bool = True) -> Limits:
    """Measure the peak of multiply-adds at each level, the copy bandwidth, and the cost of a run.

    Parameters
    ----------
    seconds : float
        About how long to take in all. Each figure is the best of what fits.
    threads : int
        How many threads share a copy, and `Limits.threads_float32`; the peaks by level are of one thread.
    store : bool
        Keep the figures for later processes on this machine.

    Raises
    ------
    RuntimeError or ImportError
        The compiled kernels are missing; the message says why.
    """
    threads = pool.validate_threads(threads)
    levels = _levels()
    share = seconds / (2 * len(levels) + 5)
    peaks = {dtype: {level: _peak(level, dtype, 1, share) for level in levels} for dtype in ("float32", "float64")}
    limits = Limits(
        float32=peaks["float32"],
        float64=peaks["float64"],
        copy_memory=_copy(max(4 * machine().l3, 64 << 20), 1, threads, 2 * share),
        copy_cache=_copy(threads * machine().l2 // 4, 20, threads, share),
        call_overhead=_overhead(1, share / 2),
        fork_overhead=_overhead(threads, share / 2),
        threads=threads,
        threads_float32=_peak(levels[0], "float32", threads, share),
    )
    if store:
        store_limits(limits)
    return limits


def _levels() -> tuple[str, ...]:
    """Return the instruction sets that this machine runs and this build holds, best first."""
    load("limits", machine().levels)  # or the reason why there is none
    from fastconv.kernels.cython import built

    return tuple(level for level in machine().levels if level in built.LEVELS)


def _best(call: Callable[[], None], seconds: float) -> float:
    """Return the shortest time of `call`, once to warm up and then until the time is over, at least thrice."""
    best, rounds, end = float("inf"), 0, perf_counter() + seconds
    while rounds < 4 or perf_counter() < end:
        start = perf_counter()
        call()
        elapsed = perf_counter() - start
        if rounds:
            best = min(best, elapsed)
        rounds += 1
    return best


def _peak(level: str, dtype: str, threads: int, seconds: float) -> float:
    """Return GFLOP/s."""
    kernels = load("limits", (level,))
    items = 40 * threads  # about a millisecond each thread: the clock is exact, the timer rarely strikes
    sums = np.zeros(items)
    task = kernels.fma_task(sums.ctypes.data)
    best = _best(lambda: pool.run(kernels.FMA[dtype], task, items, threads), seconds)
    if not np.allclose(sums, 12, rtol=1e-3):
        raise RuntimeError(f"the {dtype} multiply-add loop at {level} computed {sums[:3]}, not 12")
    return float(kernels.FLOPS[dtype]) * items / best / 1e9


def _copy(size: int, times: int, threads: int, seconds: float) -> float:
    """Return GB/s read + written by copying half of `size` bytes to the other half."""
    kernels = load("limits", machine().levels)
    pieces = 8 * threads if times == 1 else threads
    each = max(size // 2 // pieces // kernels.COPY_MULTIPLE, 1) * kernels.COPY_MULTIPLE
    source = np.ones(each * pieces, np.uint8)
    target = np.zeros_like(source)
    target.fill(0)  # touch the pages now
    task = kernels.copy_task(target.ctypes.data, source.ctypes.data, each, times)
    best = _best(lambda: pool.run(kernels.COPY, task, pieces, threads), seconds)
    return float(2 * each * pieces * times / best / 1e9)


def _overhead(threads: int, seconds: float) -> float:
    """Return seconds of a run that does nothing."""
    from fastconv import _native

    nothing, calls = _native.TEST_KERNELS["nothing"], 50

    def run() -> None:
        for _ in range(calls):
            pool.run(nothing, b"", threads, threads)

    return _best(run, seconds) / calls
