"""Every checking helper is given planted faults, and must fail on each."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from fastconv import parse_problem
from fastconv.algorithm import Direction
from fastconv.conv.naive import ALGORITHMS as CONV
from fastconv.pool.naive import ALGORITHMS as POOL
from tests.checks import (
    Memory,
    Operand,
    Pieces,
    assert_close,
    assert_same_bits,
    assert_same_numbers,
    run_conv,
    run_pool_backward,
    run_pool_forward,
)
from tests.conftest import account
from tests.problems import conv_operands, pool_input

GOOD = np.array([[1.0, np.nan, -2.0], [np.inf, -np.inf, 0.0]], np.float32)


def changed(position, value):
    array = GOOD.copy()
    array[position] = value
    return array


FAULTS = {
    "one wrong element": (changed((0, 0), np.nextafter(np.float32(1), np.float32(2))), r"1 of 6 .* at \(0, 0\)"),
    "a NaN": (changed((1, 2), np.nan), r"NaN at 1 places too many .* at \(1, 2\)"),
    "a lost NaN": (changed((0, 1), 1), "0 places too many .* 1 too few"),
    "a lost infinity": (changed((1, 0), 3e38), "inf"),
    "an infinity of the wrong sign": (changed((1, 0), -np.inf), "inf"),
    "an infinity too many": (changed((0, 2), np.inf), "inf"),
    "dtype": (GOOD.astype(np.float64), "dtype float64 instead of float32"),
    "shape": (GOOD.reshape(3, 2), r"shape \(3, 2\) instead of \(2, 3\)"),
    "a shape that broadcasts": (GOOD[None], "shape"),
    "not an array": (GOOD.tolist(), "list instead of an array"),
    "nothing": (None, "NoneType instead of an array"),
}


@pytest.mark.parametrize(("actual", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_same_numbers_fails(actual, message):
    with pytest.raises(AssertionError, match=message):
        assert_same_numbers(actual, GOOD)


def test_same_numbers_passes():
    assert_same_numbers(GOOD.copy(), GOOD)
    assert_same_numbers(changed((1, 2), -0.0), GOOD)  # numbers, not bits
    assert_same_numbers(np.array([1, 2]), np.array([1, 2]))
    with pytest.raises(AssertionError, match="1 of 2"):
        assert_same_numbers(np.array([1, 2]), np.array([1, 3]))


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "one wrong element"])
def test_close_fails(fault):
    with pytest.raises(AssertionError):
        assert_close(FAULTS[fault][0], GOOD, 1e-3)


def test_close_measures():
    exact = np.array([1.0, -4.0])
    assert assert_close(np.array([1.0, -4.0], np.float32), exact, 0, dtype=np.float32) == 0
    assert assert_close(np.array([1.5, -4.0]), exact, 0.125) == 0.125
    with pytest.raises(AssertionError, match=r"error 1\.25e-01 above 1\.24e-01"):
        assert_close(np.array([1.5, -4.0]), exact, 0.124)
    with pytest.raises(AssertionError, match="NaN"):
        assert_close(np.array([np.nan, -4.0]), exact, np.inf)


def test_same_bits_fails():
    assert_same_bits(GOOD.copy(), GOOD)
    for wrong in (changed((1, 2), -0.0), FAULTS["one wrong element"][0], GOOD.astype(np.float64), GOOD.reshape(3, 2)):
        with pytest.raises(AssertionError):
            assert_same_bits(wrong, GOOD)


# -- Memory that tells ------------------------------------------------------------------------------


def reach_around(array, offset):
    """The bytes that lie `offset` from the beginning of `array`."""
    base = array
    while base.base is not None:
        base = base.base
    start = array.ctypes.data - base.ctypes.data + offset
    return base[start : start + 1]


@pytest.mark.parametrize("offset", [-1, -100, 24, 24 + 100])
def test_memory_notices_a_write_outside(offset):
    memory = Memory((2, 3), np.float32)
    memory.check_guards("it")
    memory.array[...] = 1
    memory.check_guards("it")
    reach_around(memory.array, offset)[...] = 7
    with pytest.raises(AssertionError, match="it: wrote be"):
        memory.check_guards("it")


def test_memory_is_poisoned_and_barely_aligned():
    memory = Memory((5,), np.float64)
    assert np.isnan(memory.array).all()
    assert memory.array.flags.aligned
    assert memory.array.ctypes.data % 16 == 8
    assert Memory((5,), np.uint8, 0xA5, aligned=True).array.tolist() == [0xA5] * 5
    assert Memory((5,), np.uint8, 0xA5, aligned=True).array.ctypes.data % 64 == 0


@pytest.mark.parametrize("leave", [lambda scratch: scratch.release(0), lambda scratch: scratch.check_guards("it")])
def test_pieces_of_scratch_notice_a_write_behind_one_of_them(leave):
    scratch = Pieces(192, 0xA5)
    first, second = scratch.take((5,), np.float32), scratch.take((8,), np.float64)
    first[...] = second[...] = 1
    scratch.check_guards("it")
    reach_around(first, 20)[...] = 7  # in one arena, where nobody would miss it
    with pytest.raises(AssertionError, match="piece at 0: wrote behind its end"):
        leave(scratch)


def test_pieces_of_scratch_are_counted_as_scratch_is():
    scratch = Pieces(192, 0xA5)
    assert scratch.reserve(65) % 64 == 0
    assert scratch.free == 64
    mark = scratch.mark()
    assert scratch.take((64,), np.uint8).tolist() == [0xA5] * 64
    with pytest.raises(AssertionError, match="exhausted"):
        scratch.reserve(1)
    scratch.release(mark)
    assert scratch.free == 64


def test_operand_notices_a_change():
    operand = Operand(GOOD)
    operand.check_unchanged("it")
    with pytest.raises(ValueError, match="read-only"):
        operand.array[0, 0] = 5
    operand.array.flags.writeable = True
    operand.array[1, 2] = -0.0
    with pytest.raises(AssertionError, match="it was modified"):
        operand.check_unchanged("it")


# -- Algorithms with a fault each -------------------------------------------------------------------

PROBLEM = parse_problem("f32_c2h4w5_k3r2s2")
DATA = conv_operands(PROBLEM)
(NAIVE,) = CONV
(NAIVE_POOL,) = POOL


def spoiled(fault):
    """naive, with `fault(operands, result, scratch)` after its work."""

    def forward(problem, input, weight, output, epilogue, scratch, threads):
        NAIVE.forward(problem, input, weight, output, epilogue, scratch, threads)
        fault((input, weight), output, scratch)

    return dataclasses.replace(NAIVE, forward=forward, workspace_bytes=lambda problem, direction, threads: (40, 80))


def test_run_passes_a_right_algorithm_and_what_it_is_granted():
    grants = []
    algorithm = spoiled(lambda operands, result, scratch: grants.append((scratch.free, scratch.take((1,), "u1")[0])))
    for generous in (False, True):
        run_conv(algorithm, PROBLEM, Direction.FORWARD, DATA["input"], DATA["weight"], generous=generous)
    assert grants == [(40, 0xA5), (80, 0xFF)]


def write_input(operands, result, scratch):
    operands[0].flags.writeable = True
    operands[0][...] = 1e9


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda operands, result, scratch: reach_around(scratch.take((40,), "u1"), 40).fill(0),
            "scratch, piece at 0: wrote behind",
        ),
        (
            lambda operands, result, scratch: reach_around(scratch.take((40,), "u1"), -1).fill(0),
            "scratch, piece at 0: wrote before",
        ),
        (lambda operands, result, scratch: scratch.take((41,), "u1"), "exhausted"),
        (lambda operands, result, scratch: reach_around(result, result.nbytes).fill(0), "result 2: wrote behind"),
        (lambda operands, result, scratch: reach_around(result, -1).fill(0), "result 2: wrote before"),
        (write_input, "argument 0 was modified"),
    ],
)
def test_run_notices(fault, message):
    with pytest.raises(AssertionError, match=message):
        run_conv(spoiled(fault), PROBLEM, Direction.FORWARD, DATA["input"], DATA["weight"])


def test_an_unwritten_element_is_seen():
    right = run_conv(NAIVE, PROBLEM, Direction.FORWARD, DATA["input"], DATA["weight"])
    idle = dataclasses.replace(NAIVE, forward=lambda *arguments: None)
    untouched = run_conv(idle, PROBLEM, Direction.FORWARD, DATA["input"], DATA["weight"])
    with pytest.raises(AssertionError, match="not written"):
        assert_same_numbers(untouched, right)


def test_a_wrong_gradient_is_seen():
    """A gradient without the turn of the kernel, the commonest mistake, fails the check that the suite makes."""

    def unturned(problem, grad_output, weight, grad_input, epilogue, scratch, threads):
        turned = np.ascontiguousarray(weight[:, :, ::-1, ::-1])
        NAIVE.backward_input(problem, grad_output, turned, grad_input, epilogue, scratch, threads)

    from tests import oracle

    wrong = dataclasses.replace(NAIVE, backward_input=unturned)
    arguments = PROBLEM, Direction.BACKWARD_INPUT, DATA["grad_output"], DATA["weight"]
    expected = oracle.conv_backward_input(PROBLEM, DATA["grad_output"], DATA["weight"]).astype(np.float32)
    assert_same_numbers(run_conv(NAIVE, *arguments), expected)
    with pytest.raises(AssertionError, match="elements are wrong"):
        assert_same_numbers(run_conv(wrong, *arguments), expected)


def test_an_impossible_workspace_is_seen():
    impossible = dataclasses.replace(NAIVE, workspace_bytes=lambda *_: (8, 4))
    with pytest.raises(AssertionError, match="workspace 8 to 4"):
        run_conv(impossible, PROBLEM, Direction.FORWARD, DATA["input"], DATA["weight"])


def test_pools_are_watched_alike():
    problem = parse_problem("max_c2h4w4_r2s2")
    x = pool_input(problem)
    idle = dataclasses.replace(NAIVE_POOL, forward=lambda *_: None, backward_input=lambda *_: None)
    output, indices = run_pool_forward(idle, problem, x, with_indices=True)
    assert np.isnan(output).all()
    assert (indices == -1).all()
    assert np.isnan(run_pool_backward(idle, problem, np.zeros(problem.output_shape, np.float32), input=x)).all()

    def meddle(problem, input, *rest):
        input.flags.writeable = True
        input[...] = 0

    with pytest.raises(AssertionError, match="argument 0 was modified"):
        run_pool_forward(dataclasses.replace(NAIVE_POOL, forward=meddle), problem, x)


# -- The account of skips ---------------------------------------------------------------------------


def test_expected_skips_pass():
    lines, fine = account(
        Counter({"peers: runs in make test-all": 3, "naive: over 20000 multiply-accumulates: runs in make test-all": 2})
    )
    assert fine
    assert len(lines) == 2


@pytest.mark.parametrize(
    "reason", ["im2col_gemm refuses f32_n1: because", "numba_direct is unavailable: no numba", "unconditional skip", ""]
)
def test_a_skip_that_nobody_expects_fails_the_run(reason):
    lines, fine = account(Counter({reason: 1}))
    assert not fine
    assert "NOT EXPECTED" in lines[0]


def test_too_many_skips_fail_the_run():
    lines, fine = account(Counter({"naive: over 20000 multiply-accumulates: runs in make test-all": 10_000}))
    assert not fine
    assert "TOO MANY" in lines[0]
