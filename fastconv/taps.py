"""Where the taps of a kernel fall along one spatial axis: the index arithmetic of the tiled kernels.

Tap r of output p reads input  p * stride - low + r * dilation = (p + shift) * stride + residue.  Taps of one residue
see the same rows, shifted by whole outputs. A buffer that keeps the rows of each residue together therefore has
every tap of p at a constant distance from its row p, whatever stride and dilation are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tap:
    """One kernel index along an axis."""

    place: int
    shift: int
    residue: int


def axis_taps(kernel: int, stride: int, dilation: int, low: int) -> tuple[Tap, ...]:
    """All taps of an axis, in order."""
    return tuple(Tap(index, *divmod(index * dilation - low, stride)) for index in range(kernel))


@dataclass(frozen=True)
class Group:
    """Consecutive buffer places that hold source positions origin, origin + step, ..."""

    origin: int
    extent: int


def buffer_groups(taps: Sequence[Tap], extent: int, step: int) -> tuple[list[Group], dict[int, tuple[int, int]]]:
    """Lay out what `extent` consecutive outputs read: groups, and by tap its (group, place within it).

    Taps of one residue share a group where the ranges that they read meet; a dilation beyond the extent leaves out
    what lies between them.

    Examples
    --------
    >>> buffer_groups(axis_taps(3, 2, 1, 1), 4, 2)  # -1 is padding: taps 0 and 2 are one output apart
    ([Group(origin=0, extent=4), Group(origin=-1, extent=5)], {1: (0, 0), 0: (1, 0), 2: (1, 1)})
    """
    groups: list[Group] = []
    places: dict[int, tuple[int, int]] = {}
    first, residue = 0, -1
    for tap in sorted(taps, key=lambda tap: (tap.residue, tap.shift)):
        if tap.residue == residue and tap.shift - first <= groups[-1].extent:
            reach = max(groups[-1].extent, tap.shift - first + extent)
            groups[-1] = Group(groups[-1].origin, reach)
        else:
            first, residue = tap.shift, tap.residue
            groups.append(Group(first * step + residue, extent))
        places[tap.place] = (len(groups) - 1, tap.shift - first)
    return groups, places


def even(extent: int, most: int) -> int:
    """The size of blocks that split `extent` evenly into as few as `most` allows."""
    return -(-extent // -(-extent // max(most, 1)))


def pixel_blocks(images: int, steps: tuple[int, int], size: tuple[int, ...], pixels: int) -> tuple[int, int, int]:
    """Images, rows and columns of a block of about `pixels` pixels.

    Whole rows are kept together, then whole images, where they are small enough. Rows and columns are counted in
    units of `steps`.
    """
    rows, columns = -(-size[0] // steps[0]), -(-size[1] // steps[1])
    column_block = even(columns, pixels // steps[1]) if size[1] > pixels else columns
    row_pixels = min(column_block * steps[1], size[1]) * min(steps[0], size[0])
    row_block = even(rows, pixels // row_pixels)
    image_block = 1
    if (row_block, column_block) == (rows, columns):
        image_block = even(max(images, 1), pixels // (size[0] * size[1]))
    return image_block, row_block, column_block
