"""The hunt's problems of two axes: every algorithm and direction as the contract runs it, by the oracle.

Integers whose sums are exact, so equality is exact; but for the transforms that round, which keep within twice the
error that they state.
"""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from fastconv.algorithm import Algorithm, Direction
from fastconv.planner import REGISTRY
from fastconv.problem import ConvProblem, PoolProblem, Problem, window_extent
from tests import oracle
from tests.checks import assert_right, assert_same_numbers, run_conv, run_pool_backward, run_pool_forward
from tests.problems import conv_operands, integers, pool_input

#: How often a convolution is of 3x3, stride 1 and dilation 1: what the transforms are for.
OFTEN_THREE = 0.3

#: Multiply-accumulates of a problem at most, and of one that naive, in plain Python, takes part in.
MOST_MACS, MOST_NAIVE_MACS = 3_000_000, 20_000


def random_axis(rng: np.random.Generator, pooling: bool, dilated: bool) -> tuple[int, int, int, tuple[int, int], int]:
    """(size, kernel, stride, pads, dilation) of one axis in which at least one window fits."""
    kernel = int(rng.choice([1, 1, 2, 3, 3, 3, 4, 5, 7, 11]))
    dilation = int(rng.choice([1, 1, 1, 2, 3, 5])) if dilated else 1
    most = kernel // 2 if pooling else int(rng.choice([0, 0, 1, 2, kernel * dilation + 1]))
    low, high = (int(rng.integers(0, most + 1)) for _ in range(2))
    least = max(window_extent(kernel, dilation) - low - high, 1)
    size = least + int(rng.choice([0, 1, 2, rng.integers(0, 9), rng.integers(0, 40), rng.integers(0, 130)]))
    stride = int(rng.choice([1, 1, 1, 2, 2, 3, 4, rng.integers(1, 12)]))
    return size, kernel, stride, (low, high), dilation


def axis_of_three(rng: np.random.Generator) -> tuple[int, int, int, tuple[int, int], int]:
    """The same of a kernel of 3 of stride 1."""
    low, high = (int(rng.choice([0, 1, 1, 1, 2, 5])) for _ in range(2))
    least = max(3 - low - high, 1)
    return int(rng.integers(least, rng.choice([9, 40, 90]))), 3, 1, (low, high), 1


def random_conv(rng: np.random.Generator) -> ConvProblem:
    if rng.random() < OFTEN_THREE:
        axes = [axis_of_three(rng) for _ in range(2)]
    else:
        axes = [random_axis(rng, False, True) for _ in range(2)]
    groups = int(rng.choice([1, 1, 1, 2, 3, 8, 32]))
    channels = [int(rng.choice([1, 1, 2, 3, 4, rng.integers(1, 40), rng.integers(1, 150)])) for _ in range(2)]
    if groups > 3:
        channels = [min(count, 5) for count in channels]
    size, kernel, stride, pads, dilation = zip(*axes, strict=True)
    return ConvProblem(
        str(rng.choice(["float32", "float64"])), int(rng.choice([1, 1, 2, 3, 9])), groups * channels[0], size,
        groups * channels[1], kernel, stride, pads, dilation, groups, bool(rng.random() < 0.3),
    )  # fmt: skip


def random_pool(rng: np.random.Generator) -> PoolProblem:
    kind = str(rng.choice(["max", "avg"]))
    size, kernel, stride, pads, dilation = zip(*(random_axis(rng, True, kind == "max") for _ in range(2)), strict=True)
    average = {}
    if kind == "avg":
        divisor = int(rng.choice([0, 0, 1, 7, -3]))
        average = {"count_include_pad": bool(rng.random() < 0.5), "divisor_override": divisor or None}
    return PoolProblem(
        kind, str(rng.choice(["float32", "float64"])), int(rng.choice([1, 1, 2, 3])), int(rng.integers(1, 40)), size,
        kernel, stride, pads, dilation, bool(rng.random() < 0.4), channels_last=bool(rng.random() < 0.3), **average,
    )  # fmt: skip


def random_problems(rng: np.random.Generator) -> Iterator[Problem]:
    """Without end; too large ones are left out."""
    while True:
        problem = random_conv(rng) if rng.random() < 0.7 else random_pool(rng)
        if problem.macs <= MOST_MACS:
            yield problem


