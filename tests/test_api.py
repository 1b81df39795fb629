"""The street door: activations, masks, padding modes, the lectures' examples, and normalisation.

Its edge cases are in test_edge_*.py, what calls are refused with which message in test_properties.py, and the settings
in test_settings.py.
"""

import warnings

import numpy as np
import pytest

import fastconv
from fastconv import ConvProblem, InvalidProblem, UnsupportedProblem
from tests.checks import assert_close, assert_same_bits, assert_same_numbers
from tests.problems import generator
from tests.small import DY, NAMES, POOL_NAMES, B, W, X, Y, last, whole

# -- Activation, masks -------------------------------------------------------------------------------


@NAMES
def test_activations(name):
    assert_same_numbers(fastconv.conv2d(X, W, B, padding=1, activation="relu", algorithm=name), Y.clip(0))
    doubled = fastconv.conv2d(X, W, B, padding=1, activation=lambda y: 2 * y, algorithm=name)
    assert_same_numbers(doubled, 2 * Y)


@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        (lambda y: None, TypeError, "activation must return an array .*float32, got NoneType"),
        (lambda y: 1.0, TypeError, "activation must return an array .*float32, got float"),
        (lambda y: y.tolist(), TypeError, "activation must return an array .*float32, got list"),
        (lambda y: y * 1j, TypeError, "activation must return an array .*float32, got complex64 array"),
        (lambda y: y.astype(float), TypeError, "activation must return an array .*float32, got float64 array"),
        (lambda y: y > 0, TypeError, "activation must return an array .*float32, got bool array"),
        (lambda y: y[:1], ValueError, r"shape it is given, \(2, 4, 9, 11\), got \(1, 4, 9, 11\)"),
        (lambda y: y[None], ValueError, r"shape it is given, \(2, 4, 9, 11\), got \(1, 2, 4, 9, 11\)"),
        (lambda y: X, ValueError, "activation must return an array of its own, got memory of an input"),
        (lambda y: X[:, ::-1], ValueError, "activation must return an array of its own, got memory of an input"),
    ],
)
@pytest.mark.parametrize("with_out", [False, True])
def test_what_an_activation_returns_is_checked(activation, error, message, with_out):
    out = np.empty_like(X) if with_out else None
    with pytest.raises(error, match=message):
        fastconv.conv2d(X, W[:4], padding=1, activation=activation, out=out)


@pytest.mark.parametrize(
    "activation",
    [
        lambda y: np.multiply(y, 2, out=y),
        lambda y: (2 * y[:, ::-1])[:, ::-1],
        lambda y: np.broadcast_to(np.float32(7), y.shape),
        lambda y: y[::-1],
        lambda y: (2 * y).view(type("Sub", (np.ndarray,), {})),
    ],
)
def test_the_result_of_an_activation_becomes_a_plain_array_of_its_own(activation):
    y, out = fastconv.conv2d(X, W, B, padding=1, activation=activation), np.empty_like(Y)
    assert type(y) is np.ndarray
    assert y.flags.carray
    assert_same_numbers(y, np.ascontiguousarray(activation(Y.copy())).view(np.ndarray))
    assert fastconv.conv2d(X, W, B, padding=1, activation=activation, out=out) is out
    assert_same_numbers(out, y)


@NAMES
def test_masked_gradients_are_none_and_the_others_the_same(name):
    whole_answer = fastconv.conv2d_backward(DY, X, W, padding=1, algorithm=name)
    for mask in np.ndindex(2, 2, 2):
        wanted = tuple(map(bool, mask))
        found = fastconv.conv2d_backward(DY, X, W, padding=1, output_mask=wanted, algorithm=name)
        for want, actual, right in zip(wanted, found, whole_answer, strict=True):
            if want:
                assert_same_numbers(actual, right)
            else:
                assert actual is None
    for mask in ((True, True), (1, 0, 1), None, "abc"):
        with pytest.raises((TypeError, ValueError), match="output_mask"):
            fastconv.conv2d_backward(DY, X, W, padding=1, output_mask=mask)


