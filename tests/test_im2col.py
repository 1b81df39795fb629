"""What only im2col_gemm promises: any grant will do, pieces stay within it, and nothing else is allocated."""

import tracemalloc

import numpy as np
import pytest

from fastconv import conv
from fastconv.algorithm import Direction, Epilogue
from fastconv.conv import im2col_gemm as module
from fastconv.machine import machine
from fastconv.problem import ConvProblem
from fastconv.workspace import Scratch, aligned_bytes
from tests.checks import assert_same_numbers, run_conv

IM2COL = next(entry for entry in conv.ALGORITHMS if entry.name == "im2col_gemm")

PROBLEMS = {
    "rows": ConvProblem("float32", 2, 5, (13, 29), 7, (3, 3), pads=((1, 1), (1, 1))),
    "uneven": ConvProblem("float64", 3, 4, (11, 9), 6, (2, 5), (2, 3), ((0, 3), (2, 1)), (1, 2), 2),
    "depthwise": ConvProblem("float32", 2, 9, (10, 12), 9, (3, 3), pads=((1, 1), (1, 1)), groups=9),
    "small maps": ConvProblem("float32", 5, 8, (4, 3), 6, (1, 1)),
    "in place": ConvProblem("float32", 2, 6, (17, 19), 4, (1, 1), groups=2),
    "nhwc": ConvProblem("float32", 3, 4, (7, 8), 6, (3, 2), pads=((1, 0), (1, 1)), groups=2, channels_last=True),
    "nhwc in place": ConvProblem("float32", 3, 4, (5, 6), 6, (1, 1), channels_last=True),
    "one window": ConvProblem("float32", 2, 3, (5, 6), 4, (3, 3), (2**62, 2**62), ((1, 1), (0, 0))),
}
problems = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
directions = pytest.mark.parametrize("direction", list(Direction))


def operands(problem, direction):
    random = np.random.default_rng(7)
    input, weight, grad_output = (
        random.integers(-3, 4, shape).astype(problem.dtype)
        for shape in (problem.input_shape, problem.weight_shape, problem.output_shape)
    )
    return {
        Direction.FORWARD: (input, weight),
        Direction.BACKWARD_INPUT: (grad_output, weight),
        Direction.BACKWARD_WEIGHT: (grad_output, input),
    }[direction]


@problems
@directions
def test_every_grant_gives_the_same_numbers(problem, direction):
    """From one output position at a time to everything at once; integers, so that sums are exact in any order."""
    least, best = IM2COL.workspace_bytes(problem, direction, 1)
    arrays = operands(problem, direction)
    expected = run_conv(conv.ALGORITHMS[-1], problem, direction, *arrays)
    for grant in sorted(
        {least, best, *(least + (best - least) * i // 13 for i in range(13)), least + 1, best + 10_000}
    ):
        assert_same_numbers(run_conv(IM2COL, problem, direction, *arrays, grant=grant), expected, f"{grant} bytes")


@problems
@directions
def test_a_piece_fits_its_grant(problem, direction):
    least, best = IM2COL.workspace_bytes(problem, direction, 1)
    for budget in range(least, best + 1, max(1, (best - least) // 50)):
        piece = module._piece(problem, direction, budget)
        rows = problem.group_out_channels if piece.groups > 1 else 1
        assert module._piece_bytes(problem, direction, piece, rows) <= budget


@problems
def test_the_parts_are_the_whole(problem):
    P, Q = problem.out_size
    for piece in (module.Piece(), module.Piece(2, 1), module.Piece(Q, 2), module.Piece(Q, P, problem.groups, 2)):
        seen = np.zeros((problem.groups, problem.batch, P, Q), np.int64)
        count = 0
        for part in module._parts(problem, piece):
            seen[part.g, part.n, part.p, part.q] += 1
            count += 1
        assert (seen == 1).all()
        assert count == module._count(problem, piece)


def test_the_least_is_one_position():
    """A large layer runs in some kilobytes; and in the default limit where all columns would take 200 MB."""
    problem = ConvProblem("float32", 1, 256, (150, 150), 256, (3, 3), pads=((1, 1), (1, 1)))
    least, best = IM2COL.workspace_bytes(problem, Direction.FORWARD, 1)
    assert least == aligned_bytes(256 * 9 * 4)
    assert best < 16 * 2**20


def test_one_by_one_kernels_need_no_columns():
    problem = ConvProblem("float32", 1, 64, (28, 28), 32, (1, 1))
    assert IM2COL.workspace_bytes(problem, Direction.FORWARD, 1) == (0, 0)
    assert IM2COL.workspace_bytes(problem, Direction.BACKWARD_INPUT, 1) == (0, 0)


@directions
def test_an_enormous_weight_is_summed_in_parts(direction):
    """Partial sums of grad_weight may not take as much again as the weight."""
    problem = ConvProblem("float32", 1, 512, (7, 7), 4096, (7, 7))
    assert IM2COL.workspace_bytes(problem, direction, 1)[1] < 32 * 2**20 < np.prod(problem.weight_shape) * 4


@problems
@directions
def test_nothing_beyond_the_grant_is_allocated(problem, direction):
    """Small Python objects and NumPy's fixed iteration buffers aside."""
    least, _ = IM2COL.workspace_bytes(problem, direction, 1)
    arrays = operands(problem, direction)
    shape = {
        Direction.FORWARD: problem.output_shape,
        Direction.BACKWARD_INPUT: problem.input_shape,
        Direction.BACKWARD_WEIGHT: problem.weight_shape,
    }[direction]
    result, memory = np.empty(shape, problem.dtype), np.empty(least + 64, np.uint8)
    memory = memory[-memory.ctypes.data % 64 :][:least]
    last = np.empty(problem.out_channels, problem.dtype) if direction is Direction.BACKWARD_WEIGHT else Epilogue()

    def call():
        IM2COL.direction(problem, direction)(problem, *arrays, result, last, Scratch(memory), 1)

    call()
    tracemalloc.start()
    try:
        call()
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


def test_the_bias_gradient_of_a_long_sum_is_exact_to_the_last_digits():
    problem = ConvProblem("float32", 1, 1, (1000, 1000), 1, (1, 1))
    grad_output = np.full(problem.output_shape, 0.1, np.float32)
    input = np.zeros(problem.input_shape, np.float32)
    _, grad_bias = run_conv(IM2COL, problem, Direction.BACKWARD_WEIGHT, grad_output, input, with_grad_bias=True)
    assert grad_bias[0] == pytest.approx(1e6 * np.float64(np.float32(0.1)), rel=1e-6)


@directions
def test_cost_grows_with_the_work(direction):
    small = ConvProblem("float32", 1, 16, (14, 14), 16, (3, 3))
    large = ConvProblem("float32", 8, 64, (56, 56), 64, (3, 3))
    assert 0 < IM2COL.cost(small, direction, 1, machine()) < IM2COL.cost(large, direction, 1, machine())
