"""Direct convolution compiled by Numba: no columns, a few copied rows, sums kept in the nearest cache.

Forward, for a tile of output positions and all of its taps j = (c, r, s)::

    output[n, k, p, q] = bias[k] + sum over j of  weight[k, j] * rows[shift(j) + p * pitch + q]

where `rows` are the padded input rows of the tile, one plane per phase of the stride, so that each tap is a constant
shift of one long run. The gradient of the input is the same sum over (k, r, s) with planes of grad_output, one result
per phase of the stride. The gradient of the kernel takes the windows of 128 positions at a time::

    grad_weight[k, j] = sum over positions of  grad_output[k, position] * window[position, j]
    grad_bias[k]      = sum over n, p, q of  grad_output[n, k, p, q], in double

Work: N K P Q C/g R S multiply-accumulates in each direction. Memory: per thread the padded rows of one tile, or 128
windows. Layouts differ in strides alone.
Numerics: sums in the problem's dtype, term after term, fused; the order depends on the shape alone. The planes of
grad_output are padded with zeros, which is harmless unless a weight is infinite or NaN: then grad_input is gathered
by the definition, slowly.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from fastconv import jit
from fastconv.algorithm import Algorithm, Direction, Epilogue, direct_error
from fastconv.conv.tiles import ITEMS, LEAD, POSITIONS, correlation_layout, gradient_split
from fastconv.conv.volumes import with_volumes
from fastconv.jit import unavailable
from fastconv.machine import Machine
from fastconv.problem import ITEM_BYTES, ConvProblem, Ints
from fastconv.workspace import ALIGNMENT, Scratch, aligned_bytes

#: Measured on Zen 4, one thread: share of the FMA peak of `contract` on long runs.
PEAK_SHARE = 0.6

#: Measured: seconds to copy an element into a plane, and into a window.
SECONDS_PER_COPY = {Direction.FORWARD: 0.4e-9, Direction.BACKWARD_INPUT: 0.4e-9, Direction.BACKWARD_WEIGHT: 1e-9}

#: Measured: how much longer a term takes with fewer than four result channels.
FEW_CHANNELS = 2

#: Measured: seconds to store a result; and to find the window of one position, once for every work item.
SECONDS_PER_RESULT, SECONDS_PER_WINDOW = 0.7e-9, 50e-9

#: Measured: seconds of a call, by several threads.
SECONDS_PER_CALL = 60e-6


def refusal(problem: ConvProblem, direction: Direction) -> str | None:
    return None


def ready(problem: ConvProblem, direction: Direction) -> bool:
    if direction is Direction.BACKWARD_WEIGHT:
        return jit.ready(("gradient", "sum_bias"), problem.dtype)
    if direction is Direction.BACKWARD_INPUT and not jit.ready_serial(("count_not_finite", "gather"), problem.dtype):
        return False
    return jit.ready(("correlate",), problem.dtype)


def cost(problem: ConvProblem, direction: Direction, threads: int, machine: Machine) -> float:
    rate = PEAK_SHARE * machine.peak_flops(problem.dtype)
    if direction is Direction.BACKWARD_WEIGHT:
        split, positions = gradient_split(problem), _positions(problem)
        items = problem.groups * split.term_blocks * split.channel_blocks
        macs, channels = items * split.term_pitch * split.channel_block * positions, split.channel_block
        copied = items * split.term_block * positions
        seconds = items * positions * SECONDS_PER_WINDOW
    else:
        layout = correlation_layout(problem, direction)
        items = problem.batch * problem.groups * layout.row_tiles * layout.col_tiles * layout.blocks
        run = (layout.rows.tile - 1) * layout.pitch + layout.cols.tile + 48  # 48: what a short run wastes
        macs, channels = items * layout.block * run * layout.terms, layout.result_channels
        copied = items * layout.plane_size * layout.planes * layout.source_channels
        seconds = items * layout.block * layout.rows.tile * layout.cols.tile * layout.results * SECONDS_PER_RESULT
    seconds += 2 * macs / rate * (1 if channels >= 4 else FEW_CHANNELS) + copied * SECONDS_PER_COPY[direction]
    return SECONDS_PER_CALL + seconds / max(1, min(threads, items)) + problem.bytes / machine.copy_bandwidth


def workspace_bytes(problem: ConvProblem, direction: Direction, threads: int) -> tuple[int, int]:
    shared, each = _scratch_bytes(problem, direction)
    slots = min(threads, ITEMS)
    return shared + each, shared + each * slots


# -- Scratch ----------------------------------------------------------------------------------------


def _positions(problem: ConvProblem) -> int:
    return problem.batch * math.prod(problem.out_size)


def _buffer_elements(problem: ConvProblem, direction: Direction) -> int:
    """Elements of the buffer of one thread: sums, and planes or windows; whole cache lines."""
    if direction is Direction.BACKWARD_WEIGHT:
        split = gradient_split(problem)
        elements = split.channel_block * LEAD + POSITIONS * split.term_pitch
    else:
        layout = correlation_layout(problem, direction)
        elements = 4 * LEAD + layout.source_channels * layout.planes * layout.plane_size + 16
    line = ALIGNMENT // ITEM_BYTES[problem.dtype]
    return -(-elements // line) * line


def _scratch_bytes(problem: ConvProblem, direction: Direction) -> tuple[int, int]:
    """Bytes for all threads together, and for each."""
    each = _buffer_elements(problem, direction) * ITEM_BYTES[problem.dtype]
    if direction is Direction.BACKWARD_WEIGHT:
        terms = problem.group_in_channels * math.prod(problem.kernel)
        return 3 * aligned_bytes(8 * terms) + aligned_bytes(8 * POSITIONS), each + 8 * POSITIONS
    return 2 * aligned_bytes(8 * correlation_layout(problem, direction).terms), each


def _strides(problem: ConvProblem, array: np.ndarray) -> Ints:
    """Strides of an image array in elements, in the order n, c, h, w."""
    n, *rest = (stride // array.itemsize for stride in array.strides)
    return (n, rest[2], rest[0], rest[1]) if problem.channels_last else (n, *rest)


def _slots(scratch: Scratch, each: int, threads: int) -> int:
    return max(1, min(threads, ITEMS, scratch.free // each))


# -- The three directions ---------------------------------------------------------------------------


@cache
def _kernels() -> tuple[Any, Any]:
    from fastconv.kernels.numba import correlate, gradient

    return correlate, gradient


def _correlate(
    problem: ConvProblem,
    direction: Direction,
    source: np.ndarray,
    weight: np.ndarray,
    result: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    module, _ = _kernels()
    layout, terms_rs = correlation_layout(problem, direction), math.prod(problem.kernel)
    rows, cols = layout.rows, layout.cols
    forward = direction is Direction.FORWARD
    row_terms = problem.group_in_channels * terms_rs
    # From one term's channel to the next, and from one result channel to the next.
    weight_step, weight_row = (terms_rs, row_terms) if forward else (row_terms, terms_rs)
    source_at = scratch.take((layout.terms,), np.int64)
    weight_at = scratch.take((layout.terms,), np.int64)
    ends, done = [], 0
    channels = np.arange(layout.source_channels)[:, None]
    for phase in range(layout.results):
        taps = [tap for tap in layout.taps if tap[0] == phase]
        part = slice(done, done + layout.source_channels * len(taps))
        shape = (layout.source_channels, len(taps))
        shifts, weights = (np.array([tap[i] for tap in taps], np.int64) for i in (1, 2))
        np.add(channels * (layout.planes * layout.plane_size), shifts, out=source_at[part].reshape(shape))
        np.add(channels * weight_step, weights, out=weight_at[part].reshape(shape))
        done = part.stop
        ends.append(done)
    slots = _slots(scratch, _scratch_bytes(problem, direction)[1], threads)
    buffers = scratch.take((slots, _buffer_elements(problem, direction)), problem.dtype)
    source_size, result_size = (problem.in_size, problem.out_size) if forward else (problem.out_size, problem.in_size)
    task = module.Task(
        slots, problem.groups,
        layout.row_tiles, layout.col_tiles, layout.blocks, layout.block,
        rows.first, rows.last, rows.tile, cols.first, cols.last, cols.tile, rows.halo, layout.pitch,
        layout.source_channels, *source_size, *_strides(problem, source), rows.source_step, cols.source_step,
        layout.result_channels, *result_size, *_strides(problem, result), rows.result_step, cols.result_step,
        problem.group_out_channels * row_terms, weight_row, int(epilogue.activation == "relu"),
    )  # fmt: skip
    bias = np.empty(0, problem.dtype) if epilogue.bias is None else epilogue.bias
    args = (
        task, jit.flat(source), jit.flat(weight), jit.flat(bias), jit.flat(result, writable=True),
        np.array(rows.planes), np.array(cols.planes), np.array(rows.results), np.array(cols.results), np.array(ends),
        source_at, weight_at, buffers,
    )  # fmt: skip
    items = problem.batch * problem.groups * layout.row_tiles * layout.col_tiles * layout.blocks
    jit.run(module, "correlate", args, problem.dtype, threads, items)


def forward(
    problem: ConvProblem,
    input: np.ndarray,
    weight: np.ndarray,
    output: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    _correlate(problem, Direction.FORWARD, input, weight, output, epilogue, scratch, threads)


def backward_input(
    problem: ConvProblem,
    grad_output: np.ndarray,
    weight: np.ndarray,
    grad_input: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    _, module = _kernels()
    direction = Direction.BACKWARD_INPUT
    checked = (jit.flat(weight),)
    if not jit.ready_serial(("gather",), problem.dtype):  # not only when the first infinity comes by
        jit.compile_serial(module, "gather", _gather_arguments(problem, grad_output, weight, grad_input), problem.dtype)
    if jit.compiled(module.count_not_finite, checked, problem.dtype)(*checked):
        items = problem.batch * problem.in_channels * problem.in_size[0]
        gathered = _gather_arguments(problem, grad_output, weight, grad_input)
        jit.run_serial(module, "gather", gathered, problem.dtype, items)
        epilogue.apply(grad_input, problem.channels_last)
        return
    layout = correlation_layout(problem, direction)
    if layout.results == math.prod(problem.stride):
        _correlate(problem, direction, grad_output, weight, grad_input, epilogue, scratch, threads)
    else:
        grad_input[...] = 0  # a stride larger than the kernel leaves pixels without any window
        _correlate(problem, direction, grad_output, weight, grad_input, Epilogue(), scratch, threads)
        epilogue.apply(grad_input, problem.channels_last)


def _gather_arguments(
    problem: ConvProblem, grad_output: np.ndarray, weight: np.ndarray, grad_input: np.ndarray
) -> tuple[Any, ...]:
    """For the exact kernel of weights that are not finite: rare, so it is compiled for one thread only."""
    _, module = _kernels()
    task = module.Gather(
        problem.group_in_channels, problem.group_out_channels, problem.groups, *problem.in_size, *problem.out_size,
        *problem.kernel, *problem.stride, *problem.dilation, *(low for low, _ in problem.pads),
        *_strides(problem, grad_output), *_strides(problem, grad_input),
    )  # fmt: skip
    return task, jit.flat(grad_output), jit.flat(weight), jit.flat(grad_input, writable=True)


def backward_weight(
    problem: ConvProblem,
    grad_output: np.ndarray,
    input: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    _, module = _kernels()
    split, terms = gradient_split(problem), problem.group_in_channels * math.prod(problem.kernel)
    output_strides, input_strides = _strides(problem, grad_output), _strides(problem, input)
    tables = [scratch.take((terms,), np.int64) for _ in range(3)]
    window_at = scratch.take((POSITIONS,), np.int64)
    window_at[:] = np.arange(0, POSITIONS * split.term_pitch, split.term_pitch)
    _fill_taps(problem, input_strides, *tables)
    slots = _slots(scratch, _scratch_bytes(problem, Direction.BACKWARD_WEIGHT)[1], threads)
    buffers = scratch.take((slots, _buffer_elements(problem, Direction.BACKWARD_WEIGHT)), problem.dtype)
    outputs_at = scratch.take((slots, POSITIONS), np.int64)
    reach = [d * (k - 1) for d, k in zip(problem.dilation, problem.kernel, strict=True)]
    images = jit.flat(grad_output), jit.flat(input), jit.flat(grad_weight, writable=True)
    for first in range(0, _positions(problem), split.positions):
        task = module.Task(
            slots, terms, split.term_block, split.term_blocks,
            problem.group_out_channels, split.channel_block, split.channel_blocks,
            first, min(first + split.positions, _positions(problem)), int(first == 0),
            *problem.out_size, *problem.stride, *(low for low, _ in problem.pads), *problem.in_size, *reach,
            *output_strides, input_strides[0], problem.group_in_channels * input_strides[1], *input_strides[2:],
        )  # fmt: skip
        args = (task, *images, *(tables), window_at, outputs_at, buffers)
        items = problem.groups * split.term_blocks * split.channel_blocks
        jit.run(module, "gradient", args, problem.dtype, threads, items)
    if grad_bias is not None:
        shape = (problem.batch, *problem.out_size)
        args = (images[0], jit.flat(grad_bias, writable=True), shape, output_strides, slots)
        jit.run(module, "sum_bias", args, problem.dtype, threads, problem.out_channels)


def _fill_taps(problem: ConvProblem, strides: Ints, tap_h: np.ndarray, tap_w: np.ndarray, tap_at: np.ndarray) -> None:
    """Where each (c, r, s) of a window lies from its begin: rows, columns, elements."""
    shape = (problem.group_in_channels, *problem.kernel)
    rows = np.arange(problem.kernel[0])[:, None] * problem.dilation[0]
    cols = np.arange(problem.kernel[1]) * problem.dilation[1]
    channels = np.arange(problem.group_in_channels)[:, None, None] * strides[1]
    tap_h.reshape(shape)[...] = rows
    tap_w.reshape(shape)[...] = cols
    np.add(channels, rows * strides[2] + cols * strides[3], out=tap_at.reshape(shape))


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
            backward_weight=backward_weight,
        )
    ),
)