def test_a_mask_of_gradients_may_be_an_array_of_bools():
    found = fastconv.conv2d_backward(DY, X, W, padding=1, output_mask=np.array([True, False, True]))
    assert [gradient is not None for gradient in found] == [True, False, True]
    for wrong in (np.array([1, 0, 0]), np.array([True, False]), np.array(True)):
        with pytest.raises((TypeError, ValueError), match="output_mask must be"):
            fastconv.conv2d_backward(DY, X, W, padding=1, output_mask=wrong)


def test_the_functions_of_torch_nn_grad():
    dx, dw, _ = fastconv.conv2d_backward(DY, X, W, padding=1)
    assert_same_numbers(fastconv.conv2d_input(X.shape, W, DY, padding=1), dx)
    assert_same_numbers(fastconv.conv2d_weight(X, W.shape, DY, padding=1), dw)
    with pytest.raises(ValueError, match="input_size must be a shape of 4 ints"):
        fastconv.conv2d_input((4, 9, 11), W, DY, padding=1)
    with pytest.raises(ValueError, match=r"grad_output must have shape \(2, 6, 9, 11\)"):
        fastconv.conv2d_weight(X, W.shape, DY[:, :, 1:], padding=1)
    with pytest.raises(ValueError, match=r"grad_output must have shape \(2, 6, 9, 11\) .* got \(2, 6, 9, 10\)"):
        fastconv.conv2d_backward(DY[..., 1:], X, W, padding=1)


# -- Contents may change between calls --------------------------------------------------------------


@NAMES
def test_nothing_is_cached_by_the_identity_of_an_array(name):
    x, w, b = X.copy(), W.copy(), B.copy()
    first = fastconv.conv2d(x, w, b, padding=1, algorithm=name)
    w *= 2
    b *= 2
    second = fastconv.conv2d(x, w, b, padding=1, algorithm=name)
    assert_same_numbers(second, 2 * first)
    x[...] = 0
    assert_same_numbers(fastconv.conv2d(x, w, padding=1, algorithm=name), np.zeros_like(Y))
    assert_same_numbers(first, Y)


# -- Padding modes ----------------------------------------------------------------------------------

MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@NAMES
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_padding_modes(name, mode, layout):
    """A convolution of what np.pad makes, and gradients adjoint to it."""
    padded = np.pad(X, ((0, 0), (0, 0), (2, 1), (0, 3)), mode=MODES[mode])
    expected = fastconv.conv2d(padded, W, B, stride=2, algorithm=name)
    x, arguments = X, {"stride": 2, "padding": ((2, 1), (0, 3)), "padding_mode": mode, "algorithm": name}
    if layout == "NHWC":
        x, expected = last(X), last(expected)
    y = fastconv.conv2d(x, W, B, data_format=layout, **arguments)
    assert_same_numbers(y, expected)
    dy = whole("dy", *y.shape)
    dx, dw, _ = fastconv.conv2d_backward(dy, x, W, data_format=layout, **arguments)
    linear = fastconv.conv2d(x, W, data_format=layout, **arguments)
    assert np.vdot(dy, linear) == np.vdot(dx, x) == np.vdot(dw, W)
    assert dx.shape == x.shape


# -- Worked examples of the lectures ----------------------------------------------------------------


