"""The oracle against other people's code and against examples worked by hand."""

import numpy as np
import pytest

from fastconv import parse_problem
from tests import oracle
from tests.checks import assert_close, assert_same_numbers
from tests.problems import AVG_PROBLEMS, CONV_PROBLEMS, MAX_PROBLEMS, conv_operands, generator, pool_input

DOUBLE_CONV = {name: problem for name, problem in CONV_PROBLEMS.items() if name.endswith("f64")}
FIRST_CONV = {name: problem for name, problem in DOUBLE_CONV.items() if not problem.channels_last}
FIRST_MAX = {n: p for n, p in MAX_PROBLEMS.items() if n.endswith("f64") and not p.channels_last}
FIRST_AVG = {n: p for n, p in AVG_PROBLEMS.items() if n.endswith("f64") and not p.channels_last}

# -- Examples of the lectures -----------------------------------------------------------------------


def test_sobel_of_the_lecture():
    x = np.array([[200, 150, 150], [100, 50, 100], [25, 25, 10]], float)[None, None]
    w = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], float)[None, None]
    problem = parse_problem("f64_c1h3w3_k1r3s3")
    assert oracle.conv_forward(problem, x, w).item() == 65
    assert oracle.conv_forward(problem, x, w, np.array([0.5])).item() == 65.5
    pool = parse_problem("max_f64_c1h3w3_r3s3")
    assert oracle.max_forward(pool, x).values.item() == 200
    assert oracle.max_forward(pool, x).indices.item() == 0
    assert oracle.avg_forward(parse_problem("avg_f64_c1h3w3_r3s3"), x).item() == 90


def test_full_convolution_of_magic_squares():
    """MATLAB's conv2(magic(5), B): the gradient of the input is a full convolution."""
    magic = np.array(
        [[17, 24, 1, 8, 15], [23, 5, 7, 14, 16], [4, 6, 13, 20, 22], [10, 12, 19, 21, 3], [11, 18, 25, 2, 9]], float
    )
    kernel = np.array([[1, 3, 1], [0, 5, 0], [2, 1, 2]], float)
    problem = parse_problem("f64_c1h7w7_k1r3s3")  # its output is 5 x 5
    full = oracle.conv_backward_input(problem, magic[None, None], kernel[None, None])[0, 0]
    expected = np.array(
        [
            [17, 75, 90, 35, 40, 53, 15],
            [23, 159, 165, 45, 105, 137, 16],
            [38, 198, 120, 165, 205, 197, 52],
            [56, 95, 160, 200, 245, 184, 35],
            [19, 117, 190, 255, 235, 106, 53],
            [20, 89, 160, 210, 75, 90, 6],
            [22, 47, 90, 65, 70, 13, 18],
        ],
        float,
    )
    assert_same_numbers(full, expected)


def test_gradients_of_one_product():
    problem = parse_problem("f64_c1h2w2_k1r2s2")
    x, w, dy = np.array([[[[1.0, 2], [3, 4]]]]), np.array([[[[5.0, 6], [7, 8]]]]), np.array([[[[10.0]]]])
    assert_same_numbers(oracle.conv_forward(problem, x, w), np.array([[[[70.0]]]]))
    assert_same_numbers(oracle.conv_backward_input(problem, dy, w), 10 * w)
    assert_same_numbers(oracle.conv_backward_weight(problem, dy, x), 10 * x)
    assert_same_numbers(oracle.conv_backward_bias(problem, dy), np.array([10.0]))


def test_maxima_worked_by_hand():
    problem = parse_problem("max_f64_c1h2w4_r2s2")
    nan, inf = np.nan, np.inf
    x = np.array([[[[3.0, 3, nan, 1], [3, 3, nan, inf]]]])
    values, indices = oracle.max_forward(problem, x)
    assert_same_numbers(values, np.array([[[[3.0, nan]]]]))
    assert indices.tolist() == [[[[0, 2]]]]
    values, indices = oracle.max_forward(problem, np.full((1, 1, 2, 4), -inf))
    assert (values == -inf).all()
    assert indices.tolist() == [[[[0, 2]]]]


