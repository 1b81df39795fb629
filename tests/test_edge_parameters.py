"""Edge cases of parameters: docs/edge-cases.md says what each gets, and names its test here."""

import subprocess
import sys
from enum import IntEnum

import numpy as np
import pytest

import fastconv
from fastconv import ConvProblem, settings
from tests import oracle
from tests.calls import NAMES as CALLS
from tests.calls import algorithms, parameters, run, valid_call
from tests.checks import assert_same_numbers
from tests.copies import ROOT
from tests.small import NAMES, POOL_NAMES, B, W, X, Y, whole


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
    for change in ({"padding": huge}, {"dilation": huge}, {"padding": ((0, huge), (huge, 0))}):
        with pytest.raises((ValueError, MemoryError)):
            fastconv.conv2d(X, W, **change)
    for pool in (fastconv.max_pool2d, fastconv.avg_pool2d):
        with pytest.raises((ValueError, MemoryError)):
            pool(X, huge)


@pytest.mark.parametrize("scale", [1.7e308, 1e300, 1e17, (1.0, 1e30)])
def test_a_huge_scale_factor_is_refused(scale):
    for call in (
        lambda: fastconv.upsample(X, scale_factor=scale),
        lambda: fastconv.upsample_backward(X, X.shape, scale_factor=scale),
    ):
        with pytest.raises(ValueError, match=r"scale_factor must give|more than can be addressed") as said:
            call()
        assert len(str(said.value)) < 250


# -- Every int of every function --------------------------------------------------------------------

INTS = ("stride", "padding", "dilation", "groups", "kernel_size", "output_padding", "output_size", "size")


def ints_of(name):
    """Parameters of a valid call that are an int or several; those of a whole shape apart."""
    shapes = {"output_size"} if "unpool" in name else set()
    return [key for key in valid_call(name) if key in INTS and key not in shapes]


EVERY_INT = pytest.mark.parametrize(
    ("name", "parameter"), [(name, parameter) for name in CALLS for parameter in ints_of(name)]
)


def bent(name, parameter, value):
    return run(name, valid_call(name) | {parameter: value})


@EVERY_INT
def test_zero_and_negative_ints_are_refused(name, parameter):
    for value in (-1, -(2**70), *(() if "padding" in parameter else (0,))):
        with pytest.raises(ValueError, match=parameter.removesuffix("_size")):
            bent(name, parameter, value)


@EVERY_INT
def test_what_only_looks_like_an_int_is_refused(name, parameter):
    for value in (1.0, np.float64(2), "1", True, np.True_, 1j, object(), np.array([1.5]), {1: 1}):
        words = parameter == "padding" and isinstance(value, str) and not name.startswith(("conv_tr", "max_unp"))
        with pytest.raises(ValueError if words else TypeError, match=f"{parameter} must be"):
            bent(name, parameter, value)
    has_a_meaning = parameter in ("output_size", "size") or (parameter == "stride" and "pool" in name)
    if not has_a_meaning:
        with pytest.raises(TypeError, match=f"{parameter} must be an int, got None"):
            bent(name, parameter, None)


@EVERY_INT
def test_tuples_of_another_length_empty_or_nested_are_refused(name, parameter):
    for value in ((), [], (1,) * 5, ((1, 1), (1, 1), (1, 1), (1, 1)), ((1,),), (1, (1, 1), 1)):
        scalar = parameter == "groups" or (parameter == "size" and name.startswith("local"))
        with pytest.raises(TypeError if scalar else (ValueError, TypeError), match=parameter):
            bent(name, parameter, value)


@EVERY_INT
def test_numpy_integers_are_ints(name, parameter):
    plain, value = run(name, valid_call(name)), valid_call(name)[parameter]
    written = tuple(map(np.int32, value)) if isinstance(value, tuple) else np.int16(value)
    for actual, expected in zip(bent(name, parameter, written), plain, strict=True):
        assert_same_numbers(actual, expected)


class Whole(int):
    """Says of itself no more than an int does."""


class Steps(IntEnum):
    ONE = 1
    TWO = 2


def test_subclasses_of_int_are_ints():
    for step in (1, 2):
        expected = fastconv.conv2d(X, W, stride=step)
        for stride in (Whole(step), Steps(step), (Whole(step), Steps(step))):
            assert_same_numbers(fastconv.conv2d(X, W, stride=stride), expected)
    assert type(fastconv.ConvProblem("float32", Whole(1), 1, (1, 1), 1, (1, 1)).batch) is int
    with pytest.raises(TypeError, match=r"stride must be an int, got .*timedelta64"):
        fastconv.conv2d(X, W, stride=np.timedelta64(1))


