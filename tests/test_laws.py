"""Laws that need no oracle, exact on integers, for every algorithm: FFTW's verifier, and the adjoint identity."""

from dataclasses import replace

import numpy as np
import pytest

from fastconv import parse_problem
from fastconv.algorithm import Direction
from fastconv.planner import REGISTRY
from tests.checks import (
    EXACT,
    assert_same_numbers,
    run_conv,
    run_pool_backward,
    run_pool_forward,
    skip_unless_expected_to_run,
)
from tests.problems import conv_operands, generator, integers, pool_input

FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT = Direction.FORWARD, Direction.BACKWARD_INPUT, Direction.BACKWARD_WEIGHT

CONV = pytest.mark.parametrize("algorithm", EXACT, ids=lambda algorithm: algorithm.name)
POOL = pytest.mark.parametrize("algorithm", REGISTRY["pool"], ids=lambda algorithm: algorithm.name)
TEXTS = (
    "f32_n2c5h9w10_k7r3s3_pad1:1,1:1",
    "f64_n1c6h8w19_k9r3s4_stride2x1_pad0:2,1:0_dil1x2_g3",
    "f32_n2c9h7w8_k18r3s3_stride2x2_pad1:1,1:1_g9_nhwc",
    "f64_n3c17h5w6_k9r1s1_nhwc",
)
PROBLEMS = pytest.mark.parametrize("problem", [parse_problem(text) for text in TEXTS], ids=TEXTS)


def operands(problem, direction, *, seed=0):
    """Two operands of a direction, with values small enough that sums of a few of them stay exact."""
    shapes = {
        FORWARD: (problem.input_shape, problem.weight_shape),
        BACKWARD_INPUT: (problem.output_shape, problem.weight_shape),
        BACKWARD_WEIGHT: (problem.output_shape, problem.input_shape),
    }[direction]
    return [integers((seed, which, direction), shape, problem.dtype, 3) for which, shape in enumerate(shapes)]


@CONV
@PROBLEMS
@pytest.mark.parametrize("direction", list(Direction), ids=str)
def test_linear_in_each_operand(algorithm, problem, direction):
    """f(2 a + 3 b, c) = 2 f(a, c) + 3 f(b, c), and the same of the other operand."""
    skip_unless_expected_to_run(algorithm, problem, direction)
    (a, c), (b, d) = operands(problem, direction), operands(problem, direction, seed=1)

    def f(first, second):
        return run_conv(algorithm, problem, direction, first, second, threads=2)

    assert_same_numbers(f(2 * a + 3 * b, c), 2 * f(a, c) + 3 * f(b, c), "the first operand")
    assert_same_numbers(f(a, 2 * c + 3 * d), 2 * f(a, c) + 3 * f(a, d), "the second operand")


@CONV
@PROBLEMS
def test_an_impulse_shows_the_kernel(algorithm, problem):
    """A single one in grad_output puts the weight, unturned, where its window lies; all else is exactly 0."""
    skip_unless_expected_to_run(algorithm, problem, BACKWARD_INPUT)
    w = conv_operands(problem)["weight"]
    for n, k, p, q in ((0, 0, 0, 0), (problem.batch - 1, problem.out_channels - 1, *(s - 1 for s in problem.out_size))):
        dy = np.zeros((problem.batch, problem.out_channels, *problem.out_size), problem.dtype)
        dy[n, k, p, q] = 1
        if problem.channels_last:
            dy = np.ascontiguousarray(np.moveaxis(dy, 1, -1))
        dx = run_conv(algorithm, problem, BACKWARD_INPUT, dy, w)
        expected = np.zeros((problem.batch, problem.in_channels, *problem.in_size), problem.dtype)
        first_c = k // problem.group_out_channels * problem.group_in_channels
        for r in range(problem.kernel[0]):
            for s in range(problem.kernel[1]):
                i = p * problem.stride[0] - problem.pads[0][0] + r * problem.dilation[0]
                j = q * problem.stride[1] - problem.pads[1][0] + s * problem.dilation[1]
                if 0 <= i < problem.in_size[0] and 0 <= j < problem.in_size[1]:
                    expected[n, first_c : first_c + problem.group_in_channels, i, j] = w[k, :, r, s]
        if problem.channels_last:
            expected = np.moveaxis(expected, 1, -1)
        assert_same_numbers(dx, expected)


