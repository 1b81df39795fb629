"""The questions a caller can ask before computing: output sizes, plans, explanations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from fastconv import planner
from fastconv.algorithm import Direction
from fastconv.errors import InvalidProblem, shown
from fastconv.explanation import Explanation, explain_problem
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.conv_call import conv_problem
from fastconv.planner import Plan
from fastconv.problem import ConvProblem, PoolProblem, Problem, check_largest, output_extent, window_extent
from fastconv.problem_text import parse_problem


def output_size(
    input_size: IntOrInts,
    kernel_size: IntOrInts,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    *,
    exact: bool = False,
) -> int | tuple[int, ...]:
    """Windows along each spatial axis: floor((input + padding - dilation * (kernel - 1) - 1) / stride) + 1.

    Parameters
    ----------
    input_size : int or sequence of int
        Spatial extents; an int asks about one axis and gets an int.
    kernel_size, stride, padding, dilation, ceil_mode
        As in `conv2d` and `max_pool2d`.
    exact : bool
        Raise where the stride does not divide: the textbook's "does not fit".

    Returns
    -------
    int or tuple of int

    Raises
    ------
    TypeError, InvalidProblem
        For parameters that describe no window, and for a stride that does not fit when `exact`.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.output_size(32, 5, padding=2)
    32
    >>> fastconv.output_size((7, 7), 3, stride=2)
    (3, 3)
    >>> fastconv.output_size(7, 3, stride=3, exact=True)
    Traceback (most recent call last):
    ...
    fastconv.errors.InvalidProblem: stride 3 does not fit: (7 + 0 + 0 - 1 * (3 - 1) - 1) / 3 + 1 = 2.33
    """
    axes = len(input_size) if isinstance(input_size, (list, tuple)) else 1
    sizes = arguments.check_ints("input_size", input_size, axes)
    kernel = arguments.check_ints("kernel_size", kernel_size, axes)
    strides = arguments.check_ints("stride", stride, axes)
    dilations = arguments.check_ints("dilation", dilation, axes)
    pads = arguments.check_padding(padding, sizes, kernel, strides, dilations)
    ceil, fits = arguments.check_bool("ceil_mode", ceil_mode), arguments.check_bool("exact", exact)
    for name, values, least in (
        ("input_size", sizes, 1), ("kernel_size", kernel, 1), ("stride", strides, 1), ("dilation", dilations, 1),
        ("padding", tuple(pad for pair in pads for pad in pair), 0),
    ):  # fmt: skip
        check_largest(name, values)
        if min(values, default=least) < least:
            raise InvalidProblem(f"{name} must be at least {least}, got {shown(values)}")
    extents = []
    for size, k, s, (low, high), d in zip(sizes, kernel, strides, pads, dilations, strict=True):
        extent = output_extent(size, k, s, (low, high), d, ceil)
        room = size + low + high - window_extent(k, d)
        formula = f"({size} + {low} + {high} - {d} * ({k} - 1) - 1) / {s} + 1 = {room / s + 1:.3g}"
        if extent < 1:
            raise InvalidProblem(f"kernel size {k} does not fit: {formula}")
        if fits and room % s:
            raise InvalidProblem(f"stride {s} does not fit: {formula}")
        extents.append(extent)
    return tuple(extents) if isinstance(input_size, (list, tuple)) else extents[0]


def _direction(value: str | Direction) -> Direction:
    try:
        return Direction(value)
    except ValueError:
        names = ", ".join(direction.value for direction in Direction)
        raise ValueError(f"direction must be one of {names}, got {shown(value)}") from None


def _dtype(value: object) -> str:
    try:
        name = "" if value is None else np.dtype(value).name  # type: ignore[call-overload]
    except TypeError:  # NumPy's, which does not say of what
        name = ""
    if name not in ("float32", "float64"):
        raise TypeError(f"dtype must be float32 or float64, got {shown(value)}")
    return str(name)


def _question(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
    dtype: np.typing.DTypeLike,
    direction: str,
) -> tuple[ConvProblem, Direction]:
    """What a plan is asked for."""
    shapes = arguments.check_size("input_shape", input_shape, 4), arguments.check_size("weight_shape", weight_shape, 4)
    return conv_problem(_dtype(dtype), *shapes, stride, padding, dilation, groups), _direction(direction)


#: The same of plain ints and texts, remembered: a plan of a known shape takes 2 us instead of 12.
_known_question = lru_cache(maxsize=4096)(_question)


def plan_conv2d(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    dtype: np.typing.DTypeLike = "float32",
    direction: str = "forward",
) -> Plan:
    """Settle once which algorithm computes a convolution, and run it many times.

    Parameters
    ----------
    input_shape, weight_shape : sequence of int
        (N, C, H, W) and (K, C / groups, R, S).
    stride, padding, dilation, groups
        As in `conv2d`.
    dtype : float32 or float64
    direction : {"forward", "backward_input", "backward_weight"}

    Returns
    -------
    Plan
        With algorithm, cost (estimated seconds), workspace_bytes, error, and run(...).

    Raises
    ------
    TypeError, ValueError
        As `conv2d`.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.plan_conv2d((1, 3, 32, 32), (10, 3, 5, 5), padding=2).problem.output_shape
    (1, 10, 32, 32)
    """
    ints = arguments.only_ints(input_shape, weight_shape, stride, padding, dilation, groups)
    texts = type(dtype) is str and type(direction) is str
    ask: Callable[..., tuple[ConvProblem, Direction]] = _known_question if ints and texts else _question
    return planner.plan(*ask(input_shape, weight_shape, stride, padding, dilation, groups, dtype, direction))


_EXPLAIN_DEFAULTS = {"weight_shape": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "dtype": "float32"}


def explain(
    problem: str | Problem | Sequence[int],
    weight_shape: Sequence[int] | None = None,
    *,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    dtype: np.typing.DTypeLike = "float32",
    direction: str = "forward",
) -> Explanation:
    """Which algorithm a call would take, what the others would cost, and why some cannot.

    Parameters
    ----------
    problem : str, ConvProblem, PoolProblem, or sequence of int
        A problem, its text form, or the input shape of a convolution whose `weight_shape` and parameters follow.
    weight_shape, stride, padding, dilation, groups, dtype
        As in `plan_conv2d`, with an input shape only: a problem has its own.
    direction : {"forward", "backward_input", "backward_weight"}

    Returns
    -------
    Explanation
        Prints itself as a table: every algorithm, estimated time, workspace, expected error, or the reason why not.

    Raises
    ------
    TypeError, ValueError
        As `conv2d` and `parse_problem`.

    Examples
    --------
    >>> import fastconv
    >>> table = fastconv.explain("f32_n1c3h8w8_k4r3s3")
    >>> [candidate.algorithm.name for candidate in table.candidates][-1]
    'naive'
    """
    way = _direction(direction)
    if isinstance(problem, (str, ConvProblem, PoolProblem)):
        parameters = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "dtype": dtype}
        for name, value in {"weight_shape": weight_shape, **parameters}.items():
            default = _EXPLAIN_DEFAULTS[name]
            if type(value) is not type(default) or value != default:
                raise TypeError(
                    f"{name} belongs to an input shape; a problem or its text has its own, got {shown(value)}"
                )
        return explain_problem(parse_problem(problem) if isinstance(problem, str) else problem, way)
    if weight_shape is None:
        raise TypeError("explain needs a problem, its text, or an input shape and a weight_shape")
    shapes = arguments.check_size("input_shape", problem, 4), arguments.check_size("weight_shape", weight_shape, 4)
    return explain_problem(conv_problem(_dtype(dtype), *shapes, stride, padding, dilation, groups), way)