def test_a_window_wholly_in_padding_names_the_nearest_element():
    problem = parse_problem("max_f64_c1h1w1_r2s2_stride1x1_pad1:1,1:1_dil2x2")  # every tap of it misses the input
    values, indices = oracle.max_forward(problem, np.array([[[[7.0]]]]))
    assert values.tolist() == [[[[-np.inf]]]]
    assert indices.tolist() == [[[[0]]]]


def test_divisors_worked_by_hand():
    # 5 wide, padded to 7; windows of 3 start at -1, 1 and 3.
    inside = parse_problem("avg_f64_c1h1w5_r1s3_stride1x2_pad0:0,1:1_nopad")
    assert oracle.divisors(inside).tolist() == [[2, 3, 2]]
    counted = parse_problem("avg_f64_c1h1w5_r1s3_stride1x2_pad0:0,1:1")
    assert oracle.divisors(counted).tolist() == [[3, 3, 3]]
    # 6 wide without padding: the third window has two elements and in ceil mode divides by two.
    assert oracle.divisors(parse_problem("avg_f64_c1h1w6_r1s3_stride1x2_ceil")).tolist() == [[3, 3, 2]]
    assert oracle.divisors(parse_problem("avg_f64_c1h1w6_r1s3_stride1x2_ceil_div7")).tolist() == [[7, 7, 7]]


# -- Laws that need nobody else ---------------------------------------------------------------------


@pytest.mark.parametrize("problem", DOUBLE_CONV.values(), ids=DOUBLE_CONV.keys())
def test_gradients_are_adjoint_to_forward(problem):
    data = conv_operands(problem)
    x, w, dy = data["input"], data["weight"], data["grad_output"]
    forward = np.vdot(dy, oracle.conv_forward(problem, x, w))
    assert np.vdot(oracle.conv_backward_input(problem, dy, w), x) == forward
    assert np.vdot(oracle.conv_backward_weight(problem, dy, x), w) == forward


# -- SciPy ------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("seed", range(6))
def test_against_scipy_correlate(seed):
    signal = pytest.importorskip("scipy.signal")
    rng = generator("scipy", seed)
    h, w, r, s = (int(n) for n in (*rng.integers(6, 15, 2), *rng.integers(1, 6, 2)))
    problem = parse_problem(f"f64_c1h{h}w{w}_k1r{r}s{s}")
    x, k = rng.standard_normal((1, 1, h, w)), rng.standard_normal((1, 1, r, s))
    valid = signal.correlate(x[0, 0], k[0, 0], mode="valid", method="direct")
    assert_close(oracle.conv_forward(problem, x, k)[0, 0], valid, 1e-14)
    dy = rng.standard_normal(problem.output_shape)
    full = signal.convolve(dy[0, 0], k[0, 0], mode="full", method="direct")
    assert_close(oracle.conv_backward_input(problem, dy, k)[0, 0], full, 1e-14)
    grad = signal.correlate(x[0, 0], dy[0, 0], mode="valid", method="direct")
    assert_close(oracle.conv_backward_weight(problem, dy, x)[0, 0], grad, 1e-14)


