"""Adaptive, p-norm and fractional pools, and unpooling: against plain loops, adjoints exact; torch in make test-all."""

import math

import numpy as np
import pytest

import fastconv
from fastconv import InvalidProblem
from fastconv.functional import segments
from tests import plain
from tests.checks import assert_close, assert_same_numbers
from tests.problems import generator, integers

LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
AXES = pytest.mark.parametrize("axes", [1, 2, 3])


def function(name):
    return getattr(fastconv, name)


def last(array):
    return np.moveaxis(array, 1, -1)


# -- Runs: the one idea behind all of them ----------------------------------------------------------


@pytest.mark.parametrize(("size", "out"), [(5, 3), (3, 5), (13, 7), (7, 7), (1, 4), (4, 1), (40, 3)])
def test_transposed_runs_are_the_adjoint(size, out):
    runs = segments.adaptive_runs(size, out)
    back = segments.transposed(runs, size)
    seen = np.zeros((out, size), int)
    for i, (start, length) in enumerate(zip(*runs)):
        seen[i, start : start + length] += 1
    for j, (start, length) in enumerate(zip(*back)):
        assert (np.flatnonzero(seen[:, j]) == np.arange(start, start + length)).all()
    x, y = integers("x", (2, size), "float64", 9), integers("y", (2, out), "float64", 9)
    assert_same_numbers(segments.sums_along(x, runs, 1), x @ seen.T)
    assert_same_numbers(segments.sums_along(y, back, 1), y @ seen)


# -- Adaptive ---------------------------------------------------------------------------------------

#: (size, output size): divisible, not, larger than the input, one, mixed.
ADAPTIVE = [
    ((6, 4, 8), (3, 2, 4)), ((7, 5, 6), (3, 2, 4)), ((3, 2, 4), (5, 3, 7)), ((5, 7, 6), (1, 1, 1)),
    ((1, 1, 1), (2, 3, 1)), ((6, 5, 4), (2, 3, 4)), ((23, 3, 5), (2, 2, 3)),
]  # fmt: skip


def adaptive_case(axes, case, values="integers"):
    size, out = (entry[:axes] for entry in ADAPTIVE[case])
    x = integers((case, axes), (2, 3, *size), "float64", 5)
    if values == "special":
        rng = generator("special", case, axes)
        x = rng.choice(np.array([np.nan, np.inf, -np.inf, -np.inf, -0.0, 0.0, 1.0]), x.shape)
    return x, size, out


@AXES
@pytest.mark.parametrize("case", range(len(ADAPTIVE)))
@pytest.mark.parametrize("values", ["integers", "special"])
def test_adaptive_max(axes, case, values):
    x, size, out = adaptive_case(axes, case, values)
    pool, backward = function(f"adaptive_max_pool{axes}d"), function(f"adaptive_max_pool{axes}d_backward")
    maxima, where = plain.over_planes(lambda plane: plain.maxima(plane, plain.adaptive(size, out)), x)
    y, indices = pool(x, out, True)
    assert_same_numbers(y, maxima)
    assert_same_numbers(indices, where)
    assert_same_numbers(pool(x, out), y)
    assert_same_numbers(pool(x[0], out, True)[1], where[0])
    format_last = {"data_format": LAYOUTS[axes][1]}
    y_last, where_last = pool(last(x), out, True, **format_last)
    assert_same_numbers(y_last, last(maxima))
    assert_same_numbers(where_last, last(where))
    dy = integers("dy", y.shape, "float64", 9)
    expected = np.zeros((6, math.prod(size)))
    for plane, cells, upstream in zip(expected, where.reshape(6, -1), dy.reshape(6, -1)):
        np.add.at(plane, cells, upstream)
    expected = expected.reshape(x.shape)
    for known in ({}, {"indices": indices}):
        assert_same_numbers(backward(dy, x, out, **known), expected)
    assert_same_numbers(backward(last(dy), last(x), out, **format_last), last(expected))
    assert_same_numbers(backward(last(dy)[0], last(x)[0], out, indices=where_last[0], **format_last), last(expected)[0])


