"""The street door: parameters, shapes, dtypes, layouts, out=, padding, and the questions one can ask before computing.

What calls are refused with which message is in test_properties.py; the settings are in test_settings.py.
"""

import warnings

import numpy as np
import pytest

import fastconv
from fastconv import ConvProblem, InvalidProblem, PoolProblem, UnsupportedProblem, parse_problem
from fastconv.planner import REGISTRY
from tests import oracle
from tests.checks import assert_close, assert_same_bits, assert_same_numbers
from tests.problems import generator

NAMES = pytest.mark.parametrize("name", [entry.name for entry in REGISTRY["conv"]])
POOL_NAMES = pytest.mark.parametrize("name", [entry.name for entry in REGISTRY["pool"]])


def whole(key, *shape, dtype=np.float32):
    """Integers from -4 to 4."""
    return generator("api", key).integers(-4, 5, shape).astype(dtype)


X, W, B = whole("x", 2, 4, 9, 11), whole("w", 6, 4, 3, 3), whole("b", 6)
PROBLEM = ConvProblem("float32", 2, 4, (9, 11), 6, (3, 3), pads=((1, 1), (1, 1)))
Y = oracle.conv_forward(PROBLEM, X, W, B).astype(np.float32)
DY = whole("dy", *Y.shape)


# -- Forms of arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "padding",
    [1, (1, 1), [1, 1], ((1, 1), (1, 1)), [[1, 1], [1, 1]], "same", "SAME", np.int64(1), (np.int8(1), np.uint16(1))],
    ids=repr,
)
@pytest.mark.parametrize("stride", [1, (1, 1), [np.int32(1), 1]], ids=repr)
def test_every_form_of_a_parameter(padding, stride):
    assert_same_numbers(fastconv.conv2d(X, W, B, stride, padding, np.int64(1), np.int64(1)), Y)


def test_valid_is_no_padding():
    problem = ConvProblem("float32", 2, 4, (9, 11), 6, (3, 3), stride=(2, 1))
    expected = oracle.conv_forward(problem, X, W).astype(np.float32)
    assert_same_numbers(fastconv.conv2d(X, W, stride=(2, 1), padding="valid"), expected)
    assert_same_numbers(fastconv.conv2d(X, W, stride=(2, 1), padding="Valid"), expected)


