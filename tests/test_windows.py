"""unfold, fold and pad, against loops over windows and np.pad; each adjoint exact on integers."""

import tracemalloc

import numpy as np
import pytest

import fastconv
from fastconv import InvalidProblem
from tests import plain
from tests.checks import assert_same_numbers
from tests.problems import generator, integers

#: (size, kernel, dilation, padding, stride)
WINDOWS = [
    ((5, 6), (2, 3), (1, 1), (0, 0), (1, 1)),
    ((5, 6), (3, 3), (1, 1), (1, 1), (2, 2)),
    ((7, 5), (2, 3), (3, 1), (1, 2), (1, 3)),
    ((3, 4), (3, 4), (1, 1), (0, 0), (1, 1)),
    ((2, 2), (1, 1), (1, 1), (3, 2), (2, 1)),
    ((1, 1), (2, 2), (2, 2), (1, 1), (1, 1)),
    ((4, 9), (3, 2), (1, 4), (2, 0), (5, 2)),
    ((6, 6), (5, 5), (1, 1), (0, 0), (1, 1)),
]


def columns_of(x, kernel, dilation, padding, stride):
    """The matrix row by row: one loop over windows, one over what they show."""
    windows = plain.regular(x.shape[2:], kernel, stride, tuple((p, p) for p in padding), dilation)
    columns = []
    for _, taken in plain.each_window(windows):
        shown = [
            x[(..., *position)] if plain.is_inside(position, x.shape[2:]) else np.zeros(x.shape[:2])
            for position in taken
        ]
        columns.append(np.stack(shown, axis=2).reshape(x.shape[0], -1))
    return np.stack(columns, axis=2).astype(x.dtype)