@AXES
@pytest.mark.parametrize("case", range(len(ADAPTIVE)))
def test_adaptive_average(axes, case):
    pool, backward = function(f"adaptive_avg_pool{axes}d"), function(f"adaptive_avg_pool{axes}d_backward")
    for values in ("integers", "special"):
        x, size, out = adaptive_case(axes, case, values)
        with np.errstate(all="ignore"):
            windows = plain.adaptive(size, out)
            expected = plain.over_planes(lambda plane, windows=windows: plain.means(plane, windows, len), x)
        y = pool(x, out)
        assert_close(y, expected, 1e-14, values)
        assert_close(pool(last(x), out, data_format=LAYOUTS[axes][1]), last(expected), 1e-14, values)
        assert_close(pool(x[0], out), expected[0], 1e-14, values)
    # Exact: gradients are multiples of what they are divided by.
    multiples, dy, grad = integers("dy", y.shape, "float64", 9), np.empty(y.shape), np.zeros(x.shape)
    for n, c in np.ndindex(2, 3):
        for at, taken in plain.each_window(plain.adaptive(size, out)):
            dy[(n, c, *at)] = multiples[(n, c, *at)] * len(taken)
            for position in taken:
                grad[(n, c, *position)] += multiples[(n, c, *at)]
    assert_same_numbers(backward(dy, x, out), grad)
    assert_same_numbers(backward(dy[1], x.shape[1:], out), grad[1])
    assert_same_numbers(backward(last(dy), last(x).shape, out, data_format=LAYOUTS[axes][1]), last(grad))


def test_adaptive_sizes_for_short():
    x = integers("x", (2, 3, 6, 8), "float32", 9)
    assert_same_numbers(fastconv.adaptive_avg_pool2d(x, (None, 4)), fastconv.avg_pool2d(x, (1, 2)))
    assert_same_numbers(fastconv.adaptive_max_pool2d(x, 2), fastconv.max_pool2d(x, (3, 4)))
    assert fastconv.adaptive_avg_pool2d(x, None) is not x
    assert_same_numbers(fastconv.adaptive_avg_pool2d(x, None), x)
    assert fastconv.adaptive_avg_pool2d(x[:0], (4, 5)).shape == (0, 3, 4, 5)
    assert fastconv.adaptive_max_pool2d_backward(np.zeros((0, 3, 4, 5), "float32"), x[:0], (4, 5)).shape == (0, 3, 6, 8)
    assert fastconv.adaptive_avg_pool2d(x.astype("float16"), (4, 5)).dtype == np.float16


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, InvalidProblem, "output_size must be at least 1, got 0"),
        ((2, -1), InvalidProblem, r"output_size must be at least 1, got \(2, -1\)"),
        ((2, 2, 2), InvalidProblem, "output_size must be an int or 2 ints"),
        (2.0, TypeError, "output_size must be an int, got 2.0"),
        ((2**40, 2**40), InvalidProblem, "output_size .* more than can be addressed"),
    ],
)
def test_adaptive_errors(kind, size, error, message):
    with pytest.raises(error, match=message):
        function(f"adaptive_{kind}_pool2d")(np.zeros((2, 3, 5, 7)), size)
    with pytest.raises(error, match=message):
        function(f"adaptive_{kind}_pool2d_backward")(np.zeros((2, 3, 2, 2)), np.zeros((2, 3, 5, 7)), size)


# -- p-norms ----------------------------------------------------------------------------------------


@AXES
@pytest.mark.parametrize("norm", [1, 2, 3.0, 1.5, -1, math.inf, -math.inf])
def test_p_norms(axes, norm):
    kernel, stride = (2, 3, 2)[:axes], (2, 1, 2)[:axes]
    x = 0.5 + generator("lp", axes).random((2, 3, *(5, 4, 6)[:axes]))
    windows = plain.regular(x.shape[2:], kernel, stride)

    def one(plane):
        result = np.zeros(plain.out_shape(windows))
        for at, taken in plain.each_window(windows):
            result[at] = np.linalg.norm([plane[position] for position in taken], norm)
        return result

    expected = plain.over_planes(one, x)
    pool, backward = function(f"lp_pool{axes}d"), function(f"lp_pool{axes}d_backward")
    y = pool(x, norm, kernel, stride)
    assert_close(y, expected, 1e-14)
    assert_close(pool(last(x), norm, kernel, stride, data_format=LAYOUTS[axes][1]), last(expected), 1e-14)
    assert_close(pool(x[0], norm, kernel, stride), expected[0], 1e-14)
    # The gradient against central differences, in one direction.
    dy, along, step = generator("dy", axes).standard_normal(y.shape), generator("v").standard_normal(x.shape), 1e-6
    ahead, behind = pool(x + step * along, norm, kernel, stride), pool(x - step * along, norm, kernel, stride)
    dx = backward(dy, x, norm, kernel, stride)
    assert np.vdot(dx, along) == pytest.approx(np.vdot(dy, (ahead - behind) / (2 * step)), rel=1e-7)
    dx_last = backward(last(dy), last(x), norm, kernel, stride, data_format=LAYOUTS[axes][1])
    assert_close(dx_last, last(dx), 1e-14)