def test_output_sizes_of_the_lectures():
    assert fastconv.output_size(32, 5, padding=2) == 32
    assert [fastconv.output_size(7, 3, stride) for stride in (1, 2)] == [5, 3]
    with pytest.raises(ValueError, match=r"stride 3 does not fit: .* = 2\.33"):
        fastconv.output_size(7, 3, 3, exact=True)
    assert fastconv.output_size(7, 3, 3) == 2
    assert fastconv.output_size(7, 3, 2, exact=True) == 3
    assert fastconv.output_size(5, 3, 3) == 1
    assert fastconv.output_size(fastconv.output_size(32, 5), 5) == 24
    for kernel in (1, 3, 5, 7):
        assert fastconv.output_size(32, kernel, padding=(kernel - 1) // 2) == 32
    assert fastconv.output_size((227, 224), (11, 11), 4) == (55, 54)
    assert fastconv.output_size((112, 112), 3, 2, 1, ceil_mode=True) == (57, 57)


@NAMES
def test_arithmetic_of_the_lectures(name):
    x = np.array([[200, 150, 150], [100, 50, 100], [25, 25, 10]], float)[None, None]
    sobel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], float)[None, None]
    assert fastconv.conv2d(x, sobel, algorithm=name).item() == 65
    assert fastconv.conv2d(x, sobel, np.array([1.0]), algorithm=name).item() == 66
    problem = ConvProblem("float32", 1, 3, (32, 32), 10, (5, 5), pads=((2, 2), (2, 2)))
    assert problem.output_shape == (1, 10, 32, 32)
    assert np.prod(problem.weight_shape) + 10 == 760
    assert np.prod(ConvProblem("float32", 1, 3, (9, 9), 4, (3, 3)).weight_shape) + 4 == 112


@POOL_NAMES
def test_pooling_of_the_lectures(name):
    x = np.array([[200, 150, 150], [100, 50, 100], [25, 25, 10]], float)[None, None]
    assert fastconv.max_pool2d(x, 3, algorithm=name).item() == 200
    assert fastconv.avg_pool2d(x, 3, algorithm=name).item() == 90


@NAMES
def test_linear_layer_of_the_lectures(name):
    """A linear layer is a pointwise convolution; the product printed on the slide is wrong."""
    x = np.array([[2.0, 1, -3], [-3, 4, 2]])
    w = np.array([[3.0, 2, 1, -1], [2, 1, 3, 2], [3, 2, 1, -2]])
    right = np.array([[-1.0, -1, 2, 6], [5, 2, 11, 7]])
    images, filters = x[:, :, None, None], np.ascontiguousarray(w.T)[:, :, None, None]
    assert_same_numbers(fastconv.conv2d(images, filters, algorithm=name)[:, :, 0, 0], right)
    dy = whole("linear", 2, 4, 1, 1, dtype=float)
    dx, dw, db = fastconv.conv2d_backward(dy, images, filters, algorithm=name)
    assert_same_numbers(dx[:, :, 0, 0], dy[:, :, 0, 0] @ w.T)
    assert_same_numbers(dw[:, :, 0, 0], (x.T @ dy[:, :, 0, 0]).T)
    assert_same_numbers(db, dy[:, :, 0, 0].sum(0))


# -- Local response normalisation -------------------------------------------------------------------


