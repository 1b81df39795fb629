"""Edge cases of dtypes and memory layouts: docs/edge-cases.md says what each gets, and names its test here."""

import numpy as np
import pytest

import fastconv
from tests.calls import NAMES as CALLS
from tests.calls import RUNS, arrays, parameters, run, valid_call
from tests.checks import assert_same_numbers
from tests.small import DY, NAMES, POOL_NAMES, B, W, X, Y, last, whole


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


# -- Indices ----------------------------------------------------------------------------------------


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


# -- Every function, with one array bent --------------------------------------------------------------

VIEWS = {
    "fortran": np.asfortranarray,
    "negative strides": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "a slice with steps": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "unaligned": unaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "another shape of stride 0": lambda a: np.lib.stride_tricks.as_strided(a, (1, *a.shape), (0, *a.strides))[0],
}


@RUNS
def test_every_function_takes_every_view(name, algorithm):
    """Inputs, weights, biases, gradients, indices and samples; all of a call at once."""
    call = valid_call(name)
    expected = run(name, call, algorithm)
    for view in VIEWS.values():
        for actual, right in zip(run(name, call | changed(call, view), algorithm), expected, strict=True):
            assert actual.dtype.isnative
            assert_same_numbers(actual, right)


def changed(call, change):
    return {key: change(array) for key, array in arrays(call).items()}


@RUNS
def test_every_function_takes_constants_of_stride_zero(name, algorithm):
    """As the gradient of a sum arrives: every element is one place in memory."""
    call = valid_call(name)
    constants = {
        key: array.flat[0] if array.dtype == np.int64 else np.float32(0.5) for key, array in arrays(call).items()
    }
    full = {key: np.full(call[key].shape, value) for key, value in constants.items()}
    views = {key: np.broadcast_to(value, call[key].shape) for key, value in constants.items()}
    for actual, right in zip(run(name, call | views, algorithm), run(name, call | full, algorithm), strict=True):
        assert_same_numbers(actual, right)


@pytest.mark.parametrize("name", [name for name in CALLS if not name.startswith(("correlate", "convolve"))])
def test_other_dtypes_are_refused_for_every_array(name):
    """Integers, bool, complex, object, masked, and another one than that of the input."""
    call = valid_call(name)
    for key, array in arrays(call).items():
        others = [np.int32, bool, np.complex64, object, np.longdouble, "U3"]
        if array.dtype == np.int64:
            wrong = [array.astype(other) for other in (np.int32, np.uint64, float, bool)]
        else:
            wrong = [array.astype(other) for other in others]
            wrong += [array.astype(np.float64)] * (len(arrays(call)) > ("indices" in call) + 1)
        for bent in (*wrong, np.ma.masked_array(array)):
            with pytest.raises(TypeError, match=r"must be|must not be"):
                run(name, call | {key: bent})
        masked = [np.ma.masked_array(entry, mask=True) for entry in array]
        for bent in (masked, tuple(masked), [np.ma.masked, 1.0], [[1.0], [[np.ma.masked]]]):
            with pytest.raises(TypeError, match=f"{key} must not be a masked array, nor hold one"):
                run(name, call | {key: bent})


