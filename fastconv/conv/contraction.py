"""The schedule of kernels/cython/gradient.pyx: how grad_weight is cut into items and blocks of pixels, and its tables.

A function of the problem and the vector length alone, so that the work items, and the bits of the result, are the
same for every number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.taps import axis_taps, buffer_groups, even, pixel_blocks
from fastconv.workspace import aligned_bytes

#: Pixels summed in registers before the sums are stored, and the chunk of a long sum.
BLOCK_PIXELS = 512
#: Input channels times taps of an item: enough to outweigh the copy of its pixels, few enough for its sums.
ITEM_ROWS = 504
#: Bytes of an item's sums, which share an L2 cache with the buffer.
SUM_BYTES = 384 << 10
#: Items worth having, so that threads share them evenly.
ITEMS = 8
#: Multiply-accumulates of an item between two looks at the signals: a fortieth of a second on SSE.
RUN_MACS = 100_000_000
#: Channels of a group below which the register tile's rows are (channel, tap).
FEW_CHANNELS = 8


@dataclass(frozen=True)
class Contraction:
    """A schedule. `fields` and `tables` are fields of the kernel's task; the tables are given by address."""

    fields: dict[str, int]
    tables: dict[str, np.ndarray]
    ranges: int  # items
    blocks: int  # of pixels
    run_blocks: int  # of pixels, in one run
    bias_bytes: int
    range_bytes: int  # sums of an item
    slot_bytes: int


def _item(rows: int, blocks: int, taps: int, groups: int, block_bytes: int) -> tuple[int, int]:
    """Rows (channels) and blocks of output channels of an item: large, but few enough bytes and enough items."""
    channels = even(rows, min(max(ITEM_ROWS // taps, 14), max(SUM_BYTES // (taps * block_bytes), 1)))
    parts = groups * -(-rows // channels)
    ranges = even(blocks, max(1, min(4, SUM_BYTES // (taps * channels * block_bytes))))
    while ranges > 1 and parts * -(-blocks // ranges) < ITEMS:
        ranges = even(blocks, ranges - 1)
    return channels, ranges


@lru_cache(maxsize=256)
def contraction(problem: ConvProblem, vector_bytes: int) -> Contraction:
    """The schedule of grad_weight."""
    item_bytes = ITEM_BYTES[problem.dtype]
    lanes = vector_bytes // item_bytes
    steps = tuple(1 if size == 1 else stride for size, stride in zip(problem.out_size, problem.stride))
    axes = tuple(
        axis_taps(kernel, step, dilation, low)
        for kernel, step, dilation, (low, _) in zip(problem.kernel, steps, problem.dilation, problem.pads)
    )
    taps = math.prod(problem.kernel)
    expanded = taps > 1 and problem.group_in_channels < FEW_CHANNELS
    group_in = problem.group_in_channels * (taps if expanded else 1)
    blocks = -(-problem.group_out_channels // (2 * lanes))
    channels, ranges = _item(group_in, blocks, 1 if expanded else taps, problem.groups, 2 * vector_bytes)

    images, rows, columns = pixel_blocks(problem.batch, (1, 1), problem.out_size, BLOCK_PIXELS)
    row_groups, row_places = buffer_groups(axes[0], rows, steps[0])
    column_groups, column_places = buffer_groups(axes[1], columns, steps[1])
    buffer_rows = [group.origin + i * steps[0] for group in row_groups for i in range(group.extent)]
    first_row = np.cumsum([0] + [group.extent for group in row_groups]).tolist()
    pitch = max(group.extent for group in column_groups)
    plane = len(column_groups) * len(buffer_rows) * pitch
    distances = [
        (column_places[s][0] * len(buffer_rows) + first_row[row_places[r][0]] + row_places[r][1]) * pitch
        + column_places[s][1]
        for r in range(problem.kernel[0])
        for s in range(problem.kernel[1])
    ]
    expansion = [
        [c, r * problem.dilation[0] - problem.pads[0][0], s * problem.dilation[1] - problem.pads[1][0]]
        for c in range(problem.group_in_channels if expanded else 0)
        for r in range(problem.kernel[0])
        for s in range(problem.kernel[1])
    ]

    pixels = images * rows * columns
    rows_offset = aligned_bytes((pixels if expanded else images * plane) * channels * item_bytes)
    grad_offset = rows_offset + aligned_bytes(lanes * max(pitch, columns) * item_bytes)
    pixels_offset = grad_offset + aligned_bytes(pixels * 2 * vector_bytes)
    block_count = math.prod(
        -(-extent // block) for extent, block in zip((problem.batch, *problem.out_size), (images, rows, columns))
    )
    macs = pixels * channels * (1 if expanded else taps) * ranges * 2 * lanes
    fields = {
        "input_rows": problem.in_size[0], "input_columns": problem.in_size[1], "step_h": steps[0], "step_w": steps[1],
        "images": problem.batch, "rows": problem.out_size[0], "columns": problem.out_size[1],
        "image_block": images, "row_block": rows, "column_block": columns,
        "group_in": group_in, "group_out": problem.group_out_channels,
        "channel_block": channels, "range_blocks": ranges,
        "buffer_row_count": len(buffer_rows), "column_group_count": len(column_groups), "pitch": pitch,
        "tap_count": taps, "expanded": expanded,
        "rows_offset": rows_offset, "grad_offset": grad_offset, "pixels_offset": pixels_offset,
    }  # fmt: skip
    tables = {
        "buffer_rows": buffer_rows,
        "column_groups": [group.origin for group in column_groups],
        "distances": distances,
        "expansion": expansion,
    }
    return Contraction(
        fields=fields,
        tables={name: np.ascontiguousarray(table, dtype=np.int64) for name, table in tables.items()},
        ranges=problem.groups * -(-blocks // ranges) * -(-group_in // channels),
        blocks=block_count,
        run_blocks=max(1, RUN_MACS // macs),
        bias_bytes=aligned_bytes(8 * problem.groups * blocks * 2 * lanes),
        range_bytes=aligned_bytes(ranges * channels * (1 if expanded else taps) * 2 * vector_bytes),
        slot_bytes=pixels_offset + aligned_bytes(8 * pixels),
    )
