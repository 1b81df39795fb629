"""Winograd's convolution: its matrices, its blocks on every instruction set, its error, and who is given it."""

from fractions import Fraction

import numpy as np
import pytest

import fastconv
from fastconv import planner, settings, winograd
from fastconv.algorithm import Direction, Epilogue
from fastconv.conv import compiled, cython_winograd, winograd_blocks
from fastconv.kernels.cython import built, load
from fastconv.machine import machine
from fastconv.problem import ConvProblem
from tests.checks import Memory, Operand, Pieces, assert_close, assert_same_bits, assert_same_numbers
from tests.problems import conv_operands, generator

FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT = Direction.FORWARD, Direction.BACKWARD_INPUT, Direction.BACKWARD_WEIGHT
LEVELS = [level for level in machine().levels if level in built.LEVELS]
BY_SIZE = dict(zip(winograd.POINTS, cython_winograd.ALGORITHMS, strict=True))
SIZES = pytest.mark.parametrize("size", BY_SIZE)
DIRECTIONS = pytest.mark.parametrize("direction", list(Direction), ids=str)
(TILED,) = (algorithm for algorithm in planner.REGISTRY["conv"] if algorithm.name == "cython_tiled")
pytestmark = pytest.mark.skipif(TILED.unavailable() is not None, reason="cython_tiled is unavailable")


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    monkeypatch.setattr(compiled, "kernels", lambda name: load(name, (request.param,)))
    return request.param


# -- Matrices ---------------------------------------------------------------------------------------