def test_a_wrong_dtype_is_compared_with_the_argument_that_it_must_match():
    """What is wrong is never said to be right: "must be float32, got float32"."""
    x, w, y = (np.ones(shape, np.float32) for shape in ((1, 1, 4, 4), (1, 1, 3, 3), (1, 1, 2, 2)))
    plan = fastconv.plan_conv2d(x.shape, w.shape)
    for call, message in (
        (lambda: plan.run(np.ma.array(x), w), "input must not be a masked array"),
        (lambda: plan.run(x, w, bias=np.ma.array(w[0, 0, 0, :1])), "bias must not be a masked array"),
        (lambda: fastconv.avg_pool2d_backward(y, x.astype("float64"), 2), "grad_output's dtype float32, got float64"),
        (lambda: fastconv.upsample_backward(x, y.astype("float64"), 4), "grad_output's dtype float32, got float64"),
        (lambda: fastconv.conv2d_input(x.shape, w, y.astype("float64")), "weight's dtype float32, got float64"),
        (lambda: fastconv.avg_pool2d_backward(y, (1, 1, 4.0, 4), 2), "input shape must be an int, got 4.0"),
        (lambda: fastconv.avg_pool2d_backward(y, (1, 1, "4", 4), 2), "input shape must be an int, got '4'"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize("name", ["correlate2d", "convolve2d"])
def test_matrices_of_integers_and_bool_are_computed_as_scipy_does(name):
    left, right = np.array([[200, 100], [50, 25]], np.uint8), np.array([[1, 2]], np.uint8)
    result = getattr(fastconv, name)(left, right)
    assert result.dtype == np.uint8, "modulo 256, as in C"
    assert getattr(fastconv, name)(left.astype(int), np.array([[True, False]])).dtype == np.int64
    with pytest.raises(TypeError, match="in1 and in2 must not both be of dtype bool"):
        getattr(fastconv, name)(left > 99, right > 1)


@RUNS
def test_inputs_stay_as_they_are_and_results_are_of_their_own(name, algorithm):
    call = valid_call(name)
    same = unchanged(*arrays(call).values())
    results = [result for result in run(name, call, algorithm) if result is not None]
    for result in results:
        assert type(result) is np.ndarray
        assert result.flags.carray
        others = (*arrays(call).values(), *(other for other in results if other is not result))
        assert not any(np.shares_memory(result, array) for array in others)
    assert same()


#: Calls whose result equals their input, where a view would be the shortest way.
IDENTITIES = {
    "max_pool2d": {"kernel_size": 1}, "avg_pool2d": {"kernel_size": 1}, "lp_pool2d": {"norm_type": 1, "kernel_size": 1},
    "adaptive_avg_pool2d": {"output_size": None}, "adaptive_max_pool2d": {"output_size": None},
    "upsample": {"size": (9, 11)}, "pad": {"pad": (0, 0)}, "unfold": {"kernel_size": 1},
    "local_response_norm": {"size": 1, "alpha": 0.0},
    "fractional_max_pool2d": {"kernel_size": 1, "output_size": (9, 11)},
}  # fmt: skip


@pytest.mark.parametrize("name", IDENTITIES)
def test_what_returns_its_input_returns_a_copy(name):
    x = np.abs(X)
    y = getattr(fastconv, name)(x, **IDENTITIES[name])
    assert_same_numbers(y.reshape(x.shape), x)
    assert not np.shares_memory(x, y)
    y[...] = 0
    assert x.any()


@pytest.mark.parametrize("name", [name for name in CALLS if "out" in parameters(name)])
def test_out_of_every_function(name):
    call = valid_call(name)
    (right,) = run(name, call)
    for make in (np.empty, lambda shape, dtype: np.empty((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]):
        out = make(right.shape, right.dtype)
        assert run(name, call | {"out": out})[0] is out
        assert_same_numbers(np.ascontiguousarray(out), right)
    read_only_out, shared = np.empty_like(right), np.empty(right.size + call["input"].size, np.float32)
    read_only_out.flags.writeable = False
    inside = shared[: call["input"].size].reshape(call["input"].shape)
    inside[...] = call["input"]
    for wrong, error, message in (
        (right[..., 1:].copy(), ValueError, "out must have the result's shape"),
        (right[None], ValueError, "out must have the result's shape"),
        (right.astype(np.float64), TypeError, "out must be a float32 array, got float64"),
        (right.tolist(), TypeError, "out must be a float32 array, got list"),
        (read_only_out, ValueError, "out must be writable"),
        (shared[1 : 1 + right.size].reshape(right.shape), ValueError, "out must not overlap an input"),
        (np.lib.stride_tricks.as_strided(shared, right.shape, (0,) * right.ndim), ValueError, "out must not hold"),
    ):
        with pytest.raises(error, match=message):
            run(name, call | {"input": inside, "out": wrong})


class _Refusing(np.ndarray):
    """An array that assigns nothing."""

    def __setitem__(self, key, value):
        raise AssertionError("never called")


def test_out_may_be_a_subclass_but_not_masked():
    x, w = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 1, 1), np.float32)
    out = np.zeros((1, 1, 4, 8), np.float32)[..., ::2].view(_Refusing)
    assert fastconv.conv2d(x, w, out=out) is out
    assert (np.asarray(out) == 1).all()
    masked = np.ma.masked_array(np.zeros((1, 1, 4, 4), np.float32), mask=True)
    with pytest.raises(TypeError, match="masked"):
        fastconv.conv2d(x, w, out=masked)
    with pytest.raises(TypeError, match="input must not be a masked array"):
        fastconv.plan_conv2d(x.shape, w.shape).run(masked, w)


@pytest.mark.parametrize("extent", [2**31, 2**61, 2**63, 2**64])
def test_a_gradient_of_an_input_beyond_memory_is_an_error(extent):
    for function in (fastconv.upsample_backward, fastconv.adaptive_avg_pool2d_backward):
        arguments = {"size": 3} if function is fastconv.upsample_backward else {"output_size": 3}
        with pytest.raises((ValueError, MemoryError)):
            function(np.ones((1, 2, 3, 3), np.float32), (1, 2**20, extent, 3), **arguments)
