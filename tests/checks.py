"""Checking helpers. Each fails on its own planted faults: test_checkers.py.

An algorithm under test gets memory that tells on it: results filled with NaN, scratch filled with a pattern and exactly
as large as promised, inputs that are not writable and surrounded by NaN, and guard bytes on both sides of everything.
Under AddressSanitizer (make sanitize) the guards are forbidden ground: whoever reads them is stopped, too.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from fastconv.algorithm import Algorithm, Direction, Epilogue
from fastconv.planner import REGISTRY
from fastconv.problem import ConvProblem, PoolProblem, Problem
from fastconv.workspace import ALIGNMENT, Scratch
from tests.problems import NAIVE_MACS

#: Convolutions by the definition's own products, and those whose sums of small integers are exact: F(2, 3) only adds
#: and halves. What the other transforms must keep is in test_winograd.py.
DIRECT = tuple(algorithm for algorithm in REGISTRY["conv"] if not algorithm.transforms)
EXACT = (*DIRECT, *(algorithm for algorithm in REGISTRY["conv"] if algorithm.name == "cython_winograd_f2"))

#: With two of them an array is too large for NumPy's cache of small ones, where poison would outlive it.
_GUARD_BYTES = 512
_GUARD = 0xFF  # as floating point, NaN

_process = ctypes.CDLL(None)
SANITIZED = hasattr(_process, "__asan_poison_memory_region")


def _forbid(memory: np.ndarray, forbidden: bool) -> None:
    """Let AddressSanitizer stop whoever touches these bytes, or no longer; without it this does nothing."""
    if SANITIZED:
        act = _process.__asan_poison_memory_region if forbidden else _process.__asan_unpoison_memory_region
        act(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes))


class Memory:
    """An array between guard bytes; as far from a cache line as its alignment allows, unless `aligned`."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, fill: int = _GUARD, *, aligned: bool = False) -> None:
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=object)) * kind.itemsize
        self._bytes = np.full(nbytes + 2 * _GUARD_BYTES + 2 * ALIGNMENT, _GUARD, np.uint8)
        self._start = _GUARD_BYTES + -(self._bytes.ctypes.data + _GUARD_BYTES) % ALIGNMENT
        if not aligned:
            self._start += kind.itemsize
        self._end = self._start + nbytes
        self._bytes[self._start : self._end] = fill
        self.array = self._bytes[self._start : self._end].view(kind).reshape(shape)
        for guard in self._guards:
            _forbid(guard, True)

    @property
    def _guards(self) -> tuple[np.ndarray, np.ndarray]:
        return self._bytes[: self._start], self._bytes[self._end :]

    def check_guards(self, what: str) -> None:
        """Nothing was written beside the array; from here on whoever likes may look there."""
        before, after = self._guards
        _forbid(before, False)
        _forbid(after, False)
        assert (before == _GUARD).all(), f"{what}: wrote before its beginning"
        assert (after == _GUARD).all(), f"{what}: wrote behind its end, at byte {int((after != _GUARD).argmax())} of it"


class Operand(Memory):
    """A read-only copy of `values` between guards, and a way to see that it stayed as it was."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(values.shape, values.dtype)
        self.array[...] = values
        self._before = self.array.tobytes()
        self.array.flags.writeable = False

    def check_unchanged(self, what: str) -> None:
        assert self.array.tobytes() == self._before, f"{what} was modified"
        self.check_guards(what)


def assert_same_numbers(actual: Any, expected: np.ndarray, what: str = "result") -> None:
    """`actual` is an array of expected's shape and dtype, and equal as numbers, tolerance zero.

    Shape, dtype, NaN and infinities are compared before any difference is taken: a maximum would drop a NaN.
    """
    _assert_alike(actual, expected, what)
    wrong = actual != expected
    wrong &= ~np.isnan(expected)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.size} elements are wrong, first at {where}: "
            f"{actual[where]!r} instead of {expected[where]!r}"
        )


def assert_close(actual: Any, expected: np.ndarray, tolerance: float, what: str = "result", dtype: Any = None) -> float:
    """max|error| / max|expected| is at most `tolerance`; returns it. `dtype` is that of actual, if not expected's."""
    with np.errstate(over="ignore"):
        _assert_alike(actual, expected.astype(dtype or expected.dtype), what)
    finite = np.isfinite(expected)
    if not finite.any():
        return 0.0
    exact = expected[finite].astype(np.float64)
    error = float(np.abs(actual[finite] - exact).max() / (np.abs(exact).max() or 1.0))
    assert error <= tolerance, f"{what}: error {error:.2e} above {tolerance:.2e}"
    return error