@pytest.mark.peers
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), (1, 1)), ((2, 5), (1, 1)), ((3, 3), (2, 3)), ((4, 2), (3, 1))])
def test_pools_against_scipy_filters(kernel, stride):
    ndimage = pytest.importorskip("scipy.ndimage")
    (r, s), (a, b) = kernel, stride
    x = generator("ndimage", kernel).standard_normal((1, 1, 12, 13))
    text = f"f64_c1h12w13_r{r}s{s}_stride{a}x{b}"
    inner = (slice(r // 2, 12 - (r - 1) // 2, a), slice(s // 2, 13 - (s - 1) // 2, b))
    maximum = ndimage.maximum_filter(x[0, 0], size=kernel)[inner]
    assert_same_numbers(oracle.max_forward(parse_problem(f"max_{text}"), x).values[0, 0], maximum)
    mean = ndimage.uniform_filter(x[0, 0], size=kernel)[inner]
    assert_close(oracle.avg_forward(parse_problem(f"avg_{text}"), x)[0, 0], mean, 1e-14)


# -- torch ------------------------------------------------------------------------------------------


def _torch_padded(torch, problem, x, value):
    (top, bottom), (left, right) = problem.pads
    return torch.nn.functional.pad(x, (left, right, top, bottom), value=value)


@pytest.mark.peers
@pytest.mark.parametrize("problem", FIRST_CONV.values(), ids=FIRST_CONV.keys())
def test_convolution_against_torch(problem):
    torch = pytest.importorskip("torch")
    if max(problem.stride) > 2**31:  # a single output: any stride does
        problem = parse_problem(str(problem).replace(str(2**62), "99").replace(str(2**31), "99"))
    data = conv_operands(problem)
    x, w = (torch.tensor(data[name], requires_grad=True) for name in ("input", "weight"))
    b, dy = torch.tensor(data["bias"], requires_grad=True), torch.tensor(data["grad_output"])
    y = torch.nn.functional.conv2d(
        _torch_padded(torch, problem, x, 0.0), w, b, problem.stride, 0, problem.dilation, problem.groups
    )
    y.backward(dy)
    x0, w0, dy0 = data["input"], data["weight"], data["grad_output"]
    assert_same_numbers(oracle.conv_forward(problem, x0, w0, data["bias"]), y.detach().numpy())
    assert_same_numbers(oracle.conv_backward_input(problem, dy0, w0), x.grad.numpy())
    assert_same_numbers(oracle.conv_backward_weight(problem, dy0, x0), w.grad.numpy())
    assert_same_numbers(oracle.conv_backward_bias(problem, dy0), b.grad.numpy())


def torch_can(problem):
    """torch pads pools on both sides alike, and leaves windows wholly in padding undefined."""
    return all(low == high for low, high in problem.pads) and max(problem.stride) < 2**31


@pytest.mark.peers
@pytest.mark.parametrize("name", [name for name, p in FIRST_MAX.items() if torch_can(p) and "wholly" not in name])
@pytest.mark.parametrize("values", ["integers", "ties", "special"])
def test_maxima_against_torch(name, values):
    torch, problem = pytest.importorskip("torch"), FIRST_MAX[name]
    data = pool_input(problem, values)
    x = torch.tensor(data, requires_grad=True)
    y, where = torch.nn.functional.max_pool2d(
        x, problem.kernel, problem.stride, [low for low, _ in problem.pads], problem.dilation, problem.ceil_mode, True
    )
    dy = generator("dy").standard_normal(problem.output_shape)
    y.backward(torch.tensor(dy))
    maxima = oracle.max_forward(problem, data)
    assert_same_numbers(maxima.values, y.detach().numpy())
    if values != "special":  # of several NaN torch names the last, edge-case rules the first
        assert_same_numbers(maxima.indices, where.numpy())
        assert_close(oracle.max_backward(problem, dy, maxima.indices), x.grad.numpy(), 1e-14)


@pytest.mark.peers
@pytest.mark.parametrize("name", [name for name, p in FIRST_AVG.items() if torch_can(p)])
def test_averages_against_torch(name):
    torch, problem = pytest.importorskip("torch"), FIRST_AVG[name]
    data = pool_input(problem)
    x = torch.tensor(data, requires_grad=True)
    y = torch.nn.functional.avg_pool2d(
        x, problem.kernel, problem.stride, [low for low, _ in problem.pads], problem.ceil_mode,
        problem.count_include_pad, problem.divisor_override,
    )  # fmt: skip
    dy = generator("dy").standard_normal(problem.output_shape)
    y.backward(torch.tensor(dy))
    assert_close(oracle.avg_forward(problem, data), y.detach().numpy(), 1e-14)
    assert_close(oracle.avg_backward(problem, dy), x.grad.numpy(), 1e-14)
