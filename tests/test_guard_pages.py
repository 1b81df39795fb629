"""No kernel reads or writes beyond its arrays: they lie flush against protected pages, in a process of their own.

Run by hand, the case that ends the process is the last one printed::

    FASTCONV_ISA=v3 python -m tests.test_guard_pages cython_tiled
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fastconv.algorithm import Algorithm, Direction, Epilogue, PreparedWeight
from fastconv.machine import machine
from fastconv.planner import REGISTRY
from fastconv.problem import ConvProblem, PoolProblem, Problem
from fastconv.workspace import Scratch
from tests import oracle
from tests.checks import assert_close, assert_right, assert_same_bits, assert_same_numbers
from tests.pages import Pages, pages
from tests.problems import conv_operands, integers, pool_input

#: Lengths around the vectors of 2 to 16 lanes, and twice them.
WIDTHS = (*range(1, 20), 31, 32, 33, 47, 48, 49, 63, 64, 65)
#: kernel, stride, low and high pad, dilation of both axes.
WINDOWS = (
    (1, 1, 0, 0, 1), (2, 2, 0, 0, 1), (2, 1, 0, 0, 1), (2, 2, 1, 1, 1), (3, 1, 1, 1, 1), (3, 2, 0, 0, 1),
    (3, 2, 1, 1, 1), (3, 2, 1, 0, 1), (3, 3, 0, 1, 1), (5, 1, 2, 2, 1), (5, 2, 2, 1, 1), (2, 5, 0, 0, 1),
    (3, 1, 1, 1, 2), (4, 3, 2, 2, 1),
)  # fmt: skip


def pool_problems() -> Iterator[PoolProblem]:
    """Every window on rows of every length; few rows, for what is at stake are their ends."""
    for kind in ("max", "avg"):
        for kernel, stride, low, high, dilation in WINDOWS:
            if kind == "avg" and dilation > 1:
                continue
            extent = (kernel - 1) * dilation + 1
            for width in WIDTHS:
                if width + low + high < extent:
                    continue
                height = max(extent - low - high, 1) + 2
                for dtype in ("float32", "float64"):
                    yield PoolProblem(
                        kind, dtype, 1, 2, (height, width), (kernel, kernel), (stride, stride),
                        ((low, high), (low, high)), (dilation, dilation), ceil_mode=True,
                    )  # fmt: skip
        for width in WIDTHS:  # whole planes, and channels last
            for channels_last in (False, True):
                yield PoolProblem(
                    kind, "float32", 1, width, (3, 7), (3, 7), (1, 1), channels_last=channels_last,
                )  # fmt: skip


def winograd_problems() -> Iterator[ConvProblem]:
    """3x3 of stride 1: columns, rows and channels of every number around tiles and vectors."""
    one = ((1, 1), (1, 1))
    cases: list[tuple[int, int, tuple[int, int], int, tuple[tuple[int, int], tuple[int, int]], int]] = [
        # Blocks of tiles, panels of a block, segments that end within a row of tiles, weights that outgrow tiles, pads
        # beyond the kernel: batch, channels, size, filters, pads (low, high) of rows and columns, groups.
        (1, 5, (46, 51), 3, one, 1), (2, 33, (19, 23), 35, ((0, 2), (1, 0)), 1),
        (3, 6, (13, 9), 40, ((2, 2), (0, 1)), 2), (1, 70, (6, 5), 130, one, 1),
        (2, 4, (3, 3), 5, ((4, 3), (3, 5)), 1), (1, 1, (1, 1), 1, one, 1),
        (1, 3, (2, 67), 7, ((5, 0), (0, 6)), 1), (5, 9, (7, 30), 12, one, 3),
    ]  # fmt: skip
    blocks = len(cases)
    cases += [(1, 3, (height, 5), 2, one, 1) for height in range(1, 15)]
    for count in WIDTHS:
        cases += [
            (1, 2, (3, count), 3, one, 1), (2, 3, (2, count + 2), 2, ((1, 0), (0, count % 3)), 1),
            (1, count, (5, 4), 3, one, 1), (1, 3, (4, 5), count, one, 1),
            (1, 2 * count, (3, 4), 2 * (WIDTHS[-1] - count) + 2, one, 2),
        ]  # fmt: skip
    for dtype, last in itertools.product(("float32", "float64"), (False, True)):
        both = last and dtype == "float64"  # ends of vectors and of tiles were seen with each of them
        for batch, channels, size, filters, pads, groups in cases[: blocks if both else None]:
            yield ConvProblem(
                dtype, batch, channels, size, filters, (3, 3), pads=pads, groups=groups, channels_last=last
            )  # fmt: skip


def scratch(make: Pages, algorithm: Algorithm, problem: Problem, direction: Direction, best: bool = False) -> Scratch:
    granted = algorithm.workspace_bytes(problem, direction, 1)[best]
    return Scratch(make.empty((-(-granted // 64) * 64,), np.uint8))


def check_conv(algorithm: Algorithm, problem: ConvProblem, make: Pages) -> None:
    """Every direction with the least and the best scratch, its biases, and a prepared weight, against the oracle."""
    data = conv_operands.__wrapped__(problem)
    x, w, dy, bias = (make.copy(data[name]) for name in ("input", "weight", "grad_output", "bias"))
    down = make.copy(integers("bias", (problem.in_channels,), problem.dtype, 9))
    bias_nchw = down if problem.channels_last else down[:, None, None]
    wanted = {
        Direction.FORWARD: oracle.conv_forward(problem, x, w, bias).clip(0),
        Direction.BACKWARD_INPUT: (oracle.conv_backward_input(problem, dy, w) + bias_nchw).clip(0),
        Direction.BACKWARD_WEIGHT: oracle.conv_backward_weight(problem, dy, x),
    }
    bias_wanted = oracle.conv_backward_bias(problem, dy).astype(problem.dtype)
    for best in (False, True):
        for direction, operands, last in (
            (Direction.FORWARD, (x, w), Epilogue(bias, "relu")),
            (Direction.BACKWARD_INPUT, (dy, w), Epilogue(down, "relu")),
            (Direction.BACKWARD_WEIGHT, (dy, x), make.empty((problem.out_channels,), problem.dtype)),
        ):
            result = make.empty(wanted[direction].shape, problem.dtype)
            room = scratch(make, algorithm, problem, direction, best)
            algorithm.direction(problem, direction)(problem, *operands, result, last, room, 1)
            assert_right(algorithm, problem, direction, result, wanted[direction].astype(problem.dtype), str(direction))
            if isinstance(last, np.ndarray):
                assert_same_numbers(last, bias_wanted, "grad_bias")
            if algorithm.prepare_weight and direction is Direction.FORWARD:
                prepared = PreparedWeight(make.copy(algorithm.prepare_weight(problem, direction, w, 1).memory))
                again = make.empty(result.shape, problem.dtype)
                room = scratch(make, algorithm, problem, direction, best)
                algorithm.forward(problem, x, prepared, again, last, room, 1)
                assert_same_bits(again, result, "from a prepared weight")


def check_pool(algorithm: Algorithm, problem: PoolProblem, make: Pages) -> None:
    """Forward with and without indices, and both gradients, against the oracle."""
    x, dy = pool_input.__wrapped__(problem), integers("upstream", problem.output_shape, problem.dtype, 8)
    input, upstream = make.copy(x), make.copy(dy)
    forward, backward = Direction.FORWARD, Direction.BACKWARD_INPUT

    def check(found: np.ndarray, expected: np.ndarray) -> None:
        if problem.kind == "max":
            assert_same_numbers(found, expected.astype(found.dtype))
        else:
            assert_close(found, expected, 1e-5, dtype=problem.dtype)

    output = make.empty(problem.output_shape, problem.dtype)
    algorithm.forward(problem, input, output, None, scratch(make, algorithm, problem, forward), 1)
    maxima = oracle.max_forward(problem, x) if problem.kind == "max" else None
    check(output, maxima.values if maxima else oracle.avg_forward(problem, x))
    sources: list[tuple[np.ndarray | None, np.ndarray | None]] = [(None, None)]
    wanted = oracle.max_backward(problem, dy, maxima.indices) if maxima else oracle.avg_backward(problem, dy)
    if maxima:
        indices = make.empty(problem.output_shape, np.int64)
        algorithm.forward(problem, input, output, indices, scratch(make, algorithm, problem, forward), 1)
        check(output, maxima.values)
        check(indices, maxima.indices)
        sources = [(input, None), (None, indices)]
    for values, where in sources:
        grad = make.empty(problem.input_shape, problem.dtype)
        room = scratch(make, algorithm, problem, backward)
        algorithm.backward_input(problem, upstream, values, where, grad, room, 1)
        check(grad, wanted)


#: By algorithm: its family, its problems, and what checks one. Another is one line.
CHECKED: dict[str, tuple[str, Callable[[], Iterator[Problem]], Callable[..., None]]] = {
    "cython_tiled": ("pool", pool_problems, check_pool),
    **{f"cython_winograd_f{size}": ("conv", winograd_problems, check_conv) for size in (2, 4, 6)},
}


def named(name: str) -> Algorithm:
    (algorithm,) = (entry for entry in REGISTRY[CHECKED[name][0]] if entry.name == name)
    return algorithm


def main(name: str) -> None:
    """Every problem of an algorithm, at both ends of its pages."""
    _, problems, check = CHECKED[name]
    algorithm = named(name)
    for problem in problems():
        for at_end in (True, False):
            if algorithm.refusal(problem, Direction.FORWARD):
                continue
            print(problem, "flush with its end" if at_end else "flush with its beginning", flush=True)
            with pages(at_end) as make:
                check(algorithm, problem, make)


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages with Linux's mprotect")
@pytest.mark.parametrize("level", machine().levels)
@pytest.mark.parametrize("name", CHECKED)
def test_no_page_beyond_is_touched(name, level):
    if reason := named(name).unavailable():
        pytest.skip(reason)
    from fastconv.kernels.cython import built

    if level not in built.LEVELS:
        pytest.skip(f"{level} is not built")
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_guard_pages", name],
        cwd=Path(__file__).parents[1], env=os.environ | {"FASTCONV_ISA": level}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"ended with {done.returncode} in {last}\n{done.stderr[-3000:]}"


def test_a_byte_beyond_ends_the_process():
    """The pages hold what they promise: else nothing here would ever fail."""
    for at_end, offset in ((True, "len(a)"), (False, "-1")):
        code = (
            "import ctypes, numpy as np\n"
            "from tests.pages import pages\n"
            f"with pages({at_end}) as make:\n"
            "    a = make.empty((5,), np.uint8)\n"
            f"    print(ctypes.c_uint8.from_address(a.ctypes.data + {offset}))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True)
        assert done.returncode < 0


if __name__ == "__main__":
    main(*sys.argv[1:])
