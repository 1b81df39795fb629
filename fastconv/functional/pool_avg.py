"""Average pooling for callers, in one to three axes, and its gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.pool_call import Images, input_shape, pool, pool_backward, pool_problem, shown_shape


def _avg_pool(
    axes: int,
    input: ArrayLike,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: Padding,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    data_format: str | None,
    algorithm: str | None,
    out: np.ndarray | None,
) -> np.ndarray:
    images = Images("input", input, axes, data_format)
    problem = pool_problem(
        "avg", images.dtype, images.array.shape, kernel_size, stride, padding, 1, ceil_mode, count_include_pad,
        divisor_override, images.channels_last,
    )  # fmt: skip
    return pool(images, problem, False, algorithm, out)[0]


def _avg_pool_backward(
    axes: int,
    grad_output: ArrayLike,
    input: ArrayLike | tuple[int, ...],
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: Padding,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    data_format: str | None,
    algorithm: str | None,
) -> np.ndarray:
    gradients = Images("grad_output", grad_output, axes, data_format)
    problem = pool_problem(
        "avg", gradients.dtype, input_shape(input, gradients), kernel_size, stride, padding, 1, ceil_mode,
        count_include_pad, divisor_override, gradients.channels_last,
    )  # fmt: skip
    shape = gradients.shown_shape(shown_shape(problem, axes, problem.output_shape))
    arguments.check_shape("grad_output", gradients.given, shape, "that of the output")
    return pool_backward(gradients, problem, arguments.plain(gradients.array), None, None, algorithm)


def avg_pool1d(
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
    """Average of every window, as torch.nn.functional.avg_pool1d.

    Parameters
    ----------
    input : array_like
        (N, C, W), or (C, W) without a batch; float32, float64 or float16. NWC by `data_format`.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format, algorithm, out
        As in `avg_pool2d`.

    Returns
    -------
    ndarray
        (N, C, Q); 0 for a window wholly in padding that is not counted.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.avg_pool1d(np.array([[[1.0, 3.0, 2.0, 4.0]]]), 2)
    array([[[2., 3.]]])
    """
    return _avg_pool(
        1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format, algorithm,
        out,
    )  # fmt: skip


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
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    return _avg_pool(
        2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format, algorithm,
        out,
    )  # fmt: skip


def avg_pool3d(
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
    """Average of every window, as torch.nn.functional.avg_pool3d.

    Parameters
    ----------
    input : array_like
        (N, C, D, H, W), or (C, D, H, W) without a batch; float32, float64 or float16. NDHWC by `data_format`.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format, algorithm, out
        As in `avg_pool2d`.

    Returns
    -------
    ndarray
        (N, C, Z, P, Q); 0 for a window wholly in padding that is not counted.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.avg_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 2).item()
    3.5
    """
    return _avg_pool(
        3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format, algorithm,
        out,
    )  # fmt: skip


def avg_pool1d_backward(
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
    """Gradient of `avg_pool1d`: each upstream gradient is spread evenly over its window.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format, algorithm
        As in `avg_pool1d`.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `avg_pool1d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.avg_pool1d_backward(np.ones((1, 1, 2)), (1, 1, 3), 2, stride=1)
    array([[[0.5, 1. , 0.5]]])
    """
    return _avg_pool_backward(
        1, grad_output, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override,
        data_format, algorithm,
    )  # fmt: skip


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
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `avg_pool2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.avg_pool2d_backward(np.ones((1, 1, 1, 1)), (1, 1, 2, 2), 2)
    array([[[[0.25, 0.25],
             [0.25, 0.25]]]])
    """
    return _avg_pool_backward(
        2, grad_output, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override,
        data_format, algorithm,
    )  # fmt: skip


def avg_pool3d_backward(
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
    """Gradient of `avg_pool3d`: each upstream gradient is spread evenly over its window.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, data_format, algorithm
        As in `avg_pool3d`.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `avg_pool3d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.avg_pool3d_backward(np.ones((1, 1, 1, 1, 1)), (1, 1, 2, 2, 2), 2).ravel()
    array([0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125])
    """
    return _avg_pool_backward(
        3, grad_output, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override,
        data_format, algorithm,
    )  # fmt: skip
