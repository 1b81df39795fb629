"""Pooling for callers: resolves arguments into a problem, allocates results, runs the plan."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from fastconv.algorithm import Direction
from fastconv.errors import InvalidProblem
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.planner import plan
from fastconv.problem import Ints, PoolProblem

_problem = lru_cache(maxsize=4096)(PoolProblem)


def _pool_problem(
    kind: str,
    dtype: str,
    shape: Ints,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: Padding,
    dilation: IntOrInts,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    channels_last: bool,
) -> PoolProblem:
    """The problem that a batched shape and a caller's short forms describe; stride None is the kernel size."""
    batch, channels, in_size = arguments.split_image(shape, channels_last)
    axes = len(in_size)
    kernel = arguments.check_ints("kernel_size", kernel_size, axes)
    strides = kernel if stride is None else arguments.check_ints("stride", stride, axes)
    dilations = arguments.check_ints("dilation", dilation, axes)
    pads = arguments.check_padding(padding, in_size, kernel, strides, dilations)
    divisor = None if divisor_override is None else arguments.check_int("divisor_override", divisor_override)
    return _problem(
        kind, dtype, batch, channels, in_size, kernel, strides, pads, dilations,
        arguments.check_bool("ceil_mode", ceil_mode), arguments.check_bool("count_include_pad", count_include_pad),
        divisor, channels_last,
    )  # fmt: skip


