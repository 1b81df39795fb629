"""Adaptive max pooling for callers: the output's size is given, the windows follow; and where its gradients go."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastconv.functional import arguments
from fastconv.functional.pool_adaptive_avg import OutputSize, check_output_size, equal_windows, image_shape
from fastconv.functional.pool_call import Images, check_indices, pool, pool_backward
from fastconv.functional.segments import adaptive_runs, maxima, scattered


def _adaptive_max_pool(
    axes: int, input: ArrayLike, output_size: OutputSize, return_indices: bool, data_format: str | None
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    images = Images("input", input, axes, data_format)
    wanted = arguments.check_bool("return_indices", return_indices)
    size, out = check_output_size(output_size, images, images.array.shape)
    problem = equal_windows("max", images, images.array.shape, size, out)
    if problem is not None:
        output, where = pool(images, problem, wanted, None, None)
        return output if where is None else (output, where)
    runs = [adaptive_runs(extent, count) for extent, count in zip(size, out, strict=True)]
    values, indices = maxima(arguments.plain(images.array), runs, 1 if images.channels_last else 2)
    output = images.result(values)
    return (output, indices if images.batched else indices[0]) if wanted else output


def _adaptive_max_pool_backward(
    axes: int,
    grad_output: ArrayLike,
    input: ArrayLike,
    output_size: OutputSize,
    indices: np.ndarray | None,
    data_format: str | None,
) -> np.ndarray:
    images = Images("input", input, axes, data_format)
    size, out = check_output_size(output_size, images, images.array.shape)
    shape = image_shape(images.array.shape, out, images.channels_last)
    upstream = images.upstream(grad_output, shape)
    where = None if indices is None else check_indices(indices, shape, images.batched, size)
    problem = equal_windows("max", images, images.array.shape, size, out)
    if problem is not None:
        source = arguments.plain(images.array) if where is None else None
        return pool_backward(images, problem, upstream, source, where, None)
    if where is None:
        runs = [adaptive_runs(extent, count) for extent, count in zip(size, out, strict=True)]
        where = maxima(arguments.plain(images.array), runs, 1 if images.channels_last else 2)[1]
    return images.result(scattered(upstream, where, images.array.shape, images.channels_last))


def adaptive_max_pool1d(
    input: ArrayLike, output_size: OutputSize, return_indices: bool = False, *, data_format: str | None = None
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Maximum over windows that give an output of a wanted size, as torch.nn.functional.adaptive_max_pool1d.

    The windows are those of `adaptive_avg_pool1d`; where they are equal this is `max_pool1d`, by its fastest
    algorithm.

    Parameters
    ----------
    input, output_size, data_format
        As in `adaptive_avg_pool1d`.
    return_indices : bool
        Also return where each maximum was: w, int64.

    Returns
    -------
    ndarray, or (ndarray, ndarray)
        (N, C, Q). NaN where a window holds one; the first of equal maxima counts, in row-major order.

    Raises
    ------
    TypeError, InvalidProblem
        As `adaptive_avg_pool1d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_max_pool1d(np.array([[[1.0, 2.0, 3.0, 5.0, 4.0]]]), 3, return_indices=True)
    (array([[[2., 5., 5.]]]), array([[[1, 3, 3]]]))
    """
    return _adaptive_max_pool(1, input, output_size, return_indices, data_format)


