"""Direct convolution in register tiles: compiled ahead, no columns, no transform.

Forward and grad_input are one schedule: pixels of a destination gather from a source through the taps of the
kernel, as a matrix product over (channel, tap)::

    output[n, k, p, q]     = sum over (c, r, s) of  input[n, c, p*stride - pad + r*dilation, ...] * weight[k, c, r, s]
    grad_input[n, c, h, w] = sum over (k, r, s) of  grad_output[n, k, (h + pad - r*dilation) / stride, ...] * weight
    grad_weight[k, c, r, s] = sum over (n, p, q) of  input[n, c, p*stride - pad + r*dilation, ...] * grad_output

Vectors run over 2 registers of output (grad_input: input; grad_weight: output) channels, tiles over up to 14 pixels
(grad_weight: input channels), the sum by a table of distances into a copy of the few input rows that a block needs.
See kernels/cython/direct.pyx and gradient.pyx; the cutting into blocks is in correlation.py and contraction.py.

Work: N K P Q C/g R S multiply-accumulates in each direction, K (C) rounded up to a vector. Memory: packed weights,
and a buffer and sums of at most a megabyte for each thread. Numerics: sums in the problem's dtype, in chunks of
some 576 products. In grad_input, weights that are not finite take a path tap by tap, so that zeros which stand for
what lies beyond grad_output never meet them.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

import numpy as np

from fastconv import threads as pool
from fastconv.algorithm import Algorithm, Direction, Epilogue, always_ready, direct_error
from fastconv.conv import depthwise
from fastconv.conv.contraction import Contraction, contraction
from fastconv.conv.correlation import Correlation, correlation
from fastconv.conv.volumes import with_volumes
from fastconv.kernels.cython import load
from fastconv.machine import Machine, machine
from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.workspace import ALIGNMENT, Scratch, aligned_bytes

#: Output channels of a group for which grad_weight is summed in vectors of pixels; multiply-accumulates of an item
#: between two looks at the signals.
FEW_OUTPUTS, RUN_MACS = 4, 50_000_000
#: The pool runs no more threads than this at once, each with scratch of its own.
MOST_THREADS = 256


@cache
def _kernels(name: str) -> Any:
    return load(name, machine().levels)


@cache
def unavailable() -> str | None:
    try:
        _kernels("direct"), _kernels("pack"), _kernels("gradient"), _kernels("dots"), _kernels("depthwise")
    except ImportError as error:
        return str(error)
    return pool.unavailable()


def refusal(problem: ConvProblem, direction: Direction) -> str | None:
    return None if problem.axes == 2 else "its tiles are cut from images of two spatial axes"


#: Measured at one thread, AVX-512, share of the peak. Dense: 3x3, 5x5 and 1x1 layers of 64 to 512 channels reach
#: 0.75-0.91, 0.7-0.9 and 0.55-0.88 of it. Narrow: depthwise and groups of 4 reach 0.08-0.55.
SHARE_OF_PEAK = {Direction.FORWARD: 0.85, Direction.BACKWARD_INPUT: 0.82, Direction.BACKWARD_WEIGHT: 0.7}
NARROW_SHARE_OF_PEAK = 0.2
#: Seconds to pack a weight, or to write its gradient; of a plane of a narrow layer; of a call.
WEIGHT_SECONDS, PLANE_SECONDS, CALL_SECONDS = 1e-9, 150e-9, 6e-6


def cost(problem: ConvProblem, direction: Direction, threads: int, machine: Machine) -> float:
    lanes = {"v4": 64, "v3": 32}.get(machine.level, 16) // ITEM_BYTES[problem.dtype]
    channels = problem.group_in_channels if direction is Direction.BACKWARD_INPUT else problem.group_out_channels
    seconds = 2 * problem.macs / machine.peak_flops(problem.dtype)
    if channels <= max(FEW_OUTPUTS, lanes // 2):
        seconds /= NARROW_SHARE_OF_PEAK
        seconds += PLANE_SECONDS * problem.batch * max(problem.in_channels, problem.out_channels)
    else:
        seconds *= -(-channels // lanes) * lanes / channels / SHARE_OF_PEAK[direction]
    seconds += WEIGHT_SECONDS * math.prod(problem.weight_shape)
    return CALL_SECONDS + max(seconds / threads, problem.bytes / machine.copy_bandwidth)


def workspace_bytes(problem: ConvProblem, direction: Direction, threads: int) -> tuple[int, int]:
    if unavailable():
        return 0, 0
    if depthwise.takes(problem, direction):
        return depthwise.workspace_bytes(problem, direction, threads)
    threads = min(threads, MOST_THREADS)
    vector_bytes = _kernels("direct").VECTOR_BYTES
    if direction is Direction.BACKWARD_WEIGHT and _by_dots(problem):
        slot_bytes = correlation(problem, Direction.FORWARD, vector_bytes).slot_bytes
        sums_bytes = _dots_bytes(problem)
        return sums_bytes + slot_bytes, sums_bytes + threads * slot_bytes
    if direction is Direction.BACKWARD_WEIGHT:
        sums = contraction(problem, vector_bytes)
        return (
            sums.bias_bytes + sums.range_bytes + sums.slot_bytes,
            sums.bias_bytes + sums.ranges * sums.range_bytes + threads * sums.slot_bytes,
        )
    schedule = correlation(problem, direction, vector_bytes)
    if schedule.packs_itself:
        return schedule.slot_bytes, threads * schedule.slot_bytes
    flags = aligned_bytes(8 * schedule.ranges)
    return (
        flags + aligned_bytes(schedule.range_bytes) + schedule.slot_bytes,
        flags + aligned_bytes(schedule.ranges * schedule.range_bytes) + threads * schedule.slot_bytes,
    )


def _by_dots(problem: ConvProblem) -> bool:
    """Whether grad_weight has too few output channels in a group to fill vectors with them."""
    return problem.group_out_channels <= FEW_OUTPUTS


def _dots_bytes(problem: ConvProblem) -> int:
    """Sums of grad_weight and grad_bias in float64."""
    return aligned_bytes(8 * math.prod(problem.weight_shape)) + aligned_bytes(8 * problem.out_channels)


@lru_cache(maxsize=256)
def _share(granted: int, ranges: int, range_bytes: int, slot_bytes: int, threads: int) -> tuple[int, int]:
    """How many threads the granted bytes have slots for, and how many ranges at once beside them."""
    threads = max(1, min(threads, MOST_THREADS, (granted - aligned_bytes(range_bytes)) // slot_bytes))
    left = (granted - threads * slot_bytes) // ALIGNMENT * ALIGNMENT
    return threads, max(1, min(ranges, left // max(range_bytes, 1)))


def _steps(prefix: str, shape: tuple[int, ...], channels_last: bool) -> dict[str, int]:
    """Elements from one image, channel, row and column of a contiguous array to the next."""
    _, a, b, c = shape
    image = a * b * c
    n, channel, row, column = (image, 1, b * c, c) if channels_last else (image, b * c, c, 1)
    return {f"{prefix}_n": n, f"{prefix}_c": channel, f"{prefix}_h": row, f"{prefix}_w": column}


def _addresses(tables: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: table.ctypes.data for name, table in tables.items()}


@lru_cache(maxsize=256)
def _gathering(problem: ConvProblem, direction: Direction, vector_bytes: int) -> tuple[Correlation, bytes]:
    """The schedule, and what it knows of the task; it keeps the tables."""
    schedule = correlation(problem, direction, vector_bytes)
    forward = direction is Direction.FORWARD
    taps = math.prod(problem.kernel)
    k_step = problem.group_in_channels * taps
    source, dest = (problem.input_shape, problem.output_shape)[:: 1 if forward else -1]
    task = _kernels("direct").correlation_task(
        weight_dest=k_step if forward else taps, weight_source=taps if forward else k_step,
        weight_group=problem.group_out_channels * k_step, scratch_bytes=schedule.slot_bytes,
        **schedule.fields, **_addresses(schedule.tables),
        **_steps("source", source, problem.channels_last), **_steps("dest", dest, problem.channels_last),
    )  # fmt: skip
    return schedule, task


def _correlate(
    problem: ConvProblem,
    direction: Direction,
    source: np.ndarray,
    weight_kcrs: np.ndarray,
    dest: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    """Gather all at once where items pack their weights; else pack as many as the scratch holds, gather those, etc."""
    if depthwise.takes(problem, direction):
        depthwise.correlate(problem, direction, source, weight_kcrs, dest, epilogue, scratch, threads)
        return
    kernels = _kernels("direct")
    schedule, task = _gathering(problem, direction, kernels.VECTOR_BYTES)
    correlate, relu = kernels.CORRELATE[problem.dtype], epilogue.activation == "relu"
    if schedule.packs_itself:
        threads, _ = _share(scratch.free, 0, 0, schedule.slot_bytes, threads)
        slots = scratch.reserve(threads * schedule.slot_bytes)
        call = kernels.correlation_call(source, weight_kcrs, dest, 0, None, epilogue.bias, slots, 0, relu)
        pool.run(correlate, call + task, schedule.ranges, threads)
        return
    flags = scratch.take((schedule.ranges,), np.int64) if schedule.guarded else None
    threads, at_once = _share(scratch.free, schedule.ranges, schedule.range_bytes, schedule.slot_bytes, threads)
    packed, slots = scratch.reserve(at_once * schedule.range_bytes), scratch.reserve(threads * schedule.slot_bytes)
    for first in range(0, schedule.ranges, at_once):
        ranges = min(at_once, schedule.ranges - first)
        arguments = (source, weight_kcrs, dest, packed, flags, epilogue.bias, slots, first, relu)
        call = kernels.correlation_call(*arguments)
        pool.run(_kernels("pack").PACK[problem.dtype], call + task, ranges, threads)
        if flags is not None and flags[:ranges].any():
            call = kernels.correlation_call(*arguments, True)
        pool.run(correlate, call + task, ranges * schedule.blocks_per_range, threads)


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
    _correlate(problem, Direction.BACKWARD_INPUT, grad_output, weight, grad_input, epilogue, scratch, threads)


def _backward_weight_by_dots(
    problem: ConvProblem,
    grad_output: np.ndarray,
    input: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    kernels, gathering = _kernels("dots"), _kernels("direct")
    schedule, task = _gathering(problem, Direction.FORWARD, gathering.VECTOR_BYTES)
    sums, bias_sums = scratch.take(grad_weight.shape, np.float64), scratch.take((problem.out_channels,), np.float64)
    threads = max(1, min(threads, MOST_THREADS, scratch.free // schedule.slot_bytes))
    call = gathering.correlation_call(
        input, None, grad_output, sums.ctypes.data, None, None if grad_bias is None else bias_sums,
        scratch.reserve(threads * schedule.slot_bytes),
    )  # fmt: skip
    macs = problem.macs // (problem.in_channels * schedule.blocks_per_range)
    at_once = max(1, RUN_MACS // max(macs, 1))
    for first in range(0, schedule.blocks_per_range, at_once):
        blocks = kernels.dots_range(first, min(first + at_once, schedule.blocks_per_range))
        pool.run(kernels.DOTS[problem.dtype], call + task + blocks, problem.in_channels, threads)
    with np.errstate(all="ignore"):
        np.copyto(grad_weight, sums, casting="same_kind")
        if grad_bias is not None:
            np.copyto(grad_bias, bias_sums, casting="same_kind")


@lru_cache(maxsize=256)
def _contracting(problem: ConvProblem, vector_bytes: int) -> tuple[Contraction, bytes]:
    """The schedule of grad_weight, and what it knows of the task; it keeps the tables."""
    schedule = contraction(problem, vector_bytes)
    task = _kernels("gradient").contraction_task(
        scratch_bytes=schedule.slot_bytes, **schedule.fields, **_addresses(schedule.tables),
        **_steps("input", problem.input_shape, problem.channels_last),
        **_steps("grad_output", problem.output_shape, problem.channels_last),
    )  # fmt: skip
    return schedule, task


def backward_weight(
    problem: ConvProblem,
    grad_output: np.ndarray,
    input: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    """Sum up as many items as the scratch holds over all pixels, write them, and so on."""
    if depthwise.takes(problem, Direction.BACKWARD_WEIGHT):
        depthwise.backward_weight(problem, grad_output, input, grad_weight, grad_bias, scratch, threads)
        return
    if _by_dots(problem):
        _backward_weight_by_dots(problem, grad_output, input, grad_weight, grad_bias, scratch, threads)
        return
    kernels = _kernels("gradient")
    schedule, task = _contracting(problem, kernels.VECTOR_BYTES)
    bias_sums = scratch.reserve(schedule.bias_bytes)
    threads, at_once = _share(scratch.free, schedule.ranges, schedule.range_bytes, schedule.slot_bytes, threads)
    sums, slots = scratch.reserve(at_once * schedule.range_bytes), scratch.reserve(threads * schedule.slot_bytes)
    contract, finish = kernels.CONTRACT[problem.dtype], kernels.FINISH[problem.dtype]
    for first in range(0, schedule.ranges, at_once):
        items = min(at_once, schedule.ranges - first)
        for block in range(0, schedule.blocks, schedule.run_blocks):
            call = kernels.contraction_call(
                input, grad_output, grad_weight, grad_bias, sums, bias_sums, slots, first, block,
                min(block + schedule.run_blocks, schedule.blocks),
            )  # fmt: skip
            pool.run(contract, call + task, items, threads)
        pool.run(finish, call + task, items, threads)


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
            backward_weight=backward_weight,
        )
    ),
)
