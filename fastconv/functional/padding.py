"""Padding modes other than zeros: a gather along each axis, and its adjoint, a scatter-add.

Each mode is an index map: padded position i shows input position source[i]. NumPy's own `pad` makes the map.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv.errors import InvalidProblem
from fastconv.problem import Pads

#: torch's names for the modes, and NumPy's.
MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def check_mode(mode: object) -> str:
    """A known padding mode."""
    if mode == "zeros" or mode in MODES:
        return str(mode)
    raise InvalidProblem(f"padding_mode must be zeros, {', '.join(MODES)}, got {mode!r}")


@lru_cache(maxsize=1024)
def source_positions(size: int, low: int, high: int, mode: str) -> np.ndarray:
    """Input position shown at each of the low + size + high padded positions."""
    if mode == "reflect" and max(low, high) >= size:
        raise InvalidProblem(f"reflect padding must be smaller than the input: {max(low, high)} >= {size}")
    if mode == "circular" and max(low, high) > size:
        raise InvalidProblem(f"circular padding must be at most the input: {max(low, high)} > {size}")
    positions: np.ndarray = np.pad(np.arange(size), (low, high), mode=MODES[mode])  # type: ignore[call-overload]
    positions.flags.writeable = False
    return positions


def pad_images(images: np.ndarray, pads: Pads, mode: str, first_axis: int) -> np.ndarray:
    """Extend the spatial axes, which start at `first_axis`."""
    for axis, (low, high) in enumerate(pads, start=first_axis):
        if low or high:
            images = np.take(images, source_positions(images.shape[axis], low, high, mode), axis=axis)
    return images


def unpad_gradients(gradients: np.ndarray, pads: Pads, mode: str, first_axis: int) -> np.ndarray:
    """The adjoint of `pad_images`: every input position collects the gradients of its copies."""
    for axis, (low, high) in enumerate(pads, start=first_axis):
        if low or high:
            size = gradients.shape[axis] - low - high
            moved = np.moveaxis(gradients, axis, 0)
            collected = np.zeros((size, *moved.shape[1:]), gradients.dtype)
            np.add.at(collected, source_positions(size, low, high, mode), moved)
            gradients = np.moveaxis(collected, 0, axis)
    return np.ascontiguousarray(gradients)
