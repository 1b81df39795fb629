"""Pools in one to three axes by the definition: one plain loop over windows, one over the positions in each.

A second opinion beside oracle.py, for what functional/ adds to the kernels: other axes, irregular windows, other means.
Positions are tuples (h, w) or shorter or longer; images have no layout and no batch here, only spatial axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Position = tuple[int, ...]


def regular(
    size: Position,
    kernel: Position,
    stride: Position,
    pads: tuple[tuple[int, int], ...] | None = None,
    dilation: Position | None = None,
    ceil_mode: bool = False,
) -> list[list[list[int]]]:
    """Per axis, for each window, the positions that it takes; those outside the input too."""
    axes = []
    for i, (extent, k, s) in enumerate(zip(size, kernel, stride, strict=True)):
        (low, high), d = (pads[i] if pads else (0, 0)), (dilation[i] if dilation else 1)
        room = extent + low + high - d * (k - 1) - 1
        count = (room + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= extent + low:
            count -= 1
        axes.append([[p * s - low + j * d for j in range(k)] for p in range(count)])
    return axes


def adaptive(size: Position, out: Position) -> list[list[list[int]]]:
    """Per axis the windows floor(i * size / out) to ceil((i + 1) * size / out)."""
    return [
        [list(range(math.floor(i * extent / count), math.ceil((i + 1) * extent / count))) for i in range(count)]
        for extent, count in zip(size, out, strict=True)
    ]


def each_window(axes: list[list[list[int]]]) -> Iterator[tuple[Position, list[Position]]]:
    """(output position, positions taken in row-major order) of every window."""
    for at in itertools.product(*(range(len(windows)) for windows in axes)):
        yield at, list(itertools.product(*(windows[i] for windows, i in zip(axes, at, strict=True))))


def is_inside(position: Position, size: Position) -> bool:
    return all(0 <= i < extent for i, extent in zip(position, size, strict=True))


def out_shape(axes: list[list[list[int]]]) -> Position:
    return tuple(len(windows) for windows in axes)


def maxima(x: np.ndarray, axes: list[list[list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Values and flat indices of the maxima of one plane."""
    values, indices = np.full(out_shape(axes), -np.inf), np.zeros(out_shape(axes), np.int64)
    for at, taken in each_window(axes):
        inside = [position for position in taken if is_inside(position, x.shape)]
        # Axis by axis the first position inside, or nearest to the window's first one.
        nearest = []
        for windows, i, extent in zip(axes, at, x.shape, strict=True):
            good = [j for j in windows[i] if 0 <= j < extent]
            nearest.append(good[0] if good else min(max(windows[i][0], 0), extent - 1))
        best = tuple(nearest)
        for position in inside:
            if x[position] > values[at] or (math.isnan(x[position]) and not math.isnan(values[at])):
                values[at], best = x[position], position
        indices[at] = np.ravel_multi_index(best, x.shape)
    return values, indices


def means(x: np.ndarray, axes: list[list[list[int]]], divisor: Callable[[list[Position]], float]) -> np.ndarray:
    """Sum of each window of one plane over `divisor` of all its positions."""
    result = np.zeros(out_shape(axes))
    for at, taken in each_window(axes):
        result[at] = sum(x[position] for position in taken if is_inside(position, x.shape)) / divisor(taken)
    return result


def divisor_of(size: Position, pads: Any, count_include_pad: bool, override: int | None) -> Callable[..., float]:
    """What an average divides by, from the positions of its window."""

    def divisor(taken: list[Position]) -> float:
        if override is not None:
            return override
        bounds = [
            (-low, extent + high) if count_include_pad else (0, extent)
            for extent, (low, high) in zip(size, pads, strict=True)
        ]
        counted = [all(low <= i < high for i, (low, high) in zip(position, bounds, strict=True)) for position in taken]
        return max(sum(counted), 1)

    return divisor


def over_planes(function: Callable[[np.ndarray], Any], images: np.ndarray) -> Any:
    """`function` of every plane (n, c) of images, stacked again."""
    results = [[function(plane) for plane in image] for image in images]
    if isinstance(results[0][0], tuple):
        return tuple(np.array([[part[i] for part in row] for row in results]) for i in range(len(results[0][0])))
    return np.array(results)
