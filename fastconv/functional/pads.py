"""Padding and cropping of arrays for callers, and its adjoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.padding import MODES, check_reach, pad_images, unpad_gradients
from fastconv.problem import MAX_BYTES, Ints, Pads


class _Padding:
    """What is added to the last axes, and what is cropped from them afterwards."""

    def __init__(self, pad: Sequence[int], mode: str, dimensions: int) -> None:
        if mode != "constant" and mode not in MODES:
            raise InvalidProblem(f"mode must be constant, {', '.join(MODES)}, got {shown(mode)}")
        if not isinstance(pad, (list, tuple)) or len(pad) % 2 or any(isinstance(entry, (list, tuple)) for entry in pad):
            raise InvalidProblem(f"pad must be a flat sequence of (low, high) pairs, last axis first, got {shown(pad)}")
        widths = [arguments.check_int("pad", entry) for entry in pad]
        #: (low, high) of the last axes, in the order of the axes.
        self.pads: Pads = tuple(zip(widths[::2], widths[1::2], strict=True))[::-1]
        self.added: Pads = tuple((max(low, 0), max(high, 0)) for low, high in self.pads)
        self.mode = mode
        self.first_axis = dimensions - len(self.pads)
        if self.first_axis < 0:
            raise InvalidProblem(f"pad has {len(self.pads)} pairs, the array {dimensions} axes: {shown(pad)}")
        self._shown = pad

    def _grown(self, shape: Ints, pads: Pads) -> Ints:
        sizes = (size + low + high for size, (low, high) in zip(shape[self.first_axis :], pads, strict=True))
        return (*shape[: self.first_axis], *sizes)

    def padded_shape(self, shape: Ints, itemsize: int) -> Ints:
        """After adding, before cropping.

        Raises
        ------
        InvalidProblem
            When less than nothing would be left, the result could not be addressed, or the mode has less to show.
        """
        result, padded = self._grown(shape, self.pads), self._grown(shape, self.added)
        if min(result, default=0) < 0:
            raise InvalidProblem(
                f"pad {shown(self._shown)} crops more than there is: shape {shape} would become {shown(result)}"
            )
        if math.prod(padded) * itemsize > MAX_BYTES:
            raise InvalidProblem(
                f"pad {shown(self._shown)} makes shape {shape} into {shown(padded)}, before it crops: more bytes than "
                f"can be addressed"
            )
        if self.mode != "constant" and not math.prod(shape[self.first_axis :]):
            raise InvalidProblem(f"{self.mode} padding needs a position to show, got shape {shape}")
        check_reach(shape[self.first_axis :], self.added, self.mode)
        return padded

    def result_shape(self, shape: Ints) -> Ints:
        """After cropping."""
        return self._grown(shape, self.pads)

    def kept(self, shape: Ints) -> tuple[Any, Any]:
        """Which positions of an input of `shape` the result shows too, and where."""
        sources: list[Any] = []
        targets: list[Any] = []
        for size, (low, high) in zip(shape[self.first_axis :], self.pads, strict=True):
            start = max(0, -low)
            stop = max(start, min(size, size + high))
            sources.append(slice(start, stop))
            targets.append(slice(start + low, stop + low))
        return (..., *sources), (..., *targets)

    def input_shape(self, shape: Ints) -> Ints:
        """Of what was padded into `shape`."""
        found = self._grown(shape, tuple((-low, -high) for low, high in self.pads))
        if min(found, default=0) < 0:
            raise InvalidProblem(
                f"grad_output of shape {shape} is smaller than pad {shown(self._shown)} makes any input"
            )
        return found

    def cropped(self, padded: np.ndarray) -> np.ndarray:
        """View of a padded array as the result."""
        return self._inner(padded, tuple((max(-low, 0), max(-high, 0)) for low, high in self.pads))

    def inside(self, padded: np.ndarray) -> np.ndarray:
        """View of a padded array as the input."""
        return self._inner(padded, self.added)

    def _inner(self, array: np.ndarray, margins: Pads) -> np.ndarray:
        sizes = array.shape[self.first_axis :]
        slices: list[Any] = [slice(low, size - high) for size, (low, high) in zip(sizes, margins, strict=True)]
        inner: np.ndarray = array[(..., *slices)]
        return inner


def _crop_first(pad: Sequence[int], mode: str) -> tuple[list[int], list[int]] | None:
    """The crops and the rest of a circular pad that has both: it shows the other end of what the crops leave."""
    if mode != "circular" or not any(entry < 0 for entry in pad):
        return None
    return [min(entry, 0) for entry in pad], [max(entry, 0) for entry in pad]


def _padded(given: np.ndarray, pad: Sequence[int], mode: str, value: float) -> np.ndarray:
    if steps := _crop_first(pad, mode):
        return _padded(_padded(given, steps[0], "constant", 0), steps[1], mode, 0)
    padding = _Padding(pad, mode, given.ndim)
    padding.padded_shape(given.shape, given.itemsize)
    if mode == "constant":
        with np.errstate(over="ignore"):
            result = np.full(padding.result_shape(given.shape), value, given.dtype)
        sources, targets = padding.kept(given.shape)
        result[targets] = given[sources]
        return result
    padded = pad_images(given, padding.added, mode, padding.first_axis)
    cropped = padding.cropped(padded)
    # A copy of what would be a view: with nothing to add, or something to crop.
    return padded if padded is not given and cropped.shape == padded.shape else np.array(cropped, order="C")


def _unpadded(given: np.ndarray, pad: Sequence[int], mode: str) -> np.ndarray:
    if steps := _crop_first(pad, mode):
        return _unpadded(_unpadded(given, steps[1], mode), steps[0], "constant")
    padding = _Padding(pad, mode, given.ndim)
    padded = np.zeros(padding.padded_shape(padding.input_shape(given.shape), given.itemsize), given.dtype)
    padding.cropped(padded)[...] = given
    if mode == "constant":
        return padding.inside(padded)
    with np.errstate(all="ignore"):
        return unpad_gradients(padded, padding.added, mode, padding.first_axis)


def pad(input: ArrayLike, pad: Sequence[int], mode: str = "constant", value: float = 0) -> np.ndarray:
    """Extend or crop the last axes of an array, as torch.nn.functional.pad.

    Parameters
    ----------
    input : array_like
        Of any shape; float32, float64 or float16.
    pad : sequence of int
        (low, high) of the last axis, then of the one before it, and so on. Negative ones crop, after
        all others have added; but "circular" shows the other end of what the crops leave.
    mode : {"constant", "reflect", "replicate", "circular"}
        What is added: `value`, the positions beside the border in mirror order (without the border itself), the border,
        or the other end.
    value : float
        For "constant" only.

    Returns
    -------
    ndarray
        A new array of the input's dtype.

    Raises
    ------
    TypeError, InvalidProblem
        For an input that is not floating-point, and pads that are no pairs of integers, that crop more than there is,
        or that exceed what a mode can show.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.pad(np.array([[1.0, 2.0], [3.0, 4.0]]), (1, 1, 0, 1))
    array([[0., 1., 2., 0.],
           [0., 3., 4., 0.],
           [0., 0., 0., 0.]])
    >>> fastconv.pad(np.array([1.0, 2.0, 3.0]), (2, -1), mode="reflect")
    array([3., 2., 1., 2.])
    """
    given = arguments.as_array("input", input)
    _Padding(pad, mode, given.ndim)
    number = arguments.check_number("value", value)
    if mode != "constant" and number != 0:
        raise InvalidProblem(f'value belongs to mode "constant", got {shown(value)} with "{mode}"')
    return _padded(given, pad, mode, number)


def pad_backward(grad_output: ArrayLike, pad: Sequence[int], mode: str = "constant") -> np.ndarray:
    """Gradient of `pad`: every position collects the gradients of all that show it; the adjoint.

    Parameters
    ----------
    grad_output : array_like
        Of the padded shape; float32, float64 or float16.
    pad, mode
        As in `pad`.

    Returns
    -------
    ndarray
        Of the input's shape: 0 where it was cropped.

    Raises
    ------
    TypeError, InvalidProblem
        As `pad`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.pad_backward(np.array([1.0, 2.0, 3.0, 4.0]), (1, 1), mode="replicate")
    array([3., 7.])
    """
    given = arguments.as_array("grad_output", grad_output)
    _Padding(pad, mode, given.ndim)
    grad_input = _unpadded(given.astype(arguments.compute_dtype(given)), pad, mode)
    with np.errstate(over="ignore"):
        return np.array(grad_input, given.dtype.newbyteorder("="), order="C")
