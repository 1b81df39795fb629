"""The schedule of kernels/cython/winograd.pyx: how tiles and channels are cut into blocks.

A function of the problem, the direction, the size and the vector length alone, so that the work items, and the bits of
the result, are the same for every number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastconv.algorithm import Direction
from fastconv.problem import ITEM_BYTES, ConvProblem, Ints
from fastconv.taps import even
from fastconv.winograd import TAPS
from fastconv.workspace import aligned_bytes

#: Tiles of a block: what is read of the weights is used for so many. Fewer where there would be less than so many
#: blocks to share between threads, but not below the third.
BLOCK_TILES, ITEMS, LEAST_TILES = 56, 8, 28
#: Columns of the destination that are transformed together, in L1.
RUN_COLUMNS = 32
#: Blocks of destination channels multiplied one after the other while their tiles are in L2.
CHUNK = 2
#: The same where each transforms its own weights: 1, for these fill L2 alone, but for tiles of so many bytes, which are
#: read from memory once for each chunk (512 channels at 28 x 28, 8 images: 90 to 83 ms; at 14 x 14: 24.6 to 26.9).
STREAMED_BYTES = 16 << 20
#: Transformed tiles that are kept whole at most.
TILES_BYTES = 64 << 20
#: grad_weight: bytes of the transformed tiles of a segment, of input and grad_output together; tiles of it at least,
#: for the sums are read and written once for each segment, and at most, for they are summed in one chain. (128 channels
#: at 28 x 28, 8 images: 332 GFLOP/s by 2 MB, 326 by 4, 283 by 8, 197 by 16.)
SEGMENT_BYTES, SEGMENT_LEAST, SEGMENT_MOST = 2 << 20, 56, 512
#: Vectors of input channels of an item of grad_weight: its sums stay in L2.
SUM_VECTORS = 4
#: Input channels whose taps are transposed together into grad_weight; FILTERS of winograd_gradient.pyx.
FILTERS = 16


@dataclass(frozen=True)
class Tiling:
    """A schedule. `fields` are fields of the kernel's task."""

    fields: dict[str, Any]
    staged: bool  # all tiles first, then items that transform their own weights
    staged_items: int  # chunks of blocks of destination channels, over all groups
    tile_items: int  # blocks of tiles, over all groups
    tile_bytes: int  # of all of them, transformed
    weight_items: int  # blocks of destination channels, over all groups
    weight_bytes: int  # of one of them, transformed
    slot_bytes: int


