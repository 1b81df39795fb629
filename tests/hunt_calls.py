"""The hunt's calls: each public operator and its gradients, by every algorithm, held against the definitions.

Sums of small integers are exact, so equality is exact where nothing is divided or raised to a power. A convolution with
a padding mode is the definition of `pad` followed by that of a convolution, and its gradient their adjoints in turn.
The transforms that round are left to hunt_problems.py: F(2, 3), which is exact, takes the same way to them.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

import fastconv
from fastconv import InvalidProblem, UnsupportedProblem
from fastconv.planner import REGISTRY
from tests import definitions, hunt_draws
from tests.calls import parameters
from tests.checks import EXACT as EXACT_ALGORITHMS
from tests.checks import assert_close, assert_same_numbers
from tests.definitions import Expected, Result, per_axis
from tests.hunt_draws import DRAWS, Given, pick, up_to
from tests.test_correlate import by_loops, modulo
from tests.test_torch_cases import algorithms, backward, forward

#: Products of a convolution at most, and of one that naive, in plain Python, takes part in.
MOST_WORK, MOST_NAIVE_WORK = 3_000_000, 40_000

#: Of integers no rounding: nothing is divided, raised to a power or mixed.
EXACT = ("conv", "max_", "adaptive_max", "fractional", "unfold", "pad")

#: What torch refuses to say anything about, and so do the definitions.
UNDEFINED = ("no window lies in padding alone",)


def _reversed(array: np.ndarray) -> np.ndarray:
    """The same numbers with every stride negative."""
    return np.flip(np.flip(array).copy())


def _sliced(array: np.ndarray) -> np.ndarray:
    """The same numbers, every other one of a larger array, whose start is aligned to single bytes."""
    memory = np.empty(2 * array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(*array.shape, 2)
    memory[...] = 7
    memory[..., 0] = array
    return memory[..., 0]


#: How the caller's arrays may lie in memory.
VIEWS: tuple[Callable[..., Any], ...] = (np.asarray, np.asarray, np.asfortranarray, _reversed, _sliced)


def _pads(given: Given, axes: int) -> list[tuple[int, int]]:
    padding = given["padding"]
    if isinstance(padding, int):
        return [(padding, padding)] * axes
    return [pair if isinstance(pair, tuple) else (pair, pair) for pair in padding]


def _padded_conv(axes: int, given: Given) -> Result:
    rest = {key: value for key, value in given.items() if key not in ("input", "padding", "padding_mode")}
    mode = "constant" if given["padding_mode"] == "zeros" else given["padding_mode"]
    flat = [pad for pair in reversed(_pads(given, axes)) for pad in pair]
    padding = definitions.pad(given["input"], flat, mode)
    for name in ("stride", "dilation"):
        rest[name] = per_axis(tuple(np.atleast_1d(rest[name]).tolist()), axes)
    result = definitions.conv(axes, padding.outputs[0].value, **rest)

    def gradients(dy: np.ndarray) -> tuple[Expected, ...]:
        dx, dw, db = result.gradients(dy)
        return (padding.gradients(dx.value)[0], dw, db)

    return Result(result.outputs, gradients)


def define(operator: str, given: Given) -> Result | None:
    """What the call should give; None for a window wholly in padding, which the definitions leave out."""
    try:
        if operator in ("conv1d", "conv2d", "conv3d"):
            return _padded_conv(int(operator[4]), given)
        return definitions.define(operator, given)
    except AssertionError as error:
        if str(error).split("\n")[0] in UNDEFINED:
            return None
        raise


def _check(actual: Any, expected: Expected, exact: bool, dtype: str, what: str) -> None:
    assert actual.dtype == dtype, f"{what}: {actual.dtype}"
    if exact:
        assert_same_numbers(actual, expected.value.astype(dtype), what)
    else:
        expected.check(actual, what)


def takers(operator: str) -> list[str | None]:
    """The algorithms to call an operator by: for any kernel, and the transforms whose sums of integers are exact."""
    exact = [entry.name for entry in REGISTRY["conv"] if entry.transforms and entry in EXACT_ALGORITHMS]
    return algorithms(operator) + (exact if operator.startswith("conv") else [])


def call_once(operator: str, rng: np.random.Generator, counts: Counter[str]) -> int:
    """Draw a call, and run it by every algorithm; returns the finds, each printed."""
    draw, axes = DRAWS[operator]
    given = draw(rng, axes)
    work = hunt_draws.work(given)
    if work > MOST_WORK:
        return 0
    dtype = pick(rng, "float32", "float64")
    given = {
        key: value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        for key, value in given.items()
    }
    result = define(operator, given)
    if result is None:
        return 0
    dy = hunt_draws.whole(rng, *result.outputs[0].value.shape).astype(dtype)
    exact = operator.startswith(EXACT) or (operator == "upsample" and given.get("mode") != "bilinear")
    last = "data_format" in parameters(operator) and rng.random() < 0.35
    threads = up_to(rng, 3, 1)
    finds = 0
    odd = pick(rng, *VIEWS)
    for algorithm in takers(operator):
        if algorithm == "naive" and work > MOST_NAIVE_WORK:
            continue
        what = f"{operator} {algorithm}{' channels last' if last else ''} {threads} threads"
        try:
            with fastconv.use(threads=threads):
                _compare(operator, given, dy, algorithm, last, odd, result, exact, dtype)
        except UnsupportedProblem:
            counts[f"{operator} {algorithm or ''} refused"] += 1
        except Exception:
            finds += 1
            traceback.print_exc()
            print(f"FIND: {what}: {_shown(given)}", flush=True)
        counts[f"{operator} {algorithm or ''}".strip()] += 1
    return finds


def _shown(given: Given) -> dict[str, Any]:
    return {k: f"{v.dtype} {v.shape}" if isinstance(v, np.ndarray) else v for k, v in given.items()}


def _compare(
    operator: str, given: Given, dy: np.ndarray, algorithm: str | None, last: bool, odd: Callable[..., Any],
    result: Result, exact: bool, dtype: str,
) -> None:  # fmt: skip
    axes = DRAWS[operator][1] or given["input"].ndim - 2

    def turned(name: str, value: Any, there: int, back: int) -> Any:
        if isinstance(value, np.ndarray) and last and name in ("input", "indices", "grad_output", "result"):
            value = np.ascontiguousarray(np.moveaxis(value, there, back))
        return odd(value) if isinstance(value, np.ndarray) and name != "result" else value

    call = {name: turned(name, value, -axes - 1, -1) for name, value in given.items()}
    call |= {"data_format": {1: "NWC", 2: "NHWC", 3: "NDHWC"}[axes]} if last else {}
    found = forward(operator, call, algorithm)
    for i, (actual, expected) in enumerate(zip(found, result.outputs, strict=True)):
        _check(
            turned("result", actual, -1, -axes - 1), expected, exact or i > 0, "int64" if i else dtype, f"output {i}"
        )
    upstream = turned("grad_output", dy, -axes - 1, -1)
    gradients = backward(operator, upstream, call, algorithm)
    wanted = result.gradients(dy)
    for i, (actual, expected) in enumerate(zip(gradients, wanted, strict=False)):
        shown = turned("result", actual, -1, -axes - 1) if i == 0 else actual
        _check(shown, expected, exact, dtype, f"gradient {i}")


def operators(*prefixes: str) -> Callable[[np.random.Generator, Counter[str]], int]:
    """A part of the hunt: one of the operators whose names begin so, in each step."""
    names = [name for name in DRAWS if name.startswith(prefixes)]

    def step(rng: np.random.Generator, counts: Counter[str]) -> int:
        return call_once(pick(rng, *names), rng, counts)

    return step


# -- Matrices ---------------------------------------------------------------------------------------


def matrices(rng: np.random.Generator, counts: Counter[str]) -> int:
    """correlate2d and convolve2d of any numbers, by loops in Python's own arithmetic."""
    first, second = ([up_to(rng, 7, 1), up_to(rng, 7, 1)] for _ in range(2))
    mode, boundary = pick(rng, "full", "same", "valid"), pick(rng, "fill", "wrap", "symm")
    if mode == "valid" and not all(a >= b for a, b in zip(first, second, strict=True)):
        second = [min(pair) for pair in zip(first, second, strict=True)]
    if mode == "valid" and rng.random() < 0.3:
        first, second = second, first
    dtype = np.dtype(
        pick(rng, "int8", "uint8", "int16", "uint32", "int64", "uint64", "float32", "float64", "complex128")
    )
    if dtype.kind in "iu":
        bounds, whole_range = np.iinfo(dtype), rng.random() < 0.3
        low, high = (bounds.min, bounds.max) if whole_range else (max(bounds.min, -9), 9)
        x, w = (rng.integers(low, high, shape, dtype, endpoint=True) for shape in (first, second))
    else:
        x, w = (hunt_draws.whole(rng, *shape).astype(dtype) for shape in (first, second))
        if dtype.kind == "c":
            x, w = x + 1j * hunt_draws.whole(rng, *first), w + 1j * hunt_draws.whole(rng, *second)
    fill, turned = pick(rng, 0, 0, 3), bool(rng.random() < 0.5)
    name = "convolve2d" if turned else "correlate2d"
    counts[f"{name} {dtype}"] += 1
    try:
        found = getattr(fastconv, name)(x, w, mode, boundary, fill)
        expected = by_loops(x, w, mode, boundary, fill, turned)
        wanted = modulo(expected, dtype) if dtype.kind in "iu" else expected.astype(dtype)
        if dtype.kind == "c":
            assert_close(np.abs(found - wanted) + 1, np.ones(wanted.shape), 1e-12)
        else:
            assert_same_numbers(found, wanted)
    except Exception:
        traceback.print_exc()
        print(f"FIND: {name} {dtype} {x.tolist()} {w.tolist()} {mode} {boundary} {fill}", flush=True)
        return 1
    return 0


