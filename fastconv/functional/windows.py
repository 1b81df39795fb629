"""Windows of images as columns of a matrix, and back: the im2col of the textbooks, and its adjoint.

Along each axis the element r of window p is at h = p * stride - low + r * dilation: window and element play the same
part, so the copies run over whichever of the two is fewer, each a strided slice of the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.conv_call import conv_problem
from fastconv.problem import MAX_BYTES, ConvProblem, Ints

#: Along one axis: element(s) and window(s), one of them a slice, and the input positions they show.
_Overlap: TypeAlias = tuple[int | slice, int | slice, slice]


def _overlaps(size: int, kernel: int, stride: int, low: int, dilation: int, out: int) -> list[_Overlap]:
    """All pairs of element and window inside the input, as few strided slices."""
    over_elements = kernel <= out
    fixed, fixed_step, many, step = (
        (kernel, dilation, out, stride) if over_elements else (out, stride, kernel, dilation)
    )
    found: list[_Overlap] = []
    for one in range(fixed):
        offset = one * fixed_step - low
        first, last = max(0, -(offset // step)), min(many - 1, (size - 1 - offset) // step)
        if first > last:
            continue
        run, start = slice(first, last + 1), first * step + offset
        shown = slice(start, start + (last - first) * step + 1, step)
        found.append((one, run, shown) if over_elements else (run, one, shown))
    return found


def _slices(problem: ConvProblem) -> Iterator[tuple[tuple[slice | int, ...], tuple[slice, ...]]]:
    """Where columns (n, c, r, p, s, q) and images (n, c, h, w) hold the same elements."""
    (H, W), (R, S), (P, Q) = problem.in_size, problem.kernel, problem.out_size
    rows = _overlaps(H, R, problem.stride[0], problem.pads[0][0], problem.dilation[0], P)
    columns = _overlaps(W, S, problem.stride[1], problem.pads[1][0], problem.dilation[1], Q)
    whole = slice(None)
    for (r, p, h), (s, q, w) in itertools.product(rows, columns):
        yield (whole, whole, r, p, s, q), (whole, whole, h, w)


def _by_axis(problem: ConvProblem, columns: np.ndarray) -> np.ndarray:
    """View of columns (n, c * r * s, p * q) as (n, c, r, p, s, q)."""
    shape = (problem.batch, problem.in_channels, *problem.kernel, *problem.out_size)
    return columns.reshape(shape).transpose(0, 1, 2, 4, 3, 5)


def _columns_shape(problem: ConvProblem) -> Ints:
    return (problem.batch, problem.in_channels * math.prod(problem.kernel), math.prod(problem.out_size))


def _problem(
    dtype: str, shape: Ints, kernel_size: IntOrInts, dilation: IntOrInts, padding: Padding, stride: IntOrInts
) -> ConvProblem:
    kernel = arguments.check_extents("kernel_size", kernel_size, 2)
    problem = conv_problem(dtype, shape, (1, shape[1], *kernel), stride, padding, dilation, 1)
    columns = _columns_shape(problem)
    if math.prod(columns) * np.dtype(dtype).itemsize > MAX_BYTES:
        raise InvalidProblem(f"columns of shape {columns} are more than can be addressed")
    return problem


def unfold(
    input: ArrayLike,
    kernel_size: IntOrInts,
    dilation: IntOrInts = 1,
    padding: Padding = 0,
    stride: IntOrInts = 1,
) -> np.ndarray:
    """Every window of images as a column, as torch.nn.functional.unfold (im2col).

    A convolution is one matrix product with the columns: ``weight.reshape(K, -1) @ unfold(input, ...)``.

    Parameters
    ----------
    input : array_like
        (N, C, H, W), or (C, H, W) without a batch; float32, float64 or float16.
    kernel_size, dilation, stride : int or (int, int)
        The window, the step within it, and its step.
    padding : int, (int, int), pairs, "valid" or "same"
        Zeros added on each side.

    Returns
    -------
    ndarray
        (N, C * R * S, P * Q): rows by channel and element, columns by window, both in row-major order.

    Raises
    ------
    TypeError, InvalidProblem
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.unfold(np.arange(9.0).reshape(1, 1, 3, 3), 2)
    array([[[0., 1., 3., 4.],
            [1., 2., 4., 5.],
            [3., 4., 6., 7.],
            [4., 5., 7., 8.]]])
    """
    given = arguments.as_array("input", input)
    images, batched = arguments.check_image("input", given, 2)
    problem = _problem(arguments.compute_dtype(given), images.shape, kernel_size, dilation, padding, stride)
    columns = np.zeros(_columns_shape(problem), given.dtype.newbyteorder("="))
    by_axis = _by_axis(problem, columns)
    for in_columns, in_images in _slices(problem):
        by_axis[in_columns] = images[in_images]
    return columns if batched else columns[0]


def fold(
    input: ArrayLike,
    output_size: IntOrInts,
    kernel_size: IntOrInts,
    dilation: IntOrInts = 1,
    padding: Padding = 0,
    stride: IntOrInts = 1,
) -> np.ndarray:
    """Sum columns back into images, as torch.nn.functional.fold (col2im): the adjoint of `unfold`, and its gradient.

    Parameters
    ----------
    input : array_like
        (N, C * R * S, P * Q), or without a batch; float32, float64 or float16.
    output_size : int or (int, int)
        (H, W) of the images.
    kernel_size, dilation, padding, stride
        As in `unfold` of images of that size.

    Returns
    -------
    ndarray
        (N, C, H, W): each position the sum of its copies in all windows, 0 where none shows it.

    Raises
    ------
    TypeError, InvalidProblem
        As `unfold`; and for columns of another shape than `unfold` would give.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.fold(np.ones((1, 4, 4)), (3, 3), 2)
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    given = arguments.as_array("input", input)
    if given.ndim not in (2, 3):
        raise InvalidProblem(
            f"input must have 3 dimensions (batch, channels * kernel, windows), or 2 without the batch, got shape "
            f"{given.shape}"
        )
    columns = arguments.plain(given if given.ndim == 3 else given[None])
    size, kernel = (
        arguments.check_extents("output_size", output_size, 2),
        arguments.check_extents("kernel_size", kernel_size, 2),
    )
    if columns.shape[1] == 0 or columns.shape[1] % math.prod(kernel):
        raise InvalidProblem(
            f"input of shape {given.shape} must have a multiple of {math.prod(kernel)} rows, for kernel_size {kernel}"
        )
    shape = (columns.shape[0], columns.shape[1] // math.prod(kernel), *size)
    problem = _problem(columns.dtype.name, shape, kernel, dilation, padding, stride)
    wanted = _columns_shape(problem)
    arguments.check_shape("input", given, wanted[3 - given.ndim :], f"the columns of images of size {size}")
    images, by_axis = np.zeros(shape, columns.dtype), _by_axis(problem, columns)
    with np.errstate(all="ignore"):
        for in_columns, in_images in _slices(problem):
            images[in_images] += by_axis[in_columns]
        result = images.astype(given.dtype.newbyteorder("="), copy=False)
    return result if given.ndim == 3 else result[0]
