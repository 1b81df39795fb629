"""Pools in one and three axes, for callers and for each algorithm, against plain loops; torch in make test-all."""

import numpy as np
import pytest

import fastconv
from fastconv import InvalidProblem, parse_problem
from fastconv.algorithm import Direction
from fastconv.planner import REGISTRY
from fastconv.pool import volumes
from tests import plain
from tests.checks import assert_close, assert_same_numbers, run_pool_backward, run_pool_forward
from tests.problems import generator, integers, pool_input

ALGORITHMS = pytest.mark.parametrize("algorithm", REGISTRY["pool"], ids=lambda algorithm: algorithm.name)
LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}

#: Problems of three axes: sizes, windows and steps that differ, padding on either side, all of it at once.
TEXTS = {
    "one_voxel": "n1c1d1h1w1_t1r1s1",
    "halving": "n2c3d4h6w4_t2r2s2",
    "odd": "n1c2d5h7w5_t2r2s2",
    "overlapping": "n1c2d5h4w6_t3r3s3_stride2x2x2_pad1:1,1:1,1:1",
    "dense": "n2c1d4h3w5_t3r2s3_stride1x1x1_pad1:1,0:1,1:0",
    "depth_only": "n1c2d7h3w2_t3r1s1_stride2x1x1_pad1:1,0:0,0:0",
    "planes_only": "n1c2d3h5w6_t1r2s3_stride1x2x2",
    "global": "n2c3d4h3w5_t4r3s5",
    "stride_over_kernel": "n1c2d7h8w5_t1r2s1_stride3x4x2",
    "stride_huge": f"n1c1d4h3w3_t2r2s2_stride{2**62}x{2**31}x1",
    "stride_beyond": f"n1c1d4h3w3_t2r2s2_stride{2**62}x1x1",
    "ceil": "n1c2d6h5w7_t3r2s3_stride2x3x2_ceil",
    "ceil_padded": "n1c2d5h4w6_t2r3s4_stride3x2x4_pad1:0,1:1,2:2_ceil",
    "pad_low": "n1c2d4h4w4_t3r3s2_stride2x2x2_pad1:0,1:0,1:0",
    "pad_high": "n1c2d4h4w4_t3r3s2_stride2x2x2_pad0:1,0:1,0:1",
}
MAX_ONLY = {
    "dilation_beyond": f"n1c1d4h3w3_t1r2s2_stride2x1x1_dil{2**61}x1x1",
    "dilation": "n1c2d7h5w6_t3r2s2_stride1x2x1_pad1:1,1:0,0:1_dil2x1x3",
    "wholly_in_padding": "n1c2d1h2w1_t2r2s2_stride1x1x1_pad1:1,1:1,1:1_dil2x2x2",
}
AVG_ONLY = {
    "not_counted": "n1c2d5h4w6_t3r3s3_stride2x2x2_pad1:1,1:1,1:1_nopad",
    "not_counted_ceil": "n1c2d5h4w6_t2r3s4_stride3x2x4_pad1:0,1:1,2:2_ceil_nopad",
    "divisor": "n1c2d5h4w6_t3r2s3_stride2x2x2_pad1:1,1:1,1:1_div-4",
}


def problems(kind, texts):
    both = {f"{name}{layout}": f"{kind}_f64_{text}{layout}" for name, text in texts.items() for layout in ("", "_nhwc")}
    return pytest.mark.parametrize("problem", [parse_problem(text) for text in both.values()], ids=both.keys())


def windows(problem):
    return plain.regular(
        problem.in_size, problem.kernel, problem.stride, problem.pads, problem.dilation, problem.ceil_mode
    )


def first(problem, array):
    return np.moveaxis(array, -1, 1) if problem.channels_last else array


def given(problem, array_nchw):
    return np.ascontiguousarray(np.moveaxis(array_nchw, 1, -1)) if problem.channels_last else array_nchw


def scattered(problem, dy_nchw, indices_nchw):
    grad = np.zeros((problem.batch, problem.channels, np.prod(problem.in_size)))
    for n, c in np.ndindex(grad.shape[:2]):
        np.add.at(grad[n, c], indices_nchw[n, c].ravel(), dy_nchw[n, c].ravel())
    return grad.reshape(problem.batch, problem.channels, *problem.in_size)


