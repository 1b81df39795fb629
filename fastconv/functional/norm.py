"""Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import InvalidProblem
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


def _check(name: str, input: ArrayLike, size: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    given = arguments.as_array(name, input)
    if given.ndim < 3:
        raise InvalidProblem(f"{name} must have at least 3 dimensions (batch, channels, ...), got shape {given.shape}")
    window = arguments.check_int("size", size)
    if window < 1:
        raise InvalidProblem(f"size must be at least 1, got {window}")
    return given, arguments.plain(given), (window // 2, (window - 1) // 2)


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
        Scale, exponent and offset.

    Returns
    -------
    ndarray
        Of the input's shape and dtype.

    Raises
    ------
    TypeError, InvalidProblem
        For an input that is not floating-point or has less than 3 dimensions, and a size below 1.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.local_response_norm(np.full((1, 1, 1), 2.0), size=1, alpha=0.75, beta=0.5)
    array([[[1.]]])
    """
    given, x, (before, after) = _check("input", input, size)
    with np.errstate(all="ignore"):
        scale = k + alpha / size * _channel_sums(x * x, before, after)
        return (x * scale**-beta).astype(given.dtype, copy=False)


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
    given, x, (before, after) = _check("input", input, size)
    upstream = arguments.as_array("grad_output", grad_output, given.dtype)
    arguments.check_shape("grad_output", upstream, given.shape, "that of the input")
    dy = arguments.plain(upstream)
    with np.errstate(all="ignore"):
        scale = k + alpha / size * _channel_sums(x * x, before, after)
        # The adjoint of a window (before, after) is the window (after, before).
        collected = _channel_sums(dy * x * scale ** (-beta - 1), after, before)
        grad_input: np.ndarray = dy * scale**-beta - (2 * alpha * beta / size) * x * collected
    return grad_input.astype(given.dtype, copy=False)
