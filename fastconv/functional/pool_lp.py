"""Power-average pooling for callers: the p-norm of every window, and its gradients."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts
from fastconv.functional.pool_call import Images, pool_problem, run, run_backward, shown_shape
from fastconv.problem import PoolProblem


def _check_norm(norm_type: object) -> float:
    norm = arguments.check_number("norm_type", norm_type)
    if norm == 0 or math.isnan(norm):
        raise InvalidProblem(f"norm_type must not be 0 or NaN, got {shown(norm_type)}")
    return norm


def _problem(
    images: Images, norm: float, kernel_size: IntOrInts, stride: IntOrInts | None, ceil_mode: bool
) -> PoolProblem:
    """The pool within: a maximum for an infinite norm, else an average."""
    kind = "max" if math.isinf(norm) else "avg"
    return pool_problem(
        kind, images.dtype, images.array.shape, kernel_size, stride, 0, 1, ceil_mode, True, None, images.channels_last
    )


def _clear_unseen(problem: PoolProblem, grad_input: np.ndarray) -> None:
    """Gradient 0 for what no window sees: there 0 was multiplied by a slope, which may be NaN or infinite."""
    first = 1 if problem.channels_last else 2
    extents = zip(problem.in_size, problem.out_size, problem.kernel, problem.stride, strict=True)
    for axis, (extent, windows, kernel, stride) in enumerate(extents, first):
        at = np.arange(extent)
        unseen = (at % stride >= kernel) | (at >= (windows - 1) * stride + kernel)
        if unseen.any():
            np.moveaxis(grad_input, axis, 0)[unseen] = 0


def _lp_pool(
    axes: int,
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    ceil_mode: bool,
    data_format: str | None,
    algorithm: str | None,
) -> np.ndarray:
    images, norm = Images("input", input, axes, data_format), _check_norm(norm_type)
    problem = _problem(images, norm, kernel_size, stride, ceil_mode)
    x = arguments.plain(images.array)
    with np.errstate(all="ignore"):
        if math.isinf(norm):
            result = math.copysign(1, norm) * run(problem, math.copysign(1, norm) * abs(x), False, algorithm)[0]
        else:
            means = run(problem, x**norm, False, algorithm)[0]
            result = (means * math.prod(problem.kernel)) ** (1 / norm)
    return images.result(result.reshape(shown_shape(problem, axes, problem.output_shape)))


def _lp_pool_backward(
    axes: int,
    grad_output: ArrayLike,
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    ceil_mode: bool,
    data_format: str | None,
    algorithm: str | None,
) -> np.ndarray:
    images, norm = Images("input", input, axes, data_format), _check_norm(norm_type)
    problem = _problem(images, norm, kernel_size, stride, ceil_mode)
    dy = images.upstream(grad_output, shown_shape(problem, axes, problem.output_shape)).reshape(problem.output_shape)
    x = arguments.plain(images.array).reshape(problem.input_shape)
    with np.errstate(all="ignore"):
        if math.isinf(norm):
            grad_input = np.sign(x) * run_backward(problem, dy, math.copysign(1, norm) * abs(x), None, algorithm)
        else:
            means, window = run(problem, x**norm, False, algorithm)[0], math.prod(problem.kernel)
            slope = window / norm * (means * window) ** (1 / norm - 1)
            grad_means = np.where(means == 0, np.zeros((), x.dtype), dy * slope)
            grad_input = run_backward(problem, grad_means, None, None, algorithm) * norm * x ** (norm - 1)
    _clear_unseen(problem, grad_input)
    return images.result(grad_input.reshape(images.array.shape))


def lp_pool1d(
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """Norm of every window, ``(sum of input**p) ** (1 / p)``, as torch.nn.functional.lp_pool1d.

    p = 1 is the sum, p = inf the largest absolute value, -inf the smallest. As in torch the sum is the average times
    the whole kernel, also for an incomplete window, and a negative sum with a fractional 1 / p gives NaN.

    Parameters
    ----------
    input : array_like
        (N, C, W), or (C, W) without a batch; float32, float64 or float16. NWC by `data_format`.
    norm_type : float
        p; not 0.
    kernel_size, stride, ceil_mode, data_format, algorithm
        As in `avg_pool1d`.

    Returns
    -------
    ndarray
        (N, C, Q).

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `avg_pool1d`; and for a norm_type that is 0, NaN or no number.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.lp_pool1d(np.array([[[3.0, 4.0, 0.0, 1.0]]]), 2, 2)
    array([[[5., 1.]]])
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode, data_format, algorithm)