# -- Every algorithm on volumes, in memory that tells on it -----------------------------------------


@ALGORITHMS
@problems("max", TEXTS | MAX_ONLY)
@pytest.mark.parametrize("generous", [False, True], ids=["least", "best"])
def test_max_of_volumes(algorithm, problem, generous):
    dy = integers("dy", problem.output_shape, problem.dtype, 99)
    for values in ("integers", "ties", "special"):
        x = pool_input(problem, values)
        maxima, indices = plain.over_planes(lambda plane: plain.maxima(plane, windows(problem)), first(problem, x))
        output, where = run_pool_forward(algorithm, problem, x, with_indices=True, generous=generous)
        assert_same_numbers(first(problem, output), maxima, values)
        assert_same_numbers(first(problem, where), indices, f"indices of {values}")
        output, _ = run_pool_forward(algorithm, problem, x, generous=generous, threads=2)
        assert_same_numbers(first(problem, output), maxima, f"{values} without indices")
        expected = scattered(problem, first(problem, dy), indices)
        for known in ({"input": x}, {"indices": np.ascontiguousarray(where)}):
            dx = run_pool_backward(algorithm, problem, dy, generous=generous, **known)
            assert_same_numbers(first(problem, dx), expected, f"gradient of {values} from {list(known)}")


@ALGORITHMS
@problems("avg", TEXTS | AVG_ONLY)
@pytest.mark.parametrize("generous", [False, True], ids=["least", "best"])
def test_average_of_volumes(algorithm, problem, generous):
    divisor = plain.divisor_of(problem.in_size, problem.pads, problem.count_include_pad, problem.divisor_override)
    for values in ("integers", "special"):
        x = pool_input(problem, values)
        with np.errstate(all="ignore"):
            expected = plain.over_planes(lambda plane: plain.means(plane, windows(problem), divisor), first(problem, x))
        output, _ = run_pool_forward(algorithm, problem, x, generous=generous)
        assert_same_numbers(first(problem, output), expected, values)
    # Gradients are multiples of what they are divided by, so that shares and their sums are exact.
    multiples = integers("dy", expected.shape, problem.dtype, 9)
    expected, dy = np.zeros((problem.batch, problem.channels, *problem.in_size)), np.empty(expected.shape)
    for n, c in np.ndindex(expected.shape[:2]):
        for at, taken in plain.each_window(windows(problem)):
            dy[(n, c, *at)] = multiples[(n, c, *at)] * divisor(taken)
            for position in taken:
                if plain.is_inside(position, problem.in_size):
                    expected[(n, c, *position)] += multiples[(n, c, *at)]
    dx = run_pool_backward(algorithm, problem, given(problem, dy), generous=generous)
    assert_same_numbers(first(problem, dx), expected, "gradient")


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("layout", ["", "_nhwc"])
def test_volumes_in_small_pieces(kind, layout, monkeypatch):
    """The same bits, however many planes a piece holds."""
    problem = parse_problem(f"{kind}_f64_n3c2d9h5w6_t3r3s2_stride2x2x1_pad1:1,1:1,0:1_ceil{layout}")
    naive = REGISTRY["pool"][-1]
    x, dy = pool_input(problem), integers("dy", problem.output_shape, "float64", 99)
    volumes.planes_problem.cache_clear()
    found = []
    for nbytes in (1, 2000, 9000, 2**22):
        monkeypatch.setattr(volumes, "PIECE_BYTES", nbytes)
        size = volumes.piece_size(problem, Direction.FORWARD)
        output, indices = run_pool_forward(naive, problem, x, with_indices=kind == "max", generous=True)
        dx = run_pool_backward(naive, problem, dy, input=x if kind == "max" else None, generous=True)
        found.append((size, output, indices, dx))
    assert len({size for size, *_ in found}) >= 3, "pieces of different sizes"
    for _, *results in found[1:]:
        for actual, expected in zip(results, found[0][1:], strict=True):
            if expected is not None:
                assert_same_numbers(actual, expected)


# -- What callers see -------------------------------------------------------------------------------


def function(name):
    return getattr(fastconv, name)


