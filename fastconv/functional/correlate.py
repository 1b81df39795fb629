"""The textbook's convolution and cross-correlation of two matrices, as scipy.signal has them, integers included.

Floating-point matrices are one image and one filter of `conv2d`. So are integers as long as no sum can reach 2**53, up
to where doubles count exactly; above that, and for complex numbers, the products are added up shift by shift in the
result's own arithmetic, which for integers is modulo 2**bits, as in C.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from fastconv import settings
from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments
from fastconv.functional.conv import conv2d
from fastconv.problem import Pads

#: scipy's names for what lies outside, and NumPy's.
BOUNDARIES = {
    "fill": "constant", "pad": "constant", "wrap": "wrap", "circular": "wrap", "symm": "symmetric",
    "symmetric": "symmetric",
}  # fmt: skip
MODES = ("full", "same", "valid")

#: Below this a double counts every integer.
EXACT = 2**53


def _check(name: str, value: ArrayLike) -> np.ndarray:
    matrix = arguments.to_array(name, value)
    if matrix.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be of a numeric dtype, got {matrix.dtype}")
    if matrix.ndim != 2 or not matrix.size:
        raise InvalidProblem(f"{name} must be a matrix with at least one element, got shape {matrix.shape}")
    return matrix


def _fill(value: object, dtype: np.dtype) -> complex | float | int:
    """`fillvalue` as an element of `dtype`."""
    if not isinstance(value, (bool, int, float, complex, np.number, np.bool_)):
        raise TypeError(f"fillvalue must be a number, got {shown(value)}")
    try:
        number = complex(value)
    except OverflowError:
        raise InvalidProblem("fillvalue must be a number that a float can hold, got an int that is larger") from None
    if dtype.kind == "c":
        return number
    if number.imag:
        raise InvalidProblem(f"fillvalue must be real for {dtype} matrices, got {shown(value)}")
    if dtype.kind == "f":
        return number.real
    bounds = np.iinfo(dtype)
    if not math.isfinite(number.real) or not bounds.min <= int(value) <= bounds.max:  # type: ignore[arg-type]
        raise InvalidProblem(f"fillvalue must fit the matrices' dtype {dtype}, got {shown(value)}")
    return int(value)  # type: ignore[arg-type]


def _shifted(padded: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Valid cross-correlation in the dtype's own arithmetic: a shifted addition for each element of the kernel."""
    (R, S), (P, Q) = kernel.shape, (padded.shape[0] - kernel.shape[0] + 1, padded.shape[1] - kernel.shape[1] + 1)
    result = np.zeros((P, Q), padded.dtype)
    with np.errstate(all="ignore"):
        if R * S <= P * Q:
            for r, s in np.ndindex(R, S):
                result += padded[r : r + P, s : s + Q] * kernel[r, s]
        else:
            for p, q in np.ndindex(P, Q):
                result[p, q] = (padded[p : p + R, q : q + S] * kernel).sum(dtype=padded.dtype)
    return result


def _as_image(image: np.ndarray, kernel: np.ndarray, pads: Pads) -> np.ndarray:
    output: np.ndarray = conv2d(image[None, None], kernel[None, None], padding=pads)[0, 0]
    return output


def _correlated(image: np.ndarray, kernel: np.ndarray, pads: Pads, boundary: str, fill: complex) -> np.ndarray:
    """Cross-correlation of matrices of one dtype; `boundary` is NumPy's name."""
    dtype = image.dtype
    if boundary != "constant" or fill != 0:
        options = {"constant_values": fill} if boundary == "constant" else {}
        image = np.pad(image, pads, boundary, **options)  # type: ignore[call-overload]
        pads = ((0, 0), (0, 0))
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return _as_image(image, kernel, pads)
    if dtype.kind in "iu":
        largest = max(abs(int(image.min())), abs(int(image.max())))
        if largest * sum(abs(int(x)) for x in kernel.flat) < EXACT:
            # No transform, whatever the settings say: its rounding would show.
            with settings.use(algorithm="auto", tolerance=0.0):
                sums = _as_image(image.astype(np.float64), kernel.astype(np.float64), pads)
            # By way of int64, so that what does not fit wraps around instead of being undefined.
            return sums.astype(np.int64).astype(dtype)
    return _shifted(np.pad(image, pads), kernel)


