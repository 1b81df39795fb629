"""The gradients of convolution one by one and by sizes, as torch.nn.grad offers them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.conv_backward import grad_input_of, grad_weight_of
from fastconv.functional.conv_call import conv_call, finish


def _conv_input(
    axes: int,
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
) -> np.ndarray:
    weights = arguments.as_array("weight", weight)
    upstream = arguments.as_array("grad_output", grad_output, weights.dtype, "weight")
    shape = arguments.check_size("input_size", input_size, axes + 2)
    dtype = arguments.compute_dtype(weights)
    call = conv_call(axes, dtype, shape, weights.shape, stride, padding, dilation, groups, "zeros", None)
    arguments.check_shape("grad_output", upstream, call.output_shape, "that of the output")
    grad_input = grad_input_of(
        call, arguments.plain(upstream), arguments.plain(weights), None, arguments.is_half(weights)
    )
    return finish(grad_input, True, weights.dtype, None)


def _conv_weight(
    axes: int,
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
) -> np.ndarray:
    given = arguments.as_array("input", input)
    upstream = arguments.as_array("grad_output", grad_output, given.dtype)
    arguments.check_dimensions("input", given, axes)
    shape = arguments.check_size("weight_size", weight_size, axes + 2)
    dtype = arguments.compute_dtype(given)
    call = conv_call(axes, dtype, given.shape, shape, stride, padding, dilation, groups, "zeros", None)
    arguments.check_shape("grad_output", upstream, call.output_shape, "that of the output")
    grad_weight, _ = grad_weight_of(call, arguments.plain(upstream), given, False, None, arguments.is_half(given))
    return finish(grad_weight, True, given.dtype, None)


def conv1d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> np.ndarray:
    """Gradient of `conv1d` with respect to its input, as torch.nn.grad.conv1d_input.

    Parameters
    ----------
    input_size : sequence of int
        (N, C, W) of the input.
    weight, grad_output : array_like
        (K, C / groups, S) and (N, K, Q), of one dtype.
    stride, padding, dilation, groups
        As in `conv1d`.

    Returns
    -------
    ndarray
        Of shape `input_size`.

    Raises
    ------
    TypeError, InvalidProblem
        As `conv1d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv1d_input((1, 1, 1), np.ones((1, 1, 1)), np.full((1, 1, 1), 2.0)).item()
    2.0
    """
    return _conv_input(1, input_size, weight, grad_output, stride, padding, dilation, groups)


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
    >>> fastconv.conv2d_input((1, 1, 1, 1), np.ones((1, 1, 1, 1)), np.full((1, 1, 1, 1), 2.0)).item()
    2.0
    """
    return _conv_input(2, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv3d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> np.ndarray:
    """Gradient of `conv3d` with respect to its input, as torch.nn.grad.conv3d_input.

    Parameters
    ----------
    input_size : sequence of int
        (N, C, D, H, W) of the input.
    weight, grad_output : array_like
        (K, C / groups, T, R, S) and (N, K, Z, P, Q), of one dtype.
    stride, padding, dilation, groups
        As in `conv3d`.

    Returns
    -------
    ndarray
        Of shape `input_size`.

    Raises
    ------
    TypeError, InvalidProblem
        As `conv3d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv3d_input((1, 1, 1, 1, 1), np.ones((1, 1, 1, 1, 1)), np.full((1, 1, 1, 1, 1), 2.0)).item()
    2.0
    """
    return _conv_input(3, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv1d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> np.ndarray:
    """Gradient of `conv1d` with respect to its weight, as torch.nn.grad.conv1d_weight.

    Parameters
    ----------
    input, grad_output : array_like
        (N, C, W) and (N, K, Q), of one dtype.
    weight_size : sequence of int
        (K, C / groups, S) of the weight.
    stride, padding, dilation, groups
        As in `conv1d`.

    Returns
    -------
    ndarray
        Of shape `weight_size`.

    Raises
    ------
    TypeError, InvalidProblem
        As `conv1d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv1d_weight(np.full((1, 1, 1), 3.0), (1, 1, 1), np.ones((1, 1, 1))).item()
    3.0
    """
    return _conv_weight(1, input, weight_size, grad_output, stride, padding, dilation, groups)


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
    >>> fastconv.conv2d_weight(np.full((1, 1, 1, 1), 3.0), (1, 1, 1, 1), np.ones((1, 1, 1, 1))).item()
    3.0
    """
    return _conv_weight(2, input, weight_size, grad_output, stride, padding, dilation, groups)


def conv3d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> np.ndarray:
    """Gradient of `conv3d` with respect to its weight, as torch.nn.grad.conv3d_weight.

    Parameters
    ----------
    input, grad_output : array_like
        (N, C, D, H, W) and (N, K, Z, P, Q), of one dtype.
    weight_size : sequence of int
        (K, C / groups, T, R, S) of the weight.
    stride, padding, dilation, groups
        As in `conv3d`.

    Returns
    -------
    ndarray
        Of shape `weight_size`.

    Raises
    ------
    TypeError, InvalidProblem
        As `conv3d_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv3d_weight(np.full((1, 1, 1, 1, 1), 3.0), (1, 1, 1, 1, 1), np.ones((1, 1, 1, 1, 1))).item()
    3.0
    """
    return _conv_weight(3, input, weight_size, grad_output, stride, padding, dilation, groups)
