"""Pooling compiled by Numba: rows of outputs, one tap of the window after the other.

Maximum: for every tap of the window, in row-major order, ``largest[q] = max(largest[q], input[q * stride + s])`` over a
run of outputs q, and beside it the index; strictly larger wins, so the first of equals stays, and the first NaN. The
gradient goes to the index, plane by plane.

Average: sums of the same runs in double, divided (not multiplied by a reciprocal) and rounded once. The gradient of an
element is gathered from the windows that cover it: ``grad_output[q] / divisor(q)``, summed in double.

Work: N C P Q R S visits in each direction. Memory: per thread one run of sums or of maxima and indices. Layouts differ
in strides alone. Numerics: no order that depends on the threads; the maximum's gradient adds in the problem's dtype, in
row-major order of the windows.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from fastconv import jit
from fastconv.algorithm import Algorithm, Direction, direct_error
from fastconv.jit import unavailable
from fastconv.machine import Machine
from fastconv.pool.volumes import with_volumes
from fastconv.problem import ITEM_BYTES, PoolProblem
from fastconv.workspace import Scratch, aligned_bytes

#: Outputs of one row done at once; that of fastconv.kernels.numba.pooling, which is not imported before it is needed.
BLOCK = 512

#: Elements of one work item, if a plane has as many: enough to be worth handing out, and far below 0.1 s.
ITEM_ELEMENTS = 16384

#: More buffers than this are never used at once.
SLOTS = 64

#: Measured on Zen 4: seconds of one visit, and of one output.
SECONDS_PER_VISIT = {
    ("max", Direction.FORWARD): 0.8e-9,
    ("max", Direction.BACKWARD_INPUT): 2e-9,  # with the input; a fifth with indices
    ("avg", Direction.FORWARD): 0.5e-9,
    ("avg", Direction.BACKWARD_INPUT): 1.8e-9,
}
SECONDS_PER_OUTPUT = 2e-9

#: Measured: seconds of a call, by several threads.
SECONDS_PER_CALL = 60e-6


def refusal(problem: PoolProblem, direction: Direction) -> str | None:
    return None


def ready(problem: PoolProblem, direction: Direction) -> bool:
    return jit.ready((_name(problem, direction),), problem.dtype)


def cost(problem: PoolProblem, direction: Direction, threads: int, machine: Machine) -> float:
    visits = problem.macs * SECONDS_PER_VISIT[problem.kind, direction]
    outputs = math.prod(problem.output_shape) * SECONDS_PER_OUTPUT
    used = max(1, min(threads, _items(problem, direction)))
    return SECONDS_PER_CALL + (visits + outputs) / used + problem.bytes / machine.copy_bandwidth


def workspace_bytes(problem: PoolProblem, direction: Direction, threads: int) -> tuple[int, int]:
    slots = min(threads, SLOTS)
    return _buffer_bytes(problem, 1), _buffer_bytes(problem, slots)


def _buffer_bytes(problem: PoolProblem, slots: int) -> int:
    if problem.kind == "avg":
        return aligned_bytes(slots * BLOCK * 8)
    return aligned_bytes(slots * BLOCK * ITEM_BYTES[problem.dtype]) + aligned_bytes(slots * BLOCK * 8)


def _slots(problem: PoolProblem, scratch: Scratch, threads: int) -> int:
    return max(1, min(threads, SLOTS, scratch.free // _buffer_bytes(problem, 1)))


def _name(problem: PoolProblem, direction: Direction) -> str:
    return f"{problem.kind}_{'forward' if direction is Direction.FORWARD else 'backward'}"


def _band(problem: PoolProblem, direction: Direction) -> int:
    """Rows of one work item; all rows of a plane where a gradient may go anywhere in it."""
    rows, cols = problem.out_size if direction is Direction.FORWARD else problem.in_size
    if problem.kind == "max" and direction is not Direction.FORWARD:
        return rows
    return min(rows, max(1, ITEM_ELEMENTS // (cols * min(math.prod(problem.kernel), ITEM_ELEMENTS))))


def _items(problem: PoolProblem, direction: Direction) -> int:
    rows = problem.out_size[0] if direction is Direction.FORWARD else problem.in_size[0]
    return problem.batch * problem.channels * -(-rows // _band(problem, direction))


@cache
def _kernels() -> Any:
    from fastconv.kernels.numba import pooling

    return pooling


def _strides(problem: PoolProblem, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a C-contiguous image array in elements, in the order n, c, h, w."""
    _, a, b, c = shape
    return (a * b * c, 1, b * c, c) if problem.channels_last else (a * b * c, b * c, c, 1)


def _task(problem: PoolProblem, direction: Direction, slots: int) -> Any:
    band = _band(problem, direction)
    rows = problem.out_size[0] if direction is Direction.FORWARD else problem.in_size[0]
    (top, bottom), (left, right) = problem.pads
    return _kernels().Task(
        slots, problem.channels, -(-rows // band), band, *problem.in_size, *problem.out_size, *problem.kernel,
        *problem.stride, *problem.dilation, top, left, bottom, right, int(problem.count_include_pad),
        problem.divisor_override or 0,
        *_strides(problem, problem.input_shape), *_strides(problem, problem.output_shape),
    )  # fmt: skip


def _run(
    problem: PoolProblem, direction: Direction, images: tuple[np.ndarray, ...], scratch: Scratch, threads: int
) -> None:
    """Add the task and each thread's buffers to the arrays, and run the kernel."""
    slots = _slots(problem, scratch, threads)
    buffers: tuple[np.ndarray, ...]
    if problem.kind == "avg":
        buffers = (scratch.take((slots, BLOCK), np.float64),)
    else:
        buffers = scratch.take((slots, BLOCK), problem.dtype), scratch.take((slots, BLOCK), np.int64)
    args = (_task(problem, direction, slots), *images, *buffers)
    jit.run(_kernels(), _name(problem, direction), args, problem.dtype, threads, _items(problem, direction))


def forward(
    problem: PoolProblem,
    input: np.ndarray,
    output: np.ndarray,
    indices: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    images: tuple[np.ndarray, ...] = jit.flat(input), jit.flat(output, writable=True)
    if problem.kind == "max":
        wanted = np.empty(0, np.int64) if indices is None else indices
        images = (*images, jit.flat(wanted, writable=True))
    _run(problem, Direction.FORWARD, images, scratch, threads)


def backward_input(
    problem: PoolProblem,
    grad_output: np.ndarray,
    input: np.ndarray | None,
    indices: np.ndarray | None,
    grad_input: np.ndarray,
    scratch: Scratch,
    threads: int,
) -> None:
    images: tuple[np.ndarray, ...] = jit.flat(grad_output), jit.flat(grad_input, writable=True)
    if problem.kind == "max":
        source = np.empty(0, problem.dtype) if input is None else input
        given = np.empty(0, np.int64) if indices is None else indices
        images = images[0], jit.flat(source), jit.flat(given), images[1]
    _run(problem, Direction.BACKWARD_INPUT, images, scratch, threads)


ALGORITHMS = (
    with_volumes(
        Algorithm(
            name="numba_direct",
            unavailable=unavailable,
            refusal=refusal,
            ready=ready,
            error=direct_error,
            cost=cost,
            workspace_bytes=workspace_bytes,
            forward=forward,
            backward_input=backward_input,
        )
    ),
)
