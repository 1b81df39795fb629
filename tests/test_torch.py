"""The peer: gradients and padding modes beside torch, and the README's tour with torch's numbers.

The inputs of torch's own operator database are in test_torch_cases.py.
"""

import math
import re

import numpy as np
import pytest

import fastconv
from fastconv.algorithm import unit_roundoff
from fastconv.planner import REGISTRY
from tests.checks import DIRECT, assert_close
from tests.copies import ROOT
from tests.problems import generator

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:Using padding='same' with even:UserWarning")]

CONV = [entry.name for entry in DIRECT]
POOL = [entry.name for entry in REGISTRY["pool"]]


def single(terms):
    """Errors of sums of so many products in float32, ours and torch's: each at most 1.1 of the expectation, as measured
    for it (algorithm.py).
    """
    return 2 * 1.1 * unit_roundoff("float32") * (1 + 0.6 * math.sqrt(terms))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


GRADIENTS = (
    ((2, 6, 11, 12), (8, 3, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ((1, 4, 9, 10), (5, 4, 2, 3), {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}),
    ((3, 8, 7, 7), (16, 1, 3, 3), {"padding": "same", "groups": 8}),
    ((2, 5, 6, 8), (7, 5, 1, 1), {}),
    ((9, 8, 7), (6, 9, 3, 3), {"padding": 1}),
)


@pytest.mark.parametrize("algorithm", CONV)
@pytest.mark.parametrize(("shape", "filters", "parameters"), GRADIENTS)
def test_gradients_of_convolution(torch, algorithm, shape, filters, parameters):
    rng = generator("torch", shape, filters)
    x, w = rng.standard_normal(shape), rng.standard_normal(filters)
    b = rng.standard_normal(filters[0])
    tensors = [torch.tensor(array, requires_grad=True) for array in (x, w, b)]
    y = torch.nn.functional.conv2d(*tensors, **parameters)
    dy = rng.standard_normal(tuple(y.shape))
    y.backward(torch.tensor(dy))
    assert_close(fastconv.conv2d(x, w, b, algorithm=algorithm, **parameters), y.detach().numpy(), 1e-13)
    found = fastconv.conv2d_backward(dy, x, w, algorithm=algorithm, **parameters)
    for actual, tensor in zip(found, tensors, strict=True):
        assert_close(actual, tensor.grad.numpy(), 1e-13)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(torch, mode):
    rng = generator("modes", mode)
    x, w = rng.standard_normal((2, 3, 7, 8)), rng.standard_normal((4, 3, 3, 3))
    xt, wt = (torch.tensor(array, requires_grad=True) for array in (x, w))
    layer = torch.nn.Conv2d(3, 4, 3, stride=2, padding=(2, 1), padding_mode=mode, bias=False, dtype=torch.float64)
    layer.weight = torch.nn.Parameter(wt.detach().clone())
    y = layer(xt)
    dy = rng.standard_normal(tuple(y.shape))
    y.backward(torch.tensor(dy))
    call = {"stride": 2, "padding": (2, 1), "padding_mode": mode}
    assert_close(fastconv.conv2d(x, w, **call), y.detach().numpy(), 1e-13)
    dx, dw, _ = fastconv.conv2d_backward(dy, x, w, **call)
    assert_close(dx, xt.grad.numpy(), 1e-13)
    assert_close(dw, layer.weight.grad.numpy(), 1e-13)


def test_same_at_stride_one_is_torchs(torch):
    for kernel in (1, 3, 5):
        for dilation in (1, 2, 3):
            x = generator("same", kernel, dilation).standard_normal((1, 1, 11, 12))
            w = generator("w", kernel).standard_normal((1, 1, kernel, kernel))
            expected = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w), padding="same", dilation=dilation)
            assert_close(fastconv.conv2d(x, w, padding="same", dilation=dilation), expected.numpy(), 1e-13)


