"""Fractional max pooling (Graham 2014): windows at random steps, so that the output has any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts
from fastconv.functional.pool_adaptive_avg import image_shape
from fastconv.functional.pool_call import Images, check_indices
from fastconv.functional.segments import scattered
from fastconv.problem import Ints


def _out_size(
    size: Ints, kernel: Ints, output_size: IntOrInts | None, output_ratio: float | Sequence[float] | None
) -> Ints:
    if (output_size is None) == (output_ratio is None):
        raise InvalidProblem(
            f"exactly one of output_size and output_ratio must be given, got {shown(output_size)} and "
            f"{shown(output_ratio)}"
        )
    if output_size is not None:
        out = arguments.check_extents("output_size", output_size, 2)
    else:
        ratios = output_ratio if isinstance(output_ratio, (list, tuple)) else (output_ratio,) * 2
        if len(ratios) != 2:
            raise InvalidProblem(
                f"output_ratio must be a number or two, one per spatial axis, got {shown(output_ratio)}"
            )
        for ratio in ratios:
            if not 0 < arguments.check_number("output_ratio", ratio) < 1:
                raise InvalidProblem(f"output_ratio must be between 0 and 1, got {shown(output_ratio)}")
        out = tuple(int(extent * ratio) for extent, ratio in zip(size, ratios, strict=True))
        if min(out) < 1:
            raise InvalidProblem(f"output_ratio {shown(output_ratio)} of input size {size} leaves no output: {out}")
    for extent, k, count in zip(size, kernel, out, strict=True):
        if count + k - 1 > extent:
            raise InvalidProblem(
                f"output_size {out} with kernel_size {kernel} needs an input of at least output + kernel - 1 = "
                f"{tuple(o + k - 1 for o, k in zip(out, kernel, strict=True))}, got {size}"
            )
    return out


def _samples(
    images: Images, channels: int, given: ArrayLike | None, generator: np.random.Generator | None
) -> np.ndarray:
    """A number in [0, 1) for each axis (columns first, as in torch) of each plane."""
    shape = (images.array.shape[0], channels, 2)
    if given is None:
        if generator is not None and not isinstance(generator, np.random.Generator):
            raise TypeError(f"generator must be a numpy.random.Generator, got {shown(generator)}")
        drawn: np.ndarray = (generator or np.random.default_rng()).random(shape, images.dtype)  # type: ignore[call-overload]
        return drawn
    samples = arguments.plain(arguments.as_array("_random_samples", given, images.given.dtype))
    arguments.check_shape("_random_samples", samples, shape, "batch, channels, 2")
    if not ((samples >= 0) & (samples < 1)).all():
        raise InvalidProblem(f"_random_samples must be in [0, 1), got {samples.min()} to {samples.max()}")
    return samples


def _starts(samples: np.ndarray, size: int, kernel: int, out: int) -> np.ndarray:
    """First position of each window (n, c, i) along one axis: floor((i + u) * step) - floor(u * step), the last flush.

    In the dtype of the samples, so that the windows are torch's for torch's samples.
    """
    starts = np.full((*samples.shape, out), size - kernel, np.int64)
    if out > 1:
        step = samples.dtype.type(size - kernel) / samples.dtype.type(out - 1)
        u = samples[..., None]
        counted = np.arange(out - 1, dtype=samples.dtype)
        starts[..., :-1] = ((counted + u) * step).astype(np.int64) - (u * step).astype(np.int64)
    return starts


def _maxima_along(values: np.ndarray, starts: np.ndarray, kernel: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest of `kernel` elements from each start along `axis`, and where the first such is."""
    positions = starts
    largest = np.take_along_axis(values, starts, axis)
    for step in range(1, kernel):
        candidate = np.take_along_axis(values, starts + step, axis)
        wins = (candidate > largest) | (np.isnan(candidate) & ~np.isnan(largest))
        largest, positions = np.where(wins, candidate, largest), np.where(wins, starts + step, positions)
    return largest, np.broadcast_to(positions, largest.shape)


