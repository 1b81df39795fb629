"""Forward and grad_input, as one kernel: sums of shifted planes, each plane a copy padded with real zeros.

A tile of results, `rows` x `cols` of them, is one run of `pitch` * rows positions in which every tap of the window is
a constant shift: the copy of the source has the same pitch, with a halo on the right and below. What the run computes
between the end of one row and the begin of the next is never stored. Strides are taken out by the copies: forward
reads one plane per phase of the stride, grad_input writes one result per phase.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import int64, njit, prange

from fastconv.kernels.numba.contraction import LEAD, contract
from fastconv.kernels.numba.options import INNER, PARALLEL, RANGE
from fastconv.kernels.numba.runs import fill_zeros, inside


class Task(NamedTuple):
    """The integers of one call. Strides count elements."""

    slots: int  # rows of `buffers`: items under way at once
    groups: int
    # work items: images x groups x tiles x blocks of result channels
    row_tiles: int
    col_tiles: int
    blocks: int
    block: int  # result channels of one item
    # result positions [first, last), cut into tiles
    first_row: int
    last_row: int
    rows: int
    first_col: int
    last_col: int
    cols: int
    halo_rows: int
    pitch: int  # cols + halo on the right
    # source
    source_channels: int  # of one group
    source_height: int
    source_width: int
    source_n: int
    source_c: int
    source_h: int
    source_w: int
    source_step_h: int
    source_step_w: int
    # result
    result_channels: int  # of one group
    result_height: int
    result_width: int
    result_n: int
    result_c: int
    result_h: int
    result_w: int
    result_step_h: int
    result_step_w: int
    # weight: from one group, and from one result channel, to the next
    weight_g: int
    weight_row: int
    relu: int


@njit(**INNER)
def copy_row(target, source, base, start, step, size, stride):
    """target[x] = source[base + (start + x * step) * stride], 0 where start + x * step is outside [0, size)."""
    first, last = inside(start, step, target.size, size)
    fill_zeros(target[:first])
    fill_zeros(target[last:])
    part = target[first:last]
    if step == 1 and stride == 1:
        begin = base + start + first
        whole = source[begin : begin + last - first]
        for x in range(part.size):
            part[x] = whole[x]
    elif last > first:
        begin = base + (start + first * step) * stride
        jump = step * stride if last - first > 1 else 1
        for x in range(part.size):
            part[x] = source[begin + x * jump]


@njit(**INNER)
def copy_planes(task, source, row_origins, col_origins, planes, base, i, j, rows, plane_size):
    """All planes of a tile at (i, j): for each channel, each origin of rows, and each of columns."""
    at = 0
    for c in range(task.source_channels):
        for row_origin in row_origins:
            for col_origin in col_origins:
                for y in range(rows + task.halo_rows):
                    target = planes[at + y * task.pitch : at + (y + 1) * task.pitch]
                    h = (i + y) * task.source_step_h + row_origin
                    if 0 <= h < task.source_height:
                        row = base + c * task.source_c + h * task.source_h
                        start = j * task.source_step_w + col_origin
                        copy_row(target, source, row, start, task.source_step_w, task.source_width, task.source_w)
                    else:
                        fill_zeros(target)
                at += plane_size


@njit(**INNER)
def store(task, sums, result, base, i, j, rows, cols, row_origin, col_origin, addend, relu):
    """Write the tile at (i, j) of one channel; what falls outside the result is dropped."""
    zero = result.dtype.type(0)
    start = j * task.result_step_w + col_origin
    first, last = inside(start, task.result_step_w, cols, task.result_width)
    jump = task.result_step_w * task.result_w if last - first > 1 else 1
    for y in range(rows):
        h = (i + y) * task.result_step_h + row_origin
        if 0 <= h < task.result_height and last > first:
            begin = base + h * task.result_h + (start + first * task.result_step_w) * task.result_w
            run = sums[y * task.pitch + first : y * task.pitch + last]
            if jump == 1:
                target = result[begin : begin + last - first]
                for x in range(last - first):
                    value = run[x] + addend
                    target[x] = zero if relu and value <= 0 else value
            else:
                for x in range(last - first):
                    value = run[x] + addend
                    result[begin + x * jump] = zero if relu and value <= 0 else value


@njit(**RANGE)
def correlate(
    task, source, weight, bias, result, row_origins, col_origins, row_results, col_results, ends, source_at, weight_at,
    buffers, slot, first, last, step,
):  # fmt: skip
    """Items first, first + step, ... below `last`, in the buffer of `slot`.

    The terms of result phase f, in the order of (row_results, col_results), are those up to ends[f].
    """
    plane_size = (task.rows + task.halo_rows) * task.pitch
    sums, planes = buffers[slot, : 4 * LEAD], buffers[slot, 4 * LEAD :]
    for item in range(first, last, step):
        tile, block = divmod(item, task.blocks)
        image, tile = divmod(tile, task.row_tiles * task.col_tiles)
        n, g = divmod(image, task.groups)
        i = task.first_row + tile // task.col_tiles * task.rows
        j = task.first_col + tile % task.col_tiles * task.cols
        rows, cols = min(task.rows, task.last_row - i), min(task.cols, task.last_col - j)
        base = n * task.source_n + g * task.source_channels * task.source_c
        copy_planes(task, source, row_origins, col_origins, planes, base, i, j, rows, plane_size)
        # Whole vectors: what is read beyond the tile is never stored.
        length = ((rows - 1) * task.pitch + cols + 15) // 16 * 16
        begin, end = block * task.block, min((block + 1) * task.block, task.result_channels)
        for c in range(begin, end, 4):
            channels = min(4, end - c)
            at = n * task.result_n + (g * task.result_channels + c) * task.result_c
            terms_begin, phase = 0, 0
            for row_origin in row_results:
                for col_origin in col_results:
                    fill_zeros(sums)
                    terms = slice(terms_begin, ends[phase])
                    contract(
                        sums, channels, planes, source_at[terms], weight, weight_at[terms], ends[phase] - terms_begin,
                        g * task.weight_g + c * task.weight_row, task.weight_row, length,
                    )  # fmt: skip
                    for k in range(channels):
                        addend = bias[g * task.result_channels + c + k] if bias.size else result.dtype.type(0)
                        store(
                            task, sums[k * LEAD :], result, at + k * task.result_c, i, j, rows, cols, row_origin,
                            col_origin, addend, task.relu,
                        )  # fmt: skip
                    terms_begin = ends[phase]
                    phase += 1


@njit(**PARALLEL)
def correlate_parallel(
    task, source, weight, bias, result, row_origins, col_origins, row_results, col_results, ends, source_at, weight_at,
    buffers, first, last,
):  # fmt: skip
    for index in prange(task.slots):
        slot = int64(index)  # prange counts in uint64, which would compile the kernel again
        correlate(
            task, source, weight, bias, result, row_origins, col_origins, row_results, col_results, ends, source_at,
            weight_at, buffers, slot, first + slot, last, task.slots,
        )  # fmt: skip
