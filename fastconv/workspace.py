"""Scratch memory: checked out per call, returned on every path, kept between calls, bounded in total.

Fresh memory costs a page fault for every 4 KiB that is touched (a transform into fresh memory ran up to ten times
slower than into memory used before), so arenas are kept and handed out again, the smallest that fits first.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fastconv.errors import InvalidProblem

#: Everything handed out starts on a cache line.
ALIGNMENT = 64

#: Idle arenas beyond this many bytes in total are given back to the system.
KEPT_BYTES = 512 * 2**20


def aligned_bytes(nbytes: int) -> int:
    """`nbytes` rounded up to whole cache lines: what `Scratch.take` uses up."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Scratch:
    """Granted memory, handed out front to back. The contents are arbitrary."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory
        self._used = 0

    @property
    def free(self) -> int:
        """Bytes not handed out yet."""
        return self._memory.size - self._used

    def mark(self) -> int:
        """Where the next array would start; `release` hands out again from there."""
        return self._used

    def release(self, mark: int) -> None:
        """Take back everything handed out since `mark`."""
        self._used = mark

    def take(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
        """An uninitialised C-contiguous array that starts on a cache line."""
        kind = np.dtype(dtype)
        nbytes = math.prod(shape) * kind.itemsize
        start, end = self._used, self._used + nbytes
        if end > self._memory.size:
            raise AssertionError(f"scratch of {self._memory.size} bytes exhausted: {nbytes} more at {start}")
        self._used = aligned_bytes(end)
        return self._memory[start:end].view(kind).reshape(shape)


_lock = threading.Lock()
_idle: list[np.ndarray] = []
_in_use_bytes = 0
_peak_bytes = 0


def _in_forked_child() -> None:
    """Nobody else is here: neither to give the lock back, nor what they had checked out."""
    global _lock, _in_use_bytes
    _lock, _in_use_bytes = threading.Lock(), 0


os.register_at_fork(after_in_child=_in_forked_child)


def _allocate(nbytes: int) -> np.ndarray:
    """Uninitialised bytes on a cache-line boundary."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes]


def _rounded(nbytes: int) -> int:
    """Arena sizes come in steps of an eighth of their power of two, so that similar problems share them."""
    step = max(4096, 1 << max(nbytes.bit_length() - 4, 0))
    return -(-nbytes // step) * step


def _checkout(nbytes: int) -> np.ndarray:
    global _in_use_bytes, _peak_bytes
    with _lock:
        fitting = [i for i, arena in enumerate(_idle) if arena.size >= nbytes]
        arena = _idle.pop(min(fitting, key=lambda i: _idle[i].size)) if fitting else None
    if arena is None:
        try:
            arena = _allocate(_rounded(nbytes))
        except MemoryError:  # what is kept for later may be what is missing now
            empty_cache()
            arena = _allocate(nbytes)
    with _lock:
        _in_use_bytes += arena.size
        _peak_bytes = max(_peak_bytes, _in_use_bytes)
    return arena


def _give_back(arena: np.ndarray) -> None:
    global _in_use_bytes
    with _lock:
        _in_use_bytes -= arena.size
        _idle.append(arena)
        while sum(idle.size for idle in _idle) > KEPT_BYTES:
            _idle.pop(0)


@contextmanager
def scratch(nbytes: int) -> Iterator[Scratch]:
    """Check out `nbytes` of scratch for one call.

    Raises
    ------
    MemoryError
        When the system has no more memory.
    """
    if nbytes == 0:
        yield Scratch(np.empty(0, np.uint8))
        return
    arena = _checkout(nbytes)
    try:
        yield Scratch(arena[:nbytes])
    finally:
        _give_back(arena)


def empty_cache() -> None:
    """Give the scratch kept between calls back to the system."""
    with _lock:
        _idle.clear()


def memory_stats() -> dict[str, int]:
    """Bytes of scratch memory of this process.

    Returns
    -------
    dict
        ``in_use`` by calls that run now, ``kept`` for the next ones, ``peak`` of what was in use at once.

    Examples
    --------
    >>> sorted(memory_stats())
    ['in_use', 'kept', 'peak']
    """
    with _lock:
        return {"in_use": _in_use_bytes, "kept": sum(arena.size for arena in _idle), "peak": _peak_bytes}


def check_limit(value: object) -> int:
    """A workspace limit in bytes: an int of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"workspace_limit must be an int of bytes, got {value!r}")
    if value < 0:
        raise InvalidProblem(f"workspace_limit must be at least 0 bytes, got {value}")
    return int(value)
