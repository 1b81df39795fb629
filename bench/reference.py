"""The right answer in float64: one matrix product per tap of the kernel, on the shifted image.

Slow, short, and unlike every implementation it judges: those sum in float32, over windows or columns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.presets import Problem


def _taps(problem: Problem) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Every position of the kernel, with the slices of the padded image that it meets."""
    for tap in itertools.product(*map(range, problem.kernel)):
        starts = [offset * dilation for offset, dilation in zip(tap, problem.dilation, strict=True)]
        extents = zip(starts, problem.stride, problem.out_size, strict=True)
        yield tap, tuple(slice(start, start + stride * (size - 1) + 1, stride) for start, stride, size in extents)


def _padded_size(problem: Problem) -> tuple[int, ...]:
    """Extents that hold every window, incomplete last ones (ceil_mode) included."""
    sizes = []
    axes = (problem.in_size, problem.kernel, problem.stride, problem.pads, problem.dilation, problem.out_size)
    for size, kernel, stride, (low, high), dilation, out in zip(*axes, strict=True):
        sizes.append(max(low + size + high, (out - 1) * stride + dilation * (kernel - 1) + 1))
    return tuple(sizes)


def _inside(problem: Problem) -> tuple[slice, ...]:
    """The image within its padding."""
    return tuple(slice(low, low + size) for size, (low, _) in zip(problem.in_size, problem.pads, strict=True))


