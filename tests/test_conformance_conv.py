"""Every algorithm x direction x problem equals the oracle, tolerance zero, on memory that tells on it."""

import pytest

from fastconv.algorithm import Direction
from fastconv.planner import REGISTRY
from tests import oracle
from tests.checks import assert_right, assert_same_numbers, run_conv, skip_unless_expected_to_run
from tests.problems import CONV_DIRECTIONS, CONV_PROBLEMS, conv_operands

ALGORITHMS = pytest.mark.parametrize("algorithm", REGISTRY["conv"], ids=lambda algorithm: algorithm.name)
DIRECTIONS = pytest.mark.parametrize("direction", CONV_DIRECTIONS, ids=str)
PROBLEMS = pytest.mark.parametrize("problem", CONV_PROBLEMS.values(), ids=CONV_PROBLEMS.keys())


@ALGORITHMS
@DIRECTIONS
@PROBLEMS
def test_equals_the_oracle(algorithm, direction, problem):
    skip_unless_expected_to_run(algorithm, problem, direction)
    data = conv_operands(problem)
    x, w, b, dy = data["input"], data["weight"], data["bias"], data["grad_output"]
    if direction is Direction.FORWARD:
        expected = oracle.conv_forward(problem, x, w).astype(problem.dtype)
        assert_right(algorithm, problem, direction, run_conv(algorithm, problem, direction, x, w), expected)
        # With everything the epilogue has, on more threads, and all the scratch that helps.
        actual = run_conv(algorithm, problem, direction, x, w, bias=b, activation="relu", threads=3, generous=True)
        expected = oracle.conv_forward(problem, x, w, b).clip(0).astype(problem.dtype)
        assert_right(algorithm, problem, direction, actual, expected, "with bias and relu")
    elif direction is Direction.BACKWARD_INPUT:
        expected = oracle.conv_backward_input(problem, dy, w).astype(problem.dtype)
        assert_right(algorithm, problem, direction, run_conv(algorithm, problem, direction, dy, w), expected)
        actual = run_conv(algorithm, problem, direction, dy, w, threads=3, generous=True)
        assert_right(algorithm, problem, direction, actual, expected, "on 3 threads")
    else:
        expected = oracle.conv_backward_weight(problem, dy, x).astype(problem.dtype)
        assert_right(algorithm, problem, direction, run_conv(algorithm, problem, direction, dy, x), expected)
        grad_weight, grad_bias = run_conv(
            algorithm, problem, direction, dy, x, with_grad_bias=True, threads=3, generous=True
        )
        assert_right(algorithm, problem, direction, grad_weight, expected, "on 3 threads")
        assert_same_numbers(grad_bias, oracle.conv_backward_bias(problem, dy).astype(problem.dtype), "grad_bias")


@ALGORITHMS
@pytest.mark.parametrize(
    "name", ["everything-f32", "everything_nhwc-f32", "depthwise_17-f64", "stride_2-f32", "linear_groups-f32"]
)
def test_transposed_convolution_adds_its_bias(algorithm, name):
    """backward_input with an epilogue is transposed convolution: its bias has one entry per input channel."""
    problem = CONV_PROBLEMS[name]
    skip_unless_expected_to_run(algorithm, problem, Direction.BACKWARD_INPUT)
    data = conv_operands(problem)
    bias = data["input"].reshape(-1)[: problem.in_channels]
    exact = oracle.channels_first(
        problem, oracle.conv_backward_input(problem, data["grad_output"], data["weight"])
    ) + bias.reshape(-1, 1, 1)
    expected = oracle.problems_layout(problem, exact.clip(0)).astype(problem.dtype)
    actual = run_conv(
        algorithm, problem, Direction.BACKWARD_INPUT, data["grad_output"], data["weight"], bias=bias, activation="relu"
    )
    assert_right(algorithm, problem, Direction.BACKWARD_INPUT, actual, expected)


@ALGORITHMS
@DIRECTIONS
def test_works_in_pieces_between_least_and_best(algorithm, direction):
    """Any grant from the least to the best workspace gives the same numbers."""
    problem = CONV_PROBLEMS["everything-f32"]
    skip_unless_expected_to_run(algorithm, problem, direction)
    least, best = algorithm.workspace_bytes(problem, direction, 2)
    data = conv_operands(problem)
    first, second, expected = {
        Direction.FORWARD: ("input", "weight", oracle.conv_forward),
        Direction.BACKWARD_INPUT: ("grad_output", "weight", oracle.conv_backward_input),
        Direction.BACKWARD_WEIGHT: ("grad_output", "input", oracle.conv_backward_weight),
    }[direction]
    exact = expected(problem, data[first], data[second]).astype(problem.dtype)
    for grant in sorted({least, least + 1, (least + best) // 2, best - 1, best}):
        if least <= grant <= best:
            actual = run_conv(algorithm, problem, direction, data[first], data[second], threads=2, grant=grant)
            assert_same_numbers(actual, exact, f"with {grant} bytes of {least} to {best}")


def test_data_is_exact():
    """The bound that makes tolerance zero right holds for every problem, in all three directions."""
    for problem in CONV_PROBLEMS.values():
        data = conv_operands(problem)
        x, w, b, dy = (abs(data[name]) for name in ("input", "weight", "bias", "grad_output"))
        assert oracle.conv_forward(problem, x, w, b).max() <= 2**18
        assert oracle.conv_backward_input(problem, dy, w).max() <= 2**18
        assert oracle.conv_backward_weight(problem, dy, x).max() <= 2**18
        assert any(array.any() for array in (x, w, dy))
