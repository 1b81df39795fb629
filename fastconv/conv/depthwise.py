"""Depthwise convolution for cython_tiled: one input channel in a group, one output channel or a few.

    output[n, c*m + j, p, q] = sum over (r, s) of  input[n, c, p*stride - pad + r*dilation, ...] * weight[c*m + j, r, s]

There is no sum over channels, so that planes are what is worked on: a plane (a block of its rows; several small ones
at a time) is copied with its padding to a buffer in L1, and vectors run along its rows. See
kernels/cython/depthwise.pyx. Arithmetic hides behind the memory: 3x3 takes 9 multiply-adds for 8 bytes.

grad_input of stride 1 is forward with turned weights, of stride 2 an interleaving of four phases; weights that are
not finite take a path tap by tap, as nothing outside grad_output exists. Other strides are left to the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from fastconv import threads as pool
from fastconv.algorithm import Direction, Epilogue
from fastconv.kernels.cython import load
from fastconv.machine import Machine, machine
from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.taps import even
from fastconv.workspace import Scratch, aligned_bytes

#: Bytes of a block's buffer, half of an L1 cache; and at most, where a few rows alone need more.
BUFFER_BYTES, MOST_BUFFER_BYTES = 16 << 10, 192 << 10
#: Output channels of a group at most; multiply-accumulates of a channel's grad_weight at most, which is one item.
MOST_OUTPUTS, ITEM_MACS = 8, 100_000_000
#: Kernels whose tiles are written out.
TILED = (3, 5, 7)
#: Rows of the largest tile. Vectors of products that are summed in vectors before they go to float64.
TALL, CHUNK_VECTORS = 8, 256
#: Bytes of sums that grad_weight keeps side by side, and of how many steps of channels at most.
GROUP_BYTES, MOST_GROUP = 16 << 10, 16
#: Tensors of so many bytes are touched before grad_weight reads them by columns: 3.3 ms to 1.8 for 26 MB from memory.
TOUCHED_BYTES = 16 << 20
#: The pool runs no more threads than this at once, each with scratch of its own.
MOST_THREADS = 256


@cache
def _kernels() -> Any:
    return load("depthwise", machine().levels)


@dataclass(frozen=True)
class Schedule:
    """How one direction of a problem is cut up: a function of problem and vector alone."""

    task: bytes
    items: int
    slot_bytes: int
    tables: tuple[np.ndarray, ...]  # `task` holds their addresses


@dataclass(frozen=True)
class Rows:
    """Rows of the buffer: for each residue of the stride the first column and their number, and where taps are."""

    phases: tuple[tuple[int, int], ...]
    gap: int  # zeros behind a segment's data
    places: tuple[tuple[int, int], ...]  # of tap s: phase, and shift from where its data begin


def _row_layout(size: int, count: int, low: int, taps: Sequence[int], stride: int) -> Rows:
    """What `count` outputs read of `size` columns behind `low` zeros, through taps at these distances.

    Examples
    --------
    >>> _row_layout(14, 7, 1, (0, 1, 2), 2)  # the odd columns begin with padding
    Rows(phases=((1, 7), (0, 7)), gap=1, places=((0, -1), (1, 0), (0, 0)))
    """
    residues = sorted({tap % stride for tap in taps})
    left = max(min(taps) - low, 0)
    right = min((count - 1) * stride + max(taps) - low, size - 1)  # columns that exist, those between taps included
    phases, origins, gap = [], {}, 0
    for residue in residues:
        shifts = [tap // stride for tap in taps if tap % stride == residue]
        first, last = min(shifts), count - 1 + max(shifts)
        begin, end = -((residue - low - left) // stride), (right + low - residue) // stride
        if right < left:
            begin, end = first, first - 1
        phases.append((residue - low + stride * begin if right >= left else 0, max(end - begin + 1, 0)))
        origins[residue] = begin
        gap = max(gap, begin - first, last - max(end, begin - 1))
    places = tuple((residues.index(tap % stride), tap // stride - origins[tap % stride]) for tap in taps)
    return Rows(tuple(phases), gap, places)


#: Measured at one thread, AVX-512: share of the peak of 3x3 and 7x7 on planes of 28x28 and more, and seconds of a
#: plane beside it, from planes of 7x7 and 14x14.
SHARE_OF_PEAK, PLANE_SECONDS, CALL_SECONDS = 0.7, 30e-9, 5e-6


def cost(problem: ConvProblem, direction: Direction, threads: int, machine: Machine) -> float | None:
    """Seconds; None where it is the tiles that compute the problem."""
    if not _fits(problem, direction):
        return None
    seconds = 2 * problem.macs / machine.peak_flops(problem.dtype) / SHARE_OF_PEAK
    seconds += PLANE_SECONDS * max(problem.batch, 1) * problem.out_channels
    return CALL_SECONDS + max(seconds / threads, problem.bytes / machine.copy_bandwidth)


def _up(extent: int, unit: int) -> int:
    return -(-extent // unit) * unit


def strides_of(problem: ConvProblem) -> tuple[int, ...]:
    """With a single output along an axis its stride says nothing; it may be 2^62."""
    return tuple(1 if size == 1 else stride for size, stride in zip(problem.out_size, problem.stride))


def _fits(problem: ConvProblem, direction: Direction) -> bool:
    """Whether the kernels can compute a problem, if its rows are not too long."""
    if problem.axes != 2 or problem.group_in_channels != 1 or problem.group_out_channels > MOST_OUTPUTS:
        return False
    if problem.channels_last:
        return False
    if direction is Direction.BACKWARD_WEIGHT:
        return problem.macs <= problem.out_channels * ITEM_MACS
    return direction is Direction.FORWARD or strides_of(problem) == (1, 1) or _scatters(problem)


def _scatters(problem: ConvProblem) -> bool:
    """Whether grad_input can be written in four phases: of a stride of 2."""
    kernel = problem.kernel[0]
    return (
        strides_of(problem) == (2, 2) and problem.dilation == (1, 1) and problem.kernel == (kernel, kernel)
        and kernel in TILED and problem.group_out_channels == 1 and problem.pads[0][0] % 2 == problem.pads[1][0] % 2
    )  # fmt: skip


@lru_cache(maxsize=256)
def schedule(problem: ConvProblem, direction: Direction, vector_bytes: int) -> Schedule | None:
    """The schedule of a depthwise problem; None where the tiles do better, or alone can."""
    if not _fits(problem, direction):
        return None
    outputs, strides = problem.group_out_channels, strides_of(problem)
    item_bytes = ITEM_BYTES[problem.dtype]
    lanes = vector_bytes // item_bytes
    turned = direction is Direction.BACKWARD_INPUT
    scatter = turned and strides != (1, 1)
    kernel, dilation, lows = problem.kernel, problem.dilation, tuple(low for low, _ in problem.pads)
    source, dest = (problem.out_size, problem.in_size) if turned else (problem.in_size, problem.out_size)
    taps = [[index * d for index in range(k)] for k, d in zip(kernel, dilation)]
    steps, counts, befores = strides, dest, lows
    if scatter:  # see depthwise.h: of pair j, taps reach rows j + low // 2 + t for t from `least` to `odd`
        odd = lows[0] % 2
        least = -((kernel[0] - 1 - odd) // 2)
        taps = [list(range(odd - least + 1))] * 2
        steps, counts = (1, 1), (-(-dest[0] // 2), -(-dest[1] // 2))
        befores = tuple(-(low // 2 + least) for low in lows)
    elif turned:
        befores = tuple(tap[-1] - low for tap, low in zip(taps, lows))
    fan_in, fan_out = (outputs, 1) if turned else (1, outputs)

    rows = _row_layout(source[1], counts[1], befores[1], taps[1], steps[1])
    data = max(count for _, count in rows.phases) + rows.gap
    planes, slot, segment = 1, lanes, _up(data, lanes)
    while max(data, counts[1]) * 2 <= slot:
        planes, slot = planes * 2, slot // 2
    pitch = len(rows.phases) * segment
    fitting = BUFFER_BYTES // (pitch * item_bytes * fan_in)
    span = taps[0][-1] + 1
    block = even(counts[0], max((fitting - span) // steps[0] + 1, 1))
    buffer_rows = (block - 1) * steps[0] + span
    shifts = [phase * segment + shift for phase, shift in rows.places]
    lead = _up(max(rows.gap, 1), lanes)
    buffer_size = lead + buffer_rows * pitch + _up(max(shifts) + 2 * lanes, lanes)
    if fan_in * buffer_size * item_bytes > MOST_BUFFER_BYTES:
        return None

    square = kernel[0] if kernel == (kernel[0], kernel[0]) and kernel[0] in TILED and dilation == (1, 1) else 0
    tiled = square if scatter or (steps in ((1, 1), (2, 2)) and fan_in == 1) else 0
    # Rows with their padding in one vector; of stride 2, in one vector for evens and odds each.
    near = lows[1] // 2 == tiled // 4 if scatter else befores == (tiled // 2, tiled // 2)
    small = (
        bool(tiled) and segment == lanes and near
        and (planes == 1 or (planes == 2 and sum(count for _, count in rows.phases) <= lanes))
    )  # fmt: skip
    # Rows beyond a vector, padded by one column on the left, and on the right where a tap reads beyond the end.
    wide = (
        tiled == 3 and not scatter and befores == (1, 1) and counts[1] * steps[1] == source[1]
        and (counts[1] > lanes if steps[1] == 1 else 2 * counts[1] >= 3 * lanes)
    )  # fmt: skip
    if wide:
        block = min(_up(block, TALL), counts[0])
    window = kernel[0] * kernel[1]
    grid = [(r, s) for s in range(kernel[1]) for r in range(kernel[0])]
    if direction is Direction.BACKWARD_WEIGHT:
        grid.sort()  # the order of the results
    of_weights = [r * kernel[1] + s for r, s in grid]
    if turned and not scatter:
        of_weights = [window - 1 - place for place in of_weights]
    places = [] if tiled else [taps[0][r] * pitch + shifts[s] for r, s in grid]
    tables = {
        "phases": rows.phases,
        "order": [m * window + place for m in range(fan_in) for place in of_weights],
        "places": [m * buffer_size + place for m in range(fan_in) for place in places],
    }
    arrays = {name: np.array(table, dtype=np.int64).ravel() for name, table in tables.items()}
    tap_count = fan_in * window
    offsets = {"buffer_offset": lead, "weights_offset": fan_in * buffer_size}
    offsets["grads_offset"] = offsets["weights_offset"] + (tap_count + 1) * lanes + lanes
    offsets["sums_offset"] = offsets["grads_offset"] + (block * lanes if counts[1] < lanes else 0)
    totals_step = _up(window, lanes) * planes  # whole vectors
    sums_bytes = fan_out * (window * vector_bytes + 8 * (lanes + totals_step))
    group = max(min(GROUP_BYTES // sums_bytes, MOST_GROUP), 1)
    offsets["totals_offset"] = offsets["sums_offset"] + group * fan_out * window * lanes
    slot_bytes = offsets["totals_offset"] * item_bytes + group * 8 * fan_out * (lanes + totals_step)
    row_block = 2 * block if scatter else block
    items = -(-problem.in_channels // planes)
    blocks = -(-dest[0] // row_block)
    task = _kernels().schedule_task(
        images=problem.batch, channels=problem.in_channels, fan_in=fan_in, fan_out=fan_out,
        source_rows=source[0], source_columns=source[1], rows=dest[0], columns=dest[1], planes=planes, slot=slot,
        row_block=row_block, blocks=blocks, block_step=block * steps[0], first_row=-befores[0],
        buffer_rows=buffer_rows, lead=lead, phase_count=len(rows.phases), segment=segment, stride_w=steps[1],
        x_offset=shifts[-1] - lows[1] % 2 if scatter else shifts[0] if tiled else 0,
        kernel=tiled, stride=steps[0] if tiled else 0,
        odd=lows[0] % 2 if scatter else shifts[1] - shifts[0] if tiled else 0,
        taps=tap_count, row_step=steps[0] * pitch, group=group, chunk_vectors=CHUNK_VECTORS,
        scatter=scatter, small=small, wide=wide,
        bare=tiled == 3 and (small or wide), turned=turned and not scatter,
        touches=problem.bytes >= TOUCHED_BYTES and counts[1] >= lanes,
        from_columns=sum(count for _, count in rows.phases), window=window,
        kernel_h=kernel[0], kernel_w=kernel[1], stride_h=strides[0], exact_stride_w=strides[1],
        dilation_h=dilation[0], dilation_w=dilation[1], low_h=lows[0], low_w=lows[1],
        buffer_size=buffer_size, totals_step=totals_step, slot_bytes=aligned_bytes(slot_bytes), **offsets,
        **{name: array.ctypes.data for name, array in arrays.items()},
    )  # fmt: skip
    if direction is not Direction.BACKWARD_WEIGHT:
        items *= problem.batch * blocks
    return Schedule(task, items, aligned_bytes(slot_bytes), tuple(arrays.values()))


def takes(problem: ConvProblem, direction: Direction) -> bool:
    """Whether this engine computes the problem."""
    return problem.group_in_channels == 1 and schedule(problem, direction, _kernels().VECTOR_BYTES) is not None


def _schedule(problem: ConvProblem, direction: Direction) -> Schedule:
    found = schedule(problem, direction, _kernels().VECTOR_BYTES)
    assert found is not None
    return found


def workspace_bytes(problem: ConvProblem, direction: Direction, threads: int) -> tuple[int, int]:
    slot_bytes = _schedule(problem, direction).slot_bytes
    return slot_bytes, min(threads, MOST_THREADS) * slot_bytes


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
    threads, slots = _slots(scratch, cut.slot_bytes, threads)
    exact = direction is Direction.BACKWARD_INPUT and kernels.holds_infinity(weight)
    call = kernels.call_task(source, dest, weight, epilogue.bias, slots, epilogue.activation == "relu", exact)
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
    kernels, cut = _kernels(), _schedule(problem, Direction.BACKWARD_WEIGHT)
    threads, slots = _slots(scratch, cut.slot_bytes, threads)
    call = kernels.gradient_call_task(input, grad_output, grad_weight, grad_bias, slots)
    pool.run(kernels.DOTS[problem.dtype], call + cut.task, cut.items, threads)
