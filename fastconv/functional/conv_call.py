"""What forward and backward convolution share: arguments in, one resolved problem out, and results handed back."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv.errors import InvalidProblem
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.padding import check_mode, check_reach, pad_images, unpad_gradients
from fastconv.problem import ConvProblem, Ints, Pads, check_largest

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
    """The problem that batched shapes and a caller's short forms describe; one axis becomes two, of height 1."""
    axes = len(weight_shape) - 2
    batch, in_channels, in_size = arguments.split_image(input_shape, channels_last)
    out_channels, group_in_channels, *kernel = weight_shape
    strides = arguments.check_ints("stride", stride, axes)
    dilations = arguments.check_ints("dilation", dilation, axes)
    count = arguments.check_int("groups", groups)
    check_largest("groups", (count,))
    pads = arguments.check_padding(padding, in_size, tuple(kernel), strides, dilations)
    if count > 0 and in_channels != group_in_channels * count:
        raise InvalidProblem(
            f"input of shape {input_shape} has {in_channels} channels, but weight of shape {weight_shape} with "
            f"groups={count} takes {group_in_channels} * {count} = {group_in_channels * count}"
        )
    size, window = in_size, tuple(kernel)
    if axes == 1:
        size, window, strides, dilations, pads = (
            (1, *size),
            (1, *window),
            (1, *strides),
            (1, *dilations),
            ((0, 0), *pads),
        )
    return _problem(
        dtype, batch, in_channels, size, out_channels, window, strides, pads, dilations, count, channels_last
    )


def _padded_shape(shape: Ints, pads: Pads, first_axis: int) -> Ints:
    padded = list(shape)
    for axis, (low, high) in enumerate(pads, start=first_axis):
        padded[axis] += low + high
    return tuple(padded)


class ConvCall:
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
        self.channels_last = channels_last = arguments.check_data_format(data_format, axes)
        self.weight_shape = weight_shape
        self.mode = check_mode(padding_mode)
        problem = conv_problem(dtype, input_shape, weight_shape, stride, padding, dilation, groups, channels_last)
        self.axes = axes
        self.first_axis = 1 if channels_last else 2
        self.pads = problem.pads[-axes:]
        if self.mode != "zeros":
            check_reach(problem.in_size[-axes:], self.pads, self.mode)
            shape = _padded_shape(input_shape, self.pads, self.first_axis)
            problem = conv_problem(dtype, shape, weight_shape, stride, 0, dilation, groups, channels_last)
        self.problem = problem
        #: The output as the caller sees it, batched.
        self.output_shape = self.shown_shape(problem.output_shape)

    def shown_shape(self, shape: Ints) -> Ints:
        """A shape of the problem's images as the caller sees it: without the height of a single axis."""
        return shape if self.axes > 1 else shape[: self.first_axis] + shape[self.first_axis + 1 :]

    def taken(self, images: np.ndarray) -> np.ndarray:
        """The caller's batched input as the problem takes it: padded by the mode, plain, of the problem's shape."""
        if self.mode != "zeros":
            images = pad_images(images, self.pads, self.mode, self.first_axis)
        return arguments.plain(images).reshape(self.problem.input_shape)

    def returned(self, grad_input: np.ndarray) -> np.ndarray:
        """The gradient of the caller's batched input from that of the problem's."""
        shown = arguments.shaped(grad_input, self.shown_shape(grad_input.shape))
        return shown if self.mode == "zeros" else unpad_gradients(shown, self.pads, self.mode, self.first_axis)


_known_call = lru_cache(maxsize=4096)(ConvCall)


def conv_call(
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
) -> ConvCall:
    """The `ConvCall` of these arguments, remembered where they are plain ints: 1.0 and True would pass for 1."""
    ints = arguments.only_ints(stride, padding, dilation, groups)
    texts = type(padding_mode) is str and (data_format is None or type(data_format) is str)
    make = _known_call if ints and texts else ConvCall
    return make(axes, dtype, input_shape, weight_shape, stride, padding, dilation, groups, padding_mode, data_format)


def finish(result: np.ndarray, batched: bool, dtype: np.dtype, out: np.ndarray | None) -> np.ndarray:
    """Drop the batch axis that was added, return to the caller's dtype, or into `out`."""
    shown = result if batched else result[0]
    if out is None and shown.dtype == dtype:
        return shown
    if out is None:
        with np.errstate(over="ignore"):
            return shown.astype(dtype, copy=False)
    if not np.may_share_memory(shown, out):
        with np.errstate(over="ignore"):
            np.asarray(out)[...] = shown  # a subclass may have its own idea of assignment
    return out


def channel_sums(images: np.ndarray, channels_last: bool) -> np.ndarray:
    """Sum over everything but the channels; sums of 400,000 elements and more are kept in float64."""
    others = tuple(range(images.ndim - 1)) if channels_last else (0, *range(2, images.ndim))
    with np.errstate(all="ignore"):
        total: np.ndarray = images.sum(others, dtype=np.float64)
        return total.astype(images.dtype)
