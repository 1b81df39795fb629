"""Every input that torch's own operator database has for a shared operator, for every algorithm.

Beside torch (marker peers) with torch's numbers; and without it from tests/data, against the definitions.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastconv
from fastconv.planner import REGISTRY
from tests import torch_cases
from tests.definitions import Expected, define
from tests.problems import generator
from tests.torch_cases import OPERATORS, Case, Live

DTYPES = ("float32", "float64")
#: Compiled in the process that runs it: one process runs whatever names it (conftest.py).
COMPILED = "numba_direct"


def algorithms(operator: str) -> list[str | None]:
    """Names that an operator takes for any kernel; None where it has none."""
    if "algorithm" not in inspect.signature(getattr(fastconv, operator)).parameters:
        return [None]
    family = "conv" if operator.startswith("conv") else "pool"
    return [entry.name for entry in REGISTRY[family] if not entry.transforms]


#: (operator, its algorithms) with those compiled anew apart.
RUNS = [
    pytest.param(operator, chosen, id=f"{operator}-{COMPILED}" if chosen == [COMPILED] else operator)
    for operator in OPERATORS
    for chosen in ([name for name in algorithms(operator) if name != COMPILED], [COMPILED])
    if set(chosen) <= set(algorithms(operator))
]


# -- What is computed otherwise than by torch, on purpose ---------------------------------------------

_PER_AXIS = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")


def _short_tuple(operator: str, given: dict[str, Any]) -> bool:
    shortest = min((len(given[name]) for name in _PER_AXIS if isinstance(given.get(name), tuple)), default=3)
    return shortest < (int(operator[-2]) if operator[-2:] in ("1d", "2d", "3d") else 1)


def _samples_outside(operator: str, given: dict[str, Any]) -> bool:
    samples = given.get("_random_samples", np.zeros(1))
    return not ((samples >= 0) & (samples < 1)).all()


#: What torch computes and is refused here, always as an InvalidProblem.
REFUSED: dict[str, Callable[[str, dict[str, Any]], bool]] = {
    "a tuple has one entry per axis": _short_tuple,
    "random samples lie in [0, 1)": _samples_outside,
}
#: What torch refuses and is computed here.
COMPUTED: dict[str, Callable[[str, dict[str, Any]], bool]] = {
    'padding "same" goes with a stride': lambda operator, given: given.get("padding") == "same" and "stride" in given,
}
#: Arguments of torch's that don't exist here, and the values with which they mean nothing.
NOT_OFFERED = {"antialias": (False,), "recompute_scale_factor": (None, False)}


def reason(rules: dict[str, Callable[[str, dict[str, Any]], bool]], operator: str, given: dict[str, Any]) -> str | None:
    return next((why for why, applies in rules.items() if applies(operator, given)), None)


# -- One call ----------------------------------------------------------------------------------------


def forward(operator: str, given: dict[str, Any], algorithm: str | None) -> tuple[np.ndarray, ...]:
    chosen = {} if algorithm is None else {"algorithm": algorithm}
    found = getattr(fastconv, operator)(**given, **chosen)
    return found if isinstance(found, tuple) else (found,)


def backward(operator: str, dy: np.ndarray, given: dict[str, Any], algorithm: str | None) -> tuple[np.ndarray, ...]:
    given = {name: value for name, value in given.items() if name not in ("return_indices", "bias", "value")}
    if operator == "unfold":
        image = given.pop("input")
        found = fastconv.fold(dy, image.shape[-2:], **given)
    else:
        if operator == "pad":
            given.pop("input")
        if algorithm is not None:
            given["algorithm"] = algorithm
        found = getattr(fastconv, f"{operator}_backward")(dy, **given)
    return found if isinstance(found, tuple) else (found,)


class Reference(NamedTuple):
    """What a call should give, and the gradients that belong to an upstream gradient of its first output."""

    outputs: tuple[Expected, ...]
    gradients: tuple[Expected, ...]


def upstream(case: Case, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.asarray(generator("upstream", str(case)).standard_normal(shape)).astype(dtype)


def by_definition(case: Case, given: dict[str, Any], dtype: str) -> Reference:
    result = define(case.operator, given)
    return Reference(result.outputs, result.gradients(upstream(case, result.outputs[0].value.shape, dtype)))


def examine(
    case: Case, given: dict[str, Any], dtype: str, reference: Callable[..., Reference], chosen: list[str | None]
) -> tuple[str, str]:
    """Run a case with these algorithms: how it ended, and why; an AssertionError if otherwise than it should."""
    operator = case.operator
    for name, idle in NOT_OFFERED.items():
        if name in given and given.pop(name) not in idle:
            return "skipped", f"{name} is not offered"
    why = reason(COMPUTED if case.kind == "error" else REFUSED, operator, given)
    if (case.kind == "error") != (why is not None):
        for algorithm in chosen:
            with pytest.raises((TypeError, fastconv.InvalidProblem)) as caught:
                forward(operator, given, algorithm)
            assert case.kind == "error" or caught.type is fastconv.InvalidProblem, str(case)
            assert case.raises in (None, caught.type.__name__), str(case)
            assert str(caught.value), str(case)
        return ("passed", "") if case.kind == "error" else ("refused", str(why))
    if case.kind == "error":
        reference, dtype = by_definition, given["input"].dtype.name
    expected = reference(case, given, dtype)
    dy = upstream(case, expected.outputs[0].value.shape, dtype)
    for algorithm in chosen:
        what = f"{algorithm} {dtype} {case}"
        parts = zip(forward(operator, given, algorithm), expected.outputs, strict=True)
        for i, (actual, part) in enumerate(parts):
            assert actual.dtype == ("int64" if i else dtype), what  # indices come second
            part.check(actual, what)
        found = backward(operator, dy, given, algorithm)
        for i, (actual, part) in enumerate(zip(found, expected.gradients, strict=True)):
            assert actual.dtype == dtype, what
            part.check(actual, f"gradient {i} of {what}")
    return ("computed", str(why)) if case.kind == "error" else ("passed", "")


# -- Without torch -----------------------------------------------------------------------------------


#: Cases of an operator that COMPILED runs in make test: waking its threads takes longer than most of them.
SOME = 8


def compare(operator: str, chosen: list[str | None], cases: list[Case]) -> tuple[str, Any]:
    """Run frozen cases; a property for the account of them."""
    account: Counter[tuple[str, str]] = Counter()
    for case in cases:
        for dtype in DTYPES:
            if case.kind != "error" or dtype == DTYPES[0]:  # an error has dtypes of its own
                account[examine(case, case.call(dtype), dtype, by_definition, chosen)] += 1
    assert account["passed", ""] >= 3
    return as_property("frozen", operator, chosen, account)


@pytest.mark.parametrize(("operator", "chosen"), RUNS)
def test_agrees_with_the_definition(operator, chosen, record_property):
    cases = torch_cases.frozen()[operator]
    if chosen == [COMPILED]:
        cases = cases[:: -(-len(cases) // SOME)]
    record_property(*compare(operator, chosen, cases))


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "chosen"), [run for run in RUNS if run.values[1] == [COMPILED]])
def test_agrees_with_the_definition_of_all(operator, chosen, record_property):
    record_property(*compare(operator, chosen, torch_cases.frozen()[operator]))


def as_property(
    where: str, operator: str, chosen: list[str | None], account: Counter[tuple[str, str]]
) -> tuple[str, Any]:
    """For conftest.py, which prints it."""
    names = ", ".join(name for name in chosen if name)
    return f"torch's cases, {where}", (operator, names, [(*k, n) for k, n in account.items()])


def test_every_operator_is_there():
    """Whatever has a gradient has cases of torch's, or a reason for having none."""
    public = {name.removesuffix("_backward") for name in fastconv.__all__ if name.endswith("_backward")}
    assert public | {"unfold"} == set(OPERATORS)
    assert set(torch_cases.frozen()) == set(OPERATORS)
    assert torch_cases.FROZEN.stat().st_size < 300_000


