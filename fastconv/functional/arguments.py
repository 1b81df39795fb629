"""The border: arrays and short forms come in, exact integers and plain arrays go on.

Everything a caller may write, and every complaint about it, is here; what follows may trust its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem, shown
from fastconv.problem import MAX_BYTES, Ints, Pads, as_int, check_largest, window_extent

#: One int for all spatial axes, or one per axis.
IntOrInts: TypeAlias = int | Sequence[int]
#: The same, "valid", "same", or exactly one (low, high) pair per axis.
Padding: TypeAlias = int | str | Sequence[int] | Sequence[Sequence[int]]

#: Every dtype that is accepted, in both byte orders, and the one that it is computed in.
_COMPUTED_IN = {
    dtype: computed_in
    for name, computed_in in (("float16", "float32"), ("float32", "float32"), ("float64", "float64"))
    for dtype in (np.dtype(name), np.dtype(name).newbyteorder())
}
_PLAIN = {np.dtype("float32"), np.dtype("float64")}


def check_int(name: str, value: object) -> int:
    """An int (of a subclass too) or NumPy integer, and nothing that only looks like one.

    Raises
    ------
    TypeError
        For bool, float, str, None.
    """
    return value if type(value) is int else as_int(name, value)


def check_number(name: str, value: object) -> float:
    """A float, or an int or NumPy number that is one; infinities and NaN too.

    Raises
    ------
    TypeError
        For bool, complex, str, None, arrays.
    InvalidProblem
        For an int beyond every float.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidProblem(f"{name} must be a number that a float can hold, got an int that is larger") from None


def check_ints(name: str, value: object, axes: int) -> Ints:
    """One int per spatial axis; a single one serves all."""
    if type(value) is int:
        return (value,) * axes
    if isinstance(value, (list, tuple)):
        if len(value) != axes or any(isinstance(entry, (list, tuple)) for entry in value):
            raise InvalidProblem(f"{name} must be an int or {axes} ints, one per spatial axis, got {shown(value)}")
        return tuple(check_int(name, entry) for entry in value)
    return (check_int(name, value),) * axes


def check_extents(name: str, value: object, axes: int, least: int = 1) -> Ints:
    """Ints of at least `least` and at most 2**62, one per axis; a single one serves all."""
    extents = check_ints(name, value, axes)
    if min(extents) < least:
        raise InvalidProblem(f"{name} must be at least {least}, got {shown(value)}")
    check_largest(name, extents)
    return extents


def check_size(name: str, value: object, dimensions: int) -> Ints:
    """A whole shape, given as a list or tuple of ints."""
    if not isinstance(value, (list, tuple)) or len(value) != dimensions:
        raise InvalidProblem(f"{name} must be a shape of {dimensions} ints, got {shown(value)}")
    shape = tuple(check_int(name, extent) for extent in value)
    check_largest(name, shape)
    return shape


def only_ints(*values: object) -> bool:
    """Whether they are ints and tuples of these, and nothing that equals one: may be remembered."""
    for value in values:  # noqa: SIM110  # a generator takes twice the time, and every call asks
        if type(value) is not int and not (type(value) is tuple and only_ints(*value)):
            return False
    return True


