"""Max unpooling for callers: maxima go back to where they were, zeros elsewhere; and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts
from fastconv.functional.pool_adaptive_avg import image_shape
from fastconv.functional.pool_call import Images, check_indices, input_shape
from fastconv.functional.segments import cells, check_result
from fastconv.problem import Ints


def _unpooled_shape(
    images: Images,
    shape: Ints,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    output_size: Sequence[int] | None,
) -> Ints:
    """Batched shape of what a pool of these parameters made `shape` from."""
    axes = images.axes
    _, channels, size = arguments.split_image(shape, images.channels_last)
    if min(channels, *size) < 1:
        raise InvalidProblem(f"input must have channels and spatial extents of at least 1, got shape {shape}")
    kernel = arguments.check_extents("kernel_size", kernel_size, axes)
    strides = kernel if stride is None else arguments.check_extents("stride", stride, axes)
    pads = arguments.check_extents("padding", padding, axes, least=0)
    usual = tuple((extent - 1) * s - 2 * p + k for extent, s, p, k in zip(size, strides, pads, kernel, strict=True))
    if output_size is None:
        if min(usual) < 1:
            raise InvalidProblem(f"(input - 1) * stride - 2 * padding + kernel_size = {usual} must be at least 1")
        unpooled = usual
    else:
        if not isinstance(output_size, (list, tuple)) or len(output_size) not in (axes, axes + 2):
            raise InvalidProblem(
                f"output_size must be {axes} ints, or a whole shape of {axes + 2}, got {shown(output_size)}"
            )
        unpooled = tuple(arguments.check_int("output_size", extent) for extent in output_size)
        if len(unpooled) > axes:
            unpooled = arguments.split_image(unpooled, images.channels_last)[2]
        for extent, default, s in zip(unpooled, usual, strides, strict=True):
            if not max(default - s, 0) < extent < default + s:
                raise InvalidProblem(
                    f"output_size must be positive and less than a stride away from {usual}, got {shown(output_size)}"
                )
    unpooled_shape = image_shape(shape, unpooled, images.channels_last)
    check_result("kernel_size, stride and output_size", (kernel, strides, output_size), unpooled_shape, images.dtype)
    return unpooled_shape


def _max_unpool(
    axes: int,
    input: ArrayLike,
    indices: np.ndarray,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    output_size: Sequence[int] | None,
    data_format: str | None,
) -> np.ndarray:
    images = Images("input", input, axes, data_format)
    shape = _unpooled_shape(images, images.array.shape, kernel_size, stride, padding, output_size)
    size = arguments.split_image(shape, images.channels_last)[2]
    where = check_indices(indices, images.array.shape, images.batched, size, "that of the input")
    output = np.zeros(shape, images.dtype)
    output.reshape(-1)[cells(where, shape, images.channels_last)] = arguments.plain(images.array)
    return images.result(output)


def _max_unpool_backward(
    axes: int,
    grad_output: ArrayLike,
    input: ArrayLike | Ints,
    indices: np.ndarray,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    output_size: Sequence[int] | None,
    data_format: str | None,
) -> np.ndarray:
    gradients = Images("grad_output", grad_output, axes, data_format)
    pooled = input_shape(input, gradients)
    shape = _unpooled_shape(gradients, pooled, kernel_size, stride, padding, output_size)
    arguments.check_shape("grad_output", gradients.given, gradients.shown_shape(shape), "that of the output")
    size = arguments.split_image(shape, gradients.channels_last)[2]
    where = check_indices(indices, pooled, gradients.batched, size, "that of the input")
    upstream = arguments.plain(gradients.array)
    return gradients.result(upstream.reshape(-1)[cells(where, shape, gradients.channels_last)])


def max_unpool1d(
    input: ArrayLike,
    indices: np.ndarray,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Put maxima back to where `max_pool1d` found them, as torch.nn.functional.max_unpool1d; 0 elsewhere.

    Parameters
    ----------
    input : array_like
        (N, C, Q), or without a batch; float32, float64 or float16. NWC by `data_format`.
    indices : int64 ndarray
        Of the input's shape, as `max_pool1d` returned them: w in the output. Of several
        elements for one place the last in row-major order stays.
    kernel_size, stride, padding : int or (int,)
        Those of the pool; stride None is the kernel size.
    output_size : sequence of int, optional
        Spatial extents of the output, or its whole shape; each less than a stride away from
        (input - 1) * stride - 2 * padding + kernel_size, which is the default.
    data_format : {None, "NCW", "NWC"}
        Layout of input, indices and output.

    Returns
    -------
    ndarray
        (N, C, W).

    Raises
    ------
    TypeError, InvalidProblem
        For arrays that are not floating-point, indices of another dtype or shape or out of range, and sizes that no
        such pool has.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_unpool1d(np.array([[[5.0, 7.0]]]), np.array([[[1, 2]]]), 2)
    array([[[0., 5., 7., 0.]]])
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size, data_format)


def max_unpool2d(
    input: ArrayLike,
    indices: np.ndarray,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Put maxima back to where `max_pool2d` found them, as torch.nn.functional.max_unpool2d; 0 elsewhere.

    Parameters
    ----------
    input : array_like
        (N, C, P, Q), or without a batch; float32, float64 or float16. NHWC by `data_format`.
    indices : int64 ndarray
        Of the input's shape, as `max_pool2d` returned them: h * W + w in the output. Of several
        elements for one place the last in row-major order stays.
    kernel_size, stride, padding : int or (int, int)
        Those of the pool; stride None is the kernel size.
    output_size : sequence of int, optional
        Spatial extents of the output, or its whole shape; each less than a stride away from
        (input - 1) * stride - 2 * padding + kernel_size, which is the default.
    data_format : {None, "NCHW", "NHWC"}
        Layout of input, indices and output.

    Returns
    -------
    ndarray
        (N, C, H, W).

    Raises
    ------
    TypeError, InvalidProblem
        For arrays that are not floating-point, indices of another dtype or shape or out of range, and sizes that no
        such pool has.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_unpool2d(np.array([[[[5.0]]]]), np.array([[[[2]]]]), 2)
    array([[[[0., 0.],
             [5., 0.]]]])
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size, data_format)


def max_unpool3d(
    input: ArrayLike,
    indices: np.ndarray,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Put maxima back to where `max_pool3d` found them, as torch.nn.functional.max_unpool3d; 0 elsewhere.

    Parameters
    ----------
    input : array_like
        (N, C, Z, P, Q), or without a batch; float32, float64 or float16. NDHWC by `data_format`.
    indices : int64 ndarray
        Of the input's shape, as `max_pool3d` returned them: (d * H + h) * W + w in the output. Of several
        elements for one place the last in row-major order stays.
    kernel_size, stride, padding : int or (int, int, int)
        Those of the pool; stride None is the kernel size.
    output_size : sequence of int, optional
        Spatial extents of the output, or its whole shape; each less than a stride away from
        (input - 1) * stride - 2 * padding + kernel_size, which is the default.
    data_format : {None, "NCDHW", "NDHWC"}
        Layout of input, indices and output.

    Returns
    -------
    ndarray
        (N, C, D, H, W).

    Raises
    ------
    TypeError, InvalidProblem
        For arrays that are not floating-point, indices of another dtype or shape or out of range, and sizes that no
        such pool has.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_unpool3d(np.full((1, 1, 1, 1, 1), 5.0), np.full((1, 1, 1, 1, 1), 2), (1, 1, 3))
    array([[[[[0., 0., 5.]]]]])
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size, data_format)


def max_unpool1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike | tuple[int, ...],
    indices: np.ndarray,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `max_unpool1d`: each element takes the upstream gradient from the place it was put.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    indices, kernel_size, stride, padding, output_size, data_format
        As in `max_unpool1d`. As in torch, elements that share a place all take its gradient.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem
        As `max_unpool1d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_unpool1d_backward(np.array([[[1.0, 2.0, 3.0, 4.0]]]), (1, 1, 2), np.array([[[1, 2]]]), 2)
    array([[[2., 3.]]])
    """
    return _max_unpool_backward(1, grad_output, input, indices, kernel_size, stride, padding, output_size, data_format)


