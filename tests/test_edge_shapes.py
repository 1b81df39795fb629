"""Edge cases of shapes: docs/edge-cases.md says what each gets, and names its test here."""

import numpy as np
import pytest

import fastconv
from fastconv import PoolProblem, parse_problem
from tests.calls import NAMES as CALLS
from tests.calls import RUNS, arrays, run, valid_call
from tests.checks import assert_same_numbers
from tests.small import DY, NAMES, POOL_NAMES, B, W, X, Y, whole


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


# -- Sizes beyond 32 bits ---------------------------------------------------------------------------


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


# -- Every function, with one shape bent --------------------------------------------------------------

#: Functions of images, which need channels; correlate2d takes matrices, pad and fold whatever there is.
OF_IMAGES = [name for name in CALLS if not name.startswith(("correlate", "convolve", "pad", "fold"))]


@pytest.mark.parametrize("axes", [1, 2, 3])
@NAMES
def test_a_kernel_as_large_as_the_padded_input_has_one_output(name, axes):
    """One more, and the formula is shown with its numbers."""
    conv, size = getattr(fastconv, f"conv{axes}d"), (5, 3, 4)[:axes]
    for kernel, padding, dilation in ((size, 0, 1), (tuple(n + 2 for n in size), 1, 1), ((3,) * axes, (0, 1, 1), 2)):
        pads = padding if isinstance(padding, int) else padding[:axes]
        if dilation > 1:
            size = (5, 3, 3)[:axes]
        x, w = whole("equal", 1, 2, *size), whole("kernel", 3, 2, *kernel)
        y = conv(x, w, padding=pads, dilation=dilation, algorithm=name)
        assert y.shape == (1, 3, *(1,) * axes)
        padded = np.pad(x, ((0, 0), (0, 0), *((pad, pad) for pad in ((pads,) * axes if pads in (0, 1) else pads))))
        taps = (slice(None), slice(None), *(slice(None, None, dilation),) * axes)
        assert_same_numbers(y.reshape(3), np.array([(padded[taps] * one).sum() for one in w], np.float32))
        formula = r"output size = floor\(\(\d \+ \d \+ \d - \d \* \(\d - 1\) - 1\) / 1\) \+ 1"
        with pytest.raises(ValueError, match=formula):
            conv(x[..., 1:], w, padding=pads, dilation=dilation, algorithm=name)


@POOL_NAMES
def test_a_window_as_large_as_the_padded_input_has_one_output(name):
    x = whole("equal", 1, 3, 4, 5)
    assert_same_numbers(fastconv.max_pool2d(x, (4, 5), 1, algorithm=name), x.max((2, 3), keepdims=True))
    assert fastconv.avg_pool2d(x, (6, 7), 1, 1, algorithm=name).shape == (1, 3, 1, 1)
    assert fastconv.max_pool2d(x, 2, 1, dilation=(3, 4), algorithm=name).shape == (1, 3, 1, 1)
    for pool in (fastconv.max_pool2d, fastconv.avg_pool2d):
        with pytest.raises(ValueError, match=r"floor\(\(4 \+ 0 \+ 0 - 1 \* \(5 - 1\) - 1\) / 1\) \+ 1 = 0"):
            pool(x, (5, 5), 1, algorithm=name)


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("conv") and name != "convolve2d"])
def test_shapes_that_disagree_are_refused(name):
    """Channels and groups of input and weight, and the length of the bias: both sides are shown."""
    call = valid_call(name)
    for key in {"weight", "weight_size", "input", "input_size"} & set(call):
        value = call[key]
        wrong = value[:, 1:] if isinstance(value, np.ndarray) else (value[0], value[1] + 1, *value[2:])
        with pytest.raises(ValueError, match=r"\(\d+,.*\).*\(\d+,.*\)|multiple of groups"):
            run(name, call | {key: wrong})
    with pytest.raises(ValueError, match="groups"):
        run(name, call | {"groups": 3})
    if "bias" in call:
        for wrong in (call["bias"][1:], call["bias"][:, None], call["bias"][:1], np.float32(1)):
            with pytest.raises((ValueError, TypeError), match=r"bias must have shape \(6,\)"):
                run(name, call | {"bias": wrong})
    if "grad_output" in call:
        for wrong in (call["grad_output"][..., 1:], call["grad_output"][:1], call["grad_output"][:, 1:]):
            with pytest.raises(ValueError, match="grad_output must have shape"):
                run(name, call | {"grad_output": wrong})


@pytest.mark.parametrize("name", OF_IMAGES)
def test_wrong_numbers_of_dimensions_are_refused(name):
    call = valid_call(name)
    for key, array in arrays(call).items():
        if key == "bias":  # of one dimension, which is the last test's
            continue
        more = [] if name.startswith("local_response") else [array[None, None, None]]  # it takes three and more
        for wrong in (array.reshape(-1), array.reshape(-1)[0], *more):
            with pytest.raises((ValueError, TypeError), match=key):
                run(name, call | {key: wrong})


