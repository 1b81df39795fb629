"""Three spatial axes for any algorithm that has two: depth taps become channels.

An output plane z of a volume is a two-dimensional convolution of the T input planes under it, stacked as channels::

    output[n, k, z] = sum over c, t of  conv2d(input[n, c, d], weight[k, c, t])    d = z * stride - pad + t * dilation
                    = conv2d(stack[n, z], weight)            stack[n, z, (c, t)] = input[n, c, d], 0 outside

and the weight (k, c, t, r, s) is already one of C*T channels. The gradients follow: grad_weight is that of the stacked
problem summed over the planes, and grad_input collects the planes of the stacked gradient (the adjoint of stacking).
Work: that of the direct method. Memory: stacks of T planes for some output planes at a time; copying them is one
assignment for every K / g * R * S multiply-accumulates.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from fastconv.algorithm import Algorithm, ByAxes, Direction, Epilogue, direct_error, nchw
from fastconv.problem import ITEM_BYTES, ConvProblem, Ints
from fastconv.workspace import Scratch, aligned_bytes

#: Planes are stacked until a piece takes this much: it stays in the outer caches, and starts few parallel regions.
PIECE_BYTES = 8 * 2**20


@lru_cache(maxsize=1024)
def planes_problem(problem: ConvProblem, planes: int) -> ConvProblem:
    """The two-dimensional problem of `planes` output planes: they are its batch, channels and taps its channels."""
    return ConvProblem(
        problem.dtype, planes, problem.in_channels * problem.kernel[0], problem.in_size[1:], problem.out_channels,
        problem.kernel[1:], problem.stride[1:], problem.pads[1:], problem.dilation[1:], problem.groups,
        problem.channels_last,
    )  # fmt: skip


def _plane_bytes(problem: ConvProblem) -> int:
    """Scratch for the stack and the result (or upstream gradient) of one output plane."""
    one = planes_problem(problem, 1)
    elements = math.prod(one.input_shape) + math.prod(one.output_shape)
    return elements * ITEM_BYTES[problem.dtype]


def planes_at_once(problem: ConvProblem) -> int:
    """Output planes of one image per piece; by the shape alone."""
    return max(1, min(problem.out_size[0], PIECE_BYTES // _plane_bytes(problem)))


def _own_bytes(problem: ConvProblem, direction: Direction, planes: int) -> int:
    """Scratch of this file: stack, result, and for grad_weight the gradient of one piece and its bias."""
    partial = 0
    if direction is Direction.BACKWARD_WEIGHT:
        item = ITEM_BYTES[problem.dtype]
        partial = aligned_bytes(math.prod(problem.weight_shape) * item) + aligned_bytes(problem.out_channels * item)
    return aligned_bytes(planes * _plane_bytes(problem)) + 2 * aligned_bytes(1) + partial


def _pieces(
    problem: ConvProblem, scratch: Scratch, direction: Direction, inner_bytes: int
) -> list[tuple[int, int, int]]:
    """(image, first plane, planes) of each piece; one plane at a time where the scratch, with the `inner_bytes` of
    several, holds no more."""
    planes = planes_at_once(problem)
    if scratch.free < _own_bytes(problem, direction, planes) + inner_bytes:
        planes = 1
    depth = problem.out_size[0]
    return [(n, z, min(planes, depth - z)) for n in range(problem.batch) for z in range(0, depth, planes)]


def _taps(problem: ConvProblem, z: int) -> list[tuple[int, int]]:
    """(tap t, input plane d) under output plane z, inside the input."""
    start = z * problem.stride[0] - problem.pads[0][0]
    planes = ((t, start + t * problem.dilation[0]) for t in range(problem.kernel[0]))
    return [(t, d) for t, d in planes if 0 <= d < problem.in_size[0]]


def _by_tap(problem: ConvProblem, stack: np.ndarray) -> np.ndarray:
    """View of a stack as (z, c, t, h, w)."""
    shape: Ints = (stack.shape[0], problem.in_channels, problem.kernel[0], *problem.in_size[1:])
    if problem.channels_last:
        z, c, t, h, w = shape
        return np.moveaxis(stack.reshape(z, h, w, c, t), (3, 4), (1, 2))
    return stack.reshape(shape)


def _stack(problem: ConvProblem, input: np.ndarray, piece: tuple[int, int, int], scratch: Scratch) -> np.ndarray:
    """The input planes under each output plane of `piece`, zeros for those in the padding."""
    n, first, planes = piece
    stack = scratch.take(planes_problem(problem, planes).input_shape, problem.dtype)
    stack_zcthw, input_cdhw = _by_tap(problem, stack), nchw(problem, input)[n]
    for z in range(planes):
        inside = _taps(problem, first + z)
        if len(inside) < problem.kernel[0]:
            stack[z] = 0
        for t, d in inside:
            stack_zcthw[z, :, t] = input_cdhw[:, d]
    return stack


def _planes_of(
    problem: ConvProblem, grad_output: np.ndarray, piece: tuple[int, int, int], scratch: Scratch
) -> np.ndarray:
    """Contiguous copy of the planes of `piece`, planes first."""
    n, first, planes = piece
    copy = scratch.take(planes_problem(problem, planes).output_shape, problem.dtype)
    nchw(problem, copy)[...] = np.moveaxis(nchw(problem, grad_output)[n][:, first : first + planes], 1, 0)
    return copy


def with_volumes(flat: Algorithm) -> Algorithm:
    """`flat`, which has two spatial axes, extended to three."""

    def forward(
        problem: ConvProblem,
        input: np.ndarray,
        weight: np.ndarray,
        output: np.ndarray,
        epilogue: Epilogue,
        scratch: Scratch,
        threads: int,
    ) -> None:
        for piece in _pieces(problem, scratch, Direction.FORWARD, inner_bytes(problem, Direction.FORWARD, threads)):
            n, first, planes = piece
            inner, mark = planes_problem(problem, planes), scratch.mark()
            stack = _stack(problem, input, piece, scratch)
            result = scratch.take(inner.output_shape, problem.dtype)
            flat.forward(inner, stack, weight.reshape(inner.weight_shape), result, epilogue, scratch, threads)
            nchw(problem, output)[n][:, first : first + planes] = np.moveaxis(nchw(problem, result), 0, 1)
            scratch.release(mark)

    def backward_input(
        problem: ConvProblem,
        grad_output: np.ndarray,
        weight: np.ndarray,
        grad_input: np.ndarray,
        epilogue: Epilogue,
        scratch: Scratch,
        threads: int,
    ) -> None:
        grad_input[...] = 0
        for piece in _pieces(
            problem, scratch, Direction.BACKWARD_INPUT, inner_bytes(problem, Direction.BACKWARD_INPUT, threads)
        ):
            n, first, planes = piece
            inner, mark = planes_problem(problem, planes), scratch.mark()
            upstream = _planes_of(problem, grad_output, piece, scratch)
            stack = scratch.take(inner.input_shape, problem.dtype)
            weights = weight.reshape(inner.weight_shape)
            flat.backward_input(inner, upstream, weights, stack, Epilogue(), scratch, threads)
            stack_zcthw, grad_input_cdhw = _by_tap(problem, stack), nchw(problem, grad_input)[n]
            with np.errstate(all="ignore"):
                for z in range(planes):
                    for t, d in _taps(problem, first + z):
                        grad_input_cdhw[:, d] += stack_zcthw[z, :, t]
            scratch.release(mark)
        epilogue.apply(grad_input, problem.channels_last)

    def backward_weight(
        problem: ConvProblem,
        grad_output: np.ndarray,
        input: np.ndarray,
        grad_weight: np.ndarray,
        grad_bias: np.ndarray | None,
        scratch: Scratch,
        threads: int,
    ) -> None:
        assert flat.backward_weight is not None
        for count, piece in enumerate(
            _pieces(
                problem, scratch, Direction.BACKWARD_WEIGHT, inner_bytes(problem, Direction.BACKWARD_WEIGHT, threads)
            )
        ):
            inner, mark = planes_problem(problem, piece[2]), scratch.mark()
            upstream = _planes_of(problem, grad_output, piece, scratch)
            stack = _stack(problem, input, piece, scratch)
            partial = scratch.take(inner.weight_shape, problem.dtype)
            partial_bias = None if grad_bias is None else scratch.take(grad_bias.shape, problem.dtype)
            flat.backward_weight(inner, upstream, stack, partial, partial_bias, scratch, threads)
            for total, part in ((grad_weight, partial.reshape(grad_weight.shape)), (grad_bias, partial_bias)):
                if total is not None and part is not None:
                    with np.errstate(all="ignore"):
                        np.add(total, part, out=total) if count else np.copyto(total, part)
            scratch.release(mark)

    def inner_of(problem: ConvProblem) -> ConvProblem:
        return planes_problem(problem, planes_at_once(problem))

    def inner_bytes(problem: ConvProblem, direction: Direction, threads: int) -> int:
        return flat.workspace_bytes(planes_problem(problem, planes_at_once(problem)), direction, threads)[0]

    def workspace_bytes(problem: ConvProblem, direction: Direction, threads: int) -> tuple[int, int]:
        one, many = planes_problem(problem, 1), planes_at_once(problem)
        least = _own_bytes(problem, direction, 1) + flat.workspace_bytes(one, direction, threads)[0]
        inner = flat.workspace_bytes(planes_problem(problem, many), direction, threads)
        return least, max(least, _own_bytes(problem, direction, many) + inner[1])

    def cost(problem: ConvProblem, direction: Direction, threads: int, machine: Any) -> float:
        pieces = problem.batch * -(-problem.out_size[0] // planes_at_once(problem))
        copied = 2 * problem.batch * problem.out_size[0] * _plane_bytes(problem)
        seconds = pieces * flat.cost(inner_of(problem), direction, threads, machine)
        return seconds + copied / float(machine.copy_bandwidth)

    return replace(
        flat,
        refusal=ByAxes(flat.refusal, lambda problem, direction: flat.refusal(inner_of(problem), direction)),
        ready=ByAxes(flat.ready, lambda problem, direction: flat.ready(inner_of(problem), direction)),
        error=ByAxes(
            flat.error,
            lambda problem, direction: max(flat.error(inner_of(problem), direction), direct_error(problem, direction)),
        ),
        cost=ByAxes(flat.cost, cost),
        workspace_bytes=ByAxes(flat.workspace_bytes, workspace_bytes),
        forward=ByAxes(flat.forward, forward),
        backward_input=ByAxes(flat.backward_input, backward_input),
        backward_weight=flat.backward_weight and ByAxes(flat.backward_weight, backward_weight),
    )
