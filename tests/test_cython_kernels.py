"""The compiled kernels at every instruction set that this machine runs, around the borders of their tiles.

The conformance suite holds cython_tiled to the oracle at the best instruction set; here are the other ones, the sizes
at which register tiles, vectors and blocks end, and the paths that only certain values or shapes take.
"""

from dataclasses import replace

import numpy as np
import pytest

from fastconv.algorithm import Direction, Epilogue, direct_error
from fastconv.conv import compiled, depthwise
from fastconv.conv import cython_tiled as conv
from fastconv.errors import InvalidProblem
from fastconv.kernels.cython import built, load
from fastconv.machine import machine
from fastconv.pool import cython_tiled as pool
from fastconv.problem import ConvProblem, PoolProblem
from tests import oracle
from tests.checks import Memory, Operand, Pieces, assert_close, assert_same_numbers
from tests.problems import conv_operands, integers, pool_input

LEVELS = [level for level in machine().levels if level in built.LEVELS]
pytestmark = pytest.mark.skipif(conv.unavailable() is not None, reason="the extensions are not built")


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    monkeypatch.setattr(compiled, "kernels", lambda name: load(name, (request.param,)))
    monkeypatch.setattr(depthwise, "_kernels", lambda: load("depthwise", (request.param,)))
    monkeypatch.setattr(pool, "_kernels", lambda name: load(name, (request.param,)))
    return request.param


def run(module, direction, problem, *operands, shape, threads=2, epilogue=(), byte=0xA5):
    """One direction of cython_tiled into a result of NaN, on scratch of `byte`, everything between guards."""
    algorithm = module.ALGORITHMS[0]
    given = [None if array is None else Operand(array) for array in operands]
    result = Memory(shape, problem.dtype)
    scratch = Pieces(algorithm.workspace_bytes(problem, direction, threads)[1], byte)
    arguments = (*(entry and entry.array for entry in given), result.array, *epilogue, scratch, threads)
    algorithm.direction(problem, direction)(problem, *arguments)
    for entry in filter(None, given):
        entry.check_unchanged("an operand")
    result.check_guards("result")
    scratch.check_guards("scratch")
    return result.array


def check_convolution(problem, threads=2):
    """All three directions equal the oracle, whatever the scratch held."""
    data = conv_operands(problem)
    x, w, b, dy = data["input"], data["weight"], data["bias"], data["grad_output"]
    expected = oracle.conv_forward(problem, x, w, b).clip(0).astype(problem.dtype)
    actual = run(conv, Direction.FORWARD, problem, x, w, shape=problem.output_shape, threads=threads,
                 epilogue=(Epilogue(b, "relu"),))  # fmt: skip
    assert_same_numbers(actual, expected, f"{problem} forward")
    for byte in (0xA5, 0xFF):  # 0xFF is NaN
        actual = run(conv, Direction.BACKWARD_INPUT, problem, dy, w, shape=problem.input_shape, threads=threads,
                     epilogue=(Epilogue(),), byte=byte)  # fmt: skip
        expected = oracle.conv_backward_input(problem, dy, w).astype(problem.dtype)
        assert_same_numbers(actual, expected, f"{problem} backward_input")
    bias = np.full(problem.out_channels, np.nan, problem.dtype)
    actual = run(conv, Direction.BACKWARD_WEIGHT, problem, dy, x, shape=problem.weight_shape, threads=threads,
                 epilogue=(bias,))  # fmt: skip
    assert_same_numbers(actual, oracle.conv_backward_weight(problem, dy, x).astype(problem.dtype), f"{problem} weight")
    assert_same_numbers(bias, oracle.conv_backward_bias(problem, dy).astype(problem.dtype), f"{problem} bias")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [1, 2, 5, 6, 7, 12, 13, 14, 15, 16, 17, 28, 29, 33])
def test_rows_of_every_length(level, dtype, columns):
    """Row lengths around the tile's 6 and 14 pixels, vectors of 2 to 16 lanes."""
    check_convolution(ConvProblem(dtype, 2, 3, (3, columns), 5, (2, 2), pads=((1, 0), (0, 1))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7, 8, 9, 13, 14, 15, 16, 17, 31, 32, 33, 65])
