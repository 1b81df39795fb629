"""Windows that differ along an axis: runs of positions, as adaptive pools and enlarged images have them.

Windows of several axes are products of runs, so sums and maxima are taken one axis after the other, the last first;
the first of equal maxima in row-major order is then the first run's first. What gathers runs has an adjoint that
gathers runs too (`transposed`): the results that see a position are neighbours, because runs never go back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.problem import MAX_BYTES, Ints


class Runs(NamedTuple):
    """For each result along an axis its first position and how many it sees; neither start nor end ever decreases."""

    starts: np.ndarray
    lengths: np.ndarray


def adaptive_runs(size: int, out: int) -> Runs:
    """Result i sees floor(i * size / out) to ceil((i + 1) * size / out): all positions, as evenly as possible."""
    results = np.arange(out)
    starts = results * size // out
    return Runs(starts, -(-(results + 1) * size // out) - starts)


def transposed(runs: Runs, size: int) -> Runs:
    """For each of `size` positions, the results that see it."""
    positions = np.arange(size)
    first = np.searchsorted(runs.starts + runs.lengths, positions, "right")
    behind = np.searchsorted(runs.starts, positions, "right")
    return Runs(first, np.maximum(behind - first, 0))


def _at(axis: int, index: Any) -> Any:
    return (*(slice(None),) * axis, index)


def sums_along(values: np.ndarray, runs: Runs, axis: int) -> np.ndarray:
    """Sum of each run along `axis`; 0 for an empty one."""
    starts, lengths = runs
    longest = int(lengths.max(initial=0))
    shape = (*values.shape[:axis], len(starts), *values.shape[axis + 1 :])
    sums = np.zeros(shape, values.dtype)
    with np.errstate(all="ignore"):
        if len(starts) <= longest:
            for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
                values[_at(axis, slice(start, start + length))].sum(axis, out=sums[_at(axis, i)])
            return sums
        for step in range(longest):
            seen = np.flatnonzero(lengths > step)
            if len(seen) == len(starts):
                sums += np.take(values, starts + step, axis)
            else:
                sums[_at(axis, seen)] += np.take(values, starts[seen] + step, axis)
    return sums


def maxima_along(values: np.ndarray, runs: Runs, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest element of each run along `axis`, NaN if it has one, and the first position of it."""
    starts, lengths = runs
    longest = int(lengths.max(initial=0))
    shape = (*values.shape[:axis], len(starts), *values.shape[axis + 1 :])
    if len(starts) <= longest:
        positions = np.empty(shape, np.int64)
        for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            positions[_at(axis, i)] = values[_at(axis, slice(start, start + length))].argmax(axis) + start
        return np.take_along_axis(values, positions, axis), positions
    along = (-1, *(1,) * (values.ndim - axis - 1))
    largest = np.take(values, starts, axis)
    positions = np.broadcast_to(starts.reshape(along), shape).copy()
    for step in range(1, longest):
        seen = np.flatnonzero(lengths > step)
        candidate, so_far = np.take(values, starts[seen] + step, axis), largest[_at(axis, seen)]
        wins = (candidate > so_far) | (np.isnan(candidate) & ~np.isnan(so_far))
        largest[_at(axis, seen)] = np.where(wins, candidate, so_far)
        positions[_at(axis, seen)] = np.where(wins, (starts[seen] + step).reshape(along), positions[_at(axis, seen)])
    return largest, positions


def maxima(images: np.ndarray, runs: Sequence[Runs], first_axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Maxima over the windows of the spatial axes, which start at `first_axis`, and their flat spatial offsets."""
    values, inner_size, offsets = images, 1, None
    for axis in range(first_axis + len(runs) - 1, first_axis - 1, -1):
        extent = values.shape[axis]
        values, positions = maxima_along(values, runs[axis - first_axis], axis)
        inner = 0 if offsets is None else np.take_along_axis(offsets, positions, axis)
        offsets = positions * inner_size + inner
        inner_size *= extent
    assert offsets is not None
    return values, offsets


def scattered(grad_output: np.ndarray, indices: np.ndarray, shape: Ints, channels_last: bool) -> np.ndarray:
    """Images of `shape` in which each gradient was added at its flat spatial offset."""
    grad_input = np.zeros(shape, grad_output.dtype)
    with np.errstate(all="ignore"):
        np.add.at(grad_input.reshape(-1), cells(indices, shape, channels_last).reshape(-1), grad_output.reshape(-1))
    return grad_input


def cells(indices: np.ndarray, shape: Ints, channels_last: bool) -> np.ndarray:
    """Where flat spatial offsets lie in the memory of images of `shape`."""
    batch, channels, size = arguments.split_image(shape, channels_last)
    ones = (1,) * len(size)
    image, channel = np.arange(batch), np.arange(channels)
    found: np.ndarray
    if channels_last:
        found = (indices + image.reshape(-1, *ones, 1) * math.prod(size)) * channels + channel
    else:
        planes = image[:, None] * channels + channel
        found = indices + planes.reshape(batch, channels, *ones) * math.prod(size)
    return found


def check_result(name: str, value: object, shape: Ints, dtype: str) -> None:
    """Raise when the argument asks for a result that no address space holds."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes > MAX_BYTES:
        raise InvalidProblem(
            f"{name} {shown(value)} asks for a result of shape {shape}: {nbytes} bytes, more than can be addressed"
        )