@CONV
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shifting_the_input_by_a_stride_shifts_the_output(algorithm, stride, dtype):
    """No padding: output[p + 1, q + 1] of an image is output[p, q] of the image without its first rows and columns."""
    text = f"n2c3h16w21_k5r3s2_stride{stride}x{stride}"
    whole = replace(parse_problem(text), dtype=dtype)
    rest = replace(whole, in_size=(16 - stride, 21 - stride))
    skip_unless_expected_to_run(algorithm, whole, FORWARD)
    data = conv_operands(whole)
    x, w = data["input"], data["weight"]
    full = run_conv(algorithm, whole, FORWARD, x, w)
    shifted = run_conv(algorithm, rest, FORWARD, np.ascontiguousarray(x[:, :, stride:, stride:]), w)
    assert_same_numbers(shifted, full[:, :, 1:, 1:])


@CONV
@PROBLEMS
def test_adjoint_identity(algorithm, problem):
    """<dy, conv(x, w)> = <conv_input(dy, w), x> = <conv_weight(x, dy), w>."""
    skip_unless_expected_to_run(algorithm, problem, FORWARD)
    data = conv_operands(problem)
    x, w, dy = data["input"], data["weight"], data["grad_output"]

    def inner(a, b):
        return int(np.vdot(a.astype(np.int64), b.astype(np.int64)))

    product = inner(dy, run_conv(algorithm, problem, FORWARD, x, w))
    assert product == inner(run_conv(algorithm, problem, BACKWARD_INPUT, dy, w), x)
    assert product == inner(run_conv(algorithm, problem, BACKWARD_WEIGHT, dy, x), w)
    assert product != 0


@CONV
@PROBLEMS
def test_images_of_a_batch_are_independent(algorithm, problem):
    """The result of an image does not depend on its neighbours in the batch, and grad_weight adds up over it."""
    skip_unless_expected_to_run(algorithm, problem, FORWARD)
    data = conv_operands(problem)
    x, w, dy = data["input"], data["weight"], data["grad_output"]
    one = replace(problem, batch=1)
    output = run_conv(algorithm, problem, FORWARD, x, w)
    total = np.zeros_like(w)
    for n in range(problem.batch):
        assert_same_numbers(run_conv(algorithm, one, FORWARD, x[n : n + 1], w), output[n : n + 1], f"image {n}")
        total = total + run_conv(algorithm, one, BACKWARD_WEIGHT, dy[n : n + 1], x[n : n + 1])
    assert_same_numbers(run_conv(algorithm, problem, BACKWARD_WEIGHT, dy, x), total)


@CONV
def test_groups_are_independent_convolutions(algorithm):
    problem = parse_problem("f32_n2c6h7w8_k9r3s3_pad1:1,1:1_g3")
    part = parse_problem("f32_n2c2h7w8_k3r3s3_pad1:1,1:1")
    skip_unless_expected_to_run(algorithm, problem, FORWARD)
    data = conv_operands(problem)
    x, w = data["input"], data["weight"]
    parts = [
        run_conv(algorithm, part, FORWARD, np.ascontiguousarray(x[:, 2 * g : 2 * g + 2]), w[3 * g : 3 * g + 3])
        for g in range(3)
    ]
    assert_same_numbers(run_conv(algorithm, problem, FORWARD, x, w), np.concatenate(parts, 1))


@CONV
@pytest.mark.parametrize("direction", list(Direction), ids=str)
def test_layouts_agree(algorithm, direction):
    """NHWC gives the same numbers as NCHW, channels moved."""
    first = parse_problem("f32_n2c6h9w8_k4r3s2_stride2x1_pad1:0,1:1_g2")
    last = replace(first, channels_last=True)
    skip_unless_expected_to_run(algorithm, last, direction)
    a, b = operands(first, direction)

    def moved(array):
        return np.ascontiguousarray(np.moveaxis(array, 1, -1))

    result = run_conv(algorithm, first, direction, a, b)
    if direction is BACKWARD_WEIGHT:
        assert_same_numbers(run_conv(algorithm, last, direction, moved(a), moved(b)), result)
    else:
        assert_same_numbers(run_conv(algorithm, last, direction, moved(a), b), np.moveaxis(result, 1, -1))


