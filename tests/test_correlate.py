"""correlate2d and convolve2d against loops in whole numbers; SciPy in make test-all."""

import numpy as np
import pytest

import fastconv
from fastconv import InvalidProblem, settings
from tests.checks import assert_close, assert_same_numbers
from tests.problems import generator

BOTH = pytest.mark.parametrize("turned", [False, True], ids=["correlate2d", "convolve2d"])


def outside(x, p, q, boundary, fill):
    """Element (p, q) of an endless matrix that shows x."""
    (H, W), places = x.shape, []
    for i, size in ((p, H), (q, W)):
        if boundary == "wrap":
            places.append(i % size)
        elif boundary == "symm":
            places.append(min(i % (2 * size), 2 * size - 1 - i % (2 * size)))
        elif not 0 <= i < size:
            return fill
        else:
            places.append(i)
    return x[tuple(places)]


def by_loops(x, w, mode, boundary, fill, turned):
    """Python's own integers (or complex numbers), which know no overflow."""
    x, w = x.astype(object), w.astype(object)
    exchanged = mode == "valid" and any(r > h for h, r in zip(x.shape, w.shape))
    if exchanged:
        x, w = w, x
    kernel = w if turned else np.array([[z.conjugate() for z in row] for row in w.tolist()], object)
    (H, W), (R, S) = x.shape, w.shape
    full = np.zeros((H + R - 1, W + S - 1), object)
    for p, q in np.ndindex(*full.shape):
        for r, s in np.ndindex(R, S):
            at = (p - r, q - s) if turned else (p - R + 1 + r, q - S + 1 + s)
            full[p, q] += outside(x, *at, boundary, fill) * kernel[r, s]
    if mode == "valid":
        full = full[R - 1 : H, S - 1 : W]
        return full[::-1, ::-1] if exchanged and not turned else full
    if mode == "same":
        top, left = ((R - 1) // 2, (S - 1) // 2) if turned else (R // 2, S // 2)
        return full[top : top + H, left : left + W]
    return full


def modulo(values, dtype):
    bits, low = 8 * dtype.itemsize, np.iinfo(dtype).min
    return np.array([[(int(v) - low) % 2**bits + low for v in row] for row in values], dtype)


def random_matrix(shape, dtype, whole_range):
    rng = generator(shape, dtype, whole_range)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    bounds = np.iinfo(dtype)
    low, high = (bounds.min, bounds.max) if whole_range else (0, 9)
    return rng.integers(low, high, shape, dtype, endpoint=True)


SHAPES = pytest.mark.parametrize(
    "shapes",
    [((5, 6), (3, 3)), ((5, 4), (2, 4)), ((3, 3), (5, 4)), ((1, 1), (3, 2)), ((4, 5), (4, 5)), ((2, 7), (1, 1))],
)


@BOTH
@SHAPES
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm"])
def test_integers_are_exact(turned, shapes, mode, boundary):
    function = fastconv.convolve2d if turned else fastconv.correlate2d
    for dtypes in (("int64", "int64"), ("uint8", "uint8"), ("int8", "uint8"), ("bool", "int16"), ("int32", "bool")):
        for whole_range in (False, True):
            for fill in (0, 3):
                x, w = (random_matrix(shape, np.dtype(dtype), whole_range) for shape, dtype in zip(shapes, dtypes))
                common = np.result_type(*dtypes)
                expected = by_loops(x.astype(common), w.astype(common), mode, boundary, fill, turned)
                actual = function(x, w, mode, boundary, fill)
                assert_same_numbers(actual, modulo(expected, common), f"{dtypes}, fill {fill}")


@BOTH
@SHAPES
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_floating_point(turned, shapes, mode):
    function = fastconv.convolve2d if turned else fastconv.correlate2d
    rng = generator(shapes)
    for boundary in ("fill", "wrap", "symm"):
        x, w = (rng.integers(-9, 9, shape).astype("float32") for shape in shapes)
        expected = by_loops(x, w, mode, boundary, 0, turned).astype("float32")
        assert_same_numbers(function(x, w, mode, boundary), expected)
        assert_same_numbers(
            function(x.astype("float16"), w.astype("float16"), mode, boundary), expected.astype("float16")
        )
        assert function(x, w.astype("float64"), mode, boundary).dtype == np.float64
        x, w = x + 1j * rng.integers(-9, 9, x.shape), w - 2j * rng.integers(-9, 9, w.shape)
        expected = by_loops(x, w, mode, boundary, 0, turned).astype(complex)
        assert (function(x, w, mode, boundary) == expected).all()


def test_sums_beyond_doubles_are_exact():
    x, w = np.full((2, 2), 2**31 + 1), np.full((2, 2), 2**22 + 1)
    assert fastconv.correlate2d(x, w, "valid").item() == 4 * (2**31 + 1) * (2**22 + 1)
    assert fastconv.convolve2d(x, w[:1, :1])[0, 0] == (2**31 + 1) * (2**22 + 1)


@pytest.mark.parametrize("algorithm", ["naive", "cython_winograd_f4"])
def test_integers_ask_for_no_transform(algorithm):
    """Neither a preference nor a tolerance lets an algorithm that rounds compute integers: they would be cut off."""
    x, w = generator("x").integers(-9, 9, (12, 12)), generator("w").integers(-9, 9, (3, 3))
    with settings.use(tolerance=1.0, algorithm=algorithm):
        assert_same_numbers(fastconv.correlate2d(x, w), modulo(by_loops(x, w, "full", "fill", 0, False), x.dtype))


def test_lists_and_names_of_boundaries():
    assert fastconv.convolve2d([[1, 2]], [[3]]).dtype == np.int64
    x, w = generator("x").standard_normal((4, 5)), generator("w").standard_normal((3, 2))
    for one, other in (("pad", "fill"), ("circular", "wrap"), ("symmetric", "symm")):
        assert_same_numbers(fastconv.convolve2d(x, w, "same", one), fastconv.convolve2d(x, w, "same", other))


def test_the_laws_of_convolution():
    """It commutes, its unit is an impulse, and correlation is convolution with the turned kernel."""
    x, w = generator("x").integers(-9, 9, (5, 7)), generator("w").integers(-9, 9, (3, 2))
    assert_same_numbers(fastconv.convolve2d(x, w), fastconv.convolve2d(w, x))
    assert_same_numbers(fastconv.convolve2d(x, [[1]]), x)
    assert_same_numbers(fastconv.correlate2d(x, w), fastconv.convolve2d(x, w[::-1, ::-1]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1, 2], [[1]]), InvalidProblem, r"in1 must be a matrix with at least one element, got shape \(2,\)"),
        (
            ([[1]], np.zeros((0, 2))),
            InvalidProblem,
            r"in2 must be a matrix with at least one element, got shape \(0, 2\)",
        ),
        (([[1]], [["a"]]), TypeError, "in2 must be of a numeric dtype, got <U1"),
        (([[True]], [[True]]), TypeError, "in1 and in2 must not both be of dtype bool"),
        (([[1]], [[1]], "whole"), InvalidProblem, "mode must be full, same, valid, got 'whole'"),
        (([[1]], [[1]], "full", "mirror"), InvalidProblem, "boundary must be fill, pad, wrap, .*, got 'mirror'"),
        (([[1]], [[1]], "full", "fill", None), TypeError, "fillvalue must be a number, got None"),
        (([[1]], [[1]], "full", "fill", 1j), InvalidProblem, "fillvalue must be real for int64 matrices, got 1j"),
        (([[1]], [[1]], "full", "fill", 2**70), InvalidProblem, "fillvalue must fit the matrices' dtype int64, got"),
        (
            ([[1]], [[1]], "full", "fill", np.nan),
            InvalidProblem,
            "fillvalue must fit the matrices' dtype int64, got nan",
        ),
        ((np.ones((2, 3)), np.ones((3, 2)), "valid"), InvalidProblem, r"shapes \(2, 3\) and \(3, 2\)"),
    ],
)
def test_errors(arguments, error, message):
    for function in (fastconv.correlate2d, fastconv.convolve2d):
        with pytest.raises(error, match=message):
            function(*arguments)