def cases(axes):
    """(size, kernel, stride, padding, dilation, ceil_mode) of one to three axes."""
    for seed in range(6):
        rng = generator("cases", axes, seed)
        kernel = tuple(rng.integers(1, 5, axes).tolist())
        yield (
            tuple(rng.integers(5, 8, axes).tolist()),
            kernel,
            tuple(rng.integers(1, 4, axes).tolist()),
            tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel),
            tuple(rng.integers(1, 3, axes).tolist()) if max(kernel) < 4 else (1,) * axes,
            bool(seed % 2),
        )


CASES = pytest.mark.parametrize(
    ("axes", "case"), [pytest.param(axes, case, id=str((axes, *case))) for axes in (1, 2, 3) for case in cases(axes)]
)


@CASES
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_max_pool_for_callers(axes, case, last):
    size, kernel, stride, padding, dilation, ceil_mode = case
    x = integers(case, (2, 3, *size), "float32", 9)
    pads = tuple((p, p) for p in padding)
    axes_windows = plain.regular(size, kernel, stride, pads, dilation, ceil_mode)
    maxima, indices = plain.over_planes(lambda plane: plain.maxima(plane, axes_windows), x)
    shown = np.moveaxis(x, 1, -1) if last else x  # not contiguous, too
    options = {"data_format": LAYOUTS[axes][last]}
    arguments = (kernel, stride, padding, dilation, ceil_mode)
    y, where = function(f"max_pool{axes}d")(shown, *arguments, True, **options)
    back = (lambda array: np.moveaxis(array, -1, 1)) if last else (lambda array: array)
    assert_same_numbers(back(y), maxima.astype("float32"))
    assert_same_numbers(back(where), indices)
    out = np.empty_like(y)
    assert function(f"max_pool{axes}d")(shown, *arguments, **options, out=out) is out
    assert_same_numbers(out, y)
    one = function(f"max_pool{axes}d")(shown[0], *arguments, **options)
    assert_same_numbers(one, y[0])
    dy = integers("dy", y.shape, "float32", 9)
    backward = function(f"max_pool{axes}d_backward")
    dx = backward(dy, shown, *arguments, **options)
    assert_same_numbers(dx, backward(dy, shown, *arguments, indices=where, **options))
    assert_same_numbers(dx[0], backward(dy[0], shown[0], *arguments, indices=where[0], **options))
    # The adjoint of taking the elements at `where`: <dy, x[where]> = <dx, x>.
    assert float(np.vdot(dy, y)) == float(np.vdot(dx, np.ascontiguousarray(shown)))


