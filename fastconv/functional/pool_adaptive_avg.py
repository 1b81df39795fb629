"""Adaptive average pooling for callers: the output's size is given, the windows follow; and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.pool_call import Images, input_shape, pool, pool_backward, pool_problem
from fastconv.functional.segments import adaptive_runs, check_result, sums_along, transposed
from fastconv.problem import Ints, PoolProblem, check_largest

#: One extent for all spatial axes, or one per axis; None keeps that of the input.
OutputSize: TypeAlias = int | Sequence[int | None] | None


def check_output_size(output_size: OutputSize, images: Images, shape: Ints) -> tuple[Ints, Ints]:
    """Spatial extents of the input of batched `shape`, and of the output."""
    _, channels, size = arguments.split_image(shape, images.channels_last)
    wanted = output_size if isinstance(output_size, (list, tuple)) else (output_size,) * images.axes
    if len(wanted) != images.axes:
        raise InvalidProblem(
            f"output_size must be an int or {images.axes} ints, one per spatial axis, or None, got {shown(output_size)}"
        )
    out = tuple(
        extent if entry is None else arguments.check_int("output_size", entry)
        for entry, extent in zip(wanted, size, strict=True)
    )
    if min(out) < 1:
        raise InvalidProblem(f"output_size must be at least 1, got {shown(output_size)}")
    check_largest("output_size", out)
    if min(channels, *size) < 1:
        raise InvalidProblem(f"input must have channels and spatial extents of at least 1, got shape {shape}")
    check_result("output_size", output_size, (*shape[:1], channels, *out), images.dtype)
    return size, out


def equal_windows(kind: str, images: Images, shape: Ints, size: Ints, out: Ints) -> PoolProblem | None:
    """The ordinary pool that this is where the extents divide: its kernels are fast."""
    if any(extent % count for extent, count in zip(size, out, strict=True)):
        return None
    kernel = tuple(extent // count for extent, count in zip(size, out, strict=True))
    return pool_problem(kind, images.dtype, shape, kernel, None, 0, 1, False, True, None, images.channels_last)


def image_shape(shape: Ints, size: Ints, channels_last: bool) -> Ints:
    """A batched image shape with other spatial extents."""
    return (shape[0], *size, shape[-1]) if channels_last else (*shape[:2], *size)


def _divisors(size: Ints, out: Ints, channels_last: bool) -> np.ndarray:
    """Elements of each window, to divide images by."""
    counts = np.ones((), np.int64)
    for extent, count in zip(size, out, strict=True):
        counts = counts[..., None] * adaptive_runs(extent, count).lengths
    return counts[..., None] if channels_last else counts


def _adaptive_avg_pool(axes: int, input: ArrayLike, output_size: OutputSize, data_format: str | None) -> np.ndarray:
    images = Images("input", input, axes, data_format)
    size, out = check_output_size(output_size, images, images.array.shape)
    problem = equal_windows("avg", images, images.array.shape, size, out)
    if problem is not None:
        return pool(images, problem, False, None, None)[0]
    sums, first_axis = arguments.plain(images.array), 1 if images.channels_last else 2
    for i in reversed(range(axes)):
        sums = sums_along(sums, adaptive_runs(size[i], out[i]), first_axis + i)
    with np.errstate(all="ignore"):
        means = sums / _divisors(size, out, images.channels_last).astype(sums.dtype)
    return images.result(means)


def _adaptive_avg_pool_backward(
    axes: int, grad_output: ArrayLike, input: ArrayLike | Ints, output_size: OutputSize, data_format: str | None
) -> np.ndarray:
    gradients = Images("grad_output", grad_output, axes, data_format)
    shape = input_shape(input, gradients)
    size, out = check_output_size(output_size, gradients, shape)
    wanted = gradients.shown_shape(image_shape(shape, out, gradients.channels_last))
    arguments.check_shape("grad_output", gradients.given, wanted, "that of the output")
    upstream = arguments.plain(gradients.array)
    problem = equal_windows("avg", gradients, shape, size, out)
    if problem is not None:
        return pool_backward(gradients, problem, upstream, None, None, None)
    with np.errstate(all="ignore"):
        shares = upstream / _divisors(size, out, gradients.channels_last).astype(upstream.dtype)
    first_axis = 1 if gradients.channels_last else 2
    for i in range(axes):
        shares = sums_along(shares, transposed(adaptive_runs(size[i], out[i]), size[i]), first_axis + i)
    return gradients.result(shares)


def adaptive_avg_pool1d(input: ArrayLike, output_size: OutputSize, *, data_format: str | None = None) -> np.ndarray:
    """Average over windows that give an output of a wanted size, as torch.nn.functional.adaptive_avg_pool1d.

    Along each axis window i reaches from floor(i * size / out) to ceil((i + 1) * size / out). Windows are equal where
    the extents divide; that is `avg_pool1d`, by its fastest algorithm.

    Parameters
    ----------
    input : array_like
        (N, C, W), or (C, W) without a batch; float32, float64 or float16. NWC by `data_format`.
    output_size : int, None, or one per axis
        Spatial extents of the output, each at least 1; None keeps the input's.
    data_format : {None, "NCW", "NWC"}
        Layout of input and output.

    Returns
    -------
    ndarray
        (N, C, Q).

    Raises
    ------
    TypeError, InvalidProblem
        As `avg_pool1d`; and for an output_size of another length, or below 1.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_avg_pool1d(np.array([[[1.0, 2.0, 3.0, 4.0, 5.0]]]), 3)
    array([[[1.5, 3. , 4.5]]])
    """
    return _adaptive_avg_pool(1, input, output_size, data_format)


def adaptive_avg_pool2d(input: ArrayLike, output_size: OutputSize, *, data_format: str | None = None) -> np.ndarray:
    """Average over windows that give an output of a wanted size, as torch.nn.functional.adaptive_avg_pool2d.

    Along each axis window i reaches from floor(i * size / out) to ceil((i + 1) * size / out). Windows are equal where
    the extents divide; that is `avg_pool2d`, by its fastest algorithm.

    Parameters
    ----------
    input : array_like
        (N, C, H, W), or (C, H, W) without a batch; float32, float64 or float16. NHWC by `data_format`.
    output_size : int, None, or one per axis
        Spatial extents of the output, each at least 1; None keeps the input's.
    data_format : {None, "NCHW", "NHWC"}
        Layout of input and output.

    Returns
    -------
    ndarray
        (N, C, P, Q).

    Raises
    ------
    TypeError, InvalidProblem
        As `avg_pool2d`; and for an output_size of another length, or below 1.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_avg_pool2d(np.arange(12.0).reshape(1, 1, 3, 4), (1, 2))
    array([[[[4.5, 6.5]]]])
    """
    return _adaptive_avg_pool(2, input, output_size, data_format)


def adaptive_avg_pool3d(input: ArrayLike, output_size: OutputSize, *, data_format: str | None = None) -> np.ndarray:
    """Average over windows that give an output of a wanted size, as torch.nn.functional.adaptive_avg_pool3d.

    Along each axis window i reaches from floor(i * size / out) to ceil((i + 1) * size / out). Windows are equal where
    the extents divide; that is `avg_pool3d`, by its fastest algorithm.

    Parameters
    ----------
    input : array_like
        (N, C, D, H, W), or (C, D, H, W) without a batch; float32, float64 or float16. NDHWC by `data_format`.
    output_size : int, None, or one per axis
        Spatial extents of the output, each at least 1; None keeps the input's.
    data_format : {None, "NCDHW", "NDHWC"}
        Layout of input and output.

    Returns
    -------
    ndarray
        (N, C, Z, P, Q).

    Raises
    ------
    TypeError, InvalidProblem
        As `avg_pool3d`; and for an output_size of another length, or below 1.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_avg_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), (2, None, 1)).shape
    (1, 1, 2, 2, 1)
    """
    return _adaptive_avg_pool(3, input, output_size, data_format)


def adaptive_avg_pool1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike | tuple[int, ...],
    output_size: OutputSize,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `adaptive_avg_pool1d`: each upstream gradient is spread evenly over its window.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    output_size, data_format
        As in `adaptive_avg_pool1d`.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem
        As `adaptive_avg_pool1d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_avg_pool1d_backward(np.array([[[2.0, 4.0]]]), (1, 1, 3), 2)
    array([[[1., 3., 2.]]])
    """
    return _adaptive_avg_pool_backward(1, grad_output, input, output_size, data_format)


def adaptive_avg_pool2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike | tuple[int, ...],
    output_size: OutputSize,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `adaptive_avg_pool2d`: each upstream gradient is spread evenly over its window.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    output_size, data_format
        As in `adaptive_avg_pool2d`.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem
        As `adaptive_avg_pool2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_avg_pool2d_backward(np.ones((1, 1, 1, 1)), (1, 1, 2, 2), 1)
    array([[[[0.25, 0.25],
             [0.25, 0.25]]]])
    """
    return _adaptive_avg_pool_backward(2, grad_output, input, output_size, data_format)


def adaptive_avg_pool3d_backward(
    grad_output: ArrayLike,
    input: ArrayLike | tuple[int, ...],
    output_size: OutputSize,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `adaptive_avg_pool3d`: each upstream gradient is spread evenly over its window.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    output_size, data_format
        As in `adaptive_avg_pool3d`.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem
        As `adaptive_avg_pool3d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_avg_pool3d_backward(np.ones((1, 1, 1, 1, 1)), (1, 1, 1, 1, 2), 1)
    array([[[[[0.5, 0.5]]]]])
    """
    return _adaptive_avg_pool_backward(3, grad_output, input, output_size, data_format)
