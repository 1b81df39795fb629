"""Convolution for callers: resolves arguments into a problem, allocates results, runs the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastconv.algorithm import FUSED_ACTIVATIONS, Direction, Epilogue
from fastconv.errors import InvalidProblem
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.padding import check_mode, pad_images, unpad_gradients
from fastconv.planner import plan
from fastconv.problem import ConvProblem, Ints, Pads

#: None, the name of a fused one, or any function of the result.
Activation: TypeAlias = str | Callable[[np.ndarray], np.ndarray] | None

_problem = lru_cache(maxsize=4096)(ConvProblem)


def conv_problem(
    dtype: str,
    input_shape: Ints,
    weight_shape: Ints,
    stride: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
    channels_last: bool = False,
) -> ConvProblem:
    """The problem that batched shapes and a caller's short forms describe."""
    axes = len(weight_shape) - 2
    batch, in_channels, in_size = arguments.split_image(input_shape, channels_last)
    out_channels, group_in_channels, *kernel = weight_shape
    strides = arguments.check_ints("stride", stride, axes)
    dilations = arguments.check_ints("dilation", dilation, axes)
    count = arguments.check_int("groups", groups)
    pads = arguments.check_padding(padding, in_size, tuple(kernel), strides, dilations)
    if count > 0 and in_channels != group_in_channels * count:
        raise InvalidProblem(
            f"input of shape {input_shape} has {in_channels} channels, but weight of shape {weight_shape} with "
            f"groups={count} takes {group_in_channels} * {count} = {group_in_channels * count}"
        )
    return _problem(
        dtype, batch, in_channels, in_size, out_channels, tuple(kernel), strides, pads, dilations, count, channels_last
    )


def _padded_shape(shape: Ints, pads: Pads, first_axis: int) -> Ints:
    padded = list(shape)
    for axis, (low, high) in enumerate(pads, start=first_axis):
        padded[axis] += low + high
    return tuple(padded)


class _Call:
    """One call's resolved problem: the padding mode is applied outside of it, the rest is in it."""

    def __init__(
        self,
        axes: int,
        dtype: str,
        input_shape: Ints,
        weight_shape: Ints,
        stride: IntOrInts,
        padding: Padding,
        dilation: IntOrInts,
        groups: int,
        padding_mode: str,
        data_format: str | None,
    ) -> None:
        if len(weight_shape) != axes + 2:
            raise InvalidProblem(
                f"weight must have {axes + 2} dimensions (out_channels, in_channels / groups, *kernel), "
                f"got shape {weight_shape}"
            )
        channels_last = arguments.check_data_format(data_format, axes)
        self.mode = check_mode(padding_mode)
        problem = conv_problem(dtype, input_shape, weight_shape, stride, padding, dilation, groups, channels_last)
        self.first_axis = 1 if channels_last else 2
        self.pads = problem.pads
        if self.mode != "zeros":
            shape = _padded_shape(input_shape, self.pads, self.first_axis)
            problem = conv_problem(dtype, shape, weight_shape, stride, 0, dilation, groups, channels_last)
        self.problem = problem

    def pad(self, images: np.ndarray) -> np.ndarray:
        """What the problem takes as its input."""
        return images if self.mode == "zeros" else pad_images(images, self.pads, self.mode, self.first_axis)

    def unpad(self, gradients: np.ndarray) -> np.ndarray:
        """The gradient of the caller's input from that of the problem's."""
        return gradients if self.mode == "zeros" else unpad_gradients(gradients, self.pads, self.mode, self.first_axis)


def _check_bias(bias: ArrayLike | None, weight: np.ndarray) -> np.ndarray | None:
    if bias is None:
        return None
    checked = arguments.as_array("bias", bias, weight.dtype)
    arguments.check_shape("bias", checked, weight.shape[:1], "one per output channel")
    return arguments.plain(checked)


def _check_activation(activation: Activation) -> Activation:
    if activation is None or callable(activation) or activation in FUSED_ACTIVATIONS:
        return activation
    raise InvalidProblem(f"activation must be None, {', '.join(FUSED_ACTIVATIONS)} or a callable, got {activation!r}")


def _fits(out: np.ndarray | None, shape: Ints, dtype: str) -> bool:
    """Whether a kernel can write into the caller's array directly."""
    return out is not None and out.flags.carray and out.dtype == dtype and out.shape == shape


def _finish(result: np.ndarray, batched: bool, dtype: np.dtype, out: np.ndarray | None) -> np.ndarray:
    """Drop the batch axis that was added, return to the caller's dtype, or into `out`."""
    shown = result if batched else result[0]
    if out is None:
        with np.errstate(over="ignore"):
            return shown.astype(dtype, copy=False)
    if not np.may_share_memory(shown, out):
        with np.errstate(over="ignore"):
            out[...] = shown
    return out


def _conv(
    axes: int,
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
    padding_mode: str,
    activation: Activation,
    data_format: str | None,
    algorithm: str | None,
    out: np.ndarray | None,
) -> np.ndarray:
    given = arguments.as_array("input", input)
    weights = arguments.as_array("weight", weight, given.dtype)
    images, batched = arguments.check_image("input", given, axes)
    call = _Call(
        axes, arguments.compute_dtype(given), images.shape, weights.shape, stride, padding, dilation, groups,
        padding_mode, data_format,
    )  # fmt: skip
    problem = call.problem
    biases = _check_bias(bias, weights)
    activation = _check_activation(activation)
    if out is not None:
        shape = problem.output_shape if batched else problem.output_shape[1:]
        arguments.check_out(out, shape, given.dtype, [given, weights, biases])
    settled = plan(problem, Direction.FORWARD, algorithm)
    into = out if batched else None if out is None else out[None]
    result = into if _fits(into, problem.output_shape, problem.dtype) else np.empty(problem.output_shape, problem.dtype)
    assert result is not None
    if problem.batch:
        epilogue = Epilogue(biases, activation if isinstance(activation, str) else None)
        settled.execute(call.pad(arguments.plain(images)), arguments.plain(weights), result, epilogue)
        if callable(activation):
            result[...] = activation(result)
    return _finish(result, batched, given.dtype, out)


