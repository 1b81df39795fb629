"""The convolution as a matrix product: every window of the input becomes a column, and BLAS does the rest.

Per group, with columns_crs_pq[c r s, p q] = input[c, p * stride - pad + r * dilation, ...], 0 outside the input::

    output_k_pq       = weight_k_crs   @ columns_crs_pq
    grad_weight_k_crs = grad_output_k_pq @ columns_crs_pq^T            grad_bias_k = sum over n, p, q of grad_output
    grad_columns      = weight_k_crs^T @ grad_output_k_pq              grad_input = each column added to its window

The last step (col2im) drops what falls into the padding, so that nothing outside grad_output ever counts.
Work: N K P Q C/g R S multiply-accumulates in each direction, and C R S P Q elements copied or added.
Memory: the columns repeat the input R S / stride^2 times, so they are made for one piece at a time: a few images,
or a few rows of one image, or, with the least scratch, one output position. A 1x1 kernel of stride 1 without padding
has no columns: the input is multiplied where it lies.
Numerics: BLAS decides the order of the sums, and may decide otherwise for another number of threads: alone among
the algorithms, this one does not promise the same bits. Its threads are those of the process (`set_num_threads`).
Paper: Chellapilla, Puri, Simard, "High Performance Convolutional Neural Networks for Document Processing" (2006).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fastconv.algorithm import Algorithm, Direction, Epilogue, always_ready, direct_error, nchw
from fastconv.conv.volumes import with_volumes
from fastconv.machine import Machine
from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.threads import unforkable
from fastconv.workspace import Scratch, aligned_bytes

#: Measured on Zen 4 and Zen 5: the share of the FMA peak that NumPy's OpenBLAS (its AVX2 kernels) reaches.
BLAS_SHARE = 0.45

#: Measured: share of the bandwidth of a large copy at which columns are made (copied) and scattered (added), in NCHW
#: and in NHWC, where each column gathers single elements.
COPY_SHARE = {False: 0.9, True: 0.4}
SCATTER_SHARE = {False: 0.6, True: 0.3}

#: Seconds of one NumPy call on a small slice.
SECONDS_PER_CALL = 1.5e-6

#: Columns of one piece: they stay in the last-level cache between being made and being multiplied.
PIECE_BYTES = 4 * 2**20

#: Each tap's copy should move so much, or NumPy's calls cost more than the copying.
TAP_BYTES = 64 * 2**10

#: A product shorter than this repeats the packing of the weight inside BLAS too often: small maps share a piece.
PIECE_POSITIONS = 256

#: Ctrl-C is seen between pieces: at 20 GFLOP/s, this many operations take a tenth of a second.
PIECE_FLOPS = 2e9

#: Partial sums of grad_weight made at once.
PRODUCT_BYTES = 16 * 2**20


def unavailable() -> str | None:
    return None


def refusal(problem: ConvProblem, direction: Direction) -> str | None:
    return None


def cost(problem: ConvProblem, direction: Direction, threads: int, machine: Machine) -> float:
    multiplying = 2 * problem.macs / (BLAS_SHARE * machine.peak_flops(problem.dtype) * threads)
    piece = _piece(problem, direction, None)
    calls = 4 * _count(problem, piece)
    moved = 0.0
    if not _in_place(problem):
        shares = SCATTER_SHARE if direction is Direction.BACKWARD_INPUT else COPY_SHARE
        positions = problem.batch * math.prod(problem.out_size)
        columns_bytes = problem.in_channels * math.prod(problem.kernel) * positions * ITEM_BYTES[problem.dtype]
        moved = 2 * columns_bytes / (shares[problem.channels_last] * machine.copy_bandwidth)
        calls *= math.prod(problem.kernel)
    results = problem.bytes / machine.copy_bandwidth
    return 1e-5 + multiplying + moved + results + calls * SECONDS_PER_CALL


# -- Pieces -----------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """How much of a problem is done at once; a whole of each before more than 1 of the next."""

    columns: int = 1
    rows: int = 1
    groups: int = 1
    images: int = 1

    @property
    def positions(self) -> int:
        """Columns of its matrix."""
        return self.columns * self.rows * self.images


class Part(NamedTuple):
    """One piece of a problem, as ranges of groups, images, output rows and output columns."""

    g: slice
    n: slice
    p: slice
    q: slice

    @property
    def images(self) -> int:
        return int(self.n.stop - self.n.start)


def _in_place(problem: ConvProblem) -> bool:
    """Whether the input, as it lies in memory, is the matrix of columns.

    Small maps are gathered nevertheless: one product for several images instead of one for each.
    """
    pointwise = (
        math.prod(problem.kernel) == 1
        and problem.out_size == problem.in_size
        and problem.stride == (1, 1)
        and not any(map(any, problem.pads))
    )
    enough = problem.batch == 1 or problem.channels_last or math.prod(problem.out_size) >= PIECE_POSITIONS
    return pointwise and enough


def _gathers(problem: ConvProblem, images: int) -> bool:
    """Whether images of the output need a copy to be one matrix: NHWC with one group is one as it lies."""
    return images > 1 and not problem.channels_last


def _reduction(problem: ConvProblem) -> int:
    return problem.group_in_channels * math.prod(problem.kernel)


def _product_rows(problem: ConvProblem, piece: Piece) -> int:
    """Rows of grad_weight whose partial sums are made at once."""
    if piece.groups > 1:
        return problem.group_out_channels
    most = PRODUCT_BYTES // (_reduction(problem) * ITEM_BYTES[problem.dtype])
    return max(1, min(problem.group_out_channels, most))


def _piece_bytes(problem: ConvProblem, direction: Direction, piece: Piece, product_rows: int) -> int:
    """Scratch that one piece takes."""
    item, reduction = ITEM_BYTES[problem.dtype], _reduction(problem)
    nbytes = 0
    if not _in_place(problem):
        nbytes += aligned_bytes(piece.groups * reduction * piece.positions * item)
    if _gathers(problem, piece.images):
        nbytes += aligned_bytes(piece.groups * problem.group_out_channels * piece.positions * item)
    if direction is Direction.BACKWARD_WEIGHT:
        nbytes += aligned_bytes(piece.groups * product_rows * reduction * item)
    return nbytes


def _largest(most: int, nbytes: Callable[[int], int], budget: int | None) -> int:
    """The largest count up to `most` whose bytes are within the budget; at least 1."""
    return most if budget is None else max(1, bisect_right(range(1, most + 1), budget, key=nbytes))


def _piece(problem: ConvProblem, direction: Direction, budget: int | None) -> Piece:
    """The piece that is fastest, within `budget` bytes of scratch."""
    (P, Q), item, reduction = problem.out_size, ITEM_BYTES[problem.dtype], _reduction(problem)
    wanted = max(PIECE_POSITIONS, PIECE_BYTES // (reduction * item), TAP_BYTES // (problem.group_in_channels * item))
    wanted = max(1, min(wanted, int(PIECE_FLOPS / (2 * reduction * problem.group_out_channels))))
    images = 1 if _in_place(problem) and not problem.channels_last else max(problem.batch, 1)
    piece = Piece()
    for name, most in (("columns", Q), ("rows", P), ("groups", problem.groups), ("images", images)):

        def nbytes(count: int, name: str = name, piece: Piece = piece) -> int:
            larger = piece._replace(**{name: count})
            # The partial sums of grad_weight may shrink to one row to make room for the columns of one piece.
            rows = problem.group_out_channels if larger.groups > 1 else 1
            return _piece_bytes(problem, direction, larger, rows)

        room = max(1, wanted // (piece.positions * piece.groups))
        count = _largest(min(most, room), nbytes, budget)
        piece = piece._replace(**{name: count})
        if count < most:
            break
    return piece


def _count(problem: ConvProblem, piece: Piece) -> int:
    """Pieces of that size in the whole problem."""
    (P, Q), N = problem.out_size, problem.batch
    return -(-Q // piece.columns) * -(-P // piece.rows) * -(-problem.groups // piece.groups) * -(-N // piece.images)


def _ranges(stop: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, stop)) for first in range(0, stop, step))


def _parts(problem: ConvProblem, piece: Piece) -> Iterator[Part]:
    """All of a problem, group by group."""
    P, Q = problem.out_size
    for g in _ranges(problem.groups, piece.groups):
        for n in _ranges(problem.batch, piece.images):
            for p in _ranges(P, piece.rows):
                for q in _ranges(Q, piece.columns):
                    yield Part(g, n, p, q)


def workspace_bytes(problem: ConvProblem, direction: Direction, threads: int) -> tuple[int, int]:
    best = _piece(problem, direction, None)
    least_bytes = _piece_bytes(problem, direction, Piece(), 1)
    best_bytes = _piece_bytes(problem, direction, best, _product_rows(problem, best))
    return least_bytes, max(least_bytes, best_bytes)


# -- Matrices ---------------------------------------------------------------------------------------


def _matrix(problem: ConvProblem, array: np.ndarray, part: Part) -> np.ndarray:
    """One part of an image array at the output's resolution, as a view (g, c, n, p q)."""
    G, (P, Q) = problem.groups, problem.out_size
    positions = slice(part.p.start * Q + part.q.start, (part.p.stop - 1) * Q + part.q.stop)
    if problem.channels_last:
        array_npgc = array.reshape(problem.batch, P * Q, G, -1)
        return array_npgc[part.n, positions, part.g].transpose(2, 3, 0, 1)
    array_ngcp = array.reshape(problem.batch, G, -1, P * Q)
    return array_ngcp[part.n, part.g, :, positions].transpose(1, 2, 0, 3)