def max_unpool2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike | tuple[int, ...],
    indices: np.ndarray,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `max_unpool2d`: each element takes the upstream gradient from the place it was put.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    indices, kernel_size, stride, padding, output_size, data_format
        As in `max_unpool2d`. As in torch, elements that share a place all take its gradient.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem
        As `max_unpool2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_unpool2d_backward(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), (1, 1, 1, 1), np.array([[[[2]]]]), 2)
    array([[[[3.]]]])
    """
    return _max_unpool_backward(2, grad_output, input, indices, kernel_size, stride, padding, output_size, data_format)


def max_unpool3d_backward(
    grad_output: ArrayLike,
    input: ArrayLike | tuple[int, ...],
    indices: np.ndarray,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `max_unpool3d`: each element takes the upstream gradient from the place it was put.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    indices, kernel_size, stride, padding, output_size, data_format
        As in `max_unpool3d`. As in torch, elements that share a place all take its gradient.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem
        As `max_unpool3d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> where = np.full((1, 1, 1, 1, 1), 2)
    >>> fastconv.max_unpool3d_backward(np.ones((1, 1, 1, 1, 3)), (1, 1, 1, 1, 1), where, (1, 1, 3))
    array([[[[[1.]]]]])
    """
    return _max_unpool_backward(3, grad_output, input, indices, kernel_size, stride, padding, output_size, data_format)
