"""Enlarging images: each output position sees one input position, or a weighted pair of neighbours, along each axis.

The positions never go back along an axis, so the gradient gathers runs of output positions: the adjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts
from fastconv.functional.pool_adaptive_avg import image_shape
from fastconv.functional.segments import Runs, check_result, sums_along, transposed
from fastconv.problem import MAX_INT, Ints


class _Neighbours(NamedTuple):
    """Along one axis, what each output position sees: sources, and their weights (None: 1)."""

    sources: np.ndarray
    weights: np.ndarray | None


def _source_step(size: int, out: int, scale: float | None, align_corners: bool, dtype: np.dtype) -> np.ndarray:
    """Input positions per output position, rounded as torch rounds it: one element of `dtype`."""
    if align_corners:
        numerator, denominator = size - 1, max(out - 1, 1)
    else:
        numerator, denominator = size, out
    if scale is not None and not align_corners:
        return np.array([1.0 / scale], dtype)
    step: np.ndarray = np.array([numerator], dtype) / np.array([denominator], dtype)
    return step


def _nearest(size: int, out: int, scale: float | None, dtype: np.dtype) -> list[_Neighbours]:
    seen = np.arange(out, dtype=dtype) * _source_step(size, out, scale, False, dtype)
    # torch takes this floor in single precision, of doubles too. (So does its gradient, but not of the same number:
    # where 1 / scale is rounded they may differ by a position. Ours is the adjoint of what was shown.)
    sources = np.minimum(np.floor(seen.astype(np.float32)).astype(np.int64), size - 1)
    return [_Neighbours(sources, None)]


def _linear(size: int, out: int, scale: float | None, align_corners: bool, dtype: np.dtype) -> list[_Neighbours]:
    step, positions = _source_step(size, out, scale, align_corners, dtype), np.arange(out, dtype=dtype)
    half = dtype.type(0.5)
    seen = positions * step if align_corners else np.maximum((positions + half) * step - half, 0)
    sources = np.minimum(seen.astype(np.int64), size - 1)
    later = np.clip(seen - sources, 0, 1).astype(dtype)
    return [_Neighbours(sources, 1 - later), _Neighbours(np.minimum(sources + 1, size - 1), later)]


class _Enlargement:
    """One call resolved: the sizes, and what each output position sees along each axis."""

    def __init__(
        self,
        shape: Ints,
        dtype: np.dtype,
        size: IntOrInts | None,
        scale_factor: float | Sequence[float] | None,
        mode: str,
        align_corners: bool | None,
        data_format: str | None,
    ) -> None:
        axes = len(shape) - 2
        if axes not in (1, 2, 3):
            raise InvalidProblem(f"input must have 3 to 5 dimensions with the batch, got shape {shown(shape)}")
        channels_last = arguments.check_data_format(data_format, axes)
        if mode not in ("nearest", "bilinear"):
            raise InvalidProblem(f'mode must be "nearest" or "bilinear", got {shown(mode)}')
        if mode == "bilinear" and axes != 2:
            raise InvalidProblem(f'mode "bilinear" needs an input of 4 dimensions, got shape {shape}')
        if mode == "nearest" and align_corners is not None:
            raise InvalidProblem(f'align_corners belongs to mode "bilinear", got {shown(align_corners)} with "nearest"')
        aligned = align_corners is not None and arguments.check_bool("align_corners", align_corners)
        _, channels, in_size = arguments.split_image(shape, channels_last)
        if min(channels, *in_size) < 1:
            raise InvalidProblem(f"input must have channels and spatial extents of at least 1, got shape {shape}")
        out, scales = _sizes(in_size, size, scale_factor)
        self.first_axis = 1 if channels_last else 2
        self.in_size = in_size
        self.output_shape = image_shape(shape, out, channels_last)
        check_result("size", out, self.output_shape, dtype.name)
        self.neighbours = [
            _nearest(n, o, s, dtype) if mode == "nearest" else _linear(n, o, s, aligned, dtype)
            for n, o, s in zip(in_size, out, scales, strict=True)
        ]

    def _weighted(self, values: np.ndarray, weights: np.ndarray | None, axis: int) -> np.ndarray:
        if weights is None:
            return values
        weighted: np.ndarray = values * weights.reshape(-1, *(1,) * (values.ndim - axis - 1))
        return weighted

    def enlarged(self, images: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            for axis, neighbours in enumerate(self.neighbours, start=self.first_axis):
                parts = [self._weighted(np.take(images, source, axis), w, axis) for source, w in neighbours]
                images = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return images

    def gathered(self, gradients: np.ndarray) -> np.ndarray:
        """The adjoint: each input position collects the weighted gradients of all that saw it."""
        with np.errstate(all="ignore"):
            for axis, neighbours in enumerate(self.neighbours, start=self.first_axis):
                size = self.in_size[axis - self.first_axis]
                parts = []
                for source, weights in neighbours:
                    runs = transposed(Runs(source, np.ones_like(source)), size)
                    parts.append(sums_along(self._weighted(gradients, weights, axis), runs, axis))
                gradients = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return gradients


def _sizes(
    in_size: Ints, size: IntOrInts | None, scale_factor: float | Sequence[float] | None
) -> tuple[Ints, Sequence[float | None]]:
    """Extents of the output, and the scales as far as they were given."""
    axes = len(in_size)
    if (size is None) == (scale_factor is None):
        raise InvalidProblem(
            f"exactly one of size and scale_factor must be given, got {shown(size)} and {shown(scale_factor)}"
        )
    if size is not None:
        return arguments.check_extents("size", size, axes), (None,) * axes
    scales: Sequence[Any] = scale_factor if isinstance(scale_factor, (list, tuple)) else (scale_factor,) * axes
    if len(scales) != axes:
        raise InvalidProblem(
            f"scale_factor must be a number or {axes}, one per spatial axis, got {shown(scale_factor)}"
        )
    for scale in scales:
        if not 0 < arguments.check_number("scale_factor", scale) < float("inf"):
            raise InvalidProblem(f"scale_factor must be positive and finite, got {shown(scale_factor)}")
    extents = [extent * float(scale) for extent, scale in zip(in_size, scales, strict=True)]
    if max(extents) > MAX_INT:
        raise InvalidProblem(
            f"scale_factor must give extents of at most 2**62, got {shown(scale_factor)} for input size {in_size}"
        )
    out = tuple(map(int, extents))
    if min(out) < 1:
        raise InvalidProblem(f"scale_factor {shown(scale_factor)} of input size {in_size} leaves no output: {out}")
    return out, [float(scale) for scale in scales]


def upsample(
    input: ArrayLike,
    size: IntOrInts | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Enlarge (or shrink) images to a given size or by a factor, as torch.nn.functional.upsample.

    Parameters
    ----------
    input : array_like
        (N, C, W), (N, C, H, W) or (N, C, D, H, W); float32, float64 or float16. Channels last by `data_format`.
    size : int or one per axis, optional
        Spatial extents of the output, at least 1.
    scale_factor : float or one per axis, optional
        Output over input; the extents are rounded down. Exactly one of the two must be given.
    mode : {"nearest", "bilinear"}
        Output position i shows input position floor(i / scale); or mixes the four around it (two axes only).
    align_corners : bool, optional
        "bilinear" only: the centres of the corner pixels coincide (True), or their outer corners (False, None).
    data_format : str, optional
        "NCHW" (None) or "NHWC", and alike for one and three axes.

    Returns
    -------
    ndarray
        Of the wanted size, in the input's dtype.

    Raises
    ------
    TypeError, InvalidProblem
        For an input that is not floating-point, and parameters that describe no enlargement.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> images = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> fastconv.upsample(images, scale_factor=2)[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.],
           [3., 3., 4., 4.],
           [3., 3., 4., 4.]])
    >>> fastconv.upsample(images, size=(2, 3), mode="bilinear", align_corners=True)[0, 0]
    array([[1. , 1.5, 2. ],
           [3. , 3.5, 4. ]])
    """
    given = arguments.as_array("input", input)
    images = arguments.plain(given)
    call = _Enlargement(images.shape, images.dtype, size, scale_factor, mode, align_corners, data_format)
    with np.errstate(over="ignore"):
        return call.enlarged(images).astype(given.dtype, copy=False)


def upsample_backward(
    grad_output: ArrayLike,
    input: ArrayLike | tuple[int, ...],
    size: IntOrInts | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    *,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `upsample`: every input position collects the weighted gradients of all that show it.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input : array_like or tuple of int
        The input, or its shape: the values don't matter.
    size, scale_factor, mode, align_corners, data_format
        As in `upsample`.

    Returns
    -------
    ndarray
        Of the input's shape.

    Raises
    ------
    TypeError, InvalidProblem
        As `upsample`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.upsample_backward(np.ones((1, 1, 4, 4)), (1, 1, 2, 2), scale_factor=2)
    array([[[[4., 4.],
             [4., 4.]]]])
    """
    given = arguments.as_array("grad_output", grad_output)
    shape = arguments.shape_of("input", input, given.dtype)
    gradients = arguments.plain(given)
    call = _Enlargement(shape, gradients.dtype, size, scale_factor, mode, align_corners, data_format)
    arguments.check_shape("grad_output", gradients, call.output_shape, "that of the output")
    with np.errstate(over="ignore"):
        return call.gathered(gradients).astype(given.dtype, copy=False)
