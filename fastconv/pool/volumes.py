"""Three spatial axes for any algorithm that has two: planes are pooled first, then combined along the depth.

A window of T planes is pooled plane by plane, each plane once however many windows hold it, and the T results under an
output plane are combined. A maximum takes the planes in order and a later one only where it is greater, so that the
first in row-major order wins; the first NaN wins. An average adds the planes' sums and divides once by the divisor of
the whole window. Its gradient goes the other way: what the windows over an input plane hand down to it is added up
first, and spread once. The gradient of a maximum is a scatter by index, which knows no axes.

Work: that of the planes, and T comparisons or additions for every output. Memory: the pooled planes of some volumes at
a time, or of a few output planes where one volume is large. A volume is one image of one channel; with NHWC, one image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv.algorithm import Algorithm, ByAxes, Direction, direct_error
from fastconv.problem import ITEM_BYTES, Ints, PoolProblem
from fastconv.workspace import ALIGNMENT, Scratch

#: Volumes are pooled together until their planes take this much: it stays in the outer caches.
PIECE_BYTES = 4 * 2**20

INDEX_BYTES = 8


class Piece(NamedTuple):
    """Results (output planes forward, input planes backward) `first` to `last` of volumes `begin` to `end`."""

    begin: int
    end: int
    first: int
    last: int


@lru_cache(maxsize=1024)
def planes_problem(problem: PoolProblem, planes: int) -> PoolProblem:
    """The two-dimensional problem of `planes` input planes; an average is left a sum."""
    batch, channels = (planes, problem.channels) if problem.channels_last else (1, planes)
    return PoolProblem(
        problem.kind, problem.dtype, batch, channels, problem.in_size[1:], problem.kernel[1:], problem.stride[1:],
        problem.pads[1:], problem.dilation[1:], problem.ceil_mode,
        divisor_override=1 if problem.kind == "avg" else None, channels_last=problem.channels_last,
    )  # fmt: skip


def _volumes(problem: PoolProblem) -> int:
    return problem.batch if problem.channels_last else problem.batch * problem.channels


def _by_volume(problem: PoolProblem, images: np.ndarray, size: Ints) -> np.ndarray:
    """View of images as (volume, plane, elements of a plane)."""
    return images.reshape(_volumes(problem), size[0], -1)


def _out_plane(problem: PoolProblem) -> int:
    """Elements of one pooled plane of one volume."""
    return math.prod(problem.out_size[1:]) * (problem.channels if problem.channels_last else 1)


def _span(problem: PoolProblem, volumes: int, planes: int) -> int:
    """Input planes of each volume that are pooled for `planes` output planes; several volumes are pooled whole."""
    if volumes > 1:
        return problem.in_size[0]
    stride, kernel, dilation = problem.stride[0], problem.kernel[0], problem.dilation[0]
    return min((planes - 1) * stride + (kernel - 1) * dilation + 1, problem.in_size[0])


def _piece_bytes(problem: PoolProblem, direction: Direction, volumes: int, planes: int) -> int:
    """Scratch of this file for a piece of so many volumes and results of each."""
    item, plane = ITEM_BYTES[problem.dtype], _out_plane(problem)
    if problem.kind == "avg":
        # Forward the sums of the planes, backward what is handed down to them and the shares of one output plane; and
        # one plane of divisors.
        held = volumes * (_span(problem, volumes, planes) if direction is Direction.FORWARD else planes + 1)
        return (held + 1) * plane * item + 4 * ALIGNMENT
    # The pooled planes and their indices, and two masks and one plane of indices to combine them with.
    pooled = volumes * _span(problem, volumes, planes) * plane * (item + INDEX_BYTES)
    combined = volumes * planes * plane * (2 + INDEX_BYTES)
    # Backward the maxima themselves are scratch too, and the cells that they lie in.
    own = 0
    if direction is Direction.BACKWARD_INPUT:
        own = volumes * planes * plane * (item + INDEX_BYTES) + planes * plane * INDEX_BYTES
    return pooled + combined + own + 8 * ALIGNMENT


def _results(problem: PoolProblem, direction: Direction) -> int:
    """Planes that a volume's pieces share out."""
    backward_of_average = problem.kind == "avg" and direction is Direction.BACKWARD_INPUT
    return problem.in_size[0] if backward_of_average else problem.out_size[0]


