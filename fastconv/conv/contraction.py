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
#: Input channels times taps of a part: enough to outweigh the copy of its pixels, few enough for its sums.
ITEM_ROWS = 504
#: Bytes of a part's sums, most of an L2 cache, and blocks of output channels for which the input is copied once: 16
#: instead of 4 blocks in 384 KiB, 512 channels of 3x3 on 7x7 0.61 to 0.70 of the peak, 1x1 of stride 2 0.49 to 0.61.
SUM_BYTES, RANGE_BLOCKS = 768 << 10, 16
#: Items worth having, so that threads share them evenly.
ITEMS = 8
#: Multiply-accumulates of an item between two looks at the signals: a fortieth of a second on SSE.
RUN_MACS = 100_000_000


@dataclass(frozen=True)
class Contraction:
    """A schedule. `fields` and `tables` are fields of the kernel's task; the tables are given by address."""

    fields: dict[str, int]
    tables: dict[str, np.ndarray]
    ranges: int  # parts
    splits: int  # items of each
    split_blocks: int  # of pixels, of each split but the last
    run_blocks: int  # of pixels, in one run
    bias_bytes: int
    range_bytes: int  # sums of a part
    slot_bytes: int


def _part(rows: int, blocks: int, taps: int, block_bytes: int) -> tuple[int, int]:
    """Rows (channels) and blocks of output channels of a part: large, but few enough bytes of sums."""
    channels = even(rows, min(max(ITEM_ROWS // taps, 14), max(SUM_BYTES // (taps * block_bytes), 1)))
    return channels, even(blocks, max(1, min(RANGE_BLOCKS, SUM_BYTES // (taps * channels * block_bytes))))


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
    group_in = problem.group_in_channels
    blocks = -(-problem.group_out_channels // (2 * lanes))
    channels, ranges = _part(group_in, blocks, taps, 2 * vector_bytes)

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
    pixels = images * rows * columns
    rows_offset = aligned_bytes(images * plane * channels * item_bytes)
    # Short rows are picked up together before they are transposed.
    picks = not problem.channels_last and pitch < (lanes if steps[1] == 1 else 2 * lanes)
    row_elements = len(buffer_rows) * pitch if picks else max(pitch, columns)
    grad_offset = rows_offset + aligned_bytes(lanes * row_elements * item_bytes)
    pixels_offset = grad_offset + aligned_bytes(pixels * 2 * vector_bytes)
    block_count = math.prod(
        -(-extent // block) for extent, block in zip((problem.batch, *problem.out_size), (images, rows, columns))
    )
    # Shares of the pixels copy nothing twice; small maps have too few, and smaller parts instead.
    parts = problem.groups * -(-group_in // channels) * -(-blocks // ranges)
    split_blocks = max(-(-block_count // min(-(-ITEMS // parts), max(block_count, 1))), 1)
    splits = max(-(-block_count // split_blocks), 1)
    while ranges > 1 and splits * parts < ITEMS:
        ranges = even(blocks, ranges - 1)
        parts = problem.groups * -(-group_in // channels) * -(-blocks // ranges)
    macs = pixels * channels * taps * ranges * 2 * lanes
    fields = {
        "input_rows": problem.in_size[0], "input_columns": problem.in_size[1], "step_h": steps[0], "step_w": steps[1],
        "blocks": block_count, "splits": splits, "split_blocks": split_blocks, "group_count": problem.groups,
        "images": problem.batch, "rows": problem.out_size[0], "columns": problem.out_size[1],
        "image_block": images, "row_block": rows, "column_block": columns,
        "group_in": group_in, "group_out": problem.group_out_channels,
        "channel_block": channels, "range_blocks": ranges,
        "buffer_row_count": len(buffer_rows), "column_group_count": len(column_groups), "pitch": pitch,
        "picks": picks, "tap_count": taps,
        "rows_offset": rows_offset, "grad_offset": grad_offset, "pixels_offset": pixels_offset,
    }  # fmt: skip
    tables = {
        "buffer_rows": buffer_rows,
        "column_groups": [group.origin for group in column_groups],
        "distances": distances,
    }
    return Contraction(
        fields=fields,
        tables={name: np.ascontiguousarray(table, dtype=np.int64) for name, table in tables.items()},
        ranges=parts,
        splits=splits,
        split_blocks=split_blocks,
        run_blocks=max(1, RUN_MACS // macs),
        bias_bytes=aligned_bytes(8 * splits * problem.groups * blocks * 2 * lanes),
        range_bytes=aligned_bytes(splits * ranges * channels * taps * 2 * vector_bytes),
        slot_bytes=pixels_offset + aligned_bytes(8 * pixels),
    )
