"""Hypothesis: problems valid by construction against the oracle, invalid ones by named mutation, texts read back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import ConvProblem, InvalidProblem, PoolProblem, parse_problem
from fastconv.algorithm import Direction
from fastconv.planner import REGISTRY
from fastconv.problem import window_extent
from tests import oracle
from tests.checks import (
    DIRECT,
    assert_right,
    assert_same_numbers,
    run_conv,
    run_pool_backward,
    run_pool_forward,
    skip_unless_expected_to_run,
)
from tests.problems import conv_operands, integers, pool_input

CONV = pytest.mark.parametrize("algorithm", DIRECT, ids=lambda algorithm: algorithm.name)
POOL = pytest.mark.parametrize("algorithm", REGISTRY["pool"], ids=lambda algorithm: algorithm.name)

#: The same examples in every run, a bounded number of them, and no clock.
steady = settings(
    derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)

dtypes = st.sampled_from(["float32", "float64"])


@st.composite
def windows(draw, *, pads_up_to=None, dilated=True):
    """(size, kernel, stride, pads, dilation) of one axis, such that at least one window fits."""
    kernel = draw(st.integers(1, 5))
    dilation = draw(st.integers(1, 3)) if dilated else 1
    most = pads_up_to(kernel) if pads_up_to else kernel * dilation + 1
    low, high = draw(st.integers(0, most)), draw(st.integers(0, most))
    least = max(window_extent(kernel, dilation) - low - high, 1)
    size = least + draw(st.integers(0, 12))
    return size, kernel, draw(st.integers(1, 7)), (low, high), dilation


@st.composite
def conv_problems(draw):
    rows, columns = draw(windows()), draw(windows())
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    problem = ConvProblem(
        draw(dtypes), draw(st.integers(0, 3)), groups * draw(st.integers(1, 6)), (rows[0], columns[0]),
        groups * draw(st.integers(1, 6)), (rows[1], columns[1]), (rows[2], columns[2]), (rows[3], columns[3]),
        (rows[4], columns[4]), groups, draw(st.booleans()),
    )  # fmt: skip
    while problem.macs > 10_000 and problem.batch > 1:
        problem = replace(problem, batch=problem.batch - 1)
    if problem.macs > 20_000:
        problem = replace(problem, in_channels=groups, out_channels=groups)
    return problem


@st.composite
def pool_problems(draw):
    kind = draw(st.sampled_from(["max", "avg"]))
    rows, columns = (draw(windows(pads_up_to=lambda kernel: kernel // 2, dilated=kind == "max")) for _ in range(2))
    average = {}
    if kind == "avg":
        average = {
            "count_include_pad": draw(st.booleans()),
            "divisor_override": draw(st.sampled_from([None, None, 1, 2, 7, -3])),
        }
    return PoolProblem(
        kind, draw(dtypes), draw(st.integers(0, 2)), draw(st.integers(1, 9)), (rows[0], columns[0]),
        (rows[1], columns[1]), (rows[2], columns[2]), (rows[3], columns[3]), (rows[4], columns[4]),
        ceil_mode=draw(st.booleans()), channels_last=draw(st.booleans()), **average,
    )  # fmt: skip


# -- Valid problems ---------------------------------------------------------------------------------


@CONV
@steady
@given(conv_problems(), st.integers(1, 3))
def test_convolution(algorithm, problem, threads):
    skip_unless_expected_to_run(algorithm, replace(problem, batch=0), Direction.FORWARD)
    if problem.batch == 0:  # functional answers these itself: test_edge_shapes.py
        return
    data = conv_operands(problem)
    x, w, dy = data["input"], data["weight"], data["grad_output"]
    output = run_conv(algorithm, problem, Direction.FORWARD, x, w, bias=data["bias"], threads=threads)
    expected = oracle.conv_forward(problem, x, w, data["bias"]).astype(problem.dtype)
    assert_right(algorithm, problem, Direction.FORWARD, output, expected)
    dx = run_conv(algorithm, problem, Direction.BACKWARD_INPUT, dy, w, threads=threads)
    expected = oracle.conv_backward_input(problem, dy, w).astype(problem.dtype)
    assert_right(algorithm, problem, Direction.BACKWARD_INPUT, dx, expected, "grad_input")
    dw = run_conv(algorithm, problem, Direction.BACKWARD_WEIGHT, dy, x, threads=threads)
    expected = oracle.conv_backward_weight(problem, dy, x).astype(problem.dtype)
    assert_right(algorithm, problem, Direction.BACKWARD_WEIGHT, dw, expected, "grad_weight")


@POOL
@steady
@given(pool_problems(), st.sampled_from(["integers", "ties", "special"]), st.integers(1, 3))
def test_pooling(algorithm, problem, values, threads):
    if problem.batch == 0:
        return
    skip_unless_expected_to_run(algorithm, replace(problem, batch=0), Direction.FORWARD)
    x = pool_input(problem, values)
    if problem.kind == "max":
        maxima = oracle.max_forward(problem, x)
        output, indices = run_pool_forward(algorithm, problem, x, with_indices=True, threads=threads)
        assert_same_numbers(output, maxima.values.astype(problem.dtype))
        assert_same_numbers(indices, maxima.indices, "indices")
        dy = integers("dy", problem.output_shape, problem.dtype, 99)
        dx = run_pool_backward(algorithm, problem, dy, input=x, threads=threads)
        assert_same_numbers(dx, oracle.max_backward(problem, dy, maxima.indices).astype(problem.dtype))
    else:
        output, _ = run_pool_forward(algorithm, problem, x, threads=threads)
        assert_same_numbers(output, oracle.avg_forward(problem, x).astype(problem.dtype))
        multiples = integers("dy", (*problem.output_shape,), problem.dtype, 9)
        scale = oracle.divisors(problem)[..., None] if problem.channels_last else oracle.divisors(problem)
        dy = (multiples * scale).astype(problem.dtype)
        dx = run_pool_backward(algorithm, problem, dy, threads=threads)
        assert_same_numbers(dx, oracle.avg_backward(problem, dy).astype(problem.dtype), "grad_input")


@steady
@given(st.one_of(conv_problems(), pool_problems()))
def test_a_problem_reads_back_from_its_text(problem):
    text = str(problem)
    again = parse_problem(text)
    assert again == problem
    assert hash(again) == hash(problem)
    assert str(again) == text
    assert again.out_size == problem.out_size


@steady
@given(windows(pads_up_to=lambda kernel: kernel // 2), st.booleans())
def test_output_size_counts_the_windows(axis, ceil_mode):
    """Against the definition: start after start, one more while it is allowed."""
    size, kernel, stride, (low, high), dilation = axis
    extent = 1 + sum(dilation for _ in range(kernel - 1))
    starts = [start for start in range(0, size + low + high, stride) if start + extent <= size + low + high]
    count = len(starts)
    if ceil_mode and starts[-1] + extent < size + low + high and count * stride < size + low:
        count += 1
    assert fastconv.output_size(size, kernel, stride, [(low, high)], dilation, ceil_mode) == count


@steady
@given(windows(), st.data())
def test_same_keeps_the_size(axis, data):
    """padding="same": ceil(size / stride) outputs, the surplus zero at the end, no zero too many."""
    size, kernel, stride, _, dilation = axis
    x = np.zeros((1, 1, size, 1))
    arguments = {"stride": (stride, 1), "dilation": (dilation, 1)}
    output = fastconv.conv2d(x, np.zeros((1, 1, kernel, 1)), padding="same", **arguments)
    assert output.shape == (1, 1, -(-size // stride), 1)


# -- Invalid problems: each mutation of a valid call names its argument and value --------------------

FIELD_MUTATIONS = {
    "no batch": ({"batch": -1}, "batch must be at least 0, got -1"),
    "no input channels": ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
    "no output channels": ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
    "negative groups": ({"groups": -2}, "groups must be at least 1, got -2"),
    "zero groups": ({"groups": 0}, "groups must be at least 1, got 0"),
    "groups that do not divide": ({"groups": 10_007}, r"in_channels must be a multiple of groups: \d+ .* 10007"),
    "zero stride": ({"stride": (1, 0)}, r"stride must be at least 1, got \(1, 0\)"),
    "negative dilation": ({"dilation": (-1, -1)}, "dilation must be at least 1, got -1"),
    "zero kernel": ({"kernel": (0, 1)}, r"kernel size must be at least 1, got \(0, 1\)"),
    "no pixels": ({"in_size": (0, 4)}, r"input size must be at least 1, got \(0, 4\)"),
    "negative padding": ({"pads": ((0, 0), (0, -1))}, r"padding must be at least 0, got \(0, 0, 0, -1\)"),
    "too few strides": ({"stride": (1,)}, r"stride must have one entry for each of the 2 spatial axes, got \(1,\)"),
    "too many kernels": ({"kernel": (1, 1, 1)}, r"kernel must have one entry .* got \(1, 1, 1\)"),
    "too many axes": ({"in_size": (1, 1, 1, 1)}, r"2 or 3 spatial axes, got input size \(1, 1, 1, 1\)"),
    "another dtype": ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
    "kernel over input": ({"kernel": (99, 1), "pads": ((3, 4), (0, 0)), "dilation": (1, 1)}, r"size 99 .*\+ 3 \+ 4"),
    "padding without end": ({"pads": ((2**62, 0), (9, 9))}, "padded input of shape .* would take .* bytes"),
    "batch without end": ({"batch": 2**62}, "would take .* bytes"),
    "kernel without end": ({"kernel": (2**62, 1)}, f"kernel size {2**62}"),
    "dilation without end": ({"kernel": (2, 2), "dilation": (2**62, 1)}, f"dilation {2**62}"),
}  # fmt: skip


@pytest.mark.parametrize(("mutation", "message"), FIELD_MUTATIONS.values(), ids=FIELD_MUTATIONS.keys())
@settings(steady, max_examples=10)
@given(problem=conv_problems())
def test_mutated_problems_are_invalid(mutation, message, problem):
    with pytest.raises(InvalidProblem, match=message):
        replace(problem, **mutation)


POOL_MUTATIONS = {
    "another kind": ({"kind": "min"}, 'kind must be "max" or "avg", got \'min\''),
    "no channels": ({"channels": 0}, "channels must be at least 1, got 0"),
    "padding over half the kernel": ({"kernel": (3, 3), "pads": ((0, 2), (0, 0))}, "half the kernel: 2 > 3 // 2 = 1"),
    "divisor zero": ({"divisor_override": 0}, "divisor_override|belong to average"),
    "zero stride": ({"stride": (0, 0)}, "stride must be at least 1, got 0"),
    "negative batch": ({"batch": -3}, "batch must be at least 0, got -3"),
    "kernel over input": ({"kernel": (99, 99), "pads": ((0, 0), (0, 0))}, "kernel size 99"),
}


@pytest.mark.parametrize(("mutation", "message"), POOL_MUTATIONS.values(), ids=POOL_MUTATIONS.keys())
@settings(steady, max_examples=10)
@given(problem=pool_problems())
def test_mutated_pools_are_invalid(mutation, message, problem):
    with pytest.raises(InvalidProblem, match=message):
        replace(problem, **mutation)


def valid_call():
    return {"input": np.zeros((2, 4, 6, 7), np.float32), "weight": np.zeros((6, 2, 3, 3), np.float32), "groups": 2}


CALL_MUTATIONS = {
    "stride zero": ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    "stride negative": ({"stride": (1, -1)}, ValueError, r"stride must be at least 1, got \(1, -1\)"),
    "dilation zero": ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
    "groups zero": ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
    "groups negative": ({"groups": -1}, ValueError, "groups must be at least 1, got -1"),
    "groups of another weight": ({"groups": 4}, ValueError, r"\(2, 4, 6, 7\) has 4 channels.*\(6, 2, 3, 3\).*groups=4"),
    "padding negative": ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    "padding word": ({"padding": "full"}, ValueError, "padding must be .*got 'full'"),
    "padding long": ({"padding": (1, 1, 1)}, ValueError, r"padding .* 2 ints.* got \(1, 1, 1\)"),
    "padding pairs": ({"padding": ((1, 1),)}, ValueError, r"one \(low, high\) pair .* got \(\(1, 1\),\)"),
    "padding triple": ({"padding": ((1, 1, 1), (1, 1, 1))}, ValueError, r"one \(low, high\) pair"),
    "padding mixed": ({"padding": (1, (1, 1))}, ValueError, r"one \(low, high\) pair"),
    "padding empty": ({"padding": ()}, ValueError, r"padding .* got \(\)"),
    "padding float": ({"padding": 1.0}, TypeError, "padding must be an int, got 1.0"),
    "padding None": ({"padding": None}, TypeError, "padding must be an int, got None"),
    "padding float pair": ({"padding": ((0, 1.5), (0, 0))}, TypeError, "padding must be an int, got 1.5"),
    "stride empty": ({"stride": ()}, ValueError, r"stride .* got \(\)"),
    "stride long": ({"stride": (1, 1, 1)}, ValueError, r"stride .* got \(1, 1, 1\)"),
    "stride nested": ({"stride": ((1, 1), (1, 1))}, ValueError, "stride .* got"),
    "stride float": ({"stride": 1.0}, TypeError, "stride must be an int, got 1.0"),
    "stride str": ({"stride": "1"}, TypeError, "stride must be an int, got '1'"),
    "stride bool": ({"stride": True}, TypeError, "stride must be an int, got True"),
    "stride None": ({"stride": None}, TypeError, "stride must be an int, got None"),
    "dilation float": ({"dilation": (1, 2.0)}, TypeError, "dilation must be an int, got 2.0"),
    "groups float": ({"groups": 2.0}, TypeError, "groups must be an int, got 2.0"),
    "groups bool": ({"groups": True}, TypeError, "groups must be an int, got True"),
    "kernel over input": ({"dilation": 3}, ValueError, r"floor\(\(6 \+ 0 \+ 0 - 3 \* \(3 - 1\) - 1\) / 1\) \+ 1 = 0"),
    "dilation without end": ({"dilation": 2**62}, ValueError, f"dilation {2**62}"),
    "padding without end": ({"padding": 2**62}, ValueError, "bytes"),
    "input dtype": ({"input": np.zeros((2, 4, 6, 7), np.int32)}, TypeError, "input must be of dtype .*int32"),
    "input bool": ({"input": np.zeros((2, 4, 6, 7), bool)}, TypeError, "input must be of dtype .*bool"),
    "input complex": ({"input": np.zeros((2, 4, 6, 7), complex)}, TypeError, "input must be of dtype .*complex128"),
    "input object": ({"input": np.zeros((2, 4, 6, 7), object)}, TypeError, "input must be of dtype .*object"),
    "input masked": ({"input": np.ma.zeros((2, 4, 6, 7))}, TypeError, "input must not be a masked array"),
    "input longdouble": ({"input": np.zeros((2, 4, 6, 7), np.longdouble)}, TypeError, "input must be of dtype"),
    "input unknown": ({"input": object()}, TypeError, "input must be an array, got object"),
    "input ragged": ({"input": [[1.0], [1.0, 2.0]]}, ValueError, "inhomogeneous"),
    "input None": ({"input": None}, TypeError, "input must be an array, got NoneType"),
    "weight dtype": ({"weight": np.zeros((6, 2, 3, 3))}, TypeError, "weight must be of .*float32, got float64"),
    "weight None": ({"weight": None}, TypeError, "weight must be an array, got NoneType"),
    "input dimensions": ({"input": np.zeros((6, 7), np.float32)}, ValueError, r"input must have 4 .*\(6, 7\)"),
    "input 5-D": ({"input": np.zeros((1, 1, 1, 6, 7), np.float32)}, ValueError, "input must have 4 dimensions"),
    "weight dimensions": ({"weight": np.zeros((6, 2, 3), np.float32)}, ValueError, r"weight must have 4 .*\(6, 2, 3\)"),
    "channels": ({"input": np.zeros((2, 5, 6, 7), np.float32)}, ValueError, r"\(2, 5, 6, 7\) has 5 channels"),
    "no channels": (
        {"input": np.zeros((2, 0, 6, 7), np.float32), "weight": np.zeros((6, 0, 3, 3), np.float32)},
        ValueError, "in_channels must be at least 1, got 0",
    ),
    "no filters": ({"weight": np.zeros((0, 2, 3, 3), np.float32)}, ValueError, "out_channels must be at least 1"),
    "no taps": ({"weight": np.zeros((6, 2, 0, 3), np.float32)}, ValueError, r"kernel size .* got \(0, 3\)"),
    "no pixels": ({"input": np.zeros((2, 4, 0, 7), np.float32)}, ValueError, r"input size .* got \(0, 7\)"),
    "filters of no group": ({"weight": np.zeros((5, 2, 3, 3), np.float32)}, ValueError, "out_channels must be a mul"),
    "bias length": ({"bias": np.zeros(5, np.float32)}, ValueError, r"bias must have shape \(6,\).* got \(5,\)"),
    "bias dimensions": ({"bias": np.zeros((6, 1), np.float32)}, ValueError, r"bias must have .* got \(6, 1\)"),
    "bias dtype": ({"bias": np.zeros(6)}, TypeError, "bias must be of .*float32, got float64"),
    "data_format": ({"data_format": "CHWN"}, ValueError, 'data_format must be "NCHW" or "NHWC", got \'CHWN\''),
    "padding_mode": ({"padding_mode": "mirror"}, ValueError, "padding_mode must be .*got 'mirror'"),
    "activation": ({"activation": "gelu"}, ValueError, "activation must be .*relu.*got 'gelu'"),
    "algorithm": ({"algorithm": "fft"}, ValueError, "unknown conv algorithm 'fft'; the names are auto, .*naive"),
    "algorithm type": ({"algorithm": 3}, TypeError, "algorithm must be a name or None, got 3"),
    "algorithm list": ({"algorithm": ["naive"]}, TypeError, "algorithm must be a name or None"),
    "reflect too far": ({"padding_mode": "reflect", "padding": 6}, ValueError, "reflect .*6 >= 6"),
    "circular too far": ({"padding_mode": "circular", "padding": 7}, ValueError, "circular .*7 > 6"),
    "out shape": ({"out": np.zeros((2, 6, 4, 4), np.float32)}, ValueError, r"out must have .* got \(2, 6, 4, 4\)"),
    "out dtype": ({"out": np.zeros((2, 6, 4, 5))}, TypeError, "out must be a float32 array, got float64"),
    "out list": ({"out": []}, TypeError, "out must be a float32 array, got list"),
}  # fmt: skip


@pytest.mark.parametrize(("mutation", "error", "message"), CALL_MUTATIONS.values(), ids=CALL_MUTATIONS.keys())
def test_mutated_calls_raise(mutation, error, message):
    assert fastconv.conv2d(**valid_call()).shape == (2, 6, 4, 5)
    with pytest.raises(error, match=message):
        fastconv.conv2d(**(valid_call() | mutation))


@pytest.mark.parametrize("name", [entry.name for entry in DIRECT])
@pytest.mark.parametrize(
    "mutation", ["stride zero", "padding negative", "kernel over input", "channels", "weight dtype"]
)
def test_no_algorithm_is_asked_about_an_invalid_call(name, mutation):
    change, error, message = CALL_MUTATIONS[mutation]
    with pytest.raises(error, match=message):
        fastconv.conv2d(**(valid_call() | change), algorithm=name)


POOL_CALL_MUTATIONS = {
    "kernel zero": ({"kernel_size": 0}, ValueError, "kernel size must be at least 1, got 0"),
    "kernel float": ({"kernel_size": 2.0}, TypeError, "kernel_size must be an int, got 2.0"),
    "kernel None": ({"kernel_size": None}, TypeError, "kernel_size must be an int, got None"),
    "kernel long": ({"kernel_size": (2, 2, 2)}, ValueError, r"kernel_size .* got \(2, 2, 2\)"),
    "stride zero": ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    "stride bool": ({"stride": False}, TypeError, "stride must be an int, got False"),
    "padding over half": ({"padding": 2}, ValueError, "half the kernel: 2 > 3 // 2 = 1"),
    "padding negative": ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    "ceil_mode": ({"ceil_mode": 1}, TypeError, "ceil_mode must be True or False, got 1"),
    "ceil_mode None": ({"ceil_mode": None}, TypeError, "ceil_mode must be True or False, got None"),
    "integers": ({"input": np.zeros((1, 2, 6, 7), int)}, TypeError, "input must be of dtype"),
    "dimensions": ({"input": np.zeros((6, 7))}, ValueError, r"input must have 4 dimensions.*\(6, 7\)"),
    "data_format": ({"data_format": "NCW"}, ValueError, "data_format must be"),
    "algorithm": ({"algorithm": "im2col_gemm"}, ValueError, "unknown pool algorithm 'im2col_gemm'"),
    "out shape": ({"out": np.zeros((1, 2, 2, 3))}, ValueError, r"out must have .*\(1, 2, 2, 2\), got \(1, 2, 2, 3\)"),
    "kernel over input": ({"kernel_size": 8}, ValueError, "kernel size 8"),
}  # fmt: skip


@pytest.mark.parametrize("pool", [fastconv.max_pool2d, fastconv.avg_pool2d])
@pytest.mark.parametrize(("mutation", "error", "message"), POOL_CALL_MUTATIONS.values(), ids=POOL_CALL_MUTATIONS.keys())
def test_mutated_pool_calls_raise(pool, mutation, error, message):
    valid = {"input": np.zeros((1, 2, 6, 7)), "kernel_size": 3}
    assert pool(**valid).shape == (1, 2, 2, 2)
    with pytest.raises(error, match=message):
        pool(**(valid | mutation))


@pytest.mark.parametrize(
    ("mutation", "error", "message"),
    [
        ({"divisor_override": 0}, ValueError, "divisor_override must not be 0"),
        ({"divisor_override": 2.0}, TypeError, "divisor_override must be an int, got 2.0"),
        ({"divisor_override": True}, TypeError, "divisor_override must be an int, got True"),
        ({"count_include_pad": 0}, TypeError, "count_include_pad must be True or False, got 0"),
    ],
)
def test_mutated_averages_raise(mutation, error, message):
    with pytest.raises(error, match=message):
        fastconv.avg_pool2d(np.zeros((1, 2, 6, 7)), 3, **mutation)


TEXTS = {
    "empty": ("", "not a problem's text: ''"),
    "words": ("a convolution", "not a problem's text"),
    "no filters": ("f32_n1c3h8w8_r3s3", "not a problem's text"),
    "filters of a pool": ("max_f32_n1c3h8w8_k4r3s3", "not a problem's text"),
    "unknown part": ("f32_n1c3h8w8_k4r3s3_fast", "cannot read 'fast'"),
    "unread number": ("f32_n1c3h8w8_k4r3s3_stride1xa", "cannot read 'stride1xa'"),
    "pad of one": ("f32_n1c3h8w8_k4r3s3_pad1,1", "cannot read 'pad1,1'"),
    "repeated": ("f32_n1c3h8w8_k4r3s3_g1_g1", "'g1' repeats"),
    "another kind's part": ("f32_n1c3h8w8_k4r3s3_ceil", "'ceil' does not belong"),
    "groups of a pool": ("max_f32_n1c3h8w8_r3s3_g3", "'g3' does not belong"),
    "planes of one": ("f32_n1c3d8h8w8_k4r3s3", "three axes need both"),
    "trailing": ("f32_n1c3h8w8_k4r3s3_", "cannot read ''"),
    "invalid problem": ("f32_n1c3h8w8_k4r9s9", "kernel size 9"),
    "dtype": ("f16_n1c3h8w8_k4r3s3", "not a problem's text"),
    "digits of another script": ("f32_n1c\u0663h8w8_k4r3s3", "not a problem's text"),
    "digits of another script in a field": ("f32_n1c3h8w8_k4r3s3_g\u0661", "cannot read 'g\u0661'"),
    "plus": ("f32_n1c3h8w8_k4r3s3_stride+1x1", r"cannot read 'stride\+1x1'"),
    "space": ("f32_n1c3h8w8_k4r3s3_g 1", "cannot read 'g 1'"),
    "line": ("f32_n1c3h8w8_k4r3s3_g1\n", "cannot read"),
    "digits without end": (f"f32_n1c3h8w8_k4r3s{'9' * 5000}", "not a problem's text"),
    "digits of a field without end": (f"f32_n1c3h8w8_k4r3s3_g{'9' * 5000}", "cannot read"),
    "more than 64 bits": (f"f32_n1c3h8w8_k4r3s{'9' * 500}", r"kernel must be at most 2\*\*62"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS.keys())
def test_mutated_texts_raise(text, message):
    with pytest.raises(InvalidProblem, match=message):
        parse_problem(text)


def test_a_text_is_a_str():
    with pytest.raises(TypeError, match="must be a str, got int"):
        parse_problem(3)