def image(shape: Ints, channels_last: bool, first: tuple[int, int]) -> dict[str, int]:
    """An array of images for the kernels, whose tiles begin at `first`."""
    _, a, b, c = shape
    rows, columns = (a, b) if channels_last else (b, c)
    n, channel, row, column = (a * b * c, 1, b * c, c) if channels_last else (a * b * c, b * c, c, 1)
    return {
        "n": n, "c": channel, "h": row, "w": column, "rows": rows, "columns": columns,
        "first_row": first[0], "first_column": first[1],
    }  # fmt: skip


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
    source_shape, dest_shape = (problem.input_shape, problem.output_shape)[:: 1 if forward else -1]
    dest = problem.out_size if forward else problem.in_size
    group_source, group_dest = (problem.group_in_channels, problem.group_out_channels)[:: 1 if forward else -1]
    low = problem.pads[0][0], problem.pads[1][0]
    first = (-low[0], -low[1]) if forward else (low[0] - (TAPS - 1), low[1] - (TAPS - 1))
    taps = TAPS * TAPS
    k_step = problem.group_in_channels * taps

    tile_rows, tile_columns = -(-dest[0] // size), -(-dest[1] // size)
    tiles = max(problem.batch * tile_rows * tile_columns, 1)  # an empty problem is planned, too
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
    if staged and tile_bytes < STREAMED_BYTES:
        chunk = 1
    while staged and chunk > 1 and problem.groups * -(-dest_blocks // chunk) < ITEMS:
        chunk = even(dest_blocks, chunk - 1)

    columns = -(-(run * size + TAPS - 1) // lanes) * lanes
    sums_offset = 0 if staged else aligned_bytes(tile_block * item_bytes)
    pixels_offset = sums_offset + aligned_bytes(chunk * sum_block * item_bytes)
    weights_offset = pixels_offset + aligned_bytes(columns * (size + TAPS - 1) * vector_bytes)
    slot_bytes = weights_offset + (aligned_bytes(chunk * weight_bytes) if staged else 0)
    return Tiling(
        fields={
            "source": image(source_shape, problem.channels_last, first),
            "dest": image(dest_shape, problem.channels_last, (0, 0)),
            "grid": {"size": size, "rows": tile_rows, "columns": tile_columns, "run": run}, "tiles": tiles,
            "groups": problem.groups, "group_source": group_source, "group_dest": group_dest,
            "block_tiles": block_tiles, "panel": panel, "chunk": chunk, "weight_dest": k_step if forward else taps,
            "weight_source": taps if forward else k_step, "weight_group": problem.group_out_channels * k_step,
            "turned": not forward, "tile_f": tile_f, "tile_block": tile_block, "sum_tile": sum_tile,
            "sum_block": sum_block, "weight_f": weight_f, "weight_block": weight_block,
            "sums_offset": sums_offset, "pixels_offset": pixels_offset, "weights_offset": weights_offset,
            "scratch_bytes": slot_bytes,
        },
        staged=staged,
        staged_items=problem.groups * -(-dest_blocks // chunk),
        tile_items=problem.groups * tile_blocks,
        tile_bytes=tile_bytes,
        weight_items=weight_items,
        weight_bytes=weight_bytes,
        slot_bytes=slot_bytes,
    )  # fmt: skip


@dataclass(frozen=True)
class Segments:
    """A schedule of grad_weight. `fields` are fields of the kernel's task."""

    fields: dict[str, Any]
    tiles: int
    segment: int  # tiles of one
    tile_bytes: int  # of the transformed tiles of a segment of the input
    grad_bytes: int  # and of grad_output
    sum_bytes: int  # of all items, where there are several segments
    items: int  # to multiply
    slot_bytes: int

    def blocks(self, tiles: int) -> int:
        """Items to transform a segment of so many tiles, of each array and group."""
        return -(-tiles // int(self.fields["block_tiles"]))


@lru_cache(maxsize=256)
def segments(problem: ConvProblem, size: int, vector_bytes: int) -> Segments:
    """The schedule of grad_weight by F(size, 3)."""
    item_bytes = ITEM_BYTES[problem.dtype]
    lanes = vector_bytes // item_bytes
    frequencies = (size + TAPS - 1) ** 2
    rows, columns = (-(-extent // size) for extent in problem.out_size)
    tiles = max(problem.batch * rows * columns, 1)
    run = max(1, min(RUN_COLUMNS // size, columns))
    in_vectors, out_blocks = -(-problem.group_in_channels // lanes), -(-problem.group_out_channels // (2 * lanes))
    tile_bytes = problem.groups * frequencies * (in_vectors + 2 * out_blocks) * vector_bytes
    segment = even(tiles, min(SEGMENT_MOST, max(SEGMENT_LEAST, SEGMENT_BYTES // tile_bytes)))
    block_tiles = even(segment, max(run, -(-segment // ITEMS)))
    chunk = even(in_vectors, SUM_VECTORS)
    while chunk > 1 and problem.groups * out_blocks * -(-in_vectors // chunk) < ITEMS:
        chunk = even(in_vectors, chunk - 1)
    items = problem.groups * out_blocks * -(-in_vectors // chunk)

    tile_f, grad_f = (in_vectors * segment | 1) * lanes, (2 * out_blocks * segment | 1) * lanes
    sum_f = (2 * chunk * lanes | 1) * lanes
    first = -problem.pads[0][0], -problem.pads[1][0]
    pixels = -(-(run * size + TAPS - 1) // lanes) * lanes * (size + TAPS - 1)
    sums_offset = aligned_bytes(max(pixels, FILTERS * TAPS**2) * vector_bytes)
    once = segment >= tiles
    sum_item = frequencies * sum_f
    return Segments(
        fields={
            "input": image(problem.input_shape, problem.channels_last, first),
            "grad": image(problem.output_shape, problem.channels_last, (0, 0)),
            "grid": {"size": size, "rows": rows, "columns": columns, "run": run}, "tiles": tiles,
            "groups": problem.groups, "group_in": problem.group_in_channels, "group_out": problem.group_out_channels,
            "segment": segment, "block_tiles": block_tiles, "chunk": chunk,
            "tile_f": tile_f, "tile_group": frequencies * tile_f, "grad_f": grad_f, "grad_group": frequencies * grad_f,
            "sum_f": sum_f, "sum_item": sum_item, "sums_offset": sums_offset,
            "scratch_bytes": sums_offset + (aligned_bytes(sum_item * item_bytes) if once else 0),
        },
        tiles=tiles,
        segment=segment,
        tile_bytes=problem.groups * frequencies * tile_f * item_bytes,
        grad_bytes=problem.groups * frequencies * grad_f * item_bytes,
        sum_bytes=0 if once else items * sum_item * item_bytes,
        items=items,
        slot_bytes=sums_offset + (aligned_bytes(sum_item * item_bytes) if once else 0),
    )  # fmt: skip