def times(matrix, vector):
    return [sum((a * x for a, x in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


@SIZES
def test_matrices_compute_correlation_exactly(size):
    """For every tap and every input alone: it is linear in both."""
    at, g, bt = winograd.matrices(size)
    for tap in range(winograd.TAPS):
        u = times(g, [Fraction(r == tap) for r in range(winograd.TAPS)])
        for place in range(size + 2):
            v = times(bt, [Fraction(i == place) for i in range(size + 2)])
            found = times(at, [a * b for a, b in zip(u, v, strict=True)])
            assert found == [Fraction(place == output + tap) for output in range(size)]


@SIZES
def test_matrices_compute_the_gradient_exactly(size):
    at, g, bt = (tuple(matrix) for matrix in winograd.matrices(size))
    for output in range(size):
        d = times(tuple(zip(*at)), [Fraction(i == output) for i in range(size)])
        for place in range(size + 2):
            v = times(bt, [Fraction(i == place) for i in range(size + 2)])
            found = times(tuple(zip(*g)), [a * b for a, b in zip(d, v, strict=True)])
            assert found == [Fraction(place == output + tap) for tap in range(winograd.TAPS)]


# -- Blocks -----------------------------------------------------------------------------------------


def run(algorithm, problem, direction, *operands, threads=2, granted=None, bias=None, relu=False):
    """A direction into NaN, from read-only operands, on scratch of NaN, everything between guards."""
    shapes = {FORWARD: problem.output_shape, BACKWARD_INPUT: problem.input_shape, BACKWARD_WEIGHT: problem.weight_shape}
    given = [Operand(array) for array in operands]
    result = Memory(shapes[direction], problem.dtype)
    scratch = Pieces(granted or algorithm.workspace_bytes(problem, direction, threads)[1], 0xFF)
    last = bias if direction is BACKWARD_WEIGHT else Epilogue(bias, "relu" if relu else None)
    algorithm.direction(problem, direction)(
        problem, *(entry.array for entry in given), result.array, last, scratch, threads
    )  # fmt: skip
    for entry in given:
        entry.check_unchanged("an operand")
    result.check_guards("result")
    scratch.check_guards("scratch")
    return result.array


def operands(problem, direction, seed=0):
    """N(0, 1), in the order of the direction."""
    shapes = {
        FORWARD: (problem.input_shape, problem.weight_shape),
        BACKWARD_INPUT: (problem.output_shape, problem.weight_shape),
        BACKWARD_WEIGHT: (problem.output_shape, problem.input_shape),
    }[direction]
    random = generator((str(problem), str(direction), seed))
    return [random.standard_normal(shape).astype(problem.dtype) for shape in shapes]


def exactly(problem, direction, *given):
    """The same in double precision, by the definition's own products."""
    double = ConvProblem("float64", *(getattr(problem, name) for name in (
        "batch", "in_channels", "in_size", "out_channels", "kernel", "stride", "pads", "dilation", "groups",
        "channels_last")))  # fmt: skip
    return run(TILED, double, direction, *(array.astype(np.float64) for array in given))


#: Ends of panels, blocks, runs, vectors and segments; shapes that are in no list.
PROBLEMS = [
    "n1c37h13w13_k53r3s3_pad1:1,1:1",
    "n2c20h6w60_k33r3s3",
    "n1c3h20w84_k70r3s3_pad1:1,1:1",
    "n3c17h5w4_k16r3s3_pad0:2,2:1",
    "n1c5h1w1_k7r3s3_pad1:1,1:1",
    "n2c4h3w3_k4r3s3_pad4:3,3:4",
    "n2c48h14w15_k36r3s3_pad1:1,1:1_g2",
    "n2c33h11w9_k40r3s3_pad1:0,0:1_nhwc",
    "n1c24h30w31_k12r3s3_pad1:1,1:1_g3_nhwc",
    "n7c9h30w29_k10r3s3_pad1:1,1:1",
    "n1c130h9w10_k66r3s3_pad1:1,1:1",
    "n2c5d4h9w10_k6t3r3s3_pad1:1,1:1,1:1",
]


@SIZES
@DIRECTIONS
@pytest.mark.parametrize("text", PROBLEMS)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_every_instruction_set_is_as_exact_as_stated(level, size, direction, text, dtype):
    problem = fastconv.parse_problem(f"{dtype}_{text}")
    algorithm = BY_SIZE[size]
    given = operands(problem, direction)
    actual = run(algorithm, problem, direction, *given)
    assert_close(
        actual, exactly(problem, direction, *given), 2 * algorithm.error(problem, direction), dtype=problem.dtype
    )


@SIZES
@pytest.mark.parametrize("text", PROBLEMS[:1] + PROBLEMS[6:9])
def test_bias_and_relu_are_fused(level, size, text):
    problem = fastconv.parse_problem(f"f32_{text}")
    for direction, channels in ((FORWARD, problem.out_channels), (BACKWARD_INPUT, problem.in_channels)):
        given = operands(problem, direction)
        bias = operands(problem, direction, seed=1)[0].reshape(-1)[:channels]
        plain = run(BY_SIZE[size], problem, direction, *given)
        shown = bias if problem.channels_last else bias.reshape(-1, 1, 1)
        actual = run(BY_SIZE[size], problem, direction, *given, bias=bias, relu=True)
        assert_same_numbers(actual, np.maximum(plain + shown, 0))


@SIZES
def test_grad_bias_is_summed_exactly(level, size):
    for layout in ("", "_nhwc"):
        problem = fastconv.parse_problem(f"f32_n3c5h9w10_k37r3s3_pad1:1,1:1{layout}")
        data = conv_operands(problem)
        bias = np.full(37, np.nan, np.float32)
        run(BY_SIZE[size], problem, BACKWARD_WEIGHT, data["grad_output"], data["input"], bias=bias)
        axes = (0, 1, 2) if layout else (0, 2, 3)
        assert_same_numbers(bias, data["grad_output"].sum(axes, dtype=np.float64).astype(np.float32))


@SIZES
@DIRECTIONS
@pytest.mark.parametrize("text", [PROBLEMS[0], PROBLEMS[6], PROBLEMS[9]])
def test_scratch_and_threads_change_no_bit(size, direction, text):
    """All tiles first, or all weights first, or as few weights at a time as there is room for."""
    problem, algorithm = fastconv.parse_problem(f"f32_{text}"), BY_SIZE[size]
    given = operands(problem, direction)
    expected = run(algorithm, problem, direction, *given, threads=1)
    for threads in (1, 2, 3, 16):
        least, best = algorithm.workspace_bytes(problem, direction, threads)
        assert least <= best
        for granted in (least, (least + best) // 2, best):
            actual = run(algorithm, problem, direction, *given, threads=threads, granted=granted)
            assert_same_bits(actual, expected, f"{granted} bytes, {threads} threads")


@SIZES
@DIRECTIONS
def test_either_order_gives_the_same_bits(monkeypatch, size, direction):
    problem = fastconv.parse_problem("f32_n3c20h17w15_k70r3s3_pad1:1,1:1")
    given = operands(problem, direction)
    found = []
    for limit, streamed in ((0, 0), (1 << 40, 1 << 40), (1 << 40, 0)):  # the last: several blocks of weights an item
        monkeypatch.setattr(winograd_blocks, "TILES_BYTES", limit)
        monkeypatch.setattr(winograd_blocks, "STREAMED_BYTES", streamed)
        monkeypatch.setattr(winograd_blocks, "ITEMS", 8 if streamed else 1)
        for cached in (winograd_blocks.tiling, cython_winograd._prepared):
            cached.cache_clear()
        found.append(run(BY_SIZE[size], problem, direction, *given))
    winograd_blocks.tiling.cache_clear()
    cython_winograd._prepared.cache_clear()
    assert_same_bits(found[1], found[0])
    assert_same_bits(found[2], found[0])


@SIZES
def test_both_orders_and_several_segments_are_taken_by_these_problems(size):
    """What the tests above are for, without knowing it."""
    parsed = [fastconv.parse_problem(f"f32_{text}") for text in PROBLEMS if "d4" not in text]
    tilings = [cython_winograd._tiling(size, problem, FORWARD) for problem in parsed]
    assert {tiling.staged for tiling in tilings} == {True, False} or size == 6
    assert any(tiling.tile_items > 1 for tiling in tilings)
    if size == 2:
        segments = [winograd_blocks.segments(problem, size, 64) for problem in parsed]
        assert any(schedule.segment < schedule.tiles for schedule in segments)


def test_small_integers_stay_exact_by_f2():
    for direction in Direction:
        problem = fastconv.parse_problem("f32_n2c37h13w14_k20r3s3_pad1:1,1:1")
        data = conv_operands(problem)
        names = {FORWARD: ("input", "weight"), BACKWARD_INPUT: ("grad_output", "weight")}
        given = [data[name] for name in names.get(direction, ("grad_output", "input"))]
        assert_same_numbers(run(BY_SIZE[2], problem, direction, *given), run(TILED, problem, direction, *given))


def test_infinity_and_nan_stay_in_their_tile():
    problem = fastconv.parse_problem("f32_n1c3h16w16_k4r3s3_pad1:1,1:1")
    x, w = operands(problem, FORWARD)
    clean = run(BY_SIZE[4], problem, FORWARD, x, w)
    for value in (np.inf, np.nan, 3e38):  # which overflows in the transform
        x[0, 1, 5, 6] = value  # the tiles of rows and columns 4 to 7 see it, and no other
        found = run(BY_SIZE[4], problem, FORWARD, x, w)
        inside = np.zeros((16, 16), bool)
        inside[4:8, 4:8] = True
        assert not np.isfinite(found[0, :, 4:7, 5:8]).any()
        assert_same_numbers(found[:, :, ~inside], clean[:, :, ~inside])


# -- Error ------------------------------------------------------------------------------------------


def errors(seeds, shapes, size, direction):
    """Measured over stated error, of random shapes."""
    random = generator(("winograd errors", size, str(direction), shapes))
    found = []
    for _ in range(shapes):
        problem = ConvProblem(
            "float32", int(random.choice([1, 2, 4])), int(np.exp(random.uniform(0, 6))),
            (int(random.integers(4, 30)), int(random.integers(4, 30))), int(np.exp(random.uniform(1.4, 5))), (3, 3),
            pads=((1, 1), (1, 1)),
        )  # fmt: skip
        for seed in range(seeds):
            given = operands(problem, direction, seed)
            exact = exactly(problem, direction, *given)
            error = np.abs(run(BY_SIZE[size], problem, direction, *given) - exact).max() / np.abs(exact).max()
            found.append(error / BY_SIZE[size].error(problem, direction))
    return np.array(found)


@SIZES
@DIRECTIONS
def test_the_stated_error_is_the_measured_one(size, direction):
    ratios = errors(1, 20, size, direction)
    assert 0.1 < ratios.min() <= ratios.max() < 1.5  # the least: 0.145, without fused operations (v2)
    assert 0.3 < np.median(ratios) < 0.9


@pytest.mark.slow
@SIZES
@DIRECTIONS
def test_the_stated_error_holds_for_ninety_nine_in_a_hundred(size, direction):
    """Measured: 99.2 to 100 % for F(2, 3) and F(4, 3), 97.8 to 98.3 % for F(6, 3), 99.0 % of all."""
    ratios = errors(3, 200, size, direction)
    assert ((0.25 <= ratios) & (ratios <= 1)).mean() >= (0.97 if size == 6 else 0.985)


@SIZES
def test_no_error_exceeds_the_bound(size):
    """Not of random data alone: of one element that dwarfs the others of its tile, too."""
    problem = ConvProblem("float32", 1, 20, (3 * size + 2, 2 * size + 2), 9, (3, 3))
    x, w = operands(problem, FORWARD)
    dwarfed = x.copy()
    dwarfed[:, :, ::size, ::size] *= 1e6
    roundings = problem.in_channels + 40
    u = 2.0**-24
    for image in (x, dwarfed):
        errors = np.abs(run(BY_SIZE[size], problem, FORWARD, image, w) - exactly(problem, FORWARD, image, w))
        for row in range(0, problem.out_size[0], size):
            for column in range(0, problem.out_size[1], size):
                tile = np.abs(image[0, :, row : row + size + 2, column : column + size + 2]).sum((1, 2), dtype=float)
                sums = np.abs(w).sum((2, 3), dtype=float) @ tile
                bound = roundings * u / (1 - roundings * u) * winograd.bound_factor(size) * sums
                assert (errors[0, :, row : row + size, column : column + size].max((1, 2)) <= bound).all()


@pytest.mark.parametrize("channels", [64, 256, 512])
def test_f4_errs_by_six_millionths_at_most(channels):
    problem = ConvProblem("float32", 1, channels, (14, 14), 64, (3, 3), pads=((1, 1), (1, 1)))
    given = operands(problem, FORWARD)
    assert_close(run(BY_SIZE[4], problem, FORWARD, *given), exactly(problem, FORWARD, *given), 6e-6, dtype="float32")


# -- Who is given it --------------------------------------------------------------------------------

LARGE = fastconv.parse_problem("f32_n8c64h56w56_k64r3s3_pad1:1,1:1")


@DIRECTIONS
def test_auto_takes_f4_and_no_transform_at_tolerance_zero(direction):
    assert planner.plan(LARGE, direction).algorithm == "cython_winograd_f4"
    with settings.use(tolerance=0):
        assert not planner.plan(LARGE, direction).algorithm.startswith("cython_winograd")
    with settings.use(tolerance=1e-3):
        assert planner.plan(LARGE, direction).algorithm in ("cython_winograd_f4", "cython_winograd_f6")
    if direction is not BACKWARD_WEIGHT:  # whose direct sums of 25,088 products err more themselves
        with settings.use(tolerance=1e-6):
            assert planner.plan(LARGE, direction).algorithm == "cython_winograd_f2"


def test_the_common_name_means_the_best_size():
    with settings.use(tolerance=1e-6):
        assert planner.plan(LARGE, FORWARD, "cython_winograd").algorithm == "cython_winograd_f2"
    with settings.use(tolerance=0):  # asked by name: the one that errs least
        assert planner.plan(LARGE, FORWARD, "cython_winograd").algorithm == "cython_winograd_f2"
    assert planner.plan(LARGE, FORWARD, "cython_winograd_f6").algorithm == "cython_winograd_f6"
    with settings.use(algorithm="cython_winograd", tolerance=1e-6):
        assert planner.plan(LARGE, FORWARD).algorithm == "cython_winograd_f2"
        strided = fastconv.parse_problem("f32_n1c4h8w8_k4r3s3_stride2x2")
        assert not planner.plan(strided, FORWARD).algorithm.startswith("cython_winograd")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("f32_n1c4h8w8_k4r5s5", "kernels of 3x3"),
        ("f32_n1c4h8w8_k4r3s3_stride2x1", "stride 1"),
        ("f32_n1c4h8w8_k4r3s3_dil1x2", "dilation 1"),
        ("f32_n1c4d4h8w8_k4t3r2s3", "kernels of 3x3"),
    ],
)
def test_refuses_what_it_cannot_compute(text, reason):
    problem = fastconv.parse_problem(text)
    for direction in Direction:
        with pytest.raises(fastconv.UnsupportedProblem, match=reason):
            planner.plan(problem, direction, "cython_winograd")


def test_half_precision_reaches_it_by_name_alone():
    """Small integers stay exact in float16, and would not in a transform."""
    problem = fastconv.parse_problem("f32_n4c32h28w28_k32r3s3_pad1:1,1:1")
    assert planner.plan(problem, FORWARD).algorithm == "cython_winograd_f4"
    data = conv_operands(problem)
    x, w, dy = (np.sign(data[name]).astype(np.float16) for name in ("input", "weight", "grad_output"))
    exact = [fastconv.conv2d(x, w, padding=1, algorithm="cython_tiled")]
    found = [fastconv.conv2d(x, w, padding=1)]
    for to, algorithm in ((exact, "cython_tiled"), (found, None)):
        to += fastconv.conv2d_backward(dy, x, w, padding=1, output_mask=(True, True, False), algorithm=algorithm)[:2]
        to.append(fastconv.conv_transpose2d(dy, w, padding=1, algorithm=algorithm))
        to += fastconv.conv_transpose2d_backward(x, dy, w, padding=1, algorithm=algorithm)[:2]
    exact += exact[1:3]
    found += [fastconv.conv2d_input(x.shape, w, dy, 1, 1), fastconv.conv2d_weight(x, w.shape, dy, 1, 1)]
    to_the_name = fastconv.conv2d(x, w, padding=1, algorithm="cython_winograd_f6").astype(np.float32)
    for actual, expected in zip(found, exact, strict=True):
        assert_same_numbers(actual, expected)
    assert_close(to_the_name, exact[0].astype(np.float32), 1e-2)


def test_training_is_the_same_with_and_without():
    """Two layers and a square error, 200 steps: the losses agree to a thousandth, and fall."""
    random = generator("training")
    x = random.standard_normal((8, 16, 12, 12)).astype(np.float32)
    start, goal = ([random.standard_normal(shape) / 12 for shape in ((16, 16, 3, 3), (8, 16, 3, 3))] for _ in range(2))
    first, second = (weight.astype(np.float32) for weight in goal)
    target = fastconv.conv2d(fastconv.conv2d(x, first, padding=1, activation="relu"), second, padding=1)

    def losses(algorithm):
        first, second = (weight.astype(np.float32) for weight in start)
        found = []
        with fastconv.use(algorithm={"conv": algorithm}, strict=True):
            for _ in range(200):
                hidden = fastconv.conv2d(x, first, padding=1, activation="relu")
                difference = fastconv.conv2d(hidden, second, padding=1) - target
                found.append(float((difference**2).mean()))
                upstream = 2 * difference / difference.size
                dh, dw2, _ = fastconv.conv2d_backward(upstream, hidden, second, padding=1)
                _, dw1, _ = fastconv.conv2d_backward(dh * (hidden > 0), x, first, padding=1)
                first -= 0.2 * dw1
                second -= 0.2 * dw2
        return np.array(found)

    direct, transformed = losses("cython_tiled"), losses("cython_winograd_f4")
    assert direct[-1] < direct[0] / 2, (direct[0], direct[-1])
    np.testing.assert_allclose(transformed, direct, rtol=1e-3)