def assert_right(
    algorithm: Algorithm,
    problem: ConvProblem,
    direction: Direction,
    actual: Any,
    expected: np.ndarray,
    what: str = "",
    typical: float = 0.0,
) -> None:
    """Equal to the last bit, but for the transforms that round: within twice the error that they state.

    Theirs is for N(0, 1) data, in 99 of 100 cases. F(2, 3) only adds and halves: small integers stay exact. `typical`
    is the largest element that may be expected where windows lie inside: what tiles of padding round is the same where
    all elements are smaller.
    """
    what = what or "result"
    if algorithm not in EXACT:
        largest = float(np.abs(expected).max(initial=0)) or 1.0
        assert_close(
            actual, expected, 2 * algorithm.error(problem, direction) * max(1.0, typical / largest), what
        )  # fmt: skip
    else:
        assert_same_numbers(actual, expected, what)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray, what: str = "result") -> None:
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype} instead of {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape} instead of {expected.shape}"
    unsigned = f"u{actual.dtype.itemsize}"
    a, b = (np.ascontiguousarray(array).view(unsigned) for array in (actual, expected))
    wrong = a != b
    assert not wrong.any(), (
        f"{what}: {int(wrong.sum())} of {wrong.size} elements differ in their bits, first at "
        f"{tuple(int(i) for i in np.argwhere(wrong)[0])}"
    )


def _assert_alike(actual: Any, expected: np.ndarray, what: str) -> None:
    """Type, dtype, shape, and the places of NaN and of each infinity."""
    assert isinstance(actual, np.ndarray), f"{what}: {type(actual).__name__} instead of an array"
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype} instead of {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape} instead of {expected.shape}"
    if actual.dtype.kind != "f":
        return
    for name, found, wanted in (
        ("NaN", np.isnan(actual), np.isnan(expected)),
        ("inf", np.isposinf(actual), np.isposinf(expected)),
        ("-inf", np.isneginf(actual), np.isneginf(expected)),
    ):
        wrong = found != wanted
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise AssertionError(
                f"{what}: {name} at {int((found & wrong).sum())} places too many (not written?) and "
                f"{int((wanted & wrong).sum())} too few, first at {where}: {actual[where]!r} instead of "
                f"{expected[where]!r}"
            )


# -- What runs -------------------------------------------------------------------------------------

#: Multiply-accumulates up to which naive takes part; conftest.py lifts it where slow tests run.
most_naive_macs: float = NAIVE_MACS


def skip_unless_expected_to_run(algorithm: Algorithm, problem: Problem, direction: Direction) -> None:
    """A refusal, or an algorithm that is missing, is a skip; only those of expected_skips.py let the run pass."""
    if algorithm.name == "naive" and problem.macs > most_naive_macs:
        pytest.skip(f"naive: over {most_naive_macs} multiply-accumulates: runs in make test-all")
    if reason := algorithm.unavailable():
        pytest.skip(f"{algorithm.name} is unavailable: {reason}")
    if reason := algorithm.refusal(problem, direction):
        pytest.skip(f"{algorithm.name} refuses {problem} {direction}: {reason}")


# -- Running an algorithm as the contract says, and no better ----------------------------------------


