"""The definition of pooling, as plain loops in plain Python.

Maximum: the largest element of every window, the first in row-major order where several are equal, and NaN where
the window holds one (the first NaN). Padding is -inf; a window wholly in padding gives -inf and the index of the
nearest element inside. The gradient goes to the element that was the maximum.

Average: the sum of a window over its divisor: `divisor_override`, else the elements of the window clipped to the
padded extent, or to the input where padding is not counted; a window without any gives 0. The gradient is spread
evenly: each element of the window gets grad_output / divisor.

Indices are flat offsets h * W + w within a plane. Work: N C P Q R S visits. Sums are kept in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastconv.algorithm import Algorithm, Direction, always_ready, direct_error, elements, nchw, no_workspace
from fastconv.machine import Machine
from fastconv.pool.volumes import with_volumes
from fastconv.problem import PoolProblem
from fastconv.workspace import Scratch

#: Measured: one visit of an element, in seconds, CPython 3.11 at 2.6 GHz.
SECONDS_PER_VISIT = 200e-9


def unavailable() -> str | None:
    return None


def refusal(problem: PoolProblem, direction: Direction) -> str | None:
    return None


def cost(problem: PoolProblem, direction: Direction, threads: int, machine: Machine) -> float:
    return 1e-5 + SECONDS_PER_VISIT * problem.macs


def window(problem: PoolProblem, p: int, q: int) -> Iterator[tuple[int, int]]:
    """Positions (h, w) of window (p, q) that lie inside the input, in row-major order."""
    rows, columns = (
        inside(*axis)
        for axis in zip(window_start(problem, p, q), problem.dilation, problem.kernel, problem.in_size, strict=True)
    )
    for h in rows:
        for w in columns:
            yield h, w


def inside(start: int, dilation: int, kernel: int, size: int) -> range:
    """Positions of a window that lie in [0, size) along one axis. (Padding may be as large as half a huge kernel.)"""
    first, end = max(0, -(start // dilation)), min(kernel, (size - 1 - start) // dilation + 1)
    return range(start + first * dilation, start + end * dilation, dilation)


def window_start(problem: PoolProblem, p: int, q: int) -> tuple[int, int]:
    """Position of the first element of window (p, q); negative inside the padding."""
    return p * problem.stride[0] - problem.pads[0][0], q * problem.stride[1] - problem.pads[1][0]


def first_inside(problem: PoolProblem, p: int, q: int) -> tuple[int, int]:
    """First position of window (p, q) inside the input; wholly in padding: the element nearest to its start."""
    start, nearest = window_start(problem, p, q), []
    for begin, size, kernel, dilation in zip(start, problem.in_size, problem.kernel, problem.dilation, strict=True):
        positions = inside(begin, dilation, kernel, size)
        nearest.append(positions[0] if positions else min(max(begin, 0), size - 1))
    return nearest[0], nearest[1]


def divisor(problem: PoolProblem, p: int, q: int) -> int:
    """What the sum of window (p, q) is divided by; at least 1 but for an override."""
    if problem.divisor_override is not None:
        return problem.divisor_override
    start, counted = window_start(problem, p, q), 1
    for begin, size, kernel, (_, high) in zip(start, problem.in_size, problem.kernel, problem.pads, strict=True):
        end = min(begin + kernel, size + high)
        if not problem.count_include_pad:
            begin, end = max(begin, 0), min(end, size)
        counted *= max(end - begin, 0)
    return max(counted, 1)


def largest_of(problem: PoolProblem, plane_hw: Any, p: int, q: int) -> tuple[float, int]:
    """Maximum of window (p, q) and its flat index."""
    h, w = first_inside(problem, p, q)
    largest, index = -float("inf"), h * problem.in_size[1] + w
    for h, w in window(problem, p, q):
        x = plane_hw[h, w]
        is_first_nan = x != x and largest == largest
        if x > largest or is_first_nan:
            largest, index = x, h * problem.in_size[1] + w
    return largest, index


def forward(
    problem: PoolProblem,
    input: np.ndarray,
    output: np.ndarray,
    indices: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    P, Q = problem.out_size
    for n in range(problem.batch):
        for c in range(problem.channels):
            input_hw = elements(nchw(problem, input)[n, c])
            output_pq = elements(nchw(problem, output)[n, c])
            for p in range(P):
                for q in range(Q):
                    if problem.kind == "avg":
                        total = 0.0
                        for h, w in window(problem, p, q):
                            total += input_hw[h, w]
                        output_pq[p, q] = total / divisor(problem, p, q)
                    else:
                        output_pq[p, q], index = largest_of(problem, input_hw, p, q)
                        if indices is not None:
                            nchw(problem, indices)[n, c, p, q] = index


def backward_input(
    problem: PoolProblem,
    grad_output: np.ndarray,
    input: np.ndarray | None,
    indices: np.ndarray | None,
    grad_input: np.ndarray,
    scratch: Scratch,
    threads: int,
) -> None:
    (P, Q), (H, W) = problem.out_size, problem.in_size
    for n in range(problem.batch):
        for c in range(problem.channels):
            grad_output_pq = elements(nchw(problem, grad_output)[n, c])
            input_hw = None if input is None else elements(nchw(problem, input)[n, c])
            totals_hw = [[0.0] * W for _ in range(H)]
            for p in range(P):
                for q in range(Q):
                    if problem.kind == "avg":
                        share = grad_output_pq[p, q] / divisor(problem, p, q)
                        for h, w in window(problem, p, q):
                            totals_hw[h][w] += share
                    else:
                        if indices is not None:
                            index = int(nchw(problem, indices)[n, c, p, q])
                        else:
                            assert input_hw is not None
                            index = largest_of(problem, input_hw, p, q)[1]
                        totals_hw[index // W][index % W] += grad_output_pq[p, q]
            grad_input_hw = elements(nchw(problem, grad_input)[n, c])
            for h in range(H):
                for w in range(W):
                    grad_input_hw[h, w] = totals_hw[h][w]


ALGORITHMS = (
    with_volumes(
        Algorithm(
            name="naive",
            unavailable=unavailable,
            refusal=refusal,
            ready=always_ready,
            error=direct_error,
            cost=cost,
            workspace_bytes=no_workspace,
            forward=forward,
            backward_input=backward_input,
        )
    ),
)