def test_p_norm_of_nothing():
    """A window of zeros: 0, and no NaN from 0 * inf in its gradient; a negative sum has no square root."""
    zeros = np.zeros((1, 1, 4))
    assert fastconv.lp_pool1d(zeros, 2, 2).tolist() == [[[0, 0]]]
    assert fastconv.lp_pool1d_backward(np.ones((1, 1, 2)), zeros, 2, 2).tolist() == [[[0, 0, 0, 0]]]
    assert np.isnan(fastconv.lp_pool1d(zeros - 1, 3, 2)).all()


@pytest.mark.parametrize(("norm", "pixel"), [(1.5, -1.0), (0.5, 0.0), (math.inf, math.nan), (2, math.nan)])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_p_norm_gradient_of_what_no_window_sees_is_zero(axes, norm, pixel):
    """Its slope is NaN or infinite there, and 0 times that no number. A window's NaN reaches all that it sees."""
    backward, kernel, stride = function(f"lp_pool{axes}d_backward"), (2,) * axes, (3,) * axes
    unseen = np.ones((1, 2, *(7,) * axes), bool)
    unseen[np.ix_([0], [0, 1], *([0, 1, 3, 4],) * axes)] = False
    x, dy = np.where(unseen, pixel, 1.0), np.ones((1, 2, *(2,) * axes))
    dx = backward(dy, x, norm, kernel, stride)
    assert (dx[unseen] == 0).all()
    assert np.isfinite(dx).all()
    assert_same_numbers(backward(last(dy), last(x), norm, kernel, stride, data_format=LAYOUTS[axes][1]), last(dx))
    x[0, 1][(0,) * axes] = math.nan
    nan = np.zeros(unseen.shape, bool)
    nan[0, 1][(slice(2),) * axes] = True
    if not math.isinf(norm):
        assert (np.isnan(backward(dy, x, norm, kernel, stride)) == nan).all()


@pytest.mark.parametrize(
    ("norm", "error", "message"),
    [
        (0, InvalidProblem, "norm_type must not be 0 or NaN, got 0"),
        (math.nan, InvalidProblem, "norm_type must not be 0 or NaN, got nan"),
        ("2", TypeError, "norm_type must be a number, got '2'"),
        (True, TypeError, "norm_type must be a number, got True"),
    ],
)
def test_p_norm_errors(norm, error, message):
    with pytest.raises(error, match=message):
        fastconv.lp_pool2d(np.zeros((1, 1, 4, 4)), norm, 2)


# -- Fractional -------------------------------------------------------------------------------------


def fractional_starts(u, size, kernel, out):
    if out == 1:
        return [size - kernel]
    step = (size - kernel) / (out - 1)
    return [int((i + u) * step) - int(u * step) for i in range(out - 1)] + [size - kernel]


