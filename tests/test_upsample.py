"""Enlarging images, against loops over single pixels; the gradient is the adjoint, exactly."""

import math

import numpy as np
import pytest

import fastconv
from fastconv import InvalidProblem
from tests.checks import assert_close, assert_same_numbers
from tests.problems import generator, integers


def last(array):
    return np.moveaxis(array, 1, -1)


def nearest(x, out):
    """Output pixel i shows input pixel floor(i * in / out), in whole numbers."""
    y = np.empty((*x.shape[:2], *out), x.dtype)
    for at in np.ndindex(*out):
        source = tuple(i * size // count for i, size, count in zip(at, x.shape[2:], out))
        y[(..., *at)] = x[(..., *source)]
    return y


def bilinear(x, out, align_corners):
    """Each output pixel from its place between the centres of the input's."""
    y = np.zeros((*x.shape[:2], *out))
    for at in np.ndindex(*out):
        weights = []
        for i, size, count in zip(at, x.shape[2:], out):
            if align_corners:
                place = i * (size - 1) / (count - 1) if count > 1 else 0.0
            else:
                place = max((i + 0.5) * size / count - 0.5, 0.0)
            low = min(math.floor(place), size - 1)
            later = place - low if low + 1 < size else 0.0
            weights.append({low: 1 - later, min(low + 1, size - 1): later} if later else {low: 1.0})
        for h, a in weights[0].items():
            for w, b in weights[1].items():
                y[(..., *at)] += a * b * x[..., h, w]
    return y


@pytest.mark.parametrize(
    ("size", "out"),
    [
        ((3,), (7,)),
        ((7,), (3,)),
        ((1,), (4,)),
        ((2, 3), (4, 9)),
        ((5, 4), (3, 7)),
        ((3, 3), (3, 3)),
        ((2, 3, 4), (5, 3, 8)),
    ],
)
def test_nearest(size, out):
    x = integers("x", (2, 3, *size), "float64", 99)
    expected = nearest(x, out)
    assert_same_numbers(fastconv.upsample(x, out), expected)
    layout = {1: "NWC", 2: "NHWC", 3: "NDHWC"}[len(size)]
    assert_same_numbers(fastconv.upsample(last(x), out, data_format=layout), last(expected))
    dy = integers("dy", expected.shape, "float64", 99)
    dx = fastconv.upsample_backward(dy, x.shape, out)
    assert float(np.vdot(dy, expected)) == float(np.vdot(dx, x))
    assert_same_numbers(fastconv.upsample_backward(last(dy), last(x), out, data_format=layout), last(dx))
    for cell in list(np.ndindex(*x.shape))[:: max(1, x.size // 20)]:
        one = np.zeros_like(x)
        one[cell] = 1
        assert float(np.vdot(dy, nearest(one, out))) == dx[cell], "column by column of the adjoint"


@pytest.mark.parametrize("align_corners", [None, False, True])
@pytest.mark.parametrize(("size", "out"), [((2, 3), (4, 9)), ((5, 4), (3, 7)), ((1, 1), (3, 2)), ((4, 6), (1, 1))])
def test_bilinear(size, out, align_corners):
    x = generator("x", size).standard_normal((2, 3, *size))
    expected = bilinear(x, out, bool(align_corners))
    options = {"mode": "bilinear", "align_corners": align_corners}
    assert_close(fastconv.upsample(x, out, **options), expected, 1e-14)
    assert_close(fastconv.upsample(last(x), out, **options, data_format="NHWC"), last(expected), 1e-14)
    dy = generator("dy", size).standard_normal(expected.shape)
    dx = fastconv.upsample_backward(dy, x.shape, out, **options)
    assert np.vdot(dy, expected) == pytest.approx(np.vdot(dx, x), rel=1e-12)


def test_bilinear_doubling_is_an_exact_adjoint():
    """Weights of quarters: every sum is exact."""
    x, dy = integers("x", (2, 3, 4, 5), "float32", 9), integers("dy", (2, 3, 8, 10), "float32", 9)
    y = fastconv.upsample(x, scale_factor=2, mode="bilinear")
    dx = fastconv.upsample_backward(dy, x, scale_factor=2, mode="bilinear")
    assert float(np.vdot(dy.astype(float), y.astype(float))) == float(np.vdot(dx.astype(float), x.astype(float)))


def test_scales_and_kinds():
    x = integers("x", (2, 3, 4, 5), "float32", 9)
    assert_same_numbers(fastconv.upsample(x, scale_factor=2), fastconv.upsample(x, (8, 10)))
    assert fastconv.upsample(x, scale_factor=(0.5, 1.5)).shape == (2, 3, 2, 7)
    same = fastconv.upsample(x, (4, 5))
    assert_same_numbers(same, x)
    assert not np.may_share_memory(same, x)
    half = fastconv.upsample(x.astype("float16"), (8, 10), mode="bilinear")
    assert half.dtype == np.float16
    assert fastconv.upsample(x[:0], 7).shape == (0, 3, 7, 7)
    assert fastconv.upsample_backward(np.zeros((0, 3, 7, 7)), (0, 3, 4, 5), 7).shape == (0, 3, 4, 5)


def test_nan_stays_with_those_that_show_it():
    x = np.zeros((1, 1, 1, 5))
    x[..., 2] = np.nan
    assert np.isnan(fastconv.upsample(x, (1, 10)))[0, 0, 0].tolist() == [False] * 4 + [True] * 2 + [False] * 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, InvalidProblem, "exactly one of size and scale_factor must be given, got None and None"),
        ({"size": 2, "scale_factor": 2}, InvalidProblem, "exactly one of size and scale_factor"),
        ({"size": 0}, InvalidProblem, "size must be at least 1, got 0"),
        ({"size": 2.0}, TypeError, "size must be an int, got 2.0"),
        ({"size": (2, 2, 2)}, InvalidProblem, "size must be an int or 2 ints"),
        ({"size": 2**62}, InvalidProblem, "more than can be addressed"),
        ({"scale_factor": -1}, InvalidProblem, "scale_factor must be positive and finite, got -1"),
        ({"scale_factor": math.nan}, InvalidProblem, "scale_factor must be positive and finite, got nan"),
        ({"scale_factor": "2"}, TypeError, "scale_factor must be a number, got '2'"),
        ({"scale_factor": 0.01}, InvalidProblem, "leaves no output"),
        ({"size": 2, "mode": "cubic"}, InvalidProblem, 'mode must be "nearest" or "bilinear", got \'cubic\''),
        ({"size": 2, "align_corners": True}, InvalidProblem, 'align_corners belongs to mode "bilinear", got True'),
        ({"size": 2, "mode": "bilinear", "align_corners": 1}, TypeError, "align_corners must be True or False, got 1"),
        ({"size": 2, "data_format": "NWC"}, InvalidProblem, 'data_format must be "NCHW" or "NHWC", got'),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        fastconv.upsample(np.zeros((1, 1, 3, 3)), **arguments)


def test_errors_of_shapes():
    with pytest.raises(InvalidProblem, match="input must have 3 to 5 dimensions"):
        fastconv.upsample(np.zeros((3, 3)), 2)
    with pytest.raises(InvalidProblem, match='mode "bilinear" needs an input of 4 dimensions'):
        fastconv.upsample(np.zeros((1, 3, 3)), 2, mode="bilinear")
    with pytest.raises(InvalidProblem, match=r"grad_output must have shape \(1, 1, 6, 6\)"):
        fastconv.upsample_backward(np.zeros((1, 1, 5, 5)), (1, 1, 3, 3), 6)
    with pytest.raises(TypeError, match="input must be of dtype"):
        fastconv.upsample(np.zeros((1, 1, 3, 3), int), 2)


@pytest.mark.peers
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_torch(mode, dtype):
    """Sizes, and scales whose inverse is exact: elsewhere torch's own gradient is not that of what it showed."""
    torch = pytest.importorskip("torch")
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    for seed in range(60):
        rng = generator(mode, dtype, seed)
        axes = 2 if mode == "bilinear" else int(rng.integers(1, 4))
        size = tuple(rng.integers(1, 8, axes).tolist())
        options = {"mode": mode, "align_corners": [None, False, True][seed % 3] if mode == "bilinear" else None}
        if seed % 2:
            options["size"] = tuple(rng.integers(1, 16, axes).tolist())
        else:
            options["scale_factor"] = float(rng.choice([0.5, 1, 2, 4])) if min(size) > 1 else 2.0
        x = rng.standard_normal((2, 3, *size)).astype(dtype)
        leaf = torch.tensor(x, requires_grad=True)
        expected = torch.nn.functional.interpolate(leaf, **options)
        y = fastconv.upsample(x, **options)
        assert_close(y, expected.detach().numpy(), tolerance)
        dy = rng.standard_normal(y.shape).astype(dtype)
        expected.backward(torch.tensor(dy))
        assert_close(fastconv.upsample_backward(dy, x.shape, **options), leaf.grad.numpy(), 10 * tolerance)