#: Functions that take images without a batch: all but those that follow torch in needing one.
UNBATCHED = [
    name
    for name in CALLS
    if not name.endswith(("d_input", "d_weight"))
    and not name.startswith(("correlate", "convolve", "pad", "local_response", "upsample", "fractional"))
]


@RUNS
def test_one_image_without_a_batch_comes_back_without(name, algorithm):
    if name not in UNBATCHED:
        assert name not in ("conv2d", "max_pool2d")
        return
    call = valid_call(name, batch=1)
    batched = run(name, call, algorithm)
    single = {key: value[0] if key in ("input", "grad_output", "indices") else value for key, value in call.items()}
    for actual, expected in zip(run(name, single, algorithm), batched, strict=True):
        gradient_of_parameters = actual.ndim == expected.ndim
        assert_same_numbers(actual, expected if gradient_of_parameters else expected[0])


@RUNS
def test_an_empty_batch_of_every_function(name, algorithm):
    """No images out of none; gradients of weight and bias are exactly zero."""
    call = valid_call(name, batch=0)
    if name.startswith(("correlate", "convolve")):
        assert "input" not in call, "a matrix is no batch"
        return
    for empty, some in zip(run(name, call, algorithm), run(name, valid_call(name), algorithm), strict=True):
        if empty.shape == some.shape:
            assert not empty.any()
            assert "_backward" in name or "_weight" in name
        else:
            assert empty.shape == (0, *some.shape[1:])
        assert empty.dtype == some.dtype


@pytest.mark.parametrize("name", OF_IMAGES)
def test_no_channels_are_refused(name):
    call = valid_call(name)
    none = {key: value[:, :0] for key, value in arrays(call).items() if key in ("input", "grad_output", "indices")}
    with pytest.raises(ValueError):
        run(name, call | none)
    if "weight" in call:
        for wrong in (call["weight"][:0], call["weight"][:, :0]):
            with pytest.raises(ValueError):
                run(name, call | {"weight": wrong})


@NAMES
def test_pixels_that_a_stride_leaves_out_have_gradient_zero(name):
    """The output size is rounded down; what no window sees gets exactly 0, also beside NaN."""
    x, w = np.ones((1, 1, 8, 9), np.float32), np.full((1, 1, 2, 3), np.nan, np.float32)
    y = fastconv.conv2d(x, w, stride=(3, 4), algorithm=name)
    assert y.shape == (1, 1, 3, 2)
    dx = fastconv.conv2d_backward(np.ones_like(y), x, w, stride=(3, 4), algorithm=name)[0][0, 0]
    seen = np.zeros((8, 9), bool)
    for row in (0, 3, 6):
        for column in (0, 4):
            seen[row : row + 2, column : column + 3] = True
    assert (np.isnan(dx) == seen).all()
    assert (dx[~seen] == 0).all()
    with pytest.raises(ValueError, match="stride 4 does not fit"):
        fastconv.output_size((8, 9), (2, 3), (3, 4), exact=True)


@POOL_NAMES
def test_the_average_of_a_long_window_is_exact(name):
    """A float32 sum of ones stands still at 2**24."""
    length = 70_001 if name == "naive" else 16_777_217
    x = np.ones((1, 1, 1, length), np.float32)
    assert fastconv.avg_pool2d(x, (1, length), algorithm=name).item() == 1
    assert fastconv.avg_pool2d(x, (1, length), divisor_override=1, algorithm=name).item() == np.float32(length)


@pytest.mark.parametrize("name", ["conv_transpose2d", "conv_transpose2d_backward"])
def test_a_transposed_convolution_names_what_is_wrong(name):
    """In words of its own input and output, which are those of the convolution it transposes the other way round."""
    f32 = np.float32
    for x, w, how, message in (
        ((1, 2, 0, 4), (2, 3, 3, 3), {}, "^input size must be at least 1, got input of shape"),
        ((1, 2, 4, 4), (2, 3, 0, 3), {}, "^kernel size must be at least 1"),
        ((1, 0, 5, 5), (0, 2, 3, 3), {}, "^in_channels must be at least 1"),
        ((1, 4, 5, 5), (4, 0, 3, 3), {}, "^out_channels must be at least 1"),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"groups": 3}, "^in_channels must be a multiple of groups: 4 is not one of 3"),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"groups": 0}, "^groups must be at least 1"),
        ((1, 4, 5, 5), (3, 2, 3, 3), {}, "has 4 channels, but weight of shape .* takes 3"),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"stride": 2**62}, "^the output, of shape .* more than can be addressed"),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"stride": 2**40}, "^the output, of shape .* more than can be addressed"),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"stride": 2**63}, r"^stride must be at most 2\*\*62"),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"padding": 4}, r"^output size \(5 - 1\) \* 1 .* = -1 is not positive"),
    ):
        arrays = {"input": np.ones(x, f32), "weight": np.ones(w, f32)}
        if name.endswith("backward"):
            arrays["grad_output"] = np.ones((1, 1, 1, 1), f32)
        with pytest.raises(fastconv.InvalidProblem, match=message):
            getattr(fastconv, name)(**arrays, **how)
