"""Transposed convolution: the gradient of a convolution with respect to its input, taken as an operation of its own.

The input here is the upstream gradient there, and the weight (C, K / groups, R, S) is that of the convolution that
goes the other way; so every algorithm's backward_input computes it, with the bias as its epilogue, and its own
gradients are that convolution's forward and backward_weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv import workspace
from fastconv.algorithm import Direction, Epilogue
from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts
from fastconv.functional.conv_call import conv_call, finish
from fastconv.planner import plan
from fastconv.problem import ITEM_BYTES, MAX_BYTES, Ints


class TransposedCall:
    """The convolution that goes from our output to our input, and what our output has beyond its windows."""

    def __init__(
        self,
        axes: int,
        dtype: str,
        input_shape: Ints,
        weight_shape: Ints,
        stride: IntOrInts,
        padding: IntOrInts,
        output_padding: IntOrInts,
        groups: int,
        dilation: IntOrInts,
        data_format: str | None,
    ) -> None:
        if len(weight_shape) != axes + 2:
            raise InvalidProblem(
                f"weight must have {axes + 2} dimensions (in_channels, out_channels / groups, *kernel), "
                f"got shape {weight_shape}"
            )
        channels_last = arguments.check_data_format(data_format, axes)
        batch, in_channels, in_size = arguments.split_image(input_shape, channels_last)
        if weight_shape[0] != in_channels:
            raise InvalidProblem(
                f"input of shape {input_shape} has {in_channels} channels, but weight of shape {weight_shape} takes "
                f"{weight_shape[0]}"
            )
        count = arguments.check_int("groups", groups)
        for name, extents in (
            ("groups", (count,)), ("in_channels", (in_channels,)), ("out_channels", weight_shape[1:2]),
            ("input size", in_size), ("kernel size", weight_shape[2:]),
        ):  # fmt: skip
            if min(extents) < 1:
                raise InvalidProblem(
                    f"{name} must be at least 1, got input of shape {input_shape}, weight of shape {weight_shape} "
                    f"and groups={shown(groups)}"
                )
        if in_channels % count:
            raise InvalidProblem(
                f"in_channels must be a multiple of groups: {in_channels} is not one of {shown(groups)}"
            )
        strides, dilations, pads, extras = (
            arguments.check_extents(name, value, axes, least)
            for name, value, least in (
                ("stride", stride, 1), ("dilation", dilation, 1), ("padding", padding, 0),
                ("output_padding", output_padding, 0),
            )
        )  # fmt: skip
        sizes, covered, conv_pads = [], [], []
        for size, kernel, s, pad, d, extra in zip(
            in_size, weight_shape[2:], strides, pads, dilations, extras, strict=True
        ):
            if extra >= max(s, d):
                raise InvalidProblem(
                    f"output_padding must be smaller than stride or dilation: {extra} >= max({s}, {d})"
                )
            extent = (size - 1) * s - 2 * pad + d * (kernel - 1) + 1 + extra
            if extent < 1:
                raise InvalidProblem(
                    f"output size ({size} - 1) * {s} - 2 * {pad} + {d} * ({kernel} - 1) + 1 + {extra} = {extent} is "
                    f"not positive"
                )
            sizes.append(extent)
            # An output_padding of whole strides would give the convolution a window too many: it comes off the
            # padding at the end, and what is left of it lies beyond every window and holds the bias alone.
            surplus = extra // s * s
            conv_pads.append((pad, max(pad - surplus, 0)))
            covered.append(extent - max(surplus - pad, 0))
        if min(covered) < 1:
            raise InvalidProblem(f"output_padding {shown(output_padding)} leaves no output that a window covers")
        channels = weight_shape[1] * count

        def image(size: Sequence[int]) -> Ints:
            return (batch, *size, channels) if channels_last else (batch, channels, *size)

        padded = image([extent + 2 * pad for extent, pad in zip(sizes, pads, strict=True)])
        nbytes = math.prod(padded[1:]) * max(batch, 1) * ITEM_BYTES[dtype]
        if nbytes > MAX_BYTES:
            raise InvalidProblem(
                f"the output, of shape {padded} before padding is taken off, would take {nbytes} bytes, more than can "
                f"be addressed"
            )
        self.channels_last = channels_last
        self.out_channels = channels
        self.output_shape = image(sizes)
        self.conv = conv_call(
            axes,
            dtype,
            image(covered),
            weight_shape,
            strides,
            tuple(conv_pads),
            dilations,
            count,
            "zeros",
            data_format,
        )
        spatial = tuple(slice(0, extent) for extent in covered)
        self.covered = (slice(None), *spatial) if channels_last else (slice(None), slice(None), *spatial)
        self.all_covered = sizes == covered


def _conv_transpose(
    axes: int,
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: IntOrInts,
    padding: IntOrInts,
    output_padding: IntOrInts,
    groups: int,
    dilation: IntOrInts,
    data_format: str | None,
    algorithm: str | None,
    out: np.ndarray | None,
) -> np.ndarray:
    given = arguments.as_array("input", input)
    weights = arguments.as_array("weight", weight, given.dtype)
    images, batched = arguments.check_image("input", given, axes)
    call = TransposedCall(
        axes, arguments.compute_dtype(given), images.shape, weights.shape, stride, padding, output_padding, groups,
        dilation, data_format,
    )  # fmt: skip
    problem = call.conv.problem
    biases = None
    if bias is not None:
        checked = arguments.as_array("bias", bias, given.dtype)
        arguments.check_shape("bias", checked, (call.out_channels,), "one per output channel")
        biases = arguments.plain(checked)
    if out is not None:
        shape = call.output_shape if batched else call.output_shape[1:]
        arguments.check_out(out, shape, given.dtype, [given, weights, biases])
    settled = plan(problem, Direction.BACKWARD_INPUT, algorithm, arguments.is_half(given))
    result = workspace.result(problem.input_shape, problem.dtype)
    if problem.batch:
        upstream = arguments.plain(images).reshape(problem.output_shape)
        settled.execute(upstream, arguments.plain(weights).reshape(problem.weight_shape), result, Epilogue(biases))
    shown = arguments.shaped(result, call.conv.shown_shape(problem.input_shape))
    if not call.all_covered:
        whole = np.zeros(call.output_shape, problem.dtype)
        Epilogue(biases).apply(whole, call.channels_last)
        whole[call.covered] = shown
        shown = whole
    return finish(shown, batched, given.dtype, out)


def conv_transpose1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """One-dimensional transposed convolution, as torch.nn.functional.conv_transpose1d.

    Parameters
    ----------
    input : array_like
        (N, C, W), or (C, W) without a batch; NWC by `data_format`. float32, float64 or float16.
    weight : array_like
        (C, K / groups, S), of the input's dtype.
    bias : array_like, optional
        (K,).
    stride, padding, dilation : int or (int,)
        Those of the convolution that goes from the output to the input.
    output_padding : int or (int,)
        Extra extent at the end of the output; smaller than stride or dilation.
    groups : int
        Groups of channels convolved apart.
    data_format, algorithm, out
        As in `conv1d`.

    Returns
    -------
    ndarray
        (N, K, Q), each extent (input - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv1d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv_transpose1d(np.array([[[1.0, 2.0]]]), np.array([[[1.0, 1.0, 1.0]]]), stride=2)
    array([[[1., 1., 3., 2., 2.]]])
    """
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation, data_format, algorithm, out
    )


def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Two-dimensional transposed convolution, as torch.nn.functional.conv_transpose2d.

    Parameters
    ----------
    input : array_like
        (N, C, H, W), or (C, H, W) without a batch; NHWC by `data_format`. float32, float64 or float16.
    weight : array_like
        (C, K / groups, R, S), of the input's dtype.
    bias : array_like, optional
        (K,).
    stride, padding, dilation : int or (int, int)
        Those of the convolution that goes from the output to the input.
    output_padding : int or (int, int)
        Extra extent at the end of the output; smaller than stride or dilation.
    groups : int
        Groups of channels convolved apart.
    data_format, algorithm, out
        As in `conv2d`.

    Returns
    -------
    ndarray
        (N, K, P, Q), each extent (input - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv_transpose2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)))
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation, data_format, algorithm, out
    )


def conv_transpose3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
    *,
    data_format: str | None = None,
    algorithm: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Three-dimensional transposed convolution, as torch.nn.functional.conv_transpose3d.

    Parameters
    ----------
    input : array_like
        (N, C, D, H, W), or (C, D, H, W) without a batch; NDHWC by `data_format`. float32, float64 or float16.
    weight : array_like
        (C, K / groups, T, R, S), of the input's dtype.
    bias : array_like, optional
        (K,).
    stride, padding, dilation : int or (int, int, int)
        Those of the convolution that goes from the output to the input.
    output_padding : int or (int, int, int)
        Extra extent at the end of the output; smaller than stride or dilation.
    groups : int
        Groups of channels convolved apart.
    data_format, algorithm, out
        As in `conv3d`.

    Returns
    -------
    ndarray
        (N, K, Z, P, Q), each extent (input - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding.

    Raises
    ------
    TypeError, InvalidProblem, UnsupportedProblem, MemoryError
        As `conv3d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv_transpose3d(np.ones((1, 2, 2, 2, 2)), np.ones((2, 3, 3, 3, 3)), stride=2).shape
    (1, 3, 5, 5, 5)
    """
    return _conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation, data_format, algorithm, out
    )
