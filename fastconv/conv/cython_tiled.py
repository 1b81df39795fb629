"""Direct convolution in register tiles: compiled ahead, no columns, no transform.

Forward and grad_input are one schedule: pixels of a destination gather from a source through the taps of the
kernel, as a matrix product over (channel, tap)::

    output[n, k, p, q]     = sum over (c, r, s) of  input[n, c, p*stride - pad + r*dilation, ...] * weight[k, c, r, s]
    grad_input[n, c, h, w] = sum over (k, r, s) of  grad_output[n, k, (h + pad - r*dilation) / stride, ...] * weight
    grad_weight[k, c, r, s] = sum over (n, p, q) of  input[n, c, p*stride - pad + r*dilation, ...] * grad_output

Vectors run over 2 registers of output (grad_input: input; grad_weight: output) channels, tiles over up to 14 pixels
(grad_weight: input channels), the sum by a table of distances into a copy of the few input rows that a block needs.
See kernels/cython/direct.pyx and gradient.pyx; the cutting into blocks is in correlation.py and contraction.py.
Depthwise convolution (depthwise.py, channels last: depthwise_channels.py) and grad_weight of few channels or one tap
(dots.py) have kernels of their own; a kernel of the input's size is a linear layer (linear.py).

Work: N K P Q C/g R S multiply-accumulates in each direction, K (C) rounded up to a vector. Memory: packed weights,
and a buffer and sums of at most a megabyte for each thread. Numerics: sums in the problem's dtype, in chunks of
some 576 products. In grad_input, weights that are not finite take a path tap by tap, so that zeros which stand for
what lies beyond grad_output never meet them.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Any

import numpy as np

from fastconv import threads as pool
from fastconv.algorithm import (
    Algorithm,
    Direction,
    Epilogue,
    always_ready,
    direct_error,
    reduction_length,
    unit_roundoff,
)
from fastconv.conv import compiled, depthwise, depthwise_channels, dots
from fastconv.conv.contraction import Contraction, contraction
from fastconv.conv.correlation import BLOCK_REDUCTION, Correlation, correlation
from fastconv.conv.linear import as_linear
from fastconv.conv.volumes import with_volumes
from fastconv.machine import Machine
from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.workspace import Scratch, aligned_bytes


@cache
def unavailable() -> str | None:
    try:
        for name in ("direct", "pack", "gradient", "dots", "depthwise", "depthwise_channels"):
            compiled.kernels(name)
    except ImportError as error:
        return str(error)
    return pool.unavailable()


def _depthwise(problem: ConvProblem) -> ModuleType:
    """The depthwise kernels for its layout."""
    return depthwise_channels if problem.channels_last else depthwise


def refusal(problem: ConvProblem, direction: Direction) -> str | None:
    return None if problem.axes == 2 else "its tiles are cut from images of two spatial axes"


def error(problem: ConvProblem, direction: Direction) -> float:
    """That of any order of summing, but for sums in chunks, whose error grows as that of one chunk.

    Measured over 175 shapes of 1 to 600 channels, forward and grad_input: 0.26 to 1 of this, once 1.2.
    """
    if direction is Direction.BACKWARD_WEIGHT:
        return direct_error(problem, direction)
    summed = min(reduction_length(problem, direction), BLOCK_REDUCTION)
    return unit_roundoff(problem.dtype) * (0.5 + 0.87 * math.sqrt(summed))


#: Measured at one thread, AVX-512, share of the peak. Dense: 3x3, 5x5 and 1x1 layers of 64 to 512 channels reach
#: 0.82-0.95, 0.8-0.95 and 0.65-0.9 of it, strided ones 0.6-0.9. Narrow, fitted to 1,700 random problems of up to 8
#: channels: half within 25 %.
SHARE_OF_PEAK = {Direction.FORWARD: 0.87, Direction.BACKWARD_INPUT: 0.85, Direction.BACKWARD_WEIGHT: 0.8}
NARROW_SHARE_OF_PEAK = {Direction.FORWARD: 0.68, Direction.BACKWARD_INPUT: 0.68, Direction.BACKWARD_WEIGHT: 0.5}
#: Seconds to pack a weight, or to write its gradient; of a plane of a narrow layer; of a call.
WEIGHT_SECONDS, PLANE_SECONDS, CALL_SECONDS = 0.5e-9, 25e-9, 6e-6


def cost(problem: ConvProblem, direction: Direction, threads: int, machine: Machine) -> float:
    planes: float | None = _depthwise(problem).cost(problem, direction, threads, machine)
    if planes is not None:
        return planes
    problem = as_linear(problem)
    lanes = {"v4": 64, "v3": 32}.get(machine.level, 16) // ITEM_BYTES[problem.dtype]
    channels = problem.group_in_channels if direction is Direction.BACKWARD_INPUT else problem.group_out_channels
    seconds = 2 * problem.macs / machine.peak_flops(problem.dtype)
    if channels <= max(dots.FEW_OUTPUTS, lanes // 2):
        seconds /= NARROW_SHARE_OF_PEAK[direction]
        seconds += PLANE_SECONDS * problem.batch * max(problem.in_channels, problem.out_channels)
        seconds += problem.bytes / machine.copy_bandwidth
    else:
        seconds *= -(-channels // lanes) * lanes / channels / SHARE_OF_PEAK[direction]
    seconds += WEIGHT_SECONDS * math.prod(problem.weight_shape)
    return CALL_SECONDS + max(seconds / threads, problem.bytes / machine.copy_bandwidth)


def workspace_bytes(problem: ConvProblem, direction: Direction, threads: int) -> tuple[int, int]:
    if unavailable():
        return 0, 0
    if _depthwise(problem).takes(problem, direction):
        least_and_best: tuple[int, int] = _depthwise(problem).workspace_bytes(problem, direction, threads)
        return least_and_best
    spread = _spread_bytes(problem, direction)
    problem, threads = as_linear(problem), min(threads, compiled.MOST_THREADS)
    if direction is Direction.BACKWARD_WEIGHT and dots.takes(problem, compiled.vector_bytes()):
        return dots.workspace_bytes(problem, threads)
    if direction is Direction.BACKWARD_WEIGHT:
        sums = contraction(problem, compiled.vector_bytes())
        return (
            sums.bias_bytes + sums.range_bytes + sums.slot_bytes,
            sums.bias_bytes + sums.ranges * sums.range_bytes + threads * sums.slot_bytes,
        )
    schedule = correlation(problem, direction, compiled.vector_bytes())
    if schedule.packs_itself:
        return spread + schedule.slot_bytes, spread + threads * schedule.slot_bytes
    flags = spread + aligned_bytes(8 * schedule.ranges)
    return (
        flags + aligned_bytes(schedule.range_bytes) + schedule.slot_bytes,
        flags + aligned_bytes(schedule.ranges * schedule.range_bytes) + threads * schedule.slot_bytes,
    )


def _spread_bytes(problem: ConvProblem, direction: Direction) -> int:
    """Scratch for a bias of grad_input, where a linear layer's channels are the pixels of those that have one."""
    linear = direction is Direction.BACKWARD_INPUT and as_linear(problem) is not problem
    return aligned_bytes(as_linear(problem).in_channels * ITEM_BYTES[problem.dtype]) if linear else 0