# -- Pools ------------------------------------------------------------------------------------------

POOLS = (
    "f32_n2c3h9w10_r3s2_stride2x2_pad1:1,0:1",
    "f64_n1c17h8w8_r2s2",
    "f32_n1c4h7w9_r3s3_stride2x2_pad1:1,1:1_ceil_nhwc",
)
POOL_TEXTS = pytest.mark.parametrize("text", POOLS)


@POOL
@POOL_TEXTS
def test_max_commutes_with_monotone_functions(algorithm, text):
    """max(f(x)) = f(max(x)) for increasing f, and its index does not move."""
    problem = parse_problem(f"max_{text}")
    x = pool_input(problem)
    values, indices = run_pool_forward(algorithm, problem, x, with_indices=True)
    cubes, same = run_pool_forward(algorithm, problem, x**3, with_indices=True)
    assert_same_numbers(cubes, values**3)
    assert_same_numbers(same, indices)


@POOL
@POOL_TEXTS
def test_an_index_points_at_its_maximum(algorithm, text):
    problem = parse_problem(f"max_{text}")
    x = generator(text).standard_normal(problem.input_shape).astype(problem.dtype)
    values, indices = run_pool_forward(algorithm, problem, x, with_indices=True)
    planes, where, found = (np.moveaxis(a, -1, 1) if problem.channels_last else a for a in (x, indices, values))
    flat = planes.reshape(problem.batch, problem.channels, -1)
    taken = np.take_along_axis(flat, where.reshape(*flat.shape[:2], -1), -1).reshape(found.shape)
    assert_same_numbers(taken, np.ascontiguousarray(found))


@POOL
@POOL_TEXTS
def test_the_gradient_of_a_maximum_is_conserved(algorithm, text):
    """Every upstream gradient arrives exactly once."""
    problem = parse_problem(f"max_{text}")
    dy = integers("dy", problem.output_shape, problem.dtype, 9)
    dx = run_pool_backward(algorithm, problem, dy, input=pool_input(problem))
    axes = (1, 2) if problem.channels_last else (2, 3)
    assert_same_numbers(dx.sum(axes), dy.sum(axes))


@POOL
@POOL_TEXTS
def test_average_is_linear_and_adjoint_to_its_gradient(algorithm, text):
    """<dy, avg(x)> = <avg_backward(dy), x>, exact where every divisor is a power of two."""
    problem = parse_problem(f"avg_{text}_div4")
    x, y = integers("x", problem.input_shape, problem.dtype, 9), integers("y", problem.input_shape, problem.dtype, 9)
    dy = integers("dy", problem.output_shape, problem.dtype, 9)

    def average(images):
        return run_pool_forward(algorithm, problem, images)[0]

    assert_same_numbers(average(2 * x + 3 * y), 2 * average(x) + 3 * average(y))
    dx = run_pool_backward(algorithm, problem, dy)
    assert np.vdot(dy.astype(float), average(x).astype(float)) == np.vdot(dx.astype(float), x.astype(float))


@POOL
@pytest.mark.parametrize("nopad", ["", "_nopad"])
def test_the_average_of_a_constant_is_that_constant(algorithm, nopad):
    """Padding that is not counted changes nothing; padding that is counted dilutes."""
    problem = parse_problem(f"avg_f32_n1c9h7w8_r3s3_stride2x2_pad1:1,1:1{nopad}")
    output, _ = run_pool_forward(algorithm, problem, np.full(problem.input_shape, 7, np.float32))
    inner = output[:, :, 1:-1, 1:-1]
    assert (inner == 7).all()
    assert (output == 7).all() == bool(nopad)
    assert output[0, 0, 0, 0] == (7 if nopad else np.float32(28) / 9)