@pytest.mark.parametrize(
    ("size", "kernel", "out"),
    [((9, 8), (2, 3), (4, 5)), ((5, 5), (2, 2), (4, 4)), ((7, 4), (3, 1), (1, 4)), ((6, 6), (6, 1), (1, 1))],
)
def test_fractional(size, kernel, out):
    x = integers("x", (2, 3, *size), "float64", 9)
    samples = generator("samples", size).random((2, 3, 2))
    y, indices = fastconv.fractional_max_pool2d(x, kernel, out, None, True, samples)
    for n, c in np.ndindex(2, 3):
        axes = []
        for axis, u in enumerate(samples[n, c, ::-1]):
            starts = fractional_starts(u, size[axis], kernel[axis], out[axis])
            axes.append([list(range(start, start + kernel[axis])) for start in starts])
        maxima, where = plain.maxima(x[n, c], axes)
        assert_same_numbers(y[n, c], maxima)
        assert_same_numbers(indices[n, c], where)
    y_last, where_last = fastconv.fractional_max_pool2d(last(x), kernel, out, None, True, samples, data_format="NHWC")
    assert_same_numbers(y_last, last(y))
    assert_same_numbers(where_last, last(indices))
    one, where = fastconv.fractional_max_pool2d(x[1], kernel, out, None, True, samples[1:])
    assert_same_numbers(one, y[1])
    assert_same_numbers(where, indices[1])
    dy = integers("dy", y.shape, "float64", 9)
    dx = fastconv.fractional_max_pool2d_backward(dy, x, kernel, out, indices=indices)
    assert float(np.vdot(dy, y)) == float(np.vdot(dx, x))
    assert_same_numbers(fastconv.fractional_max_pool2d_backward(dy, x, kernel, out, _random_samples=samples), dx)


def test_fractional_repeats_itself_by_its_seed():
    x = generator("x").standard_normal((2, 3, 20, 20), np.float32)

    def pooled(seed):
        return fastconv.fractional_max_pool2d(x, 2, output_ratio=0.7, generator=np.random.default_rng(seed))

    assert pooled(1).shape == (2, 3, 14, 14)
    assert_same_numbers(pooled(1), pooled(1))
    assert (pooled(1) != pooled(2)).any()
    assert fastconv.fractional_max_pool2d(x.astype("float16"), 2, (3, 4)).dtype == np.float16
    assert fastconv.fractional_max_pool2d(x[:0], 2, 3).shape == (0, 3, 3, 3)


def test_fractional_nan_and_ties():
    x = np.zeros((1, 1, 3, 3))
    samples = np.zeros((1, 1, 2))
    assert fastconv.fractional_max_pool2d(x, 3, 1, None, True, samples)[1].item() == 0
    x[0, 0, 1, 2] = x[0, 0, 2, 0] = np.nan
    y, where = fastconv.fractional_max_pool2d(x, 3, 1, None, True, samples)
    assert np.isnan(y.item())
    assert where.item() == 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, InvalidProblem, "exactly one of output_size and output_ratio must be given, got None and None"),
        ({"output_size": 2, "output_ratio": 0.5}, InvalidProblem, "exactly one of"),
        ({"output_ratio": 1.0}, InvalidProblem, "output_ratio must be between 0 and 1, got 1.0"),
        ({"output_ratio": "half"}, TypeError, "output_ratio must be a number, got 'half'"),
        ({"output_ratio": 0.01}, InvalidProblem, "leaves no output"),
        ({"output_size": 5}, InvalidProblem, r"needs an input of at least output \+ kernel - 1 = \(6, 6\)"),
        ({"output_size": 0}, InvalidProblem, "output_size must be at least 1, got 0"),
        ({"output_size": 2, "_random_samples": np.ones((1, 1, 2))}, InvalidProblem, r"_random_samples must be in \[0"),
        ({"output_size": 2, "_random_samples": np.zeros((1, 2))}, InvalidProblem, r"must have shape \(1, 1, 2\)"),
        ({"output_size": 2, "generator": 7}, TypeError, "generator must be a numpy.random.Generator, got 7"),
    ],
)
def test_fractional_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        fastconv.fractional_max_pool2d(np.zeros((1, 1, 5, 5)), 2, **arguments)


def test_fractional_gradient_needs_the_windows():
    with pytest.raises(InvalidProblem, match="indices or _random_samples must be given"):
        fastconv.fractional_max_pool2d_backward(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 5, 5)), 2, 2)


# -- Unpooling --------------------------------------------------------------------------------------


