"""Every pooling algorithm x direction x problem equals the oracle, tolerance zero, on memory that tells on it."""

import numpy as np
import pytest

from fastconv.algorithm import Direction
from fastconv.planner import REGISTRY
from tests import oracle
from tests.checks import assert_same_numbers, run_pool_backward, run_pool_forward, skip_unless_expected_to_run
from tests.problems import AVG_PROBLEMS, MAX_PROBLEMS, integers, pool_input

ALGORITHMS = pytest.mark.parametrize("algorithm", REGISTRY["pool"], ids=lambda algorithm: algorithm.name)
MAX = pytest.mark.parametrize("problem", MAX_PROBLEMS.values(), ids=MAX_PROBLEMS.keys())
AVG = pytest.mark.parametrize("problem", AVG_PROBLEMS.values(), ids=AVG_PROBLEMS.keys())


@ALGORITHMS
@MAX
def test_max_forward(algorithm, problem):
    skip_unless_expected_to_run(algorithm, problem, Direction.FORWARD)
    for values in ("integers", "ties", "special"):
        x = pool_input(problem, values)
        maxima = oracle.max_forward(problem, x)
        expected = maxima.values.astype(problem.dtype)
        output, indices = run_pool_forward(algorithm, problem, x, with_indices=True)
        assert_same_numbers(output, expected, values)
        assert_same_numbers(indices, maxima.indices, f"indices of {values}")
        output, _ = run_pool_forward(algorithm, problem, x, threads=3, generous=True)
        assert_same_numbers(output, expected, f"{values} on 3 threads, without indices")


@ALGORITHMS
@MAX
def test_max_backward(algorithm, problem):
    skip_unless_expected_to_run(algorithm, problem, Direction.BACKWARD_INPUT)
    dy = integers("grad_output", problem.output_shape, problem.dtype, 99)
    for values in ("integers", "ties", "special"):
        x = pool_input(problem, values)
        indices = np.ascontiguousarray(oracle.max_forward(problem, x).indices)
        expected = oracle.max_backward(problem, dy, indices).astype(problem.dtype)
        assert_same_numbers(run_pool_backward(algorithm, problem, dy, indices=indices), expected, values)
        actual = run_pool_backward(algorithm, problem, dy, input=x, threads=3, generous=True)
        assert_same_numbers(actual, expected, f"{values} on 3 threads, indices found again")


@ALGORITHMS
@AVG
def test_avg_forward(algorithm, problem):
    skip_unless_expected_to_run(algorithm, problem, Direction.FORWARD)
    for values in ("integers", "special"):
        x = pool_input(problem, values)
        expected = oracle.avg_forward(problem, x).astype(problem.dtype)
        assert_same_numbers(run_pool_forward(algorithm, problem, x)[0], expected, values)
        output, _ = run_pool_forward(algorithm, problem, x, threads=3, generous=True)
        assert_same_numbers(output, expected, f"{values} on 3 threads")


@ALGORITHMS
@AVG
def test_avg_backward(algorithm, problem):
    """Gradients are multiples of what they are divided by, so that the shares and their sums are exact."""
    skip_unless_expected_to_run(algorithm, problem, Direction.BACKWARD_INPUT)
    multiples = integers("grad_output", problem.output_shape, problem.dtype, 9)
    scale = oracle.divisors(problem)[..., None] if problem.channels_last else oracle.divisors(problem)
    dy = (multiples * scale).astype(problem.dtype)
    expected = oracle.avg_backward(problem, dy).astype(problem.dtype)
    assert_same_numbers(run_pool_backward(algorithm, problem, dy), expected)
    actual = run_pool_backward(algorithm, problem, dy, threads=3, generous=True)
    assert_same_numbers(actual, expected, "on 3 threads")