@pytest.mark.parametrize("algorithm", POOL)
def test_gradients_of_pools(torch, algorithm):
    x = generator("pools").standard_normal((2, 5, 11, 13))
    for arguments in ((3, 2, 1), ((2, 3), (3, 2), (1, 0)), (5, 1, 2), (2,)):
        for ceil_mode in (False, True):
            xt = torch.tensor(x, requires_grad=True)
            y = torch.nn.functional.max_pool2d(xt, *arguments, ceil_mode=ceil_mode)
            dy = generator("dy", arguments).standard_normal(tuple(y.shape))
            y.backward(torch.tensor(dy))
            dx = fastconv.max_pool2d_backward(dy, x, *arguments, ceil_mode=ceil_mode, algorithm=algorithm)
            assert_close(dx, xt.grad.numpy(), 1e-14)
            for counted in (False, True):
                xt = torch.tensor(x, requires_grad=True)
                call = {"ceil_mode": ceil_mode, "count_include_pad": counted}
                y = torch.nn.functional.avg_pool2d(xt, *arguments, **call)
                y.backward(torch.tensor(dy))
                found = fastconv.avg_pool2d(x, *arguments, **call, algorithm=algorithm)
                assert_close(found, y.detach().numpy(), 1e-14)
                dx = fastconv.avg_pool2d_backward(dy, x, *arguments, **call, algorithm=algorithm)
                assert_close(dx, xt.grad.numpy(), 1e-14)


def test_functions_of_torch_nn_grad(torch):
    rng = generator("grad")
    x, w = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((6, 2, 3, 3))
    dy = rng.standard_normal((2, 6, 5, 4))
    xt, wt, dyt = map(torch.tensor, (x, w, dy))
    call = (2, 1, 1, 2)
    expected = torch.nn.grad.conv2d_input(x.shape, wt, dyt, *call).numpy()
    assert_close(fastconv.conv2d_input(x.shape, w, dy, *call), expected, 1e-13)
    expected = torch.nn.grad.conv2d_weight(xt, w.shape, dyt, *call).numpy()
    assert_close(fastconv.conv2d_weight(x, w.shape, dy, *call), expected, 1e-13)


def test_tensors_are_accepted_as_they_are(torch):
    x, w = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)
    y = fastconv.conv2d(x, w, padding=1)
    assert type(y) is np.ndarray
    assert_close(y, torch.nn.functional.conv2d(x, w, padding=1).numpy(), single(27))
    with pytest.raises((TypeError, ValueError)):
        fastconv.conv2d(x.to(torch.int32), w)


def test_local_response_norm_and_its_gradient(torch):
    x = generator("lrn").standard_normal((2, 9, 4, 5))
    dy = generator("lrn dy").standard_normal(x.shape)
    for size in (1, 2, 5, 12):
        xt = torch.tensor(x, requires_grad=True)
        y = torch.nn.functional.local_response_norm(xt, size, 1e-2, 0.75, 2.0)
        y.backward(torch.tensor(dy))
        assert_close(fastconv.local_response_norm(x, size, 1e-2, 0.75, 2.0), y.detach().numpy(), 1e-14)
        found = fastconv.local_response_norm_backward(dy, x, size, 1e-2, 0.75, 2.0)
        assert_close(found, xt.grad.numpy(), 1e-13)


def test_the_tour_of_the_readme_gives_torchs_numbers(torch, capsys):
    """The code of the README as it stands, beside the same steps in torch."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    F = torch.nn.functional
    images, filters, bias = (torch.tensor(names[name], requires_grad=True) for name in ("images", "filters", "bias"))
    maps = F.conv2d(images, filters, bias, padding=1)
    pooled, where = F.max_pool2d(maps, 2, return_indices=True)
    pooled.backward(torch.ones_like(pooled))
    window = filters[0].numel()
    assert_close(names["maps"], maps.detach().numpy(), single(window + 1))
    assert_close(names["pooled"], pooled.detach().numpy(), single(window + 1))
    assert (names["where"] == where.numpy()).mean() > 0.999, "rounding may make another of two near-equal maxima win"
    positions = maps.numel() // maps.shape[1]
    for name, tensor, terms in (
        ("d_images", images, filters[:, 0].numel()),
        ("d_filters", filters, positions),
        ("d_bias", bias, positions),
    ):
        assert_close(names[name], tensor.grad.numpy(), single(terms), name)
    assert_close(names["same"], F.conv2d(images[:1, :, :9, :9], filters).detach().numpy(), single(window))
    assert "naive" in capsys.readouterr().out