def _joined(matrix_gcnp: np.ndarray) -> np.ndarray:
    """Its images side by side, (g, c, n p), still as a view: of one image, or of whole NHWC images."""
    g, c, n, p = matrix_gcnp.shape
    if n == 1:
        return matrix_gcnp[:, :, 0]
    return matrix_gcnp.transpose(2, 3, 0, 1).reshape(n * p, g, c).transpose(1, 2, 0)


def _inside(part: slice, offset: int, stride: int, size: int) -> tuple[slice, slice]:
    """The output positions of `part` whose tap lies inside the input, counted within the part; and where it lies.

    `offset` is the input position of that tap in the first window of the axis; negative in the padding.
    """
    first = min(max(part.start, -(offset // stride)), part.stop)
    last = min(max(first, (size - 1 - offset) // stride + 1), part.stop)
    start = first * stride + offset
    if last <= first:
        return slice(0, 0), slice(0, 0)
    # With one position the stride is no step: it may be as large as 2^62.
    step, stop = (stride, (last - 1) * stride + offset + 1) if last - first > 1 else (1, start + 1)
    return slice(first - part.start, last - part.start), slice(start, stop, step)


def _taps(
    problem: ConvProblem, part: Part, image: np.ndarray, columns: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[slice, slice]]]:
    """For each (r, s): its columns (c, n, p, q), the part of the image that they meet, and where they meet it."""
    (R, S), (H, W), C_g = problem.kernel, problem.in_size, problem.group_in_channels
    (stride_h, stride_w), (dil_h, dil_w) = problem.stride, problem.dilation
    (top, _), (left, _) = problem.pads
    rows, width = part.p.stop - part.p.start, part.q.stop - part.q.start
    columns_crsnpq = columns.reshape(-1, R, S, part.images, rows, width)
    image_nchw = nchw(problem, image)[part.n, part.g.start * C_g : part.g.stop * C_g]
    image_cnhw = image_nchw.transpose(1, 0, 2, 3)
    for r in range(R):
        met_p, h = _inside(part.p, r * dil_h - top, stride_h, H)
        for s in range(S):
            met_q, w = _inside(part.q, s * dil_w - left, stride_w, W)
            yield columns_crsnpq[:, r, s], image_cnhw[:, :, h, w], (met_p, met_q)


def _make_columns(problem: ConvProblem, part: Part, input: np.ndarray, columns: np.ndarray) -> None:
    """im2col: copy what lies inside the input, and write zeros around it."""
    for tap_cnpq, inside_cnpq, (p, q) in _taps(problem, part, input, columns):
        tap_cnpq[:, :, : p.start] = 0
        tap_cnpq[:, :, p.stop :] = 0
        tap_cnpq[:, :, p, : q.start] = 0
        tap_cnpq[:, :, p, q.stop :] = 0
        tap_cnpq[:, :, p, q] = inside_cnpq


def _scatter_columns(problem: ConvProblem, part: Part, columns: np.ndarray, grad_input: np.ndarray) -> None:
    """col2im: add every column to its window; what falls into the padding is dropped."""
    for tap_cnpq, inside_cnpq, (p, q) in _taps(problem, part, grad_input, columns):
        np.add(inside_cnpq, tap_cnpq[:, :, p, q], out=inside_cnpq)


class _Buffers:
    """The granted scratch, divided for the largest piece that fits."""

    def __init__(self, problem: ConvProblem, direction: Direction, scratch: Scratch) -> None:
        self.problem = problem
        self.piece = piece = _piece(problem, direction, scratch.free)
        reduction, out_rows = _reduction(problem), problem.group_out_channels
        in_place = _in_place(problem)
        self._columns = None if in_place else self._take(scratch, reduction)
        self._gathered = self._take(scratch, out_rows) if _gathers(problem, piece.images) else None
        self.product_rows = 0
        if direction is Direction.BACKWARD_WEIGHT:
            row_bytes = reduction * ITEM_BYTES[problem.dtype]
            self.product_rows = min(_product_rows(problem, piece), scratch.free // (piece.groups * row_bytes))
            self.product = scratch.take((piece.groups, self.product_rows, reduction), problem.dtype)

    def _take(self, scratch: Scratch, rows: int) -> np.ndarray:
        return scratch.take((self.piece.groups * rows * self.piece.positions,), self.problem.dtype)

    def columns(self, part: Part, image: np.ndarray) -> np.ndarray:
        """Room for the columns (g, c r s, n p q) of `part`; `image` itself where it has that form."""
        if self._columns is None:
            return _joined(_matrix(self.problem, image, part))
        return self._shaped(self._columns, part, _reduction(self.problem))

    def output(self, part: Part, output: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The part of an output as a matrix (g, k, n p q): a view, or room for it and the view (g, k, n, p q)."""
        view_gknp = _matrix(self.problem, output, part)
        if not _gathers(self.problem, part.images):
            return _joined(view_gknp), None
        assert self._gathered is not None
        return self._shaped(self._gathered, part, self.problem.group_out_channels), view_gknp

    @staticmethod
    def _shaped(buffer: np.ndarray, part: Part, rows: int) -> np.ndarray:
        groups = part.g.stop - part.g.start
        positions = part.images * (part.p.stop - part.p.start) * (part.q.stop - part.q.start)
        return buffer[: groups * rows * positions].reshape(groups, rows, positions)


# -- The three directions ---------------------------------------------------------------------------


def forward(
    problem: ConvProblem,
    input: np.ndarray,
    weight: np.ndarray,
    output: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    buffers = _Buffers(problem, Direction.FORWARD, scratch)
    weight_gk_crs = weight.reshape(problem.groups, problem.group_out_channels, -1)
    with np.errstate(all="ignore"):
        for part in _parts(problem, buffers.piece):
            columns = buffers.columns(part, input)
            if not _in_place(problem):
                _make_columns(problem, part, input, columns)
            matrix, gathered_gknp = buffers.output(part, output)
            with unforkable:
                np.matmul(weight_gk_crs[part.g], columns, out=matrix)
            if gathered_gknp is not None:
                gathered_gknp[...] = matrix.reshape(gathered_gknp.shape)
    epilogue.apply(output, problem.channels_last)


def backward_input(
    problem: ConvProblem,
    grad_output: np.ndarray,
    weight: np.ndarray,
    grad_input: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    buffers = _Buffers(problem, Direction.BACKWARD_INPUT, scratch)
    weight_g_crs_k = weight.reshape(problem.groups, problem.group_out_channels, -1).transpose(0, 2, 1)
    if not _in_place(problem):
        grad_input[...] = 0
    with np.errstate(all="ignore"):
        for part in _parts(problem, buffers.piece):
            matrix, gathered_gknp = buffers.output(part, grad_output)
            if gathered_gknp is not None:
                matrix.reshape(gathered_gknp.shape)[...] = gathered_gknp
            columns = buffers.columns(part, grad_input)
            with unforkable:
                np.matmul(weight_g_crs_k[part.g], matrix, out=columns)
            if not _in_place(problem):
                _scatter_columns(problem, part, columns, grad_input)
    epilogue.apply(grad_input, problem.channels_last)


def backward_weight(
    problem: ConvProblem,
    grad_output: np.ndarray,
    input: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    buffers = _Buffers(problem, Direction.BACKWARD_WEIGHT, scratch)
    grad_weight_gk_crs = grad_weight.reshape(problem.groups, problem.group_out_channels, -1)
    grad_weight[...] = 0
    with np.errstate(all="ignore"):
        for part in _parts(problem, buffers.piece):
            columns = buffers.columns(part, input)
            if not _in_place(problem):
                _make_columns(problem, part, input, columns)
            matrix, gathered_gknp = buffers.output(part, grad_output)
            if gathered_gknp is not None:
                matrix.reshape(gathered_gknp.shape)[...] = gathered_gknp
            for k in _ranges(problem.group_out_channels, buffers.product_rows):
                product = buffers.product[: matrix.shape[0], : k.stop - k.start]
                with unforkable:
                    np.matmul(matrix[:, k], columns.transpose(0, 2, 1), out=product)
                grad_weight_gk_crs[part.g, k] += product
        if grad_bias is not None:
            _sum_bias(problem, grad_output, grad_bias)


def _sum_bias(problem: ConvProblem, grad_output: np.ndarray, grad_bias: np.ndarray) -> None:
    """Sums of 4,096 elements in the problem's precision, and their sum in double."""
    grad_output_nkp = nchw(problem, grad_output).reshape(problem.batch, problem.out_channels, -1)
    totals_k = np.zeros(problem.out_channels)
    for grad_output_kp in grad_output_nkp:
        for positions in _ranges(grad_output_kp.shape[1], 4096):
            totals_k += grad_output_kp[:, positions].sum(axis=1)
    grad_bias[...] = totals_k


ALGORITHMS = (
    with_volumes(
        Algorithm(
            name="im2col_gemm",
            unavailable=unavailable,
            refusal=refusal,
            ready=always_ready,
            error=direct_error,
            cost=cost,
            workspace_bytes=workspace_bytes,
            forward=forward,
            backward_input=backward_input,
            backward_weight=backward_weight,
        )
    ),
)