def _padded(problem: Problem, channels: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """(C, ...) in float64 with its padding around it."""
    image = np.full((len(channels), *_padded_size(problem)), fill)
    image[(slice(None), *_inside(problem))] = channels
    return image


def _first(problem: Problem, images: np.ndarray) -> np.ndarray:
    """Channels first, whatever the layout."""
    return np.moveaxis(images, -1, 1) if problem.channels_last else images


def _as_laid_out(problem: Problem, images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, 1, -1) if problem.channels_last else images


def _grouped(problem: Any, weight: np.ndarray) -> np.ndarray:
    """(*kernel, G, K/G, C/G) in float64: a matrix per tap and group."""
    shape = (problem.groups, problem.group_out_channels, problem.group_in_channels, *problem.kernel)
    return np.moveaxis(weight.astype(np.float64).reshape(shape), (0, 1, 2), (-3, -2, -1))


def conv(problem: Any, input: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """output[g k pq] = sum over taps of W[tap, g] @ image[g, shifted by the tap]."""
    matrices, pixels = _grouped(problem, weight), math.prod(problem.out_size)
    outputs = np.zeros((problem.batch, problem.groups, problem.group_out_channels, pixels))
    for output, channels in zip(outputs, _first(problem, input), strict=True):
        image = _padded(problem, channels)
        for tap, where in _taps(problem):
            output += matrices[tap] @ image[(slice(None), *where)].reshape(problem.groups, -1, pixels)
    shape = (problem.batch, problem.out_channels, *problem.out_size)
    return _as_laid_out(problem, outputs.reshape(shape))


def conv_backward_input(problem: Any, grad_output: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The transpose of `conv`: every tap's product is added where the tap had read."""
    matrices, pixels = _grouped(problem, weight), math.prod(problem.out_size)
    result = np.empty((problem.batch, problem.in_channels, *problem.in_size))
    for grad, upstream in zip(result, _first(problem, grad_output), strict=True):
        image = np.zeros((problem.in_channels, *_padded_size(problem)))
        gradients = upstream.astype(np.float64).reshape(problem.groups, -1, pixels)
        for tap, where in _taps(problem):
            product = matrices[tap].swapaxes(-1, -2) @ gradients
            image[(slice(None), *where)] += product.reshape(-1, *problem.out_size)
        grad[...] = image[(slice(None), *_inside(problem))]
    return _as_laid_out(problem, result)


def conv_backward_weight(problem: Any, grad_output: np.ndarray, input: np.ndarray) -> np.ndarray:
    """Per tap: upstream gradient times the shifted image, transposed, summed over the images."""
    pixels = math.prod(problem.out_size)
    sums = np.zeros((*problem.kernel, problem.groups, problem.group_out_channels, problem.group_in_channels))
    for upstream, channels in zip(_first(problem, grad_output), _first(problem, input), strict=True):
        image = _padded(problem, channels)
        gradients = upstream.astype(np.float64).reshape(problem.groups, -1, pixels)
        for tap, where in _taps(problem):
            shifted = image[(slice(None), *where)].reshape(problem.groups, -1, pixels)
            sums[tap] += gradients @ shifted.swapaxes(-1, -2)
    return np.moveaxis(sums, (-3, -2, -1), (0, 1, 2)).reshape(problem.weight_shape)


# -- Pooling ----------------------------------------------------------------------------------------


def max_pool(problem: Any, input: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maxima, and the flat position of the first of them in the image, int64."""
    places = np.arange(math.prod(problem.in_size)).reshape(1, *problem.in_size)
    where_from = _padded(problem, places, -1.0)
    output = np.full((problem.batch, problem.channels, *problem.out_size), -np.inf)
    indices = np.zeros(output.shape, np.int64)
    for n, channels in enumerate(_first(problem, input)):
        best, index = output[n], indices[n]
        image = _padded(problem, channels, -np.inf)
        for _, where in _taps(problem):
            value = image[(slice(None), *where)]
            better = value > best
            best[better] = value[better]
            index[better] = np.broadcast_to(where_from[(slice(None), *where)], value.shape)[better]
    return _as_laid_out(problem, output), np.ascontiguousarray(_as_laid_out(problem, indices))


def max_pool_backward(problem: Any, grad_output: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Every upstream gradient is added to the element that its index names."""
    planes, extent = problem.batch * problem.channels, math.prod(problem.in_size)
    owner = np.arange(planes)[:, None] * extent
    flat = (_first(problem, indices).reshape(planes, -1) + owner).reshape(-1)
    upstream = _first(problem, grad_output).astype(np.float64).reshape(-1)
    sums = np.bincount(flat, upstream, planes * extent)
    return _as_laid_out(problem, sums.reshape(problem.batch, problem.channels, *problem.in_size))


def _divisors(problem: Any) -> np.ndarray:
    """What each window's sum is divided by."""
    if problem.divisor_override is not None:
        return np.full(problem.out_size, float(problem.divisor_override))
    counted = np.zeros(_padded_size(problem))
    if problem.count_include_pad:
        within = zip(problem.in_size, problem.pads, strict=True)
        padded_extent = tuple(slice(0, low + size + high) for size, (low, high) in within)
        counted[padded_extent] = 1
    else:
        counted[_inside(problem)] = 1
    elements = np.sum([counted[where] for _, where in _taps(problem)], axis=0)
    return np.where(elements == 0, 1.0, elements)  # a window of nothing: 0 / 1


def avg_pool(problem: Any, input: np.ndarray) -> np.ndarray:
    """Sums of the windows by their divisors; 0 where a window holds nothing that counts."""
    output = np.zeros((problem.batch, problem.channels, *problem.out_size))
    for total, channels in zip(output, _first(problem, input), strict=True):
        image = _padded(problem, channels)
        for _, where in _taps(problem):
            total += image[(slice(None), *where)]
    return _as_laid_out(problem, output / _divisors(problem))


def avg_pool_backward(problem: Any, grad_output: np.ndarray) -> np.ndarray:
    """Every upstream gradient, by its divisor, is added to its whole window."""
    result = np.empty((problem.batch, problem.channels, *problem.in_size))
    divisors = _divisors(problem)
    for grad, upstream in zip(result, _first(problem, grad_output), strict=True):
        image = np.zeros((problem.channels, *_padded_size(problem)))
        for _, where in _taps(problem):
            image[(slice(None), *where)] += upstream / divisors
        grad[...] = image[(slice(None), *_inside(problem))]
    return _as_laid_out(problem, result)