ENDLESS = ([0] * 10**6, "a" * 10**6, (10**5000,) * 9, -(10**5000), [[0] * 10**5] * 9, {"a" * 10**6: 1}, np.zeros(10**6))


@pytest.mark.parametrize("name", CALLS)
def test_messages_stay_short_whatever_they_show(name):
    """Every parameter but the arrays; 10**5000 has more digits than Python prints."""
    call = valid_call(name)
    for parameter in parameters(name):
        if isinstance(call.get(parameter), np.ndarray) or parameter == "algorithm":
            continue
        for value in (*ENDLESS, 10**5000):
            message = refusal(name, call | {parameter: value})
            assert len(message) < 500, (parameter, message[:500])
            assert "Exceeds the limit" not in message, parameter


def refusal(name, arguments):
    """What a call is refused with, if it is."""
    try:
        run(name, arguments)
    except (ValueError, TypeError, MemoryError) as error:
        return str(error)
    return ""


def test_messages_of_texts_problems_and_settings_stay_short():
    plain = ("float32", 1, 1, (1, 1), 1, (1, 1))
    calls = [lambda value=value: fastconv.parse_problem(value) for value in ("a" * 10**6, f"f32_{'9' * 5000}")]
    for value in ENDLESS:
        calls += [lambda at=at, value=value: ConvProblem(*plain[:at], value, *plain[at + 1 :]) for at in range(6)]
        calls += [
            lambda key=key, value=value: ConvProblem(*plain, **{key: value})
            for key in ("stride", "pads", "dilation", "groups", "channels_last")
        ]
        calls += [
            lambda key=key, value=value: fastconv.use(**{key: value}).__enter__()
            for key in ("algorithm", "threads", "tolerance", "strict")
        ]
        calls += [
            lambda value=value: fastconv.output_size(value, 3, exact=True),
            lambda value=value: fastconv.output_size(7, 3, padding=value),
            lambda value=value: fastconv.output_size(7, 3, exact=value),
            lambda value=value: fastconv.plan_conv2d(value, W.shape),
            lambda value=value: fastconv.explain(X.shape, value),
            lambda value=value: fastconv.algorithms(value),
        ]
    for call in calls:
        with pytest.raises((ValueError, TypeError)) as said:
            call()
        assert len(str(said.value)) < 600, str(said.value)[:600]
        assert "Exceeds the limit" not in str(said.value)


@pytest.mark.parametrize("exact", ["no", 1, 0, None])
def test_exact_is_true_or_false(exact):
    with pytest.raises(TypeError, match="exact must be True or False"):
        fastconv.output_size(7, 2, 3, exact=exact)


@NAMES
@pytest.mark.parametrize("padding", [3, (3, 4), ((5, 0), (7, 9))], ids=str)
def test_windows_wholly_in_padding_give_the_bias(name, padding):
    """Padding may exceed the kernel; what sees nothing of the input is 0, and has no gradient."""
    pads = padding if isinstance(padding, tuple) else (padding, padding)
    (top, bottom), (left, right) = ((pad, pad) if isinstance(pad, int) else pad for pad in pads)
    x, w, b = X[:1, :, :2, :3], W, B
    y = fastconv.conv2d(x, w, b, padding=padding, algorithm=name)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    assert_same_numbers(y, fastconv.conv2d(padded, w, b, algorithm=name))
    assert_same_numbers(y[0, :, 0, 0], b)
    outside = np.zeros_like(y)
    outside[:, :, 0] = 5  # no window of that row sees the input
    dx, dw, db = fastconv.conv2d_backward(outside, x, w, padding=padding, algorithm=name)
    assert not dx.any()
    assert not dw.any()
    assert (db == 5 * y.shape[3]).all()


@POOL_NAMES
def test_the_stride_of_a_pool_is_its_kernel_unless_given(name):
    for pool in (fastconv.max_pool2d, fastconv.avg_pool2d):
        assert_same_numbers(pool(X, (3, 2), algorithm=name), pool(X, (3, 2), (3, 2), algorithm=name))
        assert_same_numbers(pool(X, (3, 2), None, algorithm=name), pool(X, (3, 2), (3, 2), algorithm=name))


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith(("max_pool", "avg_pool"))])
def test_padding_of_a_pool_is_at_most_half_its_kernel(name):
    run(name.removesuffix("_backward"), {"input": valid_call(name)["input"], "kernel_size": 3, "padding": 1})
    with pytest.raises(ValueError, match="pooling padding must be at most half the kernel: 2 > 3 // 2 = 1"):
        run(name, valid_call(name) | {"kernel_size": 3, "padding": 2})


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("avg_pool")])
def test_a_divisor_of_zero_is_refused(name):
    with pytest.raises(ValueError, match="divisor_override must not be 0"):
        run(name, valid_call(name) | {"divisor_override": 0})


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("conv_transpose")])
def test_output_padding_is_smaller_than_stride_or_dilation(name):
    for stride, dilation, extra in ((1, 1, 1), (2, 1, 2), (2, 3, 3), (1, 1, 2**62)):
        change = {"stride": stride, "dilation": dilation, "output_padding": extra}
        with pytest.raises(ValueError, match=rf"output_padding must be smaller .* {extra} >= max"):
            run(name, valid_call(name) | change)