@CASES
def test_avg_pool_for_callers(axes, case):
    size, kernel, stride, padding, _, ceil_mode = case
    x = integers(case, (2, 3, *size), "float64", 9) * 5040
    pads = tuple((p, p) for p in padding)
    axes_windows = plain.regular(size, kernel, stride, pads, None, ceil_mode)
    for include in (True, False):
        for override in (None, 7):
            arguments = (kernel, stride, padding, ceil_mode, include, override)
            divisor = plain.divisor_of(size, pads, include, override)
            y = function(f"avg_pool{axes}d")(x, *arguments)
            assert_close(y, plain.over_planes(lambda plane, d=divisor: plain.means(plane, axes_windows, d), x), 1e-14)
            dy = integers("dy", y.shape, "float64", 9)
            dx = function(f"avg_pool{axes}d_backward")(dy, x.shape, *arguments)
            assert_same_numbers(dx, function(f"avg_pool{axes}d_backward")(dy, x, *arguments))
            assert np.vdot(dy, y) == pytest.approx(np.vdot(dx, x), rel=1e-12)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_kinds_of_input(axes, kind):
    pool, backward = function(f"{kind}_pool{axes}d"), function(f"{kind}_pool{axes}d_backward")
    x = integers("kinds", (2, 3, *(6, 4, 5)[:axes]), "float16", 9)
    y = pool(x, 2)
    assert y.dtype == np.float16
    assert_same_numbers(y, pool(x.astype("float32"), 2).astype("float16"))
    dx = backward(y, x, 2)
    assert (dx.dtype, dx.shape) == (np.float16, x.shape)
    empty = pool(x[:0], 2)
    assert empty.shape == (0, *y.shape[1:])
    assert backward(empty, x[:0], 2).shape == (0, *x.shape[1:])
    for wrong in (x.astype(int), x > 0, x.astype(complex)):
        with pytest.raises(TypeError, match="input must be of dtype"):
            pool(wrong, 2)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernel_size": 0}, InvalidProblem, "kernel size must be at least 1, got"),
        ({"kernel_size": 2.0}, TypeError, "kernel_size must be an int, got 2.0"),
        ({"kernel_size": (2, 2, 2, 2)}, InvalidProblem, r"kernel_size must be an int or \d ints"),
        ({"kernel_size": 9}, InvalidProblem, "kernel size 9 with dilation 1 spans 9 positions"),
        ({"kernel_size": 2, "stride": 0}, InvalidProblem, "stride must be at least 1, got"),
        ({"kernel_size": 2, "padding": 2}, InvalidProblem, "pooling padding must be at most half the kernel: 2 > 2"),
        ({"kernel_size": 2, "padding": -1}, InvalidProblem, "padding must be at least 0, got"),
        ({"kernel_size": 2, "ceil_mode": 1}, TypeError, "ceil_mode must be True or False, got 1"),
        ({"kernel_size": 2, "data_format": "NCL"}, InvalidProblem, 'data_format must be "N'),
        ({"kernel_size": 2, "algorithm": "best"}, ValueError, "best"),
    ],
)
def test_errors_name_argument_and_value(axes, kind, arguments, error, message):
    x = np.zeros((2, 3, *(6, 4, 5)[:axes]))
    with pytest.raises(error, match=message):
        function(f"{kind}_pool{axes}d")(x, **arguments)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_errors_of_gradients_and_indices(axes):
    x = np.zeros((2, 3, *(6, 4, 5)[:axes]))
    backward = function(f"max_pool{axes}d_backward")
    y, indices = function(f"max_pool{axes}d")(x, 2, return_indices=True)
    with pytest.raises(InvalidProblem, match=r"grad_output must have shape .* \(that of the output\)"):
        backward(y[..., :1], x, 2)
    with pytest.raises(TypeError, match="indices must be an int64 array, got int32"):
        backward(y, x, 2, indices=indices.astype(np.int32))
    for wrong in (-1, int(np.prod(x.shape[2:]))):
        with pytest.raises(InvalidProblem, match=rf"indices must be in \[0, .*{wrong}"):
            backward(y, x, 2, indices=np.full_like(indices, wrong))
    with pytest.raises(InvalidProblem, match="input must have as many dimensions as grad_output"):
        function(f"avg_pool{axes}d_backward")(y, (3, 4, 5, 6, 7, 8), 2)


@pytest.mark.peers
@CASES
def test_pools_as_torch(axes, case):
    torch = pytest.importorskip("torch")
    size, kernel, stride, padding, dilation, ceil_mode = case
    x = generator("torch", case).standard_normal((2, 3, *size))
    leaf = torch.tensor(x, requires_grad=True)
    peer = getattr(torch.nn.functional, f"max_pool{axes}d")
    expected, where = peer(leaf, kernel, stride, padding, dilation, ceil_mode, True)
    y, indices = function(f"max_pool{axes}d")(x, kernel, stride, padding, dilation, ceil_mode, True)
    assert_same_numbers(y, expected.detach().numpy())
    assert_same_numbers(indices, where.numpy())
    dy = generator("dy", case).standard_normal(y.shape)
    expected.backward(torch.tensor(dy))
    dx = function(f"max_pool{axes}d_backward")(dy, x, kernel, stride, padding, dilation, ceil_mode)
    assert_close(dx, leaf.grad.numpy(), 1e-15)
    for include in (True, False):
        leaf = torch.tensor(x, requires_grad=True)
        expected = getattr(torch.nn.functional, f"avg_pool{axes}d")(leaf, kernel, stride, padding, ceil_mode, include)
        y = function(f"avg_pool{axes}d")(x, kernel, stride, padding, ceil_mode, include)
        assert_close(y, expected.detach().numpy(), 1e-14)
        dy = generator("dy", case).standard_normal(y.shape)
        expected.backward(torch.tensor(dy))
        dx = function(f"avg_pool{axes}d_backward")(dy, x, kernel, stride, padding, ceil_mode, include)
        assert_close(dx, leaf.grad.numpy(), 1e-14)