def check_bool(name: str, value: object) -> bool:
    """True or False, nothing else."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def check_padding(value: object, in_size: Ints, kernel: Ints, stride: Ints, dilation: Ints) -> Pads:
    """(low, high) zeros per axis from an int, ints, pairs, "valid" or "same".

    "same" keeps ceil(input / stride) outputs, with any surplus zero at the end (as Keras, ONNX SAME_UPPER).
    """
    axes = len(in_size)
    if type(value) is int:
        return ((value, value),) * axes
    if isinstance(value, str):
        if value.lower() == "valid":
            return ((0, 0),) * axes
        if value.lower() != "same":
            raise InvalidProblem(f'padding must be "valid", "same", ints or (low, high) pairs, got {shown(value)}')
        pads = []
        for size, k, s, d in zip(in_size, kernel, stride, dilation, strict=True):
            total = max((-(-size // s) - 1) * s + window_extent(k, d) - size, 0) if min(k, s, d) > 0 else 0
            pads.append((total // 2, total - total // 2))
        return tuple(pads)
    if isinstance(value, (list, tuple)) and any(isinstance(entry, (list, tuple)) for entry in value):
        if len(value) != axes or not all(isinstance(entry, (list, tuple)) and len(entry) == 2 for entry in value):
            raise InvalidProblem(
                f"padding must be exactly one (low, high) pair per spatial axis ({axes}), got {shown(value)}"
            )
        return tuple((check_int("padding", low), check_int("padding", high)) for low, high in value)
    return tuple((pad, pad) for pad in check_ints("padding", value, axes))


def as_array(name: str, value: ArrayLike, dtype: np.dtype | None = None, of: str = "input") -> np.ndarray:
    """A floating-point NumPy array of `value` in native byte order, without a copy where it is one already.

    It has the `dtype` of the argument named `of`, which came first.

    Raises
    ------
    TypeError
        For integers, bool, complex, objects, masked arrays, and a dtype other than `dtype` (byte order apart).
    """
    array = value if type(value) is np.ndarray else to_array(name, value)
    computed_in = _COMPUTED_IN.get(array.dtype)
    if computed_in is None:
        raise TypeError(f"{name} must be of dtype float32, float64 or float16, got {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if dtype is not None and array.dtype != dtype:
        raise TypeError(f"{name} must be of the {of}'s dtype {dtype.name}, got {array.dtype.name}")
    return array


def to_array(name: str, value: object) -> np.ndarray:
    """A NumPy array of any dtype, without a copy of what is one already, or of another library's CPU array.

    Raises
    ------
    TypeError
        For masked arrays, for other libraries' arrays that cannot be shared (on another device, of another kind of
        number, part of a graph of gradients), and for what is no array at all.
    InvalidProblem
        For nested lists of unequal lengths.
    """
    if type(value) is np.ndarray:
        return value
    if _masked(value):
        raise TypeError(f"{name} must not be a masked array, nor hold one; fill it first")
    if isinstance(value, (np.ndarray, list, tuple, float, np.floating)):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise InvalidProblem(f"{name} must be a regular array: {error}") from error
    if hasattr(value, "__dlpack__"):
        if getattr(value, "is_neg", bool)():  # torch's lazy minus sign, which it does not hand over
            raise TypeError(f"{name} has its minus sign pending; resolve it first (resolve_neg)")
        try:
            return np.from_dlpack(value)
        except MemoryError:
            raise
        except Exception as error:  # every library has its own
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"{name}, a {kind}, cannot be shared with NumPy: {error}") from error
    raise TypeError(f"{name} must be an array, got {type(value).__name__}")


def _masked(value: object) -> bool:
    """Whether it is a masked array, or a list with one anywhere in it, of which NumPy would drop the mask."""
    pending, lists = [value], set()
    while pending:
        entry = pending.pop()
        if isinstance(entry, np.ma.MaskedArray):
            return True
        if isinstance(entry, (list, tuple)) and id(entry) not in lists:
            lists.add(id(entry))
            pending.extend(entry)
    return False


def plain(array: np.ndarray) -> np.ndarray:
    """As a kernel reads it: C-contiguous, aligned, native, float32 or float64; a copy only where it is not."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned and array.dtype in _PLAIN:
        return array
    return np.require(array, _COMPUTED_IN[array.dtype], ["C", "A"])


def shaped(array: np.ndarray, shape: Ints) -> np.ndarray:
    """`array` in that shape: itself where it has it, for a view would not own its memory."""
    return array if array.shape == shape else array.reshape(shape)


def is_half(array: np.ndarray) -> bool:
    """Whether `array` is of float16: its products of small integers are exact, so no transform may round them."""
    return array.dtype == np.float16


def compute_dtype(array: np.ndarray) -> str:
    """Element type in which a result for `array` is computed: float16 is computed in float32."""
    return _COMPUTED_IN[array.dtype]


def check_data_format(value: object, axes: int) -> bool:
    """Whether the channel axis is last: ``data_format`` None means NCHW."""
    first, last = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}[axes]
    if value is None or value == first:
        return False
    if value == last:
        return True
    raise InvalidProblem(f'data_format must be "{first}" or "{last}", got {shown(value)}')