@pytest.mark.parametrize(("size", "kernel", "dilation", "padding", "stride"), WINDOWS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_unfold_and_its_adjoint(size, kernel, dilation, padding, stride, dtype):
    x = integers("x", (2, 3, *size), dtype, 9)
    arguments = (kernel, dilation, padding, stride)
    expected = columns_of(x, *arguments)
    assert_same_numbers(fastconv.unfold(x, *arguments), expected)
    assert_same_numbers(fastconv.unfold(x[:, ::-1], *arguments), columns_of(x[:, ::-1], *arguments))
    assert_same_numbers(fastconv.unfold(x[1], *arguments), expected[1])
    y = integers("y", expected.shape, dtype, 9)
    images = fastconv.fold(y, size, *arguments)
    assert (images.shape, images.dtype) == (x.shape, x.dtype)
    assert float(np.vdot(y.astype(float), expected.astype(float))) == float(
        np.vdot(images.astype(float), x.astype(float))
    )
    assert_same_numbers(fastconv.fold(y[1], size, *arguments), images[1])
    counts = fastconv.fold(fastconv.unfold(np.ones_like(x), *arguments), size, *arguments)
    assert (counts == np.round(counts)).all()


def test_a_convolution_is_a_product_with_columns():
    x, w = integers("x", (2, 3, 6, 5), "float64", 9), integers("w", (4, 3, 3, 2), "float64", 9)
    product = w.reshape(4, -1) @ fastconv.unfold(x, (3, 2), padding=1, stride=(2, 1))
    assert_same_numbers(product.reshape(2, 4, 3, 6), fastconv.conv2d(x, w, padding=1, stride=(2, 1)))


def test_columns_of_odd_input():
    x = integers("x", (2, 3, 5, 6), "float32", 9)
    assert fastconv.unfold(x[:0], 2).shape == (0, 12, 20)
    assert fastconv.fold(np.zeros((0, 12, 20)), (5, 6), 2).shape == (0, 3, 5, 6)
    assert_same_numbers(fastconv.unfold(x.astype(">f4"), 2), fastconv.unfold(x, 2))
    assert_same_numbers(fastconv.unfold(x, 3, padding="same"), fastconv.unfold(x, 3, padding=1))
    shifted = fastconv.unfold(fastconv.pad(x, (2, 0, 0, 1)), 3)
    assert_same_numbers(fastconv.unfold(x, 3, padding=((0, 1), (2, 0))), shifted)
    x[0, 0, 2, 2] = np.nan
    assert np.isnan(fastconv.unfold(x, 2)).sum() == 4, "once in each window that shows it"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fastconv.unfold(np.zeros((1, 1, 3, 3)), 0), InvalidProblem, "kernel_size must be at least 1, got 0"),
        (lambda: fastconv.unfold(np.zeros((1, 1, 3, 3)), 4), InvalidProblem, "kernel size 4 with dilation 1 spans 4"),
        (lambda: fastconv.unfold(np.zeros((1, 1, 3, 3)), 2, 0), InvalidProblem, "dilation must be at least 1, got 0"),
        (lambda: fastconv.unfold(np.zeros((1, 1, 3, 3)), 2, 1, -1), InvalidProblem, "padding must be at least 0, got"),
        (lambda: fastconv.unfold(np.zeros((1, 1, 3, 3)), 2, 1, 0, 1.5), TypeError, "stride must be an int, got 1.5"),
        (lambda: fastconv.unfold(np.zeros((1, 1, 3, 3)), 2, 1, 2**40), InvalidProblem, "more than can be addressed"),
        (lambda: fastconv.unfold(np.zeros((3, 3)), 2), InvalidProblem, "input must have 4 dimensions"),
        (lambda: fastconv.unfold(np.zeros((1, 1, 3, 3), int), 2), TypeError, "input must be of dtype"),
        (lambda: fastconv.fold(np.zeros((1, 5, 4)), 3, 2), InvalidProblem, "must have a multiple of 4 rows"),
        (lambda: fastconv.fold(np.zeros((1, 4, 5)), 3, 2), InvalidProblem, r"input must have shape \(1, 4, 4\)"),
        (lambda: fastconv.fold(np.zeros((1, 4, 4)), 0, 2), InvalidProblem, "output_size must be at least 1, got 0"),
        (lambda: fastconv.fold(np.zeros(4), 3, 2), InvalidProblem, "input must have 3 dimensions"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


# -- pad --------------------------------------------------------------------------------------------

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pad", [(1, 2), (0, 3, 2, 1), (1, 0, 0, 2, 2, 2), (), (0, 0)])
def test_pad_and_its_adjoint(mode, pad):
    x = integers("x", (2, 3, 4, 5), "float32", 9)
    widths = [(0, 0)] * (4 - len(pad) // 2) + list(zip(pad[::2], pad[1::2]))[::-1]
    expected = np.pad(x, widths, MODES[mode])
    y = fastconv.pad(x, pad, mode)
    assert_same_numbers(y, expected)
    assert not np.may_share_memory(y, x)
    dy = integers("dy", y.shape, "float32", 9)
    dx = fastconv.pad_backward(dy, pad, mode)
    assert dx.shape == x.shape
    assert float(np.vdot(dy, y)) == float(np.vdot(dx, x))
    assert_same_numbers(fastconv.pad(x.astype("float16"), pad, mode), expected.astype("float16"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pad", [(-1, 2), (2, -1, -2, 0), (-1, -2, 1, 1)])
def test_negative_pads_crop(mode, pad):
    x = integers("x", (2, 3, 6, 7), "float64", 9)
    widths = [(0, 0)] * (4 - len(pad) // 2) + list(zip(pad[::2], pad[1::2]))[::-1]
    grown, crops = (
        [tuple(max(w, 0) for w in pair) for pair in widths],
        [tuple(max(-w, 0) for w in pair) for pair in widths],
    )

    def cropped(array):
        return array[tuple(slice(low, size - high) for size, (low, high) in zip(array.shape, crops))]

    if mode == "circular":  # shows the other end of what is left
        expected = np.pad(cropped(x), grown, MODES[mode])
    else:
        expected = cropped(np.pad(x, grown, MODES[mode]))
    y = fastconv.pad(x, pad, mode)
    assert_same_numbers(y, expected)
    dy = integers("dy", y.shape, "float64", 9)
    assert float(np.vdot(dy, y)) == float(np.vdot(fastconv.pad_backward(dy, pad, mode), x))


def test_values_of_padding():
    assert fastconv.pad(np.array([1.0]), (1, 0), value=np.inf).tolist() == [np.inf, 1]
    assert np.isnan(fastconv.pad(np.zeros((1, 2)), (0, 1), value=np.nan)).tolist() == [[False, False, True]]
    assert fastconv.pad(np.zeros((0, 3)), (1, 1)).shape == (0, 5)
    assert fastconv.pad_backward(np.zeros((0, 5)), (1, 1)).shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((1,),), InvalidProblem, r"pad must be a flat sequence of \(low, high\) pairs, last axis first, got \(1,\)"),
        ((2,), InvalidProblem, "pad must be a flat sequence"),
        ((((1, 1), (1, 1)),), InvalidProblem, "pad must be a flat sequence"),
        (((1, 1) * 3,), InvalidProblem, "pad has 3 pairs, the array 2 axes"),
        (((1.0, 1),), TypeError, "pad must be an int, got 1.0"),
        (((-2, -2),), InvalidProblem, r"crops more than there is: shape \(2, 3\) would become \(2, -1\)"),
        (((2**62, 0),), InvalidProblem, "more bytes than can be addressed"),
        (((-(2**62), 2**62),), InvalidProblem, rf"shape \(2, 3\) into \(2, {2**62 + 3}\), before it crops: more bytes"),
        (((1, 1), "mirror"), InvalidProblem, "mode must be constant, reflect, replicate, circular, got 'mirror'"),
        (((3, 0), "reflect"), InvalidProblem, "reflect padding must be smaller than the input: 3 >= 3"),
        (((4, 0), "circular"), InvalidProblem, "circular padding must be at most the input: 4 > 3"),
        (((1, 0), "reflect", 1.0), InvalidProblem, 'value belongs to mode "constant", got 1.0'),
        (((1, 0), "constant", None), TypeError, "value must be a number, got None"),
    ],
)
def test_pad_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        fastconv.pad(np.zeros((2, 3)), *arguments)


def test_padding_allocates_its_result_alone():
    x = np.ones((8, 1 << 16), np.float32)
    for mode, pad in (("constant", (1, 1)), ("constant", (1, -1)), ("constant", (0, 0)), ("replicate", (1, 1))):
        tracemalloc.start()
        y = fastconv.pad(x, pad, mode)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 1.1 * y.nbytes, (mode, pad)


def test_pad_backward_errors():
    with pytest.raises(InvalidProblem, match="smaller than pad"):
        fastconv.pad_backward(np.zeros((2, 3)), (2, 2))


@pytest.mark.peers
def test_as_torch():
    torch = pytest.importorskip("torch")
    for size, *arguments in WINDOWS:
        x = integers("x", (2, 3, *size), "float64", 9)
        expected = torch.nn.functional.unfold(torch.tensor(x), *arguments)
        assert_same_numbers(fastconv.unfold(x, *arguments), expected.numpy())
        y = integers("y", tuple(expected.shape), "float64", 9)
        images = torch.nn.functional.fold(torch.tensor(y), size, *arguments)
        assert_same_numbers(fastconv.fold(y, size, *arguments), images.numpy())
    for seed in range(60):
        rng = generator("pad", seed)
        mode = list(MODES)[seed % 4]
        pad = tuple(rng.integers(0 if mode == "circular" else -1, 4, 4).tolist())
        x = integers(seed, (2, 3, 5, 6), "float64", 9)
        leaf = torch.tensor(x, requires_grad=True)
        expected = torch.nn.functional.pad(leaf, pad, mode)
        y = fastconv.pad(x, pad, mode)
        assert_same_numbers(y, expected.detach().numpy())
        dy = integers("dy", y.shape, "float64", 9)
        expected.backward(torch.tensor(dy))
        assert_same_numbers(fastconv.pad_backward(dy, pad, mode), leaf.grad.numpy())
