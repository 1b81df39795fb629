"""What every algorithm is judged by: windows and einsum, in float64, written like none of them.

Convolution: `windows` shows every window of the zero-padded input as a view; forward and the gradient of the weight are
one einsum each. The gradient of the input multiplies out all products and scatters them through the windows of a map of
positions, so that a product lands exactly where its factor was read. Pools look at the same windows, beside windows of
a mask that says which positions lie inside.

test_oracle.py holds these functions against SciPy, against torch where it is installed, and against worked examples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fastconv.problem import ConvProblem, PoolProblem


def channels_first(problem: ConvProblem | PoolProblem, array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 1) if problem.channels_last else array


def problems_layout(problem: ConvProblem | PoolProblem, array_nchw: np.ndarray) -> np.ndarray:
    return np.moveaxis(array_nchw, 1, -1) if problem.channels_last else array_nchw


def windows(problem: ConvProblem | PoolProblem, images: np.ndarray, outside: float) -> np.ndarray:
    """All windows (..., p, q, r, s) of images (..., h, w) surrounded by `outside`."""
    leading = images.ndim - problem.axes
    widths, extents, steps, skips = [], [], [], []
    for size, kernel, stride, (low, high), dilation, out in zip(
        problem.in_size, problem.kernel, problem.stride, problem.pads, problem.dilation, problem.out_size, strict=True
    ):
        extent = dilation * (kernel - 1) + 1  # not problem.window_extent: that is judged here
        # ceil_mode: the last window may reach beyond the padding.
        widths.append((low, max(high, (out - 1) * stride + extent - size - low)))
        extents.append(extent)
        steps.append(slice(0, (out - 1) * stride + 1, stride))
        skips.append(slice(None, None, dilation))
    padded = np.pad(images, [(0, 0)] * leading + widths, constant_values=outside)
    axes = tuple(range(leading, images.ndim))
    return sliding_window_view(padded, extents, axes)[(..., *steps, *skips)]


def _grouped(array_nchw: np.ndarray, groups: int) -> np.ndarray:
    """(n, c, ...) as (n, g, c / g, ...)."""
    n, channels, *size = array_nchw.shape
    return array_nchw.reshape(n, groups, channels // groups, *size)


def _weight_gkcrs(problem: ConvProblem, weight: np.ndarray) -> np.ndarray:
    return np.asarray(weight, np.float64).reshape(problem.groups, problem.group_out_channels, *problem.weight_shape[1:])


def _input_windows(problem: ConvProblem, input: np.ndarray) -> np.ndarray:
    input_nchw = channels_first(problem, np.asarray(input, np.float64))
    return windows(problem, _grouped(input_nchw, problem.groups), 0.0)


def conv_forward(
    problem: ConvProblem, input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    with np.errstate(all="ignore"):
        output = np.einsum("ngcpqrs,gkcrs->ngkpq", _input_windows(problem, input), _weight_gkcrs(problem, weight))
        output_nkpq = output.reshape(problem.batch, problem.out_channels, *problem.out_size)
        if bias is not None:
            output_nkpq = output_nkpq + np.asarray(bias, np.float64)[:, None, None]
    return problems_layout(problem, output_nkpq)


def conv_backward_weight(problem: ConvProblem, grad_output: np.ndarray, input: np.ndarray) -> np.ndarray:
    grad_output_nkpq = channels_first(problem, np.asarray(grad_output, np.float64))
    with np.errstate(all="ignore"):
        grad = np.einsum(
            "ngcpqrs,ngkpq->gkcrs", _input_windows(problem, input), _grouped(grad_output_nkpq, problem.groups)
        )
    return grad.reshape(problem.weight_shape)


def conv_backward_bias(problem: ConvProblem, grad_output: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.einsum("nkpq->k", channels_first(problem, np.asarray(grad_output, np.float64)))


def _positions(problem: ConvProblem | PoolProblem) -> np.ndarray:
    """Flat input position of every window element (p, q, r, s); -1 outside."""
    plane = np.arange(np.prod(problem.in_size)).reshape(problem.in_size)
    return windows(problem, plane, -1)


def conv_backward_input(problem: ConvProblem, grad_output: np.ndarray, weight: np.ndarray) -> np.ndarray:
    grad_output_nkpq = channels_first(problem, np.asarray(grad_output, np.float64))
    grouped = _grouped(grad_output_nkpq, problem.groups)
    with np.errstate(all="ignore"):
        products = np.einsum("ngkpq,gkcrs->ngcpqrs", grouped, _weight_gkcrs(problem, weight))
        collected = _scatter(problem, products.reshape(problem.batch, problem.in_channels, *products.shape[3:]))
    return problems_layout(problem, collected)


def _scatter(problem: ConvProblem | PoolProblem, shares: np.ndarray) -> np.ndarray:
    """Sum shares (n, c, p, q, r, s) into the positions (n, c, h, w) that their windows show."""
    n, c = shares.shape[:2]
    positions = _positions(problem).ravel()
    inside = positions >= 0
    plane = int(np.prod(problem.in_size))
    kept = shares.reshape(n * c, -1)[:, inside]
    cells = positions[inside] + plane * np.arange(n * c)[:, None]
    with np.errstate(all="ignore"):
        totals = np.bincount(cells.ravel(), weights=kept.ravel(), minlength=n * c * plane)
    return totals.reshape(n, c, *problem.in_size)


class Maxima(NamedTuple):
    values: np.ndarray
    indices: np.ndarray


def max_forward(problem: PoolProblem, input: np.ndarray) -> Maxima:
    """Maximum and flat index of each window, in the problem's layout; see edge-case rules in fastconv/pool/naive.py."""
    input_nchw = channels_first(problem, np.asarray(input, np.float64))
    shown = windows(problem, input_nchw, -np.inf)
    flat = shown.reshape(*shown.shape[: -problem.axes], -1)
    positions = _positions(problem)
    flat_positions = positions.reshape(*positions.shape[: -problem.axes], -1)
    inside = flat_positions >= 0
    values = flat.max(-1)  # NaN wins
    wins = inside & ((flat == values[..., None]) | np.isnan(flat))
    first = wins.argmax(-1)
    indices = np.take_along_axis(np.broadcast_to(flat_positions, flat.shape), first[..., None], -1)[..., 0]
    indices = np.where(inside.any(-1), indices, _nearest(problem))
    return Maxima(problems_layout(problem, values), problems_layout(problem, indices))


