"""Pooling with compiled kernels, plane by plane; see kernels/cython/pooling.h and pooling_backward.h.

::

    output[n, c, p, q] = max (or sum / divisor) over (r, s) of  input[n, c, p*stride - pad + r*dilation, ...]
    grad_input[n, c, h, w] = sum of grad_output over the windows whose maximum is (h, w)
                             (or of grad_output / divisor over the windows that hold it)

Separable: over rows and along the row, R + S operations for each output instead of R S; the 3 x 3 elements around every
one straight from the plane. An average's gradient is collected: each element of grad_input from the windows that cover
it; a maximum's is scattered. Channels-last images go window by window in vectors of channels, other windows that are
very wide one by one. Memory: a block's rows, some 64 KiB for each thread. Numerics: a maximum is exact; sums of up to
R S <= 4096 elements in the problem's dtype, row by row, larger ones in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from fastconv import threads as pool
from fastconv.algorithm import Algorithm, Direction, always_ready, check_indices_inside, direct_error
from fastconv.kernels.cython import load
from fastconv.machine import Machine, machine
from fastconv.pool.volumes import with_volumes
from fastconv.problem import ITEM_BYTES, PoolProblem
from fastconv.taps import even
from fastconv.workspace import ALIGNMENT, Scratch, aligned_bytes

#: The pool runs no more threads than this at once, each with scratch of its own.
MOST_THREADS = 256
#: Outputs of a row done at once, and bytes of the rows of a block: they stay in L1, and are few, so that reading and
#: writing take turns often (16 KiB instead of 4: half as fast from memory).
BLOCK_COLUMNS, BLOCK_BYTES, LABEL_BYTES, GRAD_BYTES, CLEAR_BYTES = 512, 4 << 10, 12 << 10, 12 << 10, 8 << 10
#: Channels-last images: elements that an item reads; vectors of taps that it takes in grad_input, a seventh of a second
#: where maxima are found again; and items worth having.
ITEM_TAPS, ITEM_VECTORS, ITEMS = 1 << 20, 1 << 24, 8
#: Maxima and indices of 3 x 3 windows around every element that are found at once, in planes of more than LABEL_BYTES.
AROUND_BYTES = 3 << 10
#: Over each element: planes of a maximum's gradient go four abreast.
MANY_WINDOWS = 36
#: Kernel extents and strides beyond these go window by window, as do windows that reach further along an axis.
MOST_TAPS, MOST_STRIDE, MOST_REACH = 64, 8, 2048
#: Elements of a plane that one window covers, in one sum of the problem's dtype.
MOST_WHOLE = 4096
#: Shares of gradients are added one by one where their rows would take more bytes.
MOST_GRAD_BYTES = 1 << 20
BY_WINDOW, BY_ROWS, WHOLE, BY_CHANNELS = range(4)


@cache
def _kernels(name: str) -> Any:
    return load(name, machine().levels)


@cache
def unavailable() -> str | None:
    try:
        for name in ("pool", "pool_backward"):
            _kernels(name)
    except ImportError as error:
        return str(error)
    return pool.unavailable()


def refusal(problem: PoolProblem, direction: Direction) -> str | None:
    return None if problem.axes == 2 else "its windows have two spatial axes"


#: Seconds of a call that computes next to nothing.
CALL_SECONDS = 7e-6
#: Operations of rows as a share of the peak, and seconds of an element visited alone, and of one that is added by its
#: index; measured on AVX-512.
ROW_SHARE_OF_PEAK, SECONDS_PER_VISIT, SECONDS_PER_INDEX = 0.1, 1.2e-9, 0.8e-9


def cost(problem: PoolProblem, direction: Direction, threads: int, machine: Machine) -> float:
    moved = 1.2 * problem.bytes / machine.copy_bandwidth
    if direction is not Direction.FORWARD and problem.kind == "max":
        busy = problem.batch * problem.channels * math.prod(problem.out_size) * SECONDS_PER_INDEX
    elif _way(problem) == BY_WINDOW:
        busy = problem.macs * SECONDS_PER_VISIT
    elif problem.channels_last:
        busy = problem.macs * 2 / (ROW_SHARE_OF_PEAK * machine.peak_flops(problem.dtype))
    else:
        busy = problem.macs // max(problem.kernel) * 2 / (ROW_SHARE_OF_PEAK * machine.peak_flops(problem.dtype))
    return CALL_SECONDS + max(moved, busy / threads)


def _way(problem: PoolProblem) -> int:
    """Which of the kernels' ways the windows go."""
    reach = [(kernel - 1) * dilation for kernel, dilation in zip(problem.kernel, problem.dilation)]
    rows, columns = problem.in_size
    if max(reach) > MOST_REACH or (rows + reach[0]) * (columns + reach[1]) >= 2**31:
        return BY_WINDOW
    if problem.channels_last:
        few = math.prod(problem.kernel) <= MOST_WHOLE and _plane_taps(problem) <= ITEM_VECTORS
        return BY_CHANNELS if few else BY_WINDOW
    whole = problem.kernel == problem.in_size and not any(map(any, problem.pads)) and max(problem.dilation) == 1
    if whole and rows * columns <= MOST_WHOLE:
        return WHOLE
    return BY_WINDOW if max(problem.kernel) > MOST_TAPS or max(_steps(problem)) > MOST_STRIDE else BY_ROWS


