"""The gradients of transposed convolution: the forward pass and weight gradient of the convolution it transposes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv import workspace
from fastconv.algorithm import Direction, Epilogue
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts
from fastconv.functional.conv_backward import check_mask
from fastconv.functional.conv_call import channel_sums, finish
from fastconv.functional.conv_transpose import TransposedCall
from fastconv.planner import plan


def _conv_transpose_backward(
    axes: int,
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: IntOrInts,
    padding: IntOrInts,
    output_padding: IntOrInts,
    groups: int,
    dilation: IntOrInts,
    output_mask: Sequence[bool],
    data_format: str | None,
    algorithm: str | None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    given = arguments.as_array("input", input)
    weights = arguments.as_array("weight", weight, given.dtype)
    upstream = arguments.as_array("grad_output", grad_output, given.dtype)
    for_input, for_weight, for_bias = check_mask(output_mask)
    images, batched = arguments.check_image("input", given, axes)
    call = TransposedCall(
        axes, arguments.compute_dtype(given), images.shape, weights.shape, stride, padding, output_padding, groups,
        dilation, data_format,
    )  # fmt: skip
    problem = call.conv.problem
    shape = call.output_shape
    arguments.check_shape("grad_output", upstream, shape if batched else shape[1:], "that of the output")
    gradients = upstream if batched else upstream[None]
    seen = arguments.plain(gradients[call.covered]).reshape(problem.input_shape)
    grad_input = grad_weight = grad_bias = None
    if for_input:
        result = workspace.result(problem.output_shape, problem.dtype)
        if problem.batch:
            settled = plan(problem, Direction.FORWARD, algorithm, arguments.is_half(given))
            settled.execute(seen, arguments.plain(weights).reshape(problem.weight_shape), result, Epilogue())
        grad_input = finish(arguments.shaped(result, images.shape), batched, given.dtype, None)
    if for_weight:
        result = np.zeros(problem.weight_shape, problem.dtype)
        if problem.batch:
            settled = plan(problem, Direction.BACKWARD_WEIGHT, algorithm, arguments.is_half(given))
            settled.execute(arguments.plain(images).reshape(problem.output_shape), seen, result, None)
        grad_weight = finish(arguments.shaped(result, weights.shape), True, given.dtype, None)
    if for_bias:
        sums = channel_sums(arguments.plain(gradients), call.channels_last)
        grad_bias = finish(sums, True, given.dtype, None)
    return grad_input, grad_weight, grad_bias


def conv_transpose1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    *,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
    output_mask: Sequence[bool] = (True, True, True),
    data_format: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `conv_transpose1d` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : array_like
        (N, K, Q), of the input's dtype.
    input, weight, stride, padding, output_padding, groups, dilation, data_format, algorithm
        As in `conv_transpose1d`.
    output_mask : three bools
        Which of the gradients are wanted.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        (N, C, W), (C, K / groups, S) and (K,); None where masked.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> x, w = np.ones((1, 2, 2)), np.ones((2, 3, 2))
    >>> y = fastconv.conv_transpose1d(x, w, stride=2)
    >>> dx, dw, db = fastconv.conv_transpose1d_backward(np.ones_like(y), x, w, stride=2)
    >>> dx.shape == x.shape, dw.shape == w.shape, db.shape
    (True, True, (3,))
    """
    return _conv_transpose_backward(
        1, grad_output, input, weight, stride, padding, output_padding, groups, dilation, output_mask, data_format,
        algorithm,
    )  # fmt: skip


def conv_transpose2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    *,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
    output_mask: Sequence[bool] = (True, True, True),
    data_format: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `conv_transpose2d` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : array_like
        (N, K, P, Q), of the input's dtype.
    input, weight, stride, padding, output_padding, groups, dilation, data_format, algorithm
        As in `conv_transpose2d`.
    output_mask : three bools
        Which of the gradients are wanted.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        (N, C, H, W), (C, K / groups, R, S) and (K,); None where masked.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> x, w = np.ones((1, 2, 2, 2)), np.ones((2, 3, 2, 2))
    >>> y = fastconv.conv_transpose2d(x, w, stride=2)
    >>> dx, dw, db = fastconv.conv_transpose2d_backward(np.ones_like(y), x, w, stride=2)
    >>> dx.shape == x.shape, dw.shape == w.shape, db.shape
    (True, True, (3,))
    """
    return _conv_transpose_backward(
        2, grad_output, input, weight, stride, padding, output_padding, groups, dilation, output_mask, data_format,
        algorithm,
    )  # fmt: skip


def conv_transpose3d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    *,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
    output_mask: Sequence[bool] = (True, True, True),
    data_format: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `conv_transpose3d` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : array_like
        (N, K, Z, P, Q), of the input's dtype.
    input, weight, stride, padding, output_padding, groups, dilation, data_format, algorithm
        As in `conv_transpose3d`.
    output_mask : three bools
        Which of the gradients are wanted.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        (N, C, D, H, W), (C, K / groups, T, R, S) and (K,); None where masked.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> x, w = np.ones((1, 2, 2, 2, 2)), np.ones((2, 3, 2, 2, 2))
    >>> y = fastconv.conv_transpose3d(x, w, stride=2)
    >>> dx, dw, db = fastconv.conv_transpose3d_backward(np.ones_like(y), x, w, stride=2)
    >>> dx.shape == x.shape, dw.shape == w.shape, db.shape
    (True, True, (3,))
    """
    return _conv_transpose_backward(
        3, grad_output, input, weight, stride, padding, output_padding, groups, dilation, output_mask, data_format,
        algorithm,
    )  # fmt: skip
