"""What is to be computed: a frozen, hashable, canonical description of one convolution or pooling.

A problem is built once, at the border (functional.py), and is valid by construction: whoever holds one
need not check it again. It knows its shapes, its work and its bytes, and prints itself as a short text
that tests, benchmarks, errors and `explain` share and that `parse_problem` (problem_text.py) reads back.

The dictionary of names
-----------------------
n  batch           c  input channel       k  output channel     g  group
h  input row       w  input column        d  input plane (three axes only)
p  output row      q  output column       z  output plane
r  kernel row      s  kernel column       t  kernel plane
Array names carry their axes: ``input_nchw``, ``weight_kcrs``, ``output_nkpq``, ``columns_crs_pq``.
A MAC is one multiply-accumulate of the direct method; FLOPs are two MACs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TypeAlias

import numpy as np

from fastconv.errors import InvalidProblem, shown

Ints: TypeAlias = tuple[int, ...]
Pads: TypeAlias = tuple[tuple[int, int], ...]

ITEM_BYTES = {"float32": 4, "float64": 8}

#: No array of a problem may be larger: the bound keeps every 64-bit offset in the kernels exact.
MAX_BYTES = 2**60


def window_extent(kernel: int, dilation: int) -> int:
    """Input positions spanned by one window along an axis: dilation * (kernel - 1) + 1."""
    return dilation * (kernel - 1) + 1


def output_extent(
    size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int, ceil_mode: bool = False
) -> int:
    """Number of windows along one axis; 0 or less when none fits.

    With `ceil_mode` a last, incomplete window counts too, as long as it starts inside the input or the
    padding before it.
    """
    room = size + pads[0] + pads[1] - window_extent(kernel, dilation)
    if not ceil_mode:
        return room // stride + 1
    windows = (room + stride - 1) // stride + 1
    return windows - 1 if (windows - 1) * stride >= size + pads[0] else windows


#: Larger divisors have no exact float64.
MAX_DIVISOR = 2**53

#: Larger parameters would overflow the kernels' 64-bit arithmetic; a stride may reach it, with one output.
MAX_INT = 2**62


def as_int(name: str, value: object) -> int:
    """An int from an int, one of its subclasses or a NumPy integer; bool, timedelta64, float, text and None are none.

    Raises
    ------
    TypeError
        For the rest.
    """
    if isinstance(value, (bool, np.timedelta64)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {shown(value)}")
    return int(value)


def check_largest(name: str, numbers: Ints) -> None:
    """Raise unless all of them, their signs aside, are at most MAX_INT."""
    for number in numbers:
        if abs(number) > MAX_INT:
            raise InvalidProblem(f"{name} must be at most 2**62, got about 2**{number.bit_length()}")


def _int(name: str, value: object) -> int:
    """An int of at most MAX_INT."""
    number = as_int(name, value)
    if abs(number) > MAX_INT:
        check_largest(name, (number,))
    return number


def _ints(name: str, values: object) -> Ints:
    if not isinstance(values, (tuple, list)):
        raise TypeError(f"{name} must hold one int per spatial axis, got {shown(values)}")
    return tuple(_int(name, value) for value in values)


def _pads(values: object) -> Pads:
    if not isinstance(values, (tuple, list)):
        raise TypeError(f"pads must hold one (low, high) pair per spatial axis, got {shown(values)}")
    pairs = [_ints("padding", pair) for pair in values]
    if any(len(pair) != 2 for pair in pairs):
        raise InvalidProblem(f"pads must hold one (low, high) pair per spatial axis, got {shown(values)}")
    return tuple((low, high) for low, high in pairs)


def _bool(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def _canonicalise(problem: ConvProblem | PoolProblem, ints: tuple[str, ...], flags: tuple[str, ...]) -> None:
    """Make equal problems equal values: plain ints, tuples and bools, whatever they were given as."""
    canonical: dict[str, object] = {name: _int(name, getattr(problem, name)) for name in ints}
    for name in ("in_size", "kernel", "stride", "dilation"):
        canonical[name] = _ints(name, getattr(problem, name))
    canonical["pads"] = _pads(problem.pads)
    for name in flags:
        canonical[name] = _bool(name, getattr(problem, name))
    for name, value in canonical.items():
        object.__setattr__(problem, name, value)


def _check_at_least(name: str, values: Ints, least: int) -> None:
    if min(values) < least:
        smallest = values[0] if len(set(values)) == 1 else values
        raise InvalidProblem(f"{name} must be at least {least}, got {smallest}")


def _check_axes(in_size: Ints, kernel: Ints, stride: Ints, pads: Pads, dilation: Ints) -> None:
    axes = len(in_size)
    if axes not in (2, 3):
        raise InvalidProblem(f"a problem has 2 or 3 spatial axes, got input size {shown(in_size)}")
    for name, values in (("kernel", kernel), ("stride", stride), ("pads", pads), ("dilation", dilation)):
        if len(values) != axes:
            raise InvalidProblem(f"{name} must have one entry for each of the {axes} spatial axes, got {shown(values)}")
    _check_at_least("input size", in_size, 1)
    _check_at_least("kernel size", kernel, 1)
    _check_at_least("stride", stride, 1)
    _check_at_least("dilation", dilation, 1)
    _check_at_least("padding", tuple(pad for pair in pads for pad in pair), 0)


def _output_size(
    in_size: Ints, kernel: Ints, stride: Ints, pads: Pads, dilation: Ints, ceil_mode: bool = False
) -> Ints:
    """Output extents of all axes; `InvalidProblem` shows the formula with its numbers where none fits."""
    sizes = []
    for axis, (size, k, s, (low, high), d) in enumerate(zip(in_size, kernel, stride, pads, dilation, strict=True)):
        extent = output_extent(size, k, s, (low, high), d, ceil_mode)
        if extent < 1:
            raise InvalidProblem(
                f"kernel size {k} with dilation {d} spans {window_extent(k, d)} positions, more than the padded "
                f"input has on spatial axis {axis}: output size = floor(({size} + {low} + {high} - {d} * ({k} - 1) "
                f"- 1) / {s}) + 1 = {extent}"
            )
        sizes.append(extent)
    return tuple(sizes)


def _check_bytes(name: str, shape: Ints, dtype: str) -> int:
    nbytes = math.prod(shape) * ITEM_BYTES[dtype]
    if nbytes > MAX_BYTES:
        raise InvalidProblem(f"the {name} of shape {shape} would take {nbytes} bytes, more than can be addressed")
    return nbytes


def _check_common(dtype: str, batch: int) -> None:
    if dtype not in ITEM_BYTES:
        raise InvalidProblem(f"dtype must be one of {', '.join(ITEM_BYTES)}, got {shown(dtype)}")
    if batch < 0:
        raise InvalidProblem(f"batch must be at least 0, got {batch}")


class _Value:
    """What problems derive from their fields, computed once: every call looks its plan up by the problem."""

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, entry.name) for entry in fields(self) if entry.compare))  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return self._hash

    def __getstate__(self) -> dict[str, object]:
        """The fields alone: hashes of texts differ between processes."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class ConvProblem(_Value):
    """One convolution (cross-correlation, as in all of deep learning), in each of its three directions.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        Element type of all arrays.
    batch : int
        Number of images n; 0 is legal.
    in_channels, out_channels : int
        Channels c of the input and k of the output, over all groups.
    in_size, kernel, stride, dilation : tuple of int
        One entry for each of the 2 or 3 spatial axes; (rows, columns) with two.
    pads : tuple of (int, int)
        Zeros before and after the input, per axis.
    groups : int
        Independent groups g; both channel counts are multiples of it.
    channels_last : bool
        Images are NHWC instead of NCHW; the weight is (k, c / g, r, s) in both.

    Raises
    ------
    TypeError
        When an argument is not of its kind: a float or bool for an int, an int for a tuple.
    InvalidProblem
        When nobody could compute it.

    Examples
    --------
    >>> import fastconv
    >>> problem = fastconv.ConvProblem("float32", 1, 3, (32, 32), 10, (5, 5), pads=((2, 2), (2, 2)))
    >>> problem.output_shape
    (1, 10, 32, 32)
    >>> problem.macs
    768000
    """

    dtype: str
    batch: int
    in_channels: int
    in_size: Ints
    out_channels: int
    kernel: Ints
    stride: Ints = (1, 1)
    pads: Pads = ((0, 0), (0, 0))
    dilation: Ints = (1, 1)
    groups: int = 1
    channels_last: bool = False
    out_size: Ints = field(init=False, repr=False, compare=False)

    __hash__ = _Value.__hash__

    def __post_init__(self) -> None:
        _canonicalise(self, ("batch", "in_channels", "out_channels", "groups"), ("channels_last",))
        _check_common(self.dtype, self.batch)
        _check_axes(self.in_size, self.kernel, self.stride, self.pads, self.dilation)
        _check_at_least("groups", (self.groups,), 1)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            _check_at_least(name, (channels,), 1)
            if channels % self.groups:
                raise InvalidProblem(f"{name} must be a multiple of groups: {channels} is not one of {self.groups}")
        size = _output_size(self.in_size, self.kernel, self.stride, self.pads, self.dilation)
        object.__setattr__(self, "out_size", size)
        padded = tuple(n + low + high for n, (low, high) in zip(self.in_size, self.pads, strict=True))
        _check_bytes("padded input", (max(self.batch, 1), self.in_channels, *padded), self.dtype)
        _check_bytes("weight", self.weight_shape, self.dtype)
        _check_bytes("output", (max(self.batch, 1), self.out_channels, *size), self.dtype)

    @cached_property
    def axes(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.in_size)

    @property
    def group_in_channels(self) -> int:
        """Input channels that one output channel sees."""
        return self.in_channels // self.groups

    @property
    def group_out_channels(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @cached_property
    def input_shape(self) -> Ints:
        """Shape of the input and its gradient, in the problem's layout."""
        return _image_shape(self.batch, self.in_channels, self.in_size, self.channels_last)

    @cached_property
    def weight_shape(self) -> Ints:
        """(out_channels, in_channels / groups, *kernel)."""
        return (self.out_channels, self.group_in_channels, *self.kernel)

    @cached_property
    def output_shape(self) -> Ints:
        """Shape of the output and its gradient, in the problem's layout."""
        return _image_shape(self.batch, self.out_channels, self.out_size, self.channels_last)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the direct method, the same in all three directions; padding counts."""
        reduction = self.group_in_channels * math.prod(self.kernel)
        return self.batch * self.out_channels * math.prod(self.out_size) * reduction

    @cached_property
    def bytes(self) -> int:
        """Bytes of input, weight and output together: the least that must move."""
        elements = sum(math.prod(shape) for shape in (self.input_shape, self.weight_shape, self.output_shape))
        return elements * ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        from fastconv.problem_text import format_problem

        return format_problem(self)


@dataclass(frozen=True)
class PoolProblem(_Value):
    """One maximum or average pooling, forward and backward.

    Parameters
    ----------
    kind : {"max", "avg"}
    dtype, batch, in_size, kernel, stride, pads, dilation, channels_last
        As in `ConvProblem`. Padding is -inf for a maximum and at most half the kernel. Averages have no dilation.
    channels : int
        Channels of input and output.
    ceil_mode : bool
        Count a last incomplete window (see `output_extent`).
    count_include_pad : bool
        Average: divide by the window clipped to the padded extent, not to the input.
    divisor_override : int or None
        Average: divide by this instead.

    Raises
    ------
    TypeError
        When an argument is not of its kind: a float or bool for an int, an int for a tuple.
    InvalidProblem
        When nobody could compute it.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.PoolProblem("max", "float32", 1, 64, (112, 112), (3, 3), (2, 2), ((1, 1), (1, 1))).output_shape
    (1, 64, 56, 56)
    """

    kind: str
    dtype: str
    batch: int
    channels: int
    in_size: Ints
    kernel: Ints
    stride: Ints
    pads: Pads = ((0, 0), (0, 0))
    dilation: Ints = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None
    channels_last: bool = False
    out_size: Ints = field(init=False, repr=False, compare=False)

    __hash__ = _Value.__hash__

    def __post_init__(self) -> None:
        if self.kind not in ("max", "avg"):
            raise InvalidProblem(f'kind must be "max" or "avg", got {shown(self.kind)}')
        _canonicalise(self, ("batch", "channels"), ("ceil_mode", "count_include_pad", "channels_last"))
        if self.divisor_override is not None:
            object.__setattr__(self, "divisor_override", _int("divisor_override", self.divisor_override))
            if abs(self.divisor_override) > MAX_DIVISOR:
                raise InvalidProblem(f"divisor_override must be at most 2**53, got {self.divisor_override}")
        _check_common(self.dtype, self.batch)
        _check_axes(self.in_size, self.kernel, self.stride, self.pads, self.dilation)
        _check_at_least("channels", (self.channels,), 1)
        for pair, kernel in zip(self.pads, self.kernel, strict=True):
            if max(pair) > kernel // 2:
                raise InvalidProblem(
                    f"pooling padding must be at most half the kernel: {max(pair)} > {kernel} // 2 = {kernel // 2}"
                )
        if self.kind == "max" and (not self.count_include_pad or self.divisor_override is not None):
            raise InvalidProblem("count_include_pad and divisor_override belong to average pooling")
        if self.kind == "avg" and max(self.dilation) > 1:
            raise InvalidProblem(f"average pooling has no dilation, got {self.dilation}")
        if self.divisor_override == 0:
            raise InvalidProblem("divisor_override must not be 0")
        size = _output_size(self.in_size, self.kernel, self.stride, self.pads, self.dilation, self.ceil_mode)
        object.__setattr__(self, "out_size", size)
        padded = tuple(n + low + high for n, (low, high) in zip(self.in_size, self.pads, strict=True))
        _check_bytes("padded input", (max(self.batch, 1), self.channels, *padded), self.dtype)
        _check_bytes("output", (max(self.batch, 1), self.channels, *size), self.dtype)

    @cached_property
    def axes(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.in_size)

    @cached_property
    def input_shape(self) -> Ints:
        """Shape of the input and its gradient, in the problem's layout."""
        return _image_shape(self.batch, self.channels, self.in_size, self.channels_last)

    @cached_property
    def output_shape(self) -> Ints:
        """Shape of the output, its gradient and the indices, in the problem's layout."""
        return _image_shape(self.batch, self.channels, self.out_size, self.channels_last)

    @cached_property
    def macs(self) -> int:
        """Elements visited: comparisons of a maximum, additions of an average."""
        return self.batch * self.channels * math.prod(self.out_size) * math.prod(self.kernel)

    @cached_property
    def bytes(self) -> int:
        """Bytes of input and output together: the least that must move."""
        return (math.prod(self.input_shape) + math.prod(self.output_shape)) * ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        from fastconv.problem_text import format_problem

        return format_problem(self)


Problem: TypeAlias = ConvProblem | PoolProblem


def _image_shape(batch: int, channels: int, size: Ints, channels_last: bool) -> Ints:
    return (batch, *size, channels) if channels_last else (batch, channels, *size)
