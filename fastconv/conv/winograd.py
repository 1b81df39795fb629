"""The schedule of kernels/cython/winograd.pyx: how tiles and channels are cut into blocks.

A function of the problem, the direction, the size and the vector length alone, so that the work items, and the bits of
the result, are the same for every number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from fastconv.algorithm import Direction
from fastconv.kernels.winograd import TAPS
from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.taps import even
from fastconv.workspace import aligned_bytes

#: Tiles of a block: what is read of the weights is used for so many. Fewer where there would be less than so many
#: blocks to share between threads, but not below the third.
BLOCK_TILES, ITEMS, LEAST_TILES = 56, 8, 28
#: Columns of the destination that are transformed together, in L1.
RUN_COLUMNS = 32
#: Blocks of destination channels multiplied one after the other while their tiles are in L2.
CHUNK = 2
#: Transformed tiles that are kept whole at most.
TILES_BYTES = 64 << 20


@dataclass(frozen=True)
class Tiling:
    """A schedule. `fields` are fields of the kernel's task."""

    fields: dict[str, int]
    staged: bool  # all tiles first, then items that transform their own weights
    tile_items: int  # blocks of tiles, over all groups
    tile_bytes: int  # of all of them, transformed
    weight_items: int  # blocks of destination channels, over all groups
    weight_bytes: int  # of one of them, transformed
    slot_bytes: int


@lru_cache(maxsize=256)
def tiling(
    problem: ConvProblem,
    direction: Direction,
    size: int,
    vector_bytes: int,
    panel_rows: int,
    allow_staged: bool = True,
) -> Tiling:
    """The schedule of forward or grad_input by F(size, 3), for register tiles of at most `panel_rows` tiles."""
    forward = direction is Direction.FORWARD
    item_bytes = ITEM_BYTES[problem.dtype]
    lanes = vector_bytes // item_bytes
    frequencies = (size + TAPS - 1) ** 2
    source, dest = (problem.in_size, problem.out_size)[:: 1 if forward else -1]
    group_source, group_dest = (problem.group_in_channels, problem.group_out_channels)[:: 1 if forward else -1]
    first = [-low if forward else low - (TAPS - 1) for low, _ in problem.pads]

    tile_rows, tile_columns = -(-dest[0] // size), -(-dest[1] // size)
    tiles = problem.batch * tile_rows * tile_columns
    block_tiles = even(tiles, min(BLOCK_TILES, max(LEAST_TILES, -(-tiles // ITEMS))))
    panel = even(block_tiles, panel_rows)
    run = max(1, min(RUN_COLUMNS // size, tile_columns))
    panels, tile_blocks = -(-block_tiles // panel), -(-tiles // block_tiles)
    source_vectors, dest_blocks = -(-group_source // lanes), -(-group_dest // (2 * lanes))
    chunk = min(CHUNK, dest_blocks)

    tile_f = (panels * panel * source_vectors | 1) * lanes
    sum_tile = (2 * frequencies + 1) * lanes
    weight_f = (2 * group_source + 1) * lanes
    tile_block, sum_block, weight_block = frequencies * tile_f, block_tiles * sum_tile, frequencies * weight_f
    tile_bytes = problem.groups * tile_blocks * tile_block * item_bytes
    weight_bytes = weight_block * item_bytes
    weight_items = problem.groups * dest_blocks
    many_weights = tile_bytes <= weight_items * weight_bytes or problem.groups * tile_blocks < ITEMS
    staged = allow_staged and many_weights and tile_bytes <= TILES_BYTES

    columns = -(-(run * size + TAPS - 1) // lanes) * lanes
    sums_offset = 0 if staged else aligned_bytes(tile_block * item_bytes)
    pixels_offset = sums_offset + aligned_bytes((1 if staged else chunk) * sum_block * item_bytes)
    weights_offset = pixels_offset + aligned_bytes(columns * (size + TAPS - 1) * vector_bytes)
    slot_bytes = weights_offset + (aligned_bytes(weight_bytes) if staged else 0)
    return Tiling(
        fields={
            "source_rows": source[0], "source_columns": source[1], "dest_rows": dest[0], "dest_columns": dest[1],
            "images": problem.batch, "groups": problem.groups, "group_source": group_source, "group_dest": group_dest,
            "size": size, "first_row": first[0], "first_column": first[1],
            "tile_rows": tile_rows, "tile_columns": tile_columns, "block_tiles": block_tiles, "panel": panel,
            "run": run, "chunk": chunk, "tile_f": tile_f, "tile_block": tile_block, "sum_tile": sum_tile,
            "sum_block": sum_block, "weight_f": weight_f, "weight_block": weight_block, "turned": not forward,
            "sums_offset": sums_offset, "pixels_offset": pixels_offset, "weights_offset": weights_offset,
            "scratch_bytes": slot_bytes,
        },
        staged=staged,
        tile_items=problem.groups * tile_blocks,
        tile_bytes=tile_bytes,
        weight_items=weight_items,
        weight_bytes=weight_bytes,
        slot_bytes=slot_bytes,
    )  # fmt: skip
