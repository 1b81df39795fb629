"""Every public operator by its definition, in float64: which element of the result meets which of the operands.

The oracle of torch's cases where there is no torch; where there is, torch is held against it too. Windows are lists of
positions (plain.py); from them come tables of flat positions, -1 outside. A function here takes torch's arguments by
their names and gives a `Result`; `gradients` of it are in the order in which the backward function returns them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastconv.algorithm import unit_roundoff
from tests import plain
from tests.checks import assert_same_numbers


class Expected(NamedTuple):
    """A value, the sum of the magnitudes of what it was summed from, and how many summands there are at most.

    With `terms` 0 nothing is summed: the value is exact. What is no plain sum comes with `error`: how many units of
    roundoff u each element may err by, as derived where it is made. `positions` are those that it errs by besides
    where positions, which weights depend on, were rounded otherwise.
    """

    value: np.ndarray
    magnitude: np.ndarray
    terms: int
    error: np.ndarray | None = None
    positions: np.ndarray | None = None

    def bound(self) -> np.ndarray:
        """How many u each element may err by.

        A sum: by a rounding of its magnitude for each term, in whichever order it was summed (and 1 for the higher
        powers of u); and by 1 + 0.6 sqrt(terms) of the largest magnitude, as algorithm.py expects.
        """
        if self.error is not None:
            return self.error
        largest = self.magnitude.max(initial=0, where=np.isfinite(self.magnitude))
        return np.minimum((1 + 0.6 * math.sqrt(self.terms)) * largest, (1 + self.terms) * self.magnitude)

    def check(self, actual: Any, what: str) -> None:
        """`actual` errs by at most the bound, with u of its own dtype."""
        if not self.terms:
            assert_same_numbers(actual, self.value.astype(actual.dtype), what)
            return
        assert isinstance(actual, np.ndarray), what
        assert actual.shape == self.value.shape, f"{what}: shape {actual.shape} instead of {self.value.shape}"
        finite = np.isfinite(self.value)
        assert np.array_equal(np.isfinite(actual), finite), f"{what}: NaN or infinity elsewhere than expected"
        assert_same_numbers(actual[~finite], self.value[~finite].astype(actual.dtype), what)
        bound = self.bound() * unit_roundoff(actual.dtype.name)
        if actual.dtype == np.float64:
            bound = bound * 2  # the value's own error
        wrong = finite & ~(np.abs(np.where(finite, actual - self.value, 0)) <= bound)
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise AssertionError(
                f"{what}: {int(wrong.sum())} of {wrong.size} elements are wrong, first at {where}: {actual[where]!r} "
                f"instead of {self.value[where]!r}, bound {bound[where]:.2e}"
            )


class Result(NamedTuple):
    outputs: tuple[Expected, ...]
    gradients: Callable[[np.ndarray], tuple[Expected, ...]]


def per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """One int per axis; of a single one, so many."""
    return (value,) * axes if not isinstance(value, tuple) else value * axes if len(value) == 1 else value


def _batched(images: np.ndarray, axes: int) -> np.ndarray:
    """(n, c, *size) in float64, with a batch of one where there is none."""
    images = np.asarray(images, np.float64)
    return images if images.ndim == axes + 2 else images[None]


# -- Convolution ------------------------------------------------------------------------------------


class _Taps(NamedTuple):
    """For each element r of the window: flat positions of windows, and of what they show there."""

    windows: list[np.ndarray]
    shown: list[np.ndarray]


def _taps(size: Any, out: Any, axes: list[list[list[int]]]) -> _Taps:
    pairs = []
    for windows, extent in zip(axes, size, strict=True):
        pairs.append(
            [
                [(p, taken[r]) for p, taken in enumerate(windows) if 0 <= taken[r] < extent]
                for r in range(len(windows[0]))
            ]
        )
    taps = _Taps([], [])
    for element in itertools.product(*pairs):
        both = list(itertools.product(*element))
        for flat, extents, part in ((taps.windows, out, 0), (taps.shown, size, 1)):
            positions = [[pair[part] for pair in one] for one in both]
            flat.append(np.array([np.ravel_multi_index(p, extents) for p in positions], np.int64))
    return taps


class _Contraction:
    """sum over taps of a (n, k, windows), b (n, c, shown) and w (k, c / groups, r): each from the other two."""

    def __init__(self, taps: _Taps, groups: int, windows: int, shown: int) -> None:
        self.taps, self.groups, self.windows, self.shown = taps, groups, windows, shown

    def _each(self, k: int, c: int) -> Any:
        for g in range(self.groups):
            ks = slice(g * (k // self.groups), (g + 1) * (k // self.groups))
            cs = slice(g * (c // self.groups), (g + 1) * (c // self.groups))
            for r, (p, i) in enumerate(zip(*self.taps, strict=True)):
                yield ks, cs, r, p, i

    def a(self, b: np.ndarray, w: np.ndarray) -> np.ndarray:
        total = np.zeros((len(b), len(w), self.windows))
        for ks, cs, r, p, i in self._each(len(w), b.shape[1]):
            total[:, ks, p] += np.einsum("kc,nci->nki", w[ks, :, r], b[:, cs, i])
        return total

    def b(self, a: np.ndarray, w: np.ndarray) -> np.ndarray:
        total = np.zeros((len(a), w.shape[1] * self.groups, self.shown))
        for ks, cs, r, p, i in self._each(len(w), total.shape[1]):
            total[:, cs, i] += np.einsum("kc,nkp->ncp", w[ks, :, r], a[:, ks, p])
        return total

    def w(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        total = np.zeros((a.shape[1], b.shape[1] // self.groups, len(self.taps.shown)))
        for ks, cs, r, p, i in self._each(a.shape[1], b.shape[1]):
            total[ks, :, r] += np.einsum("nkp,ncp->kc", a[:, ks, p], b[:, cs, i])
        return total


def _summed(function: Callable[..., np.ndarray], shape: Any, *operands: np.ndarray) -> Expected:
    """A multilinear function's value; magnitudes and counts from the same function of |x|, and of ones."""
    count = function(*(np.ones_like(operand) for operand in operands))
    return Expected(
        function(*operands).reshape(shape),
        function(*map(np.abs, operands)).reshape(shape),
        max(1, round(float(count.max(initial=0)))),
    )