def check_image(name: str, array: np.ndarray, axes: int) -> tuple[np.ndarray, bool]:
    """`array` with a batch axis, and whether it had one."""
    if array.ndim == axes + 2:
        return array, True
    if array.ndim == axes + 1:
        return array[None], False
    raise InvalidProblem(
        f"{name} must have {axes + 2} dimensions (batch, channels and {axes} spatial), or {axes + 1} without "
        f"the batch, got shape {array.shape}"
    )


def check_dimensions(name: str, array: np.ndarray, axes: int) -> None:
    """Raise unless `array` is a batch of images."""
    if array.ndim != axes + 2:
        raise InvalidProblem(f"{name} must have {axes + 2} dimensions with the batch, got shape {array.shape}")


def split_image(shape: Ints, channels_last: bool) -> tuple[int, int, Ints]:
    """Batch, channels and spatial size of a batched image shape."""
    return (shape[0], shape[-1], shape[1:-1]) if channels_last else (shape[0], shape[1], shape[2:])


def _is_number(value: object) -> bool:
    """Whether it can be an extent, well or badly written: a list of such is a shape, since no image has one axis."""
    return not isinstance(value, (list, tuple, np.ma.MaskedArray)) and getattr(value, "ndim", 0) == 0


def shape_of(name: str, value: ArrayLike | Sequence[int], dtype: np.dtype) -> Ints:
    """The shape that an array of `dtype`, that of grad_output, has, or that a sequence of ints is.

    Raises
    ------
    TypeError, InvalidProblem
        For what is neither, and for extents that are negative or beyond what can be addressed.
    """
    if not isinstance(value, (tuple, list)) or not all(_is_number(extent) for extent in value):
        return as_array(name, value, dtype, "grad_output").shape
    shape = tuple(check_int(f"{name} shape", extent) for extent in value)
    if min(shape, default=0) < 0:
        raise InvalidProblem(f"{name} shape must not be negative, got {shown(shape)}")
    check_largest(f"{name} shape", shape)
    if math.prod(shape) > MAX_BYTES // 8:
        raise InvalidProblem(f"{name} of shape {shape} would take more bytes than can be addressed")
    return shape


def check_shape(name: str, array: np.ndarray, shape: Ints, why: str) -> None:
    """Raise unless `array` has exactly `shape`; `why` says where that shape comes from."""
    if array.shape != shape:
        raise InvalidProblem(f"{name} must have shape {shape} ({why}), got {array.shape}")


def check_out(out: Any, shape: Ints, dtype: np.dtype, inputs: Sequence[np.ndarray | None]) -> np.ndarray:
    """The user's result array: exact shape and dtype, writable, no element twice, apart from every input.

    Raises
    ------
    TypeError
        When it is not an array of `dtype`.
    InvalidProblem
        For the rest.
    """
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        raise TypeError(f"out must be a {dtype} array, got {getattr(out, 'dtype', type(out).__name__)}")
    if isinstance(out, np.ma.MaskedArray):
        raise TypeError("out must not be a masked array")
    if out.shape != shape:
        raise InvalidProblem(f"out must have the result's shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise InvalidProblem("out must be writable, got a read-only array")
    if _holds_an_element_twice(out):
        raise InvalidProblem(f"out must not hold an element twice, got strides {out.strides}")
    if any(array is not None and np.may_share_memory(out, array, _OVERLAP_WORK) for array in inputs):  # type: ignore[arg-type]
        raise InvalidProblem("out must not overlap an input")
    return out


#: Steps of NumPy's exact search for common elements, which has no bound of its own; beyond, arrays overlap.
_OVERLAP_WORK = 10_000


def _holds_an_element_twice(array: np.ndarray) -> bool:
    """Whether two indices may name one byte: unless each axis steps over everything that the smaller ones span."""
    if array.flags.c_contiguous or not array.size:
        return False
    span = array.itemsize
    for stride, extent in sorted((abs(stride), extent) for stride, extent in zip(array.strides, array.shape)):
        if extent > 1:
            if stride < span:
                return True
            span += stride * (extent - 1)
    return False