@pytest.mark.peers
@BOTH
@pytest.mark.filterwarnings("ignore::Warning")
def test_as_scipy(turned):
    """Values, dtypes and wrapping around; SciPy refuses float16 and bool alone."""
    signal = pytest.importorskip("scipy.signal")
    peer = signal.convolve2d if turned else signal.correlate2d
    function = fastconv.convolve2d if turned else fastconv.correlate2d
    names = [
        "float32",
        "float64",
        "uint8",
        "int8",
        "uint16",
        "int32",
        "int64",
        "uint64",
        "bool",
        "complex64",
        "complex128",
    ]
    for seed in range(400):
        rng = generator("scipy", seed)
        operands = []
        for _ in range(2):
            shape, dtype = tuple(rng.integers(1, 7, 2).tolist()), np.dtype(names[rng.integers(len(names))])
            if dtype.kind in "iub":
                operands.append(random_matrix(shape, dtype, bool(seed % 2)))
            elif dtype.kind == "c":
                operands.append((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype))
            else:
                operands.append(rng.standard_normal(shape).astype(dtype))
        mode, boundary = ["full", "same", "valid"][seed % 3], ["fill", "wrap", "symm"][rng.integers(3)]
        arguments = (*operands, mode, boundary, int(rng.integers(2)))
        try:
            expected = peer(*arguments)
        except ValueError:
            with pytest.raises((ValueError, TypeError)):
                function(*arguments)
            continue
        actual = function(*arguments)
        if expected.dtype.kind in "iu":
            assert_same_numbers(actual, expected, str(arguments))
        else:
            assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
            wide = actual.dtype.itemsize // (2 if actual.dtype.kind == "c" else 1) == 8
            if actual.dtype.kind == "c":
                actual, expected = (
                    actual.view(actual.real.dtype),
                    np.ascontiguousarray(expected).view(actual.real.dtype),
                )
            assert_close(actual, np.ascontiguousarray(expected), 1e-13 if wide else 1e-5, str(arguments))