def _plane_taps(problem: PoolProblem) -> int:
    """Taps of all windows of a plane."""
    return math.prod(problem.kernel) * math.prod(problem.out_size)


def _channel_vectors(problem: PoolProblem, lanes: int) -> int:
    """Vectors of channels in an item of grad_input: few enough to be soon done, and for every thread to have some."""
    most = max(1, min(4, ITEM_VECTORS // _plane_taps(problem)))
    while most > 1 and problem.batch * -(-problem.channels // (most * lanes)) < ITEMS:
        most -= 1
    return most


def _steps(problem: PoolProblem) -> tuple[int, ...]:
    """Strides; with a single output along an axis its stride says nothing, and may be 2^62."""
    return tuple(1 if size == 1 else stride for size, stride in zip(problem.out_size, problem.stride))


@lru_cache(maxsize=256)
def _stacked(problem: PoolProblem) -> PoolProblem:
    """The same windows over one tall plane, where none reaches beyond its row of windows: blocks of several planes.

    For what is no index in a plane. 4096 planes of 8 x 8: 132 instead of 200 us, gradients of averages as fast.
    """
    planes, (rows, columns), (kernel, _) = problem.batch * problem.channels, problem.in_size, problem.kernel
    apart = rows == problem.out_size[0] * kernel and problem.stride[0] == kernel and problem.dilation[0] == 1
    if not apart or any(problem.pads[0]) or _way(problem) != BY_ROWS or not 1 < planes <= 2**30 // (rows * columns):
        return problem
    return replace(problem, batch=1, channels=1, in_size=(planes * rows, columns))


@dataclass(frozen=True)
class Schedule:
    """What all calls of a problem share."""

    task: bytes  # behind the head that a call makes
    scratch_bytes: int  # of each thread
    forward_items: int
    label_items: int
    backward_items: int
    fields: dict[str, Any]
    tables: tuple[np.ndarray, ...]  # the task holds their addresses


@lru_cache(maxsize=256)
def _schedule(problem: PoolProblem, vector_bytes: int) -> Schedule:
    """A function of the problem and the vector length alone."""
    item_bytes = ITEM_BYTES[problem.dtype]
    lanes = vector_bytes // item_bytes
    way, steps = _way(problem), _steps(problem)
    maximum = problem.kind == "max"
    (kernel_h, kernel_w), (dilation_h, dilation_w) = problem.kernel, problem.dilation
    (low_h, high_h), (low_w, high_w) = problem.pads
    (rows, columns), (in_rows, in_columns) = problem.out_size, problem.in_size

    # Forward: padded rows in phases, and with labels the maxima of rows beside their labels.
    rowed = way in (BY_ROWS, WHOLE)
    column_block = even(columns, BLOCK_COLUMNS)
    if way == BY_CHANNELS:
        column_block = even(columns, max(1, ITEM_TAPS // (math.prod(problem.kernel) * problem.channels)))
    channel_block = min(_channel_vectors(problem, lanes) * lanes, problem.channels)
    pooled_pitch = _whole(column_block, lanes)
    pitch = _whole(pooled_pitch + (kernel_w - 1) * dilation_w // steps[1], lanes) if rowed else 0
    padded_bytes = steps[1] * pitch * item_bytes
    labelled_bytes = padded_bytes + 2 * pooled_pitch * item_bytes
    row_block = even(rows, BLOCK_BYTES // max(padded_bytes, pooled_pitch * item_bytes))
    beyond = (kernel_h - 1) * dilation_h if rowed else 0  # rows that a window reaches below its first
    label_block = even(rows, (LABEL_BYTES // labelled_bytes - beyond - 1) // steps[0] + 1) if rowed else row_block
    around = (way == BY_ROWS and problem.kernel == (3, 3) and steps == problem.dilation == (1, 1)
              and problem.pads == ((1, 1), (1, 1)) and problem.out_size == problem.in_size and column_block == columns
             )  # fmt: skip
    if around:  # results and indices of 3 KB at a time: planes of 56 x 56 from memory at 22 GB/s, with 12 KB 13
        row_bytes = columns * (item_bytes + 8)
        label_block = rows if rows * row_bytes <= LABEL_BYTES else even(rows, AROUND_BYTES // row_bytes)
    label_rows = (label_block - 1) * steps[0] + beyond + 1

    # Backward: a maximum clears and scatters some rows of windows at a time; an average collects from rows of shares,
    # and as many of sums.
    cover_left = _whole((kernel_w - 1) // steps[1], lanes) if rowed else 0
    cover_pitch = cover_left + _whole(max(columns, (low_w + in_columns) // steps[1] + 2) + lanes, lanes)
    cover_bytes = 2 * cover_pitch * item_bytes
    fitting = (GRAD_BYTES // cover_bytes - 2) * steps[0] - kernel_h + 2
    grad_block = even(in_rows, max(steps[0], fitting - fitting % steps[0]))
    cover_rows = (grad_block + kernel_h - 2) // steps[0] + 2
    collects = not maximum and way == BY_ROWS and cover_rows * cover_bytes <= MOST_GRAD_BYTES
    if maximum:
        grad_block = even(rows, CLEAR_BYTES // (in_columns * steps[0] * item_bytes))

    clear_planes = max(1, CLEAR_BYTES // (in_rows * in_columns * item_bytes))
    abreast = math.prod(problem.kernel) >= MANY_WINDOWS * math.prod(steps)

    alike = not maximum and (problem.count_include_pad or problem.divisor_override is not None)

    found = label_block * column_block if maximum and way != BY_CHANNELS else 0
    sizes = {
        "pooled_offset": max(row_block, label_rows if maximum else 0) * padded_bytes,
        "labels_offset": label_rows * pooled_pitch * item_bytes if maximum and rowed else 0,
        "found_offset": label_rows * pooled_pitch * item_bytes if maximum and rowed else 0,
        "maxima_offset": found * 8,
        "cover_offset": found * item_bytes,
        "scratch_bytes": cover_rows * cover_bytes if collects else 0,
    }
    offsets = dict(zip(sizes, accumulate(aligned_bytes(size) for size in sizes.values()), strict=True))

    places = np.array([s * dilation_w % steps[1] * pitch + s * dilation_w // steps[1] for s in range(kernel_w)]
                      if rowed else [], np.int64)  # fmt: skip
    counts = _column_counts(problem, steps[1], lanes) if rowed and not maximum else np.empty(0)
    image_steps: dict[str, int] = {}
    for prefix, (a, b) in (("input", problem.in_size), ("output", problem.out_size)):
        c = problem.channels
        channel, row, column = (1, b * c, c) if problem.channels_last else (a * b, b, 1)
        image_steps |= {f"{prefix}_n": a * b * c, f"{prefix}_c": channel, f"{prefix}_h": row, f"{prefix}_w": column}
    planes = problem.batch * problem.channels
    fields = {
        "way": way, "maximum": maximum, "channels": problem.channels, "planes": planes,
        "channel_block": channel_block,
        "input_rows": in_rows, "input_columns": in_columns, "rows": rows, "columns": columns,
        "kernel_h": kernel_h, "kernel_w": kernel_w, "step_h": steps[0], "step_w": steps[1],
        "dilation_h": dilation_h, "dilation_w": dilation_w,
        "low_h": low_h, "high_h": high_h, "low_w": low_w, "high_w": high_w,
        "count_padding": problem.count_include_pad, "overridden": problem.divisor_override is not None,
        "divisor": float(problem.divisor_override or in_rows * in_columns), **image_steps,
        "places": places.ctypes.data, "counts": counts.ctypes.data,
        "around": around, "around_alike": around and alike,
        "row_block": row_block, "label_block": label_block, "column_block": column_block,
        "pitch": pitch, "pooled_pitch": pooled_pitch,
        "clear_planes": _whole(clear_planes, 4) if abreast else clear_planes, "abreast": abreast,
        "grad_block": grad_block, "collects": collects, "cover_rows": cover_rows, "cover_pitch": cover_pitch,
        "cover_left": cover_left, **offsets,
    }  # fmt: skip
    groups = -(-planes // lanes)  # of whole planes
    across = -(-columns // column_block)
    items = planes * -(-rows // row_block) * across, planes * -(-rows // label_block) * across, planes
    if way == WHOLE:
        items = groups, items[1], planes if maximum else groups
    elif way == BY_CHANNELS:
        each = problem.batch * rows * across
        items = each, each, problem.batch * -(-problem.channels // channel_block)
    return Schedule(
        _kernels("pool").pooling_task(**fields), max(offsets["scratch_bytes"], ALIGNMENT), *items, fields,
        (places, counts),
    )  # fmt: skip


def _whole(count: int, lanes: int) -> int:
    """`count` rounded up to whole vectors."""
    return -(-count // lanes) * lanes


def _column_counts(problem: PoolProblem, step: int, lanes: int) -> np.ndarray:
    """Along a row, what a window's sum is divided by; the rest of the divisor is the same for the whole row."""
    columns, size = problem.out_size[1], problem.in_size[1]
    counts = np.ones(columns + lanes, problem.dtype)
    low, high = problem.pads[1]
    begin = np.arange(columns) * step - low
    end = np.minimum(begin + problem.kernel[1], size + high)
    if not problem.count_include_pad:
        begin, end = begin.clip(0), end.clip(max=size)
    counts[:columns] = problem.divisor_override or (end - begin).clip(1)
    return counts


def workspace_bytes(problem: PoolProblem, direction: Direction, threads: int) -> tuple[int, int]:
    if unavailable():
        return 0, 0
    schedules = (_schedule(one, _kernels("pool").VECTOR_BYTES) for one in (problem, _stacked(problem)))
    each = max(schedule.scratch_bytes for schedule in schedules)
    return each, each * min(threads, MOST_THREADS)


def _run(
    kernel: int,
    items: int,
    schedule: Schedule,
    arrays: tuple[np.ndarray | None, ...],
    scratch: Scratch,
    threads: int,
) -> None:
    """Run one kernel on (input, output, indices, values, outside), or on their gradients."""
    threads = max(1, min(threads, MOST_THREADS, scratch.free // schedule.scratch_bytes))
    slots = scratch.reserve(threads * schedule.scratch_bytes)
    pool.run(kernel, _kernels("pool").pooling_call(*arrays, slots) + schedule.task, items, threads)


def forward(
    problem: PoolProblem,
    input: np.ndarray,
    output: np.ndarray,
    indices: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    kernels = _kernels("pool")
    schedule = _schedule(_stacked(problem) if indices is None else problem, kernels.VECTOR_BYTES)
    items = schedule.forward_items if indices is None else schedule.label_items
    _run(kernels.FORWARD[problem.dtype], items, schedule, (input, output, indices, None, None), scratch, threads)


def backward_input(
    problem: PoolProblem,
    grad_output: np.ndarray,
    input: np.ndarray | None,
    indices: np.ndarray | None,
    grad_input: np.ndarray,
    scratch: Scratch,
    threads: int,
) -> None:
    if problem.kind == "avg":
        problem = _stacked(problem)
    schedule = _schedule(problem, _kernels("pool").VECTOR_BYTES)
    outside = None if indices is None else np.zeros(1, np.int64)
    arrays = grad_input, grad_output, indices, input, outside
    _run(_kernels("pool_backward").BACKWARD[problem.dtype], schedule.backward_items, schedule, arrays, scratch, threads)
    if indices is not None and outside is not None and outside[0]:
        check_indices_inside(indices, problem.in_size)


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
            checks_indices=True,
        )
    ),
)