# -- Padding and its gradient -----------------------------------------------------------------------


def padding(rng: np.random.Generator, counts: Counter[str]) -> int:
    """Any pads, legal or not: refused in both directions, or adjoint, and as the definition says."""
    shape = tuple(up_to(rng, 5) for _ in range(up_to(rng, 3, 1)))
    pads = [up_to(rng, 7, -5) for _ in range(2 * up_to(rng, len(shape)))]
    mode = pick(rng, "constant", "reflect", "replicate", "circular")
    x = hunt_draws.whole(rng, *shape)
    counts[f"pad {mode}"] += 1
    try:
        widths = [(0, 0)] * (len(shape) - len(pads) // 2) + list(zip(pads[::2], pads[1::2], strict=True))[::-1]
        out = tuple(size + low + high for size, (low, high) in zip(shape, widths, strict=True))
        dy = hunt_draws.whole(rng, *(max(size, 0) for size in out))
        try:
            y = fastconv.pad(x, pads, mode)
        except InvalidProblem:
            counts[f"pad {mode} refused"] += 1
            if min(out, default=0) >= 0:
                try:
                    fastconv.pad_backward(dy, pads, mode)
                except InvalidProblem:
                    return 0
                raise AssertionError("refused forward alone") from None
            return 0
        dx = fastconv.pad_backward(dy, pads, mode)
        assert dx.shape == x.shape, f"{dx.shape}"
        assert float(np.vdot(dy, y)) == float(np.vdot(dx, x)), "not adjoint"
    except Exception:
        traceback.print_exc()
        print(f"FIND: pad {shape} {pads} {mode}", flush=True)
        return 1
    return 0