class Pieces(Scratch):
    """Scratch that is counted as usual, while each piece lies by itself between guards, filled with `byte`."""

    __slots__ = ("_byte", "_pieces")

    def __init__(self, nbytes: int, byte: int) -> None:
        super().__init__(np.empty(0, np.uint8), nbytes)
        self._byte = byte
        self._pieces: list[tuple[int, Memory]] = []

    def _piece(self, nbytes: int) -> np.ndarray:
        start = self._used
        super().reserve(nbytes)
        piece = Memory((nbytes,), np.uint8, self._byte, aligned=True)
        self._pieces.append((start, piece))
        return piece.array

    def take(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        kind = np.dtype(dtype)
        return self._piece(int(np.prod(shape, dtype=object)) * kind.itemsize).view(kind).reshape(shape)

    def reserve(self, nbytes: int) -> int:
        return self._piece(nbytes).ctypes.data

    def release(self, mark: int) -> None:
        self._check(mark, "released scratch")
        super().release(mark)
        self._pieces = [(start, piece) for start, piece in self._pieces if start < mark]

    def check_guards(self, what: str) -> None:
        self._check(0, what)

    def _check(self, first: int, what: str) -> None:
        for start, piece in self._pieces:
            if start >= first:
                piece.check_guards(f"{what}, piece at {start}")


def _granted(
    algorithm: Algorithm, problem: Problem, direction: Direction, threads: int, generous: bool, grant: int | None
) -> Pieces:
    least, best = algorithm.workspace_bytes(problem, direction, threads)
    assert 0 <= least <= best, f"workspace {least} to {best}"
    if grant is None:
        grant = best if generous else least
    return Pieces(grant, 0xFF if generous else 0xA5)


def _execute(
    algorithm: Algorithm,
    problem: Problem,
    direction: Direction,
    arguments: list[Any],
    threads: int,
    generous: bool,
    grant: int | None = None,
) -> list[np.ndarray | None]:
    """Call with operands and results as they come in `arguments`; return the results."""
    scratch = _granted(algorithm, problem, direction, threads, generous, grant)
    plain = [entry.array if isinstance(entry, Memory) else entry for entry in arguments]
    algorithm.direction(problem, direction)(problem, *plain, scratch, threads)
    scratch.check_guards("scratch")
    results = []
    for position, entry in enumerate(arguments):
        if isinstance(entry, Operand):
            entry.check_unchanged(f"argument {position}")
        elif isinstance(entry, Memory):
            entry.check_guards(f"result {position}")
            results.append(entry.array)
    return results  # type: ignore[return-value]


def run_conv(
    algorithm: Algorithm,
    problem: ConvProblem,
    direction: Direction,
    first: np.ndarray,
    second: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    with_grad_bias: bool = False,
    threads: int = 1,
    generous: bool = False,
    grant: int | None = None,
) -> Any:
    """The result of one direction, from (input, weight), (grad_output, weight) or (grad_output, input).

    With `with_grad_bias` a pair (grad_weight, grad_bias). `generous` grants the best scratch, else the least,
    or `grant` bytes.
    """
    arguments: list[Any] = [Operand(first), Operand(second)]
    if direction is Direction.BACKWARD_WEIGHT:
        arguments.append(Memory(problem.weight_shape, problem.dtype))
        arguments.append(Memory((problem.out_channels,), problem.dtype) if with_grad_bias else None)
    else:
        forward = direction is Direction.FORWARD
        arguments.append(Memory(problem.output_shape if forward else problem.input_shape, problem.dtype))
        arguments.append(Epilogue(bias, activation))
    results = _execute(algorithm, problem, direction, arguments, threads, generous, grant)
    return tuple(results) if with_grad_bias else results[0]


def run_pool_forward(
    algorithm: Algorithm,
    problem: PoolProblem,
    input: np.ndarray,
    *,
    with_indices: bool = False,
    threads: int = 1,
    generous: bool = False,
) -> tuple[Any, Any]:
    """(output, indices or None)."""
    indices = Memory(problem.output_shape, np.int64) if with_indices else None
    arguments = [Operand(input), Memory(problem.output_shape, problem.dtype), indices]
    results = _execute(algorithm, problem, Direction.FORWARD, arguments, threads, generous)
    return results[0], results[1] if with_indices else None


def run_pool_backward(
    algorithm: Algorithm,
    problem: PoolProblem,
    grad_output: np.ndarray,
    *,
    input: np.ndarray | None = None,
    indices: np.ndarray | None = None,
    threads: int = 1,
    generous: bool = False,
) -> Any:
    arguments = [
        Operand(grad_output),
        None if input is None else Operand(input),
        None if indices is None else Operand(indices),
        Memory(problem.input_shape, problem.dtype),
    ]
    return _execute(algorithm, problem, Direction.BACKWARD_INPUT, arguments, threads, generous)[0]
