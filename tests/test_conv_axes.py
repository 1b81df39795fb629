"""Convolution and transposed convolution in one, two and three axes, against a sum over the taps of the kernel.

The oracle visits one tap of the kernel after another and knows nothing of windows, columns or tiles:
output += weight[tap] . (the input seen through that tap); its transpose adds to what the tap sees.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastconv
from tests.checks import DIRECT

ALGORITHMS = [algorithm.name for algorithm in DIRECT]
REFUSING_CHANNELS_LAST: set[str] = set()


def _tap_slices(tap, stride, dilation, extents):
    """What a tap sees of the padded input: one position per window and axis."""
    return tuple(
        slice(t * d, t * d + (extent - 1) * s + 1, s)
        for t, s, d, extent in zip(tap, stride, dilation, extents, strict=True)
    )


def conv_by_taps(x, w, stride, padding, dilation, groups):
    """float64 convolution of (N, C, ...) with (K, C / groups, ...); padding symmetric per axis."""
    axes = x.ndim - 2
    padded = np.pad(x.astype(float), [(0, 0), (0, 0), *((p, p) for p in padding)])
    kernel = w.shape[2:]
    extents = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    ]
    k_g, c_g = w.shape[0] // groups, w.shape[1]
    y = np.zeros((x.shape[0], w.shape[0], *extents))
    letters = "xyz"[:axes]
    for tap in itertools.product(*map(range, kernel)):
        seen = padded[(slice(None), slice(None), *_tap_slices(tap, stride, dilation, extents))]
        for g in range(groups):
            weights = w[g * k_g : (g + 1) * k_g][(slice(None), slice(None), *tap)]
            part = np.einsum(f"nc{letters},kc->nk{letters}", seen[:, g * c_g : (g + 1) * c_g], weights)
            y[:, g * k_g : (g + 1) * k_g] += part
    return y


def conv_transpose_by_taps(x, w, stride, padding, output_padding, groups, dilation):
    """float64 transposed convolution of (N, C, ...) with (C, K / groups, ...)."""
    axes, kernel = x.ndim - 2, w.shape[2:]
    full = [
        (size - 1) * s + d * (k - 1) + 1 + extra
        for size, s, d, k, extra in zip(x.shape[2:], stride, dilation, kernel, output_padding, strict=True)
    ]
    c_g, k_g = w.shape[0] // groups, w.shape[1]
    y = np.zeros((x.shape[0], k_g * groups, *full))
    letters = "xyz"[:axes]
    for tap in itertools.product(*map(range, kernel)):
        place = (slice(None), slice(None), *_tap_slices(tap, stride, dilation, x.shape[2:]))
        for g in range(groups):
            weights = w[g * c_g : (g + 1) * c_g][(slice(None), slice(None), *tap)]
            part = np.einsum(f"nc{letters},ck->nk{letters}", x[:, g * c_g : (g + 1) * c_g].astype(float), weights)
            y[:, g * k_g : (g + 1) * k_g][place] += part
    inside = (slice(p, extent - p) for p, extent in zip(padding, full, strict=True))
    return y[(slice(None), slice(None), *inside)]


def _integers(rng, shape, dtype):
    return rng.integers(-3, 4, shape).astype(dtype)


def _cases(count):
    """Random parameters, the same in every run."""
    rng = np.random.default_rng(20)
    for case in range(count):
        axes = case % 3 + 1
        groups = int(rng.choice([1, 1, 2]))
        channels, filters = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 3))
        kernel, stride, dilation, padding = (
            tuple(int(v) for v in rng.integers(low, high, axes)) for low, high in ((1, 4), (1, 4), (1, 3), (0, 3))
        )
        size = tuple(int(v) for v in rng.integers(5, 8 if axes < 3 else 7, axes))
        yield pytest.param(
            axes, int(rng.integers(1, 3)), channels, filters, size, kernel, stride, padding, dilation, groups,
            id=f"{axes}d-{case}",
        )  # fmt: skip


random_cases = pytest.mark.parametrize(
    ("axes", "batch", "channels", "filters", "size", "kernel", "stride", "padding", "dilation", "groups"),
    list(_cases(12)),
)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("data_format", ["first", "last"])
@random_cases
def test_convolution_and_its_gradients(
    algorithm, data_format, axes, batch, channels, filters, size, kernel, stride, padding, dilation, groups
):
    """Forward equals the taps; the gradients obey the adjoint identity; all exact on integers."""
    rng = np.random.default_rng(axes * 100 + filters)
    x = _integers(rng, (batch, channels, *size), np.float32)
    w = _integers(rng, (filters, channels // groups, *kernel), np.float32)
    b = _integers(rng, (filters,), np.float32)
    layout = {"first": "NCDHW"[:2] + "DHW"[-axes:], "last": "N" + "DHW"[-axes:] + "C"}[data_format]
    arranged, restored = (
        (lambda a: a, lambda a: a)
        if data_format == "first"
        else (lambda a: np.moveaxis(a, 1, -1), lambda a: np.moveaxis(a, -1, 1))
    )
    arguments = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "data_format": layout,
        "algorithm": algorithm,
    }  # fmt: skip
    forward = getattr(fastconv, f"conv{axes}d")
    if data_format == "last" and algorithm in REFUSING_CHANNELS_LAST:  # a layout may be refused, a geometry may not
        with pytest.raises(fastconv.UnsupportedProblem, match=algorithm):
            forward(arranged(x), w, b, **arguments)
        return
    expected = conv_by_taps(x, w, stride, padding, dilation, groups)
    y = restored(forward(arranged(x), w, b, **arguments))
    np.testing.assert_array_equal(y, expected + b.reshape(-1, *(1,) * axes))
    dy = _integers(rng, y.shape, np.float32)
    dx, dw, db = getattr(fastconv, f"conv{axes}d_backward")(arranged(dy), arranged(x), w, **arguments)
    product = (dy.astype(float) * expected).sum()
    assert dx.shape == arranged(x).shape
    assert dw.shape == w.shape
    assert product == (dx.astype(float) * arranged(x)).sum() == (dw.astype(float) * w).sum()
    np.testing.assert_array_equal(db, dy.sum((0, *range(2, axes + 2))))
    if data_format == "first" and algorithm == ALGORITHMS[0]:
        size_in, size_w = x.shape, w.shape
        rest = (stride, padding, dilation, groups)
        np.testing.assert_array_equal(getattr(fastconv, f"conv{axes}d_input")(size_in, w, dy, *rest), dx)
        np.testing.assert_array_equal(getattr(fastconv, f"conv{axes}d_weight")(x, size_w, dy, *rest), dw)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@random_cases
def test_transposed_convolution_and_its_gradients(
    algorithm, axes, batch, channels, filters, size, kernel, stride, padding, dilation, groups
):
    """Every output_padding that is legal: the taps, and the adjoint identity of its gradients."""
    rng = np.random.default_rng(axes * 100 + filters)
    x = _integers(rng, (batch, channels, *size), np.float64)
    w = _integers(rng, (channels, filters // groups, *kernel), np.float64)
    b = _integers(rng, (filters,), np.float64)
    for extra in {0, max(max(stride), max(dilation)) - 1}:
        output_padding = tuple(min(extra, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
        arguments = {
            "stride": stride, "padding": padding, "output_padding": output_padding, "groups": groups,
            "dilation": dilation, "algorithm": algorithm,
        }  # fmt: skip
        expected = conv_transpose_by_taps(x, w, stride, padding, output_padding, groups, dilation)
        y = getattr(fastconv, f"conv_transpose{axes}d")(x, w, b, **arguments)
        np.testing.assert_array_equal(y, expected + b.reshape(-1, *(1,) * axes))
        dy = _integers(rng, y.shape, np.float64)
        dx, dw, db = getattr(fastconv, f"conv_transpose{axes}d_backward")(dy, x, w, **arguments)
        assert (dy * expected).sum() == (dx * x).sum() == (dw * w).sum()
        np.testing.assert_array_equal(db, dy.sum((0, *range(2, axes + 2))))


def test_output_padding_beyond_the_stride_is_seen_through_the_padding():
    """With stride 1, dilation 2, padding 2 the extra position lies within a window; it was once left at the bias."""
    x, w = np.arange(1.0, 6.0)[None, None], np.ones((1, 1, 1))
    y = fastconv.conv_transpose1d(x, w, padding=2, output_padding=1, dilation=2)
    np.testing.assert_array_equal(y, [[[3.0, 4.0]]])


def test_the_infinite_plane_above_a_volume_counts_as_zero_times_infinity():
    """Padding is a real zero of the input, also along the depth: an infinite weight gives NaN there alone."""
    x = np.ones((1, 1, 3, 2, 2), np.float32)
    w = np.ones((1, 1, 2, 1, 1), np.float32)
    w[0, 0, 0] = np.inf
    y = fastconv.conv3d(x, w, padding=(1, 0, 0))
    assert np.isnan(y[0, 0, 0]).all()
    assert np.isposinf(y[0, 0, 1:]).all()
    dx = fastconv.conv3d_input(x.shape, w, np.ones_like(y), padding=(1, 0, 0))
    assert np.isposinf(dx).all()  # nothing outside grad_output exists


def test_volumes_in_small_pieces(monkeypatch):
    """One plane at a time gives what all planes at once give."""
    from fastconv.conv import volumes

    rng = np.random.default_rng(3)
    x, w = _integers(rng, (2, 3, 9, 5, 6), np.float32), _integers(rng, (4, 3, 3, 3, 3), np.float32)
    dy = _integers(rng, (2, 4, 9, 5, 6), np.float32)

    def everything():
        return fastconv.conv3d(x, w, padding=1), *fastconv.conv3d_backward(dy, x, w, padding=1)

    whole = everything()
    monkeypatch.setattr(volumes, "PIECE_BYTES", 1)
    fastconv.planner.forget_plans()
    for left, right in zip(whole, everything(), strict=True):
        np.testing.assert_array_equal(left, right)
    monkeypatch.undo()
    fastconv.planner.forget_plans()