class _Fractional:
    """One call resolved: the output's shape, and its maxima."""

    def __init__(
        self,
        images: Images,
        shape: Ints,
        kernel_size: IntOrInts,
        output_size: IntOrInts | None,
        output_ratio: float | Sequence[float] | None,
    ) -> None:
        self.images = images
        _, self.channels, self.size = arguments.split_image(shape, images.channels_last)
        if min(self.channels, *self.size) < 1:
            raise InvalidProblem(f"input must have channels and spatial extents of at least 1, got shape {shape}")
        self.kernel = arguments.check_extents("kernel_size", kernel_size, 2)
        self.out = _out_size(self.size, self.kernel, output_size, output_ratio)
        self.output_shape = image_shape(shape, self.out, images.channels_last)

    def maxima(self, given: ArrayLike | None, generator: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """Maxima and flat offsets, in the images' layout."""
        samples = _samples(self.images, self.channels, given, generator)
        columns = _starts(samples[..., 0], self.size[1], self.kernel[1], self.out[1])
        rows = _starts(samples[..., 1], self.size[0], self.kernel[0], self.out[0])
        x = arguments.plain(self.images.array)
        x_nchw = np.moveaxis(x, -1, 1) if self.images.channels_last else x
        by_row, column = _maxima_along(x_nchw, columns[:, :, None, :], self.kernel[1], 3)
        values, row = _maxima_along(by_row, rows[:, :, :, None], self.kernel[0], 2)
        indices = row * self.size[1] + np.take_along_axis(column, row, 2)
        if self.images.channels_last:
            values, indices = np.moveaxis(values, 1, -1), np.moveaxis(indices, 1, -1)
        return np.ascontiguousarray(values), np.ascontiguousarray(indices)


def fractional_max_pool2d(
    input: ArrayLike,
    kernel_size: IntOrInts,
    output_size: IntOrInts | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: ArrayLike | None = None,
    *,
    generator: np.random.Generator | None = None,
    data_format: str | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Maximum over windows at random steps, as torch.nn.functional.fractional_max_pool2d.

    The steps, alike in no two planes, are whole numbers around (input - kernel) / (output - 1); the last window is
    flush with the end (Graham, "Fractional max-pooling", 2014; the overlapping kind, pseudorandom).

    Parameters
    ----------
    input : array_like
        (N, C, H, W), or (C, H, W) without a batch; float32, float64 or float16. NHWC by `data_format`.
    kernel_size : int or (int, int)
        The window.
    output_size : int or (int, int), optional
        Spatial extents of the output; at most input - kernel_size + 1.
    output_ratio : float or (float, float), optional
        The same as a part of the input's, between 0 and 1. Exactly one of the two must be given.
    return_indices : bool
        Also return where each maximum was: h * W + w, int64.
    _random_samples : array_like, optional
        (N, C, 2) numbers in [0, 1), of the input's dtype (N is 1 without a batch): the same windows as torch's.
    generator : numpy.random.Generator, optional
        Draws the samples where they are not given; a seeded one repeats itself. None: new windows in every call.
    data_format : {None, "NCHW", "NHWC"}
        Layout of input and output.

    Returns
    -------
    ndarray, or (ndarray, ndarray)
        (N, C, P, Q). NaN where a window holds one; the first of equal maxima counts, in row-major order.

    Raises
    ------
    TypeError, InvalidProblem
        For an input that is not floating-point, and sizes, ratios or samples out of range.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> images, samples = np.arange(25.0).reshape(1, 1, 5, 5), np.full((1, 1, 2), 0.5)
    >>> fastconv.fractional_max_pool2d(images, 2, output_size=3, _random_samples=samples)
    array([[[[ 6.,  8.,  9.],
             [16., 18., 19.],
             [21., 23., 24.]]]])
    """
    images = Images("input", input, 2, data_format)
    wanted = arguments.check_bool("return_indices", return_indices)
    call = _Fractional(images, images.array.shape, kernel_size, output_size, output_ratio)
    values, indices = call.maxima(_random_samples, generator)
    output = images.result(values)
    return (output, indices if images.batched else indices[0]) if wanted else output


def fractional_max_pool2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    kernel_size: IntOrInts,
    output_size: IntOrInts | None = None,
    output_ratio: float | Sequence[float] | None = None,
    _random_samples: ArrayLike | None = None,
    *,
    indices: np.ndarray | None = None,
    data_format: str | None = None,
) -> np.ndarray:
    """Gradient of `fractional_max_pool2d`: each upstream gradient goes to the element that was the maximum.

    Parameters
    ----------
    grad_output : array_like
        Of the output's shape and dtype.
    input, kernel_size, output_size, output_ratio, data_format
        As in `fractional_max_pool2d`.
    _random_samples : array_like, optional
        Those of the forward pass; or
    indices : int64 ndarray, optional
        as it returned them. One of the two says which windows there were.

    Returns
    -------
    ndarray
        Of the input's shape; 0 where an element was no maximum.

    Raises
    ------
    TypeError, InvalidProblem
        As `fractional_max_pool2d`; and when neither indices nor samples are given, or indices are out of range.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> images, samples = np.arange(9.0).reshape(1, 1, 3, 3), np.zeros((1, 1, 2))
    >>> fastconv.fractional_max_pool2d_backward(np.ones((1, 1, 1, 2)), images, 2, (1, 2), _random_samples=samples)
    array([[[[0., 0., 0.],
             [0., 0., 0.],
             [0., 1., 1.]]]])
    """
    images = Images("input", input, 2, data_format)
    call = _Fractional(images, images.array.shape, kernel_size, output_size, output_ratio)
    upstream = images.upstream(grad_output, call.output_shape)
    if indices is not None:
        where = check_indices(indices, call.output_shape, images.batched, call.size)
    elif _random_samples is not None:
        where = call.maxima(_random_samples, None)[1]
    else:
        raise InvalidProblem("indices or _random_samples must be given: the windows were random")
    return images.result(scattered(upstream, where, images.array.shape, images.channels_last))