def _nearest(problem: PoolProblem) -> np.ndarray:
    """Flat position (p, q) of the first element of each window inside the input, axis by axis, or nearest to it."""
    nearest = np.zeros((), np.int64)
    for size, kernel, stride, (low, _), dilation, out in zip(
        problem.in_size, problem.kernel, problem.stride, problem.pads, problem.dilation, problem.out_size, strict=True
    ):
        taken = (np.arange(out) * stride - low)[:, None] + np.arange(kernel) * dilation
        inside = (taken >= 0) & (taken < size)
        first = np.take_along_axis(taken, inside.argmax(1)[:, None], 1)[:, 0]
        along = np.where(inside.any(1), first, taken[:, 0].clip(0, size - 1))
        nearest = nearest[..., None] * size + along
    return nearest


def max_backward(problem: PoolProblem, grad_output: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Each gradient goes to where `indices` points."""
    grads = channels_first(problem, np.asarray(grad_output, np.float64)).reshape(problem.batch * problem.channels, -1)
    where = channels_first(problem, indices).reshape(grads.shape)
    plane = int(np.prod(problem.in_size))
    cells = where + plane * np.arange(len(grads))[:, None]
    totals = np.bincount(cells.ravel(), weights=grads.ravel(), minlength=len(grads) * plane)
    return problems_layout(problem, totals.reshape(problem.batch, problem.channels, *problem.in_size))


def divisors(problem: PoolProblem) -> np.ndarray:
    """What each window (p, q) of an average is divided by."""
    if problem.divisor_override is not None:
        return np.full(problem.out_size, float(problem.divisor_override))
    mask = np.ones(problem.in_size)
    if problem.count_include_pad:
        mask = np.pad(mask, problem.pads, constant_values=1.0)
        unpadded = PoolProblem(
            "avg", problem.dtype, 1, 1, mask.shape, problem.kernel, problem.stride, ceil_mode=problem.ceil_mode
        )
        crop = tuple(slice(0, out) for out in problem.out_size)
        counts = windows(unpadded, mask, 0.0).sum((-2, -1))[crop]
    else:
        counts = windows(problem, mask, 0.0).sum((-2, -1))
    return np.maximum(counts, 1.0)


def avg_forward(problem: PoolProblem, input: np.ndarray) -> np.ndarray:
    input_nchw = channels_first(problem, np.asarray(input, np.float64))
    with np.errstate(all="ignore"):
        means = windows(problem, input_nchw, 0.0).sum((-2, -1)) / divisors(problem)
    return problems_layout(problem, means)


def avg_backward(problem: PoolProblem, grad_output: np.ndarray) -> np.ndarray:
    grad_output_nchw = channels_first(problem, np.asarray(grad_output, np.float64))
    with np.errstate(all="ignore"):
        shares = (grad_output_nchw / divisors(problem))[..., None, None]
    spread = np.broadcast_to(shares, (*grad_output_nchw.shape, *problem.kernel))
    return problems_layout(problem, _scatter(problem, np.ascontiguousarray(spread)))