@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_puts_a_surplus_zero_at_the_end(size, kernel, stride, dilation):
    """ceil(size / stride) outputs; as ONNX SAME_UPPER, worked out here from its text."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    low, high = total // 2, total - total // 2
    x, w = whole("same", 1, 1, 1, size), whole("same", 1, 1, 1, kernel)
    problem = ConvProblem("float32", 1, 1, (1, size), 1, (1, kernel), (1, stride), ((0, 0), (low, high)), (1, dilation))
    actual = fastconv.conv2d(x, w, stride=(1, stride), padding="same", dilation=(1, dilation))
    assert actual.shape == (1, 1, 1, out)
    assert_same_numbers(actual, oracle.conv_forward(problem, x, w).astype(np.float32))


@pytest.mark.parametrize("huge", [2**31 - 1, 2**31, 2**62])
@NAMES
def test_a_huge_stride_gives_one_output(name, huge):
    y = fastconv.conv2d(X, W, B, stride=huge, padding=1, algorithm=name)
    assert_same_numbers(y, Y[:, :, :1, :1])
    assert fastconv.conv2d_backward(y, X, W, stride=huge, padding=1, algorithm=name)[0].shape == X.shape


@POOL_NAMES
def test_a_huge_pooling_stride_gives_one_output(name):
    for pool in (fastconv.max_pool2d, fastconv.avg_pool2d):
        assert pool(X, 3, 2**62, algorithm=name).shape == (2, 4, 1, 1)
        assert pool(X, 3, 2**62, ceil_mode=True, algorithm=name).shape == (2, 4, 1, 1)


@pytest.mark.parametrize("huge", [2**31 - 1, 2**31, 2**62])
def test_huge_padding_dilation_and_kernels_neither_hang_nor_overflow(huge):
    for parameters in ({"padding": huge}, {"dilation": huge}, {"padding": ((0, huge), (huge, 0))}):
        with pytest.raises((ValueError, MemoryError)):
            fastconv.conv2d(X, W, **parameters)
    for pool in (fastconv.max_pool2d, fastconv.avg_pool2d):
        with pytest.raises((ValueError, MemoryError)):
            pool(X, huge)


def test_sizes_are_64_bit():
    """No memory is touched: a problem knows its sizes beyond 2^31 elements."""
    problem = parse_problem("f32_n1c3h65536w65536_k8r1s1")
    assert problem.macs == 3 * 8 * 2**32
    assert problem.bytes == 4 * (11 * 2**32 + 24)
    assert fastconv.output_size(2**40, 3, 2, 1) == 2**39
    pool = PoolProblem("max", "float32", 1, 1, (1, 16_777_217), (1, 16_777_217), (1, 1))
    assert pool.output_shape == (1, 1, 1, 1)


@POOL_NAMES
def test_a_pool_longer_than_float32_can_count(name):
    if name == "naive":
        length, places = 70_001, (0, 66_000, 70_000)
    else:
        length, places = 16_777_217, (0, 2**24 - 1, 2**24)
    x = np.zeros((1, 1, 1, length), np.float32)
    for place in places:
        x[..., place] = 1
        assert fastconv.max_pool2d(x, (1, length), return_indices=True, algorithm=name)[1].item() == place
        x[..., place] = 0


# -- Shapes -----------------------------------------------------------------------------------------


@NAMES
def test_unbatched_images_come_back_unbatched(name):
    assert_same_numbers(fastconv.conv2d(X[0], W, B, padding=1, algorithm=name), Y[0])
    one = fastconv.conv2d_backward(DY[:1], X[:1], W, padding=1, algorithm=name)
    dx, dw, db = fastconv.conv2d_backward(DY[0], X[0], W, padding=1, algorithm=name)
    assert_same_numbers(dx, one[0][0])
    assert_same_numbers(dw, one[1])
    assert_same_numbers(db, one[2])


@POOL_NAMES
def test_unbatched_pools(name):
    y, where = fastconv.max_pool2d(X[1], 3, 2, return_indices=True, algorithm=name)
    all_y, all_where = fastconv.max_pool2d(X, 3, 2, return_indices=True, algorithm=name)
    assert_same_numbers(y, all_y[1])
    assert_same_numbers(where, all_where[1])
    dy = whole("pool", *y.shape)
    dx = fastconv.max_pool2d_backward(dy, X[1], 3, 2, algorithm=name)
    assert dx.shape == X[1].shape
    assert_same_numbers(fastconv.max_pool2d_backward(dy, X[1], 3, 2, indices=where, algorithm=name), dx)
    assert fastconv.avg_pool2d(X[1], 3, 2, algorithm=name).shape == y.shape
    assert fastconv.avg_pool2d_backward(dy, X[1], 3, 2, algorithm=name).shape == X[1].shape
    assert fastconv.avg_pool2d_backward(dy, X[1].shape, 3, 2, algorithm=name).shape == X[1].shape


@NAMES
def test_an_empty_batch(name):
    x, dy = X[:0], DY[:0]
    assert_same_numbers(fastconv.conv2d(x, W, B, padding=1, algorithm=name), Y[:0])
    dx, dw, db = fastconv.conv2d_backward(dy, x, W, padding=1, algorithm=name)
    assert_same_numbers(dx, x)
    assert_same_numbers(dw, np.zeros_like(W))
    assert_same_numbers(db, np.zeros_like(B))
    plan = fastconv.plan_conv2d(x.shape, W.shape, padding=1, direction="backward_weight")
    assert_same_numbers(plan.run(dy, x), np.zeros_like(W))


@POOL_NAMES
def test_an_empty_batch_of_pools(name):
    y, where = fastconv.max_pool2d(X[:0], 2, return_indices=True, algorithm=name)
    assert y.shape == where.shape == (0, 4, 4, 5)
    assert fastconv.max_pool2d_backward(y, X[:0], 2, algorithm=name).shape == X[:0].shape
    assert fastconv.max_pool2d_backward(y, X[:0], 2, indices=where, algorithm=name).shape == X[:0].shape
    assert fastconv.avg_pool2d(X[:0], 2, algorithm=name).shape == y.shape
    assert fastconv.avg_pool2d_backward(y, X[:0], 2, algorithm=name).shape == X[:0].shape


@NAMES
def test_unused_pixels_get_gradient_zero(name):
    dx, _, _ = fastconv.conv2d_backward(np.ones((1, 1, 1, 1)), np.ones((1, 1, 5, 5)), np.ones((1, 1, 3, 3)), stride=3,
                                        algorithm=name)  # fmt: skip
    assert dx[0, 0].tolist() == [[1, 1, 1, 0, 0]] * 3 + [[0] * 5] * 2


# -- Dtypes and layouts -----------------------------------------------------------------------------


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    shown = raw.view(array.dtype).reshape(array.shape)
    shown[...] = array
    assert not shown.flags.aligned
    return shown


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def on_disk(array, tmp_path, mode):
    file = tmp_path / f"{array.shape}{mode}".replace("+", "p")
    array.tofile(file)
    return np.memmap(file, array.dtype, mode, shape=array.shape)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1),
    "channels moved": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1),
    "negative": lambda a: np.ascontiguousarray(a[:, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1],
    "stepped": lambda a: np.repeat(np.repeat(a, 2, 3), 3, 1)[:, ::3, :, ::2],
    "offset": lambda a: np.pad(a, 3)[3:-3, 3:-3, 3:-3, 3:-3],
    "read-only": read_only,
    "unaligned": unaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "subclass": lambda a: a.view(type("Sub", (np.ndarray,), {})),
}
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def unchanged(*arrays):
    """A function that says whether they hold what they hold now."""
    before = [array.tobytes() for array in arrays]
    return lambda: [array.tobytes() for array in arrays] == before


@NAMES
@LAYOUT
def test_odd_layouts(name, layout):
    x, w, dy = layout(X), layout(W), layout(DY)
    same = unchanged(x, w, dy)
    assert_same_numbers(fastconv.conv2d(x, w, B, padding=1, algorithm=name), Y)
    expected = fastconv.conv2d_backward(DY, X, W, padding=1, algorithm=name)
    for actual, right in zip(fastconv.conv2d_backward(dy, x, w, padding=1, algorithm=name), expected, strict=True):
        assert_same_numbers(actual, right)
        assert not any(np.shares_memory(actual, array) for array in (x, w, dy))
    assert same()


@POOL_NAMES
@LAYOUT
def test_odd_layouts_of_pools(name, layout):
    x = layout(X)
    y, where = fastconv.max_pool2d(X, 3, 2, return_indices=True, algorithm=name)
    dy = whole("dy", *y.shape)
    odd_dy, same = layout(dy), unchanged(x)
    actual, odd_where = fastconv.max_pool2d(x, 3, 2, return_indices=True, algorithm=name)
    assert_same_numbers(actual, y)
    assert_same_numbers(odd_where, where)
    dx = fastconv.max_pool2d_backward(dy, X, 3, 2, algorithm=name)
    assert_same_numbers(fastconv.max_pool2d_backward(odd_dy, x, 3, 2, algorithm=name), dx)
    odd_where = where[::-1].copy()[::-1]
    assert_same_numbers(fastconv.max_pool2d_backward(odd_dy, x, 3, 2, indices=odd_where, algorithm=name), dx)
    assert_same_numbers(fastconv.avg_pool2d(x, 3, 2, algorithm=name), fastconv.avg_pool2d(X, 3, 2, algorithm=name))
    dx = fastconv.avg_pool2d_backward(dy, X, 3, 2, algorithm=name)
    assert_same_numbers(fastconv.avg_pool2d_backward(odd_dy, x, 3, 2, algorithm=name), dx)
    assert same()


@NAMES
def test_broadcast_views(name):
    """Stride 0: the gradient of a sum arrives like that."""
    ones = np.broadcast_to(np.float32(1), DY.shape)
    expected = fastconv.conv2d_backward(np.ones_like(DY), X, W, padding=1, algorithm=name)
    for actual, right in zip(fastconv.conv2d_backward(ones, X, W, padding=1, algorithm=name), expected, strict=True):
        assert_same_numbers(actual, right)
    row = np.broadcast_to(X[:1], X.shape)
    assert_same_numbers(fastconv.conv2d(row, W, B, padding=1, algorithm=name), np.broadcast_to(Y[:1], Y.shape))


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_mapped_files(tmp_path, mode):
    x, w = on_disk(X, tmp_path, mode), on_disk(W, tmp_path, mode)
    y = fastconv.conv2d(x, w, B, padding=1)
    assert type(y) is np.ndarray
    assert_same_numbers(y, Y)


def test_lists_of_floats():
    y = fastconv.conv2d([[[[1.0, 2.0], [3.0, 4.0]]]], [[[[1.0]]]], [0.5])
    assert_same_numbers(y, np.array([[[[1.5, 2.5], [3.5, 4.5]]]]))
    with pytest.raises(TypeError, match="int64"):
        fastconv.conv2d([[[[1, 2], [3, 4]]]], [[[[1.0]]]])


@NAMES
def test_float16_is_computed_in_float32(name):
    x, w, b, dy = (array.astype(np.float16) for array in (X, W, B, DY))
    assert_same_numbers(fastconv.conv2d(x, w, b, padding=1, algorithm=name), Y.astype(np.float16))
    big = np.full((1, 64, 1, 1), 100, np.float16)
    small = np.full((1, 64, 1, 1), 2.0**-7, np.float16)
    assert fastconv.conv2d(big, small, algorithm=name).item() == 50, "float16 sums would round on the way"
    for half, single in zip(
        fastconv.conv2d_backward(dy, x, w, padding=1, algorithm=name),
        fastconv.conv2d_backward(DY, X, W, padding=1, algorithm=name),
        strict=True,
    ):
        assert_same_numbers(half, single.astype(np.float16))


@POOL_NAMES
def test_float16_pools(name):
    x = X.astype(np.float16)
    y, where = fastconv.max_pool2d(x, 2, return_indices=True, algorithm=name)
    right, there = fastconv.max_pool2d(X, 2, return_indices=True, algorithm=name)
    assert_same_numbers(y, right.astype(np.float16))
    assert_same_numbers(where, there)
    assert_same_numbers(fastconv.avg_pool2d(x, 2, algorithm=name), fastconv.avg_pool2d(X, 2).astype(np.float16))
    assert fastconv.max_pool2d_backward(y, x, 2, algorithm=name).dtype == np.float16


def last(array):
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


@NAMES
def test_nhwc(name):
    y = fastconv.conv2d(last(X), W, B, padding=1, data_format="NHWC", algorithm=name)
    assert_same_numbers(y, last(Y))
    assert y.flags.c_contiguous
    dx, dw, db = fastconv.conv2d_backward(DY, X, W, padding=1, algorithm=name)
    actual = fastconv.conv2d_backward(last(DY), last(X), W, padding=1, data_format="NHWC", algorithm=name)
    for one, other in zip(actual, (last(dx), dw, db), strict=True):
        assert_same_numbers(one, other)
    assert_same_numbers(fastconv.conv2d(last(X)[0], W, B, padding=1, data_format="NHWC", algorithm=name), last(Y)[0])
    assert_same_numbers(fastconv.conv2d(X, W, B, padding=1, data_format="NCHW", algorithm=name), Y)


@POOL_NAMES
def test_nhwc_pools(name):
    """Indices are flat spatial offsets in both layouts."""
    y, where = fastconv.max_pool2d(X, 3, 2, 1, return_indices=True, algorithm=name)
    out = fastconv.max_pool2d(last(X), 3, 2, 1, return_indices=True, data_format="NHWC", algorithm=name)
    assert_same_numbers(out[0], last(y))
    assert_same_numbers(out[1], last(where))
    dy = 36 * whole("dy", *y.shape)  # divided by 9, 6 and 4 exactly
    dx = fastconv.max_pool2d_backward(dy, X, 3, 2, 1, indices=where, algorithm=name)
    actual = fastconv.max_pool2d_backward(
        last(dy), last(X), 3, 2, 1, indices=last(where), data_format="NHWC", algorithm=name
    )
    assert_same_numbers(actual, last(dx))
    actual = fastconv.avg_pool2d(last(X), 3, 2, 1, data_format="NHWC", algorithm=name)
    assert_same_numbers(actual, last(fastconv.avg_pool2d(X, 3, 2, 1, algorithm=name)))
    dy *= 36  # a multiple of every divisor: layouts may add the shares of a position in another order
    actual = fastconv.avg_pool2d_backward(last(dy), last(X), 3, 2, 1, data_format="NHWC", algorithm=name)
    assert_same_numbers(actual, last(fastconv.avg_pool2d_backward(dy, X, 3, 2, 1, algorithm=name)))


# -- out= -------------------------------------------------------------------------------------------

OUTS = {
    "plain": lambda: np.full(Y.shape, np.nan, np.float32),
    "fortran": lambda: np.full(Y.shape, np.nan, np.float32, order="F"),
    "stepped": lambda: np.full((2, 6, 18, 22), np.nan, np.float32)[:, :, ::2, ::2],
    "negative": lambda: np.full(Y.shape, np.nan, np.float32)[:, ::-1, :, ::-1],
    "transposed": lambda: np.full(Y.shape[::-1], np.nan, np.float32).T,
    "unaligned": lambda: unaligned(np.full(Y.shape, np.nan, np.float32)),
}


@NAMES
@pytest.mark.parametrize("make", OUTS.values(), ids=OUTS.keys())
def test_out_is_filled_and_returned(name, make):
    out = make()
    assert fastconv.conv2d(X, W, B, padding=1, out=out, algorithm=name) is out
    assert_same_numbers(out, Y)
    single = make()[0]
    assert fastconv.conv2d(X[0], W, B, padding=1, out=single, algorithm=name) is single
    assert_same_numbers(single, Y[0])


@NAMES
def test_out_leaves_its_surroundings_alone(name):
    base = np.full((2, 6, 20, 24), 7, np.float32)
    out = base[:, :, 1:19:2, 1:23:2]
    fastconv.conv2d(X, W, B, padding=1, out=out, algorithm=name)
    assert_same_numbers(out, Y)
    out[...] = 7
    assert (base == 7).all()


@POOL_NAMES
def test_out_of_pools(name):
    right = fastconv.max_pool2d(X, 2, algorithm=name)
    out = np.full((2, 4, 4, 10), np.nan, np.float32)[..., ::2]
    assert fastconv.max_pool2d(X, 2, out=out, algorithm=name) is out
    assert_same_numbers(out, right)
    returned, _ = fastconv.max_pool2d(X, 2, out=out, return_indices=True, algorithm=name)
    assert returned is out
    assert fastconv.avg_pool2d(X, 2, out=out, algorithm=name) is out
    assert_same_numbers(out, fastconv.avg_pool2d(X, 2, algorithm=name))
    half = np.empty(right.shape, np.float16)
    assert fastconv.max_pool2d(X.astype(np.float16), 2, out=half, algorithm=name) is half


def test_out_that_cannot_be():
    square, one = whole("s", 1, 1, 4, 4), np.ones((1, 1, 1, 1), np.float32)
    shared = np.broadcast_to(np.float32(0), (1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"read-only|writable"):
        fastconv.conv2d(square, one, out=shared)
    shared.flags.writeable = False
    twice = np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (1, 1, 4, 4), (0, 0, 0, 4))
    with pytest.raises(ValueError, match="twice"):
        fastconv.conv2d(square, one, out=twice)
    sliding = np.lib.stride_tricks.as_strided(np.zeros(7, np.float32), (1, 1, 4, 4), (28, 28, 4, 4))
    with pytest.raises(ValueError, match="twice"):
        fastconv.conv2d(square, one, out=sliding)
    for overlapping in (square, square[:, :, ::-1], square.reshape(4, 4).T[None, None]):
        with pytest.raises(ValueError, match="overlap"):
            fastconv.conv2d(square, one, out=overlapping)
    weight = np.ones((1, 1, 4, 4), np.float32)
    with pytest.raises(ValueError, match="overlap"):
        fastconv.conv2d(whole("x", 1, 1, 7, 7), weight, out=weight)
    with pytest.raises(ValueError, match="overlap"):
        fastconv.max_pool2d(square, 1, out=square)


def test_out_between_the_elements_of_an_input_does_not_overlap():
    base = np.zeros((1, 1, 4, 8), np.float32)
    x, out = base[..., ::2], base[..., 1::2]
    x[...] = 3
    fastconv.conv2d(x, np.ones((1, 1, 1, 1), np.float32), out=out)
    assert (base == 3).all()


# -- Activation, indices, masks ---------------------------------------------------------------------


@NAMES
def test_activations(name):
    assert_same_numbers(fastconv.conv2d(X, W, B, padding=1, activation="relu", algorithm=name), Y.clip(0))
    doubled = fastconv.conv2d(X, W, B, padding=1, activation=lambda y: 2 * y, algorithm=name)
    assert_same_numbers(doubled, 2 * Y)


@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        (lambda y: None, TypeError, "activation must return an array .*float32, got NoneType"),
        (lambda y: 1.0, TypeError, "activation must return an array .*float32, got float"),
        (lambda y: y.tolist(), TypeError, "activation must return an array .*float32, got list"),
        (lambda y: y * 1j, TypeError, "activation must return an array .*float32, got complex64 array"),
        (lambda y: y.astype(float), TypeError, "activation must return an array .*float32, got float64 array"),
        (lambda y: y > 0, TypeError, "activation must return an array .*float32, got bool array"),
        (lambda y: y[:1], ValueError, r"shape it is given, \(2, 4, 9, 11\), got \(1, 4, 9, 11\)"),
        (lambda y: y[None], ValueError, r"shape it is given, \(2, 4, 9, 11\), got \(1, 2, 4, 9, 11\)"),
        (lambda y: X, ValueError, "activation must return an array of its own, got memory of an input"),
        (lambda y: X[:, ::-1], ValueError, "activation must return an array of its own, got memory of an input"),
    ],
)
@pytest.mark.parametrize("with_out", [False, True])
def test_what_an_activation_returns_is_checked(activation, error, message, with_out):
    out = np.empty_like(X) if with_out else None
    with pytest.raises(error, match=message):
        fastconv.conv2d(X, W[:4], padding=1, activation=activation, out=out)


@pytest.mark.parametrize(
    "activation",
    [
        lambda y: np.multiply(y, 2, out=y),
        lambda y: (2 * y[:, ::-1])[:, ::-1],
        lambda y: np.broadcast_to(np.float32(7), y.shape),
        lambda y: y[::-1],
        lambda y: (2 * y).view(type("Sub", (np.ndarray,), {})),
    ],
)
def test_the_result_of_an_activation_becomes_a_plain_array_of_its_own(activation):
    y, out = fastconv.conv2d(X, W, B, padding=1, activation=activation), np.empty_like(Y)
    assert type(y) is np.ndarray
    assert y.flags.carray
    assert_same_numbers(y, np.ascontiguousarray(activation(Y.copy())).view(np.ndarray))
    assert fastconv.conv2d(X, W, B, padding=1, activation=activation, out=out) is out
    assert_same_numbers(out, y)


@NAMES
def test_masked_gradients_are_none_and_the_others_the_same(name):
    whole_answer = fastconv.conv2d_backward(DY, X, W, padding=1, algorithm=name)
    for mask in np.ndindex(2, 2, 2):
        wanted = tuple(map(bool, mask))
        found = fastconv.conv2d_backward(DY, X, W, padding=1, output_mask=wanted, algorithm=name)
        for want, actual, right in zip(wanted, found, whole_answer, strict=True):
            if want:
                assert_same_numbers(actual, right)
            else:
                assert actual is None
    for mask in ((True, True), (1, 0, 1), None, "abc"):
        with pytest.raises((TypeError, ValueError), match="output_mask"):
            fastconv.conv2d_backward(DY, X, W, padding=1, output_mask=mask)


def test_the_functions_of_torch_nn_grad():
    dx, dw, _ = fastconv.conv2d_backward(DY, X, W, padding=1)
    assert_same_numbers(fastconv.conv2d_input(X.shape, W, DY, padding=1), dx)
    assert_same_numbers(fastconv.conv2d_weight(X, W.shape, DY, padding=1), dw)
    with pytest.raises(ValueError, match="input_size must be a shape of 4 ints"):
        fastconv.conv2d_input((4, 9, 11), W, DY, padding=1)
    with pytest.raises(ValueError, match=r"grad_output must have shape \(2, 6, 9, 11\)"):
        fastconv.conv2d_weight(X, W.shape, DY[:, :, 1:], padding=1)
    with pytest.raises(ValueError, match=r"grad_output must have shape \(2, 6, 9, 11\) .* got \(2, 6, 9, 10\)"):
        fastconv.conv2d_backward(DY[..., 1:], X, W, padding=1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda i: i.astype(np.int32), TypeError, "indices must be an int64 array, got int32"),
        (lambda i: i.astype(float), TypeError, "indices must be an int64 array, got float64"),
        (lambda i: i[:, :, 1:], ValueError, r"indices must have shape \(2, 4, 4, 5\)"),
        (lambda i: i - 200, ValueError, r"indices must be in \[0, 99\), got -"),
        (lambda i: i + 99, ValueError, r"indices must be in \[0, 99\), got \d+ to \d+"),
        (lambda i: i * 2**40, ValueError, r"indices must be in \[0, 99\)"),
    ],
)
@POOL_NAMES
def test_indices_of_users_are_checked(name, change, error, message):
    y, where = fastconv.max_pool2d(X, 2, return_indices=True)
    with pytest.raises(error, match=message):
        fastconv.max_pool2d_backward(y, X, 2, indices=change(where), algorithm=name)


@POOL_NAMES
def test_indices_of_users_may_be_others_than_the_maxima(name):
    """Any position of the plane, also outside of its window: the gradient goes where it is told."""
    dy = np.ones((1, 1, 2, 2))
    dx = fastconv.max_pool2d_backward(dy, np.zeros((1, 1, 4, 4)), 2, indices=np.full((1, 1, 2, 2), 15), algorithm=name)
    assert dx.sum() == dx[0, 0, 3, 3] == 4


# -- Contents may change between calls --------------------------------------------------------------


@NAMES
def test_nothing_is_cached_by_the_identity_of_an_array(name):
    x, w, b = X.copy(), W.copy(), B.copy()
    first = fastconv.conv2d(x, w, b, padding=1, algorithm=name)
    w *= 2
    b *= 2
    second = fastconv.conv2d(x, w, b, padding=1, algorithm=name)
    assert_same_numbers(second, 2 * first)
    x[...] = 0
    assert_same_numbers(fastconv.conv2d(x, w, padding=1, algorithm=name), np.zeros_like(Y))
    assert_same_numbers(first, Y)


# -- Padding modes ----------------------------------------------------------------------------------

MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@NAMES
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_padding_modes(name, mode, layout):
    """A convolution of what np.pad makes, and gradients adjoint to it."""
    padded = np.pad(X, ((0, 0), (0, 0), (2, 1), (0, 3)), mode=MODES[mode])
    expected = fastconv.conv2d(padded, W, B, stride=2, algorithm=name)
    x, arguments = X, {"stride": 2, "padding": ((2, 1), (0, 3)), "padding_mode": mode, "algorithm": name}
    if layout == "NHWC":
        x, expected = last(X), last(expected)
    y = fastconv.conv2d(x, W, B, data_format=layout, **arguments)
    assert_same_numbers(y, expected)
    dy = whole("dy", *y.shape)
    dx, dw, _ = fastconv.conv2d_backward(dy, x, W, data_format=layout, **arguments)
    linear = fastconv.conv2d(x, W, data_format=layout, **arguments)
    assert np.vdot(dy, linear) == np.vdot(dx, x) == np.vdot(dw, W)
    assert dx.shape == x.shape


# -- Worked examples of the lectures ----------------------------------------------------------------


def test_output_sizes_of_the_lectures():
    assert fastconv.output_size(32, 5, padding=2) == 32
    assert [fastconv.output_size(7, 3, stride) for stride in (1, 2)] == [5, 3]
    with pytest.raises(ValueError, match=r"stride 3 does not fit: .* = 2\.33"):
        fastconv.output_size(7, 3, 3, exact=True)
    assert fastconv.output_size(7, 3, 3) == 2
    assert fastconv.output_size(7, 3, 2, exact=True) == 3
    assert fastconv.output_size(5, 3, 3) == 1
    assert fastconv.output_size(fastconv.output_size(32, 5), 5) == 24
    for kernel in (1, 3, 5, 7):
        assert fastconv.output_size(32, kernel, padding=(kernel - 1) // 2) == 32
    assert fastconv.output_size((227, 224), (11, 11), 4) == (55, 54)
    assert fastconv.output_size((112, 112), 3, 2, 1, ceil_mode=True) == (57, 57)


@NAMES
def test_arithmetic_of_the_lectures(name):
    x = np.array([[200, 150, 150], [100, 50, 100], [25, 25, 10]], float)[None, None]
    sobel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], float)[None, None]
    assert fastconv.conv2d(x, sobel, algorithm=name).item() == 65
    assert fastconv.conv2d(x, sobel, np.array([1.0]), algorithm=name).item() == 66
    problem = ConvProblem("float32", 1, 3, (32, 32), 10, (5, 5), pads=((2, 2), (2, 2)))
    assert problem.output_shape == (1, 10, 32, 32)
    assert np.prod(problem.weight_shape) + 10 == 760
    assert np.prod(ConvProblem("float32", 1, 3, (9, 9), 4, (3, 3)).weight_shape) + 4 == 112


@POOL_NAMES
def test_pooling_of_the_lectures(name):
    x = np.array([[200, 150, 150], [100, 50, 100], [25, 25, 10]], float)[None, None]
    assert fastconv.max_pool2d(x, 3, algorithm=name).item() == 200
    assert fastconv.avg_pool2d(x, 3, algorithm=name).item() == 90


@NAMES
def test_linear_layer_of_the_lectures(name):
    """A linear layer is a pointwise convolution; the product printed on the slide is wrong."""
    x = np.array([[2.0, 1, -3], [-3, 4, 2]])
    w = np.array([[3.0, 2, 1, -1], [2, 1, 3, 2], [3, 2, 1, -2]])
    right = np.array([[-1.0, -1, 2, 6], [5, 2, 11, 7]])
    images, filters = x[:, :, None, None], np.ascontiguousarray(w.T)[:, :, None, None]
    assert_same_numbers(fastconv.conv2d(images, filters, algorithm=name)[:, :, 0, 0], right)
    dy = whole("linear", 2, 4, 1, 1, dtype=float)
    dx, dw, db = fastconv.conv2d_backward(dy, images, filters, algorithm=name)
    assert_same_numbers(dx[:, :, 0, 0], dy[:, :, 0, 0] @ w.T)
    assert_same_numbers(dw[:, :, 0, 0], (x.T @ dy[:, :, 0, 0]).T)
    assert_same_numbers(db, dy[:, :, 0, 0].sum(0))


# -- Local response normalisation -------------------------------------------------------------------


def plain_norm(x, size, alpha, beta, k):
    out = np.empty_like(x)
    for n, c, h, w in np.ndindex(x.shape):
        first, end = max(0, c - size // 2), min(x.shape[1], c + (size - 1) // 2 + 1)
        total = sum(x[n, other, h, w] ** 2 for other in range(first, end))
        out[n, c, h, w] = x[n, c, h, w] / (k + alpha / size * total) ** beta
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize(("alpha", "beta", "k"), [(1e-4, 0.75, 1.0), (0.5, 0.5, 2.0), (2.0, 1.0, 0.5)])
def test_local_response_norm(size, alpha, beta, k):
    x = generator("lrn").standard_normal((2, 7, 3, 2))
    expected = plain_norm(x, size, alpha, beta, k)
    assert_close(fastconv.local_response_norm(x, size, alpha, beta, k), expected, 1e-14)
    single = fastconv.local_response_norm(x.astype(np.float32), size, alpha, beta, k)
    assert_close(single, expected, 1e-6, dtype=np.float32)
    dy = generator("lrn dy").standard_normal(x.shape)
    dx = fastconv.local_response_norm_backward(dy, x, size, alpha, beta, k)
    differences = np.empty_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        change = plain_norm(x + step, size, alpha, beta, k) - plain_norm(x - step, size, alpha, beta, k)
        differences[place] = np.vdot(dy, change) / 2e-6
    assert_close(dx, differences, 1e-7)


def test_local_response_norm_refuses():
    with pytest.raises(InvalidProblem, match="at least 3 dimensions"):
        fastconv.local_response_norm(np.zeros((3, 3)), 2)
    with pytest.raises(InvalidProblem, match="size must be at least 1, got 0"):
        fastconv.local_response_norm(np.zeros((1, 3, 3)), 0)
    with pytest.raises(InvalidProblem, match=r"size must be at most 2\*\*62"):
        fastconv.local_response_norm(np.zeros((1, 3, 3)), 10**400)
    with pytest.raises(InvalidProblem, match="at least 1 channel"):
        fastconv.local_response_norm(np.zeros((1, 0, 3)), 2)
    for wrong in (2.0, "2", True, None):
        with pytest.raises(TypeError, match=f"size must be an int, got {wrong!r}"):
            fastconv.local_response_norm(np.zeros((1, 3, 3)), wrong)
    with pytest.raises(InvalidProblem, match="grad_output must have shape"):
        fastconv.local_response_norm_backward(np.zeros((1, 3, 2)), np.zeros((1, 3, 3)), 2)


@pytest.mark.parametrize("name", ["alpha", "beta", "k"])
@pytest.mark.parametrize(
    "value", [None, "1", 1j, True, [1.0], np.ones(3), np.nan, np.inf, 10**400], ids=lambda value: f"{value}"[:9]
)
def test_factors_of_local_response_norm_are_finite_numbers(name, value):
    x = np.ones((1, 3, 3))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    error, message = (InvalidProblem, f"{name} must be") if number else (TypeError, f"{name} must be a number")
    with pytest.raises(error, match=message):
        fastconv.local_response_norm(x, 2, **{name: value})
    with pytest.raises(error, match=message):
        fastconv.local_response_norm_backward(x, x, 2, **{name: value})


# -- Errors are of two families ---------------------------------------------------------------------


def test_families_of_errors():
    assert issubclass(InvalidProblem, ValueError)
    assert issubclass(UnsupportedProblem, NotImplementedError)
    assert not issubclass(InvalidProblem, UnsupportedProblem)


def test_results_own_their_memory_and_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = fastconv.conv2d(X, W, B, padding=1)
        pooled = fastconv.max_pool2d(X, 2)
    for result in (y, pooled):
        assert result.flags.writeable
        assert result.flags.c_contiguous
    assert_same_bits(y, Y)


@pytest.mark.parametrize("stride", [True, 1.0, np.float32(1), "1", None])
def test_what_equals_a_known_argument_is_not_taken_for_it(stride):
    """Calls are remembered by their arguments, and 1 == 1.0 == True."""
    images, filters = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 2, 2), np.float32)
    fastconv.conv2d(images, filters, stride=1)
    for argument in ("stride", "dilation", "groups", "padding"):
        with pytest.raises((TypeError, ValueError)):
            fastconv.conv2d(images, filters, **{argument: stride})
