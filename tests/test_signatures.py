# ruff: noqa: E501  one line for each function, as in the contract
"""Names, order, defaults and kinds of the parameters of every public function: the contract, one line for each."""

import inspect
import re

import pytest

import fastconv

CONV = "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, padding_mode='zeros', activation=None, data_format=None, algorithm=None, out=None"
CONV_BACKWARD = "grad_output, input, weight, *, stride=1, padding=0, dilation=1, groups=1, padding_mode='zeros', output_mask=(True, True, True), data_format=None, algorithm=None"
TRANSPOSED = "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, *, data_format=None, algorithm=None, out=None"
TRANSPOSED_BACKWARD = "grad_output, input, weight, *, stride=1, padding=0, output_padding=0, groups=1, dilation=1, output_mask=(True, True, True), data_format=None, algorithm=None"
MAX = "input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False, *, data_format=None, algorithm=None, out=None"
MAX_BACKWARD = "grad_output, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, *, indices=None, data_format=None, algorithm=None"
AVG = "input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None, *, data_format=None, algorithm=None, out=None"
AVG_BACKWARD = "grad_output, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None, *, data_format=None, algorithm=None"
LP = "input, norm_type, kernel_size, stride=None, ceil_mode=False, *, data_format=None, algorithm=None"
UNPOOL = "input, indices, kernel_size, stride=None, padding=0, output_size=None, *, data_format=None"
# None leaves a setting as it is; strict is off unless something turned it on.
SETTINGS = "*, algorithm=None, threads=None, tolerance=None, workspace_limit=None"

#: As in the contract; {n} is 1, 2 and 3.
EXPECTED = {
    "conv{n}d": CONV,
    "conv{n}d_backward": CONV_BACKWARD,
    "conv{n}d_input": "input_size, weight, grad_output, stride=1, padding=0, dilation=1, groups=1",
    "conv{n}d_weight": "input, weight_size, grad_output, stride=1, padding=0, dilation=1, groups=1",
    "conv_transpose{n}d": TRANSPOSED,
    "conv_transpose{n}d_backward": TRANSPOSED_BACKWARD,
    "max_pool{n}d": MAX,
    "max_pool{n}d_backward": MAX_BACKWARD,
    "avg_pool{n}d": AVG,
    "avg_pool{n}d_backward": AVG_BACKWARD,
    "adaptive_avg_pool{n}d": "input, output_size, *, data_format=None",
    "adaptive_avg_pool{n}d_backward": "grad_output, input, output_size, *, data_format=None",
    "adaptive_max_pool{n}d": "input, output_size, return_indices=False, *, data_format=None",
    "adaptive_max_pool{n}d_backward": "grad_output, input, output_size, *, indices=None, data_format=None",
    "lp_pool{n}d": LP,
    "lp_pool{n}d_backward": f"grad_output, {LP}",
    "max_unpool{n}d": UNPOOL,
    "max_unpool{n}d_backward": f"grad_output, {UNPOOL}",
    "fractional_max_pool2d": "input, kernel_size, output_size=None, output_ratio=None, return_indices=False, _random_samples=None, *, generator=None, data_format=None",
    "fractional_max_pool2d_backward": "grad_output, input, kernel_size, output_size=None, output_ratio=None, _random_samples=None, *, indices=None, data_format=None",
    "upsample": "input, size=None, scale_factor=None, mode='nearest', align_corners=None, *, data_format=None",
    "upsample_backward": "grad_output, input, size=None, scale_factor=None, mode='nearest', align_corners=None, *, data_format=None",
    "unfold": "input, kernel_size, dilation=1, padding=0, stride=1",
    "fold": "input, output_size, kernel_size, dilation=1, padding=0, stride=1",
    "pad": "input, pad, mode='constant', value=0",
    "pad_backward": "grad_output, pad, mode='constant'",
    "local_response_norm": "input, size, alpha=0.0001, beta=0.75, k=1.0",
    "local_response_norm_backward": "grad_output, input, size, alpha=0.0001, beta=0.75, k=1.0",
    "correlate2d": "in1, in2, mode='full', boundary='fill', fillvalue=0",
    "convolve2d": "in1, in2, mode='full', boundary='fill', fillvalue=0",
    "output_size": "input_size, kernel_size, stride=1, padding=0, dilation=1, ceil_mode=False, *, exact=False",
    "parse_problem": "text",
    "use": f"{SETTINGS}, strict=None",
    "configure": f"{SETTINGS}, strict=None",
    "set_num_threads": "n",
    "get_num_threads": "",
    "algorithms": "family='conv'",
    "plan_conv2d": "input_shape, weight_shape, *, stride=1, padding=0, dilation=1, groups=1, dtype='float32', direction='forward'",
    "prepare_conv2d": "weight, bias=None, *, input_shape, stride=1, padding=0, dilation=1, groups=1, padding_mode='zeros', activation=None, data_format=None, algorithm=None",
    "explain": "problem, weight_shape=None, *, stride=1, padding=0, dilation=1, groups=1, dtype='float32', direction='forward'",
    "tune": "problems",
    "machine": "",
    "empty_cache": "",
    "memory_stats": "",
    "show_config": "",
}  # fmt: skip
NAMED = {name.format(n=n): text for name, text in EXPECTED.items() for n in (1, 2, 3)}


def signature(function):
    """Parameters as the contract writes them, without types."""
    parameters = inspect.signature(function).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(bare)).removeprefix("(").removesuffix(")")


@pytest.mark.parametrize("name", NAMED)
def test_signature(name):
    assert signature(getattr(fastconv, name)) == NAMED[name]


def test_every_public_function_is_here():
    assert {name for name in fastconv.__all__ if name[0].islower()} == set(NAMED)


def test_a_wrong_signature_is_noticed():
    def conv2d(input, weight, bias=None, stride=2, *, out=None): ...

    assert signature(conv2d) == "input, weight, bias=None, stride=2, *, out=None"
    assert signature(conv2d) != NAMED["conv2d"]


@pytest.mark.peers
@pytest.mark.parametrize(
    "name", [name for name in NAMED if re.match("(conv|max|avg|adaptive|lp|frac|upsample|unfold|fold)", name)]
)
def test_order_and_defaults_as_torch(name):
    """What torch spells out in Python; positional parameters come in its order, with its defaults."""
    functional = pytest.importorskip("torch").nn.functional
    # Where a flag decides what is returned, the public name takes anything and the private one spells it out.
    peer = getattr(functional, f"_{name}", getattr(functional, name, None))
    if peer is None or not inspect.isfunction(peer):
        return  # not torch's, or written in C++
    torchs = [p for p in inspect.signature(peer).parameters.values() if p.name != "recompute_scale_factor"]
    ours = [
        p for p in inspect.signature(getattr(fastconv, name)).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in torchs]
