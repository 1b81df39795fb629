"""Pooling with compiled kernels, plane by plane; see kernels/cython/pool.pyx.

::

    output[n, c, p, q] = max (or sum / divisor) over (r, s) of  input[n, c, p*stride - pad + r*dilation, ...]
    grad_input[n, c, h, w] = sum of grad_output over the windows whose maximum is (h, w)
                             (or of grad_output / divisor over the windows that hold it)

Separable: along the row, then over rows; R + S operations for each output instead of R S. Few outputs in a row,
wide windows, and channels-last images are done window by window, averages in float64. Memory: a block's pooled rows,
some 64 KiB for each thread. Numerics: a maximum is exact; sums of up to R S <= 4096 elements in the problem's dtype.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np

from fastconv import threads as pool
from fastconv.algorithm import Algorithm, Direction, always_ready, direct_error
from fastconv.kernels.cython import load
from fastconv.machine import Machine, machine
from fastconv.pool.volumes import with_volumes
from fastconv.problem import ITEM_BYTES, PoolProblem
from fastconv.taps import axis_taps, buffer_groups, even
from fastconv.workspace import Scratch, aligned_bytes

#: The pool runs no more threads than this at once, each with scratch of its own.
MOST_THREADS = 256
#: Outputs of a row done at once, and bytes of pooled rows: a block stays in L1.
BLOCK_COLUMNS, BLOCK_BYTES = 1024, 24 << 10
#: Kernel extents and strides beyond these go window by window, as do rows of fewer outputs.
MOST_TAPS, MOST_STRIDE, FEWEST_OUTPUTS = 64, 8, 4


@cache
def _kernels() -> Any:
    return load("pool", machine().levels)


@cache
def unavailable() -> str | None:
    try:
        _kernels()
    except ImportError as error:
        return str(error)
    return pool.unavailable()


def refusal(problem: PoolProblem, direction: Direction) -> str | None:
    return None if problem.axes == 2 else "its windows have two spatial axes"


#: Seconds of a call that computes next to nothing.
CALL_SECONDS = 15e-6
#: Operations a cycle of a vectorised row, and seconds of an element visited alone; measured on AVX-512.
ROW_SHARE_OF_PEAK, SECONDS_PER_VISIT = 0.02, 1.2e-9


def cost(problem: PoolProblem, direction: Direction, threads: int, machine: Machine) -> float:
    moved = 1.5 * problem.bytes / machine.copy_bandwidth
    alone = _by_window(problem) or (direction is not Direction.FORWARD and problem.kind == "max")
    visits = problem.macs if alone else problem.macs // max(problem.kernel) * 2
    each = SECONDS_PER_VISIT if alone else 1 / (ROW_SHARE_OF_PEAK * machine.peak_flops(problem.dtype))
    return CALL_SECONDS + max(moved, visits * each / threads)


def _by_window(problem: PoolProblem) -> bool:
    return (
        problem.channels_last
        or max(problem.kernel) > MOST_TAPS
        or problem.out_size[1] < FEWEST_OUTPUTS
        or problem.stride[1] > MOST_STRIDE
        or problem.in_size[1] >= 2**20
    )


@lru_cache(maxsize=256)
def _schedule(problem: PoolProblem, vector_bytes: int) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Fields of the task, and its tables. A function of the problem and the vector length alone."""
    item_bytes = ITEM_BYTES[problem.dtype]
    lanes = vector_bytes // item_bytes
    # With a single output along an axis its stride says nothing; it may be 2^62.
    steps = tuple(1 if size == 1 else stride for size, stride in zip(problem.out_size, problem.stride))
    by_window = _by_window(problem)
    columns = even(problem.out_size[1], BLOCK_COLUMNS)
    pitch = -(-columns // lanes) * lanes
    rows = even(problem.out_size[0], max(1, BLOCK_BYTES // (pitch * item_bytes * steps[0])))
    tables: dict[str, Any] = dict.fromkeys(("buffer_rows", "column_groups", "column_places", "row_places"), ())
    group_pitch = 0
    if not by_window:
        taps = [
            axis_taps(kernel, step, dilation, low)
            for kernel, step, dilation, (low, _) in zip(problem.kernel, steps, problem.dilation, problem.pads)
        ]
        row_groups, row_places = buffer_groups(taps[0], rows, steps[0])
        column_groups, column_places = buffer_groups(taps[1], pitch, steps[1])
        first_row = np.cumsum([0] + [group.extent for group in row_groups])
        group_pitch = max(group.extent for group in column_groups)
        tables = {
            "buffer_rows": [group.origin + i * steps[0] for group in row_groups for i in range(group.extent)],
            "column_groups": [group.origin for group in column_groups],
            "column_places": [
                column_places[s][0] * group_pitch + column_places[s][1] for s in range(problem.kernel[1])
            ],
            "row_places": [(first_row[row_places[r][0]] + row_places[r][1]) * pitch for r in range(problem.kernel[0])],
        }
    arrays = {name: np.ascontiguousarray(table, dtype=np.int64) for name, table in tables.items()}
    row_bytes = max(len(arrays["column_groups"]) * group_pitch, 2 * pitch) * item_bytes
    pooled_bytes = aligned_bytes(len(arrays["buffer_rows"]) * pitch * item_bytes)
    pooled = 0 if by_window else aligned_bytes(row_bytes)
    starts = pooled + (pooled_bytes if problem.kind == "avg" else 2 * pooled_bytes)
    found = starts + (0 if by_window else aligned_bytes(2 * pitch * item_bytes))
    # Backward: a block's maxima and their indices, or a row of gradients and what they spread over.
    spread = 0 if by_window else (problem.out_size[1] * (1 + steps[1]) + problem.kernel[1]) * item_bytes
    fields = {
        "maximum": problem.kind == "max", "channels": problem.channels,
        "input_rows": problem.in_size[0], "input_columns": problem.in_size[1],
        "rows": problem.out_size[0], "columns": problem.out_size[1],
        "kernel_h": problem.kernel[0], "kernel_w": problem.kernel[1], "step_h": steps[0], "step_w": steps[1],
        "dilation_h": problem.dilation[0], "dilation_w": problem.dilation[1],
        "low_h": problem.pads[0][0], "high_h": problem.pads[0][1],
        "low_w": problem.pads[1][0], "high_w": problem.pads[1][1],
        "count_padding": problem.count_include_pad, "overridden": problem.divisor_override is not None,
        "by_window": by_window, "row_block": rows, "column_block": columns,
        "buffer_row_count": len(arrays["buffer_rows"]), "column_group_count": len(arrays["column_groups"]),
        "group_pitch": group_pitch, "pitch": pitch,
        "pooled_offset": pooled, "labels_offset": pooled + pooled_bytes, "starts_offset": starts,
        "found_offset": found, "scratch_bytes": found + aligned_bytes(max(16 * rows * columns, spread)),
    }  # fmt: skip
    return fields, arrays


def workspace_bytes(problem: PoolProblem, direction: Direction, threads: int) -> tuple[int, int]:
    if unavailable():
        return 0, 0
    fields, _ = _schedule(problem, _kernels().VECTOR_BYTES)
    return fields["scratch_bytes"], fields["scratch_bytes"] * min(threads, MOST_THREADS)


def _run(
    kernel: str,
    problem: PoolProblem,
    images: tuple[np.ndarray, np.ndarray],
    indices: np.ndarray | None,
    values: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    """Run one kernel on (input, output), or on their gradients."""
    kernels = _kernels()
    fields, tables = _schedule(problem, kernels.VECTOR_BYTES)
    steps: dict[str, int] = {}
    for prefix, array in zip(("input", "output"), images):
        _, a, b, c = array.shape
        channel, row, column = (1, b * c, c) if problem.channels_last else (b * c, c, 1)
        steps |= {f"{prefix}_n": a * b * c, f"{prefix}_c": channel, f"{prefix}_h": row, f"{prefix}_w": column}
    threads = max(1, min(threads, MOST_THREADS, scratch.free // fields["scratch_bytes"]))
    slots = scratch.take((threads * fields["scratch_bytes"],), np.uint8)
    task = kernels.pooling_task(
        input=images[0].ctypes.data, output=images[1].ctypes.data,
        indices=0 if indices is None else indices.ctypes.data, values=0 if values is None else values.ctypes.data,
        divisor=float(problem.divisor_override or 0), scratch=slots.ctypes.data,
        **fields, **steps, **{name: table.ctypes.data for name, table in tables.items()},
    )  # fmt: skip
    planes = problem.batch * problem.channels
    blocks = -(-problem.out_size[0] // fields["row_block"]) * -(-problem.out_size[1] // fields["column_block"])
    items = planes * blocks if kernel == "FORWARD" else planes
    pool.run(getattr(kernels, kernel)[problem.dtype], task, items, threads)


def forward(
    problem: PoolProblem,
    input: np.ndarray,
    output: np.ndarray,
    indices: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    _run("FORWARD", problem, (input, output), indices, None, scratch, threads)


def backward_input(
    problem: PoolProblem,
    grad_output: np.ndarray,
    input: np.ndarray | None,
    indices: np.ndarray | None,
    grad_input: np.ndarray,
    scratch: Scratch,
    threads: int,
) -> None:
    _run("BACKWARD", problem, (grad_input, grad_output), indices, input, scratch, threads)


ALGORITHMS = (
    with_volumes(
        Algorithm(
            name="cython_tiled",
            unavailable=unavailable,
            refusal=refusal,
            ready=always_ready,
            error=direct_error,
            cost=cost,
            workspace_bytes=workspace_bytes,
            forward=forward,
            backward_input=backward_input,
        )
    ),
)
