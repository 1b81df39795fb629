"""Scratch memory: checked out per call, returned on every path, kept between calls, bounded in total; and results.

Fresh memory costs a page fault for every 4 KiB that is touched (a transform into fresh memory ran up to ten times
slower than into memory used before), so arenas are kept and handed out again, the smallest that fits first.

Results belong to the caller. But what a freed one leaves is kept likewise (native/results.c): the system takes blocks
above 32 MiB back at once, and clearing the pages of the next one took twice the time of the gradient written to it
(103 MB of a maximum's: 17.8 ms, of which 8.6 were the kernel's).
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from bisect import bisect_left, insort
from typing import TypeAlias

import numpy as np

from fastconv.errors import InvalidProblem, shown

try:
    from fastconv import _native
except ImportError:
    _native = None  # type: ignore[assignment]

#: Everything handed out starts on a cache line.
ALIGNMENT = 64

#: Arenas up to this size are not asked for what they add to the peak, or to what is kept: they add next to nothing.
SMALL_BYTES = 4096
#: An arena up to this size waits outside of the list for the next call.
HOT_BYTES = 1 << 20

#: Results of fewer elements come from where NumPy takes its arrays.
LARGE_RESULT = 1 << 16

#: Idle arenas beyond this many bytes in total are given back to the system.
KEPT_BYTES = 512 * 2**20


def aligned_bytes(nbytes: int) -> int:
    """`nbytes` rounded up to whole cache lines: what `Scratch.take` uses up."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


#: An arena that is kept between calls: its bytes, its address, its memory.
_Arena: TypeAlias = tuple[int, int, np.ndarray]


class Scratch:
    """Granted memory, handed out front to back. The contents are arbitrary.

    A context manager, for what is checked out is given back at its end. (An object and no generator: a call of a
    small convolution takes 4 us in all.)
    """

    __slots__ = ("_address", "_memory", "_size", "_used")

    def __init__(self, memory: np.ndarray, nbytes: int | None = None, address: int | None = None) -> None:
        self._memory = memory
        self._address = memory.ctypes.data if address is None else address
        self.grant(memory.size if nbytes is None else nbytes)

    def grant(self, nbytes: int) -> None:
        """Begin at the front, with so many bytes."""
        self._size = nbytes
        self._used = 0

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *error: object) -> None:
        pass

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


class _CheckedOut(Scratch):
    """Scratch in an arena, which is given back at the end."""

    __slots__ = ("arena",)

    def __init__(self, arena: _Arena, nbytes: int) -> None:
        super().__init__(arena[2], nbytes, arena[1])
        self.arena = arena

    def __exit__(self, *error: object) -> None:
        if not _hot and self.arena[0] <= HOT_BYTES:
            _hot.append(self)
        else:
            _put_away(self.arena)


_lock = threading.Lock()
#: Arenas that nobody uses, by size. One list, changed by one operation at a time, and no count beside it that must
#: agree: an exception of a signal handler (Ctrl-C) may come between any two lines of this file.
_idle: list[_Arena] = []
#: What was used last, if it is not large: to take and return it needs no lock, no search and no new object.
_hot: list[_CheckedOut] = []
#: The memory of every arena that lives, in use or not.
_arenas: list[weakref.ref[np.ndarray]] = []
_peak_bytes = 0


def _in_forked_child() -> None:
    """Nobody else is here to give the lock back."""
    global _lock
    _lock = threading.Lock()


# A fork waits for the lock, so that the child's list is whole.
os.register_at_fork(
    before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_in_forked_child
)


def _allocate(nbytes: int) -> _Arena:
    """Uninitialised bytes on a cache-line boundary."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    memory = raw[start : start + nbytes]
    _arenas.append(weakref.ref(memory, _arenas.remove))
    return nbytes, raw.ctypes.data + start, memory


def _rounded(nbytes: int) -> int:
    """Arena sizes come in steps of an eighth of their power of two, so that similar problems share them."""
    step = max(4096, 1 << max(nbytes.bit_length() - 4, 0))
    return -(-nbytes // step) * step


def _fresh(nbytes: int) -> _Arena:
    try:
        return _allocate(_rounded(nbytes))
    except MemoryError:  # what is kept for later may be what is missing now
        empty_cache()
        return _allocate(nbytes)


def _kept_bytes() -> int:
    return sum([arena[0] for arena in [*_idle, *(used.arena for used in [*_hot])]])


def _in_use_bytes() -> int:
    """Bytes of the arenas that live and are not idle."""
    living = [reference() for reference in list(_arenas)]
    return sum(memory.size for memory in living if memory is not None) - _kept_bytes()


def _checkout(nbytes: int) -> _Arena:
    """The smallest idle arena that fits, or a new one."""
    global _peak_bytes
    with _lock:
        fitting = bisect_left(_idle, (nbytes,))
        found = _idle.pop(fitting) if fitting < len(_idle) else None
    arena = found or _fresh(nbytes)
    if arena[0] > SMALL_BYTES:  # what is in use may be more than ever before
        with _lock:
            _peak_bytes = max(_peak_bytes, _in_use_bytes())
    return arena


def _put_away(arena: _Arena) -> None:
    """Keep it among the idle ones; beyond the bound the largest go, so that as few as possible do."""
    with _lock:
        insort(_idle, arena)
        while arena[0] > SMALL_BYTES and _kept_bytes() > KEPT_BYTES:
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
    if _hot:
        try:
            last = _hot.pop()
        except IndexError:  # another thread was faster
            pass
        else:
            if last.arena[0] >= nbytes:
                last.grant(nbytes)
                return last
            _put_away(last.arena)
    return _CheckedOut(_checkout(nbytes), nbytes)


def result(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    """An uninitialised array for the caller to own; a large one in memory that an earlier one left, if it may be.

    Raises
    ------
    MemoryError
        When the system has no more memory.
    """
    if _native is None or math.prod(shape) < LARGE_RESULT:
        return np.empty(shape, dtype)
    try:
        return _native.empty(shape, dtype)
    except MemoryError:
        empty_cache()
        return _native.empty(shape, dtype)


def empty_cache() -> None:
    """Give the memory kept between calls back to the system: scratch, and what freed results left.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.empty_cache()
    >>> fastconv.memory_stats()["kept"]
    0
    """
    with _lock:
        _idle.clear()
        _hot.clear()
    if _native is not None:
        _native.release()


def memory_stats() -> dict[str, int]:
    """Bytes of scratch memory of this process, and what is kept of results.

    Returns
    -------
    dict
        ``in_use`` by calls that run now, ``kept`` for the next ones and their results (512 and 256 MiB at most), and
        ``peak`` of what was in use at once.

    Examples
    --------
    >>> import fastconv
    >>> sorted(fastconv.memory_stats())
    ['in_use', 'kept', 'peak']
    """
    with _lock:
        in_use = _in_use_bytes()
        left = 0 if _native is None else _native.kept_bytes()
        return {"in_use": in_use, "kept": _kept_bytes() + left, "peak": max(_peak_bytes, in_use)}


def check_limit(value: object) -> int:
    """A workspace limit in bytes: an int of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"workspace_limit must be an int of bytes, got {shown(value)}")
    if value < 0:
        raise InvalidProblem(f"workspace_limit must be at least 0 bytes, got {shown(value)}")
    return int(value)