def adaptive_max_pool2d(
    input: ArrayLike, output_size: OutputSize, return_indices: bool = False, *, data_format: str | None = None
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Maximum over windows that give an output of a wanted size, as torch.nn.functional.adaptive_max_pool2d.

    The windows are those of `adaptive_avg_pool2d`; where they are equal this is `max_pool2d`, by its fastest
    algorithm.

    Parameters
    ----------
    input, output_size, data_format
        As in `adaptive_avg_pool2d`.
    return_indices : bool
        Also return where each maximum was: h * W + w, int64.

    Returns
    -------
    ndarray, or (ndarray, ndarray)
        (N, C, P, Q). NaN where a window holds one; the first of equal maxima counts, in row-major order.

    Raises
    ------
    TypeError, InvalidProblem
        As `adaptive_avg_pool2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_max_pool2d(np.arange(12.0).reshape(1, 1, 3, 4), (1, 2))
    array([[[[ 9., 11.]]]])
    """
    return _adaptive_max_pool(2, input, output_size, return_indices, data_format)


def adaptive_max_pool3d(
    input: ArrayLike, output_size: OutputSize, return_indices: bool = False, *, data_format: str | None = None
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Maximum over windows that give an output of a wanted size, as torch.nn.functional.adaptive_max_pool3d.

    The windows are those of `adaptive_avg_pool3d`; where they are equal this is `max_pool3d`, by its fastest
    algorithm.

    Parameters
    ----------
    input, output_size, data_format
        As in `adaptive_avg_pool3d`.
    return_indices : bool
        Also return where each maximum was: (d * H + h) * W + w, int64.

    Returns
    -------
    ndarray, or (ndarray, ndarray)
        (N, C, Z, P, Q). NaN where a window holds one; the first of equal maxima counts, in row-major order.

    Raises
    ------
    TypeError, InvalidProblem
        As `adaptive_avg_pool3d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_max_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), (2, None, 1)).shape
    (1, 1, 2, 2, 1)
    """
    return _adaptive_max_pool(3, input, output_size, return_indices, data_format)


def adaptive_max_pool1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    output_size: OutputSize,
    *,
    indices: np.ndarray | None = None,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `adaptive_max_pool1d`: each upstream gradient goes to the element that was the maximum.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, output_size, data_format
        As in `adaptive_max_pool1d`.
    indices : int64 ndarray, optional
        As `adaptive_max_pool1d` returned them; saves finding the maxima again.

    Returns
    -------
    ndarray
        Of the input's shape; 0 where an element was no maximum.

    Raises
    ------
    TypeError, InvalidProblem
        As `adaptive_max_pool1d`; indices out of range are an `InvalidProblem`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_max_pool1d_backward(np.array([[[1.0, 2.0]]]), np.array([[[1.0, 3.0, 2.0]]]), 2)
    array([[[0., 3., 0.]]])
    """
    return _adaptive_max_pool_backward(1, grad_output, input, output_size, indices, data_format)


def adaptive_max_pool2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    output_size: OutputSize,
    *,
    indices: np.ndarray | None = None,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `adaptive_max_pool2d`: each upstream gradient goes to the element that was the maximum.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, output_size, data_format
        As in `adaptive_max_pool2d`.
    indices : int64 ndarray, optional
        As `adaptive_max_pool2d` returned them; saves finding the maxima again.

    Returns
    -------
    ndarray
        Of the input's shape; 0 where an element was no maximum.

    Raises
    ------
    TypeError, InvalidProblem
        As `adaptive_max_pool2d`; indices out of range are an `InvalidProblem`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_max_pool2d_backward(np.ones((1, 1, 1, 1)), np.arange(4.0).reshape(1, 1, 2, 2), 1)
    array([[[[0., 0.],
             [0., 1.]]]])
    """
    return _adaptive_max_pool_backward(2, grad_output, input, output_size, indices, data_format)


def adaptive_max_pool3d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    output_size: OutputSize,
    *,
    indices: np.ndarray | None = None,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `adaptive_max_pool3d`: each upstream gradient goes to the element that was the maximum.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, output_size, data_format
        As in `adaptive_max_pool3d`.
    indices : int64 ndarray, optional
        As `adaptive_max_pool3d` returned them; saves finding the maxima again.

    Returns
    -------
    ndarray
        Of the input's shape; 0 where an element was no maximum.

    Raises
    ------
    TypeError, InvalidProblem
        As `adaptive_max_pool3d`; indices out of range are an `InvalidProblem`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.adaptive_max_pool3d_backward(np.ones((1, 1, 1, 1, 1)), np.array([[[[[1.0, 2.0]]]]]), 1)
    array([[[[[0., 1.]]]]])
    """
    return _adaptive_max_pool_backward(3, grad_output, input, output_size, indices, data_format)
