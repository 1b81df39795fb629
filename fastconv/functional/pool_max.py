"""Max pooling for callers, in one to three axes, and where its gradients go."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.pool_call import Images, pool, pool_backward, pool_problem, shown_shape, take_indices


def _max_pool(
    axes: int,
    input: ArrayLike,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: Padding,
    dilation: IntOrInts,
    ceil_mode: bool,
    return_indices: bool,
    data_format: str | None,
    algorithm: str | None,
    out: np.ndarray | None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    images = Images("input", input, axes, data_format)
    problem = pool_problem(
        "max", images.dtype, images.array.shape, kernel_size, stride, padding, dilation, ceil_mode, True, None,
        images.channels_last,
    )  # fmt: skip
    wanted = arguments.check_bool("return_indices", return_indices)
    output, indices = pool(images, problem, wanted, algorithm, out)
    return output if indices is None else (output, indices)


def _max_pool_backward(
    axes: int,
    grad_output: ArrayLike,
    input: ArrayLike,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: Padding,
    dilation: IntOrInts,
    ceil_mode: bool,
    indices: np.ndarray | None,
    data_format: str | None,
    algorithm: str | None,
) -> np.ndarray:
    images = Images("input", input, axes, data_format)
    problem = pool_problem(
        "max", images.dtype, images.array.shape, kernel_size, stride, padding, dilation, ceil_mode, True, None,
        images.channels_last,
    )  # fmt: skip
    shape = shown_shape(problem, axes, problem.output_shape)
    upstream = images.upstream(grad_output, shape)
    where = None if indices is None else take_indices(indices, shape, images.batched)
    source = arguments.plain(images.array) if where is None else None
    return pool_backward(images, problem, upstream, source, where, algorithm)


def max_pool1d(
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
    """Maximum of every window, as torch.nn.functional.max_pool1d.

    Parameters
    ----------
    input : array_like
        (N, C, W), or (C, W) without a batch; float32, float64 or float16. NWC by `data_format`.
    kernel_size, stride, padding, dilation, ceil_mode, data_format, algorithm, out
        As in `max_pool2d`.
    return_indices : bool
        Also return where each maximum was: w, int64.

    Returns
    -------
    ndarray, or (ndarray, ndarray)
        (N, C, Q). NaN where a window holds one; the first of equal maxima counts, in row-major order.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_pool1d(np.array([[[1.0, 3.0, 2.0, 5.0, 4.0]]]), 3, stride=2, return_indices=True)
    (array([[[3., 5.]]]), array([[[1, 3]]]))
    """
    return _max_pool(
        1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, data_format, algorithm, out
    )


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
        (N, C, H, W), or (C, H, W) without a batch; float32, float64 or float16. NHWC by `data_format`.
    kernel_size, stride, dilation : int or (int, int)
        The window, its step (None: the kernel size), and the step within it.
    padding : int or (int, int), or pairs
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
        (N, C, P, Q). NaN where a window holds one; the first of equal maxima counts, in row-major order.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
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
    return _max_pool(
        2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, data_format, algorithm, out
    )


def max_pool3d(
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
    """Maximum of every window, as torch.nn.functional.max_pool3d.

    Parameters
    ----------
    input : array_like
        (N, C, D, H, W), or (C, D, H, W) without a batch; float32, float64 or float16. NDHWC by `data_format`.
    kernel_size, stride, padding, dilation, ceil_mode, data_format, algorithm, out
        As in `max_pool2d`.
    return_indices : bool
        Also return where each maximum was: (d * H + h) * W + w, int64.

    Returns
    -------
    ndarray, or (ndarray, ndarray)
        (N, C, Z, P, Q). NaN where a window holds one; the first of equal maxima counts, in row-major order.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> output, indices = fastconv.max_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 2, return_indices=True)
    >>> output.item(), indices.item()
    (7.0, 7)
    """
    return _max_pool(
        3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, data_format, algorithm, out
    )


def max_pool1d_backward(
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
    """Gradient of `max_pool1d`: each upstream gradient goes to the element that was the maximum.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, kernel_size, stride, padding, dilation, ceil_mode, data_format, algorithm
        As in `max_pool1d`.
    indices : int64 ndarray, optional
        As `max_pool1d` returned them; saves finding the maxima again.

    Returns
    -------
    ndarray
        Of the input's shape; 0 where an element was no maximum.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `max_pool1d`; indices out of range are an `InvalidProblem`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_pool1d_backward(np.array([[[1.0, 1.0]]]), np.array([[[1.0, 3.0, 2.0]]]), 2, stride=1)
    array([[[0., 2., 0.]]])
    """
    return _max_pool_backward(
        1, grad_output, input, kernel_size, stride, padding, dilation, ceil_mode, indices, data_format, algorithm
    )


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
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `max_pool2d`; indices out of range are an `InvalidProblem`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_pool2d_backward(np.ones((1, 1, 1, 1)), np.arange(4.0).reshape(1, 1, 2, 2), 2)
    array([[[[0., 0.],
             [0., 1.]]]])
    """
    return _max_pool_backward(
        2, grad_output, input, kernel_size, stride, padding, dilation, ceil_mode, indices, data_format, algorithm
    )


def max_pool3d_backward(
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
    """Gradient of `max_pool3d`: each upstream gradient goes to the element that was the maximum.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, kernel_size, stride, padding, dilation, ceil_mode, data_format, algorithm
        As in `max_pool3d`.
    indices : int64 ndarray, optional
        As `max_pool3d` returned them; saves finding the maxima again.

    Returns
    -------
    ndarray
        Of the input's shape; 0 where an element was no maximum.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `max_pool3d`; indices out of range are an `InvalidProblem`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> grad_input = fastconv.max_pool3d_backward(np.ones((1, 1, 1, 1, 1)), np.arange(8.0).reshape(1, 1, 2, 2, 2), 2)
    >>> grad_input.ravel()
    array([0., 0., 0., 0., 0., 0., 0., 1.])
    """
    return _max_pool_backward(
        3, grad_output, input, kernel_size, stride, padding, dilation, ceil_mode, indices, data_format, algorithm
    )
