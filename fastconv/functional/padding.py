"""Padding modes other than zeros: copies of slices along each axis, and the adjoint, which adds them back.

No map of positions is made: padding may be so large that the result alone does not fit in memory.
"""

from __future__ import annotations

import numpy as np

from fastconv.errors import InvalidProblem, shown
from fastconv.problem import Ints, Pads

#: As torch names them.
MODES = ("reflect", "replicate", "circular")


def check_mode(mode: object) -> str:
    """A known padding mode."""
    if mode == "zeros" or mode in MODES:
        return str(mode)
    raise InvalidProblem(f"padding_mode must be zeros, {', '.join(MODES)}, got {shown(mode)}")


def check_reach(size: Ints, pads: Pads, mode: str) -> None:
    """Raise where `mode` has nothing left to show on one of the axes, of input extents `size`; zeros always have."""
    for extent, pair in zip(size, pads, strict=True):
        if mode == "reflect" and any(pair) and max(pair) >= extent:
            raise InvalidProblem(f"reflect padding must be smaller than the input: {max(pair)} >= {extent}")
        if mode == "circular" and max(pair) > extent:
            raise InvalidProblem(f"circular padding must be at most the input: {max(pair)} > {extent}")


def _sources(size: int, low: int, high: int, mode: str) -> tuple[slice, slice]:
    """Input positions that the padding before and after shows: as many, or a single one for all of it."""
    if mode == "replicate":
        return slice(0, 1), slice(size - 1, size)
    if mode == "circular":
        return slice(size - low, size), slice(0, high)
    return slice(low, 0, -1), slice(size - 2, size - 2 - high if high < size - 1 else None, -1)


def pad_images(images: np.ndarray, pads: Pads, mode: str, first_axis: int) -> np.ndarray:
    """Extend the spatial axes, which start at `first_axis`, as far as `check_reach` allows."""
    for axis, (low, high) in enumerate(pads, start=first_axis):
        if low or high:
            size = images.shape[axis]
            before, after = _sources(size, low, high, mode)
            shape = (*images.shape[:axis], low + size + high, *images.shape[axis + 1 :])
            padded, whole = np.empty(shape, images.dtype), (slice(None),) * axis
            padded[(*whole, slice(low, low + size))] = images
            padded[(*whole, slice(0, low))] = images[(*whole, before)]
            padded[(*whole, slice(low + size, None))] = images[(*whole, after)]
            images = padded
    return images


def unpad_gradients(gradients: np.ndarray, pads: Pads, mode: str, first_axis: int) -> np.ndarray:
    """The adjoint of `pad_images`: every input position collects the gradients of its copies."""
    for axis, (low, high) in enumerate(pads, start=first_axis):
        if low or high:
            size = gradients.shape[axis] - low - high
            whole = (slice(None),) * axis
            collected = gradients[(*whole, slice(low, low + size))].copy()
            parts = gradients[(*whole, slice(0, low))], gradients[(*whole, slice(low + size, None))]
            for source, part in zip(_sources(size, low, high, mode), parts, strict=True):
                collected[(*whole, source)] += part.sum(axis, keepdims=True) if mode == "replicate" else part
            gradients = collected
    return np.ascontiguousarray(gradients)