@AXES
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), (2, 3, 0)])
def test_unpooling_puts_maxima_back(axes, kernel, stride, padding):
    size = (6, 5, 7)[:axes]
    x = generator("unpool", axes).permutation(math.prod((2, 3, *size))).reshape(2, 3, *size) + 1.0
    pool, unpool = function(f"max_pool{axes}d"), function(f"max_unpool{axes}d")
    y, indices = pool(x, kernel, stride, padding, return_indices=True)
    back = unpool(y, indices, kernel, stride, padding, output_size=size)
    expected = np.where(np.isin(x, y), x, 0.0)
    assert_same_numbers(back, expected)
    assert_same_numbers(unpool(y, indices, kernel, stride, padding, output_size=x.shape), expected)
    assert_same_numbers(unpool(y[1], indices[1], kernel, stride, padding, output_size=size), expected[1])
    options = {"output_size": size, "data_format": LAYOUTS[axes][1]}
    assert_same_numbers(unpool(last(y), last(indices), kernel, stride, padding, **options), last(expected))
    dy = integers("dy", x.shape, "float64", 9)
    backward = function(f"max_unpool{axes}d_backward")
    dx = backward(dy, y, indices, kernel, stride, padding, size)
    assert_same_numbers(dx, np.take_along_axis(dy.reshape(2, 3, -1), indices.reshape(2, 3, -1), 2).reshape(y.shape))
    assert_same_numbers(backward(last(dy), last(y).shape, last(indices), kernel, stride, padding, **options), last(dx))
    if stride is None:
        assert float(np.vdot(dy, back)) == float(np.vdot(dx, y))  # an adjoint, where no place is taken twice
        assert unpool(y, indices * 0, kernel).shape[2:] == tuple(kernel * extent for extent in y.shape[2:])


def test_unpooling_keeps_the_last_of_a_place():
    assert fastconv.max_unpool1d(np.array([[[5.0, 7.0]]]), np.array([[[1, 1]]]), 2).tolist() == [[[0, 7, 0, 0]]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"indices": np.full((1, 1, 2), 4)}, InvalidProblem, r"indices must be in \[0, 4\), got 4 to 4"),
        ({"indices": np.full((1, 1, 2), -1)}, InvalidProblem, r"indices must be in \[0, 4\), got -1 to -1"),
        ({"indices": np.zeros((1, 1, 2))}, TypeError, "indices must be an int64 array, got float64"),
        ({"indices": np.zeros((1, 1, 3), int)}, InvalidProblem, r"indices must have shape \(1, 1, 2\)"),
        ({"kernel_size": 0}, InvalidProblem, "kernel_size must be at least 1, got 0"),
        ({"stride": 0}, InvalidProblem, "stride must be at least 1, got 0"),
        ({"padding": -1}, InvalidProblem, "padding must be at least 0, got -1"),
        ({"padding": 2}, InvalidProblem, r"= \(0,\) must be at least 1"),
        ({"output_size": (6,)}, InvalidProblem, r"less than a stride away from \(4,\), got \(6,\)"),
        ({"output_size": (4, 4)}, InvalidProblem, "output_size must be 1 ints, or a whole shape of 3"),
        ({"kernel_size": 2**62}, InvalidProblem, "more than can be addressed"),
    ],
)
def test_unpooling_errors(arguments, error, message):
    call = {"indices": np.zeros((1, 1, 2), int), "kernel_size": 2} | arguments
    with pytest.raises(error, match=message):
        fastconv.max_unpool1d(np.zeros((1, 1, 2)), **call)


# -- torch ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def as_torch(torch, name, x, dy_of, *arguments):
    """(results, gradient) of torch for a random upstream gradient, and that gradient."""
    leaf = torch.tensor(x, requires_grad=True)
    results = getattr(torch.nn.functional, name)(leaf, *arguments)
    first = results[0] if isinstance(results, tuple) else results
    dy = dy_of(tuple(first.shape))
    first.backward(torch.tensor(dy))
    return [entry.detach().numpy() for entry in (results if isinstance(results, tuple) else (results,))], leaf.grad, dy


@pytest.mark.peers
@AXES
@pytest.mark.parametrize("case", range(len(ADAPTIVE)))
def test_adaptive_as_torch(torch, axes, case):
    size, out = (entry[:axes] for entry in ADAPTIVE[case])
    out = out if axes > 1 else out[0]
    x = generator(axes, case).standard_normal((2, 3, *size))
    (expected,), grad, dy = as_torch(torch, f"adaptive_avg_pool{axes}d", x, generator("dy").standard_normal, out)
    assert_close(function(f"adaptive_avg_pool{axes}d")(x, out), expected, 1e-14)
    assert_close(function(f"adaptive_avg_pool{axes}d_backward")(dy, x.shape, out), grad.numpy(), 1e-14)
    results, grad, dy = as_torch(torch, f"adaptive_max_pool{axes}d", x, generator("dy").standard_normal, out, True)
    for actual, expected in zip(function(f"adaptive_max_pool{axes}d")(x, out, True), results, strict=True):
        assert_same_numbers(actual, expected)
    assert_close(function(f"adaptive_max_pool{axes}d_backward")(dy, x, out), grad.numpy(), 1e-15)


