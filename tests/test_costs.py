"""The estimates that "auto" goes by, beside measured times: absolute ones, and the choice that follows from them."""

import time
from dataclasses import replace

import numpy as np
import pytest

import fastconv
from fastconv import limits, planner
from fastconv.algorithm import Direction, Epilogue
from fastconv.machine import machine
from fastconv.problem import ConvProblem
from tests.problems import generator

NAMES = ("cython_tiled", "cython_winograd_f2", "cython_winograd_f4", "im2col_gemm")


def problems(count):
    """Of other channels, sizes and kernels than those that the estimates were fitted to."""
    random = generator("costs", count)
    while count:
        kernel = int(random.choice([1, 3, 3, 3, 5]))
        size = tuple(int(np.exp(random.uniform(2, 4.3))) for _ in range(2))
        problem = ConvProblem(
            "float32", int(random.choice([1, 1, 4])), int(np.exp(random.uniform(2.5, 6))), size,
            int(np.exp(random.uniform(2.5, 6))), (kernel, kernel), pads=((kernel // 2,) * 2,) * 2,
        )  # fmt: skip
        if 1e6 < problem.macs < 3e8:
            count -= 1
            yield problem


def seconds(problem, direction, name):
    """Least processor time of a few calls."""
    random = generator(str(problem))
    x, w, dy = (
        random.standard_normal(shape).astype(problem.dtype)
        for shape in (problem.input_shape, problem.weight_shape, problem.output_shape)
    )
    arguments = {
        Direction.FORWARD: (x, w, dy, Epilogue()),
        Direction.BACKWARD_INPUT: (dy, w, x, Epilogue()),
        Direction.BACKWARD_WEIGHT: (dy, x, w, None),
    }[direction]
    plan = planner.plan(problem, direction, name)
    least = np.inf
    for _ in range(4):
        start = time.thread_time()
        plan.execute(*arguments)
        least = min(least, time.thread_time() - start)
    return least


@pytest.mark.serial
def test_estimates_are_near_measured_times():
    """At one thread, on the limits of this machine as measured now."""
    here = replace(machine(), measured=limits.measure(0.5, 1, store=False))
    factors, losses = [], []
    with fastconv.use(threads=1):
        for problem in problems(16):
            for direction in Direction:
                ready = [entry for entry in planner.REGISTRY["conv"] if entry.name in NAMES]
                able = [entry for entry in ready if not entry.unavailable() and not entry.refusal(problem, direction)]
                measured = {entry.name: seconds(problem, direction, entry.name) for entry in able}
                estimated = {entry.name: entry.cost(problem, direction, 1, here) for entry in able}
                factors += [abs(np.log(measured[name] / estimated[name])) for name in measured]
                losses.append(measured[min(estimated, key=estimated.get)] / min(measured.values()))
    assert np.exp(np.median(factors)) < 1.3
    assert np.exp(np.log(losses).mean()) < 1.1
    assert np.quantile(losses, 0.95) < 1.5
