"""What all pools share: arguments in, one resolved problem out, and results handed back."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from fastconv import workspace
from fastconv.algorithm import Direction, check_indices_inside
from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.conv_call import finish
from fastconv.planner import plan
from fastconv.problem import Ints, PoolProblem


class Images:
    """The caller's images: a batched array, whether it came with a batch, and its layout."""

    def __init__(self, name: str, value: ArrayLike, axes: int, data_format: str | None) -> None:
        self.axes = axes
        self.given = arguments.as_array(name, value)
        self.channels_last = arguments.check_data_format(data_format, axes)
        self.array, self.batched = arguments.check_image(name, self.given, axes)
        self.dtype = arguments.compute_dtype(self.given)

    def result(self, array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """A batched result as the caller sees it: without the batch axis that was added, in the input's dtype."""
        return finish(array, self.batched, self.given.dtype, out)

    def shown_shape(self, shape: Ints) -> Ints:
        """A batched shape as the caller sees it."""
        return shape if self.batched else shape[1:]

    def upstream(self, grad_output: ArrayLike, shape: Ints) -> np.ndarray:
        """The caller's grad_output for a batched output of `shape`: batched and plain."""
        given = arguments.as_array("grad_output", grad_output, self.given.dtype)
        arguments.check_shape("grad_output", given, self.shown_shape(shape), "that of the output")
        return arguments.plain(given if self.batched else given[None])


def input_shape(input: ArrayLike | Ints, gradients: Images) -> Ints:
    """Batched shape of an input given as an array or as its shape, beside its output's gradients."""
    shape = arguments.shape_of("input", input, gradients.given.dtype)
    if len(shape) != gradients.given.ndim:
        raise InvalidProblem(f"input must have as many dimensions as grad_output, got shape {shown(shape)}")
    return shape if gradients.batched else (1, *shape)


def _resolved(
    kind: str,
    dtype: str,
    shape: Ints,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: Padding,
    dilation: IntOrInts,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    channels_last: bool,
) -> PoolProblem:
    """See `pool_problem`."""
    batch, channels, size = arguments.split_image(shape, channels_last)
    axes = len(size)
    kernel = arguments.check_ints("kernel_size", kernel_size, axes)
    strides = kernel if stride is None else arguments.check_ints("stride", stride, axes)
    dilations = arguments.check_ints("dilation", dilation, axes)
    pads = arguments.check_padding(padding, size, kernel, strides, dilations)
    divisor = None if divisor_override is None else arguments.check_int("divisor_override", divisor_override)
    if axes == 1:
        size, kernel, strides, dilations = (1, *size), (1, *kernel), (1, *strides), (1, *dilations)
        pads = ((0, 0), *pads)
    return PoolProblem(
        kind, dtype, batch, channels, size, kernel, strides, pads, dilations,
        arguments.check_bool("ceil_mode", ceil_mode), arguments.check_bool("count_include_pad", count_include_pad),
        divisor, channels_last,
    )  # fmt: skip


_known = lru_cache(maxsize=4096)(_resolved)


def pool_problem(
    kind: str,
    dtype: str,
    shape: Ints,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: Padding,
    dilation: IntOrInts,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    channels_last: bool,
) -> PoolProblem:
    """The problem that a batched shape and a caller's short forms describe; one axis becomes two, of height 1.

    Remembered where they are plain ints: 1.0 and True would pass for 1.
    """
    ints = (
        arguments.only_ints(kernel_size, 0 if stride is None else stride, padding, dilation, divisor_override or 0)
        and type(ceil_mode) is type(count_include_pad) is bool
    )
    return (_known if ints else _resolved)(
        kind, dtype, shape, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override,
        channels_last,
    )  # fmt: skip


def shown_shape(problem: PoolProblem, axes: int, shape: Ints) -> Ints:
    """A shape of the problem's images without the height of a single axis."""
    if axes > 1:
        return shape
    height = 1 if problem.channels_last else 2
    return shape[:height] + shape[height + 1 :]


def run(
    problem: PoolProblem,
    images: np.ndarray,
    with_indices: bool,
    algorithm: str | None,
    output: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Output (written into `output` where it is given) and indices of batched images, in the problem's shape."""
    settled = plan(problem, Direction.FORWARD, algorithm)
    if output is None:
        output = workspace.result(problem.output_shape, problem.dtype)
    indices = workspace.result(problem.output_shape, np.int64) if with_indices else None
    if problem.batch:
        settled.execute(arguments.plain(images).reshape(problem.input_shape), output, indices)
    return output, indices


def run_backward(
    problem: PoolProblem,
    grad_output: np.ndarray,
    input: np.ndarray | None,
    indices: np.ndarray | None,
    algorithm: str | None,
) -> np.ndarray:
    """Gradient of batched images from plain arrays, in the problem's shape."""
    settled = plan(problem, Direction.BACKWARD_INPUT, algorithm)
    if indices is not None and not settled.checks_indices:
        check_indices_inside(indices, problem.in_size)
    grad_input = workspace.result(problem.input_shape, problem.dtype)
    if problem.batch:
        settled.execute(
            grad_output.reshape(problem.output_shape),
            None if input is None else input.reshape(problem.input_shape),
            None if indices is None else indices.reshape(problem.output_shape),
            grad_input,
        )
    return grad_input


def pool(
    images: Images, problem: PoolProblem, with_indices: bool, algorithm: str | None, out: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Output and indices of `images` as the caller sees them."""
    shape = shown_shape(problem, images.axes, problem.output_shape)
    direct = None
    if out is not None:
        arguments.check_out(out, images.shown_shape(shape), images.given.dtype, [images.given])
        if out.flags.carray and out.dtype == problem.dtype:
            direct = out.reshape(problem.output_shape)
    output, indices = run(problem, images.array, with_indices, algorithm, direct)
    where = None if indices is None else finish(arguments.shaped(indices, shape), images.batched, indices.dtype, None)
    return images.result(arguments.shaped(output, shape), out), where


def pool_backward(
    images: Images,
    problem: PoolProblem,
    grad_output: np.ndarray,
    input: np.ndarray | None,
    indices: np.ndarray | None,
    algorithm: str | None,
) -> np.ndarray:
    """Gradient as the caller sees it; the arrays are batched."""
    grad_input = run_backward(problem, grad_output, input, indices, algorithm)
    return images.result(arguments.shaped(grad_input, shown_shape(problem, images.axes, problem.input_shape)))


def take_indices(indices: object, shape: Ints, batched: bool, why: str = "that of the output") -> np.ndarray:
    """The caller's flat offsets, batched and contiguous; whether they are inside is not looked at.

    Raises
    ------
    TypeError
        When they are no int64 array.
    InvalidProblem
        For another shape than the batched `shape`.
    """
    array = arguments.to_array("indices", indices)
    if array.dtype.newbyteorder("=") != np.int64:
        raise TypeError(f"indices must be an int64 array, got {array.dtype}")
    arguments.check_shape("indices", array, shape if batched else shape[1:], why)
    return np.require(array if batched else array[None], np.int64, ["C", "A"])


def check_indices(
    indices: object, shape: Ints, batched: bool, size: Ints, why: str = "that of the output"
) -> np.ndarray:
    """The same, all of them inside planes of `size`; else `InvalidProblem`."""
    array = take_indices(indices, shape, batched, why)
    check_indices_inside(array, size)
    return array