def piece_size(problem: PoolProblem, direction: Direction) -> tuple[int, int]:
    """(volumes, planes) of the pieces; by the shape alone."""
    whole = _results(problem, direction)
    pair = _piece_bytes(problem, direction, 2, whole)
    if pair <= PIECE_BYTES:
        return max(1, min(_volumes(problem), PIECE_BYTES // pair * 2)), whole
    planes = whole
    while planes > 1 and _piece_bytes(problem, direction, 1, planes) > PIECE_BYTES:
        planes = -(-planes // 2)
    return 1, planes


def _pieces(problem: PoolProblem, direction: Direction, scratch: Scratch, inner_bytes: int) -> Iterator[Piece]:
    """All of them; one plane at a time where the scratch holds no more beside the `inner_bytes` of a large one."""
    volumes, planes = piece_size(problem, direction)
    if scratch.free < _piece_bytes(problem, direction, volumes, planes) + inner_bytes:
        volumes, planes = 1, 1
    count, whole = _volumes(problem), _results(problem, direction)
    for begin in range(0, count, volumes):
        for first in range(0, whole, planes):
            yield Piece(begin, min(begin + volumes, count), first, min(first + planes, whole))


def _tap(problem: PoolProblem, t: int, first: int, last: int) -> tuple[slice, slice]:
    """Output planes in [first, last) whose tap `t` is inside the input, and those input planes."""
    stride, offset = problem.stride[0], t * problem.dilation[0] - problem.pads[0][0]
    begin = max(first, -(offset // stride))
    end = max(begin, min(last, (problem.in_size[0] - 1 - offset) // stride + 1))
    start = begin * stride + offset
    if end - begin == 1:
        stride = 1  # any step is right, and a slice takes no step beyond 64 bits
    return slice(begin, end), slice(start, start + (end - begin - 1) * stride + 1 if end > begin else start, stride)


def _shifted(planes: slice, by: int) -> slice:
    return slice(planes.start - by, planes.stop - by, planes.step)


def _planes_under(problem: PoolProblem, piece: Piece) -> tuple[int, int]:
    """Input planes [low, high) that are pooled for `piece`: those that its windows reach, or all of several volumes."""
    if piece.end - piece.begin > 1:
        return 0, problem.in_size[0]
    stride, pad = problem.stride[0], problem.pads[0][0]
    low = min(max(piece.first * stride - pad, 0), problem.in_size[0] - 1)
    high = (piece.last - 1) * stride - pad + (problem.kernel[0] - 1) * problem.dilation[0] + 1
    return low, max(low + 1, min(high, problem.in_size[0]))


def _taps(problem: PoolProblem, first: int, last: int) -> range:
    """Taps along the depth with which some of the output planes [first, last) reach the input."""
    stride, dilation, low = problem.stride[0], problem.dilation[0], problem.pads[0][0]
    least = -(((last - 1) * stride - low) // dilation)
    end = (problem.in_size[0] - 1 - (first * stride - low)) // dilation + 1
    return range(max(least, 0), min(end, problem.kernel[0]))


def _nearest(problem: PoolProblem) -> list[np.ndarray]:
    """Per axis: first position of each window inside the input, or the one nearest to it."""
    nearest = []
    for size, kernel, stride, (low, _), dilation, out in zip(
        problem.in_size, problem.kernel, problem.stride, problem.pads, problem.dilation, problem.out_size, strict=True
    ):
        begin = np.array([p * stride - low for p in range(out)])
        if kernel == 1:
            dilation = 1  # whatever its size, it takes no part
        steps = np.minimum(np.maximum(-(begin // dilation), 0), kernel - 1)
        first = begin + steps * dilation
        nearest.append(np.where((first >= 0) & (first < size), first, begin.clip(0, size - 1)))
    return nearest


def _divisors(problem: PoolProblem) -> list[np.ndarray]:
    """Per axis: counted elements of each window; their product divides."""
    counts = []
    for size, kernel, stride, (low, high), out in zip(
        problem.in_size, problem.kernel, problem.stride, problem.pads, problem.out_size, strict=True
    ):
        begin = np.array([p * stride - low for p in range(out)])
        end = np.minimum(begin + kernel, size + high)
        if not problem.count_include_pad:
            begin, end = begin.clip(0), end.clip(max=size)
        counts.append((end - begin).clip(0))
    return counts


def _divide(problem: PoolProblem, sums: np.ndarray, first: int, result: np.ndarray, scratch: Scratch) -> None:
    """result[v, z] = sums[v, z] / divisors[first + z]."""
    with np.errstate(all="ignore"):
        if problem.divisor_override is not None:
            np.divide(sums, problem.divisor_override, out=result)
            return
        depth, rows, columns = _divisors(problem)
        mark = scratch.mark()
        plane = scratch.take((len(rows), len(columns), _out_plane(problem) // (len(rows) * len(columns))), sums.dtype)
        for z in range(sums.shape[1]):
            np.multiply(rows[:, None, None], columns[:, None] * depth[first + z], out=plane, casting="unsafe")
            np.maximum(plane, 1, out=plane)
            np.divide(sums[:, z], plane.reshape(-1), out=result[:, z])
        scratch.release(mark)


def with_volumes(flat: Algorithm) -> Algorithm:
    """`flat`, which has two spatial axes, extended to three."""

    def pooled_planes(
        problem: PoolProblem, input: np.ndarray, piece: Piece, with_indices: bool, scratch: Scratch, threads: int
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Results and indices (volume, plane, element) of the planes under `piece`, and the number of the first."""
        low, high = _planes_under(problem, piece)
        source = _by_volume(problem, input, problem.in_size)[piece.begin : piece.end, low:high]
        inner = planes_problem(problem, source.shape[0] * source.shape[1])
        shape = (*source.shape[:2], _out_plane(problem))
        values = scratch.take(shape, problem.dtype)
        indices = scratch.take(shape, np.int64) if with_indices else None
        where = None if indices is None else indices.reshape(inner.output_shape)
        planes, into = source.reshape(inner.input_shape), values.reshape(inner.output_shape)
        mark = scratch.mark()
        flat.forward(inner, planes, into, where, scratch, threads)
        scratch.release(mark)  # it may have taken all that was left
        return values, indices, low

    def maximum(
        problem: PoolProblem,
        input: np.ndarray,
        piece: Piece,
        output: np.ndarray,
        indices: np.ndarray | None,
        scratch: Scratch,
        threads: int,
    ) -> None:
        """Maxima of `piece` into output (volume, z, element) and indices, which hold that piece alone."""
        values, where, low = pooled_planes(problem, input, piece, indices is not None, scratch, threads)
        plane = math.prod(problem.in_size[1:])
        output[...] = -np.inf
        if indices is not None:
            depth, rows, columns = _nearest(problem)
            flat_index = (rows[:, None] * problem.in_size[2] + columns)[..., None]
            by_pixel = indices.reshape(*indices.shape[:2], *flat_index.shape[:2], -1)
            np.add(flat_index, depth[piece.first : piece.last, None, None, None] * plane, out=by_pixel)
        for t in _taps(problem, piece.first, piece.last):
            zs, ds = _tap(problem, t, piece.first, piece.last)
            if zs.start >= zs.stop:
                continue
            mark = scratch.mark()
            largest, candidate = output[:, _shifted(zs, piece.first)], values[:, _shifted(ds, low)]
            wins, is_number = scratch.take(largest.shape, np.bool_), scratch.take(largest.shape, np.bool_)
            # Strictly greater, or the first NaN: candidate is one and largest none yet.
            np.not_equal(candidate, candidate, out=wins)
            np.equal(largest, largest, out=is_number)
            np.logical_and(wins, is_number, out=wins)
            np.greater(candidate, largest, out=is_number)
            np.logical_or(wins, is_number, out=wins)
            np.copyto(largest, candidate, where=wins)
            if indices is not None and where is not None:
                in_volume = scratch.take(largest.shape, np.int64)
                depths = np.arange(ds.start, ds.stop, ds.step)[:, None] * plane
                np.add(where[:, _shifted(ds, low)], depths, out=in_volume)
                np.copyto(indices[:, _shifted(zs, piece.first)], in_volume, where=wins)
            scratch.release(mark)

    def average(
        problem: PoolProblem, input: np.ndarray, piece: Piece, output: np.ndarray, scratch: Scratch, threads: int
    ) -> None:
        sums, _, low = pooled_planes(problem, input, piece, False, scratch, threads)
        output[...] = 0
        with np.errstate(all="ignore"):
            for t in _taps(problem, piece.first, piece.last):
                zs, ds = _tap(problem, t, piece.first, piece.last)
                total = output[:, _shifted(zs, piece.first)]
                np.add(total, sums[:, _shifted(ds, low)], out=total)
        _divide(problem, output, piece.first, output, scratch)

    def forward(
        problem: PoolProblem,
        input: np.ndarray,
        output: np.ndarray,
        indices: np.ndarray | None,
        scratch: Scratch,
        threads: int,
    ) -> None:
        results = _by_volume(problem, output, problem.out_size)
        where = None if indices is None else _by_volume(problem, indices, problem.out_size)
        for begin, end, first, last in _pieces(
            problem, Direction.FORWARD, scratch, inner_bytes(problem, Direction.FORWARD, threads)
        ):
            mark, piece = scratch.mark(), Piece(begin, end, first, last)
            into = results[begin:end, first:last]
            if problem.kind == "avg":
                average(problem, input, piece, into, scratch, threads)
            else:
                into_indices = None if where is None else where[begin:end, first:last]
                maximum(problem, input, piece, into, into_indices, scratch, threads)
            scratch.release(mark)

    def scatter(
        problem: PoolProblem,
        grad_output: np.ndarray,
        input: np.ndarray | None,
        indices: np.ndarray | None,
        grad_input: np.ndarray,
        scratch: Scratch,
        threads: int,
    ) -> None:
        """Each gradient of a maximum to where its index points."""
        upstream = _by_volume(problem, grad_output, problem.out_size)
        given = None if indices is None else _by_volume(problem, indices, problem.out_size)
        totals = grad_input.reshape(_volumes(problem), -1)
        totals[...] = 0
        channels = problem.channels if problem.channels_last else 1
        for piece in _pieces(
            problem, Direction.BACKWARD_INPUT, scratch, inner_bytes(problem, Direction.BACKWARD_INPUT, threads)
        ):
            mark, (begin, end, first, last) = scratch.mark(), piece
            if given is None:
                assert input is not None
                shape = (end - begin, last - first, upstream.shape[2])
                where = scratch.take(shape, np.int64)
                maximum(problem, input, piece, scratch.take(shape, problem.dtype), where, scratch, threads)
            else:
                where = given[begin:end, first:last]
            for v in range(end - begin):
                cells, kept = where[v].reshape(-1), scratch.mark()
                if channels > 1:
                    in_image = scratch.take((cells.size // channels, channels), np.int64)
                    np.multiply(cells.reshape(-1, channels), channels, out=in_image)
                    np.add(in_image, np.arange(channels), out=in_image)
                    cells = in_image.reshape(-1)
                with np.errstate(all="ignore"):
                    np.add.at(totals[begin + v], cells, upstream[begin + v, first:last].reshape(-1))
                scratch.release(kept)
            scratch.release(mark)

    def spread(
        problem: PoolProblem, grad_output: np.ndarray, grad_input: np.ndarray, scratch: Scratch, threads: int
    ) -> None:
        """The gradients of averages: handed down to each input plane, then spread over it once."""
        upstream = _by_volume(problem, grad_output, problem.out_size)
        results = _by_volume(problem, grad_input, problem.in_size)
        stride, kernel, pad = problem.stride[0], problem.kernel[0], problem.pads[0][0]
        for begin, end, first, last in _pieces(
            problem, Direction.BACKWARD_INPUT, scratch, inner_bytes(problem, Direction.BACKWARD_INPUT, threads)
        ):
            mark = scratch.mark()
            handed = scratch.take((end - begin, last - first, upstream.shape[2]), problem.dtype)
            share = scratch.take((end - begin, 1, upstream.shape[2]), problem.dtype)
            handed[...] = 0
            above = range(max(0, -((kernel - 1 - first - pad) // stride)), (last - 1 + pad) // stride + 1)
            for z in above[: max(0, problem.out_size[0] - above.start)]:
                _divide(problem, upstream[begin:end, z : z + 1], z, share, scratch)
                start = z * stride - pad
                under = slice(max(start, first) - first, min(start + kernel, last) - first)
                with np.errstate(all="ignore"):
                    np.add(handed[:, under], share, out=handed[:, under])
            inner = planes_problem(problem, (end - begin) * (last - first))
            down, into = handed.reshape(inner.output_shape), results[begin:end, first:last].reshape(inner.input_shape)
            flat.backward_input(inner, down, None, None, into, scratch, threads)
            scratch.release(mark)

    def backward_input(
        problem: PoolProblem,
        grad_output: np.ndarray,
        input: np.ndarray | None,
        indices: np.ndarray | None,
        grad_input: np.ndarray,
        scratch: Scratch,
        threads: int,
    ) -> None:
        if problem.kind == "avg":
            spread(problem, grad_output, grad_input, scratch, threads)
        else:
            scatter(problem, grad_output, input, indices, grad_input, scratch, threads)

    def inner_of(
        problem: PoolProblem, direction: Direction, volumes: int, planes: int
    ) -> tuple[PoolProblem, Direction]:
        """What `flat` is asked for a piece; the planes of a maximum are found forward in both directions."""
        if problem.kind == "avg" and direction is Direction.BACKWARD_INPUT:
            return planes_problem(problem, volumes * planes), direction
        return planes_problem(problem, volumes * _span(problem, volumes, planes)), Direction.FORWARD

    def largest(problem: PoolProblem, direction: Direction) -> tuple[PoolProblem, Direction]:
        return inner_of(problem, direction, *piece_size(problem, direction))

    def inner_bytes(problem: PoolProblem, direction: Direction, threads: int) -> int:
        return flat.workspace_bytes(*largest(problem, direction), threads)[0]

    def workspace_bytes(problem: PoolProblem, direction: Direction, threads: int) -> tuple[int, int]:
        least = _piece_bytes(problem, direction, 1, 1)
        least += flat.workspace_bytes(*inner_of(problem, direction, 1, 1), threads)[0]
        best = _piece_bytes(problem, direction, *piece_size(problem, direction))
        return least, max(least, best + flat.workspace_bytes(*largest(problem, direction), threads)[1])

    def cost(problem: PoolProblem, direction: Direction, threads: int, machine: Any) -> float:
        volumes, planes = piece_size(problem, direction)
        pieces = -(-_volumes(problem) // volumes) * -(-_results(problem, direction) // planes)
        combined = _volumes(problem) * problem.out_size[0] * problem.kernel[0] * _out_plane(problem)
        seconds = pieces * flat.cost(*largest(problem, direction), threads, machine)
        return seconds + 5 * combined * ITEM_BYTES[problem.dtype] / float(machine.copy_bandwidth)

    return replace(
        flat,
        refusal=ByAxes(flat.refusal, lambda problem, direction: flat.refusal(*largest(problem, direction))),
        ready=ByAxes(flat.ready, lambda problem, direction: flat.ready(*largest(problem, direction))),
        error=ByAxes(
            flat.error,
            lambda problem, direction: max(flat.error(*largest(problem, direction)), direct_error(problem, direction)),
        ),
        cost=ByAxes(flat.cost, cost),
        workspace_bytes=ByAxes(flat.workspace_bytes, workspace_bytes),
        forward=ByAxes(flat.forward, forward),
        backward_input=ByAxes(flat.backward_input, backward_input),
    )