def plain_norm(x, size, alpha, beta, k):
    out = np.empty_like(x)
    for n, c, h, w in np.ndindex(x.shape):
        first, end = max(0, c - size // 2), min(x.shape[1], c + (size - 1) // 2 + 1)
        total = sum(x[n, other, h, w] ** 2 for other in range(first, end))
        out[n, c, h, w] = x[n, c, h, w] / (k + alpha / size * total) ** beta
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize(("alpha", "beta", "k"), [(1e-4, 0.75, 1.0), (0.5, 0.5, 2.0), (2.0, 1.0, 0.5)])
def test_local_response_norm(size, alpha, beta, k):
    x = generator("lrn").standard_normal((2, 7, 3, 2))
    expected = plain_norm(x, size, alpha, beta, k)
    assert_close(fastconv.local_response_norm(x, size, alpha, beta, k), expected, 1e-14)
    single = fastconv.local_response_norm(x.astype(np.float32), size, alpha, beta, k)
    assert_close(single, expected, 1e-6, dtype=np.float32)
    dy = generator("lrn dy").standard_normal(x.shape)
    dx = fastconv.local_response_norm_backward(dy, x, size, alpha, beta, k)
    differences = np.empty_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        change = plain_norm(x + step, size, alpha, beta, k) - plain_norm(x - step, size, alpha, beta, k)
        differences[place] = np.vdot(dy, change) / 2e-6
    assert_close(dx, differences, 1e-7)


def test_local_response_norm_refuses():
    with pytest.raises(InvalidProblem, match="at least 3 dimensions"):
        fastconv.local_response_norm(np.zeros((3, 3)), 2)
    with pytest.raises(InvalidProblem, match="size must be at least 1, got 0"):
        fastconv.local_response_norm(np.zeros((1, 3, 3)), 0)
    with pytest.raises(InvalidProblem, match=r"size must be at most 2\*\*62"):
        fastconv.local_response_norm(np.zeros((1, 3, 3)), 10**400)
    with pytest.raises(InvalidProblem, match="at least 1 channel"):
        fastconv.local_response_norm(np.zeros((1, 0, 3)), 2)
    for wrong in (2.0, "2", True, None):
        with pytest.raises(TypeError, match=f"size must be an int, got {wrong!r}"):
            fastconv.local_response_norm(np.zeros((1, 3, 3)), wrong)
    with pytest.raises(InvalidProblem, match="grad_output must have shape"):
        fastconv.local_response_norm_backward(np.zeros((1, 3, 2)), np.zeros((1, 3, 3)), 2)


@pytest.mark.parametrize("name", ["alpha", "beta", "k"])
@pytest.mark.parametrize(
    "value", [None, "1", 1j, True, [1.0], np.ones(3), np.nan, np.inf, 10**400], ids=lambda value: f"{value}"[:9]
)
def test_factors_of_local_response_norm_are_finite_numbers(name, value):
    x = np.ones((1, 3, 3))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    error, message = (InvalidProblem, f"{name} must be") if number else (TypeError, f"{name} must be a number")
    with pytest.raises(error, match=message):
        fastconv.local_response_norm(x, 2, **{name: value})
    with pytest.raises(error, match=message):
        fastconv.local_response_norm_backward(x, x, 2, **{name: value})


# -- Errors are of two families ---------------------------------------------------------------------


def test_families_of_errors():
    assert issubclass(InvalidProblem, ValueError)
    assert issubclass(UnsupportedProblem, NotImplementedError)
    assert not issubclass(InvalidProblem, UnsupportedProblem)


def test_results_own_their_memory_and_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = fastconv.conv2d(X, W, B, padding=1)
        pooled = fastconv.max_pool2d(X, 2)
    for result in (y, pooled):
        assert result.flags.writeable
        assert result.flags.c_contiguous
    assert_same_bits(y, Y)


@pytest.mark.parametrize("stride", [True, 1.0, np.float32(1), "1", None])
def test_what_equals_a_known_argument_is_not_taken_for_it(stride):
    """Calls are remembered by their arguments, and 1 == 1.0 == True."""
    images, filters = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 2, 2), np.float32)
    fastconv.conv2d(images, filters, stride=1)
    for argument in ("stride", "dilation", "groups", "padding"):
        with pytest.raises((TypeError, ValueError)):
            fastconv.conv2d(images, filters, **{argument: stride})


def test_results_own_their_memory():
    x, w = np.ones((2, 4, 80, 80), np.float32), np.ones((4, 4, 3, 3), np.float32)
    y = fastconv.conv2d(x, w)
    pooled, where = fastconv.max_pool2d(x, 2, return_indices=True)
    averages = fastconv.avg_pool2d(x, 2)
    results = [
        y, pooled, where, averages, *fastconv.conv2d_backward(y, x, w), fastconv.conv_transpose2d(y, w),
        fastconv.max_pool2d_backward(pooled, x, 2, indices=where), fastconv.avg_pool2d_backward(averages, x.shape, 2),
    ]  # fmt: skip
    assert all(result.flags.owndata and result.flags.writeable for result in results)