class _Images:
    """The caller's images: a batched array, whether it came with a batch, and its layout."""

    def __init__(self, name: str, value: ArrayLike, axes: int, data_format: str | None) -> None:
        self.given = arguments.as_array(name, value)
        self.channels_last = arguments.check_data_format(data_format, axes)
        self.array, self.batched = arguments.check_image(name, self.given, axes)
        self.dtype = arguments.compute_dtype(self.given)

    def result(self, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """`array` as the caller sees it: without the batch axis that was added, in `dtype`."""
        with np.errstate(over="ignore"):
            return (array if self.batched else array[0]).astype(dtype, copy=False)


def _forward(
    images: _Images, problem: PoolProblem, with_indices: bool, algorithm: str | None, out: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    shape = problem.output_shape
    if out is not None:
        arguments.check_out(out, shape if images.batched else shape[1:], images.given.dtype, [images.given])
    settled = plan(problem, Direction.FORWARD, algorithm)
    output = np.empty(shape, problem.dtype)
    indices = np.empty(shape, np.int64) if with_indices else None
    if problem.batch:
        settled.execute(arguments.plain(images.array), output, indices)
    result = images.result(output, images.given.dtype)
    if out is not None:
        out[...] = result
        result = out
    return result, None if indices is None else images.result(indices, indices.dtype)


def max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Maximum of every window, as torch.nn.functional.max_pool2d.

    Parameters
    ----------
    input : array_like
        (N, C, H, W), or (C, H, W); float32, float64 or float16. NHWC by `data_format`.
    kernel_size, stride, dilation : int or (int, int)
        The window, its step (None: the kernel size), and the step within it.
    padding : int, (int, int), or pairs
        Elements of -inf added on each side; at most half the kernel.
    ceil_mode : bool
        Count a last, incomplete window that starts inside the input.
    return_indices : bool
        Also return where each maximum was: h * W + w, int64.
    data_format, algorithm, out
        As in `conv2d`.

    Returns
    -------
    ndarray, or (ndarray, ndarray)
        (N, C, P, Q). NaN where a window holds one; the first of equal maxima counts.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> output, indices = fastconv.max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2, return_indices=True)
    >>> output[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    >>> indices[0, 0]
    array([[ 5,  7],
           [13, 15]])
    """
    images = _Images("input", input, 2, data_format)
    problem = _pool_problem(
        "max", images.dtype, images.array.shape, kernel_size, stride, padding, dilation, ceil_mode, True, None,
        images.channels_last,
    )  # fmt: skip
    wanted = arguments.check_bool("return_indices", return_indices)
    output, indices = _forward(images, problem, wanted, algorithm, out)
    return output if indices is None else (output, indices)


def avg_pool2d(
    input: ArrayLike,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Average of every window, as torch.nn.functional.avg_pool2d.

    Parameters
    ----------
    input, kernel_size, stride, ceil_mode, data_format, algorithm, out
        As in `max_pool2d`.
    padding : int, (int, int), or pairs
        Zeros added on each side; at most half the kernel.
    count_include_pad : bool
        Divide by the elements of the window within the padded extent; otherwise within the input.
    divisor_override : int, optional
        Divide by this instead; not 0.

    Returns
    -------
    ndarray
        (N, C, P, Q); 0 for a window wholly in padding that is not counted.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    images = _Images("input", input, 2, data_format)
    problem = _pool_problem(
        "avg", images.dtype, images.array.shape, kernel_size, stride, padding, 1, ceil_mode, count_include_pad,
        divisor_override, images.channels_last,
    )  # fmt: skip
    return _forward(images, problem, False, algorithm, out)[0]


def _check_indices(indices: object, problem: PoolProblem, batched: bool) -> np.ndarray:
    if not isinstance(indices, np.ndarray) or indices.dtype != np.int64:
        raise TypeError(f"indices must be an int64 array, got {getattr(indices, 'dtype', type(indices).__name__)}")
    shape = problem.output_shape if batched else problem.output_shape[1:]
    arguments.check_shape("indices", indices, shape, "that of the output")
    plane = int(np.prod(problem.in_size, dtype=object))
    if indices.size and not (indices.min() >= 0 and indices.max() < plane):
        raise InvalidProblem(f"indices must be in [0, {plane}), got {indices.min()} to {indices.max()}")
    return np.require(indices if batched else indices[None], np.int64, ["C", "A"])


def max_pool2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    *,
    indices: np.ndarray | None = None,
    data_format: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """Gradient of `max_pool2d`: each upstream gradient goes to the element that was the maximum.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, kernel_size, stride, padding, dilation, ceil_mode, data_format, algorithm
        As in `max_pool2d`.
    indices : int64 ndarray, optional
        As `max_pool2d` returned them; saves finding the maxima again.

    Returns
    -------
    ndarray
        Of the input's shape; 0 where an element was no maximum.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem
        As `max_pool2d`; indices out of range are an `InvalidProblem`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_pool2d_backward(np.ones((1, 1, 1, 1)), np.arange(4.0).reshape(1, 1, 2, 2), 2)
    array([[[[0., 0.],
             [0., 1.]]]])
    """
    images = _Images("input", input, 2, data_format)
    problem = _pool_problem(
        "max", images.dtype, images.array.shape, kernel_size, stride, padding, dilation, ceil_mode, True, None,
        images.channels_last,
    )  # fmt: skip
    upstream = arguments.as_array("grad_output", grad_output, images.given.dtype)
    shape = problem.output_shape
    arguments.check_shape("grad_output", upstream, shape if images.batched else shape[1:], "that of the output")
    where = None if indices is None else _check_indices(indices, problem, images.batched)
    settled = plan(problem, Direction.BACKWARD_INPUT, algorithm)
    grad_input = np.empty(problem.input_shape, problem.dtype)
    if problem.batch:
        gradients = arguments.plain(upstream if images.batched else upstream[None])
        source = arguments.plain(images.array) if where is None else None
        settled.execute(gradients, source, where, grad_input)
    return images.result(grad_input, images.given.dtype)


def avg_pool2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike | tuple[int, ...],
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """Gradient of `avg_pool2d`: each upstream gradient is spread evenly over its window.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format, algorithm
        As in `avg_pool2d`.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem
        As `avg_pool2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.avg_pool2d_backward(np.ones((1, 1, 1, 1)), (1, 1, 2, 2), 2)
    array([[[[0.25, 0.25],
             [0.25, 0.25]]]])
    """
    images = _Images("grad_output", grad_output, 2, data_format)
    shape = _input_shape(input, images)
    problem = _pool_problem(
        "avg", images.dtype, shape, kernel_size, stride, padding, 1, ceil_mode, count_include_pad, divisor_override,
        images.channels_last,
    )  # fmt: skip
    arguments.check_shape("grad_output", images.array, problem.output_shape, "that of the output")
    settled = plan(problem, Direction.BACKWARD_INPUT, algorithm)
    grad_input = np.empty(problem.input_shape, problem.dtype)
    if problem.batch:
        settled.execute(arguments.plain(images.array), None, None, grad_input)
    return images.result(grad_input, images.given.dtype)


def _input_shape(input: ArrayLike | tuple[int, ...], gradients: _Images) -> Ints:
    """Batched shape of the pooled input, from the array or its shape."""
    if isinstance(input, (tuple, list)) and all(isinstance(extent, (int, np.integer)) for extent in input):
        shape = tuple(arguments.check_int("input shape", extent) for extent in input)
    else:
        shape = arguments.as_array("input", input, gradients.given.dtype).shape
    if len(shape) != gradients.given.ndim:
        raise InvalidProblem(f"input must have as many dimensions as grad_output, got shape {shape}")
    return shape if gradients.batched else (1, *shape)
