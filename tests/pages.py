"""Arrays flush against pages that nobody may touch: one byte read or written beyond them ends the process."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_PROT_NONE = 0


class _Region:
    """Pages for `nbytes` between two that are protected."""

    def __init__(self, nbytes: int) -> None:
        self.inside = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, self.inside + 2 * mmap.PAGESIZE)
        self.bytes = np.frombuffer(self.memory, np.uint8)
        self.protect(_PROT_NONE)

    def protect(self, how: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        for start in (0, mmap.PAGESIZE + self.inside):
            if libc.mprotect(ctypes.c_void_p(self.bytes.ctypes.data + start), mmap.PAGESIZE, how):
                raise OSError(ctypes.get_errno(), "mprotect")


class Pages:
    """Makes arrays that end where a protected page begins, or begin where one ends."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        self._regions: list[_Region] = []

    def empty(self, shape: tuple[int, ...], dtype: Any, byte: int = 0xFF) -> np.ndarray:
        """An array of that byte; of 0xFF a floating-point element is NaN."""
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        region = _Region(nbytes)
        self._regions.append(region)
        start = mmap.PAGESIZE + (region.inside - nbytes if self.at_end else 0)
        array = region.bytes[start : start + nbytes]
        array[...] = byte
        return array.view(kind).reshape(shape)

    def copy(self, values: np.ndarray) -> np.ndarray:
        """A read-only copy."""
        array = self.empty(values.shape, values.dtype)
        array[...] = values
        array.flags.writeable = False
        return array


@contextmanager
def pages(at_end: bool) -> Iterator[Pages]:
    """The pages of one test; accessible again behind it, for whoever still looks at an array."""
    made = Pages(at_end)
    try:
        yield made
    finally:
        for region in made._regions:
            region.protect(mmap.PROT_READ | mmap.PROT_WRITE)