def _both(in1: ArrayLike, in2: ArrayLike, mode: str, boundary: str, fillvalue: complex, turned: bool) -> np.ndarray:
    if mode not in MODES:
        raise InvalidProblem(f"mode must be {', '.join(MODES)}, got {shown(mode)}")
    if boundary not in BOUNDARIES:
        raise InvalidProblem(f"boundary must be {', '.join(BOUNDARIES)}, got {shown(boundary)}")
    first, second = _check("in1", in1), _check("in2", in2)
    dtype = np.result_type(first.dtype, second.dtype)
    if dtype.kind == "b":
        raise TypeError("in1 and in2 must not both be of dtype bool: convert one to the integers to count in")
    fill = _fill(fillvalue, dtype)
    swapped = mode == "valid" and any(a < b for a, b in zip(first.shape, second.shape, strict=True))
    if swapped:
        if any(a > b for a, b in zip(first.shape, second.shape, strict=True)):
            raise InvalidProblem(
                f'mode "valid" needs one matrix at least as large as the other along both axes, got shapes '
                f"{first.shape} and {second.shape}"
            )
        first, second = second, first
    image, kernel = first.astype(dtype, copy=False), second.astype(dtype, copy=False)
    kernel = kernel[::-1, ::-1] if turned else kernel.conj()
    pads = []
    for extent in kernel.shape:
        before, after = (extent - 1, extent - 1) if mode == "full" else (0, 0)
        if mode == "same":
            # Of the two middles of an even kernel the earlier is the centre, and it turns with the kernel.
            before, after = (extent - 1) // 2, extent // 2
            before, after = (after, before) if turned else (before, after)
        pads.append((before, after))
    result = _correlated(image, kernel, tuple(pads), BOUNDARIES[boundary], fill)
    return np.ascontiguousarray(result[::-1, ::-1]) if swapped and not turned else result


def correlate2d(
    in1: ArrayLike, in2: ArrayLike, mode: str = "full", boundary: str = "fill", fillvalue: complex = 0
) -> np.ndarray:
    """Cross-correlation of two matrices, as scipy.signal.correlate2d: the second slides over the first as it is.

    ``full[p, q] = sum over r, s of in1[p - R + 1 + r, q - S + 1 + s] * conj(in2[r, s])``, with what `boundary` says
    outside.

    Parameters
    ----------
    in1, in2 : array_like
        Matrices of any numeric dtypes but both bool; the result has their common one. Integers are exact, modulo
        2**bits.
    mode : {"full", "same", "valid"}
        All overlaps; an output of in1's shape, centred; or only whole overlaps (then, if in2 is the larger in both
        axes, the roles are exchanged).
    boundary : {"fill", "wrap", "symm"}
        Outside of in1: `fillvalue`, in1 again, or its mirror image. "pad", "circular" and "symmetric" mean the same.
    fillvalue : number
        For "fill".

    Returns
    -------
    ndarray
        (H + R - 1, W + S - 1), (H, W), or (|H - R| + 1, |W - S| + 1).

    Raises
    ------
    TypeError
        For what is no number, and two matrices of bool.
    InvalidProblem
        For anything but two matrices with elements, for unknown modes and boundaries, for a fillvalue that the dtype
        cannot hold, and in "valid" mode for shapes of which neither fits into the other.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> image = np.array([[200, 150, 150], [100, 50, 100], [25, 25, 10]])
    >>> fastconv.correlate2d(image, [[1, 0, -1], [2, 0, -2], [1, 0, -1]], mode="valid")
    array([[65]])
    """
    return _both(in1, in2, mode, boundary, fillvalue, turned=False)


def convolve2d(
    in1: ArrayLike, in2: ArrayLike, mode: str = "full", boundary: str = "fill", fillvalue: complex = 0
) -> np.ndarray:
    """Convolution of two matrices, as scipy.signal.convolve2d: the second is turned by 180 degrees before it slides.

    ``full[p, q] = sum over r, s of in1[p - r, q - s] * in2[r, s]``, with what `boundary` says outside.

    Parameters
    ----------
    in1, in2, mode, boundary, fillvalue
        As in `correlate2d`.

    Returns
    -------
    ndarray
        As `correlate2d`.

    Raises
    ------
    TypeError, InvalidProblem
        As `correlate2d`.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.convolve2d([[1, 2, 3]], [[1, 10]])
    array([[ 1, 12, 23, 30]])
    """
    return _both(in1, in2, mode, boundary, fillvalue, turned=True)
