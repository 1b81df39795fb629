"""Depthwise convolution of channels-last images, held to the oracle with tolerance zero.

Channels stand around the vectors of 2 to 16 lanes and blocks of several, columns around the runs of pixels.
"""

from __future__ import annotations

import numpy as np
import pytest

from fastconv import parse_problem
from fastconv.algorithm import Direction
from fastconv.conv import cython_tiled, depthwise_channels
from tests import oracle
from tests.checks import assert_same_bits, assert_same_numbers, run_conv
from tests.problems import conv_operands

(TILED,) = cython_tiled.ALGORITHMS
FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT = Direction

pytestmark = pytest.mark.skipif(TILED.unavailable() is not None, reason="cython_tiled is unavailable")


def _problem(channels: int, rest: str, dtype: str = "f32", batch: int = 1) -> str:
    size, kernel, more = rest.split(" ")
    return f"{dtype}_n{batch}c{channels}{size}_k{channels}{kernel}{more}_g{channels}_nhwc"


PROBLEMS = [
    *(_problem(channels, "h5w7 r3s3 _pad1:1,1:1", dtype, 2) for dtype in ("f32", "f64") for channels in (2, 5, 16, 33)),
    *(_problem(3, f"h3w{width} r3s3 _pad1:1,1:1") for width in (1, 2, 3, 5, 6, 7, 10)),
    _problem(150, "h4w6 r3s3 _pad1:1,1:1"),
    _problem(70, "h9w8 r3s3 _stride2x2_pad1:1,1:1", "f64"),
    _problem(20, "h9w14 r3s3 _stride2x2_pad0:1,0:1"),
    _problem(17, "h12w13 r5s5 _pad2:2,2:2"),
    _problem(6, "h12w14 r7s7 _stride2x2_pad3:3,3:3"),
    _problem(19, "h13w15 r3s3 _pad2:2,2:2_dil2x2", batch=3),
    _problem(7, "h13w19 r3s3 _stride2x3_pad3:1,0:4_dil3x2"),
    _problem(4, "h10w11 r4s2 _stride3x1_pad1:2,2:1"),
    _problem(5, "h6w9 r3s3 _pad4:3,6:5"),
    _problem(9, "h4w5 r1s1 _stride2x2"),
    _problem(9, "h1w40 r1s5 _pad0:0,2:2", "f64"),
    _problem(3, f"h4w5 r3s3 _stride{2**62}x{2**31}_pad1:1,1:1"),
    _problem(5, "h3w300 r3s3 _pad1:1,1:1"),  # more pixels of a row than are summed in float
]


@pytest.mark.parametrize("text", PROBLEMS)
def test_equals_the_oracle(text):
    problem = parse_problem(text)
    data = conv_operands(problem)
    x, w, b, dy = data["input"], data["weight"], data["bias"], data["grad_output"]
    assert all(depthwise_channels.takes(problem, direction) for direction in Direction)
    for options in ({}, {"threads": 3, "generous": True}):
        actual = run_conv(TILED, problem, FORWARD, x, w, bias=b, activation="relu", **options)
        assert_same_numbers(actual, oracle.conv_forward(problem, x, w, b).clip(0).astype(problem.dtype))
        actual = run_conv(TILED, problem, BACKWARD_INPUT, dy, w, **options)
        assert_same_numbers(actual, oracle.conv_backward_input(problem, dy, w).astype(problem.dtype))
        dw, db = run_conv(TILED, problem, BACKWARD_WEIGHT, dy, x, with_grad_bias=True, **options)
        assert_same_numbers(dw, oracle.conv_backward_weight(problem, dy, x).astype(problem.dtype))
        assert_same_numbers(db, oracle.conv_backward_bias(problem, dy).astype(problem.dtype))


PATHS = [
    PROBLEMS[2],
    PROBLEMS[5],
    _problem(20, "h9w14 r3s3 _stride2x2_pad1:1,1:1"),
    _problem(5, "h6w9 r3s3 _pad0:0,0:0"),
]


@pytest.mark.parametrize("text", PATHS)
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_reaches_what_it_touches(text, value):
    """In every operand of every direction, at a corner, at an edge and inside: the oracle's NaN and infinities."""
    problem = parse_problem(text)
    data = conv_operands(problem)
    x, w, dy = data["input"], data["weight"], data["grad_output"]
    for direction, operands, exact in (
        (FORWARD, (x, w), oracle.conv_forward),
        (BACKWARD_INPUT, (dy, w), oracle.conv_backward_input),
        (BACKWARD_WEIGHT, (dy, x), oracle.conv_backward_weight),
    ):
        for which in (0, 1):
            for place in (0, 10, -1):
                spoilt = [array.copy() for array in operands]
                spoilt[which].reshape(-1)[place] = value
                with np.errstate(invalid="ignore"):
                    expected = exact(problem, *spoilt).astype(problem.dtype)
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