def conv_checks(problem: ConvProblem) -> dict[Direction, Callable[[Algorithm, int, bool], None]]:
    """What to run and compare, per direction."""
    data = conv_operands.__wrapped__(problem)
    x, w, dy, bias = data["input"], data["weight"], data["grad_output"], data["bias"]

    products = {
        Direction.FORWARD: problem.weight_shape[1] * math.prod(problem.kernel),
        Direction.BACKWARD_INPUT: problem.group_out_channels * math.prod(problem.kernel),
        Direction.BACKWARD_WEIGHT: problem.batch * math.prod(problem.out_size),
    }

    def check(direction: Direction, expected: np.ndarray, *operands: np.ndarray, **options: np.ndarray):
        wanted = expected.astype(problem.dtype)
        spreads = [float(np.std(operand, dtype=np.float64)) for operand in operands]
        typical = 3 * math.sqrt(products[direction]) * math.prod(spreads)  # in a hundred or more elements

        def run(algorithm: Algorithm, threads: int, generous: bool) -> None:
            found = run_conv(algorithm, problem, direction, *operands, threads=threads, generous=generous, **options)
            assert_right(algorithm, problem, direction, found, wanted, str(direction), typical)

        return run

    return {
        Direction.FORWARD: check(Direction.FORWARD, oracle.conv_forward(problem, x, w, bias), x, w, bias=bias),
        Direction.BACKWARD_INPUT: check(Direction.BACKWARD_INPUT, oracle.conv_backward_input(problem, dy, w), dy, w),
        Direction.BACKWARD_WEIGHT: check(Direction.BACKWARD_WEIGHT, oracle.conv_backward_weight(problem, dy, x), dy, x),
    }


def pool_checks(problem: PoolProblem, values: str) -> dict[Direction, Callable[[Algorithm, int, bool], None]]:
    """The same for pools; backward of a maximum from the indices and from the input."""
    x = pool_input.__wrapped__(problem, values)
    dy = integers("dy", problem.output_shape, problem.dtype, 9)

    def forward(algorithm: Algorithm, threads: int, generous: bool) -> None:
        if problem.kind == "max":
            maxima = oracle.max_forward(problem, x)
            output, indices = run_pool_forward(
                algorithm, problem, x, with_indices=True, threads=threads, generous=generous
            )
            assert_same_numbers(indices, maxima.indices, "indices")
            assert_same_numbers(output, maxima.values.astype(problem.dtype))
            plain, _ = run_pool_forward(algorithm, problem, x, threads=threads, generous=generous)
            assert_same_numbers(plain, maxima.values.astype(problem.dtype), "without indices")
        else:
            output, _ = run_pool_forward(algorithm, problem, x, threads=threads, generous=generous)
            assert_same_numbers(output, oracle.avg_forward(problem, x).astype(problem.dtype))

    def backward(algorithm: Algorithm, threads: int, generous: bool) -> None:
        if problem.kind == "max":
            indices = oracle.max_forward(problem, x).indices
            wanted = oracle.max_backward(problem, dy, indices).astype(problem.dtype)
            for given in ({"input": x}, {"indices": indices}):
                found = run_pool_backward(algorithm, problem, dy, threads=threads, generous=generous, **given)
                assert_same_numbers(found, wanted, f"from {', '.join(given)}")
        else:
            divisors = oracle.divisors(problem)
            scaled = (dy * (divisors[..., None] if problem.channels_last else divisors)).astype(problem.dtype)
            found = run_pool_backward(algorithm, problem, scaled, threads=threads, generous=generous)
            assert_same_numbers(found, oracle.avg_backward(problem, scaled).astype(problem.dtype))

    return {Direction.FORWARD: forward, Direction.BACKWARD_INPUT: backward}


def hunt_one(problem: Problem, rng: np.random.Generator, counts: Counter[str]) -> int:
    """All algorithms and directions of one problem; returns the finds, each printed."""
    if isinstance(problem, ConvProblem):
        checks, algorithms = conv_checks(problem), REGISTRY["conv"]
    else:
        values = str(rng.choice(["integers", "ties"] + ["special"] * (problem.kind == "max")))
        checks, algorithms = pool_checks(problem, values), REGISTRY["pool"]
    finds = 0
    for algorithm in algorithms:
        if algorithm.name == "naive" and problem.macs > MOST_NAIVE_MACS:
            continue
        for direction, check in checks.items():
            if algorithm.unavailable() or algorithm.refusal(problem, direction):
                counts[f"{algorithm.name} refused"] += 1
                continue
            threads, generous = int(rng.choice([1, 2, 3])), bool(rng.random() < 0.5)
            try:
                check(algorithm, threads, generous)
            except Exception:
                finds += 1
                traceback.print_exc()
                print(
                    f"FIND: {algorithm.name} {direction} threads={threads} generous={generous}: "
                    f"python tests/hunt.py --problem {problem} --algorithm {algorithm.name}",
                    flush=True,
                )
            counts[algorithm.name] += 1
    return finds


def step(rng: np.random.Generator, counts: Counter[str]) -> int:
    """A part of the hunt: one problem in each step."""
    return hunt_one(next(random_problems(rng)), rng, counts)