def test_channels_of_every_count(level, dtype, channels):
    """Channel counts around one and two vectors, and around the tiles of grad_weight; both ways round."""
    check_convolution(ConvProblem(dtype, 1, channels, (4, 5), 6, (3, 2), (2, 1), ((1, 1), (1, 0))))
    check_convolution(ConvProblem(dtype, 1, 6, (4, 5), channels, (3, 2), (1, 2), ((1, 1), (1, 0))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "problem",
    [
        {"in_channels": 2, "in_size": (3, 1100), "out_channels": 3, "kernel": (1, 3)},  # blocks of columns
        {"in_channels": 4, "in_size": (60, 31), "out_channels": 6, "kernel": (3, 3), "pads": ((1, 1), (1, 1))},
        {"in_channels": 700, "in_size": (2, 3), "out_channels": 3, "kernel": (1, 1)},  # blocks of channels
        {"in_channels": 80, "in_size": (4, 4), "out_channels": 40, "kernel": (3, 3), "pads": ((1, 1), (1, 1))},
        {"in_channels": 6, "in_size": (9, 70), "out_channels": 6, "kernel": (3, 3), "groups": 6, "stride": (2, 3)},
        {"in_channels": 8, "in_size": (70, 70), "out_channels": 8, "kernel": (3, 3), "groups": 4, "batch": 3},
        {
            "in_channels": 3,
            "in_size": (20, 40),
            "out_channels": 20,
            "kernel": (2, 2),
            "dilation": (9, 30),
        },  # no merging
        {"in_channels": 20, "in_size": (9, 9), "out_channels": 20, "kernel": (1, 1), "stride": (4, 4), "batch": 17},
        {"in_channels": 20, "in_size": (5, 5), "out_channels": 34, "kernel": (3, 3), "stride": (2, 2), "batch": 40},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_more_than_one_block(level, dtype, problem, channels_last):
    check_convolution(ConvProblem(dtype, **{"batch": 1, **problem}, channels_last=channels_last), threads=3)


THREADED = [
    ConvProblem("float32", 3, 20, (30, 31), 70, (3, 3), (1, 1), ((1, 1), (1, 1))),
    ConvProblem("float64", 2, 8, (33, 30), 8, (3, 3), (2, 2), ((1, 1), (1, 1)), groups=8),
    ConvProblem("float32", 2, 3, (40, 40), 24, (5, 5), (2, 2), ((2, 2), (2, 2))),
]


@pytest.mark.parametrize("problem", THREADED, ids=str)
def test_the_same_bits_on_any_number_of_threads(level, problem):
    rng = np.random.default_rng(1)
    x, w, dy = (
        rng.standard_normal(shape).astype(problem.dtype)
        for shape in (problem.input_shape, problem.weight_shape, problem.output_shape)
    )
    for direction, first, second, shape, last in (
        (Direction.FORWARD, x, w, problem.output_shape, Epilogue()),
        (Direction.BACKWARD_INPUT, dy, w, problem.input_shape, Epilogue()),
        (Direction.BACKWARD_WEIGHT, dy, x, problem.weight_shape, None),
    ):
        results = [
            run(conv, direction, problem, first, second, shape=shape, threads=threads, epilogue=(last,)).tobytes()
            for threads in (1, 2, 3, 16)
        ]
        assert len(set(results)) == 1, f"{problem} {direction}"


@pytest.mark.parametrize("channels", [2, 40])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_finite_meet_no_zeros_beyond_grad_output(level, channels, stride, value):
    """The path tap by tap, for few and for many input channels."""
    problem = ConvProblem("float32", 2, channels, (7, 9), 3, (3, 3), stride, ((2, 1), (1, 2)))
    data = conv_operands(problem)
    weight = data["weight"].copy()
    weight[1, 0, 0, 1] = weight[2, 1, 2, 2] = value
    with np.errstate(all="ignore"):
        expected = oracle.conv_backward_input(problem, data["grad_output"], weight).astype(problem.dtype)
    actual = run(conv, Direction.BACKWARD_INPUT, problem, data["grad_output"], weight, shape=problem.input_shape,
                 epilogue=(Epilogue(),))  # fmt: skip
    assert np.isfinite(actual).any()
    assert_same_numbers(actual, expected)


def check_pool(problem):
    """Both directions of a pool, values with many ties, with indices and without."""
    kind, dtype = problem.kind, problem.dtype
    x = pool_input(problem)
    dy = integers("upstream", problem.output_shape, dtype, 8)
    algorithm, output = pool.ALGORITHMS[0], np.full(problem.output_shape, np.nan, dtype)
    _, best = algorithm.workspace_bytes(problem, Direction.FORWARD, 2)
    grad = np.full(problem.input_shape, np.nan, dtype)
    if kind == "max":
        expected = oracle.max_forward(problem, x)
        where = np.full(problem.output_shape, -1, np.int64)
        algorithm.forward(problem, x, output, where, Pieces(best, 0xA5), 2)
        assert_same_numbers(output, expected.values.astype(dtype))
        assert (where == expected.indices).all()
        without = run(pool, Direction.FORWARD, problem, x, shape=problem.output_shape, epilogue=(None,))
        assert_same_numbers(without, expected.values.astype(dtype), "without indices")
        algorithm.backward_input(problem, dy, x, None, grad, Pieces(best, 0xA5), 2)
        assert_same_numbers(grad, oracle.max_backward(problem, dy, expected.indices).astype(dtype))
        grad[...] = np.nan
        algorithm.backward_input(problem, dy, None, where, grad, Pieces(best, 0xA5), 2)
        assert_same_numbers(grad, oracle.max_backward(problem, dy, where).astype(dtype), "from indices")
    else:
        algorithm.forward(problem, x, output, None, Pieces(best, 0xA5), 2)
        both = 2 * direct_error(problem, Direction.FORWARD)  # the oracle errs too
        assert_close(output, oracle.avg_forward(problem, x), both, dtype=problem.dtype)
        algorithm.backward_input(problem, dy, None, None, grad, Pieces(best, 0xA5), 2)
        assert_close(grad, oracle.avg_backward(problem, dy), both, dtype=problem.dtype)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [3, 4, 5, 8, 9, 15, 16, 17, 31, 33, 64, 65, 2100])
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_pooled_rows_of_every_length(level, kind, dtype, columns, step, kernel):
    """Rows around vectors of 2 to 16 lanes and blocks of 512 outputs."""
    pads = ((1, 1), (kernel // 2, 1))
    problem = PoolProblem(kind, dtype, 1, 2, (7, columns), (3, kernel), (2, step), pads, ceil_mode=True)
    check_pool(problem)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 49])
@pytest.mark.parametrize("rows", [1, 2, 3, 70])
def test_what_is_around_every_element(level, kind, dtype, columns, rows):
    """3 x 3 windows at a stride of 1: around vectors, planes of one block and of some, and however averages divide."""
    around = PoolProblem(kind, dtype, 1, 2, (rows, columns), (3, 3), (1, 1), ((1, 1), (1, 1)))
    check_pool(around)
    x = pool_input(around, "special")
    if kind == "max":
        found = run(pool, Direction.FORWARD, around, x, shape=around.output_shape, epilogue=(None,))
        assert_same_numbers(found, oracle.max_forward(around, x).values.astype(dtype))
        return
    for problem in (replace(around, count_include_pad=False), replace(around, divisor_override=7)):
        check_pool(problem)
        found = run(pool, Direction.FORWARD, problem, x, shape=problem.output_shape, epilogue=(None,))
        expected = oracle.avg_forward(problem, x)
        finite = np.isfinite(expected)
        assert_same_numbers(found[~finite], expected[~finite].astype(dtype))
        assert_same_numbers(found[finite], expected[finite].astype(dtype), "to the last bit")


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_windows_as_many_as_elements_but_apart_are_not_around_every_element(level, kind):
    """Nor is a single row of windows over two rows, whose stride says nothing."""
    for stride, size in (((3, 1), (2, 5)), ((1, 3), (5, 2)), ((3, 3), (2, 2)), ((2, 1), (2, 5)), ((1, 2), (5, 2))):
        problem = PoolProblem(kind, "float32", 1, 2, size, (3, 3), stride, ((1, 1), (1, 1)), ceil_mode=True)
        check_pool(problem)
        if kind == "avg":
            check_pool(replace(problem, count_include_pad=False))


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130])
@pytest.mark.parametrize("kernel", [2, 3])
def test_pooled_channels_of_every_length(level, kind, dtype, channels, kernel):
    """Channels around vectors of 2 to 16 lanes, and blocks of four of these."""
    check_pool(PoolProblem(kind, dtype, 2, channels, (5, 6), (3, kernel), (2, 1), ((1, 1), (1, 0)), channels_last=True))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_indices_of_any_window(level, dtype, channels_last):
    """Gradients go where the indices say, be it a window's own element or not; outside the plane they go nowhere."""
    problem = PoolProblem("max", dtype, 2, 5, (40, 33), (2, 2), (2, 2), channels_last=channels_last)
    dy = integers("upstream", problem.output_shape, dtype, 8)
    indices = np.random.default_rng(1).integers(0, 40 * 33, problem.output_shape)
    found = run(pool, Direction.BACKWARD_INPUT, problem, dy, None, indices, shape=problem.input_shape)
    assert_same_numbers(found, oracle.max_backward(problem, dy, indices).astype(dtype))
    for place, strange in ((0, -1), (17, 40 * 33), (-1, 2**40), (-1, -(2**63))):
        wrong = indices.copy()
        wrong.reshape(-1)[place] = strange
        with pytest.raises(InvalidProblem, match="indices must be in"):
            run(pool, Direction.BACKWARD_INPUT, problem, dy, None, wrong, shape=problem.input_shape)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("size", [(2, 6), (4, 7), (5, 6), (10, 10), (28, 33)])
