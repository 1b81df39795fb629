"""Winograd's convolution, 3x3 of stride 1: a quarter of the products, for more additions and a larger error.

Volumes of such planes, too.

With the matrices A, B, G of F(m, 3) (fastconv/winograd.py), for every tile of m x m results::

    output = A^T [sum over c of (G weight[k, c] G^T) o (B^T input_tile[c] B)] A
    grad_input = the same of grad_output, with weights turned by half a circle and channels exchanged
    grad_weight[k, c] = G^T [sum over tiles of (A grad_output_tile[k] A^T) o (B^T input_tile[c] B)] G

so that between the transforms there is a matrix product (tiles x C by C x K) for each of (m + 2)^2 frequencies: 4, 2.25
times fewer products for m = 4, 2 than directly, 5.06 for m = 6.

Work: N ceil(P / m) ceil(Q / m) C/g K (m + 2)^2 multiply-accumulates, and transforms of 5 to 10 additions for each
element of input, output and weight. Memory: weights, or else tiles, transformed (4 times the weights; 2.25 times the
input for m = 4), and tiles and sums of a block for each thread. Numerics: see `error`; infinity and NaN spread over
their tile, in grad_weight over the gradients of their channels.

S. Winograd 1980; A. Lavin and S. Gray, CVPR 2016.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from fastconv import threads as pool
from fastconv.algorithm import Algorithm, Direction, Epilogue, PreparedWeight, always_ready, unit_roundoff
from fastconv.conv import compiled
from fastconv.conv.volumes import with_volumes
from fastconv.conv.winograd_blocks import Segments, Tiling, segments, tiling
from fastconv.machine import Machine
from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.winograd import POINTS, TAPS, amplification
from fastconv.workspace import ALIGNMENT, Scratch, aligned_bytes


@cache
def unavailable() -> str | None:
    try:
        for name in ("winograd", "winograd_gradient"):
            compiled.kernels(name)
    except ImportError as error:
        return str(error)
    return pool.unavailable()


def refusal(problem: ConvProblem, direction: Direction) -> str | None:
    if problem.axes != 2 or problem.kernel != (TAPS, TAPS):
        return "it is for kernels of 3x3"
    if problem.stride != (1, 1) or problem.dilation != (1, 1):
        return "it is for kernels of stride 1 and dilation 1"
    return None


def products(size: int, problem: ConvProblem, direction: Direction) -> tuple[int, int, int]:
    """Tiles, and channels summed over and not: the matrix product of each frequency of a group."""
    extents = problem.in_size if direction is Direction.BACKWARD_INPUT else problem.out_size
    tiles = problem.batch * math.prod(-(-extent // size) for extent in extents)
    channels = problem.group_in_channels, problem.group_out_channels
    return (tiles, *(channels[::-1] if direction is Direction.BACKWARD_INPUT else channels))


def _results(size: int, problem: ConvProblem, direction: Direction) -> tuple[int, int]:
    """Elements of the result, and those at the corners of a tile, or of a kernel: there errors are the largest."""
    if direction is Direction.BACKWARD_WEIGHT:
        filters = problem.group_in_channels * problem.out_channels
        return TAPS * TAPS * filters, 4 * filters
    forward = direction is Direction.FORWARD
    shape = (problem.out_channels, problem.out_size) if forward else (problem.in_channels, problem.in_size)
    every, corners = (problem.batch * shape[0],) * 2
    for extent in shape[1]:
        every *= extent
        corners *= 2 * (extent // size) + (extent % size > 0)
    return every, corners


def error(size: int, problem: ConvProblem, direction: Direction) -> float:
    """Rounding errors of sums of n products, as a random walk gives them, times what the last matrix makes of them.

    The largest of m normal variables is about sqrt(2 log m), and few of the results are at corners. Measured over 200
    shapes of 1 to 400 channels and 3 seeds: between a quarter of this and the whole in 99 (F(6, 3): 98) of 100 cases.
    """
    tiles, channels, _ = products(size, problem, direction)
    results, taps = amplification(size)
    summed, grows = (tiles, taps) if direction is Direction.BACKWARD_WEIGHT else (channels, results)
    every, corners = _results(size, problem, direction)
    largest = math.sqrt(math.log1p(corners) / math.log1p(max(every, 1)))
    return unit_roundoff(problem.dtype) * grows * (2.5 + 0.5 * math.sqrt(summed)) * largest


#: Fitted to 400 random problems at one thread on AVX-512 (half of them within 6 %, 96 % within 50 %): the product's
#: share of the peak, and the operations that would take the time of one transformed element, of the source, of the
#: destination (of grad_output) and of the weight.
SHARE_OF_PEAK = 0.85
SOURCE_FLOPS, DEST_FLOPS, GRAD_FLOPS, WEIGHT_FLOPS = 24, 11, 20, 10
#: Seconds of a call.
CALL_SECONDS = 8e-6


def cost(size: int, problem: ConvProblem, direction: Direction, threads: int, machine: Machine) -> float:
    lanes = {"v4": 64, "v3": 32}.get(machine.level, 16) // ITEM_BYTES[problem.dtype]
    tiles, source, dest = products(size, problem, direction)
    whole_source, whole_dest = (-(-channels // lanes) * lanes for channels in (source, dest))
    if direction is Direction.BACKWARD_WEIGHT:
        flops = 2 * tiles * whole_source * whole_dest / SHARE_OF_PEAK + GRAD_FLOPS * tiles * whole_dest
    else:
        flops = 2 * tiles * source * whole_dest / SHARE_OF_PEAK + DEST_FLOPS * tiles * whole_dest
    flops += SOURCE_FLOPS * tiles * whole_source + WEIGHT_FLOPS * source * whole_dest
    flops *= problem.groups * (size + TAPS - 1) ** 2
    seconds = flops / machine.peak_flops(problem.dtype) / threads
    return CALL_SECONDS + max(seconds, problem.bytes / machine.copy_bandwidth)


def _tiling(size: int, problem: ConvProblem, direction: Direction, allow_staged: bool = True) -> Tiling:
    module = compiled.kernels("winograd")
    return tiling(problem, direction, size, module.VECTOR_BYTES, module.TILE_ROWS, allow_staged)


@lru_cache(maxsize=256)
def _segments(size: int, problem: ConvProblem, vector_bytes: int) -> tuple[Segments, bytes]:
    """The schedule of grad_weight, and what it knows of the task."""
    schedule = segments(problem, size, vector_bytes)
    return schedule, compiled.kernels("winograd_gradient").gradient_task(**schedule.fields)


def workspace_bytes(size: int, problem: ConvProblem, direction: Direction, threads: int) -> tuple[int, int]:
    if unavailable():
        return 0, 0
    threads = min(threads, compiled.MOST_THREADS)
    if direction is Direction.BACKWARD_WEIGHT:
        sums, _ = _segments(size, problem, compiled.vector_bytes())
        shared = aligned_bytes(sums.tile_bytes) + aligned_bytes(sums.grad_bytes) + aligned_bytes(sums.sum_bytes)
        return shared + sums.slot_bytes, shared + threads * sums.slot_bytes
    best, fused = _tiling(size, problem, direction), _tiling(size, problem, direction, allow_staged=False)
    shared = aligned_bytes(best.tile_bytes if best.staged else best.weight_items * best.weight_bytes)
    least = min(shared + best.slot_bytes, aligned_bytes(fused.weight_bytes) + fused.slot_bytes)
    return least, shared + threads * best.slot_bytes


@lru_cache(maxsize=256)
def _prepared(
    size: int, problem: ConvProblem, direction: Direction, module: Any, granted: int, threads: int
) -> tuple[Tiling, bytes, int, int]:
    """The schedule for so many bytes, what it knows of the task, threads, and blocks of weights at once."""
    schedule = _tiling(size, problem, direction)
    if schedule.staged and aligned_bytes(schedule.tile_bytes) + schedule.slot_bytes > granted:
        schedule = _tiling(size, problem, direction, allow_staged=False)
    if schedule.staged:
        threads, _ = compiled.share(granted, 1, schedule.tile_bytes, schedule.slot_bytes, threads)
        at_once = schedule.weight_items
    else:
        items, item_bytes = schedule.weight_items, schedule.weight_bytes
        threads, at_once = compiled.share(granted, items, item_bytes, schedule.slot_bytes, threads)
    return schedule, module.winograd_task(**schedule.fields), threads, at_once


def prepare_weight(
    size: int, problem: ConvProblem, direction: Direction, weight_kcrs: np.ndarray, threads: int
) -> PreparedWeight:
    """The weight of all blocks of channels, transformed: it is the same for every batch."""
    module = compiled.kernels("winograd")
    schedule = _tiling(size, problem, direction)
    nbytes = schedule.weight_items * schedule.weight_bytes
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    memory = memory[start : start + nbytes]
    call = module.winograd_call(None, weight_kcrs, None, memory.ctypes.data, 0, None, 0)
    task = module.winograd_task(**schedule.fields)
    pool.run(module.PACK[problem.dtype], call + task, schedule.weight_items, threads)
    return PreparedWeight(memory)


def _correlate(
    direction: Direction,
    size: int,
    problem: ConvProblem,
    source: np.ndarray,
    weight_kcrs: np.ndarray | PreparedWeight,
    dest: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    """All tiles and then all weights; or as many weights as the scratch holds and then all tiles, and so on."""
    prepared = weight_kcrs.memory.ctypes.data if isinstance(weight_kcrs, PreparedWeight) else 0
    weight = None if isinstance(weight_kcrs, PreparedWeight) else weight_kcrs
    module, dtype = compiled.kernels("winograd"), problem.dtype
    schedule, task, threads, at_once = _prepared(size, problem, direction, module, scratch.free, threads)
    relu = epilogue.activation == "relu"
    if schedule.staged:
        tiles, slots = scratch.reserve(schedule.tile_bytes), scratch.reserve(threads * schedule.slot_bytes)
        call = module.winograd_call(source, weight, dest, prepared, tiles, epilogue.bias, slots, relu=relu)
        pool.run(module.TRANSFORM[dtype], call + task, schedule.tile_items, threads)
        pool.run(module.STAGED[dtype], call + task, schedule.staged_items, threads)
        return
    packed, slots = scratch.reserve(at_once * schedule.weight_bytes), scratch.reserve(threads * schedule.slot_bytes)
    if prepared:
        packed, at_once = prepared, schedule.weight_items
    group_tiles, group_weights = schedule.tile_items // problem.groups, schedule.weight_items // problem.groups
    for first in range(0, schedule.weight_items, at_once):
        last = min(first + at_once, schedule.weight_items)
        call = module.winograd_call(
            source, weight, dest, packed, 0, epilogue.bias, slots, first, last, relu
        )  # fmt: skip
        groups = (last - 1) // group_weights - first // group_weights + 1
        if not prepared:
            pool.run(module.PACK[dtype], call + task, last - first, threads)
        pool.run(module.FUSED[dtype], call + task, groups * group_tiles, threads)


forward = partial(_correlate, Direction.FORWARD)
backward_input = partial(_correlate, Direction.BACKWARD_INPUT)


def backward_weight(
    size: int,
    problem: ConvProblem,
    grad_output: np.ndarray,
    input: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    """Transform a segment of tiles of both, add their products, and so on."""
    module, dtype = compiled.kernels("winograd_gradient"), problem.dtype
    schedule, task = _segments(size, problem, compiled.vector_bytes())
    tiles, grads = scratch.reserve(schedule.tile_bytes), scratch.reserve(schedule.grad_bytes)
    sums = scratch.reserve(schedule.sum_bytes) if schedule.sum_bytes else 0
    threads, _ = compiled.share(scratch.free, 0, 0, schedule.slot_bytes, threads)
    slots = scratch.reserve(threads * schedule.slot_bytes)
    for first in range(0, schedule.tiles, schedule.segment):
        last = min(first + schedule.segment, schedule.tiles)
        call = module.gradient_call(
            input, grad_output, grad_weight, grad_bias, tiles, grads, sums, slots, first, last
        )  # fmt: skip
        pool.run(module.TRANSFORM[dtype], call + task, 2 * problem.groups * schedule.blocks(last - first), threads)
        pool.run(module.CONTRACT[dtype], call + task, schedule.items, threads)
    if grad_bias is not None:
        pool.run(module.SUM[dtype], call + task, problem.out_channels, threads)


ALGORITHMS = tuple(
    with_volumes(
        Algorithm(
            name=f"cython_winograd_f{size}",
            group="cython_winograd",
            transforms=True,
            unavailable=unavailable,
            refusal=refusal,
            ready=always_ready,
            error=partial(error, size),
            cost=partial(cost, size),
            workspace_bytes=partial(workspace_bytes, size),
            prepare_weight=partial(prepare_weight, size),
            forward=partial(forward, size),
            backward_input=partial(backward_input, size),
            backward_weight=partial(backward_weight, size),
        )
    )
    for size in POINTS
)
