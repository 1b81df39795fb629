"""Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem, shown
from fastconv.functional import arguments


def _channel_sums(values: np.ndarray, before: int, after: int) -> np.ndarray:
    """Sum over the channels c - before ... c + after (axis 1), zero outside, by one shifted addition each."""
    channels = values.shape[1]
    sums = np.zeros_like(values)
    for shift in range(-min(before, channels - 1), min(after, channels - 1) + 1):
        target = slice(max(0, -shift), channels - max(0, shift))
        source = slice(max(0, shift), channels - max(0, -shift))
        sums[:, target] += values[:, source]
    return sums


class _Window(NamedTuple):
    """Channels that count before and after one, and the factors: all of a call that is no array."""

    before: int
    after: int
    scaled_alpha: float
    beta: float
    k: float

    def scale(self, x: np.ndarray) -> np.ndarray:
        scale: np.ndarray = self.k + self.scaled_alpha * _channel_sums(x * x, self.before, self.after)
        return scale


def _check(input: ArrayLike, size: int, alpha: float, beta: float, k: float) -> tuple[np.ndarray, np.ndarray, _Window]:
    given = arguments.as_array("input", input)
    if given.ndim < 3:
        raise InvalidProblem(f"input must have at least 3 dimensions (batch, channels, ...), got shape {given.shape}")
    if not given.shape[1]:
        raise InvalidProblem(f"input must have at least 1 channel, got shape {given.shape}")
    (window,) = arguments.check_extents("size", arguments.check_int("size", size), 1)
    factors = []
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        factors.append(arguments.check_number(name, value))
        if not math.isfinite(factors[-1]):
            raise InvalidProblem(f"{name} must be finite, got {shown(value)}")
    return given, arguments.plain(given), _Window(window // 2, (window - 1) // 2, factors[0] / window, *factors[1:])


def local_response_norm(
    input: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> np.ndarray:
    """Divide each element by a power of the mean square over neighbouring channels, as torch does.

    ``output = input / (k + alpha / size * sum of input**2 over the window of channels) ** beta``; the window holds
    size // 2 channels before and (size - 1) // 2 after, zero outside. (The paper's alpha is ours / size.)

    Parameters
    ----------
    input : array_like
        (N, C, ...), float32, float64 or float16.
    size : int
        Channels in the window; at least 1.
    alpha, beta, k : float
        Scale, exponent and offset; finite.

    Returns
    -------
    ndarray
        Of the input's shape and dtype.

    Raises
    ------
    TypeError, InvalidProblem
        For an input that is not floating-point or has less than 3 dimensions, a size below 1, and factors that are
        no finite numbers.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.local_response_norm(np.full((1, 1, 1), 2.0), size=1, alpha=0.75, beta=0.5)
    array([[[1.]]])
    """
    given, x, window = _check(input, size, alpha, beta, k)
    with np.errstate(all="ignore"):
        return (x * window.scale(x) ** -window.beta).astype(given.dtype, copy=False)


def local_response_norm_backward(
    grad_output: ArrayLike, input: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> np.ndarray:
    """Gradient of `local_response_norm` with respect to its input.

    With scale as above: ``grad_input = grad_output * scale**-beta - 2 alpha beta / size * input * (sum of grad_output *
    input * scale**(-beta - 1) over the channels whose window holds this one)``.

    Parameters
    ----------
    grad_output : array_like
        Of the input's shape and dtype.
    input, size, alpha, beta, k
        As in `local_response_norm`.

    Returns
    -------
    ndarray
        Of the input's shape and dtype.

    Raises
    ------
    TypeError, InvalidProblem
        As `local_response_norm`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.local_response_norm_backward(np.ones((1, 1, 1)), np.zeros((1, 1, 1)), size=1)
    array([[[1.]]])
    """
    given, x, window = _check(input, size, alpha, beta, k)
    upstream = arguments.as_array("grad_output", grad_output, given.dtype)
    arguments.check_shape("grad_output", upstream, given.shape, "that of the input")
    dy = arguments.plain(upstream)
    with np.errstate(all="ignore"):
        scale, slope = window.scale(x), 2 * window.scaled_alpha * window.beta
        # The adjoint of a window (before, after) is the window (after, before).
        collected = _channel_sums(dy * x * scale ** (-window.beta - 1), window.after, window.before)
        grad_input: np.ndarray = dy * scale**-window.beta - slope * x * collected
    return grad_input.astype(given.dtype, copy=False)
