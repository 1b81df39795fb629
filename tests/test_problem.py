"""Problems are canonical values: what they are made of, and what they refuse to be made of."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastconv
from fastconv import ConvProblem, InvalidProblem, PoolProblem, parse_problem
from tests.checks import DIRECT

CONV = {"dtype": "float32", "batch": 1, "in_channels": 3, "in_size": (8, 8), "out_channels": 4, "kernel": (3, 3)}
POOL = {"kind": "avg", "dtype": "float32", "batch": 1, "channels": 3, "in_size": (8, 8), "kernel": (2, 2),
        "stride": (2, 2)}  # fmt: skip


def test_equal_however_it_was_written():
    """NumPy integers and lists are taken, and leave no trace."""
    written = {
        **CONV, "batch": np.int64(1), "in_size": [np.int32(8), 8], "kernel": [3, 3], "pads": [[1, 1], (1, 1)],
        "channels_last": np.bool_(False),
    }  # fmt: skip
    problem = ConvProblem(**written)
    assert problem == ConvProblem(**CONV, pads=((1, 1), (1, 1)))
    assert hash(problem) == hash(ConvProblem(**CONV, pads=((1, 1), (1, 1))))
    assert parse_problem(str(problem)) == problem
    assert type(problem.batch) is int
    assert type(problem.in_size[0]) is int


@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [
        (ConvProblem, {"batch": True}, TypeError, "batch must be an int, got True"),
        (ConvProblem, {"batch": "1"}, TypeError, "batch must be an int, got '1'"),
        (ConvProblem, {"in_size": (8.0, 8)}, TypeError, "in_size must be an int, got 8.0"),
        (ConvProblem, {"kernel": 3}, TypeError, "kernel must hold one int per spatial axis, got 3"),
        (ConvProblem, {"groups": None}, TypeError, "groups must be an int, got None"),
        (ConvProblem, {"pads": 1}, TypeError, r"pads must hold one \(low, high\) pair"),
        (ConvProblem, {"pads": ((1, 1, 1), (1, 1))}, InvalidProblem, r"pads must hold one \(low, high\) pair"),
        (ConvProblem, {"channels_last": 1}, TypeError, "channels_last must be True or False, got 1"),
        (ConvProblem, {"stride": (2**70, 1)}, InvalidProblem, r"stride must be at most 2\*\*62"),
        (PoolProblem, {"divisor_override": 2.5}, TypeError, "divisor_override must be an int, got 2.5"),
        (PoolProblem, {"divisor_override": 2**54}, InvalidProblem, r"divisor_override must be at most 2\*\*53"),
        (PoolProblem, {"divisor_override": 10**400}, InvalidProblem, r"divisor_override must be at most 2\*\*62"),
        (PoolProblem, {"ceil_mode": 2}, TypeError, "ceil_mode must be True or False, got 2"),
    ],
)
def test_the_argument_the_value_and_the_rule_are_named(kind, change, error, message):
    given = CONV if kind is ConvProblem else POOL
    with pytest.raises(error, match=message):
        kind(**{**given, **change})


@pytest.mark.parametrize("algorithm", [entry.name for entry in DIRECT])
def test_the_largest_stride_is_one_output_for_every_algorithm(algorithm):
    x, w = np.ones((1, 1, 5, 5), np.float32), np.ones((1, 1, 3, 3), np.float32)
    y = fastconv.conv2d(x, w, stride=2**62, algorithm=algorithm)
    np.testing.assert_array_equal(y, [[[[9.0]]]])
    dx, dw, db = fastconv.conv2d_backward(y, x, w, stride=2**62, algorithm=algorithm)
    assert (dx.sum(), dw.sum(), db[0]) == (81.0, 81.0, 9.0)
    for call in (fastconv.conv2d, fastconv.output_size):
        arguments = (x, w, None) if call is fastconv.conv2d else (5, 3)
        with pytest.raises(InvalidProblem, match=r"2\*\*62"):
            call(*arguments, 2**70)


def test_output_size_of_no_number_at_all():
    with pytest.raises(InvalidProblem, match=r"input_size must be at most 2\*\*62"):
        fastconv.output_size(10**400, 3, 7, exact=True)


def test_auto_in_a_list_ends_it():
    """The first that is admissible runs, and auto always is."""
    problem = "f32_n1c16h28w28_k16r3s3"
    by_itself = fastconv.explain(problem).chosen
    with fastconv.use(algorithm=["auto", "naive"]):
        assert fastconv.explain(problem).chosen == by_itself
    with fastconv.use(algorithm=["naive", "auto"]):
        assert fastconv.explain(problem).chosen == "naive"


def test_explain_says_why_and_why_not():
    problem = "f32_n1c16h28w28_k16r3s3"
    free = str(fastconv.explain(problem))
    assert "chosen: least estimated time" in free
    assert "times the estimate of the chosen" in free
    assert "Another number of threads" in free
    with fastconv.use(algorithm="naive"):
        assert "chosen: preferred by use() or configure()" in str(fastconv.explain(problem))


def test_a_pickled_problem_is_found_again_in_another_process():
    """Its hash is remembered, and that of a text differs from process to process."""
    problem = fastconv.parse_problem("f32_n1c3h8w8_k4r3s3")
    hash(problem)
    code = (
        "import pickle, sys, fastconv; problem = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "assert {fastconv.parse_problem(str(problem)): 1}[problem] == 1"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, pickle.dumps(problem).hex()], check=True, env=environment, timeout=60)
