"""Depthwise convolution: problems for every path of its kernels, held to the oracle with tolerance zero.

Which path a problem takes depends on how many elements a vector has; the widths stand around 4, 8 and 16, so that each
path is met with every instruction set.
"""

from __future__ import annotations

import numpy as np
import pytest

from fastconv import parse_problem
from fastconv.algorithm import Direction
from fastconv.conv import cython_tiled, depthwise
from tests import oracle
from tests.checks import assert_same_bits, assert_same_numbers, run_conv
from tests.problems import conv_operands

(TILED,) = cython_tiled.ALGORITHMS
FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT = Direction

pytestmark = pytest.mark.skipif(TILED.unavailable() is not None, reason="cython_tiled is unavailable")


def _problem(channels: int, size: tuple[int, int], kernel: int, stride: int = 1, batch: int = 1, **more: object) -> str:
    multiplier, dilation = more.get("multiplier", 1), more.get("dilation", 1)
    (top, bottom), (left, right) = more.get("pads", ((kernel // 2, kernel // 2),) * 2)
    return (
        f"{more.get('dtype', 'f32')}_n{batch}c{channels}h{size[0]}w{size[1]}_k{channels * multiplier}r{kernel}s{kernel}"
        f"_stride{stride}x{stride}_pad{top}:{bottom},{left}:{right}_dil{dilation}x{dilation}_g{channels}"
    )


#: Rows in one vector, several planes in one, rows of a vector and a bit, and of several; each kernel with its tile,
#: each stride; float64 has vectors of half as many.
SQUARES = [
    _problem(5, (height, width), kernel, stride, batch=2, dtype=dtype)
    for dtype in ("f32", "f64")
    for kernel in (3, 5, 7)
    for stride in (1, 2)
    for height, width in ((3, 3), (7, 7), (14, 14), (9, 6), (5, 16), (15, 28), (19, 17), (4, 31), (12, 48))
]
OTHERS = [
    _problem(3, (30, 112), 3),
    _problem(3, (41, 56), 3, 2),
    _problem(4, (9, 7), 3, pads=((0, 1), (0, 1)), stride=2),
    _problem(4, (16, 36), 3, pads=((0, 1), (0, 1)), stride=2),
    _problem(4, (16, 36), 3, pads=((1, 0), (1, 0))),
    _problem(3, (12, 33), 3, pads=((1, 1), (2, 2)), stride=2),  # padding of two parities
    _problem(3, (12, 20), 3, pads=((4, 3), (6, 5))),  # padding beyond the kernel
    _problem(3, (14, 12), 5, 2, pads=((3, 2), (3, 2))),  # stride 2: each parity of the padding, and one far from k / 2
    _problem(3, (14, 13), 7, 2, pads=((2, 3), (2, 3))),
    _problem(3, (13, 14), 3, 2, pads=((3, 3), (3, 3))),
    _problem(3, (27, 26), 3, 2, pads=((0, 1), (0, 1))),
    _problem(19, (7, 20), 3, batch=3),  # more channels than are summed side by side
    _problem(37, (6, 6), 3, batch=3),
    _problem(3, (11, 13), 9),
    _problem(3, (13, 29), 3, dilation=2, pads=((2, 2), (2, 2))),
    _problem(3, (13, 19), 3, 2, dilation=3, pads=((3, 3), (3, 3))),
    _problem(3, (10, 11), 4, 3, pads=((1, 2), (2, 1))),
    _problem(4, (9, 20), 3, multiplier=2),
    _problem(4, (7, 7), 3, multiplier=3, batch=2),
    _problem(3, (8, 9), 1),
    _problem(2, (60, 60), 7, batch=2),
    "f32_n2c6h1w50_k6r1s5_pad0:0,2:2_g6",
    "f32_n1c3h40w1_k3r3s1_pad1:1,0:0_g3",
    f"f32_n1c3h4w5_k3r3s3_stride{2**62}x{2**31}_pad1:1,1:1_g3",
]


@pytest.mark.parametrize("text", SQUARES + OTHERS)
def test_equals_the_oracle(text):
    problem = parse_problem(text)
    data = conv_operands(problem)
    x, w, b, dy = data["input"], data["weight"], data["bias"], data["grad_output"]
    assert depthwise.takes(problem, FORWARD)
    assert depthwise.takes(problem, BACKWARD_WEIGHT)
    for options in ({}, {"threads": 3, "generous": True}):
        actual = run_conv(TILED, problem, FORWARD, x, w, bias=b, activation="relu", **options)
        assert_same_numbers(actual, oracle.conv_forward(problem, x, w, b).clip(0).astype(problem.dtype))
        actual = run_conv(TILED, problem, BACKWARD_INPUT, dy, w, **options)
        assert_same_numbers(actual, oracle.conv_backward_input(problem, dy, w).astype(problem.dtype))
        dw, db = run_conv(TILED, problem, BACKWARD_WEIGHT, dy, x, with_grad_bias=True, **options)
        assert_same_numbers(dw, oracle.conv_backward_weight(problem, dy, x).astype(problem.dtype))
        assert_same_numbers(db, oracle.conv_backward_bias(problem, dy).astype(problem.dtype))


PATHS = [
    _problem(3, (7, 7), 3),
    _problem(3, (14, 14), 3, 2),
    _problem(3, (9, 36), 3),
    _problem(3, (9, 40), 3, 2),
    _problem(3, (9, 21), 5, 2),
    _problem(4, (7, 7), 3, 2),
    _problem(3, (26, 27), 3, 2),
    _problem(3, (8, 18), 3, pads=((0, 0), (0, 0))),
    _problem(2, (9, 12), 3, multiplier=2),
]


@pytest.mark.parametrize("text", PATHS)
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_reaches_what_it_touches(text, value):
    """In every operand of every direction, at a corner, at an edge and inside: the oracle's NaN and infinities."""
    problem = parse_problem(text)
    data = conv_operands(problem)

    plain = {
        FORWARD: (data["input"], data["weight"]),
        BACKWARD_INPUT: (data["grad_output"], data["weight"]),
        BACKWARD_WEIGHT: (data["grad_output"], data["input"]),
    }
    exact = {
        FORWARD: oracle.conv_forward,
        BACKWARD_INPUT: oracle.conv_backward_input,
        BACKWARD_WEIGHT: oracle.conv_backward_weight,
    }
    for direction, operands in plain.items():
        for which in (0, 1):
            for place in (0, 10, -1):
                spoilt = [array.copy() for array in operands]
                spoilt[which].reshape(-1)[place] = value
                with np.errstate(invalid="ignore"):
                    expected = exact[direction](problem, *spoilt).astype(problem.dtype)
                assert_same_numbers(
                    run_conv(TILED, problem, direction, *spoilt), expected, f"{direction} {which} {place}"
                )


@pytest.mark.parametrize("text", PATHS)
def test_bits_do_not_depend_on_threads(text):
    problem = parse_problem(text.replace("n1", "n3"))
    rng = np.random.default_rng(5)
    x, w, dy = (
        rng.standard_normal(shape).astype(problem.dtype)
        for shape in (problem.input_shape, problem.weight_shape, problem.output_shape)
    )
    for direction, operands in ((FORWARD, (x, w)), (BACKWARD_INPUT, (dy, w)), (BACKWARD_WEIGHT, (dy, x))):
        one = run_conv(TILED, problem, direction, *operands)
        for threads in (2, 3, 16):
            assert_same_bits(run_conv(TILED, problem, direction, *operands, threads=threads, generous=True), one)