def _spread(problem: ConvProblem, direction: Direction, bias: np.ndarray | None, scratch: Scratch) -> np.ndarray | None:
    """The bias of the problem that is computed: an entry for each of its channels."""
    if bias is None or not _spread_bytes(problem, direction):
        return bias
    spread = scratch.take((len(bias), math.prod(problem.kernel)), problem.dtype)
    spread[...] = bias[:, None]
    return spread.reshape(-1)


@lru_cache(maxsize=256)
def _prepared(problem: ConvProblem, direction: Direction, module: Any) -> tuple[Correlation, bytes, int] | None:
    """Schedule, task and kernel of the tiles; None where the depthwise kernels are better."""
    if _depthwise(problem).takes(problem, direction):
        return None
    schedule, task = compiled.gathering(as_linear(problem), direction, module.VECTOR_BYTES)
    return schedule, task, module.CORRELATE[problem.dtype]


def _correlate(
    direction: Direction,
    problem: ConvProblem,
    source: np.ndarray,
    weight_kcrs: np.ndarray,
    dest: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    """Gather all at once where items pack their weights; else pack as many as the scratch holds, gather those, etc."""
    module = compiled.kernels("direct")
    prepared = _prepared(problem, direction, module)
    if prepared is None:
        kernels = _depthwise(problem)
        kernels.correlate(problem, direction, source, weight_kcrs, dest, epilogue, scratch, threads)
        return
    schedule, task, correlate = prepared
    bias = _spread(problem, direction, epilogue.bias, scratch)
    relu = epilogue.activation == "relu"
    if schedule.packs_itself:
        if threads > 1:
            threads, _ = compiled.share(scratch.free, 0, 0, schedule.slot_bytes, threads)
        slots = scratch.reserve(threads * schedule.slot_bytes)
        call = module.correlation_call(source, weight_kcrs, dest, 0, None, bias, slots, 0, relu)
        pool.run(correlate, call + task, schedule.ranges, threads)
        return
    flags = scratch.take((schedule.ranges,), np.int64) if schedule.guarded else None
    threads, at_once = compiled.share(scratch.free, schedule.ranges, schedule.range_bytes, schedule.slot_bytes, threads)
    packed, slots = scratch.reserve(at_once * schedule.range_bytes), scratch.reserve(threads * schedule.slot_bytes)
    for first in range(0, schedule.ranges, at_once):
        ranges = min(at_once, schedule.ranges - first)
        arguments = (source, weight_kcrs, dest, packed, flags, bias, slots, first, relu)
        call = module.correlation_call(*arguments)
        pool.run(compiled.kernels("pack").PACK[problem.dtype], call + task, ranges, threads)
        if flags is not None and flags[:ranges].any():
            call = module.correlation_call(*arguments, True)
        pool.run(correlate, call + task, ranges * schedule.blocks_per_range, threads)


forward = partial(_correlate, Direction.FORWARD)
backward_input = partial(_correlate, Direction.BACKWARD_INPUT)


@lru_cache(maxsize=256)
def _contracting(problem: ConvProblem, vector_bytes: int) -> tuple[Contraction, bytes]:
    """The schedule of grad_weight, and what it knows of the task; it keeps the tables."""
    schedule = contraction(problem, vector_bytes)
    task = compiled.kernels("gradient").contraction_task(
        scratch_bytes=schedule.slot_bytes, **schedule.fields, **compiled.addresses(schedule.tables),
        **compiled.steps("input", problem.input_shape, problem.channels_last),
        **compiled.steps("grad_output", problem.output_shape, problem.channels_last),
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
    """Sum up as many parts as the scratch holds over all pixels, write them, and so on."""
    if _depthwise(problem).takes(problem, Direction.BACKWARD_WEIGHT):
        kernels = _depthwise(problem)
        kernels.backward_weight(problem, grad_output, input, grad_weight, grad_bias, scratch, threads)
        return
    problem = as_linear(problem)
    if dots.takes(problem, compiled.vector_bytes()):
        dots.backward_weight(problem, grad_output, input, grad_weight, grad_bias, scratch, threads)
        return
    module = compiled.kernels("gradient")
    schedule, task = _contracting(problem, module.VECTOR_BYTES)
    bias_sums = scratch.reserve(schedule.bias_bytes)
    threads, at_once = compiled.share(scratch.free, schedule.ranges, schedule.range_bytes, schedule.slot_bytes, threads)
    sums, slots = scratch.reserve(at_once * schedule.range_bytes), scratch.reserve(threads * schedule.slot_bytes)
    contract, finish = module.CONTRACT[problem.dtype], module.FINISH[problem.dtype]
    for first in range(0, schedule.ranges, at_once):
        parts = min(at_once, schedule.ranges - first)
        for block in range(0, schedule.split_blocks, schedule.run_blocks):
            call = module.contraction_call(
                input, grad_output, grad_weight, grad_bias, sums, bias_sums, slots, first, block,
                block + schedule.run_blocks,
            )  # fmt: skip
            pool.run(contract, call + task, parts * schedule.splits, threads)
        pool.run(finish, call + task, parts, threads)


ALGORITHMS = (
    with_volumes(
        Algorithm(
            name="cython_tiled",
            unavailable=unavailable,
            refusal=refusal,
            ready=always_ready,
            error=error,
            cost=cost,
            workspace_bytes=workspace_bytes,
            forward=forward,
            backward_input=backward_input,
            backward_weight=backward_weight,
        )
    ),
)