def _same(size: Any, kernel: Any, stride: Any, dilation: Any) -> tuple[tuple[int, int], ...]:
    pads = []
    for extent, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((math.ceil(extent / s) - 1) * s + d * (k - 1) + 1 - extent, 0)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(*array.shape[:2], math.prod(array.shape[2:]))


def _conv_result(
    forward: Callable[..., np.ndarray],
    backward: Callable[..., np.ndarray],
    of_weight: Callable[..., np.ndarray],
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    unbatched: bool,
    shapes: dict[str, Any],
) -> Result:
    """x and dy of either convolution as (n, c, positions), and what it makes of them."""
    y_shape, x_shape, w_shape = shapes["y"], shapes["x"], shapes["w"]
    b = np.zeros(y_shape[1]) if bias is None else np.asarray(bias, np.float64)

    def biased(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        return forward(x, w) + b[:, None]

    drop = slice(1, None) if unbatched else slice(None)
    y = _summed(biased, y_shape[drop], x, w, b)
    if bias is None:
        y = y._replace(terms=max(y.terms - 1, 1))

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        dy = _flat(np.asarray(dy, np.float64).reshape(y_shape))
        return (
            _summed(backward, x_shape[drop], dy, w),
            _summed(lambda dy, x: of_weight(dy, x), w_shape, dy, x),
            _summed(lambda dy: dy.sum((0, 2)), b.shape, dy),
        )

    return Result((y,), gradients)


def conv(
    axes: int, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Result:  # fmt: skip
    x, w = _batched(input, axes), np.asarray(weight, np.float64)
    size, kernel = x.shape[2:], w.shape[2:]
    stride, dilation = per_axis(stride, axes), per_axis(dilation, axes)
    if padding == "same":
        pads = _same(size, kernel, stride, dilation)
    else:
        pads = tuple((low, low) for low in per_axis(0 if padding == "valid" else padding, axes))
    windows = plain.regular(size, kernel, stride, pads, dilation)
    out = plain.out_shape(windows)
    taps = _Contraction(_taps(size, out, windows), groups, math.prod(out), math.prod(size))
    shapes = {"y": (len(x), len(w), *out), "x": x.shape, "w": w.shape}
    return _conv_result(taps.a, taps.b, taps.w, _flat(x), _flat(w), bias, np.ndim(input) == axes + 1, shapes)


def conv_transpose(
    axes: int, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Result:  # fmt: skip
    """Its input takes the part of a convolution's windows, its output of what they show."""
    x, w = _batched(input, axes), np.asarray(weight, np.float64)
    size, kernel = x.shape[2:], w.shape[2:]
    stride, padding, dilation = per_axis(stride, axes), per_axis(padding, axes), per_axis(dilation, axes)
    out = tuple(
        (extent - 1) * s - 2 * low + d * (k - 1) + more + 1
        for extent, k, s, low, more, d in zip(
            size, kernel, stride, padding, per_axis(output_padding, axes), dilation, strict=True
        )
    )
    windows = [
        [[p * s - low + r * d for r in range(k)] for p in range(extent)]
        for extent, k, s, low, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    taps = _Contraction(_taps(out, size, windows), groups, math.prod(size), math.prod(out))
    shapes = {"y": (len(x), w.shape[1] * groups, *out), "x": x.shape, "w": w.shape}
    return _conv_result(
        taps.b, taps.a, lambda dy, x: taps.w(x, dy), _flat(x), _flat(w), bias, np.ndim(input) == axes + 1, shapes
    )


# -- Windows of one operand -------------------------------------------------------------------------


class _Table(NamedTuple):
    """For each output position (rows) the flat input positions that it sees, -1 outside; and where the input ends."""

    positions: np.ndarray
    size: tuple[int, ...]
    out: tuple[int, ...]

    @classmethod
    def of(cls, axes: list[list[list[int]]], size: Any) -> _Table:
        """Rows of unequal length are filled with -1 at the end."""
        total = np.zeros((1, 1), np.int64)
        for windows, extent in zip(axes, size, strict=True):
            longest = max(map(len, windows), default=1)
            along = np.array([taken + [-1] * (longest - len(taken)) for taken in windows], np.int64)
            along = np.where((along >= 0) & (along < extent), along, -1).reshape(len(windows), longest)
            joined = total[:, None, :, None] * extent + along[None, :, None, :]
            joined[(total < 0)[:, None, :, None] | (along < 0)[None, :, None, :]] = -1
            total = joined.reshape(len(total) * len(along), total.shape[1] * longest)
        return cls(total, tuple(size), plain.out_shape(axes))

    def seen(self, images: np.ndarray, outside: float) -> np.ndarray:
        """(n, c, *size) as (n, c, outputs, elements)."""
        flat = np.concatenate([_flat(images), np.full((*images.shape[:2], 1), outside)], -1)
        return flat[..., self.positions]

    def spread(self, shares: np.ndarray) -> np.ndarray:
        """Sum of shares (n, c, outputs, elements) at what they show."""
        n, c = shares.shape[:2]
        total = np.zeros((n, c, math.prod(self.size) + 1))
        for row, positions in enumerate(self.positions):
            np.add.at(total, (slice(None), slice(None), positions), shares[:, :, row])
        return total[..., :-1].reshape(n, c, *self.size)

    def most_shown(self) -> int:
        """How many outputs and elements show one input position at most."""
        return int(np.bincount(self.positions[self.positions >= 0], minlength=1).max())


def _linear(
    table: _Table, weights: np.ndarray, images: np.ndarray, shapes: Any, divisors: Any = None, *, exact: bool = False
) -> Result:
    """Outputs are sums of what they see times `weights` (outputs, elements), over `divisors` (outputs)."""
    y_shape, x_shape = shapes
    division = int(divisors is not None)  # a rounding more
    over = np.asarray(divisors)[:, None] if division else np.ones((1, 1))

    def forward(x: np.ndarray, weights: np.ndarray, over: np.ndarray) -> np.ndarray:
        return ((table.seen(x, 0.0) * weights).sum(-1) / over[:, 0]).reshape(y_shape)

    terms = 0 if exact else max(table.positions.shape[1], 1) + division
    y = Expected(forward(images, weights, over), forward(np.abs(images), np.abs(weights), np.abs(over)), terms)

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        dy = np.asarray(dy, np.float64).reshape(*images.shape[:2], len(table.positions), 1)
        shares = dy / over * weights
        dx, magnitude = (table.spread(part).reshape(x_shape) for part in (shares, np.abs(shares)))
        return (Expected(dx, magnitude, max(table.most_shown(), 1) + division),)

    return Result((y,), gradients)


def _shapes(input: Any, axes: int, out: tuple[int, ...]) -> tuple[Any, Any]:
    shape = np.shape(input)
    return (*shape[: len(shape) - axes], *out), shape


def _chosen(table: _Table, images: np.ndarray, shapes: Any, with_indices: bool) -> Result:
    """The first maximum of what each output sees."""
    seen = table.seen(images, -np.inf)
    wins = (seen == seen.max(-1, keepdims=True)) & (table.positions >= 0)
    assert wins.any(-1).all(), "no window lies in padding alone"
    where = np.broadcast_to(table.positions, seen.shape)
    indices = np.take_along_axis(where, wins.argmax(-1)[..., None], -1)[..., 0]
    y_shape, x_shape = shapes
    values, flat = seen.max(-1).reshape(y_shape), indices.reshape(y_shape)

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        dy = np.asarray(dy, np.float64).reshape(indices.shape)

        def gathered(shares: np.ndarray) -> np.ndarray:
            total = np.zeros((*images.shape[:2], math.prod(table.size)))
            for n, c, p in np.ndindex(*indices.shape):
                total[n, c, indices[n, c, p]] += shares[n, c, p]
            return total.reshape(x_shape)

        count = max(1, round(float(gathered(np.ones_like(dy)).max(initial=0))))
        return (Expected(gathered(dy), gathered(np.abs(dy)), count),)

    outputs = (Expected(values, values, 0), Expected(flat, flat, 0))
    return Result(outputs if with_indices else outputs[:1], gradients)


def _windows(axes: int, input: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    kernel = per_axis(kernel, axes)
    stride = kernel if stride is None or stride == () else per_axis(stride, axes)
    pads = tuple((low, low) for low in per_axis(padding, axes))
    size = np.shape(input)[-axes:]
    return plain.regular(size, kernel, stride, pads, per_axis(dilation, axes), ceil_mode), size, pads


def max_pool(
    axes: int, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Result:  # fmt: skip
    windows, size, _ = _windows(axes, input, kernel_size, stride, padding, dilation, ceil_mode)
    table = _Table.of(windows, size)
    return _chosen(table, _batched(input, axes), _shapes(input, axes, table.out), return_indices)


def avg_pool(
    axes: int, input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Result:  # fmt: skip
    windows, size, pads = _windows(axes, input, kernel_size, stride, padding, 1, ceil_mode)
    table = _Table.of(windows, size)
    divisor = plain.divisor_of(size, pads, count_include_pad, divisor_override)
    divisors = np.array([divisor(taken) for _, taken in plain.each_window(windows)])
    inside = (table.positions >= 0).astype(np.float64)
    return _linear(table, inside, _batched(input, axes), _shapes(input, axes, table.out), divisors)


def _adaptive(axes: int, input: Any, output_size: Any) -> _Table:
    size = np.shape(input)[-axes:]
    out = tuple(
        extent if wanted is None else wanted for extent, wanted in zip(size, per_axis(output_size, axes), strict=True)
    )
    return _Table.of(plain.adaptive(size, out), size)


def adaptive_avg_pool(axes: int, input: Any, output_size: Any) -> Result:
    table = _adaptive(axes, input, output_size)
    inside = (table.positions >= 0).astype(np.float64)
    return _linear(table, inside, _batched(input, axes), _shapes(input, axes, table.out), inside.sum(-1))


def adaptive_max_pool(axes: int, input: Any, output_size: Any, return_indices: bool = False) -> Result:
    table = _adaptive(axes, input, output_size)
    return _chosen(table, _batched(input, axes), _shapes(input, axes, table.out), return_indices)


#: Error of a power in u: NumPy's vector loops err by less than 4 units in the last place, a unit is 2 u.
_POWER = 8


def lp_pool(
    axes: int, input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Result:
    """s^(1/p), s the mean of x^p over what a window sees, times its whole extent. Of a negative number and a power
    that is no integer, NaN; where s is 0, the gradient is 0.
    """
    p = norm_type
    windows, size, _ = _windows(axes, input, kernel_size, stride, 0, 1, ceil_mode)
    table, images = _Table.of(windows, size), _batched(input, axes)
    inside, extent = table.positions >= 0, table.positions.shape[1]
    share = extent / inside.sum(-1)  # of an incomplete window, more than 1
    y_shape, x_shape = _shapes(input, axes, table.out)
    with np.errstate(all="ignore"):
        seen = table.seen(images, 1.0)
        powers = np.where(inside, seen**p, 0.0)
        s = powers.sum(-1) * share
        y = s ** (1 / p)
        # s is a sum of powers, divided and multiplied; 1 / p is rounded, and moves a power by its logarithm.
        of_s = (_POWER + extent + 2) * np.where(s == 0, 1, np.abs(powers).sum(-1) * share / np.abs(s))
        of_s += np.where(s == 0, 0, np.abs(np.log(np.abs(s))))
        error = np.where(s == 0, 0, np.abs(y) * (of_s / abs(p) + _POWER))

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        dy = np.asarray(dy, np.float64).reshape(y.shape)
        with np.errstate(all="ignore"):
            shares = (dy * share * s ** (1 / p - 1))[..., None] * seen ** (p - 1)
            shares = np.where(inside & (s != 0)[..., None], shares, 0)
            # Two powers; the extent over p, two products with the slope, division, p and its product; the sum.
            each = np.abs(1 / p - 1) * of_s + 2 * _POWER + 7 + table.most_shown()
            dx, magnitude = table.spread(shares), table.spread(np.abs(shares))
            error = table.spread(np.abs(shares) * each[..., None])
        return (Expected(dx.reshape(x_shape), magnitude.reshape(x_shape), extent, error.reshape(x_shape)),)

    return Result(
        (Expected(y.reshape(y_shape), np.abs(y).reshape(y_shape), extent, error.reshape(y_shape)),), gradients
    )


def fractional_max_pool2d(
    input: Any, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Any = None,
) -> Result:  # fmt: skip
    """Windows start at floor((i + u) step) - floor(u step), step and u of the input's dtype; the last one is flush."""
    images, kernel, size = _batched(input, 2), per_axis(kernel_size, 2), np.shape(input)[-2:]
    if output_size is None:
        out = tuple(int(extent * ratio) for extent, ratio in zip(size, per_axis(output_ratio, 2), strict=True))
    else:
        out = per_axis(output_size, 2)
    samples = np.asarray(_random_samples).reshape(*images.shape[:2], 2)
    shapes = _shapes(input, 2, out)
    planes: list[list[Result]] = []
    for n, c in np.ndindex(*images.shape[:2]):
        axes = []
        for extent, k, count, u in zip(size, kernel, out, samples[n, c, ::-1], strict=True):
            starts = [extent - k] * count
            if count > 1:
                step = u.dtype.type(extent - k) / u.dtype.type(count - 1)
                starts[:-1] = [int((u.dtype.type(i) + u) * step) - int(u * step) for i in range(count - 1)]
            axes.append([list(range(start, start + k)) for start in starts])
        one = _chosen(_Table.of(axes, size), images[n : n + 1, c : c + 1], (out, size), True)
        planes.append(one)

    def joined(parts: list[Expected], shape: Any) -> Expected:
        return Expected(
            np.array([part.value for part in parts]).reshape(shape),
            np.array([part.magnitude for part in parts]).reshape(shape),
            max((part.terms for part in parts), default=0),
        )

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        slices = np.asarray(dy).reshape(-1, *out)
        return (joined([one.gradients(part)[0] for one, part in zip(planes, slices, strict=True)], shapes[1]),)

    outputs = tuple(joined([one.outputs[i] for one in planes], shapes[0]) for i in (0, 1))
    return Result(outputs if return_indices else outputs[:1], gradients)


def max_unpool(
    axes: int, input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Result:  # fmt: skip
    """Every value goes where its index points; the others are 0."""
    images, flat = _batched(input, axes), _batched(indices, axes).astype(np.int64)
    kernel = per_axis(kernel_size, axes)
    stride = kernel if stride is None else per_axis(stride, axes)
    if output_size is None:
        out = tuple(
            (extent - 1) * s - 2 * low + k
            for extent, k, s, low in zip(images.shape[2:], kernel, stride, per_axis(padding, axes), strict=True)
        )
    else:
        out = output_size[-axes:]
    y = np.zeros((*images.shape[:2], math.prod(out)))
    for n, c, *at in np.ndindex(*images.shape):
        y[n, c, flat[(n, c, *at)]] = images[(n, c, *at)]
    y_shape, x_shape = _shapes(input, axes, out)

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        dx = np.take_along_axis(_flat(np.asarray(dy, np.float64).reshape(*images.shape[:2], *out)), _flat(flat), -1)
        return (Expected(dx.reshape(x_shape), dx.reshape(x_shape), 0),)

    return Result((Expected(y.reshape(y_shape), y.reshape(y_shape), 0),), gradients)


def unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Result:
    windows, size, _ = _windows(2, input, kernel_size, stride, padding, dilation, False)
    table, images = _Table.of(windows, size), _batched(input, 2)
    n, c = images.shape[:2]
    columns = table.seen(images, 0.0).swapaxes(2, 3)
    shape = (n, c * columns.shape[2], columns.shape[3])[3 - (np.ndim(input) - 1) :]

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        shares = np.asarray(dy, np.float64).reshape(columns.shape).swapaxes(2, 3)
        dx, magnitude = table.spread(shares), table.spread(np.abs(shares))
        return (Expected(dx.reshape(np.shape(input)), magnitude.reshape(np.shape(input)), max(table.most_shown(), 1)),)

    y = columns.reshape(shape)
    return Result((Expected(y, y, 0),), gradients)


def pad(input: Any, pad: Any, mode: str = "constant", value: float = 0) -> Result:
    """Each output position of an axis shows one of the input, or `value`. Only what is added may be mirrored."""
    size = np.shape(input)[np.ndim(input) - len(pad) // 2 :]
    axes = []
    for extent, low, high in zip(size, pad[-2::-2], pad[::-2], strict=True):
        kept = range(max(-low, 0), extent - max(-high, 0)) if mode == "circular" else range(extent)
        seen = []
        for i in range(-low, extent + high):
            if mode == "replicate":
                i = min(max(i, 0), extent - 1)
            elif mode == "reflect":
                i = -i if i < 0 else 2 * (extent - 1) - i if i >= extent else i
            elif mode == "circular":
                i = kept.start + (i - kept.start) % len(kept)
            seen.append([i])
        axes.append(seen)
    table = _Table.of(axes, size)
    planes = math.prod(np.shape(input)[: np.ndim(input) - len(size)])
    images = np.asarray(input, np.float64).reshape(1, planes, *size)
    result = _linear(table, np.ones(table.positions.shape), images, _shapes(input, len(size), table.out), exact=True)
    added = np.broadcast_to((table.positions[:, 0] < 0).reshape(table.out), result.outputs[0].value.shape)
    y = np.where(added, value, result.outputs[0].value)
    return Result((Expected(y, y, 0),), result.gradients)


def upsample(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Result:
    """Positions in the input's precision, as torch finds them; weights of a pair are rounded to it."""
    images = np.asarray(input)
    real, axes = images.dtype.type, images.ndim - 2
    factors: Any = (None,) * axes if scale_factor is None else per_axis(scale_factor, axes)
    sizes = images.shape[2:]
    if size is None:
        out = tuple(int(extent * factor) for extent, factor in zip(sizes, factors, strict=True))
    else:
        out = per_axis(size, axes)
    seen: list[list[list[int]]] = []
    shares: list[np.ndarray] = []
    for extent, count, factor in zip(sizes, out, factors, strict=True):
        if align_corners:
            step = real(extent - 1) / real(max(count - 1, 1))
        else:
            step = real(1 / factor) if factor is not None else real(extent) / real(count)
        pairs, weights = [], []
        for i in range(count):
            if mode == "nearest":
                pairs.append([min(int(np.float32(real(i) * step)), extent - 1)])
                weights.append([1.0])
            else:
                at = real(i) * step if align_corners else max((real(i) + real(0.5)) * step - real(0.5), real(0))
                first = min(int(at), extent - 1)
                later = min(max(at - real(first), real(0)), real(1))
                pairs.append([first, min(first + 1, extent - 1)])
                weights.append([float(real(1) - later), float(later)])
        seen.append(pairs)
        shares.append(np.array(weights))
    table = _Table.of(seen, sizes)
    weights_of = _outer(shares)
    shapes, exact = _shapes(input, axes, out), mode == "nearest"
    result = _linear(table, weights_of, images.astype(np.float64), shapes, exact=exact)
    if exact:
        return result
    # A position below `extent` is a product and a difference, its distance to a pixel and that of the next one a
    # rounding each, all of which may be otherwise: 3 u of the extent in the weight of either pixel.
    moved = np.zeros_like(weights_of)
    for axis, extent in enumerate(sizes):
        others = [np.full_like(share, 3 * extent) if i == axis else share for i, share in enumerate(shares)]
        moved += _outer(others)
    apart = _linear(table, moved, np.abs(images.astype(np.float64)), shapes)

    def along_each(part: Expected, roundings: int, positions: Expected) -> Expected:
        error = (1 + roundings) * part.magnitude
        return part._replace(error=error, positions=positions.value)

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        """Along an axis as many roundings as it has pairs at most; the sum of these is at most their product and 2."""
        (dx,), (positions,) = result.gradients(dy), apart.gradients(np.abs(dy))
        return (along_each(dx, table.most_shown() + axes, positions),)

    # Along each axis a product and a sum.
    return Result((along_each(result.outputs[0], 2 * axes, apart.outputs[0]),), gradients)


def _outer(shares: list[np.ndarray]) -> np.ndarray:
    """Weights of windows in several axes (outputs, elements) from those along each."""
    weights = np.ones((1, 1))
    for share in shares:
        joined = weights[:, None, :, None] * share[None, :, None, :]
        weights = joined.reshape(len(weights) * len(share), -1)
    return weights


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Result:
    """x / (k + alpha times the mean of x^2 over `size` channels, zeros beyond)^beta."""
    x = np.asarray(input, np.float64)
    channels = x.shape[1]
    near = [[j for j in range(i - size // 2, i + (size - 1) // 2 + 1) if 0 <= j < channels] for i in range(channels)]
    base = np.stack([k + alpha / size * (x[:, js] ** 2).sum(1) for js in near], 1)
    y = x * base**-beta
    # The base: squares, their sum, alpha / size and its product, and k. Alpha, beta and k are positive.
    of_base = size + 4

    def power(exponent: float) -> np.ndarray:
        """Error of base**exponent in u of it: of the base, of the exponent, and its own."""
        return abs(exponent) * (of_base + np.abs(np.log(base))) + _POWER

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        dy = np.asarray(dy, np.float64)
        dx, magnitude = dy * base**-beta, np.abs(dy * base**-beta)
        error = magnitude * (power(-beta) + 2)  # a product and a sum
        for i, js in enumerate(near):
            for j in js:
                share = 2 * alpha / size * beta * dy[:, i] * x[:, i] * base[:, i] ** (-beta - 1) * x[:, j]
                dx[:, j] -= share
                magnitude[:, j] += np.abs(share)
                # Five factors and their products, and the exponent's own sum; the sum over channels, and the last one.
                error[:, j] += np.abs(share) * (power(-beta - 1)[:, i] + 10 + size)
        return (Expected(dx, magnitude, size, error),)

    return Result((Expected(y, np.abs(y), size, np.abs(y) * (power(-beta) + 1)),), gradients)


def define(operator: str, given: dict[str, Any]) -> Result:
    """The definition of an operator, by its public name, of these arguments."""
    function = globals().get(operator)
    if function is not None:
        found: Result = function(**given)
    else:
        found = globals()[operator[:-2]](int(operator[-2]), **given)
    return found
