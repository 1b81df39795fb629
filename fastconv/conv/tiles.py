"""How a convolution is cut for kernels of runs: tiles of results, planes of sources, and where a tap finds its run.

A run is a tile's rows laid end to end, each of one pitch, so that a tap of the window is one constant shift of a whole
tile. Everything here depends on the shape alone; so results have the same bits for every number of threads.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from fastconv.algorithm import Direction
from fastconv.problem import ITEM_BYTES, ConvProblem, Ints

#: Longest run of sums; that of fastconv.kernels.numba.contraction, which is not imported before it is needed.
LEAD = 512

#: Positions whose windows are copied at once; that of fastconv.kernels.numba.gradient.
POSITIONS = 128

#: The copied rows of a tile should stay in a core's second cache.
PLANES_BYTES = 512 * 2**10

#: Enough work items for many threads, as far as copying a tile again for other channels is cheap beside its products.
ITEMS = 32
LEAST_CHANNELS = 32

#: An item takes a few hundredths of a second at most, so that Ctrl-C is seen.
ITEM_FLOPS = 1e9


class Axis(NamedTuple):
    """One spatial axis of a correlation: `tile` results at a time, of the positions [first, last).

    Result x of phase f is element x * result_step + results[f] of the result; position x of source plane e is element
    x * source_step + planes[e] of the source. A tap is (its plane, its shift in it, the phase it contributes to).
    """

    first: int
    last: int
    tile: int
    halo: int
    source_step: int
    result_step: int
    planes: Ints
    results: Ints
    taps: tuple[tuple[int, int, int], ...]

    @property
    def tiles(self) -> int:
        return -(-(self.last - self.first) // self.tile)


def _axis(problem: ConvProblem, direction: Direction, index: int, most: int, planes_pay: float) -> Axis:
    """With a halo wider than `planes_pay` tiles, each tap gets a plane of its own, already shifted."""
    size, stride, (low, _) = problem.in_size[index], problem.stride[index], problem.pads[index]
    offsets = [tap * problem.dilation[index] for tap in range(problem.kernel[index])]
    phases = sorted({offset % stride for offset in offsets})
    forward = direction is Direction.FORWARD
    first, last = (0, problem.out_size[index]) if forward else (low // stride, (size - 1 + low) // stride + 1)
    extent = last - first
    tile = -(-extent // -(-extent // most))
    halo = offsets[-1] // stride
    apart = len(offsets) > 1 and halo > planes_pay * tile
    if forward:
        planes = tuple(offsets if apart else phases)
        taps = tuple(
            (i, 0, 0) if apart else (phases.index(offset % stride), offset // stride, 0)
            for i, offset in enumerate(offsets)
        )
        origins = tuple(plane - low for plane in planes)
        return Axis(first, last, tile, 0 if apart else halo, stride, 1, origins, (0,), taps)
    origins = tuple(-(offset // stride) for offset in offsets) if apart else (-halo,)
    taps = tuple(
        (i if apart else 0, 0 if apart else halo - offset // stride, phases.index(offset % stride))
        for i, offset in enumerate(offsets)
    )
    return Axis(first, last, tile, 0 if apart else halo, 1, stride, origins, tuple(p - low for p in phases), taps)


class Layout(NamedTuple):
    """How a correlation is cut into work items, and where each tap finds its planes."""

    rows: Axis
    cols: Axis
    source_channels: int  # of one group
    result_channels: int
    block: int
    #: (phase, shift within the planes of one channel, weight offset r s) of every tap, by phase
    taps: tuple[tuple[int, int, int], ...]

    @property
    def pitch(self) -> int:
        return self.cols.tile + self.cols.halo

    @property
    def plane_size(self) -> int:
        return (self.rows.tile + self.rows.halo) * self.pitch

    @property
    def planes(self) -> int:
        return len(self.rows.planes) * len(self.cols.planes)

    @property
    def row_tiles(self) -> int:
        return self.rows.tiles

    @property
    def col_tiles(self) -> int:
        return self.cols.tiles

    @property
    def blocks(self) -> int:
        return -(-self.result_channels // self.block)

    @property
    def terms(self) -> int:
        return len(self.taps) * self.source_channels

    @property
    def results(self) -> int:
        return len(self.rows.results) * len(self.cols.results)


@lru_cache(maxsize=1024)
def correlation_layout(problem: ConvProblem, direction: Direction) -> Layout:
    sources, results = problem.group_in_channels, problem.group_out_channels
    if direction is Direction.BACKWARD_INPUT:
        sources, results = results, sources
    cols = _axis(problem, direction, 1, LEAD // 2 - 16, 0.5)
    pitch = cols.tile + cols.halo
    planes = len(cols.planes) * (min(problem.stride[0], problem.kernel[0]) if direction is Direction.FORWARD else 1)
    affordable = PLANES_BYTES // (sources * planes * pitch * ITEM_BYTES[problem.dtype])
    most = min((LEAD - cols.tile) // pitch + 1, max(affordable, -(-POSITIONS // pitch)))
    rows = _axis(problem, direction, 0, max(1, most), problem.kernel[0] - 1)
    items = max(1, problem.batch) * problem.groups * rows.tiles * cols.tiles
    blocks = max(1, min(-(-results // LEAST_CHANNELS), -(-ITEMS // items)))
    affordable = int(ITEM_FLOPS / (2 * sources * math.prod(problem.kernel) * LEAD))
    block = max(4, min(-(-results // blocks), affordable)) + 3
    layout = Layout(rows, cols, sources, results, min(results, block // 4 * 4), ())
    taps = []
    for r, (row_plane, row_shift, row_phase) in enumerate(rows.taps):
        for s, (col_plane, col_shift, col_phase) in enumerate(cols.taps):
            plane = row_plane * len(cols.planes) + col_plane
            shift = plane * layout.plane_size + row_shift * pitch + col_shift
            phase = row_phase * len(cols.results) + col_phase
            taps.append((phase, shift, r * problem.kernel[1] + s))
    return layout._replace(taps=tuple(sorted(taps)))


class Split(NamedTuple):
    """How grad_weight is cut into work items, and positions into calls."""

    term_block: int
    term_blocks: int
    channel_block: int
    channel_blocks: int
    positions: int  # of one call

    @property
    def term_pitch(self) -> int:
        return -(-self.term_block // 16) * 16


@lru_cache(maxsize=1024)
def gradient_split(problem: ConvProblem) -> Split:
    terms = problem.group_in_channels * math.prod(problem.kernel)
    channels = problem.group_out_channels
    term_blocks = -(-terms // LEAD)
    term_block = -(-terms // term_blocks)
    wanted = max(-(-channels // POSITIONS), ITEMS // 2 // (problem.groups * term_blocks))
    channel_block = -(-channels // max(1, min(-(-channels // LEAST_CHANNELS), wanted)))
    channel_block = min(channels, -(-channel_block // 4) * 4)
    positions = int(ITEM_FLOPS / 2 / (2 * channel_block * term_block)) // POSITIONS * POSITIONS
    return Split(
        term_block, -(-terms // term_block), channel_block, -(-channels // channel_block), max(POSITIONS, positions)
    )
