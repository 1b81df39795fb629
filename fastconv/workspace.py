"""Scratch memory: checked out per call, returned on every path, kept between calls, bounded in total.

Fresh memory costs a page fault for every 4 KiB that is touched (a transform into fresh memory ran up to ten times
slower than into memory used before), so arenas are kept and handed out again, the smallest that fits first.
"""

from __future__ import annotations

import math
import os
import threading
from bisect import bisect_left
from typing import TypeAlias

import numpy as np

from fastconv.errors import InvalidProblem

#: Everything handed out starts on a cache line.
ALIGNMENT = 64

#: Idle arenas beyond this many bytes in total are given back to the system.
KEPT_BYTES = 512 * 2**20


def aligned_bytes(nbytes: int) -> int:
    """`nbytes` rounded up to whole cache lines: what `Scratch.take` uses up."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


#: An arena that is kept between calls: its bytes, its address, its memory.
_Arena: TypeAlias = tuple[int, int, np.ndarray]


class Scratch:
    """Granted memory, handed out front to back. The contents are arbitrary.

    A context manager: at its end an arena that was checked out is given back. (One object and no generator: a call
    of a small convolution takes 5 us in all.)
    """

    __slots__ = ("_address", "_arena", "_memory", "_size", "_used")

    def __init__(self, memory: np.ndarray, nbytes: int | None = None, arena: _Arena | None = None) -> None:
        self._memory = memory
        self._size = memory.size if nbytes is None else nbytes
        self._arena = arena
        self._address = memory.ctypes.data if arena is None else arena[1]
        self._used = 0

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *error: object) -> None:
        if self._arena is not None:
            _give_back(self._arena)

    @property
    def free(self) -> int:
        """Bytes not handed out yet."""
        return self._size - self._used

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
        start = self.reserve(nbytes) - self._address
        return self._memory[start : start + nbytes].view(kind).reshape(shape)

    def reserve(self, nbytes: int) -> int:
        """The same for compiled kernels: the address of so many bytes, a fifth of the time of an array."""
        start = self._used
        if start + nbytes > self._size:
            raise AssertionError(f"scratch of {self._size} bytes exhausted: {nbytes} more at {start}")
        self._used = start - -nbytes // ALIGNMENT * ALIGNMENT
        return self._address + start


_lock = threading.Lock()
#: Arenas that nobody uses, by size, and their sizes.
_idle: list[_Arena] = []
_idle_sizes: list[int] = []
_in_use_bytes = 0
_kept_bytes = 0
_peak_bytes = 0


def _in_forked_child() -> None:
    """Nobody else is here: neither to give the lock back, nor what they had checked out."""
    global _lock, _in_use_bytes
    _lock, _in_use_bytes = threading.Lock(), 0


os.register_at_fork(after_in_child=_in_forked_child)


def _allocate(nbytes: int) -> _Arena:
    """Uninitialised bytes on a cache-line boundary."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return nbytes, raw.ctypes.data + start, raw[start : start + nbytes]


def _rounded(nbytes: int) -> int:
    """Arena sizes come in steps of an eighth of their power of two, so that similar problems share them."""
    step = max(4096, 1 << max(nbytes.bit_length() - 4, 0))
    return -(-nbytes // step) * step


def _fresh(nbytes: int) -> _Arena:
    global _in_use_bytes, _peak_bytes
    try:
        arena = _allocate(_rounded(nbytes))
    except MemoryError:  # what is kept for later may be what is missing now
        empty_cache()
        arena = _allocate(nbytes)
    with _lock:
        _in_use_bytes += arena[0]
        _peak_bytes = max(_peak_bytes, _in_use_bytes)
    return arena


def _checkout(nbytes: int) -> _Arena | None:
    """The smallest idle arena that fits."""
    global _in_use_bytes, _kept_bytes, _peak_bytes
    with _lock:
        fitting = bisect_left(_idle_sizes, nbytes)
        if fitting == len(_idle):
            return None
        size = _idle_sizes.pop(fitting)
        _kept_bytes -= size
        _in_use_bytes += size
        if _in_use_bytes > _peak_bytes:
            _peak_bytes = _in_use_bytes
        return _idle.pop(fitting)


def _give_back(arena: _Arena) -> None:
    """Keep it; beyond the bound the largest go, so that as few as possible do."""
    global _in_use_bytes, _kept_bytes
    size = arena[0]
    with _lock:
        _in_use_bytes -= size
        _kept_bytes += size
        place = bisect_left(_idle_sizes, size)
        _idle_sizes.insert(place, size)
        _idle.insert(place, arena)
        while _kept_bytes > KEPT_BYTES:
            _kept_bytes -= _idle_sizes.pop()
            _idle.pop()


#: The scratch of those who asked for none.
_NOTHING = Scratch(np.empty(0, np.uint8))


def scratch(nbytes: int) -> Scratch:
    """Check out `nbytes` of scratch for one call: ``with scratch(nbytes) as granted``.

    Raises
    ------
    MemoryError
        When the system has no more memory.
    """
    if not nbytes:
        return _NOTHING
    arena = _checkout(nbytes) or _fresh(nbytes)
    return Scratch(arena[2], nbytes, arena)


def empty_cache() -> None:
    """Give the scratch kept between calls back to the system."""
    global _kept_bytes
    with _lock:
        _idle.clear()
        _idle_sizes.clear()
        _kept_bytes = 0


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
        return {"in_use": _in_use_bytes, "kept": _kept_bytes, "peak": _peak_bytes}


def check_limit(value: object) -> int:
    """A workspace limit in bytes: an int of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"workspace_limit must be an int of bytes, got {value!r}")
    if value < 0:
        raise InvalidProblem(f"workspace_limit must be at least 0 bytes, got {value}")
    return int(value)
