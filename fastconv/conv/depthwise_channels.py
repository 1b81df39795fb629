"""Depthwise convolution of channels-last images for cython_tiled: one input and one output channel in a group.

    output[n, p, q, c] = sum over (r, s) of  input[n, p*stride - pad + r*dilation, ..., c] * weight[c, r, s]

Vectors run along the channels, which are neighbours: a tap is one multiply-add for each vector, whatever the kernel,
stride and dilation. Weights are turned to [tap][channel] once per call. See kernels/cython/depthwise_channels.pyx.

Work: N P Q C R S multiply-accumulates, C rounded up to a vector. Memory: the weights, a row of zeros, and in
grad_weight the sums of each part, in float64. Numerics: grad_weight is summed in float over CHUNK_PIXELS pixels. In
forward and grad_weight taps outside meet a row of zeros, in grad_input nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from fastconv import threads as pool
from fastconv.algorithm import Direction, Epilogue
from fastconv.conv import compiled
from fastconv.conv.depthwise import ITEM_MACS, MOST_THREADS, strides_of
from fastconv.machine import Machine
from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.workspace import Scratch, aligned_bytes

#: Vectors of channels of an item: a row of 56 pixels and its neighbours stay in L2, its weights in L1.
GATHER_VECTORS, DOT_VECTORS = 32, 4
#: Items of grad_weight that are aimed at: few blocks of channels are cut into parts of their rows.
DOT_ITEMS = 16
#: Pixels whose products are summed in float before they go to float64.
CHUNK_PIXELS = 128
#: Taps of a kernel at most: 13 x 13.
MOST_TAPS = 169


@cache
def _kernels() -> Any:
    return compiled.kernels("depthwise_channels")


@dataclass(frozen=True)
class Schedule:
    """How one direction of a problem is cut up: a function of problem and vector alone."""

    task: bytes
    items: int
    slot_bytes: int
    parts: int  # of grad_weight


#: Measured at one thread, AVX-512, as a share of the peak: 3x3 of 64 to 512 channels.
SHARE_OF_PEAK, CALL_SECONDS = 0.4, 20e-6


def cost(problem: ConvProblem, direction: Direction, threads: int, machine: Machine) -> float | None:
    """Seconds; None where it is the tiles that compute the problem."""
    if not _fits(problem):
        return None
    seconds = 2 * problem.macs / machine.peak_flops(problem.dtype) / SHARE_OF_PEAK
    return CALL_SECONDS + max(seconds / threads, problem.bytes / machine.copy_bandwidth)


def _fits(problem: ConvProblem) -> bool:
    taps = math.prod(problem.kernel)
    return (
        problem.axes == 2 and problem.channels_last and problem.groups > 1
        and problem.group_in_channels == problem.group_out_channels == 1 and taps <= MOST_TAPS
        and max(problem.in_size[1], problem.out_size[1]) * problem.in_channels * taps <= ITEM_MACS
    )  # fmt: skip


@lru_cache(maxsize=256)
def schedule(problem: ConvProblem, direction: Direction, vector_bytes: int) -> Schedule | None:
    """The schedule of a depthwise problem; None where the tiles compute it."""
    if not _fits(problem):
        return None
    turned, products = direction is Direction.BACKWARD_INPUT, direction is Direction.BACKWARD_WEIGHT
    item_bytes, taps = ITEM_BYTES[problem.dtype], math.prod(problem.kernel)
    source, dest = (problem.out_size, problem.in_size) if turned else (problem.in_size, problem.out_size)
    block = (DOT_VECTORS if products else GATHER_VECTORS) * vector_bytes // item_bytes
    blocks = -(-problem.in_channels // block)
    rows = problem.batch * dest[0]
    parts = max(DOT_ITEMS // blocks, -(-problem.macs // ITEM_MACS), 1)
    part_rows = max(-(-rows // parts), 1)
    parts = max(-(-rows // part_rows), 1)
    sums_offset = aligned_bytes(2 * 8 * taps)
    slot_bytes = sums_offset + (aligned_bytes(taps * block * item_bytes) if products else 0)
    strides = strides_of(problem)
    task = _kernels().schedule_task(
        images=problem.batch, channels=problem.in_channels, block=block, blocks=blocks,
        source_rows=source[0], source_columns=source[1], rows=dest[0], columns=dest[1],
        kernel_h=problem.kernel[0], kernel_w=problem.kernel[1], stride_h=strides[0], stride_w=strides[1],
        dilation_h=problem.dilation[0], dilation_w=problem.dilation[1],
        low_h=problem.pads[0][0], low_w=problem.pads[1][0], turned=turned,
        parts=parts, part_rows=part_rows, chunk_pixels=CHUNK_PIXELS, sums_offset=sums_offset, slot_bytes=slot_bytes,
    )  # fmt: skip
    return Schedule(task, blocks * (parts if products else rows), slot_bytes, parts)


def takes(problem: ConvProblem, direction: Direction) -> bool:
    """Whether this engine computes the problem."""
    return schedule(problem, direction, compiled.vector_bytes()) is not None


def _schedule(problem: ConvProblem, direction: Direction) -> Schedule:
    found = schedule(problem, direction, compiled.vector_bytes())
    assert found is not None
    return found


def workspace_bytes(problem: ConvProblem, direction: Direction, threads: int) -> tuple[int, int]:
    cut, channels, taps = _schedule(problem, direction), problem.in_channels, math.prod(problem.kernel)
    arrays = aligned_bytes(channels * ITEM_BYTES[problem.dtype])
    if direction is Direction.BACKWARD_WEIGHT:
        arrays += aligned_bytes(8 * cut.parts * taps * channels) + aligned_bytes(8 * cut.parts * channels)
    else:
        arrays += aligned_bytes(taps * channels * ITEM_BYTES[problem.dtype])
    return arrays + cut.slot_bytes, arrays + min(threads, MOST_THREADS) * cut.slot_bytes


def _zeros(problem: ConvProblem, scratch: Scratch) -> np.ndarray:
    zeros_c = scratch.take((problem.in_channels,), problem.dtype)
    zeros_c[...] = 0
    return zeros_c


def _slots(scratch: Scratch, slot_bytes: int, threads: int) -> tuple[int, int]:
    """How many threads the scratch has room for, and its address."""
    threads = max(1, min(threads, MOST_THREADS, scratch.free // slot_bytes))
    return threads, scratch.reserve(threads * slot_bytes)


def correlate(
    problem: ConvProblem,
    direction: Direction,
    source: np.ndarray,
    weight: np.ndarray,
    dest: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    """Forward or grad_input."""
    kernels, cut = _kernels(), _schedule(problem, direction)
    zeros_c, weight_rsc = _zeros(problem, scratch), scratch.take((math.prod(problem.kernel), len(weight)), weight.dtype)
    weight_rsc[...] = weight.reshape(len(weight), -1).T
    threads, slots = _slots(scratch, cut.slot_bytes, threads)
    call = kernels.call_task(source, dest, weight_rsc, epilogue.bias, zeros_c, slots, epilogue.activation == "relu")
    pool.run(kernels.GATHER[problem.dtype], call + cut.task, cut.items, threads)


def backward_weight(
    problem: ConvProblem,
    grad_output: np.ndarray,
    input: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    """Sum up each part of the rows, then the parts in order."""
    kernels, cut = _kernels(), _schedule(problem, Direction.BACKWARD_WEIGHT)
    taps, channels = math.prod(problem.kernel), problem.in_channels
    zeros_c = _zeros(problem, scratch)
    totals = scratch.take((cut.parts, taps, channels), np.float64)
    bias_totals = None if grad_bias is None else scratch.take((cut.parts, channels), np.float64)
    threads, slots = _slots(scratch, cut.slot_bytes, threads)
    call = kernels.call_task(input, grad_output, None, None, zeros_c, slots, totals=totals, bias_totals=bias_totals)
    pool.run(kernels.DOTS[problem.dtype], call + cut.task, cut.items, threads)
    for sums, results in ((totals, grad_weight.reshape(channels, taps).T), (bias_totals, grad_bias)):
        if sums is not None and results is not None:
            for part in sums[1:]:
                sums[0] += part
            results[...] = sums[0]
