"""The schedule of kernels/cython/direct.pyx: how one direction of a problem is cut into blocks, and its tables.

A function of the problem, the direction and the vector length alone, so that the work items, and the bits of the
result, are the same for every number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from fastconv.algorithm import Direction
from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.taps import Tap, axis_taps, buffer_groups, even, pixel_blocks
from fastconv.workspace import aligned_bytes

#: Pixels of a block, and blocks of channels for which it is gathered once: sums stay in L2, and what is gathered is
#: used often. 196 for 16 instead of 784 for 3: 3x3 layers up to 4 % faster, 1x1 layers of stride 2 20 to 30 %.
BLOCK_PIXELS, RANGE_BLOCKS = 196, 16
#: The same with a stride, where gathering costs more: half the pixels, for twice the blocks.
STRIDED_PIXELS = 98
#: Destination channels for which vectors run over pixels instead, half a vector of them at least; then a block has
#: so many pixels of all channels, but not less than the second.
NARROW, NARROW_PIXELS, NARROW_LEAST = 4, 4096, 784
#: Products summed in registers before the sums are stored.
BLOCK_REDUCTION = 576
#: Bytes of a block's buffer and of its sums, which share an L2 cache with the weights.
BUFFER_BYTES, SUM_BYTES = 256 << 10, 384 << 10
#: Multiply-accumulates of an item at most: a twentieth of a second on SSE.
ITEM_MACS = 200_000_000
#: Items worth having, so that threads share them evenly.
ITEMS = 8


@dataclass(frozen=True)
class Correlation:
    """A schedule. `fields` and `tables` are fields of the kernel's task; the tables are given by address."""

    fields: dict[str, int]
    tables: dict[str, np.ndarray]
    ranges: int  # of blocks of destination channels, over all groups
    blocks_per_range: int  # of pixels
    range_bytes: int  # packed weights of a range, of which several follow each other without a gap
    slot_bytes: int
    guarded: bool  # grad_input with taps beyond the source: weights that are not finite need care
    packs_itself: bool  # every range has one block of pixels: its item packs weights as it needs them


def _phases(taps: tuple[list[Tap], list[Tap]], forward: bool) -> tuple[list[list[int]], list[tuple[Tap, Tap]]]:
    """The table of phases, and the taps in their order."""
    if forward:
        every = [(r, s) for r in taps[0] for s in taps[1]]
        return [[0, 0, 0, len(every)]], every
    table: list[list[int]] = []
    ordered: list[tuple[Tap, Tap]] = []
    for row in sorted({tap.residue for tap in taps[0]}):
        for column in sorted({tap.residue for tap in taps[1]}):
            here = [(r, s) for r in taps[0] for s in taps[1] if (r.residue, s.residue) == (row, column)]
            table.append([row, column, len(ordered), len(here)])
            ordered += here
    return table, ordered