def lp_pool2d(
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """Norm of every window, ``(sum of input**p) ** (1 / p)``, as torch.nn.functional.lp_pool2d.

    p = 1 is the sum, p = inf the largest absolute value, -inf the smallest. As in torch the sum is the average times
    the whole kernel, also for an incomplete window, and a negative sum with a fractional 1 / p gives NaN.

    Parameters
    ----------
    input : array_like
        (N, C, H, W), or (C, H, W) without a batch; float32, float64 or float16. NHWC by `data_format`.
    norm_type : float
        p; not 0.
    kernel_size, stride, ceil_mode, data_format, algorithm
        As in `avg_pool2d`.

    Returns
    -------
    ndarray
        (N, C, P, Q).

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `avg_pool2d`; and for a norm_type that is 0, NaN or no number.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.lp_pool2d(np.array([[[[1.0, 2.0], [2.0, 4.0]]]]), 2, 2)
    array([[[[5.]]]])
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode, data_format, algorithm)


def lp_pool3d(
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """Norm of every window, ``(sum of input**p) ** (1 / p)``, as torch.nn.functional.lp_pool3d.

    p = 1 is the sum, p = inf the largest absolute value, -inf the smallest. As in torch the sum is the average times
    the whole kernel, also for an incomplete window, and a negative sum with a fractional 1 / p gives NaN.

    Parameters
    ----------
    input : array_like
        (N, C, D, H, W), or (C, D, H, W) without a batch; float32, float64 or float16. NDHWC by `data_format`.
    norm_type : float
        p; not 0.
    kernel_size, stride, ceil_mode, data_format, algorithm
        As in `avg_pool3d`.

    Returns
    -------
    ndarray
        (N, C, Z, P, Q).

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `avg_pool3d`; and for a norm_type that is 0, NaN or no number.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.lp_pool3d(np.array([[[[[1.0, 2.0], [2.0, 4.0]]]]]), 2, (1, 2, 2))
    array([[[[[5.]]]]])
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode, data_format, algorithm)


def lp_pool1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """Gradient of `lp_pool1d`: ``grad_output * input**(p - 1) * output**(1 - p)``, summed over the windows.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, norm_type, kernel_size, stride, ceil_mode, data_format, algorithm
        As in `lp_pool1d`.

    Returns
    -------
    ndarray
        Of the input's shape; a window whose sum is 0 gives its elements 0, as in torch. What no window sees gets 0.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `lp_pool1d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.lp_pool1d_backward(np.array([[[5.0]]]), np.array([[[3.0, 4.0]]]), 2, 2).round(12)
    array([[[3., 4.]]])
    """
    return _lp_pool_backward(1, grad_output, input, norm_type, kernel_size, stride, ceil_mode, data_format, algorithm)


def lp_pool2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """Gradient of `lp_pool2d`: ``grad_output * input**(p - 1) * output**(1 - p)``, summed over the windows.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, norm_type, kernel_size, stride, ceil_mode, data_format, algorithm
        As in `lp_pool2d`.

    Returns
    -------
    ndarray
        Of the input's shape; a window whose sum is 0 gives its elements 0, as in torch. What no window sees gets 0.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `lp_pool2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.lp_pool2d_backward(np.array([[[[5.0]]]]), np.array([[[[1.0, 2.0], [2.0, 4.0]]]]), 2, 2).round(12)
    array([[[[1., 2.],
             [2., 4.]]]])
    """
    return _lp_pool_backward(2, grad_output, input, norm_type, kernel_size, stride, ceil_mode, data_format, algorithm)


def lp_pool3d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
) -> np.ndarray:
    """Gradient of `lp_pool3d`: ``grad_output * input**(p - 1) * output**(1 - p)``, summed over the windows.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, norm_type, kernel_size, stride, ceil_mode, data_format, algorithm
        As in `lp_pool3d`.

    Returns
    -------
    ndarray
        Of the input's shape; a window whose sum is 0 gives its elements 0, as in torch. What no window sees gets 0.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `lp_pool3d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.lp_pool3d_backward(np.ones((1, 1, 1, 1, 1)), np.array([[[[[3.0, 4.0]]]]]), 1, (1, 1, 2))
    array([[[[[1., 1.]]]]])
    """
    return _lp_pool_backward(3, grad_output, input, norm_type, kernel_size, stride, ceil_mode, data_format, algorithm)