@pytest.mark.parametrize("pads", [((0, 0), (0, 0)), ((0, 0), (1, 0)), ((1, 1), (0, 0))])
@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 2)])
def test_small_planes_that_may_be_one_tall_plane(level, kind, size, pads, stride):
    """Windows that never reach beyond their plane's rows, and such that do or leave some out."""
    problem = PoolProblem(kind, "float32", 3, 7, size, (2, 2), stride, pads, ceil_mode=True)
    check_pool(problem)
    if kind == "avg":
        check_pool(replace(problem, count_include_pad=False))
        check_pool(replace(problem, divisor_override=3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("planes", [3, 4, 5, 11])
def test_indices_of_planes_done_abreast(level, dtype, planes):
    """Windows that overlap so much that four planes are done at once, and a strange index in every plane's place."""
    problem = PoolProblem("max", dtype, 1, planes, (9, 10), (7, 6), (1, 1), ((3, 3), (3, 2)))
    check_pool(problem)
    dy = integers("upstream", problem.output_shape, dtype, 8)
    indices = np.random.default_rng(1).integers(0, 90, problem.output_shape)
    found = run(pool, Direction.BACKWARD_INPUT, problem, dy, None, indices, shape=problem.input_shape)
    assert_same_numbers(found, oracle.max_backward(problem, dy, indices).astype(dtype))
    for plane in range(planes):
        indices[0, plane, 4, 5], kept = 90, indices[0, plane, 4, 5]
        with pytest.raises(InvalidProblem, match="indices must be in"):
            run(pool, Direction.BACKWARD_INPUT, problem, dy, None, indices, shape=problem.input_shape)
        indices[0, plane, 4, 5] = kept


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("planes", [1, 2, 7, 8, 9, 16, 17, 40])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 5), (4, 4), (7, 7), (64, 64), (65, 64)])
def test_whole_planes(level, dtype, planes, size):
    """One window covers everything: maxima with NaN and -inf among them, and averages."""
    rng = np.random.default_rng(planes)
    for kind in ("max", "avg"):
        problem = PoolProblem(kind, dtype, 1, planes, size, size, (1, 1))
        x = rng.standard_normal(problem.input_shape).astype(dtype)
        dy = rng.standard_normal(problem.output_shape).astype(dtype)
        if kind == "max":
            x[0, 0] = -np.inf
            x[0, -1, 0, -1] = np.nan
            found = run(pool, Direction.FORWARD, problem, x, shape=problem.output_shape, epilogue=(None,))
            assert_same_numbers(found, oracle.max_forward(problem, x).values.astype(dtype))
        else:
            found = run(pool, Direction.FORWARD, problem, x, shape=problem.output_shape, epilogue=(None,))
            assert_close(found, oracle.avg_forward(problem, x), 1e-5, dtype=dtype)
            found = run(pool, Direction.BACKWARD_INPUT, problem, dy, None, None, shape=problem.input_shape)
            assert_close(found, oracle.avg_backward(problem, dy), 1e-6, dtype=dtype)
