"""The gradients of convolution for callers: resolves arguments, allocates results, runs the plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv import workspace
from fastconv.algorithm import Direction, Epilogue
from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.conv_call import ConvCall, channel_sums, conv_call, finish
from fastconv.planner import plan


def check_mask(output_mask: Sequence[bool]) -> tuple[bool, bool, bool]:
    """Which of the three gradients (input, weight, bias) are wanted."""
    mask: object = output_mask
    if isinstance(mask, np.ndarray):
        mask = mask.tolist()
    if not isinstance(mask, (list, tuple)) or len(mask) != 3:
        raise InvalidProblem(f"output_mask must be three bools (input, weight, bias), got {shown(output_mask)}")
    wanted = [arguments.check_bool("output_mask", entry) for entry in mask]
    return wanted[0], wanted[1], wanted[2]


def grad_input_of(
    call: ConvCall, grad_output: np.ndarray, weight: np.ndarray, algorithm: str | None, exactly: bool
) -> np.ndarray:
    problem = call.problem
    settled = plan(problem, Direction.BACKWARD_INPUT, algorithm, exactly)
    grad_input = workspace.result(problem.input_shape, problem.dtype)
    if problem.batch:
        grad_output, weight = grad_output.reshape(problem.output_shape), weight.reshape(problem.weight_shape)
        settled.execute(grad_output, weight, grad_input, Epilogue())
    return call.returned(grad_input)


def grad_weight_of(
    call: ConvCall,
    grad_output: np.ndarray,
    input: np.ndarray,
    with_bias: bool,
    algorithm: str | None,
    exactly: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    problem = call.problem
    settled = plan(problem, Direction.BACKWARD_WEIGHT, algorithm, exactly)
    grad_weight = workspace.result(problem.weight_shape, problem.dtype)
    grad_bias = np.empty(problem.out_channels, problem.dtype) if with_bias else None
    if problem.batch:
        settled.execute(grad_output.reshape(problem.output_shape), call.taken(input), grad_weight, grad_bias)
    else:
        grad_weight[...] = 0
        if grad_bias is not None:
            grad_bias[...] = 0
    return arguments.shaped(grad_weight, call.weight_shape), grad_bias


def _conv_backward(
    axes: int,
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
    padding_mode: str,
    output_mask: Sequence[bool],
    data_format: str | None,
    algorithm: str | None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    given = arguments.as_array("input", input)
    weights = arguments.as_array("weight", weight, given.dtype)
    upstream = arguments.as_array("grad_output", grad_output, given.dtype)
    for_input, for_weight, for_bias = check_mask(output_mask)
    images, batched = arguments.check_image("input", given, axes)
    gradients, _ = arguments.check_image("grad_output", upstream, axes)
    call = conv_call(
        axes, arguments.compute_dtype(given), images.shape, weights.shape, stride, padding, dilation, groups,
        padding_mode, data_format,
    )  # fmt: skip
    shape = call.output_shape
    arguments.check_shape("grad_output", upstream, shape if batched else shape[1:], "that of the output")
    gradients = arguments.plain(gradients)
    grad_input = grad_weight = grad_bias = None
    if for_input:
        grad_input = grad_input_of(call, gradients, arguments.plain(weights), algorithm, arguments.is_half(given))
        grad_input = finish(grad_input, batched, given.dtype, None)
    if for_weight:
        grad_weight, grad_bias = grad_weight_of(call, gradients, images, for_bias, algorithm, arguments.is_half(given))
    elif for_bias:
        grad_bias = channel_sums(gradients, call.channels_last)
    rest = [None if array is None else finish(array, True, given.dtype, None) for array in (grad_weight, grad_bias)]
    return grad_input, rest[0], rest[1]


def conv1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    *,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    output_mask: Sequence[bool] = (True, True, True),
    data_format: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `conv1d` with respect to its input, weight and bias, as `conv2d_backward`.

    Parameters
    ----------
    grad_output : array_like
        (N, K, Q), of the input's dtype.
    input, weight, stride, padding, dilation, groups, padding_mode, data_format, algorithm
        As in `conv1d`.
    output_mask : three bools
        Which of the gradients are wanted.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        (N, C, W), (K, C / groups, S) and (K,); None where masked.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> dx, dw, db = fastconv.conv1d_backward(np.ones((1, 1, 3)), np.arange(4.0)[None, None], np.ones((1, 1, 2)))
    >>> dx, dw, db
    (array([[[1., 2., 2., 1.]]]), array([[[3., 6.]]]), array([3.]))
    """
    return _conv_backward(
        1, grad_output, input, weight, stride, padding, dilation, groups, padding_mode, output_mask, data_format,
        algorithm,
    )  # fmt: skip


def conv2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    *,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    output_mask: Sequence[bool] = (True, True, True),
    data_format: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `conv2d` with respect to its input, weight and bias.

    grad_weight is the cross-correlation of the input with grad_output; grad_input the full convolution of grad_output
    with the weight turned by 180 degrees; grad_bias the sum of grad_output.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the loss by the output, of the output's shape and dtype.
    input, weight, stride, padding, dilation, groups, padding_mode, data_format, algorithm
        As in `conv2d`.
    output_mask : three bools
        Which of the gradients are wanted.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        Of the shapes of input, weight and bias; None where masked. An empty batch gives zeros.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d`; grad_output of another shape than the output is an `InvalidProblem`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> x, w = np.ones((1, 1, 3, 3)), np.full((1, 1, 2, 2), 2.0)
    >>> dx, dw, db = fastconv.conv2d_backward(np.ones((1, 1, 2, 2)), x, w)
    >>> dx[0, 0]
    array([[2., 4., 2.],
           [4., 8., 4.],
           [2., 4., 2.]])
    >>> dw[0, 0], db
    (array([[4., 4.],
           [4., 4.]]), array([4.]))
    """
    return _conv_backward(
        2, grad_output, input, weight, stride, padding, dilation, groups, padding_mode, output_mask, data_format,
        algorithm,
    )  # fmt: skip


def conv3d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    *,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    output_mask: Sequence[bool] = (True, True, True),
    data_format: str | None = None,
    algorithm: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `conv3d` with respect to its input, weight and bias, as `conv2d_backward`.

    Parameters
    ----------
    grad_output : array_like
        (N, K, Z, P, Q), of the input's dtype.
    input, weight, stride, padding, dilation, groups, padding_mode, data_format, algorithm
        As in `conv3d`.
    output_mask : three bools
        Which of the gradients are wanted.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray or None
        (N, C, D, H, W), (K, C / groups, T, R, S) and (K,); None where masked.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> x, w = np.ones((1, 2, 4, 4, 4)), np.ones((3, 2, 3, 3, 3))
    >>> dx, dw, db = fastconv.conv3d_backward(np.ones((1, 3, 2, 2, 2)), x, w)
    >>> dx.shape, dw.shape, db
    ((1, 2, 4, 4, 4), (3, 2, 3, 3, 3), array([8., 8., 8.]))
    """
    return _conv_backward(
        3, grad_output, input, weight, stride, padding, dilation, groups, padding_mode, output_mask, data_format,
        algorithm,
    )  # fmt: skip
