"""The gradients of convolution for callers: resolves arguments, allocates results, runs the plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv.algorithm import Direction, Epilogue
from fastconv.errors import InvalidProblem
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.conv_call import ConvCall, finish
from fastconv.planner import plan
from fastconv.problem import ConvProblem, Ints


def _check_mask(output_mask: Sequence[bool]) -> tuple[bool, bool, bool]:
    if not isinstance(output_mask, (list, tuple)) or len(output_mask) != 3:
        raise InvalidProblem(f"output_mask must be three bools (input, weight, bias), got {output_mask!r}")
    wanted = [arguments.check_bool("output_mask", entry) for entry in output_mask]
    return wanted[0], wanted[1], wanted[2]


def _grad_input(call: ConvCall, grad_output: np.ndarray, weight: np.ndarray, algorithm: str | None) -> np.ndarray:
    problem = call.problem
    settled = plan(problem, Direction.BACKWARD_INPUT, algorithm)
    grad_input = np.empty(problem.input_shape, problem.dtype)
    if problem.batch:
        settled.execute(grad_output, weight, grad_input, Epilogue())
    return call.unpad(grad_input)


def _grad_weight(
    call: ConvCall, grad_output: np.ndarray, input: np.ndarray, with_bias: bool, algorithm: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    problem = call.problem
    settled = plan(problem, Direction.BACKWARD_WEIGHT, algorithm)
    grad_weight = np.empty(problem.weight_shape, problem.dtype)
    grad_bias = np.empty(problem.out_channels, problem.dtype) if with_bias else None
    if problem.batch:
        settled.execute(grad_output, call.pad(input), grad_weight, grad_bias)
    else:
        grad_weight[...] = 0
        if grad_bias is not None:
            grad_bias[...] = 0
    return grad_weight, grad_bias


def _grad_bias(problem: ConvProblem, grad_output: np.ndarray) -> np.ndarray:
    """The bias gradient alone; sums of 400,000 elements and more are kept in float64."""
    others = tuple(range(problem.axes + 1)) if problem.channels_last else (0, *range(2, problem.axes + 2))
    with np.errstate(all="ignore"):
        total: np.ndarray = grad_output.sum(others, dtype=np.float64)
        return total.astype(problem.dtype)


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
    for_input, for_weight, for_bias = _check_mask(output_mask)
    images, batched = arguments.check_image("input", given, axes)
    gradients, _ = arguments.check_image("grad_output", upstream, axes)
    call = ConvCall(
        axes, arguments.compute_dtype(given), images.shape, weights.shape, stride, padding, dilation, groups,
        padding_mode, data_format,
    )  # fmt: skip
    shape = call.problem.output_shape
    arguments.check_shape("grad_output", upstream, shape if batched else shape[1:], "that of the output")
    gradients = arguments.plain(gradients)
    grad_input = grad_weight = grad_bias = None
    if for_input:
        grad_input = _grad_input(call, gradients, arguments.plain(weights), algorithm)
        grad_input = finish(grad_input, batched, given.dtype, None)
    if for_weight:
        grad_weight, grad_bias = _grad_weight(call, gradients, arguments.plain(images), for_bias, algorithm)
    elif for_bias:
        grad_bias = _grad_bias(call.problem, gradients)
    rest = [None if array is None else finish(array, True, given.dtype, None) for array in (grad_weight, grad_bias)]
    return grad_input, rest[0], rest[1]


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


def _check_size(name: str, size: object, axes: int) -> Ints:
    if not isinstance(size, (list, tuple)) or len(size) != axes + 2:
        raise InvalidProblem(f"{name} must be a shape of {axes + 2} ints, got {size!r}")
    return tuple(arguments.check_int(name, extent) for extent in size)


def conv2d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> np.ndarray:
    """Gradient of `conv2d` with respect to its input, as torch.nn.grad.conv2d_input.

    Parameters
    ----------
    input_size : sequence of int
        (N, C, H, W) of the input.
    weight, grad_output : array_like
        (K, C / groups, R, S) and (N, K, P, Q), of one dtype.
    stride, padding, dilation, groups
        As in `conv2d`.

    Returns
    -------
    ndarray
        Of shape `input_size`.

    Raises
    ------
    TypeError, InvalidProblem
        As `conv2d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv2d_input((1, 1, 2, 2), np.ones((1, 1, 1, 1)), np.ones((1, 1, 2, 2)))
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    weights = arguments.as_array("weight", weight)
    upstream = arguments.as_array("grad_output", grad_output, weights.dtype)
    shape = _check_size("input_size", input_size, 2)
    dtype = arguments.compute_dtype(weights)
    call = ConvCall(2, dtype, shape, weights.shape, stride, padding, dilation, groups, "zeros", None)
    arguments.check_shape("grad_output", upstream, call.problem.output_shape, "that of the output")
    grad_input = _grad_input(call, arguments.plain(upstream), arguments.plain(weights), None)
    return finish(grad_input, True, weights.dtype, None)


def conv2d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> np.ndarray:
    """Gradient of `conv2d` with respect to its weight, as torch.nn.grad.conv2d_weight.

    Parameters
    ----------
    input, grad_output : array_like
        (N, C, H, W) and (N, K, P, Q), of one dtype.
    weight_size : sequence of int
        (K, C / groups, R, S) of the weight.
    stride, padding, dilation, groups
        As in `conv2d`.

    Returns
    -------
    ndarray
        Of shape `weight_size`.

    Raises
    ------
    TypeError, InvalidProblem
        As `conv2d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv2d_weight(np.ones((1, 1, 2, 2)), (1, 1, 1, 1), np.ones((1, 1, 2, 2)))
    array([[[[4.]]]])
    """
    given = arguments.as_array("input", input)
    upstream = arguments.as_array("grad_output", grad_output, given.dtype)
    images, _ = arguments.check_image("input", given, 2)
    shape = _check_size("weight_size", weight_size, 2)
    call = ConvCall(
        2, arguments.compute_dtype(given), images.shape, shape, stride, padding, dilation, groups, "zeros", None
    )
    arguments.check_shape("grad_output", upstream, call.problem.output_shape, "that of the output")
    grad_weight, _ = _grad_weight(call, arguments.plain(upstream), arguments.plain(images), False, None)
    return finish(grad_weight, True, given.dtype, None)
