"""Edge cases of values: docs/edge-cases.md says what each gets, and names its test here.

NaN, infinities, zeros, subnormals, overflow, and how close sums of real data come: for every algorithm.
"""

import itertools
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import fastconv
from fastconv import parse_problem
from fastconv.algorithm import Direction
from fastconv.planner import REGISTRY
from tests import oracle
from tests.checks import (
    DIRECT,
    assert_close,
    assert_same_bits,
    assert_same_numbers,
    run_conv,
    run_pool_backward,
    run_pool_forward,
    skip_unless_expected_to_run,
)
from tests.problems import CONV_PROBLEMS, conv_operands, generator

FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT = Direction.FORWARD, Direction.BACKWARD_INPUT, Direction.BACKWARD_WEIGHT
NAN, INF = np.nan, np.inf

CONV = pytest.mark.parametrize("algorithm", DIRECT, ids=lambda algorithm: algorithm.name)
POOL = pytest.mark.parametrize("algorithm", REGISTRY["pool"], ids=lambda algorithm: algorithm.name)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
SPECIAL_TEXTS = (
    "f32_n2c3h7w9_k5r3s3_pad1:1,1:1",
    "f32_n2c3h9w20_k9r3s3_stride2x2_pad1:1,1:1",
    "f64_n1c4h8w7_k6r2s3_stride1x2_pad2:1,0:3_dil2x1_g2",
    "f32_n2c9h6w17_k9r3s3_pad1:1,1:1_g9",
    "f32_n3c5h4w5_k8r1s1",
    "f32_n1c3h7w9_k5r3s3_stride3x3_pad2:2,2:2_nhwc",
    "f64_n2c17h5w6_k17r3s3_pad1:1,1:1_g17_nhwc",
    "f32_n1c40h5w6_k6r3s3_pad1:1,1:1",  # many channels on either side take other paths than few
    "f64_n1c20h7w6_k35r3s3_stride2x2_pad1:1,1:1",
)
SPECIAL = pytest.mark.parametrize("problem", [parse_problem(text) for text in SPECIAL_TEXTS], ids=SPECIAL_TEXTS)


def oracle_of(direction):
    return {
        FORWARD: oracle.conv_forward,
        BACKWARD_INPUT: oracle.conv_backward_input,
        BACKWARD_WEIGHT: oracle.conv_backward_weight,
    }[direction]


def expected(problem, direction, first, second):
    return oracle_of(direction)(problem, first, second).astype(problem.dtype)


def operands(problem, direction):
    data = conv_operands(problem)
    names = {FORWARD: ("input", "weight"), BACKWARD_INPUT: ("grad_output", "weight")}
    return [data[name].copy() for name in names.get(direction, ("grad_output", "input"))]


# -- NaN and infinity reach exactly what they touch -------------------------------------------------