def test_a_wrong_result_is_noticed(monkeypatch):
    """The largest element may be wrong by a unit in its last place; none, nor one of a gradient, by a millionth."""
    case = torch_cases.frozen()["conv2d"][0]
    given = case.call("float64")

    def run() -> None:
        examine(case, given, "float64", by_definition, ["cython_tiled"])

    run()
    outputs = (fastconv.conv2d(**given),)
    gradients = backward("conv2d", upstream(case, outputs[0].shape, "float64"), given, None)
    for name, parts, i in (("conv2d", outputs, 0), *(("conv2d_backward", gradients, i) for i in range(len(gradients)))):
        right = getattr(fastconv, name)
        for wrong, message in spoilt(parts[i]):
            found = (*parts[:i], wrong, *parts[i + 1 :])
            monkeypatch.setattr(fastconv, name, lambda *_, found=found, **__: found)
            with pytest.raises(AssertionError, match=message) if message else nullcontext():
                run()
        monkeypatch.setattr(fastconv, name, right)


def spoilt(right: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    """Results that are wrong, and what is said of them; the first is as right as any."""
    at = int(np.abs(right).argmax())
    nearly = right.copy()
    nearly.flat[at] = np.nextafter(right.flat[at], 2 * right.flat[at])
    yield nearly, ""
    for at in range(right.size):
        wrong = right.copy()
        wrong.flat[at] *= 1 + 1e-6
        yield wrong, "1 of .* elements are wrong"
    yield np.where(right == right.max(), np.nan, right), "NaN or infinity elsewhere"
    yield right[..., None], "instead of"
    yield right.astype(np.float32), "float64"


# -- Beside torch ------------------------------------------------------------------------------------

#: Operators that find positions in the input's precision: torch computes them in it too.
OWN_PRECISION = ("upsample", "fractional_max_pool2d")


def of_torch(live: Live, dy_of: Callable[[tuple[int, ...]], np.ndarray], dtype: str):
    """torch's outputs and gradients, computed in float64 wherever that finds the same positions."""
    import torch

    real = getattr(torch, dtype if live.case.operator in OWN_PRECISION else "float64")
    leaves = []

    def leaf(value, name=""):
        if not isinstance(value, (np.ndarray, torch.Tensor)):
            return value
        tensor = torch.as_tensor(value)
        if not tensor.is_floating_point() or name == "_random_samples":
            return tensor
        leaves.append(tensor.detach().to(real).clone().requires_grad_())
        return leaves[-1]

    function, first, args, kwargs = live.ask
    y = function(leaf(first), *map(leaf, args), **{name: leaf(value, name) for name, value in kwargs.items()})
    outputs = y if isinstance(y, tuple) else (y,)
    outputs[0].backward(torch.as_tensor(dy_of(tuple(outputs[0].shape))).to(real))
    return tuple(part.detach().numpy() for part in outputs), tuple(
        None if tensor.grad is None else tensor.grad.numpy() for tensor in leaves
    )


#: Where torch's result is known to be another, and what of it is compared.
OTHERWISE = {
    "lp_pool": "what no window sees has gradient 0 here; torch multiplies it by a slope, which may be NaN",
}


def _of_torch_shown(case: Case, part: Expected, value: np.ndarray) -> np.ndarray:
    """torch's value but for what is in OTHERWISE."""
    if case.operator.startswith("lp_pool"):
        value = np.where((part.magnitude == 0) & np.isnan(value), 0, value)
    return value


def beside_torch(live: Live) -> Callable[..., Reference]:
    """torch's values with the bounds of the definition, against which they are checked too."""

    def reference(case: Case, given: dict[str, Any], dtype: str) -> Reference:
        defined = by_definition(case, given, dtype)
        outputs, gradients = of_torch(live, lambda shape: upstream(case, shape, dtype), dtype)
        both = 2 if case.operator in OWN_PRECISION else 1  # torch's error and ours

        def joined(parts: tuple[Expected, ...], values: tuple[np.ndarray, ...]) -> tuple[Expected, ...]:
            found = list(parts)
            for i, (part, value) in enumerate(zip(parts, values, strict=False)):  # of no bias torch has no gradient
                error = part.bound() if part.terms else None
                moved = 0 if part.positions is None else part.positions
                shown = _of_torch_shown(case, part, value)
                part._replace(error=None if error is None else error + moved).check(shown, f"torch: {case}")
                found[i] = part._replace(value=shown, error=None if error is None else both * error + moved)
            return tuple(found)

        return Reference(joined(defined.outputs, outputs), joined(defined.gradients, gradients))

    return reference


@pytest.fixture
def torch_in_one_thread():
    """These inputs are so small that torch would wait for its threads most of the time."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.peers
@pytest.mark.usefixtures("torch_in_one_thread")
@pytest.mark.filterwarnings("ignore:`nn.functional.upsample_.*` is deprecated:UserWarning")
@pytest.mark.filterwarnings("ignore:Using padding='same' with even:UserWarning")
@pytest.mark.parametrize(("operator", "chosen"), RUNS)
def test_agrees_with_torch(operator, chosen, record_property):
    pytest.importorskip("torch.testing._internal.common_methods_invocations")
    account: Counter[tuple[str, str]] = Counter()
    for dtype in DTYPES:
        for live in torch_cases.collect(operator, dtype):
            if live.case.kind != "error" or dtype == DTYPES[0]:
                account[examine(live.case, live.arguments, dtype, beside_torch(live), chosen)] += 1
    assert account["passed", ""] >= 3
    record_property(*as_property("beside torch", operator, chosen, account))


@pytest.mark.peers
def test_frozen_cases_are_torchs():
    pytest.importorskip("torch.testing._internal.common_methods_invocations")
    assert torch_cases.FROZEN.read_text() == torch_cases.as_text()
