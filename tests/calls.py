"""One small valid call of every public function that takes arrays, for tests that bend one argument at a time."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv.planner import REGISTRY
from tests.problems import integers

#: What the first parameter of a function that computes something is called.
_OPERANDS = ("input", "grad_output", "input_size", "in1")

NAMES = tuple(
    name
    for name in fastconv.__all__
    if inspect.isfunction(getattr(fastconv, name))
    and next(iter(inspect.signature(getattr(fastconv, name)).parameters), "") in _OPERANDS
    and name != "output_size"
)

SIZE = (6, 5, 7)


def function(name: str) -> Any:
    return getattr(fastconv, name)


def parameters(name: str) -> list[str]:
    return list(inspect.signature(function(name)).parameters)


def algorithms(name: str) -> tuple[str | None, ...]:
    """Every algorithm that a function can be told to take, for any kernel; None alone where it takes none."""
    if "algorithm" not in parameters(name):
        return (None,)
    family = "conv" if name.startswith("conv") else "pool"
    return tuple(entry.name for entry in REGISTRY[family] if not entry.transforms)


#: Every function with every algorithm; an id names both, so that what Numba compiles runs in one process.
RUNS = pytest.mark.parametrize(
    ("name", "algorithm"),
    [pytest.param(name, entry, id=f"{name}-{entry}") for name in NAMES for entry in algorithms(name)],
)


def run(name: str, arguments: dict[str, Any], algorithm: str | None = None) -> tuple[Any, ...]:
    """The results of a call, in a tuple in any case."""
    chosen = {} if algorithm is None else {"algorithm": algorithm}
    results = function(name)(**arguments, **chosen)
    return results if isinstance(results, tuple) else (results,)


def _array(key: str, *shape: int) -> np.ndarray:
    array = integers(("calls", key), shape, "float32", 4)
    array.flags.writeable = False
    return array


def _valid(name: str, batch: int) -> dict[str, Any]:
    base = name.removesuffix("_backward")
    axes = next((int(digit) for digit in base if digit.isdigit()), 2)
    x, kernel = _array("x", batch, 4, *SIZE[:axes]), (3, 2, 3)[:axes]
    if base.startswith("conv_transpose"):
        weight, bias = _array("w", 4, 3, *kernel), _array("b", 6)
        steps = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 1}
        return {"input": x, "weight": weight, "bias": bias, **steps}
    if base.startswith("conv") and base != "convolve2d":
        weight, bias = _array("w", 6, 2, *kernel), _array("b", 6)
        steps = {"stride": 2, "padding": 1, "dilation": 1, "groups": 2}
        plain = {"input": x, "weight": weight, "bias": bias, **steps}
        if base.endswith(("_input", "_weight")):
            grad_output = run(f"conv{axes}d", plain)[0]
            given = {"input_size": x.shape, "weight": weight} if base.endswith("_input") else {
                "input": x, "weight_size": weight.shape
            }  # fmt: skip
            return {**given, "grad_output": grad_output, **steps}
        return plain
    if base.startswith("max_pool"):
        return {"input": x, "kernel_size": 2, "stride": 2, "padding": 1, "dilation": 1}
    if base.startswith("avg_pool"):
        return {"input": x, "kernel_size": 2, "stride": 2, "padding": 1}
    if base.startswith("lp_pool"):
        return {"input": x, "norm_type": 2.0, "kernel_size": 2, "stride": 2}
    if base.startswith("adaptive"):
        return {"input": x, "output_size": 3}
    if base.startswith("max_unpool"):
        pooled, indices = run(f"max_pool{axes}d", {"input": x, "kernel_size": 2, "return_indices": True})
        shape = {"kernel_size": 2, "stride": 2, "padding": 0, "output_size": SIZE[:axes]}
        return {"input": pooled, "indices": indices, **shape}
    if base.startswith("fractional"):
        samples = np.full((batch, 4, 2), 0.5, np.float32)
        return {"input": x, "kernel_size": 2, "output_size": 2, "_random_samples": samples}
    rest: dict[str, dict[str, Any]] = {
        "upsample": {"input": x, "size": 8},
        "unfold": {"input": x, "kernel_size": 2, "dilation": 1, "padding": 1, "stride": 2},
        "fold": {
            "input": _array("columns", batch, 16, 12), "output_size": (6, 5), "kernel_size": 2, "dilation": 1,
            "padding": 1, "stride": 2,
        },
        "pad": {"input": x, "pad": (1, 2, 0, 1)},
        "local_response_norm": {"input": x, "size": 3},
        "correlate2d": {"in1": _array("image", 6, 5), "in2": _array("kernel", 3, 2)},
        "convolve2d": {"in1": _array("image", 6, 5), "in2": _array("kernel", 3, 2)},
    }  # fmt: skip
    return rest[base]


@cache
def _call(name: str, batch: int) -> dict[str, Any]:
    arguments = _valid(name, batch)
    if name.endswith("_backward"):
        output = run(name.removesuffix("_backward"), arguments)[0]
        arguments = {"grad_output": _array("dy", *output.shape), **arguments}
    taken = parameters(name)
    return {key: value for key, value in arguments.items() if key in taken}


def valid_call(name: str, batch: int = 2) -> dict[str, Any]:
    """Arguments by name; the arrays are not writable, since they are shared."""
    return dict(_call(name, batch))


def arrays(arguments: dict[str, Any]) -> dict[str, np.ndarray]:
    return {key: value for key, value in arguments.items() if isinstance(value, np.ndarray)}