@lru_cache(maxsize=256)
def correlation(problem: ConvProblem, direction: Direction, vector_bytes: int, pixels: int = 0) -> Correlation:
    """The schedule of forward or grad_input, in blocks of about so many `pixels`; 0 means as many as suit these."""
    forward = direction is Direction.FORWARD
    item_bytes = ITEM_BYTES[problem.dtype]
    lanes = vector_bytes // item_bytes
    width = 2 * lanes
    # With a single output along an axis its stride says nothing; it may be 2^62.
    strides = tuple(1 if size == 1 else stride for size, stride in zip(problem.out_size, problem.stride))
    one, steps = (1, 1), (strides[0], strides[1])
    source_steps, dest_steps = (steps, one) if forward else (one, steps)
    source, dest = (problem.in_size, problem.out_size) if forward else (problem.out_size, problem.in_size)
    group_source, group_dest = problem.group_in_channels, problem.group_out_channels
    if not forward:
        group_source, group_dest = group_dest, group_source
    used = tuple(
        [
            tap if forward else Tap(tap.place, -tap.shift, tap.residue)
            for tap in axis_taps(kernel, step, dilation, low)
            if forward or tap.residue < size
        ]
        for kernel, step, dilation, (low, _), size in zip(
            problem.kernel, steps, problem.dilation, problem.pads, problem.in_size
        )
    )
    phases, taps = _phases((used[0], used[1]), forward)
    most_taps = max((phase[3] for phase in phases), default=1)

    narrow = group_dest <= max(NARROW, lanes // 2)
    strided = math.prod(source_steps) > 1
    most_blocks = 2 * RANGE_BLOCKS if strided else RANGE_BLOCKS
    if not pixels and narrow:
        pixels = max(NARROW_LEAST, NARROW_PIXELS // max(group_source, group_dest))
    pixels = pixels or (STRIDED_PIXELS if strided else BLOCK_PIXELS)
    while pixels > 64 and pixels * width * group_source * most_taps > ITEM_MACS:
        pixels //= 2
    images, rows, columns = pixel_blocks(problem.batch, dest_steps, (dest[0], dest[1]), pixels)
    gathered = [
        axis if forward else [replace(tap, residue=0) for tap in axis] for axis in used
    ]  # grad_output is read without a stride: all phases share its rows
    row_groups, row_places = buffer_groups(gathered[0], rows, source_steps[0])
    column_groups, column_places = buffer_groups(gathered[1], columns, source_steps[1])
    buffer_rows = [group.origin + i * source_steps[0] for group in row_groups for i in range(group.extent)]
    first_row = np.cumsum([0] + [group.extent for group in row_groups]).tolist()
    pitch = max((group.extent for group in column_groups), default=1)
    plane = len(column_groups) * len(buffer_rows) * pitch
    distances = [
        (column_places[s.place][0] * len(buffer_rows) + first_row[row_places[r.place][0]] + row_places[r.place][1])
        * pitch
        + column_places[s.place][1]
        for r, s in taps
    ]
    fitting = min(BLOCK_REDUCTION // most_taps, BUFFER_BYTES // max(plane * images * item_bytes, 1))
    channels = even(group_source, fitting)
    by_channel = np.arange(channels, dtype=np.int64) * plane
    halo = any(
        not 0 <= tap.shift <= size - -(-extent // step)
        for axis, size, extent, step in zip(used, source, dest, dest_steps)
        for tap in axis
    )

    sum_pixels = images * min(rows * dest_steps[0], dest[0]) * min(columns * dest_steps[1], dest[1])
    blocks = -(-group_dest // width)
    block_count = math.prod(
        -(-extent // block)
        for extent, block in zip(
            (problem.batch, -(-dest[0] // dest_steps[0]), -(-dest[1] // dest_steps[1])), (images, rows, columns)
        )
    )
    block_macs = max(sum_pixels * width * group_source * most_taps, 1)
    most = min(most_blocks, SUM_BYTES // (sum_pixels * width * item_bytes), ITEM_MACS // block_macs)
    range_blocks = even(blocks, most)
    while range_blocks > 1 and block_count * problem.groups * -(-blocks // range_blocks) < ITEMS:
        range_blocks = even(blocks, range_blocks - 1)
    # Nothing to pad, no stride: the source itself is such a buffer, of all channels and rows.
    steps_of_one = source_steps == dest_steps == one
    in_place = not (halo or narrow or problem.channels_last) and steps_of_one
    if in_place:
        by_channel = np.arange(channels, dtype=np.int64) * (source[0] * source[1])
        distances = [r.shift * source[1] + s.shift for r, s in taps]
    sums_offset = aligned_bytes(images * channels * plane * item_bytes + vector_bytes)  # lines end in whole vectors
    sum_bytes = range_blocks * sum_pixels * width * item_bytes
    if narrow:
        sum_bytes = len(phases) * images * group_dest * -(-rows * pitch // lanes) * vector_bytes
    weights_offset = sums_offset + aligned_bytes(sum_bytes)
    weight_width = group_dest if narrow else width
    packs_itself = block_count == 1
    chunk_bytes = aligned_bytes(len(taps) * channels * weight_width * item_bytes) if packs_itself else 0
    range_bytes = range_blocks * max(len(taps), 1) * group_source * weight_width * item_bytes
    fields = {
        "source_rows": source[0], "source_columns": source[1], "dest_rows": dest[0], "dest_columns": dest[1],
        "images": problem.batch, "group_source": group_source, "group_dest": group_dest,
        "rows": -(-dest[0] // dest_steps[0]), "columns": -(-dest[1] // dest_steps[1]),
        "image_block": images, "row_block": rows, "column_block": columns,
        "channel_block": channels, "range_blocks": range_blocks,
        "source_step_h": source_steps[0], "source_step_w": source_steps[1],
        "dest_step_h": dest_steps[0], "dest_step_w": dest_steps[1],
        "buffer_row_count": len(buffer_rows), "column_group_count": len(column_groups),
        "pitch": source[1] if in_place else pitch, "phase_count": len(phases), "tap_count": len(taps),
        "covered": len(phases) == min(dest_steps[0], dest[0]) * min(dest_steps[1], dest[1]),
        "in_place": in_place,
        "buffer_n": group_source * problem.groups * source[0] * source[1] if in_place else channels * plane,
        "guarded": halo and not forward, "weight_width": weight_width, "narrow": narrow,
        "sums_offset": sums_offset, "weights_offset": weights_offset,
    }  # fmt: skip
    tables = {
        "buffer_rows": buffer_rows,
        "column_groups": [group.origin for group in column_groups],
        "phases": phases,
        "taps": [[r.shift, s.shift, distance] for (r, s), distance in zip(taps, distances)],
        "tap_places": [r.place * problem.kernel[1] + s.place for r, s in taps],
        "offsets": np.concatenate(
            [np.empty(0, np.int64)]
            + [
                (by_channel[:, None] + np.array(distances[first : first + count], np.int64)).ravel()
                for _, _, first, count in phases
            ]
        ),
        "channel_offsets": by_channel,
    }
    return Correlation(
        fields=fields,
        tables={name: np.ascontiguousarray(table, dtype=np.int64) for name, table in tables.items()},
        ranges=problem.groups * -(-blocks // range_blocks),
        blocks_per_range=block_count,
        range_bytes=range_bytes,
        slot_bytes=weights_offset + chunk_bytes,
        guarded=halo and not forward,
        packs_itself=packs_itself,
    )