def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: Activation = None,
    data_format: str | None = None,
    algorithm: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Two-dimensional convolution (cross-correlation) of images with filters, as torch.nn.functional.conv2d.

    ``output[n, k, p, q] = bias[k] + sum over c, r, s of input[n, c, p*stride - padding + r*dilation, ...] *
    weight[k, c, r, s]``, in the dtype of the input (float16 is computed in float32).

    Parameters
    ----------
    input : array_like
        (N, C, H, W), or (C, H, W) without a batch; float32, float64 or float16. NHWC by `data_format`.
    weight : array_like
        (K, C / groups, R, S), of the input's dtype, in every `data_format`.
    bias : array_like, optional
        (K,).
    stride, dilation : int or (int, int)
        Step of the window, and of the positions within it; at least 1.
    padding : int, (int, int), ((low, high), (low, high)), "valid" or "same"
        Elements added on each side. "same" keeps ceil(size / stride) outputs, a surplus one at the end.
    groups : int
        Groups of channels convolved apart; C is depthwise.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What is added.
    activation : {None, "relu"} or callable
        Applied to the result; "relu" within the kernel.
    data_format : {None, "NCHW", "NHWC"}
        Layout of input and output.
    algorithm : str, optional
        "auto", or the name of one: then it runs, or raises with its reason. None: the setting in force.
    out : ndarray, optional
        Where the result goes; exact shape and dtype, any strides.

    Returns
    -------
    ndarray
        (N, K, P, Q) with P = floor((H + 2*padding - dilation*(R-1) - 1) / stride) + 1, Q likewise.

    Raises
    ------
    TypeError
        For arrays that are not floating-point or disagree in dtype, and parameters that are not integers.
    InvalidProblem
        (a ValueError) When shapes or parameters describe no convolution.
    UnsupportedProblem
        (a NotImplementedError) When the algorithm named cannot compute it.
    MemoryError
        When the least workspace exceeds the limit.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> images = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> sobel = np.array([[[[1, 0, -1], [2, 0, -2], [1, 0, -1]]]], np.float32)
    >>> fastconv.conv2d(images, sobel)
    array([[[[-8., -8.],
             [-8., -8.]]]], dtype=float32)
    """
    return _conv(
        2, input, weight, bias, stride, padding, dilation, groups, padding_mode, activation, data_format, algorithm, out
    )


def _check_mask(output_mask: Sequence[bool]) -> tuple[bool, bool, bool]:
    if not isinstance(output_mask, (list, tuple)) or len(output_mask) != 3:
        raise InvalidProblem(f"output_mask must be three bools (input, weight, bias), got {output_mask!r}")
    wanted = [arguments.check_bool("output_mask", entry) for entry in output_mask]
    return wanted[0], wanted[1], wanted[2]


def _grad_input(call: _Call, grad_output: np.ndarray, weight: np.ndarray, algorithm: str | None) -> np.ndarray:
    problem = call.problem
    settled = plan(problem, Direction.BACKWARD_INPUT, algorithm)
    grad_input = np.empty(problem.input_shape, problem.dtype)
    if problem.batch:
        settled.execute(grad_output, weight, grad_input, Epilogue())
    return call.unpad(grad_input)


def _grad_weight(
    call: _Call, grad_output: np.ndarray, input: np.ndarray, with_bias: bool, algorithm: str | None
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
    call = _Call(
        axes, arguments.compute_dtype(given), images.shape, weights.shape, stride, padding, dilation, groups,
        padding_mode, data_format,
    )  # fmt: skip
    shape = call.problem.output_shape
    arguments.check_shape("grad_output", upstream, shape if batched else shape[1:], "that of the output")
    gradients = arguments.plain(gradients)
    grad_input = grad_weight = grad_bias = None
    if for_input:
        grad_input = _grad_input(call, gradients, arguments.plain(weights), algorithm)
        grad_input = _finish(grad_input, batched, given.dtype, None)
    if for_weight:
        grad_weight, grad_bias = _grad_weight(call, gradients, arguments.plain(images), for_bias, algorithm)
    elif for_bias:
        grad_bias = _grad_bias(call.problem, gradients)
    rest = [None if array is None else _finish(array, True, given.dtype, None) for array in (grad_weight, grad_bias)]
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
    call = _Call(2, dtype, shape, weights.shape, stride, padding, dilation, groups, "zeros", None)
    arguments.check_shape("grad_output", upstream, call.problem.output_shape, "that of the output")
    grad_input = _grad_input(call, arguments.plain(upstream), arguments.plain(weights), None)
    return _finish(grad_input, True, weights.dtype, None)


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
    call = _Call(
        2, arguments.compute_dtype(given), images.shape, shape, stride, padding, dilation, groups, "zeros", None
    )
    arguments.check_shape("grad_output", upstream, call.problem.output_shape, "that of the output")
    grad_weight, _ = _grad_weight(call, arguments.plain(upstream), arguments.plain(images), False, None)
    return _finish(grad_weight, True, given.dtype, None)
