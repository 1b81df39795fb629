"""Runs of one array, and where they lie inside an image."""

from __future__ import annotations

from numba import njit

from fastconv.kernels.numba.options import INNER


@njit(**INNER)
def fill_zeros(array):
    """As array[:] = 0, which Numba compiles ten times longer."""
    for x in range(array.size):
        array[x] = 0


@njit(**INNER)
def inside(start, step, count, size):
    """The range of x in [0, count) with 0 <= start + x * step < size."""
    first = 0 if start >= 0 else -(start // step)
    last = (size - 1 - start) // step + 1
    return min(first, count), max(min(last, count), min(first, count))