@pytest.mark.peers
@AXES
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_p_norms_as_torch(torch, axes, ceil_mode):
    """But for what no window sees, whose gradient is 0 here; torch multiplies it by a slope, which may be NaN."""
    for norm in (1, 2, 3, 2.5, -1, math.inf, -math.inf):
        for kernel, stride in ((2, None), (3, 2), (2, 3)):
            x = generator(axes, norm).standard_normal((2, 3, 5, 6, 7)[: axes + 2])
            x[np.abs(x) < 0.2] = 0
            arguments = (norm, kernel, stride, ceil_mode)
            (expected,), grad, dy = as_torch(torch, f"lp_pool{axes}d", x, generator("dy").standard_normal, *arguments)
            assert_close(function(f"lp_pool{axes}d")(x, *arguments), expected, 1e-13)
            windows = plain.regular(x.shape[2:], (kernel,) * axes, (stride or kernel,) * axes, ceil_mode=ceil_mode)
            taken = [sorted({i for window in along for i in window if i < n}) for along, n in zip(windows, x.shape[2:])]
            unseen = np.ones(x.shape, bool)
            unseen[:, :, *np.ix_(*taken)] = False
            assert not np.nan_to_num(grad[torch.tensor(unseen)].numpy()).any()
            dx = np.where(unseen, 0, grad.numpy())
            assert_close(function(f"lp_pool{axes}d_backward")(dy, x, *arguments), dx, 1e-12)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fractional_as_torch(torch, dtype):
    for seed in range(20):
        rng = generator(dtype, seed)
        size, kernel = rng.integers(4, 13, 2).tolist(), rng.integers(1, 4, 2).tolist()
        out = [int(rng.integers(1, extent - k + 2)) for extent, k in zip(size, kernel)]
        x = rng.standard_normal((2, 3, *size)).astype(dtype)
        samples = torch.tensor(rng.random((2, 3, 2)).astype(dtype) * np.dtype(dtype).type(0.999))
        leaf = torch.tensor(x, requires_grad=True)
        expected, where = torch.nn.functional.fractional_max_pool2d(leaf, kernel, out, None, True, samples)
        y, indices = fastconv.fractional_max_pool2d(x, kernel, out, None, True, samples)
        assert_same_numbers(y, expected.detach().numpy())
        assert_same_numbers(indices, where.numpy())
        dy = rng.standard_normal(y.shape).astype(dtype)
        expected.backward(torch.tensor(dy))
        dx = fastconv.fractional_max_pool2d_backward(dy, x, kernel, out, _random_samples=samples)
        assert_close(dx, leaf.grad.numpy(), 1e-6)


@pytest.mark.peers
@AXES
def test_unpooling_as_torch(torch, axes):
    peer = torch.nn.functional
    for kernel, stride, padding in ((2, None, 0), (3, 2, 1), (2, 3, 0), (3, 1, 1)):
        x = torch.tensor(generator(axes).standard_normal((2, 3, 6, 5, 7)[: axes + 2]))
        y, where = getattr(peer, f"max_pool{axes}d")(x, kernel, stride, padding, return_indices=True)
        leaf = y.clone().requires_grad_()
        expected = getattr(peer, f"max_unpool{axes}d")(leaf, where, kernel, stride, padding, list(x.shape[2:]))
        size = tuple(x.shape[2:])
        arguments = (where.numpy(), kernel, stride, padding, size)
        assert_same_numbers(function(f"max_unpool{axes}d")(y, *arguments), expected.detach().numpy())
        dy = generator("dy").standard_normal(x.shape)
        expected.backward(torch.tensor(dy))
        dx = function(f"max_unpool{axes}d_backward")(dy, tuple(y.shape), *arguments)
        assert_same_numbers(dx, leaf.grad.numpy())