@pytest.mark.parametrize("name", [name for name in CALLS if "algorithm" in parameters(name)])
def test_an_unknown_algorithm_is_refused_with_the_names(name):
    known = settings.known_names["conv" if name.startswith("conv") else "pool"]
    with pytest.raises(ValueError, match="unknown .* algorithm 'fft'; the names are auto, " + ", ".join(known)):
        run(name, valid_call(name) | {"algorithm": "fft"})
    for wrong in (3, ["naive"], b"naive"):
        with pytest.raises(TypeError, match="algorithm must be a name or None"):
            run(name, valid_call(name) | {"algorithm": wrong})


HUGE = """
import resource, sys
import numpy as np, fastconv
from tests.calls import NAMES, run, valid_call
name = sys.argv[1]
x = np.ones((1, 2, 6, 6), np.float32)
for kind in ("max", "avg"):  # compiles, where something does
    y = getattr(fastconv, kind + "_pool2d")(x, 2, 1, 1, algorithm=name)
    getattr(fastconv, kind + "_pool2d_backward")(y, x, 2, 1, 1, algorithm=name)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, -1))
for huge in (2**31 - 1, 2**31, 2**62):
    for kernel, padding in (((huge, 2), (huge // 2, 1)), ((2, huge), (1, huge // 2)), (huge, huge // 2)):
        for ceil_mode in (False, True):
            for kind in ("max", "avg"):
                how = {"kernel_size": kernel, "padding": padding, "ceil_mode": ceil_mode, "algorithm": name}
                try:
                    y = getattr(fastconv, kind + "_pool2d")(x, stride=3, **how)
                    dx = getattr(fastconv, kind + "_pool2d_backward")(y, x, stride=3, **how)
                except (ValueError, MemoryError):
                    continue
                right = 1 if kind == "max" else 0
                assert (abs(y - right) < 1e-6).all() and dx.shape == x.shape, (huge, kernel, kind)
    volume = np.ones((1, 1, 3, 3, 3), np.float32)
    try:
        assert (fastconv.max_pool3d(volume, (huge, 1, 1), 1, (huge // 2, 0, 0), algorithm=name) == 1).all()
    except (ValueError, MemoryError):
        pass
print("fine")
"""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(entry, marks=[pytest.mark.slow] if entry.startswith("numba") else [])  # it compiles ten seconds
        for entry in algorithms("max_pool2d")
    ],
)
def test_huge_windows_with_huge_padding_neither_hang_nor_overflow(name):
    """What lies wholly in the padding is not visited, element by element."""
    done = subprocess.run(
        [sys.executable, "-c", HUGE, name], cwd=ROOT, timeout=100, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stdout + done.stderr[-2000:]


HUGE_INTS = """
import resource, sys
import numpy as np, fastconv
from tests.calls import NAMES, run, valid_call
from tests.test_edge_parameters import ints_of
calls = {name: valid_call(name) for name in NAMES}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, -1))
for name, call in calls.items():
    for parameter in ints_of(name):
        for huge in (2**31 - 1, 2**31, 2**62, 2**70, 10**400):
            try:
                results = run(name, call | {parameter: huge})
            except (ValueError, MemoryError) as error:
                continue
            assert all(result is None or result.size < 10**6 for result in results), (name, parameter, huge)
            assert parameter in ("stride", "size", "padding", "dilation"), (name, parameter, huge)
for mode in ("reflect", "replicate", "circular"):
    for huge in (2**31 - 1, 2**31, 2**62):
        for call in (
            lambda: fastconv.pad(np.ones((1, 1, 2, 3)), (huge, 0), mode=mode),
            lambda: fastconv.conv2d(np.ones((1, 1, 2, 3)), np.ones((1, 1, 1, 1)), padding=(0, huge), padding_mode=mode),
        ):
            try:
                call()
            except (ValueError, MemoryError):
                continue
            raise AssertionError((mode, huge))
print("fine")
"""


def test_a_huge_int_anywhere_neither_hangs_nor_overflows():
    """A stride gives one window; the rest a ValueError or MemoryError: every int of every function in turn."""
    done = subprocess.run(
        [sys.executable, "-c", HUGE_INTS], cwd=ROOT, timeout=100, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stdout + done.stderr[-2000:]