@CONV
@SPECIAL
@pytest.mark.parametrize("direction", list(Direction), ids=str)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_one_special_value_reaches_exactly_what_it_touches(algorithm, problem, direction, which, value):
    """0 * inf is NaN: zeros of the data and of the padding count, except that grad_input has nothing outside."""
    skip_unless_expected_to_run(algorithm, problem, direction)
    pair = operands(problem, direction)
    flat = pair[which].reshape(-1)
    for position in (0, flat.size // 2, flat.size - 1):
        before, flat[position] = flat[position], value
        actual = run_conv(algorithm, problem, direction, *pair, threads=2)
        assert_same_numbers(actual, expected(problem, direction, *pair), f"{value} at {position}")
        flat[position] = before


@CONV
def test_padding_is_a_real_zero_of_the_input(algorithm):
    """An infinite weight meets the padding: NaN at the border in forward, and in grad_weight an infinite gradient."""
    problem = parse_problem("f32_c1h3w4_k1r3s3_pad1:1,1:1")
    x = np.ones(problem.input_shape, np.float32)
    w = np.ones(problem.weight_shape, np.float32)
    w[0, 0, 0, 0] = INF
    y = run_conv(algorithm, problem, FORWARD, x, w)[0, 0]
    assert np.isnan(y[0]).all()
    assert np.isnan(y[:, 0]).all()
    assert (y[1:, 1:] == INF).all()
    dy = np.ones(problem.output_shape, np.float32)
    dy[0, 0, 0, 0] = INF
    dw = run_conv(algorithm, problem, BACKWARD_WEIGHT, dy, x)[0, 0]
    assert np.isnan(dw[0]).all()
    assert np.isnan(dw[:, 0]).all()
    assert (dw[1:, 1:] == INF).all()


@CONV
def test_nothing_outside_grad_output_exists(algorithm):
    """Neither its border nor the gaps of a stride contribute to grad_input, even with infinite weights."""
    problem = parse_problem("f32_c1h9w9_k1r3s3_stride2x2_pad1:1,1:1")
    w = np.full(problem.weight_shape, INF, np.float32)
    dx = run_conv(algorithm, problem, BACKWARD_INPUT, np.ones(problem.output_shape, np.float32), w)
    assert (dx == INF).all()
    unused = parse_problem("f32_c1h8w8_k1r2s2_stride3x3")
    w = np.full(unused.weight_shape, NAN, np.float32)
    dx = run_conv(algorithm, unused, BACKWARD_INPUT, np.ones(unused.output_shape, np.float32), w)[0, 0]
    assert (dx[2::3] == 0).all()
    assert (dx[:, 2::3] == 0).all()
    assert np.isnan(dx).sum() == 36


@CONV
def test_a_bias_of_nan_stays_in_its_channel(algorithm):
    problem = parse_problem("f32_n2c3h5w6_k9r3s3")
    data = conv_operands(problem)
    bias = data["bias"].copy()
    bias[4] = NAN
    for activation in (None, "relu"):
        y = run_conv(algorithm, problem, FORWARD, data["input"], data["weight"], bias=bias, activation=activation)
        assert np.isnan(y[:, 4]).all(), "relu keeps NaN"
        assert np.isfinite(np.delete(y, 4, 1)).all()


@POOL
def test_nan_stays_in_its_windows(algorithm):
    problem = parse_problem("max_f32_n2c9h8w33_r2s2")
    x = np.zeros(problem.input_shape, np.float32)
    x[1, 3, 5, 16] = NAN
    y, where = run_pool_forward(algorithm, problem, x, with_indices=True)
    assert np.argwhere(np.isnan(y)).tolist() == [[1, 3, 2, 8]]
    assert where[1, 3, 2, 8] == 5 * 33 + 16
    y, _ = run_pool_forward(algorithm, replace(problem, kind="avg"), x)
    assert np.argwhere(np.isnan(y)).tolist() == [[1, 3, 2, 8]]
    dy = np.zeros(problem.output_shape, np.float32)
    dy[0, 2, 1, 4] = NAN
    dx = run_pool_backward(algorithm, replace(problem, kind="avg"), dy)
    assert np.argwhere(np.isnan(dx)).tolist() == [[0, 2, h, w] for h in (2, 3) for w in (8, 9)]


@POOL
@DTYPES
def test_ties_go_to_the_first(algorithm, dtype):
    """Row-major, whatever the sign of a zero; of several NaN the first."""
    problem = replace(parse_problem("max_n1c1h4w68_r4s4"), dtype=dtype)
    tiles = {
        0: [0.0] * 16,
        1: [-0.0, 0.0] * 8,
        2: [0.0, -0.0] * 8,
        3: [-1.0] * 5 + [0.0] * 11,
        4: [-1.0] * 5 + [-0.0] + [0.0] * 10,
        5: [1.0] * 7 + [NAN] * 9,
        6: [NAN] + [INF] * 15,
        7: [INF] * 3 + [NAN] + [INF] * 12,
        8: [-INF] * 16,
        9: [-INF] * 15 + [NAN],
        10: [-INF] * 9 + [-1e30] * 7,
        11: [INF] * 16,
    }
    first = [0, 0, 0, 5, 5, 7, 0, 3, 0, 15, 9, 0, 0, 0, 0, 0, 0]
    x = np.zeros(problem.input_shape, dtype)
    for tile, values in tiles.items():
        x[0, 0, :, 4 * tile : 4 * tile + 4] = np.reshape(values, (4, 4))
    y, where = run_pool_forward(algorithm, problem, x, with_indices=True)
    places = [68 * (offset // 4) + offset % 4 + 4 * tile for tile, offset in enumerate(first)]
    assert where[0, 0, 0].tolist() == places
    assert_same_numbers(y, x[0, 0].reshape(-1)[places].reshape(y.shape))


@POOL
def test_all_minus_infinity(algorithm):
    problem = parse_problem("max_f32_n1c2h5w6_r3s3_stride2x2_pad1:1,1:1")
    y, where = run_pool_forward(algorithm, problem, np.full(problem.input_shape, -INF, np.float32), with_indices=True)
    assert (y == -INF).all()
    assert where[0, 0].tolist() == [[0, 1, 3], [6, 7, 9], [18, 19, 21]]


# -- Overflow, subnormals ---------------------------------------------------------------------------


@CONV
@DTYPES
@pytest.mark.parametrize("direction", list(Direction), ids=str)
def test_overflow_is_infinity(algorithm, dtype, direction):
    problem = replace(parse_problem("n1c2h4w5_k3r2s2"), dtype=dtype)
    skip_unless_expected_to_run(algorithm, problem, direction)
    largest = np.finfo(dtype).max
    first, second = (np.full_like(array, largest) for array in operands(problem, direction))
    assert (run_conv(algorithm, problem, direction, first, second) == INF).all()
    assert (run_conv(algorithm, problem, direction, -first, second) == -INF).all()


@POOL
@DTYPES
@pytest.mark.parametrize("layout", ["", "_nhwc"])
@pytest.mark.parametrize("window", ["r2s2", "r1s4", "r4s1", "r3s3_stride1x1_pad1:1,1:1"])
def test_an_average_near_overflow_is_the_mean_or_infinity(algorithm, dtype, layout, window):
    """inf where the sum overflows in the precision that it is kept in: the dtype's, or double."""
    problem = replace(parse_problem(f"avg_n2c9h8w12_{window}{layout}"), dtype=dtype)
    largest = np.finfo(dtype).max
    y, _ = run_pool_forward(algorithm, problem, np.full(problem.input_shape, largest, dtype))
    whole = oracle.avg_forward(problem, np.ones(problem.input_shape, dtype)) == 1
    assert whole.any()
    assert ((y[whole] == INF) | ((y[whole] == largest) & (dtype == "float32"))).all()


@POOL
@DTYPES
def test_a_window_wholly_in_padding_is_minus_infinity(algorithm, dtype):
    """Dilated taps on both sides of the input: its index is that of the element nearest to the window's start."""
    problem = replace(parse_problem("max_n1c2h1w3_r2s2_stride1x1_pad1:1,1:1_dil2x2"), dtype=dtype)
    x = np.arange(6, dtype=dtype).reshape(problem.input_shape)
    y, where = run_pool_forward(algorithm, problem, x, with_indices=True)
    assert (y == -INF).all()
    assert where[0, 0].tolist() == [[1, 0, 1]]
    dx = run_pool_backward(algorithm, problem, np.ones(problem.output_shape, dtype), indices=where)
    assert dx[0, 0].tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("name", [algorithm.name for algorithm in DIRECT])
def test_modes_of_padding_show_no_more_than_there_is(name):
    """Reflection leaves out the border, so it reaches one less than the input; a circle reaches all of it."""
    x, w = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4), np.ones((1, 1, 1, 1), np.float32)
    for mode, most, numpys in (("reflect", (2, 3), "reflect"), ("circular", (3, 4), "wrap")):
        y = fastconv.conv2d(x, w, padding=most, padding_mode=mode, algorithm=name)
        assert_same_numbers(y[0, 0], np.pad(x[0, 0], [(pad, pad) for pad in most], mode=numpys))
        for wrong in ((most[0] + 1, 0), (0, most[1] + 1), ((0, 0), (0, most[1] + 1))):
            with pytest.raises(fastconv.InvalidProblem, match=f"{mode} padding must be"):
                fastconv.conv2d(x, w, padding=wrong, padding_mode=mode, algorithm=name)
        with pytest.raises(fastconv.InvalidProblem, match=f"{mode} padding must be"):
            fastconv.pad(x, (0, most[1] + 1), mode=mode)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("mask", list(itertools.product([True, False], repeat=3)), ids=str)
def test_gradients_of_modes_of_padding_are_refused_like_their_forward(axes, mask):
    x, w = np.ones((1, 1, *(7,) * axes)), np.ones((1, 1, *(3,) * axes))
    forward, backward = getattr(fastconv, f"conv{axes}d"), getattr(fastconv, f"conv{axes}d_backward")
    for mode, wrong in (("reflect", 7), ("reflect", 9), ("circular", 8), ("circular", 15)):
        how = {"padding": wrong, "padding_mode": mode}
        with pytest.raises(fastconv.InvalidProblem) as said:
            forward(x, w, **how)
        dy = np.ones((1, 1, *(7 + 2 * wrong - 2,) * axes))
        for upstream in (dy, x):  # as it would be, and of another shape
            with pytest.raises(fastconv.InvalidProblem, match=re.escape(str(said.value))):
                backward(upstream, x, w, output_mask=mask, **how)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad_and_its_gradient_are_refused_together_or_are_adjoint(mode):
    """Every small input and pair of pads: nothing is computed in one direction alone."""
    refused = 0
    for n, low, high in itertools.product(range(5), range(-4, 6), range(-4, 6)):
        x = np.arange(1.0, n + 1)
        if n + low + high < 0:
            with pytest.raises(fastconv.InvalidProblem, match="pad"):
                fastconv.pad(x, (low, high), mode)
            continue
        dy = np.arange(3.0, 3 + n + low + high)
        try:
            y = fastconv.pad(x, (low, high), mode)
        except fastconv.InvalidProblem:
            refused += 1
            with pytest.raises(fastconv.InvalidProblem):
                fastconv.pad_backward(dy, (low, high), mode)
            continue
        dx = fastconv.pad_backward(dy, (low, high), mode)
        assert dx.shape == x.shape, (n, low, high)
        assert dy @ y == dx @ x, (n, low, high)
    assert bool(refused) == (mode != "constant")


OVERFLOW = """
import sys, numpy as np, fastconv
for dtype in ("float32", "float16", "float64"):
    compiled = () if sys.flags.optimize or dtype == "float64" else ("numba_direct",)
    slow = {"numba_direct"} - set(compiled)  # compiling costs seconds each time: once is enough
    slow |= {entry.name for entry in fastconv.algorithms() if "winograd" in entry.name}  # for 3x3 alone
    x = np.full((1, 2, 4, 4), np.finfo(dtype).max, dtype)
    w, b = np.full((2, 2, 2, 2), 3, dtype), np.full(2, np.finfo(dtype).max, dtype)
    dy = np.full((1, 2, 3, 3), np.finfo(dtype).max, dtype)
    for entry in [entry for entry in fastconv.algorithms("conv") if entry.name not in slow]:
        y = fastconv.conv2d(x, w, b, algorithm=entry.name)
        assert (y == np.inf).all(), (entry.name, dtype)
        assert (fastconv.conv2d(x, w, b, activation="relu", algorithm=entry.name) == np.inf).all()
        nothing = fastconv.conv2d(np.full_like(x, np.inf), np.zeros_like(w), algorithm=entry.name)
        assert np.isnan(nothing).all(), (entry.name, dtype)
        for gradient in fastconv.conv2d_backward(dy, x, w, algorithm=entry.name):
            assert np.isinf(gradient).any(), (entry.name, dtype)
    for entry in [entry for entry in fastconv.algorithms("pool") if entry.name not in slow]:
        assert (fastconv.avg_pool2d(x, 2, divisor_override=1, algorithm=entry.name) == np.inf).all(), entry.name
        fastconv.max_pool2d(np.full_like(x, np.nan), 2, algorithm=entry.name)
        ones = np.full((1, 2, 3, 3), np.finfo(dtype).max, dtype)
        dx = fastconv.avg_pool2d_backward(ones, x, 2, 1, divisor_override=1, algorithm=entry.name)
        assert np.isinf(dx).any(), entry.name
    fastconv.local_response_norm(x, 3)
    fastconv.local_response_norm_backward(x, x, 3)
print("fine")
"""


@pytest.mark.parametrize("flags", [["-W", "error"], ["-O"], ["-OO", "-W", "error"]], ids=" ".join)
def test_no_warning_and_no_assert_is_needed(flags):
    code = OVERFLOW
    if "-W" not in flags[:1]:  # asserts are off under -O: raise by hand
        code = (
            "def check(right, what=''):\n    if not right:\n        raise SystemExit(f'wrong: {what}')\n"
            + "\n".join(
                line.replace("assert ", "check(", 1) + ")" if "assert " in line else line
                for line in OVERFLOW.split("\n")
            )
        )
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stdout + done.stderr


@CONV
@DTYPES
def test_subnormals_are_preserved(algorithm, dtype):
    problem = replace(parse_problem("n1c1h3w33_k9r1s1"), dtype=dtype)
    least = np.finfo(dtype).smallest_subnormal
    x = np.full(problem.input_shape, 3 * least, dtype)
    w = np.ones(problem.weight_shape, dtype)
    assert_same_bits(run_conv(algorithm, problem, FORWARD, x, w), np.full(problem.output_shape, 3 * least, dtype))
    small = np.full(problem.output_shape, least, dtype)
    dx = run_conv(algorithm, problem, BACKWARD_INPUT, small, w)
    assert_same_bits(dx, np.full(problem.input_shape, 9 * least, dtype))
    ones = np.ones(problem.input_shape, dtype)
    dw = run_conv(algorithm, problem, BACKWARD_WEIGHT, small, ones)
    assert_same_bits(dw, np.full(problem.weight_shape, 99 * least, dtype))


@POOL
@DTYPES
def test_pools_preserve_subnormals(algorithm, dtype):
    problem = replace(parse_problem("max_n1c3h2w34_r2s2"), dtype=dtype)
    least = np.finfo(dtype).smallest_subnormal
    x = np.full(problem.input_shape, 8 * least, dtype)
    y, _ = run_pool_forward(algorithm, problem, x)
    assert_same_bits(y, np.full(problem.output_shape, 8 * least, dtype))
    average = replace(problem, kind="avg")
    assert_same_bits(run_pool_forward(algorithm, average, x)[0], np.full(problem.output_shape, 8 * least, dtype))
    dx = run_pool_backward(algorithm, average, y)
    assert_same_bits(dx, np.full(problem.input_shape, 2 * least, dtype))


def test_importing_changes_no_floating_point_mode():
    code = (
        "import sys, numpy as np\n"
        "import fastconv, threading\n"
        "x = np.full((1, 8, 16, 16), 1e-40, np.float32); w = np.ones((8, 8, 3, 3), np.float32)\n"
        "names = [entry.name for entry in fastconv.algorithms() if not entry.name.startswith('numba')]\n"
        "for name in names: fastconv.conv2d(x[:, :, :5, :5], w, algorithm=name)\n"
        "seen = []\n"
        "def look(): seen.append(float(np.float32(1e-40) * np.float32(0.5)))\n"
        "t = threading.Thread(target=look); t.start(); t.join(); look()\n"
        "assert all(0 < value < 1e-40 for value in seen), seen\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# -- Errors on real data ----------------------------------------------------------------------------

#: A measured error may exceed the expected one by this much: the expectation is that of a mean, not of a maximum.
SPREAD = 3.0


def normal(problem, direction):
    rng = generator("normal", str(problem))
    return [rng.standard_normal(array.shape).astype(array.dtype) for array in operands(problem, direction)]


@CONV
@pytest.mark.parametrize(
    "text",
    [
        "n2c3h12w13_k5r3s3_pad1:1,1:1",
        "n1c64h9w9_k8r3s3_pad1:1,1:1",
        "n1c8h14w14_k64r5s5_pad2:2,2:2",
        "n2c512h4w4_k32r1s1",
        "n4c2h40w41_k3r3s3_stride2x2_pad1:1,1:1",
        "n2c16h15w33_k16r3s3_pad1:1,1:1_g16",
    ],
)
@DTYPES
@pytest.mark.parametrize("direction", list(Direction), ids=str)
def test_error_is_as_expected(algorithm, text, dtype, direction):
    """max|error| / max|result| on N(0, 1) data; in float64 the oracle errs likewise."""
    problem = replace(parse_problem(text), dtype=dtype)
    if problem.macs > 400_000 and algorithm.name == "naive":
        problem = replace(problem, batch=1, out_channels=max(problem.groups, 1), in_size=(6, 6))
    skip_unless_expected_to_run(algorithm, problem, direction)
    first, second = normal(problem, direction)
    exact = oracle_of(direction)(problem, first, second)
    actual = run_conv(algorithm, problem, direction, first, second, threads=2)
    assert_close(actual, exact, SPREAD * algorithm.error(problem, direction), dtype=dtype)


@CONV
def test_long_sums_of_grad_bias(algorithm):
    """400,000 equal elements: a float32 accumulator would stop growing or err by percents."""
    problem = parse_problem("f32_n4c1h317w317_k2r1s1")
    if algorithm.name == "naive":
        problem = replace(problem, batch=1, in_size=(140, 141))
    value = np.float32(0.1)
    dy = np.full(problem.output_shape, value, np.float32)
    x = np.full(problem.input_shape, np.float32(0.3), np.float32)
    dw, db = run_conv(algorithm, problem, BACKWARD_WEIGHT, dy, x, with_grad_bias=True, threads=2)
    count = dy[:, 0].size
    assert_close(db, np.full(2, count * float(value)), 4e-7, "grad_bias", dtype=np.float32)
    assert_close(dw, np.full((2, 1, 1, 1), count * float(value) * float(np.float32(0.3))), 2e-5, "dw", dtype=np.float32)


def test_grad_bias_alone_is_as_exact():
    dy = np.full((4, 2, 317, 317), np.float32(0.1))
    x, w = np.zeros((4, 1, 317, 317), np.float32), np.zeros((2, 1, 1, 1), np.float32)
    _, _, db = fastconv.conv2d_backward(dy, x, w, output_mask=(False, False, True))
    assert_close(db, np.full(2, dy[:, 0].size * float(np.float32(0.1))), 1e-7, dtype=np.float32)


@POOL
def test_average_over_a_large_window(algorithm):
    side = 640 if algorithm.name != "naive" else 140
    problem = parse_problem(f"avg_f32_n1c2h{side}w{side}_r{side}s{side}")
    x = np.full(problem.input_shape, np.float32(0.1))
    y, _ = run_pool_forward(algorithm, problem, x)
    assert_close(y, np.full(y.shape, float(np.float32(0.1))), 4e-7, dtype=np.float32)


@pytest.mark.parametrize("name", ["everything-f32", "tiles-f32", "depthwise_17-f64", "three_nhwc-f32", "deep-f64"])
def test_every_algorithm_agrees_on_real_data(name):
    """Two algorithms differ by at most the sum of their errors."""
    problem = CONV_PROBLEMS.get(name) or CONV_PROBLEMS["three-f32"]
    for direction in Direction:
        first, second = normal(problem, direction)
        results = {
            algorithm.name: (
                run_conv(algorithm, problem, direction, first, second),
                algorithm.error(problem, direction),
            )
            for algorithm in DIRECT
            if algorithm.name != "naive"
        }
        for what, (result, error) in results.items():
            for other, other_error in results.values():
                assert_close(result, other, SPREAD * (error + other_error), f"{what} {direction}")
