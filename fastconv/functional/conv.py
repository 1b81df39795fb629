"""Convolution for callers: resolves arguments into a problem, allocates the output, runs the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastconv import workspace
from fastconv.algorithm import FUSED_ACTIVATIONS, Direction, Epilogue, PreparedWeight
from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.conv_call import ConvCall, conv_call, finish
from fastconv.planner import Plan, plan

#: None, the name of a fused one, or any function of the result.
Activation: TypeAlias = str | Callable[[np.ndarray], np.ndarray] | None


def check_bias(bias: ArrayLike | None, weight: np.ndarray) -> np.ndarray | None:
    if bias is None:
        return None
    checked = arguments.as_array("bias", bias, weight.dtype)
    arguments.check_shape("bias", checked, weight.shape[:1], "one per output channel")
    return arguments.plain(checked)


def check_activation(activation: Activation) -> Activation:
    if activation is None or callable(activation) or activation in FUSED_ACTIVATIONS:
        return activation
    raise InvalidProblem(
        f"activation must be None, {', '.join(FUSED_ACTIVATIONS)} or a callable, got {shown(activation)}"
    )


def _activated(
    activation: Callable[[np.ndarray], np.ndarray], result: np.ndarray, inputs: list[np.ndarray | None]
) -> np.ndarray:
    """What the caller's function makes of `result`, checked, and in memory of its own.

    Raises
    ------
    TypeError
        When it is no array of the result's dtype.
    InvalidProblem
        For another shape, and for an input's memory.
    """
    found = activation(result)
    if not isinstance(found, np.ndarray) or found.dtype != result.dtype:
        kind = f"{found.dtype} array" if isinstance(found, np.ndarray) else type(found).__name__
        raise TypeError(f"activation must return an array of the dtype it is given, {result.dtype}, got {kind}")
    if found.shape != result.shape:
        raise InvalidProblem(
            f"activation must return an array of the shape it is given, {result.shape}, got {found.shape}"
        )
    if any(array is not None and np.may_share_memory(found, array) for array in inputs):
        raise InvalidProblem("activation must return an array of its own, got memory of an input")
    return found if found is result else np.require(np.asarray(found), None, ["C", "W", "O"])


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
    call = conv_call(
        axes, arguments.compute_dtype(given), images.shape, weights.shape, stride, padding, dilation, groups,
        padding_mode, data_format,
    )  # fmt: skip
    problem = call.problem
    biases = check_bias(bias, weights)
    activation = check_activation(activation)
    if out is not None:
        shape = call.output_shape if batched else call.output_shape[1:]
        arguments.check_out(out, shape, given.dtype, [given, weights, biases])
    settled = plan(problem, Direction.FORWARD, algorithm, arguments.is_half(given))
    taken = arguments.plain(weights).reshape(problem.weight_shape)
    return compute(call, settled, given, images, batched, taken, biases, activation, out, [given, weights, biases])


def compute(
    call: ConvCall,
    settled: Plan,
    given: np.ndarray,
    images: np.ndarray,
    batched: bool,
    weight: np.ndarray | PreparedWeight,
    bias: np.ndarray | None,
    activation: Activation,
    out: np.ndarray | None,
    inputs: list[np.ndarray | None],
) -> np.ndarray:
    """Run a settled plan on checked arguments, into `out` or a result of its own."""
    problem = call.problem
    direct = out is not None and out.flags.carray and out.dtype == problem.dtype
    result = (
        out.reshape(problem.output_shape)
        if out is not None and direct
        else workspace.result(problem.output_shape, problem.dtype)
    )
    if problem.batch:
        epilogue = Epilogue(bias, activation if isinstance(activation, str) else None)
        settled.execute(call.taken(images), weight, result, epilogue)
    shown = arguments.shaped(result, call.output_shape)
    if callable(activation):
        shown = _activated(activation, shown, inputs)
    return finish(shown, batched, given.dtype, out)


def conv1d(
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
    """One-dimensional convolution, as `conv2d` with one spatial axis.

    Parameters
    ----------
    input : array_like
        (N, C, W), or (C, W) without a batch; NWC by `data_format`. float32, float64 or float16.
    weight : array_like
        (K, C / groups, S), of the input's dtype.
    bias : array_like, optional
        (K,).
    stride, padding, dilation, groups, padding_mode, activation, algorithm, out
        As in `conv2d`.
    data_format : {None, "NCW", "NWC"}
        Layout of input and output.

    Returns
    -------
    ndarray
        (N, K, Q).

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv1d(np.arange(4.0)[None, None], np.ones((1, 1, 2)))
    array([[[1., 3., 5.]]])
    """
    return _conv(
        1, input, weight, bias, stride, padding, dilation, groups, padding_mode, activation, data_format, algorithm, out
    )


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
        Applied to the result; "relu" within the kernel. A callable gets the batched result in the dtype that it was
        computed in (float32 for float16), and returns an array of the same shape and dtype.
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


def conv3d(
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
    """Three-dimensional convolution, as `conv2d` with three spatial axes.

    Parameters
    ----------
    input : array_like
        (N, C, D, H, W), or (C, D, H, W) without a batch; NDHWC by `data_format`. float32, float64 or float16.
    weight : array_like
        (K, C / groups, T, R, S), of the input's dtype.
    bias : array_like, optional
        (K,).
    stride, padding, dilation, groups, padding_mode, activation, algorithm, out
        As in `conv2d`.
    data_format : {None, "NCDHW", "NDHWC"}
        Layout of input and output.

    Returns
    -------
    ndarray
        (N, K, Z, P, Q).

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv3d(np.ones((1, 2, 4, 4, 4)), np.ones((3, 2, 3, 3, 3)), padding=1).shape
    (1, 3, 4, 4, 4)
    """
    return _conv(
        3, input, weight, bias, stride, padding, dilation, groups, padding_mode, activation, data_format, algorithm, out
    )
